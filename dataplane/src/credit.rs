//! The worker's side of a Workstation's credit.
//!
//! XDP admits a frame only while `admitted - consumed` is below the credit. `consumed` is what the
//! worker has taken off the rings and finished with. Frames that XDP counted but the rings lost (a
//! full ring, a socket closed with frames in it) would use up credit for ever; the ledger finds
//! them: a frame counted before some moment has either been taken or is lost once everything that
//! was in the rings at that moment must have passed.

/// Nanoseconds between two looks at `admitted`.
const INTERVAL: u64 = 100_000_000;
/// Longer than any frame is between XDP's count and the ring (the rest of one NAPI poll).
const SETTLE: u64 = 10_000_000;

/// One Workstation's credit as its worker sees it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Frames taken off the rings, and lost ones made up for.
    taken: u64,
    /// `admitted` at some moment, and that moment.
    snapshot: Option<(u64, u64)>,
    /// When the rings were last seen empty.
    looked: u64,
}

impl Ledger {
    /// A frame was taken off a ring.
    #[inline]
    pub fn take(&mut self) {
        self.taken += 1;
    }

    /// The value to publish as `consumed`, when `queued` of the frames taken are not finished with.
    #[inline]
    pub fn consumed(&self, queued: usize) -> u64 {
        self.taken.wrapping_sub(queued as u64)
    }

    /// Whether [`Ledger::reconcile`] wants to be called.
    #[inline]
    pub fn due(&self, now: u64) -> bool {
        now.saturating_sub(self.looked) >= INTERVAL || self.snapshot.is_some()
    }

    /// Makes up for lost frames. `admitted` is XDP's count; `drained` says that the rings were empty
    /// when last looked at, after `now - SETTLE` at the earliest. Returns how many frames were lost.
    pub fn reconcile(&mut self, admitted: u64, drained: bool, now: u64) -> u64 {
        match self.snapshot {
            None => {
                self.snapshot = Some((admitted, now));
                self.looked = now;
                0
            }
            Some((then, at)) if drained && now.saturating_sub(at) >= SETTLE => {
                self.snapshot = None;
                let lost = then.saturating_sub(self.taken);
                self.taken += lost;
                lost
            }
            Some(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain ring: lost credit comes back, and `consumed` never passes `admitted`.
        #[test]
        fn lost_frames_give_their_credit_back_and_none_is_given_twice(
            steps in prop::collection::vec((0u8..4, 1usize..30), 1..300),
        ) {
            let (mut ledger, mut admitted, mut ring, mut queued, mut now) = (Ledger::default(), 0u64, 0usize, 0usize, 0u64);
            let mut drained = false;
            for (kind, count) in steps {
                now += 5_000_000;
                match kind {
                    0 => { admitted += count as u64; ring += count; drained = false }
                    1 => admitted += count as u64,
                    2 => {
                        let taken = count.min(ring);
                        (0..taken).for_each(|_| ledger.take());
                        ring -= taken;
                        queued += taken;
                        drained = taken < count;
                    }
                    _ => queued = queued.saturating_sub(count),
                }
                if ledger.due(now) {
                    ledger.reconcile(admitted, drained, now);
                }
                prop_assert!(ledger.consumed(queued) <= admitted);
                prop_assert!(ledger.consumed(queued) as usize + ring + queued <= admitted as usize);
            }
            (0..ring).for_each(|_| ledger.take());
            for _ in 0..60 {
                now += 5_000_000;
                if ledger.due(now) {
                    ledger.reconcile(admitted, true, now);
                }
            }
            prop_assert_eq!(ledger.consumed(0), admitted);
        }
    }
}
