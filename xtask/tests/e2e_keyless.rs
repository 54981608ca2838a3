//! Workstations without keys, end to end: what a pinned port gives them, what spoofing on its LAN comes
//! to, and what an open port does not hold. Needs root, `arping` (Debian's package of this name) and the
//! programs (`cargo xtask test` builds them).
//!
//! ```text
//!   gw --- ws1 (a tunnel port) --- ws1, with an agent
//!   gw --- lan (the port under test) --- switch --- k1, pinned
//!                                               --- k2, pinned
//!                                               --- evil, not pinned
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use portcullis_xtask::attack::{
    advertisement, arp, checksum, ethernet, router_advertisement, solicitation, tagged, udp_v4,
    udp_v6,
};
use portcullis_xtask::rig::*;

const K1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const K2: [u8; 6] = [2, 0, 0, 0, 1, 2];
const EVIL: [u8; 6] = [2, 0, 0, 0, 1, 3];
const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 152, 200, 1);
const K1_V4: Ipv4Addr = Ipv4Addr::new(10, 152, 200, 2);
const K2_V4: Ipv4Addr = Ipv4Addr::new(10, 152, 200, 3);
const OUR_V6: &str = "fd50:6f72:7464::1";
const K1_V6: &str = "fd50:6f72:7464::2";
const K2_V6: &str = "fd50:6f72:7464::3";
const BROADCAST: [u8; 6] = [0xff; 6];
const SOON: Duration = Duration::from_secs(10);

fn v6(text: &str) -> std::net::Ipv6Addr {
    text.parse().unwrap()
}

/// The hosts of the drawing, all but `ws1`'s agent up; nothing else runs yet.
struct Rig {
    gateway: Gateway,
    workstation: Workstation,
    k1: Arc<Namespace>,
    k2: Arc<Namespace>,
    evil: Arc<Namespace>,
    lan: Bridge,
    mac: [u8; 6],
    /// First lines of the configuration.
    head: String,
}

impl Rig {
    fn lay() -> Self {
        require_root().unwrap();
        let programs = Programs::find().unwrap();
        let gw = Arc::new(Namespace::create("gw").unwrap());
        let ws1 = Arc::new(Namespace::create("ws1").unwrap());
        veth((&gw, "ws1"), (&ws1, "cable0"), 1500).unwrap();
        let mut lan = Bridge::create("lan").unwrap();
        lan.plug(&gw, "lan", "gw", 1500).unwrap();
        let host = |lan: &mut Bridge, name: &str, mac: &str, v4: Ipv4Addr, v6: &str| {
            let host = Arc::new(Namespace::create(name).unwrap());
            lan.plug(&host, "cable0", name, 1500).unwrap();
            host.ip(&format!("link set dev cable0 address {mac} up"))
                .unwrap();
            host.ip(&format!("address add {v4}/24 dev cable0")).unwrap();
            host.ip(&format!("address add {v6}/64 dev cable0 nodad"))
                .unwrap();
            host
        };
        let k1 = host(&mut lan, "k1", "02:00:00:00:01:01", K1_V4, K1_V6);
        let k2 = host(&mut lan, "k2", "02:00:00:00:01:02", K2_V4, K2_V6);
        let evil = host(
            &mut lan,
            "evil",
            "02:00:00:00:01:03",
            Ipv4Addr::new(10, 152, 200, 66),
            "fd50:6f72:7464::66",
        );
        let mac = mac_of(&gw, "lan").unwrap();
        Self {
            gateway: Gateway::new(&programs, gw, &["ws1"]).unwrap(),
            workstation: Workstation::new(&programs, ws1, "cable0").unwrap(),
            k1,
            k2,
            evil,
            lan,
            mac,
            head: String::new(),
        }
    }

    fn configuration(&self, port: &str) -> String {
        format!(
            "{}{}[[port]]\ninterface = \"lan\"\n{port}",
            self.head,
            self.gateway.configuration(&["ws1"])
        )
    }

    fn start(&mut self, port: &str) {
        self.gateway.configure(&self.configuration(port)).unwrap();
        self.gateway.start().unwrap();
        wait_for("the port", SOON, || {
            (self.port("state") == "up").then_some(())
        })
        .unwrap();
    }

