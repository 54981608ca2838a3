//! Workstations over networks: the tunnel in UDP, through NAT and from place to place. Needs root and the
//! programs (`cargo xtask test` builds them).

mod download;
mod fast_path;
mod leaks;
mod path_mtu;
mod roaming;
mod strangers;

use std::io::Read;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use portcullis_xtask::rig::*;
use wire::limits::UDP_PORT;

const PATIENCE: Duration = Duration::from_secs(20);

fn start(shared: bool) -> Networks {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), shared).unwrap();
    networks.start().unwrap();
    networks
}

fn verdicts(networks: &Networks) -> std::collections::BTreeMap<String, u64> {
    networks.gateway.show().unwrap().verdicts("wan")
}

/// All that should pass passes: pings of both families up to the MTU, and TCP both ways.
fn passes(networks: &Networks) {
    let host = networks.workstation.namespace();
    let mtu = networks.workstation.tunnel_mtu().unwrap();
    for (to, header) in [(GATEWAY_V4.into(), 28), (GATEWAY_V6.into(), 48)] {
        let sizes = [0, 1, 500, mtu - header];
        let ping = ping(host, to, sizes, Duration::from_secs(2)).unwrap();
        assert_eq!((ping.sent, ping.answered), (4, 4), "to {to}");
    }
    let rates = iperf3(networks.gateway.namespace(), host, GATEWAY_V4.into(), 1).unwrap();
    assert!(rates.up > 1e6 && rates.down > 1e6, "{rates:?}");
}

/// An echo server on the Gateway, and a probe of it through the tunnel.
fn probe(networks: &Networks) -> (Echo, Probe) {
    let echo = Echo::start(networks.gateway.namespace(), 7).unwrap();
    let host = networks.workstation.namespace();
    let every = Duration::from_millis(5);
    let probe = Probe::start(host, (GATEWAY_V4.into(), 7), every, 200).unwrap();
    (echo, probe)
}

fn wait_seen_at(networks: &Networks, start: &[&str]) -> String {
    wait_for(
        &format!("the Workstation to be seen at {start:?}"),
        PATIENCE,
        || {
            let seen = networks.seen_at().unwrap()?;
            start
                .iter()
                .any(|start| seen.starts_with(start))
                .then_some(seen)
        },
    )
    .unwrap()
}

fn only_v4() -> Networks {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), false).unwrap();
    networks.reach_by(WAN[0]).unwrap();
    networks.start().unwrap();
    networks
}

/// How old the session is, in seconds: it goes on.
fn age(networks: &Networks) -> u64 {
    let show = networks.gateway.show().unwrap();
    let one = show.workstation("ws1").unwrap();
    one["session"]["age_seconds"].as_u64().unwrap()
}

#[test]
fn a_gateway_that_is_killed_and_started_again_is_found_within_seven_seconds() {
    let mut networks = start(false);
    let (_echo, probe) = probe(&networks);
    pause(Duration::from_secs(1)).unwrap();
    networks.gateway.kill();
    let killed = std::time::Instant::now();
    networks.gateway.start().unwrap();
    wait_for("the tunnel after a restart", PATIENCE, || {
        networks
            .workstation
            .reaches(Duration::from_millis(100))
            .then_some(())
    })
    .unwrap();
    println!("reached again after {:?}", killed.elapsed());
    pause(Duration::from_millis(200)).unwrap();
    let report = probe.finish();
    let after = report.recovered_after(killed).unwrap();
    println!("traffic waited {after:?}");
    assert!(after < Duration::from_secs(7), "{after:?}");
}

