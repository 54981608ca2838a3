//! Suite `pipeline`.

use anyhow::{Result, bail};

use super::Bench;

/// Measures it.
///
/// # Errors
/// Always, so far.
pub fn run(_bench: &mut Bench) -> Result<()> {
    bail!("not measured yet")
}
