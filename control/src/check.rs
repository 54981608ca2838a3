//! `portcullis check`: whether a configuration would work here, without changing anything.

use crate::choices::Admission;
use crate::config::{Gateway, KeylessPort};
use crate::init::overlap;
use crate::interfaces::{self, Interface};
use crate::keyless::open_warning;
use crate::keyring::Keyring;
use crate::layout::{self, Machine};
use crate::monitor;
use crate::problem::{Kind, Problem};
use crate::registry::{self, GATEWAY_KEY};
use dataplane::link::Links;
use serde::Serialize;
use std::path::Path;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is as it must be.
    pub ok: bool,
    /// Whether it should be thought over all the same.
    pub warning: bool,
    /// What was found.
    pub text: String,
    /// What to do, where it is not as it must be.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(text: String) -> Self {
        Self {
            ok: true,
            warning: false,
            text,
            remedy: None,
        }
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        Self {
            ok: false,
            warning: false,
            text: problem.to_string(),
            remedy: Some(problem.remedy),
        }
    }
}

/// Looks at everything.
pub fn check(path: &Path) -> Vec<Finding> {
    let config = match Gateway::load(path) {
        Ok(config) => config,
        Err(problem) => return vec![problem.into()],
    };
    let mut findings = vec![Finding::good(format!("{} can be read", path.display()))];
    findings.push(key(&config));
    findings.extend(workstations(&config));
    match interfaces::list() {
        Ok(all) => {
            findings.extend(
                config
                    .ports
                    .iter()
                    .map(|port| match port.encapsulation.is_shared() {
                        true => shared(&port.interface, &all),
                        false => self::port(&port.interface, &all),
                    }),
            );
            let keyless = config.keyless.iter();
            findings.extend(keyless.map(|port| self::keyless(port, &all)));
            findings.extend(hosts(&config, &all));
            findings.push(workers(&config));
            findings.extend(kept_in(&config, &all));
        }
        Err(problem) => findings.push(problem.into()),
    }
    findings
}

/// Whether what comes in on the host interface stays on this machine, once there is one.
fn kept_in(config: &Gateway, all: &[Interface]) -> Option<Finding> {
    let name = &config.host_interface;
    all.iter().find(|interface| interface.name == *name)?;
    let tried = format!("keeping packets from {name} on this machine");
    let kept = Links::open().and_then(|links| links.is_kept_in(name));
    Some(match kept {
        Ok(true) => Finding::good(format!("packets from {name} are never forwarded")),
        Ok(false) => Problem::new(
            Kind::Failed,
            tried,
            "no routing rule sees to it, or another stands before that one",
            "restart portcullisd, and see `ip rule` and `ip -6 rule`",
        )
        .into(),
        Err(error) => monitor::problem(&tried, error).into(),
    })
}

/// How many workers there would be, and where.
fn workers(config: &Gateway) -> Finding {
    let ports = config.ports.iter();
    let shapes: Vec<_> = ports
        .map(|port| layout::shape(&port.interface, &port.rings))
        .collect();
    let planned = Machine::look()
        .and_then(|machine| layout::plan(&machine, config.workers, &config.cores, &shapes));
    match planned {
        Ok(layout) => {
            let count = layout.workers.len();
            let cores: Vec<usize> = layout.workers.into_iter().flatten().collect();
            Finding::good(match cores.is_empty() {
                true => format!("there will be {}, pinned to no core", layout::count(count)),
                false => format!(
                    "there will be {}, on {}",
                    layout::count(count),
                    layout::names(&cores)
                ),
            })
        }
        Err(problem) => problem.into(),
    }
}

fn key(config: &Gateway) -> Finding {
    let path = config.state_directory.join(GATEWAY_KEY);
    match Keyring::load(&path) {
        Ok(key) => Finding::good(format!("the Gateway's public key is {}", key.public())),
        Err(problem) if problem.kind == Kind::NotFound => Finding::good(format!(
            "there is no key {} yet; it is made at the first start",
            path.display()
        )),
        Err(problem) => problem.into(),
    }
}

fn workstations(config: &Gateway) -> Vec<Finding> {
    match registry::inspect(config) {
        Ok((usable, broken)) => {
            let count = usable.len();
            let mut findings = vec![Finding::good(match count {
                0 => "no Workstation is enrolled yet (portcullis workstation add NAME)".into(),
                1 => "1 Workstation is enrolled".into(),
                _ => format!("{count} Workstations are enrolled"),
            })];
            findings.extend(broken.into_iter().map(|broken| broken.problem.into()));
            findings
        }
        Err(problem) => vec![problem.into()],
    }
}

fn port(name: &str, all: &[Interface]) -> Finding {
    let tried = format!("using {name} as a port");
    match all.iter().find(|interface| interface.name == name) {
        None => Problem::new(
            Kind::NotFound,
            tried,
            "there is no such interface now",
            "plug it in (a daemon that starts needs it), or correct the name; see `ip link`",
        )
        .into(),
        Some(interface) => match interface.objection() {
            Some(why) => Problem::new(
                Kind::Conflict,
                tried,
                why,
                format!(
                    "take {name} out of the system's network configuration, or choose another interface"
                ),
            )
            .into(),
            None => Finding::good(format!("{name} can be a port")),
        },
    }
}

/// The same for one that the kernel has too: addresses and routes are its own.
fn shared(name: &str, all: &[Interface]) -> Finding {
    let own = |interface: &Interface| Interface {
        addresses: Vec::new(),
        default_route: false,
        ..interface.clone()
    };
    let all: Vec<Interface> = all.iter().map(own).collect();
    let mut finding = port(name, &all);
    if finding.ok {
        finding.text = format!("{name} can be a port, shared with this machine's own traffic");
    }
    finding
}

/// The same for one without keys, which may have its own addresses.
fn keyless(port: &KeylessPort, all: &[Interface]) -> Finding {
    let own = |interface: &Interface| {
        let mut interface = interface.clone();
        let pinned = port.pins.is_some();
        let mine = |address| port.addresses.iter().any(|own| own.addr() == address);
        interface
            .addresses
            .retain(|address| pinned && !mine(*address));
        interface
    };
    let all: Vec<Interface> = all.iter().map(own).collect();
    let mut finding = self::port(&port.interface, &all);
    if finding.ok && port.admission() == Admission::Open {
        finding.warning = true;
        finding.text = open_warning(&port.interface);
    }
    if let (true, Some(pins)) = (finding.ok, &port.pins) {
        finding.text = format!(
            "{} can be a pinned port, for {} without keys",
            port.interface,
            match pins.len() {
                1 => "1 Workstation".to_owned(),
                count => format!("{count} Workstations"),
            }
        );
    }
    finding
}

fn hosts(config: &Gateway, all: &[Interface]) -> Vec<Finding> {
    let tried = format!("giving {} its addresses", config.host_interface);
    config
        .host_addresses
        .iter()
        .map(
            |host| match overlap(&tried, host, all, &config.host_interface) {
                Some(problem) => problem.into(),
                None => Finding::good(format!("{} is used nowhere else", host.trunc())),
            },
        )
        .collect()
}
