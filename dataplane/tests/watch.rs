//! Samples of dropped frames, from the loaded program: what is sampled, and that neither a rate nor a
//! full ring changes what becomes of a frame.
//!
//! Needs root. Each test has a network namespace of its own.

mod netns;

use netns::{FAR_MAC, NEAR_MAC, Pair, attach_xdp, empty_xdp, run};
use portcullis_dataplane::wall::{
    GuardHook, Keyless, KeylessConfig, KeylessWall, Pin, Samples, Wall, Wanted, XdpRequest,
    test_run,
};
use std::os::fd::AsFd;
use wire::header::session_index;
use wire::limits::{ETH_LEN, ETHERTYPE, SECOND};
use wire::tables::SessionEntry;
use wire::watch::SNAPLEN;
use wire::{Header, PinnedVerdict, Tables, Verdict, kind};

const KEY: [u64; 2] = [1, 2];
const SLOT: u16 = 3;
const WORKSTATION: u32 = 2;
const XDP_DROP: u32 = 1;

struct Gate {
    wall: Wall,
    _pair: Pair,
}

impl Gate {
    fn new() -> Self {
        let pair = Pair::new();
        let wall = Wall::raise(&pair.config()).expect("the wall");
        let tables = wall.tables();
        tables.set_limit(WORKSTATION, 1 << 40);
        let session = SessionEntry {
            index: session_index(SLOT, 0x8001),
            workstation: WORKSTATION,
            key: KEY,
            peer_mac: FAR_MAC,
            reserved: [0; 2],
        };
        assert!(tables.install_session(SLOT, &session));
        Self { wall, _pair: pair }
    }

    fn drops(&self, frame: &[u8], times: u32) {
        let run = self.wall.try_admission(frame, times).expect("a run");
        assert_eq!(run.answer, XDP_DROP);
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.wall.verdict(verdict).expect("verdicts")
    }
}

fn data(counter: u64, length: u16) -> Vec<u8> {
    let mut header = Header::new(kind::DATA, length, session_index(SLOT, 0x8001), counter);
    header.tag = header.data_tag(KEY);
    let mut frame = [&NEAR_MAC[..], &FAR_MAC, &ETHERTYPE.to_be_bytes()].concat();
    frame.extend(header.encode());
    while frame.len() < ETH_LEN + header.frame_len() {
        frame.push(frame.len() as u8);
    }
    frame
}

