//! The handshake under way at a Workstation: its states, and how one leads to the next.
//!
//! Every step that fails leaves the state as it was: a message that does not open, whoever sent it,
//! does not stand in the genuine one's way.

use super::{Failure, Workstation};
use crate::handshake::kdf::{hello_prologue, rekey_prologue};
use crate::handshake::message::{Answer, Challenge, Inner, Offer};
use crate::handshake::model::{Flaw, planted};
use crate::handshake::noise::{Initiator, Secrets, Split};
use crate::handshake::{Action, Install, Mac, Parameters, Path};
use dataplane::PortId;
use dataplane::keys::{Cipher, Protection, SessionKeys};
use std::time::Duration;
use wire::header::kind;
use wire::limits::{HELLO_LEN, INITIATION_LEN};
use wire::{Header, Role};

pub(super) const HELLO_FIRST: Duration = Duration::from_millis(250);
const HELLO_MOST: Duration = Duration::from_secs(5);
const INIT_LEAST: Duration = Duration::from_secs(1);
const INIT_MOST: Duration = Duration::from_secs(3);
/// After a Response that opens and is not acceptable: asking again at once would change nothing.
const REFUSED_WAIT: Duration = Duration::from_secs(4);
/// Responses of an attempt that do not open.
const FAILURES: u8 = 8;
pub(super) const REKEY_WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
pub(super) const PROVE_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Session {
    pub(super) index: u32,
    pub(super) hash: [u8; 32],
    pub(super) boot_id: [u8; 8],
    pub(super) gateway_mac: Mac,
    pub(super) installed: Duration,
    pub(super) rekey_at: Duration,
    pub(super) from_hello: bool,
    pub(super) cipher: Cipher,
    pub(super) protection: Protection,
    pub(super) parameters: Parameters,
}

pub(super) struct Hello {
    pub(super) nonce: u64,
    pub(super) interval: Duration,
    pub(super) next: Duration,
    pub(super) sent: Duration,
    pub(super) tries: u32,
}

pub(super) struct Init {
    pub(super) nonce: u64,
    pub(super) index: u32,
    pub(super) noise: Option<Initiator>,
    pub(super) timer: Duration,
    pub(super) failures: u8,
    pub(super) boot_id: [u8; 8],
    pub(super) gateway_mac: Mac,
}

pub(super) struct Rekey {
    pub(super) nonce: u64,
    pub(super) index: u32,
    pub(super) noise: Option<Initiator>,
    pub(super) timer: Duration,
    pub(super) tries: usize,
    pub(super) carrier: u32,
}

pub(super) struct Proving {
    pub(super) session: Session,
    pub(super) next: Duration,
    pub(super) pings: u8,
}

pub(super) enum Handshake {
    Stopped,
    Idle,
    Hello(Hello),
    Init(Box<Init>),
    Rekey(Box<Rekey>),
    Proving(Box<Proving>),
}

impl Workstation {
    /// Begins a handshake with a new nonce.
    pub(super) fn hello(&mut self, now: Duration) {
        self.abandon();
        let nonce = self.random.nonzero_u64();
        self.actions.push(Action::ExpectNonce(nonce));
        self.handshake = Handshake::Hello(Hello {
            nonce,
            interval: HELLO_FIRST,
            next: now,
            sent: now,
            tries: 0,
        });
        self.hello_again(now);
    }

    /// Sends the Hello under way, once more or for the first time.
    pub(super) fn hello_again(&mut self, now: Duration) {
        let Handshake::Hello(hello) = &mut self.handshake else {
            return;
        };
        if hello.tries > 0 {
            self.failures += u64::from(hello.tries == 1);
            self.last_failure = Some(Failure::NoChallenge);
        }
        hello.tries = hello.tries.saturating_add(1);
        hello.sent = now;
        // Jitter only shortens, so that a Gateway that comes back waits at most the longest interval.
        hello.next = now + hello.interval * 19 / 20 - self.random.up_to(hello.interval / 5);
        hello.interval = (hello.interval * 2).min(HELLO_MOST);
        let nonce = hello.nonce;
        self.send(self.gateway, kind::HELLO, nonce, &[0; HELLO_LEN]);
    }

