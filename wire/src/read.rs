//! What the headers around the tunnel's frames are read by: EtherTypes, protocols, and fields.

use crate::Frame;

/// The EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// The EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// The EtherType of IPv6.
pub const IPV6: u16 = 0x86DD;

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of UDP.
pub const UDP: u8 = 17;
/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// The byte at `at`, which has one before it.
#[inline(always)]
pub fn byte(frame: &impl Frame, at: usize) -> Option<u8> {
    frame.be16(at - 1).map(|word| word as u8)
}

/// An IPv4 address, as a number.
#[inline(always)]
pub fn v4_at(frame: &impl Frame, at: usize) -> Option<u32> {
    let low = frame.be16(at + 2)?;
    let high = frame.be16(at)?;
    Some((high as u32) << 16 | low as u32)
}

/// An IPv6 address, as two little-endian words.
#[inline(always)]
pub fn v6_at(frame: &impl Frame, at: usize) -> Option<[u64; 2]> {
    let last = frame.word(at + 8)?;
    let first = frame.word(at)?;
    Some([first, last])
}

/// Whether an IPv4 address may be a host's: not this network, loopback, a group or reserved (RFC 6890).
#[inline(always)]
pub const fn is_a_hosts_v4(address: u32) -> bool {
    let first = address >> 24;
    first != 0 && first != 127 && first < 224
}

/// Whether an IPv6 address may be a host's: not a group, unspecified or loopback (RFC 4291, section 2.4).
#[inline(always)]
pub const fn is_a_hosts_v6([first, last]: [u64; 2]) -> bool {
    first & 0xff != 0xff && !(first == 0 && (last == 0 || last == 1u64.to_be()))
}

/// The sum of a word's four halves.
#[inline(always)]
pub const fn halves(word: u64) -> u64 {
    (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48)
}

/// A value that stands in network order, as [`halves`] sees it.
#[inline(always)]
pub const fn big(value: u16) -> u64 {
    value.swap_bytes() as u64
}

/// The Internet checksum (RFC 1071) of a sum of little-endian halves, for `set_be16`. Ones' complement sums do not
/// mind the order, as long as the result is written in the same one.
#[inline(always)]
pub const fn folded(sum: u64) -> u16 {
    // Twice: the first fold can carry.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).swap_bytes()
}
