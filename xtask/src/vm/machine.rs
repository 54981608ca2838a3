//! QEMU: a machine with two NICs of a driver's hardware, cabled to each other, and how it is started,
//! listened to and ended. It is emulated (TCG), which every machine can do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::debian::Archive;
use super::kernel::Kernel;
use super::report::{Scenario, Told};
use crate::rig::{self, Namespace};

/// The suite that QEMU is from: bookworm's own has no igb.
const SUITE: &str = "bookworm-backports";
/// Where `/dev/port` takes the guest's exit status (the device `isa-debug-exit`).
pub const EXIT_PORT: u64 = 0xf4;
/// How long a guest may take to boot.
const BOOT: Duration = Duration::from_secs(120);
/// How long it may say nothing at all.
const SILENCE: Duration = Duration::from_secs(240);

/// The driver whose hardware the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Driver {
    /// Intel 82576
    Igb,
    /// virtio-net, with queue pairs
    Virtio,
    /// VMware's
    Vmxnet3,
    /// Intel 82574L
    E1000e,
    /// No hardware: a veth pair of the guest's kernel
    Veth,
}

impl Driver {
    /// The name by which the kernel knows it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Igb => "igb",
            Self::Virtio => "virtio_net",
            Self::Vmxnet3 => "vmxnet3",
            Self::E1000e => "e1000e",
            Self::Veth => "veth",
        }
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Igb => "igb",
            Self::Virtio => "virtio",
            Self::Vmxnet3 => "vmxnet3",
            Self::E1000e => "e1000e",
            Self::Veth => "veth",
        }
    }
}

/// Queue pairs of each virtio NIC.
const QUEUE_PAIRS: u32 = 4;

/// QEMU, unpacked in the cache with every library it needs.
#[derive(Debug)]
pub struct Qemu {
    tree: PathBuf,
}

impl Qemu {
    /// Fetches it, unless it is there.
    ///
    /// # Errors
    /// It cannot be fetched or unpacked, or does not run.
    pub fn get(archive: &Archive, cache: &Path) -> Result<Self> {
        let qemu = Self {
            tree: cache.join("qemu"),
        };
        if !qemu.tree.exists() {
            println!("fetching QEMU from Debian's {SUITE}");
            // wg sets up the kernel's WireGuard in the guest.
            let packages = ["qemu-system-x86", "wireguard-tools"];
            archive.unpack_whole(&packages, SUITE, &qemu.tree)?;
        }
        super::debian::run(qemu.command(None).arg("--version")).context("QEMU does not run")?;
        Ok(qemu)
    }

    /// A program that was unpacked with it.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.tree.join(path)
    }

    /// QEMU by its own loader with its own libraries, so that this machine's do not matter.
    fn command(&self, namespace: Option<&Namespace>) -> Command {
        let libraries = self.tree.join("lib/x86_64-linux-gnu");
        let others = self.tree.join("usr/lib/x86_64-linux-gnu");
        let loader = libraries.join("ld-linux-x86-64.so.2");
        let mut command = match namespace {
            Some(namespace) => namespace.command(loader),
            None => Command::new(loader),
        };
        command
            .arg("--library-path")
            .arg(format!("{}:{}", libraries.display(), others.display()))
            .arg(self.tree.join("usr/bin/qemu-system-x86_64"))
            .env("QEMU_MODULE_DIR", others.join("qemu"));
        for data in ["qemu", "seabios"] {
            command
                .arg("-L")
                .arg(self.tree.join("usr/share").join(data));
        }
        command
    }
}

/// What a guest is made of.
#[derive(Debug)]
pub struct Guest<'a> {
    /// QEMU.
    pub qemu: &'a Qemu,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its file system.
    pub image: &'a Path,
    /// Its NICs.
    pub driver: Driver,
    /// Arguments of its first program.
    pub words: &'a [String],
    /// Where its console goes.
    pub console: &'a Path,
    /// How long it may take in all.
    pub timeout: Duration,
}

impl Guest<'_> {
    /// Boots it and listens to what it tells, until it ends. `hear` is given each line.
    ///
    /// # Errors
    /// It does not boot, says nothing any more, takes too long, or its kernel complains of itself.
    pub fn run(&self, mut hear: impl FnMut(&Told)) -> Result<Vec<Scenario>> {
        // The taps of virtio's queue pairs are in a namespace of their own; so is QEMU in any case.
        let namespace = Namespace::create("vm")?;
        let mut command = self.qemu.command(Some(&namespace));
        self.arguments(&mut command, &namespace)?;
        let mut machine = Machine::start(command)?;
        let heard = machine.listen(self.timeout, &mut hear);
        drop(machine);
        let console = fs::read(self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let scenarios = heard.with_context(|| {
            format!(
                "the end of the guest's console ({}):\n{}",
                self.console.display(),
                tail(&console, 25)
            )
        })?;
        if let Some(complaint) = complaint(&console) {
            bail!(
                "the guest's kernel complained, {} has it all:\n{complaint}",
                self.console.display()
            );
        }
        Ok(scenarios)
    }

    fn arguments(&self, command: &mut Command, namespace: &Namespace) -> Result<()> {
        let words = self.words.join(" ");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=512"])
            // No more memory than this: beyond it there is nothing, which reads as zeros, and it is what virtio_net's
            // zero-copy reads its headers from (see docs/hardware.md).
            .args(["-cpu", "max", "-smp", "2", "-m", "1024"])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(self.image)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off tsc=reliable \
                 cryptomgr.notests net.ifnames=0 random.trust_cpu=on rdinit=/bin/xtask -- vm-guest {words}"
            ))
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio"])
            .arg("-device")
            .arg(format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"));
        let model = match self.driver {
            Driver::Igb => "igb",
            Driver::Vmxnet3 => "vmxnet3",
            Driver::E1000e => "e1000e",
            Driver::Virtio => return taps(command, namespace),
            Driver::Veth => return Ok(()),
        };
        for number in 1..=2 {
            command.args(["-netdev", &format!("hubport,id=n{number},hubid=0")]);
            nic(command, number, model, "");
        }
        Ok(())
    }
}