fn with(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

fn all(rate: u32) -> Wanted {
    Wanted {
        verdicts: u64::MAX,
        only: None,
        rate,
    }
}

const NOTHING: Wanted = Wanted {
    verdicts: 0,
    only: None,
    rate: 1,
};

/// Verdict, Workstation, length and bytes of each sample that waits.
fn taken(samples: &Samples) -> Vec<(u32, Option<u32>, u32, Vec<u8>)> {
    let mut taken = Vec::new();
    samples.drain(usize::MAX, |dropped| {
        taken.push((
            dropped.verdict,
            dropped.of,
            dropped.length,
            dropped.bytes.to_vec(),
        ));
    });
    taken
}

#[test]
fn a_dropped_frame_is_sampled_whole_up_to_the_limit_and_only_while_somebody_watches() {
    let gate = Gate::new();
    let samples = gate.wall.samples();
    let good = data(5, 100);
    let bad = with(&good, 30, good[30] ^ 1);
    gate.drops(&bad, 10);
    assert_eq!(taken(&samples), []);
    samples.want(&all(100));
    let start = gate.wall.tables().now();
    let foreign = with(&good, 12, 8);
    let long = with(&data(6, 9000), 30, 0);
    gate.drops(&foreign, 1);
    gate.drops(&bad, 1);
    gate.drops(&long, 1);
    gate.drops(&good[..20], 1);
    let of = Some(WORKSTATION);
    let sample = |verdict: Verdict, of, frame: &[u8]| {
        let bytes = frame[..frame.len().min(SNAPLEN)].to_vec();
        (verdict as u32, of, frame.len() as u32, bytes)
    };
    assert_eq!(
        taken(&samples),
        [
            sample(Verdict::Foreign, None, &foreign),
            sample(Verdict::BadTag, of, &bad),
            sample(Verdict::BadTag, of, &long),
            sample(Verdict::Short, None, &good[..20]),
        ]
    );
    gate.drops(&bad, 1);
    let mut times = Vec::new();
    samples.drain(9, |dropped| times.push((dropped.time, dropped.queue)));
    assert_eq!(times.len(), 1);
    assert!((start..start + 600 * SECOND).contains(&times[0].0));
    samples.want(&NOTHING);
    gate.drops(&bad, 10);
    assert_eq!(taken(&samples), []);
}

#[test]
fn only_what_is_asked_for_is_sampled() {
    let gate = Gate::new();
    let samples = gate.wall.samples();
    let good = data(5, 100);
    let (foreign, bad) = (with(&good, 12, 8), with(&good, 30, good[30] ^ 1));
    let verdicts = |frames: u32| {
        gate.drops(&foreign, frames);
        gate.drops(&bad, frames);
        let all: Vec<u32> = taken(&samples).iter().map(|sample| sample.0).collect();
        all
    };
    samples.want(&Wanted {
        verdicts: 1 << Verdict::BadTag as u32,
        ..all(100)
    });
    assert_eq!(verdicts(2), [Verdict::BadTag as u32; 2]);
    samples.want(&Wanted {
        only: Some(WORKSTATION),
        ..all(100)
    });
    assert_eq!(verdicts(2), [Verdict::BadTag as u32; 2]);
    samples.want(&Wanted {
        only: Some(WORKSTATION + 1),
        ..all(100)
    });
    assert_eq!(verdicts(2), []);
}

#[test]
fn a_flood_is_sampled_at_the_rate_and_hides_no_other_verdict() {
    const FLOOD: u32 = 200_000;
    let gate = Gate::new();
    let samples = gate.wall.samples();
    let good = data(5, 100);
    let (foreign, bad) = (with(&good, 12, 8), with(&good, 30, good[30] ^ 1));
    samples.want(&all(10));
    let start = gate.wall.tables().now();
    gate.drops(&foreign, FLOOD);
    gate.drops(&bad, 1);
    let seconds = (gate.wall.tables().now() - start) / SECOND + 1;
    let all = taken(&samples);
    let of = |verdict: Verdict| all.iter().filter(|one| one.0 == verdict as u32).count() as u64;
    assert!(
        (10..=10 + 10 * seconds).contains(&of(Verdict::Foreign)),
        "{}",
        all.len()
    );
    assert_eq!(of(Verdict::BadTag), 1);
    assert_eq!(
        gate.count(Verdict::Foreign),
        u64::from(FLOOD),
        "each is counted all the same"
    );
}

#[test]
fn a_ring_that_nobody_reads_loses_samples_and_no_verdict() {
    const FRAMES: u32 = 20_000;
    let gate = Gate::new();
    let samples = gate.wall.samples();
    let bad = with(&data(5, 100), 30, 0);
    samples.want(&all(u32::MAX));
    gate.drops(&bad, FRAMES);
    assert_eq!(gate.count(Verdict::BadTag), u64::from(FRAMES));
    let kept = taken(&samples).len() as u64;
    assert!(kept > 100, "{kept}");
    assert_eq!(kept + samples.missed(), u64::from(FRAMES));
    // Once it is read there is room again.
    gate.drops(&bad, 3);
    assert_eq!(taken(&samples).len(), 3);
}

#[test]
fn a_pinned_port_gives_samples_too() {
    let pair = Pair::new();
    let tunnel = pair.config();
    let config = KeylessConfig {
        interface: tunnel.interface,
        ifindex: tunnel.ifindex,
        mac: NEAR_MAC,
        pin_directory: tunnel.pin_directory,
        mode: XdpRequest::Auto,
        guard: GuardHook::Auto,
        keyless: Keyless::Pinned {
            own: vec!["10.9.0.1".parse().expect("an address")],
            pins: vec![Pin {
                mac: FAR_MAC,
                addresses: vec!["10.9.0.2".parse().expect("an address")],
                rate: 1000,
            }],
        },
    };
    let wall = KeylessWall::raise(&config).expect("the wall");
    let samples = wall.counters().samples();
    samples.want(&all(100));
    let mut frame = [
        &NEAR_MAC[..],
        &FAR_MAC,
        &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0],
    ]
    .concat();
    frame.extend([10, 9, 0, 3, 10, 9, 0, 1, 1, 0, 0, 80, 0, 8, 0, 0]);
    wall.try_admission(&frame, 1).expect("a run");
    let spoofed = PinnedVerdict::SpoofedAddress as u32;
    assert_eq!(taken(&samples), [(spoofed, Some(0), 42, frame)]);
}

/// Prints what a dropped frame costs while nobody watches and while somebody does. Figures depend on
/// the machine; nothing is asserted.
#[test]
fn what_watching_costs() {
    const RUNS: u32 = 2_000_000;
    let gate = Gate::new();
    let samples = gate.wall.samples();
    let empty = empty_xdp();
    run("ip link add empty0 type veth peer name empty1");
    let _attached = attach_xdp(&empty, "empty0");
    let good = data(5, 100);
    let frames = [
        ("foreign", with(&good, 12, 8)),
        ("unknown_session", with(&good, 18, 9)),
        ("bad_tag", with(&good, 30, good[30] ^ 1)),
    ];
    let least = |run: &dyn Fn() -> u32| (0..7).map(|_| run()).min().unwrap_or_default();
    let nothing = least(&|| {
        test_run(empty.as_fd(), &good, RUNS)
            .expect("a run")
            .nanoseconds
    });
    let cost = |frame: &[u8]| {
        let cost = least(&|| {
            gate.wall
                .try_admission(frame, RUNS)
                .expect("a run")
                .nanoseconds
        });
        i64::from(cost) - i64::from(nothing)
    };
    let one = |frame: &[u8]| {
        samples.want(&NOTHING);
        let off = cost(frame);
        samples.want(&all(100));
        let on = cost(frame);
        taken(&samples);
        samples.want(&all(u32::MAX));
        let full = cost(frame);
        samples.want(&NOTHING);
        (off, on, full)
    };
    println!("over an empty program, in ns: nobody watches, at 100/s, without a limit and unread");
    for (name, frame) in &frames {
        let (off, on, full) = one(frame);
        println!("{name:16} {off:4} {on:4} {full:4}");
    }
}
