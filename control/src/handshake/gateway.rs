//! The Gateway's side of every Workstation's handshake.
//!
//! It stands behind XDP and the workers: a worker passes on each admitted frame that is not Data
//! ([`Gateway::frame`]), each control message it has opened ([`Gateway::inner`]) and the news that
//! a session was proven ([`Gateway::confirmed`]). What XDP has checked is checked again here.
//!
//! A Hello leaves no trace. An Initiation costs two hashes until its cookie, its nonce and its key
//! id are good, and Diffie-Hellman only then.

use super::clock::Clock;
use super::cookie::{Cookies, Nonce, Origin};
use super::kdf::{hello_prologue, rekey_prologue};
use super::message::{self, Answer, Challenge, Inner, Offer};
use super::model::{Flaw, planted};
use super::noise::{NoiseError, Responder, Secrets, public_key};
use super::peer::{Keys, PENDING_FOR, Peer, ResetPlan, Session};
use super::random::Randomness;
use super::slots::Shares;
use super::{Action, Encapsulation, Install, Mac, Parameters, Path, inner_mtu};
use dataplane::keys::SessionKeys;
use dataplane::lifetime::Lifetime;
use dataplane::{PortId, WorkstationId};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use wire::header::kind;
use wire::limits::{BROADCAST, CHALLENGE_LEN, HELLO_LEN, SECOND};
use wire::tables::Bucket;
use wire::{Header, Role};
use zeroize::Zeroizing;

pub use super::peer::{CipherPolicy, Credentials, Enrolled, Outcomes};
pub use super::show::{SessionInfo, WorkstationInfo};

/// RekeyInits of a session: two a second.
const REKEYS: (u64, u64) = (SECOND / 2, 2);
/// Session slots of each Workstation: so many sessions it may have, those being erased included.
pub const SLOTS_EACH: u16 = 8;

/// A port of the Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortConfig {
    /// Its number.
    pub port: PortId,
    /// What is around the tunnel's frames on it.
    pub encapsulation: Encapsulation,
    /// Its MAC address on `ether`; zero on `udp`.
    pub mac: Mac,
    /// Its interface's index.
    pub ifindex: u32,
    /// Its interface's MTU.
    pub mtu: u32,
}

impl PortConfig {
    /// Whether Resets are sent on it. Over networks there is no broadcast address to send them to.
    fn has_resets(&self) -> bool {
        matches!(self.encapsulation, Encapsulation::Ether(_))
    }
}

/// What a Gateway is started with.
pub struct GatewayConfig {
    /// The static private keys: the one in use, and the one before while it is still accepted.
    pub static_keys: Vec<Zeroizing<[u8; 32]>>,
    /// Chosen afresh at each start.
    pub boot_id: [u8; 8],
    /// The ports there are at the start.
    pub ports: Vec<PortConfig>,
    /// The Gateway's inner IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The Gateway's inner IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// The seed of its random generator.
    pub seed: Zeroizing<[u8; 32]>,
    /// How many Workstations there is room for; their sessions take the slots below [`SLOTS_EACH`] times as many.
    pub max_workstations: u16,
}

/// Frames that could not be put down to a Workstation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unattributed {
    /// No handshake frame for a Gateway, or from no station, or on no port.
    pub malformed: u64,
    /// No Workstation has this key id, or not on this port.
    pub unknown_key: u64,
    /// The admission tag is wrong.
    pub bad_tag: u64,
}

/// The machine.
pub struct Gateway {
    statics: Vec<Static>,
    boot_id: [u8; 8],
    ports: BTreeMap<PortId, PortConfig>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    random: Randomness,
    cookies: Cookies,
    slots: Shares<SLOTS_EACH>,
    /// Boxed, so that no key is left in the map when one is taken out of it.
    peers: BTreeMap<WorkstationId, Box<Peer>>,
    by_key: HashMap<u32, WorkstationId>,
    clock: Clock,
    /// At this age a session is erased.
    reject_after: Duration,
    unattributed: Unattributed,
    actions: Vec<Action>,
}

/// One of the Gateway's static keys.
struct Static {
    public: [u8; 32],
    private: Zeroizing<[u8; 32]>,
}

fn statics(keys: Vec<Zeroizing<[u8; 32]>>) -> Vec<Static> {
    let of = |private: Zeroizing<[u8; 32]>| Static {
        public: public_key(&private),
        private,
    };
    keys.into_iter().map(of).collect()
}

