//! One TCP stream that is read at any moment: runs that take turns by the second share it, and so
//! the luck it has with cores and queues.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::Namespace;

/// Bytes of one system call: iperf3's.
const BLOCK: usize = 128 << 10;
/// How soon a thread that waits sees that it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// A stream that goes on, as fast as it can, until it is dropped.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// From `client` to `server`, which has the address given.
    ///
    /// # Errors
    /// When they do not come together.
    pub(super) fn start(server: &Namespace, client: &Namespace, to: Ipv4Addr) -> Result<Self> {
        let listener = server.run(|| TcpListener::bind((to, 0)).context("listening"))?;
        let address = listener.local_addr()?;
        let mut sender = client.run(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(5))
                .with_context(|| format!("connecting to {address}"))
        })?;
        let (mut receiver, _) = listener.accept()?;
        sender.set_write_timeout(Some(PATIENCE))?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (sending, receiving) = (Arc::clone(&stop), Arc::clone(&stop));
        let count = Arc::clone(&received);
        let threads = vec![
            std::thread::spawn(move || {
                let block = vec![0x5a; BLOCK];
                while goes_on(&sending, sender.write(&block).map(drop)) {}
            }),
            std::thread::spawn(move || {
                let mut block = vec![0; BLOCK];
                let mut read = || {
                    let read = receiver.read(&mut block)?;
                    count.fetch_add(read as u64, Ordering::Relaxed);
                    Ok(())
                };
                while goes_on(&receiving, read()) {}
            }),
        ];
        Ok(Self {
            stop,
            received,
            threads,
        })
    }

    /// Bytes that the receiving program has read so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn goes_on(stop: &AtomicBool, result: std::io::Result<()>) -> bool {
    let waiting = |kind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted);
    !stop.load(Ordering::Relaxed) && result.map_or_else(|error| waiting(error.kind()), |()| true)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
