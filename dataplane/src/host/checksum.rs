//! The Internet checksum (RFC 1071), as the segmenter and the coalescer need it: over many
//! kilobytes, and while copying.
//!
//! The sum is kept in the machine's byte order and in 64 bits; it is folded and put into network
//! order only at the end (RFC 1071, section 2, "byte order independence").

/// An unfinished one's-complement sum. Pieces are added in any order; each piece starts at an even
/// offset of what is summed, and only the last may have an odd length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed yet.
    pub const fn new() -> Self {
        Self(0)
    }

    /// The pseudo header of TCP or UDP over IPv4. `len` is that of the transport header and payload.
    pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> Self {
        Self::new()
            .bytes(&source)
            .bytes(&destination)
            .word(protocol.into())
            .word(len)
    }

    /// The pseudo header of TCP or UDP over IPv6.
    pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, len: u32) -> Self {
        Self::new()
            .bytes(&source)
            .bytes(&destination)
            .bytes(&len.to_be_bytes())
            .word(protocol.into())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        if bytes.len() >= WIDE {
            return self.add(wide::sum(bytes));
        }
        self.add(sum_narrow(bytes))
    }

    /// Adds a 16-bit value that stands in network order.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        self.add(u64::from(value.to_be()))
    }

    /// Takes back a 16-bit value that was added.
    #[must_use]
    pub fn without(self, value: u16) -> Self {
        self.word(!value)
    }

    /// Copies `from` to `to`, of the same length, and adds it, in one pass.
    ///
    /// # Panics
    /// When the lengths differ.
    #[must_use]
    pub fn copy(self, from: &[u8], to: &mut [u8]) -> Self {
        assert_eq!(from.len(), to.len(), "copy of unequal lengths");
        if from.len() >= WIDE {
            return self.add(wide::copy(from, to));
        }
        to.copy_from_slice(from);
        self.add(sum_narrow(from))
    }

    /// Adds another sum.
    #[must_use]
    pub fn sum(self, other: Self) -> Self {
        self.add(other.0)
    }

    /// The folded sum, as the value that stands in network order. A pseudo header's goes into a
    /// checksum field that the kernel finishes.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the folded sum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum of UDP, where 0 stands for "none" and is sent as 0xffff.
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// Whether what was summed, its checksum field included, is intact.
    pub fn is_intact(self) -> bool {
        self.folded() == 0xffff
    }

    fn add(self, more: u64) -> Self {
        // End-around carry: 2^64 is 1 modulo 2^16 - 1.
        let (sum, carry) = self.0.overflowing_add(more);
        Self(sum + u64::from(carry))
    }
}

/// The checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// A checksum after one of the words it covers changed (RFC 1624, equation 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::new().word(!checksum).without(old).word(new).checksum()
}

/// From this many bytes on the wide loop pays.
const WIDE: usize = 64;

