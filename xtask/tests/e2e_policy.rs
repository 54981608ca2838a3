//! What a Workstation can reach through its tunnel, end to end: what its rules say and nothing else.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis_xtask::attack::udp_v4;
use portcullis_xtask::rig::*;

/// How long an answer is waited for that should come, and one that should not.
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);
/// An address on the Internet, as the Workstations see it.
const FAR: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// Listens for TCP on every address of a host, and sends back the first bytes of each connection.
fn listen(host: &Namespace, port: u16) -> JoinHandle<()> {
    let listener = host
        .run(|| Ok(TcpListener::bind(format!("[::]:{port}"))?))
        .unwrap();
    // It ends with the test's process; what it serves ends with the connection.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = [0; 8];
            if stream.read_exact(&mut bytes).is_ok() {
                let _ = stream.write_all(&bytes);
            }
        }
    })
}

/// Whether eight bytes come back over TCP.
fn tcp(host: &Namespace, to: (IpAddr, u16), patience: Duration) -> bool {
    let exchange = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"and back")?;
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        Ok(&bytes == b"and back")
    };
    host.run(|| Ok(exchange().unwrap_or(false))).unwrap()
}

/// Whether a datagram of so many bytes comes back; those that should not get one attempt.
fn udp(host: &Namespace, to: (IpAddr, u16), size: usize, patience: Duration) -> bool {
    let exchange = || -> std::io::Result<bool> {
        let any: IpAddr = match to.0 {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(&vec![7; size], SocketAddr::from(to))?;
        let mut buffer = vec![0; 65_536];
        let (len, from) = socket.recv_from(&mut buffer)?;
        Ok(len == size && from == SocketAddr::from(to))
    };
    host.run(|| Ok(exchange().unwrap_or(false))).unwrap()
}

fn pings(host: &Namespace, to: IpAddr, size: usize, patience: Duration) -> bool {
    ping(host, to, [size], patience).unwrap().answered == 1
}

fn drops(gateway: &Gateway, name: &str) -> [u64; 3] {
    let snapshot = gateway.show().unwrap();
    ["policy_denied", "policy_unclassified", "inner_destination"]
        .map(|reason| snapshot.number(name, reason))
}

/// The inner addresses of a Workstation, IPv4 first.
fn addresses(gateway: &Gateway, name: &str) -> Vec<IpAddr> {
    let snapshot = gateway.show().unwrap();
    let all = snapshot.workstation(name).unwrap()["addresses"].clone();
    serde_json::from_value(all).unwrap()
}

#[test]
fn only_what_the_rules_name_is_reached_whole_and_in_fragments_over_both_families() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let (gateway, ws) = (&rig.gateway, rig.workstation.namespace());
    for port in [9050, 9051] {
        listen(gateway.namespace(), port);
    }
    let _echoes = [5353, 5354].map(|port| Echo::start(gateway.namespace(), port).unwrap());
    gateway
        .cli("workstation allow ws1 -any tcp/9050 udp/5353 icmp")
        .unwrap();
    for to in [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()] {
        assert!(tcp(ws, (to, 9050), LONG), "{to}");
        for size in [10, 6000] {
            assert!(udp(ws, (to, 5353), size, LONG), "{size} bytes to {to}");
            assert!(pings(ws, to, size, LONG), "{size} bytes to {to}");
        }
        let before = drops(gateway, "ws1");
        assert!(!tcp(ws, (to, 9051), SHORT), "{to}");
        for size in [10, 6000] {
            assert!(!udp(ws, (to, 5354), size, SHORT), "{size} bytes to {to}");
        }
        let after = drops(gateway, "ws1");
        assert!(after[0] >= before[0] + 3, "{before:?} {after:?}");
        assert_eq!(
            after[1], before[1],
            "fragments of a datagram are classified"
        );
    }
    // A fragment that would write over the ports of the first one.
    let socket = PacketSocket::sender(ws, HOST_INTERFACE).unwrap();
    let mut fragment = udp_v4(
        rig.workstation.address().unwrap(),
        GATEWAY_V4,
        5353,
        &[0; 40],
    );
    fragment[6..8].copy_from_slice(&[0x20, 1]);
    fragment[10..12].fill(0);
    let sum = portcullis_xtask::attack::checksum(&[&fragment[..20]]);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(socket.send(&fragment));
    wait_for("the fragment to be counted", LONG, || {
        (drops(gateway, "ws1")[1] == 1).then_some(())
    })
    .unwrap();
}