#[test]
fn the_kernel_has_a_shared_port_but_for_the_tunnels_datagrams() {
    let networks = start(true);
    passes(&networks);
    let (gateway, outside) = (networks.gateway.namespace(), &networks.internet);
    for address in WAN {
        let address = address.parse().unwrap();
        let ping = ping(outside, address, [0, 1400, 3000], Duration::from_secs(2)).unwrap();
        assert_eq!(ping.answered, 3, "{address}");
        let rates = iperf3(gateway, outside, address, 1).unwrap();
        assert!(rates.up > 1e7 && rates.down > 1e7, "{rates:?}");
    }
    let _echo = Echo::start(gateway, 7).unwrap();
    let probe = Probe::start(
        outside,
        (WAN[0].parse().unwrap(), 7),
        Duration::from_millis(5),
        3000,
    )
    .unwrap();
    pause(Duration::from_secs(1)).unwrap();
    let report = probe.finish();
    assert!(
        report.sent() > 50 && report.lost() == 0,
        "datagrams in fragments: {report:?}"
    );
    let counted = verdicts(&networks);
    assert!(
        counted["passed"] > 1000 && counted["admitted"] > 1000,
        "{counted:?}"
    );
    // It is said wherever somebody looks.
    let shown = networks.gateway.cli("show").unwrap();
    assert!(shown.contains("shared"), "{shown}");
    // The interface is left as it is when the daemon stops, and when the wall is taken down.
    let mut networks = networks;
    networks.gateway.stop().unwrap();
    let answers = |networks: &Networks| {
        let to = WAN[0].parse().unwrap();
        let ping = ping(&networks.internet, to, [56], Duration::from_secs(1)).unwrap();
        ping.answered == 1
    };
    assert!(answers(&networks));
    let lowered = networks.gateway.daemon().arg("--lower").output().unwrap();
    assert!(lowered.status.success(), "{lowered:?}");
    assert!(answers(&networks));
    let link = networks
        .gateway
        .namespace()
        .ip("-d link show dev wan")
        .unwrap();
    assert!(!link.contains("xdp"), "{link}");
}

/// A name server's answer changes while the Gateway moves.
#[test]
fn a_gateway_whose_name_has_another_address_is_found_there() {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    let mut networks = networks(&programs, false).unwrap();
    networks
        .internet
        .ip("addr add 192.0.2.53/24 dev ig")
        .unwrap();
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let server = NameServer::at(
        &networks.internet,
        address("192.0.2.53"),
        "gw.example",
        address("192.0.2.9"),
    )
    .unwrap();
    networks.reach_by("gw.example").unwrap();
    networks
        .workstation
        .name_server(address("192.0.2.53"))
        .unwrap();
    networks.gateway.start().unwrap();
    let file = networks.gateway.add("ws1").unwrap();
    networks.workstation.enroll(&file).unwrap();
    networks.workstation.launch().unwrap();
    // Nobody is at the address that the name has now.
    pause(Duration::from_secs(2)).unwrap();
    assert!(!networks.workstation.reaches(Duration::from_millis(200)));
    server.change(address(WAN[0]));
    let waited = networks.workstation.agent("status --wait 30").output();
    assert!(waited.unwrap().status.success());
    let status = networks.workstation.status().unwrap();
    assert_eq!(status["gateway"], format!("{}:{UDP_PORT}", WAN[0]));
}

#[test]
fn loss_delay_duplication_and_reordering_are_got_through() {
    use portcullis_xtask::middlebox::Impairment;
    let mut networks = only_v4();
    networks.middlebox.impair(Impairment {
        loss: 0.05,
        duplication: 0.2,
        reordering: 0.05,
        hold: Duration::from_millis(30),
        delay: Duration::from_millis(100),
        ..Impairment::default()
    });
    networks.workstation.rekey().unwrap();
    networks.workstation.stop().unwrap();
    networks.workstation.start().unwrap();
    let mut watch = networks
        .workstation
        .agent("watch --verdict replayed --count 1");
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let ping = ping(
        networks.workstation.namespace(),
        GATEWAY_V4.into(),
        [56; 60],
        Duration::from_secs(1),
    )
    .unwrap();
    assert!(ping.answered >= 36, "{ping:?}");
    let counted = networks.gateway.show().unwrap();
    assert_eq!(counted.number("ws1", "open_failed"), 0);
    assert!(counted.number("ws1", "replayed") > 0, "copies are seen");
    // Which is to be seen at the Workstation too.
    wait_for("a copy that is shown", PATIENCE, || {
        watch.try_wait().unwrap()
    })
    .unwrap();
    let mut shown = String::new();
    watch.stdout.unwrap().read_to_string(&mut shown).unwrap();
    let endpoint = format!(" {}:{UDP_PORT} replayed", WAN[0]);
    assert!(
        shown.contains(&endpoint) && shown.contains("Portcullis Data"),
        "{shown}"
    );
}

#[test]
fn a_workstation_behind_nat_has_the_tunnel_and_xdp_lets_nothing_else_in() {
    let networks = start(false);
    passes(&networks);
    let seen = networks.seen_at().unwrap().unwrap();
    assert!(
        seen.starts_with("198.51.100.2:") || seen.starts_with("[2001:db8:7::2]:"),
        "{seen}"
    );
    // The router has asked for the Gateway's address, and nobody but XDP has answered.
    let counted = verdicts(&networks);
    assert!(counted["answered"] > 0, "{counted:?}");
    assert!(counted["admitted"] > 1000, "{counted:?}");
    assert_eq!(counted["passed"], 0);
}
