//! The programs of Portcullis on hosts of the rig: the Gateway with `portcullisd` and the CLI, and a
//! Workstation with `portcullis-agent`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::guard::{Scratch, wait_for};
use super::namespace::{Namespace, run};
use super::process::Process;
use super::traffic::ping;
use super::{GATEWAY_V4, HOST_INTERFACE};

/// The variable by which a debug build can be told to use keys less long.
const KEY_LIFETIME: &str = "PORTCULLIS_KEY_LIFETIME";
/// How long a program may take to start, on a busy machine.
const START: Duration = Duration::from_secs(20);

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Those built in the same profile as the program that runs (a test's own directory is `deps`).
    ///
    /// # Errors
    /// A sentence that says what to build.
    pub fn find() -> Result<Self> {
        let this = std::env::current_exe().context("finding the running program")?;
        let directory = this
            .ancestors()
            .skip(1)
            .find(|path| !path.ends_with("deps"))
            .context("the running program has no directory")?
            .to_owned();
        let programs = Self { directory };
        for name in ["portcullisd", "portcullis", "portcullis-agent"] {
            let path = programs.path(name);
            ensure!(
                path.is_file(),
                "{} is not there: build the programs with `cargo build --workspace` first, in the \
                 same profile",
                path.display()
            );
        }
        Ok(programs)
    }

    /// The path of a program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The answer of `portcullis show --json` at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The document.
    pub value: Value,
}

impl Snapshot {
    /// The verdict counters of a port.
    pub fn verdicts(&self, interface: &str) -> BTreeMap<String, u64> {
        let port = self.find("ports", "interface", interface);
        port.map(|port| counters(&port["verdicts"]))
            .unwrap_or_default()
    }

    /// A Workstation's entry.
    pub fn workstation(&self, name: &str) -> Option<&Value> {
        self.find("workstations", "name", name)
    }

    /// Frames of a port's kernel that the egress guard has dropped.
    pub fn guard_drops(&self, interface: &str) -> u64 {
        let port = self.find("ports", "interface", interface);
        port.and_then(|port| port["guard_drops"].as_u64())
            .unwrap_or(0)
    }

    /// A number of a Workstation's entry, or of its drops; 0 when it is in neither.
    pub fn number(&self, workstation: &str, field: &str) -> u64 {
        let entry = self.workstation(workstation);
        entry
            .and_then(|entry| entry[field].as_u64().or(entry["drops"][field].as_u64()))
            .unwrap_or(0)
    }

    /// A Workstation's drops by reason.
    pub fn drops(&self, workstation: &str) -> BTreeMap<String, u64> {
        let entry = self.workstation(workstation);
        entry
            .map(|entry| counters(&entry["drops"]))
            .unwrap_or_default()
    }

    /// Whether a Workstation is in session.
    pub fn in_session(&self, workstation: &str) -> bool {
        let entry = self.workstation(workstation);
        entry.is_some_and(|entry| entry["session"].is_object())
    }

    /// The names of the Workstations.
    pub fn names(&self) -> Vec<String> {
        let all = self.value["workstations"].as_array();
        all.into_iter()
            .flatten()
            .filter_map(|entry| entry["name"].as_str().map(str::to_owned))
            .collect()
    }

    fn find(&self, list: &str, key: &str, wanted: &str) -> Option<&Value> {
        let all = self.value[list].as_array()?;
        all.iter().find(|entry| entry[key] == wanted)
    }
}

/// The counters of a status, by name.
pub fn counters(value: &Value) -> BTreeMap<String, u64> {
    let map = value.as_object().into_iter().flatten();
    map.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
        .collect()
}

/// The Gateway of a topology.
#[derive(Debug)]
pub struct Gateway {
    process: Option<Process>,
    environment: Vec<(String, String)>,
    namespace: Arc<Namespace>,
    programs: Programs,
    scratch: Scratch,
}

