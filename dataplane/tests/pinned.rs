//! Pinned and open ports in the kernel: that XDP and the egress guard decide as `wire::pinned` does on
//! plain memory, and that one kind of wall takes over from another between two frames.
//!
//! Needs root. Each test has network namespaces of its own.

mod netns;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netns::{FAR_MAC, NEAR_MAC, Pair, Tap, attach_xdp, empty_xdp, run};
use portcullis_dataplane::explain::{Captured, HEAD, explain_pinned};
use portcullis_dataplane::wall::{
    GuardHook, Keyless, KeylessConfig, KeylessWall, Pin, Wall, WallError, XdpRequest, links,
    pin_table, test_run,
};
use wire::PinnedVerdict;
use wire::limits::SECOND;
use wire::pinned::{MAX_PINS, PinKey, PinLimits, PinTables, answer, decide, may_leave};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;
const UNSPEC: u32 = u32::MAX;

/// Fast enough that no test is limited by it.
const UNLIMITED: u32 = 1_000_000_000;

fn own() -> Vec<IpAddr> {
    vec![
        Ipv4Addr::new(10, 9, 0, 1).into(),
        "fd09::1".parse().expect("an address"),
    ]
}

/// The far end of the pair, and as many more as asked for.
fn pins(count: u8, rate: u32) -> Vec<Pin> {
    let pin = |at: u8| Pin {
        mac: [2, 0, 0, 0, 0, 2 + at],
        addresses: vec![v4_of(at), v6_of(at)],
        rate,
    };
    (0..count).map(pin).collect()
}

fn v4_of(at: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, 2 + at).into()
}

fn v6_of(at: u8) -> IpAddr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2 + u16::from(at)).into()
}

fn config(pair: &Pair, keyless: Keyless) -> KeylessConfig {
    let tunnel = pair.config();
    KeylessConfig {
        interface: tunnel.interface,
        ifindex: tunnel.ifindex,
        mac: NEAR_MAC,
        pin_directory: tunnel.pin_directory,
        mode: XdpRequest::Auto,
        guard: GuardHook::Auto,
        keyless,
    }
}

fn pinned(pins: Vec<Pin>) -> Keyless {
    Keyless::Pinned { own: own(), pins }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A UDP datagram for port 9050, checksums left out.
fn datagram(to: ([u8; 6], IpAddr), from: ([u8; 6], IpAddr)) -> Vec<u8> {
    let payload = [0x9c, 0x40, 0x23, 0x5a, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let (ethertype, head): ([u8; 2], Vec<u8>) = match to.1 {
        IpAddr::V4(_) => ([8, 0], vec![0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0]),
        IpAddr::V6(_) => ([0x86, 0xdd], vec![0x60, 0, 0, 0, 0, 16, 17, 64]),
    };
    [
        &to.0[..],
        &from.0,
        &ethertype,
        &head,
        &octets(from.1),
        &octets(to.1),
        &payload,
    ]
    .concat()
}

fn arp_request(mac: [u8; 6], sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [
        &[0xff; 6][..],
        &mac,
        &head,
        &mac,
        &octets(sender),
        &[0; 6],
        &octets(target),
        &[0; 18],
    ]
    .concat()
}

fn solicitation(mac: [u8; 6], sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let target = octets(target);
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&target[13..]);
    [
        &[0x33, 0x33, 0xff, target[13], target[14], target[15]][..],
        &mac,
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
        &octets(sender),
        &group,
        &[135, 0, 0, 0, 0, 0, 0, 0],
        &target,
        &[1, 1],
        &mac,
    ]
    .concat()
}

/// The tables of the same pins in plain memory.
struct Model {
    keys: HashMap<PinKey, u32>,
    limits: RefCell<Vec<PinLimits>>,
    start: Instant,
}

impl Model {
    fn new(pins: &[Pin]) -> Self {
        let mut keys: HashMap<_, _> = own().into_iter().map(|at| (PinKey::own(at), 0)).collect();
        for (number, pin) in pins.iter().enumerate() {
            keys.insert(PinKey::mac(pin.mac), number as u32);
            for address in &pin.addresses {
                keys.insert(PinKey::pinned(pin.mac, *address), number as u32);
            }
        }
        Self {
            keys,
            limits: RefCell::new(pins.iter().map(Pin::limits).collect()),
            start: Instant::now(),
        }
    }
}

impl Model {
    fn now(&self) -> u64 {
        SECOND + self.start.elapsed().as_nanos() as u64
    }
}

impl PinTables for Model {
    fn pin(&self, key: &PinKey) -> Option<u32> {
        self.keys.get(key).copied()
    }

    fn may_send(&self, pin: u32) -> bool {
        self.limits.borrow_mut()[pin as usize].send(self.now())
    }

    fn may_ask(&self, pin: u32) -> bool {
        self.limits.borrow_mut()[pin as usize].ask(self.now())
    }
}

/// SplitMix64: the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> usize {
        (self.next() % limit) as usize
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// A frame that is right, or nearly, in either direction.
    fn frame(&mut self, count: u8) -> Vec<u8> {
        let near = self.below(2);
        let kind = self.below(8);
        let at = match kind {
            // One pin asks beyond its rate, however slow the machine.
            0 if self.one_in(2) => 0,
            _ => self.below(count.into()) as u8,
        };
        let (mac, own) = ([2, 0, 0, 0, 0, 2 + at], own()[near]);
        let address = [v4_of(at), v6_of(at)][near];
        let mut frame = match (kind, near) {
            (0, 0) => arp_request(mac, address, own),
            (0, _) => solicitation(mac, address, own),
            (1, _) => datagram((mac, address), (NEAR_MAC, own)),
            _ => datagram((NEAR_MAC, own), (mac, address)),
        };
        // TCP, echo, and what else may come or not.
        if frame[12..14] != [8, 6] && self.one_in(2) {
            let (next, transport) = [(23, 34), (20, 54)][near];
            let odd = self.next() as u8;
            let protocols = [1, 6, 17, 58, 0, 43, 44, 60, 51, 41, 135, odd];
            frame[next] = protocols[self.below(12)];
            frame[transport] =
                [0, 8, 128, 129, 133, 134, 135, 136, 137, 3, 68, odd][self.below(12)];
            frame[transport + 1] = 0;
        }
        if self.one_in(12) {
            frame[3 + near..6].fill(0xff);
        }
        for _ in 0..[0, 0, 0, 1, 1, 2, 4][self.below(7)] {
            let at = self.below(frame.len().min(90) as u64);
            frame[at] = match self.below(3) {
                0 => frame[at] ^ 1 << self.below(8),
                1 => self.next() as u8,
                _ => frame[self.below(frame.len() as u64)],
            };
        }
        if self.one_in(20) {
            frame.truncate(15 + self.below(frame.len() as u64 - 15));
        }
        if self.one_in(20) {
            frame.resize(frame.len() + self.below(200), self.next() as u8);
        }
        frame
    }
}

