//! A fast sender: batches through `sendmmsg`, past the traffic control hook, bounded in count and
//! time.

use std::time::{Duration, Instant};

use crate::rig::{PacketSocket, interrupted};

/// Frames sent in one system call.
const BATCH: usize = 64;

/// Where a flood ends: at the first of the bounds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Frames.
    pub frames: u64,
    /// Time.
    pub time: Duration,
    /// Frames a second; 0 for as fast as the machine can.
    pub rate: u64,
}

impl Bounds {
    /// As fast as the machine can for `time`, and no more than 5 million frames.
    pub fn full_speed(time: Duration) -> Self {
        Self {
            frames: 5_000_000,
            time,
            rate: 0,
        }
    }
}

/// Sends frames that `next` writes (given the frame's number and a buffer that holds an earlier
/// frame) until a bound is reached, and says how many the kernel took.
pub fn flood(
    socket: &PacketSocket,
    bounds: Bounds,
    mut next: impl FnMut(u64, &mut Vec<u8>),
) -> u64 {
    let mut buffers = vec![Vec::new(); BATCH];
    let start = Instant::now();
    let (mut made, mut sent) = (0, 0);
    while made < bounds.frames && start.elapsed() < bounds.time && !interrupted() {
        let mut count = BATCH.min((bounds.frames - made) as usize);
        if bounds.rate > 0 {
            let due = (start.elapsed().as_secs_f64() * bounds.rate as f64) as u64;
            if due <= made {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            count = count.min((due - made) as usize);
        }
        for buffer in &mut buffers[..count] {
            next(made, buffer);
            made += 1;
        }
        sent += socket.send_batch(buffers[..count].iter().map(Vec::as_slice)) as u64;
    }
    sent
}
