//! Coalescing: writes a batch of opened packets to the host interface in as few calls as may be. A
//! run of consecutive TCP segments, or of equal UDP datagrams, of one flow becomes one super-packet
//! whose payloads are gathered from the frames where they lie; everything else is written as it is.
//!
//! The rules are those of the kernel's GRO. A run has one pair of addresses and ports, one TTL,
//! traffic class and flow label, one acknowledgement number, window and set of TCP options (so the
//! same timestamp), only ACK and, on its last segment, PSH; sequence numbers follow on; all payloads
//! but a shorter last one are of one size; nothing is fragmented or has IP options or extension
//! headers; IPv4 identifications count up (or, with DF, stay). Segmenting a super-packet gives the
//! packets back byte for byte except for what has no meaning in them: the identification of
//! packets with DF that did not count up, and a checksum field of 0xffff where 0 is as right.
//!
//! The kernel does not look at the checksums of a super-packet again. So a packet joins a run only
//! after its own IP and transport checksums were verified here: a wrong one is written singly, as
//! it came, for the kernel to drop and count. (The AEAD says who sent a packet, not that it was
//! whole when it was sealed.) A packet that stays single is not verified here; the kernel does it.
//!
//! Runs are written in the order in which they began, and a packet that cannot continue its flow's
//! run ends it: the order within a flow is kept, that between flows is not.

use super::Host;
use super::checksum::Sum;
use super::vnet::{self, VnetHeader};
use std::io::IoSlice;

/// Packets looked at together; a longer batch is taken in pieces.
pub const BATCH: usize = 64;

/// Flows that can have an open run at once. One more ends the oldest.
const OPEN_RUNS: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const LARGEST: usize = 65_535;
/// IPv6 and the longest TCP header.
const LONGEST_HEADER: usize = 40 + 60;

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Writes that succeeded.
    pub writes: usize,
    /// Packets they carried.
    pub packets: usize,
    /// The bytes of these packets, as they were before they became one.
    pub bytes: usize,
    /// Packets the host refused.
    pub dropped: usize,
    /// Successful writes that carried more than one packet.
    pub super_packets: usize,
    /// The last refusal, as errno (0 for one that has none).
    pub last_error: Option<i32>,
    /// Which packets the host refused, a bit for each of the first 64, from the lowest.
    pub refused: u64,
}

impl WriteReport {
    /// Adds another batch's.
    pub fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
        self.super_packets += other.super_packets;
        self.last_error = other.last_error.or(self.last_error);
        self.refused |= other.refused;
    }
}

/// Where a packet's parts are, when it is TCP or UDP without anything unusual before it.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    protocol: u8,
    /// Bytes of the IP header.
    ip: u8,
    /// Bytes of all headers.
    header: u8,
    /// Both ports, as they stand.
    ports: [u8; 4],
    /// Whether it may be part of a run.
    joins: bool,
    /// Whether it ends its run: a TCP segment with PSH.
    ends: bool,
}

impl Layout {
    #[inline(always)]
    fn ip(&self) -> usize {
        self.ip.into()
    }

    #[inline(always)]
    fn header(&self) -> usize {
        self.header.into()
    }
}

enum Class {
    /// Of a flow that can have runs.
    Flow(Layout),
    /// Of no such flow.
    Other,
    /// Perhaps of such a flow: a fragment, or behind options.
    Unclear,
}

#[derive(Clone, Copy, Default)]
struct Run {
    layout: Layout,
    first: u8,
    last: u8,
    count: u8,
    open: bool,
    /// Whether the first packet's checksums were verified (the others' always are).
    verified: bool,
    /// Payload bytes of a segment.
    size: u16,
    /// Length of the super-packet.
    total: u32,
    /// Whether IPv4 identifications count up; decided by the second packet.
    counts_up: bool,
}

/// Coalesces batches. Holds no packet between two calls and never allocates.
pub struct Coalescer {
    runs: [Run; BATCH],
    len: usize,
    /// Indices of open runs, oldest first.
    open: [u8; OPEN_RUNS],
    open_len: usize,
    /// For each packet the next one of its run.
    next: [u8; BATCH],
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

impl Coalescer {
    /// A coalescer.
    pub fn new() -> Self {
        Self {
            runs: [Run::default(); BATCH],
            len: 0,
            open: [0; OPEN_RUNS],
            open_len: 0,
            next: [0; BATCH],
        }
    }

    /// Writes opened packets, in order of arrival and each cut to its IP length, to `host`. A
    /// packet the host refuses is counted and the rest is still written.
    pub fn write(&mut self, packets: &[&[u8]], host: &mut (impl Host + ?Sized)) -> WriteReport {
        let mut report = WriteReport::default();
        let udp = host.accepts_udp_segments();
        for (piece, batch) in packets.chunks(BATCH).enumerate() {
            self.len = 0;
            self.open_len = 0;
            for index in 0..batch.len() {
                self.sort(batch, index, udp);
            }
            for run in &self.runs[..self.len] {
                let written = match run.count {
                    1 => host.write(&[
                        IoSlice::new(&SINGLE),
                        IoSlice::new(batch[usize::from(run.first)]),
                    ]),
                    _ => write_super(run, &self.next, batch, host),
                };
                match written {
                    Ok(()) => {
                        report.writes += 1;
                        report.packets += usize::from(run.count);
                        let repeated = usize::from(run.count - 1) * run.layout.header();
                        report.bytes += run.total as usize + repeated;
                        report.super_packets += usize::from(run.count > 1);
                    }
                    Err(error) => {
                        report.dropped += usize::from(run.count);
                        let mut index = usize::from(run.first);
                        for _ in 0..run.count {
                            report.refused |= u64::from(piece == 0) << index;
                            index = usize::from(self.next[index]);
                        }
                        report.last_error = Some(error.raw_os_error().unwrap_or(0));
                    }
                }
            }
        }
        report
    }

