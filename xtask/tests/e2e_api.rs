//! The control API of the real daemon: its document held against what it answers. Needs root, the programs
//! (`cargo xtask test` builds them), and schemathesis (`./run setup` installs it).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;
use portcullis_xtask::tools::schemathesis;
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(30);
/// A group whose members may change things.
const ADMINS: u32 = 64_079;
/// A user who is nobody's.
const USER: u32 = 64_080;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// A file of this crate.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Has schemathesis ask everything that the document at `socket` describes but for these paths, and things that
/// it does not.
fn hold_to_its_document(namespace: &Namespace, socket: &Path, but: &[&str]) {
    let port = 8017;
    let _forward = Forward::start(namespace, port, socket).unwrap();
    let scratch = Scratch::new("schemathesis").unwrap();
    let mut command: Command = namespace.command(schemathesis().unwrap());
    command
        .current_dir(scratch.path())
        .arg("--config-file")
        .arg(file("schemathesis/schemathesis.toml"))
        .args(["run", &format!("http://127.0.0.1:{port}/v1/openapi.json")])
        .args(["--checks", "all", "--max-examples", "25", "--seed", "1"])
        .args(but.iter().flat_map(|path| ["--exclude-path", path]))
        .args([
            "--rate-limit",
            "300/s",
            "--request-timeout",
            "20",
            "--no-color",
        ])
        .args([
            "--generation-database",
            "none",
            "--suppress-health-check",
            "all",
        ])
        .env("HOME", scratch.path());
    let (status, said) = Process::run("schemathesis", command, Duration::from_secs(400)).unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("Tested"), "nothing was tested:\n{said}");
}

#[test]
fn the_gateways_api_answers_as_its_document_says_whatever_it_is_asked() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.start().unwrap();
    let socket = rig.gateway.directory().join("run/control.sock");
    let streams = ["/v1/events", "/v1/watch"];
    hold_to_its_document(rig.gateway.namespace(), &socket, &streams);
    // It has added as many as there is room for, and may have turned w1 off or removed it. Without them a
    // Workstation is served as before.
    let workstation = &mut rig.workstations[0];
    workstation.kill();
    for name in rig.gateway.show().unwrap().names() {
        rig.gateway.remove(&name).unwrap();
    }
    let file = rig.gateway.add("again").unwrap();
    let mut enroll = workstation.agent("enroll --replace");
    assert!(enroll.arg(file).output().unwrap().status.success());
    workstation.start().unwrap();
    // The agent's; what ends it aside.
    let socket = workstation.directory().join("run/control.sock");
    let ends = ["/v1/watch", "/v1/down"];
    hold_to_its_document(workstation.namespace(), &socket, &ends);
    assert!(workstation.reaches(Duration::from_secs(2)));
}

/// A Gateway whose daemon runs as an account of its own, with a group that administers, and a socket that
/// other users can get at.
fn shared() -> Many {
    let mut rig = many(&programs(), 2).unwrap();
    let text = rig.gateway.configuration(&["lan"]);
    let head = format!("user = \"{ACCOUNT}\"\nadmin_group = \"{ADMINS}\"\n");
    rig.gateway.configure(&(head + &text)).unwrap();
    let open = fs::Permissions::from_mode(0o711);
    fs::set_permissions(rig.gateway.directory(), open).unwrap();
    rig.start().unwrap();
    rig
}

fn socket(rig: &Many) -> PathBuf {
    rig.gateway.directory().join("run/control.sock")
}

