//! The records of the BPF maps, shared by the XDP program and userspace. One set of maps per port.
//!
//! | map | type | index | record | written by |
//! |---|---|---|---|---|
//! | `SESSIONS` | array, mmapable | session slot | [`SessionEntry`] | userspace |
//! | `FLOORS` | array, mmapable | session slot | [`Floor`] | the owner worker |
//! | `SEEN` | array, mmapable | session slot | [`Seen`] | XDP; userspace clears it at install |
//! | `CREDITS` | array, mmapable | Workstation slot | [`Credit`] | XDP `admitted`, the owner worker the rest |
//! | `KNOCKS` | hash | key id | [`KnockEntry`] | userspace installs, XDP counts |
//! | `EXPECTED` | array, mmapable | 0 | `u64` | a Workstation's control: nonce of the attempt under way |
//! | `SOURCES` | LRU hash | [`SourceKey`] | [`Bucket`] | XDP |
//! | `VERDICTS` | per-CPU array | verdict | `u64` | XDP |
//! | `WORKSTATION_VERDICTS` | per-CPU array | Workstation slot x verdicts + verdict | `u64` | XDP |
//! | `SOCKETS` | XSKMAP | receive queue | AF_XDP socket | userspace |

use crate::limits::*;

/// What XDP must know of a session. Fields are written before `index`, `index` is zeroed first;
/// the keys of a live entry are never changed in place.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct SessionEntry {
    /// The session index that frames must carry; 0 when the slot is free.
    pub index: u32,
    /// The Workstation's slot in `CREDITS` and `WORKSTATION_VERDICTS`.
    pub workstation: u32,
    /// The admission key of the receiving direction.
    pub key: [u64; 2],
    /// `ether`: the only source MAC address this session is accepted from.
    pub peer_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// The lowest counter that is still of interest: highest opened counter - 8191, or 0.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Floor {
    /// The counter. Too low is harmless.
    pub floor: u64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// For each counter modulo 8192, the highest counter admitted, as `counter / 8192 + 1`; 0 for none.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Seen {
    /// The cells.
    pub cells: [u32; SEEN_CELLS],
}

/// The cell of `counter` in [`Seen`] and the value that marks it.
#[inline(always)]
pub const fn seen_cell(counter: u64) -> (usize, u32) {
    (
        (counter % SEEN_CELLS as u64) as usize,
        (counter / SEEN_CELLS as u64) as u32 + 1,
    )
}

/// A Workstation's credit: frames admitted and not yet consumed by its worker are fewer than
/// `limit`. The two writers have a cache line each.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Credit {
    /// Frames the worker has taken off the ring.
    pub consumed: u64,
    /// Frames that may be in flight; 0 admits none.
    pub limit: u64,
    /// Zero.
    pub reserved: [u64; 6],
    /// Frames XDP has redirected to the ring.
    pub admitted: u64,
    /// Zero.
    pub reserved_too: [u64; 7],
}

impl Credit {
    /// Whether one more frame may be admitted. A worker that has reconciled a loss may be ahead of
    /// `admitted` for a moment, hence the signed difference.
    #[inline(always)]
    pub const fn has_room(admitted: u64, consumed: u64, limit: u64) -> bool {
        (admitted.wrapping_sub(consumed) as i64) < limit as i64
    }
}

/// A token bucket as a theoretical arrival time (GCRA, ITU-T I.371): full when zero.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Bucket {
    /// Nanoseconds of the clock that `take` is given.
    pub arrival: u64,
}

impl Bucket {
    /// Takes a token of a bucket that gains one each `interval` and holds `burst`. `now` is
    /// monotonic nanoseconds. False when there is none; nothing is taken then.
    #[inline(always)]
    pub fn take(&mut self, now: u64, (interval, burst): (u64, u64)) -> bool {
        let start = if self.arrival > now {
            self.arrival
        } else {
            now
        };
        if start - now > interval * (burst - 1) {
            return false;
        }
        self.arrival = start + interval;
        true
    }
}

