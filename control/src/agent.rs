//! The Workstation's daemon: one way to its Gateway, one worker, one handshake state machine, for ever.

mod fast_path;
mod network;
mod port;
mod requests;
mod start;
mod status;

use crate::api::server::{Options, Server};
use crate::api::socket::Socket;
use crate::asker::Asker;
use crate::config;
use crate::confine::Account;
use crate::enrolment::{Encapsulation, Enrolment};
use crate::handshake::workstation::{Phase, RollbackSign, Traffic, Workstation as Machine};
use crate::handshake::{Action, Parameters, Path as Way, inner_mtu, kdf};
use crate::helper::Helper;
use crate::pool::Pool;
use crate::port::{Notice, Port};
use crate::problem::Problem;
use crate::process::{self, Signal};
use crate::raise;
use crate::rollback::{self, Clocks, Generation};
use crate::systemd::Systemd;
use crate::watch::Hub;
use crate::{entropy, hostif, interfaces, monitor};
use crossbeam::channel::{Receiver, bounded, select};
use dataplane::PortId;
use dataplane::counters::PeerCounters;
use dataplane::link::{LinkEvent, Links};
use dataplane::own::Own;
use dataplane::worker::run::boottime;
use dataplane::worker::{Command, Event};
use ipnet::IpNet;
use network::{Heard, Network};
use port::AgentPort;
use requests::Request;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::Header;
use wire::tables::KnockEntry;
use zeroize::Zeroizing;

/// The least MTU that IPv6 takes (RFC 8200, section 5).
const IPV6_MTU: u16 = 1280;
/// The agent's port on a cable, and its only peer: the Gateway.
const PORT: PortId = 0;
const GATEWAY: u32 = 0;
/// Session slots: one of each kind, and a few being erased.
const SESSION_SLOTS: u32 = 32;
/// How often traffic is looked at, and a missing port looked for.
const ROUND: Duration = Duration::from_millis(100);
/// How often the kill switch is looked at.
const KEEP_CLOSED: Duration = Duration::from_millis(500);
/// Unanswered PINGs after which a socket is opened anew.
const SILENT: usize = 2;
/// How often a host interface that could not be configured is tried again.
const RECONFIGURE: Duration = Duration::from_secs(1);

/// How the Gateway is reached.
enum Reach {
    /// By an interface of the agent's own, which is cabled to it.
    Cable(Box<Port>),
    /// Over whatever networks this machine is in.
    Network(Box<Network>),
}

