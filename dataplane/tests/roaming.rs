//! A session over networks: it follows its Workstation, and nothing else makes it move. Rings, tables and host
//! interface in memory: no kernel, no root.

mod bench;

use bench::*;
use dataplane::host::vnet::VnetHeader;
use dataplane::path::{Encapsulation, Path, UdpPath};
use dataplane::port::memory::{MemoryConfig, MemoryPort};
use dataplane::worker::{Command, Event};
use portcullis_dataplane as dataplane;
use std::net::{IpAddr, SocketAddr};
use wire::limits::*;
use wire::{Header, Role, kind};

const GATEWAY: &str = "192.0.2.1";
const GATEWAY_V6: &str = "2001:db8::1";

/// The way to the Gateway from one of a Workstation's places.
fn from(place: &str, port: u16) -> UdpPath {
    let place: IpAddr = place.parse().unwrap();
    let gateway = if place.is_ipv4() { GATEWAY } else { GATEWAY_V6 };
    UdpPath {
        next_hop: GATEWAY_MAC,
        local: SocketAddr::new(place, port),
        remote: SocketAddr::new(gateway.parse().unwrap(), UDP_PORT),
    }
}

/// The same way as the Gateway sees it.
fn back(way: UdpPath) -> Path {
    Path::Udp(UdpPath {
        next_hop: WORKSTATION_MAC,
        local: way.remote,
        remote: way.local,
    })
}

fn gateway() -> Bench {
    let port = MemoryPort::open(&MemoryConfig::default()).unwrap();
    bench_by(Encapsulation::Udp, Role::Gateway, 1, port)
}

/// Where the Gateway sends what is for the Workstation.
fn sends_to(bench: &mut Bench) -> Option<Path> {
    bench.sent();
    let host = bench.worker.host();
    host.push(VnetHeader::default(), &packet(TOR, WS, b"down"));
    bench.settle();
    let sent = bench.sent();
    assert!(sent.len() < 2);
    // As whoever receives it sees where it is from, so the other way about.
    match Encapsulation::Udp.path_of(sent.first()?)? {
        Path::Udp(way) => Some(Path::Udp(UdpPath {
            next_hop: sent[0][..6].try_into().unwrap(),
            local: way.remote,
            remote: way.local,
        })),
        other => Some(other),
    }
}

/// The moves that control was told of.
fn told(bench: &Bench) -> Vec<Path> {
    let roamed = |event| match event {
        Event::Roamed { path, .. } => Some(path),
        _ => None,
    };
    bench.events().into_iter().filter_map(roamed).collect()
}

fn ping(len: usize) -> Vec<u8> {
    let mut ping = vec![0; len];
    ping[0] = dataplane::inner::control::PING;
    ping[8..24].fill(7);
    ping
}

#[test]
fn a_session_follows_the_newest_frame_that_opens_and_no_other() {
    let mut bench = gateway();
    let (home, away) = (from("198.51.100.7", 4000), from("203.0.113.9", 5000));
    let sixth = from("2001:db8:7::2", 6000);
    let mut ws = bench.session_by(0, 1, back(home));
    let up = packet(WS, TOR, b"up");
    let frame = ws.frame_by(home, &up, bench.now);
    bench.inject(&frame);
    assert_eq!(sends_to(&mut bench), Some(back(home)));
    assert_eq!(told(&bench), [], "it has not moved");

    let held_back = ws.frame_by(home, &up, bench.now);
    let frame = ws.frame_by(away, &up, bench.now);
    bench.inject(&frame);
    assert_eq!(sends_to(&mut bench), Some(back(away)));
    assert_eq!(told(&bench), [back(away)]);

    bench.inject(&held_back);
    assert_eq!(bench.written().len(), 3, "an older frame is opened");
    assert_eq!(sends_to(&mut bench), Some(back(away)), "and moves nothing");

    // A copy from elsewhere, before and after the genuine one.
    let genuine = ws.frame_by(away, &up, bench.now);
    let mut copy = genuine.clone();
    copy[26..30].copy_from_slice(&[203, 0, 113, 66]);
    bench.inject(&genuine);
    bench.inject(&copy);
    assert_eq!(sends_to(&mut bench), Some(back(away)), "a replay");
    let genuine = ws.frame_by(away, &up, bench.now);
    let mut forged = genuine.clone();
    forged[26..30].copy_from_slice(&[203, 0, 113, 66]);
    *forged.last_mut().unwrap() ^= 1;
    bench.inject(&forged);
    assert_eq!(sends_to(&mut bench), Some(back(away)), "a forgery");
    bench.inject(&genuine);
    assert_eq!(bench.counters[0].replayed.get(), 1);
    assert_eq!(bench.counters[0].open_failed.get(), 1);

    // To the other IP version, whose headers are longer.
    let frame = ws.frame_by(sixth, &up, bench.now);
    bench.inject(&frame);
    assert_eq!(sends_to(&mut bench), Some(back(sixth)));
}

