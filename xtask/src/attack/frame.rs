//! Builders of the frames an attacker sends.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::path::{Encapsulation, Path};
use wire::limits::{
    BROADCAST, ETH_LEN, ETHERTYPE, HELLO_LEN, INITIATION_LEN, UDP_V4_LEN, UDP_V6_LEN,
};
use wire::{Header, kind};

/// A MAC address.
pub type Mac = [u8; 6];

/// An Ethernet II frame, padded to the 60 bytes a cable carries at least.
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len().max(46));
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Puts VLAN tags of 802.1Q (0x8100) with these identifiers into a frame, the first outermost.
pub fn tagged(frame: &[u8], identifiers: &[u16]) -> Vec<u8> {
    let tags: Vec<_> = identifiers.iter().map(|id| (0x8100, *id)).collect();
    tagged_by(frame, &tags)
}

/// Puts VLAN tags of these protocols and identifiers into a frame, the first outermost.
pub fn tagged_by(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (protocol, identifier) in tags {
        out.extend(protocol.to_be_bytes());
        out.extend(identifier.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

/// The Internet checksum over `parts`, each of an even length but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet with a UDP datagram.
pub fn udp_v4(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((28 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    // A UDP checksum of zero means none.
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with a UDP datagram.
pub fn udp_v6(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut datagram = 40_000u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let sum = checksum(&[
        &source.octets(),
        &destination.octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, 17],
        &datagram,
    ]);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(datagram);
    packet
}

/// An ARP packet: `operation` 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet
}

/// An IPv6 packet with an unsolicited, overriding neighbour advertisement: `address` is at `mac`.
pub fn advertisement(address: Ipv6Addr, mac: Mac, destination: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    icmp_v6(address, destination, message)
}

/// An IPv6 packet with a router advertisement: a default route, and a prefix to take addresses from.
pub fn router_advertisement(router: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    icmp_v6(router, destination, message)
}

/// An IPv6 packet with a neighbour solicitation for `address`.
pub fn solicitation(source: Ipv6Addr, mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    message.extend([1, 1]);
    message.extend(mac);
    icmp_v6(source, address, message)
}

fn icmp_v6(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[
        &source.octets(),
        &destination.octets(),
        &length,
        &[0, 0, 0, 58],
        &message,
    ]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((message.len() as u16).to_be_bytes());
    packet.extend([58, 255]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(message);
    packet
}

/// What is around a frame: whose it is, and the way it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The source's MAC address.
    pub mac: Mac,
    /// Where it goes.
    pub way: Path,
}

impl Outer {
    /// A whole frame around one of Portcullis.
    pub fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        if let Some(destination) = self.way.mac() {
            return ethernet(destination, self.mac, ETHERTYPE, frame);
        }
        let mut whole = vec![0; self.way.front()];
        whole.extend(frame);
        self.way.write(&mut whole, self.mac, Encapsulation::Udp);
        self.way.finish(&mut whole);
        whole
    }

    /// The same with the given header; its tag as it stands there.
    pub fn frame(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        self.wrap(&[&header.encode()[..], payload].concat())
    }

    /// A handshake frame with this payload, tagged under `key`.
    pub fn tagged(
        &self,
        kind: u8,
        (key_id, nonce): (u32, u64),
        key: [u64; 2],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut header = Header::new(kind, payload.len() as u16, key_id, nonce);
        header.tag = header.handshake_tag(key, payload);
        self.frame(&header, payload)
    }
}

/// A Portcullis frame with the given header; its tag as it stands there.
pub fn portcullis(destination: Mac, source: Mac, header: &Header, payload: &[u8]) -> Vec<u8> {
    let outer = Outer {
        mac: source,
        way: destination.into(),
    };
    outer.frame(header, payload)
}

/// A Hello for `key_id`, tagged under `key`.
pub fn hello(source: Mac, key_id: u32, nonce: u64, key: [u64; 2]) -> Vec<u8> {
    let outer = Outer {
        mac: source,
        way: BROADCAST.into(),
    };
    outer.tagged(kind::HELLO, (key_id, nonce), key, &[0; HELLO_LEN])
}

/// An Initiation for `key_id` with a payload of noise, tagged under `key`.
pub fn initiation(
    destination: Mac,
    source: Mac,
    key_id: u32,
    nonce: u64,
    key: [u64; 2],
    noise: &mut Noise,
) -> Vec<u8> {
    let outer = Outer {
        mac: source,
        way: destination.into(),
    };
    let mut payload = [0; INITIATION_LEN];
    noise.fill(&mut payload);
    outer.tagged(kind::INITIATION, (key_id, nonce), key, &payload)
}

/// Bytes before the Portcullis header of a captured frame, where it has one.
pub fn front_of(frame: &[u8]) -> Option<usize> {
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ETHERTYPE => Some(ETH_LEN),
        0x0800 if frame.get(23) == Some(&17) => Some(UDP_V4_LEN),
        0x86dd if frame.get(20) == Some(&17) => Some(UDP_V6_LEN),
        _ => None,
    }
}

/// The header of a captured Portcullis frame.
pub fn header_of(frame: &[u8]) -> Option<Header> {
    Header::decode(frame.get(front_of(frame)?..)?).ok()
}

/// A seeded generator (SplitMix64): an attack can be repeated exactly.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True with probability `chance`.
    pub fn happens(&mut self, chance: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= chance && chance > 0.0
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        let packet = udp_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 9, b"odd");
        assert_eq!(checksum(&[&packet[..20]]), 0);
        let nd = advertisement(
            "fe80::1".parse().unwrap(),
            [2; 6],
            "ff02::1".parse().unwrap(),
        );
        let length = (nd.len() as u32 - 40).to_be_bytes();
        assert_eq!(
            checksum(&[&nd[8..40], &length, &[0, 0, 0, 58], &nd[40..]]),
            0
        );
    }

    #[test]
    fn a_forged_hello_is_well_formed_and_right_but_for_its_key() {
        let frame = hello([2; 6], 7, 9, [1, 2]);
        let header = header_of(&frame).unwrap();
        assert_eq!(
            (header.kind, header.index, header.counter),
            (kind::HELLO, 7, 9)
        );
        assert_eq!(header.tag, header.handshake_tag([1, 2], &[0; 32]));
        assert_ne!(header.tag, header.handshake_tag([1, 3], &[0; 32]));
    }

    #[test]
    fn vlan_tags_stand_between_the_addresses_and_the_type() {
        let frame = tagged(&hello([2; 6], 7, 9, [1, 2]), &[0, 5]);
        assert_eq!(frame[12..22], [0x81, 0, 0, 0, 0x81, 0, 0, 5, 0x88, 0xb5]);
    }
}
