//! `Noise_IKpsk2_25519_AESGCM_BLAKE2s`, by the `snow` crate, so wrapped that its keys can only be
//! had once the handshake is finished and that a Gateway never answers a key it has not enrolled.

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_BLAKE2s";
/// Where IKpsk2 has its PSK.
const PSK_AT: u8 = 2;
/// Bytes of a message that are not payload: an ephemeral key and a tag.
const PLAIN: usize = 32 + 16;
/// Bytes of message 1 that are not payload: also the encrypted static key.
const FIRST: usize = PLAIN + 48;

/// Why a handshake step failed. What exactly did not fit is not told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoiseError {
    /// The message does not open: other keys, another PSK, another prologue, or it was altered.
    #[error(
        "the Noise message does not open; the two sides have different keys, or it was altered"
    )]
    DoesNotOpen,
    /// The initiator proved another static key than the one enrolled.
    #[error("the initiator's static key is not the one enrolled for its key id")]
    WrongStatic,
    /// The Noise library refused to go on.
    #[error("the Noise state machine refused a step")]
    State,
}

/// What a finished handshake leaves: both halves of the split and the handshake hash.
pub struct Split {
    /// Workstation (initiator) to Gateway.
    pub w2g: Zeroizing<[u8; 32]>,
    /// Gateway to Workstation.
    pub g2w: Zeroizing<[u8; 32]>,
    /// The handshake hash, which binds a later rekey to this session.
    pub hash: [u8; 32],
}

/// The keys one side brings into a handshake.
#[derive(Clone, Copy)]
pub struct Secrets<'a> {
    /// This side's static private key.
    pub static_private: &'a [u8; 32],
    /// The static public key that the other side must have.
    pub peer_public: &'a [u8; 32],
    /// The PSK for Noise ([`super::kdf::noise_psk`]).
    pub psk: &'a [u8; 32],
}

/// The primitives of `snow`, with the ephemeral key given from outside.
struct Resolver {
    ephemeral: Zeroizing<[u8; 32]>,
}

/// Gives one ephemeral key, once.
struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if dest.len() == bytes.len() => {
                dest.copy_from_slice(bytes.as_ref());
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let dh = DefaultResolver.resolve_dh(choice)?;
        #[cfg(feature = "model")]
        let dh = super::model::remembering(dh);
        Some(Box::new(WipedDh(dh)))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let cipher = DefaultResolver.resolve_cipher(choice)?;
        Some(Box::new(WipedCipher(cipher)))
    }
}

/// Private keys that are overwritten when the handshake is dropped, which `snow` does not do.
struct WipedDh(Box<dyn Dh>);

impl Drop for WipedDh {
    fn drop(&mut self) {
        self.0.set(&[0; 32]);
    }
}

impl Dh for WipedDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.dh(pubkey, out)
    }
}

/// A cipher whose key is overwritten when the handshake is dropped.
struct WipedCipher(Box<dyn Cipher>);

impl Drop for WipedCipher {
    fn drop(&mut self) {
        self.0.set(&[0; 32]);
    }
}

impl Cipher for WipedCipher {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0.set(key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        self.0.encrypt(nonce, authtext, plaintext, out)
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        self.0.decrypt(nonce, authtext, ciphertext, out)
    }
}

/// A handshake's state, in one place in memory. Its chaining key cannot be reached to be wiped: the
/// state is dropped at once, and the process is not dumpable.
struct State(Box<HandshakeState>);

impl Drop for State {
    fn drop(&mut self) {
        // An error would mean that there is no PSK to wipe.
        let _ = self.0.set_psk(usize::from(PSK_AT), &[0; 32]);
    }
}

fn parameters() -> Result<NoiseParams, NoiseError> {
    PATTERN.parse().map_err(|_| NoiseError::State)
}

fn builder<'a>(
    secrets: Secrets<'a>,
    prologue: &'a [u8],
    ephemeral: [u8; 32],
) -> Result<Builder<'a>, NoiseError> {
    let resolver = Resolver {
        ephemeral: Zeroizing::new(ephemeral),
    };
    Builder::with_resolver(parameters()?, Box::new(resolver))
        .local_private_key(secrets.static_private)
        .and_then(|builder| builder.psk(PSK_AT, secrets.psk))
        .and_then(|builder| builder.prologue(prologue))
        .map_err(|_| NoiseError::State)
}

/// The split, only of a finished handshake: before that `snow` would give keys that anybody who saw
/// the messages can compute.
fn split(state: &mut HandshakeState) -> Result<Split, NoiseError> {
    if !state.is_handshake_finished() {
        return Err(NoiseError::State);
    }
    let hash = state
        .get_handshake_hash()
        .try_into()
        .map_err(|_| NoiseError::State)?;
    let (w2g, g2w) = state.dangerously_get_raw_split();
    Ok(Split {
        w2g: Zeroizing::new(w2g),
        g2w: Zeroizing::new(g2w),
        hash,
    })
}

/// The Workstation's half of a handshake, waiting for message 2.
pub struct Initiator {
    state: State,
}

impl Initiator {
    /// Writes message 1.
    ///
    /// # Errors
    /// [`NoiseError::State`] when the library refuses.
    pub fn start(
        secrets: Secrets<'_>,
        prologue: &[u8],
        ephemeral: [u8; 32],
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(secrets, prologue, ephemeral)?
            .remote_public_key(secrets.peer_public)
            .and_then(Builder::build_initiator)
            .map(|state| State(Box::new(state)))
            .map_err(|_| NoiseError::State)?;
        let mut message = vec![0; FIRST + payload.len()];
        let written = state
            .0
            .write_message(payload, &mut message)
            .map_err(|_| NoiseError::State)?;
        message.truncate(written);
        Ok((Self { state }, message))
    }

