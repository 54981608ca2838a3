//! The Gateway's Workstations: a file each in `<state>/workstations`, a slot each in the dataplane.
//!
//! Opening the registry takes a lock, so that one process owns it. A file that is broken, or that
//! shares an address or a key with another, turns its Workstation off and nothing else; it is kept
//! in [`Registry::broken`] to be shown. Every change is on the disk before it is in memory, and a
//! crash at any point leaves a Workstation as it was or as it was to be.

use crate::choices::CipherChoice;
use crate::config::Gateway;
use crate::files;
use crate::keys::{KeyId, PrivateKey, Psk, PublicKey};
use crate::lock;
use crate::problem::{Kind, Problem};
use crate::rules::{self, Rule};
pub use crate::workstation::{Name, Next, Workstation};
use dataplane::WorkstationId;
use dataplane::keys::Protection;
use dataplane::session::Padding;
use ipnet::IpNet;
use nix::fcntl::Flock;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

mod addresses;
mod directory;
mod rotation;

/// The directory of Workstations in the state directory.
pub const DIRECTORY: &str = "workstations";
/// The Gateway's static key in the state directory.
pub const GATEWAY_KEY: &str = "gateway.key";
/// The end of a Workstation file's name.
const EXTENSION: &str = "toml";

/// The Workstations of this Gateway.
#[derive(Debug)]
pub struct Registry {
    directory: PathBuf,
    hosts: Vec<IpNet>,
    ports: Vec<String>,
    /// Boxed, so that no key is left in the map when an entry is taken out of it.
    entries: BTreeMap<Name, Box<Entry>>,
    broken: Vec<Broken>,
    slots: Vec<Slot>,
    _lock: Option<Flock<File>>,
}

#[derive(Debug, Clone)]
struct Entry {
    slot: WorkstationId,
    workstation: Workstation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Used,
    /// Its Workstation is gone from the registry; the dataplane may still have sessions of it.
    Leaving,
}

/// A Workstation file that could not be used: the Workstation is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file's name without its extension.
    pub name: String,
    /// Why.
    pub problem: Problem,
    /// Addresses and key ids it seems to hold: not given to others, so that it can be mended.
    reserved: (Vec<IpAddr>, Vec<KeyId>),
}

/// A Workstation to add. What is not given is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its name.
    pub name: Name,
    /// Its inner addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The only port it is served on.
    pub port: Option<String>,
    /// What the AEAD does with its packets.
    pub protection: Protection,
    /// The cipher.
    pub cipher: CipherChoice,
    /// How its packets are padded.
    pub padding: Padding,
    /// Its public key, when it made its key pair itself.
    pub public_key: Option<PublicKey>,
    /// The Gateway's public key that its enrolment names.
    pub gateway_key: Option<PublicKey>,
    /// What it may reach.
    pub allow: Vec<Rule>,
}

impl New {
    /// A Workstation of which everything but the name is chosen.
    pub fn named(name: Name) -> Self {
        Self {
            name,
            addresses: Vec::new(),
            port: None,
            protection: Protection::Encrypt,
            cipher: CipherChoice::Auto,
            padding: Padding::None,
            public_key: None,
            gateway_key: None,
            allow: rules::usual(),
        }
    }
}

/// What the files say.
#[derive(Debug)]
pub struct Files {
    found: BTreeMap<Name, Workstation>,
    broken: Vec<Broken>,
}

/// What a registry had.
#[derive(Debug)]
pub struct Before {
    entries: BTreeMap<Name, Box<Entry>>,
    broken: Vec<Broken>,
    slots: Vec<Slot>,
}

/// What a [`Registry::reload`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New Workstations.
    pub added: Vec<WorkstationId>,
    /// Workstations that are described differently now: their sessions are to be ended.
    pub changed: Vec<WorkstationId>,
    /// Workstations of which only the rules are others now: their sessions may stay.
    pub ruled: Vec<WorkstationId>,
    /// Workstations that are gone, or whose file is broken now. Each slot is to be given to
    /// [`Registry::release`] once the dataplane is done with it.
    pub removed: Vec<(WorkstationId, Workstation)>,
}

