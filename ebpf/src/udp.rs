//! The guards of ports over `udp`.

use aya_ebpf::bindings::__sk_buff;
use wire::Frame;
use wire::limits::ETH_LEN;
use wire::pinned::{answer, is_answer};
use wire::read::{IPV4, IPV6, UDP, byte, v4_at, v6_at};
use wire::refusal;
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
const FRAGMENT: u8 = 44;
const ENCRYPTED: u8 = 50;
const AUTHENTICATION: u8 = 51;

/// Answers questions for the port's addresses, and datagrams where it is not to look dead; XDP saw to the rate of
/// both. Drops the rest.
#[inline(always)]
pub fn enters(context: *mut __sk_buff) -> Guarded {
    let mut packet = Skb::new(context, SOLICITATION);
    if packet.was_tagged() {
        return Guarded::Dropped;
    }
    let done = match udp().is_question(own_mac(), &packet) {
        true => answer(own_mac(), &mut packet),
        false if !udp().stealth => refuse(packet),
        false => None,
    };
    match done {
        Some(()) => Guarded::Answer,
        None => Guarded::Dropped,
    }
}

/// Makes of a datagram for the tunnel what its sender is told.
#[inline(always)]
fn refuse(packet: Skb) -> Option<()> {
    if !udp().is_answerable(&packet) {
        return None;
    }
    // Each length a constant, as the verifier wants it.
    let mut packet = match packet.be16(12) {
        Some(IPV4) => packet.resized(refusal::ANSWER_V4 as u32)?,
        _ => packet.resized(refusal::ANSWER_V6 as u32)?,
    };
    refusal::answer(&mut packet)
}

/// Lets out answers from [`enters`].
#[inline(always)]
pub fn leaves(context: *mut __sk_buff) -> Guarded {
    let packet = Skb::new(context, IPV6_HEADER);
    let received_by = packet.received_by();
    if received_by == 0 || received_by != packet.interface() {
        return Guarded::Dropped;
    }
    if is_answer(own_mac(), &packet) || !udp().stealth && refusal::is_answer(&packet) {
        return Guarded::On;
    }
    Guarded::Dropped
}

/// Keeps from the kernel what is for the tunnel and hidden from XDP: behind IPv6 extension headers, or behind a tag
/// of no VLAN, which the kernel has taken off.
#[inline(always)]
pub fn shared(context: *mut __sk_buff) -> Guarded {
    let packet = Skb::new(context, IPV6_HEADER);
    let tagged = packet.was_priority_tagged();
    // What XDP refuses comes as far as this where it is answered, and is like what is hidden from XDP.
    let looked_at = tagged || !udp().stealth;
    let guarded = match packet.be16(12) {
        Some(IPV4) if looked_at => shared_v4(&packet),
        Some(IPV6) => shared_v6(&packet, looked_at),
        _ => Guarded::On,
    };
    match guarded {
        Guarded::Dropped if !tagged && !udp().stealth => match refuse(packet) {
            Some(()) => Guarded::Answer,
            None => Guarded::Dropped,
        },
        other => other,
    }
}

#[inline(always)]
fn shared_v4(packet: &Skb) -> Guarded {
    let (Some(start), Some(fragment), Some(protocol)) =
        (packet.be16(ETH_LEN), packet.be16(20), byte(packet, 23))
    else {
        return Guarded::On;
    };
    let Some(to) = v4_at(packet, 30) else {
        return Guarded::On;
    };
    let own = udp().v4;
    if own != 0 && own != to {
        return Guarded::On;
    }
    let header = (start >> 8 & 15) as usize * 4;
    let is_udp = protocol == UDP && fragment & 0x1fff == 0;
    if is_udp && packet.far_be16(ETH_LEN + header + 2) == Some(udp().port) {
        return Guarded::Dropped;
    }
    Guarded::On
}

#[inline(always)]
fn shared_v6(packet: &Skb, looked_at: bool) -> Guarded {
    let (Some(mut next), Some(to)) = (byte(packet, 20), v6_at(packet, 38)) else {
        return Guarded::On;
    };
    let own = udp().v6;
    if own[0] | own[1] != 0 && (own[0] != to[0] || own[1] != to[1]) {
        return Guarded::On;
    }
    if !is_extension(next) && !looked_at {
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
