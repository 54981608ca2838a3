//! Several workers over rings in memory: frames and packets that come in at one and belong to
//! another.

mod bench;

use bench::*;
use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::counters::{PeerCounters, WorkerCounters};
use dataplane::engine::Engine;
use dataplane::host::memory::MemoryHost;
use dataplane::host::vnet::VnetHeader;
use dataplane::keys::{Cipher, Protection};
use dataplane::policy::{Match, PeerRules, Policy, RuleSet};
use dataplane::port::Port;
use dataplane::port::memory::{FarEnd, MemoryConfig, MemoryPort};
use dataplane::session::{Session, pair_for_tests};
use dataplane::wall::PortTables;
use dataplane::worker::crew::{Crew, Seat, Sizes};
use dataplane::worker::run::orders;
use dataplane::worker::{Command, Event, PeerSetup, PortSetup, Worker, WorkerConfig};
use portcullis_dataplane as dataplane;
use proptest::prelude::*;
use std::sync::Arc;
use wire::limits::*;
use wire::{Admission, Header, Role, Tables, Verdict, kind};

const SLOTS: u32 = 64;
const WORKSTATIONS: u32 = 16;
const CREDIT: u64 = 256;

struct Member {
    worker: Worker<MemoryPort, MemoryHost>,
    commands: Sender<Command<MemoryPort>>,
    far: FarEnd,
    counters: Arc<WorkerCounters>,
    peers: Vec<Arc<PeerCounters>>,
}

/// Workers that each have a queue of one port.
struct Team {
    members: Vec<Member>,
    crew: Arc<Crew>,
    tables: Arc<PortTables>,
    events: Receiver<Event>,
    now: u64,
}

fn address(workstation: u32) -> [u8; 4] {
    [10, 0, 0, workstation as u8 + 1]
}

impl Team {
    /// `frames` is what each worker's queue has room for.
    fn new(workers: usize, workstations: u32, frames: usize) -> Self {
        let sizes = Sizes {
            frames,
            ports: 1,
            sessions: SLOTS as usize,
            workstations: WORKSTATIONS as usize,
        };
        let bells = (0..workers).map(|_| orders::<MemoryPort>().unwrap().2);
        let crew = Crew::new(bells, sizes);
        let (sender, events) = unbounded();
        let mut team = Self {
            members: Vec::new(),
            tables: Arc::new(PortTables::in_memory(SLOTS, WORKSTATIONS).unwrap()),
            crew,
            events,
            now: SECOND,
        };
        for at in 0..workers {
            let (commands, receiver) = unbounded();
            let counters = Arc::new(WorkerCounters::default());
            let config = WorkerConfig {
                role: Role::Gateway,
                engine: Engine::Auto,
            };
            let worker = Worker::new(
                config,
                MemoryHost::new(),
                receiver,
                sender.clone(),
                Arc::clone(&counters),
            )
            .with_seat(Seat::new(&team.crew, at).unwrap());
            let far = MemoryPort::open(&MemoryConfig::default()).unwrap().1;
            let peers: Vec<Arc<PeerCounters>> = (0..workstations).map(|_| Arc::default()).collect();
            let surroundings = Command::SetSurroundings(Arc::new(surroundings()));
            commands.send(surroundings).unwrap();
            for (id, counters) in peers.iter().enumerate() {
                let [a, b, c, d] = address(id as u32);
                let setup = PeerSetup {
                    id: id as u32,
                    prefixes: vec![format!("{a}.{b}.{c}.{d}/32").parse().unwrap()],
                    policy: Arc::new(Policy::gateway_any()),
                    counters: Arc::clone(counters),
                };
                commands.send(Command::AddPeer(Box::new(setup))).unwrap();
            }
            team.members.push(Member {
                worker,
                commands,
                far,
                counters,
                peers,
            });
        }
        team.open_port();
        team
    }