struct Agent {
    config: config::Agent,
    identity: Enrolment,
    reach: Reach,
    links: Links,
    helper: Arc<Helper>,
    pool: Pool<AgentPort>,
    machine: Machine,
    /// The port's MAC address as the state machine knows it.
    mac: Option<[u8; 6]>,
    /// The nonce that XDP lets answers through with.
    expected: u64,
    counters: Arc<PeerCounters>,
    parameters: Option<Parameters>,
    /// Parameters that could not be given to the host interface, and when that was tried last.
    refused: Option<(Parameters, Instant)>,
    /// Over networks: whether nothing but the tunnel leaves, as last seen.
    closed: bool,
    closed_at: Instant,
    /// Handshakes that were proven when the way over networks was last looked at.
    proven: u64,
    was_connected: bool,
    /// What tells that this machine was put back to a snapshot.
    generation: Option<Generation>,
    clocks: Clocks,
    rollbacks: u64,
    started: Instant,
    retried: Instant,
    /// When the helper was last looked at.
    looked: Instant,
    systemd: Systemd,
    /// Who watches what is dropped.
    hub: Arc<Hub>,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Why it does not start: no identity, no usable interface; or that the host interface has failed.
pub fn run(config: config::Agent, config_path: &Path) -> anyhow::Result<()> {
    process::harden()?;
    let helper = Helper::start(config.log_format)?;
    let caught = process::catch_signals()?;
    let account = Account::find(config.user.as_deref())?;
    let identity = Enrolment::load(&config.state_directory)?;
    let socket = Socket::bind(&config.runtime_directory)?;
    let generations = rollback::Events::open();
    // Threads begin in here, once there are no privileges left.
    let mut agent = Agent::new(config, config_path, identity, helper, account)?;
    let signals = process::signals(caught)?;
    let link_events = monitor::start()?;
    let generations = generations.and_then(|events| events.watch());
    let generations = generations.unwrap_or_else(|problem| {
        tracing::warn!(%problem, "a rollback of this machine to a snapshot may be noticed late: stop the agent before you take one");
        crossbeam::channel::never()
    });
    agent.raise(raise::AT_START)?;
    agent.machine.start(now());
    let (asker, requests) = bounded(16);
    let options = Options::new(&agent.config.state_directory);
    let server = Server::start_agent(socket, Arc::new(Asker(asker)), options)?;
    let workstation = agent.identity.name.as_str();
    match &agent.reach {
        Reach::Cable(port) => tracing::info!(
            interface = port.plan.interface,
            workstation,
            "ready; looking for the Gateway"
        ),
        Reach::Network(_) => tracing::info!(workstation, "ready; looking for the Gateway"),
    }
    agent.systemd.ready();
    let outcome = agent.serve(&requests, &link_events, &generations, &signals);
    server.stop();
    agent.pool.stop();
    Ok(outcome?)
}

/// Lets this machine's packets leave again, whatever its enrolment is now: it may have been another when a kill
/// switch was put up.
///
/// # Errors
/// What the kernel answered.
pub fn open_up() -> Result<(), Problem> {
    let tried = "letting this machine's packets leave again";
    Links::open()
        .and_then(|links| links.lower_kill_switch())
        .map_err(|error| monitor::problem(tried, error))
}

/// Takes down what an agent that is no longer running has left: the kill switch, the wall and the host interface.
///
/// # Errors
/// What is left standing, and why.
pub fn down(config: config::Agent, config_path: &Path) -> anyhow::Result<()> {
    // Nobody starts an agent meanwhile.
    let _socket = Socket::bind(&config.runtime_directory)?;
    let identity = Enrolment::load(&config.state_directory)?;
    open_up()?;
    if let Encapsulation::Ether { .. } = identity.encapsulation {
        let interface = interface(&config, config_path, &identity)?;
        raise::lower(&interface, &config.pin_directory, false)?;
    }
    hostif::delete(&config.host_interface)?;
    Ok(())
}

/// The interface that is cabled to the Gateway: the configured one, else the one named at
/// enrolment, else the only wired one.
///
/// # Errors
/// None is named, and there is none or there are several.
pub fn interface(
    config: &config::Agent,
    config_path: &Path,
    enrolment: &Enrolment,
) -> Result<String, Problem> {
    match config.interface.as_ref().or(enrolment.interface.as_ref()) {
        Some(interface) => Ok(interface.clone()),
        None => Ok(interfaces::only_wired(&interfaces::list()?, config_path)?.to_owned()),
    }
}

impl Agent {
    fn raise(&mut self, patience: Duration) -> Result<(), Problem> {
        let key_id = self.identity.key_id.get();
        let knock = KnockEntry {
            key: kdf::knock_keys(self.identity.psk.as_bytes()).g2w,
            workstation: GATEWAY,
            ..KnockEntry::default()
        };
        let port = match &mut self.reach {
            Reach::Cable(port) => port,
            Reach::Network(network) => {
                network
                    .admit(key_id, &knock)
                    .map_err(|error| Problem::io("letting the Gateway's answers in", &error))?;
                if !self.config.kill_switch {
                    // One that was configured before goes.
                    self.helper.kill_switch()?;
                }
                self.close_up()?;
                if let Reach::Network(network) = &mut self.reach {
                    network.begin_fast_path(&self.helper);
                }
                self.look_at_network();
                return Ok(());
            }
        };
        let expected = self.expected;
        port.raise(&self.links, &self.pool, patience, |tables, ring_frames| {
            tables.set_expected_nonce(expected);
            tables.set_limit(GATEWAY, ring_frames);
            tables.install_knock(key_id, &knock)
        })?;
        // Nobody but the Gateway sends to it.
        port.thread_napi(1);
        if let Some(up) = &port.up {
            let mtu = inner_mtu(up.mtu, &Way::Ether(up.mac));
            self.machine.mtu_changed(now(), mtu);
            if self.mac.replace(up.mac).is_some_and(|old| old != up.mac) {
                self.machine.mac_changed(now(), up.mac);
            }
        }
        Ok(())
    }

