//! What was read. `None` is what could not be.

use crate::api::{PortStatus, mac_text};
use dataplane::link::{LinkInfo, XdpFeatures};
use dataplane::port::ethtool::Survey;
use dataplane::wall::Inspection;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Whether the caller is root, without whom the kernel does not tell everything.
    pub root: bool,
    pub(super) kernel: Kernel,
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    pub(super) routing: Routing,
    pub(super) files: Vec<File>,
    pub(super) tun: Option<Tun>,
    pub(super) listeners: Option<Vec<Listener>>,
    pub(super) daemon: Daemon,
    pub(super) ports: Vec<Port>,
    /// The interface of the fast path, where there is to be one.
    pub(super) fast_path: Option<Port>,
}

/// The kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub release: String,
    /// Whether AF_XDP sockets can be made.
    pub af_xdp: Option<bool>,
    /// Whether a socket takes XDP_MAX_TX_SKB_BUDGET.
    pub tx_budget: Option<bool>,
    /// Whether /dev/net/tun is there.
    pub tun: bool,
    /// net.core.bpf_jit_enable; a kernel that always compiles has no such setting.
    pub jit: Option<u32>,
    /// Whether Landlock is there.
    pub landlock: Option<bool>,
    /// Options of the kernel's configuration that are missing, where that can be read.
    pub missing: Option<Vec<&'static str>>,
}

/// CPU, randomness and time.
#[derive(Debug, Clone, Default)]
pub(super) struct Cpu {
    pub cores: usize,
    /// What of it is of use: `aes`, `vaes`, `avx512f`, `vpclmulqdq`.
    pub features: Vec<&'static str>,
    pub clock_source: Option<String>,
    /// Whether the kernel's generator is seeded.
    pub seeded: Option<bool>,
    /// Seconds of Unix time.
    pub time: u64,
}

/// Memory and disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Huge pages of 2 MiB: all, and free ones.
    pub huge_pages: Option<(u64, u64)>,
    /// Free bytes where state is kept.
    pub free: Option<u64>,
    /// Whether that is mounted read-only.
    pub read_only: Option<bool>,
}

/// What the kernel forwards.
#[derive(Debug, Clone, Default)]
pub(super) struct Routing {
    pub forwards_v4: Option<bool>,
    pub forwards_v6: Option<bool>,
    /// Whether a rule keeps what comes in on the host interface on this machine.
    pub kept_in: Option<bool>,
    /// The first and the last port that programs are given which ask for none, and those left out of it (Linux,
    /// networking/ip-sysctl: `ip_local_port_range`, `ip_local_reserved_ports`).
    pub local_ports: Option<(u16, u16)>,
    pub reserved_ports: Vec<(u16, u16)>,
}

impl Routing {
    /// The reserved ports and one more, as the setting has them.
    pub fn reserved_with(&self, port: u16) -> String {
        let range = |(first, last): (u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let all = self.reserved_ports.iter().copied().chain([(port, port)]);
        all.map(range).collect::<Vec<_>>().join(",")
    }
}

/// A file or directory of ours.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub path: PathBuf,
    /// What it holds, in words.
    pub what: &'static str,
    /// The bits that it must not have.
    pub forbidden: u32,
    /// Its mode; none when it is not there.
    pub mode: Option<u32>,
}

/// The host interface.
#[derive(Debug, Clone)]
pub(super) struct Tun {
    /// Whether it outlives the daemon; none when it is no TUN.
    pub persistent: Option<bool>,
    pub addresses: Vec<IpNet>,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    pub tcp: bool,
    pub address: IpAddr,
    pub port: u16,
}

/// The daemon.
#[derive(Debug, Clone, Default)]
pub(super) struct Daemon {
    /// What it says of its ports; none when it is not running.
    pub ports: Option<Vec<PortStatus>>,
    /// What it warns of.
    pub warnings: Vec<String>,
    /// Why it does not answer though it is there.
    pub silent: Option<String>,
    pub process: Option<Process>,
}

/// The daemon's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    /// Its effective capabilities, a bit each.
    pub capabilities: u64,
    /// 2 with a filter of system calls.
    pub seccomp: u32,
    /// Whether the limit of locked memory is off.
    pub memlock_unlimited: bool,
}

/// A port.
#[derive(Debug, Clone, Default)]
pub(super) struct Port {
    /// The interface, where there is it.
    pub link: Option<LinkInfo>,
    /// Interfaces on top of it: VLANs, macvlans and the like.
    pub upper: Vec<String>,
    /// Interfaces that belong to it, as a bond's.
    pub members: Vec<String>,
    /// Prefixes that are routed over it.
    pub routes: Vec<String>,
    pub survey: Survey,
    pub features: Option<XdpFeatures>,
    /// The CPUs that its interrupts may go to, for each.
    pub interrupts: Vec<(u32, String)>,
    pub rp_filter: Option<u32>,
    pub forwarding: Option<u32>,
    pub napi_defer: Option<u64>,
    pub flush_timeout: Option<u64>,
    /// What stands on its hooks, or why that cannot be told.
    pub hooks: Option<Result<Inspection, String>>,
}

impl Port {
    /// The interface's MAC address as text.
    pub fn mac(&self) -> Option<String> {
        self.link.as_ref()?.mac.map(mac_text)
    }
}
