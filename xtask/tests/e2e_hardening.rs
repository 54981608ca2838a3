//! What the programs may still do once they serve, as the kernel shows it, and that they do all of
//! their work so. Needs root and the programs (`cargo xtask test` builds them).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_xtask::attack::{arp, ethernet};
use portcullis_xtask::rig::*;

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// A pair, in session, whose programs run as an account of their own.
fn as_account() -> Single {
    as_account_with(|_| {})
}

/// As [`as_account`], after `prepare`.
fn as_account_with(prepare: impl FnOnce(&mut Single)) -> Single {
    let mut rig = single(&programs()).unwrap();
    prepare(&mut rig);
    let user = format!("user = \"{ACCOUNT}\"\n");
    let (gateway, workstation) = (&rig.gateway, &rig.workstation);
    gateway
        .configure(&(user.clone() + &gateway.configuration(&["ws1"])))
        .unwrap();
    workstation
        .configure(&(user + &workstation.configuration()))
        .unwrap();
    for directory in [gateway.directory(), workstation.directory()] {
        // Its own are below it, and it must get there.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
    }
    rig.start().unwrap();
    rig
}

fn pids(rig: &mut Single) -> [u32; 2] {
    [
        rig.gateway.process().unwrap().pid(),
        rig.workstation.process().unwrap().pid(),
    ]
}

#[test]
fn no_thread_of_either_program_has_a_privilege_or_can_get_one() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    for pid in pids(&mut rig) {
        let all = threads(pid).unwrap();
        let names: BTreeSet<String> = all.iter().map(|status| status.field("Name")).collect();
        assert!(names.contains("worker-0"), "{names:?}");
        for status in &all {
            assert_eq!(status.privileges(), Vec::<String>::new());
            let who = format!("{} of {pid}", status.field("Name"));
            let ids = format!("{ACCOUNT}\t{ACCOUNT}\t{ACCOUNT}\t{ACCOUNT}");
            assert_eq!(status.field("Uid"), ids, "{who}");
            assert_eq!(status.field("Gid"), ids, "{who}");
            assert_eq!(status.field("Groups"), "", "{who}");
        }
        // What is not dumpable belongs to root in /proc, whoever runs it.
        let owner = fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid();
        assert_eq!(owner, 0, "{pid} can be dumped and traced by its account");
        let locked = all[0].field("VmLck");
        let kilobytes: u64 = locked.trim_end_matches(" kB").trim().parse().unwrap();
        assert!(kilobytes > 0, "memory of {pid} is not locked");
    }
}

#[test]
fn a_helper_keeps_what_its_requests_need_and_holds_nothing_of_the_tunnel() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    for pid in pids(&mut rig) {
        let helper = helper_of(pid).unwrap();
        for status in threads(helper).unwrap() {
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                let has = status.set(set);
                assert_eq!(has, HELPER, "{set} {has:x}");
            }
            assert_eq!(status.field("NoNewPrivs"), "1");
            assert_eq!(status.field("Seccomp"), "2");
        }
        let held = descriptors(helper).unwrap();
        for what in [
            "/dev/net/tun",
            "/state",
            "control.sock",
            "bpf-map",
            "bpf-prog",
        ] {
            let found = held.iter().any(|path| path.contains(what));
            assert!(!found, "the helper holds {what}: {held:?}");
        }
    }
}

