//! A port for Workstations without keys, in the Gateway's privileged helper: how it is raised, and how
//! it comes and goes with its interface.
//!
//! No worker has a part in it. XDP decides what the kernel gets and the egress guard what the
//! kernel sends; on a pinned port the neighbours are permanent, so there is nothing to ask for. All of
//! it stands in the kernel, and goes on when the daemon has ended. The daemon says when to look, and
//! nothing of what is done then.

use crate::api::mac_text;
use crate::choices::{Admission, Xdp};
use crate::config;
use crate::monitor;
use crate::problem::{Kind, Problem};
use dataplane::link::{
    LinkInfo, Links, Neighbour, interface_setting, keyless_fitness, set_interface,
};
use dataplane::wall::{
    self, AttachMode, GuardHook, Keyless, KeylessConfig, KeylessCounters, KeylessWall, XdpRequest,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the kernel is told of the interface, whatever was set before. Of IPv6, what is not there is no
/// error: the kernel may have none.
const SETTINGS: [(&str, &str, &str); 14] = [
    // Nothing that arrives is passed on to another interface.
    ("ipv4/conf", "forwarding", "0"),
    ("ipv4/conf", "mc_forwarding", "0"),
    ("ipv6/conf", "forwarding", "0"),
    ("ipv4/conf", "proxy_arp", "0"),
    ("ipv6/conf", "proxy_ndp", "0"),
    // Nor accepted from an address that is reached another way, or by a route of the sender's.
    ("ipv4/conf", "rp_filter", "1"),
    ("ipv4/conf", "accept_source_route", "0"),
    ("ipv6/conf", "accept_source_route", "0"),
    // What the cable says of routes and routers is not believed.
    ("ipv4/conf", "accept_redirects", "0"),
    ("ipv6/conf", "accept_redirects", "0"),
    ("ipv6/conf", "accept_ra", "0"),
    ("ipv6/conf", "autoconf", "0"),
    // Other interfaces' addresses are not told.
    ("ipv4/conf", "arp_ignore", "1"),
    ("ipv4/conf", "send_redirects", "0"),
];

/// A configured port.
#[derive(Debug)]
pub struct Port {
    config: config::KeylessPort,
    /// What it was before the last change.
    former: Option<config::KeylessPort>,
    pin_directory: PathBuf,
    up: Option<Up>,
    /// Why it is not up.
    reason: Option<String>,
    /// Of a wall that was raised just now.
    counters: Option<KeylessCounters>,
}

/// How a port is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Whether it is up, and on what.
    pub up: Option<Up>,
    /// Why it is not.
    pub reason: Option<String>,
}

/// A port that is up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Up {
    /// The interface's index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Whether XDP runs in generic mode.
    pub generic: bool,
    /// Whether there is a carrier.
    pub carrier: bool,
}

impl Port {
    /// A port that is not raised yet.
    pub fn new(config: config::KeylessPort, pin_directory: &Path) -> Self {
        Self {
            config,
            pin_directory: pin_directory.to_owned(),
            up: None,
            former: None,
            reason: None,
            counters: None,
        }
    }

    /// What it is to be.
    pub fn config(&self) -> &config::KeylessPort {
        &self.config
    }

    /// How it is; and what its wall counts, if it was raised since that was last asked.
    pub fn standing(&mut self) -> (Standing, Option<KeylessCounters>) {
        let standing = Standing {
            up: self.up,
            reason: self.reason.clone(),
        };
        (standing, self.counters.take())
    }

    /// Where its wall is pinned.
    pub fn pin_directory(&self) -> &Path {
        &self.pin_directory
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.config.interface
    }

