//! The command lines of the three programs: what they take, what they do with it, what they answer.
//!
//! [`gateway`] is `portcullis`, [`agent`] is `portcullis-agent` and [`daemon`] is `portcullisd`; the
//! programs themselves only call their `main`. [`commands`] describes all three, for whoever makes
//! man pages and completions of them. A subcommand stands in a file of its own with its arguments and
//! is run with a [`Context`].

pub mod agent;
pub(crate) mod candidates;
pub mod completions;
pub mod daemon;
pub mod gateway;
mod top;

use crate::program;
use anyhow::Context as _;
use clap::CommandFactory;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// What a subcommand answers: the program's exit code, or what went wrong (which is exit code 1).
pub type Outcome = anyhow::Result<ExitCode>;

/// The arguments of all three programs.
pub fn commands() -> [clap::Command; 3] {
    [
        gateway::Arguments::command(),
        agent::Arguments::command(),
        daemon::Arguments::command(),
    ]
}

/// What every subcommand of a program is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// The configuration.
    pub config: PathBuf,
    /// Whether to print JSON.
    pub json: bool,
}

impl Context {
    /// Prints a value as JSON, or else the text made of it.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Outcome {
        let text = match self.json {
            true => serde_json::to_string_pretty(value).context("writing JSON")? + "\n",
            false => text(),
        };
        program::print(&text);
        Ok(ExitCode::SUCCESS)
    }
}
