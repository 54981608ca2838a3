//! Generators: what sends a flood, in a thread of its own, until it is told to stop. Nothing is pinned:
//! generator, switches, Gateway and Workstations share the cores as the scheduler has it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use crate::attack::Writer;
use crate::rig::{Namespace, PacketSocket, interrupted};

/// Frames of one system call.
const BATCH: usize = 64;
/// Memory of frames on their way: more than any queue in the LAN holds, so that those run full
/// before the generator waits.
const SEND_BUFFER: i32 = 16 << 20;
/// What a generator may be behind its rate before it lets the rest go.
const DEBT: Duration = Duration::from_millis(5);

/// A flood under way.
pub(super) struct Generator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<f64>>,
}

impl Generator {
    /// Starts to send raw frames that `writer` makes, `rate` a second or as many as it can: AF_PACKET,
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
        let mut buffers = vec![Vec::new(); BATCH];
        let mut made = 0;
        Ok(Self::start(rate, move |count| {
            for buffer in &mut buffers[..count] {
                writer(made, buffer);
                made += 1;
            }
            socket.send_batch(buffers[..count].iter().map(Vec::as_slice))
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
        Ok(Self::start(None, move |count| {
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(count, None);
            let slices = vec![[std::io::IoSlice::new(&data)]; count];
            let nobody = vec![None; count];
            sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &slices,
                &nobody,
                [],
                MsgFlags::empty(),
            )
            .map_or(0, Iterator::count)
        }))
    }

    /// Calls `send` with how many are to go, and adds up what it says went.
    fn start(rate: Option<u32>, mut send: impl FnMut(usize) -> usize + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // What is heard before the first frame is made is not the time of the flood.
            let mut sent = send(1);
            let begin = Instant::now();
            let mut pace = Pace::new(rate);
            while !stopped.load(Ordering::Relaxed) && !interrupted() {
                match pace.due(begin.elapsed()) {
                    0 => std::thread::sleep(Duration::from_micros(100)),
                    count => sent += send(count),
                }
            }
            sent as f64 / begin.elapsed().as_secs_f64()
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it and gives the frames a second that the host's kernel took.
    ///
    /// # Errors
    /// When its thread panicked.
    pub(super) fn finish(mut self) -> Result<f64> {
        self.end().context("the generator ended before")
    }

    fn end(&mut self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("no generator")?;
        thread.join().map_err(|_| anyhow!("the generator panicked"))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// How many frames are due.
struct Pace {
    rate: Option<f64>,
    done: u64,
    /// What was let go.
    forgiven: f64,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self {
            rate: rate.map(f64::from),
            done: 0,
            forgiven: 0.0,
        }
    }

    /// How many to send now, at most a batch; they count as sent.
    fn due(&mut self, elapsed: Duration) -> usize {
        let Some(rate) = self.rate else {
            return BATCH;
        };
        let mut owed = elapsed.as_secs_f64() * rate - self.forgiven - self.done as f64;
        let most = DEBT.as_secs_f64() * rate;
        if owed > most {
            self.forgiven += owed - most;
            owed = most;
        }
        let count = (owed.max(0.0) as usize).min(BATCH);
        self.done += count as u64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(pace: &mut Pace, at: Duration) -> usize {
        std::iter::from_fn(|| Some(pace.due(at)).filter(|&count| count > 0)).sum()
    }

    #[test]
    fn a_pace_is_kept_however_irregularly_it_is_asked() {
        let mut pace = Pace::new(Some(100_000));
        let mut total = 0;
        let mut at = Duration::ZERO;
        for step in [1, 300, 7, 4000, 90, 2200, 3402] {
            at += Duration::from_micros(step);
            total += sent(&mut pace, at);
        }
        assert_eq!((at, total), (Duration::from_millis(10), 1000));
    }

    #[test]
    fn what_a_long_wait_left_undone_is_not_made_up_for_at_once() {
        let mut pace = Pace::new(Some(100_000));
        assert_eq!(sent(&mut pace, Duration::from_secs(1)), 500);
        assert_eq!(sent(&mut pace, Duration::from_millis(1001)), 100);
    }

    #[test]
    fn without_a_rate_there_is_always_a_batch_due() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.due(Duration::ZERO), BATCH);
        assert_eq!(pace.due(Duration::ZERO), BATCH);
    }
}
