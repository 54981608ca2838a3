//! The worker loop over rings, tables and a host interface in memory: no kernel, no root.

mod bench;

use bench::*;
use dataplane::engine::Engine;
use dataplane::host::vnet::VnetHeader;
use dataplane::keys::{Cipher, Protection};
use dataplane::policy::{Match, PeerRules, Policy, PortRange, RuleSet};
use dataplane::port::memory::{MemoryConfig, MemoryPort};
use dataplane::session::{Install, Session, pair_for_tests};
use dataplane::tap::{Reason, Tap};
use dataplane::wall::Wanted;
use dataplane::worker::{Command, Event, PeerSetup, PortSetup};
use portcullis_dataplane as dataplane;
use proptest::prelude::*;
use std::sync::Arc;
use wire::limits::*;
use wire::{Header, Role};

#[test]
fn a_packet_travels_from_the_ring_to_the_host_and_back() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    for size in 0..1400 {
        let up = packet(WS, TOR, &vec![7; size]);
        let frame = ws.frame(&up, bench.now);
        bench.inject(&frame);
        assert_eq!(bench.written(), [up]);

        let down = packet(TOR, WS, &vec![9; size]);
        bench.worker.host().push(VnetHeader::default(), &down);
        bench.settle();
        let sent = bench.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0][..6], WORKSTATION_MAC);
        assert_eq!(ws.open(&sent[0], bench.now), down);
    }
    assert_eq!(bench.counters[0].opened.get(), 1400);
    assert_eq!(bench.counters[1].opened.get(), 0);
}

#[test]
fn the_first_frame_under_the_pending_session_makes_it_current_and_control_is_told_once() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench
        .worker
        .host()
        .push(VnetHeader::default(), &packet(TOR, WS, b"early"));
    bench.settle();
    assert_eq!(
        bench.sent().len(),
        0,
        "the Gateway never sends under a pending session"
    );
    assert_eq!(bench.counters[0].no_session.get(), 1);
    for _ in 0..3 {
        let frame = ws.frame(&packet(WS, TOR, b"proof"), bench.now);
        bench.inject(&frame);
    }
    let confirmed = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Confirmed { workstation: 0, .. }));
    assert_eq!(confirmed.count(), 1);
}

/// A rekey in mid-stream: frames sealed under the old session before and after the switch arrive.
#[test]
fn a_rekey_loses_no_frame_on_either_side_of_the_switch() {
    let mut bench = bench(1);
    let mut old = bench.session(0, 1);
    let mut frames: Vec<_> = (0..20)
        .map(|n| old.frame(&packet(WS, TOR, &[n]), bench.now))
        .collect();
    bench.inject(&frames.remove(0));
    let mut new = bench.session(0, 2);
    bench.inject(&frames.remove(0));
    let first = new.frame(&packet(WS, TOR, &[100]), bench.now);
    bench.inject(&first);
    for frame in &frames {
        bench.inject(frame);
    }
    assert_eq!(bench.written().len(), 21);
    bench
        .worker
        .host()
        .push(VnetHeader::default(), &packet(TOR, WS, b"down"));
    bench.settle();
    assert_eq!(
        new.open(&bench.sent()[0], bench.now),
        packet(TOR, WS, b"down")
    );
}

#[test]
fn a_packet_with_anothers_source_address_is_dropped_and_counted() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(OTHER, TOR, b"not mine"), bench.now);
    bench.inject(&frame);
    let frame = ws.frame(&packet([8, 8, 8, 8], TOR, b"nobody's"), bench.now);
    bench.inject(&frame);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_source.get(), 2);
}

/// Property 4: whose an address is says the longest prefix, whichever the session has.
#[test]
fn a_source_in_anothers_longer_prefix_inside_ones_own_is_anothers() {
    let mut bench = bench(0);
    let counters = Arc::<dataplane::counters::PeerCounters>::default();
    for (id, prefix) in ["10.0.0.0/25", "10.0.0.16/28", "10.0.0.20/32"]
        .into_iter()
        .enumerate()
    {
        bench.give(Command::AddPeer(Box::new(PeerSetup {
            id: id as u32,
            prefixes: vec![prefix.parse().unwrap()],
            policy: Arc::new(Policy::gateway_any()),
            counters: match id {
                0 => Arc::clone(&counters),
                _ => Default::default(),
            },
        })));
        bench.tables.set_limit(id as u32, 256);
    }
    let mut ws = bench.session(0, 1);
    for last in 0..=127 {
        let up = packet([10, 0, 0, last], TOR, b"from anywhere in it");
        let frame = ws.frame(&up, bench.now);
        bench.inject(&frame);
        let own = !(16..32).contains(&last);
        let written = bench.written();
        assert_eq!(written, if own { vec![up] } else { vec![] }, "{last}");
    }
    assert_eq!(counters.inner_source.get(), 16);
}

