//! Frames that wait for their Workstation's turn.
//!
//! A frame is put down once, when it is received, and stays in its place until it has been dealt
//! with: the queues of the Workstations and the batch that is being opened hold places, not frames.

use crate::{PortId, WorkstationId};
use wire::Header;

/// No place.
const NONE: u32 = u32::MAX;

/// A frame that waits, whose it is and where it came in.
pub struct Waiting<F> {
    /// Whose it is.
    pub workstation: WorkstationId,
    /// The port.
    pub port: PortId,
    /// Its header.
    pub header: Header,
    /// Its token.
    pub frame: F,
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
    #[inline]
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
    #[inline]
    pub fn front(&self, queue: &Queue) -> Option<&Waiting<F>> {
        self.get(queue.head)
    }

    /// Takes the front off a queue, and leaves the frame in its place.
    #[inline]
    pub fn detach(&mut self, queue: &mut Queue) -> Option<u32> {
        let at = queue.head;
        queue.head = self.places.get(at as usize)?.next;
        if queue.head == NONE {
            queue.tail = NONE;
        }
        Some(at)
    }

    /// The frame in a place.
    #[inline]
    pub fn get(&self, at: u32) -> Option<&Waiting<F>> {
        self.places.get(at as usize)?.waiting.as_ref()
    }

    /// The frame in a place, to be worked on.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<&mut Waiting<F>> {
        self.places.get_mut(at as usize)?.waiting.as_mut()
    }

    /// Takes a detached frame out of its place.
    #[inline]
    pub fn take(&mut self, at: u32) -> Option<Waiting<F>> {
        let place = self.places.get_mut(at as usize)?;
        let waiting = place.waiting.take()?;
        place.next = self.free;
        self.free = at;
        Some(waiting)
    }

    /// Takes every frame that `unwanted` picks out of a queue; the others stay in order.
    pub fn withdraw(
        &mut self,
        queue: &mut Queue,
        mut unwanted: impl FnMut(&Waiting<F>) -> bool,
        mut give: impl FnMut(Waiting<F>),
    ) {
        let mut rest = std::mem::take(queue);
        while let Some(at) = self.detach(&mut rest) {
            let Some(waiting) = self.take(at) else { break };
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
            workstation: 0,
            port: (frame % 3) as PortId,
            header: Header::new(5, 0, 0, 0),
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
                        let taken = backlog.detach(&mut queues[of]).and_then(|at| backlog.take(at));
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
