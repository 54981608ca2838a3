//! A small HTTP server and client, so that a download through the tunnel needs nothing installed.
//!
//! `GET /n` answers with `n` bytes of a fixed pseudo-random stream; `GET /paced/r` with that stream
//! without end, `r` bytes a second. The client hashes what it receives; [`body_sha256`] says what
//! that must be.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;

use super::guard::interrupted;
use super::namespace::Namespace;

const CHUNK: usize = 64 << 10;
/// How long a download may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// The stream's chunk number `number`.
fn chunk(number: u64, into: &mut [u8; CHUNK]) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    for word in into.chunks_exact_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
}

/// The SHA-256 of the first `bytes` bytes of the stream, in hex.
pub fn body_sha256(bytes: u64) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = [0; CHUNK];
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        chunk(number, &mut buffer);
        let take = left.min(CHUNK as u64) as usize;
        context.update(&buffer[..take]);
        left -= take as u64;
        number += 1;
    }
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server, on every address of its host until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        // [::] takes IPv4 too (bindv6only is 0 by default).
        let listener = namespace.run(|| {
            TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
                .with_context(|| format!("binding TCP port {port}"))
        })?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let stopped = Arc::clone(&stopped);
                        // An answer that fails has lost its client; there is nobody to tell.
                        std::thread::spawn(move || drop(answer(stream, &stopped)));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut request = String::new();
    let mut reader = BufReader::new((&stream).take(4096));
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("");
    let (bytes, rate) = match path.strip_prefix("/paced/") {
        Some(rate) => (u64::MAX, rate.parse::<u64>().ok()),
        None => match path.get(1..).and_then(|n| n.parse().ok()) {
            Some(bytes) => (bytes, None),
            None => {
                return stream.write_all(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            }
        },
    };
    let length = if bytes == u64::MAX {
        String::new()
    } else {
        format!("Content-Length: {bytes}\r\n")
    };
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n").as_bytes())?;
    let mut buffer = [0; CHUNK];
    let start = Instant::now();
    let (mut sent, mut number) = (0, 0);
    while sent < bytes && !stop.load(Ordering::Relaxed) {
        chunk(number, &mut buffer);
        let take = (bytes - sent).min(CHUNK as u64) as usize;
        stream.write_all(&buffer[..take])?;
        sent += take as u64;
        number += 1;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
            std::thread::sleep(
                due.saturating_sub(start.elapsed())
                    .min(Duration::from_secs(1)),
            );
        }
    }
    Ok(())
}

/// What a finished download was.
#[derive(Debug, Clone)]
pub struct Download {
    /// Bytes of the body.
    pub bytes: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
    /// From connect to the last byte.
    pub time: Duration,
}

impl Download {
    /// Bits a second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.time.as_secs_f64()
    }
}

/// Downloads `bytes` bytes from the server at `address`, adding to `progress` as they come.
///
/// # Errors
/// When the connection fails or ends early, or nothing comes for 30 seconds.
pub fn download(
    namespace: &Namespace,
    address: (IpAddr, u16),
    bytes: u64,
    progress: &AtomicU64,
) -> Result<Download> {
    let start = Instant::now();
    let mut context = digest::Context::new(&digest::SHA256);
    let received = fetch(namespace, address, &format!("/{bytes}"), |part| {
        context.update(part);
        progress.fetch_add(part.len() as u64, Ordering::Relaxed);
        true
    })?;
    ensure!(
        received == bytes,
        "the download ended after {received} of {bytes} bytes"
    );
    Ok(Download {
        bytes,
        sha256: hex(context.finish().as_ref()),
        time: start.elapsed(),
    })
}

/// Requests `path` and gives the body to `each`, until it answers false or the body ends. While
/// nothing comes, `each` is asked with nothing a few times a second.
///
/// # Errors
/// When the connection fails, or nothing comes for 30 seconds.
pub fn fetch(
    namespace: &Namespace,
    address: (IpAddr, u16),
    path: &str,
    mut each: impl FnMut(&[u8]) -> bool + Send,
) -> Result<u64> {
    let to = SocketAddr::from(address);
    let mut stream = namespace.run(|| {
        TcpStream::connect_timeout(&to, Duration::from_secs(10))
            .with_context(|| format!("connecting to {to}"))
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(
        line.contains(" 200 "),
        "the server answered {}",
        line.trim()
    );
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    reader
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut received = 0;
    let mut heard = Instant::now();
    loop {
        let part = match reader.fill_buf() {
            Ok(part) => part,
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && heard.elapsed() < PATIENCE =>
            {
                if interrupted() || !each(&[]) {
                    return Ok(received);
                }
                continue;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("receiving from {to} after {received} bytes"));
            }
        };
        heard = Instant::now();
        let len = part.len();
        if len == 0 || interrupted() || !each(part) {
            return Ok(received);
        }
        received += len as u64;
        reader.consume(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_same_each_time_and_its_chunks_differ() {
        let (mut a, mut b) = ([0; CHUNK], [0; CHUNK]);
        chunk(1, &mut a);
        chunk(2, &mut b);
        assert_ne!(a, b);
        assert_eq!(body_sha256(100_001), body_sha256(100_001));
        assert_ne!(body_sha256(100_001), body_sha256(100_000));
        // The well-known hash of nothing.
        assert!(body_sha256(0).starts_with("e3b0c44298fc1c14"));
    }
}