/// curl as a user with these groups; the status code and the answer.
fn curl_as(socket: &Path, uid: u32, groups: &[u32], arguments: &[&str]) -> (u16, Value) {
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()]);
    match groups.is_empty() {
        true => command.arg("--clear-groups"),
        false => command.args(["--groups", &groups.join(",")]),
    };
    command
        .args([
            "curl",
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}",
        ])
        .arg("--unix-socket")
        .arg(socket)
        .args(arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (
        code.parse().unwrap(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

const STATUS: &[&str] = &["http://x/v1/status"];
const DISABLE: &[&str] = &["-X", "POST", "http://x/v1/workstations/w2/disable"];
const ENABLE: &[&str] = &["-X", "POST", "http://x/v1/workstations/w2/enable"];

/// The audit log's lines.
fn audit(rig: &Many) -> Vec<Value> {
    let path = rig.gateway.directory().join("state/audit.log");
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn who_may_look_may_not_change_and_what_is_changed_is_written_down() {
    let _turn = Serial::acquire().unwrap();
    let rig = shared();
    let socket = socket(&rig);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&socket), 0o660);
    let log = rig.gateway.directory().join("state/audit.log");
    assert_eq!(mode(&log), 0o600);
    let before = audit(&rig).len();

    // Nobody's user does not even reach it; where the mode was opened up, it is told why not.
    assert_eq!(curl_as(&socket, USER, &[], STATUS).0, 0);
    let everybody = fs::Permissions::from_mode(0o666);
    fs::set_permissions(&socket, everybody).unwrap();
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
    let (code, answer) = curl_as(&socket, USER, &[], STATUS);
    assert_eq!(code, 403, "{answer}");
    let said = answer["error"].as_str().unwrap();
    assert!(
        said.contains(&format!("user {USER}")) && said.contains("right to read"),
        "{said}"
    );

    // A member of the socket's group, by its supplementary groups, may look.
    assert_eq!(curl_as(&socket, USER, &[ACCOUNT], STATUS).0, 200);
    assert_eq!(
        curl_as(&socket, USER, &[4, ACCOUNT], &["http://x/v1/openapi.json"]).0,
        200
    );
    let all: &[&[&str]] = &[
        DISABLE,
        &["-X", "DELETE", "http://x/v1/workstations/w2"],
        &["-X", "PATCH", "-d", "{}", "http://x/v1/workstations/w2"],
        &["-d", "{\"name\":\"x\"}", "http://x/v1/workstations"],
        &["-d", "{}", "http://x/v1/workstations/w2/rotation"],
        &["-X", "POST", "http://x/v1/key/rotate"],
        &["-X", "POST", "http://x/v1/reload"],
        &["-X", "POST", "http://x/no/such/thing"],
    ];
    for call in all {
        let (code, answer) = curl_as(&socket, USER, &[ACCOUNT], call);
        assert_eq!(code, 403, "{call:?}: {answer}");
        let remedy = answer["remedy"].as_str().unwrap();
        assert!(
            remedy.contains("sudo") && remedy.contains(&ADMINS.to_string()),
            "{remedy}"
        );
    }
    assert!(rig.workstations[1].reaches(Duration::from_secs(2)));
    assert_eq!(
        audit(&rig).len(),
        before,
        "what was refused by right is no change"
    );

    // A member of the administrators' group may change, and so may the daemon's account and root.
    for (uid, groups) in [(USER, &[ACCOUNT, ADMINS][..]), (ACCOUNT, &[]), (0, &[])] {
        for call in [DISABLE, DISABLE, ENABLE] {
            let (code, answer) = curl_as(&socket, uid, groups, call);
            assert_eq!(code, 200, "{uid}: {answer}");
        }
    }
    let lines = audit(&rig);
    assert_eq!(lines.len(), before + 18);
    let first = &lines[before];
    assert_eq!((&first["uid"], &first["gid"]), (&json!(USER), &json!(USER)));
    assert_eq!(
        (&first["call"], &first["workstation"]),
        (&json!("disable"), &json!("w2"))
    );
    assert!(
        first["client"].as_str().unwrap().starts_with("curl/"),
        "{first}"
    );
    for pair in lines.chunks(2) {
        assert_eq!(pair[0]["outcome"], "begun");
        assert_eq!(pair[1]["outcome"], "done");
        assert_eq!(pair[0]["id"], pair[1]["id"]);
    }
    // No key of the enrolments that were made is in it.
    let text = fs::read_to_string(&log).unwrap();
    for name in ["w1", "w2"] {
        let enrolment = rig.gateway.directory().join(format!("{name}.enrolment"));
        let enrolment = fs::read_to_string(enrolment).unwrap();
        for secret in enrolment.split('"').filter(|word| word.len() == 44) {
            let public = lines
                .iter()
                .any(|line| line["request"]["public_key"] == secret);
            assert!(
                public || !text.contains(secret),
                "a key is in the audit log"
            );
        }
    }
}

#[test]
fn a_reload_by_signal_is_written_down_too() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.gateway.start().unwrap();
    let process = rig.gateway.process().unwrap();
    process.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_for("the reload in the audit log", WAIT, || {
        let path = rig.gateway.directory().join("state/audit.log");
        let text = fs::read_to_string(path).ok()?;
        let last: Value = serde_json::from_str(text.lines().last()?).ok()?;
        (last["call"] == "reload" && last["client"] == "SIGHUP" && last["outcome"] == "done")
            .then_some(())
    })
    .unwrap();
}

/// Asks for a Workstation by a request of its own; whether that was answered well.
fn add_raw(socket: &Path, name: &str) -> bool {
    let body = format!("{{\"name\":\"{name}\"}}");
    let request = format!(
        "POST /v1/workstations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let asked = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 201") && answer.ends_with('}')
}

#[test]
fn a_daemon_that_is_killed_has_lost_nothing_that_it_answered_and_half_done_nothing() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    let mut answered: Vec<String> = Vec::new();
    let mut asked = 0;
    let mut killed_in_between = 0;
    for round in 0..8_u64 {
        rig.gateway.start().unwrap();
        let socket = socket(&rig);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut answered = Vec::new();
                for number in 0.. {
                    let name = format!("k{round}-{number}");
                    match add_raw(&socket, &name) {
                        true => answered.push(name),
                        false => return (answered, number + 1),
                    }
                }
                unreachable!()
            });
            pause(Duration::from_micros(60_000 + 7919 * round)).unwrap();
            rig.gateway.kill();
            let (names, count) = worker.join().unwrap();
            answered.extend(names);
            asked += count;
        });
    }
    rig.gateway.start().unwrap();
    let names = rig.gateway.show().unwrap().names();
    for name in &answered {
        assert!(names.contains(name), "{name} was answered for and is gone");
    }
    assert!(
        !answered.is_empty() && names.len() <= asked,
        "{asked} asked, {} there",
        names.len()
    );
    // Each that is there is whole: none is broken.
    let show = rig.gateway.show().unwrap();
    for name in &names {
        assert!(
            show.workstation(name).unwrap()["broken"].is_null(),
            "{name}"
        );
    }
    // All that is there began in the audit log, and all that was answered ended there; a line may be cut
    // off, and spoils no other.
    let log = rig.gateway.directory().join("state/audit.log");
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let has = |name: &str, outcome: &str| {
        lines
            .iter()
            .any(|line| line["workstation"] == name && line["outcome"] == outcome)
    };
    for name in &names {
        assert!(has(name, "begun"), "{name} is not in the audit log");
        killed_in_between += u32::from(!has(name, "done"));
    }
    assert!(answered.iter().all(|name| has(name, "done")));
    println!(
        "{asked} asked, {} answered, {} there, {killed_in_between} killed in between",
        answered.len(),
        names.len()
    );
}

