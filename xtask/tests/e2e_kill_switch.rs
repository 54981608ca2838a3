//! The kill switch, end to end: whatever happens to a Workstation's uplink, tunnel, rules and agent,
//! nothing leaves by the uplink but the tunnel's own packets and what the uplink needs. Needs root.
//!
//! ```text
//!   ct --c0-- ws --up0-- router, who also is the Internet (203.0.113.1, 2001:db8:ffff::1)
//! ```
//!
//! On `ws` and in a container behind it, programs send without pause in every way that a program without
//! CAP_NET_RAW or CAP_NET_ADMIN over there can think of, and in some for which it takes them; the router
//! looks at every frame. What holds the kill switch is a process of its own, this very program.
//!
//! Suspend and resume are played by a stopped process and links that go down and up: the kill switch has
//! no clock that could jump.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::link::{KillSwitch, Links};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrIn6, sendto, setsockopt, sockopt};
use portcullis_xtask::attack::udp_v4;
use portcullis_xtask::rig::*;

const MARK: u32 = 0x5043_4c53;
const TUN: &str = "portcullis0";
const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];
const INNER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 152, 152, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd50, 0x6f72, 0x7463, 0, 0, 0, 0, 0x11)),
];
/// Where ordinary programs send, those that are tied to the uplink, and the tunnel.
const ELSEWHERE: u16 = 7001;
const ELSEWHERE_TIED: u16 = 7002;
const TUNNEL: u16 = 7003;
/// What only the firewall can hold says so in its payload.
const PLAIN: &[u8] = b"plain";
const TIED: &[u8] = b"tied.";

const PATIENCE: Duration = Duration::from_secs(20);

fn switch(lan: bool) -> KillSwitch {
    KillSwitch {
        interface: TUN.to_owned(),
        routes: ["0.0.0.0/0", "::/0", "10.152.152.0/24"]
            .map(|route| route.parse().unwrap())
            .into(),
        addresses: vec![[10, 152, 152, 11].into()],
        mark: MARK,
        lan,
    }
}

