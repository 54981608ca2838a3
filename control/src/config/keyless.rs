//! Ports for Workstations without keys: `admission = "pinned"` and `"open"`.

use super::check::{Check, host_address};
use super::gateway::RawPort;
use crate::api::mac_text;
use crate::choices::{Admission, Encapsulation, ThreadedNapi, Xdp, ZeroCopy};
use crate::problem::Problem;
use dataplane::wall::Pin;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::HashSet;
use std::net::IpAddr;
use toml::Spanned;
use wire::pinned::{MAX_ADDRESSES, MAX_PINS};

/// Frames a second that a pinned Workstation may send to the kernel, unless told otherwise.
pub const RATE: u32 = 200_000;
/// The rates that can be given.
const RATES: std::ops::RangeInclusive<i64> = 100..=100_000_000;

/// A port for Workstations without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeylessPort {
    /// The interface.
    pub interface: String,
    /// How the XDP program is attached.
    pub xdp: Xdp,
    /// The Gateway's addresses on it.
    pub addresses: Vec<IpNet>,
    /// The Workstations; `None` on an open port.
    pub pins: Option<Vec<Pin>>,
}

impl KeylessPort {
    /// How it is called in configuration and status.
    pub fn admission(&self) -> Admission {
        match self.pins {
            Some(_) => Admission::Pinned,
            None => Admission::Open,
        }
    }

    /// Whether only pins, rates and addresses differ, which can be changed while it is up.
    pub fn resembles(&self, other: &Self) -> bool {
        let key = |port: &Self| (port.interface.clone(), port.admission(), port.xdp);
        key(self) == key(other)
    }

    /// A hash of all of it, by which another process knows that it has read the same.
    pub fn digest(&self) -> Digest {
        *blake3::hash(format!("{self:?}").as_bytes()).as_bytes()
    }
}

/// Of a [`KeylessPort`].
pub type Digest = [u8; 32];

/// A pin, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPin {
    mac: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    rate: Option<Spanned<i64>>,
}

