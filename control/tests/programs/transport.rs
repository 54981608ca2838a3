//! Enrolments that are carried over encrypted, or as a picture.

use super::*;
use std::process::Stdio;

#[test]
fn an_encrypted_enrolment_is_opened_by_its_passphrase_on_the_other_machine_only() {
    let rig = Rig::new();
    rig.init();
    fs::write(rig.path("secret"), "six words or so\n").unwrap();
    let added = rig.portcullis(&[
        "workstation",
        "add",
        "alpha",
        "--encrypt",
        "--passphrase-file",
        "secret",
    ]);
    assert!(added.status.success(), "{}", err(&added));
    assert!(out(&added).contains("portcullis-agent enroll alpha.enrolment.age"));
    let file = rig.path("alpha.enrolment.age");
    assert_eq!(mode(&file), 0o600);
    let sealed = fs::read_to_string(&file).unwrap();
    assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    assert!(!sealed.contains("psk"));
    fs::write(rig.path("wrong"), "six other words\n").unwrap();
    let enroll = |passphrase: &str| {
        rig.agent(&[
            "enroll",
            "alpha.enrolment.age",
            "--passphrase-file",
            passphrase,
        ])
    };
    let text = failure(&enroll("wrong"));
    assert!(text.contains("the passphrase is wrong"), "{text}");
    assert!(!rig.path("agent-state/identity.toml").exists());
    // No terminal to ask at, and no passphrase given.
    let mut quiet = Command::new("setsid");
    quiet.args(["--wait", env!("CARGO_BIN_EXE_portcullis-agent")]);
    quiet.args(["--config", "agent.toml", "enroll", "alpha.enrolment.age"]);
    let output = quiet
        .current_dir(rig.directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(failure(&output).contains("--passphrase-file"));
    let enrolled = enroll("secret");
    assert!(enrolled.status.success(), "{}", err(&enrolled));
    assert!(out(&enrolled).contains("This Workstation is alpha"));
    let identity = Enrolment::load(&rig.path("agent-state")).unwrap();
    assert_eq!(identity.name.as_str(), "alpha");
}

#[test]
fn a_command_with_secrets_can_neither_be_looked_into_nor_dumped_nor_swapped() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let rig = Rig::new();
    let directory = rig.directory.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    for uid in [0, NOBODY] {
        // It waits for an enrolment on its standard input.
        let mut enrolls = Command::new(env!("CARGO_BIN_EXE_portcullis-agent"))
            .args(["--config", "agent.toml", "enroll", "-"])
            .current_dir(directory)
            .uid(uid)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let of = |file: &str| format!("/proc/{}/{file}", enrolls.id());
        let end = Instant::now() + Duration::from_secs(10);
        let core = |of: &str| {
            let limits = fs::read_to_string(of).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max core"));
            let fields = line.unwrap().split_whitespace();
            fields.map(str::to_owned).collect::<Vec<_>>()[4..6].to_vec()
        };
        // What is set last, for whoever may.
        let locked = || {
            let status = fs::read_to_string(of("status")).unwrap();
            let mut lines = status.lines();
            uid == NOBODY || lines.any(|l| l.starts_with("VmLck:") && !l.ends_with(" 0 kB"))
        };
        while !locked() || core(&of("limits")) != ["0", "0"] {
            assert!(Instant::now() < end, "{}", locked());
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel gives what belongs to a process that cannot be dumped to root.
        assert_eq!(fs::metadata(of("status")).unwrap().uid(), 0);
        drop(enrolls.stdin.take());
        assert!(!enrolls.wait().unwrap().success());
    }
}

#[test]
fn a_passphrase_that_is_too_short_adds_nothing() {
    let rig = Rig::new();
    let config = rig.init();
    fs::write(rig.path("secret"), "short\n").unwrap();
    let text = failure(&rig.portcullis(&[
        "workstation",
        "add",
        "alpha",
        "--encrypt",
        "--passphrase-file",
        "secret",
    ]));
    assert!(text.contains("it has 5 characters"), "{text}");
    let registry = Registry::open(&config).unwrap();
    assert_eq!(registry.workstations().count(), 0);
    assert!(!rig.path("alpha.enrolment.age").exists());
}

#[test]
fn a_passphrase_is_never_taken_from_the_command_line() {
    let rig = Rig::new();
    rig.init();
    for option in ["--passphrase", "--password"] {
        let arguments = ["workstation", "add", "a", "--encrypt", option, "secret"];
        assert_eq!(rig.portcullis(&arguments).status.code(), Some(2));
    }
}

#[test]
fn a_picture_goes_to_a_terminal_only_unless_asked_and_can_be_read_back_from_standard_input() {
    let rig = Rig::new();
    let config = rig.init();
    let text = failure(&rig.portcullis(&["workstation", "add", "alpha", "--qr"]));
    assert!(text.contains("standard output is no terminal"), "{text}");
    assert_eq!(Registry::open(&config).unwrap().workstations().count(), 0);
    let shown = rig.portcullis(&["workstation", "add", "alpha", "--qr=always"]);
    assert!(shown.status.success(), "{}", err(&shown));
    assert!(out(&shown).contains("\x1b[30;107m"), "{}", out(&shown));
    assert!(out(&shown).contains("zbarcam"));
    assert!(!rig.path("alpha.enrolment").exists());
    // What a camera would read is what stands in the file without its comments.
    let file = rig.portcullis(&["workstation", "add", "beta", "--output", "-"]);
    let text: String = out(&file)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_portcullis-agent"))
        .args(["--config", "agent.toml", "enroll", "-"])
        .current_dir(rig.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = agent.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = agent.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(out(&output).contains("This Workstation is beta"));
    assert!(!out(&output).contains("rm "), "{}", out(&output));
}
