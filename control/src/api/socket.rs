//! The control socket and the lock that goes with it: one daemon for each runtime directory.

use crate::confine::ACCOUNT;
use crate::files;
use crate::lock::lock_file;
use crate::problem::{Kind, Problem};
use nix::fcntl::Flock;
use nix::unistd::{Gid, Group, chown, geteuid};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The socket's name in the runtime directory.
pub const SOCKET: &str = "control.sock";
/// The longest path a Unix socket can have.
const LONGEST: usize = 107;

/// The bound socket. Dropping it removes the socket and gives the lock back.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    _lock: Flock<File>,
}

impl Socket {
    /// Takes the lock of `runtime_directory` and binds the socket in it, over one that a daemon
    /// which is gone has left. Nobody but the owner and its group can connect at any moment.
    ///
    /// # Errors
    /// Another daemon runs there, the path is too long, the directory is not safe, or what the
    /// system answered.
    pub fn bind(runtime_directory: &Path) -> Result<Self, Problem> {
        let path = runtime_directory.join(SOCKET);
        let tried = format!("opening the control socket {}", path.display());
        let io = |error| Problem::io(&tried, &error);
        let temporary = runtime_directory.join(format!(".{SOCKET}"));
        let length = temporary.as_os_str().len();
        if length > LONGEST {
            return Err(Problem::new(
                Kind::Invalid,
                tried,
                format!("a socket's path can have {LONGEST} bytes, and this one needs {length}"),
                "configure a shorter runtime_directory",
            ));
        }
        files::directory(runtime_directory, 0o750)?;
        let lock = lock_file(
            &runtime_directory.join("lock"),
            &tried,
            "only one daemon can run with this runtime directory",
        )?;
        // Bound under another name, then given its mode, then moved: it never has another mode
        // under its own name, and a stale one is replaced in one step.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary).map_err(io)?;
        if let Some(group) = group() {
            chown(&temporary, None, Some(group)).map_err(|errno| io(errno.into()))?;
            chown(runtime_directory, None, Some(group)).map_err(|errno| io(errno.into()))?;
        }
        fs::set_permissions(&temporary, Permissions::from_mode(0o660)).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        fs::rename(&temporary, &path).map_err(io)?;
        Ok(Self {
            path,
            listener,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, non-blocking.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn listener(&self) -> Result<UnixListener, Problem> {
        self.listener
            .try_clone()
            .map_err(|error| Problem::io("sharing the control socket", &error))
    }
}

/// The group that the socket is given by root, where there is such a group: its members may look. (A
/// daemon that becomes another account gives the directory to that, with that account's group.)
fn group() -> Option<Gid> {
    let found = geteuid().is_root().then(|| Group::from_name(ACCOUNT));
    found?.ok().flatten().map(|group| group.gid)
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock is still held: the name is ours.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("run");
        fs::create_dir(&runtime).unwrap();
        drop(UnixListener::bind(runtime.join(SOCKET)).unwrap());
        let socket = Socket::bind(&runtime).unwrap();
        assert_eq!(mode(socket.path()), 0o660);
        UnixStream::connect(socket.path()).unwrap();
        let problem = Socket::bind(&runtime).unwrap_err();
        assert_eq!(problem.kind, Kind::Conflict);
        assert!(problem.happened.contains("only one daemon"), "{problem}");
        UnixStream::connect(socket.path()).unwrap();
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
        Socket::bind(&runtime).unwrap();
    }

    #[test]
    fn a_path_that_is_too_long_is_told_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let problem = Socket::bind(&directory.path().join("x".repeat(100))).unwrap_err();
        assert!(problem.happened.contains("107 bytes"), "{problem}");
        assert!(problem.remedy.contains("shorter runtime_directory"));
    }

    #[test]
    fn a_runtime_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(
            Socket::bind(directory.path())
                .unwrap_err()
                .remedy
                .contains("chmod go-w")
        );
    }
}
