//! What a Workstation's machine is told beside frames, and what it tells of itself.

use super::Workstation;
use super::attempt::Handshake;
use crate::handshake::{Mac, Parameters};
use dataplane::keys::{Cipher, Protection};
use std::time::Duration;

/// What the worker has sent and received so far, over all sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Data frames sealed; control messages do not count.
    pub sent: u64,
    /// Frames opened, of any kind.
    pub received: u64,
}

/// A sign that the machine was put back to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackSign {
    /// The generation counter changed. It is exact: always acted on.
    Generation,
    /// An event of the kernel, or a jump between clocks. Acted on at most once in 10 s.
    Hint,
}

/// Why an attempt failed, for `portcullis-agent status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Hellos without a Challenge.
    #[error(
        "no Gateway answers; check the cable, or over networks the endpoint, and that this Workstation is enrolled there on this port"
    )]
    NoChallenge,
    /// An Initiation without a Response.
    #[error(
        "the Gateway answers Hellos but refuses the handshake; `portcullis show` there may say why (another static key; or it asks for a cipher or protection below minimum_cipher or minimum_protection here)"
    )]
    NoResponse,
    /// A Response that does not open.
    #[error(
        "a Response does not open: the Gateway's static key or the PSK is not the one enrolled here"
    )]
    DoesNotOpen,
    /// A Response whose cipher, protection or address is not acceptable.
    #[error(
        "the Gateway chose a cipher or protection that this Workstation does not offer, or contradicts its own Challenge"
    )]
    Refused,
    /// A new session was never proven.
    #[error("the Gateway answered but nothing arrived on the new session")]
    NotProven,
}

/// The state of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Stopped,
    /// None under way.
    Idle,
    /// Hello sent.
    Hello,
    /// Initiation sent.
    Init,
    /// RekeyInit sent.
    Rekey,
    /// A new session waits to be proven.
    Proving,
}

/// What there is to tell of a Workstation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where the handshake is.
    pub phase: Phase,
    /// Whether there is a proven session.
    pub connected: bool,
    /// Its age.
    pub session_age: Option<Duration>,
    /// Our index of it.
    pub index: Option<u32>,
    /// Its cipher and protection.
    pub protected_by: Option<(Cipher, Protection)>,
    /// The Gateway's MAC address.
    pub gateway_mac: Option<Mac>,
    /// The tunnel's parameters.
    pub parameters: Option<Parameters>,
    /// Whether PINGs on it went unanswered.
    pub unresponsive: bool,
    /// How long ago a session was last proven.
    pub last_handshake: Option<Duration>,
    /// Handshakes that led to a proven session, by Hello and by rekey.
    pub handshakes: (u64, u64),
    /// Attempts that failed.
    pub failures: u64,
    /// Why the last one did; none since the last success.
    pub last_failure: Option<Failure>,
    /// Frames dropped because they match neither the handshake under way nor its nonce.
    pub unexpected: u64,
}

impl Workstation {
    /// What there is to tell, as of `now`.
    pub fn status(&mut self, now: Duration) -> Status {
        let now = self.clock.advance(now);
        let cur = self.cur.as_ref();
        Status {
            phase: match &self.handshake {
                Handshake::Stopped => Phase::Stopped,
                Handshake::Idle => Phase::Idle,
                Handshake::Hello(_) => Phase::Hello,
                Handshake::Init(_) => Phase::Init,
                Handshake::Rekey(_) => Phase::Rekey,
                Handshake::Proving(_) => Phase::Proving,
            },
            connected: cur.is_some(),
            session_age: cur.map(|cur| now.saturating_sub(cur.installed)),
            index: cur.map(|cur| cur.index),
            protected_by: cur.map(|cur| (cur.cipher, cur.protection)),
            gateway_mac: cur.map(|cur| cur.gateway_mac),
            parameters: cur.map(|cur| cur.parameters.clone()),
            unresponsive: self.live.is_dead(),
            last_handshake: self.last_handshake.map(|at| now.saturating_sub(at)),
            handshakes: self.handshakes,
            failures: self.failures,
            last_failure: self.last_failure,
            unexpected: self.unexpected,
        }
    }
}
