//! `completions`, of both programs.

use super::Outcome;
use crate::program;
use clap_complete::Shell;
use std::process::ExitCode;

/// Print what makes the shell complete this program's arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis completions bash > portcullis.bash      then in ~/.bashrc: . ~/portcullis.bash
  portcullis completions zsh > _portcullis           in a directory of $fpath
  portcullis completions fish > portcullis.fish      in ~/.config/fish/completions

The Debian packages have them installed.")]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints them.
pub(super) fn run(command: clap::Command, arguments: &Arguments) -> Outcome {
    program::print(&of(command, arguments.shell));
    Ok(ExitCode::SUCCESS)
}

/// The completions of a program.
pub fn of(mut command: clap::Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
