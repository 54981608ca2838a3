//! Samples of the frames that a wall drops: turned on and off, and read.
//!
//! Turning them on writes words that the XDP program reads; neither a program nor a link changes, so
//! there is no moment in which the wall could be open.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Map, MapData, RingBuf};
use wire::limits::SECOND;
use wire::watch::{NOBODY, Watch};

use super::tables::{Shared, word};

/// The head of a sample, before its bytes.
const HEAD: usize = 32;

/// What is to be sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// A bit for each verdict; 0 turns it off.
    pub verdicts: u64,
    /// The only Workstation (or pin) whose frames are sampled; `None` for all.
    pub only: Option<u32>,
    /// Samples a second, of each verdict, at most.
    pub rate: u32,
}

/// How many samples of a rate may come at once: as many as fit in the ring.
pub const fn burst(rate: u64) -> u64 {
    if rate < 256 { rate } else { 256 }
}

/// A frame that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped<'a> {
    /// When, by CLOCK_MONOTONIC.
    pub time: u64,
    /// The frame's bytes.
    pub length: u32,
    /// The verdict's number.
    pub verdict: u32,
    /// The Workstation (or pin) that it was found to be of.
    pub of: Option<u32>,
    /// The receive queue it came by.
    pub queue: u32,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// The samples of one wall.
pub struct Samples {
    watch: Shared<Watch>,
    ring: Mutex<RingBuf<MapData>>,
    descriptors: [OwnedFd; 2],
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples").finish_non_exhaustive()
    }
}

impl Samples {
    /// Of the maps `WATCH` and `SAMPLES`.
    pub(super) fn of_maps(watch: OwnedFd, samples: OwnedFd) -> io::Result<Self> {
        let copy = samples.try_clone()?;
        let data = MapData::from_fd(copy).map_err(io::Error::other)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
        Ok(Self {
            watch: Shared::map(Some(watch.as_fd()), 1)?,
            ring: Mutex::new(ring),
            descriptors: [watch, samples],
        })
    }

    /// To be handed to another process.
    pub fn descriptors(&self) -> &[OwnedFd; 2] {
        &self.descriptors
    }

    /// Has frames sampled from now on, or none any more.
    pub fn want(&self, wanted: &Wanted) {
        let Some(watch) = self.watch.get(0) else {
            return;
        };
        let rate = u64::from(wanted.rate.max(1));
        let verdicts = word!(watch, verdicts, AtomicU64);
        // What it goes by is written while nothing goes by it.
        verdicts.store(0, Ordering::SeqCst);
        word!(watch, interval, AtomicU64).store(SECOND / rate, Ordering::Relaxed);
        word!(watch, burst, AtomicU64).store(burst(rate), Ordering::Relaxed);
        let only = wanted.only.map_or(0, |only| u64::from(only) + 1);
        word!(watch, only, AtomicU64).store(only, Ordering::Relaxed);
        verdicts.store(wanted.verdicts, Ordering::SeqCst);
    }

    /// Samples that the ring had no room for, ever.
    pub fn missed(&self) -> u64 {
        self.watch.get(0).map_or(0, |watch| {
            word!(watch, missed, AtomicU64).load(Ordering::Relaxed)
        })
    }

    /// Gives each sample that waits to `take`, oldest first, and no more than `most`: how many.
    pub fn drain(&self, most: usize, mut take: impl FnMut(Dropped<'_>)) -> usize {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for count in 0..most {
            match ring.next() {
                Some(item) => {
                    if let Some(dropped) = parse(&item) {
                        take(dropped);
                    }
                }
                None => return count,
            }
        }
        most
    }
}

/// A [`wire::watch::Sample`] as the kernel's memory has it.
fn parse(sample: &[u8]) -> Option<Dropped<'_>> {
    let (head, bytes) = sample.split_first_chunk::<HEAD>()?;
    let half = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&head[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let of = half(20);
    Some(Dropped {
        time: u64::from(half(0)) | u64::from(half(4)) << 32,
        length: half(8),
        verdict: half(16),
        of: (of != NOBODY).then_some(of),
        queue: half(24),
        bytes: bytes.get(..half(12) as usize)?,
    })
}
