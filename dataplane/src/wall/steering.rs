//! TUN queue steering: a packet for a Workstation is read by the worker that owns its session.
//!
//! The program stands between the host's stack and the queues of the TUN device, and looks the
//! destination up in two tries, one for each IP version.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use aya::programs::SocketFilter;
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;

use super::{OBJECT, WallError};

// TUNSETSTEERINGEBPF. The kernel's header declares it as one that reads, and it takes an int.
nix::ioctl_write_ptr_bad!(
    tun_set_steering,
    nix::request_code_read!(b'T', 224, size_of::<i32>()),
    i32
);

/// The steering program and its prefixes.
#[derive(Debug)]
pub struct Steering {
    ebpf: Ebpf,
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Steering {
    /// Loads the program, with no prefix yet: everything goes to queue 0.
    ///
    /// # Errors
    /// [`WallError::Load`] with what the kernel said.
    pub fn load() -> Result<Self, WallError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| WallError::Load {
            interface: "the host interface".into(),
            source: error,
        };
        let mut loader = EbpfLoader::new();
        // The only map of the other programs that is not small as it is.
        loader.map_max_entries("SOURCES", 1);
        let mut ebpf = loader.load(OBJECT).map_err(|error| failed(error.into()))?;
        let program: &mut SocketFilter = ebpf
            .program_mut("steering")
            .ok_or_else(|| failed("the object has no program steering".into()))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| failed(error.into()))?;
        program.load().map_err(|error| failed(error.into()))?;
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| failed(format!("the object has no map {name}").into()))
        };
        let (v4, v6) = (take("QUEUES_V4")?, take("QUEUES_V6")?);
        Ok(Self {
            v4: v4
                .try_into()
                .map_err(|error: MapError| failed(error.into()))?,
            v6: v6
                .try_into()
                .map_err(|error: MapError| failed(error.into()))?,
            ebpf,
        })
    }

    /// Sets the program on a TUN device, by any of its queues. It stays when `self` is dropped.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn attach(&self, tun: BorrowedFd<'_>) -> io::Result<()> {
        let program = self.program()?.as_raw_fd();
        // SAFETY: the ioctl reads one int, the program's descriptor, both valid for the call.
        unsafe { tun_set_steering(tun.as_raw_fd(), &program) }?;
        Ok(())
    }

    /// The program, for [`super::test_run`].
    ///
    /// # Errors
    /// Never, once loaded.
    pub fn program(&self) -> io::Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program("steering")
            .ok_or_else(|| io::Error::other("the object has no program steering"))?;
        Ok(program.fd().map_err(io::Error::other)?.as_fd())
    }

    /// Sends packets for a prefix to a queue. The longest prefix wins.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn set(&mut self, prefix: IpNet, queue: u32) -> io::Result<()> {
        let length = prefix.prefix_len().into();
        match prefix.network() {
            IpAddr::V4(network) => self
                .v4
                .insert(&Key::new(length, network.octets()), queue, 0),
            IpAddr::V6(network) => self
                .v6
                .insert(&Key::new(length, network.octets()), queue, 0),
        }
        .map_err(io::Error::other)
    }

    /// Forgets a prefix. Nothing happens where it was not set.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove(&mut self, prefix: IpNet) -> io::Result<()> {
        let length = prefix.prefix_len().into();
        let removed = match prefix.network() {
            IpAddr::V4(network) => self.v4.remove(&Key::new(length, network.octets())),
            IpAddr::V6(network) => self.v6.remove(&Key::new(length, network.octets())),
        };
        match removed {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
