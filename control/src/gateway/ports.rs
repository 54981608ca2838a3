//! The Gateway's ports: raising them, losing them, and finding them again.

use super::*;
use crate::handshake::gateway::PortConfig;
use crate::handshake::inner_mtu;
use crate::raise::{Plan, Raised};
use dataplane::link::LinkChange;
use dataplane::port::PortError;
use dataplane::wall::{AttachMode, PortTables, Wall};
use dataplane::worker::PortSetup;
use std::io;
use wire::limits::CREDIT_MINIMUM;

/// A configured port.
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The worker that serves it.
    pub worker: usize,
    /// How it is raised.
    pub plan: Plan,
    /// What there is of it while it is up.
    pub up: Option<Up>,
    /// Why it is not.
    pub reason: Option<String>,
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
    /// Whether the rings are zero-copy.
    pub zero_copy: bool,
    /// Receive queues in use.
    pub queues: u32,
    /// Whether there is a carrier.
    pub carrier: bool,
}

impl Port {
    /// A port that is not raised yet.
    pub fn new(id: PortId, worker: usize, plan: Plan) -> Self {
        Self {
            id,
            worker,
            plan,
            up: None,
            reason: None,
        }
    }
}

/// How a configured port is raised.
pub fn plan(config: &config::Gateway, port: &config::Port) -> Plan {
    Plan {
        interface: port.interface.clone(),
        role: Role::Gateway,
        ethertype: port.ethertype,
        pin_directory: config.pin_directory.clone(),
        rings: port.rings,
        session_slots: (config.max_workstations * SLOTS_EACH).min(u32::from(u16::MAX)),
        workstation_slots: config.max_workstations,
    }
}

impl Daemon {
    /// Raises every port, as a daemon does when it starts.
    pub(super) fn raise_all(&mut self) -> Result<(), Problem> {
        for at in 0..self.ports.len() {
            self.raise(at, raise::AT_START)?;
        }
        Ok(())
    }

    fn raise(&mut self, at: usize, patience: Duration) -> Result<(), Problem> {
        let id = self.ports[at].id;
        let knocks: Vec<(u32, KnockEntry)> = self
            .served
            .keys()
            .filter_map(|slot| Some((*slot, self.registry.by_slot(*slot)?)))
            .filter(|(_, workstation)| self.ports_of(workstation).contains(&id))
            .map(|(slot, workstation)| (workstation.key_id.get(), knock_entry(slot, workstation)))
            .collect();
        let port = &mut self.ports[at];
        let Raised {
            link,
            mac,
            wall,
            rings,
            mode,
            zero_copy,
            queues,
        } = port.plan.raise(&self.links, patience, |tables| {
            knocks
                .iter()
                .try_for_each(|(key_id, entry)| tables.install_knock(*key_id, entry))
        })?;
        let tables = wall.tables();
        let setup = PortSetup {
            id,
            io: rings,
            tables: Arc::clone(&tables),
            mac,
            ethertype: port.plan.ethertype,
        };
        port.reason = None;
        port.up = Some(Up {
            wall,
            tables,
            ifindex: link.index,
            mac,
            mtu: link.mtu,
            mode,
            zero_copy,
            queues,
            carrier: link.carrier,
        });
        tracing::info!(port = link.name, xdp = ?mode, zero_copy, queues, "port is up");
        let worker = port.worker;
        self.share_credit();
        self.pool.give(worker, Command::AddPort(Box::new(setup)));
        self.machine.set_port(
            now(),
            PortConfig {
                port: id,
                mac,
                ifindex: link.index,
                mtu: inner_mtu(link.mtu),
            },
        );
        self.fit_host_mtu();
        Ok(())
    }

    /// The host interface's MTU is the least of the ports' inner MTUs, so that the kernel cuts
    /// packets to what every Workstation can take.
    fn fit_host_mtu(&self) {
        let least = self
            .ports
            .iter()
            .filter(|port| port.up.is_some())
            .filter_map(|port| self.links.find(&port.plan.interface).ok())
            .map(|link| inner_mtu(link.mtu))
            .min();
        if let Some(mtu) = least
            && let Err(error) = hostif::set_mtu(&self.links, &self.config.host_interface, mtu)
        {
            tracing::warn!(%error, "the host interface keeps its MTU; larger packets are dropped");
        }
    }

