//! A socket with AF_XDP rings beside it, on a real kernel, over veth. Needs root.

mod netns;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::{FAR_MAC, NEAR_MAC, Pair, ifindex, in_namespace, run};
use portcullis_dataplane::link::Links;
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::fast_path::{FastPathPort, Lane};
use portcullis_dataplane::port::socket::{SocketConfig, SocketMemory, SocketPort};
use portcullis_dataplane::port::xsk::{XskConfig, XskPort};
use portcullis_dataplane::wall::{FastPath, FastPathSockets};
use wire::Flow;

const PATIENCE: Duration = Duration::from_secs(20);
const ADDRESSES: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")];
const XDP_PASS: u32 = 2;

/// The two ends of a cable, with addresses of both IP versions: the first of each pair at the far end.
fn lay() -> Pair {
    let pair = Pair::new();
    pair.up();
    for (far, near) in ADDRESSES {
        let more = if far.contains(':') {
            "/64 nodad"
        } else {
            "/24"
        };
        run(&format!("ip address add {near}{more} dev near0"));
        pair.far
            .within(|| run(&format!("ip address add {far}{more} dev far0")));
    }
    pair
}

/// A fast path to a socket at the far end.
struct Ends {
    far: UdpSocket,
    port: FastPathPort,
    lane: Arc<Lane>,
    _program: FastPath,
}

impl Ends {
    fn new(pair: &Pair, far: &str) -> Self {
        let address: IpAddr = far.parse().unwrap();
        let bind = || UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
        let far = pair.far.within(bind);
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = SocketConfig::new(far.local_addr().unwrap());
        let socket = SocketPort::open(&config, &SocketMemory::default()).unwrap();
        let program = FastPath::attach("near0", ifindex("near0")).unwrap();
        let rings = XskPort::open(&XskConfig::new("near0")).unwrap();
        let sockets = program.sockets().try_clone_to_owned().unwrap();
        let sockets = FastPathSockets::from(sockets);
        for (queue, socket) in rings.sockets() {
            sockets.set(queue, socket).unwrap();
        }
        let flow = Flow::new(socket.local(), socket.remote());
        program.set_flow(&flow).unwrap();
        let lane = Arc::<Lane>::default();
        let port = FastPathPort::new(socket, rings, NEAR_MAC, Arc::clone(&lane)).unwrap();
        Self {
            far,
            port,
            lane,
            _program: program,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut frame = self.port.reserve().expect("a free frame");
        self.port.set_len(&mut frame, bytes.len());
        self.port.data_mut(&mut frame).copy_from_slice(bytes);
        self.port.send(frame).expect("room");
        while self.port.flush().unwrap() > 0 {}
    }

    /// What arrives at the far end next, and from where.
    fn arrives(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 10_000];
        let (len, from) = self.far.recv_from(&mut bytes).expect("a datagram");
        bytes.truncate(len);
        (bytes, from)
    }

    /// What comes next here.
    fn comes(&mut self) -> Vec<u8> {
        let (start, mut frames) = (Instant::now(), Vec::new());
        while self.port.receive(&mut frames, 1) == 0 {
            assert!(start.elapsed() < PATIENCE, "nothing has come");
            self.port.flush().unwrap();
        }
        let frame = frames.pop().unwrap();
        let bytes = self.port.data(&frame).to_vec();
        self.port.release(frame);
        self.port.flush().unwrap();
        bytes
    }

    fn counts(&mut self) -> (u64, u64) {
        self.port.flush().unwrap();
        self.lane.counts()
    }
}

fn payload(number: usize) -> Vec<u8> {
    let len = 32 + number * 37 % 1400;
    (0..len).map(|at| (at * 7 + number) as u8).collect()
}

