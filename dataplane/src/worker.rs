//! A worker: one thread that owns its ports, its sessions and its queue of the host interface, and
//! shares none of them.
//!
//! [`Worker::step`] is one round of the loop and does no waiting: commands, receive and sort by
//! Workstation ([`inbound`]), serve the Workstations in turn (open, check, write to the host
//! interface), read the host interface and seal ([`outbound`]), ring the doorbells. [`run`] is the
//! thread around it: clock, spinning, sleeping.

pub mod crew;
mod doze;
mod handoff;
mod inbound;
mod outbound;
mod pool;
mod ports;
mod quiet;
pub mod run;
mod sessions;
mod watch;

use self::crew::Seat;
use self::handoff::Held;
use self::ports::{Ports, WorkerPort};
use self::sessions::Sessions;
use self::watch::Watch;
use crate::backlog::{Backlog, Waiting};
use crate::counters::{PeerCounters, WorkerCounters};
use crate::credit::Ledger;
use crate::engine::Engine;
use crate::generation::GenerationCounter;
use crate::host::Host;
use crate::host::coalesce::Coalescer;
use crate::lifetime::Lifetime;
use crate::own::Own;
use crate::path::{Encapsulation, Path};
use crate::peer::Peer;
use crate::policy::{Policy, Surroundings};
use crate::port::{Port, PortError, RingStatistics};
use crate::route::Routes;
use crate::schedule::Schedule;
use crate::session::{Session, Spent};
use crate::tags::Tags;
use crate::tap::{Faucet, Tap};
use crate::wall::PortTables;
use crate::{PortId, WorkstationId};
use crossbeam::channel::{Receiver, Sender, TrySendError};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::sync::Arc;
use wire::header::slot_of;
use wire::limits::*;
use wire::tables::SessionEntry;
use wire::{Header, Role};

pub use crate::session::Install;

/// What [`doze`], [`quiet`] and [`pool`] are made of; their models have another kind.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
}
mod queue {
    pub(super) use crossbeam::queue::ArrayQueue;
}

/// Frames moved at a time.
pub const BATCH: usize = 64;
/// Frames taken off one port's rings in one round.
const BURST: usize = 4 * BATCH;
/// How often quiet ports and credit are looked at, in nanoseconds.
const LOOK: u64 = 1_000_000;
/// Workstations whose credit is looked at each time, if not an eighth of all.
const RECONCILED: usize = 64;
/// Commands carried out between two rounds, so that a flood of them cannot hold up frames.
const COMMANDS: usize = 64;

/// A port as it is given to a worker.
pub struct PortSetup<P> {
    /// Its number.
    pub id: PortId,
    /// Its rings.
    pub io: P,
    /// Its maps.
    pub tables: Arc<PortTables>,
    /// Its own MAC address.
    pub mac: [u8; 6],
    /// What is around the tunnel's frames on it.
    pub encapsulation: Encapsulation,
}

/// A Workstation as it is given to a worker.
pub struct PeerSetup {
    /// Its slot.
    pub id: WorkstationId,
    /// The inner prefixes that are its own.
    pub prefixes: Vec<IpNet>,
    /// What it may reach. A Workstation's worker lets its Gateway send it anything.
    pub policy: Arc<Policy>,
    /// Its counters.
    pub counters: Arc<PeerCounters>,
}

