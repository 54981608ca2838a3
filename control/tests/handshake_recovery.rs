//! From every pair of states, once frames flow again, both sides are in session within 5 s.

#[path = "handshake/sim.rs"]
mod sim;

use proptest::prelude::*;
use sim::*;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Asserts that both sides are in session, agree with their workers, and that data comes back.
fn assert_in_session(sim: &mut Sim, id: u32, what: &str) {
    assert!(
        sim.joined(id),
        "{what}: not in session: {:?} {:?}",
        sim.status(id),
        sim.info(id)
    );
    sim.run(MS * 5);
    assert!(
        sim.mirrored(id),
        "{what}: a machine and its worker disagree"
    );
    let before = sim.stations[&id].opened;
    sim.data(id);
    sim.run(MS * 5);
    assert!(
        sim.stations[&id].opened > before,
        "{what}: data does not come back"
    );
}

/// Lets `frames` more frames through and then none.
fn cut_after(sim: &mut Sim, frames: usize) {
    let left = Rc::new(Cell::new(frames));
    sim.filter = Some(Box::new(move |packet| {
        if left.get() == 0 {
            return Vec::new();
        }
        left.set(left.get() - 1);
        vec![(MS, packet.clone())]
    }));
}

/// How the two sides come to where the cable is cut.
#[derive(Clone, Copy, Debug)]
enum Before {
    FirstHandshake,
    Rekey,
    HelloOverSession,
}

#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    Gateway,
    Station,
    GatewayThenStation,
    StationThenGateway,
    GatewayTwice,
}

const MEANWHILE: [Meanwhile; 6] = [
    Meanwhile::Nothing,
    Meanwhile::Gateway,
    Meanwhile::Station,
    Meanwhile::GatewayThenStation,
    Meanwhile::StationThenGateway,
    Meanwhile::GatewayTwice,
];

fn restart(sim: &mut Sim, what: Meanwhile) {
    match what {
        Meanwhile::Nothing => {}
        Meanwhile::Gateway => sim.restart_gateway(),
        Meanwhile::Station => sim.restart_station(0),
        Meanwhile::GatewayThenStation => {
            sim.restart_gateway();
            sim.run(MS * 40);
            sim.restart_station(0);
        }
        Meanwhile::StationThenGateway => {
            sim.restart_station(0);
            sim.run(MS * 40);
            sim.restart_gateway();
        }
        Meanwhile::GatewayTwice => {
            sim.restart_gateway();
            sim.run(MS * 300);
            sim.restart_gateway();
        }
    }
}

/// All Resets are lost: nothing may depend on them.
fn without_resets(sim: &mut Sim) {
    sim.filter = Some(Box::new(|packet| {
        if packet.kind() == 6 {
            Vec::new()
        } else {
            vec![(MS, packet.clone())]
        }
    }));
}

/// Property 9: liveness.
#[test]
fn both_sides_are_in_session_in_five_seconds_from_every_reachable_pair_of_states() {
    let mut phases = BTreeSet::new();
    let waits = [
        0, 30, 700, 1_900, 3_300, 9_000, 12_000, 16_000, 61_000, 185_000,
    ];
    for before in [
        Before::FirstHandshake,
        Before::Rekey,
        Before::HelloOverSession,
    ] {
        for frames in 0..10 {
            for meanwhile in MEANWHILE {
                for wait in waits {
                    // Over networks there are none.
                    for resets in [Some(true), Some(false), None] {
                        let seed = frames as u64 + wait;
                        let mut sim = match resets {
                            Some(_) => Sim::new(seed, 1),
                            None => Sim::over_udp(seed, 1),
                        };
                        sim.worker_delay = MS * (wait % 3) as u32;
                        match before {
                            Before::FirstHandshake => {}
                            Before::Rekey => sim.run(SECOND * 109),
                            Before::HelloOverSession => sim.run(SECOND * 30),
                        }
                        cut_after(&mut sim, frames);
                        match before {
                            Before::FirstHandshake => sim.restart_station(0),
                            Before::Rekey => {
                                let index = sim.session(0).unwrap();
                                sim.with_station(0, |station, now| station.limit_near(now, index));
                            }
                            Before::HelloOverSession if resets.is_none() => {
                                sim.with_station(0, |station, now| station.carrier(now, true));
                                sim.run(SECOND * 2);
                            }
                            Before::HelloOverSession => {
                                sim.stations.get_mut(&0).unwrap().mac = [2, 0, 0, 0, 9, 9];
                                sim.with_station(0, |station, now| {
                                    station.mac_changed(now, [2, 0, 0, 0, 9, 9])
                                });
                            }
                        }
                        sim.run(MS * 20);
                        sim.cut();
                        restart(&mut sim, meanwhile);
                        sim.run(MS * wait as u32);
                        sim.cut();
                        sim.filter = None;
                        if resets == Some(false) {
                            without_resets(&mut sim);
                        }
                        let status = sim.status(0);
                        let info = sim.info(0);
                        phases.insert(format!(
                            "{:?} cur {} | pending {} cur {} prev {}",
                            status.phase,
                            status.connected,
                            info.pending,
                            info.cur.is_some(),
                            info.prev
                        ));
                        sim.run_with_data(SECOND * 5);
                        let what = format!(
                            "{before:?}, cut after {frames}, {meanwhile:?}, {wait} ms, Resets {resets:?}; began at {status:?} {info:?}"
                        );
                        assert_in_session(&mut sim, 0, &what);
                    }
                }
            }
        }
    }
    for phase in ["Idle", "Hello", "Init", "Rekey", "Proving"] {
        assert!(
            phases.iter().any(|seen| seen.starts_with(phase)),
            "{phase} was not reached: {phases:#?}"
        );
    }
    assert!(phases.len() >= 15, "{phases:#?}");
}

