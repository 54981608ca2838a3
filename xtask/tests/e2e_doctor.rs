//! `doctor`, end to end: each thing is broken for real in a namespace and found, and where the remedy is a
//! command, that command mends it. Checks whose cause cannot be had in a namespace (kernel, CPU, drivers,
//! offloads of NICs) are made to fail by planted facts, in `control/src/doctor/tests.rs`.
//! Needs root and the programs (`cargo xtask test` builds them).

use std::fs;
use std::os::unix::fs::PermissionsExt;

use dataplane::wall::{GuardHook, Wall, WallConfig, XdpRequest};
use nix::net::if_::if_nametoindex;
use portcullis_xtask::rig::*;
use serde_json::Value;

/// A Gateway whose doctor is asked.
struct Clinic {
    programs: Programs,
    rig: Single,
    _turn: Serial,
}

impl Clinic {
    fn new() -> Self {
        require_root().unwrap();
        let turn = Serial::acquire().unwrap();
        let programs = Programs::find().unwrap();
        Self {
            rig: single(&programs).unwrap(),
            programs,
            _turn: turn,
        }
    }

    fn host(&self) -> &Namespace {
        self.rig.gateway.namespace()
    }

    /// The report, and the exit code.
    fn report(&self) -> (Value, i32) {
        let mut command = self.host().command(self.programs.path("portcullis"));
        command.arg("--config").arg(self.rig.gateway.config());
        let output = command.args(["--json", "doctor"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        let report: Value = report.unwrap_or_else(|error| panic!("{error}: {errors}"));
        (report, output.status.code().unwrap())
    }

    /// Level and remedy of the findings of a check that are not in order.
    fn amiss(&self, subject: &str, check: &str) -> Vec<(String, String)> {
        let (report, code) = self.report();
        let findings = report["findings"].as_array().unwrap();
        let fails = findings.iter().any(|finding| finding["level"] == "fail");
        assert_eq!(code, i32::from(fails), "{report}");
        let of = |finding: &&Value| {
            finding["subject"] == subject && finding["check"] == check && finding["level"] != "ok"
        };
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        findings
            .iter()
            .filter(of)
            .map(|finding| (word(&finding["level"]), word(&finding["remedy"])))
            .collect()
    }

    /// What is amiss, once.
    #[track_caller]
    fn finds(&self, level: &str, subject: &str, check: &str) -> String {
        let found = self.amiss(subject, check);
        let [(found_level, remedy)] = &found[..] else {
            panic!(
                "{subject}, {check}: one finding, not {found:?} in {:#}",
                self.report().0
            );
        };
        assert_eq!(found_level, level, "{subject}, {check}");
        remedy.clone()
    }

    /// The same; and then the remedy mends it.
    #[track_caller]
    fn finds_and_mends(&self, level: &str, subject: &str, check: &str) {
        let remedy = self.finds(level, subject, check);
        let mut words = remedy.split_whitespace();
        let program = words.next().unwrap();
        let rest: Vec<_> = words.collect();
        self.host().exec(program, &rest.join(" ")).unwrap();
        assert_eq!(self.amiss(subject, check), [], "`{remedy}` did not mend it");
    }
}

#[test]
fn nothing_has_to_be_mended_before_the_start_nor_at_work_nor_after_it() {
    let mut clinic = Clinic::new();
    let none_fails = |clinic: &Clinic| {
        let (report, code) = clinic.report();
        let findings = report["findings"].as_array().unwrap();
        let fails: Vec<_> = findings.iter().filter(|f| f["level"] == "fail").collect();
        assert!(fails.is_empty(), "{fails:#?}");
        assert_eq!(code, 0);
        for finding in findings.iter().filter(|f| f["level"] == "warn") {
            assert!(
                finding["remedy"].as_str().is_some_and(|r| !r.is_empty()),
                "{finding}"
            );
        }
    };
    none_fails(&clinic);
    clinic.finds("warn", "ws1", "wall");
    clinic.rig.start().unwrap();
    none_fails(&clinic);
    assert_eq!(clinic.amiss("ws1", "wall"), []);
    assert_eq!(clinic.amiss("ws1", "guards"), []);
    assert_eq!(clinic.amiss("portcullisd", "system calls"), []);
    // The Workstation's own.
    let agent = clinic
        .rig
        .workstation
        .agent("doctor --json")
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&agent.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let fails: Vec<_> = findings.iter().filter(|f| f["level"] == "fail").collect();
    assert!(fails.is_empty(), "{fails:#?}");
    assert!(
        findings
            .iter()
            .any(|f| f["subject"] == "cable0" && f["check"] == "wall" && f["level"] == "ok")
    );
    clinic.rig.gateway.stop().unwrap();
    none_fails(&clinic);
    assert_eq!(
        clinic.amiss("ws1", "wall"),
        [],
        "it stands without the daemon"
    );
}

#[test]
fn an_interface_that_is_no_isolated_port_is_found_and_the_command_mends_it() {
    let clinic = Clinic::new();
    let host = clinic.host();
    host.ip("link set ws1 up").unwrap();
    host.ip("address add 192.0.2.1/32 dev ws1").unwrap();
    clinic.finds_and_mends("fail", "ws1", "isolation");
    host.ip("link add br9 type bridge").unwrap();
    host.ip("link set dev ws1 master br9").unwrap();
    clinic.finds_and_mends("fail", "ws1", "isolation");
    // A VLAN is the same to the kernel; not every kernel has them.
    host.ip("link add link ws1 name ws1m type macvlan").unwrap();
    clinic.finds_and_mends("fail", "ws1", "upper");
    host.ip("route add 10.99.0.0/24 dev ws1").unwrap();
    clinic.finds_and_mends("fail", "ws1", "routes");
    host.ip("link set ws1 mtu 1000").unwrap();
    clinic.finds_and_mends("warn", "ws1", "MTU");
    host.ip("link set ws1 down").unwrap();
    clinic.finds("warn", "ws1", "carrier");
    host.ip("link delete ws1").unwrap();
    clinic.finds("fail", "ws1", "interface");
}

#[test]
fn what_the_kernel_might_forward_is_found_and_the_command_mends_it() {
    let mut clinic = Clinic::new();
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        clinic.host().sysctl(setting, "1").unwrap();
        clinic.finds_and_mends("warn", "routing", "forwarding");
    }
    // The host interface outlives the daemon, which no longer sees to the rule.
    clinic.rig.gateway.start().unwrap();
    assert_eq!(clinic.amiss("routing", "kept in"), []);
    clinic.rig.gateway.stop().unwrap();
    let rules = clinic.host().ip("-4 rule show").unwrap();
    let rule = rules
        .lines()
        .find(|line| line.contains(HOST_INTERFACE))
        .unwrap();
    let priority = rule.split(':').next().unwrap();
    clinic
        .host()
        .ip(&format!("-4 rule delete priority {priority}"))
        .unwrap();
    clinic.finds("fail", "routing", "kept in");
    clinic.rig.gateway.start().unwrap();
    assert_eq!(clinic.amiss("routing", "kept in"), [], "a restart mends it");
}

#[test]
fn what_a_pinned_port_lets_its_kernel_do_is_found_and_the_command_mends_it() {
    let mut clinic = Clinic::new();
    let text = clinic.rig.gateway.configuration(&[]);
    let port = "[[port]]\ninterface = \"ws1\"\nadmission = \"pinned\"\naddresses = [\"10.9.0.1/24\"]\n\
                [[port.pin]]\nmac = \"02:00:00:00:00:02\"\naddresses = [\"10.9.0.2\"]\n";
    clinic.rig.gateway.configure(&(text + port)).unwrap();
    clinic.rig.gateway.start().unwrap();
    assert_eq!(clinic.amiss("ws1", "rp_filter"), []);
    for setting in ["all", "ws1"] {
        clinic
            .host()
            .sysctl(&format!("ipv4/conf/{setting}/rp_filter"), "0")
            .unwrap();
    }
    clinic.finds_and_mends("warn", "ws1", "rp_filter");
    clinic.rig.gateway.stop().unwrap();
    clinic
        .host()
        .sysctl("ipv4/conf/ws1/forwarding", "1")
        .unwrap();
    clinic.finds_and_mends("fail", "ws1", "forwarding");
    clinic.host().ip("address add 10.8.0.1/32 dev ws1").unwrap();
    clinic.finds_and_mends("fail", "ws1", "isolation");
}

#[test]
fn programs_of_others_on_a_port_are_found() {
    let clinic = Clinic::new();
    let pins = Scratch::new("other").unwrap();
    let mac = mac_of(clinic.host(), "ws1").unwrap();
    let raise = || {
        Ok(Wall::raise(&WallConfig {
            interface: "ws1".into(),
            ifindex: if_nametoindex("ws1")?,
            admission: wire::Admission {
                role: wire::Role::Gateway,
                mac,
                encapsulation: wire::Encapsulation::Ether(wire::limits::ETHERTYPE),
            },
            // Somebody else's: its pins are not where ours are.
            pin_directory: pins.pins().to_owned(),
            mode: XdpRequest::Auto,
            guard: GuardHook::Auto,
            session_slots: 1,
            workstation_slots: 1,
        })?)
    };
    let _other = clinic.host().run(raise).unwrap();
    let remedy = clinic.finds("fail", "ws1", "wall");
    assert!(remedy.contains("ip link set dev ws1 xdp off"), "{remedy}");
    let programs = clinic.amiss("ws1", "tc programs");
    assert_eq!(programs.len(), 2, "{programs:?}");
    assert!(programs.iter().all(|(level, _)| level == "fail"));
}

#[test]
fn a_wall_that_is_severed_or_generic_is_found() {
    let mut clinic = Clinic::new();
    let text = clinic.rig.gateway.configuration(&["ws1"]) + "xdp = \"generic\"\n";
    clinic.rig.gateway.configure(&text).unwrap();
    clinic.rig.gateway.start().unwrap();
    clinic.finds("warn", "ws1", "wall");
    clinic.finds("warn", "ws1", "native XDP");
    clinic.rig.gateway.stop().unwrap();
    // Removed, and another of its name.
    clinic.host().ip("link delete ws1").unwrap();
    clinic
        .host()
        .ip("link add ws1 type veth peer name other")
        .unwrap();
    let remedy = clinic.finds("fail", "ws1", "wall");
    assert!(remedy.contains("restart"), "{remedy}");
    clinic.rig.gateway.start().unwrap();
    assert_eq!(
        clinic.finds("warn", "ws1", "wall"),
        clinic.finds("warn", "ws1", "wall")
    );
}

#[test]
fn queues_that_are_not_there_and_a_veth_without_gro_are_found() {
    let mut clinic = Clinic::new();
    let text = clinic.rig.gateway.configuration(&["ws1"]) + "queues = 4\n";
    clinic.rig.gateway.configure(&text).unwrap();
    let remedy = clinic.finds("warn", "ws1", "queues");
    assert!(remedy.contains("queues"), "{remedy}");
    let plain = clinic.rig.gateway.configuration(&["ws1"]);
    clinic.rig.gateway.configure(&plain).unwrap();
    clinic.rig.gateway.start().unwrap();
    assert_eq!(clinic.amiss("ws1", "queues"), []);
    clinic.host().exec("ethtool", "-K ws1 gro off").unwrap();
    clinic.finds_and_mends("warn", "ws1", "GRO");
}

#[test]
fn a_key_that_others_can_read_and_a_service_that_is_not_there_are_found() {
    let mut clinic = Clinic::new();
    clinic.rig.gateway.start().unwrap();
    clinic
        .rig
        .gateway
        .cli("workstation add desk --allow tcp/9050 --output -")
        .unwrap();
    let remedy = clinic.finds("warn", "services", "listener");
    assert!(
        remedy.contains(&format!("SocksPort {GATEWAY_V4}:9050")),
        "{remedy}"
    );
    let listener = clinic
        .host()
        .run(|| Ok(std::net::TcpListener::bind((GATEWAY_V4, 9050))?));
    let _listener = listener.unwrap();
    assert_eq!(clinic.amiss("services", "listener"), []);
    let key = clinic.rig.gateway.directory().join("state/gateway.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    clinic.finds_and_mends("fail", "files", "mode");
}
