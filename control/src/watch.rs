//! `portcullis watch`: samples of the frames that the ports drop, live.
//!
//! XDP puts samples into a ring of each port while somebody watches ([`wire::watch`]). The daemon owns
//! the rings: it was handed their descriptors with the wall's, and needs no privilege for them, so nobody
//! else has to have any and nothing is pinned. [`hub`] reads them on a thread of its own and gives each
//! watcher what it asked for, over the control socket, to whose group a frame in clear is shown. A watcher
//! that does not keep up misses samples; XDP, the workers and other watchers do not notice.
//!
//! What is sampled are the drops of XDP, by all its verdicts, on `tunnel` and `pinned` ports; and of what was
//! admitted what a worker drops (`open_failed`, `inner_source`, policy, ...), and of what the host sends into
//! the tunnel (`no_session`, `too_big`, ...), by a queue that all workers share ([`dataplane::tap`]). What a worker holds then is decrypted: of that only the packet's headers are
//! shown, which say what a rule would have to allow, and never what it carries.

mod command;
mod decode;
mod hub;
mod write;

use serde::{Deserialize, Serialize};

pub use command::{AgentArguments, Arguments, agent, gateway};
pub use decode::{line, packet};
pub use hub::{Hub, Port, Stream};
pub use write::Writer;

/// The names of all verdicts that frames are dropped by.
pub fn verdicts() -> impl Iterator<Item = &'static str> {
    hub::verdict_names()
}

/// Samples a second of each verdict and port, unless told otherwise.
pub const RATE: u32 = 100;
/// The most that can be asked for.
pub const MOST_RATE: u32 = 10_000;

/// What is to be watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The only Workstation whose drops are shown: of those that are known to be its.
    #[serde(default)]
    pub workstation: Option<String>,
    /// The only port.
    #[serde(default)]
    pub port: Option<String>,
    /// The only verdicts, by name; all when there are none.
    #[serde(default)]
    pub verdicts: Vec<String>,
    /// Samples a second of each verdict and port, at most; 100 when not given.
    #[serde(default)]
    pub rate: Option<u32>,
    /// Bytes of each frame that are shown, at most 192.
    #[serde(default)]
    pub snaplen: Option<u32>,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A frame that was dropped.
    Dropped(Dropped),
    /// Samples that were missed so far, because they came faster than they were read. Said at least once
    /// a second.
    Missed(u64),
}

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Dropped {
    /// When, in nanoseconds of Unix time.
    pub time: u64,
    /// The port; of a packet on its way to the other side that was not sealed yet, the host interface.
    pub port: String,
    /// The receive queue it came by; none of one that a worker dropped.
    pub queue: Option<u32>,
    /// Why.
    pub verdict: String,
    /// The Workstation that it was found to be of, by name; of a pinned port the pin's MAC address.
    pub workstation: Option<String>,
    /// How many bytes it had.
    pub length: u32,
    /// Its first bytes, in hex; of such a packet its headers behind an Ethernet header of zeros.
    pub head: String,
    /// Of a packet that was decrypted and then dropped: its headers, in hex, and nothing that it carries.
    #[serde(default)]
    pub inner: String,
}