/// What a Workstation's host says from any other address, or to a group, stays there.
#[test]
fn a_workstation_sends_from_its_own_address_alone_once_it_was_told() {
    use dataplane::own::Own;
    let (near, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    let mut bench = bench_on(Role::Workstation, 1, near, far);
    let (_, install) = pair_for_tests(
        3,
        Cipher::Aes128Gcm,
        Protection::Encrypt,
        (0x1_0001, 0x2_0002),
    );
    bench.give(Command::Install(Box::new(install)));
    let sends = |bench: &mut Bench, from, to| {
        for data in [&b"one"[..], b"two"] {
            let packet = packet(from, to, data);
            bench.worker.host().push(VnetHeader::default(), &packet);
        }
        bench.settle();
        bench.sent().len()
    };
    assert_eq!(sends(&mut bench, WS, TOR), 2);
    bench.give(Command::SetOwn(Own::default()));
    assert_eq!(sends(&mut bench, WS, TOR), 0, "before it is told which");
    let own = ["10.0.0.1/24".parse().unwrap()];
    bench.give(Command::SetOwn(Own::new(&own)));
    assert_eq!(sends(&mut bench, WS, TOR), 2);
    for (from, to) in [
        (OTHER, TOR),
        ([192, 168, 1, 5], TOR),
        ([0; 4], [255; 4]),
        (WS, [10, 0, 0, 255]),
        (WS, [224, 0, 0, 251]),
        (WS, [169, 254, 0, 1]),
        (WS, [255; 4]),
    ] {
        assert_eq!(sends(&mut bench, from, to), 0, "{from:?} to {to:?}");
    }
    assert_eq!(bench.counters[0].inner_source.get(), 2 + 2 * 2 + 2);
}

#[test]
fn a_packet_for_another_workstation_is_dropped_and_counted() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, OTHER, b"hello neighbour"), bench.now);
    bench.inject(&frame);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_destination.get(), 1);
}

/// Each worker has the sessions of its own Workstations, and knows the others without one.
#[test]
fn a_packet_for_another_workers_workstation_is_dropped_in_both_directions() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.give(Command::AddPeer(Box::new(PeerSetup {
        id: 1,
        prefixes: vec!["10.0.0.2/32".parse().unwrap()],
        policy: Default::default(),
        counters: Default::default(),
    })));
    let up = ws.frame(&packet(WS, OTHER, b"hello neighbour"), bench.now);
    bench.inject(&up);
    let spoofed = ws.frame(&packet(OTHER, TOR, b"not mine"), bench.now);
    bench.inject(&spoofed);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_destination.get(), 1);
    assert_eq!(bench.counters[0].inner_source.get(), 1);

    bench.give(Command::RemovePeer(1));
    let up = ws.frame(&packet(WS, OTHER, b"nobody's address now"), bench.now);
    bench.inject(&up);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_destination.get(), 2);
}

fn udp(port: u16) -> Match {
    Match::Udp(PortRange {
        first: port,
        last: port,
    })
}

