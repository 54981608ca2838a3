//! Coming back, end to end: restarts in every order, links that go down, interfaces that go away.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;

const ECHO: (std::net::IpAddr, u16) = (std::net::IpAddr::V4(GATEWAY_V4), 7);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

#[test]
fn sixty_four_workstations_are_back_within_a_second_of_a_killed_gateway() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 64).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), ECHO.1).unwrap();
    let every = Duration::from_millis(20);
    let probes: Vec<Probe> = rig
        .workstations
        .iter()
        .map(|w| Probe::start(w.namespace(), ECHO, every, 64).unwrap())
        .collect();
    pause(Duration::from_millis(500)).unwrap();
    rig.gateway.kill();
    let started = Instant::now();
    rig.gateway.launch().unwrap();
    pause(Duration::from_secs(4)).unwrap();
    let mut slow = Vec::new();
    for (probe, workstation) in probes.into_iter().zip(&rig.workstations) {
        match probe.finish().recovered_after(started) {
            Some(after) if after <= Duration::from_secs(1) + every => {}
            after => slow.push(format!("{} after {after:?}", workstation.name())),
        }
    }
    assert!(
        slow.is_empty(),
        "{} of 64 took longer: {}\n{}",
        slow.len(),
        slow.join(", "),
        rig.gateway.log_tail()
    );
}

#[test]
fn a_link_that_goes_down_under_load_and_comes_up_carries_again() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let _http = HttpServer::start(rig.gateway.namespace(), 8080).unwrap();
    let load = Stream::start(
        Arc::clone(rig.workstation.namespace()),
        (GATEWAY_V4.into(), 8080),
        20_000_000,
    );
    wait_for("the load", Duration::from_secs(5), || {
        (load.received() > 0).then_some(())
    })
    .unwrap();
    let ends = [
        (Arc::clone(rig.gateway.namespace()), "ws1"),
        (Arc::clone(rig.workstation.namespace()), "cable0"),
    ];
    for (host, interface) in ends.iter().chain(&ends) {
        set_link(host, interface, false).unwrap();
        pause(Duration::from_millis(300)).unwrap();
        set_link(host, interface, true).unwrap();
        let up = Instant::now();
        rig.workstation
            .wait_connected(Duration::from_secs(5))
            .unwrap();
        let after = up.elapsed();
        assert!(after < Duration::from_secs(2), "{interface}: {after:?}");
        let before = load.received();
        wait_for("the load to go on", Duration::from_secs(10), || {
            (load.received() > before + 1_000_000).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn an_interface_that_is_removed_and_added_again_carries_again() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let gw = Arc::clone(rig.gateway.namespace());
    let ws = Arc::clone(rig.workstation.namespace());
    for _ in 0..2 {
        gw.ip("link delete dev ws1").unwrap();
        pause(Duration::from_millis(300)).unwrap();
        assert!(
            rig.gateway.process().unwrap().exited().is_none(),
            "{}",
            rig.gateway.log_tail()
        );
        // Down: whoever owns the port brings it up once its wall stands.
        veth((&gw, "ws1"), (&ws, "cable0"), 1500).unwrap();
        rig.workstation
            .wait_connected(Duration::from_secs(15))
            .unwrap();
    }
}

/// Who goes and comes, in which order.
#[derive(Debug, Clone, Copy)]
enum Move {
    KillGateway,
    StopGateway,
    StartGateway,
    KillAgent,
    StopAgent,
    StartAgent,
}

#[test]
fn gateway_and_agent_find_each_other_whoever_restarts_first() {
    use Move::*;
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let orders: &[&[Move]] = &[
        &[StopGateway, StartGateway],
        &[KillGateway, StartGateway],
        &[StopAgent, StartAgent],
        &[KillAgent, StartAgent],
        &[StopGateway, StopAgent, StartGateway, StartAgent],
        &[StopGateway, StopAgent, StartAgent, StartGateway],
        &[KillGateway, KillAgent, StartGateway, StartAgent],
        &[KillAgent, KillGateway, StartAgent, StartGateway],
        &[StopAgent, KillGateway, StartGateway, StartAgent],
        &[KillGateway, StartGateway, KillAgent, StartAgent],
    ];
    for order in orders {
        for step in *order {
            match step {
                KillGateway => rig.gateway.kill(),
                StopGateway => rig.gateway.stop().unwrap(),
                StartGateway => rig.gateway.launch().unwrap(),
                KillAgent => rig.workstation.kill(),
                StopAgent => rig.workstation.stop().unwrap(),
                StartAgent => rig.workstation.launch().unwrap(),
            }
            // Long enough for the one that is left to notice, and to be wrong about it.
            pause(Duration::from_millis(200)).unwrap();
        }
        let all = Instant::now();
        rig.workstation
            .wait_connected(Duration::from_secs(10))
            .unwrap_or_else(|error| panic!("{order:?}: {error:#}\n{}", rig.gateway.log_tail()));
        assert!(
            all.elapsed() < Duration::from_secs(5),
            "{order:?}: {:?}",
            all.elapsed()
        );
    }
}

#[test]
fn an_agent_that_has_waited_long_for_its_gateway_connects_at_once() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    rig.gateway.stop().unwrap();
    rig.workstation.stop().unwrap();
    rig.workstation.launch().unwrap();
    // Its timer has backed off by now.
    pause(Duration::from_secs(8)).unwrap();
    rig.gateway.start().unwrap();
    let up = Instant::now();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
    assert!(up.elapsed() < Duration::from_secs(1), "{:?}", up.elapsed());
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn an_agent_whose_port_is_added_again_while_it_looks_for_its_gateway_connects() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let gw = Arc::clone(rig.gateway.namespace());
    let ws = Arc::clone(rig.workstation.namespace());
    rig.gateway.stop().unwrap();
    rig.workstation.stop().unwrap();
    rig.workstation.launch().unwrap();
    pause(Duration::from_millis(500)).unwrap();
    let mac = mac_text(mac_of(&ws, "cable0").unwrap());
    ws.ip("link delete dev cable0").unwrap();
    pause(Duration::from_millis(300)).unwrap();
    // With the same MAC address: to the state machine nothing has changed.
    gw.ip(&format!(
        "link add ws1 type veth peer name cable0 address {mac} netns {}",
        ws.name()
    ))
    .unwrap();
    rig.gateway.launch().unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}

#[test]
fn a_port_whose_mtu_mac_address_or_name_changes_while_it_is_up_carries_on() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let gw = Arc::clone(rig.gateway.namespace());
    let ws = Arc::clone(rig.workstation.namespace());
    gw.ip("link set dev ws1 mtu 1400").unwrap();
    ws.ip("link set dev cable0 mtu 1400").unwrap();
    for host in [&gw, &ws] {
        wait_for("the host interface's MTU", Duration::from_secs(5), || {
            let shown = host.ip(&format!("link show dev {HOST_INTERFACE}")).ok()?;
            shown.contains("mtu 1360 ").then_some(())
        })
        .unwrap();
    }
    for (host, interface, mac) in [
        (&ws, "cable0", "02:00:00:00:aa:01"),
        (&gw, "ws1", "02:00:00:00:aa:02"),
    ] {
        host.ip(&format!("link set dev {interface} address {mac}"))
            .unwrap();
        let changed = Instant::now();
        pause(Duration::from_millis(100)).unwrap();
        rig.workstation
            .wait_connected(Duration::from_secs(10))
            .unwrap();
        let after = changed.elapsed();
        assert!(after < Duration::from_secs(5), "{interface}: {after:?}");
    }
    gw.ip("link set dev ws1 name other").unwrap();
    wait_for("the port to be missed", Duration::from_secs(5), || {
        let shown = rig.gateway.cli("--json show").ok()?;
        shown.contains("\"missing\"").then_some(())
    })
    .unwrap();
    gw.ip("link set dev other name ws1").unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}

