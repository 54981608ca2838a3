//! GHASH over vectors of blocks: the part of [`gcm`](super::gcm) that multiplies.
//!
//! The macro makes the functions for one form, beside its key, whose names and operations they use.

macro_rules! ghash {
    ($($feature:tt),*) => {
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
    };
}
pub(super) use ghash;
