//! `portcullis-agent`: the Workstation's end of the tunnel.

use super::Outcome;
use crate::api::client::Client;
use crate::config::{self, AGENT_PATH, Agent, check_interface_name};
use crate::enrolment::Enrolment;
use crate::problem::{Kind, Problem};
use crate::{agent, files, helper, interfaces, keygen, program, show};
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::io::stdout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The Workstation's end of a Portcullis tunnel.
#[derive(Parser)]
#[command(
    name = "portcullis-agent",
    version,
    after_help = "Examples:
  portcullis-agent enroll /media/usb/alpha.enrolment   take the keys made on the Gateway
  portcullis-agent up                                  serve the tunnel until told to stop
  portcullis-agent status                              what it is doing
  portcullis-agent down                                take tunnel and wall down

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Arguments {
    /// The configuration; everything has a default without one [default: /etc/portcullis/agent.toml].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key pair here, so that the private key never leaves this Workstation, and print the
    /// public key for the Gateway. A second time it is the same one.
    Keygen {
        /// Write the file that is carried to the Gateway.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take the identity from an enrolment file that was carried here from the Gateway.
    Enroll {
        /// The file that `portcullis workstation add` wrote.
        file: PathBuf,
        /// The interface that is cabled to the Gateway; the only wired one when not given.
        #[arg(long, value_name = "IF")]
        interface: Option<String>,
        /// Give up the identity this Workstation has.
        #[arg(long)]
        replace: bool,
    },
    /// Serve the tunnel until told to stop.
    Up,
    /// Show what the agent is doing.
    #[command(visible_alias = "show")]
    Status {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Take the tunnel down, and the wall: the port is an ordinary interface again.
    Down,
}

/// Runs the program.
pub fn main() -> ExitCode {
    if helper::is_wanted() {
        return helper::run();
    }
    let arguments = Arguments::parse();
    program::finish("portcullis-agent", run(arguments))
}

fn run(arguments: Arguments) -> Outcome {
    let path = arguments.config.as_deref().unwrap_or(Path::new(AGENT_PATH));
    if arguments.config.is_some() {
        // One that is named must be there.
        files::read(path)?;
    }
    let config = Agent::load(path)?;
    let start = format!("portcullis-agent{} up", config::option(path, AGENT_PATH));
    let client = Client::agent(&config.runtime_directory, start.clone());
    match arguments.command {
        Command::Keygen { output } => {
            let public = keygen::own_key(&config.state_directory)?.public();
            let text = keygen::to_text(&public);
            match output {
                None => program::print(&text),
                Some(file) => {
                    files::write_with_mode(&file, &text, 0o644)?;
                    program::print(&format!(
                        "The public key {public} is in {0}, and the private one stays here.\n\n\
                         Next, on the Gateway:\n  portcullis workstation add NAME --public-key {1}\n\
                         and with the file it makes, here:\n  portcullis-agent enroll NAME.enrolment\n",
                        file.display(),
                        file.file_name().unwrap_or_default().to_string_lossy(),
                    ));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Enroll {
            file,
            interface,
            replace,
        } => {
            enroll(&config, &file, interface, replace)?;
            let next = match client.agent_status() {
                Ok(_) => "stop the agent, which still has the old identity; then: ",
                Err(_) => "",
            };
            program::print(&format!(
                "\nNext:\n  rm {}\n  {next}{start}\n",
                file.display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Command::Up => {
            program::log();
            agent::run(config, path)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { json } => {
            let status = client.agent_status()?;
            program::print(&match json {
                true => serde_json::to_string_pretty(&status).context("writing JSON")? + "\n",
                false => show::agent(&status, show::colours(&stdout())),
            });
            Ok(ExitCode::SUCCESS)
        }
        Command::Down => {
            match client.agent_down() {
                Ok(_) => {}
                Err(problem) if problem.kind == Kind::Unavailable => agent::down(config, path)?,
                Err(problem) => return Err(problem.into()),
            }
            program::print(
                "Tunnel and wall are down: the port is an ordinary interface again, set down.\n",
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn enroll(
    config: &Agent,
    file: &Path,
    interface: Option<String>,
    replace: bool,
) -> anyhow::Result<()> {
    let (mut enrolment, warning) = Enrolment::read(file)?;
    if let Some(interface) = &interface {
        check_interface_name(interface).map_err(|happened| {
            Problem::new(
                Kind::Invalid,
                format!("enrolling with the interface {interface}"),
                happened,
                "give the name of an interface as `ip link` shows it",
            )
        })?;
        if !interfaces::list()?.iter().any(|i| i.name == *interface) {
            eprintln!("portcullis-agent: warning: there is no interface {interface} now");
        }
    }
    enrolment.interface = interface;
    enrolment.store(&config.state_directory, replace)?;
    if let Some(warning) = warning {
        eprintln!("portcullis-agent: warning: {warning}");
    }
    program::print(&format!(
        "This Workstation is {} ({}) now.\n",
        enrolment.name, enrolment.key_id
    ));
    Ok(())
}
