//! The handshake, rekey and liveness of docs/protocol.md as sans-IO state machines.
//!
//! [`gateway::Gateway`] and [`workstation::Workstation`] are given time, randomness and messages as
//! arguments and answer with [`Action`]s. They have no clock, no sockets and no randomness of their
//! own, so every interleaving can be tested.

pub use dataplane::path::{Encapsulation, Path};
pub use dataplane::session::{Install, Padding};
use dataplane::{PortId, WorkstationId};
use wire::limits::{ETH_LEN, MAX_PAYLOAD, OVERHEAD, UDP_V6_LEN};

mod clock;
pub mod cookie;
pub mod gateway;
pub mod kdf;
mod liveness;
pub mod message;
pub mod model;
pub mod noise;
mod peer;
pub mod random;
mod show;
pub mod slots;
pub mod workstation;

/// A MAC address.
pub type Mac = [u8; 6];

/// What a state machine wants done, in this order.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send this Portcullis frame (header and payload, tag in place) on `port` to `destination`.
    Send {
        /// The port.
        port: PortId,
        /// Where to.
        destination: Path,
        /// From the Portcullis header on.
        frame: Vec<u8>,
    },
    /// Seal this control message under the session with our index `index`.
    SendInner {
        /// The Workstation (0 at the Workstation itself).
        workstation: WorkstationId,
        /// Our (receiving) index of the session that carries it.
        index: u32,
        /// The plaintext, first nibble not 4 or 6.
        message: Vec<u8>,
    },
    /// Give the session to the worker and to XDP, as the Workstation's pending session. Actions
    /// that follow are to be carried out after it is installed.
    Install(Box<Install>),
    /// Erase the session: XDP entry off, keys wiped. `erased` must be called when it is done; only
    /// then the slot is used again.
    Erase {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of it.
        index: u32,
    },
    /// Workstation only: the nonce that Challenge and Response must carry; 0 for none.
    ExpectNonce(u64),
    /// Workstation only: the tunnel's parameters, given with each newly installed session.
    Configure(Box<Parameters>),
}

/// What the Gateway tells a Workstation in Noise payload 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The inner MTU.
    pub mtu: u16,
    /// The Workstation's inner IPv4 address and its prefix length.
    pub v4: Option<(std::net::Ipv4Addr, u8)>,
    /// The Workstation's inner IPv6 address and its prefix length.
    pub v6: Option<(std::net::Ipv6Addr, u8)>,
    /// The Gateway's inner IPv4 address.
    pub gateway_v4: Option<std::net::Ipv4Addr>,
    /// The Gateway's inner IPv6 address.
    pub gateway_v6: Option<std::net::Ipv6Addr>,
}

/// The largest inner packet that fits frames of this MTU which go by `path`. By a socket it is that of IPv6, for a
/// session may come from one IP version to the other.
pub fn inner_mtu(port_mtu: u32, path: &Path) -> u16 {
    let front = match path {
        Path::Socket => UDP_V6_LEN,
        other => other.front(),
    };
    let room = (port_mtu as usize)
        .saturating_sub(front - ETH_LEN + OVERHEAD)
        .min(MAX_PAYLOAD);
    u16::try_from(room).unwrap_or(u16::MAX)
}
