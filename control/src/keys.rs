//! Static keys: what tells the Gateway and each Workstation apart for years. Session keys, which
//! live for two minutes, are the dataplane's.
//!
//! Secrets are wiped when dropped, compared in constant time, and have no `Display` and no
//! `Serialize`: they get into a file only through [`PrivateKey::to_text`] and [`Psk::to_text`].

use crate::problem::{Kind, Problem};
use crate::{entropy, files};
use base64ct::{Base64, Encoding};
use curve25519_dalek::montgomery::MontgomeryPoint;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of 32 bytes.
    #[error("this is not a key: 44 characters of base64, which stand for 32 bytes, are wanted")]
    NotAKey,
    /// All zeros.
    #[error("this key is all zeros")]
    Zero,
    /// A point of small order: every shared secret with it would be zero.
    #[error("this public key is of low order, so anybody could compute what is agreed with it")]
    LowOrder,
    /// Not eight hexadecimal digits, or all of them zero.
    #[error("this is not a key id: eight hexadecimal digits, not all zero, are wanted")]
    NotAKeyId,
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    // 33 bytes: what 44 characters without padding stand for.
    let mut room = Zeroizing::new([0; 33]);
    let bytes = Base64::decode(text.trim(), &mut *room).map_err(|_| KeyError::NotAKey)?;
    let key: [u8; 32] = bytes.try_into().map_err(|_| KeyError::NotAKey)?;
    Ok(Zeroizing::new(key))
}

/// An X25519 public key that is neither zero nor of low order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes a public key.
    ///
    /// # Errors
    /// It is zero or of low order.
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if bytes == [0; 32] {
            return Err(KeyError::Zero);
        }
        // A clamped scalar is a multiple of the cofactor: it takes the points of small order, and
        // only those (on the curve and on its twist), to zero.
        if MontgomeryPoint(bytes).mul_clamped([0x55; 32]).to_bytes() == [0; 32] {
            return Err(KeyError::LowOrder);
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(*decode(text)?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An X25519 private key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// The kernel's generator did not answer.
    pub fn generate() -> Result<Self, Problem> {
        entropy::seed().map(Self)
    }

    /// Takes a private key.
    ///
    /// # Errors
    /// It is zero.
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match bytes == [0; 32] {
            true => Err(KeyError::Zero),
            false => Ok(Self(bytes)),
        }
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As text, for the file it is kept in.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&self.0))
    }

    /// Reads it from a file made by [`PrivateKey::create`].
    ///
    /// # Errors
    /// The file is missing or not safe, or does not hold a key.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = files::read_secret(path)?;
        text.parse().map_err(|error: KeyError| {
            Problem::new(
                Kind::Invalid,
                format!("reading the key in {}", path.display()),
                error,
                "put the file back from a copy; with a new key every Workstation must be enrolled again",
            )
        })
    }

    /// Makes a new one and the file that holds it.
    ///
    /// # Errors
    /// The file is there already, or what the system answered.
    pub fn create(path: &Path) -> Result<Self, Problem> {
        if path.symlink_metadata().is_ok() {
            return Err(Problem::new(
                Kind::Conflict,
                format!("making the key {}", path.display()),
                "there is one already",
                "keep it: with a new key every Workstation must be enrolled again",
            ));
        }
        let key = Self::generate()?;
        let mut text = key.to_text();
        text.push('\n');
        files::write_secret(path, &text)?;
        Ok(key)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(*decode(text)?)
    }
}

/// A key that Gateway and Workstation share from enrolment on.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; 32]);

impl Psk {
    /// A new one.
    ///
    /// # Errors
    /// The kernel's generator did not answer.
    pub fn generate() -> Result<Self, Problem> {
        entropy::seed().map(Self)
    }

    /// Takes a PSK.
    ///
    /// # Errors
    /// It is zero.
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match bytes == [0; 32] {
            true => Err(KeyError::Zero),
            false => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As text, for the file it is kept in.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&self.0))
    }
}

impl PartialEq for Psk {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Psk {}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(secret)")
    }
}

impl FromStr for Psk {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(*decode(text)?)
    }
}

