//! The tables of a port as userspace writes them: sessions, floors, credits, knocks.
//!
//! They are the memory that the XDP program reads (mmapped arrays), so a change is seen by the next
//! frame, without a system call. Install and removal keep the order that XDP relies on: an index is
//! zeroed before anything else changes, and announced after everything else is written.
//!
//! The same tables can be made without a kernel, for workers under test; [`wire::decide`] runs on
//! them there.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wire::Tables;
use wire::limits::SEEN_CELLS;
use wire::tables::{Bucket, Credit, Floor, KnockEntry, Seen, SessionEntry, SourceKey};

use super::kernel;
use crate::prefetch::prefetch_at;

/// An array of records in shared memory: an mmapped BPF array, or plain memory.
#[derive(Debug)]
pub(super) struct Shared<T> {
    start: NonNull<T>,
    count: usize,
}

// SAFETY: the memory belongs to the value until it is dropped, and every access to it is an atomic
// one through a shared reference.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Maps `count` records: of a BPF array that is BPF_F_MMAPABLE, or of zeroed memory.
    pub(super) fn map(array: Option<BorrowedFd<'_>>, count: usize) -> io::Result<Self> {
        let (flags, fd) = match array {
            Some(array) => (libc::MAP_SHARED, array.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping, at an address of the kernel's choice; the kernel refuses a length
        // beyond the array's.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, count })
    }

    fn bytes(count: usize) -> usize {
        (count * size_of::<T>()).max(1)
    }

    /// The record at `at`; `None` outside the array.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<NonNull<T>> {
        if at >= self.count {
            return None;
        }
        // SAFETY: `at` is inside the mapping.
        Some(unsafe { self.start.add(at) })
    }

    /// Asks the CPU for the start of the record at `at`.
    #[inline]
    fn prefetch(&self, at: usize) {
        if let Some(record) = self.get(at) {
            prefetch_at(record.as_ptr().cast());
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::bytes(self.count)) };
    }
}

/// The word of `record` at a field, as an atomic one.
macro_rules! word {
    ($record:expr, $field:ident, $atomic:ident) => {{
        // SAFETY: the record is inside a live mapping (`Shared::get`), which `self` borrows; the
        // field is aligned, and both sides only access it atomically.
        unsafe { $atomic::from_ptr((&raw mut (*$record.as_ptr()).$field).cast()) }
    }};
}

pub(super) use word;

#[derive(Debug)]
enum Knocks {
    Map(OwnedFd),
    Memory(Mutex<HashMap<u32, KnockEntry>>),
}

/// What XDP knows, of one port. All methods take `&self`: each word has one writer, and the owner
/// of a slot is the only one to install into it.
///
/// An index outside the tables changes nothing and reads as zero; whatever would be admitted by it
/// is not.
#[derive(Debug)]
pub struct PortTables {
    id: u64,
    sessions: Shared<SessionEntry>,
    floors: Shared<Floor>,
    seen: Shared<Seen>,
    credits: Shared<Credit>,
    expected: Shared<u64>,
    knocks: Knocks,
    sources: Sources,
}

/// The handshake buckets of sources, which XDP keeps where there is one.
#[derive(Debug)]
enum Sources {
    Map(OwnedFd),
    Memory(Mutex<HashMap<SourceKey, Bucket>>),
}

/// The maps that [`PortTables`] are made of.
pub(super) struct Maps {
    pub sessions: OwnedFd,
    pub floors: OwnedFd,
    pub seen: OwnedFd,
    pub credits: OwnedFd,
    pub expected: OwnedFd,
    pub knocks: OwnedFd,
    pub sources: OwnedFd,
}

/// Numbers tables, so that no two have the same one within a process.
fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

impl PortTables {
    /// Tables in plain memory: for a port without XDP, as tests and benchmarks have it.
    ///
    /// # Errors
    /// What the kernel answered to the request for memory.
    pub fn in_memory(session_slots: u32, workstation_slots: u32) -> io::Result<Self> {
        let sessions = session_slots as usize;
        Ok(Self {
            id: number(),
            sessions: Shared::map(None, sessions)?,
            floors: Shared::map(None, sessions)?,
            seen: Shared::map(None, sessions)?,
            credits: Shared::map(None, workstation_slots as usize)?,
            expected: Shared::map(None, 1)?,
            knocks: Knocks::Memory(Mutex::default()),
            sources: Sources::Memory(Mutex::default()),
        })
    }

