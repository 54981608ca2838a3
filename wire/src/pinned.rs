//! The decisions on a `pinned` port: which frames of a Workstation without keys reach the kernel,
//! and which of the kernel's reach that Workstation.
//!
//! A pin is a MAC address and the IP addresses that may be used with it. [`decide`] passes plain TCP,
//! UDP and echo from a pin to the port's own addresses, and nothing else. Questions for the hardware
//! address of the port's own addresses (ARP, neighbour solicitation) get their [`answer()`] without the
//! kernel, which never sees one and has nothing to learn from. [`may_leave`] is the same for the way out.
//!
//! Like [`crate::decide`] they are generic over where frame and tables are, and run in XDP, in the
//! guards, and in tests over plain memory.

mod answer;
mod verdict;

use core::net::IpAddr;

use crate::Frame;
use crate::limits::{BROADCAST, ETH_LEN, SECOND};
use crate::read::{ARP, ICMP, ICMPV6, IPV4, IPV6, UDP, byte, v4_at, v6_at};
use crate::tables::Bucket;

pub use answer::{FrameMut, answer, is_answer};
pub use verdict::PinnedVerdict;

/// Pins that a port can have.
pub const MAX_PINS: u32 = 256;
/// Addresses that a pin, and a port, can have.
pub const MAX_ADDRESSES: usize = 16;
/// Bucket of a pin's ARP requests and neighbour solicitations: interval between tokens, and burst.
pub const CLAIMS: (u64, u64) = (SECOND / 20, 40);

const TCP: u8 = 6;
const FRAGMENT_HEADER: u8 = 44;

/// The offset of an IPv4 transport header without options, and of an IPv6 one.
const V4_TRANSPORT: usize = ETH_LEN + 20;
const V6_TRANSPORT: usize = ETH_LEN + 40;
/// No ARP or solicitation is longer than this, however it is padded.
const LONGEST_CLAIM: usize = 128;

/// fe80::/64, as the first word of an address.
const LINK_LOCAL: u64 = u64::from_le_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0]);

/// What is looked up in the table of pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PinKey {
    /// A pin's MAC address; zero for the port's own addresses.
    pub mac: [u8; 6],
    /// What kind of entry it is, so that no entry is taken for one of another kind.
    pub kind: u16,
    /// The address: IPv4 as a number in the first word, IPv6 as two little-endian words.
    pub address: [u64; 2],
}

impl PinKey {
    /// The kind of [`PinKey::mac`].
    pub const MAC: u16 = 1;
    /// The kind of [`PinKey::pinned`] of IPv4.
    pub const V4: u16 = 4;
    /// The kind of [`PinKey::pinned`] of IPv6.
    pub const V6: u16 = 6;
    /// The kind of [`PinKey::own`] of IPv4.
    pub const OWN_V4: u16 = 0x104;
    /// The kind of [`PinKey::own`] of IPv6.
    pub const OWN_V6: u16 = 0x106;

    /// A pin's MAC address, with whatever address.
    pub const fn mac(mac: [u8; 6]) -> Self {
        Self {
            mac,
            kind: Self::MAC,
            address: [0; 2],
        }
    }

    /// An address of a pin.
    pub fn pinned(mac: [u8; 6], address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(mac, v4.to_bits()),
            IpAddr::V6(v6) => Self::v6(mac, words(v6.octets())),
        }
    }

    /// An address of the port's own.
    pub fn own(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::own_v4(v4.to_bits()),
            IpAddr::V6(v6) => Self::own_v6(words(v6.octets())),
        }
    }

    const fn v4(mac: [u8; 6], address: u32) -> Self {
        Self {
            mac,
            kind: Self::V4,
            address: [address as u64, 0],
        }
    }

    const fn v6(mac: [u8; 6], address: [u64; 2]) -> Self {
        Self {
            mac,
            kind: Self::V6,
            address,
        }
    }

    const fn own_v4(address: u32) -> Self {
        Self {
            mac: [0; 6],
            kind: Self::OWN_V4,
            address: [address as u64, 0],
        }
    }

    const fn own_v6(address: [u64; 2]) -> Self {
        Self {
            mac: [0; 6],
            kind: Self::OWN_V6,
            address,
        }
    }
}

