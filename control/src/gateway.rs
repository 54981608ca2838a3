//! The Gateway daemon: one control thread that owns the registry, the handshakes and the ports, and
//! drives the workers.
//!
//! Everything reaches it over channels: what the workers report, what the control API asks, what
//! happens to the interfaces, signals. It never waits for a worker but to remove a Workstation.

mod diagnosis;
mod guide;
mod homes;
mod keyless;
mod lifecycle;
mod policies;
mod ports;
mod requests;
mod status;
mod watch;

use crate::api::peer::AdminGroup;
use crate::api::server::{Options, Server};
use crate::api::socket::Socket;
use crate::asker::Asker;
use crate::audit::{Audit, By, What};
use crate::choices::CipherChoice;
use crate::config;
use crate::confine::{self, Account, Paths};
use crate::entropy;
use crate::events::{Events, Happening};
use crate::files;
use crate::handshake::gateway::{
    AddError, CipherPolicy, Enrolled, Gateway as Machine, GatewayConfig, SLOTS_EACH,
};
use crate::handshake::{Action, kdf};
use crate::helper::{Helper, KeylessScope, PortHelp, Scope, Unscoped};
use crate::hostif;
use crate::keyring::Keyring;
use crate::layout;
use crate::mailbox::{Letter, Mailboxes};
use crate::monitor;
use crate::pool::{Pool, Settings};
use crate::port::Port;
use crate::problem::{Kind, Problem};
use crate::process::{self, Signal};
use crate::raise;
use crate::registry::{Before, Changes, Registry};
use crate::systemd::Systemd;
use crate::watch::Hub;
use crate::workstation::Workstation;
use crossbeam::channel::{Receiver, Sender, bounded, select};
use dataplane::counters::PeerCounters;
use dataplane::link::{LinkEvent, Links};
use dataplane::policy::{Policy, Surroundings};
use dataplane::tap::Tap;
use dataplane::wall::Steering;
use dataplane::worker::crew::Sizes;
use dataplane::worker::run::boottime;
use dataplane::worker::{Command, Event, PeerSetup};
use dataplane::{PortId, WorkstationId};
use guide::Guide;
use homes::{Homes, Live};
use ipnet::IpNet;
use policies::Policies;
use requests::Request;
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::Role;
use wire::tables::KnockEntry;
use zeroize::Zeroizing;

/// Session slots for so many Workstations.
fn session_slots(workstations: u32) -> u32 {
    workstations * u32::from(SLOTS_EACH)
}

/// Frames that may wait for one worker at others, whatever the rings.
const MOST_HANDED: usize = 1 << 16;
/// How long the removal of a Workstation may take.
const REMOVAL: Duration = Duration::from_secs(5);
/// How often ports that are missing are looked for, and how long the loop sleeps at most.
const ROUND: Duration = Duration::from_millis(500);

/// A Workstation that is served.
struct Served {
    key_id: u32,
    /// That of the keys that wait to be used.
    next_key_id: Option<u32>,
    prefixes: Vec<IpNet>,
    policy: Arc<Policy>,
    /// What each worker counts of it.
    counters: Vec<Arc<PeerCounters>>,
    /// The ports it may come from.
    ports: Vec<PortId>,
}

/// The daemon.
struct Daemon {
    config: config::Gateway,
    config_path: PathBuf,
    keyring: Keyring,
    registry: Registry,
    machine: Machine,
    pool: Pool,
    links: Links,
    helper: Arc<Helper>,
    steering: Option<Steering>,
    ports: Vec<Port>,
    /// Those for Workstations without keys.
    keyless: Vec<keyless::Keyless>,
    served: BTreeMap<WorkstationId, Served>,
    policies: Policies,
    surroundings: Arc<Surroundings>,
    /// Why packets from Workstations might be forwarded.
    let_out: Option<Problem>,
    /// Every session, by our index of it.
    sessions: HashMap<u32, Live>,
    /// Which worker has the Workstations' sessions.
    homes: Homes,
    /// What the NICs do to bring frames in where they belong.
    guide: Guide,
    /// Who watches what is dropped.
    hub: Arc<Hub>,
    /// The worker that the handshake frame being answered came in at.
    arrived: usize,
    mail: Mailboxes,
    started: Instant,
    retried: Instant,
    /// When the deadlines of keys were looked at.
    looked: Instant,
    systemd: Systemd,
    /// What the daemon cannot go on without has failed.
    failed: Option<Problem>,
    /// Where what happens is told.
    events: Events,
    /// What was told of it last.
    watched: watch::Watched,
    /// Where changes are written down.
    audit: Arc<Audit>,
}

