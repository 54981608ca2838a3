//! A problem as the person in front of the machine reads it: what was tried, what happened, what
//! to do about it.
//!
//! Everything in this crate outside the handshake fails with a [`Problem`], so no error can leave
//! out its remedy. The programs print it, the control API sends it as JSON.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;

/// What sort of problem it is, for whoever has to act on it without reading (the control API's
/// status codes, for one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// What was given (a file, a request) is wrong.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// It exists already, or is in use.
    Conflict,
    /// Permissions or ownership are not safe, or not sufficient.
    Forbidden,
    /// The daemon does not answer, or cannot do it now.
    Unavailable,
    /// The system answered with an error.
    Failed,
}

/// A problem, in sentences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{tried}: {happened}")]
pub struct Problem {
    /// What sort of problem it is.
    pub kind: Kind,
    /// What was tried, and on what.
    pub tried: String,
    /// What happened.
    pub happened: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A problem in three parts.
    pub fn new(
        kind: Kind,
        tried: impl Into<String>,
        happened: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            tried: tried.into(),
            happened: happened.to_string(),
            remedy: remedy.into(),
        }
    }

    /// What the system answered to `tried`. The remedy follows from the error.
    pub fn io(tried: impl Into<String>, error: &io::Error) -> Self {
        let (kind, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (Kind::NotFound, "check the path"),
            io::ErrorKind::PermissionDenied => (
                Kind::Forbidden,
                "run it as root, or as the user the daemon runs as",
            ),
            io::ErrorKind::AlreadyExists => (
                Kind::Conflict,
                "move the existing file away, or choose another name",
            ),
            io::ErrorKind::StorageFull => (Kind::Failed, "make room on that file system"),
            io::ErrorKind::ReadOnlyFilesystem => (
                Kind::Failed,
                "remount that file system for writing, or choose another directory",
            ),
            _ => (
                Kind::Failed,
                "look for the cause in the system's log (journalctl -k)",
            ),
        };
        Self::new(kind, tried, error, remedy)
    }

    /// As a program prints it, on two lines.
    pub fn report(&self, program: &str) -> String {
        format!("{program}: {self}\n  remedy: {}", self.remedy)
    }
}

/// Prints any error as the programs do: a [`Problem`] with its remedy, anything else with its
/// causes.
pub fn report(program: &str, error: &anyhow::Error) -> String {
    match error.downcast_ref::<Problem>() {
        Some(problem) => problem.report(program),
        None => format!("{program}: {error:#}"),
    }
}

/// The line and column (both from 1) of byte `at` in `text`.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// What the TOML parser found wrong with the file at `path`. The file's text itself is never
/// quoted: it may hold keys.
pub(crate) fn toml(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let (line, column) = position(text, error.span().map_or(0, |span| span.start));
    let happened = error.message().lines().collect::<Vec<_>>().join(", ");
    let remedy = if happened.contains("unknown field") {
        "correct the spelling or remove that line; the names that may stand there are listed above"
    } else if happened.contains("missing field") {
        "add what is missing"
    } else if ["unknown variant", "expected one of"]
        .iter()
        .any(|w| happened.contains(w))
    {
        "use one of the values listed above"
    } else if happened.contains("duplicate") {
        "remove one of the two"
    } else if happened.contains("invalid type") {
        "give the value in the form that is expected there"
    } else {
        "correct that line (text stands in quotes: name = \"value\")"
    };
    // The setting's name says more than a column; its value is not quoted.
    let setting = text
        .lines()
        .nth(line - 1)
        .and_then(|line| line.split_once('='));
    let setting = setting.map(|(name, _)| name.trim()).filter(|name| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        happened.contains("invalid") && !name.is_empty() && name.chars().all(plain)
    });
    let happened = match setting {
        Some(name) => format!("{name}: {happened}"),
        None => happened,
    };
    Problem::new(
        Kind::Invalid,
        format!("{}:{line}:{column}", path.display()),
        happened,
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_columns_from_one() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("ab\ncd", 0), (1, 1));
        assert_eq!(position("ab\ncd", 2), (1, 3));
        assert_eq!(position("ab\ncd", 3), (2, 1));
        assert_eq!(position("ä\nöx", 5), (2, 2));
        assert_eq!(position("ab", 99), (1, 3));
    }

    #[test]
    fn a_report_has_the_remedy_on_its_own_line() {
        let problem = Problem::new(Kind::Invalid, "reading x", "it is empty", "fill it");
        assert_eq!(
            report("portcullis", &anyhow::Error::from(problem)),
            "portcullis: reading x: it is empty\n  remedy: fill it"
        );
        assert_eq!(
            report("portcullis", &anyhow::anyhow!("b").context("a")),
            "portcullis: a: b"
        );
    }
}
