//! Who gets a session, and what another can do to it.

#[path = "handshake/sim.rs"]
mod sim;

use dataplane::keys::{Cipher, Protection};
use portcullis_control::handshake::gateway::CipherPolicy;
use portcullis_control::handshake::noise::public_key;
use portcullis_control::handshake::workstation::{Failure, Phase, RollbackSign};
use portcullis_control::handshake::{Action, Padding, kdf, message};
use sim::*;
use wire::header::{kind, slot_of};
use zeroize::Zeroizing;

fn change(
    sim: &mut Sim,
    id: u32,
    change: impl FnOnce(&mut portcullis_control::handshake::gateway::Enrolled),
) {
    change(sim.enrolled.get_mut(&id).unwrap());
    sim.restart_gateway();
}

/// The handshake frames of one kind sent so far.
fn taped(sim: &Sim, kind_of: u8) -> Vec<Packet> {
    sim.tape
        .iter()
        .flatten()
        .filter(|packet| packet.kind() == kind_of)
        .cloned()
        .collect()
}

fn bytes(packet: &Packet) -> Vec<u8> {
    match &packet.body {
        Body::Handshake(frame) => frame.clone(),
        Body::Data { .. } => panic!("not a handshake frame"),
    }
}

#[test]
fn another_psk_gets_no_reply_at_all() {
    let mut sim = Sim::new(1, 1);
    let mut config = station_config(0, [1; 32]);
    config.psk = Zeroizing::new([9; 32]);
    sim.run(SECOND);
    sim.tape = Some(Vec::new());
    sim.restart_station_as(0, config);
    sim.run(SECOND * 5);
    assert!(taped(&sim, kind::CHALLENGE).is_empty());
    assert!(sim.gateway.unattributed().bad_tag > 0);
    assert_eq!(sim.status(0).last_failure, Some(Failure::NoChallenge));
}

#[test]
fn another_noise_psk_under_the_right_knock_keys_gets_no_session() {
    // Not reachable with one PSK; shows that the PSK is in the Noise handshake, not only in the tags.
    use portcullis_control::handshake::noise::{Initiator, NoiseError, Responder, Secrets};
    let (gateway, station) = (gateway_private(), station_private(0));
    let (gateway_public, station_public) = (public_key(&gateway), public_key(&station));
    let secrets = |private, public, psk| Secrets {
        static_private: private,
        peer_public: public,
        psk,
    };
    let (mut initiator, first) = Initiator::start(
        secrets(&station, &gateway_public, &[1; 32]),
        b"p",
        [5; 32],
        &[0; 32],
    )
    .unwrap();
    let (responder, _) = Responder::read(
        secrets(&gateway, &station_public, &[2; 32]),
        b"p",
        [6; 32],
        &first,
    )
    .unwrap();
    let (second, _) = responder.answer(&[0; 80]).unwrap();
    assert_eq!(
        initiator.finish(&second).err(),
        Some(NoiseError::DoesNotOpen)
    );
}

#[test]
fn another_static_key_under_a_right_key_id_and_psk_is_not_answered() {
    let mut sim = Sim::new(2, 1);
    let mut config = station_config(0, [1; 32]);
    config.static_private = Zeroizing::new([0x77; 32]);
    sim.run(SECOND);
    sim.tape = Some(Vec::new());
    let responses = sim.info(0).outcomes.responses;
    let genuine = sim.workers[&0].cur.clone().unwrap().install.index;
    sim.restart_station_as(0, config);
    sim.run(SECOND * 5);
    assert!(taped(&sim, kind::INITIATION).len() > 1);
    assert!(taped(&sim, kind::RESPONSE).is_empty());
    assert_eq!(sim.info(0).outcomes.responses, responses);
    assert!(sim.info(0).outcomes.wrong_static > 0);
    assert_eq!(sim.status(0).last_failure, Some(Failure::NoResponse));
    assert_eq!(sim.workers[&0].cur.as_ref().unwrap().install.index, genuine);
}

#[test]
fn a_workstation_does_not_join_another_gateway() {
    let mut sim = Sim::new(3, 1);
    let mut config = station_config(0, [1; 32]);
    config.gateway_public = public_key(&[0x55; 32]);
    sim.restart_station_as(0, config);
    sim.run(SECOND * 5);
    assert!(!sim.status(0).connected);
    assert!(sim.info(0).outcomes.does_not_open > 0);
}