fn words(octets: [u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(octets);
    [number as u64, (number >> 64) as u64]
}

/// What a pin may send.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct PinLimits {
    /// Nanoseconds between two frames at its rate.
    pub interval: u64,
    /// Frames it may send at once; not 0.
    pub burst: u64,
    /// The bucket of its frames to the kernel.
    pub frames: Bucket,
    /// The bucket of its ARP requests and solicitations.
    pub claims: Bucket,
}

impl PinLimits {
    /// Whether the pin may send the kernel a frame now; if so, it has.
    #[inline(always)]
    pub fn send(&mut self, now: u64) -> bool {
        self.frames.take(now, (self.interval, self.burst))
    }

    /// Whether it may ask for an address of the port now; if so, it has.
    #[inline(always)]
    pub fn ask(&mut self, now: u64) -> bool {
        self.claims.take(now, CLAIMS)
    }
}

/// The tables of a pinned port.
pub trait PinTables {
    /// The number of the pin that an entry belongs to.
    fn pin(&self, key: &PinKey) -> Option<u32>;
    /// [`PinLimits::send`] of a pin.
    fn may_send(&self, pin: u32) -> bool;
    /// [`PinLimits::ask`] of a pin.
    fn may_ask(&self, pin: u32) -> bool;
}

/// The verdict, and the number of the pin that the frame is from, where it is from one.
pub type PinnedDecision = (PinnedVerdict, Option<u32>);

/// Decides about one frame that arrives at a port with the address `mac`. [`PinnedVerdict::Passed`] goes
/// to the kernel; to [`PinnedVerdict::Answered`] the caller gives the [`answer()`]; everything else is
/// dropped by the caller.
#[inline(always)]
pub fn decide(mac: [u8; 6], frame: &impl Frame, tables: &impl PinTables) -> PinnedDecision {
    // The last first, here and below: the verifier does not follow conditions that are combined.
    let Some(ethertype) = frame.be16(12) else {
        return (PinnedVerdict::Short, None);
    };
    let Some(source) = frame.mac(6) else {
        return (PinnedVerdict::Short, None);
    };
    let Some(destination) = frame.mac(0) else {
        return (PinnedVerdict::Short, None);
    };
    let cable = Cable {
        mac,
        destination,
        source,
    };
    match ethertype {
        IPV4 => cable.v4(frame, tables),
        IPV6 => cable.v6(frame, tables),
        ARP => cable.arp(frame, tables),
        // VLAN tags too, so that nothing hides behind one.
        _ => (PinnedVerdict::Foreign, None),
    }
}

/// Decides about ARP, and about ICMPv6's neighbour discovery, alone: [`PinnedVerdict::Answered`] is a question for one
/// of the port's own addresses. Any other frame is [`PinnedVerdict::Foreign`].
#[inline(always)]
pub fn claim(mac: [u8; 6], frame: &impl Frame, tables: &impl PinTables) -> PinnedVerdict {
    let Some(ethertype) = frame.be16(12) else {
        return PinnedVerdict::Short;
    };
    let Some(source) = frame.mac(6) else {
        return PinnedVerdict::Short;
    };
    let Some(destination) = frame.mac(0) else {
        return PinnedVerdict::Short;
    };
    let cable = Cable {
        mac,
        destination,
        source,
    };
    let verdict = match ethertype {
        ARP => cable.arp_of(0, frame, tables),
        IPV6 => cable.solicited(frame, tables),
        _ => Some(PinnedVerdict::Foreign),
    };
    match verdict {
        Some(verdict) => verdict,
        None => PinnedVerdict::Short,
    }
}

