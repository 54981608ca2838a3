//! `watch` and `explain`, end to end: what is put on the cable is shown with the verdict it got, to people,
//! to programs and to tshark. Needs root, tshark and the programs (`cargo xtask test` builds them).

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use portcullis_xtask::middlebox::Impairment;
use portcullis_xtask::rig::*;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const CABLE: &str = "cable0";

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

fn cli(programs: &Programs, gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = gateway.namespace().command(programs.path("portcullis"));
    command
        .arg("--config")
        .arg(gateway.config())
        .args(arguments);
    command
}

/// A Gateway that serves its port, and the cable's far end up with nobody at it.
fn served(programs: &Programs) -> (Single, PacketSocket) {
    let mut rig = single(programs).unwrap();
    rig.gateway.start().unwrap();
    let far = rig.workstation.namespace();
    far.ip(&format!("link set {CABLE} up")).unwrap();
    let sender = PacketSocket::sender(far, CABLE).unwrap();
    (rig, sender)
}

/// Something to be foreign: a UDP datagram in clear, `last` its source address's last byte.
fn datagram(to: [u8; 6], last: u8) -> Vec<u8> {
    let head = [8, 0, 0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0];
    let rest = [10, 9, 0, last, 10, 9, 0, 1, 0x13, 0x88, 0, 53, 0, 16, 0, 0];
    [&to[..], &[2, 0, 0, 0, 0, 2], &head, &rest, b"topmost!"].concat()
}

/// A Data frame of a session that there is not.
fn unknown(to: [u8; 6]) -> Vec<u8> {
    of_kind(to, wire::kind::DATA, 20)
}

fn of_kind(to: [u8; 6], kind: u8, length: u16) -> Vec<u8> {
    let header = wire::Header::new(kind, length, 0x8001_0003, 7);
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 2], &[0x88, 0xb5]].concat();
    frame.extend(header.encode());
    frame.resize(14 + header.frame_len(), 0);
    frame
}

fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A program that watches, while `send` sends until it has had enough: how it ended, and what it said.
fn watched_by(watch: Command, mut send: impl FnMut()) -> (ExitStatus, String) {
    let mut child = piped(watch);
    let ended = wait_for("watch to end", SOON, || {
        send();
        child.try_wait().unwrap()
    });
    // Or what it has said would never come to an end.
    let _ = child.kill();
    let text = output(&mut child);
    (
        ended.unwrap_or_else(|error| panic!("{error:#}: {text}")),
        text,
    )
}

/// The same, while these frames are sent.
fn watched(watch: Command, sender: &PacketSocket, frames: &[Vec<u8>]) -> String {
    let send = || frames.iter().for_each(|frame| _ = sender.send(frame));
    let (ended, text) = watched_by(watch, send);
    assert!(ended.success(), "{text}");
    text
}

fn output(child: &mut Child) -> String {
    let mut text = String::new();
    let mut out = child.stdout.take().unwrap();
    out.read_to_string(&mut text).unwrap();
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    text + &errors
}

