//! A port in memory: the rings of an AF_XDP socket without a kernel, for tests and benchmarks.
//!
//! It keeps the kernel's rules. There is a fixed number of frames; a frame is received only into one
//! that waits in the fill ring, else it is lost and counted; every ring is bounded; what is sent
//! leaves at [`Port::flush`] and comes back through the completion ring later. The other end of the
//! cable is a [`FarEnd`]: it injects Ethernet frames as if they had arrived (through an admission
//! function, where one is set, in the place of the XDP program), takes what was sent, and makes the
//! kernel misbehave on request ([`Faults`]). [`join`] plugs two ports into each other, so that two
//! workers, on one thread or two, talk without a kernel.
//!
//! A frame is an owned allocation made when the port was opened: tokens hold it, rings hold it, and between joined ports the filled and the empty one
//! change places instead of being copied. So nothing is allocated or copied for a frame, and
//! nothing here is `unsafe`. A lock is taken per batch, not per frame.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::pool::Pool;
use super::ring::Ring;
use super::{Port, PortError, RingStatistics};

/// Decides whether a frame reaches the receive ring, as the XDP program does.
pub type Admission = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// Sizes of a memory port.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// Entries of the receive, send and completion rings; a power of two. The fill ring has twice as
    /// many.
    pub ring_size: u32,
    /// Frames in all; at least three times the ring size lets every ring be full at once.
    pub frames: u32,
    /// Bytes a frame holds.
    pub capacity: usize,
    /// Where every ring's cursors start.
    pub first_cursor: u32,
    /// Whether the port has a descriptor to wait on. It costs system calls when the receive ring
    /// becomes empty or ceases to be.
    pub wakeups: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            ring_size: 2048,
            frames: 6144,
            capacity: 1792,
            first_cursor: 0,
            wakeups: false,
        }
    }
}

/// What goes wrong from now on. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The kernel finds no frame in the fill ring.
    pub fill_ring_empty: bool,
    /// The fill ring takes no frames, as it does between the kernel using an entry and saying so.
    pub fill_ring_full: bool,
    /// The send ring has no room.
    pub send_ring_full: bool,
    /// Sent frames do not come back.
    pub completions_held: bool,
    /// The answer to the doorbell: `EAGAIN` (nothing is taken from the send ring this time),
    /// `ENETDOWN`, `ENXIO` or another errno.
    pub doorbell: Option<i32>,
}

/// The same, where the port reads it without a lock.
#[derive(Debug, Default)]
struct Switches {
    fill_ring_empty: AtomicBool,
    fill_ring_full: AtomicBool,
    send_ring_full: AtomicBool,
    completions_held: AtomicBool,
    doorbell: AtomicI32,
}

/// One frame: its memory, its number and what is in it. It is made once and then handed about as a
/// pointer, because a token is moved several times for each frame.
#[derive(Debug)]
struct Cell {
    bytes: Box<[u8]>,
    len: usize,
    number: u32,
    owner: u32,
    received: bool,
}

type Slot = Box<Cell>;

/// The receiving side of the kernel.
struct Ingress {
    fill: Ring<Slot>,
    rx: Ring<Slot>,
    admission: Option<Admission>,
    switches: Arc<Switches>,
    wakeup: Option<Arc<EventFd>>,
    rx_ring_full: u64,
    fill_ring_empty: u64,
    rx_dropped: u64,
    refused: u64,
}

impl Ingress {
    /// A frame to receive `frame` into, if it is admitted, fits, and there is one.
    fn accept(&mut self, frame: &[u8]) -> Option<Slot> {
        if let Some(admission) = &mut self.admission
            && !admission(frame)
        {
            self.refused += 1;
            return None;
        }
        if self.rx.room() == 0 {
            self.rx_ring_full += 1;
            return None;
        }
        if self.switches.fill_ring_empty.load(Relaxed) {
            self.fill_ring_empty += 1;
            return None;
        }
        let Some(slot) = self.fill.pop() else {
            self.fill_ring_empty += 1;
            return None;
        };
        if frame.len() > slot.bytes.len() {
            self.rx_dropped += 1;
            // There was room a moment ago: it came from there.
            let _ = self.fill.push(slot);
            return None;
        }
        Some(slot)
    }

