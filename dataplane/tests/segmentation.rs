//! Properties of segmentation and coalescing, against a plain segmenter made of etherparse.

use etherparse::{
    IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, TcpOptionElement, UdpHeader,
};
use portcullis_dataplane::host::coalesce::{Coalescer, WriteReport};
use portcullis_dataplane::host::memory::MemoryHost;
use portcullis_dataplane::host::segment::{SegmentError, Segmenter, finish};
use portcullis_dataplane::host::vnet::{self, VnetHeader};
use proptest::prelude::*;
use std::collections::HashMap;

/// One flow, from which packets are built plainly.
#[derive(Debug, Clone)]
struct Flow {
    v6: bool,
    tcp: bool,
    id: u8,
    dont_fragment: bool,
    timestamp: bool,
    ttl: u8,
}

#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    sequence: u32,
    acknowledgement: u32,
    identification: u16,
    window: u16,
    time: u32,
    fin: bool,
    psh: bool,
    cwr: bool,
    syn: bool,
}

impl Flow {
    /// A finished packet.
    fn packet(&self, fields: Fields, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = ([10, 9, 0, self.id], [10, 9, 1, 1]);
        let (source6, destination6) = ([self.id; 16], [0xfd; 16]);
        let mut tcp = TcpHeader::new(1000 + u16::from(self.id), 80, fields.sequence, 4000);
        tcp.ack = true;
        tcp.acknowledgment_number = fields.acknowledgement;
        tcp.window_size = fields.window;
        (tcp.fin, tcp.psh, tcp.cwr, tcp.syn) = (fields.fin, fields.psh, fields.cwr, fields.syn);
        if self.timestamp {
            tcp.set_options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(fields.time, 7),
            ])
            .unwrap();
        }
        let mut udp = UdpHeader {
            source_port: 1000 + u16::from(self.id),
            destination_port: 53,
            length: 8 + payload.len() as u16,
            checksum: 0,
        };
        let protocol = if self.tcp {
            IpNumber::TCP
        } else {
            IpNumber::UDP
        };
        let transport_len = if self.tcp { tcp.header_len() } else { 8 } + payload.len();
        let mut packet = Vec::new();
        if self.v6 {
            let ip = Ipv6Header {
                traffic_class: 2,
                flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
                payload_length: transport_len as u16,
                next_header: protocol,
                hop_limit: self.ttl,
                source: source6,
                destination: destination6,
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload).unwrap();
            udp.checksum = udp.calc_checksum_ipv6(&ip, payload).unwrap();
            ip.write(&mut packet).unwrap();
        } else {
            let mut ip = Ipv4Header::new(
                transport_len as u16,
                self.ttl,
                protocol,
                source,
                destination,
            )
            .unwrap();
            ip.identification = fields.identification;
            ip.dont_fragment = self.dont_fragment;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
            udp.checksum = udp.calc_checksum_ipv4(&ip, payload).unwrap();
            ip.write(&mut packet).unwrap();
        }
        match self.tcp {
            true => tcp.write(&mut packet).unwrap(),
            false => udp.write(&mut packet).unwrap(),
        }
        packet.extend_from_slice(payload);
        packet
    }

    fn header_len(&self) -> usize {
        self.packet(Fields::default(), &[]).len()
    }

    /// The super-packet as the kernel gives it: checksum field with the pseudo header's sum.
    fn super_packet(&self, fields: Fields, payload: &[u8], size: u16) -> Vec<u8> {
        let mut packet = self.packet(fields, payload);
        let ip = if self.v6 { 40 } else { 20 };
        let offset = if self.tcp { 16 } else { 6 };
        let len = (packet.len() - ip) as u32;
        let mut sum = u32::from(if self.tcp { 6u16 } else { 17 }) + len;
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        for word in packet[addresses].chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let at = ip + offset;
        packet[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        let header = VnetHeader {
            flags: vnet::FLAG_NEEDS_CHECKSUM,
            gso_type: self.gso_type() | if fields.cwr { vnet::GSO_ECN } else { 0 },
            header_len: self.header_len() as u16,
            gso_size: size,
            checksum_start: ip as u16,
            checksum_offset: offset as u16,
        };
        [&header.to_bytes()[..], &packet].concat()
    }

    fn gso_type(&self) -> u8 {
        match (self.tcp, self.v6) {
            (false, _) => vnet::GSO_UDP_L4,
            (true, false) => vnet::GSO_TCPV4,
            (true, true) => vnet::GSO_TCPV6,
        }
    }

    /// What segmentation must give, built packet by packet.
    fn segments(&self, fields: Fields, payload: &[u8], size: u16) -> Vec<Vec<u8>> {
        let chunks: Vec<_> = payload.chunks(size.into()).collect();
        let mut segments = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let last = index + 1 == chunks.len();
            let offset = (index * usize::from(size)) as u32;
            let fields = Fields {
                sequence: fields.sequence.wrapping_add(offset),
                identification: fields.identification.wrapping_add(index as u16),
                fin: fields.fin && last,
                psh: fields.psh && last,
                cwr: fields.cwr && index == 0,
                ..fields
            };
            segments.push(self.packet(fields, chunk));
        }
        segments
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    (
        any::<[bool; 4]>(),
        0u8..4,
        prop_oneof![Just(64u8), any::<u8>()],
    )
        .prop_map(|(bits, id, ttl)| Flow {
            v6: bits[0],
            tcp: bits[1],
            id,
            dont_fragment: bits[2],
            timestamp: bits[3],
            ttl,
        })
}

