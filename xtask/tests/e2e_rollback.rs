//! A Workstation that is put back to a snapshot drops its keys and is in session again at once. Needs
//! root and the programs (`cargo xtask test` builds them).

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use portcullis_xtask::middlebox::Impairment;
use portcullis_xtask::rig::*;
use wire::{Header, kind};

const WAIT: Duration = Duration::from_secs(30);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// Starts both ends, with more in the agent's configuration.
fn connect(rig: &mut Single, more: &str) {
    let text = rig.workstation.configuration();
    // As a virtual machine is by itself.
    let text = text.replace("virtualised = false", "virtualised = true");
    rig.workstation.configure(&format!("{more}{text}")).unwrap();
    rig.start().unwrap();
}

fn rollbacks(rig: &Single) -> u64 {
    rig.workstation.status().unwrap()["rollbacks"]
        .as_u64()
        .unwrap()
}

fn cipher(rig: &Single) -> String {
    let status = rig.workstation.status().unwrap();
    status["session"]["cipher"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn seconds_since_handshake(rig: &Single) -> u64 {
    let snapshot = rig.gateway.show().unwrap();
    snapshot.workstation("ws1").unwrap()["last_handshake_seconds"]
        .as_u64()
        .unwrap()
}

/// The kernel tells everybody in this network namespace of a change of a device; a process that may
/// can have it told.
fn new_generation(host: &Namespace) {
    let event = b"change@/devices/test\0ACTION=change\0DEVPATH=/devices/test\0SUBSYSTEM=platform\0NEW_VMGENID=1\0";
    let mut message = Vec::new();
    message.extend((16 + event.len() as u32).to_ne_bytes());
    // Any type that is not netlink's own; a request; no sequence number, no port.
    message.extend(0x10u16.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(event);
    host.run(|| {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .unwrap();
        let kernel = NetlinkAddr::new(0, 0);
        sendto(fd.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        Ok(())
    })
    .unwrap();
}

/// Gives the counter another value, in place as a hypervisor does: a file cut short would be no mapping
/// any more.
fn put_back(counter: &Path, value: u8) {
    let file = OpenOptions::new().write(true).open(counter).unwrap();
    file.write_all_at(&[value; 16], 0).unwrap();
}

/// Sends datagrams of one length, whose frames on the cable can be told by it, until it is dropped.
struct Sender {
    length: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(host: &Arc<Namespace>) -> Self {
        let length = Arc::new(AtomicUsize::new(100));
        let theirs = Arc::clone(&length);
        let socket = host
            .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))
            .unwrap();
        let thread = std::thread::spawn(move || {
            // Zero is the end.
            while let length @ 1.. = theirs.load(Ordering::SeqCst) {
                // What has no session is lost, and may be refused.
                let _ = socket.send_to(&vec![7; length], (GATEWAY_V4, 9));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            length,
            thread: Some(thread),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.length.store(0, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn with_a_generation_counter_a_virtual_machine_has_gcm_and_drops_its_keys_when_it_changes() {
    let _turn = Serial::acquire().unwrap();
    let mut tapped = tapped(&programs(), 3, Impairment::default()).unwrap();
    let counter = tapped.single.workstation.directory().join("generation");
    std::fs::write(&counter, [1; 16]).unwrap();
    let more = format!("vm_generation = \"{}\"\n", counter.display());
    connect(&mut tapped.single, &more);
    let rig = &tapped.single;
    assert_eq!(cipher(rig), "aes-256-gcm");
    // Data from the Workstation, by session and length.
    let frames: Arc<Mutex<HashMap<(u32, usize), u64>>> = Arc::default();
    let counted = Arc::clone(&frames);
    let capture = Capture::filtered(&tapped.middle, None, 0, move |frame| {
        if frame.kind == PacketKind::Incoming
            && let Some(Ok(header)) = frame.bytes.get(14..).map(Header::decode)
            && header.kind == kind::DATA
        {
            let length = usize::from(header.length);
            *counted
                .lock()
                .unwrap()
                .entry((header.index, length))
                .or_default() += 1;
        }
        true
    })
    .unwrap();
    let sessions_of = |length: usize| -> BTreeSet<u32> {
        let frames = frames.lock().unwrap();
        let of = frames.keys().filter(|(_, has)| *has == length + 28);
        of.map(|(index, _)| *index).collect()
    };
    let sender = Sender::start(rig.workstation.namespace());
    wait_for("traffic", WAIT, || {
        (sessions_of(100).len() == 1).then_some(())
    })
    .unwrap();
    let mut before = sessions_of(100);
    for turn in 1..=3 {
        put_back(&counter, 1 + turn as u8);
        // What is sent from here on must not be sealed under the keys of before.
        let length = 100 * (1 + turn);
        sender.length.store(length, Ordering::SeqCst);
        // One after another within ten seconds: a change of the counter is no hint.
        wait_for("another session", WAIT, || {
            (rollbacks(rig) == turn as u64 && !sessions_of(length).is_empty()).then_some(())
        })
        .unwrap();
        pause(Duration::from_millis(200)).unwrap();
        capture.settle().unwrap();
        let after = sessions_of(length);
        assert_eq!(after.len(), 1, "{after:?}");
        assert!(after.is_disjoint(&before), "{after:?}, before {before:?}");
        before.extend(after);
    }
    assert_eq!(cipher(rig), "aes-256-gcm");
    let log = rig.workstation.log_tail();
    assert!(log.contains("the generation counter has changed"), "{log}");
    let mut status = rig.workstation.agent("status");
    let shown = String::from_utf8(status.output().unwrap().stdout).unwrap();
    assert!(shown.contains("3 suspected"), "{shown}");
}

#[test]
fn an_event_of_a_new_generation_drops_the_keys_once_in_ten_seconds() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    connect(&mut rig, "");
    assert_eq!(
        (cipher(&rig).as_str(), rollbacks(&rig)),
        ("aes-256-gcm-siv", 0)
    );
    pause(Duration::from_millis(1100)).unwrap();
    let host = rig.workstation.namespace();
    new_generation(host);
    wait_for("another session", WAIT, || {
        let again = rollbacks(&rig) == 1 && seconds_since_handshake(&rig) == 0;
        (again && rig.workstation.reaches(Duration::from_millis(100))).then_some(())
    })
    .unwrap();
    for _ in 0..20 {
        new_generation(host);
    }
    pause(Duration::from_millis(500)).unwrap();
    assert_eq!(rollbacks(&rig), 1, "at most once in ten seconds");
}

#[test]
fn a_generation_counter_that_cannot_be_mapped_is_refused_in_words() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    let text = rig.workstation.configuration();
    rig.workstation
        .configure(&format!("vm_generation = \"/none/such\"\n{text}"))
        .unwrap();
    rig.gateway.start().unwrap();
    let file = rig.gateway.add("ws1").unwrap();
    rig.workstation.enroll(&file).unwrap();
    let output = rig.workstation.agent("up").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("/none/such"),
        "{text}"
    );
    assert!(text.contains("vm_generation"), "{text}");
}

#[test]
fn two_hosts_with_the_same_keys_take_the_session_from_each_other_and_are_shown() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 2).unwrap();
    rig.start().unwrap();
    let suspected = |rig: &Many| {
        let snapshot = rig.gateway.show().unwrap();
        let of = |name| snapshot.workstation(name).unwrap()["clone_suspected"] == true;
        (of("w1"), of("w2"))
    };
    // One that is but restarted, again and again, is no clone.
    for _ in 0..5 {
        let one = &mut rig.workstations[0];
        one.kill();
        one.launch().unwrap();
        one.wait_connected(WAIT).unwrap();
    }
    assert_eq!(suspected(&rig), (false, false));

    let identity = |one: &Workstation| one.directory().join("state/identity.toml");
    rig.workstations[1].stop().unwrap();
    std::fs::copy(
        identity(&rig.workstations[0]),
        identity(&rig.workstations[1]),
    )
    .unwrap();
    rig.workstations[1].launch().unwrap();
    wait_for("the clone to be shown", Duration::from_secs(60), || {
        // Both have something to say, so each soon finds that the other has taken over.
        for one in &rig.workstations {
            one.reaches(Duration::from_millis(100));
        }
        suspected(&rig).0.then_some(())
    })
    .unwrap();
    assert!(!suspected(&rig).1, "nobody uses the keys of w2");
    let shown = rig.gateway.cli("show").unwrap();
    assert!(
        shown.contains("two machines seem to have its keys"),
        "{shown}"
    );
    // Without the other one the session stays.
    rig.workstations[1].stop().unwrap();
    rig.workstations[0].wait_connected(WAIT).unwrap();
}
