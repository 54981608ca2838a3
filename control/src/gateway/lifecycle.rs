//! The life of keys: Workstations turned off and on, new keys for them, and new ones for the Gateway.
//!
//! Each step is on the disk before it is applied, and what is applied is read from the disk at the
//! next start: a daemon that dies in between has lost nothing.

use super::*;
use crate::api::{
    self, KeyRetired, KeyRotated, RotateWorkstation, Rotated, SetWorkstation, Switched,
    rotate_workstation, set_workstation,
};
use crate::handshake::gateway::Credentials;
use crate::workstation::{Next, unix_now};

impl Daemon {
    /// Changes what a Workstation's sessions are protected with. A session never changes, so it ends.
    pub(super) fn set(
        &mut self,
        name: &str,
        request: &SetWorkstation,
    ) -> Result<SetWorkstation, Problem> {
        let (id, changed) = set_workstation(&mut self.registry, name, request)?;
        if changed {
            self.serve_anew(id)?;
            tracing::info!(workstation = name, "protected otherwise now");
        }
        Ok(self
            .registry
            .by_slot(id)
            .map(SetWorkstation::of)
            .unwrap_or_default())
    }

    /// Turns a Workstation on, or off: then its sessions are gone when this returns.
    pub(super) fn switch(&mut self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        let id = self.registry.change(name, |one| one.enabled = enabled)?;
        match (enabled, self.served.contains_key(&id)) {
            (true, false) => self.serve_workstation(id)?,
            (false, true) => self.drop_workstation(id)?,
            _ => {}
        }
        tracing::info!(workstation = name, enabled, "switched");
        self.events.tell(|| Happening::Switched {
            workstation: name.to_owned(),
            enabled,
        });
        Ok(Switched {
            name: name.to_owned(),
            enabled,
        })
    }

    /// Gives a Workstation new keys beside those it has.
    pub(super) fn rotate(
        &mut self,
        name: &str,
        request: RotateWorkstation,
    ) -> Result<Rotated, Problem> {
        let (registry, keyring) = (&mut self.registry, &self.keyring);
        let (id, rotated) = rotate_workstation(registry, &self.config, keyring, name, request)?;
        match rotated.old_ends_in_seconds {
            0 => self.serve_anew(id)?,
            _ => {
                if let Err(problem) = self.apply_next(id) {
                    self.registry.cancel_rotation(name)?;
                    self.apply_next(id)?;
                    return Err(problem);
                }
            }
        }
        tracing::info!(
            workstation = name,
            key_id = rotated.key_id,
            "given new keys"
        );
        self.events.tell(|| Happening::KeysGiven {
            workstation: name.to_owned(),
            key_id: rotated.key_id.clone(),
        });
        Ok(rotated)
    }

    /// Takes back keys that were not used yet.
    pub(super) fn cancel_rotation(&mut self, name: &str) -> Result<(), Problem> {
        let id = self.registry.cancel_rotation(name)?;
        self.apply_next(id)?;
        self.events.tell(|| Happening::KeysTakenBack {
            workstation: name.to_owned(),
        });
        Ok(())
    }

    /// Tells machine and XDP of the keys that wait for a Workstation, or that none do.
    fn apply_next(&mut self, id: WorkstationId) -> Result<(), Problem> {
        let Some(workstation) = self.registry.by_slot(id).cloned() else {
            return Ok(());
        };
        let Some(served) = self.served.get_mut(&id) else {
            return Ok(());
        };
        let tried = format!("giving the Workstation {} new keys", workstation.name);
        let ports = served.ports.clone();
        let next = workstation.next.as_ref();
        if let Some(old) = std::mem::replace(&mut served.next_key_id, next.map(|n| n.key_id.get()))
        {
            self.lock_out(old);
        }
        self.machine
            .set_next(id, next.map(next_credentials))
            .map_err(|error| Problem::new(Kind::Conflict, &tried, error, "try it again"))?;
        self.carry_out();
        // The entry of the keys in use stays as it is: it remembers nonces.
        for (key_id, entry) in knock_entries(id, &workstation).skip(1) {
            let up = ports
                .iter()
                .filter_map(|port| self.ports[usize::from(*port)].up.as_ref());
            for up in up {
                up.tables
                    .install_knock(key_id, &entry)
                    .map_err(|error| Problem::io(&tried, &error))?;
            }
        }
        Ok(())
    }

