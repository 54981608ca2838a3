//! A paced stream of UDP datagrams from one host to another, and how many of them arrived: the tester
//! of RFC 2544, as far as a program on the same machine can be one.
//!
//! Datagrams go out by `sendmmsg` in small bursts, at times that a clock says, and come in by
//! `recvmmsg`. Sender and receiver sleep whenever they can, and do not spin: the cores are those of what
//! they test. When the sender falls behind by more than a little it lets the time go, and what it offered counts.
//! UDP_SEGMENT is not used: each datagram passes the stack by itself.

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::guard::check;
use super::namespace::Namespace;

/// Datagrams of one system call, at most.
const BATCH: usize = 64;
/// The sender's clock ticks this often, unless single datagrams are rarer.
const TICK: Duration = Duration::from_micros(200);
/// What the sender may be behind before it lets the rest go.
const DEBT: Duration = Duration::from_millis(2);
/// The receiver looks this often: a wake-up for each datagram would cost the sender's core more than the
/// datagram does.
const LOOK: Duration = Duration::from_millis(1);
/// How long after the last datagram was sent others may still come.
const LINGER: Duration = Duration::from_millis(60);
/// Receive buffer: holds what comes while the receiver is not run for some milliseconds, and not what
/// it would need a second for.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;
/// The number of the trial and that of the datagram.
const HEAD: usize = 16;

/// Where datagrams go from and to.
#[derive(Debug)]
pub struct UdpPath {
    sender: UdpSocket,
    receiver: UdpSocket,
    trials: u64,
}

/// What became of the datagrams of one trial.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UdpTrial {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Datagrams that the receiving program got.
    pub received: u64,
    /// Datagrams that came as far as the receiver's socket, which was full.
    pub overflowed: u64,
    /// How long it was sent, in seconds.
    pub seconds: f64,
}

impl UdpTrial {
    /// Datagrams a second that were offered.
    pub fn offered(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// Datagrams a second that were received.
    pub fn arrived(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    /// The part that did not reach the receiving program, 0 to 1.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

impl UdpPath {
    /// A path from `from` to `to`, which has the address given.
    ///
    /// # Errors
    /// What the kernel answered: no route, or no such address.
    pub fn open(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<Self> {
        let receiver = to.run(|| {
            UdpSocket::bind((address, 0)).with_context(|| format!("binding UDP {address}"))
        })?;
        set_option(&receiver, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        let there = receiver.local_addr()?;
        let sender = from.run(|| {
            let any: IpAddr = match address {
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).context("binding UDP")?;
            socket
                .connect(there)
                .with_context(|| format!("a route to {there}"))?;
            Ok(socket)
        })?;
        // Never for ever in a send, whatever becomes of the path.
        sender.set_write_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self {
            sender,
            receiver,
            trials: 0,
        })
    }

    /// Sends datagrams of `payload` bytes (16 at least), `rate` of them a second (any number above
    /// what the machine can for as fast as it can), for `time`.
    ///
    /// # Errors
    /// What the kernel answered, other than that a queue was full; or that the run was interrupted.
    pub fn trial(&mut self, payload: usize, rate: f64, time: Duration) -> Result<UdpTrial> {
        check()?;
        ensure!(rate > 0.0, "a rate of {rate} datagrams a second");
        self.trials += 1;
        let trial = self.trials;
        let ended = AtomicBool::new(false);
        let received = AtomicU64::new(0);
        let before = overflows(&self.receiver)?;
        let (sender, receiver) = (&self.sender, &self.receiver);
        let sent = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(receiver, trial, &ended, &received));
            let sent = send(sender, trial, payload.max(HEAD), rate, time);
            std::thread::sleep(LINGER);
            ended.store(true, Ordering::Relaxed);
            match receiving.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            sent
        })?;
        Ok(UdpTrial {
            sent: sent.0,
            received: received.load(Ordering::Relaxed),
            overflowed: u64::from(overflows(&self.receiver)?.wrapping_sub(before)),
            seconds: sent.1.as_secs_f64(),
        })
    }
}

/// Buffers of one `sendmmsg` or `recvmmsg`, and the structures that point to them.
struct Batch {
    buffers: Vec<Vec<u8>>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new(size: usize) -> Self {
        let mut buffers = vec![vec![0; size]; BATCH];
        let mut vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all zeros is a value of this plain structure: no address, no control data.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self {
            buffers,
            vectors,
            headers,
        }
    }

