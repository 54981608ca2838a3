//! What a port over `udp` answers, where it is not to look dead (`stealth = false`), to a datagram that has no valid
//! tag: that nobody listens there, by ICMP (RFC 792) or ICMPv6 (RFC 4443, section 3.1) "port unreachable", as any
//! kernel does, which quotes the headers and nothing of the payload. What no kernel would answer is not: fragments,
//! options, extension headers, and what is from no host's address.

use crate::Frame;
use crate::admission::Tables;
use crate::limits::{ETH_LEN, SECOND, UDP_V4_LEN, UDP_V6_LEN};
use crate::pinned::FrameMut;
use crate::read::{
    ICMP, ICMPV6, IPV4, IPV6, UDP, big, byte, folded, halves, is_a_hosts_v4, is_a_hosts_v6, v4_at,
    v6_at,
};
use crate::tables::{Source, SourceKey};
use crate::udp::Udp;
use crate::verdict::Verdict;

/// Bytes of an answer by IPv4: the headers of Ethernet, IP and ICMP, and what is quoted.
pub const ANSWER_V4: usize = UDP_V4_LEN + QUOTED_V4;
/// The same by IPv6.
pub const ANSWER_V6: usize = UDP_V6_LEN + QUOTED_V6;
/// What is quoted: the headers of IP and UDP.
const QUOTED_V4: usize = 28;
const QUOTED_V6: usize = 48;
/// Bucket of a port's answers: interval between tokens, and burst.
pub const REFUSALS: (u64, u64) = (SECOND / 100, 50);
/// The type that tells that bucket from those of frames and questions.
const REFUSAL: u8 = 0xfe;

/// Type and code of "port unreachable".
const UNREACHABLE_V4: u16 = 0x0303;
const UNREACHABLE_V6: u16 = 0x0104;
/// What Linux sends its ICMP errors with: precedence "internetwork control", and 64 hops.
const START: u16 = 0x45c0;
/// Not to be fragmented.
const WHOLE: u16 = 0x4000;
const HOPS: u16 = 64;

impl Verdict {
    /// Whether it is of a datagram for the tunnel that is not by anyone who has a key.
    #[inline(always)]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Verdict::OuterMalformed
                | Verdict::Malformed
                | Verdict::UnknownSession
                | Verdict::UnknownKey
                | Verdict::BadTag
        )
    }
}

impl Udp {
    /// Whether a datagram with this verdict is answered now.
    #[inline(always)]
    pub fn refuses(&self, verdict: Verdict, tables: &impl Tables) -> bool {
        if self.stealth || !verdict.is_refusal() {
            return false;
        }
        let now = tables.now();
        let key = SourceKey::new(0, REFUSAL, Source::mac([0; 6]));
        tables.source(&key, |bucket| bucket.take(now, REFUSALS)) == Some(true)
    }

    /// Whether a frame is a datagram that can be answered: to the tunnel's port, whole, from a host.
    #[inline(always)]
    pub fn is_answerable(&self, frame: &impl Frame) -> bool {
        let answerable = match frame.be16(12) {
            Some(IPV4) => self.is_answerable_v4(frame),
            Some(IPV6) => self.is_answerable_v6(frame),
            _ => None,
        };
        answerable == Some(true)
    }

    #[inline(always)]
    fn is_answerable_v4(&self, frame: &impl Frame) -> Option<bool> {
        let (from, to) = (v4_at(frame, 26)?, v4_at(frame, 30)?);
        let (start, fragment) = (frame.be16(ETH_LEN)?, frame.be16(20)?);
        let protocol = byte(frame, 23)?;
        if start >> 8 != 0x45 || fragment & 0x3fff != 0 || protocol != UDP {
            return Some(false);
        }
        if frame.be16(36)? != self.port || frame.be16(34)? == 0 {
            return Some(false);
        }
        if (self.v4 != 0 || !self.shared) && to != self.v4 {
            return Some(false);
        }
        Some(is_a_hosts_v4(from) && is_a_hosts_v4(to) && from != to)
    }

    #[inline(always)]
    fn is_answerable_v6(&self, frame: &impl Frame) -> Option<bool> {
        let (from, to) = (v6_at(frame, 22)?, v6_at(frame, 38)?);
        let (start, next) = (frame.be16(ETH_LEN)?, byte(frame, 20)?);
        if start >> 12 != 6 || next != UDP {
            return Some(false);
        }
        if frame.be16(56)? != self.port || frame.be16(54)? == 0 {
            return Some(false);
        }
        let any = self.shared && self.v6[0] | self.v6[1] == 0;
        if !any && differ(to, self.v6) {
            return Some(false);
        }
        Some(is_a_hosts_v6(from) && is_a_hosts_v6(to) && differ(from, to))
    }
}

#[inline(always)]
fn differ(one: [u64; 2], other: [u64; 2]) -> bool {
    one[0] != other[0] || one[1] != other[1]
}

