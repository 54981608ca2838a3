//! The Gateway's configuration.

use super::check::Check;
use super::keyless::{KeylessPort, RawPin};
use super::work::{Cores, Rings};
use super::{GATEWAY_PATH, HOST_INTERFACE, MAX_WORKSTATIONS, PIN_DIRECTORY, option};
use crate::choices::{
    Admission, Encapsulation as Choice, NamedEngine, ThreadedNapi, Xdp, ZeroCopy,
};
use crate::confine;
use crate::encapsulation::Encapsulation;
use crate::enrolment;
use crate::files;
use crate::log::Format;
use crate::problem::{self, Kind, Problem};
use dataplane::engine::Engine;
use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Spanned, Value};

/// The Gateway's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Keys and Workstations.
    pub state_directory: PathBuf,
    /// The control socket.
    pub runtime_directory: PathBuf,
    /// Where the wall is pinned.
    pub pin_directory: PathBuf,
    /// The account it runs as; `None` for the usual one, where there is it.
    pub user: Option<String>,
    /// The group whose members may change things over the control socket.
    pub admin_group: Option<String>,
    /// Where metrics are served over TCP.
    pub metrics_address: Option<SocketAddr>,
    /// How the log looks.
    pub log_format: Format,
    /// How many workers; `None` for the choice made at start.
    pub workers: Option<usize>,
    /// Which cores they are pinned to.
    pub cores: Cores,
    /// How long a worker looks for work before it sleeps.
    pub spin: Duration,
    /// How many Workstations there is room for.
    pub max_workstations: u32,
    /// The AEAD engine, which this CPU has.
    pub engine: Engine,
    /// The host interface's name.
    pub host_interface: String,
    /// The host interface's addresses, which are the Gateway's, with the prefixes that Workstations
    /// get theirs from. No two prefixes overlap.
    pub host_addresses: Vec<IpNet>,
    /// The ports of the tunnel.
    pub ports: Vec<Port>,
    /// The ports for Workstations without keys. There is at least one port of either kind.
    pub keyless: Vec<KeylessPort>,
}

/// A port of the Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The interface.
    pub interface: String,
    /// How the tunnel's frames travel from it.
    pub encapsulation: Encapsulation,
    /// Its XDP mode and rings.
    pub rings: Rings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    state_directory: Option<Spanned<PathBuf>>,
    runtime_directory: Option<Spanned<PathBuf>>,
    pin_directory: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    admin_group: Option<Spanned<String>>,
    metrics_address: Option<Spanned<String>>,
    #[serde(default)]
    metrics_beyond_loopback: bool,
    #[serde(default)]
    log_format: Format,
    workers: Option<Spanned<i64>>,
    cores: Option<Spanned<Value>>,
    spin: Option<Spanned<i64>>,
    max_workstations: Option<Spanned<i64>>,
    engine: Option<Spanned<NamedEngine>>,
    host: RawHost,
    #[serde(default)]
    port: Vec<RawPort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    interface: Option<Spanned<String>>,
    addresses: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) interface: Spanned<String>,
    #[serde(default)]
    pub(super) admission: Admission,
    pub(super) addresses: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) pin: Vec<RawPin>,
    #[serde(default)]
    pub(super) xdp: Xdp,
    pub(super) ring_size: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) zero_copy: ZeroCopy,
    #[serde(default)]
    pub(super) encapsulation: Choice,
    pub(super) ethertype: Option<Spanned<i64>>,
    pub(super) udp_port: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) shared: bool,
    pub(super) stealth: Option<bool>,
    pub(super) endpoint: Option<Vec<Spanned<String>>>,
    pub(super) queues: Option<Spanned<Value>>,
    pub(super) huge_pages: Option<bool>,
    pub(super) tx_budget: Option<Spanned<i64>>,
    pub(super) busy_poll: Option<Spanned<i64>>,
    pub(super) busy_poll_budget: Option<Spanned<i64>>,
    pub(super) prefer_busy_poll: Option<bool>,
    #[serde(default)]
    pub(super) threaded_napi: ThreadedNapi,
}