fn fields() -> impl Strategy<Value = Fields> {
    (any::<[u32; 3]>(), any::<[u16; 2]>(), any::<[bool; 3]>()).prop_map(|(words, halves, bits)| {
        Fields {
            sequence: words[0],
            acknowledgement: words[1],
            time: words[2],
            identification: halves[0],
            window: halves[1],
            fin: bits[0],
            psh: bits[1],
            cwr: bits[2],
            syn: false,
        }
    })
}

fn segment_all(read: &[u8]) -> Result<Vec<Vec<u8>>, SegmentError> {
    let (header, packet) = VnetHeader::split(read).ok_or(SegmentError::Short(read.len()))?;
    let mut in_place = packet.to_vec();
    let finished = finish(&header, &mut in_place);
    let mut segmenter = match Segmenter::new(header, packet) {
        Ok(segmenter) => segmenter,
        Err(error) => {
            // A super-packet is refused there whatever else is wrong with it.
            match header.gso_type {
                vnet::GSO_NONE => assert_eq!(finished, Err(error)),
                _ => assert!(finished.is_err()),
            }
            return Err(error);
        }
    };
    let (most, count) = (segmenter.max_segment_len(), segmenter.remaining());
    let mut out = vec![0xee; 70_000];
    let mut packets = Vec::new();
    loop {
        let expected = segmenter.next_len();
        let Some(len) = segmenter.next(&mut out) else {
            break;
        };
        assert_eq!(len, expected);
        assert!(len <= most);
        packets.push(out[..len].to_vec());
    }
    assert_eq!(packets.len(), count);
    assert_eq!(segmenter.next_len(), 0);
    // What is no super-packet comes out the same when it is finished where it lies.
    match header.gso_type {
        vnet::GSO_NONE => assert_eq!(in_place[..finished?], packets[0]),
        _ => assert!(finished.is_err()),
    }
    Ok(packets)
}

/// Writes a batch and gives what the host saw, and the packets that makes.
fn coalesce(packets: &[Vec<u8>], udp: bool) -> (WriteReport, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut host = MemoryHost::new().with_udp_segments(udp);
    let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let report = Coalescer::new().write(&slices, &mut host);
    let written = host.written().to_vec();
    let mut out = Vec::new();
    for write in &written {
        if write[1] == vnet::GSO_NONE {
            assert_eq!(write[..vnet::LEN], [0; vnet::LEN]);
            out.push(write[vnet::LEN..].to_vec());
        } else {
            out.extend(segment_all(write).unwrap());
        }
    }
    (report, written, out)
}

/// What identifies a flow in a packet: version, protocol and source.
fn flow_of(packet: &[u8]) -> (u8, u8, u8) {
    match packet[0] >> 4 {
        4 => (4, packet[9], packet[15]),
        _ => (6, packet[6], packet[8]),
    }
}

