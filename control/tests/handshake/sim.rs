//! A simulated cable: one Gateway, any number of Workstations, a stand-in for the workers, and a
//! network that loses, copies, delays and alters frames, all on virtual time and from one seed.
#![allow(dead_code)] // Each test file uses its part.

use dataplane::keys::{Cipher, Protection};
use dataplane::path::UdpPath;
use portcullis_control::handshake::gateway::*;
use portcullis_control::handshake::noise::public_key;
use portcullis_control::handshake::random::Randomness;
use portcullis_control::handshake::workstation::*;
use portcullis_control::handshake::{Action, Encapsulation, Install, Mac, Padding, Path};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use wire::header::{kind, slot_of};
use wire::limits::{BROADCAST, ETHERTYPE};
use zeroize::Zeroizing;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const YEAR: Duration = Duration::from_secs(365 * 86_400);
pub const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 0xfe];
/// Where the callers' clocks start: not at zero, so that they can step back.
pub const START: Duration = Duration::from_secs(3 * 365 * 86_400);

/// The Gateway's static private key.
pub fn gateway_private() -> [u8; 32] {
    [0x11; 32]
}

/// A Workstation's static private key.
pub fn station_private(id: u32) -> [u8; 32] {
    blake3::derive_key("test station", &id.to_le_bytes())
}

/// A Workstation's PSK.
pub fn station_psk(id: u32) -> [u8; 32] {
    blake3::derive_key("test psk", &id.to_le_bytes())
}

pub fn key_id(id: u32) -> u32 {
    0xabcd_0000 + id
}

pub fn station_mac(id: u32) -> Mac {
    [2, 0, 0, 0, 1, id as u8]
}

/// A session in a worker.
#[derive(Clone)]
pub struct Live {
    pub install: Install,
    counter: u64,
    seen: HashSet<u64>,
}

/// A worker's three sessions of one Workstation.
#[derive(Default, Clone)]
pub struct Worker {
    pub pending: Option<Live>,
    pub cur: Option<Live>,
    pub prev: Option<Live>,
}

impl Worker {
    fn find(&mut self, index: u32) -> Option<&mut Live> {
        [&mut self.pending, &mut self.cur, &mut self.prev]
            .into_iter()
            .flatten()
            .find(|live| live.install.index == index)
    }

    fn erase(&mut self, index: u32) {
        for place in [&mut self.pending, &mut self.cur, &mut self.prev] {
            place.take_if(|live| live.install.index == index);
        }
    }
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Body {
    Handshake(Vec<u8>),
    Data {
        index: u32,
        key: [u8; 32],
        counter: u64,
        plaintext: Vec<u8>,
    },
}

/// An end of the cable: the Gateway, or a Workstation by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Gateway,
    Station(u32),
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub to: End,
    pub source: Mac,
    pub destination: Mac,
    pub body: Body,
}

impl Packet {
    /// The type nibble.
    pub fn kind(&self) -> u8 {
        match &self.body {
            Body::Handshake(frame) => frame[0] & 15,
            Body::Data { .. } => kind::DATA,
        }
    }

    /// The first byte of the plaintext, of Data.
    pub fn control(&self) -> Option<u8> {
        match &self.body {
            Body::Data { plaintext, .. } => plaintext.first().copied(),
            Body::Handshake(_) => None,
        }
    }
}

enum News {
    Confirmed(u32),
    Inner(u32, Vec<u8>),
    Erased(u32),
}

enum Event {
    Arrive(Packet),
    Tell(End, u32, News),
}

pub struct Node {
    pub machine: Workstation,
    pub worker: Worker,
    pub mac: Mac,
    /// Whose keys it uses: those of this id.
    pub keys: u32,
    pub expected: u64,
    nonces: VecDeque<u64>,
    sent: u64,
    pub opened: u64,
    echoes: u64,
    pub configured: u64,
    pub skew: i128,
}

/// What the network does to a frame.
#[derive(Clone, Copy)]
pub struct Network {
    /// Out of 1000.
    pub loss: u64,
    pub copies: u64,
    /// Least and most delay; a difference reorders.
    pub delay: (Duration, Duration),
}

pub const CLEAN: Network = Network {
    loss: 0,
    copies: 0,
    delay: (MS, MS),
};

type Filter = Box<dyn FnMut(&Packet) -> Vec<(Duration, Packet)>>;

