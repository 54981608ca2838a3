//! The real host interface: a persistent multi-queue TUN device, one queue for each worker.
//!
//! Persistent, so that the addresses, routes and firewall rules that others hang on it outlive the
//! process; with `virtio_net_hdr`, so that TCP crosses it in super-packets of up to 64 KiB.

use super::vnet::{self, VnetHeader};
use super::{Host, LARGEST_PACKET};
use crate::link::Links;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use thiserror::Error;

const DEVICE: &str = "/dev/net/tun";

/// Why the TUN device could not be had.
#[derive(Debug, Error)]
pub enum TunError {
    /// The kernel offers no TUN.
    #[error("cannot open {DEVICE}: {0}; load the module with: modprobe tun")]
    Device(io::Error),
    /// No name the kernel takes.
    #[error("\"{0}\" is no interface name: 1 to 15 bytes, without '/', '%', ':' and white space")]
    Name(String),
    /// No queue was asked for.
    #[error("{0} asked for with {1} queues: 1 to 256 are possible")]
    Queues(String, usize),
    /// The name belongs to something else.
    #[error(
        "{0} exists but is not a multi-queue TUN device: choose another name, or remove it with: \
         ip link delete {0}"
    )]
    Foreign(String),
    /// Another process has it.
    #[error(
        "{0} is in use by another process: stop that one first; this shows it: \
         grep -l 'iff:.*{0}$' /proc/[0-9]*/fdinfo/*"
    )]
    Busy(String),
    /// Not allowed.
    #[error(
        "cannot attach to {0}: not permitted; CAP_NET_ADMIN is needed to make it, and the uid it \
         was made for to open it again"
    )]
    Permission(String),
    /// Some step failed.
    #[error("{step} on {name} failed: {source}")]
    Step {
        /// The system call and its request.
        step: &'static str,
        /// The interface.
        name: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// How a TUN device is to be.
#[derive(Debug, Clone)]
pub struct Tun {
    name: String,
    queues: usize,
    owner: Option<u32>,
}

impl Tun {
    /// Opens the device with `queues` queues, making it when it does not exist. Its queues are in
    /// the kernel's order, which is what a steering program's answer counts in.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn open(name: &str, queues: usize) -> Result<Vec<TunQueue>, TunError> {
        Self::new(name, queues).attach()
    }

    /// A description of a device, to be opened by [`Tun::attach`].
    pub fn new(name: &str, queues: usize) -> Self {
        Self {
            name: name.to_owned(),
            queues,
            owner: None,
        }
    }

    /// Lets this user open it again without capabilities.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>) -> Self {
        self.owner = uid;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn attach(&self) -> Result<Vec<TunQueue>, TunError> {
        check_name(&self.name)?;
        if self.queues == 0 || self.queues > 256 {
            return Err(TunError::Queues(self.name.clone(), self.queues));
        }
        // The kernel lets any number of processes add queues to a multi-queue device; packets
        // would then go to whoever's queue they hash to. A device without queues has no carrier.
        if is_held(&self.name) {
            return Err(TunError::Busy(self.name.clone()));
        }
        let mut queues: Vec<TunQueue> = Vec::with_capacity(self.queues);
        for _ in 0..self.queues {
            queues.push(TunQueue {
                file: self.attach_one()?,
                udp_segments: false,
            });
        }
        let udp_segments = self.set_up(&queues[0].file)?;
        for queue in &mut queues {
            queue.udp_segments = udp_segments;
        }
        Ok(queues)
    }

    /// Removes the device, or makes it vanish when the process that has it ends. A device that does
    /// not exist is no error.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn delete(name: &str) -> Result<(), TunError> {
        check_name(name)?;
        let file = Self::new(name, 1).attach_one()?;
        ioctl(&file, libc::TUNSETPERSIST, 0).map_err(step("ioctl TUNSETPERSIST 0", name))
    }

    fn attach_one(&self) -> Result<File, TunError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(TunError::Device)?;
        let mut request = interface_request(&self.name);
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which outlives the call.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        match Errno::result(answer) {
            Ok(_) => Ok(file),
            Err(Errno::EINVAL) => Err(TunError::Foreign(self.name.clone())),
            Err(Errno::EBUSY | Errno::E2BIG) => Err(TunError::Busy(self.name.clone())),
            Err(Errno::EPERM | Errno::EACCES) => Err(TunError::Permission(self.name.clone())),
            Err(errno) => Err(step("ioctl TUNSETIFF", &self.name)(errno.into())),
        }
    }

    /// What holds for the whole device. Gives whether it takes UDP super-packets.
    fn set_up(&self, file: &File) -> Result<bool, TunError> {
        let name = &self.name;
        let set = |request, what, value: libc::c_int| {
            // SAFETY: these requests read one int, which outlives the call.
            let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw const value) };
            Errno::result(answer).map_err(|errno| step(what, name)(errno.into()))
        };
        let size = vnet::LEN as libc::c_int;
        set(libc::TUNSETVNETHDRSZ, "ioctl TUNSETVNETHDRSZ 10", size)?;
        // An earlier owner may have left it so; vnet reads and writes native order.
        set(libc::TUNSETVNETLE, "ioctl TUNSETVNETLE 0", 0)?;
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        // Kernels before 6.2 answer EINVAL to what they do not know.
        let udp_segments = ioctl(file, libc::TUNSETOFFLOAD, tcp | udp).is_ok();
        if !udp_segments {
            ioctl(file, libc::TUNSETOFFLOAD, tcp).map_err(step("ioctl TUNSETOFFLOAD", name))?;
        }
        if let Some(uid) = self.owner {
            ioctl(file, libc::TUNSETOWNER, uid).map_err(step("ioctl TUNSETOWNER", name))?;
        }
        ioctl(file, libc::TUNSETPERSIST, 1).map_err(step("ioctl TUNSETPERSIST 1", name))?;
        Ok(udp_segments)
    }
}