/// Not a test by itself: what [`Holder`] runs, as an agent's helper would.
#[test]
fn the_process_that_holds_it() {
    let Some(lan) = std::env::var_os("PORTCULLIS_TEST_HOLD") else {
        return;
    };
    let switch = switch(lan == "lan");
    let links = Links::open().unwrap();
    loop {
        let changed = links.raise_kill_switch(&switch);
        eprintln!("raised: {changed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The process, in a Workstation's namespace.
fn hold(host: &Namespace, lan: bool, log: &Scratch) -> Process {
    let mut command = host.command(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_process_that_holds_it", "--nocapture"])
        .env("PORTCULLIS_TEST_HOLD", if lan { "lan" } else { "closed" });
    Process::start("holder", command, &log.path().join("holder")).unwrap()
}

/// What a frame on the uplink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The tunnel's own, by family.
    Tunnel4,
    Tunnel6,
    Arp,
    Neighbours,
    Dhcp,
    Dhcp6,
    Mld,
    /// What routing does not hold: of sockets tied to the uplink, to groups and broadcast, and ARP that
    /// names the tunnel's addresses.
    Tied,
    /// Everything else.
    Plain,
}

fn kind(frame: &Captured) -> Kind {
    let bytes = &frame.bytes;
    let at = |offset: usize| bytes.get(offset).copied().unwrap_or_default();
    let port = |offset: usize| u16::from_be_bytes([at(offset), at(offset + 1)]);
    let contains = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    let IpAddr::V4(inner4) = INNER[0] else {
        unreachable!()
    };
    let IpAddr::V6(inner6) = INNER[1] else {
        unreachable!()
    };
    if contains(&inner4.octets()) || contains(&inner6.octets()) {
        // Nobody out there is to know these.
        let tied = contains(TIED) || frame.ethertype() == 0x0806;
        return if tied { Kind::Tied } else { Kind::Plain };
    }
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).octets();
    match frame.ethertype() {
        0x0806 => Kind::Arp,
        0x0800 if at(14) == 0x45 => match at(23) {
            17 if (port(34), port(36)) == (68, 67) && bytes[30..34] == [255; 4] => Kind::Dhcp,
            6 if port(36) == ELSEWHERE_TIED => Kind::Tied,
            17 if port(36) == TUNNEL && contains(b"tunnel") => Kind::Tunnel4,
            _ if contains(TIED) => Kind::Tied,
            _ => Kind::Plain,
        },
        // IGMP, with the router alert.
        0x0800 if at(23) == 2 => Kind::Tied,
        0x86dd => match (at(20), at(21)) {
            (58, 255) if matches!(at(54), 133 | 135 | 136) => Kind::Neighbours,
            // Behind a hop-by-hop header with the router alert.
            (0, 1) if at(54) == 58 && matches!(at(62), 131 | 132 | 143) => Kind::Mld,
            (17, _) if (port(54), port(56)) == (546, 547) && bytes[38..].starts_with(&servers) => {
                Kind::Dhcp6
            }
            (6, _) if port(56) == ELSEWHERE_TIED => Kind::Tied,
            (17, _) if port(56) == TUNNEL && contains(b"tunnel") => Kind::Tunnel6,
            _ if contains(TIED) => Kind::Tied,
            _ => Kind::Plain,
        },
        _ if contains(TIED) => Kind::Tied,
        _ => Kind::Plain,
    }
}

/// What may leave.
const OPEN: u8 = 0;
const ROUTING_ONLY: u8 = 1;
const CLOSED: u8 = 2;

struct Scene {
    ws: Arc<Namespace>,
    router: Arc<Namespace>,
    container: Arc<Namespace>,
    /// What is to be held at the moment.
    bar: Arc<AtomicU8>,
    leaks: Capture,
    seen: Arc<Mutex<BTreeMap<Kind, u64>>>,
    babblers: Vec<Babbler>,
    internet: Option<Internet>,
    uplink: &'static str,
    families: [bool; 2],
    host: u8,
    gateway: u8,
    logs: Scratch,
    _turn: Serial,
}

impl Scene {
    /// The hosts, without anything that sends.
    fn lay() -> Self {
        require_root().unwrap();
        let turn = Serial::acquire().unwrap();
        let [ws, router, container] = ["ws", "router", "ct"].map(|label| {
            let namespace = Namespace::create(label).unwrap();
            for key in ["ipv6/conf/all/accept_ra", "ipv6/conf/default/accept_ra"] {
                namespace.sysctl(key, "0").unwrap();
            }
            Arc::new(namespace)
        });
        ws.sysctl("ipv4/ip_forward", "1").unwrap();
        ws.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
        router.ip("address add 203.0.113.1/32 dev lo").unwrap();
        router
            .ip("address add 2001:db8:ffff::1/128 dev lo")
            .unwrap();
        veth((&ws, "c0"), (&container, "c1"), 1500).unwrap();
        for command in [
            "address add 172.30.0.1/24 dev c0",
            "address add fd30::1/64 dev c0",
        ] {
            ws.ip(command).unwrap();
        }
        set_link(&ws, "c0", true).unwrap();
        // Of what comes after this, the uplink: the strictest, which answers to the tunnel have to pass.
        ws.sysctl("ipv4/conf/default/rp_filter", "1").unwrap();
        for command in [
            "address add 172.30.0.2/24 dev c1",
            "address add fd30::2/64 dev c1",
            "link set c1 up",
            "route add default via 172.30.0.1",
            "-6 route add default via fd30::1",
        ] {
            container.ip(command).unwrap();
        }
        let (bar, seen) = (Arc::new(AtomicU8::new(OPEN)), Arc::default());
        let (barred, counts) = (Arc::clone(&bar), Arc::<Mutex<BTreeMap<_, _>>>::clone(&seen));
        let leaks = Capture::filtered(&router, None, 16, move |frame| {
            if frame.kind != PacketKind::Incoming {
                return false;
            }
            let kind = kind(frame);
            *counts.lock().unwrap().entry(kind).or_default() += 1;
            match barred.load(Ordering::SeqCst) {
                OPEN => false,
                ROUTING_ONLY => kind == Kind::Plain,
                _ => kind >= Kind::Tied,
            }
        });
        let mut scene = Self {
            leaks: leaks.unwrap(),
            ws,
            router,
            container,
            bar,
            seen,
            babblers: Vec::new(),
            internet: None,
            uplink: "up0",
            families: [true; 2],
            host: 2,
            gateway: 1,
            logs: Scratch::new("kill").unwrap(),
            _turn: turn,
        };
        scene.lay_uplink();
        scene.lay_tunnel();
        scene.internet = Some(Internet::start(&scene.router));
        scene
    }

    fn lay_uplink(&mut self) {
        self.uplink = "up0";
        veth((&self.ws, "up0"), (&self.router, "far0"), 1500).unwrap();
        for command in [
            "address add 192.0.2.1/24 dev far0",
            "address add 192.0.2.254/24 dev far0",
            "address add 2001:db8::1/64 dev far0",
            "address add 2001:db8::254/64 dev far0",
            "link set far0 up",
        ] {
            self.router.ip(command).unwrap();
        }
        set_link(&self.ws, "up0", true).unwrap();
        self.configure();
    }

    /// What a DHCP client or network manager does: addresses and default routes are these.
    fn configure(&self) {
        let Self {
            uplink,
            host,
            gateway,
            ..
        } = self;
        let ip = |command: String| self.ws.ip(&command);
        ip(format!("-4 address flush dev {uplink} scope global")).unwrap();
        ip(format!("-6 address flush dev {uplink} scope global")).unwrap();
        if self.families[0] {
            ip(format!("address add 192.0.2.{host}/24 dev {uplink}")).unwrap();
            // Down, it takes no route.
            drop(ip(format!(
                "route replace default via 192.0.2.{gateway} dev {uplink}"
            )));
        }
        if self.families[1] {
            ip(format!(
                "address add 2001:db8::{host}/64 dev {uplink} nodad"
            ))
            .unwrap();
            let route = format!("-6 route replace default via 2001:db8::{gateway} dev {uplink}");
            drop(ip(route));
        }
    }

    fn lay_tunnel(&self) {
        for command in [
            format!("tuntap add {TUN} mode tun"),
            format!("link set {TUN} up"),
            format!("address add {}/24 dev {TUN}", INNER[0]),
            format!("-6 address add {}/64 dev {TUN} nodad", INNER[1]),
        ] {
            self.ws.ip(&command).unwrap();
        }
    }

    /// Everything that sends starts to.
    fn babble(&mut self) {
        let own = Babbler::start(&self.ws, true);
        let forwarded = Babbler::start(&self.container, false);
        self.babblers = vec![own, forwarded];
        self.rounds();
    }

    /// Waits until everything has been sent that is sent, and seen that was.
    fn rounds(&self) {
        for babbler in &self.babblers {
            let from = babbler.rounds.load(Ordering::SeqCst);
            wait_for("what is to be held", PATIENCE, || {
                (babbler.rounds.load(Ordering::SeqCst) > from + 2).then_some(())
            })
            .unwrap();
        }
        self.leaks.settle().unwrap();
    }

    fn bar(&self, bar: u8) {
        self.leaks.settle().unwrap();
        self.bar.store(bar, Ordering::SeqCst);
    }

    #[track_caller]
    fn nothing_leaks(&self, when: &dyn std::fmt::Debug) {
        self.rounds();
        assert_eq!(self.leaks.overruns(), 0);
        let frames = self.leaks.take();
        let shown: Vec<_> = frames
            .iter()
            .map(|frame| {
                (
                    kind(frame),
                    String::from_utf8_lossy(&frame.bytes).into_owned(),
                )
            })
            .collect();
        assert!(
            self.leaks.incoming() == 0,
            "{when:?}: leaked {shown:?}\n{:02x?}",
            frames.first().map(|frame| &frame.bytes)
        );
    }

    fn stands(&self, lan: bool) -> bool {
        let look = || Ok(Links::open()?.kill_switch_stands(&switch(lan))?);
        self.ws.run(look).unwrap()
    }

    fn wait_until_it_stands(&self, lan: bool) {
        wait_for("the kill switch to stand", PATIENCE, || {
            self.stands(lan).then_some(())
        })
        .unwrap();
    }

    /// The tunnel's packets leave, and their answers come in.
    #[track_caller]
    fn the_tunnel_works(&self, when: &dyn std::fmt::Debug) {
        for (family, to) in INTERNET.iter().enumerate() {
            if !self.families[family] {
                continue;
            }
            // The router has to find the Workstation, not only the other way round.
            drop(self.router.ip("neigh flush dev far0"));
            let answered = wait_for("an answer to the tunnel", PATIENCE, || {
                self.ws
                    .run(|| {
                        let socket = udp(to, Some(MARK), None)?;
                        socket.set_nonblocking(false)?;
                        socket.connect(SocketAddr::from((*to, TUNNEL)))?;
                        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                        socket.send(b"tunnel")?;
                        Ok(socket.recv(&mut [0; 16])?)
                    })
                    .ok()
            });
            assert!(answered.is_ok(), "{when:?}: {answered:?}");
        }
    }

    /// What is forwarded from the container looks as if it were the Workstation's own.
    fn masquerade(&self) {
        for rule in [
            "add table inet others",
            "add chain inet others late { type nat hook postrouting priority 100 ; }",
            "add rule inet others late ip saddr 172.30.0.0/24 masquerade",
            "add rule inet others late ip6 saddr fd30::/64 masquerade",
        ] {
            self.ws.exec("nft", rule).unwrap();
        }
    }

    fn count(&self, kind: Kind) -> u64 {
        self.seen
            .lock()
            .unwrap()
            .get(&kind)
            .copied()
            .unwrap_or_default()
    }

    /// Everything that a kill switch may touch.
    fn listing(&self) -> String {
        let shown = "nft list ruleset; ip rule; ip -6 rule; ip route show table all; \
                     ip -6 route show table all; cat /proc/sys/net/ipv4/conf/all/src_valid_mark";
        let mut command = self.ws.command("sh");
        let output = command.args(["-c", shown]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The tunnel's other end, which answers from the address that was asked.
struct Internet {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Internet {
    fn start(router: &Namespace) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let threads = INTERNET.map(|address| {
            let bind = || Ok(UdpSocket::bind(SocketAddr::from((address, TUNNEL)))?);
            let (socket, stopped) = (router.run(bind).unwrap(), Arc::clone(&stop));
            let patience = Some(Duration::from_millis(20));
            socket.set_read_timeout(patience).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            })
        });
        Self {
            stop,
            threads: threads.into(),
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A socket of a family, with a mark, and tied to an interface.
fn udp(family: &IpAddr, mark: Option<u32>, tied: Option<&str>) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    udp_from(SocketAddr::from((any, 0)), mark, tied)
}

fn udp_from(from: SocketAddr, mark: Option<u32>, tied: Option<&str>) -> anyhow::Result<UdpSocket> {
    let domain = if from.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let socket = socket(domain, libc::SOCK_DGRAM, 0)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark)?;
    }
    if let Some(interface) = tied {
        setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    }
    match from {
        SocketAddr::V4(from) => {
            nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
        }
        SocketAddr::V6(from) => {
            nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(from))?;
        }
    }
    Ok(UdpSocket::from(socket))
}

fn socket(domain: i32, kind: i32, protocol: i32) -> anyhow::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = unsafe {
        libc::socket(
            domain,
            kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            protocol,
        )
    };
    anyhow::ensure!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_to(socket: &OwnedFd, bytes: &[u8], to: SocketAddr) {
    // Whether it may is what this is about.
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let fd = socket.as_raw_fd();
    let _ = match to {
        SocketAddr::V4(to) => sendto(fd, bytes, &SockaddrIn::from(to), flags),
        SocketAddr::V6(to) => sendto(fd, bytes, &SockaddrIn6::from(to), flags),
    };
}

/// A TCP connection that is asked for, whatever comes of it.
fn ask_for(to: SocketAddr, tied: Option<&str>) -> anyhow::Result<OwnedFd> {
    let domain = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let socket = socket(domain, libc::SOCK_STREAM, 0)?;
    if let Some(interface) = tied {
        setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    }
    let _ = match to {
        SocketAddr::V4(to) => nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)),
        SocketAddr::V6(to) => nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn6::from(to)),
    };
    Ok(socket)
}

