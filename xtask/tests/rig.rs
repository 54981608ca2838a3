//! The rig itself, without the programs it was made for: what a passing end-to-end test proves
//! depends on it. Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis_xtask::attack::{self, Bounds, CATALOGUE, Known, Noise, ethernet, flood};
use portcullis_xtask::middlebox::{Impairment, Middlebox};
use portcullis_xtask::rig::*;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));

/// Waits until the first ping is answered: the link carries and addresses are resolved.
fn reached(from: &Namespace) {
    wait_for("the first ping", Duration::from_secs(5), || {
        let one = ping(from, A, [8], Duration::from_millis(100)).ok()?;
        (one.answered == 1).then_some(())
    })
    .unwrap();
}

/// Two hosts on a cable, with addresses and up.
fn pair() -> (Arc<Namespace>, Arc<Namespace>) {
    require_root().unwrap();
    let a = Arc::new(Namespace::create("a").unwrap());
    let b = Arc::new(Namespace::create("b").unwrap());
    veth((&a, "x"), (&b, "y"), 1500).unwrap();
    for (host, interface, address) in [(&a, "x", "10.9.0.1/24"), (&b, "y", "10.9.0.2/24")] {
        host.ip(&format!("addr add {address} dev {interface}"))
            .unwrap();
        set_link(host, interface, true).unwrap();
    }
    reached(&b);
    (a, b)
}

#[test]
fn a_namespace_and_its_processes_are_gone_when_dropped() {
    require_root().unwrap();
    let host = Namespace::create("gone").unwrap();
    let path = Path::new("/run/netns").join(host.name());
    assert!(path.exists());
    let scratch = Scratch::new("gone").unwrap();
    let mut command = host.command("sleep");
    command.arg("1000");
    let process = Process::start("sleep", command, &scratch.path().join("log")).unwrap();
    let pid = process.pid();
    // It is in the namespace, and in ours for everything else.
    let ns = |kind: &str, pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    assert_ne!(ns("net", pid), ns("net", std::process::id()));
    assert_eq!(ns("mnt", pid), ns("mnt", std::process::id()));
    drop(process);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    drop(host);
    assert!(!path.exists());
}

#[test]
fn what_a_killed_run_left_is_swept() {
    require_root().unwrap();
    // The pid of a process that has ended.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let dead = ended.id();
    ended.wait().unwrap();
    let name = format!("pcl-{dead}-0-left");
    let ip = |arguments: &[&str]| {
        let status = std::process::Command::new("ip").args(arguments).status();
        assert!(status.unwrap().success());
    };
    ip(&["netns", "add", &name]);
    let file = std::env::temp_dir().join(&name);
    std::fs::create_dir(&file).unwrap();
    let mut left = std::process::Command::new("nsenter")
        .args([&format!("--net=/run/netns/{name}"), "sleep", "1000"])
        .spawn()
        .unwrap();
    wait_for(
        "the process to be in the namespace",
        Duration::from_secs(5),
        || {
            let inside = std::fs::read_link(format!("/proc/{}/ns/net", left.id())).ok()?;
            (inside != std::fs::read_link("/proc/self/ns/net").ok()?).then_some(())
        },
    )
    .unwrap();
    let mine = Namespace::create("mine").unwrap();
    sweep();
    assert!(!left.wait().unwrap().success());
    assert!(!Path::new("/run/netns").join(&name).exists() && !file.exists());
    assert!(
        Path::new("/run/netns").join(mine.name()).exists(),
        "a live run's is kept"
    );
}

#[test]
fn ping_of_every_size_is_answered_and_a_link_that_is_down_answers_none() {
    let _turn = Serial::acquire().unwrap();
    let (_a, b) = pair();
    let sizes: Vec<usize> = (0..=1472).collect();
    let up = ping(&b, A, sizes.iter().copied(), Duration::from_secs(1)).unwrap();
    assert_eq!(up.answered, sizes.len());
    set_link(&b, "y", false).unwrap();
    let down = ping(&b, A, [0, 100], Duration::from_millis(50)).unwrap();
    assert_eq!((down.sent, down.answered), (2, 0));
}

