//! What a router answers to a packet that is too large for where it goes: ICMP "fragmentation needed" (RFC 792; RFC
//! 1191, section 4) and ICMPv6 "packet too big" (RFC 4443, section 3.2). The answer is from where the packet goes to,
//! for of a tunnel's ends no other address is known to whoever sent it.

use super::checksum::{Sum, checksum};
use crate::inner::{Pair, pair};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The most of the packet that is quoted: the answer is to have no more than 576 bytes (RFC 1812, section 4.3.2.3), and
/// with IPv6 no more than 1280.
const QUOTED_V4: usize = 576 - 28;
const QUOTED_V6: usize = 1280 - 48;
/// What Linux sends its ICMP errors with: precedence "internetwork control", and 64 hops.
const PRECEDENCE: u8 = 0xc0;
const HOPS: u8 = 64;

/// The answer to `packet`, of which `mtu` bytes would have been carried. `None` for what is never answered: an ICMP
/// error, a later fragment, and what is no whole IP header from a host's address.
pub fn answer(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let pair = pair(packet)?;
    if !pair.source().is_a_hosts() {
        return None;
    }
    match pair {
        Pair::V4([a, b, c, d, e, f, g, h]) => {
            v4(packet, ([a, b, c, d], [e, f, g, h]), mtu.try_into().ok()?)
        }
        Pair::V6(both) => {
            let (source, destination) = both.split_first_chunk::<16>()?;
            let destination = destination.first_chunk::<16>()?;
            v6(packet, (source, destination), mtu.try_into().ok()?)
        }
    }
}

fn v4(packet: &[u8], (source, destination): ([u8; 4], [u8; 4]), mtu: u16) -> Option<Vec<u8>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff;
    let payload = packet.get(header..).filter(|_| header >= 20)?;
    // All but queries and their answers are errors, or not known to be none.
    let is_query = |kind: &u8| matches!(kind, 0 | 8 | 13 | 14);
    if fragment != 0 || (packet[9] == ICMP && !payload.first().is_some_and(is_query)) {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED_V4)];
    let [a, b] = ((28 + quoted.len()) as u16).to_be_bytes();
    let mut answer = vec![0x45, PRECEDENCE, a, b, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0];
    answer.extend(destination);
    answer.extend(source);
    let sum = checksum(&answer).to_be_bytes();
    answer[10..12].copy_from_slice(&sum);
    let [a, b] = mtu.to_be_bytes();
    answer.extend([3, 4, 0, 0, 0, 0, a, b]);
    answer.extend(quoted);
    let sum = checksum(&answer[20..]).to_be_bytes();
    answer[22..24].copy_from_slice(&sum);
    Some(answer)
}

fn v6(packet: &[u8], (source, destination): (&[u8; 16], &[u8; 16]), mtu: u32) -> Option<Vec<u8>> {
    let payload = packet.get(40..)?;
    // Errors have the lower half of the types (RFC 4443, section 2.1).
    if packet[6] == ICMPV6 && payload.first().is_none_or(|kind| *kind < 128) {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED_V6)];
    let length = 8 + quoted.len();
    let [a, b] = (length as u16).to_be_bytes();
    let mut answer = vec![0x60, 0, 0, 0, a, b, ICMPV6, HOPS];
    answer.extend(destination);
    answer.extend(source);
    answer.extend([2, 0, 0, 0]);
    answer.extend(mtu.to_be_bytes());
    answer.extend(quoted);
    let sum = Sum::pseudo_v6(*destination, *source, ICMPV6, length as u32);
    let sum = sum.bytes(&answer[40..]).checksum().to_be_bytes();
    answer[42..44].copy_from_slice(&sum);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket};
    use etherparse::{TransportSlice, icmpv4};
    use proptest::prelude::*;

    fn v4_packet(data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 254], [10, 0, 0, 1], 64);
        builder.udp(7, 9).write(&mut bytes, data).unwrap();
        bytes
    }

    fn v6_packet(data: &[u8]) -> Vec<u8> {
        let address = |last| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[15]) = (0xfd, last);
            bytes
        };
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv6(address(254), address(1), 64);
        builder.udp(7, 9).write(&mut bytes, data).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn a_packet_is_answered_to_its_source_with_the_mtu_and_its_own_beginning(len in 1200usize..9000, mtu in 1192usize..1500) {
            let data = vec![7; len];
            let packet = v4_packet(&data);
            let answer = answer(&packet, mtu).unwrap();
            prop_assert!(answer.len() <= 576);
            let sliced = SlicedPacket::from_ip(&answer).unwrap();
            let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
            prop_assert_eq!(ip.header().source(), [10, 0, 0, 1]);
            prop_assert_eq!(ip.header().destination(), [10, 0, 0, 254]);
            prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("no ICMP") };
            let next_hop_mtu = mtu as u16;
            let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
            prop_assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
            prop_assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            prop_assert_eq!(icmp.payload(), &packet[..548]);

            let packet = v6_packet(&data);
            let answer = super::answer(&packet, mtu).unwrap();
            prop_assert!(answer.len() <= 1280);
            let sliced = SlicedPacket::from_ip(&answer).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
            prop_assert_eq!(&ip.header().source()[..], &packet[24..40]);
            prop_assert_eq!(&ip.header().destination()[..], &packet[8..24]);
            let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("no ICMPv6") };
            prop_assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: mtu as u32 });
            prop_assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
            prop_assert_eq!(icmp.payload(), &packet[..packet.len().min(1232)]);
        }

        #[test]
        fn whatever_it_is_nothing_is_read_beyond_its_end_and_no_answer_is_answered(mut bytes in prop::collection::vec(any::<u8>(), 0..90), version in 0usize..3) {
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x4f, 0x60][version];
            }
            if let Some(answer) = answer(&bytes, 1192) {
                prop_assert_eq!(super::answer(&answer, 20), None);
            }
        }
    }

    #[test]
    fn errors_later_fragments_and_what_no_host_has_sent_are_never_answered() {
        let mut fragment = v4_packet(&[0; 1400]);
        fragment[7] = 1;
        assert_eq!(answer(&fragment, 1192), None);
        let mut nobody = v4_packet(&[0; 1400]);
        nobody[12..16].fill(0);
        assert_eq!(answer(&nobody, 1192), None);
        for (kind, is_answered) in [(0, true), (3, false), (5, false), (8, true), (11, false)] {
            let mut icmp = v4_packet(&[0; 1400]);
            (icmp[9], icmp[20]) = (ICMP, kind);
            assert_eq!(answer(&icmp, 1192).is_some(), is_answered, "ICMP {kind}");
        }
        for (kind, is_answered) in [
            (1, false),
            (2, false),
            (127, false),
            (128, true),
            (129, true),
        ] {
            let mut icmp = v6_packet(&[0; 1400]);
            (icmp[6], icmp[40]) = (ICMPV6, kind);
            assert_eq!(answer(&icmp, 1192).is_some(), is_answered, "ICMPv6 {kind}");
        }
    }
}
