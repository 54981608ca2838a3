//! The programs as a person uses them, over a real socket where one is needed.

mod look;
mod pages;
mod transport;

use portcullis_control::api::server::{Options, Server};
use portcullis_control::api::socket::Socket;
use portcullis_control::api::{
    self, AddWorkstation, Added, AgentControl, AgentStatus, Allow, Allowed, Control, KeyRetired,
    KeyRotated, PortState, PortStatus, Reloaded, Removed, RetireKey, RotateWorkstation, Rotated,
    SetWorkstation, Status, Switched, WorkstationStatus,
};
use portcullis_control::config::Gateway;
use portcullis_control::enrolment::Enrolment;
use portcullis_control::problem::{Kind, Problem};
use portcullis_control::registry::Registry;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What `portcullis-agent down` prints.
const DOWN: &str = "Tunnel and wall are down: the port is an ordinary interface again, set down.\n";

/// A directory with everything a Gateway and an agent have on disk.
struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let rig = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::write(
            rig.path("agent.toml"),
            format!(
                "state_directory = \"{0}/agent-state\"\nruntime_directory = \"{0}/agent-run\"\n",
                rig.directory.path().display()
            ),
        )
        .unwrap();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program)
            .args(arguments)
            .current_dir(self.directory.path())
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    }

    fn portcullis(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--config", "portcullis.toml"];
        all.extend(arguments);
        self.run(env!("CARGO_BIN_EXE_portcullis"), &all)
    }

    fn agent(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--config", "agent.toml"];
        all.extend(arguments);
        self.run(env!("CARGO_BIN_EXE_portcullis-agent"), &all)
    }

    fn init(&self) -> Gateway {
        let state = self.path("state");
        let run = self.path("run");
        let output = self.portcullis(&[
            "init",
            "--port",
            "pc-none0",
            "--address",
            "10.77.0.1/24",
            "--state-directory",
            state.to_str().unwrap(),
            "--runtime-directory",
            run.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", err(&output));
        assert!(err(&output).contains("warning: there is no interface pc-none0 now"));
        assert!(out(&output).contains("workstation add NAME"));
        Gateway::load(&self.path("portcullis.toml")).unwrap()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The output of a failure: exit code 1, two lines on standard error, nothing on standard output.
fn failure(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}{}",
        out(output),
        err(output)
    );
    let text = err(output);
    assert!(text.contains("\n  remedy: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A daemon without a dataplane.
struct Fake {
    registry: Mutex<Registry>,
    config: Gateway,
}

impl Control for Fake {
    fn status(&self) -> Result<Status, Problem> {
        Ok(Status {
            version: "9.9.9".into(),
            engine: "fake".into(),
            workers: 1,
            ports: vec![PortStatus {
                interface: "pc-none0".into(),
                state: PortState::Missing,
                reason: Some("no such interface".into()),
                ..PortStatus::default()
            }],
            workstations: {
                let registry = self.registry.lock().unwrap();
                WorkstationStatus::all(&registry, &registry.keyring()?)
            },
            ..Status::default()
        })
    }

    fn add(&self, request: AddWorkstation) -> Result<Added, Problem> {
        let mut registry = self.registry.lock().unwrap();
        let key = registry.keyring()?.public();
        Ok(api::add_workstation(&mut registry, &self.config, key, request)?.1)
    }

    fn allow(&self, name: &str, request: Allow) -> Result<Allowed, Problem> {
        api::allow_workstation(&mut self.registry.lock().unwrap(), name, &request)
    }

    fn remove(&self, name: &str) -> Result<Removed, Problem> {
        assert_ne!(name, "panic", "the test asked for it");
        self.registry.lock().unwrap().remove(name)?;
        Ok(Removed { name: name.into() })
    }

    fn set(&self, name: &str, request: SetWorkstation) -> Result<SetWorkstation, Problem> {
        let mut registry = self.registry.lock().unwrap();
        let (slot, _) = api::set_workstation(&mut registry, name, &request)?;
        Ok(SetWorkstation::of(registry.by_slot(slot).unwrap()))
    }

    fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        let mut registry = self.registry.lock().unwrap();
        registry.change(name, |one| one.enabled = enabled)?;
        let name = name.into();
        Ok(Switched { name, enabled })
    }

    fn rotate(&self, name: &str, request: RotateWorkstation) -> Result<Rotated, Problem> {
        let mut registry = self.registry.lock().unwrap();
        let keyring = registry.keyring()?;
        api::rotate_workstation(&mut registry, &self.config, &keyring, name, request)
            .map(|(_, rotated)| rotated)
    }

    fn cancel_rotation(&self, name: &str) -> Result<(), Problem> {
        self.registry.lock().unwrap().cancel_rotation(name)?;
        Ok(())
    }

    fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        let mut registry = self.registry.lock().unwrap();
        let keyring = registry.rotate_key()?;
        Ok(api::key_rotated(&registry, &keyring))
    }

    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        let (_, locked_out) = self.registry.lock().unwrap().retire_key(request.force)?;
        Ok(KeyRetired { locked_out })
    }

    fn reload(&self) -> Result<Reloaded, Problem> {
        let mut registry = self.registry.lock().unwrap();
        let changes = registry.reload()?;
        Ok(Reloaded {
            removed: changes
                .removed
                .iter()
                .map(|(_, w)| w.name.to_string())
                .collect(),
            ..Reloaded::default()
        })
    }
}

fn serve(config: &Gateway) -> Server {
    let control = Fake {
        registry: Mutex::new(Registry::open(config).unwrap()),
        config: config.clone(),
    };
    let socket = Socket::bind(&config.runtime_directory).unwrap();
    Server::start(
        socket,
        Arc::new(control),
        Options::new(&config.state_directory),
    )
    .unwrap()
}

/// A raw request, as nobody's client would send it.
fn raw(config: &Gateway, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(config.runtime_directory.join("control.sock")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The server may answer and close before all of it is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn init_makes_a_gateway_and_never_overwrites_one() {
    let rig = Rig::new();
    let config = rig.init();
    assert_eq!(mode(&rig.path("state")), 0o700);
    assert_eq!(mode(&rig.path("state/gateway.key")), 0o600);
    assert_eq!(config.ports[0].interface, "pc-none0");
    let before = fs::read(rig.path("portcullis.toml")).unwrap();
    let key = fs::read(rig.path("state/gateway.key")).unwrap();
    let text = failure(&rig.portcullis(&["init", "--port", "x"]));
    assert!(text.contains("there is a configuration already"), "{text}");
    assert_eq!(fs::read(rig.path("portcullis.toml")).unwrap(), before);
    // With the configuration gone, the key is kept.
    fs::remove_file(rig.path("portcullis.toml")).unwrap();
    rig.init();
    assert_eq!(fs::read(rig.path("state/gateway.key")).unwrap(), key);
}

/// A network namespace that goes when it is dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let namespace = Self(format!("pc-control-{}", std::process::id()));
        ip(&["netns", "add", &namespace.0]);
        namespace
    }

    fn ip(&self, arguments: &[&str]) {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments);
        ip(&all);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.0])
            .status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "this test needs root: ip {arguments:?}: {}",
        err(&output)
    );
}