/// What a Workstation's handshakes carry in clear to say whose they are. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(NonZeroU32);

impl KeyId {
    /// Takes a number; `None` for zero.
    pub fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }

    /// A random one.
    ///
    /// # Errors
    /// The kernel's generator did not answer.
    pub fn generate() -> Result<Self, Problem> {
        loop {
            let mut bytes = [0; 4];
            entropy::fill(&mut bytes)?;
            if let Some(id) = Self::new(u32::from_le_bytes(bytes)) {
                return Ok(id);
            }
        }
    }

    /// The number on the wire.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(KeyError::NotAKeyId);
        }
        let id = u32::from_str_radix(text, 16).map_err(|_| KeyError::NotAKeyId)?;
        Self::new(id).ok_or(KeyError::NotAKeyId)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Deserialises from text without ever quoting it in an error.
macro_rules! deserialize_from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Zeroizing::new(String::deserialize(deserializer)?);
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

deserialize_from_text!(PublicKey, PrivateKey, Psk, KeyId);

#[cfg(test)]
mod tests {
    use super::*;

    /// The u coordinates of small order, as listed in RFC 7748's security considerations and by
    /// Bernstein ("May the Fourth"), with their non-canonical forms.
    const LOW_ORDER: [&str; 7] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];

    fn bytes(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn zero_and_low_order_public_keys_are_refused() {
        assert_eq!(PublicKey::new([0; 32]), Err(KeyError::Zero));
        for point in LOW_ORDER {
            assert_eq!(PublicKey::new(bytes(point)), Err(KeyError::LowOrder));
        }
        let mut zero_with_high_bit = [0; 32];
        zero_with_high_bit[31] = 0x80;
        assert!(PublicKey::new(zero_with_high_bit).is_err());
    }

    #[test]
    fn a_public_key_is_the_one_of_rfc_7748() {
        // Section 5.2: the first iteration takes the scalar 9 and the base point.
        let mut nine = [0; 32];
        nine[0] = 9;
        assert_eq!(
            hex::encode(PrivateKey::new(nine).unwrap().public().as_bytes()),
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
        );
    }

    #[test]
    fn keys_survive_being_text() {
        let private = PrivateKey::generate().unwrap();
        assert_eq!(private.to_text().parse::<PrivateKey>().unwrap(), private);
        let public = private.public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        let psk = Psk::generate().unwrap();
        assert_eq!(psk.to_text().parse::<Psk>().unwrap(), psk);
        let id = KeyId::generate().unwrap();
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        assert_eq!(KeyId::new(0x2a).unwrap().to_string(), "0000002a");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(zero.parse::<Psk>(), Err(KeyError::Zero));
        assert_eq!(zero.parse::<PrivateKey>(), Err(KeyError::Zero));
        assert_eq!(zero.parse::<PublicKey>(), Err(KeyError::Zero));
        for text in ["", "x", "AAAA", &zero[..43], &format!("{zero}A"), "ä"] {
            assert_eq!(text.parse::<Psk>(), Err(KeyError::NotAKey), "{text}");
        }
        for text in ["", "0", "00000000", "+0000001", "123456789", "0000000g"] {
            assert_eq!(text.parse::<KeyId>(), Err(KeyError::NotAKeyId), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let private = PrivateKey::new([0x41; 32]).unwrap();
        let psk = Psk::new([0x41; 32]).unwrap();
        assert_eq!(
            format!("{private:?} {psk:?}"),
            "PrivateKey(secret) Psk(secret)"
        );
    }

    #[test]
    fn a_key_file_is_made_once_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.key");
        let made = PrivateKey::create(&path).unwrap();
        assert_eq!(PrivateKey::load(&path).unwrap(), made);
        assert_eq!(PrivateKey::create(&path).unwrap_err().kind, Kind::Conflict);
        files::write_secret(&path, "AAAA").unwrap();
        let problem = PrivateKey::load(&path).unwrap_err();
        assert!(problem.happened.contains("not a key"), "{problem}");
        assert!(problem.remedy.contains("enrolled again"));
    }
}
