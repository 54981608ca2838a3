//! A port on AF_XDP: one socket per receive queue of an interface, each with memory of its own.
//!
//! Frames arrive here when the XDP program on the interface redirects them to the socket of their
//! queue ([`XskPort::sockets`] is what goes into its XSKMAP); the program itself is attached
//! elsewhere, never by this port. What is sent goes to the driver past the kernel's stack.
//!
//! A frame stays in the UMEM of its queue: received frames can be sent on only by the queue they
//! came from, and [`Port::reserve`] decides by which queue a new one leaves. Frames of one queue
//! stay in order; between queues there is no order.
//!
//! A frame that does not fit one chunk of the UMEM (at most a page) comes as several descriptors in a
//! row, and is sent as such (kernel 6.6 and later). Its token's bytes are one slice all the same:
//! such a frame is copied once, others never are.
//!
//! The link must be up (a bind is refused with ENETDOWN otherwise), and the fill ring is full before the
//! bind: see `fill`.

mod bind;
mod descriptor;
mod fill;
mod queue;

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{io, thread};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::BindToDevice;

use self::queue::{Held, Queue};
use super::{FrameCensus, Port, PortError, RingStatistics, ethtool};

/// How the kernel moves frames between the driver and the UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Zero-copy where the driver has it, else copy.
    #[default]
    Auto,
    /// Copy, which works on every driver.
    Copy,
    /// Zero-copy, or the port does not open.
    ZeroCopy,
}

/// The queue new frames leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transmit {
    /// The first, so that everything sent stays in order.
    #[default]
    First,
    /// Another one after each flush. Frames of one batch stay in order, batches may pass each other.
    Rotate,
}

/// The kernel polls a queue when its worker asks, instead of when the NIC interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// Microseconds of one poll (SO_BUSY_POLL).
    pub microseconds: u32,
    /// Frames of one poll (SO_BUSY_POLL_BUDGET).
    pub budget: u32,
    /// Whether interrupts are held back while it is polled (SO_PREFER_BUSY_POLL).
    pub prefer: bool,
}

/// How to open an [`XskPort`].
#[derive(Debug, Clone)]
pub struct XskConfig {
    /// The interface, by name, in the network namespace of the calling thread.
    pub interface: String,
    /// Entries of the receive, send and completion rings: a power of two. The fill ring has twice as
    /// many, and the UMEM three times as many frames.
    pub ring_size: u32,
    /// Bytes of a UMEM frame, 2048 or 4096; `None` for what the MTU needs. In zero-copy it may be more, so that
    /// no NIC cuts a frame in two.
    pub frame_size: Option<u32>,
    /// How frames are moved.
    pub mode: Mode,
    /// Whether the UMEM should lie in 2 MiB pages. Where none are to be had a warning is logged and
    /// ordinary pages are used.
    pub huge_pages: bool,
    /// Frames the kernel sends per system call in copy mode, where it lets that be set (otherwise
    /// 32).
    pub tx_budget: u32,
    /// Busy polling, which needs CAP_NET_ADMIN; the port works without where the kernel refuses it.
    pub busy_poll: Option<BusyPoll>,
    /// The queues to bind; `None` for all the interface has.
    pub queues: Option<Range<u32>>,
    /// The queue new frames leave by.
    pub transmit: Transmit,
    /// How long to wait for a queue that another socket has only just left (EBUSY).
    pub patience: Duration,
}

impl XskConfig {
    /// The usual configuration for `interface`.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            ring_size: 2048,
            frame_size: None,
            mode: Mode::Auto,
            huge_pages: false,
            tx_budget: 64,
            busy_poll: None,
            queues: None,
            transmit: Transmit::First,
            patience: Duration::from_secs(2),
        }
    }
}