    /// Opens message 2. When it does not open nothing has changed, and the genuine one still will.
    ///
    /// # Errors
    /// [`NoiseError::DoesNotOpen`].
    pub fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Split), NoiseError> {
        let mut payload = vec![0; message.len()];
        let read = self
            .state
            .0
            .read_message(message, &mut payload)
            .map_err(|_| NoiseError::DoesNotOpen)?;
        payload.truncate(read);
        Ok((payload, split(&mut self.state.0)?))
    }
}

/// The Gateway's half of a handshake, with message 1 opened and its sender's static key checked.
pub struct Responder {
    state: State,
}

impl Responder {
    /// Opens message 1 and compares the static key in it with the enrolled one.
    ///
    /// # Errors
    /// [`NoiseError::DoesNotOpen`] or [`NoiseError::WrongStatic`].
    pub fn read(
        secrets: Secrets<'_>,
        prologue: &[u8],
        ephemeral: [u8; 32],
        message: &[u8],
    ) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(secrets, prologue, ephemeral)?
            .build_responder()
            .map(|state| State(Box::new(state)))
            .map_err(|_| NoiseError::State)?;
        let mut payload = vec![0; message.len()];
        let read = state
            .0
            .read_message(message, &mut payload)
            .map_err(|_| NoiseError::DoesNotOpen)?;
        payload.truncate(read);
        // The PSK is proven by message 2 only, so this is what stands before it. Asked only after
        // message 1 opened: before, the library would answer with unauthenticated bytes.
        let proven = state.0.get_remote_static().ok_or(NoiseError::State)?;
        if !bool::from(proven.ct_eq(secrets.peer_public.as_slice())) {
            return Err(NoiseError::WrongStatic);
        }
        Ok((Self { state }, payload))
    }

    /// Writes message 2.
    ///
    /// # Errors
    /// [`NoiseError::State`] when the library refuses.
    pub fn answer(mut self, payload: &[u8]) -> Result<(Vec<u8>, Split), NoiseError> {
        let mut message = vec![0; PLAIN + payload.len()];
        let written = self
            .state
            .0
            .write_message(payload, &mut message)
            .map_err(|_| NoiseError::State)?;
        message.truncate(written);
        let split = split(&mut self.state.0)?;
        Ok((message, split))
    }
}

/// The public key of an X25519 private key.
pub fn public_key(private: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    if let Some(dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
        #[cfg(feature = "model")]
        let dh = super::model::remembering(dh);
        let mut dh = dh;
        dh.set(private);
        out.copy_from_slice(dh.pubkey());
        dh.set(&[0; 32]);
    }
    out
}

/// Whether a public key may be enrolled: not zero and not of low order, either of which would make
/// every shared secret zero.
pub fn is_usable(public: &[u8; 32]) -> bool {
    let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) else {
        return false;
    };
    // Any scalar does: clamping makes it a multiple of eight.
    dh.set(&[0x42; 32]);
    let mut shared = [0; 32];
    dh.dh(public, &mut shared).is_ok() && shared != [0; 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_keys_are_given_before_the_handshake_is_finished() {
        let (station, gateway) = ([0x21; 32], [0x11; 32]);
        let (station_public, gateway_public) = (public_key(&station), public_key(&gateway));
        let ours = Secrets {
            static_private: &station,
            peer_public: &gateway_public,
            psk: &[7; 32],
        };
        let theirs = Secrets {
            static_private: &gateway,
            peer_public: &station_public,
            psk: &[7; 32],
        };
        let (mut initiator, first) = Initiator::start(ours, b"p", [1; 32], &[0; 32]).unwrap();
        assert_eq!(split(&mut initiator.state.0).err(), Some(NoiseError::State));
        let (mut responder, _) = Responder::read(theirs, b"p", [2; 32], &first).unwrap();
        assert_eq!(split(&mut responder.state.0).err(), Some(NoiseError::State));
        let (second, _) = responder.answer(&[0; 80]).unwrap();
        assert!(initiator.finish(&second[..100]).is_err());
        assert_eq!(split(&mut initiator.state.0).err(), Some(NoiseError::State));
    }

    #[test]
    fn another_static_key_is_refused_before_anything_is_answered() {
        let (station, gateway) = ([0x21; 32], [0x11; 32]);
        let gateway_public = public_key(&gateway);
        let ours = Secrets {
            static_private: &station,
            peer_public: &gateway_public,
            psk: &[7; 32],
        };
        let (_, first) = Initiator::start(ours, b"p", [1; 32], &[0; 32]).unwrap();
        let theirs = Secrets {
            static_private: &gateway,
            peer_public: &public_key(&[0x22; 32]),
            psk: &[7; 32],
        };
        assert_eq!(
            Responder::read(theirs, b"p", [2; 32], &first).err(),
            Some(NoiseError::WrongStatic)
        );
        let mut altered = first.clone();
        altered[60] ^= 1;
        assert_eq!(
            Responder::read(theirs, b"p", [2; 32], &altered).err(),
            Some(NoiseError::DoesNotOpen)
        );
    }
}