    /// Whether the interface can be such a port, without touching it.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self, links: &Links) -> Result<LinkInfo, Problem> {
        let link = links.find(self.interface()).map_err(|error| {
            let remedy = "name an interface that `ip link` shows, in the configuration's [[port]]";
            Problem::new(Kind::NotFound, self.tried(), error, remedy)
        })?;
        let own = self.config.pins.as_ref().map(|_| &*self.config.addresses);
        keyless_fitness(&link, own).map_err(|unfit| self.refused(unfit))?;
        self.isolated()?;
        let mut pins = self.config.pins.iter().flatten();
        if let Some(pin) = pins.find(|pin| Some(pin.mac) == link.mac) {
            return Err(Problem::new(
                Kind::Invalid,
                self.tried(),
                format!("{} is the interface's own MAC address", mac_text(pin.mac)),
                "pin the address of the Workstation's interface, at the other end of the cable",
            ));
        }
        wall::vacant(self.interface(), link.index, &self.pin_directory)
            .map_err(|error| self.refused(error))?;
        Ok(link)
    }

    /// Whether what arrives stays here. For IPv4 the interface's own setting sees to it, on a pinned
    /// port XDP; IPv6 has only one setting for all interfaces.
    fn isolated(&self) -> Result<(), Problem> {
        let forwards = interface_setting("all", "ipv6/conf", "forwarding").unwrap_or_default();
        match (self.config.admission(), forwards.as_deref()) {
            (Admission::Open, Some(value)) if value != "0" => Err(Problem::new(
                Kind::Conflict,
                self.tried(),
                "this machine forwards IPv6, so an open port would reach its other interfaces",
                "sysctl -w net.ipv6.conf.all.forwarding=0, or use admission = \"pinned\"",
            )),
            _ => Ok(()),
        }
    }

    /// Raises it, or puts a new wall in the place of the one that stands: the pins change between two
    /// frames.
    ///
    /// # Errors
    /// The step that failed; the wall stands from the step on in which it was raised.
    pub fn raise(&mut self, links: &Links) -> Result<(), Problem> {
        let link = self.check(links)?;
        let mac = link.mac.unwrap_or_default();
        let stands = wall::stands(self.interface(), link.index, &self.pin_directory);
        if link.up && !stands {
            links
                .set_down(link.index)
                .map_err(|error| self.refused(error))?;
        }
        let wall = KeylessWall::raise(&KeylessConfig {
            interface: self.interface().to_owned(),
            ifindex: link.index,
            mac,
            pin_directory: self.pin_directory.clone(),
            mode: match self.config.xdp {
                Xdp::Auto => XdpRequest::Auto,
                Xdp::Native => XdpRequest::Native,
                Xdp::Generic => XdpRequest::Generic,
            },
            guard: GuardHook::Auto,
            keyless: match &self.config.pins {
                Some(pins) => Keyless::Pinned {
                    own: self.config.addresses.iter().map(IpNet::addr).collect(),
                    pins: pins.clone(),
                },
                None => Keyless::Open,
            },
        })
        .map_err(|error| self.refused(error))?;
        self.harden()?;
        links
            .set_up(link.index)
            .map_err(|error| self.refused(error))?;
        let mode = wall.mode().map_err(|error| self.refused(error))?;
        self.up = Some(Up {
            ifindex: link.index,
            mac,
            generic: mode == AttachMode::Generic,
            carrier: link.carrier,
        });
        self.counters = Some(wall.into_counters());
        self.settle(links)?;
        self.reason = None;
        let pins = self.config.pins.as_ref().map(Vec::len);
        tracing::info!(port = link.name, admission = ?self.config.admission(), xdp = ?mode, pins, "port is up");
        for warning in warnings(&self.config, self.up.as_ref()) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Tells the kernel what it may do on the interface.
    fn harden(&self) -> Result<(), Problem> {
        let pinned = self.config.pins.is_some();
        let v6 = !pinned || self.config.addresses.iter().any(|net| net.addr().is_ipv6());
        let mut settings: Vec<_> = SETTINGS.to_vec();
        if pinned {
            // Nothing leaves to or from a link-local address.
            settings.push(("ipv6/conf", "addr_gen_mode", "1"));
        }
        settings.push(("ipv6/conf", "disable_ipv6", if v6 { "0" } else { "1" }));
        for (kind, setting, value) in settings {
            let written = set_interface(self.interface(), kind, setting, value);
            // Read-only settings are as good as writable ones that are right already.
            if let Err(error) = written {
                let is = interface_setting(self.interface(), kind, setting);
                if is.ok().flatten().as_deref() != Some(value) {
                    return Err(self.refused(error));
                }
            }
        }
        Ok(())
    }

    /// Gives the interface its addresses and neighbours, as far as it lacks them: setting it down
    /// takes them away.
    fn settle(&self, links: &Links) -> Result<(), Problem> {
        let Some(up) = &self.up else { return Ok(()) };
        let present = links
            .addresses(up.ifindex)
            .map_err(|error| self.refused(error))?;
        for address in &self.config.addresses {
            if !present.contains(address) {
                links
                    .replace_address(up.ifindex, *address)
                    .map_err(|error| self.refused(error))?;
            }
        }
        if let Some(pins) = &self.config.pins {
            let of = |pin: &wall::Pin| {
                let mac = pin.mac;
                let addresses = pin.addresses.clone();
                addresses.into_iter().map(move |address| (address, mac))
            };
            let neighbours: Vec<Neighbour> = pins.iter().flat_map(of).collect();
            links
                .set_neighbours(up.ifindex, &neighbours)
                .map_err(|error| self.refused(error))?;
        }
        Ok(())
    }

    /// Takes over another configuration of the same interface, at once.
    ///
    /// # Errors
    /// As [`Port::raise`]; then the former wall and configuration stay.
    pub fn change(&mut self, config: &config::KeylessPort, links: &Links) -> Result<(), Problem> {
        if self.config == *config {
            return Ok(());
        }
        let former = std::mem::replace(&mut self.config, config.clone());
        match self.raise(links) {
            Ok(()) => {
                self.former = Some(former);
                Ok(())
            }
            Err(problem) => {
                self.config = former;
                self.raise_again(links);
                Err(problem)
            }
        }
    }

    /// Takes the last change back, unless that was done.
    ///
    /// # Errors
    /// As [`Port::raise`]; then it is tried again as long as the port is looked after.
    pub fn take_back(&mut self, links: &Links) -> Result<(), Problem> {
        let Some(former) = self.former.take() else {
            return Ok(());
        };
        self.config = former;
        self.raise(links).inspect_err(|_| self.raise_again(links))
    }

    /// Raises it where it can be, as a running daemon does.
    pub fn raise_again(&mut self, links: &Links) {
        if let Err(problem) = self.raise(links) {
            self.up = None;
            self.counters = None;
            let reason = format!("{problem}; {}", problem.remedy);
            if self.reason.as_ref() != Some(&reason) {
                tracing::error!(port = self.config.interface, %problem, remedy = problem.remedy, "the port stays down for now");
            }
            self.reason = Some(reason);
        }
    }

    /// Looks how the interface is, whatever has happened to it: raises the port again where it is not
    /// up or its interface is another, and mends what can be mended. An interface that was put into a
    /// bridge is set down.
    pub fn look(&mut self, links: &Links) {
        let Some(up) = self.up else {
            if links.find(self.interface()).is_ok() {
                self.raise_again(links);
            }
            return;
        };
        let link = links.get(up.ifindex).ok();
        let lost = match &link {
            None => Some("the interface was removed"),
            Some(link) if link.name != self.config.interface => Some("the interface was renamed"),
            Some(link) if link.mac != Some(up.mac) => {
                Some("the interface's MAC address was changed")
            }
            Some(link) if !wall::stands(self.interface(), link.index, &self.pin_directory) => {
                Some("its wall is not there, or the interface was replaced by another")
            }
            Some(_) => None,
        };
        match (link, lost) {
            (_, Some(reason)) => {
                self.lose(reason);
                if links.find(self.interface()).is_ok() {
                    self.raise_again(links);
                }
            }
            (Some(link), None) => self.watch(&link, links),
            (None, None) => {}
        }
    }

    /// Looks whether the interface, which is the one it was, is still one of its own.
    fn watch(&mut self, link: &LinkInfo, links: &Links) {
        let unfit = keyless_fitness(link, None).map_err(|unfit| self.refused(unfit));
        if let Err(problem) = unfit.and_then(|()| self.isolated()) {
            tracing::error!(port = self.interface(), %problem, remedy = problem.remedy, "the port is set down");
            if let Err(error) = links.set_down(link.index) {
                tracing::error!(port = self.interface(), %error, "the port could not be set down: do it by hand (ip link set dev IF down)");
            }
            self.lose(&problem.to_string());
            return;
        }
        if let Some(up) = &mut self.up
            && std::mem::replace(&mut up.carrier, link.carrier) != link.carrier
        {
            tracing::info!(
                port = link.name,
                carrier = link.carrier,
                "the carrier changed"
            );
        }
        // Writing net.ipv4.ip_forward sets it for every interface.
        let forwards = interface_setting(self.interface(), "ipv4/conf", "forwarding");
        if forwards.is_ok_and(|value| value.is_some_and(|value| value != "0")) {
            tracing::warn!(
                port = self.interface(),
                "IPv4 forwarding was switched on for the port, and is switched off again"
            );
            if let Err(problem) = self.harden() {
                tracing::error!(port = self.interface(), %problem, remedy = problem.remedy, "IPv4 forwarding could not be switched off for the port");
            }
        }
        if link.up
            && let Err(problem) = self.settle(links)
        {
            tracing::debug!(%problem, "addresses and neighbours are not as they should be; tried again");
        }
    }

    fn lose(&mut self, reason: &str) {
        tracing::error!(
            port = self.config.interface,
            reason,
            "the port is lost; it is raised again when it can be"
        );
        self.up = None;
        self.counters = None;
        self.reason = Some(reason.to_owned());
    }

    fn tried(&self) -> String {
        format!("raising the port {}", self.interface())
    }

    fn refused(&self, error: impl std::fmt::Display) -> Problem {
        Problem::new(
            Kind::Failed,
            self.tried(),
            error,
            "mend that, then start again",
        )
    }
}

