//! `udp` encapsulation: what of a port's IPv4 and IPv6 packets is the tunnel's, and what is wrong with it.
//!
//! A port is *exclusive*, where nothing but the tunnel passes and questions for the hardware address of the port's
//! own addresses (ARP, neighbour solicitation) are answered without the kernel; or *shared*, where the kernel gets
//! everything that does not come for the tunnel's UDP port.
//!
//! The UDP checksum is not looked at. What it covers is covered by the admission tag and the AEAD, but for the
//! addresses: were one of those mistaken, the answers to one frame would go astray. And between two namespaces of one
//! machine, or behind a NIC that has not finished it yet, it is not there to be checked.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::Frame;
use crate::admission::Tables;
use crate::limits::{ETH_LEN, HEADER_LEN, UDP_V4_LEN, UDP_V6_LEN};
use crate::pinned::{CLAIMS, PinKey, PinTables, PinnedVerdict, claim};
use crate::read::{ARP, ICMPV6, IPV4, IPV6, UDP, byte, is_a_hosts_v4, is_a_hosts_v6, v4_at, v6_at};
use crate::tables::{Source, SourceKey, SourceKind};
use crate::verdict::Verdict;

const UDP_LEN: usize = 8;
/// No Portcullis frame has this type: the buckets of questions are told from those of frames by it.
const CLAIM: u8 = 0xff;

/// Whether a next header is an extension header (RFC 8200, IANA's list): hop by hop, routing, fragment,
/// encapsulation, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140)
}

/// A port's `udp` encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// The tunnel's UDP port.
    pub port: u16,
    /// The IPv4 address that frames must be for, as a number; 0 for none on an exclusive port, for any on a
    /// shared one.
    pub v4: u32,
    /// The same of IPv6, as two little-endian words.
    pub v6: [u64; 2],
    /// Whether the kernel gets what is not the tunnel's.
    pub shared: bool,
    /// Whether who has no key gets no answer at all: see [`crate::refusal`].
    pub stealth: bool,
}

/// A datagram for the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes before the Portcullis header.
    pub front: usize,
    /// Bytes of the UDP payload.
    pub payload: usize,
    /// Where it is from.
    pub source: Source,
}

impl Udp {
    /// A port of its own, or a shared one, with these addresses, which looks dead.
    pub fn new(port: u16, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, shared: bool) -> Self {
        let v6 = v6.map_or(0, |v6| u128::from_le_bytes(v6.octets()));
        Self {
            port,
            v4: v4.map_or(0, Ipv4Addr::to_bits),
            v6: [v6 as u64, (v6 >> 64) as u64],
            shared,
            stealth: true,
        }
    }

    /// What is not the tunnel's.
    #[inline(always)]
    const fn other(&self) -> Verdict {
        match self.shared {
            true => Verdict::Passed,
            false => Verdict::Foreign,
        }
    }

    /// What is cut off before it can be told.
    #[inline(always)]
    const fn short(&self) -> Verdict {
        match self.shared {
            true => Verdict::Passed,
            false => Verdict::Short,
        }
    }

    /// What is for another IP address.
    #[inline(always)]
    const fn elsewhere(&self) -> Verdict {
        match self.shared {
            true => Verdict::Passed,
            false => Verdict::Misdirected,
        }
    }

    /// A UDP header that is not where it should be, or may not be there at all.
    #[inline(always)]
    const fn hidden(&self) -> Verdict {
        match self.shared {
            true => Verdict::Passed,
            false => Verdict::OuterMalformed,
        }
    }

    /// The datagram for the tunnel that a frame carries to a port with the address `mac`.
    ///
    /// # Errors
    /// The verdict about a frame that carries none.
    #[inline(always)]
    pub fn datagram(
        &self,
        mac: [u8; 6],
        frame: &impl Frame,
        tables: &impl Tables,
    ) -> Result<Datagram, Verdict> {
        let Some(ethertype) = frame.be16(12) else {
            return Err(Verdict::Short);
        };
        match ethertype {
            IPV4 => self.v4(mac, frame),
            IPV6 => self.v6(mac, frame, tables),
            ARP if !self.shared => Err(self.question(mac, frame, tables)),
            _ => Err(self.other()),
        }
    }

