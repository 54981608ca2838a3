//! The life of keys between real programs: given, replaced, turned off and on, and rolled over, with
//! traffic running. Needs root and the programs (`cargo xtask test` builds them).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_xtask::rig::*;

const WAIT: Duration = Duration::from_secs(30);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// Gives `w1` new keys; the path of its new enrolment file.
fn rotate(rig: &Many, more: &str) -> PathBuf {
    let file = rig.gateway.directory().join("w1.rotated");
    let _ = std::fs::remove_file(&file);
    let path = file.display();
    rig.gateway
        .cli(&format!("workstation rotate w1 --output {path} {more}"))
        .unwrap();
    file
}

/// The agent of `w1` takes the file in and is restarted.
fn take_in(rig: &mut Many, file: &std::path::Path) {
    let one = &mut rig.workstations[0];
    let output = one.agent("enroll --replace").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    one.stop().unwrap();
    one.launch().unwrap();
    one.wait_connected(WAIT).unwrap();
}

/// What the CLI says when it refuses.
fn refusal(rig: &Many, command: &str) -> String {
    format!("{:#}", rig.gateway.cli(command).unwrap_err())
}

fn of<'a>(snapshot: &'a Snapshot, name: &str) -> &'a serde_json::Value {
    snapshot.workstation(name).unwrap()
}

/// Whether it gets no session though it tries for a while.
fn stays_out(workstation: &Workstation) -> bool {
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if workstation.reaches(Duration::from_millis(100)) {
            return false;
        }
    }
    true
}

#[test]
fn a_disabled_workstation_is_out_before_the_call_returns_and_back_when_enabled() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let every = Duration::from_millis(1);
    let probes: Vec<Probe> = rig
        .workstations
        .iter()
        .map(|w| Probe::start(w.namespace(), to, every, 64).unwrap())
        .collect();
    pause(Duration::from_millis(300)).unwrap();
    rig.gateway.cli("workstation disable w1").unwrap();
    let returned = Instant::now();
    // XDP has no entry of it: its frames are of no session, and of no key.
    let before = rig.gateway.show().unwrap().verdicts("lan");
    let snapshot = wait_for("frames of w1 to be dropped", WAIT, || {
        let snapshot = rig.gateway.show().ok()?;
        let now = snapshot.verdicts("lan");
        let more = |name: &str| now.get(name) > before.get(name);
        (more("unknown_session") && more("unknown_key")).then_some(snapshot)
    })
    .unwrap();
    assert_eq!(of(&snapshot, "w1")["enabled"], false);
    assert!(!snapshot.in_session("w1"));
    let reports: Vec<ProbeReport> = probes.into_iter().map(Probe::finish).collect();
    assert_eq!(reports[0].recovered_after(returned), None);
    assert!(reports[0].sent() > reports[0].lost(), "w1 was heard before");
    assert_eq!(reports[1].lost(), 0, "w2 lost datagrams");
    // A second time is no error, and a restart does not forget it.
    rig.gateway.cli("workstation disable w1").unwrap();
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    rig.workstations[1].wait_connected(WAIT).unwrap();
    assert!(stays_out(&rig.workstations[0]));
    for _ in 0..2 {
        rig.gateway.cli("workstation enable w1").unwrap();
        rig.workstations[0].wait_connected(WAIT).unwrap();
    }
}

#[test]
fn new_keys_take_over_when_they_are_used_and_the_old_ones_are_worth_nothing_then() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let old_id = of(&rig.gateway.show().unwrap(), "w1")["key_id"].clone();
    let every = Duration::from_millis(5);
    let other = Probe::start(rig.workstations[1].namespace(), to, every, 64).unwrap();

    // A rotation alone disturbs nothing: no datagram is lost over it, and the old keys rekey.
    let probe = Probe::start(rig.workstations[0].namespace(), to, every, 64).unwrap();
    let file = rotate(&rig, "");
    rig.workstations[0].rekey().unwrap();
    assert_eq!(probe.finish().lost(), 0);
    let snapshot = rig.gateway.show().unwrap();
    let new_id = of(&snapshot, "w1")["rotation"]["key_id"].clone();
    assert!(new_id.is_string() && new_id != old_id);
    assert_eq!(of(&snapshot, "w1")["key_id"], old_id);

    // Neither daemon's death loses either of the two.
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    rig.workstations[0].wait_connected(WAIT).unwrap();
    assert_eq!(of(&rig.gateway.show().unwrap(), "w1")["key_id"], old_id);

    let identity = rig.workstations[0].directory().join("state/identity.toml");
    let stolen = std::fs::read_to_string(&identity).unwrap();
    take_in(&mut rig, &file);
    let snapshot = rig.gateway.show().unwrap();
    assert_eq!(of(&snapshot, "w1")["key_id"], new_id);
    assert!(of(&snapshot, "w1")["rotation"].is_null());

    // Whoever has the old keys is not answered, after another death of the daemon neither.
    rig.workstations[0].stop().unwrap();
    let new = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, stolen).unwrap();
    rig.workstations[0].launch().unwrap();
    assert!(stays_out(&rig.workstations[0]));
    let lost = other.finish();
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    rig.workstations[1].wait_connected(WAIT).unwrap();
    assert!(stays_out(&rig.workstations[0]));
    rig.workstations[0].stop().unwrap();
    std::fs::write(&identity, new).unwrap();
    rig.workstations[0].launch().unwrap();
    rig.workstations[0].wait_connected(WAIT).unwrap();
    assert!(lost.sent() > 0);
}

