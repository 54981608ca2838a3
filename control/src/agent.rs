//! The Workstation's daemon: one way to its Gateway, one worker, one handshake state machine, for ever.

mod network;
mod port;

use crate::api::server::{Options, Server};
use crate::api::socket::Socket;
use crate::api::{self, AgentControl, AgentStatus, SessionStatus, mac_text};
use crate::asker::Asker;
use crate::choices::{MacAddress, Virtualised};
use crate::config::{self, Cores};
use crate::confine::{self, Account, Paths};
use crate::encapsulation;
use crate::enrolment::{Encapsulation, Enrolment};
use crate::entropy;
use crate::explain::{self, Explain, Explained, Gate};
use crate::files;
use crate::handshake::workstation::{
    Phase, RollbackSign, Status, Traffic, Workstation as Machine, WorkstationConfig,
};
use crate::handshake::{Action, Parameters, Path as Way, inner_mtu, kdf};
use crate::helper::{Helper, KeylessScope, NetworkScope, PortHelp, Scope, Unscoped};
use crate::hostif;
use crate::interfaces;
use crate::layout;
use crate::monitor;
use crate::pool::{Pool, Settings};
use crate::port::{Notice, Port};
use crate::problem::Problem;
use crate::process::{self, Signal};
use crate::raise::{self, Plan};
use crate::resolve;
use crate::rollback::{self, Clocks, Generation};
use crate::systemd::Systemd;
use crate::watch::{self, Hub, Stream, Watch};
use crossbeam::channel::{Receiver, Sender, bounded, select};
use dataplane::PortId;
use dataplane::counters::PeerCounters;
use dataplane::keys::{Cipher, Protection};
use dataplane::link::{LinkEvent, Links};
use dataplane::own::Own;
use dataplane::tap::Tap;
use dataplane::worker::crew::Sizes;
use dataplane::worker::run::boottime;
use dataplane::worker::{Command, Event, PeerSetup};
use ipnet::IpNet;
use network::{Heard, Network};
use port::AgentPort;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::limits::BROADCAST;
use wire::tables::KnockEntry;
use wire::{Header, Role};
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
/// The MTU of an interface that is not known yet.
const ETHERNET_MTU: u32 = 1500;
/// How often the kill switch is looked at.
const KEEP_CLOSED: Duration = Duration::from_millis(500);
/// Unanswered PINGs after which a socket is opened anew.
const SILENT: usize = 2;
/// How often a host interface that could not be configured is tried again.
const RECONFIGURE: Duration = Duration::from_secs(1);