#[test]
fn without_privileges_reload_rebinding_and_a_new_interface_still_work() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    // Root's own tools and the daemon use the same files.
    let file = rig.gateway.add("second").unwrap();
    assert!(file.exists());
    let state = rig.gateway.directory().join("state");
    let written = state.join("workstations/second.toml");
    let of = |path: &Path| fs::metadata(path).unwrap().uid();
    let files: Vec<_> = walk(&state);
    assert!(
        files.iter().all(|path| of(path) == ACCOUNT),
        "{files:?} {written:?}"
    );
    rig.gateway.cli("check").unwrap_or_default();
    rig.gateway
        .process()
        .unwrap()
        .signal(Signal::SIGHUP)
        .unwrap();
    rig.gateway.remove("second").unwrap();

    let gateway = std::sync::Arc::clone(rig.gateway.namespace());
    set_link(&gateway, "ws1", false).unwrap();
    set_link(&gateway, "ws1", true).unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();

    gateway.ip("link delete dev ws1").unwrap();
    let workstation = std::sync::Arc::clone(rig.workstation.namespace());
    veth((&gateway, "ws1"), (&workstation, "cable0"), 1500).unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(15))
        .unwrap();

    rig.gateway.kill();
    rig.gateway.start().unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
    rig.gateway.stop().unwrap();
    rig.workstation.agent("down").status().unwrap();
    let gone = wait_for("the agent to go down", Duration::from_secs(5), || {
        rig.workstation.process().unwrap().exited()
    });
    assert!(gone.unwrap().success(), "{}", rig.workstation.log_tail());
    assert!(workstation.ip("link show dev portcullis0").is_err());
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut found = vec![directory.to_owned()];
    for path in entries.map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn without_privileges_both_programs_tell_systemd_that_they_serve_and_live() {
    let _turn = Serial::acquire().unwrap();
    let scratch = Scratch::new("systemd").unwrap();
    let listen = |name: &str| {
        let path = scratch.path().join(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        let timeout = Some(Duration::from_secs(10));
        socket.set_read_timeout(timeout).unwrap();
        (path.display().to_string(), socket)
    };
    let ((to_gateway, gateway), (to_agent, agent)) = (listen("gateway"), listen("agent"));
    let rig = as_account_with(|rig| {
        for (name, value) in [("NOTIFY_SOCKET", &*to_gateway), ("WATCHDOG_USEC", "200000")] {
            rig.gateway.set_environment(name, value);
        }
        for (name, value) in [("NOTIFY_SOCKET", &*to_agent), ("WATCHDOG_USEC", "200000")] {
            rig.workstation.set_environment(name, value);
        }
    });
    let hear = |socket: &UnixDatagram| {
        let mut text = [0; 64];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    for socket in [gateway, agent] {
        assert_eq!(hear(&socket), "READY=1");
        for _ in 0..3 {
            assert_eq!(hear(&socket), "WATCHDOG=1");
        }
    }
    drop(rig);
}

#[test]
fn a_daemon_without_its_helper_ends_and_the_wall_stays() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let heard = Capture::on(rig.gateway.namespace(), "ws1", 4).unwrap();
    for (pid, gateway) in pids(&mut rig).into_iter().zip([true, false]) {
        kill(
            Pid::from_raw(helper_of(pid).unwrap() as i32),
            Signal::SIGKILL,
        )
        .unwrap();
        let process = match gateway {
            true => rig.gateway.process().unwrap(),
            false => rig.workstation.process().unwrap(),
        };
        let status = process.wait(Duration::from_secs(5)).unwrap();
        assert!(!status.success(), "{}", process.log());
        assert!(
            process.log().contains("privileged helper"),
            "{}",
            process.log()
        );
    }
    let shout = PacketSocket::sender(rig.workstation.namespace(), "cable0").unwrap();
    let frame = foreign();
    for _ in 0..64 {
        shout.send(&frame);
    }
    heard.settle().unwrap();
    assert_eq!(heard.incoming(), 0, "{}", heard.summary());
}

#[test]
fn a_helper_ends_with_its_daemon() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let helpers = pids(&mut rig).map(|pid| helper_of(pid).unwrap());
    rig.gateway.kill();
    rig.workstation.stop().unwrap();
    for helper in helpers {
        let gone = || {
            let left = threads(helper).unwrap_or_default();
            let gone = |status: &ThreadStatus| status.field("State").starts_with('Z');
            left.iter().all(gone).then_some(())
        };
        wait_for("the helper to end", Duration::from_secs(5), gone).unwrap();
    }
}

fn foreign() -> Vec<u8> {
    let own = [2, 0, 0, 0, 0, 0x55];
    let claim = arp(1, (own, [192, 0, 2, 1].into()), ([0; 6], GATEWAY_V4));
    ethernet([0xff; 6], own, 0x0806, &claim)
}

