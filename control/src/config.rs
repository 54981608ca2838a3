//! The configuration files: `/etc/portcullis/portcullis.toml` of the Gateway and
//! `/etc/portcullis/agent.toml` of a Workstation.
//!
//! Reading one gives a checked value or one [`Problem`] that names file, line, column, what is
//! wrong there and what to write instead. Unknown names are refused: a misspelt setting that is
//! silently ignored is a hole in the wall.

use crate::choices::{
    Admission, MacAddress, NamedEngine, ThreadedNapi, Virtualised, Xdp, ZeroCopy, cipher_by_name,
    protection_by_name,
};
use crate::confine;
use crate::files;
use crate::problem::{self, Kind, Problem};
use dataplane::engine::Engine;
use dataplane::keys::{Cipher, Protection};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Spanned, Value};

mod keyless;
mod work;

use keyless::RawPin;
pub use keyless::{Digest, KeylessPort, RATE};
use work::RawRings;
pub use work::{BusyPoll, Cores, TX_BUDGET};

/// Where the Gateway's configuration is, unless told otherwise.
pub const GATEWAY_PATH: &str = "/etc/portcullis/portcullis.toml";
/// Where a Workstation's configuration is, unless told otherwise.
pub const AGENT_PATH: &str = "/etc/portcullis/agent.toml";

/// ` --config FILE` for a command that is to use the configuration `path`; nothing where that is the
/// `default`.
pub fn option(path: &Path, default: &str) -> String {
    match path == Path::new(default) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    }
}
/// Where the wall is pinned, unless told otherwise.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/portcullis";
/// The host interface's name, unless told otherwise.
pub const HOST_INTERFACE: &str = "portcullis0";
/// The most Workstations one Gateway can be configured for.
pub const MAX_WORKSTATIONS: u32 = 4096;
/// The ring sizes that can be configured.
pub const RING_SIZES: std::ops::RangeInclusive<u32> = 64..=32768;

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
    /// The EtherType of the tunnel's frames on it.
    pub ethertype: u16,
    /// Its XDP mode and rings.
    pub rings: Rings,
}

/// How a port's XDP program is attached and its rings are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// How the XDP program is attached.
    pub xdp: Xdp,
    /// Descriptors in each ring, a power of two.
    pub size: u32,
    /// Whether frames are shared with the NIC.
    pub zero_copy: ZeroCopy,
    /// How many receive queues are used, from the first; `None` for all.
    pub queues: Option<u32>,
    /// Whether frames lie in huge pages where there are any.
    pub huge_pages: bool,
    /// Frames the kernel sends per system call in copy mode.
    pub tx_budget: u32,
    /// Busy polling, where it is asked for.
    pub busy_poll: Option<BusyPoll>,
    /// Whether the interface's receive work is done by kernel threads.
    pub threaded_napi: ThreadedNapi,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            xdp: Xdp::Auto,
            size: 2048,
            zero_copy: ZeroCopy::Auto,
            queues: None,
            huge_pages: false,
            tx_budget: TX_BUDGET,
            busy_poll: None,
            threaded_napi: ThreadedNapi::Auto,
        }
    }
}

