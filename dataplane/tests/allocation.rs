//! Nothing is allocated for a packet, neither outward nor inward, nor for a frame of a socket.

use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::RcvBuf;
use portcullis_dataplane::host::Host;
use portcullis_dataplane::host::coalesce::Coalescer;
use portcullis_dataplane::host::memory::MemoryHost;
use portcullis_dataplane::host::segment::Segmenter;
use portcullis_dataplane::host::vnet::{self, VnetHeader};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::socket::{SocketConfig, SocketMemory, SocketPort};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_batch_allocates_nothing_once_warm() {
    let mut packet = vec![0; 40 + 20_000];
    let len = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[9] = 6;
    packet[32] = 0x50;
    packet[33] = 0x10;
    let header = VnetHeader {
        flags: vnet::FLAG_NEEDS_CHECKSUM,
        gso_type: vnet::GSO_TCPV4,
        gso_size: 1000,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    // The sum of the pseudo header, whose addresses are zero.
    packet[36..38].copy_from_slice(&(6 + len - 20).to_be_bytes());
    let mut host = MemoryHost::new();
    let mut coalescer = Coalescer::new();
    let mut buffer = vec![0; portcullis_dataplane::host::LARGEST_PACKET];
    let mut frames = vec![[0; 2048]; 20];
    for round in 0..10 {
        let before = ALLOCATIONS.get();
        host.push(header, &packet);
        let mut header = VnetHeader::default();
        let len = host
            .read(&mut header, &mut [], &mut buffer)
            .unwrap()
            .unwrap();
        let mut segmenter = Segmenter::new(header, &buffer[..len]).unwrap();
        let mut packets: [&[u8]; 20] = [&[]; 20];
        for (frame, packet) in frames.iter_mut().zip(&mut packets) {
            let len = segmenter.next(frame).unwrap();
            *packet = &frame[..len];
        }
        let report = coalescer.write(&packets, &mut host);
        assert_eq!((report.packets, report.super_packets), (20, 1));
        host.clear();
        if round > 2 {
            assert_eq!(ALLOCATIONS.get(), before);
        }
    }
}

#[test]
fn frames_of_a_socket_allocate_nothing() {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let memory = SocketMemory::default();
    let config = SocketConfig::new(far.local_addr().unwrap());
    let mut near = SocketPort::open(&config, &memory).unwrap();
    far.connect(near.local()).unwrap();
    RcvBuf.set(&far, &config.receive_buffer).unwrap();
    let mut far = SocketPort::from_socket(far.into(), &memory).unwrap();
    let mut frames = Vec::with_capacity(256);
    let deadline = Instant::now() + Duration::from_secs(20);
    let before = ALLOCATIONS.get();
    for round in 0..20 {
        // Trains, lone frames and, now and then, a full batch.
        for number in 0..200 {
            let mut frame = near.reserve().unwrap();
            let len = if round % 2 == 0 { 1400 } else { 100 + number };
            near.set_len(&mut frame, len);
            near.send(frame).unwrap();
        }
        near.flush().unwrap();
        let mut count = 0;
        while count < 200 {
            assert!(Instant::now() < deadline, "{count} frames came");
            count += far.receive(&mut frames, 256);
            for frame in frames.drain(..) {
                far.send(frame).unwrap();
            }
        }
        far.flush().unwrap();
        let mut count = 0;
        while count < 200 {
            assert!(Instant::now() < deadline, "{count} frames came back");
            count += near.receive(&mut frames, 256);
            frames.drain(..).for_each(|frame| near.release(frame));
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
}