    // The last bytes first: the verifier does not follow conditions that are combined, and each step returns.
    #[inline(always)]
    fn v4(&self, mac: [u8; 6], frame: &impl Frame) -> Result<Datagram, Verdict> {
        if frame.be16(UDP_V4_LEN - 2).is_none() {
            return Err(self.short());
        }
        let Some(protocol) = byte(frame, 23) else {
            return Err(self.short());
        };
        if protocol != UDP {
            return Err(self.other());
        }
        let Some(to) = v4_at(frame, 30) else {
            return Err(self.short());
        };
        if (self.v4 != 0 || !self.shared) && to != self.v4 {
            return Err(self.elsewhere());
        }
        let Some(start) = frame.be16(ETH_LEN) else {
            return Err(self.short());
        };
        let Some(fragment) = frame.be16(20) else {
            return Err(self.short());
        };
        // A later fragment tells no port. The first one of a datagram for the tunnel is dropped below, so the
        // kernel never puts one together.
        if fragment & 0x1fff != 0 {
            return Err(self.hidden());
        }
        let (version, words) = (start >> 12, (start >> 8 & 15) as usize);
        if version != 4 || words < 5 {
            return Err(self.hidden());
        }
        if words > 5 {
            return Err(match frame.far_be16(ETH_LEN + words * 4 + 2) {
                Some(port) if port == self.port => Verdict::OuterMalformed,
                _ => self.hidden(),
            });
        }
        let Some(port) = frame.be16(36) else {
            return Err(self.short());
        };
        if port != self.port {
            return Err(self.other());
        }
        if fragment & 0x2000 != 0 {
            return Err(Verdict::OuterMalformed);
        }
        let Some(destination) = frame.mac(0) else {
            return Err(Verdict::Short);
        };
        if destination != mac {
            return Err(Verdict::Misdirected);
        }
        let Some(whole) = frame.be16(16) else {
            return Err(Verdict::Short);
        };
        let Some(length) = frame.be16(38) else {
            return Err(Verdict::Short);
        };
        let (whole, length) = (whole as usize, length as usize);
        if whole != length + 20 {
            return Err(Verdict::OuterMalformed);
        }
        if length < UDP_LEN + HEADER_LEN {
            return Err(Verdict::OuterMalformed);
        }
        if !frame.holds(ETH_LEN + whole) {
            return Err(Verdict::OuterMalformed);
        }
        let mut sum = 0u32;
        for at in 0..10 {
            let Some(word) = frame.be16(ETH_LEN + at * 2) else {
                return Err(Verdict::Short);
            };
            sum += word as u32;
        }
        // Twice: the first fold can carry.
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        if sum != 0xffff {
            return Err(Verdict::OuterMalformed);
        }
        let Some(from) = v4_at(frame, 26) else {
            return Err(Verdict::Short);
        };
        let Some(source) = frame.be16(34) else {
            return Err(Verdict::Short);
        };
        if !is_a_hosts_v4(from) {
            return Err(Verdict::OuterMalformed);
        }
        // Nor is our own address another's.
        if from == to || source == 0 {
            return Err(Verdict::OuterMalformed);
        }
        Ok(Datagram {
            front: UDP_V4_LEN,
            payload: length - UDP_LEN,
            source: Source::new(SourceKind::V4, from as u64),
        })
    }