#[test]
fn dropped_frames_are_shown_with_their_verdict_and_without_what_they_carry() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let (rig, sender) = served(&programs);
    let port = mac_of(rig.gateway.namespace(), "ws1").unwrap();
    let frames = [datagram(port, 2), unknown(port)];
    let watch = cli(
        &programs,
        &rig.gateway,
        &["watch", "--count", "40", "--rate", "1000"],
    );
    let text = watched(watch, &sender, &frames);
    let line = |verdict: &str| {
        let found = text.lines().find(|line| line.contains(verdict));
        found.unwrap_or_else(|| panic!("no {verdict} in:\n{text}"))
    };
    let foreign = line(" ws1 foreign: ");
    let says = "02:00:00:00:00:02 > ";
    assert!(
        foreign.contains(says) && foreign.contains("10.9.0.2.5000 > 10.9.0.1.53: UDP"),
        "{foreign}"
    );
    let session = line(" ws1 unknown_session: ");
    assert!(
        session.contains("Portcullis Data, 20 bytes, session index 0x80010003"),
        "{session}"
    );
    assert!(!text.contains("topmost"), "{text}");
    // Only what is asked for, as JSON.
    let only = [
        "--json",
        "watch",
        "--verdict",
        "unknown_session",
        "--count",
        "3",
    ];
    let text = watched(cli(&programs, &rig.gateway, &only), &sender, &frames);
    for line in text.lines() {
        let dropped: Value = serde_json::from_str(line).unwrap();
        assert_eq!(dropped["verdict"], "unknown_session");
        assert_eq!(dropped["length"], 74);
    }
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_capture_opens_in_tshark_with_the_verdict_and_is_explained_as_it_was_decided() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let (rig, sender) = served(&programs);
    let port = mac_of(rig.gateway.namespace(), "ws1").unwrap();
    let file = rig.gateway.directory().join("drops.pcapng");
    let name = file.to_str().unwrap();
    let watch = ["watch", "--write", name, "--count", "20", "--rate", "1000"];
    let frames = [datagram(port, 2), unknown(port)];
    watched(cli(&programs, &rig.gateway, &watch), &sender, &frames);
    let packets = tshark(&file);
    assert_eq!(packets.len(), 20);
    let mut verdicts = Vec::new();
    for packet in &packets {
        let [comment, interface, length, time] = &packet[..] else {
            panic!("{packet:?}");
        };
        let verdict = comment.strip_prefix("dropped by Portcullis: ").unwrap();
        assert_eq!(interface, "ws1");
        assert_eq!(length, if verdict == "foreign" { "50" } else { "74" });
        let time: f64 = time.parse().unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!((now.as_secs_f64() - time).abs() < 600.0, "{time}");
        verdicts.push(verdict.to_owned());
    }
    assert!(verdicts.contains(&"foreign".into()) && verdicts.contains(&"unknown_session".into()));
    let explained = cli(&programs, &rig.gateway, &["--json", "explain", name])
        .output()
        .unwrap();
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let told: Vec<_> = explained
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["verdict"].clone())
        .collect();
    assert_eq!(told, verdicts);
    // A second capture does not take the first one's place.
    let again = cli(&programs, &rig.gateway, &watch).output().unwrap();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("remedy: "));
}

/// Comment, interface, length and time of each packet.
fn tshark(file: &Path) -> Vec<Vec<String>> {
    let fields = [
        "frame.comment",
        "frame.interface_name",
        "frame.len",
        "frame.time_epoch",
    ];
    let mut command = Command::new("tshark");
    command
        .arg("-r")
        .arg(file)
        .args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command
        .output()
        .expect("tshark, which `./run setup` installs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect()
}

#[test]
fn a_frame_of_a_running_session_is_explained_by_that_session() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let mut rig = tapped(&programs, 1, Impairment::default()).unwrap();
    let capture = Capture::on(&rig.middle, "mw", 4096).unwrap();
    rig.single.start().unwrap();
    let gateway = &rig.single.gateway;
    let name = rig.single.workstation.name().to_owned();
    let hex = |frame: &[u8]| {
        let digits: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.concat()
    };
    let ask = |frame: &[u8]| {
        let arguments = ["--json", "explain", &hex(frame)];
        let output = cli(&programs, gateway, &arguments).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all[0].clone()
    };
    // What the Workstation has sent was admitted before it could be asked about.
    let sent = wait_for("a Data frame", SOON, || {
        rig.single.workstation.reaches(Duration::from_secs(1));
        capture.settle().unwrap();
        let port = mac_of(gateway.namespace(), "ws1").unwrap();
        let mut frames = capture.frames().into_iter().rev();
        let data = |frame: &Captured| frame.bytes[..6] == port && frame.bytes[14] == 0x15;
        frames.find(|frame| data(frame)).map(|frame| frame.bytes)
    })
    .unwrap();
    let told = ask(&sent);
    assert_eq!(told["verdict"], "replay", "{told}");
    assert_eq!(told["workstation"], *name, "{told}");
    let mut forged = sent.clone();
    forged[22 + 4] ^= 1;
    let told = ask(&forged);
    assert_eq!(told["verdict"], "bad_tag", "{told}");
    let mut stranger = sent.clone();
    stranger[11] ^= 1;
    assert_eq!(ask(&stranger)["verdict"], "misdirected");
    // Asking has changed nothing: the session goes on.
    assert!(rig.single.workstation.reaches(Duration::from_secs(2)));
    rig.single.gateway.stop().unwrap();
    let output = cli(
        &programs,
        &rig.single.gateway,
        &["--json", "explain", &hex(&sent)],
    );
    let output = { output }.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["verdict"], Value::Null, "{told}");
}

