//! How the wall's programs come to stand on an interface, and how new ones take over from old ones
//! without a frame passing in between.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, tc};

use super::kernel::{self, Hook, LinkInfo};
use super::netlink::{self, Attached};
use super::{AttachMode, GuardHook, WallError, XdpRequest};
use crate::port::ethtool;

/// The fixed place of a guard that stands on clsact, where the next process finds it.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x5043);

/// What is said of an attachment to the driver.
const NATIVELY: &str = "attach the admission program in native mode";

/// Beyond this MTU, or one a little larger, a frame and what XDP needs around it do not fit a page.
const LARGEST_IN_A_PAGE: u32 = 3400;

/// An interface, as it is named in errors and known to the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface<'a> {
    pub name: &'a str,
    pub ifindex: u32,
}

impl Interface<'_> {
    fn failed(&self, attempt: &'static str) -> impl FnOnce(io::Error) -> WallError + use<> {
        let interface = self.name.to_owned();
        move |source| WallError::Kernel {
            attempt,
            interface,
            source,
        }
    }

    fn xdp(&self) -> Result<Option<Attached>, WallError> {
        netlink::xdp(self.ifindex).map_err(self.failed("ask for the XDP program"))
    }
}

/// Puts the admission program on the interface, or in the place of the one that stands there.
pub(super) fn admission(
    interface: Interface<'_>,
    pin: &Path,
    program: BorrowedFd<'_>,
    request: XdpRequest,
) -> Result<(), WallError> {
    let standing = interface.xdp()?;
    let link = live_link(interface, pin, |info| {
        Ok(standing.is_some_and(|standing| standing.program == info.program))
    })?;
    match (link, standing) {
        (Some(link), Some(standing)) => {
            let mode = mode_of(standing.mode);
            let agrees = match request {
                XdpRequest::Auto => true,
                XdpRequest::Native => mode == Some(AttachMode::Native),
                XdpRequest::Generic => mode == Some(AttachMode::Generic),
            };
            if !agrees {
                return Err(WallError::OtherMode {
                    interface: interface.name.to_owned(),
                });
            }
            kernel::replace(link.as_fd(), program)
                .map_err(interface.failed("replace the admission program"))
        }
        (None, Some(standing)) => Err(WallError::Occupied {
            interface: interface.name.to_owned(),
            program: standing.program,
        }),
        (_, None) => {
            let link = attach_xdp(interface, program, request)?;
            kernel::pin(link.as_fd(), pin)
                .map_err(interface.failed("pin the link of the admission program"))
        }
    }
}

/// Attaches natively, or as asked. In `Auto` generic mode is taken only with a warning.
fn attach_xdp(
    interface: Interface<'_>,
    program: BorrowedFd<'_>,
    request: XdpRequest,
) -> Result<OwnedFd, WallError> {
    let attach = |flags| kernel::attach(program, interface.ifindex, Hook::Xdp, flags);
    let native = match request {
        XdpRequest::Generic => None,
        XdpRequest::Native | XdpRequest::Auto => Some(attach(kernel::XDP_NATIVE)),
    };
    match native {
        Some(Ok(link)) => Ok(link),
        Some(Err(error)) if request == XdpRequest::Native && !is_final(&error) => {
            Err(match beyond_a_page(interface) {
                Some(mtu) => WallError::Mtu {
                    interface: interface.name.to_owned(),
                    mtu,
                    source: error,
                },
                None => interface.failed(NATIVELY)(error),
            })
        }
        Some(Err(error)) if is_final(&error) => Err(interface.failed(NATIVELY)(error)),
        refused => {
            if let Some(Err(error)) = refused {
                let why = match beyond_a_page(interface) {
                    Some(_) => "the driver takes no XDP program, perhaps only at this MTU",
                    None => "the driver takes no XDP program",
                };
                tracing::warn!(
                    interface = interface.name,
                    %error,
                    "{why}: admission runs in generic mode, which costs several times more for each frame"
                );
            }
            attach(kernel::XDP_GENERIC)
                .map_err(interface.failed("attach the admission program in generic mode"))
        }
    }
}

/// The interface's MTU, where it is one that drivers without multi-buffer XDP refuse.
fn beyond_a_page(interface: Interface<'_>) -> Option<u32> {
    ethtool::mtu(interface.name)
        .ok()
        .filter(|mtu| *mtu > LARGEST_IN_A_PAGE)
}

/// Whether an error says something about us or the interface, not about the driver's abilities.
fn is_final(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [libc::EPERM, libc::EBUSY, libc::EEXIST, libc::ENODEV]
        .map(Some)
        .contains(&code)
}

/// The mode in which the interface runs its XDP program.
pub(super) fn mode(interface: Interface<'_>) -> Result<Option<AttachMode>, WallError> {
    Ok(interface.xdp()?.and_then(|standing| mode_of(standing.mode)))
}

fn mode_of(mode: u8) -> Option<AttachMode> {
    match mode {
        netlink::NATIVE => Some(AttachMode::Native),
        netlink::GENERIC => Some(AttachMode::Generic),
        _ => None,
    }
}

