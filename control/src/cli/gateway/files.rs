//! `portcullis check` and `portcullis reload`: files that were written by hand.

use super::{Context, Daemon, Outcome};
use crate::problem::{Kind, Problem};
use crate::{check, show};
use std::io::stdout;

/// Has the daemon read the Workstation files again.
pub fn reload(context: &Context) -> Outcome {
    let reloaded = Daemon::of(&context.config)?.client.reload()?;
    context.print(&reloaded, || {
        let line = |what: &str, names: &[String]| match names.is_empty() {
            true => String::new(),
            false => format!("{what}: {}\n", names.join(", ")),
        };
        let text = line("added", &reloaded.added)
            + &line("changed", &reloaded.changed)
            + &line("may reach something else", &reloaded.ruled)
            + &line("removed", &reloaded.removed)
            + &line("broken (see portcullis show)", &reloaded.broken);
        match text.is_empty() {
            true => "Nothing has changed.\n".into(),
            false => text,
        }
    })
}

/// Checks all that the daemon would be started with.
pub fn check(context: &Context) -> Outcome {
    let findings = check::check(&context.config);
    let code = context.print(&findings, || {
        show::findings(&findings, show::colours(&stdout()))
    })?;
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(code),
        failed => Err(Problem::new(
            Kind::Invalid,
            format!("checking {}", context.config.display()),
            format!("{failed} of {} checks failed", findings.len()),
            "do what stands below each of them, and check again",
        )
        .into()),
    }
}
