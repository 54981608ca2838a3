//! The host interface.

use super::facts::Facts;
use super::{Finding, Setup};

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let name = &setup.host_interface;
    let running = facts.daemon.ports.is_some();
    let Some(tun) = &facts.tun else {
        return vec![match running {
            false => Finding::ok(name, "host interface", "is made when the daemon starts"),
            true => Finding::fail(
                name,
                "host interface",
                "is not there though the daemon runs: nothing can be reached through the tunnel",
                format!("systemctl restart {}", setup.daemon),
            ),
        }];
    };
    vec![match tun.persistent {
        None => Finding::fail(
            name,
            "host interface",
            "there is an interface of that name, and it is no TUN",
            format!("ip link delete dev {name}, or give `interface` in [host] another name"),
        ),
        Some(true) => {
            let addresses: Vec<_> = tun.addresses.iter().map(ToString::to_string).collect();
            Finding::ok(
                name,
                "host interface",
                format!(
                    "outlives the daemon, with {}",
                    match addresses.is_empty() {
                        true => "no address yet".into(),
                        false => addresses.join(", "),
                    }
                ),
            )
        }
        Some(false) => Finding::warn(
            name,
            "host interface",
            "ends with the daemon, and with it the addresses and rules that Tor hangs on",
            format!(
                "systemctl restart {}, which makes it persistent",
                setup.daemon
            ),
        ),
    }]
}
