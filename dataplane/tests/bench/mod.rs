//! A worker with rings, tables and a host interface in memory, and a Workstation's end of its
//! sessions: no kernel, no root.

// Each test program uses its part of this.
#![allow(dead_code)]

use crossbeam::channel::{Receiver, Sender, unbounded};
use etherparse::PacketBuilder;
use portcullis_dataplane::counters::{PeerCounters, WorkerCounters};
use portcullis_dataplane::engine::Engine;
use portcullis_dataplane::host::memory::MemoryHost;
use portcullis_dataplane::keys::{Cipher, Protection};
use portcullis_dataplane::path::{Encapsulation, Path, UdpPath};
use portcullis_dataplane::policy::{Policy, Surroundings};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::memory::{FarEnd, MemoryConfig, MemoryPort};
use portcullis_dataplane::session::{Install, Session, pair_for_tests};
use portcullis_dataplane::wall::PortTables;
use portcullis_dataplane::worker::{Command, Event, PeerSetup, PortSetup, Worker, WorkerConfig};
use std::sync::Arc;
use wire::limits::*;
use wire::{Admission, Header, Role, Verdict};

pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const WORKSTATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A worker with one port, and the test's ends of everything it is joined to.
pub struct Bench {
    pub worker: Worker<MemoryPort, MemoryHost>,
    pub commands: Sender<Command<MemoryPort>>,
    pub events: Receiver<Event>,
    pub far: FarEnd,
    pub tables: Arc<PortTables>,
    pub counters: Vec<Arc<PeerCounters>>,
    pub now: u64,
}

pub fn bench_on(role: Role, peers: u32, port: MemoryPort, far: FarEnd) -> Bench {
    bench_by(Encapsulation::Ether(ETHERTYPE), role, peers, (port, far))
}

/// A bench whose port has this encapsulation.
pub fn bench_by(
    encapsulation: Encapsulation,
    role: Role,
    peers: u32,
    (port, far): (MemoryPort, FarEnd),
) -> Bench {
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
        encapsulation,
    };
    commands.send(Command::AddPort(Box::new(setup))).unwrap();
    let surroundings = Command::SetSurroundings(Arc::new(surroundings()));
    commands.send(surroundings).unwrap();
    for (id, counters) in counters.iter().enumerate() {
        let prefixes = match role {
            Role::Gateway => vec![format!("10.0.0.{}/32", id + 1).parse().unwrap()],
            Role::Workstation => vec!["0.0.0.0/0".parse().unwrap()],
        };
        let setup = PeerSetup {
            id: id as u32,
            prefixes,
            policy: Arc::new(Policy::gateway_any()),
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

pub fn bench(peers: u32) -> Bench {
    let (port, far) = MemoryPort::open(&MemoryConfig::default()).unwrap();
    bench_on(Role::Gateway, peers, port, far)
}

/// Both ends of the session of this seed.
fn ends(seed: u8) -> (Install, Install) {
    pair_for_tests(
        seed,
        Cipher::Aes256Gcm,
        Protection::Encrypt,
        ((7 << 16) | u32::from(seed), 9),
    )
}

/// The Workstation's end of a session with a bench.
pub struct Remote(pub Session);

impl Remote {
    /// A frame as the cable carries it.
    pub fn frame(&mut self, payload: &[u8], now: u64) -> Vec<u8> {
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

    /// A frame as a network carries it on this way, seen from here.
    pub fn frame_by(&mut self, way: UdpPath, payload: &[u8], now: u64) -> Vec<u8> {
        let way = Path::Udp(way);
        let front = way.front();
        let mut frame = vec![0; front + OVERHEAD + payload.len()];
        frame[front + HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        self.0
            .seal(&mut frame[front..], payload.len(), now)
            .unwrap();
        way.write(&mut frame, WORKSTATION_MAC, Encapsulation::Udp);
        way.finish(&mut frame);
        frame
    }

    /// The payload of a frame from the bench.
    pub fn open(&mut self, frame: &[u8], now: u64) -> Vec<u8> {
        let mut body = frame[ETH_LEN..].to_vec();
        let header = Header::decode(&body).unwrap();
        self.0.open(&header, &mut body, now).unwrap().to_vec()
    }
}

impl Bench {
    /// Rounds until there is nothing left to do.
    pub fn settle(&mut self) {
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
    pub fn session(&mut self, workstation: u32, seed: u8) -> Remote {
        self.session_by(workstation, seed, WORKSTATION_MAC.into())
    }

    /// A session whose Workstation is found this way.
    pub fn session_by(&mut self, workstation: u32, seed: u8, path: Path) -> Remote {
        let (mut gateway, _) = ends(seed);
        gateway.workstation = workstation;
        gateway.path = path;
        self.give(Command::Install(Box::new(gateway)));
        self.clone_of(seed)
    }

    /// The far end of the session of this seed as it was at its start.
    pub fn clone_of(&self, seed: u8) -> Remote {
        let (_, mut far) = ends(seed);
        far.path = GATEWAY_MAC.into();
        Remote(Session::new(&far, Engine::AesGcm, self.now).unwrap())
    }

    pub fn give(&mut self, command: Command<MemoryPort>) {
        self.commands.send(command).unwrap();
        self.settle();
    }

    pub fn inject(&mut self, frame: &[u8]) {
        assert!(self.far.inject(frame));
        self.settle();
    }

    pub fn sent(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.far
            .take(usize::MAX, |frame| frames.push(frame.to_vec()));
        frames
    }

    pub fn written(&mut self) -> Vec<Vec<u8>> {
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

    pub fn events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Lets XDP's own decision stand before the ring.
    pub fn admit(&self, now: u64) {
        let tables = Arc::clone(&self.tables);
        let port = Admission {
            role: Role::Gateway,
            mac: GATEWAY_MAC,
            encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
        };
        self.far.set_admission(Box::new(move |frame| {
            wire::decide(&port, &frame, &tables.at(now, true)).0 == Verdict::Admitted
        }));
    }
}

pub fn packet(source: [u8; 4], destination: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, 64)
        .udp(1000, 2000)
        .write(&mut bytes, data)
        .unwrap();
    bytes
}

/// The Gateway is [`TOR`].
pub fn surroundings() -> Surroundings {
    Surroundings {
        host: vec!["10.0.0.254/24".parse().unwrap()],
        local: vec!["192.0.2.5/32".parse().unwrap()],
    }
}

pub const WS: [u8; 4] = [10, 0, 0, 1];
pub const OTHER: [u8; 4] = [10, 0, 0, 2];
pub const TOR: [u8; 4] = [10, 0, 0, 254];
