//! The BPF file system, where pins live: what is pinned there outlives the process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::WallError;

/// Where the BPF file system belongs.
const PLACE: &str = "/sys/fs/bpf";

/// Makes sure that `path` is a directory on a BPF file system, mounting one where there is none: at
/// /sys/fs/bpf for a path below it, else at the path itself.
///
/// # Errors
/// [`WallError::Bpffs`] when it cannot be mounted or the directory cannot be made.
pub fn ensure_bpffs(path: &Path) -> Result<(), WallError> {
    let failed = |attempt: &'static str, source: io::Error| WallError::Bpffs {
        attempt,
        path: path.to_owned(),
        source,
    };
    if !on_bpffs(path).map_err(|error| failed("look at", error))? {
        let place = if path.starts_with(PLACE) {
            PathBuf::from(PLACE)
        } else {
            fs::create_dir_all(path).map_err(|error| failed("make", error))?;
            path.to_owned()
        };
        mount_once(&place).map_err(|error| failed("mount a BPF file system for", error))?;
    }
    fs::create_dir_all(path).map_err(|error| failed("make", error))
}

/// Mounts, unless another process does so at the same time: a second mount would hide the pins on
/// the first.
fn mount_once(place: &Path) -> io::Result<()> {
    let directory = File::open(place)?;
    // SAFETY: flock on a descriptor that lives until the end of this function, which unlocks it.
    if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if on_bpffs(place)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), place, Some("bpf"), flags, Some("mode=700"))?;
    Ok(())
}

/// Whether the nearest directory that exists is on a BPF file system.
fn on_bpffs(path: &Path) -> io::Result<bool> {
    for ancestor in path.ancestors() {
        match statfs(ancestor) {
            Ok(found) => return Ok(found.filesystem_type() == BPF_FS_MAGIC),
            Err(nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
