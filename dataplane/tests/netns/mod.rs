//! Network namespaces and veth pairs for tests, and frames captured at a far end.
//!
//! ```text
//!   near namespace (the test's thread)      far namespace
//!   near0, the port under test  <-- veth -->  far0
//! ```
//! Both namespaces vanish with the thread and the descriptors that hold them.
#![allow(dead_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// The drawing above.
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
            ethertype: wire::limits::ETHERTYPE,
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
        .expect("to run it");
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ifindex(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("the interface's index")
}

/// An AF_PACKET socket on an interface of the thread's namespace: sends frames, and sees every
/// frame that the kernel's stack receives or sends there.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn on(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) makes a descriptor that nobody else knows; bind reads the address.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let fd = libc::socket(libc::AF_PACKET, kind, protocol.into());
            assert!(fd >= 0, "an AF_PACKET socket");
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = ifindex(interface) as i32;
            let length = size_of_val(&address) as u32;
            let bound = libc::bind(fd, (&raw const address).cast(), length);
            assert_eq!(bound, 0, "to bind to {interface}");
            let on = 1i32;
            // A frame to send goes straight to the device, past the hook of the guard.
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                4,
            );
            Self(socket)
        }
    }

    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len() as isize
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
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        rest: [u64; 14],
    }
    let load = Load {
        kind: 6,
        count: 2,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 14],
    };
    bpf(5, &load).expect("an empty XDP program")
}

/// Attaches an XDP program to an interface by a link; dropped, it is off again.
pub fn attach_xdp(program: &OwnedFd, interface: &str) -> OwnedFd {
    const BPF_XDP: u32 = 37;
    let create = [
        program.as_raw_fd() as u32,
        ifindex(interface),
        BPF_XDP,
        0,
        0,
        0,
    ];
    bpf(28, &create).expect("to attach it")
}

fn bpf<T>(command: u32, attributes: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: the attributes are the command's, and what they point to lives over the call; the
    // descriptor that comes back is new.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        );
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