/// An echo request, which needs no checksum where nobody has to answer it.
fn echo_request(v6: bool, text: &[u8]) -> Vec<u8> {
    let kind = if v6 { 128 } else { 8 };
    [&[kind, 0, 0, 0, 0, 1, 0, 1], text].concat()
}

/// Everything that sends on a host, on a thread, until it is dropped.
struct Babbler {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What was opened before there was a kill switch: datagram sockets with a cached route, and connections.
#[derive(Default)]
struct Opened {
    datagrams: Vec<UdpSocket>,
    connections: Vec<OwnedFd>,
}

impl Opened {
    fn open(own: bool) -> Self {
        let mut opened = Self::default();
        for to in INTERNET {
            let connected = |tied: Option<&str>| -> anyhow::Result<UdpSocket> {
                let socket = udp(&to, None, tied)?;
                socket.connect(SocketAddr::from((to, ELSEWHERE)))?;
                socket.send(if tied.is_some() { TIED } else { PLAIN })?;
                Ok(socket)
            };
            opened.datagrams.extend(connected(None));
            if own {
                let asked = ask_for(SocketAddr::from((to, ELSEWHERE)), None);
                opened.connections.extend(asked);
            }
        }
        opened
    }

    fn send(&self) {
        for socket in &self.datagrams {
            drop(socket.send(PLAIN));
        }
        for connection in &self.connections {
            let _ = nix::sys::socket::send(
                connection.as_raw_fd(),
                PLAIN,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            );
        }
    }
}

impl Babbler {
    fn start(host: &Arc<Namespace>, own: bool) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (host, stopped, counted) = (Arc::clone(host), Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            host.run(|| {
                let opened = Opened::open(own);
                let mut asked = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    opened.send();
                    asked.clear();
                    for to in INTERNET {
                        anybody(to, &mut asked);
                        if own {
                            for interface in ["up0", "wlan0"] {
                                tied(to, interface, &mut asked);
                            }
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            })
            .unwrap();
        });
        Self {
            stop,
            rounds,
            thread: Some(thread),
        }
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// What routing alone holds.
fn anybody(to: IpAddr, asked: &mut Vec<OwnedFd>) {
    let neighbour: IpAddr = match to {
        IpAddr::V4(_) => [192, 0, 2, 1].into(),
        IpAddr::V6(_) => "2001:db8::1".parse().unwrap(),
    };
    let uplink: [IpAddr; 2] = match to {
        IpAddr::V4(_) => [2, 3].map(|host| [192, 0, 2, host].into()),
        IpAddr::V6(_) => ["2001:db8::2", "2001:db8::3"].map(|host| host.parse().unwrap()),
    };
    let send = |socket: anyhow::Result<UdpSocket>, to: IpAddr, port: u16| {
        if let Ok(socket) = socket {
            drop(socket.send_to(PLAIN, SocketAddr::from((to, port))));
        }
    };
    send(udp(&to, None, None), to, ELSEWHERE);
    send(udp(&to, None, None), to, TUNNEL);
    send(udp(&to, None, None), neighbour, ELSEWHERE);
    // Marks that are not the tunnel's.
    for mark in [1, MARK + 1, MARK | 0x8000_0000, MARK.swap_bytes()] {
        send(udp(&to, Some(mark), None), to, ELSEWHERE);
    }
    for source in uplink {
        send(
            udp_from(SocketAddr::from((source, 0)), None, None),
            to,
            ELSEWHERE,
        );
    }
    // Nearly what the uplink needs.
    let any = udp(&to, None, None).and_then(|socket| Ok(socket.local_addr()?.ip()));
    if let Ok(any) = any {
        for (from, port) in [(68, 53), (68, 67), (546, 547), (67, 68), (4068, 67)] {
            send(
                udp_from(SocketAddr::from((any, from)), None, None),
                to,
                port,
            );
        }
    }
    asked.extend(ask_for(SocketAddr::from((to, ELSEWHERE)), None));
    asked.extend(ask_for(SocketAddr::from((neighbour, ELSEWHERE)), None));
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    if let Ok(raw) = socket(domain, libc::SOCK_RAW, protocol) {
        send_to(
            &raw,
            &echo_request(to.is_ipv6(), PLAIN),
            SocketAddr::from((to, 0)),
        );
    }
    if let (IpAddr::V4(to), Ok(raw)) =
        (to, socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW))
    {
        let packet = udp_v4([192, 0, 2, 2].into(), to, ELSEWHERE, PLAIN);
        send_to(&raw, &packet, SocketAddr::from((to, 0)));
    }
}

/// What only the firewall holds.
fn tied(to: IpAddr, interface: &str, asked: &mut Vec<OwnedFd>) {
    let Ok(index) = nix::net::if_::if_nametoindex(interface) else {
        return;
    };
    let send = |socket: anyhow::Result<UdpSocket>, to: SocketAddr| {
        if let Ok(socket) = socket {
            drop(socket.send_to(TIED, to));
        }
    };
    let to_port = SocketAddr::from((to, ELSEWHERE_TIED));
    send(udp(&to, None, Some(interface)), to_port);
    // The tunnel's addresses, by whoever takes them for a source: the tunnel too.
    let inner = INNER[usize::from(to.is_ipv6())];
    for mark in [None, Some(MARK)] {
        for tie in [None, Some(interface)] {
            send(udp_from(SocketAddr::from((inner, 0)), mark, tie), to_port);
        }
    }
    // Groups, broadcast, and joining a group.
    match to {
        IpAddr::V4(_) => {
            for to in [[255; 4], [192, 0, 2, 255], [224, 0, 0, 251], [239, 1, 2, 3]] {
                send(
                    udp(&IpAddr::from(to), None, Some(interface)),
                    (to, 5353).into(),
                );
            }
            if let Ok(socket) = udp(&to, None, Some(interface)) {
                drop(socket.join_multicast_v4(&[239, 1, 2, 3].into(), &[192, 0, 2, 2].into()));
            }
            // What its DHCP client says.
            if let Ok(dhcp) = udp_from(([0; 4], 68).into(), None, Some(interface)) {
                drop(dhcp.send_to(b"dhcp", (Ipv4Addr::BROADCAST, 67)));
                // And what could be said to anybody.
                drop(dhcp.send_to(TIED, (to, 67)));
            }
        }
        IpAddr::V6(_) => {
            for group in ["ff02::fb", "ff05::2", "ff02::1"] {
                let group = std::net::SocketAddrV6::new(group.parse().unwrap(), 5353, 0, index);
                send(udp(&to, None, None), group.into());
            }
            let servers = "ff02::1:2".parse().unwrap();
            let servers = std::net::SocketAddrV6::new(servers, 547, 0, index);
            if let Ok(dhcp) = udp_from((Ipv6Addr::UNSPECIFIED, 546).into(), None, None) {
                drop(dhcp.send_to(b"dhcp", servers));
            }
            if let Ok(socket) = udp(&to, None, None) {
                drop(socket.join_multicast_v6(&"ff02::1234".parse().unwrap(), index));
            }
        }
    }
    if let Ok(connection) = ask_for(to_port, Some(interface)) {
        asked.push(connection);
    }
}

/// What happens to a Workstation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    TunnelDown,
    TunnelUp,
    TunnelRemoved,
    UplinkDown,
    UplinkUp,
    NewLease,
    NewDefaultRoute,
    UplinkRenamed,
    UplinkReplaced,
    OnlyIpv4,
    OnlyIpv6,
    FirewallFlushed,
    RoutingFlushed,
    OthersRule,
    AgentKilled,
    AgentStarted,
    Suspended,
}

const EVENTS: [Event; 17] = [
    Event::TunnelDown,
    Event::TunnelUp,
    Event::TunnelRemoved,
    Event::UplinkDown,
    Event::UplinkUp,
    Event::NewLease,
    Event::NewDefaultRoute,
    Event::UplinkRenamed,
    Event::UplinkReplaced,
    Event::OnlyIpv4,
    Event::OnlyIpv6,
    Event::Suspended,
    Event::FirewallFlushed,
    Event::RoutingFlushed,
    Event::OthersRule,
    Event::AgentKilled,
    Event::AgentStarted,
];
/// The first of them, which are no change of the kill switch.
const NETWORK: usize = 12;

/// An order in which every event comes right after every other: an Eulerian circuit of the complete
/// directed graph.
fn every_pair(count: usize) -> Vec<usize> {
    let mut left: Vec<Vec<usize>> = (0..count)
        .map(|from| (0..count).filter(|to| *to != from).collect())
        .collect();
    let (mut path, mut order) = (vec![0], Vec::new());
    while let Some(&at) = path.last() {
        match left[at].pop() {
            Some(next) => path.push(next),
            None => order.extend(path.pop()),
        }
    }
    order.reverse();
    order
}

#[test]
fn the_order_of_events_has_every_event_right_after_every_other() {
    let order = every_pair(EVENTS.len());
    let pairs: std::collections::BTreeSet<_> =
        order.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!(pairs.len(), EVENTS.len() * (EVENTS.len() - 1));
    assert_eq!(order.len(), pairs.len() + 1);
}

/// A Workstation with its kill switch, as far as it decides what has to hold.
struct Life {
    scene: Scene,
    holder: Option<Process>,
    /// Which of the two lines stand although there is nobody to put them back.
    firewall: bool,
    routing: bool,
}

impl Life {
    fn is_up(&self) -> bool {
        let shown = self
            .scene
            .ws
            .ip(&format!("link show dev {}", self.scene.uplink));
        shown.unwrap().contains("LOWER_UP")
    }

