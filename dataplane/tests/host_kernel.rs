//! The host interface with a real kernel on both sides: two TUN devices in two network namespaces,
//! and between them what the dataplane does with each packet, without the cable. Needs root.

mod netns;

use netns::{Netns, in_namespace, run};
use portcullis_dataplane::host::coalesce::{Coalescer, WriteReport};
use portcullis_dataplane::host::segment::Segmenter;
use portcullis_dataplane::host::tun::{Tun, TunError, TunQueue};
use portcullis_dataplane::host::vnet::VnetHeader;
use portcullis_dataplane::host::{Host, LARGEST_PACKET};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MTU: usize = 1460;

/// What passed in one direction.
#[derive(Debug, Default)]
struct Passed {
    reads: usize,
    super_reads: usize,
    segments: usize,
    report: WriteReport,
}

/// Moves packets from one queue to another, as two dataplanes with a cable between would.
struct Pump {
    buffer: Vec<u8>,
    frames: Vec<Vec<u8>>,
    coalescer: Coalescer,
}

impl Pump {
    fn new() -> Self {
        Self {
            buffer: vec![0; LARGEST_PACKET],
            frames: vec![vec![0; 2048]; 64],
            coalescer: Coalescer::new(),
        }
    }

    fn pass(&mut self, from: &mut TunQueue, to: &mut TunQueue, passed: &mut Passed) -> bool {
        let mut header = VnetHeader::default();
        let Some(len) = from.read(&mut header, &mut [], &mut self.buffer).unwrap() else {
            return false;
        };
        let mut segmenter = Segmenter::new(header, &self.buffer[..len]).unwrap();
        passed.reads += 1;
        passed.super_reads += usize::from(segmenter.remaining() > 1);
        assert!(segmenter.max_segment_len() <= MTU);
        while segmenter.remaining() > 0 {
            let mut lens = [0; 64];
            let mut count = 0;
            while count < 64 {
                let Some(len) = segmenter.next(&mut self.frames[count]) else {
                    break;
                };
                lens[count] = len;
                count += 1;
            }
            let packets: Vec<&[u8]> = (0..count).map(|i| &self.frames[i][..lens[i]]).collect();
            for packet in &packets {
                assert_intact(packet);
            }
            passed.segments += count;
            passed.report.add(&self.coalescer.write(&packets, to));
        }
        true
    }
}

/// Checks a finished packet with etherparse.
fn assert_intact(packet: &[u8]) {
    let parsed = etherparse::PacketHeaders::from_ip_slice(packet).unwrap();
    let payload = parsed.payload.slice();
    let (ours, right) = match (parsed.net.unwrap(), parsed.transport) {
        (etherparse::NetHeaders::Ipv4(ip, _), Some(transport)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let mut right = transport.clone();
            right.update_checksum_ipv4(&ip, payload).unwrap();
            (transport, right)
        }
        (etherparse::NetHeaders::Ipv6(ip, _), Some(transport)) => {
            let mut right = transport.clone();
            right.update_checksum_ipv6(&ip, payload).unwrap();
            (transport, right)
        }
        _ => return,
    };
    assert_eq!(ours, right, "a wrong checksum");
}

/// Two namespaces, joined by a pump, each with a thread that runs what it is sent.
struct Pair {
    jobs: [mpsc::Sender<Box<dyn FnOnce() + Send>>; 2],
    stop: Arc<AtomicBool>,
    pump: std::thread::JoinHandle<[Passed; 2]>,
}