#[test]
fn a_nonce_that_was_used_twice_is_proven_and_told() {
    let mut bench = gateway();
    let home = from("198.51.100.7", 4000);
    let mut ws = bench.session_by(0, 1, back(home));
    let mut clone = bench.clone_of(1);
    let (up, other) = (packet(WS, TOR, b"up"), packet(WS, TOR, b"other"));
    let reused = |bench: &mut Bench| -> Vec<u64> {
        let of = |event| match event {
            Event::NonceReused { counter, .. } => Some(counter),
            _ => None,
        };
        bench.events().into_iter().filter_map(of).collect()
    };
    let first = ws.frame_by(home, &up, bench.now);
    bench.inject(&first);
    assert_eq!(bench.written(), std::slice::from_ref(&up));
    // Neither a copy nor garbage proves anything, and garbage takes one turn in ten of a second.
    let mut forged = first.clone();
    *forged.last_mut().unwrap() ^= 1;
    for frame in [&first, &forged] {
        bench.inject(frame);
        bench.now += SECOND / 10;
    }
    assert_eq!(reused(&mut bench), []);
    assert_eq!(bench.counters[0].replayed.get(), 2);

    let second = clone.frame_by(home, &other, bench.now);
    bench.inject(&second);
    assert_eq!(reused(&mut bench), [0]);
    bench.inject(&second);
    assert_eq!(reused(&mut bench), [], "ten times a second at most");
    assert_eq!(bench.counters[0].nonce_reused.get(), 1);
    assert_eq!(bench.counters[0].replayed.get(), 3);
    assert_eq!(
        bench.written(),
        [] as [Vec<u8>; 0],
        "nothing of it comes out"
    );

    // Both in one batch, and so verified before either is known.
    bench.now += SECOND / 10;
    let frames = [
        ws.frame_by(home, &up, bench.now),
        clone.frame_by(home, &other, bench.now),
    ];
    for frame in &frames {
        assert!(bench.far.inject(frame));
    }
    bench.settle();
    assert_eq!(bench.written(), [up]);
    assert_eq!(reused(&mut bench), [1]);
}

#[test]
fn no_session_moves_behind_a_groups_mac_address() {
    let mut bench = gateway();
    let (home, away) = (from("198.51.100.7", 4000), from("203.0.113.9", 5000));
    let mut ws = bench.session_by(0, 1, back(home));
    let up = packet(WS, TOR, b"up");
    for group in [BROADCAST, [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let mut frame = ws.frame_by(away, &up, bench.now);
        frame[6..12].copy_from_slice(&group);
        bench.inject(&frame);
        assert_eq!(bench.written(), std::slice::from_ref(&up), "it opens");
        assert_eq!(sends_to(&mut bench), Some(back(home)), "from {group:02x?}");
    }
    assert_eq!(told(&bench), []);
}

#[test]
fn frames_of_a_former_session_move_nothing() {
    let mut bench = gateway();
    let (home, away) = (from("198.51.100.7", 4000), from("203.0.113.9", 5000));
    let up = packet(WS, TOR, b"up");
    let mut old = bench.session_by(0, 1, back(home));
    let frame = old.frame_by(home, &up, bench.now);
    bench.inject(&frame);
    let mut new = bench.session_by(0, 2, back(home));
    let frame = new.frame_by(home, &up, bench.now);
    bench.inject(&frame);
    bench.written();
    let frame = old.frame_by(away, &up, bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written(), [up], "it still opens");
    assert_eq!(sends_to(&mut bench), Some(back(home)));
    assert_eq!(told(&bench), []);
}

#[test]
fn who_goes_to_and_fro_with_every_frame_is_told_of_once_a_second_and_where_he_was_last() {
    let mut bench = gateway();
    let ways = [from("198.51.100.7", 4000), from("203.0.113.9", 5000)];
    let mut ws = bench.session_by(0, 1, back(ways[0]));
    let up = packet(WS, TOR, b"up");
    let mut events = Vec::new();
    for n in 0..3000 {
        // Three seconds, a millisecond each.
        bench.now += SECOND / 1000;
        let frame = ws.frame_by(ways[n % 2], &up, bench.now);
        bench.inject(&frame);
        events.extend(told(&bench));
    }
    assert!((3..=4).contains(&events.len()), "{events:?}");
    assert_eq!(sends_to(&mut bench), Some(back(ways[1])));
    // What is untold is told with the next frame, which is from where the one before it was.
    bench.now += SECOND;
    let frame = ws.frame_by(ways[1], &up, bench.now);
    bench.inject(&frame);
    let last = told(&bench);
    assert!(last.is_empty() || last == [back(ways[1])]);
    let known = events.iter().chain(&last).last();
    assert_eq!(known, Some(&back(ways[1])));
}

/// A PONG is as long as its PING, but the session may have moved to a path with larger headers since.
#[test]
fn a_pong_that_does_not_fit_the_way_back_is_counted_and_nothing_else_happens() {
    let capacity = ETH_LEN + 1500;
    let config = MemoryConfig {
        capacity,
        ..MemoryConfig::default()
    };
    let port = MemoryPort::open(&config).unwrap();
    let mut bench = bench_by(Encapsulation::Udp, Role::Gateway, 1, port);
    let (fourth, sixth) = (from("198.51.100.7", 4000), from("2001:db8:7::2", 6000));
    let mut ws = bench.session_by(0, 1, back(fourth));
    // As large as the path by IPv4 carries.
    let pinged = capacity - UDP_V4_LEN - OVERHEAD;
    let older = ws.frame_by(fourth, &ping(pinged), bench.now);
    let frame = ws.frame_by(sixth, &packet(WS, TOR, b"up"), bench.now);
    bench.inject(&frame);
    bench.sent();
    bench.inject(&older);
    assert_eq!(bench.sent().len(), 0);
    assert_eq!(bench.counters[0].too_big.get(), 1);
    // And what does fit is answered, as long as it was asked.
    let fits = capacity - UDP_V6_LEN - OVERHEAD;
    let frame = ws.frame_by(sixth, &ping(fits), bench.now);
    bench.inject(&frame);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].len(), capacity);
    let header = Header::decode(&sent[0][UDP_V6_LEN..]).unwrap();
    let pong =
        ws.0.open(&header, &mut sent[0][UDP_V6_LEN..].to_vec(), bench.now)
            .unwrap()
            .to_vec();
    assert_eq!(pong[0], dataplane::inner::control::PONG);
    assert_eq!(pong[8..24], [7; 16]);
}

