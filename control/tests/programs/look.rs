//! Looking at a Gateway and an agent.

use super::*;
use portcullis_control::show::dump::{COLUMNS, Of};

#[test]
fn one_workstation_and_one_port_are_shown_in_full_and_a_wrong_name_is_told_the_right_ones() {
    let rig = Rig::new();
    let config = rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let server = serve(&config);
    let text = out(&rig.portcullis(&["show", "workstation", "alpha"]));
    assert!(text.starts_with("workstation alpha\n"), "{text}");
    assert!(text.contains("to be given  encrypt, auto"), "{text}");
    let again = rig.portcullis(&["workstation", "show", "alpha"]);
    assert_eq!(out(&again), text);
    let json = out(&rig.portcullis(&["show", "workstation", "alpha", "--json"]));
    let one: WorkstationStatus = serde_json::from_str(&json).unwrap();
    assert_eq!(one.name, "alpha");
    let text = out(&rig.portcullis(&["show", "port", "pc-none0"]));
    assert!(text.contains("missing"), "{text}");
    let json = out(&rig.portcullis(&["--json", "show", "port", "pc-none0"]));
    let port: PortStatus = serde_json::from_str(&json).unwrap();
    assert_eq!(port.interface, "pc-none0");
    let text = failure(&rig.portcullis(&["show", "workstation", "alhpa"]));
    assert!(text.contains("name one of alpha"), "{text}");
    let text = failure(&rig.portcullis(&["show", "port", "eth9"]));
    assert!(text.contains("name one of pc-none0"), "{text}");
    // What the files say can be seen without the daemon.
    server.stop();
    let text = out(&rig.portcullis(&["workstation", "show", "alpha"]));
    assert!(text.starts_with("workstation alpha\n"), "{text}");
}

#[test]
fn the_exit_code_of_status_is_a_monitoring_plugins() {
    let rig = Rig::new();
    let config = rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let unknown = rig.portcullis(&["status"]);
    assert_eq!(unknown.status.code(), Some(3));
    assert!(out(&unknown).starts_with("UNKNOWN: "), "{}", out(&unknown));
    assert!(err(&unknown).contains("\n  remedy: "));
    let agent = rig.agent(&["status"]);
    assert_eq!(agent.status.code(), Some(3));
    for unknown in [
        rig.portcullis(&["status", "--json"]),
        rig.agent(&["--json", "status"]),
    ] {
        assert_eq!(unknown.status.code(), Some(3));
        let json: serde_json::Value = serde_json::from_str(&out(&unknown)).unwrap();
        assert_eq!(json["level"], "unknown");
        let remedy = json["complaints"][0]["text"].as_str().unwrap();
        assert!(remedy.contains("start"), "{remedy}");
    }
    let _server = serve(&config);
    // Its only port is missing.
    let critical = rig.portcullis(&["status"]);
    assert_eq!(critical.status.code(), Some(2));
    let text = out(&critical);
    assert!(
        text.starts_with("CRITICAL: 0 of 1 ports up, 0 of 1 Workstations in session\n"),
        "{text}"
    );
    assert!(text.contains("port pc-none0 is missing"), "{text}");
    let required = out(&rig.portcullis(&["status", "--require", "alpha"]));
    assert!(
        required.contains("alpha is not in session: it has not been heard yet"),
        "{required}"
    );
    let json = out(&rig.portcullis(&["status", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["level"], "critical");
}

#[test]
fn a_dump_is_columns_and_the_help_says_which() {
    let rig = Rig::new();
    let config = rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let _server = serve(&config);
    let text = out(&rig.portcullis(&["dump"]));
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    let of = |kind: &str| lines.iter().filter(|l| l[0] == kind).collect::<Vec<_>>();
    assert_eq!(of("gateway")[0][1], "9.9.9");
    assert_eq!(of("port")[0][1..4], ["pc-none0", "tunnel", "missing"]);
    assert_eq!(of("workstation")[0][1..3], ["alpha", "no session"]);
    assert!(lines.iter().flatten().all(|column| !column.is_empty()));
    let gateway = out(&rig.portcullis(&["dump", "--help"]));
    let agent = out(&rig.agent(&["dump", "--help"]));
    for (kind, _) in COLUMNS {
        for (of, help) in [(Of::Gateway, &gateway), (Of::Agent, &agent)] {
            assert_eq!(help.contains(&format!("\n  {kind}:\n")), of.has(kind));
        }
    }
}

#[test]
fn nothing_has_colours_but_on_a_terminal() {
    let rig = Rig::new();
    let config = rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let _server = serve(&config);
    for arguments in [&["show"][..], &["status"], &["show", "port", "pc-none0"]] {
        let output = rig.portcullis(arguments);
        assert!(!out(&output).contains('\x1b') && !err(&output).contains('\x1b'));
    }
}