impl Registry {
    /// Takes the lock and reads all Workstations.
    ///
    /// # Errors
    /// Another process has the lock, or a directory is not safe or cannot be read. A broken
    /// Workstation file is no error.
    pub fn open(config: &Gateway) -> Result<Self, Problem> {
        files::private_directory(&config.state_directory)?;
        let lock = lock(&config.state_directory)?;
        let mut registry = Self::empty(config, Some(lock));
        files::private_directory(&registry.directory)?;
        files::remove_leftovers(&config.state_directory);
        files::remove_leftovers(&registry.directory);
        registry.reload()?;
        Ok(registry)
    }

    fn empty(config: &Gateway, lock: Option<Flock<File>>) -> Self {
        Self {
            directory: config.state_directory.join(DIRECTORY),
            hosts: config.host_addresses.clone(),
            ports: config.ports.iter().map(|p| p.interface.clone()).collect(),
            entries: BTreeMap::new(),
            broken: Vec::new(),
            slots: vec![Slot::Free; config.max_workstations as usize],
            _lock: lock,
        }
    }

    /// All usable Workstations by name, disabled ones too.
    pub fn workstations(&self) -> impl Iterator<Item = (WorkstationId, &Workstation)> {
        self.entries
            .values()
            .map(|entry| (entry.slot, &entry.workstation))
    }

    /// The files that could not be used.
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// A Workstation by its name.
    pub fn get(&self, name: &str) -> Option<(WorkstationId, &Workstation)> {
        let name: Name = name.parse().ok()?;
        let entry = self.entries.get(&name)?;
        Some((entry.slot, &entry.workstation))
    }

    /// A Workstation by its slot.
    pub fn by_slot(&self, slot: WorkstationId) -> Option<&Workstation> {
        self.workstations()
            .find_map(|(at, workstation)| (at == slot).then_some(workstation))
    }

    /// Adds a Workstation. Its private key, where it has not made its own, is returned and kept
    /// nowhere.
    ///
    /// # Errors
    /// The name or an address is taken or cannot be, there is no room, or what the system answered.
    pub fn add(&mut self, new: New) -> Result<(WorkstationId, Option<PrivateKey>), Problem> {
        let tried = format!("adding the Workstation {}", new.name);
        let path = self.path_of(new.name.as_str());
        if self.entries.contains_key(&new.name) || path.symlink_metadata().is_ok() {
            return Err(Problem::new(
                Kind::Conflict,
                tried,
                "there is one of that name already",
                format!(
                    "choose another name, or first: portcullis workstation remove {}",
                    new.name
                ),
            ));
        }
        if new.name.as_str() == rules::TRANSPARENT {
            return Err(Problem::new(
                Kind::Invalid,
                tried,
                "in rules, this name stands for transparent proxying",
                "choose another name",
            ));
        }
        if let Some(port) = &new.port
            && !self.ports.contains(port)
        {
            return Err(self.no_such_port(tried, port));
        }
        let slot = self.free_slot().ok_or_else(|| self.no_room(&tried))?;
        let (v4, v6) = self.choose_addresses(&tried, &new.addresses)?;
        let (private, public) = self.key_pair(&tried, new.public_key, None)?;
        let workstation = Workstation {
            name: new.name,
            key_id: self.fresh_key_id()?,
            public_key: public,
            psk: Psk::generate()?,
            v4,
            v6,
            port: new.port,
            protection: new.protection,
            cipher: new.cipher,
            padding: new.padding,
            allow: new.allow,
            enabled: true,
            own_key: private.is_none(),
            gateway_key: new.gateway_key,
            created: crate::workstation::now(),
            next: None,
        };
        files::write_secret(&path, &workstation.to_text())?;
        self.insert(slot, workstation);
        Ok((slot, private))
    }

    /// A new key pair, or no private key where the Workstation has made its own. `whose` is the
    /// Workstation that may have that key already.
    fn key_pair(
        &self,
        tried: &str,
        own: Option<PublicKey>,
        whose: Option<&Name>,
    ) -> Result<(Option<PrivateKey>, PublicKey), Problem> {
        let Some(own) = own else {
            let private = PrivateKey::generate()?;
            let public = private.public();
            return Ok((Some(private), public));
        };
        let gateway = self.keyring()?;
        let has = |w: &Workstation| {
            w.public_key == own || w.next.as_ref().is_some_and(|next| next.public_key == own)
        };
        let mut others = self.workstations().map(|(_, w)| w);
        let holder = match gateway.private().any(|key| key.public() == own) {
            true => Some("the Gateway itself"),
            false => others
                .find(|w| whose != Some(&w.name) && has(w))
                .map(|w| w.name.as_str()),
        };
        match holder {
            None => Ok((None, own)),
            Some(holder) => Err(Problem::new(
                Kind::Conflict,
                tried,
                format!("the public key {own} belongs to {holder}"),
                "each Workstation needs a key pair of its own: portcullis-agent keygen, on that machine",
            )),
        }
    }

