//! The socket port on links that are slow, small, down or gone, in network namespaces. Needs root.

mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netns::{Netns, in_namespace, run};
use nix::sys::socket::sockopt::{Mark, RcvBuf};
use nix::sys::socket::{
    AddressFamily, GetSockOpt, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrIn,
    sendto, socket,
};
use portcullis_dataplane::port::socket::{SocketConfig, SocketMemory, SocketPort, socket_for};
use portcullis_dataplane::port::{Port, PortError};

const PATIENCE: Duration = Duration::from_secs(20);

fn open(config: &SocketConfig) -> SocketPort {
    SocketPort::open(config, &SocketMemory::default()).expect("a socket port")
}

/// A listener, and the configuration of a port to it.
fn listener(address: &str) -> (UdpSocket, SocketConfig) {
    let socket = UdpSocket::bind(address).expect("a socket");
    // However late it is read.
    RcvBuf.set(&socket, &(4 << 20)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = SocketConfig::new(socket.local_addr().unwrap());
    (socket, config)
}

fn send(port: &mut SocketPort, fill: u8, len: usize) {
    let mut frame = port.reserve().expect("a free frame");
    port.set_len(&mut frame, len);
    port.data_mut(&mut frame).fill(fill);
    port.send(frame).expect("room");
}

/// What arrives next: its first byte and its length.
fn arrives(socket: &UdpSocket) -> (u8, usize) {
    let mut bytes = [0; 10_000];
    let len = socket.recv(&mut bytes).expect("a datagram");
    (bytes[0], len)
}

#[test]
fn what_finds_no_room_stays_and_leaves_once_there_is_some() {
    in_namespace(|| {
        // 50 Mbit/s, and a queue that is longer than the send buffer.
        run("tc qdisc add dev lo root tbf rate 50mbit burst 70000 limit 10000000");
        let (socket, config) = listener("127.0.0.1:0");
        let mut port = open(&config);
        let count = 400;
        for number in 0..count {
            send(&mut port, number as u8, 1400);
        }
        let mut waiting = port.flush().unwrap();
        assert!(waiting > 0, "the send buffer holds no 560 kB");
        assert_eq!(port.statistics().frames.sending, waiting);
        let deadline = Instant::now() + PATIENCE;
        let mut arrived = 0;
        while arrived < count {
            assert!(
                Instant::now() < deadline,
                "{arrived} arrived, {waiting} wait"
            );
            if waiting > 0 {
                waiting = port.flush().unwrap();
            }
            assert_eq!(arrives(&socket), (arrived as u8, 1400));
            arrived += 1;
        }
        assert_eq!(waiting, 0);
        let statistics = port.statistics();
        assert_eq!((statistics.tx_invalid, statistics.frames.sending), (0, 0));
    });
}

#[test]
fn what_is_larger_than_the_mtu_is_dropped_and_never_fragmented() {
    in_namespace(|| {
        run("ip link set lo mtu 1500");
        for (any, largest) in [("127.0.0.1:0", 1472), ("[::1]:0", 1452)] {
            let (socket, config) = listener(any);
            let mut port = open(&config);
            // Alone, for a longer one is of no train, and then in one whose last is small enough.
            let lengths = [0, 1, 9, 10, 10, 0].map(|more| largest + more);
            for len in [100].into_iter().chain(lengths) {
                send(&mut port, len as u8, len);
            }
            assert_eq!(port.flush().unwrap(), 0);
            let arrived: Vec<usize> = (0..3).map(|_| arrives(&socket).1).collect();
            assert_eq!(arrived, [100, largest, largest]);
            assert_eq!(port.counts().too_large, 4);
            assert_eq!(port.statistics().tx_invalid, 4);
            assert!(port.sends_trains(), "trains are not at fault");
        }
    });
}

/// An ICMP message about a packet of `port`, as anyone can make it who guesses the ports.
fn forged(port: &SocketPort, kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (port.local(), port.remote()) else {
        panic!("an IPv4 port");
    };
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend([0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    icmp.extend(local.ip().octets());
    icmp.extend(remote.ip().octets());
    icmp.extend(local.port().to_be_bytes());
    icmp.extend(remote.port().to_be_bytes());
    icmp.extend([5, 0xc8, 0, 0]);
    let sum: u32 = icmp
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    icmp
}

#[test]
fn forged_icmp_loses_no_frame_whatever_it_claims() {
    in_namespace(|| {
        let (listener, config) = listener("127.0.0.1:0");
        let mut port = open(&config);
        let icmp = SockProtocol::Icmp;
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), icmp)
            .expect("a raw socket: these tests need root");
        let here = SockaddrIn::new(127, 0, 0, 1, 0);
        // Network, host, protocol and port unreachable; too large for 68; forbidden; a wrong header.
        for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (12, 0)] {
            let told = port.counts().refusals;
            let message = forged(&port, kind, code, 68);
            for number in 0..5 {
                sendto(raw.as_raw_fd(), &message, &here, MsgFlags::empty()).unwrap();
                for _ in 0..3 {
                    send(&mut port, number, 1400);
                }
                assert_eq!(port.flush().unwrap(), 0);
                for _ in 0..3 {
                    assert_eq!(arrives(&listener), (number, 1400), "ICMP {kind} {code}");
                }
            }
            // What is hard is told to a connected socket; whether at once is the kernel's affair.
            let hard = [(3, 2), (3, 3), (3, 4), (3, 13)].contains(&(kind, code));
            let deadline = Instant::now() + PATIENCE;
            while hard && port.counts().refusals == told {
                assert!(Instant::now() < deadline, "ICMP {kind} {code} was not told");
                sendto(raw.as_raw_fd(), &message, &here, MsgFlags::empty()).unwrap();
                assert_eq!(port.receive(&mut Vec::new(), 64), 0);
            }
        }
        let counts = port.counts();
        assert_eq!((counts.refused, counts.too_large), (0, 0), "{counts:?}");
        assert!(port.sends_trains());
    });
}