    fn enroll(&mut self) {
        let file = self.gateway.add("ws1").unwrap();
        self.workstation.enroll(&file).unwrap();
        self.workstation.start().unwrap();
    }

    fn port(&self, field: &str) -> serde_json::Value {
        let shown = self.gateway.show().unwrap();
        let ports = shown.value["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["interface"] == "lan");
        port.unwrap()[field].clone()
    }

    fn verdict(&self, name: &str) -> u64 {
        self.port("verdicts")[name].as_u64().unwrap_or(0)
    }

    /// What the Gateway's kernel believes of its neighbours on the port.
    fn neighbours(&self) -> String {
        let text = self
            .gateway
            .namespace()
            .ip("neigh show dev lan nud all")
            .unwrap();
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.contains("NOARP"))
            .map(str::trim)
            .collect();
        lines.sort_unstable();
        lines.join("\n")
    }
}

fn pin(mac: [u8; 6], addresses: &[IpAddr]) -> String {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("[[port.pin]]\nmac = \"{mac}\"\naddresses = {addresses:?}\n")
}

fn own() -> String {
    format!("addresses = [\"{OUR_V4}/24\", \"{OUR_V6}/64\"]\n")
}

fn pinned() -> String {
    let pins = [
        pin(K1, &[K1_V4.into(), v6(K1_V6).into()]),
        pin(K2, &[K2_V4.into(), v6(K2_V6).into()]),
    ];
    format!("admission = \"pinned\"\n{}{}", own(), pins.concat())
}

fn open() -> String {
    format!("admission = \"open\"\n{}", own())
}

fn answered(host: &Namespace, to: IpAddr) -> usize {
    let sizes = [0, 56, 1400];
    ping(host, to, sizes, Duration::from_millis(500))
        .unwrap()
        .answered
}

#[track_caller]
fn does_not_reach(host: &Namespace, to: IpAddr) {
    let asked = ping(host, to, [56], Duration::from_millis(300)).unwrap();
    assert_eq!((asked.sent, asked.answered), (1, 0), "{to}");
}

#[track_caller]
fn reaches(host: &Namespace, to: IpAddr) {
    wait_for("echo replies", SOON, || {
        (answered(host, to) == 3).then_some(())
    })
    .unwrap();
}

#[track_caller]
fn downloads(host: &Namespace, to: IpAddr) {
    let done = download(host, (to, 8080), 3_000_000, &AtomicU64::new(0)).unwrap();
    assert_eq!(done.sha256, body_sha256(3_000_000));
}

#[test]
fn a_pinned_workstation_is_served_beside_a_tunnel_and_nothing_crosses_between_them() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    // As if an administrator had made this machine a router.
    for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        rig.gateway.namespace().sysctl(key, value).unwrap();
    }
    rig.start(&pinned());
    rig.enroll();
    let _http = HttpServer::start(rig.gateway.namespace(), 8080).unwrap();
    let before = rig.neighbours();
    assert_eq!(before.lines().count(), 4, "{before}");
    let arps = Capture::into_stack(rig.gateway.namespace(), 0x0806, 4).unwrap();
    for host in [&rig.k1, &rig.k2] {
        for to in [OUR_V4.into(), v6(OUR_V6).into()] {
            reaches(host, to);
            downloads(host, to);
        }
    }
    arping(&rig.k1, "-c 10 -C 2 -W 0.2").unwrap();
    // A question that the Gateway's kernel never sees.
    arps.settle().unwrap();
    assert_eq!(arps.incoming(), 0, "{}", arps.summary());
    reaches(rig.workstation.namespace(), GATEWAY_V4.into());
    downloads(rig.workstation.namespace(), GATEWAY_V4.into());

    // Neither to the tunnel's Workstation, nor to the Gateway's address there, nor to each other.
    rig.k1
        .ip(&format!("route add 10.152.128.0/18 via {OUR_V4}"))
        .unwrap();
    rig.k1
        .ip(&format!("route add fd50:6f72:7463::/64 via {OUR_V6}"))
        .unwrap();
    let inner = rig.gateway.show().unwrap();
    let inner = inner.workstation("ws1").unwrap()["addresses"][0].clone();
    let inner: IpAddr = inner.as_str().unwrap().parse().unwrap();
    let IpAddr::V4(inner_v4) = inner else {
        panic!("the first inner address is {inner}");
    };
    let inner_v4 = inner_v4.octets();
    let heard = Capture::filtered(&rig.k1, Some("cable0"), 8, move |frame| {
        frame.kind == PacketKind::Incoming && frame.bytes.windows(4).any(|w| w == inner_v4)
    })
    .unwrap();
    let strays = rig.verdict("other_destination");
    does_not_reach(&rig.k1, inner);
    does_not_reach(&rig.k1, GATEWAY_V4.into());
    does_not_reach(&rig.k1, GATEWAY_V6.into());
    assert!(rig.verdict("other_destination") >= strays + 3);
    does_not_reach(rig.workstation.namespace(), K1_V4.into());
    does_not_reach(rig.workstation.namespace(), v6(K1_V6).into());
    heard.settle().unwrap();
    assert_eq!(heard.incoming(), 0, "{}", heard.summary());
    assert_eq!(rig.neighbours(), before);
    let pins = rig.port("pins");
    assert!(
        pins[0]["verdicts"]["passed"].as_u64().unwrap() > 100,
        "{pins}"
    );
}

