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
        use std::arch::x86_64::*;
        use wire::limits::TAG_LEN;
        use zeroize::Zeroize;

        /// Vectors that are worked on together in a long frame.
        const GROUP: usize = 4;
        /// Bytes of such a group.
        const GROUP_BYTES: usize = GROUP * BYTES;

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
                super::check_lengths(associated, payload)?;
                // SAFETY: a key is only made on a CPU with the features.
                unsafe { seal(self, nonce, associated, payload, tag) };
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

            fn prefetch(&self) {
                let start = std::ptr::from_ref(self).cast::<i8>();
                for line in (0..size_of::<Self>()).step_by(64) {
                    // SAFETY: a prefetch reads nothing; the address is within the key.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(line)) };
                }
            }
        }

        /// The counter blocks that follow J0, a vector at a time, and the round keys they are
        /// encrypted with. The words of a block are nonce, nonce, nonce, counter; the counter is
        /// little-endian here, to be added to, and turned round on its way into AES.
        struct Stream<'k, const KEYS: usize> {
            round_keys: &'k [Block; KEYS],
            next: V,
        }

        impl<'k, const KEYS: usize> Stream<'k, KEYS> {
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn new(round_keys: &'k [Block; KEYS], nonce: &[u8; NONCE_LEN]) -> Self {
                // J0, which masks the tag, has the counter 1.
                let next = add(broadcast_block(schedule::before_counter(nonce)), count_from(2));
                Self { round_keys, next }
            }

            /// `N` vectors of key stream.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn take<const N: usize>(&mut self) -> [V; N] {
                let mut blocks = self.counters();
                for key in &self.round_keys[1..KEYS - 1] {
                    round(&mut blocks, key);
                }
                self.finish(blocks)
            }

            /// The next counters after the key addition that comes before the first round.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn counters<const N: usize>(&mut self) -> [V; N] {
                let first = broadcast(&self.round_keys[0]);
                let mut blocks = [first; N];
                for block in &mut blocks {
                    *block = xor(shuffle(self.next, &COUNTER_BIG_ENDIAN), first);
                    self.next = add(self.next, step());
                }
                blocks
            }

            /// The last round.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn finish<const N: usize>(&self, mut blocks: [V; N]) -> [V; N] {
                let last = broadcast(&self.round_keys[KEYS - 1]);
                for block in &mut blocks {
                    *block = aes_last_round(*block, last);
                }
                blocks
            }

            /// Encrypts or decrypts a vector; what it then is.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn apply(&mut self, vector: &mut [u8; BYTES]) -> V {
                let [stream] = self.take();
                let text = xor(stream, load(vector));
                store(vector, text);
                text
            }

            /// Encrypts or decrypts less than a vector; what it then is, with zeros after it.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn apply_partial(&mut self, bytes: &mut [u8]) -> V {
                let [stream] = self.take();
                let text = keep(xor(stream, load_partial(bytes)), bytes.len());
                store_partial(bytes, text);
                text
            }

            /// Encrypts or decrypts what makes no group.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn apply_bytes(&mut self, bytes: &mut [u8]) {
                let (vectors, rest) = bytes.as_chunks_mut();
                for vector in vectors {
                    self.apply(vector);
                }
                if !rest.is_empty() {
                    self.apply_partial(rest);
                }
            }
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

        /// XORs the stream into a group; what it then is.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn xor_group(group: &mut [u8; GROUP_BYTES], mut stream: [V; GROUP]) -> [V; GROUP] {
            for (v, bytes) in stream.iter_mut().zip(group.as_chunks_mut().0) {
                *v = xor(*v, load(bytes));
                store(bytes, *v);
            }
            stream
        }

        /// J0 encrypted: the mask of the tag.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn tag_mask<const KEYS: usize>(
            round_keys: &[Block; KEYS],
            nonce: &[u8; NONCE_LEN],
        ) -> __m128i {
            let one = _mm_set_epi32(1 << 24, 0, 0, 0);
            let block = _mm_or_si128(schedule::before_counter(nonce), one);
            schedule::encrypt(round_keys, block)
        }

        /// GHASH over a message that comes in vectors. Blocks of one *run*, at most [`POWERS`],
        /// are multiplied each by its own power, H^n for the first of n, and the products are
        /// summed unreduced; the end of a run reduces them once.
        struct Hash<'k> {
            powers: &'k [Block; POWERS],
            low: V,
            middle: V,
            high: V,
            /// The hash of all runs before this one, to be added to the next block.
            carry: V,
            /// Blocks of this run that are still to come.
            left: usize,
        }

        impl<'k> Hash<'k> {
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn new(powers: &'k [Block; POWERS]) -> Self {
                Self {
                    powers,
                    low: zero(),
                    middle: zero(),
                    high: zero(),
                    carry: zero(),
                    left: 0,
                }
            }

            /// Adds the next `blocks` of the run, the bytes of each already reversed.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_reversed(&mut self, v: V, blocks: usize) {
                let powers = &self.powers[POWERS - self.left..];
                // Lanes beyond the last power are beyond the last block too: zero.
                let powers = match powers.as_flattened().first_chunk() {
                    Some(powers) => load(powers),
                    None => load_partial(powers.as_flattened()),
                };
                self.add_product(xor(v, self.carry), powers);
                self.carry = zero();
                self.left -= blocks;
            }

            /// Adds a product for each lane, unreduced.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_product(&mut self, v: V, powers: V) {
                self.low = xor(self.low, multiply_low(v, powers));
                self.high = xor(self.high, multiply_high(v, powers));
                // Karatsuba: with the sums of the halves, one multiplication gives both cross
                // products, and low and high besides, which reduce() takes off again.
                let sums = multiply_low(
                    xor(v, swap_halves(v)),
                    xor(powers, swap_halves(powers)),
                );
                self.middle = xor(self.middle, sums);
            }

            /// Adds the next `blocks` of the run. What `v` holds beyond them is zero.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add(&mut self, v: V, blocks: usize) {
                self.add_reversed(shuffle(v, &REVERSED), blocks);
            }

            /// Adds `bytes`, filled up with zeros to whole blocks.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_bytes(&mut self, bytes: &[u8]) {
                let (vectors, rest) = bytes.as_chunks();
                for vector in vectors {
                    self.add(load(vector), LANES);
                }
                if !rest.is_empty() {
                    self.add(load_partial(rest), rest.len().div_ceil(16));
                }
            }

            /// Ends a run: the hash of everything so far.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn reduce(&mut self) -> __m128i {
                let polynomial = broadcast(&FOLD);
                let middle = xor(self.middle, xor(self.low, self.high));
                let low = xor(self.low, half_up(middle));
                let high = xor(self.high, half_down(middle));
                let once = xor(swap_halves(low), multiply_low_high(low, polynomial));
                let twice = xor(swap_halves(once), multiply_low_high(once, polynomial));
                (self.low, self.middle, self.high) = (zero(), zero(), zero());
                sum_lanes(xor(high, twice))
            }

            /// The powers for a run of one group.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn group_powers(&self) -> [V; GROUP] {
                let mut powers = [zero(); GROUP];
                let used = self.powers[POWERS - GROUP * LANES..].as_flattened();
                for (v, bytes) in powers.iter_mut().zip(used.as_chunks().0) {
                    *v = load(bytes);
                }
                powers
            }

            /// A run of one group.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_group(&mut self, [a, b, c, d]: [V; GROUP]) {
                let [h_a, h_b, h_c, h_d] = self.group_powers();
                self.add_product(shuffle(b, &REVERSED), h_b);
                self.add_product(shuffle(c, &REVERSED), h_c);
                self.add_product(shuffle(d, &REVERSED), h_d);
                // Last, because the carry comes late.
                self.add_product(xor(shuffle(a, &REVERSED), self.carry), h_a);
                self.carry = in_lane_0(self.reduce());
            }

            /// A run for each whole group of `bytes`; what is left of them.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_groups<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
                let (groups, rest) = bytes.as_chunks::<GROUP_BYTES>();
                for group in groups {
                    self.add_group(load_group(group));
                }
                rest
            }

            /// A run of its own for associated data that makes no group.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn add_run(&mut self, bytes: &[u8]) {
                self.left = bytes.len().div_ceil(16);
                self.add_bytes(bytes);
                self.carry = xor(self.carry, in_lane_0(self.reduce()));
            }

            /// Adds the lengths, which end the message, and gives the tag.
            #[inline]
            #[target_feature($(enable = $feature),*)]
            fn tag(mut self, lengths: (usize, usize), mask: __m128i) -> __m128i {
                let bits = |bytes: usize| (bytes as i64) << 3;
                let lengths = _mm_set_epi64x(bits(lengths.0), bits(lengths.1));
                self.add_reversed(in_lane_0(lengths), 1);
                let hash = self.reduce();
                _mm_xor_si128(_mm_shuffle_epi8(hash, schedule::load(&REVERSED)), mask)
            }
        }

        /// Encrypts or decrypts whole groups and hashes their ciphertext, a run for each, in one
        /// pass: the units that multiply work between AES rounds. What is sealed is hashed a group
        /// later, when it is there. Stream and hash come and go by value, to stay in registers.
        #[target_feature($(enable = $feature),*)]
        fn apply_groups<'k, const SEAL: bool, const KEYS: usize>(
            mut stream: Stream<'k, KEYS>,
            mut hash: Hash<'k>,
            mut groups: &mut [[u8; GROUP_BYTES]],
        ) -> (Stream<'k, KEYS>, Hash<'k>) {
            let keys = stream.round_keys;
            let mut sealed = [zero(); GROUP];
            if SEAL {
                let Some((first, others)) = groups.split_first_mut() else {
                    return (stream, hash);
                };
                sealed = xor_group(first, stream.take());
                groups = others;
            }
            for group in groups {
                if !SEAL {
                    sealed = load_group(group);
                }
                let ([a, b, c, d], [h_a, h_b, h_c, h_d]) = (sealed, hash.group_powers());
                let mut blocks = stream.counters();
                // Written out: in a loop that is not unrolled nothing of this is in registers.
                round(&mut blocks, &keys[1]);
                round(&mut blocks, &keys[2]);
                hash.add_product(xor(shuffle(a, &REVERSED), hash.carry), h_a);
                round(&mut blocks, &keys[3]);
                round(&mut blocks, &keys[4]);
                hash.add_product(shuffle(b, &REVERSED), h_b);
                round(&mut blocks, &keys[5]);
                round(&mut blocks, &keys[6]);
                hash.add_product(shuffle(c, &REVERSED), h_c);
                round(&mut blocks, &keys[7]);
                round(&mut blocks, &keys[8]);
                hash.add_product(shuffle(d, &REVERSED), h_d);
                for key in &keys[9..KEYS - 1] {
                    round(&mut blocks, key);
                }
                hash.carry = in_lane_0(hash.reduce());
                let texts = xor_group(group, stream.finish(blocks));
                if SEAL {
                    sealed = texts;
                }
            }
            if SEAL {
                hash.add_group(sealed);
            }
            (stream, hash)
        }

        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn load_group(group: &[u8; GROUP_BYTES]) -> [V; GROUP] {
            let mut loaded = [zero(); GROUP];
            for (v, bytes) in loaded.iter_mut().zip(group.as_chunks().0) {
                *v = load(bytes);
            }
            loaded
        }

        /// Whether associated data, payload and lengths fit one run.
        fn short(associated: &[u8], payload: &[u8]) -> bool {
            associated.len().div_ceil(16) + payload.len().div_ceil(16) < POWERS
        }

        #[target_feature($(enable = $feature),*)]
        fn seal<const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) {
            if !short(associated, payload) {
                return seal_long(key, nonce, associated, payload, tag);
            }
            let lengths = (associated.len(), payload.len());
            let mask = tag_mask(&key.round_keys, nonce);
            let mut stream = Stream::new(&key.round_keys, nonce);
            let mut hash = Hash::new(&key.powers);
            seal_last(&mut stream, &mut hash, associated, payload);
            schedule::store(tag, hash.tag(lengths, mask));
        }

        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn seal_long<const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) {
            let lengths = (associated.len(), payload.len());
            let mask = tag_mask(&key.round_keys, nonce);
            let stream = Stream::new(&key.round_keys, nonce);
            let mut hash = Hash::new(&key.powers);
            let rest = hash.add_groups(associated);
            hash.add_run(rest);
            let (groups, rest) = payload.as_chunks_mut::<GROUP_BYTES>();
            let (mut stream, mut hash) = apply_groups::<true, KEYS>(stream, hash, groups);
            seal_last(&mut stream, &mut hash, &[], rest);
            schedule::store(tag, hash.tag(lengths, mask));
        }

        /// The last run, up to the lengths.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn seal_last<const KEYS: usize>(
            stream: &mut Stream<KEYS>,
            hash: &mut Hash,
            associated: &[u8],
            payload: &mut [u8],
        ) {
            hash.left = associated.len().div_ceil(16) + payload.len().div_ceil(16) + 1;
            hash.add_bytes(associated);
            let (vectors, rest) = payload.as_chunks_mut();
            for vector in vectors {
                hash.add(stream.apply(vector), LANES);
            }
            if !rest.is_empty() {
                hash.add(stream.apply_partial(rest), rest.len().div_ceil(16));
            }
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
            if !short(associated, payload) {
                return open_long(key, nonce, associated, payload, tag);
            }
            let lengths = (associated.len(), payload.len());
            let mask = tag_mask(&key.round_keys, nonce);
            let mut stream = Stream::new(&key.round_keys, nonce);
            let mut hash = Hash::new(&key.powers);
            hash_last(&mut hash, associated, payload);
            if !schedule::equal(hash.tag(lengths, mask), schedule::load(tag)) {
                return false;
            }
            stream.apply_bytes(payload);
            true
        }

        #[inline(never)]
        #[target_feature($(enable = $feature),*)]
        fn open_long<const KEYS: usize>(
            key: &Key<KEYS>,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            payload: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> bool {
            let lengths = (associated.len(), payload.len());
            let mask = tag_mask(&key.round_keys, nonce);
            let stream = Stream::new(&key.round_keys, nonce);
            let mut hash = Hash::new(&key.powers);
            let rest = hash.add_groups(associated);
            hash.add_run(rest);
            let (groups, rest) = payload.as_chunks_mut::<GROUP_BYTES>();
            let (mut stream, mut hash) = apply_groups::<false, KEYS>(stream, hash, groups);
            hash_last(&mut hash, &[], rest);
            if !schedule::equal(hash.tag(lengths, mask), schedule::load(tag)) {
                groups.as_flattened_mut().fill(0);
                return false;
            }
            stream.apply_bytes(rest);
            true
        }

        /// The last run, up to the lengths.
        #[inline]
        #[target_feature($(enable = $feature),*)]
        fn hash_last(hash: &mut Hash, associated: &[u8], sealed: &[u8]) {
            hash.left = associated.len().div_ceil(16) + sealed.len().div_ceil(16) + 1;
            hash.add_bytes(associated);
            hash.add_bytes(sealed);
        }
    };
}
pub(super) use gcm;
