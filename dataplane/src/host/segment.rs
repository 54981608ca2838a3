//! Segmentation: makes finished IP packets of what one read of the host interface gave, which is
//! one packet with its checksum still to do, or a super-packet of up to 64 KiB. Each packet is
//! written straight into the frame it is sealed in, its payload copied and summed in one pass.
//!
//! The rules are the kernel's own (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`):
//! the checksum field holds the sum of the pseudo header with the whole length, which is replaced
//! by the segment's; the IPv4 identification counts up; CWR stays on the first segment, FIN and
//! PSH on the last. IP options and IPv6 extension headers are copied to every segment. The headers
//! are not trusted: whatever they say, a read gives packets within its bounds or an error.

use super::checksum::Sum;
use super::vnet::{self, VnetHeader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Why a read cannot be segmented. The packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Shorter than its headers.
    #[error("the host interface gave {0} bytes, fewer than the headers need")]
    Short(usize),
    /// Neither IPv4 nor IPv6.
    #[error("the host interface gave a packet of IP version {0}, which is neither 4 nor 6")]
    Version(u8),
    /// The IP header's length and the packet's differ.
    #[error("the IP header says {said} bytes, the host interface gave {given}")]
    Length {
        /// What the IP header says.
        said: usize,
        /// What was read.
        given: usize,
    },
    /// A `gso_type` that was never asked for, or not fit for the packet.
    #[error("the host interface gave segmentation type {gso_type} for an unfit packet")]
    Type {
        /// The `gso_type`.
        gso_type: u8,
    },
    /// A super-packet whose segments would be empty, or that has no payload.
    #[error("the host interface gave a super-packet with segments of 0 bytes or without payload")]
    Empty,
    /// The checksum's place is outside the packet, within the IP header, or not the transport
    /// header's.
    #[error("the host interface wants a checksum from byte {start}, at byte {at}: not in place")]
    Checksum {
        /// `csum_start`.
        start: usize,
        /// `csum_start + csum_offset`.
        at: usize,
    },
    /// The header length is beyond the packet.
    #[error("the host interface gave a header length of {0}, beyond the packet")]
    HeaderLength(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One packet as it is.
    Whole,
    /// One packet whose checksum is to be finished.
    Checksum {
        start: usize,
        at: usize,
    },
    Tcp,
    Udp,
}

/// Finishes a packet that is no super-packet where it lies. Gives its length, which is less than
/// `packet`'s when bytes follow it.
///
/// # Errors
/// As [`Segmenter::new`], and for a super-packet.
#[inline]
pub fn finish(header: &VnetHeader, packet: &mut [u8]) -> Result<usize, SegmentError> {
    let (said, _, shape) = inspect(header, packet)?;
    match shape {
        None => Err(SegmentError::Type {
            gso_type: header.gso_type,
        }),
        Some(None) => Ok(said),
        Some(Some((start, at))) => {
            let sum = Sum::new().bytes(&packet[start..said]);
            put16(packet, at, finished(sum, start, at));
            Ok(said)
        }
    }
}

/// Where a checksum is to be finished: from which byte, and where it is put.
type Checksum = (usize, usize);

/// What every read is checked for. Gives the packet's length by its IP header, the IP header's own
/// length, and for a single packet what checksum is to be finished; `None` for a super-packet.
#[inline]
fn inspect(
    header: &VnetHeader,
    packet: &[u8],
) -> Result<(usize, usize, Option<Option<Checksum>>), SegmentError> {
    let (ip_header, said) = ip_lengths(packet)?;
    let bare = header.gso_type == vnet::GSO_NONE && !header.needs_checksum();
    // Bytes after the end of a packet with nothing to do are cut, as any receiver would.
    if said > packet.len() || (said < packet.len() && !bare) {
        return Err(SegmentError::Length {
            said,
            given: packet.len(),
        });
    }
    if usize::from(header.header_len) > packet.len() {
        return Err(SegmentError::HeaderLength(header.header_len.into()));
    }
    if bare {
        return Ok((said, ip_header, Some(None)));
    }
    let (start, at) = checksum_place(header);
    if !header.needs_checksum() || start < ip_header || at + 2 > said {
        return Err(SegmentError::Checksum { start, at });
    }
    let single = header.gso_type == vnet::GSO_NONE;
    Ok((said, ip_header, single.then_some(Some((start, at)))))
}

fn checksum_place(header: &VnetHeader) -> Checksum {
    let start = usize::from(header.checksum_start);
    (start, start + usize::from(header.checksum_offset))
}

/// The checksum to put at `at`. Only UDP has no checksum 0; its field is the one at 6.
fn finished(sum: Sum, start: usize, at: usize) -> u16 {
    match at - start {
        6 => sum.udp_checksum(),
        _ => sum.checksum(),
    }
}

/// Cuts one read into packets.
pub struct Segmenter<'a> {
    packet: &'a [u8],
    shape: Shape,
    v4: bool,
    /// Where the transport header starts.
    transport: usize,
    /// Where the payload starts.
    payload: usize,
    /// Payload bytes of a segment.
    size: usize,
    /// Where the next segment's payload starts; `packet.len()` when done.
    at: usize,
    /// Segments given so far.
    given: u16,
    /// The sum of what is the same in every segment's IPv4 header.
    ip_sum: Sum,
    /// The sum of what is the same in every segment's transport header, pseudo header included.
    transport_sum: Sum,
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The IP header's length and the packet's length as it says.
fn ip_lengths(packet: &[u8]) -> Result<(usize, usize), SegmentError> {
    let short = SegmentError::Short(packet.len());
    let first = *packet.first().ok_or(short)?;
    match first >> 4 {
        4 if packet.len() < 20 => Err(short),
        4 => {
            let header = usize::from(first & 0x0f) * 4;
            let said = usize::from(be16(packet, 2));
            if header < 20 || header > packet.len() || said < header {
                return Err(short);
            }
            Ok((header, said))
        }
        6 if packet.len() < 40 => Err(short),
        // A length of 0 before a hop-by-hop header is a jumbogram.
        6 if be16(packet, 4) == 0 && packet[6] == 0 => Err(SegmentError::Length {
            said: 0,
            given: packet.len(),
        }),
        6 => Ok((40, 40 + usize::from(be16(packet, 4)))),
        version => Err(SegmentError::Version(version)),
    }
}

/// The protocol and the place of the transport header; `None` in a fragment, behind an extension
/// header that is not walked, or beyond the packet.
fn transport(packet: &[u8], ip_header: usize) -> Option<(u8, usize)> {
    if packet[0] >> 4 == 4 {
        let fragment = be16(packet, 6) & 0x3fff;
        return (fragment == 0).then_some((packet[9], ip_header));
    }
    let (mut protocol, mut at) = (packet[6], ip_header);
    // Hop-by-hop, routing, destination options.
    while matches!(protocol, 0 | 43 | 60) {
        let extension = packet.get(at..at + 8)?;
        protocol = extension[0];
        at += 8 + usize::from(extension[1]) * 8;
    }
    Some((protocol, at))
}

impl<'a> Segmenter<'a> {
    /// Looks at what a read gave: its header, and the packet from the IP header on.
    ///
    /// # Errors
    /// When the headers contradict each other or the packet.
    #[inline]
    pub fn new(header: VnetHeader, packet: &'a [u8]) -> Result<Self, SegmentError> {
        let (said, ip_header, shape) = inspect(&header, packet)?;
        let packet = &packet[..said];
        let mut segmenter = Self {
            packet,
            shape: Shape::Whole,
            v4: packet[0] >> 4 == 4,
            transport: 0,
            payload: 0,
            size: packet.len(),
            at: 0,
            given: 0,
            ip_sum: Sum::new(),
            transport_sum: Sum::new(),
        };
        match shape {
            Some(None) => {}
            Some(Some((start, at))) => segmenter.shape = Shape::Checksum { start, at },
            None => {
                let (start, at) = checksum_place(&header);
                segmenter.prepare(&header, ip_header, start, at)?;
            }
        }
        Ok(segmenter)
    }

    /// Checks a super-packet and sums what its segments have in common.
    fn prepare(
        &mut self,
        header: &VnetHeader,
        ip_header: usize,
        start: usize,
        at: usize,
    ) -> Result<(), SegmentError> {
        let packet = self.packet;
        let wrong_type = SegmentError::Type {
            gso_type: header.gso_type,
        };
        let (protocol, transport) = transport(packet, ip_header).ok_or(wrong_type)?;
        let (shape, header_len, field) = match (header.gso(), self.v4) {
            (vnet::GSO_TCPV4, true) | (vnet::GSO_TCPV6, false) if protocol == TCP => {
                let offset = packet.get(transport + 12).ok_or(wrong_type)?;
                let header_len = usize::from(offset >> 4) * 4;
                if header_len < 20 {
                    return Err(SegmentError::Short(header_len));
                }
                (Shape::Tcp, header_len, 16)
            }
            (vnet::GSO_UDP_L4, _) if protocol == UDP => (Shape::Udp, 8, 6),
            _ => return Err(wrong_type),
        };
        if start != transport || at != transport + field {
            return Err(SegmentError::Checksum { start, at });
        }
        let payload = transport + header_len;
        if payload > packet.len() {
            return Err(SegmentError::Short(packet.len()));
        }
        if header.gso_size == 0 || payload == packet.len() {
            return Err(SegmentError::Empty);
        }
        if shape == Shape::Udp {
            let said = usize::from(be16(packet, transport + 4));
            if said != packet.len() - transport {
                return Err(SegmentError::Length {
                    said: transport + said,
                    given: packet.len(),
                });
            }
        }
        if self.v4 {
            self.ip_sum = Sum::new()
                .bytes(&packet[..ip_header])
                .without(be16(packet, 2))
                .without(be16(packet, 4))
                .without(be16(packet, 10));
        }
        // The checksum field stays in: it is the sum of the pseudo header with the whole length.
        let sum = Sum::new()
            .bytes(&packet[transport..payload])
            .without((packet.len() - transport) as u16);
        self.transport_sum = match shape {
            Shape::Tcp => sum
                .without(be16(packet, transport + 4))
                .without(be16(packet, transport + 6))
                .without(be16(packet, transport + 12)),
            _ => sum.without(be16(packet, transport + 4)),
        };
        self.shape = shape;
        self.transport = transport;
        self.payload = payload;
        self.size = header.gso_size.into();
        self.at = payload;
        Ok(())
    }

    /// Where the packet goes, by its IP header.
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    /// Where the packet is from, by its IP header.
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    fn address(&self, v4: usize, v6: usize) -> IpAddr {
        if self.v4 {
            return Ipv4Addr::from(be32(self.packet, v4)).into();
        }
        let mut address = [0; 16];
        address.copy_from_slice(&self.packet[v6..v6 + 16]);
        Ipv6Addr::from(address).into()
    }

    /// The IP header and what follows, before segmentation: for a policy that looks at ports.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Packets still to be given.
    pub fn remaining(&self) -> usize {
        (self.packet.len() - self.at).div_ceil(self.size)
    }

    /// The length of the next packet; 0 when there is none.
    pub fn next_len(&self) -> usize {
        match self.packet.len() - self.at {
            0 => 0,
            left => self.payload + left.min(self.size),
        }
    }

    /// The length of the longest packet.
    pub fn max_segment_len(&self) -> usize {
        self.payload + self.size.min(self.packet.len() - self.payload)
    }

    /// Writes the next packet to the start of `out` and gives its length. `None` when there is no
    /// more, or when `out` is shorter than [`Segmenter::next_len`]; then nothing is consumed.
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        let len = self.next_len();
        if len == 0 {
            return None;
        }
        let out = out.get_mut(..len)?;
        match self.shape {
            Shape::Whole => {
                out.copy_from_slice(self.packet);
                self.at = len;
            }
            Shape::Checksum { start, at } => {
                out[..start].copy_from_slice(&self.packet[..start]);
                let sum = Sum::new().copy(&self.packet[start..], &mut out[start..]);
                put16(out, at, finished(sum, start, at));
                self.at = len;
            }
            Shape::Tcp | Shape::Udp => self.segment(out),
        }
        Some(len)
    }

    fn segment(&mut self, out: &mut [u8]) {
        let (transport, payload) = (self.transport, self.payload);
        let end = self.at + out.len() - payload;
        let (first, last) = (self.given == 0, end == self.packet.len());
        out[..payload].copy_from_slice(&self.packet[..payload]);
        let len = (out.len() - transport) as u16;
        let mut sum = self.transport_sum.word(len);
        if self.shape == Shape::Tcp {
            let offset = (self.at - payload) as u32;
            let sequence = be32(self.packet, transport + 4).wrapping_add(offset);
            out[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut out[transport + 13];
            if !first {
                *flags &= !CWR;
            }
            if !last {
                *flags &= !FIN_PSH;
            }
            sum = sum
                .word((sequence >> 16) as u16)
                .word(sequence as u16)
                .word(be16(out, transport + 12));
        } else {
            put16(out, transport + 4, len);
            sum = sum.word(len);
        }
        let sum = sum.copy(&self.packet[self.at..end], &mut out[payload..]);
        match self.shape {
            Shape::Tcp => put16(out, transport + 16, sum.checksum()),
            _ => put16(out, transport + 6, sum.udp_checksum()),
        }
        if self.v4 {
            let total = out.len() as u16;
            let id = be16(self.packet, 4).wrapping_add(self.given);
            put16(out, 2, total);
            put16(out, 4, id);
            put16(out, 10, self.ip_sum.word(total).word(id).checksum());
        } else {
            put16(out, 4, (out.len() - 40) as u16);
        }
        self.at = end;
        self.given = self.given.wrapping_add(1);
    }
}