/// Runs the Gateway until it is told to stop.
///
/// # Errors
/// Why it does not start (interfaces are looked at before any is touched), or that the host
/// interface has failed.
pub fn run(config: config::Gateway, config_path: &Path) -> anyhow::Result<()> {
    process::harden()?;
    let helper = Helper::start(config.log_format)?;
    let caught = process::catch_signals()?;
    let account = Account::find(config.user.as_deref())?;
    let admins = AdminGroup::find(config.admin_group.as_deref())?;
    let metrics = config.metrics_address.map(metrics).transpose()?;
    let registry = Registry::open(&config)?;
    let keyring = registry.keyring()?;
    let socket = Socket::bind(&config.runtime_directory)?;
    // Threads begin in here, once there are no privileges left.
    let mut daemon = Daemon::new(config, config_path, keyring, registry, helper, account)?;
    let signals = process::signals(caught)?;
    let link_events = monitor::start()?;
    daemon.raise_all()?;
    crate::difference::keep(&daemon.config, config_path);
    let (asker, requests) = bounded(64);
    let options = Options {
        audit: Arc::clone(&daemon.audit),
        admins,
        events: daemon.events.clone(),
        metrics,
    };
    let server = Server::start(socket, Arc::new(Asker(asker)), options)?;
    tracing::info!(
        ports = daemon.ports.len() + daemon.keyless.len(),
        workstations = daemon.served.len(),
        workers = daemon.pool.len(),
        "ready"
    );
    daemon.systemd.ready();
    let outcome = daemon.serve(&requests, &link_events, &signals);
    tracing::info!("stopping; the wall stays up");
    server.stop();
    daemon.guide.stop();
    daemon.pool.stop();
    Ok(outcome?)
}

/// Where metrics are served over TCP, taken while that is still allowed.
fn metrics(address: SocketAddr) -> Result<TcpListener, Problem> {
    TcpListener::bind(address).map_err(|error| {
        let tried = format!("serving metrics at metrics_address {address}");
        Problem {
            remedy: "name an address of this machine that nothing else listens on; under systemd \
                     take portcullis-metrics.conf as a drop-in"
                .into(),
            ..Problem::io(tried, &error)
        }
    })
}

/// Takes the walls down that a daemon which is no longer running has left, and leaves the ports set
/// down.
///
/// # Errors
/// What is left standing, and why.
pub fn lower(config: &config::Gateway) -> Result<(), Problem> {
    // Nobody starts a daemon meanwhile.
    let _socket = Socket::bind(&config.runtime_directory)?;
    for port in &config.ports {
        let shared = port.encapsulation.is_shared();
        raise::lower(&port.interface, &config.pin_directory, shared)?;
    }
    for port in &config.keyless {
        raise::lower(&port.interface, &config.pin_directory, false)?;
        crate::keyless::give_back(port)?;
    }
    hostif::delete(&config.host_interface)?;
    hostif::let_out(&config.host_interface)
}

