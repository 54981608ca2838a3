//! `portcullis explain`: what a port does with a frame, and why.
//!
//! The frame comes from the command line or from a capture file. The daemon is asked, which has the
//! tables that XDP decides by ([`answer`], over tables that are only read); when it is not running, the
//! same is done here, as far as the frame itself decides.

mod command;
mod input;
mod show;

use crate::api::mac_text;
use crate::choices::Admission as Admits;
use crate::config::Gateway;
use crate::problem::{Kind, Problem};
use dataplane::explain::{Captured, Explanation, HEAD, Outcome as Went, explain, explain_pinned};
use dataplane::link::Links;
use dataplane::wall::{PortTables, pin_table};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use wire::pinned::PinKey;
use wire::{Admission, PinnedVerdict, Role, Tables, Verdict};

pub use command::{AgentArguments, Arguments, agent, gateway};
pub use input::{Frames, read};
pub use show::{one, several};

/// Frames that can be asked about at once.
pub const MOST_FRAMES: usize = 64;
/// The longest frame that can be asked about: what captures hold at most.
pub const MOST_BYTES: u32 = 262_144;

/// Frames to be explained. Nothing changes by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The port they came to; by their destination address when not given.
    #[serde(default)]
    pub port: Option<String>,
    /// The frames, at most 64.
    #[schema(max_items = 64)]
    pub frames: Vec<FrameHead>,
}

/// A frame as it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FrameHead {
    /// How many bytes it had, from its Ethernet header on.
    #[schema(maximum = 262_144)]
    pub length: u32,
    /// Its first 256 bytes or fewer, in hex.
    #[schema(pattern = "^([0-9a-f]{2})*$", max_length = 512)]
    pub head: String,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explained {
    /// The port.
    pub port: String,
    /// What it lets in.
    #[schema(value_type = String)]
    pub admission: Admits,
    /// The verdict; null where it depends on what is not known.
    pub verdict: Option<String>,
    /// Whether the frame is let in; null where that is not known.
    pub admitted: Option<bool>,
    /// The Workstation that the frame was found to be of.
    pub workstation: Option<String>,
    /// The checks in order; the last one decides.
    pub steps: Vec<Step>,
}

/// A check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// What is checked.
    pub check: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was found.
    pub text: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The frame got past it.
    Passed,
    /// It decides what becomes of the frame.
    Decided,
    /// It cannot be told.
    Unknown,
}

/// A port whose decisions are explained.
#[derive(Debug)]
pub struct Port {
    /// The interface.
    pub interface: String,
    /// Its MAC address, where there is such an interface.
    pub mac: Option<[u8; 6]>,
    /// What it decides by.
    pub gate: Gate,
}

/// What a port decides by.
#[derive(Debug)]
pub enum Gate {
    /// Sessions and keys.
    Tunnel {
        /// Whose port it is.
        role: Role,
        /// How its frames travel.
        encapsulation: wire::Encapsulation,
        /// The tables, where the port is up.
        tables: Option<Arc<PortTables>>,
    },
    /// Pins.
    Pinned(HashMap<PinKey, u32>),
    /// Nothing.
    Open,
}

impl Gate {
    fn admission(&self) -> Admits {
        match self {
            Gate::Tunnel { .. } => Admits::Tunnel,
            Gate::Pinned(_) => Admits::Pinned,
            Gate::Open => Admits::Open,
        }
    }
}

const TRIED: &str = "explaining a frame";

/// The configured ports without a daemon: whatever takes its tables cannot be told.
pub fn ports(config: &Gateway) -> Vec<Port> {
    let links = Links::open().ok();
    let mac = |name: &str| links.as_ref()?.find(name).ok()?.mac;
    let tunnel = config.ports.iter().map(|port| Port {
        interface: port.interface.clone(),
        mac: mac(&port.interface),
        gate: Gate::Tunnel {
            role: Role::Gateway,
            encapsulation: port.encapsulation.admission(),
            tables: None,
        },
    });
    tunnel.chain(keyless_ports(config, mac)).collect()
}

/// That there is nothing to explain at an agent that reaches its Gateway over networks.
pub fn over_networks() -> Problem {
    Problem::new(
        Kind::Invalid,
        TRIED,
        "over networks the kernel receives the tunnel's datagrams here, and admission has no part in it",
        "ask on the Gateway: portcullis explain",
    )
}

/// A Workstation's port without an agent.
pub fn agents_port(interface: &str, ethertype: u16) -> Port {
    let link = Links::open()
        .ok()
        .and_then(|links| links.find(interface).ok());
    Port {
        interface: interface.to_owned(),
        mac: link.and_then(|link| link.mac),
        gate: Gate::Tunnel {
            role: Role::Workstation,
            encapsulation: wire::Encapsulation::Ether(ethertype),
            tables: None,
        },
    }
}

/// The ports of Workstations without keys, which are decided by the configuration alone.
pub fn keyless_ports(
    config: &Gateway,
    mac: impl Fn(&str) -> Option<[u8; 6]>,
) -> impl Iterator<Item = Port> {
    config.keyless.iter().map(move |port| Port {
        interface: port.interface.clone(),
        mac: mac(&port.interface),
        gate: match &port.pins {
            None => Gate::Open,
            Some(pins) => {
                let own: Vec<_> = port.addresses.iter().map(|net| net.addr()).collect();
                Gate::Pinned(pin_table(&own, pins))
            }
        },
    })
}

