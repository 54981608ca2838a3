//! The handshake and rekey state machines, the real code, explored by `stateright`: two
//! Workstations and one Gateway, each of which may crash and start again, and an attacker on the
//! cable that reorders, drops, replays, reflects, alters (with the admission key, as one who holds
//! it) and moves frames to another address.
//!
//! A state is what was done to reach it, done again on fresh machines: they are deterministic given
//! their seeds. Two states are the same when they agree on everything but names and exact jitter;
//! see [`World::print`]. Run it with
//! `cargo test -p portcullis-control --features model --test handshake_model`;
//! `PORTCULLIS_MODEL_DEEPER` says by how many steps more.

#[path = "handshake/sim.rs"]
mod sim;

use portcullis_control::handshake::message;
use portcullis_control::handshake::model::{Flaw, plant};
use portcullis_control::handshake::{Install, kdf};
use sim::*;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};
use wire::limits::HEADER_LEN;

const STATIONS: u32 = 2;

/// What can happen. Numbers are places on the cable, or in what the attacker has recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver(u8),
    Drop(u8),
    Replay(u8),
    Reflect(u8),
    Alter(u8),
    Move(u8),
    /// Time passes until something is due.
    Wait,
    Rekey(u8),
    RestartGateway,
    RestartStation(u8),
}

/// How often each may happen on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    drops: u8,
    forgeries: u8,
    waits: u8,
    rekeys: u8,
    restarts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Begin {
    /// Both Workstations have just started.
    Fresh,
    /// One has just started, the other is in session.
    OneFresh,
    /// Both are in session.
    InSession,
}

/// What was done, and what it led to.
#[derive(Clone, Debug)]
struct State {
    begin: Begin,
    log: Vec<Step>,
    left: Budget,
    print: u64,
    cable: u8,
    recorded: u8,
    /// A first session where there was none, or a rekey, was finished.
    progress: bool,
    violation: Option<String>,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        (self.print, self.left, &self.violation) == (other.print, other.left, &other.violation)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.print, self.left, self.violation.is_some()).hash(hasher);
    }
}

