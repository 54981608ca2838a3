//! What a Workstation's host puts into the tunnel: packets from the addresses it was given to hosts', and
//! nothing that says anything of the host. Needs root and the programs (`cargo xtask test` builds them).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use portcullis_xtask::attack::{advertisement, checksum, solicitation, udp_v4};
use portcullis_xtask::rig::*;

/// What the Workstation has on another interface, and no one at the Gateway is to see.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 5);
/// In every message that names its host.
const NAME: &[u8] = b"name-of-this-host";

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// A pair whose Workstation has another interface, and has not started yet.
fn rig() -> Single {
    let mut rig = single(&programs()).unwrap();
    rig.gateway.start().unwrap();
    let file = rig.gateway.add("ws1").unwrap();
    rig.workstation.enroll(&file).unwrap();
    let host = rig.workstation.namespace();
    host.ip("link add elsewhere type veth peer name nowhere")
        .unwrap();
    host.ip(&format!("addr add {ELSEWHERE}/24 dev elsewhere"))
        .unwrap();
    host.ip("link set elsewhere up").unwrap();
    rig
}

fn own(rig: &Single) -> Vec<IpAddr> {
    let status = rig.workstation.status().unwrap();
    let all = status["addresses"].as_array().unwrap();
    let of = |text: &serde_json::Value| text.as_str()?.split('/').next()?.parse().ok();
    let own: Vec<IpAddr> = all.iter().filter_map(of).collect();
    assert_eq!(own.len(), 2, "{status}");
    own
}

/// Source and destination of an IP packet.
fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
    let v6 = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
    match packet[0] >> 4 {
        4 => (v4(12), v4(16)),
        6 => (v6(8), v6(24)),
        version => panic!("IP version {version}: {packet:02x?}"),
    }
}

#[track_caller]
fn says_nothing_of_the_host(packets: &[Captured], own: &[IpAddr], secrets: &[&[u8]]) {
    for packet in packets {
        let (source, destination) = addresses(&packet.bytes);
        let ours = own.contains(&source);
        let theirs = [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()].contains(&destination);
        assert!(ours && theirs, "{source} to {destination}");
        for secret in secrets {
            let has = packet
                .bytes
                .windows(secret.len())
                .any(|part| part == *secret);
            assert!(!has, "{source} to {destination} has {secret:02x?}");
        }
    }
}

/// The interface identifier that SLAAC makes of a MAC address.
fn eui64(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

fn with_identifier(prefix: u16, mac: [u8; 6]) -> Ipv6Addr {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&prefix.to_be_bytes());
    bytes[8..].copy_from_slice(&eui64(mac));
    bytes.into()
}

/// Everything that hosts and their programs say unasked, by the ways programs have: sockets that are
/// bound to the tunnel or to another address, and packets made by hand.
fn babble(rig: &Single, own: &[IpAddr], mac: [u8; 6]) {
    let host = rig.workstation.namespace();
    let index: u32 = {
        let text = host.ip(&format!("-j link show dev {HOST_INTERFACE}"));
        let value: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        value[0]["ifindex"].as_u64().unwrap() as u32
    };
    let (v4, v6) = (own[0], own[1]);
    let IpAddr::V4(own_v4) = v4 else {
        panic!("{v4} comes first")
    };
    let message = [NAME, &mac[..]].concat();
    host.run(|| {
        let one = UdpSocket::bind((v4, 0))?;
        one.set_broadcast(true)?;
        // Joining may be refused, and so may sending: then nothing is said.
        let _ = one.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &own_v4);
        let _ = one.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &own_v4);
        for to in [
            (Ipv4Addr::new(224, 0, 0, 251), 5353),
            (Ipv4Addr::new(224, 0, 0, 252), 5355),
            (Ipv4Addr::new(239, 255, 255, 250), 1900),
            (Ipv4Addr::new(10, 152, 191, 255), 137),
            (Ipv4Addr::BROADCAST, 67),
            (Ipv4Addr::new(169, 254, 1, 2), 9),
        ] {
            let _ = one.send_to(&message, to);
        }
        let six = UdpSocket::bind((v6, 0))?;
        for group in ["ff02::fb", "ff02::1:3", "ff02::1:2", "ff02::16"] {
            let group: Ipv6Addr = group.parse()?;
            let _ = six.join_multicast_v6(&group, index);
            let to = SocketAddr::from(SocketAddrV6::new(group, 5353, 0, index));
            let _ = six.send_to(&message, to);
        }
        // From an address of another interface, which the kernel routes all the same.
        let elsewhere = UdpSocket::bind((ELSEWHERE, 0))?;
        elsewhere.send_to(&message, (GATEWAY_V4, 9))?;
        Ok(())
    })
    .unwrap();
    let link_local = with_identifier(0xfe80, mac);
    let global = with_identifier(0x2001, mac);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let packets = [
        udp_v4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, &message),
        udp_v4(ELSEWHERE, GATEWAY_V4, 9, &message),
        udp_v4(own_v4, Ipv4Addr::new(224, 0, 0, 22), 9, &message),
        udp_v4(Ipv4Addr::new(10, 152, 152, 99), GATEWAY_V4, 9, &message),
        solicitation(link_local, mac, GATEWAY_V6),
        solicitation(Ipv6Addr::UNSPECIFIED, mac, GATEWAY_V6),
        solicitation(global, mac, GATEWAY_V6),
        advertisement(link_local, mac, all_nodes),
        advertisement(global, mac, GATEWAY_V6),
    ];
    let socket = PacketSocket::sender(host, HOST_INTERFACE).unwrap();
    for packet in packets {
        assert!(socket.send(&packet));
    }
}