/// A NIC behind a PCI Express port of its own.
fn nic(command: &mut Command, number: u32, model: &str, properties: &str) {
    command
        .arg("-device")
        .arg(format!("pcie-root-port,id=rp{number},chassis={number},slot={number}"))
        .arg("-device")
        .arg(format!(
            "{model},bus=rp{number},netdev=n{number},mac=52:54:00:00:00:0{number},romfile={properties}"
        ));
}

/// virtio-net with several queues takes taps: two on a bridge.
fn taps(command: &mut Command, namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    namespace.ip("link set br0 up")?;
    for number in 1..=2 {
        let tap = format!("tap{number}");
        namespace.ip(&format!("tuntap add {tap} mode tap multi_queue vnet_hdr"))?;
        namespace.ip(&format!(
            "link set {tap} mtu 9000 txqueuelen 4096 master br0 up"
        ))?;
        command.arg("-netdev").arg(format!(
            "tap,id=n{number},ifname={tap},script=no,downscript=no,queues={QUEUE_PAIRS}"
        ));
        let vectors = 2 * QUEUE_PAIRS + 2;
        // Zero-copy takes the DMA API, which virtio uses only so.
        let properties = format!(",mq=on,vectors={vectors},iommu_platform=on,disable-legacy=on");
        nic(command, number, "virtio-net-pci", &properties);
    }
    Ok(())
}

/// QEMU while it runs. Killed when it is dropped.
struct Machine {
    child: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .context("starting QEMU")?;
        let out = child.stdout.take().context("QEMU's standard output")?;
        let (sender, lines) = channel();
        // It ends with QEMU.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn listen(&mut self, timeout: Duration, hear: &mut impl FnMut(&Told)) -> Result<Vec<Scenario>> {
        let (start, mut last) = (Instant::now(), Instant::now());
        let (mut booted, mut ended) = (false, false);
        let mut current = None;
        let mut scenarios = Vec::new();
        loop {
            rig::check()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    last = Instant::now();
                    // The console of a kernel that is dying may be mixed with it.
                    let Ok(told) = serde_json::from_str(line.trim()) else {
                        continue;
                    };
                    hear(&told);
                    match told {
                        Told::Booted { .. } => booted = true,
                        Told::Began { scenario } => current = Some(scenario),
                        Told::Scenario(scenario) => {
                            current = None;
                            scenarios.push(scenario);
                        }
                        Told::End => ended = true,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("waiting for QEMU")?;
                    // The device makes 2n+1 of the guest's n.
                    ensure!(
                        ended && matches!(status.code(), Some(1 | 3)),
                        "the guest ended ({status}) {}",
                        during(booted, current.as_deref())
                    );
                    return Ok(scenarios);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let during = || during(booted, current.as_deref());
            ensure!(
                booted || start.elapsed() < BOOT,
                "the guest has not booted within {BOOT:?}"
            );
            ensure!(
                last.elapsed() < SILENCE,
                "the guest has said nothing for {SILENCE:?} {}",
                during()
            );
            ensure!(
                start.elapsed() < timeout,
                "the guest has taken {timeout:?} {}",
                during()
            );
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Child::kill is SIGKILL to this pid, which is not reaped yet.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn during(booted: bool, scenario: Option<&str>) -> String {
    match (booted, scenario) {
        (false, _) => "before it had booted".to_owned(),
        (true, None) => "between scenarios".to_owned(),
        (true, Some(name)) => format!("during the scenario {name}"),
    }
}

/// What a kernel writes when something in it went wrong, with what follows.
fn complaint(console: &str) -> Option<String> {
    const SIGNS: [&str; 7] = [
        "BUG: ",
        "Oops: ",
        "WARNING: CPU",
        "Kernel panic",
        "general protection fault",
        "NETDEV WATCHDOG",
        "blocked for more than",
    ];
    let lines: Vec<&str> = console.lines().collect();
    let at = lines
        .iter()
        .position(|line| SIGNS.iter().any(|sign| line.contains(sign)))?;
    Some(lines[at..lines.len().min(at + 30)].join("\n"))
}

/// The last lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_complains_of_itself_is_heard() {
        let fine = "[ 1.0] igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Up\n";
        assert_eq!(complaint(fine), None);
        let warned = format!(
            "{fine}[ 2.0] WARNING: CPU: 0 PID: 7 at drivers/net/virtio_net.c:6030\nRIP: x\n"
        );
        assert!(complaint(&warned).unwrap().contains("RIP: x"));
    }
}