    /// Lets a Workstation's handshakes in on a port.
    pub(super) fn let_in(
        &self,
        port: PortId,
        id: WorkstationId,
        workstation: &Workstation,
    ) -> io::Result<()> {
        match self
            .ports
            .get(usize::from(port))
            .and_then(|port| port.up.as_ref())
        {
            Some(up) => {
                up.wall.clear_workstation_verdicts(id)?;
                up.tables
                    .install_knock(workstation.key_id.get(), &knock_entry(id, workstation))
            }
            None => Ok(()),
        }
    }

    /// Divides each port's ring among the Workstations that may use it.
    pub(super) fn share_credit(&self) {
        for port in &self.ports {
            let Some(up) = &port.up else {
                continue;
            };
            let users: Vec<WorkstationId> = self
                .served
                .iter()
                .filter(|(_, served)| served.ports.contains(&port.id))
                .map(|(id, _)| *id)
                .collect();
            let ring = u64::from(port.plan.rings.size);
            let share = (ring / users.len().max(1) as u64).max(CREDIT_MINIMUM.min(ring));
            for id in users {
                up.tables.set_limit(id, share);
            }
        }
    }

    pub(super) fn port_failed(&mut self, id: PortId, error: &PortError) {
        // This may be of rings that were replaced meanwhile: those there are now are closed too, or
        // no others could be opened.
        if usize::from(id) < self.ports.len() {
            self.lose(usize::from(id), &error.to_string());
        }
    }

    pub(super) fn link_event(&mut self, event: &LinkEvent) {
        // By its index first: under another name it is still the interface the port is on.
        let is = |port: &Port| port.up.as_ref().is_some_and(|up| up.ifindex == event.index);
        let named = |port: &Port| port.plan.interface == event.name;
        let mut ports = self.ports.iter();
        let Some(at) = ports
            .position(is)
            .or_else(|| self.ports.iter().position(named))
        else {
            return;
        };
        let port = &mut self.ports[at];
        let named = named(port);
        let Some(up) = &mut port.up else {
            if let LinkChange::Added { .. } | LinkChange::Renamed { .. } = event.change {
                self.raise_again(at);
            }
            return;
        };
        if up.ifindex != event.index {
            if let LinkChange::Added { .. } | LinkChange::Renamed { .. } = event.change {
                self.lose(at, "the interface was replaced by another of its name");
                self.raise_again(at);
            }
            return;
        }
        match event.change {
            LinkChange::Removed => self.lose(at, "the interface was removed"),
            LinkChange::Renamed { .. } if !named => self.lose(at, "the interface was renamed"),
            LinkChange::State { carrier, .. } => {
                let had = std::mem::replace(&mut up.carrier, carrier);
                if carrier && !had {
                    tracing::info!(port = event.name, "carrier is up");
                    let id = port.id;
                    self.machine.carrier_up(now(), id);
                } else if !carrier && had {
                    tracing::warn!(port = event.name, "carrier is down");
                }
            }
            // The wall knows the one, and the rings are made for the other.
            LinkChange::Altered => {
                let (mac, mtu) = (Some(up.mac), up.mtu);
                if let Ok(link) = self.links.get(event.index)
                    && (link.mac, link.mtu) != (mac, mtu)
                {
                    self.lose(at, "the interface's MAC address or MTU was changed");
                    self.raise_again(at);
                }
            }
            LinkChange::Added { .. } | LinkChange::Renamed { .. } => {}
        }
    }

    fn lose(&mut self, at: usize, reason: &str) {
        let port = &mut self.ports[at];
        tracing::error!(
            port = port.plan.interface,
            reason,
            "the port is lost; it is raised again when it can be"
        );
        port.up = None;
        port.reason = Some(reason.to_owned());
        self.pool.give(port.worker, Command::RemovePort(port.id));
    }

    fn raise_again(&mut self, at: usize) {
        if let Err(problem) = self.raise(at, raise::AGAIN) {
            let port = &mut self.ports[at];
            let reason = format!("{problem}; {}", problem.remedy);
            if port.reason.as_ref() != Some(&reason) {
                tracing::error!(port = port.plan.interface, %problem, remedy = problem.remedy, "the port stays down for now");
            }
            port.reason = Some(reason);
        }
    }

    /// Looks for ports that are not up.
    pub(super) fn retry_ports(&mut self) {
        if self.retried.elapsed() < ROUND {
            return;
        }
        self.retried = Instant::now();
        for at in 0..self.ports.len() {
            if self.ports[at].up.is_none()
                && self.links.find(&self.ports[at].plan.interface).is_ok()
            {
                self.raise_again(at);
            }
        }
    }
}