/// Two namespaces and a link between them; the thread is at the near end, 10.0.0.1 on `near0`.
fn two() -> (Netns, Netns) {
    let far = Netns::enter_new();
    let near = Netns::enter_new();
    run(&format!(
        "ip link add name near0 type veth peer name far0 netns {}",
        far.path()
    ));
    run("ip addr add 10.0.0.1/24 dev near0");
    run("ip addr add fd00::1/64 dev near0 nodad");
    run("ip link set near0 up");
    far.within(|| {
        run("ip addr add 10.0.0.2/24 dev far0");
        run("ip addr add fd00::2/64 dev far0 nodad");
        run("ip link set far0 up");
    });
    (near, far)
}

#[test]
fn the_kernels_path_mtu_is_not_believed() {
    in_namespace(|| {
        let (_near, far) = two();
        for (any, route) in [
            ("10.0.0.2:0", "10.0.0.2/32"),
            ("[fd00::2]:0", "fd00::2/128"),
        ] {
            let (socket, config) = far.within(|| listener(any));
            // As if ICMP had said so.
            run(&format!("ip route add {route} dev near0 mtu 1280"));
            let mut port = open(&config);
            for len in [1400, 1400, 1401] {
                send(&mut port, 1, len);
            }
            assert_eq!(port.flush().unwrap(), 0);
            for len in [1400, 1400, 1401] {
                assert_eq!(arrives(&socket), (1, len));
            }
            assert_eq!(port.counts().too_large, 0);
        }
    });
}

#[test]
fn an_interface_that_is_gone_needs_a_new_port_and_takes_no_frame_with_it() {
    in_namespace(|| {
        let (_near, far) = two();
        let (socket, config) = far.within(|| listener("10.0.0.2:0"));
        let config = SocketConfig {
            interface: Some("near0".into()),
            ..config
        };
        let mut port = open(&config);
        send(&mut port, 5, 500);
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(arrives(&socket), (5, 500));
        // Its address stays on the machine, or that would be what is found missing.
        run("ip addr add 10.0.0.1/32 dev lo");
        run("ip link del near0");
        for count in 1..4 {
            send(&mut port, 6, 500);
            let error = port.flush().unwrap_err();
            assert!(matches!(error, PortError::Gone { .. }), "{error}");
            assert!(error.to_string().contains("near0"), "{error}");
            assert_eq!(port.statistics().frames.sending, count);
        }
    });
}

