//! The Workstation's side: it starts every handshake and every rekey, and it alone finds out that a
//! session is dead.
//!
//! `cur`, `prev` and the handshake `H` are separate: whatever happens to a handshake, the session in
//! use stays as it is until a new one is proven by a frame that opens under it.

use super::clock::Clock;
use super::kdf::{KnockKeys, hello_prologue, knock_keys, noise_psk, rekey_prologue};
use super::liveness::{Liveness, Verdict};
use super::message::{self, Answer, Challenge, Inner, Offer};
use super::noise::{Initiator, Secrets, Split, is_station};
use super::random::Randomness;
use super::slots::Slots;
use super::{Action, Install, Mac, Parameters};
use dataplane::PortId;
use dataplane::keys::{Cipher, Protection, SessionKeys};
use std::collections::VecDeque;
use std::time::Duration;
use wire::header::kind;
use wire::limits::{BROADCAST, HELLO_LEN, INITIATION_LEN, REJECT_AFTER, REKEY_AFTER};
use wire::{Header, Role};
use zeroize::Zeroizing;

const HELLO_FIRST: Duration = Duration::from_millis(250);
const HELLO_MOST: Duration = Duration::from_secs(5);
const INIT_LEAST: Duration = Duration::from_secs(1);
const INIT_MOST: Duration = Duration::from_secs(3);
/// After a Response that opens and is not acceptable: asking again at once would change nothing.
const REFUSED_WAIT: Duration = Duration::from_secs(4);
/// Responses of an attempt that do not open.
const FAILURES: u8 = 8;
const REKEY_WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
const PROVE_EVERY: Duration = Duration::from_millis(250);
const PROVE_PINGS: u8 = 8;
const PREV_FOR: Duration = Duration::from_secs(10);
const REKEY_JITTER: Duration = Duration::from_secs(10);
const RESET_JITTER: Duration = Duration::from_millis(200);
/// At most one handshake started by a Reset in this long.
const RESET_APART: Duration = Duration::from_secs(1);
const ROLLBACK_APART: Duration = Duration::from_secs(10);
/// Boot ids remembered as stale.
const STALE: usize = 8;
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
    /// Its MAC address.
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

/// What the worker has sent and received so far, over all sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Data frames sealed; control messages do not count.
    pub sent: u64,
    /// Frames opened, of any kind.
    pub received: u64,
}

/// A sign that the machine was put back to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackSign {
    /// The generation counter changed. It is exact: always acted on.
    Generation,
    /// An event of the kernel, or a jump between clocks. Acted on at most once in 10 s.
    Hint,
}

/// Why an attempt failed, for `portcullis-agent status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Hellos without a Challenge.
    #[error(
        "no Gateway answers; check the cable, and that this Workstation is enrolled there on this port"
    )]
    NoChallenge,
    /// An Initiation without a Response.
    #[error(
        "the Gateway answers Hellos but refuses the handshake; its log and `portcullis show` say why (other static key, cipher or protection policy)"
    )]
    NoResponse,
    /// A Response that does not open.
    #[error(
        "a Response does not open: the Gateway's static key or the PSK is not the one enrolled here"
    )]
    DoesNotOpen,
    /// A Response whose cipher, protection or address is not acceptable.
    #[error(
        "the Gateway chose a cipher or protection that this Workstation does not offer, or contradicts its own Challenge"
    )]
    Refused,
    /// A new session was never proven.
    #[error("the Gateway answered but nothing arrived on the new session")]
    NotProven,
}

/// The state of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Stopped,
    /// None under way.
    Idle,
    /// Hello sent.
    Hello,
    /// Initiation sent.
    Init,
    /// RekeyInit sent.
    Rekey,
    /// A new session waits to be proven.
    Proving,
}

