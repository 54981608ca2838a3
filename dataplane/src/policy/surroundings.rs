//! Where an address is, as the policy sees it.

use crate::WorkstationId;
use crate::inner::Address;
use ipnet::IpNet;
use std::net::IpAddr;

/// Where a packet's destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The Gateway's own address on the host interface.
    Gateway,
    /// A Workstation's.
    Workstation(WorkstationId),
    /// Nobody's here: where transparent proxying takes packets from.
    Elsewhere,
    /// Where nothing may go: groups, loopback, the Gateway's other addresses, free addresses of the
    /// tunnel's own prefixes.
    Nowhere,
}

/// The addresses around the Workstations'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The Gateway's addresses on the host interface, with the prefixes it shares with the
    /// Workstations.
    pub host: Vec<IpNet>,
    /// What else the Gateway's stack takes in, whatever interface it came by: its other addresses,
    /// and the broadcast addresses of their networks.
    pub local: Vec<IpNet>,
}

impl Surroundings {
    /// Where an address that no Workstation has is.
    pub fn place(&self, address: Address) -> Place {
        let ip = IpAddr::from(address);
        if self.host.iter().any(|net| net.addr() == ip) {
            return Place::Gateway;
        }
        let mut taken = self.host.iter().chain(&self.local);
        if is_special(ip) || taken.any(|net| net.contains(&ip)) {
            return Place::Nowhere;
        }
        Place::Elsewhere
    }
}

/// Addresses that are no single host's on the Internet or a private network.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            // This network, loopback, link-local, groups, reserved and broadcast.
            matches!(first, 0 | 127 | 224..) || (first, second) == (169, 254)
        }
        IpAddr::V6(v6) => {
            // Unspecified, loopback, and IPv4 addresses in IPv6's clothes; link-local; groups.
            v6.to_bits() >> 48 == 0 || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}
