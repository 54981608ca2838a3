//! What becomes of sessions and of those who hold keys when a Workstation's keys, or the Gateway's,
//! are replaced.

#[path = "handshake/sim.rs"]
mod sim;

use portcullis_control::handshake::gateway::Credentials;
use portcullis_control::handshake::noise::public_key;
use portcullis_control::handshake::workstation::WorkstationConfig;
use sim::*;
use wire::header::kind;
use zeroize::Zeroizing;

/// The id of the keys that Workstation 0 is given next.
const NEXT: u32 = 5;
const NEW_GATEWAY: [u8; 32] = [0x12; 32];

/// Workstation 0, with the keys of `keys`.
fn with_keys(sim: &mut Sim, keys: u32) -> WorkstationConfig {
    WorkstationConfig {
        mac: station_mac(0),
        ..station_config(keys, sim.random.bytes())
    }
}

fn rotate(sim: &mut Sim) {
    sim.with_gateway(|gateway, _| gateway.set_next(0, Some(credentials(NEXT))))
        .unwrap();
}

fn use_keys(sim: &mut Sim, keys: u32) {
    let config = with_keys(sim, keys);
    sim.restart_station_as(0, config);
}

fn joined() -> Sim {
    let mut sim = Sim::new(1, 2);
    sim.run_with_data(SECOND * 2);
    assert!(sim.joined(0) && sim.joined(1));
    sim
}

#[test]
fn a_rotation_disturbs_no_session_and_the_old_keys_go_on_until_the_new_ones_are_used() {
    let mut sim = joined();
    let (session, other) = (sim.session(0), sim.session(1));
    rotate(&mut sim);
    sim.run_with_data(SECOND * 60);
    assert_eq!(sim.session(0), session);
    // A rekey and a restart with the old keys work as ever.
    sim.run_with_data(SECOND * 70);
    assert!(sim.joined(0) && sim.info(0).outcomes.rekeys >= 1);
    sim.restart_station(0);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0));
    assert!(sim.ended_keys.is_empty());
    assert_eq!(sim.info(0).key_id, key_id(0));
    assert_ne!(sim.session(1), other, "the other one rekeys too");

    use_keys(&mut sim, NEXT);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0) && sim.joined(1));
    assert_eq!(sim.ended_keys, [key_id(0)]);
    assert_eq!(sim.info(0).key_id, key_id(NEXT));
    assert!(
        !sim.info(0).prev,
        "no session under the old keys is received on"
    );
}

#[test]
fn old_keys_are_worth_nothing_once_the_new_ones_were_used() {
    let mut sim = joined();
    rotate(&mut sim);
    use_keys(&mut sim, NEXT);
    sim.run_with_data(SECOND * 2);
    let session = sim.session(0);
    // Somebody who has the old keys, at another address.
    let mut thief = with_keys(&mut sim, 0);
    thief.mac = station_mac(9);
    sim.tape = Some(Vec::new());
    let before = sim.gateway.unattributed().unknown_key;
    sim.restart_station_as(1, thief);
    sim.run(SECOND * 10);
    assert_eq!(sim.session(1), None);
    assert!(sim.gateway.unattributed().unknown_key > before);
    let tape = sim.tape.take().unwrap();
    assert!(
        tape.iter()
            .all(|packet| packet.to != End::Station(1) || packet.kind() == kind::RESET),
        "it was answered"
    );
    assert!(sim.info(0).cur.is_some() && session.is_some());
}

#[test]
fn new_keys_whose_response_is_lost_change_nothing() {
    let mut sim = joined();
    rotate(&mut sim);
    // No frame under the new session reaches the Gateway: it is not proven.
    sim.filter = Some(Box::new(|packet| match packet.kind() {
        kind::RESPONSE => vec![],
        _ => vec![(MS, packet.clone())],
    }));
    use_keys(&mut sim, NEXT);
    sim.run(SECOND * 20);
    assert!(sim.info(0).outcomes.responses >= 2, "it did answer");
    assert!(sim.ended_keys.is_empty());
    assert_eq!(sim.info(0).key_id, key_id(0));
    sim.filter = None;
    use_keys(&mut sim, 0);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0));
}