/// What control asks of a worker.
pub enum Command<P> {
    /// Serve this port.
    AddPort(Box<PortSetup<P>>),
    /// Close this port's rings; its sessions stay. Answered by [`Event::PortRemoved`].
    RemovePort(PortId),
    /// Know this Workstation. Every worker knows every one: what is another's, nothing may come from
    /// or go to, whoever serves it.
    AddPeer(Box<PeerSetup>),
    /// Judge what this Workstation sends by other rules from now on.
    SetPolicy(WorkstationId, Arc<Policy>),
    /// Know these addresses around the Workstations'.
    SetSurroundings(Arc<Surroundings>),
    /// At a Workstation: send packets from these addresses, and no others.
    SetOwn(Own),
    /// Erase all its sessions and forget it. Answered by [`Event::PeerRemoved`].
    RemovePeer(WorkstationId),
    /// Install a session as pending. Answered by [`Event::Installed`], or by [`Event::Erased`] when
    /// it could not be.
    Install(Box<Install>),
    /// Erase a session: XDP entry first, then the keys. Answered by [`Event::Erased`].
    Erase(u32),
    /// Send a Portcullis frame in clear (a handshake frame).
    Send {
        /// The port.
        port: PortId,
        /// Where to.
        destination: Path,
        /// From the Portcullis header on.
        frame: Vec<u8>,
    },
    /// Seal a control message under a session and send it.
    SendInner {
        /// Our index of the session.
        index: u32,
        /// The plaintext.
        message: Vec<u8>,
    },
    /// Tell the levels and losses of every port's rings.
    Statistics(Sender<Vec<(PortId, RingStatistics)>>),
    /// Compare this counter before anything is sealed. Control has nothing from before this value.
    Watch(Box<dyn GenerationCounter>, u128),
    /// Control has nothing any more from before the counter had this value.
    Generation(u128),
    /// End the thread.
    Stop,
}

/// What a worker tells control.
#[derive(Debug)]
pub enum Event {
    /// A handshake frame was admitted.
    Handshake {
        /// The port it came in on.
        port: PortId,
        /// The worker it came in at.
        worker: u16,
        /// Where it is from.
        source: Path,
        /// From the Portcullis header on, without Ethernet padding.
        frame: Vec<u8>,
    },
    /// A control message was opened.
    Inner {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session that carried it.
        index: u32,
        /// The plaintext.
        message: Vec<u8>,
    },
    /// The session is installed, in XDP too.
    Installed(u32),
    /// The session is gone, from XDP too, and its keys wiped. The slot may be used again.
    Erased(u32),
    /// The first frame opened under a pending session: it is current now.
    Confirmed {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session.
        index: u32,
    },
    /// The other side of a session has another address now. Told at most once a second of a session, whatever
    /// happens in between.
    Roamed {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session.
        index: u32,
        /// The way to it.
        path: Path,
    },
    /// The session's keys are 7/8 used up, ours or the other side's.
    Worn {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session.
        index: u32,
    },
    /// The other side has sealed two frames under this counter, so with one nonce.
    NonceReused {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session.
        index: u32,
        /// The counter.
        counter: u64,
    },
    /// The session's keys may seal no more.
    Exhausted {
        /// The Workstation.
        workstation: WorkstationId,
        /// Our index of the session.
        index: u32,
    },
    /// The port is of no more use; the worker has closed it.
    PortFailed {
        /// The port.
        port: PortId,
        /// What happened.
        error: PortError,
    },
    /// The port is closed.
    PortRemoved(PortId),
    /// The Workstation is forgotten; every session of it is erased.
    PeerRemoved(WorkstationId),
    /// The counter that is watched has changed: every session is erased, and none is installed until
    /// [`Command::Generation`].
    RolledBack,
    /// The host interface failed for good; the worker has stopped.
    HostFailed(std::io::Error),
}

/// What a worker is made with.
pub struct WorkerConfig {
    /// Which end this is.
    pub role: Role,
    /// The AEAD engine.
    pub engine: Engine,
}

/// A packet in the frame it will be sealed in.
struct Outgoing<F> {
    port: PortId,
    frame: Option<F>,
    /// Bytes of the packet, and before its Portcullis header.
    len: usize,
    front: usize,
    /// The Workstation it goes to, and the session that will seal it.
    peer: WorkstationId,
    index: u32,
    /// The counter it will be sealed with.
    spent: Option<Spent>,
}

