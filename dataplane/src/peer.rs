//! A Workstation as its worker has it: which of its sessions is pending, current and previous, and
//! the frames that wait for it.
//!
//! Pure. The same transitions hold at both ends (docs/protocol.md): a new session is pending; the
//! first frame that opens under it makes it current, and what was current is previous, for
//! receiving only.

use crate::backlog::Queue;
use crate::counters::PeerCounters;
use crate::credit::Ledger;
use crate::inner::Pair;
use crate::policy::{Place, Policy};
use crate::{PortId, WorkstationId};
use smallvec::SmallVec;
use std::sync::Arc;
use wire::Role;
use wire::limits::SECOND;
use wire::tables::Bucket;

/// Which sessions a Workstation has, by our index of them; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Installed, nothing opened under it yet.
    pub pending: u32,
    /// Sent under and received under.
    pub current: u32,
    /// Received under only.
    pub previous: u32,
}

impl Standing {
    /// A session was installed. Returns the pending one it takes the place of, or 0.
    pub fn install(&mut self, index: u32) -> u32 {
        std::mem::replace(&mut self.pending, index)
    }

    /// A frame opened under `index`. True when that made the pending session current.
    #[inline]
    pub fn opened(&mut self, index: u32) -> bool {
        if index != self.pending || index == 0 {
            return false;
        }
        // The session that was previous is still known to control, which erases it in its time.
        self.previous = self.current;
        self.current = index;
        self.pending = 0;
        true
    }

    /// A session is gone.
    pub fn erase(&mut self, index: u32) {
        for has in [&mut self.pending, &mut self.current, &mut self.previous] {
            if *has == index {
                *has = 0;
            }
        }
    }

    /// The session to seal data under, or 0. A Workstation that has no current session sends on the
    /// pending one (the Gateway's proof is in hand); the Gateway never does.
    #[inline]
    pub fn sending(&self, role: Role) -> u32 {
        match role {
            Role::Workstation if self.current == 0 => self.pending,
            _ => self.current,
        }
    }
}

/// A Workstation (at the Workstation: its Gateway) within a worker.
#[repr(align(64))]
pub struct Peer {
    /// Its slot.
    pub id: WorkstationId,
    /// Its sessions.
    pub standing: Standing,
    /// Frames received and not yet opened, in order of arrival.
    pub queue: Queue,
    /// Bytes it may still be served in this round of the scheduler.
    pub deficit: usize,
    /// Its counters.
    pub counters: Arc<PeerCounters>,
    /// Its credit on each open port where it has had a session.
    pub ledgers: SmallVec<[(PortId, Ledger); 1]>,
    /// What it may reach.
    pub policy: Arc<Policy>,
    /// The last pair of addresses of which the source was found to be its own, where the destination
    /// is, and the version of the routes then.
    pub placed: Option<(u64, Pair, Place)>,
    pongs: Bucket,
    rekeys: Bucket,
    too_big: Bucket,
}

impl Peer {
    /// A Workstation without sessions.
    pub fn new(id: WorkstationId, policy: Arc<Policy>, counters: Arc<PeerCounters>) -> Self {
        Self {
            id,
            standing: Standing::default(),
            queue: Queue::default(),
            deficit: 0,
            counters,
            ledgers: SmallVec::new(),
            policy,
            placed: None,
            pongs: Bucket::default(),
            rekeys: Bucket::default(),
            too_big: Bucket::default(),
        }
    }

    /// Its credit on a port.
    #[inline]
    pub fn ledger(&mut self, port: PortId) -> Option<&mut Ledger> {
        let (_, ledger) = self.ledgers.iter_mut().find(|(on, _)| *on == port)?;
        Some(ledger)
    }

    /// Whether a PONG may be sent now: at most ten a second.
    pub fn may_pong(&mut self, now: u64) -> bool {
        self.pongs.take(now, (SECOND / 10, 10))
    }

    /// Whether a control message for the handshake may be handed on now: a few a second.
    pub fn may_control(&mut self, now: u64) -> bool {
        self.rekeys.take(now, (SECOND / 10, 20))
    }

    /// Whether it may be answered now that a packet for it is too big: a hundred times a second.
    pub fn may_tell_too_big(&mut self, now: u64) -> bool {
        self.too_big.take(now, (SECOND / 100, 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_under_the_pending_session_makes_it_current_once() {
        let mut standing = Standing::default();
        assert_eq!(standing.install(1), 0);
        assert_eq!(standing.sending(Role::Gateway), 0);
        assert_eq!(standing.sending(Role::Workstation), 1);
        assert!(standing.opened(1));
        assert!(!standing.opened(1));
        assert_eq!(standing.install(2), 0);
        assert_eq!(
            standing.sending(Role::Gateway),
            1,
            "a pending session never takes the sending over"
        );
        assert_eq!(standing.sending(Role::Workstation), 1);
        assert!(!standing.opened(1), "frames of the current one go on");
        assert!(standing.opened(2));
        assert_eq!(
            standing,
            Standing {
                pending: 0,
                current: 2,
                previous: 1
            }
        );
        assert!(!standing.opened(1), "the previous one never comes back");
        assert_eq!(standing.install(3), 0);
        assert_eq!(
            standing.install(4),
            3,
            "a newer pending session takes the older one's place"
        );
        standing.erase(2);
        assert_eq!(standing.sending(Role::Gateway), 0);
        assert!(!standing.opened(0));
    }
}
