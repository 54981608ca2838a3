//! What the configuration says of the workers' cores, a port's queues and busy polling.

use super::check::Check;
use crate::choices::{ThreadedNapi, Xdp, ZeroCopy};
use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use toml::{Spanned, Value};

/// How long a worker looks for work before it sleeps, unless told otherwise: about what a wake-up
/// costs.
pub const SPIN: Duration = Duration::from_micros(20);
/// Frames the kernel sends per system call in copy mode, unless told otherwise.
pub const TX_BUDGET: u32 = 64;
/// The least the kernel takes as that.
const LEAST_TX_BUDGET: i64 = 32;
/// The cores that can be named.
const CORES: usize = 1024;
/// The queues of a port that can have a socket.
const QUEUES: i64 = 128;

/// How a port's XDP program is attached and its rings are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// How the XDP program is attached.
    pub xdp: Xdp,
    /// Descriptors in each ring, a power of two.
    pub size: u32,
    /// Whether frames are shared with the NIC.
    pub zero_copy: ZeroCopy,
    /// How many receive queues are used, from the first; `None` for all.
    pub queues: Option<u32>,
    /// Whether frames lie in huge pages where there are any.
    pub huge_pages: bool,
    /// Frames the kernel sends per system call in copy mode.
    pub tx_budget: u32,
    /// Busy polling, where it is asked for.
    pub busy_poll: Option<BusyPoll>,
    /// Whether the interface's receive work is done by kernel threads.
    pub threaded_napi: ThreadedNapi,
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            xdp: Xdp::Auto,
            size: 2048,
            zero_copy: ZeroCopy::Auto,
            queues: None,
            huge_pages: false,
            tx_budget: TX_BUDGET,
            busy_poll: None,
            threaded_napi: ThreadedNapi::Auto,
        }
    }
}

/// The cores that workers are pinned to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cores {
    /// Chosen at start from those the process may use.
    #[default]
    Auto,
    /// None: the kernel moves the workers about.
    Off,
    /// These, one worker each, in this order.
    These(Vec<usize>),
}

/// The kernel polls a port's queues when the worker asks, instead of when the NIC interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyPoll {
    /// Microseconds of one poll (SO_BUSY_POLL).
    pub microseconds: u32,
    /// Frames of one poll (SO_BUSY_POLL_BUDGET).
    pub budget: u32,
    /// Whether interrupts are held back as long as it is polled (SO_PREFER_BUSY_POLL).
    pub prefer: bool,
}

/// The settings of a port's rings that have to do with how fast they are served.
pub(super) struct RawRings {
    pub queues: Option<Spanned<Value>>,
    pub huge_pages: Option<bool>,
    pub tx_budget: Option<Spanned<i64>>,
    pub busy_poll: Option<Spanned<i64>>,
    pub busy_poll_budget: Option<Spanned<i64>>,
    pub prefer_busy_poll: Option<bool>,
    pub threaded_napi: ThreadedNapi,
}

impl Check<'_> {
    pub(super) fn spin(&self, value: Option<&Spanned<i64>>) -> Result<Duration, Problem> {
        match value {
            None => Ok(SPIN),
            Some(value) => {
                let micros = self.number("spin (in microseconds)", value, 0..=100_000)?;
                Ok(Duration::from_micros(micros.unsigned_abs()))
            }
        }
    }

    pub(super) fn queues(&self, value: Option<&Spanned<Value>>) -> Result<Option<u32>, Problem> {
        let Some(value) = value else { return Ok(None) };
        match value.get_ref() {
            Value::String(all) if all == "all" => Ok(None),
            Value::Integer(count) if (1..=QUEUES).contains(count) => Ok(Some(*count as u32)),
            other => Err(self.problem(
                value.span().start,
                format!("queues is {other}"),
                format!("give a number from 1 to {QUEUES}, or \"all\""),
            )),
        }
    }

    pub(super) fn tx_budget(
        &self,
        value: Option<&Spanned<i64>>,
        ring_size: u32,
    ) -> Result<u32, Problem> {
        match value {
            None => Ok(TX_BUDGET),
            Some(value) => {
                let range = LEAST_TX_BUDGET..=i64::from(ring_size);
                Ok(self.number("tx_budget", value, range)? as u32)
            }
        }
    }

    pub(super) fn busy_poll(&self, raw: &RawRings) -> Result<Option<BusyPoll>, Problem> {
        let microseconds = match &raw.busy_poll {
            None => 0,
            Some(value) => self.number("busy_poll (in microseconds)", value, 0..=10_000)? as u32,
        };
        let budget = match &raw.busy_poll_budget {
            None => 64,
            Some(value) => self.number("busy_poll_budget", value, 1..=256)? as u32,
        };
        Ok((microseconds > 0).then_some(BusyPoll {
            microseconds,
            budget,
            prefer: raw.prefer_busy_poll.unwrap_or(true),
        }))
    }

    /// Which cores, and that there are enough for as many workers as are asked for.
    pub(super) fn cores(
        &self,
        value: Option<&Spanned<Value>>,
        workers: Option<usize>,
    ) -> Result<Cores, Problem> {
        let Some(value) = value else {
            return Ok(Cores::Auto);
        };
        let at = value.span().start;
        let form = "give a list like [2, 3] or [\"2-5\", 8], or \"auto\", or \"off\"";
        let list = match value.get_ref() {
            Value::String(word) if word == "auto" => return Ok(Cores::Auto),
            Value::String(word) if word == "off" => return Ok(Cores::Off),
            Value::Array(list) if !list.is_empty() => list,
            other => return Err(self.problem(at, format!("cores is {other}"), form)),
        };
        let mut cores = Vec::new();
        for entry in list {
            let range = range(entry)
                .ok_or_else(|| self.problem(at, format!("cores contains {entry}"), form))?;
            for core in range {
                if cores.contains(&core) {
                    return Err(self.problem(
                        at,
                        format!("core {core} is named twice"),
                        "name each core once: it has one worker",
                    ));
                }
                cores.push(core);
            }
        }
        if let Some(workers) = workers.filter(|workers| *workers > cores.len()) {
            return Err(self.problem(
                at,
                format!("there are {workers} workers and {} cores", cores.len()),
                "name a core for each worker, or leave `workers` out",
            ));
        }
        Ok(Cores::These(cores))
    }
}

/// A core's number, or a range of them in quotes.
fn range(entry: &Value) -> Option<std::ops::RangeInclusive<usize>> {
    let (first, last) = match entry {
        Value::Integer(core) => {
            let core = usize::try_from(*core).ok()?;
            (core, core)
        }
        Value::String(text) => match text.split_once('-') {
            Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
            None => {
                let core = text.trim().parse().ok()?;
                (core, core)
            }
        },
        _ => return None,
    };
    (first <= last && last < CORES).then_some(first..=last)
}
