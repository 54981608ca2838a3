//! What is derived from a Workstation's PSK, and the Noise prologues (docs/protocol.md, "Keys").

use dataplane::keys::admission_words;
use zeroize::{Zeroize, Zeroizing};

/// The admission keys of handshake frames, as SipHash's words. Zeroised when dropped.
#[derive(Clone, Zeroize, zeroize::ZeroizeOnDrop)]
pub struct KnockKeys {
    /// Hello and Initiation.
    pub w2g: [u64; 2],
    /// Challenge, Response and Reset.
    pub g2w: [u64; 2],
}

/// Derives the admission keys of handshake frames.
pub fn knock_keys(psk: &[u8; 32]) -> KnockKeys {
    let words = |context: &str| {
        let key = Zeroizing::new(blake3::derive_key(context, psk));
        admission_words(&key)
    };
    KnockKeys {
        w2g: words("portcullis 1 knock w2g"),
        g2w: words("portcullis 1 knock g2w"),
    }
}

/// Derives the PSK that Noise is given.
pub fn noise_psk(psk: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key("portcullis 1 noise psk", psk))
}

/// The prologue of a handshake that begins with a Hello: binds it to the Initiation's header
/// (version, type, length, key id, nonce) and to the Challenge it answers.
pub fn hello_prologue(header: &[u8; 16], challenge: &[u8; 32]) -> Vec<u8> {
    [b"portcullis 1 hello".as_slice(), header, challenge].concat()
}

/// The prologue of a rekey: binds it to the session that carries it.
pub fn rekey_prologue(key_id: u32, nonce: u64, carrier_hash: &[u8; 32]) -> Vec<u8> {
    [
        b"portcullis 1 rekey".as_slice(),
        &key_id.to_le_bytes(),
        &nonce.to_le_bytes(),
        carrier_hash,
    ]
    .concat()
}
