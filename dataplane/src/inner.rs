//! The inner packet: what an opened payload is, and where its addresses are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the first nibble of an opened payload says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner {
    /// An IP packet.
    Packet(Packet),
    /// A control message: its type.
    Control(u8),
}

/// An inner address as a number, so that comparing and hashing one costs next to nothing. An IPv4
/// address never equals an IPv6 one, a mapped one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Its bits, an IPv4 address's in the low 32.
    pub bits: u128,
    /// Whether it is an IPv4 address.
    pub v4: bool,
}

impl Address {
    /// Whether a host can have it: no group, broadcast, link-local, loopback or reserved address, which
    /// mean something on one link or one machine only.
    #[inline]
    pub fn is_a_hosts(self) -> bool {
        match self.v4 {
            true => {
                let first = self.bits >> 24;
                first != 0 && first != 127 && first < 224 && self.bits >> 16 != 0xa9fe
            }
            // fe80::/10 and ff00::/8; the unspecified address and that of the loopback.
            false => self.bits >> 118 != 0x3fa && self.bits >> 120 != 0xff && self.bits > 1,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self {
                bits: address.to_bits().into(),
                v4: true,
            },
            IpAddr::V6(address) => Self {
                bits: address.to_bits(),
                v4: false,
            },
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4 {
            true => Ipv4Addr::from_bits(address.bits as u32).into(),
            false => Ipv6Addr::from_bits(address.bits).into(),
        }
    }
}

/// The addresses in a packet's IP header; `None` for what is no IP packet.
#[inline]
pub fn pair(packet: &[u8]) -> Option<Pair> {
    match packet.first()? >> 4 {
        4 => Some(Pair::V4(*packet.get(12..)?.first_chunk()?)),
        6 => Some(Pair::V6(*packet.get(8..)?.first_chunk()?)),
        _ => None,
    }
}

#[inline]
fn v4_address(bytes: &[u8; 4]) -> Address {
    Address {
        bits: u32::from_be_bytes(*bytes).into(),
        v4: true,
    }
}

#[inline]
fn v6_address(bytes: &[u8; 16]) -> Address {
    Address {
        bits: u128::from_be_bytes(*bytes),
        v4: false,
    }
}

/// The source and destination of a packet as they stand in its header, for nothing but comparing
/// one packet's with another's is done for most of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// Of an IPv4 packet.
    V4([u8; 8]),
    /// Of an IPv6 packet.
    V6([u8; 32]),
}

impl Pair {
    /// The source address.
    #[inline]
    pub fn source(&self) -> Address {
        match self {
            Pair::V4([a, b, c, d, ..]) => v4_address(&[*a, *b, *c, *d]),
            Pair::V6(bytes) => v6_address(&half(bytes, 0)),
        }
    }

    /// The destination address.
    #[inline]
    pub fn destination(&self) -> Address {
        match self {
            Pair::V4([.., a, b, c, d]) => v4_address(&[*a, *b, *c, *d]),
            Pair::V6(bytes) => v6_address(&half(bytes, 16)),
        }
    }
}

#[inline]
fn half(bytes: &[u8; 32], at: usize) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&bytes[at..at + 16]);
    half
}

/// Addresses and length of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its addresses.
    pub pair: Pair,
    /// The packet's own length; what follows in the payload is padding.
    pub len: usize,
}

/// The types of control messages, their first byte.
pub mod control {
    /// Zeros, ignored.
    pub const DUMMY: u8 = 0;
    /// Workstation to Gateway: Noise message 1 inside the session.
    pub const REKEY_INIT: u8 = 1;
    /// Gateway to Workstation: Noise message 2.
    pub const REKEY_RESP: u8 = 2;
    /// Workstation to Gateway: are you there.
    pub const PING: u8 = 3;
    /// Gateway to Workstation: the PING's random value again.
    pub const PONG: u8 = 4;
    /// Bytes of a PING and a PONG: type, seven zeros, sixteen random bytes.
    pub const PING_LEN: usize = 24;
}

/// The payload is neither a sound IP packet nor a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Says what an opened payload is.
///
/// # Errors
/// [`Malformed`] for an empty payload, an unknown version, or an IP length of 0, below its header
/// or above the payload.
#[inline(always)]
pub fn parse(payload: &[u8]) -> Result<Inner, Malformed> {
    let first = *payload.first().ok_or(Malformed)?;
    match first >> 4 {
        0 => Ok(Inner::Control(first)),
        4 => v4(payload).map(Inner::Packet),
        6 => v6(payload).map(Inner::Packet),
        _ => Err(Malformed),
    }
}

