//! What an inner packet carries: protocol, ports, and whether it opens a connection.
//!
//! It reads what the Gateway's stack will read, or nothing. Refused as [`Unclassified`] are:
//!
//! - headers cut short, and a first fragment without its whole transport header;
//! - IPv4 with a source route or with options that cannot be read, IPv6 with a routing or an
//!   authentication header: their destination or their transport may be another than it looks;
//! - IPv6 extension headers in an order no stack sends (hop-by-hop options not first, anything but
//!   the transport behind a fragment header), or more than [`MOST`];
//! - later fragments that begin in the first [`HEAD`] bytes or end beyond the largest packet. So
//!   whatever a stack does with overlaps, ports and flags are those of a first fragment, which was
//!   judged by them.

/// IPv6 extension headers that are gone through.
pub const MOST: usize = 8;
/// The first bytes of a fragmented packet's payload, which only a first fragment may carry: a TCP
/// header, in whole eights.
pub const HEAD: usize = 24;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What an ICMP or ICMPv6 message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    /// An echo request.
    Request,
    /// An echo reply.
    Reply,
    /// An error: unreachable, too big, time exceeded, bad parameter.
    Error,
    /// Another, of which none should come from a Workstation: redirects, router and neighbour
    /// discovery, timestamps.
    Other,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, or the first fragment of it.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// Whether it asks for a connection: SYN without ACK.
        opens: bool,
    },
    /// UDP, or the first fragment of it.
    Udp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6, or the first fragment of it.
    Icmp(Icmp),
    /// A later fragment, of which only the protocol is known.
    Rest(u8),
    /// Another protocol.
    Other(u8),
}

/// It cannot be told what a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclassified;

/// Says what a packet carries. It begins with the IP header and is of the length that says.
///
/// # Errors
/// [`Unclassified`], as above.
#[inline]
pub fn classify(packet: &[u8]) -> Result<Transport, Unclassified> {
    match packet.first().ok_or(Unclassified)? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => Err(Unclassified),
    }
}

#[inline]
fn v4(packet: &[u8]) -> Result<Transport, Unclassified> {
    let head = packet.first_chunk::<20>().ok_or(Unclassified)?;
    let len = usize::from(head[0] & 0x0f) * 4;
    let payload = packet.get(len..).ok_or(Unclassified)?;
    if len != 20 {
        options(packet.get(20..len).ok_or(Unclassified)?)?;
    }
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    let protocol = head[9];
    match fragment & 0x3fff {
        0 => transport(protocol, ICMP, payload),
        // More fragments, and this is the first.
        0x2000 => transport(protocol, ICMP, payload),
        place => later(protocol, usize::from(place & 0x1fff) * 8, len, payload),
    }
}

/// Goes through IPv4 options: none of them may be a source route, and all must be readable.
fn options(mut rest: &[u8]) -> Result<(), Unclassified> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    while let Some(kind) = rest.first() {
        let len = match *kind {
            END => return Ok(()),
            NOTHING => 1,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(Unclassified),
            _ => usize::from(*rest.get(1).filter(|len| **len >= 2).ok_or(Unclassified)?),
        };
        rest = rest.get(len..).ok_or(Unclassified)?;
    }
    Ok(())
}

#[inline]
fn v6(packet: &[u8]) -> Result<Transport, Unclassified> {
    let head = packet.first_chunk::<40>().ok_or(Unclassified)?;
    let payload = &packet[40..];
    match head[6] {
        TCP | UDP | ICMPV6 => transport(head[6], ICMPV6, payload),
        next => extensions(next, payload),
    }
}

fn extensions(first: u8, payload: &[u8]) -> Result<Transport, Unclassified> {
    let (mut next, mut rest) = (first, payload);
    for at in 0..=MOST {
        match next {
            HOP_BY_HOP if at > 0 => return Err(Unclassified),
            HOP_BY_HOP | DESTINATION if at < MOST => {
                let [following, eights] = *rest.first_chunk().ok_or(Unclassified)?;
                let len = (usize::from(eights) + 1) * 8;
                (next, rest) = (following, rest.get(len..).ok_or(Unclassified)?);
            }
            FRAGMENT if at < MOST => {
                let header = rest.first_chunk::<8>().ok_or(Unclassified)?;
                let place = u16::from_be_bytes([header[2], header[3]]);
                let before = payload.len() - rest.len() + 8;
                let protocol = header[0];
                if is_extension(protocol) {
                    return Err(Unclassified);
                }
                return match usize::from(place & 0xfff8) {
                    0 => transport(protocol, ICMPV6, &rest[8..]),
                    offset => later(protocol, offset, before, &rest[8..]),
                };
            }
            other if is_extension(other) => return Err(Unclassified),
            other => return transport(other, ICMPV6, rest),
        }
    }
    Err(Unclassified)
}

fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

/// A fragment that is not the first. `before` are the bytes that go before the payload and stay when
/// it is put together.
fn later(
    protocol: u8,
    offset: usize,
    before: usize,
    payload: &[u8],
) -> Result<Transport, Unclassified> {
    if offset < HEAD || before + offset + payload.len() > usize::from(u16::MAX) {
        return Err(Unclassified);
    }
    Ok(Transport::Rest(protocol))
}

#[inline]
fn transport(protocol: u8, icmp: u8, payload: &[u8]) -> Result<Transport, Unclassified> {
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    match protocol {
        TCP if payload.len() >= 20 => Ok(Transport::Tcp {
            source: port(0),
            destination: port(2),
            opens: payload[13] & 0x12 == 0x02,
        }),
        UDP if payload.len() >= 8 => Ok(Transport::Udp {
            source: port(0),
            destination: port(2),
        }),
        _ if protocol == icmp && payload.len() >= 8 => {
            Ok(Transport::Icmp(message(protocol, payload[0])))
        }
        TCP | UDP => Err(Unclassified),
        _ if protocol == icmp => Err(Unclassified),
        _ => Ok(Transport::Other(protocol)),
    }
}

#[inline]
fn message(protocol: u8, kind: u8) -> Icmp {
    match (protocol, kind) {
        (ICMP, 8) | (ICMPV6, 128) => Icmp::Request,
        (ICMP, 0) | (ICMPV6, 129) => Icmp::Reply,
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => Icmp::Error,
        _ => Icmp::Other,
    }
}
