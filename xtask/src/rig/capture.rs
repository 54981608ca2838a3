//! Counting and keeping the frames that reach a host's kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::guard::wait_for;
use super::namespace::Namespace;
use super::packet::{PacketKind, PacketSocket};

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Which way it went.
    pub kind: PacketKind,
    /// The index of the interface.
    pub interface: i32,
    /// When it was taken from the socket.
    pub at: Instant,
    /// From the Ethernet header on (on an interface without one, from the IP header on).
    pub bytes: Vec<u8>,
}

impl Captured {
    /// The EtherType, 0 for a frame without one.
    pub fn ethertype(&self) -> u16 {
        match self.bytes.get(12..14) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }

    /// Destination MAC address.
    pub fn destination(&self) -> [u8; 6] {
        self.mac(0)
    }

    /// Source MAC address.
    pub fn source(&self) -> [u8; 6] {
        self.mac(6)
    }

    fn mac(&self, at: usize) -> [u8; 6] {
        let bytes = self.bytes.get(at..at + 6);
        bytes.and_then(|b| b.try_into().ok()).unwrap_or_default()
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    incoming: AtomicU64,
    outgoing: AtomicU64,
    overruns: AtomicU64,
    /// How often the thread found nothing more to read.
    idle: AtomicU64,
    kept: Mutex<Vec<Captured>>,
}

/// A capture that runs until it is dropped. What it counts are the frames that passed its filter.
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Counts frames on `interface`, and keeps the first `keep` of them.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub fn on(namespace: &Namespace, interface: &str, keep: usize) -> Result<Self> {
        Self::filtered(namespace, Some(interface), keep, |_| true)
    }

    /// Counts frames on every Ethernet interface of a host, those that come later too.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn everywhere(namespace: &Namespace, keep: usize) -> Result<Self> {
        Self::filtered(namespace, None, keep, |_| true)
    }

    /// Counts frames for which `filter` is true. Without an interface, those of every Ethernet
    /// interface; `lo` and the tunnel's host interface are not among them.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub fn filtered(
        namespace: &Namespace,
        interface: Option<&str>,
        keep: usize,
        filter: impl Fn(&Captured) -> bool + Send + 'static,
    ) -> Result<Self> {
        let socket = PacketSocket::open(namespace, interface)?;
        Ok(Self::from_socket(socket, interface.is_none(), keep, filter))
    }

    /// Counts frames of one EtherType that reach a host's protocols, by any Ethernet interface.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn into_stack(namespace: &Namespace, ethertype: u16, keep: usize) -> Result<Self> {
        let socket = PacketSocket::of_type(namespace, ethertype)?;
        Ok(Self::from_socket(socket, true, keep, |frame| {
            frame.kind == PacketKind::Incoming
        }))
    }

    fn from_socket(
        socket: PacketSocket,
        all: bool,
        keep: usize,
        filter: impl Fn(&Captured) -> bool + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !theirs.stop.load(Ordering::Relaxed) {
                if !socket.readable(Duration::from_millis(5)) {
                    theirs.idle.fetch_add(1, Ordering::Release);
                    continue;
                }
                let mut took = false;
                while let Some(arrival) = socket.take(&mut buffer) {
                    took = true;
                    if all && !arrival.ethernet {
                        continue;
                    }
                    let frame = Captured {
                        kind: arrival.kind,
                        interface: arrival.interface,
                        at: Instant::now(),
                        bytes: buffer[..arrival.len].to_vec(),
                    };
                    if !filter(&frame) {
                        continue;
                    }
                    let count = match frame.kind {
                        PacketKind::Incoming => &theirs.incoming,
                        PacketKind::Outgoing => &theirs.outgoing,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut kept = theirs.kept.lock().unwrap_or_else(|e| e.into_inner());
                    if kept.len() < keep {
                        kept.push(frame);
                    }
                }
                if let Ok(overruns) = socket.overruns() {
                    theirs.overruns.fetch_add(overruns, Ordering::Relaxed);
                }
                theirs.idle.fetch_add(1, Ordering::Release);
                if !took {
                    // Readable without a frame: the interface went down or away.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until every frame that was on its way before this call is counted: a few milliseconds
    /// for what stands in a queue of the kernel, then until the socket was found empty.
    ///
    /// # Errors
    /// When frames come faster than they can be read, for five seconds.
    pub fn settle(&self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(10));
        let seen = self.shared.idle.load(Ordering::Acquire);
        wait_for(
            "the capture to have read all",
            Duration::from_secs(5),
            || (self.shared.idle.load(Ordering::Acquire) > seen + 1).then_some(()),
        )
    }

    /// Frames from the cable that reached the kernel.
    pub fn incoming(&self) -> u64 {
        self.shared.incoming.load(Ordering::Relaxed)
    }

    /// Frames that this host's stack sent.
    pub fn outgoing(&self) -> u64 {
        self.shared.outgoing.load(Ordering::Relaxed)
    }

    /// Frames that reached the kernel but not this capture, whose queue was full. A count of zero
    /// proves something only when this is zero too.
    pub fn overruns(&self) -> u64 {
        self.shared.overruns.load(Ordering::Relaxed)
    }

    /// The frames kept so far.
    pub fn frames(&self) -> Vec<Captured> {
        self.kept().clone()
    }

    /// The frames kept so far, which are forgotten here; the counts stay.
    pub fn take(&self) -> Vec<Captured> {
        std::mem::take(&mut self.kept())
    }

    /// Frames by EtherType among those kept: what a failing assertion prints.
    pub fn summary(&self) -> String {
        let mut by_type: HashMap<u16, usize> = HashMap::new();
        for frame in self.kept().iter() {
            *by_type.entry(frame.ethertype()).or_default() += 1;
        }
        let mut parts: Vec<String> = by_type
            .into_iter()
            .map(|(ethertype, count)| format!("{count} of {ethertype:#06x}"))
            .collect();
        parts.sort();
        parts.join(", ")
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Captured>> {
        self.shared.kept.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
