//! What is around the tunnel's frames on the rig: with `udp` the Gateway's port has an address and AF_XDP, and the
//! Workstation, which has addresses of the kernel's on its end of the cable, sends by a UDP socket, with or without
//! AF_XDP rings beside it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::rig::{Gateway, Namespace, Programs, Single, Workstation, set_link};

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Encapsulation {
    /// The frames of a cable
    #[default]
    Ether,
    /// The same, and in turn with it Workstations that reach their Gateways over UDP: by a socket, and with a fast path
    Udp,
}

impl Encapsulation {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ether => "ether",
            Self::Udp => "udp",
        }
    }
}

/// The Gateway's interface.
const PORT: &str = "ws1";

/// A Gateway and a Workstation whose ends of a cable are called `ws1` and `interface`, the latter its fast path where
/// that is asked for. Nothing runs yet.
///
/// # Errors
/// What `ip` answered.
pub(super) fn over_udp(
    programs: &Programs,
    (gw, ws): (&Arc<Namespace>, &Arc<Namespace>),
    interface: &str,
    [gateway_at, workstation_at]: [Ipv4Addr; 2],
    fast_path: bool,
) -> Result<Single> {
    // The Gateway's port has its address from the configuration: the kernel there has none.
    ws.ip(&format!("address add {workstation_at}/24 dev {interface}"))?;
    set_link(ws, interface, true)?;
    let gateway = Gateway::new(programs, Arc::clone(gw), &[PORT])?;
    gateway.configure(&format!(
        "{}encapsulation = \"udp\"\naddresses = [\"{gateway_at}\"]\nendpoint = [\"{gateway_at}\"]\n",
        gateway.configuration(&[PORT]),
    ))?;
    let workstation = Workstation::new(programs, Arc::clone(ws), interface)?;
    let text = workstation.configuration();
    workstation.configure(&match fast_path {
        true => format!("fast_path = true\n{text}"),
        // It leaves by whichever interface leads there.
        false => text.replacen(&format!("interface = \"{interface}\"\n"), "", 1),
    })?;
    Ok(Single {
        gateway,
        workstation,
    })
}