#[test]
fn the_kernel_decides_as_plain_memory_does_on_half_a_million_frames() {
    const PINS: u8 = 200;
    let pair = Pair::new();
    let pins = pins(PINS, UNLIMITED);
    let model = Model::new(&pins);
    let table = pin_table(&own(), &pins);
    let wall = KeylessWall::raise(&config(&pair, pinned(pins))).expect("the wall");
    let mut random = Random(7);
    let mut expected = [0u64; PinnedVerdict::COUNT];
    let mut of_pins = vec![[0u64; PinnedVerdict::COUNT]; PINS.into()];
    let (mut leave, mut enter, mut guarded_frames) = (0, 0, 0);
    for turn in 0..500_000u32 {
        let frame = random.frame(PINS);
        let (mut verdict, pin) = decide(NEAR_MAC, &&frame[..], &model);
        let captured = Captured::new(&frame[..frame.len().min(HEAD)], frame.len());
        let told = explain_pinned(NEAR_MAC, &captured, &table);
        assert_eq!(told.of, pin);
        match verdict {
            // What is left of a rate is not looked at.
            PinnedVerdict::RateLimited => assert_eq!(told.verdict, Some(PinnedVerdict::Answered)),
            _ => assert_eq!(told.verdict, Some(verdict), "{frame:02x?}"),
        }
        let run = wall.try_admission(&frame, 1).expect("a run");
        // The two clocks differ, and so may what is left of a pin's questions.
        if verdict == PinnedVerdict::RateLimited && run.answer == XDP_PASS {
            verdict = PinnedVerdict::Answered;
        } else if verdict == PinnedVerdict::Answered && run.answer == XDP_DROP {
            verdict = PinnedVerdict::RateLimited;
        }
        let action = match verdict {
            PinnedVerdict::Passed | PinnedVerdict::Answered => XDP_PASS,
            _ => XDP_DROP,
        };
        assert_eq!(run.answer, action, "{verdict:?} {frame:02x?}");
        expected[verdict as usize] += 1;
        if let Some(pin) = pin {
            of_pins[pin as usize][verdict as usize] += 1;
        }
        let leaves = may_leave(&&frame[..], &model);
        // A test run takes no packet that ends within its IP header.
        if frame.len() >= 54 {
            let mut answered = frame.clone();
            // Questions are all that is limited here.
            let action = match verdict {
                PinnedVerdict::Passed => UNSPEC,
                PinnedVerdict::Answered | PinnedVerdict::RateLimited => {
                    answer(NEAR_MAC, &mut &mut answered[..]).expect("an answer");
                    REDIRECT
                }
                _ => SHOT,
            };
            let (run, left) = wall.try_ingress_guard(&frame, 1).expect("a run");
            assert_eq!((run.answer, left), (action, answered), "{verdict:?}");
            enter += u64::from(action != SHOT);
            let guarded = wall.try_guard(&frame, 1).expect("a run").answer;
            assert_eq!(guarded, if leaves { UNSPEC } else { SHOT }, "{frame:02x?}");
            guarded_frames += 1;
            leave += u64::from(leaves);
        }
        if turn % 50_000 == 0 {
            assert_eq!(wall.counters().verdicts().expect("verdicts"), expected);
        }
    }
    assert_eq!(wall.counters().verdicts().expect("verdicts"), expected);
    for (pin, counts) in of_pins.iter().enumerate() {
        assert_eq!(
            wall.counters().pin_verdicts(pin as u32).expect("verdicts"),
            *counts
        );
    }
    assert_eq!(
        wall.counters().guard_drops().expect("drops"),
        guarded_frames - leave
    );
    let past_xdp = wall.counters().ingress_guard_drops().expect("drops");
    assert_eq!(past_xdp, guarded_frames - enter);
    println!("{expected:?}, {leave} may leave");
    for verdict in PinnedVerdict::ALL {
        let count = expected[verdict as usize];
        assert!(
            count > 50,
            "{count} frames were {verdict:?}: the frames are not varied enough"
        );
    }
    assert!(leave > 1000);
}

