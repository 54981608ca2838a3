//! Starts that must fail: with a clear sentence, an exit code, and nothing half-applied. Needs root
//! and the programs (`cargo xtask test` builds them).

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use portcullis_xtask::rig::*;

const SOON: Duration = Duration::from_secs(10);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// The interface's flags and whether a program is attached, as `ip` has it.
fn state(host: &Namespace, interface: &str) -> (bool, bool) {
    let text = host.ip(&format!("-j link show dev {interface}")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let flags = value[0]["flags"].as_array().unwrap();
    (
        flags.iter().any(|flag| flag == "UP"),
        value[0]["xdp"].is_object(),
    )
}

/// The daemon must end with an error that has all `words` in it, and leave no trace.
#[track_caller]
fn refuses(gateway: &Gateway, words: &[&str]) {
    let host = gateway.namespace();
    let (status, log) = Process::run("portcullisd", gateway.daemon(), SOON).unwrap();
    assert!(!status.success(), "it started, or ended well:\n{log}");
    assert!(status.code().is_some(), "it was killed: {status}\n{log}");
    for word in words {
        assert!(log.contains(word), "no word of {word:?} in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        host.ip(&format!("link show dev {HOST_INTERFACE}")).is_err(),
        "the host interface was made"
    );
    let pins = files(gateway.pins());
    assert!(pins.is_empty(), "pins are left: {pins:?}");
}

fn files(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path().display().to_string());
        }
    }
    all
}

#[test]
fn a_configuration_with_a_mistake_is_refused_and_named() {
    let rig = single(&programs()).unwrap();
    let good = rig.gateway.configuration(&["ws1"]);
    for (text, words) in [
        ("not toml at all [".to_owned(), &["gw.toml"][..]),
        (format!("surprise = 1\n{good}"), &["surprise"]),
        (good.replace("/18", "/99"), &["10.152.152.10/99"]),
        (
            good.replace("addresses = [", "addresses = 5 # ["),
            &["addresses"],
        ),
        (format!("{good}[[port]]\ninterface = \"ws1\"\n"), &["ws1"]),
        (format!("{good}[[port]]\n"), &["interface"]),
    ] {
        rig.gateway.configure(&text).unwrap();
        refuses(&rig.gateway, words);
        assert_eq!(state(rig.gateway.namespace(), "ws1"), (false, false));
    }
    fs::remove_file(rig.gateway.config()).unwrap();
    refuses(&rig.gateway, &["gw.toml"]);
}

#[test]
fn a_missing_interface_is_refused_and_the_other_port_left_alone() {
    let rig = single(&programs()).unwrap();
    let text = rig.gateway.configuration(&["ws1", "missing0"]);
    rig.gateway.configure(&text).unwrap();
    refuses(&rig.gateway, &["missing0"]);
    assert_eq!(state(rig.gateway.namespace(), "ws1"), (false, false));
}

#[test]
fn an_interface_in_a_bridge_is_refused() {
    let rig = single(&programs()).unwrap();
    let host = rig.gateway.namespace();
    host.ip("link add br9 type bridge").unwrap();
    host.ip("link set dev ws1 master br9").unwrap();
    refuses(&rig.gateway, &["ws1", "bridge"]);
    assert_eq!(state(host, "ws1"), (false, false));
}

#[test]
fn an_interface_with_an_address_is_refused() {
    let rig = single(&programs()).unwrap();
    let host = rig.gateway.namespace();
    host.ip("addr add 192.0.2.1/24 dev ws1").unwrap();
    refuses(&rig.gateway, &["ws1", "192.0.2.1"]);
    assert_eq!(state(host, "ws1"), (false, false));
}

/// Attaches `return XDP_PASS` to an interface; it stays as long as the descriptor.
fn foreign_program(host: &Namespace, interface: &str) -> OwnedFd {
    /// A `bpf(2)` call with the start of `union bpf_attr`.
    fn bpf(command: i64, attributes: &[u64; 16]) -> OwnedFd {
        // SAFETY: the pointer and size are of a live array, zero behind what the command reads.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attributes.as_ptr(),
                size_of_val(attributes),
            )
        };
        assert!(
            fd >= 0,
            "bpf({command}): {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: the descriptor was just made and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(fd as i32) }
    }
    use std::os::fd::AsRawFd;
    // r0 = 2 (XDP_PASS); exit.
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"GPL";
    let mut load = [0; 16];
    load[0] = 6 | (code.len() as u64) << 32; // BPF_PROG_TYPE_XDP
    load[1] = code.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    let program = bpf(5, &load);
    host.run(|| {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let mut link = [0; 16];
        link[0] = program.as_raw_fd() as u64 | u64::from(index) << 32;
        link[1] = 37 | 2 << 32; // BPF_XDP, XDP_FLAGS_SKB_MODE
        Ok(bpf(28, &link))
    })
    .unwrap()
}

#[test]
fn a_port_that_has_somebody_elses_program_is_refused() {
    let rig = single(&programs()).unwrap();
    let host = rig.gateway.namespace();
    let theirs = foreign_program(host, "ws1");
    assert_eq!(state(host, "ws1"), (false, true));
    refuses(&rig.gateway, &["ws1", "XDP"]);
    assert_eq!(state(host, "ws1"), (false, true), "theirs is still there");
    drop(theirs);
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.gateway.start().unwrap();
    let file = rig.gateway.add("ws1").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600, "the enrolment file");
    rig.gateway.stop().unwrap();
    let state_files = files(&rig.gateway.directory().join("state"));
    assert!(!state_files.is_empty());
    for path in &state_files {
        assert_eq!(mode(Path::new(path)), 0o600, "{path}");
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (status, log) = Process::run("portcullisd", rig.gateway.daemon(), SOON).unwrap();
    assert!(!status.success(), "{log}");
    assert!(
        log.contains("600"),
        "it does not say which mode is wanted:\n{log}"
    );
}

#[test]
fn an_enrolment_file_that_is_damaged_is_refused_and_leaves_no_state() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.gateway.start().unwrap();
    let file = rig.gateway.add("ws1").unwrap();
    let good = fs::read(&file).unwrap();
    let bad = rig.gateway.directory().join("bad.enrolment");
    let half = &good[..good.len() / 2];
    for bytes in [&b""[..], b"nonsense", half, &[0xff; 4096]] {
        fs::write(&bad, bytes).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = rig.workstation.agent("enroll");
        command.arg(&bad);
        let (status, log) = Process::run("portcullis-agent enroll", command, SOON).unwrap();
        assert!(
            !status.success(),
            "it enrolled with {} bytes:\n{log}",
            bytes.len()
        );
        assert!(log.contains("bad.enrolment"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        let left = files(&rig.workstation.directory().join("state"));
        assert!(left.is_empty(), "state is left: {left:?}");
    }
    let (status, log) =
        Process::run("portcullis-agent", rig.workstation.agent("up"), SOON).unwrap();
    assert!(
        !status.success(),
        "an agent that is not enrolled came up:\n{log}"
    );
    assert!(log.contains("enrol"), "{log}");
    rig.workstation.enroll(&file).unwrap();
    rig.workstation.start().unwrap();
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    rig.start().unwrap();
    let (status, log) = Process::run("portcullisd", rig.gateway.daemon(), SOON).unwrap();
    assert!(!status.success(), "{log}");
    assert!(rig.workstation.reaches(Duration::from_secs(1)));
    assert!(rig.gateway.show().unwrap().in_session("ws1"));
}
