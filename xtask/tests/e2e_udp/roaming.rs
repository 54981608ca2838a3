//! From one network to another, and through NAT that changes its mind.

use std::time::Duration;

use nix::sys::signal::Signal;
use portcullis_xtask::rig::*;

use crate::download::Download;
use crate::{PATIENCE, age, only_v4, probe, start, wait_seen_at};

#[test]
fn another_port_at_the_nat_in_mid_stream_costs_no_more_than_what_is_in_flight() {
    let networks = only_v4();
    let before = wait_seen_at(&networks, &["198.51.100.2:"]);
    let (_echo, probe) = probe(&networks);
    pause(Duration::from_secs(2)).unwrap();
    // The translation is forgotten with the address, and made anew for the other.
    let home = &networks.home;
    home.sysctl("ipv4/conf/hw/promote_secondaries", "1")
        .unwrap();
    home.ip("addr add 198.51.100.3/24 dev hw").unwrap();
    home.ip("addr del 198.51.100.2/24 dev hw").unwrap();
    let after = wait_seen_at(&networks, &["198.51.100.3:"]);
    assert_ne!(before, after);
    pause(Duration::from_secs(1)).unwrap();
    let report = probe.finish();
    println!(
        "{} of {} lost, longest gap {:?}",
        report.lost(),
        report.sent(),
        report.longest_gap()
    );
    assert!(age(&networks) >= 3, "the session is a new one");
    assert!(
        report.lost() <= 20,
        "{} of {} lost",
        report.lost(),
        report.sent()
    );
}

#[test]
fn a_workstation_that_moves_between_networks_and_ip_versions_keeps_its_session() {
    let networks = start(false);
    let (_echo, probe) = probe(&networks);
    pause(Duration::from_secs(1)).unwrap();
    let mut gaps = Vec::new();
    for place in [true, false] {
        let moved = std::time::Instant::now();
        match place {
            true => networks.elsewhere().unwrap(),
            false => networks.at_home().unwrap(),
        }
        let starts: &[&str] = match place {
            true => &["203.0.113.2:", "[2001:db8:3::2]:"],
            false => &["198.51.100.2:", "[2001:db8:7::2]:"],
        };
        let seen = wait_seen_at(&networks, starts);
        gaps.push((seen, moved.elapsed()));
        pause(Duration::from_secs(1)).unwrap();
    }
    assert!(age(&networks) >= 3, "the session is a new one");
    let report = probe.finish();
    println!(
        "{gaps:?}; {} of {} lost, longest gap {:?}",
        report.lost(),
        report.sent(),
        report.longest_gap()
    );
    assert!(
        report.longest_gap() < Duration::from_secs(5),
        "{:?}",
        report.longest_gap()
    );
}

/// What a NAT remembers of a session ends 30 seconds after the last packet: a PING comes before that, and where none
/// could, the session goes on by another port.
#[test]
fn a_nat_that_forgets_after_thirty_seconds_ends_no_session() {
    let mut networks = only_v4();
    let before = wait_seen_at(&networks, &["198.51.100.2:"]);
    let own = networks.workstation.address().unwrap();
    let asked = |networks: &Networks| {
        let gateway = networks.gateway.namespace();
        let ping = ping(gateway, own.into(), [56], Duration::from_millis(500)).unwrap();
        ping.answered == 1
    };
    pause(Duration::from_secs(35)).unwrap();
    assert!(asked(&networks), "after 35 seconds without traffic");
    assert_eq!(networks.seen_at().unwrap(), Some(before.clone()));

    let signal = |networks: &mut Networks, signal| {
        let process = networks.workstation.process().unwrap();
        process.signal(signal).unwrap();
    };
    signal(&mut networks, Signal::SIGSTOP);
    pause(Duration::from_secs(35)).unwrap();
    assert!(!asked(&networks), "the NAT remembers");
    signal(&mut networks, Signal::SIGCONT);
    wait_for("the way back", PATIENCE, || asked(&networks).then_some(())).unwrap();
    assert_ne!(networks.seen_at().unwrap(), Some(before));
    assert!(age(&networks) >= 70, "the session is a new one");
}

/// Where only the other IP version is to be had, the old session's addresses lead nowhere: another takes its place, and
/// what is inside notices a pause.
#[test]
fn a_connection_goes_on_from_ipv4_to_ipv6_and_back() {
    let networks = start(false);
    let host = networks.workstation.namespace();
    let by_v4 = || {
        networks.elsewhere().unwrap();
        host.ip(&format!("-6 addr flush dev {WLAN} scope global"))
            .unwrap();
        wait_seen_at(&networks, &["203.0.113.2:"]);
    };
    let by_v6 = || {
        networks.at_home().unwrap();
        host.ip(&format!("-4 addr flush dev {LAN}")).unwrap();
        wait_seen_at(&networks, &["[2001:db8:7::2]:"]);
    };
    by_v4();
    let download = Download::start(&networks);
    let goes_on = |where_to: &str| {
        let before = download.arrived();
        wait_for(where_to, PATIENCE, || {
            (download.arrived() > before + (1 << 20)).then_some(())
        })
        .unwrap();
    };
    goes_on("the download by IPv4");
    by_v6();
    goes_on("the download by IPv6");
    by_v4();
    goes_on("the download by IPv4 again");
}
