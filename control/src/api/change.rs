//! Changes to the registry: all that a changing request is, but for telling the dataplane.

use super::message::{
    AddWorkstation, Added, Allow, Allowed, KeyRotated, RotateWorkstation, Rotated, SetWorkstation,
};
use crate::config::Gateway;
use crate::enrolment::Enrolment;
use crate::keyring::{Keyring, Known};
use crate::keys::PublicKey;
use crate::problem::{Kind, Problem};
use crate::registry::{New, Registry};
use crate::rules::{self, Target};
use crate::workstation::{Workstation, unix_now};
use dataplane::keys::Protection;

impl AddWorkstation {
    /// As the registry takes it.
    ///
    /// # Errors
    /// The name or the protection is not one.
    pub fn into_new(self) -> Result<New, Problem> {
        let protection = match &self.protection {
            None => Protection::Encrypt,
            Some(name) => crate::choices::protection(name).map_err(|happened| {
                Problem::new(
                    Kind::Invalid,
                    format!("adding the Workstation {}", self.name),
                    happened,
                    "use one of those, or leave it out",
                )
            })?,
        };
        let allow = self.allow.unwrap_or_else(rules::usual);
        rules::check_count(&allow).map_err(|happened| {
            Problem::new(
                Kind::Invalid,
                format!("adding the Workstation {}", self.name),
                happened,
                "put ports that follow each other into one rule",
            )
        })?;
        Ok(New {
            allow,
            name: self.name.parse()?,
            addresses: self.addresses,
            port: self.port,
            protection,
            cipher: self.cipher,
            padding: self.padding,
            public_key: self.public_key,
            gateway_key: None,
        })
    }
}

/// How long the keys a Workstation has stay good while it has not used its new ones, unless told
/// otherwise.
pub const KEEP_OLD: u64 = 7 * 86_400;

/// The longest that can be told.
pub const MOST_KEEP_OLD: u64 = 366 * 86_400;

/// Changes what a Workstation's sessions are protected with in the registry. Tells whether that is a
/// change.
///
/// # Errors
/// A name stands for nothing, there is no such Workstation, or what the system answered; nothing has
/// changed then.
pub fn set_workstation(
    registry: &mut Registry,
    name: &str,
    request: &SetWorkstation,
) -> Result<(dataplane::WorkstationId, bool), Problem> {
    let wrong = |happened: String| {
        let tried = format!("changing the Workstation {name}");
        Problem::new(
            Kind::Invalid,
            tried,
            happened,
            "use one of those, or leave it out",
        )
    };
    let by_name =
        |text: &Option<String>| text.as_deref().map(crate::choices::protection).transpose();
    let protection = by_name(&request.protection).map_err(wrong)?;
    let padding = request.padding.as_deref().map(crate::choices::padding);
    let padding = padding.transpose().map_err(wrong)?;
    let before = registry
        .get(name)
        .map(|(_, workstation)| SetWorkstation::of(workstation));
    let slot = registry.change(name, |one| {
        one.protection = protection.unwrap_or(one.protection);
        one.cipher = request.cipher.unwrap_or(one.cipher);
        one.padding = padding.unwrap_or(one.padding);
    })?;
    let after = registry.by_slot(slot).map(SetWorkstation::of);
    Ok((slot, before != after))
}

