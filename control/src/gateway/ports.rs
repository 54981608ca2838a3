//! The Gateway's ports: raising them, losing them, and finding them again.

use super::*;
use crate::encapsulation::Encapsulation;
use crate::handshake::Mac;
use crate::handshake::gateway::PortConfig;
use crate::port::Notice;
use crate::raise::Plan;
use dataplane::port::PortError;
use std::io;
use wire::limits::CREDIT_MINIMUM;

/// How a configured port is raised.
pub fn plan(config: &config::Gateway, port: &config::Port) -> Plan {
    Plan {
        interface: port.interface.clone(),
        role: Role::Gateway,
        mac: None,
        encapsulation: port.encapsulation.clone(),
        pin_directory: config.pin_directory.clone(),
        rings: port.rings,
        session_slots: session_slots(config.max_workstations),
        workstation_slots: config.max_workstations,
    }
}

/// What each of `users` Workstations has of a ring of `ring_frames`.
fn share(ring_frames: u64, users: usize) -> u64 {
    (ring_frames / users.max(1) as u64).max(CREDIT_MINIMUM.min(ring_frames))
}

impl Daemon {
    /// Raises every port, as a daemon does when it starts.
    pub(super) fn raise_all(&mut self) -> Result<(), Problem> {
        for at in 0..self.ports.len() {
            self.raise(at, raise::AT_START)?;
        }
        self.raise_keyless()
    }

    fn raise(&mut self, at: usize, patience: Duration) -> Result<(), Problem> {
        let id = self.ports[at].id;
        let knocks: Vec<(u32, KnockEntry)> = self
            .served
            .keys()
            .filter_map(|slot| Some((*slot, self.registry.by_slot(*slot)?)))
            .filter(|(_, workstation)| self.ports_of(workstation).contains(&id))
            .flat_map(|(slot, workstation)| knock_entries(slot, workstation))
            .collect();
        let users = self.users(&self.ports[at]).count();
        let port = &mut self.ports[at];
        port.raise(&self.links, &self.pool, patience, |tables, ring_frames| {
            let share = share(ring_frames, users);
            knocks.iter().try_for_each(|(key_id, entry)| {
                tables.set_limit(entry.workstation, share);
                tables.install_knock(*key_id, entry)
            })
        })?;
        if port.plan.encapsulation.is_shared() {
            tracing::warn!(
                port = port.plan.interface,
                "the port is SHARED: everything but the tunnel's datagrams goes to this machine's kernel; its firewall is what stands there"
            );
        }
        if let Some(up) = &port.up {
            let config = PortConfig {
                port: id,
                encapsulation: port.plan.encapsulation.framing(),
                mac: match port.plan.encapsulation {
                    Encapsulation::Ether(_) => up.mac,
                    Encapsulation::Udp(_) => Mac::default(),
                },
                ifindex: up.ifindex,
                mtu: up.mtu,
            };
            self.machine.set_port(now(), config);
        }
        self.ports[at].thread_napi(users);
        self.end_homeless(id);
        self.guide_all(id);
        self.fit_host_mtu();
        Ok(())
    }

    /// Ends sessions on a port whose worker has no queue of it any more, because the interface has
    /// fewer than before. Their Workstations come back when they notice, which takes them seconds.
    fn end_homeless(&mut self, port: PortId) {
        let serving: Vec<usize> = self.ports[usize::from(port)].serving().collect();
        let homeless = self
            .sessions
            .iter()
            .filter(|(_, live)| live.port == port && !serving.contains(&live.worker));
        for (index, live) in homeless {
            self.machine.seal_limit(now(), live.workstation, *index);
        }
    }

    /// The host interface's MTU is the least of the ports' inner MTUs, so that the kernel cuts
    /// packets to what every Workstation can take.
    fn fit_host_mtu(&self) {
        let least = self.ports.iter().filter_map(Port::inner_mtu).min();
        if let Some(mtu) = least
            && let Err(error) = self.host_mtu(mtu)
        {
            tracing::warn!(%error, "the host interface keeps its MTU, and larger packets are dropped: set it by hand (ip link set dev IF mtu N)");
        }
    }

    fn host_mtu(&self, mtu: u16) -> Result<(), Problem> {
        let name = &self.config.host_interface;
        match self.links.find(name) {
            Ok(link) if link.mtu == u32::from(mtu) => Ok(()),
            _ => self.helper.host_mtu(mtu),
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
                knock_entries(id, workstation)
                    .try_for_each(|(key_id, entry)| up.tables.install_knock(key_id, &entry))
            }
            None => Ok(()),
        }
    }

    /// The Workstations that may use a port.
    pub(super) fn users(&self, port: &Port) -> impl Iterator<Item = WorkstationId> {
        let id = port.id;
        let users = self.served.iter();
        users.filter_map(move |(slot, served)| served.ports.contains(&id).then_some(*slot))
    }

    /// Makes each port fit the Workstations that may use it: divides its ring among them.
    pub(super) fn fit_ports(&mut self) {
        for at in 0..self.ports.len() {
            let users: Vec<WorkstationId> = self.users(&self.ports[at]).collect();
            let port = &mut self.ports[at];
            if let Some(up) = &port.up {
                let share = share(port.plan.ring_frames(up.mtu), users.len());
                users.iter().for_each(|id| up.tables.set_limit(*id, share));
            }
            port.thread_napi(users.len());
        }
    }

    pub(super) fn port_failed(&mut self, id: PortId, error: &PortError) {
        // Each of its workers may say so, and the first has closed them all.
        if let Some(port) = self.ports.get_mut(usize::from(id))
            && port.up.is_some()
        {
            port.lose(&self.pool, &error.to_string());
        }
    }

    pub(super) fn link_event(&mut self, event: &LinkEvent) {
        self.keyless_event(event);
        let Some(at) = self.ports.iter().position(|port| port.concerns(event)) else {
            return;
        };
        let port = &mut self.ports[at];
        match port.notice(event, &self.links, &self.pool) {
            Notice::Raise => self.raise_again(at),
            Notice::Carrier(true) => self.machine.carrier_up(now(), port.id),
            Notice::Carrier(false) | Notice::Lost | Notice::None => {}
        }
    }

    fn raise_again(&mut self, at: usize) {
        if let Err(problem) = self.raise(at, raise::AGAIN) {
            self.ports[at].stays_down(&problem);
        }
    }

    /// Looks for ports that are not up.
    pub(super) fn retry_ports(&mut self) {
        if self.retried.elapsed() < ROUND {
            return;
        }
        self.retried = Instant::now();
        if self.helper.is_gone() {
            self.failed = Some(Helper::lost());
            return;
        }
        self.guard_surroundings();
        self.watch_keyless();
        self.show_ports();
        for at in 0..self.ports.len() {
            if self.ports[at].up.is_none()
                && self.links.find(&self.ports[at].plan.interface).is_ok()
            {
                self.raise_again(at);
            }
        }
    }
}
