//! `portcullis show`.

use super::{Context, Daemon, Outcome};
use crate::show;
use std::io::stdout;

/// Shows all of the Gateway.
pub fn show(context: &Context) -> Outcome {
    let status = Daemon::of(&context.config)?.client.status()?;
    context.print(&status, || show::status(&status, show::colours(&stdout())))
}
