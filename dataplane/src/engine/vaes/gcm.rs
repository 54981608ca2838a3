//! AES-GCM over vectors of blocks, written once for both widths: the key, sealing and opening.
//! The hash is in [`ghash`](super::ghash), the cipher in [`stream`](super::stream).
//!
//! `gcm!(lanes, features)` makes a key type and its functions from the operations of the module
//! `lanes` ([`zmm`](super::zmm) or [`ymm`](super::ymm)), compiled for `features`. It is a macro
//! because a function's CPU features are an attribute, which no type parameter can carry.

macro_rules! gcm {
    ($lanes:ident, $($feature:tt),*) => {
        use super::schedule::{self, Block, COUNTER_BIG_ENDIAN, FOLD, POWERS, REVERSED};
        use super::$lanes::*;
        use crate::engine::{Aead, Forged, NONCE_LEN};
        use crate::prefetch::prefetch;
        use std::arch::x86_64::*;
        use wire::limits::TAG_LEN;
        use zeroize::Zeroize;

        /// Vectors that are worked on together in a long frame.
        const GROUP: usize = 8;
        /// Bytes of such a group. A run over one and the lengths has [`POWERS`] blocks.
        const GROUP_BYTES: usize = GROUP * BYTES;
        /// Vectors that are encrypted together elsewhere.
        const BATCH: usize = 4;
        /// Bytes of such a batch.
        const BATCH_BYTES: usize = BATCH * BYTES;

        super::ghash::ghash!($($feature),*);
        super::stream::stream!($($feature),*);

        /// A key with all that is computed from it once. `KEYS` is the number of round keys: 11 for
        /// AES-128, 15 for AES-256. One can only be made on a CPU that has the features.
        #[repr(C, align(64))]
        pub struct Key<const KEYS: usize> {
            round_keys: [Block; KEYS],
            powers: [Block; POWERS],
        }

        /// Whether this CPU has what the functions here are compiled for.
        pub fn available() -> bool {
            true $(&& std::arch::is_x86_feature_detected!($feature))*
        }

        impl<const KEYS: usize> Key<KEYS> {
            /// `None` where the CPU lacks a feature or the key has not the length.
            pub fn new(key: &[u8]) -> Option<Box<Self>> {
                // 4 words a round key, and 6 rounds more than the key has words.
                if !available() || key.len() / 4 + 7 != KEYS {
                    return None;
                }
                let mut made = Box::new(Self {
                    round_keys: [[0; 16]; KEYS],
                    powers: [[0; 16]; POWERS],
                });
                // SAFETY: the CPU has the features, which was just found.
                unsafe {
                    schedule::expand(key, &mut made.round_keys);
                    schedule::powers(&made.round_keys, &mut made.powers);
                }
                Some(made)
            }
        }

        impl<const KEYS: usize> Drop for Key<KEYS> {
            fn drop(&mut self) {
                self.round_keys.zeroize();
                self.powers.zeroize();
            }
        }

        impl<const KEYS: usize> Aead for Key<KEYS> {
            fn seal(
                &self,
                nonce: &[u8; NONCE_LEN],
                associated: &[u8],
                payload: &mut [u8],
                tag: &mut [u8; TAG_LEN],
            ) -> Result<(), Forged> {
                let short = short(associated, payload);
                if !short {
                    super::check_lengths(associated, payload)?;
                }
                // SAFETY: a key is only made on a CPU with the features.
                unsafe {
                    match payload.len().div_ceil(BYTES) {
                        1 if short => seal_batch::<1, KEYS>(self, nonce, associated, payload, tag),
                        2 if short => seal_batch::<2, KEYS>(self, nonce, associated, payload, tag),
                        3 if short => seal_batch::<3, KEYS>(self, nonce, associated, payload, tag),
                        4 if short => seal_batch::<4, KEYS>(self, nonce, associated, payload, tag),
                        _ => seal_any(self, nonce, associated, payload, tag),
                    }
                }
                Ok(())
            }

            fn open(
                &self,
                nonce: &[u8; NONCE_LEN],
                associated: &[u8],
                sealed: &mut [u8],
            ) -> Result<(), Forged> {
                super::check_lengths(associated, sealed)?;
                let (payload, tag) = sealed.split_last_chunk_mut().ok_or(Forged)?;
                // SAFETY: a key is only made on a CPU with the features.
                match unsafe { open(self, nonce, associated, payload, tag) } {
                    true => Ok(()),
                    false => Err(Forged),
                }
            }

            /// Asks for what a 64-byte payload with its header needs: the round keys and the last
            /// eight powers. Longer frames go through the other powers in order.
            fn prefetch(&self) {
                prefetch(&self.round_keys, usize::MAX);
                prefetch(&self.powers[POWERS - 8..], usize::MAX);
            }
        }

        /// Whether associated data, payload and lengths fit one run.
        fn short(associated: &[u8], payload: &[u8]) -> bool {
            associated.len().div_ceil(16) + payload.len().div_ceil(16) < POWERS
        }

        /// Seals a short frame of `N` vectors: one batch, all in registers.
        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn seal_batch<const N: usize, const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) {
            let next = first_counters(nonce);
            let sums = begin_short(key, associated, payload);
            let powers = &key.powers[POWERS - 1 - payload.len().div_ceil(16)..];
            let powers = powers.as_flattened();
            let (_, sums) = apply_batch::<true, true, N, KEYS>(key, next, sums, powers, payload);
            let mask = tag_mask(key, nonce);
            schedule::store(tag, tag_of(sums, mask));
        }

        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn seal_any<const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) {
            let mut next = first_counters(nonce);
            let (sums, rest) = match short(associated, payload) {
                true => (begin_short(key, associated, payload), payload),
                false => begin_long::<true, KEYS>(key, &mut next, associated, payload),
            };
            let sums = apply_rest::<true, KEYS>(key, next, sums, rest);
            let mask = tag_mask(key, nonce);
            schedule::store(tag, tag_of(sums, mask));
        }

        /// Whether the tag verifies. If not, `payload` is as it was or wiped, but never plaintext.
        #[target_feature($(enable = $feature),*)]
        fn open<const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> bool {
            let mask = tag_mask(key, nonce);
            let mut next = first_counters(nonce);
            let short = short(associated, payload);
            let (mut sums, rest) = match short {
                true => (begin_short(key, associated, payload), &mut *payload),
                false => begin_long::<false, KEYS>(key, &mut next, associated, payload),
            };
            sums.add_bytes(&key.powers, rest, rest.len().div_ceil(16) + 1);
            let computed = tag_of(sums, mask);
            if !schedule::equal(computed, schedule::load(tag)) {
                if !short {
                    payload.as_chunks_mut::<GROUP_BYTES>().0.as_flattened_mut().fill(0);
                }
                return false;
            }
            apply_rest::<false, KEYS>(key, next, sums, rest);
            true
        }

        /// The sums of a frame that is one run: the products of associated data and lengths.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn begin_short<const KEYS: usize>(
            key: &Key<KEYS>,
            associated: &[u8],
            payload: &[u8],
        ) -> Sums {
            let mut sums = Sums::new();
            let blocks = associated.len().div_ceil(16) + payload.len().div_ceil(16) + 1;
            let lengths = lengths(associated, payload);
            let first_power = schedule::load(&key.powers[POWERS - 1]);
            if associated.len() <= 32 {
                // A header leaves room for the lengths.
                let v = shuffle(load_partial(associated), &REVERSED);
                let powers = powers_of_part(key.powers[POWERS - blocks..].as_flattened());
                if let Some(v) = with_third(v, lengths)
                    && let Some(powers) = with_third(powers, first_power)
                {
                    sums.add(v, powers);
                    return sums;
                }
            }
            sums.add_bytes(&key.powers, associated, blocks);
            sums.add(in_lane_0(lengths), in_lane_0(first_power));
            sums
        }

        /// Works through all but the last run of a frame. The sums of that run, in which is the hash
        /// of all before it, and what of the payload is in it.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn begin_long<'p, const SEAL: bool, const KEYS: usize>(
            key: &Key<KEYS>,
            next: &mut V,
            associated: &[u8],
            payload: &'p mut [u8],
        ) -> (Sums, &'p mut [u8]) {
            let lengths = lengths(associated, payload);
            let (groups, rest) = payload.as_chunks_mut::<GROUP_BYTES>();
            let carry = hash(&key.powers, associated);
            let carry = apply_groups::<SEAL, KEYS>(key, next, carry, groups);
            let mut sums = Sums::new();
            // As if added to the first block of the run.
            let power = schedule::load(&key.powers[POWERS - 1 - rest.len().div_ceil(16)]);
            sums.add(in_lane_0(carry), in_lane_0(power));
            let first_power = schedule::load(&key.powers[POWERS - 1]);
            sums.add(in_lane_0(lengths), in_lane_0(first_power));
            (sums, rest)
        }
    };
}
pub(super) use gcm;
