//! Threaded NAPI: an interface's receive work is done by kernel threads of its own instead of in
//! whatever context a frame arrives in (Documentation/networking/napi.rst).
//!
//! Where frames come from a program's own system call (veth, and every port in copy mode whose other
//! end is on this machine) the kernel otherwise does the receiver's work once for each frame, inside the
//! sender's call; with a thread it is done in batches, on another core.

use super::LinkError;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::path::Path;

/// Gives an interface of the calling thread's network namespace NAPI threads, or takes them away.
///
/// The setting is a file in sysfs, which shows the network namespace it was mounted in. Where that is
/// another one, a thread of its own mounts sysfs for itself alone.
///
/// Taking threads away waits until they have nothing to do, which behind a flood can be long.
///
/// # Errors
/// When the kernel has no such setting (before 5.12), or sysfs cannot be written or mounted.
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
    if shown.is_some_and(|shown| shown.trim().parse() == Ok(index)) {
        return std::fs::write(&path, value).map_err(failed);
    }
    let written = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new();
        let thread = thread.spawn_scoped(scope, || in_own_sysfs(&path, value))?;
        let panicked = |_| Err(io::Error::other("the thread that mounts sysfs panicked"));
        thread.join().unwrap_or_else(panicked)
    });
    written.map_err(failed)
}

/// Writes a file of a sysfs that shows this thread's network namespace. The thread keeps its mounts.
fn in_own_sysfs(path: &Path, value: &str) -> io::Result<()> {
    const NOTHING: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NOTHING, "/", NOTHING, private, NOTHING)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NOTHING)?;
    std::fs::write(path, value)
}
