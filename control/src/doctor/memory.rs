//! Huge pages and disk.

use super::facts::Facts;
use super::{Finding, Setup};

const SUBJECT: &str = "machine";
/// What the state may grow by.
const LEAST_FREE: u64 = 16 << 20;

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let wanted: Vec<_> = setup
        .ports
        .iter()
        .filter(|port| port.rings.huge_pages)
        .map(|port| port.interface.as_str())
        .collect();
    if !wanted.is_empty() {
        found.push(match facts.memory.huge_pages {
            Some((all, _)) if all > 0 => {
                Finding::ok(SUBJECT, "huge pages", format!("there are {all} of 2 MiB"))
            }
            _ => Finding::warn(
                SUBJECT,
                "huge pages",
                format!(
                    "{} should have its frames in huge pages, and there are none: it takes ordinary ones",
                    wanted.join(", ")
                ),
                "sysctl -w vm.nr_hugepages=64, and for the next boot in /etc/sysctl.d/portcullis.conf",
            ),
        });
    }
    let directory = setup.state_directory.display();
    if facts.memory.read_only == Some(true) {
        found.push(Finding::fail(
            SUBJECT,
            "disk",
            format!("{directory} is on a file system that is mounted read-only"),
            format!("mount -o remount,rw $(df --output=target {directory} | tail -1)"),
        ));
    } else if let Some(free) = facts.memory.free {
        found.push(if free < LEAST_FREE {
            Finding::warn(
                SUBJECT,
                "disk",
                format!("{} MiB are free at {directory}", free >> 20),
                format!("make room on that file system: du -xh {directory} | sort -h | tail"),
            )
        } else {
            Finding::ok(
                SUBJECT,
                "disk",
                format!("{} MiB are free at {directory}", free >> 20),
            )
        });
    }
    found
}