/// Everything that `evil` and `k2` say that is not theirs to say.
fn lies(rig: &Rig) -> Vec<(Arc<Namespace>, Vec<u8>)> {
    let ours = rig.mac;
    let group = v6("ff02::1");
    let all = [0x33, 0x33, 0, 0, 0, 1];
    let mut lies = Vec::new();
    for (host, mac) in [(&rig.evil, EVIL), (&rig.k2, K2)] {
        let mut say = |frame: Vec<u8>| lies.push((Arc::clone(host), frame));
        for victim in [K1_V4, OUR_V4] {
            let victim = (mac, victim);
            say(ethernet(
                BROADCAST,
                mac,
                0x0806,
                &arp(1, victim, ([0; 6], OUR_V4)),
            ));
            say(ethernet(
                BROADCAST,
                mac,
                0x0806,
                &arp(1, victim, ([0; 6], victim.1)),
            ));
            say(ethernet(ours, mac, 0x0806, &arp(2, victim, (ours, OUR_V4))));
            // The Ethernet header under the victim's name, the claim inside.
            say(ethernet(ours, K1, 0x0806, &arp(2, victim, (ours, OUR_V4))));
        }
        for victim in [K1_V6, OUR_V6] {
            let victim = v6(victim);
            say(ethernet(
                ours,
                mac,
                0x86dd,
                &advertisement(victim, mac, v6(OUR_V6)),
            ));
            say(ethernet(
                all,
                mac,
                0x86dd,
                &advertisement(victim, mac, group),
            ));
            let ask = solicitation(victim, mac, v6(OUR_V6));
            say(ethernet(ours, mac, 0x86dd, &ask));
        }
        // A router, and a redirect as far as anyone reads it.
        let router = v6("fe80::66");
        say(ethernet(
            all,
            mac,
            0x86dd,
            &router_advertisement(router, group),
        ));
        let mut redirect = advertisement(router, mac, v6(OUR_V6));
        redirect[40] = 137;
        say(ethernet(ours, mac, 0x86dd, &redirect));
        // IP under another's address, or from another's MAC address with one's own.
        let echo = udp_v4(K1_V4, OUR_V4, 9050, b"hello");
        say(ethernet(ours, mac, 0x0800, &echo));
        say(ethernet(
            ours,
            mac,
            0x86dd,
            &udp_v6(v6(K1_V6), v6(OUR_V6), 9050, b"hello"),
        ));
        say(ethernet(
            ours,
            K1,
            0x0800,
            &udp_v4(K2_V4, OUR_V4, 9050, b"hello"),
        ));
        say(ethernet(
            ours,
            mac,
            0x0800,
            &udp_v4(OUR_V4, OUR_V4, 9050, b"land"),
        ));
        // DHCP, as client and as server; LLDP; and a tag in front of something that would be right.
        say(ethernet(
            BROADCAST,
            mac,
            0x0800,
            &udp_v4([0; 4].into(), [255; 4].into(), 67, &[1; 240]),
        ));
        say(ethernet(
            BROADCAST,
            mac,
            0x0800,
            &udp_v4(K2_V4, [255; 4].into(), 68, &[2; 240]),
        ));
        say(ethernet(ours, mac, 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6]));
        say(tagged(
            &ethernet(ours, K2, 0x0800, &udp_v4(K2_V4, OUR_V4, 9050, b"tag")),
            &[5],
        ));
        // A loose source route; the switch drops what has a wrong checksum.
        let mut route = udp_v4(K2_V4, OUR_V4, 9050, b"hello, world");
        route[0] = 0x48;
        route[20..32].copy_from_slice(&[131, 11, 4, 10, 152, 152, 10, 10, 152, 200, 66, 0]);
        route[10..12].fill(0);
        let sum = checksum(&[&route[..32]]);
        route[10..12].copy_from_slice(&sum.to_be_bytes());
        say(ethernet(ours, K2, 0x0800, &route));
    }
    lies
}

