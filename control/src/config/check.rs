//! Checks of values, each with the line it stands in and what to write instead.

use super::RING_SIZES;
use super::gateway::{Port, RawPort};
use super::work::{RawRings, Rings};
use crate::choices::{Admission, NamedEngine, Xdp, ZeroCopy};
use crate::problem::{self, Kind, Problem};
use dataplane::engine::Engine;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Checks of values, knowing the text so that a problem can name the line.
pub(super) struct Check<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Check<'_> {
    pub(super) fn problem(
        &self,
        at: usize,
        happened: String,
        remedy: impl Into<String>,
    ) -> Problem {
        let (line, column) = problem::position(self.text, at);
        let place = format!("{}:{line}:{column}", self.path.display());
        Problem::new(Kind::Invalid, place, happened, remedy)
    }

    pub(super) fn number(
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

    pub(super) fn engine(
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

    pub(super) fn directory(
        &self,
        path: Option<Spanned<PathBuf>>,
        default: &str,
    ) -> Result<PathBuf, Problem> {
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

    pub(super) fn user(&self, name: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
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

    /// Where metrics are served: not where a Workstation could ask for them.
    pub(super) fn metrics_address<'a>(
        &self,
        address: Option<&Spanned<String>>,
        beyond_loopback: bool,
        mut internal: impl Iterator<Item = &'a IpNet>,
    ) -> Result<Option<SocketAddr>, Problem> {
        let Some(text) = address else {
            return Ok(None);
        };
        let refused =
            |happened: String, remedy: &str| Err(self.problem(text.span().start, happened, remedy));
        let Ok(address) = text.get_ref().parse::<SocketAddr>() else {
            return refused(
                format!("metrics_address is `{}`", text.get_ref()),
                "give an address and a port, like \"127.0.0.1:9477\" or \"[::1]:9477\"",
            );
        };
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() {
            return refused(
                format!(
                    "metrics_address is {ip}, which is every address, those that Workstations reach too"
                ),
                "name one address of this machine, like \"127.0.0.1:9477\"",
            );
        }
        if let Some(net) = internal.find(|net| net.contains(&ip)) {
            return refused(
                format!(
                    "metrics_address is in {}, which Workstations reach",
                    net.trunc()
                ),
                "name an address that they do not, like \"127.0.0.1:9477\"",
            );
        }
        if !ip.is_loopback() && !beyond_loopback {
            return refused(
                format!(
                    "metrics_address {ip} can be reached from other machines, and nobody who asks there is asked who it is"
                ),
                "name a loopback address, like \"127.0.0.1:9477\"; or write metrics_beyond_loopback = true",
            );
        }
        Ok(Some(address))
    }

    pub(super) fn group(&self, name: Option<&Spanned<String>>) -> Result<Option<String>, Problem> {
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

    pub(super) fn interface(&self, name: &Spanned<String>) -> Result<String, Problem> {
        check_interface_name(name.get_ref()).map_err(|happened| {
            self.problem(
                name.span().start,
                happened,
                "give the name of an interface as `ip link` shows it",
            )
        })?;
        Ok(name.get_ref().clone())
    }

    pub(super) fn interface_or(
        &self,
        name: Option<&Spanned<String>>,
        default: &str,
    ) -> Result<String, Problem> {
        match name {
            Some(name) => self.interface(name),
            None => Ok(default.to_owned()),
        }
    }

    pub(super) fn rings(
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

    pub(super) fn ports(
        &self,
        raw: &[RawPort],
        host_interface: &str,
    ) -> Result<Vec<Port>, Problem> {
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
                encapsulation: self.encapsulation(port)?,
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

    pub(super) fn ethertype(&self, value: Option<&Spanned<i64>>) -> Result<u16, Problem> {
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

    pub(super) fn route(&self, text: &Spanned<String>) -> Result<IpNet, Problem> {
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

    pub(super) fn host_addresses(
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