/// Decides whether a frame of the kernel's may leave a pinned port: IP from one of the port's own
/// addresses to an address of a pin, at that pin's MAC address. The caller has made sure that it is this
/// machine's own and not forwarded.
#[inline(always)]
pub fn may_leave(frame: &impl Frame, tables: &impl PinTables) -> bool {
    let leaves = match frame.be16(12) {
        Some(IPV4) => leaves_v4(frame, tables),
        Some(IPV6) => leaves_v6(frame, tables),
        _ => None,
    };
    leaves.is_some()
}

#[inline(always)]
fn leaves_v4(frame: &impl Frame, tables: &impl PinTables) -> Option<u32> {
    let to = v4_at(frame, 30)?;
    let from = v4_at(frame, 26)?;
    let mac = frame.mac(0)?;
    tables.pin(&PinKey::own_v4(from))?;
    tables.pin(&PinKey::v4(mac, to))
}

#[inline(always)]
fn leaves_v6(frame: &impl Frame, tables: &impl PinTables) -> Option<u32> {
    let to = v6_at(frame, 38)?;
    let from = v6_at(frame, 22)?;
    let mac = frame.mac(0)?;
    tables.pin(&PinKey::own_v6(from))?;
    tables.pin(&PinKey::v6(mac, to))
}

/// The Ethernet addresses of a frame, and the port's own.
#[derive(Clone, Copy)]
struct Cable {
    mac: [u8; 6],
    destination: [u8; 6],
    source: [u8; 6],
}

impl Cable {
    /// The pin that has this address, or what is wrong.
    #[inline(always)]
    fn pin(&self, key: &PinKey, tables: &impl PinTables) -> Result<u32, PinnedDecision> {
        match tables.pin(key) {
            Some(pin) => Ok(pin),
            None => Err(match tables.pin(&PinKey::mac(self.source)) {
                Some(pin) => (PinnedVerdict::SpoofedAddress, Some(pin)),
                None => (PinnedVerdict::UnknownMac, None),
            }),
        }
    }

    #[inline(always)]
    fn v4(self, frame: &impl Frame, tables: &impl PinTables) -> PinnedDecision {
        let Some(to) = v4_at(frame, 30) else {
            return (PinnedVerdict::Short, None);
        };
        let Some(from) = v4_at(frame, 26) else {
            return (PinnedVerdict::Short, None);
        };
        let pin = match self.pin(&PinKey::v4(self.source, from), tables) {
            Ok(pin) => pin,
            Err(decision) => return decision,
        };
        let verdict = match v4_fault(frame) {
            Some(fault) => fault,
            None => self.to_us(&PinKey::own_v4(to), pin, tables),
        };
        (verdict, Some(pin))
    }

    #[inline(always)]
    fn v6(self, frame: &impl Frame, tables: &impl PinTables) -> PinnedDecision {
        let Some(to) = v6_at(frame, 38) else {
            return (PinnedVerdict::Short, None);
        };
        let Some(from) = v6_at(frame, 22) else {
            return (PinnedVerdict::Short, None);
        };
        let neighbour = match (byte(frame, 20), byte(frame, V6_TRANSPORT)) {
            (Some(ICMPV6), Some(kind)) => Some(kind).filter(|kind| matches!(kind, 133..=137)),
            _ => None,
        };
        if let Some(kind) = neighbour {
            let Some(pin) = tables.pin(&PinKey::mac(self.source)) else {
                return (PinnedVerdict::UnknownMac, None);
            };
            // Advertisements, redirects, and everything about routers: the Gateway needs none.
            let verdict = match kind {
                135 => self.solicitation(pin, from, to, frame, tables),
                _ => Some(PinnedVerdict::Claim),
            };
            return match verdict {
                Some(verdict) => (verdict, Some(pin)),
                None => (PinnedVerdict::Short, Some(pin)),
            };
        }
        let pin = match self.pin(&PinKey::v6(self.source, from), tables) {
            Ok(pin) => pin,
            Err(decision) => return decision,
        };
        let verdict = match v6_fault(frame) {
            Some(fault) => fault,
            None => self.to_us(&PinKey::own_v6(to), pin, tables),
        };
        (verdict, Some(pin))
    }

