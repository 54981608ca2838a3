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
