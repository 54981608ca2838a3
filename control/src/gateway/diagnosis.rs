//! What is told of frames: what becomes of one, and what is dropped.

use super::*;
use crate::explain::{self, Explain, Explained, Gate};
use crate::watch::{self, Stream, Watch};

impl Daemon {
    /// What the ports would do with frames, by their tables as they are now.
    pub(super) fn explain(&self, request: &Explain) -> Result<Vec<Explained>, Problem> {
        let tunnel = self.ports.iter().map(|port| explain::Port {
            interface: port.plan.interface.clone(),
            mac: self.mac_of(&port.plan.interface),
            gate: Gate::Tunnel {
                role: Role::Gateway,
                encapsulation: port.plan.encapsulation.admission(),
                tables: port.up.as_ref().map(|up| Arc::clone(&up.tables)),
            },
        });
        let keyless = explain::keyless_ports(&self.config, |name| self.mac_of(name));
        let ports: Vec<_> = tunnel.chain(keyless).collect();
        let name = |id| Some(self.registry.by_slot(id)?.name.to_string());
        explain::answer(&ports, request, name)
    }

    fn mac_of(&self, interface: &str) -> Option<[u8; 6]> {
        self.links.find(interface).ok()?.mac
    }

    /// Begins to show somebody what is dropped.
    pub(super) fn watch(&self, request: &Watch) -> Result<Stream, Problem> {
        self.show_ports();
        let served = self.served.keys();
        let names =
            served.filter_map(|id| Some((*id, self.registry.by_slot(*id)?.name.to_string())));
        self.hub.watch(request, names.collect())
    }

    /// Tells those who watch of ports that came and went.
    pub(super) fn show_ports(&self) {
        let tunnel = self.ports.iter().filter_map(|port| {
            Some(watch::Port {
                interface: port.plan.interface.clone(),
                samples: port.up.as_ref()?.wall.samples(),
                pins: None,
            })
        });
        let keyless = self.keyless.iter().filter_map(keyless::Keyless::watched);
        let ports: Vec<_> = tunnel.chain(keyless).collect();
        if !self.hub.knows(ports.iter().map(|port| &port.samples)) {
            self.hub.set_ports(ports);
        }
    }
}
