//! What the model check (`tests/handshake_model.rs`) needs of the real machines: flaws that can be
//! planted in them, and Diffie-Hellman results that are remembered, because a model checker, and a
//! fuzzer, computes the same ones a million times.
//!
//! Both exist only under the feature `model`, which cannot be built without debug assertions: in
//! every program [`planted`] is the constant false.

/// A check left out, or a step taken too early. The model check must find each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The Gateway answers an Initiation whatever its cookie and boot id.
    AnyCookie,
    /// The Gateway answers an Initiation again.
    AnswersAgain,
    /// The Gateway drops the session in use when it answers, not when the new one is proven.
    ReplacesUnproven,
    /// The Workstation drops its session on a Reset.
    BelievesResets,
    /// The Workstation uses a session that is not proven.
    UsesUnproven,
    /// The Workstation waits for a Response for ever.
    WaitsForEver,
    /// Random values repeat.
    Repeats,
    /// The session before the current one is erased at once.
    ForgetsPrevious,
    /// The Workstation gives up its session when a rekey is not answered.
    GivesUpOnRekey,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 9] = [
        Flaw::AnyCookie,
        Flaw::AnswersAgain,
        Flaw::ReplacesUnproven,
        Flaw::BelievesResets,
        Flaw::UsesUnproven,
        Flaw::WaitsForEver,
        Flaw::Repeats,
        Flaw::ForgetsPrevious,
        Flaw::GivesUpOnRekey,
    ];
}

/// Whether a flaw is planted on this thread.
#[cfg(not(feature = "model"))]
#[inline(always)]
pub(super) const fn planted(_: Flaw) -> bool {
    false
}

#[cfg(feature = "model")]
pub use planting::plant;
#[cfg(feature = "model")]
pub(super) use planting::{planted, remembering};

#[cfg(feature = "model")]
mod planting {
    use super::Flaw;
    use snow::params::DHChoice;
    use snow::resolvers::{CryptoResolver, DefaultResolver};
    use snow::types::{Dh, Random};
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    #[cfg(not(debug_assertions))]
    compile_error!("the feature `model` can plant flaws: it is never part of a release build");

    /// Results kept at most.
    const REMEMBERED: usize = 100_000;

    type Results = HashMap<([u8; 32], [u8; 32]), [u8; 32]>;

    thread_local! {
        static PLANTED: Cell<Option<Flaw>> = const { Cell::new(None) };
        static RESULTS: RefCell<Results> = RefCell::default();
    }

    /// Plants a flaw on this thread, or removes it.
    pub fn plant(flaw: Option<Flaw>) {
        PLANTED.set(flaw);
    }

    pub(in crate::handshake) fn planted(flaw: Flaw) -> bool {
        PLANTED.get() == Some(flaw)
    }

    /// The same, remembering what it computed.
    pub(in crate::handshake) fn remembering(dh: Box<dyn Dh>) -> Box<dyn Dh> {
        Box::new(Remembering {
            dh,
            private: [0; 32],
            public: [0; 32],
        })
    }

    struct Remembering {
        dh: Box<dyn Dh>,
        private: [u8; 32],
        public: [u8; 32],
    }

    /// X25519's base point: a private key times this is its public key.
    const BASE: [u8; 32] = {
        let mut base = [0; 32];
        base[0] = 9;
        base
    };

    fn remembered(
        private: [u8; 32],
        public: [u8; 32],
        compute: impl FnOnce() -> Result<[u8; 32], snow::Error>,
    ) -> Result<[u8; 32], snow::Error> {
        if let Some(known) = RESULTS.with_borrow(|results| results.get(&(private, public)).copied())
        {
            return Ok(known);
        }
        let result = compute()?;
        RESULTS.with_borrow_mut(|results| {
            if results.len() >= REMEMBERED {
                results.clear();
            }
            results.insert((private, public), result);
        });
        Ok(result)
    }

    impl Dh for Remembering {
        fn name(&self) -> &'static str {
            self.dh.name()
        }

        fn pub_len(&self) -> usize {
            self.dh.pub_len()
        }

        fn priv_len(&self) -> usize {
            self.dh.priv_len()
        }

        fn set(&mut self, privkey: &[u8]) {
            self.private.copy_from_slice(privkey);
            let public = remembered(self.private, BASE, || {
                self.dh.set(privkey);
                let mut public = [0; 32];
                public.copy_from_slice(self.dh.pubkey());
                Ok(public)
            });
            self.public = public.unwrap_or_default();
        }

        fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
            let mut private = [0; 32];
            rng.try_fill_bytes(&mut private)?;
            self.set(&private);
            Ok(())
        }

        fn pubkey(&self) -> &[u8] {
            &self.public
        }

        fn privkey(&self) -> &[u8] {
            &self.private
        }

        fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
            let mut public = [0; 32];
            public.copy_from_slice(&pubkey[..32]);
            let shared = remembered(self.private, public, || {
                let mut dh = DefaultResolver
                    .resolve_dh(&DHChoice::Curve25519)
                    .ok_or(snow::Error::Dh)?;
                dh.set(&self.private);
                let mut shared = [0; 32];
                dh.dh(pubkey, &mut shared)?;
                Ok(shared)
            })?;
            out[..32].copy_from_slice(&shared);
            Ok(())
        }
    }
}
