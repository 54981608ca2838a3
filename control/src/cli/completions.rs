//! `completions`, of both programs.

use super::Outcome;
use crate::program;
use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};
use std::process::ExitCode;

/// The variable by which a shell asks a program what could be typed next.
const VARIABLE: &str = "COMPLETE";

/// Print what makes the shell complete this program's arguments.
///
/// The shell asks the program itself then, so that the names of Workstations and ports are offered too.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis completions bash > portcullis.bash      then in ~/.bashrc: . ~/portcullis.bash
  portcullis completions zsh > _portcullis           in a directory of $fpath
  portcullis completions fish > portcullis.fish      in ~/.config/fish/completions

The Debian packages have them installed. Names of Workstations are offered to whoever may ask the daemon.")]
pub struct Arguments {
    /// The shell.
    shell: Shell,
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
