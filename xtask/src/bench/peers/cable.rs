//! What is between the two ends of a tunnel: a cable, or one with a middlebox in it.

use std::sync::Arc;

use anyhow::Result;

use super::config::OUTER;
use crate::middlebox::{Impairment, Middlebox};
use crate::rig::{Namespace, lay_tapped_cable, offloads_off, set_link, veth};

/// Its interface, which our Gateway has under a name of its own.
pub(super) const CABLE: &str = "cable0";

/// What is between the two ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Between {
    /// A cable.
    Cable,
    /// A cable with a middlebox in it that does this.
    Path(Impairment),
}

/// Two hosts.
///
/// # Errors
/// What `ip` answered.
pub(super) fn hosts() -> Result<[Arc<Namespace>; 2]> {
    Ok([
        Arc::new(Namespace::create("gw")?),
        Arc::new(Namespace::create("ws")?),
    ])
}

/// Two hosts and a cable between them, up, with addresses.
///
/// # Errors
/// What `ip` or `ethtool` answered.
pub(super) fn cable(between: Between) -> Result<([Arc<Namespace>; 2], Option<Middlebox>)> {
    let hosts = hosts()?;
    let middlebox = between.lay(&hosts, [CABLE; 2])?;
    for (host, address) in hosts.iter().zip(OUTER) {
        host.ip(&format!("address add {address}/24 dev {CABLE}"))?;
        set_link(host, CABLE, true)?;
    }
    Ok((hosts, middlebox))
}

impl Between {
    /// Lays it between interfaces of two hosts, which stay down.
    ///
    /// # Errors
    /// What `ip` or `ethtool` answered.
    pub(super) fn lay(
        self,
        hosts: &[Arc<Namespace>; 2],
        names: [&str; 2],
    ) -> Result<Option<Middlebox>> {
        let [gw, ws] = hosts;
        let impairment = match self {
            Self::Cable => {
                veth((gw, names[0]), (ws, names[1]), 1500)?;
                return Ok(None);
            }
            Self::Path(impairment) => impairment,
        };
        let middle = Namespace::create("middle")?;
        middle.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        for ((host, name), end) in hosts.iter().zip(names).zip(["mg", "mw"]) {
            lay_tapped_cable(host, name, &middle, end)?;
            // Single frames are lost, not trains of them.
            offloads_off(host, name)?;
        }
        // Its sockets keep the namespace.
        Middlebox::join(&middle, "mg", "mw", 7, impairment).map(Some)
    }
}
