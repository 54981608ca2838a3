//! Each handshake message lost, copied, late, recorded and sent again, cut short, or altered.

#[path = "handshake/sim.rs"]
mod sim;

use sim::*;
use std::cell::Cell;
use std::rc::Rc;
use wire::header::kind;

/// A message of the handshake, by what it is inside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Message {
    Hello,
    Challenge,
    Initiation,
    Response,
    Ping,
    Pong,
    RekeyInit,
    RekeyResp,
}

const FIRST: [Message; 6] = [
    Message::Hello,
    Message::Challenge,
    Message::Initiation,
    Message::Response,
    Message::Ping,
    Message::Pong,
];
const REKEY: [Message; 4] = [
    Message::RekeyInit,
    Message::RekeyResp,
    Message::Ping,
    Message::Pong,
];

fn is(packet: &Packet, message: Message) -> bool {
    match message {
        Message::Hello => packet.kind() == kind::HELLO,
        Message::Challenge => packet.kind() == kind::CHALLENGE,
        Message::Initiation => packet.kind() == kind::INITIATION,
        Message::Response => packet.kind() == kind::RESPONSE,
        Message::RekeyInit => packet.control() == Some(1),
        Message::RekeyResp => packet.control() == Some(2),
        Message::Ping => packet.control() == Some(3),
        Message::Pong => packet.control() == Some(4),
    }
}

/// Does `with` to the first `count` of `message`; all else passes.
fn treat(
    sim: &mut Sim,
    message: Message,
    count: usize,
    with: impl Fn(&Packet) -> Vec<(std::time::Duration, Packet)> + 'static,
) -> Rc<Cell<usize>> {
    let left = Rc::new(Cell::new(count));
    let counter = left.clone();
    sim.filter = Some(Box::new(move |packet| {
        if is(packet, message) && left.get() > 0 {
            left.set(left.get() - 1);
            with(packet)
        } else {
            vec![(MS, packet.clone())]
        }
    }));
    counter
}

/// A rekey with data on the session all the while: none of it may be lost.
fn rekey_loses_nothing(sim: &mut Sim, what: &str) {
    let index = sim.session(0).unwrap();
    let before = (
        sim.stations[&0].opened,
        sim.gateway_opened[&0],
        sim.status(0).handshakes.1,
    );
    let mut sent = 0;
    sim.with_station(0, |station, now| station.limit_near(now, index));
    for _ in 0..1500 {
        sim.data(0);
        sent += 1;
        sim.run(MS * 10);
    }
    let node = &sim.stations[&0];
    assert!(
        sim.gateway_opened[&0] - before.1 >= sent,
        "{what}: data was lost on the way up"
    );
    assert!(
        node.opened - before.0 >= sent,
        "{what}: data was lost on the way down"
    );
    assert!(sim.joined(0), "{what}");
    assert_ne!(sim.session(0), Some(index), "{what}: no new session");
    assert!(
        sim.status(0).handshakes.1 > before.2,
        "{what}: not by a rekey: {:?}",
        sim.status(0)
    );
    assert!(sim.mirrored(0), "{what}");
}

#[test]
fn both_sides_are_in_session_within_a_second_of_a_start() {
    let mut sim = Sim::new(1, 3);
    sim.run(SECOND);
    for id in 0..3 {
        assert!(sim.joined(id), "{:?}", sim.status(id));
        assert!(sim.mirrored(id));
        assert_eq!(sim.info(id).outcomes.confirmed, 1);
        assert_eq!(sim.info(id).outcomes.responses, 1);
    }
}

/// Property 9: a rekey loses no frame.
#[test]
fn a_rekey_loses_no_frame() {
    let mut sim = Sim::new(1, 1);
    sim.run(SECOND);
    rekey_loses_nothing(&mut sim, "nothing done");
    assert_eq!(sim.info(0).outcomes.rekeys, 1);
}

