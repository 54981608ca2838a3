//! The host interface: where opened packets enter the machine's own network stack and where
//! packets for the other side are read.

use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// The host interface as the worker uses it. Buffers start with the 10-byte `virtio_net_hdr`, then
/// the packet from its IP header on (TUN without packet information).
pub trait Host {
    /// Reads one packet, or one super-packet to be segmented, into `buffer` (at least 65,575 bytes:
    /// header and the largest IP packet). `Ok(None)` when there is none.
    ///
    /// # Errors
    /// What the kernel answered.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Writes one packet or super-packet, gathered from `parts`, header first.
    ///
    /// # Errors
    /// What the kernel answered; EAGAIN and ENOBUFS mean that the packet was dropped.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// The descriptor that becomes readable when there is something to read.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
