//! The help pages, as a terminal of 80 columns shows them.

use super::*;
use portcullis_control::cli;
use portcullis_control::cli::help::{Block, blocks};
use portcullis_control::watch;

/// A page: the program, the subcommand's names, and what stands below the arguments in the source.
struct Page {
    program: &'static str,
    names: Vec<String>,
    below: String,
}

impl Page {
    /// What `--help` shows.
    fn text(&self) -> String {
        let output = Command::new(self.program)
            .args(&self.names)
            .arg("--help")
            .env("COLUMNS", "80")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", self.name());
        out(&output)
    }

    fn name(&self) -> String {
        format!("{} {}", self.program, self.names.join(" "))
    }
}

fn collect(command: &clap::Command, program: &'static str, names: &[String], all: &mut Vec<Page>) {
    let below = command.get_after_help().map(ToString::to_string);
    all.push(Page {
        program,
        names: names.to_vec(),
        below: below.unwrap_or_default(),
    });
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name().to_owned();
        let names = [names, &[name]].concat();
        collect(subcommand, program, &names, all);
    }
}

fn pages() -> Vec<Page> {
    let mut all = Vec::new();
    let programs = [
        env!("CARGO_BIN_EXE_portcullis"),
        env!("CARGO_BIN_EXE_portcullis-agent"),
        env!("CARGO_BIN_EXE_portcullisd"),
    ];
    for (command, program) in cli::commands().iter().zip(programs) {
        collect(command, program, &[], &mut all);
    }
    assert!(all.len() > 35, "only {} were found", all.len());
    all
}

#[test]
fn no_line_of_a_page_is_longer_than_80_columns_and_no_line_of_an_example_is_wrapped() {
    for page in pages() {
        let text = page.text();
        let long = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{}", page.name());
        let lines: Vec<_> = text.lines().collect();
        for block in blocks(&page.below) {
            if let Block::Examples(_, examples) = block {
                for line in examples {
                    let whole = format!("  {line}");
                    assert!(lines.contains(&&*whole), "{}: {line}", page.name());
                }
            }
        }
    }
}

#[test]
fn a_paragraph_is_one_line_in_the_source() {
    for page in pages() {
        for block in blocks(&page.below) {
            if let Block::Prose(lines) = block {
                let broken = lines
                    .windows(2)
                    .find(|two| two.iter().all(|l| !l.starts_with(' ')));
                assert_eq!(broken, None, "{}", page.name());
            }
        }
    }
}

#[test]
fn the_options_of_all_subcommands_come_last() {
    for page in pages().iter().filter(|page| !page.program.ends_with('d')) {
        let text = page.text();
        let options = text.split("\nOptions:\n").nth(1).unwrap();
        let (own, global) = options.split_once("\nGlobal options:\n").unwrap();
        for option in ["--config", "--json"] {
            assert!(!own.contains(&format!("  {option}")), "{text}");
        }
        assert!(global.trim_start().starts_with("--config"), "{text}");
    }
}

#[test]
fn the_agents_pages_are_about_the_agent() {
    for page in pages() {
        if !page.program.ends_with("-agent") {
            continue;
        }
        for block in blocks(&page.below) {
            if let Block::Examples(heading, lines) = block
                && !heading.starts_with("Then on ")
            {
                let others = lines.iter().find(|line| line.contains("portcullis "));
                assert_eq!(others, None, "{}", page.name());
            }
        }
        if page.names.first().is_some_and(|name| name != "enroll") {
            let text = page.text();
            assert!(!text.contains("--workstation"), "{text}");
            assert!(!text.contains("--port"), "{text}");
        }
    }
}

#[test]
fn the_page_of_watch_has_every_verdict() {
    let rig = Rig::new();
    let words = |text: String| -> Vec<String> {
        let words = text.split([' ', ',', '\n']);
        words.map(str::to_owned).collect()
    };
    let gateway = words(out(&rig.portcullis(&["watch", "--help"])));
    let agent = words(out(&rig.agent(&["watch", "--help"])));
    for verdict in watch::verdicts() {
        assert!(gateway.iter().any(|word| word == verdict), "{verdict}");
    }
    assert!(agent.iter().any(|word| word == "policy_unclassified"));
    // An agent's port is never a pinned one.
    assert!(!agent.iter().any(|word| word == "spoofed_address"));
}

#[test]
fn json_is_refused_and_not_shown_where_nothing_is_printed_as_json() {
    let rig = Rig::new();
    let without = ["top", "completions", "keygen", "enroll", "up", "down"];
    for page in pages().iter().filter(|page| !page.program.ends_with('d')) {
        let none = page
            .names
            .first()
            .is_some_and(|name| without.contains(&&**name));
        assert_eq!(!page.text().contains("--json"), none, "{}", page.name());
    }
    for arguments in [
        &["--json", "top"][..],
        &["top", "--json"],
        &["completions", "bash", "--json"],
    ] {
        let output = rig.portcullis(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(err(&output).contains("prints nothing for programs"));
        assert_eq!(out(&output), "");
    }
    let output = rig.agent(&["up", "--json"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn whoever_shows_a_name_is_told_to_say_of_what() {
    let rig = Rig::new();
    let output = rig.portcullis(&["show", "alpha"]);
    assert_eq!(output.status.code(), Some(2));
    let tip = "tip: to show one Workstation: portcullis show workstation alpha\n";
    assert!(err(&output).contains(tip), "{}", err(&output));
    let other = rig.portcullis(&["workstation", "alpha"]);
    assert!(!err(&other).contains("to show one"), "{}", err(&other));
}