/// Calls that a daemon has no use for, and somebody in it would: by name, number and arguments.
#[cfg(target_arch = "x86_64")]
fn forbidden(shell: u64) -> Vec<(&'static str, i64, Vec<u64>)> {
    let family = |family: i32, kind: i32| vec![family as u64, kind as u64, 0];
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    vec![
        (
            "socket(AF_PACKET)",
            libc::SYS_socket,
            family(libc::AF_PACKET, libc::SOCK_RAW),
        ),
        (
            "socket(AF_INET)",
            libc::SYS_socket,
            family(libc::AF_INET, libc::SOCK_STREAM),
        ),
        (
            "socket(AF_INET6)",
            libc::SYS_socket,
            family(libc::AF_INET6, libc::SOCK_DGRAM),
        ),
        ("execve", libc::SYS_execve, vec![shell, 0, 0]),
        ("fork", libc::SYS_fork, vec![]),
        (
            "unshare",
            libc::SYS_unshare,
            vec![libc::CLONE_NEWUSER as u64],
        ),
        ("setresuid", libc::SYS_setresuid, vec![0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, vec![16, 1, 0, 0]),
        ("kill", libc::SYS_kill, vec![1, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![8, 0]),
        ("bpf(BPF_PROG_LOAD)", libc::SYS_bpf, vec![5, 0, 0]),
        ("bpf(BPF_OBJ_GET)", libc::SYS_bpf, vec![7, 0, 0]),
        ("bpf(BPF_LINK_DETACH)", libc::SYS_bpf, vec![34, 0, 0]),
        (
            "prctl(PR_SET_DUMPABLE)",
            libc::SYS_prctl,
            vec![4, 1, 0, 0, 0],
        ),
        (
            "mmap(PROT_EXEC)",
            libc::SYS_mmap,
            vec![0, 4096, executable, 0x22, u64::MAX, 0],
        ),
    ]
}

#[cfg(target_arch = "x86_64")]
#[test]
fn who_takes_over_a_thread_makes_no_forbidden_call_and_opens_no_other_file() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let own = [rig.gateway.config(), rig.workstation.config()];
    for (pid, own) in pids(&mut rig).into_iter().zip(own) {
        let named = |name: &str| {
            let mut all = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            all.find_map(|task| {
                let task = task.unwrap();
                let is = fs::read_to_string(task.path().join("comm")).unwrap().trim() == name;
                is.then(|| task.file_name().to_str().unwrap().parse().unwrap())
            })
        };
        let threads = [Some(pid), named("worker-0"), named("signals")];
        for thread in threads.map(Option::unwrap) {
            let captive = Captive::take(thread).unwrap();
            // It is this process that makes the calls.
            let asked = captive.call(libc::SYS_getpid, &[]).unwrap().unwrap();
            assert_eq!(asked, u64::from(pid));
            let shell = captive.put(b"/bin/true\0").unwrap();
            for (name, number, arguments) in forbidden(shell) {
                let answer = captive.call(number, &arguments).unwrap();
                let errno = answer.err().and_then(|error| error.raw_os_error());
                assert_eq!(
                    errno,
                    Some(libc::EPERM),
                    "{name} in thread {thread} of {pid}"
                );
            }
            let open = |path: &[u8]| {
                let path = captive.put(&[path, b"\0"].concat()).unwrap();
                let arguments = [libc::AT_FDCWD as u64, path, 0, 0];
                captive.call(libc::SYS_openat, &arguments).unwrap()
            };
            // Any account may read these: it is Landlock that refuses.
            for path in ["/etc/passwd", "/proc/cpuinfo", "/usr/bin/env", "/"] {
                let errno = open(path.as_bytes()).err().and_then(|e| e.raw_os_error());
                assert_eq!(errno, Some(libc::EACCES), "{path} in {thread} of {pid}");
            }
            let own = open(own.as_os_str().as_encoded_bytes()).unwrap();
            captive.call(libc::SYS_close, &[own]).unwrap().unwrap();
        }
    }
    // Nobody noticed.
    assert!(rig.workstation.reaches(Duration::from_secs(5)));
}

/// What a helper has no use for, and somebody in it would: by name, number and arguments.
#[cfg(target_arch = "x86_64")]
fn forbidden_to_helper(shell: u64) -> Vec<(&'static str, i64, Vec<u64>)> {
    let mut all = forbidden(shell);
    // Its own work.
    let own = [
        "bpf(BPF_PROG_LOAD)",
        "bpf(BPF_OBJ_GET)",
        "bpf(BPF_LINK_DETACH)",
    ];
    all.retain(|(name, ..)| !own.contains(name));
    all.extend([
        ("mount", libc::SYS_mount, vec![shell, shell, shell, 0, 0]),
        ("umount2", libc::SYS_umount2, vec![shell, 0]),
        ("fsopen", libc::SYS_fsopen, vec![shell, 0]),
        (
            "move_mount",
            libc::SYS_move_mount,
            vec![0, shell, 0, shell, 0],
        ),
        ("setns", libc::SYS_setns, vec![0, 0]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            vec![shell, 0, 0, 0, 0],
        ),
        ("init_module", libc::SYS_init_module, vec![shell, 0, shell]),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            vec![1, shell, 0, shell, 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, vec![1, 0]),
        ("bpf(BPF_PROG_ATTACH)", libc::SYS_bpf, vec![8, 0, 0]),
        (
            "bpf(BPF_RAW_TRACEPOINT_OPEN)",
            libc::SYS_bpf,
            vec![17, 0, 0],
        ),
        (
            "ioctl(TIOCSTI)",
            libc::SYS_ioctl,
            vec![0, libc::TIOCSTI, shell],
        ),
        (
            "socket(AF_NETLINK, NETLINK_NETFILTER)",
            libc::SYS_socket,
            vec![libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, 12],
        ),
    ]);
    all
}

#[cfg(target_arch = "x86_64")]
#[test]
fn who_takes_over_a_helper_makes_no_forbidden_call_and_writes_no_other_file() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let pins = [rig.gateway.pins(), rig.workstation.pins()].map(Path::to_owned);
    let ports = ["ws1".to_owned(), rig.workstation.interface().to_owned()];
    for ((pid, pins), port) in pids(&mut rig).into_iter().zip(pins).zip(ports) {
        let helper = helper_of(pid).unwrap();
        let captive = Captive::take(helper).unwrap();
        let asked = captive.call(libc::SYS_getpid, &[]).unwrap().unwrap();
        assert_eq!(asked, u64::from(helper));
        let shell = captive.put(b"/bin/true\0").unwrap();
        for (name, number, arguments) in forbidden_to_helper(shell) {
            let answer = captive.call(number, &arguments).unwrap();
            let errno = answer.err().and_then(|error| error.raw_os_error());
            assert_eq!(errno, Some(libc::EPERM), "{name} in the helper of {pid}");
        }
        let open = |path: &str, flags: i32| {
            let path = captive.put(&[path.as_bytes(), b"\0"].concat()).unwrap();
            let arguments = [libc::AT_FDCWD as u64, path, flags as u64, 0o600];
            captive.call(libc::SYS_openat, &arguments).unwrap()
        };
        let (write, make) = (libc::O_WRONLY, libc::O_WRONLY | libc::O_CREAT);
        // Root may do all of this: it is Landlock that refuses.
        for (path, flags) in [
            ("/etc/passwd", libc::O_RDONLY),
            ("/usr/bin/env", libc::O_RDONLY),
            ("/", libc::O_RDONLY),
            ("/etc/evil", make),
            ("/tmp/evil", make),
            ("/dev/kmsg", libc::O_RDONLY),
            ("/proc/sys/kernel/core_pattern", write),
            ("/proc/sys/vm/drop_caches", write),
            ("/proc/self/oom_score_adj", write),
            ("/sys/devices/system/cpu/uevent", write),
        ] {
            let errno = open(path, flags).err().and_then(|e| e.raw_os_error());
            assert_eq!(errno, Some(libc::EACCES), "{path} in the helper of {pid}");
        }
        // Its own work is still to be had.
        let setting = format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6");
        let looked = [
            (setting.as_str(), write),
            (pins.to_str().unwrap(), libc::O_RDONLY),
            ("/proc/self/status", libc::O_RDONLY),
        ];
        for (path, flags) in looked {
            let own = open(path, flags);
            let own = own.unwrap_or_else(|error| panic!("{path} in the helper of {pid}: {error}"));
            captive.call(libc::SYS_close, &[own]).unwrap().unwrap();
        }
        let directory = captive
            .put(format!("{}/x\0", pins.display()).as_bytes())
            .unwrap();
        captive
            .call(libc::SYS_mkdir, &[directory, 0o700])
            .unwrap()
            .unwrap();
        captive
            .call(libc::SYS_rmdir, &[directory])
            .unwrap()
            .unwrap();
    }
    // Nobody noticed, and it still helps.
    let gateway = std::sync::Arc::clone(rig.gateway.namespace());
    set_link(&gateway, "ws1", false).unwrap();
    set_link(&gateway, "ws1", true).unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}

