//! The way a session's frames take: what is around a Portcullis frame, and where it is from and goes to.

use crate::host::checksum::{Sum, checksum};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use wire::limits::{ETH_LEN, UDP_V4_LEN, UDP_V6_LEN};
use wire::read::{IPV4, IPV6, UDP};

const UDP_LEN: usize = 8;
/// What Linux sends with.
const HOPS: u8 = 64;

/// What is around the Portcullis frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Ethernet II, with this EtherType (host order).
    Ether(u16),
    /// Ethernet, IPv4 or IPv6, and UDP.
    Udp,
    /// Nothing: a socket of the kernel's, which is connected, puts it around them.
    Socket,
}

/// Where a frame is from, and so where an answer to it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// `ether`: the other side's MAC address.
    Ether([u8; 6]),
    /// `udp`.
    Udp(UdpPath),
    /// `udp` by a connected socket, which alone knows.
    Socket,
}

/// A way over networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdpPath {
    /// The MAC address of the next station.
    pub next_hop: [u8; 6],
    /// Our own address and port.
    pub local: SocketAddr,
    /// The other side's, of the same IP version.
    pub remote: SocketAddr,
}

impl From<[u8; 6]> for Path {
    fn from(mac: [u8; 6]) -> Self {
        Self::Ether(mac)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ether([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Self::Udp(path) => path.remote.fmt(f),
            Self::Socket => f.write_str("-"),
        }
    }
}

impl From<wire::Encapsulation> for Encapsulation {
    fn from(encapsulation: wire::Encapsulation) -> Self {
        match encapsulation {
            wire::Encapsulation::Ether(ethertype) => Self::Ether(ethertype),
            wire::Encapsulation::Udp(_) => Self::Udp,
        }
    }
}

impl Encapsulation {
    /// Bytes before the Portcullis header of a frame that was received; `None` where it is of no kind that this port
    /// admits.
    #[inline(always)]
    pub fn front(self, frame: &[u8]) -> Option<usize> {
        match self {
            Self::Ether(_) => Some(ETH_LEN),
            Self::Socket => Some(0),
            Self::Udp => match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
                IPV4 => Some(UDP_V4_LEN),
                IPV6 => Some(UDP_V6_LEN),
                _ => None,
            },
        }
    }

    /// The most bytes there may be before the Portcullis header of a frame that is sent.
    pub fn largest_front(self) -> usize {
        match self {
            Self::Ether(_) => ETH_LEN,
            Self::Udp => UDP_V6_LEN,
            Self::Socket => 0,
        }
    }

    /// Where a frame is from that admission has let in.
    pub fn path_of(self, frame: &[u8]) -> Option<Path> {
        let mac = || frame.get(6..)?.first_chunk::<6>().copied();
        if self == Self::Socket {
            return Some(Path::Socket);
        }
        if let Self::Ether(_) = self {
            return mac().map(Path::Ether);
        }
        let port = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let (remote, local, ports): (IpAddr, IpAddr, usize) = match self.front(frame)? {
            UDP_V4_LEN => {
                let address = |at: usize| frame.get(at..)?.first_chunk::<4>().copied();
                (address(26)?.into(), address(30)?.into(), 34)
            }
            _ => {
                let address = |at: usize| frame.get(at..)?.first_chunk::<16>().copied();
                (address(22)?.into(), address(38)?.into(), 54)
            }
        };
        Some(Path::Udp(UdpPath {
            next_hop: mac()?,
            local: SocketAddr::new(local, port(ports + 2)?),
            remote: SocketAddr::new(remote, port(ports)?),
        }))
    }
}

