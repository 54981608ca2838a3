//! Deficit round robin (Shreedhar and Varghese, 1995) over Workstations: each gets the same share of
//! the worker a round, whatever it has waiting.

use crate::WorkstationId;
use std::collections::VecDeque;

/// Bytes a Workstation may be served in one turn: about one super-packet.
pub const QUANTUM: usize = 64 * 1024;

/// What a frame costs the worker at least: as much as one of the usual MTU. Its rings, its AEAD call
/// and its write to the host interface cost time for each frame, hardly for each byte; counted by
/// its bytes alone, a flood of small frames would get ten times the share of a download.
const LEAST_COST: usize = 1500;

/// What serving a frame of `len` bytes is counted as.
#[inline]
pub fn cost(len: usize) -> usize {
    len.max(LEAST_COST)
}

/// The Workstations that have frames waiting, in the order in which their turns come.
#[derive(Debug, Default)]
pub struct Schedule {
    active: VecDeque<WorkstationId>,
    waiting: Vec<bool>,
}

impl Schedule {
    /// A Workstation has a frame waiting. Nothing changes when it is on the list already.
    #[inline]
    pub fn activate(&mut self, id: WorkstationId) {
        let at = id as usize;
        if at >= self.waiting.len() {
            self.waiting.resize(at + 1, false);
        }
        if !self.waiting[at] {
            self.waiting[at] = true;
            self.active.push_back(id);
        }
    }

    /// The Workstation whose turn it is; it is off the list until [`Schedule::activate`].
    #[inline]
    pub fn turn(&mut self) -> Option<WorkstationId> {
        let id = self.active.pop_front()?;
        self.waiting[id as usize] = false;
        Some(id)
    }

    /// How many Workstations wait.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round_and_nobody_is_listed_twice() {
        let mut schedule = Schedule::default();
        for id in [3, 1, 3, 2, 1] {
            schedule.activate(id);
        }
        assert_eq!(schedule.len(), 3);
        assert_eq!(schedule.turn(), Some(3));
        schedule.activate(3);
        assert_eq!(
            [
                schedule.turn(),
                schedule.turn(),
                schedule.turn(),
                schedule.turn()
            ],
            [Some(1), Some(2), Some(3), None]
        );
    }
}
