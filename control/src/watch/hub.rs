//! Who watches what, and the thread that reads the rings while anybody does.

use super::{Dropped, Line, MOST_RATE, RATE, Watch};
use crate::problem::{Kind, Problem};
use crate::thread;
use dataplane::tap::{HOST, NOBODY, Reason, Tap};
use dataplane::wall::{self, Samples, Wanted};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use wire::limits::SECOND;
use wire::tables::Bucket;
use wire::watch::{SNAPLEN, VERDICTS};
use wire::{PinnedVerdict, Verdict};

/// How often rings are looked at: a ring holds more than comes in that time at the highest rate.
const ROUND: Duration = Duration::from_millis(10);
/// How often a watcher is told what it missed.
const REPORT: Duration = Duration::from_secs(1);
/// Samples taken from a ring at once.
const BATCH: usize = 1024;
/// Lines that wait for a watcher, at most.
const WAITING: usize = 1024;
/// Watchers at once.
const MOST_WATCHERS: usize = 4;

/// A port that is watched.
#[derive(Debug, Clone)]
pub struct Port {
    /// The interface.
    pub interface: String,
    /// Its samples.
    pub samples: Arc<Samples>,
    /// Of a pinned port the MAC addresses of its pins, by number.
    pub pins: Option<Vec<String>>,
}

impl Port {
    /// The names of its verdicts, by number.
    fn names(&self) -> Vec<&'static str> {
        match self.pins {
            None => Verdict::ALL.map(Verdict::name).to_vec(),
            Some(_) => PinnedVerdict::ALL.map(PinnedVerdict::name).to_vec(),
        }
    }

    /// The verdicts that a filter wants of it, a bit each.
    fn mask(&self, filter: &Filter) -> u64 {
        // A pin is no Workstation of the registry's.
        match filter.workstation.is_some() && self.pins.is_some() {
            true => 0,
            false => filter.mask(&self.interface, &self.names()),
        }
    }
}

/// What the workers of the tunnel ports drop.
#[derive(Debug)]
struct Workers {
    tap: Arc<Tap>,
    /// Their ports, by number.
    ports: Vec<String>,
    /// The host interface, by which comes what has not been sealed.
    host: String,
    /// Samples that have been missed and told of.
    missed: u64,
}

impl Workers {
    /// The reasons that a filter wants of them, a bit each.
    fn mask(&self, filter: &Filter) -> u64 {
        let names = Reason::ALL.map(Reason::name);
        let all = self.ports.iter().chain([&self.host]);
        let masks = all.map(|port| filter.mask(port, &names));
        masks.fold(0, |a, b| a | b)
    }

    /// The name of an interface that a sample came by.
    fn name(&self, port: dataplane::PortId) -> Option<&String> {
        match port {
            HOST => Some(&self.host),
            port => self.ports.get(usize::from(port)),
        }
    }
}

/// A frame that was dropped, by whomever.
struct Seen<'a> {
    /// By the clock of whoever saw it, and by how much Unix time is ahead of that.
    time: (u64, u64),
    port: &'a str,
    queue: Option<u32>,
    verdict: &'static str,
    of: Option<u32>,
    /// The name of that.
    workstation: Option<&'a String>,
    length: u32,
    head: &'a [u8],
    inner: &'a [u8],
}

/// A checked [`Watch`].
#[derive(Debug, Clone, Default)]
struct Filter {
    workstation: Option<u32>,
    port: Option<String>,
    verdicts: Vec<String>,
    rate: u32,
    snaplen: usize,
}

impl Filter {
    /// Which of these verdicts of a port are wanted, a bit each.
    fn mask(&self, port: &str, names: &[&str]) -> u64 {
        let bit = |(at, name): (usize, &&str)| u64::from(self.wants(port, name)) << at;
        names.iter().enumerate().map(bit).sum()
    }

    fn wants(&self, port: &str, verdict: &str) -> bool {
        self.port.as_ref().is_none_or(|only| only == port)
            && (self.verdicts.is_empty() || self.verdicts.iter().any(|one| one == verdict))
    }