/// What there is to tell of a Workstation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where the handshake is.
    pub phase: Phase,
    /// Whether there is a proven session.
    pub connected: bool,
    /// Its age.
    pub session_age: Option<Duration>,
    /// Our index of it.
    pub index: Option<u32>,
    /// Its cipher and protection.
    pub protected_by: Option<(Cipher, Protection)>,
    /// The Gateway's MAC address.
    pub gateway_mac: Option<Mac>,
    /// The tunnel's parameters.
    pub parameters: Option<Parameters>,
    /// Whether PINGs on it went unanswered.
    pub unresponsive: bool,
    /// How long ago a session was last proven.
    pub last_handshake: Option<Duration>,
    /// Handshakes that led to a proven session, by Hello and by rekey.
    pub handshakes: (u64, u64),
    /// Attempts that failed.
    pub failures: u64,
    /// Why the last one did; none since the last success.
    pub last_failure: Option<Failure>,
    /// Frames dropped because they match neither the handshake under way nor its nonce.
    pub unexpected: u64,
}

struct Session {
    index: u32,
    hash: [u8; 32],
    boot_id: [u8; 8],
    gateway_mac: Mac,
    installed: Duration,
    rekey_at: Duration,
    from_hello: bool,
    cipher: Cipher,
    protection: Protection,
    parameters: Parameters,
}

struct Hello {
    nonce: u64,
    interval: Duration,
    next: Duration,
    sent: Duration,
    tries: u32,
}

struct Init {
    nonce: u64,
    index: u32,
    noise: Option<Initiator>,
    timer: Duration,
    failures: u8,
    boot_id: [u8; 8],
    gateway_mac: Mac,
}

struct Rekey {
    nonce: u64,
    index: u32,
    noise: Option<Initiator>,
    timer: Duration,
    tries: usize,
    carrier: u32,
}

struct Proving {
    session: Session,
    next: Duration,
    pings: u8,
}

