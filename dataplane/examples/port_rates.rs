//! Prints what ports cost: the memory port's nanoseconds per frame, and (as root) the frames a second
//! that two AF_XDP ports pass over a veth pair in a namespace of their own.

#[path = "../tests/netns/mod.rs"]
mod netns;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use netns::{Redirect, in_quiet_namespace, veth};
use nix::time::{ClockId, clock_gettime};

use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::memory::{MemoryConfig, MemoryPort};
use portcullis_dataplane::port::xsk::{XskConfig, XskPort};

const BATCH: usize = 64;
const SPAN: Duration = Duration::from_secs(2);

/// Processor time of this thread, which other load on the machine does not count towards.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has this clock")
        .into()
}

fn config(ring_size: u32) -> MemoryConfig {
    MemoryConfig {
        ring_size,
        frames: 3 * ring_size,
        ..MemoryConfig::default()
    }
}

/// Reserves, writes the length of and sends up to a batch; how many went.
fn send_batch(port: &mut impl Port, length: usize) -> u64 {
    for sent in 0..BATCH as u64 {
        let Some(mut frame) = port.reserve() else {
            return sent;
        };
        port.set_len(&mut frame, length);
        black_box(&mut port.data_mut(&mut frame)[0]);
        if let Err(frame) = port.send(frame) {
            port.release(frame);
            return sent;
        }
    }
    BATCH as u64
}

fn injected(ring_size: u32, length: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (mut port, far) = MemoryPort::open(&config(ring_size))?;
    let frame = vec![0x5a; length];
    let mut frames = Vec::with_capacity(BATCH);
    let (mut count, started) = (0, worked());
    while worked() - started < SPAN {
        for _ in 0..100 {
            far.inject_all((0..BATCH).map(|_| frame.as_slice()));
            count += port.receive(&mut frames, BATCH) as u64;
            for frame in frames.drain(..) {
                black_box(port.data(&frame)[0]);
                port.release(frame);
            }
            send_batch(&mut port, length);
            port.flush()?;
            far.take(BATCH, |bytes| {
                black_box(bytes[0]);
            });
        }
    }
    let each = (worked() - started).as_secs_f64() * 1e9 / count as f64;
    println!(
        "memory, rings of {ring_size:4}, {length:4} bytes: {each:6.1} ns to inject, receive, release, send, take and complete one frame"
    );
    Ok(())
}

fn joined(ring_size: u32, length: usize) -> Result<(), Box<dyn std::error::Error>> {
    let [(mut one, _), (mut other, _)] = MemoryPort::pair(&config(ring_size))?;
    let mut frames = Vec::with_capacity(BATCH);
    let (mut count, started) = (0, worked());
    while worked() - started < SPAN {
        for _ in 0..100 {
            send_batch(&mut one, length);
            one.flush()?;
            count += other.receive(&mut frames, BATCH) as u64;
            for frame in frames.drain(..) {
                black_box(other.data(&frame)[0]);
                other.release(frame);
            }
            other.flush()?;
        }
    }
    let each = (worked() - started).as_secs_f64() * 1e9 / count as f64;
    println!(
        "memory, rings of {ring_size:4}, {length:4} bytes: {each:6.1} ns from port to port (send, flush, receive, release, complete)"
    );
    Ok(())
}

fn over_veth(length: usize, budget: u32) {
    in_quiet_namespace(move || {
        veth(1);
        let [(mut a, _wall_a), (mut b, _wall_b)] = ["a", "b"].map(|interface| {
            let redirect = Redirect::attach(interface);
            let config = XskConfig {
                tx_budget: budget,
                ..XskConfig::new(interface)
            };
            let port = XskPort::open(&config).unwrap_or_else(|error| panic!("{error}"));
            redirect.insert(port.sockets());
            (port, redirect)
        });
        let stop = AtomicBool::new(false);
        let (sent, received) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut frames = Vec::with_capacity(BATCH);
                let mut received = 0;
                while !stop.load(Relaxed) {
                    received += b.receive(&mut frames, BATCH) as u64;
                    for frame in frames.drain(..) {
                        black_box(b.data(&frame)[0]);
                        b.release(frame);
                    }
                    b.flush().expect("flush");
                }
                received
            });
            let (mut sent, started) = (0, Instant::now());
            while started.elapsed() < SPAN {
                sent += send_batch(&mut a, length);
                a.flush().expect("flush");
            }
            stop.store(true, Relaxed);
            (sent, receiver.join().expect("the receiver ended"))
        });
        let rate = |frames: u64| frames as f64 / SPAN.as_secs_f64() / 1e6;
        println!(
            "veth,   {length:4} bytes, {} frames a call: {:.3} M frames/s sent, {:.3} M received ({:.2} Gbit/s); zero-copy: {}",
            a.tx_budget(),
            rate(sent),
            rate(received),
            rate(received) * 8.0 * length as f64 / 1e3,
            b.is_zero_copy(),
        );
    });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for ring_size in [256, 2048] {
        for length in [64, 1400] {
            injected(ring_size, length)?;
            joined(ring_size, length)?;
        }
    }
    for budget in [32, 64] {
        for length in [64, 1400] {
            over_veth(length, budget);
        }
    }
    Ok(())
}
