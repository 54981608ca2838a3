//! The inner addresses of Workstations: which may be given, and which is given where none is asked for.

use super::Registry;
use crate::problem::{Kind, Problem};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Registry {
    /// Checks that `address` lies in a prefix of the host interface and is a host's, but not ours.
    pub(super) fn check_address(&self, tried: &str, address: IpAddr) -> Result<(), Problem> {
        let prefixes = || {
            let prefixes: Vec<_> = self
                .hosts
                .iter()
                .map(|host| host.trunc().to_string())
                .collect();
            prefixes.join(" or ")
        };
        let refuse = |happened: String| {
            Err(Problem::new(
                Kind::Invalid,
                tried,
                happened,
                format!(
                    "give an address in {}, or leave it out to have one chosen",
                    prefixes()
                ),
            ))
        };
        match self.hosts.iter().find(|host| host.contains(&address)) {
            None => refuse(format!(
                "the address {address} is in no prefix of the host interface"
            )),
            Some(host) if address == host.addr() => {
                refuse(format!("the address {address} is the Gateway's own"))
            }
            Some(host)
                if address == host.network()
                    || (address.is_ipv4() && address == host.broadcast()) =>
            {
                refuse(format!(
                    "{address} is the network or broadcast address of {}",
                    host.trunc()
                ))
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn choose_addresses(
        &self,
        tried: &str,
        wanted: &[IpAddr],
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Problem> {
        let taken: HashSet<IpAddr> = self
            .entries
            .values()
            .flat_map(|entry| entry.workstation.addresses())
            .chain(
                self.broken
                    .iter()
                    .flat_map(|broken| broken.reserved.0.clone()),
            )
            .collect();
        let (mut v4, mut v6) = (None, None);
        for &address in wanted {
            self.check_address(tried, address)?;
            if taken.contains(&address) {
                let holder = self
                    .workstations()
                    .find(|(_, other)| other.addresses().any(|a| a == address))
                    .map_or("a broken file".into(), |(_, other)| other.name.to_string());
                return Err(Problem::new(
                    Kind::Conflict,
                    tried,
                    format!("the address {address} belongs to {holder}"),
                    "give another address, or leave it out to have one chosen",
                ));
            }
            let twice = match address {
                IpAddr::V4(address) => v4.replace(address).is_some(),
                IpAddr::V6(address) => v6.replace(address).is_some(),
            };
            if twice {
                return Err(Problem::new(
                    Kind::Invalid,
                    tried,
                    "it was given two addresses of the same family",
                    "give at most one IPv4 and one IPv6 address",
                ));
            }
        }
        for host in &self.hosts {
            match host {
                IpNet::V4(_) if v4.is_none() => {
                    if let Some(IpAddr::V4(address)) = self.next_free(host, &taken) {
                        v4 = Some(address);
                    }
                }
                IpNet::V6(_) if v6.is_none() => {
                    if let Some(IpAddr::V6(address)) = self.next_free(host, &taken) {
                        v6 = Some(address);
                    }
                }
                _ => {}
            }
        }
        let lacks = |is: fn(&IpNet) -> bool| self.hosts.iter().any(is);
        if (v4.is_none() && lacks(|h| matches!(h, IpNet::V4(_))))
            || (v6.is_none() && lacks(|h| matches!(h, IpNet::V6(_))))
        {
            return Err(Problem::new(
                Kind::Conflict,
                tried,
                "every address of the host interface's prefixes is taken",
                "remove a Workstation, or give the host interface a larger prefix",
            ));
        }
        Ok((v4, v6))
    }

    /// The first free address above the Gateway's own, or else from the prefix's beginning on.
    fn next_free(&self, host: &IpNet, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let free = |address: &IpAddr| !taken.contains(address);
        match host {
            IpNet::V4(net) => {
                let own = u32::from(net.addr());
                // Between the network address and the broadcast address.
                let first = u32::from(net.network()).saturating_add(1);
                let last = u32::from(net.broadcast()).saturating_sub(1);
                let mut above_then_below = (own.saturating_add(1)..=last).chain(first..own);
                above_then_below.find_map(|a| Some(IpAddr::V4(a.into())).filter(free))
            }
            IpNet::V6(net) => {
                let own = u128::from(net.addr());
                // The first address is the subnet-router anycast address.
                let first = u128::from(net.network()).saturating_add(1);
                let last = u128::from(net.broadcast());
                let mut above_then_below = (own.saturating_add(1)..=last).chain(first..own);
                above_then_below.find_map(|a| Some(IpAddr::V6(a.into())).filter(free))
            }
        }
    }
}
