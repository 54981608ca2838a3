//! The admission decision on a `tunnel` port: which frames reach the AF_XDP socket.
//!
//! [`decide`] is the whole of it, generic over where the frame's bytes and the tables are. The XDP
//! program runs it over packet memory and BPF maps; tests run it over a slice and plain structures.

use crate::header::{Header, kind, slot_of};
use crate::limits::*;
use crate::siphash::SipHash24;
use crate::tables::{
    Bucket, Credit, KnockEntry, SessionEntry, Source, SourceKey, SourceKind, seen_cell,
};
use crate::udp::Udp;
use crate::verdict::Verdict;

/// Which end of the tunnel this port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Accepts Hello, Initiation and Data.
    Gateway,
    /// Accepts Challenge, Response, Data and Reset.
    Workstation,
}

/// What a port is told when it is attached.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Which end this is.
    pub role: Role,
    /// The port's own MAC address.
    pub mac: [u8; 6],
    /// What frames of the tunnel are wrapped in.
    pub encapsulation: Encapsulation,
}

/// What frames of the tunnel are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Ethernet II with this EtherType, host order.
    Ether(u16),
    /// UDP over IPv4 or IPv6.
    Udp(Udp),
}

/// A frame, from its Ethernet header on. Reads outside it give `None`; so may reads beyond its first
/// 256 bytes, where a driver keeps a long frame in several pieces.
pub trait Frame {
    /// Whether the frame has at least this many bytes, wherever they are.
    fn holds(&self, bytes: usize) -> bool;
    /// Six bytes at `at`.
    fn mac(&self, at: usize) -> Option<[u8; 6]>;
    /// Two bytes at `at`, big-endian.
    fn be16(&self, at: usize) -> Option<u16>;
    /// Three words from `at` on, little-endian.
    fn words(&self, at: usize) -> Option<[u64; 3]>;
    /// Eight bytes at `at`, little-endian.
    fn word(&self, at: usize) -> Option<u64>;
    /// Two bytes at an `at` that is only known as the frame is read, big-endian; may be slower.
    fn far_be16(&self, at: usize) -> Option<u16> {
        self.be16(at)
    }
}

/// A frame without its first bytes.
struct Rest<'a, F> {
    frame: &'a F,
    without: usize,
}

impl<F: Frame> Frame for Rest<'_, F> {
    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        self.frame.holds(self.without + bytes)
    }

    #[inline(always)]
    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        self.frame.mac(self.without + at)
    }

    #[inline(always)]
    fn be16(&self, at: usize) -> Option<u16> {
        self.frame.be16(self.without + at)
    }

    #[inline(always)]
    fn words(&self, at: usize) -> Option<[u64; 3]> {
        self.frame.words(self.without + at)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        self.frame.word(self.without + at)
    }
}

/// A frame in plain memory.
impl Frame for &[u8] {
    fn holds(&self, bytes: usize) -> bool {
        self.len() >= bytes
    }

    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        bytes(self, at)
    }

    fn be16(&self, at: usize) -> Option<u16> {
        bytes(self, at).map(u16::from_be_bytes)
    }

    fn words(&self, at: usize) -> Option<[u64; 3]> {
        let words = [self.word(at)?, self.word(at + 8)?, self.word(at + 16)?];
        Some(words)
    }

    fn word(&self, at: usize) -> Option<u64> {
        bytes(self, at).map(u64::from_le_bytes)
    }
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// The tables of [`crate::tables`].
pub trait Tables {
    /// Monotonic nanoseconds (CLOCK_MONOTONIC, as bpf_ktime_get_ns).
    fn now(&self) -> u64;
    /// The session record in a slot.
    fn session(&self, slot: u16) -> Option<SessionEntry>;
    /// The floor of a slot.
    fn floor(&self, slot: u16) -> u64;
    /// Raises a cell of `SEEN` to `mark`. False when it stands there or higher already.
    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool;
    /// `(admitted, consumed, limit)` of a Workstation's credit.
    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)>;
    /// Adds one to `admitted`.
    fn charge(&self, workstation: u32);
    /// Runs `with` on the knock entry of a key id.
    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R>;
    /// Runs `with` on the bucket of a source, made full where there is none. `None` when it cannot
    /// be made.
    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R>;
    /// The nonce of the attempt under way; 0 for none. Only asked at a Workstation.
    fn expected_nonce(&self) -> u64;
    /// Hands the frame to this queue's socket; false when there is none.
    fn redirect(&self) -> bool;
}

