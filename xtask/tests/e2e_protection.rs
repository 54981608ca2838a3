//! What a cable shows of a Workstation's traffic under each protection, cipher and padding, and who
//! refuses what. Needs root and the programs (`cargo xtask test` builds them).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use portcullis_xtask::middlebox::Impairment;
use portcullis_xtask::rig::*;

const WAIT: Duration = Duration::from_secs(30);
const ETHERTYPE: u16 = 0x88B5;
const DATA: u8 = 0x15;
/// Bytes of a frame before its payload, and of the tag behind it.
const BEFORE: usize = 14 + 24;
const TAG: usize = 16;
/// What the inner packets carry.
const SECRET: &[u8] = b"in clear on the cable or not at all";
const CONSENT: &str = "minimum_protection = \"authenticate\"\nminimum_cipher = \"aes-128-gcm\"\n";

/// A Gateway and a Workstation with a session, whose agent's configuration has `agent` in it.
fn connected(agent: &str, add: &str) -> Tapped {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    let mut rig = tapped(&programs, 1, Impairment::default()).unwrap();
    let one = &mut rig.single;
    let text = one.workstation.configuration();
    one.workstation
        .configure(&format!("{agent}{text}"))
        .unwrap();
    one.gateway.start().unwrap();
    let file = one.gateway.directory().join("ws1.enrolment");
    let path = file.display();
    one.gateway
        .cli(&format!(
            "workstation add ws1 --allow any {add} --output {path}"
        ))
        .unwrap();
    one.workstation.enroll(&file).unwrap();
    one.workstation.launch().unwrap();
    rig
}

/// Ten datagrams to the Gateway and back; the Data frames that both directions put on the cable.
fn exchange(rig: &Tapped) -> Vec<Vec<u8>> {
    let is_data = |frame: &Captured| {
        frame.kind == PacketKind::Incoming
            && frame.ethertype() == ETHERTYPE
            && frame.bytes.get(14) == Some(&DATA)
    };
    let both: Vec<Capture> = ["mg", "mw"]
        .map(|end| Capture::filtered(&rig.middle, Some(end), 400, is_data).unwrap())
        .into();
    let gateway = rig.single.gateway.namespace();
    let _echo = Echo::start(gateway, 7).unwrap();
    let socket = rig
        .single
        .workstation
        .namespace()
        .run(|| {
            Ok(UdpSocket::bind(SocketAddr::from((
                Ipv4Addr::UNSPECIFIED,
                0,
            )))?)
        })
        .unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    for _ in 0..10 {
        socket.send_to(SECRET, (GATEWAY_V4, 7)).unwrap();
        let mut back = [0; 100];
        let (length, _) = socket.recv_from(&mut back).unwrap();
        assert_eq!(&back[..length], SECRET);
    }
    let mut frames = Vec::new();
    for capture in both {
        capture.settle().unwrap();
        let of_one: Vec<_> = capture.frames().into_iter().map(|f| f.bytes).collect();
        assert!(of_one.len() >= 10, "{} frames", of_one.len());
        frames.extend(of_one);
    }
    frames
}

fn shows_secret(frame: &[u8]) -> bool {
    frame.windows(SECRET.len()).any(|window| window == SECRET)
}

/// Waits until both ends say that the session is of this kind.
fn agreed(rig: &mut Tapped, protection: &str, cipher: &str) {
    let one = &mut rig.single;
    one.workstation.wait_connected(WAIT).unwrap();
    wait_for(&format!("{protection} with {cipher}"), WAIT, || {
        let status = one.workstation.status().ok()?;
        let snapshot = one.gateway.show().ok()?;
        let there = &snapshot.workstation("ws1")?["session"];
        [&status["session"], there]
            .iter()
            .all(|session| session["protection"] == protection && session["cipher"] == cipher)
            .then_some(())
    })
    .unwrap();
}

