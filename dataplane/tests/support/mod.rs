//! A place for ports to be tested on a real kernel: a network namespace of the test's own with a
//! veth pair in it, and a minimal XDP program in front of the sockets.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a network namespace of its own, with a /sys of its own. Both are gone
/// with the thread.
pub fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("a network namespace: this test must run as root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mount /");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("mount /sys");
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            .expect("IPv6 off, so that only the test sends");
        ip("link set lo up");
        body()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` with `arguments` in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// A veth pair `a` - `b` with `queues` queues at each end, both up.
pub fn veth(queues: u32) {
    ip(&format!(
        "link add name a numrxqueues {queues} numtxqueues {queues} type veth peer name b numrxqueues {queues} numtxqueues {queues}"
    ));
    ip("link set dev a up");
    ip("link set dev b up");
}

fn bpf(command: i64, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are as large as said; pointers in them outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// An XDP program that redirects everything into the socket of its queue, and drops what has none.
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    link: Option<OwnedFd>,
}

impl Redirect {
    /// Attaches it to `interface` in native mode.
    pub fn attach(interface: &str) -> Self {
        const XSKMAP: u32 = 17;
        const XDP: u32 = 6;
        const BPF_XDP: u32 = 37;
        let mut attributes = [0; 16];
        attributes[0] = pair(XSKMAP, 4);
        attributes[1] = pair(4, 64);
        let map = bpf(0, &attributes).expect("BPF_MAP_CREATE: this test must run as root");
        let instruction = |code: u64, registers: u64, offset: u64, value: u64| {
            code | registers << 8 | offset << 16 | value << 32
        };
        let instructions = [
            instruction(0x61, 0x12, 16, 0), // r2 = ctx->rx_queue_index
            instruction(0x18, 0x11, 0, map.as_raw_fd() as u64), // r1 = the map
            0,
            instruction(0xb7, 0x03, 0, 1),  // r3 = XDP_DROP
            instruction(0x85, 0x00, 0, 51), // bpf_redirect_map
            instruction(0x95, 0x00, 0, 0),  // exit
        ];
        let mut attributes = [0; 16];
        attributes[0] = pair(XDP, instructions.len() as u32);
        attributes[1] = instructions.as_ptr() as u64;
        attributes[2] = c"GPL".as_ptr() as u64;
        attributes[8] = pair(0, BPF_XDP);
        let program = bpf(5, &attributes).expect("BPF_PROG_LOAD");
        let mut redirect = Self {
            map,
            _program: program,
            link: None,
        };
        redirect.attach_again(interface);
        redirect
    }

    /// Attaches it to an interface that was made anew.
    pub fn attach_again(&mut self, interface: &str) {
        const NATIVE: u32 = 4;
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
        let mut attributes = [0; 16];
        attributes[0] = pair(self._program.as_raw_fd() as u32, index);
        attributes[1] = pair(37, NATIVE);
        self.link = Some(bpf(28, &attributes).expect("BPF_LINK_CREATE"));
    }

    /// Puts sockets into its map.
    pub fn insert<'a>(&self, sockets: impl Iterator<Item = (u32, BorrowedFd<'a>)>) {
        for (queue, socket) in sockets {
            let socket = socket.as_raw_fd();
            let mut attributes = [0; 16];
            attributes[0] = pair(self.map.as_raw_fd() as u32, 0);
            attributes[1] = (&raw const queue) as u64;
            attributes[2] = (&raw const socket) as u64;
            // Success is 0, which is no descriptor to be owned.
            // SAFETY: as in `bpf`.
            let answer = unsafe { libc::syscall(libc::SYS_bpf, 2, attributes.as_ptr(), 128) };
            assert_eq!(
                answer,
                0,
                "BPF_MAP_UPDATE_ELEM: {}",
                io::Error::last_os_error()
            );
        }
    }
}

/// An AF_PACKET socket that sends on one interface.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens it.
    pub fn open(interface: &str) -> Self {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
        // SAFETY: sockaddr_ll is plain C data, for which all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is as long as said.
        let answer = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(answer, 0, "bind AF_PACKET: {}", io::Error::last_os_error());
        Self(fd)
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let bytes: *const c_void = frame.as_ptr().cast();
        // SAFETY: the bytes are as many as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes, frame.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// A small generator of numbers that look random (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Fills `bytes` (at least 22) as frame `number` of stream `stream`: an Ethernet header, then the
/// number, then noise that follows from both.
pub fn compose(bytes: &mut [u8], stream: u64, number: u64) {
    let mut numbers = Numbers(stream << 40 | number);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&numbers.draw().to_le_bytes()[..chunk.len()]);
    }
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    bytes[14..22].copy_from_slice(&number.to_le_bytes());
}

/// The length of that frame: 60 to 1514.
pub fn length(stream: u64, number: u64) -> usize {
    60 + (Numbers(!(stream << 40 | number)).draw() % 1455) as usize
}
