//! The Workstation's side: it starts every handshake and every rekey, and it alone finds out that a
//! session is dead.
//!
//! `cur`, `prev` and the handshake `H` are separate: whatever happens to a handshake, the session in
//! use stays as it is until a new one is proven by a frame that opens under it.

mod attempt;
mod mtu;
mod reset;
mod status;

pub use status::{Failure, Phase, RollbackSign, Status, Traffic};

use super::clock::Clock;
use super::kdf::{KnockKeys, knock_keys, noise_psk};
use super::liveness::{Liveness, Verdict};
use super::message::{self, Inner};
use super::model::{Flaw, planted};
use super::random::Randomness;
use super::slots::Slots;
use super::{Action, Mac, Path};
use dataplane::PortId;
use dataplane::keys::{Cipher, Protection};
use dataplane::lifetime::Lifetime;
use std::collections::VecDeque;
use std::time::Duration;
use wire::header::kind;
use zeroize::Zeroizing;

use attempt::{HELLO_FIRST, Handshake, PROVE_EVERY, REKEY_WAITS, Session};
use mtu::PathMtu;
use reset::remember;

const PROVE_PINGS: u8 = 8;
const PREV_FOR: Duration = Duration::from_secs(10);
const ROLLBACK_APART: Duration = Duration::from_secs(10);
/// This side has one session of each kind and a few being erased.
const SLOTS: u16 = 32;

/// What a Workstation is started with.
pub struct WorkstationConfig {
    /// The static private key.
    pub static_private: Zeroizing<[u8; 32]>,
    /// The Gateway's static public key.
    pub gateway_public: [u8; 32],
    /// The PSK.
    pub psk: Zeroizing<[u8; 32]>,
    /// The key id.
    pub key_id: u32,
    /// The port.
    pub port: PortId,
    /// Where a Hello goes: on `ether` to everybody, on `udp` to the Gateway's address.
    pub gateway: Path,
    /// Its MAC address on `ether`; zero on `udp`.
    pub mac: Mac,
    /// The largest inner packet it carries ([`super::inner_mtu`]).
    pub mtu: u16,
    /// Whether this is a virtual machine that cannot see its own rollback.
    pub virtualised: bool,
    /// The ciphers it offers. No other is accepted, so a minimum is what is left out.
    pub ciphers: Vec<Cipher>,
    /// The protections it offers. No other is accepted: `authenticate` is in it only by consent.
    pub protections: Vec<Protection>,
    /// The seed of its random generator.
    pub seed: Zeroizing<[u8; 32]>,
}

struct Erasing {
    index: u32,
    was_new: bool,
}

/// The machine.
pub struct Workstation {
    static_private: Zeroizing<[u8; 32]>,
    gateway_public: [u8; 32],
    noise_psk: Zeroizing<[u8; 32]>,
    knock: KnockKeys,
    key_id: u32,
    port: PortId,
    gateway: Path,
    mac: Mac,
    mtu: u16,
    /// Over networks: how much of it passes.
    path: PathMtu,
    /// The most that the Gateway can carry, where it has named less than it was offered.
    gateway_mtu: u16,
    virtualised: bool,
    ciphers: Vec<Cipher>,
    protections: Vec<Protection>,
    random: Randomness,
    slots: Slots,
    clock: Clock,
    lifetime: Lifetime,
    cur: Option<Session>,
    prev: Option<(u32, Duration)>,
    handshake: Handshake,
    erasing: Vec<Erasing>,
    live: Liveness,
    /// A Reset to act on: its boot id, and when.
    reset: Option<([u8; 8], Duration)>,
    reset_last: Option<Duration>,
    /// Boot ids of Resets that the handshake under way was started, or hurried, by.
    suspects: VecDeque<[u8; 8]>,
    stale: VecDeque<[u8; 8]>,
    rollback_last: Option<Duration>,
    last_handshake: Option<Duration>,
    handshakes: (u64, u64),
    failures: u64,
    last_failure: Option<Failure>,
    unexpected: u64,
    actions: Vec<Action>,
}