/// `packet` goes to port 2000.
#[test]
fn rules_take_effect_with_the_next_frame_and_refusals_are_counted_apart() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let mut fragment = packet(WS, TOR, &[0; 20]);
    fragment[7] = 1; // Eight bytes on, over the first one's ports.
    let nothing = Policy::default();
    let udp_2000 = Policy {
        gateway: RuleSet::from_iter([udp(2000)]),
        ..Policy::default()
    };
    let elsewhere = Policy {
        transparent: RuleSet::from_iter([udp(2000)]),
        ..Policy::default()
    };
    let any = Policy::gateway_any();
    let beyond = packet(WS, [198, 51, 100, 7], b"transparent");
    let to_tor = packet(WS, TOR, b"allowed");
    let own_other = packet(WS, [192, 0, 2, 5], b"the Gateway's other address");
    let mut expected = [0; 3];
    for (policy, packet, outcome) in [
        (&any, &to_tor, None),
        (&udp_2000, &to_tor, None),
        (&nothing, &to_tor, Some(1)),
        (&any, &fragment, Some(2)),
        (&udp_2000, &fragment, Some(2)),
        (&any, &beyond, Some(0)),
        (&elsewhere, &beyond, None),
        (&elsewhere, &to_tor, Some(1)),
        (&elsewhere, &own_other, Some(0)),
        (&any, &own_other, Some(0)),
    ] {
        bench.give(Command::SetPolicy(0, Arc::new(policy.clone())));
        let frame = ws.frame(packet, bench.now);
        bench.inject(&frame);
        let written = bench.written();
        match outcome {
            None => assert_eq!(written, std::slice::from_ref(packet)),
            Some(counter) => {
                assert!(written.is_empty());
                expected[counter] += 1;
            }
        }
        let counters = &bench.counters[0];
        let counted = [
            counters.inner_destination.get(),
            counters.policy_denied.get(),
            counters.policy_unclassified.get(),
        ];
        assert_eq!(counted, expected);
    }
}

/// What a cache remembers of a pair of addresses is forgotten when the addresses change.
#[test]
fn an_address_that_becomes_the_gateways_own_is_closed_with_the_next_frame() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let policy = Policy {
        transparent: RuleSet::from_iter([Match::Any]),
        ..Policy::default()
    };
    bench.give(Command::SetPolicy(0, Arc::new(policy)));
    let beyond = packet(WS, [198, 51, 100, 7], b"transparent");
    for (local, written) in [(None, 1), (Some("198.51.100.7/32"), 0), (None, 1)] {
        let mut surroundings = surroundings();
        surroundings
            .local
            .extend(local.map(|net| net.parse::<ipnet::IpNet>().unwrap()));
        bench.give(Command::SetSurroundings(Arc::new(surroundings)));
        let frame = ws.frame(&beyond, bench.now);
        bench.inject(&frame);
        assert_eq!(bench.written().len(), written, "{local:?}");
    }
}

/// `WS` may send to port 2000 of `OTHER`; that one may answer from there.
fn peers(client: u32, server: u32) -> [(u32, Policy); 2] {
    let rules = |peer, to, from| Policy {
        peers: vec![PeerRules { peer, to, from }],
        ..Policy::default()
    };
    let port = || RuleSet::from_iter([udp(2000)]);
    [
        (client, rules(server, port(), RuleSet::default())),
        (server, rules(client, RuleSet::default(), port())),
    ]
}

#[test]
fn a_permitted_packet_for_another_workstation_is_sealed_for_it_and_never_reaches_the_host() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    let mut other = bench.session(1, 2);
    let proof = other.frame(&packet(OTHER, TOR, b"proof"), bench.now);
    bench.inject(&proof);
    let proof = ws.frame(&packet(WS, TOR, b"proof"), bench.now);
    bench.inject(&proof);
    bench.written();
    for (id, policy) in peers(0, 1) {
        bench.give(Command::SetPolicy(id, Arc::new(policy)));
    }
    for size in [0, 1, 100, 1300] {
        let request = packet(WS, OTHER, &vec![5; size]);
        let frame = ws.frame(&request, bench.now);
        bench.inject(&frame);
        let sent = bench.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(other.open(&sent[0], bench.now), request);
        // `packet` is from port 1000: no answer.
        let unasked = other.frame(&packet(OTHER, WS, b"unasked"), bench.now);
        bench.inject(&unasked);
        assert!(bench.sent().is_empty());
        let mut answer = packet(OTHER, WS, &vec![6; size]);
        let ports = [2000u16.to_be_bytes(), 1000u16.to_be_bytes()].concat();
        answer[20..24].copy_from_slice(&ports);
        let frame = other.frame(&answer, bench.now);
        bench.inject(&frame);
        let sent = bench.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(ws.open(&sent[0], bench.now), answer);
    }
    assert!(bench.written().is_empty());
    let (client, server) = (&bench.counters[0], &bench.counters[1]);
    assert_eq!(server.policy_denied.get(), 4);
    assert_eq!((client.tx_packets.get(), server.tx_packets.get()), (4, 4));
    assert_eq!((client.rx_packets.get(), server.rx_packets.get()), (5, 5));
}

