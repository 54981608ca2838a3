//! The ports for Workstations without keys, which the helper raises and looks after.

use super::*;
use crate::api::{Counters, PinStatus, PortStatus, mac_text};
use crate::config::KeylessPort;
use crate::helper::KeylessHelp;
use crate::keyless::{Standing, warnings};
use crate::watch;
use dataplane::wall::{Counts, KeylessCounters};
use wire::PinnedVerdict;

/// One of them, as the daemon knows it.
pub(super) struct Keyless {
    config: KeylessPort,
    help: KeylessHelp,
    standing: Standing,
    /// Of the wall that was raised last.
    counters: Option<KeylessCounters>,
}

/// The configured ones, each of which could be raised.
pub(super) fn ports(
    config: &config::Gateway,
    helper: &Arc<Helper>,
) -> Result<Vec<Keyless>, Problem> {
    let of = |(at, port): (usize, &KeylessPort)| {
        let help = KeylessHelp::new(helper, at);
        help.check()?;
        Ok(Keyless {
            config: port.clone(),
            help,
            standing: Standing::default(),
            counters: None,
        })
    };
    config.keyless.iter().enumerate().map(of).collect()
}

impl Keyless {
    fn raise(&mut self) -> Result<(), Problem> {
        let found = self.help.raise()?;
        self.take(found);
        Ok(())
    }

    /// Has the helper look after it.
    fn look(&mut self) {
        match self.help.look() {
            Ok(found) => self.take(found),
            Err(problem) => {
                tracing::warn!(port = self.config.interface, %problem, remedy = problem.remedy, "the port is not looked after for now; tried again");
            }
        }
    }

    fn concerns(&self, event: &LinkEvent) -> bool {
        let up = self.standing.up.as_ref();
        event.name == self.config.interface || up.is_some_and(|up| up.ifindex == event.index)
    }

    /// Has the helper take over what the configuration file says now, which is this.
    fn change(&mut self, config: &KeylessPort) -> Result<(), Problem> {
        if self.config == *config {
            return Ok(());
        }
        let found = self.help.change(config.digest()).inspect_err(|_| {
            // The former wall stands again, or why it does not is known.
            self.look();
        })?;
        self.config.clone_from(config);
        self.take(found);
        Ok(())
    }

    /// Has the helper take the change from this back, if there was one.
    fn take_back(&mut self, before: &KeylessPort) -> Result<(), Problem> {
        if self.config == *before {
            return Ok(());
        }
        let found = self.help.take_back().inspect_err(|_| self.look());
        self.config.clone_from(before);
        self.take(found?);
        Ok(())
    }

    fn take(&mut self, (standing, counters): (Standing, Option<KeylessCounters>)) {
        self.standing = standing;
        match self.standing.up {
            Some(_) => self.counters = counters.or(self.counters.take()),
            None => self.counters = None,
        }
    }

    /// What a person should be told again and again.
    pub(super) fn warnings(&self) -> Vec<String> {
        warnings(&self.config, self.standing.up.as_ref())
    }

    /// Where its drops are watched.
    pub(super) fn watched(&self) -> Option<watch::Port> {
        let pins = self.config.pins.as_ref()?.iter();
        Some(watch::Port {
            interface: self.config.interface.clone(),
            samples: self.counters.as_ref()?.samples(),
            pins: Some(pins.map(|pin| mac_text(pin.mac)).collect()),
        })
    }

    /// What there is to show of it.
    pub(super) fn status(&self, links: &Links) -> PortStatus {
        let config = &self.config;
        let mut status = PortStatus {
            interface: config.interface.clone(),
            admission: config.admission(),
            reason: self.standing.reason.clone(),
            ..PortStatus::default()
        };
        let pins = config.pins.iter().flatten();
        status.pins = pins
            .map(|pin| PinStatus {
                mac: mac_text(pin.mac),
                addresses: pin.addresses.clone(),
                rate: pin.rate,
                verdicts: Counters::new(),
            })
            .collect();
        let up = self.standing.up.as_ref();
        status.stand(up.map(|up| up.carrier), links);
        let Some(up) = up else {
            return status;
        };
        let mode = if up.generic { "generic" } else { "native" };
        status.mac = Some(mac_text(up.mac));
        status.xdp = Some(mode.to_owned());
        if let Some(counters) = &self.counters {
            count(counters, &mut status);
        }
        if let Ok(counted) = links.statistics(&config.interface) {
            status.count(&counted);
        }
        status
    }
}

