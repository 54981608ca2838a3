//! How a sleeping worker is woken by another: a flag that says whether it sleeps, so that the bell, a
//! system call, is rung only then.
//!
//! The sleeper says that it lies down and then looks for work once more; a waker first puts the work
//! where it will be found and then asks whether anybody sleeps. Between the two steps both have a
//! full fence, so at least one of them sees the other: either the sleeper finds the work or the waker
//! rings. `tests/doze_model.rs` runs this file through every interleaving.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether a worker sleeps.
#[derive(Debug)]
pub struct Doze(AtomicBool);

impl Default for Doze {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl Doze {
    /// The sleeper is about to sleep. It must look for work once more before it does.
    pub fn lie_down(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper is awake and looks for work from now on.
    pub fn get_up(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Asked by a waker that has put work where the sleeper looks: whether it must ring the bell.
    /// Several may have to, for the flag is the sleeper's alone to change: a waker that took it back
    /// could do so of a sleep that began after it looked.
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