#[test]
fn forged_and_repeated_frames_are_counted_apart_and_written_nowhere() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, TOR, b"once"), bench.now);
    let mut forged = ws.frame(&packet(WS, TOR, b"copied header"), bench.now);
    *forged.last_mut().unwrap() ^= 1;
    bench.inject(&forged);
    assert_eq!(
        bench
            .events()
            .iter()
            .filter(|event| matches!(event, Event::Confirmed { .. }))
            .count(),
        0
    );
    bench.inject(&frame);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
    let counters = &bench.counters[0];
    assert_eq!(
        (
            counters.opened.get(),
            counters.open_failed.get(),
            counters.replayed.get()
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_ping_is_answered_on_its_session_at_most_ten_times_a_second() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let mut ping = [0u8; 24];
    ping[0] = 3;
    ping[8..].copy_from_slice(&[0xaa; 16]);
    for _ in 0..30 {
        let frame = ws.frame(&ping, bench.now);
        bench.inject(&frame);
    }
    let sent = bench.sent();
    assert_eq!(sent.len(), 10);
    ping[0] = 4;
    assert_eq!(ws.open(&sent[0], bench.now), ping);
    assert_eq!(bench.counters[0].control_refused.get(), 20);
    assert!(bench.written().is_empty());
}

#[test]
fn a_rekey_message_reaches_control_and_other_control_messages_are_refused() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let mut init = [0u8; 144];
    init[0] = 1;
    for (message, taken) in [
        (&init[..], true),
        (&init[..143], false),
        (&[2u8; 144][..], false),
        (&[9u8; 24][..], false),
    ] {
        bench.events();
        let frame = ws.frame(message, bench.now);
        bench.inject(&frame);
        let reported = bench
            .events()
            .iter()
            .any(|event| matches!(event, Event::Inner { message, .. } if message == &init));
        assert_eq!(reported, taken);
    }
    assert_eq!(bench.counters[0].control_refused.get(), 3);
}

#[test]
fn an_erased_session_is_gone_from_xdp_and_worker_before_it_is_acknowledged() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    let first = ws.frame(&packet(WS, TOR, b"before"), bench.now);
    bench.inject(&first);
    bench.events();
    bench.give(Command::Erase((7 << 16) | 1));
    assert!(matches!(bench.events()[..], [Event::Erased(index)] if index == (7 << 16) | 1));
    let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
    assert!(!bench.far.inject(&frame), "XDP knows the session no more");
    assert_eq!(bench.written().len(), 1);
}

/// Property 8, the worker's part.
#[test]
fn a_removed_workstation_loses_every_session_before_it_is_acknowledged() {
    let mut bench = bench(2);
    let (mut old, mut new) = (bench.session(0, 1), bench.session(0, 2));
    let mut other = bench.session(1, 3);
    bench.admit(bench.now);
    bench.events();
    bench.give(Command::RemovePeer(0));
    let events = bench.events();
    assert!(matches!(events.last(), Some(Event::PeerRemoved(0))));
    for ws in [&mut old, &mut new] {
        let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
        assert!(!bench.far.inject(&frame));
    }
    let frame = other.frame(&packet(OTHER, TOR, b"untouched"), bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
}

/// A slot that is used again starts clean, whatever its former session left in XDP's tables.
#[test]
fn a_slot_used_again_admits_counters_from_zero() {
    let mut bench = bench(1);
    for generation in 1..6u32 {
        let (mut gateway, mut far) = pair_for_tests(
            generation as u8,
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            ((generation << 16) | 5, 9),
        );
        gateway.workstation = 0;
        far.path = GATEWAY_MAC.into();
        bench.give(Command::Install(Box::new(gateway)));
        bench.admit(bench.now);
        let mut ws = Remote(Session::new(&far, Engine::AesGcm, bench.now).unwrap());
        for n in 0..9000u32 {
            let frame = ws.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now);
            assert!(
                bench.far.inject(&frame),
                "generation {generation}, frame {n}"
            );
            if n % 50 == 49 {
                bench.settle();
            }
        }
        bench.settle();
        bench.worker.host().clear();
        bench.give(Command::Erase((generation << 16) | 5));
        // A floor published late by the former session.
        bench.tables.set_floor(5, 1 << 30);
    }
    assert_eq!(bench.counters[0].opened.get(), 5 * 9000);
}

