//! The memory of a socket port: a slot for every frame, and buffers that trains of frames land in.
//!
//! The kernel hands over datagrams of one sender and size as a train, in one piece, up to 64 KiB. It is
//! not taken apart by copying: each of its frames is a range of the buffer, and the buffer counts who
//! uses it. Every frame has a slot of its own all the same, of the largest frame's size, which is used
//! where it is not part of a train: for what is built to be sent, for a datagram that came alone (else a small frame would
//! keep a large buffer), for a frame that outgrows its place, and where so many buffers are in use that
//! the last would be gone. So slots are what bounds a port, and no frame is lost for want of a buffer.
//!
//! All of it is one allocation of zeroed pages, which the kernel provides when they are first written.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::super::linear::keep_out_of_core_dumps;

/// Bytes of a buffer: as many as a datagram, or a train, can have.
pub(super) const TRAIN: usize = 1 << 16;
/// Bytes from one buffer to the next. Were it a power of two, the beginnings of all of them would share few
/// lines of the CPU's caches.
const STRIDE: usize = TRAIN + 4096 + 192;
/// In the place of a buffer's number: the frame is in its slot.
const NONE: u16 = u16::MAX;

/// Where a frame is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    start: u32,
    len: u32,
    /// What it may grow to where it is.
    room: u32,
    slot: u32,
    train: u16,
}

impl Place {
    #[inline]
    fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    /// Bytes of the frame.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// The frame's own slot.
    #[inline]
    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    /// A frame of this many bytes, for tests of what does not look at them.
    #[cfg(test)]
    pub(super) fn of_length(slot: u32, len: u32) -> Self {
        Self {
            start: 0,
            len,
            room: len,
            slot,
            train: NONE,
        }
    }
}

/// A message that was received, and how far its frames were taken.
#[derive(Debug)]
struct Arrived {
    train: u16,
    next: u32,
    end: u32,
    segment: u32,
    /// Its frames are copied into their slots.
    copied: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    bytes: Box<[u8]>,
    capacity: usize,
    slot: usize,
    /// Where the buffers begin.
    trains: usize,
    /// Of each buffer: the frames in it that are held or sent, and one more while not all are taken.
    users: Box<[u32]>,
    /// Buffers without users.
    free: usize,
    /// Buffers that trains may not keep.
    reserve: usize,
    arrived: VecDeque<Arrived>,
    dropped: u64,
}

impl Store {
    /// Bytes that so many slots and buffers take; `None` for more than 4 GiB.
    pub(super) fn size(frames: u32, trains: u16, capacity: usize) -> Option<u32> {
        let slots = u64::from(frames).checked_mul(slot_size(capacity) as u64)?;
        let size = slots.checked_add(u64::from(trains) * STRIDE as u64)?;
        u32::try_from(size).ok()
    }

    /// `frames` slots and `trains` buffers; [`Store::size`] has said that they fit.
    ///
    /// # Errors
    /// What madvise answered.
    pub(super) fn new(frames: u32, trains: u16, capacity: usize) -> io::Result<Self> {
        let slot = slot_size(capacity);
        let slots = frames as usize * slot;
        let count = usize::from(trains);
        let mut bytes = vec![0; slots + count * STRIDE].into_boxed_slice();
        keep_out_of_core_dumps(&mut bytes)?;
        Ok(Self {
            bytes,
            capacity,
            slot,
            trains: slots,
            users: vec![0; count].into_boxed_slice(),
            free: count,
            reserve: (count / 4).max(1),
            arrived: VecDeque::with_capacity(count),
            dropped: 0,
        })
    }

    /// The frame's bytes.
    #[inline]
    pub(super) fn data(&self, place: &Place) -> &[u8] {
        &self.bytes[place.range()]
    }

    /// The same, writable.
    #[inline]
    pub(super) fn data_mut(&mut self, place: &Place) -> &mut [u8] {
        &mut self.bytes[place.range()]
    }

