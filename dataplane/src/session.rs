//! A session: the keys of both directions, the send counter and its limits, the replay window.
//!
//! Pure: frames come in as slices and time as nanoseconds. Frames are whole Portcullis frames, from
//! the header to the AEAD tag; they are sealed and opened where they lie.

use crate::engine::{Aead, Engine, Forged, NONCE_LEN};
use crate::keys::{Cipher, DirectionKeys, Protection, SessionKeys};
use crate::lifetime::{Lifetime, blocks, blocks_of_frame};
use crate::path::Path;
use crate::prefetch::prefetch;
use crate::reuse::OpenedTags;
use crate::{PortId, WorkstationId};
use wire::limits::*;
use wire::{Header, ReplayWindow, kind};
use zeroize::Zeroize;

/// How plaintexts are padded with zeros before they are sealed. The discriminant is its code on the
/// wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Padding {
    /// Not at all.
    #[default]
    None = 0,
    /// To a multiple of 16 bytes, at most the inner MTU.
    Sixteen = 1,
    /// To the inner MTU.
    Full = 2,
}

impl Padding {
    /// All of them.
    pub const ALL: [Padding; 3] = [Padding::None, Padding::Sixteen, Padding::Full];

    /// The padding of a code; `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|padding| *padding as u8 == code)
    }

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Padding::None => "none",
            Padding::Sixteen => "16",
            Padding::Full => "full",
        }
    }

    /// The padded length of a payload of `len` bytes under an inner MTU.
    #[inline]
    pub fn apply(self, len: usize, mtu: usize) -> usize {
        match self {
            Padding::None => len,
            Padding::Sixteen => len.next_multiple_of(16).min(mtu.max(len)),
            Padding::Full => mtu.max(len),
        }
    }
}

/// A session to install: what a finished handshake gives to the worker.
#[derive(Debug, Clone)]
pub struct Install {
    /// The Workstation.
    pub workstation: WorkstationId,
    /// The port its frames come from.
    pub port: PortId,
    /// Our index: frames to us carry it.
    pub index: u32,
    /// The other side's index: frames from us carry it.
    pub peer_index: u32,
    /// The way to the other side.
    pub path: Path,
    /// The inner MTU, the smaller of both sides'.
    pub mtu: u16,
    /// How payloads are padded.
    pub padding: Padding,
    /// The keys.
    pub keys: SessionKeys,
}

/// What the largest frame counts for.
const LARGEST_BLOCKS: u64 = blocks(MAX_PAYLOAD, true);
/// At this counter a rekey is due.
const WORN_COUNTER: u64 = COUNTER_LIMIT / 8 * 7;

/// Why a frame was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The length does not fit the frame.
    Malformed,
    /// The counter was opened before, or is below the window.
    Replay,
    /// Another frame was opened under this counter, and this one is genuine too: its sender has used a nonce twice.
    Reused,
    /// The AEAD tag does not verify.
    Forged,
    /// The session is past its age, or past the limit of failed opens.
    Expired,
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// The session is past its age.
    Expired,
    /// The key has sealed as much as it may (the AEAD limit, or the counter's).
    Exhausted,
    /// The payload is larger than a frame may carry, or the frame is too short for it.
    TooLarge,
}

/// A counter that was spent on a frame, which is still to be sealed with it: once, for it cannot be
/// copied.
#[derive(Debug)]
pub struct Spent {
    counter: u64,
    session: u32,
    peer_index: u32,
    length: u16,
}

impl Spent {
    /// The header of the frame, its tag still to be computed.
    #[inline(always)]
    pub fn header(&self) -> Header {
        Header::new(kind::DATA, self.length, self.peer_index, self.counter)
    }

    /// Writes the header with its admission tag at the start of `frame`.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] when `frame` is shorter than a header.
    #[inline(always)]
    pub fn write_header(&self, frame: &mut [u8], tag: u64) -> Result<(), SealError> {
        let place = frame
            .first_chunk_mut::<HEADER_LEN>()
            .ok_or(SealError::TooLarge)?;
        *place = Header {
            tag,
            ..self.header()
        }
        .encode();
        Ok(())
    }
}

struct Direction {
    aead: Box<dyn Aead>,
    iv: [u8; NONCE_LEN],
}

