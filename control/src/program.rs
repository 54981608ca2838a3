//! What the three programs have in common: output and exit codes.

use crate::problem;
use std::io::{self, Write};
use std::process::ExitCode;

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
