//! The host interface: the persistent TUN with its addresses and routes.

use crate::monitor;
use crate::problem::{Kind, Problem};
use dataplane::host::tun::{Tun, TunQueue};
use dataplane::link::{LinkError, Links};
use dataplane::policy::Surroundings;
use dataplane::wall::Steering;
use ipnet::IpNet;
use std::os::fd::AsFd;

/// IPv6 settings of the host interface: no link-local address, nothing asked of routers and nothing
/// believed of them.
const QUIET: [(&str, &str); 4] = [
    ("addr_gen_mode", "1"),
    ("router_solicitations", "0"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
];

/// Opens the host interface, with a queue for each worker, gives it exactly these addresses and sets
/// it up. It is persistent: what hangs on it outlives this process.
///
/// # Errors
/// The step that failed, with the remedy.
pub fn open(
    links: &Links,
    name: &str,
    queues: usize,
    addresses: &[IpNet],
) -> Result<Vec<TunQueue>, Problem> {
    let tried = format!("opening the host interface {name}");
    let opened = Tun::open(name, queues).map_err(|error| {
        Problem::new(Kind::Failed, &tried, error, "mend that, then start again")
    })?;
    // The tunnel is point to point, and nobody there is to be told anything unasked. What the kernel says
    // all the same, the workers do not send; this is so that it says nothing.
    for (setting, value) in QUIET {
        let setting = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
        if let Err(error) = std::fs::write(&setting, value) {
            tracing::debug!(%error, setting, "the kernel may have more to say on the host interface");
        }
    }
    let set = || -> Result<(), LinkError> {
        let link = links.find(name)?;
        links.set_without_groups(link.index)?;
        links.set_addresses(link.index, addresses)?;
        links.set_up(link.index)
    };
    set().map_err(|error| monitor::problem(&tried, error))?;
    Ok(opened)
}

/// That the host interface has failed under a daemon.
pub fn failed(name: &str, error: std::io::Error) -> Problem {
    Problem::new(
        Kind::Failed,
        format!("serving the host interface {name}"),
        error,
        "start it again, which makes the interface anew",
    )
}

/// The addresses around the Workstations', as they are now.
///
/// # Errors
/// What the kernel answered.
pub fn surroundings(
    links: &Links,
    name: &str,
    addresses: &[IpNet],
) -> Result<Surroundings, LinkError> {
    let mut local = Vec::new();
    for link in links.list()?.iter().filter(|link| link.name != name) {
        for net in &link.addresses {
            match (net, link.loopback) {
                // The stack takes the whole prefix in.
                (_, true) => local.push(net.trunc()),
                (IpNet::V4(v4), false) => {
                    local.extend([v4.addr(), v4.network(), v4.broadcast()].map(host));
                }
                // The first address is that of any router.
                (IpNet::V6(v6), false) => local.extend([v6.addr(), v6.network()].map(host)),
            }
        }
    }
    local.sort_unstable();
    local.dedup();
    Ok(Surroundings {
        host: addresses.to_vec(),
        local,
    })
}

fn host(address: impl Into<std::net::IpAddr>) -> IpNet {
    IpNet::from(address.into())
}

/// Keeps what comes in on the host interface on this machine, whatever it forwards. True when there
/// was something to do.
///
/// # Errors
/// What the kernel answered.
pub fn keep_in(links: &Links, name: &str) -> Result<bool, Problem> {
    links.keep_in(name).map_err(|error| {
        Problem::new(
            Kind::Failed,
            format!("keeping packets from {name} on this machine"),
            error,
            "see `ip rule` and `ip -6 rule`; the kernel needs CONFIG_IP_MULTIPLE_TABLES and its \
             IPv6 counterpart",
        )
    })
}

/// Attaches the steering program where there is more than one queue.
///
/// # Errors
/// The kernel refused it.
pub fn steer(queues: &[TunQueue]) -> Result<Option<Steering>, Problem> {
    let Some(first) = queues.first().filter(|_| queues.len() > 1) else {
        return Ok(None);
    };
    let tried = "steering packets to the workers' queues";
    let steering = Steering::load()
        .map_err(|error| Problem::new(Kind::Failed, tried, error, "use workers = 1"))?;
    steering.attach(first.as_fd()).map_err(|error| {
        Problem::new(
            Kind::Failed,
            tried,
            error,
            "use workers = 1, or a kernel of 6.1 or later",
        )
    })?;
    Ok(Some(steering))
}

/// Sets the host interface's MTU.
///
/// # Errors
/// What the kernel answered.
pub fn set_mtu(links: &Links, name: &str, mtu: u16) -> Result<(), LinkError> {
    let link = links.find(name)?;
    if link.mtu == u32::from(mtu) {
        return Ok(());
    }
    links.set_mtu(link.index, u32::from(mtu))
}

/// Gives the host interface MTU, addresses and routes, and sets it up. What is there already is not
/// touched; routes of an IP version without an address are left out.
///
/// # Errors
/// What the kernel answered.
pub fn configure(
    links: &Links,
    name: &str,
    mtu: u16,
    addresses: &[IpNet],
    routes: &[IpNet],
) -> Result<(), LinkError> {
    set_mtu(links, name, mtu)?;
    let link = links.find(name)?;
    links.set_addresses(link.index, addresses)?;
    links.set_up(link.index)?;
    for route in routes {
        let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
        if addresses.iter().any(|net| is_v4(net) == is_v4(route)) {
            links.replace_route(*route, link.index, None)?;
        }
    }
    Ok(())
}

/// Removes the host interface, with its addresses and routes. Nothing happens where there is none.
///
/// # Errors
/// What the kernel answered.
pub fn delete(name: &str) -> Result<(), Problem> {
    // By netlink, not by the device of TUN interfaces: a helper can reach none, nor read from one.
    let delete = || -> Result<(), LinkError> {
        let links = Links::open()?;
        match links.find(name) {
            Ok(link) if link.kind.as_deref() == Some("tun") => links.delete(link.index),
            Ok(_) => Err(LinkError::Name(name.to_owned())),
            Err(LinkError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    };
    delete().map_err(|error| {
        let (tried, remedy) = (
            "removing the host interface",
            format!("ip link delete {name}"),
        );
        match error {
            LinkError::Name(_) => Problem::new(
                Kind::Conflict,
                tried,
                format!("{name} is no TUN interface"),
                "it is not ours, and left as it is; name another as the host interface",
            ),
            error => Problem::new(Kind::Failed, tried, error, remedy),
        }
    })
}

/// Removes the rule of [`keep_in`].
///
/// # Errors
/// What the kernel answered.
pub fn let_out(name: &str) -> Result<(), Problem> {
    let links = Links::open().and_then(|links| links.let_out(name));
    links.map_err(|error| monitor::problem("removing the host interface's routing rule", error))
}
