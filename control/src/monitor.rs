//! The thread that watches the interfaces.

use crate::problem::{Kind, Problem};
use crate::thread;
use crossbeam::channel::{Receiver, bounded};
use dataplane::link::{LinkEvent, LinkMonitor};
use std::time::Duration;

/// Changes of the interfaces of this network namespace.
///
/// # Errors
/// Netlink could not be opened.
pub fn start() -> Result<Receiver<LinkEvent>, Problem> {
    let mut monitor =
        LinkMonitor::open().map_err(|error| problem("watch the interfaces", error))?;
    let (sender, receiver) = bounded(256);
    let watch = move || {
        loop {
            match monitor.wait(Duration::from_secs(3600)) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the interfaces cannot be watched for now; tried again in a second");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    };
    thread::start("links", watch).map_err(|error| Problem::io("watch the interfaces", &error))?;
    Ok(receiver)
}

/// A netlink error as a problem.
pub fn problem(tried: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(
        Kind::Failed,
        tried,
        error,
        "run as root, or with CAP_NET_ADMIN",
    )
}
