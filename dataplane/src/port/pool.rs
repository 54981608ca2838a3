//! Where a port's frames are, and which ring a frame goes to next.
//!
//! Frames are shared between two uses. The receive side has a *share*: as many frames as the fill
//! ring holds, wherever they are just now (fill ring, receive ring, with the worker, in the stash).
//! What is beyond the share is free to be reserved for sending. A received frame that is sent on
//! leaves the share, and the next frame that comes back, of either kind, replaces it: so neither side
//! can starve the other for longer than the worker holds its frames.

use super::FrameCensus;

/// The frames userspace has (`T`, one per frame) and the counts of those it has not.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    stash: Vec<T>,
    free: Vec<T>,
    receiving: usize,
    sending: usize,
    held: usize,
    share: usize,
    share_limit: usize,
}

impl<T> Pool<T> {
    /// All of `frames`, none in a ring yet; the receive side's share is `share_limit`.
    pub(crate) fn new(frames: Vec<T>, share_limit: usize) -> Self {
        let total = frames.len();
        // Any frame may end up in either list, and neither may allocate on the way.
        let mut stash = Vec::with_capacity(total);
        let mut free = Vec::with_capacity(total);
        free.extend(frames);
        let share = share_limit.min(total);
        stash.extend(free.drain(total - share..));
        Self {
            stash,
            free,
            receiving: 0,
            sending: 0,
            held: 0,
            share,
            share_limit,
        }
    }

    /// Where the frames are.
    pub(crate) fn census(&self) -> FrameCensus {
        FrameCensus {
            receiving: self.receiving,
            sending: self.sending,
            held: self.held,
            stash: self.stash.len(),
            free: self.free.len(),
        }
    }

    /// Frames meant for the fill ring. The ones it takes come off the end.
    #[inline]
    pub(crate) fn stash(&self) -> &[T] {
        &self.stash
    }

    /// The last `count` frames of the stash are in the fill ring now.
    #[inline]
    pub(crate) fn filled(&mut self, count: usize) -> impl Iterator<Item = T> + '_ {
        let from = self.stash.len() - count;
        self.receiving += count;
        self.stash.drain(from..)
    }

    /// `count` frames came off the receive ring.
    #[inline]
    pub(crate) fn received(&mut self, count: usize) {
        self.receiving -= count;
        self.held += count;
    }

    /// A free frame, to be held.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<T> {
        let frame = self.free.pop()?;
        self.held += 1;
        Some(frame)
    }

    /// A held frame comes back.
    #[inline]
    pub(crate) fn release(&mut self, frame: T, was_received: bool) {
        self.held -= 1;
        self.share -= usize::from(was_received);
        self.give_back(frame);
    }

    /// A held frame is on its way to the send ring.
    #[inline]
    pub(crate) fn sent(&mut self, was_received: bool) {
        self.held -= 1;
        self.share -= usize::from(was_received);
        self.sending += 1;
    }

    /// A frame came off the completion ring.
    #[inline]
    pub(crate) fn completed(&mut self, frame: T) {
        self.sending -= 1;
        self.give_back(frame);
    }

    #[inline]
    fn give_back(&mut self, frame: T) {
        if self.share < self.share_limit {
            self.share += 1;
            self.stash.push(frame);
        } else {
            self.free.push(frame);
        }
    }
}
