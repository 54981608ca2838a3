//! A worker: one thread that owns its ports, its sessions and its queue of the host interface, and
//! shares none of them.
//!
//! [`Worker::step`] is one round of the loop and does no waiting: commands, receive and sort by
//! Workstation ([`inbound`]), serve the Workstations in turn (open, check, write to the host
//! interface), read the host interface and seal ([`outbound`]), ring the doorbells. [`run`] is the
//! thread around it: clock, spinning, sleeping.

mod inbound;
mod outbound;
pub mod run;

use crate::counters::{PeerCounters, WorkerCounters};
use crate::engine::Engine;
use crate::host::Host;
use crate::host::coalesce::Coalescer;
use crate::peer::Peer;
use crate::port::{Port, PortError, RingStatistics};
use crate::route::Routes;
use crate::schedule::Schedule;
use crate::session::Session;
use crate::wall::PortTables;
use crate::{PortId, WorkstationId};
use crossbeam::channel::{Receiver, Sender, TrySendError};
use ipnet::IpNet;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use wire::header::slot_of;
use wire::limits::*;
use wire::tables::SessionEntry;
use wire::{Header, Role};

pub use crate::session::Install;

/// Frames moved at a time.
pub const BATCH: usize = 64;
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
    /// The tunnel's EtherType on it, host order.
    pub ethertype: u16,
}

/// A Workstation as it is given to a worker.
pub struct PeerSetup {
    /// Its slot.
    pub id: WorkstationId,
    /// The inner prefixes that are its own.
    pub prefixes: Vec<IpNet>,
    /// Its counters.
    pub counters: Arc<PeerCounters>,
}