#[test]
fn a_workstation_on_a_port_it_may_not_use_is_unknown_there() {
    let mut sim = Sim::new(4, 1);
    change(&mut sim, 0, |enrolled| enrolled.ports = Some(vec![3]));
    sim.tape = Some(Vec::new());
    sim.restart_station(0);
    sim.run(SECOND * 5);
    assert!(taped(&sim, kind::CHALLENGE).is_empty());
    assert!(taped(&sim, kind::RESET).is_empty());
    assert!(sim.gateway.unattributed().unknown_key > 0);
}

#[test]
fn a_handshake_nonce_is_taken_once_also_past_xdp() {
    let mut sim = Sim::new(5, 1);
    sim.tape = Some(Vec::new());
    sim.restart_station(0);
    sim.run(SECOND);
    let initiation = bytes(taped(&sim, kind::INITIATION).last().unwrap());
    let before = sim.info(0);
    for _ in 0..5 {
        sim.gateway_frame_past_xdp(station_mac(0), &initiation);
    }
    let after = sim.info(0);
    assert_eq!(
        after.outcomes.repeated_nonce,
        before.outcomes.repeated_nonce + 5
    );
    assert_eq!(after.outcomes.responses, before.outcomes.responses);
    assert!(!after.pending);
    // In the next period too; after that the cookie is stale.
    for (wait, stale) in [(120, false), (130, true)] {
        sim.run(SECOND * wait);
        let before = sim.info(0).outcomes;
        sim.gateway_frame_past_xdp(station_mac(0), &initiation);
        let after = sim.info(0).outcomes;
        assert_eq!(
            after.repeated_nonce - before.repeated_nonce,
            u64::from(!stale)
        );
        assert_eq!(after.bad_cookie - before.bad_cookie, u64::from(stale));
        assert_eq!(
            after.does_not_open, before.does_not_open,
            "no Diffie-Hellman was made for it"
        );
    }
}

#[test]
fn a_cookie_is_worth_nothing_from_another_address_or_to_another_start() {
    let mut sim = Sim::new(6, 1);
    sim.filter = Some(Box::new(|packet| {
        if packet.kind() == kind::INITIATION {
            Vec::new()
        } else {
            vec![(MS, packet.clone())]
        }
    }));
    sim.tape = Some(Vec::new());
    sim.restart_station(0);
    sim.run(MS * 100);
    let initiation = bytes(&taped(&sim, kind::INITIATION)[0]);
    let before = sim.info(0).outcomes.bad_cookie;
    sim.gateway_frame_past_xdp([2, 0, 0, 0, 0, 9], &initiation);
    assert_eq!(sim.info(0).outcomes.bad_cookie, before + 1);
    sim.restart_gateway();
    sim.gateway_frame_past_xdp(station_mac(0), &initiation);
    assert_eq!(sim.info(0).outcomes.bad_cookie, 1);
    assert!(!sim.info(0).pending);
}

#[test]
fn a_full_set_of_nonces_refuses_until_the_next_period_and_running_sessions_rekey_meanwhile() {
    let mut sim = Sim::new(7, 1);
    sim.run(SECOND);
    let mut refused = 0;
    // One who has the keys asks for session after session.
    for round in 0..300u32 {
        sim.tape = Some(Vec::new());
        let before = sim.info(0).outcomes.nonces_full;
        sim.restart_station_as(
            0,
            station_config(
                0,
                [round as u8; 32].map(|byte| byte ^ (round >> 8) as u8 ^ 0x40),
            ),
        );
        sim.run(MS * 50);
        refused += sim.info(0).outcomes.nonces_full - before;
    }
    assert!(refused > 0);
    assert!(sim.info(0).outcomes.responses <= 1 + 256);
    sim.run(SECOND * 130);
    sim.run_with_data(SECOND * 5);
    assert!(sim.joined(0), "{:?}", sim.status(0));
}