    fn deliver(&mut self, slot: Slot) {
        if self.rx.is_empty()
            && let Some(wakeup) = &self.wakeup
        {
            // It fails only when the counter is full, and then it is readable already.
            let _ = wakeup.write(1);
        }
        // `accept` saw the room.
        let _ = self.rx.push(slot);
    }

    fn inject(&mut self, frame: &[u8]) -> bool {
        let Some(mut slot) = self.accept(frame) else {
            return false;
        };
        slot.bytes[..frame.len()].copy_from_slice(frame);
        slot.len = frame.len();
        self.deliver(slot);
        true
    }

    /// Receives `sent` by exchanging its memory for that of an empty frame of the same size.
    fn exchange(&mut self, sent: &mut Cell) -> bool {
        let Some(mut slot) = self.accept(&sent.bytes[..sent.len]) else {
            return false;
        };
        slot.len = sent.len;
        if slot.bytes.len() == sent.bytes.len() {
            std::mem::swap(&mut slot.bytes, &mut sent.bytes);
        } else {
            slot.bytes[..sent.len].copy_from_slice(&sent.bytes[..sent.len]);
        }
        self.deliver(slot);
        true
    }
}

/// The sending side of the kernel.
struct Egress {
    tx: Ring<Slot>,
    completion: Ring<Slot>,
    peer: Option<Arc<Mutex<Ingress>>>,
}