/// Why a port did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Frames of the MTU would be larger than any that a port carries.
    #[error(
        "the MTU of {interface} is {mtu}, and the largest a port can carry is {largest}; set it lower (ip link set dev {interface} mtu {largest})"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that works.
        largest: u32,
    },
    /// Frames of the MTU do not fit a page, and come and go in several pieces: not every kernel and
    /// driver can do that.
    #[error(
        "{call} for {interface} queue {queue}: {source}; frames of its MTU, {mtu}, come in several pieces, and {lacking}; set the MTU lower (ip link set dev {interface} mtu {largest})"
    )]
    InPieces {
        /// The call.
        call: &'static str,
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
        /// The interface's MTU.
        mtu: u32,
        /// What cannot do it.
        lacking: String,
        /// The largest MTU that needs no pieces.
        largest: u32,
    },
    /// Zero-copy is asked for, and the frames of the MTU do not fit a NIC's receive buffer.
    #[error(
        "the MTU of {interface} is {mtu}, and some NICs cut frames of more than {largest} in zero-copy; set it lower (ip link set dev {interface} mtu {largest}), or let frames be copied"
    )]
    Cut {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that is received whole.
        largest: u32,
    },
    /// The frame size asked for does not hold a frame of the interface's MTU, or is none.
    #[error(
        "frames of {frame_size} bytes cannot carry the MTU of {interface}, {mtu}; use {needed}, or leave the size out"
    )]
    FrameSize {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// What was asked for.
        frame_size: u32,
        /// What the MTU needs.
        needed: u32,
    },
    /// The ring size is not one.
    #[error("a ring of {ring_size} entries is not possible; use a power of two from 64 to 32768")]
    RingSize {
        /// What was asked for.
        ring_size: u32,
    },
    /// The interface does not have the queues asked for.
    #[error(
        "{interface} has {available} receive queues, which does not include {} to {}; see ethtool -l {interface}",
        asked.start, asked.end
    )]
    Queues {
        /// The interface.
        interface: String,
        /// What was asked for.
        asked: Range<u32>,
        /// How many there are.
        available: u32,
    },
    /// A call failed.
    #[error("{call} for {interface} queue {queue}: {source}; {remedy}")]
    Call {
        /// The call.
        call: &'static str,
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// How many frames of the MTU of an interface a receive ring of `ring_size` entries holds.
pub fn ring_frames(ring_size: u32, mtu: u32) -> u32 {
    ring_size / bind::pieces(mtu)
}

/// An AF_XDP socket for someone without the privilege to make one: it can be bound to this interface
/// only (from Linux 6.5 on, which heeds SO_BINDTODEVICE), and polls as asked where the kernel lets it.
///
/// # Errors
/// What the kernel answered.
pub fn socket_for(interface: &str, busy_poll: Option<&BusyPoll>) -> io::Result<OwnedFd> {
    let socket = bind::socket()?;
    setsockopt(&socket, BindToDevice, &interface.into())?;
    if let Some(polling) = busy_poll {
        // The port says so in the log, and works without.
        let _ = bind::set_busy_poll(socket.as_fd(), polling);
    }
    Ok(socket)
}

/// A token for one frame of an [`XskPort`].
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released is lost to its port"]
pub struct XskFrame {
    held: Held,
    owner: u32,
    queue: u16,
    received: bool,
}

/// An interface's AF_XDP sockets as one port.
pub struct XskPort {
    id: u32,
    interface: Arc<str>,
    queues: Vec<Queue>,
    /// Readable when one of several queues is; a single queue is waited on itself.
    readable: Option<Epoll>,
    next_receive: usize,
    next_transmit: usize,
    transmit: Transmit,
    capacity: usize,
    /// Receives in a row that brought nothing.
    idle: u32,
    /// The queue whose socket is unbound for good, once one is.
    gone: Option<u32>,
}

/// Receives without a frame after which the sockets are asked how they are. A socket whose interface
/// is gone is "readable" for ever, so this bounds how long a worker turns in vain.
const IDLE_BEFORE_CHECK: u32 = 64;

impl XskPort {
    /// Binds a socket to every queue of the interface and fills their fill rings.
    ///
    /// # Errors
    /// When the interface, its MTU or its queues do not allow it, or the kernel refuses.
    pub fn open(config: &XskConfig) -> Result<Self, OpenError> {
        static IDS: AtomicU32 = AtomicU32::new(0);
        if !(64..=32768).contains(&config.ring_size) || !config.ring_size.is_power_of_two() {
            return Err(OpenError::RingSize {
                ring_size: config.ring_size,
            });
        }
        let interface: Arc<str> = config.interface.as_str().into();
        let sizes = bind::sizes(config)?;
        let mut queues = Vec::new();
        for number in bind::queue_numbers(config)? {
            queues.push(bind::open(config, &interface, number, &sizes)?);
        }
        let readable = match queues.as_slice() {
            [] | [_] => None,
            several => Some(watch(several).map_err(|error| OpenError::Call {
                call: "epoll_create1 or epoll_ctl",
                interface: config.interface.clone(),
                queue: 0,
                source: error,
                remedy: "raise the limit of open files (ulimit -n)",
            })?),
        };
        Ok(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            interface,
            capacity: sizes.capacity(),
            queues,
            readable,
            next_receive: 0,
            next_transmit: 0,
            transmit: config.transmit,
            idle: 0,
            gone: None,
        })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The sockets for the XSKMAP, each with its queue's number, which is its key there.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues.iter().map(|queue| (queue.number, queue.fd()))
    }

    /// The descriptors that become readable when frames have been received, one per queue.
    pub fn poll_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(Queue::fd)
    }

    /// Whether every queue is in zero-copy mode, as the kernel tells it.
    pub fn is_zero_copy(&self) -> bool {
        self.queues.iter().all(|queue| queue.zero_copy)
    }

    /// Whether every UMEM lies in huge pages.
    pub fn is_in_huge_pages(&self) -> bool {
        self.queues.iter().all(|queue| queue.huge_pages)
    }

    /// Whether the kernel has taken busy polling for every queue.
    pub fn is_busy_polled(&self) -> bool {
        self.queues.iter().all(|queue| queue.busy_poll)
    }

    /// Frames the kernel sends per system call in copy mode.
    pub fn tx_budget(&self) -> u32 {
        self.queues.first().map_or(0, |queue| queue.tx_budget)
    }

    /// Asks every socket how it is. [`Port::flush`] does it by itself once in a while when nothing is
    /// received.
    ///
    /// # Errors
    /// [`PortError::Down`] or [`PortError::Gone`].
    pub fn check(&mut self) -> Result<(), PortError> {
        self.still_there()?;
        for queue in &self.queues {
            let answer = queue.check();
            self.gone = self.gone.or(gone(&answer));
            answer?;
        }
        Ok(())
    }

    fn still_there(&self) -> Result<(), PortError> {
        match self.gone {
            None => Ok(()),
            Some(queue) => Err(PortError::of(&self.interface, queue, "bind", libc::ENXIO)),
        }
    }

    #[inline]
    fn own(&self, frame: &XskFrame) {
        assert_eq!(frame.owner, self.id, "the frame belongs to another port");
    }
}

