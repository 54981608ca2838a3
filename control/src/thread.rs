//! A daemon's threads: one that panics takes the process with it.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Ends the process when its thread panics: the wall stands, and no half-working daemon does.
struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Does the work on a thread of that name. A panic in it ends the process before it does anything else.
///
/// # Errors
/// There can be no more threads.
pub fn start(
    name: impl Into<String>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(|| {
        let _abort = Abort;
        work();
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Says to a copy of this test program that it is the one whose thread panics.
    const VICTIM: &str = "PORTCULLIS_TEST_THREAD_PANICS";

    #[test]
    fn a_thread_that_panics_takes_the_process_with_it() {
        if std::env::var_os(VICTIM).is_some() {
            let thread = start("victim", || panic!("injected")).unwrap();
            // A process that goes on says so by ending well.
            let _ = thread.join();
            std::process::exit(0);
        }
        let name = "thread::tests::a_thread_that_panics_takes_the_process_with_it";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    }
}
