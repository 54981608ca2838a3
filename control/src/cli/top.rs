//! `top`, of both programs.

use super::{NoJson, Outcome};
use crate::api::socket::SOCKET;
use crate::top::{self, Source};
use std::path::Path;
use std::process::ExitCode;

/// Show what passes and what is dropped, live: rates, reasons, queues and cores.
///
/// Keys: up and down select, enter shows everything about the selected one, s sorts, / filters, p
/// stands still, ? explains the columns, q quits. 80 columns and 24 rows are enough.
#[derive(clap::Args)]
pub struct Arguments {
    /// How often to look.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    #[command(flatten)]
    json: NoJson,
}

/// What stands below them on a program's page.
pub(super) fn help(program: &str) -> String {
    format!(
        "Examples:
  {program} top
  {program} top --interval 0.2    # five times a second"
    )
}

/// Shows it until it is told to stop.
pub(super) fn run(source: Source, runtime_directory: &Path, arguments: &Arguments) -> Outcome {
    top::run(source, &runtime_directory.join(SOCKET), arguments.interval)?;
    Ok(ExitCode::SUCCESS)
}
