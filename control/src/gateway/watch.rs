//! What is told to those who listen for events, and is found by looking: sessions that came and went,
//! handshakes refused, drops, ports.
//!
//! Each half second, what is there is compared with what was. Sessions and handshakes are looked at
//! always, so that who begins to listen misses nothing from then on; counters in maps of the kernel are
//! read only while somebody listens, and of so many Workstations at a time.

use super::*;
use crate::api::{Counters, PortStatus};
use crate::handshake::gateway::{Outcomes, WorkstationInfo};
use crate::port::by_name;
use wire::Verdict;

/// So many frames dropped for one reason between two looks are told.
const DROPS: u64 = 100;
/// Workstations whose counters in XDP are read each time.
const READ: usize = 128;

/// What was there at the last look.
#[derive(Debug, Default)]
pub(super) struct Watched {
    at: Option<Instant>,
    workstations: BTreeMap<WorkstationId, Seen>,
    ports: BTreeMap<String, (String, Option<String>)>,
    drops: BTreeMap<Of, Counted>,
    /// Where the next Workstations' counters are read from.
    next: WorkstationId,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    in_session: bool,
    outcomes: Outcomes,
    clone_suspected: bool,
}

/// Whose counters they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Nobody,
    Port(String),
    Rings(String),
    Worker(WorkstationId),
    Xdp(WorkstationId, String),
}

#[derive(Debug)]
struct Counted {
    at: Instant,
    counters: Counters,
}

impl Daemon {
    /// Looks, twice a second.
    pub(super) fn look_for_events(&mut self) {
        if self.watched.at.is_some_and(|at| at.elapsed() < ROUND) {
            return;
        }
        self.watched.at = Some(Instant::now());
        let infos = self.machine.workstations(now());
        let before = std::mem::take(&mut self.watched.workstations);
        for info in infos {
            self.compare(&info, before.get(&info.id).copied().unwrap_or_default());
            let seen = Seen {
                in_session: info.cur.is_some(),
                outcomes: info.outcomes,
                clone_suspected: info.clone_suspected,
            };
            self.watched.workstations.insert(info.id, seen);
        }
        for (id, seen) in before {
            // One that was removed: its name is gone with it, and its removal is told.
            if seen.in_session
                && !self.watched.workstations.contains_key(&id)
                && let Some(workstation) = self.name(id)
            {
                self.events.tell(|| Happening::SessionDown { workstation });
            }
        }
        if self.events.heard() {
            let ports = self.port_statuses();
            self.look_at_ports(&ports);
            self.look_at_drops(&ports);
        } else {
            self.watched.ports.clear();
            self.watched.drops.clear();
        }
    }

    fn name(&self, id: WorkstationId) -> Option<String> {
        self.registry.by_slot(id).map(|one| one.name.to_string())
    }

    fn compare(&self, info: &WorkstationInfo, before: Seen) {
        if !self.events.heard() {
            return;
        }
        let Some(workstation) = self.name(info.id) else {
            return;
        };
        let port = info.cur.as_ref().and_then(|session| {
            let port = self.ports.get(usize::from(session.port));
            port.map(|port| port.plan.interface.clone())
        });
        let name = || workstation.clone();
        let more = |now: u64, then: u64| now.saturating_sub(then);
        // Counters that went back are another life's.
        let then = match info.outcomes.confirmed < before.outcomes.confirmed {
            true => Outcomes::default(),
            false => before.outcomes,
        };
        match (before.in_session, info.cur.is_some()) {
            (false, true) => self.events.tell(|| Happening::SessionUp {
                workstation: name(),
                port,
            }),
            (true, false) => self.events.tell(|| Happening::SessionDown {
                workstation: name(),
            }),
            _ => {}
        }
        for (count, inside) in [
            (more(info.outcomes.rekeys, then.rekeys), true),
            (more(info.outcomes.replaced, then.replaced), false),
        ] {
            if count > 0 {
                self.events.tell(|| Happening::Rekey {
                    workstation: name(),
                    count,
                    inside,
                });
            }
        }
        let refused = info.outcomes.refused().into_iter().zip(then.refused());
        for ((outcome, now), (_, then)) in refused {
            if now > then {
                self.events.tell(|| Happening::HandshakeRefused {
                    workstation: name(),
                    outcome: outcome.to_owned(),
                    count: now - then,
                });
            }
        }
        if info.clone_suspected && !before.clone_suspected {
            self.events.tell(|| Happening::CloneSuspected {
                workstation: name(),
            });
        }
    }

