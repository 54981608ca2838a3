//! One AF_XDP socket: its UMEM, its four rings, and where its frames are.
//!
//! This is where frame descriptors and the kernel meet, and so where the `unsafe` is. What makes it
//! sound is one invariant: a descriptor is in one place only. It is in the pool, in a token the
//! caller holds, or given to the kernel; it goes from one to the next by value.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::{io, ptr, slice};

use xsk_rs::socket::XdpStatistics;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::super::pool::Pool;
use super::{FrameCensus, PortError};

/// Descriptors moved off a ring at a time.
const SCRATCH: usize = 64;

/// The kernel's smallest send batch in copy mode, where its budget cannot be set.
const LEAST_BATCH: usize = 32;

pub(super) struct Queue {
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
    fill: FillQueue,
    completion: CompQueue,
    pool: Pool<FrameDesc>,
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
    pub(super) frames: Vec<FrameDesc>,
    pub(super) frame_size: u32,
    pub(super) ring_size: u32,
    pub(super) huge_pages: bool,
    pub(super) rings: (TxQueue, RxQueue, FillQueue, CompQueue),
}

impl Queue {
    /// The queue, its fill ring full.
    pub(super) fn new(parts: Parts) -> Self {
        let (tx, rx, fill, completion) = parts.rings;
        let mut queue = Self {
            number: parts.number,
            zero_copy: false,
            huge_pages: parts.huge_pages,
            tx_budget: LEAST_BATCH as u32,
            busy_poll: false,
            interface: parts.interface,
            umem: parts.umem,
            tx,
            rx,
            fill,
            completion,
            blank: parts.frames.as_slice().into(),
            pool: Pool::new(parts.frames, 2 * parts.ring_size as usize),
            pending: Vec::with_capacity(parts.ring_size as usize),
            scratch: [FrameDesc::default(); SCRATCH],
            frame_shift: parts.frame_size.trailing_zeros(),
            ring_size: parts.ring_size,
            starved: false,
        };
        queue.produce_fill();
        queue
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

    /// The descriptor of `desc`'s frame as it was made; `None` when the address is outside the UMEM.
    #[inline]
    fn blank(&self, desc: &FrameDesc) -> Option<FrameDesc> {
        self.blank.get(desc.addr() >> self.frame_shift).copied()
    }

    /// Hands up to `max` received frames to `take`.
    #[inline]
    pub(super) fn receive(&mut self, max: usize, mut take: impl FnMut(FrameDesc)) -> usize {
        if self.busy_poll && self.starved {
            // What is wrong with the socket is found at the next flush.
            let _ = self.check();
        }
        let mut count = 0;
        while count < max {
            let want = (max - count).min(SCRATCH);
            // SAFETY: the ring's descriptors are of this UMEM, the only one of this socket.
            let got = unsafe { self.rx.consume(&mut self.scratch[..want]) };
            if got == 0 {
                break;
            }
            for desc in &self.scratch[..got] {
                debug_assert!(self.blank(desc).is_some(), "a frame outside the UMEM");
                take(*desc);
            }
            self.pool.received(got);
            count += got;
        }
        self.starved = count == 0;
        count
    }

    #[inline]
    pub(super) fn reserve(&mut self) -> Option<FrameDesc> {
        if let Some(desc) = self.pool.reserve() {
            return Some(desc);
        }
        self.reap();
        self.pool.reserve()
    }

    #[inline]
    pub(super) fn release(&mut self, desc: FrameDesc, was_received: bool) {
        // The XDP program or the driver may have moved the packet's start; a free frame starts where
        // it always did, with length 0.
        let desc = self.blank(&desc).unwrap_or(desc);
        self.pool.release(desc, was_received);
    }

    /// Whether there was room on the send ring.
    #[inline]
    pub(super) fn send(&mut self, mut desc: FrameDesc, was_received: bool) -> bool {
        let wanted = self.pending.len() as u32 + 1;
        if self.tx.nb_free(wanted) < wanted {
            return false;
        }
        // Options describe what was received; those of a frame to be sent mean other things.
        desc.set_options(0);
        self.pool.sent(was_received);
        self.pending.push(desc);
        true
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
        let stash = self.pool.stash();
        if stash.is_empty() {
            return 0;
        }
        let count = stash
            .len()
            .min(self.fill.nb_free(stash.len() as u32) as usize);
        // SAFETY: frames in the stash are this UMEM's and nobody's else; on success they leave it.
        let produced = unsafe { self.fill.produce(&stash[stash.len() - count..]) };
        drop(self.pool.filled(produced));
        produced
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
    pub(super) fn data<'a>(&'a self, desc: &'a FrameDesc) -> &'a [u8] {
        // SAFETY: the token that the descriptor is from makes its holder the frame's only user, and
        // the caller checked that it is this port's.
        unsafe { self.umem.data(desc) }.contents()
    }

    #[inline]
    pub(super) fn data_mut<'a>(&'a mut self, desc: &'a mut FrameDesc) -> &'a mut [u8] {
        // SAFETY: as in `data`.
        let mut data = unsafe { self.umem.data_mut(desc) };
        let bytes = data.contents_mut();
        let (start, len) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same slice again, for as long as both port and token are borrowed for writing;
        // the crate's own accessor ends with its temporary.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    pub(super) fn set_len(&mut self, desc: &mut FrameDesc, len: usize) {
        // SAFETY: as in `data`.
        unsafe { self.umem.data_mut(desc) }.cursor().set_pos(len);
    }
}

fn errno_of(answer: libc::ssize_t) -> i32 {
    if answer >= 0 {
        return 0;
    }
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}
