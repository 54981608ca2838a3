//! Explanations for people.

use super::{Explained, FrameHead, Outcome};
use crate::choices::Admission;
use std::fmt::Write;

/// The verdict in a few words.
fn verdict(explained: &Explained) -> String {
    match (&explained.verdict, explained.admitted) {
        (Some(verdict), Some(true)) => verdict.clone(),
        (Some(verdict), _) => format!("{verdict}, dropped"),
        (None, _) => "cannot be told".into(),
    }
}

fn admission(admission: Admission) -> &'static str {
    match admission {
        Admission::Tunnel => "tunnel",
        Admission::Pinned => "pinned",
        Admission::Open => "open",
    }
}

/// One frame with all its steps.
pub fn one(frame: &FrameHead, explained: &Explained, colours: bool) -> String {
    let mut text = format!(
        "{} bytes on {} ({}): {}{}\n",
        frame.length,
        explained.port,
        admission(explained.admission),
        verdict(explained),
        match &explained.workstation {
            Some(name) => format!(", of Workstation {name}"),
            None => String::new(),
        }
    );
    let width = explained.steps.iter().map(|step| step.check.len()).max();
    for step in &explained.steps {
        let (mark, colour) = match (step.outcome, explained.admitted) {
            (Outcome::Passed, _) => ("  ok", 32),
            (Outcome::Decided, Some(true)) => ("  in", 32),
            (Outcome::Decided, _) => ("drop", 31),
            (Outcome::Unknown, _) => ("   ?", 33),
        };
        let mark = match colours {
            true => format!("\x1b[{colour}m{mark}\x1b[0m"),
            false => mark.to_owned(),
        };
        let width = width.unwrap_or_default();
        let _ = writeln!(text, "  {mark}  {:width$}  {}", step.check, step.text);
    }
    text
}

/// A line for each of several frames, the first of them the number `first`.
pub fn several(frames: &[FrameHead], explained: &[Explained], first: usize) -> String {
    let mut text = String::new();
    for (at, (frame, explained)) in frames.iter().zip(explained).enumerate() {
        let last = explained.steps.last();
        let why = last.map_or("", |step| step.text.as_str());
        let _ = writeln!(
            text,
            "{:5}  {:5} bytes  {}  {}: {why}",
            first + at,
            frame.length,
            explained.port,
            verdict(explained),
        );
    }
    text
}
