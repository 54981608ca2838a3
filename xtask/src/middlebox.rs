//! A box in the middle of a cable that loses, duplicates, reorders and delays frames, from a seed.
//!
//! It joins two interfaces of a namespace by AF_PACKET sockets: what comes in on one leaves by the
//! other, past the kernel's stack. It also stands where a far end can be watched: every frame that
//! either side puts on the cable is counted before anything happens to it.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::attack::Noise;
use crate::rig::{Namespace, PacketKind, PacketSocket};

/// What the box does to frames.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Impairment {
    /// The part of frames that are lost.
    pub loss: f64,
    /// The part of frames that come twice.
    pub duplication: f64,
    /// The part of frames that are held back by [`Impairment::hold`], so that later ones overtake.
    pub reordering: f64,
    /// How long a reordered frame is held back.
    pub hold: Duration,
    /// How long every frame takes.
    pub delay: Duration,
    /// Nothing passes at all.
    pub cut: bool,
    /// Frames of more bytes than this are lost, without a word; 0 for none.
    pub largest: usize,
}

/// A frame on its way, ordered by when it is due, the earliest greatest.
struct Waiting {
    due: Instant,
    number: u64,
    frame: Vec<u8>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
}

/// The box, until it is dropped.
#[derive(Debug)]
pub struct Middlebox {
    stop: Arc<AtomicBool>,
    impairment: Arc<Mutex<Impairment>>,
    counters: [Arc<Counters>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Middlebox {
    /// Joins interfaces `a` and `b` of `namespace`, which are up and whose offloads are off.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub fn join(
        namespace: &Namespace,
        a: &str,
        b: &str,
        seed: u64,
        impairment: Impairment,
    ) -> Result<Self> {
        let mut middlebox = Self {
            stop: Arc::default(),
            impairment: Arc::new(Mutex::new(impairment)),
            counters: Default::default(),
            threads: Vec::new(),
        };
        for (way, (from, to)) in [(a, b), (b, a)].into_iter().enumerate() {
            let receiver = PacketSocket::open(namespace, Some(from))?;
            receiver.ignore_outgoing()?;
            let sender = PacketSocket::sender(namespace, to)?;
            let path = Path {
                receiver,
                sender,
                stop: Arc::clone(&middlebox.stop),
                impairment: Arc::clone(&middlebox.impairment),
                counters: Arc::clone(&middlebox.counters[way]),
                noise: Noise::new(seed ^ (way as u64) << 32),
            };
            middlebox
                .threads
                .push(std::thread::spawn(move || path.carry()));
        }
        Ok(middlebox)
    }

    /// Changes what is done to frames from now on.
    pub fn impair(&self, impairment: Impairment) {
        *self.impairment.lock().unwrap_or_else(|e| e.into_inner()) = impairment;
    }

    /// Frames that came in: from `a`, and from `b`.
    pub fn received(&self) -> [u64; 2] {
        self.each(|counters| &counters.received)
    }

    /// Frames that were sent on: from `a` to `b`, and from `b` to `a`.
    pub fn sent(&self) -> [u64; 2] {
        self.each(|counters| &counters.sent)
    }

    /// Frames that were lost on purpose: from `a`, and from `b`.
    pub fn lost(&self) -> [u64; 2] {
        self.each(|counters| &counters.lost)
    }

    fn each(&self, which: impl Fn(&Counters) -> &AtomicU64) -> [u64; 2] {
        [0, 1].map(|way| which(&self.counters[way]).load(Ordering::Relaxed))
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One direction.
struct Path {
    receiver: PacketSocket,
    sender: PacketSocket,
    stop: Arc<AtomicBool>,
    impairment: Arc<Mutex<Impairment>>,
    counters: Arc<Counters>,
    noise: Noise,
}

impl Path {
    fn carry(mut self) {
        let mut waiting = BinaryHeap::new();
        let mut buffer = vec![0; 70_000];
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let next = waiting
                .peek()
                .map(|first: &Waiting| first.due.saturating_duration_since(Instant::now()));
            let patience = Duration::from_millis(10);
            self.receiver
                .readable(next.map_or(patience, |due| due.min(patience)));
            let impairment = *self.impairment.lock().unwrap_or_else(|e| e.into_inner());
            // Bounded, so that frames that are due leave in time.
            for _ in 0..64 {
                let Some((kind, len)) = self.receiver.receive(&mut buffer) else {
                    break;
                };
                if kind == PacketKind::Incoming {
                    self.take(&buffer[..len], &impairment, &mut number, &mut waiting);
                }
            }
            let now = Instant::now();
            while waiting.peek().is_some_and(|first| first.due <= now) {
                if let Some(first) = waiting.pop() {
                    self.sender.send(&first.frame);
                    self.counters.sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn take(
        &mut self,
        frame: &[u8],
        impairment: &Impairment,
        number: &mut u64,
        waiting: &mut BinaryHeap<Waiting>,
    ) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        let too_large = impairment.largest > 0 && frame.len() > impairment.largest;
        if impairment.cut || too_large || self.noise.happens(impairment.loss) {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let copies = 1 + usize::from(self.noise.happens(impairment.duplication));
        for _ in 0..copies {
            let mut due = Instant::now() + impairment.delay;
            if self.noise.happens(impairment.reordering) {
                due += impairment.hold;
            }
            *number += 1;
            waiting.push(Waiting {
                due,
                number: *number,
                frame: frame.to_vec(),
            });
        }
    }
}