    /// Over networks: sees to it that nothing leaves but the tunnel.
    fn close_up(&mut self) -> Result<(), Problem> {
        if matches!(self.reach, Reach::Network(_)) && self.config.kill_switch {
            let changed = self.helper.kill_switch()?;
            if changed && self.closed {
                tracing::warn!(
                    "somebody had changed what keeps all but the tunnel from leaving this machine; it is put right"
                );
            }
            self.closed = true;
        }
        Ok(())
    }

    /// Opens the sockets that are to be open, and closes those that are not.
    fn look_at_network(&mut self) {
        let Reach::Network(network) = &mut self.reach else {
            return;
        };
        let status = self.machine.status(now());
        let unanswered = self.machine.unanswered();
        network.look_at_addresses(&self.links, &self.config.host_interface);
        if !status.connected || status.unresponsive {
            network.unsettle();
            self.proven = status.handshakes.0;
        } else if status.handshakes.0 != self.proven || network.remote().is_none() {
            self.proven = status.handshakes.0;
            network.settle(self.machine.port(), &self.pool);
        }
        let heard = match status.phase {
            Phase::Init | Phase::Proving => Heard::Answer,
            _ if unanswered >= SILENT => Heard::Nothing,
            _ => Heard::Usual,
        };
        let opened = network.look(&self.helper, &self.pool, heard);
        network.look_at_fast_path(&self.links, &self.helper, &self.pool, heard);
        if let Some(mtu) = network.mtu() {
            self.machine.mtu_changed(now(), mtu);
        }
        if opened {
            // A Hello leaves at once, or a PING, by which the Gateway learns of the new address.
            self.machine.carrier(now(), true);
            self.machine.path_changed(now());
        }
    }

    fn serve(
        &mut self,
        requests: &Receiver<Request>,
        links: &Receiver<LinkEvent>,
        generations: &Receiver<()>,
        signals: &Receiver<Signal>,
    ) -> Result<(), Problem> {
        let events = self.pool.events.clone();
        loop {
            self.carry_out();
            let due = self
                .machine
                .next_deadline()
                .map(|at| at.saturating_sub(now()));
            let wait = due.unwrap_or(ROUND).clamp(Duration::from_millis(1), ROUND);
            select! {
                recv(events) -> event => match event {
                    Ok(Event::HostFailed(error)) => {
                        return Err(hostif::failed(&self.config.host_interface, error));
                    }
                    Ok(event) => self.event(event),
                    Err(_) => return Ok(()),
                },
                recv(requests) -> request => match request {
                    Ok(Request::Status(answer)) => drop(answer.send(self.status())),
                    Ok(Request::Down(answer)) => {
                        let down = self.down();
                        drop(answer.send(down.clone()));
                        return down;
                    }
                    Ok(Request::Explain(request, answer)) => {
                        drop(answer.send(self.explain(&request)));
                    }
                    Ok(Request::Watch(request, answer)) => {
                        drop(answer.send(self.watch(&request)));
                    }
                    Err(_) => {}
                },
                recv(links) -> event => if let Ok(event) = event { self.link_event(&event) },
                recv(generations) -> event => if event.is_ok() {
                    self.rolled_back(RollbackSign::Hint, "the kernel says that the machine's generation has changed");
                },
                recv(signals) -> signal => match signal {
                    Ok(Signal::Rekey) => self.rekey(),
                    Ok(Signal::Reload) => tracing::info!("an agent has nothing to reload; restart it to apply its configuration"),
                    Ok(Signal::Stop) | Err(_) => {
                        tracing::info!("stopping; wall and kill switch stay as they are");
                        return Ok(());
                    }
                },
                default(wait) => {},
            }
            if self.looked.elapsed() >= ROUND {
                self.looked = Instant::now();
                if self.helper.is_gone() {
                    return Err(Helper::lost());
                }
                self.keep_closed();
            }
            self.look_for_rollback();
            self.look_at_traffic();
            self.mix();
            self.systemd.look(&self.pool);
            self.machine.tick(now());
            self.retry_port();
            self.look_at_network();
            self.show_port();
            self.retry_configure();
            self.report();
        }
    }

