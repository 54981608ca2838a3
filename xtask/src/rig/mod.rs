//! The rig: hosts as network namespaces, cables as veth pairs, a switch as a bridge, and guards for
//! everything that is started, so that nothing outlives the run that made it.
//!
//! ```text
//!   single            demo                                       many(n)
//!   gw --ws1-- ws1    gw --ws1-- ws1                             gw --lan-- switch -- w1 .. wn
//!                     gw --lan-- switch -- ws2, ws3, evil
//! ```
//!
//! A program is put in a namespace by `setns(CLONE_NEWNET)` in the child and nothing else changes,
//! so that it sees the same `/sys/fs/bpf` as everybody. Nothing here sleeps for a fixed time where
//! a condition can be waited for; see [`wait_for`].

mod babbler;
mod capture;
mod forward;
mod guard;
mod http;
#[cfg(target_arch = "x86_64")]
mod inject;
mod link;
mod memory;
mod namespace;
mod networks;
mod packet;
mod privileges;
mod probe;
mod process;
mod rtt;
mod terminal;
mod topology;
mod tor;
mod traffic;
mod tunnel;
mod udp;

pub use babbler::Babbler;
pub use capture::{Capture, Captured};
pub use forward::Forward;
pub use guard::{Scratch, Serial, arm, check, interrupted, pause, require_root, sweep, wait_for};
pub use http::{Download, HttpServer, body_sha256, download, fetch};
#[cfg(target_arch = "x86_64")]
pub use inject::Captive;
pub use link::{
    Bridge, mac_of, offloads_off, received_packets, set_link, transmit_drops, veth, veth_queues,
};
pub use memory::{Mapping, mappings, places};
pub use namespace::Namespace;
pub use networks::{LAN, Networks, WAN, WLAN, networks};
pub use packet::{PacketKind, PacketSocket};
pub use privileges::{ACCOUNT, HELPER, ThreadStatus, descriptors, helper_of, threads};
pub use probe::{Echo, Probe, ProbeReport};
pub use process::{Process, is_writing};
pub use rtt::{RoundTrips, round_trips};
pub use terminal::Terminal;
pub use topology::{
    Demo, Many, Single, Tapped, demo, lay_tapped_cable, many, many_queues, single, tapped,
};
pub use tor::{NameServer, TorNetwork, resolve, socks};
pub use traffic::{
    Ping, Rates, Stream, iperf3, iperf3_all, iperf3_all_one_way, iperf3_one_way, ping,
};
pub use tunnel::{Gateway, Programs, Snapshot, Workstation, counters};
pub use udp::{UdpPath, UdpTrial};

/// The Gateway's inner IPv4 address in every topology.
pub const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 152, 152, 10);
/// The Gateway's inner IPv6 address in every topology.
pub const GATEWAY_V6: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0xfd50, 0x6f72, 0x7463, 0, 0, 0, 0, 1);
/// The name of the tunnel's host interface on every host.
pub const HOST_INTERFACE: &str = "portcullis0";