#[test]
fn on_a_full_disk_a_change_is_refused_and_nothing_is_half_done() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    let state = rig.gateway.directory().join("state");
    fs::create_dir(&state).unwrap();
    let mounted = Mounted::tmpfs(&state, "size=256k,mode=0700").unwrap();
    rig.start().unwrap();
    let before = rig.gateway.show().unwrap().names();
    let filler = state.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 512]).is_ok() {}
    let refused = rig.gateway.cli("workstation add w9 --output /dev/null/x");
    drop(refused);
    for _ in 0..3 {
        let (code, answer) = curl_as(
            &socket(&rig),
            0,
            &[],
            &["-d", "{\"name\":\"w9\"}", "http://x/v1/workstations"],
        );
        assert_eq!(code, 500, "{answer}");
        assert!(
            answer["error"].as_str().unwrap().contains("No space left"),
            "{answer}"
        );
        let (code, _) = curl_as(
            &socket(&rig),
            0,
            &[],
            &["-X", "POST", "http://x/v1/workstations/w1/disable"],
        );
        assert_eq!(code, 500);
    }
    assert_eq!(rig.gateway.show().unwrap().names(), before);
    assert!(
        rig.workstations[0].reaches(Duration::from_secs(2)),
        "w1 is served as before"
    );
    drop(file);
    fs::remove_file(&filler).unwrap();
    let (code, answer) = curl_as(
        &socket(&rig),
        0,
        &[],
        &["-d", "{\"name\":\"w9\"}", "http://x/v1/workstations"],
    );
    assert_eq!(code, 201, "{answer}");
    let text = fs::read_to_string(state.join("audit.log")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["workstation"], &last["outcome"]),
        (&json!("w9"), &json!("done"))
    );
    // After a restart it is all the same.
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    let names = rig.gateway.show().unwrap().names();
    assert!(names.contains(&"w9".to_owned()) && names.len() == before.len() + 1);
    rig.gateway.stop().unwrap();
    drop(mounted);
}

