//! A Workstation over networks whose interface is the tunnel's own: its datagrams go past its kernel's stack.

use std::fs;
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;

use crate::{PATIENCE, age, passes, probe};

/// A Workstation at home whose configuration begins with `more`.
fn networks_with(more: &str) -> Networks {
    require_root().unwrap();
    let networks = networks(&Programs::find().unwrap(), false).unwrap();
    let text = networks.workstation.configuration();
    let text = format!("{more}\n{text}");
    networks.workstation.configure(&text).unwrap();
    networks
}

fn start() -> Networks {
    let mut networks = networks_with("fast_path = true");
    networks.start().unwrap();
    wait_fast(&networks);
    networks
}

fn is_fast(networks: &Networks) -> bool {
    let status = networks.workstation.status().unwrap();
    status["port"]["xdp"] == "native"
}

fn wait_fast(networks: &Networks) {
    wait_for("the fast path", PATIENCE, || {
        is_fast(networks).then_some(())
    })
    .unwrap();
}

/// Datagrams that the Workstation's kernel has received for sockets of its own, of both IP versions, and sent.
fn by_the_kernel(networks: &Networks) -> [u64; 2] {
    let host = networks.workstation.namespace();
    let read = || {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
        Ok((v4, v6))
    };
    let (v4, v6) = host.run(read).unwrap();
    let mut rows = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let of = |name: &str| -> u64 {
        let mut both = names.split(' ').zip(values.split(' '));
        let v4: u64 = both
            .find(|(found, _)| *found == name)
            .unwrap()
            .1
            .parse()
            .unwrap();
        let wanted = format!("Udp6{name} ");
        let v6 = v6.lines().find(|line| line.starts_with(&wanted)).unwrap();
        let v6: u64 = v6.split_whitespace().nth(1).unwrap().parse().unwrap();
        v4 + v6
    };
    ["InDatagrams", "OutDatagrams"].map(of)
}

/// What the tunnel has brought, and taken.
fn packets(networks: &Networks) -> [u64; 2] {
    let status = networks.workstation.status().unwrap();
    [&status["rx"]["packets"], &status["tx"]["packets"]].map(|n| n.as_u64().unwrap())
}

#[test]
fn its_datagrams_go_past_the_kernel_and_those_of_others_do_not() {
    for endpoint in WAN {
        let mut networks = networks_with("fast_path = true");
        let text = fs::read_to_string(networks.workstation.config()).unwrap();
        let endpoint = match endpoint.contains(':') {
            true => format!("endpoint = [\"[{endpoint}]\"]\n{text}"),
            false => format!("endpoint = [\"{endpoint}\"]\n{text}"),
        };
        networks.workstation.configure(&endpoint).unwrap();
        networks.start().unwrap();
        wait_fast(&networks);
        passes(&networks);
        let before = by_the_kernel(&networks);
        let [rx, tx] = packets(&networks);
        passes(&networks);
        let after = by_the_kernel(&networks);
        let frames = packets(&networks);
        assert!(frames[0] > rx + 1000 && frames[1] > tx + 1000, "{frames:?}");
        // One a second is sent so, that neighbours and connections are kept.
        let stack = [after[0] - before[0], after[1] - before[1]];
        assert!(stack[0] < 20 && stack[1] < 40, "{stack:?} of {frames:?}");
        let shown = networks.workstation.agent("show").output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        println!("{shown}");
        assert!(shown.contains("native"), "{shown}");
        let doctor = networks.workstation.agent("doctor").output().unwrap();
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        let found = doctor.split_once("fast path").expect("nothing of it").1;
        assert!(found.contains(LAN), "{doctor}");
        assert!(found.contains("veth runs XDP itself"), "{doctor}");
        // It ends with the agent.
        let host = networks.workstation.namespace().clone();
        let attached = || host.ip(&format!("link show dev {LAN}")).unwrap();
        assert!(attached().contains("xdp"), "{}", attached());
        networks.workstation.kill();
        wait_for("the program to be gone", PATIENCE, || {
            (!attached().contains("xdp")).then_some(())
        })
        .unwrap();
    }
}