impl Workstation {
    /// A Workstation that has not started.
    pub fn new(config: WorkstationConfig, now: Duration) -> Self {
        let clock = Clock::new(now);
        Self {
            noise_psk: noise_psk(&config.psk),
            knock: knock_keys(&config.psk),
            static_private: config.static_private,
            gateway_public: config.gateway_public,
            key_id: config.key_id,
            port: config.port,
            gateway: config.gateway,
            mac: config.mac,
            mtu: config.mtu,
            path: PathMtu::new(!matches!(config.gateway, Path::Ether(_))),
            gateway_mtu: u16::MAX,
            virtualised: config.virtualised,
            ciphers: config.ciphers,
            protections: config.protections,
            random: Randomness::new(*config.seed),
            slots: Slots::new(0..SLOTS),
            cur: None,
            prev: None,
            handshake: Handshake::Stopped,
            erasing: Vec::new(),
            live: Liveness::new(clock.now()),
            clock,
            lifetime: Lifetime::default(),
            reset: None,
            reset_last: None,
            suspects: VecDeque::new(),
            stale: VecDeque::new(),
            rollback_last: None,
            last_handshake: None,
            handshakes: (0, 0),
            failures: 0,
            last_failure: None,
            unexpected: 0,
            actions: Vec::new(),
        }
    }

    /// Has sessions be replaced, and end, earlier.
    pub fn set_lifetime(&mut self, lifetime: Lifetime) {
        self.lifetime = lifetime;
    }

    /// At this age a session is erased.
    fn reject_after(&self) -> Duration {
        Duration::from_nanos(self.lifetime.reject_after())
    }

    /// The port of the handshake under way, or of the session.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// PINGs on the session that wait for their PONG.
    pub fn unanswered(&self) -> usize {
        self.live.unanswered()
    }

    /// Mixes fresh entropy into the random generator. Call it before each event.
    pub fn mix(&mut self, entropy: &[u8]) {
        self.random.mix(entropy);
    }

    /// Starts. It never gives up from here on.
    pub fn start(&mut self, now: Duration) {
        let now = self.clock.advance(now);
        if matches!(self.handshake, Handshake::Stopped) {
            self.hello(now);
        }
    }

    /// A handshake frame arrived from `source`; `frame` begins with the Portcullis header.
    pub fn frame(&mut self, now: Duration, source: impl Into<Path>, frame: &[u8]) {
        self.frame_by(now, self.port, source, frame);
    }

    /// The same, where Hellos leave by several ports: the one that a Challenge first comes back by is the
    /// handshake's, and its session's.
    pub fn frame_by(&mut self, now: Duration, port: PortId, source: impl Into<Path>, frame: &[u8]) {
        let source = source.into();
        let now = self.clock.advance(now);
        if matches!(self.handshake, Handshake::Stopped) {
            return;
        }
        let parsed = message::parse(frame).filter(|(header, payload)| {
            header.index == self.key_id
                && source.leads_to_station()
                && message::tag_is_good(header, self.knock.g2w, payload)
        });
        let handled = match parsed {
            Some((header, payload)) => match header.kind {
                kind::CHALLENGE => self.challenge(now, port, &header, payload),
                kind::RESPONSE => self.response(now, &header, payload),
                kind::RESET if self.is_ether() => self.reset(now, payload),
                _ => None,
            },
            None => None,
        };
        if handled.is_none() {
            self.unexpected += 1;
        }
    }

    /// A control message that was opened under the session with our index `index`.
    pub fn inner(&mut self, now: Duration, index: u32, message: &[u8]) {
        let now = self.clock.advance(now);
        match Inner::decode(message) {
            Some(Inner::Pong(value)) if self.path.pong(now, &value) => self.take_path_mtu(now),
            Some(Inner::Pong(value)) => {
                if self.cur.as_ref().is_some_and(|cur| cur.index == index) {
                    self.live.pong(now, &value);
                }
            }
            Some(Inner::RekeyResp(nonce, noise)) => {
                if self.rekey_response(now, index, nonce, &noise).is_none() {
                    self.unexpected += 1;
                }
            }
            _ => self.unexpected += 1,
        }
    }

    /// The worker opened a first frame under the new session `index` and has made it current.
    pub fn confirmed(&mut self, now: Duration, index: u32) {
        let now = self.clock.advance(now);
        match std::mem::replace(&mut self.handshake, Handshake::Idle) {
            Handshake::Proving(proving) if proving.session.index == index => {
                self.promote(now, proving.session);
            }
            other => {
                self.handshake = other;
                self.crossed(now, index);
            }
        }
        self.settle(now);
    }