/// Asks for the Gateway's address, or tells it something.
fn arping(host: &Namespace, how: &str) -> anyhow::Result<String> {
    let arguments = format!("-i cable0 {how} {OUR_V4}");
    host.exec("arping", &arguments)
}

/// Whether a frame is a pin's own question, which the port answers whatever else goes on.
fn is_honest(frame: &Captured) -> bool {
    let pins = [(K1, K1_V4, K1_V6), (K2, K2_V4, K2_V6)];
    pins.into_iter().any(|(mac, four, six)| {
        let bytes = &frame.bytes[..];
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1], &mac[..], &four.octets()].concat();
        let local = bytes.get(22..24) == Some(&[0xfe, 0x80]);
        let own = bytes.get(22..38) == Some(&v6(six).octets());
        let asks = bytes.get(54) == Some(&135) && bytes.get(80..86) == Some(&mac);
        match frame.ethertype() {
            _ if frame.source() != mac => false,
            0x0806 => bytes.get(14..32) == Some(&arp),
            0x86dd => (own || local) && asks,
            _ => false,
        }
    })
}

/// Tells all lies, some by `arping`, and counts the frames that the Gateway's kernel got to see on the
/// port.
fn spoof(rig: &Rig) -> u64 {
    let seen = Capture::filtered(rig.gateway.namespace(), Some("lan"), 16, |frame| {
        frame.kind == PacketKind::Incoming && !is_honest(frame)
    })
    .unwrap();
    for (host, frame) in lies(rig) {
        let socket = PacketSocket::sender(&host, "cable0").unwrap();
        for _ in 0..20 {
            socket.send(&frame);
        }
    }
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (ours, evil) = (mac(rig.mac), mac(EVIL));
    for victim in [K1_V4, OUR_V4] {
        // A question, a gratuitous one, and an answer that nobody asked for. It hears no answer and
        // says so, which is not what is tested.
        for how in ["", "-U", &format!("-U -P -t {ours}")] {
            let told = format!("-c 2 -W 0.05 -p -s {evil} -S {victim} {how}");
            let _ = arping(&rig.evil, &told);
        }
    }
    seen.settle().unwrap();
    if seen.incoming() > 0 {
        eprintln!("seen: {}", seen.summary());
    }
    seen.incoming()
}

#[test]
fn spoofing_on_a_pinned_ports_lan_reaches_no_kernel_and_changes_no_neighbour() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    rig.start(&pinned());
    let to: [IpAddr; 2] = [OUR_V4.into(), v6(OUR_V6).into()];
    to.iter().for_each(|to| reaches(&rig.k1, *to));
    // Hosts of the LAN say their own at times, and are lied to as well: the Gateway is looked at.
    let before = rig.neighbours();
    let dropped = |rig: &Rig| {
        [
            "unknown_mac",
            "spoofed_address",
            "neighbour_claim",
            "foreign",
            "options",
            "protocol",
        ]
        .map(|name| rig.verdict(name))
    };
    let earlier = dropped(&rig);
    let told = lies(&rig).len() as u64 * 20;
    assert_eq!(spoof(&rig), 0, "of {told} frames");
    assert_eq!(rig.neighbours(), before);
    let later = dropped(&rig);
    let counted: u64 = later.iter().sum::<u64>() - earlier.iter().sum::<u64>();
    let all = rig.port("verdicts");
    assert!(counted >= told, "{counted} of {told} counted: {all}");
    assert!(
        later
            .iter()
            .zip(earlier)
            .all(|(now, then)| *now > then || then > 0),
        "{later:?}"
    );
    rig.k1.ip("neigh flush dev cable0").unwrap();
    to.iter().for_each(|to| reaches(&rig.k1, *to));
    // The same on a tunnel port.
    rig.gateway.stop().unwrap();
    rig.gateway.configure(&rig.configuration("")).unwrap();
    rig.gateway.namespace().ip("address flush dev lan").unwrap();
    rig.gateway.start().unwrap();
    let before = rig.neighbours();
    assert_eq!(spoof(&rig), 0);
    assert_eq!(rig.neighbours(), before);
}