enum Request {
    Status(Sender<AgentStatus>),
    Down(Sender<Result<(), Problem>>),
    Explain(Explain, Sender<Result<Vec<Explained>, Problem>>),
    Watch(Watch, Sender<Result<Stream, Problem>>),
}

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
    fn new(
        config: config::Agent,
        config_path: &Path,
        identity: Enrolment,
        helper: Unscoped,
        account: Option<Account>,
    ) -> Result<Self, Problem> {
        let links =
            Links::open().map_err(|error| monitor::problem("looking at the interfaces", error))?;
        let wanted = match &identity.encapsulation {
            Encapsulation::Ether { ethertype } => {
                let interface = interface(&config, config_path, &identity)?;
                Wanted::Cable(plan(&config, interface, *ethertype)?)
            }
            Encapsulation::Udp { endpoints } => Wanted::Network(
                config
                    .endpoints
                    .clone()
                    .unwrap_or_else(|| endpoints.clone()),
            ),
        };
        let helper = Arc::new(helper.begin(scope(&config, &identity, &wanted))?);
        let (reach, mac, mtu, shape, watched) = match wanted {
            Wanted::Cable(plan) => {
                let help = PortHelp::new(&helper, 0);
                help.check()?;
                let link = links
                    .find(&plan.interface)
                    .map_err(|error| monitor::problem("looking at the port", error))?;
                let mac = plan.mac.or(link.mac).unwrap_or_default();
                let mtu = inner_mtu(link.mtu, &Way::Ether(mac));
                let shape = layout::shape(&plan.interface, &plan.rings);
                let watched = vec![plan.interface.clone()];
                let port = Port::new(PORT, vec![0], plan, help);
                (Reach::Cable(Box::new(port)), mac, mtu, Some(shape), watched)
            }
            Wanted::Network(endpoints) => {
                let network = Network::new(endpoints)?;
                let watched = vec![network.name(); network::MOST];
                let reach = Reach::Network(Box::new(network));
                let mtu = inner_mtu(ETHERNET_MTU, &Way::Socket);
                (reach, [0; 6], mtu, None, watched)
            }
        };
        // Addresses come with the first session; those of a former one stay until then, so that
        // what is bound to them survives a restart.
        let kept = links
            .find(&config.host_interface)
            .map(|link| link.addresses)
            .unwrap_or_default();
        let queues = hostif::open(&links, &config.host_interface, 1, &kept)?;
        let cores = match config.core {
            Some(core) => Cores::These(vec![core]),
            None => Cores::Off,
        };
        let shapes: Vec<_> = shape.into_iter().collect();
        let layout = layout::plan(&layout::Machine::look()?, Some(1), &cores, &shapes)?;
        let lifetime = process::key_lifetime()?;
        let tap = Arc::<Tap>::default();
        let hub = Arc::<Hub>::default();
        hub.set_workers(Arc::clone(&tap), watched);
        let settings = Settings {
            tap,
            role: Role::Workstation,
            engine: config.engine,
            cores: layout.workers,
            spin: config.spin,
            lifetime,
            sizes: Sizes {
                frames: 0,
                ports: network::MOST,
                sessions: SESSION_SLOTS as usize,
                workstations: 1,
            },
        };
        let virtualised = match config.virtualised {
            Virtualised::Yes => true,
            Virtualised::No => false,
            Virtualised::Auto => is_virtual_machine(),
        };
        let mapped = match &config.vm_generation {
            Some(path) => Some(Generation::open(path)?),
            None => None,
        };
        let systemd = Systemd::from_environment();
        confine::daemon(
            account,
            &Paths {
                read: [files::directory_of(config_path)]
                    .into_iter()
                    .chain(resolver_files(&reach))
                    .collect(),
                write: vec![
                    config.state_directory.clone(),
                    config.runtime_directory.clone(),
                ],
            },
        )?;
        let pool = Pool::start(settings, queues)?;
        let counters: Arc<PeerCounters> = Arc::default();
        let everything = ["0.0.0.0/0", "::/0"]
            .iter()
            .filter_map(|net| net.parse().ok())
            .collect();
        let setup = PeerSetup {
            id: GATEWAY,
            prefixes: everything,
            policy: Arc::default(),
            counters: Arc::clone(&counters),
        };
        pool.give(0, Command::AddPeer(Box::new(setup)));
        // No packet leaves before its address is known.
        pool.give(0, Command::SetOwn(Own::default()));
        let generation = mapped.map(|(generation, mapped)| {
            pool.give(0, Command::Watch(Box::new(mapped), generation.seen()));
            generation
        });
        let mut machine = Machine::new(
            WorkstationConfig {
                static_private: Zeroizing::new(*identity.private_key()?.as_bytes()),
                gateway_public: *identity.gateway_public_key.as_bytes(),
                psk: Zeroizing::new(*identity.psk.as_bytes()),
                key_id: identity.key_id.get(),
                port: PORT,
                gateway: match &reach {
                    Reach::Cable(_) => Way::Ether(BROADCAST),
                    Reach::Network(_) => Way::Socket,
                },
                mac,
                mtu,
                // One that sees its own rollback need not fear it.
                virtualised: virtualised && generation.is_none(),
                ciphers: ciphers(config.minimum_cipher),
                protections: protections(config.minimum_protection),
                seed: Zeroizing::new(entropy::seed()?),
            },
            now(),
        );
        machine.set_lifetime(lifetime);
        Ok(Self {
            config,
            identity,
            mac: matches!(reach, Reach::Cable(_)).then_some(mac),
            reach,
            links,
            helper,
            pool,
            machine,
            expected: 0,
            counters,
            parameters: None,
            refused: None,
            closed: false,
            closed_at: Instant::now(),
            proven: 0,
            was_connected: false,
            generation,
            clocks: Clocks::default(),
            rollbacks: 0,
            started: Instant::now(),
            retried: Instant::now(),
            looked: Instant::now(),
            systemd,
            hub,
        })
    }

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

    /// Says in the log when the tunnel comes and goes.
    fn report(&mut self) {
        let status = self.machine.status(now());
        if status.connected != self.was_connected {
            self.was_connected = status.connected;
            match status.connected {
                true => tracing::info!(gateway = self.gateway(&status), "the tunnel is up"),
                false => tracing::warn!("the tunnel is down; looking for the Gateway"),
            }
        }
    }

    /// The Gateway's address, as far as there is a session.
    fn gateway(&self, status: &Status) -> Option<String> {
        match &self.reach {
            Reach::Cable(_) => status.gateway_mac.map(mac_text),
            Reach::Network(network) => network.remote().map(|remote| remote.to_string()),
        }
    }

    fn status(&mut self) -> AgentStatus {
        let machine: Status = self.machine.status(now());
        let rings = self.pool.ring_statistics().remove(&self.machine.port());
        let gateway = self.gateway(&machine);
        let counters = &self.counters;
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_seconds: self.started.elapsed().as_secs(),
            name: self.identity.name.to_string(),
            key_id: self.identity.key_id.to_string(),
            engine: self.config.engine.resolve().name().to_owned(),
            port: match &self.reach {
                Reach::Cable(port) => port.status(&self.links, rings.as_ref()),
                Reach::Network(network) => network.status(rings.as_ref()),
            },
            state: phase_name(machine.phase).to_owned(),
            gateway: gateway.clone(),
            session: machine.session_age.zip(machine.protected_by).map(
                |(age, (cipher, protection))| SessionStatus {
                    age_seconds: age.as_secs(),
                    cipher: cipher.name().to_owned(),
                    protection: protection.name().to_owned(),
                    peer: gateway.unwrap_or_default(),
                },
            ),
            last_handshake_seconds: machine.last_handshake.map(|at| at.as_secs()),
            addresses: self
                .parameters
                .iter()
                .flat_map(addresses)
                .map(|address| address.to_string())
                .collect(),
            rx: api::Traffic {
                packets: counters.rx_packets.get(),
                bytes: counters.rx_bytes.get(),
            },
            tx: api::Traffic {
                packets: counters.tx_packets.get(),
                bytes: counters.tx_bytes.get(),
            },
            drops: counters
                .drops()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            rekeys: machine.handshakes.1,
            rollbacks: self.rollbacks,
            last_error: machine.last_failure.map(|failure| failure.to_string()),
        }
    }

    /// What the port would do with frames, by its tables as they are now.
    fn explain(&self, request: &Explain) -> Result<Vec<Explained>, Problem> {
        let Reach::Cable(own) = &self.reach else {
            return Err(explain::over_networks());
        };
        let interface = &own.plan.interface;
        let port = explain::Port {
            interface: interface.clone(),
            mac: self.links.find(interface).ok().and_then(|link| link.mac),
            gate: Gate::Tunnel {
                role: Role::Workstation,
                encapsulation: own.plan.encapsulation.admission(),
                tables: own.up.as_ref().map(|up| Arc::clone(&up.tables)),
            },
        };
        explain::answer(&[port], request, |_| Some(self.identity.name.to_string()))
    }

    /// Begins to show somebody what is dropped.
    fn watch(&self, request: &Watch) -> Result<Stream, Problem> {
        self.show_port();
        let names = HashMap::from([(GATEWAY, self.identity.name.to_string())]);
        self.hub.watch(request, names)
    }

    /// Tells those who watch of a port that came or went.
    fn show_port(&self) {
        let Reach::Cable(own) = &self.reach else {
            return;
        };
        let port = own.up.as_ref().map(|up| watch::Port {
            interface: own.plan.interface.clone(),
            samples: up.wall.samples(),
            pins: None,
        });
        if !self.hub.knows(port.iter().map(|port| &port.samples)) {
            self.hub.set_ports(port.into_iter().collect());
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

/// How the Gateway is to be reached.
enum Wanted {
    Cable(Plan),
    Network(Vec<encapsulation::Endpoint>),
}

fn plan(config: &config::Agent, interface: String, ethertype: u16) -> Result<Plan, Problem> {
    Ok(Plan {
        mac: match config.mac_address {
            MacAddress::Keep => None,
            MacAddress::Random => Some(random_mac(&interface)?),
        },
        interface,
        role: Role::Workstation,
        encapsulation: encapsulation::Encapsulation::Ether(ethertype),
        pin_directory: config.pin_directory.clone(),
        rings: config.rings,
        session_slots: SESSION_SLOTS,
        workstation_slots: 1,
    })
}

/// What the helper may touch.
fn scope(config: &config::Agent, identity: &Enrolment, wanted: &Wanted) -> Scope {
    let (ports, network) = match wanted {
        Wanted::Cable(plan) => (vec![plan.clone()], None),
        Wanted::Network(endpoints) => {
            let interface = config.interface.clone().or(identity.interface.clone());
            let network = NetworkScope {
                ports: endpoints.iter().map(|endpoint| endpoint.port).collect(),
                interface,
                routes: config.routes.clone(),
                kill_switch: config.kill_switch,
                lan: config.lan,
            };
            (Vec::new(), Some(network))
        }
    };
    Scope {
        ports,
        host_interface: config.host_interface.clone(),
        // Over networks they are the kill switch's, in a table of their own.
        routes: match &network {
            Some(network) if network.kill_switch => Vec::new(),
            _ => config.routes.clone(),
        },
        network,
        keyless: KeylessScope::default(),
        runtime_directory: config.runtime_directory.clone(),
    }
}

/// What is read to look names up.
fn resolver_files(reach: &Reach) -> impl Iterator<Item = PathBuf> {
    let files: &[&str] = match reach {
        Reach::Cable(_) => &[],
        Reach::Network(_) => &resolve::FILES,
    };
    // Landlock takes what there is. A file that is replaced is another: their directories are read.
    let files = files
        .iter()
        .map(|path| files::directory_of(Path::new(path)));
    files.filter(|path| path.exists())
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

/// The ciphers offered: the minimum and what is stronger. SIV is never weaker.
fn ciphers(minimum: Cipher) -> Vec<Cipher> {
    match minimum {
        Cipher::Aes128Gcm => Cipher::ALL.to_vec(),
        Cipher::Aes256Gcm => vec![Cipher::Aes256Gcm, Cipher::Aes256GcmSiv],
        Cipher::Aes256GcmSiv => vec![Cipher::Aes256GcmSiv],
    }
}

fn protections(minimum: Protection) -> Vec<Protection> {
    match minimum {
        Protection::Encrypt => vec![Protection::Encrypt],
        Protection::Authenticate => vec![Protection::Encrypt, Protection::Authenticate],
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Stopped => "stopped",
        Phase::Idle => "idle",
        Phase::Hello => "hello",
        Phase::Init => "init",
        Phase::Rekey => "rekey",
        Phase::Proving => "proving",
    }
}

/// The interface's MAC address until the next boot.
fn random_mac(interface: &str) -> Result<[u8; 6], Problem> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let boot_id = std::fs::read_to_string(BOOT_ID).map_err(|error| {
        Problem::io(
            format!("reading {BOOT_ID} for a random MAC address"),
            &error,
        )
    })?;
    Ok(raise::mac_of_boot(&boot_id, interface))
}

/// Whether this is a virtual machine, by what the CPU says of a hypervisor.
fn is_virtual_machine() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
    })
}

impl AgentControl for Asker<Request> {
    fn status(&self) -> Result<AgentStatus, Problem> {
        self.ask(Request::Status)
    }

    fn down(&self) -> Result<(), Problem> {
        self.ask(Request::Down)?
    }

    fn explain(&self, request: Explain) -> Result<Vec<Explained>, Problem> {
        self.ask(|answer| Request::Explain(request, answer))?
    }

    fn watch(&self, request: Watch) -> Result<Stream, Problem> {
        self.ask(|answer| Request::Watch(request, answer))?
    }
}