#[test]
fn old_keys_that_are_to_end_at_once_end_their_session_before_the_call_returns() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    // Taken back before it is used, a rotation has changed nothing.
    rotate(&rig, "");
    rig.gateway.cli("workstation rotate w1 --cancel").unwrap();
    assert!(of(&rig.gateway.show().unwrap(), "w1")["rotation"].is_null());
    assert!(rig.workstations[0].reaches(Duration::from_secs(1)));
    let file = rotate(&rig, "--keep-old 0");
    assert!(!rig.gateway.show().unwrap().in_session("w1"));
    assert!(stays_out(&rig.workstations[0]));
    assert!(rig.workstations[1].reaches(Duration::from_secs(1)));
    take_in(&mut rig, &file);
}

#[test]
fn the_gateways_key_is_rolled_over_and_nobody_is_locked_out_unasked() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let every = Duration::from_millis(5);
    let first = rig.gateway.show().unwrap().value["public_key"].clone();
    let probe = Probe::start(rig.workstations[1].namespace(), to, every, 64).unwrap();
    rig.gateway.cli("key rotate").unwrap();
    for workstation in &mut rig.workstations {
        workstation.rekey().unwrap();
    }
    assert_eq!(probe.finish().lost(), 0, "over the rollover and a rekey");
    let snapshot = rig.gateway.show().unwrap();
    assert_ne!(snapshot.value["public_key"], first);
    assert_eq!(snapshot.value["old_public_key"], first);
    assert_eq!(of(&snapshot, "w1")["gateway_key"], "old");
    let refused = refusal(&rig, "key rotate");
    assert!(refused.contains("still accepted"), "{refused}");

    // Both keys survive the daemon's death, for the handshakes of both.
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    for workstation in &mut rig.workstations {
        workstation.wait_connected(WAIT).unwrap();
    }
    let refused = refusal(&rig, "key retire");
    assert!(refused.contains("w1, w2 would be locked out"), "{refused}");
    let file = rotate(&rig, "");
    take_in(&mut rig, &file);
    assert_eq!(
        of(&rig.gateway.show().unwrap(), "w1")["gateway_key"],
        "current"
    );
    let refused = refusal(&rig, "key retire");
    assert!(refused.contains(" w2 would be locked out"), "{refused}");

    rig.gateway.cli("key retire --force").unwrap();
    let snapshot = rig.gateway.show().unwrap();
    assert!(snapshot.value["old_public_key"].is_null());
    assert_eq!(of(&snapshot, "w2")["gateway_key"], "retired");
    assert!(snapshot.in_session("w1") && !snapshot.in_session("w2"));
    assert!(stays_out(&rig.workstations[1]));
    assert!(rig.workstations[0].reaches(Duration::from_secs(1)));
    rig.gateway.cli("key retire").unwrap();
}

#[test]
fn a_workstation_that_makes_its_own_key_pair_connects_and_its_private_key_never_leaves_it() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.gateway.start().unwrap();
    let public = rig.gateway.directory().join("w1.public");
    let keygen = |rig: &Many| {
        let mut command = rig.workstations[0].agent("keygen --output");
        let output = command.arg(&public).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(&public).unwrap()
    };
    // A second time it is the same one.
    assert_eq!(keygen(&rig), keygen(&rig));
    let state = rig.workstations[0].directory().join("state");
    let private = std::fs::read_to_string(state.join("workstation.key")).unwrap();
    let file = rig.gateway.directory().join("w1.enrolment");
    let (from, path) = (public.display(), file.display());
    rig.gateway
        .cli(&format!(
            "workstation add w1 --public-key {from} --output {path}"
        ))
        .unwrap();
    let carried = std::fs::read_to_string(&file).unwrap();
    let daemons = rig.gateway.directory().join("state/workstations/w1.toml");
    let kept = std::fs::read_to_string(daemons).unwrap();
    assert!(!carried.contains(private.trim()) && !kept.contains(private.trim()));
    assert!(!carried.contains("private"));
    // The same key pair is no second Workstation's.
    let add = format!("workstation add w2 --public-key {from} --output {path}.2");
    let refused = refusal(&rig, &add);
    assert!(refused.contains("belongs to w1"), "{refused}");
    rig.workstations[0].enroll(&file).unwrap();
    rig.workstations[0].start().unwrap();
    assert!(
        !state.join("workstation.key").exists(),
        "it is in the identity"
    );
    // New keys for it keep the key pair.
    let file = rotate(&rig, "");
    assert!(!std::fs::read_to_string(&file).unwrap().contains("private"));
    take_in(&mut rig, &file);
    let identity = std::fs::read_to_string(state.join("identity.toml")).unwrap();
    assert!(identity.contains(private.trim()));
    // On another machine the file is worth nothing.
    std::fs::remove_file(state.join("identity.toml")).unwrap();
    let output = rig.workstations[0]
        .agent("enroll")
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("key pair"),
        "{text}"
    );
}
