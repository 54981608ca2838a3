//! Workstations over networks: the tunnel in UDP, through NAT and from place to place. Needs root and the
//! programs (`cargo xtask test` builds them).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use portcullis_xtask::attack::{checksum, ethernet, udp_v4, udp_v6};
use portcullis_xtask::rig::*;
use wire::limits::{ETH_LEN, HELLO_LEN, INITIATION_LEN, UDP_PORT};
use wire::{Header, kind};

const PATIENCE: Duration = Duration::from_secs(20);

fn start(shared: bool) -> Networks {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), shared).unwrap();
    networks.start().unwrap();
    networks
}

fn verdicts(networks: &Networks) -> std::collections::BTreeMap<String, u64> {
    networks.gateway.show().unwrap().verdicts("wan")
}

/// All that should pass passes: pings of both families up to the MTU, and TCP both ways.
fn passes(networks: &Networks) {
    let host = networks.workstation.namespace();
    let mtu = networks.workstation.tunnel_mtu().unwrap();
    for (to, header) in [(GATEWAY_V4.into(), 28), (GATEWAY_V6.into(), 48)] {
        let sizes = [0, 1, 500, mtu - header];
        let ping = ping(host, to, sizes, Duration::from_secs(2)).unwrap();
        assert_eq!((ping.sent, ping.answered), (4, 4), "to {to}");
    }
    let rates = iperf3(networks.gateway.namespace(), host, GATEWAY_V4.into(), 1).unwrap();
    assert!(rates.up > 1e6 && rates.down > 1e6, "{rates:?}");
}

/// An echo server on the Gateway, and a probe of it through the tunnel.
fn probe(networks: &Networks) -> (Echo, Probe) {
    let echo = Echo::start(networks.gateway.namespace(), 7).unwrap();
    let host = networks.workstation.namespace();
    let every = Duration::from_millis(5);
    let probe = Probe::start(host, (GATEWAY_V4.into(), 7), every, 200).unwrap();
    (echo, probe)
}

fn wait_seen_at(networks: &Networks, start: &[&str]) -> String {
    wait_for(
        &format!("the Workstation to be seen at {start:?}"),
        PATIENCE,
        || {
            let seen = networks.seen_at().unwrap()?;
            start
                .iter()
                .any(|start| seen.starts_with(start))
                .then_some(seen)
        },
    )
    .unwrap()
}

/// How old the session is, in seconds: it goes on.
fn age(networks: &Networks) -> u64 {
    let show = networks.gateway.show().unwrap();
    let one = show.workstation("ws1").unwrap();
    one["session"]["age_seconds"].as_u64().unwrap()
}

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

fn only_v4() -> Networks {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), false).unwrap();
    networks.reach_by(WAN[0]).unwrap();
    networks.start().unwrap();
    networks
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

#[test]
fn a_gateway_that_is_killed_and_started_again_is_found_within_seven_seconds() {
    let mut networks = start(false);
    let (_echo, probe) = probe(&networks);
    pause(Duration::from_secs(1)).unwrap();
    networks.gateway.kill();
    let killed = std::time::Instant::now();
    networks.gateway.start().unwrap();
    wait_for("the tunnel after a restart", PATIENCE, || {
        networks
            .workstation
            .reaches(Duration::from_millis(100))
            .then_some(())
    })
    .unwrap();
    println!("reached again after {:?}", killed.elapsed());
    pause(Duration::from_millis(200)).unwrap();
    let report = probe.finish();
    let after = report.recovered_after(killed).unwrap();
    println!("traffic waited {after:?}");
    assert!(after < Duration::from_secs(7), "{after:?}");
}

#[test]
fn a_path_that_silently_loses_large_packets_is_found_out_and_tcp_gets_through() {
    use portcullis_xtask::middlebox::Impairment;
    let mut networks = only_v4();
    assert_eq!(networks.workstation.tunnel_mtu().unwrap(), 1412);
    for carries in [1400, 1280, 1346] {
        networks.middlebox.impair(Impairment {
            largest: ETH_LEN + carries,
            ..Impairment::default()
        });
        networks.workstation.stop().unwrap();
        networks.workstation.start().unwrap();
        finds(
            &networks,
            carries,
            &format!("the MTU of a path of {carries}"),
        );
    }
}

/// The largest packet inside on an IPv4 path that carries `path` bytes one way is found, and TCP passes both ways.
fn finds(networks: &Networks, path: usize, what: &str) {
    let fits = path - 28 - 40;
    wait_for(what, PATIENCE, || {
        let mtu = networks.workstation.tunnel_mtu().unwrap();
        (mtu <= fits && mtu + 8 > fits).then_some(())
    })
    .unwrap_or_else(|_| panic!("{what}: {:?}", networks.workstation.tunnel_mtu()));
    let mtu = networks.workstation.tunnel_mtu().unwrap();
    println!("{what}: {mtu} inside, of {fits} that would fit");
    let (host, gateway) = (
        networks.workstation.namespace(),
        networks.gateway.namespace(),
    );
    let ping = ping(host, GATEWAY_V4.into(), [mtu - 28], Duration::from_secs(2)).unwrap();
    assert_eq!(ping.answered, 1, "{what}");
    let rates = iperf3(gateway, host, GATEWAY_V4.into(), 1).unwrap();
    assert!(rates.up > 1e5 && rates.down > 1e5, "{what}: {rates:?}");
}