/// A Workstation's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The interface that is cabled to the Gateway; `None`: the one named at enrolment, or the only
    /// wired one.
    pub interface: Option<String>,
    /// The MAC address it is given.
    pub mac_address: MacAddress,
    /// The identity.
    pub state_directory: PathBuf,
    /// The status socket.
    pub runtime_directory: PathBuf,
    /// Where the wall is pinned.
    pub pin_directory: PathBuf,
    /// The account it runs as; `None` for the usual one, where there is it.
    pub user: Option<String>,
    /// The host interface's name.
    pub host_interface: String,
    /// What is routed into the tunnel.
    pub routes: Vec<IpNet>,
    /// The weakest protection that is accepted.
    pub minimum_protection: Protection,
    /// The weakest cipher that is accepted.
    pub minimum_cipher: Cipher,
    /// Whether this machine may be rolled back to a snapshot.
    pub virtualised: Virtualised,
    /// A counter that tells so, to be mapped.
    pub vm_generation: Option<PathBuf>,
    /// The AEAD engine, which this CPU has.
    pub engine: Engine,
    /// The port's XDP mode and rings.
    pub rings: Rings,
    /// The core its worker is pinned to, where that is asked for.
    pub core: Option<usize>,
    /// How long its worker looks for work before it sleeps.
    pub spin: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    state_directory: Option<Spanned<PathBuf>>,
    runtime_directory: Option<Spanned<PathBuf>>,
    pin_directory: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    admin_group: Option<Spanned<String>>,
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
struct RawPort {
    interface: Spanned<String>,
    #[serde(default)]
    admission: Admission,
    addresses: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pin: Vec<RawPin>,
    #[serde(default)]
    xdp: Xdp,
    ring_size: Option<Spanned<i64>>,
    #[serde(default)]
    zero_copy: ZeroCopy,
    ethertype: Option<Spanned<i64>>,
    queues: Option<Spanned<Value>>,
    huge_pages: Option<bool>,
    tx_budget: Option<Spanned<i64>>,
    busy_poll: Option<Spanned<i64>>,
    busy_poll_budget: Option<Spanned<i64>>,
    prefer_busy_poll: Option<bool>,
    #[serde(default)]
    threaded_napi: ThreadedNapi,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgent {
    interface: Option<Spanned<String>>,
    #[serde(default)]
    mac_address: MacAddress,
    state_directory: Option<Spanned<PathBuf>>,
    runtime_directory: Option<Spanned<PathBuf>>,
    pin_directory: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    host: Option<RawAgentHost>,
    routes: Option<Vec<Spanned<String>>>,
    #[serde(default = "encrypt", with = "protection_by_name")]
    minimum_protection: Protection,
    #[serde(default = "aes_256_gcm", with = "cipher_by_name")]
    minimum_cipher: Cipher,
    #[serde(default)]
    virtualised: Virtualised,
    vm_generation: Option<Spanned<PathBuf>>,
    engine: Option<Spanned<NamedEngine>>,
    #[serde(default)]
    xdp: Xdp,
    ring_size: Option<Spanned<i64>>,
    #[serde(default)]
    zero_copy: ZeroCopy,
    queues: Option<Spanned<Value>>,
    huge_pages: Option<bool>,
    tx_budget: Option<Spanned<i64>>,
    busy_poll: Option<Spanned<i64>>,
    busy_poll_budget: Option<Spanned<i64>>,
    prefer_busy_poll: Option<bool>,
    #[serde(default)]
    threaded_napi: ThreadedNapi,
    core: Option<Spanned<i64>>,
    spin: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgentHost {
    interface: Option<Spanned<String>>,
}

fn encrypt() -> Protection {
    Protection::Encrypt
}

fn aes_256_gcm() -> Cipher {
    Cipher::Aes256Gcm
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

    /// The EtherType that a Workstation on `port`, or on whichever port, is to use.
    ///
    /// # Errors
    /// No such tunnel port; or none is named, and the ports have different EtherTypes.
    pub fn ethertype_for(&self, port: Option<&str>) -> Result<u16, Problem> {
        if self.ports.is_empty() {
            return Err(Problem::new(
                Kind::Invalid,
                "choosing a Workstation's EtherType",
                "no port is a tunnel port, so no Workstation with keys could be reached",
                "add a [[port]] with admission = \"tunnel\"",
            ));
        }
        let names = || {
            let names: Vec<_> = self.ports.iter().map(|p| p.interface.as_str()).collect();
            names.join(", ")
        };
        match port {
            Some(name) => match self.ports.iter().find(|port| port.interface == name) {
                Some(port) => Ok(port.ethertype),
                None => Err(Problem::new(
                    Kind::Invalid,
                    format!("binding a Workstation to the port {name}"),
                    "no such tunnel port is configured",
                    format!("name one of {}, or add a [[port]]", names()),
                )),
            },
            None => {
                let first = self.ports.first().map(|port| port.ethertype);
                if self.ports.iter().any(|port| Some(port.ethertype) != first) {
                    return Err(Problem::new(
                        Kind::Invalid,
                        "choosing a Workstation's EtherType",
                        "the ports have different ones",
                        format!("name the port it is cabled to: one of {}", names()),
                    ));
                }
                Ok(first.unwrap_or(wire::limits::ETHERTYPE))
            }
        }
    }
}

impl Agent {
    /// Reads the file; without one everything has its default.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let config = match files::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(problem) if problem.kind == Kind::NotFound => Self::parse(path, ""),
            Err(problem) => Err(problem),
        }?;
        confine::trust(config.user.as_deref());
        Ok(config)
    }

