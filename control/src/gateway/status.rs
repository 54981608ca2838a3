//! What the daemon tells of itself.

use super::ports::Port;
use super::*;
use crate::api::{
    Counters, PortState, PortStatus, SessionStatus, Traffic, WorkstationStatus, mac_text,
};
use crate::handshake::gateway::WorkstationInfo;
use crate::report::{losses, mode_name, named, ring_statistics};
use dataplane::engine::Engine;
use dataplane::port::RingStatistics;
use dataplane::wall::AttachMode;

impl Daemon {
    pub(super) fn status(&mut self) -> Status {
        let rings = ring_statistics(&self.pool);
        let infos = self.machine.workstations(now());
        let ports: Vec<PortStatus> = self
            .ports
            .iter()
            .map(|port| {
                let present = self.links.find(&port.plan.interface).is_ok();
                port_status(port, present, rings.get(&port.id))
            })
            .collect();
        let workstations = WorkstationStatus::all(&self.registry)
            .into_iter()
            .map(|status| self.fill_in(status, &infos))
            .collect();
        let mut warnings: Vec<String> = self
            .registry
            .broken()
            .iter()
            .map(|broken| {
                format!(
                    "{}: {}; {}",
                    broken.name, broken.problem, broken.problem.remedy
                )
            })
            .collect();
        warnings.extend(self.ports.iter().filter_map(|port| {
            let generic = port.up.as_ref()?.mode == AttachMode::Generic;
            generic.then(|| {
                format!(
                    "port {} runs XDP in generic mode, which is several times slower",
                    port.plan.interface
                )
            })
        }));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_seconds: self.started.elapsed().as_secs(),
            engine: Engine::from(self.config.engine).resolve().name().to_owned(),
            workers: self.pool.len(),
            host_interface: self.config.host_interface.clone(),
            public_key: self.key.public().to_string(),
            ports,
            workstations,
            counters: self
                .pool
                .counters()
                .chain([("mailbox_full", self.mail.dropped())])
                .fold(Counters::new(), |mut all, (name, count)| {
                    *all.entry(name.to_owned()).or_default() += count;
                    all
                }),
            warnings,
        }
    }

    fn fill_in(
        &self,
        mut status: WorkstationStatus,
        infos: &[WorkstationInfo],
    ) -> WorkstationStatus {
        let found = self.registry.get(&status.name).map(|(id, _)| id);
        let Some((id, served)) = found.and_then(|id| Some((id, self.served.get(&id)?))) else {
            return status;
        };
        if let Some(info) = infos.iter().find(|info| info.id == id) {
            status.session = info.cur.as_ref().map(|session| SessionStatus {
                age_seconds: session.age.as_secs(),
                cipher: session.cipher.name().to_owned(),
                protection: session.protection.name().to_owned(),
                peer_mac: mac_text(session.peer_mac),
            });
            if let Some(session) = &info.cur {
                let port = self.ports.get(usize::from(session.port));
                status.port = port.map(|port| port.plan.interface.clone());
            }
            status.last_handshake_seconds = info.last_handshake.map(|at| at.as_secs());
            status.rekeys = info.outcomes.rekeys;
            status.clone_suspected = info.clone_suspected;
        }
        for counters in &served.counters {
            add_traffic(
                &mut status.rx,
                counters.rx_packets.get(),
                counters.rx_bytes.get(),
            );
            add_traffic(
                &mut status.tx,
                counters.tx_packets.get(),
                counters.tx_bytes.get(),
            );
            status.opened += counters.opened.get();
            for (name, count) in counters.drops() {
                *status.drops.entry(name.to_owned()).or_default() += count;
            }
        }
        for port in self.ports.iter().filter_map(|port| port.up.as_ref()) {
            if let Ok(verdicts) = port.wall.workstation_verdicts(id) {
                for (name, count) in named(&verdicts) {
                    *status.verdicts.entry(name).or_default() += count;
                }
            }
        }
        status
    }
}

fn port_status(port: &Port, present: bool, rings: Option<&RingStatistics>) -> PortStatus {
    let mut status = PortStatus {
        interface: port.plan.interface.clone(),
        state: match present {
            true => PortState::Down,
            false => PortState::Missing,
        },
        reason: port.reason.clone(),
        ..PortStatus::default()
    };
    let Some(up) = &port.up else {
        return status;
    };
    status.state = if up.carrier {
        PortState::Up
    } else {
        PortState::Down
    };
    if !up.carrier {
        status.reason = Some("no carrier; check the cable and the other end".to_owned());
    }
    status.mac = Some(mac_text(up.mac));
    status.xdp = Some(mode_name(up.mode));
    status.zero_copy = Some(up.zero_copy);
    status.queues = up.queues;
    status.verdicts = up
        .wall
        .verdicts()
        .map(|verdicts| named(&verdicts))
        .unwrap_or_default();
    status.guard_drops = up.wall.guard_drops().unwrap_or_default();
    status.ring_losses = rings.map(losses).unwrap_or_default();
    status
}

fn add_traffic(traffic: &mut Traffic, packets: u64, bytes: u64) {
    traffic.packets += packets;
    traffic.bytes += bytes;
}
