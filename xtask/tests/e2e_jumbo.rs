//! Jumbo frames, end to end: cables of MTU 9000, where a frame of the tunnel comes in several pieces.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use portcullis_xtask::rig::*;

const WAIT: Duration = Duration::from_secs(1);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// A Gateway and a Workstation on a cable whose ends have these MTUs. Nothing runs yet.
fn cabled(gateway: u32, workstation: u32) -> Single {
    let rig = single(&programs()).unwrap();
    set_mtu(rig.gateway.namespace(), "ws1", gateway);
    set_mtu(rig.workstation.namespace(), "cable0", workstation);
    rig
}

fn set_mtu(host: &Namespace, interface: &str, mtu: u32) {
    host.ip(&format!("link set dev {interface} mtu {mtu}"))
        .unwrap();
}

/// Waits until the tunnel's host interface has this MTU at both ends.
#[track_caller]
fn tunnel_mtu_becomes(rig: &Single, mtu: u32) {
    for host in [rig.gateway.namespace(), rig.workstation.namespace()] {
        let what = format!("the tunnel's MTU to be {mtu} at {}", host.label());
        wait_for(&what, Duration::from_secs(10), || {
            let shown = host.ip(&format!("link show dev {HOST_INTERFACE}")).ok()?;
            shown.contains(&format!("mtu {mtu} ")).then_some(())
        })
        .unwrap();
    }
}

/// Pings both ends' kernels must not cut, of these payload sizes, in both families.
#[track_caller]
fn pings_cross_whole(rig: &Single, mtu: usize) {
    let host = rig.workstation.namespace();
    for payload in [0, 1400, 3700, 3800, 4000, 4096, 7600, 8000, 8900] {
        if payload + 28 <= mtu {
            host.exec(
                "ping",
                &format!("-c 1 -W 1 -M do -s {payload} {GATEWAY_V4}"),
            )
            .unwrap();
        }
    }
    let most = mtu - 28;
    host.exec("ping", &format!("-c 3 -W 1 -M do -s {most} {GATEWAY_V4}"))
        .unwrap();
    let larger = host.exec(
        "ping",
        &format!("-c 1 -W 1 -M do -s {} {GATEWAY_V4}", most + 1),
    );
    assert!(larger.is_err(), "larger than the tunnel's MTU");
    let sizes = || (0..=mtu - 48).step_by(97).chain(mtu - 60..=mtu - 48);
    for to in [IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6)] {
        let found = ping(host, to, sizes(), WAIT).unwrap();
        assert_eq!(found.answered, found.sent, "{to}");
    }
}

/// TCP both ways, every byte compared.
#[track_caller]
fn tcp_is_whole_both_ways(rig: &Single) {
    let (gw, ws) = (rig.gateway.namespace(), rig.workstation.namespace());
    let size = 16 << 20;
    for (server, client, to) in [
        (gw, ws, GATEWAY_V4),
        (ws, gw, rig.workstation.address().unwrap()),
    ] {
        let _http = HttpServer::start(server, 8080).unwrap();
        let got = download(client, (to.into(), 8080), size, &AtomicU64::new(0)).unwrap();
        assert_eq!(got.sha256, body_sha256(size), "from {}", server.label());
    }
}

/// Bytes and frames an interface has received.
fn received(host: &Namespace, interface: &str) -> (u64, u64) {
    let text = host
        .ip(&format!("-s -j link show dev {interface}"))
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let field = |name| value[0]["stats64"]["rx"][name].as_u64().unwrap();
    (field("bytes"), field("packets"))
}

/// Ring losses of the Gateway's port: none.
#[track_caller]
fn nothing_was_lost(rig: &Single) {
    let shown = rig.gateway.show().unwrap();
    let losses = shown.value["ports"][0]["ring_losses"].as_object().unwrap();
    assert!(!losses.is_empty());
    assert!(losses.values().all(|count| *count == 0), "{losses:?}");
}

#[test]
fn a_cable_of_mtu_9000_carries_packets_of_8960_bytes_in_frames_of_9014() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = cabled(9000, 9000);
    rig.start().unwrap();
    tunnel_mtu_becomes(&rig, 8960);
    pings_cross_whole(&rig, 8960);

    let ws = Arc::clone(rig.workstation.namespace());
    let before = received(&ws, "cable0");
    tcp_is_whole_both_ways(&rig);
    let after = received(&ws, "cable0");
    let (bytes, frames) = (after.0 - before.0, after.1 - before.1);
    assert!(
        bytes / frames > 4000,
        "{bytes} bytes in {frames} frames, acknowledgements among them"
    );

    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let socket = ws.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect((GATEWAY_V4, 7)).unwrap();
    let mut buffer = vec![0; 65_536];
    // Small and large ones mixed, each compared.
    for turn in 0..4000_usize {
        let size = [1, 100, 1472, 3748, 3749, 3750, 7000, 8932][turn % 8];
        let datagram: Vec<u8> = (0..size).map(|at| (at * 7 + turn) as u8).collect();
        socket.send(&datagram).unwrap();
        let got = socket.recv(&mut buffer);
        assert_eq!(got.as_ref().ok(), Some(&size), "{size} bytes: {got:?}");
        assert_eq!(&buffer[..size], datagram, "{size} bytes came back changed");
    }
    let both = iperf3(rig.gateway.namespace(), &ws, GATEWAY_V4.into(), 3).unwrap();
    assert!(both.up > 1e8 && both.down > 1e8, "{both:?}");
    nothing_was_lost(&rig);
}

