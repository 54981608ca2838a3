//! Threaded NAPI: an interface's receive work is done by kernel threads of its own instead of in
//! whatever context a frame arrives in (Documentation/networking/napi.rst).
//!
//! Where frames come from a program's own system call (veth, and every port in copy mode whose other
//! end is on this machine) the kernel otherwise does the receiver's work once for each frame, inside the
//! sender's call; with a thread it is done in batches, on another core.

use super::LinkError;
use super::netlink::Netlink;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlasIterator, Parseable, ParseableParametrized,
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Pid, setpriority_process};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

/// The nice value of NAPI threads, that of the kernel's own urgent workers (`WQ_HIGHPRI`). Without
/// threads receive work comes before every program; at nice 0 it would wait behind any that is busy
/// while the ring overflows.
const NICE: i32 = -20;

/// Gives an interface of the calling thread's network namespace NAPI threads, or takes them away.
///
/// The setting is a file in sysfs, which shows the network namespace it was mounted in. Where that is
/// another one, the one of [`open_sysfs`] is used.
///
/// The threads run at nice -20 where the kernel tells which they are (from 6.8 on).
///
/// Taking threads away waits until they have nothing to do, which behind a flood can be long.
///
/// # Errors
/// When the kernel has no such setting (before 5.12), or sysfs cannot be written.
pub fn set_threaded_napi(interface: &str, index: u32, on: bool) -> Result<(), LinkError> {
    if interface.is_empty() || interface.contains('/') || matches!(interface, "." | "..") {
        return Err(LinkError::Name(interface.to_owned()));
    }
    let directory = Path::new("/sys/class/net").join(interface);
    let path = directory.join("threaded");
    let value = if on { "1" } else { "0" };
    let failed = |source| LinkError::Sysctl {
        path: path.display().to_string(),
        value,
        source,
    };
    let shown = std::fs::read_to_string(directory.join("ifindex")).ok();
    let written = if shown.is_some_and(|shown| shown.trim().parse() == Ok(index)) {
        std::fs::write(&path, value)
    } else {
        in_own_sysfs(interface, value)
    };
    written.map_err(failed)?;
    if on && let Err(error) = prioritise(index) {
        tracing::debug!(interface, %error, "NAPI threads keep the priority the kernel gave them");
    }
    Ok(())
}

/// Gives an interface's NAPI threads their priority.
fn prioritise(index: u32) -> io::Result<()> {
    for pid in napi_threads(index)? {
        // The kernel's number, which in a PID namespace is another's: it has to be a NAPI thread.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        if let (true, Some(pid)) = (name.starts_with("napi/"), Pid::from_raw(pid)) {
            setpriority_process(Some(pid), NICE)?;
        }
    }
    Ok(())
}

/// The threads of an interface, by generic netlink's `netdev` family
/// (Documentation/netlink/specs/netdev.yaml).
fn napi_threads(index: u32) -> io::Result<Vec<i32>> {
    let control = Netlink::of(NETLINK_GENERIC, 0)?;
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("netdev".to_owned())],
    });
    let answers = control.get(question)?;
    let mut attributes = answers.iter().flat_map(|answer| &answer.payload.nlas);
    let family = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    let family = family.ok_or(io::ErrorKind::Unsupported)?;

    let netdev = Netlink::of(NETLINK_GENERIC, 0)?;
    let of = DefaultNla::new(Napi::IFINDEX, index.to_ne_bytes().to_vec());
    let mut question = GenlMessage::from_payload(Napi(vec![of]));
    question.set_resolved_family_id(family);
    let answers = netdev.dump(question)?;
    Ok(answers
        .iter()
        .filter_map(|napi| napi.payload.pid())
        .collect())
}

/// A NAPI instance: the attributes of `napi-get`.
#[derive(Debug, Clone)]
struct Napi(Vec<DefaultNla>);

impl Napi {
    const GET: u8 = 11;
    const IFINDEX: u16 = 1;
    const PID: u16 = 4;

    fn pid(&self) -> Option<i32> {
        let pid = self
            .0
            .iter()
            .find(|attribute| attribute.kind() == Self::PID)?;
        let mut value = [0; 4];
        if pid.value_len() != value.len() {
            return None;
        }
        pid.emit_value(&mut value);
        Some(i32::from_ne_bytes(value))
    }
}

impl GenlFamily for Napi {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        Self::GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Napi {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Napi {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(bytes).map(|nla| DefaultNla::parse(&nla?));
        attributes.collect::<Result<_, _>>().map(Self)
    }
}

/// A sysfs of the network namespace that it was first asked for in. It is mounted nowhere: it can be
/// reached by this descriptor alone.
static OWN: OnceLock<OwnedFd> = OnceLock::new();

/// Opens a sysfs of the calling thread's network namespace for [`set_threaded_napi`], where /sys shows
/// another one. It takes CAP_SYS_ADMIN, once.
///
/// # Errors
/// What the kernel answered.
pub fn open_sysfs() -> io::Result<BorrowedFd<'static>> {
    if let Some(own) = OWN.get() {
        return Ok(own.as_fd());
    }
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let own = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(OWN.get_or_init(|| own).as_fd())
}

/// Writes the setting in that sysfs.
fn in_own_sysfs(interface: &str, value: &str) -> io::Result<()> {
    let path = format!("class/net/{interface}/threaded");
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(open_sysfs()?, path, flags, Mode::empty())?;
    File::from(file).write_all(value.as_bytes())
}
