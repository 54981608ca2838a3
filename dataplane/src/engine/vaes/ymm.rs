//! Two AES blocks in one 256-bit register: what [`zmm`](super::zmm) is for four.
//!
//! A function here is one or two instructions; lane 0 is the first block in memory. Which features
//! the CPU must have is checked where the forms are made, in [`vaes`](crate::engine::vaes).

use super::schedule::Block;
use std::arch::x86_64::*;

/// Blocks in a vector.
pub const LANES: usize = 2;
/// Bytes in a vector.
pub const BYTES: usize = 16 * LANES;
/// A vector of blocks.
pub type V = __m256i;

/// From where it is read decides how many bytes of a vector are kept.
static KEEP: [u8; 2 * BYTES] = {
    let mut mask = [0; 2 * BYTES];
    let mut at = 0;
    while at < BYTES {
        mask[at] = 0xff;
        at += 1;
    }
    mask
};

macro_rules! lane_operations {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
        pub fn $name($($arg: $type),*) -> $result $body
    )*};
}

lane_operations! {
    fn load(from: &[u8; BYTES]) -> V {
        // SAFETY: the reference is to 32 readable bytes; the load needs no alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    fn store(to: &mut [u8; BYTES], v: V) -> () {
        // SAFETY: the reference is to 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
    }

    /// The bytes of `from`, fewer than [`BYTES`], and zeros after them.
    fn load_partial(from: &[u8]) -> V {
        let (words, rest) = from.as_chunks::<4>();
        // SAFETY: the mask lets the load touch only the first `words`, which are `from`'s.
        let whole = unsafe { _mm256_maskload_epi32(from.as_ptr().cast(), first_words(words.len())) };
        let mut last = 0;
        for byte in rest.iter().rev() {
            last = last << 8 | i32::from(*byte);
        }
        let place = _mm256_cmpeq_epi32(numbers(), _mm256_set1_epi32(words.len() as i32));
        _mm256_or_si256(whole, _mm256_and_si256(place, _mm256_set1_epi32(last)))
    }

    /// The first `to.len()` bytes of `v`, fewer than [`BYTES`].
    fn store_partial(to: &mut [u8], v: V) -> () {
        let (words, rest) = to.as_chunks_mut::<4>();
        let (count, start) = (words.len(), words.as_mut_ptr());
        // SAFETY: the mask lets the store touch only the first `count` words, which are `words`.
        unsafe { _mm256_maskstore_epi32(start.cast(), first_words(count), v) };
        let place = _mm256_set1_epi32(count as i32);
        let last = _mm256_cvtsi256_si32(_mm256_permutevar8x32_epi32(v, place));
        rest.copy_from_slice(&last.to_le_bytes()[..rest.len()]);
    }

    /// The mask of the first `count` 32-bit words.
    fn first_words(count: usize) -> V {
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), numbers())
    }

    /// Every 32-bit word its number.
    fn numbers() -> V {
        _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)
    }

    /// `v` with zeros after the first `len` bytes, `len` at most [`BYTES`].
    fn keep(v: V, len: usize) -> V {
        match KEEP[BYTES - len..].first_chunk() {
            Some(mask) => _mm256_and_si256(v, load(mask)),
            None => v,
        }
    }

    /// `block` in every lane.
    fn broadcast(block: &Block) -> V {
        broadcast_block(super::schedule::load(block))
    }

    /// `block` in every lane.
    fn broadcast_block(block: __m128i) -> V {
        _mm256_broadcastsi128_si256(block)
    }

    /// `block` in lane 0, zeros in the others.
    fn in_lane_0(block: __m128i) -> V {
        _mm256_zextsi128_si256(block)
    }

    /// `v` with `block` in its third lane, if there is one.
    fn with_third(_v: V, _block: __m128i) -> Option<V> {
        None
    }

    /// The sum of the lanes.
    fn sum_lanes(v: V) -> __m128i {
        _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
    }

    /// Keeps the instructions before this before those after it, as far as they work on these: the
    /// compiler would gather what belongs together, to need fewer registers.
    fn in_order(blocks: &mut [V; 8], sums: [&mut V; 3]) -> () {
        let ([a, b, c, d, e, f, g, h], [i, j, k]) = (blocks, sums);
        // SAFETY: there is no instruction in it.
        unsafe {
            std::arch::asm!(
                "/* {} {} {} {} {} {} {} {} {} {} {} */",
                inout(ymm_reg) *a, inout(ymm_reg) *b, inout(ymm_reg) *c, inout(ymm_reg) *d,
                inout(ymm_reg) *e, inout(ymm_reg) *f, inout(ymm_reg) *g, inout(ymm_reg) *h,
                inout(ymm_reg) *i, inout(ymm_reg) *j, inout(ymm_reg) *k,
                options(nomem, nostack, preserves_flags)
            )
        }
    }

    fn zero() -> V {
        _mm256_setzero_si256()
    }

    fn xor(a: V, b: V) -> V {
        _mm256_xor_si256(a, b)
    }

    /// Adds to every 32-bit word.
    fn add(a: V, b: V) -> V {
        _mm256_add_epi32(a, b)
    }

    /// What to [`add`] to a block in every lane so that the last words count on by lane from `from`.
    fn count_from(from: i32) -> V {
        _mm256_setr_epi32(0, 0, 0, from, 0, 0, 0, from + 1)
    }

    /// What to [`add`] to go on to the next [`LANES`] blocks.
    fn step() -> V {
        _mm256_setr_epi32(0, 0, 0, LANES as i32, 0, 0, 0, LANES as i32)
    }

    /// Permutes the bytes of every lane.
    fn shuffle(v: V, order: &Block) -> V {
        _mm256_shuffle_epi8(v, broadcast(order))
    }

    /// One AES round in every lane.
    fn aes_round(v: V, key: V) -> V {
        _mm256_aesenc_epi128(v, key)
    }

    /// The last AES round in every lane.
    fn aes_last_round(v: V, key: V) -> V {
        _mm256_aesenclast_epi128(v, key)
    }

    /// Carry-less product, in every lane, of the low halves.
    fn multiply_low(a: V, b: V) -> V {
        _mm256_clmulepi64_epi128::<0x00>(a, b)
    }

    /// Carry-less product, in every lane, of the high halves.
    fn multiply_high(a: V, b: V) -> V {
        _mm256_clmulepi64_epi128::<0x11>(a, b)
    }

    /// Carry-less product, in every lane, of `a`'s low and `b`'s high half.
    fn multiply_low_high(a: V, b: V) -> V {
        _mm256_clmulepi64_epi128::<0x10>(a, b)
    }

    /// Every lane shifted up by 64 bits.
    fn half_up(v: V) -> V {
        _mm256_bslli_epi128::<8>(v)
    }

    /// Every lane shifted down by 64 bits.
    fn half_down(v: V) -> V {
        _mm256_bsrli_epi128::<8>(v)
    }

    /// Every lane with its halves exchanged.
    fn swap_halves(v: V) -> V {
        _mm256_shuffle_epi32::<0x4e>(v)
    }
}