    fn start(&mut self) {
        if self.holder.is_none() {
            self.holder = Some(hold(&self.scene.ws, false, &self.scene.logs));
        }
        self.scene.wait_until_it_stands(false);
        (self.firewall, self.routing) = (true, true);
        self.scene.bar(CLOSED);
    }

    /// Lets every event happen right after every other.
    fn live(&mut self, events: &[Event]) {
        let mut before = None;
        for at in every_pair(events.len()) {
            let event = events[at];
            let when = (before, event, self.firewall, self.routing);
            self.happen(event);
            self.scene.nothing_leaks(&when);
            if self.holder.is_some() {
                self.scene.wait_until_it_stands(false);
            }
            // Without a firewall that marks them, answers do not pass the strictest filter.
            if self.is_up() && self.firewall {
                self.scene.the_tunnel_works(&when);
            }
            before = Some(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let scene = &mut self.scene;
        let ws = Arc::clone(&scene.ws);
        let ip = |command: String| ws.ip(&command);
        let uplink = scene.uplink;
        match event {
            Event::TunnelDown => drop(ip(format!("link set {TUN} down"))),
            Event::TunnelRemoved => drop(ip(format!("link delete {TUN}"))),
            Event::TunnelUp => {
                if ip(format!("link set {TUN} up")).is_err() {
                    scene.lay_tunnel();
                }
            }
            Event::UplinkDown => set_link(&ws, uplink, false).unwrap(),
            Event::UplinkUp => {
                set_link(&ws, uplink, true).unwrap();
                scene.families = [true; 2];
                scene.configure();
            }
            Event::NewLease => {
                scene.host ^= 1;
                scene.configure();
            }
            Event::NewDefaultRoute => {
                scene.gateway ^= 255;
                scene.configure();
            }
            Event::UplinkRenamed => {
                let renamed = if uplink == "up0" { "wlan0" } else { "up0" };
                set_link(&ws, uplink, false).unwrap();
                ip(format!("link set {uplink} name {renamed}")).unwrap();
                set_link(&ws, renamed, true).unwrap();
                scene.uplink = renamed;
                scene.configure();
            }
            Event::UplinkReplaced => {
                ip(format!("link delete {uplink}")).unwrap();
                scene.lay_uplink();
            }
            Event::OnlyIpv4 | Event::OnlyIpv6 => {
                let v4 = event == Event::OnlyIpv4;
                scene.families = [v4, !v4];
                scene.configure();
            }
            Event::FirewallFlushed => {
                // Where somebody holds it, nobody can; else routing is what is left.
                if self.holder.is_none() && !self.routing {
                    return;
                }
                if self.holder.is_none() {
                    scene.bar(ROUTING_ONLY);
                    self.firewall = false;
                }
                ws.exec("nft", "flush ruleset").unwrap();
            }
            Event::RoutingFlushed => {
                if self.holder.is_none() && !self.firewall {
                    return;
                }
                self.routing = self.holder.is_some();
                for family in ["-4", "-6"] {
                    // All but the first, of local addresses.
                    ip(format!("{family} rule flush")).unwrap();
                    ip(format!("{family} rule add priority 32766 lookup main")).unwrap();
                    drop(ip(format!("{family} route flush table 28771")));
                }
                ip("rule add priority 32767 lookup default".to_owned()).unwrap();
            }
            Event::OthersRule => {
                if self.holder.is_none() && !self.firewall {
                    return;
                }
                self.routing = self.holder.is_some();
                for family in ["-4", "-6"] {
                    while ip(format!("{family} rule delete lookup main protocol 77")).is_ok() {}
                    ip(format!(
                        "{family} rule add priority 3 lookup main protocol 77"
                    ))
                    .unwrap();
                }
            }
            Event::AgentKilled => {
                if let Some(mut holder) = self.holder.take() {
                    holder.kill();
                }
            }
            Event::AgentStarted => self.start(),
            Event::Suspended => {
                if let Some(holder) = &mut self.holder {
                    holder.signal(Signal::SIGSTOP).unwrap();
                }
                set_link(&ws, uplink, false).unwrap();
                drop(ip(format!("link set {TUN} down")));
                set_link(&ws, uplink, true).unwrap();
                drop(ip(format!("link set {TUN} up")));
                scene.configure();
                // Awake, before anybody looks.
                scene.nothing_leaks(&event);
                if let Some(holder) = &mut self.holder {
                    holder.signal(Signal::SIGCONT).unwrap();
                }
            }
        }
    }
}

/// What the others prove nothing without.
#[test]
fn without_it_all_of_that_leaves() {
    let mut scene = Scene::lay();
    scene.babble();
    scene.rounds();
    for kind in [
        Kind::Arp,
        Kind::Neighbours,
        Kind::Dhcp,
        Kind::Dhcp6,
        Kind::Mld,
        Kind::Tied,
        Kind::Plain,
    ] {
        assert!(scene.count(kind) > 0, "no {kind:?}");
    }
    scene.bar(CLOSED);
    scene.rounds();
    assert!(scene.leaks.incoming() > 100);
}

#[test]
fn in_every_order_of_events_nothing_leaves_but_the_tunnel_and_what_the_uplink_needs() {
    let mut scene = Scene::lay();
    scene.babble();
    let mut life = Life {
        scene,
        holder: None,
        firewall: false,
        routing: false,
    };
    life.start();
    life.live(&EVENTS);
    // Every order again, with nobody there and only one of the two lines.
    for lost in [Event::RoutingFlushed, Event::FirewallFlushed] {
        life.happen(Event::AgentStarted);
        life.happen(Event::AgentKilled);
        life.happen(lost);
        life.live(&EVENTS[..NETWORK]);
    }
    for kind in [
        Kind::Tunnel4,
        Kind::Tunnel6,
        Kind::Arp,
        Kind::Neighbours,
        Kind::Dhcp,
        Kind::Dhcp6,
    ] {
        assert!(life.scene.count(kind) > 0, "no {kind:?}");
    }
}

#[test]
fn when_it_is_taken_away_everything_is_as_before() {
    let scene = Scene::lay();
    let before = scene.listing();
    for _ in 0..2 {
        let mut holder = hold(&scene.ws, false, &scene.logs);
        scene.wait_until_it_stands(false);
        assert_ne!(scene.listing(), before);
        holder.kill();
        scene
            .ws
            .run(|| Ok(Links::open()?.lower_kill_switch()?))
            .unwrap();
        assert_eq!(scene.listing(), before);
    }
}

/// From outside there is nobody there, but for the neighbours' own protocols.
#[test]
fn nothing_is_answered_to_the_lan_and_nobody_learns_the_tunnels_addresses() {
    let mut scene = Scene::lay();
    let mut holder = hold(&scene.ws, false, &scene.logs);
    scene.wait_until_it_stands(false);
    let listener = scene
        .ws
        .run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 22))?))
        .unwrap();
    let service = scene
        .ws
        .run(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5353))?))
        .unwrap();
    service.set_nonblocking(true).unwrap();
    // Which would keep answers in that are to be kept in without it.
    scene.ws.sysctl("ipv4/conf/up0/rp_filter", "0").unwrap();
    for command in [
        "route add 10.152.152.11/32 dev far0",
        "-6 route add fd50:6f72:7463::11/128 dev far0",
    ] {
        scene.router.ip(command).unwrap();
    }
    scene.bar(CLOSED);
    let reach = || {
        scene.router.run(|| {
            let own: [IpAddr; 2] = [[192, 0, 2, 2].into(), "2001:db8::2".parse()?];
            let mut asked = Vec::new();
            for to in own.into_iter().chain(INNER) {
                for port in [22, 23, 5353] {
                    drop(udp(&to, None, None)?.send_to(b"?", (to, port)));
                    asked.extend(ask_for((to, port).into(), None));
                }
            }
            let raw = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
            // Its checksum is right.
            send_to(&raw, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1], (own[0], 0).into());
            let raw = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
            send_to(&raw, &[128, 0, 0, 0, 0, 1, 0, 1], (own[1], 0).into());
            // Every one of them has its answer by then, or never.
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        })
    };
    for _ in 0..5 {
        reach().unwrap();
    }
    scene.nothing_leaks(&"asked for as neighbours");
    let mac = mac_of(&scene.ws, "up0")
        .unwrap()
        .map(|byte| format!("{byte:02x}"));
    for inner in INNER {
        let known = format!("neigh replace {inner} lladdr {} dev far0", mac.join(":"));
        scene.router.ip(&known).unwrap();
    }
    for _ in 0..5 {
        reach().unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    assert!(service.recv(&mut [0; 8]).is_err(), "a service was reached");
    scene.nothing_leaks(&"probed");
    scene.the_tunnel_works(&"probed");
    // With it gone there is somebody.
    scene.babblers.clear();
    holder.kill();
    scene
        .ws
        .run(|| Ok(Links::open()?.lower_kill_switch()?))
        .unwrap();
    reach().unwrap();
    scene.leaks.settle().unwrap();
    assert!(scene.leaks.incoming() > 0);
    assert!(service.recv(&mut [0; 8]).is_ok());
}

