//! Whether an interface can be this port.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use crate::choices::Admission;
use dataplane::link::{LinkInfo, keyless_fitness, port_fitness};

/// Beyond this MTU a frame and what XDP needs around it do not fit a page.
const PAGE: u32 = 3818;
/// What the tunnel adds, and the least that IPv6 can do with.
const LEAST: u32 = 1280 + 40;

pub(super) fn check(
    setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    _facts: &Facts,
) -> Vec<Finding> {
    let name = &wanted.interface;
    let Some(link) = &found.link else {
        return vec![Finding::fail(
            name,
            "interface",
            "there is no such interface",
            format!(
                "plug it in, or correct the name in {}; see `ip link`",
                setup.configuration.display()
            ),
        )];
    };
    let mut findings = vec![fitness(wanted, link)];
    findings.push(match found.upper.first() {
        None => Finding::ok(name, "upper", "no VLAN or other interface stands on it"),
        Some(upper) => Finding::fail(
            name,
            "upper",
            format!("{upper} stands on it, and would have frames past the tunnel"),
            format!("ip link delete dev {upper}"),
        ),
    });
    findings.push(carrier(setup, name, link));
    findings.push(mtu(name, link.mtu, found));
    findings
}

fn fitness(wanted: &PortSetup, link: &LinkInfo) -> Finding {
    let name = &wanted.interface;
    let outcome = match wanted.admission {
        Admission::Tunnel if wanted.shared.is_some() => keyless_fitness(link, None),
        Admission::Tunnel => port_fitness(link),
        Admission::Pinned => keyless_fitness(link, Some(&wanted.addresses)),
        Admission::Open => keyless_fitness(link, None),
    };
    match outcome {
        Ok(()) => Finding::ok(
            name,
            "isolation",
            match wanted.admission {
                Admission::Tunnel if wanted.shared.is_some() => "in no bridge or bond",
                Admission::Tunnel => "in no bridge or bond, and without an address",
                _ => "in no bridge or bond, and without a foreign address",
            },
        ),
        Err(unfit) => {
            // What is wrong, and behind the last colon the command that mends it.
            let text = unfit.to_string();
            let (text, remedy) = match text.rsplit_once(": ip ") {
                Some((text, command)) => (text.to_owned(), format!("ip {command}")),
                None => match text.split_once(": ") {
                    Some((text, remedy)) => (text.to_owned(), remedy.to_owned()),
                    None => (text, "choose another interface".to_owned()),
                },
            };
            Finding::fail(name, "isolation", text, remedy)
        }
    }
}

fn carrier(setup: &Setup, name: &str, link: &LinkInfo) -> Finding {
    match (link.up, link.carrier) {
        (true, true) => Finding::ok(name, "carrier", "up, with a carrier"),
        (true, false) => Finding::warn(
            name,
            "carrier",
            "up, and nobody is at the other end",
            format!("check the cable and the machine at its other end; ethtool {name}"),
        ),
        (false, _) => Finding::warn(
            name,
            "carrier",
            "set down, as it stays until the wall is on it",
            format!("start the daemon: {}", setup.start),
        ),
    }
}

fn mtu(name: &str, mtu: u32, found: &Port) -> Finding {
    let set = |mtu: u32| format!("ip link set dev {name} mtu {mtu}");
    if mtu < LEAST {
        return Finding::warn(
            name,
            "MTU",
            format!(
                "{mtu} leaves {} for inner packets, and IPv6 needs 1280",
                mtu.saturating_sub(40)
            ),
            set(1500),
        );
    }
    let large = mtu > PAGE;
    if large
        && found
            .features
            .is_some_and(|features| !features.multi_buffer())
    {
        return Finding::fail(
            name,
            "MTU",
            format!("{mtu} takes a driver with multi-buffer XDP, which this one is not"),
            set(1500),
        );
    }
    if mtu > 9000 {
        return Finding::fail(name, "MTU", format!("{mtu} is more than 9000"), set(9000));
    }
    Finding::ok(
        name,
        "MTU",
        match large {
            true => format!("{mtu}, at the cost of a copy for each frame above {PAGE}"),
            false => mtu.to_string(),
        },
    )
}