#[test]
fn an_open_port_passes_everything_says_so_and_is_fooled() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    rig.start(&open());
    let _http = HttpServer::start(rig.gateway.namespace(), 8080).unwrap();
    for to in [OUR_V4.into(), v6(OUR_V6).into()] {
        reaches(&rig.k1, to);
        downloads(&rig.k1, to);
        reaches(&rig.evil, to);
    }
    // What the other tests see fail works here: they can see it.
    assert!(spoof(&rig) > 100);
    let after = rig.neighbours();
    let victim = after.lines().find(|line| line.starts_with("10.152.200.2 "));
    assert!(
        victim.is_some_and(|line| !line.contains("02:00:00:00:01:01")),
        "{after}"
    );
    // But nothing is believed of routes.
    let routes = rig.gateway.namespace().ip("-6 route show").unwrap();
    assert!(
        !routes.contains("proto ra") && !routes.contains("default"),
        "{routes}"
    );
    let check = rig
        .gateway
        .cli("check")
        .unwrap_or_else(|error| format!("{error:#}"));
    for (what, text) in [
        ("show", rig.gateway.cli("show").unwrap()),
        ("check", check),
        ("the log", rig.gateway.log_tail()),
    ] {
        assert!(text.contains("port lan is OPEN"), "{what}:\n{text}");
    }
    // From elsewhere nothing is passed on to it, nor from it.
    rig.enroll();
    rig.gateway
        .namespace()
        .sysctl("ipv4/ip_forward", "1")
        .unwrap();
    let watched = || {
        let key = "/proc/sys/net/ipv4/conf/lan/forwarding";
        let read = || Ok(std::fs::read_to_string(key)?);
        let value = rig.gateway.namespace().run(read).unwrap();
        (value.trim() == "0").then_some(())
    };
    wait_for("forwarding to be switched off again", SOON, watched).unwrap();
    rig.k1
        .ip(&format!("route add 10.152.128.0/18 via {OUR_V4}"))
        .unwrap();
    let inner = rig.gateway.show().unwrap().workstation("ws1").unwrap()["addresses"][0].clone();
    does_not_reach(&rig.k1, inner.as_str().unwrap().parse().unwrap());
    does_not_reach(rig.workstation.namespace(), K1_V4.into());
}

#[test]
fn pins_hold_without_the_daemon_and_change_at_a_reload() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    rig.start(&pinned());
    let ours: IpAddr = OUR_V4.into();
    reaches(&rig.k1, ours);
    reaches(&rig.k2, ours);
    rig.gateway.kill();
    assert_eq!(answered(&rig.k1, ours), 3, "the kernel serves on");
    assert_eq!(spoof(&rig), 0);

    rig.gateway.start().unwrap();
    // What the Workstation itself was told.
    rig.k1.ip("neigh flush dev cable0").unwrap();
    let port = rig.lan.namespace();
    let seen = Capture::filtered(rig.gateway.namespace(), Some("lan"), 4, |frame| {
        frame.kind == PacketKind::Incoming && frame.source() == K2
    })
    .unwrap();
    reaches(&rig.k1, ours);
    let only_k1 = format!(
        "admission = \"pinned\"\n{}{}",
        own(),
        pin(K1, &[K1_V4.into(), v6(K1_V6).into()])
    );
    rig.gateway.configure(&rig.configuration(&only_k1)).unwrap();
    rig.gateway.cli("reload").unwrap();
    seen.settle().unwrap();
    let until = seen.incoming();
    does_not_reach(&rig.k2, ours);
    seen.settle().unwrap();
    assert_eq!(seen.incoming(), until);
    assert_eq!(answered(&rig.k1, ours), 3);
    assert!(!rig.neighbours().contains("02:00:00:00:01:02"));
    // A change that cannot be leaves the pins as they are.
    rig.gateway
        .configure(&rig.configuration(&only_k1.replace("200.2\"", "200.1\"")))
        .unwrap();
    rig.gateway.cli("reload").unwrap_err();
    assert_eq!(answered(&rig.k1, ours), 3);

    // The cable, and the interface's own state: what is lost is put back.
    port.ip("link set dev gw down").unwrap();
    port.ip("link set dev gw up").unwrap();
    set_link(rig.gateway.namespace(), "lan", false).unwrap();
    set_link(rig.gateway.namespace(), "lan", true).unwrap();
    reaches(&rig.k1, ours);
    reaches(&rig.k1, v6(OUR_V6).into());
    assert_eq!(spoof(&rig), 0);
}

