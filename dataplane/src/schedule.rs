//! Deficit round robin (Shreedhar and Varghese, 1995) over Workstations: each gets the same bytes
//! a round, whatever it has waiting.

use crate::WorkstationId;
use std::collections::VecDeque;

/// Bytes a Workstation may be served in one turn: about one super-packet.
pub const QUANTUM: usize = 64 * 1024;

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
