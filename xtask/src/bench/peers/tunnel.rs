//! A tunnel on the rig, ours or another: two namespaces, one cable of MTU 1500 between them, and a
//! program at each end. Every tunnel has a cable and namespaces of its own, laid alike. The cable may be
//! a path of some length, by a middlebox in it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::cable::{Between, CABLE, cable, hosts};
use super::config::{self, INNER, OUTER, WIREGUARD_MTU};
use crate::bench::encapsulation::over_udp;
use crate::middlebox::{Impairment, Middlebox};
use crate::rig::{
    GATEWAY_V4, Namespace, Process, Programs, Scratch, Single, ping, single, wait_for,
};

/// How long a tunnel may take until its first packet arrives.
const START: Duration = Duration::from_secs(20);
/// Where userspace WireGuard answers `wg`. It is one place for all namespaces.
const SOCKETS: &str = "/var/run/wireguard";
/// Interfaces of WireGuard are called this, a process id, and a letter for each.
const PREFIX: &str = "pcl";

/// A tunnel that carries packets.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The Gateway's end.
    pub gateway: Arc<Namespace>,
    /// The Workstation's end.
    pub workstation: Arc<Namespace>,
    /// The Gateway's address inside.
    pub to: Ipv4Addr,
    programs: Ends,
    /// Carries the frames of a path; it goes after the programs.
    middlebox: Option<Middlebox>,
}

#[derive(Debug)]
enum Ends {
    None,
    Ours(Box<Single>),
    Others {
        // In the order in which they must go: what runs, what it left, where it ran.
        running: Box<[Process; 2]>,
        _sockets: Vec<Socket>,
        _scratch: Scratch,
    },
}

