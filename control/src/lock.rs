//! Files that stand for a directory: whoever has one locked is the only process at work there.

use crate::files;
use crate::problem::{Kind, Problem};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Takes the lock that the file at `path` stands for, and leaves this process's id in it.
///
/// # Errors
/// Another process has it, and which one; or what the system answered.
pub fn lock_file(path: &Path, tried: &str, why: &str) -> Result<Flock<File>, Problem> {
    let io = |error: &std::io::Error| Problem::io(tried, error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| io(&error))?;
    files::leave_to_account(&file, path).map_err(|error| io(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // For people; the lock itself is what counts.
            let _ = lock.set_len(0);
            let _ = writeln!(lock, "{}", std::process::id());
            Ok(lock)
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut owner = String::new();
            let _ = file.take(20).read_to_string(&mut owner);
            let owner = owner.trim();
            Err(Problem::new(
                Kind::Conflict,
                tried,
                format!("process {owner} is at work there, and {why}"),
                format!("see what it is with `ps -p {owner}`; stop it, or let it do the work"),
            ))
        }
        Err((_, errno)) => Err(io(&errno.into())),
    }
}
