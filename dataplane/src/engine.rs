//! AEAD engines: what seals and opens, behind one trait.
//!
//! Every engine computes the same function; the tests hold them against each other. `vaes` is our
//! own AES-GCM for CPUs that have its instructions, `aws-lc-rs` the fast one of the others, and
//! `aes-gcm` (with `aes-gcm-siv`) the portable one.

mod libraries;
#[cfg(target_arch = "x86_64")]
pub mod vaes;

use crate::keys::Cipher;
use wire::limits::TAG_LEN;

/// Bytes of a nonce, for every cipher here.
pub const NONCE_LEN: usize = 12;

/// What does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The fastest on this CPU.
    #[default]
    Auto,
    /// Our own, on CPUs with VAES and VPCLMULQDQ. AES-256-GCM-SIV is left to `aws-lc-rs`.
    Vaes,
    /// `aws-lc-rs`.
    AwsLcRs,
    /// `aes-gcm` and `aes-gcm-siv`.
    AesGcm,
}

/// The AEAD tag did not verify, or the engine refused the lengths. Nothing of the payload may be
/// used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the AEAD tag does not verify")]
pub struct Forged;

/// One key of one direction.
pub trait Aead: Send {
    /// Encrypts `payload` in place and writes the tag over it and `associated`.
    ///
    /// # Errors
    /// [`Forged`] when the engine refuses the lengths; then nothing may be sent.
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        payload: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Forged>;

    /// Verifies the tag at the end of `sealed` over the rest of it and `associated`, and decrypts
    /// the rest in place. The tag is compared in constant time before any plaintext counts.
    ///
    /// # Errors
    /// [`Forged`]; what `sealed` then holds is not to be used.
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Forged>;

    /// Asks the CPU for the key, which will be used soon.
    fn prefetch(&self) {}
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 4] = [Engine::Auto, Engine::Vaes, Engine::AwsLcRs, Engine::AesGcm];

    /// Whether this CPU has what the engine needs.
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Vaes => vaes::Form::best().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Engine::Vaes => false,
            _ => true,
        }
    }

    /// What `auto` stands for on this machine.
    pub fn resolve(self) -> Engine {
        match self {
            Engine::Auto if Engine::Vaes.available() => Engine::Vaes,
            Engine::Auto => Engine::AwsLcRs,
            chosen => chosen,
        }
    }

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::Vaes => "vaes",
            Engine::AwsLcRs => "aws-lc-rs",
            Engine::AesGcm => "aes-gcm",
        }
    }

    /// A key of this engine. `key` is used up to [`Cipher::key_len`].
    ///
    /// # Errors
    /// [`Forged`] when the engine is not [`Engine::available`], or the library refuses the key,
    /// which a key of the right length never is.
    pub fn key(self, cipher: Cipher, key: &[u8; 32]) -> Result<Box<dyn Aead>, Forged> {
        let bytes = &key[..cipher.key_len()];
        match (self.resolve(), cipher) {
            #[cfg(target_arch = "x86_64")]
            (Engine::Vaes, Cipher::Aes256Gcm | Cipher::Aes128Gcm) => vaes::Form::best()
                .and_then(|form| form.key(cipher, key))
                .ok_or(Forged),
            #[cfg(not(target_arch = "x86_64"))]
            (Engine::Vaes, _) => Err(Forged),
            (Engine::AesGcm, _) => libraries::portable(cipher, bytes),
            _ => libraries::aws_lc(cipher, bytes),
        }
    }
}

#[cfg(test)]
mod tests;
