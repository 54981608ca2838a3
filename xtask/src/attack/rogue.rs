//! A compromised Workstation: whoever has read its enrolment, speaking the protocol over a raw socket
//! from any host of the LAN or of the Internet, and free to send what no agent would.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use control::enrolment::Enrolment;
use control::handshake::workstation::{Workstation, WorkstationConfig};
use control::handshake::{Action, Encapsulation, Install, Path, inner_mtu, kdf};
use dataplane::engine::{Aead, Engine};
use dataplane::keys::{Cipher, DirectionKeys, Protection};
use wire::kind::INITIATION;
use wire::limits::{BROADCAST, ETHERTYPE, HEADER_LEN, TAG_LEN};
use wire::{Header, kind};
use zeroize::Zeroizing;

use super::frame::{Mac, Noise, Outer, front_of, header_of};
use crate::rig::{Namespace, PacketSocket, check, mac_of};

/// The MTU of the cable.
const CABLE_MTU: u32 = 1500;

/// One direction of a session.
struct Half {
    /// Locked only so that several may seal; it has no state.
    aead: Mutex<Box<dyn Aead>>,
    keys: DirectionKeys,
}

impl Half {
    fn new(cipher: Cipher, keys: &DirectionKeys) -> Result<Self> {
        let aead = Engine::Auto.resolve().key(cipher, &keys.aead);
        Ok(Self {
            aead: Mutex::new(aead.map_err(|_| anyhow!("the engine refused a session's key"))?),
            keys: keys.clone(),
        })
    }

    fn aead(&self) -> MutexGuard<'_, Box<dyn Aead>> {
        self.aead.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn nonce(&self, counter: u64) -> [u8; 12] {
        let mut nonce = self.keys.iv;
        for (byte, of) in nonce[4..].iter_mut().zip(counter.to_le_bytes()) {
            *byte ^= of;
        }
        nonce
    }
}

/// What it takes to send in a session, and nothing of it is checked.
pub struct Sealer {
    half: Half,
    /// The session's index at the Gateway.
    pub index: u32,
    /// What is around its frames.
    pub outer: Outer,
    /// The inner IPv4 address the Gateway gave.
    pub v4: Ipv4Addr,
    /// The inner IPv6 address.
    pub v6: Ipv6Addr,
    /// The knock keys of its handshake frames.
    pub knock: kdf::KnockKeys,
    /// Its key id.
    pub key_id: u32,
    /// The next counter, shared with whoever else seals in this session.
    counter: Arc<AtomicU64>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer(session {:#010x})", self.index)
    }
}

impl Sealer {
    /// The key of its admission tags.
    pub fn admission(&self) -> [u64; 2] {
        self.half.keys.admission
    }

    /// The next counter, spent.
    pub fn next_counter(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// An authentic frame that carries `plaintext` under the next counter.
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        self.seal_at(self.next_counter(), plaintext)
    }

    /// An authentic frame under any counter.
    pub fn seal_at(&self, counter: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut header = Header::new(kind::DATA, plaintext.len() as u16, self.index, counter);
        header.tag = header.data_tag(self.admission());
        let mut frame = [&header.encode()[..], plaintext, &[0; TAG_LEN]].concat();
        let (associated, rest) = frame.split_at_mut(HEADER_LEN);
        let (payload, tag) = rest.split_at_mut(plaintext.len());
        let tag: &mut [u8; TAG_LEN] = tag.try_into().expect("cut to its length");
        let sealed = self
            .half
            .aead()
            .seal(&self.half.nonce(counter), associated, payload, tag);
        debug_assert!(sealed.is_ok(), "a payload no longer than a frame");
        self.outer.wrap(&frame)
    }