/// Two Workstations flood; the third's few frames are all served in the first round.
#[test]
fn two_floods_do_not_delay_a_third_workstations_frames() {
    let mut bench = bench(3);
    let mut all: Vec<Remote> = (0..3).map(|id| bench.session(id, id as u8 + 1)).collect();
    bench.admit(bench.now);
    let addresses = [WS, OTHER, [10, 0, 0, 3]];
    let mut admitted = [0; 3];
    for n in 0..2000 {
        for flooder in [0, 1] {
            let frame = all[flooder].frame(&packet(addresses[flooder], TOR, &[0; 1300]), bench.now);
            admitted[flooder] += usize::from(bench.far.inject(&frame));
        }
        if n % 200 == 0 {
            let frame = all[2].frame(&packet(addresses[2], TOR, &[n as u8; 100]), bench.now);
            admitted[2] += usize::from(bench.far.inject(&frame));
        }
    }
    assert_eq!(
        admitted,
        [256, 256, 10],
        "credit cuts the floods and not the third"
    );
    // The ring holds the floods' frames first; three rounds take them all off and serve everybody.
    for _ in 0..3 {
        bench.worker.step(bench.now);
    }
    assert_eq!(bench.counters[2].rx_packets.get(), 10);
    assert!(
        bench.counters[0].rx_packets.get() < 256,
        "the flood is still being served"
    );
    bench.settle();
    assert_eq!(bench.counters[0].rx_packets.get(), 256);
    let frame = all[0].frame(&packet(WS, TOR, b"credit is back"), bench.now);
    assert!(bench.far.inject(&frame));
}

/// Frames that XDP counted and the ring lost do not hold credit for ever.
#[test]
fn credit_lost_with_a_ring_comes_back() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    bench.far.set_faults(dataplane::port::memory::Faults {
        fill_ring_empty: true,
        ..Default::default()
    });
    for _ in 0..300 {
        let frame = ws.frame(&packet(WS, TOR, b"lost"), bench.now);
        bench.far.inject(&frame);
    }
    bench.far.set_faults(Default::default());
    let frame = ws.frame(&packet(WS, TOR, b"no credit"), bench.now);
    assert!(!bench.far.inject(&frame));
    for _ in 0..5 {
        bench.now += 50_000_000;
        bench.settle();
    }
    let frame = ws.frame(&packet(WS, TOR, b"credit"), bench.now);
    assert!(bench.far.inject(&frame));
    bench.settle();
    assert_eq!(bench.counters[0].ring_lost.get(), 256);
}

#[test]
fn a_port_that_is_gone_is_reported_once_and_its_frames_with_it() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, TOR, b"before"), bench.now);
    bench.inject(&frame);
    bench.events();
    bench.far.set_faults(dataplane::port::memory::Faults {
        doorbell: Some(libc::ENXIO),
        ..Default::default()
    });
    for _ in 0..3 {
        bench
            .worker
            .host()
            .push(VnetHeader::default(), &packet(TOR, WS, b"down"));
        bench.settle();
    }
    let failures = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::PortFailed { port: 0, .. }));
    assert_eq!(failures.count(), 1);
    // The session outlives the rings.
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    bench.far = far;
    let setup = PortSetup {
        id: 0,
        io: port,
        tables: Arc::clone(&bench.tables),
        mac: GATEWAY_MAC,
        encapsulation: portcullis_dataplane::path::Encapsulation::Ether(ETHERTYPE),
    };
    bench.give(Command::AddPort(Box::new(setup)));
    bench.worker.host().clear();
    let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
}

