//! The worker loop over rings, tables and a host interface in memory: no kernel, no root.

use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::counters::{PeerCounters, WorkerCounters};
use dataplane::engine::Engine;
use dataplane::host::memory::MemoryHost;
use dataplane::host::vnet::VnetHeader;
use dataplane::keys::{Cipher, Protection};
use dataplane::port::Port;
use dataplane::port::memory::{FarEnd, MemoryConfig, MemoryPort};
use dataplane::session::{Install, Session, pair_for_tests};
use dataplane::wall::PortTables;
use dataplane::worker::{Command, Event, PeerSetup, PortSetup, Worker, WorkerConfig};
use etherparse::PacketBuilder;
use portcullis_dataplane as dataplane;
use proptest::prelude::*;
use std::sync::Arc;
use wire::limits::*;
use wire::{Admission, Header, Role, Verdict};

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const WORKSTATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SECOND: u64 = 1_000_000_000;

/// A worker with one port, and the test's ends of everything it is joined to.
struct Bench {
    worker: Worker<MemoryPort, MemoryHost>,
    commands: Sender<Command<MemoryPort>>,
    events: Receiver<Event>,
    far: FarEnd,
    tables: Arc<PortTables>,
    counters: Vec<Arc<PeerCounters>>,
    now: u64,
}

fn bench_on(role: Role, peers: u32, port: MemoryPort, far: FarEnd) -> Bench {
    let (commands, receiver) = unbounded();
    let (sender, events) = unbounded();
    let tables = Arc::new(PortTables::in_memory(64, 16).unwrap());
    let config = WorkerConfig {
        role,
        engine: Engine::Auto,
    };
    let worker = Worker::new(
        config,
        MemoryHost::new(),
        receiver,
        sender,
        Arc::new(WorkerCounters::default()),
    );
    let counters: Vec<Arc<PeerCounters>> = (0..peers).map(|_| Arc::default()).collect();
    let mac = if role == Role::Gateway {
        GATEWAY_MAC
    } else {
        WORKSTATION_MAC
    };
    let setup = PortSetup {
        id: 0,
        io: port,
        tables: Arc::clone(&tables),
        mac,
        ethertype: ETHERTYPE,
    };
    commands.send(Command::AddPort(Box::new(setup))).unwrap();
    for (id, counters) in counters.iter().enumerate() {
        let prefixes = match role {
            Role::Gateway => vec![format!("10.0.0.{}/32", id + 1).parse().unwrap()],
            Role::Workstation => vec!["0.0.0.0/0".parse().unwrap()],
        };
        let setup = PeerSetup {
            id: id as u32,
            prefixes,
            counters: Arc::clone(counters),
        };
        commands.send(Command::AddPeer(Box::new(setup))).unwrap();
        tables.set_limit(id as u32, 256);
    }
    let mut bench = Bench {
        worker,
        commands,
        events,
        far,
        tables,
        counters,
        now: SECOND,
    };
    bench.settle();
    bench
}

fn bench(peers: u32) -> Bench {
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    bench_on(Role::Gateway, peers, port, far)
}

/// The Workstation's end of a session with a bench.
struct Remote(Session);

