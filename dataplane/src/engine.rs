//! AEAD engines: the libraries that seal and open, behind one trait.
//!
//! Every engine computes the same function; the tests hold them against each other. `aws-lc-rs` is
//! the fast one, `aes-gcm` (with `aes-gcm-siv`) the portable one.

use crate::keys::Cipher;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead as aws;
use wire::limits::TAG_LEN;

/// Bytes of a nonce, for every cipher here.
pub const NONCE_LEN: usize = 12;

/// Which library does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The fastest on this CPU.
    #[default]
    Auto,
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
    /// What `auto` stands for on this machine.
    pub fn resolve(self) -> Engine {
        match self {
            Engine::Auto => Engine::AwsLcRs,
            chosen => chosen,
        }
    }

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::AwsLcRs => "aws-lc-rs",
            Engine::AesGcm => "aes-gcm",
        }
    }

    /// A key of this engine. `key` is used up to [`Cipher::key_len`].
    ///
    /// # Errors
    /// [`Forged`] when the library refuses the key, which a key of the right length never is.
    pub fn key(self, cipher: Cipher, key: &[u8; 32]) -> Result<Box<dyn Aead>, Forged> {
        let key = &key[..cipher.key_len()];
        Ok(match (self.resolve(), cipher) {
            (Engine::AesGcm, Cipher::Aes256Gcm) => Box::new(Portable(
                aes_gcm::Aes256Gcm::new_from_slice(key).map_err(|_| Forged)?,
            )),
            (Engine::AesGcm, Cipher::Aes128Gcm) => Box::new(Portable(
                aes_gcm::Aes128Gcm::new_from_slice(key).map_err(|_| Forged)?,
            )),
            (Engine::AesGcm, Cipher::Aes256GcmSiv) => Box::new(Portable(
                aes_gcm_siv::Aes256GcmSiv::new_from_slice(key).map_err(|_| Forged)?,
            )),
            (_, cipher) => {
                let algorithm = match cipher {
                    Cipher::Aes256Gcm => &aws::AES_256_GCM,
                    Cipher::Aes128Gcm => &aws::AES_128_GCM,
                    Cipher::Aes256GcmSiv => &aws::AES_256_GCM_SIV,
                };
                let key = aws::UnboundKey::new(algorithm, key).map_err(|_| Forged)?;
                Box::new(AwsLc(aws::LessSafeKey::new(key)))
            }
        })
    }
}

struct AwsLc(aws::LessSafeKey);

impl Aead for AwsLc {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        payload: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Forged> {
        let nonce = aws::Nonce::assume_unique_for_key(*nonce);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, aws::Aad::from(associated), payload)
            .map_err(|_| Forged)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Forged> {
        let nonce = aws::Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place(nonce, aws::Aad::from(associated), sealed)
            .map(|_| ())
            .map_err(|_| Forged)
    }
}

struct Portable<A>(A);

impl<A> Aead for Portable<A>
where
    A: AeadInOut + Send,
{
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        payload: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Forged> {
        let nonce = nonce.as_slice().try_into().map_err(|_| Forged)?;
        let sealed = self
            .0
            .encrypt_inout_detached(nonce, associated, payload.into())
            .map_err(|_| Forged)?;
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), Forged> {
        let nonce = nonce.as_slice().try_into().map_err(|_| Forged)?;
        let (payload, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(Forged)?;
        let tag = tag.as_slice().try_into().map_err(|_| Forged)?;
        self.0
            .decrypt_inout_detached(nonce, associated, payload.into(), tag)
            .map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENGINES: [Engine; 2] = [Engine::AwsLcRs, Engine::AesGcm];

    proptest! {
        #[test]
        fn every_engine_seals_to_the_same_bytes_and_opens_what_the_others_sealed(
            key: [u8; 32], nonce: [u8; 12],
            associated in prop::collection::vec(any::<u8>(), 0..64),
            payload in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            for cipher in Cipher::ALL {
                let mut results = Vec::new();
                for engine in ENGINES {
                    let mut sealed = payload.clone();
                    let mut tag = [0; TAG_LEN];
                    engine.key(cipher, &key).unwrap().seal(&nonce, &associated, &mut sealed, &mut tag).unwrap();
                    sealed.extend_from_slice(&tag);
                    results.push(sealed);
                }
                prop_assert_eq!(&results[0], &results[1]);
                for engine in ENGINES {
                    let mut opened = results[0].clone();
                    engine.key(cipher, &key).unwrap().open(&nonce, &associated, &mut opened).unwrap();
                    prop_assert_eq!(&opened[..payload.len()], &payload[..]);
                }
            }
        }

        #[test]
        fn no_engine_opens_a_frame_with_any_bit_flipped(
            key: [u8; 32], nonce: [u8; 12], payload in prop::collection::vec(any::<u8>(), 0..300),
            at: prop::sample::Index, bit in 0u8..8, in_associated: bool,
        ) {
            for (cipher, engine) in Cipher::ALL.into_iter().flat_map(|c| ENGINES.map(|e| (c, e))) {
                let aead = engine.key(cipher, &key).unwrap();
                let mut associated = [7u8; 24];
                let mut sealed = payload.clone();
                let mut tag = [0; TAG_LEN];
                aead.seal(&nonce, &associated, &mut sealed, &mut tag).unwrap();
                sealed.extend_from_slice(&tag);
                let target = if in_associated { &mut associated[..] } else { &mut sealed[..] };
                let at = at.index(target.len());
                target[at] ^= 1 << bit;
                prop_assert_eq!(aead.open(&nonce, &associated, &mut sealed), Err(Forged));
            }
        }
    }

    /// Test case 14 of the GCM specification (McGrew and Viega): zero key, zero nonce, one zero block.
    #[test]
    fn every_engine_gives_the_published_gcm_vector() {
        for engine in ENGINES {
            let aead = engine.key(Cipher::Aes256Gcm, &[0; 32]).unwrap();
            let (mut block, mut tag) = ([0u8; 16], [0; TAG_LEN]);
            aead.seal(&[0; 12], &[], &mut block, &mut tag).unwrap();
            assert_eq!(
                u128::from_be_bytes(block),
                0xcea7403d4d606b6e074ec5d3baf39d18
            );
            assert_eq!(u128::from_be_bytes(tag), 0xd0d1c8a799996bf0265b98b5d48ab919);
        }
    }

    #[test]
    fn a_frame_too_short_for_a_tag_is_forged_and_does_not_panic() {
        for (cipher, engine) in Cipher::ALL
            .into_iter()
            .flat_map(|c| ENGINES.map(|e| (c, e)))
        {
            let aead = engine.key(cipher, &[1; 32]).unwrap();
            assert_eq!(aead.open(&[0; 12], &[], &mut [0; 15]), Err(Forged));
        }
    }
}