    /// Puts a packet into its flow's run, or into a new one.
    #[inline]
    fn sort(&mut self, batch: &[&[u8]], index: usize, udp: bool) {
        let packet = batch[index];
        let layout = match classify(packet, udp) {
            Class::Flow(layout) => layout,
            Class::Other => return self.begin(index, Layout::default(), packet.len()),
            Class::Unclear => {
                for at in 0..self.open_len {
                    self.runs[usize::from(self.open[at])].open = false;
                }
                self.open_len = 0;
                return self.begin(index, Layout::default(), packet.len());
            }
        };
        let found = self.open[..self.open_len].iter().position(|run| {
            let run = &self.runs[usize::from(*run)];
            run.layout.ports == layout.ports
                && run.layout.protocol == layout.protocol
                && addresses(batch[usize::from(run.first)]) == addresses(packet)
        });
        if let Some(at) = found {
            let run = usize::from(self.open[at]);
            if self.join(run, batch, index, &layout) {
                if !self.runs[run].open {
                    self.close(at);
                }
                return;
            }
            self.close(at);
        }
        self.begin(index, layout, packet.len());
    }

    fn close(&mut self, at: usize) {
        self.runs[usize::from(self.open[at])].open = false;
        self.open.copy_within(at + 1..self.open_len, at);
        self.open_len -= 1;
    }

    #[inline]
    fn begin(&mut self, index: usize, layout: Layout, len: usize) {
        let run = self.len;
        self.runs[run] = Run {
            layout,
            first: index as u8,
            last: index as u8,
            count: 1,
            open: layout.joins && !layout.ends,
            verified: false,
            size: (len - layout.header()) as u16,
            total: len as u32,
            counts_up: true,
        };
        self.len += 1;
        if self.runs[run].open {
            if self.open_len == OPEN_RUNS {
                self.close(0);
            }
            self.open[self.open_len] = run as u8;
            self.open_len += 1;
        }
    }

    /// Appends a packet to a run of its flow, if it continues it.
    fn join(&mut self, run: usize, batch: &[&[u8]], index: usize, layout: &Layout) -> bool {
        let run = &mut self.runs[run];
        let (first, packet) = (batch[usize::from(run.first)], batch[index]);
        let payload = packet.len() - layout.header();
        let size = usize::from(run.size);
        if !layout.joins
            || payload > size
            || run.total as usize + payload > LARGEST
            || layout.header != run.layout.header
            || !same_ip(first, packet)
        {
            return false;
        }
        let counts_up = match identification_step(first, packet, run.count) {
            Some(both) if run.count == 1 => both == 1,
            Some(step) if (step == 1) == run.counts_up => run.counts_up,
            None if packet[0] >> 4 == 6 => true,
            _ => return false,
        };
        if layout.protocol == TCP {
            let (ours, theirs) = (&packet[layout.ip()..], &first[layout.ip()..]);
            let expected = word(theirs, 4).wrapping_add(run.total - u32::from(layout.header));
            let header = layout.header() - layout.ip();
            // Acknowledgement and offset; window; urgent pointer and options.
            if word(ours, 4) != expected
                || ours[8..13] != theirs[8..13]
                || ours[14..16] != theirs[14..16]
                || ours[18..header] != theirs[18..header]
            {
                return false;
            }
        }
        if !run.verified && !is_intact(first, &run.layout) {
            return false;
        }
        run.verified = true;
        if !is_intact(packet, layout) {
            return false;
        }
        run.counts_up = counts_up;
        self.next[usize::from(run.last)] = index as u8;
        run.last = index as u8;
        run.count += 1;
        run.total += payload as u32;
        run.open = payload == size && !layout.ends;
        true
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn addresses(packet: &[u8]) -> &[u8] {
    match packet[0] >> 4 {
        4 => &packet[12..20],
        _ => &packet[8..40],
    }
}

/// Everything of the IP header that a run must have in common, but the identification.
fn same_ip(first: &[u8], packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        // Type of service; flags and fragment offset, TTL, protocol.
        4 => first[1] == packet[1] && first[6..10] == packet[6..10],
        // Class and label; next header and hop limit.
        _ => first[..4] == packet[..4] && first[6..8] == packet[6..8],
    }
}

/// How the IPv4 identification of the packet after `count` others goes on: 1 when it counts up, 0
/// when it stays, which is allowed with DF; `None` when neither, and for IPv6.
fn identification_step(first: &[u8], packet: &[u8], count: u8) -> Option<u8> {
    if packet[0] >> 4 != 4 {
        return None;
    }
    let ahead = half(packet, 4).wrapping_sub(half(first, 4));
    let dont_fragment = packet[6] & 0x40 != 0;
    match ahead {
        0 if dont_fragment => Some(0),
        ahead if ahead == u16::from(count) => Some(1),
        _ => None,
    }
}

#[inline]
fn classify(packet: &[u8], udp: bool) -> Class {
    let (protocol, ip) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            if packet[0] != 0x45 || half(packet, 6) & 0x3fff != 0 {
                return Class::Unclear;
            }
            if usize::from(half(packet, 2)) != packet.len() {
                return Class::Unclear;
            }
            (packet[9], 20)
        }
        Some(6) if packet.len() >= 40 => {
            if usize::from(half(packet, 4)) + 40 != packet.len() {
                return Class::Unclear;
            }
            // Hop-by-hop, routing, fragment, authentication, destination options.
            if matches!(packet[6], 0 | 43 | 44 | 51 | 60) {
                return Class::Unclear;
            }
            (packet[6], 40)
        }
        _ => return Class::Unclear,
    };
    let transport = &packet[ip..];
    let (header, joins, ends) = match protocol {
        TCP if transport.len() >= 20 => {
            let header = usize::from(transport[12] >> 4) * 4;
            if header < 20 || header > transport.len() {
                return Class::Unclear;
            }
            let plain = transport[13] & !PSH == ACK && transport[12] & 0x0f == 0;
            (
                header,
                plain && transport.len() > header,
                transport[13] & PSH != 0,
            )
        }
        UDP if transport.len() >= 8 && udp => {
            let whole = usize::from(half(transport, 4)) == transport.len();
            let summed = half(transport, 6) != 0;
            (8, whole && summed && transport.len() > 8, false)
        }
        TCP => return Class::Unclear,
        _ => return Class::Other,
    };
    Class::Flow(Layout {
        protocol,
        ip: ip as u8,
        header: (ip + header) as u8,
        ports: [transport[0], transport[1], transport[2], transport[3]],
        joins,
        ends,
    })
}

