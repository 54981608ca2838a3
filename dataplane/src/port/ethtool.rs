//! What a port asks about its interface before it binds: its index, its MTU and its queues.

use std::ffi::c_void;
use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
/// Bits of ETHTOOL_GFLAGS.
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;
const FLAG_NTUPLE: u32 = 1 << 27;

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 32 * 4 + 12],
    counts: [u32; 5],
}

/// `struct ethtool_ringparam`.
#[repr(C)]
#[derive(Default)]
struct RingParam {
    cmd: u32,
    rx_max: u32,
    rx_mini_max: u32,
    rx_jumbo_max: u32,
    tx_max: u32,
    rx: u32,
    rx_mini: u32,
    rx_jumbo: u32,
    tx: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// A NIC's receive ring: descriptors now, and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSize {
    /// Now.
    pub now: u32,
    /// At most.
    pub most: u32,
}

/// What a driver says of an interface; `None` where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Its name.
    pub driver: Option<String>,
    /// Receive queues now.
    pub queues: u32,
    /// Receive queues at most.
    pub most_queues: Option<u32>,
    /// The receive ring.
    pub ring: Option<RingSize>,
    /// Whether received packets are put together before the kernel has them.
    pub gro: Option<bool>,
    /// Whether the NIC itself puts frames together.
    pub lro: Option<bool>,
    /// Whether the NIC takes VLAN tags off.
    pub rxvlan: Option<bool>,
    /// Whether rules steer frames to queues.
    pub ntuple: Option<bool>,
}

/// Asks a driver about an interface (ETHTOOL_GDRVINFO, GCHANNELS, GRINGPARAM, GGRO, GFLAGS).
///
/// # Errors
/// What the kernel answered; that a driver does not know a question is none.
pub fn survey(interface: &str) -> io::Result<Survey> {
    let mut driver = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 32 * 4 + 12],
        counts: [0; 5],
    };
    let named = answered(interface, &mut driver)?;
    let name = driver.driver.split(|byte| *byte == 0).next();
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    let counted = answered(interface, &mut channels)?;
    let mut rings = RingParam {
        cmd: ETHTOOL_GRINGPARAM,
        ..RingParam::default()
    };
    let sized = answered(interface, &mut rings)?;
    let value = |cmd| {
        let mut value = Value { cmd, data: 0 };
        Ok::<_, io::Error>(answered(interface, &mut value)?.then_some(value.data))
    };
    let (gro, flags) = (value(ETHTOOL_GGRO)?, value(ETHTOOL_GFLAGS)?);
    let flag = |bit| flags.map(|flags| flags & bit != 0);
    Ok(Survey {
        driver: name
            .filter(|_| named)
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        queues: (channels.combined + channels.rx).max(1),
        most_queues: counted.then(|| (channels.max_combined.max(channels.max_rx)).max(1)),
        ring: (sized && rings.rx_max > 0).then_some(RingSize {
            now: rings.rx,
            most: rings.rx_max,
        }),
        gro: gro.map(|gro| gro != 0),
        lro: flag(FLAG_LRO),
        rxvlan: flag(FLAG_RXVLAN),
        ntuple: flag(FLAG_NTUPLE),
    })
}

/// Puts a question to a driver (SIOCETHTOOL); false when it does not know it. `T` is the structure of
/// its command, of plain integers.
fn answered<T>(interface: &str, question: &mut T) -> io::Result<bool> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(question).cast::<libc::c_char>();
    match control(&mut request, SIOCETHTOOL) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The MTU of `interface` (SIOCGIFMTU).
///
/// # Errors
/// What the kernel answered; ENODEV when there is no such interface.
pub fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    control(&mut request, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU answered success, so it wrote this member of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// The number of receive queues of `interface` (ETHTOOL_GCHANNELS: combined and receive-only ones).
/// A driver that does not answer has one.
///
/// # Errors
/// What the kernel answered, except that the question is not supported.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut channels).cast::<libc::c_char>();
    match control(&mut request, SIOCETHTOOL) {
        Ok(()) => Ok((channels.combined + channels.rx).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}

/// Puts a question about classification rules to `interface`'s driver (SIOCETHTOOL).
///
/// # Errors
/// What the kernel answered.
pub(super) fn ask(interface: &str, question: &mut super::ntuple::Request) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(question).cast::<libc::c_char>();
    control(&mut request, SIOCETHTOOL)
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: ifreq is plain C data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

fn control(request: &mut libc::ifreq, call: libc::c_ulong) -> io::Result<()> {
    // Any socket carries these requests; one of this family can send nothing anywhere.
    let socket: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let request: *mut c_void = std::ptr::from_mut(request).cast();
    // SAFETY: the request is an ifreq, which both calls read and write, and where it points to data
    // (SIOCETHTOOL) that outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), call as _, request) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