#[test]
fn every_protection_with_every_cipher_carries_traffic_and_only_authenticate_shows_it() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = connected(CONSENT, "");
    for protection in ["encrypt", "authenticate"] {
        for cipher in ["auto", "aes-256-gcm", "aes-128-gcm", "aes-256-gcm-siv"] {
            let set = format!("workstation set ws1 --protection {protection} --cipher {cipher}");
            rig.single.gateway.cli(&set).unwrap();
            // The agent says that it is no virtual machine.
            let agreed_on = match cipher {
                "auto" => "aes-256-gcm",
                other => other,
            };
            agreed(&mut rig, protection, agreed_on);
            let frames = exchange(&rig);
            let shown = frames.iter().filter(|frame| shows_secret(frame)).count();
            match protection {
                "encrypt" => assert_eq!(shown, 0, "{cipher}"),
                _ => assert!(shown >= 20, "{cipher}: {shown} of {}", frames.len()),
            }
        }
    }
}

#[test]
fn what_is_below_a_workstations_minimum_is_refused_and_both_sides_say_so() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = connected("", "--protection authenticate");
    let refused = |rig: &Tapped, words: &[&str]| {
        let text = wait_for("the refusal", WAIT, || {
            let snapshot = rig.single.gateway.show().ok()?;
            let said = snapshot.workstation("ws1")?["refused"].as_str()?.to_owned();
            words.iter().all(|word| said.contains(word)).then_some(said)
        })
        .unwrap();
        assert!(text.contains("portcullis workstation set ws1"), "{text}");
        wait_for("the agent to say so", WAIT, || {
            let status = rig.single.workstation.status().ok()?;
            let said = status["last_error"].as_str()?;
            (said.contains("minimum_cipher") && status["session"].is_null()).then_some(())
        })
        .unwrap();
        assert!(!rig.single.gateway.show().unwrap().in_session("ws1"));
    };
    refused(
        &rig,
        &["authenticate", "minimum_protection = \"authenticate\""],
    );
    let cli = |rig: &Tapped, what: &str| rig.single.gateway.cli(what).unwrap();
    cli(
        &rig,
        "workstation set ws1 --protection encrypt --cipher aes-128-gcm",
    );
    refused(&rig, &["aes-128-gcm", "minimum_cipher = \"aes-128-gcm\""]);
    cli(&rig, "workstation set ws1 --cipher auto");
    agreed(&mut rig, "encrypt", "aes-256-gcm");
    let snapshot = rig.single.gateway.show().unwrap();
    assert!(snapshot.workstation("ws1").unwrap()["refused"].is_null());
}

#[test]
fn a_workstation_that_may_be_rolled_back_is_given_siv_and_one_that_asks_for_it_too() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = connected("minimum_cipher = \"aes-256-gcm-siv\"\n", "");
    agreed(&mut rig, "encrypt", "aes-256-gcm-siv");
    let text = rig.single.workstation.configuration();
    let virtual_machine = text.replace("virtualised = false", "virtualised = true");
    rig.single.workstation.configure(&virtual_machine).unwrap();
    rig.single.workstation.stop().unwrap();
    rig.single.workstation.launch().unwrap();
    agreed(&mut rig, "encrypt", "aes-256-gcm-siv");
}

/// Padding is of the inner packet: its length on the cable is all that an observer sees of it.
#[test]
fn frames_on_the_cable_are_as_long_as_their_padding_says() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = connected("", "");
    for padding in ["none", "16", "full"] {
        let set = format!("workstation set ws1 --padding {padding}");
        rig.single.gateway.cli(&set).unwrap();
        rig.single.workstation.wait_connected(WAIT).unwrap();
        let frames = exchange(&rig);
        let mtu = rig.single.workstation.tunnel_mtu().unwrap();
        // IPv4, UDP and what they carry.
        let packet = 20 + 8 + SECRET.len();
        let lengths: Vec<usize> = frames.iter().map(|f| f.len() - BEFORE - TAG).collect();
        let of = |length: usize| lengths.iter().filter(|l| **l == length).count();
        match padding {
            "none" => assert!(of(packet) >= 20, "{lengths:?}"),
            "16" => {
                assert!(of(packet.next_multiple_of(16)) >= 20, "{lengths:?}");
                assert!(lengths.iter().all(|l| l % 16 == 0), "{lengths:?}");
            }
            _ => assert!(lengths.iter().all(|l| *l == mtu), "{lengths:?}"),
        }
    }
}
