//! What stands on a port's hooks: the wall, all of it, and nobody else.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use dataplane::wall::{AttachMode, Inspection, Link};

pub(super) fn check(
    setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    facts: &Facts,
) -> Vec<Finding> {
    let name = &wanted.interface;
    let Some(link) = &found.link else {
        return Vec::new();
    };
    let inspection = match &found.hooks {
        Some(Ok(inspection)) => inspection,
        Some(Err(why)) => {
            return vec![Finding::warn(
                name,
                "wall",
                format!("whether the wall stands cannot be told: {why}"),
                "run this as root",
            )];
        }
        None => return Vec::new(),
    };
    let mut findings = vec![wall(setup, name, link.index, inspection, facts)];
    findings.extend(guards(setup, wanted, link.index, inspection));
    findings.extend(others(name, inspection));
    findings
}

fn wall(
    setup: &Setup,
    name: &str,
    ifindex: u32,
    inspection: &Inspection,
    facts: &Facts,
) -> Finding {
    let restart = format!("systemctl restart {}", setup.daemon);
    let running = facts.daemon.ports.is_some();
    match (inspection.admission, inspection.xdp) {
        (
            Link::On {
                ifindex: on,
                program,
            },
            Some(standing),
        ) if on == ifindex && program == standing.program => match standing.mode {
            Some(AttachMode::Generic) => Finding::warn(
                name,
                "wall",
                "stands, in generic mode: each frame costs several times more",
                format!(
                    "use a driver with native XDP; if it has it: portcullisd --lower (or portcullis-agent \
                         down), then {}",
                    setup.start
                ),
            ),
            _ => Finding::ok(name, "wall", "stands, in the driver, and is pinned"),
        },
        (_, Some(standing)) => Finding::fail(
            name,
            "wall",
            match inspection.admission {
                Link::Unpinned => format!(
                    "an XDP program that is not pinned by us stands on it (id {}): ours cannot be attached, or \
                     would end with its process",
                    standing.program
                ),
                _ => format!("another XDP program stands on it (id {})", standing.program),
            },
            format!(
                "bpftool prog show id {} says what it is; ip link set dev {name} xdp off",
                standing.program
            ),
        ),
        (Link::Severed, None) => Finding::fail(
            name,
            "wall",
            "its link is severed: the interface was removed and is another one now",
            restart,
        ),
        (_, None) if running => Finding::fail(
            name,
            "wall",
            "does not stand though the daemon runs",
            restart,
        ),
        (_, None) => Finding::warn(
            name,
            "wall",
            "does not stand: it is raised when the daemon starts",
            format!("start it: {}", setup.start),
        ),
    }
}

/// The guards, once the wall stands.
fn guards(
    setup: &Setup,
    wanted: &PortSetup,
    ifindex: u32,
    inspection: &Inspection,
) -> Option<Finding> {
    let name = &*wanted.interface;
    if !matches!(inspection.admission, Link::On { ifindex: on, .. } if on == ifindex) {
        return None;
    }
    let Some(tcx) = &inspection.tcx else {
        return Some(Finding::warn(
            name,
            "guards",
            "stand on clsact, for this kernel has no tcx: whoever is root can take them off unnoticed",
            "use Linux 6.6 or later",
        ));
    };
    // What the kernel sends by a shared port is its own affair.
    let ways = [(0, "ingress"), (1, "egress")];
    for (at, way) in ways
        .into_iter()
        .filter(|(at, _)| *at == 0 || wanted.shared.is_none())
    {
        let stands = match inspection.guards[at] {
            Link::On {
                ifindex: on,
                program,
            } => on == ifindex && tcx[at].contains(&program),
            _ => false,
        };
        if !stands {
            return Some(Finding::fail(
                name,
                "guards",
                format!("the guard at {way} does not stand: the kernel's own packets would pass"),
                format!("systemctl restart {}", setup.daemon),
            ));
        }
    }
    Some(Finding::ok(
        name,
        "guards",
        match wanted.shared.is_some() {
            true => "stand at ingress, and are pinned",
            false => "stand at ingress and egress, and are pinned",
        },
    ))
}

/// Programs of others on the tcx hooks.
fn others(name: &str, inspection: &Inspection) -> Vec<Finding> {
    let Some(tcx) = &inspection.tcx else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (at, way) in [(0, "ingress"), (1, "egress")] {
        let own = match inspection.guards[at] {
            Link::On { program, .. } => Some(program),
            _ => None,
        };
        let place = tcx[at].iter().position(|program| Some(*program) == own);
        for (other, program) in tcx[at].iter().enumerate() {
            if Some(*program) == own {
                continue;
            }
            let before = place.is_none_or(|place| other < place);
            let show = format!(
                "bpftool prog show id {program} says what it is; bpftool net detach takes it off"
            );
            findings.push(match before {
                true => Finding::fail(
                    name,
                    "tc programs",
                    format!("another program (id {program}) stands at {way}, before our guard: it may let packets past"),
                    show,
                ),
                false => Finding::warn(
                    name,
                    "tc programs",
                    format!("another program (id {program}) stands at {way}, behind our guard"),
                    show,
                ),
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            name,
            "tc programs",
            "nobody else's stand on it",
        ));
    }
    findings
}
