//! Session keys: what a finished handshake gives to the dataplane, and how it is derived.

use wire::Role;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// An AEAD cipher. The discriminant is its code on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 1,
    /// AES-128-GCM.
    Aes128Gcm = 2,
    /// AES-256-GCM-SIV (RFC 8452), where a rollback to a snapshot cannot be excluded.
    Aes256GcmSiv = 3,
}

/// What the AEAD does with a payload. The discriminant is its code on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protection {
    /// Encrypts and authenticates.
    Encrypt = 1,
    /// Authenticates only: header and payload are associated data.
    Authenticate = 2,
}

impl Cipher {
    /// All ciphers, the default first.
    pub const ALL: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::Aes256GcmSiv];

    /// The cipher of a code; `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| *cipher as u8 == code)
    }

    /// Its bit in the cipher offers of Noise payload 1.
    pub fn offer(self) -> u8 {
        1 << (self as u8 - 1)
    }

    /// Bytes of its key.
    pub fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::Aes256GcmSiv => 32,
        }
    }

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes256Gcm => "aes-256-gcm",
            Cipher::Aes128Gcm => "aes-128-gcm",
            Cipher::Aes256GcmSiv => "aes-256-gcm-siv",
        }
    }
}

impl Protection {
    /// The protection of a code; `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<Self> {
        [Protection::Encrypt, Protection::Authenticate]
            .into_iter()
            .find(|protection| *protection as u8 == code)
    }

    /// Its bit in the protection offers of Noise payload 1.
    pub fn offer(self) -> u8 {
        1 << (self as u8 - 1)
    }

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Protection::Encrypt => "encrypt",
            Protection::Authenticate => "authenticate",
        }
    }
}

/// The keys of one direction. Zeroised when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DirectionKeys {
    /// The AEAD key; the first [`Cipher::key_len`] bytes are used.
    pub aead: [u8; 32],
    /// What the counter is mixed into to make the nonce.
    pub iv: [u8; 12],
    /// The admission key, as SipHash's two words.
    pub admission: [u64; 2],
}

/// All keys of a session as one end has them. Zeroised when dropped.
#[derive(Clone)]
pub struct SessionKeys {
    /// The cipher agreed on.
    pub cipher: Cipher,
    /// The protection agreed on.
    pub protection: Protection,
    /// For frames this end seals.
    pub send: DirectionKeys,
    /// For frames this end opens.
    pub receive: DirectionKeys,
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SessionKeys({}, {})",
            self.cipher.name(),
            self.protection.name()
        )
    }
}

impl DirectionKeys {
    /// Derives a direction's keys from its half of the Noise split (docs/protocol.md, "Keys").
    pub fn derive(split: &[u8; 32], cipher: Cipher, protection: Protection) -> Self {
        let mut material = [0u8; 40];
        material[..32].copy_from_slice(split);
        material[32] = cipher as u8;
        material[33] = protection as u8;
        let mut aead = blake3::derive_key("portcullis 1 aead", &material);
        aead[cipher.key_len()..].fill(0);
        let mut iv = blake3::derive_key("portcullis 1 iv", &material);
        let mut admission = blake3::derive_key("portcullis 1 admission", &material);
        let keys = Self {
            aead,
            iv: iv[..12].try_into().unwrap_or_default(),
            admission: admission_words(&admission),
        };
        for secret in [&mut aead, &mut iv, &mut admission] {
            secret.zeroize();
        }
        material.zeroize();
        keys
    }
}

impl SessionKeys {
    /// Derives both directions. `w2g` and `g2w` are the halves of the Noise split: Workstation to
    /// Gateway (the initiator's sending half) and back.
    pub fn derive(
        role: Role,
        w2g: &[u8; 32],
        g2w: &[u8; 32],
        cipher: Cipher,
        protection: Protection,
    ) -> Self {
        let up = DirectionKeys::derive(w2g, cipher, protection);
        let down = DirectionKeys::derive(g2w, cipher, protection);
        let (send, receive) = match role {
            Role::Workstation => (up, down),
            Role::Gateway => (down, up),
        };
        Self {
            cipher,
            protection,
            send,
            receive,
        }
    }
}

/// The first 16 bytes of a derived key as SipHash's two little-endian words.
pub fn admission_words(key: &[u8; 32]) -> [u64; 2] {
    let word = |at: usize| u64::from_le_bytes(key[at..at + 8].try_into().unwrap_or_default());
    [word(0), word(8)]
}
