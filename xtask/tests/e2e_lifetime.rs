//! Keys that have been used long enough, or for enough, between real programs with traffic running. The
//! programs are a debug build, which can be told to use keys less long: the protocol's limits are
//! minutes and terabytes. Needs root and the programs (`cargo xtask test` builds them).

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_xtask::middlebox::Impairment;
use portcullis_xtask::rig::*;
use wire::limits::{REJECT_AFTER, REKEY_AFTER, SEAL_BLOCKS, SECOND};
use wire::{Header, kind};

const WAIT: Duration = Duration::from_secs(30);

fn programs() -> Programs {
    require_root().unwrap();
    if cfg!(not(debug_assertions)) {
        panic!("a release build cannot be told to use keys less long: run this without --release");
    }
    Programs::find().unwrap()
}

/// What was sealed under one key: by whom, and under which session index.
#[derive(Debug, Clone)]
struct Key {
    frames: u64,
    blocks: u64,
    highest: u64,
    first: Instant,
    last: Instant,
}

type Keys = Arc<Mutex<HashMap<([u8; 6], u32), Key>>>;

/// Everything that either side seals, as it comes out of it onto the cable.
struct Watched {
    tapped: Tapped,
    keys: Keys,
    capture: Capture,
}

impl Watched {
    /// Both sides run and use keys no longer than `lifetime`; what is sealed is counted.
    fn start(lifetime: &str) -> Self {
        let mut tapped = tapped(&programs(), 11, Impairment::default()).unwrap();
        tapped.single.gateway.shorten_keys(lifetime);
        tapped.single.workstation.shorten_keys(lifetime);
        let keys = Keys::default();
        let counted = Arc::clone(&keys);
        let capture = Capture::filtered(&tapped.middle, None, 0, move |frame| {
            if frame.kind == PacketKind::Incoming
                && let Some(Ok(header)) = frame.bytes.get(14..).map(Header::decode)
                && header.kind == kind::DATA
            {
                let mut keys = counted.lock().unwrap();
                let now = Instant::now();
                let key = keys.entry((frame.source(), header.index)).or_insert(Key {
                    frames: 0,
                    blocks: 0,
                    highest: 0,
                    first: now,
                    last: now,
                });
                key.frames += 1;
                key.blocks += u64::from(header.length).div_ceil(16) + 1;
                key.highest = key.highest.max(header.counter);
                key.last = now;
            }
            true
        })
        .unwrap();
        tapped.single.start().unwrap();
        let log = tapped.single.gateway.log_tail() + &tapped.single.workstation.log_tail();
        assert_eq!(
            log.matches("keys are used less long").count(),
            2,
            "the programs are a release build, or do not know the variable: {log}"
        );
        Self {
            tapped,
            keys,
            capture,
        }
    }

    fn rig(&mut self) -> &mut Single {
        &mut self.tapped.single
    }

