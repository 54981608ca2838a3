//! A program that runs in a namespace of the rig until its guard is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guard::{Left, Scratch, register, unregister, wait_for};

/// A running program, its output in a file. Killed on drop, by pid.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` (made by [`super::Namespace::command`]); what it writes is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        register(Left::Process(child.id() as i32));
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            status: None,
        })
    }

    /// Runs a command to its end; gives its status and what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended within `timeout` (it is killed then).
    pub fn run(name: &str, command: Command, timeout: Duration) -> Result<(ExitStatus, String)> {
        let scratch = Scratch::new("run")?;
        let mut process = Self::start(name, command, &scratch.path().join("log"))?;
        let status = process
            .wait(timeout)
            .map_err(|error| anyhow!("{error:#}; what it wrote:\n{}", process.log_tail(20)))?;
        Ok((status, process.log()))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    /// When it has ended, or what the kernel answered.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited() {
            bail!("{} has ended ({status}):\n{}", self.name, self.log_tail(12));
        }
        kill(Pid::from_raw(self.pid() as i32), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
            if self.status.is_some() {
                unregister(&Left::Process(self.child.id() as i32));
            }
        }
        self.status
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it has not within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(&what, timeout, || self.exited())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            // Child::kill is SIGKILL; the child is not reaped yet, so the pid is still its own.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
            unregister(&Left::Process(self.child.id() as i32));
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within `timeout`.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if self.exited().is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(timeout)
    }

    /// All it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("({} cannot be read: {error})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last `lines` lines it has written.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Whether a process waits for somebody to take what it writes.
pub fn is_writing(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.starts_with(&format!("{} ", libc::SYS_write))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
