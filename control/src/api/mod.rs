//! The control API: HTTP and JSON over a Unix socket, of mode 0660 in the runtime directory.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`]; at an agent [`AgentStatus`] |
//! | `GET /v1/workstations` | a list of [`WorkstationStatus`] |
//! | `POST /v1/workstations` with [`AddWorkstation`] | 201 and [`Added`], the enrolment file in it |
//! | `POST /v1/workstations/NAME/allow` with [`Allow`] | [`Allowed`], when the rules are in force |
//! | `DELETE /v1/workstations/NAME` | [`Removed`], when its sessions are gone |
//! | `PATCH /v1/workstations/NAME` with [`SetWorkstation`] | [`SetWorkstation`] as it is now |
//! | `POST /v1/workstations/NAME/disable`, `/enable` | [`Switched`], when its sessions are gone |
//! | `POST /v1/workstations/NAME/rotation` with [`RotateWorkstation`] | [`Rotated`], the enrolment file in it |
//! | `DELETE /v1/workstations/NAME/rotation` | [`Done`]: it keeps the keys it has |
//! | `POST /v1/key/rotate` | [`KeyRotated`] |
//! | `POST /v1/key/retire` with [`RetireKey`] | [`KeyRetired`] |
//! | `POST /v1/reload` | [`Reloaded`] |
//! | `POST /v1/down` (agent) | [`Done`] |
//!
//! Errors are [`ErrorBody`] with a fitting status code. [`socket`] holds the socket, [`server`]
//! answers on it, [`client`] asks.

pub mod client;
pub mod server;
pub mod socket;

use crate::choices::{Admission, CipherChoice, padding_by_name};
use crate::config::Gateway;
use crate::enrolment::Enrolment;
use crate::keyring::{Keyring, Known};
use crate::keys::PublicKey;
use crate::problem::{Kind, Problem};
use crate::registry::{New, Registry};
use crate::rules::{self, Change, Rule, Target};
use crate::workstation::{Workstation, unix_now};
use dataplane::keys::Protection;
use dataplane::session::Padding;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// What a Gateway is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// How long it has been running.
    pub started_seconds: u64,
    /// The AEAD engine at work, by its name.
    pub engine: String,
    /// How many workers there are.
    pub workers: usize,
    /// The core each is pinned to; null where it is not.
    #[serde(default)]
    pub worker_cores: Vec<Option<usize>>,
    /// The host interface.
    pub host_interface: String,
    /// The Gateway's static public key.
    pub public_key: String,
    /// The one before, while it is still accepted.
    #[serde(default)]
    pub old_public_key: Option<String>,
    /// The ports, as configured.
    pub ports: Vec<PortStatus>,
    /// The Workstations by name, the broken ones too.
    pub workstations: Vec<WorkstationStatus>,
    /// What the workers and the control thread count that belongs to no Workstation, added up.
    pub counters: Counters,
    /// What a person should know: one sentence each.
    pub warnings: Vec<String>,
}

/// Whether a port works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// Attached, bound, and its carrier is up.
    Up,
    /// Attached, but without carrier, or not bound; the reason is given.
    #[default]
    Down,
    /// There is no such interface now.
    Missing,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The interface.
    pub interface: String,
    /// What it lets in.
    #[serde(default)]
    pub admission: Admission,
    /// Its MAC address, as `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// Whether it works.
    pub state: PortState,
    /// Why it does not.
    pub reason: Option<String>,
    /// How the XDP program is really attached: `native` or `generic`.
    pub xdp: Option<String>,
    /// Whether frames are really shared with the NIC.
    pub zero_copy: Option<bool>,
    /// Receive queues in use.
    pub queues: u32,
    /// Which worker serves which of them.
    #[serde(default)]
    pub served_by: Vec<ServedBy>,
    /// Whether the kernel took busy polling; none where it is not asked for.
    #[serde(default)]
    pub busy_poll: Option<bool>,
    /// Whether the interface was given NAPI threads.
    #[serde(default)]
    pub threaded_napi: bool,
    /// Frames by verdict of admission.
    pub verdicts: Counters,
    /// Frames and events lost at the rings, by reason.
    pub ring_losses: Counters,
    /// Frames the egress guard has kept from leaving.
    pub guard_drops: u64,
    /// Of a pinned port: its Workstations.
    #[serde(default)]
    pub pins: Vec<PinStatus>,
}

/// A Workstation without keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// Its MAC address.
    pub mac: String,
    /// The addresses that it may use.
    pub addresses: Vec<IpAddr>,
    /// Frames a second that it may send.
    pub rate: u32,
    /// Frames from its MAC address by verdict.
    pub verdicts: Counters,
}

/// A worker's queues of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedBy {
    /// The worker.
    pub worker: usize,
    /// Its first queue.
    pub first_queue: u32,
    /// Its last queue.
    pub last_queue: u32,
}

