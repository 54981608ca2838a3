//! Ports without keys, as the daemon has them seen to.

use super::{Answer, Helper, Request, unexpected};
use crate::config::Digest;
use crate::keyless::Standing;
use crate::problem::Problem;
use dataplane::wall::KeylessCounters;
use std::sync::Arc;

/// How a port is; and its wall's counters, if it was raised since that was last asked.
type Found = (Standing, Option<KeylessCounters>);

/// One port without keys, as the helper sees to it.
#[derive(Debug, Clone)]
pub struct KeylessHelp {
    helper: Arc<Helper>,
    port: usize,
}

impl KeylessHelp {
    /// The help for the port of this number in the [`super::KeylessScope`].
    pub fn new(helper: &Arc<Helper>, port: usize) -> Self {
        Self {
            helper: Arc::clone(helper),
            port,
        }
    }

    /// Whether the interface can be such a port. It is not touched.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self) -> Result<(), Problem> {
        let port = self.port;
        self.helper.done(&Request::CheckKeyless { port })
    }

    /// Raises it, as [`crate::keyless::Port::raise`] does.
    ///
    /// # Errors
    /// The step that failed.
    pub fn raise(&self) -> Result<Found, Problem> {
        let port = self.port;
        self.found(&Request::RaiseKeyless { port })
    }

    /// Looks after it, as [`crate::keyless::Port::look`] does.
    ///
    /// # Errors
    /// The helper is gone.
    pub fn look(&self) -> Result<Found, Problem> {
        let port = self.port;
        self.found(&Request::LookKeyless { port })
    }

    /// Has it be as the configuration file says now.
    ///
    /// # Errors
    /// The file says something else than was `read`, or as [`crate::keyless::Port::change`].
    pub fn change(&self, read: Digest) -> Result<Found, Problem> {
        let port = self.port;
        self.found(&Request::ChangeKeyless { port, read })
    }

    /// Has the last change taken back.
    ///
    /// # Errors
    /// As [`crate::keyless::Port::take_back`].
    pub fn take_back(&self) -> Result<Found, Problem> {
        let port = self.port;
        self.found(&Request::TakeBackKeyless { port })
    }

    fn found(&self, request: &Request) -> Result<Found, Problem> {
        let (answer, counters) = self.helper.ask(request)?;
        let Answer::Keyless(standing) = answer else {
            return Err(unexpected(answer));
        };
        let counters = match counters.is_empty() {
            true => None,
            false => Some(counters.try_into().map_err(|error| {
                Problem::io("taking over the counters of a port without keys", &error)
            })?),
        };
        Ok((standing, counters))
    }
}