/// A file system that goes when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> std::io::Result<Self> {
        nix::mount::mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options),
        )?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The stream of events, from the moment it hears of everything.
struct Heard {
    stream: BufReader<UnixStream>,
    /// What came before the last that was waited for.
    passed: Vec<Value>,
}

impl Heard {
    fn begin(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
            .write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut heard = Self {
            stream: BufReader::new(stream),
            passed: Vec::new(),
        };
        heard.until("listening", |_| true);
        heard
    }

    /// Reads on to an event of this name for which `right` holds.
    fn until(&mut self, name: &str, right: impl Fn(&Value) -> bool) -> Value {
        self.passed.clear();
        let end = Instant::now() + WAIT;
        loop {
            let passed = &self.passed;
            assert!(Instant::now() < end, "no {name} came, only {passed:?}");
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            assert!(matches!(read, Ok(1..)), "no {name} came, only {passed:?}");
            // Lengths of chunks and the head are no objects.
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if event["event"] == name && right(&event) {
                return event;
            }
            self.passed.push(event);
        }
    }
}

#[test]
fn what_happens_is_told_to_those_who_listen() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let socket = socket(&rig);
    let mut heard = Heard::begin(&socket);
    let of = |name: &'static str| move |event: &Value| event["workstation"] == name;
    rig.workstations[0].rekey().unwrap();
    let event = heard.until("rekey", of("w1"));
    assert_eq!(event["inside"], true);
    rig.gateway.cli("workstation disable w2").unwrap();
    heard.until("switched", of("w2"));
    heard.until("session_down", of("w2"));
    rig.gateway.cli("workstation enable w2").unwrap();
    rig.workstations[1].wait_connected(WAIT).unwrap();
    assert_eq!(heard.until("session_up", of("w2"))["port"], "lan");
    let file = rig.gateway.directory().join("w1.new");
    rig.gateway
        .cli(&format!(
            "workstation rotate w1 --output {}",
            file.display()
        ))
        .unwrap();
    let given = heard.until("keys_given", of("w1"))["key_id"].clone();
    assert_eq!(
        rig.gateway.show().unwrap().workstation("w1").unwrap()["rotation"]["key_id"],
        given
    );
    rig.gateway.cli("workstation rotate w1 --cancel").unwrap();
    heard.until("keys_taken_back", of("w1"));
    rig.gateway.cli("key rotate").unwrap();
    heard.until("gateway_key_rotated", |_| true);
    // Frames that nobody has keys for, far more than usual.
    let evil = Namespace::create("evil").unwrap();
    rig.lan.plug(&evil, "cable0", "evil", 1500).unwrap();
    set_link(&evil, "cable0", true).unwrap();
    evil.ip("address add 192.0.2.1/24 dev cable0").unwrap();
    evil.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:99 dev cable0")
        .unwrap();
    flood(&evil);
    let event = heard.until("drops", |event| event["port"] == "lan");
    assert!(
        event["count"].as_u64().unwrap() >= 100 && event["verdict"].is_string(),
        "{event}"
    );
    // Packets of the Gateway's own for an address that no Workstation has.
    let gateway = rig.gateway.namespace();
    gateway
        .run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            for _ in 0..1000 {
                let _ = socket.send_to(&[0; 100], "10.152.191.254:9");
            }
            Ok(())
        })
        .unwrap();
    heard.until("drops", |event| {
        event["verdict"] == "no_route" && event["port"].is_null()
    });
    // The cable is pulled, and put back.
    rig.gateway.namespace().ip("link set dev lan down").unwrap();
    let event = heard.until("port", |event| event["port"] == "lan");
    assert_eq!(event["state"], "down");
    rig.gateway.namespace().ip("link set dev lan up").unwrap();
    heard.until("port", |event| event["state"] == "up");
    // What was dropped before the interface was taken away is not told again once it is back.
    gateway.ip("link delete dev lan").unwrap();
    heard.until("port", |event| event["state"] == "missing");
    rig.lan.plug(gateway, "lan", "gw", 1500).unwrap();
    heard.until("port", |event| event["state"] == "up");
    pause(Duration::from_secs(2)).unwrap();
    rig.gateway.cli("workstation remove w2").unwrap();
    heard.until("removed", of("w2"));
    let again = heard.passed.iter().find(|event| event["event"] == "drops");
    assert_eq!(again, None);
}

