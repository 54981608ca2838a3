//! A Debian machine with systemd, as far as one kernel can be two machines: systemd-nspawn over a tree of
//! debootstrap's, in a network namespace and control groups of its own. What it changes is kept until it is dropped, so that it
//! can be restarted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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
/// Where control groups are: in one hierarchy, or in systemd's and the one that filters sockets, beside others.
const HIERARCHIES: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
];
/// With systemd-nspawn's exit status 133 a machine wants to be started again.
const RESTARTED: i32 = 133;

/// What lets a process lock memory beyond its limit.
const LOCK: &str = "CAP_IPC_LOCK";

/// Starts a machine over the tree `$1`, with its changes in `$2` and its control groups named `$3`. In groups that machines share,
/// a filter that one's systemd puts on a service's sockets would be on the other's too.
const START: &str = r#"set -e
tree=$1 changes=$2 name=$3
shift 3
for hierarchy in $HIERARCHIES; do
    [ -e $hierarchy/cgroup.procs ] || continue
    mkdir -p $hierarchy/$name
    echo $$ >$hierarchy/$name/cgroup.procs
done
mount -t overlay -o "lowerdir=$tree,upperdir=$changes/upper,workdir=$changes/work" machine "$changes/root"
exec systemd-nspawn --directory="$changes/root" "$@""#;

/// What systemd and udev do on a machine of iron and not in a container; and that a NIC falls silent when the power goes, where here
/// its cable outlives it: the last to be stopped, when every other unit has been, sets it down.
const HARDWARE: &str = "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target shutdown.target\nConflicts=shutdown.target\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/mount -t bpf bpf /sys/fs/bpf\n\
    ExecStart=/bin/chmod 666 /dev/net/tun\nExecStop=/sbin/ip link set dev eth1 down\n";

/// A running machine. Switched off when it is dropped.
#[derive(Debug)]
pub struct Machine {
    namespace: Arc<Namespace>,
    shared: PathBuf,
    container: Process,
    scratch: Scratch,
}

impl Machine {
    /// Boots a machine in a namespace, with a directory of this machine's at [`SHARED`], and waits until it
    /// has started what it starts.
    ///
    /// # Errors
    /// There is no tree (`./run setup` makes it), or it does not come up: with what it said.
    pub fn boot(namespace: &Arc<Namespace>, shared: &Path) -> Result<Self> {
        let scratch = Scratch::new("machine")?;
        for directory in ["upper", "work", "root"] {
            fs::create_dir(scratch.path().join(directory))?;
        }
        let upper = scratch.path().join("upper");
        write(&upper, "etc/systemd/system/hardware.service", HARDWARE)?;
        // Nothing here is to outlive a power cut of the machine below.
        write(&upper, "etc/dpkg/dpkg.cfg.d/unsafe", "force-unsafe-io\n")?;
        let wants = upper.join("etc/systemd/system/sysinit.target.wants");
        fs::create_dir_all(&wants)?;
        symlink("../hardware.service", wants.join("hardware.service"))?;
        let mut machine = Self {
            container: start(namespace, shared, &scratch)?,
            namespace: Arc::clone(namespace),
            shared: shared.to_owned(),
            scratch,
        };
        machine.wait()?;
        machine.let_lock_memory()?;
        Ok(machine)
    }

    /// Waits until it has started what it starts.
    fn wait(&mut self) -> Result<()> {
        let mut ended = None;
        let up = wait_for("a machine to have started", BOOT, || {
            ended = self.container.exited();
            let said = self.output("systemctl is-system-running");
            let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
            let up = said.is_ok_and(|said| ["running", "degraded"].contains(&said.as_str()));
            (up || ended.is_some()).then_some(())
        });
        let console = || self.container.log_tail(20);
        up.map_err(|error| anyhow!("{error:#}:\n{}", console()))?;
        ensure!(ended.is_none(), "systemd-nspawn ended:\n{}", console());
        Ok(())
    }

    /// Shuts it down and boots it again, as `systemctl reboot` does.
    ///
    /// # Errors
    /// It does not go down, or not come up: with what it said.
    pub fn reboot(&mut self) -> Result<()> {
        self.run("systemctl --no-block reboot")?;
        let status = self.container.wait(BOOT)?;
        ensure!(
            status.code() == Some(RESTARTED),
            "the machine went down with {status}:\n{}",
            self.container.log_tail(20)
        );
        self.container = start(&self.namespace, &self.shared, &self.scratch)?;
        self.wait()
    }

    /// Shuts it down, as `systemctl poweroff` does.
    ///
    /// # Errors
    /// It does not go down.
    pub fn power_off(&mut self) -> Result<()> {
        self.run("systemctl --no-block poweroff")?;
        self.container.wait(BOOT).map(drop)
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
        self.namespace.label()
    }

    /// Enables a unit of this text, which is started at the next boot.
    ///
    /// # Errors
    /// What systemd said.
    pub fn enable(&self, unit: &str, text: &str) -> Result<()> {
        write(&self.shared, unit, text)?;
        self.run(&format!(
            "mv {SHARED}/{unit} /etc/systemd/system/ && systemctl enable {unit}"
        ))
        .map(drop)
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
            self.name(),
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
        output.with_context(|| format!("running `{line}` on {}", self.name()))
    }

    /// The machine's process 1, as this one sees it. There may be another child before it is there.
    fn init(&self) -> Result<u32> {
        let pid = self.container.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let first = children.split_whitespace().next();
        let first = first.with_context(|| format!("the machine {} has not begun", self.name()))?;
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
        if self.container.exited().is_none() {
            let _ = self.run("systemctl --force --force poweroff");
        }
        if self.container.wait(Duration::from_secs(10)).is_err() {
            self.container.kill();
        }
        for hierarchy in HIERARCHIES {
            remove_cgroup(&Path::new(hierarchy).join(self.namespace.name()));
        }
    }
}

/// Starts systemd-nspawn on a machine's tree and changes.
fn start(namespace: &Namespace, shared: &Path, scratch: &Scratch) -> Result<Process> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", START, "sh"])
        .arg(cached("bookworm")?)
        .arg(scratch.path())
        .arg(namespace.name())
        .args(["--boot", "--register=no", "--keep-unit", "--console=pipe"])
        .arg(format!("--machine={}", namespace.name()))
        .arg(format!("--network-namespace-path=/run/netns/{}", namespace.name()))
        .arg(format!("--bind={}:{SHARED}", shared.display()))
        .arg("--system-call-filter=bpf mlockall")
        .arg("--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF,CAP_PERFMON,CAP_SYS_RESOURCE,CAP_IPC_LOCK")
        .env("HIERARCHIES", HIERARCHIES.join(" "))
        // Their /sys can be written to, as on a machine of iron.
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
        .stdin(Stdio::null());
    Process::start(namespace.label(), command, &scratch.path().join("console"))
}

/// Writes a file and the directories it is in.
fn write(directory: &Path, path: &str, text: &str) -> Result<()> {
    let path = directory.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// Removes a control group and those in it. Of one that is in use nothing is removed.
fn remove_cgroup(path: &Path) {
    for inner in fs::read_dir(path).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&inner.path());
        }
    }
    let _ = fs::remove_dir(path);
}
