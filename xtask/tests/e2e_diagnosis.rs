//! `watch` and `explain`, end to end: what is put on the cable is shown with the verdict it got, to people,
//! to programs and to tshark. Needs root, tshark and the programs (`cargo xtask test` builds them).

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
    let header = wire::Header::new(wire::kind::DATA, 20, 0x8001_0003, 7);
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 2], &[0x88, 0xb5]].concat();
    frame.extend(header.encode());
    frame.resize(14 + header.frame_len(), 0);
    frame
}

/// A program that watches, while frames are sent until it has had enough.
fn watched(mut watch: Command, sender: &PacketSocket, frames: &[Vec<u8>]) -> String {
    let mut child = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = wait_for("watch to end", SOON, || {
        for frame in frames {
            sender.send(frame);
        }
        child.try_wait().unwrap()
    });
    let text = output(&mut child);
    assert!(ended.unwrap().success(), "{text}");
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
fn whoever_stops_reading_holds_up_nobody_and_leaves_nothing_behind() {
    let _turn = Serial::acquire().unwrap();
    let programs = programs();
    let (rig, sender) = served(&programs);
    let port = mac_of(rig.gateway.namespace(), "ws1").unwrap();
    let frame = datagram(port, 2);
    // Four that do not read, and then are gone: as many as there is room for.
    let idler = || {
        let mut watch = cli(&programs, &rig.gateway, &["watch", "--rate", "10000"]);
        watch
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut idle: Vec<Child> = (0..4).map(|_| idler()).collect();
    // Whether one more is refused.
    let refused = || {
        let mut watch = cli(&programs, &rig.gateway, &["watch", "--count", "1"]);
        let mut child = watch
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = wait_for("watch to end", SOON, || {
            sender.send(&frame);
            child.try_wait().unwrap()
        });
        !ended.unwrap().success()
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
