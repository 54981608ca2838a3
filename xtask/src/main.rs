//! `cargo xtask`: what a developer of Portcullis runs.

use std::process::ExitCode;

use clap::Parser;
use portcullis_xtask::arguments::{self, Arguments};
use portcullis_xtask::{fuzz, rig};

fn main() -> ExitCode {
    if let Some(error) = fuzz::as_compiler() {
        eprintln!("error: the compiler cannot be run: {error}");
        return ExitCode::FAILURE;
    }
    match arguments::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if rig::interrupted() => ExitCode::from(130),
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