#[test]
fn watch_ends_at_once_when_it_is_told_to_at_a_terminal_and_in_a_pipe_that_is_read_or_not() {
    const AT_ONCE: Duration = Duration::from_secs(3);
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let (rig, sender) = served(&programs);
    let port = mac_of(rig.gateway.namespace(), "ws1").unwrap();
    let frame = datagram(port, 2);
    let ends =
        |what: &str, told: Instant, mut ended: Box<dyn FnMut() -> Option<ExitStatus> + '_>| {
            let ended = wait_for("watch to end", AT_ONCE, &mut ended);
            let ended = ended.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert!(ended.success(), "{what}: {ended}");
            println!("{what}: {:?}", told.elapsed());
        };
    let terminal = |shell: &str| {
        let mut command = rig.gateway.namespace().command("setsid");
        command
            .args(["--ctty", "--wait", "sh", "-c", shell])
            .arg(programs.path("portcullis"))
            .arg(rig.gateway.config());
        let terminal = Terminal::start(command, 120, 24).unwrap();
        terminal
            .wait("a dropped frame", |screen| {
                sender.send(&frame);
                screen.contains("ws1 foreign: ")
            })
            .unwrap();
        terminal
    };
    let plainly = r#"exec "$0" --config "$1" watch"#;
    // As a script's `&` starts it.
    let deaf = r#"trap '' INT; exec "$0" --config "$1" watch"#;
    for shell in [plainly, deaf] {
        let mut terminal = terminal(shell);
        let told = Instant::now();
        terminal.press("\x03").unwrap();
        ends("Ctrl-C", told, Box::new(|| terminal.ended_already()));
    }
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = terminal(plainly);
        let told = Instant::now();
        terminal.signal(signal).unwrap();
        ends("a terminal", told, Box::new(|| terminal.ended_already()));
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for read in [true, false] {
            let file = rig
                .gateway
                .directory()
                .join(format!("{signal}{read}.pcapng"));
            let name = file.to_str().unwrap();
            let arguments = ["--json", "watch", "--rate", "10000", "--write", name];
            let mut watch = cli(&programs, &rig.gateway, &arguments);
            let mut child = watch.stdout(Stdio::piped()).spawn().unwrap();
            let mut out = child.stdout.take().unwrap();
            if read {
                let mut some = [0; 1000];
                wait_for("samples in the pipe", SOON, || {
                    sender.send(&frame);
                    nix::poll::poll(
                        &mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::ZERO,
                    )
                    .is_ok_and(|ready| ready > 0)
                    .then(|| out.read_exact(&mut some).unwrap())
                })
                .unwrap();
            } else {
                let pid = child.id();
                wait_for("a full pipe", SOON, || {
                    (0..100).for_each(|_| _ = sender.send(&frame));
                    is_writing(pid).then_some(())?;
                    pause(Duration::from_millis(300)).unwrap();
                    is_writing(pid).then_some(())
                })
                .unwrap();
            }
            let told = Instant::now();
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, signal).unwrap();
            let what = format!("{signal} in a pipe, read: {read}");
            ends(&what, told, Box::new(|| child.try_wait().unwrap()));
            // No frame is cut off in the file.
            assert!(!tshark(&file).is_empty(), "{what}");
        }
    }
}

