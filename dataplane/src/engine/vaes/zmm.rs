//! Four AES blocks in one 512-bit register.
//!
//! A function here is one or two instructions; lane 0 is the first block in memory. Which features
//! the CPU must have is checked where the forms are made, in [`vaes`](crate::engine::vaes).

use super::schedule::Block;
use std::arch::x86_64::*;

/// Blocks in a vector.
pub const LANES: usize = 4;
/// Bytes in a vector.
pub const BYTES: usize = 16 * LANES;
/// A vector of blocks.
pub type V = __m512i;

macro_rules! lane_operations {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,vaes,vpclmulqdq,bmi2")]
        pub fn $name($($arg: $type),*) -> $result $body
    )*};
}

lane_operations! {
    fn load(from: &[u8; BYTES]) -> V {
        // SAFETY: the reference is to 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    fn store(to: &mut [u8; BYTES], v: V) -> () {
        // SAFETY: the reference is to 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }

    /// The bytes of `from`, at most [`BYTES`], and zeros after them.
    fn load_partial(from: &[u8]) -> V {
        // SAFETY: the mask lets the load touch only the first `from.len()` bytes.
        unsafe { _mm512_maskz_loadu_epi8(first_bytes(from.len()), from.as_ptr().cast()) }
    }

    /// The first `to.len()` bytes of `v`, at most [`BYTES`].
    fn store_partial(to: &mut [u8], v: V) -> () {
        // SAFETY: the mask lets the store touch only the first `to.len()` bytes.
        unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), first_bytes(to.len()), v) }
    }

    /// `v` with zeros after the first `len` bytes, `len` at most [`BYTES`].
    fn keep(v: V, len: usize) -> V {
        _mm512_maskz_mov_epi8(first_bytes(len), v)
    }

    /// The mask of the first `len` bytes, `len` at most [`BYTES`].
    fn first_bytes(len: usize) -> __mmask64 {
        _bzhi_u64(u64::MAX, len as u32)
    }

    /// `block` in every lane.
    fn broadcast(block: &Block) -> V {
        broadcast_block(super::schedule::load(block))
    }

    /// `block` in every lane.
    fn broadcast_block(block: __m128i) -> V {
        _mm512_broadcast_i32x4(block)
    }

    /// `block` in lane 0, zeros in the others.
    fn in_lane_0(block: __m128i) -> V {
        _mm512_zextsi128_si512(block)
    }

    /// `v` with `block` in its third lane, if there is one.
    fn with_third(v: V, block: __m128i) -> Option<V> {
        Some(_mm512_inserti32x4::<2>(v, block))
    }

    /// The sum of the lanes.
    fn sum_lanes(v: V) -> __m128i {
        let half = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
        _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
    }

    /// Keeps the instructions before this before those after it, as far as they work on these: the
    /// compiler would gather what belongs together, to need fewer registers.
    fn in_order(blocks: &mut [V; 8], sums: [&mut V; 3]) -> () {
        let ([a, b, c, d, e, f, g, h], [i, j, k]) = (blocks, sums);
        // SAFETY: there is no instruction in it.
        unsafe {
            std::arch::asm!(
                "/* {} {} {} {} {} {} {} {} {} {} {} */",
                inout(zmm_reg) *a, inout(zmm_reg) *b, inout(zmm_reg) *c, inout(zmm_reg) *d,
                inout(zmm_reg) *e, inout(zmm_reg) *f, inout(zmm_reg) *g, inout(zmm_reg) *h,
                inout(zmm_reg) *i, inout(zmm_reg) *j, inout(zmm_reg) *k,
                options(nomem, nostack, preserves_flags)
            )
        }
    }

    fn zero() -> V {
        _mm512_setzero_si512()
    }

    fn xor(a: V, b: V) -> V {
        _mm512_xor_si512(a, b)
    }

    /// Adds to every 32-bit word.
    fn add(a: V, b: V) -> V {
        _mm512_add_epi32(a, b)
    }

    /// What to [`add`] to a block in every lane so that the last words count on by lane from `from`.
    fn count_from(from: i32) -> V {
        _mm512_setr_epi32(
            0, 0, 0, from, 0, 0, 0, from + 1, 0, 0, 0, from + 2, 0, 0, 0, from + 3,
        )
    }

    /// What to [`add`] to go on to the next [`LANES`] blocks.
    fn step() -> V {
        _mm512_set4_epi32(LANES as i32, 0, 0, 0)
    }

    /// Permutes the bytes of every lane.
    fn shuffle(v: V, order: &Block) -> V {
        _mm512_shuffle_epi8(v, broadcast(order))
    }

    /// One AES round in every lane.
    fn aes_round(v: V, key: V) -> V {
        _mm512_aesenc_epi128(v, key)
    }

    /// The last AES round in every lane.
    fn aes_last_round(v: V, key: V) -> V {
        _mm512_aesenclast_epi128(v, key)
    }

    /// Carry-less product, in every lane, of the low halves.
    fn multiply_low(a: V, b: V) -> V {
        _mm512_clmulepi64_epi128::<0x00>(a, b)
    }

    /// Carry-less product, in every lane, of the high halves.
    fn multiply_high(a: V, b: V) -> V {
        _mm512_clmulepi64_epi128::<0x11>(a, b)
    }

    /// Carry-less product, in every lane, of `a`'s low and `b`'s high half.
    fn multiply_low_high(a: V, b: V) -> V {
        _mm512_clmulepi64_epi128::<0x10>(a, b)
    }

    /// Every lane shifted up by 64 bits.
    fn half_up(v: V) -> V {
        _mm512_bslli_epi128::<8>(v)
    }

    /// Every lane shifted down by 64 bits.
    fn half_down(v: V) -> V {
        _mm512_bsrli_epi128::<8>(v)
    }

    /// Every lane with its halves exchanged.
    fn swap_halves(v: V) -> V {
        _mm512_shuffle_epi32::<0x4e>(v)
    }
}