/// Makes a datagram that [is answerable](Udp::is_answerable), and has become as long as its answer, that answer.
/// `None` where that could not be written; then the frame is of no use.
#[inline(always)]
pub fn answer(frame: &mut impl FrameMut) -> Option<()> {
    let (to, from) = (frame.mac(6)?, frame.mac(0)?);
    frame.set_mac(0, to)?;
    frame.set_mac(6, from)?;
    match frame.be16(12)? {
        IPV4 => v4(frame),
        _ => v6(frame),
    }
}

// Step by step and without loops, which the verifier would have to be shown the bounds of.
#[inline(always)]
fn v4(frame: &mut impl FrameMut) -> Option<()> {
    const LENGTH: u16 = (ANSWER_V4 - ETH_LEN) as u16;
    const LAST: u16 = HOPS << 8 | ICMP as u16;
    let (sender, own) = (v4_at(frame, 26)?, v4_at(frame, 30)?);
    let mut sum = copy(frame, 14, 42)? + copy(frame, 22, 50)? + copy(frame, 30, 58)?;
    let (length, checksum) = (frame.be16(38)?, frame.be16(40)?);
    frame.set_be16(66, length)?;
    frame.set_be16(68, checksum)?;
    sum += big(length) + big(checksum) + big(UNREACHABLE_V4);
    frame.set_be16(34, UNREACHABLE_V4)?;
    frame.set_be16(36, folded(sum))?;
    frame.set_be16(38, 0)?;
    frame.set_be16(40, 0)?;
    frame.set_be16(14, START)?;
    frame.set_be16(16, LENGTH)?;
    frame.set_be16(18, 0)?;
    frame.set_be16(20, WHOLE)?;
    frame.set_be16(22, LAST)?;
    frame.set_be16(26, (own >> 16) as u16)?;
    frame.set_be16(28, own as u16)?;
    frame.set_be16(30, (sender >> 16) as u16)?;
    frame.set_be16(32, sender as u16)?;
    let addresses =
        big((own >> 16) as u16) + big(own as u16) + big((sender >> 16) as u16) + big(sender as u16);
    frame.set_be16(
        24,
        folded(big(START) + big(LENGTH) + big(WHOLE) + big(LAST) + addresses),
    )
}

#[inline(always)]
fn v6(frame: &mut impl FrameMut) -> Option<()> {
    const LENGTH: u16 = (8 + QUOTED_V6) as u16;
    let (sender, own) = (v6_at(frame, 22)?, v6_at(frame, 38)?);
    let mut sum = copy(frame, 14, 62)? + copy(frame, 22, 70)? + copy(frame, 30, 78)?;
    sum += copy(frame, 38, 86)? + copy(frame, 46, 94)? + copy(frame, 54, 102)?;
    // And the pseudo-header: both addresses, length and protocol.
    sum += halves(sender[0]) + halves(sender[1]) + halves(own[0]) + halves(own[1]);
    sum += big(UNREACHABLE_V6) + big(LENGTH) + big(ICMPV6 as u16);
    frame.set_be16(14, 0x6000)?;
    frame.set_be16(16, 0)?;
    frame.set_be16(18, LENGTH)?;
    frame.set_be16(20, (ICMPV6 as u16) << 8 | HOPS)?;
    frame.set_word(22, own[0])?;
    frame.set_word(30, own[1])?;
    frame.set_word(38, sender[0])?;
    frame.set_word(46, sender[1])?;
    frame.set_be16(54, UNREACHABLE_V6)?;
    frame.set_be16(56, folded(sum))?;
    frame.set_be16(58, 0)?;
    frame.set_be16(60, 0)
}

/// Copies eight bytes, and gives the sum of them.
#[inline(always)]
fn copy(frame: &mut impl FrameMut, from: usize, to: usize) -> Option<u64> {
    let word = frame.word(from)?;
    frame.set_word(to, word)?;
    Some(halves(word))
}

