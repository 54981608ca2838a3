//! Rates, from one look to the next.

use crate::api::{Counters, PortStatus, Status, Traffic, WorkstationStatus};
use crate::show;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

/// How many rates are remembered for the sparklines.
pub const HISTORY: usize = 120;

/// What happens in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    /// Packets or frames.
    pub frames: f64,
    /// Their bits.
    pub bits: f64,
}

/// The rates of a port or a Workstation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    /// What came in and was let in.
    pub from: Flow,
    /// What went out.
    pub to: Flow,
    /// Frames and packets dropped, at the wall and after it.
    pub dropped: f64,
    /// Frames the rings lost.
    pub lost: f64,
    /// Frames that the AEAD opened.
    pub opened: f64,
    /// Each counter, of verdicts, drops and losses.
    pub counters: BTreeMap<String, f64>,
    /// Frames or packets a second at the looks before, the latest last.
    pub history: VecDeque<u64>,
}

/// Whose rates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A port's, by interface.
    Port(String),
    /// A Workstation's, by name.
    Workstation(String),
}

/// All rates between the last two looks.
#[derive(Debug, Default)]
pub struct Meter {
    before: Option<(Instant, Status)>,
    rates: HashMap<Key, Rates>,
}

impl Meter {
    /// The latest rates of somebody.
    pub fn of(&self, key: &Key) -> Rates {
        self.rates.get(key).cloned().unwrap_or_default()
    }

    /// Takes a look into account.
    pub fn take(&mut self, at: Instant, status: &Status) {
        let Some((then, before)) = self.before.replace((at, status.clone())) else {
            return;
        };
        let seconds = at.duration_since(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        // A daemon that was started again counts from zero.
        let again = status.started_seconds < before.started_seconds;
        let mut rates = HashMap::new();
        for port in &status.ports {
            let key = Key::Port(port.interface.clone());
            let old = before
                .ports
                .iter()
                .find(|old| old.interface == port.interface);
            let old = old.filter(|_| !again).cloned();
            rates.insert(key, of_port(old.unwrap_or_default(), port, seconds));
        }
        let old: HashMap<&str, &WorkstationStatus> = match again {
            true => HashMap::new(),
            false => before
                .workstations
                .iter()
                .map(|old| (&*old.name, old))
                .collect(),
        };
        for one in &status.workstations {
            let key = Key::Workstation(one.name.clone());
            let old = old.get(&*one.name).map(|old| (*old).clone());
            rates.insert(key, of_workstation(old.unwrap_or_default(), one, seconds));
        }
        for (key, rates) in &mut rates {
            rates.history = self
                .rates
                .remove(key)
                .map(|rates| rates.history)
                .unwrap_or_default();
            rates
                .history
                .push_back((rates.from.frames + rates.to.frames + rates.dropped) as u64);
            while rates.history.len() > HISTORY {
                rates.history.pop_front();
            }
        }
        self.rates = rates;
    }
}

fn rate(now: u64, then: u64, seconds: f64) -> f64 {
    // Counters start again when a Workstation is removed and added, and with its port.
    now.checked_sub(then).unwrap_or(now) as f64 / seconds
}

fn counters(all: &mut BTreeMap<String, f64>, now: &Counters, then: &Counters, seconds: f64) -> f64 {
    let mut sum = 0.0;
    for (name, count) in now {
        let each = rate(*count, then.get(name).copied().unwrap_or(0), seconds);
        if !show::ADMITTED.contains(&name.as_str()) {
            sum += each;
        }
        *all.entry(name.clone()).or_default() += each;
    }
    sum
}

fn of_port(then: PortStatus, now: &PortStatus, seconds: f64) -> Rates {
    let mut rates = Rates::default();
    let all = &mut rates.counters;
    rates.dropped = counters(all, &now.verdicts, &then.verdicts, seconds);
    rates.lost = counters(all, &now.ring_losses, &then.ring_losses, seconds);
    rates.from = flow(now.rx, then.rx, seconds);
    rates.to = flow(now.tx, then.tx, seconds);
    rates.from.frames = rate(
        show::admitted(&now.verdicts),
        show::admitted(&then.verdicts),
        seconds,
    );
    rates
}

fn flow(now: Traffic, then: Traffic, seconds: f64) -> Flow {
    Flow {
        frames: rate(now.packets, then.packets, seconds),
        bits: rate(now.bytes, then.bytes, seconds) * 8.0,
    }
}

fn of_workstation(then: WorkstationStatus, now: &WorkstationStatus, seconds: f64) -> Rates {
    let mut rates = Rates::default();
    let all = &mut rates.counters;
    rates.dropped = counters(all, &now.verdicts, &then.verdicts, seconds)
        + counters(all, &now.drops, &then.drops, seconds);
    rates.opened = rate(now.opened, then.opened, seconds);
    rates.from = flow(now.rx, then.rx, seconds);
    rates.to = flow(now.tx, then.tx, seconds);
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn status(packets: u64, replay: u64, up: u64) -> Status {
        let mut one = WorkstationStatus {
            name: "alpha".into(),
            rx: Traffic {
                packets,
                bytes: packets * 100,
            },
            ..WorkstationStatus::default()
        };
        one.verdicts.insert("admitted".into(), packets);
        one.verdicts.insert("replay".into(), replay);
        Status {
            started_seconds: up,
            workstations: vec![one],
            ..Status::default()
        }
    }

    #[test]
    fn rates_are_what_happened_between_two_looks_in_a_second() {
        let start = Instant::now();
        let mut meter = Meter::default();
        let alpha = Key::Workstation("alpha".into());
        meter.take(start, &status(1000, 5, 10));
        assert_eq!(meter.of(&alpha), Rates::default(), "one look is no rate");
        meter.take(start + Duration::from_secs(2), &status(3000, 105, 12));
        let rates = meter.of(&alpha);
        assert_eq!(rates.from.frames, 1000.0);
        assert_eq!(rates.from.bits, 800_000.0);
        assert_eq!(rates.dropped, 50.0);
        assert_eq!(rates.counters["replay"], 50.0);
        assert_eq!(rates.history, [1050]);
    }

    #[test]
    fn a_daemon_that_was_started_again_counts_from_zero() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.take(start, &status(1_000_000, 5, 1000));
        meter.take(start + Duration::from_secs(1), &status(70, 0, 1));
        let rates = meter.of(&Key::Workstation("alpha".into()));
        assert_eq!(rates.from.frames, 70.0);
    }

    #[test]
    fn so_much_is_remembered_and_no_more() {
        let start = Instant::now();
        let mut meter = Meter::default();
        for second in 0..300 {
            meter.take(
                start + Duration::from_secs(second),
                &status(second * 10, 0, second),
            );
        }
        let rates = meter.of(&Key::Workstation("alpha".into()));
        assert_eq!(rates.history.len(), HISTORY);
        assert!(rates.history.iter().all(|rate| *rate == 10));
    }
}