#[test]
fn a_rekey_loses_no_frame_when_frames_overtake_each_other() {
    for seed in 0..10 {
        let mut sim = Sim::new(100 + seed, 1);
        sim.run(SECOND);
        sim.network.delay = (MS, MS * 60);
        let index = sim.session(0).unwrap();
        sim.with_station(0, |station, now| station.limit_near(now, index));
        let before = sim.stations[&0].opened;
        for _ in 0..400 {
            sim.data(0);
            sim.run(MS);
        }
        sim.run(MS * 200);
        assert_ne!(sim.session(0), Some(index));
        let came_back = sim.stations[&0].opened - before;
        assert!(
            came_back >= 400,
            "seed {seed}: {came_back} of 400 and the handshake's own"
        );
        assert_eq!(
            sim.echoes(0),
            sim.echoes_sent(0),
            "seed {seed}: data was lost"
        );
    }
}

#[test]
fn any_first_handshake_message_may_be_lost_once_or_more() {
    for message in FIRST {
        for count in 1..4 {
            let mut sim = Sim::new(2, 1);
            let left = treat(&mut sim, message, count, |_| Vec::new());
            sim.restart_station(0);
            sim.run(SECOND * 6);
            assert_eq!(left.get(), 0, "{message:?}");
            assert!(
                sim.joined(0),
                "{message:?} lost {count} times: {:?}",
                sim.status(0)
            );
        }
    }
}

#[test]
fn any_rekey_message_may_be_lost_and_the_session_does_not_notice() {
    for message in REKEY {
        for count in 1..3 {
            let mut sim = Sim::new(3, 1);
            sim.run(SECOND);
            let left = treat(&mut sim, message, count, |_| Vec::new());
            rekey_loses_nothing(&mut sim, &format!("{message:?} lost {count} times"));
            assert_eq!(left.get(), 0, "{message:?}");
        }
    }
}

#[test]
fn a_confirmation_lost_while_idle_is_made_up_for() {
    for message in [Message::Ping, Message::Pong] {
        for count in [1, 7, 8, 9, 20] {
            let mut sim = Sim::new(4, 1);
            sim.run(SECOND);
            treat(&mut sim, message, count, |_| Vec::new());
            let index = sim.session(0).unwrap();
            sim.with_station(0, |station, now| station.limit_near(now, index));
            sim.run(SECOND * 25);
            assert!(
                sim.joined(0),
                "{message:?} {count}: {:?} {:?}",
                sim.status(0),
                sim.info(0)
            );
            assert!(sim.mirrored(0));
        }
    }
}

#[test]
fn copies_of_any_message_change_nothing() {
    for message in FIRST.into_iter().chain(REKEY) {
        let mut sim = Sim::new(5, 1);
        if REKEY.contains(&message) {
            sim.run(SECOND);
        }
        treat(&mut sim, message, 100, |packet| {
            [0, 1, 7, 60]
                .map(|late| (MS + MS * late, packet.clone()))
                .to_vec()
        });
        if !sim.joined(0) {
            sim.restart_station(0);
            sim.run(SECOND);
        }
        rekey_loses_nothing(&mut sim, &format!("{message:?} copied"));
        assert_eq!(sim.status(0).failures, 0, "{message:?}");
    }
}

#[test]
fn a_late_message_is_overtaken_and_ignored() {
    for message in FIRST {
        for late in [300, 900, 1_500, 4_000] {
            let mut sim = Sim::new(6, 1);
            treat(&mut sim, message, 2, move |packet| {
                vec![(MS * late, packet.clone())]
            });
            sim.restart_station(0);
            sim.run(SECOND * 10);
            assert!(
                sim.joined(0),
                "{message:?} {late} ms late: {:?}",
                sim.status(0)
            );
            let index = sim.session(0);
            sim.run(SECOND * 60);
            assert_eq!(
                sim.session(0),
                index,
                "{message:?} disturbed a session when it came"
            );
        }
    }
}