thread_local! {
    /// Panics are looked for and need not be shown.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

type Outbox = Rc<RefCell<Vec<Packet>>>;

/// A session as both ends must see it: our index, the other's, and both keys.
type Seen = (u32, u32, [u8; 32], [u8; 32]);

fn seen(install: &Install) -> Seen {
    let keys = &install.keys;
    (
        install.index,
        install.peer_index,
        keys.send.aead,
        keys.receive.aead,
    )
}

fn matches(one: &Seen, other: &Seen) -> bool {
    one.2 == other.3 && one.3 == other.2
}

struct World {
    sim: Sim,
    outbox: Outbox,
    cable: Vec<(String, Packet)>,
    recorded: Vec<(String, Packet)>,
    nonces: HashMap<(u32, u64), usize>,
    attempts: BTreeMap<u32, usize>,
    names: HashMap<(bool, u32, u32), usize>,
    installs: BTreeMap<(bool, u32), Vec<Seen>>,
    boots: u8,
    violation: Option<String>,
}

fn sessions(worker: &Worker) -> impl Iterator<Item = &Install> {
    [&worker.pending, &worker.cur, &worker.prev]
        .into_iter()
        .flatten()
        .map(|live| &live.install)
}

fn index(live: &Option<Live>) -> Option<u32> {
    live.as_ref().map(|live| live.install.index)
}

impl World {
    fn new(begin: Begin) -> Self {
        let mut sim = Sim::new(1, STATIONS);
        let outbox = Outbox::default();
        let mut before = Vec::new();
        if begin != Begin::Fresh {
            sim.tape = Some(Vec::new());
            sim.run(SECOND);
            before = sim.tape.take().unwrap_or_default();
        }
        sim.cut();
        let sink = outbox.clone();
        sim.filter = Some(Box::new(move |packet| {
            sink.borrow_mut().push(packet.clone());
            Vec::new()
        }));
        let mut world = Self {
            sim,
            outbox,
            cable: Vec::new(),
            recorded: Vec::new(),
            nonces: HashMap::new(),
            attempts: BTreeMap::new(),
            names: HashMap::new(),
            installs: BTreeMap::new(),
            boots: 0,
            violation: None,
        };
        world.observe();
        for packet in before {
            world.record(packet);
        }
        for id in 0..match begin {
            Begin::Fresh => STATIONS,
            Begin::OneFresh => 1,
            Begin::InSession => 0,
        } {
            world.sim.restart_station(id);
        }
        world.observe();
        world.collect();
        world.judge(&[], false);
        world
    }

    /// The world after these steps.
    fn replay(flaw: Option<Flaw>, begin: Begin, log: &[Step]) -> Self {
        plant(flaw);
        QUIET.set(true);
        let mut world = Self::new(begin);
        for step in log {
            world.step(*step);
        }
        QUIET.set(false);
        world
    }

    fn step(&mut self, step: Step) {
        let joined = self.joined();
        let crash = matches!(step, Step::RestartGateway | Step::RestartStation(_));
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.take(step);
            self.sim.run(Duration::ZERO);
        }));
        if let Err(panic) = done {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic");
            self.violation.get_or_insert(text.to_owned());
            return;
        }
        self.observe();
        self.collect();
        self.judge(&joined, crash);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Deliver(at) => {
                let (_, packet) = self.cable.remove(at.into());
                self.sim.inject(Duration::ZERO, packet);
            }
            Step::Drop(at) => {
                self.cable.remove(at.into());
            }
            Step::Replay(at) => {
                let packet = self.recorded[usize::from(at)].1.clone();
                self.force(packet);
            }
            Step::Reflect(at) => {
                let mut packet = self.recorded[usize::from(at)].1.clone();
                packet.to = match (packet.to, station_of(&packet)) {
                    (End::Station(_), _) => End::Gateway,
                    (End::Gateway, id) => End::Station(id),
                };
                self.force(packet);
            }
            Step::Alter(at) => {
                let mut packet = self.recorded[usize::from(at)].1.clone();
                alter(&mut packet);
                self.force(packet);
            }
            Step::Move(at) => {
                let mut packet = self.recorded[usize::from(at)].1.clone();
                packet.source = [2, 0, 0, 0, 7, 7];
                self.force(packet);
            }
            Step::Wait => {
                let stations = self.sim.stations.values();
                let due = stations
                    .filter_map(|node| node.machine.next_deadline())
                    .chain(self.sim.gateway.next_deadline())
                    .min();
                let now = self.sim.now;
                let length = due.map_or(SECOND, |at| at.saturating_sub(now));
                self.sim.run(length);
            }
            Step::Rekey(id) => {
                let id = id.into();
                if let Some(index) = self.sim.session(id) {
                    self.sim
                        .with_station(id, |machine, now| machine.limit_near(now, index));
                }
            }
            Step::RestartGateway => {
                self.boots += 1;
                self.sim.restart_gateway();
            }
            Step::RestartStation(id) => self.sim.restart_station(id.into()),
        }
    }

    /// Delivers past what XDP remembers of nonces: the attacker has outlasted it.
    fn force(&mut self, packet: Packet) {
        match (packet.to, &packet.body) {
            (End::Gateway, Body::Handshake(frame)) => {
                self.sim.gateway_frame_past_xdp(packet.source, frame);
            }
            (End::Station(id), _) => {
                if let Some(node) = self.sim.stations.get_mut(&id) {
                    node.forget_nonces();
                }
                self.sim.inject(Duration::ZERO, packet);
            }
            _ => self.sim.inject(Duration::ZERO, packet),
        }
    }

    /// Takes what was sent: onto the cable, and into the attacker's memory.
    fn collect(&mut self) {
        let sent: Vec<_> = self.outbox.borrow_mut().drain(..).collect();
        for packet in sent {
            let label = self.record(packet.clone());
            self.cable.push((label, packet));
        }
    }

    fn record(&mut self, packet: Packet) -> String {
        let label = self.label(&packet);
        if !self.recorded.iter().any(|(known, _)| *known == label) {
            self.recorded.push((label.clone(), packet));
        }
        label
    }

    /// A frame by what it is, with names that do not hang on the order of unrelated events.
    fn label(&mut self, packet: &Packet) -> String {
        let id = station_of(packet);
        let to = packet.to;
        match &packet.body {
            Body::Handshake(frame) => match packet.kind() {
                6 => format!("{to:?} reset of boot {}", frame[HEADER_LEN]),
                kind => format!("{to:?} {kind} {}", self.nonce(id, &frame[8..16])),
            },
            Body::Data {
                index, plaintext, ..
            } => {
                let name = self.names.get(&(to == End::Gateway, id, *index)).copied();
                let kind = plaintext[0];
                let nonce = match kind {
                    1 | 2 => self.nonce(id, &plaintext[8..16]),
                    _ => 0,
                };
                format!("{to:?} data {name:?} {kind} {nonce}")
            }
        }
    }

    /// Which of a Workstation's attempts a nonce is of.
    fn nonce(&mut self, id: u32, bytes: &[u8]) -> usize {
        let nonce = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let attempts = self.attempts.entry(id).or_default();
        *self.nonces.entry((id, nonce)).or_insert_with(|| {
            *attempts += 1;
            *attempts
        })
    }

    /// Names new sessions and remembers them.
    fn observe(&mut self) {
        for id in 0..STATIONS {
            for gateway in [false, true] {
                let worker = match gateway {
                    true => self.sim.workers.get(&id),
                    false => self.sim.stations.get(&id).map(|node| &node.worker),
                };
                let Some(worker) = worker else { continue };
                let all = self.installs.entry((gateway, id)).or_default();
                for install in sessions(worker) {
                    let seen = seen(install);
                    if !all.contains(&seen) {
                        all.push(seen);
                        self.names.insert((gateway, id, install.index), all.len());
                    }
                }
            }
        }
    }

    /// The session each Workstation shares with the Gateway: both indexes.
    fn joined(&self) -> Vec<Option<(u32, u32)>> {
        (0..STATIONS)
            .map(|id| {
                let gateway = index(&self.sim.workers.get(&id)?.cur)?;
                self.sim
                    .joined(id)
                    .then_some((gateway, self.sim.session(id)?))
            })
            .collect()
    }

    /// Checks everything that must hold after a step.
    fn judge(&mut self, joined: &[Option<(u32, u32)>], crash: bool) {
        if self.violation.is_none() {
            self.violation = self.wrong(joined, crash);
        }
    }

    fn wrong(&mut self, joined: &[Option<(u32, u32)>], crash: bool) -> Option<String> {
        let mut keys = BTreeSet::new();
        for id in 0..STATIONS {
            let empty = Worker::default();
            let gateway = self.sim.workers.get(&id).unwrap_or(&empty);
            let station = &self.sim.stations[&id].worker;
            // Agreement: same keys, and then the same session in every respect, or neither.
            for ours in sessions(gateway) {
                for theirs in sessions(station) {
                    let (one, other) = (seen(ours), seen(theirs));
                    let same = matches(&one, &other);
                    if same != (one.0 == other.1 && one.1 == other.0) {
                        return Some("indexes and keys disagree".into());
                    }
                    let details = |of: &Install| {
                        let keys = &of.keys;
                        (keys.cipher, keys.protection, of.mtu, of.padding)
                    };
                    if same && details(ours) != details(theirs) {
                        return Some("the ends disagree about a session".into());
                    }
                }
                if !keys.insert(ours.keys.send.aead) {
                    return Some("two sessions have one key".into());
                }
            }
            // Key confirmation: what is in use was made by both, each once.
            let at = |gateway| self.installs.get(&(gateway, id)).into_iter().flatten();
            for (worker, gateway) in [(gateway, true), (station, false)] {
                let Some(live) = &worker.cur else { continue };
                let one = seen(&live.install);
                if !at(!gateway).any(|other| matches(&one, other)) {
                    return Some(format!(
                        "a session of {id} in use that the other side has not"
                    ));
                }
            }
            let answered: Vec<u32> = at(true).map(|seen| seen.1).collect();
            let distinct: BTreeSet<_> = answered.iter().collect();
            if distinct.len() != answered.len() {
                return Some(format!("an attempt of {id} was answered twice"));
            }
            // A machine uses no session before its worker has opened a frame under it.
            if !self.sim.mirrored(id) {
                return Some(format!("a machine of {id} and its worker disagree"));
            }
            // A running session is disturbed by nothing but its own age.
            let young = self.sim.now < START + SECOND * 170;
            if let (false, true, Some(Some((at_gateway, at_station)))) =
                (crash, young, joined.get(id as usize))
            {
                let empty = Worker::default();
                let gateway = self.sim.workers.get(&id).unwrap_or(&empty);
                let station = &self.sim.stations[&id].worker;
                let lives = |worker: &Worker, wanted| {
                    [index(&worker.cur), index(&worker.prev)].contains(&Some(wanted))
                };
                if !lives(gateway, *at_gateway) || !lives(station, *at_station) {
                    return Some(format!("the running session of {id} was disturbed"));
                }
            }
        }
        None
    }

    /// What makes a state this one and no other: phases, sessions and timers of all machines, what
    /// is on the cable, what the attacker has. Bytes stand under their names, and a time until
    /// something is due is rounded.
    fn print(&mut self) -> u64 {
        let mut text = String::new();
        let now = self.sim.now;
        let until = |at: Option<Duration>| {
            at.map(|at| match at.saturating_sub(now).as_millis() {
                short if short < 5_000 => short / 250,
                long => 100 + long / 10_000,
            })
        };
        for id in 0..STATIONS {
            let status = self.sim.status(id);
            let info = self.sim.info(id);
            let node = &self.sim.stations[&id];
            let name = |gateway: bool, live: &Option<Live>| {
                index(live).and_then(|index| self.names.get(&(gateway, id, index)))
            };
            let worker = |gateway: bool, worker: &Worker| {
                format!(
                    "{:?} {:?} {:?}",
                    name(gateway, &worker.pending),
                    name(gateway, &worker.cur),
                    name(gateway, &worker.prev)
                )
            };
            let empty = Worker::default();
            let _ = writeln!(
                text,
                "{:?} {} {} {:?} {:?} {} | {:?} {} {:?}",
                status.phase,
                status.unresponsive,
                status.failures.min(3),
                self.nonces.get(&(id, node.expected)),
                until(node.machine.next_deadline()),
                worker(false, &node.worker),
                info.outcomes,
                worker(true, self.sim.workers.get(&id).unwrap_or(&empty)),
                until(self.sim.gateway.next_deadline()),
            );
        }
        let mut cable: Vec<_> = self.cable.iter().map(|(label, _)| label).collect();
        cable.sort();
        let mut recorded: Vec<_> = self.recorded.iter().map(|(label, _)| label).collect();
        recorded.sort();
        let mut hasher = DefaultHasher::new();
        (text, cable, recorded, self.boots).hash(&mut hasher);
        hasher.finish()
    }

    /// The attacker stops: within five seconds both are in session, and data comes back.
    fn recovers(mut self) -> bool {
        QUIET.set(true);
        let recovered = catch_unwind(AssertUnwindSafe(|| {
            self.sim.filter = None;
            for (_, packet) in std::mem::take(&mut self.cable) {
                self.sim.inject(Duration::ZERO, packet);
            }
            self.sim.run_with_data(SECOND * 5);
            (0..STATIONS).all(|id| {
                self.sim.run(MS * 5);
                let before = self.sim.stations[&id].opened;
                self.sim.data(id);
                self.sim.run(MS * 5);
                self.sim.joined(id)
                    && self.sim.mirrored(id)
                    && self.sim.stations[&id].opened > before
            }) && {
                self.observe();
                self.wrong(&[], false).is_none()
            }
        }));
        QUIET.set(false);
        recovered.unwrap_or(false)
    }
}