pub struct Sim {
    /// Whether all is over networks: MAC addresses stand for addresses there.
    over_udp: bool,
    pub now: Duration,
    pub gateway: Gateway,
    pub workers: BTreeMap<u32, Worker>,
    pub gateway_skew: i128,
    pub stations: BTreeMap<u32, Node>,
    pub enrolled: BTreeMap<u32, Enrolled>,
    pub network: Network,
    /// Instead of the network's chances: what becomes of each frame.
    pub filter: Option<Filter>,
    /// Everything sent, where asked for.
    pub tape: Option<Vec<Packet>>,
    /// How long news of a worker take to the machine.
    pub worker_delay: Duration,
    pub random: Randomness,
    pub gateway_opened: BTreeMap<u32, u64>,
    queue: BTreeMap<(Duration, u64), Event>,
    serial: u64,
    boots: u8,
    gateway_nonces: HashMap<u32, VecDeque<u64>>,
    gateway_slots: BTreeSet<u16>,
    keys: HashSet<(bool, [u8; 32])>,
    pub installs: u64,
    /// Key ids that ended because the next keys were used.
    pub ended_keys: Vec<u32>,
}

/// A Workstation's keys. Those of one that is not among the stations can be its next ones.
pub fn credentials(id: u32) -> Credentials {
    Credentials {
        key_id: key_id(id),
        public: public_key(&station_private(id)),
        psk: Zeroizing::new(station_psk(id)),
        gateway: public_key(&gateway_private()),
    }
}

pub fn enrolled(id: u32) -> Enrolled {
    Enrolled {
        id,
        credentials: credentials(id),
        next: None,
        v4: Some((Ipv4Addr::new(10, 0, 0, 10 + id as u8), 24)),
        v6: None,
        protection: Protection::Encrypt,
        cipher: CipherPolicy::Auto,
        padding: Padding::None,
        ports: None,
    }
}

pub fn station_config(id: u32, seed: [u8; 32]) -> WorkstationConfig {
    WorkstationConfig {
        static_private: Zeroizing::new(station_private(id)),
        gateway_public: public_key(&gateway_private()),
        psk: Zeroizing::new(station_psk(id)),
        key_id: key_id(id),
        port: 0,
        gateway: BROADCAST.into(),
        mac: station_mac(id),
        mtu: 1460,
        virtualised: false,
        ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes256GcmSiv],
        protections: vec![Protection::Encrypt],
        seed: Zeroizing::new(seed),
    }
}

/// The same configuration of one that is not on the Gateway's LAN.
fn carried(config: WorkstationConfig, over_udp: bool) -> WorkstationConfig {
    match over_udp {
        false => config,
        true => WorkstationConfig {
            gateway: Path::Socket,
            mac: [0; 6],
            ..config
        },
    }
}

/// The way from the Gateway to whoever has this MAC address, or the address that it stands for.
fn path_to(mac: Mac, over_udp: bool) -> Path {
    let [a, b, c, d, e, f] = mac;
    let host = Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f]);
    match over_udp {
        false => Path::Ether(mac),
        true => Path::Udp(UdpPath {
            next_hop: [2, 0, 0, 0, 0, 0xaa],
            local: (
                Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
                51888,
            )
                .into(),
            remote: (host, 40_000).into(),
        }),
    }
}

/// The MAC address that a path leads to, or that stands for it.
fn mac_at(path: Path) -> Mac {
    match path {
        Path::Ether(mac) => mac,
        Path::Socket => GATEWAY_MAC,
        Path::Udp(path) => match path.remote.ip() {
            IpAddr::V6(v6) => *v6.octets().last_chunk().unwrap(),
            IpAddr::V4(_) => unreachable!(),
        },
    }
}

fn new_gateway(boot: u8, seed: [u8; 32], now: Duration, over_udp: bool) -> Gateway {
    Gateway::new(
        GatewayConfig {
            static_keys: vec![Zeroizing::new(gateway_private())],
            boot_id: [boot; 8],
            ports: vec![PortConfig {
                port: 0,
                encapsulation: match over_udp {
                    false => Encapsulation::Ether(ETHERTYPE),
                    true => Encapsulation::Udp,
                },
                mac: match over_udp {
                    false => GATEWAY_MAC,
                    true => [0; 6],
                },
                ifindex: 7,
                mtu: 1500,
            }],
            v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            v6: None,
            seed: Zeroizing::new(seed),
            max_workstations: 8,
        },
        now,
    )
}

