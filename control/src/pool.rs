//! The worker threads of a daemon.

use crate::metrics::Batches;
use crate::problem::Problem;
use crate::thread;
use crossbeam::channel::{Receiver, bounded};
use dataplane::counters::WorkerCounters;
use dataplane::engine::Engine;
use dataplane::host::tun::TunQueue;
use dataplane::lifetime::Lifetime;
use dataplane::port::xsk::XskPort;
use dataplane::port::{Port, RingStatistics};
use dataplane::tap::Tap;
use dataplane::worker::crew::{Crew, Seat, Sizes};
use dataplane::worker::run::{Orders, orders};
use dataplane::worker::{Command, Event, Worker, WorkerConfig};
use dataplane::{PortId, WorkstationId};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Role;
use wire::header::slot_of;

/// How long a worker may take to tell its rings' levels.
const PATIENCE: Duration = Duration::from_millis(100);
/// Events that may wait for control.
const EVENTS: usize = 4096;

/// What a worker can be given: its thread takes it along.
pub trait Ring: Port<Frame: Send> + Send + 'static {}

impl<P: Port<Frame: Send> + Send + 'static> Ring for P {}

/// The workers, and what they say. `P` is the kind of port they serve.
pub struct Pool<P = XskPort> {
    members: Vec<Member<P>>,
    /// What they share, where there are several.
    crew: Option<Arc<Crew>>,
    /// What the workers report.
    pub events: Receiver<Event>,
}

/// How the workers are to be.
pub struct Settings {
    /// Which end this is.
    pub role: Role,
    /// The AEAD engine.
    pub engine: Engine,
    /// The core of each; `None` where it is not pinned.
    pub cores: Vec<Option<usize>>,
    /// How long they look for work before they sleep.
    pub spin: Duration,
    /// How long keys are used.
    pub lifetime: Lifetime,
    /// What they hand each other has room in.
    pub sizes: Sizes,
    /// Where what they drop can be watched.
    pub tap: Arc<Tap>,
}

struct Member<P> {
    core: Option<usize>,
    orders: Orders<P>,
    counters: Arc<WorkerCounters>,
    thread: JoinHandle<()>,
}

impl<P: Ring> Pool<P> {
    /// A worker for each queue of the host interface.
    ///
    /// # Errors
    /// A thread or its eventfd could not be made.
    pub fn start(settings: Settings, queues: Vec<TunQueue>) -> Result<Self, Problem> {
        let (sender, events) = bounded(EVENTS);
        let mut members = Vec::new();
        let channels = (0..queues.len())
            .map(|at| {
                let failed = |error| Problem::io(format!("starting worker {at}"), &error);
                orders().map_err(failed)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bells = channels.iter().map(|(_, _, bell)| bell.clone());
        let crew = (queues.len() > 1).then(|| Crew::new(bells, settings.sizes));
        let (role, engine, spin) = (settings.role, settings.engine, settings.spin);
        for (at, (queue, channel)) in queues.into_iter().zip(channels).enumerate() {
            let failed = |error| Problem::io(format!("starting worker {at}"), &error);
            let (orders, commands, bell) = channel;
            let core = settings.cores.get(at).copied().flatten();
            let counters = Arc::new(WorkerCounters::default());
            let config = WorkerConfig { role, engine };
            let mut worker = Worker::new(
                config,
                queue,
                commands,
                sender.clone(),
                Arc::clone(&counters),
            )
            .with_lifetime(settings.lifetime)
            .with_tap(Arc::clone(&settings.tap));
            if let Some(seat) = crew.as_ref().and_then(|crew| Seat::new(crew, at)) {
                worker = worker.with_seat(seat);
            }
            let work = move || {
                if let Some(core) = core {
                    pin(at, core);
                }
                if let Err(error) = worker.run(&bell, spin) {
                    tracing::error!(%error, "a worker cannot wait for frames; ending, for systemd to start it again (the wall stays up)");
                    std::process::abort();
                }
            };
            let thread = thread::start(format!("worker-{at}"), work).map_err(failed)?;
            members.push(Member {
                core,
                orders,
                counters,
                thread,
            });
        }
        Ok(Self {
            members,
            crew,
            events,
        })
    }

    /// How many workers there are.
    #[allow(clippy::len_without_is_empty)] // Never none.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The core of each worker; `None` where it is not pinned.
    pub fn cores(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.members.iter().map(|member| member.core)
    }

    /// Says whose a session is, before it is installed; `None` once it is erased.
    pub fn set_owner(&self, index: u32, worker: Option<usize>) {
        if let Some(crew) = &self.crew {
            crew.set_owner(slot_of(index), worker);
        }
    }

    /// Says which worker sends to a Workstation.
    pub fn set_sender(&self, id: WorkstationId, worker: Option<usize>) {
        if let Some(crew) = &self.crew {
            crew.set_sender(id, worker);
        }
    }

    /// Gives a worker a command.
    pub fn give(&self, worker: usize, command: Command<P>) {
        if let Some(member) = self.members.get(worker) {
            member.orders.give(command);
        }
    }

    /// What every worker counts, by name.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.members.iter().flat_map(|member| member.counters.all())
    }

    /// Those of them that are drops.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.members
            .iter()
            .flat_map(|member| member.counters.drops())
    }

    /// How long each worker's batches took.
    pub fn batches(&self) -> Vec<Batches> {
        let of = |member: &Member<P>| Batches {
            counts: member.counters.batches.counts().collect(),
            nanoseconds: member.counters.batches.total(),
        };
        self.members.iter().map(of).collect()
    }

    /// Asks every worker for the levels and losses of its ports' rings: one answer each.
    pub fn ask_statistics(&self) -> Receiver<Vec<(PortId, RingStatistics)>> {
        let (sender, receiver) = bounded(self.len());
        for worker in 0..self.len() {
            self.give(worker, Command::Statistics(sender.clone()));
        }
        receiver
    }

    /// Losses of every port's rings, and where their frames are; a port whose worker does not answer in time is left
    /// out.
    pub fn ring_statistics(&self) -> HashMap<PortId, RingStatistics> {
        let receiver = self.ask_statistics();
        let deadline = Instant::now() + PATIENCE;
        let answers = (0..self.len()).filter_map(|_| receiver.recv_deadline(deadline).ok());
        // A port is in several answers when several workers serve it.
        let mut all = HashMap::new();
        for (port, part) in answers.flatten() {
            let sum: &mut RingStatistics = all.entry(port).or_default();
            sum.rx_ring_full += part.rx_ring_full;
            sum.fill_ring_empty += part.fill_ring_empty;
            sum.rx_dropped += part.rx_dropped;
            sum.tx_invalid += part.tx_invalid;
            sum.frames.receiving += part.frames.receiving;
            sum.frames.sending += part.frames.sending;
            sum.frames.held += part.frames.held;
            sum.frames.stash += part.frames.stash;
            sum.frames.free += part.frames.free;
        }
        all
    }

    /// Stops every worker and waits for it: its sockets close, the wall stays.
    pub fn stop(self) {
        for member in &self.members {
            member.orders.give(Command::Stop);
        }
        for member in self.members {
            let _ = member.thread.join();
        }
    }
}

/// Pins the calling thread, which is worker `at`'s.
fn pin(at: usize, core: usize) {
    let mut cores = CpuSet::new();
    let pinned = cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    if let Err(error) = pinned {
        tracing::warn!(%error, worker = at, core, "the worker is not pinned to its core; the kernel moves it about");
    }
}
