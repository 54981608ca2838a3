//! A reload applies what differs and nothing else, under traffic. Needs root and the programs
//! (`cargo xtask test` builds them).

use std::fs;
use std::time::Duration;

use portcullis_xtask::rig::*;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

#[test]
fn a_reload_applies_the_difference_and_untouched_workstations_lose_no_frame() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 4).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let gateway = &rig.gateway;
    let file = |name: &str| {
        let name = format!("state/workstations/{name}.toml");
        gateway.directory().join(name)
    };
    let edit = |name: &str, from: &str, into: &str| {
        let text = fs::read_to_string(file(name)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file(name), text.replace(from, into)).unwrap();
    };
    let configured = fs::read_to_string(gateway.config()).unwrap();
    assert!(
        gateway
            .cli("check")
            .unwrap()
            .contains("The daemon runs with the same."),
        "{}",
        gateway.cli("check").unwrap()
    );
    let every = Duration::from_millis(1);
    let probes: Vec<Probe> = rig.workstations[..2]
        .iter()
        .map(|one| Probe::start(one.namespace(), to, every, 600).unwrap())
        .collect();
    pause(Duration::from_millis(300)).unwrap();

    // w1 may reach something else, w3 is turned off, w4 goes, a setting of the port changes.
    edit("w1", "\"any\"", "\"udp/7\", \"icmp\"");
    edit("w3", "enabled = true", "enabled = false");
    fs::remove_file(file("w4")).unwrap();
    gateway
        .configure(&format!("{configured}threaded_napi = \"off\"\n"))
        .unwrap();
    let check = gateway.cli("check").unwrap();
    for line in [
        "port lan: threaded_napi (auto -> off): reload\n",
        "workstation w1: allow ([\"any\"] -> [\"udp/7\", \"icmp\"]): reload\n",
        ", disabled): reload, which ends its session",
        "workstation w4 (gone): reload, which ends its session",
    ] {
        assert!(check.contains(line), "{line} is not in\n{check}");
    }
    let told = gateway.cli("reload").unwrap();
    assert_eq!(
        told,
        "settings: port lan: threaded_napi (auto -> off)\nchanged: w3\n\
         may reach something else: w1\nremoved: w4\n"
    );
    assert!(!gateway.show().unwrap().in_session("w3"));
    for _ in 0..5 {
        assert_eq!(gateway.cli("syncconf").unwrap(), "Nothing has changed.\n");
    }

    // What takes a restart is named, before anything is changed: w3 stays off.
    edit("w3", "enabled = false", "enabled = true");
    gateway
        .configure(&format!("spin = 50\n{configured}ring_size = 4096\n"))
        .unwrap();
    let refused = format!("{:#}", gateway.cli("reload").unwrap_err());
    for part in [
        "nothing has been changed",
        "spin (20 -> 50)",
        "port lan: ring_size (2048 -> 4096)",
        "restart portcullisd",
    ] {
        assert!(refused.contains(part), "{part} is not in\n{refused}");
    }
    assert!(!refused.contains("napi"), "{refused}");
    let show = gateway.show().unwrap();
    assert_eq!(show.workstation("w3").unwrap()["enabled"], false);
    let check = gateway.cli("check").unwrap();
    assert!(check.contains("spin (20 -> 50): restart"), "{check}");
    assert!(check.contains("systemctl restart portcullisd"), "{check}");

    // Put back, all of it is applied.
    gateway.configure(&configured).unwrap();
    let told = gateway.cli("reload").unwrap();
    assert_eq!(
        told,
        "settings: port lan: threaded_napi (off -> auto)\nchanged: w3\n"
    );
    pause(Duration::from_millis(300)).unwrap();
    for (at, probe) in probes.into_iter().enumerate() {
        let report = probe.finish();
        assert!(report.sent() > 500, "{}", report.sent());
        assert_eq!(report.lost(), 0, "w{} lost datagrams", at + 1);
    }
}