/// Whether a packet that leaves is such an answer.
#[inline(always)]
pub fn is_answer(frame: &impl Frame) -> bool {
    match frame.be16(12) {
        Some(IPV4) => byte(frame, 23) == Some(ICMP) && frame.be16(34) == Some(UNREACHABLE_V4),
        Some(IPV6) => byte(frame, 20) == Some(ICMPV6) && frame.be16(54) == Some(UNREACHABLE_V6),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;
    use etherparse::{
        Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
        icmpv4::DestUnreachableHeader as V4, icmpv6::DestUnreachableCode as V6,
    };
    use proptest::prelude::*;
    use std::vec::Vec;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn answered(frame: &[u8]) -> Vec<u8> {
        assert!(!is_answer(&frame));
        let mut answer = frame.to_vec();
        let v4 = frame[12] == 8;
        answer.resize(if v4 { ANSWER_V4 } else { ANSWER_V6 }, 0);
        super::answer(&mut &mut answer[..]).unwrap();
        assert!(is_answer(&&answer[..]));
        answer
    }

    #[test]
    fn only_whole_datagrams_from_hosts_to_the_tunnels_own_address_and_port_are_answered() {
        let own: ([u8; 4], Ipv6Addr) = ([192, 0, 2, 1], "2001:db8::1".parse().unwrap());
        let other: ([u8; 4], Ipv6Addr) = ([198, 51, 100, 7], "2001:db8:7::7".parse().unwrap());
        let udp = Udp::new(500, Some(own.0.into()), Some(own.1), false);
        let v4 = |from: [u8; 4], to: [u8; 4], ports: (u16, u16)| {
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(ROUTER, OWN).ipv4(from, to, 60);
            builder
                .udp(ports.0, ports.1)
                .write(&mut frame, &[])
                .unwrap();
            frame
        };
        let sound = v4(other.0, own.0, (7, 500));
        assert!(udp.is_answerable(&&sound[..]));
        for head in [
            v4(other.0, own.0, (7, 501)),
            v4(other.0, own.0, (0, 500)),
            v4(other.0, [192, 0, 2, 2], (7, 500)),
            v4(own.0, own.0, (7, 500)),
            v4([127, 0, 0, 1], own.0, (7, 500)),
            v4([0; 4], own.0, (7, 500)),
            v4([224, 0, 0, 1], own.0, (7, 500)),
            v4([255; 4], own.0, (7, 500)),
        ] {
            assert!(!udp.is_answerable(&&head[..]), "{head:02x?}");
        }
        for (at, value) in [(14, 0x46), (20, 0x20), (21, 1), (23, 6)] {
            let mut head = sound.clone();
            head[at] = value;
            assert!(!udp.is_answerable(&&head[..]), "byte {at}");
        }
        let v6 = |from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16)| {
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(ROUTER, OWN);
            let builder = builder.ipv6(from.octets(), to.octets(), 60);
            builder
                .udp(ports.0, ports.1)
                .write(&mut frame, &[])
                .unwrap();
            frame
        };
        let sound = v6(other.1, own.1, (7, 500));
        assert!(udp.is_answerable(&&sound[..]));
        let [all, none, itself] = ["ff02::1", "::", "::1"].map(|text| text.parse().unwrap());
        for head in [
            v6(other.1, own.1, (7, 501)),
            v6(other.1, own.1, (0, 500)),
            v6(other.1, other.1, (7, 500)),
            v6(own.1, own.1, (7, 500)),
            v6(all, own.1, (7, 500)),
            v6(none, own.1, (7, 500)),
            v6(itself, own.1, (7, 500)),
        ] {
            assert!(!udp.is_answerable(&&head[..]), "{head:02x?}");
        }
        // On a shared port without an address, to whichever it was sent.
        let any = Udp::new(500, None, None, true);
        assert!(any.is_answerable(&&v4(other.0, [192, 0, 2, 2], (7, 500))[..]));
        assert!(!any.is_answerable(&&v4(other.0, [255; 4], (7, 500))[..]));
        assert!(any.is_answerable(&&v6(other.1, own.1, (7, 500))[..]));
        assert!(!any.is_answerable(&&v6(other.1, all, (7, 500))[..]));
        // On one of its own without that, nothing is.
        let neither = Udp::new(500, None, None, false);
        assert!(!neither.is_answerable(&&v4(other.0, [0; 4], (7, 500))[..]));
        assert!(!neither.is_answerable(&&v6(other.1, none, (7, 500))[..]));
    }

    proptest! {
        #[test]
        fn an_answer_goes_back_with_right_checksums_and_quotes_the_headers(
            v4: ([u8; 4], [u8; 4]), v6: ([u8; 16], [u8; 16]), ports: (u16, u16), data in prop::collection::vec(any::<u8>(), 24..200),
        ) {
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(ROUTER, OWN).ipv4(v4.0, v4.1, 60);
            builder.udp(ports.0, ports.1).write(&mut frame, &data).unwrap();
            let answer = answered(&frame);
            prop_assert!(answer.len() <= frame.len() + 4);
            let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
            let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
            let header = ip.header();
            prop_assert_eq!((header.source(), header.destination()), (v4.1, v4.0));
            prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("no ICMP") };
            prop_assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(V4::Port));
            prop_assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            prop_assert_eq!(icmp.payload(), &frame[14..42]);
            prop_assert_eq!((&answer[..6], &answer[6..12]), (&ROUTER[..], &OWN[..]));

            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(ROUTER, OWN).ipv6(v6.0, v6.1, 60);
            builder.udp(ports.0, ports.1).write(&mut frame, &data).unwrap();
            let answer = answered(&frame);
            let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
            prop_assert_eq!((ip.header().source(), ip.header().destination()), (v6.1, v6.0));
            let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("no ICMPv6") };
            prop_assert_eq!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(V6::Port));
            prop_assert!(icmp.is_checksum_valid(v6.1, v6.0));
            prop_assert_eq!(icmp.payload(), &frame[14..62]);
        }
    }
}