/// Sets what GRO may change to one value: the identification of packets with DF, and the header
/// checksum over it.
fn without_meaningless(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        let sum = portcullis_dataplane::host::checksum::checksum(&packet[..20]);
        assert_eq!(sum, 0, "an IPv4 header with a wrong checksum");
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn segments_are_those_of_a_plain_segmenter(
        flow in flow(),
        fields in fields(),
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
        size in 1u16..3000,
    ) {
        let size = size.max(payload.len() as u16 / 200 + 1);
        let read = flow.super_packet(fields, &payload, size);
        prop_assert_eq!(segment_all(&read).unwrap(), flow.segments(fields, &payload, size));
    }

    #[test]
    fn a_partial_checksum_is_finished(
        flow in flow(),
        fields in fields(),
        payload in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut read = flow.super_packet(fields, &payload, 1);
        read[1] = vnet::GSO_NONE;
        prop_assert_eq!(segment_all(&read).unwrap(), vec![flow.packet(fields, &payload)]);
    }

    #[test]
    fn lying_headers_never_panic_nor_leave_the_packet(
        flow in flow(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
        short in any::<bool>(),
        single in any::<bool>(),
    ) {
        let mut read = flow.super_packet(Fields::default(), &payload, 100);
        let len = read.len();
        for (at, value) in changes {
            read[at % len] = value;
        }
        if single {
            read[1] = vnet::GSO_NONE;
        }
        if short {
            read.truncate(cut.index(len + 1));
        }
        if let Ok(packets) = segment_all(&read) {
            for packet in packets {
                prop_assert!(packet.len() <= read.len() - vnet::LEN);
            }
        }
        // Neither does the coalescer, and it loses nothing.
        let packet = read.get(vnet::LEN..).unwrap_or_default().to_vec();
        let good = flow.packet(Fields::default(), &payload);
        let batch = [good.clone(), packet.clone(), packet, good];
        let (report, ..) = coalesce(&batch, true);
        prop_assert_eq!(report.packets, 4);
    }

    #[test]
    fn coalescing_then_segmenting_gives_the_packets_back(
        flows in proptest::collection::vec(flow(), 1..12),
        steps in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0usize..1400, 0u8..40, any::<bool>()), 1..150),
        udp in any::<bool>(),
    ) {
        // One flow for each of the names, so that it has one sequence of numbers.
        let mut flows = flows;
        flows.sort_by_key(|flow| (flow.v6, flow.tcp, flow.id));
        flows.dedup_by_key(|flow| (flow.v6, flow.tcp, flow.id));
        let mut states: HashMap<usize, Fields> = HashMap::new();
        let mut packets = Vec::new();
        for (pick, odd_size, event, psh) in steps {
            let index = pick.index(flows.len());
            let state = states.entry(index).or_default();
            // Mostly full segments that follow on; now and then something else.
            let mut fields = *state;
            let mut size = 1000;
            match event {
                0 => size = odd_size,
                1 => fields.sequence = fields.sequence.wrapping_add(777),
                2 => fields.acknowledgement += 1,
                3 => fields.window += 1,
                4 => fields.time += 1,
                5 => fields.identification = fields.identification.wrapping_add(5),
                6 => fields.fin = true,
                7 => fields.syn = true,
                8 => fields.cwr = true,
                9 => size = 0,
                10 => fields.psh = psh,
                _ => {}
            }
            let payload: Vec<u8> = (0..size).map(|i| (i * 31 + packets.len()) as u8).collect();
            let mut flow = flows[index].clone();
            match event {
                12 => flow.ttl = flow.ttl.wrapping_add(1),
                13 => flow.dont_fragment = !flow.dont_fragment,
                14 => flow.timestamp = !flow.timestamp,
                _ => {}
            }
            let mut packet = flow.packet(fields, &payload);
            if event == 15 {
                // Congestion experienced, or a bit of the flow label.
                packet[1] ^= 1;
                if !flow.v6 {
                    packet[10..12].fill(0);
                    let sum = portcullis_dataplane::host::checksum::checksum(&packet[..20]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            if event == 11 {
                // Damaged on the way, or before.
                let at = packet.len() - 1;
                packet[at] ^= 0x10;
            }
            packets.push(packet);
            *state = Fields {
                sequence: fields.sequence.wrapping_add(size as u32),
                identification: fields.identification.wrapping_add(1),
                fin: false,
                syn: false,
                cwr: false,
                psh: false,
                ..fields
            };
        }
        let (report, written, out) = coalesce(&packets, udp);
        prop_assert_eq!(report.packets, packets.len());
        prop_assert_eq!(report.writes, written.len());
        prop_assert_eq!(report.dropped, 0);
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
            for packet in packets {
                let packet = without_meaningless(packet.clone());
                flows.entry(flow_of(&packet)).or_default().push(packet);
            }
            flows
        };
        // The same packets, in the same order in each flow.
        prop_assert_eq!(by_flow(&out), by_flow(&packets));
    }
}

const TCP4: Flow = Flow {
    v6: false,
    tcp: true,
    id: 1,
    dont_fragment: true,
    timestamp: true,
    ttl: 64,
};

fn train(flow: &Flow, count: usize, size: usize) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..count * size).map(|i| (i / 7) as u8).collect();
    flow.segments(
        Fields {
            psh: true,
            sequence: u32::MAX - 5000,
            ..Fields::default()
        },
        &payload,
        size as u16,
    )
}

