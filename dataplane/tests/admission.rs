//! Admission in the kernel: every verdict, and that it decides as `wire::decide` does on plain
//! memory. Frames are run through the loaded program by BPF_PROG_TEST_RUN.
//!
//! Needs root. Each test has a network namespace of its own.

mod netns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Instant;

use netns::{FAR_MAC, NEAR_MAC, Pair, attach_xdp, empty_xdp, run};
use portcullis_dataplane as dataplane;
use portcullis_dataplane::explain::{Captured, HEAD, explain};
use portcullis_dataplane::path::{Path, UdpPath};
use portcullis_dataplane::wall::{PortTables, Wall, test_run};
use siphasher::sip::SipHasher24;
use wire::header::session_index;
use wire::limits::{ETH_LEN, ETHERTYPE, HEADER_LEN, MAX_PAYLOAD, SECOND};
use wire::tables::{KnockEntry, SessionEntry};
use wire::{Admission, Encapsulation, Header, Role, Tables, Udp, Verdict, decide, kind};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const KEY: [u64; 2] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
const KNOCK_KEY: [u64; 2] = [0x9999_aaaa_bbbb_cccc, 0xdddd_eeee_ffff_0000];
const KEY_ID: u32 = 0x00c0_ffee;
const SLOT: u16 = 3;
const WORKSTATION: u32 = 2;

/// A port whose admission program is loaded and attached, with a socket for queue 0.
struct Gate {
    wall: Wall,
    role: Role,
    encapsulation: Encapsulation,
    _pair: Pair,
    _socket: OwnedFd,
}

impl Gate {
    fn new(role: Role) -> Self {
        Self::over(role, Encapsulation::Ether(ETHERTYPE))
    }

    fn over(role: Role, encapsulation: Encapsulation) -> Self {
        let pair = Pair::new();
        let mut config = pair.config();
        config.admission.role = role;
        config.admission.encapsulation = encapsulation;
        let wall = Wall::raise(&config).expect("the wall");
        // SAFETY: socket(2) makes a descriptor that nobody else knows.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "an AF_XDP socket");
            OwnedFd::from_raw_fd(fd)
        };
        wall.set_socket(0, socket.as_fd())
            .expect("the socket in the map");
        Self {
            wall,
            role,
            encapsulation,
            _pair: pair,
            _socket: socket,
        }
    }

    /// A Gateway's with one session and one key id installed.
    fn open(role: Role) -> Self {
        let gate = Self::new(role);
        let tables = gate.wall.tables();
        tables.set_limit(WORKSTATION, 64);
        assert!(tables.install_session(SLOT, &session()));
        tables.install_knock(KEY_ID, &knock()).expect("a knock");
        gate
    }

    /// The verdict of a frame, by the counters; and that the action agrees with it.
    fn verdict(&self, frame: &[u8]) -> Verdict {
        let before = self.wall.verdicts().expect("verdicts");
        let run = self.wall.try_admission(frame, 1).expect("a run");
        let after = self.wall.verdicts().expect("verdicts");
        let changed: Vec<Verdict> = Verdict::ALL
            .into_iter()
            .filter(|verdict| after[*verdict as usize] != before[*verdict as usize])
            .collect();
        let [verdict] = changed[..] else {
            panic!("one verdict for a frame, not {changed:?}");
        };
        assert_eq!(after[verdict as usize], before[verdict as usize] + 1);
        assert_eq!(run.answer, action_of(verdict), "{verdict:?}");
        verdict
    }

    fn mine(&self) -> [u64; Verdict::COUNT] {
        self.wall
            .workstation_verdicts(WORKSTATION)
            .expect("verdicts")
    }
}

fn action_of(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Admitted => XDP_REDIRECT,
        Verdict::Answered | Verdict::Passed => XDP_PASS,
        _ => XDP_DROP,
    }
}

fn session() -> SessionEntry {
    SessionEntry {
        index: session_index(SLOT, 0x8001),
        workstation: WORKSTATION,
        key: KEY,
        peer_mac: FAR_MAC,
        reserved: [0; 2],
    }
}

fn knock() -> KnockEntry {
    KnockEntry {
        key: KNOCK_KEY,
        workstation: WORKSTATION,
        ..KnockEntry::default()
    }
}

/// Ethernet header, Portcullis header, zeros.
fn build(destination: [u8; 6], source: [u8; 6], header: &Header) -> Vec<u8> {
    let mut frame = [&destination[..], &source, &ETHERTYPE.to_be_bytes()].concat();
    frame.extend(header.encode());
    frame.resize(ETH_LEN + header.frame_len(), 0);
    frame
}

fn data(counter: u64) -> Vec<u8> {
    data_of(100, counter)
}