/// A thousand datagrams to nobody, broadcast by the switch.
fn flood(from: &Namespace) {
    from.run(|| {
        let socket = std::net::UdpSocket::bind("192.0.2.1:0")?;
        for _ in 0..1000 {
            let _ = socket.send_to(&[0; 100], "192.0.2.9:9");
        }
        Ok(())
    })
    .unwrap();
}

/// A process of another user that opens connections and does with them what `then` says, until it is dropped.
struct Stuck(std::process::Child);

impl Stuck {
    fn start(socket: &Path, uid: u32, groups: &str, count: u32, then: &str) -> Self {
        let program = format!(
            "import socket, sys, time\n\
             request = {then}\n\
             made = []\n\
             for _ in range({count}):\n    \
                 s = socket.socket(socket.AF_UNIX)\n    \
                 try:\n        s.connect(sys.argv[1]); s.setblocking(False); made.append(s)\n        \
                     s.send(request) if request else None\n    \
                 except OSError: pass\n\
             print(len(made), flush=True)\n\
             time.sleep(300)\n"
        );
        let mut child = Command::new("setpriv")
            .args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()])
            .args(["--groups", groups, "/usr/bin/python3", "-c", &program])
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let made: u32 = line.trim().parse().unwrap();
        assert!(made > 0, "no connection could be made");
        Self(child)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stuck_clients_hold_up_neither_traffic_nor_the_administrator_nor_another_reader() {
    let _turn = Serial::acquire().unwrap();
    let rig = shared();
    let socket = socket(&rig);
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let probe = Probe::start(
        rig.workstations[0].namespace(),
        to,
        Duration::from_millis(2),
        64,
    )
    .unwrap();
    let group = ACCOUNT.to_string();
    let endless = "b'GET /v1/events HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'";
    let half = "b'GET /v1/st'";
    let body =
        "b'POST /v1/workstations HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 9999\\r\\n\\r\\n{'";
    let unread = "b'GET /v1/openapi.json HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' * 50";
    let stuck: Vec<Stuck> = [
        (64_081, "b''"),
        (64_082, endless),
        (64_083, half),
        (64_084, body),
        (64_085, unread),
    ]
    .into_iter()
    .map(|(uid, then)| Stuck::start(&socket, uid, &group, 200, then))
    .collect();
    let longest = (0..20)
        .map(|_| {
            let start = Instant::now();
            rig.gateway.cli("show").unwrap();
            start.elapsed()
        })
        .max()
        .unwrap();
    assert!(
        longest < Duration::from_secs(2),
        "an administrator waited {longest:?}"
    );
    rig.gateway.cli("workstation disable w2").unwrap();
    rig.gateway.cli("workstation enable w2").unwrap();
    // Another who may only read is served as soon as one of the many who do nothing is given up.
    let start = Instant::now();
    wait_for("another reader to be answered", WAIT, || {
        (curl_as(&socket, USER, &[ACCOUNT], STATUS).0 == 200).then_some(())
    })
    .unwrap();
    println!(
        "another reader waited {:?}, the administrator {longest:?}",
        start.elapsed()
    );
    let report = probe.finish();
    assert_eq!(report.lost(), 0, "of {} datagrams", report.sent());
    drop(stuck);
}
