//! What a Workstation's packets may reach: rules, compiled so that judging a packet costs the same
//! whatever their number.
//!
//! Between [`crate::route`], which says where a packet's destination is ([`Place`]), and the host
//! interface. Pure and without memory of packets: each is judged by itself. What this cannot tell the
//! transport of is dropped whatever the rules are ([`classify()`] says when that is).
//!
//! A rule towards another Workstation lets what it names through, and what answers it back: TCP that
//! opens no connection and UDP from the named ports, ICMP that is no request. So the other side
//! cannot begin a TCP connection or ping; to UDP it can send, from a named port, what was not asked
//! for.

mod classify;
mod ports;
mod surroundings;
#[cfg(test)]
mod tests;

pub use classify::{Icmp, Transport, Unclassified, classify};
pub use ports::PortSet;
pub use surroundings::{Place, Surroundings};

use crate::WorkstationId;

/// TCP or UDP ports, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

/// What a rule lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Match {
    /// Everything that can be classified.
    Any,
    /// Echo requests and replies, and error messages, of ICMP and ICMPv6.
    Icmp,
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
}

/// Rules towards one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    any: bool,
    icmp: bool,
    tcp: PortSet,
    udp: PortSet,
}

impl FromIterator<Match> for RuleSet {
    fn from_iter<T: IntoIterator<Item = Match>>(rules: T) -> Self {
        let mut set = Self::default();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for rule in rules {
            match rule {
                Match::Any => set.any = true,
                Match::Icmp => set.icmp = true,
                Match::Tcp(range) => tcp.push(range),
                Match::Udp(range) => udp.push(range),
            }
        }
        set.tcp = PortSet::of(&tcp);
        set.udp = PortSet::of(&udp);
        set
    }
}

impl RuleSet {
    /// Whether there is no rule in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.any && !self.icmp && self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Whether the rules let it through.
    #[inline]
    pub fn admits(&self, transport: Transport) -> bool {
        self.any
            || match transport {
                Transport::Tcp { destination, .. } => self.tcp.contains(destination),
                Transport::Udp { destination, .. } => self.udp.contains(destination),
                Transport::Icmp(kind) => self.icmp && kind != Icmp::Other,
                Transport::Rest(protocol) => self.has_rule_for(protocol),
                Transport::Other(_) => false,
            }
    }

    /// Whether it may be the answer to what the rules let through the other way.
    #[inline]
    pub fn answers(&self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp { source, opens, .. } => {
                !opens && (self.any || self.tcp.contains(source))
            }
            Transport::Udp { source, .. } => self.any || self.udp.contains(source),
            Transport::Icmp(Icmp::Reply | Icmp::Error) => self.any || self.icmp,
            // An error tells a sender of TCP or UDP what became of it; without a rule for ICMP it
            // is not let through.
            Transport::Icmp(Icmp::Request | Icmp::Other) => false,
            Transport::Rest(protocol) => self.any || self.has_rule_for(protocol),
            Transport::Other(_) => self.any,
        }
    }

    /// A later fragment has no ports. It passes where a first one can, and does nothing without it.
    fn has_rule_for(&self, protocol: u8) -> bool {
        match protocol {
            classify::TCP => !self.tcp.is_empty(),
            classify::UDP => !self.udp.is_empty(),
            classify::ICMP | classify::ICMPV6 => self.icmp,
            _ => false,
        }
    }
}

/// The rules between a Workstation and another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRules {
    /// The other.
    pub peer: WorkstationId,
    /// What the Workstation may send to it.
    pub to: RuleSet,
    /// What the other may send: this may be answered.
    pub from: RuleSet,
}

/// All rules for what a Workstation sends. Without any, nothing passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// To the Gateway's own addresses.
    pub gateway: RuleSet,
    /// To addresses that are nobody's here, for the Gateway's stack to redirect.
    pub transparent: RuleSet,
    /// To other Workstations.
    pub peers: Vec<PeerRules>,
}

impl Policy {
    /// Everything to the Gateway's own addresses.
    pub fn gateway_any() -> Self {
        Self {
            gateway: RuleSet::from_iter([Match::Any]),
            ..Self::default()
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// There is no rule at all that leads to its destination.
    Unreachable,
    /// No rule lets it through.
    Denied,
    /// It cannot be told what it is.
    Unclassified,
}

impl Policy {
    /// Judges a packet for `place`. `packet` begins with the IP header and is of the length that
    /// says, as [`crate::inner::parse`] has found.
    #[inline]
    pub fn judge(&self, place: Place, packet: &[u8]) -> Verdict {
        let rules = match place {
            Place::Gateway => &self.gateway,
            Place::Elsewhere => &self.transparent,
            Place::Workstation(peer) => return self.judge_peer(peer, packet),
            Place::Nowhere => return Verdict::Unreachable,
        };
        if place == Place::Elsewhere && rules.is_empty() {
            return Verdict::Unreachable;
        }
        match classify(packet) {
            Ok(transport) if rules.admits(transport) => Verdict::Pass,
            Ok(_) => Verdict::Denied,
            Err(Unclassified) => Verdict::Unclassified,
        }
    }

    fn judge_peer(&self, peer: WorkstationId, packet: &[u8]) -> Verdict {
        let Some(rules) = self.peers.iter().find(|rules| rules.peer == peer) else {
            return Verdict::Unreachable;
        };
        match classify(packet) {
            Ok(transport) if rules.to.admits(transport) || rules.from.answers(transport) => {
                Verdict::Pass
            }
            Ok(_) => Verdict::Denied,
            Err(Unclassified) => Verdict::Unclassified,
        }
    }
}