impl Daemon {
    fn new(
        config: config::Gateway,
        config_path: &Path,
        keyring: Keyring,
        registry: Registry,
        helper: Unscoped,
        account: Option<Account>,
    ) -> Result<Self, Problem> {
        let links =
            Links::open().map_err(|error| monitor::problem("looking at the interfaces", error))?;
        let plans: Vec<_> = config
            .ports
            .iter()
            .map(|port| ports::plan(&config, port))
            .collect();
        let helper = Arc::new(helper.begin(Scope {
            ports: plans.clone(),
            host_interface: config.host_interface.clone(),
            routes: Vec::new(),
            network: None,
            keyless: KeylessScope {
                configuration: config_path.to_owned(),
                ports: config.keyless.iter().map(|port| port.digest()).collect(),
            },
            runtime_directory: config.runtime_directory.clone(),
        })?);
        let help = |at| PortHelp::new(&helper, at);
        for at in 0..plans.len() {
            help(at).check()?;
        }
        let keyless = keyless::ports(&config, &helper)?;
        let shapes: Vec<_> = plans
            .iter()
            .map(|plan| layout::shape(&plan.interface, &plan.rings))
            .collect();
        let machine = layout::Machine::look()?;
        let layout = layout::plan(&machine, config.workers, &config.cores, &shapes)?;
        let workers = layout.workers.len();
        let queues = hostif::open(
            &links,
            &config.host_interface,
            workers,
            &config.host_addresses,
        )?;
        hostif::keep_in(&links, &config.host_interface)?;
        let steering = hostif::steer(&queues)?;
        let systemd = Systemd::from_environment();
        confine::daemon(
            account,
            &Paths {
                read: vec![files::directory_of(config_path)],
                write: vec![
                    config.state_directory.clone(),
                    config.runtime_directory.clone(),
                ],
            },
        )?;
        let rings: usize = plans.iter().map(|plan| plan.rings.size as usize).sum();
        let lifetime = process::key_lifetime()?;
        let tap = Arc::<Tap>::default();
        let hub = Arc::<Hub>::default();
        let interfaces = config.ports.iter().map(|port| port.interface.clone());
        hub.set_workers(
            Arc::clone(&tap),
            interfaces.collect(),
            &config.host_interface,
        );
        let settings = Settings {
            tap,
            role: Role::Gateway,
            engine: config.engine,
            cores: layout.workers,
            spin: config.spin,
            lifetime,
            sizes: Sizes {
                // The credits of all Workstations fit one ring of each port.
                frames: rings.min(MOST_HANDED),
                ports: plans.len(),
                sessions: session_slots(config.max_workstations) as usize,
                workstations: config.max_workstations as usize,
            },
        };
        let pool = Pool::start(settings, queues)?;
        let seed = Zeroizing::new(entropy::seed()?);
        let mut boot_id = [0; 8];
        entropy::fill(&mut boot_id)?;
        let gateway_config = GatewayConfig {
            static_keys: lifecycle::static_keys(&keyring),
            boot_id,
            ports: Vec::new(),
            v4: config
                .host_addresses
                .iter()
                .find_map(|net| match net.addr() {
                    std::net::IpAddr::V4(address) => Some(address),
                    std::net::IpAddr::V6(_) => None,
                }),
            v6: config
                .host_addresses
                .iter()
                .find_map(|net| match net.addr() {
                    std::net::IpAddr::V6(address) => Some(address),
                    std::net::IpAddr::V4(_) => None,
                }),
            seed,
            max_workstations: u16::try_from(config.max_workstations).unwrap_or(u16::MAX),
        };
        let mut machine = Machine::new(gateway_config, now());
        machine.set_lifetime(lifetime);
        let ports = plans
            .into_iter()
            .zip(layout.ports)
            .enumerate()
            .map(|(at, (plan, workers))| Port::new(at as PortId, workers, plan, help(at)))
            .collect::<Vec<_>>();
        let guide = Guide::new(&config.runtime_directory, &links, &ports);
        let audit = Arc::new(Audit::new(&config.state_directory));
        let mut daemon = Self {
            events: Events::default(),
            watched: watch::Watched::default(),
            audit,
            config,
            config_path: config_path.to_owned(),
            keyring,
            registry,
            machine,
            pool,
            links,
            helper,
            steering,
            ports,
            keyless,
            served: BTreeMap::new(),
            policies: Policies::default(),
            surroundings: Arc::default(),
            let_out: None,
            sessions: HashMap::new(),
            homes: Homes::default(),
            guide,
            hub,
            arrived: 0,
            mail: Mailboxes::default(),
            started: Instant::now(),
            retried: Instant::now(),
            looked: Instant::now(),
            systemd,
            failed: None,
        };
        daemon.look_around()?;
        for broken in daemon.registry.broken() {
            tracing::error!(workstation = broken.name, problem = %broken.problem, remedy = broken.problem.remedy, "not served: its file cannot be used");
        }
        daemon.end_rotations()?;
        let enabled: Vec<_> = daemon.registry.workstations().map(|(id, _)| id).collect();
        for id in enabled {
            daemon.serve_workstation(id)?;
        }
        Ok(daemon)
    }