/// Answers a request. `named` gives a Workstation's name by its number.
///
/// # Errors
/// A frame is not hex, there are too many, or it cannot be told which port is meant.
pub fn answer(
    ports: &[Port],
    request: &Explain,
    named: impl Fn(u32) -> Option<String>,
) -> Result<Vec<Explained>, Problem> {
    let frames = &request.frames;
    if frames.len() > MOST_FRAMES {
        return Err(Problem::new(
            Kind::Invalid,
            TRIED,
            format!("{} frames at once; at most {MOST_FRAMES}", frames.len()),
            "ask about them in several requests",
        ));
    }
    let explained = frames.iter().map(|frame| {
        if frame.length > MOST_BYTES {
            return Err(Problem::new(
                Kind::Invalid,
                TRIED,
                format!("a frame of {} bytes; at most {MOST_BYTES}", frame.length),
                "give the length that it had on the cable",
            ));
        }
        let head = hex::decode(&frame.head).map_err(|error| {
            let remedy = "give the bytes from the Ethernet header on, two digits each";
            Problem::new(
                Kind::Invalid,
                TRIED,
                format!("its head is no hex: {error}"),
                remedy,
            )
        })?;
        let head = &head[..head.len().min(HEAD)];
        let port = choose(ports, request.port.as_deref(), head)?;
        let captured = Captured::new(head, frame.length as usize);
        Ok(port.explain(&captured, &named))
    });
    explained.collect()
}

/// The port that is named; or the only one; or the one that has the frame's destination address.
fn choose<'a>(ports: &'a [Port], name: Option<&str>, head: &[u8]) -> Result<&'a Port, Problem> {
    let all = || {
        let names: Vec<_> = ports.iter().map(|port| port.interface.as_str()).collect();
        names.join(", ")
    };
    if let Some(name) = name {
        let found = ports.iter().find(|port| port.interface == name);
        return found.ok_or_else(|| {
            let happened = format!("{name} is no configured port");
            Problem::new(
                Kind::NotFound,
                TRIED,
                happened,
                format!("name one of {}", all()),
            )
        });
    }
    if let [only] = ports {
        return Ok(only);
    }
    let destination: Option<[u8; 6]> = head.get(..6).and_then(|head| head.try_into().ok());
    let mut meant = ports
        .iter()
        .filter(|port| port.mac.is_some() && port.mac == destination);
    match (meant.next(), meant.next()) {
        (Some(port), None) => Ok(port),
        _ => Err(Problem::new(
            Kind::Invalid,
            TRIED,
            match destination {
                Some(mac) => format!("{} is no port's address alone", mac_text(mac)),
                None => "it has no destination address".into(),
            },
            format!("say which port it came to: --port, one of {}", all()),
        )),
    }
}

impl Port {
    fn explain(&self, frame: &Captured<'_>, named: impl Fn(u32) -> Option<String>) -> Explained {
        let none = Explained {
            port: self.interface.clone(),
            admission: self.gate.admission(),
            verdict: None,
            admitted: None,
            workstation: None,
            steps: Vec::new(),
        };
        let Some(mac) = self.mac else {
            let text = format!(
                "there is no interface {}, whose MAC address the frame would have to carry",
                self.interface
            );
            return Explained {
                steps: vec![Step::new("port", Outcome::Unknown, text)],
                ..none
            };
        };
        match &self.gate {
            Gate::Tunnel {
                role,
                encapsulation,
                tables,
            } => {
                let port = Admission {
                    role: *role,
                    mac,
                    encapsulation: *encapsulation,
                };
                let moment = tables.as_ref().map(|tables| tables.at(tables.now(), true));
                let told = explain(&port, frame, moment);
                none.told(told, Verdict::name, |verdict| !verdict.is_drop(), named)
            }
            Gate::Pinned(pins) => {
                let lets_in =
                    |verdict| matches!(verdict, PinnedVerdict::Passed | PinnedVerdict::Answered);
                // A pin is no Workstation of the registry's.
                let told = explain_pinned(mac, frame, pins);
                none.told(told, PinnedVerdict::name, lets_in, |_| None)
            }
            Gate::Open => {
                let text = "this port is open: everything goes to the kernel";
                Explained {
                    verdict: Some(PinnedVerdict::Passed.name().into()),
                    admitted: Some(true),
                    steps: vec![Step::new("admission", Outcome::Decided, text)],
                    ..none
                }
            }
        }
    }
}

impl Explained {
    /// The same with what was found.
    fn told<V: Copy>(
        self,
        told: Explanation<V>,
        name: fn(V) -> &'static str,
        lets_in: impl Fn(V) -> bool,
        named: impl Fn(u32) -> Option<String>,
    ) -> Self {
        Self {
            verdict: told.verdict.map(|verdict| name(verdict).into()),
            admitted: told.verdict.map(lets_in),
            workstation: told.of.and_then(named),
            steps: steps(told),
            ..self
        }
    }
}

impl Step {
    fn new(check: &str, outcome: Outcome, text: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            outcome,
            text: text.into(),
        }
    }
}

fn steps<V>(told: Explanation<V>) -> Vec<Step> {
    let step = |step: dataplane::explain::Step| {
        let outcome = match step.outcome {
            Went::Passed => Outcome::Passed,
            Went::Decided => Outcome::Decided,
            Went::Unknown => Outcome::Unknown,
        };
        Step::new(step.check, outcome, step.text)
    };
    told.steps.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests;