/// Why a Workstation cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Its slot is taken.
    #[error("Workstation slot {0} is in use; remove the Workstation that has it first")]
    SlotInUse(WorkstationId),
    /// There are as many Workstations as can be.
    #[error("there are as many Workstations as there is room for")]
    NoRoom,
    /// Its key id is taken.
    #[error("key id {0:08x} belongs to another Workstation; enrol this one again")]
    KeyIdInUse(u32),
}

impl Gateway {
    /// A Gateway without Workstations.
    pub fn new(config: GatewayConfig, now: Duration) -> Self {
        let mut random = Randomness::new(*config.seed);
        let clock = Clock::new(now);
        Self {
            statics: statics(config.static_keys),
            boot_id: config.boot_id,
            ports: config
                .ports
                .into_iter()
                .map(|port| (port.port, port))
                .collect(),
            v4: config.v4,
            v6: config.v6,
            cookies: Cookies::new(&mut random, clock.now()),
            slots: Shares::new(config.max_workstations, &mut random),
            random,
            peers: BTreeMap::new(),
            by_key: HashMap::new(),
            clock,
            reject_after: Duration::from_nanos(Lifetime::default().reject_after()),
            unattributed: Unattributed::default(),
            actions: Vec::new(),
        }
    }

    /// Has sessions end earlier.
    pub fn set_lifetime(&mut self, lifetime: Lifetime) {
        self.reject_after = Duration::from_nanos(lifetime.reject_after());
    }

    /// Mixes fresh entropy into the random generator. Call it before each event.
    pub fn mix(&mut self, entropy: &[u8]) {
        self.random.mix(entropy);
    }

    /// Adds a Workstation; Resets are sent to it from now on until it has shaken hands.
    ///
    /// # Errors
    /// When its slot or its key id is in use, or there is no room.
    pub fn add(&mut self, now: Duration, enrolled: Enrolled) -> Result<(), AddError> {
        let now = self.clock.advance(now);
        let id = enrolled.id;
        if self.peers.contains_key(&id) {
            return Err(AddError::SlotInUse(id));
        }
        let next = enrolled.next.iter().map(|next| next.key_id);
        let key_ids: Vec<u32> = [enrolled.credentials.key_id]
            .into_iter()
            .chain(next)
            .collect();
        if let Some(taken) = key_ids.iter().find(|key| self.by_key.contains_key(key)) {
            return Err(AddError::KeyIdInUse(*taken));
        }
        let slots = self.slots.take().ok_or(AddError::NoRoom)?;
        let mut peer = Peer::new(enrolled, slots);
        peer.resets = self
            .ports
            .values()
            .filter(|port| port.has_resets() && peer.may_use(port.port))
            .map(|port| ResetPlan::new(port.port, now))
            .collect();
        self.peers.insert(id, Box::new(peer));
        self.by_key.extend(key_ids.into_iter().map(|key| (key, id)));
        Ok(())
    }