    /// Reads `text`; `path` is only named in problems.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let raw: RawAgent =
            toml::from_str(text).map_err(|error| problem::toml(path, text, &error))?;
        let check = Check { path, text };
        let host = raw.host.and_then(|host| host.interface);
        let host_interface = check.interface_or(host.as_ref(), HOST_INTERFACE)?;
        if let Some(interface) = &raw.interface {
            check.interface(interface)?;
            if *interface.get_ref() == host_interface {
                return Err(check.problem(
                    interface.span().start,
                    format!("{host_interface} is the host interface's name too"),
                    "name the wired interface here; the host interface is made by portcullis-agent",
                ));
            }
        }
        let routes = match &raw.routes {
            Some(routes) => routes
                .iter()
                .map(|route| check.route(route))
                .collect::<Result<_, _>>()?,
            None => vec![IpNet::V4(Default::default()), IpNet::V6(Default::default())],
        };
        Ok(Self {
            interface: raw.interface.map(Spanned::into_inner),
            mac_address: raw.mac_address,
            state_directory: check.directory(raw.state_directory, "/var/lib/portcullis-agent")?,
            runtime_directory: check.directory(raw.runtime_directory, "/run/portcullis-agent")?,
            pin_directory: check.directory(raw.pin_directory, PIN_DIRECTORY)?,
            user: check.user(raw.user.as_ref())?,
            host_interface,
            routes,
            minimum_protection: raw.minimum_protection,
            minimum_cipher: raw.minimum_cipher,
            virtualised: raw.virtualised,
            vm_generation: match raw.vm_generation {
                Some(path) => Some(check.directory(Some(path), "/dev/generation")?),
                None => None,
            },
            engine: check.engine(raw.engine.as_ref(), Engine::available)?,
            core: match &raw.core {
                Some(core) => Some(check.number("core", core, 0..=1023)? as usize),
                None => None,
            },
            spin: check.spin(raw.spin.as_ref())?,
            rings: check.rings(
                raw.xdp,
                raw.ring_size.as_ref(),
                raw.zero_copy,
                &RawRings {
                    queues: raw.queues,
                    huge_pages: raw.huge_pages,
                    tx_budget: raw.tx_budget,
                    busy_poll: raw.busy_poll,
                    busy_poll_budget: raw.busy_poll_budget,
                    prefer_busy_poll: raw.prefer_busy_poll,
                    threaded_napi: raw.threaded_napi,
                },
            )?,
        })
    }
}

