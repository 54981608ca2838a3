//! AES-GCM over vectors of blocks, written once for both widths.
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

        /// The vector of counters that comes first: J0, which masks the tag, has the counter 1.
        ///
        /// The words of a counter block are nonce, nonce, nonce, counter; the counter is
        /// little-endian here, to be added to, and turned round on its way into AES.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn first_counters(nonce: &[u8; NONCE_LEN]) -> V {
            add(broadcast_block(schedule::before_counter(nonce)), count_from(2))
        }

        /// The next counters after the key addition that comes before the first AES round.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn take<const N: usize>(counters: &mut V, key: &Block) -> [V; N] {
            let key = broadcast(key);
            let mut blocks = [key; N];
            for block in &mut blocks {
                *block = xor(shuffle(*counters, &COUNTER_BIG_ENDIAN), key);
                *counters = add(*counters, step());
            }
            blocks
        }

        /// One AES round.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn round<const N: usize>(blocks: &mut [V; N], key: &Block) {
            let key = broadcast(key);
            for block in blocks {
                *block = aes_round(*block, key);
            }
        }

        /// J0 encrypted: the mask of the tag.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn tag_mask<const KEYS: usize>(key: &Key<KEYS>, nonce: &[u8; NONCE_LEN]) -> __m128i {
            let one = _mm_set_epi32(1 << 24, 0, 0, 0);
            let block = _mm_or_si128(schedule::before_counter(nonce), one);
            schedule::encrypt(schedule::again(&key.round_keys), block)
        }

        /// Sums of products that are not reduced yet, in each lane. Of a *run* of blocks, at most
        /// [`POWERS`], each is multiplied by its own power, H^n for the first of n.
        #[derive(Clone, Copy)]
        struct Sums {
            low: V,
            middle: V,
            high: V,
        }

        impl Sums {
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn new() -> Self {
                Self { low: zero(), middle: zero(), high: zero() }
            }

            /// Adds a product. `halves` is [`halves`] of the powers.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_with(&mut self, v: V, powers: V, halves_of_powers: V) {
                self.low = xor(self.low, multiply_low(v, powers));
                self.high = xor(self.high, multiply_high(v, powers));
                // Karatsuba: with the sums of the halves, one multiplication gives both cross
                // products, and low and high besides, which reduce() takes off again.
                self.middle = xor(self.middle, multiply_low(halves(v), halves_of_powers));
            }

            /// Adds a product.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add(&mut self, v: V, powers: V) {
                self.add_with(v, powers, halves(powers));
            }

            /// Adds the products of `bytes`, filled up with zeros to whole blocks, when the run has
            /// `left` blocks from there on.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_bytes(&mut self, powers: &[Block; POWERS], bytes: &[u8], left: usize) {
                let powers = powers[POWERS - left..].as_flattened();
                let (vectors, rest) = bytes.as_chunks();
                for (v, powers) in vectors.iter().zip(powers.as_chunks().0) {
                    self.add(shuffle(load(v), &REVERSED), load(powers));
                }
                if !rest.is_empty() {
                    let powers = powers_of_part(&powers[bytes.len() - rest.len()..]);
                    self.add(shuffle(load_partial(rest), &REVERSED), powers);
                }
            }

            /// The sum of the lanes, reduced.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn reduce(self) -> __m128i {
                let polynomial = broadcast(&FOLD);
                let middle = xor(self.middle, xor(self.low, self.high));
                let low = xor(self.low, half_up(middle));
                let high = xor(self.high, half_down(middle));
                let once = xor(swap_halves(low), multiply_low_high(low, polynomial));
                let twice = xor(swap_halves(once), multiply_low_high(once, polynomial));
                sum_lanes(xor(high, twice))
            }
        }

        /// The sum of the halves of each lane, in its low half.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn halves(v: V) -> V {
            xor(v, swap_halves(v))
        }

        /// The first of these powers, and zeros after them: for a vector that has zeros there too.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn powers_of_part(powers: &[u8]) -> V {
            match powers.first_chunk() {
                Some(powers) => load(powers),
                None => load_partial(powers),
            }
        }

        /// The powers for a run of one group.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn group_powers(powers: &[Block; POWERS]) -> [V; GROUP] {
            let mut loaded = [zero(); GROUP];
            let used = powers[POWERS - GROUP * LANES..].as_flattened();
            for (v, bytes) in loaded.iter_mut().zip(used.as_chunks().0) {
                *v = load(bytes);
            }
            loaded
        }

        /// The hash of associated data that is not in the last run.
        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn hash(powers: &[Block; POWERS], bytes: &[u8]) -> __m128i {
            let mut carry = _mm_setzero_si128();
            let (groups, rest) = bytes.as_chunks::<GROUP_BYTES>();
            for group in groups {
                carry = hash_group(powers, group, carry);
            }
            let blocks = rest.len().div_ceil(16);
            if blocks == 0 {
                return carry;
            }
            let mut sums = Sums::new();
            sums.add_bytes(powers, rest, blocks);
            sums.add(in_lane_0(carry), in_lane_0(schedule::load(&powers[POWERS - blocks])));
            sums.reduce()
        }

        /// The hash after one more group.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn hash_group(
            powers: &[Block; POWERS],
            group: &[u8; GROUP_BYTES],
            carry: __m128i,
        ) -> __m128i {
            let mut sums = Sums::new();
            let mut carry = in_lane_0(carry);
            for (v, powers) in group.as_chunks().0.iter().zip(group_powers(powers)) {
                sums.add(xor(shuffle(load(v), &REVERSED), carry), powers);
                carry = zero();
            }
            sums.reduce()
        }

        /// Encrypts or decrypts whole groups and hashes their ciphertext, a run for each, in one
        /// pass: the units that multiply work between AES rounds. What is sealed is hashed a group
        /// later, when it is there. The hash after them.
        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn apply_groups<const SEAL: bool, const KEYS: usize>(
            key: &Key<KEYS>,
            next: &mut V,
            mut carry: __m128i,
            groups: &mut [[u8; GROUP_BYTES]],
        ) -> __m128i {
            let keys = &key.round_keys;
            // In memory, on lines of their own: there are not registers enough, and what the
            // compiler moves out of them by itself need not be aligned.
            let mut halves_of_powers = group_powers(&key.powers);
            for v in &mut halves_of_powers {
                *v = halves(*v);
            }
            let mut counters = *next;
            let mut groups = groups.iter_mut();
            let mut sealed = None;
            if SEAL && let Some(first) = groups.next() {
                let mut blocks = take::<GROUP>(&mut counters, &keys[0]);
                for key in &keys[1..KEYS - 1] {
                    round(&mut blocks, key);
                }
                finish_group(first, blocks, &keys[KEYS - 1]);
                sealed = Some(&*first);
            }
            for group in groups {
                let text = match sealed {
                    Some(sealed) if SEAL => sealed.as_chunks::<BYTES>().0,
                    _ => group.as_chunks::<BYTES>().0,
                };
                let powers = group_powers(schedule::again(&key.powers));
                let halves_of_powers = schedule::again(&halves_of_powers);
                let mut sums = Sums::new();
                let mut blocks = take(&mut counters, &keys[0]);
                let mut step = |round_key: &Block, at: usize, carry: V| {
                    round(&mut blocks, round_key);
                    let v = xor(shuffle(load(&text[at]), &REVERSED), carry);
                    sums.add_with(v, powers[at], halves_of_powers[at]);
                    in_order(&mut blocks, [&mut sums.low, &mut sums.middle, &mut sums.high]);
                };
                step(&keys[1], 1, zero());
                step(&keys[2], 2, zero());
                step(&keys[3], 3, zero());
                step(&keys[4], 4, zero());
                step(&keys[5], 5, zero());
                step(&keys[6], 6, zero());
                step(&keys[7], 7, zero());
                // Last, because the carry comes late.
                step(&keys[8], 0, in_lane_0(carry));
                for key in &keys[9..KEYS - 1] {
                    round(&mut blocks, key);
                }
                carry = sums.reduce();
                finish_group(group, blocks, &keys[KEYS - 1]);
                sealed = Some(&*group);
            }
            if SEAL && let Some(sealed) = sealed {
                carry = hash_group(&key.powers, sealed, carry);
            }
            *next = counters;
            halves_of_powers = [zero(); GROUP];
            schedule::again(&halves_of_powers);
            carry
        }

        /// The last round, whose key addition can as well add the text.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn finish_group(group: &mut [u8; GROUP_BYTES], blocks: [V; GROUP], key: &Block) {
            let key = broadcast(key);
            for (block, bytes) in blocks.into_iter().zip(group.as_chunks_mut().0) {
                store(bytes, aes_last_round(block, xor(key, load(bytes))));
            }
        }

        /// Encrypts or decrypts `N` vectors, of which the last need not be full. What is sealed is
        /// added to the sums, with the powers from `powers` on. Counters and sums come and go by
        /// value, to be in registers where this is inlined. `WHOLE` changes nothing: what has one
        /// caller is inlined, and of the two each has its own.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn apply_batch<const WHOLE: bool, const SEAL: bool, const N: usize, const KEYS: usize>(
            key: &Key<KEYS>,
            mut next: V,
            mut sums: Sums,
            powers: &[u8],
            bytes: &mut [u8],
        ) -> (V, Sums) {
            let keys = schedule::again(&key.round_keys);
            let mut blocks = take::<N>(&mut next, &keys[0]);
            for key in &keys[1..KEYS - 1] {
                round(&mut blocks, key);
            }
            let key = broadcast(&keys[KEYS - 1]);
            let (vectors, rest) = bytes.as_chunks_mut();
            for ((vector, block), at) in vectors.iter_mut().zip(blocks).zip(0..N) {
                let text = aes_last_round(block, xor(key, load(vector)));
                store(vector, text);
                if SEAL && let Some(powers) = powers.as_chunks().0.get(at) {
                    sums.add(shuffle(text, &REVERSED), load(powers));
                }
            }
            if !rest.is_empty() {
                let text = aes_last_round(blocks[N - 1], xor(key, load_partial(rest)));
                store_partial(rest, text);
                if SEAL {
                    let powers = powers_of_part(&powers[(N - 1) * BYTES..]);
                    sums.add(shuffle(keep(text, rest.len()), &REVERSED), powers);
                }
            }
            (next, sums)
        }

        /// Encrypts or decrypts what makes no group. What is sealed is added to the sums, as the end
        /// of a run before the lengths.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn apply_rest<const SEAL: bool, const KEYS: usize>(
            key: &Key<KEYS>,
            mut next: V,
            mut sums: Sums,
            bytes: &mut [u8],
        ) -> Sums {
            let left = bytes.len().div_ceil(16) + 1;
            let mut powers = key.powers[POWERS - left..].as_flattened();
            let (batches, rest) = bytes.as_chunks_mut::<BATCH_BYTES>();
            for batch in batches {
                (next, sums) = apply_batch::<false, SEAL, BATCH, KEYS>(key, next, sums, powers, batch);
                powers = &powers[BATCH_BYTES..];
            }
            match rest.len().div_ceil(BYTES) {
                0 => sums,
                1 => apply_batch::<false, SEAL, 1, KEYS>(key, next, sums, powers, rest).1,
                2 => apply_batch::<false, SEAL, 2, KEYS>(key, next, sums, powers, rest).1,
                3 => apply_batch::<false, SEAL, 3, KEYS>(key, next, sums, powers, rest).1,
                _ => apply_batch::<false, SEAL, 4, KEYS>(key, next, sums, powers, rest).1,
            }
        }

        /// The tag: the last run reduced and masked.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn tag_of(sums: Sums, mask: __m128i) -> __m128i {
            _mm_xor_si128(_mm_shuffle_epi8(sums.reduce(), schedule::load(&REVERSED)), mask)
        }

        /// The block that ends the message.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn lengths(associated: &[u8], payload: &[u8]) -> __m128i {
            let bits = |bytes: &[u8]| (bytes.len() as i64) << 3;
            _mm_set_epi64x(bits(associated), bits(payload))
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
