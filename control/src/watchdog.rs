//! systemd's watchdog: it hears that the daemon lives while the control loop turns and every worker
//! answers. A worker that is stuck lets nothing pass, and would never serve again: systemd then ends the
//! daemon and starts it anew (`sd_watchdog_enabled(3)`).

use crate::pool::Pool;
use crossbeam::channel::{Receiver, never};
use dataplane::PortId;
use dataplane::port::RingStatistics;
use std::time::{Duration, Instant};

/// Of the time that systemd waits, this part passes between two signs of life.
const PART: u32 = 4;

/// What is still to be heard from the workers, and when systemd was told last.
pub struct Watchdog {
    /// Between two signs of life; none where nobody waits for one.
    every: Option<Duration>,
    asked: Instant,
    answers: Receiver<Vec<(PortId, RingStatistics)>>,
    missing: usize,
    /// Whether the log says already that a worker does not answer.
    said: bool,
}

impl Watchdog {
    /// As the service's unit has it (`WatchdogSec=`).
    pub fn from_environment() -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|time| time / PART),
            asked: Instant::now(),
            answers: never(),
            missing: 0,
            said: false,
        }
    }

    /// To be called in every turn of the control loop, which must turn a few times in the watchdog's time.
    pub fn look(&mut self, pool: &Pool) {
        let Some(every) = self.every else { return };
        if self.asked.elapsed() < every {
            return;
        }
        self.missing -= self.answers.try_iter().count().min(self.missing);
        if self.missing > 0 {
            if !self.said && self.asked.elapsed() > 2 * every {
                self.said = true;
                let silent = self.missing;
                tracing::error!(
                    silent,
                    "workers do not answer: systemd will restart this daemon"
                );
            }
            return;
        }
        self.said = false;
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::debug!(%error, "systemd was not told that the daemon lives");
        }
        self.asked = Instant::now();
        self.answers = pool.ask_statistics();
        self.missing = pool.len();
    }
}