/// The Workstation a frame is from or to.
fn station_of(packet: &Packet) -> u32 {
    match (packet.to, &packet.body) {
        (End::Station(id), _) => id,
        (End::Gateway, Body::Handshake(frame)) => {
            let bytes = frame[4..8].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes).wrapping_sub(key_id(0))
        }
        (End::Gateway, Body::Data { .. }) => packet.source[5].into(),
    }
}

/// Changes a byte behind the header, and makes the admission tag right again.
fn alter(packet: &mut Packet) {
    let (to, id) = (packet.to, station_of(packet));
    match &mut packet.body {
        Body::Handshake(frame) => {
            let last = frame.len() - 20;
            frame[last] ^= 1;
            let knock = kdf::knock_keys(&station_psk(id));
            let key = match to {
                End::Gateway => knock.w2g,
                End::Station(_) => knock.g2w,
            };
            if let Some((header, payload)) = message::parse(frame) {
                let tag = header.handshake_tag(key, payload);
                frame[HEADER_LEN - 8..HEADER_LEN].copy_from_slice(&tag.to_le_bytes());
            }
        }
        // Without the key nothing is sealed: another key stands for another ciphertext.
        Body::Data { key, .. } => key[0] ^= 1,
    }
}

/// The machines under the attacker, within a budget.
#[derive(Clone)]
struct Cable {
    begin: Begin,
    /// What has been done before.
    before: Vec<Step>,
    budget: Budget,
    /// How many steps a path has at most, from there on.
    steps: usize,
    flaw: Option<Flaw>,
}