    fn look_at_ports(&mut self, ports: &[PortStatus]) {
        for port in ports {
            let state = format!("{:?}", port.state).to_lowercase();
            let now = (state.clone(), port.reason.clone());
            let before = self.watched.ports.insert(port.interface.clone(), now);
            if before.is_some_and(|(before, _)| before != state) {
                self.events.tell(|| Happening::Port {
                    port: port.interface.clone(),
                    state,
                    reason: port.reason.clone(),
                });
            }
        }
    }

    fn look_at_drops(&mut self, ports: &[PortStatus]) {
        let mut nobody = Counters::from([("mailbox_full".to_owned(), self.mail.dropped())]);
        for (name, count) in self.pool.drops() {
            *nobody.entry(name.to_owned()).or_default() += count;
        }
        let mut now: Vec<(Of, Counters)> = vec![(Of::Nobody, nobody)];
        // What a port that is down, or a worker that did not answer, does not tell keeps its last count: or all that
        // it ever counted would be new when it is back.
        for port in ports.iter().filter(|port| !port.verdicts.is_empty()) {
            let mut drops = refusals(&port.verdicts);
            drops.insert("guard".to_owned(), port.guard_drops);
            now.push((Of::Port(port.interface.clone()), drops));
        }
        for port in ports.iter().filter(|port| !port.ring_losses.is_empty()) {
            let losses = port.ring_losses.clone();
            now.push((Of::Rings(port.interface.clone()), losses));
        }
        for (id, served) in &self.served {
            let mut sum = Counters::new();
            for (name, count) in served.counters.iter().flat_map(|one| one.drops()) {
                *sum.entry(name.to_owned()).or_default() += count;
            }
            now.push((Of::Worker(*id), sum));
        }
        // In turn, so that each is read however many there are.
        let from = self.watched.next;
        let after = self.served.range(from..).map(|(id, _)| *id);
        let around = after.chain(self.served.range(..from).map(|(id, _)| *id));
        let turn: Vec<WorkstationId> = around.take(READ).collect();
        self.watched.next = turn.last().map_or(0, |id| id + 1);
        for id in turn {
            for port in &self.ports {
                if let Some(up) = &port.up
                    && let Ok(verdicts) = up.wall.workstation_verdicts(id)
                {
                    let of = Of::Xdp(id, port.plan.interface.clone());
                    now.push((of, refusals(&by_name(&verdicts))));
                }
            }
        }
        for (of, counters) in now {
            self.compare_drops(of, counters);
        }
    }

    fn compare_drops(&mut self, of: Of, counters: Counters) {
        let at = Instant::now();
        let counted = Counted { at, counters };
        let Some(before) = self.watched.drops.insert(of.clone(), counted) else {
            return;
        };
        let milliseconds = at.duration_since(before.at).as_millis() as u64;
        let (workstation, port) = match &of {
            Of::Nobody => (None, None),
            Of::Port(port) | Of::Rings(port) => (None, Some(port.clone())),
            Of::Worker(id) => (self.name(*id), None),
            Of::Xdp(id, port) => (self.name(*id), Some(port.clone())),
        };
        let Some(now) = self.watched.drops.get(&of) else {
            return;
        };
        for (verdict, now) in &now.counters {
            let count = now.saturating_sub(before.counters.get(verdict).copied().unwrap_or(0));
            if count >= DROPS {
                self.events.tell(|| Happening::Drops {
                    workstation: workstation.clone(),
                    port: port.clone(),
                    verdict: verdict.clone(),
                    count,
                    milliseconds,
                });
            }
        }
    }
}

/// Those of a port's verdicts, of either kind, that are drops.
fn refusals(verdicts: &Counters) -> Counters {
    let tunnel = Verdict::ALL
        .into_iter()
        .filter(|verdict| !verdict.is_drop());
    let passes: Vec<_> = tunnel.map(Verdict::name).collect();
    let drops = verdicts
        .iter()
        .filter(|(name, _)| !passes.contains(&name.as_str()));
    drops.map(|(name, count)| (name.clone(), *count)).collect()
}
