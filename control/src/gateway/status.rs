//! What the daemon tells of itself.

use super::*;
use crate::api::{Counters, PortStatus, SessionStatus, Status, WorkstationStatus};
use crate::handshake::gateway::WorkstationInfo;
use crate::metrics::{More, Sample};
use crate::port::by_name;
use dataplane::port::RingStatistics;
use dataplane::wall::AttachMode;
use wire::limits::SEAL_BLOCKS;

impl Daemon {
    pub(super) fn status(&mut self) -> Status {
        let rings = self.pool.ring_statistics();
        let infos = self.machine.workstations(now());
        self.status_of(&rings, &infos)
    }

    /// What metrics are made of.
    pub(super) fn sample(&mut self) -> Sample {
        let rings = self.pool.ring_statistics();
        let infos = self.machine.workstations(now());
        let frames = self.ports.iter().filter_map(|port| {
            let statistics = rings.get(&port.id)?;
            Some((port.plan.interface.clone(), statistics.frames))
        });
        let workstations = infos.iter().filter_map(|info| {
            let name = self.registry.by_slot(info.id)?.name.to_string();
            Some((name, self.more(info)))
        });
        Sample {
            frames: frames.collect(),
            workstations: workstations.collect(),
            batches: self.pool.batches(),
            status: self.status_of(&rings, &infos),
        }
    }

    fn more(&self, info: &WorkstationInfo) -> More {
        let up = self.ports.iter().filter_map(|port| port.up.as_ref());
        let blocks_left = info.cur.as_ref().and_then(|session| {
            let worker = self.sessions.get(&session.index)?.worker;
            let counters = self.served.get(&info.id)?.counters.get(worker)?;
            Some(SEAL_BLOCKS.saturating_sub(counters.sealed_blocks.get()))
        });
        More {
            handshakes: info
                .outcomes
                .all()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            queued: up.map(|up| up.tables.queue(info.id).0).sum(),
            blocks_left,
        }
    }

    /// How the ports stand.
    pub(super) fn port_statuses(&self) -> Vec<PortStatus> {
        self.ports_with(&self.pool.ring_statistics())
    }

    fn ports_with(&self, rings: &HashMap<PortId, RingStatistics>) -> Vec<PortStatus> {
        let keyless = self.keyless.iter().map(|port| port.status(&self.links));
        self.ports
            .iter()
            .map(|port| port.status(&self.links, rings.get(&port.id)))
            .chain(keyless)
            .collect()
    }

    fn status_of(
        &self,
        rings: &HashMap<PortId, RingStatistics>,
        infos: &[WorkstationInfo],
    ) -> Status {
        let workstations = WorkstationStatus::all(&self.registry, &self.keyring)
            .into_iter()
            .map(|status| self.fill_in(status, infos))
            .collect();
        let warnings = self.ports.iter().filter_map(|port| {
            let generic = port.up.as_ref()?.mode == AttachMode::Generic;
            generic.then(|| {
                format!(
                    "port {} runs XDP in generic mode, which is several times slower",
                    port.plan.interface
                )
            })
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_seconds: self.started.elapsed().as_secs(),
            engine: self.config.engine.resolve().name().to_owned(),
            workers: self.pool.len(),
            worker_cores: self.pool.cores().collect(),
            host_interface: self.config.host_interface.clone(),
            public_key: self.keyring.public().to_string(),
            old_public_key: self.keyring.old().map(|key| key.to_string()),
            ports: self.ports_with(rings),
            workstations,
            counters: self
                .pool
                .counters()
                .chain([("mailbox_full", self.mail.dropped())])
                .fold(Counters::new(), |mut all, (name, count)| {
                    *all.entry(name.to_owned()).or_default() += count;
                    all
                }),
            warnings: self
                .keyless
                .iter()
                .flat_map(super::keyless::Keyless::warnings)
                .chain(warnings)
                .chain(self.let_out.iter().map(ToString::to_string))
                .collect(),
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
                peer: session.path.to_string(),
            });
            if let Some(session) = &info.cur {
                let port = self.ports.get(usize::from(session.port));
                status.port = port.map(|port| port.plan.interface.clone());
                status.worker = self.sessions.get(&session.index).map(|live| live.worker);
            }
            status.last_handshake_seconds = info.last_handshake.map(|at| at.as_secs());
            if info.unmet {
                status.refused = Some(unmet(&status));
            }
            status.rekeys = info.outcomes.rekeys;
            status.clone_suspected = info.clone_suspected;
        }
        for counters in &served.counters {
            status.rx.packets += counters.rx_packets.get();
            status.rx.bytes += counters.rx_bytes.get();
            status.tx.packets += counters.tx_packets.get();
            status.tx.bytes += counters.tx_bytes.get();
            status.opened += counters.opened.get();
            for (name, count) in counters.drops() {
                *status.drops.entry(name.to_owned()).or_default() += count;
            }
        }
        for port in self.ports.iter().filter_map(|port| port.up.as_ref()) {
            let (waiting, limit) = port.tables.queue(id);
            status.queue.waiting += waiting;
            status.queue.limit += limit;
            if let Ok(verdicts) = port.wall.workstation_verdicts(id) {
                for (name, count) in by_name(&verdicts) {
                    *status.verdicts.entry(name).or_default() += count;
                }
            }
        }
        status
    }
}

/// Why one that does not offer what it is to be given gets no session.
fn unmet(status: &WorkstationStatus) -> String {
    let protection = status.wanted.protection.as_deref().unwrap_or_default();
    let cipher = status.wanted.cipher.unwrap_or_default().name();
    let minimum = match (protection, cipher) {
        ("authenticate", "aes-128-gcm") => {
            "minimum_protection = \"authenticate\" and minimum_cipher = \"aes-128-gcm\""
        }
        ("authenticate", _) => {
            "minimum_protection = \"authenticate\" (and no higher minimum_cipher)"
        }
        (_, "aes-128-gcm") => "minimum_cipher = \"aes-128-gcm\"",
        _ => "no higher minimum_cipher",
    };
    format!(
        "it does not accept {protection} with cipher {cipher}, which it is to be given: set {minimum} in \
         its agent.toml, or change it here: portcullis workstation set {}",
        status.name
    )
}
