//! A TCP port of a host that leads to a Unix socket, for programs that speak no Unix socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::namespace::Namespace;

/// A forwarder on the loopback address of its host, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Forwards what connects to a TCP port to the socket at `path`.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(namespace: &Namespace, port: u16, path: &Path) -> Result<Self> {
        let listener = namespace.run(|| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("binding TCP port {port}"))
        })?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let path: PathBuf = path.to_owned();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let path = path.clone();
                        // A connection that fails is seen by whoever made it.
                        std::thread::spawn(move || drop(forward(stream, &path)));
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

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(tcp: TcpStream, path: &Path) -> io::Result<()> {
    tcp.set_nonblocking(false)?;
    tcp.set_nodelay(true)?;
    let unix = UnixStream::connect(path)?;
    let (from, to) = (tcp.try_clone()?, unix.try_clone()?);
    std::thread::spawn(move || {
        let _ = copy(&from, &to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let outcome = copy(&unix, &tcp);
    let _ = tcp.shutdown(Shutdown::Both);
    let _ = unix.shutdown(Shutdown::Both);
    outcome
}

/// Copies what is there at once, not a full buffer at a time.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}