/// The key that a file of secrets has under this name; a file of keys alone has its first.
fn secret(file: &Path, name: &str) -> Vec<u8> {
    let text = fs::read_to_string(file).unwrap();
    let mut fields = text.lines().filter_map(|line| line.split_once(" = "));
    let value = fields.find_map(|(key, value)| (key == name).then(|| value.trim_matches('"')));
    let value = value.unwrap_or(text.lines().next().unwrap());
    Base64::decode_vec(value).unwrap()
}

#[test]
fn keys_and_frames_are_locked_in_memory_and_no_core_is_ever_dumped() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let [gateway, workstation] = pids(&mut rig);
    let state = |directory: &Path| directory.join("state");
    let identity = state(rig.workstation.directory()).join("identity.toml");
    for (pid, keys) in [
        (
            gateway,
            vec![
                secret(&state(rig.gateway.directory()).join("gateway.key"), ""),
                secret(&identity, "psk"),
            ],
        ),
        (
            workstation,
            vec![
                secret(&identity, "workstation_private_key"),
                secret(&identity, "psk"),
            ],
        ),
    ] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core"));
        let core: Vec<&str> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{core:?}");

        let all = mappings(pid).unwrap();
        for key in keys {
            let places = places(pid, &all, &key).unwrap();
            assert!(!places.is_empty(), "the key is not in use, or not found");
            for mapping in places {
                assert!(mapping.has("lo"), "a key in {pid} is in {mapping:?}");
            }
        }
        // Three rings' worth of frames of 2 KiB.
        // (What is mapped of a device or of the kernel's own, as the BPF maps are, cannot grow.)
        let umem = |mapping: &&Mapping| {
            let frames = mapping.has("dd") && !mapping.has("de");
            frames && mapping.bytes() >= 3 * 1024 * 2048
        };
        let umem: Vec<&Mapping> = all.iter().filter(umem).collect();
        assert!(!umem.is_empty(), "frames' memory of {pid} could be dumped");
        assert!(umem.iter().all(|mapping| mapping.has("lo")), "{umem:?}");
    }
}

