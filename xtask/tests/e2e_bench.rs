//! `portcullis bench` on a machine with a daemon that serves, and on one without. Needs root and the programs
//! (`cargo xtask test` builds them).

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;
use serde_json::Value;

fn bench(programs: &Programs, host: &Namespace) -> Command {
    let mut command = host.command(programs.path("portcullis"));
    command.arg("bench");
    command
}

fn metrics(text: &[u8]) -> Vec<String> {
    let report: Value = serde_json::from_slice(text).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let name = |figure: &Value| figure["metric"].as_str().unwrap().to_owned();
    figures.iter().map(name).collect()
}

/// What is pinned, and what interfaces there are.
fn around(host: &Namespace) -> (Vec<String>, String) {
    let pins = fs::read_dir("/sys/fs/bpf").unwrap();
    let mut pins: Vec<_> = pins
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    pins.sort();
    (pins, host.ip("-o link show").unwrap())
}

#[test]
fn it_measures_all_of_it_beside_a_daemon_that_serves_on_undisturbed_and_leaves_nothing() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    let mut rig = single(&programs).unwrap();
    rig.start().unwrap();
    let host = rig.gateway.namespace();
    let before = (around(host), rig.workstation.rekeys().unwrap());
    let verdicts = rig.gateway.show().unwrap().verdicts("ws1");
    let started = Instant::now();
    let output = bench(&programs, host).args(["--json"]).output().unwrap();
    let took = started.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let metrics = metrics(&output.stdout);
    for metric in [
        "admission.bad_tag.ns",
        "admission.admitted.ns",
        "aead.seal.1400.ns",
        "pipeline.open.64.mpps",
        "pipeline.open.1400.tcp.gbps",
    ] {
        assert!(
            metrics.iter().any(|one| one == metric),
            "{metric}: {metrics:?}"
        );
    }
    // Neither its frames nor anything else of it were seen here, and the session is the same.
    let after = rig.gateway.show().unwrap().verdicts("ws1");
    for verdict in ["foreign", "bad_tag", "replay", "unknown_session"] {
        assert_eq!(after[verdict], verdicts[verdict], "{verdict}");
    }
    assert_eq!((around(host), rig.workstation.rekeys().unwrap()), before);
    assert!(rig.workstation.reaches(Duration::from_secs(5)));
}

#[test]
fn a_terminal_shows_how_far_it_is_and_then_what_to_expect() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    let host = Namespace::create("bench").unwrap();
    let mut command = bench(&programs, &host);
    command.arg("--quick");
    let mut terminal = Terminal::start(command, 100, 40).unwrap();
    terminal
        .wait("a bar", |screen| {
            screen.contains("encryption and the worker")
        })
        .unwrap();
    assert!(terminal.ended().unwrap().success());
    let screen = terminal
        .wait("what to expect", |screen| screen.contains("Mpps of 64 B"))
        .unwrap();
    for word in [
        "drop a forged frame",
        "MEDIAN",
        "SAMPLES",
        "makes the figures lower",
    ] {
        assert!(screen.contains(word), "{word}: {screen}");
    }
    // The bar is gone.
    assert!(!screen.contains("encryption and the worker"), "{screen}");
}

#[test]
fn without_root_the_rest_is_measured_and_it_says_what_is_missing() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    // Where others can run it.
    let place = Scratch::new("bench").unwrap();
    let program = place.path().join("portcullis");
    fs::copy(programs.path("portcullis"), &program).unwrap();
    let mut open = Command::new("chmod");
    open.args(["-R", "a+rx"]).arg(place.path());
    assert!(open.status().unwrap().success());
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(&program)
            .args(["bench", "--quick"])
            .args(arguments);
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        output.stdout
    };
    let metrics = metrics(&run(&["--json"]));
    assert!(metrics.iter().any(|one| one == "pipeline.open.64.mpps"));
    assert!(!metrics.iter().any(|one| one.starts_with("admission")));
    let shown = String::from_utf8(run(&[])).unwrap();
    assert!(shown.contains("XDP was not measured"), "{shown}");
    assert!(shown.contains("run it as root"), "{shown}");
}