impl Check<'_> {
    /// The ports without keys. `hosts` are the host interface's addresses.
    pub(super) fn keyless_ports(
        &self,
        raw: &[RawPort],
        hosts: &[IpNet],
    ) -> Result<Vec<KeylessPort>, Problem> {
        let mut ports: Vec<KeylessPort> = Vec::new();
        for port in raw {
            let at = port.interface.span().start;
            if port.admission == Admission::Tunnel {
                let tunnelled = port.encapsulation == Encapsulation::Udp;
                if port.addresses.is_some() && !tunnelled || !port.pin.is_empty() {
                    return Err(self.problem(
                        at,
                        format!(
                            "{} has addresses or pins, and its admission is \"tunnel\"",
                            port.interface.get_ref()
                        ),
                        "remove them: in the tunnel a Workstation's addresses come with its keys; \
                         or, for a Workstation without keys, write admission = \"pinned\"",
                    ));
                }
                continue;
            }
            self.no_rings(port)?;
            let taken =
                hosts
                    .iter()
                    .map(|host| (host, "the host interface"))
                    .chain(ports.iter().flat_map(|other| {
                        let of = |address| (address, other.interface.as_str());
                        other.addresses.iter().map(of)
                    }));
            let taken: Vec<(IpNet, String)> =
                taken.map(|(net, who)| (*net, who.to_owned())).collect();
            let addresses = self.port_addresses(port, &taken)?;
            let pins = match port.admission {
                Admission::Pinned => Some(self.pins(port, &addresses)?),
                _ if port.pin.is_empty() => None,
                _ => {
                    return Err(self.problem(
                        at,
                        format!(
                            "{} has pins, and its admission is \"open\"",
                            port.interface.get_ref()
                        ),
                        "write admission = \"pinned\", which enforces them, or remove them",
                    ));
                }
            };
            ports.push(KeylessPort {
                interface: port.interface.get_ref().clone(),
                xdp: port.xdp,
                addresses,
                pins,
            });
        }
        Ok(ports)
    }

    /// Nothing of a port without keys passes through rings.
    fn no_rings(&self, port: &RawPort) -> Result<(), Problem> {
        let given = port.ring_size.is_some()
            || port.encapsulation != Encapsulation::Ether
            || port.ethertype.is_some()
            || port.udp_port.is_some()
            || port.shared
            || port.stealth.is_some()
            || port.endpoint.is_some()
            || port.queues.is_some()
            || port.huge_pages.is_some()
            || port.tx_budget.is_some()
            || port.busy_poll.is_some()
            || port.busy_poll_budget.is_some()
            || port.prefer_busy_poll.is_some()
            || port.zero_copy != ZeroCopy::Auto
            || port.threaded_napi != ThreadedNapi::Auto;
        match given {
            false => Ok(()),
            true => Err(self.problem(
                port.interface.span().start,
                format!(
                    "{} is no tunnel port, and has settings of one",
                    port.interface.get_ref()
                ),
                "leave interface, admission, xdp, addresses and [[port.pin]]; its frames go to the \
                 kernel, through no rings of Portcullis",
            )),
        }
    }

    fn port_addresses(
        &self,
        port: &RawPort,
        taken: &[(IpNet, String)],
    ) -> Result<Vec<IpNet>, Problem> {
        let at = port.interface.span().start;
        let mut addresses: Vec<IpNet> = Vec::new();
        for text in port.addresses.iter().flatten() {
            let at = text.span().start;
            let address = host_address(text.get_ref())
                .map_err(|(happened, remedy)| self.problem(at, happened, remedy))?;
            let overlaps =
                |other: &IpNet| other.contains(&address.addr()) || address.contains(&other.addr());
            let own = addresses.iter().map(|own| (own, "this port"));
            let other = taken.iter().map(|(net, who)| (net, who.as_str()));
            if let Some((net, who)) = own.chain(other).find(|(net, _)| overlaps(net)) {
                return Err(self.problem(
                    at,
                    format!("{address} overlaps {net} of {who}"),
                    "give each port prefixes that are used nowhere else: what is reachable through \
                     two interfaces is reachable through the wrong one",
                ));
            }
            addresses.push(address);
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(self.problem(
                at,
                format!("it has {} addresses", addresses.len()),
                format!("give at most {MAX_ADDRESSES}"),
            ));
        }
        if addresses.is_empty() && port.admission == Admission::Pinned {
            return Err(self.problem(
                at,
                format!(
                    "the pinned port {} has no address of its own",
                    port.interface.get_ref()
                ),
                "give the Gateway's addresses on it, which its Workstations talk to: addresses = \
                 [\"10.152.200.1/24\"]",
            ));
        }
        Ok(addresses)
    }

    fn pins(&self, port: &RawPort, own: &[IpNet]) -> Result<Vec<Pin>, Problem> {
        let at = port.interface.span().start;
        if port.pin.is_empty() || port.pin.len() > MAX_PINS as usize {
            return Err(self.problem(
                at,
                format!(
                    "the pinned port {} has {} pins",
                    port.interface.get_ref(),
                    port.pin.len()
                ),
                format!(
                    "give from 1 to {MAX_PINS} [[port.pin]] sections, each with mac = \"...\" and \
                     addresses = [...]"
                ),
            ));
        }
        let (mut macs, mut seen) = (HashSet::new(), HashSet::new());
        let mut pins = Vec::with_capacity(port.pin.len());
        for raw in &port.pin {
            let at = raw.mac.span().start;
            let mac = parse_mac(raw.mac.get_ref()).map_err(|happened| {
                let remedy = "give the address of the Workstation's interface as its `ip link` shows it, \
                              like \"02:00:00:00:00:02\"";
                self.problem(at, happened, remedy)
            })?;
            if !macs.insert(mac) {
                return Err(self.problem(
                    at,
                    format!("{} has a pin already", mac_text(mac)),
                    "put all its addresses into one",
                ));
            }
            let addresses = self.pin_addresses(raw, own, &mut seen)?;
            let rate = match &raw.rate {
                Some(rate) => {
                    let rate = self.number("rate (in frames a second)", rate, RATES)?;
                    u32::try_from(rate).unwrap_or(RATE)
                }
                None => RATE,
            };
            pins.push(Pin {
                mac,
                addresses,
                rate,
            });
        }
        Ok(pins)
    }

    fn pin_addresses(
        &self,
        raw: &RawPin,
        own: &[IpNet],
        seen: &mut HashSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, Problem> {
        let list = raw.addresses.get_ref();
        if list.is_empty() || list.len() > MAX_ADDRESSES {
            return Err(self.problem(
                raw.addresses.span().start,
                format!("it pins {} addresses", list.len()),
                format!("give from 1 to {MAX_ADDRESSES}"),
            ));
        }
        let mut addresses = Vec::with_capacity(list.len());
        for text in list {
            let at = text.span().start;
            let address: IpAddr = text.get_ref().parse().map_err(|_| {
                let happened = format!("`{}` is not an IP address", text.get_ref());
                self.problem(at, happened, "give one without a prefix length")
            })?;
            let Some(net) = own.iter().find(|net| net.contains(&address)) else {
                return Err(self.problem(
                    at,
                    format!("{address} is in none of the port's prefixes"),
                    "give an address in the prefix of one of the port's `addresses`, or answers to \
                     it would leave by another interface",
                ));
            };
            let reserved =
                address == net.network() || (address.is_ipv4() && address == net.broadcast());
            if reserved || own.iter().any(|own| own.addr() == address) {
                return Err(self.problem(
                    at,
                    format!("{address} is the Gateway's own, or the network's"),
                    "give the Workstation another",
                ));
            }
            if !seen.insert(address) {
                return Err(self.problem(
                    at,
                    format!("{address} is pinned already"),
                    "give each Workstation addresses of its own",
                ));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// A MAC address that a single interface can have.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let parts: Vec<&str> = text.split(':').collect();
    let byte = |part: &&str| match part.len() {
        1 | 2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = parts.iter().map(byte).collect();
    match bytes {
        Some(bytes) if bytes.len() == 6 => mac.copy_from_slice(&bytes),
        _ => return Err(format!("`{}` is not a MAC address", text.escape_debug())),
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(format!("{text} is not the address of one interface"));
    }
    Ok(mac)
}