fn data_of(length: usize, counter: u64) -> Vec<u8> {
    let mut header = Header::new(kind::DATA, length as u16, session().index, counter);
    header.tag = header.data_tag(KEY);
    build(NEAR_MAC, FAR_MAC, &header)
}

fn length_of(kind: u8) -> u16 {
    match kind {
        kind::INITIATION => 160,
        kind::RESPONSE => 128,
        _ => 32,
    }
}

/// A handshake frame with payload `fill`, and the tag over all of it.
fn handshake(kind: u8, key_id: u32, nonce: u64, source: [u8; 6], key: [u64; 2]) -> Vec<u8> {
    let mut header = Header::new(kind, length_of(kind), key_id, nonce);
    let payload = vec![nonce as u8 ^ 0x3c; usize::from(header.length)];
    header.tag = header.handshake_tag(key, &payload);
    let mut frame = build(NEAR_MAC, source, &header);
    frame.truncate(ETH_LEN + HEADER_LEN);
    frame.extend(payload);
    frame
}

fn hello(nonce: u64) -> Vec<u8> {
    handshake(kind::HELLO, KEY_ID, nonce, FAR_MAC, KNOCK_KEY)
}

fn initiation(nonce: u64) -> Vec<u8> {
    handshake(kind::INITIATION, KEY_ID, nonce, FAR_MAC, KNOCK_KEY)
}

#[test]
fn every_verdict_is_given_at_its_own_cause() {
    let gate = Gate::open(Role::Gateway);
    let with = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let good = data(5);
    for end in [14, 37] {
        assert_eq!(gate.verdict(&good[..end]), Verdict::Short, "{end} bytes");
    }
    for ethertype in [
        [0x08, 0x00],
        [0x08, 0x06],
        [0x86, 0xdd],
        [0x81, 0x00],
        [0x88, 0xb6],
    ] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&ethertype);
        assert_eq!(gate.verdict(&frame), Verdict::Foreign);
    }
    assert_eq!(gate.verdict(&with(&good, 14, 0x25)), Verdict::Malformed);
    assert_eq!(gate.verdict(&with(&good, 15, 1)), Verdict::Malformed);
    assert_eq!(gate.verdict(&with(&good, 26, 0x10)), Verdict::Malformed);
    assert_eq!(gate.verdict(&good[..good.len() - 1]), Verdict::Malformed);
    for kind in [kind::CHALLENGE, kind::RESPONSE, kind::RESET] {
        let other = handshake(kind, KEY_ID, 1, FAR_MAC, KNOCK_KEY);
        assert_eq!(gate.verdict(&other), Verdict::Malformed);
    }
    assert_eq!(gate.verdict(&with(&good, 5, 9)), Verdict::Misdirected);
    assert_eq!(gate.verdict(&with(&good, 11, 9)), Verdict::Misdirected);
    let mut everywhere = good.clone();
    everywhere[..6].fill(0xff);
    assert_eq!(gate.verdict(&everywhere), Verdict::Misdirected);
    assert_eq!(gate.verdict(&with(&good, 18, 4)), Verdict::UnknownSession);
    assert_eq!(gate.verdict(&with(&good, 19, 7)), Verdict::UnknownSession);
    assert_eq!(gate.verdict(&with(&good, 20, 0)), Verdict::UnknownSession);
    assert_eq!(gate.verdict(&with(&hello(1), 18, 0)), Verdict::UnknownKey);
    for at in 30..38 {
        assert_eq!(
            gate.verdict(&with(&good, at, good[at] ^ 1)),
            Verdict::BadTag
        );
    }
    assert_eq!(gate.verdict(&with(&hello(1), 40, 0)), Verdict::BadTag);

    assert_eq!(gate.verdict(&good), Verdict::Admitted);
    assert_eq!(gate.verdict(&good), Verdict::Replay);
    gate.wall.tables().set_floor(SLOT, 8);
    assert_eq!(gate.verdict(&data(7)), Verdict::Replay);
    assert_eq!(gate.verdict(&data(8)), Verdict::Admitted);

    let mut broadcast = hello(1);
    broadcast[..6].fill(0xff);
    assert_eq!(gate.verdict(&broadcast), Verdict::Admitted);
    assert_eq!(gate.verdict(&initiation(2)), Verdict::Admitted);
    assert_eq!(gate.verdict(&initiation(2)), Verdict::Replay);

    gate.wall.clear_socket(0).expect("no socket");
    assert_eq!(gate.verdict(&data(9)), Verdict::NoSocket);
    assert_eq!(gate.verdict(&hello(3)), Verdict::NoSocket);
    let mine = gate.mine();
    assert_eq!(mine[Verdict::Admitted as usize], 4);
    assert_eq!(mine[Verdict::NoSocket as usize], 2);
    assert_eq!(mine[Verdict::Replay as usize], 3);
    assert_eq!(
        mine[Verdict::Misdirected as usize],
        1,
        "only the one with a session"
    );
    assert_eq!(mine[Verdict::Foreign as usize], 0);
    gate.wall
        .clear_workstation_verdicts(WORKSTATION)
        .expect("cleared");
    assert_eq!(gate.mine(), [0; Verdict::COUNT]);
}

