//! NAPI threads of a port's interface, switched without waiting.
//!
//! The kernel takes a thread away only once it has nothing to do, which behind a flood is never; so
//! whoever writes the setting may hang as long as the flood lasts. A thread of its own does, one at a
//! time, and carries out what was wanted last.

use dataplane::link::set_threaded_napi;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    wanted: Option<bool>,
    tried: Option<bool>,
    is: Option<bool>,
    /// Somebody is at it.
    writing: bool,
}

/// The NAPI threads of one interface.
#[derive(Debug)]
pub struct NapiThreads {
    interface: String,
    index: u32,
    state: Arc<Mutex<State>>,
}

impl NapiThreads {
    /// Those of an interface of the calling thread's network namespace, left as they are.
    pub fn of(interface: &str, index: u32) -> Self {
        Self {
            interface: interface.to_owned(),
            index,
            state: Arc::default(),
        }
    }

    /// Whether the interface was given threads.
    pub fn are_on(&self) -> bool {
        lock(&self.state).is == Some(true)
    }

    /// Has them on or off soon. `insisted`: the configuration says so, and it is worth a warning when
    /// it cannot be.
    pub fn want(&self, on: bool, insisted: bool) {
        let mut state = lock(&self.state);
        if state.wanted.replace(on) == Some(on) || state.writing {
            return;
        }
        let (interface, index) = (self.interface.clone(), self.index);
        let shared = Arc::clone(&self.state);
        let write = move || {
            while let Some(on) = next(&shared) {
                let outcome = set_threaded_napi(&interface, index, on);
                lock(&shared).is = outcome.is_ok().then_some(on);
                match outcome {
                    Ok(()) => tracing::debug!(port = interface, on, "NAPI threads"),
                    Err(error) if insisted => {
                        tracing::warn!(port = interface, %error, "no NAPI threads; the port works without them, with less throughput");
                    }
                    Err(error) => {
                        tracing::debug!(port = interface, %error, "NAPI threads are left as they are");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("napi".to_owned());
        state.writing = thread.spawn(write).is_ok();
    }
}

/// What is to be written next; with nothing left the writer is done.
fn next(state: &Mutex<State>) -> Option<bool> {
    let mut state = lock(state);
    // What failed once is not tried again until something else was wanted.
    if state.tried == state.wanted {
        state.writing = false;
        return None;
    }
    state.tried = state.wanted;
    state.wanted
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere leaves three flags, each of which is right by itself.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