impl Remote {
    /// A frame as the cable carries it.
    fn frame(&mut self, payload: &[u8], now: u64) -> Vec<u8> {
        let mut frame = vec![0; ETH_LEN + OVERHEAD + payload.len()];
        frame[..6].copy_from_slice(&GATEWAY_MAC);
        frame[6..12].copy_from_slice(&WORKSTATION_MAC);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[ETH_LEN + HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        self.0
            .seal(&mut frame[ETH_LEN..], payload.len(), now)
            .unwrap();
        frame
    }

    /// The payload of a frame from the bench.
    fn open(&mut self, frame: &[u8], now: u64) -> Vec<u8> {
        let mut body = frame[ETH_LEN..].to_vec();
        let header = Header::decode(&body).unwrap();
        self.0.open(&header, &mut body, now).unwrap().to_vec()
    }
}

impl Bench {
    /// Rounds until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.worker.step(self.now) {
                break;
            }
        }
        if let Some(port) = self.worker.port(0) {
            let census = port.statistics().frames;
            assert_eq!(census.total(), 6144, "frames are conserved: {census:?}");
        }
    }

    /// Installs a session for a Workstation, pending; `seed` tells sessions apart.
    fn session(&mut self, workstation: u32, seed: u8) -> Remote {
        let (mut gateway, mut far) = pair_for_tests(
            seed,
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            ((7 << 16) | u32::from(seed), 9),
        );
        gateway.workstation = workstation;
        far.peer_mac = GATEWAY_MAC;
        self.give(Command::Install(Box::new(gateway)));
        Remote(Session::new(&far, Engine::AesGcm, self.now).unwrap())
    }

    fn give(&mut self, command: Command<MemoryPort>) {
        self.commands.send(command).unwrap();
        self.settle();
    }

    fn inject(&mut self, frame: &[u8]) {
        assert!(self.far.inject(frame));
        self.settle();
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.far
            .take(usize::MAX, |frame| frames.push(frame.to_vec()));
        frames
    }

    fn written(&mut self) -> Vec<Vec<u8>> {
        let written = self
            .worker
            .host()
            .written()
            .iter()
            .map(|packet| packet[10..].to_vec())
            .collect();
        self.worker.host().clear();
        written
    }

    fn events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Lets XDP's own decision stand before the ring.
    fn admit(&self, now: u64) {
        let tables = Arc::clone(&self.tables);
        let port = Admission {
            role: Role::Gateway,
            mac: GATEWAY_MAC,
            ethertype: ETHERTYPE,
        };
        self.far.set_admission(Box::new(move |frame| {
            wire::decide(&port, &frame, &tables.at(now, true)).0 == Verdict::Admitted
        }));
    }
}

fn packet(source: [u8; 4], destination: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, 64)
        .udp(1000, 2000)
        .write(&mut bytes, data)
        .unwrap();
    bytes
}

const WS: [u8; 4] = [10, 0, 0, 1];
const OTHER: [u8; 4] = [10, 0, 0, 2];
const TOR: [u8; 4] = [10, 0, 0, 254];

#[test]
fn a_packet_travels_from_the_ring_to_the_host_and_back() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    for size in 0..1400 {
        let up = packet(WS, TOR, &vec![7; size]);
        let frame = ws.frame(&up, bench.now);
        bench.inject(&frame);
        assert_eq!(bench.written(), [up]);

        let down = packet(TOR, WS, &vec![9; size]);
        bench.worker.host().push(VnetHeader::default(), &down);
        bench.settle();
        let sent = bench.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0][..6], WORKSTATION_MAC);
        assert_eq!(ws.open(&sent[0], bench.now), down);
    }
    assert_eq!(bench.counters[0].opened.get(), 1400);
    assert_eq!(bench.counters[1].opened.get(), 0);
}

#[test]
fn the_first_frame_under_the_pending_session_makes_it_current_and_control_is_told_once() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench
        .worker
        .host()
        .push(VnetHeader::default(), &packet(TOR, WS, b"early"));
    bench.settle();
    assert_eq!(
        bench.sent().len(),
        0,
        "the Gateway never sends under a pending session"
    );
    assert_eq!(bench.counters[0].no_session.get(), 1);
    for _ in 0..3 {
        let frame = ws.frame(&packet(WS, TOR, b"proof"), bench.now);
        bench.inject(&frame);
    }
    let confirmed = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Confirmed { workstation: 0, .. }));
    assert_eq!(confirmed.count(), 1);
}

