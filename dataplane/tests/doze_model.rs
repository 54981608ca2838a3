//! The sleep and wake of a worker through every interleaving: work that was put on the queue before
//! the bell was asked about is never slept over.

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}
// The file itself, with another kind of atomics.
#[path = "../src/worker/doze.rs"]
mod doze;

use doze::Doze;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Keeps a ring until it is waited for.
#[derive(Default)]
struct EventFd(Mutex<bool>, Condvar);

impl EventFd {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

struct Worker {
    doze: Doze,
    /// The queue, as far as the sleeper looks at it.
    waiting: AtomicUsize,
    bell: EventFd,
    rings: AtomicUsize,
}

impl Worker {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            doze: Doze::default(),
            waiting: AtomicUsize::new(0),
            bell: EventFd::default(),
            rings: AtomicUsize::new(0),
        })
    }

    fn give(&self) {
        self.waiting.fetch_add(1, Ordering::Release);
        if self.doze.must_ring() {
            self.rings.fetch_add(1, Ordering::Relaxed);
            self.bell.ring();
        }
    }

    /// Takes `count` items, sleeping whenever there are none.
    fn take(&self, count: usize) {
        let mut taken = 0;
        while taken < count {
            let waiting = self.waiting.swap(0, Ordering::Acquire);
            taken += waiting;
            if waiting > 0 {
                continue;
            }
            self.doze.lie_down();
            if self.waiting.load(Ordering::Acquire) == 0 {
                // A lost wake-up is a deadlock here, which the model reports.
                self.bell.wait();
            }
            self.doze.get_up();
        }
    }
}

fn explore(givers: usize, each: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let worker = Worker::new();
        let threads: Vec<_> = (0..givers)
            .map(|_| {
                let worker = Arc::clone(&worker);
                thread::spawn(move || (0..each).for_each(|_| worker.give()))
            })
            .collect();
        worker.take(givers * each);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(worker.rings.load(Ordering::Relaxed) <= givers * each);
    });
}

#[test]
fn a_worker_never_sleeps_over_what_one_other_gives_it() {
    explore(1, 2);
}

#[test]
fn a_worker_never_sleeps_over_what_two_others_give_it() {
    explore(2, 1);
}
