//! Which Workstation an inner address belongs to: longest prefix wins. And where it is otherwise.

use crate::WorkstationId;
use crate::inner::Address;
use crate::policy::{Place, Surroundings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::{Prefix, PrefixMap};
use rustc_hash::FxHashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The inner prefixes of all Workstations, whichever worker serves them.
#[derive(Default)]
pub struct Routes {
    /// Prefixes of one address, which is what a Workstation usually has. No prefix is longer, and a
    /// walk down the trie costs as much as opening a frame. (The keys are configured, so no sender
    /// can make the hash collide.)
    hosts_v4: FxHashMap<u32, WorkstationId>,
    hosts_v6: FxHashMap<u128, WorkstationId>,
    v4: PrefixMap<Ipv4Net, WorkstationId>,
    v6: PrefixMap<Ipv6Net, WorkstationId>,
    surroundings: Arc<Surroundings>,
    version: u64,
}

impl Routes {
    /// The owner of the longest prefix that holds `address`.
    #[inline]
    pub fn owner(&self, address: impl Into<Address>) -> Option<WorkstationId> {
        let Address { bits, v4 } = address.into();
        if v4 {
            let bits = bits as u32;
            return match self.hosts_v4.get(&bits) {
                Some(owner) => Some(*owner),
                None => longest(&self.v4, Ipv4Addr::from_bits(bits).into()),
            };
        }
        match self.hosts_v6.get(&bits) {
            Some(owner) => Some(*owner),
            None => longest(&self.v6, Ipv6Addr::from_bits(bits).into()),
        }
    }

    /// Where an address is.
    #[inline]
    pub fn place(&self, address: Address) -> Place {
        match self.owner(address) {
            Some(owner) => Place::Workstation(owner),
            None => self.surroundings.place(address),
        }
    }

    /// Says which addresses are around the Workstations'.
    pub fn set_surroundings(&mut self, surroundings: Arc<Surroundings>) {
        self.version += 1;
        self.surroundings = surroundings;
    }

    /// Changes with every change: what was looked up under another version may be wrong.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Gives a prefix to a Workstation, taking it from whoever had that very prefix.
    pub fn insert(&mut self, prefix: IpNet, owner: WorkstationId) {
        self.version += 1;
        match prefix {
            IpNet::V4(host) if host.prefix_len() == 32 => {
                self.hosts_v4.insert(host.addr().to_bits(), owner)
            }
            IpNet::V6(host) if host.prefix_len() == 128 => {
                self.hosts_v6.insert(host.addr().to_bits(), owner)
            }
            IpNet::V4(prefix) => self.v4.insert(prefix.trunc(), owner),
            IpNet::V6(prefix) => self.v6.insert(prefix.trunc(), owner),
        };
    }

    /// Gives a Workstation these prefixes and no other.
    pub fn replace(&mut self, owner: WorkstationId, prefixes: Vec<IpNet>) {
        self.remove(owner);
        for prefix in prefixes {
            self.insert(prefix, owner);
        }
    }

    /// Takes every prefix of a Workstation away.
    pub fn remove(&mut self, owner: WorkstationId) {
        self.version += 1;
        self.hosts_v4.retain(|_, has| *has != owner);
        self.hosts_v6.retain(|_, has| *has != owner);
        self.v4.retain(|_, has| *has != owner);
        self.v6.retain(|_, has| *has != owner);
    }
}

fn longest<N: Prefix>(prefixes: &PrefixMap<N, WorkstationId>, of: N) -> Option<WorkstationId> {
    prefixes.get_lpm(&of).map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Property 4: however prefixes overlap, an address has one owner, the most specific.
        #[test]
        fn however_prefixes_overlap_the_longest_has_the_address(
            prefixes in prop::collection::vec((0u32..256, 24u8..=32), 1..30), address in 0u32..256,
        ) {
            let base = u32::from_be_bytes([10, 0, 0, 0]);
            let mut routes = Routes::default();
            let mut model: Vec<(Ipv4Net, WorkstationId)> = Vec::new();
            for (owner, (host, len)) in prefixes.into_iter().enumerate() {
                let net = Ipv4Net::new((base + host).into(), len).unwrap().trunc();
                routes.insert(net.into(), owner as u32);
                model.retain(|(has, _)| *has != net);
                model.push((net, owner as u32));
            }
            let address = std::net::Ipv4Addr::from(base + address);
            let expected = model.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
            prop_assert_eq!(routes.owner(std::net::IpAddr::from(address)), expected.map(|(_, owner)| *owner));
        }
    }

    #[test]
    fn a_removed_workstation_owns_nothing() {
        let mut routes = Routes::default();
        routes.insert("10.0.0.0/24".parse().unwrap(), 1);
        routes.insert("10.0.0.7/32".parse().unwrap(), 2);
        routes.insert("fd00::7/128".parse().unwrap(), 2);
        routes.remove(2);
        assert_eq!(
            routes.owner("10.0.0.7".parse::<std::net::IpAddr>().unwrap()),
            Some(1)
        );
        assert_eq!(
            routes.owner("fd00::7".parse::<std::net::IpAddr>().unwrap()),
            None
        );
    }
}