    /// Writes the file of a Workstation that there is, and then takes it over.
    fn rewrite(&mut self, workstation: Workstation) -> Result<(), Problem> {
        files::write_secret(
            &self.path_of(workstation.name.as_str()),
            &workstation.to_text(),
        )?;
        if let Some(entry) = self.entries.get_mut(&workstation.name) {
            entry.workstation = workstation;
        }
        Ok(())
    }

    /// Changes a Workstation by `edit`, which may touch `port`, `protection`, `cipher`, `padding`,
    /// `allow` and `enabled`; what else it touches is put back.
    ///
    /// # Errors
    /// There is none of that name, the port does not exist, or what the system answered; the
    /// Workstation is then as it was.
    pub fn change(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut Workstation),
    ) -> Result<WorkstationId, Problem> {
        let tried = format!("changing the Workstation {name}");
        let Some((slot, old)) = self.get(name) else {
            return Err(self.no_such_workstation(tried));
        };
        let mut edited = old.clone();
        edit(&mut edited);
        let workstation = Workstation {
            port: edited.port,
            protection: edited.protection,
            cipher: edited.cipher,
            padding: edited.padding,
            allow: edited.allow,
            enabled: edited.enabled,
            ..old.clone()
        };
        if let Some(port) = &workstation.port
            && !self.ports.contains(port)
        {
            return Err(self.no_such_port(tried, port));
        }
        files::write_secret(&self.path_of(name), &workstation.to_text())?;
        self.insert(slot, workstation);
        Ok(slot)
    }

    /// Removes a Workstation, or a broken file (`None`). The slot is used again only after
    /// [`Registry::release`].
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    pub fn remove(&mut self, name: &str) -> Result<Option<(WorkstationId, Workstation)>, Problem> {
        let known = self
            .get(name)
            .map(|(_, workstation)| workstation.name.clone());
        let is_broken = self.broken.iter().any(|broken| broken.name == name);
        if known.is_none() && !is_broken {
            return Err(self.no_such_workstation(format!("removing the Workstation {name}")));
        }
        let path = self.path_of(name);
        match files::remove(&path) {
            // Somebody was quicker; what is wanted is so.
            Err(problem) if problem.kind == Kind::NotFound => {}
            other => other?,
        }
        self.broken.retain(|broken| broken.name != name);
        Ok(known.and_then(|name| self.take(&name)))
    }

    /// Gives back the slot of a removed Workstation, when no worker and no map has anything of it.
    pub fn release(&mut self, slot: WorkstationId) {
        if let Some(state) = self.slots.get_mut(slot as usize)
            && *state == Slot::Leaving
        {
            *state = Slot::Free;
        }
    }

    /// Reads the files again, and takes over what is in them.
    ///
    /// # Errors
    /// As [`Registry::read`]; then nothing has changed.
    pub fn reload(&mut self) -> Result<Changes, Problem> {
        let read = self.read()?;
        Ok(self.take_over(read))
    }

    /// Reads the files again, and changes nothing.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read(&self) -> Result<Files, Problem> {
        let (found, broken) = self.read_directory()?;
        Ok(Files { found, broken })
    }

    /// Takes over what was read. Workstations that are still there keep their slots.
    pub fn take_over(&mut self, read: Files) -> Changes {
        let Files { mut found, broken } = read;
        self.broken = broken;
        let mut changes = Changes::default();
        let gone: Vec<Name> = self
            .entries
            .keys()
            .filter(|name| !found.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            changes.removed.extend(self.take(&name));
        }
        // Those that have slots first: they keep them when there are too many.
        for entry in self.entries.values_mut() {
            if let Some(workstation) = found.remove(&entry.workstation.name)
                && workstation != entry.workstation
            {
                entry.workstation.allow.clone_from(&workstation.allow);
                match workstation == entry.workstation {
                    true => changes.ruled.push(entry.slot),
                    false => changes.changed.push(entry.slot),
                }
                entry.workstation = workstation;
            }
        }
        for (name, workstation) in found {
            match self.free_slot() {
                Some(slot) => {
                    self.insert(slot, workstation);
                    changes.added.push(slot);
                }
                None => {
                    let problem = self.no_room(&format!("using the Workstation {name}"));
                    let reserved = (
                        workstation.addresses().collect(),
                        workstation.key_ids().collect(),
                    );
                    self.broken.push(Broken {
                        name: name.to_string(),
                        problem,
                        reserved,
                    });
                }
            }
        }
        changes
    }

    /// What it has, to be given back to [`Registry::restore`].
    pub fn before(&self) -> Before {
        Before {
            entries: self.entries.clone(),
            broken: self.broken.clone(),
            slots: self.slots.clone(),
        }
    }

    /// Takes back what was taken over since. The files stay as they are.
    pub fn restore(&mut self, before: Before) {
        self.entries = before.entries;
        self.broken = before.broken;
        self.slots = before.slots;
    }

    fn fresh_key_id(&self) -> Result<KeyId, Problem> {
        loop {
            let id = KeyId::generate()?;
            let taken = self
                .entries
                .values()
                .any(|entry| entry.workstation.key_ids().any(|taken| taken == id))
                || self
                    .broken
                    .iter()
                    .any(|broken| broken.reserved.1.contains(&id));
            if !taken {
                return Ok(id);
            }
        }
    }

    fn free_slot(&self) -> Option<WorkstationId> {
        let at = self.slots.iter().position(|slot| *slot == Slot::Free)?;
        WorkstationId::try_from(at).ok()
    }

    fn insert(&mut self, slot: WorkstationId, workstation: Workstation) {
        if let Some(state) = self.slots.get_mut(slot as usize) {
            *state = Slot::Used;
        }
        let name = workstation.name.clone();
        let entry = Entry { slot, workstation };
        self.entries.insert(name, Box::new(entry));
    }

    fn take(&mut self, name: &Name) -> Option<(WorkstationId, Workstation)> {
        let entry = self.entries.remove(name)?;
        if let Some(state) = self.slots.get_mut(entry.slot as usize) {
            *state = Slot::Leaving;
        }
        Some((entry.slot, entry.workstation))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{EXTENSION}"))
    }

    fn no_room(&self, tried: &str) -> Problem {
        let leaving = self.slots.contains(&Slot::Leaving);
        Problem::new(
            Kind::Conflict,
            tried,
            format!("all {} places are taken", self.slots.len()),
            match leaving {
                true => "try again in a second: a removed Workstation's sessions are being erased",
                false => "remove a Workstation, or raise max_workstations and restart portcullisd",
            },
        )
    }

    fn no_such_port(&self, tried: String, port: &str) -> Problem {
        Problem::new(
            Kind::Invalid,
            tried,
            format!("there is no port {port}"),
            format!("name one of {}, or none", self.ports.join(", ")),
        )
    }

    pub(crate) fn no_such_workstation(&self, tried: String) -> Problem {
        Problem::new(
            Kind::NotFound,
            tried,
            "there is none of that name",
            "see `portcullis workstation list`",
        )
    }
}

