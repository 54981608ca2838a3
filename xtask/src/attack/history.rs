//! What somebody who listens has of a session: its latest Data frames, by how far they are behind the newest.

use std::sync::{Arc, Mutex, MutexGuard};

use wire::kind;
use wire::limits::REPLAY_WINDOW;

use super::frame::header_of;

/// The distances of which there is a frame: the replay window, and as much again beyond it.
pub(super) const DISTANCES: u64 = 2 * REPLAY_WINDOW + 1;

/// The latest Data frames of one direction of a session.
#[derive(Debug, Default)]
pub struct History {
    index: u32,
    newest: u64,
    /// By counter; empty where a frame was not heard.
    frames: Vec<Vec<u8>>,
    held: u64,
}

fn place(counter: u64) -> usize {
    (counter % DISTANCES) as usize
}

impl History {
    /// Remembers a Data frame. One of another session makes it forget all before.
    pub(super) fn hear(&mut self, frame: &[u8]) {
        let Some(header) = header_of(frame).filter(|header| header.kind == kind::DATA) else {
            return;
        };
        if header.index != self.index || self.frames.is_empty() {
            *self = Self {
                index: header.index,
                newest: header.counter,
                frames: vec![Vec::new(); DISTANCES as usize],
                held: 0,
            };
        }
        if header.counter + DISTANCES <= self.newest {
            return;
        }
        // What is skipped was not heard, and what stood in its places is out of reach now.
        for skipped in (self.newest + 1..header.counter).take(self.frames.len()) {
            self.forget(skipped);
        }
        self.forget(header.counter);
        self.newest = self.newest.max(header.counter);
        self.held += 1;
        self.frames[place(header.counter)].extend(frame);
    }

    fn forget(&mut self, counter: u64) {
        let frame = &mut self.frames[place(counter)];
        self.held -= u64::from(!frame.is_empty());
        frame.clear();
    }

    /// The frame that is so far behind the newest, if it was heard.
    pub(super) fn behind(&self, distance: u64) -> Option<&[u8]> {
        let counter = self.newest.checked_sub(distance)?;
        let frame = self.frames.get(place(counter))?;
        (!frame.is_empty()).then_some(frame)
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<&[u8]> {
        self.behind(0)
    }

    /// How many frames there are.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// At most so many of the latest.
    pub(super) fn latest(&self, most: usize) -> Vec<Vec<u8>> {
        let frames = (0..DISTANCES).filter_map(|distance| self.behind(distance));
        frames.take(most).map(<[u8]>::to_vec).collect()
    }
}

/// A [`History`] that is written while an attack reads it.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<History>>);

impl Live {
    /// It, as it is now.
    pub(super) fn now(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::frame::portcullis;
    use wire::Header;

    fn data(index: u32, counter: u64) -> Vec<u8> {
        portcullis(
            [1; 6],
            [2; 6],
            &Header::new(kind::DATA, 16, index, counter),
            &[0; 32],
        )
    }

    fn counter(frame: Option<&[u8]>) -> Option<u64> {
        frame.and_then(header_of).map(|header| header.counter)
    }

    #[test]
    fn a_frame_is_found_by_its_distance_until_it_is_too_far_behind() {
        let mut history = History::default();
        assert!(history.newest().is_none());
        for at in (0..3 * DISTANCES).filter(|at| at % 5 != 3) {
            history.hear(&data(7, at));
        }
        let newest = 3 * DISTANCES - 1;
        for distance in 0..DISTANCES {
            let heard = (newest - distance) % 5 != 3;
            let wanted = heard.then_some(newest - distance);
            assert_eq!(counter(history.behind(distance)), wanted, "{distance}");
        }
        let gaps = (0..DISTANCES).filter(|d| (newest - d) % 5 == 3).count();
        assert_eq!(history.held(), DISTANCES - gaps as u64);
        assert_eq!(history.latest(3).len(), 3);
    }

    #[test]
    fn frames_of_another_session_and_long_gaps_leave_nothing_of_before() {
        let mut history = History::default();
        (0..100).for_each(|at| history.hear(&data(7, at)));
        history.hear(&data(7, 100 + 10 * DISTANCES));
        assert_eq!((history.held(), history.latest(9).len()), (1, 1));
        history.hear(&data(8, 5));
        assert_eq!(counter(history.newest()), Some(5));
        assert_eq!(history.held(), 1);
    }
}
