//! The LAN that is flooded: the Gateway's port, two Workstations and an attacker on one switch, and a
//! second switch with a port that is not ours.
//!
//! ```text
//!   gw (lan) --+                              +-- nobody
//!   w1 --------+- switch          elsewhere --+
//!   w2 --------+                              |
//!   evil ------+ . . . . . . . . . . . . . . .+
//! ```
//!
//! A control run is the same flood, frame for frame, after the flooder's cable was moved to the switch
//! elsewhere. What comes for the Gateway's MAC address leaves that one at `nobody`, a host whose
//! kernel drops it as not its own. So what generator, cables and switches cost is in both runs,
//! and what the flood costs the Gateway only in one.
//!
//! Both switches are told who is at which port and learn nothing: with port security, as it were. On
//! one that learns, whoever sends under another's MAC address draws that one's frames to himself, which
//! no Gateway can prevent.

use std::sync::Arc;

use anyhow::{Context, Result};
use wire::kind;

use crate::attack::{Mac, header_of};
use crate::rig::{
    Capture, Gateway, Many, Namespace, PacketKind, Programs, Workstation, mac_of, many, set_link,
};

/// The interface of every host but the Gateway.
const CABLE: &str = "cable0";
const MTU: u32 = 1500;
/// An entry of a switch that no frame moves to another port, not even one that comes in the moment
/// between plugging a cable in and switching learning off there.
const STAYS: &str = "master static sticky";

/// Where the flooder's cable is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the Gateway's LAN.
    Ours,
    /// On the other switch: the control run.
    Elsewhere,
}

impl Place {
    /// Both, in the order of a round: whoever comes first in one is last in the next.
    pub(super) fn both(round: u32) -> [Self; 2] {
        if round.is_multiple_of(2) {
            [Self::Ours, Self::Elsewhere]
        } else {
            [Self::Elsewhere, Self::Ours]
        }
    }
}

/// The LAN, with the Gateway and both Workstations in session.
pub(super) struct Lan {
    rig: Many,
    evil: Arc<Namespace>,
    _nobody: Namespace,
    hellos: Vec<Vec<u8>>,
}