    /// The largest frame.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Datagrams that were empty, cut short or larger than a frame.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// An empty frame in its own slot.
    #[inline]
    pub(super) fn empty(&self, slot: u32) -> Place {
        Place {
            start: slot * self.slot as u32,
            len: 0,
            room: self.capacity as u32,
            slot,
            train: NONE,
        }
    }

    /// Sets a frame's length. One that outgrows its place moves into its slot.
    #[inline]
    pub(super) fn set_len(&mut self, place: &mut Place, len: usize) {
        let len = len.min(self.capacity) as u32;
        if len > place.room {
            let roomier = self.empty(place.slot);
            self.bytes
                .copy_within(place.range(), roomier.start as usize);
            self.leave(place);
            *place = roomier;
        }
        place.len = len;
    }

    /// The frame is of no more use where it is.
    #[inline]
    pub(super) fn leave(&mut self, place: &Place) {
        if place.train != NONE {
            self.unuse(place.train);
        }
    }

    #[inline]
    fn unuse(&mut self, train: u16) {
        let users = &mut self.users[usize::from(train)];
        *users -= 1;
        if *users == 0 {
            self.free += 1;
        }
    }

    /// Up to `most` buffers that a message may land in, with their numbers. The first are used again
    /// first, so that few are ever touched.
    pub(super) fn landings(&mut self, most: usize) -> impl Iterator<Item = (u16, &mut [u8])> {
        let buffers = self.bytes[self.trains..].chunks_exact_mut(STRIDE);
        buffers
            .zip(&self.users)
            .zip(0..)
            .filter(|((_, users), _)| **users == 0)
            .map(|((buffer, _), number)| (number, &mut buffer[..TRAIN]))
            .take(most)
    }

    /// A message of `len` bytes is in the buffer `train`: frames of `segment` bytes, of which the last
    /// may be shorter, or with 0 a single one. The answer is how many there are.
    pub(super) fn landed(&mut self, train: u16, len: usize, segment: usize) -> usize {
        let len = len.min(TRAIN);
        if len == 0 {
            self.dropped += 1;
            return 0;
        }
        let segment = if segment == 0 { len } else { segment.min(len) };
        self.users[usize::from(train)] = 1;
        self.free -= 1;
        let start = self.trains + usize::from(train) * STRIDE;
        self.arrived.push_back(Arrived {
            train,
            next: start as u32,
            end: (start + len) as u32,
            segment: segment as u32,
            copied: segment == len || self.free < self.reserve,
        });
        len.div_ceil(segment)
    }

    /// A message was cut short.
    pub(super) fn cut(&mut self) {
        self.dropped += 1;
    }

    /// Whether messages have landed whose frames were not all taken.
    #[inline]
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Takes the next frame that arrived. `slot` gives its slot; without one it stays.
    #[inline]
    pub(super) fn take(&mut self, slot: impl FnOnce() -> Option<u32>) -> Option<Place> {
        let (train, start, len, copied) = loop {
            let front = self.arrived.front_mut()?;
            let len = front.segment.min(front.end - front.next);
            if len as usize <= self.capacity {
                break (front.train, front.next, len, front.copied);
            }
            self.dropped += 1;
            self.pass(len);
        };
        let slot = slot()?;
        let mut place = Place {
            start,
            len,
            room: len,
            slot,
            train,
        };
        self.users[usize::from(train)] += 1;
        if copied {
            let own = self.empty(slot);
            self.bytes.copy_within(place.range(), own.start as usize);
            self.leave(&place);
            place = Place { len, ..own };
        }
        self.pass(len);
        Some(place)
    }

    /// The frame at the front was dealt with.
    #[inline]
    fn pass(&mut self, len: u32) {
        let Some(front) = self.arrived.front_mut() else {
            return;
        };
        front.next += len;
        if front.next == front.end {
            let train = front.train;
            self.arrived.pop_front();
            self.unuse(train);
        }
    }

    /// Buffers that somebody uses.
    pub(super) fn used(&self) -> usize {
        self.users.len() - self.free
    }
}

/// Bytes from one slot to the next: whole cache lines.
fn slot_size(capacity: usize) -> usize {
    capacity.next_multiple_of(64)
}

#[cfg(test)]
mod tests;
