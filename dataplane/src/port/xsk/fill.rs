//! The fill ring, by which the kernel is given frames to receive into.
//!
//! It is our own and not libxdp's, because it must be full before the socket is bound: a driver with
//! zero-copy takes its receive buffers when the ring is bound, and some (virtio-net) never ask for more
//! where there were none, others leak. `xsk-rs` hands its ring out only after the bind. Both are views of the
//! same memory, and this one alone is written to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xsk_rs::FrameDesc;

/// A ring of addresses that the kernel takes frames from.
#[derive(Debug)]
pub(super) struct FillRing {
    map: NonNull<u8>,
    length: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<AtomicU64>,
    size: u32,
    /// Where the kernel was when it was last looked at.
    consumed: u32,
}

// SAFETY: the ring is memory that the mapping owns; nothing of it belongs to a thread.
unsafe impl Send for FillRing {}

/// Where in its mapping each part of the ring is (XDP_MMAP_OFFSETS).
fn offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_ring_offset> {
    // SAFETY: a structure of plain integers, for which all zeroes is a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the structure.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // Before 5.4 there are no flags in it.
    if length as usize != size_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(offsets.fr)
}

impl FillRing {
    /// The fill ring of `size` entries of a socket, whose memory is registered and not bound yet.
    pub(super) fn map(socket: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        let at = offsets(socket)?;
        let length = at.desc as usize + size as usize * size_of::<u64>();
        // SAFETY: a new mapping of the socket's ring, wherever the kernel puts it.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::Other)?;
        let mut ring = Self {
            map,
            length,
            // SAFETY: the kernel says that these parts lie at these offsets of the mapping, aligned.
            producer: unsafe { map.add(at.producer as usize) }.cast(),
            // SAFETY: as above.
            consumer: unsafe { map.add(at.consumer as usize) }.cast(),
            // SAFETY: as above.
            flags: unsafe { map.add(at.flags as usize) }.cast(),
            // SAFETY: as above.
            entries: unsafe { map.add(at.desc as usize) }.cast(),
            size,
            consumed: 0,
        };
        ring.consumed = ring.consumer().load(Ordering::Acquire);
        Ok(ring)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: it lies in the mapping, which lives as long as `self`; the kernel only reads it.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: it lies in the mapping; the kernel writes it, atomically.
        unsafe { self.consumer.as_ref() }
    }

    /// Places for frames, at least `wanted` where there are as many; looks at the kernel's cursor only where
    /// it must.
    #[inline]
    pub(super) fn nb_free(&mut self, wanted: u32) -> u32 {
        // Nobody else writes it.
        let produced = self.producer().load(Ordering::Relaxed);
        let free = |consumed: u32| self.size - produced.wrapping_sub(consumed).min(self.size);
        if free(self.consumed) < wanted {
            self.consumed = self.consumer().load(Ordering::Acquire);
        }
        self.size - produced.wrapping_sub(self.consumed).min(self.size)
    }

    /// Gives the kernel these frames, or none of them where there is no room for all. How many it was
    /// given.
    ///
    /// # Safety
    /// The frames are of the socket's memory, and nobody has them any more until the kernel gives them
    /// back.
    #[inline]
    pub(super) unsafe fn produce(&mut self, frames: &[FrameDesc]) -> usize {
        let count = frames.len() as u32;
        if count == 0 || self.nb_free(count) < count {
            return 0;
        }
        let first = self.producer().load(Ordering::Relaxed);
        for (number, frame) in (0u32..).zip(frames) {
            let at = first.wrapping_add(number) & (self.size - 1);
            // SAFETY: the size is a power of two, so `at` is one of the ring's entries.
            let entry = unsafe { self.entries.add(at as usize).as_ref() };
            entry.store(frame.addr() as u64, Ordering::Relaxed);
        }
        // The kernel sees the entries before it sees that they are there.
        self.producer()
            .store(first.wrapping_add(count), Ordering::Release);
        frames.len()
    }

    /// Whether the kernel has to be told of new frames.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // SAFETY: it lies in the mapping; the kernel writes it, atomically.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl Drop for FillRing {
    fn drop(&mut self) {
        // A mapping would keep the socket alive, and the driver's queue with it.
        // SAFETY: the mapping is this ring's alone, and nothing refers into it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const SIZE: u32 = 8;

    /// A ring in memory of its own, both cursors at `start`.
    fn ring(start: u32) -> FillRing {
        let length = 4096;
        // SAFETY: a new mapping, wherever the kernel puts it.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED);
        let map = NonNull::new(map.cast::<u8>()).unwrap();
        // SAFETY: the offsets are within the mapping.
        let at = |offset: usize| unsafe { map.add(offset) };
        let ring = FillRing {
            map,
            length,
            producer: at(0).cast(),
            consumer: at(64).cast(),
            flags: at(128).cast(),
            entries: at(192).cast(),
            size: SIZE,
            consumed: start,
        };
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        ring
    }

    /// What the kernel takes off the ring.
    fn take(ring: &FillRing, count: u32, into: &mut VecDeque<u64>) {
        for _ in 0..count {
            let at = ring.consumer().load(Ordering::Relaxed);
            assert_ne!(
                at,
                ring.producer().load(Ordering::Relaxed),
                "taken what is not there"
            );
            // SAFETY: one of the ring's entries.
            let entry = unsafe { ring.entries.add((at & (SIZE - 1)) as usize).as_ref() };
            into.push_back(entry.load(Ordering::Relaxed));
            ring.consumer().store(at.wrapping_add(1), Ordering::Relaxed);
        }
    }

    #[test]
    fn frames_come_off_in_order_all_or_none_go_on_and_cursors_wrap() {
        for start in [0, 3, u32::MAX - 5, u32::MAX] {
            let mut ring = ring(start);
            // A default descriptor has address 0: the count of what is taken is what tells.
            let frames = |count: usize| vec![FrameDesc::default(); count];
            let mut taken = VecDeque::new();
            let mut there = 0;
            for turn in 0..200_u32 {
                let wanted = (turn * 5 % 11) as usize;
                // SAFETY: nobody uses the frames, which are of no memory at all.
                let produced = unsafe { ring.produce(&frames(wanted)) };
                let fits = wanted <= (SIZE - there) as usize;
                assert_eq!(
                    produced,
                    if fits { wanted } else { 0 },
                    "turn {turn} from {start}"
                );
                there += produced as u32;
                let some = (turn * 3 % 7).min(there);
                take(&ring, some, &mut taken);
                there -= some;
                assert_eq!(ring.nb_free(SIZE), SIZE - there, "turn {turn} from {start}");
            }
            assert!(taken.len() > 200);
        }
    }
}