/// A worker. `P` is the kind of port, `H` the kind of host interface.
pub struct Worker<P: Port, H: Host> {
    role: Role,
    engine: Engine,
    lifetime: Lifetime,
    /// Its place among the other workers, where there are any.
    seat: Option<Seat>,
    host: H,
    ports: Ports<P>,
    order: Vec<PortId>,
    /// Changes whenever a port comes or goes: what was waited on must be put together anew.
    generation: u64,
    sessions: Sessions,
    peers: Vec<Option<Peer>>,
    routes: Routes,
    /// At a Workstation: what its packets may be from. Where it was not told, any.
    own: Option<Own>,
    schedule: Schedule,
    coalescer: Coalescer,
    commands: Receiver<Command<P>>,
    events: Sender<Event>,
    /// Events that must not be lost and found the channel full.
    outbox: VecDeque<Event>,
    received: Vec<P::Frame>,
    backlog: Backlog<Held<P::Frame>>,
    /// Frames that are opened together.
    batch: Vec<Waiting<Held<P::Frame>>>,
    outgoing: Vec<Outgoing<P::Frame>>,
    tags: Tags,
    packet: Box<[u8]>,
    counters: Arc<WorkerCounters>,
    looked: u64,
    /// The Workstation whose credit is looked at next.
    reconciled: usize,
    /// Whether the machine was put back to a snapshot.
    watch: Watch,
    /// Who watches what is dropped.
    faucet: Faucet,
    stopped: bool,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// A worker without ports and Workstations.
    pub fn new(
        config: WorkerConfig,
        host: H,
        commands: Receiver<Command<P>>,
        events: Sender<Event>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Self {
            role: config.role,
            engine: config.engine.resolve(),
            lifetime: Lifetime::default(),
            seat: None,
            host,
            ports: Ports::default(),
            order: Vec::new(),
            generation: 0,
            sessions: Sessions::default(),
            peers: Vec::new(),
            routes: Routes::default(),
            own: None,
            schedule: Schedule::default(),
            coalescer: Coalescer::default(),
            commands,
            events,
            outbox: VecDeque::new(),
            received: Vec::with_capacity(BURST),
            backlog: Backlog::default(),
            batch: Vec::with_capacity(BATCH),
            outgoing: Vec::with_capacity(BATCH),
            tags: Tags::default(),
            packet: vec![0; outbound::BUFFER].into(),
            counters,
            looked: 0,
            reconciled: 0,
            watch: Watch::default(),
            faucet: Faucet::default(),
            stopped: false,
        }
    }

    /// The same worker, using keys less long.
    pub fn with_lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// The same worker, whose drops are seen by whoever has this.
    pub fn with_tap(self, tap: Arc<Tap>) -> Self {
        let faucet = Faucet::of(tap);
        Self { faucet, ..self }
    }

