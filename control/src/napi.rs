//! NAPI threads of a port's interface, switched without waiting.
//!
//! The kernel takes a thread away only once it has nothing to do, which behind a flood is never; so
//! whoever writes the setting may hang as long as the flood lasts. A thread of its own does, one at a
//! time, and carries out what was wanted last.

use crate::thread;
use dataplane::link::{LinkError, set_threaded_napi};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    wanted: Option<bool>,
    tried: Option<bool>,
    is: Option<bool>,
    /// Somebody is at it.
    writing: bool,
}

/// Writes the setting of an interface, by name and index.
type Write = fn(&str, u32, bool) -> Result<(), LinkError>;

/// The NAPI threads of one interface.
#[derive(Debug)]
pub struct NapiThreads {
    interface: String,
    index: u32,
    write: Write,
    state: Arc<Mutex<State>>,
}

impl NapiThreads {
    /// Those of an interface of the calling thread's network namespace, left as they are.
    pub fn of(interface: &str, index: u32) -> Self {
        Self {
            interface: interface.to_owned(),
            index,
            write: set_threaded_napi,
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
        let (interface, index, write) = (self.interface.clone(), self.index, self.write);
        let shared = Arc::clone(&self.state);
        let carry_out = move || {
            while let Some(on) = next(&shared) {
                let outcome = write(&interface, index, on);
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
        match thread::start("napi", carry_out) {
            Ok(_) => state.writing = true,
            Err(error) => {
                // It is tried again when the port's Workstations change.
                state.wanted = None;
                tracing::warn!(port = self.interface, %error, "no thread to switch NAPI threads with; they are left as they are");
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// What was written, and whether the next write may end.
    static WRITTEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());
    static FLOODED: Mutex<()> = Mutex::new(());

    fn slow(_: &str, _: u32, on: bool) -> Result<(), LinkError> {
        WRITTEN.lock().unwrap().push(on);
        drop(FLOODED.lock());
        Ok(())
    }

    fn refused(interface: &str, _: u32, _: bool) -> Result<(), LinkError> {
        Err(LinkError::Name(interface.to_owned()))
    }

    fn threads(write: Write) -> NapiThreads {
        NapiThreads {
            write,
            ..NapiThreads::of("nosuch", 1)
        }
    }

    fn done(threads: &NapiThreads) {
        let start = Instant::now();
        while lock(&threads.state).writing {
            assert!(start.elapsed() < Duration::from_secs(10), "it never ends");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_write_that_hangs_holds_up_nobody_and_what_was_wanted_last_is_written_last() {
        let threads = threads(slow);
        let flood = FLOODED.lock().unwrap();
        threads.want(false, false);
        while WRITTEN.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        for on in [true, false, true, true] {
            threads.want(on, false);
        }
        assert!(!threads.are_on(), "the first write still hangs");
        drop(flood);
        done(&threads);
        assert_eq!(*WRITTEN.lock().unwrap(), [false, true]);
        assert!(threads.are_on());
    }

    #[test]
    fn what_is_refused_is_not_tried_for_ever_and_counts_as_off() {
        let threads = threads(refused);
        threads.want(true, false);
        done(&threads);
        assert!(!threads.are_on());
    }
}