    fn of(watch: &Watch, workstation: Option<u32>) -> Result<Self, Problem> {
        let tried = "watching what is dropped";
        let names: Vec<_> = verdict_names().collect();
        if let Some(other) = watch
            .verdicts
            .iter()
            .find(|name| !names.contains(&name.as_str()))
        {
            return Err(Problem::new(
                Kind::Invalid,
                tried,
                format!("there is no verdict {other:?} that frames are dropped by"),
                format!("name some of {}", names.join(", ")),
            ));
        }
        let rate = watch.rate.unwrap_or(RATE);
        if !(1..=MOST_RATE).contains(&rate) {
            return Err(Problem::new(
                Kind::Invalid,
                tried,
                format!("a rate of {rate} samples a second"),
                format!("choose one from 1 to {MOST_RATE}"),
            ));
        }
        Ok(Self {
            workstation,
            port: watch.port.clone(),
            verdicts: watch.verdicts.clone(),
            rate,
            snaplen: watch
                .snaplen
                .map_or(SNAPLEN, |snaplen| (snaplen as usize).min(SNAPLEN)),
        })
    }
}

/// The names of the verdicts that XDP drops by on a tunnel port.
pub(super) fn tunnel_names() -> impl Iterator<Item = &'static str> {
    let drops = Verdict::ALL.into_iter().filter(|v| v.is_drop());
    drops.map(Verdict::name)
}

/// Those on a pinned port.
pub(super) fn pinned_names() -> impl Iterator<Item = &'static str> {
    let drops = PinnedVerdict::ALL
        .into_iter()
        .filter(|verdict| !matches!(verdict, PinnedVerdict::Answered | PinnedVerdict::Passed));
    drops.map(PinnedVerdict::name)
}

/// Those that a worker drops by.
pub(super) fn worker_names() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::name)
}

/// The names of all verdicts that are drops, each once.
pub(super) fn verdict_names() -> impl Iterator<Item = &'static str> {
    let pinned = pinned_names().filter(|name| !tunnel_names().any(|other| other == *name));
    tunnel_names().chain(worker_names()).chain(pinned)
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    filter: Filter,
    lines: Sender<Line>,
    /// One for each port and verdict: the rings may be read at another watcher's higher rate.
    buckets: HashMap<(String, &'static str), Bucket>,
    missed: u64,
    reported: Instant,
}

/// A port, and how many of its samples have been missed and told of.
#[derive(Debug)]
struct Known {
    port: Port,
    missed: u64,
}

#[derive(Debug, Default)]
struct State {
    ports: Vec<Known>,
    workers: Option<Workers>,
    /// Workstations by number.
    names: HashMap<u32, String>,
    watchers: Vec<Watcher>,
    next: u64,
    running: bool,
}

/// Ports, and who watches them.
#[derive(Debug, Default)]
pub struct Hub(Mutex<State>);

/// What a watcher gets. Dropped, it watches no more.
#[derive(Debug)]
pub struct Stream {
    id: u64,
    lines: Receiver<Line>,
    hub: Weak<Hub>,
}

