//! The worker threads of a daemon.

use crate::problem::Problem;
use crossbeam::channel::{Receiver, bounded};
use dataplane::PortId;
use dataplane::counters::WorkerCounters;
use dataplane::engine::Engine;
use dataplane::host::tun::TunQueue;
use dataplane::port::RingStatistics;
use dataplane::port::xsk::XskPort;
use dataplane::worker::run::{Orders, orders};
use dataplane::worker::{Command, Event, Worker, WorkerConfig};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Role;

/// How long a worker looks for work before it sleeps: about what a wake-up costs.
const SPIN: Duration = Duration::from_micros(20);
/// How long a worker may take to tell its rings' levels.
const PATIENCE: Duration = Duration::from_millis(100);
/// Events that may wait for control.
const EVENTS: usize = 4096;

/// The workers, and what they say.
pub struct Pool {
    members: Vec<Member>,
    /// What the workers report.
    pub events: Receiver<Event>,
}

struct Member {
    orders: Orders<XskPort>,
    counters: Arc<WorkerCounters>,
    thread: JoinHandle<()>,
}

/// Ends the process when its thread panics: the wall stands, and no half-working daemon does.
struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Pool {
    /// A worker for each queue of the host interface.
    ///
    /// # Errors
    /// A thread or its eventfd could not be made.
    pub fn start(role: Role, engine: Engine, queues: Vec<TunQueue>) -> Result<Self, Problem> {
        let (sender, events) = bounded(EVENTS);
        let mut members = Vec::new();
        for (at, queue) in queues.into_iter().enumerate() {
            let failed = |error| Problem::io(format!("starting worker {at}"), &error);
            let (orders, commands, bell) = orders().map_err(failed)?;
            let counters = Arc::new(WorkerCounters::default());
            let config = WorkerConfig { role, engine };
            let worker = Worker::new(
                config,
                queue,
                commands,
                sender.clone(),
                Arc::clone(&counters),
            );
            let thread = std::thread::Builder::new()
                .name(format!("worker-{at}"))
                .spawn(move || {
                    let _abort = Abort;
                    if let Err(error) = worker.run(&bell, SPIN) {
                        tracing::error!(%error, "a worker cannot wait for frames; ending");
                        std::process::abort();
                    }
                })
                .map_err(failed)?;
            members.push(Member {
                orders,
                counters,
                thread,
            });
        }
        Ok(Self { members, events })
    }

    /// How many workers there are.
    #[allow(clippy::len_without_is_empty)] // Never none.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Gives a worker a command.
    pub fn give(&self, worker: usize, command: Command<XskPort>) {
        if let Some(member) = self.members.get(worker) {
            member.orders.give(command);
        }
    }

    /// What every worker counts, by name.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.members.iter().flat_map(|member| member.counters.all())
    }

    /// Levels and losses of every port's rings; a port whose worker does not answer in time is left
    /// out.
    pub fn ring_statistics(&self) -> HashMap<PortId, RingStatistics> {
        let (sender, receiver) = bounded(self.len());
        for worker in 0..self.len() {
            self.give(worker, Command::Statistics(sender.clone()));
        }
        let deadline = Instant::now() + PATIENCE;
        (0..self.len())
            .filter_map(|_| receiver.recv_deadline(deadline).ok())
            .flatten()
            .collect()
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
