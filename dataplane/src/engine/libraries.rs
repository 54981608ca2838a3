//! The two libraries: `aws-lc-rs`, fast everywhere, and `aes-gcm` with `aes-gcm-siv`, portable.

use super::{Aead, Forged, NONCE_LEN};
use crate::keys::Cipher;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead as aws;
use wire::limits::TAG_LEN;

/// A key of `aws-lc-rs`, of the cipher's length.
pub(super) fn aws_lc(cipher: Cipher, key: &[u8]) -> Result<Box<dyn Aead>, Forged> {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &aws::AES_256_GCM,
        Cipher::Aes128Gcm => &aws::AES_128_GCM,
        Cipher::Aes256GcmSiv => &aws::AES_256_GCM_SIV,
    };
    let key = aws::UnboundKey::new(algorithm, key).map_err(|_| Forged)?;
    Ok(Box::new(AwsLc(aws::LessSafeKey::new(key))))
}

/// A key of `aes-gcm` or `aes-gcm-siv`, of the cipher's length.
pub(super) fn portable(cipher: Cipher, key: &[u8]) -> Result<Box<dyn Aead>, Forged> {
    Ok(match cipher {
        Cipher::Aes256Gcm => boxed::<aes_gcm::Aes256Gcm>(key)?,
        Cipher::Aes128Gcm => boxed::<aes_gcm::Aes128Gcm>(key)?,
        Cipher::Aes256GcmSiv => boxed::<aes_gcm_siv::Aes256GcmSiv>(key)?,
    })
}

fn boxed<A: KeyInit + AeadInOut + Send + 'static>(key: &[u8]) -> Result<Box<dyn Aead>, Forged> {
    A::new_from_slice(key)
        .map(|key| Box::new(Portable(key)) as Box<dyn Aead>)
        .map_err(|_| Forged)
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
