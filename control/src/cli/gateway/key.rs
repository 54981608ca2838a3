//! `portcullis key`: the Gateway's own key.

use super::{Context, Daemon, Outcome};
use crate::api::RetireKey;
use clap::Subcommand;

/// What is done with the key.
#[derive(Subcommand)]
pub enum Command {
    /// Make a new key, which enrolments name from now on. The one before is still accepted.
    #[command(after_help = "Example, the whole way:
  portcullis key rotate
  portcullis workstation rotate alpha   # for each; carry the file to it
  portcullis                            # says who knows the old key only
  portcullis key retire                 # when nobody does")]
    Rotate,
    /// Give up the old key. Refused while it would lock somebody out.
    #[command(after_help = "Example:
  portcullis key retire --force   # locks out whoever has no new keys yet")]
    Retire {
        /// Lock them out.
        #[arg(long)]
        force: bool,
    },
}

/// Does it.
pub fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Rotate => {
            let rotated = Daemon::of(&context.config)?.rotate_key()?;
            context.print(&rotated, || {
                let next = match rotated.workstations.is_empty() {
                    true => "No Workstation knows the old one. Next:\n  portcullis key retire\n"
                        .to_owned(),
                    false => format!(
                        "These know only the old one, which is still accepted: {}\n\n\
                         Next, for each:\n  portcullis workstation rotate NAME\nand when all use \
                         their new keys:\n  portcullis key retire\n",
                        rotated.workstations.join(", ")
                    ),
                };
                format!(
                    "The Gateway's public key is {} now.\n{next}",
                    rotated.public_key
                )
            })
        }
        Command::Retire { force } => {
            let retired = Daemon::of(&context.config)?.retire_key(RetireKey { force })?;
            context.print(&retired, || match retired.locked_out.is_empty() {
                true => "The Gateway has one key, which every Workstation knows.\n".to_owned(),
                false => format!(
                    "The Gateway has one key. Locked out until they get new keys: {}\n",
                    retired.locked_out.join(", ")
                ),
            })
        }
    }
}