#[test]
fn a_capture_counts_every_frame_once_and_tells_ways_apart() {
    let _turn = Serial::acquire().unwrap();
    let (a, b) = pair();
    let ours = |frame: &Captured| frame.ethertype() == 0x88b6;
    let on_a = Capture::filtered(&a, Some("x"), 10, ours).unwrap();
    let on_b = Capture::filtered(&b, None, 10, ours).unwrap();
    let socket = PacketSocket::open(&b, Some("y")).unwrap();
    let to = mac_of(&a, "x").unwrap();
    let from = mac_of(&b, "y").unwrap();
    for number in 0..500u32 {
        assert!(socket.send(&ethernet(to, from, 0x88b6, &number.to_be_bytes())));
    }
    on_a.settle().unwrap();
    on_b.settle().unwrap();
    assert_eq!(
        (on_a.incoming(), on_a.outgoing(), on_a.overruns()),
        (500, 0, 0)
    );
    assert_eq!((on_b.incoming(), on_b.outgoing()), (0, 500));
    let kept = on_a.take();
    assert_eq!(kept.len(), 10);
    assert_eq!((kept[0].destination(), kept[0].source()), (to, from));
}

#[test]
fn a_hub_shows_everybody_what_a_switch_shows_one() {
    let _turn = Serial::acquire().unwrap();
    require_root().unwrap();
    let hosts: Vec<Namespace> = (0..3)
        .map(|n| Namespace::create(&format!("h{n}")).unwrap())
        .collect();
    let mut lan = Bridge::create("lan").unwrap();
    for (host, port) in hosts.iter().zip(["p0", "p1", "p2"]) {
        lan.plug(host, "c0", port, 1500).unwrap();
        set_link(host, "c0", true).unwrap();
    }
    let macs: Vec<_> = hosts
        .iter()
        .map(|host| mac_of(host, "c0").unwrap())
        .collect();
    let ours = |frame: &Captured| frame.ethertype() == 0x88b6 || frame.ethertype() == 0x8100;
    let third = Capture::filtered(&hosts[2], Some("c0"), 100, ours).unwrap();
    let sockets: Vec<_> = hosts[..2]
        .iter()
        .map(|host| PacketSocket::sender(host, "c0").unwrap())
        .collect();
    let exchange = || {
        // A link that came up a moment ago may not carry yet.
        for _ in 0..20 {
            assert!(sockets[0].send(&ethernet(macs[1], macs[0], 0x88b6, b"there")));
            assert!(sockets[1].send(&ethernet(macs[0], macs[1], 0x88b6, b"back")));
            std::thread::sleep(Duration::from_millis(1));
        }
        third.settle().unwrap();
    };
    exchange();
    exchange();
    let learnt = third.incoming();
    exchange();
    assert_eq!(
        third.incoming(),
        learnt,
        "a switch that has learnt floods nothing"
    );
    lan.hub(true).unwrap();
    exchange();
    assert_eq!(third.incoming(), learnt + 40);
    lan.hub(false).unwrap();
    exchange();
    exchange();
    let learnt = third.incoming();
    exchange();
    assert_eq!(third.incoming(), learnt, "a switch again");
}

#[test]
fn a_download_is_whole_and_its_hash_is_right() {
    let (a, b) = pair();
    let _server = HttpServer::start(&a, 8080).unwrap();
    let progress = AtomicU64::new(0);
    let got = download(&b, (A, 8080), 5_000_001, &progress).unwrap();
    assert_eq!(got.sha256, body_sha256(5_000_001));
    assert_eq!(progress.into_inner(), 5_000_001);
    assert!(download(&b, (A, 8081), 5, &AtomicU64::new(0)).is_err());
}

