//! What is to be examined: a Gateway's configuration or an agent's, as far as both have it.

use crate::choices::Admission;
use crate::config::{Agent, Gateway, Rings};
use crate::encapsulation;
use crate::enrolment::{Encapsulation, Enrolment};
use crate::interfaces;
use crate::problem::Problem;
use crate::registry;
use crate::rules::Target;
use crate::systemd;
use dataplane::engine::Engine;
use dataplane::policy::Match;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The daemon's program.
    pub daemon: &'static str,
    /// The command that starts it.
    pub start: String,
    /// The configuration file.
    pub configuration: PathBuf,
    /// Keys and Workstations.
    pub state_directory: PathBuf,
    /// The control socket.
    pub runtime_directory: PathBuf,
    /// Where the wall is pinned.
    pub pin_directory: PathBuf,
    /// The AEAD engine.
    pub engine: Engine,
    /// The host interface.
    pub host_interface: String,
    /// Whether what comes in on it must stay on this machine: at a Gateway.
    pub kept_in: bool,
    /// Where the services are that Workstations may reach.
    pub services: Vec<Service>,
    /// The ports.
    pub ports: Vec<PortSetup>,
    /// An agent's fast path over networks.
    pub fast_path: Option<FastPathSetup>,
}

/// A fast path.
#[derive(Debug, Clone)]
pub struct FastPathSetup {
    /// The interface, where one is named.
    pub interface: Option<String>,
}

/// A port.
#[derive(Debug, Clone)]
pub struct PortSetup {
    /// The interface.
    pub interface: String,
    /// What it lets in.
    pub admission: Admission,
    /// Whether the tunnel's frames are datagrams there.
    pub udp: bool,
    /// The tunnel's UDP port, where the kernel has the interface too.
    pub shared: Option<u16>,
    /// Its rings; of a port without keys the defaults.
    pub rings: Rings,
    /// The addresses that it may have itself.
    pub addresses: Vec<IpNet>,
}

/// A service that some Workstation may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// TCP, or else UDP.
    pub tcp: bool,
    /// The port.
    pub port: u16,
    /// The Gateway's addresses, on any of which it may listen.
    pub addresses: Vec<IpAddr>,
    /// The first Workstation that may reach it.
    pub workstation: String,
}

impl Setup {
    /// Of a Gateway's configuration.
    pub fn gateway(path: &Path, config: &Gateway) -> Self {
        let tunnel = config.ports.iter().map(|port| PortSetup {
            interface: port.interface.clone(),
            admission: Admission::Tunnel,
            udp: matches!(port.encapsulation, encapsulation::Encapsulation::Udp(_)),
            shared: port.encapsulation.shared_port(),
            rings: port.rings,
            addresses: Vec::new(),
        });
        let keyless = config.keyless.iter().map(|port| PortSetup {
            interface: port.interface.clone(),
            admission: port.admission(),
            udp: false,
            shared: None,
            rings: Rings {
                xdp: port.xdp,
                ..Rings::default()
            },
            addresses: port.addresses.clone(),
        });
        Self {
            daemon: "portcullisd",
            start: systemd::start_gateway(path),
            configuration: path.to_owned(),
            state_directory: config.state_directory.clone(),
            runtime_directory: config.runtime_directory.clone(),
            pin_directory: config.pin_directory.clone(),
            engine: config.engine,
            host_interface: config.host_interface.clone(),
            kept_in: true,
            services: services(config),
            ports: tunnel.chain(keyless).collect(),
            fast_path: None,
        }
    }

    /// Of an agent's, as it is enrolled. Over networks it has no port.
    ///
    /// # Errors
    /// It names no interface, and it cannot be told which is meant.
    pub fn agent(
        path: &Path,
        config: &Agent,
        enrolled: Option<&Enrolment>,
    ) -> Result<Self, Problem> {
        let over_networks =
            enrolled.is_some_and(|one| matches!(one.encapsulation, Encapsulation::Udp { .. }));
        let named = enrolled.and_then(|one| one.interface.as_ref());
        let named = config.interface.as_ref().or(named);
        let interface = match named {
            _ if over_networks => None,
            Some(interface) => Some(interface.clone()),
            None => Some(interfaces::only_wired(&interfaces::list()?, path)?.to_owned()),
        };
        let port = interface.map(|interface| PortSetup {
            interface,
            admission: Admission::Tunnel,
            udp: false,
            shared: None,
            rings: config.rings,
            addresses: Vec::new(),
        });
        Ok(Self {
            daemon: "portcullis-agent",
            start: systemd::start_agent(path),
            configuration: path.to_owned(),
            state_directory: config.state_directory.clone(),
            runtime_directory: config.runtime_directory.clone(),
            pin_directory: config.pin_directory.clone(),
            engine: config.engine,
            host_interface: config.host_interface.clone(),
            kept_in: false,
            services: Vec::new(),
            ports: port.into_iter().collect(),
            fast_path: (over_networks && config.fast_path).then(|| FastPathSetup {
                interface: named.cloned(),
            }),
        })
    }
}

/// The single ports that Workstations may reach at the Gateway. Of a wider rule nobody can say what
/// should listen there.
fn services(config: &Gateway) -> Vec<Service> {
    let mut all: Vec<Service> = Vec::new();
    // What is wrong with a Workstation's file is `check`'s to say.
    let (workstations, _) = registry::inspect(config).unwrap_or_default();
    for workstation in workstations.iter().filter(|one| one.enabled) {
        for rule in workstation.allow.iter().filter(|r| r.to == Target::Gateway) {
            let (tcp, range) = match rule.what {
                Match::Tcp(range) => (true, range),
                Match::Udp(range) => (false, range),
                _ => continue,
            };
            let known = |one: &Service| one.tcp == tcp && one.port == range.first;
            if range.first == range.last && !all.iter().any(known) {
                all.push(Service {
                    tcp,
                    port: range.first,
                    addresses: config.host_addresses.iter().map(IpNet::addr).collect(),
                    workstation: workstation.name.to_string(),
                });
            }
        }
    }
    all
}