/// What the host interface refuses was not received, in packets and in bytes.
#[test]
fn packets_the_host_refuses_count_as_refused_alone() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.worker.host().fail_next(std::io::ErrorKind::Other);
    for data in [&[0; 500][..], &[0; 10]] {
        let frame = ws.frame(&packet(WS, TOR, data), bench.now);
        bench.inject(&frame);
    }
    let counters = &bench.counters[0];
    assert_eq!(counters.host_refused.get(), 1);
    assert_eq!(counters.rx_packets.get(), 1);
    assert_eq!(counters.rx_bytes.get(), 20 + 8 + 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Gateway and Workstation joined ring to ring: what one host writes the other reads.
    #[test]
    fn two_workers_carry_every_packet_both_ways(
        packets in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..1400)), 1..150),
        authenticate: bool,
    ) {
        let [(up, far_up), (down, far_down)] = MemoryPort::pair(&MemoryConfig::default()).unwrap();
        let mut gateway = bench_on(Role::Gateway, 1, up, far_up);
        let mut workstation = bench_on(Role::Workstation, 1, down, far_down);
        let protection = if authenticate { Protection::Authenticate } else { Protection::Encrypt };
        let (at_gateway, at_workstation) = pair_for_tests(3, Cipher::Aes128Gcm, protection, (0x1_0001, 0x2_0002));
        let at_workstation = Install { path: GATEWAY_MAC.into(), ..at_workstation };
        gateway.give(Command::Install(Box::new(at_gateway)));
        workstation.give(Command::Install(Box::new(at_workstation)));
        let mut expected = [Vec::new(), Vec::new()];
        for (up, data) in std::iter::once((true, vec![1])).chain(packets) {
            let (from, to) = if up { (WS, TOR) } else { (TOR, WS) };
            let packet = packet(from, to, &data);
            let sender = if up { &mut workstation } else { &mut gateway };
            sender.worker.host().push(VnetHeader::default(), &packet);
            expected[usize::from(up)].push(packet);
            for _ in 0..3 {
                workstation.worker.step(SECOND);
                gateway.worker.step(SECOND);
            }
        }
        prop_assert_eq!(gateway.written(), expected[1].clone());
        prop_assert_eq!(workstation.written(), expected[0].clone());
    }
}

/// A frame costs the worker about the same whatever its size.
#[test]
fn a_flood_of_small_frames_gets_no_larger_share_than_full_ones() {
    let mut bench = bench(2);
    let (mut small, mut large) = (bench.session(0, 1), bench.session(1, 2));
    for _ in 0..128 {
        let now = bench.now;
        for (remote, source, len) in [(&mut small, WS, 20), (&mut large, OTHER, 1400)] {
            let packet = packet(source, TOR, &vec![0; len]);
            assert!(bench.far.inject(&remote.frame(&packet, now)));
        }
    }
    bench.worker.step(bench.now);
    let counters = bench.counters.clone();
    let served = |id: usize| counters[id].opened.get();
    assert_eq!(served(0), served(1));
    assert!(
        (1..128).contains(&served(0)),
        "one turn each: {}",
        served(0)
    );
    bench.settle();
    assert_eq!((served(0), served(1)), (128, 128));
}