impl Stream {
    /// The next line; `None` when the daemon ends.
    pub async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            let mut state = hub.state();
            state.watchers.retain(|watcher| watcher.id != self.id);
            state.fit();
        }
    }
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workers, their ports by number, and the host interface.
    pub fn set_workers(&self, tap: Arc<Tap>, ports: Vec<String>, host: &str) {
        let mut state = self.state();
        state.workers = Some(Workers {
            missed: tap.missed(),
            tap,
            ports,
            host: host.to_owned(),
        });
        state.fit();
    }

    /// The ports that are up now, in the place of those that were.
    pub fn set_ports(&self, ports: Vec<Port>) {
        let mut state = self.state();
        let known = |port: Port| Known {
            missed: port.samples.missed(),
            port,
        };
        state.ports = ports.into_iter().map(known).collect();
        state.fit();
    }

    /// Whether these are the ports that it knows.
    pub fn knows<'a>(&self, ports: impl Iterator<Item = &'a Arc<Samples>>) -> bool {
        let state = self.state();
        let known = state
            .ports
            .iter()
            .map(|known| Arc::as_ptr(&known.port.samples));
        known.eq(ports.map(Arc::as_ptr))
    }

    /// Begins to watch. `names` are the Workstations by number, of which one may be asked for.
    ///
    /// # Errors
    /// What was asked for is not there, or too many watch already.
    pub fn watch(
        self: &Arc<Self>,
        watch: &Watch,
        names: HashMap<u32, String>,
    ) -> Result<Stream, Problem> {
        let missing = |what: &str, name: &str, see: &str| {
            let happened = format!("there is no {what} {name}");
            Problem::new(Kind::NotFound, "watching what is dropped", happened, see)
        };
        let mut state = self.state();
        let workstation = match &watch.workstation {
            None => None,
            Some(name) => {
                let found = names.iter().find(|(_, other)| *other == name);
                let see = "see `portcullis workstation list`; one that is off has no drops";
                Some(*found.ok_or_else(|| missing("Workstation", name, see))?.0)
            }
        };
        let host = state.workers.iter().map(|workers| &workers.host);
        if let Some(port) = &watch.port
            && !state
                .ports
                .iter()
                .map(|known| &known.port.interface)
                .chain(host)
                .any(|known| known == port)
        {
            return Err(missing(
                "tunnel or pinned port that is up, nor a host interface,",
                port,
                "see `portcullis show`",
            ));
        }
        let filter = Filter::of(watch, workstation)?;
        if state.watchers.len() >= MOST_WATCHERS {
            return Err(Problem::new(
                Kind::Conflict,
                "watching what is dropped",
                format!("{MOST_WATCHERS} others watch already"),
                "end one of them",
            ));
        }
        let (lines, receiver) = channel(WAITING);
        let id = state.next;
        state.next += 1;
        state.names = names;
        state.watchers.push(Watcher {
            id,
            filter,
            lines,
            buckets: HashMap::new(),
            missed: 0,
            reported: Instant::now(),
        });
        state.fit();
        if !state.running {
            let hub = Arc::downgrade(self);
            thread::start("watch", move || read(&hub))
                .map_err(|error| Problem::io("watching what is dropped", &error))?;
            state.running = true;
        }
        Ok(Stream {
            id,
            lines: receiver,
            hub: Arc::downgrade(self),
        })
    }
}

impl State {
    /// Has each port, and the workers, sample what their watchers want together.
    fn fit(&self) {
        for Known { port, .. } in &self.ports {
            port.samples.want(&self.wanted(|filter| port.mask(filter)));
        }
        if let Some(workers) = &self.workers {
            workers
                .tap
                .want(&self.wanted(|filter| workers.mask(filter)));
        }
    }

    fn wanted(&self, mask: impl Fn(&Filter) -> u64) -> Wanted {
        let filters = || self.watchers.iter().map(|watcher| &watcher.filter);
        let of = || filters().filter(|filter| mask(filter) != 0);
        let only = of().next().and_then(|first| first.workstation);
        Wanted {
            verdicts: of().map(&mask).fold(0, |a, b| a | b),
            only: only.filter(|_| of().all(|filter| filter.workstation == only)),
            rate: of().map(|filter| filter.rate).max().unwrap_or(1),
        }
    }

    fn round(&mut self) {
        let mut missed = 0;
        let ahead = ahead(ClockId::CLOCK_MONOTONIC);
        let (all, watchers) = (&self.names, &mut self.watchers);
        for Known { port, missed: told } in &mut self.ports {
            let names = port.names();
            port.samples.drain(BATCH, |dropped| {
                let verdict = names.get(dropped.verdict as usize % VERDICTS).copied();
                let Some(verdict) = verdict else {
                    return;
                };
                let workstation = dropped.of.and_then(|of| match &port.pins {
                    None => all.get(&of),
                    Some(pins) => pins.get(of as usize),
                });
                let pinned = port.pins.is_some();
                let seen = Seen {
                    time: (dropped.time, ahead),
                    port: &port.interface,
                    queue: Some(dropped.queue),
                    verdict,
                    of: dropped.of.filter(|_| !pinned),
                    workstation,
                    length: dropped.length,
                    head: dropped.bytes,
                    inner: &[],
                };
                watchers.iter_mut().for_each(|watcher| watcher.take(&seen));
            });
            let ever = port.samples.missed();
            missed += ever - std::mem::replace(told, ever);
        }
        if let Some(workers) = &mut self.workers {
            let ahead = self::ahead(ClockId::CLOCK_BOOTTIME);
            for _ in 0..BATCH {
                let Some(sample) = workers.tap.next() else {
                    break;
                };
                let Some(port) = workers.name(sample.port) else {
                    continue;
                };
                // What was not sealed is one packet in clear, and not one in another.
                let clear = [sample.outer(), sample.inner()].concat();
                let (head, inner) = match sample.port {
                    HOST => (&*clear, &[][..]),
                    _ => (sample.outer(), sample.inner()),
                };
                let seen = Seen {
                    time: (sample.time, ahead),
                    port,
                    queue: None,
                    verdict: sample.reason.name(),
                    of: Some(sample.of).filter(|of| *of != NOBODY),
                    workstation: all.get(&sample.of),
                    length: sample.length,
                    head,
                    inner,
                };
                watchers.iter_mut().for_each(|watcher| watcher.take(&seen));
            }
            let ever = workers.tap.missed();
            missed += ever - std::mem::replace(&mut workers.missed, ever);
        }
        let now = Instant::now();
        self.watchers.retain_mut(|watcher| {
            watcher.missed += missed;
            if now - watcher.reported < REPORT {
                return true;
            }
            watcher.reported = now;
            // A stream whose reader has gone is found out by writing to it.
            let told = watcher.lines.try_send(Line::Missed(watcher.missed));
            !matches!(told, Err(TrySendError::Closed(_)))
        });
    }
}

