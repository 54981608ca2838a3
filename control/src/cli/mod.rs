//! The command lines of the three programs: what they take, what they do with it, what they answer.
//!
//! [`gateway`] is `portcullis`, [`agent`] is `portcullis-agent` and [`daemon`] is `portcullisd`; the
//! programs themselves only call their `main`. [`commands`] describes all three, for whoever makes
//! man pages and completions of them. A subcommand stands in a file of its own with its arguments and
//! is run with a [`Context`]. [`help`] says how their help pages are written.

pub mod agent;
pub(crate) mod candidates;
pub mod completions;
pub mod daemon;
pub mod gateway;
pub mod help;
mod top;

use crate::program;
use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
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

/// The heading of the options that every subcommand takes: they come last, behind a subcommand's own.
const GLOBAL: &str = "Global options";

/// `--json` of a subcommand that prints nothing for programs: hidden, and refused by [`parse`].
#[derive(Debug, clap::Args)]
struct NoJson {
    #[arg(long = "json", id = "json", hide = true)]
    _given: bool,
}

/// What was typed. Ends the program where it is wrong usage, of which `explain` may say more than clap does.
fn parse<P: Parser>(explain: impl FnOnce(&mut clap::Error)) -> P {
    let mut command = P::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let matches = matches.unwrap_or_else(|mut error| {
        explain(&mut error);
        error.exit()
    });
    let (mut level, mut given) = (&command, &matches);
    while let Some((name, below)) = given.subcommand() {
        level = level.find_subcommand(name).unwrap_or(level);
        given = below;
    }
    let hidden = |arg: &clap::Arg| arg.get_id() == "json" && arg.is_hide_set();
    if level.get_arguments().any(hidden) && given.get_flag("json") {
        let what = "--json is of no use here: this command prints nothing for programs";
        let mut level = level.clone();
        level.error(ErrorKind::ArgumentConflict, what).exit();
    }
    P::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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
