//! What a worker answers to packets that are larger than their session carries. Rings, tables and host interface in
//! memory: no kernel, no root.

mod bench;

use bench::*;
use dataplane::host::vnet::{self, VnetHeader};
use dataplane::policy::{Match, PeerRules, Policy, RuleSet};
use dataplane::worker::Command;
use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
use etherparse::{Icmpv4Type, SlicedPacket, TransportSlice};
use portcullis_dataplane as dataplane;
use std::sync::Arc;
use wire::limits::*;

/// The inner MTU of the bench's sessions.
const MTU: u16 = 1460;

/// Of datagrams with 1500 bytes each.
const SUPER: VnetHeader = VnetHeader {
    flags: vnet::FLAG_NEEDS_CHECKSUM,
    gso_type: vnet::GSO_UDP_L4,
    header_len: 28,
    gso_size: 1500,
    checksum_start: 20,
    checksum_offset: 6,
};

/// Asserts that it is an answer to `packet`, from `source`, that tells the MTU.
fn assert_answers(answer: &[u8], source: [u8; 4], packet: &[u8]) {
    let sliced = SlicedPacket::from_ip(answer).unwrap();
    assert_eq!(answer[12..16], source);
    assert_eq!(answer[16..20], packet[12..16], "to whoever sent it");
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else {
        panic!("no ICMP: {answer:?}");
    };
    let next_hop_mtu = MTU;
    let needed = FragmentationNeeded { next_hop_mtu };
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));
    assert!(packet.starts_with(icmp.payload()));
}

/// A bench with a session for [`WS`], and one for [`OTHER`].
fn two_sessions() -> (Bench, [Remote; 2]) {
    let mut bench = bench(2);
    let sessions = [(0, WS), (1, OTHER)].map(|(id, address)| {
        let mut session = bench.session(id, id as u8 + 1);
        let frame = session.frame(&packet(address, TOR, b"up"), bench.now);
        bench.inject(&frame);
        session
    });
    bench.written();
    (bench, sessions)
}

fn push(bench: &mut Bench, header: VnetHeader, packet: &[u8]) {
    bench.worker.host().push(header, packet);
    bench.settle();
}

#[test]
fn the_host_is_told_of_what_no_frame_carries_whether_it_came_alone_or_as_part_of_a_super_packet() {
    let (mut bench, _) = two_sessions();
    let fits = packet(TOR, WS, &vec![1; usize::from(MTU) - 28]);
    push(&mut bench, VnetHeader::default(), &fits);
    assert_eq!((bench.sent().len(), bench.written().len()), (1, 0));

    let large = packet(TOR, WS, &vec![1; usize::from(MTU) - 27]);
    push(&mut bench, VnetHeader::default(), &large);
    assert_eq!(bench.sent().len(), 0);
    let written = bench.written();
    assert_eq!(written.len(), 1);
    assert_answers(&written[0], WS, &large);

    let train = packet(TOR, WS, &[1; 4500]);
    push(&mut bench, SUPER, &train);
    assert_eq!(bench.sent().len(), 0);
    let written = bench.written();
    assert_eq!(written.len(), 1);
    assert_answers(&written[0], WS, &train);
    assert_eq!(bench.counters[0].too_big.get(), 2);
}

#[test]
fn another_workstation_is_told_through_its_own_session_and_the_host_hears_nothing() {
    let (mut bench, [mut ws, _]) = two_sessions();
    for (of, peer) in [(0, 1), (1, 0)] {
        let (to, from) = (
            RuleSet::from_iter([Match::Any]),
            RuleSet::from_iter([Match::Any]),
        );
        let peers = vec![PeerRules { peer, to, from }];
        let policy = Policy {
            peers,
            ..Policy::default()
        };
        bench.give(Command::SetPolicy(of, Arc::new(policy)));
    }
    let large = packet(WS, OTHER, &vec![1; usize::from(MTU) - 27]);
    let frame = ws.frame(&large, bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 0);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_answers(&ws.open(&sent[0], bench.now), OTHER, &large);
}

#[test]
fn a_flood_of_large_packets_is_answered_a_hundred_times_a_second() {
    let (mut bench, _) = two_sessions();
    let large = packet(TOR, WS, &vec![1; usize::from(MTU) - 27]);
    let train = packet(TOR, WS, &[1; 4500]);
    let mut answers = 0;
    for _ in 0..500 {
        bench.now += SECOND / 500;
        push(&mut bench, VnetHeader::default(), &large);
        push(&mut bench, SUPER, &train);
        answers += bench.written().len();
    }
    assert!((100..=125).contains(&answers), "{answers}");
    assert_eq!(bench.counters[0].too_big.get(), 1000);
}