#[test]
fn a_pin_has_its_rate_and_no_more_and_another_pin_does_not_notice() {
    let pair = Pair::new();
    let wall = KeylessWall::raise(&config(&pair, pinned(pins(2, 2000)))).expect("the wall");
    let passed = |at: u8, frames: usize| {
        let mac = [2, 0, 0, 0, 0, 2 + at];
        let frame = datagram((NEAR_MAC, own()[0]), (mac, v4_of(at)));
        let start = Instant::now();
        let passed = (0..frames)
            .filter(|_| wall.try_admission(&frame, 1).expect("a run").answer == XDP_PASS)
            .count() as u128;
        (passed, start.elapsed().as_micros() / 500 + 1)
    };
    let (flood, gained) = passed(0, 5000);
    assert!((100..=100 + gained).contains(&flood), "{flood}, {gained}");
    assert_eq!(passed(1, 50).0, 50);
}

#[test]
fn more_pins_than_there_is_room_for_are_refused() {
    let pair = Pair::new();
    let pin = pins(1, 1).remove(0);
    let many = vec![pin; MAX_PINS as usize + 1];
    let refused = KeylessWall::raise(&config(&pair, pinned(many)));
    assert!(matches!(refused, Err(WallError::Size { .. })));
    assert!(links("near0", &pair.pins.0).expect("links")[0].is_none());
}

/// Sends what nobody may as fast as it can, and what the first pin may, until told to stop.
fn shout(pair: &Pair, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let sender = pair.far.within(|| Tap::on("far0"));
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let forged = datagram((NEAR_MAC, own()[0]), (FAR_MAC, v4_of(77)));
        let end = Instant::now() + Duration::from_secs(60);
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && Instant::now() < end {
            sent += u64::from(sender.send(&forged).is_ok());
            if sent.is_multiple_of(32) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        sent
    })
}

#[test]
fn one_kind_of_wall_takes_over_from_another_under_load_and_lets_no_forged_frame_pass() {
    let pair = Pair::new();
    Wall::raise(&pair.config()).expect("a wall");
    let first = links("near0", &pair.pins.0).expect("the links");
    pair.up();
    let seen = Tap::on("near0");
    let stop = Arc::<AtomicBool>::default();
    let flood = shout(&pair, &stop);
    for turn in 0..60u8 {
        let programs = match turn % 3 {
            0 => {
                let wall = Wall::raise(&pair.config()).expect("a tunnel's wall");
                wall.programs()
            }
            _ => {
                // Other pins each time.
                let wall = KeylessWall::raise(&config(&pair, pinned(pins(turn % 7 + 1, 1000))));
                wall.expect("a pinned wall").programs()
            }
        };
        let now = links("near0", &pair.pins.0).expect("the links");
        for (now, first) in now.iter().zip(first) {
            assert_eq!(now.expect("a link").id, first.expect("a link").id);
        }
        let running = now.map(|link| link.expect("a link").program);
        assert_eq!(running, programs.expect("the programs"));
    }
    // The wall stands without anybody who holds it.
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("it does not panic");
    assert!(sent > 1000);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(seen.drain().len(), 0, "of {sent} forged frames");

    KeylessWall::raise(&config(&pair, Keyless::Open)).expect("an open wall");
    let sender = pair.far.within(|| Tap::on("far0"));
    let forged = datagram((NEAR_MAC, own()[0]), (FAR_MAC, v4_of(77)));
    let end = Instant::now() + Duration::from_secs(5);
    while seen.drain().is_empty() {
        assert!(Instant::now() < end, "the tap sees what passes");
        sender.send(&forged).expect("sent");
    }
}

