//! New keys in the place of old ones, of the Gateway and of its Workstations, with a time in which both are good.

use super::{GATEWAY_KEY, Next, Registry, Workstation};
use crate::keyring::{Keyring, Known};
use crate::keys::{PrivateKey, Psk, PublicKey};
use crate::problem::{Kind, Problem};
use dataplane::WorkstationId;
use std::path::PathBuf;

impl Registry {
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
}