    /// A session was proven under a Workstation's next keys: those before, of this key id, are gone.
    pub(super) fn promoted(&mut self, id: WorkstationId, old: u32) {
        self.lock_out(old);
        if let Some(served) = self.served.get_mut(&id)
            && let Some(next) = served.next_key_id.take()
        {
            served.key_id = next;
        }
        // Should the disk refuse, it is tried again with the deadlines.
        if let Err(problem) = self.registry.promote(id) {
            tracing::error!(%problem, remedy = problem.remedy, "the end of a Workstation's old keys is not written down");
        }
        if let Some(workstation) = self.registry.by_slot(id) {
            tracing::info!(
                workstation = workstation.name.as_str(),
                "uses its new keys; the old ones are gone"
            );
            self.events.tell(|| Happening::KeysUsed {
                workstation: workstation.name.to_string(),
            });
        }
    }

    /// Ends keys whose time is over though the next ones were not used.
    pub(super) fn end_rotations(&mut self) -> Result<(), Problem> {
        let used = |id: &WorkstationId, next: &Next| {
            self.served
                .get(id)
                .is_some_and(|served| served.key_id == next.key_id.get())
        };
        let all = self.registry.workstations();
        let due: Vec<(WorkstationId, bool)> = all
            .filter_map(|(id, workstation)| {
                let next = workstation.next.as_ref()?;
                let used = used(&id, next);
                (used || next.until <= unix_now()).then_some((id, used))
            })
            .collect();
        for (id, used) in due {
            self.registry.promote(id)?;
            if !used && self.served.contains_key(&id) {
                self.serve_anew(id)?;
                if let Some(workstation) = self.registry.by_slot(id) {
                    tracing::warn!(
                        workstation = workstation.name.as_str(),
                        "its old keys have ended; it has not used its new ones yet"
                    );
                    self.events.tell(|| Happening::KeysEnded {
                        workstation: workstation.name.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Rolls the Gateway's key over. No session ends.
    pub(super) fn rotate_key(&mut self) -> Result<KeyRotated, Problem> {
        self.keyring = self.registry.rotate_key()?;
        self.machine.set_static_keys(static_keys(&self.keyring));
        // Those whose file now says which key they know are not described differently.
        tracing::info!(public_key = %self.keyring.public(), "the Gateway has a new key");
        self.events.tell(|| Happening::GatewayKeyRotated {
            public_key: self.keyring.public().to_string(),
        });
        Ok(api::key_rotated(&self.registry, &self.keyring))
    }

    /// Gives up the Gateway's old key. Sessions of those who know no other are gone when this
    /// returns.
    pub(super) fn retire_key(&mut self, force: bool) -> Result<KeyRetired, Problem> {
        let (keyring, locked_out) = self.registry.retire_key(force)?;
        self.keyring = keyring;
        self.machine.set_static_keys(static_keys(&self.keyring));
        self.carry_out();
        let mut outcome = Ok(());
        for name in &locked_out {
            if let Some((id, _)) = self.registry.get(name) {
                outcome = outcome.and(self.serve_anew(id));
            }
        }
        outcome?;
        tracing::info!(?locked_out, "the Gateway's old key is gone");
        self.events.tell(|| Happening::GatewayKeyRetired {
            locked_out: locked_out.clone(),
        });
        Ok(KeyRetired { locked_out })
    }

    /// Ends a Workstation's sessions, and serves it as the registry has it now.
    fn serve_anew(&mut self, id: WorkstationId) -> Result<(), Problem> {
        self.drop_workstation(id)?;
        self.serve_workstation(id)
    }

    /// Keeps a key id's handshakes out of XDP.
    pub(super) fn lock_out(&self, key_id: u32) {
        for port in &self.ports {
            if let Some(up) = &port.up
                && let Err(error) = up.tables.remove_knock(key_id)
            {
                tracing::warn!(%error, port = port.plan.interface, "XDP may still admit handshakes under keys that have ended; they are refused here");
            }
        }
    }
}

/// The Gateway's private keys as the machine takes them.
pub(super) fn static_keys(keyring: &Keyring) -> Vec<Zeroizing<[u8; 32]>> {
    let keys = keyring.private();
    keys.map(|key| Zeroizing::new(*key.as_bytes())).collect()
}

/// A Workstation's keys in use, as the machine takes them.
pub(super) fn credentials(workstation: &Workstation, keyring: &Keyring) -> Credentials {
    let gateway = workstation.gateway_key.unwrap_or_else(|| keyring.eldest());
    Credentials {
        key_id: workstation.key_id.get(),
        public: *workstation.public_key.as_bytes(),
        psk: Zeroizing::new(*workstation.psk.as_bytes()),
        gateway: *gateway.as_bytes(),
    }
}

/// Keys that wait, as the machine takes them.
pub(super) fn next_credentials(next: &Next) -> Credentials {
    Credentials {
        key_id: next.key_id.get(),
        public: *next.public_key.as_bytes(),
        psk: Zeroizing::new(*next.psk.as_bytes()),
        gateway: *next.gateway_key.as_bytes(),
    }
}
