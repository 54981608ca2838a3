//! Several workers on one port, end to end: a veth of four queues, on which `ether` frames come in
//! by one of them. Needs root and the programs (`cargo xtask test` builds them).

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis_xtask::rig::*;

const WORKSTATIONS: usize = 8;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// Eight Workstations, in session with a Gateway of so many workers on a port of four queues.
fn rig(workers: usize) -> Many {
    let mut rig = many_queues(&programs(), WORKSTATIONS, 4).unwrap();
    let text = rig.gateway.configuration(&["lan"]);
    rig.gateway
        .configure(&format!("workers = {workers}\n{text}"))
        .unwrap();
    rig.start().unwrap();
    rig
}

/// What came back of a flow of numbered datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flow {
    sent: u32,
    back: u32,
    out_of_order: u32,
}

/// Sends a numbered datagram each millisecond and compares the echoes, until told to stop.
fn flow(workstation: &Workstation, stop: &Arc<AtomicBool>) -> JoinHandle<Flow> {
    let host = Arc::clone(workstation.namespace());
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let socket = host
            .run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))
            .expect("a socket");
        socket.connect((GATEWAY_V4, 7)).expect("connected");
        let mut flow = Flow::default();
        let mut last = None;
        let mut take = |flow: &mut Flow, wait: Duration| {
            socket.set_read_timeout(Some(wait)).expect("a timeout");
            let mut number = [0; 1024];
            while let Ok(4..) = socket.recv(&mut number) {
                let number = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
                flow.back += 1;
                flow.out_of_order += u32::from(last.replace(number) >= Some(number));
                if flow.back == flow.sent {
                    break;
                }
            }
        };
        while !stop.load(Ordering::Relaxed) {
            let mut datagram = vec![0x5a; 4 + flow.sent as usize % 900];
            datagram[..4].copy_from_slice(&flow.sent.to_be_bytes());
            if socket.send(&datagram).is_ok() {
                flow.sent += 1;
            }
            take(&mut flow, Duration::from_millis(2));
        }
        take(&mut flow, Duration::from_secs(1));
        flow
    })
}

fn total(snapshot: &Snapshot, counter: &str) -> u64 {
    snapshot.value["counters"][counter].as_u64().unwrap_or(0)
}

fn traffic_and_rekeys(workers: usize) {
    let _turn = Serial::acquire().unwrap();
    let mut rig = rig(workers);
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flows: Vec<_> = rig.workstations.iter().map(|w| flow(w, &stop)).collect();
    pause(Duration::from_millis(300)).unwrap();
    for workstation in &mut rig.workstations {
        workstation.rekey().unwrap();
    }
    pause(Duration::from_millis(300)).unwrap();
    stop.store(true, Ordering::Relaxed);
    for (flow, workstation) in flows.into_iter().zip(&rig.workstations) {
        let flow = flow.join().unwrap();
        assert!(flow.sent > 100, "{flow:?}");
        assert_eq!(
            (flow.sent - flow.back, flow.out_of_order),
            (0, 0),
            "{}: {flow:?}\n{}",
            workstation.name(),
            rig.gateway.log_tail()
        );
    }
    let shown = rig.gateway.show().unwrap();
    let port = &shown.value["ports"][0];
    assert_eq!(port["queues"], 4);
    let parts = port["served_by"].as_array().unwrap();
    assert_eq!(parts.len(), workers);
    let mut homes = BTreeSet::new();
    for name in shown.names() {
        let entry = shown.workstation(&name).unwrap();
        homes.insert(entry["worker"].as_u64().unwrap());
        for lost in ["handoff_full", "ring_lost", "host_refused", "tx_full"] {
            assert_eq!(shown.number(&name, lost), 0, "{lost} of {name}");
        }
    }
    assert_eq!(
        homes.len(),
        workers,
        "the Workstations are spread: {homes:?}"
    );
    assert_eq!(total(&shown, "handed_over") > 0, workers > 1);
    let log = std::fs::read_to_string(rig.gateway.directory().join("portcullisd.log")).unwrap();
    let said = log.matches("no rules by source address").count();
    assert_eq!(said, usize::from(workers > 1), "once, if at all");
}

#[test]
fn one_worker_serves_all_queues_in_order_and_without_loss() {
    traffic_and_rekeys(1);
}

#[test]
fn two_workers_serve_a_port_in_order_and_without_loss_over_rekeys() {
    traffic_and_rekeys(2);
}

#[test]
fn four_workers_serve_a_port_in_order_and_without_loss_over_rekeys() {
    traffic_and_rekeys(4);
}

#[test]
fn a_port_of_four_workers_comes_back_from_kill_and_link_and_interface() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = rig(4);
    let back = |rig: &mut Many| {
        for workstation in &mut rig.workstations {
            workstation
                .wait_connected(Duration::from_secs(15))
                .unwrap_or_else(|error| panic!("{error:#}"));
        }
    };
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    back(&mut rig);
    let gw = Arc::clone(rig.gateway.namespace());
    set_link(&gw, "lan", false).unwrap();
    pause(Duration::from_millis(300)).unwrap();
    set_link(&gw, "lan", true).unwrap();
    back(&mut rig);
    // Opened again, for the rings are made for the MTU; all workers' parts of it, and the sessions
    // stay where they are.
    gw.ip("link set dev lan mtu 1600").unwrap();
    wait_for("the port to come back", Duration::from_secs(10), || {
        let shown = rig.gateway.show().ok()?;
        let parts = shown.value["ports"][0]["served_by"].as_array()?.len();
        (parts == 4 && shown.value["ports"][0]["state"] == "up").then_some(())
    })
    .unwrap();
    back(&mut rig);
    gw.ip("link delete dev lan").unwrap();
    pause(Duration::from_millis(300)).unwrap();
    // As few queues as there are then; whoever has none of them any more is served by another.
    rig.lan.plug_queues(&gw, "lan", "gw", 1500, 2).unwrap();
    back(&mut rig);
    let shown = rig.gateway.show().unwrap();
    assert_eq!(
        shown.value["ports"][0]["served_by"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // A Workstation that is removed ends alone.
    rig.gateway.remove("w1").unwrap();
    let mut rest = rig.workstations.split_off(1);
    assert!(!rig.workstations[0].reaches(Duration::from_millis(300)));
    for workstation in &mut rest {
        assert!(workstation.reaches(Duration::from_secs(2)));
    }
}

/// One Workstation sends as much as it can.
#[test]
fn a_flood_costs_no_other_workstation_its_place_at_its_worker() {
    let _turn = Serial::acquire().unwrap();
    let rig = rig(2);
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flooder = Arc::clone(rig.workstations[0].namespace());
    let stopped = Arc::clone(&stop);
    let flood = std::thread::spawn(move || {
        let socket = flooder
            .run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))
            .expect("a socket");
        while !stopped.load(Ordering::Relaxed) {
            let _ = socket.send_to(&[0; 1200], (GATEWAY_V4, 9));
        }
    });
    let flows: Vec<_> = rig.workstations[1..]
        .iter()
        .map(|w| flow(w, &stop))
        .collect();
    pause(Duration::from_secs(2)).unwrap();
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    flows
        .into_iter()
        .for_each(|flow| assert!(flow.join().unwrap().sent > 0));
    let shown = rig.gateway.show().unwrap();
    for name in shown.names() {
        assert_eq!(shown.number(&name, "handoff_full"), 0, "{name}");
    }
}
