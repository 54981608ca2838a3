//! `portcullis`: looks at a Gateway, sets it up, and says who may use it.

mod daemon;
mod enrolment;
mod files;
mod init;
mod key;
pub(super) mod look;
mod workstation;

use daemon::Daemon;

use super::{Context, GLOBAL, Outcome, completions, top};
use crate::config::GATEWAY_PATH;
use crate::top::Source;
use crate::{bench, doctor, explain, process, program, watch};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks at a Portcullis Gateway, sets it up, and says who may use it.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    after_help = "Examples:
  portcullis                             # what the Gateway is doing
  portcullis top                         # the same, live
  portcullis status                      # whether all is well
  portcullis init --port eth1            # set this machine up as a Gateway
  portcullis workstation add alpha       # enrol it; writes alpha.enrolment
  portcullis workstation add beta --port eth2 --address 10.152.152.20
  portcullis workstation rotate alpha    # give it new keys
  portcullis workstation disable alpha   # end its sessions, and keep its keys
  portcullis --json show | jq '.workstations[].name'

Exit codes (doctor and status have their own):
  0  done
  1  failed
  2  wrong usage"
)]
pub struct Arguments {
    /// The Gateway's configuration.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 1000)]
    #[arg(value_name = "FILE", default_value = GATEWAY_PATH)]
    config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 1001)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Show(look::Show),
    Status(look::Look),
    Dump(look::Dump),
    #[command(after_help = top::help("portcullis"))]
    Top(top::Arguments),
    Init(init::Arguments),
    /// Say who may use this Gateway.
    #[command(
        subcommand,
        after_help = "Examples:
  portcullis workstation add alpha
  portcullis workstation list
  portcullis workstation allow alpha +tcp/9100 -icmp
  portcullis workstation disable alpha"
    )]
    Workstation(workstation::Command),
    /// Change the Gateway's own key.
    #[command(
        subcommand,
        after_help = "Examples:
  portcullis key rotate
  portcullis key retire"
    )]
    Key(key::Command),
    #[command(visible_alias = "syncconf")]
    Reload(files::Reload),
    Check(files::Check),
    /// Examine this machine, its kernel and each port, and say what is not set up right and what mends it.
    #[command(after_help = doctor::help("portcullis"))]
    Doctor(doctor::Arguments),
    /// Show samples of the frames that are dropped, live, each with its verdict.
    ///
    /// Times are UTC.
    Watch(watch::Arguments),
    /// Say what a port does with a frame, and why, step by step.
    ///
    /// The frame is put to the code that decides in XDP, over the running daemon's tables, which are only
    /// read. Without a daemon it is told as far as the frame itself decides.
    Explain(explain::Arguments),
    Bench(bench::Arguments),
    /// Print what makes the shell complete this program's arguments.
    ///
    /// The shell asks the program itself then. Names of Workstations are offered to whoever may ask the daemon.
    #[command(after_help = completions::help("portcullis"))]
    Completions(completions::Arguments),
}

/// Runs the program.
pub fn main() -> ExitCode {
    completions::answer(Arguments::command);
    program::finish("portcullis", run(super::parse(tip)))
}

/// `show` was told a name, and not of what.
fn tip(error: &mut clap::Error) {
    let usage = error.get(ContextKind::Usage).map(ToString::to_string);
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    if usage.is_some_and(|usage| usage.contains("portcullis show ")) {
        let tip = format!("to show one Workstation: portcullis show workstation {name}");
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
}

fn run(arguments: Arguments) -> Outcome {
    let context = Context {
        config: arguments.config,
        json: arguments.json,
    };
    let command = arguments
        .command
        .unwrap_or_else(|| Command::Show(look::Show::default()));
    match command {
        Command::Show(arguments) => look::show(&context, arguments),
        Command::Status(arguments) => look::status(&context, &arguments),
        Command::Dump(_) => look::dump(&context),
        Command::Top(arguments) => {
            let daemon = Daemon::of(&context.config)?;
            let source = Source::Gateway(daemon.client);
            top::run(source, &daemon.config.runtime_directory, &arguments)
        }
        Command::Init(arguments) => {
            process::harden_command()?;
            init::run(&context, arguments)
        }
        Command::Workstation(command) => {
            process::harden_command()?;
            workstation::run(&context, command)
        }
        Command::Key(command) => {
            process::harden_command()?;
            key::run(&context, command)
        }
        Command::Reload(_) => files::reload(&context),
        Command::Check(arguments) => files::check(&context, arguments),
        Command::Doctor(arguments) => doctor::gateway(&context, &arguments),
        Command::Watch(arguments) => watch::gateway(&context, arguments),
        Command::Explain(arguments) => explain::gateway(&context, arguments),
        Command::Bench(arguments) => bench::run(&context, &arguments),
        Command::Completions(arguments) => completions::run(&Arguments::command(), &arguments),
    }
}