/// How often there has been one, by the log.
fn raised(networks: &Networks) -> usize {
    let log = networks.workstation.directory().join("agent.log");
    let log = fs::read_to_string(log).unwrap();
    log.matches("the tunnel's datagrams go by AF_XDP").count()
}

/// Waits until the tunnel is there, and a fast path for the `number`th time, by which all goes.
fn wait_again(networks: &Networks, number: usize, what: &str) {
    let reaches = || networks.workstation.reaches(Duration::from_millis(100));
    wait_for(&format!("the tunnel after {what}"), PATIENCE, || {
        (raised(networks) == number && is_fast(networks) && reaches()).then_some(())
    })
    .unwrap_or_else(|error| {
        let found = raised(networks);
        panic!(
            "{error}: {found} times: {}",
            networks.workstation.log_tail()
        )
    });
    let (before, frames) = (by_the_kernel(networks), packets(networks));
    let host = networks.workstation.namespace();
    let gateway = networks.gateway.namespace();
    let rates = iperf3(gateway, host, GATEWAY_V4.into(), 1).unwrap();
    assert!(rates.up > 1e6 && rates.down > 1e6, "{what}: {rates:?}");
    let after = by_the_kernel(networks);
    let stack = [after[0] - before[0], after[1] - before[1]];
    let now = packets(networks);
    let frames = [now[0] - frames[0], now[1] - frames[1]];
    // The probe in the tunnel has sockets of this kernel, too.
    for (stack, frames) in stack.into_iter().zip(frames) {
        assert!(stack * 8 < frames, "{what}: {stack} of {frames}");
    }
}

/// Whatever becomes of it, the session goes on: by the kernel, and then as before.
#[test]
fn a_session_outlives_its_fast_path_and_gets_another() {
    let networks = start();
    let began = Instant::now();
    let host = networks.workstation.namespace().clone();
    let (_echo, probe) = probe(&networks);
    wait_again(&networks, 1, "the start");

    // Another router, as far as the hardware is concerned, which says so to those who know it. That ends nothing.
    for setting in ["ipv4/conf/hl/arp_notify", "ipv6/conf/hl/ndisc_notify"] {
        networks.home.sysctl(setting, "1").unwrap();
    }
    networks
        .home
        .ip("link set hl address 02:00:00:00:77:01")
        .unwrap();
    wait_again(&networks, 1, "another router");

    // Another address.
    host.ip(&format!("addr del 192.168.7.2/24 dev {LAN}"))
        .unwrap();
    host.ip(&format!("-6 addr del 2001:db8:7::2/64 dev {LAN}"))
        .unwrap();
    host.ip(&format!("addr add 192.168.7.3/24 dev {LAN}"))
        .unwrap();
    host.ip(&format!("route replace default via 192.168.7.1 dev {LAN}"))
        .unwrap();
    wait_again(&networks, 2, "another address");

    // Another MAC address, as a network manager gives it.
    host.ip(&format!("link set {LAN} address 02:00:00:00:77:02"))
        .unwrap();
    wait_again(&networks, 3, "another MAC address");

    // The link is down for a while.
    set_link(&host, LAN, false).unwrap();
    pause(Duration::from_secs(1)).unwrap();
    networks.at_home().unwrap();
    wait_again(&networks, 4, "a link that was down");

    let log = networks.workstation.log_tail();
    let since = began.elapsed().as_secs();
    assert!(
        age(&networks) + 1 >= since,
        "the session is a new one: {log}"
    );
    let report = probe.finish();
    let gap = report.longest_gap();
    println!(
        "{} of {} lost, longest gap {gap:?}",
        report.lost(),
        report.sent()
    );
    assert!(gap < Duration::from_secs(5), "{gap:?}: {log}");
}