enum Handshake {
    Stopped,
    Idle,
    Hello(Hello),
    Init(Box<Init>),
    Rekey(Box<Rekey>),
    Proving(Box<Proving>),
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
    mac: Mac,
    mtu: u16,
    virtualised: bool,
    ciphers: Vec<Cipher>,
    protections: Vec<Protection>,
    random: Randomness,
    slots: Slots,
    clock: Clock,
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

fn remember(list: &mut VecDeque<[u8; 8]>, boot_id: [u8; 8]) {
    if !list.contains(&boot_id) {
        if list.len() >= STALE {
            list.pop_front();
        }
        list.push_back(boot_id);
    }
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
            mac: config.mac,
            mtu: config.mtu,
            virtualised: config.virtualised,
            ciphers: config.ciphers,
            protections: config.protections,
            random: Randomness::new(*config.seed),
            slots: Slots::new(SLOTS),
            cur: None,
            prev: None,
            handshake: Handshake::Stopped,
            erasing: Vec::new(),
            live: Liveness::new(clock.now()),
            clock,
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

    /// A handshake frame arrived from `source`; `frame` is what follows the EtherType.
    pub fn frame(&mut self, now: Duration, source: Mac, frame: &[u8]) {
        let now = self.clock.advance(now);
        if matches!(self.handshake, Handshake::Stopped) {
            return;
        }
        let parsed = message::parse(frame).filter(|(header, payload)| {
            header.index == self.key_id
                && is_station(source)
                && message::tag_is_good(header, self.knock.g2w, payload)
        });
        let handled = match parsed {
            Some((header, payload)) => match header.kind {
                kind::CHALLENGE => self.challenge(now, &header, payload),
                kind::RESPONSE => self.response(now, &header, payload),
                kind::RESET => self.reset(now, payload),
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
        if let Some(old) = self.cur.replace(session) {
            self.prev = Some((old.index, now + PREV_FOR));
        }
        self.live.restart(now);
        self.last_handshake = Some(now);
        self.last_failure = None;
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
    /// begins, with `entropy` (fresh, from outside the machine's memory) mixed in first.
    pub fn rollback_suspected(&mut self, now: Duration, sign: RollbackSign, entropy: &[u8]) {
        let now = self.clock.advance(now);
        self.random.mix(entropy);
        let recent = self
            .rollback_last
            .is_some_and(|last| now.saturating_sub(last) < ROLLBACK_APART);
        if matches!(self.handshake, Handshake::Stopped) || (sign == RollbackSign::Hint && recent) {
            return;
        }
        self.rollback_last = Some(now);
        self.abandon();
        self.erase_cur();
        self.erase_prev();
        self.hello(now);
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
        match &mut self.handshake {
            Handshake::Hello(hello) if hello.next <= now => self.hello_again(now),
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
                self.failed(Failure::NoResponse);
                let tries = rekey_tries(&self.handshake);
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

    /// Erases what is too old.
    fn expire(&mut self, now: Duration) {
        let old = |installed: Duration| {
            now.saturating_sub(installed) >= Duration::from_nanos(REJECT_AFTER)
        };
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

    /// Drops the handshake under way; a new session not yet proven is erased.
    fn abandon(&mut self) {
        match std::mem::replace(&mut self.handshake, Handshake::Idle) {
            Handshake::Init(init) => {
                self.slots.give_back(init.index);
            }
            Handshake::Rekey(rekey) => {
                self.slots.give_back(rekey.index);
            }
            Handshake::Proving(proving) => self.erase(proving.session.index, true),
            Handshake::Hello(_) | Handshake::Idle | Handshake::Stopped => {}
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

    fn send(&mut self, destination: Mac, kind: u8, nonce: u64, payload: &[u8]) {
        self.actions.push(Action::Send {
            port: self.port,
            destination,
            frame: message::frame(kind, self.key_id, nonce, self.knock.w2g, payload),
        });
    }

    /// Begins a handshake with a new nonce.
    fn hello(&mut self, now: Duration) {
        self.abandon();
        let nonce = self.random.nonzero_u64();
        self.actions.push(Action::ExpectNonce(nonce));
        self.handshake = Handshake::Hello(Hello {
            nonce,
            interval: HELLO_FIRST,
            next: now,
            sent: now,
            tries: 0,
        });
        self.hello_again(now);
    }

    /// Sends the Hello under way, once more or for the first time.
    fn hello_again(&mut self, now: Duration) {
        let Handshake::Hello(hello) = &mut self.handshake else {
            return;
        };
        if hello.tries > 0 {
            self.failures += u64::from(hello.tries == 1);
            self.last_failure = Some(Failure::NoChallenge);
        }
        hello.tries = hello.tries.saturating_add(1);
        hello.sent = now;
        // Jitter only shortens, so that a Gateway that comes back waits at most the longest interval.
        hello.next = now + hello.interval * 19 / 20 - self.random.up_to(hello.interval / 5);
        hello.interval = (hello.interval * 2).min(HELLO_MOST);
        let nonce = hello.nonce;
        self.send(BROADCAST, kind::HELLO, nonce, &[0; HELLO_LEN]);
    }

    fn offer(&self, index: u32) -> Offer {
        Offer {
            index,
            mtu: self.mtu,
            ciphers: self
                .ciphers
                .iter()
                .fold(0, |bits, cipher| bits | cipher.offer()),
            protections: self
                .protections
                .iter()
                .fold(0, |bits, protection| bits | protection.offer()),
            mac: self.mac,
            virtualised: self.virtualised,
        }
    }

    /// Takes an index and writes Noise message 1.
    fn initiate(&mut self, prologue: &[u8]) -> Option<(u32, Initiator, Vec<u8>)> {
        let index = self.slots.take(&mut self.random)?;
        let payload = self.offer(index).encode();
        let ephemeral = self.random.bytes();
        match Initiator::start(self.secrets(), prologue, ephemeral, &payload) {
            Ok((noise, message)) => Some((index, noise, message)),
            Err(_) => {
                self.slots.give_back(index);
                None
            }
        }
    }

    fn secrets(&self) -> Secrets<'_> {
        Secrets {
            static_private: &self.static_private,
            peer_public: &self.gateway_public,
            psk: &self.noise_psk,
        }
    }

    fn challenge(&mut self, now: Duration, header: &Header, payload: &[u8]) -> Option<()> {
        let Handshake::Hello(hello) = &self.handshake else {
            return None;
        };
        if header.counter != hello.nonce {
            return None;
        }
        let (nonce, rtt) = (hello.nonce, now.saturating_sub(hello.sent));
        let bytes = payload.try_into().ok()?;
        let challenge = Challenge::decode(bytes).filter(|challenge| is_station(challenge.mac))?;
        let first =
            Header::new(kind::INITIATION, INITIATION_LEN as u16, self.key_id, nonce).encode();
        let mut head = [0; 16];
        head.copy_from_slice(&first[..16]);
        // Without a free slot the Hello is sent again in its time.
        let (index, noise, message) = self.initiate(&hello_prologue(&head, bytes))?;
        self.handshake = Handshake::Init(Box::new(Init {
            nonce,
            index,
            noise: Some(noise),
            timer: now + (rtt * 2).clamp(INIT_LEAST, INIT_MOST),
            failures: 0,
            boot_id: challenge.boot_id,
            gateway_mac: challenge.mac,
        }));
        let payload = [bytes.as_slice(), &message].concat();
        self.send(challenge.mac, kind::INITIATION, nonce, &payload);
        Some(())
    }

    fn response(&mut self, now: Duration, header: &Header, payload: &[u8]) -> Option<()> {
        let Handshake::Init(init) = &mut self.handshake else {
            return None;
        };
        if header.counter != init.nonce {
            return None;
        }
        let Ok((answer, split)) = init.noise.as_mut()?.finish(payload) else {
            init.failures += 1;
            if init.failures >= FAILURES {
                self.failed(Failure::DoesNotOpen);
                self.hello(now);
            } else {
                self.last_failure = Some(Failure::DoesNotOpen);
            }
            return Some(());
        };
        let (index, boot_id, mac) = (init.index, init.boot_id, init.gateway_mac);
        match self.acceptable(&answer, boot_id, mac) {
            Some(answer) => self.install(now, index, &answer, &split, true),
            None => {
                self.last_failure = Some(Failure::Refused);
                if let Handshake::Init(init) = &mut self.handshake {
                    init.noise = None;
                    init.timer = now + REFUSED_WAIT;
                }
            }
        }
        Some(())
    }

    fn rekey_response(
        &mut self,
        now: Duration,
        index: u32,
        nonce: u64,
        noise: &[u8],
    ) -> Option<()> {
        let Handshake::Rekey(rekey) = &mut self.handshake else {
            return None;
        };
        let cur = self.cur.as_ref().filter(|cur| cur.index == index)?;
        if rekey.nonce != nonce || rekey.carrier != index {
            return None;
        }
        let (answer, split) = rekey.noise.as_mut()?.finish(noise).ok()?;
        let new = rekey.index;
        let (boot_id, mac) = (cur.boot_id, cur.gateway_mac);
        match self.acceptable(&answer, boot_id, mac) {
            Some(answer) => self.install(now, new, &answer, &split, false),
            None => {
                self.last_failure = Some(Failure::Refused);
                if let Handshake::Rekey(rekey) = &mut self.handshake {
                    rekey.noise = None;
                }
            }
        }
        Some(())
    }

    /// Reads Noise payload 2; `None` when it is malformed, contradicts what was said before, or is
    /// below what this Workstation accepts.
    fn acceptable(&self, payload: &[u8], boot_id: [u8; 8], mac: Mac) -> Option<Answer> {
        Answer::decode(payload).filter(|answer| {
            answer.boot_id == boot_id
                && answer.mac == mac
                && self.ciphers.contains(&answer.cipher)
                && self.protections.contains(&answer.protection)
        })
    }

    fn install(
        &mut self,
        now: Duration,
        index: u32,
        answer: &Answer,
        split: &Split,
        from_hello: bool,
    ) {
        let mut parameters = answer.parameters.clone();
        parameters.mtu = parameters.mtu.min(self.mtu);
        let session = Session {
            index,
            hash: split.hash,
            boot_id: answer.boot_id,
            gateway_mac: answer.mac,
            installed: now,
            rekey_at: now + Duration::from_nanos(REKEY_AFTER) - self.random.up_to(REKEY_JITTER),
            from_hello,
            cipher: answer.cipher,
            protection: answer.protection,
            parameters: parameters.clone(),
        };
        if from_hello {
            self.actions.push(Action::ExpectNonce(0));
        }
        self.actions.push(Action::Install(Box::new(Install {
            workstation: 0,
            port: self.port,
            index,
            peer_index: answer.index,
            peer_mac: answer.mac,
            mtu: parameters.mtu,
            padding: answer.padding,
            keys: SessionKeys::derive(
                Role::Workstation,
                &split.w2g,
                &split.g2w,
                answer.cipher,
                answer.protection,
            ),
        })));
        self.actions.push(Action::Configure(Box::new(parameters)));
        self.handshake = Handshake::Proving(Box::new(Proving {
            session,
            next: now + PROVE_EVERY,
            pings: 1,
        }));
        let value = self.random.bytes();
        self.ping(Some(index), value);
    }

    /// Starts a rekey in the current session, or tries once more.
    fn rekey(&mut self, now: Duration, tries: usize) {
        self.abandon();
        let Some(cur) = &self.cur else {
            return;
        };
        let carrier = cur.index;
        let hash = cur.hash;
        let nonce = self.random.nonzero_u64();
        let prologue = rekey_prologue(self.key_id, nonce, &hash);
        let Some((index, noise, message)) = self.initiate(&prologue) else {
            return self.hello(now);
        };
        let Ok(message) = message.try_into() else {
            self.slots.give_back(index);
            return self.hello(now);
        };
        self.handshake = Handshake::Rekey(Box::new(Rekey {
            nonce,
            index,
            noise: Some(noise),
            timer: now + REKEY_WAITS[tries.min(REKEY_WAITS.len() - 1)],
            tries: tries + 1,
            carrier,
        }));
        self.actions.push(Action::SendInner {
            workstation: 0,
            index: carrier,
            message: Inner::RekeyInit(nonce, message).encode(),
        });
    }

    /// Whether a boot id may be that of a start of the Gateway we have no session with.
    fn is_news(&self, boot_id: &[u8; 8]) -> bool {
        let cur = self.cur.as_ref().map(|cur| &cur.boot_id);
        let new = match &self.handshake {
            Handshake::Proving(proving) => Some(&proving.session.boot_id),
            _ => None,
        };
        cur != Some(boot_id) && new != Some(boot_id) && !self.stale.contains(boot_id)
    }

    fn reset(&mut self, now: Duration, payload: &[u8]) -> Option<()> {
        let boot_id = message::decode_reset(payload)?;
        if !self.is_news(&boot_id) {
            return Some(());
        }
        let jitter = self.random.up_to(RESET_JITTER);
        if let Handshake::Hello(hello) = &mut self.handshake {
            // The Gateway is there: it need not wait for the next Hello.
            hello.next = hello.next.min(now + jitter);
            hello.interval = HELLO_FIRST;
            remember(&mut self.suspects, boot_id);
        } else if self.reset.is_none_or(|(known, _)| known != boot_id) {
            let earliest = self.reset_last.map_or(now, |last| last + RESET_APART);
            self.reset = Some((boot_id, (now + jitter).max(earliest)));
        }
        Some(())
    }

    /// When [`Workstation::tick`] is to be called next, by the caller's clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        let reject = Duration::from_nanos(REJECT_AFTER);
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

    /// What there is to tell, as of `now`.
    pub fn status(&mut self, now: Duration) -> Status {
        let now = self.clock.advance(now);
        let cur = self.cur.as_ref();
        Status {
            phase: match &self.handshake {
                Handshake::Stopped => Phase::Stopped,
                Handshake::Idle => Phase::Idle,
                Handshake::Hello(_) => Phase::Hello,
                Handshake::Init(_) => Phase::Init,
                Handshake::Rekey(_) => Phase::Rekey,
                Handshake::Proving(_) => Phase::Proving,
            },
            connected: cur.is_some(),
            session_age: cur.map(|cur| now.saturating_sub(cur.installed)),
            index: cur.map(|cur| cur.index),
            protected_by: cur.map(|cur| (cur.cipher, cur.protection)),
            gateway_mac: cur.map(|cur| cur.gateway_mac),
            parameters: cur.map(|cur| cur.parameters.clone()),
            unresponsive: self.live.is_dead(),
            last_handshake: self.last_handshake.map(|at| now.saturating_sub(at)),
            handshakes: self.handshakes,
            failures: self.failures,
            last_failure: self.last_failure,
            unexpected: self.unexpected,
        }
    }
}

fn rekey_tries(handshake: &Handshake) -> usize {
    match handshake {
        Handshake::Rekey(rekey) => rekey.tries,
        _ => 0,
    }
}