    /// A confirmation that crossed the erasure of the same session: in the worker the session
    /// before it has become the previous one.
    fn crossed(&mut self, now: Duration, index: u32) {
        let crossed = self
            .erasing
            .iter_mut()
            .find(|erasing| erasing.index == index && erasing.was_new);
        if let Some(erasing) = crossed {
            erasing.was_new = false;
            self.erase_prev();
            if let Some(old) = self.cur.take() {
                self.prev = Some((old.index, now + PREV_FOR));
            }
        }
    }

    fn promote(&mut self, now: Duration, session: Session) {
        self.erase_prev();
        if session.from_hello {
            self.handshakes.0 += 1;
            // Whatever said that another start of the Gateway is the running one was wrong.
            for boot_id in std::mem::take(&mut self.suspects) {
                if boot_id != session.boot_id {
                    remember(&mut self.stale, boot_id);
                }
            }
            if let Some(old) = &self.cur
                && old.boot_id != session.boot_id
            {
                remember(&mut self.stale, old.boot_id);
            }
        } else {
            self.handshakes.1 += 1;
        }
        let from_hello = session.from_hello;
        if let Some(old) = self.cur.replace(session) {
            self.prev = Some((old.index, now + PREV_FOR));
        }
        if from_hello {
            self.search_path(now);
        }
        self.live.restart(now);
        self.last_handshake = Some(now);
        self.last_failure = None;
    }

    /// Over networks the session's frames may take another path from now on.
    pub fn path_changed(&mut self, now: Duration) {
        let now = self.clock.advance(now);
        self.search_path(now);
    }

    fn search_path(&mut self, now: Duration) {
        if !self.is_ether() && self.cur.is_some() {
            self.path.begin(now, self.mtu.min(self.gateway_mtu));
            self.take_path_mtu(now);
        }
    }

    /// Uses what the path is known to carry. The Gateway hears of it in a rekey.
    fn take_path_mtu(&mut self, now: Duration) {
        let mtu = self.path.of(self.mtu.min(self.gateway_mtu));
        let Some(cur) = self.cur.as_mut().filter(|cur| cur.parameters.mtu != mtu) else {
            return;
        };
        cur.rekey_at = cur.rekey_at.min(now);
        // More is carried by the session that comes of the rekey.
        if mtu < cur.parameters.mtu {
            cur.parameters.mtu = mtu;
            let parameters = Box::new(cur.parameters.clone());
            self.actions.push(Action::Configure(parameters));
        }
    }

    /// The port's carrier changed.
    pub fn carrier(&mut self, now: Duration, up: bool) {
        let now = self.clock.advance(now);
        if !up {
            return;
        }
        if let Handshake::Hello(hello) = &mut self.handshake {
            hello.interval = HELLO_FIRST;
            hello.next = now;
        }
        if self.cur.is_some() {
            self.live.doubt(now);
        }
        self.settle(now);
    }

    /// Tells what the worker has sent and received. Call it a few times a second, and before
    /// [`Workstation::tick`].
    pub fn traffic(&mut self, now: Duration, traffic: Traffic) {
        let now = self.clock.advance(now);
        self.live.traffic(now, traffic.sent, traffic.received);
    }

    /// The machine may have been put back to a snapshot: all keys are dropped and a handshake
    /// begins, with `entropy` (fresh, from outside the machine's memory) mixed in first. False where
    /// nothing was done, because it is but a hint soon after another sign.
    pub fn rollback_suspected(
        &mut self,
        now: Duration,
        sign: RollbackSign,
        entropy: &[u8],
    ) -> bool {
        let now = self.clock.advance(now);
        self.random.mix(entropy);
        let recent = self
            .rollback_last
            .is_some_and(|last| now.saturating_sub(last) < ROLLBACK_APART);
        if matches!(self.handshake, Handshake::Stopped) || (sign == RollbackSign::Hint && recent) {
            return false;
        }
        self.rollback_last = Some(now);
        self.abandon();
        self.erase_cur();
        self.erase_prev();
        self.hello(now);
        true
    }

    /// The port has another MAC address: sessions are pinned to the old one.
    pub fn mac_changed(&mut self, now: Duration, mac: Mac) {
        let now = self.clock.advance(now);
        if mac == self.mac {
            return;
        }
        self.mac = mac;
        if !matches!(self.handshake, Handshake::Stopped) {
            self.hello(now);
        }
    }

