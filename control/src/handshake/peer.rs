//! What the Gateway keeps of one Workstation: who it is, its sessions, what was counted, and when
//! it is to be sent Resets.

use super::cookie::Nonces;
use super::kdf::{KnockKeys, knock_keys, noise_psk};
use super::model::{Flaw, planted};
use super::slots::Slots;
use super::{Action, Padding, Path};
use dataplane::keys::{Cipher, Protection};
use dataplane::{PortId, WorkstationId};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use wire::tables::Bucket;
use zeroize::Zeroizing;

/// Which cipher a Workstation is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CipherPolicy {
    /// AES-256-GCM-SIV for a virtual machine that cannot see its own rollback, else AES-256-GCM.
    #[default]
    Auto,
    /// This one, or no session.
    Only(Cipher),
}

impl CipherPolicy {
    /// The cipher for a Workstation with these offers; `None` where it does not offer it.
    pub(super) fn choose(self, offers: u8, virtualised: bool) -> Option<Cipher> {
        let cipher = match self {
            CipherPolicy::Auto if virtualised => Cipher::Aes256GcmSiv,
            // A Workstation that offers SIV alone has its reason.
            CipherPolicy::Auto if offers & Cipher::Aes256Gcm.offer() == 0 => Cipher::Aes256GcmSiv,
            CipherPolicy::Auto => Cipher::Aes256Gcm,
            CipherPolicy::Only(cipher) => cipher,
        };
        (offers & cipher.offer() != 0).then_some(cipher)
    }
}

/// A Workstation's keys, as one enrolment gives them.
#[derive(Clone)]
pub struct Credentials {
    /// Its key id: random, unique, on the wire in clear.
    pub key_id: u32,
    /// Its static public key.
    pub public: [u8; 32],
    /// Its PSK.
    pub psk: Zeroizing<[u8; 32]>,
    /// The Gateway's static public key that the Workstation was told.
    pub gateway: [u8; 32],
}

/// An enrolled Workstation.
#[derive(Clone)]
pub struct Enrolled {
    /// Its slot.
    pub id: WorkstationId,
    /// Its keys.
    pub credentials: Credentials,
    /// The keys that take their place once a session is proven under them.
    pub next: Option<Credentials>,
    /// Its inner IPv4 address and prefix length.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// Its inner IPv6 address and prefix length.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// The protection it is given; it must offer it.
    pub protection: Protection,
    /// Which cipher it is given.
    pub cipher: CipherPolicy,
    /// How frames are padded.
    pub padding: Padding,
    /// The ports it may come from; `None` for all.
    pub ports: Option<Vec<PortId>>,
}

impl Outcomes {
    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let good = [
            ("challenges", self.challenges),
            ("responses", self.responses),
            ("rekeys", self.rekeys),
            ("confirmed", self.confirmed),
            ("replaced", self.replaced),
            ("roamed", self.roamed),
        ];
        good.into_iter().chain(self.refused())
    }

    /// Handshakes that came to nothing, by the names of their counters.
    pub fn refused(&self) -> [(&'static str, u64); 10] {
        [
            ("bad_cookie", self.bad_cookie),
            ("repeated_nonce", self.repeated_nonce),
            ("nonces_full", self.nonces_full),
            ("no_slot", self.no_slot),
            ("rekey_refused", self.rekey_refused),
            ("does_not_open", self.does_not_open),
            ("wrong_static", self.wrong_static),
            ("retired_static", self.retired_static),
            ("bad_payload", self.bad_payload),
            ("policy", self.policy),
        ]
    }
}

