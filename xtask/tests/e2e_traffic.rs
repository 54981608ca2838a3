//! What crosses a tunnel, end to end: every size, both families, over a bad cable, over rekeys.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use portcullis_xtask::middlebox::Impairment;
use portcullis_xtask::rig::*;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

#[test]
fn packets_of_every_size_cross_in_both_directions_and_families() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let mtu = rig.workstation.tunnel_mtu().unwrap();
    assert!(mtu >= 1280, "IPv6 needs 1280, the tunnel's MTU is {mtu}");
    let host = rig.workstation.namespace();
    let wait = Duration::from_secs(1);
    let v4 = ping(host, GATEWAY_V4.into(), 0..=mtu - 28, wait).unwrap();
    assert_eq!(v4.answered, v4.sent, "IPv4");
    let v6 = ping(host, GATEWAY_V6.into(), 0..=mtu - 48, wait).unwrap();
    assert_eq!(v6.answered, v6.sent, "IPv6");
    let fragmented = ping(host, GATEWAY_V4.into(), [2 * mtu, 9000], wait).unwrap();
    assert_eq!(fragmented.answered, 2, "larger than the tunnel's MTU");
}

#[test]
fn datagrams_of_every_size_come_back_as_they_were() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let host = rig.workstation.namespace();
    let most = rig.workstation.tunnel_mtu().unwrap() - 28;
    let socket = host
        .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.connect((GATEWAY_V4, 7)).unwrap();
    let mut buffer = [0; 2048];
    for size in 0..=most {
        let datagram: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
        socket.send(&datagram).unwrap();
        let got = socket.recv(&mut buffer);
        assert_eq!(got.as_ref().ok(), Some(&size), "{size} bytes: {got:?}");
        assert_eq!(&buffer[..size], datagram, "{size} bytes came back changed");
    }
}

#[test]
fn tcp_is_whole_over_a_cable_that_loses_duplicates_and_reorders() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = tapped(&programs(), 42, Impairment::default()).unwrap();
    rig.single.start().unwrap();
    let _http = HttpServer::start(rig.single.gateway.namespace(), 8080).unwrap();
    rig.middlebox.impair(Impairment {
        loss: 0.005,
        duplication: 0.01,
        reordering: 0.02,
        hold: Duration::from_millis(2),
        ..Impairment::default()
    });
    let host = rig.single.workstation.namespace();
    let size = 8 << 20;
    let got = download(host, (GATEWAY_V4.into(), 8080), size, &AtomicU64::new(0)).unwrap();
    assert_eq!(got.sha256, body_sha256(size));
    assert!(
        rig.middlebox.lost().iter().sum::<u64>() > 10,
        "the cable was not bad"
    );
}

#[test]
fn a_session_comes_about_over_a_cable_that_loses_a_third_of_all_frames() {
    let _turn = Serial::acquire().unwrap();
    let lossy = Impairment {
        loss: 0.33,
        duplication: 0.1,
        ..Impairment::default()
    };
    let mut rig = tapped(&programs(), 7, lossy).unwrap();
    rig.single.gateway.start().unwrap();
    let file = rig.single.gateway.add("ws1").unwrap();
    rig.single.workstation.enroll(&file).unwrap();
    rig.single.workstation.launch().unwrap();
    rig.single
        .workstation
        .wait_connected(Duration::from_secs(30))
        .unwrap();
}

#[test]
fn a_rekey_loses_no_datagram() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let host = std::sync::Arc::clone(rig.workstation.namespace());
    let probe = Probe::start(&host, to, Duration::from_millis(1), 200).unwrap();
    for _ in 0..8 {
        pause(Duration::from_millis(100)).unwrap();
        rig.workstation.rekey().unwrap();
    }
    pause(Duration::from_millis(100)).unwrap();
    let report = probe.finish();
    assert!(report.sent() > 500, "{} datagrams", report.sent());
    assert_eq!(report.lost(), 0, "of {} datagrams", report.sent());
}