#[test]
fn rules_change_at_once_and_nobody_loses_a_datagram_by_it() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let gateway = &rig.gateway;
    let _echo = Echo::start(gateway.namespace(), 7).unwrap();
    let to = (IpAddr::from(GATEWAY_V4), 7);
    let hosts: Vec<_> = rig
        .workstations
        .iter()
        .map(Workstation::namespace)
        .collect();
    let handshakes = |name: &str| {
        let snapshot = gateway.show().unwrap();
        snapshot.workstation(name).unwrap()["session"]["age_seconds"].as_u64()
    };
    let probes: Vec<Probe> = (0..2)
        .map(|at| Probe::start(hosts[at], to, Duration::from_millis(1), 64).unwrap())
        .collect();
    for _ in 0..5 {
        gateway
            .cli("workstation allow w1 +tcp/1 -any +udp/7")
            .unwrap();
        gateway
            .cli("workstation allow w1 +any -udp/7 -tcp/1")
            .unwrap();
    }
    for (at, probe) in probes.into_iter().enumerate() {
        let report = probe.finish();
        assert!(report.sent() > 10);
        assert_eq!(report.lost(), 0, "w{}", at + 1);
    }
    for _ in 0..3 {
        gateway.cli("workstation allow w1 -any").unwrap();
        assert!(
            !udp(hosts[0], to, 10, SHORT),
            "after the rule was taken away"
        );
        gateway.cli("workstation allow w1 +any").unwrap();
        assert!(udp(hosts[0], to, 10, LONG), "after it was added");
    }
    assert!(handshakes("w1").is_some());
    // The same by hand.
    let file = gateway.directory().join("state/workstations/w1.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"any\"", "\"tcp/9050\"")).unwrap();
    let told = gateway.cli("reload").unwrap();
    assert_eq!(told, "may reach something else: w1\n");
    assert!(!udp(hosts[0], to, 10, SHORT));
    assert!(handshakes("w1").is_some(), "its session goes on");
}

/// As a Gateway's firewall does it: TCP to Tor's TransPort, DNS to its DNSPort.
const REDIRECT: &str = "add table inet transparent
add chain inet transparent in { type nat hook prerouting priority -100; }
add rule inet transparent in iifname \"portcullis0\" tcp dport 1-65535 redirect to :9040
add rule inet transparent in iifname \"portcullis0\" udp dport 53 redirect to :5353
";

#[test]
fn transparent_proxying_works_where_it_is_allowed_and_opens_no_address_of_the_gateway() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let (gateway, ws) = (&rig.gateway, rig.workstation.namespace());
    let host = gateway.namespace();
    let script = gateway.directory().join("redirect.nft");
    std::fs::write(&script, REDIRECT).unwrap();
    host.exec("nft", &format!("-f {}", script.display()))
        .unwrap();
    listen(host, 9040);
    let _dns = Echo::start(host, 5353).unwrap();
    let [far, far6] = FAR.map(|text| text.parse::<IpAddr>().unwrap());

    let reaches = |patience| {
        [
            tcp(ws, (far, 80), patience),
            tcp(ws, (far6, 443), patience),
            udp(ws, (far, 53), 40, patience),
            udp(ws, (far6, 53), 40, patience),
        ]
    };
    assert_eq!(reaches(SHORT), [false; 4], "`any` is the Gateway alone");
    assert!(drops(gateway, "ws1")[2] >= 4);
    gateway
        .cli("workstation allow ws1 -any icmp tcp@transparent udp/53@transparent")
        .unwrap();
    assert_eq!(reaches(LONG), [true; 4]);
    assert!(!udp(ws, (far, 54), 40, SHORT));
    // The Gateway's address on another interface is neither its own in the tunnel nor elsewhere,
    // from the moment it has it.
    host.ip("link add other0 type veth peer name other1")
        .unwrap();
    host.ip(&format!("addr add {far}/24 dev other0")).unwrap();
    for end in ["other0", "other1"] {
        set_link(host, end, true).unwrap();
    }
    wait_for("the new address to be closed", LONG, || {
        (!tcp(ws, (far, 80), SHORT)).then_some(())
    })
    .unwrap();
    let before = drops(gateway, "ws1")[2];
    assert!(!udp(ws, (far, 53), 40, SHORT));
    assert!(drops(gateway, "ws1")[2] > before);
    assert!(tcp(ws, (far6, 443), LONG), "others stay as they were");
}

