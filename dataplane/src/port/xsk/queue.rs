//! One AF_XDP socket: its UMEM, its four rings, and where its frames are.
//!
//! This is where frame descriptors and the kernel meet, and so where the `unsafe` is. What makes it
//! sound is one invariant: a descriptor is in one place only. It is in the pool, in a token the
//! caller holds, or given to the kernel; it goes from one to the next by value.
//!
//! A frame that does not fit a chunk is a chain of descriptors here and a [`Linear`] buffer in the
//! token, which keeps the chain's first descriptor.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::{io, ptr, slice};

use xsk_rs::socket::XdpStatistics;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::super::linear::{self, Linear, Linears};
use super::super::pool::Pool;
use super::bind::HEADROOM;
use super::fill::FillRing;
use super::{FrameCensus, PortError};

/// Descriptors moved off a ring at a time.
const SCRATCH: usize = 64;

/// The kernel's smallest send batch in copy mode, where its budget cannot be set.
const LEAST_BATCH: usize = 32;

/// On all descriptors of a frame but its last (XDP_PKT_CONTD).
const MORE_FOLLOWS: u32 = 1;

/// A frame as a token holds it.
#[derive(Debug)]
pub(super) struct Held {
    desc: FrameDesc,
    /// Where it is, when that is not in the descriptor's chunk.
    linear: Option<Linear>,
}

impl Held {
    #[inline]
    fn chunk(desc: FrameDesc) -> Self {
        Self { desc, linear: None }
    }
}

pub(super) struct Queue {
    // Unmapped before the socket is closed.
    fill: FillRing,
    pub(super) number: u32,
    pub(super) zero_copy: bool,
    pub(super) huge_pages: bool,
    pub(super) tx_budget: u32,
    /// The kernel polls the driver when it is asked how the socket is.
    pub(super) busy_poll: bool,
    interface: Arc<str>,
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    /// libxdp's view of the fill ring, which keeps its mapping; never written to.
    _fill: FillQueue,
    completion: CompQueue,
    pool: Pool<FrameDesc>,
    linears: Linears<FrameDesc>,
    /// Bytes of a frame that one chunk holds.
    chunk: usize,
    /// Each frame's descriptor as it was made, by number: empty, at the usual offset.
    blank: Box<[FrameDesc]>,
    /// Sent by the caller, not on the ring yet.
    pending: Vec<FrameDesc>,
    scratch: [FrameDesc; SCRATCH],
    frame_shift: u32,
    ring_size: u32,
    /// Receives since the fill ring was last looked at brought nothing.
    starved: bool,
}

/// What [`Queue::new`] is made of.
pub(super) struct Parts {
    pub(super) number: u32,
    pub(super) interface: Arc<str>,
    pub(super) umem: Umem,
    /// Each frame's descriptor as it was made.
    pub(super) blank: Box<[FrameDesc]>,
    /// Where each is.
    pub(super) pool: Pool<FrameDesc>,
    /// Full.
    pub(super) fill: FillRing,
    pub(super) linears: Linears<FrameDesc>,
    pub(super) frame_size: u32,
    pub(super) ring_size: u32,
    pub(super) huge_pages: bool,
    pub(super) rings: (TxQueue, RxQueue, FillQueue, CompQueue),
}