/// A Workstation as the Gateway sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkstationStatus {
    /// Its name.
    pub name: String,
    /// Its key id; none for a file that could not be read.
    pub key_id: Option<String>,
    /// Whether it is served.
    pub enabled: bool,
    /// Why its file cannot be used: it is off until that is mended.
    pub broken: Option<ErrorBody>,
    /// Its inner addresses.
    pub addresses: Vec<IpAddr>,
    /// What it may reach.
    #[serde(default)]
    pub allow: Vec<Rule>,
    /// The port it is bound to, or else the port it was last heard on.
    pub port: Option<String>,
    /// The worker that has its session, where it has one.
    #[serde(default)]
    pub worker: Option<usize>,
    /// Its session, where it has one.
    pub session: Option<SessionStatus>,
    /// What its sessions are to be protected with.
    #[serde(default)]
    pub wanted: SetWorkstation,
    /// Why it gets no session though it has the right keys.
    #[serde(default)]
    pub refused: Option<String>,
    /// How long ago the last handshake was finished.
    pub last_handshake_seconds: Option<u64>,
    /// Inner packets and bytes from it.
    pub rx: Traffic,
    /// Inner packets and bytes to it.
    pub tx: Traffic,
    /// Frames whose AEAD tag verified.
    pub opened: u64,
    /// Its share of the rings.
    #[serde(default)]
    pub queue: QueueStatus,
    /// Its frames by verdict of admission.
    pub verdicts: Counters,
    /// Its frames and packets dropped after admission, by reason.
    pub drops: Counters,
    /// Sessions that replaced another.
    pub rekeys: u64,
    /// Whether two machines seem to have its keys.
    pub clone_suspected: bool,
    /// Which of the Gateway's keys it knows.
    #[serde(default)]
    pub gateway_key: Known,
    /// The keys it was given and has not used yet.
    #[serde(default)]
    pub rotation: Option<RotationStatus>,
}

/// How much of its share of the rings a Workstation uses, on all ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Frames that XDP has let in and the worker has not finished with.
    pub waiting: u64,
    /// As many as there may be.
    pub limit: u64,
}

/// Keys that wait to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// Their key id.
    pub key_id: String,
    /// In how many seconds those before end.
    pub old_ends_in_seconds: u64,
}

impl WorkstationStatus {
    /// What the registry knows of a Workstation; the daemon fills in the rest.
    pub fn of(workstation: &Workstation, keyring: &Keyring) -> Self {
        Self {
            gateway_key: keyring.known(workstation.gateway_key),
            rotation: workstation.next.as_ref().map(|next| RotationStatus {
                key_id: next.key_id.to_string(),
                old_ends_in_seconds: next.until.saturating_sub(unix_now()),
            }),
            name: workstation.name.to_string(),
            key_id: Some(workstation.key_id.to_string()),
            enabled: workstation.enabled,
            addresses: workstation.addresses().collect(),
            allow: workstation.allow.clone(),
            port: workstation.port.clone(),
            wanted: SetWorkstation::of(workstation),
            ..Self::default()
        }
    }

    /// All of the registry's Workstations, with the broken ones, by name.
    pub fn all(registry: &Registry, keyring: &Keyring) -> Vec<Self> {
        let mut all: Vec<Self> = registry
            .workstations()
            .map(|(_, workstation)| Self::of(workstation, keyring))
            .collect();
        all.extend(registry.broken().iter().map(|broken| Self {
            name: broken.name.clone(),
            broken: Some(ErrorBody::from(&broken.problem)),
            ..Self::default()
        }));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// A running session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// How old it is.
    pub age_seconds: u64,
    /// The cipher agreed on.
    pub cipher: String,
    /// The protection agreed on.
    pub protection: String,
    /// The other side's MAC address.
    pub peer_mac: String,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Inner packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an agent is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The program's version.
    pub version: String,
    /// How long it has been running.
    pub started_seconds: u64,
    /// This Workstation's name at the Gateway.
    pub name: String,
    /// Its key id.
    pub key_id: String,
    /// The AEAD engine at work, by its name.
    pub engine: String,
    /// The port that is cabled to the Gateway.
    pub port: PortStatus,
    /// What the handshake is doing: `idle`, `hello`, `init`, `proving` or `rekey`.
    pub state: String,
    /// The Gateway's MAC address, where it is known.
    pub gateway_mac: Option<String>,
    /// The session, where there is one.
    pub session: Option<SessionStatus>,
    /// How long ago the last handshake was finished.
    pub last_handshake_seconds: Option<u64>,
    /// This Workstation's inner addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Inner packets and bytes from the Gateway.
    pub rx: Traffic,
    /// Inner packets and bytes to the Gateway.
    pub tx: Traffic,
    /// Frames and packets dropped after admission, by reason.
    pub drops: Counters,
    /// Sessions that replaced another.
    pub rekeys: u64,
    /// How often this machine may have been put back to a snapshot: all keys were dropped.
    #[serde(default)]
    pub rollbacks: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// A Workstation to add. What is not given is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddWorkstation {
    /// Its name.
    pub name: String,
    /// Its inner addresses, at most one of each family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The only port it is served on.
    #[serde(default)]
    pub port: Option<String>,
    /// What the AEAD does with its packets: `encrypt` or `authenticate`.
    #[serde(default)]
    pub protection: Option<String>,
    /// The cipher.
    #[serde(default)]
    pub cipher: CipherChoice,
    /// How its packets are padded.
    #[serde(default, with = "padding_by_name")]
    pub padding: Padding,
    /// Its public key, when it has made its key pair itself.
    #[serde(default)]
    pub public_key: Option<PublicKey>,
    /// What it may reach; Tor's usual ports and ping when not given.
    #[serde(default)]
    pub allow: Option<Vec<Rule>>,
}

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

/// New keys for a Workstation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateWorkstation {
    /// The public key of a key pair it has made itself.
    #[serde(default)]
    pub public_key: Option<PublicKey>,
    /// For how many seconds the keys it has stay good though it does not use the new ones: a week
    /// when not given; with 0 they end at once.
    #[serde(default)]
    pub keep_old_seconds: Option<u64>,
}