/// Where everything is padded to the MTU, what finds the MTU out must not be.
#[test]
fn control_messages_over_networks_are_padded_to_what_every_path_carries_and_no_more() {
    use dataplane::session::{Padding, pair_for_tests};
    let (home, on_cable) = (back(from("198.51.100.7", 4000)), WORKSTATION_MAC.into());
    for (encapsulation, path, length) in [
        (Encapsulation::Udp, home, UDP_LEAST_MTU),
        (Encapsulation::Ether(ETHERTYPE), on_cable, 1460),
    ] {
        let port = MemoryPort::open(&MemoryConfig::default()).unwrap();
        let mut bench = bench_by(encapsulation, Role::Gateway, 1, port);
        let keys = dataplane::keys::Cipher::Aes256Gcm;
        let protection = dataplane::keys::Protection::Encrypt;
        let (mut gateway, _) = pair_for_tests(1, keys, protection, (7 << 16 | 1, 9));
        (gateway.path, gateway.padding) = (path, Padding::Full);
        let index = gateway.index;
        bench.give(Command::Install(Box::new(gateway)));
        bench.give(Command::SendInner {
            index,
            message: ping(24),
        });
        let sent = bench.sent();
        let front = encapsulation.front(&sent[0]).unwrap();
        let header = Header::decode(&sent[0][front..]).unwrap();
        assert_eq!(usize::from(header.length), length, "{encapsulation:?}");
    }
}

/// A socket has no XDP before it: the worker lets in what the tables say.
#[test]
fn by_a_socket_only_answers_to_the_attempt_under_way_reach_control() {
    let port = MemoryPort::open(&MemoryConfig::default()).unwrap();
    let mut bench = bench_by(Encapsulation::Socket, Role::Workstation, 1, port);
    let (key_id, nonce, key) = (5, 77, [1, 2]);
    let knock = wire::tables::KnockEntry {
        key,
        ..Default::default()
    };
    bench.tables.install_knock(key_id, &knock).unwrap();
    bench.tables.set_expected_nonce(nonce);
    let answer = |kind, key_id, nonce, key| {
        let length = if kind == kind::CHALLENGE {
            CHALLENGE_LEN
        } else {
            RESPONSE_LEN
        };
        let mut header = Header::new(kind, length as u16, key_id, nonce);
        let payload = vec![3; length];
        header.tag = header.handshake_tag(key, &payload);
        let mut frame = header.encode().to_vec();
        frame.extend(payload);
        frame
    };
    let reach = |bench: &mut Bench, frame: &[u8]| {
        bench.inject(frame);
        let handshake = |event: &Event| matches!(event, Event::Handshake { .. });
        bench
            .events()
            .iter()
            .filter(|event| handshake(event))
            .count()
    };
    for (frame, reached, why) in [
        (answer(kind::CHALLENGE, key_id, nonce, key), 1, "an answer"),
        (answer(kind::RESPONSE, key_id, nonce, key), 1, "the next"),
        (
            answer(kind::RESPONSE, key_id, nonce, key),
            0,
            "the same again",
        ),
        (
            answer(kind::CHALLENGE, key_id, nonce + 1, key),
            0,
            "to another attempt",
        ),
        (
            answer(kind::CHALLENGE, key_id, nonce, [1, 3]),
            0,
            "without the key",
        ),
        (
            answer(kind::CHALLENGE, key_id + 1, nonce, key),
            0,
            "of an unknown key",
        ),
    ] {
        assert_eq!(reach(&mut bench, &frame), reached, "{why}");
    }
    let flood: usize = (0..1000)
        .map(|_| reach(&mut bench, &answer(kind::CHALLENGE, key_id, nonce, key)))
        .sum();
    assert!(flood < 20, "{flood} of a recorded one");
}
