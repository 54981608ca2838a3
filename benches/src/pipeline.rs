//! The pipeline: the real worker loop, on one core, between rings in memory.
//!
//! Opening goes from a port's receive ring to the host interface's, sealing from the host interface's
//! ring to the port's send ring. What a round costs is timed from the first step of the worker to the
//! one that finds nothing left; filling the rings before and emptying them after is not. Frames of
//! several sessions are dealt in turn, so that with many of them no two frames of a batch share one.
//!
//! Inner packets are UDP datagrams of one flow per session, and the host interface takes them one at
//! a time, so that every packet bears its whole cost; with [`Traffic::tcp`] they are TCP segments that
//! become super-packets, checksums and all.

use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::counters::WorkerCounters;
use dataplane::engine::Engine;
use dataplane::host::memory::MemoryHost;
use dataplane::host::vnet::VnetHeader;
use dataplane::keys::{Cipher, Protection};
use dataplane::policy::{Match, Policy, PortRange, Surroundings};
use dataplane::port::memory::{FarEnd, MemoryConfig, MemoryPort};
use dataplane::session::{Session, pair_for_tests};
use dataplane::wall::PortTables;
use dataplane::worker::{Command, Event, PeerSetup, PortSetup, Worker, WorkerConfig};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::Role;
use wire::limits::{ETH_LEN, ETHERTYPE, HEADER_LEN, OVERHEAD, SECOND, TAG_LEN};

/// Frames in a round: what a worker takes off its rings in one turn.
const ROUND: usize = 256;

/// What travels.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Bytes of the inner packets, dealt in turn; from 28 (40 with `tcp`) to 1460.
    pub sizes: Vec<usize>,
    /// Sessions, each of a Workstation of its own.
    pub sessions: usize,
    /// Whether the packets are TCP segments of one stream per session.
    pub tcp: bool,
}

/// The simple IMIX: seven small, four medium and one large packet.
pub fn imix() -> Vec<usize> {
    vec![64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 64, 576]
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the port to the host interface.
    Open,
    /// From the host interface to the port.
    Seal,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Nanoseconds per frame, one value a round.
    pub nanoseconds: Vec<f64>,
    /// Mean bytes of an inner packet.
    pub bytes: f64,
}

impl Measured {
    /// Million frames a second, one value a round.
    pub fn mpps(&self) -> Vec<f64> {
        self.nanoseconds.iter().map(|ns| 1e3 / ns).collect()
    }

    /// Gbit/s of inner packets, one value a round.
    pub fn gbps(&self) -> Vec<f64> {
        let bits = self.bytes * 8.0;
        self.nanoseconds.iter().map(|ns| bits / ns).collect()
    }
}

/// A worker between rings in memory, with the other end of its sessions.
pub struct Pipeline {
    way: Way,
    traffic: Traffic,
    worker: Worker<MemoryPort, MemoryHost>,
    far: FarEnd,
    remotes: Vec<Session>,
    packets: Vec<Vec<u8>>,
    counters: Arc<WorkerCounters>,
    _commands: Sender<Command<MemoryPort>>,
    events: Receiver<Event>,
    now: u64,
    dealt: usize,
}

