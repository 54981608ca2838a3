//! The admission tags of a batch of frames: SipHash-2-4 over the first two words of each header.
//!
//! One tag is a chain of 140 instructions that wait for each other. With AVX-512 eight chains, each
//! under a key of its own, take as many.

use wire::siphash::SipHash24;
use zeroize::Zeroize;

/// Frames in a batch.
const BATCH: usize = crate::worker::BATCH;

/// What is to be tagged: first key words, second key words, first words, second words.
pub struct Tags {
    keys: [[u64; BATCH]; 2],
    words: [[u64; BATCH]; 2],
    tags: [u64; BATCH],
    len: usize,
    wide: bool,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            keys: [[0; BATCH]; 2],
            words: [[0; BATCH]; 2],
            tags: [0; BATCH],
            len: 0,
            wide: wide::available(),
        }
    }
}

impl Tags {
    /// Adds a header's words and the key for its tag. More than a batch are ignored.
    #[inline(always)]
    pub fn push(&mut self, key: [u64; 2], words: [u64; 2]) {
        let at = self.len;
        if at < BATCH {
            (self.keys[0][at], self.keys[1][at]) = (key[0], key[1]);
            (self.words[0][at], self.words[1][at]) = (words[0], words[1]);
            self.len = at + 1;
        }
    }

    /// The tags of all headers that were added, in order. The next batch begins empty.
    #[inline]
    pub fn compute(&mut self) -> &[u64] {
        let len = std::mem::take(&mut self.len);
        if self.wide {
            // SAFETY: `wide` is whether the CPU has the features.
            unsafe { wide::tags(&self.keys, &self.words, &mut self.tags, len) };
        } else {
            self.each(len);
        }
        // Nothing is left of the keys of a session that may be gone by the next batch.
        for keys in &mut self.keys {
            keys[..len].zeroize();
        }
        &self.tags[..len]
    }

    /// One after the other.
    fn each(&mut self, len: usize) {
        for at in 0..len {
            let mut hash = SipHash24::new([self.keys[0][at], self.keys[1][at]]);
            hash.word(self.words[0][at]);
            hash.word(self.words[1][at]);
            self.tags[at] = hash.finish();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::BATCH;
    use std::arch::x86_64::*;

    /// Tags in a register.
    const LANES: usize = 8;

    pub fn available() -> bool {
        std::arch::is_x86_feature_detected!("avx512f")
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(from: &[u64; BATCH], at: usize) -> __m512i {
        let from: &[u64; LANES] = from[at..at + LANES].try_into().expect("whole registers");
        // SAFETY: the reference is to 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn round(v: &mut [__m512i; 4]) {
        let [a, b, c, d] = v;
        *a = _mm512_add_epi64(*a, *b);
        *b = _mm512_xor_si512(_mm512_rol_epi64::<13>(*b), *a);
        *a = _mm512_rol_epi64::<32>(*a);
        *c = _mm512_add_epi64(*c, *d);
        *d = _mm512_xor_si512(_mm512_rol_epi64::<16>(*d), *c);
        *a = _mm512_add_epi64(*a, *d);
        *d = _mm512_xor_si512(_mm512_rol_epi64::<21>(*d), *a);
        *c = _mm512_add_epi64(*c, *b);
        *b = _mm512_xor_si512(_mm512_rol_epi64::<17>(*b), *c);
        *c = _mm512_rol_epi64::<32>(*c);
    }

    /// The first `len` tags; what follows them up to a whole register is of no meaning.
    #[target_feature(enable = "avx512f")]
    pub fn tags(
        keys: &[[u64; BATCH]; 2],
        words: &[[u64; BATCH]; 2],
        tags: &mut [u64; BATCH],
        len: usize,
    ) {
        let all = |word: u64| _mm512_set1_epi64(word as i64);
        for at in (0..len.min(BATCH)).step_by(LANES) {
            let (k0, k1) = (load(&keys[0], at), load(&keys[1], at));
            let mut v = [
                _mm512_xor_si512(k0, all(0x736f_6d65_7073_6575)),
                _mm512_xor_si512(k1, all(0x646f_7261_6e64_6f6d)),
                _mm512_xor_si512(k0, all(0x6c79_6765_6e65_7261)),
                _mm512_xor_si512(k1, all(0x7465_6462_7974_6573)),
            ];
            // The last word is the length in bytes, in its highest byte.
            for word in [load(&words[0], at), load(&words[1], at), all(16 << 56)] {
                v[3] = _mm512_xor_si512(v[3], word);
                round(&mut v);
                round(&mut v);
                v[0] = _mm512_xor_si512(v[0], word);
            }
            v[2] = _mm512_xor_si512(v[2], all(0xff));
            for _ in 0..4 {
                round(&mut v);
            }
            let tag = _mm512_xor_si512(_mm512_xor_si512(v[0], v[1]), _mm512_xor_si512(v[2], v[3]));
            let to: &mut [u64; LANES] = (&mut tags[at..at + LANES])
                .try_into()
                .expect("whole registers");
            // SAFETY: the reference is to 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), tag) };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod wide {
    use super::BATCH;

    pub fn available() -> bool {
        false
    }

    /// # Safety
    /// None: it is never called.
    pub unsafe fn tags(
        _: &[[u64; BATCH]; 2],
        _: &[[u64; BATCH]; 2],
        _: &mut [u64; BATCH],
        _: usize,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::{Header, kind};

    proptest! {
        #[test]
        fn every_tag_of_a_batch_is_that_of_its_header_alone(
            frames in prop::collection::vec((any::<[u64; 2]>(), any::<u16>(), any::<u32>(), any::<u64>()), 0..=BATCH),
            wide: bool,
        ) {
            let mut tags = Tags::default();
            tags.wide &= wide;
            for _ in 0..2 {
                let mut expected = Vec::new();
                for (key, length, index, counter) in &frames {
                    let header = Header::new(kind::DATA, *length, *index, *counter);
                    tags.push(*key, header.words());
                    expected.push(header.data_tag(*key));
                }
                prop_assert_eq!(tags.compute(), &expected[..]);
            }
        }
    }
}
