//! The commands `portcullis doctor` and `portcullis-agent doctor`.

use super::{Level, Setup, examine, read, text};
use crate::api::client::Client;
use crate::cli::{Context, Outcome};
use crate::config::{Agent, Gateway};
use crate::enrolment::Enrolment;
use crate::show;
use std::io::stdout;
use std::process::ExitCode;

/// What they are told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Show only what is not as it should be.
    #[arg(long)]
    brief: bool,
}

/// What stands below them on a program's page.
pub fn help(program: &str) -> String {
    format!(
        "It reads, and changes nothing; nothing has to be running for it. Run it as root: \
         the kernel does not tell others what stands on an interface. Each command it names is for you to weigh.

Exit codes:
  0  all is well, or there is only something to think over
  1  something must be mended
  2  wrong usage

Examples:
  {program} doctor
  {program} doctor --brief    # only what is not as it should be
  {program} doctor --json"
    )
}

/// Examines a Gateway.
///
/// # Errors
/// The configuration cannot be read.
pub fn gateway(context: &Context, arguments: &Arguments) -> Outcome {
    let path = &*context.config;
    let config = Gateway::load(path)?;
    let setup = Setup::gateway(path, &config);
    let client = Client::gateway(&config.runtime_directory, setup.start.clone());
    let told = client
        .status()
        .map(|status| (status.ports, status.warnings));
    tell(context, &setup, told, arguments)
}

/// Examines a Workstation.
///
/// # Errors
/// The configuration cannot be read, or it cannot be told which interface is the port.
pub fn agent(context: &Context, arguments: &Arguments) -> Outcome {
    let path = &*context.config;
    let config = Agent::load(path)?;
    let enrolled = Enrolment::load(&config.state_directory).ok();
    let setup = Setup::agent(path, &config, enrolled.as_ref())?;
    let client = Client::agent(&config.runtime_directory, setup.start.clone());
    let told = client.agent_status().map(|status| {
        // Over networks it is no interface's.
        let port = Some(status.port).filter(|_| !setup.ports.is_empty());
        (port.into_iter().collect(), Vec::new())
    });
    tell(context, &setup, told, arguments)
}

fn tell(
    context: &Context,
    setup: &Setup,
    told: super::read::Told,
    arguments: &Arguments,
) -> Outcome {
    let report = examine(setup, &read(setup, told));
    let colours = show::colours(&stdout());
    context.print(&report, || text(&report, arguments.brief, colours))?;
    Ok(match report.verdict {
        Level::Fail => ExitCode::FAILURE,
        Level::Ok | Level::Warn => ExitCode::SUCCESS,
    })
}
