//! `portcullisd`: the Gateway's daemon.

use super::{Outcome, completions};
use crate::config::{GATEWAY_PATH, Gateway};
use crate::problem::{Kind, Problem};
use crate::{check, gateway, helper, log, program, show};
use clap::{CommandFactory as _, Parser};
use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

/// The daemon of a Portcullis Gateway: serves its ports until it is told to stop.
#[derive(Parser)]
#[command(
    name = "portcullisd",
    version,
    after_help = "Examples:
  portcullisd                     # with /etc/portcullis/portcullis.toml
  portcullisd --lower             # give the ports back, when it runs no more
  RUST_LOG=debug portcullisd      # log more
  # only say whether it would work
  portcullisd --config ./test.toml --check

Exit codes:
  0  stopped when told to
  1  failed
  2  wrong usage"
)]
pub struct Arguments {
    /// The configuration (make one with `portcullis init`).
    #[arg(long, value_name = "FILE", default_value = GATEWAY_PATH)]
    config: PathBuf,
    /// Check configuration, keys, Workstation files and interfaces, and end.
    #[arg(long)]
    check: bool,
    /// Take the wall down on every port, set the ports down and remove the host interface, and end:
    /// to use the interfaces for something else. The daemon must not be running.
    #[arg(long, conflicts_with = "check")]
    lower: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    if helper::is_wanted() {
        return helper::run();
    }
    completions::answer(Arguments::command);
    let arguments = Arguments::parse();
    program::finish("portcullisd", run(&arguments))
}

fn run(arguments: &Arguments) -> Outcome {
    if arguments.check {
        let findings = check::check(&arguments.config);
        program::print(&show::findings(&findings, show::colours(&stdout())));
        return match findings.iter().all(|finding| finding.ok) {
            true => Ok(ExitCode::SUCCESS),
            false => Err(Problem::new(
                Kind::Invalid,
                format!("checking {}", arguments.config.display()),
                "not everything is as it must be",
                "do what stands below each failed check, and check again",
            )
            .into()),
        };
    }
    let config = Gateway::load(&arguments.config)?;
    log::start(config.log_format);
    if arguments.lower {
        gateway::lower(&config)?;
        // A shared port was one all along.
        let own = config.ports.iter().filter(|p| !p.encapsulation.is_shared());
        let ports = own.map(|p| p.interface.as_str());
        let keyless = config.keyless.iter().map(|p| p.interface.as_str());
        let ports: Vec<_> = ports.chain(keyless).collect();
        let down = match ports.is_empty() {
            true => String::new(),
            false => format!(" Ordinary interfaces again, set down: {}", ports.join(", ")),
        };
        program::print(&format!(
            "The wall is down and {} is gone.{down}\n",
            config.host_interface,
        ));
        return Ok(ExitCode::SUCCESS);
    }
    gateway::run(config, &arguments.config)?;
    Ok(ExitCode::SUCCESS)
}