#[test]
fn a_frame_in_several_pieces_is_measured_whole() {
    let gate = Gate::open(Role::Gateway);
    // The first piece of a frame in a test run holds some 3500 bytes, each further one a page.
    for (counter, length) in (3400..3600)
        .chain([4096, 7600, 8000, 8960, MAX_PAYLOAD])
        .enumerate()
    {
        let frame = data_of(length, counter as u64);
        let short = &frame[..frame.len() - 1];
        assert_eq!(gate.verdict(short), Verdict::Malformed, "{length} bytes");
        let mut forged = frame.clone();
        forged[30] ^= 1;
        assert_eq!(gate.verdict(&forged), Verdict::BadTag, "{length} bytes");
        gate.wall.tables().reset_credit(WORKSTATION);
        assert_eq!(gate.verdict(&frame), Verdict::Admitted, "{length} bytes");
        assert_eq!(gate.verdict(&frame), Verdict::Replay, "{length} bytes");
    }
    let mut noise = data_of(8000, 0);
    noise[12] = 8;
    assert_eq!(gate.verdict(&noise), Verdict::Foreign);
}

#[test]
fn a_workstation_takes_only_answers_to_its_attempt_and_resets_once() {
    let gate = Gate::open(Role::Workstation);
    gate.wall.tables().set_expected_nonce(77);
    let answer = |kind, nonce| handshake(kind, KEY_ID, nonce, FAR_MAC, KNOCK_KEY);
    for kind in [kind::HELLO, kind::INITIATION] {
        assert_eq!(gate.verdict(&answer(kind, 77)), Verdict::Malformed);
    }
    for kind in [kind::CHALLENGE, kind::RESPONSE] {
        assert_eq!(gate.verdict(&answer(kind, 76)), Verdict::Replay);
        assert_eq!(gate.verdict(&answer(kind, 77)), Verdict::Admitted);
    }
    assert_eq!(gate.verdict(&answer(kind::RESPONSE, 77)), Verdict::Replay);
    let mut reset = answer(kind::RESET, 5);
    reset[..6].fill(0xff);
    assert_eq!(gate.verdict(&reset), Verdict::Admitted);
    assert_eq!(gate.verdict(&reset), Verdict::Replay);
    assert_eq!(gate.verdict(&data(0)), Verdict::Admitted);
}

#[test]
fn a_workstation_gets_its_credit_and_no_more() {
    let gate = Gate::open(Role::Gateway);
    let tables = gate.wall.tables();
    for counter in 0..64 {
        assert_eq!(gate.verdict(&data(counter)), Verdict::Admitted);
    }
    assert_eq!(gate.verdict(&data(64)), Verdict::QueueFull);
    assert_eq!(tables.admitted(WORKSTATION), 64);
    tables.set_consumed(WORKSTATION, 2);
    assert_eq!(gate.verdict(&data(65)), Verdict::Admitted);
    assert_eq!(gate.verdict(&data(66)), Verdict::Admitted);
    assert_eq!(gate.verdict(&data(67)), Verdict::QueueFull);
    tables.reset_credit(WORKSTATION);
    assert_eq!(gate.verdict(&data(68)), Verdict::Admitted);
    tables.set_limit(WORKSTATION, 0);
    assert_eq!(gate.verdict(&data(69)), Verdict::QueueFull);
}

#[test]
fn handshakes_are_admitted_at_the_rate_of_their_source_and_no_faster() {
    let gate = Gate::open(Role::Gateway);
    let count = |frame: &dyn Fn(u64) -> Vec<u8>, frames: u64, interval: u64| {
        let start = Instant::now();
        let admitted = (0..frames)
            .filter(|nonce| match gate.verdict(&frame(*nonce + 1)) {
                Verdict::Admitted => true,
                Verdict::RateLimited => false,
                other => panic!("{other:?}"),
            })
            .count() as u64;
        (admitted, start.elapsed().as_nanos() as u64 / interval + 1)
    };
    let (admitted, gained) = count(&hello, 60, SECOND / 5);
    assert!((10..=10 + gained).contains(&admitted), "{admitted} Hellos");
    let (admitted, gained) = count(&initiation, 40, SECOND / 2);
    assert!(
        (5..=5 + gained).contains(&admitted),
        "{admitted} Initiations"
    );
    // Another source has a bucket of its own, and all sources together have one as well.
    let of = |kind, source: u64| {
        let [a, b, ..] = source.to_le_bytes();
        handshake(kind, KEY_ID, 1000 + source, [2, 1, 1, 1, a, b], KNOCK_KEY)
    };
    let (admitted, gained) = count(&|source| of(kind::INITIATION, source), 60, SECOND / 20);
    assert!(
        (10..=20 + gained).contains(&admitted),
        "{admitted} Initiations of all sources"
    );
    let (admitted, gained) = count(&|source| of(kind::HELLO, source), 600, SECOND / 200);
    assert!(
        (180..=200 + gained).contains(&admitted),
        "{admitted} Hellos of all sources"
    );
}

