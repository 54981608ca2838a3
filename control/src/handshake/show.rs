//! What there is to show of a Workstation at the Gateway.

use super::Path;
use super::peer::{Outcomes, Peer};
use dataplane::keys::{Cipher, Protection};
use dataplane::{PortId, WorkstationId};
use std::time::Duration;

/// What a session is, for `show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Our index of it.
    pub index: u32,
    /// The port.
    pub port: PortId,
    /// The way to the Workstation.
    pub path: Path,
    /// Since it was installed.
    pub age: Duration,
    /// The cipher.
    pub cipher: Cipher,
    /// The protection.
    pub protection: Protection,
}

/// What there is to show of a Workstation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkstationInfo {
    /// The Workstation.
    pub id: WorkstationId,
    /// Its key id.
    pub key_id: u32,
    /// The session in use.
    pub cur: Option<SessionInfo>,
    /// Whether a session waits to be proven.
    pub pending: bool,
    /// Whether the session before is still received on.
    pub prev: bool,
    /// Sessions whose erasure was asked for and not acknowledged.
    pub erasing: usize,
    /// How long ago the last session was proven.
    pub last_handshake: Option<Duration>,
    /// Whether it asked for a session last without offering the cipher and protection it is to be
    /// given.
    pub unmet: bool,
    /// Handshakes by outcome.
    pub outcomes: Outcomes,
    /// Whether two machines seem to use its keys.
    pub clone_suspected: bool,
}

impl WorkstationInfo {
    pub(super) fn of(peer: &mut Peer, now: Duration) -> Self {
        Self {
            id: peer.id,
            key_id: peer.keys.key_id,
            cur: peer.cur.as_ref().map(|session| SessionInfo {
                index: session.index,
                port: session.port,
                path: session.path,
                age: now.saturating_sub(session.installed),
                cipher: session.cipher,
                protection: session.protection,
            }),
            pending: peer.pending.is_some(),
            prev: peer.prev.is_some(),
            erasing: peer.erasing.len(),
            last_handshake: peer.last_handshake.map(|at| now.saturating_sub(at)),
            unmet: peer.unmet,
            outcomes: peer.outcomes,
            clone_suspected: peer.clone_suspected(now),
        }
    }
}
