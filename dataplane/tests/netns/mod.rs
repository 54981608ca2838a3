//! A kernel of a test's own, as far as that goes: network namespaces, veth pairs, packet sockets and
//! small XDP programs. All of it needs root, and vanishes with the threads and descriptors that hold
//! it.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use portcullis_dataplane::wall::{GuardHook, WallConfig, XdpRequest};
use wire::{Admission, Role};

pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A network namespace.
pub struct Netns(File);

impl Netns {
    /// The thread's own.
    pub fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").expect("the thread's network namespace"))
    }

    /// A new one, with its loopback interface up. The thread is in it from now on.
    pub fn enter_new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: these tests need root");
        run("ip link set lo up");
        Self::current()
    }

    /// Moves the thread into it.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("to enter the namespace");
    }

    /// Runs something in it.
    pub fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        let back = Self::current();
        self.enter();
        let result = what();
        back.enter();
        result
    }

    /// Its name for `ip`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `body` on a thread in a new network namespace, which vanishes with it.
pub fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        Netns::enter_new();
        body()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The same with a /sys of its own, which shows the namespace's interfaces, and without IPv6, so
/// that nobody but the test sends.
pub fn in_quiet_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    in_namespace(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mount /");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("mount /sys");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("IPv6 off");
        body()
    })
}

/// A veth pair `a` - `b` in the thread's namespace with `queues` queues at each end, both up.
pub fn veth(queues: u32) {
    run(&format!(
        "ip link add name a numrxqueues {queues} numtxqueues {queues} type veth peer name b numrxqueues {queues} numtxqueues {queues}"
    ));
    run("ip link set dev a up");
    run("ip link set dev b up");
}

/// A port under test and what it is cabled to.
///
/// ```text
///   near namespace (the test's thread)      far namespace
///   near0, the port under test  <-- veth -->  far0
/// ```
pub struct Pair {
    pub near: Netns,
    pub far: Netns,
    pub pins: Pins,
}

impl Pair {
    /// Both ends down; the thread is at the near end.
    pub fn new() -> Self {
        let far = Netns::enter_new();
        let near = Netns::enter_new();
        let pair = Self {
            near,
            far,
            pins: Pins::new(),
        };
        pair.add_link();
        pair
    }

    pub fn add_link(&self) {
        run(&format!(
            "ip link add near0 address 02:00:00:00:00:01 type veth peer name far0 address 02:00:00:00:00:02 netns {}",
            self.far.path()
        ));
    }

    pub fn up(&self) {
        self.far.within(|| run("ip link set far0 up"));
        run("ip link set near0 up");
    }

    pub fn config(&self) -> WallConfig {
        config("near0", &self.pins)
    }
}

pub fn config(interface: &str, pins: &Pins) -> WallConfig {
    WallConfig {
        interface: interface.into(),
        ifindex: ifindex(interface),
        admission: Admission {
            role: Role::Gateway,
            mac: NEAR_MAC,
            encapsulation: wire::Encapsulation::Ether(wire::limits::ETHERTYPE),
        },
        pin_directory: pins.0.clone(),
        mode: XdpRequest::Auto,
        guard: GuardHook::Auto,
        session_slots: 16,
        workstation_slots: 8,
    }
}

/// A pin directory of a test's own, removed with everything in it.
pub struct Pins(pub PathBuf);

impl Pins {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/sys/fs/bpf/portcullis-test-{}-{count}", std::process::id());
        Self(name.into())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let Ok(interfaces) = std::fs::read_dir(&self.0) else {
            return;
        };
        for interface in interfaces.flatten() {
            for pin in std::fs::read_dir(interface.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = std::fs::remove_file(pin.path());
            }
            let _ = std::fs::remove_dir(interface.path());
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Runs a command line; its failure is the test's.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ifindex(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("the interface's index")
}

/// An AF_PACKET socket on an interface of the thread's namespace.
pub struct Tap(OwnedFd);

impl Tap {
    /// One that sees the frames of an EtherType where the kernel's own protocols get theirs.
    pub fn of_type(interface: &str, ethertype: u16) -> Self {
        Self::open(interface, ethertype, libc::SOCK_NONBLOCK)
    }

    /// One that sends frames, past the hook of the guard, and sees every frame that the kernel's
    /// stack receives or sends there. It waits for nothing.
    pub fn on(interface: &str) -> Self {
        let tap = Self::open(interface, libc::ETH_P_ALL as u16, libc::SOCK_NONBLOCK);
        let on = 1i32;
        // SAFETY: the option is as long as said.
        unsafe {
            libc::setsockopt(
                tap.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                4,
            );
        }
        tap
    }

    /// One that only sends, and waits while it cannot.
    pub fn sending_on(interface: &str) -> Self {
        Self::open(interface, 0, 0)
    }