    /// A neighbour solicitation; nothing else of IPv6.
    #[inline(always)]
    fn solicited(self, frame: &impl Frame, tables: &impl PinTables) -> Option<PinnedVerdict> {
        let to = v6_at(frame, 38)?;
        let from = v6_at(frame, 22)?;
        let kind = byte(frame, V6_TRANSPORT)?;
        if byte(frame, 20)? != ICMPV6 || kind != 135 {
            return Some(PinnedVerdict::Foreign);
        }
        self.solicitation(0, from, to, frame, tables)
    }

    /// What is otherwise right: whether it is for us, and within the pin's rate.
    #[inline(always)]
    fn to_us(self, own: &PinKey, pin: u32, tables: &impl PinTables) -> PinnedVerdict {
        if self.destination != self.mac {
            return PinnedVerdict::Misdirected;
        }
        // No broadcast, no multicast, no other address of this machine, and nothing to forward.
        if tables.pin(own).is_none() {
            return PinnedVerdict::OtherDestination;
        }
        match tables.may_send(pin) {
            true => PinnedVerdict::Passed,
            false => PinnedVerdict::RateLimited,
        }
    }

    #[inline(always)]
    fn arp(self, frame: &impl Frame, tables: &impl PinTables) -> PinnedDecision {
        let Some(pin) = tables.pin(&PinKey::mac(self.source)) else {
            return (PinnedVerdict::UnknownMac, None);
        };
        let verdict = match self.arp_of(pin, frame, tables) {
            Some(verdict) => verdict,
            None => PinnedVerdict::Short,
        };
        (verdict, Some(pin))
    }

    /// Answered is only the question for one of our addresses, asked under the pin's own. Replies and
    /// gratuitous announcements tell the Gateway nothing it does not know. `None` where the frame is
    /// too short.
    #[inline(always)]
    fn arp_of(
        self,
        pin: u32,
        frame: &impl Frame,
        tables: &impl PinTables,
    ) -> Option<PinnedVerdict> {
        // Each step returns: the verifier does not follow conditions that are combined.
        let target = v4_at(frame, 38)?;
        let sender = v4_at(frame, 28)?;
        let hardware = frame.mac(22)?;
        let kinds = v4_at(frame, 14)?;
        let asks = v4_at(frame, 18)?;
        if kinds != 0x0001_0800 || asks != 0x0604_0001 {
            return Some(PinnedVerdict::Claim);
        }
        if self.destination != BROADCAST && self.destination != self.mac {
            return Some(PinnedVerdict::Claim);
        }
        if hardware != self.source || frame.holds(LONGEST_CLAIM + 1) {
            return Some(PinnedVerdict::Claim);
        }
        if tables.pin(&PinKey::v4(self.source, sender)).is_none() {
            return Some(PinnedVerdict::Claim);
        }
        if tables.pin(&PinKey::own_v4(target)).is_none() {
            return Some(PinnedVerdict::Claim);
        }
        if !tables.may_ask(pin) {
            return Some(PinnedVerdict::RateLimited);
        }
        Some(PinnedVerdict::Answered)
    }