    /// The tables of a loaded program, mapped.
    pub(super) fn of_maps(
        maps: Maps,
        session_slots: u32,
        workstation_slots: u32,
    ) -> io::Result<Self> {
        let sessions = session_slots as usize;
        Ok(Self {
            id: number(),
            sessions: Shared::map(Some(maps.sessions.as_fd()), sessions)?,
            floors: Shared::map(Some(maps.floors.as_fd()), sessions)?,
            seen: Shared::map(Some(maps.seen.as_fd()), sessions)?,
            credits: Shared::map(Some(maps.credits.as_fd()), workstation_slots as usize)?,
            expected: Shared::map(Some(maps.expected.as_fd()), 1)?,
            knocks: Knocks::Map(maps.knocks),
            sources: Sources::Map(maps.sources),
        })
    }

    /// A number that no other tables of this process have had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many sessions there is room for. The index of a slot fits in 16 bits.
    pub fn session_slots(&self) -> u32 {
        self.sessions.count as u32
    }

    /// How many Workstations there is room for.
    pub fn workstation_slots(&self) -> u32 {
        self.credits.count as u32
    }

    /// Installs a session into a free slot: nothing of the slot's former session stays, and frames
    /// are admitted from the moment its index is written, which is last. False, and nothing
    /// changes, where there is no such slot.
    pub fn install_session(&self, slot: u16, entry: &SessionEntry) -> bool {
        let at = usize::from(slot);
        let (Some(session), Some(floor), Some(seen)) = (
            self.sessions.get(at),
            self.floors.get(at),
            self.seen.get(at),
        ) else {
            return false;
        };
        word!(session, index, AtomicU32).store(0, Ordering::SeqCst);
        word!(floor, floor, AtomicU64).store(0, Ordering::Relaxed);
        for cell in cells(&seen) {
            cell.store(0, Ordering::Relaxed);
        }
        word!(session, workstation, AtomicU32).store(entry.workstation, Ordering::Relaxed);
        for (word, key) in key_words(&session).iter().zip(entry.key) {
            word.store(key, Ordering::Relaxed);
        }
        let [a, b, c, d, e, f] = entry.peer_mac;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        word!(session, peer_mac, AtomicU64).store(mac, Ordering::Relaxed);
        word!(session, index, AtomicU32).store(entry.index, Ordering::Release);
        true
    }

    /// Takes a session out of its slot: no frame that arrives after the call returns is admitted by
    /// it. Its admission key is erased.
    pub fn remove_session(&self, slot: u16) {
        let Some(session) = self.sessions.get(usize::from(slot)) else {
            return;
        };
        word!(session, index, AtomicU32).store(0, Ordering::SeqCst);
        for word in key_words(&session) {
            word.store(0, Ordering::Release);
        }
    }

    /// Asks the CPU for the words that are written when a frame of this session has been opened.
    #[inline]
    pub fn prefetch(&self, slot: u16, workstation: u32) {
        self.floors.prefetch(usize::from(slot));
        self.credits.prefetch(workstation as usize);
    }

    /// Publishes the lowest counter that is still of interest; the owner worker does, after commit.
    #[inline]
    pub fn set_floor(&self, slot: u16, lowest: u64) {
        if let Some(floor) = self.floors.get(usize::from(slot)) {
            word!(floor, floor, AtomicU64).store(lowest, Ordering::Release);
        }
    }

    /// Frames of a Workstation that XDP has redirected to the ring.
    pub fn admitted(&self, workstation: u32) -> u64 {
        self.credits.get(workstation as usize).map_or(0, |credit| {
            word!(credit, admitted, AtomicU64).load(Ordering::Acquire)
        })
    }

    /// Publishes how many frames of a Workstation its worker has taken off the ring.
    #[inline]
    pub fn set_consumed(&self, workstation: u32, consumed: u64) {
        if let Some(credit) = self.credits.get(workstation as usize) {
            word!(credit, consumed, AtomicU64).store(consumed, Ordering::Release);
        }
    }

    /// How many frames of a Workstation are in flight, and how many may be.
    pub fn queue(&self, workstation: u32) -> (u64, u64) {
        let Some(credit) = self.credits.get(workstation as usize) else {
            return (0, 0);
        };
        // What is consumed first: it never overtakes what is admitted.
        let consumed = word!(credit, consumed, AtomicU64).load(Ordering::Acquire);
        let admitted = word!(credit, admitted, AtomicU64).load(Ordering::Acquire);
        let limit = word!(credit, limit, AtomicU64).load(Ordering::Acquire);
        // XDP counts a frame before the worker gives up one that it finds lost.
        (admitted.saturating_sub(consumed).min(limit), limit)
    }

