//! `portcullis-agent show`, `dump` and `status`: what the agent is doing, for people, scripts and
//! monitoring.

use super::{Context, Outcome};
use crate::api::AgentStatus;
use crate::cli::gateway::look::unknown;
use crate::problem::Problem;
use crate::show::dump::{self, Of};
use crate::show::{self, health};
use clap::Args;
use std::io::stdout;
use std::time::{Duration, Instant};

/// Show what the agent is doing.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis-agent show
  portcullis-agent show --json")]
pub struct Show;

/// Print everything in tab-separated columns, for scripts.
#[derive(Args)]
#[command(after_help = dump_help())]
pub struct Dump;

fn dump_help() -> String {
    format!(
        "{}\n\nExamples:
  portcullis-agent dump
  portcullis-agent dump | awk -F '\\t' '$1 == \"count\" {{ print $5, $6 }}'",
        dump::columns(Of::Agent)
    )
}

/// Say whether all is well, and in the exit code, and show what the agent is doing.
#[derive(Args)]
#[command(after_help = "Exit codes (those of monitoring plugins):
  0  all is well
  1  it works, but not all is well: see portcullis-agent doctor
  2  no session with the Gateway, or the port is down or missing
  3  not known: the agent does not answer, or may not be asked

Examples:
  portcullis-agent status
  portcullis-agent status --wait 10    # after a start
  portcullis-agent status > /dev/null || echo 'see portcullis-agent doctor'")]
pub struct Look {
    /// Wait so long, where there is no session yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
}

/// Shows all of it.
pub fn show(context: &Context) -> Outcome {
    let status = context.client.agent_status()?;
    context
        .output
        .print(&status, || show::agent(&status, show::colours(&stdout())))
}

/// Prints everything in columns.
pub fn dump(context: &Context) -> Outcome {
    let status = context.client.agent_status()?;
    context.output.print(&status, || dump::agent(&status))
}

/// Says whether all is well; where it is not, once it is or the time is over.
pub fn status(context: &Context, arguments: &Look) -> Outcome {
    let over = Instant::now() + Duration::from_secs(arguments.wait.into());
    let mut told = false;
    loop {
        let status = context.client.agent_status();
        let works = status.as_ref().is_ok_and(|status| status.session.is_some());
        if works || Instant::now() >= over {
            return tell(context, status);
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!("no session yet; waiting for {} s at most", arguments.wait);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn tell(context: &Context, status: Result<AgentStatus, Problem>) -> Outcome {
    let status = match status {
        Ok(status) => status,
        Err(problem) => return unknown(&context.output, "portcullis-agent", &problem),
    };
    let health = health::Health::of_agent(&status);
    context.output.print(&health, || {
        let colours = show::colours(&stdout());
        health.text(&show::agent(&status, colours), colours)
    })?;
    Ok(health.level.code())
}