#[derive(Clone, Debug)]
enum Step {
    Run(u64),
    Data(u64),
    Loss(u64),
    Copies(u64),
    Delay(u64),
    RestartGateway,
    RestartStation,
    Carrier,
    Rekey,
    Erase,
    SealLimitGateway,
    Rollback,
    SkewStation(i64),
    SkewGateway(i64),
    ReplayAll,
    WorkerDelay(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..20_000).prop_map(Step::Run),
        1 => (20_000u64..200_000).prop_map(Step::Run),
        4 => (0u64..9_000).prop_map(Step::Data),
        4 => (0u64..=1000).prop_map(Step::Loss),
        2 => (0u64..=1000).prop_map(Step::Copies),
        2 => (0u64..1500).prop_map(Step::Delay),
        2 => Just(Step::RestartGateway),
        2 => Just(Step::RestartStation),
        1 => Just(Step::Carrier),
        3 => Just(Step::Rekey),
        1 => Just(Step::Erase),
        1 => Just(Step::SealLimitGateway),
        1 => Just(Step::Rollback),
        1 => prop_oneof![Just(-365i64 * 86_400_000), Just(365i64 * 86_400_000), -200_000i64..200_000].prop_map(Step::SkewStation),
        1 => prop_oneof![Just(-365i64 * 86_400_000), Just(365i64 * 86_400_000), -200_000i64..200_000].prop_map(Step::SkewGateway),
        1 => Just(Step::ReplayAll),
        1 => (0u64..5).prop_map(Step::WorkerDelay),
    ];
    prop::collection::vec(step, 0..25)
}