/// Which way the packets go that a guard drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Out of the kernel's stack.
    Egress,
    /// Into it.
    Ingress,
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    /// The file its link is pinned as.
    fn pin(self) -> &'static str {
        match self {
            Direction::Egress => "guard",
            Direction::Ingress => "ingress_guard",
        }
    }

    fn tcx(self) -> Hook {
        match self {
            Direction::Egress => Hook::TcxEgress,
            Direction::Ingress => Hook::TcxIngress,
        }
    }

    fn clsact(self) -> TcAttachType {
        match self {
            Direction::Egress => TcAttachType::Egress,
            Direction::Ingress => TcAttachType::Ingress,
        }
    }
}

/// Puts a guard on the interface, or in the place of the one that stands there. Its link is pinned in
/// `directory`.
pub(super) fn guard(
    interface: Interface<'_>,
    directory: &Path,
    program: &mut SchedClassifier,
    hook: GuardHook,
    direction: Direction,
) -> Result<(), WallError> {
    let pin = &directory.join(direction.pin());
    let tcx = match hook {
        GuardHook::Clsact => None,
        GuardHook::Auto => kernel::tcx_programs(interface.ifindex, direction.tcx())
            .map_err(interface.failed("ask for the programs on a tcx hook"))?,
    };
    let Some(running) = tcx else {
        return guard_on_clsact(interface, program, direction);
    };
    let fd = program
        .fd()
        .map_err(|error| WallError::load(interface.name, error))?;
    let link = live_link(interface, pin, |info| Ok(running.contains(&info.program)))?;
    match link {
        Some(link) => {
            kernel::replace(link.as_fd(), fd.as_fd()).map_err(interface.failed("replace a guard"))
        }
        None => {
            let attached = kernel::attach(
                fd.as_fd(),
                interface.ifindex,
                direction.tcx(),
                kernel::FIRST,
            );
            let link = attached.map_err(interface.failed("attach a guard"))?;
            kernel::pin(link.as_fd(), pin).map_err(interface.failed("pin the link of a guard"))
        }
    }
}

/// Before 6.6 there is no tcx. A filter on clsact cannot be pinned, and need not be: it stays until
/// it is taken off.
fn guard_on_clsact(
    interface: Interface<'_>,
    program: &mut SchedClassifier,
    direction: Direction,
) -> Result<(), WallError> {
    match tc::qdisc_add_clsact(interface.name) {
        Ok(()) => {}
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(WallError::load(interface.name, error)),
    }
    let standing = clsact_link(interface.name, direction)
        .map_err(interface.failed("name a guard on clsact"))?;
    // Without a filter at this place to replace, the kernel says ENOENT.
    let attached = program.attach_to_link(standing).or_else(|_| {
        let options = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            classid: None,
        };
        program.attach_with_options(
            interface.name,
            direction.clsact(),
            TcAttachOptions::Netlink(options),
        )
    });
    let link = attached
        .and_then(|id| program.take_link(id))
        .map_err(|error| WallError::load(interface.name, error))?;
    // Dropped, it would take the filter off.
    std::mem::forget(link);
    Ok(())
}

fn clsact_link(interface: &str, direction: Direction) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction.clsact(), PRIORITY, HANDLE, None)
}

/// The pinned link, when it stands on this interface. One that does not (its interface was removed,
/// or is another) is of no use to anyone: its pin is removed.
fn live_link(
    interface: Interface<'_>,
    pin: &Path,
    runs: impl FnOnce(LinkInfo) -> Result<bool, WallError>,
) -> Result<Option<OwnedFd>, WallError> {
    let pinned = kernel::pinned(pin).map_err(interface.failed("open the pinned link"))?;
    let Some(link) = pinned else {
        return Ok(None);
    };
    let info =
        kernel::link_info(link.as_fd()).map_err(interface.failed("ask about the pinned link"))?;
    if info.ifindex == interface.ifindex && runs(info)? {
        return Ok(Some(link));
    }
    fs::remove_file(pin).map_err(interface.failed("remove the pin of a dead link"))?;
    Ok(None)
}

/// Takes the programs off, wherever they stand.
pub(super) fn lower(name: &str, directory: &Path) -> Result<(), WallError> {
    let interface = Interface { name, ifindex: 0 };
    let guards = Direction::ALL.map(Direction::pin);
    for pin in [guards[0], guards[1], "admission"].map(|file| directory.join(file)) {
        let pinned = kernel::pinned(&pin).map_err(interface.failed("open the pinned link"))?;
        let Some(link) = pinned else { continue };
        match kernel::detach(link.as_fd()) {
            Ok(()) => {}
            // The interface is gone, and with it the attachment.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(interface.failed("detach the pinned link")(error)),
        }
        fs::remove_file(&pin).map_err(interface.failed("remove the pin"))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(interface.failed("remove the directory of the pins")(error));
        }
        _ => {}
    }
    for direction in Direction::ALL {
        // There is one only where the guard stands on clsact.
        if let Ok(link) = clsact_link(name, direction) {
            drop(link);
        }
    }
    Ok(())
}