#[test]
fn a_reload_that_one_port_refuses_leaves_the_pins_of_all_as_they_were() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    let far = Namespace::create("far").unwrap();
    let second = |rig: &Rig| veth((rig.gateway.namespace(), "second"), (&far, "cable0"), 1500);
    second(&rig).unwrap();
    let of = |lan: &str, address: &str| {
        format!(
            "{lan}[[port]]\ninterface = \"second\"\nadmission = \"pinned\"\n\
             addresses = [\"10.152.201.1/24\"]\n[[port.pin]]\nmac = \"02:00:00:00:02:02\"\n\
             addresses = [\"{address}\"]\n"
        )
    };
    rig.start(&of(&pinned(), "10.152.201.2"));
    let ours: IpAddr = OUR_V4.into();
    reaches(&rig.k1, ours);
    reaches(&rig.k2, ours);
    let only_k1 = format!(
        "admission = \"pinned\"\n{}{}",
        own(),
        pin(K1, &[K1_V4.into(), v6(K1_V6).into()])
    );
    rig.gateway
        .configure(&rig.configuration(&of(&only_k1, "10.152.201.3")))
        .unwrap();
    rig.gateway
        .namespace()
        .ip("link delete dev second")
        .unwrap();
    let refused = format!("{:#}", rig.gateway.cli("reload").unwrap_err());
    assert!(refused.contains("second"), "{refused}");
    assert!(
        refused.contains("everything is as it was before"),
        "{refused}"
    );
    // The port before it has its second pin still, in XDP and in what is shown.
    assert_eq!(rig.port("pins").as_array().unwrap().len(), 2);
    reaches(&rig.k2, ours);
    assert_eq!(spoof(&rig), 0);
    // With the interface back both are changed.
    second(&rig).unwrap();
    rig.gateway.cli("reload").unwrap();
    does_not_reach(&rig.k2, ours);
    reaches(&rig.k1, ours);
}