impl Egress {
    /// Moves what the peer can be given: everything, as far as the completion ring has room.
    fn transmit(&mut self) {
        let Some(peer) = &self.peer else { return };
        if self.tx.is_empty() {
            return;
        }
        let mut peer = locked(peer);
        while self.completion.room() > 0 {
            let Some(mut sent) = self.tx.pop() else { break };
            peer.exchange(&mut sent);
            // The loop saw the room.
            let _ = self.completion.push(sent);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked was a test's admission function or reader; the rings are whole between calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token for one frame of a [`MemoryPort`].
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released is lost to its port"]
pub struct MemoryFrame(Slot);

impl MemoryFrame {
    /// The number of the frame within its port.
    pub fn number(&self) -> u32 {
        self.0.number
    }
}

/// The near end: what the worker has.
pub struct MemoryPort {
    id: u32,
    name: Arc<str>,
    capacity: usize,
    ring_size: usize,
    pool: Pool<Slot>,
    /// Sent by the worker, not flushed yet.
    pending: Vec<Slot>,
    /// Frames in the kernel's send ring when it was last looked at.
    in_ring: usize,
    ingress: Arc<Mutex<Ingress>>,
    egress: Arc<Mutex<Egress>>,
    switches: Arc<Switches>,
    wakeup: Option<Arc<EventFd>>,
}

/// The other end of a port's cable, and the levers of the kernel in between. It may be used from
/// another thread.
#[derive(Clone)]
pub struct FarEnd {
    ingress: Arc<Mutex<Ingress>>,
    egress: Arc<Mutex<Egress>>,
    switches: Arc<Switches>,
}

/// Plugs the two ports whose far ends these are into each other: what one flushes, the other
/// receives. [`FarEnd::take`] has nothing to take from then on; the rest keeps working.
pub fn join(one: &FarEnd, other: &FarEnd) {
    locked(&one.egress).peer = Some(Arc::clone(&other.ingress));
    locked(&other.egress).peer = Some(Arc::clone(&one.ingress));
}

impl MemoryPort {
    /// A port and the far end of its cable, the fill ring full.
    ///
    /// # Errors
    /// When a descriptor to wait on was asked for and the kernel gave none.
    pub fn open(config: &MemoryConfig) -> std::io::Result<(Self, FarEnd)> {
        static IDS: AtomicU32 = AtomicU32::new(0);
        let id = IDS.fetch_add(1, Relaxed);
        let start = config.first_cursor;
        let switches = Arc::new(Switches::default());
        let wakeup = if config.wakeups {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            Some(Arc::new(EventFd::from_value_and_flags(0, flags)?))
        } else {
            None
        };
        let fill = Ring::new(config.ring_size.saturating_mul(2), start);
        let slots = (0..config.frames)
            .map(|number| {
                Box::new(Cell {
                    bytes: vec![0; config.capacity].into_boxed_slice(),
                    len: 0,
                    number,
                    owner: id,
                    received: false,
                })
            })
            .collect();
        let pool = Pool::new(slots, fill.size());
        let ingress = Ingress {
            fill,
            rx: Ring::new(config.ring_size, start),
            admission: None,
            switches: Arc::clone(&switches),
            wakeup: wakeup.clone(),
            rx_ring_full: 0,
            fill_ring_empty: 0,
            rx_dropped: 0,
            refused: 0,
        };
        let egress = Egress {
            tx: Ring::new(config.ring_size, start),
            completion: Ring::new(config.ring_size, start),
            peer: None,
        };
        let ring_size = egress.tx.size();
        let far = FarEnd {
            ingress: Arc::new(Mutex::new(ingress)),
            egress: Arc::new(Mutex::new(egress)),
            switches: Arc::clone(&switches),
        };
        let mut port = Self {
            id,
            name: format!("memory{id}").into(),
            capacity: config.capacity,
            ring_size,
            pool,
            pending: Vec::with_capacity(ring_size),
            in_ring: 0,
            ingress: Arc::clone(&far.ingress),
            egress: Arc::clone(&far.egress),
            switches,
            wakeup,
        };
        port.refill();
        Ok((port, far))
    }

    /// Two ports joined to each other, with the far ends of both for their levers.
    ///
    /// # Errors
    /// As [`MemoryPort::open`].
    pub fn pair(config: &MemoryConfig) -> std::io::Result<[(Self, FarEnd); 2]> {
        let (one, other) = (Self::open(config)?, Self::open(config)?);
        join(&one.1, &other.1);
        Ok([one, other])
    }

    #[inline]
    fn own(&self, frame: &MemoryFrame) {
        assert_eq!(frame.0.owner, self.id, "the frame belongs to another port");
    }

    fn refill(&mut self) {
        if self.pool.stash().is_empty() || self.switches.fill_ring_full.load(Relaxed) {
            return;
        }
        let mut ingress = locked(&self.ingress);
        let count = self.pool.stash().len().min(ingress.fill.room());
        for slot in self.pool.filled(count) {
            // Counted against the room just now.
            let _ = ingress.fill.push(slot);
        }
    }

    /// Takes completed frames back; `egress` is the port's own, locked.
    fn reap(&mut self, egress: &mut Egress) {
        if self.switches.completions_held.load(Relaxed) {
            return;
        }
        while let Some(slot) = egress.completion.pop() {
            self.pool.completed(slot);
        }
    }
}

impl Port for MemoryPort {
    type Frame = MemoryFrame;

    fn receive(&mut self, into: &mut Vec<MemoryFrame>, max: usize) -> usize {
        let mut ingress = locked(&self.ingress);
        let count = ingress.rx.len().min(max);
        for mut slot in std::iter::from_fn(|| ingress.rx.pop()).take(count) {
            slot.received = true;
            into.push(MemoryFrame(slot));
        }
        if count > 0
            && ingress.rx.is_empty()
            && let Some(wakeup) = &self.wakeup
        {
            // Nothing to read means that it is not readable, which is the aim.
            let _ = wakeup.read();
        }
        drop(ingress);
        self.pool.received(count);
        count
    }

    #[inline]
    fn reserve(&mut self) -> Option<MemoryFrame> {
        let mut slot = match self.pool.reserve() {
            Some(slot) => slot,
            None => {
                let egress = Arc::clone(&self.egress);
                self.reap(&mut locked(&egress));
                self.pool.reserve()?
            }
        };
        (slot.len, slot.received) = (0, false);
        Some(MemoryFrame(slot))
    }

    #[inline]
    fn release(&mut self, frame: MemoryFrame) {
        self.own(&frame);
        let received = frame.0.received;
        self.pool.release(frame.0, received);
    }

    #[inline]
    fn send(&mut self, frame: MemoryFrame) -> Result<(), MemoryFrame> {
        self.own(&frame);
        if self.switches.send_ring_full.load(Relaxed) {
            return Err(frame);
        }
        if self.pending.len() + self.in_ring >= self.ring_size {
            self.in_ring = locked(&self.egress).tx.len();
            if self.pending.len() + self.in_ring >= self.ring_size {
                return Err(frame);
            }
        }
        self.pool.sent(frame.0.received);
        self.pending.push(frame.0);
        Ok(())
    }

    fn flush(&mut self) -> Result<usize, PortError> {
        self.refill();
        let shared = Arc::clone(&self.egress);
        let mut egress = locked(&shared);
        self.reap(&mut egress);
        let doorbell = self.switches.doorbell.load(Relaxed);
        match doorbell {
            0 => {}
            libc::EAGAIN => return Ok(self.pending.len()),
            errno => return Err(PortError::of(&self.name, 0, "sendto", errno)),
        }
        for slot in self.pending.drain(..) {
            // `send` kept within the ring, and only the far end takes from it.
            let _ = egress.tx.push(slot);
        }
        egress.transmit();
        self.reap(&mut egress);
        if egress.peer.is_some() && !egress.tx.is_empty() {
            // The completion ring was full and has room now.
            egress.transmit();
            self.reap(&mut egress);
        }
        self.in_ring = egress.tx.len();
        Ok(if egress.peer.is_some() {
            self.in_ring
        } else {
            0
        })
    }

    #[inline]
    fn data<'a>(&'a self, frame: &'a MemoryFrame) -> &'a [u8] {
        self.own(frame);
        &frame.0.bytes[..frame.0.len]
    }

    #[inline]
    fn data_mut<'a>(&'a mut self, frame: &'a mut MemoryFrame) -> &'a mut [u8] {
        self.own(frame);
        {
            let cell = &mut *frame.0;
            &mut cell.bytes[..cell.len]
        }
    }

    #[inline]
    fn set_len(&mut self, frame: &mut MemoryFrame, len: usize) {
        self.own(frame);
        frame.0.len = len.min(frame.0.bytes.len());
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn statistics(&self) -> RingStatistics {
        let ingress = locked(&self.ingress);
        RingStatistics {
            rx_ring_full: ingress.rx_ring_full,
            fill_ring_empty: ingress.fill_ring_empty,
            rx_dropped: ingress.rx_dropped,
            tx_invalid: 0,
            frames: self.pool.census(),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wakeup.as_ref().map(|wakeup| wakeup.as_fd())
    }
}

impl FarEnd {
    /// A frame arrives. Whether it reached the receive ring; if not, it is lost and counted.
    pub fn inject(&self, frame: &[u8]) -> bool {
        locked(&self.ingress).inject(frame)
    }

    /// Frames arrive, one after the other. How many reached the receive ring.
    pub fn inject_all<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let mut ingress = locked(&self.ingress);
        frames
            .into_iter()
            .filter(|frame| ingress.inject(frame))
            .count()
    }

    /// Takes up to `max` sent frames off the send ring, in order, showing each to `read`, and
    /// completes them. How many there were.
    pub fn take(&self, max: usize, mut read: impl FnMut(&[u8])) -> usize {
        let mut egress = locked(&self.egress);
        let mut count = 0;
        while count < max && egress.completion.room() > 0 {
            let Some(sent) = egress.tx.pop() else { break };
            read(&sent.bytes[..sent.len]);
            // The loop saw the room.
            let _ = egress.completion.push(sent);
            count += 1;
        }
        count
    }

    /// Frames go through `admission` from now on; those it refuses are dropped and counted.
    pub fn set_admission(&self, admission: Admission) {
        locked(&self.ingress).admission = Some(admission);
    }

    /// Frames that the admission function refused.
    pub fn refused(&self) -> u64 {
        locked(&self.ingress).refused
    }

    /// Makes the kernel misbehave, or stop doing so.
    pub fn set_faults(&self, faults: Faults) {
        let switches = &self.switches;
        switches
            .fill_ring_empty
            .store(faults.fill_ring_empty, Relaxed);
        switches
            .fill_ring_full
            .store(faults.fill_ring_full, Relaxed);
        switches
            .send_ring_full
            .store(faults.send_ring_full, Relaxed);
        switches
            .completions_held
            .store(faults.completions_held, Relaxed);
        switches
            .doorbell
            .store(faults.doorbell.unwrap_or(0), Relaxed);
    }
}