    /// The port carries packets of another size. The Gateway hears of it in a handshake, so a rekey
    /// begins; over networks as soon as it is known what passes.
    pub fn mtu_changed(&mut self, now: Duration, mtu: u16) {
        let now = self.clock.advance(now);
        if mtu == self.mtu {
            return;
        }
        self.mtu = mtu;
        if self.is_ether()
            && let Some(cur) = &mut self.cur
        {
            cur.rekey_at = cur.rekey_at.min(now);
        }
        self.search_path(now);
        if !matches!(self.handshake, Handshake::Stopped) {
            self.settle(now);
        }
    }

    /// Seven eighths of a limit of the current session are used, in either direction.
    pub fn limit_near(&mut self, now: Duration, index: u32) {
        let now = self.clock.advance(now);
        if let Some(cur) = self.cur.as_mut().filter(|cur| cur.index == index) {
            cur.rekey_at = cur.rekey_at.min(now);
        }
        self.settle(now);
    }

    /// A session has sealed as much as its keys allow: it ends.
    pub fn seal_limit(&mut self, now: Duration, index: u32) {
        let now = self.clock.advance(now);
        self.end(index, true);
        self.settle(now);
    }

    /// A session is erased, in its worker and in XDP: its slot may be used again.
    pub fn erased(&mut self, now: Duration, index: u32) {
        let now = self.clock.advance(now);
        self.erasing.retain(|erasing| erasing.index != index);
        self.end(index, false);
        self.slots.give_back(index);
        self.settle(now);
    }