impl Gateway {
    /// Writes the configuration of a Gateway with these ports; starts nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(programs: &Programs, namespace: Arc<Namespace>, ports: &[&str]) -> Result<Self> {
        let gateway = Self {
            process: None,
            environment: Vec::new(),
            namespace,
            programs: programs.clone(),
            scratch: Scratch::new("gw")?,
        };
        gateway.configure(&gateway.configuration(ports))?;
        Ok(gateway)
    }

    /// The text of a configuration with these ports.
    pub fn configuration(&self, ports: &[&str]) -> String {
        let directory = self.scratch.path().display();
        let mut text = format!(
            "state_directory = \"{directory}/state\"\n\
             runtime_directory = \"{directory}/run\"\n\
             pin_directory = \"{}\"\n\
             max_workstations = 128\n\
             [host]\n\
             interface = \"{HOST_INTERFACE}\"\n\
             addresses = [\"{GATEWAY_V4}/18\", \"{}/64\"]\n",
            self.scratch.pins().display(),
            super::GATEWAY_V6,
        );
        for port in ports {
            let _ = write!(text, "[[port]]\ninterface = \"{port}\"\n");
        }
        text
    }

    /// Replaces the configuration; a running daemon does not notice.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.config();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("gw.toml")
    }

    /// Where state, sockets and logs are.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the programs pin.
    pub fn pins(&self) -> &Path {
        self.scratch.pins()
    }

    /// Leaves directory and logs in place at the end.
    pub fn keep(&mut self) {
        self.scratch.keep();
    }

    /// Its host.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The command that runs the daemon in the foreground.
    pub fn daemon(&self) -> Command {
        let mut command = self.namespace.command(self.programs.path("portcullisd"));
        command.arg("--config").arg(self.config());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Has the daemon, from its next start on, fail to serve this Workstation. A release build does not
    /// listen to it.
    pub fn fail_to_serve(&mut self, workstation: &str) {
        self.set_environment("PORTCULLIS_FAILS_TO_SERVE", workstation);
    }

    /// Sets a variable of the daemon's environment, from its next start on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Has the daemon, from its next start on, use keys less long: `BLOCKS,REKEY,REJECT`, the latter in
    /// milliseconds. A release build does not listen to it.
    pub fn shorten_keys(&mut self, lifetime: &str) {
        self.set_environment(KEY_LIFETIME, lifetime);
    }

    /// Starts the daemon and does not wait until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(
            self.process.as_mut().is_none_or(|p| p.exited().is_some()),
            "portcullisd runs already"
        );
        let log = self.scratch.path().join("portcullisd.log");
        self.process = Some(Process::start("portcullisd", self.daemon(), &log)?);
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let mut ended = None;
        let ready = wait_for("portcullisd to answer `portcullis show`", START, || {
            ended = self.process.as_mut().and_then(Process::exited);
            (ended.is_some() || self.show().is_ok()).then_some(())
        });
        if let Some(status) = ended {
            bail!(
                "portcullisd ended at start ({status}):\n{}",
                self.log_tail()
            );
        }
        ready.map_err(|error| anyhow!("{error:#}; the end of its log:\n{}", self.log_tail()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks the daemon to end and waits until it has.
    ///
    /// # Errors
    /// When it does not within 20 seconds.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(START)?;
        }
        Ok(())
    }

    /// The daemon, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, |process| process.log_tail(15))
    }

    /// Runs the CLI with `arguments`, split at blanks, and gives what it wrote.
    ///
    /// # Errors
    /// What the CLI wrote to stderr.
    pub fn cli(&self, arguments: &str) -> Result<String> {
        let mut command = self.namespace.command(self.programs.path("portcullis"));
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments.split_whitespace());
        run(&mut command)
    }

    /// `portcullis show --json`.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn show(&self) -> Result<Snapshot> {
        let text = self.cli("show --json")?;
        let value = serde_json::from_str(&text).context("output of portcullis show --json")?;
        Ok(Snapshot { value })
    }

    /// Adds a Workstation that may reach everything on the Gateway, and gives the path of its
    /// enrolment file.
    ///
    /// # Errors
    /// What the CLI wrote to stderr.
    pub fn add(&self, name: &str) -> Result<PathBuf> {
        let file = self.scratch.path().join(format!("{name}.enrolment"));
        self.cli(&format!(
            "workstation add {name} --allow any --output {}",
            file.display()
        ))?;
        Ok(file)
    }

    /// Removes a Workstation; returns when its session has ended.
    ///
    /// # Errors
    /// What the CLI wrote to stderr.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.cli(&format!("workstation remove {name}")).map(drop)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Before the scratch directory goes, whose pins it holds open.
        self.kill();
    }
}