#[test]
fn a_lan_that_is_to_stay_open_is_and_nothing_behind_it_nor_for_anybody_else() {
    let mut scene = Scene::lay();
    for (host, address) in [(&scene.ws, 2), (&scene.router, 1)] {
        let interface = if address == 2 { "up0" } else { "far0" };
        // The second has what the tunnel has a route to in it.
        for (net, length) in [("192.168.7", 24), ("10.152.152", 8)] {
            let add = format!("address add {net}.{address}/{length} dev {interface}");
            host.ip(&add).unwrap();
        }
    }
    // What a DHCP server may say is behind it.
    scene
        .ws
        .ip("route add 192.168.9.0/24 via 192.0.2.1")
        .unwrap();
    scene
        .router
        .ip("address add 192.168.9.1/32 dev lo")
        .unwrap();
    scene.masquerade();
    let _holder = hold(&scene.ws, true, &scene.logs);
    scene.wait_until_it_stands(true);
    scene.bar(CLOSED);
    scene.babble();
    scene.nothing_leaks(&"LAN");

    scene.babblers.clear();
    scene.bar(OPEN);
    let service = |address: [u8; 4]| {
        let bind = || Ok(UdpSocket::bind((IpAddr::from(address), 9000))?);
        let service = scene.router.run(bind).unwrap();
        service.set_nonblocking(true).unwrap();
        (service, address)
    };
    let (open, answered) = (service([192, 168, 7, 1]), service([192, 0, 2, 1]));
    let behind = [
        answered,
        service([192, 168, 9, 1]),
        service([10, 152, 152, 1]),
    ];
    let ask = |host: &Namespace, to: [u8; 4], tied: Option<&str>| {
        host.run(|| {
            Ok(udp(&to.into(), None, tied)?
                .send_to(b"?", (Ipv4Addr::from(to), 9000))
                .is_ok())
        })
        .unwrap()
    };
    ask(&scene.ws, open.1, None);
    let mut buffer = [0; 8];
    let (_, from) = wait_for("a question from the LAN", PATIENCE, || {
        open.0.recv_from(&mut buffer).ok()
    })
    .unwrap();
    assert_eq!(from.ip(), IpAddr::from([192, 168, 7, 2]));
    // And back, to what asks from there.
    scene
        .ws
        .run(|| {
            let socket = udp(&from.ip(), None, None)?;
            socket.send_to(b"?", (Ipv4Addr::from(open.1), 9000))?;
            let (_, from) = wait_for("a question", PATIENCE, || {
                open.0.recv_from(&mut [0; 8]).ok()
            })?;
            open.0.send_to(b"!", from)?;
            wait_for("its answer", PATIENCE, || socket.recv(&mut [0; 8]).ok())
        })
        .unwrap();
    for (service, address) in &behind {
        for tied in [None, Some("up0")] {
            ask(&scene.ws, *address, tied);
        }
        ask(&scene.container, *address, None);
        scene.leaks.settle().unwrap();
        assert!(
            service.recv(&mut [0; 8]).is_err(),
            "{address:?} was reached"
        );
    }
    ask(&scene.container, open.1, None);
    scene.leaks.settle().unwrap();
    assert!(
        open.0.recv(&mut [0; 8]).is_err(),
        "a container reached the LAN"
    );
}