/// What the routers say by ICMP about it is nobody's to believe.
#[test]
fn a_path_that_is_narrower_one_way_than_the_other_is_found_out() {
    let mut networks = only_v4();
    for (router, interface, way) in [
        (&networks.internet, "ih", "towards the Workstation"),
        (&networks.home, "hw", "towards the Gateway"),
    ] {
        router
            .ip(&format!("link set dev {interface} mtu 1300"))
            .unwrap();
        networks.workstation.stop().unwrap();
        networks.workstation.start().unwrap();
        finds(&networks, 1300, way);
        router
            .ip(&format!("link set dev {interface} mtu 1500"))
            .unwrap();
    }
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

/// A connection that the Gateway sends on as fast as it goes, and what has arrived of it.
struct Download {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Download {
    fn start(networks: &Networks) -> Self {
        let to = (GATEWAY_V4, 5201);
        let listener = networks
            .gateway
            .namespace()
            .run(|| Ok(TcpListener::bind(to)?));
        let listener = listener.unwrap();
        let host = networks.workstation.namespace();
        let mut client = host.run(|| Ok(TcpStream::connect(to)?)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        server
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let (arrived, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let receive = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(count) = client.read(&mut buffer) {
                    counted.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        });
        let stopped = Arc::clone(&stop);
        let send = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = server.write(&[7; 1 << 14]);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            arrived,
            stop,
            threads: vec![receive, send],
        }
    }

    /// Bytes that have arrived so far.
    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The Gateway's kernel knows nothing of a session's MTU but what it is told.
#[test]
fn a_connection_goes_on_when_the_workstation_moves_to_a_narrower_path() {
    use portcullis_xtask::middlebox::Impairment;
    let networks = only_v4();
    networks.elsewhere().unwrap();
    wait_seen_at(&networks, &["203.0.113.2:"]);
    networks.middlebox.impair(Impairment {
        largest: ETH_LEN + 1300,
        ..Impairment::default()
    });
    let download = Download::start(&networks);
    wait_for("the download", PATIENCE, || {
        (download.arrived() > 1 << 20).then_some(())
    })
    .unwrap();
    networks.at_home().unwrap();
    wait_seen_at(&networks, &["198.51.100.2:"]);
    wait_for("the MTU of the path", PATIENCE, || {
        let mtu = networks.workstation.tunnel_mtu().unwrap();
        (1192..=1232).contains(&mtu).then_some(())
    })
    .unwrap();
    let before = download.arrived();
    wait_for("the download to go on", PATIENCE, || {
        (download.arrived() > before + (1 << 20)).then_some(())
    })
    .unwrap_or_else(|_| panic!("{} more bytes", download.arrived() - before));
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

#[test]
fn a_path_that_carries_more_than_ethernet_does_is_used_in_full() {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), false).unwrap();
    for (host, interface) in [
        (networks.gateway.namespace(), "wan"),
        (&networks.internet, "ig"),
        (&networks.internet, "iw"),
        (networks.workstation.namespace(), WLAN),
    ] {
        host.ip(&format!("link set dev {interface} mtu 9000"))
            .unwrap();
    }
    networks.elsewhere().unwrap();
    networks.start().unwrap();
    let found = |mtu: u32, what: &str| {
        wait_for(what, PATIENCE, || {
            (networks.workstation.tunnel_mtu().unwrap() == mtu as usize).then_some(())
        })
        .unwrap_or_else(|_| panic!("{what}: {:?}", networks.workstation.tunnel_mtu()));
        passes(&networks);
    };
    // IPv6 and UDP headers, the tunnel's own.
    found(9000 - 48 - 40, "the MTU of a jumbo path");
    networks.at_home().unwrap();
    found(1500 - 48 - 40, "the MTU at home");
    networks.elsewhere().unwrap();
    found(9000 - 48 - 40, "the MTU of a jumbo path again");
}

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
    }
}