fn walk(mut sim: Sim, steps: &[Step]) {
    sim.tape = Some(Vec::new());
    for step in steps {
        match step {
            Step::Run(ms) => sim.run(Duration::from_millis(*ms)),
            Step::Data(ms) => sim.run_with_data(Duration::from_millis(*ms)),
            Step::Loss(loss) => sim.network.loss = *loss,
            Step::Copies(copies) => sim.network.copies = *copies,
            Step::Delay(most) => sim.network.delay = (MS, MS + Duration::from_millis(*most)),
            Step::RestartGateway => sim.restart_gateway(),
            Step::RestartStation => sim.restart_station(0),
            Step::Carrier => {
                sim.with_station(0, |station, now| station.carrier(now, true));
                sim.with_gateway(|gateway, now| gateway.carrier_up(now, 0));
            }
            Step::Rekey => {
                if let Some(index) = sim.session(0) {
                    sim.with_station(0, |station, now| station.limit_near(now, index));
                }
            }
            Step::Erase => {
                if let Some(index) = sim.session(0) {
                    sim.with_station(0, |station, now| station.seal_limit(now, index));
                }
            }
            Step::SealLimitGateway => {
                if let Some(index) = sim.workers.get(&0).and_then(|worker| worker.cur.as_ref()) {
                    let index = index.install.index;
                    sim.with_gateway(|gateway, now| gateway.seal_limit(now, 0, index));
                }
            }
            Step::Rollback => {
                let entropy: [u8; 32] = sim.random.bytes();
                sim.with_station(0, |station, now| {
                    use portcullis_control::handshake::workstation::RollbackSign;
                    station.rollback_suspected(now, RollbackSign::Generation, &entropy);
                });
            }
            Step::SkewStation(ms) => {
                sim.stations.get_mut(&0).unwrap().skew = i128::from(*ms) * 1_000_000
            }
            Step::SkewGateway(ms) => sim.gateway_skew = i128::from(*ms) * 1_000_000,
            Step::ReplayAll => {
                for packet in sim.tape.clone().unwrap() {
                    sim.inject(MS, packet);
                }
            }
            Step::WorkerDelay(ms) => sim.worker_delay = Duration::from_millis(*ms),
        }
    }
    sim.network = CLEAN;
    sim.cut();
    // A clock that stepped may end a session at any later time, so what holds is that neither is
    // ever without one for longer than 5 s.
    let mut since = [sim.now; 2];
    for round in 0..1500 {
        sim.run_with_data(MS * 100);
        for id in 0..2 {
            if sim.joined(id) {
                since[id as usize] = sim.now;
            }
            let gap = sim.now - since[id as usize];
            assert!(
                gap <= SECOND * 5,
                "round {round}: {steps:?}: {:?} {:?}",
                sim.status(id),
                sim.info(id)
            );
        }
        if round == 100 {
            let failures = sim.status(0).failures;
            sim.run_with_data(SECOND);
            assert_eq!(sim.status(0).failures, failures, "{steps:?}");
        }
    }
    sim.run_with_data(SECOND * 5);
    let joined = (0..50).any(|_| {
        sim.run_with_data(MS * 100);
        sim.joined(0)
    });
    assert!(joined);
    assert_in_session(&mut sim, 0, &format!("{steps:?}"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_are_in_session_in_five_seconds_after_any_walk(seed: u64, steps in steps()) {
        walk(Sim::new(seed, 2), &steps);
    }

    #[test]
    fn both_sides_are_in_session_in_five_seconds_after_any_walk_over_networks(seed: u64, steps in steps()) {
        walk(Sim::over_udp(seed, 2), &steps);
    }
}

#[test]
fn a_gateway_restart_is_recovered_from_in_a_second_when_resets_arrive() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 3);
        sim.run(SECOND * 20);
        sim.restart_gateway();
        sim.run(SECOND);
        for id in 0..3 {
            assert!(sim.joined(id), "seed {seed}: {:?}", sim.status(id));
        }
    }
}

#[test]
fn a_gateway_that_starts_late_is_found_in_a_second_when_resets_arrive() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 1);
        sim.network.loss = 1000;
        sim.run(SECOND * (60 + seed as u32));
        sim.network = CLEAN;
        sim.restart_gateway();
        sim.run(SECOND);
        assert!(sim.joined(0), "seed {seed}: {:?}", sim.status(0));
    }
}

#[test]
fn an_idle_workstation_finds_a_restarted_gateway_although_all_resets_are_lost() {
    let mut sim = Sim::new(5, 1);
    sim.run(SECOND * 20);
    sim.restart_gateway();
    without_resets(&mut sim);
    sim.run(SECOND * 14);
    assert!(sim.joined(0), "{:?}", sim.status(0));
}

#[test]
fn a_clock_that_steps_by_a_year_either_way_locks_nobody_out() {
    let year = YEAR.as_nanos() as i128;
    for (station, gateway) in [
        (year, 0),
        (-year, 0),
        (0, year),
        (0, -year),
        (year, -year),
        (-year, -year),
        (-3 * year, -3 * year),
    ] {
        let mut sim = Sim::new(6, 2);
        sim.run_with_data(SECOND * 20);
        for node in sim.stations.values_mut() {
            node.skew = station;
        }
        sim.gateway_skew = gateway;
        for _ in 0..3 {
            sim.run_with_data(SECOND * 5);
            for id in 0..2 {
                assert_in_session(&mut sim, id, &format!("{station} {gateway}"));
            }
        }
        // And back again.
        sim.gateway_skew = 0;
        for node in sim.stations.values_mut() {
            node.skew = 0;
        }
        sim.run_with_data(SECOND * 5);
        assert_in_session(&mut sim, 0, "stepped back");
        sim.run_with_data(SECOND * 130);
        assert_in_session(&mut sim, 0, "after the next rekey");
    }
}