/// The usable and the broken Workstations, read without taking the lock: a look, for a program that
/// changes nothing. Nothing is made or cleaned up.
///
/// # Errors
/// The directory cannot be read, or is not safe.
pub fn inspect(config: &Gateway) -> Result<(Vec<Workstation>, Vec<Broken>), Problem> {
    let mut registry = Registry::empty(config, None);
    // One that cannot be looked into is no empty one.
    let there = registry.directory.try_exists().map_err(|error| {
        Problem::io(format!("reading {}", registry.directory.display()), &error)
    })?;
    if !there {
        return Ok(Default::default());
    }
    registry.reload()?;
    let usable = registry.entries.into_values();
    Ok((
        usable.map(|entry| entry.workstation).collect(),
        registry.broken,
    ))
}

/// Locks the state directory for as long as the answer lives. A program that only adds or removes a
/// Workstation has the lock for a moment: that is waited for.
fn lock(state: &Path) -> Result<Flock<File>, Problem> {
    let path = state.join("lock");
    let tried = format!("taking over the state directory {}", state.display());
    let mut attempts = 0;
    loop {
        match lock::lock_file(&path, &tried, "only one process can own it") {
            Err(problem) if problem.kind == Kind::Conflict && attempts < 10 => attempts += 1,
            outcome => return outcome,
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