    /// A frame whose header is authentic and whose payload is not.
    pub fn garbage(&self, length: usize, noise: &mut Noise) -> Vec<u8> {
        let mut header = Header::new(kind::DATA, length as u16, self.index, self.next_counter());
        header.tag = header.data_tag(self.admission());
        let mut payload = vec![0; length + TAG_LEN];
        noise.fill(&mut payload);
        self.outer.frame(&header, &payload)
    }
}

struct Live {
    install: Install,
    receive: Half,
    sealer: Arc<Sealer>,
    since: Instant,
    confirmed: bool,
}

/// It.
pub struct Rogue {
    enrolment: Enrolment,
    machine: Workstation,
    socket: PacketSocket,
    own: Mac,
    /// Where its Hellos go.
    gateway: Path,
    /// Its Initiations are as if from there.
    pub detour: Option<Outer>,
    start: Instant,
    live: Option<Live>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    /// Proves no session: its PINGs are not sent.
    mute: bool,
    /// Its Initiation is not sent, but kept here.
    kept: Option<Option<Vec<u8>>>,
    /// Bytes that came for it, for what an answer costs.
    pub heard: u64,
    /// Frames that came for it.
    pub heard_frames: u64,
    /// Control messages that came for it.
    pub answers: u64,
    /// Data of its session that came for it.
    pub heard_data: u64,
    /// What came for it by type and length.
    transcript: BTreeSet<(u8, usize)>,
}

impl Rogue {
    /// Who holds the enrolment of `file` and sends from `interface`, under that interface's address.
    ///
    /// # Errors
    /// When the file is none, or the interface does not exist.
    pub fn new(file: &FilePath, namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::by(BROADCAST.into(), file, namespace, interface)
    }

    /// The same, with another way for its Hellos: over networks, from the way's own address.
    ///
    /// # Errors
    /// As [`Rogue::new`].
    pub fn by(
        gateway: Path,
        file: &FilePath,
        namespace: &Namespace,
        interface: &str,
    ) -> Result<Self> {
        let (enrolment, _) = Enrolment::read(file).map_err(|problem| anyhow!("{problem}"))?;
        let own = mac_of(namespace, interface)?;
        let socket = PacketSocket::open(namespace, Some(interface))?;
        socket.ignore_outgoing()?;
        Ok(Self {
            machine: machine(&enrolment, own, gateway, 1)?,
            enrolment,
            socket,
            own,
            gateway,
            detour: None,
            start: Instant::now(),
            live: None,
            v4: None,
            v6: None,
            mute: false,
            kept: None,
            heard: 0,
            heard_frames: 0,
            answers: 0,
            heard_data: 0,
            transcript: BTreeSet::new(),
        })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A session that is proven and not about to end, made anew where there is none.
    ///
    /// # Errors
    /// When the Gateway does not agree within ten seconds.
    pub fn session(&mut self) -> Result<Arc<Sealer>> {
        let fresh = |live: &&Live| live.confirmed && live.since.elapsed() < Duration::from_secs(60);
        if let Some(live) = self.live.as_ref().filter(fresh) {
            return Ok(Arc::clone(&live.sealer));
        }
        self.connect()
    }

    /// A new session, whatever there is.
    ///
    /// # Errors
    /// As [`Rogue::session`].
    pub fn connect(&mut self) -> Result<Arc<Sealer>> {
        self.shake(Duration::from_secs(10), |live| {
            live.is_some_and(|live| live.confirmed)
        })?;
        let live = self
            .live
            .as_ref()
            .context("a session that was just proven")?;
        Ok(Arc::clone(&live.sealer))
    }

    /// A new session within so long, or none.
    ///
    /// # Errors
    /// As [`Rogue::session`].
    pub fn connects_within(&mut self, time: Duration) -> Result<bool> {
        let confirmed = |live: Option<&Live>| live.is_some_and(|live| live.confirmed);
        let ended = self.shake(time, confirmed);
        check()?;
        Ok(ended.is_ok())
    }

    fn shake(&mut self, time: Duration, done: impl Fn(Option<&Live>) -> bool) -> Result<()> {
        self.begin()?;
        let begun = Instant::now();
        while begun.elapsed() < time {
            check()?;
            self.pump(Duration::from_millis(2))?;
            if done(self.live.as_ref()) {
                return Ok(());
            }
        }
        Err(anyhow!("no session under ws4's keys within {time:?}"))
    }

    /// Begins a handshake, and forgets what there was.
    fn begin(&mut self) -> Result<()> {
        self.live = None;
        let seed = self.start.elapsed().as_nanos() as u64;
        self.machine = machine(&self.enrolment, self.own, self.gateway, seed)?;
        let now = self.now();
        self.machine.start(now);
        Ok(())
    }

    /// A genuine Initiation with the cookie that the Gateway has just given, which is not sent.
    ///
    /// # Errors
    /// When the Gateway does not answer within ten seconds.
    pub fn initiation(&mut self) -> Result<Vec<u8>> {
        self.kept = Some(None);
        self.begin()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            check()?;
            self.pump(Duration::from_millis(2))?;
            if let Some(Some(frame)) = self.kept.take_if(|kept| kept.is_some()) {
                return Ok(frame);
            }
        }
        Err(anyhow!("no Challenge under ws4's keys within ten seconds"))
    }

