//! A worker whose host interface fails.

use crossbeam::channel::{bounded, unbounded};
use portcullis_dataplane::counters::WorkerCounters;
use portcullis_dataplane::engine::Engine;
use portcullis_dataplane::host::Host;
use portcullis_dataplane::host::vnet::VnetHeader;
use portcullis_dataplane::port::memory::MemoryPort;
use portcullis_dataplane::worker::run::orders;
use portcullis_dataplane::worker::{Event, Worker, WorkerConfig};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use wire::Role;

/// One whose reads fail so, one after the other; then there is nothing to read.
struct Failing(VecDeque<i32>);

impl Host for Failing {
    fn read(
        &mut self,
        _: &mut VnetHeader,
        _: &mut [u8],
        _: &mut [u8],
    ) -> io::Result<Option<usize>> {
        match self.0.pop_front() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(None),
        }
    }

    fn write(&mut self, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

const CONFIG: WorkerConfig = WorkerConfig {
    role: Role::Gateway,
    engine: Engine::Auto,
};

/// The kernel answers EINVAL where it cannot describe a packet in a `virtio_net_hdr`; the packet is
/// gone, and the device is as good as before.
#[test]
fn a_packet_that_cannot_be_read_is_counted_and_a_device_that_is_gone_ends_the_worker() {
    let (_commands, receiver) = unbounded();
    let (sender, events) = unbounded();
    let counters = Arc::new(WorkerCounters::default());
    let host = Failing([libc::EINVAL, libc::EINVAL, libc::EBADFD].into());
    let mut worker: Worker<MemoryPort, _> =
        Worker::new(CONFIG, host, receiver, sender, Arc::clone(&counters));
    worker.step(1);
    assert_eq!(counters.host_malformed.get(), 2);
    assert!(worker.stopped());
    assert!(matches!(events.try_recv(), Ok(Event::HostFailed(_))));
}

/// Control may be behind at that moment; the last word must reach it all the same.
#[test]
fn that_the_host_interface_failed_is_told_though_the_channel_was_full() {
    let (_commands, receiver, bell) = orders().unwrap();
    let (sender, events) = bounded(1);
    sender.send(Event::Installed(1)).unwrap();
    let host = Failing([libc::EBADFD].into());
    let worker: Worker<MemoryPort, _> = Worker::new(CONFIG, host, receiver, sender, Arc::default());
    let thread = std::thread::spawn(move || worker.run(&bell, Duration::ZERO));
    std::thread::sleep(Duration::from_millis(50));
    assert!(matches!(events.recv(), Ok(Event::Installed(1))));
    assert!(matches!(events.recv(), Ok(Event::HostFailed(_))));
    thread.join().unwrap().unwrap();
}