#[test]
fn the_guard_stands_on_clsact_too() {
    let pair = Pair::new();
    let mut config = config(&pair, pinned(pins(1, 1000)));
    config.guard = GuardHook::Clsact;
    let wall = KeylessWall::raise(&config).expect("the wall");
    pair.up();
    let far = pair.far.within(|| Tap::on("far0"));
    let before = wall.counters().guard_drops().expect("drops");
    let near = Tap::sending_on("near0");
    let good = datagram((FAR_MAC, v4_of(0)), (NEAR_MAC, own()[0]));
    let bad = datagram((FAR_MAC, v4_of(1)), (NEAR_MAC, own()[0]));
    for _ in 0..10 {
        near.send(&good).expect("sent");
        let _ = near.send(&bad);
    }
    let end = Instant::now() + Duration::from_secs(5);
    let mut arrived = Vec::new();
    while arrived.len() < 10 && Instant::now() < end {
        arrived.extend(far.drain());
    }
    assert_eq!(arrived.len(), 10);
    assert!(arrived.iter().all(|frame| *frame == good));
    assert!(wall.counters().guard_drops().expect("drops") >= before + 10);
}

/// Prints what a frame costs, by verdict. Figures depend on the machine; nothing is asserted.
#[test]
fn what_a_frame_costs() {
    const RUNS: u32 = 500_000;
    let pair = Pair::new();
    let wall = KeylessWall::raise(&config(&pair, pinned(pins(64, UNLIMITED)))).expect("the wall");
    let empty = empty_xdp();
    run("ip link add empty0 type veth peer name empty1");
    let _attached = attach_xdp(&empty, "empty0");
    let least = |run: &dyn Fn() -> u32| (0..5).map(|_| run()).min().unwrap_or_default();
    let four = datagram((NEAR_MAC, own()[0]), (FAR_MAC, v4_of(0)));
    let six = datagram((NEAR_MAC, own()[1]), (FAR_MAC, v6_of(0)));
    let nothing = least(&|| {
        let run = test_run(empty.as_fd(), &four, RUNS);
        run.expect("a run").nanoseconds
    });
    println!("empty program {nothing} ns; over it:");
    let unknown = datagram((NEAR_MAC, own()[0]), ([2, 9, 9, 9, 9, 9], v4_of(0)));
    let spoofed = datagram((NEAR_MAC, own()[0]), (FAR_MAC, v4_of(1)));
    let claim = arp_request(FAR_MAC, v4_of(1), own()[0]);
    let mut foreign = four.clone();
    foreign[12..14].copy_from_slice(&[0x81, 0]);
    for (name, frame) in [
        ("foreign", &foreign),
        ("unknown_mac", &unknown),
        ("spoofed_address", &spoofed),
        ("neighbour_claim", &claim),
        ("passed, IPv4", &four),
        ("passed, IPv6", &six),
    ] {
        let cost = least(&|| {
            let run = wall.try_admission(frame, RUNS);
            run.expect("a run").nanoseconds
        });
        println!("{name:16} {:4} ns", i64::from(cost) - i64::from(nothing));
    }
    // Over a frame that is none of theirs.
    let into = |frame: &[u8]| {
        least(&|| {
            let run = wall.try_ingress_guard(frame, RUNS);
            run.expect("a run").0.nanoseconds
        })
    };
    let out = |frame: &[u8]| {
        least(&|| {
            let run = wall.try_guard(frame, RUNS);
            run.expect("a run").nanoseconds
        })
    };
    let reply = datagram((FAR_MAC, v4_of(0)), (NEAR_MAC, own()[0]));
    let cost = i64::from(into(&four)) - i64::from(into(&foreign));
    println!("{:16} {cost:4} ns", "ingress guard");
    let cost = i64::from(out(&reply)) - i64::from(out(&foreign));
    println!("{:16} {cost:4} ns", "egress guard");
}
