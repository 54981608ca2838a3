//! A Debian machine with systemd, as far as one kernel can be two machines: systemd-nspawn over a tree of
//! debootstrap's, whose changes are kept in memory and gone with it, in a network namespace of the rig.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::rig::{Namespace, Process, Scratch, wait_for};
use crate::tasks::cached;

/// How long a machine may take to start, or to stop.
const BOOT: Duration = Duration::from_secs(90);
/// Where the host's directory is seen on a machine.
pub const SHARED: &str = "/mnt";

/// What lets a process lock memory beyond its limit.
const LOCK: &str = "CAP_IPC_LOCK";

/// A running machine. Switched off when it is dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    container: Process,
    _scratch: Scratch,
}

impl Machine {
    /// Boots a machine in a namespace, with a directory of this machine's at [`SHARED`], and waits until it
    /// has started what it starts.
    ///
    /// # Errors
    /// There is no tree (`./run setup` makes it), or it does not come up: with what it said.
    pub fn boot(namespace: &Arc<Namespace>, shared: &Path) -> Result<Self> {
        let scratch = Scratch::new("machine")?;
        let name = namespace.label().to_owned();
        let mut command = Command::new("systemd-nspawn");
        command
            .args(["--boot", "--read-only",
                "--volatile=overlay", "--register=no", "--keep-unit", "--console=pipe"])
            .arg(format!("--directory={}", cached("bookworm")?.display()))
            .arg(format!("--machine={}", namespace.name()))
            .arg(format!("--network-namespace-path=/run/netns/{}", namespace.name()))
            .arg(format!("--bind={}:{SHARED}", shared.display()))
            .arg("--system-call-filter=bpf mlockall")
            .arg("--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF,CAP_PERFMON,CAP_SYS_RESOURCE,CAP_IPC_LOCK")
            // Their /sys can be written to, as on a machine of iron.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .stdin(Stdio::null());
        let container = Process::start(&name, command, &scratch.path().join("console"))?;
        let mut machine = Self {
            name,
            container,
            _scratch: scratch,
        };
        let mut ended = None;
        let up = wait_for("a machine to have started", BOOT, || {
            ended = machine.container.exited();
            let said = machine.output("systemctl is-system-running");
            let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
            let up = said.is_ok_and(|said| ["running", "degraded"].contains(&said.as_str()));
            (up || ended.is_some()).then_some(())
        });
        let console = || machine.container.log_tail(20);
        up.map_err(|error| anyhow!("{error:#}:\n{}", console()))?;
        ensure!(ended.is_none(), "systemd-nspawn ended:\n{}", console());
        // systemd and udev do that themselves, but not in a container.
        machine.run("mount -t bpf bpf /sys/fs/bpf")?;
        machine.run("chmod 666 /dev/net/tun")?;
        machine.let_lock_memory()?;
        Ok(machine)
    }

    /// Where this machine may not raise the limit of locked memory, one in a container may not either, and
    /// a unit's `LimitMEMLOCK=` is in vain. Its daemons then need the capability.
    fn let_lock_memory(&self) -> Result<()> {
        if self.succeeds("prlimit --pid 1 --memlock=unlimited:unlimited")? {
            return Ok(());
        }
        for unit in ["portcullisd", "portcullis-agent"] {
            let directory = format!("/etc/systemd/system/{unit}.service.d");
            self.run(&format!(
                "mkdir -p {directory} && printf '[Service]\nAmbientCapabilities={LOCK}\n\
                 CapabilityBoundingSet={LOCK}\n' > {directory}/memory.conf"
            ))?;
        }
        self.run("systemctl daemon-reload").map(drop)
    }

    /// Its name: the namespace's label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a line of shell on the machine, as root; gives what it wrote.
    ///
    /// # Errors
    /// It failed: with all it wrote, and the line.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{line}` on {} failed ({}):\n{text}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Whether a line of shell succeeds.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn succeeds(&self, line: &str) -> Result<bool> {
        Ok(self.output(line)?.status.success())
    }

    fn output(&self, line: &str) -> Result<Output> {
        let init = self.init()?.to_string();
        let mut command = Command::new("nsenter");
        command.args([
            "--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
        ]);
        command.args(["--root", "--wd", "--", "/bin/sh", "-c", line]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let output = command.stdin(Stdio::null()).output();
        output.with_context(|| format!("running `{line}` on {}", self.name))
    }

    /// The machine's process 1, as this one sees it. There may be another child before it is there.
    fn init(&self) -> Result<u32> {
        let pid = self.container.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let first = children.split_whitespace().next();
        let first = first.with_context(|| format!("the machine {} has not begun", self.name))?;
        Ok(first.parse()?)
    }

    /// What the units of this name have said.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&format!("journalctl --no-pager --lines 30 --unit {unit}"))
            .unwrap_or_else(|error| format!("({error:#})"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // systemd's word for a poweroff (SIGRTMIN+4); killed after that, if need be, with all in it.
        let _ = self.run("systemctl --force --force poweroff");
        if self.container.wait(Duration::from_secs(10)).is_err() {
            self.container.kill();
        }
    }
}