fn sum_narrow(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words
        .iter()
        .map(|w| u64::from(u32::from_ne_bytes(*w)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

/// The loops over many blocks: low and high halves of 64-bit words are summed apart, so nothing
/// overflows and nothing needs a shuffle. Written out for AVX2, because the compiler's own
/// vectorisation of the portable loop is four times slower.
mod wide {
    const STEP: usize = 64;

    /// Less than a block, as one that ends in zeros: these add nothing.
    #[inline(always)]
    fn padded(rest: &[u8]) -> [u8; STEP] {
        let mut block = [0; STEP];
        block[..rest.len()].copy_from_slice(rest);
        block
    }

    #[derive(Default)]
    struct Lanes {
        low: [u64; STEP / 8],
        high: [u64; STEP / 8],
    }

    impl Lanes {
        #[inline]
        fn add(&mut self, block: &[u8; STEP]) {
            let (words, _) = block.as_chunks::<8>();
            for ((word, low), high) in words.iter().zip(&mut self.low).zip(&mut self.high) {
                let word = u64::from_ne_bytes(*word);
                *low += word & 0xffff_ffff;
                *high += word >> 32;
            }
        }

        fn total(&self) -> u64 {
            self.low.iter().sum::<u64>() + self.high.iter().sum::<u64>()
        }
    }

    fn sum_portable(bytes: &[u8]) -> u64 {
        let (blocks, rest) = bytes.as_chunks::<STEP>();
        let mut lanes = Lanes::default();
        for block in blocks {
            lanes.add(block);
        }
        lanes.add(&padded(rest));
        lanes.total()
    }

    fn copy_portable(from: &[u8], to: &mut [u8]) -> u64 {
        to.copy_from_slice(from);
        sum_portable(from)
    }

    #[cfg(target_arch = "x86_64")]
    mod avx2 {
        use super::{STEP, padded};
        use std::arch::x86_64::*;

        #[derive(Clone, Copy)]
        struct Lanes {
            low: [__m256i; 2],
            high: [__m256i; 2],
        }

        impl Lanes {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn new() -> Self {
                let zero = _mm256_setzero_si256();
                Self {
                    low: [zero; 2],
                    high: [zero; 2],
                }
            }

            /// Adds a block and gives it.
            #[inline]
            #[target_feature(enable = "avx2")]
            fn add(&mut self, block: &[u8; STEP]) -> [__m256i; 2] {
                // SAFETY: both loads are within the 64 bytes, and need no alignment.
                let words = unsafe {
                    let at = block.as_ptr().cast::<__m256i>();
                    [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
                };
                let mask = _mm256_set1_epi64x(0xffff_ffff);
                self.low[0] = _mm256_add_epi64(self.low[0], _mm256_and_si256(words[0], mask));
                self.low[1] = _mm256_add_epi64(self.low[1], _mm256_and_si256(words[1], mask));
                self.high[0] = _mm256_add_epi64(self.high[0], _mm256_srli_epi64(words[0], 32));
                self.high[1] = _mm256_add_epi64(self.high[1], _mm256_srli_epi64(words[1], 32));
                words
            }

            #[inline]
            #[target_feature(enable = "avx2")]
            fn total(self) -> u64 {
                let low = _mm256_add_epi64(self.low[0], self.low[1]);
                let high = _mm256_add_epi64(self.high[0], self.high[1]);
                let all = _mm256_add_epi64(low, high);
                let half = _mm_add_epi64(
                    _mm256_castsi256_si128(all),
                    _mm256_extracti128_si256::<1>(all),
                );
                let sum = _mm_add_epi64(half, _mm_unpackhi_epi64(half, half));
                _mm_cvtsi128_si64(sum) as u64
            }
        }

        #[target_feature(enable = "avx2")]
        pub(super) fn sum(bytes: &[u8]) -> u64 {
            let (blocks, rest) = bytes.as_chunks::<STEP>();
            let mut lanes = Lanes::new();
            for block in blocks {
                lanes.add(block);
            }
            lanes.add(&padded(rest));
            lanes.total()
        }

        #[target_feature(enable = "avx2")]
        pub(super) fn copy(from: &[u8], to: &mut [u8]) -> u64 {
            let (blocks, rest) = from.as_chunks::<STEP>();
            let (to_blocks, to_rest) = to.as_chunks_mut::<STEP>();
            let mut lanes = Lanes::new();
            for (block, to) in blocks.iter().zip(to_blocks) {
                let words = lanes.add(block);
                // SAFETY: both stores are within the 64 bytes, and need no alignment.
                unsafe {
                    let at = to.as_mut_ptr().cast::<__m256i>();
                    _mm256_storeu_si256(at, words[0]);
                    _mm256_storeu_si256(at.add(1), words[1]);
                }
            }
            to_rest.copy_from_slice(rest);
            lanes.add(&padded(rest));
            lanes.total()
        }
    }

    pub(super) fn sum(bytes: &[u8]) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the only requirement is AVX2, which was just detected.
            return unsafe { avx2::sum(bytes) };
        }
        sum_portable(bytes)
    }

    pub(super) fn copy(from: &[u8], to: &mut [u8]) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the only requirement is AVX2, which was just detected.
            return unsafe { avx2::copy(from, to) };
        }
        copy_portable(from, to)
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_portable_loops_equal_the_detected_ones() {
            let bytes: Vec<u8> = (0..3000u32).map(|i| (i * 7 + i / 251) as u8).collect();
            for len in 0..bytes.len() {
                let from = &bytes[..len];
                let mut to = vec![0; len];
                assert_eq!(super::sum_portable(from), super::sum(from));
                assert_eq!(super::copy_portable(from, &mut to), super::sum(from));
                assert_eq!(to, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_equals_etherparse(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let theirs = Sum16BitWords::new().add_slice(&bytes).ones_complement();
            prop_assert_eq!(checksum(&bytes), u16::from_be(theirs));
        }

        #[test]
        fn a_copy_is_equal_and_summed(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let mut to = vec![0xaa; bytes.len()];
            let sum = Sum::new().copy(&bytes, &mut to);
            prop_assert_eq!(&to, &bytes);
            prop_assert_eq!(sum.checksum(), checksum(&bytes));
        }

        #[test]
        fn pieces_sum_as_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..1000),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(bytes.len() + 1) & !1;
            let sum = Sum::new().bytes(&bytes[cut..]).sum(Sum::new().bytes(&bytes[..cut]));
            prop_assert_eq!(sum.checksum(), checksum(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..200),
            at in any::<prop::sample::Index>(),
            new in any::<u16>(),
        ) {
            // All zero but for the changed word is the one case where +0 and -0 differ.
            bytes.push(1);
            bytes.push(1);
            let at = at.index(bytes.len() / 2 - 1) * 2;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }

        #[test]
        fn pseudo_headers_equal_etherparse(
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            v4 in any::<[[u8; 4]; 2]>(),
            v6 in any::<[[u8; 16]; 2]>(),
            ports in any::<[u16; 2]>(),
        ) {
            let len = payload.len() as u16 + 8;
            let mut udp = etherparse::UdpHeader {
                source_port: ports[0],
                destination_port: ports[1],
                length: len,
                checksum: 0,
            };
            let ours = |pseudo: Sum, udp: &etherparse::UdpHeader| {
                pseudo.bytes(&udp.to_bytes()).bytes(&payload).udp_checksum()
            };
            let ip4 = etherparse::Ipv4Header::new(len, 64, etherparse::IpNumber::UDP, v4[0], v4[1])
                .unwrap();
            prop_assert_eq!(
                ours(Sum::pseudo_v4(v4[0], v4[1], 17, len), &udp),
                udp.calc_checksum_ipv4(&ip4, &payload).unwrap()
            );
            let ip6 = etherparse::Ipv6Header {
                source: v6[0],
                destination: v6[1],
                next_header: etherparse::IpNumber::UDP,
                payload_length: len,
                ..Default::default()
            };
            let check = udp.calc_checksum_ipv6(&ip6, &payload).unwrap();
            prop_assert_eq!(ours(Sum::pseudo_v6(v6[0], v6[1], 17, len.into()), &udp), check);
            udp.checksum = check;
            prop_assert!(
                Sum::pseudo_v6(v6[0], v6[1], 17, len.into())
                    .bytes(&udp.to_bytes())
                    .bytes(&payload)
                    .is_intact()
            );
        }
    }
}
