//! A machine is cloned, and both copies go on: with a counter that tells, no two different frames are
//! sealed with one nonce under GCM; under GCM-SIV, without one, nothing shows but that two frames are
//! the same. The copy is made at any comparison of the counter, where what is in memory is the same in
//! both, or at any time between two things that the world does.

mod bench;

use bench::*;
use dataplane::generation::GenerationCounter;
use dataplane::host::vnet::{self, VnetHeader};
use dataplane::keys::{Cipher, Protection};
use dataplane::port::memory::{FarEnd, Faults, MemoryConfig, MemoryPort};
use dataplane::session::pair_for_tests;
use dataplane::worker::{Command, Event};
use portcullis_dataplane as dataplane;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wire::limits::*;
use wire::{Header, Role};

/// A counter that changes before its `at`-th reading, or when it is told to. The far end does what it
/// was kept from as soon as the reading before is over.
struct Turning {
    readings: Arc<AtomicU64>,
    at: u64,
    told: Arc<AtomicBool>,
    far: FarEnd,
}

impl GenerationCounter for Turning {
    fn read(&self) -> u128 {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        if reading + 1 == self.at {
            // The copy is made right after this reading, and finds the world another one.
            self.far.set_faults(Faults::default());
        }
        1 + u128::from(reading >= self.at || self.told.load(Ordering::Relaxed))
    }
}

/// Frames by (session, counter).
type Sealed = BTreeMap<(u32, u64), Vec<Vec<u8>>>;

/// When the copy is made that a run is of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Made {
    /// It is the original.
    Never,
    /// At a reading of the counter.
    Reading(u64),
    /// Before something that the world does: an even number is a burst of packets, the next odd one
    /// the control message after it.
    Before(u64),
}

/// What the packets of the two copies are told apart by, after the copy was made.
const SAME: u8 = 1;

/// What the kernel says of a super-packet that is to be cut into datagrams of 60 bytes.
const SUPER: VnetHeader = VnetHeader {
    flags: vnet::FLAG_NEEDS_CHECKSUM,
    gso_type: vnet::GSO_UDP_L4,
    header_len: 28,
    gso_size: 60,
    checksum_start: 20,
    checksum_offset: 6,
};

/// The other end's index of a session.
const fn index(seed: u8) -> u32 {
    0x2_0000 + seed as u32
}

fn collect(sealed: &mut Sealed, frames: Vec<Vec<u8>>) {
    for frame in frames {
        let body = frame[ETH_LEN..].to_vec();
        let header = Header::decode(&body).unwrap();
        let nonce = (header.index, header.counter);
        sealed.entry(nonce).or_default().push(body);
    }
}

fn ping(bench: &mut Bench, seed: u8, content: u8) {
    let message = [vec![3, 0, 0, 0, 0, 0, 0, 0], vec![content; 16]].concat();
    let index = index(seed);
    bench.give(Command::SendInner { index, message });
}

/// Runs `bursts` of packets, single ones and super-packets, each with a control message behind it; a
/// rekey after half of them. What the world does after the copy was made carries `mark`. Gives what was
/// sealed, and how often the counter was read, where it is watched.
fn run(cipher: Cipher, bursts: &[usize], made: Made, watches: bool, mark: u8) -> (Sealed, u64) {
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    let mut bench = bench_on(Role::Workstation, 1, port, far);
    let (readings, told): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
    let at = match made {
        Made::Reading(at) => at,
        _ => u64::MAX,
    };
    if watches {
        let counter = Turning {
            readings: Arc::clone(&readings),
            at,
            told: Arc::clone(&told),
            far: bench.far.clone(),
        };
        bench.give(Command::Watch(Box::new(counter), 1));
    }
    let install = |bench: &mut Bench, seed: u8| {
        let indexes = (0x1_0000 + u32::from(seed), index(seed));
        let (_, install) = pair_for_tests(seed, cipher, Protection::Encrypt, indexes);
        bench.give(Command::Install(Box::new(install)));
    };
    install(&mut bench, 1);
    let mut sealed = Sealed::new();
    let mut renewed = false;
    for (burst, packets) in bursts.iter().enumerate() {
        // Once the copy is made the world around it is another one.
        let content = |number: u64| {
            told.fetch_or(made == Made::Before(number), Ordering::Relaxed);
            match told.load(Ordering::Relaxed) || readings.load(Ordering::Relaxed) > at {
                true => mark,
                false => SAME,
            }
        };
        let now = content(burst as u64 * 2);
        for packet_at in 0..*packets {
            let data = [now, burst as u8, packet_at as u8].repeat(20);
            let packet = packet(WS, TOR, &data);
            bench.worker.host().push(VnetHeader::default(), &packet);
        }
        if *packets > 60 {
            let data = [now, burst as u8, 0xff].repeat(20 * packets);
            bench.worker.host().push(SUPER, &packet(WS, TOR, &data));
        }
        bench.settle();
        let now = content(burst as u64 * 2 + 1);
        (1..=3).for_each(|seed| ping(&mut bench, seed, now));
        let turned = watches && content(u64::MAX) == mark;
        if turned && !renewed {
            renewed = true;
            let events = bench.events();
            let is_told = events.iter().any(|e| matches!(e, Event::RolledBack));
            assert!(is_told, "control is told");
            // Control may have had another session's keys on the way to the worker.
            install(&mut bench, 2);
            if packets % 2 == 0 {
                let packet = packet(WS, TOR, &[mark; 60]);
                bench.worker.host().push(VnetHeader::default(), &packet);
                bench.settle();
            }
            bench.give(Command::Generation(2));
            ping(&mut bench, 2, mark);
            install(&mut bench, 3);
        }
        if burst == bursts.len() / 2 && !turned {
            install(&mut bench, 2);
        }
        collect(&mut sealed, bench.sent());
    }
    (sealed, readings.load(Ordering::Relaxed))
}