/// What XDP must know of a registered Workstation (or, at the Workstation, of its Gateway) to admit
/// handshake frames.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct KnockEntry {
    /// The admission key of handshake frames towards this side.
    pub key: [u64; 2],
    /// The Workstation's slot in `WORKSTATION_VERDICTS`.
    pub workstation: u32,
    /// Where the next nonce goes in `nonces`.
    pub next: u32,
    /// The nonces last admitted by [`KnockEntry::remember`].
    pub nonces: [u64; NONCES_REMEMBERED],
    /// The bucket of Hello (Challenge and Reset at the Workstation), over all sources.
    pub hello: Bucket,
    /// The bucket of Initiation (Response at the Workstation), over all sources.
    pub initiation: Bucket,
}

impl KnockEntry {
    /// Whether `nonce` is among the last admitted ones.
    #[inline(always)]
    pub fn knows(&self, nonce: u64) -> bool {
        let mut known = false;
        for seen in self.nonces {
            known |= seen == nonce;
        }
        known
    }

    /// Remembers an admitted nonce.
    #[inline(always)]
    pub fn remember(&mut self, nonce: u64) {
        self.nonces[self.next as usize % NONCES_REMEMBERED] = nonce;
        self.next = self.next.wrapping_add(1);
    }
}

/// Where a frame comes from, as far as buckets tell sources apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    /// The MAC address on `ether`; on `udp` the IPv4 address, or the first 64 bits of the IPv6 address, of which
    /// a host can have all others at will.
    pub address: u64,
    /// What that is.
    pub kind: SourceKind,
}

/// What a [`Source`]'s address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SourceKind {
    /// A MAC address.
    Mac = 0,
    /// An IPv4 address.
    V4 = 4,
    /// The first half of an IPv6 address.
    V6 = 6,
}

impl Source {
    /// A source of an address.
    #[inline(always)]
    pub const fn new(kind: SourceKind, address: u64) -> Self {
        Self { address, kind }
    }

    /// A MAC address.
    #[inline(always)]
    pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self::new(
            SourceKind::Mac,
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
        )
    }
}

/// The key of a handshake bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceKey {
    /// The frame's source.
    pub address: u64,
    /// The Workstation's key id.
    pub key_id: u32,
    /// The frame's type.
    pub kind: u8,
    /// What the address is.
    pub of: SourceKind,
    /// Zero.
    pub reserved: u16,
}

impl SourceKey {
    /// The bucket of frames of a type that name a key id and come from a source.
    #[inline(always)]
    pub const fn new(key_id: u32, kind: u8, source: Source) -> Self {
        Self {
            address: source.address,
            key_id,
            kind,
            of: source.kind,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        let rate = (SECOND / 5, 10);
        let mut now = 1_000 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.take(now, rate)).count(), 10);
        now += SECOND;
        assert_eq!((0..100).filter(|_| bucket.take(now, rate)).count(), 5);
        now += 1_000 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.take(now, rate)).count(), 10);
    }

    #[test]
    fn credit_has_room_below_the_limit_and_when_consumed_is_ahead() {
        assert!(Credit::has_room(63, 0, 64));
        assert!(!Credit::has_room(64, 0, 64));
        assert!(Credit::has_room(0, 5, 64));
        assert!(Credit::has_room(3, u64::MAX - 10, 64));
        assert!(!Credit::has_room(0, 0, 0));
    }

    #[test]
    fn records_have_the_sizes_that_the_maps_are_made_with() {
        assert_eq!(size_of::<SessionEntry>(), 64);
        assert_eq!(size_of::<Floor>(), 64);
        assert_eq!(size_of::<Seen>(), 4 * SEEN_CELLS);
        assert_eq!(size_of::<Credit>(), 128);
        assert_eq!(size_of::<KnockEntry>(), 104);
        assert_eq!(size_of::<SourceKey>(), 16);
    }
}
