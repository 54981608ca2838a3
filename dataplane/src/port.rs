//! A port: a receive ring, a send ring and the memory their frames live in.
//!
//! The worker sees only this trait. [`xsk`] is the real one (an AF_XDP socket per receive queue),
//! [`memory`] a pair of rings in memory with the same rules, for tests and benchmarks without root.

use std::io;
use std::os::fd::BorrowedFd;

/// Losses and levels of a port's rings, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingStatistics {
    /// Frames the kernel dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// Frames the kernel dropped for other reasons (too large for a UMEM frame, for one).
    pub rx_dropped: u64,
    /// Descriptors the kernel refused to send.
    pub tx_invalid: u64,
    /// Frames in the fill ring, receive ring, send ring and completion ring, held by the worker,
    /// in the stash and free. Their sum is the UMEM's frame count.
    pub frames: FrameCensus,
}

/// Where a port's frames are. The sum never changes: a frame is somewhere, once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCensus {
    /// Given to the kernel to receive into (fill ring, and frames received but not yet taken).
    pub receiving: usize,
    /// Given to the kernel to send, not yet completed.
    pub sending: usize,
    /// Held by the caller as tokens.
    pub held: usize,
    /// Meant for the fill ring, which had no room for them yet.
    pub stash: usize,
    /// Free to be reserved for sending.
    pub free: usize,
}

impl FrameCensus {
    /// All frames.
    pub fn total(&self) -> usize {
        self.receiving + self.sending + self.held + self.stash + self.free
    }
}

/// A port as the worker uses it.
///
/// A [`Port::Frame`] is a move-only token for one frame of the port's memory: whoever has it has
/// the frame to itself. It can be sent, or released, once; safe code cannot use it after.
pub trait Port {
    /// The token.
    type Frame;

    /// Takes up to `max` received frames, in order of arrival, and appends them to `into`.
    fn receive(&mut self, into: &mut Vec<Self::Frame>, max: usize) -> usize;

    /// A free frame of length 0 to build a frame in, or `None` when all are in use (after trying to
    /// reap completed ones).
    fn reserve(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back, received or reserved.
    fn release(&mut self, frame: Self::Frame);

    /// Puts a frame on the send ring; it leaves at [`Port::flush`].
    ///
    /// # Errors
    /// The frame itself, when the ring is full.
    fn send(&mut self, frame: Self::Frame) -> Result<(), Self::Frame>;

    /// Reaps completions, refills the fill ring, and rings the doorbells that need ringing. Called
    /// once a batch.
    ///
    /// # Errors
    /// What the kernel answered; the interface being down or gone is an error too.
    fn flush(&mut self) -> io::Result<()>;

    /// The frame's bytes, from the Ethernet header on.
    fn data<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// The frame's bytes, writable.
    fn data_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Sets the frame's length, growing or shrinking at the end, at most [`Port::capacity`]. Bytes
    /// gained are whatever was there.
    fn set_len(&mut self, frame: &mut Self::Frame, len: usize);

    /// The largest length of a frame, Ethernet header included.
    fn capacity(&self) -> usize;

    /// Losses and levels.
    fn statistics(&self) -> RingStatistics;

    /// The descriptor that becomes readable when frames have been received.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