    /// Gives every worker a queue of port 0, with fresh tables as a raised port has them.
    fn open_port(&mut self) {
        self.tables = Arc::new(PortTables::in_memory(SLOTS, WORKSTATIONS).unwrap());
        (0..WORKSTATIONS).for_each(|id| self.tables.set_limit(id, CREDIT));
        for member in &mut self.members {
            let (io, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
            let setup = PortSetup {
                id: 0,
                io,
                tables: Arc::clone(&self.tables),
                mac: GATEWAY_MAC,
                encapsulation: portcullis_dataplane::path::Encapsulation::Ether(ETHERTYPE),
            };
            let tables = Arc::clone(&self.tables);
            let now = self.now;
            let port = Admission {
                role: Role::Gateway,
                mac: GATEWAY_MAC,
                encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
            };
            far.set_admission(Box::new(move |frame| {
                wire::decide(&port, &frame, &tables.at(now, true)).0 == Verdict::Admitted
            }));
            member.far = far;
            member
                .commands
                .send(Command::AddPort(Box::new(setup)))
                .unwrap();
        }
        self.settle();
    }

    fn give(&mut self, worker: usize, command: Command<MemoryPort>) {
        self.members[worker].commands.send(command).unwrap();
        self.settle();
    }

    /// A session of a Workstation with its owner.
    fn session(&mut self, workstation: u32, owner: usize) -> Remote {
        let slot = workstation + 1;
        let (mut gateway, mut far) = pair_for_tests(
            slot as u8,
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            ((7 << 16) | slot, 9),
        );
        gateway.workstation = workstation;
        far.path = GATEWAY_MAC.into();
        self.crew.set_owner(slot as u16, Some(owner));
        self.give(owner, Command::Install(Box::new(gateway)));
        Remote(Session::new(&far, Engine::AesGcm, self.now).unwrap())
    }

    fn step(&mut self, worker: usize) -> bool {
        let now = self.now;
        self.members[worker].worker.step(now)
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let worked = (0..self.members.len()).filter(|at| self.step(*at)).count();
            if worked == 0 {
                break;
            }
        }
        for member in &mut self.members {
            if let Some(port) = member.worker.port(0) {
                assert_eq!(
                    port.statistics().frames.total(),
                    6144,
                    "frames are conserved"
                );
            }
        }
    }

    /// Time passes, in which nothing comes.
    fn rest(&mut self, worker: usize) {
        for _ in 0..10 {
            self.now += 50_000_000;
            self.step(worker);
        }
    }

    /// The data of the packets a worker has written.
    fn written(&mut self, worker: usize) -> Vec<Vec<u8>> {
        let host = self.members[worker].worker.host();
        let written = host.written().iter();
        let data = written.map(|packet| packet[10 + 28..].to_vec()).collect();
        host.clear();
        data
    }

    fn held(&self, workstation: u32) -> u64 {
        let (admitted, consumed, _) = self.tables.credit(workstation).unwrap();
        admitted - consumed
    }

    fn sum(&self, workstation: u32, which: impl Fn(&PeerCounters) -> u64) -> u64 {
        let members = self.members.iter();
        members
            .map(|member| which(&member.peers[workstation as usize]))
            .sum()
    }
}

fn up(workstation: u32, data: &[u8]) -> Vec<u8> {
    packet(address(workstation), TOR, data)
}

#[test]
fn a_frame_that_comes_in_at_another_worker_is_opened_by_the_one_that_has_its_session() {
    let mut team = Team::new(2, 2, 512);
    let mut ws = team.session(0, 1);
    let sent: Vec<Vec<u8>> = (0..200u32).map(|n| n.to_le_bytes().to_vec()).collect();
    for data in &sent {
        let frame = ws.frame(&up(0, data), team.now);
        assert!(team.members[0].far.inject(&frame));
    }
    assert!(team.step(0));
    let port = team.members[0].worker.port(0).unwrap();
    assert_eq!(
        port.statistics().frames.held,
        0,
        "no memory of the worker that received them is held"
    );
    team.settle();
    assert!(team.written(0).is_empty());
    // Coalesced or not, the bytes are there in order.
    assert_eq!(team.written(1).concat().len() % 4, 0);
    assert_eq!(team.members[1].peers[0].rx_packets.get(), 200);
    assert_eq!(team.members[0].peers[0].opened.get(), 0);
    assert_eq!(team.members[0].counters.handed_over.get(), 200);
    assert_eq!(team.members[1].counters.taken_over.get(), 200);
    assert_eq!(team.held(0), 0);
    assert!(
        team.events
            .try_iter()
            .any(|event| matches!(event, Event::Confirmed { workstation: 0, .. }))
    );
}

