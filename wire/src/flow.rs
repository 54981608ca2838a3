//! One flow of UDP datagrams: those that the other end of a connected socket sends to it.
//!
//! A Workstation over networks may have them brought past its kernel's stack. What is not exactly as the stack
//! itself would have sent it on (fragments, options, extension headers, lengths that do not fit, tags) is not of the
//! flow, and comes by the socket or is dropped as the stack likes. Nothing is authenticated here: the session does
//! that, whichever way a datagram came. The UDP checksum is not looked at; see [`crate::udp`].

use core::net::{IpAddr, SocketAddr};

use crate::Frame;
use crate::limits::{ETH_LEN, HEADER_LEN, UDP_V4_LEN, UDP_V6_LEN};
use crate::read::{IPV4, IPV6, UDP, byte, v4_at, v6_at};

const UDP_LEN: u32 = 8;
const V4_LEN: u32 = 20;
const V6_LEN: usize = 40;

/// A flow, as the map of the XDP program `fast_path` has it. The default is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// The other end's address: of IPv4 as a number in the first word, of IPv6 as two little-endian words.
    remote: [u64; 2],
    local: [u64; 2],
    /// The other end's UDP port, and ours.
    ports: [u16; 2],
    /// The IP version; 0 of none.
    version: u16,
    unused: u16,
}