/// Rings may take frames and send none, without an error.
#[test]
fn rings_that_swallow_what_they_take_are_given_up_and_the_socket_goes_on() {
    let mut networks = networks_with("fast_path = true");
    let text = fs::read_to_string(networks.workstation.config()).unwrap();
    let text = format!("endpoint = [\"[{}]\"]\n{text}", WAN[1]);
    networks.workstation.configure(&text).unwrap();
    networks.start().unwrap();
    wait_fast(&networks);
    passes(&networks);
    // The kernel gives its packets a flow label (RFC 6437), and rings do not.
    let rules = "add table ip6 swallow; \
        add chain ip6 swallow pre { type filter hook prerouting priority 0; }; \
        add rule ip6 swallow pre iifname hl ip6 flowlabel 0 udp dport 51888 counter drop";
    let mut nft = networks.home.command("nft");
    assert!(nft.arg(rules).status().unwrap().success());
    let swallowed = Instant::now();
    let host = networks.workstation.namespace().clone();
    // One lucky frame a second is no tunnel.
    let holds = || {
        let to = GATEWAY_V4.into();
        let echoes = ping(&host, to, [56; 20], Duration::from_millis(200)).unwrap();
        (echoes.answered == 20).then_some(())
    };
    wait_for("the socket to take over", PATIENCE, holds)
        .unwrap_or_else(|error| panic!("{error}: {}", networks.workstation.log_tail()));
    println!("the socket took over after {:?}", swallowed.elapsed());
    pause(Duration::from_secs(5)).unwrap();
    assert!(holds().is_some(), "it is not taken up again at once");
    let status = networks.workstation.status().unwrap();
    assert!(status["port"]["xdp"].is_null(), "{status}");
    let reason = status["port"]["reason"].as_str().unwrap();
    assert!(reason.contains("the fast path was lost"), "{reason}");
    assert_eq!(raised(&networks), 1);
    passes(&networks);
}

#[test]
fn an_interface_with_members_is_refused_and_the_socket_does() {
    let mut networks = networks_with("fast_path = true");
    let host = networks.workstation.namespace().clone();
    host.ip("link add br0 type bridge").unwrap();
    host.ip(&format!("addr flush dev {LAN}")).unwrap();
    host.ip(&format!("link set {LAN} master br0")).unwrap();
    set_link(&host, "br0", true).unwrap();
    host.ip("addr add 192.168.7.9/24 dev br0").unwrap();
    host.ip("route replace default via 192.168.7.1 dev br0")
        .unwrap();
    let text = fs::read_to_string(networks.workstation.config()).unwrap();
    let text = text.replace(&format!("interface = \"{LAN}\""), "interface = \"br0\"");
    networks.workstation.configure(&text).unwrap();
    networks.start().unwrap();
    passes(&networks);
    let status = networks.workstation.status().unwrap();
    assert!(status["port"]["xdp"].is_null(), "{status}");
    let reason = status["port"]["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("{LAN} belongs to it")), "{reason}");
    let doctor = networks.workstation.agent("doctor").output().unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        doctor.contains(&format!("{LAN} belongs to br0")),
        "{doctor}"
    );
}

#[test]
fn an_interface_without_native_xdp_is_said_to_have_none_and_the_socket_does() {
    let networks = networks_with("fast_path = true");
    let host = networks.workstation.namespace().clone();
    host.ip(&format!("link add link {LAN} name mac0 type macvlan"))
        .unwrap();
    host.ip(&format!("addr flush dev {LAN}")).unwrap();
    set_link(&host, "mac0", true).unwrap();
    host.ip("addr add 192.168.7.9/24 dev mac0").unwrap();
    host.ip("route replace default via 192.168.7.1 dev mac0")
        .unwrap();
    let text = fs::read_to_string(networks.workstation.config()).unwrap();
    let text = text.replace(&format!("interface = \"{LAN}\""), "interface = \"mac0\"");
    networks.workstation.configure(&text).unwrap();
    let mut networks = networks;
    networks.start().unwrap();
    passes(&networks);
    let status = networks.workstation.status().unwrap();
    assert!(status["port"]["xdp"].is_null(), "{status}");
    let reason = status["port"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("mac0") && reason.contains("native"),
        "{reason}"
    );
    // Without a name nobody can say which it is.
    networks.workstation.stop().unwrap();
    let text = text.replace("interface = \"mac0\"\n", "");
    networks.workstation.configure(&text).unwrap();
    let output = networks.workstation.agent("up").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("fast_path") && said.contains("interface = \"eth0\""),
        "{said}"
    );
}
