//! The programs under what their systemd units leave them: account, capabilities, limits, system calls
//! and socket families as the unit files say, without systemd itself. Needs root and the programs.
#![cfg(target_arch = "x86_64")] // The numbers of system calls are read from this one's header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_xtask::rig::*;
use portcullis_xtask::tasks;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// An account that nobody has.
const ACCOUNT: u32 = 64_078;
/// Tells a copy of this test program which unit it is started by, and what it is to run.
const UNIT: &str = "PORTCULLIS_TEST_UNIT";
const RUN: &str = "PORTCULLIS_TEST_RUN";
/// Numbers of system calls.
const NUMBERS: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";

/// Settings with this name of a unit, and of its drop-in after a `+`, in their order. An empty one takes those
/// before it back.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let packaging = tasks::root().unwrap().join("packaging");
    let mut found = Vec::new();
    for file in unit.split('+') {
        let text = fs::read_to_string(packaging.join(file)).unwrap();
        for line in text.lines() {
            match line.split_once('=') {
                Some((key, "")) if key == name => found.clear(),
                Some((key, value)) if key == name => found.push(value.to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// The calls that systemd means by this name.
fn calls(name: &str, found: &mut BTreeSet<String>) {
    if !name.starts_with('@') {
        found.insert(name.to_owned());
        return;
    }
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", name])
        .output()
        .expect(
            "systemd-analyze is not there: `./run setup` installs it (apt-get install systemd)",
        );
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines().skip(1).map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            calls(line, found);
        }
    }
}

/// The unit's filter: what is named is allowed, from the first line on, or not any more.
fn filter(unit: &str) -> BpfProgram {
    let mut allowed = BTreeSet::new();
    calls("@default", &mut allowed);
    for line in settings(unit, "SystemCallFilter") {
        let mut named = BTreeSet::new();
        for word in line.trim_start_matches('~').split_whitespace() {
            calls(word, &mut named);
        }
        match line.starts_with('~') {
            true => allowed = &allowed - &named,
            false => allowed.extend(named),
        }
    }
    // What systemd itself needs to start it.
    allowed.insert("execve".to_owned());
    let header = fs::read_to_string(NUMBERS).expect("libc6-dev is not installed");
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for line in header.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let Some(name) = words.next().and_then(|word| word.strip_prefix("__NR_"))
            && allowed.contains(name)
            && let Some(number) = words.next().and_then(|word| word.parse().ok())
        {
            rules.insert(number, Vec::new());
        }
    }
    let families = settings(unit, "RestrictAddressFamilies").join(" ");
    let families = families.split_whitespace().map(|name| match name {
        "AF_UNIX" => libc::AF_UNIX,
        "AF_NETLINK" => libc::AF_NETLINK,
        "AF_XDP" => libc::AF_XDP,
        "AF_INET" => libc::AF_INET,
        "AF_INET6" => libc::AF_INET6,
        other => panic!("{other} is not known here"),
    });
    let only = |family: i32| {
        let is = SeccompCmpOp::Eq;
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, is, family as u64);
        SeccompRule::new(vec![condition.unwrap()]).unwrap()
    };
    rules.insert(libc::SYS_socket, families.map(only).collect());
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, TargetArch::x86_64);
    filter.unwrap().try_into().unwrap()
}

/// Not a test of its own: a copy of this program, started with account and capabilities of a unit, takes
/// its filter and becomes the daemon.
#[test]
fn becomes_the_daemon() {
    let (Ok(unit), Ok(run)) = (std::env::var(UNIT), std::env::var(RUN)) else {
        return;
    };
    seccompiler::apply_filter(&filter(&unit)).unwrap();
    let mut words = run.split_whitespace();
    let error = Command::new(words.next().unwrap()).args(words).exec();
    panic!("{run}: {error}");
}