/// The Gateway has taken a new session as proven, and every frame that would have shown it is lost.
/// It then sends on a session that the Workstation has discarded, while it still answers PINGs on
/// the one before: only the rekey that is due at once gets them together again.
#[test]
fn a_session_that_only_the_gateway_took_as_proven_is_replaced_at_once() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, 1);
        sim.run(SECOND * 5);
        let index = sim.session(0).unwrap();
        sim.filter = Some(Box::new(move |packet| match &packet.body {
            Body::Data { index: to, .. } if packet.to == End::Station(0) && *to != index => {
                Vec::new()
            }
            _ => vec![(MS, packet.clone())],
        }));
        // By a Hello: the session in use is young, and no rekey of it is due.
        sim.with_station(0, |station, now| {
            station.frame(now, GATEWAY_MAC, &reset(1, 99))
        });
        sim.run(MS * 2_250);
        assert!(!sim.joined(0), "seed {seed}");
        assert!(sim.info(0).prev, "seed {seed}: the Gateway took it");
        sim.filter = None;
        sim.run_with_data(SECOND * 2);
        assert_in_session(&mut sim, 0, &format!("seed {seed}"));
        assert_eq!(
            sim.status(0).handshakes,
            (1, 1),
            "by a rekey, not by a Hello"
        );
    }
}

fn reset(nonce: u64, boot_id: u8) -> Vec<u8> {
    use portcullis_control::handshake::{kdf, message};
    let key = kdf::knock_keys(&station_psk(0)).g2w;
    message::frame(
        6,
        key_id(0),
        nonce,
        key,
        &message::encode_reset(&[boot_id; 8]),
    )
}

/// Resets with other boot ids, recorded or not, do not put off what the genuine one leads to.
#[test]
fn a_stream_of_resets_does_not_put_off_the_handshake() {
    let mut sim = Sim::new(3, 1);
    sim.run(SECOND * 5);
    sim.restart_gateway();
    without_resets(&mut sim);
    for round in 0..50u8 {
        sim.with_station(0, |station, now| {
            station.frame(
                now,
                GATEWAY_MAC,
                &reset(1000 + u64::from(round), 100 + round),
            )
        });
        sim.run(MS * 5);
    }
    assert!(sim.joined(0), "{:?}", sim.status(0));
}

#[test]
fn a_confirmation_that_crosses_an_erasure_leaves_machine_and_worker_in_agreement() {
    // At the Gateway: an Initiation takes the place of a pending session that was just proven.
    let mut sim = Sim::new(4, 1);
    sim.run(SECOND);
    sim.worker_delay = MS * 50;
    sim.restart_station(0);
    sim.run(MS * 10);
    sim.filter = Some(Box::new(|packet| {
        if packet.kind() == 5 {
            Vec::new()
        } else {
            vec![(MS, packet.clone())]
        }
    }));
    sim.restart_station(0);
    sim.run(MS * 20);
    assert_eq!(sim.info(0).erasing, 1);
    sim.run(MS * 100);
    assert!(sim.workers[&0].cur.is_none() && sim.workers[&0].prev.is_some());
    let info = sim.info(0);
    assert!(info.cur.is_none() && info.prev, "{info:?}");
    // At the Workstation: its MAC address changes while the news that a session is proven travel.
    let mut sim = Sim::new(5, 1);
    sim.run(SECOND);
    sim.worker_delay = MS * 50;
    sim.with_station(0, |station, now| {
        station.frame(now, GATEWAY_MAC, &reset(1, 99))
    });
    let old = sim.session(0);
    while sim.session(0) == old {
        sim.run(MS);
    }
    sim.filter = Some(Box::new(|_| Vec::new()));
    sim.with_station(0, |station, now| {
        station.mac_changed(now, [2, 0, 0, 0, 9, 9])
    });
    sim.run(MS * 100);
    let status = sim.status(0);
    assert!(sim.stations[&0].worker.cur.is_none());
    assert!(!status.connected, "{status:?}");
}

#[test]
fn another_mtu_is_agreed_on_at_once() {
    let mut sim = Sim::new(31, 1);
    sim.run(MS * 500);
    let old = sim.session(0);
    assert!(old.is_some());
    sim.with_station(0, |station, now| station.mtu_changed(now, 1300));
    sim.run(MS * 100);
    assert!(sim.joined(0) && sim.session(0) != old);
    assert_eq!(sim.status(0).parameters.unwrap().mtu, 1300);
    let new = sim.session(0);
    sim.with_station(0, |station, now| station.mtu_changed(now, 1300));
    sim.run(MS * 100);
    assert_eq!(sim.session(0), new, "nothing has changed");
}