#[test]
fn what_the_rules_keep_from_a_workstation_is_shown_with_where_it_was_to_go_and_nothing_of_it() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let mut rig = many(&programs, 2).unwrap();
    rig.start().unwrap();
    for name in ["w1", "w2"] {
        rig.gateway
            .cli(&format!("workstation allow {name} -any +icmp"))
            .unwrap();
    }
    let host = rig.workstations[0].namespace();
    let send = || {
        host.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:5000")?;
            socket.send_to(b"topmost secret", (GATEWAY_V4, 22))?;
            Ok(())
        })
        .unwrap();
    };
    let watch = |arguments: &[&str]| {
        let (ended, text) = watched_by(cli(&programs, &rig.gateway, arguments), send);
        assert!(ended.success(), "{text}");
        text
    };
    let from = rig.workstations[0].address().unwrap();
    let says = format!("; in it IP {from}.5000 > {GATEWAY_V4}.22: UDP");
    let file = rig.gateway.directory().join("denied.pcapng");
    let name = file.to_str().unwrap();
    let text = watch(&[
        "watch",
        "--verdict",
        "policy_denied",
        "--workstation",
        "w1",
        "--count",
        "3",
        "--write",
        name,
    ]);
    for line in text.lines() {
        assert!(line.contains(" lan policy_denied of w1: "), "{line}");
        assert!(
            line.contains("Portcullis Data") && line.ends_with(&says),
            "{line}"
        );
    }
    assert_eq!(text.lines().count(), 3);
    let packets = tshark(&file);
    assert_eq!(packets.len(), 3);
    assert!(packets[0][0].ends_with(&says), "{packets:?}");
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(7).any(|seven| seven == b"topmost"));
    let json = watch(&[
        "--json",
        "watch",
        "--verdict",
        "policy_denied",
        "--count",
        "1",
    ]);
    let dropped: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(dropped["queue"], Value::Null);
    // 20 bytes of IP and 8 of UDP, and not one more.
    assert_eq!(dropped["inner"].as_str().unwrap().len(), 2 * 28);
    // Nothing of it is another Workstation's; and a rate is a rate.
    let started = Instant::now();
    watch(&[
        "watch",
        "--verdict",
        "policy_denied",
        "--rate",
        "2",
        "--count",
        "6",
    ]);
    assert!(started.elapsed() > Duration::from_millis(1500));
    let mut others = cli(&programs, &rig.gateway, &["watch", "--workstation", "w2"]);
    let mut child = others.stdout(Stdio::piped()).spawn().unwrap();
    for _ in 0..50 {
        send();
        pause(Duration::from_millis(10)).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "");
}

#[test]
fn what_is_dropped_on_its_way_to_a_workstation_is_shown_as_the_packet_it_was() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let mut rig = many(&programs, 2).unwrap();
    rig.start().unwrap();
    let to = [0, 1].map(|which| rig.workstations[which].address().unwrap());
    // One is gone and unknown to the Gateway, which has been started again.
    rig.workstations[1].stop().unwrap();
    rig.gateway.stop().unwrap();
    rig.gateway.start().unwrap();
    rig.workstations[0].wait_connected(SOON).unwrap();
    let gateway = rig.gateway.namespace();
    gateway
        .ip(&format!("link set {HOST_INTERFACE} mtu 9000"))
        .unwrap();
    let send = |to: Ipv4Addr, length: usize| {
        // Or the kernel does as it is told and cuts what is too big from the second one on.
        gateway.ip("route flush cache").unwrap();
        let secret = b"topmost!".repeat(length / 8);
        gateway
            .run(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:5000")?;
                socket.send_to(&secret, (to, 9))?;
                Ok(())
            })
            .unwrap();
    };
    let nobody = Ipv4Addr::new(10, 152, 191, 254);
    for (verdict, of, to, length) in [
        ("no_route", "", nobody, 16),
        ("no_session", " of w2", to[1], 16),
        ("too_big", " of w1", to[0], 4000),
    ] {
        let file = rig.gateway.directory().join(verdict);
        let name = file.to_str().unwrap();
        let arguments = [
            "watch",
            "--verdict",
            verdict,
            "--count",
            "2",
            "--write",
            name,
        ];
        let watch = cli(&programs, &rig.gateway, &arguments);
        let (ended, text) = watched_by(watch, || send(to, length));
        assert!(ended.success(), "{text}");
        let head = format!(" {HOST_INTERFACE} {verdict}{of}: ");
        let packet = format!("IP {GATEWAY_V4}.5000 > {to}.9: UDP");
        for line in text.lines() {
            assert!(line.contains(&head) && line.contains(&packet), "{line}");
        }
        assert_eq!(text.lines().count(), 2);
        assert_eq!(tshark(&file).len(), 2);
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(7).any(|seven| seven == b"topmost"));
    }
    // By the name of the interface; and at a Workstation what is not from its own address.
    let arguments = ["watch", "--port", HOST_INTERFACE, "--count", "1"];
    let watch = cli(&programs, &rig.gateway, &arguments);
    let (ended, text) = watched_by(watch, || send(nobody, 16));
    assert!(ended.success() && text.contains("no_route"), "{text}");
    let host = rig.workstations[0].namespace();
    host.ip(&format!("address add 192.0.2.7/32 dev {HOST_INTERFACE}"))
        .unwrap();
    let foreign = || {
        host.run(|| {
            let socket = std::net::UdpSocket::bind("192.0.2.7:5000")?;
            let _ = socket.send_to(b"topmost!", (GATEWAY_V4, 9));
            Ok(())
        })
        .unwrap();
    };
    let watch = rig.workstations[0].agent("watch --verdict inner_source --count 1");
    let (ended, text) = watched_by(watch, foreign);
    assert!(ended.success(), "{text}");
    let packet = format!("{HOST_INTERFACE} inner_source");
    assert!(
        text.contains(&packet) && text.contains("IP 192.0.2.7.5000 > "),
        "{text}"
    );
}