impl Cable {
    fn state(&self, begin: Begin, log: Vec<Step>, left: Budget) -> State {
        let mut world = World::replay(self.flaw, begin, &log);
        State {
            begin,
            log,
            left,
            print: world.print(),
            progress: {
                let (first, rekeys) = world.sim.status(0).handshakes;
                match begin {
                    Begin::Fresh | Begin::OneFresh => first > 0,
                    Begin::InSession => rekeys > 0,
                }
            },
            cable: world.cable.len() as u8,
            recorded: world.recorded.len() as u8,
            violation: world.violation,
        }
    }
}

impl Model for Cable {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(self.begin, self.before.clone(), self.budget)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        // Not the checker's own bound on depth: that makes the last states without checking them.
        if state.violation.is_some() || state.log.len() >= self.before.len() + self.steps {
            return;
        }
        let left = &state.left;
        actions.extend((0..state.cable).map(Step::Deliver));
        if left.drops > 0 {
            actions.extend((0..state.cable).map(Step::Drop));
        }
        if left.forgeries > 0 {
            for at in 0..state.recorded {
                actions.extend([
                    Step::Replay(at),
                    Step::Reflect(at),
                    Step::Alter(at),
                    Step::Move(at),
                ]);
            }
        }
        if left.waits > 0 {
            actions.push(Step::Wait);
        }
        // The first Workstation stands for both: only their names differ, or it has just started.
        if left.rekeys > 0 {
            actions.push(Step::Rekey(0));
        }
        if left.restarts > 0 {
            actions.extend([Step::RestartGateway, Step::RestartStation(0)]);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut left = last.left;
        let spent = match step {
            Step::Deliver(_) => None,
            Step::Drop(_) => Some(&mut left.drops),
            Step::Replay(_) | Step::Reflect(_) | Step::Alter(_) | Step::Move(_) => {
                Some(&mut left.forgeries)
            }
            Step::Wait => Some(&mut left.waits),
            Step::Rekey(_) => Some(&mut left.rekeys),
            Step::RestartGateway | Step::RestartStation(_) => Some(&mut left.restarts),
        };
        if let Some(spent) = spent {
            *spent -= 1;
        }
        let log = last.log.iter().copied().chain([step]).collect();
        Some(self.state(last.begin, log, left))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safety", |_, state: &State| state.violation.is_none()),
            Property::always("liveness", |model: &Cable, state: &State| {
                state.violation.is_some()
                    || World::replay(model.flaw, state.begin, &state.log).recovers()
            }),
            // Or the rest would hold of nothing.
            Property::sometimes("progress", |_, state: &State| state.progress),
        ]
    }
}

