//! A host of the rig: a network namespace under `/run/netns`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guard::{Left, register, unique, unregister};

/// A network namespace, removed on drop. Whatever runs in it must have ended by then, or the kernel
/// keeps it until it has.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    label: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace called after this process and `label`, with `lo` up and IPv6 addresses
    /// usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// What `ip` or the kernel answered.
    pub fn create(label: &str) -> Result<Self> {
        let name = unique(label);
        register(Left::Namespace(name.clone()));
        if let Err(error) = run(Command::new("ip").args(["netns", "add", &name])) {
            unregister(&Left::Namespace(name));
            return Err(error);
        }
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("opening {path}"));
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                delete(&name);
                return Err(error);
            }
        };
        let namespace = Self {
            name,
            label: label.to_owned(),
            file,
        };
        for (key, value) in [
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The short name it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `ip` on this namespace; `arguments` are split at blanks.
    ///
    /// # Errors
    /// What `ip` wrote to stderr.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()))
    }

    /// A command that will run in this namespace, with nothing else changed, no standard input, and
    /// a process group of its own so that Ctrl-C reaches only the rig. It dies with the thread that
    /// starts it, so that a rig that is killed leaves no program behind (one that gives up its user
    /// id is left to [`super::sweep`]).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        let fd = self.file.as_raw_fd();
        // SAFETY: the closure runs in the child between fork and exec and makes two system calls,
        // which are async-signal-safe; the descriptor is open as long as the namespace, and a command
        // started after that fails with EBADF instead of running elsewhere.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0
                    || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Runs a command to its end in this namespace.
    ///
    /// # Errors
    /// What it wrote to stderr.
    pub fn exec(&self, program: &str, arguments: &str) -> Result<String> {
        run(self.command(program).args(arguments.split_whitespace()))
    }

    /// Calls `body` on a thread that is in this namespace: sockets it opens belong to it.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace, or what `body` answered.
    pub fn run<R: Send>(&self, body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering namespace {}", self.name))?;
                body()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a network sysctl, given from `/proc/sys/net/` on.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        // /proc/sys/net is that of the thread which opens it.
        self.run(|| std::fs::write(&path, value).with_context(|| format!("writing {path}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
        unregister(&Left::Namespace(self.name.clone()));
    }
}

/// Kills what still runs in a namespace of a run that is no more.
pub(super) fn evict(name: &str) {
    let pids = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Deletes by name, silently.
pub(super) fn delete(name: &str) {
    let _ = Command::new("ip")
        .args(["netns", "delete", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Runs a command to its end and gives its standard output.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
