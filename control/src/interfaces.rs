//! The machine's network interfaces, as far as choosing a port needs to know them.
//!
//! Names, addresses and routes come from the caller's network namespace; what only `/sys` tells is
//! taken from there, and is absent where `/sys` shows another namespace.

use crate::problem::{Kind, Problem};
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// ARPHRD_ETHER: an interface that carries Ethernet frames.
const ETHERNET: u16 = 1;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is a wired Ethernet interface, real or one end of a virtual cable.
    pub wired: bool,
    /// Whether there is a device behind it.
    pub physical: bool,
    /// The bridge, bond or other interface it is part of.
    pub master: Option<String>,
    /// Its addresses, without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Whether a default route leads through it.
    pub default_route: bool,
}

impl Interface {
    /// Why it should not be made a port of the Gateway; `None` when it can be.
    pub fn objection(&self) -> Option<String> {
        if !self.wired {
            Some("it is no wired Ethernet interface".into())
        } else if let Some(master) = &self.master {
            Some(format!("it is part of {master}"))
        } else if self.default_route {
            Some("the default route leads through it".into())
        } else {
            let address = self.addresses.first();
            address.map(|address| format!("it has the address {address}"))
        }
    }
}

/// All interfaces by name.
///
/// # Errors
/// What the system answered.
pub fn list() -> Result<Vec<Interface>, Problem> {
    let entries = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Problem::io("listing the network interfaces", &errno.into()))?;
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in entries {
        let interface = found
            .entry(entry.interface_name.clone())
            .or_insert_with(|| Interface {
                name: entry.interface_name.clone(),
                ..Interface::default()
            });
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            let unfit = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP;
            interface.wired = link.hatype() == ETHERNET && !entry.flags.intersects(unfit);
        } else if let Some(v4) = address.as_sockaddr_in() {
            if !v4.ip().is_link_local() {
                interface.addresses.push(IpAddr::V4(v4.ip()));
            }
        } else if let Some(v6) = address.as_sockaddr_in6()
            && !v6.ip().is_unicast_link_local()
        {
            interface.addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    let defaults = default_routes();
    for interface in found.values_mut() {
        interface.default_route = defaults.contains(&interface.name);
        let sys = Path::new("/sys/class/net").join(&interface.name);
        interface.physical = sys.join("device").exists();
        interface.master = fs::read_link(sys.join("master"))
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let not_wired = ["phy80211", "wireless", "bridge", "bonding", "tun_flags"];
        let kind = fs::read_to_string(sys.join("uevent")).unwrap_or_default();
        // Only virtual interfaces on top of others have a DEVTYPE, and wireless ones.
        if not_wired.iter().any(|name| sys.join(name).exists()) || kind.contains("DEVTYPE=") {
            interface.wired = false;
        }
    }
    Ok(found.into_values().collect())
}

/// The interfaces that default routes lead through.
fn default_routes() -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(table) = fs::read_to_string("/proc/thread-self/net/route") {
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
                names.push(name.to_owned());
            }
        }
    }
    if let Ok(table) = fs::read_to_string("/proc/thread-self/net/ipv6_route") {
        let any = "0".repeat(32);
        for line in table.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [net, "00", .., name] = fields[..]
                && net == any
                && name != "lo"
            {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// The interfaces to propose as ports of a Gateway: wired, and used for nothing else. Where there
/// are real ones, ends of virtual cables (of containers, most likely) are left out.
pub fn port_candidates(interfaces: &[Interface]) -> Vec<&Interface> {
    prefer_physical(
        interfaces
            .iter()
            .filter(|i| i.objection().is_none())
            .collect(),
    )
}

/// The only wired interface: a Workstation's port when none is named.
///
/// # Errors
/// There is none, or several: which.
pub fn only_wired<'a>(interfaces: &'a [Interface], config: &Path) -> Result<&'a str, Problem> {
    let wired = prefer_physical(interfaces.iter().filter(|i| i.wired).collect());
    let tried = "choosing the interface that is cabled to the Gateway";
    match wired[..] {
        [only] => Ok(&only.name),
        [] => Err(Problem::new(
            Kind::NotFound,
            tried,
            "there is no wired Ethernet interface",
            "plug one in; see `ip link`",
        )),
        _ => {
            let names: Vec<_> = wired.iter().map(|i| i.name.as_str()).collect();
            Err(Problem::new(
                Kind::Invalid,
                tried,
                format!("there are several: {}", names.join(", ")),
                format!(
                    "write interface = \"{}\" (or another of them) into {}",
                    names[0],
                    config.display()
                ),
            ))
        }
    }
}

fn prefer_physical(mut interfaces: Vec<&Interface>) -> Vec<&Interface> {
    if interfaces.iter().any(|interface| interface.physical) {
        interfaces.retain(|interface| interface.physical);
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, wired: bool, physical: bool) -> Interface {
        Interface {
            name: name.into(),
            wired,
            physical,
            ..Interface::default()
        }
    }

    #[test]
    fn this_machine_has_a_loopback_that_is_no_port() {
        let all = list().unwrap();
        let loopback = all.iter().find(|i| i.name == "lo").unwrap();
        assert!(!loopback.wired);
        assert!(loopback.objection().unwrap().contains("no wired"));
    }

    #[test]
    fn ports_are_wired_and_used_for_nothing_else() {
        let mut uplink = interface("eth0", true, true);
        uplink.default_route = true;
        let mut office = interface("eth1", true, true);
        office.addresses.push("192.0.2.1".parse().unwrap());
        let mut bridged = interface("eth2", true, true);
        bridged.master = Some("br0".into());
        let all = [
            uplink,
            office,
            bridged,
            interface("wlan0", false, true),
            interface("eth3", true, true),
            interface("eth4", true, true),
            interface("veth7", true, false),
        ];
        let names: Vec<_> = port_candidates(&all).iter().map(|i| &*i.name).collect();
        assert_eq!(names, ["eth3", "eth4"]);
        let reasons: Vec<_> = all[..4].iter().map(|i| i.objection().unwrap()).collect();
        assert!(reasons[0].contains("default route"));
        assert!(reasons[1].contains("192.0.2.1"));
        assert!(reasons[2].contains("br0"));
        assert!(reasons[3].contains("no wired"));
        let names: Vec<_> = port_candidates(&all[6..])
            .iter()
            .map(|i| &*i.name)
            .collect();
        assert_eq!(names, ["veth7"]);
    }

    #[test]
    fn an_interface_is_chosen_only_where_there_is_no_choice() {
        let path = Path::new("/etc/agent.toml");
        let one = [interface("lo", false, false), interface("eth0", true, true)];
        assert_eq!(only_wired(&one, path).unwrap(), "eth0");
        let problem = only_wired(&one[..1], path).unwrap_err();
        assert!(problem.happened.contains("no wired"));
        let two = [interface("eth0", true, true), interface("eth1", true, true)];
        let problem = only_wired(&two, path).unwrap_err();
        assert!(problem.happened.contains("eth0, eth1"));
        assert!(problem.remedy.contains("interface = \"eth0\""));
        assert!(problem.remedy.contains("/etc/agent.toml"));
    }
}
