//! Coalescing, then segmenting: the packets come back, in order within each flow, but for what has
//! no meaning in them.
#![no_main]

use dataplane::host::checksum::{Sum, checksum};
use dataplane::host::coalesce::Coalescer;
use dataplane::host::memory::MemoryHost;
use dataplane::host::segment::{Segmenter, finish};
use dataplane::host::vnet::{self, VnetHeader};
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;
use std::collections::HashMap;

/// What a flow's next packet has.
#[derive(Clone, Copy, Default)]
struct Flow {
    sequence: u32,
    identification: u16,
}

/// The next packet of one of four flows (TCP and UDP, IPv4 and IPv6), as its bits say.
fn packet(input: &mut Input, flows: &mut [Flow; 4]) -> Vec<u8> {
    let how = input.u8();
    if how & 0x80 != 0 {
        return input.short().to_vec();
    }
    let which = usize::from(how & 3);
    let (v6, udp) = (how & 1 != 0, how & 2 != 0);
    let flow = &mut flows[which];
    let (ip, options) = (if v6 { 40 } else { 20 }, how & 4 != 0 && !udp);
    let transport = if udp {
        8
    } else if options {
        32
    } else {
        20
    };
    let payload = usize::from(input.u8() & 0x3f) * if how & 8 != 0 { 32 } else { 1 };
    let mut packet = vec![how; ip + transport + payload];
    let len = packet.len();
    let fields = input.u8();
    packet[..ip + transport].fill(0);
    if v6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        (packet[6], packet[7]) = (if udp { 17 } else { 6 }, 64);
        packet[8..40].fill(0xfd);
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&flow.identification.to_be_bytes());
        packet[6] = (fields & 1) << 6;
        (packet[8], packet[9]) = (64, if udp { 17 } else { 6 });
        packet[12..20].fill(10);
    }
    let t = ip;
    packet[t..t + 4].copy_from_slice(&[4, 0, 0, 53]);
    if udp {
        packet[t + 4..t + 6].copy_from_slice(&((len - ip) as u16).to_be_bytes());
    } else {
        packet[t + 4..t + 8].copy_from_slice(&flow.sequence.to_be_bytes());
        packet[t + 12] = (transport as u8 / 4) << 4;
        packet[t + 13] = 0x10 | fields & 8;
    }
    flow.sequence = flow.sequence.wrapping_add(payload as u32);
    flow.identification = flow.identification.wrapping_add(u16::from(fields & 2 == 0));
    if how & 0x10 != 0 {
        input.flip(&mut packet[..ip + transport]);
    }
    if how & 0x20 == 0 {
        finish_checksums(&mut packet, v6, udp, ip);
    }
    if how & 0x40 != 0 {
        input.flip(&mut packet);
    }
    packet
}

fn finish_checksums(packet: &mut [u8], v6: bool, udp: bool, ip: usize) {
    let field = ip + if udp { 6 } else { 16 };
    packet[field..field + 2].fill(0);
    if !v6 {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let addresses = if v6 { 8..40 } else { 12..20 };
    let sum = Sum::new()
        .bytes(&packet[addresses])
        .word(if udp { 17 } else { 6 })
        .word((packet.len() - ip) as u16)
        .bytes(&packet[ip..]);
    let sum = if udp {
        sum.udp_checksum()
    } else {
        sum.checksum()
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A packet without what has no meaning: the identification under DF, and which of the two zeros a
/// checksum is.
fn meaning(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (ip, protocol) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 && packet[0] == 0x45 => (20, packet[9]),
        Some(6) if packet.len() >= 40 => (40, packet[6]),
        _ => return packet,
    };
    if ip == 20 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let field = ip + if protocol == 17 { 6 } else { 16 };
    for at in [10, field] {
        if let Some(sum) = packet.get_mut(at..at + 2)
            && (at != 10 || ip == 20)
            && *sum == [0xff; 2]
            && (at == 10 || protocol == 6 || protocol == 17)
        {
            sum.fill(if protocol == 17 && at == field {
                0xff
            } else {
                0
            });
        }
    }
    packet
}

/// What must stay in order: addresses, protocol and ports.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 24 => [&packet[9..10], &packet[12..24]].concat(),
        Some(6) if packet.len() >= 44 => [&packet[6..7], &packet[8..44]].concat(),
        _ => Vec::new(),
    }
}

fn by_flow<'a>(packets: impl Iterator<Item = &'a [u8]>) -> HashMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        flows
            .entry(flow_of(packet))
            .or_default()
            .push(meaning(packet));
    }
    flows
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let mut flows = [Flow {
        sequence: u32::MAX - 50,
        identification: u16::MAX - 2,
    }; 4];
    let mut packets = Vec::new();
    while !input.is_empty() && packets.len() < 80 {
        let packet = packet(&mut input, &mut flows);
        // As the worker gives them: not empty, and of a known version.
        if packet
            .first()
            .is_some_and(|first| matches!(first >> 4, 4 | 6))
        {
            packets.push(packet);
        }
    }
    let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let mut host = MemoryHost::new().with_udp_segments(how & 1 == 0);
    let report = Coalescer::new().write(&slices, &mut host);
    assert_eq!(report.packets, packets.len());
    assert_eq!(report.dropped, 0);
    assert_eq!(report.bytes, packets.iter().map(Vec::len).sum::<usize>());
    assert_eq!(report.writes, host.written().len());
    let mut back: Vec<Vec<u8>> = Vec::new();
    for written in host.written() {
        let (header, packet) = VnetHeader::split(written).expect("a header");
        if header == VnetHeader::default() {
            back.push(packet.to_vec());
            continue;
        }
        assert_ne!(header.gso_type, vnet::GSO_NONE);
        assert!(finish(&header, &mut packet.to_vec()).is_err());
        let mut segmenter = Segmenter::new(header, packet).expect("a super-packet of ours");
        let mut out = vec![0; segmenter.max_segment_len()];
        while let Some(len) = segmenter.next(&mut out) {
            back.push(out[..len].to_vec());
        }
    }
    let before = by_flow(slices.into_iter());
    let after = by_flow(back.iter().map(Vec::as_slice));
    assert_eq!(before, after);
});
