//! What a Workstation's own packets say of it: the addresses it was given, and nothing else.
//!
//! Its kernel and its programs have more to say: to groups and neighbours (IGMP, MLD, router
//! solicitations, mDNS, LLMNR, DHCP, NetBIOS), and from addresses of other interfaces, to which a program
//! can bind. None of that gets as far as a frame.

use crate::inner::{Address, Pair};
use ipnet::IpNet;

/// The addresses that a Workstation's packets may be from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    v4: Option<Address>,
    v6: Option<Address>,
    /// The broadcast address of the IPv4 prefix.
    broadcast: Option<Address>,
}

impl Own {
    /// Those of the host interface, of which each IP version has one at most. Of none, nothing is sent.
    pub fn new(addresses: &[IpNet]) -> Self {
        let of = |v4: bool| {
            let mut all = addresses.iter().map(|net| Address::from(net.addr()));
            all.find(|address| address.v4 == v4)
        };
        let broadcast = addresses.iter().find_map(|net| match net {
            // Both addresses of a /31 are hosts'.
            IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
            _ => None,
        });
        Self {
            v4: of(true),
            v6: of(false),
            broadcast: broadcast.map(|address| Address::from(std::net::IpAddr::from(address))),
        }
    }

    /// Whether a packet with these addresses is one to be sent.
    #[inline]
    pub fn sends(&self, pair: &Pair) -> bool {
        let (source, destination) = (pair.source(), pair.destination());
        let own = if source.v4 { self.v4 } else { self.v6 };
        own == Some(source) && self.broadcast != Some(destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn pair(source: &str, destination: &str) -> Pair {
        match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&a.octets());
                bytes[4..].copy_from_slice(&b.octets());
                Pair::V4(bytes)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mut bytes = [0; 32];
                bytes[..16].copy_from_slice(&a.octets());
                bytes[16..].copy_from_slice(&b.octets());
                Pair::V6(bytes)
            }
            _ => panic!("addresses of one version"),
        }
    }

    #[test]
    fn only_the_given_addresses_send_and_not_to_their_broadcast_address() {
        let nets: Vec<IpNet> = ["10.152.152.11/18", "fd00::11/64"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let own = Own::new(&nets);
        assert!(own.sends(&pair("10.152.152.11", "10.152.152.10")));
        assert!(own.sends(&pair("10.152.152.11", "192.0.2.1")));
        assert!(own.sends(&pair("fd00::11", "fd00::10")));
        for (source, destination) in [
            ("10.152.152.12", "10.152.152.10"),
            ("192.168.1.5", "10.152.152.10"),
            ("0.0.0.0", "10.152.152.10"),
            ("10.152.152.11", "10.152.191.255"),
            ("fd00::12", "fd00::10"),
            ("::", "fd00::10"),
            ("fe80::1", "fd00::10"),
            ("::ffff:10.152.152.11", "fd00::10"),
        ] {
            assert!(
                !own.sends(&pair(source, destination)),
                "{source} {destination}"
            );
        }
        let none = Own::default();
        assert!(!none.sends(&pair("10.152.152.11", "10.152.152.10")));
        assert!(!none.sends(&pair("::", "::1")));
        let lone = Own::new(&nets[..1]);
        assert!(!lone.sends(&pair("fd00::11", "fd00::10")));
    }
}