#[test]
fn keys_of_a_removed_workstation_are_nowhere_in_the_daemons_memory() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let [gateway, _] = pids(&mut rig);
    let identity = rig.workstation.directory().join("state/identity.toml");
    let psk = secret(&identity, "psk");
    let text = Base64::encode_string(&psk);
    let found = |what: &[u8]| {
        let all = mappings(gateway).unwrap();
        places(gateway, &all, what).unwrap().len()
    };
    assert!(found(&psk) > 0, "the key is not in use, or not found");
    assert_eq!(found(text.as_bytes()), 0, "its text was left behind");
    rig.gateway.remove(rig.workstation.name()).unwrap();
    assert_eq!(found(&psk), 0, "it was not erased");
    assert_eq!(found(text.as_bytes()), 0, "its text was left behind");
}

/// What a panic in a worker does (see `thread::a_thread_that_panics_takes_the_process_with_it`).
#[test]
fn a_daemon_whose_worker_aborts_passes_nothing_on_and_serves_again_when_restarted() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = as_account();
    let [gateway, _] = pids(&mut rig);
    let heard = Capture::into_stack(rig.gateway.namespace(), 0x0806, 4).unwrap();
    let worker = fs::read_dir(format!("/proc/{gateway}/task")).unwrap();
    let worker = worker
        .map(|task| task.unwrap().path())
        .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == "worker-0");
    let worker: i32 = worker
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    kill(Pid::from_raw(worker), Signal::SIGABRT).unwrap();
    let status = rig
        .gateway
        .process()
        .unwrap()
        .wait(Duration::from_secs(5))
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    // Behind XDP; and what XDP admits, for it still has the session, has no socket to go to.
    let passed = Capture::on(rig.gateway.namespace(), "ws1", 4).unwrap();
    let shout = PacketSocket::sender(rig.workstation.namespace(), "cable0").unwrap();
    for _ in 0..64 {
        shout.send(&foreign());
    }
    for _ in 0..5 {
        assert!(!rig.workstation.reaches(Duration::from_millis(50)));
    }
    for capture in [&heard, &passed] {
        capture.settle().unwrap();
        assert_eq!(capture.incoming(), 0, "{}", capture.summary());
    }
    rig.gateway.kill();
    rig.gateway.start().unwrap();
    rig.workstation
        .wait_connected(Duration::from_secs(10))
        .unwrap();
}
