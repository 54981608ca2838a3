//! A port on an ordinary UDP socket, connected to the other end: for a Workstation that is behind someone
//! else's NAT and may not open AF_XDP sockets.
//!
//! A frame begins with the Portcullis header; what is before it on the wire is the kernel's. Nothing is
//! needed of the kernel but UDP: where it has UDP_GRO and UDP_SEGMENT (Linux 5.0 and 4.18), frames
//! come and go as trains of up to 64 KiB, and else one by one. A train that was received
//! is not taken apart by copying: see `store`.
//!
//! What comes back by ICMP is counted and never believed: it can be forged, and it is for the tunnel to
//! find out whether the other end is there, and how large a packet may be. So packets are sent with
//! DF set and without regard to the kernel's path MTU. See `outbox`.
//!
//! A link that is down or gone is an error of [`Port::flush`], as with any port; a network that cannot be
//! reached is not, but costs the frames.
//!
//! No call waits, and nothing is allocated for a frame.

mod message;
mod options;
mod outbox;
mod store;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::message::MOST_RECEIVED;
use self::outbox::Outbox;
use self::store::{Place, Store};
use super::pool::Pool;
use super::{Port, PortError, RingStatistics};

pub use self::options::{SocketConfig, SocketError, socket_for};

/// Answers in a row that are no frames after which [`Port::receive`] leaves it to the next call.
const PATIENCE: u32 = 4;

/// How much memory a [`SocketPort`] has. The kernel provides it when it is first used, and what was used
/// last is used first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMemory {
    /// Frames in all. Half of them are to receive into.
    pub frames: u32,
    /// Bytes of the largest frame.
    pub capacity: usize,
    /// Buffers of 64 KiB for trains.
    pub trains: u16,
}

impl Default for SocketMemory {
    /// 1024 frames of 9256 bytes (9.1 MiB) and 32 buffers (2.1 MiB).
    fn default() -> Self {
        Self {
            frames: 1024,
            capacity: 9256,
            trains: 32,
        }
    }
}

/// What went wrong and what went well, since the port was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounts {
    /// Errors that the kernel told: unreachable, refused, forbidden, too large. Most come by ICMP.
    pub refusals: u64,
    /// Frames dropped because they are larger than the interface's MTU.
    pub too_large: u64,
    /// Frames dropped because the kernel refused them twice.
    pub refused: u64,
    /// Messages of several frames that were received.
    pub trains_received: u64,
    /// Messages of several frames that were sent.
    pub trains_sent: u64,
    /// Buffers in use just now: received trains of which frames are held, sent or still to be taken.
    pub buffers_used: usize,
}

/// A token for one frame of a [`SocketPort`].
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released is lost to its port"]
pub struct SocketFrame {
    place: Place,
    owner: u32,
    received: bool,
}

/// A connected UDP socket as a port.
pub struct SocketPort {
    id: u32,
    /// For errors: the interface it is bound to, or where it goes.
    name: Arc<str>,
    socket: OwnedFd,
    local: SocketAddr,
    remote: SocketAddr,
    store: Store,
    /// Where the slots are.
    pool: Pool<u32>,
    /// Slots to receive into.
    fill: Vec<u32>,
    outbox: Outbox,
    /// Frames of a message, as of late.
    per_message: usize,
    /// Errors told when frames were asked for.
    refusals: u64,
    trains_received: u64,
    /// Times that frames had come and all slots were held.
    starved: u64,
}

impl SocketPort {
    /// Opens a socket and connects it.
    ///
    /// # Errors
    /// When addresses or sizes do not go together, or the kernel refuses.
    pub fn open(config: &SocketConfig, memory: &SocketMemory) -> Result<Self, SocketError> {
        check(memory)?;
        let socket = socket_for(config)?;
        let mut port = Self::from_socket(socket, memory)?;
        port.outbox = Outbox::new(memory.frames as usize, config.trains);
        if let Some(interface) = &config.interface {
            port.name = interface.as_str().into();
        }
        Ok(port)
    }