impl Gateway {
    /// Reads the file.
    ///
    /// # Errors
    /// It is missing, or the first thing that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = files::read(path).map_err(|mut problem| {
            if problem.kind == Kind::NotFound {
                problem.remedy = format!(
                    "make one with `portcullis{} init`, or name another with --config FILE",
                    option(path, GATEWAY_PATH)
                );
            }
            problem
        })?;
        let config = Self::parse(path, &text)?;
        confine::trust(config.user.as_deref());
        Ok(config)
    }

    /// Reads `text`; `path` is only named in problems.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let raw: RawGateway =
            toml::from_str(text).map_err(|error| problem::toml(path, text, &error))?;
        let check = Check { path, text };
        let host_interface = check.interface_or(raw.host.interface.as_ref(), HOST_INTERFACE)?;
        let ports = check.ports(&raw.port, &host_interface)?;
        let host_addresses = check.host_addresses(&raw.host.addresses)?;
        let keyless = check.keyless_ports(&raw.port, &host_addresses)?;
        let workers = match raw.workers {
            Some(workers) => Some(check.number("workers", &workers, 1..=256)? as usize),
            None => None,
        };
        Ok(Self {
            state_directory: check.directory(raw.state_directory, "/var/lib/portcullis")?,
            runtime_directory: check.directory(raw.runtime_directory, "/run/portcullis")?,
            pin_directory: check.directory(raw.pin_directory, PIN_DIRECTORY)?,
            user: check.user(raw.user.as_ref())?,
            admin_group: check.group(raw.admin_group.as_ref())?,
            metrics_address: check.metrics_address(
                raw.metrics_address.as_ref(),
                raw.metrics_beyond_loopback,
                host_addresses
                    .iter()
                    .chain(keyless.iter().flat_map(|port| &port.addresses)),
            )?,
            log_format: raw.log_format,
            cores: check.cores(raw.cores.as_ref(), workers)?,
            spin: check.spin(raw.spin.as_ref())?,
            workers,
            max_workstations: match raw.max_workstations {
                Some(max) => {
                    let range = 1..=i64::from(MAX_WORKSTATIONS);
                    check.number("max_workstations", &max, range)? as u32
                }
                None => 64,
            },
            engine: check.engine(raw.engine.as_ref(), Engine::available)?,
            host_addresses,
            host_interface,
            ports,
            keyless,
        })
    }

    /// The Gateway's own address and prefix in the prefix that `address` belongs to.
    pub fn host_address_for(&self, address: std::net::IpAddr) -> Option<IpNet> {
        self.host_addresses
            .iter()
            .find(|host| host.contains(&address))
            .copied()
    }

    /// How a Workstation on `port`, or on whichever port, is to reach this Gateway.
    ///
    /// # Errors
    /// No such tunnel port; or none is named, and the ports are reached in different ways; or it is not said where
    /// the port is found over networks.
    pub fn encapsulation_for(
        &self,
        port: Option<&str>,
    ) -> Result<enrolment::Encapsulation, Problem> {
        let wrong = |tried: String, happened: &str, remedy: String| {
            Err(Problem::new(Kind::Invalid, tried, happened, remedy))
        };
        if self.ports.is_empty() {
            return wrong(
                "choosing how a Workstation reaches this Gateway".into(),
                "no port is a tunnel port, so no Workstation with keys could be reached",
                "add a [[port]] with admission = \"tunnel\"".into(),
            );
        }
        let names = || {
            let names: Vec<_> = self.ports.iter().map(|p| p.interface.as_str()).collect();
            names.join(", ")
        };
        let port = match port {
            Some(name) => match self.ports.iter().find(|port| port.interface == name) {
                Some(port) => port,
                None => {
                    return wrong(
                        format!("having a Workstation come in by the port {name}"),
                        "no such tunnel port is configured",
                        format!("name one of {}, or add a [[port]]", names()),
                    );
                }
            },
            None => {
                let first = &self.ports[0];
                let differs = |port: &Port| port.encapsulation != first.encapsulation;
                if self.ports.iter().any(differs) {
                    return wrong(
                        "choosing how a Workstation reaches this Gateway".into(),
                        "the ports have different encapsulations",
                        format!("name the port it comes in by: one of {}", names()),
                    );
                }
                first
            }
        };
        match &port.encapsulation {
            Encapsulation::Ether(ethertype) => Ok(enrolment::Encapsulation::Ether {
                ethertype: *ethertype,
            }),
            Encapsulation::Udp(udp) if udp.endpoints.is_empty() => wrong(
                format!("saying where the port {} is found", port.interface),
                "its configuration names no endpoint, and a shared port's addresses may change",
                "add endpoint = [\"NAME:PORT\"] to the [[port]], with a name or an address that the Workstations \
                 can reach"
                    .into(),
            ),
            Encapsulation::Udp(udp) => Ok(enrolment::Encapsulation::Udp {
                endpoints: udp.endpoints.clone(),
            }),
        }
    }
}
