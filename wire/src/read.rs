//! What the headers around the tunnel's frames are read by: EtherTypes, protocols, and fields.

use crate::Frame;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86DD;

pub(crate) const ICMP: u8 = 1;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// The byte at `at`, which has one before it.
#[inline(always)]
pub(crate) fn byte(frame: &impl Frame, at: usize) -> Option<u8> {
    frame.be16(at - 1).map(|word| word as u8)
}

/// An IPv4 address, as a number.
#[inline(always)]
pub(crate) fn v4_at(frame: &impl Frame, at: usize) -> Option<u32> {
    let low = frame.be16(at + 2)?;
    let high = frame.be16(at)?;
    Some((high as u32) << 16 | low as u32)
}

/// An IPv6 address, as two little-endian words.
#[inline(always)]
pub(crate) fn v6_at(frame: &impl Frame, at: usize) -> Option<[u64; 2]> {
    let last = frame.word(at + 8)?;
    let first = frame.word(at)?;
    Some([first, last])
}

/// The sum of a word's four halves.
#[inline(always)]
pub(crate) const fn halves(word: u64) -> u64 {
    (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48)
}

/// A value that stands in network order, as [`halves`] sees it.
#[inline(always)]
pub(crate) const fn big(value: u16) -> u64 {
    value.swap_bytes() as u64
}

/// The Internet checksum (RFC 1071) of a sum of little-endian halves, for `set_be16`. Ones' complement sums do not
/// mind the order, as long as the result is written in the same one.
#[inline(always)]
pub(crate) const fn folded(sum: u64) -> u16 {
    // Twice: the first fold can carry.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).swap_bytes()
}