    /// The loop. Ends on [`Signal::Stop`], and as an error when the host interface fails.
    fn serve(
        &mut self,
        requests: &Receiver<Request>,
        links: &Receiver<LinkEvent>,
        signals: &Receiver<Signal>,
    ) -> Result<(), Problem> {
        let events = self.pool.events.clone();
        loop {
            if let Some(problem) = self.failed.take() {
                return Err(problem);
            }
            self.carry_out();
            let wait = if self.mail.is_empty() {
                self.until_due()
            } else {
                Duration::ZERO
            };
            select! {
                recv(events) -> event => match event {
                    Ok(event) => {
                        self.event(event);
                        // The channel is emptied before any handshake is worked on.
                        while let Ok(event) = events.try_recv() {
                            self.event(event);
                        }
                    }
                    Err(_) => return Ok(()),
                },
                recv(requests) -> request => if let Ok(request) = request { self.request(request) },
                recv(links) -> event => if let Ok(event) = event { self.link_event(&event) },
                recv(signals) -> signal => match signal {
                    Ok(Signal::Reload) => match self.reload_on_signal() {
                        Ok(changes) => tracing::info!(?changes, "reloaded"),
                        Err(problem) => tracing::error!(%problem, remedy = problem.remedy, "not reloaded"),
                    },
                    Ok(Signal::Rekey) => tracing::info!("a Gateway starts no rekey; the Workstations do"),
                    Ok(Signal::Stop) | Err(_) => return Ok(()),
                },
                default(wait) => {},
            }
            if let Some(letter) = self.mail.next() {
                self.mix();
                self.arrived = letter.worker;
                self.machine
                    .frame(now(), letter.port, letter.source, &letter.frame);
            }
            self.systemd.look(&self.pool);
            self.machine.tick(now());
            self.retry_ports();
            self.look_at_deadlines();
            self.look_for_events();
        }
    }

    /// Ends keys whose time is over.
    fn look_at_deadlines(&mut self) {
        if self.looked.elapsed() < ROUND {
            return;
        }
        self.looked = Instant::now();
        if let Err(problem) = self.end_rotations() {
            tracing::error!(%problem, remedy = problem.remedy, "a Workstation's old keys do not end in time");
        }
    }

    fn until_due(&self) -> Duration {
        let due = self
            .machine
            .next_deadline()
            .map(|at| at.saturating_sub(now()));
        due.unwrap_or(ROUND).clamp(Duration::from_millis(1), ROUND)
    }

    /// Fresh entropy before anything random is made.
    fn mix(&mut self) {
        if let Ok(seed) = entropy::seed() {
            self.machine.mix(&seed);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Handshake {
                port,
                worker,
                source,
                frame,
            } => self.mail.put(Letter {
                port,
                worker: worker.into(),
                source,
                frame,
            }),
            Event::Inner {
                workstation,
                index,
                message,
            } => {
                self.mix();
                self.machine.inner(now(), workstation, index, &message);
            }
            Event::Confirmed { workstation, index } => {
                let old = self.machine.confirmed(now(), workstation, index);
                if let Some(old) = old {
                    self.promoted(workstation, old);
                }
                if let Some(live) = self.sessions.get(&index) {
                    self.steer(workstation, live.worker);
                    self.guide(index);
                }
                if let Some(name) = self
                    .registry
                    .by_slot(workstation)
                    .map(|ws| ws.name.as_str())
                {
                    tracing::info!(workstation = name, "a Workstation has a session");
                }
            }
            Event::Roamed {
                workstation,
                index,
                path,
            } => {
                self.machine.roamed(workstation, index, path);
                let name = self.registry.by_slot(workstation);
                let name = name.map(|one| one.name.as_str());
                tracing::debug!(workstation = name, address = %path, "a Workstation is at another address");
            }
            Event::Erased(index) => {
                if let Some(live) = self.sessions.remove(&index) {
                    self.pool.set_owner(index, None);
                    self.unguide(&live);
                    self.machine.erased(live.workstation, index);
                }
            }
            Event::PortFailed { port, error } => self.port_failed(port, &error),
            Event::Exhausted { workstation, index } => {
                let name = self
                    .registry
                    .by_slot(workstation)
                    .map(|one| one.name.to_string());
                tracing::warn!(
                    workstation = name,
                    "a session may seal no more and ends: the Workstation has made no other in time"
                );
                self.machine.seal_limit(now(), workstation, index);
            }
            Event::NonceReused {
                workstation,
                index,
                counter,
            } => {
                let name = self.registry.by_slot(workstation);
                tracing::error!(
                    workstation = name.map(|one| one.name.as_str()),
                    counter,
                    remedy = "portcullis workstation set NAME --cipher aes-256-gcm-siv, or vm_generation in its agent.toml",
                    "a Workstation has sealed two frames with one nonce: it was rolled back to a snapshot, or is a clone; its session ends"
                );
                self.machine.seal_limit(now(), workstation, index);
            }
            // The Workstation rekeys: it counts what we seal as well.
            Event::Worn { .. }
            | Event::Installed(_)
            | Event::PortRemoved(_)
            | Event::PeerRemoved(_)
            | Event::RolledBack => {}
            Event::HostFailed(error) => {
                self.failed = Some(hostif::failed(&self.config.host_interface, error));
            }
        }
    }

