//! Opening a connected UDP socket, and what is set on it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::{fmt, io};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{self, BindToDevice, Mark, RcvBuf, SndBuf, SockType as Kind};
use nix::sys::socket::{
    AddressFamily, GetSockOpt, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, connect,
    getpeername, getsockname, getsockopt, setsockopt, socket,
};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

/// Bytes of receive buffer asked for; the kernel gives no more than net.core.rmem_max.
const RECEIVE_BUFFER: usize = 8 << 20;

sockopt_impl!(
    /// Whether IPv4 packets may be fragmented, and whose path MTU is believed.
    MtuDiscover4,
    Both,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// The same of IPv6.
    MtuDiscover6,
    Both,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// The protocol of a socket.
    Protocol,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_PROTOCOL,
    libc::c_int
);
sockopt_impl!(
    /// Levels of a socket's buffers, and what it dropped.
    MemoryInformation,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);
/// Where in that the drops are (SK_MEMINFO_DROPS).
const DROPS: usize = 8;

/// How to open a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// The other end.
    pub remote: SocketAddr,
    /// The own address; what is left out (all of it, the address or the port) the kernel chooses.
    pub local: Option<SocketAddr>,
    /// A mark for its packets (SO_MARK), so that routing rules and firewalls know them.
    pub mark: Option<u32>,
    /// The interface that its packets leave and come by (SO_BINDTODEVICE), whatever routes say.
    pub interface: Option<String>,
    /// Bytes of receive buffer to ask for; the kernel gives no more than net.core.rmem_max.
    pub receive_buffer: usize,
    /// Bytes of send buffer to ask for, up to net.core.wmem_max; `None` for the kernel's default.
    pub send_buffer: Option<usize>,
    /// Whether trains of datagrams are received in one piece (UDP_GRO), where the kernel can.
    pub trains: bool,
}

impl SocketConfig {
    /// The usual configuration for a socket to `remote`.
    pub fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            mark: None,
            interface: None,
            receive_buffer: RECEIVE_BUFFER,
            send_buffer: None,
            trains: true,
        }
    }
}