    fn open(interface: &str, protocol: u16, flags: i32) -> Self {
        let protocol = protocol.to_be();
        // SAFETY: socket(2) makes a descriptor that nobody else knows; bind reads the address, for
        // which all zeros is a value.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
            let fd = libc::socket(libc::AF_PACKET, kind, protocol.into());
            assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = ifindex(interface) as i32;
            let length = size_of_val(&address) as u32;
            let bound = libc::bind(fd, (&raw const address).cast(), length);
            let error = io::Error::last_os_error();
            assert_eq!(bound, 0, "to bind to {interface}: {error}");
            Self(socket)
        }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The next incoming frame, if there is one; frames sent by this host are left out.
    pub fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0u8; 4096];
            // SAFETY: the buffers are as long as said.
            let (length, kind) = unsafe {
                let mut from: libc::sockaddr_ll = std::mem::zeroed();
                let mut size = size_of_val(&from) as u32;
                let length = libc::recvfrom(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &mut size,
                );
                (length, from.sll_pkttype)
            };
            frame.truncate(usize::try_from(length).ok()?);
            if kind != libc::PACKET_OUTGOING {
                return Some(frame);
            }
        }
    }

    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}

/// An XDP program that does nothing but drop: somebody else's, or the measure of an empty one.
pub fn empty_xdp() -> OwnedFd {
    // r0 = XDP_DROP; exit
    load_xdp(&[0x0000_0001_0000_00b7, 0x0000_0000_0000_0095])
}

fn load_xdp(instructions: &[u64]) -> OwnedFd {
    const XDP: u32 = 6;
    // BPF_F_XDP_HAS_FRAGS: it may be attached where frames are larger than a page.
    const FRAGS: u32 = 1 << 5;
    let mut attributes = [0; 16];
    attributes[0] = halves(XDP, instructions.len() as u32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    attributes[5] = halves(0, FRAGS);
    attributes[8] = halves(0, BPF_XDP);
    bpf_descriptor(5, &attributes).expect("BPF_PROG_LOAD")
}

/// Attaches an XDP program to an interface in native mode by a link; dropped, it is off again.
pub fn attach_xdp(program: &OwnedFd, interface: &str) -> OwnedFd {
    const NATIVE: u32 = 4;
    let mut attributes = [0; 16];
    attributes[0] = halves(program.as_raw_fd() as u32, ifindex(interface));
    attributes[1] = halves(BPF_XDP, NATIVE);
    bpf_descriptor(28, &attributes).expect("BPF_LINK_CREATE")
}

/// An XDP program that redirects everything into the socket of its queue, and drops what has none.
pub struct Redirect {
    map: OwnedFd,
    program: OwnedFd,
    link: OwnedFd,
}

impl Redirect {
    /// Attaches it to `interface` in native mode.
    pub fn attach(interface: &str) -> Self {
        const XSKMAP: u32 = 17;
        let mut attributes = [0; 16];
        attributes[0] = halves(XSKMAP, 4);
        attributes[1] = halves(4, 64);
        let map = bpf_descriptor(0, &attributes).expect("BPF_MAP_CREATE");
        let instruction = |code: u64, registers: u64, offset: u64, value: u64| {
            code | registers << 8 | offset << 16 | value << 32
        };
        let program = load_xdp(&[
            instruction(0x61, 0x12, 16, 0), // r2 = ctx->rx_queue_index
            instruction(0x18, 0x11, 0, map.as_raw_fd() as u64), // r1 = the map
            0,
            instruction(0xb7, 0x03, 0, 1),  // r3 = XDP_DROP
            instruction(0x85, 0x00, 0, 51), // bpf_redirect_map
            instruction(0x95, 0x00, 0, 0),  // exit
        ]);
        let link = attach_xdp(&program, interface);
        Self { map, program, link }
    }

    /// Attaches it to an interface that was made anew.
    pub fn attach_again(&mut self, interface: &str) {
        self.link = attach_xdp(&self.program, interface);
    }

    /// Puts sockets into its map.
    pub fn insert<'a>(&self, sockets: impl Iterator<Item = (u32, BorrowedFd<'a>)>) {
        for (queue, socket) in sockets {
            let socket = socket.as_raw_fd();
            let mut attributes = [0; 16];
            attributes[0] = halves(self.map.as_raw_fd() as u32, 0);
            attributes[1] = (&raw const queue) as u64;
            attributes[2] = (&raw const socket) as u64;
            bpf(2, &attributes).expect("BPF_MAP_UPDATE_ELEM");
        }
    }
}

const BPF_XDP: u32 = 37;

fn halves(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn bpf(command: i64, attributes: &[u64; 16]) -> io::Result<i64> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are as large as said; what they point to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

/// A command that answers with a descriptor.
fn bpf_descriptor(command: i64, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