/// What runs `command` as the unit does, in a host of the rig. `directory` is its own.
fn as_unit(unit: &str, namespace: &Namespace, directory: &Path, command: &str) -> Command {
    let only = |name: &str| settings(unit, name).join(" ");
    let capabilities = only("CapabilityBoundingSet");
    assert_eq!(capabilities, only("AmbientCapabilities"));
    assert_eq!(only("LimitMEMLOCK"), "infinity");
    assert_eq!(only("NoNewPrivileges"), "yes");
    let capabilities: Vec<String> = capabilities
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let capabilities = format!("-all,{}", capabilities.join(","));
    let own = std::env::current_exe().unwrap();
    let copy = directory.join("becomes");
    fs::copy(own, &copy).unwrap();
    // Its own /sys, as every host has; a BPF file system and a TUN device as udev and the unit's first
    // commands leave them. Where not even root may lift the limit of locked memory, as systemd does,
    // CAP_IPC_LOCK takes its place.
    let script = format!(
        "set -e; d={dir}; mount -t sysfs sysfs /sys; mount -t bpf -o mode=0701 bpf /sys/fs/bpf
         install -d -o {ACCOUNT} -g {ACCOUNT} -m 0700 /sys/fs/bpf/portcullis
         mknod -m 0666 $d/tun c 10 200; mount --bind $d/tun /dev/net/tun
         c={capabilities}; ulimit -l unlimited 2>/dev/null || c=$c,+ipc_lock
         exec setpriv --reuid {ACCOUNT} --regid {ACCOUNT} --clear-groups --no-new-privs \
         --bounding-set $c --inh-caps $c --ambient-caps $c \
         $d/becomes --exact becomes_the_daemon --nocapture",
        dir = directory.display()
    );
    let mut unshare = namespace.command("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    unshare.env(UNIT, unit).env(RUN, command);
    unshare
}

/// Makes the account's directories, as systemd does.
fn directories(root: &Path) {
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
    for name in ["state", "run"] {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        own(&directory);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

fn own(path: &Path) {
    chown(path, Some(ACCOUNT), Some(ACCOUNT)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path());
        }
    }
}

fn copy(programs: &Programs, name: &str, to: &Path) -> String {
    let copy = to.join(name);
    fs::copy(programs.path(name), &copy).unwrap();
    copy.display().to_string()
}

/// No thread has one, but that to lock memory where nothing else lets it.
fn have_no_capability(process: &Process) {
    for task in fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
        let locked = limits.lines().find(|line| line.starts_with("Max locked"));
        let lifted = locked.unwrap().contains("unlimited");
        let allowed = |set: &str| match (lifted, set) {
            (false, "CapEff" | "CapPrm") => 1 << 14,
            _ => 0,
        };
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            let line = format!("{set}:\t{:016x}\n", allowed(set));
            assert!(status.contains(&line), "{line}{status}");
        }
    }
}

const KIOSK: &str = r#"[[port]]
interface = "kiosk"
admission = "pinned"
addresses = ["10.152.200.1/24"]
[[port.pin]]
mac = "02:00:00:00:02:01"
addresses = ["10.152.200.2"]
rate = 4000
"#;

