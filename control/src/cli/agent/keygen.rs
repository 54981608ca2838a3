//! `portcullis-agent keygen`.

use super::{Context, NoJson, Outcome};
use crate::{files, keygen, program};
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a key pair here and print the public key for the Gateway.
///
/// The private key never leaves this Workstation then. A second time it is the same pair.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis-agent keygen
  portcullis-agent keygen --output alpha.public

Then on the Gateway:
  portcullis workstation add alpha --public-key alpha.public")]
pub struct Arguments {
    /// Write the file that is carried to the Gateway.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    json: NoJson,
}

/// Does it.
pub fn run(context: &Context, arguments: Arguments) -> Outcome {
    let public = keygen::own_key(&context.config.state_directory)?.public();
    let text = keygen::to_text(&public);
    match arguments.output {
        None => program::print(&text),
        Some(file) => {
            files::write_with_mode(&file, &text, 0o644)?;
            program::print(&format!(
                "The public key {public} is in {0}, and the private one stays here.\n\n\
                 Next, on the Gateway:\n  portcullis workstation add NAME --public-key {1}\n\
                 and with the file it makes, here:\n  portcullis-agent enroll NAME.enrolment\n",
                file.display(),
                file.file_name().unwrap_or_default().to_string_lossy(),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