#[test]
fn the_kernel_has_a_shared_port_but_for_the_tunnels_datagrams() {
    let networks = start(true);
    passes(&networks);
    let (gateway, outside) = (networks.gateway.namespace(), &networks.internet);
    for address in WAN {
        let address = address.parse().unwrap();
        let ping = ping(outside, address, [0, 1400, 3000], Duration::from_secs(2)).unwrap();
        assert_eq!(ping.answered, 3, "{address}");
        let rates = iperf3(gateway, outside, address, 1).unwrap();
        assert!(rates.up > 1e7 && rates.down > 1e7, "{rates:?}");
    }
    let _echo = Echo::start(gateway, 7).unwrap();
    let probe = Probe::start(
        outside,
        (WAN[0].parse().unwrap(), 7),
        Duration::from_millis(5),
        3000,
    )
    .unwrap();
    pause(Duration::from_secs(1)).unwrap();
    let report = probe.finish();
    assert!(
        report.sent() > 50 && report.lost() == 0,
        "datagrams in fragments: {report:?}"
    );
    let counted = verdicts(&networks);
    assert!(
        counted["passed"] > 1000 && counted["admitted"] > 1000,
        "{counted:?}"
    );
    // It is said wherever somebody looks.
    let shown = networks.gateway.cli("show").unwrap();
    assert!(shown.contains("shared"), "{shown}");
    // The interface is left as it is when the daemon stops, and when the wall is taken down.
    let mut networks = networks;
    networks.gateway.stop().unwrap();
    let answers = |networks: &Networks| {
        let to = WAN[0].parse().unwrap();
        let ping = ping(&networks.internet, to, [56], Duration::from_secs(1)).unwrap();
        ping.answered == 1
    };
    assert!(answers(&networks));
    let lowered = networks.gateway.daemon().arg("--lower").output().unwrap();
    assert!(lowered.status.success(), "{lowered:?}");
    assert!(answers(&networks));
    let link = networks
        .gateway
        .namespace()
        .ip("-d link show dev wan")
        .unwrap();
    assert!(!link.contains("xdp"), "{link}");
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

/// A name server's answer changes while the Gateway moves.
#[test]
fn a_gateway_whose_name_has_another_address_is_found_there() {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    let mut networks = networks(&programs, false).unwrap();
    networks
        .internet
        .ip("addr add 192.0.2.53/24 dev ig")
        .unwrap();
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let server = NameServer::at(
        &networks.internet,
        address("192.0.2.53"),
        "gw.example",
        address("192.0.2.9"),
    )
    .unwrap();
    networks.reach_by("gw.example").unwrap();
    networks
        .workstation
        .name_server(address("192.0.2.53"))
        .unwrap();
    networks.gateway.start().unwrap();
    let file = networks.gateway.add("ws1").unwrap();
    networks.workstation.enroll(&file).unwrap();
    networks.workstation.launch().unwrap();
    // Nobody is at the address that the name has now.
    pause(Duration::from_secs(2)).unwrap();
    assert!(!networks.workstation.reaches(Duration::from_millis(200)));
    server.change(address(WAN[0]));
    let waited = networks.workstation.agent("status --wait 30").output();
    assert!(waited.unwrap().status.success());
    let status = networks.workstation.status().unwrap();
    assert_eq!(status["gateway"], format!("{}:{UDP_PORT}", WAN[0]));
}

#[test]
fn loss_delay_duplication_and_reordering_are_got_through() {
    use portcullis_xtask::middlebox::Impairment;
    let mut networks = only_v4();
    networks.middlebox.impair(Impairment {
        loss: 0.05,
        duplication: 0.2,
        reordering: 0.05,
        hold: Duration::from_millis(30),
        delay: Duration::from_millis(100),
        ..Impairment::default()
    });
    networks.workstation.rekey().unwrap();
    networks.workstation.stop().unwrap();
    networks.workstation.start().unwrap();
    let mut watch = networks
        .workstation
        .agent("watch --verdict replayed --count 1");
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let ping = ping(
        networks.workstation.namespace(),
        GATEWAY_V4.into(),
        [56; 60],
        Duration::from_secs(1),
    )
    .unwrap();
    assert!(ping.answered >= 36, "{ping:?}");
    let counted = networks.gateway.show().unwrap();
    assert_eq!(counted.number("ws1", "open_failed"), 0);
    assert!(counted.number("ws1", "replayed") > 0, "copies are seen");
    // Which is to be seen at the Workstation too.
    wait_for("a copy that is shown", PATIENCE, || {
        watch.try_wait().unwrap()
    })
    .unwrap();
    let mut shown = String::new();
    watch.stdout.unwrap().read_to_string(&mut shown).unwrap();
    let endpoint = format!(" {}:{UDP_PORT} replayed", WAN[0]);
    assert!(
        shown.contains(&endpoint) && shown.contains("Portcullis Data"),
        "{shown}"
    );
}

#[test]
fn a_workstation_behind_nat_has_the_tunnel_and_xdp_lets_nothing_else_in() {
    let networks = start(false);
    passes(&networks);
    let seen = networks.seen_at().unwrap().unwrap();
    assert!(
        seen.starts_with("198.51.100.2:") || seen.starts_with("[2001:db8:7::2]:"),
        "{seen}"
    );
    // The router has asked for the Gateway's address, and nobody but XDP has answered.
    let counted = verdicts(&networks);
    assert!(counted["answered"] > 0, "{counted:?}");
    assert!(counted["admitted"] > 1000, "{counted:?}");
    assert_eq!(counted["passed"], 0);
}