/// Handshakes of one Workstation by outcome. Each is counted where it ended, so the sum of all but
/// `challenges`, `confirmed`, `replaced` and `roamed` is the number of Initiations and RekeyInits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Hellos answered with a Challenge.
    pub challenges: u64,
    /// Initiations whose cookie is not (or no longer) ours; nothing was computed for them.
    pub bad_cookie: u64,
    /// Initiations whose nonce was used before.
    pub repeated_nonce: u64,
    /// Initiations refused because this cookie period has seen 256 nonces.
    pub nonces_full: u64,
    /// Initiations and RekeyInits refused because there is no free slot.
    pub no_slot: u64,
    /// RekeyInits above two a second, or on a session that may not rekey any more.
    pub rekey_refused: u64,
    /// Noise messages that do not open: other keys, or altered.
    pub does_not_open: u64,
    /// Noise messages by another static key than the enrolled one.
    pub wrong_static: u64,
    /// Initiations to a static key of the Gateway that was retired.
    pub retired_static: u64,
    /// Payloads that are malformed, or whose MAC address is not the sender's.
    pub bad_payload: u64,
    /// Workstations that do not offer the cipher or the protection of the policy.
    pub policy: u64,
    /// Initiations answered.
    pub responses: u64,
    /// RekeyInits answered.
    pub rekeys: u64,
    /// Sessions the Workstation has proven to have.
    pub confirmed: u64,
    /// Sessions that took another one's place without a rekey inside it.
    pub replaced: u64,
    /// Times the Workstation was found at another address within a session.
    pub roamed: u64,
}

/// A session as the control plane sees it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) index: u32,
    /// Whose keys it was agreed on with.
    pub(super) key_id: u32,
    pub(super) port: PortId,
    pub(super) path: Path,
    /// Its handshake hash, for a rekey in it.
    pub(super) hash: [u8; 32],
    pub(super) installed: Duration,
    /// Whether it came from an Initiation, not from a rekey.
    pub(super) from_hello: bool,
    pub(super) cipher: Cipher,
    pub(super) protection: Protection,
    pub(super) rekeys: Bucket,
}

/// A session being erased by its worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Erasing {
    pub(super) index: u32,
    /// It was pending here when erasing began; the worker may have made it current meanwhile.
    pub(super) was_pending: bool,
}

/// The times at which Resets are sent on a port, from its start or its carrier's coming up.
const RESETS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];
/// And then each this long.
const RESETS_THEN: Duration = Duration::from_secs(30);

/// When a Workstation is sent Resets on a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResetPlan {
    pub(super) port: PortId,
    since: Duration,
    sent: usize,
    pub(super) next: Duration,
}

impl ResetPlan {
    pub(super) fn new(port: PortId, now: Duration) -> Self {
        Self {
            port,
            since: now,
            sent: 0,
            next: now,
        }
    }

    /// Goes on to the time of the next one.
    pub(super) fn advance(&mut self, now: Duration) {
        self.sent += 1;
        self.next = match RESETS.get(self.sent) {
            // After a pause in which nothing could be sent, the rest is not sent at once.
            Some(after) => (self.since + *after).max(now + RESETS[1]),
            None => now + RESETS_THEN,
        };
    }
}

/// Replacements within this long are looked at together.
const CLONE_WINDOW: Duration = Duration::from_secs(60);
/// More replacements than this, from alternating addresses, look like two machines with one key.
const CLONE_REPLACEMENTS: usize = 3;

/// [`Credentials`] in the form they are used in.
pub(super) struct Keys {
    pub(super) key_id: u32,
    pub(super) public: [u8; 32],
    pub(super) gateway: [u8; 32],
    pub(super) knock: KnockKeys,
    pub(super) noise_psk: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Takes what is derived from the PSK, and wipes the PSK.
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            key_id: credentials.key_id,
            public: credentials.public,
            gateway: credentials.gateway,
            knock: knock_keys(&credentials.psk),
            noise_psk: noise_psk(&credentials.psk),
        }
    }
}

