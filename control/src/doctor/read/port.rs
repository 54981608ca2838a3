//! A port: what netlink, ethtool, sysfs, procfs and the kernel's hooks say of it.

use super::number;
use crate::choices::Admission;
use crate::doctor::facts::Port;
use crate::doctor::setup::PortSetup;
use dataplane::link::{Links, interface_setting, xdp_features};
use dataplane::port::ethtool;
use dataplane::wall::inspect;
use std::fs;
use std::path::Path;

/// What an interface is that is no port.
pub(super) fn look(name: &str, links: Option<&Links>) -> Port {
    let Some(link) = links.and_then(|links| links.find(name).ok()) else {
        return Port::default();
    };
    let members = links.and_then(|links| links.members(link.index).ok());
    Port {
        members: members.unwrap_or_default(),
        survey: ethtool::survey(name).unwrap_or_default(),
        features: xdp_features(link.index).ok(),
        link: Some(link),
        ..Port::default()
    }
}

pub(super) fn read(wanted: &PortSetup, pins: &Path, links: Option<&Links>) -> Port {
    let name = &wanted.interface;
    let Some(link) = links.and_then(|links| links.find(name).ok()) else {
        return Port::default();
    };
    let setting = |setting| {
        let text = interface_setting(name, "ipv4/conf", setting).ok()??;
        text.parse::<u32>().ok()
    };
    // The greater of the interface's and that for all is in force.
    let filter = |of| {
        let text = interface_setting(of, "ipv4/conf", "rp_filter").ok()??;
        text.parse::<u32>().ok()
    };
    let sys = format!("/sys/class/net/{name}");
    // /sys may show another network namespace.
    let shown = number::<u32>(&format!("{sys}/ifindex")) == Some(link.index);
    let of_sys = |file: &str| number(&format!("{sys}/{file}")).filter(|_| shown);
    Port {
        upper: links
            .and_then(|links| links.standing_on(link.index).ok())
            .unwrap_or_default(),
        routes: match wanted.admission {
            Admission::Tunnel => routes(name),
            _ => Vec::new(),
        },
        members: Vec::new(),
        survey: ethtool::survey(name).unwrap_or_default(),
        features: xdp_features(link.index).ok(),
        interrupts: match shown {
            true => interrupts(&sys),
            false => Vec::new(),
        },
        rp_filter: filter(name).max(filter("all")),
        forwarding: setting("forwarding"),
        napi_defer: of_sys("napi_defer_hard_irqs"),
        flush_timeout: of_sys("gro_flush_timeout"),
        hooks: Some(inspect(name, link.index, pins).map_err(|error| error.to_string())),
        link: Some(link),
    }
}

/// The prefixes that are routed over it, but for what the kernel does by itself: link-local and
/// multicast of IPv6.
fn routes(name: &str) -> Vec<String> {
    let mut routes = Vec::new();
    let table = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [interface, to, _, _, _, _, _, mask, ..] = fields[..]
            && interface == name
            && let (Ok(to), Ok(mask)) = (u32::from_str_radix(to, 16), u32::from_str_radix(mask, 16))
        {
            let address = std::net::Ipv4Addr::from(to.to_ne_bytes());
            routes.push(format!("{address}/{}", mask.count_ones()));
        }
    }
    let table = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [to, length, .., interface] = fields[..]
            && interface == name
            && let (Ok(to), Ok(length)) =
                (u128::from_str_radix(to, 16), u8::from_str_radix(length, 16))
        {
            let address = std::net::Ipv6Addr::from(to);
            let by_itself = address.is_unicast_link_local() || address.is_multicast();
            if !by_itself {
                routes.push(format!("{address}/{length}"));
            }
        }
    }
    routes
}

/// The interrupts of its device, and where each may go.
fn interrupts(sys: &str) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("{sys}/device/msi_irqs"));
    let entries = entries.into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut all: Vec<_> = numbers
        .filter_map(|number| {
            let path = format!("/proc/irq/{number}/smp_affinity_list");
            Some((number, fs::read_to_string(path).ok()?.trim().to_owned()))
        })
        .collect();
    all.sort_unstable();
    all
}