    /// The same for IPv6. A Workstation checks from its link-local address whether we are still there,
    /// which need not be pinned: what answers is not the kernel, and nothing is learned from it.
    #[inline(always)]
    fn solicitation(
        self,
        pin: u32,
        from: [u64; 2],
        to: [u64; 2],
        frame: &impl Frame,
        tables: &impl PinTables,
    ) -> Option<PinnedVerdict> {
        let target = v6_at(frame, 62)?;
        let start = frame.be16(ETH_LEN)?;
        let length = frame.be16(18)?;
        let hops = byte(frame, 21)?;
        let code = frame.be16(54)?;
        if start >> 12 != 6 || hops != 255 || code != 135 << 8 {
            return Some(PinnedVerdict::Claim);
        }
        match length {
            // Who leaves the option out must be asking the address itself, and knows where it is.
            24 if to == target => {}
            32 => {
                let claimed = frame.mac(80)?;
                if frame.be16(78)? != 0x0101 || claimed != self.source {
                    return Some(PinnedVerdict::Claim);
                }
            }
            _ => return Some(PinnedVerdict::Claim),
        }
        let [.., a, b, c] = target[1].to_le_bytes();
        if self.destination != self.mac && self.destination != [0x33, 0x33, 0xff, a, b, c] {
            return Some(PinnedVerdict::Claim);
        }
        let group = [
            u64::from_le_bytes([0xff, 2, 0, 0, 0, 0, 0, 0]),
            u64::from_le_bytes([0, 0, 0, 1, 0xff, a, b, c]),
        ];
        if (to != target && to != group) || frame.holds(LONGEST_CLAIM + 1) {
            return Some(PinnedVerdict::Claim);
        }
        if from[0] != LINK_LOCAL && tables.pin(&PinKey::v6(self.source, from)).is_none() {
            return Some(PinnedVerdict::Claim);
        }
        if tables.pin(&PinKey::own_v6(target)).is_none() {
            return Some(PinnedVerdict::Claim);
        }
        if !tables.may_ask(pin) {
            return Some(PinnedVerdict::RateLimited);
        }
        Some(PinnedVerdict::Answered)
    }
}

/// What is wrong with an IPv4 packet, addresses aside.
#[inline(always)]
fn v4_fault(frame: &impl Frame) -> Option<PinnedVerdict> {
    let (Some(start), Some(length), Some(fragment), Some(protocol)) = (
        frame.be16(ETH_LEN),
        frame.be16(16),
        frame.be16(20),
        byte(frame, 23),
    ) else {
        return Some(PinnedVerdict::Short);
    };
    let (start, length) = (start >> 8, length as usize);
    if start >> 4 != 4 || start & 15 < 5 || length < 20 || !frame.holds(ETH_LEN + length) {
        return Some(PinnedVerdict::Malformed);
    }
    if start & 15 != 5 {
        return Some(PinnedVerdict::Options);
    }
    if fragment & 0x3fff != 0 {
        return Some(PinnedVerdict::Fragment);
    }
    transport_fault(frame, V4_TRANSPORT, protocol, (ICMP, 8, 0), (67, 68))
}

/// What is wrong with an IPv6 packet, addresses aside.
#[inline(always)]
fn v6_fault(frame: &impl Frame) -> Option<PinnedVerdict> {
    let (Some(start), Some(length), Some(next)) =
        (frame.be16(ETH_LEN), frame.be16(18), byte(frame, 20))
    else {
        return Some(PinnedVerdict::Short);
    };
    if start >> 12 != 6 || !frame.holds(V6_TRANSPORT + length as usize) {
        return Some(PinnedVerdict::Malformed);
    }
    match next {
        FRAGMENT_HEADER => Some(PinnedVerdict::Fragment),
        // Hop by hop, routing, destination options, mobility, HIP, shim6.
        0 | 43 | 60 | 135 | 139 | 140 => Some(PinnedVerdict::Options),
        _ => transport_fault(frame, V6_TRANSPORT, next, (ICMPV6, 128, 129), (546, 547)),
    }
}

/// Of the protocols TCP, UDP and echo pass. ICMP errors do not: the kernel would look for whatever
/// connection they claim to be about, also with others. UDP to a DHCP client or server does not.
#[inline(always)]
fn transport_fault(
    frame: &impl Frame,
    at: usize,
    protocol: u8,
    (icmp, request, reply): (u8, u8, u8),
    (server, client): (u16, u16),
) -> Option<PinnedVerdict> {
    let passes = match protocol {
        TCP => true,
        UDP => match frame.be16(at + 2) {
            Some(port) => port != server && port != client,
            None => return Some(PinnedVerdict::Malformed),
        },
        _ if protocol == icmp => match frame.be16(at) {
            Some(kind) => (kind >> 8) as u8 == request || (kind >> 8) as u8 == reply,
            None => return Some(PinnedVerdict::Malformed),
        },
        _ => false,
    };
    (!passes).then_some(PinnedVerdict::Protocol)
}

#[cfg(test)]
mod tests;