#[test]
fn a_reload_that_fails_in_the_middle_leaves_everything_as_it_was() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 4).unwrap();
    rig.gateway.fail_to_serve("new");
    rig.start().unwrap();
    let gateway = &rig.gateway;
    let state = |name: &str| gateway.directory().join(name).join("workstations");
    let file = |name: &str| state("state").join(format!("{name}.toml"));
    let edit = |name: &str, from: &str, into: &str| {
        let text = fs::read_to_string(file(name)).unwrap();
        fs::write(file(name), text.replace(from, into)).unwrap();
    };
    // A Workstation that is described as it must be, made elsewhere.
    let configured = fs::read_to_string(gateway.config()).unwrap();
    let elsewhere = gateway.directory().join("elsewhere.toml");
    let text = configured
        .replace("/state\"", "/other\"")
        .replace("/run\"", "/nobody\"");
    fs::write(&elsewhere, text).unwrap();
    fs::create_dir(gateway.directory().join("other")).unwrap();
    fs::copy(
        gateway.directory().join("state/gateway.key"),
        gateway.directory().join("other/gateway.key"),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(gateway.directory().join("other"), mode).unwrap();
    let mut add = std::process::Command::new(programs().path("portcullis"));
    add.arg("--config").arg(&elsewhere);
    add.args(["workstation", "add", "new", "--address", "10.152.152.99"]);
    add.args(["--address", "fd50:6f72:7463::99"]);
    add.arg("--output")
        .arg(gateway.directory().join("new.enrolment"));
    let added = add.output().unwrap();
    let errors = String::from_utf8_lossy(&added.stderr);
    assert!(added.status.success(), "{errors}");

    let sessions = || {
        let show = gateway.show().unwrap();
        ["w1", "w2", "w3", "w4"].map(|name| show.in_session(name))
    };
    let rules = |name: &str| gateway.show().unwrap().workstation(name).unwrap()["allow"].clone();
    assert_eq!(sessions(), [true; 4]);
    // Rules, one turned off, one gone, one new that cannot be served; and a setting.
    edit("w1", "\"any\"", "\"icmp\"");
    edit("w2", "enabled = true", "enabled = false");
    let gone = fs::read(file("w3")).unwrap();
    fs::remove_file(file("w3")).unwrap();
    fs::rename(state("other").join("new.toml"), file("new")).unwrap();
    gateway
        .configure(&format!("{configured}threaded_napi = \"off\"\n"))
        .unwrap();
    let differs = gateway.cli("check").unwrap();
    let refused = format!("{:#}", gateway.cli("reload").unwrap_err());
    assert!(refused.contains("serving the Workstation new"), "{refused}");
    assert!(
        refused.contains("everything is as it was before"),
        "{refused}"
    );
    assert_eq!(rules("w1"), serde_json::json!(["any"]));
    assert_eq!(gateway.show().unwrap().names(), ["w1", "w2", "w3", "w4"]);
    // As much differs as before; and who was touched is in session again, by itself.
    assert_eq!(gateway.cli("check").unwrap(), differs);
    wait_for("all to be in session", Duration::from_secs(20), || {
        (sessions() == [true; 4]).then_some(())
    })
    .unwrap();
    for workstation in &rig.workstations {
        assert!(workstation.reaches(Duration::from_secs(5)));
    }
    // A file that cannot be read is found before anything is changed.
    let others = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    let directory = state("state");
    fs::set_permissions(&directory, others).unwrap();
    gateway.cli("reload").unwrap_err();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&directory, mode).unwrap();
    assert_eq!(gateway.cli("check").unwrap(), differs);
    // Without the one that cannot be, all the others are applied.
    fs::remove_file(file("new")).unwrap();
    assert_eq!(
        gateway.cli("reload").unwrap(),
        "settings: port lan: threaded_napi (auto -> off)\nchanged: w2\n\
         may reach something else: w1\nremoved: w3\n"
    );
    // The slots are whole: the one that went can come again.
    fs::write(file("w3"), gone).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(file("w3"), mode).unwrap();
    assert_eq!(gateway.cli("reload").unwrap(), "added: w3\n");
    wait_for("w3 to be in session", Duration::from_secs(40), || {
        gateway.show().unwrap().in_session("w3").then_some(())
    })
    .unwrap();
}
