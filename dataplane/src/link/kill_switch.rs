//! The kill switch: what keeps a Workstation's traffic in the tunnel when the tunnel's own packets travel
//! over an uplink that others manage (DHCP, a network manager) and that anybody may listen to.
//!
//! Two lines of defence, neither of which relies on the other, on the process that put them there, or on
//! the tunnel's interface being there:
//!
//! ```text
//!   routing    rule   not from all fwmark MARK -> TABLE
//!              TABLE  each of `routes` over the interface; behind it the same and the default, unreachable
//!   nf_tables  postrouting, last of all: what leaves by any interface but lo and the tunnel's is dropped,
//!                           unless it bears the mark and an address of that interface, or the uplink
//!                           cannot do without it
//!              input:       what comes in by another is dropped, unless it is for a socket with the mark
//!                           or the uplink cannot do without it
//!              prerouting:  answers to a socket with the mark, and neighbours, get the mark: else reverse
//!              (and ARP)    path filters would look for the way back in the tunnel. What comes from
//!                           outside with a source of this host's is dropped
//!              ARP output:  nothing that names the tunnel's addresses. The kernel would answer for them on
//!                           any interface, and ask by them on one that has no address yet
//! ```
//!
//! Routing decides where packets go, answers programs at once ("no route to host") and survives whoever
//! flushes the firewall. It does not bind a socket that was tied to the uplink (`SO_BINDTODEVICE`; the
//! kernel then takes every destination for a neighbour), nor multicast. nf_tables does, for whatever the
//! kernel's IP sends or forwards, and survives whoever flushes rules and routes. It stands at the very end,
//! because the way out that an earlier hook sees may be changed by NAT and by marks. From Linux 6.9 on its
//! table is owned by the process that holds the [`Links`] and persists after it: no one else can change
//! or flush it while that process lives.
//!
//! What the uplink needs and may have: DHCP to the broadcast address and DHCPv6 to its group, neighbour
//! discovery, router solicitations, and MLD reports, without which a switch that snoops does not let
//! neighbour solicitations through. ARP is not IP. Not DHCP to a server's address, which could be anyone's:
//! a client that gets no answer there asks all, before its lease is over. Not IGMP: nothing that is let out
//! needs a group.
//!
//! Connections from outside end in the input chain, so there is nothing to answer. Forwarded packets (of
//! containers and virtual machines) may go into the tunnel and nowhere else.
//!
//! With [`KillSwitch::lan`] the private prefixes that another interface is directly connected to are open to
//! local programs, and nothing else. What a DHCP server can push to draw traffic out of the tunnel stays
//! closed: classless routes, prefixes of public addresses, and those that the tunnel has a route to.
//!
//! Out of reach: a process with CAP_NET_ADMIN, which may set the mark or take all of this away; packet
//! sockets (CAP_NET_RAW); frames that a bridge or a macvlan hands to the uplink without this host's IP; flow
//! tables that somebody else offloads forwarding to.

mod firewall;
mod policy;
mod ruleset;

use super::{LinkError, Links, interface_setting, refused, set_interface};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use policy::KILL_SWITCH_TABLE;

/// What a kill switch is to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillSwitch {
    /// The tunnel's interface. It need not exist.
    pub interface: String,
    /// The tunnel's own addresses, which nobody on another interface is to learn by ARP; those that the
    /// interface has are added.
    pub addresses: Vec<Ipv4Addr>,
    /// What is routed into the tunnel, beside which everything else is unreachable. Prefixes of the
    /// tunnel's other side belong here too where `lan` is on: no LAN can claim them then.
    pub routes: Vec<IpNet>,
    /// The mark (`SO_MARK`) of the tunnel's own sockets, whose packets alone may leave otherwise. Not zero.
    pub mark: u32,
    /// Whether local programs may reach the private prefixes that other interfaces are directly
    /// connected to.
    pub lan: bool,
}

/// Settings for all interfaces that stand at another value than zero while a kill switch does, in the
/// order of their names.
const SETTINGS: [&str; 1] = [
    // Reverse path filters look the source of the tunnel's answers up with the tunnel's mark.
    "src_valid_mark",
];

/// What stands there, as far as it decides what a kill switch looks like.
#[derive(Debug, PartialEq, Eq)]
struct Surroundings {
    /// The tunnel's interface, if it is up.
    tunnel: Option<u32>,
    /// Whether it has IPv6.
    has_ipv6: bool,
    /// Its IPv4 addresses, and those that it is to have.
    addresses: Vec<Ipv4Addr>,
    /// The directly connected prefixes that are open, each with its interface and our address there.
    lan: Vec<(u32, IpNet)>,
    /// The settings that are off without a kill switch.
    off_before: Vec<&'static str>,
}

impl Links {
    /// Puts the kill switch where it must stand. True when something of it was not there. The first
    /// time everything closes; later, what is missing is put back, the new before the old, so nothing
    /// is open in between. Meant to be called again and again: twice a second is often enough.
    ///
    /// Call it from the network namespace that [`Links::open`] was called in.
    ///
    /// # Errors
    /// The first that the kernel answered; what could be put up stands all the same.
    pub fn raise_kill_switch(&self, switch: &KillSwitch) -> Result<bool, LinkError> {
        let around = self.surroundings(switch)?;
        let off = settings_off();
        let firewall = self.raise_firewall(switch, &around);
        let set = |setting: &&str| set_interface("all", "ipv4/conf", setting, "1").map(drop);
        let settings = off.iter().try_for_each(set);
        let routes = self.raise_table(switch, &around);
        let rules = self.raise_rules(switch);
        let changed = [firewall, settings.map(|()| !off.is_empty()), routes, rules];
        changed
            .into_iter()
            .try_fold(false, |any, one| Ok(any | one?))
    }