#[test]
fn a_firewall_that_gives_forwarded_packets_the_mark_lets_none_out() {
    let mut scene = Scene::lay();
    let _holder = hold(&scene.ws, false, &scene.logs);
    scene.wait_until_it_stands(false);
    scene.masquerade();
    for rule in [
        "add chain inet others early { type filter hook prerouting priority -150 ; }".to_owned(),
        format!("add rule inet others early iifname c0 meta mark set {MARK}"),
    ] {
        scene.ws.exec("nft", &rule).unwrap();
    }
    scene.bar(CLOSED);
    scene.babble();
    scene.nothing_leaks(&"marked");
}

/// An IPv6 packet without a payload.
fn bare_v6(source: &str, destination: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let head = [0x60, 0, 0, 0, 0, 0, 59, 64];
    [&head[..], &address(source), &address(destination)].concat()
}

/// Who is on the LAN may send into the tunnel what this host forwards there, but not in its name.
#[test]
fn nobody_on_the_lan_can_send_into_the_tunnel_in_the_workstations_name() {
    let scene = Scene::lay();
    let _holder = hold(&scene.ws, false, &scene.logs);
    scene.wait_until_it_stands(false);
    scene
        .router
        .ip("-6 route add fd99::/64 via 2001:db8::2")
        .unwrap();
    let forwarded = || {
        let shown = scene.ws.exec("cat", "/proc/net/snmp6").unwrap();
        let line = shown
            .lines()
            .find(|line| line.starts_with("Ip6OutForwDatagrams"));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        count.unwrap().parse::<u64>().unwrap()
    };
    let raw = scene
        .router
        .run(|| socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW))
        .unwrap();
    let to = || (IpAddr::V6("fd99::1".parse().unwrap()), 0).into();
    let inner = INNER[1].to_string();
    for _ in 0..10 {
        send_to(&raw, &bare_v6(&inner, "fd99::1"), to());
        send_to(&raw, &bare_v6("2001:db8::2", "fd99::1"), to());
    }
    // In the order that they were sent in.
    send_to(&raw, &bare_v6("fd77::1", "fd99::1"), to());
    wait_for("what comes last", PATIENCE, || {
        (forwarded() > 0).then_some(())
    })
    .unwrap();
    assert_eq!(forwarded(), 1);
}
