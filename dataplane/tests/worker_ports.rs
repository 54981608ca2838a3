//! A worker whose ports come, go and change under its sessions.

mod bench;

use bench::*;
use crossbeam::channel::unbounded;
use dataplane::counters::WorkerCounters;
use dataplane::engine::Engine;
use dataplane::host::memory::MemoryHost;
use dataplane::host::vnet::VnetHeader;
use dataplane::keys::{Cipher, Protection};
use dataplane::port::Port;
use dataplane::port::memory::{FarEnd, Faults, MemoryConfig, MemoryPort, join};
use dataplane::session::{Install, Padding, Session, pair_for_tests};
use dataplane::wall::PortTables;
use dataplane::worker::run::orders;
use dataplane::worker::{Command, Event, PortSetup, Worker, WorkerConfig};
use portcullis_dataplane as dataplane;
use std::sync::Arc;
use std::time::Duration;
use wire::limits::*;
use wire::{Header, Role, Tables, kind};

fn setup(
    id: u16,
    tables: &Arc<PortTables>,
    config: &MemoryConfig,
) -> (PortSetup<MemoryPort>, FarEnd) {
    let (io, far) = MemoryPort::open(config).unwrap();
    let setup = PortSetup {
        id,
        io,
        tables: Arc::clone(tables),
        mac: GATEWAY_MAC,
        encapsulation: portcullis_dataplane::path::Encapsulation::Ether(ETHERTYPE),
    };
    (setup, far)
}

impl Bench {
    /// Gives the worker a port with rings and tables of its own; what the bench holds of port 0 is
    /// exchanged for it.
    fn add_port(&mut self, id: u16) -> (FarEnd, Arc<PortTables>) {
        let tables = Arc::new(PortTables::in_memory(64, 16).unwrap());
        (0..16).for_each(|workstation| tables.set_limit(workstation, 256));
        let (setup, far) = setup(id, &tables, &MemoryConfig::default());
        self.give(Command::AddPort(Box::new(setup)));
        (
            std::mem::replace(&mut self.far, far),
            std::mem::replace(&mut self.tables, tables),
        )
    }

    fn swap(&mut self, other: &mut (FarEnd, Arc<PortTables>)) {
        std::mem::swap(&mut self.far, &mut other.0);
        std::mem::swap(&mut self.tables, &mut other.1);
    }

    fn down(&mut self, data: &[u8]) {
        let packet = packet(TOR, WS, data);
        self.worker.host().push(VnetHeader::default(), &packet);
        self.settle();
    }
}

/// A port raised again has new tables, which have admitted nothing: what was consumed before must
/// not count as credit there.
#[test]
fn a_port_raised_again_gives_no_more_credit_than_before() {
    let mut bench = bench(1);
    let mut ws = bench.session(0, 1);
    bench.admit(bench.now);
    for n in 0..1000u32 {
        let frame = ws.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now);
        bench.inject(&frame);
    }
    bench.give(Command::RemovePort(0));
    bench.add_port(0);
    bench.admit(bench.now);
    let frame = ws.frame(&packet(WS, TOR, b"the first on the new rings"), bench.now);
    bench.inject(&frame);
    let frames: Vec<_> = (0..600u32)
        .map(|n| ws.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now))
        .collect();
    let admitted = frames
        .iter()
        .filter(|frame| bench.far.inject(frame))
        .count();
    assert_eq!(admitted, 256);
    bench.settle();
    assert_eq!(bench.counters[0].rx_packets.get(), 1000 + 1 + 256);
}