#[test]
fn a_daemon_whose_host_interface_is_deleted_ends_as_failed_so_that_it_is_started_again() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    for host in [rig.gateway.namespace(), rig.workstation.namespace()] {
        host.ip(&format!("link delete dev {HOST_INTERFACE}"))
            .unwrap();
    }
    let time = Duration::from_secs(5);
    let gateway = rig.gateway.process().unwrap().wait(time).unwrap();
    let agent = rig.workstation.process().unwrap().wait(time).unwrap();
    assert_eq!((gateway.code(), agent.code()), (Some(1), Some(1)));
    assert!(rig.gateway.log_tail().contains("host interface"));
    rig.gateway.launch().unwrap();
    rig.workstation.launch().unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}

#[test]
fn walls_that_a_stopped_gateway_has_left_are_taken_down_on_demand() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let host = Arc::clone(rig.gateway.namespace());
    let lower = |rig: &Single| rig.gateway.daemon().arg("--lower").output().unwrap();
    let refused = lower(&rig);
    assert!(!refused.status.success(), "a daemon runs");
    rig.gateway.stop().unwrap();
    let stands = || host.ip("link show dev ws1").unwrap().contains("xdp");
    assert!(stands());
    assert!(lower(&rig).status.success());
    assert!(!stands() && host.ip("link show dev ws1").unwrap().contains("state DOWN"));
    rig.gateway.start().unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}
