//! From a configuration to a bound socket: frame size, UMEM, mode, and patience with a queue that
//! another socket has only just left.

use std::error::Error;
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::sys::utsname::uname;
use std::num::NonZeroU32;
use wire::limits::ETH_LEN;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{FrameDesc, Socket, Umem};

use super::super::linear::Linears;
use super::super::pool::Pool;
use super::descriptor;
use super::ethtool;
use super::fill::FillRing;
use super::queue::{LARGEST, Parts, Queue, fill_up};
use super::{BusyPoll, Mode, OpenError, XskConfig};

/// Bytes at the start of every frame that belong to the XDP program (XDP_PACKET_HEADROOM).
pub(super) const HEADROOM: u32 = 256;
/// An Ethernet header with two VLAN tags.
const LINK_HEADER: u32 = 22;
const FRAME_SIZES: [u32; 2] = [2048, 4096];
/// Some NICs (igb, igc, older ixgbe) are told the size of a receive buffer in units of this, rounded down,
/// and cut what does not fit in two, which zero-copy then takes for two frames.
const BUFFER_UNIT: u32 = 1024;
/// The largest MTU of a port, which is what switches and drivers call jumbo.
const LARGEST_MTU: u32 = 9000;
/// The largest whose frames fit a chunk.
const LARGEST_IN_ONE: u32 = FRAME_SIZES[1] - HEADROOM - LINK_HEADER;
/// The largest whose frames no NIC cuts in zero-copy.
const LARGEST_UNCUT: u32 = (FRAME_SIZES[1] - HEADROOM) / BUFFER_UNIT * BUFFER_UNIT - LINK_HEADER;
const HUGE_PAGE: usize = 2 << 20;
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// What follows from an interface's MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) mtu: u32,
    /// Bytes of a chunk of the UMEM.
    pub(super) frame_size: u32,
    /// Chunks that the largest frame takes.
    pub(super) pieces: u32,
}

impl Sizes {
    /// Bytes of the largest frame: what the link carries, whatever else there is room for.
    pub(super) fn capacity(&self) -> usize {
        let room = match self.pieces {
            1 => (self.frame_size - HEADROOM) as usize,
            _ => LARGEST,
        };
        room.min(self.mtu as usize + ETH_LEN)
    }

    /// The same with chunks whose frames no NIC cuts in zero-copy; `None` where there are none.
    pub(super) fn uncut(&self) -> Option<Self> {
        let frame = self.mtu + LINK_HEADER;
        let fits = |size: &u32| (size - HEADROOM) / BUFFER_UNIT * BUFFER_UNIT >= frame;
        match self.pieces {
            1 => {
                let mut sizes = FRAME_SIZES
                    .into_iter()
                    .filter(|size| *size >= self.frame_size);
                sizes.find(fits).map(|frame_size| Self {
                    frame_size,
                    ..*self
                })
            }
            // In pieces, where they are cut is the same to all.
            _ => Some(*self),
        }
    }
}

/// The sizes that the interface's MTU needs.
pub(super) fn sizes(config: &XskConfig) -> Result<Sizes, OpenError> {
    let mtu = ethtool::mtu(&config.interface).map_err(|source| OpenError::Call {
        call: "ioctl SIOCGIFMTU",
        interface: config.interface.clone(),
        queue: 0,
        remedy: remedy(&source),
        source,
    })?;
    choose(&config.interface, mtu, config.frame_size)
}

/// Chunks of the largest size that a frame of this MTU takes.
pub(super) fn pieces(mtu: u32) -> u32 {
    mtu.saturating_add(LINK_HEADER)
        .div_ceil(FRAME_SIZES[1] - HEADROOM)
}

fn choose(interface: &str, mtu: u32, asked: Option<u32>) -> Result<Sizes, OpenError> {
    if mtu > LARGEST_MTU {
        return Err(OpenError::MtuTooLarge {
            interface: interface.to_owned(),
            mtu,
            largest: LARGEST_MTU,
        });
    }
    let fits = |size: u32| mtu + LINK_HEADER <= size - HEADROOM;
    let [small, large] = FRAME_SIZES;
    let needed = if fits(small) { small } else { large };
    let frame_size = asked.unwrap_or(needed);
    if !FRAME_SIZES.contains(&frame_size) || frame_size < needed {
        return Err(OpenError::FrameSize {
            interface: interface.to_owned(),
            mtu,
            frame_size,
            needed,
        });
    }
    Ok(Sizes {
        mtu,
        frame_size,
        pieces: pieces(mtu),
    })
}