fn raw(now: Duration, skew: i128) -> Duration {
    let nanos = (now.as_nanos() as i128 + skew).max(0) as u128;
    Duration::new(
        (nanos / 1_000_000_000) as u64,
        (nanos % 1_000_000_000) as u32,
    )
}

fn unraw(raw: Duration, skew: i128) -> Duration {
    let nanos = (raw.as_nanos() as i128 - skew).max(0) as u128;
    Duration::new(
        (nanos / 1_000_000_000) as u64,
        (nanos % 1_000_000_000) as u32,
    )
}

impl Sim {
    pub fn new(seed: u64, stations: u32) -> Self {
        Self::start(seed, stations, false)
    }

    /// The same over networks.
    pub fn over_udp(seed: u64, stations: u32) -> Self {
        Self::start(seed, stations, true)
    }

    fn start(seed: u64, stations: u32, over_udp: bool) -> Self {
        let mut random = Randomness::new(blake3::derive_key("test sim", &seed.to_le_bytes()));
        let mut gateway = new_gateway(1, random.bytes(), START, over_udp);
        let mut nodes = BTreeMap::new();
        let mut all = BTreeMap::new();
        for id in 0..stations {
            gateway.add(START, enrolled(id)).unwrap();
            all.insert(id, enrolled(id));
            nodes.insert(
                id,
                new_node(
                    Workstation::new(carried(station_config(id, random.bytes()), over_udp), START),
                    station_mac(id),
                ),
            );
            if let Some(node) = nodes.get_mut(&id) {
                node.keys = id;
            }
        }
        let mut sim = Self {
            over_udp,
            now: START,
            gateway,
            workers: BTreeMap::new(),
            gateway_skew: 0,
            stations: nodes,
            enrolled: all,
            network: CLEAN,
            filter: None,
            tape: None,
            worker_delay: Duration::ZERO,
            random,
            gateway_opened: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            boots: 1,
            gateway_nonces: HashMap::new(),
            gateway_slots: BTreeSet::new(),
            keys: HashSet::new(),
            installs: 0,
            ended_keys: Vec::new(),
        };
        for id in 0..stations {
            sim.with_station(id, |station, now| station.start(now));
        }
        sim
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.insert((at, self.serial), event);
    }

    /// Runs an event of a Workstation and carries out what it asks for.
    pub fn with_station<R>(
        &mut self,
        id: u32,
        event: impl FnOnce(&mut Workstation, Duration) -> R,
    ) -> R {
        let node = self.stations.get_mut(&id).unwrap();
        let now = raw(self.now, node.skew);
        let result = event(&mut node.machine, now);
        let actions: Vec<_> = node.machine.actions().collect();
        for action in actions {
            self.station_action(id, action);
        }
        result
    }

    /// Runs an event of the Gateway and carries out what it asks for.
    pub fn with_gateway<R>(&mut self, event: impl FnOnce(&mut Gateway, Duration) -> R) -> R {
        let now = raw(self.now, self.gateway_skew);
        let result = event(&mut self.gateway, now);
        let actions: Vec<_> = self.gateway.actions().collect();
        for action in actions {
            self.gateway_action(action);
        }
        result
    }

    fn station_action(&mut self, id: u32, action: Action) {
        let node = self.stations.get_mut(&id).unwrap();
        match action {
            Action::Send {
                destination, frame, ..
            } => {
                let destination = mac_at(destination);
                let packet = Packet {
                    to: End::Gateway,
                    source: node.mac,
                    destination,
                    body: Body::Handshake(frame),
                };
                self.transmit(packet);
            }
            Action::SendInner { index, message, .. } => self.seal_station(id, Some(index), message),
            Action::Install(install) => {
                assert!(
                    self.keys.insert((true, install.keys.send.aead)),
                    "a session key came twice"
                );
                self.installs += 1;
                assert!(
                    node.worker.find(install.index).is_none(),
                    "an index is used twice at once"
                );
                assert_ne!(install.index >> 16, 0);
                node.worker.pending = Some(Live {
                    install: *install,
                    counter: 0,
                    seen: HashSet::new(),
                });
            }
            Action::Erase { index, .. } => {
                node.worker.erase(index);
                let at = self.now + self.worker_delay;
                self.push(at, Event::Tell(End::Station(id), id, News::Erased(index)));
            }
            Action::ExpectNonce(nonce) => node.expected = nonce,
            Action::Configure(_) => node.configured += 1,
        }
    }

