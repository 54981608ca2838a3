//! A port of a daemon: how it is raised, what there is of it while it is up, and how it comes and
//! goes with its interface. Gateway and agent have the same.

use crate::api::{Counters, PortStatus, QueueStatus, ServedBy, mac_text};
use crate::choices::ThreadedNapi;
use crate::helper::PortHelp;
use crate::pool::{Pool, Ring};
use crate::problem::Problem;
use crate::raise::{Plan, Raised};
use dataplane::link::{LinkChange, LinkEvent, Links};
use dataplane::port::RingStatistics;
use dataplane::port::xsk::XskPort;
use dataplane::wall::{AttachMode, PortTables, Wall};
use dataplane::worker::{Command, PortSetup};
use dataplane::{PortId, WorkstationId};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wire::Verdict;
use wire::limits::{ETH_LEN, MAX_PAYLOAD, OVERHEAD};

/// A configured port.
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The workers that serve it, in the order of its queues.
    pub workers: Vec<usize>,
    /// How it is raised.
    pub plan: Plan,
    /// Who does what takes privileges.
    pub help: PortHelp,
    /// What there is of it while it is up.
    pub up: Option<Up>,
    /// Why it is not.
    reason: Option<String>,
}

/// A port that is up.
pub struct Up {
    /// The wall.
    pub wall: Wall,
    /// Its tables.
    pub tables: Arc<PortTables>,
    /// The interface's index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: u32,
    /// How XDP is attached.
    pub mode: AttachMode,
    /// Whether there is a carrier.
    pub carrier: bool,
    zero_copy: bool,
    busy_poll: Option<bool>,
    /// What the NIC had missed by then.
    missed_before: u64,
    /// Which worker serves which queues.
    pub parts: Vec<Part>,
}

/// A worker's part of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The worker.
    pub worker: usize,
    /// Its queues.
    pub queues: Range<u32>,
}

/// What a change of an interface means for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nothing.
    None,
    /// It is lost, and cannot be raised now.
    Lost,
    /// It should be raised now; what there was of it is lost.
    Raise,
    /// Its carrier came or went.
    Carrier(bool),
}

impl Port {
    /// A port that is not raised yet.
    pub fn new(id: PortId, workers: Vec<usize>, plan: Plan, help: PortHelp) -> Self {
        Self {
            id,
            workers,
            plan,
            help,
            up: None,
            reason: None,
        }
    }

    /// Raises it and gives its rings to its workers. `prepare` fills its tables before any frame can
    /// reach a socket; it is told how many frames a ring holds.
    ///
    /// # Errors
    /// As [`Plan::raise`].
    pub fn raise<P: Ring + From<XskPort>>(
        &mut self,
        links: &Links,
        pool: &Pool<P>,
        patience: Duration,
        prepare: impl FnOnce(&PortTables, u64) -> io::Result<()>,
    ) -> Result<(), Problem> {
        let Raised {
            link,
            mac,
            wall,
            rings,
            mode,
            zero_copy,
            busy_poll,
        } = self
            .plan
            .raise(links, &self.help, self.workers.len(), patience, prepare)?;
        let tables = wall.tables();
        let mut parts = Vec::with_capacity(rings.len());
        for (worker, (queues, io)) in self.workers.iter().copied().zip(rings) {
            let setup = PortSetup {
                id: self.id,
                io: io.into(),
                tables: Arc::clone(&tables),
                mac,
                encapsulation: self.plan.encapsulation.framing(),
            };
            pool.give(worker, Command::AddPort(Box::new(setup)));
            parts.push(Part { worker, queues });
        }
        let queues: u32 = parts.iter().map(|part| part.queues.len() as u32).sum();
        tracing::info!(port = link.name, xdp = ?mode, zero_copy, queues, workers = parts.len(), "port is up");
        if busy_poll == Some(false) {
            tracing::warn!(
                port = link.name,
                "the kernel does not take busy polling; it works without"
            );
        }
        self.reason = None;
        self.up = Some(Up {
            wall,
            tables,
            ifindex: link.index,
            mac,
            mtu: link.mtu,
            mode,
            carrier: link.carrier,
            zero_copy,
            busy_poll,
            missed_before: links
                .statistics(&self.plan.interface)
                .map_or(0, |counted| counted.rx_missed),
            parts,
        });
        Ok(())
    }