#[test]
fn an_agent_shows_and_explains_what_its_own_port_drops() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let mut rig = tapped(&programs, 1, Impairment::default()).unwrap();
    rig.single.start().unwrap();
    let workstation = &rig.single.workstation;
    let sender = PacketSocket::sender(&rig.middle, "mw").unwrap();
    let port = mac_of(workstation.namespace(), workstation.interface()).unwrap();
    let frames = [datagram(port, 2), unknown(port)];
    let text = watched(
        workstation.agent("watch --rate 1000 --count 30"),
        &sender,
        &frames,
    );
    let interface = workstation.interface();
    for verdict in ["foreign", "unknown_session"] {
        let said = format!(" {interface} {verdict}: ");
        assert!(text.contains(&said), "{said} is not in\n{text}");
    }
    let ask = |workstation: &Workstation, frame: &[u8]| {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let output = workstation
            .agent("--json explain")
            .arg(&hex)
            .output()
            .unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all[0].clone()
    };
    let told = ask(workstation, &frames[1]);
    assert_eq!(
        (&told["verdict"], &told["port"]),
        (&"unknown_session".into(), &interface.into())
    );
    // Without the agent as far as the frame itself decides: as a Workstation's port.
    rig.single.workstation.stop().unwrap();
    let workstation = &rig.single.workstation;
    assert_eq!(ask(workstation, &frames[1])["verdict"], Value::Null);
    let told = ask(workstation, &of_kind(port, wire::kind::HELLO, 32));
    assert_eq!(told["verdict"], "malformed", "{told}");
    let steps = told["steps"].to_string();
    assert!(steps.contains("a Workstation, which takes"), "{steps}");
}

#[test]
fn whoever_stops_reading_holds_up_nobody_and_leaves_nothing_behind() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let (rig, sender) = served(&programs);
    let port = mac_of(rig.gateway.namespace(), "ws1").unwrap();
    let frame = datagram(port, 2);
    // Four that do not read, and then are gone: as many as there is room for.
    let idler = || piped(cli(&programs, &rig.gateway, &["watch", "--rate", "10000"]));
    let mut idle: Vec<Child> = (0..4).map(|_| idler()).collect();
    // Whether one more is refused.
    let refused = || {
        let watch = cli(&programs, &rig.gateway, &["watch", "--count", "1"]);
        let (ended, _) = watched_by(watch, || _ = sender.send(&frame));
        !ended.success()
    };
    wait_for("one more to be refused", SOON, || {
        for child in &mut idle {
            // One that came after it was itself refused.
            if child.try_wait().unwrap().is_some() {
                *child = idler();
            }
        }
        refused().then_some(())
    })
    .unwrap();
    let before = rig.gateway.show().unwrap().verdicts("ws1")["foreign"];
    let mut sent = 0;
    for _ in 0..100_000 {
        sent += u64::from(sender.send(&frame));
    }
    assert!(sent > 50_000, "{sent}");
    let all = wait_for("all to be dropped with their verdict", SOON, || {
        let after = rig.gateway.show().unwrap().verdicts("ws1")["foreign"];
        (after - before >= sent).then_some(())
    });
    all.unwrap();
    for child in &mut idle {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    wait_for("room for another", SOON, || (!refused()).then_some(())).unwrap();
}
