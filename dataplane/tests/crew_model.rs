//! What the workers of a crew share, through every interleaving: no buffer is lost or made twice, and
//! a worker that is told that all is quiet has everything that was on its way to it.

mod atomics {
    pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}
mod queue {
    //! crossbeam's queue as far as it is used: its own tests are its proof.
    use loom::sync::Mutex;
    use std::collections::VecDeque;

    pub struct ArrayQueue<T>(Mutex<VecDeque<T>>, usize);

    impl<T> ArrayQueue<T> {
        pub fn new(capacity: usize) -> Self {
            Self(Mutex::new(VecDeque::new()), capacity)
        }

        pub fn push(&self, value: T) -> Result<(), T> {
            let mut queue = self.0.lock().unwrap();
            if queue.len() == self.1 {
                return Err(value);
            }
            queue.push_back(value);
            Ok(())
        }

        pub fn pop(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }

        pub fn capacity(&self) -> usize {
            self.1
        }
    }
}
// The files themselves, with another kind of atomics and queue.
#[path = "../src/worker/pool.rs"]
mod pool;
#[path = "../src/worker/quiet.rs"]
mod quiet;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use pool::Pool;
use quiet::Quiet;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn there_are_never_more_buffers_than_places_and_none_is_lost() {
    const SIZE: usize = 2;
    check(|| {
        let pool = Arc::new(Pool::new(SIZE));
        let held = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (pool, held) = (Arc::clone(&pool), Arc::clone(&held));
                thread::spawn(move || {
                    for _ in 0..2 {
                        let Some(buffer) = pool.take(8) else { continue };
                        assert!(buffer.is_empty());
                        assert!(held.fetch_add(1, Ordering::SeqCst) < SIZE);
                        held.fetch_sub(1, Ordering::SeqCst);
                        pool.give_back(buffer);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        // All that were made are there again, and no more can be had.
        let all: Vec<_> = std::iter::from_fn(|| pool.take(8)).collect();
        assert_eq!(all.len(), SIZE);
    });
}

/// The owner's queue as far as it is looked at, and no more ordered than it must be: what orders it
/// is what is tested.
#[derive(Default)]
struct Waiting(AtomicUsize);

impl Waiting {
    fn push(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn who_finds_all_quiet_and_its_queue_empty_has_everything_that_was_on_its_way() {
    check(|| {
        let queue = Arc::new(Waiting::default());
        let others: Vec<_> = (0..2).map(|_| Arc::new(Quiet::new())).collect();
        others.iter().for_each(|quiet| quiet.set(0));
        let threads: Vec<_> = others
            .iter()
            .map(|quiet| {
                let (queue, quiet) = (Arc::clone(&queue), Arc::clone(quiet));
                thread::spawn(move || {
                    // What was in this worker's ring at moment 5.
                    queue.push();
                    quiet.set(5);
                })
            })
            .collect();
        let mut taken = 0;
        for _ in 0..2 {
            // The owner takes what is there, then asks.
            taken += queue.take();
            let settled = others.iter().all(|quiet| quiet.since(5)) && queue.is_empty();
            assert!(!settled || taken == others.len(), "told too early");
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