/// A rekey in mid-stream: frames sealed under the old session before and after the switch arrive.
#[test]
fn a_rekey_loses_no_frame_on_either_side_of_the_switch() {
    let mut bench = bench(1);
    let mut old = bench.session(0, 1);
    let mut frames: Vec<_> = (0..20)
        .map(|n| old.frame(&packet(WS, TOR, &[n]), bench.now))
        .collect();
    bench.inject(&frames.remove(0));
    let mut new = bench.session(0, 2);
    bench.inject(&frames.remove(0));
    let first = new.frame(&packet(WS, TOR, &[100]), bench.now);
    bench.inject(&first);
    for frame in &frames {
        bench.inject(frame);
    }
    assert_eq!(bench.written().len(), 21);
    bench
        .worker
        .host()
        .push(VnetHeader::default(), &packet(TOR, WS, b"down"));
    bench.settle();
    assert_eq!(
        new.open(&bench.sent()[0], bench.now),
        packet(TOR, WS, b"down")
    );
}

#[test]
fn a_packet_with_anothers_source_address_is_dropped_and_counted() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(OTHER, TOR, b"not mine"), bench.now);
    bench.inject(&frame);
    let frame = ws.frame(&packet([8, 8, 8, 8], TOR, b"nobody's"), bench.now);
    bench.inject(&frame);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_source.get(), 2);
}

#[test]
fn a_packet_for_another_workstation_is_dropped_and_counted() {
    let mut bench = bench(2);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, OTHER, b"hello neighbour"), bench.now);
    bench.inject(&frame);
    assert!(bench.written().is_empty());
    assert_eq!(bench.counters[0].inner_destination.get(), 1);
}

#[test]
fn forged_and_repeated_frames_are_counted_apart_and_written_nowhere() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, TOR, b"once"), bench.now);
    let mut forged = ws.frame(&packet(WS, TOR, b"copied header"), bench.now);
    *forged.last_mut().unwrap() ^= 1;
    bench.inject(&forged);
    assert_eq!(
        bench
            .events()
            .iter()
            .filter(|event| matches!(event, Event::Confirmed { .. }))
            .count(),
        0
    );
    bench.inject(&frame);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
    let counters = &bench.counters[0];
    assert_eq!(
        (
            counters.opened.get(),
            counters.open_failed.get(),
            counters.replayed.get()
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_ping_is_answered_on_its_session_at_most_ten_times_a_second() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let mut ping = [0u8; 24];
    ping[0] = 3;
    ping[8..].copy_from_slice(&[0xaa; 16]);
    for _ in 0..30 {
        let frame = ws.frame(&ping, bench.now);
        bench.inject(&frame);
    }
    let sent = bench.sent();
    assert_eq!(sent.len(), 10);
    ping[0] = 4;
    assert_eq!(ws.open(&sent[0], bench.now), ping);
    assert_eq!(bench.counters[0].control_refused.get(), 20);
    assert!(bench.written().is_empty());
}

#[test]
fn a_rekey_message_reaches_control_and_other_control_messages_are_refused() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let mut init = [0u8; 144];
    init[0] = 1;
    for (message, taken) in [
        (&init[..], true),
        (&init[..143], false),
        (&[2u8; 144][..], false),
        (&[9u8; 24][..], false),
    ] {
        bench.events();
        let frame = ws.frame(message, bench.now);
        bench.inject(&frame);
        let reported = bench
            .events()
            .iter()
            .any(|event| matches!(event, Event::Inner { message, .. } if message == &init));
        assert_eq!(reported, taken);
    }
    assert_eq!(bench.counters[0].control_refused.get(), 3);
}

#[test]
fn an_erased_session_is_gone_from_xdp_and_worker_before_it_is_acknowledged() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    let first = ws.frame(&packet(WS, TOR, b"before"), bench.now);
    bench.inject(&first);
    bench.events();
    bench.give(Command::Erase((7 << 16) | 1));
    assert!(matches!(bench.events()[..], [Event::Erased(index)] if index == (7 << 16) | 1));
    let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
    assert!(!bench.far.inject(&frame), "XDP knows the session no more");
    assert_eq!(bench.written().len(), 1);
}