    /// Gives the interface NAPI threads, or takes them away, as the configuration and the number of
    /// those who may use the port ask for. The port works either way.
    ///
    /// With a thread, what the kernel does for a received frame competes with the programs of this
    /// machine for a core, in batches; without, it comes before them, once for each frame. The thread
    /// is faster, but behind a flood frames wait for it and are lost before XDP could tell them apart.
    /// So a port gets one where there is nobody else to be kept from it.
    pub fn thread_napi(&self, users: usize) {
        let Some(up) = &self.up else { return };
        // The kernel's own traffic passes a shared port.
        if self.plan.encapsulation.is_shared() {
            return;
        }
        match self.plan.rings.threaded_napi {
            ThreadedNapi::Auto => self.help.napi(!up.zero_copy && users <= 1, false),
            ThreadedNapi::On => self.help.napi(true, true),
            ThreadedNapi::Off => {}
        }
    }

    /// As the configuration says from now on.
    pub fn set_thread_napi(&mut self, wanted: ThreadedNapi, users: usize) {
        let before = std::mem::replace(&mut self.plan.rings.threaded_napi, wanted);
        if before != wanted && wanted == ThreadedNapi::Off && self.up.is_some() {
            self.help.napi(false, true);
        }
        self.thread_napi(users);
    }

    /// It is of no more use: its rings are closed, its wall stands.
    pub fn lose<P: Ring>(&mut self, pool: &Pool<P>, reason: &str) {
        tracing::error!(
            port = self.plan.interface,
            reason,
            "the port is lost; it is raised again when it can be"
        );
        self.up = None;
        self.reason = Some(reason.to_owned());
        // These may be rings that took the place of the ones that failed: they are closed too, or no
        // others could be opened.
        for worker in &self.workers {
            pool.give(*worker, Command::RemovePort(self.id));
        }
    }

    /// The largest inner packet that leaves by it whatever the IP version around it, while it is up.
    pub fn inner_mtu(&self) -> Option<u16> {
        let front = self.plan.encapsulation.framing().largest_front();
        let around = (front - ETH_LEN + OVERHEAD) as u32;
        let room = self.up.as_ref()?.mtu.saturating_sub(around);
        Some(room.min(MAX_PAYLOAD as u32) as u16)
    }

