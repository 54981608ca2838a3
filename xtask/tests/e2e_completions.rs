//! What the shells offer: the names that there are, asked of the daemon that runs. Needs root and the programs
//! (`cargo xtask test` builds them).

use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;

/// What a program offers for the last of some words, as a shell of this name asks it.
fn offered(programs: &Programs, shell: &str, words: &[&str]) -> Vec<String> {
    let (program, _) = words.split_first().unwrap();
    let output = Command::new(programs.path(program))
        .arg("--")
        .args(words)
        .env("COMPLETE", shell)
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "it is silent");
    let text = String::from_utf8(output.stdout).unwrap();
    // zsh and fish have an explanation after each.
    let first = |line: &str| {
        let end = line.find(['\t', ':']).unwrap_or(line.len());
        line[..end].trim().to_owned()
    };
    text.lines().map(first).collect()
}

#[test]
fn names_of_workstations_ports_and_verdicts_are_offered_at_once_and_silently_without_a_daemon() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    let mut rig = many(&programs, 1).unwrap();
    rig.gateway.start().unwrap();
    for name in ["alpha", "alto", "beta"] {
        rig.gateway.add(name).unwrap();
    }
    let config = rig.gateway.config();
    let config = config.to_str().unwrap();
    let ask = |shell: &str, line: &str| {
        let mut words = vec!["portcullis", "--config", config];
        words.extend(line.split(' '));
        offered(&programs, shell, &words)
    };
    for shell in ["bash", "zsh", "fish"] {
        for line in [
            "show workstation ",
            "workstation rotate ",
            "workstation allow ",
            "watch --workstation ",
            "status --require ",
        ] {
            // It is given up after a moment, on a machine that does other things too.
            let names = wait_for("the names", Duration::from_secs(20), || {
                let offered = ask(shell, line);
                (offered.first()? == "alpha").then_some(offered)
            });
            let names = names.unwrap_or_else(|error| panic!("{shell}: {line}: {error:#}"));
            assert_eq!(names[..3], ["alpha", "alto", "beta"], "{shell}: {line}");
        }
        wait_for("names that begin so", Duration::from_secs(20), || {
            (ask(shell, "workstation remove al") == ["alpha", "alto"]).then_some(())
        })
        .unwrap();
        assert_eq!(ask(shell, "show port ")[0], "lan", "{shell}");
        assert_eq!(
            ask(shell, "watch --verdict policy_"),
            ["policy_denied", "policy_unclassified"]
        );
        assert_eq!(ask(shell, "work"), ["workstation"]);
    }
    // As fast as a person types; the best of some, for the machine does other things too.
    let took = |_| {
        let start = Instant::now();
        ask("bash", "show workstation ");
        start.elapsed()
    };
    let best = (0..7).map(took).min().unwrap();
    assert!(best < Duration::from_millis(50), "{best:?}");
    rig.gateway.stop().unwrap();
    assert_eq!(ask("bash", "show workstation al"), Vec::<String>::new());
    assert_eq!(ask("bash", "show port ")[0], "lan", "it is configured");
    let nowhere = [
        "portcullis",
        "--config",
        "/nonexistent",
        "show",
        "port",
        "x",
    ];
    assert_eq!(offered(&programs, "bash", &nowhere), Vec::<String>::new());
    let agent = ["portcullis-agent", "wat"];
    assert_eq!(offered(&programs, "bash", &agent), ["watch"]);
}

#[test]
fn bash_offers_what_the_program_tells_it() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    let mut rig = many(&programs, 1).unwrap();
    rig.gateway.start().unwrap();
    rig.gateway.add("alpha").unwrap();
    let path = programs.path("portcullis");
    let directory = path.parent().unwrap().display();
    let config = rig.gateway.config();
    let script = format!(
        "PATH={directory}:$PATH; source <(portcullis completions bash); \
         COMP_WORDS=(portcullis --config {} show workstation al); COMP_CWORD=5; COMP_TYPE=9; \
         _clap_complete_portcullis portcullis al workstation; echo \"${{COMPREPLY[*]}}\"",
        config.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "alpha",
        "{errors}"
    );
}
