//! Buffers that go round between those who fill them and the one who empties them. `tests/crew_model.rs`
//! runs this file through every interleaving.

use super::atomics::{AtomicUsize, Ordering};
use super::queue::ArrayQueue;

/// The buffers of one worker's queue.
pub struct Pool {
    spare: ArrayQueue<Vec<u8>>,
    made: AtomicUsize,
}

impl Pool {
    /// None made yet, and `size` of them at most.
    pub fn new(size: usize) -> Self {
        Self {
            spare: ArrayQueue::new(size),
            made: AtomicUsize::new(0),
        }
    }

    /// An empty buffer; a new one while there are not yet as many as there may be.
    pub fn take(&self, capacity: usize) -> Option<Vec<u8>> {
        if let Some(buffer) = self.spare.pop() {
            return Some(buffer);
        }
        let most = self.spare.capacity();
        let more = |made: usize| (made < most).then_some(made + 1);
        self.made
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Vec::with_capacity(capacity))
    }

    /// The buffer is empty again.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // There is room for as many as there are.
        let _ = self.spare.push(buffer);
    }
}
