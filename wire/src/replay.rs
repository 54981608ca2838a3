//! The replay window (RFC 6479): which counters of a session have been opened.
//!
//! `check` before opening, `commit` after: a frame that does not authenticate changes nothing.

use crate::limits::REPLAY_WINDOW;

const WORD: u64 = 64;
/// One word more than the window, so that sliding never clears bits still inside it.
const WORDS: u64 = REPLAY_WINDOW / WORD * 2;

/// A sliding window over counters. Accepts each counter once, and none that is
/// [`REPLAY_WINDOW`] or more below the highest committed one.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct ReplayWindow {
    /// One more than the highest counter committed; 0 at the start.
    next: u64,
    bits: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            bits: [0; WORDS as usize],
        }
    }
}

impl ReplayWindow {
    /// Whether `counter` may still be opened.
    #[inline]
    pub fn check(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        counter >= self.floor() && self.bits[slot(counter)] & bit(counter) == 0
    }

    /// Marks `counter` as opened. False, and nothing changes, where [`ReplayWindow::check`] is.
    #[inline]
    pub fn commit(&mut self, counter: u64) -> bool {
        if !self.check(counter) {
            return false;
        }
        if counter >= self.next {
            // Words between the old top (exclusive) and the new one (inclusive) are new ground.
            let new = counter / WORD;
            let first = if self.next == 0 {
                0
            } else {
                (self.next - 1) / WORD + 1
            };
            for word in first..(new + 1).min(first + WORDS) {
                self.bits[(word % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.bits[slot(counter)] |= bit(counter);
        true
    }

    /// Where `counter` is marked, so that a caller can ask the CPU for it in time.
    #[inline]
    pub fn mark(&self, counter: u64) -> &u64 {
        &self.bits[slot(counter)]
    }

    /// The lowest counter that is not out of the window: highest - 8191, or 0.
    #[inline]
    pub fn floor(&self) -> u64 {
        self.next.saturating_sub(REPLAY_WINDOW)
    }

    /// The highest counter committed.
    pub fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }
}

#[inline(always)]
fn slot(counter: u64) -> usize {
    (counter / WORD % WORDS) as usize
}

#[inline(always)]
fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::COUNTER_LIMIT;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::vec::Vec;

    /// The plain model: a set of all counters and the highest.
    #[derive(Default)]
    struct Model {
        opened: HashSet<u64>,
        highest: Option<u64>,
    }

    impl Model {
        fn commit(&mut self, counter: u64) -> bool {
            let in_window = self.highest.is_none_or(|top| counter + REPLAY_WINDOW > top);
            let fresh = in_window && self.opened.insert(counter);
            if fresh {
                self.highest = self.highest.max(Some(counter));
            }
            fresh
        }
    }

    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let w = REPLAY_WINDOW as i64;
        let step = prop_oneof![
            6 => -70i64..140,
            3 => -w - 70..w + 70,
            2 => prop::sample::select(std::vec![-w - 1, -w, -w + 1, w - 1, w, w + 1, 2 * w, 2 * w + 1, -63, -64, -65, 63, 64, 65, 0]),
            1 => 0..10 * w,
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn it_equals_the_plain_model_from_any_start(start in prop_oneof![0u64..3, 0u64..COUNTER_LIMIT], steps in steps()) {
            let (mut window, mut model) = (ReplayWindow::default(), Model::default());
            let mut at = start;
            for step in steps {
                prop_assert_eq!(window.commit(at), model.commit(at), "counter {}", at);
                prop_assert!(!window.check(at));
                prop_assert_eq!(window.highest(), model.highest);
                let top = model.highest.unwrap_or(0) as i64;
                let base = if step < 0 { top } else { at as i64 };
                at = (base + step).clamp(0, COUNTER_LIMIT as i64 - 1) as u64;
            }
        }
    }

    #[test]
    fn the_edges_of_the_window_are_exact() {
        let mut window = ReplayWindow::default();
        assert!(window.commit(0));
        assert!(!window.commit(0));
        assert!(window.commit(REPLAY_WINDOW));
        assert!(!window.check(0), "8192 below the highest is out");
        assert!(window.commit(1), "8191 below the highest is in");
        assert!(!window.commit(1));
        assert_eq!(window.floor(), 1);
    }
}