/// Property 9: replays.
#[test]
fn everything_recorded_and_sent_again_changes_nothing() {
    let mut sim = Sim::new(7, 1);
    sim.tape = Some(Vec::new());
    sim.run(SECOND);
    rekey_loses_nothing(&mut sim, "recording");
    sim.restart_gateway();
    sim.run(SECOND * 5);
    sim.restart_station(0);
    sim.run(SECOND * 40);
    let tape = sim.tape.take().unwrap();
    assert!(tape.iter().any(|packet| packet.kind() == kind::RESET));
    let (index, outcomes, status) = (sim.session(0), sim.info(0).outcomes, sim.status(0));
    for round in 0..3u32 {
        for (at, packet) in tape.iter().enumerate() {
            sim.inject(MS * (1 + at as u32 % 50) * (round + 1), packet.clone());
        }
        sim.run(SECOND * 2);
    }
    assert!(sim.joined(0));
    let after = sim.info(0).outcomes;
    // A Reset of the start before is one the Workstation has not seen to be stale: it may ask, once.
    assert!(
        sim.status(0).handshakes.0 <= status.handshakes.0 + 1,
        "{:?}",
        sim.status(0)
    );
    assert!(after.responses <= outcomes.responses + 1);
    if after.responses == outcomes.responses {
        assert_eq!(sim.session(0), index);
    }
}

#[test]
fn a_reset_of_an_earlier_start_is_stale_and_ignored() {
    let mut sim = Sim::new(8, 1);
    sim.tape = Some(Vec::new());
    sim.restart_gateway();
    sim.run(SECOND * 5);
    sim.restart_gateway();
    sim.run(SECOND * 5);
    let resets: Vec<_> = sim
        .tape
        .take()
        .unwrap()
        .into_iter()
        .filter(|packet| packet.kind() == kind::RESET)
        .collect();
    assert!(resets.len() > 2);
    let before = sim.status(0).handshakes;
    for reset in resets {
        // As if XDP had forgotten its nonce.
        sim.stations.get_mut(&0).unwrap().forget_nonces();
        sim.inject(MS, reset);
        sim.run(SECOND * 2);
    }
    assert_eq!(sim.status(0).handshakes, before);
    assert!(sim.joined(0));
}

/// Every bit of every handshake frame, flipped in a copy that arrives before the genuine one, past
/// XDP.
#[test]
fn an_altered_copy_that_arrives_first_changes_nothing() {
    for message in [
        Message::Hello,
        Message::Challenge,
        Message::Initiation,
        Message::Response,
    ] {
        let frame_len = match message {
            Message::Hello | Message::Challenge => 56,
            Message::Initiation => 184,
            _ => 152,
        };
        for at in 0..frame_len {
            let mut sim = Sim::new(9, 1);
            let left = treat(&mut sim, message, 1, move |packet| {
                let mut altered = packet.clone();
                if let Body::Handshake(frame) = &mut altered.body {
                    frame[at] ^= 1 << (at % 8);
                }
                vec![(MS, altered), (MS * 2, packet.clone())]
            });
            sim.restart_station(0);
            sim.run(MS * 200);
            assert_eq!(left.get(), 0);
            assert!(
                sim.joined(0),
                "{message:?} altered at {at}: {:?}",
                sim.status(0)
            );
            assert_eq!(sim.status(0).failures, 0, "{message:?} altered at {at}");
        }
    }
}