impl Pipeline {
    /// The worker, with a session for each Workstation, confirmed.
    ///
    /// # Panics
    /// When the rings or tables cannot be made.
    pub fn new(way: Way, traffic: Traffic, engine: Engine) -> Self {
        let (commands, receiver) = unbounded();
        let (sender, events) = unbounded();
        let (io, far) = MemoryPort::open(&MemoryConfig::default()).expect("rings in memory");
        let slots = traffic.sessions as u32 + 1;
        let tables = Arc::new(PortTables::in_memory(slots, slots).expect("tables in memory"));
        let counters = Arc::new(WorkerCounters::default());
        let config = WorkerConfig {
            role: Role::Gateway,
            engine,
        };
        let host = MemoryHost::discarding().with_udp_segments(false);
        let worker = Worker::new(config, host, receiver, sender, Arc::clone(&counters));
        let setup = PortSetup {
            id: 0,
            io,
            tables,
            mac: [2, 0, 0, 0, 0, 1],
            encapsulation: dataplane::path::Encapsulation::Ether(ETHERTYPE),
        };
        let give = |command| commands.send(command).expect("the worker is here");
        give(Command::AddPort(Box::new(setup)));
        let mut remotes = Vec::new();
        let mut packets = Vec::new();
        give(Command::SetSurroundings(Arc::new(surroundings())));
        let policy = Arc::new(policy());
        for id in 0..traffic.sessions {
            give(Command::AddPeer(Box::new(PeerSetup {
                id: id as u32,
                prefixes: vec![ipnet::IpNet::from(std::net::IpAddr::from(address(id)))],
                policy: Arc::clone(&policy),
                counters: Arc::default(),
            })));
            let index = 0x1_0000 | id as u32;
            let (mut ours, theirs) = pair_for_tests(
                id as u8,
                Cipher::Aes256Gcm,
                Protection::Encrypt,
                (index, index),
            );
            ours.workstation = id as u32;
            give(Command::Install(Box::new(ours)));
            remotes.push(Session::new(&theirs, engine, SECOND).expect("the engine takes keys"));
            packets.extend(traffic.sizes.iter().map(|size| match way {
                Way::Open => packet(address(id), HOST, *size, traffic.tcp),
                Way::Seal => packet(HOST, address(id), *size, traffic.tcp),
            }));
        }
        let mut pipeline = Self {
            way: Way::Open,
            traffic,
            worker,
            far,
            remotes,
            packets,
            counters,
            _commands: commands,
            events,
            now: SECOND,
            dealt: 0,
        };
        pipeline.drain();
        for id in 0..pipeline.traffic.sessions {
            // The first frame opened confirms the session.
            let hello = packet(address(id), HOST, 64, false);
            let frame = sealed(&mut pipeline.remotes[id], &hello, pipeline.now);
            pipeline.far.inject(&frame);
            pipeline.drain();
        }
        pipeline.way = way;
        pipeline
    }

    /// Rounds for about `time`, the first tenth of them not counted.
    ///
    /// # Panics
    /// When frames are lost: then there is nothing to measure.
    pub fn run(&mut self, time: Duration) -> Measured {
        let start = Instant::now();
        let mut nanoseconds = Vec::new();
        while nanoseconds.len() < 20 || start.elapsed() < time {
            self.fill();
            let before = Instant::now();
            self.drain();
            nanoseconds.push(before.elapsed().as_nanos() as f64 / ROUND as f64);
            self.check();
        }
        let warm = nanoseconds.len() / 10;
        let sizes = &self.traffic.sizes;
        Measured {
            nanoseconds: nanoseconds.split_off(warm),
            bytes: sizes.iter().sum::<usize>() as f64 / sizes.len() as f64,
        }
    }

    fn drain(&mut self) {
        while self.worker.step(self.now) {}
    }

    /// Puts a round's frames into the ring they are taken from.
    fn fill(&mut self) {
        // 100 ns a frame, so that what is done by the clock is done about as often as it would be.
        self.now += 100 * ROUND as u64;
        for _ in 0..ROUND {
            let id = self.dealt % self.traffic.sessions;
            let size = self.dealt / self.traffic.sessions % self.traffic.sizes.len();
            let packet = &mut self.packets[id * self.traffic.sizes.len() + size];
            self.dealt += 1;
            match self.way {
                Way::Open => {
                    if self.traffic.tcp {
                        advance(packet);
                    }
                    let frame = sealed(&mut self.remotes[id], packet, self.now);
                    assert!(self.far.inject(&frame), "the receive ring has room");
                }
                Way::Seal => self.worker.host().push(VnetHeader::default(), packet),
            }
        }
    }

    /// Empties the ring that was filled, and sees that nothing was lost.
    fn check(&mut self) {
        match self.way {
            Way::Open => {
                let opened = self.counters.received.get();
                assert_eq!(opened as usize, self.traffic.sessions + self.dealt);
            }
            Way::Seal => {
                let sent = self.far.take(usize::MAX, |_| {});
                assert_eq!(sent, ROUND, "every packet was sent");
            }
        }
        while self.events.try_recv().is_ok() {}
    }
}

