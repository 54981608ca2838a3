//! Proof that a nonce was used twice: a frame that opens under the counter of another that was opened. Whoever sealed both has
//! been rolled back, or is a clone of another; with GCM the two give away what their plaintexts have in common, and the key of
//! the tags. Pure.

use wire::limits::{SECOND, TAG_LEN};

/// Frames of which the beginning of the AEAD tag is kept: the newest.
const KEPT: u64 = 1024;
/// Time between two frames that are put to the test. The garbage that anybody can put behind a copied header would cost an AEAD
/// each time.
const PAUSE: u64 = SECOND / 10;

/// Beginnings of the AEAD tags of the frames that a session has opened.
#[derive(Debug)]
pub struct OpenedTags {
    /// By counter.
    tags: [u32; KEPT as usize],
    next_test: u64,
}

impl Default for OpenedTags {
    fn default() -> Self {
        Self {
            tags: [0; KEPT as usize],
            next_test: 0,
        }
    }
}

fn beginning([a, b, c, d, ..]: &[u8; TAG_LEN]) -> u32 {
    u32::from_le_bytes([*a, *b, *c, *d])
}

impl OpenedTags {
    /// Keeps the tag of a frame that was opened.
    #[inline]
    pub fn keep(&mut self, counter: u64, tag: &[u8; TAG_LEN]) {
        self.tags[(counter % KEPT) as usize] = beginning(tag);
    }

    /// Whether a frame with this counter, which was used, is another than the one that was opened with it, and to be put to the
    /// test: at most ten times a second, in nanoseconds of any clock. `highest` is the highest counter that was opened.
    pub fn differs(&mut self, counter: u64, highest: u64, tag: &[u8; TAG_LEN], now: u64) -> bool {
        let known = counter <= highest && highest - counter < KEPT;
        if !known || now < self.next_test {
            return false;
        }
        let differs = self.tags[(counter % KEPT) as usize] != beginning(tag);
        if differs {
            self.next_test = now + PAUSE;
        }
        differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_for_the_newest_counters_alone_and_tests_have_a_rate() {
        let tag = |counter: u64| [counter as u8, (counter >> 8) as u8, 7, 7, 9, 9, 9, 9].repeat(2);
        let tag = |counter| -> [u8; TAG_LEN] { tag(counter).try_into().unwrap() };
        let mut tags = OpenedTags::default();
        let highest = 3 * KEPT;
        (0..=highest).for_each(|counter| tags.keep(counter, &tag(counter)));
        let oldest = highest - KEPT + 1;
        for counter in oldest..=highest {
            assert!(
                !tags.differs(counter, highest, &tag(counter), 0),
                "the same"
            );
            assert!(tags.differs(counter, highest, &tag(counter + 1), counter * PAUSE));
        }
        let later = 4 * highest * PAUSE;
        assert!(
            !tags.differs(oldest - 1, highest, &tag(0), later),
            "too old"
        );
        assert!(!tags.differs(highest + 1, highest, &tag(0), later), "new");
        assert!(tags.differs(highest, highest, &tag(0), later));
        assert!(!tags.differs(highest, highest, &tag(0), later + PAUSE - 1));
        assert!(tags.differs(highest, highest, &tag(0), later + PAUSE));
    }
}
