//! What the control API asks, and how the control thread does it.

use super::*;
use crate::api::{
    self, AddWorkstation, Added, Allow, Allowed, Control, KeyRetired, KeyRotated, Reloaded,
    Removed, RetireKey, RotateWorkstation, Rotated, SetWorkstation, Status, Switched,
};
use crate::difference;
use crate::explain::{Explain, Explained};
use crate::metrics::Sample;
use crate::rules;
use crate::watch::{Stream, Watch};

/// What the control API asks of the control thread.
pub(super) enum Request {
    Status(Sender<Status>),
    Sample(Sender<Sample>),
    Add(AddWorkstation, Sender<Result<Added, Problem>>),
    Remove(String, Sender<Result<Removed, Problem>>),
    Set(
        String,
        SetWorkstation,
        Sender<Result<SetWorkstation, Problem>>,
    ),
    Switch(String, bool, Sender<Result<Switched, Problem>>),
    Rotate(String, RotateWorkstation, Sender<Result<Rotated, Problem>>),
    CancelRotation(String, Sender<Result<(), Problem>>),
    RotateKey(Sender<Result<KeyRotated, Problem>>),
    RetireKey(RetireKey, Sender<Result<KeyRetired, Problem>>),
    Allow(String, Allow, Sender<Result<Allowed, Problem>>),
    Reload(Sender<Result<Reloaded, Problem>>),
    Explain(Explain, Sender<Result<Vec<Explained>, Problem>>),
    Watch(Watch, Sender<Result<Stream, Problem>>),
}

impl Daemon {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Sample(answer) => drop(answer.send(self.sample())),
            Request::Add(new, answer) => drop(answer.send(self.add(new))),
            Request::Remove(name, answer) => drop(answer.send(self.remove(&name))),
            Request::Set(name, what, answer) => drop(answer.send(self.set(&name, &what))),
            Request::Switch(name, on, answer) => drop(answer.send(self.switch(&name, on))),
            Request::Rotate(name, how, answer) => drop(answer.send(self.rotate(&name, how))),
            Request::CancelRotation(name, answer) => {
                drop(answer.send(self.cancel_rotation(&name)));
            }
            Request::RotateKey(answer) => drop(answer.send(self.rotate_key())),
            Request::RetireKey(request, answer) => {
                drop(answer.send(self.retire_key(request.force)));
            }
            Request::Allow(name, request, answer) => {
                drop(answer.send(self.allow(&name, &request)));
            }
            Request::Reload(answer) => drop(answer.send(self.reload())),
            Request::Explain(request, answer) => drop(answer.send(self.explain(&request))),
            Request::Watch(request, answer) => drop(answer.send(self.watch(&request))),
        }
    }

    fn add(&mut self, request: AddWorkstation) -> Result<Added, Problem> {
        let public = self.keyring.public();
        let (id, added) = api::add_workstation(&mut self.registry, &self.config, public, request)?;
        if let Err(problem) = self.serve_workstation(id) {
            self.remove(&added.name)?;
            return Err(problem);
        }
        if let Some(workstation) = self.registry.by_slot(id) {
            let related = self.related(&workstation.name, &workstation.allow);
            self.refresh_policies(related);
        }
        tracing::info!(
            workstation = added.name,
            key_id = added.key_id,
            "a Workstation was added"
        );
        self.events.tell(|| Happening::Added {
            workstation: added.name.clone(),
        });
        Ok(added)
    }

    fn remove(&mut self, name: &str) -> Result<Removed, Problem> {
        let Some((id, removed)) = self.registry.remove(name)? else {
            tracing::info!(
                workstation = name,
                "removed a Workstation file that could not be used"
            );
            return Ok(Removed {
                name: name.to_owned(),
            });
        };
        self.drop_workstation(id)?;
        let related = self.related(&removed.name, &removed.allow);
        self.refresh_policies(related);
        self.registry.release(id);
        tracing::info!(
            workstation = name,
            "a Workstation was removed; its sessions are gone"
        );
        self.events.tell(|| Happening::Removed {
            workstation: name.to_owned(),
        });
        Ok(Removed {
            name: name.to_owned(),
        })
    }

    /// The workers do what they are told in order, so the rules hold for every frame that comes after
    /// the answer.
    fn allow(&mut self, name: &str, request: &Allow) -> Result<Allowed, Problem> {
        let before = self.registry.get(name).map(|(_, ws)| ws.clone());
        let allowed = api::allow_workstation(&mut self.registry, name, request)?;
        if let Some(Workstation { name, allow, .. }) = before {
            let mut related = self.related(&name, &allow);
            related.extend(self.related(&name, &allowed.allow));
            self.refresh_policies(related);
        }
        let allow = rules::list(&allowed.allow);
        tracing::info!(
            workstation = name,
            allow,
            "a Workstation may reach something else now"
        );
        Ok(allowed)
    }

    /// As [`Daemon::reload`], when a signal asks for it: written down as every change is.
    pub(super) fn reload_on_signal(&mut self) -> Result<Reloaded, Problem> {
        let audit = Arc::clone(&self.audit);
        audit.change(By::signal("SIGHUP"), &What::new("reload"), || self.reload())
    }

    /// Reads the configuration and the Workstation files again and applies what differs: all of it, or
    /// nothing, and then the problem says why. Where the configuration differs in what takes a restart,
    /// that is such a problem.
    pub(super) fn reload(&mut self) -> Result<Reloaded, Problem> {
        // Whatever can be found wrong by reading is, before anything is changed.
        let fresh = config::Gateway::load(&self.config_path)?;
        let settings = difference::of(&self.config, &fresh);
        difference::check_live(&self.config_path, &settings)?;
        let read = self.registry.read()?;
        let (config, registry) = (self.config.clone(), self.registry.before());
        if !settings.is_empty() {
            self.apply(&fresh)?;
        }
        let changes = self.registry.take_over(read);
        let mut answer = Reloaded {
            settings: settings.iter().map(ToString::to_string).collect(),
            ..Reloaded::default()
        };
        let removed = changes.removed.iter().map(|(id, _)| *id);
        let served = changes.changed.iter().chain(&changes.added).copied();
        let touched: Vec<_> = removed.chain(served).collect();
        if let Err(problem) = self.serve_changes(changes, &mut answer) {
            let workstations = self.serve_as_before(registry, &touched);
            let back = workstations.and(self.unapply(&config));
            return Err(keyless::undone(problem, back));
        }
        difference::keep(&self.config, &self.config_path);
        let broken = self.registry.broken().iter();
        answer.broken = broken.map(|broken| broken.name.clone()).collect();
        self.events.tell(|| Happening::Reloaded);
        Ok(answer)
    }

    /// Serves the Workstations as the registry has them now. It ends with what fails first.
    fn serve_changes(&mut self, changes: Changes, answer: &mut Reloaded) -> Result<(), Problem> {
        let name = |daemon: &Self, id| daemon.registry.by_slot(id).map(|ws| ws.name.to_string());
        // All that goes goes first: others may have its addresses and its key id now.
        for (id, workstation) in changes.removed {
            self.drop_workstation(id)?;
            self.registry.release(id);
            answer.removed.push(workstation.name.to_string());
        }
        for id in &changes.changed {
            self.drop_workstation(*id)?;
        }
        self.refresh_policies(self.served.keys().copied().collect());
        for id in changes.changed {
            self.serve_workstation(id)?;
            answer.changed.extend(name(self, id));
        }
        for id in changes.added {
            self.serve_workstation(id)?;
            answer.added.extend(name(self, id));
        }
        self.refresh_policies(self.served.keys().copied().collect());
        for id in changes.ruled {
            answer.ruled.extend(name(self, id));
        }
        Ok(())
    }

    /// Serves the Workstations as they were before, of which these may be served otherwise now. One that
    /// cannot be keeps nothing from the others.
    fn serve_as_before(
        &mut self,
        registry: Before,
        touched: &[WorkstationId],
    ) -> Result<(), Problem> {
        let mut outcome = Ok(());
        for id in touched {
            outcome = outcome.and(self.drop_workstation(*id));
        }
        self.registry.restore(registry);
        for id in touched {
            outcome = outcome.and(self.serve_workstation(*id));
        }
        self.refresh_policies(self.served.keys().copied().collect());
        outcome
    }

    /// Applies what [`difference::check_live`] lets pass.
    fn apply(&mut self, fresh: &config::Gateway) -> Result<(), Problem> {
        let pins = config::Gateway {
            ports: self.config.ports.clone(),
            ..fresh.clone()
        };
        if pins != self.config && !self.reload_keyless(&pins)? {
            return Err(Problem::new(
                Kind::Conflict,
                format!("reload {}", self.config_path.display()),
                "the configuration has changed in what a reload does not apply; nothing has been changed",
                "restart portcullisd; sessions come back within a second and the wall stays up meanwhile",
            ));
        }
        self.apply_rings(fresh);
        Ok(())
    }

    /// Takes back what [`Self::apply`] applied.
    fn unapply(&mut self, before: &config::Gateway) -> Result<(), Problem> {
        self.apply_rings(before);
        self.take_back_keyless(&before.keyless)
    }

    fn apply_rings(&mut self, config: &config::Gateway) {
        for at in 0..self.ports.len() {
            let wanted = config.ports[at].rings.threaded_napi;
            self.config.ports[at].rings.threaded_napi = wanted;
            let users = self.users(&self.ports[at]).count();
            self.ports[at].set_thread_napi(wanted, users);
        }
    }
}