/// The verdict, and the slot of the Workstation that the frame names, where it names one.
pub type Decision = (Verdict, Option<u32>);

/// Decides about one frame. What [`Verdict::is_drop`] says is dropped by the caller.
#[inline(always)]
pub fn decide(port: &Admission, frame: &impl Frame, tables: &impl Tables) -> Decision {
    match &port.encapsulation {
        Encapsulation::Ether(ethertype) => decide_ether(port, *ethertype, frame, tables),
        Encapsulation::Udp(udp) => decide_udp(port, udp, frame, tables),
    }
}

#[inline(always)]
fn decide_ether(
    port: &Admission,
    ethertype: u16,
    frame: &impl Frame,
    tables: &impl Tables,
) -> Decision {
    let Some(found) = frame.be16(12) else {
        return (Verdict::Short, None);
    };
    if found != ethertype {
        return (Verdict::Foreign, None);
    }
    let (Some(destination), Some(source), Some(words)) =
        (frame.mac(0), frame.mac(6), frame.words(ETH_LEN))
    else {
        return (Verdict::Short, None);
    };
    let Ok(header) = Header::from_words(words) else {
        return (Verdict::Malformed, None);
    };
    if !is_for(port.role, header.kind) || !frame.holds(ETH_LEN + header.frame_len()) {
        return (Verdict::Malformed, None);
    }
    // Only the two broadcast types may come to the broadcast address.
    let broadcast =
        (header.kind == kind::HELLO || header.kind == kind::RESET) && destination == BROADCAST;
    if destination != port.mac && !broadcast {
        return (Verdict::Misdirected, None);
    }
    if header.kind == kind::DATA {
        decide_data(&header, Some(source), tables)
    } else {
        decide_handshake(
            port.role,
            &header,
            Source::mac(source),
            (frame, ETH_LEN),
            tables,
        )
    }
}

#[inline(always)]
fn decide_udp(port: &Admission, udp: &Udp, frame: &impl Frame, tables: &impl Tables) -> Decision {
    let datagram = match udp.datagram(port.mac, frame, tables) {
        Ok(datagram) => datagram,
        Err(verdict) => return (verdict, None),
    };
    // From here on it looks as on `ether`: the Portcullis header comes where that of Ethernet ends.
    let frame = &Rest {
        frame,
        without: datagram.front - ETH_LEN,
    };
    let Some(words) = frame.words(ETH_LEN) else {
        return (Verdict::Short, None);
    };
    let Ok(header) = Header::from_words(words) else {
        return (Verdict::Malformed, None);
    };
    // Who has restarted is found out by asking: a Reset would only help who may inject one.
    if !is_for(port.role, header.kind) || header.kind == kind::RESET {
        return (Verdict::Malformed, None);
    }
    if header.frame_len() != datagram.payload {
        return (Verdict::Malformed, None);
    }
    if header.kind == kind::DATA {
        decide_data(&header, None, tables)
    } else {
        decide_handshake(
            port.role,
            &header,
            datagram.source,
            (frame, ETH_LEN),
            tables,
        )
    }
}

#[inline(always)]
fn is_for(role: Role, kind: u8) -> bool {
    match role {
        Role::Gateway => matches!(kind, kind::HELLO | kind::INITIATION | kind::DATA),
        Role::Workstation => {
            matches!(
                kind,
                kind::CHALLENGE | kind::RESPONSE | kind::DATA | kind::RESET
            )
        }
    }
}

#[inline(always)]
fn decide_data(header: &Header, ether: Option<[u8; 6]>, tables: &impl Tables) -> Decision {
    let slot = slot_of(header.index);
    let Some(session) = tables.session(slot) else {
        return (Verdict::UnknownSession, None);
    };
    // A free slot's index is 0, which no decoded Data header carries.
    if session.index != header.index {
        return (Verdict::UnknownSession, None);
    }
    let workstation = session.workstation;
    // On `udp` a session may move, and a copy that is faster than the genuine frame is not to shut it out.
    let elsewhere = match ether {
        Some(source) => session.peer_mac != source,
        None => false,
    };
    let verdict = if elsewhere {
        Verdict::Misdirected
    } else if header.data_tag(session.key) != header.tag {
        Verdict::BadTag
    } else if header.counter < tables.floor(slot) {
        Verdict::Replay
    } else {
        let (cell, mark) = seen_cell(header.counter);
        if ether.is_some() && !tables.mark_seen(slot, cell, mark) {
            Verdict::Replay
        } else {
            match tables.credit(workstation) {
                Some((admitted, consumed, limit))
                    if Credit::has_room(admitted, consumed, limit) =>
                {
                    if tables.redirect() {
                        tables.charge(workstation);
                        Verdict::Admitted
                    } else {
                        Verdict::NoSocket
                    }
                }
                _ => Verdict::QueueFull,
            }
        }
    };
    (verdict, Some(workstation))
}