#[test]
fn a_handshake_frame_is_reported_with_the_worker_it_came_in_at() {
    let mut team = Team::new(3, 1, 64);
    team.members[2].far.set_admission(Box::new(|_| true));
    let mut hello = vec![0; ETH_LEN + HEADER_LEN + HELLO_LEN];
    let header = Header::new(kind::HELLO, HELLO_LEN as u16, 1, 1);
    hello[ETH_LEN..][..HEADER_LEN].copy_from_slice(&header.encode());
    assert!(team.members[2].far.inject(&hello));
    team.settle();
    assert!(matches!(
        team.events.try_recv(),
        Ok(Event::Handshake {
            port: 0,
            worker: 2,
            ..
        })
    ));
}

/// The flood comes in at one worker while the owner of all does nothing: its credit cuts it, and
/// what the queue has room for is the sum of the credits.
#[test]
fn a_flood_takes_no_place_in_the_queue_from_others() {
    let mut team = Team::new(2, 3, 3 * CREDIT as usize);
    let mut all: Vec<Remote> = (0..3).map(|id| team.session(id, 1)).collect();
    let mut admitted = [0; 3];
    for n in 0..3000 {
        let frame = all[0].frame(&up(0, &[0; 1200]), team.now);
        admitted[0] += usize::from(team.members[0].far.inject(&frame));
        if n % 15 == 0 {
            for id in [1, 2] {
                let frame = all[id].frame(&up(id as u32, &[id as u8; 50]), team.now);
                admitted[id] += usize::from(team.members[0].far.inject(&frame));
            }
        }
        if n % 20 == 0 {
            team.step(0);
        }
    }
    team.step(0);
    team.step(0);
    assert_eq!(admitted, [256, 200, 200]);
    team.settle();
    for (id, count) in admitted.into_iter().enumerate() {
        let id = id as u32;
        assert_eq!(team.sum(id, |peer| peer.rx_packets.get()), count as u64);
        assert_eq!(team.sum(id, |peer| peer.handoff_full.get()), 0);
        assert_eq!(team.held(id), 0, "credit is back");
    }
}

#[test]
fn what_finds_no_room_is_counted_once_for_its_workstation_and_gives_its_credit_back() {
    let mut team = Team::new(2, 2, 16);
    let mut ws = team.session(1, 1);
    for n in 0..64u8 {
        let frame = ws.frame(&up(1, &[n]), team.now);
        assert!(team.members[0].far.inject(&frame));
    }
    team.step(0);
    team.rest(1);
    team.settle();
    assert_eq!(team.sum(1, |peer| peer.rx_packets.get()), 16);
    assert_eq!(team.members[1].peers[1].handoff_full.get(), 48);
    team.rest(0);
    team.rest(1);
    team.rest(1);
    assert_eq!(team.sum(1, |peer| peer.ring_lost.get()), 0, "counted twice");
    assert_eq!(team.held(1), 0);
}

/// The other worker's thread may be held up for longer than any ring holds a frame.
#[test]
fn frames_in_another_workers_ring_are_not_given_up_for_lost() {
    let mut team = Team::new(2, 1, 512);
    let mut ws = team.session(0, 1);
    for n in 0..100u8 {
        let frame = ws.frame(&up(0, &[n]), team.now);
        assert!(team.members[0].far.inject(&frame));
    }
    for _ in 0..10 {
        team.rest(1);
    }
    assert_eq!(team.held(0), 100);
    assert_eq!(team.sum(0, |peer| peer.ring_lost.get()), 0);
    team.settle();
    assert_eq!(team.held(0), 0);
    assert_eq!(team.sum(0, |peer| peer.rx_packets.get()), 100);
}

#[test]
fn frames_that_any_workers_ring_lost_give_their_credit_back() {
    let mut team = Team::new(2, 1, 512);
    let mut ws = team.session(0, 1);
    team.members[0]
        .far
        .set_faults(dataplane::port::memory::Faults {
            fill_ring_empty: true,
            ..Default::default()
        });
    for n in 0..100u8 {
        let frame = ws.frame(&up(0, &[n]), team.now);
        assert!(!team.members[0].far.inject(&frame));
    }
    assert_eq!(team.held(0), 100);
    for _ in 0..20 {
        team.now += 20_000_000;
        team.step(0);
        team.step(1);
    }
    assert_eq!(team.held(0), 0);
    assert_eq!(team.sum(0, |peer| peer.ring_lost.get()), 100);
}