#[test]
fn what_a_source_has_left_is_told_as_xdp_has_it() {
    let gate = Gate::open(Role::Gateway);
    let tables = gate.wall.tables();
    let port = Admission {
        role: Role::Gateway,
        mac: NEAR_MAC,
        encapsulation: Encapsulation::Ether(ETHERTYPE),
    };
    let told = |frame: &[u8]| {
        let captured = Captured::new(frame, frame.len());
        explain(&port, &captured, Some(tables.at(tables.now(), true))).verdict
    };
    let other = handshake(kind::INITIATION, KEY_ID, 99, NEAR_MAC, KNOCK_KEY);
    let admitted = (1..=6).filter(|nonce| {
        let (frame, before) = (initiation(*nonce), told(&initiation(*nonce)));
        let verdict = gate.verdict(&frame);
        // Half a second gives another: only near that the two may differ.
        assert_eq!(before, Some(verdict), "nonce {nonce}");
        verdict == Verdict::Admitted
    });
    assert_eq!(admitted.count(), 5);
    assert_eq!(told(&initiation(7)), Some(Verdict::RateLimited));
    assert_eq!(told(&other), Some(Verdict::Admitted));
    assert_eq!(told(&initiation(3)), Some(Verdict::Replay));
}

#[test]
fn a_slot_used_again_knows_nothing_of_its_former_session() {
    let gate = Gate::open(Role::Gateway);
    let tables = gate.wall.tables();
    assert_eq!(gate.verdict(&data(0)), Verdict::Admitted);
    assert_eq!(gate.verdict(&data(8192 * 3)), Verdict::Admitted);
    tables.remove_session(SLOT);
    assert_eq!(gate.verdict(&data(1)), Verdict::UnknownSession);
    // The former owner's last word comes late.
    tables.set_floor(SLOT, 8192 * 2);
    let next = SessionEntry {
        index: session_index(SLOT, 0x0007),
        ..session()
    };
    tables.install_session(SLOT, &next);
    assert_eq!(gate.verdict(&data(2)), Verdict::UnknownSession);
    for counter in [0, 1, 8192] {
        let mut header = Header::new(kind::DATA, 0, next.index, counter);
        header.tag = header.data_tag(KEY);
        let frame = build(NEAR_MAC, FAR_MAC, &header);
        assert_eq!(gate.verdict(&frame), Verdict::Admitted, "counter {counter}");
        assert_eq!(gate.verdict(&frame), Verdict::Replay, "counter {counter}");
    }
}

#[test]
fn slots_outside_the_tables_admit_nothing_and_change_nothing() {
    let gate = Gate::open(Role::Gateway);
    let tables = gate.wall.tables();
    let beyond = tables.session_slots() as u16;
    assert!(!tables.install_session(beyond, &session()));
    tables.remove_session(beyond);
    tables.set_floor(u16::MAX, 1);
    tables.set_consumed(u32::MAX, 1);
    tables.set_limit(8, 1);
    assert_eq!(tables.admitted(u32::MAX), 0);
    let lost = SessionEntry {
        workstation: 1 << 20,
        ..session()
    };
    tables.install_session(SLOT, &lost);
    assert_eq!(gate.verdict(&data(0)), Verdict::QueueFull);
    let mut header = Header::new(kind::DATA, 0, session_index(beyond, 1), 0);
    header.tag = header.data_tag(KEY);
    let frame = build(NEAR_MAC, FAR_MAC, &header);
    assert_eq!(gate.verdict(&frame), Verdict::UnknownSession);
}