    fn gateway_action(&mut self, action: Action) {
        match action {
            Action::Send {
                destination, frame, ..
            } => {
                let destination = mac_at(destination);
                let to: Vec<u32> = if destination == [0xff; 6] {
                    self.stations.keys().copied().collect()
                } else {
                    self.stations
                        .iter()
                        .filter(|(_, node)| node.mac == destination)
                        .map(|(id, _)| *id)
                        .collect()
                };
                for id in to {
                    self.transmit(Packet {
                        to: End::Station(id),
                        source: GATEWAY_MAC,
                        destination,
                        body: Body::Handshake(frame.clone()),
                    });
                }
            }
            Action::SendInner {
                workstation,
                index,
                message,
            } => self.seal_gateway(workstation, Some(index), message),
            Action::Install(install) => {
                assert!(
                    self.keys.insert((false, install.keys.send.aead)),
                    "a session key came twice"
                );
                assert!(
                    self.gateway_slots.insert(slot_of(install.index)),
                    "a slot is used before its erasure was acknowledged"
                );
                let worker = self.workers.entry(install.workstation).or_default();
                assert!(
                    worker.pending.is_none(),
                    "an old pending session was not erased first"
                );
                worker.pending = Some(Live {
                    install: *install,
                    counter: 0,
                    seen: HashSet::new(),
                });
            }
            Action::Erase { workstation, index } => {
                self.workers.entry(workstation).or_default().erase(index);
                let at = self.now + self.worker_delay;
                self.push(
                    at,
                    Event::Tell(End::Gateway, workstation, News::Erased(index)),
                );
            }
            Action::ExpectNonce(_) | Action::Configure(_) => panic!("not of a Gateway"),
        }
    }

    /// Seals under the session with this index, or under the one that data goes out on.
    fn seal_station(&mut self, id: u32, index: Option<u32>, plaintext: Vec<u8>) {
        let node = self.stations.get_mut(&id).unwrap();
        let mac = node.mac;
        let session = match index {
            Some(index) => node.worker.find(index),
            None if node.worker.cur.is_some() => node.worker.cur.as_mut(),
            None => node.worker.pending.as_mut(),
        };
        if let Some(packet) = session.map(|live| seal(live, End::Gateway, mac, plaintext)) {
            self.transmit(packet);
        }
    }

    fn seal_gateway(&mut self, id: u32, index: Option<u32>, plaintext: Vec<u8>) {
        let worker = self.workers.entry(id).or_default();
        let session = match index {
            Some(index) => worker.find(index),
            None => worker.cur.as_mut(),
        };
        if let Some(packet) =
            session.map(|live| seal(live, End::Station(id), GATEWAY_MAC, plaintext))
        {
            self.transmit(packet);
        }
    }

    /// A Workstation sends a data packet, which the Gateway echoes.
    pub fn data(&mut self, id: u32) {
        let node = self.stations.get_mut(&id).unwrap();
        if node.worker.cur.is_some() || node.worker.pending.is_some() {
            node.sent += 1;
        }
        self.seal_station(id, None, vec![0x45; 40]);
    }

    /// Data packets that came back.
    pub fn echoes(&self, id: u32) -> u64 {
        self.stations[&id].echoes
    }

    /// Data packets sent.
    pub fn echoes_sent(&self, id: u32) -> u64 {
        self.stations[&id].sent
    }

    /// Puts a frame on the cable, past the network's chances.
    pub fn inject(&mut self, after: Duration, packet: Packet) {
        let at = self.now + after;
        self.push(at, Event::Arrive(packet));
    }