/// The queues to bind.
pub(super) fn queue_numbers(config: &XskConfig) -> Result<Range<u32>, OpenError> {
    let available =
        ethtool::receive_queues(&config.interface).map_err(|source| OpenError::Call {
            call: "ioctl SIOCETHTOOL ETHTOOL_GCHANNELS",
            interface: config.interface.clone(),
            queue: 0,
            remedy: remedy(&source),
            source,
        })?;
    match &config.queues {
        None => Ok(0..available),
        Some(asked) if !asked.is_empty() && asked.end <= available => Ok(asked.clone()),
        Some(asked) => Err(OpenError::Queues {
            interface: config.interface.clone(),
            asked: asked.clone(),
            available,
        }),
    }
}

/// Binds a socket to queue `number`.
pub(super) fn open(
    config: &XskConfig,
    interface: &Arc<str>,
    number: u32,
    sizes: &Sizes,
) -> Result<Queue, OpenError> {
    let failed = |call, source: io::Error| OpenError::Call {
        call,
        interface: config.interface.clone(),
        queue: number,
        remedy: remedy(&source),
        source,
    };
    let uncut = sizes.uncut();
    let mut mode = match (config.mode, &uncut) {
        (Mode::Auto | Mode::ZeroCopy, Some(_)) => BindFlags::XDP_ZEROCOPY,
        (Mode::ZeroCopy, None) => {
            return Err(OpenError::Cut {
                interface: config.interface.clone(),
                mtu: sizes.mtu,
                largest: LARGEST_UNCUT,
            });
        }
        (Mode::Auto, None) | (Mode::Copy, _) => BindFlags::XDP_COPY,
    };
    let deadline = Instant::now() + config.patience;
    let mut pause = Duration::from_millis(2);
    let parts = loop {
        // Each attempt has a UMEM of its own: one that a bind failed on cannot be relied on again.
        let sizes = match &uncut {
            Some(uncut) if mode.contains(BindFlags::XDP_ZEROCOPY) => uncut,
            _ => sizes,
        };
        let error = match attempt(config, interface, number, sizes, mode) {
            Ok(parts) => break parts,
            Err((call, error)) => (call, error),
        };
        match error.1.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP)
                if config.mode == Mode::Auto && mode.contains(BindFlags::XDP_ZEROCOPY) =>
            {
                tracing::debug!(
                    interface = config.interface,
                    queue = number,
                    error = %error.1,
                    "the driver has no zero-copy here: frames are copied"
                );
                mode = BindFlags::XDP_COPY;
            }
            // A socket that was closed leaves its queue some 20 ms later.
            Some(libc::EBUSY) if Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) if sizes.pieces > 1 => {
                return Err(OpenError::InPieces {
                    call: error.0,
                    interface: config.interface.clone(),
                    queue: number,
                    lacking: lacking(mode),
                    source: error.1,
                    mtu: sizes.mtu,
                    largest: LARGEST_IN_ONE,
                });
            }
            _ => return Err(failed(error.0, error.1)),
        }
    };
    let mut queue = Queue::new(parts);
    queue.zero_copy = zero_copy(queue.fd()).map_err(|e| failed("getsockopt XDP_OPTIONS", e))?;
    // Older kernels do not have it and send 32 at a time.
    if set_tx_budget(queue.fd(), config.tx_budget).is_ok() {
        queue.tx_budget = config.tx_budget;
    }
    if let Some(polling) = &config.busy_poll {
        match set_busy_poll(queue.fd(), polling) {
            Ok(()) => queue.busy_poll = true,
            Err(error) => tracing::warn!(
                interface = config.interface,
                queue = number,
                %error,
                "no busy polling"
            ),
        }
    }
    Ok(queue)
}

/// A socket of its own, not bound to anything.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the three options, and reads them back: a kernel without busy polling takes some in silence.
pub(super) fn set_busy_poll(fd: BorrowedFd<'_>, polling: &BusyPoll) -> io::Result<()> {
    let wanted = [
        (libc::SO_PREFER_BUSY_POLL, u32::from(polling.prefer)),
        (libc::SO_BUSY_POLL, polling.microseconds),
        (libc::SO_BUSY_POLL_BUDGET, polling.budget),
    ];
    for (option, value) in wanted {
        // Whoever made the socket may have had the privilege to set it.
        if option_of(fd, option) == Ok(value) {
            continue;
        }
        // SAFETY: the options are one int each, and that is what is passed.
        let answer = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        // The budget cannot be read back.
        if option != libc::SO_BUSY_POLL_BUDGET && option_of(fd, option) != Ok(value) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
    }
    Ok(())
}

/// What an int option of the socket is.
fn option_of(fd: BorrowedFd<'_>, option: libc::c_int) -> Result<u32, ()> {
    let mut set = 0u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the options are one int each, and the answer is written to one.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut set).cast(),
            &raw mut length,
        )
    };
    if answer < 0 { Err(()) } else { Ok(set) }
}