    /// Ends a session, whichever it is; `erase` when the worker still has it.
    fn end(&mut self, index: u32, erase: bool) {
        let new = matches!(&self.handshake, Handshake::Proving(proving) if proving.session.index == index);
        if new {
            self.handshake = Handshake::Idle;
        }
        let ended = new
            | self.cur.take_if(|cur| cur.index == index).is_some()
            | self.prev.take_if(|(prev, _)| *prev == index).is_some();
        if ended && erase {
            self.erase(index, new);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        let now = self.clock.advance(now);
        self.expire(now);
        if self.cur.is_some() {
            match self.live.tick(now) {
                Verdict::Wait | Verdict::Dead => {}
                Verdict::Ping => {
                    let value = self.random.bytes();
                    self.live.sent(value);
                    self.ping(self.cur.as_ref().map(|cur| cur.index), value);
                }
            }
        }
        self.probe_path(now);
        match &mut self.handshake {
            Handshake::Hello(hello) if hello.next <= now => self.hello_again(now),
            Handshake::Init(init) if planted(Flaw::WaitsForEver) => {
                init.timer = now + PREV_FOR * 1000;
            }
            Handshake::Init(init) if init.timer <= now => {
                let why = if init.noise.is_none() {
                    Failure::Refused
                } else {
                    Failure::NoResponse
                };
                self.failed(why);
                self.hello(now);
            }
            Handshake::Rekey(rekey) if rekey.timer <= now => {
                let tries = rekey.tries;
                self.failed(Failure::NoResponse);
                if planted(Flaw::GivesUpOnRekey) {
                    self.erase_cur();
                    return self.hello(now);
                }
                if tries < REKEY_WAITS.len() {
                    self.rekey(now, tries);
                } else {
                    self.hello(now);
                }
            }
            Handshake::Proving(proving) if proving.next <= now => {
                if proving.pings < PROVE_PINGS {
                    proving.pings += 1;
                    proving.next = now + PROVE_EVERY;
                    let index = proving.session.index;
                    let value = self.random.bytes();
                    self.ping(Some(index), value);
                } else {
                    self.failed(Failure::NotProven);
                    self.abandon();
                    // The Gateway may have taken the new session as proven, and then receives on
                    // this one for 10 s more: enough for a rekey in it.
                    if let Some(cur) = &mut self.cur {
                        cur.rekey_at = cur.rekey_at.min(now);
                    }
                }
            }
            _ => {}
        }
        self.settle(now);
    }

    /// Over networks: sends a PING of the size that is in question.
    fn probe_path(&mut self, now: Duration) {
        let Some(index) = self.cur.as_ref().map(|cur| cur.index) else {
            return self.path.stop();
        };
        if let Some(size) = self.path.tick(now) {
            let value = self.random.bytes();
            self.path.sent(now, size, value);
            let mut message = Inner::Ping(value).encode();
            message.resize(message.len().max(size.into()), 0);
            self.actions.push(Action::SendInner {
                workstation: 0,
                index,
                message,
            });
        }
        if !self.is_ether() {
            self.take_path_mtu(now);
        }
    }

    /// Erases what is too old.
    fn expire(&mut self, now: Duration) {
        let reject = self.reject_after();
        let old = |installed: Duration| now.saturating_sub(installed) >= reject;
        if self.cur.as_ref().is_some_and(|cur| old(cur.installed)) {
            self.erase_cur();
        }
        if self.prev.is_some_and(|(_, until)| now >= until) {
            self.erase_prev();
        }
        if matches!(&self.handshake, Handshake::Proving(proving) if old(proving.session.installed))
        {
            self.abandon();
        }
    }

    /// Starts what the state asks for: a handshake where there is no session or it is dead, a rekey
    /// where it is due.
    fn settle(&mut self, now: Duration) {
        let (idle, rekey) = match &self.handshake {
            Handshake::Idle => (true, None),
            Handshake::Rekey(rekey) => (false, Some(rekey.carrier)),
            _ => return,
        };
        let Some(cur) = &self.cur else {
            return self.hello(now);
        };
        // A rekey whose carrier is not the session in use can no longer be answered.
        if self.live.is_dead() || rekey.is_some_and(|carrier| carrier != cur.index) {
            return self.hello(now);
        }
        if let Some((boot_id, at)) = self.reset
            && at <= now
        {
            self.reset = None;
            if self.is_news(&boot_id) {
                self.reset_last = Some(now);
                remember(&mut self.suspects, boot_id);
                return self.hello(now);
            }
        }
        if idle && self.cur.as_ref().is_some_and(|cur| cur.rekey_at <= now) {
            self.rekey(now, 0);
        }
    }

    fn erase(&mut self, index: u32, was_new: bool) {
        self.erasing.push(Erasing { index, was_new });
        self.actions.push(Action::Erase {
            workstation: 0,
            index,
        });
    }

    fn erase_cur(&mut self) {
        if let Some(cur) = self.cur.take() {
            self.erase(cur.index, false);
        }
    }

    fn erase_prev(&mut self) {
        if let Some((index, _)) = self.prev.take() {
            self.erase(index, false);
        }
    }

    fn failed(&mut self, why: Failure) {
        self.failures += 1;
        self.last_failure = Some(why);
    }

    fn ping(&mut self, index: Option<u32>, value: [u8; 16]) {
        if let Some(index) = index {
            self.actions.push(Action::SendInner {
                workstation: 0,
                index,
                message: Inner::Ping(value).encode(),
            });
        }
    }

    fn is_ether(&self) -> bool {
        matches!(self.gateway, Path::Ether(_))
    }

    fn send(&mut self, destination: Path, kind: u8, nonce: u64, payload: &[u8]) {
        self.actions.push(Action::Send {
            port: self.port,
            destination,
            frame: message::frame(kind, self.key_id, nonce, self.knock.w2g, payload),
        });
    }

    /// When [`Workstation::tick`] is to be called next, by the caller's clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        let reject = self.reject_after();
        let (own, quiet) = match &self.handshake {
            Handshake::Stopped => return None,
            Handshake::Idle => (None, true),
            Handshake::Hello(hello) => (Some(hello.next), false),
            Handshake::Init(init) => (Some(init.timer), false),
            Handshake::Rekey(rekey) => (Some(rekey.timer), true),
            Handshake::Proving(proving) => (Some(proving.next), false),
        };
        let idle = matches!(self.handshake, Handshake::Idle);
        let cur = self.cur.as_ref();
        own.into_iter()
            .chain(cur.map(|cur| cur.installed + reject))
            .chain(cur.map(|_| self.live.deadline()))
            .chain(
                cur.map(|_| self.path.deadline())
                    .filter(|_| !self.is_ether()),
            )
            .chain(cur.filter(|_| idle).map(|cur| cur.rekey_at))
            .chain(self.prev.map(|(_, until)| until))
            .chain(self.reset.filter(|_| quiet).map(|(_, at)| at))
            .min()
            .map(|at| self.clock.outside(at))
    }

    /// Takes what is to be done, in order.
    pub fn actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }
}
