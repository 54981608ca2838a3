//! Whether an interface may be a tunnel port. Refusing is the point: an interface that is also
//! bridged, or that the kernel itself talks IP on, is no isolated port.

use super::{LinkInfo, Master};
use ipnet::IpNet;
use thiserror::Error;

/// Why an interface may not be a tunnel port, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// The loopback.
    #[error("{0} is the loopback: choose the interface the Workstation's cable is in")]
    Loopback(String),
    /// Not Ethernet.
    #[error("{0} does not carry Ethernet frames: choose an Ethernet interface")]
    NotEthernet(String),
    /// A member of something.
    #[error(
        "{name} is a member of the {} {}, which would forward between ports: \
         ip link set dev {name} nomaster", master.kind, master.name
    )]
    Member {
        /// The interface.
        name: String,
        /// What it belongs to.
        master: Master,
    },
    /// A kind of interface that is not a port of its own.
    #[error(
        "{name} is a {kind} interface, not a network port: name the port it stands on, \
         or remove it with: ip link delete dev {name}"
    )]
    Kind {
        /// The interface.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// It has an IP address.
    #[error(
        "{name} has the IP address {address}, so this machine would talk over it outside the \
         tunnel: ip address delete {address} dev {name}"
    )]
    Address {
        /// The interface.
        name: String,
        /// The first offending address.
        address: IpNet,
    },
    /// It has an IP address besides its own of a pinned port.
    #[error(
        "{name} has the IP address {address}, which is not among the port's `addresses`: add it \
         there, or: ip address delete {address} dev {name}"
    )]
    OtherAddress {
        /// The interface.
        name: String,
        /// The first offending address.
        address: IpNet,
    },
}

/// Whether the interface may be a tunnel port: Ethernet, a port of its own (hardware, a switch's
/// port, or a veth), in no bridge, bond, team or VRF, and without any IPv4 or global IPv6 address.
///
/// # Errors
/// The first reason why not.
pub fn port_fitness(link: &LinkInfo) -> Result<(), Unfit> {
    stands_alone(link)?;
    match other_address(link, &[]) {
        Some(address) => Err(Unfit::Address {
            name: link.name.clone(),
            address,
        }),
        None => Ok(()),
    }
}

/// Whether it may be a port for Workstations without keys. That takes the same interfaces, which
/// may have addresses: any, or only those of `own`.
///
/// # Errors
/// The first reason why not.
pub fn keyless_fitness(link: &LinkInfo, own: Option<&[IpNet]>) -> Result<(), Unfit> {
    stands_alone(link)?;
    match own.and_then(|own| other_address(link, own)) {
        Some(address) => Err(Unfit::OtherAddress {
            name: link.name.clone(),
            address,
        }),
        None => Ok(()),
    }
}

/// The first address that is neither link-local nor of `own`.
fn other_address(link: &LinkInfo, own: &[IpNet]) -> Option<IpNet> {
    let other =
        |address: &&IpNet| !super::is_link_local(&address.addr()) && !own.contains(*address);
    link.addresses.iter().find(other).copied()
}

fn stands_alone(link: &LinkInfo) -> Result<(), Unfit> {
    let name = || link.name.clone();
    if link.loopback {
        return Err(Unfit::Loopback(name()));
    }
    if let Some(master) = &link.master {
        return Err(Unfit::Member {
            name: name(),
            master: master.clone(),
        });
    }
    match link.kind.as_deref() {
        None | Some("veth" | "dsa" | "netdevsim") => {}
        Some(kind) => {
            return Err(Unfit::Kind {
                name: name(),
                kind: kind.to_owned(),
            });
        }
    }
    if !link.ethernet || link.mac.is_none() {
        return Err(Unfit::NotEthernet(name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> LinkInfo {
        LinkInfo {
            index: 2,
            name: "eth1".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: false,
            carrier: false,
            loopback: false,
            ethernet: true,
            master: None,
            kind: None,
            addresses: vec!["fe80::1/64".parse().unwrap()],
        }
    }

    #[test]
    fn a_bare_ethernet_port_is_fit() {
        assert_eq!(port_fitness(&port()), Ok(()));
        let veth = LinkInfo {
            kind: Some("veth".into()),
            ..port()
        };
        assert_eq!(port_fitness(&veth), Ok(()));
    }

    #[test]
    fn a_port_without_keys_may_have_its_own_addresses_and_a_bridge_is_refused_all_the_same() {
        let own: [IpNet; 1] = ["10.9.0.1/24".parse().unwrap()];
        let with = |address: &str| LinkInfo {
            addresses: vec!["fe80::1/64".parse().unwrap(), address.parse().unwrap()],
            ..port()
        };
        assert_eq!(keyless_fitness(&with("10.9.0.1/24"), Some(&own)), Ok(()));
        assert_eq!(keyless_fitness(&with("10.8.0.1/24"), None), Ok(()));
        for other in ["10.9.0.1/16", "10.9.0.2/24", "fd09::1/64"] {
            let refusal = keyless_fitness(&with(other), Some(&own)).unwrap_err();
            assert!(refusal.to_string().contains(other), "{refusal}");
        }
        let bridged = LinkInfo {
            master: Some(Master {
                index: 3,
                name: "br0".into(),
                kind: "bridge".into(),
            }),
            ..port()
        };
        for own in [None, Some(&own[..])] {
            let refusal = keyless_fitness(&bridged, own).unwrap_err().to_string();
            assert!(refusal.contains("nomaster"), "{refusal}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let cases: [(LinkInfo, &str); 6] = [
            (
                LinkInfo {
                    loopback: true,
                    ..port()
                },
                "loopback",
            ),
            (
                LinkInfo {
                    ethernet: false,
                    ..port()
                },
                "Ethernet",
            ),
            (
                LinkInfo {
                    master: Some(Master {
                        index: 3,
                        name: "br0".into(),
                        kind: "bridge".into(),
                    }),
                    ..port()
                },
                "ip link set dev eth1 nomaster",
            ),
            (
                LinkInfo {
                    kind: Some("vlan".into()),
                    ..port()
                },
                "eth1 is a vlan interface",
            ),
            (
                LinkInfo {
                    addresses: vec!["10.0.0.1/24".parse().unwrap()],
                    ..port()
                },
                "ip address delete 10.0.0.1/24 dev eth1",
            ),
            (
                LinkInfo {
                    addresses: vec!["2001:db8::1/64".parse().unwrap()],
                    ..port()
                },
                "ip address delete 2001:db8::1/64 dev eth1",
            ),
        ];
        for (link, sentence) in cases {
            let refusal = port_fitness(&link).unwrap_err().to_string();
            assert!(refusal.contains(sentence), "{refusal}");
        }
    }
}