    /// Gives a Workstation keys that take the place of those it has as soon as a session is proven
    /// under them; `None` takes them back. Sessions not yet proven under others that waited end.
    ///
    /// # Errors
    /// When their key id is in use.
    pub fn set_next(
        &mut self,
        id: WorkstationId,
        next: Option<Credentials>,
    ) -> Result<(), AddError> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if let Some(next) = &next
            && self.by_key.contains_key(&next.key_id)
        {
            return Err(AddError::KeyIdInUse(next.key_id));
        }
        if let Some(old) = peer.next.take() {
            self.by_key.remove(&old.key_id);
            peer.erase_where(|session| session.key_id == old.key_id, &mut self.actions);
        }
        if let Some(next) = next {
            self.by_key.insert(next.key_id, id);
            peer.next = Some(Keys::new(next));
        }
        Ok(())
    }

    /// Puts the keys that wait in the place of those in use, whose sessions end, though no session is
    /// proven under them yet. Gives the key id that is gone.
    pub fn promote(&mut self, id: WorkstationId) -> Option<u32> {
        let old = self.peers.get_mut(&id)?.promote(&mut self.actions)?;
        self.by_key.remove(&old);
        Some(old)
    }

    /// Changes the Gateway's static keys. Sessions agreed on with one that is gone end.
    pub fn set_static_keys(&mut self, keys: Vec<Zeroizing<[u8; 32]>>) {
        self.statics = statics(keys);
        for peer in self.peers.values_mut() {
            let held = |keys: &Keys| self.statics.iter().any(|one| one.public == keys.gateway);
            let both = [Some(&peer.keys), peer.next.as_ref()];
            let gone: Vec<u32> = both
                .into_iter()
                .flatten()
                .filter(|keys| !held(keys))
                .map(|keys| keys.key_id)
                .collect();
            peer.erase_where(|session| gone.contains(&session.key_id), &mut self.actions);
        }
    }

    /// Removes a Workstation. Its sessions are to be erased at once; the removal is complete when
    /// [`Gateway::erased`] was called for each of the indexes returned.
    pub fn remove(&mut self, id: WorkstationId) -> Vec<u32> {
        let Some(mut peer) = self.peers.remove(&id) else {
            return Vec::new();
        };
        self.by_key.retain(|_, owner| *owner != id);
        peer.erase_where(|_| true, &mut self.actions);
        let erasing = peer.erasing.iter().map(|erasing| erasing.index);
        let erasing = erasing.collect();
        self.slots.give_back(peer.slots);
        erasing
    }

    /// Adds a port or changes one. Sessions on a port whose MAC address changes end.
    pub fn set_port(&mut self, now: Duration, port: PortConfig) {
        self.clock.advance(now);
        let old = self.ports.insert(port.port, port);
        if old.is_some_and(|old| old.mac != port.mac) {
            self.end_sessions_on(port.port);
        }
        if old.is_none_or(|old| old.mac != port.mac) {
            self.carrier_up(now, port.port);
        }
    }

    /// Removes a port. Its sessions end.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.end_sessions_on(port);
        for peer in self.peers.values_mut() {
            peer.resets.retain(|plan| plan.port != port);
        }
    }

    fn end_sessions_on(&mut self, port: PortId) {
        for peer in self.peers.values_mut() {
            peer.erase_where(|session| session.port == port, &mut self.actions);
        }
    }

    /// A port's carrier came up: Resets begin again there, for those who have not shaken hands.
    pub fn carrier_up(&mut self, now: Duration, port: PortId) {
        let now = self.clock.advance(now);
        if !self.ports.get(&port).is_some_and(PortConfig::has_resets) {
            return;
        }
        for peer in self.peers.values_mut() {
            if peer.last_handshake.is_none() && peer.may_use(port) {
                peer.resets.retain(|plan| plan.port != port);
                peer.resets.push(ResetPlan::new(port, now));
            }
        }
    }

    /// A handshake frame arrived on `port` from `source`; `frame` begins with the Portcullis header.
    pub fn frame(&mut self, now: Duration, port: PortId, source: impl Into<Path>, frame: &[u8]) {
        let source = source.into();
        let now = self.clock.advance(now);
        self.cookies.rotate(&mut self.random, now);
        let (Some(port), Some((header, payload))) =
            (self.ports.get(&port).copied(), message::parse(frame))
        else {
            self.unattributed.malformed += 1;
            return;
        };
        if !matches!(header.kind, kind::HELLO | kind::INITIATION) || !source.leads_to_station() {
            self.unattributed.malformed += 1;
            return;
        }
        let id = self.by_key.get(&header.index).copied();
        let peer = id
            .and_then(|id| self.peers.get(&id))
            .filter(|peer| peer.may_use(port.port));
        let keys = peer.and_then(|peer| peer.keys(header.index));
        let (Some(id), Some(keys)) = (id, keys) else {
            self.unattributed.unknown_key += 1;
            return;
        };
        if !message::tag_is_good(&header, keys.knock.w2g, payload) {
            self.unattributed.bad_tag += 1;
            return;
        }
        match header.kind {
            kind::HELLO => self.hello(id, &port, source, &header, payload),
            _ => self.initiation(now, id, &port, source, &header, payload),
        }
    }

    fn hello(
        &mut self,
        id: WorkstationId,
        port: &PortConfig,
        source: Path,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(knock) = peer.keys(header.index).map(|keys| keys.knock.g2w) else {
            return;
        };
        if payload != [0; HELLO_LEN] {
            self.unattributed.malformed += 1;
            return;
        }
        let challenge = Challenge {
            cookie: self.cookies.make(
                header.index,
                header.counter,
                &Origin::new(port.ifindex, &source),
            ),
            boot_id: self.boot_id,
            mac: port.mac,
        };
        peer.outcomes.challenges += 1;
        self.actions.push(Action::Send {
            port: port.port,
            destination: source,
            frame: message::frame(
                kind::CHALLENGE,
                header.index,
                header.counter,
                knock,
                &challenge.encode(),
            ),
        });
    }

    fn initiation(
        &mut self,
        now: Duration,
        id: WorkstationId,
        port: &PortConfig,
        source: Path,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some((challenge_bytes, noise)) = payload.split_first_chunk::<CHALLENGE_LEN>() else {
            return;
        };
        let origin = Origin::new(port.ifindex, &source);
        let good = Challenge::decode(challenge_bytes).is_some_and(|challenge| {
            challenge.boot_id == self.boot_id
                && challenge.mac == port.mac
                && self
                    .cookies
                    .check(header.index, header.counter, &origin, &challenge.cookie)
        });
        if !good && !planted(Flaw::AnyCookie) {
            peer.outcomes.bad_cookie += 1;
            return;
        }
        match peer.nonces.take(self.cookies.period(), header.counter) {
            Nonce::Fresh => {}
            Nonce::Repeated if planted(Flaw::AnswersAgain) => {}
            Nonce::Repeated => {
                peer.outcomes.repeated_nonce += 1;
                return;
            }
            Nonce::Full => {
                peer.outcomes.nonces_full += 1;
                return;
            }
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header.encode()[..16]);
        let prologue = hello_prologue(&bytes, challenge_bytes);
        let key_id = header.index;
        let Some(message) = self.establish(now, (id, key_id), port, source, &prologue, noise, true)
        else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(knock) = peer.keys(key_id).map(|keys| keys.knock.g2w)
        {
            peer.outcomes.responses += 1;
            self.actions.push(Action::Send {
                port: port.port,
                destination: source,
                frame: message::frame(
                    kind::RESPONSE,
                    header.index,
                    header.counter,
                    knock,
                    &message,
                ),
            });
        }
    }

    /// A control message that was opened under the session with our index `index`.
    pub fn inner(&mut self, now: Duration, id: WorkstationId, index: u32, message: &[u8]) {
        let now = self.clock.advance(now);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.expire(now, self.reject_after, &mut self.actions);
        // A PING is answered by the worker itself.
        let Some(Inner::RekeyInit(nonce, noise)) = Inner::decode(message) else {
            return;
        };
        let carrier = peer.carrier(index).and_then(|session| {
            let time = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
            session.rekeys.take(time, REKEYS).then_some((
                session.port,
                session.path,
                session.hash,
                session.key_id,
            ))
        });
        let port = carrier.and_then(|(port, ..)| self.ports.get(&port).copied());
        let (Some((_, path, hash, key_id)), Some(port)) = (carrier, port) else {
            peer.outcomes.rekey_refused += 1;
            return;
        };
        let prologue = rekey_prologue(key_id, nonce, &hash);
        let from = (id, key_id);
        let Some(answer) = self.establish(now, from, &port, path, &prologue, &noise, false) else {
            return;
        };
        if let (Some(peer), Ok(answer)) = (self.peers.get_mut(&id), answer.try_into()) {
            peer.outcomes.rekeys += 1;
            self.actions.push(Action::SendInner {
                workstation: id,
                index,
                message: Inner::RekeyResp(nonce, answer).encode(),
            });
        }
    }

    /// Answers Noise message 1 with a new pending session; gives message 2.
    #[allow(clippy::too_many_arguments)] // One place for both ways to a session.
    fn establish(
        &mut self,
        now: Duration,
        (id, key_id): (WorkstationId, u32),
        port: &PortConfig,
        source: Path,
        prologue: &[u8],
        noise: &[u8],
        from_hello: bool,
    ) -> Option<Vec<u8>> {
        let peer = self.peers.get_mut(&id)?;
        if peer.slots.free() == 0 {
            peer.outcomes.no_slot += 1;
            return None;
        }
        // Each enrolment names one of the Gateway's keys, so there is nothing to try out.
        let keys = peer.keys(key_id)?;
        let own = self.statics.iter().find(|one| one.public == keys.gateway);
        let Some(own) = own else {
            peer.outcomes.retired_static += 1;
            return None;
        };
        let secrets = Secrets {
            static_private: &own.private,
            peer_public: &keys.public,
            psk: &keys.noise_psk,
        };
        let (responder, payload) =
            match Responder::read(secrets, prologue, self.random.bytes(), noise) {
                Ok(read) => read,
                Err(NoiseError::WrongStatic) => {
                    peer.outcomes.wrong_static += 1;
                    return None;
                }
                Err(_) => {
                    peer.outcomes.does_not_open += 1;
                    return None;
                }
            };
        let mac = source.mac().unwrap_or_default();
        let Some(offer) = Offer::decode(&payload).filter(|offer| offer.mac == mac) else {
            peer.outcomes.bad_payload += 1;
            return None;
        };
        let protection = peer.terms.protection;
        let cipher = peer
            .terms
            .cipher
            .choose(offer.ciphers, offer.virtualised)
            .filter(|_| offer.protections & protection.offer() != 0);
        let Some(cipher) = cipher else {
            peer.outcomes.policy += 1;
            peer.unmet = true;
            return None;
        };
        let index = peer.slots.take(&mut self.random)?;
        let answer = Answer {
            index,
            boot_id: self.boot_id,
            mac: port.mac,
            cipher,
            protection,
            padding: peer.terms.padding,
            parameters: Parameters {
                mtu: inner_mtu(port.mtu, &source).min(offer.mtu),
                v4: peer.terms.v4,
                v6: peer.terms.v6,
                gateway_v4: self.v4,
                gateway_v6: self.v6,
            },
        };
        let Ok((message, split)) = responder.answer(&answer.encode()) else {
            peer.slots.give_back(index);
            peer.outcomes.does_not_open += 1;
            return None;
        };
        peer.erase_pending(&mut self.actions);
        if planted(Flaw::ReplacesUnproven) {
            peer.erase_cur(&mut self.actions);
        }
        let session = Session {
            index,
            key_id,
            port: port.port,
            path: source,
            hash: split.hash,
            installed: now,
            from_hello,
            cipher,
            protection,
            rekeys: Bucket::default(),
        };
        peer.pending = Some((session, now + PENDING_FOR));
        self.actions.push(Action::Install(Box::new(Install {
            workstation: id,
            port: port.port,
            index,
            peer_index: offer.index,
            path: source,
            mtu: answer.parameters.mtu,
            padding: answer.padding,
            keys: SessionKeys::derive(Role::Gateway, &split.w2g, &split.g2w, cipher, protection),
        })));
        Some(message)
    }

    /// The worker opened a first frame under the pending session `index` and has made it current.
    /// When that is the first session under the Workstation's next keys, they take the place of the
    /// others; their key id, which is gone, is the answer.
    pub fn confirmed(&mut self, now: Duration, id: WorkstationId, index: u32) -> Option<u32> {
        let now = self.clock.advance(now);
        let peer = self.peers.get_mut(&id)?;
        let old = peer.confirm(now, index, &mut self.actions)?;
        self.by_key.remove(&old);
        Some(old)
    }

    /// The worker sends a session's frames another way now, because one that opened came by it.
    pub fn roamed(&mut self, id: WorkstationId, index: u32, path: Path) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(cur) = peer.cur.as_mut().filter(|cur| cur.index == index)
        {
            cur.path = path;
            peer.outcomes.roamed += 1;
        }
    }

    /// A session has sealed as much as its keys allow: it ends.
    pub fn seal_limit(&mut self, now: Duration, id: WorkstationId, index: u32) {
        self.clock.advance(now);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.erase_index(index, &mut self.actions);
        }
    }

    /// A session is erased, in its worker and in XDP: its slot may be used again.
    pub fn erased(&mut self, id: WorkstationId, index: u32) {
        let given = self.peers.get_mut(&id).is_some_and(|peer| {
            peer.forget(index);
            peer.slots.give_back(index)
        });
        if !given {
            self.slots.erased(index);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        let now = self.clock.advance(now);
        self.cookies.rotate(&mut self.random, now);
        for peer in self.peers.values_mut() {
            peer.expire(now, self.reject_after, &mut self.actions);
            for plan in peer.resets.iter_mut().filter(|plan| plan.next <= now) {
                plan.advance(now);
                for keys in [Some(&peer.keys), peer.next.as_ref()].into_iter().flatten() {
                    self.actions.push(Action::Send {
                        port: plan.port,
                        destination: BROADCAST.into(),
                        frame: message::frame(
                            kind::RESET,
                            keys.key_id,
                            self.random.nonzero_u64(),
                            keys.knock.g2w,
                            &message::encode_reset(&self.boot_id),
                        ),
                    });
                }
            }
        }
    }

    /// When [`Gateway::tick`] is to be called next, by the caller's clock.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.peers
            .values()
            .flat_map(|peer| peer.deadlines(self.reject_after))
            .min()
            .map(|at| self.clock.outside(at))
    }

    /// Takes what is to be done, in order.
    pub fn actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// This start's boot id.
    pub fn boot_id(&self) -> [u8; 8] {
        self.boot_id
    }

    /// Frames that could not be put down to a Workstation.
    pub fn unattributed(&self) -> Unattributed {
        self.unattributed
    }

    /// What there is to show of every Workstation, as of `now`.
    pub fn workstations(&mut self, now: Duration) -> Vec<WorkstationInfo> {
        let now = self.clock.advance(now);
        self.peers
            .values_mut()
            .map(|peer| WorkstationInfo::of(peer, now))
            .collect()
    }

    /// What there is to show of one Workstation.
    pub fn workstation(&mut self, now: Duration, id: WorkstationId) -> Option<WorkstationInfo> {
        let now = self.clock.advance(now);
        self.peers
            .get_mut(&id)
            .map(|peer| WorkstationInfo::of(peer, now))
    }
}
