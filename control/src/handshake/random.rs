//! The hedged random generator: every nonce, index, ephemeral, jitter and PING value is drawn here.
//!
//! A BLAKE3 generator with fast key erasure: each draw replaces the key, so what was drawn cannot be
//! computed from what is kept. It has no source of its own. Whoever runs a state machine seeds it
//! and [mixes](Randomness::mix) fresh entropy in before each event, so that a machine restored from
//! a snapshot, whose kernel generator repeats itself, does not repeat these values.

use super::model::{Flaw, planted};
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

const SEED: &str = "portcullis 1 random seed";
const MIX: &str = "portcullis 1 random mix";

/// The generator.
pub struct Randomness {
    key: Zeroizing<[u8; 32]>,
}

impl Randomness {
    /// A generator that depends on nothing but `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self {
            key: Zeroizing::new(blake3::derive_key(SEED, seed.as_ref())),
        }
    }

    /// Mixes `entropy` in. What was there is kept: bad entropy does no harm.
    pub fn mix(&mut self, entropy: &[u8]) {
        let mut hasher = blake3::Hasher::new_derive_key(MIX);
        hasher.update(self.key.as_ref());
        hasher.update(entropy);
        self.key.copy_from_slice(hasher.finalize().as_bytes());
        hasher.zeroize();
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let mut stream = hasher.finalize_xof();
        let mut next = Zeroizing::new([0; 32]);
        stream.fill(next.as_mut());
        stream.fill(out);
        if !planted(Flaw::Repeats) {
            self.key = next;
        }
        stream.zeroize();
        hasher.zeroize();
    }

    /// `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Any number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number that is not zero: zero stands for "none" on the wire.
    pub fn nonzero_u64(&mut self) -> u64 {
        loop {
            let value = self.u64();
            if value != 0 {
                return value;
            }
        }
    }

    /// A number that is not zero.
    pub fn nonzero_u16(&mut self) -> u16 {
        loop {
            let value = u16::from_le_bytes(self.bytes());
            if value != 0 {
                return value;
            }
        }
    }

    /// A duration from nothing to `most`, for jitter.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        // The bias of the remainder is below 2^-20 for every duration used.
        Duration::from_nanos(self.u64() % most.saturating_add(1).max(1))
    }
}

impl std::fmt::Debug for Randomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Randomness")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_generators_of_one_seed_agree_until_entropy_is_mixed_in() {
        let mut one = Randomness::new([1; 32]);
        let mut two = Randomness::new([1; 32]);
        assert_eq!(one.u64(), two.u64());
        one.mix(b"fresh");
        assert_ne!(one.u64(), two.u64());
        assert_ne!(one.u64(), one.u64());
    }

    #[test]
    fn what_is_kept_after_a_draw_does_not_give_the_draw_again() {
        let mut one = Randomness::new([1; 32]);
        let before = one.key.clone();
        one.u64();
        assert_ne!(*before, *one.key);
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        let mut one = Randomness::new([2; 32]);
        let most = Duration::from_millis(200);
        let drawn: Vec<_> = (0..1000).map(|_| one.up_to(most)).collect();
        assert!(drawn.iter().all(|value| *value <= most));
        assert!(drawn.iter().any(|value| *value < most / 10));
        assert!(drawn.iter().any(|value| *value > most / 10 * 9));
        assert_eq!(one.up_to(Duration::ZERO), Duration::ZERO);
        one.up_to(Duration::MAX);
    }
}
