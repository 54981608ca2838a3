//! `portcullis`: looks at a Gateway, sets it up, and says who may use it.

mod daemon;
mod enrolment;
mod files;
mod init;
mod key;
mod look;
mod workstation;

use daemon::Daemon;

use super::{Context, Outcome};
use crate::config::GATEWAY_PATH;
use crate::program;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks at a Portcullis Gateway, sets it up, and says which Workstations may use it.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    after_help = "Examples:
  portcullis                                   what the Gateway is doing
  portcullis init --port eth1                  set this machine up as a Gateway
  portcullis workstation add alpha             enrol a Workstation; writes alpha.enrolment
  portcullis workstation add beta --port eth2 --address 10.152.152.20
  portcullis workstation rotate alpha          give it new keys; disable ends its sessions
  portcullis --json show | jq '.workstations[].name'

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Arguments {
    /// The Gateway's configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = GATEWAY_PATH)]
    config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show what the Gateway is doing (the default).
    #[command(visible_alias = "status")]
    Show,
    Init(init::Arguments),
    /// Say who may use this Gateway.
    #[command(subcommand)]
    Workstation(workstation::Command),
    /// Change the Gateway's own key.
    #[command(subcommand)]
    Key(key::Command),
    /// Have the daemon read the Workstation files again.
    Reload,
    /// Check configuration, keys, Workstation files and interfaces, without changing anything.
    Check,
}

/// Runs the program.
pub fn main() -> ExitCode {
    program::finish("portcullis", run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Outcome {
    let context = Context {
        config: arguments.config,
        json: arguments.json,
    };
    match arguments.command.unwrap_or(Command::Show) {
        Command::Show => look::show(&context),
        Command::Init(arguments) => init::run(&context, arguments),
        Command::Workstation(command) => workstation::run(&context, command),
        Command::Key(command) => key::run(&context, command),
        Command::Reload => files::reload(&context),
        Command::Check => files::check(&context),
    }
}