    /// One round. `now` is nanoseconds of CLOCK_BOOTTIME. True when there was something to do.
    pub fn step(&mut self, now: u64) -> bool {
        let mut worked = self.obey(now);
        worked |= self.receive(now);
        self.announce(now);
        worked |= self.take_in(now);
        worked |= self.serve(now);
        worked |= self.transmit(now);
        let look = now.saturating_sub(self.looked) >= LOOK;
        self.flush(look);
        if look {
            self.looked = now;
            self.reconcile(now);
        }
        while let Some(event) = self.outbox.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.outbox.push_front(event);
                break;
            }
        }
        if worked {
            self.counters.rounds.add(1);
        }
        worked
    }

    /// Whether [`Command::Stop`] has come.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The host interface.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// A port's rings.
    pub fn port(&mut self, id: PortId) -> Option<&mut P> {
        self.ports.get_mut(id).map(|port| &mut port.io)
    }

    /// Carries out waiting commands.
    fn obey(&mut self, now: u64) -> bool {
        for count in 0..COMMANDS {
            let Ok(command) = self.commands.try_recv() else {
                return count > 0;
            };
            self.carry_out(command, now);
        }
        true
    }

    fn carry_out(&mut self, command: Command<P>, now: u64) {
        match command {
            Command::AddPort(setup) => self.add_port(*setup),
            Command::RemovePort(id) => {
                self.close_port(id);
                self.outbox.push_back(Event::PortRemoved(id));
            }
            Command::AddPeer(setup) => self.add_peer(*setup),
            Command::SetPolicy(id, policy) => {
                if let Some(Some(peer)) = self.peers.get_mut(id as usize) {
                    peer.policy = policy;
                }
            }
            Command::SetSurroundings(surroundings) => self.routes.set_surroundings(surroundings),
            Command::SetOwn(own) => self.own = Some(own),
            Command::RemovePeer(id) => {
                self.remove_peer(id);
                self.outbox.push_back(Event::PeerRemoved(id));
            }
            Command::Install(install) => self.install(&install, now),
            Command::Erase(index) => self.erase(index),
            Command::Send {
                port,
                destination,
                frame,
            } => {
                self.send_clear(port, destination, &frame);
            }
            Command::SendInner { index, message } => {
                self.send_control(index, &message, now);
            }
            Command::Statistics(answer) => {
                let ports = self.ports.iter();
                // Whoever asked may have given up.
                let _ =
                    answer.try_send(ports.map(|(id, port)| (id, port.io.statistics())).collect());
            }
            Command::Watch(counter, value) => self.watch = Watch::new(counter, value),
            Command::Generation(value) => self.watch.acknowledge(value),
            Command::Stop => self.stopped = true,
        }
    }

    fn add_port(&mut self, setup: PortSetup<P>) {
        self.close_port(setup.id);
        let port = WorkerPort {
            io: setup.io,
            tables: setup.tables,
            mac: setup.mac,
            encapsulation: setup.encapsulation,
            front: setup.encapsulation.largest_front(),
            touched: true,
            lagging: false,
            drained: false,
        };
        // Sessions that outlive the rings (a link that was down) stay in force.
        for session in self.sessions.on(setup.id) {
            if let Some(Some(peer)) = self.peers.get_mut(session.workstation as usize) {
                open_account(peer, setup.id, &port, self.seat.as_ref());
            }
            publish_session(&port.tables, session);
        }
        if let Some(seat) = &self.seat {
            seat.set_quiet(setup.id, 0);
        }
        self.generation += 1;
        self.ports.insert(setup.id, port);
        self.order.push(setup.id);
    }

    /// Drops a port's rings. Frames that wait go with it: they are its memory. Nothing is admitted
    /// on it any more, and no credit is kept of it.
    fn close_port(&mut self, id: PortId) {
        self.order.retain(|has| *has != id);
        let Some(mut port) = self.ports.remove(id) else {
            return;
        };
        self.generation += 1;
        if let Some(seat) = &self.seat {
            seat.set_quiet(id, u64::MAX);
        }
        for session in self.sessions.on(id) {
            port.tables.remove_session(slot_of(session.index));
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.ledgers.retain(|(on, _)| *on != id);
            self.backlog.withdraw(
                &mut peer.queue,
                |waiting| waiting.port == id,
                |waiting| waiting.frame.release(&mut port.io, self.seat.as_ref()),
            );
        }
    }

    fn add_peer(&mut self, setup: PeerSetup) {
        let at = setup.id as usize;
        if at >= self.peers.len() {
            self.peers.resize_with(at + 1, || None);
        }
        self.remove_peer(setup.id);
        self.routes.replace(setup.id, setup.prefixes);
        self.peers[at] = Some(Peer::new(setup.id, setup.policy, setup.counters));
    }

    fn remove_peer(&mut self, id: WorkstationId) {
        let indexes: Vec<u32> = self
            .sessions
            .all()
            .filter(|session| session.workstation == id)
            .map(|session| session.index)
            .collect();
        for index in indexes {
            self.erase(index);
        }
        self.routes.remove(id);
        let Some(mut peer) = self.peers.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        let ports = &mut self.ports;
        self.backlog.withdraw(
            &mut peer.queue,
            |_| true,
            |waiting| {
                if let Some(port) = ports.get_mut(waiting.port) {
                    waiting.frame.release(&mut port.io, self.seat.as_ref());
                }
            },
        );
    }

    fn install(&mut self, install: &Install, now: u64) {
        if self.keep_or_drop_keys() {
            return self.outbox.push_back(Event::Erased(install.index));
        }
        let peer = self
            .peers
            .get_mut(install.workstation as usize)
            .and_then(Option::as_mut);
        let (Some(peer), Some(port)) = (peer, self.ports.get_mut(install.port)) else {
            return self.outbox.push_back(Event::Erased(install.index));
        };
        let session = Session::with_lifetime(install, self.engine, now, self.lifetime);
        let Ok(session) = session else {
            return self.outbox.push_back(Event::Erased(install.index));
        };
        open_account(peer, install.port, port, self.seat.as_ref());
        if !publish_session(&port.tables, &session) {
            return self.outbox.push_back(Event::Erased(install.index));
        }
        let replaced = peer.standing.install(install.index);
        self.sessions.put(session);
        if replaced != 0 {
            self.erase(replaced);
        }
        self.outbox.push_back(Event::Installed(install.index));
    }

    fn erase(&mut self, index: u32) {
        if let Some(session) = self.sessions.take(index) {
            if let Some(port) = self.ports.get(session.port) {
                port.tables.remove_session(slot_of(index));
            }
            if let Some(peer) = self
                .peers
                .get_mut(session.workstation as usize)
                .and_then(Option::as_mut)
            {
                peer.standing.erase(index);
            }
        }
        self.outbox.push_back(Event::Erased(index));
    }

    /// Gives each port's finished work to the kernel; with `look` also ports that have none, for
    /// only so a port is found to be gone, or its driver asleep on an empty fill ring.
    fn flush(&mut self, look: bool) {
        let mut failed = Vec::new();
        for (id, port) in self.ports.iter_mut() {
            let busy = port.touched || port.lagging;
            if !busy && !look {
                continue;
            }
            port.touched = false;
            self.counters.flushes.add(u64::from(busy));
            match port.io.flush() {
                Ok(waiting) => port.lagging = waiting > 0,
                // Nothing moves until the link is up; the next look is soon enough.
                Err(PortError::Down { .. }) => port.lagging = false,
                Err(error) if error.needs_reopening() => failed.push((id, error)),
                Err(error) => {
                    if !port.lagging {
                        tracing::warn!(%error, "sending failed; it is tried again until it works");
                    }
                    port.lagging = true;
                }
            }
        }
        for (port, error) in failed {
            self.close_port(port);
            self.outbox.push_back(Event::PortFailed { port, error });
        }
    }

    /// Finds frames that XDP counted and the rings lost. Of many Workstations some are looked at each
    /// time, so that thousands do not hold up frames.
    fn reconcile(&mut self, now: u64) {
        let all = self.peers.len();
        let first = if self.reconciled < all {
            self.reconciled
        } else {
            0
        };
        let end = all.min(first + RECONCILED.max(all / 8));
        self.reconciled = end;
        for peer in self.peers[first..end].iter_mut().flatten() {
            for (id, ledger) in &mut peer.ledgers {
                let seat = self.seat.as_ref();
                let refused = seat.map_or(0, |seat| seat.refusals(*id, peer.id));
                if refused > 0 {
                    ledger.forgo(refused);
                    peer.counters.handoff_full.add(refused);
                }
                if refused == 0 && !ledger.due(now) {
                    continue;
                }
                if let Some(port) = self.ports.get(*id) {
                    let admitted = port.tables.admitted(peer.id);
                    let settled = |moment| seat.is_none_or(|seat| seat.settled(*id, moment));
                    let drained = port.drained && ledger.awaits().is_none_or(settled);
                    // What was refused before the others said that they were empty is not lost.
                    let refused = seat.map_or(0, |seat| seat.refusals(*id, peer.id));
                    ledger.forgo(refused);
                    peer.counters.handoff_full.add(refused);
                    let lost = ledger.reconcile(admitted, drained, now);
                    peer.counters.ring_lost.add(lost);
                    port.tables.set_consumed(peer.id, ledger.consumed());
                }
            }
        }
    }
}

/// Keeps a Workstation's credit on a port, from nothing where it was not kept.
fn open_account<P>(peer: &mut Peer, id: PortId, port: &WorkerPort<P>, seat: Option<&Seat>) {
    if peer.ledger(id).is_none() {
        // What was refused of an earlier account is none of this one's.
        let _ = seat.map(|seat| seat.refusals(id, peer.id));
        port.tables.reset_credit(peer.id);
        peer.ledgers.push((id, Ledger::default()));
    }
}

/// Writes a session's XDP entry. False where the tables have no such slot.
fn publish_session(tables: &PortTables, session: &Session) -> bool {
    let installed = tables.install_session(
        slot_of(session.index),
        &SessionEntry {
            index: session.index,
            workstation: session.workstation,
            key: session.admission,
            peer_mac: session.path.mac().unwrap_or_default(),
            ..SessionEntry::default()
        },
    );
    tables.set_floor(slot_of(session.index), session.floor());
    installed
}

/// Tells control something that may be lost when it is behind.
fn offer(events: &Sender<Event>, counters: &WorkerCounters, event: Event) {
    if events.try_send(event).is_err() {
        counters.control_full.add(1);
    }
}
