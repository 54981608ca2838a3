//! A port: a receive ring, a send ring and the memory their frames live in.
//!
//! The worker sees only this trait. [`xsk`] is the real one (an AF_XDP socket per receive queue),
//! [`socket`] an ordinary UDP socket, for a Workstation that may open no other, [`fast_path`] both of these together, and
//! [`memory`] a set of rings in memory with the same rules, for tests and benchmarks without root.
//! What they do alike is in [`ring`] (bounded rings with wrapping cursors) and `pool` (where every
//! frame is, and which ring it goes to next). `linear` makes one piece of frames that do not fit one
//! chunk of the memory.
//!
//! A worker's turn: [`Port::receive`] a batch, work on it, [`Port::reserve`] and [`Port::send`] what
//! goes out, [`Port::release`] the rest, then one [`Port::flush`].

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub mod ethtool;
pub mod fast_path;
mod linear;
pub mod memory;
pub mod ntuple;
mod pool;
pub mod ring;
pub mod socket;
pub mod xsk;

/// Why a port could not do its work. Only [`PortError::Gone`] asks for a new port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The link is administratively down (ENETDOWN). Frames stay where they are and move again once
    /// it is up; there is no use in flushing in a loop until then.
    #[error(
        "{call} on {interface} queue {queue}: the link is down; bring it up (ip link set dev {interface} up)"
    )]
    Down {
        /// The interface.
        interface: Arc<str>,
        /// The queue.
        queue: u32,
        /// The call that was answered so.
        call: &'static str,
    },
    /// The interface was removed or moved to another namespace (ENXIO): the socket is unbound for
    /// good. Close the port and open it again when the interface is back.
    #[error(
        "{call} on {interface} queue {queue}: the interface is gone and the socket with it; open the port again once the interface is back"
    )]
    Gone {
        /// The interface.
        interface: Arc<str>,
        /// The queue.
        queue: u32,
        /// The call that was answered so.
        call: &'static str,
    },
    /// Anything else the kernel answered.
    #[error("{call} on {interface} queue {queue}: {source}")]
    Kernel {
        /// The interface.
        interface: Arc<str>,
        /// The queue.
        queue: u32,
        /// The call that was answered so.
        call: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl PortError {
    /// Sorts the kernel's answer `errno` to `call`.
    pub(crate) fn of(interface: &Arc<str>, queue: u32, call: &'static str, errno: i32) -> Self {
        let interface = Arc::clone(interface);
        match errno {
            libc::ENETDOWN => Self::Down {
                interface,
                queue,
                call,
            },
            libc::ENXIO | libc::ENODEV | libc::EBADF => Self::Gone {
                interface,
                queue,
                call,
            },
            _ => Self::Kernel {
                interface,
                queue,
                call,
                source: io::Error::from_raw_os_error(errno),
            },
        }
    }

    /// Whether the port is of no more use and has to be opened again.
    pub fn needs_reopening(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

impl From<PortError> for io::Error {
    fn from(error: PortError) -> Self {
        let kind = match &error {
            PortError::Down { .. } => io::ErrorKind::NetworkDown,
            PortError::Gone { .. } => io::ErrorKind::NotFound,
            PortError::Kernel { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Losses and levels of a port's rings, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingStatistics {
    /// Frames the kernel dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty: in copy mode a frame is lost each time, in zero-copy the driver
    /// may find a buffer later.
    pub fill_ring_empty: u64,
    /// Frames dropped for other reasons (larger than the port's capacity, for one).
    pub rx_dropped: u64,
    /// Descriptors the kernel refused to send.
    pub tx_invalid: u64,
    /// Frames in the fill ring, receive ring, send ring and completion ring, held by the worker,
    /// in the stash and free. Their sum is the UMEM's frame count. Where a frame takes several of
    /// them, each is counted until it is received and from when it is sent; held it is one.
    pub frames: FrameCensus,
}

/// Where a port's frames are. The sum never changes: a frame is somewhere, once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCensus {
    /// Given to the kernel to receive into (fill ring, and frames received but not yet taken).
    pub receiving: usize,
    /// Given to the kernel to send, not yet completed.
    pub sending: usize,
    /// Held by the caller as tokens, or the first of a chain whose rest is still to be taken.
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
/// the frame to itself. It can be sent, or released, once; safe code cannot use it after. A token
/// that is dropped instead stays counted as held and its frame is lost to the port.
///
/// # Panics
/// Every method that takes a token panics when it is another port's.
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
    /// once a batch. The answer is how many frames the kernel has not taken from the send ring yet,
    /// though it was asked to: while it is not 0, flush again soon rather than wait for frames.
    ///
    /// # Errors
    /// What the kernel answered; the interface being down or gone is an error too, and no reason to
    /// call again at once. Frames sent stay on the ring.
    fn flush(&mut self) -> Result<usize, PortError>;

    /// The frame's bytes, from the Ethernet header on; on a [`socket`] from the Portcullis header on.
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

    /// The descriptor that becomes readable when frames have been received. Wait for POLLIN (or
    /// EPOLLIN) alone: POLLOUT is nearly always ready.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