    /// A counter that has changed is proof: all keys and handshakes are dropped, and only then the
    /// worker takes keys again.
    fn look_at_generation(&mut self) {
        if let Some(value) = self.generation.as_mut().and_then(Generation::changed) {
            self.rolled_back(
                RollbackSign::Generation,
                "the generation counter has changed",
            );
            self.carry_out();
            self.pool.give(0, Command::Generation(value));
        }
    }

    fn look_for_rollback(&mut self) {
        self.look_at_generation();
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        if self.clocks.jumped(wall, now()) {
            self.rolled_back(RollbackSign::Hint, "the clocks have moved apart");
        }
    }

    fn rolled_back(&mut self, sign: RollbackSign, why: &str) {
        let entropy = Zeroizing::new(entropy::seed().unwrap_or_default());
        if self.machine.rollback_suspected(now(), sign, &*entropy) {
            self.rollbacks += 1;
            tracing::warn!(
                why,
                "this machine may have been put back to a snapshot; all keys were dropped"
            );
        }
    }

    /// Looks whether the kill switch stands.
    fn keep_closed(&mut self) {
        if self.closed_at.elapsed() < KEEP_CLOSED {
            return;
        }
        self.closed_at = Instant::now();
        if let Err(problem) = self.close_up() {
            tracing::error!(%problem, remedy = problem.remedy, "what keeps all but the tunnel from leaving this machine may not stand");
        }
    }

    fn mix(&mut self) {
        if let Ok(seed) = entropy::seed() {
            self.machine.mix(&seed);
        }
    }

    fn event(&mut self, event: Event) {
        // No state of a handshake from before a snapshot is used after it.
        self.look_at_generation();
        self.mix();
        match event {
            Event::Handshake {
                port,
                source,
                frame,
                ..
            } => self.machine.frame_by(now(), port, source, &frame),
            Event::Inner { index, message, .. } => self.machine.inner(now(), index, &message),
            Event::Confirmed { index, .. } => self.machine.confirmed(now(), index),
            Event::Erased(index) => self.machine.erased(now(), index),
            Event::Worn { index, .. } => self.machine.limit_near(now(), index),
            Event::NonceReused { index, counter, .. } => {
                tracing::error!(
                    counter,
                    remedy = "at the Gateway: portcullis workstation set NAME --cipher aes-256-gcm-siv, for every Workstation",
                    "the Gateway has sealed two frames with one nonce: it was rolled back to a snapshot, or is a clone; making another session"
                );
                self.machine.seal_limit(now(), index);
            }
            Event::Exhausted { index, .. } => {
                tracing::warn!("a session may seal no more and ends; making another");
                self.machine.seal_limit(now(), index);
            }
            Event::PortFailed { port: id, error } => match &mut self.reach {
                Reach::Cable(port) => {
                    // This may be of rings that were replaced meanwhile: those there are now are closed
                    // too, or no others could be opened.
                    port.lose(&self.pool, &error.to_string());
                    self.machine.carrier(now(), false);
                }
                Reach::Network(network) => {
                    tracing::info!(%error, "a socket is of no more use; another is opened");
                    network.failed(id);
                }
            },
            // The loop ends on the last of these; the one before it was looked at above.
            Event::Installed(_)
            | Event::RolledBack
            | Event::Roamed { .. }
            | Event::PortRemoved(_)
            | Event::PeerRemoved(_)
            | Event::HostFailed(_) => {}
        }
    }

    fn carry_out(&mut self) {
        let actions: Vec<Action> = self.machine.actions().collect();
        for action in actions {
            match action {
                Action::Send {
                    port,
                    destination,
                    frame,
                } => {
                    // A Hello goes wherever the Gateway may be.
                    let ports: Vec<PortId> = match &self.reach {
                        Reach::Network(network) if is_hello(&frame) => network.ports().collect(),
                        _ => vec![port],
                    };
                    for port in ports {
                        let frame = frame.clone();
                        let send = Command::Send {
                            port,
                            destination,
                            frame,
                        };
                        self.pool.give(0, send);
                    }
                }
                Action::SendInner { index, message, .. } => {
                    self.pool.give(0, Command::SendInner { index, message });
                }
                Action::Install(mut install) => {
                    install.workstation = GATEWAY;
                    self.pool.give(0, Command::Install(install));
                }
                Action::Erase { index, .. } => self.pool.give(0, Command::Erase(index)),
                Action::ExpectNonce(nonce) => {
                    self.expected = nonce;
                    match &self.reach {
                        Reach::Cable(port) => {
                            if let Some(up) = &port.up {
                                up.tables.set_expected_nonce(nonce);
                            }
                        }
                        Reach::Network(network) => network.expect_nonce(nonce),
                    }
                }
                Action::Configure(parameters) => self.configure(*parameters),
            }
        }
    }