    /// Does what the state machine wants done.
    fn carry_out(&mut self) {
        let actions: Vec<Action> = self.machine.actions().collect();
        for action in actions {
            match action {
                Action::Send {
                    port,
                    destination,
                    frame,
                } => {
                    if let Some(worker) = self.worker_of(port) {
                        self.pool.give(
                            worker,
                            Command::Send {
                                port,
                                destination,
                                frame,
                            },
                        );
                    }
                }
                Action::SendInner { index, message, .. } => {
                    if let Some(live) = self.sessions.get(&index) {
                        self.pool
                            .give(live.worker, Command::SendInner { index, message });
                    }
                }
                Action::Install(install) => {
                    let (port, workstation) = (install.port, install.workstation);
                    let Some(worker) = self.home(port, workstation) else {
                        self.machine.erased(workstation, install.index);
                        continue;
                    };
                    let live = Live {
                        worker,
                        workstation,
                        port,
                        path: install.path,
                    };
                    self.sessions.insert(install.index, live);
                    // Before XDP admits its first frame, which may come in anywhere.
                    self.pool.set_owner(install.index, Some(worker));
                    self.pool.give(worker, Command::Install(install));
                }
                Action::Erase { workstation, index } => match self.sessions.get(&index) {
                    Some(live) => self.pool.give(live.worker, Command::Erase(index)),
                    None => self.machine.erased(workstation, index),
                },
                // These are a Workstation's.
                Action::ExpectNonce(_) | Action::Configure(_) => {}
            }
        }
    }

    /// A worker that can send on a port.
    fn worker_of(&self, port: PortId) -> Option<usize> {
        self.ports.get(usize::from(port))?.serving().next()
    }

    /// The worker that has a Workstation's sessions on a port.
    fn home(&mut self, port: PortId, id: WorkstationId) -> Option<usize> {
        let serving: Vec<usize> = self.ports.get(usize::from(port))?.serving().collect();
        self.homes.of(port, id, &serving, self.arrived)
    }

    /// Leads packets for a Workstation to the worker that has its current session. Every worker
    /// knows every Workstation, so nothing of the session before is touched.
    fn steer(&mut self, id: WorkstationId, worker: usize) {
        self.pool.set_sender(id, Some(worker));
        let (Some(steering), Some(served)) = (&mut self.steering, self.served.get(&id)) else {
            return;
        };
        for prefix in &served.prefixes {
            if let Err(error) = steering.set(*prefix, worker as u32) {
                tracing::error!(%error, %prefix, "packets to a Workstation cannot be steered to its worker, and are handed over there, which costs more; restart portcullisd to try again");
            }
        }
    }

    /// Begins to serve a Workstation of the registry, if it is enabled.
    fn serve_workstation(&mut self, id: WorkstationId) -> Result<(), Problem> {
        let Some(workstation) = self.registry.by_slot(id).filter(|ws| ws.enabled).cloned() else {
            return Ok(());
        };
        let tried = format!("serving the Workstation {}", workstation.name);
        if process::fails_to_serve(workstation.name.as_str()) {
            return Err(Problem::io(
                &tried,
                &std::io::Error::other("a test says so"),
            ));
        }
        let enrolled = self.enrolled(id, &workstation);
        let ports: Vec<PortId> = self.ports_of(&workstation);
        self.machine.add(now(), enrolled).map_err(|error| {
            let remedy = match error {
                AddError::NoRoom => {
                    "raise max_workstations and restart, or try again: one that was removed may be \
                     about to make room"
                }
                AddError::SlotInUse(_) | AddError::KeyIdInUse(_) => {
                    "remove one of the two and add it again"
                }
            };
            Problem::new(Kind::Conflict, &tried, error, remedy)
        })?;
        let served = Served {
            key_id: workstation.key_id.get(),
            next_key_id: workstation.next.as_ref().map(|next| next.key_id.get()),
            prefixes: workstation.addresses().map(IpNet::from).collect(),
            policy: self.policy(id),
            counters: (0..self.pool.len()).map(|_| Arc::default()).collect(),
            ports: ports.clone(),
        };
        for (worker, counters) in served.counters.iter().enumerate() {
            let setup = PeerSetup {
                id,
                prefixes: served.prefixes.clone(),
                policy: Arc::clone(&served.policy),
                counters: Arc::clone(counters),
            };
            self.pool.give(worker, Command::AddPeer(Box::new(setup)));
        }
        self.served.insert(id, served);
        for port in ports {
            self.let_in(port, id, &workstation)
                .map_err(|error| Problem::io(&tried, &error))?;
        }
        self.fit_ports();
        Ok(())
    }