/// Property 6, the handshake's part.
#[test]
fn a_flood_of_one_workstations_handshakes_leaves_another_alone() {
    let mut sim = Sim::new(8, 2);
    sim.run(SECOND);
    sim.tape = Some(Vec::new());
    let (index, before) = (sim.session(1), sim.info(1));
    let mut opened = sim.stations[&1].opened;
    for round in 0..200u32 {
        sim.restart_station_as(
            0,
            station_config(0, [round as u8; 32].map(|byte| byte ^ 0x80)),
        );
        for packet in taped(&sim, kind::INITIATION) {
            sim.gateway_frame_past_xdp(station_mac(0), &bytes(&packet));
        }
        sim.data(1);
        sim.run(MS * 20);
        assert!(sim.stations[&1].opened > opened, "round {round}");
        opened = sim.stations[&1].opened;
    }
    assert_eq!(sim.session(1), index);
    assert_eq!(sim.info(1).outcomes, before.outcomes);
    // And its rekey goes through.
    let index = index.unwrap();
    sim.with_station(1, |station, now| station.limit_near(now, index));
    sim.run(MS * 100);
    assert!(sim.joined(1));
    assert_ne!(sim.session(1), Some(index));
}

#[test]
fn a_workstation_whose_worker_is_slow_to_erase_uses_up_its_own_slots_only() {
    let mut sim = Sim::new(9, 2);
    sim.run(SECOND);
    sim.worker_delay = SECOND * 30;
    for round in 0..60u32 {
        sim.restart_station_as(
            0,
            station_config(0, [round as u8; 32].map(|byte| byte ^ 0x20)),
        );
        sim.run(MS * 50);
    }
    assert!(sim.info(0).erasing <= 8);
    assert!(sim.info(0).outcomes.no_slot > 0);
    sim.worker_delay = MS;
    sim.restart_station(1);
    sim.run(SECOND);
    assert!(sim.joined(1));
    sim.run(SECOND * 60);
    sim.run_with_data(SECOND * 5);
    assert!(sim.joined(0), "{:?} {:?}", sim.status(0), sim.info(0));
}

/// Each is told the index of every session it begins.
#[test]
fn what_one_workstation_is_told_of_slots_does_not_depend_on_how_many_sessions_others_begin() {
    let told = |others: usize| {
        let mut sim = Sim::new(11, 3);
        sim.run(SECOND);
        let mut slots = Vec::new();
        for _ in 0..10 {
            for _ in 0..others {
                sim.restart_station(1);
                sim.run(SECOND * 2);
                assert!(sim.joined(1));
            }
            sim.restart_station(0);
            sim.run(SECOND * 30);
            assert!(sim.joined(0));
            let session = sim.workers[&0].cur.as_ref().expect("a session");
            slots.push(slot_of(session.install.index));
        }
        slots
    };
    let alone = told(0);
    assert_eq!(told(1), alone);
    assert_eq!(told(3), alone);
}

#[test]
fn a_rekey_is_refused_above_two_a_second_and_on_a_session_that_is_over() {
    let mut sim = Sim::new(10, 1);
    sim.run(SECOND * 2);
    let index = sim.workers[&0].cur.as_ref().unwrap().install.index;
    let message = message::Inner::RekeyInit(5, [7; 128]).encode();
    let before = sim.info(0).outcomes;
    for _ in 0..50 {
        sim.with_gateway(|gateway, now| gateway.inner(now, 0, index, &message));
        sim.run(MS * 20);
    }
    let after = sim.info(0).outcomes;
    assert!(
        after.does_not_open - before.does_not_open <= 4,
        "two at once and two a second"
    );
    assert!(after.rekey_refused - before.rekey_refused >= 46);
    sim.with_gateway(|gateway, now| gateway.seal_limit(now, 0, index));
    sim.run(MS * 20);
    let before = sim.info(0).outcomes;
    sim.with_gateway(|gateway, now| gateway.inner(now, 0, index, &message));
    assert_eq!(sim.info(0).outcomes.rekey_refused, before.rekey_refused + 1);
}

#[test]
fn a_rekey_goes_through_on_the_previous_session_for_ten_seconds() {
    let mut sim = Sim::new(11, 1);
    sim.run(SECOND);
    let old = sim.workers[&0].cur.as_ref().unwrap().install.index;
    let index = sim.session(0).unwrap();
    sim.with_station(0, |station, now| station.limit_near(now, index));
    sim.run(SECOND);
    assert!(sim.info(0).prev);
    let message = message::Inner::RekeyInit(5, [7; 128]).encode();
    let before = sim.info(0).outcomes;
    sim.with_gateway(|gateway, now| gateway.inner(now, 0, old, &message));
    assert_eq!(
        sim.info(0).outcomes.does_not_open,
        before.does_not_open + 1,
        "it was looked at"
    );
    sim.run(SECOND * 10);
    sim.with_gateway(|gateway, now| gateway.inner(now, 0, old, &message));
    assert_eq!(sim.info(0).outcomes.rekey_refused, before.rekey_refused + 1);
    assert!(!sim.info(0).prev);
}