#[test]
fn datagrams_of_the_flow_go_past_the_kernel_and_all_others_do_not() {
    in_namespace(|| {
        let pair = lay();
        for (far, near) in ADDRESSES {
            let mut ends = Ends::new(&pair, far);
            ends.lane.lead_to(Some(FAR_MAC));
            let mut local = None;
            for number in 0..300 {
                ends.send(&payload(number));
                let (bytes, from) = ends.arrives();
                assert_eq!(bytes, payload(number));
                assert_eq!(*local.get_or_insert(from), from);
                ends.far.send_to(&payload(number + 1), from).unwrap();
                // A frame may be longer than its datagram.
                let came = ends.comes();
                assert_eq!(came[..payload(number + 1).len()], payload(number + 1));
            }
            let local = local.unwrap();
            assert_eq!(local, ends.port.local());
            assert_eq!(ends.counts(), (300, 300), "all by the rings");
            // In fragments, and so by the kernel, which puts them together.
            let large: Vec<u8> = (0..4000).map(|at| at as u8).collect();
            ends.far.send_to(&large, local).unwrap();
            assert_eq!(ends.comes(), large);
            // For another socket of this machine.
            let other = UdpSocket::bind(SocketAddr::new(near.parse().unwrap(), 0)).unwrap();
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            let there = other.local_addr().unwrap();
            ends.far.send_to(b"another", there).unwrap();
            assert_eq!(other.recv(&mut [0; 100]).unwrap(), 7);
            // To this one, from another: the socket is connected, so it is nobody's.
            let stranger = pair
                .far
                .within(|| UdpSocket::bind((far.parse::<IpAddr>().unwrap(), 0)).unwrap());
            stranger.send_to(&payload(1), local).unwrap();
            // Too short for a frame of ours, and so by the socket.
            ends.far.send_to(b"short", local).unwrap();
            assert_eq!(ends.comes(), b"short");
            assert_eq!(ends.counts(), (300, 300));
            let held = ends.port.statistics().frames.held;
            assert_eq!(held, 0, "every frame was given back");
        }
    });
}

#[test]
fn frames_leave_by_the_socket_while_no_station_is_known_and_one_after_each_reminder() {
    in_namespace(|| {
        let pair = lay();
        for (far, _) in ADDRESSES {
            let mut ends = Ends::new(&pair, far);
            let mut by_rings = 0;
            // Where it leads from then on, whether it is reminded, and how many go by the rings.
            let steps = [
                (None::<Option<[u8; 6]>>, false, 0),
                (Some(Some(FAR_MAC)), false, 1),
                (None, true, 0),
                (None, false, 1),
                (Some(None), false, 0),
                (Some(Some(FAR_MAC)), false, 1),
            ];
            for (station, remind, more) in steps {
                if let Some(station) = station {
                    ends.lane.lead_to(station);
                }
                if remind {
                    ends.lane.remind();
                    // A frame that is not sent after all is none that was.
                    let unused = ends.port.reserve().unwrap();
                    ends.port.release(unused);
                }
                by_rings += more;
                ends.send(&payload(5));
                let (bytes, from) = ends.arrives();
                assert_eq!((bytes, from), (payload(5), ends.port.local()));
                assert_eq!(ends.counts().1, by_rings);
            }
        }
    });
}

#[test]
fn of_a_batch_one_frame_goes_by_the_socket_and_all_arrive_in_order() {
    in_namespace(|| {
        let pair = lay();
        for (far, _) in ADDRESSES {
            let mut ends = Ends::new(&pair, far);
            ends.lane.lead_to(Some(FAR_MAC));
            // So that nothing waits for an answer.
            ends.send(&payload(0));
            ends.arrives();
            for batch in 1..20u64 {
                ends.lane.remind();
                // As a worker does: all are reserved before any is sent, some of them in an earlier batch.
                for part in 0..2 {
                    let mut frames: Vec<_> =
                        (0..64).map(|_| ends.port.reserve().unwrap()).collect();
                    for (number, frame) in frames.iter_mut().enumerate() {
                        let bytes = [batch as u8, part, number as u8];
                        ends.port.set_len(frame, 40);
                        ends.port.data_mut(frame)[..3].copy_from_slice(&bytes);
                    }
                    for frame in frames {
                        ends.port.send(frame).expect("room");
                    }
                }
                while ends.port.flush().unwrap() > 0 {}
                for part in 0..2 {
                    for number in 0..64 {
                        let (bytes, _) = ends.arrives();
                        assert_eq!(bytes[..3], [batch as u8, part, number]);
                    }
                }
                assert_eq!(ends.counts().1, 1 + batch * 127);
            }
        }
    });
}