#[test]
fn a_stream_keeps_its_rate_and_survives_an_outage() {
    let _turn = Serial::acquire().unwrap();
    let (a, b) = pair();
    let server = HttpServer::start(&a, 8080).unwrap();
    let stream = Stream::start(Arc::clone(&b), (A, 8080), 5_000_000);
    wait_for("the stream", Duration::from_secs(5), || {
        (stream.received() > 0).then_some(())
    })
    .unwrap();
    let before = stream.received();
    std::thread::sleep(Duration::from_secs(1));
    let rate = stream.received() - before;
    assert!(
        (4_000_000..6_000_000).contains(&rate),
        "{rate} bytes in a second"
    );
    drop(server);
    let _server = HttpServer::start(&a, 8080).unwrap();
    let before = stream.received() + 1_000_000;
    wait_for("the stream to go on", Duration::from_secs(5), || {
        (stream.received() > before).then_some(())
    })
    .unwrap();
}

#[test]
fn a_probe_sees_an_outage_as_long_as_it_is() {
    let _turn = Serial::acquire().unwrap();
    let (a, b) = pair();
    let _echo = Echo::start(&a, 7).unwrap();
    let probe = Probe::start(&b, (A, 7), Duration::from_millis(1), 64).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    set_link(&b, "y", false).unwrap();
    let down = Instant::now();
    std::thread::sleep(Duration::from_millis(400));
    set_link(&b, "y", true).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let report = probe.finish();
    let gap = report.longest_gap();
    assert!(
        gap >= Duration::from_millis(390) && gap < Duration::from_millis(1500),
        "{gap:?}"
    );
    assert!(report.recovered_after(down).unwrap() >= Duration::from_millis(390));
    assert!(report.lost() >= 50, "{} lost", report.lost());
    let calm = Probe::start(&b, (A, 7), Duration::from_millis(1), 64).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let report = calm.finish();
    assert!(report.sent() > 100, "{} sent", report.sent());
    assert_eq!(report.lost(), 0);
}

#[test]
fn iperf3_runs_both_ways_from_several_hosts_at_once() {
    let _turn = Serial::acquire().unwrap();
    let (a, b) = pair();
    let rates = iperf3_all(&a, A, &[&b, &b], 1).unwrap();
    assert_eq!(rates.len(), 2);
    assert!(
        rates.iter().all(|rate| rate.up > 1e6 && rate.down > 1e6),
        "{rates:?}"
    );
}

#[test]
fn a_vlan_tag_crosses_the_switch_inside_the_frame() {
    require_root().unwrap();
    let hosts: Vec<Namespace> = (0..2)
        .map(|n| Namespace::create(&format!("v{n}")).unwrap())
        .collect();
    let mut lan = Bridge::create("lan").unwrap();
    for (host, port) in hosts.iter().zip(["p0", "p1"]) {
        lan.plug(host, "c0", port, 1500).unwrap();
        set_link(host, "c0", true).unwrap();
    }
    let features = lan.namespace().exec("ethtool", "-k p1").unwrap();
    for off in [
        "tx-vlan-offload: off",
        "tx-vlan-stag-hw-insert: off",
        "rx-vlan-offload: off",
    ] {
        assert!(features.contains(off), "{off} in\n{features}");
    }
    let socket = PacketSocket::sender(&hosts[0], "c0").unwrap();
    let frame = ethernet(mac_of(&hosts[1], "c0").unwrap(), [2; 6], 0x88b6, b"x");
    // The tap strips the tag, so the length tells: an untagged frame is four bytes longer.
    let capture = Capture::filtered(&hosts[1], Some("c0"), 9, |f| f.source() == [2; 6]).unwrap();
    wait_for(
        "a tagged frame to cross the switch",
        Duration::from_secs(5),
        || {
            assert!(socket.send(&attack::tagged(&frame, &[0])));
            (capture.incoming() > 0).then_some(())
        },
    )
    .unwrap();
}

