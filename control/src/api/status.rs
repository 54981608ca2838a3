//! What a daemon says of itself, its ports and its Workstations.

use super::message::{ErrorBody, SetWorkstation};
use super::schema;
use crate::choices::Admission;
use crate::keyring::{Keyring, Known};
use crate::registry::Registry;
use crate::rules::Rule;
use crate::workstation::{Workstation, unix_now};
use dataplane::link::{LinkStatistics, Links};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// What a Gateway is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PortStatus {
    /// The interface.
    pub interface: String,
    /// What it lets in.
    #[serde(default)]
    #[schema(value_type = schema::Admission)]
    pub admission: Admission,
    /// How the tunnel's frames travel: `ether` or `udp`; none on a port without a tunnel.
    #[serde(default)]
    pub encapsulation: Option<String>,
    /// Whether the kernel has the interface too, and gets all but the tunnel's datagrams.
    #[serde(default)]
    pub shared: bool,
    /// Whether who has no key is told that nobody listens (`stealth = false`).
    #[serde(default)]
    pub refuses: bool,
    /// Over `udp`: where it is reached, as `192.0.2.1:51888`.
    #[serde(default)]
    pub listens: Vec<String>,
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
    /// Frames that came in by the interface, and their bytes, as its driver counts them: those that XDP drops are
    /// among them, unless the driver leaves them out.
    #[serde(default)]
    pub rx: Traffic,
    /// Frames that left by the interface, and their bytes.
    #[serde(default)]
    pub tx: Traffic,
    /// Frames by verdict of admission.
    pub verdicts: Counters,
    /// Frames and events lost at the rings, by reason; and those that the NIC had no buffer for (`rx_missed`).
    pub ring_losses: Counters,
    /// Frames the egress guard has kept from leaving.
    pub guard_drops: u64,
    /// Of a pinned port: its Workstations.
    #[serde(default)]
    pub pins: Vec<PinStatus>,
}

impl PortStatus {
    /// Takes what the interface's driver counts.
    pub(crate) fn count(&mut self, counted: &LinkStatistics) {
        self.rx = Traffic {
            packets: counted.rx_frames,
            bytes: counted.rx_bytes,
        };
        self.tx = Traffic {
            packets: counted.tx_frames,
            bytes: counted.tx_bytes,
        };
    }

    /// Says how the port stands: by its carrier where it is up, else by whether there is its interface.
    pub(crate) fn stand(&mut self, carrier: Option<bool>, links: &Links) {
        self.state = match carrier {
            Some(true) => PortState::Up,
            None if links.find(&self.interface).is_err() => PortState::Missing,
            Some(false) | None => PortState::Down,
        };
        if carrier == Some(false) {
            self.reason = Some("no carrier; check the cable and the other end".to_owned());
        }
    }
}

/// A Workstation without keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PinStatus {
    /// Its MAC address.
    pub mac: String,
    /// The addresses that it may use.
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// Frames a second that it may send.
    pub rate: u32,
    /// Frames from its MAC address by verdict.
    pub verdicts: Counters,
}

/// A worker's queues of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServedBy {
    /// The worker.
    pub worker: usize,
    /// Its first queue.
    pub first_queue: u32,
    /// Its last queue.
    pub last_queue: u32,
}

/// A Workstation as the Gateway sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
    #[schema(value_type = Vec<schema::Address>)]
    pub addresses: Vec<IpAddr>,
    /// What it may reach.
    #[serde(default)]
    #[schema(value_type = Vec<schema::Rule>)]
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
    #[schema(value_type = schema::Known)]
    pub gateway_key: Known,
    /// The keys it was given and has not used yet.
    #[serde(default)]
    pub rotation: Option<RotationStatus>,
}

/// How much of its share of the rings a Workstation uses, on all ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QueueStatus {
    /// Frames that XDP has let in and the worker has not finished with.
    pub waiting: u64,
    /// As many as there may be.
    pub limit: u64,
}

/// Keys that wait to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SessionStatus {
    /// How old it is.
    pub age_seconds: u64,
    /// The cipher agreed on.
    pub cipher: String,
    /// The protection agreed on.
    pub protection: String,
    /// The other side: its MAC address, or over networks its address and port.
    pub peer: String,
}

/// Packets and bytes: of a Workstation those inside the tunnel, of a port frames on its cable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Traffic {
    /// Packets, or frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an agent is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// The port that is cabled to the Gateway, or the endpoints where it is found over networks.
    pub port: PortStatus,
    /// What the handshake is doing: `idle`, `hello`, `init`, `proving` or `rekey`.
    pub state: String,
    /// The Gateway's MAC address, or over networks its address and port, where it is known.
    pub gateway: Option<String>,
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
    /// Frames whose AEAD tag verified.
    #[serde(default)]
    pub opened: u64,
    /// The Gateway's share of the rings; none over networks.
    #[serde(default)]
    pub queue: QueueStatus,
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

/// A MAC address as the API writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