/// One Workstation.
pub(super) struct Peer {
    pub(super) id: WorkstationId,
    pub(super) terms: Terms,
    pub(super) keys: Keys,
    pub(super) next: Option<Keys>,
    pub(super) slots: Slots,
    pub(super) pending: Option<(Session, Duration)>,
    pub(super) cur: Option<Session>,
    pub(super) prev: Option<(Session, Duration)>,
    pub(super) erasing: Vec<Erasing>,
    pub(super) nonces: Nonces,
    pub(super) outcomes: Outcomes,
    pub(super) last_handshake: Option<Duration>,
    /// It last asked for a session without offering what it is to be given.
    pub(super) unmet: bool,
    pub(super) resets: Vec<ResetPlan>,
    /// When a session was replaced by one from another address.
    replacements: VecDeque<Duration>,
}

/// How long a session not yet proven is kept.
pub(super) const PENDING_FOR: Duration = Duration::from_secs(10);
/// How long the session before the current one may still be received on.
pub(super) const PREV_FOR: Duration = Duration::from_secs(10);

/// What a Workstation is given in its sessions.
pub(super) struct Terms {
    pub(super) v4: Option<(Ipv4Addr, u8)>,
    pub(super) v6: Option<(Ipv6Addr, u8)>,
    pub(super) protection: Protection,
    pub(super) cipher: CipherPolicy,
    pub(super) padding: Padding,
    ports: Option<Vec<PortId>>,
}

impl Peer {
    pub(super) fn new(enrolled: Enrolled, slots: Slots) -> Self {
        Self {
            slots,
            id: enrolled.id,
            keys: Keys::new(enrolled.credentials),
            next: enrolled.next.map(Keys::new),
            terms: Terms {
                v4: enrolled.v4,
                v6: enrolled.v6,
                protection: enrolled.protection,
                cipher: enrolled.cipher,
                padding: enrolled.padding,
                ports: enrolled.ports,
            },
            pending: None,
            cur: None,
            prev: None,
            erasing: Vec::new(),
            nonces: Nonces::default(),
            outcomes: Outcomes::default(),
            last_handshake: None,
            unmet: false,
            resets: Vec::new(),
            replacements: VecDeque::new(),
        }
    }