#[test]
fn the_tag_in_xdp_is_siphash_of_the_siphasher_crate() {
    let gate = Gate::open(Role::Gateway);
    let tables = gate.wall.tables();
    tables.set_limit(WORKSTATION, 1 << 40);
    let mut random = Random(7);
    for counter in 0..3000u64 {
        let key = [random.next(), random.next()];
        let counter = counter << 20 | random.below(1 << 20);
        tables.install_session(SLOT, &SessionEntry { key, ..session() });
        let mut header = Header::new(
            kind::DATA,
            random.below(1400) as u16,
            session().index,
            counter,
        );
        let hash = SipHasher24::new_with_keys(key[0], key[1]);
        header.tag = hash.hash(&header.encode()[..16]);
        let frame = build(NEAR_MAC, FAR_MAC, &header);
        assert_eq!(
            gate.verdict(&frame),
            Verdict::Admitted,
            "{header:?} {key:?}"
        );

        tables
            .install_knock(KEY_ID, &KnockEntry { key, ..knock() })
            .expect("a knock");
        let kind = [kind::HELLO, kind::INITIATION][random.below(2) as usize];
        let mut frame = handshake(kind, KEY_ID, random.next(), random.mac(), key);
        for byte in &mut frame[ETH_LEN + HEADER_LEN..] {
            *byte = random.next() as u8;
        }
        let mut covered = frame[ETH_LEN..ETH_LEN + 16].to_vec();
        covered.extend(&frame[ETH_LEN + HEADER_LEN..]);
        frame[ETH_LEN + 16..ETH_LEN + 24].copy_from_slice(&hash.hash(&covered).to_le_bytes());
        assert_eq!(gate.verdict(&frame), Verdict::Admitted);
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

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn mac(&mut self) -> [u8; 6] {
        let [_, b, c, d, e, f, ..] = self.next().to_le_bytes();
        [2, b, c, d, e, f]
    }
}

/// What the sender of random frames knows of a session.
struct Peer {
    entry: SessionEntry,
    next: u64,
}

/// A port in the kernel and one in memory, to which the same is done.
struct Twins {
    gate: Gate,
    model: PortTables,
    random: Random,
    peers: Vec<Peer>,
    knocks: Vec<KnockEntry>,
    recent: Vec<Vec<u8>>,
    counts: [u64; Verdict::COUNT],
    mine: Vec<[u64; Verdict::COUNT]>,
    socket: bool,
}

const NONCE: u64 = 0xabcd;

impl Twins {
    fn new(role: Role, seed: u64) -> Self {
        Self::over(role, seed, Encapsulation::Ether(ETHERTYPE))
    }

    fn over(role: Role, seed: u64, encapsulation: Encapsulation) -> Self {
        let gate = Gate::over(role, encapsulation);
        let tables = gate.wall.tables();
        let model = PortTables::in_memory(tables.session_slots(), tables.workstation_slots());
        let mut random = Random(seed);
        let knocks = (0..4)
            .map(|workstation| KnockEntry {
                key: [random.next(), random.next()],
                workstation,
                ..KnockEntry::default()
            })
            .collect();
        let mut twins = Self {
            gate,
            model: model.expect("memory"),
            random,
            peers: Vec::new(),
            knocks,
            recent: Vec::new(),
            counts: [0; Verdict::COUNT],
            mine: vec![[0; Verdict::COUNT]; 8],
            socket: true,
        };
        twins.both(|tables| {
            tables.set_expected_nonce(NONCE);
            (0..8).for_each(|workstation| tables.set_limit(workstation, 16));
        });
        for slot in 0..12 {
            twins.install(slot);
        }
        twins.reknock();
        twins
    }

    fn both(&self, change: impl Fn(&PortTables)) {
        change(&self.gate.wall.tables());
        change(&self.model);
    }

    fn install(&mut self, slot: u16) {
        let random = &mut self.random;
        let entry = SessionEntry {
            index: session_index(slot, random.below(0xffff) as u16 + 1),
            workstation: random.below(8) as u32,
            key: [random.next(), random.next()],
            peer_mac: random.mac(),
            reserved: [0; 2],
        };
        // Some sessions start near the end of the counters.
        let next = if random.one_in(4) {
            (1 << 36) - random.below(100_000)
        } else {
            0
        };
        self.peers.retain(|peer| peer.entry.index as u16 != slot);
        self.peers.push(Peer { entry, next });
        self.both(|tables| assert!(tables.install_session(slot, &entry)));
    }

    /// Fresh knock entries, so that no bucket over all sources runs empty: what a bucket decides
    /// depends on the moment, and has a test of its own.
    fn reknock(&self) {
        for (key_id, knock) in self.knocks.iter().enumerate() {
            self.both(|tables| tables.install_knock(key_id as u32, knock).expect("a knock"));
        }
    }

    /// What userspace does to the tables now and then.
    fn disturb(&mut self, turn: u64) {
        if turn.is_multiple_of(200) {
            self.reknock();
        }
        if self.random.one_in(24) {
            let workstation = self.random.below(8) as u32;
            let admitted = self.model.admitted(workstation);
            // Ahead of what was admitted, now and then, as after a loss was reconciled.
            let ahead = self.random.below(4);
            self.both(|tables| tables.set_consumed(workstation, admitted + ahead));
        }
        if self.random.one_in(64) {
            let peer = self.random.below(self.peers.len() as u64) as usize;
            let (slot, next) = (self.peers[peer].entry.index as u16, self.peers[peer].next);
            let floor = next.saturating_sub(8191 - self.random.below(200));
            self.both(|tables| tables.set_floor(slot, floor));
        }
        if self.random.one_in(5000) {
            let slot = self.random.below(12) as u16;
            if self.random.one_in(2) {
                self.both(|tables| tables.remove_session(slot));
            } else {
                self.install(slot);
            }
        }
        if self.random.one_in(3000) {
            self.socket = !self.socket;
            let wall = &self.gate.wall;
            if self.socket {
                wall.set_socket(0, self.gate._socket.as_fd())
                    .expect("the socket");
            } else {
                wall.clear_socket(0).expect("no socket");
            }
        }
    }

    fn frame(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut frame = match random.below(8) {
            0 => {
                let mut noise = vec![0; 14 + random.below(300) as usize];
                noise.fill_with(|| random.next() as u8);
                if random.one_in(2) {
                    noise[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
                }
                noise
            }
            1 if !self.recent.is_empty() => {
                let at = random.below(self.recent.len() as u64) as usize;
                self.recent[at].clone()
            }
            2 => {
                let key_id = random.below(self.knocks.len() as u64 + 1) as u32;
                let known = self.knocks.get(key_id as usize);
                let key = known.map_or([0; 2], |knock| knock.key);
                let nonce = if random.one_in(2) {
                    NONCE
                } else {
                    random.next()
                };
                let kind = random.below(8) as u8;
                let source = random.mac();
                let mut frame = handshake(kind, key_id, nonce, source, key);
                if random.one_in(3) {
                    frame[..6].fill(0xff);
                }
                frame
            }
            _ => {
                let at = random.below(self.peers.len() as u64) as usize;
                let peer = &mut self.peers[at];
                let behind = if random.one_in(4) {
                    random.below(10_000)
                } else {
                    0
                };
                let counter = peer.next.saturating_sub(behind);
                peer.next += random.below(3) + random.below(9000) * u64::from(random.one_in(50));
                // Some do not fit the packet's first piece, nor a page.
                let most = if random.one_in(8) { 9300 } else { 600 };
                let length = random.below(most) as u16;
                let mut header = Header::new(kind::DATA, length, peer.entry.index, counter);
                header.tag = header.data_tag(peer.entry.key);
                build(NEAR_MAC, peer.entry.peer_mac, &header)
            }
        };
        if let Encapsulation::Udp(udp) = self.gate.encapsulation {
            frame = over_udp(random, &udp, &frame);
        }
        if random.one_in(3) {
            match random.below(4) {
                0 => frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize),
                1 => frame.resize(frame.len() + random.below(40) as usize, 0),
                _ => {
                    let most = match self.gate.encapsulation {
                        Encapsulation::Ether(_) => 60,
                        Encapsulation::Udp(_) => 110,
                    };
                    let at = random.below(frame.len().min(most) as u64) as usize;
                    frame[at] ^= 1 << random.below(8);
                    if random.one_in(2) {
                        mend_checksum(&mut frame);
                    }
                }
            }
        }
        if let Encapsulation::Udp(_) = self.gate.encapsulation {
            self.remember(&frame);
            return frame;
        }
        // A handshake's source is not covered by its tag. Always another, so that no source's
        // bucket decides.
        if frame.len() > 14 && frame[14] & 0xf != kind::DATA {
            frame[6..12].copy_from_slice(&random.mac());
        }
        self.remember(&frame);
        frame
    }

    fn remember(&mut self, frame: &[u8]) {
        if self.recent.len() < 64 {
            self.recent.push(frame.to_vec());
        } else {
            self.recent[self.random.below(64) as usize] = frame.to_vec();
        }
    }

    fn run(&mut self, frames: u64) {
        let port = Admission {
            role: self.gate.role,
            mac: NEAR_MAC,
            encapsulation: self.gate.encapsulation,
        };
        for turn in 0..frames {
            self.disturb(turn);
            let frame = self.frame();
            let now = self.model.now();
            // Asked first, of the kernel's own tables: what asking changed would show from here on.
            let kernel = self.gate.wall.tables();
            let captured = Captured::new(&frame[..frame.len().min(HEAD)], frame.len());
            let told = explain(&port, &captured, Some(kernel.at(now, self.socket)));
            let tables = self.model.at(now, self.socket);
            let (verdict, workstation) = decide(&port, &frame.as_slice(), &tables);
            assert_eq!((told.verdict, told.of), (Some(verdict), workstation));
            self.counts[verdict as usize] += 1;
            if let Some(workstation) = workstation {
                self.mine[workstation as usize][verdict as usize] += 1;
            }
            let run = self.gate.wall.try_admission(&frame, 1).expect("a run");
            let found = self.gate.wall.verdict(verdict).expect("verdicts");
            assert_eq!(
                found, self.counts[verdict as usize],
                "turn {turn}: memory says {verdict:?}, the kernel something else, of {frame:02x?}"
            );
            assert_eq!(run.answer, action_of(verdict));
        }
        let wall = &self.gate.wall;
        assert_eq!(wall.verdicts().expect("verdicts"), self.counts);
        for (workstation, mine) in self.mine.iter().enumerate() {
            let workstation = workstation as u32;
            let found = wall.workstation_verdicts(workstation).expect("verdicts");
            assert_eq!(found, *mine);
            let tables = wall.tables();
            assert_eq!(
                tables.admitted(workstation),
                self.model.admitted(workstation)
            );
        }
        for verdict in Verdict::ALL {
            let count = self.counts[verdict as usize];
            let never = match self.gate.encapsulation {
                Encapsulation::Ether(_) => matches!(
                    verdict,
                    Verdict::OuterMalformed | Verdict::Answered | Verdict::Passed
                ),
                Encapsulation::Udp(udp) if udp.shared => {
                    matches!(
                        verdict,
                        Verdict::Foreign | Verdict::Answered | Verdict::Short
                    )
                }
                Encapsulation::Udp(_) => verdict == Verdict::Passed,
            };
            assert!(!never || count == 0, "{count} frames were {verdict:?}");
            assert!(
                never || count > 50 || verdict == Verdict::RateLimited,
                "{count} frames were {verdict:?}: the frames are not varied enough"
            );
        }
    }
}

#[test]
fn the_kernel_decides_as_plain_memory_does_on_half_a_million_frames_at_a_gateway() {
    Twins::new(Role::Gateway, 1).run(500_000);
}

#[test]
fn the_kernel_decides_as_plain_memory_does_on_half_a_million_frames_at_a_workstation() {
    Twins::new(Role::Workstation, 2).run(500_000);
}

const PORT: u16 = 51888;

fn udp(shared: bool) -> Encapsulation {
    let v6 = "2001:db8::1".parse().expect("an address");
    Encapsulation::Udp(Udp::new(
        PORT,
        Some([192, 0, 2, 1].into()),
        Some(v6),
        shared,
    ))
}

/// The same frame, without its Ethernet header, in a datagram from anywhere, most of them right; or something else
/// that comes to such a port.
fn over_udp(random: &mut Random, udp: &Udp, frame: &[u8]) -> Vec<u8> {
    let v4 = random.one_in(2);
    let mut octets = udp.v6[0].to_le_bytes().to_vec();
    octets.extend(udp.v6[1].to_le_bytes());
    let own6 = <[u8; 16]>::try_from(octets).expect("sixteen bytes");
    let local: IpAddr = match v4 {
        true => Ipv4Addr::from(udp.v4).into(),
        false => Ipv6Addr::from(own6).into(),
    };
    if random.one_in(16) {
        return question(random, v4, local);
    }
    let remote: IpAddr = match v4 {
        true => Ipv4Addr::from(random.next() as u32).into(),
        false => Ipv6Addr::from(u128::from(random.next()) << 64 | 0x2000 << 112).into(),
    };
    let path = Path::Udp(UdpPath {
        next_hop: NEAR_MAC,
        local: SocketAddr::new(remote, random.next() as u16 | 1),
        remote: SocketAddr::new(local, if random.one_in(30) { 53 } else { udp.port }),
    });
    let mut out = vec![0; path.front()];
    out.extend(frame.get(ETH_LEN..).unwrap_or_default());
    path.write(&mut out, random.mac(), dataplane::path::Encapsulation::Udp);
    path.finish(&mut out);
    match random.below(40) {
        0 => out[..6].fill(0xff),
        1 => out[12..14].copy_from_slice(&[0x81, 0]),
        // Fragments, options, extension headers, another protocol, another address.
        2 => out[20] = random.next() as u8,
        3 => out[14] = 0x40 | random.below(16) as u8,
        4 => out[20..24].rotate_right(random.below(4) as usize),
        5 => out[if v4 { 23 } else { 20 }] = random.next() as u8,
        6 => out[if v4 { 33 } else { 53 }] ^= 1,
        7 => out[26] = [0, 127, 224, 255, 240][random.below(5) as usize],
        8 => {
            let at = path.front() - 8;
            out[at..at + 2].fill(0);
        }
        9 => {
            let at = path.front() - 2;
            out[at..at + 2].fill(0);
        }
        10 => {
            let (from, to) = if v4 { (30, 26) } else { (38, 22) };
            let length = if v4 { 4 } else { 16 };
            out.copy_within(from..from + length, to);
        }
        11 => out[22..38].fill(0),
        12 => out[22] = 0xff,
        _ => {}
    }
    if random.one_in(2) {
        mend_checksum(&mut out);
    }
    out
}

/// ARP's or IPv6's question for an address, or something like it.
fn question(random: &mut Random, v4: bool, own: IpAddr) -> Vec<u8> {
    let source = random.mac();
    let mut frame = match (v4, own) {
        (true, IpAddr::V4(own)) => {
            let mut frame = [
                &[0xff; 6][..],
                &source,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                &source,
            ]
            .concat();
            frame.extend([192, 0, 2, 77, 0, 0, 0, 0, 0, 0]);
            frame.extend(own.octets());
            frame
        }
        (_, IpAddr::V6(own)) => {
            let [.., a, b, c] = own.octets();
            let mut frame = [&[0x33, 0x33, 0xff, a, b, c][..], &source, &[0x86, 0xdd]].concat();
            frame.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
            frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
            frame.extend(own.octets());
            frame.extend([1, 1]);
            frame.extend(source);
            frame
        }
        _ => unreachable!(),
    };
    if random.one_in(3) {
        let at = random.below(frame.len() as u64) as usize;
        frame[at] ^= 1 << random.below(8);
    }
    frame
}

fn mend_checksum(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        frame[24..26].fill(0);
        let sum = dataplane::host::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn the_kernel_decides_over_udp_as_plain_memory_does_on_half_a_million_frames() {
    Twins::over(Role::Gateway, 3, udp(false)).run(500_000);
}

#[test]
fn the_kernel_decides_on_a_shared_port_as_plain_memory_does_on_half_a_million_frames() {
    Twins::over(Role::Gateway, 4, udp(true)).run(500_000);
}

#[test]
fn the_kernel_decides_over_udp_as_plain_memory_does_at_a_workstation() {
    Twins::over(Role::Workstation, 5, udp(true)).run(200_000);
}

/// Prints what a frame costs, by verdict. Figures depend on the machine; nothing is asserted.
#[test]
fn what_a_frame_costs() {
    const RUNS: u32 = 2_000_000;
    let gate = Gate::open(Role::Gateway);
    gate.wall.tables().set_limit(WORKSTATION, u64::MAX >> 1);
    // Attached like the one it is compared with: the kernel calls attached programs directly.
    let empty = empty_xdp();
    run("ip link add empty0 type veth peer name empty1");
    let _attached = attach_xdp(&empty, "empty0");
    let least = |run: &dyn Fn() -> u32| (0..5).map(|_| run()).min().unwrap_or_default();
    let cost = |frame: &[u8], runs: u32| {
        least(&|| {
            gate.wall
                .try_admission(frame, runs)
                .expect("a run")
                .nanoseconds
        })
    };
    let good = data(0);
    let nothing = least(&|| {
        let run = test_run(empty.as_fd(), &good, RUNS);
        run.expect("a run").nanoseconds
    });
    println!("empty program {nothing} ns; over it:");
    let mut foreign = good.clone();
    foreign[12] = 8;
    let mut unknown = good.clone();
    unknown[18] = 9;
    let long = data_of(8960, 0);
    let mut bad = good.clone();
    bad[30] ^= 1;
    gate.verdict(&good);
    for (name, frame) in [
        ("short", &good[..20]),
        ("foreign", &foreign),
        ("unknown_session", &unknown),
        ("bad_tag", &bad),
        ("replay", &good),
        ("malformed", &good[..100]),
        ("replay, 9014 B", &long),
    ] {
        let cost = cost(frame, RUNS);
        println!("{name:16} {:4} ns", cost as i64 - nothing as i64);
    }
    // A frame is admitted once, so repeating it measures a replay. Single runs cost more for being
    // single; what admission adds is their difference to single replays.
    let single = |frames: &dyn Fn(u64) -> Vec<u8>| {
        let mut costs: Vec<u32> = (1..20_000)
            .map(|at| {
                gate.wall
                    .try_admission(&frames(at), 1)
                    .expect("a run")
                    .nanoseconds
            })
            .collect();
        costs.sort_unstable();
        i64::from(costs[costs.len() / 2])
    };
    let (admitted, replay) = (single(&data), single(&|_| data(0)));
    let repeated = i64::from(cost(&good, RUNS)) - i64::from(nothing);
    println!("{:16} {:4} ns", "admitted", repeated + admitted - replay);
}