#[test]
fn what_comes_by_the_socket_is_not_kept_waiting_by_what_comes_by_the_rings() {
    in_namespace(|| {
        let pair = lay();
        let mut ends = Ends::new(&pair, ADDRESSES[0].0);
        let local = ends.port.local();
        let by_socket: Vec<u8> = (0..4000).map(|at| at as u8).collect();
        let mut frames = Vec::new();
        ends.far.send_to(&by_socket, local).unwrap();
        for _ in 0..32 {
            for _ in 0..8 {
                ends.far.send_to(&payload(1), local).unwrap();
            }
            // As many as the rings have, so that they fill every receive.
            ends.port.receive(&mut frames, 8);
        }
        let large = |frame: &_| ends.port.data(frame).len() == by_socket.len();
        assert!(
            frames.iter().any(large),
            "{} frames without it",
            frames.len()
        );
        for frame in frames {
            ends.port.release(frame);
        }
    });
}

#[test]
fn rings_that_fail_are_told_of_and_the_socket_goes_on() {
    in_namespace(|| {
        let pair = lay();
        let mut ends = Ends::new(&pair, ADDRESSES[0].0);
        ends.lane.lead_to(Some(FAR_MAC));
        ends.send(&payload(1));
        ends.arrives();
        assert_eq!(ends.lane.failure(), None);
        // One that was taken before is written after.
        let mut taken = ends.port.reserve().unwrap();
        ends.port.set_len(&mut taken, 100);
        run("ip link set near0 down");
        ends.port.data_mut(&mut taken).fill(9);
        ends.port.send(taken).unwrap();
        let start = Instant::now();
        while ends.lane.failure().is_none() {
            assert!(start.elapsed() < PATIENCE, "nobody is told");
            // Nor is it an error of the port.
            ends.port.flush().unwrap();
        }
        run("ip link set near0 up");
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "the socket does not go on");
            ends.send(&payload(2));
            ends.far
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            let mut bytes = [0; 2000];
            if matches!(ends.far.recv(&mut bytes), Ok(len) if bytes[..len] == payload(2)) {
                break;
            }
        }
        assert_eq!(ends.counts().1, 2, "no more by the rings");
        let failure = ends.lane.failure().unwrap();
        assert!(
            failure.contains("near0") && failure.contains("down"),
            "{failure}"
        );
    });
}

#[test]
fn a_flow_whose_queue_has_no_socket_goes_to_the_kernel() {
    in_namespace(|| {
        let pair = lay();
        let program = FastPath::attach("near0", ifindex("near0")).unwrap();
        assert!(program.stands_on(ifindex("near0")));
        let near = UdpSocket::bind("192.0.2.2:0").unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        let far = pair.far.within(|| UdpSocket::bind("192.0.2.1:0").unwrap());
        let (local, remote) = (near.local_addr().unwrap(), far.local_addr().unwrap());
        program.set_flow(&Flow::new(local, remote)).unwrap();
        far.send_to(&payload(4), local).unwrap();
        assert_eq!(near.recv(&mut [0; 2000]).unwrap(), payload(4).len());
        assert_eq!(program.try_frame(&[0; 64], 1).unwrap().answer, XDP_PASS);
        // Where another stands there is no place, and one that is dropped is off.
        let refused = FastPath::attach("near0", ifindex("near0")).unwrap_err();
        assert!(
            refused.to_string().contains("already has an XDP program"),
            "{refused}"
        );
        drop(program);
        FastPath::attach("near0", ifindex("near0")).unwrap();
        assert_eq!(
            Links::open().unwrap().members(ifindex("near0")).unwrap(),
            [""; 0]
        );
        run("ip link add br0 type bridge");
        run("ip link set near0 master br0");
        assert_eq!(
            Links::open().unwrap().members(ifindex("br0")).unwrap(),
            ["near0"]
        );
        run("ip link del near0");
        pair.add_link();
        assert!(FastPath::attach("near0", ifindex("near0")).is_ok());
    });
}

