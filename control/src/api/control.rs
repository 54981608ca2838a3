//! What the API asks of a running daemon.

use super::message::{
    AddWorkstation, Added, Allow, Allowed, KeyRetired, KeyRotated, Reloaded, Removed, RetireKey,
    RotateWorkstation, Rotated, SetWorkstation, Switched,
};
use super::status::{AgentStatus, Status, WorkstationStatus};
use crate::explain::{Explain, Explained};
use crate::metrics::Sample;
use crate::problem::Problem;
use crate::watch::{Hub, Stream, Watch};
use std::collections::HashMap;
use std::sync::Arc;

/// What the API asks of a running Gateway. Called on threads that may block.
pub trait Control: Send + Sync + 'static {
    /// What it is doing.
    ///
    /// # Errors
    /// It cannot tell now.
    fn status(&self) -> Result<Status, Problem>;

    /// The Workstations, as in [`Control::status`].
    ///
    /// # Errors
    /// It cannot tell now.
    fn workstations(&self) -> Result<Vec<WorkstationStatus>, Problem> {
        Ok(self.status()?.workstations)
    }

    /// What metrics are made of.
    ///
    /// # Errors
    /// It cannot tell now.
    fn sample(&self) -> Result<Sample, Problem> {
        Ok(Sample {
            status: self.status()?,
            ..Sample::default()
        })
    }

    /// Adds a Workstation and serves it from then on ([`add_workstation`](super::add_workstation)).
    ///
    /// # Errors
    /// Why it was not added; nothing has changed.
    fn add(&self, request: AddWorkstation) -> Result<Added, Problem>;

    /// Removes a Workstation, and returns when its sessions are gone from XDP and the workers.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    fn remove(&self, name: &str) -> Result<Removed, Problem>;

    /// Changes what a Workstation's sessions are protected with ([`set_workstation`](super::set_workstation)). They end, and
    /// it begins another.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn set(&self, name: &str, request: SetWorkstation) -> Result<SetWorkstation, Problem>;

    /// Turns a Workstation on or off, and returns when, if it is off, its sessions are gone from XDP
    /// and the workers.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem>;

    /// Gives a Workstation new keys ([`rotate_workstation`](super::rotate_workstation)).
    ///
    /// # Errors
    /// Why not; it keeps the keys it has.
    fn rotate(&self, name: &str, request: RotateWorkstation) -> Result<Rotated, Problem>;

    /// Takes back the keys that a Workstation was given and has not used.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    fn cancel_rotation(&self, name: &str) -> Result<(), Problem>;

    /// Rolls the Gateway's static key over ([`Registry::rotate_key`](crate::registry::Registry::rotate_key)).
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn rotate_key(&self) -> Result<KeyRotated, Problem>;

    /// Gives up the Gateway's old static key ([`Registry::retire_key`](crate::registry::Registry::retire_key)).
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem>;

    /// Changes what a Workstation may reach, from its next frame on ([`allow_workstation`](super::allow_workstation)).
    ///
    /// # Errors
    /// Why it was not changed; nothing has changed.
    fn allow(&self, name: &str, request: Allow) -> Result<Allowed, Problem>;

    /// Reads the Workstation files again.
    ///
    /// # Errors
    /// They cannot be read; nothing has changed.
    fn reload(&self) -> Result<Reloaded, Problem>;

    /// What its ports would do with frames. It has none unless it says so.
    ///
    /// # Errors
    /// As [`crate::explain::answer`].
    fn explain(&self, request: Explain) -> Result<Vec<Explained>, Problem> {
        crate::explain::answer(&[], &request, |_| None)
    }

    /// Samples of what its ports drop. It has none unless it says so.
    ///
    /// # Errors
    /// As [`Hub::watch`].
    fn watch(&self, request: Watch) -> Result<Stream, Problem> {
        Arc::new(Hub::default()).watch(&request, HashMap::new())
    }
}

/// What the API asks of a running agent. Called on threads that may block.
pub trait AgentControl: Send + Sync + 'static {
    /// What it is doing.
    ///
    /// # Errors
    /// It cannot tell now.
    fn status(&self) -> Result<AgentStatus, Problem>;

    /// Takes the tunnel down: session erased, host interface, wall and kill switch gone, the port the
    /// kernel's own again. The process ends after the answer.
    ///
    /// # Errors
    /// What is left standing, and why.
    fn down(&self) -> Result<(), Problem>;

    /// What its port would do with frames. It has none unless it says so.
    ///
    /// # Errors
    /// As [`crate::explain::answer`].
    fn explain(&self, request: Explain) -> Result<Vec<Explained>, Problem> {
        crate::explain::answer(&[], &request, |_| None)
    }

    /// Samples of what its port drops. It has none unless it says so.
    ///
    /// # Errors
    /// As [`Hub::watch`].
    fn watch(&self, request: Watch) -> Result<Stream, Problem> {
        Arc::new(Hub::default()).watch(&request, HashMap::new())
    }
}
