//! What there is to show of an agent, and to say in the log.

use super::{Agent, GATEWAY, Reach, addresses, now};
use crate::api::{self, AgentStatus, SessionStatus, mac_text};
use crate::handshake::workstation::{Phase, Status};

impl Agent {
    /// Says in the log when the tunnel comes and goes.
    pub(super) fn report(&mut self) {
        let status = self.machine.status(now());
        if status.connected != self.was_connected {
            self.was_connected = status.connected;
            match status.connected {
                true => tracing::info!(gateway = self.gateway(&status), "the tunnel is up"),
                false => tracing::warn!("the tunnel is down; looking for the Gateway"),
            }
        }
    }

    /// The Gateway's address, as far as there is a session.
    pub(super) fn gateway(&self, status: &Status) -> Option<String> {
        match &self.reach {
            Reach::Cable(_) => status.gateway_mac.map(mac_text),
            Reach::Network(network) => network.remote().map(|remote| remote.to_string()),
        }
    }

    pub(super) fn status(&mut self) -> AgentStatus {
        let machine: Status = self.machine.status(now());
        let rings = self.pool.ring_statistics().remove(&self.machine.port());
        let gateway = self.gateway(&machine);
        let counters = &self.counters;
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_seconds: self.started.elapsed().as_secs(),
            name: self.identity.name.to_string(),
            key_id: self.identity.key_id.to_string(),
            engine: self.config.engine.resolve().name().to_owned(),
            port: match &self.reach {
                Reach::Cable(port) => port.status(&self.links, rings.as_ref()),
                Reach::Network(network) => network.status(rings.as_ref()),
            },
            state: phase_name(machine.phase).to_owned(),
            gateway: gateway.clone(),
            session: machine.session_age.zip(machine.protected_by).map(
                |(age, (cipher, protection))| SessionStatus {
                    age_seconds: age.as_secs(),
                    cipher: cipher.name().to_owned(),
                    protection: protection.name().to_owned(),
                    peer: gateway.unwrap_or_default(),
                },
            ),
            last_handshake_seconds: machine.last_handshake.map(|at| at.as_secs()),
            addresses: self
                .parameters
                .iter()
                .flat_map(addresses)
                .map(|address| address.to_string())
                .collect(),
            rx: api::Traffic {
                packets: counters.rx_packets.get(),
                bytes: counters.rx_bytes.get(),
            },
            tx: api::Traffic {
                packets: counters.tx_packets.get(),
                bytes: counters.tx_bytes.get(),
            },
            opened: counters.opened.get(),
            queue: match &self.reach {
                Reach::Cable(port) => port.queue(GATEWAY),
                Reach::Network(_) => api::QueueStatus::default(),
            },
            drops: counters
                .drops()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            rekeys: machine.handshakes.1,
            rollbacks: self.rollbacks,
            last_error: machine.last_failure.map(|failure| failure.to_string()),
        }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Stopped => "stopped",
        Phase::Idle => "idle",
        Phase::Hello => "hello",
        Phase::Init => "init",
        Phase::Rekey => "rekey",
        Phase::Proving => "proving",
    }
}
