//! Rules in the NICs that bring a Workstation's frames in where its session is.
//!
//! They are made when a session is proven and removed when the Workstation has none on the port any
//! more, or the daemon stops. What is made is written down in the runtime directory, so that a daemon
//! that was killed leaves none behind for ever: the next one removes them. A NIC that has no such
//! rules is served without; its workers hand each other what is not their own.

use super::homes::Live;
use super::*;
use crate::files;
use crate::helper::HelpedNic;
use dataplane::port::ntuple::{Rule, Rules};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What is written down of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    interface: String,
    ifindex: u32,
    source: [u8; 6],
    queue: u32,
    place: u32,
}

/// The rules of all ports.
pub(super) struct Guide {
    ports: BTreeMap<PortId, (Rules<HelpedNic>, u32)>,
    names: BTreeMap<PortId, String>,
    record: PathBuf,
    /// Ports of which it was said that their NIC is no help.
    told: HashSet<PortId>,
}

impl Guide {
    /// Removes what an earlier daemon has left.
    pub(super) fn new(runtime_directory: &Path, links: &Links, ports: &[Port]) -> Self {
        let record = runtime_directory.join("nic-rules.json");
        let left = files::read(&record).ok();
        let left: Vec<Made> = left
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        for made in left {
            // Another interface of that name has none of ours.
            let same = |link: dataplane::link::LinkInfo| link.index == made.ifindex;
            if !links.find(&made.interface).is_ok_and(same) {
                continue;
            }
            let rule = Rule {
                source: made.source,
                queue: made.queue,
                place: made.place,
            };
            // On an interface that is no port any more it stays: it is not ours to touch.
            let Some(port) = ports.iter().find(|p| p.plan.interface == made.interface) else {
                continue;
            };
            let mut rules = Rules::new(port.help.nic(&made.interface));
            if let Err(error) = rules.remove(&rule) {
                tracing::warn!(%error, port = made.interface, "a rule of an earlier run stays in the NIC; see ethtool -n");
            }
        }
        let _ = std::fs::remove_file(&record);
        Self {
            ports: BTreeMap::new(),
            names: BTreeMap::new(),
            record,
            told: HashSet::new(),
        }
    }

    /// A port has been raised: what its NIC has of ours is made anew.
    fn renew(&mut self, port: &Port) {
        self.close(port.id);
        if let Some(up) = port.up.as_ref().filter(|up| up.parts.len() > 1) {
            let name = port.plan.interface.clone();
            self.ports
                .insert(port.id, (Rules::new(port.help.nic(&name)), up.ifindex));
            self.names.insert(port.id, name);
        }
    }

    fn close(&mut self, port: PortId) {
        if let Some((mut rules, _)) = self.ports.remove(&port) {
            rules.release_all();
            self.write();
        }
    }

    fn guide(&mut self, live: &Live, port: &Port) {
        let part = |up: &crate::port::Up| {
            let mut parts = up.parts.iter();
            parts.find(|part| part.worker == live.worker).cloned()
        };
        let (Some((rules, _)), Some(part)) = (
            self.ports.get_mut(&live.port),
            port.up.as_ref().and_then(part),
        ) else {
            return;
        };
        // A worker's Workstations share its queues.
        let queue = part.queues.start + live.workstation % (part.queues.len() as u32).max(1);
        let name = &port.plan.interface;
        let Some(source) = live.path.mac() else {
            return;
        };
        match rules.guide(source, queue) {
            Ok(true) => self.write(),
            Ok(false) => {
                if self.told.insert(live.port) {
                    tracing::info!(
                        port = name,
                        "the NIC has no rules by source address (or they are off: ethtool -K {name} ntuple on); frames that arrive at another worker are handed over"
                    );
                }
            }
            Err(error) => {
                if self.told.insert(live.port) {
                    tracing::warn!(%error, port = name, "the NIC did not take a rule; frames that arrive at another worker are handed over");
                }
            }
        }
    }

    fn release(&mut self, port: PortId, source: [u8; 6]) {
        let Some((rules, _)) = self.ports.get_mut(&port) else {
            return;
        };
        if rules.made().any(|rule| rule.source == source) {
            if let Err(error) = rules.release(source) {
                tracing::warn!(%error, "a rule stays in the NIC; see ethtool -n");
            }
            self.write();
        }
    }

    /// Removes every rule that was made.
    pub(super) fn stop(&mut self) {
        for (rules, _) in self.ports.values_mut() {
            rules.release_all();
        }
        let _ = std::fs::remove_file(&self.record);
    }

    fn write(&self) {
        let made = |(port, (rules, ifindex)): (&PortId, &(Rules<HelpedNic>, u32))| {
            let interface = self.names.get(port).cloned().unwrap_or_default();
            let all = rules.made().map(|rule| Made {
                interface: interface.clone(),
                ifindex: *ifindex,
                source: rule.source,
                queue: rule.queue,
                place: rule.place,
            });
            all.collect::<Vec<_>>()
        };
        let all: Vec<Made> = self.ports.iter().flat_map(made).collect();
        let written = serde_json::to_string(&all)
            .map_err(|error| error.to_string())
            .and_then(|text| {
                files::write_with_mode(&self.record, &text, 0o600).map_err(|p| p.to_string())
            });
        if let Err(error) = written {
            tracing::warn!(
                error,
                "rules in the NIC would outlive a killed daemon; see ethtool -n"
            );
        }
    }
}

impl Daemon {
    /// Leads the frames of a proven session in at its worker.
    pub(super) fn guide(&mut self, index: u32) {
        let Some(live) = self.sessions.get(&index) else {
            return;
        };
        if let Some(port) = self.ports.get(usize::from(live.port)) {
            self.guide.guide(live, port);
        }
    }

    /// Nothing of a Workstation is led anywhere once it has no session on the port.
    pub(super) fn unguide(&mut self, gone: &Live) {
        let same = |live: &Live| live.port == gone.port && live.path == gone.path;
        if let Some(source) = gone.path.mac()
            && !self.sessions.values().any(same)
        {
            self.guide.release(gone.port, source);
        }
    }

    /// A port has been raised, with new rings: its sessions are led in again.
    pub(super) fn guide_all(&mut self, port: PortId) {
        let Some(port) = self.ports.get(usize::from(port)) else {
            return;
        };
        self.guide.renew(port);
        for live in self.sessions.values().filter(|live| live.port == port.id) {
            self.guide.guide(live, port);
        }
    }
}
