//! Network interfaces: finding and judging the ports, and setting up the TUN (addresses, routes,
//! MTU), over route netlink. Control uses it before frames travel and when interfaces change; no
//! frame passes here.
//!
//! All calls block for one round trip to the kernel and act in the network namespace that the
//! calling thread was in when [`Links::open`] was called.

mod features;
mod fitness;
mod kill_switch;
mod monitor;
mod napi;
mod neighbour;
mod netlink;
mod next_hop;
mod rules;
mod sysctl;

pub use features::{XdpFeatures, xdp_features};
pub use fitness::{Unfit, keyless_fitness, port_fitness};
pub use kill_switch::{KILL_SWITCH_TABLE, KillSwitch};
pub use monitor::{LinkChange, LinkEvent, LinkMonitor};
pub use napi::{open_sysfs, set_threaded_napi};
pub use neighbour::Neighbour;
pub use sysctl::{disable_ipv6, interface_setting, set_interface};

use ipnet::IpNet;
use netlink::Netlink;
use netlink_packet_netfilter::NetfilterMessage;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo as LinkDetail, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// Why something about an interface could not be done.
#[derive(Debug, Error)]
pub enum LinkError {
    /// No interface of that name.
    #[error("there is no interface {0}")]
    NotFound(String),
    /// The kernel refused.
    #[error("{what} failed: {source}{}", hint(source))]
    Refused {
        /// What was tried, on what.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A file of /proc/sys could not be written.
    #[error("writing {value} to {path} failed: {source}; is /proc/sys writable here?")]
    Sysctl {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// Something else than an interface name.
    #[error("\"{0}\" is no interface name")]
    Name(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; CAP_NET_ADMIN is needed",
        Some(libc::ENODEV) => "; the interface is gone",
        Some(libc::ENETUNREACH) => "; is the interface up, and the source address its own?",
        _ => "",
    }
}

/// What an interface is enslaved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind: `bridge`, `bond`, `team`, `vrf`, ...
    pub kind: String,
}

/// An interface as it was when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, when it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Whether it has a carrier: a cable with someone at its end.
    pub carrier: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Whether its frames are Ethernet.
    pub ethernet: bool,
    /// What it is enslaved to.
    pub master: Option<Master>,
    /// The kind of a virtual interface (`veth`, `vlan`, `bridge`, ...), none for hardware.
    pub kind: Option<String>,
    /// Its addresses, each with its prefix length.
    pub addresses: Vec<IpNet>,
}

/// What an interface's driver has counted since there is the interface (`struct rtnl_link_stats64` of
/// `include/uapi/linux/if_link.h`). Whether frames that XDP drops are among them is the driver's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the NIC had no buffer for.
    pub rx_missed: u64,
}

/// Interfaces of one network namespace.
pub struct Links {
    netlink: Netlink,
    /// Opened when it is needed: few who look at interfaces may open it.
    netfilter: OnceCell<Netlink<NetfilterMessage>>,
}

