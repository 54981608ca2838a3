//! When a worker's rings were last empty, so that another can tell that what it was owed was lost.
//!
//! A worker that has handed on everything it found says so after the last of it is on the owner's
//! queue. The owner asks whether all others have said so since a moment, and looks at its queue after
//! that: whatever was in their rings at that moment is then taken, on no queue, or lost.
//! `tests/crew_model.rs` runs this file through every interleaving.

use super::atomics::{AtomicU64, Ordering};

/// When one worker's rings of one port were last seen empty; never, where it has none.
#[derive(Debug)]
pub struct Quiet(AtomicU64);

impl Quiet {
    /// There are no rings.
    pub fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// What was in the rings at `now` is where others find it; `u64::MAX` when there are no rings.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Release);
    }

    /// Whether what was in the rings at `moment` is where others find it.
    pub fn since(&self, moment: u64) -> bool {
        self.0.load(Ordering::Acquire) >= moment
    }
}