/// Two hosts with a middlebox between them.
fn through(impairment: Impairment) -> (Namespace, Namespace, Middlebox, Namespace) {
    require_root().unwrap();
    let [a, m, b] = ["a", "m", "b"].map(|label| Namespace::create(label).unwrap());
    // What is lost and counted is then only what a test sends.
    for host in [&a, &m, &b] {
        host.sysctl("ipv6/conf/default/disable_ipv6", "1").unwrap();
    }
    veth((&a, "x"), (&m, "ma"), 1500).unwrap();
    veth((&b, "y"), (&m, "mb"), 1500).unwrap();
    for (host, interface, address) in [(&a, "x", "10.9.0.1/24"), (&b, "y", "10.9.0.2/24")] {
        host.ip(&format!("addr add {address} dev {interface}"))
            .unwrap();
        offloads_off(host, interface).unwrap();
        set_link(host, interface, true).unwrap();
    }
    for interface in ["ma", "mb"] {
        offloads_off(&m, interface).unwrap();
        set_link(&m, interface, true).unwrap();
    }
    let middlebox = Middlebox::join(&m, "ma", "mb", 1, impairment).unwrap();
    (a, b, middlebox, m)
}

#[test]
fn a_middlebox_carries_everything_until_it_is_told_not_to() {
    let _turn = Serial::acquire().unwrap();
    let (a, b, middlebox, _m) = through(Impairment::default());
    reached(&b);
    let all = ping(&b, A, 0..=1472, Duration::from_secs(1)).unwrap();
    assert_eq!(all.answered, 1473);
    middlebox.impair(Impairment {
        cut: true,
        ..Impairment::default()
    });
    assert_eq!(
        ping(&b, A, [1, 2], Duration::from_millis(50))
            .unwrap()
            .answered,
        0
    );
    middlebox.impair(Impairment {
        delay: Duration::from_millis(20),
        ..Impairment::default()
    });
    let slow = ping(&b, A, [1; 10], Duration::from_secs(1)).unwrap();
    assert!(
        slow.mean().unwrap() >= Duration::from_millis(40),
        "{:?}",
        slow.mean()
    );
    drop(a);
}

#[test]
fn a_middlebox_loses_duplicates_and_reorders_as_many_frames_as_it_is_told_to() {
    let _turn = Serial::acquire().unwrap();
    let (a, b, middlebox, _m) = through(Impairment {
        loss: 0.1,
        duplication: 0.1,
        reordering: 0.1,
        hold: Duration::from_millis(5),
        ..Impairment::default()
    });
    let ours = |frame: &Captured| frame.ethertype() == 0x88b6;
    let capture = Capture::filtered(&a, Some("x"), 20_000, ours).unwrap();
    let socket = PacketSocket::sender(&b, "y").unwrap();
    let to = mac_of(&a, "x").unwrap();
    let bounds = Bounds {
        frames: 10_000,
        time: Duration::from_secs(10),
        rate: 20_000,
    };
    let sent = flood(&socket, bounds, |number, buffer| {
        *buffer = ethernet(to, [2; 6], 0x88b6, &number.to_be_bytes());
    });
    assert_eq!(sent, 10_000);
    wait_for("the last frames", Duration::from_secs(5), || {
        capture
            .settle()
            .ok()
            .filter(|()| middlebox.received()[1] >= 10_000)
    })
    .unwrap();
    capture.settle().unwrap();
    let numbers: Vec<u64> = capture
        .frames()
        .iter()
        .map(|frame| u64::from_be_bytes(frame.bytes[14..22].try_into().unwrap()))
        .collect();
    let lost = middlebox.lost()[1];
    assert!((800..1200).contains(&lost), "{lost} lost");
    let distinct: std::collections::HashSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len() as u64, 10_000 - lost);
    let copies = numbers.len() - distinct.len();
    assert!((750..1100).contains(&copies), "{copies} copies");
    let late = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late > 300, "{late} out of order");
}

