//! The station a packet goes to first, as the kernel would send it: by its routes, and its table of neighbours.

use super::{LinkError, Links, refused};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::{IpAddr, SocketAddr};
use wire::read::UDP;

impl Links {
    /// The MAC address to which a datagram with this mark goes, when it leaves from `local` for `remote` by the interface
    /// `index`.
    /// `None` where the kernel would not send it there, or does not know the address (yet, or any more): it asks when
    /// it has something to send itself.
    ///
    /// # Errors
    /// What the kernel answered to a question that it should understand.
    pub fn next_hop(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        mark: u32,
        index: u32,
    ) -> Result<Option<[u8; 6]>, LinkError> {
        match self.station([local, remote], mark, index)? {
            Some(station) => self.mac_of(station, index),
            None => Ok(None),
        }
    }

    /// The router, or the other end itself.
    fn station(
        &self,
        ends: [SocketAddr; 2],
        mark: u32,
        index: u32,
    ) -> Result<Option<IpAddr>, LinkError> {
        let remote = ends[1].ip();
        let (family, length) = match remote {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let [source, destination] = ends.map(|end| match end.ip() {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        });
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.header.destination_prefix_length = length;
        query.header.source_prefix_length = length;
        query.attributes = vec![
            RouteAttribute::Destination(destination),
            RouteAttribute::Source(source),
            RouteAttribute::IpProto(UDP),
            RouteAttribute::Sport(ends[0].port()),
            RouteAttribute::Dport(ends[1].port()),
            RouteAttribute::Oif(index),
            RouteAttribute::Mark(mark),
        ];
        let answer = match self.netlink.get(RouteNetlinkMessage::GetRoute(query)) {
            Err(error) if is_nowhere(&error) => return Ok(None),
            other => other.map_err(refused(format!("asking for the route to {remote}")))?,
        };
        let route = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        // What is put into something else on its way is not for us to write.
        let plain = |route: &RouteMessage| {
            !route.attributes.iter().any(|attribute| {
                matches!(
                    attribute,
                    RouteAttribute::Encap(_) | RouteAttribute::EncapType(_)
                )
            })
        };
        let Some(route) = route.filter(|route| {
            route.header.kind == RouteType::Unicast
                && route.attributes.contains(&RouteAttribute::Oif(index))
                && plain(route)
        }) else {
            return Ok(None);
        };
        let router = route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(v4))
                | RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
                RouteAttribute::Gateway(RouteAddress::Inet6(v6))
                | RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                _ => None,
            });
        Ok(Some(router.unwrap_or(remote)))
    }

    fn mac_of(&self, station: IpAddr, index: u32) -> Result<Option<[u8; 6]>, LinkError> {
        let (family, destination) = match station {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        let mut query = NeighbourMessage::default();
        query.header.family = family;
        query.header.ifindex = index;
        query.attributes = vec![NeighbourAttribute::Destination(destination)];
        let answer = match self.netlink.get(RouteNetlinkMessage::GetNeighbour(query)) {
            Err(error) if is_nowhere(&error) => return Ok(None),
            other => other.map_err(refused(format!("asking for the neighbour {station}")))?,
        };
        let entry = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
            _ => None,
        });
        // As the kernel would use it (NUD_VALID); of what has no neighbours there is no address.
        let known = entry.filter(|entry| {
            matches!(
                entry.header.state,
                NeighbourState::Reachable
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
            )
        });
        let address = known.and_then(|entry| {
            entry
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(bytes) => bytes.try_into().ok(),
                    _ => None,
                })
        });
        Ok(address.filter(|mac: &[u8; 6]| *mac != [0; 6] && mac[0] & 1 == 0))
    }
}

/// The kernel's answers that there is no such thing.
fn is_nowhere(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOENT
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::ENODEV
                | libc::EINVAL
                | libc::EACCES
        )
    )
}