    /// Whether all of the kill switch stands where it must.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn kill_switch_stands(&self, switch: &KillSwitch) -> Result<bool, LinkError> {
        let around = self.surroundings(switch)?;
        Ok(settings_off().is_empty()
            && self.rules_stand(switch)?
            && self.table_stands(switch, &around)?
            && self.firewall_stands(switch, &around)?)
    }

    /// Takes the kill switch away, whoever put it there: everything is as it was before. That there is
    /// none is no error.
    ///
    /// # Errors
    /// What the kernel answered, or that a running process owns it. What was not taken away still stands.
    pub fn lower_kill_switch(&self) -> Result<(), LinkError> {
        // Before the rest is half gone.
        self.claim_firewall()?;
        let off_before = self.settings_off_before()?;
        self.lower_rules()?;
        for setting in off_before {
            set_interface("all", "ipv4/conf", setting, "0")?;
        }
        self.lower_table()?;
        self.lower_firewall()
    }

    /// What a kill switch that stands has noted of the settings. Both lines have it, because either
    /// may have been flushed while there was nobody to put it back.
    fn settings_off_before(&self) -> Result<Vec<&'static str>, LinkError> {
        let mut noted = self.noted_in_firewall()?;
        noted.extend(self.noted_in_table()?);
        noted.sort_unstable();
        noted.dedup();
        Ok(noted)
    }

    fn surroundings(&self, switch: &KillSwitch) -> Result<Surroundings, LinkError> {
        let invalid = |why: &str| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, why);
            refused("raising the kill switch")(source)
        };
        if switch.mark == 0 {
            return Err(invalid("mark 0 is what every packet bears"));
        }
        if switch.interface.is_empty() || switch.interface.len() >= libc::IFNAMSIZ {
            return Err(LinkError::Name(switch.interface.clone()));
        }
        let links = self.list()?;
        let tunnel = links.iter().find(|link| link.name == switch.interface);
        if tunnel.is_some_and(|link| link.loopback) {
            return Err(invalid("the loopback is no tunnel"));
        }
        let mut lan = Vec::new();
        let others = links.iter().filter(|link| {
            switch.lan && link.up && !link.loopback && link.name != switch.interface
        });
        for link in others {
            let open = |address: &&IpNet| is_open_lan(&address.trunc(), &switch.routes);
            let addresses = link.addresses.iter().filter(open);
            lan.extend(addresses.map(|address| (link.index, *address)));
        }
        lan.sort();
        lan.dedup_by_key(|(index, address)| (*index, address.trunc()));
        let mut off_before = self.settings_off_before()?;
        off_before.extend(settings_off());
        off_before.sort_unstable();
        off_before.dedup();
        // With IPv6 switched off there is nothing under that path, or 1.
        let no_ipv6 = interface_setting(&switch.interface, "ipv6/conf", "disable_ipv6")?;
        let mut addresses = switch.addresses.clone();
        let own = tunnel.iter().flat_map(|link| &link.addresses);
        addresses.extend(own.filter_map(|address| match address {
            IpNet::V4(address) => Some(address.addr()),
            IpNet::V6(_) => None,
        }));
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Surroundings {
            addresses,
            tunnel: tunnel.filter(|link| link.up).map(|link| link.index),
            has_ipv6: no_ipv6.as_deref() == Some("0"),
            lan,
            off_before,
        })
    }
}

fn settings_off() -> Vec<&'static str> {
    let is_off = |setting: &&str| {
        let value = interface_setting("all", "ipv4/conf", setting);
        value.ok().flatten().as_deref() == Some("0")
    };
    SETTINGS.into_iter().filter(is_off).collect()
}

/// Whether a directly connected prefix may be open: a private one of more than one host, which no route
/// of the tunnel but the default covers.
fn is_open_lan(prefix: &IpNet, routes: &[IpNet]) -> bool {
    let v4 = |a, b, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length));
    let v6 = |a, length| {
        let address = Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0);
        IpNet::V6(Ipv6Net::new_assert(address, length))
    };
    let private = [
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(169, 254, 16),
        v6(0xfc00, 7),
        v6(0xfe80, 10),
    ];
    let mut claimed = routes.iter().filter(|route| route.prefix_len() > 0);
    prefix.prefix_len() < prefix.max_prefix_len()
        && private.iter().any(|all| all.contains(prefix))
        && !claimed.any(|route| route.contains(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lan_can_claim_private_prefixes_and_none_that_the_tunnel_has() {
        let routes: Vec<IpNet> = ["0.0.0.0/0", "::/0", "10.152.152.0/24"]
            .iter()
            .map(|route| route.parse().unwrap())
            .collect();
        let open = |prefix: &str| is_open_lan(&prefix.parse().unwrap(), &routes);
        for prefix in [
            "192.168.7.0/24",
            "10.0.0.0/8",
            "172.31.0.0/16",
            "169.254.0.0/16",
            "fd00:1::/64",
            "fe80::/64",
        ] {
            assert!(open(prefix), "{prefix}");
        }
        for prefix in [
            "0.0.0.0/1",
            "203.0.113.0/24",
            "8.0.0.0/6",
            "172.0.0.0/8",
            "192.168.7.1/32",
            "10.152.152.0/24",
            "10.152.152.128/25",
            "2001:db8::/64",
            "::/1",
            "fe80::1/128",
        ] {
            assert!(!open(prefix), "{prefix}");
        }
    }
}