/// What came of a run: each Workstation's packets in order, inward and outward, and its counters.
#[derive(Debug, PartialEq)]
struct Outcome {
    written: Vec<Vec<Vec<u8>>>,
    sent: Vec<Vec<Vec<u8>>>,
    counters: Vec<Vec<(&'static str, u64)>>,
}

/// Feeds the same frames and packets, all at once or with rounds in between.
fn outcome(steps: &[(u8, u8)], one_at_a_time: bool) -> Outcome {
    let addresses = [WS, OTHER];
    let mut bench = bench(2);
    let mut remotes = [bench.session(0, 1), bench.session(1, 2)];
    let mut last: [Vec<u8>; 2] = Default::default();
    for (at, remote) in remotes.iter_mut().enumerate() {
        last[at] = remote.frame(&packet(addresses[at], TOR, b"proof"), bench.now);
        let frame = last[at].clone();
        bench.inject(&frame);
    }
    bench.written();
    for (number, (kind, of)) in steps.iter().enumerate() {
        let of = usize::from(*of % 2);
        // Each longer than the one before, so that no two become a super-packet.
        let data = vec![*kind; 10 + number];
        let now = bench.now;
        let mut fresh = |source| remotes[of].frame(&packet(source, TOR, &data), now);
        match kind % 6 {
            0 => {
                let out = packet(TOR, addresses[of], &data);
                bench.worker.host().push(VnetHeader::default(), &out);
            }
            1 => assert!(bench.far.inject(&last[of])),
            2 => {
                let mut forged = fresh(addresses[of]);
                *forged.last_mut().unwrap() ^= 1;
                assert!(bench.far.inject(&forged));
            }
            3 => {
                let spoofed = fresh(addresses[1 - of]);
                assert!(bench.far.inject(&spoofed));
            }
            _ => {
                last[of] = fresh(addresses[of]);
                assert!(bench.far.inject(&last[of]));
            }
        }
        if one_at_a_time {
            bench.settle();
        }
    }
    bench.settle();
    let mut written = vec![Vec::new(); 2];
    for packet in bench.written() {
        let of = usize::from(packet[12..16] == OTHER);
        written[of].push(packet);
    }
    let mut sent = vec![Vec::new(); 2];
    for frame in bench.sent() {
        // Both have the same index; the keys tell whose it is.
        for (of, remote) in remotes.iter_mut().enumerate() {
            let mut body = frame[ETH_LEN..].to_vec();
            let header = Header::decode(&body).unwrap();
            if let Ok(payload) = remote.0.open(&header, &mut body, bench.now) {
                sent[of].push(payload.to_vec());
            }
        }
    }
    Outcome {
        written,
        sent,
        counters: bench.counters.iter().map(|c| c.all().collect()).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// The batch loop is only faster: whatever comes together has the same outcome as one by one.
    #[test]
    fn a_batch_has_the_outcome_of_its_frames_one_at_a_time(
        steps in prop::collection::vec(any::<(u8, u8)>(), 1..400),
    ) {
        prop_assert_eq!(outcome(&steps, false), outcome(&steps, true));
    }
}

#[test]
fn each_drop_is_told_to_whoever_watches_with_its_reason_and_nothing_that_a_packet_carries() {
    const CARRIED: &[u8] = b"topmost secret";
    let tap = Arc::<Tap>::default();
    let bench = bench(1);
    let mut bench = Bench {
        worker: bench.worker.with_tap(Arc::clone(&tap)),
        ..bench
    };
    let mut ws = bench.session(0, 1);
    let only_dns = Policy {
        gateway: [Match::Udp(PortRange {
            first: 53,
            last: 53,
        })]
        .into_iter()
        .collect(),
        ..Policy::default()
    };
    bench.give(Command::SetPolicy(0, Arc::new(only_dns)));
    let denied = packet(WS, TOR, CARRIED);
    let drop_all = |bench: &mut Bench, ws: &mut Remote| {
        let mut forged = ws.frame(&denied, bench.now);
        *forged.last_mut().unwrap() ^= 1;
        bench.inject(&forged);
        let frame = ws.frame(&denied, bench.now);
        bench.inject(&frame);
        bench.inject(&frame);
        for payload in [
            packet(OTHER, TOR, CARRIED),
            packet(WS, [8, 8, 8, 8], CARRIED),
            [&[0x99], CARRIED].concat(),
            [&[9], CARRIED].concat(),
        ] {
            let frame = ws.frame(&payload, bench.now);
            bench.inject(&frame);
        }
    };
    drop_all(&mut bench, &mut ws);
    assert!(tap.next().is_none(), "nobody watches");
    tap.want(&Wanted {
        verdicts: u64::MAX,
        only: None,
        rate: 1000,
    });
    drop_all(&mut bench, &mut ws);
    let last = ws.frame(&denied, bench.now);
    bench.now += 200 * SECOND;
    bench.inject(&last);
    let samples: Vec<_> = std::iter::from_fn(|| tap.next()).collect();
    let reasons: Vec<_> = samples.iter().map(|sample| sample.reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::OpenFailed,
            Reason::PolicyDenied,
            Reason::Replayed,
            Reason::InnerSource,
            Reason::InnerDestination,
            Reason::InnerMalformed,
            Reason::ControlRefused,
            Reason::Expired,
        ]
    );
    for sample in &samples {
        assert_eq!((sample.port, sample.of), (0, 0));
        assert_eq!(
            sample.outer(),
            [&last[..16], &sample.outer()[16..]].concat()
        );
        assert_eq!(sample.outer().len(), ETH_LEN + HEADER_LEN);
        let inner = match sample.reason {
            Reason::PolicyDenied | Reason::InnerSource | Reason::InnerDestination => 28,
            _ => 0,
        };
        assert_eq!(sample.inner().len(), inner, "{:?}", sample.reason);
        let all = [sample.outer(), sample.inner()].concat();
        assert!(
            !all.windows(4)
                .any(|four| CARRIED.windows(4).any(|one| one == four))
        );
    }
    assert_eq!(samples[1].inner(), &denied[..28]);
    // Each is counted as ever.
    assert_eq!(bench.counters[0].policy_denied.get(), 2);
    assert_eq!(bench.counters[0].open_failed.get(), 2);
}