fn pseudo(packet: &[u8], protocol: u8, len: usize) -> Sum {
    Sum::new()
        .bytes(addresses(packet))
        .word(protocol.into())
        .word(len as u16)
}

fn is_intact(packet: &[u8], layout: &Layout) -> bool {
    let transport = &packet[layout.ip()..];
    (layout.ip == 40 || Sum::new().bytes(&packet[..20]).is_intact())
        && pseudo(packet, layout.protocol, transport.len())
            .bytes(transport)
            .is_intact()
}

/// The header of a packet that stays single.
const SINGLE: [u8; vnet::LEN] = [0; vnet::LEN];

fn write_super(
    run: &Run,
    next: &[u8; BATCH],
    batch: &[&[u8]],
    host: &mut (impl Host + ?Sized),
) -> std::io::Result<()> {
    let Layout { protocol, .. } = run.layout;
    let (ip, header) = (run.layout.ip(), run.layout.header());
    let total = run.total as usize;
    let first = batch[usize::from(run.first)];
    let v4 = ip == 20;
    let mut head = [0; vnet::LEN + LONGEST_HEADER];
    let head = &mut head[..vnet::LEN + header];
    head[..vnet::LEN].copy_from_slice(
        &VnetHeader {
            flags: vnet::FLAG_NEEDS_CHECKSUM,
            gso_type: match (protocol, v4) {
                (UDP, _) => vnet::GSO_UDP_L4,
                (_, true) => vnet::GSO_TCPV4,
                (_, false) => vnet::GSO_TCPV6,
            },
            header_len: header as u16,
            gso_size: run.size,
            checksum_start: ip as u16,
            checksum_offset: if protocol == UDP { 6 } else { 16 },
        }
        .to_bytes(),
    );
    let copy = &mut head[vnet::LEN..];
    copy.copy_from_slice(&first[..header]);
    if v4 {
        copy[2..4].copy_from_slice(&(run.total as u16).to_be_bytes());
        copy[10..12].fill(0);
        let checksum = Sum::new().bytes(&copy[..20]).checksum();
        copy[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        copy[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
    }
    let len = total - ip;
    let sum = pseudo(first, protocol, len).folded().to_be_bytes();
    if protocol == UDP {
        copy[ip + 4..ip + 6].copy_from_slice(&(len as u16).to_be_bytes());
        copy[ip + 6..ip + 8].copy_from_slice(&sum);
    } else {
        copy[ip + 13] |= batch[usize::from(run.last)][ip + 13] & PSH;
        copy[ip + 16..ip + 18].copy_from_slice(&sum);
    }
    let mut parts = [IoSlice::new(&[]); BATCH + 1];
    parts[0] = IoSlice::new(head);
    let mut index = usize::from(run.first);
    for part in &mut parts[1..=usize::from(run.count)] {
        *part = IoSlice::new(&batch[index][header..]);
        index = usize::from(next[index]);
    }
    host.write(&parts[..=usize::from(run.count)])
}