    /// How many frames of a Workstation may be in flight; 0 admits none.
    pub fn set_limit(&self, workstation: u32, limit: u64) {
        if let Some(credit) = self.credits.get(workstation as usize) {
            word!(credit, limit, AtomicU64).store(limit, Ordering::Release);
        }
    }

    /// Makes a Workstation's slot new: nothing admitted, nothing consumed. For a slot without
    /// sessions; the limit stays.
    pub fn reset_credit(&self, workstation: u32) {
        if let Some(credit) = self.credits.get(workstation as usize) {
            word!(credit, admitted, AtomicU64).store(0, Ordering::SeqCst);
            word!(credit, consumed, AtomicU64).store(0, Ordering::SeqCst);
        }
    }

    /// Lets handshake frames of a key id in. What an entry of the same key id has counted is
    /// replaced.
    ///
    /// # Errors
    /// What the kernel answered; E2BIG when the table is full.
    pub fn install_knock(&self, key_id: u32, entry: &KnockEntry) -> io::Result<()> {
        match &self.knocks {
            Knocks::Map(map) => kernel::map_write(map.as_fd(), &key_id, entry),
            Knocks::Memory(memory) => {
                lock(memory).insert(key_id, *entry);
                Ok(())
            }
        }
    }

    /// Shuts handshake frames of a key id out. Nothing happens where none were let in.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove_knock(&self, key_id: u32) -> io::Result<()> {
        match &self.knocks {
            Knocks::Map(map) => kernel::map_remove(map.as_fd(), &key_id).map(drop),
            Knocks::Memory(memory) => {
                lock(memory).remove(&key_id);
                Ok(())
            }
        }
    }

    /// At a Workstation: the nonce of the attempt under way, which answers must carry; 0 for none.
    pub fn set_expected_nonce(&self, nonce: u64) {
        if let Some(expected) = self.expected.get(0) {
            // SAFETY: the word is inside a live mapping and aligned; both sides access it
            // atomically.
            unsafe { AtomicU64::from_ptr(expected.as_ptr()) }.store(nonce, Ordering::Release);
        }
    }

    /// The tables as they decide at a moment of the caller's choice, with or without a socket.
    pub fn at(&self, now: u64, socket: bool) -> Moment<'_> {
        Moment {
            tables: self,
            now,
            socket,
        }
    }

    fn knock_entry<R>(
        &self,
        key_id: u32,
        with: impl FnOnce(&mut KnockEntry) -> R,
    ) -> io::Result<Option<R>> {
        match &self.knocks {
            Knocks::Memory(memory) => Ok(lock(memory).get_mut(&key_id).map(with)),
            Knocks::Map(map) => {
                let mut entry = KnockEntry::default();
                if !kernel::map_read(map.as_fd(), &key_id, &mut entry)? {
                    return Ok(None);
                }
                let result = with(&mut entry);
                kernel::map_write(map.as_fd(), &key_id, &entry)?;
                Ok(Some(result))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_words<'a>(session: &NonNull<SessionEntry>) -> &'a [AtomicU64; 2] {
    // SAFETY: the record is inside a live mapping, which the caller borrows for longer than it
    // keeps the result; the words are aligned and only accessed atomically.
    unsafe { &*(&raw const (*session.as_ptr()).key).cast() }
}

fn cells<'a>(seen: &NonNull<Seen>) -> &'a [AtomicU32; SEEN_CELLS] {
    // SAFETY: as for `key_words`.
    unsafe { &*(&raw const (*seen.as_ptr()).cells).cast() }
}

/// [`PortTables`] at one moment: what XDP would find in them.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    tables: &'a PortTables,
    now: u64,
    socket: bool,
}

/// What a frame would meet, without changing it.
impl Moment<'_> {
    /// The highest mark of a cell of `SEEN`; `None` outside the tables.
    pub(crate) fn seen(&self, slot: u16, cell: usize) -> Option<u32> {
        let seen = self.tables.seen.get(slot.into())?;
        Some(cells(&seen)[cell % SEEN_CELLS].load(Ordering::Relaxed))
    }

    /// A copy of a key id's entry.
    pub(crate) fn peek_knock(&self, key_id: u32) -> Option<KnockEntry> {
        match &self.tables.knocks {
            Knocks::Memory(memory) => lock(memory).get(&key_id).copied(),
            Knocks::Map(map) => {
                let mut entry = KnockEntry::default();
                let found = kernel::map_read(map.as_fd(), &key_id, &mut entry);
                found.ok()?.then_some(entry)
            }
        }
    }

    /// A copy of a source's bucket, full where there is none.
    pub(crate) fn peek_source(&self, key: &SourceKey) -> Bucket {
        let mut bucket = Bucket::default();
        match &self.tables.sources {
            Sources::Memory(memory) => lock(memory).get(key).copied().unwrap_or_default(),
            Sources::Map(map) => {
                let _ = kernel::map_read(map.as_fd(), key, &mut bucket);
                bucket
            }
        }
    }
}

impl Tables for Moment<'_> {
    fn now(&self) -> u64 {
        self.now
    }

    fn session(&self, slot: u16) -> Option<SessionEntry> {
        let session = self.tables.sessions.get(slot.into())?;
        let index = word!(session, index, AtomicU32).load(Ordering::Acquire);
        let [k0, k1] = key_words(&session);
        let mac = word!(session, peer_mac, AtomicU64).load(Ordering::Relaxed);
        let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
        Some(SessionEntry {
            index,
            workstation: word!(session, workstation, AtomicU32).load(Ordering::Relaxed),
            key: [k0.load(Ordering::Relaxed), k1.load(Ordering::Relaxed)],
            peer_mac: [a, b, c, d, e, f],
            reserved: [0; 2],
        })
    }

    fn floor(&self, slot: u16) -> u64 {
        self.tables
            .floors
            .get(slot.into())
            .map_or(u64::MAX, |floor| {
                word!(floor, floor, AtomicU64).load(Ordering::Acquire)
            })
    }

    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool {
        let Some(seen) = self.tables.seen.get(slot.into()) else {
            return false;
        };
        let cell = &cells(&seen)[cell % SEEN_CELLS];
        let old = cell.load(Ordering::Relaxed);
        old < mark
            && cell
                .compare_exchange(old, mark, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)> {
        let credit = self.tables.credits.get(workstation as usize)?;
        Some((
            word!(credit, admitted, AtomicU64).load(Ordering::Relaxed),
            word!(credit, consumed, AtomicU64).load(Ordering::Acquire),
            word!(credit, limit, AtomicU64).load(Ordering::Relaxed),
        ))
    }

    fn charge(&self, workstation: u32) {
        if let Some(credit) = self.tables.credits.get(workstation as usize) {
            word!(credit, admitted, AtomicU64).fetch_add(1, Ordering::Release);
        }
    }

    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R> {
        self.tables.knock_entry(key_id, with).ok().flatten()
    }

    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        match &self.tables.sources {
            Sources::Memory(memory) => Some(with(lock(memory).entry(*key).or_default())),
            Sources::Map(_) => {
                // XDP alone writes these.
                Some(with(&mut self.peek_source(key)))
            }
        }
    }

    fn expected_nonce(&self) -> u64 {
        self.tables.expected.get(0).map_or(0, |expected| {
            // SAFETY: as in `set_expected_nonce`.
            unsafe { AtomicU64::from_ptr(expected.as_ptr()) }.load(Ordering::Acquire)
        })
    }

    fn redirect(&self) -> bool {
        self.socket
    }
}

impl Tables for PortTables {
    fn now(&self) -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map_or(0, |now| std::time::Duration::from(now).as_nanos() as u64)
    }

    fn session(&self, slot: u16) -> Option<SessionEntry> {
        self.at(0, true).session(slot)
    }

    fn floor(&self, slot: u16) -> u64 {
        self.at(0, true).floor(slot)
    }

    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool {
        self.at(0, true).mark_seen(slot, cell, mark)
    }

    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)> {
        self.at(0, true).credit(workstation)
    }

    fn charge(&self, workstation: u32) {
        self.at(0, true).charge(workstation);
    }

    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R> {
        self.at(0, true).knock(key_id, with)
    }

    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        self.at(0, true).source(key, with)
    }

    fn expected_nonce(&self) -> u64 {
        self.at(0, true).expected_nonce()
    }

    fn redirect(&self) -> bool {
        true
    }
}