#[test]
fn a_daemon_without_privileges_has_its_pins_changed_and_its_interface_looked_after() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    rig.head = format!("user = \"{ACCOUNT}\"\n");
    // Its own directories are below it, and it must get there.
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(rig.gateway.directory(), mode).unwrap();
    rig.start(&pinned());
    let ours: [IpAddr; 2] = [OUR_V4.into(), v6(OUR_V6).into()];
    for host in [&rig.k1, &rig.k2] {
        ours.iter().for_each(|to| reaches(host, *to));
    }
    let pid = rig.gateway.process().unwrap().pid();
    let all = threads(pid).unwrap();
    assert!(all.len() > 2, "{all:?}");
    for thread in &all {
        assert_eq!(thread.privileges(), Vec::<String>::new());
        assert_eq!(thread.field("Uid").split('\t').next(), Some("64077"));
    }
    let helper = helper_of(pid).unwrap();
    for thread in threads(helper).unwrap() {
        let has = thread.set("CapPrm");
        assert_eq!(has, HELPER, "{has:x}");
    }
    // The counters are the daemon's, and the wall's programs and tables nobody's.
    let held = descriptors(helper).unwrap();
    let tunnel = |path: &String| {
        ["tun", "/state", "bpf-"]
            .iter()
            .any(|what| path.contains(what))
    };
    assert!(!held.iter().any(tunnel), "{held:?}");
    let held = descriptors(pid).unwrap();
    let program = |path: &&String| path.contains("bpf-prog");
    // Those of the tunnel's port beside it: admission, its guard, and the steering of the host interface.
    assert!(held.iter().filter(program).count() <= 3, "{held:?}");
    assert!(rig.port("pins")[0]["verdicts"]["passed"].as_u64().unwrap() > 0);

    let change = |rig: &Rig, port: &str| {
        rig.gateway.configure(&rig.configuration(port)).unwrap();
        rig.gateway.cli("reload").unwrap();
    };
    let only_k1 = format!(
        "admission = \"pinned\"\n{}{}",
        own(),
        pin(K1, &[K1_V4.into(), v6(K1_V6).into()])
    );
    change(&rig, &only_k1);
    does_not_reach(&rig.k2, ours[0]);
    ours.iter().for_each(|to| reaches(&rig.k1, *to));
    assert_eq!(rig.port("pins").as_array().unwrap().len(), 1);
    change(&rig, &pinned());
    reaches(&rig.k2, ours[0]);

    // Another interface in the place of the port's, under another address.
    let host = Arc::clone(rig.gateway.namespace());
    host.ip("link delete dev lan").unwrap();
    wait_for("the port to be missed", SOON, || {
        (rig.port("state") == "missing").then_some(())
    })
    .unwrap();
    rig.lan.plug(&host, "lan", "gw", 1500).unwrap();
    rig.mac = mac_of(&host, "lan").unwrap();
    for host in [&rig.k1, &rig.k2] {
        host.ip("neigh flush dev cable0").unwrap();
        ours.iter().for_each(|to| reaches(host, *to));
    }
    // Its counters begin anew, and are those that are shown.
    let passed = rig.port("pins")[0]["verdicts"]["passed"].as_u64().unwrap();
    reaches(&rig.k1, ours[0]);
    let later = rig.port("pins")[0]["verdicts"]["passed"].as_u64().unwrap();
    assert!(passed > 0 && later >= passed + 3, "{passed} {later}");
    assert_eq!(spoof(&rig), 0);

    // Addresses and neighbours that somebody took away.
    let before = rig.neighbours();
    host.ip("address flush dev lan").unwrap();
    host.ip("neigh flush dev lan nud all").unwrap();
    wait_for("the neighbours", SOON, || {
        (rig.neighbours() == before).then_some(())
    })
    .unwrap();
    // (The Workstations were lied to.)
    for host in [&rig.k1, &rig.k2] {
        host.ip("neigh flush dev cable0").unwrap();
        ours.iter().for_each(|to| reaches(host, *to));
    }
    rig.gateway.kill();
    assert_eq!(answered(&rig.k1, ours[0]), 3, "the kernel serves on");
    rig.gateway.start().unwrap();
    reaches(&rig.k2, ours[1]);
}

#[test]
fn a_port_in_a_bridge_is_refused_and_one_that_is_put_into_one_is_set_down() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::lay();
    let host = Arc::clone(rig.gateway.namespace());
    host.ip("link add br7 type bridge").unwrap();
    for port in [pinned(), open()] {
        host.ip("link set dev lan master br7").unwrap();
        rig.gateway.configure(&rig.configuration(&port)).unwrap();
        let (status, log) = Process::run("portcullisd", rig.gateway.daemon(), SOON).unwrap();
        assert!(!status.success() && log.contains("nomaster"), "{log}");
        host.ip("link set dev lan nomaster").unwrap();
        rig.start(&port);
        host.ip("link set dev lan master br7").unwrap();
        let down = || {
            let text = host.ip("-j link show dev lan").unwrap();
            (!text.contains("\"UP\"")).then_some(())
        };
        wait_for("the port to be set down", SOON, down).unwrap();
        assert!(rig.port("reason").as_str().unwrap().contains("nomaster"));
        host.ip("link set dev lan nomaster").unwrap();
        wait_for("the port", SOON, || {
            (rig.port("state") == "up").then_some(())
        })
        .unwrap();
        rig.gateway.stop().unwrap();
    }
    // An open port would reach all that IPv6 is forwarded to.
    host.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
    let (status, log) = Process::run("portcullisd", rig.gateway.daemon(), SOON).unwrap();
    assert!(!status.success() && log.contains("forwards IPv6"), "{log}");
}