impl Tunnel {
    /// Portcullis.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn ours() -> Result<Self> {
        let mut rig = single(&Programs::find()?)?;
        rig.start()?;
        Ok(Self {
            gateway: Arc::clone(rig.gateway.namespace()),
            workstation: Arc::clone(rig.workstation.namespace()),
            to: GATEWAY_V4,
            programs: Ends::Ours(Box::new(rig)),
            middlebox: None,
        })
    }

    /// Portcullis over UDP, the Workstation by a socket.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn ours_over_udp(between: Between) -> Result<Self> {
        let hosts = hosts()?;
        let middlebox = between.lay(&hosts, ["ws1", CABLE])?;
        let [gateway, workstation] = hosts;
        let ends = (&gateway, &workstation);
        let mut rig = over_udp(&Programs::find()?, ends, CABLE, OUTER, false)?;
        rig.start()?;
        Ok(Self {
            gateway,
            workstation,
            to: GATEWAY_V4,
            programs: Ends::Ours(Box::new(rig)),
            middlebox,
        })
    }

    /// No tunnel at all: what is between the ends.
    ///
    /// # Errors
    /// What `ip` answered.
    pub(super) fn none(between: Between) -> Result<Self> {
        let (hosts, middlebox) = cable(between)?;
        let [gateway, workstation] = hosts;
        Ok(Self {
            gateway,
            workstation,
            to: OUTER[0],
            programs: Ends::None,
            middlebox,
        })
    }

    /// Has the path do this from now on.
    pub(super) fn impair(&self, impairment: Impairment) {
        if let Some(middlebox) = &self.middlebox {
            middlebox.impair(impairment);
        }
    }

    /// A userspace WireGuard, run as `program options NAME` and told its keys by `wg`.
    ///
    /// # Errors
    /// When it does not come up, with the end of what it wrote.
    pub(super) fn wireguard(
        program: &Path,
        options: &[&str],
        wg: &Path,
        between: Between,
    ) -> Result<Self> {
        let (hosts, middlebox) = cable(between)?;
        let scratch = Scratch::new("wireguard")?;
        let keys = [keys(wg, &scratch, "gw")?, keys(wg, &scratch, "ws")?];
        let names = [interface(), interface()];
        let sockets = names.each_ref().map(|name| Socket(socket(name)));
        let mut running = Vec::new();
        for (host, name) in hosts.iter().zip(&names) {
            let mut command = host.command(program);
            command.args(options).arg(name);
            let log = scratch.path().join(format!("{}.log", host.label()));
            running.push(Process::start(&shown(program), command, &log)?);
        }
        let mut running = pair(running)?;
        for here in 0..2 {
            let (path, program) = (socket(&names[here]), &mut running[here]);
            let ready = wait_for("its socket", START, || {
                (path.exists() || program.exited().is_some()).then_some(())
            });
            ensure!(
                ready.is_ok() && program.exited().is_none(),
                "no {}; it wrote:\n{}",
                path.display(),
                program.log_tail(6)
            );
            let file = scratch.path().join(format!("{}.conf", hosts[here].label()));
            let text = config::wireguard(here, &keys[here].private, &keys[1 - here].public);
            private(&file, &text)?;
            let mut command = hosts[here].command(wg);
            command.arg("setconf").arg(&names[here]).arg(&file);
            output(command)?;
            let [own, other] = [INNER[here], INNER[1 - here]];
            hosts[here].ip(&format!(
                "address add {own} peer {other} dev {}",
                names[here]
            ))?;
            hosts[here].ip(&format!(
                "link set dev {} up mtu {WIREGUARD_MTU}",
                names[here]
            ))?;
        }
        Self::others((hosts, middlebox), running, sockets.into(), scratch)
    }

    /// OpenVPN.
    ///
    /// # Errors
    /// When it does not come up, with the end of what it wrote.
    pub(super) fn openvpn(program: &Path, openssl: &Path, between: Between) -> Result<Self> {
        let (hosts, middlebox) = cable(between)?;
        let scratch = Scratch::new("openvpn")?;
        let mut prints = Vec::new();
        for host in &hosts {
            let directory = scratch.path().join(host.label());
            std::fs::create_dir(&directory)?;
            prints.push(certificate(openssl, &directory, host.label())?);
        }
        let name = "tun0";
        let mut running = Vec::new();
        for (here, host) in hosts.iter().enumerate() {
            let directory = scratch.path().join(host.label());
            let text = config::openvpn(
                here,
                name,
                &directory.display().to_string(),
                &prints[1 - here],
            );
            let file = directory.join("openvpn.conf");
            private(&file, &text)?;
            let mut command = host.command(program);
            command.arg("--config").arg(&file);
            running.push(Process::start("openvpn", command, &directory.join("log"))?);
        }
        Self::others((hosts, middlebox), pair(running)?, Vec::new(), scratch)
    }

    fn others(
        ([gateway, workstation], middlebox): ([Arc<Namespace>; 2], Option<Middlebox>),
        mut running: [Process; 2],
        sockets: Vec<Socket>,
        scratch: Scratch,
    ) -> Result<Self> {
        let to = INNER[0];
        // Whole packets of the tunnel's own MTU must arrive too, not only small ones.
        let reached = wait_for("an answer through the tunnel", START, || {
            let ended = running.iter_mut().any(|program| program.exited().is_some());
            let sizes = [32, 1400];
            let got = ping(&workstation, to.into(), sizes, Duration::from_millis(200));
            (ended || got.is_ok_and(|ping| ping.answered == 2)).then_some(ended)
        });
        if !matches!(reached, Ok(false)) {
            bail!(
                "no answer through it; it wrote, at the Gateway:\n{}\nat the Workstation:\n{}",
                running[0].log_tail(6),
                running[1].log_tail(6)
            );
        }
        Ok(Self {
            gateway,
            workstation,
            to,
            programs: Ends::Others {
                running: Box::new(running),
                _sockets: sockets,
                _scratch: scratch,
            },
            middlebox,
        })
    }

    /// The programs at both ends.
    ///
    /// # Errors
    /// When one has ended, with the last it wrote.
    pub(super) fn pids(&mut self) -> Result<Vec<u32>> {
        let mut running = match &mut self.programs {
            Ends::None => Vec::new(),
            Ends::Ours(rig) => vec![rig.gateway.process(), rig.workstation.process()],
            Ends::Others { running, .. } => running.iter_mut().map(Some).collect(),
        };
        let mut pids = Vec::new();
        for program in &mut running {
            let program = program.as_mut().context("it does not run")?;
            if let Some(status) = program.exited() {
                bail!("it has ended ({status}): {}", program.log_tail(4));
            }
            pids.push(program.pid());
        }
        Ok(pids)
    }
}