    fn transmit(&mut self, packet: Packet) {
        if let Some(tape) = &mut self.tape {
            tape.push(packet.clone());
        }
        if let Some(filter) = &mut self.filter {
            for (after, packet) in filter(&packet) {
                self.inject(after, packet);
            }
            return;
        }
        let (least, most) = self.network.delay;
        let copies = 1 + u64::from(self.random.u64() % 1000 < self.network.copies);
        for _ in 0..copies {
            if self.random.u64() % 1000 >= self.network.loss {
                let after = least + self.random.up_to(most - least);
                self.inject(after, packet.clone());
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match (packet.to, packet.body) {
            (End::Gateway, Body::Handshake(frame)) => self.gateway_frame(packet.source, &frame),
            (
                End::Gateway,
                Body::Data {
                    index,
                    key,
                    counter,
                    plaintext,
                },
            ) => {
                let found = self.workers.iter_mut().find_map(|(id, worker)| {
                    let live = worker.find(index)?;
                    let good = mac_at(live.install.path) == packet.source
                        && live.install.keys.receive.aead == key
                        && live.seen.insert(counter);
                    good.then_some(*id)
                });
                if let Some(id) = found {
                    *self.gateway_opened.entry(id).or_default() += 1;
                    self.opened(End::Gateway, id, index, plaintext);
                }
            }
            (End::Station(id), Body::Handshake(frame)) => {
                let node = self.stations.get_mut(&id).unwrap();
                let (kind_of, nonce) = peek(&frame);
                let key = frame
                    .get(4..8)
                    .map(|key| u32::from_le_bytes(key.try_into().unwrap()));
                // As XDP does, without its buckets.
                if key != Some(key_id(node.keys))
                    || (matches!(kind_of, kind::CHALLENGE | kind::RESPONSE)
                        && nonce != node.expected)
                    || (matches!(kind_of, kind::RESPONSE | kind::RESET)
                        && node.nonces.contains(&nonce))
                {
                    return;
                }
                let good = tag_is_good(&frame, station_psk(node.keys), false);
                if good && matches!(kind_of, kind::RESPONSE | kind::RESET) {
                    remember(&mut node.nonces, nonce);
                }
                let source = match self.over_udp {
                    false => Path::Ether(packet.source),
                    true => Path::Socket,
                };
                self.with_station(id, |station, now| station.frame(now, source, &frame));
            }
            (
                End::Station(id),
                Body::Data {
                    index,
                    key,
                    counter,
                    plaintext,
                },
            ) => {
                let node = self.stations.get_mut(&id).unwrap();
                let good = node.worker.find(index).is_some_and(|live| {
                    mac_at(live.install.path) == packet.source
                        && live.install.keys.receive.aead == key
                        && live.seen.insert(counter)
                });
                if good {
                    node.opened += 1;
                    self.opened(End::Station(id), id, index, plaintext);
                }
            }
        }
    }

    fn gateway_frame(&mut self, source: Mac, frame: &[u8]) {
        let (kind_of, nonce) = peek(frame);
        if kind_of == kind::INITIATION && frame.len() >= 8 {
            let key = u32::from_le_bytes(frame[4..8].try_into().unwrap());
            let good = key >= key_id(0) && tag_is_good(frame, station_psk(key - key_id(0)), true);
            let nonces = self.gateway_nonces.entry(key).or_default();
            if nonces.contains(&nonce) {
                return;
            }
            if good {
                remember(nonces, nonce);
            }
        }
        self.gateway_frame_past_xdp(source, frame);
    }

    /// Gives a frame to the Gateway's machine as if XDP had admitted it.
    pub fn gateway_frame_past_xdp(&mut self, source: Mac, frame: &[u8]) {
        let now = raw(self.now, self.gateway_skew);
        let source = path_to(source, self.over_udp);
        self.gateway.frame(now, 0, source, frame);
        let actions: Vec<_> = self.gateway.actions().collect();
        let replied: usize = actions
            .iter()
            .map(|action| match action {
                Action::Send { frame, .. } => frame.len(),
                _ => 0,
            })
            .sum();
        assert!(
            replied <= frame.len(),
            "{replied} bytes answer {} bytes",
            frame.len()
        );
        for action in actions {
            self.gateway_action(action);
        }
    }

    /// What a worker does with a plaintext.
    fn opened(&mut self, end: End, id: u32, index: u32, plaintext: Vec<u8>) {
        let worker = match end {
            End::Gateway => self.workers.get_mut(&id).unwrap(),
            End::Station(_) => &mut self.stations.get_mut(&id).unwrap().worker,
        };
        let at = self.now + self.worker_delay;
        if worker
            .pending
            .as_ref()
            .is_some_and(|live| live.install.index == index)
        {
            worker.prev = worker.cur.take();
            worker.cur = worker.pending.take();
            self.push(at, Event::Tell(end, id, News::Confirmed(index)));
        }
        match (end, plaintext[0]) {
            (End::Gateway, 3) => {
                let mut pong = plaintext;
                pong[0] = 4;
                self.seal_gateway(id, Some(index), pong);
            }
            (End::Gateway, 0x45) => self.seal_gateway(id, None, plaintext),
            (End::Station(_), 0x45) => self.stations.get_mut(&id).unwrap().echoes += 1,
            _ => self.push(at, Event::Tell(end, id, News::Inner(index, plaintext))),
        }
    }

    fn tell(&mut self, end: End, id: u32, news: News) {
        match (end, news) {
            (End::Gateway, News::Confirmed(index)) => {
                let old = self.with_gateway(|gateway, now| gateway.confirmed(now, id, index));
                self.ended_keys.extend(old);
            }
            (End::Gateway, News::Inner(index, message)) => {
                self.with_gateway(|gateway, now| gateway.inner(now, id, index, &message))
            }
            (End::Gateway, News::Erased(index)) => {
                self.gateway_slots.remove(&slot_of(index));
                self.with_gateway(|gateway, _| gateway.erased(id, index));
            }
            (End::Station(_), News::Confirmed(index)) => {
                self.with_station(id, |station, now| station.confirmed(now, index))
            }
            (End::Station(_), News::Inner(index, message)) => {
                self.with_station(id, |station, now| station.inner(now, index, &message))
            }
            (End::Station(_), News::Erased(index)) => {
                self.with_station(id, |station, now| station.erased(now, index))
            }
        }
    }

    fn tick_station(&mut self, id: u32) {
        let node = &self.stations[&id];
        let traffic = Traffic {
            sent: node.sent,
            received: node.opened,
        };
        self.with_station(id, |station, now| {
            station.traffic(now, traffic);
            station.tick(now);
        });
    }

    /// Runs for this long.
    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        let mut spins = 0;
        loop {
            let gateway = self
                .gateway
                .next_deadline()
                .map(|at| unraw(at, self.gateway_skew));
            let stations = self
                .stations
                .values()
                .filter_map(|node| node.machine.next_deadline().map(|at| unraw(at, node.skew)))
                .min();
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let Some(next) = [gateway, stations, queued].into_iter().flatten().min() else {
                break;
            };
            if next > end {
                break;
            }
            spins = if next > self.now { 0 } else { spins + 1 };
            assert!(spins < 5000, "something is due at once, for ever");
            self.now = self.now.max(next);
            if queued == Some(next) {
                if let Some((_, event)) = self.queue.pop_first() {
                    match event {
                        Event::Arrive(packet) => self.arrive(packet),
                        Event::Tell(end, id, news) => self.tell(end, id, news),
                    }
                }
                continue;
            }
            if gateway == Some(next) {
                self.with_gateway(|gateway, now| gateway.tick(now));
            }
            let due: Vec<u32> = self
                .stations
                .iter()
                .filter(|(_, node)| {
                    node.machine
                        .next_deadline()
                        .is_some_and(|at| unraw(at, node.skew) <= self.now)
                })
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                self.tick_station(id);
            }
        }
        self.now = end;
    }