#[test]
fn a_link_without_a_route_costs_frames_and_not_the_port() {
    in_namespace(|| {
        let (_near, far) = two();
        let (socket, config) = far.within(|| listener("10.0.0.2:0"));
        let mut port = open(&config);
        run("ip link set near0 down");
        send(&mut port, 5, 500);
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(port.counts().refused, 1);
        run("ip link set near0 up");
        let deadline = Instant::now() + PATIENCE;
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut bytes = [0; 600];
        while socket.recv(&mut bytes).is_err() {
            assert!(Instant::now() < deadline, "{:?}", port.counts());
            send(&mut port, 6, 600);
            assert_eq!(port.flush().unwrap(), 0);
        }
        assert_eq!(bytes, [6; 600]);
    });
}

#[test]
fn what_a_firewall_forbids_costs_frames_and_not_the_port() {
    in_namespace(|| {
        let (socket, config) = listener("127.0.0.1:0");
        let mut port = open(&config);
        run("nft add table inet t");
        run("nft add chain inet t out { type filter hook output priority 0 ; }");
        run("nft add rule inet t out meta l4proto udp drop");
        for _ in 0..3 {
            send(&mut port, 5, 500);
        }
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(
            (port.counts().refused, port.statistics().tx_invalid),
            (3, 3)
        );
        run("nft delete table inet t");
        send(&mut port, 6, 500);
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(arrives(&socket), (6, 500));
    });
}

#[test]
fn on_another_address_an_old_port_loses_frames_and_a_new_one_does_not() {
    in_namespace(|| {
        let (_near, far) = two();
        let (socket, config) = far.within(|| listener("10.0.0.2:0"));
        let mut port = open(&config);
        assert_eq!(port.local().ip().to_string(), "10.0.0.1");
        run("ip addr del 10.0.0.1/24 dev near0");
        run("ip addr add 10.0.0.7/24 dev near0");
        for _ in 0..3 {
            send(&mut port, 5, 500);
        }
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(port.counts().refused, 3);
        let mut port = open(&config);
        assert_eq!(port.local().ip().to_string(), "10.0.0.7");
        send(&mut port, 6, 500);
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(arrives(&socket), (6, 500));
    });
}

#[test]
fn packets_carry_the_mark_and_stay_on_the_interface_that_were_asked_for() {
    in_namespace(|| {
        let (_near, far) = two();
        let (socket, config) = far.within(|| listener("10.0.0.2:0"));
        // Whoever has no mark goes nowhere.
        run("ip rule add priority 10 not fwmark 0x77 to 10.0.0.2 unreachable");
        let refused = socket_for(&config).unwrap_err().to_string();
        assert!(refused.contains("connect"), "{refused}");
        let config = SocketConfig {
            mark: Some(0x77),
            ..config
        };
        let mut port = open(&config);
        assert_eq!(Mark.get(&port.poll_fd().unwrap()), Ok(0x77));
        send(&mut port, 5, 500);
        assert_eq!(port.flush().unwrap(), 0);
        assert_eq!(arrives(&socket), (5, 500));
        // By another interface there is no way to it.
        let config = SocketConfig {
            interface: Some("lo".into()),
            ..config
        };
        let there = SocketPort::open(&config, &SocketMemory::default());
        if let Ok(mut port) = there {
            send(&mut port, 9, 500);
            let _ = port.flush();
        }
        let short = Some(Duration::from_millis(200));
        socket.set_read_timeout(short).unwrap();
        assert!(
            socket.recv(&mut [0; 600]).is_err(),
            "it left by another interface"
        );
    });
}
