//! How long keys are used, and for how much.

use wire::limits::{OVERHEAD, REJECT_AFTER, REKEY_AFTER, SEAL_BLOCKS, SECOND};

/// How long keys are used, and for how much. [`Lifetime::default`] is what docs/protocol.md says, and
/// nothing makes one that is longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    seal_blocks: u64,
    rekey_after: u64,
    reject_after: u64,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            seal_blocks: SEAL_BLOCKS,
            rekey_after: REKEY_AFTER,
            reject_after: REJECT_AFTER,
        }
    }
}

impl Lifetime {
    /// One no longer than the protocol's: for `blocks` sealed blocks, to be replaced after `rekey` and
    /// at an end after `reject` nanoseconds. A session cannot be seen to reach the protocol's own.
    #[must_use]
    pub fn at_most(blocks: u64, rekey: u64, reject: u64) -> Self {
        Self {
            seal_blocks: blocks.min(SEAL_BLOCKS),
            rekey_after: rekey.min(REKEY_AFTER),
            reject_after: reject.min(REJECT_AFTER),
        }
    }

    /// Reads `BLOCKS,REKEY,REJECT`, the latter two in milliseconds; empty ones are the protocol's.
    /// `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |text: &str| match text.trim() {
            "" => Some(u64::MAX),
            number => number.parse().ok(),
        };
        let mut fields = text.split(',').map(field);
        let mut next = || fields.next().flatten();
        let (blocks, rekey, reject) = (next()?, next()?, next()?);
        let nanoseconds = |milliseconds: u64| milliseconds.saturating_mul(SECOND / 1000);
        fields
            .next()
            .is_none()
            .then(|| Self::at_most(blocks, nanoseconds(rekey), nanoseconds(reject)))
    }

    /// Sealed blocks and frames per key and direction, at most.
    pub fn seal_blocks(self) -> u64 {
        self.seal_blocks
    }

    /// At so many blocks a rekey is due.
    pub fn rekey_blocks(self) -> u64 {
        self.seal_blocks / 8 * 7
    }

    /// At this age a session is to be replaced; up to [`Lifetime::rekey_jitter`] earlier.
    pub fn rekey_after(self) -> u64 {
        self.rekey_after
    }

    /// What is taken off [`Lifetime::rekey_after`] at most.
    pub fn rekey_jitter(self) -> u64 {
        self.rekey_after / 12
    }

    /// At this age a session is erased.
    pub fn reject_after(self) -> u64 {
        self.reject_after
    }
}

/// What a frame with `length` bytes of payload counts for: its blocks and itself. Associated data are
/// blocks only where they grow.
#[inline(always)]
pub(crate) const fn blocks(length: usize, authenticate_only: bool) -> u64 {
    let bytes = match authenticate_only {
        true => wire::limits::HEADER_LEN + length,
        false => length,
    };
    bytes.div_ceil(16) as u64 + 1
}

/// The same of a whole frame, from the header to the AEAD tag.
#[inline(always)]
pub(crate) fn blocks_of_frame(frame: usize, authenticate_only: bool) -> u64 {
    blocks(frame.saturating_sub(OVERHEAD), authenticate_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_can_be_shortened_and_never_prolonged() {
        let default = Lifetime::default();
        assert_eq!(Lifetime::at_most(u64::MAX, u64::MAX, u64::MAX), default);
        assert_eq!(Lifetime::parse(",,"), Some(default));
        assert_eq!(
            Lifetime::parse("99999999999999,999999999,18446744073709551615"),
            Some(default)
        );
        let short = Lifetime::parse("4000, 3000,6000").unwrap();
        assert_eq!(short.seal_blocks(), 4000);
        assert_eq!(short.rekey_blocks(), 3500);
        assert_eq!(short.rekey_after(), 3 * SECOND);
        assert_eq!(short.reject_after(), 6 * SECOND);
        for bad in ["", "1", "1,2", "1,2,3,4", "a,,", "-1,,"] {
            assert_eq!(Lifetime::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_protocols_own_is_what_it_says() {
        let lifetime = Lifetime::default();
        assert_eq!(lifetime.seal_blocks(), (1 << 36) - 1);
        assert_eq!(lifetime.rekey_blocks(), wire::limits::REKEY_BLOCKS);
        assert_eq!(lifetime.rekey_after(), 120 * SECOND);
        assert_eq!(lifetime.rekey_jitter(), 10 * SECOND);
        assert_eq!(lifetime.reject_after(), 180 * SECOND);
    }
}