/// One queue of a TUN device.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    udp_segments: bool,
}

impl TunQueue {
    /// Lets a loaded socket-filter program choose the queue of every packet, for the whole device:
    /// its result modulo the number of queues. `None` gives the choice back to the kernel.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_steering(&self, program: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fd: libc::c_int = program.map_or(-1, |program| program.as_raw_fd());
        // SAFETY: TUNSETSTEERINGEBPF reads one int, which outlives the call.
        let answer = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETSTEERINGEBPF,
                &raw const fd,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Host for TunQueue {
    fn read(
        &mut self,
        header: &mut VnetHeader,
        first: &mut [u8],
        rest: &mut [u8],
    ) -> io::Result<Option<usize>> {
        if first.len() + rest.len() < LARGEST_PACKET {
            // The kernel would cut the packet without a word.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut head = [0; vnet::LEN];
        let mut parts = [
            IoSliceMut::new(&mut head),
            IoSliceMut::new(first),
            IoSliceMut::new(rest),
        ];
        loop {
            match self.file.read_vectored(&mut parts) {
                Ok(len) => {
                    *header = VnetHeader::from_bytes(&head);
                    return Ok(Some(len.saturating_sub(vnet::LEN)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match self.file.write_vectored(parts) {
                // The kernel takes a packet whole or not at all.
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn accepts_udp_segments(&self) -> bool {
        self.udp_segments
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

fn step<'a>(step: &'static str, name: &'a str) -> impl FnOnce(io::Error) -> TunError + 'a {
    move |source| TunError::Step {
        step,
        name: name.to_owned(),
        source,
    }
}

/// An ioctl whose argument is a number.
fn ioctl(file: &File, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the requests given here take their argument by value.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, libc::c_ulong::from(value)) };
    Errno::result(answer)?;
    Ok(())
}

fn check_name(name: &str) -> Result<(), TunError> {
    // '%' would make the kernel choose a name.
    let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != "..";
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%' | b':');
    match fits && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(TunError::Name(name.to_owned())),
    }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// Whether it is a TUN device that has queues, up or not. What is no TUN device the kernel refuses.
fn is_held(name: &str) -> bool {
    let found = Links::open().and_then(|links| links.find(name));
    found.is_ok_and(|link| link.carrier && link.kind.as_deref() == Some("tun"))
}
