//! The key stream over vectors of blocks: the part of [`gcm`](super::gcm) that encrypts and
//! decrypts, and in long frames hashes meanwhile.
//!
//! The macro makes the functions for one form, beside its key, whose names and operations they use.

macro_rules! stream {
    ($($feature:tt),*) => {
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
    };
}
pub(super) use stream;