    pub(super) fn may_use(&self, port: PortId) -> bool {
        self.terms
            .ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&port))
    }

    /// The keys with this key id: those in use, or those that wait to be.
    pub(super) fn keys(&self, key_id: u32) -> Option<&Keys> {
        let both = [Some(&self.keys), self.next.as_ref()];
        both.into_iter()
            .flatten()
            .find(|keys| keys.key_id == key_id)
    }

    /// Puts the keys that waited in the place of those in use, whose sessions end. Gives the key id
    /// that is gone.
    pub(super) fn promote(&mut self, actions: &mut Vec<Action>) -> Option<u32> {
        let old = std::mem::replace(&mut self.keys, self.next.take()?).key_id;
        self.erase_where(|session| session.key_id == old, actions);
        Some(old)
    }

    fn erase(&mut self, index: u32, was_pending: bool, actions: &mut Vec<Action>) {
        self.erasing.push(Erasing { index, was_pending });
        actions.push(Action::Erase {
            workstation: self.id,
            index,
        });
    }

    pub(super) fn erase_pending(&mut self, actions: &mut Vec<Action>) {
        if let Some((session, _)) = self.pending.take() {
            self.erase(session.index, true, actions);
        }
    }

    pub(super) fn erase_cur(&mut self, actions: &mut Vec<Action>) {
        if let Some(session) = self.cur.take() {
            self.erase(session.index, false, actions);
        }
    }

    pub(super) fn erase_prev(&mut self, actions: &mut Vec<Action>) {
        if let Some((session, _)) = self.prev.take() {
            self.erase(session.index, false, actions);
        }
    }

    /// Erases the session with this index, whichever it is.
    pub(super) fn erase_index(&mut self, index: u32, actions: &mut Vec<Action>) {
        self.erase_where(|session| session.index == index, actions);
    }

    /// Erases every session that `which` picks.
    pub(super) fn erase_where(
        &mut self,
        which: impl Fn(&Session) -> bool,
        actions: &mut Vec<Action>,
    ) {
        if self
            .pending
            .as_ref()
            .is_some_and(|(session, _)| which(session))
        {
            self.erase_pending(actions);
        }
        if self.cur.as_ref().is_some_and(&which) {
            self.erase_cur(actions);
        }
        if self
            .prev
            .as_ref()
            .is_some_and(|(session, _)| which(session))
        {
            self.erase_prev(actions);
        }
    }

    /// Forgets a session that its worker says is gone, asked for or not.
    pub(super) fn forget(&mut self, index: u32) {
        self.erasing.retain(|erasing| erasing.index != index);
        self.pending.take_if(|(session, _)| session.index == index);
        self.cur.take_if(|session| session.index == index);
        self.prev.take_if(|(session, _)| session.index == index);
    }

    /// The worker has opened a first frame under `index` and made it current. Gives the key id that
    /// ends with this: that of the keys in use, when the session is the first under the next ones.
    pub(super) fn confirm(
        &mut self,
        now: Duration,
        index: u32,
        actions: &mut Vec<Action>,
    ) -> Option<u32> {
        if let Some((session, _)) = self.pending.take_if(|(session, _)| session.index == index) {
            self.erase_prev(actions);
            if let Some(old) = self.cur.replace(session.clone()) {
                if session.from_hello {
                    self.outcomes.replaced += 1;
                    if (old.port, old.path) != (session.port, session.path) {
                        self.replacements.push_back(now);
                    }
                }
                self.prev = Some((old, now + PREV_FOR));
                if planted(Flaw::ForgetsPrevious) {
                    self.erase_prev(actions);
                }
            }
            self.outcomes.confirmed += 1;
            self.last_handshake = Some(now);
            self.unmet = false;
            self.resets.clear();
            if session.key_id != self.keys.key_id {
                return self.promote(actions);
            }
        } else if let Some(erasing) = self
            .erasing
            .iter_mut()
            .find(|erasing| erasing.index == index && erasing.was_pending)
        {
            // Its erasure crossed the confirmation: in the worker the session before it has become
            // the previous one, and there is no current one any more.
            erasing.was_pending = false;
            self.erase_prev(actions);
            if let Some(old) = self.cur.take() {
                self.prev = Some((old, now + PREV_FOR));
            }
        }
        None
    }

    /// Erases what is too old, each session at the age `reject`.
    pub(super) fn expire(&mut self, now: Duration, reject: Duration, actions: &mut Vec<Action>) {
        let old = |session: &Session| now.saturating_sub(session.installed) >= reject;
        if self
            .pending
            .as_ref()
            .is_some_and(|(session, until)| now >= *until || old(session))
        {
            self.erase_pending(actions);
        }
        if self.cur.as_ref().is_some_and(old) {
            self.erase_cur(actions);
        }
        if self
            .prev
            .as_ref()
            .is_some_and(|(session, until)| now >= *until || old(session))
        {
            self.erase_prev(actions);
        }
    }

    /// When [`Peer::expire`] or a Reset has something to do next.
    pub(super) fn deadlines(&self, reject: Duration) -> impl Iterator<Item = Duration> + '_ {
        let limited =
            move |(session, until): &(Session, Duration)| (*until).min(session.installed + reject);
        self.pending
            .iter()
            .map(limited)
            .chain(self.prev.iter().map(limited))
            .chain(
                self.cur
                    .iter()
                    .map(move |session| session.installed + reject),
            )
            .chain(self.resets.iter().map(|plan| plan.next))
    }

    /// The live session with this index that may carry a rekey.
    pub(super) fn carrier(&mut self, index: u32) -> Option<&mut Session> {
        self.cur
            .as_mut()
            .into_iter()
            .chain(self.prev.as_mut().map(|(session, _)| session))
            .find(|session| session.index == index)
    }

    pub(super) fn clone_suspected(&mut self, now: Duration) -> bool {
        while self
            .replacements
            .front()
            .is_some_and(|at| now.saturating_sub(*at) > CLONE_WINDOW)
        {
            self.replacements.pop_front();
        }
        self.replacements.len() > CLONE_REPLACEMENTS
    }
}