    /// The workers that have rings of it.
    pub fn serving(&self) -> impl Iterator<Item = usize> + '_ {
        let parts = self.up.iter().flat_map(|up| &up.parts);
        parts.map(|part| part.worker)
    }

    /// It could not be raised again. Said in the log once for each reason.
    pub fn stays_down(&mut self, problem: &Problem) {
        let reason = format!("{problem}; {}", problem.remedy);
        if self.reason.as_ref() != Some(&reason) {
            tracing::error!(port = self.plan.interface, %problem, remedy = problem.remedy, "the port stays down for now");
        }
        self.reason = Some(reason);
    }

    /// Whether a change of an interface is this port's: by its index, or else by its name.
    pub fn concerns(&self, event: &LinkEvent) -> bool {
        // Under another name it is still the interface the port is on.
        self.up.as_ref().is_some_and(|up| up.ifindex == event.index)
            || self.plan.interface == event.name
    }

    /// Takes note of a change of its interface.
    pub fn notice<P: Ring>(&mut self, event: &LinkEvent, links: &Links, pool: &Pool<P>) -> Notice {
        let named = self.plan.interface == event.name;
        let appeared = matches!(
            event.change,
            LinkChange::Added { .. } | LinkChange::Renamed { .. }
        );
        let lost = match &mut self.up {
            None if appeared => return Notice::Raise,
            None => return Notice::None,
            Some(up) if up.ifindex != event.index => {
                if !appeared {
                    return Notice::None;
                }
                ("the interface was replaced by another of its name", true)
            }
            Some(up) => match event.change {
                LinkChange::Removed => ("the interface was removed", false),
                LinkChange::Renamed { .. } if !named => ("the interface was renamed", false),
                LinkChange::State { carrier, .. } => {
                    if std::mem::replace(&mut up.carrier, carrier) == carrier {
                        return Notice::None;
                    }
                    tracing::info!(port = event.name, carrier, "the carrier changed");
                    return Notice::Carrier(carrier);
                }
                // The wall knows the one, and the rings are made for the other.
                LinkChange::Altered => {
                    let known = (Some(up.mac), up.mtu);
                    match links.get(event.index) {
                        Ok(link) if (link.mac, link.mtu) != known => {
                            ("the interface's MAC address or MTU was changed", true)
                        }
                        _ => return Notice::None,
                    }
                }
                LinkChange::Added { .. } | LinkChange::Renamed { .. } => return Notice::None,
            },
        };
        let (reason, raise) = lost;
        self.lose(pool, reason);
        match raise {
            true => Notice::Raise,
            false => Notice::Lost,
        }
    }

    /// What there is to show of it.
    pub fn status(&self, links: &Links, rings: Option<&RingStatistics>) -> PortStatus {
        let mut status = PortStatus {
            interface: self.plan.interface.clone(),
            reason: self.reason.clone(),
            encapsulation: Some(self.plan.encapsulation.name().into()),
            shared: self.plan.encapsulation.is_shared(),
            refuses: self.plan.encapsulation.refuses(),
            listens: self.plan.encapsulation.listens(),
            ..PortStatus::default()
        };
        let up = self.up.as_ref();
        status.stand(up.map(|up| up.carrier), links);
        let Some(up) = up else {
            return status;
        };
        let mode = match up.mode {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        };
        status.mac = Some(mac_text(up.mac));
        status.xdp = Some(mode.to_owned());
        status.zero_copy = Some(up.zero_copy);
        status.queues = up.parts.iter().map(|part| part.queues.len() as u32).sum();
        status.busy_poll = up.busy_poll;
        status.threaded_napi = self.help.has_napi();
        status.served_by = up
            .parts
            .iter()
            .map(|part| ServedBy {
                worker: part.worker,
                first_queue: part.queues.start,
                last_queue: part.queues.end.saturating_sub(1),
            })
            .collect();
        status.verdicts = up
            .wall
            .verdicts()
            .map(|verdicts| by_name(&verdicts))
            .unwrap_or_default();
        let past_xdp = up.wall.ingress_guard_drops().unwrap_or_default();
        if past_xdp > 0 {
            status.verdicts.insert("ingress_guard".to_owned(), past_xdp);
        }
        status.guard_drops = up.wall.guard_drops().unwrap_or_default();
        status.ring_losses = rings.map(losses).unwrap_or_default();
        if let Ok(counted) = links.statistics(&self.plan.interface) {
            status.count(&counted);
            // With the rings' own or not at all: events take what is not told for what has not changed.
            if rings.is_some() {
                let missed = counted.rx_missed.saturating_sub(up.missed_before);
                status.ring_losses.insert("rx_missed".to_owned(), missed);
            }
        }
        status
    }

    /// How much of its share of this port's rings a Workstation uses.
    pub fn queue(&self, id: WorkstationId) -> QueueStatus {
        let queue = self.up.as_ref().map(|up| up.tables.queue(id));
        let (waiting, limit) = queue.unwrap_or_default();
        QueueStatus { waiting, limit }
    }
}

/// Verdict counters by name.
pub fn by_name(verdicts: &[u64; Verdict::COUNT]) -> Counters {
    let names = Verdict::ALL.iter().map(|verdict| verdict.name().to_owned());
    names.zip(verdicts.iter().copied()).collect()
}

/// Ring losses by reason.
pub fn losses(rings: &RingStatistics) -> Counters {
    [
        ("rx_ring_full", rings.rx_ring_full),
        ("fill_ring_empty", rings.fill_ring_empty),
        ("rx_dropped", rings.rx_dropped),
        ("tx_invalid", rings.tx_invalid),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into()
}