/// Pairs of different frames under one nonce.
fn clashes(one: &Sealed, other: &Sealed) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all: HashMap<(u32, u64), Vec<Vec<u8>>> = HashMap::new();
    for (nonce, frames) in one.iter().chain(other) {
        all.entry(*nonce).or_default().extend(frames.clone());
    }
    let mut found = Vec::new();
    for frames in all.values() {
        for frame in &frames[1..] {
            if *frame != frames[0] {
                found.push((frames[0].clone(), frame.clone()));
            }
        }
    }
    found
}

fn bursts() -> impl Strategy<Value = Vec<usize>> {
    // More than a batch at once, too: it is compared for each batch.
    prop::collection::vec(prop_oneof![1usize..4, 60usize..140], 2..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn with_a_generation_counter_no_two_different_frames_share_a_nonce(
        bursts in bursts(), at: prop::sample::Index,
    ) {
        for cipher in Cipher::ALL {
            let (first, readings) = run(cipher, &bursts, Made::Never, true, 2);
            let between = 2 * bursts.len();
            let made = match at.index(between + readings as usize) {
                at if at < between => Made::Before(at as u64),
                at => Made::Reading((at - between) as u64),
            };
            let (second, _) = run(cipher, &bursts, made, true, 3);
            prop_assert!(clashes(&first, &second).is_empty(), "{:?}", made);
            // Nor does the copy seal anything but what the original did, until it has new keys.
            for (nonce, frames) in &second {
                if nonce.0 & 0xffff != 3 {
                    prop_assert_eq!(first.get(nonce), Some(frames));
                }
            }
        }
    }

    /// That the model can find a clash; and what one shows.
    #[test]
    fn without_one_gcm_gives_two_plaintexts_away_and_siv_only_whether_they_are_equal(
        bursts in bursts(), at: prop::sample::Index,
    ) {
        let made = Made::Before(at.index(2 * bursts.len()) as u64);
        for cipher in Cipher::ALL {
            let went = |mark| run(cipher, &bursts, made, false, mark).0;
            let (first, second) = (went(2), went(3));
            let found = clashes(&first, &second);
            prop_assert!(!found.is_empty(), "the copies differ, and so do their frames");
            for (one, other) in &found {
                let (one, other) = (&one[HEADER_LEN..], &other[HEADER_LEN..]);
                // The marks: every third byte behind IPv4 and UDP, or the second half of a PING.
                let marks = match one.len() {
                    100.. => (28..88).step_by(3),
                    _ => (8..24).step_by(1),
                };
                let shown: Vec<u8> = marks.map(|at| one[at] ^ other[at]).collect();
                let leaks = shown.iter().all(|byte| *byte == 2 ^ 3);
                prop_assert_eq!(leaks, cipher != Cipher::Aes256GcmSiv);
            }
            // The same packets under the same nonce are the same frames: that is what SIV shows.
            prop_assert!(clashes(&first, &went(2)).is_empty());
        }
    }
}

/// Whether there is a frame for a control message depends on the kernel, which may give one to one copy
/// only.
#[test]
fn a_copy_that_has_a_frame_for_a_control_message_where_the_other_has_none_shares_no_nonce_with_it()
{
    const NEVER: u64 = u64::MAX;
    let run = |turns: u64, mark: u8| {
        let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
        let mut bench = bench_on(Role::Workstation, 1, port, far);
        let readings: Arc<AtomicU64> = Arc::default();
        let counter = Turning {
            readings: Arc::clone(&readings),
            at: turns,
            told: Arc::default(),
            far: bench.far.clone(),
        };
        bench.give(Command::Watch(Box::new(counter), 1));
        let indexes = (0x1_0001, index(1));
        let (_, install) = pair_for_tests(1, Cipher::Aes256Gcm, Protection::Encrypt, indexes);
        bench.give(Command::Install(Box::new(install)));
        let push = |bench: &mut Bench, content: u8| {
            let packet = packet(WS, TOR, &[content; 60]);
            bench.worker.host().push(VnetHeader::default(), &packet);
        };
        bench.far.set_faults(Faults {
            completions_held: true,
            ..Faults::default()
        });
        let mut sent = Vec::new();
        for _ in 0..70 {
            (0..64).for_each(|_| push(&mut bench, SAME));
            bench.settle();
            sent.extend(bench.sent());
        }
        assert!(turns < NEVER || bench.counters[0].tx_full.get() > 0);
        ping(&mut bench, 1, SAME);
        bench.far.set_faults(Faults::default());
        push(&mut bench, mark);
        bench.settle();
        sent.extend(bench.sent());
        let mut sealed = Sealed::new();
        collect(&mut sealed, sent);
        (sealed, readings.load(Ordering::Relaxed))
    };
    let (first, readings) = run(NEVER, 2);
    for at in 0..readings {
        assert!(clashes(&first, &run(at, 3).0).is_empty(), "reading {at}");
    }
}