/// The same with the tag made to fit, as one who has the PSK could.
#[test]
fn an_altered_copy_with_a_good_tag_ends_no_session_and_locks_nobody_out() {
    use portcullis_control::handshake::{kdf, message};
    for which in [Message::Challenge, Message::Initiation, Message::Response] {
        let len = if which == Message::Challenge {
            32
        } else if which == Message::Initiation {
            160
        } else {
            128
        };
        for at in 0..len {
            let mut sim = Sim::new(10, 1);
            sim.run(SECOND);
            let index = sim.session(0).unwrap();
            treat(&mut sim, which, 1, move |packet| {
                let mut altered = packet.clone();
                if let Body::Handshake(frame) = &mut altered.body {
                    let knock = kdf::knock_keys(&station_psk(0));
                    let key = if which == Message::Initiation {
                        knock.w2g
                    } else {
                        knock.g2w
                    };
                    let (header, payload) = message::parse(frame).unwrap();
                    let mut payload = payload.to_vec();
                    payload[at] ^= 1 << (at % 8);
                    *frame =
                        message::frame(header.kind, header.index, header.counter, key, &payload);
                }
                vec![(MS, altered), (MS * 2, packet.clone())]
            });
            // A handshake beside the session, for whatever reason.
            sim.stations.get_mut(&0).unwrap().mac = station_mac(77);
            sim.with_station(0, |station, now| station.mac_changed(now, station_mac(77)));
            sim.run(MS * 10);
            if which == Message::Initiation && at < 32 {
                let outcomes = sim.info(0).outcomes;
                assert_eq!(
                    (outcomes.bad_cookie, outcomes.does_not_open),
                    (1, 0),
                    "altered at {at}: Diffie-Hellman was made"
                );
            }
            let node = &sim.stations[&0];
            let kept = [&node.worker.cur, &node.worker.prev]
                .into_iter()
                .flatten()
                .any(|live| live.install.index == index);
            assert!(kept, "{which:?} altered at {at} ended the session");
            sim.run(SECOND * 5);
            assert!(
                sim.joined(0),
                "{which:?} altered at {at}: {:?}",
                sim.status(0)
            );
        }
    }
}

#[test]
fn a_message_cut_short_anywhere_is_dropped() {
    for message in [
        Message::Hello,
        Message::Challenge,
        Message::Initiation,
        Message::Response,
    ] {
        for keep in (0..184).step_by(3) {
            let mut sim = Sim::new(11, 1);
            treat(&mut sim, message, 1, move |packet| {
                let mut cut = packet.clone();
                if let Body::Handshake(frame) = &mut cut.body {
                    if frame.len() <= keep {
                        return vec![(MS, packet.clone())];
                    }
                    frame.truncate(keep);
                }
                vec![(MS, cut), (MS * 2, packet.clone())]
            });
            sim.restart_station(0);
            sim.run(MS * 200);
            assert!(sim.joined(0), "{message:?} cut to {keep}");
        }
    }
}

#[test]
fn ethernet_padding_after_a_message_is_not_read() {
    let mut sim = Sim::new(12, 1);
    sim.filter = Some(Box::new(|packet| {
        let mut padded = packet.clone();
        if let Body::Handshake(frame) = &mut padded.body {
            frame.extend([0xee; 19]);
        }
        vec![(MS, padded)]
    }));
    sim.restart_station(0);
    sim.run(SECOND);
    assert!(sim.joined(0));
}

#[test]
fn eight_responses_that_do_not_open_begin_a_new_attempt() {
    use portcullis_control::handshake::{kdf, message};
    let mut sim = Sim::new(13, 1);
    let seen = Rc::new(Cell::new(0u64));
    let told = seen.clone();
    treat(&mut sim, Message::Response, 1, move |packet| {
        let Body::Handshake(frame) = &packet.body else {
            return Vec::new();
        };
        told.set(message::parse(frame).unwrap().0.counter);
        Vec::new()
    });
    sim.restart_station(0);
    sim.run(MS * 100);
    let nonce = seen.get();
    let knock = kdf::knock_keys(&station_psk(0));
    let bad = message::frame(kind::RESPONSE, key_id(0), nonce, knock.g2w, &[7; 128]);
    // Those of another attempt do not count.
    let other = message::frame(kind::RESPONSE, key_id(0), nonce ^ 1, knock.g2w, &[7; 128]);
    for _ in 0..20 {
        sim.with_station(0, |station, now| station.frame(now, GATEWAY_MAC, &other));
    }
    for round in 0..8 {
        assert_eq!(
            sim.phase(0),
            portcullis_control::handshake::workstation::Phase::Init,
            "{round}"
        );
        sim.with_station(0, |station, now| station.frame(now, GATEWAY_MAC, &bad));
    }
    sim.run(MS * 100);
    assert!(sim.joined(0));
}
