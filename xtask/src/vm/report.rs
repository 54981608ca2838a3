//! What a guest tells of itself: a line of JSON for each, on its second serial port.

use serde::{Deserialize, Serialize};

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All of it held.
    Passed,
    /// Something did not.
    Failed,
    /// It means nothing for this driver or kernel.
    Skipped,
}

impl Ended {
    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// The guest is up.
    Booted {
        /// `uname -r`.
        kernel: String,
        /// Seconds since its kernel started.
        uptime: f64,
    },
    /// A scenario begins.
    Began {
        /// Its name.
        scenario: String,
    },
    /// A scenario has ended.
    Scenario(Scenario),
    /// Nothing follows.
    End,
}

/// A scenario that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name.
    pub scenario: String,
    /// How.
    pub ended: Ended,
    /// What was seen, or why it failed or was left out.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}
