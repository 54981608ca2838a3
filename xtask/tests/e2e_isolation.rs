//! What others on the same LAN can do to a Workstation and to the Gateway, end to end: nothing.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_xtask::attack::{Bounds, every, flood, table, udp_v4};
use portcullis_xtask::rig::*;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// What docs/threat-model.md says of each attack, against real programs.
#[test]
fn every_attack_fails_as_the_threat_model_says() {
    let _turn = Serial::acquire().unwrap();
    // A rate that a loaded machine has room for beside the victim's stream.
    let bounds = Bounds {
        frames: 60_000,
        time: Duration::from_secs(2),
        rate: 100_000,
    };
    let mut outcomes = Vec::new();
    let mut rig = demo(&programs()).unwrap();
    every(&mut rig, bounds, |_| true, &mut outcomes).unwrap();
    let broken: Vec<String> = outcomes
        .iter()
        .flat_map(|o| o.broken.iter().map(|b| format!("{}: {b}", o.name)))
        .collect();
    assert!(
        broken.is_empty(),
        "{}\n{}",
        broken.join("\n"),
        table(&outcomes)
    );
}

/// Property 6: an insider that floods.
#[test]
fn two_that_flood_their_tunnels_do_not_take_the_third_ones_share() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 3).unwrap();
    rig.start().unwrap();
    let _http = HttpServer::start(rig.gateway.namespace(), 8080).unwrap();
    let [one, two, three] = &rig.workstations[..] else {
        panic!("three Workstations");
    };
    // Two megabytes a second is far below a third of what the machine can do.
    let stream = Stream::start(
        Arc::clone(three.namespace()),
        (GATEWAY_V4.into(), 8080),
        2_000_000,
    );
    wait_for("the stream", Duration::from_secs(5), || {
        (stream.received() > 0).then_some(())
    })
    .unwrap();
    let time = Duration::from_secs(4);
    let (start, before) = (Instant::now(), stream.received());
    std::thread::scope(|scope| {
        for workstation in [one, two] {
            let socket = PacketSocket::sender(workstation.namespace(), HOST_INTERFACE).unwrap();
            let packet = udp_v4(workstation.address().unwrap(), GATEWAY_V4, 4444, &[0; 1000]);
            scope.spawn(move || {
                let sent = flood(&socket, Bounds::full_speed(time), |_, buffer| {
                    if buffer.is_empty() {
                        buffer.extend(&packet);
                    }
                });
                assert!(sent > 1000, "the flood was only {sent} packets");
            });
        }
    });
    let rate = (stream.received() - before) as f64 / start.elapsed().as_secs_f64();
    assert!(
        rate > 1_600_000.0,
        "{rate:.0} of 2,000,000 bytes a second were left"
    );
    let snapshot = rig.gateway.show().unwrap();
    let names = snapshot.names();
    assert!(
        names.iter().all(|name| snapshot.in_session(name)),
        "a session ended"
    );
}

#[test]
fn a_workstation_does_not_reach_another() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    // A Gateway that forwards is the worst case.
    let gateway = rig.gateway.namespace();
    gateway.sysctl("ipv4/ip_forward", "1").unwrap();
    let [one, two] = &rig.workstations[..] else {
        panic!("two Workstations");
    };
    let to = IpAddr::from(two.address().unwrap());
    let at_two = Capture::filtered(two.namespace(), Some(HOST_INTERFACE), 4, |frame| {
        frame.kind == PacketKind::Incoming
    })
    .unwrap();
    let got = ping(one.namespace(), to, [8; 5], Duration::from_millis(200)).unwrap();
    at_two.settle().unwrap();
    assert_eq!((got.answered, at_two.incoming()), (0, 0));
}

/// Property 8.
#[test]
fn a_removed_workstation_is_out_before_the_call_returns() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let every = Duration::from_millis(1);
    let probes: Vec<Probe> = rig
        .workstations
        .iter()
        .map(|w| Probe::start(w.namespace(), to, every, 64).unwrap())
        .collect();
    pause(Duration::from_millis(300)).unwrap();
    rig.gateway.remove("w1").unwrap();
    let returned = Instant::now();
    assert_eq!(rig.gateway.show().unwrap().names(), ["w2"]);
    pause(Duration::from_millis(1500)).unwrap();
    let reports: Vec<ProbeReport> = probes.into_iter().map(Probe::finish).collect();
    assert_eq!(
        reports[0].recovered_after(returned),
        None,
        "w1 was heard after its removal"
    );
    assert!(reports[0].sent() > reports[0].lost(), "w1 was heard before");
    assert_eq!(
        reports[1].lost(),
        0,
        "w2 lost datagrams by the removal of w1"
    );
    // Nor does it come back by itself.
    assert!(!rig.workstations[0].reaches(Duration::from_millis(500)));
}

#[test]
fn a_workstation_is_served_on_any_port_whichever_worker_has_that_port() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = demo(&programs()).unwrap();
    let text = rig.gateway.configuration(&["ws1", "lan"]);
    rig.gateway
        .configure(&format!("workers = 2\n{text}"))
        .unwrap();
    rig.start().unwrap();
}