/// A handshake on one port that is never finished leaves the session on another as it was: it is
/// sent on, and its credit comes back.
#[test]
fn a_pending_session_on_another_port_moves_nothing_until_it_is_proven() {
    let mut bench = bench(1);
    let mut first = bench.session(0, 1);
    bench.admit(bench.now);
    let frame = first.frame(&packet(WS, TOR, b"proof"), bench.now);
    bench.inject(&frame);
    let mut other = bench.add_port(1);
    bench.admit(bench.now);

    let (mut gateway, mut far) =
        pair_for_tests(2, Cipher::Aes256Gcm, Protection::Encrypt, (7 << 16 | 2, 9));
    (gateway.port, far.path) = (1, GATEWAY_MAC.into());
    bench.give(Command::Install(Box::new(gateway)));
    let mut second = Remote(Session::new(&far, Engine::AesGcm, bench.now).unwrap());

    bench.swap(&mut other);
    bench.down(b"before the proof");
    let sent = bench.sent();
    assert_eq!(sent.len(), 1, "it leaves by the port of its session");
    assert_eq!(
        first.open(&sent[0], bench.now),
        packet(TOR, WS, b"before the proof")
    );
    for n in 0..1000u32 {
        let frame = first.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now);
        assert!(bench.far.inject(&frame), "frame {n} has credit");
        bench.settle();
    }

    bench.swap(&mut other);
    let frame = second.frame(&packet(WS, TOR, b"proof"), bench.now);
    bench.inject(&frame);
    bench.down(b"after the proof");
    let sent = bench.sent();
    assert_eq!(
        second.open(&sent[0], bench.now),
        packet(TOR, WS, b"after the proof")
    );
    // Frames of the other port gave no credit on this one.
    let frames: Vec<_> = (0..600u32)
        .map(|n| second.frame(&packet(WS, TOR, &n.to_le_bytes()), bench.now))
        .collect();
    let admitted = frames
        .iter()
        .filter(|frame| bench.far.inject(frame))
        .count();
    assert_eq!(admitted, 256);
    bench.settle();
}

/// The tables outlive the rings: what is erased meanwhile must not stand in them.
#[test]
fn a_closed_port_admits_nothing_and_a_session_erased_meanwhile_stays_erased() {
    let mut bench = bench(2);
    bench.session(0, 1);
    bench.session(1, 2);
    bench.give(Command::RemovePort(0));
    assert_eq!(bench.tables.session(1).unwrap().index, 0);
    bench.give(Command::Erase(7 << 16 | 1));
    let (setup, _far) = setup(0, &bench.tables, &MemoryConfig::default());
    bench.give(Command::AddPort(Box::new(setup)));
    assert_eq!(bench.tables.session(1).unwrap().index, 0);
    assert_eq!(bench.tables.session(2).unwrap().index, 7 << 16 | 2);
}

/// Nothing comes from a port whose interface is gone, and nothing may be on its way to it.
#[test]
fn a_port_that_is_gone_is_reported_without_traffic() {
    let mut bench = bench(1);
    bench.events();
    bench.far.set_faults(Faults {
        doorbell: Some(libc::ENXIO),
        ..Faults::default()
    });
    bench.now += SECOND;
    bench.settle();
    assert!(matches!(
        bench.events()[..],
        [Event::PortFailed { port: 0, .. }]
    ));
}

#[test]
fn a_session_in_a_slot_that_the_tables_lack_is_refused() {
    let mut bench = bench(1);
    bench.events();
    let (gateway, _) = pair_for_tests(1, Cipher::Aes256Gcm, Protection::Encrypt, (7 << 16 | 64, 9));
    bench.give(Command::Install(Box::new(gateway)));
    assert!(matches!(bench.events()[..], [Event::Erased(index)] if index == 7 << 16 | 64));
}

/// Whatever MTU was agreed on, a frame never outgrows the port's memory.
#[test]
fn packets_beyond_the_ports_memory_are_dropped_and_padding_stays_within_it() {
    let mut bench = bench(1);
    let (gateway, mut far) =
        pair_for_tests(1, Cipher::Aes256Gcm, Protection::Encrypt, (7 << 16 | 1, 9));
    far.path = GATEWAY_MAC.into();
    bench.give(Command::Install(Box::new(Install {
        mtu: 9000,
        padding: Padding::Full,
        ..gateway
    })));
    let mut ws = Remote(Session::new(&far, Engine::AesGcm, bench.now).unwrap());
    let mut ping = [0u8; 24];
    ping[0] = 3;
    let frame = ws.frame(&ping, bench.now);
    bench.inject(&frame);
    bench.down(&[0; 3000]);
    bench.down(b"short");
    assert_eq!(bench.counters[0].too_big.get(), 1);
    let lengths: Vec<usize> = bench.sent().iter().map(Vec::len).collect();
    assert_eq!(lengths, [MemoryConfig::default().capacity; 2]);
}