/// Packets read before steering has followed a Workstation to its worker.
#[test]
fn a_packet_read_by_another_worker_leaves_by_the_one_that_has_the_session() {
    let mut team = Team::new(2, 2, 64);
    let mut ws = team.session(0, 1);
    let proof = ws.frame(&up(0, b"proof"), team.now);
    assert!(team.members[1].far.inject(&proof));
    team.settle();
    let down = packet(TOR, address(0), b"down");
    let read = |team: &mut Team| {
        let host = team.members[0].worker.host();
        host.push(VnetHeader::default(), &down);
        team.settle();
    };
    read(&mut team);
    assert_eq!(
        team.members[0].peers[0].no_session.get(),
        1,
        "nobody is known to send to it"
    );
    team.crew.set_sender(0, Some(1));
    read(&mut team);
    let mut sent = Vec::new();
    let far = &team.members[1].far;
    far.take(usize::MAX, |frame| sent.push(frame.to_vec()));
    assert_eq!(sent.len(), 1);
    assert_eq!(ws.open(&sent[0], team.now), down);
    // More than there is room for is dropped and counted, and none of it is held for ever.
    for round in 0..3u64 {
        for _ in 0..100 {
            let host = team.members[0].worker.host();
            host.push(VnetHeader::default(), &down);
        }
        while team.step(0) {}
        assert_eq!(
            team.members[0].peers[0].handoff_full.get(),
            36 * (round + 1)
        );
        team.settle();
        let far = &team.members[1].far;
        assert_eq!(far.take(usize::MAX, |_| ()), 64);
    }
    // A Workstation without a session is sent nothing, however its packets come.
    team.crew.set_sender(1, Some(1));
    let host = team.members[0].worker.host();
    host.push(VnetHeader::default(), &packet(TOR, address(1), b"down"));
    team.settle();
    assert_eq!(team.members[1].peers[1].no_session.get(), 1);
}

/// Sender and receiver are served by different workers.
#[test]
fn a_permitted_packet_for_another_workers_workstation_is_sealed_there() {
    let mut team = Team::new(2, 2, 64);
    let mut first = team.session(0, 0);
    let mut second = team.session(1, 1);
    for (at, ws) in [(0, &mut first), (1, &mut second)] {
        let frame = ws.frame(&up(at as u32, b"proof"), team.now);
        assert!(team.members[at].far.inject(&frame));
        team.settle();
    }
    let rules = PeerRules {
        peer: 1,
        to: RuleSet::from_iter([Match::Any]),
        from: RuleSet::default(),
    };
    let policy = Policy {
        peers: vec![rules],
        ..Policy::default()
    };
    team.crew.set_sender(1, Some(1));
    team.give(0, Command::SetPolicy(0, Arc::new(policy)));
    let relayed = packet(address(0), address(1), b"to the neighbour");
    let frame = first.frame(&relayed, team.now);
    assert!(team.members[0].far.inject(&frame));
    team.settle();
    let mut sent = Vec::new();
    team.members[1]
        .far
        .take(usize::MAX, |frame| sent.push(frame.to_vec()));
    assert_eq!(sent.len(), 1);
    assert_eq!(second.open(&sent[0], team.now), relayed);
}

