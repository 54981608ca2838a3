//! Traffic: ICMP echo, TCP by iperf3, and a steady download whose rate can be read at any time.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guard::wait_for;
use super::http::fetch;
use super::namespace::Namespace;
use super::process::Process;

/// The answers to a series of ICMP echo requests.
#[derive(Debug, Clone, Default)]
pub struct Ping {
    /// Requests sent.
    pub sent: usize,
    /// Right answers, with the same payload.
    pub answered: usize,
    /// The sum of the round trips of those answered.
    pub total: Duration,
}

impl Ping {
    /// The mean round trip.
    pub fn mean(&self) -> Option<Duration> {
        let answered = u32::try_from(self.answered).ok().filter(|&n| n > 0)?;
        Some(self.total / answered)
    }
}

/// Sends one ICMP echo request of each payload size given to `to`, each after the answer to the one
/// before or `timeout`; ends after five in a row without an answer.
///
/// # Errors
/// When the socket cannot be made.
pub fn ping(
    namespace: &Namespace,
    to: IpAddr,
    sizes: impl IntoIterator<Item = usize> + Send,
    timeout: Duration,
) -> Result<Ping> {
    let v4 = to.is_ipv4();
    let socket = icmp_socket(namespace, v4)?;
    // The low half tells this series from others on the host.
    let identifier = (socket.as_raw_fd() as u16) ^ (std::process::id() as u16);
    let (request, reply) = if v4 { (8, 0) } else { (128, 129) };
    let mut result = Ping::default();
    let mut buffer = vec![0; 65_536];
    let mut unanswered = 0;
    for (number, size) in sizes.into_iter().enumerate() {
        if unanswered == 5 {
            break;
        }
        unanswered += 1;
        let mut packet = vec![request, 0, 0, 0];
        packet.extend(identifier.to_be_bytes());
        packet.extend((number as u16).to_be_bytes());
        packet.extend((0..size).map(|at| (at ^ number) as u8));
        if v4 {
            let sum = crate::attack::checksum(&[&packet]);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        result.sent += 1;
        let start = Instant::now();
        // Without a route yet, or with the link down, it counts as not answered.
        if socket.send_to(&packet, SocketAddr::new(to, 0)).is_err() {
            super::guard::pause(timeout.min(Duration::from_millis(20)))?;
            continue;
        }
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                break;
            };
            // A raw IPv4 socket gives the IP header too, an IPv6 one does not.
            let at = if v4 {
                usize::from(buffer[0] & 15) * 4
            } else {
                0
            };
            let Some(answer) = buffer.get(at..len) else {
                continue;
            };
            if from.ip() == to
                && answer.first() == Some(&reply)
                && answer.get(4..) == packet.get(4..)
            {
                result.answered += 1;
                result.total += start.elapsed();
                unanswered = 0;
                break;
            }
        }
    }
    Ok(result)
}

/// A raw ICMP or ICMPv6 socket of a host. A UdpSocket is only a wrapper that sends to and receives from
/// addresses.
pub(super) fn icmp_socket(namespace: &Namespace, v4: bool) -> Result<UdpSocket> {
    namespace.run(|| {
        let (family, protocol) = if v4 {
            (libc::AF_INET, libc::IPPROTO_ICMP)
        } else {
            (libc::AF_INET6, libc::IPPROTO_ICMPV6)
        };
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("socket(SOCK_RAW, ICMP)");
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    })
}

/// TCP goodput in bits a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// From the Workstation to the Gateway.
    pub up: f64,
    /// From the Gateway to the Workstation.
    pub down: f64,
}

/// Runs iperf3 from `client` to `server` at `address` for `seconds`, both ways at once.
///
/// # Errors
/// What iperf3 reported.
pub fn iperf3(
    server: &Namespace,
    client: &Namespace,
    address: IpAddr,
    seconds: u32,
) -> Result<Rates> {
    let all = iperf3_all(server, address, &[client], seconds)?;
    all.first().copied().context("no result of iperf3")
}

/// One TCP stream from `client` to `server`, or the other way where `down`: its goodput in bits a
/// second.
///
/// # Errors
/// What iperf3 reported.
pub fn iperf3_one_way(
    server: &Namespace,
    client: &Namespace,
    address: IpAddr,
    seconds: u32,
    down: bool,
) -> Result<f64> {
    let all = iperf3_all_one_way(server, address, &[client], seconds, down)?;
    all.first().copied().context("no result of iperf3")
}

