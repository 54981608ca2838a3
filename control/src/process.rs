//! What a daemon does to itself before it holds a secret, and the signals it listens to.

use crate::confine;
use crate::problem::Problem;
use crate::thread;
use crossbeam::channel::{Receiver, bounded};
use dataplane::lifetime::Lifetime;
use nix::sys::prctl;
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// What the outside asks of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: end in good order. The wall stays up.
    Stop,
    /// SIGHUP: read configuration and Workstations again.
    Reload,
    /// SIGUSR1: at a Workstation, rekey now.
    Rekey,
}

/// Keeps secrets out of core dumps and of other processes' reach, and lets UMEM be as large as it
/// needs to be.
///
/// # Errors
/// The kernel refused.
pub fn harden() -> Result<(), Problem> {
    let failed = |what: &str| {
        let tried = format!("{what} of this process");
        move |error: nix::Error| Problem::io(tried, &error.into())
    };
    prctl::set_dumpable(false).map_err(failed("switching off core dumps and tracing"))?;
    prctl::set_no_new_privs().map_err(failed("giving up the gaining of privileges"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("setting the core dump limit"))?;
    let unlimited: rlim_t = libc::RLIM_INFINITY;
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited) {
        tracing::debug!(%error, "the limit of locked memory stays as it is; if a port's memory cannot be locked, raise it (LimitMEMLOCK=infinity)");
    }
    Ok(())
}

/// What a command does before it holds a secret: as a daemon, as far as whoever calls it may.
///
/// # Errors
/// The kernel refused.
pub fn harden_command() -> Result<(), Problem> {
    harden()?;
    confine::lock_memory();
    Ok(())
}

/// How long keys are used: as long as the protocol has it. A build with debug assertions can be told
/// less, for nobody can watch a session wear out in a test: `BLOCKS,REKEY,REJECT` in
/// `PORTCULLIS_KEY_LIFETIME` ([`Lifetime::parse`]). A release has no such variable.
///
/// # Errors
/// It says something else.
#[cfg(debug_assertions)]
pub fn key_lifetime() -> Result<Lifetime, Problem> {
    const VARIABLE: &str = "PORTCULLIS_KEY_LIFETIME";
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(Lifetime::default());
    };
    let lifetime = text.to_str().and_then(Lifetime::parse).ok_or_else(|| {
        Problem::new(
            crate::problem::Kind::Invalid,
            format!("read the variable {VARIABLE}={}", text.display()),
            "it is not BLOCKS,REKEY,REJECT (the last two in milliseconds)",
            "unset it, or correct it",
        )
    })?;
    tracing::warn!(
        ?lifetime,
        "keys are used less long than the protocol has it"
    );
    Ok(lifetime)
}

/// How long keys are used: as long as the protocol has it.
///
/// # Errors
/// None.
#[cfg(not(debug_assertions))]
pub fn key_lifetime() -> Result<Lifetime, Problem> {
    Ok(Lifetime::default())
}

/// Signals that were caught and not looked at yet.
pub struct Caught(Signals);

/// Catches the signals from now on. There is no thread for them yet.
///
/// # Errors
/// The handlers could not be installed.
pub fn catch_signals() -> Result<Caught, Problem> {
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        .map(Caught)
        .map_err(|error| Problem::io("listen for signals", &error))
}

/// Signals as they come, and those that were caught before.
///
/// # Errors
/// There is no thread to be had.
pub fn signals(Caught(mut signals): Caught) -> Result<Receiver<Signal>, Problem> {
    let (sender, receiver) = bounded(16);
    let tell = move || {
        for signal in signals.forever() {
            let signal = match signal {
                SIGHUP => Signal::Reload,
                SIGUSR1 => Signal::Rekey,
                _ => Signal::Stop,
            };
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    thread::start("signals", tell).map_err(|error| Problem::io("listen for signals", &error))?;
    Ok(receiver)
}

/// Whether serving a Workstation is to fail, for a test to see what becomes of the rest: the one that
/// `PORTCULLIS_FAILS_TO_SERVE` names. A release has no such variable.
pub fn fails_to_serve(name: &str) -> bool {
    cfg!(debug_assertions)
        && std::env::var_os("PORTCULLIS_FAILS_TO_SERVE").is_some_and(|failing| failing == name)
}
