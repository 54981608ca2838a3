//! A report for people.

use super::{Level, Report};
use std::fmt::Write;

/// Each finding on a line, with what to do below, and the verdict at the end. What is as it should be is
/// left out when `brief`.
pub fn text(report: &Report, brief: bool, colours: bool) -> String {
    let mut text = String::new();
    let mut subject = "";
    for finding in &report.findings {
        if brief && finding.level == Level::Ok {
            continue;
        }
        if finding.subject != subject {
            subject = &finding.subject;
            let _ = writeln!(text, "{subject}");
        }
        let (mark, colour) = match finding.level {
            Level::Ok => ("[ OK ]", 32),
            Level::Warn => ("[WARN]", 33),
            Level::Fail => ("[FAIL]", 31),
        };
        let mark = match colours {
            true => format!("\x1b[{colour}m{mark}\x1b[0m"),
            false => mark.to_owned(),
        };
        let _ = writeln!(text, "  {mark} {}: {}", finding.check, finding.text);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "         -> {remedy}");
        }
    }
    let count = |level| report.findings.iter().filter(|f| f.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    let verdict = match report.verdict {
        Level::Ok => "everything is as it should be".to_owned(),
        Level::Warn => format!("it works; {warns} to think over"),
        Level::Fail => format!("{fails} to mend, and {warns} to think over"),
    };
    let _ = writeln!(text, "\n{} checks: {verdict}", report.findings.len());
    text
}