impl Direction {
    fn new(engine: Engine, keys: &DirectionKeys, session: &SessionKeys) -> Result<Self, Forged> {
        Ok(Self {
            aead: engine.key(session.cipher, &keys.aead)?,
            iv: keys.iv,
        })
    }

    /// The nonce: the IV with bytes 4..12 XORed with the counter as it is on the wire.
    fn nonce(&self, counter: u64) -> [u8; NONCE_LEN] {
        let [a, b, c, d, counted @ ..] = self.iv;
        let [e, f, g, h, i, j, k, l] = (u64::from_le_bytes(counted) ^ counter).to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

/// A session as its worker has it. Its keys are wiped when it is dropped. What opening a frame needs
/// fills the first cache line, up to the start of the window; what sealing one needs comes after
/// the window.
#[repr(C, align(64))]
pub struct Session {
    receive: Direction,
    /// When it is at its end.
    until: u64,
    failures: u64,
    /// See [`Session::worn_receiving`].
    allowance: u64,
    /// Our index.
    pub index: u32,
    /// The port it lives on.
    pub port: PortId,
    authenticate_only: bool,
    /// How payloads are padded.
    pub padding: Padding,
    window: ReplayWindow,
    /// Where another frame under a used counter can come as far as this: over networks. Of GCM alone.
    tags: Option<Box<OpenedTags>>,
    send: Direction,
    counter: u64,
    blocks: u64,
    lifetime: Lifetime,
    peer_admission: [u64; 2],
    peer_index: u32,
    /// The inner MTU.
    pub mtu: u16,
    /// The way to the other side; whether control knows it, and since when it may be told again.
    pub path: Path,
    path_untold: bool,
    path_told: u64,
    told_worn: bool,
    told_exhausted: bool,
    /// The Workstation it belongs to.
    pub workstation: WorkstationId,
    /// The admission key XDP checks for frames to us.
    pub admission: [u64; 2],
}

impl Drop for Session {
    fn drop(&mut self) {
        self.admission.zeroize();
        self.peer_admission.zeroize();
    }
}

impl Session {
    /// A session from its keys. `now` is in nanoseconds of a clock that also runs in suspend.
    ///
    /// # Errors
    /// [`Forged`] when the engine refuses a key.
    pub fn new(install: &Install, engine: Engine, now: u64) -> Result<Self, Forged> {
        Self::with_lifetime(install, engine, now, Lifetime::default())
    }

    /// The same, with keys that are used less long.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_lifetime(
        install: &Install,
        engine: Engine,
        now: u64,
        lifetime: Lifetime,
    ) -> Result<Self, Forged> {
        let keys = &install.keys;
        let watched =
            keys.cipher != Cipher::Aes256GcmSiv && !matches!(install.path, Path::Ether(_));
        Ok(Self {
            workstation: install.workstation,
            port: install.port,
            index: install.index,
            path: install.path,
            mtu: install.mtu,
            padding: install.padding,
            admission: keys.receive.admission,
            peer_index: install.peer_index,
            peer_admission: keys.send.admission,
            authenticate_only: keys.protection == Protection::Authenticate,
            send: Direction::new(engine, &keys.send, keys)?,
            receive: Direction::new(engine, &keys.receive, keys)?,
            until: now.saturating_add(lifetime.reject_after()),
            counter: 0,
            blocks: 0,
            lifetime,
            window: ReplayWindow::default(),
            tags: watched.then(Box::default),
            failures: 0,
            allowance: lifetime.rekey_blocks(),
            path_untold: false,
            path_told: 0,
            told_worn: false,
            told_exhausted: false,
        })
    }

    /// Frames go this way from now on.
    #[inline]
    pub fn roam(&mut self, path: Path) {
        if self.path != path {
            self.path = path;
            self.path_untold = true;
        }
    }

    /// The way, where it is another than control was told; at most once a second, for who has two ways can change
    /// from one to the other with every frame.
    #[inline]
    pub fn untold_path(&mut self, now: u64) -> Option<Path> {
        if !self.path_untold || now.saturating_sub(self.path_told) < SECOND {
            return None;
        }
        self.path_untold = false;
        self.path_told = now;
        Some(self.path)
    }

    fn expired(&self, now: u64) -> bool {
        now >= self.until
    }

    /// Seals a frame in place. `frame` is `HEADER_LEN` bytes to be written, `length` bytes of
    /// payload, and `TAG_LEN` bytes to be written.
    ///
    /// # Errors
    /// [`SealError`]; the frame must not be sent then.
    #[inline]
    pub fn seal(&mut self, frame: &mut [u8], length: usize, now: u64) -> Result<(), SealError> {
        if frame.len() < OVERHEAD + length {
            return Err(SealError::TooLarge);
        }
        let spent = self.spend(length, now)?;
        let tag = spent.header().data_tag(self.peer_admission);
        spent.write_header(frame, tag)?;
        self.finish_seal(spent, frame)
    }

    /// Spends a counter on a frame of `length` bytes of payload. What is left to do is the admission
    /// tag ([`Session::peer_admission`] over [`Spent::header`]), [`Spent::write_header`] and
    /// [`Session::finish_seal`]. A batch does each of these for all its frames before the next: tags
    /// of several frames cost little more than one, and the headers are out of the CPU's store
    /// buffer when the AEAD reads them in larger pieces than they were written.
    ///
    /// # Errors
    /// [`SealError`]; then nothing was spent.
    #[inline]
    pub fn spend(&mut self, length: usize, now: u64) -> Result<Spent, SealError> {
        if self.expired(now) {
            return Err(SealError::Expired);
        }
        if length > MAX_PAYLOAD {
            return Err(SealError::TooLarge);
        }
        let blocks = blocks(length, self.authenticate_only);
        if self.blocks + blocks > self.lifetime.seal_blocks() || self.counter >= COUNTER_LIMIT {
            return Err(SealError::Exhausted);
        }
        // The counter is spent before anything is sealed with it.
        let counter = self.counter;
        self.counter += 1;
        self.blocks += blocks;
        Ok(Spent {
            session: self.index,
            peer_index: self.peer_index,
            counter,
            length: length as u16,
        })
    }

    /// The key of the admission tag that the other side checks.
    #[inline]
    pub fn peer_admission(&self) -> [u64; 2] {
        self.peer_admission
    }

    /// Seals the frame that a counter was spent on and whose header is written.
    ///
    /// # Errors
    /// As [`Session::seal`].
    #[inline]
    pub fn finish_seal(&self, spent: Spent, frame: &mut [u8]) -> Result<(), SealError> {
        if spent.session != self.index {
            // Another session's counter may have sealed something here already.
            return Err(SealError::Exhausted);
        }
        let (covered, tag) = frame
            .get_mut(..OVERHEAD + usize::from(spent.length))
            .and_then(<[u8]>::split_last_chunk_mut::<TAG_LEN>)
            .ok_or(SealError::TooLarge)?;
        let split = if self.authenticate_only {
            covered.len()
        } else {
            HEADER_LEN
        };
        let (associated, payload) = covered.split_at_mut(split);
        let nonce = self.send.nonce(spent.counter);
        self.send
            .aead
            .seal(&nonce, associated, payload, tag)
            .map_err(|Forged| SealError::TooLarge)
    }

    /// Opens a frame in place and returns its payload. `frame` may be longer than the header says
    /// (Ethernet pads); what follows is not read.
    ///
    /// # Errors
    /// [`OpenError`]; the payload must not be used then, and nothing has changed but the count of
    /// failures.
    #[inline]
    pub fn open<'a>(
        &mut self,
        header: &Header,
        frame: &'a mut [u8],
        now: u64,
    ) -> Result<&'a mut [u8], OpenError> {
        if self.past_use(now) {
            return Err(OpenError::Expired);
        }
        let frame = frame
            .get_mut(..header.frame_len())
            .ok_or(OpenError::Malformed)?;
        self.verify(header.counter, frame, now)?;
        if !self.commit(header.counter, frame.len()) {
            return Err(self.used(header.counter, frame, now));
        }
        self.keep(header.counter, frame);
        let end = frame.len() - TAG_LEN;
        Ok(&mut frame[HEADER_LEN..end])
    }

    /// Whether it opens nothing any more: past its age, or past the limit of failed opens.
    #[inline]
    pub fn past_use(&self, now: u64) -> bool {
        self.expired(now) || self.failures >= OPEN_FAILURES
    }

    /// The first half of [`Session::open`]: verifies and decrypts a frame, which ends with its AEAD
    /// tag, where it lies. The payload counts only once [`Session::commit`] has accepted the counter. A
    /// batch verifies all its frames before it looks at the first, so that the CPU works on several.
    ///
    /// # Errors
    /// As [`Session::open`].
    #[inline]
    pub fn verify(&mut self, counter: u64, frame: &mut [u8], now: u64) -> Result<(), OpenError> {
        if self.failures >= OPEN_FAILURES {
            return Err(OpenError::Expired);
        }
        if frame.len() < OVERHEAD {
            return Err(OpenError::Malformed);
        }
        if !self.window.check(counter) {
            if self.is_another(counter, frame, now) && self.decrypt(counter, frame).is_ok() {
                return Err(OpenError::Reused);
            }
            return Err(OpenError::Replay);
        }
        self.decrypt(counter, frame)
    }

    /// Whether a frame with a used counter is another than the one that was opened, and it is time to look at one.
    #[cold]
    fn is_another(&mut self, counter: u64, frame: &[u8], now: u64) -> bool {
        let (Some(tags), Some(tag)) = (&mut self.tags, frame.last_chunk()) else {
            return false;
        };
        let highest = self.window.highest();
        highest.is_some_and(|highest| tags.differs(counter, highest, tag, now))
    }

    #[inline(always)]
    fn decrypt(&mut self, counter: u64, frame: &mut [u8]) -> Result<(), OpenError> {
        let split = if self.authenticate_only {
            frame.len() - TAG_LEN
        } else {
            HEADER_LEN
        };
        let (associated, sealed) = frame.split_at_mut(split);
        let nonce = self.receive.nonce(counter);
        if self.receive.aead.open(&nonce, associated, sealed).is_err() {
            self.failures += 1;
            return Err(OpenError::Forged);
        }
        Ok(())
    }

    /// The second half of [`Session::open`], for a frame of `len` bytes that verified. False for a
    /// counter that was committed meanwhile; then the payload must not be used.
    #[inline]
    pub fn commit(&mut self, counter: u64, len: usize) -> bool {
        let fresh = self.window.commit(counter);
        if fresh {
            self.allowance +=
                LARGEST_BLOCKS.saturating_sub(blocks_of_frame(len, self.authenticate_only));
        }
        fresh
    }

    /// Where [`Session::commit`] was false for a frame that verified: the counter was committed for another before. `frame` is as it
    /// was decrypted.
    #[cold]
    pub fn used(&mut self, counter: u64, frame: &[u8], now: u64) -> OpenError {
        match self.is_another(counter, frame, now) {
            true => OpenError::Reused,
            false => OpenError::Replay,
        }
    }

    /// Keeps what tells another frame under this counter from a copy of this one, which was committed. Only needed where XDP does
    /// not let a counter through once, which is over networks.
    #[inline]
    pub fn keep(&mut self, counter: u64, frame: &[u8]) {
        if let (Some(tags), Some(tag)) = (&mut self.tags, frame.last_chunk()) {
            tags.keep(counter, tag);
        }
    }

    /// Asks the CPU for what a frame needs first: opening it ([`Session::prefetch_open`] follows), or
    /// sealing it ([`Session::prefetch_seal`]).
    #[inline]
    pub fn prefetch(&self, seal: bool) {
        prefetch(self, 1);
        if seal {
            prefetch(&self.send, 1);
            prefetch(&self.peer_index, 1);
        }
    }

    /// Asks the CPU for the rest that opening a frame with this counter needs.
    #[inline]
    pub fn prefetch_open(&self, counter: u64) {
        prefetch(self.window.mark(counter), 1);
        self.receive.aead.prefetch();
    }

    /// Asks the CPU for the rest that sealing needs.
    #[inline]
    pub fn prefetch_seal(&self) {
        self.send.aead.prefetch();
    }

    /// The lowest counter XDP should still admit.
    pub fn floor(&self) -> u64 {
        self.window.floor()
    }

    /// The highest counter opened.
    pub fn highest(&self) -> Option<u64> {
        self.window.highest()
    }

    /// AEAD blocks it has sealed with; there are at most [`SEAL_BLOCKS`].
    #[inline]
    pub fn sealed_blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether 7/8 of what the keys may do is done, in either direction, so that a rekey is due.
    pub fn worn(&self) -> bool {
        self.worn_sending() || self.worn_receiving()
    }

    fn worn_sending(&self) -> bool {
        self.blocks >= self.lifetime.rekey_blocks() || self.counter >= WORN_COUNTER
    }

    /// Whether the other side, as far as can be told from here, has sealed 7/8 of what it may. What is
    /// lost on the way was sealed all the same, so a frame that has not come is taken for the largest
    /// there is: highest + 1 times that, less what the frames that came were smaller. It is the
    /// Workstation that rekeys, and most of what is sealed comes from the Gateway.
    #[inline]
    fn worn_receiving(&self) -> bool {
        let Some(highest) = self.window.highest() else {
            return false;
        };
        (highest + 1) * LARGEST_BLOCKS >= self.allowance || highest >= WORN_COUNTER
    }

    /// Whether its keys may seal no more, once.
    pub fn runs_out(&mut self) -> bool {
        !std::mem::replace(&mut self.told_exhausted, true)
    }

    /// Whether the other side's keys are [`Session::worn`], once and together with ours.
    #[inline]
    pub fn wears_out_receiving(&mut self) -> bool {
        self.worn_receiving() && !std::mem::replace(&mut self.told_worn, true)
    }

    /// Whether our keys are [`Session::worn`], once: what is true of every further frame is told of one.
    #[inline]
    pub fn wears_out(&mut self) -> bool {
        self.worn_sending() && !std::mem::replace(&mut self.told_worn, true)
    }

    #[cfg(test)]
    fn use_up(&mut self, blocks: u64, counter: u64) {
        self.blocks = blocks;
        self.counter = counter;
    }
}

