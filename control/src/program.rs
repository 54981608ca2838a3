//! What the three programs have in common: logging, output and exit codes.

use crate::problem;
use crate::show;
use std::io::{self, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Logs to standard error, at `info` unless `RUST_LOG` says otherwise; coloured only on a terminal,
/// and without the time where the journal adds its own.
pub fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(show::colours(&io::stderr()))
        .with_target(false);
    // A second call, in one process, changes nothing.
    let _ = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Ends a program: with its code, or 1 with the problem and its remedy on standard error.
pub fn finish(program: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", problem::report(program, &error));
            ExitCode::FAILURE
        }
    }
}