impl Links {
    /// Opens a netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn open() -> Result<Self, LinkError> {
        let netlink = Netlink::open(0).map_err(refused("opening a route netlink socket"))?;
        Ok(Self {
            netlink,
            netfilter: OnceCell::new(),
        })
    }

    /// The interface of that name.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], or what the kernel answered.
    pub fn find(&self, name: &str) -> Result<LinkInfo, LinkError> {
        let query = LinkUnspec::new_with_name(name).build();
        self.one(query, name)
    }

    /// The interface of that index.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], or what the kernel answered.
    pub fn get(&self, index: u32) -> Result<LinkInfo, LinkError> {
        let query = LinkUnspec::new_with_index(index).build();
        self.one(query, &format!("of index {index}"))
    }

    /// What the driver of the interface of that name counts.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], or what the kernel answered.
    pub fn statistics(&self, name: &str) -> Result<LinkStatistics, LinkError> {
        let query = LinkUnspec::new_with_name(name).build();
        let attributes = self.ask(query, name)?.attributes;
        let counted = attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Stats64(counted) => Some(LinkStatistics {
                    rx_frames: counted.rx_packets,
                    rx_bytes: counted.rx_bytes,
                    tx_frames: counted.tx_packets,
                    tx_bytes: counted.tx_bytes,
                    rx_missed: counted.rx_missed_errors,
                }),
                _ => None,
            });
        Ok(counted.unwrap_or_default())
    }

    /// What the kernel says of one interface.
    fn ask(&self, query: LinkMessage, name: &str) -> Result<LinkMessage, LinkError> {
        let not_found = || LinkError::NotFound(name.to_owned());
        let messages = match self.netlink.get(RouteNetlinkMessage::GetLink(query)) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE)) => {
                return Err(not_found());
            }
            other => other.map_err(refused(format!("asking for interface {name}")))?,
        };
        let mut links = messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        links.next_back().ok_or_else(not_found)
    }

    fn one(&self, query: LinkMessage, name: &str) -> Result<LinkInfo, LinkError> {
        let mut link = link_of(&self.ask(query, name)?);
        link.addresses = self.addresses(link.index)?;
        if let Some(master) = &mut link.master {
            let query = LinkUnspec::new_with_index(master.index).build();
            let answer = self.netlink.get(RouteNetlinkMessage::GetLink(query));
            if let Some(info) = links_of(answer.unwrap_or_default()).pop() {
                master.name = info.name;
                master.kind = info.kind.unwrap_or_default();
            }
        }
        Ok(link)
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn list(&self) -> Result<Vec<LinkInfo>, LinkError> {
        let mut links = self.list_bare()?;
        let addresses = self.all_addresses()?;
        let names: Vec<_> = links
            .iter()
            .map(|link| (link.index, link.name.clone(), link.kind.clone()))
            .collect();
        for link in &mut links {
            let own = addresses.iter().filter(|(index, _)| *index == link.index);
            link.addresses = own.map(|(_, address)| *address).collect();
            if let Some(master) = &mut link.master
                && let Some((_, name, kind)) = names.iter().find(|(i, ..)| *i == master.index)
            {
                master.name.clone_from(name);
                master.kind = kind.clone().unwrap_or_default();
            }
        }
        Ok(links)
    }

    /// The interfaces of this namespace that stand on the one of that index: VLANs, macvlans and the
    /// like, which have its frames before or beside whoever else does.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn standing_on(&self, index: u32) -> Result<Vec<String>, LinkError> {
        let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answer = self.netlink.dump(query);
        let messages = answer.map_err(refused("listing interfaces"))?;
        let standing = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) if stands_on(link, index) => {
                Some(link_of(link).name)
            }
            _ => None,
        });
        Ok(standing.collect())
    }

    /// The interfaces that belong to the one of that index: a bond's, a bridge's, or the virtual function of a NIC of
    /// Hyper-V. What such an interface receives, one of these has received.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn members(&self, index: u32) -> Result<Vec<String>, LinkError> {
        let of = |link: &LinkInfo| link.master.as_ref().is_some_and(|m| m.index == index);
        let members = self.list_bare()?.into_iter().filter(of);
        Ok(members.map(|link| link.name).collect())
    }

    /// All interfaces, without addresses and names of masters.
    fn list_bare(&self) -> Result<Vec<LinkInfo>, LinkError> {
        let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answer = self.netlink.dump(query);
        Ok(links_of(answer.map_err(refused("listing interfaces"))?))
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn addresses(&self, index: u32) -> Result<Vec<IpNet>, LinkError> {
        let all = self.all_addresses()?;
        let own = all.into_iter().filter(|(of, _)| *of == index);
        Ok(own.map(|(_, address)| address).collect())
    }

    fn all_addresses(&self) -> Result<Vec<(u32, IpNet)>, LinkError> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.netlink.dump(query);
        let messages = answer.map_err(refused("listing addresses"))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => {
                    address_of(&message).map(|address| (message.header.index, address))
                }
                _ => None,
            })
            .collect())
    }

    /// Sets the interface up.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_up(&self, index: u32) -> Result<(), LinkError> {
        self.set(index, "up", |link| link.up())
    }

    /// Sets the interface down.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_down(&self, index: u32) -> Result<(), LinkError> {
        self.set(index, "down", |link| link.down())
    }

    /// Has the interface take in frames for every group, also of those that the kernel is in none of.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_all_groups(&self, index: u32) -> Result<(), LinkError> {
        self.set(index, "to take in all groups", |link| {
            link.allmulticast(true)
        })
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), LinkError> {
        self.set(index, format!("to MTU {mtu}"), |link| link.mtu(mtu))
    }

    /// Sets the MAC address.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        self.set(index, format!("to MAC {mac:02x?}"), |link| {
            link.address(mac.to_vec())
        })
    }

    /// Says that there are no groups behind the interface: no program can join one there, and the
    /// kernel has no route to any.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_without_groups(&self, index: u32) -> Result<(), LinkError> {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.header.flags.remove(LinkFlags::Multicast);
        message.header.change_mask.insert(LinkFlags::Multicast);
        self.netlink
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(refused(format!("setting interface {index} multicast off")))
    }

    fn set(
        &self,
        index: u32,
        what: impl std::fmt::Display,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), LinkError> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.netlink
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(refused(format!("setting interface {index} {what}")))
    }

    /// Removes a virtual interface.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn delete(&self, index: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).build();
        self.netlink
            .change(RouteNetlinkMessage::DelLink(message), 0)
            .map_err(refused(format!("removing interface {index}")))
    }

    /// Adds an address; that it is there already is an error.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<(), LinkError> {
        self.put_address(index, address, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds an address, or leaves it as it is when it is there.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn replace_address(&self, index: u32, address: IpNet) -> Result<(), LinkError> {
        self.put_address(index, address, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_address(&self, index: u32, address: IpNet, flags: u16) -> Result<(), LinkError> {
        self.netlink
            .change(
                RouteNetlinkMessage::NewAddress(address_message(index, address)),
                flags,
            )
            .map_err(refused(format!("adding {address} to interface {index}")))
    }

    /// Removes an address; that it is not there is no error.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove_address(&self, index: u32, address: IpNet) -> Result<(), LinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        match self.netlink.change(message, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other.map_err(refused(format!(
                "removing {address} from interface {index}"
            ))),
        }
    }

    /// Makes the interface's addresses exactly these. What is there already is not touched, so
    /// connections over it go on; the IPv6 link-local address the kernel made stays.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_addresses(&self, index: u32, wanted: &[IpNet]) -> Result<(), LinkError> {
        for address in self.addresses(index)? {
            if !wanted.contains(&address) && !is_link_local(&address.addr()) {
                self.remove_address(index, address)?;
            }
        }
        // Removing an IPv4 address removes those that were secondary to it: look again.
        let present = self.addresses(index)?;
        for address in wanted.iter().filter(|address| !present.contains(address)) {
            self.replace_address(index, *address)?;
        }
        Ok(())
    }

    /// Adds a route to a prefix straight over an interface; that it is there is an error.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn add_route(
        &self,
        prefix: IpNet,
        index: u32,
        source: Option<IpAddr>,
    ) -> Result<(), LinkError> {
        self.put_route(prefix, index, source, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route, or puts it in the place of the one to the same prefix.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn replace_route(
        &self,
        prefix: IpNet,
        index: u32,
        source: Option<IpAddr>,
    ) -> Result<(), LinkError> {
        self.put_route(prefix, index, source, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_route(
        &self,
        prefix: IpNet,
        index: u32,
        source: Option<IpAddr>,
        flags: u16,
    ) -> Result<(), LinkError> {
        let what = refused(format!("routing {prefix} over interface {index}"));
        let Some(route) = route_message(prefix, index, source) else {
            return Err(what(io::ErrorKind::InvalidInput.into()));
        };
        self.netlink
            .change(RouteNetlinkMessage::NewRoute(route), flags)
            .map_err(what)
    }

    /// Removes a route; that it is not there is no error.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove_route(&self, prefix: IpNet, index: u32) -> Result<(), LinkError> {
        let what = refused(format!("removing the route to {prefix}"));
        let Some(route) = route_message(prefix, index, None) else {
            return Err(what(io::ErrorKind::InvalidInput.into()));
        };
        match self.netlink.change(RouteNetlinkMessage::DelRoute(route), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(what),
        }
    }
}

fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> LinkError {
    let what = what.into();
    move |source| LinkError::Refused { what, source }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let prefix_len = address.prefix_len();
    match address.addr() {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, prefix_len)
            .build(),
        IpAddr::V6(address) => {
            let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(address, prefix_len)
                .build();
            // The address was given by configuration or the Gateway: usable at once, without the
            // seconds of duplicate detection in which it cannot be a route's source.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    }
}

/// The address of a message: on a point-to-point link the local one, elsewhere the only one.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) if found.is_none() => found = Some(*address),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

fn route_message(prefix: IpNet, index: u32, source: Option<IpAddr>) -> Option<RouteMessage> {
    let prefix = prefix.trunc();
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(prefix.addr(), prefix.prefix_len())
        .ok()?
        .output_interface(index);
    if prefix.addr().is_ipv4() {
        route = route.scope(RouteScope::Link);
    }
    if let Some(source) = source {
        route = route.pref_source(source).ok()?;
    }
    Some(route.build())
}

/// Whether an interface names the other as the one below it. A veth names its other end so, which may
/// even be in another namespace.
fn stands_on(message: &LinkMessage, index: u32) -> bool {
    let below = LinkAttribute::Link(index);
    message.attributes.contains(&below) && link_of(message).kind.as_deref() != Some("veth")
}

fn links_of(messages: Vec<RouteNetlinkMessage>) -> Vec<LinkInfo> {
    let links = messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link_of(&link)),
        _ => None,
    });
    links.collect()
}

fn link_of(message: &LinkMessage) -> LinkInfo {
    let header = &message.header;
    let mut link = LinkInfo {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: false,
        loopback: header.flags.contains(LinkFlags::Loopback),
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        master: None,
        kind: None,
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            LinkAttribute::Controller(index) if *index != 0 => {
                link.master = Some(Master {
                    index: *index,
                    name: String::new(),
                    kind: String::new(),
                });
            }
            LinkAttribute::LinkInfo(details) => {
                for detail in details {
                    if let LinkDetail::Kind(kind) = detail {
                        link.kind = Some(kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    link
}