/// A Workstation that was given new keys.
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub struct Rotated {
    /// Its name.
    pub name: String,
    /// The new key id.
    pub key_id: String,
    /// In how many seconds the keys before end, if the new ones are not used sooner.
    pub old_ends_in_seconds: u64,
    /// The text of its new enrolment file, secret.
    pub enrolment: String,
}

impl std::fmt::Debug for Rotated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotated({}, {})", self.name, self.key_id)
    }
}

/// What a Workstation's sessions are protected with. What is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWorkstation {
    /// What the AEAD does with its packets: `encrypt` or `authenticate`.
    #[serde(default)]
    pub protection: Option<String>,
    /// The cipher.
    #[serde(default)]
    pub cipher: Option<CipherChoice>,
    /// How its packets are padded: `none`, `16` or `full`.
    #[serde(default)]
    pub padding: Option<String>,
}

impl SetWorkstation {
    /// What a Workstation's are.
    pub fn of(workstation: &Workstation) -> Self {
        Self {
            protection: Some(workstation.protection.name().to_owned()),
            cipher: Some(workstation.cipher),
            padding: Some(workstation.padding.name().to_owned()),
        }
    }
}

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

/// A Workstation that was turned on or off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Its name.
    pub name: String,
    /// Whether it is served now.
    pub enabled: bool,
}

/// The Gateway's static key, rolled over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// The public key that enrolments name from now on.
    pub public_key: String,
    /// The one before, which is still accepted.
    pub old_public_key: Option<String>,
    /// The Workstations that know that one.
    pub workstations: Vec<String>,
}

/// The Gateway's old static key is to be given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireKey {
    /// Though that locks Workstations out.
    #[serde(default)]
    pub force: bool,
}

/// The Gateway has no old static key any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRetired {
    /// Workstations that cannot connect any more; their sessions were ended.
    pub locked_out: Vec<String>,
}

/// Gives a Workstation new keys in the registry and makes its enrolment file: all that a rotation
/// is, but for telling the dataplane.
///
/// # Errors
/// As [`Registry::rotate`]; and the time is too long, or the ports' EtherTypes differ.
pub fn rotate_workstation(
    registry: &mut Registry,
    config: &Gateway,
    keyring: &Keyring,
    name: &str,
    request: RotateWorkstation,
) -> Result<(dataplane::WorkstationId, Rotated), Problem> {
    let keep = request.keep_old_seconds.unwrap_or(KEEP_OLD);
    if keep > MOST_KEEP_OLD {
        return Err(Problem::new(
            Kind::Invalid,
            format!("rotating the keys of the Workstation {name}"),
            format!("{keep} seconds is longer than the keys before may stay"),
            "give at most 366 days; when the new keys are used, the old ones end anyway",
        ));
    }
    // Asked first: after the registry's answer nothing may fail.
    if let Some((_, workstation)) = registry.get(name) {
        config.ethertype_for(workstation.port.as_deref())?;
    }
    let gateway = keyring.public();
    let until = unix_now().saturating_add(keep);
    let (slot, private) = registry.rotate(name, request.public_key, gateway, until)?;
    let workstation = registry.by_slot(slot).ok_or_else(gone)?;
    let enrolment = Enrolment::of(workstation, private, gateway, config)?;
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
/// As [`Registry::add`]; and the ports' EtherTypes differ, so that one must be named.
pub fn add_workstation(
    registry: &mut Registry,
    config: &Gateway,
    gateway: PublicKey,
    request: AddWorkstation,
) -> Result<(dataplane::WorkstationId, Added), Problem> {
    let mut new = request.into_new()?;
    new.gateway_key = Some(gateway);
    // Asked first: after the registry's answer nothing may fail.
    config.ethertype_for(new.port.as_deref())?;
    let (slot, private) = registry.add(new)?;
    let workstation = registry.by_slot(slot).ok_or_else(gone)?;
    let enrolment = Enrolment::of(workstation, private, gateway, config)?;
    let added = Added {
        name: workstation.name.to_string(),
        key_id: workstation.key_id.to_string(),
        addresses: workstation.addresses().collect(),
        enrolment: enrolment.to_text().to_string(),
    };
    Ok((slot, added))
}

/// Changes to a Workstation's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Rules to add and to take away, in this order.
    pub changes: Vec<Change>,
}

