//! Which worker has a Workstation's sessions.
//!
//! All of a Workstation's sessions on a port belong to one of the workers that serve the port, for as
//! long as that worker does: its credit there has one keeper. A Workstation goes to the worker with
//! the fewest, and among those to the one that its handshake came in at: one that is alone on a port
//! is served where its frames arrive, and several on a port share its workers evenly.

use dataplane::path::Path;
use dataplane::{PortId, WorkstationId};
use std::collections::BTreeMap;

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// The worker that has it.
    pub worker: usize,
    /// Its Workstation.
    pub workstation: WorkstationId,
    /// The port it lives on.
    pub port: PortId,
    /// The way to the Workstation.
    pub path: Path,
}

/// The workers of all Workstations, by port.
#[derive(Debug, Default)]
pub struct Homes(BTreeMap<(PortId, WorkstationId), usize>);

impl Homes {
    /// The worker for a Workstation on a port that `serving` serve, chosen when it has none. `arrived`
    /// is where its handshake came in. `None` when nobody serves the port.
    pub fn of(
        &mut self,
        port: PortId,
        id: WorkstationId,
        serving: &[usize],
        arrived: usize,
    ) -> Option<usize> {
        if let Some(home) = self
            .0
            .get(&(port, id))
            .filter(|home| serving.contains(home))
        {
            return Some(*home);
        }
        self.0.remove(&(port, id));
        let load = |worker: usize| self.0.values().filter(|home| **home == worker).count();
        let chosen = serving
            .iter()
            .copied()
            .min_by_key(|worker| (load(*worker), *worker != arrived))?;
        self.0.insert((port, id), chosen);
        Some(chosen)
    }

    /// Forgets a Workstation that is no longer served.
    pub fn forget(&mut self, id: WorkstationId) {
        self.0.retain(|(_, workstation), _| *workstation != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workstation_alone_is_served_where_it_arrives_and_many_are_spread() {
        let mut homes = Homes::default();
        assert_eq!(homes.of(0, 1, &[0, 1, 2, 3], 2), Some(2));
        assert_eq!(homes.of(0, 1, &[0, 1, 2, 3], 0), Some(2), "for its life");
        for id in 2..9 {
            homes.of(0, id, &[0, 1, 2, 3], 0);
        }
        for worker in 0..4 {
            assert_eq!(homes.0.values().filter(|home| **home == worker).count(), 2);
        }
    }

    #[test]
    fn a_worker_that_serves_the_port_no_more_is_left() {
        let mut homes = Homes::default();
        assert_eq!(homes.of(0, 1, &[0, 1], 1), Some(1));
        assert_eq!(homes.of(0, 1, &[0], 1), Some(0));
        assert_eq!(homes.of(0, 1, &[], 1), None);
        homes.of(0, 2, &[0], 0);
        homes.forget(2);
        assert_eq!(homes.0.len(), 0);
    }

    #[test]
    fn each_port_has_a_worker_of_its_own_for_a_workstation() {
        let mut homes = Homes::default();
        assert_eq!(homes.of(0, 1, &[0], 0), Some(0));
        assert_eq!(homes.of(1, 1, &[1], 0), Some(1));
        assert_eq!(homes.of(0, 1, &[0], 0), Some(0));
    }
}