#[test]
fn nothing_of_the_host_but_the_addresses_it_was_given_is_in_the_tunnel() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = rig();
    let mac = mac_of(rig.workstation.namespace(), rig.workstation.interface()).unwrap();
    // From before the agent's first packet.
    let arrived = Capture::filtered(
        rig.gateway.namespace(),
        Some(HOST_INTERFACE),
        4096,
        |packet| packet.kind == PacketKind::Incoming,
    )
    .unwrap();
    rig.workstation.start().unwrap();
    let own = own(&rig);
    let held_back = || {
        let status = rig.workstation.status().unwrap();
        status["drops"]["inner_source"].as_u64().unwrap()
    };
    babble(&rig, &own, mac);
    wait_for(
        "what is not ours to be held back",
        Duration::from_secs(5),
        || (held_back() >= 6).then_some(()),
    )
    .unwrap();
    // What the kernel says later, unasked: reports, solicitations.
    pause(Duration::from_secs(3)).unwrap();
    assert!(rig.workstation.reaches(Duration::from_secs(1)));
    arrived.settle().unwrap();
    let packets = arrived.frames();
    assert!(!packets.is_empty());
    let identifier = eui64(mac);
    let elsewhere = ELSEWHERE.octets();
    says_nothing_of_the_host(&packets, &own, &[&mac, &identifier, NAME, &elsewhere]);
    // They were never sealed: the Gateway has not even refused one.
    let drops = rig.gateway.show().unwrap().drops("ws1");
    for reason in [
        "inner_source",
        "inner_destination",
        "policy_denied",
        "inner_malformed",
    ] {
        assert_eq!(drops[reason], 0, "{drops:?}");
    }
}

#[test]
fn the_kernel_itself_says_nothing_unasked_on_the_host_interface() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = rig();
    rig.workstation.start().unwrap();
    let own = own(&rig);
    // The interface stays, so all of the next start can be heard.
    rig.workstation.stop().unwrap();
    let host = std::sync::Arc::clone(rig.workstation.namespace());
    host.ip(&format!("addr flush dev {HOST_INTERFACE}"))
        .unwrap();
    host.ip(&format!("link set dev {HOST_INTERFACE} down"))
        .unwrap();
    let said = Capture::filtered(&host, Some(HOST_INTERFACE), 4096, |packet| {
        packet.kind == PacketKind::Outgoing
    })
    .unwrap();
    rig.workstation.start().unwrap();
    pause(Duration::from_secs(4)).unwrap();
    said.settle().unwrap();
    says_nothing_of_the_host(&said.frames(), &own, &[]);

    let text = host
        .ip(&format!("-j -d addr show dev {HOST_INTERFACE}"))
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let flags = value[0]["flags"].to_string();
    assert!(!flags.contains("MULTICAST"), "{flags}");
    assert!(!text.contains("fe80::"), "a link-local address: {text}");
    for (setting, is) in [
        ("addr_gen_mode", "1"),
        ("router_solicitations", "0"),
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv6/conf/{HOST_INTERFACE}/{setting}");
        let found = host.run(|| Ok(std::fs::read_to_string(&path)?)).unwrap();
        assert_eq!(found.trim(), is, "{setting}");
    }
}

/// The packets of these tests are what they are taken for.
#[test]
fn addresses_are_read_and_identifiers_made_as_the_standards_have_them() {
    let packet = udp_v4(ELSEWHERE, GATEWAY_V4, 9, NAME);
    assert_eq!(addresses(&packet), (ELSEWHERE.into(), GATEWAY_V4.into()));
    assert_eq!(checksum(&[&packet[..20]]), 0);
    let mac = [0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde];
    let text = with_identifier(0xfe80, mac).to_string();
    assert_eq!(text, "fe80::3656:78ff:fe9a:bcde");
}