/// Test support: the two ends of one session with keys made of `seed`.
#[doc(hidden)]
pub fn pair_for_tests(
    seed: u8,
    cipher: crate::keys::Cipher,
    protection: Protection,
    indexes: (u32, u32),
) -> (Install, Install) {
    let (up, down) = ([seed; 32], [seed ^ 0xff; 32]);
    let install = |role, index, peer_index, path: [u8; 6]| Install {
        workstation: 0,
        port: 0,
        index,
        peer_index,
        path: path.into(),
        mtu: 1460,
        padding: Padding::None,
        keys: SessionKeys::derive(role, &up, &down, cipher, protection),
    };
    (
        install(
            wire::Role::Gateway,
            indexes.0,
            indexes.1,
            [2, 0, 0, 0, 0, 2],
        ),
        install(
            wire::Role::Workstation,
            indexes.1,
            indexes.0,
            [2, 0, 0, 0, 0, 1],
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Cipher;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn ends(cipher: Cipher, protection: Protection) -> (Session, Session) {
        let (gateway, workstation) = pair_for_tests(7, cipher, protection, (0x1_0001, 0x2_0002));
        let session = |install| Session::new(&install, Engine::Auto, 0).unwrap();
        (session(gateway), session(workstation))
    }

    fn sealed(session: &mut Session, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; OVERHEAD + payload.len()];
        frame[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        session.seal(&mut frame, payload.len(), 1).unwrap();
        frame
    }

    fn open(session: &mut Session, frame: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut frame = frame.to_vec();
        let header = Header::decode(&frame).unwrap();
        session
            .open(&header, &mut frame, 1)
            .map(|payload| payload.to_vec())
    }

    fn forms() -> impl Iterator<Item = (Cipher, Protection)> {
        Cipher::ALL
            .into_iter()
            .flat_map(|cipher| [Protection::Encrypt, Protection::Authenticate].map(|p| (cipher, p)))
    }

    proptest! {
        #[test]
        fn what_one_end_seals_the_other_opens_with_and_without_padding(
            payload in prop::collection::vec(any::<u8>(), 0..1600), padding in 0usize..50,
        ) {
            for (cipher, protection) in forms() {
                let (mut gateway, mut workstation) = ends(cipher, protection);
                let ends = [&mut gateway, &mut workstation];
                for at in 0..2 {
                    let mut frame = sealed(ends[at], &payload);
                    frame.resize(frame.len() + padding, 0xee);
                    prop_assert_eq!(open(ends[1 - at], &frame), Ok(payload.clone()));
                    prop_assert_eq!(open(ends[1 - at], &frame), Err(OpenError::Replay));
                }
            }
        }

        /// Property 2: no frame opens twice, whatever the order.
        #[test]
        fn no_frame_opens_twice_whatever_the_order(order in prop::collection::vec(0usize..40, 1..200)) {
            let (mut gateway, mut workstation) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
            let frames: Vec<_> = (0..40u8).map(|n| sealed(&mut workstation, &[n; 30])).collect();
            let mut opened = HashSet::new();
            for at in order {
                prop_assert_eq!(open(&mut gateway, &frames[at]).is_ok(), opened.insert(at));
            }
        }

        #[test]
        fn a_flipped_bit_anywhere_is_refused_and_the_genuine_frame_still_opens(at: prop::sample::Index, bit in 0u8..8) {
            for (cipher, protection) in forms() {
                let (mut gateway, mut workstation) = ends(cipher, protection);
                let frame = sealed(&mut workstation, b"\x45genuine payload");
                let mut bad = frame.clone();
                let at = at.index(bad.len());
                bad[at] ^= 1 << bit;
                let refused = match Header::decode(&bad) {
                    Err(_) => true,
                    Ok(header) => gateway.open(&header, &mut bad, 1).is_err(),
                };
                prop_assert!(refused);
                prop_assert!(open(&mut gateway, &frame).is_ok());
            }
        }
    }

    #[test]
    fn the_window_is_exact_at_its_edges_through_the_session() {
        let (mut gateway, mut workstation) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
        let frames: Vec<_> = (0..8194)
            .map(|_| sealed(&mut workstation, &[0x45; 20]))
            .collect();
        assert!(open(&mut gateway, &frames[8192]).is_ok());
        assert_eq!(open(&mut gateway, &frames[0]), Err(OpenError::Replay));
        assert!(open(&mut gateway, &frames[1]).is_ok());
        assert_eq!(gateway.floor(), 1);
        assert!(open(&mut gateway, &frames[8193]).is_ok());
        assert_eq!(open(&mut gateway, &frames[1]), Err(OpenError::Replay));
    }

    /// Property 3, at the limit: sealing is refused before a counter could be used twice.
    #[test]
    fn sealing_stops_at_the_aead_limit_and_a_rekey_is_due_before() {
        for protection in [Protection::Encrypt, Protection::Authenticate] {
            let (_, mut session) = ends(Cipher::Aes256Gcm, protection);
            let mut frame = vec![0; OVERHEAD + 100];
            session.use_up(REKEY_BLOCKS - 1, 5);
            assert!(!session.worn());
            session.use_up(REKEY_BLOCKS, 5);
            assert!(session.worn());
            assert_eq!([(); 3].map(|()| session.wears_out()), [true, false, false]);
            assert_eq!(session.seal(&mut frame, 100, 1), Ok(()));
            session.use_up(SEAL_BLOCKS - 3, 5);
            assert_eq!(session.seal(&mut frame, 100, 1), Err(SealError::Exhausted));
            session.use_up(0, COUNTER_LIMIT - 1);
            assert!(session.worn());
            assert_eq!(session.seal(&mut frame, 100, 1), Ok(()));
            assert_eq!(session.seal(&mut frame, 100, 1), Err(SealError::Exhausted));
        }
    }

    /// The Workstation rekeys, and it is mostly the Gateway that seals.
    #[test]
    fn a_rekey_is_due_before_the_other_side_has_sealed_as_much_as_it_may_however_much_is_lost() {
        let limit = 40_000;
        let lifetime = Lifetime::at_most(limit, u64::MAX, u64::MAX);
        for (cipher, protection) in forms() {
            let (gateway, workstation) =
                pair_for_tests(7, cipher, protection, (0x1_0001, 0x2_0002));
            for (lost, length) in [(0, 40), (0, 1400), (2, 900), (9, 1460), (1000, 1460)] {
                let new = |install| Session::with_lifetime(install, Engine::Auto, 0, lifetime);
                let (mut gateway, mut workstation) =
                    (new(&gateway).unwrap(), new(&workstation).unwrap());
                let mut frame = vec![0; OVERHEAD + length];
                let mut told = 0;
                let mut sent = 0u64;
                while gateway.seal(&mut frame, length, 1).is_ok() {
                    sent += 1;
                    if !sent.is_multiple_of(lost + 1) {
                        continue;
                    }
                    assert!(open(&mut workstation, &frame).is_ok());
                    if workstation.wears_out_receiving() {
                        told += 1;
                        assert!(lost > 0 || gateway.blocks >= lifetime.rekey_blocks());
                    }
                    assert!(told > 0 || gateway.blocks < lifetime.rekey_blocks());
                }
                let most = (lost + 1) * blocks(length, true);
                assert!(told == 1 || most > limit / 8, "{lost} of {length}: {told}");
                assert!(gateway.blocks <= limit);
                assert_eq!([(); 2].map(|()| gateway.runs_out()), [true, false]);
            }
        }
    }

    /// Property 3: within one session every nonce is used once.
    #[test]
    fn no_two_frames_share_a_nonce() {
        let (_, mut session) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
        let mut nonces = HashSet::new();
        for _ in 0..10_000 {
            let frame = sealed(&mut session, &[0x45; 40]);
            let header = Header::decode(&frame).unwrap();
            assert!(nonces.insert(session.send.nonce(header.counter)));
        }
    }

    #[test]
    fn a_session_past_its_age_neither_seals_nor_opens() {
        let (mut gateway, mut workstation) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
        let mut frame = sealed(&mut workstation, &[0x45; 40]);
        let header = Header::decode(&frame).unwrap();
        assert!(matches!(
            gateway.open(&header, &mut frame, REJECT_AFTER),
            Err(OpenError::Expired)
        ));
        assert_eq!(
            workstation.seal(&mut frame, 40, REJECT_AFTER),
            Err(SealError::Expired)
        );
        // A clock that stepped back locks nobody out.
        assert_eq!(workstation.seal(&mut frame, 40, 0), Ok(()));
    }

    /// Each failed open is a forger's try. (RFC 9001, section 6.6, allows GCM 2^52 of them.)
    #[test]
    fn past_the_limit_of_failed_opens_nothing_opens_any_more() {
        for (cipher, protection) in forms() {
            let (mut gateway, mut workstation) = ends(cipher, protection);
            let genuine = [(); 3].map(|()| sealed(&mut workstation, &[0x45; 40]));
            gateway.failures = OPEN_FAILURES - 2;
            let mut forged = genuine[0].clone();
            forged[HEADER_LEN] ^= 1;
            assert_eq!(open(&mut gateway, &forged), Err(OpenError::Forged));
            assert!(open(&mut gateway, &genuine[1]).is_ok(), "one is left");
            assert_eq!(open(&mut gateway, &forged), Err(OpenError::Forged));
            for frame in [&forged, &genuine[2]] {
                assert_eq!(open(&mut gateway, frame), Err(OpenError::Expired));
            }
            let counter = Header::decode(&genuine[2]).unwrap().counter;
            let verified = gateway.verify(counter, &mut genuine[2].clone(), 1);
            assert_eq!(verified, Err(OpenError::Expired));
        }
    }

    #[test]
    fn padding_never_cuts_and_never_passes_the_mtu() {
        for len in 0..1461 {
            assert_eq!(Padding::None.apply(len, 1460), len);
            assert_eq!(Padding::Full.apply(len, 1460), 1460);
            let padded = Padding::Sixteen.apply(len, 1460);
            assert!(
                padded >= len && padded <= 1460 && (padded.is_multiple_of(16) || padded == 1460)
            );
        }
    }

    /// Pinned: the frame that docs/protocol.md gives as its vector.
    #[test]
    fn a_sealed_frame_is_the_fixed_vector() {
        let (_, mut workstation) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
        let frame = sealed(&mut workstation, b"\x03\0\0\0\0\0\0\0ping value 16 by");
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "15001800010001000000000000000000d187f4458a8a455957bbc236436d59ecf65553ee0f2560a15a421f6ab0d81ec15ed8bdfac9d7edab7fac7c5a6b0a37d1"
        );
    }

    #[test]
    fn a_counter_spent_by_one_session_seals_nothing_under_another() {
        let (mut one, other) = ends(Cipher::Aes256Gcm, Protection::Encrypt);
        let mut frame = vec![7; OVERHEAD + 100];
        let spent = one.spend(100, 1).unwrap();
        let begun = frame.clone();
        assert_eq!(
            other.finish_seal(spent, &mut frame),
            Err(SealError::Exhausted)
        );
        assert_eq!(frame, begun, "nothing was sealed");
    }
}