fn from_environment(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok());
    value.unwrap_or(default)
}

fn hush() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            shown(info);
        }
    }));
}

/// Explores, prints what was seen, and gives the first violation of either sort; and whether anything
/// was achieved.
fn explore(name: &str, model: Cable) -> (Option<String>, bool) {
    let begun = Instant::now();
    let checker = model
        .checker()
        // One thread reaches each state by the fewest steps, so that no path is cut short.
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states ({} different), {} steps, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth() - 1,
        begun.elapsed().as_secs_f64()
    );
    let found = ["safety", "liveness"].into_iter().find_map(|property| {
        let path = checker.discovery(property)?;
        let last = path.last_state();
        let what = last.violation.as_deref().unwrap_or("no session in 5 s");
        Some(format!(
            "{property}: {what}: {:?} {:?}",
            last.begin, last.log
        ))
    });
    (found, checker.discovery("progress").is_some())
}

/// What the attacker may do on one path, and what else happens.
const ATTACK: Budget = Budget {
    drops: 1,
    forgeries: 1,
    waits: 2,
    rekeys: 1,
    restarts: 1,
};

#[test]
fn no_attacker_within_the_bounds_breaks_agreement_confirmation_a_running_session_or_liveness() {
    hush();
    let deeper = from_environment("PORTCULLIS_MODEL_DEEPER", 0);
    for begin in [Begin::Fresh, Begin::OneFresh, Begin::InSession] {
        let model = Cable {
            begin,
            before: Vec::new(),
            budget: ATTACK,
            steps: 5 + deeper,
            flaw: None,
        };
        let (found, _) = explore(&format!("{begin:?}"), model);
        assert_eq!(found, None);
    }
}

