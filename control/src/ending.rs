//! Programs that run at a terminal until they are told to end, and must end then: also when they are
//! just writing to somebody who does not read.

use crate::problem::Problem;
use nix::sys::signal::Signal;
use signal_hook::iterator::Signals;

/// The signals that tell a program to end.
const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Has `told` called once, on a thread of its own, when a signal tells this program to end. That thread
/// waits for nobody, so it can end the program whatever the others wait for.
///
/// A hang-up that was ignored when the program began (`nohup`) stays ignored.
///
/// # Errors
/// The signals cannot be waited for.
pub fn when_told(told: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    let failed = |error| Problem::io("waiting for signals", &error);
    let heard = ENDING
        .into_iter()
        .filter(|signal| *signal != Signal::SIGHUP || !is_ignored(Signal::SIGHUP));
    let mut signals = Signals::new(heard.map(|signal| signal as i32)).map_err(failed)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                told();
            }
        })
        .map_err(failed)?;
    Ok(())
}

/// Whether a signal does nothing to this process.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}
