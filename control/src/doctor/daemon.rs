//! The daemon: whether it runs, what it may do, and what it says of its ports.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use crate::api::PortState;
use crate::choices::Admission;
use crate::raise::BAD_ZERO_COPY;

const IPC_LOCK: u64 = 1 << 14;
/// With a filter of system calls, in /proc/PID/status.
const FILTERED: u32 = 2;

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let name = setup.daemon;
    let mut found = Vec::new();
    if !facts.root {
        found.push(Finding::warn(
            "doctor",
            "root",
            "the kernel does not tell everything to whoever is not root",
            "run this as root",
        ));
    }
    if let Some(why) = &facts.daemon.silent {
        found.push(Finding::fail(
            name,
            "running",
            format!("does not answer: {why}"),
            format!("systemctl restart {name}; see why: journalctl -u {name}"),
        ));
        return found;
    }
    if facts.daemon.ports.is_none() {
        found.push(Finding::warn(
            name,
            "running",
            "is not running, so what only it knows is not told",
            format!("start it: {}", setup.start),
        ));
        return found;
    }
    found.push(Finding::ok(name, "running", "runs and answers"));
    if let Some(process) = facts.daemon.process {
        found.push(match process.capabilities {
            0 => Finding::ok(name, "capabilities", "has given all up"),
            IPC_LOCK => Finding::warn(
                name,
                "capabilities",
                "keeps CAP_IPC_LOCK, because the limit of locked memory could not be raised",
                format!("systemctl edit {name}, [Service] LimitMEMLOCK=infinity, and restart it"),
            ),
            others => Finding::fail(
                name,
                "capabilities",
                format!("has capabilities ({others:#x}) that it should have given up"),
                format!("systemctl restart {name}; report it if they are there again"),
            ),
        });
        found.push(match process.seccomp {
            FILTERED => Finding::ok(name, "system calls", "are filtered"),
            _ => Finding::fail(
                name,
                "system calls",
                "are not filtered",
                format!("systemctl restart {name}; report it if that is so again"),
            ),
        });
        found.push(match process.memlock_unlimited {
            true => Finding::ok(name, "locked memory", "is not limited"),
            false => Finding::warn(
                name,
                "locked memory",
                "is limited: keys may be written to swap, and frames' memory may not fit",
                format!("systemctl edit {name}, [Service] LimitMEMLOCK=infinity, and restart it"),
            ),
        });
    }
    let warn = |text: &String| {
        let see = format!(
            "see {} show",
            if name == "portcullisd" {
                "portcullis"
            } else {
                name
            }
        );
        Finding::warn(name, "warning", text.clone(), see)
    };
    found.extend(facts.daemon.warnings.iter().map(warn));
    found
}

pub(super) fn check_port(
    setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    facts: &Facts,
) -> Vec<Finding> {
    let name = &wanted.interface;
    let mut findings = Vec::new();
    if wanted.admission == Admission::Open {
        findings.push(Finding::warn(
            name,
            "admission",
            "open: everything on this cable reaches the kernel",
            "set admission = \"pinned\" with the Workstation's addresses, or give it keys (tunnel)",
        ));
    }
    let ports = facts.daemon.ports.iter().flatten();
    let Some(status) = ports.into_iter().find(|port| port.interface == *name) else {
        return findings;
    };
    findings.push(match status.state {
        PortState::Up => Finding::ok(name, "port", "is up"),
        _ => Finding::fail(
            name,
            "port",
            format!(
                "is down: {}",
                status.reason.as_deref().unwrap_or("no reason is known")
            ),
            format!("see journalctl -u {}", setup.daemon),
        ),
    });
    if status.mac.is_some() && found.mac().is_some() && status.mac != found.mac() {
        findings.push(Finding::fail(
            name,
            "MAC address",
            "is another than the wall knows",
            format!("systemctl restart {}", setup.daemon),
        ));
    }
    if wanted.admission != Admission::Tunnel {
        return findings;
    }
    match (status.zero_copy, found.features) {
        (Some(false), Some(features))
            if features.zero_copy() && found.survey.driver.as_deref() != Some(BAD_ZERO_COPY) =>
        {
            findings.push(Finding::warn(
                name,
                "copy mode",
                "frames are copied, though the driver could share them",
                format!("see why: journalctl -u {} | grep {name}", setup.daemon),
            ))
        }
        (Some(zero_copy), _) => findings.push(Finding::ok(
            name,
            "copy mode",
            if zero_copy {
                "frames are shared with the NIC"
            } else {
                "frames are copied"
            },
        )),
        (None, _) => {}
    }
    if status.busy_poll == Some(false) {
        findings.push(Finding::warn(
            name,
            "busy polling",
            "is asked for, and the kernel does not take it",
            "take busy_poll out of this port's configuration",
        ));
    }
    let lost: u64 = status.ring_losses.values().sum();
    findings.push(match lost {
        0 => Finding::ok(name, "losses", "no frame was lost at its rings"),
        _ => {
            let most = status.ring_losses.iter().max_by_key(|(_, count)| **count);
            Finding::warn(
                name,
                "losses",
                format!(
                    "{lost} frames were lost at its rings, most by {}",
                    most.map_or("", |(reason, _)| reason)
                ),
                "raise ring_size for this port, or look for what keeps the worker from its core: top -H",
            )
        }
    });
    findings
}