/// The same from every point of a first handshake and of a rekey, so that an attacker comes in at each.
#[test]
fn no_attacker_within_the_bounds_breaks_a_handshake_or_a_rekey_that_is_under_way() {
    hush();
    let deeper = from_environment("PORTCULLIS_MODEL_DEEPER", 0);
    let first = (1..=6).map(|count| (Begin::OneFresh, vec![Step::Deliver(0); count]));
    let rekey = (0..=4).map(|count| {
        let delivered = std::iter::repeat_n(Step::Deliver(0), count);
        let steps = std::iter::once(Step::Rekey(0)).chain(delivered);
        (Begin::InSession, steps.collect())
    });
    for all in [first.collect::<Vec<_>>(), rekey.collect()] {
        let mut finished = false;
        for (begin, before) in all {
            let name = format!("{begin:?} after {before:?}");
            let model = Cable {
                begin,
                before,
                budget: ATTACK,
                steps: 4 + deeper,
                flaw: None,
            };
            let (found, progress) = explore(&name, model);
            assert_eq!(found, None);
            finished |= progress;
        }
        assert!(finished, "none was finished under attack");
    }
}

/// Without this the rest could hold of nothing.
#[test]
fn without_an_attacker_a_session_and_a_rekey_come_about() {
    hush();
    for begin in [Begin::Fresh, Begin::OneFresh, Begin::InSession] {
        let model = Cable {
            begin,
            before: Vec::new(),
            budget: Budget {
                drops: 0,
                forgeries: 0,
                waits: 0,
                restarts: 0,
                ..ATTACK
            },
            steps: 8,
            flaw: None,
        };
        let (found, progress) = explore(&format!("{begin:?} alone"), model);
        assert_eq!(found, None);
        assert!(progress, "{begin:?}: nothing came about");
    }
}

#[test]
fn every_planted_flaw_is_found() {
    hush();
    // The smaller searches first: most flaws show without a crash.
    let small = Budget {
        waits: 1,
        restarts: 0,
        ..ATTACK
    };
    let searches = [
        (Begin::InSession, small),
        (Begin::OneFresh, small),
        (Begin::OneFresh, Budget { waits: 1, ..ATTACK }),
    ];
    for flaw in Flaw::ALL {
        let found = searches.into_iter().find_map(|(begin, budget)| {
            let model = Cable {
                begin,
                before: Vec::new(),
                budget,
                steps: 4,
                flaw: Some(flaw),
            };
            explore(&format!("{flaw:?}"), model).0
        });
        let found = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        println!("  {found}");
    }
}
