//! Watching drops: what userspace asks of the XDP program, and the samples it gives.
//!
//! | map | type | record | written by |
//! |---|---|---|---|
//! | `WATCH` | array of one, mmapable | [`Watch`] | userspace; XDP the buckets and `missed` |
//! | `SAMPLES` | ring buffer of [`RING`] bytes | [`Sample`] | XDP |
//!
//! While nobody watches, a dropped frame costs one word that is read and compared, and an admitted one
//! nothing. A full ring loses samples, and never a frame.

use crate::tables::Bucket;

/// The bytes of a frame that a sample holds at most: all headers, and no whole handshake.
pub const SNAPLEN: usize = 192;
/// Bytes of the ring.
pub const RING: u32 = 128 << 10;
/// More verdicts than any kind of port has.
pub const VERDICTS: usize = 16;
/// Of a frame of nobody that is known.
pub const NOBODY: u32 = u32::MAX;

/// What is watched.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Watch {
    /// A bit for each verdict whose frames are sampled; 0 while nobody watches. Written last.
    pub verdicts: u64,
    /// The only Workstation (or pin) whose frames are sampled, plus 1; 0 for all frames.
    pub only: u64,
    /// Nanoseconds between two samples of a verdict.
    pub interval: u64,
    /// Samples of a verdict that may come at once; not 0.
    pub burst: u64,
    /// Samples that the ring had no room for.
    pub missed: u64,
    /// Zero.
    pub reserved: [u64; 3],
    /// One for each verdict, so that a flood with one does not hide another.
    pub buckets: [Bucket; VERDICTS],
}

/// A dropped frame.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Sample {
    /// When, by CLOCK_MONOTONIC.
    pub time: u64,
    /// The frame's bytes.
    pub length: u32,
    /// How many of them are in `bytes`.
    pub captured: u32,
    /// The verdict.
    pub verdict: u32,
    /// The Workstation (or pin) that it was found to be of, or [`NOBODY`].
    pub of: u32,
    /// The receive queue it came by.
    pub queue: u32,
    /// Zero.
    pub reserved: u32,
    /// Its first bytes.
    pub bytes: [u8; SNAPLEN],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_sizes_that_the_maps_are_made_with() {
        assert_eq!(size_of::<Watch>(), 192);
        assert_eq!(size_of::<Sample>(), 32 + SNAPLEN);
        assert!(RING.is_power_of_two() && RING >= 4096);
        const { assert!(crate::Verdict::COUNT <= VERDICTS && crate::PinnedVerdict::COUNT <= VERDICTS) }
    }
}
