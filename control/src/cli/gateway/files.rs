//! `portcullis check` and `portcullis reload`: files that were written by hand.

use super::{Context, Daemon, Outcome};
use crate::api::WorkstationStatus;
use crate::config::{self, GATEWAY_PATH, Gateway};
use crate::difference::{self, Change, Takes};
use crate::keyring::Keyring;
use crate::problem::{Kind, Problem};
use crate::registry::{self, GATEWAY_KEY};
use crate::{check, show};
use clap::Args;
use std::fmt::Write as _;
use std::io::stdout;
use std::path::{Path, PathBuf};

/// Check a configuration, keys, Workstation files and interfaces, without changing anything.
///
/// While the daemon runs, what differs from what it runs with is shown too, with what it takes to
/// apply it.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis check
  portcullis check ./new.toml    # another one, before it is put in place
  portcullis check --json")]
pub struct Check {
    /// The configuration to check [default: that of --config].
    file: Option<PathBuf>,
}

/// Have the daemon read its configuration and the Workstation files again, and apply what differs.
///
/// Only what differs: a Workstation whose file is the same keeps its session and loses no frame, and
/// so does one whose rules alone have changed. Pins, rates and addresses of pinned ports and
/// threaded_napi are applied too. Where anything else in the configuration has changed, nothing is
/// applied, and it is named: a restart applies it.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis reload
  portcullis check && portcullis reload    # see what would change first")]
pub struct Reload;

/// Has the daemon apply what differs.
pub fn reload(context: &Context) -> Outcome {
    let reloaded = Daemon::of(&context.config)?.client.reload()?;
    context.print(&reloaded, || {
        let line = |what: &str, names: &[String]| match names.is_empty() {
            true => String::new(),
            false => format!("{what}: {}\n", names.join(", ")),
        };
        let text = line("settings", &reloaded.settings)
            + &line("added", &reloaded.added)
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

/// Checks all that the daemon would be started with, and compares it with what runs.
pub fn check(context: &Context, arguments: Check) -> Outcome {
    let path = arguments.file.as_ref().unwrap_or(&context.config);
    let findings = check::check(path);
    let changes = compare(path);
    let value = serde_json::json!({ "findings": findings, "differences": changes });
    let code = context.print(&value, || {
        let text = show::findings(&findings, show::colours(&stdout()));
        text + &changes.map_or(String::new(), |changes| told(context, path, &changes))
    })?;
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(code),
        failed => Err(Problem::new(
            Kind::Invalid,
            format!("checking {}", path.display()),
            format!("{failed} of {} checks failed", findings.len()),
            "do what stands below each of them, and check again",
        )
        .into()),
    }
}

/// What differs from what runs; none where nothing runs, or one of both cannot be read.
fn compare(path: &Path) -> Option<Vec<Change>> {
    let fresh = Gateway::load(path).ok()?;
    let running = difference::running(&fresh.runtime_directory)?;
    let told = Daemon::at(&running.runtime_directory).workstations().ok()?;
    let mut changes = difference::of(&running, &fresh);
    // Of another state directory nothing can be compared one by one.
    if running.state_directory == fresh.state_directory
        && let Some(files) = files(&fresh)
    {
        changes.extend(difference::of_workstations(&told, &files));
    }
    Some(changes)
}

/// What the files say of the Workstations.
fn files(config: &Gateway) -> Option<Vec<WorkstationStatus>> {
    let keyring = Keyring::load(&config.state_directory.join(GATEWAY_KEY)).ok()?;
    let (usable, broken) = registry::inspect(config).ok()?;
    let usable = usable
        .iter()
        .map(|one| WorkstationStatus::of(one, &keyring));
    let broken = broken.into_iter().map(|broken| WorkstationStatus {
        broken: Some((&broken.problem).into()),
        name: broken.name,
        ..WorkstationStatus::default()
    });
    Some(usable.chain(broken).collect())
}

fn told(context: &Context, path: &Path, changes: &[Change]) -> String {
    if changes.is_empty() {
        return "\nThe daemon runs with the same.\n".into();
    }
    let mut text = String::from("\nDifferent from what runs:\n");
    for change in changes {
        let takes = match change.takes {
            Takes::Reload => "reload",
            Takes::Session => "reload, which ends its session; it begins another",
            Takes::Restart => "restart",
        };
        let _ = writeln!(text, "  {change}: {takes}");
    }
    let option = config::option(&context.config, GATEWAY_PATH);
    let first = match path == context.config {
        true => String::new(),
        false => format!("  cp {} {}\n", path.display(), context.config.display()),
    };
    let apply = match changes.iter().any(|change| change.takes == Takes::Restart) {
        true => {
            "systemctl restart portcullisd      # sessions come back within a second".to_owned()
        }
        false => format!("portcullis{option} reload"),
    };
    let _ = write!(text, "\nTo apply it:\n{first}  {apply}\n");
    text
}
