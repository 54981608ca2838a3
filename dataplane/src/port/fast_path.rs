//! A connected UDP socket with a fast path: its datagrams go by AF_XDP rings of the interface it leaves by, past the
//! kernel's stack, as long as it is known to which station.
//!
//! The socket stays what it is. It holds the address, and what does not come by the rings (because XDP did not
//! take it for a plain datagram of the flow, see [`wire::Flow`]) comes by it; and while the next station's
//! address is not known, or is due to be looked after, frames leave by it, for it is the kernel that asks and
//! answers for addresses. Either way a frame begins with the Portcullis header. What is before that on the rings is
//! written and passed over here.
//!
//! Who owns the port tells it the next station, and learns of rings that are of no more use, by a [`Lane`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::socket::{SocketFrame, SocketPort};
use super::xsk::{XskFrame, XskPort};
use super::{FrameCensus, Port, PortError, RingStatistics};
use crate::path::{Encapsulation, Path, UdpPath};

/// The socket is asked once in so many receives, unless something came by it just now: that is a system call.
const SOCKET_TURN: u32 = 16;
/// Frames that the rings leave to it then, or they could keep it from its turn for ever.
const SOCKET_SHARE: usize = 32;

/// What the port and who owns it tell each other. Nothing else depends on when either sees it.
#[derive(Debug, Default)]
pub struct Lane {
    /// The next station's MAC address; 0 while it is not known.
    next_hop: AtomicU64,
    /// The next frame leaves by the socket.
    by_socket: AtomicBool,
    /// Why the rings are of no more use, once they are.
    failure: OnceLock<String>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Lane {
    /// Where frames go from now on; `None`: by the socket.
    pub fn lead_to(&self, next_hop: Option<[u8; 6]>) {
        let [a, b, c, d, e, f] = next_hop.unwrap_or_default();
        let word = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.next_hop.store(word, Relaxed);
    }

    /// Has one frame leave by the socket, so that the kernel sees to it that the next station's address is right, and
    /// whoever counts connections by what the kernel sends that this one is alive.
    pub fn remind(&self) {
        self.by_socket.store(true, Relaxed);
    }

    /// Why the rings are of no more use, once they are. The socket goes on until the port is replaced.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether frames leave by the rings.
    pub fn leads(&self) -> bool {
        self.next_hop().is_some()
    }

    /// Frames that came and went by the rings.
    pub fn counts(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    fn next_hop(&self) -> Option<[u8; 6]> {
        match self.next_hop.load(Relaxed).to_le_bytes() {
            [0, 0, 0, 0, 0, 0, ..] => None,
            [a, b, c, d, e, f, ..] => Some([a, b, c, d, e, f]),
        }
    }
}

/// A token for one frame of a [`FastPathPort`].
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released is lost to its port"]
pub enum FastPathFrame {
    /// Of the rings.
    Rings(XskFrame),
    /// Of the socket.
    Socket(SocketFrame),
}

/// A connected UDP socket and the rings beside it, as one port.
pub struct FastPathPort {
    socket: SocketPort,
    rings: XskPort,
    /// Readable when either is.
    readable: Epoll,
    lane: Arc<Lane>,
    /// The interface's own address.
    mac: [u8; 6],
    path: UdpPath,
    /// Bytes before the Portcullis header.
    front: usize,
    capacity: usize,
    failed: bool,
    /// The frame that is to leave by the socket is being written.
    lent: bool,
    /// What waits on either side for the next flush: what comes after it on the other is not to pass it.
    by_rings: bool,
    by_socket: bool,
    turn: u32,
    /// Something came by the socket when it was last asked.
    busy_socket: bool,
    /// Frames that came and went by the rings.
    received: u64,
    sent: u64,
    // Room for what either receives at a time.
    from_rings: Vec<XskFrame>,
    from_socket: Vec<SocketFrame>,
}

impl FastPathPort {
    /// The two as one. The rings are those of the interface that the socket's datagrams leave by, whose address is
    /// `mac`.
    ///
    /// # Errors
    /// There is no epoll instance to be had.
    pub fn new(
        socket: SocketPort,
        rings: XskPort,
        mac: [u8; 6],
        lane: Arc<Lane>,
    ) -> io::Result<Self> {
        let path = UdpPath {
            next_hop: [0; 6],
            local: socket.local(),
            remote: socket.remote(),
        };
        let front = Path::Udp(path).front();
        let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for fd in [socket.poll_fd(), rings.poll_fd()].into_iter().flatten() {
            readable.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self {
            capacity: socket.capacity().min(rings.capacity() - front),
            socket,
            rings,
            readable,
            lane,
            mac,
            path,
            front,
            failed: false,
            lent: false,
            by_rings: false,
            by_socket: false,
            turn: 0,
            busy_socket: false,
            received: 0,
            sent: 0,
            from_rings: Vec::new(),
            from_socket: Vec::new(),
        })
    }

    /// The socket's own address.
    pub fn local(&self) -> std::net::SocketAddr {
        self.socket.local()
    }

    /// Flushes the rings. Where they fail it is the socket's alone from then on.
    fn flush_rings(&mut self) -> usize {
        self.by_rings = false;
        if self.failed {
            return 0;
        }
        match self.rings.flush() {
            Ok(waiting) => waiting,
            Err(error) => {
                self.failed = true;
                // Said once only.
                let _ = self.lane.failure.set(error.to_string());
                // They would be readable for ever.
                if let Some(fd) = self.rings.poll_fd() {
                    let _ = self.readable.delete(fd);
                }
                0
            }
        }
    }

    fn flush_socket(&mut self) -> Result<usize, PortError> {
        self.by_socket = false;
        self.socket.flush()
    }
}

impl Port for FastPathPort {
    type Frame = FastPathFrame;

    fn receive(&mut self, into: &mut Vec<FastPathFrame>, max: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.failed || self.busy_socket || self.turn.is_multiple_of(SOCKET_TURN);
        let share = if turn { SOCKET_SHARE.min(max / 2) } else { 0 };
        let mut count = 0;
        if !self.failed {
            count = self.rings.receive(&mut self.from_rings, max - share);
            into.extend(self.from_rings.drain(..).map(FastPathFrame::Rings));
            self.received += count as u64;
        }
        if turn && count < max {
            let more = self.socket.receive(&mut self.from_socket, max - count);
            into.extend(self.from_socket.drain(..).map(FastPathFrame::Socket));
            self.busy_socket = more > 0;
            count += more;
        }
        count
    }

    #[inline]
    fn reserve(&mut self) -> Option<FastPathFrame> {
        let due = !self.lent && self.lane.by_socket.load(Relaxed);
        if !self.failed
            && !due
            && let Some(next_hop) = self.lane.next_hop()
        {
            self.path.next_hop = next_hop;
            let mut frame = self.rings.reserve()?;
            self.rings.set_len(&mut frame, self.front);
            return Some(FastPathFrame::Rings(frame));
        }
        let frame = self.socket.reserve()?;
        self.lent = true;
        Some(FastPathFrame::Socket(frame))
    }

    #[inline]
    fn release(&mut self, frame: FastPathFrame) {
        match frame {
            FastPathFrame::Rings(frame) => self.rings.release(frame),
            FastPathFrame::Socket(frame) => {
                self.lent = false;
                self.socket.release(frame);
            }
        }
    }

    #[inline]
    fn send(&mut self, frame: FastPathFrame) -> Result<(), FastPathFrame> {
        match frame {
            FastPathFrame::Rings(mut frame) => {
                if self.by_socket {
                    // What fails here fails again in the next flush, which tells.
                    let _ = self.flush_socket();
                }
                let path = Path::Udp(self.path);
                let data = self.rings.data_mut(&mut frame);
                path.write(data, self.mac, Encapsulation::Udp);
                path.finish(data);
                self.rings.send(frame).map_err(FastPathFrame::Rings)?;
                self.sent += 1;
                self.by_rings = true;
                Ok(())
            }
            FastPathFrame::Socket(frame) => {
                if self.by_rings {
                    self.flush_rings();
                }
                self.lane.by_socket.store(false, Relaxed);
                self.lent = false;
                self.by_socket = true;
                self.socket.send(frame).map_err(FastPathFrame::Socket)
            }
        }
    }

    fn flush(&mut self) -> Result<usize, PortError> {
        self.lane.received.store(self.received, Relaxed);
        self.lane.sent.store(self.sent, Relaxed);
        let waiting = self.flush_rings();
        Ok(waiting + self.flush_socket()?)
    }

    #[inline]
    fn data<'a>(&'a self, frame: &'a FastPathFrame) -> &'a [u8] {
        match frame {
            FastPathFrame::Rings(frame) => {
                let data = self.rings.data(frame);
                data.get(self.front..).unwrap_or_default()
            }
            FastPathFrame::Socket(frame) => self.socket.data(frame),
        }
    }

    #[inline]
    fn data_mut<'a>(&'a mut self, frame: &'a mut FastPathFrame) -> &'a mut [u8] {
        match frame {
            FastPathFrame::Rings(frame) => {
                let data = self.rings.data_mut(frame);
                data.get_mut(self.front..).unwrap_or_default()
            }
            FastPathFrame::Socket(frame) => self.socket.data_mut(frame),
        }
    }

    #[inline]
    fn set_len(&mut self, frame: &mut FastPathFrame, len: usize) {
        match frame {
            FastPathFrame::Rings(frame) => {
                let len = len.min(self.capacity);
                self.rings.set_len(frame, self.front + len);
            }
            FastPathFrame::Socket(frame) => self.socket.set_len(frame, len),
        }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn statistics(&self) -> RingStatistics {
        let (socket, rings) = (self.socket.statistics(), self.rings.statistics());
        let (a, b) = (socket.frames, rings.frames);
        RingStatistics {
            rx_ring_full: socket.rx_ring_full + rings.rx_ring_full,
            fill_ring_empty: socket.fill_ring_empty + rings.fill_ring_empty,
            rx_dropped: socket.rx_dropped + rings.rx_dropped,
            tx_invalid: socket.tx_invalid + rings.tx_invalid,
            frames: FrameCensus {
                receiving: a.receiving + b.receiving,
                sending: a.sending + b.sending,
                held: a.held + b.held,
                stash: a.stash + b.stash,
                free: a.free + b.free,
            },
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readable.0.as_fd())
    }
}
