//! Enrolment files, which carry a Workstation's keys.

use super::{Context, Daemon, Outcome};
use crate::api::{AddWorkstation, RotateWorkstation};
use crate::enrolment::EXTENSION;
use crate::files::Reserved;
use crate::problem::{Kind, Problem};
use crate::program;
use crate::workstation::Name;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Adds a Workstation and writes its enrolment file.
pub fn add(context: &Context, request: AddWorkstation, output: Option<PathBuf>) -> Outcome {
    let daemon = Daemon::of(&context.config)?;
    // The name first: it becomes a file's.
    let name: Name = request.name.parse()?;
    let output = output.unwrap_or_else(|| format!("{name}.{EXTENSION}").into());
    let other = format!(
        "see whether {name} is enrolled already (portcullis workstation list); else move the file \
         away, or name another with --output FILE"
    );
    let own_key = request.public_key.is_some();
    let added = deliver(
        &output,
        &other,
        || daemon.add(&request),
        |added| &added.enrolment,
        || {
            (
                "the Workstation was not added",
                daemon.remove(name.as_str()).map(drop),
            )
        },
    )?;
    if output == Path::new("-") {
        return Ok(ExitCode::SUCCESS);
    }
    let addresses: Vec<_> = added.addresses.iter().map(ToString::to_string).collect();
    let value = serde_json::json!({
        "name": added.name,
        "key_id": added.key_id,
        "addresses": addresses,
        "enrolment_file": output,
    });
    context.print(&value, || {
        format!(
            "Added the Workstation {} ({}) with {}.\n\n\
             {} in {} and nowhere else. Carry that file to the Workstation by hand, and there:\n  \
             portcullis-agent enroll {}\nThen delete it.\n",
            added.name,
            added.key_id,
            addresses.join(" and "),
            match own_key {
                true => "What it needs beside its own private key, and a secret, is",
                false => "Its keys are",
            },
            output.display(),
            output.file_name().unwrap_or_default().to_string_lossy(),
        )
    })
}
/// Gives a Workstation new keys and writes the enrolment file with them.
pub fn rotate(
    context: &Context,
    name: &str,
    request: &RotateWorkstation,
    output: Option<PathBuf>,
) -> Outcome {
    let daemon = Daemon::of(&context.config)?;
    let name: Name = name.parse()?;
    let output = output.unwrap_or_else(|| format!("{name}.{EXTENSION}").into());
    let rotated = deliver(
        &output,
        "move that file away, or name another with --output FILE",
        || daemon.rotate(name.as_str(), request),
        |rotated| &rotated.enrolment,
        || {
            let cancelled = daemon.cancel_rotation(name.as_str());
            ("the Workstation keeps the keys it has", cancelled.map(drop))
        },
    )?;
    if output == Path::new("-") {
        return Ok(ExitCode::SUCCESS);
    }
    let value = serde_json::json!({
        "name": rotated.name,
        "key_id": rotated.key_id,
        "old_ends_in_seconds": rotated.old_ends_in_seconds,
        "enrolment_file": output,
    });
    context.print(&value, || {
        let old = match rotated.old_ends_in_seconds / 3600 {
            0 => "The old ones have ended.".to_owned(),
            hours => format!("The old ones end when it uses them, or in {hours} hours."),
        };
        format!(
            "New keys of the Workstation {} ({}) are in {}. {old}\n\n\
             Carry that file to the Workstation by hand, and there:\n  \
             portcullis-agent enroll --replace {}\nThen delete it, and restart the agent.\n",
            rotated.name,
            rotated.key_id,
            output.display(),
            output.file_name().unwrap_or_default().to_string_lossy(),
        )
    })
}
/// Has keys made and writes the file that carries them, or has them undone. A place for the file is
/// made sure of first: the keys exist nowhere else.
fn deliver<T>(
    output: &Path,
    remedy: &str,
    make: impl FnOnce() -> Result<T, Problem>,
    enrolment: impl Fn(&T) -> &str,
    undo: impl FnOnce() -> (&'static str, Result<(), Problem>),
) -> Result<T, Problem> {
    if output == Path::new("-") {
        let made = make()?;
        program::print(enrolment(&made));
        return Ok(made);
    }
    let place = Reserved::new(output).map_err(|mut problem| {
        if problem.kind == Kind::Conflict {
            problem.remedy = remedy.to_owned();
        }
        problem
    })?;
    let made = make()?;
    let Err(problem) = place.fill(enrolment(&made)) else {
        return Ok(made);
    };
    let happened = match undo() {
        (undone, Ok(())) => format!("{}; {undone}", problem.happened),
        (_, Err(other)) => format!("{}; and {other}", problem.happened),
    };
    Err(Problem {
        happened,
        ..problem
    })
}