impl Pair {
    fn new() -> Self {
        let (jobs, queues): (Vec<_>, Vec<_>) = [1, 2].map(side).into_iter().unzip();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pump = std::thread::spawn(move || {
            let [mut a, mut b]: [TunQueue; 2] = queues.try_into().unwrap();
            let mut pump = Pump::new();
            let mut passed = [Passed::default(), Passed::default()];
            while !stopped.load(Ordering::Relaxed) {
                let busy = pump.pass(&mut a, &mut b, &mut passed[0])
                    | pump.pass(&mut b, &mut a, &mut passed[1]);
                if !busy {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            passed
        });
        Self {
            jobs: jobs.try_into().unwrap(),
            stop,
            pump,
        }
    }

    /// Runs on one side's thread and gives the answer.
    fn on<T: Send + 'static>(
        &self,
        side: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (sender, receiver) = mpsc::channel();
        let job = move || drop(sender.send(job()));
        self.jobs[side].send(Box::new(job)).unwrap();
        receiver
    }

    fn finish(self) -> [Passed; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.pump.join().unwrap()
    }
}

type Jobs = mpsc::Sender<Box<dyn FnOnce() + Send>>;

fn side(number: u8) -> (Jobs, TunQueue) {
    let (jobs, received) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let (queues, opened) = mpsc::channel();
    std::thread::spawn(move || {
        Netns::enter_new();
        let queue = Tun::open("pct0", 1).unwrap().pop().unwrap();
        run(&format!("ip link set pct0 mtu {MTU} up"));
        run(&format!("ip address add 10.77.0.{number}/24 dev pct0"));
        run(&format!("ip address add fd77::{number}/64 dev pct0 nodad"));
        // The kernel puts the address into its local table later, by a work queue.
        let local = format!("local fd77::{number} dev pct0");
        while !run("ip -6 route show table local").contains(&local) {
            std::thread::sleep(Duration::from_millis(1));
        }
        queues.send(queue).unwrap();
        for job in received {
            job();
        }
    });
    (jobs, opened.recv().expect("a TUN device: needs root"))
}

fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn tcp_crosses_whole(to: &str) {
    const LEN: usize = 32 << 20;
    let to: IpAddr = to.parse().unwrap();
    let pair = Pair::new();
    let listening = pair.on(1, move || {
        TcpListener::bind(SocketAddr::new(to, 9050)).unwrap()
    });
    let listener = listening.recv().unwrap();
    let received = pair.on(1, move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let start = Instant::now();
    pair.on(0, move || {
        let address = SocketAddr::new(to, 9050);
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        stream.write_all(&pattern(LEN)).unwrap();
    });
    let bytes = received.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(bytes == pattern(LEN), "the bytes differ");
    let took = start.elapsed();
    let [there, _back] = pair.finish();
    println!("{LEN} bytes to {to} in {took:?}: {there:?}");
    assert!(there.super_reads > 0, "the kernel gave no super-packet");
    assert!(there.report.super_packets * 10 > there.report.writes * 5);
    assert_eq!(there.report.dropped, 0);
}

#[test]
fn tcp_over_ipv4_crosses_in_super_packets() {
    tcp_crosses_whole("10.77.0.2");
}

#[test]
fn tcp_over_ipv6_crosses_in_super_packets() {
    tcp_crosses_whole("fd77::2");
}

fn udp_crosses_whole(to: &str) {
    const SEGMENT: usize = 1000;
    let to: IpAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let pair = Pair::new();
    let socket = pair.on(1, move || UdpSocket::bind(SocketAddr::new(to, 53)).unwrap());
    let socket = socket.recv().unwrap();
    pair.on(0, move || {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
        let size = SEGMENT as libc::c_int;
        // SAFETY: UDP_SEGMENT reads an int.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        assert_eq!(answer, 0);
        socket
            .send_to(&pattern(20 * SEGMENT + 10), SocketAddr::new(to, 53))
            .unwrap();
    });
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut bytes = Vec::new();
    for _ in 0..21 {
        let mut datagram = [0; 2000];
        let Ok(len) = socket.recv(&mut datagram) else {
            panic!("{} bytes came: {:?}", bytes.len(), pair.finish());
        };
        assert!(len <= SEGMENT);
        bytes.extend_from_slice(&datagram[..len]);
    }
    assert!(bytes == pattern(20 * SEGMENT + 10), "the bytes differ");
    let [there, _] = pair.finish();
    println!("{there:?}");
    assert!(there.super_reads > 0 && there.report.super_packets > 0);
}

#[test]
fn udp_over_ipv4_crosses_in_super_packets() {
    udp_crosses_whole("10.77.0.2");
}

#[test]
fn udp_over_ipv6_crosses_in_super_packets() {
    udp_crosses_whole("fd77::2");
}

#[test]
fn a_device_that_is_not_ours_is_refused_with_a_remedy() {
    in_namespace(|| {
        let refusal = |name: &str| Tun::open(name, 1).unwrap_err();
        run("ip link add br0 type bridge");
        assert!(matches!(refusal("br0"), TunError::Foreign(_)));
        run("ip tuntap add dev tap0 mode tap multi_queue vnet_hdr");
        assert!(matches!(refusal("tap0"), TunError::Foreign(_)));
        run("ip tuntap add dev single0 mode tun");
        let error = refusal("single0");
        assert!(error.to_string().contains("ip link delete single0"));
        let held = Tun::open("held0", 2).unwrap();
        assert!(matches!(refusal("held0"), TunError::Busy(_)));
        drop(held);
        // What another test starts meanwhile has a copy of every descriptor until it is executed.
        let start = std::time::Instant::now();
        let again = loop {
            match Tun::open("held0", 2) {
                Err(TunError::Busy(_)) if start.elapsed().as_secs() < 5 => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(again.len(), 2);
        drop(again);
        for name in ["", "a/b", "pct%d", "a b", "sixteen-bytes-xx"] {
            assert!(matches!(refusal(name), TunError::Name(_)), "{name}");
        }
        assert!(matches!(
            Tun::open("pct0", 0).unwrap_err(),
            TunError::Queues(..)
        ));
        Tun::delete("held0").unwrap();
        Tun::delete("held0").unwrap();
        assert!(!run("ip -o link").contains("held0"));
    });
}

/// Set for the process that [`owner`] is to be.
const OWNER: &str = "PORTCULLIS_TEST_TUN_OWNER";

/// Not a test: the process that the next one kills, which opens a device and waits.
#[test]
fn owner() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let _queues = Tun::new("pct0", 2).owner(Some(65_534)).attach().unwrap();
    println!("open");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_owner_leaves_addresses_and_routes() {
    in_namespace(|| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "owner", "--nocapture"])
            .env(OWNER, "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        assert!(lines.any(|line| line.unwrap().contains("open")));
        run("ip link set pct0 up");
        run("ip address add 10.78.0.1/24 dev pct0");
        run("ip route add 10.79.0.0/16 dev pct0");
        child.kill().unwrap();
        child.wait().unwrap();
        let queues = Tun::open("pct0", 2).unwrap();
        assert_eq!(queues.len(), 2);
        assert!(run("ip address show dev pct0").contains("10.78.0.1/24"));
        assert!(run("ip route").contains("10.79.0.0/16 dev pct0"));
        assert!(run("ip -d link show dev pct0").contains("user nobody"));
    });
}

#[test]
fn a_steering_program_is_refused_or_taken_by_the_kernel() {
    in_namespace(|| {
        let queues = Tun::open("pct0", 2).unwrap();
        queues[0].set_steering(None).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let no_program = std::os::fd::AsFd::as_fd(&file);
        assert!(queues[0].set_steering(Some(no_program)).is_err());
    });
}