    pub(super) fn offer(&self, index: u32) -> Offer {
        Offer {
            index,
            mtu: self.path.of(self.mtu),
            ciphers: self
                .ciphers
                .iter()
                .fold(0, |bits, cipher| bits | cipher.offer()),
            protections: self
                .protections
                .iter()
                .fold(0, |bits, protection| bits | protection.offer()),
            mac: self.mac,
            virtualised: self.virtualised,
        }
    }

    /// Takes an index and writes Noise message 1.
    pub(super) fn initiate(&mut self, prologue: &[u8]) -> Option<(u32, Initiator, Vec<u8>)> {
        let index = self.slots.take(&mut self.random)?;
        let payload = self.offer(index).encode();
        let ephemeral = self.random.bytes();
        match Initiator::start(self.secrets(), prologue, ephemeral, &payload) {
            Ok((noise, message)) => Some((index, noise, message)),
            Err(_) => {
                self.slots.give_back(index);
                None
            }
        }
    }

    pub(super) fn secrets(&self) -> Secrets<'_> {
        Secrets {
            static_private: &self.static_private,
            peer_public: &self.gateway_public,
            psk: &self.noise_psk,
        }
    }

    pub(super) fn challenge(
        &mut self,
        now: Duration,
        port: PortId,
        header: &Header,
        payload: &[u8],
    ) -> Option<()> {
        let Handshake::Hello(hello) = &self.handshake else {
            return None;
        };
        if header.counter != hello.nonce {
            return None;
        }
        let (nonce, rtt) = (hello.nonce, now.saturating_sub(hello.sent));
        let bytes = payload.try_into().ok()?;
        let challenge = Challenge::decode(bytes)?;
        let path = self.path_to(challenge.mac)?;
        let first =
            Header::new(kind::INITIATION, INITIATION_LEN as u16, self.key_id, nonce).encode();
        let mut head = [0; 16];
        head.copy_from_slice(&first[..16]);
        // Without a free slot the Hello is sent again in its time.
        let (index, noise, message) = self.initiate(&hello_prologue(&head, bytes))?;
        self.handshake = Handshake::Init(Box::new(Init {
            nonce,
            index,
            noise: Some(noise),
            timer: now + (rtt * 2).clamp(INIT_LEAST, INIT_MOST),
            failures: 0,
            boot_id: challenge.boot_id,
            gateway_mac: challenge.mac,
        }));
        let payload = [bytes.as_slice(), &message].concat();
        self.port = port;
        self.send(path, kind::INITIATION, nonce, &payload);
        Some(())
    }

    pub(super) fn response(
        &mut self,
        now: Duration,
        header: &Header,
        payload: &[u8],
    ) -> Option<()> {
        let Handshake::Init(init) = &mut self.handshake else {
            return None;
        };
        if header.counter != init.nonce {
            return None;
        }
        let Ok((answer, split)) = init.noise.as_mut()?.finish(payload) else {
            init.failures += 1;
            if init.failures >= FAILURES {
                self.failed(Failure::DoesNotOpen);
                self.hello(now);
            } else {
                self.last_failure = Some(Failure::DoesNotOpen);
            }
            return Some(());
        };
        let (index, boot_id, mac) = (init.index, init.boot_id, init.gateway_mac);
        match self.acceptable(&answer, boot_id, mac) {
            Some(answer) => self.install(now, index, &answer, &split, true),
            None => {
                self.last_failure = Some(Failure::Refused);
                if let Handshake::Init(init) = &mut self.handshake {
                    init.noise = None;
                    init.timer = now + REFUSED_WAIT;
                }
            }
        }
        Some(())
    }

    pub(super) fn rekey_response(
        &mut self,
        now: Duration,
        index: u32,
        nonce: u64,
        noise: &[u8],
    ) -> Option<()> {
        let Handshake::Rekey(rekey) = &mut self.handshake else {
            return None;
        };
        let cur = self.cur.as_ref().filter(|cur| cur.index == index)?;
        if rekey.nonce != nonce || rekey.carrier != index {
            return None;
        }
        let (answer, split) = rekey.noise.as_mut()?.finish(noise).ok()?;
        let new = rekey.index;
        let (boot_id, mac) = (cur.boot_id, cur.gateway_mac);
        match self.acceptable(&answer, boot_id, mac) {
            Some(answer) => self.install(now, new, &answer, &split, false),
            None => {
                self.last_failure = Some(Failure::Refused);
                if let Handshake::Rekey(rekey) = &mut self.handshake {
                    rekey.noise = None;
                }
            }
        }
        Some(())
    }

    /// The way to a Gateway that says it has this MAC address; `None` where it cannot have it.
    fn path_to(&self, mac: Mac) -> Option<Path> {
        match self.gateway {
            Path::Ether(_) => Some(Path::Ether(mac)).filter(Path::leads_to_station),
            udp => (mac == Mac::default()).then_some(udp),
        }
    }

    /// Reads Noise payload 2; `None` when it is malformed, contradicts what was said before, or is
    /// below what this Workstation accepts.
    pub(super) fn acceptable(&self, payload: &[u8], boot_id: [u8; 8], mac: Mac) -> Option<Answer> {
        Answer::decode(payload).filter(|answer| {
            answer.boot_id == boot_id
                && answer.mac == mac
                && self.ciphers.contains(&answer.cipher)
                && self.protections.contains(&answer.protection)
        })
    }

    pub(super) fn install(
        &mut self,
        now: Duration,
        index: u32,
        answer: &Answer,
        split: &Split,
        from_hello: bool,
    ) {
        let Some(path) = self.path_to(answer.mac) else {
            return;
        };
        let mut parameters = answer.parameters.clone();
        let offered = self.path.of(self.mtu);
        self.gateway_mtu = match parameters.mtu < offered {
            true => parameters.mtu,
            false if from_hello => u16::MAX,
            false => self.gateway_mtu,
        };
        parameters.mtu = parameters.mtu.min(offered);
        let session = Session {
            index,
            hash: split.hash,
            boot_id: answer.boot_id,
            gateway_mac: answer.mac,
            installed: now,
            rekey_at: now + Duration::from_nanos(self.lifetime.rekey_after())
                - self
                    .random
                    .up_to(Duration::from_nanos(self.lifetime.rekey_jitter())),
            from_hello,
            cipher: answer.cipher,
            protection: answer.protection,
            parameters: parameters.clone(),
        };
        if from_hello {
            self.actions.push(Action::ExpectNonce(0));
        }
        self.actions.push(Action::Install(Box::new(Install {
            workstation: 0,
            port: self.port,
            index,
            peer_index: answer.index,
            path,
            mtu: parameters.mtu,
            padding: answer.padding,
            keys: SessionKeys::derive(
                Role::Workstation,
                &split.w2g,
                &split.g2w,
                answer.cipher,
                answer.protection,
            ),
        })));
        self.actions.push(Action::Configure(Box::new(parameters)));
        self.handshake = Handshake::Proving(Box::new(Proving {
            session,
            next: now + PROVE_EVERY,
            pings: 1,
        }));
        let value = self.random.bytes();
        self.ping(Some(index), value);
        if planted(Flaw::UsesUnproven)
            && let Handshake::Proving(proving) =
                std::mem::replace(&mut self.handshake, Handshake::Idle)
        {
            self.promote(now, proving.session);
        }
    }

    /// Starts a rekey in the current session, or tries once more.
    pub(super) fn rekey(&mut self, now: Duration, tries: usize) {
        self.abandon();
        let Some(cur) = &self.cur else {
            return;
        };
        let carrier = cur.index;
        let hash = cur.hash;
        let nonce = self.random.nonzero_u64();
        let prologue = rekey_prologue(self.key_id, nonce, &hash);
        let Some((index, noise, message)) = self.initiate(&prologue) else {
            return self.hello(now);
        };
        let Ok(message) = message.try_into() else {
            self.slots.give_back(index);
            return self.hello(now);
        };
        self.handshake = Handshake::Rekey(Box::new(Rekey {
            nonce,
            index,
            noise: Some(noise),
            timer: now + REKEY_WAITS[tries.min(REKEY_WAITS.len() - 1)],
            tries: tries + 1,
            carrier,
        }));
        self.actions.push(Action::SendInner {
            workstation: 0,
            index: carrier,
            message: Inner::RekeyInit(nonce, message).encode(),
        });
    }

    /// Drops the handshake under way; a new session not yet proven is erased.
    pub(super) fn abandon(&mut self) {
        match std::mem::replace(&mut self.handshake, Handshake::Idle) {
            Handshake::Init(init) => {
                self.slots.give_back(init.index);
            }
            Handshake::Rekey(rekey) => {
                self.slots.give_back(rekey.index);
            }
            Handshake::Proving(proving) => self.erase(proving.session.index, true),
            Handshake::Hello(_) | Handshake::Idle | Handshake::Stopped => {}
        }
    }
}