/// One attempt; an error with the call it is from.
fn attempt(
    config: &XskConfig,
    interface: &Arc<str>,
    number: u32,
    sizes: &Sizes,
    mode: BindFlags,
) -> Result<Parts, (&'static str, io::Error)> {
    let ring = |entries| QueueSize::new(entries).map_err(|e| ("ring size", io::Error::other(e)));
    let frame =
        FrameSize::new(sizes.frame_size).map_err(|e| ("frame size", io::Error::other(e)))?;
    let umem_config = UmemConfig::builder()
        .frame_size(frame)
        .fill_queue_size(ring(2 * config.ring_size)?)
        .comp_queue_size(ring(config.ring_size)?)
        .build()
        .map_err(|e| ("frame size", io::Error::other(e)))?;
    let ((umem, frames, huge_pages), socket) = descriptor::made_by(|| umem(config, umem_config))?;
    // A buffer for every chunk: see `linear`.
    let buffers = if sizes.pieces > 1 { frames.len() } else { 0 };
    let linears = Linears::new(buffers).map_err(|e| ("madvise MADV_DONTDUMP", e))?;
    // Full before the bind: see `fill`.
    let fill = FillRing::map(socket.as_fd(), 2 * config.ring_size);
    let mut fill = fill.map_err(|e| ("mmap of the fill ring", e))?;
    drop(socket);
    let blank = frames.as_slice().into();
    let mut pool = Pool::new(frames, 2 * config.ring_size as usize);
    fill_up(&mut fill, &mut pool);
    let mut flags = mode | BindFlags::XDP_USE_NEED_WAKEUP;
    flags.set(BindFlags::XDP_USE_SG, sizes.pieces > 1);
    let socket_config = SocketConfig::builder()
        .rx_queue_size(ring(config.ring_size)?)
        .tx_queue_size(ring(config.ring_size)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let name = CString::new(config.interface.as_str())
        .map_err(|e| ("interface name", io::Error::other(e)))?;
    // SAFETY: the contract is about a UMEM shared between sockets of one queue; this one is not.
    let rings = unsafe { Socket::new(socket_config, &umem, &Interface::new(name), number) };
    let (tx, rx, pair) = rings.map_err(|error| ("socket and bind (AF_XDP)", cause(&error)))?;
    let (libxdp_fill, completion) = pair.ok_or_else(|| {
        let error = io::Error::other("libxdp returned no fill and completion ring");
        ("socket (AF_XDP)", error)
    })?;
    Ok(Parts {
        number,
        interface: Arc::clone(interface),
        umem,
        blank,
        pool,
        fill,
        linears,
        frame_size: sizes.frame_size,
        ring_size: config.ring_size,
        huge_pages,
        rings: (tx, rx, libxdp_fill, completion),
    })
}

/// A UMEM of three frames per ring entry (two for the fill ring, one to send), rounded up to whole
/// huge pages, and whether it lies in such.
fn umem(
    config: &XskConfig,
    umem_config: UmemConfig,
) -> Result<(Umem, Vec<FrameDesc>, bool), (&'static str, io::Error)> {
    let frame_size = umem_config.frame_size().get() as usize;
    let length = (3 * config.ring_size as usize * frame_size).next_multiple_of(HUGE_PAGE);
    let frames = u32::try_from(length / frame_size)
        .ok()
        .and_then(NonZeroU32::new)
        .ok_or_else(|| ("UMEM size", io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut made = None;
    if config.huge_pages {
        match Umem::new(umem_config, frames, true) {
            Ok((umem, descs)) => made = Some((umem, descs, true)),
            Err(error) => tracing::warn!(
                interface = config.interface,
                bytes = length,
                error = %cause(&error),
                "no huge pages for the UMEM, using ordinary ones; reserve {} in /proc/sys/vm/nr_hugepages",
                length / HUGE_PAGE
            ),
        }
    }
    let (umem, descs, huge_pages) = match made {
        Some(made) => made,
        None => {
            let (umem, descs) = Umem::new(umem_config, frames, false)
                .map_err(|error| ("mmap or setsockopt XDP_UMEM_REG", cause(&error)))?;
            (umem, descs, false)
        }
    };
    if let Some(first) = descs.first() {
        // SAFETY: the first descriptor is this UMEM's; its length is 0, so nothing is read.
        let data = unsafe { umem.data(first) };
        let start = data.contents().as_ptr().wrapping_sub(first.addr());
        // A core dump must not carry the traffic of every Workstation.
        // SAFETY: start and length are those of the UMEM's mapping, and the advice changes no byte.
        let answer = unsafe {
            libc::madvise(
                start.cast_mut().cast::<c_void>(),
                length,
                libc::MADV_DONTDUMP,
            )
        };
        if answer < 0 {
            return Err(("madvise MADV_DONTDUMP", io::Error::last_os_error()));
        }
    }
    Ok((umem, descs, huge_pages))
}

/// The system error within one of xsk-rs, which only its source tells.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    match error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
    {
        Some(system) if system.raw_os_error().is_some() => {
            io::Error::from_raw_os_error(system.raw_os_error().unwrap_or(libc::EIO))
        }
        _ => io::Error::other(error.to_string()),
    }
}

fn zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut flags = 0u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the option is one u32 (struct xdp_options), and that is what is passed.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_OPTIONS,
            (&raw mut flags).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags & XDP_OPTIONS_ZEROCOPY != 0)
}