/// As [`iperf3_one_way`], from or to all `clients` at once.
///
/// # Errors
/// What iperf3 reported.
pub fn iperf3_all_one_way(
    server: &Namespace,
    address: IpAddr,
    clients: &[&Namespace],
    seconds: u32,
    down: bool,
) -> Result<Vec<f64>> {
    let options: &[&str] = if down { &["--reverse"] } else { &[] };
    let sums = ["sum_received"];
    let all = run_iperf3(server, address, clients, seconds, options, &sums)?;
    Ok(all.iter().map(|rates| rates[0]).collect())
}

/// As [`iperf3`], from all `clients` at once.
///
/// # Errors
/// What iperf3 reported.
pub fn iperf3_all(
    server: &Namespace,
    address: IpAddr,
    clients: &[&Namespace],
    seconds: u32,
) -> Result<Vec<Rates>> {
    let sums = ["sum_received", "sum_received_bidir_reverse"];
    let all = run_iperf3(server, address, clients, seconds, &["--bidir"], &sums)?;
    Ok(all
        .iter()
        .map(|rates| Rates {
            up: rates[0],
            down: rates[1],
        })
        .collect())
}

/// Runs iperf3 for each client with these options, and gives these sums of each one's report.
fn run_iperf3(
    server: &Namespace,
    address: IpAddr,
    clients: &[&Namespace],
    seconds: u32,
    options: &[&str],
    sums: &[&str],
) -> Result<Vec<Vec<f64>>> {
    let scratch = super::Scratch::new("iperf")?;
    let mut running = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let port = 5201 + number;
        let mut command = server.command("iperf3");
        command.args([
            "--server",
            "--one-off",
            "--forceflush",
            "--port",
            &port.to_string(),
        ]);
        let log = scratch.path().join(format!("server-{number}"));
        let server = Process::start("iperf3 --server", command, &log)?;
        wait_for(
            "the iperf3 server to listen",
            Duration::from_secs(5),
            || server.log().contains("listening").then_some(()),
        )?;
        running.push((*client, port, server));
    }
    let mut clients = Vec::new();
    for (number, (client, port, _)) in running.iter().enumerate() {
        let mut command = client.command("iperf3");
        command
            .args(["--json", "--connect-timeout", "5000"])
            .args(options)
            .args(["--time", &seconds.to_string(), "--port", &port.to_string()])
            .args(["--client", &address.to_string()])
            .stderr(Stdio::null());
        let log = scratch.path().join(format!("client-{number}"));
        clients.push((
            client.label(),
            Process::start("iperf3 --client", command, &log)?,
        ));
    }
    let mut rates = Vec::new();
    for (label, client) in &mut clients {
        let status = client.wait(Duration::from_secs(u64::from(seconds) + 20))?;
        let text = client.log();
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("iperf3 of {label} wrote: {}", client.log_tail(5)))?;
        if let Some(error) = value["error"].as_str() {
            anyhow::bail!("iperf3 of {label}: {error}");
        }
        ensure!(status.success(), "iperf3 of {label} ended with {status}");
        let rate = |name: &&str| {
            let rate = value["end"][*name]["bits_per_second"].as_f64();
            rate.with_context(|| format!("iperf3 of {label}: no {name}"))
        };
        rates.push(sums.iter().map(rate).collect::<Result<Vec<f64>>>()?);
    }
    Ok(rates)
}

/// A download that goes on at a given rate until it is dropped.
#[derive(Debug)]
pub struct Stream {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    hold: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts to download from the [`super::HttpServer`] at `from`, `rate` bytes a second; a
    /// connection that fails is made anew.
    pub fn start(namespace: Arc<Namespace>, from: (IpAddr, u16), rate: u64) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let hold = Arc::new(AtomicBool::new(false));
        let (count, stopped, held) = (Arc::clone(&received), Arc::clone(&stop), Arc::clone(&hold));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if held.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let path = format!("/paced/{rate}");
                let ended = fetch(&namespace, from, &path, |part| {
                    count.fetch_add(part.len() as u64, Ordering::Relaxed);
                    !stopped.load(Ordering::Relaxed) && !held.load(Ordering::Relaxed)
                });
                if ended.is_err() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Self {
            received,
            stop,
            hold,
            thread: Some(thread),
        }
    }

    /// Ends the download for now, or goes on with another.
    pub fn hold(&self, hold: bool) {
        self.hold.store(hold, Ordering::Relaxed);
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