/// The AEAD by itself on the same sizes, keys and number of sessions: what is left to gain.
/// Nanoseconds per frame, one value a round.
///
/// # Panics
/// When the engine refuses a key or a length.
pub fn aead_alone(way: Way, traffic: &Traffic, engine: Engine, time: Duration) -> Measured {
    let cipher = Cipher::Aes256Gcm;
    let keys: Vec<_> = (0..traffic.sessions)
        .map(|id| {
            engine
                .key(cipher, &[id as u8; 32])
                .expect("the engine takes keys")
        })
        .collect();
    let longest = traffic.sizes.iter().max().copied().unwrap_or(0) + TAG_LEN;
    let mut frames = vec![vec![0u8; longest]; ROUND];
    let header = [7; HEADER_LEN];
    let start = Instant::now();
    let mut nanoseconds = Vec::new();
    let mut counter = 0u64;
    while nanoseconds.len() < 20 || start.elapsed() < time {
        let first = counter;
        let mut round = |way| {
            for (at, frame) in frames.iter_mut().enumerate() {
                let number = first + at as u64;
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&number.to_le_bytes());
                // Dealt in turn, as the pipeline's frames are, round after round.
                let dealt = number as usize;
                let size = traffic.sizes[dealt / traffic.sessions % traffic.sizes.len()];
                let key = &keys[dealt % traffic.sessions];
                let sealed = &mut frame[..size + TAG_LEN];
                match way {
                    Way::Seal => {
                        let (payload, tag) =
                            sealed.split_last_chunk_mut::<TAG_LEN>().expect("room");
                        key.seal(&nonce, &header, payload, tag)
                    }
                    Way::Open => key.open(&nonce, &header, sealed),
                }
                .expect("what was sealed opens");
            }
        };
        if way == Way::Open {
            round(Way::Seal);
        }
        let before = Instant::now();
        round(way);
        nanoseconds.push(before.elapsed().as_nanos() as f64 / ROUND as f64);
        counter += ROUND as u64;
    }
    let warm = nanoseconds.len() / 10;
    Measured {
        nanoseconds: nanoseconds.split_off(warm),
        bytes: traffic.sizes.iter().sum::<usize>() as f64 / traffic.sizes.len() as f64,
    }
}

/// The Gateway is [`HOST`].
pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        host: vec![ipnet::IpNet::from(std::net::IpAddr::from(HOST))],
        local: Vec::new(),
    }
}

/// Thirty-two rules, the last of which let the bench's packets through.
pub(crate) fn policy() -> Policy {
    let range = |first: u16, last: u16| PortRange { first, last };
    let others = (0..30).map(|n| Match::Tcp(range(9000 + 7 * n, 9003 + 7 * n)));
    let last = [
        Match::Udp(range(0, u16::MAX)),
        Match::Tcp(range(0, u16::MAX)),
    ];
    Policy {
        gateway: others.chain(last).collect(),
        ..Policy::default()
    }
}

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(crate) fn address(id: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + id as u32)
}

/// A UDP datagram or TCP segment of `size` bytes, checksums right.
pub(crate) fn packet(source: Ipv4Addr, destination: Ipv4Addr, size: usize, tcp: bool) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4(source.octets(), destination.octets(), 64);
    let mut bytes = Vec::new();
    let written = if tcp {
        let payload = vec![0x5a; size - 40];
        builder
            .tcp(5000, 5001, 1, 65_000)
            .ack(1)
            .write(&mut bytes, &payload)
    } else {
        let payload = vec![0x5a; size - 28];
        builder.udp(5000, 5001).write(&mut bytes, &payload)
    };
    written.expect("a packet of this size");
    bytes
}

/// Moves a TCP segment on by its own payload.
fn advance(packet: &mut [u8]) {
    let payload = (packet.len() - 40) as u32;
    let at = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
    packet[24..28].copy_from_slice(&at.wrapping_add(payload).to_be_bytes());
    packet[36..38].fill(0);
    let header = etherparse::Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 header");
    let tcp = etherparse::TcpHeaderSlice::from_slice(&packet[20..]).expect("a TCP header");
    let sum = tcp
        .calc_checksum_ipv4(&header, &packet[40..])
        .expect("a length that fits");
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}

/// A frame as the cable carries it.
pub(crate) fn sealed(session: &mut Session, packet: &[u8], now: u64) -> Vec<u8> {
    let mut frame = vec![0; ETH_LEN + OVERHEAD + packet.len()];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[ETH_LEN + HEADER_LEN..][..packet.len()].copy_from_slice(packet);
    let body = &mut frame[ETH_LEN..];
    session
        .seal(body, packet.len(), now)
        .expect("a session that may seal");
    frame
}