/// Checks of values, knowing the text so that a problem can name the line.
struct Check<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Check<'_> {
    fn problem(&self, at: usize, happened: String, remedy: impl Into<String>) -> Problem {
        let (line, column) = problem::position(self.text, at);
        let place = format!("{}:{line}:{column}", self.path.display());
        Problem::new(Kind::Invalid, place, happened, remedy)
    }

    fn number(
        &self,
        name: &str,
        value: &Spanned<i64>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, Problem> {
        let number = *value.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        let (low, high) = range.into_inner();
        Err(self.problem(
            value.span().start,
            format!("{name} is {number}"),
            format!("give a number from {low} to {high}"),
        ))
    }

    fn engine(
        &self,
        engine: Option<&Spanned<NamedEngine>>,
        available: impl Fn(Engine) -> bool,
    ) -> Result<Engine, Problem> {
        let Some(engine) = engine else {
            return Ok(Engine::Auto);
        };
        let NamedEngine(chosen) = *engine.get_ref();
        if available(chosen) {
            return Ok(chosen);
        }
        Err(self.problem(
            engine.span().start,
            format!(
                "this CPU lacks what the engine {} is made of: AVX2 or AVX-512 with VAES and VPCLMULQDQ",
                chosen.name()
            ),
            "use \"auto\", which takes the fastest that this CPU has, or \"aws-lc-rs\"",
        ))
    }

    fn directory(&self, path: Option<Spanned<PathBuf>>, default: &str) -> Result<PathBuf, Problem> {
        match path {
            None => Ok(default.into()),
            Some(path) if path.get_ref().is_absolute() => Ok(path.into_inner()),
            Some(path) => Err(self.problem(
                path.span().start,
                format!("the path `{}` is relative", path.get_ref().display()),
                format!("give it from the root on, like {default}"),
            )),
        }
    }

    fn user(&self, name: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let text = name.get_ref();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if text.is_empty() || !text.chars().all(fits) || text.parse() == Ok(0u32) || text == "root"
        {
            return Err(self.problem(
                name.span().start,
                format!("`{text}` is no account that a daemon can run as"),
                "name an account of its own, like \"portcullis\"",
            ));
        }
        Ok(Some(text.clone()))
    }

    fn group(&self, name: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let text = name.get_ref();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if text.is_empty() || !text.chars().all(fits) {
            return Err(self.problem(
                name.span().start,
                format!("`{text}` can be no group"),
                "name the group whose members may change things, like \"portcullis-admin\"",
            ));
        }
        Ok(Some(text.clone()))
    }

    fn interface(&self, name: &Spanned<String>) -> Result<String, Problem> {
        check_interface_name(name.get_ref()).map_err(|happened| {
            self.problem(
                name.span().start,
                happened,
                "give the name of an interface as `ip link` shows it",
            )
        })?;
        Ok(name.get_ref().clone())
    }

    fn interface_or(
        &self,
        name: Option<&Spanned<String>>,
        default: &str,
    ) -> Result<String, Problem> {
        match name {
            Some(name) => self.interface(name),
            None => Ok(default.to_owned()),
        }
    }

    fn rings(
        &self,
        xdp: Xdp,
        size: Option<&Spanned<i64>>,
        zero_copy: ZeroCopy,
        more: &RawRings,
    ) -> Result<Rings, Problem> {
        let mut rings = Rings {
            xdp,
            zero_copy,
            queues: self.queues(more.queues.as_ref())?,
            huge_pages: more.huge_pages.unwrap_or(false),
            busy_poll: self.busy_poll(more)?,
            threaded_napi: more.threaded_napi,
            ..Rings::default()
        };
        if let Some(value) = size {
            rings.size = u32::try_from(*value.get_ref())
                .ok()
                .filter(|size| RING_SIZES.contains(size) && size.is_power_of_two())
                .ok_or_else(|| {
                    self.problem(
                        value.span().start,
                        format!("ring_size is {}", value.get_ref()),
                        format!(
                            "give a power of two from {} to {}",
                            RING_SIZES.start(),
                            RING_SIZES.end()
                        ),
                    )
                })?;
        }
        rings.tx_budget = self.tx_budget(more.tx_budget.as_ref(), rings.size)?;
        Ok(rings)
    }

    fn ports(&self, raw: &[RawPort], host_interface: &str) -> Result<Vec<Port>, Problem> {
        let mut ports: Vec<Port> = Vec::with_capacity(raw.len());
        let mut lines = HashMap::new();
        for port in raw {
            let at = port.interface.span().start;
            let interface = self.interface(&port.interface)?;
            if interface == host_interface {
                return Err(self.problem(
                    at,
                    format!("{interface} is the host interface's name too"),
                    "name a wired interface here; the host interface is made by portcullisd",
                ));
            }
            if let Some(other) = lines.insert(interface.clone(), at) {
                let (line, _) = problem::position(self.text, other);
                return Err(self.problem(
                    at,
                    format!("the port {interface} is configured already, in line {line}"),
                    "remove one of the two [[port]] sections",
                ));
            }
            if port.admission != Admission::Tunnel {
                continue;
            }
            ports.push(Port {
                interface,
                ethertype: self.ethertype(port.ethertype.as_ref())?,
                rings: self.rings(
                    port.xdp,
                    port.ring_size.as_ref(),
                    port.zero_copy,
                    &RawRings {
                        queues: port.queues.clone(),
                        huge_pages: port.huge_pages,
                        tx_budget: port.tx_budget.clone(),
                        busy_poll: port.busy_poll.clone(),
                        busy_poll_budget: port.busy_poll_budget.clone(),
                        prefer_busy_poll: port.prefer_busy_poll,
                        threaded_napi: port.threaded_napi,
                    },
                )?,
            });
        }
        if raw.is_empty() {
            return Err(self.problem(
                self.text.len(),
                "there is no [[port]], so no Workstation could be reached".into(),
                "add a [[port]] section with interface = \"...\" for each interface that is cabled \
                 to Workstations",
            ));
        }
        Ok(ports)
    }

    fn ethertype(&self, value: Option<&Spanned<i64>>) -> Result<u16, Problem> {
        let Some(value) = value else {
            return Ok(wire::limits::ETHERTYPE);
        };
        let number = *value.get_ref();
        let at = value.span().start;
        let taken = match number {
            0x0800 => Some("IPv4"),
            0x0806 => Some("ARP"),
            0x8100 | 0x88A8 | 0x9100 => Some("VLAN tags"),
            0x86DD => Some("IPv6"),
            0x8809 => Some("LACP"),
            0x8863 | 0x8864 => Some("PPPoE"),
            0x888E => Some("802.1X"),
            0x88CC => Some("LLDP"),
            0x88E5 => Some("MACsec"),
            _ => None,
        };
        let remedy = "leave it out, or give 0x88B5 or 0x88B6, which are free for local use";
        match (u16::try_from(number), taken) {
            (_, Some(name)) => Err(self.problem(
                at,
                format!("the EtherType {number:#06x} belongs to {name}"),
                remedy,
            )),
            (Ok(ethertype), None) if ethertype >= 0x0600 => Ok(ethertype),
            _ => Err(self.problem(at, format!("{number} is not an EtherType"), remedy)),
        }
    }

    fn route(&self, text: &Spanned<String>) -> Result<IpNet, Problem> {
        let at = text.span().start;
        let text = text.get_ref();
        let route: IpNet = text.parse().map_err(|_| {
            self.problem(
                at,
                format!("`{text}` is not an IP prefix"),
                "give a prefix like \"0.0.0.0/0\" or \"2000::/3\"",
            )
        })?;
        if route.addr() != route.network() {
            return Err(self.problem(
                at,
                format!("`{text}` has address bits behind its prefix"),
                format!("write \"{}\"", route.trunc()),
            ));
        }
        Ok(route)
    }

    fn host_addresses(
        &self,
        addresses: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<IpNet>, Problem> {
        let mut hosts: Vec<IpNet> = Vec::new();
        for text in addresses.get_ref() {
            let at = text.span().start;
            let host = host_address(text.get_ref())
                .map_err(|(happened, remedy)| self.problem(at, happened, remedy))?;
            let overlaps =
                |other: &&IpNet| other.contains(&host.addr()) || host.contains(&other.addr());
            if let Some(other) = hosts.iter().find(overlaps) {
                return Err(self.problem(
                    at,
                    format!("{host} overlaps {other}"),
                    "give prefixes that have no address in common, or only one of the two",
                ));
            }
            hosts.push(host);
        }
        if hosts.is_empty() {
            return Err(self.problem(
                addresses.span().start,
                "the host interface has no address, so no Workstation could get one".into(),
                "give at least one, like \"10.152.152.10/18\"",
            ));
        }
        Ok(hosts)
    }
}

/// Checks an address with a prefix that the host interface can have: a host's, with room for at
/// least one Workstation.
///
/// # Errors
/// What is wrong, and what to do.
pub fn host_address(text: &str) -> Result<IpNet, (String, String)> {
    let host: IpNet = text.parse().map_err(|_| {
        (
            format!("`{text}` is not an address with a prefix length"),
            "give the Gateway's address and the prefix it shares with the Workstations, like \
             \"10.152.152.10/18\" or \"fd50:6f72:7463::1/64\""
                .to_owned(),
        )
    })?;
    let (longest, length) = match host {
        IpNet::V4(_) => (30, host.prefix_len()),
        IpNet::V6(_) => (126, host.prefix_len()),
    };
    if length > longest || length < 8 {
        return Err((
            format!("the prefix length of {host} is {length}"),
            format!("give one from 8 to {longest}, so that the Workstations have addresses too"),
        ));
    }
    let address = host.addr();
    let local = match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() || local {
        return Err((
            format!("{address} cannot be a host's address in a routed network"),
            "give a private address, like 10.152.152.10 or fd50:6f72:7463::1".to_owned(),
        ));
    }
    if address == host.network() || (address.is_ipv4() && address == host.broadcast()) {
        return Err((
            format!("{address} is the network or broadcast address of its prefix"),
            "give the Gateway an address inside the prefix".to_owned(),
        ));
    }
    Ok(host)
}

/// Checks an interface's name by the kernel's rules, and by ours: nothing that would have to be
/// quoted somewhere.
///
/// # Errors
/// What is wrong with it.
pub fn check_interface_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if name.is_empty() {
        Err("the interface's name is empty".into())
    } else if name.len() > 15 {
        Err(format!(
            "`{name}` is no interface's name: it has {} characters, and 15 are the most",
            name.len()
        ))
    } else if name == "." || name == ".." || !name.bytes().all(good) {
        Err(format!(
            "`{}` is no interface's name: letters, digits, - _ . and @ are allowed",
            name.escape_debug()
        ))
    } else if name == "lo" {
        Err("`lo` is the loopback interface".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