#[test]
fn keys_taken_back_or_replaced_are_not_accepted_and_end_the_session_not_yet_proven() {
    let mut sim = joined();
    rotate(&mut sim);
    let responses = sim.info(0).outcomes.responses;
    sim.filter = Some(Box::new(|packet| match packet.kind() {
        kind::RESPONSE => vec![],
        _ => vec![(MS, packet.clone())],
    }));
    use_keys(&mut sim, NEXT);
    while sim.info(0).outcomes.responses == responses {
        sim.run(MS * 10);
    }
    assert!(sim.info(0).pending);
    sim.with_gateway(|gateway, _| gateway.set_next(0, None))
        .unwrap();
    assert!(!sim.info(0).pending);
    sim.filter = None;
    sim.run(SECOND * 10);
    assert!(!sim.joined(0) && sim.ended_keys.is_empty());
    // Other ones than those it has.
    sim.with_gateway(|gateway, _| gateway.set_next(0, Some(credentials(6))))
        .unwrap();
    sim.run(SECOND * 10);
    assert!(!sim.joined(0) && sim.ended_keys.is_empty());
    use_keys(&mut sim, 6);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0));
}

#[test]
fn old_keys_end_at_their_time_with_their_sessions_and_the_new_ones_still_work() {
    let mut sim = joined();
    rotate(&mut sim);
    assert_eq!(
        sim.with_gateway(|gateway, _| gateway.promote(0)),
        Some(key_id(0))
    );
    sim.run(SECOND);
    assert!(sim.info(0).cur.is_none() && sim.workers[&0].cur.is_none());
    sim.run(SECOND * 10);
    assert!(!sim.joined(0) && sim.joined(1));
    use_keys(&mut sim, NEXT);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0));
    assert_eq!(sim.with_gateway(|gateway, _| gateway.promote(0)), None);
}

#[test]
fn a_key_id_that_waits_is_no_other_workstations() {
    let mut sim = joined();
    rotate(&mut sim);
    let taken = |sim: &mut Sim, id, key| {
        sim.with_gateway(|gateway, _| gateway.set_next(id, Some(credentials(key))))
            .is_err()
    };
    assert!(taken(&mut sim, 1, NEXT) && taken(&mut sim, 1, 0));
    let mut third = enrolled(3);
    third.credentials = credentials(NEXT);
    assert!(
        sim.with_gateway(|gateway, now| gateway.add(now, third))
            .is_err()
    );
    sim.with_gateway(|gateway, _| gateway.remove(0));
    assert!(!taken(&mut sim, 1, NEXT));
}

fn both_keys() -> Vec<Zeroizing<[u8; 32]>> {
    [NEW_GATEWAY, gateway_private()].map(Zeroizing::new).into()
}

fn next_of_new_gateway() -> Credentials {
    Credentials {
        gateway: public_key(&NEW_GATEWAY),
        ..credentials(NEXT)
    }
}

#[test]
fn the_gateways_key_is_rolled_over_without_ending_a_session() {
    let mut sim = joined();
    let sessions = (sim.session(0), sim.session(1));
    sim.with_gateway(|gateway, _| gateway.set_static_keys(both_keys()));
    sim.with_gateway(|gateway, _| gateway.set_next(0, Some(next_of_new_gateway())))
        .unwrap();
    sim.run_with_data(SECOND * 30);
    assert_eq!((sim.session(0), sim.session(1)), sessions);
    // Rekeys and new handshakes to the old key go on.
    sim.run_with_data(SECOND * 120);
    sim.restart_station(1);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0) && sim.joined(1));
    // The one with new keys speaks to the new key.
    let mut config = with_keys(&mut sim, NEXT);
    config.gateway_public = public_key(&NEW_GATEWAY);
    sim.restart_station_as(0, config);
    sim.run_with_data(SECOND * 3);
    assert!(sim.joined(0) && sim.ended_keys == [key_id(0)]);
    // With the old key gone, only the one that knew it is.
    let zero = sim.session(0);
    sim.with_gateway(|gateway, _| gateway.set_static_keys(vec![Zeroizing::new(NEW_GATEWAY)]));
    sim.run_with_data(SECOND * 10);
    assert_eq!(sim.session(0), zero);
    assert!(sim.info(1).cur.is_none());
    sim.restart_station(1);
    sim.run(SECOND * 10);
    assert!(!sim.joined(1) && sim.info(1).outcomes.retired_static > 0);
}

/// Who has the old Gateway key cannot speak for the new one, and keys enrolled with one Gateway key
/// are not accepted with the other.
#[test]
fn keys_are_accepted_only_with_the_gateway_key_they_were_enrolled_with() {
    let mut sim = joined();
    sim.with_gateway(|gateway, _| gateway.set_static_keys(both_keys()));
    let mut config = with_keys(&mut sim, 0);
    config.gateway_public = public_key(&NEW_GATEWAY);
    sim.restart_station_as(0, config);
    sim.run(SECOND * 10);
    assert!(!sim.joined(0) && sim.info(0).outcomes.does_not_open > 0);
}
