//! Whether this kernel's verifier takes every eBPF program.

use anyhow::{Result, bail};
use dataplane::wall::verify;

use super::scenarios::Outcome;
use super::site::Site;
use crate::vm::machine::tail;

/// Loads each program of the object.
pub fn programs(_: &mut Site) -> Result<Outcome> {
    let (mut refused, mut taken) = (Vec::new(), Vec::new());
    for verified in verify()? {
        match verified.answer {
            Ok(Some(instructions)) => taken.push(format!("{} {instructions}", verified.program)),
            Ok(None) => taken.push(verified.program),
            // The verifier's last lines say what it did not like.
            Err(error) => refused.push(format!(
                "{}: {}",
                verified.program,
                tail(&error.to_string(), 14)
            )),
        }
    }
    if !refused.is_empty() {
        bail!("refused are {}", refused.join("\n"));
    }
    Ok(Outcome::Passed(format!(
        "{} programs, instructions gone through: {}",
        taken.len(),
        taken.join(", ")
    )))
}
