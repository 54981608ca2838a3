//! What is around the Portcullis frames that an attacker on the Internet sends, right and wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane::path::UdpPath;
use wire::limits::{ETH_LEN, UDP_PORT};

use crate::attack::Known;
use crate::attack::frame::{Mac, Noise, Outer, checksum, ethernet, front_of};

/// The Gateway's outer addresses, [`crate::rig::WAN`].
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The attacker's own.
pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 66);
pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 0x66);
pub(super) const OWN_PORT: u16 = 40_000;

/// The way to the Gateway from a host on the Internet, by way of the router with this address.
pub(super) fn way(gateway: Mac, source: SocketAddr) -> UdpPath {
    let to: IpAddr = match source.is_ipv4() {
        true => GATEWAY_V4.into(),
        false => GATEWAY_V6.into(),
    };
    UdpPath {
        next_hop: gateway,
        local: source,
        remote: (to, UDP_PORT).into(),
    }
}

/// What is around a frame from `source`.
pub(super) fn from(known: &Known, source: SocketAddr) -> Outer {
    Outer {
        mac: known.own,
        way: dataplane::path::Path::Udp(way(known.gateway, source)),
    }
}

/// The attacker's addresses, one of each IP version.
pub(super) fn own() -> [SocketAddr; 2] {
    [(OWN_V4, OWN_PORT).into(), (OWN_V6, OWN_PORT).into()]
}

/// An address of a host somewhere, to which nobody in the rig has another way than a black hole.
pub(super) fn anywhere(noise: &mut Noise) -> SocketAddr {
    let [low, high] = [noise.next(), noise.next()];
    let port = (low >> 32) as u16 | 1;
    match high % 2 {
        0 => (
            Ipv4Addr::from_bits(0x2c00_0000 | low as u32 & 0x0fff_ffff),
            port,
        )
            .into(),
        _ => {
            let bits = u128::from(OWN_V6) | u128::from(low as u32) << 64 | u128::from(high);
            (Ipv6Addr::from_bits(bits), port).into()
        }
    }
}

/// The Portcullis frame that a captured one carries, or nothing.
pub(super) fn inside(frame: &[u8]) -> &[u8] {
    let front = front_of(frame);
    front.and_then(|front| frame.get(front..)).unwrap_or(&[])
}

/// Genuine frames of ws1, in datagrams of IPv4 and of IPv6 from the attacker: right in all but what is
/// to be broken about them.
pub(super) fn genuine(known: &Known) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let frames = known.handshakes.iter().chain(known.data.iter().take(16));
    let [v4, v6] = own().map(|source| from(known, source));
    frames
        .map(|frame| (v4.wrap(inside(frame)), v6.wrap(inside(frame))))
        .unzip()
}

/// Makes the checksum of an IPv4 header right.
pub(super) fn mend(frame: &mut [u8]) {
    let words = usize::from(frame[ETH_LEN] & 15).max(5) * 4;
    frame[ETH_LEN + 10..ETH_LEN + 12].fill(0);
    let end = (ETH_LEN + words).min(frame.len());
    let sum = checksum(&[&frame[ETH_LEN..end]]);
    put(frame, ETH_LEN + 10, sum);
}

/// Writes a number of two bytes, big-endian.
pub(super) fn put(frame: &mut [u8], at: usize, number: u16) {
    frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// Reads one.
pub(super) fn get(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Changes a frame of IPv4 and makes its header's checksum right again.
pub(super) fn changed(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    mend(&mut frame);
    frame
}

/// A frame of IPv4 with options, a multiple of four bytes.
pub(super) fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let front = ETH_LEN + 20;
    let mut frame = [&frame[..front], options, &frame[front..]].concat();
    frame[ETH_LEN] = 0x40 | (5 + options.len() / 4) as u8;
    let length = get(&frame, ETH_LEN + 2) + options.len() as u16;
    put(&mut frame, ETH_LEN + 2, length);
    mend(&mut frame);
    frame
}

/// A frame of IPv6 with an extension header of its own kind before what it carries.
pub(super) fn with_extension(frame: &[u8], kind: u8, header: &[u8]) -> Vec<u8> {
    let front = ETH_LEN + 40;
    let mut frame = [&frame[..front], header, &frame[front..]].concat();
    frame[front] = frame[ETH_LEN + 6];
    frame[ETH_LEN + 6] = kind;
    let length = get(&frame, ETH_LEN + 4) + header.len() as u16;
    put(&mut frame, ETH_LEN + 4, length);
    frame
}

/// An IP packet on the Gateway's cable.
pub(super) fn on_cable(known: &Known, packet: &[u8]) -> Vec<u8> {
    let v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    ethernet(
        known.gateway,
        known.own,
        if v4 { 0x0800 } else { 0x86dd },
        packet,
    )
}

/// What leaves the attacker's interface.
pub(super) fn that_fit(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let fits = |frame: &Vec<u8>| frame.len() <= 1514;
    frames.into_iter().filter(fits).collect()
}