/// Why a socket port did not open.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The memory asked for is none a port can work with.
    #[error(
        "a socket port of {frames} frames of {capacity} bytes with {trains} buffers is not possible: use 64 to 65536 frames of 64 to 65507 bytes and 2 to 1024 buffers, below 4 GiB in all"
    )]
    Sizes {
        /// Frames asked for.
        frames: u32,
        /// Bytes of each.
        capacity: usize,
        /// Buffers for trains.
        trains: u16,
    },
    /// The addresses are of different families.
    #[error("the own address {local} and the other end {remote} are not of one family")]
    Families {
        /// The own.
        local: SocketAddr,
        /// The other.
        remote: SocketAddr,
    },
    /// The descriptor is not one of a connected UDP socket.
    #[error("the descriptor given as a socket port is no connected UDP socket: {lacking}")]
    NotConnected {
        /// What it lacks.
        lacking: String,
    },
    /// A call failed.
    #[error("{call} for a UDP socket to {remote}: {source}; {remedy}")]
    Call {
        /// The call.
        call: String,
        /// The other end.
        remote: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// A UDP socket connected to the other end, for a [`super::SocketPort`] of someone who may not
/// make one.
///
/// # Errors
/// When the addresses do not go together, or what the kernel answered.
pub fn socket_for(config: &SocketConfig) -> Result<OwnedFd, SocketError> {
    let remote = canonical(config.remote);
    let failed = |call: &dyn fmt::Display, source: Errno, remedy| SocketError::Call {
        call: call.to_string(),
        remote,
        source: source.into(),
        remedy,
    };
    let family = match remote {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket =
        socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(|error| {
            let remedy = match error {
                Errno::EMFILE | Errno::ENFILE => "raise the limit of open files (ulimit -n)",
                _ => "this process must be allowed Internet sockets, and the kernel have them",
            };
            failed(&"socket", error, remedy)
        })?;
    if let Some(mark) = config.mark {
        setsockopt(&socket, Mark, &mark).map_err(|error| {
            let remedy = "it needs CAP_NET_ADMIN (or, from Linux 5.17 on, CAP_NET_RAW)";
            failed(&format_args!("SO_MARK {mark}"), error, remedy)
        })?;
    }
    if let Some(interface) = &config.interface {
        setsockopt(&socket, BindToDevice, &interface.into()).map_err(|error| {
            let remedy = match error {
                Errno::ENODEV => "there is no such interface (ip link)",
                _ => "before Linux 5.7 it needs CAP_NET_RAW",
            };
            failed(&format_args!("SO_BINDTODEVICE {interface}"), error, remedy)
        })?;
    }
    set_up(&socket, remote, config.trains)?;
    // The kernel gives less where there is less, which is no reason to have none.
    let given = setsockopt(&socket, RcvBuf, &config.receive_buffer);
    note("SO_RCVBUF", given);
    if let Some(bytes) = config.send_buffer {
        note("SO_SNDBUF", setsockopt(&socket, SndBuf, &bytes));
    }
    if let Some(local) = config.local.map(canonical) {
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(SocketError::Families { local, remote });
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).map_err(|error| {
            let remedy = "give an address of this machine and a port that is free";
            failed(&format_args!("bind to {local}"), error, remedy)
        })?;
    }
    connect(socket.as_raw_fd(), &SockaddrStorage::from(remote)).map_err(|error| {
        let remedy = "see whether there is a route to it (ip route get)";
        failed(&"connect", error, remedy)
    })?;
    Ok(socket)
}

/// What every socket of a port has: packets that are never fragmented, of sizes that the tunnel finds out
/// by itself, and trains where `trains` and the kernel allow. Options that are set already are only
/// read: whoever was handed the socket may not be allowed more.
fn set_up(socket: &OwnedFd, remote: SocketAddr, trains: bool) -> Result<(), SocketError> {
    // DF is set, and what ICMP says of the path MTU is not believed.
    let set = match remote {
        SocketAddr::V4(_) => ensure(socket, MtuDiscover4, libc::IP_PMTUDISC_PROBE),
        SocketAddr::V6(_) => ensure(socket, MtuDiscover6, libc::IPV6_PMTUDISC_PROBE),
    };
    set.map_err(|source| SocketError::Call {
        call: "IP_MTU_DISCOVER".into(),
        remote,
        source: source.into(),
        remedy: "have it set where the socket is made",
    })?;
    if trains {
        note("UDP_GRO", ensure(socket, sockopt::UdpGroSegment, true));
    }
    Ok(())
}

/// Sets an option that is not set so already.
fn ensure<O, T: PartialEq>(socket: &OwnedFd, option: O, value: T) -> nix::Result<()>
where
    O: Copy + GetSockOpt<Val = T> + SetSockOpt<Val = T>,
{
    match getsockopt(socket, option) {
        Ok(now) if now == value => Ok(()),
        _ => setsockopt(socket, option, &value),
    }
}

/// An option that a socket does without.
fn note(option: &str, set: nix::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "{option} is refused; the socket works without");
    }
}

/// The two ends of a socket that someone else has made; what is to be set on it is.
pub(super) fn adopt(socket: &OwnedFd) -> Result<(SocketAddr, SocketAddr), SocketError> {
    let not = |lacking: String| SocketError::NotConnected { lacking };
    let told = |what: &'static str| move |error: Errno| not(format!("{what}: {error}"));
    let kind = getsockopt(socket, Kind).map_err(told("SO_TYPE"))?;
    let protocol = getsockopt(socket, Protocol).map_err(told("SO_PROTOCOL"))?;
    if kind != SockType::Datagram || protocol != libc::IPPROTO_UDP {
        return Err(not("it is of another kind".into()));
    }
    let remote = getpeername(socket.as_raw_fd()).map_err(told("getpeername"))?;
    let local = getsockname(socket.as_raw_fd()).map_err(told("getsockname"))?;
    let addresses = address(&local).zip(address(&remote));
    let (local, remote) = addresses.ok_or_else(|| not("it has no IP addresses".into()))?;
    set_up(socket, remote, true)?;
    Ok((local, remote))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}

/// IPv4 in IPv6's clothes is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Datagrams the kernel dropped, mostly because the receive buffer was full.
pub(super) fn drops(socket: &OwnedFd) -> u64 {
    let levels = getsockopt(socket, MemoryInformation);
    levels.map_or(0, |levels| u64::from(levels[DROPS]))
}

/// Bytes of receive buffer that the kernel has given, of which its own books take a part.
pub(super) fn receive_buffer(socket: &OwnedFd) -> usize {
    getsockopt(&socket.as_fd(), RcvBuf).unwrap_or(0)
}