    #[inline(always)]
    fn v6(
        &self,
        mac: [u8; 6],
        frame: &impl Frame,
        tables: &impl Tables,
    ) -> Result<Datagram, Verdict> {
        let Some(next) = byte(frame, 20) else {
            return Err(self.short());
        };
        if next == ICMPV6 && !self.shared {
            return Err(self.question(mac, frame, tables));
        }
        if is_extension(next) {
            return Err(self.hidden());
        }
        if next != UDP {
            return Err(self.other());
        }
        let Some(checksum) = frame.be16(UDP_V6_LEN - 2) else {
            return Err(self.short());
        };
        let Some(to) = v6_at(frame, 38) else {
            return Err(self.short());
        };
        if (self.v6 != [0; 2] || !self.shared) && to != self.v6 {
            return Err(self.elsewhere());
        }
        let Some(port) = frame.be16(56) else {
            return Err(self.short());
        };
        if port != self.port {
            return Err(self.other());
        }
        let Some(destination) = frame.mac(0) else {
            return Err(Verdict::Short);
        };
        if destination != mac {
            return Err(Verdict::Misdirected);
        }
        let Some(start) = frame.be16(ETH_LEN) else {
            return Err(Verdict::Short);
        };
        let Some(whole) = frame.be16(18) else {
            return Err(Verdict::Short);
        };
        let Some(length) = frame.be16(58) else {
            return Err(Verdict::Short);
        };
        if start >> 12 != 6 || whole != length {
            return Err(Verdict::OuterMalformed);
        }
        let length = length as usize;
        // IPv6 has no checksum of its own, so that of UDP may not be left out (RFC 8200, section 8.1).
        if length < UDP_LEN + HEADER_LEN || checksum == 0 {
            return Err(Verdict::OuterMalformed);
        }
        if !frame.holds(ETH_LEN + 40 + length) {
            return Err(Verdict::OuterMalformed);
        }
        let Some(from) = v6_at(frame, 22) else {
            return Err(Verdict::Short);
        };
        let Some(source) = frame.be16(54) else {
            return Err(Verdict::Short);
        };
        if !is_a_hosts_v6(from) {
            return Err(Verdict::OuterMalformed);
        }
        if from == to || source == 0 {
            return Err(Verdict::OuterMalformed);
        }
        Ok(Datagram {
            front: UDP_V6_LEN,
            payload: length - UDP_LEN,
            source: Source::new(SourceKind::V6, from[0]),
        })
    }

    /// A question for the hardware address of one of our addresses is answered; all else of ARP and ICMPv6 is
    /// foreign here.
    #[inline(always)]
    fn question(&self, mac: [u8; 6], frame: &impl Frame, tables: &impl Tables) -> Verdict {
        let Some(source) = frame.mac(6) else {
            return Verdict::Short;
        };
        let asked = Asked {
            udp: self,
            limit: |now| {
                let key = SourceKey::new(0, CLAIM, Source::mac(source));
                tables.source(&key, |bucket| bucket.take(now, CLAIMS)) == Some(true)
            },
            now: || tables.now(),
        };
        match claim(mac, frame, &asked) {
            PinnedVerdict::Answered => Verdict::Answered,
            PinnedVerdict::RateLimited => Verdict::RateLimited,
            PinnedVerdict::Short => Verdict::Short,
            _ => Verdict::Foreign,
        }
    }

    /// Whether a frame is a question that [`Verdict::Answered`] was for, whatever the rate.
    #[inline(always)]
    pub fn is_question(&self, mac: [u8; 6], frame: &impl Frame) -> bool {
        let asked = Asked {
            udp: self,
            limit: |_| true,
            now: || 0,
        };
        matches!(claim(mac, frame, &asked), PinnedVerdict::Answered)
    }
}

/// Who may ask for what: anyone, for the port's own addresses.
struct Asked<'a, L, N> {
    udp: &'a Udp,
    limit: L,
    now: N,
}

impl<L: Fn(u64) -> bool, N: Fn() -> u64> PinTables for Asked<'_, L, N> {
    #[inline(always)]
    fn pin(&self, key: &PinKey) -> Option<u32> {
        let known = match key.kind {
            PinKey::OWN_V4 => self.udp.v4 != 0 && key.address[0] == self.udp.v4 as u64,
            PinKey::OWN_V6 => self.udp.v6 != [0; 2] && key.address == self.udp.v6,
            // Whose address this is, is not known here, and nothing is learned from it.
            _ => true,
        };
        if known { Some(0) } else { None }
    }

    #[inline(always)]
    fn may_send(&self, _pin: u32) -> bool {
        false
    }

    #[inline(always)]
    fn may_ask(&self, _pin: u32) -> bool {
        (self.limit)((self.now)())
    }
}
