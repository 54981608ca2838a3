//! Scaling: several workers, a thread each, that open frames from rings in memory.
//!
//! In each round every worker's receive ring is filled, then all work at once until every frame has
//! been opened by the worker that has its session; that time is measured, filling is not. With
//! [`Way::Own`] the frames come in where they belong, with [`Way::Handed`] each at the worker before,
//! so that every one changes hands. More workers than the machine has cores only take turns.

use crate::pipeline::{HOST, address, packet, policy, sealed, surroundings};
use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::counters::{PeerCounters, WorkerCounters};
use dataplane::engine::Engine;
use dataplane::host::memory::MemoryHost;
use dataplane::keys::{Cipher, Protection};
use dataplane::port::memory::{FarEnd, MemoryConfig, MemoryPort};
use dataplane::session::{Session, pair_for_tests};
use dataplane::wall::PortTables;
use dataplane::worker::crew::{Crew, Seat, Sizes};
use dataplane::worker::run::orders;
use dataplane::worker::{Command, Event, PeerSetup, PortSetup, Worker, WorkerConfig};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use wire::Role;
use wire::limits::{ETHERTYPE, SECOND};

/// Frames of each worker in a round: half of what its ring holds.
const ROUND: usize = 1024;

/// Where frames come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// At the worker that has their session.
    Own,
    /// At another.
    Handed,
}

struct Member {
    worker: Worker<MemoryPort, MemoryHost>,
    far: FarEnd,
    /// The other end of the session whose frames come in here.
    remote: Session,
    packet: Vec<u8>,
    /// What is counted of the session that is had here.
    opened: Arc<PeerCounters>,
    counters: Arc<WorkerCounters>,
    events: Receiver<Event>,
    _commands: Sender<Command<MemoryPort>>,
}

fn crew(workers: usize, way: Way, size: usize, engine: Engine) -> Vec<Member> {
    let bells = (0..workers).map(|_| orders::<MemoryPort>().expect("an eventfd").2);
    let sizes = Sizes {
        frames: 4 * ROUND,
        ports: 1,
        sessions: workers + 1,
        workstations: workers + 1,
    };
    let crew = Crew::new(bells, sizes);
    let slots = workers as u32 + 1;
    let tables = Arc::new(PortTables::in_memory(slots, slots).expect("tables in memory"));
    let mut remotes: Vec<Option<Session>> = Vec::new();
    let mut members = Vec::new();
    let mut parts = Vec::new();
    for at in 0..workers {
        let (commands, receiver) = unbounded();
        let (sender, events) = unbounded();
        let counters = Arc::new(WorkerCounters::default());
        let config = WorkerConfig {
            role: Role::Gateway,
            engine,
        };
        let host = MemoryHost::discarding().with_udp_segments(false);
        let mut worker = Worker::new(config, host, receiver, sender, Arc::clone(&counters));
        if let Some(seat) = Seat::new(&crew, at) {
            worker = worker.with_seat(seat);
        }
        let (io, far) = MemoryPort::open(&MemoryConfig::default()).expect("rings in memory");
        let give = |command| commands.send(command).expect("the worker is here");
        give(Command::AddPort(Box::new(PortSetup {
            id: 0,
            io,
            tables: Arc::clone(&tables),
            mac: [2, 0, 0, 0, 0, 1],
            encapsulation: dataplane::path::Encapsulation::Ether(ETHERTYPE),
        })));
        let opened: Arc<PeerCounters> = Arc::default();
        give(Command::SetSurroundings(Arc::new(surroundings())));
        let policy = Arc::new(policy());
        for id in 0..workers {
            give(Command::AddPeer(Box::new(PeerSetup {
                id: id as u32,
                prefixes: vec![ipnet::IpNet::from(std::net::IpAddr::from(address(id)))],
                policy: Arc::clone(&policy),
                counters: if id == at {
                    Arc::clone(&opened)
                } else {
                    Arc::default()
                },
            })));
        }
        let index = 0x1_0000 | at as u32;
        let (mut ours, theirs) = pair_for_tests(
            at as u8,
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            (index, index),
        );
        ours.workstation = at as u32;
        crew.set_owner(at as u16, Some(at));
        give(Command::Install(Box::new(ours)));
        worker.step(SECOND);
        remotes.push(Some(
            Session::new(&theirs, engine, SECOND).expect("the engine takes keys"),
        ));
        parts.push((worker, far, opened, counters, events, commands));
    }
    for (at, (worker, far, opened, counters, events, commands)) in parts.into_iter().enumerate() {
        let whose = match way {
            Way::Own => at,
            Way::Handed => (at + 1) % workers,
        };
        members.push(Member {
            worker,
            far,
            remote: remotes[whose].take().expect("one for each"),
            packet: packet(address(whose), HOST, size, false),
            opened,
            counters,
            events,
            _commands: commands,
        });
    }
    members
}

impl Member {
    fn fill(&mut self, now: u64) {
        for _ in 0..ROUND {
            let frame = sealed(&mut self.remote, &self.packet, now);
            assert!(self.far.inject(&frame), "the receive ring has room");
        }
        while self.events.try_recv().is_ok() {}
    }

    /// Works until so many frames have come in here, and as many been opened.
    fn work(&mut self, target: u64, now: u64) {
        while self.counters.received.get() < target || self.opened.opened.get() < target {
            if !self.worker.step(now) {
                std::thread::yield_now();
            }
        }
    }
}

/// Million frames a second that `workers` open together, one value a round, for about `time`; the
/// first tenth is not counted.
///
/// # Panics
/// When the rings cannot be made, or frames are lost: then this does not end.
pub fn mpps(workers: usize, way: Way, size: usize, time: Duration) -> Vec<f64> {
    let members = crew(workers, way, size, Engine::Auto);
    let barrier = Barrier::new(workers);
    let start = Instant::now();
    let barrier = &barrier;
    let stop = &AtomicBool::new(false);
    // When the first of them began, in nanoseconds since `start`.
    let began = &AtomicU64::new(u64::MAX);
    let mut rates: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(at, mut member)| {
                scope.spawn(move || {
                    let mut rates = Vec::new();
                    let mut now = SECOND;
                    for round in 1.. {
                        now += SECOND / 1000;
                        member.fill(now);
                        barrier.wait();
                        began.fetch_min(start.elapsed().as_nanos() as u64, Relaxed);
                        member.work(round * ROUND as u64, now);
                        barrier.wait();
                        let ended = start.elapsed().as_nanos() as u64;
                        if at == 0 {
                            let took = ended - began.swap(u64::MAX, Relaxed);
                            rates.push((workers * ROUND) as f64 * 1e3 / took as f64);
                        }
                        if at == 0 && rates.len() >= 20 && start.elapsed() > time {
                            stop.store(true, Relaxed);
                        }
                        barrier.wait();
                        if stop.load(Relaxed) {
                            break;
                        }
                    }
                    rates
                })
            })
            .collect();
        let mut all = threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker's thread"));
        all.next().unwrap_or_default()
    });
    let warm = rates.len() / 10;
    rates.split_off(warm)
}
