//! Answers to ARP requests and neighbour solicitations, written over the question. They go to the
//! MAC address that asked, and are no longer than what they answer.

use super::V6_TRANSPORT;
use crate::Frame;
use crate::read::{ARP, ICMPV6, IPV6, big, byte, folded, halves, v4_at, v6_at};

/// A frame that can be answered in place.
pub trait FrameMut: Frame {
    /// Writes six bytes; `None` where they are not all in the frame.
    fn set_mac(&mut self, at: usize, mac: [u8; 6]) -> Option<()>;
    /// Writes two bytes, big-endian.
    fn set_be16(&mut self, at: usize, value: u16) -> Option<()>;
    /// Writes eight bytes, little-endian.
    fn set_word(&mut self, at: usize, value: u64) -> Option<()>;
}

/// A frame in plain memory.
impl Frame for &mut [u8] {
    fn holds(&self, bytes: usize) -> bool {
        (&**self).holds(bytes)
    }

    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        (&**self).mac(at)
    }

    fn be16(&self, at: usize) -> Option<u16> {
        (&**self).be16(at)
    }

    fn words(&self, at: usize) -> Option<[u64; 3]> {
        (&**self).words(at)
    }

    fn word(&self, at: usize) -> Option<u64> {
        (&**self).word(at)
    }
}

impl FrameMut for &mut [u8] {
    fn set_mac(&mut self, at: usize, mac: [u8; 6]) -> Option<()> {
        put(self, at, &mac)
    }

    fn set_be16(&mut self, at: usize, value: u16) -> Option<()> {
        put(self, at, &value.to_be_bytes())
    }

    fn set_word(&mut self, at: usize, value: u64) -> Option<()> {
        put(self, at, &value.to_le_bytes())
    }
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    frame.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

/// Makes a question that [`super::decide`] found [`super::PinnedVerdict::Answered`] its answer: what was
/// asked for is at `mac`. `None` where that could not be written; then the frame is of no use.
#[inline(always)]
pub fn answer(mac: [u8; 6], frame: &mut impl FrameMut) -> Option<()> {
    let asker = frame.mac(6)?;
    frame.set_mac(0, asker)?;
    frame.set_mac(6, mac)?;
    match frame.be16(12)? {
        ARP => arp(mac, asker, frame),
        _ => solicitation(mac, frame),
    }
}

/// Whether a frame is such an answer of `mac`'s, as far as it differs from all that could have come to
/// the port or been forwarded.
#[inline(always)]
pub fn is_answer(mac: [u8; 6], frame: &impl Frame) -> bool {
    if frame.mac(6) != Some(mac) {
        return false;
    }
    match frame.be16(12) {
        Some(ARP) => frame.be16(20) == Some(2),
        // What was forwarded has fewer hops left.
        Some(IPV6) => {
            byte(frame, 20) == Some(ICMPV6)
                && byte(frame, 21) == Some(255)
                && frame.be16(V6_TRANSPORT) == Some(136 << 8)
        }
        _ => false,
    }
}

#[inline(always)]
fn arp(mac: [u8; 6], asker: [u8; 6], frame: &mut impl FrameMut) -> Option<()> {
    let (sender, target) = (v4_at(frame, 28)?, v4_at(frame, 38)?);
    frame.set_be16(20, 2)?;
    frame.set_mac(22, mac)?;
    frame.set_be16(28, (target >> 16) as u16)?;
    frame.set_be16(30, target as u16)?;
    frame.set_mac(32, asker)?;
    frame.set_be16(38, (sender >> 16) as u16)?;
    frame.set_be16(40, sender as u16)
}

/// Solicited, and overriding what the asker knew. Not a router.
const FLAGS: u16 = 0x6000;
/// Target link-layer address, one unit of eight bytes.
const OPTION: u16 = 0x0201;

/// A solicitation of 24 bytes, or of 32 with its option.
#[inline(always)]
fn solicitation(mac: [u8; 6], frame: &mut impl FrameMut) -> Option<()> {
    let (from, target) = (v6_at(frame, 22)?, v6_at(frame, 62)?);
    let length = frame.be16(18)?;
    frame.set_word(22, target[0])?;
    frame.set_word(30, target[1])?;
    frame.set_word(38, from[0])?;
    frame.set_word(46, from[1])?;
    frame.set_be16(54, 136 << 8)?;
    frame.set_be16(58, FLAGS)?;
    frame.set_be16(60, 0)?;
    // The target stays where it is.
    let mut sum = 2 * (halves(target[0]) + halves(target[1])) + halves(from[0]) + halves(from[1]);
    sum += big(length) + big(ICMPV6 as u16) + big(136 << 8) + big(FLAGS);
    if length == 32 {
        frame.set_be16(78, OPTION)?;
        frame.set_mac(80, mac)?;
        let [a, b, c, d, e, f] = mac;
        sum += big(OPTION) + halves(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]));
    }
    frame.set_be16(56, folded(sum))
}