#[test]
fn interleaved_flows_become_one_write_each() {
    let trains: Vec<_> = [(false, true), (true, true), (false, false), (true, false)]
        .into_iter()
        .map(|(v6, tcp)| {
            let flow = Flow { v6, tcp, ..TCP4 };
            train(&flow, 16, 1000)
        })
        .collect();
    let batch: Vec<_> = (0..16)
        .flat_map(|i| trains.iter().map(move |train| train[i].clone()))
        .collect();
    let (report, written, out) = coalesce(&batch, true);
    assert_eq!((report.writes, report.super_packets), (4, 4));
    assert_eq!(written.len(), 4);
    assert_eq!(out, trains.concat());
    // Where the TUN takes no UDP super-packets, datagrams go singly.
    let (report, ..) = coalesce(&batch, false);
    assert_eq!((report.writes, report.super_packets), (34, 2));
}

#[test]
fn a_run_ends_before_64_kib() {
    let (report, written, out) = coalesce(&train(&TCP4, 60, 1448), true);
    assert_eq!(report.writes, 2);
    assert!(
        written
            .iter()
            .all(|write| write.len() <= vnet::LEN + 65_535)
    );
    assert_eq!(out, train(&TCP4, 60, 1448));
}

#[test]
fn a_wrong_checksum_is_never_made_right() {
    for damaged in 0..3 {
        let mut packets = train(&TCP4, 3, 1000);
        *packets[damaged].last_mut().unwrap() ^= 1;
        let (_, written, out) = coalesce(&packets, true);
        assert_eq!(out, packets);
        let single = [&[0; vnet::LEN][..], &packets[damaged]].concat();
        assert!(written.contains(&single), "packet {damaged} was merged");
    }
    let mut packets = train(&TCP4, 3, 1000);
    packets[1][11] ^= 1;
    let (_, written, _) = coalesce(&packets, true);
    let single = [&[0; vnet::LEN][..], &packets[1]].concat();
    assert!(
        written.contains(&single),
        "a wrong IP header checksum was mended"
    );
}

#[test]
fn a_fragment_does_not_overtake_its_flow() {
    let mut packets = train(&TCP4, 4, 1000);
    let mut fragment = packets[0].clone();
    fragment[6] |= 0x20;
    packets.insert(2, fragment);
    let (report, written, _) = coalesce(&packets, true);
    assert_eq!((report.writes, report.super_packets), (3, 2));
    assert_eq!(written[1][vnet::LEN..], packets[2]);
}

#[test]
fn a_refused_write_is_counted_and_the_rest_goes_on() {
    let mut host = MemoryHost::new();
    host.fail_next(std::io::ErrorKind::WouldBlock);
    let first = train(&TCP4, 5, 1000);
    let second = train(&Flow { id: 2, ..TCP4 }, 3, 1000);
    let slices: Vec<&[u8]> = first.iter().chain(&second).map(Vec::as_slice).collect();
    let report = Coalescer::new().write(&slices, &mut host);
    assert_eq!((report.dropped, report.packets, report.writes), (5, 3, 1));
    assert_eq!(report.last_error, Some(0));
}

