//! The guards of ports over `udp`.

use aya_ebpf::bindings::__sk_buff;
use wire::Frame;
use wire::limits::ETH_LEN;
use wire::pinned::{answer, is_answer};
use wire::udp::is_extension;

use crate::admission::{own_mac, udp};
use crate::packet::Skb;
use crate::pinned::Guarded;

/// The longest of what is looked at on the way in: a neighbour solicitation with its option.
const SOLICITATION: u32 = 86;
/// And on the way out.
const IPV6_HEADER: u32 = 54;
/// IPv6 extension headers that are followed; more are dropped.
const EXTENSIONS: usize = 8;
const IPV6: u16 = 0x86DD;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ENCRYPTED: u8 = 50;
const AUTHENTICATION: u8 = 51;

/// Answers questions for the port's addresses, whose rate was XDP's to enforce, and drops the rest.
#[inline(always)]
pub fn enters(context: *mut __sk_buff) -> Guarded {
    let mut packet = Skb::new(context, SOLICITATION);
    if packet.was_tagged() || !udp().is_question(own_mac(), &packet) {
        return Guarded::Dropped;
    }
    match answer(own_mac(), &mut packet) {
        Some(()) => Guarded::Answer,
        None => Guarded::Dropped,
    }
}

/// Lets out answers from [`enters`].
#[inline(always)]
pub fn leaves(context: *mut __sk_buff) -> Guarded {
    let packet = Skb::new(context, IPV6_HEADER);
    let received_by = packet.received_by();
    if received_by != 0 && received_by == packet.interface() && is_answer(own_mac(), &packet) {
        return Guarded::On;
    }
    Guarded::Dropped
}

/// Follows IPv6 extension headers, which XDP leaves to this.
#[inline(always)]
pub fn shared(context: *mut __sk_buff) -> Guarded {
    let packet = Skb::new(context, IPV6_HEADER);
    if packet.be16(12) != Some(IPV6) {
        return Guarded::On;
    }
    let Some(next) = packet.be16(20) else {
        return Guarded::On;
    };
    let mut next = (next >> 8) as u8;
    if !is_extension(next) {
        return Guarded::On;
    }
    let mut at = ETH_LEN + 40;
    for _ in 0..EXTENSIONS {
        if !is_extension(next) || next == ENCRYPTED {
            break;
        }
        let Some(start) = packet.far_be16(at) else {
            return Guarded::On;
        };
        let length = (start & 0xff) as usize;
        let step = match next {
            // A later fragment tells no port, and is never put together with a first one that is dropped.
            FRAGMENT => match packet.far_be16(at + 2) {
                Some(offset) if offset >> 3 == 0 => 8,
                _ => return Guarded::On,
            },
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        next = (start >> 8) as u8;
        at += step;
    }
    if next == UDP && packet.far_be16(at + 2) == Some(udp().port) {
        return Guarded::Dropped;
    }
    // More of them than anyone has a use for.
    if is_extension(next) && next != ENCRYPTED {
        return Guarded::Dropped;
    }
    Guarded::On
}