    /// Sends the first `count` buffers; gives how many the kernel took.
    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        debug_assert_eq!(self.vectors.len(), self.headers.len());
        let count = count.min(self.headers.len());
        // SAFETY: the headers point to the vectors and these to the buffers, all of which live as
        // long as `self` and are never resized; `count` is within them.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives into the buffers what is there; an error when that is nothing.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: as for sending; the kernel writes within the lengths that the vectors give.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}

/// Gives how many datagrams went out, and in what time.
fn send(
    socket: &UdpSocket,
    trial: u64,
    payload: usize,
    rate: f64,
    time: Duration,
) -> Result<(u64, Duration)> {
    let mut batch = Batch::new(payload);
    for buffer in &mut batch.buffers {
        buffer[..8].copy_from_slice(&trial.to_le_bytes());
    }
    exact_timers();
    let burst = ((rate * TICK.as_secs_f64()).round().max(1.0) as usize).min(BATCH);
    let gap = Duration::from_secs_f64(burst as f64 / rate);
    let start = Instant::now();
    let (mut due, mut sent) = (start, 0u64);
    loop {
        let now = Instant::now();
        if now.duration_since(start) >= time {
            return Ok((sent, now.duration_since(start)));
        }
        let early = due.saturating_duration_since(now);
        if !early.is_zero() {
            std::thread::sleep(early);
            continue;
        }
        for (number, buffer) in (sent..).zip(&mut batch.buffers[..burst]) {
            buffer[8..HEAD].copy_from_slice(&number.to_le_bytes());
        }
        match batch.send(socket, burst) {
            Ok(count) => sent += count as u64,
            Err(error) => {
                let full = [libc::EAGAIN, libc::ENOBUFS, libc::ECONNREFUSED, libc::EINTR];
                let code = error.raw_os_error().unwrap_or(0);
                ensure!(full.contains(&code), "sending UDP: {error}");
            }
        }
        due = (due + gap).max(now.checked_sub(DEBT).unwrap_or(now));
    }
}

/// Counts datagrams of this trial until it has ended.
fn receive(socket: &UdpSocket, trial: u64, ended: &AtomicBool, received: &AtomicU64) -> Result<()> {
    let mut batch = Batch::new(2048);
    exact_timers();
    while !ended.load(Ordering::Relaxed) {
        match batch.receive(socket) {
            Ok(count) => {
                let mine = batch.buffers[..count].iter().zip(&batch.headers);
                let mine = mine.filter(|(buffer, header)| {
                    header.msg_len as usize >= HEAD && buffer[..8] == trial.to_le_bytes()
                });
                received.fetch_add(mine.count() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let empty = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
                ensure!(empty, "receiving UDP: {error}");
                std::thread::sleep(LOOK);
            }
        }
    }
    Ok(())
}

/// Has the calling thread woken when it asked to be, and not up to 50 us later.
fn exact_timers() {
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

fn set_option(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> Result<()> {
    // SAFETY: the value is as long as said.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    ensure!(
        answer == 0,
        "setsockopt {option} on a UDP socket: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Datagrams that a socket had no room for, so far (SO_MEMINFO).
fn overflows(socket: &UdpSocket) -> Result<u32> {
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = 8;
    let mut values = [0u32; DROPS + 1];
    let mut size = size_of::<[u32; DROPS + 1]>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the size given.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut size,
        )
    };
    ensure!(
        answer == 0,
        "SO_MEMINFO of a UDP socket: {}",
        io::Error::last_os_error()
    );
    Ok(values[DROPS])
}
