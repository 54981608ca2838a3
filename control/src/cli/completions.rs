//! `completions`, of both programs.

use super::{NoJson, Outcome};
use crate::program;
use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};
use std::process::ExitCode;

/// The variable by which a shell asks a program what could be typed next.
const VARIABLE: &str = "COMPLETE";

/// Print what makes the shell complete this program's arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The shell.
    shell: Shell,
    #[command(flatten)]
    json: NoJson,
}

/// What stands below them on a program's page.
pub(super) fn help(program: &str) -> String {
    format!(
        "Examples:
  # then in ~/.bashrc: . ~/{program}.bash
  {program} completions bash > {program}.bash
  # in a directory of $fpath
  {program} completions zsh > _{program}
  # in ~/.config/fish/completions
  {program} completions fish > {program}.fish

The Debian packages have them installed."
    )
}

/// Prints them.
pub(super) fn run(command: &clap::Command, arguments: &Arguments) -> Outcome {
    program::print(&of(command, arguments.shell));
    Ok(ExitCode::SUCCESS)
}

/// What makes a shell ask a program.
pub fn of(command: &clap::Command, shell: Shell) -> String {
    let name = command.get_name();
    let shells = Shells::builtins();
    let mut text = Vec::new();
    if let Some(shell) = shells.completer(&shell.to_string()) {
        // Written to memory.
        let _ = shell.write_registration(VARIABLE, name, name, name, &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Answers a shell that asks what could be typed next, and ends then.
pub(super) fn answer(command: fn() -> clap::Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}