/// The key pair of one end.
struct Keys {
    private: String,
    public: String,
}

/// Has `wg` make a key pair. The private one is in a file of mode 0600 and on no command line.
fn keys(wg: &Path, scratch: &Scratch, label: &str) -> Result<Keys> {
    let mut command = Command::new(wg);
    command.arg("genkey");
    let private_key = output(command)?;
    let file = scratch.path().join(format!("{label}.key"));
    private(&file, &private_key)?;
    let mut command = Command::new(wg);
    command.arg("pubkey").stdin(File::open(&file)?);
    Ok(Keys {
        public: output(command)?.trim().to_owned(),
        private: private_key.trim().to_owned(),
    })
}

/// Has `openssl` make a self-signed certificate, and gives its fingerprint.
fn certificate(openssl: &Path, directory: &Path, name: &str) -> Result<String> {
    let (key, cert) = (directory.join("key.pem"), directory.join("cert.pem"));
    // Made first, so that the key is at no time readable by others.
    private(&key, "")?;
    let mut command = Command::new(openssl);
    command
        .args(["req", "-x509", "-newkey", "ec", "-noenc", "-sha256"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert);
    output(command)?;
    let mut command = Command::new(openssl);
    command
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&cert);
    let text = output(command)?;
    let print = config::fingerprint(&text);
    print
        .map(str::to_owned)
        .with_context(|| format!("no fingerprint in what openssl wrote: {text}"))
}

/// Writes a file that only its owner can read.
fn private(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Runs a command to its end and gives what it wrote to standard output, which may be a key: it is
/// in no error.
fn output(mut command: Command) -> Result<String> {
    let name = shown(Path::new(command.get_program()));
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("running {name}"))?;
    if !status.success() {
        bail!(
            "{name} ended with {status}: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    String::from_utf8(stdout).map_err(|_| anyhow!("{name} wrote something that is no text"))
}

fn pair(running: Vec<Process>) -> Result<[Process; 2]> {
    <[Process; 2]>::try_from(running).map_err(|_| anyhow!("a tunnel has two ends"))
}

fn shown(program: &Path) -> String {
    let name = program.file_name().unwrap_or(program.as_os_str());
    name.to_string_lossy().into_owned()
}

/// A name that no interface of this machine has: sockets of WireGuard are in one directory, whatever
/// the namespace of their interface.
fn interface() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // At most 15 bytes: 3, a pid of up to 7, and the number of a tunnel's end.
    format!("{PREFIX}{}i{number}", std::process::id())
}

fn socket(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{interface}.sock"))
}

/// A socket that a program leaves behind when it is killed.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes the sockets of runs that were killed before they could.
pub(super) fn sweep() {
    for entry in std::fs::read_dir(SOCKETS).into_iter().flatten().flatten() {
        if let Some(pid) = owner(&entry.file_name().to_string_lossy())
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The process whose interface a socket belonged to, if it was one of ours.
fn owner(file: &str) -> Option<u32> {
    let name = file.strip_prefix(PREFIX)?.strip_suffix(".sock")?;
    let (pid, number) = name.split_once('i')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_sockets_of_our_own_interfaces_have_an_owner_to_be_swept_with() {
        let name = interface();
        assert!(name.len() <= 15, "{name}");
        let file = socket(&name);
        let file = file.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(owner(&file), Some(std::process::id()));
        for other in [
            "wg0.sock",
            "pcl12.sock",
            "pcl12i.sock",
            "pcl12i3",
            "pclxi3.sock",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
        assert_ne!(interface(), name);
    }

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone() {
        let scratch = Scratch::new("t").unwrap();
        let path = scratch.path().join("key");
        private(&path, "secret").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_command_that_fails_is_reported_without_what_it_wrote_to_standard_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo KEY; echo why >&2; exit 1"]);
        let error = output(command).unwrap_err().to_string();
        assert!(error.contains("why") && !error.contains("KEY"), "{error}");
    }
}