/// A Workstation of a topology.
#[derive(Debug)]
pub struct Workstation {
    process: Option<Process>,
    environment: Vec<(String, String)>,
    namespace: Arc<Namespace>,
    programs: Programs,
    interface: String,
    scratch: Scratch,
    resolv_conf: Option<PathBuf>,
}

impl Workstation {
    /// Writes the agent's configuration; starts nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(programs: &Programs, namespace: Arc<Namespace>, interface: &str) -> Result<Self> {
        let scratch = Scratch::new(namespace.label())?;
        let workstation = Self {
            process: None,
            environment: Vec::new(),
            namespace,
            programs: programs.clone(),
            interface: interface.to_owned(),
            scratch,
            resolv_conf: None,
        };
        workstation.configure(&workstation.configuration())?;
        Ok(workstation)
    }

    /// The text of the agent's configuration.
    pub fn configuration(&self) -> String {
        let directory = self.scratch.path().display();
        format!(
            "interface = \"{}\"\n\
             state_directory = \"{directory}/state\"\n\
             runtime_directory = \"{directory}/run\"\n\
             pin_directory = \"{}\"\n\
             virtualised = false\n\
             [host]\n\
             interface = \"{HOST_INTERFACE}\"\n",
            self.interface,
            self.scratch.pins().display(),
        )
    }

    /// Replaces the configuration; a running agent does not notice.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.config();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("agent.toml")
    }

    /// Where state, sockets and logs are.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the agent pins.
    pub fn pins(&self) -> &Path {
        self.scratch.pins()
    }

    /// Leaves directory and logs in place at the end.
    pub fn keep(&mut self) {
        self.scratch.keep();
    }

    /// Its host.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The name it is enrolled under: its host's.
    pub fn name(&self) -> &str {
        self.namespace.label()
    }

    /// The interface that is cabled to the Gateway.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// An agent command in its host: `--config FILE` and `arguments`, split at blanks.
    pub fn agent(&self, arguments: &str) -> Command {
        let program = self.programs.path("portcullis-agent");
        let mut command = match &self.resolv_conf {
            None => self.namespace.command(program),
            Some(path) => {
                let mut command = self.namespace.command("unshare");
                let mount = format!(
                    "mount --bind {} /etc/resolv.conf && exec \"$@\"",
                    path.display()
                );
                command
                    .args(["--mount", "sh", "-c", &mount, "sh"])
                    .arg(program);
                command
            }
        };
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments.split_whitespace());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Has the agent, from its next start on, see a resolv.conf(5) that names this name server.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn name_server(&mut self, address: Ipv4Addr) -> Result<()> {
        let path = self.scratch.path().join("resolv.conf");
        fs::write(&path, format!("nameserver {address}\n"))?;
        self.resolv_conf = Some(path);
        Ok(())
    }

    /// As [`Gateway::set_environment`].
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// As [`Gateway::shorten_keys`].
    pub fn shorten_keys(&mut self, lifetime: &str) {
        self.set_environment(KEY_LIFETIME, lifetime);
    }

    /// Enrols it with a file from [`Gateway::add`].
    ///
    /// # Errors
    /// What the agent wrote to stderr.
    pub fn enroll(&self, file: &Path) -> Result<()> {
        run(self.agent("enroll").arg(file)).map(drop)
    }

    /// Starts the agent and does not wait for a session.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(
            self.process.as_mut().is_none_or(|p| p.exited().is_some()),
            "the agent of {} runs already",
            self.name()
        );
        let log = self.scratch.path().join("agent.log");
        let name = format!("portcullis-agent of {}", self.name());
        self.process = Some(Process::start(&name, self.agent("up"), &log)?);
        Ok(())
    }

    /// Starts the agent and waits until the Gateway answers through the tunnel.
    ///
    /// # Errors
    /// When it does not, with the end of the agent's log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_connected(START)
    }

    /// Waits until the Gateway answers through the tunnel.
    ///
    /// # Errors
    /// When it does not within `timeout`, with the end of the agent's log.
    pub fn wait_connected(&mut self, timeout: Duration) -> Result<()> {
        let what = format!("{} to reach the Gateway through the tunnel", self.name());
        let mut ended = None;
        let connected = wait_for(&what, timeout, || {
            ended = self.process.as_mut().and_then(Process::exited);
            (ended.is_some() || self.reaches(Duration::from_millis(100))).then_some(())
        });
        if let Some(status) = ended {
            bail!(
                "the agent of {} ended ({status}):\n{}",
                self.name(),
                self.log_tail()
            );
        }
        connected.map_err(|error| {
            anyhow!(
                "{error:#}; the end of the agent's log:\n{}",
                self.log_tail()
            )
        })
    }

    /// Whether the Gateway answers one ping through the tunnel within `timeout`.
    pub fn reaches(&self, timeout: Duration) -> bool {
        ping(&self.namespace, GATEWAY_V4.into(), [32], timeout).is_ok_and(|ping| ping.answered == 1)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks the agent to end and waits until it has.
    ///
    /// # Errors
    /// When it does not within 20 seconds.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(START)?;
        }
        Ok(())
    }

    /// The agent, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The end of the agent's log.
    pub fn log_tail(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, |process| process.log_tail(15))
    }

    /// `portcullis-agent show --json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        let text = run(&mut self.agent("show --json"))?;
        serde_json::from_str(&text).context("output of portcullis-agent show --json")
    }

    /// Rekeys of the running agent so far.
    ///
    /// # Errors
    /// When the agent does not answer, or does not say.
    pub fn rekeys(&self) -> Result<u64> {
        let status = self.status()?;
        status["rekeys"]
            .as_u64()
            .context("no `rekeys` in the agent's status")
    }

    /// Has the agent rekey now (SIGUSR1), and waits until it has.
    ///
    /// # Errors
    /// When it does not within five seconds.
    pub fn rekey(&mut self) -> Result<()> {
        let before = self.rekeys()?;
        let process = self.process.as_mut().context("the agent does not run")?;
        process.signal(Signal::SIGUSR1)?;
        let what = format!("a rekey of {}", self.name());
        wait_for(&what, Duration::from_secs(5), || {
            self.rekeys().is_ok_and(|now| now > before).then_some(())
        })
    }

    /// Its inner IPv4 address, as the agent has set it.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let text = self
            .namespace
            .ip(&format!("-j -4 addr show dev {HOST_INTERFACE}"))?;
        let value: Value = serde_json::from_str(&text).context("output of ip -j addr")?;
        let address = value[0]["addr_info"][0]["local"].as_str();
        match address.and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(IpAddr::V4(address)) => Ok(address),
            _ => bail!("{} has no inner IPv4 address", self.name()),
        }
    }

    /// The MTU of its tunnel.
    ///
    /// # Errors
    /// When there is no tunnel interface.
    pub fn tunnel_mtu(&self) -> Result<usize> {
        let text = self
            .namespace
            .ip(&format!("-j link show dev {HOST_INTERFACE}"))?;
        let value: Value = serde_json::from_str(&text).context("output of ip -j link")?;
        value[0]["mtu"]
            .as_u64()
            .map(|mtu| mtu as usize)
            .context("no MTU")
    }
}

impl Drop for Workstation {
    fn drop(&mut self) {
        self.kill();
    }
}
