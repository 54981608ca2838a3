//! AES-GCM of our own for CPUs with VAES and VPCLMULQDQ, made for short frames: the libraries spend
//! most of a 64-byte frame outside of AES and GHASH.
//!
//! There are two *forms* of the same code: `gcm` is compiled over `zmm` (AVX-512, four blocks in
//! a register) and over `ymm` (AVX2, two); `ghash` and `stream` are parts of it. `schedule` is what
//! is done once per key.
//!
//! **What is computed** is AES-GCM of NIST SP 800-38D with 96-bit nonces and 128-bit tags, nothing
//! else: J0 = nonce ‖ 1, the key stream is E(nonce ‖ 2), E(nonce ‖ 3), ..., and the tag is
//! GHASH(associated data, ciphertext, lengths) + E(J0). The 32-bit counter cannot wrap: lengths
//! above [`MAX_LEN`] are refused, which is 2^26 blocks.
//!
//! **GHASH** takes bits in the opposite order of the carry-less multiplication. Blocks are
//! byte-reversed when they are loaded, which leaves products one bit too low; the hash key is
//! multiplied by x once for that, and the field is then POLYVAL's (RFC 8452, appendix A), with x^128
//! = x^127 + x^126 + x^121 + 1 and the Montgomery product a·b·x^-128. Reducing a product
//! takes two multiplications by the constant 0xc2 << 56. Up to 33 blocks (associated data, text and
//! lengths alike) are multiplied by H^n to H^1, summed and reduced once, so a frame of up to 480 bytes
//! of payload behind a header is reduced once in all.
//!
//! **Constant time**: no branch and no address depends on a key, a text or a tag, only on
//! lengths; AES and the field are done by instructions whose time does not depend on data. The tag
//! is compared as one 128-bit value.
//!
//! **Opening** verifies first and decrypts then, where the whole frame fits one reduction, and the
//! end of every frame. A forged short frame is left as it was and costs the hash alone. Longer ones
//! are hashed and decrypted in one pass, group by group, because two passes are slower than the
//! libraries; when the tag then does not verify, what was decrypted is overwritten with zeros
//! before anybody sees the buffer. No forged frame costs more than a genuine one and that.
//!
//! **Secrets** are wiped when a key is dropped: 15 round keys (11 for AES-128) and 33 powers in 768
//! bytes (704), on lines of their own. A 64-byte payload touches six of those twelve lines.
//! Registers are not wiped, nor what the compiler spills of them to the stack; as in the libraries,
//! that is overwritten by the next frame.
//!
//! **The order of instructions** is the work of two empty `asm!` blocks. `in_order` keeps AES rounds and
//! multiplications mixed as written, and `again` makes the compiler load keys and powers where they
//! are used: left alone it gathers the rounds, and moves what it has loaded early to a stack that is
//! not aligned to lines, which cost long frames a third of their rate.

mod gcm;
mod ghash;
mod schedule;
mod stream;
mod ymm;
mod zmm;

use super::{Aead, Forged};
use crate::keys::Cipher;

/// Nothing longer is sealed or opened.
pub const MAX_LEN: usize = 1 << 30;

/// Which registers the engine works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 512-bit ones.
    Avx512,
    /// 256-bit ones.
    Avx2,
}

/// The AVX-512 form.
mod avx512 {
    super::gcm::gcm!(
        zmm,
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "bmi2",
        "vaes",
        "vpclmulqdq"
    );
}

/// The AVX2 form.
mod avx2 {
    super::gcm::gcm!(ymm, "avx2", "vaes", "vpclmulqdq");
}

impl Form {
    /// All of them, the fastest first.
    pub const ALL: [Form; 2] = [Form::Avx512, Form::Avx2];

    /// The fastest this CPU has.
    pub fn best() -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.available())
    }

    /// Whether this CPU has it.
    pub fn available(self) -> bool {
        match self {
            Form::Avx512 => avx512::available(),
            Form::Avx2 => avx2::available(),
        }
    }

    /// A key of this form, whose length the cipher says. `None` for AES-256-GCM-SIV, which is left
    /// to the libraries, and on a CPU that lacks the form.
    pub fn key(self, cipher: Cipher, key: &[u8; 32]) -> Option<Box<dyn Aead>> {
        let key = &key[..cipher.key_len()];
        Some(match (self, cipher) {
            (Form::Avx512, Cipher::Aes256Gcm) => avx512::Key::<15>::new(key)?,
            (Form::Avx512, Cipher::Aes128Gcm) => avx512::Key::<11>::new(key)?,
            (Form::Avx2, Cipher::Aes256Gcm) => avx2::Key::<15>::new(key)?,
            (Form::Avx2, Cipher::Aes128Gcm) => avx2::Key::<11>::new(key)?,
            (_, Cipher::Aes256GcmSiv) => return None,
        })
    }
}

fn check_lengths(associated: &[u8], text: &[u8]) -> Result<(), Forged> {
    match associated.len().max(text.len()) {
        0..=MAX_LEN => Ok(()),
        _ => Err(Forged),
    }
}

#[cfg(test)]
mod tests;