/// A sleeping worker is woken by the rings it has, not by those it had.
#[test]
fn a_worker_is_woken_by_a_port_that_took_anothers_place() {
    let (commands, receiver, bell) = orders().unwrap();
    let (sender, events) = unbounded();
    let counters = Arc::new(WorkerCounters::default());
    let config = WorkerConfig {
        role: Role::Gateway,
        engine: Engine::Auto,
    };
    let worker = Worker::new(
        config,
        MemoryHost::new(),
        receiver,
        sender,
        Arc::clone(&counters),
    );
    let thread = std::thread::spawn(move || worker.run(&bell, Duration::ZERO));
    let tables = Arc::new(PortTables::in_memory(4, 4).unwrap());
    let memory = MemoryConfig {
        wakeups: true,
        ..MemoryConfig::default()
    };
    let mut hello = vec![0; ETH_LEN + HEADER_LEN + HELLO_LEN];
    hello[ETH_LEN..][..HEADER_LEN]
        .copy_from_slice(&Header::new(kind::HELLO, HELLO_LEN as u16, 1, 1).encode());
    let mut woken = 0;
    for _ in 0..20 {
        let (setup, far) = setup(0, &tables, &memory);
        assert!(commands.give(Command::AddPort(Box::new(setup))));
        std::thread::sleep(Duration::from_millis(5));
        let before = counters.wakeups.get();
        assert!(far.inject(&hello));
        events.recv_timeout(Duration::from_secs(10)).unwrap();
        woken += u64::from(counters.wakeups.get() > before);
    }
    commands.give(Command::Stop);
    thread.join().unwrap().unwrap();
    assert!(
        woken >= 15,
        "it was woken {woken} times of 20 and slept on else"
    );
}

/// Packets are read into frames of the first port; when it has none left the order of a flow must not
/// suffer, whichever port they leave by.
#[test]
fn packets_stay_in_order_when_the_first_port_runs_out_of_frames() {
    let mut bench = bench(1);
    bench.give(Command::RemovePort(0));
    let tables = Arc::new(PortTables::in_memory(64, 16).unwrap());
    // Of 160 frames the receive side has 128.
    let few = MemoryConfig {
        ring_size: 64,
        frames: 160,
        ..MemoryConfig::default()
    };
    let (first, _far) = setup(1, &tables, &few);
    bench.give(Command::AddPort(Box::new(first)));
    bench.add_port(2);
    let (mut gateway, mut workstation) =
        pair_for_tests(1, Cipher::Aes256Gcm, Protection::Encrypt, (7 << 16 | 1, 9));
    gateway.port = 2;
    workstation.path = GATEWAY_MAC.into();
    bench.give(Command::Install(Box::new(gateway)));
    let mut remote = Remote(Session::new(&workstation, Engine::AesGcm, bench.now).unwrap());
    let frame = remote.frame(&packet(WS, TOR, b"proof"), bench.now);
    bench.inject(&frame);
    for number in 0..50u8 {
        let packet = packet(TOR, WS, &[number]);
        bench.worker.host().push(VnetHeader::default(), &packet);
    }
    bench.settle();
    let numbers: Vec<u8> = bench
        .sent()
        .iter()
        .map(|frame| *remote.open(frame, bench.now).last().unwrap())
        .collect();
    assert_eq!(numbers, (0..50).collect::<Vec<u8>>());
}

/// A burst larger than the send ring: its doorbell makes room in the middle of it.
#[test]
fn a_burst_larger_than_the_send_ring_loses_nothing_on_an_idle_link() {
    let small = MemoryConfig {
        ring_size: 64,
        ..MemoryConfig::default()
    };
    let (port, far) = MemoryPort::open(&small).unwrap();
    let (mut other, other_far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    join(&far, &other_far);
    let mut bench = bench_on(Role::Gateway, 1, port, far);
    let mut remote = bench.session(0, 1);
    let frame = remote.frame(&packet(WS, TOR, b"proof"), bench.now);
    bench.inject(&frame);
    for _ in 0..256 {
        let packet = packet(TOR, WS, b"one of many");
        bench.worker.host().push(VnetHeader::default(), &packet);
    }
    bench.settle();
    assert_eq!(bench.counters[0].tx_full.get(), 0);
    assert_eq!(other.receive(&mut Vec::new(), 1000), 256);
}