/// Bytes before the Portcullis header, and the sum of the pseudo-header.
fn pseudo_of(frame: &[u8]) -> Option<(usize, Sum)> {
    let front = Encapsulation::Udp.front(frame)?;
    let start = frame.get(front - UDP_LEN..front)?;
    let length = u16::from_be_bytes([start[4], start[5]]);
    let sum = match front {
        UDP_V4_LEN => {
            let address = |at: usize| frame[at..].first_chunk::<4>().copied();
            Sum::pseudo_v4(address(26)?, address(30)?, UDP, length)
        }
        _ => {
            let address = |at: usize| frame[at..].first_chunk::<16>().copied();
            Sum::pseudo_v6(address(22)?, address(38)?, UDP, length.into())
        }
    };
    Some((front, sum))
}

impl Path {
    /// Bytes before the Portcullis header of frames that go this way.
    #[inline(always)]
    pub fn front(&self) -> usize {
        match self {
            Self::Ether(_) => ETH_LEN,
            Self::Udp(UdpPath { remote, .. }) if remote.is_ipv4() => UDP_V4_LEN,
            Self::Udp(_) => UDP_V6_LEN,
            Self::Socket => 0,
        }
    }

    /// Whether a station can be at the end of the first cable: its MAC address is not zero, and no group's.
    pub fn leads_to_station(&self) -> bool {
        match self {
            Self::Ether(mac) | Self::Udp(UdpPath { next_hop: mac, .. }) => {
                *mac != [0; 6] && mac[0] & 1 == 0
            }
            Self::Socket => true,
        }
    }

    /// The other side's MAC address on `ether`.
    pub fn mac(&self) -> Option<[u8; 6]> {
        match self {
            Self::Ether(mac) => Some(*mac),
            Self::Udp(_) | Self::Socket => None,
        }
    }

    /// Writes what comes before the Portcullis header into a frame of its final length. What is still missing of it
    /// on `udp` is the checksum: [`Path::finish`].
    #[inline(always)]
    pub fn write(&self, frame: &mut [u8], mac: [u8; 6], encapsulation: Encapsulation) {
        match (self, encapsulation) {
            (Self::Ether(destination), Encapsulation::Ether(ethertype)) => {
                ethernet(frame, *destination, mac, ethertype);
            }
            (Self::Udp(path), _) => path.write(frame, mac),
            _ => {}
        }
    }

    /// Writes the UDP checksum of a frame that is otherwise finished.
    #[inline(always)]
    pub fn finish(&self, frame: &mut [u8]) {
        if let Self::Udp(_) = self {
            finish_udp(frame);
        }
    }
}

impl UdpPath {
    fn write(&self, frame: &mut [u8], mac: [u8; 6]) {
        let length = frame.len();
        match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                ethernet(frame, self.next_hop, mac, IPV4);
                self.udp(frame, UDP_V4_LEN, length);
                ipv4(frame, local, remote, length.saturating_sub(ETH_LEN));
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                ethernet(frame, self.next_hop, mac, IPV6);
                self.udp(frame, UDP_V6_LEN, length);
                ipv6(frame, local, remote, length.saturating_sub(ETH_LEN + 40));
            }
            // Of two versions there is none.
            _ => {}
        }
    }

    fn udp(&self, frame: &mut [u8], front: usize, whole: usize) {
        let Some(header) = frame
            .get_mut(front - UDP_LEN..)
            .and_then(|rest| rest.first_chunk_mut::<UDP_LEN>())
        else {
            return;
        };
        let length = (whole + UDP_LEN).saturating_sub(front) as u16;
        let [a, b] = self.local.port().to_be_bytes();
        let [c, d] = self.remote.port().to_be_bytes();
        let [e, f] = length.to_be_bytes();
        *header = [a, b, c, d, e, f, 0, 0];
    }
}