/// Property 8, the worker's part.
#[test]
fn a_removed_workstation_loses_every_session_before_it_is_acknowledged() {
    let mut bench = bench(2);
    let (mut old, mut new) = (bench.session(0, 1), bench.session(0, 2));
    let mut other = bench.session(1, 3);
    bench.admit(bench.now);
    bench.events();
    bench.give(Command::RemovePeer(0));
    let events = bench.events();
    assert!(matches!(events.last(), Some(Event::PeerRemoved(0))));
    for ws in [&mut old, &mut new] {
        let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
        assert!(!bench.far.inject(&frame));
    }
    let frame = other.frame(&packet(OTHER, TOR, b"untouched"), bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
}

/// A slot that is used again starts clean, whatever its former session left in XDP's tables.
#[test]
fn a_slot_used_again_admits_counters_from_zero() {
    let mut bench = bench(1);
    for generation in 1..6u32 {
        let (mut gateway, mut far) = pair_for_tests(
            generation as u8,
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            ((generation << 16) | 5, 9),
        );
        gateway.workstation = 0;
        far.peer_mac = GATEWAY_MAC;
        bench.give(Command::Install(Box::new(gateway)));
        bench.admit(bench.now);
        let mut ws = Remote(Session::new(&far, Engine::AesGcm, bench.now).unwrap());
        for n in 0..9000u32 {
            let frame = ws.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now);
            assert!(
                bench.far.inject(&frame),
                "generation {generation}, frame {n}"
            );
            if n % 50 == 49 {
                bench.settle();
            }
        }
        bench.settle();
        bench.worker.host().clear();
        bench.give(Command::Erase((generation << 16) | 5));
        // A floor published late by the former session.
        bench.tables.set_floor(5, 1 << 30);
    }
    assert_eq!(bench.counters[0].opened.get(), 5 * 9000);
}

/// Two Workstations flood; the third's few frames are all served in the first round.
#[test]
fn two_floods_do_not_delay_a_third_workstations_frames() {
    let mut bench = bench(3);
    let mut all: Vec<Remote> = (0..3).map(|id| bench.session(id, id as u8 + 1)).collect();
    bench.admit(bench.now);
    let addresses = [WS, OTHER, [10, 0, 0, 3]];
    let mut admitted = [0; 3];
    for n in 0..2000 {
        for flooder in [0, 1] {
            let frame = all[flooder].frame(&packet(addresses[flooder], TOR, &[0; 1300]), bench.now);
            admitted[flooder] += usize::from(bench.far.inject(&frame));
        }
        if n % 200 == 0 {
            let frame = all[2].frame(&packet(addresses[2], TOR, &[n as u8; 100]), bench.now);
            admitted[2] += usize::from(bench.far.inject(&frame));
        }
    }
    assert_eq!(
        admitted,
        [256, 256, 10],
        "credit cuts the floods and not the third"
    );
    // The ring holds the floods' frames first; three rounds take them all off and serve everybody.
    for _ in 0..3 {
        bench.worker.step(bench.now);
    }
    assert_eq!(bench.counters[2].rx_packets.get(), 10);
    assert!(
        bench.counters[0].rx_packets.get() < 256,
        "the flood is still being served"
    );
    bench.settle();
    assert_eq!(bench.counters[0].rx_packets.get(), 256);
    let frame = all[0].frame(&packet(WS, TOR, b"credit is back"), bench.now);
    assert!(bench.far.inject(&frame));
}

/// Frames that XDP counted and the ring lost do not hold credit for ever.
#[test]
fn credit_lost_with_a_ring_comes_back() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    bench.far.set_faults(dataplane::port::memory::Faults {
        fill_ring_empty: true,
        ..Default::default()
    });
    for _ in 0..300 {
        let frame = ws.frame(&packet(WS, TOR, b"lost"), bench.now);
        bench.far.inject(&frame);
    }
    bench.far.set_faults(Default::default());
    let frame = ws.frame(&packet(WS, TOR, b"no credit"), bench.now);
    assert!(!bench.far.inject(&frame));
    for _ in 0..5 {
        bench.now += 50_000_000;
        bench.settle();
    }
    let frame = ws.frame(&packet(WS, TOR, b"credit"), bench.now);
    assert!(bench.far.inject(&frame));
    bench.settle();
    assert_eq!(bench.counters[0].ring_lost.get(), 256);
}