#[test]
fn init_takes_the_interfaces_that_are_used_for_nothing_else() {
    let rig = Rig::new();
    let namespace = Namespace::new();
    for (one, other) in [("up0", "up1"), ("in0", "in1")] {
        namespace.ip(&["link", "add", one, "type", "veth", "peer", "name", other]);
    }
    namespace.ip(&["link", "add", "br0", "type", "bridge"]);
    namespace.ip(&["tuntap", "add", "tap7", "mode", "tap"]);
    namespace.ip(&["link", "set", "in1", "master", "br0"]);
    namespace.ip(&["link", "set", "up0", "up"]);
    namespace.ip(&["link", "set", "up1", "up"]);
    namespace.ip(&["link", "set", "in0", "up"]);
    namespace.ip(&["address", "add", "10.99.0.1/24", "dev", "up0"]);
    namespace.ip(&["-6", "route", "add", "default", "dev", "up1"]);
    let state = rig.path("state");
    let init = |address: &str| {
        let portcullis = env!("CARGO_BIN_EXE_portcullis");
        let state = state.to_str().unwrap();
        rig.run(
            "ip",
            &[
                "netns",
                "exec",
                &namespace.0,
                portcullis,
                "--config",
                "portcullis.toml",
                "init",
                "--state-directory",
                state,
                "--address",
                address,
            ],
        )
    };
    let text = failure(&init("10.99.0.100/16"));
    assert!(
        text.contains("contains the address 10.99.0.1 of up0"),
        "{text}"
    );
    let output = init("10.77.0.1/24");
    assert!(output.status.success(), "{}", err(&output));
    let config = Gateway::load(&rig.path("portcullis.toml")).unwrap();
    let ports: Vec<_> = config
        .ports
        .iter()
        .map(|port| port.interface.as_str())
        .collect();
    assert_eq!(ports, ["in0"]);
    fs::remove_file(rig.path("portcullis.toml")).unwrap();
    namespace.ip(&["address", "add", "10.98.0.1/24", "dev", "in0"]);
    let text = failure(&init("10.77.0.1/24"));
    for reason in [
        "br0 (it is no wired",
        "tap7 (it is no wired",
        "in0 (it has the address 10.98.0.1)",
        "in1 (it is part of br0)",
        "up0 (it has the address 10.99.0.1)",
        "up1 (the default route leads through it)",
    ] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[test]
fn a_workstation_is_added_carried_over_and_enrolled() {
    let rig = Rig::new();
    let config = rig.init();
    // First without the daemon, then with it: the same to the person.
    for (name, daemon) in [("alpha", false), ("beta", true)] {
        let _server = daemon.then(|| serve(&config));
        let file = format!("{name}.enrolment");
        let output = rig.portcullis(&["workstation", "add", name, "--protection", "authenticate"]);
        assert!(output.status.success(), "{}", err(&output));
        assert!(out(&output).contains(&format!("portcullis-agent enroll {file}")));
        assert_eq!(mode(&rig.path(&file)), 0o600);

        let output = rig.agent(&["enroll", &file, "--interface", "eth7", "--replace"]);
        assert!(output.status.success(), "{}", err(&output));
        assert!(out(&output).contains(&format!("This Workstation is {name} ")));
        assert!(out(&output).contains("portcullis-agent --config agent.toml up"));
        assert_eq!(
            err(&output),
            "portcullis-agent: warning: there is no interface eth7 now\n"
        );
        let identity = Enrolment::load(&rig.path("agent-state")).unwrap();
        assert_eq!(identity.interface.as_deref(), Some("eth7"));
        assert_eq!(identity.name.as_str(), name);

        let output = rig.portcullis(&["workstation", "list"]);
        assert!(out(&output).contains(name), "{}", out(&output));

        // The same name or the same file a second time changes nothing.
        let before = fs::read(rig.path(&file)).unwrap();
        let text = failure(&rig.portcullis(&["workstation", "add", name]));
        assert!(text.contains("exists") && text.contains(&file), "{text}");
        let text = failure(&rig.portcullis(&["workstation", "add", name, "--output", "other"]));
        assert!(text.contains("there is one of that name already"), "{text}");
        assert!(!rig.path("other").exists());
        assert_eq!(fs::read(rig.path(&file)).unwrap(), before);
    }
    let registry = Registry::open(&config).unwrap();
    let identity = Enrolment::load(&rig.path("agent-state")).unwrap();
    let beta = registry.get("beta").unwrap().1;
    assert_eq!(beta.public_key, identity.key.public());
    assert_eq!(beta.psk, identity.psk);
    assert_eq!(beta.key_id, identity.key_id);
    assert_eq!(
        registry.keyring().unwrap().public(),
        identity.gateway_public_key
    );
    drop(registry);

    let text = failure(&rig.agent(&["enroll", "alpha.enrolment"]));
    assert!(text.contains("enrolled already, as beta"), "{text}");
    assert!(text.contains("--replace"), "{text}");

    let output = rig.portcullis(&["--json", "workstation", "remove", "beta"]);
    assert_eq!(out(&output), "{\n  \"name\": \"beta\"\n}\n");
    let text = failure(&rig.portcullis(&["workstation", "remove", "beta"]));
    assert!(text.contains("there is none of that name"), "{text}");
}

#[test]
fn keys_are_replaced_for_a_port_where_ports_differ() {
    for daemon in [false, true] {
        let rig = Rig::new();
        rig.init();
        let good = |arguments: &[&str]| {
            let output = rig.portcullis(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        };
        good(&["workstation", "add", "alpha"]);
        let file = rig.path("portcullis.toml");
        let mut text = fs::read_to_string(&file).unwrap();
        text.push_str("\n[[port]]\ninterface = \"eth8\"\nethertype = 0x88B6\n");
        fs::write(&file, text).unwrap();
        let config = Gateway::load(&file).unwrap();
        let _server = daemon.then(|| serve(&config));
        good(&["workstation", "add", "beta", "--port", "eth8"]);

        let refused = |arguments: &[&str], cause: &str, remedy: &str| {
            let before = fs::read(rig.path("state/workstations/alpha.toml")).unwrap();
            let text = failure(&rig.portcullis(arguments));
            assert!(text.contains(cause) && text.contains(remedy), "{text}");
            assert!(!rig.path("new").exists());
            let after = fs::read(rig.path("state/workstations/alpha.toml")).unwrap();
            assert_eq!(before, after);
        };
        let rotate = |name, port: &'static str| {
            let mut all = vec!["workstation", "rotate", name, "--output", "new"];
            if !port.is_empty() {
                all.extend(["--port", port]);
            }
            all
        };
        refused(&rotate("alpha", ""), "different encapsulations", "eth8");
        refused(&rotate("alpha", "eth9"), "no such tunnel port", "eth8");
        refused(
            &rotate("beta", "pc-none0"),
            "served on eth8 only",
            "leave the port out",
        );
        refused(
            &rotate("nobody", ""),
            "none of that name",
            "workstation list",
        );

        for (name, port) in [("alpha", "eth8"), ("alpha", "pc-none0"), ("beta", "")] {
            good(&rotate(name, port));
            let text = fs::read_to_string(rig.path("new")).unwrap();
            let ethertype = if port == "pc-none0" {
                "0x88B5"
            } else {
                "0x88B6"
            };
            assert!(text.contains(&format!("ethertype = {ethertype}\n")));
            fs::remove_file(rig.path("new")).unwrap();
        }
    }
}

#[test]
fn keys_are_replaced_the_same_with_and_without_the_daemon() {
    for daemon in [false, true] {
        let rig = Rig::new();
        let config = rig.init();
        let _server = daemon.then(|| serve(&config));
        let good = |arguments: &[&str]| {
            let output = rig.portcullis(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", err(&output));
            out(&output)
        };
        good(&["workstation", "add", "alpha"]);
        assert!(rig.agent(&["enroll", "alpha.enrolment"]).status.success());
        // The old file is not overwritten, and nothing was changed.
        let text = failure(&rig.portcullis(&["workstation", "rotate", "alpha"]));
        assert!(
            text.contains("exists") && text.contains("--output"),
            "{text}"
        );
        assert!(!good(&["workstation", "list"]).contains("new keys"));
        let rotate = ["workstation", "rotate", "alpha", "--output", "new"];
        assert!(good(&rotate).contains("or in 168 hours"));
        assert_eq!(mode(&rig.path("new")), 0o600);
        assert!(good(&["workstation", "list"]).contains("has not used its new keys"));
        let text = failure(&rig.agent(&["enroll", "new"]));
        assert!(
            text.contains("enrolled already") && text.contains("--replace"),
            "{text}"
        );
        assert!(rig.agent(&["enroll", "--replace", "new"]).status.success());
        assert!(
            rig.agent(&["enroll", "new"]).status.success(),
            "again is no error"
        );
        good(&["workstation", "rotate", "alpha", "--cancel"]);
        good(&["workstation", "rotate", "alpha", "--cancel"]);
        assert!(!good(&["workstation", "list"]).contains("new keys"));
        let text =
            failure(&rig.portcullis(&["workstation", "rotate", "alpha", "--output", "no/dir"]));
        assert!(text.contains("creating no/dir"), "{text}");
        assert!(!good(&["workstation", "list"]).contains("new keys"));

        let set = [
            "workstation",
            "set",
            "alpha",
            "--protection",
            "authenticate",
        ];
        let text = good(&[&set[..], &["--cipher", "aes-128-gcm"]].concat());
        assert!(
            text.contains("authenticate, cipher aes-128-gcm, padding none"),
            "{text}"
        );
        let text = good(&["workstation", "set", "alpha", "--padding", "full"]);
        assert!(
            text.contains("authenticate, cipher aes-128-gcm, padding full"),
            "{text}"
        );
        let text = failure(&rig.portcullis(&["workstation", "set", "alpha", "--padding", "8"]));
        assert!(text.contains("`full`"), "{text}");
        for _ in 0..2 {
            good(&["workstation", "disable", "alpha"]);
            assert!(good(&["workstation", "list"]).contains("disabled"));
        }
        good(&["workstation", "enable", "alpha"]);
        assert!(!good(&["workstation", "list"]).contains("disabled"));
        for what in ["disable", "enable", "rotate"] {
            let text = failure(&rig.portcullis(&["workstation", what, "none"]));
            assert!(text.contains("there is none of that name"), "{text}");
        }

        assert!(good(&["key", "rotate"]).contains("still accepted: alpha"));
        let text = failure(&rig.portcullis(&["key", "rotate"]));
        assert!(text.contains("portcullis key retire"), "{text}");
        assert!(good(&["workstation", "list"]).contains("knows the Gateway's old key only"));
        let text = failure(&rig.portcullis(&["key", "retire"]));
        assert!(text.contains("alpha would be locked out"), "{text}");
        assert!(good(&["key", "retire", "--force"]).contains("new keys: alpha"));
        assert!(good(&["workstation", "list"]).contains("locked out"));
        assert!(good(&["key", "retire"]).contains("has one key"));
    }
}

#[test]
fn what_a_workstation_may_reach_is_said_when_it_is_added_and_changed_rule_by_rule() {
    let rig = Rig::new();
    let config = rig.init();
    for (name, daemon) in [("alpha", false), ("beta", true)] {
        let _server = daemon.then(|| serve(&config));
        let usual = "may reach: tcp/9050, tcp/9040, udp/5353, icmp\n";
        rig.portcullis(&["workstation", "add", name]);
        let shown = rig.portcullis(&["workstation", "allow", name]);
        assert_eq!(out(&shown), format!("{name} {usual}"), "{}", err(&shown));
        assert!(out(&rig.portcullis(&["workstation", "list"])).contains(usual));

        let other = format!("{name}2");
        let rules = "tcp/80,any@transparent";
        rig.portcullis(&[
            "workstation",
            "add",
            &other,
            "--allow",
            rules,
            "--allow",
            "icmp",
        ]);
        let to_other = format!("+tcp/22@{other}");
        let changes = ["-udp/5353", &to_other, "-tcp/9040", "udp/1-9"];
        let arguments = [&["--json", "workstation", "allow", name], &changes[..]].concat();
        let output = rig.portcullis(&arguments);
        let answer: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
        let tcp_22 = to_other.trim_start_matches('+');
        let expected = serde_json::json!(["tcp/9050", "icmp", tcp_22, "udp/1-9"]);
        assert_eq!(answer["allow"], expected);
        let list = out(&rig.portcullis(&["--json", "workstation", "list"]));
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let find = |name: &str| {
            let all = list.as_array().unwrap();
            all.iter().find(|one| one["name"] == name).unwrap()["allow"].clone()
        };
        assert_eq!(find(name), expected);
        assert_eq!(
            find(&other),
            serde_json::json!(["tcp/80", "any@transparent", "icmp"])
        );

        // What is so already stays so.
        let output = rig.portcullis(&["--json", "workstation", "allow", name, "-tcp/1", "icmp"]);
        let answer: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!(answer["allow"], expected);

        // What is wrong in one change changes nothing.
        for (change, happened) in [
            ("tcp/22@nobody", "leads to no other Workstation"),
            (&*format!("any@{name}"), "leads to no other Workstation"),
        ] {
            let changes = ["workstation", "allow", name, "+any", change];
            let text = failure(&rig.portcullis(&changes));
            assert!(text.contains(happened), "{text}");
        }
        let text = failure(&rig.portcullis(&["workstation", "allow", "nobody", "+any"]));
        assert!(text.contains("there is none of that name"), "{text}");
        let text = err(&rig.portcullis(&["workstation", "allow", name, "+tcp/http"]));
        assert!(text.contains("tcp/PORT"), "{text}");
        let shown = rig.portcullis(&["--json", "workstation", "allow", name]);
        let shown: serde_json::Value = serde_json::from_str(&out(&shown)).unwrap();
        assert_eq!(shown["allow"], expected);
    }
    let text = failure(&rig.portcullis(&["workstation", "add", "transparent"]));
    assert!(text.contains("stands for transparent proxying"), "{text}");
}

#[test]
fn an_enrolment_that_cannot_be_written_adds_nothing() {
    let rig = Rig::new();
    let config = rig.init();
    let text = failure(&rig.portcullis(&["workstation", "add", "a", "--output", "no/such/dir"]));
    assert!(text.contains("creating no/such/dir"), "{text}");
    let text = failure(&rig.portcullis(&["workstation", "add", "../a"]));
    assert!(text.contains("cannot be a Workstation's name"), "{text}");
    let text = failure(&rig.portcullis(&["workstation", "add", "a", "--address", "10.78.0.1"]));
    assert!(
        text.contains("in no prefix") && text.contains("10.77.0.0/24"),
        "{text}"
    );
    let text = failure(&rig.portcullis(&["workstation", "add", "a", "--protection", "none"]));
    assert!(text.contains("`encrypt`"), "{text}");
    assert_eq!(Registry::open(&config).unwrap().workstations().count(), 0);
    assert!(!rig.path("a.enrolment").exists());
    let output = rig.portcullis(&["workstation", "add", "a", "--output", "-"]);
    Enrolment::parse(Path::new("-"), &out(&output)).unwrap();
}

#[test]
fn a_damaged_or_open_enrolment_is_told_at_the_workstation() {
    let rig = Rig::new();
    rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let good = fs::read_to_string(rig.path("alpha.enrolment")).unwrap();
    fs::write(rig.path("short"), &good[..good.len() / 2]).unwrap();
    assert!(failure(&rig.agent(&["enroll", "short"])).contains("cut short"));
    fs::write(rig.path("bad"), good.replace("key_id = \"", "key_id = \"0")).unwrap();
    assert!(failure(&rig.agent(&["enroll", "bad"])).contains("damaged"));
    assert!(failure(&rig.agent(&["enroll", "agent.toml"])).contains("not an enrolment"));
    assert!(failure(&rig.agent(&["enroll", "none"])).contains("reading none"));
    assert!(!rig.path("agent-state/identity.toml").exists());
    fs::set_permissions(
        rig.path("alpha.enrolment"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let output = rig.agent(&["enroll", "alpha.enrolment"]);
    assert!(output.status.success());
    assert!(err(&output).contains("warning") && err(&output).contains("0755"));
    assert_eq!(mode(&rig.path("agent-state/identity.toml")), 0o600);
}

#[test]
fn a_daemon_that_does_not_run_is_told_with_the_way_to_start_it() {
    let rig = Rig::new();
    rig.init();
    for arguments in [&[][..], &["show"], &["reload"]] {
        let text = failure(&rig.portcullis(arguments));
        assert!(text.contains("it is not running"), "{text}");
        assert!(
            text.contains("portcullisd --config portcullis.toml"),
            "{text}"
        );
    }
    let text = failure(&rig.agent(&["show"]));
    assert!(
        text.contains("portcullis-agent --config agent.toml up"),
        "{text}"
    );
    fs::remove_file(rig.path("portcullis.toml")).unwrap();
    let text = failure(&rig.portcullis(&[]));
    assert!(
        text.contains("portcullis --config portcullis.toml init"),
        "{text}"
    );
}

#[test]
fn show_is_for_people_and_json_for_programs() {
    let rig = Rig::new();
    let config = rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    fs::write(rig.path("state/workstations/beta.toml"), "name = 1").unwrap();
    let _server = serve(&config);
    let text = out(&rig.portcullis(&[]));
    assert!(text.contains("portcullisd 9.9.9"), "{text}");
    assert!(
        text.contains("missing") && text.contains("no such interface"),
        "{text}"
    );
    assert!(
        text.contains("alpha") && text.contains("no session"),
        "{text}"
    );
    assert!(
        text.contains("broken") && text.contains("chmod 600"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colours only on a terminal");
    let status: Status = serde_json::from_str(&out(&rig.portcullis(&["--json"]))).unwrap();
    assert_eq!(status.workstations.len(), 2);
    fs::remove_file(rig.path("state/workstations/alpha.toml")).unwrap();
    let text = out(&rig.portcullis(&["reload"]));
    assert_eq!(text, "removed: alpha\n");
    assert_eq!(out(&rig.portcullis(&["reload"])), "Nothing has changed.\n");
}

#[test]
fn check_lists_everything_that_is_wrong() {
    let rig = Rig::new();
    rig.init();
    rig.portcullis(&["workstation", "add", "alpha"]);
    let alpha = rig.path("state/workstations/alpha.toml");
    fs::set_permissions(alpha, fs::Permissions::from_mode(0o644)).unwrap();
    let output = rig.portcullis(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    assert!(
        text.contains("[ OK ] the Gateway's public key is"),
        "{text}"
    );
    assert!(text.contains("[FAIL] using pc-none0 as a port"), "{text}");
    assert!(text.contains("[ OK ] there will be 1 worker"), "{text}");
    assert!(text.contains("chmod 600"), "{text}");
    assert!(
        err(&output).contains("2 of 7 checks failed"),
        "{}{text}",
        err(&output)
    );
    let output = rig.run(
        env!("CARGO_BIN_EXE_portcullisd"),
        &["--check", "--config", "portcullis.toml"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("[FAIL]"));
    fs::write(rig.path("portcullis.toml"), "[host]\naddress = 1\n").unwrap();
    let text = out(&rig.portcullis(&["check"]));
    assert!(
        text.contains("portcullis.toml:2:1: unknown field `address`"),
        "{text}"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let rig = Rig::new();
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_portcullis"), &["frobnicate"][..]),
        (env!("CARGO_BIN_EXE_portcullis"), &["workstation", "add"]),
        (
            env!("CARGO_BIN_EXE_portcullis"),
            &["workstation", "add", "a", "--cipher", "rot13"],
        ),
        (env!("CARGO_BIN_EXE_portcullisd"), &["--frobnicate"]),
        (env!("CARGO_BIN_EXE_portcullis-agent"), &[]),
    ] {
        let output = rig.run(program, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let help = rig.run(program, &["--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(out(&help).contains("Examples:"));
    }
}

#[test]
fn the_api_refuses_nonsense_in_json_with_a_fitting_code() {
    let rig = Rig::new();
    let config = rig.init();
    let _server = serve(&config);
    let post = |body: &str| {
        format!(
            "POST /v1/workstations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let large = post(&"x".repeat(100_000));
    for (request, code) in [
        (plain("GET /v1/status"), "200"),
        (plain("GET /nothing"), "404"),
        (plain("PUT /v1/status"), "405"),
        (plain("DELETE /v1/workstations/nobody"), "404"),
        (plain("DELETE /v1/workstations/..%2Flock"), "404"),
        (plain("DELETE /v1/workstations/panic"), "500"),
        (post("{"), "400"),
        (post("{\"name\":\"a\",\"psk\":\"x\"}"), "400"),
        (post("{\"name\":\"A\"}"), "422"),
        (
            post("{\"name\":\"a\",\"addresses\":[\"10.77.0.1\"]}"),
            "422",
        ),
        (post("{\"name\":\"a\"}"), "201"),
        (post("{\"name\":\"a\"}"), "409"),
        (large, "413"),
    ] {
        let answer = raw(&config, request.as_bytes());
        let line: String = request.chars().take(60).collect();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{line}: {answer}"
        );
        if !code.starts_with('2') {
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: api::ErrorBody = serde_json::from_str(body).unwrap();
            assert!(!body.error.is_empty() && !body.remedy.is_empty());
        }
    }
    assert!(raw(&config, b"\x00\xff nonsense\r\n\r\n").contains("400"));
}

#[test]
fn idle_connections_are_closed_and_do_not_keep_others_out() {
    let rig = Rig::new();
    let config = rig.init();
    let _server = serve(&config);
    let path = config.runtime_directory.join("control.sock");
    // More than are served at once of one user, none of which says anything.
    let idle: Vec<_> = (0..24)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let start = Instant::now();
    let output = rig.portcullis(&["show"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    drop(idle);
}

#[test]
fn stopping_the_server_removes_the_socket() {
    let rig = Rig::new();
    let config = rig.init();
    let server = serve(&config);
    let path = config.runtime_directory.join("control.sock");
    assert_eq!(mode(&path), 0o660);
    server.stop();
    assert!(!path.exists());
    serve(&config).stop();
}

struct FakeAgent {
    down: AtomicBool,
    /// Told of a `down` before it is answered.
    told: Option<mpsc::Sender<()>>,
}

impl AgentControl for FakeAgent {
    fn status(&self) -> Result<AgentStatus, Problem> {
        match self.down.load(Ordering::SeqCst) {
            false => Ok(AgentStatus {
                name: "alpha".into(),
                state: "hello".into(),
                ..AgentStatus::default()
            }),
            true => Err(Problem::new(
                Kind::Unavailable,
                "asking",
                "going down",
                "wait",
            )),
        }
    }

    fn down(&self) -> Result<(), Problem> {
        self.down.store(true, Ordering::SeqCst);
        if let Some(told) = &self.told {
            told.send(()).unwrap();
        }
        Ok(())
    }
}

#[test]
fn an_answer_under_way_is_written_before_the_server_ends() {
    let rig = Rig::new();
    for _ in 0..20 {
        let (told, was_told) = mpsc::channel();
        let socket = Socket::bind(&rig.path("agent-run")).unwrap();
        let agent = FakeAgent {
            down: AtomicBool::new(false),
            told: Some(told),
        };
        let server =
            Server::start_agent(socket, Arc::new(agent), Options::new(rig.directory.path()))
                .unwrap();
        std::thread::scope(|scope| {
            let down = scope.spawn(|| rig.agent(&["down"]));
            was_told.recv().unwrap();
            server.stop();
            assert_eq!(out(&down.join().unwrap()), DOWN);
        });
    }
}

#[test]
fn an_agent_tells_its_status_and_goes_down_when_asked() {
    let rig = Rig::new();
    let socket = Socket::bind(&rig.path("agent-run")).unwrap();
    let agent = Arc::new(FakeAgent {
        down: AtomicBool::new(false),
        told: None,
    });
    let _server =
        Server::start_agent(socket, agent.clone(), Options::new(rig.directory.path())).unwrap();
    let output = rig.agent(&["show"]);
    assert!(out(&output).contains("alpha") && out(&output).contains("no session"));
    let status: AgentStatus = serde_json::from_str(&out(&rig.agent(&["show", "--json"]))).unwrap();
    assert_eq!(status.state, "hello");
    assert_eq!(out(&rig.agent(&["down"])), DOWN);
    assert!(agent.down.load(Ordering::SeqCst));
    let text = failure(&rig.agent(&["show"]));
    assert!(text.contains("asking: going down"), "{text}");
}

#[test]
fn changes_without_a_daemon_are_in_the_audit_log_as_those_with_one_and_refused_ones_too() {
    let rig = Rig::new();
    rig.init();
    let add = |name| rig.portcullis(&["workstation", "add", name, "--allow", "icmp"]);
    assert!(add("alpha").status.success());
    let again = ["workstation", "add", "alpha", "--output", "again"];
    failure(&rig.portcullis(&again));
    for arguments in [
        &["workstation", "allow", "alpha", "+tcp/9050"][..],
        &["workstation", "set", "alpha", "--padding", "full"],
        &["workstation", "disable", "alpha"],
        &["workstation", "enable", "alpha"],
        &["workstation", "rotate", "alpha", "--output", "new"],
        &["workstation", "rotate", "alpha", "--cancel"],
        &["key", "rotate"],
        &["key", "retire", "--force"],
        &["workstation", "remove", "alpha"],
    ] {
        let output = rig.portcullis(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    }
    // Who only looks leaves nothing.
    assert!(rig.portcullis(&["workstation", "list"]).status.success());
    let log = rig.path("state/audit.log");
    assert_eq!(mode(&log), 0o600);
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = lines
        .chunks(2)
        .map(|change| {
            let [first, second] = change else {
                panic!("{change:?}");
            };
            assert_eq!(first["id"], second["id"]);
            assert_eq!(first["outcome"], "begun");
            assert_eq!(first["uid"], nix::unistd::getuid().as_raw());
            let client = first["client"].as_str().unwrap();
            assert!(client.starts_with("portcullis/") && client.contains("without the daemon"));
            let call = first["call"].as_str().unwrap().to_owned();
            (call, second["outcome"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("add", "done"),
        ("add", "refused"),
        ("allow", "done"),
        ("set", "done"),
        ("disable", "done"),
        ("enable", "done"),
        ("rotate", "done"),
        ("cancel_rotation", "done"),
        ("rotate_key", "done"),
        ("retire_key", "done"),
        ("remove", "done"),
    ];
    let expected: Vec<_> = expected
        .map(|(call, outcome)| (call.to_owned(), outcome.to_owned()))
        .into();
    assert_eq!(told, expected);
    assert_eq!(lines[0]["request"]["name"], "alpha");
    assert_eq!(lines[4]["workstation"], "alpha");
    assert!(!text.contains("BEGIN") && !text.contains("psk"), "{text}");
}