#[test]
fn padding_to_the_full_mtu_fills_jumbo_frames() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = cabled(9000, 9000);
    rig.gateway.start().unwrap();
    let file = rig.gateway.directory().join("padded.enrolment");
    rig.gateway
        .cli(&format!(
            "workstation add ws1 --allow any --padding full --output {}",
            file.display()
        ))
        .unwrap();
    rig.workstation.enroll(&file).unwrap();
    rig.workstation.start().unwrap();
    tunnel_mtu_becomes(&rig, 8960);
    pings_cross_whole(&rig, 8960);
    tcp_is_whole_both_ways(&rig);
    let ws = rig.workstation.namespace();
    let before = received(ws, "cable0");
    let found = ping(ws, GATEWAY_V4.into(), [10; 20], WAIT).unwrap();
    assert_eq!(found.answered, 20);
    let after = received(ws, "cable0");
    assert!(after.0 - before.0 >= 20 * 9000, "small packets are padded");
}

#[test]
fn ends_of_different_mtu_agree_on_the_smaller_one() {
    for (gateway, workstation) in [(9000, 1500), (1500, 9000), (9000, 5000)] {
        let _turn = Serial::acquire().unwrap();
        let mut rig = cabled(gateway, workstation);
        rig.start().unwrap();
        let agreed = gateway.min(workstation) - 40;
        let shown = rig.workstation.tunnel_mtu().unwrap();
        assert_eq!(shown, agreed as usize, "{gateway} and {workstation}");
        let ws = rig.workstation.namespace();
        ws.exec(
            "ping",
            &format!("-c 2 -W 1 -M do -s {} {GATEWAY_V4}", agreed - 28),
        )
        .unwrap();
        tcp_is_whole_both_ways(&rig);
    }
}

#[test]
fn an_mtu_changed_from_1500_to_9000_and_back_under_traffic_is_followed() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = cabled(1500, 1500);
    rig.start().unwrap();
    let _http = HttpServer::start(rig.gateway.namespace(), 8081).unwrap();
    let gw = Arc::clone(rig.gateway.namespace());
    let ws = Arc::clone(rig.workstation.namespace());
    let stream = Stream::start(Arc::clone(&ws), (GATEWAY_V4.into(), 8081), 4 << 20);
    for mtu in [9000, 1500, 9000, 1500] {
        set_mtu(&gw, "ws1", mtu);
        set_mtu(&ws, "cable0", mtu);
        tunnel_mtu_becomes(&rig, mtu - 40);
        rig.workstation
            .wait_connected(Duration::from_secs(10))
            .unwrap();
        pings_cross_whole(&rig, mtu as usize - 40);
        tcp_is_whole_both_ways(&rig);
        let before = stream.received();
        wait_for("the download to go on", Duration::from_secs(10), || {
            (stream.received() > before + (1 << 20)).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_wall_in_the_stack_carries_jumbo_frames_too() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = cabled(9000, 9000);
    let text = rig.gateway.configuration(&["ws1"]);
    rig.gateway
        .configure(&format!("{text}xdp = \"generic\"\n"))
        .unwrap();
    rig.start().unwrap();
    pings_cross_whole(&rig, 8960);
    tcp_is_whole_both_ways(&rig);
}

#[test]
fn an_mtu_beyond_9000_is_refused_in_words_and_taken_up_once_it_is_lower() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = cabled(9001, 9000);
    let refusal = rig.gateway.start().unwrap_err().to_string();
    for said in ["9001", "ip link set dev ws1 mtu 9000"] {
        assert!(refusal.contains(said), "{refusal}");
    }
    set_mtu(rig.gateway.namespace(), "ws1", 9000);
    rig.start().unwrap();
    // The same while it runs: it says so, and carries on once it can.
    set_mtu(rig.gateway.namespace(), "ws1", 9001);
    wait_for("the port to say why", Duration::from_secs(10), || {
        let shown = rig.gateway.cli("--json show").ok()?;
        shown.contains("mtu 9000").then_some(())
    })
    .unwrap();
    set_mtu(rig.gateway.namespace(), "ws1", 9000);
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}
