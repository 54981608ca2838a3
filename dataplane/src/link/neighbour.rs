//! The kernel's table of neighbours, as far as a port with pinned Workstations needs it: permanent
//! entries, which nothing that comes from the cable can change.

use super::{LinkError, Links, refused};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// Where a neighbour is.
pub type Neighbour = (IpAddr, [u8; 6]);
/// What the kernel has: the MAC address only where the entry is permanent.
type Entry = (IpAddr, Option<[u8; 6]>);

impl Links {
    /// Makes these the interface's permanent neighbours, and removes those that are not among them.
    /// Those that are there already are not touched. It must be up.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_neighbours(&self, index: u32, wanted: &[Neighbour]) -> Result<(), LinkError> {
        let what = |address: &IpAddr| {
            refused(format!(
                "pinning {address} as a neighbour on interface {index}"
            ))
        };
        let present = self.neighbours(index)?;
        for (address, mac) in &present {
            if !wanted.contains(&(*address, mac.unwrap_or_default())) {
                let message = RouteNetlinkMessage::DelNeighbour(message(index, *address, None));
                match self.netlink.change(message, 0) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.map_err(what(address))?,
                }
            }
        }
        for (address, mac) in wanted {
            if !present.contains(&(*address, Some(*mac))) {
                let message =
                    RouteNetlinkMessage::NewNeighbour(message(index, *address, Some(*mac)));
                self.netlink
                    .change(message, NLM_F_CREATE | NLM_F_REPLACE)
                    .map_err(what(address))?;
            }
        }
        Ok(())
    }

    /// The interface's neighbours of one host each.
    fn neighbours(&self, index: u32) -> Result<Vec<Entry>, LinkError> {
        let query = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answer = self.netlink.dump(query);
        let messages = answer.map_err(refused("listing neighbours"))?;
        let of = |message: RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewNeighbour(entry) if entry.header.ifindex == index => {
                entry_of(&entry)
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(of).collect())
    }
}

fn entry_of(entry: &NeighbourMessage) -> Option<Entry> {
    // Multicast and broadcast are mapped by rule, not learned.
    if entry.header.state == NeighbourState::Noarp {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let permanent = entry.header.state == NeighbourState::Permanent;
    Some((address?, mac.filter(|_| permanent)))
}

fn message(index: u32, address: IpAddr, mac: Option<[u8; 6]>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
        .attributes
        .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    message
}