/// What a person should be told of such a port again and again.
pub fn warnings(config: &config::KeylessPort, up: Option<&Up>) -> Vec<String> {
    let name = &config.interface;
    let mut warnings = Vec::new();
    if config.admission() == Admission::Open {
        warnings.push(open_warning(name));
    }
    if up.is_some_and(|up| up.generic) {
        warnings.push(format!(
            "port {name} runs XDP in generic mode, which is several times slower"
        ));
    }
    warnings
}

/// What is said of an open port wherever it is shown.
pub fn open_warning(interface: &str) -> String {
    format!(
        "port {interface} is OPEN: whoever is cabled to it reaches this machine's network stack \
         unauthenticated, under any address; use admission = \"tunnel\", or \"pinned\""
    )
}

/// Takes the addresses of a port away, whose wall has been taken down.
pub fn give_back(config: &config::KeylessPort) -> Result<(), Problem> {
    let tried = format!("removing the addresses of {}", config.interface);
    let links = Links::open().map_err(|error| monitor::problem(&tried, error))?;
    let Ok(link) = links.find(&config.interface) else {
        return Ok(());
    };
    for address in &config.addresses {
        links
            .remove_address(link.index, *address)
            .map_err(|error| monitor::problem(&tried, error))?;
    }
    Ok(())
}
