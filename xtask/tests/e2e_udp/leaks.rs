//! What leaves a laptop past the tunnel: nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portcullis_xtask::rig::*;
use wire::limits::UDP_PORT;

use crate::start;

/// What leaves the Workstation by either interface and is neither the tunnel's nor what no interface can do without.
fn leaks(networks: &Networks) -> Capture {
    let gateway: Ipv6Addr = WAN[1].parse().unwrap();
    Capture::filtered(networks.workstation.namespace(), None, 20, move |frame| {
        let bytes = &frame.bytes;
        let port = |at: usize| bytes.get(at..at + 2) == Some(&UDP_PORT.to_be_bytes()[..]);
        let to_v4 = bytes.get(30..34) == Some(&[192, 0, 2, 1]);
        let to_v6 = bytes.get(38..54) == Some(&gateway.octets());
        let allowed = match frame.ethertype() {
            0x0806 => true,
            0x0800 => bytes.get(23) == Some(&17) && port(36) && to_v4,
            // Neighbour discovery and MLD.
            0x86dd if bytes.get(20) == Some(&58) => (133..138).contains(&bytes[54]),
            0x86dd if bytes.get(20) == Some(&0) => true,
            0x86dd => bytes.get(20) == Some(&17) && port(56) && to_v6,
            _ => false,
        };
        frame.kind == PacketKind::Outgoing && !allowed
    })
    .unwrap()
}

/// Tries to get out past the tunnel, in the ways that programs have.
fn try_to_leave(networks: &Networks) {
    let host = networks.workstation.namespace();
    let outside = [
        "192.0.2.254",
        "2001:db8:1::fe",
        "192.168.7.1",
        "198.51.100.254",
    ];
    for address in outside {
        let _ = ping(
            host,
            address.parse().unwrap(),
            [56],
            Duration::from_millis(50),
        );
    }
    host.run(|| {
        for address in outside {
            let to = (address.parse::<std::net::IpAddr>().unwrap(), 9);
            let any: std::net::IpAddr = match to.0.is_ipv4() {
                true => Ipv4Addr::UNSPECIFIED.into(),
                false => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = std::net::UdpSocket::bind((any, 0))?;
            let _ = socket.send_to(b"out", to);
            for interface in [LAN, WLAN] {
                let bound = std::net::UdpSocket::bind((any, 0))?;
                let _ = nix::sys::socket::setsockopt(
                    &bound,
                    nix::sys::socket::sockopt::BindToDevice,
                    &interface.into(),
                );
                let _ = bound.send_to(b"out", to);
            }
            let _ = std::net::TcpStream::connect_timeout(&to.into(), Duration::from_millis(50));
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn nothing_but_the_tunnel_leaves_a_laptop_whether_the_agent_runs_or_not() {
    let mut networks = start(false);
    let capture = leaks(&networks);
    let quiet = |networks: &Networks, when: &str| {
        try_to_leave(networks);
        capture.settle().unwrap();
        let leaked = capture.take();
        assert!(leaked.is_empty(), "{when}: {:02x?}", leaked[0].bytes);
        assert_eq!(capture.overruns(), 0, "{when}");
    };
    quiet(&networks, "in session");
    networks.workstation.kill();
    quiet(&networks, "killed");
    networks.elsewhere().unwrap();
    quiet(&networks, "killed, and elsewhere");
    networks.workstation.start().unwrap();
    quiet(&networks, "started again");
    networks.workstation.stop().unwrap();
    networks.at_home().unwrap();
    quiet(&networks, "stopped, and at home again");
    // Without the tunnel's interface too.
    networks
        .workstation
        .namespace()
        .ip("link del portcullis0")
        .unwrap();
    quiet(&networks, "without its interface");
    networks.workstation.start().unwrap();
    quiet(&networks, "and with it again");
    networks.workstation.stop().unwrap();
    // On purpose it is let out again, as it was before.
    let output = networks.workstation.agent("down").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let host = networks.workstation.namespace();
    let ping = ping(
        host,
        "192.0.2.254".parse().unwrap(),
        [56],
        Duration::from_secs(2),
    )
    .unwrap();
    assert_eq!(ping.answered, 1);
    assert!(capture.outgoing() > 0, "what leaves is seen");
}

#[test]
fn a_kill_switch_that_is_not_wanted_any_more_is_taken_away_at_the_next_start() {
    let mut networks = start(false);
    let reaches = |networks: &Networks, address: &str| {
        let host = networks.workstation.namespace();
        let to = address.parse().unwrap();
        let ping = ping(host, to, [56], Duration::from_secs(1)).unwrap();
        ping.answered == 1
    };
    assert!(!reaches(&networks, "192.0.2.254"));
    networks.workstation.stop().unwrap();
    assert!(!reaches(&networks, "192.0.2.254"));
    let text = std::fs::read_to_string(networks.workstation.config()).unwrap();
    let split = "kill_switch = false\nroutes = [\"10.152.128.0/18\"]\n";
    networks
        .workstation
        .configure(&format!("{split}{text}"))
        .unwrap();
    networks.workstation.start().unwrap();
    assert!(reaches(&networks, "192.0.2.254"));
    assert!(reaches(&networks, &GATEWAY_V4.to_string()));
}