    fn enrolled(&self, id: WorkstationId, workstation: &Workstation) -> Enrolled {
        let prefix = |v4: bool| {
            let host = self.config.host_addresses.iter();
            host.filter(|net| matches!(net, IpNet::V4(_)) == v4)
                .map(|net| net.prefix_len())
                .next()
                .unwrap_or(if v4 { 32 } else { 128 })
        };
        Enrolled {
            id,
            credentials: lifecycle::credentials(workstation, &self.keyring),
            next: workstation.next.as_ref().map(lifecycle::next_credentials),
            v4: workstation.v4.map(|address| (address, prefix(true))),
            v6: workstation.v6.map(|address| (address, prefix(false))),
            protection: workstation.protection,
            cipher: match workstation.cipher {
                CipherChoice::Auto => CipherPolicy::Auto,
                CipherChoice::Fixed(cipher) => CipherPolicy::Only(cipher),
            },
            padding: workstation.padding,
            ports: workstation
                .port
                .as_ref()
                .map(|_| self.ports_of(workstation)),
        }
    }

    /// The ports a Workstation may come from.
    fn ports_of(&self, workstation: &Workstation) -> Vec<PortId> {
        self.ports
            .iter()
            .filter(|port| {
                workstation
                    .port
                    .as_ref()
                    .is_none_or(|only| *only == port.plan.interface)
            })
            .map(|port| port.id)
            .collect()
    }

    /// Ends a Workstation's sessions and forgets it: XDP's handshake entries first, then sessions,
    /// in XDP too. Returns when the worker has done it.
    fn drop_workstation(&mut self, id: WorkstationId) -> Result<(), Problem> {
        let Some(served) = self.served.remove(&id) else {
            return Ok(());
        };
        self.lock_out(served.key_id);
        served
            .next_key_id
            .into_iter()
            .for_each(|next| self.lock_out(next));
        self.machine.remove(id);
        self.carry_out();
        self.homes.forget(id);
        self.pool.set_sender(id, None);
        for worker in 0..self.pool.len() {
            self.pool.give(worker, Command::RemovePeer(id));
        }
        if let Some(steering) = &mut self.steering {
            for prefix in &served.prefixes {
                let _ = steering.remove(*prefix);
            }
        }
        let deadline = Instant::now() + REMOVAL;
        let events = self.pool.events.clone();
        let mut forgotten = 0;
        while forgotten < self.pool.len() {
            match events.recv_deadline(deadline) {
                Ok(Event::PeerRemoved(removed)) if removed == id => forgotten += 1,
                Ok(event) => self.event(event),
                Err(_) => {
                    return Err(Problem::new(
                        Kind::Failed,
                        "end a Workstation's sessions",
                        "its worker did not answer within 5 seconds",
                        "restart portcullisd, which ends all sessions",
                    ));
                }
            }
        }
        self.fit_ports();
        Ok(())
    }
}

/// The entries, with their key ids, that let a Workstation's handshakes through XDP at the Gateway.
fn knock_entries(
    id: WorkstationId,
    workstation: &Workstation,
) -> impl Iterator<Item = (u32, KnockEntry)> {
    let next = workstation
        .next
        .as_ref()
        .map(|next| (next.key_id, &next.psk));
    let both = [Some((workstation.key_id, &workstation.psk)), next];
    both.into_iter().flatten().map(move |(key_id, psk)| {
        let entry = KnockEntry {
            key: kdf::knock_keys(psk.as_bytes()).w2g,
            workstation: id,
            ..KnockEntry::default()
        };
        (key_id.get(), entry)
    })
}

/// The state machine's time: CLOCK_BOOTTIME, as the workers'.
fn now() -> Duration {
    Duration::from_nanos(boottime())
}