    /// A port on a socket that was made elsewhere, as by [`socket_for`].
    ///
    /// # Errors
    /// When it is no connected UDP socket, or the sizes do not go together.
    pub fn from_socket(socket: OwnedFd, memory: &SocketMemory) -> Result<Self, SocketError> {
        static IDS: AtomicU32 = AtomicU32::new(0);
        check(memory)?;
        let (local, remote) = options::adopt(&socket)?;
        let SocketMemory {
            frames,
            capacity,
            trains,
        } = *memory;
        let store = Store::new(frames, trains, capacity).map_err(|source| SocketError::Call {
            call: "madvise".into(),
            remote,
            source,
            remedy: "give it less memory",
        })?;
        let mut port = Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            name: format!("the socket to {remote}").into(),
            socket,
            local,
            remote,
            store,
            // The first are used first.
            pool: Pool::new((0..frames).rev().collect(), frames as usize / 2),
            fill: Vec::with_capacity(frames as usize),
            outbox: Outbox::new(frames as usize, true),
            per_message: 1,
            refusals: 0,
            trains_received: 0,
            starved: 0,
        };
        port.refill();
        Ok(port)
    }

    /// Its own address, as the kernel chose it when the socket was connected. It stays so: on a machine
    /// that has it no more IPv4 is refused and IPv6 sent in vain, neither of which can be told from
    /// other trouble, so whoever owns the port should watch for that and open another one.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Bytes of receive buffer that the kernel has given, of which its own books take a part.
    pub fn receive_buffer(&self) -> usize {
        options::receive_buffer(&self.socket)
    }

    /// Whether frames are sent as trains, which may have been found not to work.
    pub fn sends_trains(&self) -> bool {
        self.outbox.sends_trains()
    }

    /// What went wrong and what went well.
    pub fn counts(&self) -> SocketCounts {
        SocketCounts {
            refusals: self.refusals + self.outbox.refusals,
            too_large: self.outbox.too_large,
            refused: self.outbox.dropped,
            trains_received: self.trains_received,
            trains_sent: self.outbox.trains_sent,
            buffers_used: self.store.used(),
        }
    }

    #[inline]
    fn own(&self, frame: &SocketFrame) {
        assert_eq!(frame.owner, self.id, "the frame belongs to another port");
    }

    #[inline]
    fn refill(&mut self) {
        let count = self.pool.stash().len();
        if count > 0 {
            self.fill.extend(self.pool.filled(count));
        }
    }

    /// Appends up to `max` frames of the messages that have landed.
    fn take(&mut self, into: &mut Vec<SocketFrame>, max: usize) -> usize {
        let before = into.len();
        let (owner, fill) = (self.id, &mut self.fill);
        let frames = std::iter::from_fn(|| self.store.take(|| fill.pop()));
        into.extend(frames.take(max).map(|place| SocketFrame {
            place,
            owner,
            received: true,
        }));
        let count = into.len() - before;
        self.pool.received(count);
        count
    }

    /// Has messages land that bring about `frames` frames. Whether more may be waiting.
    fn land(&mut self, frames: usize) -> Result<bool, i32> {
        let most = frames.div_ceil(self.per_message).clamp(1, MOST_RECEIVED);
        let received = message::receive(self.socket.as_fd(), &mut self.store, most)?;
        let mut count = 0;
        for message in &received {
            if message.cut {
                self.store.cut();
                continue;
            }
            let frames = self
                .store
                .landed(message.train, message.len, message.segment);
            self.trains_received += u64::from(frames > 1);
            count += frames;
        }
        self.per_message = (count / received.len().max(1)).max(1);
        Ok(received.len() == most)
    }
}

/// Whether a port can be made of it.
fn check(memory: &SocketMemory) -> Result<(), SocketError> {
    let SocketMemory {
        frames,
        capacity,
        trains,
    } = *memory;
    let possible = (64..=1 << 16).contains(&frames)
        && (64..=65_507).contains(&capacity)
        && (2..=1024).contains(&trains)
        && Store::size(frames, trains, capacity).is_some();
    if !possible {
        return Err(SocketError::Sizes {
            frames,
            capacity,
            trains,
        });
    }
    Ok(())
}

impl Port for SocketPort {
    type Frame = SocketFrame;

    fn receive(&mut self, into: &mut Vec<SocketFrame>, max: usize) -> usize {
        self.refill();
        let (mut count, mut errors) = (0, 0);
        let mut more = true;
        loop {
            count += self.take(into, max - count);
            if count == max {
                break;
            }
            if self.store.has_arrived() {
                // Every slot is held.
                self.starved += 1;
                break;
            }
            if !more {
                break;
            }
            match self.land(max - count) {
                Ok(maybe) => more = maybe,
                Err(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => break,
                Err(_) => {
                    // It is about something sent earlier, and is told once.
                    self.refusals += 1;
                    errors += 1;
                    if errors == PATIENCE {
                        break;
                    }
                }
            }
        }
        count
    }

    #[inline]
    fn reserve(&mut self) -> Option<SocketFrame> {
        let slot = self.pool.reserve()?;
        Some(SocketFrame {
            place: self.store.empty(slot),
            owner: self.id,
            received: false,
        })
    }

    #[inline]
    fn release(&mut self, frame: SocketFrame) {
        self.own(&frame);
        self.store.leave(&frame.place);
        self.pool.release(frame.place.slot(), frame.received);
    }

    #[inline]
    fn send(&mut self, frame: SocketFrame) -> Result<(), SocketFrame> {
        self.own(&frame);
        self.pool.sent(frame.received);
        self.outbox.push(frame.place);
        Ok(())
    }

    fn flush(&mut self) -> Result<usize, PortError> {
        let (store, socket) = (&self.store, self.socket.as_fd());
        let send =
            |frames: &[Place], messages: &[_]| message::send(socket, store, frames, messages);
        let (done, outcome) = self.outbox.flush(send);
        for place in done {
            self.store.leave(&place);
            self.pool.completed(place.slot());
        }
        self.refill();
        outcome.map_err(|errno| PortError::of(&self.name, 0, "sendmmsg", errno))
    }

    #[inline]
    fn data<'a>(&'a self, frame: &'a SocketFrame) -> &'a [u8] {
        self.own(frame);
        self.store.data(&frame.place)
    }

    #[inline]
    fn data_mut<'a>(&'a mut self, frame: &'a mut SocketFrame) -> &'a mut [u8] {
        self.own(frame);
        self.store.data_mut(&frame.place)
    }

    #[inline]
    fn set_len(&mut self, frame: &mut SocketFrame, len: usize) {
        self.own(frame);
        self.store.set_len(&mut frame.place, len);
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.store.capacity()
    }

    fn statistics(&self) -> RingStatistics {
        RingStatistics {
            rx_ring_full: options::drops(&self.socket),
            fill_ring_empty: self.starved,
            rx_dropped: self.store.dropped(),
            tx_invalid: self.outbox.too_large + self.outbox.dropped,
            frames: self.pool.census(),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