#[test]
fn without_a_wall_every_attack_reaches_the_kernel() {
    let _turn = Serial::acquire().unwrap();
    let (a, b) = pair();
    let gateway = mac_of(&a, "x").unwrap();
    let mut noise = Noise::new(1);
    let mut header = wire::Header::new(wire::kind::DATA, 100, 0x1_0005, 9);
    header.tag = 1;
    let data = attack::portcullis(gateway, [2; 6], &header, &[1; 116]);
    let known = Known {
        gateway,
        victim: [2, 0, 0, 0, 0, 2],
        own: mac_of(&b, "y").unwrap(),
        key_id: 77,
        handshakes: vec![
            attack::hello([2; 6], 77, 1, [1, 2]),
            attack::initiation(gateway, [2; 6], 77, 1, [1, 2], &mut noise),
        ],
        data: vec![data.clone()],
        answers: Vec::new(),
        to_victim: Default::default(),
        sealer: None,
        ways: None,
        newest: Arc::new(Mutex::new(data)),
        victim_v4: Ipv4Addr::new(10, 152, 152, 12),
    };
    let socket = PacketSocket::sender(&b, "y").unwrap();
    for attack in CATALOGUE
        .iter()
        .filter(|attack| attack.from == attack::From::Cable)
    {
        let capture =
            Capture::filtered(&a, Some("x"), 0, |frame| frame.kind == PacketKind::Incoming)
                .unwrap();
        let bounds = Bounds {
            frames: 1000,
            time: Duration::from_secs(2),
            rate: 50_000,
        };
        let sent = flood(&socket, bounds, (attack.frames)(&known));
        capture.settle().unwrap();
        assert_eq!(sent, 1000, "{}", attack.name);
        assert!(
            capture.incoming() >= sent,
            "{}: {}",
            attack.name,
            capture.incoming()
        );
    }
}

#[test]
fn a_paced_stream_of_datagrams_arrives_whole_and_one_that_nobody_carries_is_lost() {
    let (a, b) = pair();
    let mut path = UdpPath::open(&b, &a, A).unwrap();
    let time = Duration::from_millis(200);
    for payload in [16, 64, 1300] {
        let trial = path.trial(payload, 5000.0, time).unwrap();
        assert!(trial.sent > 0, "{trial:?}");
        assert_eq!(
            (trial.received, trial.overflowed),
            (trial.sent, 0),
            "{payload}: {trial:?}"
        );
        assert_eq!(trial.loss(), 0.0);
        // It may offer less than it was asked to, on a busy machine; never more, but for a burst.
        assert!(
            trial.offered() <= 5000.0 + 64.0 / trial.seconds,
            "{trial:?}"
        );
    }
    set_link(&a, "x", false).unwrap();
    let trial = path.trial(64, 5000.0, time).unwrap();
    assert_eq!(trial.received, 0, "{trial:?}");
    set_link(&a, "x", true).unwrap();
    reached(&b);
    // What was on its way in an earlier trial does not count in a later one.
    let trial = path.trial(64, 1000.0, time).unwrap();
    assert_eq!(trial.received, trial.sent, "{trial:?}");
}

#[test]
fn every_echo_on_a_plain_cable_is_timed_and_those_to_nobody_are_lost() {
    let (_a, b) = pair();
    let IpAddr::V4(there) = A else { unreachable!() };
    let every = Duration::from_millis(2);
    let trips = round_trips(&b, there, 50, every).unwrap();
    assert_eq!((trips.sent, trips.micros.len()), (50, 50));
    assert!(
        trips.micros.iter().all(|micros| *micros > 0.0),
        "{:?}",
        trips.micros
    );
    let nobody = Ipv4Addr::new(10, 9, 0, 77);
    let trips = round_trips(&b, nobody, 5, every).unwrap();
    assert_eq!((trips.sent, trips.micros.len()), (5, 0));
}
