//! Frames that wait for their Workstation's turn.
//!
//! All of them lie in one place, whosever they are, and the queues of the Workstations are lists
//! through it: so a queue costs nothing while it is empty, and there may be thousands.

use crate::{PortId, WorkstationId};
use wire::limits::OVERHEAD;

/// No place.
const NONE: u32 = u32::MAX;

/// A Data frame that waits, whose it is and where it came in.
pub struct Waiting<F> {
    /// Its counter.
    pub counter: u64,
    /// The session it names.
    pub index: u32,
    /// Whose it is.
    pub workstation: WorkstationId,
    /// The port.
    pub port: PortId,
    /// Bytes of its payload.
    pub length: u16,
    /// Bytes before its Portcullis header.
    pub front: u8,
    /// Its token.
    pub frame: F,
}

impl<F> Waiting<F> {
    /// Bytes from the Portcullis header to the end of the AEAD tag.
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        OVERHEAD + usize::from(self.length)
    }
}

/// Places of waiting frames, first in, first out.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    head: u32,
    tail: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
        }
    }
}

impl Queue {
    /// Whether nothing waits.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

struct Place<F> {
    waiting: Option<Waiting<F>>,
    next: u32,
}

/// All frames that wait, of every Workstation.
pub struct Backlog<F> {
    places: Vec<Place<F>>,
    free: u32,
}

impl<F> Default for Backlog<F> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: NONE,
        }
    }
}

impl<F> Backlog<F> {
    /// Puts a frame at the end of a queue.
    #[inline(always)]
    pub fn push(&mut self, queue: &mut Queue, waiting: Waiting<F>) {
        let mut at = self.free;
        match self.places.get(at as usize) {
            Some(place) => self.free = place.next,
            None => {
                at = self.places.len() as u32;
                self.places.push(Place {
                    waiting: None,
                    next: NONE,
                });
            }
        }
        let place = &mut self.places[at as usize];
        place.waiting = Some(waiting);
        place.next = NONE;
        match self.places.get_mut(queue.tail as usize) {
            Some(last) => last.next = at,
            None => queue.head = at,
        }
        queue.tail = at;
    }

    /// The frame at the front of a queue.
    #[inline(always)]
    pub fn front(&self, queue: &Queue) -> Option<&Waiting<F>> {
        self.places.get(queue.head as usize)?.waiting.as_ref()
    }

    /// Takes the frame at the front of a queue.
    #[inline(always)]
    pub fn pop(&mut self, queue: &mut Queue) -> Option<Waiting<F>> {
        let at = queue.head;
        let place = self.places.get_mut(at as usize)?;
        queue.head = place.next;
        if queue.head == NONE {
            queue.tail = NONE;
        }
        place.next = self.free;
        self.free = at;
        place.waiting.take()
    }

    /// Takes every frame that `unwanted` picks out of a queue; the others stay in order.
    pub fn withdraw(
        &mut self,
        queue: &mut Queue,
        mut unwanted: impl FnMut(&Waiting<F>) -> bool,
        mut give: impl FnMut(Waiting<F>),
    ) {
        let mut rest = std::mem::take(queue);
        while let Some(waiting) = self.pop(&mut rest) {
            if unwanted(&waiting) {
                give(waiting);
            } else {
                self.push(queue, waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn waiting(frame: u32) -> Waiting<u32> {
        Waiting {
            counter: 0,
            index: 0,
            workstation: 0,
            port: (frame % 3) as PortId,
            length: 0,
            front: 14,
            frame,
        }
    }

    proptest! {
        #[test]
        fn every_queue_is_first_in_first_out_and_no_place_is_lost(
            steps in prop::collection::vec((0usize..3, 0u8..8), 1..300),
        ) {
            let mut backlog = Backlog::default();
            let mut queues = [Queue::default(); 3];
            let mut models: [VecDeque<u32>; 3] = Default::default();
            let (mut next, mut most) = (0, 0);
            for (of, step) in steps {
                match step {
                    0..4 => {
                        backlog.push(&mut queues[of], waiting(next));
                        models[of].push_back(next);
                        next += 1;
                    }
                    4..7 => {
                        prop_assert_eq!(backlog.front(&queues[of]).map(|w| w.frame), models[of].front().copied());
                        let taken = backlog.pop(&mut queues[of]);
                        prop_assert_eq!(taken.map(|w| w.frame), models[of].pop_front());
                    }
                    _ => {
                        let mut withdrawn = Vec::new();
                        backlog.withdraw(&mut queues[of], |w| w.port == 1, |w| withdrawn.push(w.frame));
                        let (gone, stays): (Vec<u32>, Vec<u32>) = models[of].iter().partition(|frame| **frame % 3 == 1);
                        models[of] = VecDeque::from(stays);
                        prop_assert_eq!(withdrawn, gone);
                    }
                }
                prop_assert_eq!(queues[of].is_empty(), models[of].is_empty());
                most = most.max(models.iter().map(VecDeque::len).sum());
                prop_assert!(backlog.places.len() <= most);
            }
        }
    }
}