    /// Runs for this long, every Workstation sending a packet every 100 ms.
    pub fn run_with_data(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            for id in self.stations.keys().copied().collect::<Vec<_>>() {
                self.data(id);
                self.tick_station(id);
            }
            self.run((MS * 100).min(end - self.now));
        }
    }

    /// Whether both sides use the same session.
    pub fn joined(&self, id: u32) -> bool {
        let station = self.stations[&id].worker.cur.as_ref();
        let gateway = self.workers.get(&id).and_then(|worker| worker.cur.as_ref());
        match (station, gateway) {
            (Some(station), Some(gateway)) => {
                station.install.index == gateway.install.peer_index
                    && gateway.install.index == station.install.peer_index
                    && station.install.keys.send.aead == gateway.install.keys.receive.aead
                    && station.install.keys.receive.aead == gateway.install.keys.send.aead
            }
            _ => false,
        }
    }

    /// Whether what the machines say agrees with what the workers have.
    pub fn mirrored(&mut self, id: u32) -> bool {
        let index = |live: &Option<Live>| live.as_ref().map(|live| live.install.index);
        let now = raw(self.now, self.gateway_skew);
        let gateway = self
            .gateway
            .workstation(now, id)
            .and_then(|info| info.cur.map(|cur| cur.index));
        let at_gateway = self.workers.get(&id).and_then(|worker| index(&worker.cur));
        let node = self.stations.get_mut(&id).unwrap();
        let now = raw(self.now, node.skew);
        node.machine.status(now).index == index(&node.worker.cur) && gateway == at_gateway
    }

    /// The session a Workstation uses, by its index.
    pub fn session(&self, id: u32) -> Option<u32> {
        self.stations[&id]
            .worker
            .cur
            .as_ref()
            .map(|live| live.install.index)
    }

    pub fn phase(&mut self, id: u32) -> Phase {
        let node = self.stations.get_mut(&id).unwrap();
        let now = raw(self.now, node.skew);
        node.machine.status(now).phase
    }

    pub fn status(&mut self, id: u32) -> Status {
        let node = self.stations.get_mut(&id).unwrap();
        let now = raw(self.now, node.skew);
        node.machine.status(now)
    }

    pub fn info(&mut self, id: u32) -> WorkstationInfo {
        let now = raw(self.now, self.gateway_skew);
        self.gateway.workstation(now, id).unwrap()
    }

    /// Frames in flight are lost.
    pub fn cut(&mut self) {
        self.queue
            .retain(|_, event| !matches!(event, Event::Arrive(_)));
    }

    /// The Gateway's process ends and starts again.
    pub fn restart_gateway(&mut self) {
        self.boots = self.boots.wrapping_add(1);
        let seed = self.random.bytes();
        let now = raw(self.now, self.gateway_skew);
        self.gateway = new_gateway(self.boots, seed, now, self.over_udp);
        self.workers.clear();
        self.gateway_slots.clear();
        self.gateway_nonces.clear();
        self.queue
            .retain(|_, event| !matches!(event, Event::Tell(End::Gateway, ..)));
        for enrolled in self.enrolled.values() {
            self.gateway.add(now, enrolled.clone()).unwrap();
        }
    }

    /// A Workstation's process ends and starts again.
    pub fn restart_station(&mut self, id: u32) {
        let seed = self.random.bytes();
        let config = carried(station_config(id, seed), self.over_udp);
        self.restart_station_as(id, config);
    }

    /// As [`Sim::restart_station`], configured otherwise.
    pub fn restart_station_as(&mut self, id: u32, config: WorkstationConfig) {
        let skew = self.stations[&id].skew;
        let (mac, keys) = (config.mac, config.key_id - key_id(0));
        let now = raw(self.now, skew);
        let mut node = new_node(Workstation::new(config, now), mac);
        node.keys = keys;
        node.skew = skew;
        self.stations.insert(id, node);
        self.queue.retain(
            |_, event| !matches!(event, Event::Tell(End::Station(other), ..) if *other == id),
        );
        self.with_station(id, |station, now| station.start(now));
    }
}