impl Control for Asker<Request> {
    fn status(&self) -> Result<Status, Problem> {
        self.ask(Request::Status)
    }

    fn sample(&self) -> Result<Sample, Problem> {
        self.ask(Request::Sample)
    }

    fn add(&self, request: AddWorkstation) -> Result<Added, Problem> {
        self.ask(|answer| Request::Add(request, answer))?
    }

    fn remove(&self, name: &str) -> Result<Removed, Problem> {
        self.ask(|answer| Request::Remove(name.to_owned(), answer))?
    }

    fn set(&self, name: &str, request: SetWorkstation) -> Result<SetWorkstation, Problem> {
        self.ask(|answer| Request::Set(name.to_owned(), request, answer))?
    }

    fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        self.ask(|answer| Request::Switch(name.to_owned(), enabled, answer))?
    }

    fn rotate(&self, name: &str, request: RotateWorkstation) -> Result<Rotated, Problem> {
        self.ask(|answer| Request::Rotate(name.to_owned(), request, answer))?
    }

    fn cancel_rotation(&self, name: &str) -> Result<(), Problem> {
        self.ask(|answer| Request::CancelRotation(name.to_owned(), answer))?
    }

    fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        self.ask(Request::RotateKey)?
    }

    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        self.ask(|answer| Request::RetireKey(request, answer))?
    }

    fn allow(&self, name: &str, request: Allow) -> Result<Allowed, Problem> {
        self.ask(|answer| Request::Allow(name.to_owned(), request, answer))?
    }

    fn reload(&self) -> Result<Reloaded, Problem> {
        self.ask(Request::Reload)?
    }

    fn explain(&self, request: Explain) -> Result<Vec<Explained>, Problem> {
        self.ask(|answer| Request::Explain(request, answer))?
    }

    fn watch(&self, request: Watch) -> Result<Stream, Problem> {
        self.ask(|answer| Request::Watch(request, answer))?
    }
}
