//! The host interface: where opened packets enter the machine's own network stack and where
//! packets for the other side are read.
//!
//! Inbound a batch of opened packets travels [`coalesce`] (runs of one flow become super-packets)
//! -> [`tun`]. Outbound a read of [`tun`] travels [`segment`] (cut into packets, checksums
//! finished) straight into the frames it is sealed in. [`memory`] stands in for the kernel in tests
//! and benchmarks.

use self::vnet::VnetHeader;
use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

pub mod checksum;
pub mod coalesce;
pub mod memory;
pub mod segment;
pub mod too_big;
pub mod tun;
pub mod vnet;

/// The largest packet, and so what both buffers of a read must hold together.
pub const LARGEST_PACKET: usize = 65_575;

/// The host interface as the worker uses it: a `virtio_net_hdr`, then the packet from its IP header
/// on (TUN without packet information).
pub trait Host {
    /// Reads one packet, or one super-packet to be segmented: its start into `first`, what does not
    /// fit there into `rest`, so that a packet that fits lies where it will be sealed. Both together
    /// must hold [`LARGEST_PACKET`] bytes. Gives the packet's length, or `Ok(None)` when there is
    /// none.
    ///
    /// # Errors
    /// What the kernel answered.
    fn read(
        &mut self,
        header: &mut VnetHeader,
        first: &mut [u8],
        rest: &mut [u8],
    ) -> io::Result<Option<usize>>;

    /// Writes one packet or super-packet, gathered from `parts`, header first.
    ///
    /// # Errors
    /// What the kernel answered. Whatever it is, the packet was dropped: EAGAIN and ENOBUFS for
    /// want of room, EIO because the interface is down, EINVAL because it is no IP packet.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Whether UDP super-packets ([`vnet::GSO_UDP_L4`]) may be written.
    fn accepts_udp_segments(&self) -> bool {
        false
    }

    /// The descriptor that becomes readable when there is something to read.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;
}