/// What control asks of a worker.
pub enum Command<P> {
    /// Serve this port.
    AddPort(Box<PortSetup<P>>),
    /// Close this port's rings; its sessions stay. Answered by [`Event::PortRemoved`].
    RemovePort(PortId),
    /// Know this Workstation.
    AddPeer(Box<PeerSetup>),
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
        /// The destination address.
        destination: [u8; 6],
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
        /// Its source address.
        source: [u8; 6],
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
    /// The session's keys are 7/8 used up.
    Worn {
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

/// A port within a worker.
struct WorkerPort<P> {
    io: P,
    tables: Arc<PortTables>,
    mac: [u8; 6],
    ethertype: u16,
    /// Something was received, sent or released since the last flush.
    touched: bool,
    /// The kernel has not taken all frames yet, or the link is down: flush again later.
    lagging: bool,
    /// The rings were empty when last asked.
    drained: bool,
}

/// A frame that waits for its Workstation's turn.
pub struct Queued<F> {
    port: PortId,
    header: Header,
    frame: F,
}

/// A worker. `P` is the kind of port, `H` the kind of host interface.
pub struct Worker<P: Port, H: Host> {
    role: Role,
    engine: Engine,
    host: H,
    ports: HashMap<PortId, WorkerPort<P>>,
    order: Vec<PortId>,
    sessions: Sessions,
    peers: Vec<Option<Peer<Queued<P::Frame>>>>,
    routes: Routes,
    schedule: Schedule,
    coalescer: Coalescer,
    commands: Receiver<Command<P>>,
    events: Sender<Event>,
    /// Events that must not be lost and found the channel full.
    outbox: VecDeque<Event>,
    received: Vec<P::Frame>,
    batch: Vec<Queued<P::Frame>>,
    packet: Vec<u8>,
    counters: Arc<WorkerCounters>,
    reconciled: u64,
    stopped: bool,
}

/// Sessions by slot.
#[derive(Default)]
struct Sessions(Vec<Option<Box<Session>>>);

impl Sessions {
    /// The session with this very index.
    #[inline]
    fn get(&mut self, index: u32) -> Option<&mut Session> {
        let session = self
            .0
            .get_mut(usize::from(slot_of(index)))?
            .as_deref_mut()?;
        (session.index == index).then_some(session)
    }

    fn put(&mut self, session: Session) {
        let slot = usize::from(slot_of(session.index));
        if slot >= self.0.len() {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(Box::new(session));
    }

    fn take(&mut self, index: u32) -> Option<Box<Session>> {
        self.get(index)?;
        self.0[usize::from(slot_of(index))].take()
    }
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
            host,
            ports: HashMap::new(),
            order: Vec::new(),
            sessions: Sessions::default(),
            peers: Vec::new(),
            routes: Routes::default(),
            schedule: Schedule::default(),
            coalescer: Coalescer::default(),
            commands,
            events,
            outbox: VecDeque::new(),
            received: Vec::with_capacity(BATCH),
            batch: Vec::with_capacity(BATCH),
            packet: vec![0; 10 + 65_535 + 64],
            counters,
            reconciled: 0,
            stopped: false,
        }
    }

    /// One round. `now` is nanoseconds of CLOCK_BOOTTIME. True when there was something to do.
    pub fn step(&mut self, now: u64) -> bool {
        let mut worked = self.obey(now);
        worked |= self.receive();
        worked |= self.serve(now);
        worked |= self.transmit(now);
        self.flush();
        self.reconcile(now);
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
        self.ports.get_mut(&id).map(|port| &mut port.io)
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
                let _ = answer.try_send(
                    ports
                        .map(|(id, port)| (*id, port.io.statistics()))
                        .collect(),
                );
            }
            Command::Stop => self.stopped = true,
        }
    }

    fn add_port(&mut self, setup: PortSetup<P>) {
        self.close_port(setup.id);
        // Credit is counted in the port's tables, which are new.
        for peer in self.peers.iter_mut().flatten() {
            if peer.port == setup.id {
                peer.ledger = Default::default();
            }
        }
        let port = WorkerPort {
            io: setup.io,
            tables: setup.tables,
            mac: setup.mac,
            ethertype: setup.ethertype,
            touched: true,
            lagging: false,
            drained: false,
        };
        // Sessions that outlive the rings (a link that was down) stay in force.
        for session in self
            .sessions
            .0
            .iter()
            .flatten()
            .filter(|session| session.port == setup.id)
        {
            publish_session(&port.tables, session);
        }
        self.ports.insert(setup.id, port);
        self.order.push(setup.id);
    }

    /// Drops a port's rings. Frames that wait go with it: they are its memory.
    fn close_port(&mut self, id: PortId) {
        self.order.retain(|has| *has != id);
        let Some(mut port) = self.ports.remove(&id) else {
            return;
        };
        for peer in self.peers.iter_mut().flatten() {
            for _ in 0..peer.queue.len() {
                match peer.queue.pop_front() {
                    Some(queued) if queued.port == id => port.io.release(queued.frame),
                    Some(queued) => peer.queue.push_back(queued),
                    None => break,
                }
            }
        }
    }

    fn add_peer(&mut self, setup: PeerSetup) {
        let at = setup.id as usize;
        if at >= self.peers.len() {
            self.peers.resize_with(at + 1, || None);
        }
        self.remove_peer(setup.id);
        for prefix in setup.prefixes {
            self.routes.insert(prefix, setup.id);
        }
        self.peers[at] = Some(Peer::new(setup.id, PortId::MAX, setup.counters));
    }

    fn remove_peer(&mut self, id: WorkstationId) {
        let indexes: Vec<u32> = self
            .sessions
            .0
            .iter()
            .flatten()
            .filter(|session| session.workstation == id)
            .map(|session| session.index)
            .collect();
        for index in indexes {
            self.erase(index);
        }
        self.routes.remove(id);
        let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        for queued in peer.queue {
            if let Some(port) = self.ports.get_mut(&queued.port) {
                port.io.release(queued.frame);
            }
        }
    }

    fn install(&mut self, install: &Install, now: u64) {
        let peer = self
            .peers
            .get_mut(install.workstation as usize)
            .and_then(Option::as_mut);
        let (Some(peer), Some(port)) = (peer, self.ports.get_mut(&install.port)) else {
            return self.outbox.push_back(Event::Erased(install.index));
        };
        let Ok(session) = Session::new(install, self.engine, now) else {
            return self.outbox.push_back(Event::Erased(install.index));
        };
        if peer.port != install.port {
            // Credit is kept per port: what was counted on this one before is over.
            peer.port = install.port;
            peer.ledger = Default::default();
            port.tables.reset_credit(install.workstation);
        }
        publish_session(&port.tables, &session);
        let replaced = peer.standing.install(install.index);
        self.sessions.put(session);
        if replaced != 0 {
            self.erase(replaced);
        }
        self.outbox.push_back(Event::Installed(install.index));
    }

    fn erase(&mut self, index: u32) {
        if let Some(session) = self.sessions.take(index) {
            if let Some(port) = self.ports.get(&session.port) {
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

    /// Gives each port's finished work to the kernel.
    fn flush(&mut self) {
        let mut failed = Vec::new();
        for (id, port) in &mut self.ports {
            if !port.touched && !port.lagging {
                continue;
            }
            port.touched = false;
            self.counters.flushes.add(1);
            match port.io.flush() {
                Ok(waiting) => port.lagging = waiting > 0,
                Err(PortError::Down { .. }) => port.lagging = true,
                Err(error) if error.needs_reopening() => failed.push((*id, error)),
                Err(error) => {
                    tracing::warn!(%error, "sending failed; it is tried again with the next frames");
                    port.lagging = true;
                }
            }
        }
        for (port, error) in failed {
            self.close_port(port);
            self.outbox.push_back(Event::PortFailed { port, error });
        }
    }

    /// Finds frames that XDP counted and the rings lost.
    fn reconcile(&mut self, now: u64) {
        if now.saturating_sub(self.reconciled) < 1_000_000 {
            return;
        }
        self.reconciled = now;
        for peer in self.peers.iter_mut().flatten() {
            if !peer.ledger.due(now) {
                continue;
            }
            if let Some(port) = self.ports.get(&peer.port) {
                let admitted = port.tables.admitted(peer.id);
                let lost = peer.ledger.reconcile(admitted, port.drained, now);
                if lost > 0 {
                    peer.counters.ring_lost.add(lost);
                    port.tables
                        .set_consumed(peer.id, peer.ledger.consumed(peer.queue.len()));
                }
            }
        }
    }
}

/// Writes a session's XDP entry.
fn publish_session(tables: &PortTables, session: &Session) {
    tables.install_session(
        slot_of(session.index),
        &SessionEntry {
            index: session.index,
            workstation: session.workstation,
            key: session.admission,
            peer_mac: session.peer_mac,
            ..SessionEntry::default()
        },
    );
    tables.set_floor(slot_of(session.index), session.floor());
}

/// Tells control something that may be lost when it is behind.
fn offer(events: &Sender<Event>, counters: &WorkerCounters, event: Event) {
    if events.try_send(event).is_err() {
        counters.control_full.add(1);
    }
}
