//! `portcullis-agent`: the Workstation's end of the tunnel.

mod enroll;
mod keygen;
mod look;

use super::{GLOBAL, NoJson, Outcome, completions, top};
use crate::api::client::Client;
use crate::config::{AGENT_PATH, Agent};
use crate::enrolment::{Encapsulation, Enrolment};
use crate::problem::Kind;
use crate::top::Source;
use crate::{agent, doctor, explain, files, helper, log, process, program, systemd, watch};
use clap::{CommandFactory as _, Parser, Subcommand};
use nix::unistd::geteuid;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The Workstation's end of a Portcullis tunnel.
#[derive(Parser)]
#[command(
    name = "portcullis-agent",
    version,
    after_help = "Examples:
  # take the keys made on the Gateway
  portcullis-agent enroll /media/usb/alpha.enrolment
  portcullis-agent up        # serve the tunnel until told to stop
  portcullis-agent status    # whether all is well, and what it is doing
  portcullis-agent down      # take tunnel, wall and kill switch down

Exit codes (doctor and status have their own):
  0  done
  1  failed
  2  wrong usage"
)]
pub struct Arguments {
    /// The configuration; everything has a default without one [default: /etc/portcullis/agent.toml].
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 1000)]
    #[arg(value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 1001)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(keygen::Arguments),
    Enroll(enroll::Arguments),
    /// Serve the tunnel until told to stop.
    ///
    /// Tries again for ever, whichever side starts first. Tunnel, wall and kill switch stay in place when it
    /// ends, so that what belongs in the tunnel never leaves without it; `portcullis-agent down` takes
    /// them away.
    #[command(after_help = "Examples:
  portcullis-agent up
  RUST_LOG=debug portcullis-agent up         # log more
  systemctl enable --now portcullis-agent    # as a service")]
    Up(NoJson),
    Show(look::Show),
    Status(look::Look),
    Dump(look::Dump),
    #[command(after_help = top::help("portcullis-agent"))]
    Top(top::Arguments),
    /// Examine this machine, its kernel and the port on a cable, and say what is not set up right and what mends it.
    #[command(after_help = doctor::help("portcullis-agent"))]
    Doctor(doctor::Arguments),
    /// Show samples of the frames that are dropped, live, each with its verdict.
    ///
    /// Times are UTC. Over networks, where there is no XDP, those are shown that the worker drops.
    Watch(watch::AgentArguments),
    /// Say what the port does with a frame, and why, step by step.
    ///
    /// The frame is put to the code that decides in XDP, over the running agent's tables, which are only
    /// read. Without the agent it is told as far as the frame itself decides. On a cable only: over networks the
    /// kernel receives the tunnel's datagrams.
    Explain(explain::AgentArguments),
    /// Print what makes the shell complete this program's arguments.
    #[command(after_help = completions::help("portcullis-agent"))]
    Completions(completions::Arguments),
    /// Take the tunnel down, the wall (the port is an ordinary interface again), and the kill switch.
    #[command(after_help = "Example:
  portcullis-agent down")]
    Down(NoJson),
}

/// What a subcommand is given.
struct Context {
    config: Agent,
    path: PathBuf,
    client: Client,
    /// The command that starts the agent.
    start: String,
    /// How the answer is printed.
    output: super::Context,
}

/// Runs the program.
pub fn main() -> ExitCode {
    if helper::is_wanted() {
        return helper::run();
    }
    completions::answer(Arguments::command);
    program::finish("portcullis-agent", run(super::parse(|_| {})))
}

fn run(arguments: Arguments) -> Outcome {
    let path = arguments.config.as_deref().unwrap_or(Path::new(AGENT_PATH));
    if arguments.config.is_some() {
        // One that is named must be there.
        files::read(path)?;
    }
    let config = Agent::load(path)?;
    let start = systemd::start_agent(path);
    let context = Context {
        client: Client::agent(&config.runtime_directory, start.clone()),
        config,
        path: path.to_owned(),
        start,
        output: super::Context {
            config: path.to_owned(),
            json: arguments.json,
        },
    };
    match arguments.command {
        Command::Keygen(arguments) => {
            process::harden_command()?;
            keygen::run(&context, arguments)
        }
        Command::Enroll(arguments) => {
            process::harden_command()?;
            enroll::run(&context, arguments)
        }
        Command::Up(_) => {
            log::start(context.config.log_format);
            agent::run(context.config, &context.path)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show(_) => look::show(&context),
        Command::Status(arguments) => look::status(&context, &arguments),
        Command::Dump(_) => look::dump(&context),
        Command::Top(arguments) => {
            let source = Source::Agent(context.client);
            top::run(source, &context.config.runtime_directory, &arguments)
        }
        Command::Doctor(arguments) => doctor::agent(&context.output, &arguments),
        Command::Watch(arguments) => watch::agent(&context.output, &context.client, arguments),
        Command::Explain(arguments) => {
            explain::agent(&context.output, context.client, &context.config, arguments)
        }
        Command::Completions(arguments) => completions::run(&Arguments::command(), &arguments),
        Command::Down(_) => down(context),
    }
}

fn down(context: Context) -> Outcome {
    let enrolled = Enrolment::load(&context.config.state_directory);
    let over_networks =
        enrolled.is_ok_and(|one| matches!(one.encapsulation, Encapsulation::Udp { .. }));
    match context.client.agent_down() {
        // The helper of an agent on a cable may not touch what a former enrolment has left.
        Ok(_) if !over_networks && geteuid().is_root() => agent::open_up()?,
        Ok(_) => {}
        Err(problem) if problem.kind == Kind::Unavailable => {
            agent::down(context.config, &context.path)?;
        }
        Err(problem) => return Err(problem.into()),
    }
    program::print(match over_networks {
        true => "The tunnel is down: this machine's packets leave again as they did before.\n",
        false => "Tunnel and wall are down: the port is an ordinary interface again, set down.\n",
    });
    Ok(ExitCode::SUCCESS)
}