#[test]
fn the_programs_do_all_of_their_work_under_what_their_units_leave_them() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let programs = Programs::find().unwrap();
    let mut rig = single(&programs).unwrap();
    let (gateway, workstation) = (&rig.gateway, &rig.workstation);
    let user = format!("user = \"{ACCOUNT}\"\n");
    let pins = |text: String, pins: &Path| {
        user.clone() + &text.replace(&pins.display().to_string(), "/sys/fs/bpf/portcullis")
    };
    // Beside the tunnel's, a port without keys.
    let other = workstation.namespace();
    veth((gateway.namespace(), "kiosk"), (other, "kiosk0"), 1500).unwrap();
    other
        .ip("link set dev kiosk0 address 02:00:00:00:02:01 up")
        .unwrap();
    other.ip("address add 10.152.200.2/24 dev kiosk0").unwrap();
    let gateway_text = pins(gateway.configuration(&["ws1"]), gateway.pins()) + KIOSK;
    gateway.configure(&gateway_text).unwrap();
    let text = workstation.configuration();
    let pinned = text
        .lines()
        .find_map(|line| line.strip_prefix("pin_directory = "));
    let pinned = pinned.unwrap().trim_matches('"').to_owned();
    workstation
        .configure(&pins(text, Path::new(&pinned)))
        .unwrap();

    let start =
        |unit: &str, namespace: &Namespace, directory: &Path, program: &str, words: &str| {
            let program = copy(&programs, program, directory);
            let command = as_unit(unit, namespace, directory, &format!("{program} {words}"));
            Process::start(unit, command, &directory.join("log")).unwrap()
        };
    let directory = gateway.directory();
    directories(directory);
    let words = format!("--config {}", gateway.config().display());
    let unit = "portcullisd.service";
    let mut daemon = start(unit, gateway.namespace(), directory, "portcullisd", &words);
    let ready = wait_for("portcullisd to serve", Duration::from_secs(10), || {
        (gateway.show().is_ok() || daemon.exited().is_some()).then_some(())
    });
    ready.unwrap_or_else(|error| panic!("{error}: {}", daemon.log_tail(20)));
    assert!(daemon.exited().is_none(), "{}", daemon.log_tail(20));

    let file = gateway.add(workstation.name()).unwrap();
    workstation.enroll(&file).unwrap();
    let directory = workstation.directory();
    directories(directory);
    let words = format!("--config {} up", workstation.config().display());
    let unit = "portcullis-agent.service";
    let mut agent = start(
        unit,
        workstation.namespace(),
        directory,
        "portcullis-agent",
        &words,
    );
    let connected = |rig: &mut Single, agent: &mut Process, daemon: &Process| {
        let done = rig.workstation.wait_connected(Duration::from_secs(10));
        done.unwrap_or_else(|error| {
            panic!("{error}: {}\n{}", agent.log_tail(20), daemon.log_tail(20))
        });
        assert!(agent.exited().is_none(), "{}", agent.log_tail(20));
    };
    connected(&mut rig, &mut agent, &daemon);
    have_no_capability(&daemon);
    have_no_capability(&agent);

    let host = std::sync::Arc::clone(rig.gateway.namespace());
    set_link(&host, "ws1", false).unwrap();
    set_link(&host, "ws1", true).unwrap();
    connected(&mut rig, &mut agent, &daemon);
    host.ip("link delete dev ws1").unwrap();
    veth(
        (&host, "ws1"),
        (rig.workstation.namespace(), "cable0"),
        1500,
    )
    .unwrap();
    connected(&mut rig, &mut agent, &daemon);
    rig.gateway.add("second").unwrap();
    rig.gateway.remove("second").unwrap();
    let kiosk = || {
        let to = [10, 152, 200, 1].into();
        let asked = ping(
            rig.workstation.namespace(),
            to,
            [56],
            Duration::from_secs(1),
        );
        (asked.unwrap().answered == 1).then_some(())
    };
    wait_for("the pinned port", Duration::from_secs(5), kiosk).unwrap();
    let changed = gateway_text.replace("rate = 4000", "rate = 5000");
    rig.gateway.configure(&changed).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    let reloaded = || daemon.log().contains("reloaded").then_some(());
    wait_for("the reload", Duration::from_secs(5), reloaded).unwrap();
    let shown = rig.gateway.show().unwrap().value;
    let mut ports = shown["ports"].as_array().unwrap().iter();
    let port = ports.find(|port| port["interface"] == "kiosk").unwrap();
    assert_eq!(port["pins"][0]["rate"], 5000, "{port}");
    wait_for("the pinned port", Duration::from_secs(5), kiosk).unwrap();
    let log = daemon.log();
    let mut complaints = log.lines().filter(|line| {
        // (Here the limit may not be lifted, and the interface was just removed.)
        let complains = line.contains("ERROR") || line.contains(" WARN ");
        let expected = line.contains("LimitMEMLOCK") || line.contains("the interface was removed");
        complains && !expected
    });
    assert_eq!(complaints.next(), None, "{log}");
    agent.stop(Duration::from_secs(10)).unwrap();
    daemon.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn an_agent_over_networks_does_all_of_its_work_under_what_unit_and_drop_in_leave_it() {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    for unit in [
        "portcullis-agent.service+portcullis-network.conf",
        "portcullis-agent.service",
    ] {
        let over_networks = unit.contains('+');
        let mut networks = networks(&programs, false).unwrap();
        networks.reach_by(WAN[0]).unwrap();
        networks.gateway.start().unwrap();
        let workstation = &networks.workstation;
        let file = networks.gateway.add(workstation.name()).unwrap();
        workstation.enroll(&file).unwrap();
        let text = workstation.configuration();
        let user = format!("user = \"{ACCOUNT}\"\nendpoint = [\"{}\"]\n", WAN[0]);
        let text = text.replacen(&format!("interface = \"{LAN}\"\n"), &user, 1);
        workstation.configure(&text).unwrap();
        let directory = workstation.directory();
        directories(directory);
        let program = copy(&programs, "portcullis-agent", directory);
        let words = format!("{program} --config {} up", workstation.config().display());
        let host = std::sync::Arc::clone(workstation.namespace());
        let command = as_unit(unit, &host, directory, &words);
        let mut agent = Process::start("agent", command, &directory.join("log")).unwrap();
        let patience = Duration::from_secs(15);
        let outside = std::net::Ipv4Addr::new(198, 51, 100, 254).into();
        let reaches = |to| {
            ping(&host, to, [56], Duration::from_secs(1))
                .unwrap()
                .answered
                == 1
        };
        if over_networks {
            for move_on in [Networks::at_home, Networks::elsewhere] {
                move_on(&networks).unwrap();
                networks
                    .workstation
                    .wait_connected(patience)
                    .unwrap_or_else(|error| panic!("{error}: {}", agent.log_tail(20)));
                wait_for("the Gateway", patience, || {
                    reaches(GATEWAY_V4.into()).then_some(())
                })
                .unwrap();
            }
            have_no_capability(&agent);
        } else {
            // It says what it lacks, and that nothing leaves does not depend on it.
            wait_for("a word of it", patience, || {
                let status = networks.workstation.status().ok()?;
                let reason = status["port"]["reason"].as_str()?.to_owned();
                reason.contains("portcullis-network.conf").then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}: {}", agent.log_tail(20)));
        }
        assert!(!reaches(outside), "past the tunnel");
        agent.stop(Duration::from_secs(10)).unwrap();
    }
}

#[test]
fn a_fast_path_takes_a_drop_in_of_its_own_and_without_it_there_is_the_socket() {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    let over_networks = "portcullis-agent.service+portcullis-network.conf";
    for unit in [
        over_networks.to_owned(),
        format!("{over_networks}+portcullis-fast-path.conf"),
    ] {
        let networks = networks(&programs, false).unwrap();
        let mut gateway = networks.gateway;
        let mut workstation = networks.workstation;
        gateway.start().unwrap();
        let file = gateway.add(workstation.name()).unwrap();
        workstation.enroll(&file).unwrap();
        let text = workstation.configuration();
        let text = format!("user = \"{ACCOUNT}\"\nfast_path = true\n{text}");
        workstation.configure(&text).unwrap();
        let directory = workstation.directory().to_owned();
        directories(&directory);
        let program = copy(&programs, "portcullis-agent", &directory);
        let words = format!("{program} --config {} up", workstation.config().display());
        let host = std::sync::Arc::clone(workstation.namespace());
        let command = as_unit(&unit, &host, &directory, &words);
        let mut agent = Process::start("agent", command, &directory.join("log")).unwrap();
        let patience = Duration::from_secs(15);
        workstation
            .wait_connected(patience)
            .unwrap_or_else(|error| panic!("{error}: {}", agent.log_tail(20)));
        let wanted = |port: &serde_json::Value| match unit.contains("fast-path") {
            true => port["xdp"] == "native",
            false => {
                let reason = port["reason"].as_str().unwrap_or_default();
                reason.contains("portcullis-fast-path.conf")
            }
        };
        let seen = || wanted(&workstation.status().unwrap()["port"]).then_some(());
        wait_for("a word of the fast path", patience, seen)
            .unwrap_or_else(|error| panic!("{error}: {}", agent.log_tail(20)));
        assert!(workstation.reaches(Duration::from_secs(2)));
        have_no_capability(&agent);
        agent.stop(Duration::from_secs(10)).unwrap();
    }
}
