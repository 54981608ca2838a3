//! The command line of `bench`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};

use super::{Encapsulation, SUITES, Suite};

/// What to measure, and where the figures go.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// What to measure; without any, everything
    #[arg(value_name = "SUITE", value_parser = suites())]
    pub suites: Vec<String>,
    /// All suites but `shared` in under five minutes, with fewer and shorter measurements
    #[arg(long)]
    pub quick: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots and all figures to DIR/index.html
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Measurements of each kind, interleaved
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: Option<u32>,
    /// Length of each that has one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: Option<u32>,
    /// What is around the frames of the tunnel that e2e and peers measure
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub encapsulation: Encapsulation,
    /// Measure nothing: take the figures of an earlier run from this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suites", "quick", "runs", "seconds", "json", "encapsulation"])]
    pub from: Option<PathBuf>,
}

fn suites() -> PossibleValuesParser {
    let values = SUITES.map(|suite| PossibleValue::new(suite.name).help(suite.about));
    PossibleValuesParser::new(values)
}

impl Options {
    /// Whether a suite is to run.
    pub fn wants(&self, suite: &Suite) -> bool {
        match self.suites.is_empty() {
            true => suite.quick || !self.quick,
            false => self.suites.iter().any(|wanted| wanted == suite.name),
        }
    }

    /// The words after `bench` that these options are made of.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = self.suites.iter().map(OsString::from).collect();
        if self.quick {
            words.push("--quick".into());
        }
        for (name, number) in [("--runs", self.runs), ("--seconds", self.seconds)] {
            if let Some(number) = number {
                words.extend([name.into(), number.to_string().into()]);
            }
        }
        if self.encapsulation != Encapsulation::default() {
            words.extend(["--encapsulation".into(), self.encapsulation.word().into()]);
        }
        for (name, path) in [
            ("--json", &self.json),
            ("--report", &self.report),
            ("--from", &self.from),
        ] {
            if let Some(path) = path {
                words.extend([name.into(), path.clone().into_os_string()]);
            }
        }
        words
    }

    /// The command that measures the same again.
    pub fn command(&self) -> String {
        let mut command = String::from("cargo xtask bench");
        for word in self.words() {
            command.push(' ');
            command.push_str(&word.to_string_lossy());
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_words_of_options_give_the_same_options_again() {
        let all = [
            "e2e",
            "flood",
            "--quick",
            "--runs",
            "2",
            "--seconds",
            "9",
            "--encapsulation",
            "udp",
            "--json",
            "a b",
            "--report",
            "d",
        ];
        let options = Line::parse_from(["bench"].iter().chain(&all)).options;
        assert_eq!(options.words(), all);
    }

    #[test]
    fn what_is_named_is_measured_else_everything_and_in_a_hurry_what_is_quick() {
        let wanted = |words: &[&str]| {
            let options = Line::parse_from([&["bench"], words].concat()).options;
            let wanted = SUITES.iter().filter(|suite| options.wants(suite));
            wanted.map(|suite| suite.name).collect::<Vec<_>>()
        };
        assert_eq!(wanted(&["shared", "flood"]), ["flood", "shared"]);
        assert_eq!(wanted(&["shared", "--quick"]), ["shared"]);
        assert_eq!(wanted(&[]).len(), SUITES.len());
        assert_eq!(wanted(&["--quick"]).len(), SUITES.len() - 1);
        assert!(!wanted(&["--quick"]).contains(&"shared"));
    }

    #[test]
    fn an_unknown_suite_is_refused_with_all_that_there_are() {
        let error = Line::try_parse_from(["bench", "speed"])
            .unwrap_err()
            .to_string();
        for suite in SUITES {
            assert!(error.contains(suite.name), "{error}");
        }
    }
}