#[test]
fn buffers_of_a_removed_workstation_and_of_a_closed_port_are_used_again() {
    let mut team = Team::new(2, 1, 8);
    for round in 0..20 {
        let mut ws = team.session(0, 1);
        for n in 0..8u8 {
            let frame = ws.frame(&up(0, &[n]), team.now);
            assert!(team.members[0].far.inject(&frame));
        }
        team.step(0);
        if round % 3 == 0 {
            team.give(1, Command::RemovePort(0));
        }
        // Whatever there was of it is forgotten.
        team.give(1, Command::RemovePeer(0));
        let setup = PeerSetup {
            id: 0,
            prefixes: vec!["10.0.0.1/32".parse().unwrap()],
            policy: Arc::new(Policy::gateway_any()),
            counters: Arc::clone(&team.members[1].peers[0]),
        };
        team.give(1, Command::AddPeer(Box::new(setup)));
        team.open_port();
    }
    let mut ws = team.session(0, 1);
    for n in 0..8u8 {
        let frame = ws.frame(&up(0, &[n]), team.now);
        assert!(team.members[0].far.inject(&frame));
    }
    let before = team.sum(0, |peer| peer.rx_packets.get());
    team.settle();
    assert_eq!(team.sum(0, |peer| peer.rx_packets.get()) - before, 8);
}

/// The port was closed and opened again between the two workers' steps.
#[test]
fn a_frame_admitted_by_a_port_that_was_opened_anew_since_gives_no_credit() {
    let mut team = Team::new(2, 1, 64);
    let mut ws = team.session(0, 1);
    for n in 0..20u8 {
        let frame = ws.frame(&up(0, &[n]), team.now);
        assert!(team.members[0].far.inject(&frame));
    }
    let old = Arc::clone(&team.tables);
    // Handed over, and not yet taken.
    team.step(0);
    team.open_port();
    assert_eq!(old.credit(0).unwrap().0, 20);
    assert_eq!(
        team.tables.credit(0).unwrap().1,
        0,
        "nothing was consumed here"
    );
    assert_eq!(team.members[1].counters.unattributed.get(), 20);
    let frame = ws.frame(&up(0, b"after"), team.now);
    assert!(team.members[0].far.inject(&frame));
    team.settle();
    assert_eq!(team.held(0), 0);
}

/// What happens to a team.
#[derive(Debug, Clone)]
enum Happens {
    Frame { workstation: u32, at: usize },
    Step(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..5u32, 0..3usize).prop_map(|(workstation, at)| Happens::Frame { workstation, at }),
        1 => (0..3usize).prop_map(Happens::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes in where and whoever runs when: each frame is written once by its owner or
    /// counted, and those that came in at one worker are in order.
    #[test]
    fn handed_frames_keep_their_order_and_none_is_lost_uncounted(
        steps in prop::collection::vec(happens(), 1..1500),
        room in 4..600usize,
    ) {
        let mut team = Team::new(3, 5, room);
        let mut all: Vec<Remote> = (0..5).map(|id| team.session(id, id as usize % 3)).collect();
        let mut sent = [0u64; 5];
        let mut number = 0u32;
        for step in steps {
            match step {
                Happens::Frame { workstation, at } => {
                    let mut data = vec![workstation as u8, at as u8];
                    data.extend(number.to_le_bytes());
                    number += 1;
                    // Each packet's own source port, so that nothing is coalesced.
                    let mut packet = up(workstation, &data);
                    packet[20..22].copy_from_slice(&(number as u16).to_be_bytes());
                    packet[26..28].copy_from_slice(&[0; 2]);
                    let frame = all[workstation as usize].frame(&packet, team.now);
                    sent[workstation as usize] += u64::from(team.members[at].far.inject(&frame));
                }
                Happens::Step(worker) => drop(team.step(worker)),
            }
        }
        team.settle();
        let mut last = std::collections::HashMap::new();
        for worker in 0..3 {
            for data in team.written(worker) {
                prop_assert_eq!(usize::from(data[0]) % 3, worker, "written by its owner");
                let number = u32::from_le_bytes(data[2..6].try_into().unwrap());
                let before = last.insert((data[0], data[1]), number);
                prop_assert!(before.is_none_or(|before| before < number), "{:?} before {}", before, number);
            }
        }
        for _ in 0..10 {
            team.now += 50_000_000;
            team.settle();
        }
        for id in 0..5 {
            let sum = |which: fn(&PeerCounters) -> u64| team.sum(id, which);
            prop_assert_eq!(sum(|peer| peer.ring_lost.get()), 0);
            prop_assert_eq!(
                sum(|peer| peer.rx_packets.get()) + sum(|peer| peer.handoff_full.get()),
                sent[id as usize]
            );
            prop_assert_eq!(team.held(id), 0);
        }
    }
}