    /// Shakes hands as far as the Response and proves nothing: a session that stays pending.
    ///
    /// # Errors
    /// When the Gateway does not answer within ten seconds.
    pub fn half_open(&mut self) -> Result<()> {
        self.mute = true;
        let done = self.shake(Duration::from_secs(10), |live| live.is_some());
        self.mute = false;
        self.live = None;
        done
    }

    /// The same keys on another host of the LAN.
    ///
    /// # Errors
    /// As [`Rogue::new`].
    pub fn clone_at(
        file: &FilePath,
        namespace: &Namespace,
        interface: &str,
        own: Mac,
    ) -> Result<Self> {
        let mut clone = Self::new(file, namespace, interface)?;
        clone.own = own;
        Ok(clone)
    }

    /// What has come for it since it was last asked, by type and length.
    pub fn take_answers(&mut self) -> BTreeSet<(u8, usize)> {
        std::mem::take(&mut self.transcript)
    }

    /// Forgets what has come and was not taken: what a hub showed, and answers to an attack before.
    pub fn forget(&mut self) {
        let mut buffer = [0; 64];
        let end = Instant::now() + Duration::from_secs(1);
        while self.socket.receive(&mut buffer).is_some() && Instant::now() < end {}
        self.transcript.clear();
    }

    /// Takes what has come, and does what is due, for at most `wait` if nothing comes.
    ///
    /// # Errors
    /// When the engine refuses a key.
    pub fn pump(&mut self, wait: Duration) -> Result<()> {
        self.socket.readable(wait);
        let mut buffer = vec![0; 2048];
        // A bound: on a hub under a flood frames never end.
        for _ in 0..4096 {
            let Some((_, len)) = self.socket.receive(&mut buffer) else {
                break;
            };
            self.take(&mut buffer[..len]);
        }
        let now = self.now();
        self.machine.tick(now);
        self.act()
    }

    /// The header of a frame that is for us, what is before it, and where it is from.
    fn for_us(&self, frame: &[u8]) -> Option<(Header, usize, Path)> {
        let (header, front) = (header_of(frame)?, front_of(frame)?);
        let encapsulation = match self.gateway {
            Path::Ether(_) => Encapsulation::Ether(ETHERTYPE),
            _ => Encapsulation::Udp,
        };
        let source = encapsulation.path_of(frame)?;
        let ours = match (self.gateway, source) {
            (Path::Udp(own), Path::Udp(theirs)) => own.local == theirs.local,
            _ => frame[..6] == self.own,
        };
        ours.then_some((header, front, source))
    }