impl Flow {
    /// What `remote` sends to `local`; none where they are of two IP versions.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let words = |address: IpAddr| match address {
            IpAddr::V4(v4) => [u64::from(v4.to_bits()), 0],
            IpAddr::V6(v6) => {
                let bits = u128::from_le_bytes(v6.octets());
                [bits as u64, (bits >> 64) as u64]
            }
        };
        let version = match (local, remote) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => 4,
            (SocketAddr::V6(_), SocketAddr::V6(_)) => 6,
            _ => return Self::default(),
        };
        Self {
            remote: words(remote.ip()),
            local: words(local.ip()),
            ports: [remote.port(), local.port()],
            version,
            unused: 0,
        }
    }

    /// Whether an Ethernet frame is a whole datagram of this flow, with room for a Portcullis header.
    #[inline(always)]
    pub fn has(&self, frame: &impl Frame) -> bool {
        match self.version {
            4 => self.has_v4(frame),
            6 => self.has_v6(frame),
            _ => false,
        }
    }

    // The last bytes first: the verifier does not follow conditions that are combined, and each step returns.
    #[inline(always)]
    fn has_v4(&self, frame: &impl Frame) -> bool {
        if frame.be16(UDP_V4_LEN - 2).is_none() {
            return false;
        }
        let (Some(ethertype), Some(start), Some(length), Some(fragment)) = (
            frame.be16(12),
            frame.be16(ETH_LEN),
            frame.be16(16),
            frame.be16(20),
        ) else {
            return false;
        };
        // A header without options, and a packet that is whole.
        if ethertype != IPV4 || start >> 8 != 0x45 || fragment & 0x3fff != 0 {
            return false;
        }
        if byte(frame, 23) != Some(UDP) {
            return false;
        }
        let (Some(remote), Some(local)) = (v4_at(frame, 26), v4_at(frame, 30)) else {
            return false;
        };
        if u64::from(remote) != self.remote[0] || u64::from(local) != self.local[0] {
            return false;
        }
        let datagram = u32::from(length).wrapping_sub(V4_LEN);
        self.has_datagram(frame, UDP_V4_LEN, datagram)
    }

    #[inline(always)]
    fn has_v6(&self, frame: &impl Frame) -> bool {
        if frame.be16(UDP_V6_LEN - 2).is_none() {
            return false;
        }
        let (Some(ethertype), Some(start), Some(length)) =
            (frame.be16(12), frame.be16(ETH_LEN), frame.be16(18))
        else {
            return false;
        };
        if ethertype != IPV6 || start >> 12 != 6 || byte(frame, 20) != Some(UDP) {
            return false;
        }
        let (Some(remote), Some(local)) = (v6_at(frame, 22), v6_at(frame, 38)) else {
            return false;
        };
        if remote[0] != self.remote[0] || remote[1] != self.remote[1] {
            return false;
        }
        if local[0] != self.local[0] || local[1] != self.local[1] {
            return false;
        }
        const { assert!(UDP_V6_LEN == ETH_LEN + V6_LEN + UDP_LEN as usize) };
        self.has_datagram(frame, UDP_V6_LEN, length.into())
    }

    /// The same of the UDP header that ends at `front`, of which the IP header says so many bytes.
    #[inline(always)]
    fn has_datagram(&self, frame: &impl Frame, front: usize, length: u32) -> bool {
        let (Some(from), Some(to), Some(own)) = (
            frame.be16(front - 8),
            frame.be16(front - 6),
            frame.be16(front - 4),
        ) else {
            return false;
        };
        if from != self.ports[0] || to != self.ports[1] || u32::from(own) != length {
            return false;
        }
        length >= UDP_LEN + HEADER_LEN as u32
            && frame.holds(front - UDP_LEN as usize + length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket};
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A datagram of this many bytes of payload between two addresses of one version.
    fn datagram(from: SocketAddr, to: SocketAddr, len: usize) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => builder.ipv4(a.octets(), b.octets(), 64),
            (IpAddr::V6(a), IpAddr::V6(b)) => builder.ipv6(a.octets(), b.octets(), 64),
            _ => panic!("two versions"),
        };
        let mut bytes = Vec::new();
        builder
            .udp(from.port(), to.port())
            .write(&mut bytes, &std::vec![7; len])
            .unwrap();
        bytes
    }

    fn address(v4: bool, number: u8, port: u16) -> SocketAddr {
        let ip: IpAddr = match v4 {
            true => [192, 0, 2, number].into(),
            false => [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number].into(),
        };
        SocketAddr::new(ip, port)
    }

    proptest! {
        #[test]
        fn a_whole_datagram_is_of_the_flow_if_addresses_and_ports_are(
            v4: bool, ends in prop::array::uniform4(1u8..4), ports in prop::array::uniform4(1u16..3), len in 0usize..200,
        ) {
            let [a, b, c, d] = ends;
            let flow = Flow::new(address(v4, a, ports[0]), address(v4, b, ports[1]));
            let frame = datagram(address(v4, c, ports[2]), address(v4, d, ports[3]), len);
            let same = (b, ports[1], a, ports[0]) == (c, ports[2], d, ports[3]);
            prop_assert_eq!(flow.has(&&frame[..]), same && len >= HEADER_LEN);
            prop_assert!(!Flow::default().has(&&frame[..]));
            let other = Flow::new(address(!v4, a, ports[0]), address(!v4, b, ports[1]));
            prop_assert!(!other.has(&&frame[..]));
        }

        /// Against another parser: whatever byte is changed, and wherever the frame is cut.
        #[test]
        fn what_is_not_plainly_such_a_datagram_is_not_of_the_flow(
            v4: bool, at in 0usize..80, to: u8, cut in 0usize..140, padding in 0usize..30,
        ) {
            let (local, remote) = (address(v4, 1, 40_000), address(v4, 2, 51_888));
            let flow = Flow::new(local, remote);
            let mut frame = datagram(remote, local, 60);
            frame[at] = to;
            frame.extend(std::vec![0; padding]);
            frame.truncate(cut.max(20));
            let has = flow.has(&&frame[..]);
            let plain = SlicedPacket::from_ethernet(&frame).ok().and_then(|packet| {
                use etherparse::{NetSlice, TransportSlice};
                let (from, to) = match packet.net? {
                    NetSlice::Ipv4(ip) => {
                        let head = ip.header();
                        if head.ihl() != 5 || head.more_fragments() || head.fragments_offset().value() != 0 {
                            return None;
                        }
                        (IpAddr::V4(head.source_addr()), IpAddr::V4(head.destination_addr()))
                    }
                    NetSlice::Ipv6(ip) => {
                        if ip.header().next_header().0 != UDP {
                            return None;
                        }
                        (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
                    }
                    NetSlice::Arp(_) => return None,
                };
                let TransportSlice::Udp(udp) = packet.transport? else { return None };
                let long = usize::from(udp.length()) >= 8 + HEADER_LEN && udp.payload().len() + 8 == usize::from(udp.length());
                let ends = (SocketAddr::new(from, udp.source_port()), SocketAddr::new(to, udp.destination_port()));
                Some(long && ends == (remote, local))
            });
            // The other parser takes a datagram that is shorter than its packet, which this one does not.
            prop_assert!(!has || plain == Some(true), "{:?}", frame);
            if plain == Some(true) {
                let v6 = if v4 { 0 } else { 20 };
                let said = u16::from_be_bytes([frame[38 + v6], frame[39 + v6]]);
                let packet = if v4 { u16::from_be_bytes([frame[16], frame[17]]) - 20 } else { u16::from_be_bytes([frame[18], frame[19]]) };
                prop_assert_eq!(has, said == packet, "{:?}", frame);
            }
        }
    }
}
