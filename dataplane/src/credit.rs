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

/// One Workstation's credit on one port as its worker sees it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Frames taken off the rings, and lost ones made up for.
    taken: u64,
    /// Those of them that wait to be served.
    waiting: u64,
    /// `admitted` at some moment, and that moment.
    snapshot: Option<(u64, u64)>,
    /// When the rings were last seen empty.
    looked: u64,
}

impl Ledger {
    /// Frames were taken off a ring.
    #[inline]
    pub fn take(&mut self, count: u64) {
        self.taken += count;
        self.waiting += count;
    }

    /// Frames that were taken are finished with.
    #[inline]
    pub fn finish(&mut self, count: u64) {
        self.waiting -= count;
    }

    /// Frames were admitted, and another worker that received them has dropped them.
    pub fn forgo(&mut self, count: u64) {
        self.taken += count;
    }

    /// The moment at which the rings must have been seen empty before [`Ledger::reconcile`] can tell
    /// what is lost.
    pub fn awaits(&self) -> Option<u64> {
        self.snapshot.map(|(_, at)| at + SETTLE)
    }

    /// The value to publish as `consumed`.
    #[inline]
    pub fn consumed(&self) -> u64 {
        self.taken.wrapping_sub(self.waiting)
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
                // XDP counts a frame before the ring has it: what goes beyond was given up too soon.
                self.taken = self.taken.min(admitted);
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
                        ledger.take(taken as u64);
                        ring -= taken;
                        queued += taken;
                        drained = taken < count;
                    }
                    _ => {
                        let finished = count.min(queued);
                        ledger.finish(finished as u64);
                        queued -= finished;
                    }
                }
                if ledger.due(now) {
                    ledger.reconcile(admitted, drained, now);
                }
                prop_assert!(ledger.consumed() <= admitted);
                prop_assert!(ledger.consumed() as usize + ring + queued <= admitted as usize);
            }
            ledger.take(ring as u64);
            ledger.finish((ring + queued) as u64);
            for _ in 0..60 {
                now += 5_000_000;
                if ledger.due(now) {
                    ledger.reconcile(admitted, true, now);
                }
            }
            prop_assert_eq!(ledger.consumed(), admitted);
        }
    }

    /// A frame held up for longer than any should be is counted as lost, and then comes.
    #[test]
    fn a_frame_that_comes_after_it_was_given_up_gives_no_second_credit() {
        let mut ledger = Ledger::default();
        let mut now = 0;
        let mut look = |ledger: &mut Ledger| {
            now += INTERVAL;
            ledger.reconcile(1, true, now)
        };
        assert_eq!((look(&mut ledger), look(&mut ledger)), (0, 1));
        ledger.take(1);
        ledger.finish(1);
        assert_eq!(ledger.consumed(), 2);
        look(&mut ledger);
        assert_eq!(ledger.consumed(), 1);
    }
}