    fn take(&mut self, frame: &mut [u8]) {
        let Some((header, front, source)) = self.for_us(frame) else {
            return;
        };
        self.heard += frame.len() as u64;
        self.heard_frames += 1;
        self.transcript.insert((header.kind, frame.len()));
        let now = self.now();
        if header.kind != kind::DATA {
            self.machine.frame(now, source, &frame[front..]);
            return;
        }
        let Some(live) = &mut self.live else { return };
        let end = front + header.frame_len();
        if header.index != live.install.index || frame.len() < end {
            return;
        }
        let (associated, sealed) = frame[front..end].split_at_mut(HEADER_LEN);
        let nonce = live.receive.nonce(header.counter);
        if live
            .receive
            .aead()
            .open(&nonce, associated, sealed)
            .is_err()
        {
            return;
        }
        let index = live.install.index;
        if !std::mem::replace(&mut live.confirmed, true) {
            self.machine.confirmed(now, index);
        }
        self.heard_data += 1;
        let plaintext = &sealed[..sealed.len() - TAG_LEN];
        if plaintext.first().is_some_and(|first| first >> 4 == 0) {
            self.answers += 1;
            self.machine.inner(now, index, plaintext);
        }
    }

    fn act(&mut self) -> Result<()> {
        let actions: Vec<Action> = self.machine.actions().collect();
        // They are told after the session that they come with.
        for action in &actions {
            if let Action::Configure(parameters) = action {
                self.v4 = parameters.v4.map(|(address, _)| address);
                self.v6 = parameters.v6.map(|(address, _)| address);
            }
        }
        for action in actions {
            match action {
                Action::Send {
                    destination, frame, ..
                } => {
                    let outer = Outer {
                        mac: self.own,
                        way: destination,
                    };
                    let initiation = frame.first().is_some_and(|first| first & 15 == INITIATION);
                    let outer = self.detour.filter(|_| initiation).unwrap_or(outer);
                    let frame = outer.wrap(&frame);
                    match self.kept.as_mut().filter(|_| initiation) {
                        Some(kept) => *kept = Some(frame),
                        None => drop(self.socket.send(&frame)),
                    }
                }
                Action::SendInner { index, message, .. } => {
                    let live = self
                        .live
                        .as_ref()
                        .filter(|live| live.install.index == index);
                    if let Some(live) = live.filter(|_| !self.mute) {
                        self.socket.send(&live.sealer.seal(&message));
                    }
                }
                Action::Install(install) => self.install(*install)?,
                Action::Erase { index, .. } => {
                    self.live.take_if(|live| live.install.index == index);
                    let now = self.now();
                    self.machine.erased(now, index);
                }
                Action::Configure(_) | Action::ExpectNonce(_) => {}
            }
        }
        Ok(())
    }

    fn install(&mut self, install: Install) -> Result<()> {
        let keys = &install.keys;
        ensure!(
            keys.protection == Protection::Encrypt,
            "a session that does not encrypt"
        );
        let sealer = Sealer {
            half: Half::new(keys.cipher, &keys.send)?,
            index: install.peer_index,
            outer: Outer {
                mac: self.own,
                way: install.path,
            },
            v4: self.v4.context("ws4 was given no IPv4 address")?,
            v6: self.v6.context("ws4 was given no IPv6 address")?,
            knock: kdf::knock_keys(self.enrolment.psk.as_bytes()),
            key_id: self.enrolment.key_id.get(),
            counter: Arc::default(),
        };
        self.live = Some(Live {
            receive: Half::new(keys.cipher, &keys.receive)?,
            sealer: Arc::new(sealer),
            since: Instant::now(),
            confirmed: false,
            install,
        });
        Ok(())
    }
}

fn machine(enrolment: &Enrolment, own: Mac, gateway: Path, seed: u64) -> Result<Workstation> {
    let private = enrolment
        .private_key()
        .map_err(|problem| anyhow!("{problem}"))?;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Ok(Workstation::new(
        WorkstationConfig {
            static_private: Zeroizing::new(*private.as_bytes()),
            gateway_public: *enrolment.gateway_public_key.as_bytes(),
            psk: Zeroizing::new(*enrolment.psk.as_bytes()),
            key_id: enrolment.key_id.get(),
            port: 0,
            gateway,
            mac: gateway.mac().map_or([0; 6], |_| own),
            mtu: inner_mtu(CABLE_MTU, &gateway),
            virtualised: false,
            ciphers: vec![Cipher::Aes256Gcm],
            protections: vec![Protection::Encrypt],
            seed: Zeroizing::new(bytes),
        },
        Duration::ZERO,
    ))
}