/// Property 8, the handshake's part.
#[test]
fn a_removed_workstation_ends_its_sessions_at_once() {
    let mut sim = Sim::new(12, 2);
    sim.run(SECOND);
    let index = sim.session(0).unwrap();
    sim.with_station(0, |station, now| station.limit_near(now, index));
    sim.run(MS * 200);
    let installed: Vec<u32> = {
        let worker = &sim.workers[&0];
        [&worker.pending, &worker.cur, &worker.prev]
            .into_iter()
            .flatten()
            .map(|live| live.install.index)
            .collect()
    };
    assert_eq!(installed.len(), 2);
    let mut ended = sim.gateway.remove(0);
    let mut asked: Vec<u32> = sim
        .gateway
        .actions()
        .map(|action| match action {
            Action::Erase {
                workstation: 0,
                index,
            } => index,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut installed = installed;
    for list in [&mut ended, &mut asked, &mut installed] {
        list.sort_unstable();
    }
    assert_eq!(ended, installed);
    assert_eq!(asked, installed);
    // Nothing is answered any more, also not on what its worker still has.
    sim.tape = Some(Vec::new());
    sim.restart_station(0);
    sim.run(SECOND * 3);
    assert!(taped(&sim, kind::CHALLENGE).is_empty());
    assert!(sim.joined(1));
    // Its slots are free only after the acknowledgement.
    for index in installed {
        sim.with_gateway(|gateway, _| gateway.erased(0, index));
    }
}

#[test]
fn a_downgrade_is_refused_by_the_workstation_and_by_the_gateway() {
    // The Gateway's policy is below what the Workstation offers: no reply.
    for change_it in [
        (|enrolled| enrolled.protection = Protection::Authenticate)
            as fn(&mut portcullis_control::handshake::gateway::Enrolled),
        |enrolled| enrolled.cipher = CipherPolicy::Only(Cipher::Aes128Gcm),
    ] {
        let mut sim = Sim::new(13, 1);
        change(&mut sim, 0, change_it);
        sim.restart_station(0);
        sim.run(SECOND * 4);
        assert!(!sim.status(0).connected);
        assert!(sim.info(0).outcomes.policy > 0 && sim.info(0).unmet);
        assert_eq!(sim.info(0).outcomes.responses, 0);
    }
    // With consent it is given.
    let mut sim = Sim::new(14, 1);
    change(&mut sim, 0, |enrolled| {
        enrolled.protection = Protection::Authenticate;
        enrolled.padding = Padding::Full;
    });
    let mut config = station_config(0, [3; 32]);
    config.protections.push(Protection::Authenticate);
    sim.restart_station_as(0, config);
    sim.run(SECOND);
    assert!(!sim.info(0).unmet);
    assert_eq!(
        sim.status(0).protected_by,
        Some((Cipher::Aes256Gcm, Protection::Authenticate))
    );
    assert_eq!(
        sim.stations[&0]
            .worker
            .cur
            .as_ref()
            .unwrap()
            .install
            .padding,
        Padding::Full
    );
}

#[test]
fn a_gateway_that_chooses_what_was_not_offered_is_refused() {
    use portcullis_control::handshake::message::{Answer, Offer};
    use portcullis_control::handshake::noise::{Responder, Secrets};
    let mut sim = Sim::new(15, 1);
    sim.filter = Some(Box::new(|packet| {
        if packet.kind() == kind::INITIATION {
            Vec::new()
        } else {
            vec![(MS, packet.clone())]
        }
    }));
    for case in 0..5 {
        sim.tape = Some(Vec::new());
        sim.restart_station(0);
        sim.run(MS * 100);
        let frame = bytes(taped(&sim, kind::INITIATION).last().unwrap());
        let (header, payload) = message::parse(&frame).unwrap();
        let challenge: &[u8; 32] = payload.first_chunk().unwrap();
        let mut head = [0; 16];
        head.copy_from_slice(&frame[..16]);
        let psk = kdf::noise_psk(&station_psk(0));
        let secrets = Secrets {
            static_private: &gateway_private(),
            peer_public: &public_key(&station_private(0)),
            psk: &psk,
        };
        let (responder, offer) = Responder::read(
            secrets,
            &kdf::hello_prologue(&head, challenge),
            [8; 32],
            &payload[32..],
        )
        .unwrap();
        assert!(Offer::decode(&offer).is_some());
        let told = message::Challenge::decode(challenge).unwrap();
        let mut answer = Answer {
            index: 0x0001_0001,
            boot_id: told.boot_id,
            mac: told.mac,
            cipher: Cipher::Aes256Gcm,
            protection: Protection::Encrypt,
            padding: Padding::None,
            parameters: portcullis_control::handshake::Parameters {
                mtu: 9000,
                v4: None,
                v6: None,
                gateway_v4: None,
                gateway_v6: None,
            },
        };
        match case {
            0 => answer.cipher = Cipher::Aes128Gcm,
            1 => answer.protection = Protection::Authenticate,
            2 => answer.mac[5] ^= 1,
            3 => answer.boot_id[0] ^= 1,
            _ => {}
        }
        let (second, _) = responder.answer(&answer.encode()).unwrap();
        let response = message::frame(
            kind::RESPONSE,
            header.index,
            header.counter,
            kdf::knock_keys(&station_psk(0)).g2w,
            &second,
        );
        sim.with_station(0, |station, now| station.frame(now, GATEWAY_MAC, &response));
        if case < 4 {
            assert_eq!(
                sim.status(0).last_failure,
                Some(Failure::Refused),
                "case {case}"
            );
            assert!(sim.stations[&0].worker.pending.is_none());
            // And it does not ask again at once.
            let asked = taped(&sim, kind::HELLO).len();
            sim.run(SECOND * 3);
            assert_eq!(taped(&sim, kind::HELLO).len(), asked);
        } else {
            let pending = sim.stations[&0].worker.pending.as_ref().unwrap();
            assert_eq!(pending.install.mtu, 1460, "the smaller MTU of both");
            assert_eq!(sim.phase(0), Phase::Proving);
        }
    }
}

#[test]
fn a_virtual_machine_that_cannot_see_its_rollback_is_given_siv() {
    let mut sim = Sim::new(16, 1);
    let mut config = station_config(0, [3; 32]);
    config.virtualised = true;
    sim.restart_station_as(0, config);
    sim.run(SECOND);
    assert_eq!(
        sim.status(0).protected_by,
        Some((Cipher::Aes256GcmSiv, Protection::Encrypt))
    );
    let mut config = station_config(0, [4; 32]);
    config.virtualised = true;
    config.ciphers = vec![Cipher::Aes256Gcm];
    sim.restart_station_as(0, config);
    sim.run(SECOND);
    assert!(!sim.status(0).connected);
}

#[test]
fn a_rollback_drops_all_keys_at_once_and_a_mere_hint_does_at_most_every_ten_seconds() {
    let mut sim = Sim::new(17, 1);
    sim.run(SECOND);
    for (sign, wait, drops) in [
        (RollbackSign::Hint, SECOND, true),
        (RollbackSign::Hint, SECOND, false),
        (RollbackSign::Generation, SECOND, true),
        (RollbackSign::Generation, SECOND, true),
        (RollbackSign::Hint, SECOND * 9, false),
        (RollbackSign::Hint, SECOND, true),
    ] {
        let before = sim.session(0);
        sim.run(wait - MS * 900);
        sim.with_station(0, |station, now| {
            station.rollback_suspected(now, sign, &[7; 32])
        });
        assert_eq!(
            sim.stations[&0].worker.cur.is_none(),
            drops,
            "{sign:?} after {wait:?}"
        );
        sim.run(MS * 900);
        assert!(sim.joined(0));
        assert_eq!(sim.session(0) != before, drops);
    }
}

#[test]
fn a_machine_put_back_to_a_snapshot_draws_other_values_once_entropy_is_mixed_in() {
    use portcullis_control::handshake::workstation::Workstation;
    let first_hello = |entropy: &[u8]| {
        let mut station = Workstation::new(station_config(0, [9; 32]), START);
        station.mix(entropy);
        station.start(START);
        station
            .actions()
            .find_map(|action| match action {
                Action::Send { frame, .. } => Some(frame),
                _ => None,
            })
            .unwrap()
    };
    assert_eq!(first_hello(b"same"), first_hello(b"same"));
    assert_ne!(first_hello(b"same"), first_hello(b"other"));
}

#[test]
fn two_machines_with_one_key_at_two_addresses_are_shown() {
    let mut sim = Sim::new(18, 1);
    sim.run(SECOND);
    assert!(!sim.info(0).clone_suspected);
    for round in 0..5u8 {
        let mut config = station_config(0, [round; 32]);
        config.mac = station_mac(40 + u32::from(round % 2));
        sim.restart_station_as(0, config);
        sim.run(SECOND * 2);
        assert!(sim.joined(0));
    }
    assert!(sim.info(0).clone_suspected);
    sim.run(SECOND * 70);
    assert!(!sim.info(0).clone_suspected);
    // One that only restarts is not a clone.
    for _ in 0..8 {
        sim.restart_station(0);
        sim.run(SECOND);
    }
    sim.run(SECOND);
    assert!(!sim.info(0).clone_suspected);
}

#[test]
fn resets_follow_their_schedule_and_stop_at_a_handshake() {
    let mut sim = Sim::new(19, 1);
    sim.tape = Some(Vec::new());
    let start = sim.now;
    sim.restart_station_as(0, {
        let mut config = station_config(0, [1; 32]);
        config.psk = Zeroizing::new([8; 32]);
        config
    });
    sim.restart_gateway();
    let mut at = Vec::new();
    let mut known = 0;
    for _ in 0..1000 {
        sim.run(MS * 100);
        let sent = taped(&sim, kind::RESET).len();
        for _ in known..sent {
            at.push((sim.now - start).as_millis());
        }
        known = sent;
    }
    assert_eq!(
        at[..9],
        [100, 100, 500, 2000, 5000, 10000, 20000, 50000, 80000]
    );
    // From each carrier-up again.
    sim.with_gateway(|gateway, now| gateway.carrier_up(now, 0));
    sim.run(MS * 600);
    assert_eq!(taped(&sim, kind::RESET).len(), known + 3);
    sim.restart_station(0);
    sim.run(SECOND);
    assert!(sim.joined(0));
    let known = taped(&sim, kind::RESET).len();
    sim.with_gateway(|gateway, now| gateway.carrier_up(now, 0));
    sim.run(SECOND * 100);
    assert_eq!(taped(&sim, kind::RESET).len(), known);
    let nonces: std::collections::HashSet<_> = taped(&sim, kind::RESET)
        .iter()
        .map(|packet| bytes(packet)[8..16].to_vec())
        .collect();
    assert_eq!(nonces.len(), known, "each Reset has a nonce of its own");
}

#[test]
fn a_session_is_rekeyed_in_time_and_never_lives_beyond_its_age() {
    let mut sim = Sim::new(20, 1);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..600 {
        sim.run(SECOND);
        assert!(sim.joined(0));
        seen.insert(sim.session(0));
        assert!(sim.status(0).session_age.unwrap() <= SECOND * 121);
    }
    assert!((5..=7).contains(&seen.len()), "{}", seen.len());
    assert_eq!(sim.status(0).handshakes.0, 1, "every later one by a rekey");
    // Cut off, both sides erase everything in 180 s.
    sim.network.loss = 1000;
    sim.run(SECOND * 181);
    assert!(!sim.status(0).connected);
    assert!(sim.stations[&0].worker.cur.is_none());
    assert!(sim.workers[&0].cur.is_none());
    assert_eq!(sim.phase(0), Phase::Hello);
}

#[test]
fn a_changed_mac_address_of_the_gateway_is_found_out() {
    let mut sim = Sim::new(21, 1);
    sim.run(SECOND);
    sim.with_gateway(|gateway, now| {
        gateway.set_port(
            now,
            portcullis_control::handshake::gateway::PortConfig {
                port: 0,
                encapsulation: portcullis_control::handshake::Encapsulation::Ether(
                    wire::limits::ETHERTYPE,
                ),
                mac: [2, 0, 0, 0, 0, 0xee],
                ifindex: 7,
                mtu: 1500,
            },
        );
    });
    assert!(sim.workers[&0].cur.is_none());
    sim.filter = Some(Box::new(|packet| {
        let mut packet = packet.clone();
        if packet.source == GATEWAY_MAC {
            packet.source = [2, 0, 0, 0, 0, 0xee];
        }
        vec![(MS, packet)]
    }));
    sim.run_with_data(SECOND * 5);
    assert!(sim.joined(0), "{:?}", sim.status(0));
    assert_eq!(sim.status(0).gateway_mac, Some([2, 0, 0, 0, 0, 0xee]));
}

#[test]
fn a_removed_port_ends_its_sessions() {
    let mut sim = Sim::new(22, 1);
    sim.run(SECOND);
    sim.with_gateway(|gateway, _| gateway.remove_port(0));
    assert!(sim.workers[&0].cur.is_none());
    sim.tape = Some(Vec::new());
    sim.restart_station(0);
    sim.run(SECOND * 2);
    assert!(taped(&sim, kind::CHALLENGE).is_empty());
}

#[test]
fn an_initiation_from_another_address_than_it_names_inside_is_not_answered() {
    let mut sim = Sim::new(23, 1);
    sim.run(SECOND);
    sim.restart_station(0);
    sim.stations.get_mut(&0).unwrap().mac = station_mac(66);
    let before = sim.info(0).outcomes;
    sim.run(SECOND * 3);
    let after = sim.info(0).outcomes;
    assert!(after.bad_payload > before.bad_payload);
    assert_eq!(after.responses, before.responses);
}

#[test]
fn a_hello_whose_zeros_are_not_zero_is_not_answered() {
    let mut sim = Sim::new(24, 1);
    sim.run(SECOND);
    sim.tape = Some(Vec::new());
    let key = kdf::knock_keys(&station_psk(0)).w2g;
    let mut payload = [0; 32];
    sim.gateway_frame_past_xdp(
        station_mac(0),
        &message::frame(kind::HELLO, key_id(0), 5, key, &payload),
    );
    assert_eq!(taped(&sim, kind::CHALLENGE).len(), 1);
    payload[31] = 1;
    sim.gateway_frame_past_xdp(
        station_mac(0),
        &message::frame(kind::HELLO, key_id(0), 5, key, &payload),
    );
    assert_eq!(taped(&sim, kind::CHALLENGE).len(), 1);
}

#[test]
fn a_rollback_drops_the_previous_and_the_new_session_too() {
    for delay in [0, 3, 6, 9, 400] {
        let mut sim = Sim::new(25, 1);
        sim.run(SECOND);
        let index = sim.session(0).unwrap();
        sim.with_station(0, |station, now| station.limit_near(now, index));
        sim.run(MS * delay);
        sim.with_station(0, |station, now| {
            station.rollback_suspected(now, RollbackSign::Generation, &[7; 32])
        });
        let worker = &sim.stations[&0].worker;
        assert!(
            worker.pending.is_none() && worker.cur.is_none() && worker.prev.is_none(),
            "{delay} ms"
        );
        sim.run(SECOND);
        assert!(sim.joined(0));
    }
}

/// Property 7: before authentication no reply is larger than its request, and none comes unasked.
#[test]
fn no_reply_is_larger_than_the_request_that_caused_it() {
    let mut sim = Sim::new(21, 3);
    sim.run(SECOND * 2);
    sim.tape = Some(Vec::new());
    for _ in 0..5 {
        for id in 0..3 {
            sim.restart_station(id);
        }
        sim.run(SECOND * 2);
    }
    for (request, reply) in [
        (kind::HELLO, kind::CHALLENGE),
        (kind::INITIATION, kind::RESPONSE),
    ] {
        let (requests, replies) = (taped(&sim, request), taped(&sim, reply));
        let counts = (requests.len(), replies.len());
        assert!(counts.1 > 0 && counts.1 <= counts.0, "{counts:?}");
        let largest = replies.iter().map(|packet| bytes(packet).len()).max();
        let smallest = requests.iter().map(|packet| bytes(packet).len()).min();
        assert!(largest <= smallest, "type {reply} after type {request}");
    }
    // What has no good tag is not answered at all.
    sim.gateway.actions().for_each(drop);
    let hello = bytes(&taped(&sim, kind::HELLO)[0]);
    for at in 0..hello.len() {
        let mut bad = hello.clone();
        bad[at] ^= 1;
        sim.gateway.frame(SECOND * 100, 0, [2, 0, 0, 0, 0, 9], &bad);
        assert_eq!(sim.gateway.actions().count(), 0, "byte {at}");
    }
}