    /// What either side sealed under each of its keys: the Workstation's, and the Gateway's.
    fn sealed(&self) -> [Vec<Key>; 2] {
        self.capture.settle().unwrap();
        assert_eq!(self.capture.overruns(), 0, "not everything was counted");
        let interface = self.tapped.single.workstation.interface().to_owned();
        let host = self.tapped.single.workstation.namespace();
        let text = host.ip(&format!("-j link show dev {interface}")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mac = value[0]["address"].as_str().unwrap().to_owned();
        let keys = self.keys.lock().unwrap();
        let of = |workstations: bool| {
            let mut keys: Vec<Key> = keys
                .iter()
                .filter(|((source, _), _)| (hex_mac(source) == mac) == workstations)
                .map(|(_, key)| key.clone())
                .collect();
            keys.sort_by_key(|key| key.first);
            keys
        };
        [of(true), of(false)]
    }

    fn rekeys(&self) -> u64 {
        self.tapped.single.workstation.rekeys().unwrap()
    }

    fn wait_for_rekeys(&self, count: u64) {
        wait_for("rekeys", WAIT, || (self.rekeys() >= count).then_some(())).unwrap();
    }

    /// Packets that the Workstation, and the Gateway, had and could not seal.
    fn refused(&self) -> [u64; 2] {
        let status = self.tapped.single.workstation.status().unwrap();
        let snapshot = self.tapped.single.gateway.show().unwrap();
        [
            status["drops"]["seal_refused"].as_u64().unwrap(),
            snapshot.number("ws1", "seal_refused"),
        ]
    }

    fn inner_address(&self) -> Ipv4Addr {
        self.tapped.single.workstation.address().unwrap()
    }
}

fn hex_mac(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Sends datagrams of one size, one after another, until it is dropped.
struct Datagrams {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Datagrams {
    fn start(host: &Namespace, to: (Ipv4Addr, u16), size: usize, every: Duration) -> Self {
        let socket = socket(host);
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let datagram = vec![7; size];
            while !stopped.load(Ordering::Relaxed) {
                if socket.send_to(&datagram, to).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(every);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.end();
    }
}

fn socket(host: &Namespace) -> UdpSocket {
    host.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap()
}

/// Neither limit of the protocol is loosened by what these tests use.
#[test]
fn the_lifetimes_of_these_tests_are_shorter_than_the_protocols() {
    use dataplane::lifetime::Lifetime;
    for text in [",3000,6000", ",2000,4000", "30000,,", "100000,,", "2000,,"] {
        let lifetime = Lifetime::parse(text).unwrap();
        assert!(lifetime.seal_blocks() <= SEAL_BLOCKS);
        assert!(lifetime.rekey_after() <= REKEY_AFTER);
        assert!(lifetime.reject_after() <= REJECT_AFTER);
    }
    assert_eq!(REKEY_AFTER / SECOND, 120);
}

#[test]
fn a_session_is_replaced_when_it_is_old_and_no_datagram_is_lost() {
    let _turn = Serial::acquire().unwrap();
    let mut watched = Watched::start(",3000,6000");
    let _echo = Echo::start(watched.rig().gateway.namespace(), 7).unwrap();
    let host = Arc::clone(watched.rig().workstation.namespace());
    let to = (GATEWAY_V4.into(), 7);
    let probe = Probe::start(&host, to, Duration::from_millis(1), 200).unwrap();
    watched.wait_for_rekeys(3);
    let report = probe.finish();
    assert!(report.sent() > 5000, "{} datagrams", report.sent());
    assert_eq!(report.lost(), 0, "of {} datagrams", report.sent());
    let [ours, theirs] = watched.sealed();
    for keys in [&ours, &theirs] {
        assert!(keys.len() >= 4, "{keys:?}");
        for key in keys {
            // Replaced after 2.75 to 3 s, and what was on its way.
            let age = key.last - key.first;
            assert!(age < Duration::from_millis(3900), "{age:?}: {key:?}");
        }
        let longest = keys.iter().map(|key| key.last - key.first).max().unwrap();
        assert!(longest > Duration::from_millis(2500), "{longest:?}");
    }
}

#[test]
fn a_session_that_cannot_be_replaced_ends_at_its_age_on_both_sides() {
    let _turn = Serial::acquire().unwrap();
    let mut watched = Watched::start(",2000,4000");
    let rig = watched.rig();
    let (ws1, gw) = (
        Arc::clone(rig.workstation.namespace()),
        Arc::clone(rig.gateway.namespace()),
    );
    let every = Duration::from_millis(2);
    let up = Datagrams::start(&ws1, (GATEWAY_V4, 9), 100, every);
    let down = Datagrams::start(&gw, (watched.inner_address(), 9), 100, every);
    watched.wait_for_rekeys(1);
    // From here on nobody hears anybody.
    let cut = Impairment {
        cut: true,
        ..Impairment::default()
    };
    watched.tapped.middlebox.impair(cut);
    wait_for("the session to end", WAIT, || {
        let snapshot = watched.tapped.single.gateway.show().ok()?;
        let status = watched.tapped.single.workstation.status().ok()?;
        (!snapshot.in_session("ws1") && !status["session"].is_object()).then_some(())
    })
    .unwrap();
    let [ours, theirs] = watched.sealed();
    for keys in [&ours, &theirs] {
        for key in keys {
            let age = key.last - key.first;
            assert!(age < Duration::from_millis(4300), "{age:?}");
        }
        let last = keys.last().unwrap();
        let age = last.last - last.first;
        assert!(
            age > Duration::from_millis(3000),
            "used to its end: {age:?}"
        );
    }
    // With no session nothing is sealed.
    let before = watched.sealed().map(|keys| frames(&keys));
    pause(Duration::from_millis(500)).unwrap();
    assert_eq!(watched.sealed().map(|keys| frames(&keys)), before);
    assert!(up.finish() > 1000 && down.finish() > 1000);
    watched.tapped.middlebox.impair(Impairment::default());
    let healed = Instant::now();
    watched.rig().workstation.wait_connected(WAIT).unwrap();
    // The next Hello is at most five seconds and its jitter away.
    assert!(healed.elapsed() < Duration::from_secs(8));
}

#[test]
fn after_a_sleep_longer_than_keys_live_traffic_flows_again_at_once() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = single(&programs()).unwrap();
    let reject = Duration::from_millis(2500);
    let lifetime = format!(",1000,{}", reject.as_millis());
    rig.gateway.shorten_keys(&lifetime);
    rig.workstation.shorten_keys(&lifetime);
    rig.start().unwrap();
    let gateway = rig.gateway.process().unwrap().pid();
    let workstation = rig.workstation.process().unwrap().pid();
    for asleep in [&[workstation][..], &[gateway], &[gateway, workstation]] {
        let all = |signal| {
            for pid in asleep {
                kill(Pid::from_raw(*pid as i32), signal).unwrap();
            }
        };
        // A program that is stopped sees of a suspend what it would see: time has passed.
        all(Signal::SIGSTOP);
        std::thread::sleep(reject + Duration::from_secs(1));
        all(Signal::SIGCONT);
        let woken = Instant::now();
        let took = wait_for("traffic after a sleep", WAIT, || {
            let reaches = rig.workstation.reaches(Duration::from_millis(50));
            reaches.then(|| woken.elapsed())
        })
        .unwrap();
        println!("{} asleep: traffic after {took:?}", asleep.len());
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

fn frames(keys: &[Key]) -> u64 {
    keys.iter().map(|key| key.frames).sum()
}

#[test]
fn a_session_is_replaced_before_its_keys_are_used_up_and_no_datagram_is_lost() {
    let _turn = Serial::acquire().unwrap();
    let limit = 30_000;
    let mut watched = Watched::start("30000,,");
    let _echo = Echo::start(watched.rig().gateway.namespace(), 7).unwrap();
    let host = Arc::clone(watched.rig().workstation.namespace());
    let to = (GATEWAY_V4.into(), 7);
    let probe = Probe::start(&host, to, Duration::from_millis(1), 200).unwrap();
    watched.wait_for_rekeys(4);
    let report = probe.finish();
    assert_eq!(report.lost(), 0, "of {} datagrams", report.sent());
    assert_eq!(watched.refused(), [0, 0]);
    let sealed = watched.sealed();
    for keys in &sealed {
        assert!(keys.len() >= 5);
        assert!(keys.iter().all(|key| key.blocks <= limit), "{keys:?}");
        assert!(
            keys.iter().all(|key| key.highest < key.frames),
            "a counter was skipped, or used twice: {keys:?}"
        );
    }
    // At 7/8; what is on its way counts for the most it could be, so a little earlier too.
    let replaced = &sealed[0][..4];
    let due = |key: &Key| key.blocks >= limit / 4 * 3;
    assert!(replaced.iter().all(due), "not by its time: {replaced:?}");
}

/// What a download wears out are the Gateway's keys; it is the Workstation that has to notice.
#[test]
fn a_session_is_replaced_before_the_gateways_keys_are_used_up_by_a_download_alone() {
    let _turn = Serial::acquire().unwrap();
    let limit = 100_000;
    let mut watched = Watched::start("100000,,");
    let ws1 = Arc::clone(watched.rig().workstation.namespace());
    let gw = Arc::clone(watched.rig().gateway.namespace());
    let sink = ws1.run(|| Ok(UdpSocket::bind("0.0.0.0:9")?)).unwrap();
    sink.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let to = (watched.inner_address(), 9);
    let down = Datagrams::start(&gw, to, 1000, Duration::from_millis(1));
    let received = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let mut received = 0;
        while sink.recv(&mut buffer).is_ok() {
            received += 1;
        }
        received
    });
    watched.wait_for_rekeys(4);
    let sent = down.finish();
    assert_eq!(received.join().unwrap(), sent, "datagrams were lost");
    assert_eq!(watched.refused(), [0, 0]);
    let [ours, theirs] = watched.sealed();
    assert!(theirs.len() >= 5);
    assert!(theirs.iter().all(|key| key.blocks <= limit), "{theirs:?}");
    assert!(ours.iter().all(|key| key.blocks < limit / 10), "{ours:?}");
}

#[test]
fn at_the_limit_of_its_keys_a_session_seals_no_more_and_another_takes_its_place() {
    let _turn = Serial::acquire().unwrap();
    let limit = 2000;
    let size = 1400;
    let most = (size + 28_u64).div_ceil(16) + 1;
    let mut watched = Watched::start("2000,,");
    let ws1 = Arc::clone(watched.rig().workstation.namespace());
    let gw = Arc::clone(watched.rig().gateway.namespace());
    let address = watched.inner_address();
    let sides = [(&ws1, GATEWAY_V4), (&gw, address)];
    for (side, (host, to)) in sides.into_iter().enumerate() {
        let socket = socket(host);
        let datagram = vec![7; size as usize];
        let before = watched.refused()[side];
        // More at once than a rekey can be done in the midst of.
        wait_for("packets that are refused", WAIT, || {
            for _ in 0..200 {
                let _ = socket.send_to(&datagram, (to, 9));
            }
            (watched.refused()[side] > before).then_some(())
        })
        .unwrap();
        let refused = Instant::now();
        let recovered = wait_for("another session", WAIT, || {
            let rig = &watched.tapped.single;
            rig.workstation
                .reaches(Duration::from_millis(100))
                .then(|| refused.elapsed())
        })
        .unwrap();
        // The Workstation knows at once, and of the Gateway's end when it finds nobody answers.
        let least = [Duration::from_secs(1), Duration::from_secs(6)][side];
        assert!(recovered < least, "{recovered:?}");
    }
    let log = watched.tapped.single.workstation.log_tail();
    assert!(log.contains("may seal no more"), "{log}");
    for keys in &watched.sealed() {
        assert!(keys.iter().all(|key| key.blocks <= limit), "{keys:?}");
        let full = |key: &&Key| key.blocks > limit - most;
        assert!(keys.iter().any(|key| full(&key)), "{keys:?}");
        assert!(keys.iter().all(|key| key.highest < key.frames), "{keys:?}");
    }
}