    /// Gives the host interface what the Gateway assigned. What is there already is not touched.
    fn configure(&mut self, parameters: Parameters) {
        let tried_before = self.refused.take().is_some();
        if self.parameters.as_ref() == Some(&parameters) {
            return;
        }
        let own = Own::new(&addresses(&parameters));
        self.pool.give(0, Command::SetOwn(own));
        match self.helper.host(parameters.mtu, addresses(&parameters)) {
            Ok(()) => {
                tracing::info!(addresses = ?addresses(&parameters), mtu = parameters.mtu, "the host interface is configured");
                self.parameters = Some(parameters);
            }
            Err(error) => {
                if !tried_before {
                    tracing::error!(%error, interface = self.config.host_interface, "the host interface could not be configured; it is tried again every second");
                }
                self.parameters = None;
                self.refused = Some((parameters, Instant::now()));
            }
        }
    }

    fn retry_configure(&mut self) {
        if let Some((parameters, at)) = &self.refused
            && at.elapsed() >= RECONFIGURE
        {
            self.configure(parameters.clone());
        }
    }

    fn rekey(&mut self) {
        match self.machine.status(now()).index {
            Some(index) => {
                self.mix();
                self.machine.limit_near(now(), index);
            }
            None => tracing::info!("there is no session to rekey"),
        }
    }

    fn look_at_traffic(&mut self) {
        self.machine.traffic(
            now(),
            Traffic {
                sent: self.counters.tx_packets.get(),
                received: self.counters.opened.get(),
            },
        );
    }

    fn link_event(&mut self, event: &LinkEvent) {
        let port = match &mut self.reach {
            Reach::Cable(port) => port,
            // It looks for itself.
            Reach::Network(_) => return,
        };
        if !port.concerns(event) {
            return;
        }
        if let Ok(seed) = entropy::seed() {
            self.machine.mix(&seed);
        }
        match port.notice(event, &self.links, &self.pool) {
            Notice::None => {}
            Notice::Carrier(up) => self.machine.carrier(now(), up),
            Notice::Lost => self.machine.carrier(now(), false),
            Notice::Raise => {
                self.machine.carrier(now(), false);
                self.raise_again();
            }
        }
    }

    fn raise_again(&mut self) {
        match self.raise(raise::AGAIN) {
            Ok(()) => self.machine.carrier(now(), true),
            Err(problem) => {
                if let Reach::Cable(port) = &mut self.reach {
                    port.stays_down(&problem);
                }
            }
        }
    }

    fn retry_port(&mut self) {
        let Reach::Cable(port) = &self.reach else {
            return;
        };
        if port.up.is_some() || self.retried.elapsed() < ROUND {
            return;
        }
        self.retried = Instant::now();
        if self.links.find(&port.plan.interface).is_ok() {
            self.raise_again();
        }
    }

    /// Takes everything down on purpose. A port is an ordinary interface again, and set down.
    fn down(&mut self) -> Result<(), Problem> {
        self.pool.give(0, Command::RemovePeer(GATEWAY));
        self.pool.give(0, Command::Stop);
        if let Reach::Cable(port) = &mut self.reach {
            port.up = None;
        }
        self.helper.lower()
    }
}

fn is_hello(frame: &[u8]) -> bool {
    Header::decode(frame).is_ok_and(|header| header.kind == wire::kind::HELLO)
}

fn now() -> Duration {
    Duration::from_nanos(boottime())
}

fn addresses(parameters: &Parameters) -> Vec<IpNet> {
    let v4 = parameters
        .v4
        .and_then(|(address, len)| IpNet::new(address.into(), len).ok());
    let v6 = parameters
        .v6
        .filter(|_| parameters.mtu >= IPV6_MTU)
        .and_then(|(address, len)| IpNet::new(address.into(), len).ok());
    v4.into_iter().chain(v6).collect()
}