impl Queue {
    /// The queue of a socket that is bound.
    pub(super) fn new(parts: Parts) -> Self {
        let (tx, rx, fill, completion) = parts.rings;
        Self {
            fill: parts.fill,
            number: parts.number,
            zero_copy: false,
            huge_pages: parts.huge_pages,
            tx_budget: LEAST_BATCH as u32,
            busy_poll: false,
            interface: parts.interface,
            umem: parts.umem,
            tx,
            rx,
            _fill: fill,
            completion,
            blank: parts.blank,
            pool: parts.pool,
            linears: parts.linears,
            chunk: (parts.frame_size - HEADROOM) as usize,
            pending: Vec::with_capacity(parts.ring_size as usize),
            scratch: [FrameDesc::default(); SCRATCH],
            frame_shift: parts.frame_size.trailing_zeros(),
            ring_size: parts.ring_size,
            starved: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as the rings are, which are fields of this struct.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    pub(super) fn census(&self) -> FrameCensus {
        self.pool.census()
    }

    pub(super) fn kernel_statistics(&self) -> io::Result<XdpStatistics> {
        self.rx.fd().xdp_statistics()
    }

    /// Frames dropped because they were larger than a frame can be.
    pub(super) fn too_large(&self) -> u64 {
        self.linears.too_large()
    }

    /// The descriptor of `desc`'s frame as it was made; `None` when the address is outside the UMEM.
    #[inline]
    fn blank(&self, desc: &FrameDesc) -> Option<FrameDesc> {
        self.blank.get(desc.addr() >> self.frame_shift).copied()
    }

    /// Hands up to `max` received frames to `take`.
    #[inline]
    pub(super) fn receive(&mut self, max: usize, mut take: impl FnMut(Held)) -> usize {
        if self.busy_poll && self.starved {
            // What is wrong with the socket is found at the next flush.
            let _ = self.check();
        }
        let (mut count, mut chunks) = (0, 0);
        while count < max {
            // Were all of them frames of their own, there would not be too many.
            let want = (max - count).min(SCRATCH);
            // SAFETY: the ring's descriptors are of this UMEM, the only one of this socket.
            let got = unsafe { self.rx.consume(&mut self.scratch[..want]) };
            if got == 0 {
                break;
            }
            self.pool.received(got);
            chunks += got;
            for at in 0..got {
                let desc = self.scratch[at];
                debug_assert!(self.blank(&desc).is_some(), "a frame outside the UMEM");
                if !desc.has_more_frames() && !self.linears.is_receiving() {
                    take(Held::chunk(desc));
                    count += 1;
                } else if let Some(held) = self.gather(desc) {
                    take(held);
                    count += 1;
                }
            }
        }
        self.starved = chunks == 0;
        count
    }

    /// Takes in one descriptor of a chain. The frame, when it is the last.
    fn gather(&mut self, desc: FrameDesc) -> Option<Held> {
        let more = desc.has_more_frames();
        // SAFETY: the descriptor came off the receive ring just now, so nobody else uses its chunk,
        // and it goes back to the pool only after its bytes were copied.
        let piece = unsafe { self.umem.data(&desc) }.contents();
        let (pool, blanks, shift) = (&mut self.pool, &self.blank, self.frame_shift);
        let release = |desc: FrameDesc| {
            let blank = blanks.get(desc.addr() >> shift).copied();
            pool.release(blank.unwrap_or(desc), true);
        };
        let (desc, linear) = self.linears.receive(desc, piece, more, release)?;
        Some(Held {
            desc,
            linear: Some(linear),
        })
    }

    #[inline]
    pub(super) fn reserve(&mut self) -> Option<Held> {
        if let Some(desc) = self.pool.reserve() {
            return Some(Held::chunk(desc));
        }
        self.reap();
        self.pool.reserve().map(Held::chunk)
    }

    #[inline]
    pub(super) fn release(&mut self, held: Held, was_received: bool) {
        if let Some(linear) = held.linear {
            self.linears.give_back(linear);
        }
        // The XDP program or the driver may have moved the packet's start; a free frame starts where
        // it always did, with length 0.
        let desc = self.blank(&held.desc).unwrap_or(held.desc);
        self.pool.release(desc, was_received);
    }

    /// Puts a frame on its way to the send ring; gives it back where that has no room.
    #[inline]
    pub(super) fn send(&mut self, held: Held, was_received: bool) -> Result<(), Held> {
        let Held { mut desc, linear } = held;
        if let Some(linear) = linear {
            return self.scatter(desc, linear, was_received);
        }
        if !self.has_room(1) {
            return Err(Held::chunk(desc));
        }
        // Options describe what was received; those of a frame to be sent mean other things.
        desc.set_options(0);
        self.pool.sent(was_received);
        self.pending.push(desc);
        Ok(())
    }

    /// Whether the send ring has room for `count` more than is pending.
    #[inline]
    fn has_room(&mut self, count: usize) -> bool {
        let wanted = (self.pending.len() + count) as u32;
        self.tx.nb_free(wanted) >= wanted
    }

    /// Sends a frame that is in a buffer: copies it into as many chunks as it needs, its own first.
    fn scatter(
        &mut self,
        first: FrameDesc,
        linear: Linear,
        was_received: bool,
    ) -> Result<(), Held> {
        let pieces = linear.len().div_ceil(self.chunk).max(1);
        if self.pool.census().free + 1 < pieces {
            self.reap();
        }
        if self.pool.census().free + 1 < pieces || !self.has_room(pieces) {
            return Err(Held {
                desc: first,
                linear: Some(linear),
            });
        }
        let mut desc = self.blank(&first).unwrap_or(first);
        let mut was_received = was_received;
        for piece in 0..pieces {
            let rest = &self.linears.data(&linear)[piece * self.chunk..];
            let part = &rest[..rest.len().min(self.chunk)];
            // SAFETY: the chunk is the frame's own or was just reserved, so nobody else uses it.
            let mut chunk = unsafe { self.umem.data_mut(&mut desc) };
            chunk.cursor().set_pos(part.len());
            chunk.contents_mut().copy_from_slice(part);
            let is_last = piece + 1 == pieces;
            desc.set_options(if is_last { 0 } else { MORE_FOLLOWS });
            self.pool.sent(std::mem::take(&mut was_received));
            self.pending.push(desc);
            if !is_last && let Some(next) = self.pool.reserve() {
                desc = next;
            }
        }
        self.linears.give_back(linear);
        Ok(())
    }

    /// Takes completed frames back. How many there were.
    #[inline]
    fn reap(&mut self) -> usize {
        let mut count = 0;
        loop {
            // SAFETY: the ring's descriptors are of this UMEM, the only one of this socket.
            let got = unsafe { self.completion.consume(&mut self.scratch) };
            for desc in &self.scratch[..got] {
                let desc = self.blank(desc).unwrap_or(*desc);
                self.pool.completed(desc);
            }
            count += got;
            if got < SCRATCH {
                return count;
            }
        }
    }

    /// Moves the stash to the fill ring, as far as it has room. How many frames went.
    #[inline]
    fn produce_fill(&mut self) -> usize {
        fill_up(&mut self.fill, &mut self.pool)
    }

    /// See [`super::Port::flush`].
    pub(super) fn flush(&mut self) -> Result<usize, PortError> {
        self.reap();
        let filled = self.produce_fill();
        // A driver that found the fill ring empty sleeps until it is woken, also when what woke us
        // left nothing to fill it with. In copy mode no driver takes part.
        let asleep = self.fill.needs_wakeup()
            || (self.zero_copy
                && self.starved
                && filled == 0
                && self.fill.nb_free(2 * self.ring_size) >= 2 * self.ring_size);
        if asleep {
            self.check()?;
        }
        if !self.pending.is_empty() {
            // SAFETY: pending frames are this UMEM's and nobody's else; `send` saw the room for them.
            let produced = unsafe { self.tx.produce(&self.pending) };
            debug_assert_eq!(produced, self.pending.len(), "the send ring lost room");
            self.pending.drain(..produced);
        }
        self.transmit()
    }

    /// Frames on the send ring that the kernel has not taken.
    #[inline]
    fn untaken(&mut self) -> usize {
        // Asking for the whole ring makes libxdp read the real cursor unless the ring is empty.
        (self.ring_size - self.tx.nb_free(self.ring_size).min(self.ring_size)) as usize
    }

    /// Rings the doorbell until the send ring is drained or the kernel makes no progress.
    fn transmit(&mut self) -> Result<usize, PortError> {
        let mut left = self.untaken();
        let mut calls = left / LEAST_BATCH + 2;
        while left > 0 && calls > 0 && self.tx.needs_wakeup() {
            calls -= 1;
            let answer = self.send_doorbell();
            let reaped = self.reap();
            match answer {
                // A driver with zero-copy has been told; it takes the frames in its own time.
                0 if self.zero_copy => return Ok(0),
                // Budget spent, driver or memory busy: what is left goes with the next call.
                0 | libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR => {}
                errno => return Err(self.error("sendto", errno)),
            }
            let now = self.untaken();
            if now >= left && reaped == 0 {
                return Ok(now);
            }
            left = now;
        }
        if self.zero_copy {
            return Ok(0);
        }
        Ok(left)
    }

    /// `sendto` with nothing to send: the kernel works off the send ring. 0, or the errno.
    fn send_doorbell(&self) -> i32 {
        // xsk-rs has a call for this, but it takes ENETDOWN for success.
        // SAFETY: no buffer and no address are passed.
        let answer = unsafe {
            libc::sendto(
                self.tx.fd().as_raw_fd(),
                ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null(),
                0,
            )
        };
        errno_of(answer)
    }

    /// `recvfrom` with nothing to receive into: wakes a sleeping driver, and tells whether the socket
    /// is still bound and its link up.
    pub(super) fn check(&self) -> Result<(), PortError> {
        // SAFETY: no buffer and no address are passed.
        let answer = unsafe {
            libc::recvfrom(
                self.rx.fd().as_raw_fd(),
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        match errno_of(answer) {
            0 | libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR => Ok(()),
            errno => Err(self.error("recvfrom", errno)),
        }
    }

    fn error(&self, call: &'static str, errno: i32) -> PortError {
        PortError::of(&self.interface, self.number, call, errno)
    }

    #[inline]
    pub(super) fn data<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        if let Some(linear) = &held.linear {
            return self.linears.data(linear);
        }
        // SAFETY: the token that the descriptor is from makes its holder the frame's only user, and
        // the caller checked that it is this port's.
        unsafe { self.umem.data(&held.desc) }.contents()
    }

    #[inline]
    pub(super) fn data_mut<'a>(&'a mut self, held: &'a mut Held) -> &'a mut [u8] {
        if let Some(linear) = &held.linear {
            return self.linears.data_mut(linear);
        }
        // SAFETY: as in `data`.
        let mut data = unsafe { self.umem.data_mut(&mut held.desc) };
        let bytes = data.contents_mut();
        let (start, len) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same slice again, for as long as both port and token are borrowed for writing;
        // the crate's own accessor ends with its temporary.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    /// `len` is at most the port's capacity.
    #[inline]
    pub(super) fn set_len(&mut self, held: &mut Held, len: usize) {
        if held.linear.is_some() || len > self.chunk {
            return self.set_linear_len(held, len);
        }
        // SAFETY: as in `data`.
        unsafe { self.umem.data_mut(&mut held.desc) }
            .cursor()
            .set_pos(len);
    }

    /// The same for a frame that is in a buffer, or has to move into one.
    fn set_linear_len(&mut self, held: &mut Held, len: usize) {
        if held.linear.is_none()
            && let Some(mut linear) = self.linears.take()
        {
            // SAFETY: as in `data`.
            let so_far = unsafe { self.umem.data(&held.desc) }.contents();
            self.linears.append(&mut linear, so_far);
            held.linear = Some(linear);
        }
        if let Some(linear) = &mut held.linear {
            Linears::<FrameDesc>::set_len(linear, len);
        }
    }
}

/// Moves the stash to the fill ring, as far as that has room. How many frames went.
#[inline]
pub(super) fn fill_up(fill: &mut FillRing, pool: &mut Pool<FrameDesc>) -> usize {
    let stash = pool.stash();
    if stash.is_empty() {
        return 0;
    }
    let count = stash.len().min(fill.nb_free(stash.len() as u32) as usize);
    // SAFETY: frames in the stash are of the socket's memory and nobody's else; on success they leave it.
    let produced = unsafe { fill.produce(&stash[stash.len() - count..]) };
    drop(pool.filled(produced));
    produced
}

/// Bytes of the largest frame that a port receives and sends in pieces.
pub(super) const LARGEST: usize = linear::CAPACITY;

fn errno_of(answer: libc::ssize_t) -> i32 {
    if answer >= 0 {
        return 0;
    }
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}
