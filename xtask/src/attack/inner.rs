//! Builders of the packets an enrolled attacker sends inside the tunnel. All of them carry a hop count
//! that nothing else in the rig has, by which they are known should they come out.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::frame::checksum;

/// The hop count of every packet of the attacker's.
pub const HOPS: u8 = 77;

const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Whether an IP packet is one of these.
pub fn is_ours(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(8) == Some(&HOPS),
        Some(6) => packet.get(7) == Some(&HOPS),
        _ => false,
    }
}

/// An IPv4 packet with these options (a multiple of 4 bytes), identification and fragment word.
pub fn v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    (options, id, fragment): (&[u8], u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([HOPS, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Gives an IPv4 packet without options another hop count.
pub fn set_hops(packet: &mut [u8], hops: u8) {
    packet[8] = hops;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet.
pub fn v6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, HOPS]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP header and payload, without a checksum.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = 40_000u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP SYN.
pub fn syn(port: u16) -> Vec<u8> {
    let mut segment = 40_000u16.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// An IPv4 packet with a UDP datagram and nothing unusual.
pub fn udp4(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    v4(
        source,
        destination,
        UDP,
        (&[], 0, 0x4000),
        &udp(port, payload),
    )
}

/// An ICMP message of a type and 24 bytes of body.
pub fn icmp(kind: u8, body: [u8; 24]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(body);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An IPv4 packet with an ICMP message.
pub fn icmp4(source: Ipv4Addr, destination: Ipv4Addr, kind: u8) -> Vec<u8> {
    v4(source, destination, ICMP, (&[], 0, 0), &icmp(kind, [0; 24]))
}

/// An IPv6 packet with an ICMPv6 message.
pub fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8) -> Vec<u8> {
    v6(source, destination, ICMPV6, &icmp(kind, [0; 24]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_known_by_its_hop_count_and_no_other_is() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert!(is_ours(&udp4(a, b, 9, b"x")));
        assert!(is_ours(&icmp6(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::LOCALHOST,
            128
        )));
        assert!(!is_ours(&super::super::frame::udp_v4(a, b, 9, b"x")));
        assert!(!is_ours(&[]));
    }

    #[test]
    fn options_stand_in_the_header_and_its_checksum_covers_them() {
        let packet = v4(
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::LOCALHOST,
            UDP,
            (&[0x83, 4, 4, 0], 1, 0),
            b"rest",
        );
        assert_eq!(packet[0], 0x46);
        assert_eq!(checksum(&[&packet[..24]]), 0);
        assert_eq!(
            usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            packet.len()
        );
    }
}
