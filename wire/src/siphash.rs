//! SipHash-2-4 (Aumasson and Bernstein, 2012) over whole 64-bit words, as the admission tag uses
//! it: every tagged region is a multiple of eight bytes.

/// A SipHash-2-4 computation.
#[derive(Debug, Clone, Copy)]
pub struct SipHash24 {
    v: [u64; 4],
    words: u64,
}

impl SipHash24 {
    /// Starts with a key of two little-endian words.
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v: [
                key[0] ^ 0x736f_6d65_7073_6575,
                key[1] ^ 0x646f_7261_6e64_6f6d,
                key[0] ^ 0x6c79_6765_6e65_7261,
                key[1] ^ 0x7465_6462_7974_6573,
            ],
            words: 0,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.v;
        *a = a.wrapping_add(*b);
        *b = b.rotate_left(13) ^ *a;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*d);
        *d = d.rotate_left(16) ^ *c;
        *a = a.wrapping_add(*d);
        *d = d.rotate_left(21) ^ *a;
        *c = c.wrapping_add(*b);
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }

    /// Absorbs eight bytes read little-endian.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.compress(word);
        self.words += 1;
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.round();
        self.v[0] ^= word;
    }

    /// The 64-bit tag.
    #[inline(always)]
    pub fn finish(mut self) -> u64 {
        self.compress((self.words * 8) << 56);
        self.v[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn it_equals_the_siphasher_crate_on_whole_words(k0: u64, k1: u64, words in prop::collection::vec(any::<u64>(), 0..40)) {
            let mut ours = SipHash24::new([k0, k1]);
            let mut bytes = Vec::new();
            for &word in &words {
                ours.word(word);
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            prop_assert_eq!(ours.finish(), SipHasher24::new_with_keys(k0, k1).hash(&bytes));
        }
    }

    /// Vectors of the SipHash paper's reference code: key 00..0f, input 00..(n-1).
    #[test]
    fn it_equals_the_published_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(SipHash24::new(key).finish(), 0x726f_db47_dd0e_0e31);
        let mut one = SipHash24::new(key);
        one.word(0x0706_0504_0302_0100);
        assert_eq!(one.finish(), 0x93f5_f579_9a93_2462);
    }
}
