//! `portcullis show`, `dump` and `status`: what the Gateway is doing, for people, scripts and
//! monitoring.

use super::{Context, Daemon, Outcome};
use crate::api::{Status, WorkstationStatus};
use crate::cli::candidates;
use crate::problem::{Kind, Problem};
use crate::show::dump::{self, Of};
use crate::show::{self, health};
use clap::{Args, Subcommand};
use std::io::stdout;

/// Show what the Gateway is doing (the default).
#[derive(Args, Default)]
#[command(after_help = "Examples:
  portcullis                           # the same as portcullis show
  portcullis show workstation alpha    # one of them, with all its counters
  portcullis show port eth1            # one port
  portcullis show --json               # for programs
  NO_COLOR=1 portcullis show           # without colours")]
pub struct Show {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Show one Workstation: state, session, rules and every counter.
    #[command(after_help = "Example:
  portcullis show workstation alpha")]
    Workstation {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
    },
    /// Show one port: how it is attached, who is in session there, and every counter.
    #[command(after_help = "Example:
  portcullis show port eth1")]
    Port {
        /// The interface.
        #[arg(value_name = "IF", add = candidates::ports())]
        interface: String,
    },
}

/// Print everything in tab-separated columns, for scripts.
#[derive(Args)]
#[command(after_help = dump_help())]
pub struct Dump;

fn dump_help() -> String {
    format!(
        "{}

Examples:
  portcullis dump
  # which Workstations have no session
  portcullis dump | awk -F '\\t' '$3 == \"no session\" {{ print $2 }}'
  # how many frames were lost at the rings
  portcullis dump | awk -F '\\t' '$1 == \"port\" {{ n += $11 }} END {{ print n + 0 }}'",
        dump::columns(Of::Gateway)
    )
}

/// Say on one screen whether all is well, and in the exit code.
///
/// A Workstation that is switched off is no complaint, unless it is required.
#[derive(Args)]
#[command(after_help = "Exit codes (those of monitoring plugins):
  0  all is well
  1  it works, but not all is well: see portcullis doctor
  2  a port is down or missing, or a required Workstation is not in session
  3  not known: the daemon does not answer, or may not be asked

Examples:
  portcullis status
  portcullis status --require alpha --require beta
  portcullis status > /dev/null || echo 'see portcullis doctor'")]
pub struct Look {
    /// A Workstation that must be in session; may be given again.
    #[arg(long, value_name = "NAME", add = candidates::workstations())]
    require: Vec<String>,
}

/// Shows all of the Gateway, or one Workstation or port of it.
pub fn show(context: &Context, arguments: Show) -> Outcome {
    match arguments.what {
        None => {
            let status = Daemon::of(&context.config)?.client.status()?;
            context.print(&status, || show::status(&status, show::colours(&stdout())))
        }
        Some(What::Workstation { name }) => workstation(context, &name),
        Some(What::Port { interface }) => port(context, &interface),
    }
}

/// Shows one Workstation; while the daemon is not running, what the files say of it.
pub fn workstation(context: &Context, name: &str) -> Outcome {
    let all = Daemon::of(&context.config)?.workstations()?;
    let found = all.iter().find(|one| one.name == name);
    let one = found.ok_or_else(|| none(name, &all))?;
    context.print(one, || {
        show::workstation_in_full(one, show::colours(&stdout()))
    })
}

/// There is no such Workstation.
pub fn none(name: &str, all: &[WorkstationStatus]) -> Problem {
    let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
    Problem::new(
        Kind::NotFound,
        format!("looking for the Workstation {name}"),
        match names.is_empty() {
            true => "no Workstation is enrolled yet".to_owned(),
            false => "there is none of that name".to_owned(),
        },
        match names.is_empty() {
            true => format!("enrol it: portcullis workstation add {name}"),
            false => format!("name one of {}", names.join(", ")),
        },
    )
}

fn port(context: &Context, interface: &str) -> Outcome {
    let status = Daemon::of(&context.config)?.client.status()?;
    let found = status.ports.iter().find(|port| port.interface == interface);
    let port = found.ok_or_else(|| {
        let names: Vec<_> = status.ports.iter().map(|p| p.interface.as_str()).collect();
        Problem::new(
            Kind::NotFound,
            format!("looking for the port {interface}"),
            "the Gateway has no such port",
            format!(
                "name one of {}; or add a [[port]] to {} and restart portcullisd",
                names.join(", "),
                context.config.display()
            ),
        )
    })?;
    context.print(port, || {
        show::port_in_full(port, &status.workstations, show::colours(&stdout()))
    })
}

/// Prints everything in columns.
pub fn dump(context: &Context) -> Outcome {
    let status = Daemon::of(&context.config)?.client.status()?;
    context.print(&status, || dump::gateway(&status))
}

/// Says whether all is well.
pub fn status(context: &Context, arguments: &Look) -> Outcome {
    let asked = Daemon::of(&context.config).and_then(|daemon| daemon.client.status());
    let status: Status = match asked {
        Ok(status) => status,
        Err(problem) => return unknown(context, "portcullis", &problem),
    };
    let health = health::Health::of(&status, &arguments.require);
    context.print(&health, || {
        let colours = show::colours(&stdout());
        health.text(&health::brief(&status, colours), colours)
    })?;
    Ok(health.level.code())
}

/// Says that it is not known how well it is, where monitoring reads it.
pub fn unknown(context: &Context, program: &str, problem: &Problem) -> Outcome {
    let health = health::Health::unknown(problem);
    context.print(&health, || format!("UNKNOWN: {}\n", health.summary))?;
    eprintln!("{}", problem.report(program));
    Ok(health.level.code())
}
