//! AF_PACKET sockets: how the rig sees and sends raw frames.
//!
//! On receipt such a socket stands where the kernel's stack starts: behind XDP, native or generic.
//! A frame that XDP dropped or gave to AF_XDP is not seen here. On sending, a socket with
//! `PACKET_QDISC_BYPASS` passes the traffic control hook by, as any process with CAP_NET_RAW can.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

use super::namespace::Namespace;

/// Which way a captured frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// It came in from the cable.
    Incoming,
    /// The stack of this host sent it.
    Outgoing,
}

/// A frame's place and kind, as the kernel reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub kind: PacketKind,
    pub interface: i32,
    pub ethernet: bool,
    pub len: usize,
}

/// A raw socket on one interface of a namespace, or on all of them.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: i32,
}

const ETH_P_ALL: u16 = 0x0003;
/// The most frames a `sendmmsg` call of ours carries.
pub(crate) const BATCH: usize = 64;

fn last_error(what: &str) -> anyhow::Error {
    anyhow::Error::new(io::Error::last_os_error()).context(what.to_owned())
}

impl PacketSocket {
    /// A socket that receives every frame of `interface` (all interfaces with `None`), and sends on
    /// it.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub fn open(namespace: &Namespace, interface: Option<&str>) -> Result<Self> {
        namespace.run(|| Self::open_here(interface, ETH_P_ALL))
    }

    /// A socket that receives the frames of one EtherType, of all interfaces, where the kernel's own
    /// protocols get theirs: behind the traffic control hook, which a socket for all frames is not.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn of_type(namespace: &Namespace, ethertype: u16) -> Result<Self> {
        namespace.run(|| Self::open_here(None, ethertype))
    }

    /// A socket that only sends, past the traffic control hook; it receives nothing.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub fn sender(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| Self::open_here(Some(interface), 0))?;
        socket.option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        Ok(socket)
    }

    fn open_here(interface: Option<&str>, protocol: u16) -> Result<Self> {
        // SAFETY: a plain system call; protocol 0 receives nothing until bind gives one.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(last_error("socket(AF_PACKET)"));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = match interface {
            None => 0,
            Some(name) => nix::net::if_::if_nametoindex(name)
                .with_context(|| format!("no interface {name} in this namespace"))?
                as i32,
        };
        let socket = Self {
            fd,
            interface: index,
        };
        // Forced past rmem_max, which root may; a refusal leaves the default size.
        drop(socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20));
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index;
        // SAFETY: the pointer and length are of a live sockaddr_ll.
        let bound = unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 {
            return Err(last_error("bind(AF_PACKET)"));
        }
        Ok(socket)
    }

    /// Does not receive what this host itself sends.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ignore_outgoing(&self) -> Result<()> {
        self.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
    }

    /// Receives one of `one_of` (a power of two) frames from now on, chosen by chance; what came
    /// before is forgotten.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn sample(&self, one_of: u32) -> Result<()> {
        /// The offset at which a classic BPF program reads a random number.
        const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
        let op = |code: u32, jf: u8, k: u32| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf,
            k,
        };
        let mut program = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, RANDOM),
            op(
                libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
                0,
                one_of.next_power_of_two() - 1,
            ),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0),
            op(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
            op(libc::BPF_RET | libc::BPF_K, 0, 0),
        ];
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the pointer and length are of a live sock_fprog, which points to a live program
        // of the length it says; the kernel copies both.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as u32,
            )
        };
        if set < 0 {
            return Err(last_error("setsockopt(SO_ATTACH_FILTER)"));
        }
        let mut buffer = [0; 1];
        while self.take(&mut buffer).is_some() {}
        Ok(())
    }

    /// Lets as many frames be on their way at once as `bytes` of kernel memory hold.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn send_buffer(&self, bytes: i32) -> Result<()> {
        self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
    }

    fn option(&self, level: i32, name: i32, value: i32) -> Result<()> {
        // SAFETY: the pointer and length are of a live i32.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as u32,
            )
        };
        if set < 0 {
            return Err(last_error(&format!("setsockopt({level}, {name})")));
        }
        Ok(())
    }

    /// Frames the kernel could not queue to this socket since the last call.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn overruns(&self) -> Result<u64> {
        // SAFETY: an all-zero tpacket_stats is a valid one.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: the pointer and length are of a live tpacket_stats.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if got < 0 {
            return Err(last_error("getsockopt(PACKET_STATISTICS)"));
        }
        Ok(u64::from(stats.tp_drops))
    }

    /// Whether a frame is there, after at most `timeout`.
    pub(crate) fn readable(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // SAFETY: one live pollfd and a live timespec; no signal mask.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) > 0 }
    }

    /// Takes the next frame, `None` when there is none.
    pub(super) fn take(&self, buffer: &mut [u8]) -> Option<Arrival> {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        let mut len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the buffer is writable for its length, the address for its own.
        let got = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut address).cast(),
                &raw mut len,
            )
        };
        (got >= 0).then_some(Arrival {
            kind: if address.sll_pkttype == 4 {
                PacketKind::Outgoing
            } else {
                PacketKind::Incoming
            },
            interface: address.sll_ifindex,
            ethernet: address.sll_hatype == libc::ARPHRD_ETHER,
            len: got as usize,
        })
    }

    /// Takes the next frame and says which way it went and how long it is; `None` when there is
    /// none.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(PacketKind, usize)> {
        self.take(buffer).map(|arrival| (arrival.kind, arrival.len))
    }

    /// Sends one frame. False when the kernel would not take it (no room, link down, too long).
    pub fn send(&self, frame: &[u8]) -> bool {
        self.send_batch(std::iter::once(frame)) == 1
    }

    /// Sends up to [`BATCH`] frames in one system call and says how many the kernel took. A frame
    /// it refused is skipped: what comes after is still tried.
    pub(crate) fn send_batch<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> usize {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.interface;
        let mut parts: [libc::iovec; BATCH] = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let mut count = 0;
        for (part, frame) in parts.iter_mut().zip(frames) {
            // Only read by the kernel; iovec knows no const.
            part.iov_base = frame.as_ptr().cast_mut().cast();
            part.iov_len = frame.len();
            count += 1;
        }
        // SAFETY: all-zero mmsghdrs are valid ones.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (message, part) in messages.iter_mut().zip(&mut parts).take(count) {
            message.msg_hdr.msg_name = (&raw mut address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let (mut at, mut sent) = (0, 0);
        while at < count {
            // SAFETY: `messages[at..count]` point to live parts, an address and frames borrowed for
            // this call.
            let took = unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    messages[at..].as_mut_ptr(),
                    (count - at) as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if took <= 0 {
                at += 1;
            } else {
                at += took as usize;
                sent += took as usize;
            }
        }
        sent
    }
}
