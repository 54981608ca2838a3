//! The machines' own time: what the caller's clock has advanced, never backwards.
//!
//! A caller's clock that steps back is taken to stand still for that moment, and a step of more
//! than [`LONGEST`] forwards counts as [`LONGEST`]: every period of the protocol is shorter, so the
//! effect is the same (all sessions are old), and no sum can overflow.

use std::time::Duration;

/// The longest step forwards that counts.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    raw: Duration,
    steady: Duration,
}

impl Clock {
    pub(super) fn new(now: Duration) -> Self {
        // Not zero, so that "an hour ago" can be written down from the start.
        Self {
            raw: now,
            steady: LONGEST,
        }
    }

    /// Takes the caller's time; gives the machine's.
    pub(super) fn advance(&mut self, now: Duration) -> Duration {
        self.steady += now.saturating_sub(self.raw).min(LONGEST);
        self.raw = now;
        self.steady
    }

    /// The machine's time as of the last event.
    pub(super) fn now(&self) -> Duration {
        self.steady
    }

    /// The caller's time at which it will be `at` here.
    pub(super) fn outside(&self, at: Duration) -> Duration {
        self.raw.saturating_add(at.saturating_sub(self.steady))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn a_step_either_way_neither_panics_nor_turns_time_back() {
        let mut clock = Clock::new(YEAR);
        let mut last = clock.now();
        for now in [
            YEAR * 2,
            YEAR,
            Duration::ZERO,
            Duration::MAX,
            YEAR,
            YEAR + LONGEST / 2,
        ] {
            let here = clock.advance(now);
            assert!(here >= last);
            assert!(clock.outside(here + LONGEST) >= now);
            last = here;
        }
    }
}