#[test]
fn nothing_is_forwarded_to_another_interface_whatever_the_gateway_forwards() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let (gateway, ws) = (&rig.gateway, rig.workstation.namespace());
    let host = gateway.namespace();
    let outside = Namespace::create("outside").unwrap();
    veth((host, "out0"), (&outside, "in0"), 1500).unwrap();
    for (host, interface, last) in [(host.as_ref(), "out0", 1), (&outside, "in0", 7)] {
        for address in [
            format!("198.51.100.{last}/24"),
            format!("2001:db8:7::{last}/64"),
        ] {
            host.ip(&format!("addr add {address} dev {interface} nodad"))
                .unwrap();
        }
        set_link(host, interface, true).unwrap();
    }
    // There is a way back, so that what is forwarded is answered too.
    outside.ip("route add default via 198.51.100.1").unwrap();
    outside
        .ip("-6 route add default via 2001:db8:7::1")
        .unwrap();
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        host.sysctl(key, "1").unwrap();
    }
    gateway
        .cli("workstation allow ws1 any@transparent udp@transparent")
        .unwrap();
    let far = FAR.map(|text| text.parse::<IpAddr>().unwrap());
    for to in far {
        assert!(pings(host, to, 8, LONG), "the Gateway itself reaches {to}");
    }
    let from_ws = {
        let own = addresses(gateway, "ws1");
        move |frame: &Captured| {
            let (v4, v6) = (own[0].to_string(), own[1].to_string());
            let source = |at: usize, len: usize| frame.bytes.get(at..at + len);
            let is = |text: &str| text.parse::<IpAddr>().unwrap();
            let v4_source = source(26, 4).map(|b| IpAddr::from(<[u8; 4]>::try_from(b).unwrap()));
            let v6_source = source(22, 16).map(|b| IpAddr::from(<[u8; 16]>::try_from(b).unwrap()));
            v4_source == Some(is(&v4)) || v6_source == Some(is(&v6))
        }
    };
    let quiet = |when: &str| {
        let seen = Capture::on(&outside, "in0", 64).unwrap();
        for to in far {
            assert!(!pings(ws, to, 8, SHORT), "{to} answered {when}");
            assert!(!udp(ws, (to, 9), 8, SHORT), "{to} answered {when}");
        }
        seen.settle().unwrap();
        let leaked: Vec<_> = seen.frames().into_iter().filter(&from_ws).collect();
        assert!(leaked.is_empty(), "{when}: {}", seen.summary());
    };
    let standing = || {
        gateway
            .cli("check")
            .is_ok_and(|text| text.contains("never forwarded"))
    };
    quiet("as it was set up");
    assert!(standing());
    // Others add their own rules, which come first, or clear them all.
    for family in ["-4", "-6"] {
        host.ip(&format!("{family} rule add table main")).unwrap();
    }
    wait_for("its rule to be the first again", LONG, || {
        standing().then_some(())
    })
    .unwrap();
    quiet("behind another's rule");
    for family in ["-4", "-6"] {
        host.ip(&format!("{family} rule del iif portcullis0 blackhole"))
            .unwrap();
    }
    wait_for("its rule to be there again", LONG, || {
        standing().then_some(())
    })
    .unwrap();
    quiet("after its rule was removed");
}

#[test]
fn a_workstation_reaches_another_by_a_rule_alone_and_past_the_gateways_stack() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 3).unwrap();
    rig.start().unwrap();
    let gateway = &rig.gateway;
    // A Gateway that forwards is the worst case.
    gateway.namespace().sysctl("ipv4/ip_forward", "1").unwrap();
    gateway
        .namespace()
        .sysctl("ipv6/conf/all/forwarding", "1")
        .unwrap();
    let [w1, w2, w3] = &rig.workstations[..] else {
        panic!("three Workstations");
    };
    let (w1, w2, w3) = (w1.namespace(), w2.namespace(), w3.namespace());
    let to_w1 = addresses(gateway, "w1");
    let to_w2 = addresses(gateway, "w2");
    assert_eq!((to_w1.len(), to_w2.len()), (2, 2));
    for host in [w1, w2] {
        listen(host, 7022);
    }
    let _echo = Echo::start(w2, 7023).unwrap();
    for to in &to_w2 {
        assert!(!tcp(w1, (*to, 7022), SHORT), "{to} without a rule");
    }
    assert!(drops(gateway, "w1")[2] >= 2);
    let stack = Capture::on(gateway.namespace(), HOST_INTERFACE, 64).unwrap();
    gateway
        .cli("workstation allow w1 tcp/7022@w2 udp/7023@w2")
        .unwrap();
    for (to, back) in to_w2.iter().zip(&to_w1) {
        assert!(tcp(w1, (*to, 7022), LONG), "{to}");
        assert!(udp(w1, (*to, 7023), 3000, LONG), "{to}, in fragments");
        assert!(!tcp(w2, (*back, 7022), SHORT), "{back}: w2 has no rule");
        assert!(!pings(w1, *to, 8, SHORT), "{to}: no rule for it");
        assert!(!tcp(w3, (*to, 7022), SHORT), "{to}: w3 has no rule");
    }
    assert!(drops(gateway, "w2")[0] >= 2);
    stack.settle().unwrap();
    assert_eq!(stack.incoming(), 0, "{}", stack.summary());
    assert!(drops(gateway, "w3")[2] >= 2);
    // A rule is towards a Workstation, not towards the place it had.
    gateway.remove("w2").unwrap();
    gateway.add("w4").unwrap();
    for to in &to_w2 {
        assert!(!tcp(w1, (*to, 7022), SHORT), "{to} after w2 was removed");
    }
}
