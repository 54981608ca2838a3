//! Whom `portcullis` asks.

use crate::api::client::Client;
use crate::api::{
    self, AddWorkstation, Added, Allow, Allowed, Done, KeyRetired, KeyRotated, RetireKey,
    RotateWorkstation, Rotated, SetWorkstation, Switched, WorkstationStatus,
};
use crate::audit::{Audit, By, What};
use crate::config::{GATEWAY_PATH, Gateway};
use crate::problem::{Kind, Problem};
use crate::registry::Registry;
use crate::systemd;
use std::path::Path;

/// The daemon; or, while it is not running, the files it would serve.
pub(super) struct Daemon {
    /// Its configuration.
    pub(super) config: Gateway,
    /// Its control socket.
    pub(super) client: Client,
}

impl Daemon {
    pub(super) fn of(path: &Path) -> Result<Self, Problem> {
        let config = Gateway::load(path)?;
        let start = systemd::start_gateway(path);
        let client = Client::gateway(&config.runtime_directory, start);
        Ok(Self { config, client })
    }

    /// The daemon with this runtime directory and no other business.
    pub(super) fn at(runtime_directory: &Path) -> Client {
        Client::gateway(
            runtime_directory,
            systemd::start_gateway(Path::new(GATEWAY_PATH)),
        )
    }

    /// What the daemon answers; or, when it is not running, what is done to the registry.
    fn or_registry<T>(
        &self,
        answer: Result<T, Problem>,
        offline: impl FnOnce(Registry) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        match answer {
            Err(problem) if problem.kind == Kind::Unavailable => {
                match Registry::open(&self.config) {
                    Ok(registry) => offline(registry),
                    // It has the lock: it is there, and does not answer.
                    Err(lock) if lock.kind == Kind::Conflict => Err(problem),
                    Err(other) => Err(other),
                }
            }
            answer => answer,
        }
    }

    /// A change: the daemon makes it; or, when it is not running, it is made to the registry, and written
    /// down as the daemon would.
    fn change<T>(
        &self,
        what: What,
        answer: Result<T, Problem>,
        offline: impl FnOnce(Registry) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.or_registry(answer, |registry| {
            let by = By::this_program(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
            let audit = Audit::new(&self.config.state_directory);
            audit.change(by, &what, || offline(registry))
        })
    }

    pub(super) fn add(&self, request: &AddWorkstation) -> Result<Added, Problem> {
        let what = What::new("add").of(&request.name).asked(request);
        self.change(what, self.client.add(request), |mut registry| {
            let key = registry.keyring()?.public();
            let added = api::add_workstation(&mut registry, &self.config, key, request.clone())?;
            Ok(added.1)
        })
    }

    pub(super) fn remove(&self, name: &str) -> Result<api::Removed, Problem> {
        let what = What::new("remove").of(name);
        self.change(what, self.client.remove(name), |mut registry| {
            registry.remove(name)?;
            Ok(api::Removed { name: name.into() })
        })
    }

    pub(super) fn allow(&self, name: &str, request: &Allow) -> Result<Allowed, Problem> {
        let what = What::new("allow").of(name).asked(request);
        self.change(what, self.client.allow(name, request), |mut registry| {
            api::allow_workstation(&mut registry, name, request)
        })
    }

    /// What a Workstation may reach.
    pub(super) fn allowed(&self, name: &str) -> Result<Allowed, Problem> {
        let all = self.workstations()?;
        let found = all.into_iter().find(|one| one.name == name);
        found
            .map(|one| Allowed {
                name: one.name,
                allow: one.allow,
            })
            .ok_or_else(|| {
                Problem::new(
                    Kind::NotFound,
                    format!("looking for the Workstation {name}"),
                    "there is none of that name",
                    "see `portcullis workstation list`",
                )
            })
    }

    pub(super) fn workstations(&self) -> Result<Vec<WorkstationStatus>, Problem> {
        self.or_registry(self.client.workstations(), |registry| {
            Ok(WorkstationStatus::all(&registry, &registry.keyring()?))
        })
    }

    pub(super) fn set(
        &self,
        name: &str,
        request: &SetWorkstation,
    ) -> Result<SetWorkstation, Problem> {
        let what = What::new("set").of(name).asked(request);
        self.change(what, self.client.set(name, request), |mut registry| {
            let (slot, _) = api::set_workstation(&mut registry, name, request)?;
            Ok(registry
                .by_slot(slot)
                .map(SetWorkstation::of)
                .unwrap_or_default())
        })
    }

    pub(super) fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        let call = if enabled { "enable" } else { "disable" };
        let what = What::new(call).of(name);
        self.change(what, self.client.switch(name, enabled), |mut registry| {
            registry.change(name, |one| one.enabled = enabled)?;
            let name = name.to_owned();
            Ok(Switched { name, enabled })
        })
    }

    pub(super) fn rotate(
        &self,
        name: &str,
        request: &RotateWorkstation,
    ) -> Result<Rotated, Problem> {
        let what = What::new("rotate").of(name).asked(request);
        self.change(what, self.client.rotate(name, request), |mut registry| {
            let keyring = registry.keyring()?;
            let request = request.clone();
            api::rotate_workstation(&mut registry, &self.config, &keyring, name, request)
                .map(|(_, rotated)| rotated)
        })
    }

    pub(super) fn cancel_rotation(&self, name: &str) -> Result<Done, Problem> {
        let what = What::new("cancel_rotation").of(name);
        self.change(what, self.client.cancel_rotation(name), |mut registry| {
            registry.cancel_rotation(name).map(|_| Done {})
        })
    }

    pub(super) fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        let what = What::new("rotate_key");
        self.change(what, self.client.rotate_key(), |mut registry| {
            let keyring = registry.rotate_key()?;
            Ok(api::key_rotated(&registry, &keyring))
        })
    }

    pub(super) fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        let what = What::new("retire_key").asked(&request);
        self.change(what, self.client.retire_key(request), |mut registry| {
            let (_, locked_out) = registry.retire_key(request.force)?;
            Ok(KeyRetired { locked_out })
        })
    }
}
