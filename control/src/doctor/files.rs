//! Who may read and write what the daemon keeps.

use super::facts::{Facts, File};
use super::{Finding, Setup};

const SUBJECT: &str = "files";

pub(super) fn check(_setup: &Setup, facts: &Facts) -> Vec<Finding> {
    facts.files.iter().filter_map(one).collect()
}

fn one(file: &File) -> Option<Finding> {
    let path = file.path.display();
    let mode = file.mode? & 0o7777;
    let excess = mode & file.forbidden;
    Some(match excess {
        0 => Finding::ok(
            SUBJECT,
            "mode",
            format!("{path} ({}) has mode {mode:04o}", file.what),
        ),
        _ => Finding::fail(
            SUBJECT,
            "mode",
            format!(
                "{path} ({}) has mode {mode:04o}: others than its owner can use it",
                file.what
            ),
            format!("chmod {:04o} {path}", mode & !excess),
        ),
    })
}