/// Gives a Workstation new keys in the registry and makes its enrolment file: all that a rotation
/// is, but for telling the dataplane.
///
/// # Errors
/// As [`Registry::rotate`] and [`Gateway::encapsulation_for`]; and the time is too long, or another port is named than
/// the one that the Workstation is bound to.
pub fn rotate_workstation(
    registry: &mut Registry,
    config: &Gateway,
    keyring: &Keyring,
    name: &str,
    request: RotateWorkstation,
) -> Result<(dataplane::WorkstationId, Rotated), Problem> {
    let tried = format!("rotating the keys of the Workstation {name}");
    let keep = request.keep_old_seconds.unwrap_or(KEEP_OLD);
    if keep > MOST_KEEP_OLD {
        return Err(Problem::new(
            Kind::Invalid,
            tried,
            format!("{keep} seconds is longer than the keys before may stay"),
            "give at most 366 days; when the new keys are used, the old ones end anyway",
        ));
    }
    let Some((_, workstation)) = registry.get(name) else {
        return Err(registry.no_such_workstation(tried));
    };
    let port = match (&workstation.port, &request.port) {
        (Some(bound), Some(port)) if port != bound => {
            return Err(Problem::new(
                Kind::Invalid,
                tried,
                format!("it is served on {bound} only, and is to come in by {port}"),
                format!(
                    "leave the port out, and it stays on {bound}; or set `port` in workstations/{name}.toml in the \
                     state directory, and first: portcullis reload"
                ),
            ));
        }
        (bound, port) => bound.as_ref().or(port.as_ref()),
    };
    // Asked first: after the registry's answer nothing may fail.
    let encapsulation = config.encapsulation_for(port.map(String::as_str))?;
    let gateway = keyring.public();
    let until = unix_now().saturating_add(keep);
    let (slot, private) = registry.rotate(name, request.public_key, gateway, until)?;
    let workstation = registry.by_slot(slot).ok_or_else(gone)?;
    let enrolment = Enrolment::of(workstation, private, gateway, encapsulation);
    let rotated = Rotated {
        name: workstation.name.to_string(),
        key_id: enrolment.key_id.to_string(),
        old_ends_in_seconds: keep,
        enrolment: enrolment.to_text().to_string(),
    };
    if keep == 0 {
        registry.promote(slot)?;
    }
    Ok((slot, rotated))
}

fn gone() -> Problem {
    Problem::new(
        Kind::Failed,
        "changing a Workstation",
        "it is not in the registry",
        "restart portcullisd",
    )
}

/// What a rollover of the Gateway's key is answered with.
pub fn key_rotated(registry: &Registry, keyring: &Keyring) -> KeyRotated {
    let old = |w: &&Workstation| keyring.known(w.gateway_key) == Known::Old;
    let known = registry.workstations().map(|(_, w)| w).filter(old);
    KeyRotated {
        public_key: keyring.public().to_string(),
        old_public_key: keyring.old().map(|key| key.to_string()),
        workstations: known.map(|w| w.name.to_string()).collect(),
    }
}

/// Adds a Workstation to the registry and makes its enrolment file: all that adding is, but for
/// telling the dataplane (of the slot in the answer).
///
/// # Errors
/// As [`Registry::add`] and [`Gateway::encapsulation_for`].
pub fn add_workstation(
    registry: &mut Registry,
    config: &Gateway,
    gateway: PublicKey,
    request: AddWorkstation,
) -> Result<(dataplane::WorkstationId, Added), Problem> {
    let mut new = request.into_new()?;
    new.gateway_key = Some(gateway);
    // Asked first: after the registry's answer nothing may fail.
    let encapsulation = config.encapsulation_for(new.port.as_deref())?;
    let (slot, private) = registry.add(new)?;
    let workstation = registry.by_slot(slot).ok_or_else(gone)?;
    let enrolment = Enrolment::of(workstation, private, gateway, encapsulation);
    let added = Added {
        name: workstation.name.to_string(),
        key_id: workstation.key_id.to_string(),
        addresses: workstation.addresses().collect(),
        enrolment: enrolment.to_text().to_string(),
    };
    Ok((slot, added))
}

/// Changes a Workstation's rules in the registry: all that this is, but for telling the dataplane.
///
/// # Errors
/// There is none of that name; a rule to add leads to a Workstation that does not exist; or what the
/// system answered. Nothing has changed then.
pub fn allow_workstation(
    registry: &mut Registry,
    name: &str,
    request: &Allow,
) -> Result<Allowed, Problem> {
    let tried = format!("changing what the Workstation {name} may reach");
    let Some((_, workstation)) = registry.get(name) else {
        return Err(registry.no_such_workstation(tried));
    };
    let invalid = |happened: String| {
        let remedy = "see the rules and the Workstations: `portcullis workstation list`";
        Err(Problem::new(Kind::Invalid, &tried, happened, remedy))
    };
    for change in request.changes.iter().filter(|change| change.add) {
        if let Target::Workstation(peer) = &change.rule.to
            && (peer.as_str() == name || registry.get(peer.as_str()).is_none())
        {
            return invalid(format!("`{}` leads to no other Workstation", change.rule));
        }
    }
    let allow = match rules::apply(&workstation.allow, &request.changes) {
        Ok(allow) => allow,
        Err(happened) => return invalid(happened),
    };
    registry.change(name, |workstation| workstation.allow.clone_from(&allow))?;
    Ok(Allowed {
        name: name.to_owned(),
        allow,
    })
}
