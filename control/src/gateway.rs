//! The Gateway's daemon: `portcullisd` once its arguments are read.

use crate::config::Gateway;
use crate::problem::{Kind, Problem};
use std::path::Path;

/// Runs until a signal ends it.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Gateway, config_path: &Path) -> anyhow::Result<()> {
    let ports = config.ports.len();
    Err(Problem::new(
        Kind::Unavailable,
        format!("serving the {ports} ports of {}", config_path.display()),
        "this build has no dataplane",
        "build a version that has one",
    )
    .into())
}
