//! The Gateway's Workstations: a file each in `<state>/workstations`, a slot each in the dataplane.
//!
//! Opening the registry takes a lock, so that one process owns it. A file that is broken, or that
//! shares an address or a key with another, turns its Workstation off and nothing else; it is kept
//! in [`Registry::broken`] to be shown. Every change is on the disk before it is in memory, and a
//! crash at any point leaves a Workstation as it was or as it was to be.

use crate::choices::CipherChoice;
use crate::config::Gateway;
use crate::files;
use crate::keyring::{Keyring, Known};
use crate::keys::{KeyId, PrivateKey, Psk, PublicKey};
use crate::problem::{Kind, Problem};
use crate::rules::{self, Rule};
pub use crate::workstation::{Name, Next, Workstation};
use dataplane::WorkstationId;
use dataplane::keys::Protection;
use dataplane::session::Padding;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

    /// The Gateway's static keys. One is made here when there is none, unless Workstations are
    /// enrolled already: they know the one that is missing.
    ///
    /// # Errors
    /// It is missing though it is needed, its file is not safe or wrong, or what the system
    /// answered.
    pub fn keyring(&self) -> Result<Keyring, Problem> {
        let path = self.key_path();
        let known = self.entries.len() + self.broken.len();
        if path.symlink_metadata().is_ok() {
            Keyring::load(&path)
        } else if known == 0 {
            Keyring::create(&path)
        } else {
            Err(Problem::new(
                Kind::NotFound,
                format!("reading the Gateway's key {}", path.display()),
                format!("it is missing, and {known} Workstations are enrolled with it"),
                "put it back from a copy; or remove every Workstation and enrol them again",
            ))
        }
    }

    /// Rolls the Gateway's static key over: enrolments name a new one from now on, and the one
    /// before is still accepted.
    ///
    /// # Errors
    /// There is an old key already, or what the system answered; nothing has changed then.
    pub fn rotate_key(&mut self) -> Result<Keyring, Problem> {
        let keyring = self.keyring()?;
        if keyring.old().is_none() {
            // Which key those know that were enrolled when there was but one, for good.
            let unsaid = |w: &&Workstation| w.gateway_key.is_none();
            let unsaid: Vec<_> = self
                .workstations()
                .map(|(_, w)| w)
                .filter(unsaid)
                .cloned()
                .collect();
            for mut workstation in unsaid {
                workstation.gateway_key = Some(keyring.public());
                self.rewrite(workstation)?;
            }
        }
        keyring.rotate(&self.key_path())
    }

    /// Gives up the Gateway's old static key, and tells which Workstations that locks out. There
    /// must be none unless `force` is set. Without an old key nothing changes.
    ///
    /// # Errors
    /// Somebody would be locked out, or what the system answered; nothing has changed then.
    pub fn retire_key(&mut self, force: bool) -> Result<(Keyring, Vec<String>), Problem> {
        let keyring = self.keyring()?;
        if keyring.old().is_none() {
            return Ok((keyring, Vec::new()));
        }
        let old = |w: &&Workstation| keyring.known(w.gateway_key) == Known::Old;
        let known = self.workstations().map(|(_, w)| w).filter(old);
        let mut out: Vec<_> = known.map(|w| w.name.to_string()).collect();
        // Which key these know cannot be read.
        out.extend(self.broken.iter().map(|broken| broken.name.clone()));
        if !out.is_empty() && !force {
            return Err(Problem::new(
                Kind::Conflict,
                "retiring the Gateway's old key",
                format!("{} would be locked out", out.join(", ")),
                "give each new keys (portcullis workstation rotate NAME) and have it use them; or \
                 lock them out with --force",
            ));
        }
        Ok((keyring.retire(&self.key_path())?, out))
    }

    fn key_path(&self) -> PathBuf {
        self.directory.with_file_name(GATEWAY_KEY)
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

    /// Gives a Workstation new keys, which take the place of those it has when it first uses them,
    /// or at `until` (seconds since 1970). Others that waited are void. The private key, where the
    /// Workstation has not made its own, is returned and kept nowhere.
    ///
    /// # Errors
    /// There is none of that name, its public key is another's, or what the system answered; the
    /// Workstation is then as it was.
    pub fn rotate(
        &mut self,
        name: &str,
        own: Option<PublicKey>,
        gateway_key: PublicKey,
        until: u64,
    ) -> Result<(WorkstationId, Option<PrivateKey>), Problem> {
        let tried = format!("rotating the keys of the Workstation {name}");
        let Some((slot, workstation)) = self.get(name) else {
            return Err(self.no_such_workstation(tried));
        };
        let mut workstation = workstation.clone();
        // One that has made its own key pair keeps it, unless it brings another.
        let own = own.or(workstation.own_key.then_some(workstation.public_key));
        let (private, public_key) = self.key_pair(&tried, own, Some(&workstation.name))?;
        workstation.next = Some(Next {
            key_id: self.fresh_key_id()?,
            public_key,
            psk: Psk::generate()?,
            own_key: private.is_none(),
            gateway_key,
            until,
        });
        self.rewrite(workstation)?;
        Ok((slot, private))
    }

    /// Takes back the keys that a Workstation has not used yet. Without any nothing changes.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered; nothing has changed then.
    pub fn cancel_rotation(&mut self, name: &str) -> Result<WorkstationId, Problem> {
        let Some((slot, workstation)) = self.get(name) else {
            return Err(
                self.no_such_workstation(format!("keeping the keys of the Workstation {name}"))
            );
        };
        if workstation.next.is_some() {
            let workstation = workstation.clone();
            self.rewrite(Workstation {
                next: None,
                ..workstation
            })?;
        }
        Ok(slot)
    }

    /// Puts a Workstation's next keys in the place of those it has. Without any nothing changes.
    ///
    /// # Errors
    /// What the system answered; nothing has changed then.
    pub fn promote(&mut self, slot: WorkstationId) -> Result<(), Problem> {
        let Some(workstation) = self.by_slot(slot).cloned() else {
            return Ok(());
        };
        match workstation.next.clone() {
            None => Ok(()),
            Some(next) => self.rewrite(Workstation {
                key_id: next.key_id,
                public_key: next.public_key,
                psk: next.psk,
                own_key: next.own_key,
                gateway_key: Some(next.gateway_key),
                next: None,
                ..workstation
            }),
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

    fn read_directory(&self) -> Result<(BTreeMap<Name, Workstation>, Vec<Broken>), Problem> {
        let tried = format!("reading the directory {}", self.directory.display());
        let io = |error| Problem::io(&tried, &error);
        files::check_directory(&self.directory)?;
        let mut found = BTreeMap::new();
        let mut broken = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Editors leave hidden files and copies; only NAME.toml counts.
            if !name.starts_with('.') && path.extension().is_some_and(|e| e == EXTENSION) {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            match self.read_workstation(&path) {
                Ok(workstation) => {
                    found.insert(workstation.name.clone(), workstation);
                }
                Err(problem) => broken.push(Broken {
                    name: stem(&path),
                    problem,
                    reserved: mentioned_in(&path),
                }),
            }
        }
        for (name, problem) in conflicts(&found) {
            if let Some(workstation) = found.remove(&name) {
                broken.push(Broken {
                    name: name.to_string(),
                    problem,
                    reserved: (
                        workstation.addresses().collect(),
                        workstation.key_ids().collect(),
                    ),
                });
            }
        }
        Ok((found, broken))
    }

    fn read_workstation(&self, path: &Path) -> Result<Workstation, Problem> {
        let text = files::read_secret(path)?;
        let workstation = Workstation::parse(path, &text)?;
        let tried = format!("reading {}", path.display());
        for address in workstation.addresses() {
            self.check_address(&tried, address)?;
        }
        match &workstation.port {
            Some(port) if !self.ports.contains(port) => Err(self.no_such_port(tried, port)),
            _ => Ok(workstation),
        }
    }

    /// Checks that `address` lies in a prefix of the host interface and is a host's, but not ours.
    fn check_address(&self, tried: &str, address: IpAddr) -> Result<(), Problem> {
        let prefixes = || {
            let prefixes: Vec<_> = self
                .hosts
                .iter()
                .map(|host| host.trunc().to_string())
                .collect();
            prefixes.join(" or ")
        };
        let refuse = |happened: String| {
            Err(Problem::new(
                Kind::Invalid,
                tried,
                happened,
                format!(
                    "give an address in {}, or leave it out to have one chosen",
                    prefixes()
                ),
            ))
        };
        match self.hosts.iter().find(|host| host.contains(&address)) {
            None => refuse(format!(
                "the address {address} is in no prefix of the host interface"
            )),
            Some(host) if address == host.addr() => {
                refuse(format!("the address {address} is the Gateway's own"))
            }
            Some(host)
                if address == host.network()
                    || (address.is_ipv4() && address == host.broadcast()) =>
            {
                refuse(format!(
                    "{address} is the network or broadcast address of {}",
                    host.trunc()
                ))
            }
            Some(_) => Ok(()),
        }
    }

    fn choose_addresses(
        &self,
        tried: &str,
        wanted: &[IpAddr],
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Problem> {
        let taken: HashSet<IpAddr> = self
            .entries
            .values()
            .flat_map(|entry| entry.workstation.addresses())
            .chain(
                self.broken
                    .iter()
                    .flat_map(|broken| broken.reserved.0.clone()),
            )
            .collect();
        let (mut v4, mut v6) = (None, None);
        for &address in wanted {
            self.check_address(tried, address)?;
            if taken.contains(&address) {
                let holder = self
                    .workstations()
                    .find(|(_, other)| other.addresses().any(|a| a == address))
                    .map_or("a broken file".into(), |(_, other)| other.name.to_string());
                return Err(Problem::new(
                    Kind::Conflict,
                    tried,
                    format!("the address {address} belongs to {holder}"),
                    "give another address, or leave it out to have one chosen",
                ));
            }
            let twice = match address {
                IpAddr::V4(address) => v4.replace(address).is_some(),
                IpAddr::V6(address) => v6.replace(address).is_some(),
            };
            if twice {
                return Err(Problem::new(
                    Kind::Invalid,
                    tried,
                    "it was given two addresses of the same family",
                    "give at most one IPv4 and one IPv6 address",
                ));
            }
        }
        for host in &self.hosts {
            match host {
                IpNet::V4(_) if v4.is_none() => {
                    if let Some(IpAddr::V4(address)) = self.next_free(host, &taken) {
                        v4 = Some(address);
                    }
                }
                IpNet::V6(_) if v6.is_none() => {
                    if let Some(IpAddr::V6(address)) = self.next_free(host, &taken) {
                        v6 = Some(address);
                    }
                }
                _ => {}
            }
        }
        let lacks = |is: fn(&IpNet) -> bool| self.hosts.iter().any(is);
        if (v4.is_none() && lacks(|h| matches!(h, IpNet::V4(_))))
            || (v6.is_none() && lacks(|h| matches!(h, IpNet::V6(_))))
        {
            return Err(Problem::new(
                Kind::Conflict,
                tried,
                "every address of the host interface's prefixes is taken",
                "remove a Workstation, or give the host interface a larger prefix",
            ));
        }
        Ok((v4, v6))
    }

    /// The first free address above the Gateway's own, or else from the prefix's beginning on.
    fn next_free(&self, host: &IpNet, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let free = |address: &IpAddr| !taken.contains(address);
        match host {
            IpNet::V4(net) => {
                let own = u32::from(net.addr());
                // Between the network address and the broadcast address.
                let first = u32::from(net.network()).saturating_add(1);
                let last = u32::from(net.broadcast()).saturating_sub(1);
                let mut above_then_below = (own.saturating_add(1)..=last).chain(first..own);
                above_then_below.find_map(|a| Some(IpAddr::V4(a.into())).filter(free))
            }
            IpNet::V6(net) => {
                let own = u128::from(net.addr());
                // The first address is the subnet-router anycast address.
                let first = u128::from(net.network()).saturating_add(1);
                let last = u128::from(net.broadcast());
                let mut above_then_below = (own.saturating_add(1)..=last).chain(first..own);
                above_then_below.find_map(|a| Some(IpAddr::V6(a.into())).filter(free))
            }
        }
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
        match lock_file(&path, &tried, "only one process can own it") {
            Err(problem) if problem.kind == Kind::Conflict && attempts < 10 => attempts += 1,
            outcome => return outcome,
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Takes the lock that the file at `path` stands for, and leaves this process's id in it.
///
/// # Errors
/// Another process has it, and which one; or what the system answered.
pub fn lock_file(path: &Path, tried: &str, why: &str) -> Result<Flock<File>, Problem> {
    let io = |error: &std::io::Error| Problem::io(tried, error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| io(&error))?;
    files::leave_to_account(&file, path).map_err(|error| io(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // For people; the lock itself is what counts.
            let _ = lock.set_len(0);
            let _ = writeln!(lock, "{}", std::process::id());
            Ok(lock)
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut owner = String::new();
            let _ = file.take(20).read_to_string(&mut owner);
            let owner = owner.trim();
            Err(Problem::new(
                Kind::Conflict,
                tried,
                format!("process {owner} is at work there, and {why}"),
                format!("see what it is with `ps -p {owner}`; stop it, or let it do the work"),
            ))
        }
        Err((_, errno)) => Err(io(&errno.into())),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into()
}

/// Addresses and key ids that stand in quotes in a file, however broken it is.
fn mentioned_in(path: &Path) -> (Vec<IpAddr>, Vec<KeyId>) {
    let Ok(text) = files::read(path) else {
        return Default::default();
    };
    let quoted = || text.split(['"', '\'']).skip(1).step_by(2);
    (
        quoted().filter_map(|word| word.parse().ok()).collect(),
        quoted().filter_map(|word| word.parse().ok()).collect(),
    )
}

/// Workstations that share what each must have to itself. All of them are off: which of them is the
/// right one cannot be known.
fn conflicts(found: &BTreeMap<Name, Workstation>) -> Vec<(Name, Problem)> {
    let mut owners: HashMap<String, Vec<&Name>> = HashMap::new();
    for workstation in found.values() {
        let things = workstation
            .addresses()
            .map(|address| format!("the address {address}"))
            .chain(workstation.key_ids().map(|id| format!("the key id {id}")))
            .chain(
                workstation
                    .public_keys()
                    .map(|key| format!("the public key {key}")),
            );
        // Once for each, though next keys may be of the same key pair.
        for thing in things.collect::<HashSet<_>>() {
            owners.entry(thing).or_default().push(&workstation.name);
        }
    }
    let mut problems = BTreeMap::new();
    for (thing, names) in owners {
        for name in names.iter().filter(|_| names.len() > 1) {
            let others: Vec<_> = names
                .iter()
                .filter(|other| other != &name)
                .map(|other| other.as_str())
                .collect();
            let problem = Problem::new(
                Kind::Conflict,
                format!("using the Workstation {name}"),
                format!("{thing} also belongs to {}", others.join(", ")),
                "remove all but one of them, or change the file by hand; then `portcullis reload`",
            );
            problems.insert((*name).clone(), problem);
        }
    }
    problems.into_iter().collect()
}

#[cfg(test)]
mod tests;
