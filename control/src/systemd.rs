//! systemd: how it starts the daemons, and what it is told (`sd_notify(3)`, `sd_watchdog_enabled(3)`): that the daemon serves, and then that
//! it lives, while the control loop turns and every worker answers. A worker that is stuck lets nothing
//! pass, and would never serve again: systemd then ends the daemon and starts it anew.

use crate::config::{self, AGENT_PATH, GATEWAY_PATH};
use crate::pool::{Pool, Ring};
use crossbeam::channel::{Receiver, never};
use dataplane::PortId;
use dataplane::port::RingStatistics;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

/// There while systemd runs this machine (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// Where units of an administrator and of packages are (`systemd.unit(5)`).
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// What the agent's unit may do besides, or not, over networks: as packaged, and where it is put to hold.
const NETWORK: &str = "/usr/share/doc/portcullis-workstation/examples/portcullis-network.conf";
const NETWORK_DROP_IN: &str = "/etc/systemd/system/portcullis-agent.service.d/network.conf";
/// What it may do beyond that with a fast path. Its name comes after the other's, whose part it takes back.
const FAST_PATH: &str = "/usr/share/doc/portcullis-workstation/examples/portcullis-fast-path.conf";
const FAST_PATH_DROP_IN: &str = "/etc/systemd/system/portcullis-agent.service.d/own-interface.conf";
const RELOAD: &str = "systemctl daemon-reload";
/// Where the service manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Of the time that systemd waits, this part passes between two signs of life.
const PART: u32 = 4;

/// The way to systemd, what is still to be heard from the workers, and when systemd was told last.
pub struct Systemd {
    /// Connected while the daemon still may; none where no service manager waits.
    socket: Option<UnixDatagram>,
    /// Between two signs of life; none where nobody waits for one.
    every: Option<Duration>,
    asked: Instant,
    answers: Receiver<Vec<(PortId, RingStatistics)>>,
    missing: usize,
    /// Whether the log says already that a worker does not answer.
    said: bool,
}

impl Systemd {
    /// As the service's unit has it (`Type=notify`, `WatchdogSec=`). To be called before the daemon gives up
    /// the system calls that reach other processes.
    pub fn from_environment() -> Self {
        let socket = std::env::var_os(SOCKET).and_then(|address| {
            let connected = connect(&address);
            connected
                .inspect_err(|error| {
                    tracing::warn!(%error, "systemd cannot be told anything at {SOCKET}={}", address.display());
                })
                .ok()
        });
        Self {
            socket,
            every: sd_notify::watchdog_enabled().map(|time| time / PART),
            asked: Instant::now(),
            answers: never(),
            missing: 0,
            said: false,
        }
    }

    /// Tells systemd, where it waits for it, that the daemon serves.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    fn tell(&self, what: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(what.as_bytes()) {
            tracing::warn!(%error, "systemd was not told {what}, and may restart this daemon");
        }
    }

    /// To be called in every turn of the control loop, which must turn a few times in the watchdog's time.
    pub fn look<P: Ring>(&mut self, pool: &Pool<P>) {
        let Some(every) = self.every else { return };
        if self.asked.elapsed() < every {
            return;
        }
        self.missing -= self.answers.try_iter().count().min(self.missing);
        if self.missing > 0 {
            if !self.said && self.asked.elapsed() > 2 * every {
                self.said = true;
                let silent = self.missing;
                tracing::error!(
                    silent,
                    "workers do not answer: systemd will restart this daemon"
                );
            }
            return;
        }
        self.said = false;
        self.tell("WATCHDOG=1");
        self.asked = Instant::now();
        self.answers = pool.ask_statistics();
        self.missing = pool.len();
    }
}

/// The command that starts the Gateway's daemon with a configuration.
pub fn start_gateway(configuration: &Path) -> String {
    let option = config::option(configuration, GATEWAY_PATH);
    start("portcullisd", &option, "", Path::new("/"))
}

/// The command that starts the agent with a configuration.
pub fn start_agent(configuration: &Path) -> String {
    let option = config::option(configuration, AGENT_PATH);
    start("portcullis-agent", &option, " up", Path::new("/"))
}

/// The commands that let the agent's unit reach a Gateway over networks: its helper takes UDP sockets then.
pub fn for_networks() -> [String; 2] {
    [
        format!("install -D -m 0644 {NETWORK} {NETWORK_DROP_IN}"),
        RELOAD.to_owned(),
    ]
}

/// The commands that let the agent's unit have a fast path over networks.
pub fn for_fast_path() -> [String; 2] {
    [
        format!("install -D -m 0644 {FAST_PATH} {FAST_PATH_DROP_IN}"),
        RELOAD.to_owned(),
    ]
}

/// The commands after which the agent's unit, where it is what `start` starts, may do what it takes to reach the
/// Gateway: none where it may already.
pub fn fit_agent(start: &str, over_networks: bool) -> Vec<String> {
    fit(start, over_networks, Path::new("/"))
}

fn fit(start: &str, over_networks: bool, root: &Path) -> Vec<String> {
    let may = root.join(NETWORK_DROP_IN.trim_start_matches('/')).exists();
    match (start.starts_with("systemctl"), over_networks, may) {
        (true, true, false) => for_networks().to_vec(),
        (true, false, true) => vec![format!("rm {NETWORK_DROP_IN}"), RELOAD.to_owned()],
        _ => Vec::new(),
    }
}

/// The unit's command where there is one, and it has this configuration; else the program's.
fn start(name: &str, option: &str, words: &str, root: &Path) -> String {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let unit = format!("{name}.service");
    let is_unit = |directory: &&str| below(directory).join(&unit).exists();
    match option.is_empty() && below(BOOTED).is_dir() && UNITS.iter().any(is_unit) {
        true => format!("systemctl start {name}"),
        false => format!("{name}{option}{words}"),
    }
}

/// A path, or, after `@`, a name in the abstract namespace (`unix(7)`).
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not hold the daemon up.
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_started_as_its_unit_where_systemd_runs_one_with_its_configuration() {
        let root = tempfile::tempdir().unwrap();
        let said = |option| start("portcullis-agent", option, " up", root.path());
        let unit = root.path().join("lib/systemd/system");
        std::fs::create_dir_all(&unit).unwrap();
        std::fs::write(unit.join("portcullis-agent.service"), "").unwrap();
        assert_eq!(said(""), "portcullis-agent up");
        std::fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert_eq!(said(""), "systemctl start portcullis-agent");
        let other = " --config agent.toml";
        assert_eq!(said(other), "portcullis-agent --config agent.toml up");
        std::fs::remove_file(unit.join("portcullis-agent.service")).unwrap();
        assert_eq!(said(""), "portcullis-agent up");
    }

    #[test]
    fn the_agents_unit_may_have_internet_sockets_over_networks_and_only_there() {
        let root = tempfile::tempdir().unwrap();
        let fit = |start, over_networks| fit(start, over_networks, root.path());
        let unit = "systemctl start portcullis-agent";
        assert_eq!(fit("portcullis-agent up", true), [""; 0]);
        assert_eq!(fit(unit, false), [""; 0]);
        assert_eq!(fit(unit, true), for_networks());
        let drop_in = root.path().join(NETWORK_DROP_IN.trim_start_matches('/'));
        std::fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
        std::fs::write(&drop_in, "").unwrap();
        assert_eq!(fit(unit, true), [""; 0]);
        assert_eq!(fit(unit, false), [&format!("rm {NETWORK_DROP_IN}"), RELOAD]);
    }
}
