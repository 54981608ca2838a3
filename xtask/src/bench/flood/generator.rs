//! Generators: what sends a flood, in a thread of its own, until it is told to stop. Nothing is pinned:
//! generator, switches, Gateway and Workstations share the cores as the scheduler has it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use crate::attack::Writer;
use crate::rig::{Namespace, PacketSocket, interrupted};

/// Frames or datagrams of one system call.
const BATCH: usize = 64;
/// Memory of frames on their way: more than any queue in the LAN holds, so that those run full
/// before the generator waits.
const SEND_BUFFER: i32 = 16 << 20;
/// A generator that has less than this to do sleeps that long.
const NAP: Duration = Duration::from_micros(250);
/// What a generator may be behind its rate before it lets the rest go.
const DEBT: Duration = Duration::from_millis(5);

/// A flood under way.
pub(super) struct Generator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Frames a second; 0 for as many as can be.
    rate: AtomicU64,
    sent: AtomicU64,
}

impl Generator {
    /// Starts to send raw frames that `writer` makes, `rate` a second, or as many as can be: AF_PACKET,
    /// `sendmmsg`, past the queueing discipline.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn frames(
        host: &Namespace,
        interface: &str,
        rate: Option<u32>,
        mut writer: Writer,
    ) -> Result<Self> {
        let socket = PacketSocket::sender(host, interface)?;
        socket.send_buffer(SEND_BUFFER)?;
        Ok(Self::start(rate, move |shared| {
            let mut buffers = vec![Vec::new(); BATCH];
            let mut made = 0;
            run(shared, BATCH, |count| {
                for buffer in &mut buffers[..count] {
                    writer(made, buffer);
                    made += 1;
                }
                Ok(socket.send_batch(buffers[..count].iter().map(Vec::as_slice)))
            })
        }))
    }

    /// Starts to send UDP datagrams of `payload` bytes, as many as the host's socket takes: it waits
    /// where the way out is full, as any program does.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn datagrams(host: &Namespace, to: (Ipv4Addr, u16), payload: usize) -> Result<Self> {
        let socket = host.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding UDP")?;
            socket
                .connect(SocketAddr::from(to))
                .with_context(|| format!("a route to {}", to.0))?;
            Ok(socket)
        })?;
        // Not for ever, whatever becomes of the way out.
        socket.set_write_timeout(Some(Duration::from_millis(100)))?;
        let data = vec![0x5a; payload];
        Ok(Self::start(None, move |shared| {
            let slices = vec![[std::io::IoSlice::new(&data)]; BATCH];
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
            run(shared, BATCH, |_| {
                let (fd, nobody) = (socket.as_raw_fd(), [None; BATCH]);
                let flags = MsgFlags::empty();
                // What is full now has room later.
                Ok(sendmmsg(fd, &mut headers, &slices, nobody, [], flags)
                    .map_or(0, Iterator::count))
            })
        }))
    }

    fn start(rate: Option<u32>, body: impl FnOnce(&Shared) -> Result<()> + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            rate: AtomicU64::new(rate.unwrap_or(0).into()),
            ..Shared::default()
        });
        let theirs = Arc::clone(&shared);
        Self {
            shared,
            thread: Some(std::thread::spawn(move || body(&theirs))),
        }
    }

    /// Frames that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Changes the rate.
    pub(super) fn set_rate(&self, rate: Option<u32>) {
        let rate = rate.unwrap_or(0).into();
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Ends it.
    ///
    /// # Errors
    /// What kept it from sending.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(ended) => ended.map_err(|_| anyhow!("the generator panicked"))?,
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Calls `send` with how many are due, at most `batch`, until the flood ends; it says how many went.
fn run(shared: &Shared, batch: usize, mut send: impl FnMut(usize) -> Result<usize>) -> Result<()> {
    let mut pace = Pace::new(Instant::now());
    while !shared.stop.load(Ordering::Relaxed) && !interrupted() {
        let rate = shared.rate.load(Ordering::Relaxed);
        match pace.due(Instant::now(), rate, batch) {
            0 => std::thread::sleep(NAP),
            count => {
                shared
                    .sent
                    .fetch_add(send(count)? as u64, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// How many frames are due.
struct Pace {
    last: Instant,
    owed: f64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            last: now,
            owed: 0.0,
        }
    }

    /// How many to send now, at most `batch`; they count as sent. A rate of 0 is no limit.
    fn due(&mut self, now: Instant, rate: u64, batch: usize) -> usize {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if rate == 0 {
            self.owed = 0.0;
            return batch;
        }
        let rate = rate as f64;
        let most = DEBT.as_secs_f64() * rate;
        self.owed = (self.owed + passed.as_secs_f64() * rate).min(most);
        // A thousandth is what arithmetic loses, not what is missing.
        let count = ((self.owed + 1e-3) as usize).min(batch);
        self.owed -= count as f64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(pace: &mut Pace, now: Instant, rate: u64) -> usize {
        std::iter::from_fn(|| Some(pace.due(now, rate, 64)).filter(|&count| count > 0)).sum()
    }

    #[test]
    fn a_pace_is_kept_however_irregularly_it_is_asked() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut total = 0;
        for step in [1, 300, 7, 4000, 90, 2200, 3402] {
            now += Duration::from_micros(step);
            total += sent(&mut pace, now, 100_000);
        }
        assert_eq!(total, 1000);
    }

    #[test]
    fn what_a_long_wait_left_undone_is_not_made_up_for_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        now += Duration::from_secs(1);
        assert_eq!(sent(&mut pace, now, 100_000), 500);
        now += Duration::from_millis(1);
        assert_eq!(sent(&mut pace, now, 100_000), 100);
    }

    #[test]
    fn without_a_rate_there_is_always_a_batch_due_and_nothing_is_owed_afterwards() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.due(now, 0, 64), 64);
        let later = now + Duration::from_secs(9);
        assert_eq!(pace.due(later, 0, 64), 64);
        assert_eq!(pace.due(later, 100_000, 64), 0);
    }
}