#[test]
fn contradicting_headers_are_errors() {
    let good = TCP4.super_packet(Fields::default(), &[1; 3000], 1000);
    let with = |change: &dyn Fn(&mut VnetHeader, &mut Vec<u8>)| {
        let (mut header, packet) = VnetHeader::split(&good).unwrap();
        let mut packet = packet.to_vec();
        change(&mut header, &mut packet);
        segment_all(&[&header.to_bytes()[..], &packet].concat()).err()
    };
    assert_eq!(with(&|_, _| ()), None);
    assert_eq!(with(&|h, _| h.gso_size = 0), Some(SegmentError::Empty));
    assert_eq!(
        with(&|h, _| h.header_len = 9000),
        Some(SegmentError::HeaderLength(9000))
    );
    let checksum = |error| matches!(error, Some(SegmentError::Checksum { .. }));
    assert!(checksum(with(&|h, _| h.checksum_start = 9000)));
    assert!(checksum(with(&|h, _| h.checksum_start = 0)));
    assert!(checksum(with(&|h, _| h.checksum_offset = u16::MAX)));
    assert!(checksum(with(&|h, _| h.flags = 0)));
    // One packet whose checksum would be half outside.
    let end = VnetHeader::split(&good).unwrap().1.len() as u16;
    assert!(checksum(with(&|h, _| {
        h.gso_type = vnet::GSO_NONE;
        h.checksum_offset = end - 20 - 1;
    })));
    let length = |error| matches!(error, Some(SegmentError::Length { .. }));
    assert!(length(with(&|_, p| p.truncate(2000))));
    assert!(length(with(&|_, p| p.push(0))));
    let wrong_type = |error| matches!(error, Some(SegmentError::Type { .. }));
    assert!(wrong_type(with(&|h, _| h.gso_type = vnet::GSO_TCPV6)));
    assert!(wrong_type(with(&|h, _| h.gso_type = vnet::GSO_UDP_L4)));
    assert!(wrong_type(with(
        &|h, _| h.gso_type = vnet::GSO_UDP_FRAGMENTS
    )));
    assert!(wrong_type(with(&|_, p| p[6] = 0x20)));
    let short = |error| matches!(error, Some(SegmentError::Short(_)));
    assert!(short(with(&|_, p| p[0] = 0x41)));
    assert!(short(with(&|_, p| p[32] = 0x40)));
    assert_eq!(with(&|_, p| p[0] = 0x55), Some(SegmentError::Version(5)));
    // The whole TCP header beyond the packet.
    assert!(short(with(&|h, p| {
        h.header_len = 0;
        p.truncate(50);
        p[2..4].copy_from_slice(&50u16.to_be_bytes());
    })));
}

/// A super-packet with 8 more bytes between the fixed IP header and the TCP header.
fn with_options(flow: &Flow, options: &[u8; 8], first: u8) -> Vec<u8> {
    let mut read = flow.super_packet(Fields::default(), &[9; 3000], 1000);
    let ip = if flow.v6 { 40 } else { 20 };
    read.splice(vnet::LEN + ip..vnet::LEN + ip, options.iter().copied());
    let mut header = VnetHeader::split(&read).unwrap().0;
    header.checksum_start += 8;
    read[..vnet::LEN].copy_from_slice(&header.to_bytes());
    let packet = &mut read[vnet::LEN..];
    if flow.v6 {
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet[6] = first;
    } else {
        let len = packet.len() as u16;
        packet[0] = first;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
    }
    read
}

#[test]
fn ip_options_and_extension_headers_are_copied_to_each_segment() {
    use portcullis_dataplane::host::checksum::Sum;
    // Four no-operations and the end of the list; a hop-by-hop header with padding, then TCP.
    let v4 = with_options(&TCP4, &[1, 1, 1, 1, 0, 0, 0, 0], 0x47);
    let v6 = Flow { v6: true, ..TCP4 };
    let v6 = with_options(&v6, &[6, 0, 1, 4, 0, 0, 0, 0], 0);
    for (read, transport, addresses) in [(v4, 28, 12..20), (v6, 48, 8..40)] {
        let packets = segment_all(&read).unwrap();
        assert_eq!(packets.len(), 3);
        for packet in packets {
            etherparse::SlicedPacket::from_ip(&packet).unwrap();
            if transport == 28 {
                assert!(Sum::new().bytes(&packet[..28]).is_intact());
            }
            let segment = &packet[transport..];
            let sum = Sum::new().bytes(&packet[addresses.clone()]).bytes(segment);
            assert!(sum.word(6).word(segment.len() as u16).is_intact());
        }
        // The coalescer leaves such packets alone.
        let (report, ..) = coalesce(&segment_all(&read).unwrap(), true);
        assert_eq!(report.super_packets, 0);
    }
}

#[test]
fn a_frame_too_small_consumes_nothing() {
    let read = TCP4.super_packet(Fields::default(), &[1; 3000], 1000);
    let (header, packet) = VnetHeader::split(&read).unwrap();
    let mut segmenter = Segmenter::new(header, packet).unwrap();
    assert_eq!(segmenter.destination().to_string(), "10.9.1.1");
    assert_eq!(segmenter.source().to_string(), "10.9.0.1");
    let len = segmenter.next_len();
    assert_eq!(segmenter.next(&mut vec![0; len - 1]), None);
    assert_eq!(segmenter.remaining(), 3);
    assert_eq!(segmenter.next(&mut vec![0; len]), Some(len));
}