fn count(counters: &KeylessCounters, status: &mut PortStatus) {
    status.verdicts = counters.verdicts().map(by_name).unwrap_or_default();
    let past_xdp = counters.ingress_guard_drops().unwrap_or_default();
    if past_xdp > 0 {
        status.verdicts.insert("ingress_guard".to_owned(), past_xdp);
    }
    status.guard_drops = counters.guard_drops().unwrap_or_default();
    for (number, pin) in status.pins.iter_mut().enumerate() {
        let counts = counters.pin_verdicts(number as u32);
        pin.verdicts = counts.map(by_name).unwrap_or_default();
    }
}

fn by_name(counts: Counts) -> Counters {
    let names = PinnedVerdict::ALL.iter().map(|v| v.name().to_owned());
    names.zip(counts).collect()
}

impl Daemon {
    /// Raises all of them, as a daemon does when it starts.
    pub(super) fn raise_keyless(&mut self) -> Result<(), Problem> {
        self.keyless.iter_mut().try_for_each(Keyless::raise)
    }

    pub(super) fn keyless_event(&mut self, event: &LinkEvent) {
        let concerned = self.keyless.iter_mut().filter(|port| port.concerns(event));
        concerned.for_each(Keyless::look);
    }

    /// Looks after those that are up, and for those that are not.
    pub(super) fn watch_keyless(&mut self) {
        self.keyless.iter_mut().for_each(Keyless::look);
    }

    /// Applies what differs in `fresh` where only the pins, rates and addresses of ports do that are
    /// there already. False, and nothing has changed, where more does.
    pub(super) fn reload_keyless(&mut self, fresh: &config::Gateway) -> Result<bool, Problem> {
        let mut same = self.config.clone();
        same.keyless.clone_from(&fresh.keyless);
        let mut pairs = self.config.keyless.iter().zip(&fresh.keyless);
        let ours = self.config.keyless.len() == fresh.keyless.len()
            && pairs.all(|(ours, fresh)| ours.resembles(fresh));
        if same != *fresh || !ours {
            return Ok(false);
        }
        let before = self.config.keyless.clone();
        for (at, port) in self.keyless.iter_mut().enumerate() {
            let Err(problem) = port.change(&fresh.keyless[at]) else {
                continue;
            };
            let back = self.take_back_keyless(&before);
            return Err(undone(problem, back));
        }
        self.config.keyless.clone_from(&fresh.keyless);
        Ok(true)
    }

    /// Has all of them be as they were with this configuration, before the last [`Self::reload_keyless`].
    pub(super) fn take_back_keyless(&mut self, before: &[KeylessPort]) -> Result<(), Problem> {
        let mut outcome = Ok(());
        for (port, before) in self.keyless.iter_mut().zip(before) {
            outcome = outcome.and(port.take_back(before));
        }
        self.config.keyless = before.to_vec();
        outcome
    }
}

/// A problem in the middle of a change, and what became of the part before.
pub(super) fn undone(problem: Problem, back: Result<(), Problem>) -> Problem {
    let after = match &back {
        Ok(()) => "everything is as it was before".to_owned(),
        Err(other) => format!("and what was changed before could not be taken back: {other}"),
    };
    Problem {
        happened: format!("{}; {after}", problem.happened),
        remedy: match back {
            Ok(()) => problem.remedy,
            Err(_) => "restart portcullisd, which applies all of it or does not start".to_owned(),
        },
        ..problem
    }
}