fn set_tx_budget(fd: BorrowedFd<'_>, budget: u32) -> io::Result<()> {
    // SAFETY: the option is one u32, and that is what is passed.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const budget).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Who cannot do frames in several pieces, when a bind with XDP_USE_SG fails.
fn lacking(mode: BindFlags) -> String {
    if mode.contains(BindFlags::XDP_ZEROCOPY) {
        return "the driver has no zero-copy for such; use copy mode".to_owned();
    }
    // In copy mode no driver takes part, and the kernel knows the flag or does not.
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    format!(
        "AF_XDP has that from Linux 6.6 on (this is {})",
        release.unwrap_or_else(|_| "another".to_owned())
    )
}

/// What to do about an answer.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => "there is no such interface; see ip link",
        Some(libc::EBUSY) => "another socket is bound to this queue; stop the process that has it",
        Some(libc::EPERM | libc::EACCES) => "run as root or with CAP_NET_RAW and CAP_NET_ADMIN",
        Some(libc::ENOBUFS) => "the UMEM exceeds RLIMIT_MEMLOCK; raise it (LimitMEMLOCK=infinity)",
        Some(libc::ENOMEM) => "there is not enough memory for the UMEM; use a smaller ring",
        Some(libc::EOPNOTSUPP) => "the driver does not have this mode; use copy mode",
        Some(libc::EINVAL) => {
            "the driver refuses this queue, mode or frame size; try copy mode and fewer queues"
        }
        Some(libc::ENETDOWN) => "the link is down; bring it up",
        Some(libc::EAFNOSUPPORT) => "the kernel lacks AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "see the kernel's log (dmesg)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_their_number_follow_the_mtu() {
        for (mtu, frame_size, pieces) in [
            (68, 2048, 1),
            (1500, 2048, 1),
            (1770, 2048, 1),
            (1771, 4096, 1),
            (3818, 4096, 1),
            (3819, 4096, 2),
            (7658, 4096, 2),
            (7659, 4096, 3),
            (9000, 4096, 3),
        ] {
            let expected = Sizes {
                mtu,
                frame_size,
                pieces,
            };
            let sizes = choose("x", mtu, None).unwrap();
            assert_eq!(sizes, expected);
            assert_eq!(sizes.capacity(), mtu as usize + ETH_LEN);
        }
    }

    #[test]
    fn no_frame_of_a_zero_copy_chunk_is_larger_than_a_buffer_in_units_of_1024() {
        for mtu in [68, 1002, 1003, 1500, 1770, 1771, LARGEST_UNCUT] {
            let sizes = choose("x", mtu, None).unwrap().uncut().unwrap();
            let buffer = (sizes.frame_size - HEADROOM) / 1024 * 1024;
            assert!(mtu + LINK_HEADER <= buffer, "{sizes:?}");
        }
        assert_eq!(
            choose("x", 1002, None).unwrap().uncut().unwrap().frame_size,
            2048
        );
        assert_eq!(choose("x", LARGEST_UNCUT + 1, None).unwrap().uncut(), None);
        assert_eq!(choose("x", LARGEST_IN_ONE, None).unwrap().uncut(), None);
        let several = choose("x", 9000, None).unwrap();
        assert_eq!(several.uncut(), Some(several));
    }

    #[test]
    fn an_mtu_beyond_jumbo_is_refused_in_words() {
        for mtu in [9001, 65535, u32::MAX] {
            let error = choose("eth7", mtu, None).unwrap_err().to_string();
            assert!(error.contains("eth7") && error.contains("9000"), "{error}");
        }
    }

    #[test]
    fn a_frame_size_that_cannot_carry_the_mtu_is_refused() {
        assert!(choose("x", 1771, Some(2048)).is_err());
        assert!(choose("x", 9000, Some(2048)).is_err());
        assert!(choose("x", 1500, Some(3000)).is_err());
        let sizes = choose("x", 1500, Some(4096)).unwrap();
        assert_eq!((sizes.frame_size, sizes.pieces), (4096, 1));
    }

    #[test]
    fn a_refusal_says_whether_the_driver_or_the_kernel_lacks_it() {
        let driver = lacking(BindFlags::XDP_ZEROCOPY);
        assert!(driver.contains("driver") && driver.contains("copy mode"));
        let kernel = lacking(BindFlags::XDP_COPY);
        let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(kernel.contains("6.6") && kernel.contains(running.trim()));
    }
}
