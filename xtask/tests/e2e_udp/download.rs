//! A download by TCP that goes on and on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_xtask::rig::*;

/// A connection that the Gateway sends on as fast as it goes, and what has arrived of it.
pub struct Download {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Download {
    pub fn start(networks: &Networks) -> Self {
        let to = (GATEWAY_V4, 5201);
        let listener = networks
            .gateway
            .namespace()
            .run(|| Ok(TcpListener::bind(to)?));
        let listener = listener.unwrap();
        let host = networks.workstation.namespace();
        let mut client = host.run(|| Ok(TcpStream::connect(to)?)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        server
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let (arrived, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let receive = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(count) = client.read(&mut buffer) {
                    counted.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        });
        let stopped = Arc::clone(&stop);
        let send = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = server.write(&[7; 1 << 14]);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            arrived,
            stop,
            threads: vec![receive, send],
        }
    }

    /// Bytes that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
