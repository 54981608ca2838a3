//! What a port asks about its interface before it binds: its index, its MTU and its queues.

use std::ffi::c_void;
use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

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