#[test]
fn the_next_station_is_the_one_that_the_kernel_would_send_to() {
    in_namespace(|| {
        let pair = lay();
        let links = Links::open().unwrap();
        let near = ifindex("near0");
        let ends = |remote: &str| {
            let at = usize::from(remote.contains(':'));
            [ADDRESSES[at].1, remote].map(|text| SocketAddr::new(text.parse().unwrap(), 51_888))
        };
        let marked = |remote: &str, mark| {
            let [local, remote] = ends(remote);
            links.next_hop(local, remote, mark, near).unwrap()
        };
        let hop = |remote: &str| marked(remote, 7);
        for (far, beyond, rest) in [
            (ADDRESSES[0].0, "198.51.100.1", "198.51.100.0/24"),
            (ADDRESSES[1].0, "2001:db8:1::1", "2001:db8:1::/48"),
        ] {
            assert_eq!(hop(far), None, "nobody has asked for it");
            run(&format!("ping -c 1 -W 5 {far}"));
            assert_eq!(hop(far), Some(FAR_MAC));
            assert_eq!(hop(beyond), None, "there is no route");
            run(&format!("ip route add {rest} via {far}"));
            assert_eq!(hop(beyond), Some(FAR_MAC), "by the router");
            let version = if far.contains(':') { "-6" } else { "-4" };
            run(&format!(
                "ip {version} rule add priority 5 fwmark 8 unreachable"
            ));
            let both = (marked(beyond, 7), marked(beyond, 8));
            assert_eq!(both, (Some(FAR_MAC), None));
            run(&format!("ip {version} rule delete priority 5"));
            // From this address another router leads there, which is asked for as such.
            let (own, router) = match far.contains(':') {
                true => ("2001:db8::2", "2001:db8::9"),
                false => ("192.0.2.2", "192.0.2.9"),
            };
            run(&format!(
                "ip {version} rule add priority 5 from {own} ipproto udp dport 51888 lookup 77"
            ));
            run(&format!(
                "ip {version} route add {rest} via {router} dev near0 table 77"
            ));
            run(&format!(
                "ip neighbour replace {router} lladdr 02:00:00:00:00:99 dev near0 nud permanent"
            ));
            assert_eq!(hop(beyond), Some([2, 0, 0, 0, 0, 0x99]), "by its source");
            run(&format!("ip {version} rule delete priority 5"));
            run(&format!(
                "ip neighbour replace {far} lladdr 02:00:00:00:00:77 dev near0 nud stale"
            ));
            assert_eq!(hop(beyond), Some([2, 0, 0, 0, 0, 0x77]));
            run(&format!(
                "ip neighbour replace {far} lladdr 02:00:00:00:00:77 dev near0 nud failed"
            ));
            assert_eq!(hop(beyond), None);
            run(&format!(
                "ip neighbour replace {far} lladdr 03:00:00:00:00:77 dev near0 nud permanent"
            ));
            assert_eq!(hop(far), None, "a group is no station");
            run(&format!("ip route add unreachable {beyond}"));
            assert_eq!(hop(beyond), None);
        }
        run("ip link set near0 down");
        assert_eq!(hop(ADDRESSES[0].0), None);
        drop(pair);
    });
}