impl Lan {
    /// Lays and starts it.
    ///
    /// # Errors
    /// What `ip` answered, or when a program does not come up.
    pub(super) fn start() -> Result<Self> {
        let mut rig = many(&Programs::find()?, 2)?;
        let evil = Arc::new(Namespace::create("evil")?);
        let nobody = Namespace::create("nobody")?;
        rig.lan.plug(&evil, CABLE, "evil", MTU)?;
        rig.lan.plug(&nobody, CABLE, "nobody", MTU)?;
        for host in [&evil, &nobody] {
            // Neither has anything to say of its own.
            host.sysctl(&format!("ipv6/conf/{CABLE}/disable_ipv6"), "1")?;
            set_link(host, CABLE, true)?;
        }
        let switch = rig.lan.namespace();
        switch.ip(&format!(
            "link add {} type bridge stp_state 0 mcast_snooping 0 forward_delay 0",
            Place::Elsewhere.switch()
        ))?;
        switch.ip(&format!("link set {} up", Place::Elsewhere.switch()))?;
        let hears = |frame: &crate::rig::Captured| {
            frame.kind == PacketKind::Incoming
                && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::HELLO)
        };
        let hellos = Capture::filtered(switch, Some("w1"), 64, hears)?;
        rig.start()?;
        hellos.settle()?;
        let lan = Self {
            hellos: hellos.take().into_iter().map(|frame| frame.bytes).collect(),
            rig,
            evil,
            _nobody: nobody,
        };
        lan.secure_ports()?;
        anyhow::ensure!(!lan.hellos.is_empty(), "no Hello of w1 was heard");
        Ok(lan)
    }

    /// Tells the switches who is where. What comes for the Gateway elsewhere ends at `nobody`.
    fn secure_ports(&self) -> Result<()> {
        let switch = self.rig.lan.namespace();
        for port in self.rig.lan.ports() {
            switch.exec("bridge", &format!("link set dev {port} learning off"))?;
        }
        plug(switch, "nobody", Place::Elsewhere)?;
        let (gateway, victim, neighbour) = (self.gateway_mac()?, self.victim(), self.neighbour());
        for (port, mac) in [
            ("gw", gateway),
            ("w1", mac_of(victim.namespace(), CABLE)?),
            ("w2", mac_of(neighbour.namespace(), CABLE)?),
            ("evil", mac_of(&self.evil, CABLE)?),
            ("nobody", gateway),
        ] {
            let mac = text(mac);
            // What a port has learnt before may stand in the way.
            let _ = switch.exec("bridge", &format!("fdb del {mac} dev {port} master"));
            switch
                .exec("bridge", &format!("fdb replace {mac} dev {port} {STAYS}"))
                .with_context(|| format!("telling the switch that {mac} is at {port}"))?;
        }
        Ok(())
    }

    /// Moves the cable of a flooder, and tells the switch there who it is.
    ///
    /// # Errors
    /// What `ip` or `bridge` answered.
    pub(super) fn place(&self, flooder: Flooder, place: Place) -> Result<()> {
        let switch = self.rig.lan.namespace();
        let (port, host) = match flooder {
            Flooder::Evil => ("evil", &self.evil),
            Flooder::Neighbour => ("w2", self.neighbour().namespace()),
        };
        plug(switch, port, place)?;
        let mac = text(mac_of(host, CABLE)?);
        switch.exec("bridge", &format!("link set dev {port} learning off"))?;
        switch.exec("bridge", &format!("fdb replace {mac} dev {port} {STAYS}"))?;
        Ok(())
    }

    /// The Gateway.
    pub(super) fn gateway(&self) -> &Gateway {
        &self.rig.gateway
    }

    /// The process of the Gateway's daemon.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn daemon(&mut self) -> Result<u32> {
        let process = self.rig.gateway.process();
        Ok(process.context("portcullisd has ended")?.pid())
    }

    /// The Workstation whose traffic is measured.
    pub(super) fn victim(&self) -> &Workstation {
        &self.rig.workstations[0]
    }

    /// The Workstation that floods through its own tunnel.
    pub(super) fn neighbour(&self) -> &Workstation {
        &self.rig.workstations[1]
    }

    /// The attacker.
    pub(super) fn evil(&self) -> &Arc<Namespace> {
        &self.evil
    }

    /// The interface of the attacker.
    pub(super) fn cable(&self) -> &'static str {
        CABLE
    }

    /// The switch: its ports are called after the hosts.
    pub(super) fn switch(&self) -> &Namespace {
        self.rig.lan.namespace()
    }

    /// The MAC address of the Gateway's port.
    ///
    /// # Errors
    /// When there is no such interface.
    pub(super) fn gateway_mac(&self) -> Result<Mac> {
        mac_of(self.rig.gateway.namespace(), "lan")
    }

    /// The Hellos of the victim.
    pub(super) fn hellos(&self) -> &[Vec<u8>] {
        &self.hellos
    }
}

/// Who floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flooder {
    /// The attacker, who has no keys.
    Evil,
    /// The other Workstation.
    Neighbour,
}

impl Place {
    fn switch(self) -> &'static str {
        match self {
            Self::Ours => "br0",
            Self::Elsewhere => "br1",
        }
    }
}

fn plug(switch: &Namespace, port: &str, place: Place) -> Result<()> {
    switch.ip(&format!("link set dev {port} master {}", place.switch()))?;
    Ok(())
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_first_in_one_round_is_last_in_the_next() {
        let [first, second] = [0, 1].map(Place::both);
        assert_eq!(first[0], second[1]);
        assert_eq!(first[1], second[0]);
        assert_ne!(first[0], first[1]);
    }
}
