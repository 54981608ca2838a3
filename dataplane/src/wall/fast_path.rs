//! The fast path of a Workstation over networks: an XDP program that takes the datagrams of one flow past the
//! kernel's stack, to AF_XDP sockets.
//!
//! It holds nothing back and is no wall: what is not of the flow, and the flow where a queue has no socket, goes on to
//! the kernel. So it is not pinned either, and is gone with its process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::EbpfLoader;
use aya::programs::Xdp;
use wire::Flow;

use super::kernel::{self, Hook, TestRun};
use super::{OBJECT, WallError, map_fd, netlink, program};

/// The program on an interface. Dropped, it is off.
#[derive(Debug)]
pub struct FastPath {
    link: OwnedFd,
    ifindex: u32,
    program: OwnedFd,
    flow: OwnedFd,
    sockets: OwnedFd,
}

impl FastPath {
    /// Attaches the program to the driver of an interface, with no flow and no sockets. In the kernel's stack it would
    /// be slower than a socket, so it is not attached there.
    ///
    /// # Errors
    /// [`WallError::Occupied`] by another program, or what the kernel answered.
    pub fn attach(interface: &str, ifindex: u32) -> Result<Self, WallError> {
        let kernel = |attempt: &'static str| {
            move |source| WallError::Kernel {
                attempt,
                interface: interface.to_owned(),
                source,
            }
        };
        let standing = netlink::xdp(ifindex).map_err(kernel("ask for the XDP program"))?;
        if let Some(standing) = standing {
            return Err(WallError::Occupied {
                interface: interface.to_owned(),
                program: standing.program,
            });
        }
        let failed = |error: io::Error| WallError::load(interface, error);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SOURCES", 1)
            .map_max_entries("QUEUES_V4", 1)
            .map_max_entries("QUEUES_V6", 1)
            .load(OBJECT)
            .map_err(|error| WallError::load(interface, error))?;
        let loaded: &mut Xdp = program(&mut ebpf, interface, "fast_path")?;
        loaded
            .load()
            .map_err(|error| WallError::load(interface, error))?;
        let loaded = loaded
            .fd()
            .map_err(|error| WallError::load(interface, error))?;
        let program = loaded.as_fd().try_clone_to_owned().map_err(failed)?;
        let mut map = |name: &str| {
            let map = ebpf.take_map(name).and_then(|map| map_fd(&map));
            map.ok_or_else(|| failed(io::Error::other(format!("the object has no map {name}"))))
        };
        let (flow, sockets) = (map("FLOW")?, map("SOCKETS")?);
        let link = kernel::attach(program.as_fd(), ifindex, Hook::Xdp, kernel::XDP_NATIVE)
            .map_err(kernel("attach the fast path's program in native mode"))?;
        Ok(Self {
            link,
            ifindex,
            program,
            flow,
            sockets,
        })
    }

    /// Whether it is still on the interface with this index, which may have been removed.
    pub fn stands_on(&self, ifindex: u32) -> bool {
        let info = kernel::link_info(self.link.as_fd());
        self.ifindex == ifindex && info.is_ok_and(|info| info.ifindex == ifindex)
    }

    /// From now on this is the flow; the default is none.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set_flow(&self, flow: &Flow) -> io::Result<()> {
        kernel::map_write(self.flow.as_fd(), &0u32, flow)
    }

    /// Where its sockets are, for another process.
    pub fn sockets(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// Runs the program on a frame, `repeat` times: for tests and measurements.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_frame(&self, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
        kernel::test_run(self.program.as_fd(), frame, repeat)
    }
}

/// Where the AF_XDP sockets of a [`FastPath`] are, which perhaps another process has attached.
#[derive(Debug)]
pub struct FastPathSockets(OwnedFd);

impl FastPathSockets {
    /// The flow's datagrams on a receive queue go to this socket, which must be bound to that queue, until it is
    /// closed.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        kernel::map_write(self.0.as_fd(), &queue, &socket.as_raw_fd())
    }
}

impl From<OwnedFd> for FastPathSockets {
    fn from(sockets: OwnedFd) -> Self {
        Self(sockets)
    }
}