fn gone(answer: &Result<impl Sized, PortError>) -> Option<u32> {
    match answer {
        Err(PortError::Gone { queue, .. }) => Some(*queue),
        _ => None,
    }
}

fn watch(queues: &[Queue]) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for queue in queues {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::from(queue.number));
        epoll.add(queue.fd(), event)?;
    }
    Ok(epoll)
}

impl Drop for XskPort {
    fn drop(&mut self) {
        // The kernel waits about 14 ms for each socket that closes; let them wait together.
        let mut queues = self.queues.drain(..);
        let first = queues.next();
        thread::scope(|scope| {
            for queue in queues {
                // Without another thread (the closure comes back unrun) it is closed right here.
                let _ = thread::Builder::new().spawn_scoped(scope, move || drop(queue));
            }
            drop(first);
        });
    }
}

impl Port for XskPort {
    type Frame = XskFrame;

    fn receive(&mut self, into: &mut Vec<XskFrame>, max: usize) -> usize {
        let mut count = 0;
        let queues = self.queues.len();
        for turn in 0..queues {
            let index = (self.next_receive + turn) % queues;
            count += self.queues[index].receive(max - count, |held| {
                into.push(XskFrame {
                    held,
                    owner: self.id,
                    queue: index as u16,
                    received: true,
                });
            });
            if count == max {
                break;
            }
        }
        self.next_receive = (self.next_receive + 1) % queues.max(1);
        self.idle = if count == 0 {
            self.idle.saturating_add(1)
        } else {
            0
        };
        count
    }