fn ipv4(frame: &mut [u8], local: Ipv4Addr, remote: Ipv4Addr, length: usize) {
    let Some(header) = frame
        .get_mut(ETH_LEN..)
        .and_then(|rest| rest.first_chunk_mut::<20>())
    else {
        return;
    };
    let [a, b] = (length as u16).to_be_bytes();
    // Not to be fragmented, so its identification is of no meaning (RFC 6864, section 4.1).
    let start = [0x45, 0, a, b, 0, 0, 0x40, 0, HOPS, UDP, 0, 0];
    header[..12].copy_from_slice(&start);
    header[12..16].copy_from_slice(&local.octets());
    header[16..].copy_from_slice(&remote.octets());
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn ipv6(frame: &mut [u8], local: Ipv6Addr, remote: Ipv6Addr, length: usize) {
    let Some(header) = frame
        .get_mut(ETH_LEN..)
        .and_then(|rest| rest.first_chunk_mut::<40>())
    else {
        return;
    };
    let [a, b] = (length as u16).to_be_bytes();
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, a, b, UDP, HOPS]);
    header[8..24].copy_from_slice(&local.octets());
    header[24..].copy_from_slice(&remote.octets());
}

fn finish_udp(frame: &mut [u8]) {
    let Some((front, sum)) = pseudo_of(frame) else {
        return;
    };
    let sum = sum.bytes(&frame[front - UDP_LEN..]).udp_checksum();
    frame[front - 2..front].copy_from_slice(&sum.to_be_bytes());
}

#[inline(always)]
fn ethernet(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) {
    let Some(header) = frame.first_chunk_mut::<ETH_LEN>() else {
        return;
    };
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    let [m, n] = ethertype.to_be_bytes();
    *header = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn path(v4: bool, local: u128, remote: u128, ports: (u16, u16)) -> UdpPath {
        let address = |bits: u128| -> IpAddr {
            match v4 {
                true => Ipv4Addr::from_bits(bits as u32).into(),
                false => Ipv6Addr::from_bits(bits).into(),
            }
        };
        UdpPath {
            next_hop: [2, 0, 0, 0, 0, 9],
            local: SocketAddr::new(address(local), ports.0),
            remote: SocketAddr::new(address(remote), ports.1),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_a_whole_datagram_with_right_checksums_and_is_read_as_the_way_back(
            v4: bool, local: u128, remote: u128, ports: (u16, u16), payload in prop::collection::vec(any::<u8>(), 1..1500),
        ) {
            let own = [2, 0, 0, 0, 0, 1];
            let there = path(v4, local, remote, ports);
            let way = Path::Udp(there);
            let mut frame = vec![0xaa; way.front()];
            frame.extend(&payload);
            way.write(&mut frame, own, Encapsulation::Udp);
            way.finish(&mut frame);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = &packet.transport else {
                panic!("no UDP");
            };
            prop_assert_eq!(udp.payload(), &payload[..]);
            prop_assert_eq!((udp.source_port(), udp.destination_port()), ports);
            let sum = udp.checksum();
            prop_assert_ne!(sum, 0);
            let header = udp.to_header();
            let wanted = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header();
                    prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                    prop_assert!(ip.dont_fragment() && ip.ihl() == 5);
                    header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), &payload)
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header();
                    header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), &payload)
                }
                NetSlice::Arp(_) => panic!("ARP"),
            };
            prop_assert_eq!(sum, wanted.unwrap());
            // As the other side sees it.
            prop_assert_eq!(Encapsulation::Udp.front(&frame), Some(way.front()));
            let back = Path::Udp(UdpPath { next_hop: own, local: there.remote, remote: there.local });
            prop_assert_eq!(Encapsulation::Udp.path_of(&frame), Some(back));
        }

        #[test]
        fn no_bytes_are_read_beyond_their_end(bytes in prop::collection::vec(any::<u8>(), 0..90), ethertype in 0usize..3) {
            let mut bytes = bytes;
            let kind = [[8, 0], [0x86, 0xdd], [0x88, 0xb5]][ethertype];
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&kind);
            }
            for encapsulation in [Encapsulation::Udp, Encapsulation::Socket, Encapsulation::Ether(0x88b5)] {
                let _ = encapsulation.path_of(&bytes);
                let _ = encapsulation.front(&bytes);
            }
            let mut short = bytes.clone();
            Path::Udp(path(ethertype == 0, 1, 2, (3, 4))).write(&mut short, [2; 6], Encapsulation::Udp);
        }
    }
}