/// Decides about a handshake frame that came by a connected UDP socket: it begins with the Portcullis header, and is
/// from the one place that the socket is connected to. Data there is for the AEAD alone.
pub fn decide_connected(role: Role, frame: &impl Frame, tables: &impl Tables) -> Verdict {
    let Some(words) = frame.words(0) else {
        return Verdict::Short;
    };
    let Ok(header) = Header::from_words(words) else {
        return Verdict::Malformed;
    };
    let is_handshake = !matches!(header.kind, kind::DATA | kind::RESET);
    if !is_for(role, header.kind) || !is_handshake || !frame.holds(header.frame_len()) {
        return Verdict::Malformed;
    }
    let source = Source::new(SourceKind::V4, 0);
    decide_handshake(role, &header, source, (frame, 0), tables).0
}

/// `front`: where in the frame its Portcullis header is.
#[inline(always)]
fn decide_handshake(
    role: Role,
    header: &Header,
    source: Source,
    (frame, front): (&impl Frame, usize),
    tables: &impl Tables,
) -> Decision {
    let key_id = header.index;
    let Some((key, workstation)) = tables.knock(key_id, |knock| (knock.key, knock.workstation))
    else {
        return (Verdict::UnknownKey, None);
    };
    let attributed = |verdict| (verdict, Some(workstation));
    match tag_of(header, key, (frame, front)) {
        None => return attributed(Verdict::Malformed),
        Some(tag) if tag != header.tag => return attributed(Verdict::BadTag),
        Some(_) => {}
    }
    // Types that carry a fresh nonce each are admitted once; those that answer this Workstation's
    // attempt must carry its nonce, so that recorded ones cannot use up the buckets.
    let once = matches!(header.kind, kind::INITIATION | kind::RESPONSE | kind::RESET);
    let answers = role == Role::Workstation && header.kind != kind::RESET;
    if answers && tables.expected_nonce() != header.counter {
        return attributed(Verdict::Replay);
    }
    if once && tables.knock(key_id, |knock| knock.knows(header.counter)) != Some(false) {
        return attributed(Verdict::Replay);
    }
    let costly = matches!(header.kind, kind::INITIATION | kind::RESPONSE);
    let (per_source, total) = if costly {
        (INITIATION_SOURCE, INITIATION_TOTAL)
    } else {
        (HELLO_SOURCE, HELLO_TOTAL)
    };
    let now = tables.now();
    let key = SourceKey::new(key_id, header.kind, source);
    if tables.source(&key, |bucket| bucket.take(now, per_source)) != Some(true) {
        return attributed(Verdict::RateLimited);
    }
    let admitted = tables.knock(key_id, |knock| {
        let bucket = if costly {
            &mut knock.initiation
        } else {
            &mut knock.hello
        };
        let taken = bucket.take(now, total);
        if taken && once {
            knock.remember(header.counter);
        }
        taken
    });
    if admitted != Some(true) {
        return attributed(Verdict::RateLimited);
    }
    attributed(if tables.redirect() {
        Verdict::Admitted
    } else {
        Verdict::NoSocket
    })
}

/// The tag a handshake frame should carry; `None` where the payload is not there.
#[inline(always)]
fn tag_of(header: &Header, key: [u64; 2], (frame, front): (&impl Frame, usize)) -> Option<u64> {
    let [first, second] = header.words();
    let mut hash = SipHash24::new(key);
    hash.word(first);
    hash.word(second);
    for at in 0..INITIATION_LEN / 8 {
        if at * 8 >= header.length as usize {
            break;
        }
        hash.word(frame.word(front + HEADER_LEN + at * 8)?);
    }
    Some(hash.finish())
}