impl Node {
    /// XDP's memory of nonces is lost.
    pub fn forget_nonces(&mut self) {
        self.nonces.clear();
    }
}

fn new_node(machine: Workstation, mac: Mac) -> Node {
    Node {
        machine,
        worker: Worker::default(),
        mac,
        keys: 0,
        expected: 0,
        nonces: VecDeque::new(),
        sent: 0,
        opened: 0,
        echoes: 0,
        configured: 0,
        skew: 0,
    }
}

fn seal(live: &mut Live, to: End, source: Mac, plaintext: Vec<u8>) -> Packet {
    live.counter += 1;
    Packet {
        to,
        source,
        destination: mac_at(live.install.path),
        body: Body::Data {
            index: live.install.peer_index,
            key: live.install.keys.send.aead,
            counter: live.counter,
            plaintext,
        },
    }
}

fn peek(frame: &[u8]) -> (u8, u64) {
    let nonce = frame
        .get(8..16)
        .map_or(0, |nonce| u64::from_le_bytes(nonce.try_into().unwrap()));
    (frame.first().map_or(0, |first| first & 15), nonce)
}

fn remember(nonces: &mut VecDeque<u64>, nonce: u64) {
    nonces.push_back(nonce);
    if nonces.len() > 8 {
        nonces.pop_front();
    }
}

fn tag_is_good(frame: &[u8], psk: [u8; 32], w2g: bool) -> bool {
    use portcullis_control::handshake::{kdf, message};
    let knock = kdf::knock_keys(&psk);
    message::parse(frame).is_some_and(|(header, payload)| {
        message::tag_is_good(&header, if w2g { knock.w2g } else { knock.g2w }, payload)
    })
}