#[test]
fn a_port_that_is_gone_is_reported_once_and_its_frames_with_it() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    let frame = ws.frame(&packet(WS, TOR, b"before"), bench.now);
    bench.inject(&frame);
    bench.events();
    bench.far.set_faults(dataplane::port::memory::Faults {
        doorbell: Some(libc::ENXIO),
        ..Default::default()
    });
    for _ in 0..3 {
        bench
            .worker
            .host()
            .push(VnetHeader::default(), &packet(TOR, WS, b"down"));
        bench.settle();
    }
    let failures = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::PortFailed { port: 0, .. }));
    assert_eq!(failures.count(), 1);
    // The session outlives the rings.
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    bench.far = far;
    let setup = PortSetup {
        id: 0,
        io: port,
        tables: Arc::clone(&bench.tables),
        mac: GATEWAY_MAC,
        ethertype: ETHERTYPE,
    };
    bench.give(Command::AddPort(Box::new(setup)));
    bench.worker.host().clear();
    let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
    bench.inject(&frame);
    assert_eq!(bench.written().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Gateway and Workstation joined ring to ring: what one host writes the other reads.
    #[test]
    fn two_workers_carry_every_packet_both_ways(
        packets in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..1400)), 1..150),
        authenticate: bool,
    ) {
        let [(up, far_up), (down, far_down)] = MemoryPort::pair(&MemoryConfig::default()).unwrap();
        let mut gateway = bench_on(Role::Gateway, 1, up, far_up);
        let mut workstation = bench_on(Role::Workstation, 1, down, far_down);
        let protection = if authenticate { Protection::Authenticate } else { Protection::Encrypt };
        let (at_gateway, at_workstation) = pair_for_tests(3, Cipher::Aes128Gcm, protection, (0x1_0001, 0x2_0002));
        let at_workstation = Install { peer_mac: GATEWAY_MAC, ..at_workstation };
        gateway.give(Command::Install(Box::new(at_gateway)));
        workstation.give(Command::Install(Box::new(at_workstation)));
        let mut expected = [Vec::new(), Vec::new()];
        for (up, data) in std::iter::once((true, vec![1])).chain(packets) {
            let (from, to) = if up { (WS, TOR) } else { (TOR, WS) };
            let packet = packet(from, to, &data);
            let sender = if up { &mut workstation } else { &mut gateway };
            sender.worker.host().push(VnetHeader::default(), &packet);
            expected[usize::from(up)].push(packet);
            for _ in 0..3 {
                workstation.worker.step(SECOND);
                gateway.worker.step(SECOND);
            }
        }
        prop_assert_eq!(gateway.written(), expected[1].clone());
        prop_assert_eq!(workstation.written(), expected[0].clone());
    }
}

/// A port that is opened again has new tables: what was counted in the former ones is over, and
/// credit is neither less nor more than it was.
#[test]
fn credit_is_the_same_after_a_port_was_opened_again() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    for _ in 0..1000 {
        let frame = ws.frame(&packet(WS, TOR, b"before"), bench.now);
        bench.inject(&frame);
    }
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    let tables = Arc::new(PortTables::in_memory(64, 16).unwrap());
    tables.set_limit(0, 256);
    (bench.far, bench.tables) = (far, Arc::clone(&tables));
    bench.give(Command::AddPort(Box::new(PortSetup {
        id: 0,
        io: port,
        tables,
        mac: GATEWAY_MAC,
        ethertype: ETHERTYPE,
    })));
    bench.admit(bench.now);
    // Served once, so that what was consumed is told.
    let frame = ws.frame(&packet(WS, TOR, b"after"), bench.now);
    bench.inject(&frame);
    let mut admitted = 0;
    for _ in 0..1000 {
        let frame = ws.frame(&packet(WS, TOR, b"flood"), bench.now);
        admitted += usize::from(bench.far.inject(&frame));
    }
    assert_eq!(admitted, 256);
}