    #[inline]
    fn reserve(&mut self) -> Option<XskFrame> {
        let held = self.queues.get_mut(self.next_transmit)?.reserve()?;
        Some(XskFrame {
            held,
            owner: self.id,
            queue: self.next_transmit as u16,
            received: false,
        })
    }

    #[inline]
    fn release(&mut self, frame: XskFrame) {
        self.own(&frame);
        self.queues[usize::from(frame.queue)].release(frame.held, frame.received);
    }

    #[inline]
    fn send(&mut self, frame: XskFrame) -> Result<(), XskFrame> {
        self.own(&frame);
        let XskFrame {
            held,
            owner,
            queue,
            received,
        } = frame;
        let sent = self.queues[usize::from(queue)].send(held, received);
        sent.map_err(|held| XskFrame {
            held,
            owner,
            queue,
            received,
        })
    }

    fn flush(&mut self) -> Result<usize, PortError> {
        self.still_there()?;
        let mut left = 0;
        let mut failure = None;
        for queue in &mut self.queues {
            match queue.flush() {
                Ok(waiting) => left += waiting,
                Err(error) => failure = Some(error),
            }
        }
        if self.transmit == Transmit::Rotate {
            self.next_transmit = (self.next_transmit + 1) % self.queues.len().max(1);
        }
        let answer = match failure {
            None => Ok(left),
            Some(error) => Err(error),
        };
        self.gone = gone(&answer);
        if self.idle >= IDLE_BEFORE_CHECK {
            self.idle = 0;
            self.check()?;
        }
        answer
    }

    #[inline]
    fn data<'a>(&'a self, frame: &'a XskFrame) -> &'a [u8] {
        self.own(frame);
        self.queues[usize::from(frame.queue)].data(&frame.held)
    }

    #[inline]
    fn data_mut<'a>(&'a mut self, frame: &'a mut XskFrame) -> &'a mut [u8] {
        self.own(frame);
        self.queues[usize::from(frame.queue)].data_mut(&mut frame.held)
    }

    #[inline]
    fn set_len(&mut self, frame: &mut XskFrame, len: usize) {
        self.own(frame);
        self.queues[usize::from(frame.queue)].set_len(&mut frame.held, len.min(self.capacity));
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn statistics(&self) -> RingStatistics {
        let mut sum = RingStatistics::default();
        for queue in &self.queues {
            let frames = queue.census();
            sum.frames = FrameCensus {
                receiving: sum.frames.receiving + frames.receiving,
                sending: sum.frames.sending + frames.sending,
                held: sum.frames.held + frames.held,
                stash: sum.frames.stash + frames.stash,
                free: sum.frames.free + frames.free,
            };
            sum.rx_dropped += queue.too_large();
            // A socket that cannot be asked any more has nothing to add.
            let Ok(kernel) = queue.kernel_statistics() else {
                continue;
            };
            let no_buffer = kernel.rx_fill_ring_empty_descs();
            // In copy mode the kernel counts a frame that it had no buffer for as dropped too.
            let dropped = match queue.zero_copy {
                true => kernel.rx_dropped(),
                false => kernel.rx_dropped().saturating_sub(no_buffer),
            };
            sum.rx_ring_full += kernel.rx_ring_full();
            sum.fill_ring_empty += no_buffer;
            sum.rx_dropped += dropped + kernel.rx_invalid_descs();
            sum.tx_invalid += kernel.tx_invalid_descs();
        }
        sum
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.readable {
            Some(epoll) => Some(epoll.0.as_fd()),
            None => self.queues.first().map(Queue::fd),
        }
    }
}

impl std::fmt::Debug for XskPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XskPort")
            .field("interface", &self.interface)
            .field(
                "sockets",
                &self
                    .sockets()
                    .map(|(queue, fd)| (queue, fd.as_raw_fd()))
                    .collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}