impl Watcher {
    fn take(&mut self, seen: &Seen<'_>) {
        let filter = &self.filter;
        if !filter.wants(seen.port, seen.verdict)
            || filter.workstation.is_some() && filter.workstation != seen.of
        {
            return;
        }
        let rate = u64::from(filter.rate);
        let key = (seen.port.to_owned(), seen.verdict);
        let bucket = self.buckets.entry(key).or_default();
        let (time, ahead) = seen.time;
        if !bucket.take(time, (SECOND / rate, wall::burst(rate))) {
            return;
        }
        let head = &seen.head[..seen.head.len().min(filter.snaplen)];
        let line = Line::Dropped(Dropped {
            time: time.wrapping_add(ahead),
            port: seen.port.to_owned(),
            queue: seen.queue,
            verdict: seen.verdict.to_owned(),
            workstation: seen.workstation.cloned(),
            length: seen.length,
            head: hex::encode(head),
            inner: hex::encode(seen.inner),
        });
        if self.lines.try_send(line).is_err() {
            self.missed += 1;
        }
    }
}

/// Reads the rings until nobody watches.
fn read(hub: &Weak<Hub>) {
    loop {
        let Some(hub) = hub.upgrade() else { return };
        let mut state = hub.state();
        if state.watchers.is_empty() {
            state.running = false;
            return;
        }
        state.round();
        drop(state);
        drop(hub);
        std::thread::sleep(ROUND);
    }
}

/// By how much Unix time is ahead of a clock.
fn ahead(clock: ClockId) -> u64 {
    let now = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let ahead = now(ClockId::CLOCK_REALTIME).saturating_sub(now(clock));
    ahead.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_not_is_refused_in_words() {
        let hub = Arc::new(Hub::default());
        let names = HashMap::from([(1, "alpha".to_owned())]);
        let refused = |watch: &Watch| hub.watch(watch, names.clone()).unwrap_err();
        let problem = refused(&Watch {
            workstation: Some("beta".into()),
            ..Watch::default()
        });
        assert!(problem.happened.contains("beta"), "{problem}");
        let problem = refused(&Watch {
            port: Some("eth9".into()),
            ..Watch::default()
        });
        assert!(problem.happened.contains("eth9"), "{problem}");
        let problem = refused(&Watch {
            verdicts: vec!["admitted".into()],
            ..Watch::default()
        });
        assert!(problem.remedy.contains("bad_tag"), "{}", problem.remedy);
        for rate in [0, MOST_RATE + 1] {
            let problem = refused(&Watch {
                rate: Some(rate),
                ..Watch::default()
            });
            assert_eq!(problem.kind, Kind::Invalid);
        }
    }

    #[test]
    fn no_more_watch_than_there_is_room_for_and_one_that_goes_makes_room() {
        let hub = Arc::new(Hub::default());
        let watch = || hub.watch(&Watch::default(), HashMap::new());
        let mut streams: Vec<_> = (0..MOST_WATCHERS).map(|_| watch().unwrap()).collect();
        assert_eq!(watch().unwrap_err().kind, Kind::Conflict);
        streams.pop();
        streams.push(watch().unwrap());
        drop(streams);
        // The thread ends, and another begins with the next watcher.
        let deadline = Instant::now() + Duration::from_secs(10);
        while hub.state().running {
            assert!(Instant::now() < deadline, "it reads on for nobody");
            std::thread::yield_now();
        }
        drop(watch().unwrap());
    }
}
