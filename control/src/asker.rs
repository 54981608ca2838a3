//! The control API's end of a daemon: asks its control thread, and waits for the answer.

use crate::problem::{Kind, Problem};
use crossbeam::channel::{Sender, bounded};

/// Asks a control thread that takes requests `R`.
pub struct Asker<R>(pub Sender<R>);

impl<R> Asker<R> {
    /// Sends the request made with the channel for its answer, and waits for that.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> R) -> Result<T, Problem> {
        let (sender, receiver) = bounded(1);
        let stopping = || {
            Problem::new(
                Kind::Unavailable,
                "asking the daemon",
                "it is stopping",
                "try again in a moment",
            )
        };
        self.0.send(request(sender)).map_err(|_| stopping())?;
        receiver.recv().map_err(|_| stopping())
    }
}
