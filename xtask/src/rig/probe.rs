//! A probe that sends a numbered datagram every millisecond and has it echoed: how long an outage
//! lasts, and whether anything was lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use nix::poll::{PollFd, PollFlags, ppoll};

use super::namespace::Namespace;

/// How often a probe looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A UDP echo server on every address of a host, until it is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| {
            UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
                .with_context(|| format!("binding UDP port {port}"))
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a probe saw: for every datagram when it was sent, and after how long its echo came.
#[derive(Debug, Clone, Default)]
pub struct ProbeReport {
    sent: Vec<(Instant, Option<Instant>)>,
}

impl ProbeReport {
    /// Datagrams sent.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Datagrams whose echo never came.
    pub fn lost(&self) -> usize {
        self.sent.iter().filter(|(_, back)| back.is_none()).count()
    }

    /// The longest time without an echo, between two of them.
    pub fn longest_gap(&self) -> Duration {
        let mut back: Vec<Instant> = self.sent.iter().filter_map(|(_, back)| *back).collect();
        back.sort();
        let gaps = back.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(Duration::MAX)
    }

    /// From `moment` to the first echo of a datagram that was sent after it.
    pub fn recovered_after(&self, moment: Instant) -> Option<Duration> {
        let later = self.sent.iter().filter(|(sent, _)| *sent >= moment);
        later
            .filter_map(|(_, back)| *back)
            .min()
            .map(|back| back - moment)
    }

    /// The median round trip.
    pub fn median(&self) -> Option<Duration> {
        let mut trips: Vec<Duration> = self
            .sent
            .iter()
            .filter_map(|(sent, back)| back.map(|back| back - *sent))
            .collect();
        trips.sort();
        trips.get(trips.len() / 2).copied()
    }
}

/// A probe under way.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<ProbeReport>>,
}

impl Probe {
    /// Starts to send a datagram of `size` bytes (8 at least) every `every` from `namespace` to the
    /// [`Echo`] at `to`. Nothing that the network answers ends it.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(
        namespace: &Namespace,
        to: (IpAddr, u16),
        every: Duration,
        size: usize,
    ) -> Result<Self> {
        let any: IpAddr = if to.0.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = namespace.run(|| UdpSocket::bind((any, 0)).context("binding a UDP port"))?;
        socket.set_nonblocking(true)?;
        let to = SocketAddr::from(to);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut report = ProbeReport::default();
            let mut datagram = vec![0; size.max(8)];
            let mut buffer = vec![0; 65_536];
            let mut due = Instant::now();
            let mut end = None;
            loop {
                while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let now = Instant::now();
                    if from != to || len < 8 {
                        continue;
                    }
                    let mut number = [0; 8];
                    number.copy_from_slice(&buffer[..8]);
                    if let Some((_, back)) =
                        report.sent.get_mut(u64::from_le_bytes(number) as usize)
                    {
                        back.get_or_insert(now);
                    }
                }
                let now = Instant::now();
                if stopped.load(Ordering::Relaxed) && end.is_none() {
                    // Echoes of what is on its way still count.
                    end = Some(now + Duration::from_millis(300));
                }
                if end.is_some_and(|end| now >= end || report.lost() == 0) {
                    return report;
                }
                if end.is_none() && now >= due {
                    datagram[..8].copy_from_slice(&(report.sent.len() as u64).to_le_bytes());
                    // Without a route there is nobody to send to: the datagram is lost.
                    let _ = socket.send_to(&datagram, to);
                    report.sent.push((now, None));
                    due = (due + every).max(now);
                }
                // Woken by an echo, and never just to look: many probes would take the CPUs from what they probe.
                let left = end.unwrap_or(due).saturating_duration_since(Instant::now());
                let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                let _ = ppoll(&mut readable, Some(left.min(LOOK).into()), None);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it, and waits a little for echoes that are on their way.
    pub fn finish(mut self) -> ProbeReport {
        self.end()
    }

    fn end(&mut self) -> ProbeReport {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.end();
    }
}
