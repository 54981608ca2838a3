//! What stands on an interface's hooks, ours and others', for whoever asks. Nothing is changed.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::kernel::{self, Hook};
use super::{AttachMode, netlink};

/// A program on an interface's XDP hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands; `None` for both places, or in the NIC itself.
    pub mode: Option<AttachMode>,
    /// Its number; 0 for several.
    pub program: u32,
}

/// A pinned link of a wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is no pin.
    Unpinned,
    /// It is on no interface any more: the one it was on was removed.
    Severed,
    /// It stands on the interface with this index, with this program.
    On {
        /// The interface.
        ifindex: u32,
        /// The program.
        program: u32,
    },
}

/// What stands on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// On its XDP hook.
    pub xdp: Option<Standing>,
    /// The pinned link of the admission program.
    pub admission: Link,
    /// Those of the guards at ingress and egress.
    pub guards: [Link; 2],
    /// The programs on its tcx hooks at ingress and egress, the first to run first; `None` where the
    /// kernel has no tcx.
    pub tcx: Option<[Vec<u32>; 2]>,
}

/// Looks at an interface and at the pins of its wall.
///
/// # Errors
/// What the kernel answered; it takes CAP_NET_ADMIN, CAP_BPF and the right to read the pins.
pub fn inspect(interface: &str, ifindex: u32, pin_directory: &Path) -> io::Result<Inspection> {
    let directory = pin_directory.join(interface);
    let link = |file: &str| {
        let Some(link) = kernel::pinned(&directory.join(file))? else {
            return Ok::<_, io::Error>(Link::Unpinned);
        };
        let info = kernel::link_info(link.as_fd())?;
        Ok(match info.ifindex {
            0 => Link::Severed,
            ifindex => Link::On {
                ifindex,
                program: info.program,
            },
        })
    };
    let xdp = netlink::xdp(ifindex)?.map(|attached| Standing {
        mode: match attached.mode {
            netlink::NATIVE => Some(AttachMode::Native),
            netlink::GENERIC => Some(AttachMode::Generic),
            _ => None,
        },
        program: attached.program,
    });
    let ingress = kernel::tcx_programs(ifindex, Hook::TcxIngress)?;
    let egress = kernel::tcx_programs(ifindex, Hook::TcxEgress)?;
    Ok(Inspection {
        xdp,
        admission: link("admission")?,
        guards: [link("ingress_guard")?, link("guard")?],
        tcx: ingress
            .zip(egress)
            .map(|(ingress, egress)| [ingress, egress]),
    })
}