/// The IP packet at the start of `bytes`.
///
/// # Errors
/// As [`parse`], and when it is no IP packet.
pub fn packet(bytes: &[u8]) -> Result<Packet, Malformed> {
    match parse(bytes)? {
        Inner::Packet(packet) => Ok(packet),
        Inner::Control(_) => Err(Malformed),
    }
}

#[inline(always)]
fn v4(bytes: &[u8]) -> Result<Packet, Malformed> {
    let head = bytes.first_chunk::<20>().ok_or(Malformed)?;
    let header = usize::from(head[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if header < 20 || len < header || len > bytes.len() {
        return Err(Malformed);
    }
    let [.., a, b, c, d, e, f, g, h] = *head;
    Ok(Packet {
        pair: Pair::V4([a, b, c, d, e, f, g, h]),
        len,
    })
}

#[inline]
fn v6(bytes: &[u8]) -> Result<Packet, Malformed> {
    let head = bytes.first_chunk::<40>().ok_or(Malformed)?;
    let payload = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let len = 40 + payload;
    if payload == 0 || len > bytes.len() {
        return Err(Malformed);
    }
    let mut pair = [0; 32];
    pair.copy_from_slice(&head[8..]);
    Ok(Packet {
        pair: Pair::V6(pair),
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_payload_panics_and_no_length_exceeds_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Inner::Packet(packet)) = parse(&bytes) {
                prop_assert!(packet.len >= 20 && packet.len <= bytes.len());
            }
        }

        #[test]
        fn a_sound_packet_has_its_addresses_and_is_cut_to_its_own_length(
            v4: ([u8; 4], [u8; 4]), v6: ([u8; 16], [u8; 16]),
            data in prop::collection::vec(any::<u8>(), 0..100), padding in 0usize..30,
        ) {
            let mut packets = Vec::new();
            let mut bytes = Vec::new();
            PacketBuilder::ipv4(v4.0, v4.1, 64).udp(1, 2).write(&mut bytes, &data).unwrap();
            packets.push((bytes, IpAddr::from(v4.0), IpAddr::from(v4.1)));
            let mut bytes = Vec::new();
            PacketBuilder::ipv6(v6.0, v6.1, 64).udp(1, 2).write(&mut bytes, &data).unwrap();
            packets.push((bytes, IpAddr::from(v6.0), IpAddr::from(v6.1)));
            for (mut bytes, source, destination) in packets {
                let len = bytes.len();
                bytes.resize(len + padding, 0);
                let Ok(Inner::Packet(packet)) = parse(&bytes) else { panic!("a packet") };
                prop_assert_eq!(packet.len, len);
                prop_assert_eq!((packet.pair.source(), packet.pair.destination()), (source.into(), destination.into()));
                prop_assert_eq!(parse(&bytes[..len - 1]), Err(Malformed));
            }
        }
    }

    #[test]
    fn what_no_host_can_have_is_no_hosts_address() {
        let is = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_a_hosts();
        for address in [
            "1.0.0.0",
            "10.152.152.10",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "2000::1",
            "fd00::1",
            "fe7f::1",
            "fec0::1",
            "feff::1",
            "::2",
        ] {
            assert!(is(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.0.0",
            "169.254.255.255",
            "224.0.0.0",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::",
            "fe80::1",
            "febf::1",
            "ff00::",
            "ff02::fb",
        ] {
            assert!(!is(address), "{address}");
        }
    }

    #[test]
    fn lying_lengths_are_malformed() {
        let mut v4 = [0u8; 60];
        v4[0] = 0x45;
        for (length, sound) in [
            (0u16, false),
            (19, false),
            (20, true),
            (60, true),
            (61, false),
        ] {
            v4[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(parse(&v4).is_ok(), sound, "IPv4 length {length}");
        }
        v4[0] = 0x44;
        v4[2..4].copy_from_slice(&40u16.to_be_bytes());
        assert!(parse(&v4).is_err(), "IPv4 header of 16 bytes");
        let mut v6 = [0u8; 60];
        v6[0] = 0x60;
        for (length, sound) in [(0u16, false), (1, true), (20, true), (21, false)] {
            v6[4..6].copy_from_slice(&length.to_be_bytes());
            assert_eq!(parse(&v6).is_ok(), sound, "IPv6 payload length {length}");
        }
        assert!(parse(&[]).is_err());
        assert!(parse(&[0x50; 60]).is_err());
        assert_eq!(
            parse(&[control::PING; 24]),
            Ok(Inner::Control(control::PING))
        );
    }
}
