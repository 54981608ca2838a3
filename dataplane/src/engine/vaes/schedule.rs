//! What is computed once per key: the AES round keys and the powers of the GHASH key.

use crate::engine::NONCE_LEN;
use std::arch::{asm, x86_64::*};
use zeroize::Zeroize;

/// A block as it lies in memory.
pub type Block = [u8; 16];

/// How many powers of the hash key are kept, and so how many blocks can share one reduction: a
/// group of the wide form, and the lengths.
pub const POWERS: usize = 33;

/// The order that reverses the last word of a block, and it alone.
pub const COUNTER_BIG_ENDIAN: Block = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 14, 13, 12];

/// The order that reverses the bytes of a block.
pub const REVERSED: Block = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];

macro_rules! block_operations {
    ($($(#[$meta:meta])* fn $name:ident $([$($generic:tt)*])? ($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
        pub fn $name $(<$($generic)*>)? ($($arg: $type),*) $(-> $result)? $body
    )*};
}

block_operations! {
    fn load(from: &Block) -> __m128i {
        // SAFETY: the reference is to 16 readable bytes; the load needs no alignment.
        unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
    }

    fn store(to: &mut Block, block: __m128i) {
        // SAFETY: the reference is to 16 writable bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), block) }
    }

    /// Whether two blocks are equal, in the same time whatever they are.
    fn equal(a: __m128i, b: __m128i) -> bool {
        let difference = _mm_xor_si128(a, b);
        _mm_testz_si128(difference, difference) == 1
    }

    /// A counter block whose counter is zero.
    fn before_counter(nonce: &[u8; NONCE_LEN]) -> __m128i {
        // Read as callers write it, 4 bytes of the IV alone and 8 with the counter mixed in: a load
        // across two fresh stores waits for both.
        let (fixed, counted) = nonce.split_at(4);
        let fixed = u32::from_le_bytes(fixed.try_into().unwrap_or_default());
        let counted = u64::from_le_bytes(counted.try_into().unwrap_or_default());
        let block = _mm_slli_si128::<4>(_mm_cvtsi64_si128(counted as i64));
        _mm_insert_epi32::<0>(block, fixed as i32)
    }

    /// The same, but the compiler does not know that: it loads it again, where it is used, instead of
    /// keeping it in registers that are too few.
    fn again[T](value: &T) -> &T {
        let mut same: *const T = value;
        // SAFETY: there is no instruction in it.
        unsafe { asm!("/* {} */", inout(reg) same, options(readonly, nostack, preserves_flags)) };
        // SAFETY: it is the reference that came.
        unsafe { &*same }
    }

    /// Encrypts one block.
    fn encrypt[const KEYS: usize](round_keys: &[Block; KEYS], block: __m128i) -> __m128i {
        let mut block = _mm_xor_si128(block, load(&round_keys[0]));
        for key in &round_keys[1..KEYS - 1] {
            block = _mm_aesenc_si128(block, load(key));
        }
        _mm_aesenclast_si128(block, load(&round_keys[KEYS - 1]))
    }

    /// The AES key schedule (FIPS 197, 5.2), 11 round keys of a 16-byte key, 15 of a 32-byte one.
    fn expand[const KEYS: usize](key: &[u8], round_keys: &mut [Block; KEYS]) {
        let words = key.len() / 4;
        let (bytes, _) = round_keys.as_flattened_mut().as_chunks_mut::<4>();
        bytes.as_flattened_mut()[..key.len()].copy_from_slice(key);
        let mut constant = 1u32;
        for at in words..bytes.len() {
            let mut word = u32::from_le_bytes(bytes[at - 1]);
            if at % words == 0 {
                word = substitute(word).rotate_right(8) ^ constant;
                constant = (constant << 1) ^ ((constant >> 7) * 0x11b);
            } else if words == 8 && at % words == 4 {
                word = substitute(word);
            }
            bytes[at] = (u32::from_le_bytes(bytes[at - words]) ^ word).to_le_bytes();
        }
    }

    /// SubWord. The last AES round does it without a table: with the word in all four columns,
    /// ShiftRows changes nothing, and the key is zero.
    fn substitute(word: u32) -> u32 {
        let columns = _mm_set1_epi32(word as i32);
        _mm_cvtsi128_si32(_mm_aesenclast_si128(columns, _mm_setzero_si128())) as u32
    }

    /// The powers of the hash key, the highest first: H^33 to H^1, in the form of the module's docs.
    fn powers[const KEYS: usize](round_keys: &[Block; KEYS], powers: &mut [Block; POWERS]) {
        let hash_key = encrypt(round_keys, _mm_setzero_si128());
        let first = times_x(_mm_shuffle_epi8(hash_key, load(&REVERSED)));
        let mut power = first;
        for place in powers.iter_mut().rev() {
            store(place, power);
            power = multiply(power, first);
        }
    }

    /// `block` times x: the shift by one that a product of bit-reversed factors lacks, done to one
    /// of them once and for all. What is shifted out of x^127 comes back as x^128 reduced.
    fn times_x(block: __m128i) -> __m128i {
        let mut bytes = [0; 16];
        store(&mut bytes, block);
        let mut value = u128::from_le_bytes(bytes);
        // All ones when the top bit is set: no branch on a secret.
        let out = (value >> 127).wrapping_neg();
        value = (value << 1) ^ (out & POLYNOMIAL);
        let result = value.to_le_bytes();
        let doubled = load(&result);
        bytes.zeroize();
        value.zeroize();
        doubled
    }

    /// The product of two elements, reduced.
    fn multiply(a: __m128i, b: __m128i) -> __m128i {
        let low = _mm_clmulepi64_si128::<0x00>(a, b);
        let middle = _mm_xor_si128(
            _mm_clmulepi64_si128::<0x01>(a, b),
            _mm_clmulepi64_si128::<0x10>(a, b),
        );
        let high = _mm_clmulepi64_si128::<0x11>(a, b);
        let low = _mm_xor_si128(low, _mm_slli_si128::<8>(middle));
        let high = _mm_xor_si128(high, _mm_srli_si128::<8>(middle));
        let polynomial = load(&FOLD);
        let once = _mm_xor_si128(
            _mm_shuffle_epi32::<0x4e>(low),
            _mm_clmulepi64_si128::<0x10>(low, polynomial),
        );
        let twice = _mm_xor_si128(
            _mm_shuffle_epi32::<0x4e>(once),
            _mm_clmulepi64_si128::<0x10>(once, polynomial),
        );
        _mm_xor_si128(high, twice)
    }
}

/// x^127 + x^126 + x^121 + 1, which is x^128 in the field.
const POLYNOMIAL: u128 = 0xc2000000_00000000_00000000_00000001;

/// [`POLYNOMIAL`] as the reduction multiplies by it: the upper half alone, since the 1 of the lower
/// one only exchanges halves.
pub const FOLD: Block = POLYNOMIAL.to_le_bytes();
