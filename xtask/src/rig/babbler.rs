//! A host that says all that hosts say, for what is to hold it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::GATEWAY_V4;
use super::namespace::Namespace;
use super::packet::PacketSocket;
use crate::attack::{arp, ethernet, tagged, udp_v4};

/// Sends foreign frames on an interface every two milliseconds, whenever it exists and is up.
#[derive(Debug)]
pub struct Babbler {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Babbler {
    /// Starts it.
    pub fn start(host: &Arc<Namespace>, interface: &'static str) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (host, stopped, count) = (Arc::clone(host), Arc::clone(&stop), Arc::clone(&sent));
        let own = [2, 0, 0, 0, 0, 0x77];
        let address = [192, 0, 2, 1].into();
        let ip = udp_v4(address, GATEWAY_V4, 9050, b"hello");
        let plain = ethernet([0xff; 6], own, 0x0800, &ip);
        let frames = [
            ethernet(
                [0xff; 6],
                own,
                0x0806,
                &arp(1, (own, address), ([0; 6], GATEWAY_V4)),
            ),
            tagged(&plain, &[0]),
            plain,
            // What hosts say unasked: DHCP, IGMP, MLD, LLDP.
            ethernet(
                [0xff; 6],
                own,
                0x0800,
                &udp_v4([0; 4].into(), [255; 4].into(), 67, &[1; 240]),
            ),
            ethernet([1, 0, 0x5e, 0, 0, 0x16], own, 0x0800, &[0x46; 40]),
            ethernet([0x33, 0x33, 0, 0, 0, 0x16], own, 0x86dd, &[0x60; 76]),
            ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], own, 0x88cc, &[2; 46]),
        ];
        let thread = std::thread::spawn(move || {
            let mut socket = None;
            while !stopped.load(Ordering::Relaxed) {
                // Through the stack's own way out, traffic control included.
                let open = socket
                    .take()
                    .or_else(|| PacketSocket::open(&host, Some(interface)).ok());
                if let Some(open) = open {
                    let sent = frames.iter().filter(|frame| open.send(frame)).count();
                    count.fetch_add(sent as u64, Ordering::Relaxed);
                    // An interface that was removed takes its sockets along.
                    socket = (sent > 0).then_some(open);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Frames that the interface took so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Babbler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
