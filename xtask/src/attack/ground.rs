//! Where attacks in steps take place that are the same on a LAN and over networks.

use anyhow::Result;

use super::rogue::Rogue;
use super::stream::Known;
use crate::rig::{Gateway, PacketSocket, Workstation};

/// It.
pub(super) trait Ground {
    /// The Gateway.
    fn gateway(&self) -> &Gateway;
    /// The name of its port.
    fn port(&self) -> &'static str;
    /// The victim.
    fn victim(&mut self) -> Result<&mut Workstation>;
    /// The Workstations that frames of others than the attacker's are from.
    fn others(&self) -> [&'static str; 2];
    /// The thief of ws4's keys.
    fn rogue(&mut self) -> Result<&mut Rogue>;
    /// What the attacker knows.
    fn known(&self) -> &Known;
    /// What it sends by.
    fn wire(&self) -> &PacketSocket;
    /// The same, for a thread of its own.
    fn sender(&self) -> Result<PacketSocket>;
}