/// A Workstation's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Its name.
    pub name: String,
    /// What it may reach.
    pub allow: Vec<Rule>,
}

/// Changes a Workstation's rules in the registry: all that this is, but for telling the dataplane.
///
/// # Errors
/// There is none of that name; a rule to take away is not there; one to add leads to a Workstation
/// that does not exist; or what the system answered. Nothing has changed then.
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

/// A Workstation that was added.
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its key id.
    pub key_id: String,
    /// Its inner addresses.
    #[zeroize(skip)]
    pub addresses: Vec<IpAddr>,
    /// The text of its enrolment file, secret.
    pub enrolment: String,
}

impl std::fmt::Debug for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Added({}, {})", self.name, self.key_id)
    }
}

/// A Workstation that was removed; its sessions are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
}

/// What a reload changed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// New Workstations.
    pub added: Vec<String>,
    /// Workstations described differently now; their sessions were ended.
    pub changed: Vec<String>,
    /// Workstations that may reach something else now; their sessions go on.
    #[serde(default)]
    pub ruled: Vec<String>,
    /// Workstations that are gone or broken; their sessions were ended.
    pub removed: Vec<String>,
    /// Workstations whose file cannot be used.
    pub broken: Vec<String>,
    /// Settings of the configuration that are different now.
    #[serde(default)]
    pub settings: Vec<String>,
}

/// It is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// An error, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was tried and what happened.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

impl From<&Problem> for ErrorBody {
    fn from(problem: &Problem) -> Self {
        Self {
            error: problem.to_string(),
            remedy: problem.remedy.clone(),
        }
    }
}

/// A MAC address as the API writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

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

    /// Adds a Workstation and serves it from then on ([`add_workstation`]).
    ///
    /// # Errors
    /// Why it was not added; nothing has changed.
    fn add(&self, request: AddWorkstation) -> Result<Added, Problem>;

    /// Removes a Workstation, and returns when its sessions are gone from XDP and the workers.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    fn remove(&self, name: &str) -> Result<Removed, Problem>;

    /// Changes what a Workstation's sessions are protected with ([`set_workstation`]). They end, and
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

    /// Gives a Workstation new keys ([`rotate_workstation`]).
    ///
    /// # Errors
    /// Why not; it keeps the keys it has.
    fn rotate(&self, name: &str, request: RotateWorkstation) -> Result<Rotated, Problem>;

    /// Takes back the keys that a Workstation was given and has not used.
    ///
    /// # Errors
    /// There is none of that name, or what the system answered.
    fn cancel_rotation(&self, name: &str) -> Result<(), Problem>;

    /// Rolls the Gateway's static key over ([`Registry::rotate_key`]).
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn rotate_key(&self) -> Result<KeyRotated, Problem>;

    /// Gives up the Gateway's old static key ([`Registry::retire_key`]).
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem>;
    /// Changes what a Workstation may reach, from its next frame on ([`allow_workstation`]).
    ///
    /// # Errors
    /// Why it was not changed; nothing has changed.
    fn allow(&self, name: &str, request: Allow) -> Result<Allowed, Problem>;

    /// Reads the Workstation files again.
    ///
    /// # Errors
    /// They cannot be read; nothing has changed.
    fn reload(&self) -> Result<Reloaded, Problem>;
}

/// What the API asks of a running agent. Called on threads that may block.
pub trait AgentControl: Send + Sync + 'static {
    /// What it is doing.
    ///
    /// # Errors
    /// It cannot tell now.
    fn status(&self) -> Result<AgentStatus, Problem>;

    /// Takes the tunnel down: session erased, host interface and wall gone, the port the kernel's
    /// own again. The process ends after the answer.
    ///
    /// # Errors
    /// What is left standing, and why.
    fn down(&self) -> Result<(), Problem>;
}
