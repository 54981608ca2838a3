//! Whoever has no key, and whoever sends again what others have sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_xtask::attack::{checksum, ethernet, udp_v4, udp_v6};
use portcullis_xtask::rig::*;
use wire::limits::{HELLO_LEN, INITIATION_LEN, UDP_PORT};
use wire::{Header, kind};

use crate::{PATIENCE, only_v4, probe, start, verdicts, wait_seen_at};

/// Sends a frame, waiting a while where there is no room for it.
fn send_in_time(sender: &PacketSocket, frame: &[u8]) -> bool {
    (0..100).any(|_| {
        let sent = sender.send(frame);
        if !sent {
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    })
}

/// Sends frames to the Gateway as a host on the Internet, and gives what came back from it but ARP and
/// neighbour discovery.
fn answers_to(networks: &Networks, frames: &[Vec<u8>]) -> Vec<Captured> {
    let capture = Capture::filtered(&networks.internet, Some("ig"), 2000, |frame| {
        let neighbour = frame.ethertype() == 0x86dd
            && frame.bytes[20] == 58
            && (133..138).contains(&frame.bytes[54]);
        frame.kind == PacketKind::Incoming && frame.ethertype() != 0x0806 && !neighbour
    })
    .unwrap();
    let sender = PacketSocket::sender(&networks.internet, "ig").unwrap();
    for frame in frames {
        assert!(send_in_time(&sender, frame));
    }
    // What is answered is answered before what comes after it.
    pause(Duration::from_millis(300)).unwrap();
    capture.settle().unwrap();
    capture.take()
}

fn to_gateway(networks: &Networks, v4: bool, packet: &[u8]) -> Vec<u8> {
    let gateway = mac_of(networks.gateway.namespace(), "wan").unwrap();
    let own = mac_of(&networks.internet, "ig").unwrap();
    ethernet(gateway, own, if v4 { 0x0800 } else { 0x86dd }, packet)
}

/// Packets to the Gateway's tunnel port of which none may be answered, and those that are no datagrams in whole.
fn strangers(networks: &Networks) -> Vec<Vec<u8>> {
    let v4: [Ipv4Addr; 2] = ["192.0.2.254", WAN[0]].map(|a| a.parse().unwrap());
    let v6: [Ipv6Addr; 2] = ["2001:db8:1::fe", WAN[1]].map(|a| a.parse().unwrap());
    let mut frames = Vec::new();
    for size in [0, 1, 24, 56, 184, 1200] {
        frames.push(to_gateway(
            networks,
            true,
            &udp_v4(v4[0], v4[1], UDP_PORT, &vec![7; size]),
        ));
        frames.push(to_gateway(
            networks,
            false,
            &udp_v6(v6[0], v6[1], UDP_PORT, &vec![7; size]),
        ));
    }
    // A first fragment and a later one; options; extension headers.
    let whole = udp_v4(v4[0], v4[1], UDP_PORT, &[7; 64]);
    for offset in [0x2000u16, 8] {
        let mut fragment = whole.clone();
        fragment[6..8].copy_from_slice(&offset.to_be_bytes());
        mend(&mut fragment);
        frames.push(to_gateway(networks, true, &fragment));
    }
    let mut options = [&whole[..20], &[1, 1, 1, 0], &whole[20..]].concat();
    options[0] = 0x46;
    let length = options.len() as u16;
    options[2..4].copy_from_slice(&length.to_be_bytes());
    mend(&mut options);
    frames.push(to_gateway(networks, true, &options));
    let whole = udp_v6(v6[0], v6[1], UDP_PORT, &[7; 64]);
    for (next, header) in [
        (60u8, [17u8, 0, 1, 4, 0, 0, 0, 0]),
        (0, [17, 0, 1, 4, 0, 0, 0, 0]),
        (44, [17, 0, 0, 1, 0, 0, 0, 9]),
    ] {
        let mut packet = [&whole[..40], &header, &whole[40..]].concat();
        packet[6] = next;
        let length = packet.len() as u16 - 40;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        frames.push(to_gateway(networks, false, &packet));
    }
    // All of them with a tag of no VLAN too, which the kernel takes off.
    let tagged = |frame: &Vec<u8>| [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat();
    let all: Vec<_> = frames.iter().map(tagged).collect();
    frames.extend(all);
    frames.extend(keyless_frames(networks));
    frames
}

/// Frames as the protocol has them, of somebody who has no key, or no cookie.
fn keyless_frames(networks: &Networks) -> Vec<Vec<u8>> {
    let file = networks.gateway.directory().join("ws1.enrolment");
    let (enrolment, _) = control::enrolment::Enrolment::read(&file).unwrap();
    let key = control::handshake::kdf::knock_keys(enrolment.psk.as_bytes()).w2g;
    let id = enrolment.key_id.get();
    let frame = |kind, id: u32, nonce, key| {
        let length = if kind == kind::HELLO {
            HELLO_LEN
        } else {
            INITIATION_LEN
        };
        let mut header = Header::new(kind, length as u16, id, nonce);
        header.tag = header.handshake_tag(key, &vec![0; length]);
        let payload = [&header.encode()[..], &vec![0; length]].concat();
        let [from, to] = ["192.0.2.254", WAN[0]].map(|a| a.parse().unwrap());
        to_gateway(networks, true, &udp_v4(from, to, UDP_PORT, &payload))
    };
    vec![
        frame(kind::HELLO, id, 1, [1, 2]),
        frame(kind::HELLO, id ^ 1, 2, key),
        frame(kind::INITIATION, id, 3, [1, 2]),
        // Right but for its cookie, which the Gateway has made for nobody.
        frame(kind::INITIATION, id, 4, key),
    ]
}

fn mend(packet: &mut [u8]) {
    let words = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..words]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn whoever_has_no_key_sees_a_dead_port_in_whatever_way_it_is_asked() {
    for shared in [false, true] {
        let networks = start(shared);
        let frames = strangers(&networks);
        let answers = answers_to(&networks, &frames);
        // What goes to the Workstation is not an answer.
        let asker: Ipv6Addr = "2001:db8:1::fe".parse().unwrap();
        let to_asker = |frame: &&Captured| {
            frame.bytes.get(30..34) == Some(&[192, 0, 2, 254])
                || frame.bytes.get(38..54) == Some(&asker.octets())
        };
        let answer = answers.iter().find(to_asker);
        assert!(answer.is_none(), "shared {shared}: {answer:02x?}");
        let counted = verdicts(&networks);
        assert_eq!(counted["bad_tag"], 2, "{counted:?}");
        assert_eq!(counted["unknown_key"], 1, "{counted:?}");
        // Eight datagrams are long enough for a header. Four are not, and with the fragments, the options and the
        // extension headers they are ten, the router's own reports to groups aside, which have such headers too; a
        // shared port has XDP follow neither later fragments nor those. With a tag all 18 are of no kind that is
        // known here.
        assert_eq!(counted["malformed"], 8, "shared {shared}: {counted:?}");
        match shared {
            true => assert_eq!(
                (counted["outer_malformed"], counted["foreign"]),
                (6, 0),
                "{counted:?}"
            ),
            false => {
                assert!(counted["outer_malformed"] >= 10, "{counted:?}");
                assert_eq!(counted["foreign"], 18, "{counted:?}");
            }
        }
        assert!(networks.workstation.reaches(Duration::from_secs(2)));
        if !shared {
            continue;
        }
        // And there, what is no tunnel's does have answers: the test can fail.
        let [from, to] = ["192.0.2.254", WAN[0]].map(|a| a.parse().unwrap());
        let closed = to_gateway(&networks, true, &udp_v4(from, to, 9, &[7; 24]));
        let answers = answers_to(&networks, &[closed]);
        assert!(
            answers.iter().any(|frame| to_asker(&frame)),
            "a closed port"
        );
    }
}

/// Whether a datagram of so many bytes to this port is refused, from the Internet.
fn is_refused(networks: &Networks, address: &str, port: u16, size: usize) -> bool {
    let to = (address.parse::<IpAddr>().unwrap(), port);
    let any = match to.0 {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = networks.internet.run(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket)
    });
    let socket = socket.unwrap();
    let patience = Duration::from_millis(300);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(&vec![7; size]).unwrap();
    let answer = socket.recv(&mut [0; 1]);
    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_port_that_is_not_to_look_dead_says_that_nobody_listens_and_not_more_often_than_it_should() {
    require_root().unwrap();
    for shared in [false, true] {
        let mut networks = networks(&Programs::find().unwrap(), shared).unwrap();
        let text = std::fs::read_to_string(networks.gateway.config()).unwrap();
        networks
            .gateway
            .configure(&format!("{text}stealth = false\n"))
            .unwrap();
        networks.start().unwrap();
        for address in WAN {
            for size in [0, 5, 24, 1200] {
                let refused = is_refused(&networks, address, UDP_PORT, size);
                assert!(refused, "{address}, {size} bytes, shared {shared}");
            }
            // What is not the tunnel's is the kernel's to refuse, or nobody's.
            assert_eq!(is_refused(&networks, address, 9, 24), shared, "{address}");
        }
        // What no kernel would answer is not, and a flood is answered at a bounded rate.
        let [from, to] = ["192.0.2.254", WAN[0]].map(|a| a.parse().unwrap());
        let sound = udp_v4(from, to, UDP_PORT, &[7; 64]);
        let mut fragment = sound.clone();
        fragment[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
        mend(&mut fragment);
        let to_asker = |frame: &&Captured| frame.bytes.get(30..34) == Some(&[192, 0, 2, 254]);
        let of_fragment = answers_to(&networks, &[to_gateway(&networks, true, &fragment)]);
        assert_eq!(of_fragment.iter().filter(to_asker).count(), 0);
        pause(Duration::from_secs(1)).unwrap();
        let flood = vec![to_gateway(&networks, true, &sound); 1000];
        let answers = answers_to(&networks, &flood);
        let answers = answers.iter().filter(to_asker).count();
        assert!((10..=100).contains(&answers), "{answers}");
        assert!(networks.workstation.reaches(Duration::from_secs(2)));
        let told = "told that nobody listens";
        let shown = networks.gateway.cli("show").unwrap();
        assert!(shown.contains(told), "{shown}");
        let refused = to_gateway(&networks, true, &sound);
        let refused: String = refused.iter().map(|byte| format!("{byte:02x}")).collect();
        let explained = networks.gateway.cli(&format!("explain {refused}")).unwrap();
        assert!(explained.contains(told), "{explained}");
    }
}

/// Whoever is on the path may send again what it has seen, from wherever it likes.
#[test]
fn frames_sent_again_from_elsewhere_move_no_session_and_open_nothing() {
    let networks = only_v4();
    let before = wait_seen_at(&networks, &["198.51.100.2:"]);
    let capture = Capture::filtered(&networks.internet, Some("ih"), 3000, |frame| {
        frame.kind == PacketKind::Incoming
            && frame.ethertype() == 0x0800
            && frame.bytes.get(23) == Some(&17)
    })
    .unwrap();
    let (_echo, probe) = probe(&networks);
    wait_for("frames to send again", PATIENCE, || {
        (capture.incoming() > 500).then_some(())
    })
    .unwrap();
    capture.settle().unwrap();
    let seen = capture.take();
    let gateway = mac_of(networks.gateway.namespace(), "wan").unwrap();
    let own = mac_of(&networks.internet, "ig").unwrap();
    let sender = PacketSocket::sender(&networks.internet, "ig").unwrap();
    let opened = networks.gateway.show().unwrap().number("ws1", "opened");
    let mut sent = 0u64;
    for round in 0..20u8 {
        for frame in &seen {
            let mut again = frame.bytes.clone();
            again[..6].copy_from_slice(&gateway);
            again[6..12].copy_from_slice(&own);
            again[26..30].copy_from_slice(&[203, 0, 113, 66 + round]);
            mend(&mut again[14..]);
            // No UDP checksum.
            again[40..42].fill(0);
            sent += u64::from(send_in_time(&sender, &again));
        }
    }
    pause(Duration::from_millis(500)).unwrap();
    assert_eq!(networks.seen_at().unwrap().as_deref(), Some(&*before));
    let report = probe.finish();
    let counted = networks.gateway.show().unwrap();
    let genuine = counted.number("ws1", "opened") - opened;
    assert!(sent > 1000, "{sent}");
    assert!(
        genuine <= report.sent() as u64 + 50,
        "{genuine} of {sent} copies and {} datagrams",
        report.sent()
    );
    assert!(
        report.lost() <= report.sent() / 50,
        "{} of {} lost",
        report.lost(),
        report.sent()
    );
    println!(
        "{sent} copies: {:?}, {:?}",
        verdicts(&networks),
        counted.drops("ws1")
    );
}

/// A recorded Hello is right for ever; what it may cost is bounded.
#[test]
fn a_flood_of_hellos_from_everywhere_ends_no_session_and_locks_no_other_workstation_out() {
    let networks = only_v4();
    let mut other = networks.neighbour(&Programs::find().unwrap()).unwrap();
    let (_echo, probe) = probe(&networks);
    let file = networks.gateway.directory().join("ws1.enrolment");
    let (enrolment, _) = control::enrolment::Enrolment::read(&file).unwrap();
    let knock = control::handshake::kdf::knock_keys(enrolment.psk.as_bytes());
    let mut header = Header::new(kind::HELLO, 32, enrolment.key_id.get(), 77);
    header.tag = header.handshake_tag(knock.w2g, &[0; 32]);
    let hello = [&header.encode()[..], &[0; 32]].concat();
    let frames: Vec<Vec<u8>> = (0..4096u32)
        .map(|at| {
            let source =
                Ipv4Addr::from_bits(0x2c00_0000 + at.wrapping_mul(0x9e37_79b1) % 0x1000_0000);
            to_gateway(
                &networks,
                true,
                &udp_v4(source, WAN[0].parse().unwrap(), UDP_PORT, &hello),
            )
        })
        .collect();
    let sender = PacketSocket::sender(&networks.internet, "ig").unwrap();
    let stop = AtomicBool::new(false);
    let file = networks.gateway.add("ws2").unwrap();
    other.enroll(&file).unwrap();
    let mut took = Duration::ZERO;
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for frame in &frames {
                    sent += u64::from(sender.send(frame));
                }
            }
            sent
        });
        let begun = std::time::Instant::now();
        let started = other.start();
        took = begun.elapsed();
        let _ = pause(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        started.unwrap();
        flood.join().unwrap()
    });
    let report = probe.finish();
    println!(
        "{sent} Hellos; ws2 in after {took:?}; {} of {} of ws1's lost",
        report.lost(),
        report.sent()
    );
    assert!(sent > 100_000, "{sent}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(
        report.lost() <= report.sent() / 10,
        "{} of {} lost",
        report.lost(),
        report.sent()
    );
}
