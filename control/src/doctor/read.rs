//! Looks at the machine. What cannot be read is left out, and said to be so by the checks.

mod machine;
mod port;
mod process;

use super::facts::{Facts, Memory, Routing, Tun};
use super::setup::Setup;
use crate::api::PortStatus;
use crate::problem::{Kind, Problem};
use dataplane::link::Links;
use nix::unistd::geteuid;
use std::fs;

/// What a daemon says of itself: its ports, and what it warns of.
pub type Told = Result<(Vec<PortStatus>, Vec<String>), Problem>;

/// Looks at everything that `setup` names.
pub fn read(setup: &Setup, told: Told) -> Facts {
    let links = Links::open().ok();
    Facts {
        root: geteuid().is_root(),
        kernel: machine::kernel(),
        cpu: machine::cpu(),
        memory: Memory {
            huge_pages: machine::huge_pages(),
            ..machine::disk(&setup.state_directory)
        },
        routing: routing(setup, links.as_ref()),
        files: machine::files(setup),
        tun: tun(setup, links.as_ref()),
        listeners: machine::listeners(),
        daemon: daemon(setup, told),
        ports: setup
            .ports
            .iter()
            .map(|wanted| port::read(wanted, &setup.pin_directory, links.as_ref()))
            .collect(),
        fast_path: setup.fast_path.as_ref().map(|fast_path| {
            let name = fast_path.interface.as_deref().unwrap_or_default();
            port::look(name, links.as_ref())
        }),
    }
}

/// A number in a file of /proc or /sys.
fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn routing(setup: &Setup, links: Option<&Links>) -> Routing {
    let on = |path| Some(number::<u32>(path)? != 0);
    Routing {
        forwards_v4: on("/proc/sys/net/ipv4/ip_forward"),
        forwards_v6: on("/proc/sys/net/ipv6/conf/all/forwarding"),
        kept_in: links.and_then(|links| links.is_kept_in(&setup.host_interface).ok()),
        local_ports: setting("ip_local_port_range").and_then(|text| {
            let mut ports = text.split_whitespace().map(str::parse);
            Some((ports.next()?.ok()?, ports.next()?.ok()?))
        }),
        reserved_ports: setting("ip_local_reserved_ports")
            .map(|text| text.split(',').filter_map(ports).collect())
            .unwrap_or_default(),
    }
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// `first-last`, or one port.
fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn tun(setup: &Setup, links: Option<&Links>) -> Option<Tun> {
    /// IFF_PERSIST of linux/if_tun.h.
    const PERSISTENT: u32 = 0x0800;
    let name = &setup.host_interface;
    let link = links?.find(name).ok()?;
    let flags = fs::read_to_string(format!("/sys/class/net/{name}/tun_flags")).ok();
    let flags = flags.and_then(|text| {
        let digits = text.trim().trim_start_matches("0x").to_owned();
        u32::from_str_radix(&digits, 16).ok()
    });
    let persistent = match link.kind.as_deref() {
        // Where /sys shows another namespace there is no such file: then a TUN is taken to be ours.
        Some("tun") => Some(flags.is_none_or(|flags| flags & PERSISTENT != 0)),
        _ => None,
    };
    Some(Tun {
        persistent,
        addresses: link.addresses,
    })
}

fn daemon(setup: &Setup, told: Told) -> super::facts::Daemon {
    let mut daemon = super::facts::Daemon::default();
    match told {
        Ok((ports, warnings)) => {
            daemon.ports = Some(ports);
            daemon.warnings = warnings;
            daemon.process = process::of(&setup.runtime_directory);
        }
        Err(problem) if problem.kind == Kind::Unavailable => {}
        Err(problem) => daemon.silent = Some(problem.happened),
    }
    daemon
}
