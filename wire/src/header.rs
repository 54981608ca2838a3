//! The 24-byte header that starts every Portcullis frame.
//!
//! It is three little-endian words: `version|type, flags, length, index` in the first, the counter
//! (or the handshake nonce) in the second, the admission tag in the third.

use crate::limits::*;
use crate::siphash;

/// Frame types, the low nibble of the first byte. Constants and not an enum: the value comes off
/// the wire, and an unknown one must stay a number.
pub mod kind {
    /// Workstation to Gateway: asks for a Challenge.
    pub const HELLO: u8 = 1;
    /// Gateway to Workstation: a cookie, the boot id and the Gateway's MAC.
    pub const CHALLENGE: u8 = 2;
    /// Workstation to Gateway: the cookie and Noise message 1.
    pub const INITIATION: u8 = 3;
    /// Gateway to Workstation: Noise message 2.
    pub const RESPONSE: u8 = 4;
    /// Both ways: sealed traffic.
    pub const DATA: u8 = 5;
    /// Gateway to Workstation: the Gateway has restarted.
    pub const RESET: u8 = 6;
}

/// A decoded header. `decode` has checked everything that can be checked without keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u8,
    /// Payload bytes after the header, without the AEAD tag.
    pub length: u16,
    /// Data: the receiver's session index. Others: the Workstation's key id.
    pub index: u32,
    /// Data: the frame counter. Others: the attempt's nonce.
    pub counter: u64,
    /// The admission tag.
    pub tag: u64,
}

/// Why 24 bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Header {
    /// A header whose tag is still to be computed.
    pub const fn new(kind: u8, length: u16, index: u32, counter: u64) -> Self {
        Self {
            kind,
            length,
            index,
            counter,
            tag: 0,
        }
    }

    /// The first two words, over which the admission tag runs.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let first = (VERSION << 4 | self.kind) as u64
            | (self.length as u64) << 16
            | (self.index as u64) << 32;
        [first, self.counter]
    }

    /// The wire form.
    #[inline(always)]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [first, second] = self.words();
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(&first.to_le_bytes());
        out[8..16].copy_from_slice(&second.to_le_bytes());
        out[16..24].copy_from_slice(&self.tag.to_le_bytes());
        out
    }

    /// The header in three words read little-endian from the wire.
    ///
    /// # Errors
    /// [`Malformed`] for another version, an unknown type, flags that are not zero, a length that
    /// the type does not have, or a Data counter or index outside its range.
    #[inline(always)]
    pub fn from_words(words: [u64; 3]) -> Result<Self, Malformed> {
        let [first, counter, tag] = words;
        let header = Self {
            kind: (first & 0x0f) as u8,
            length: (first >> 16) as u16,
            index: (first >> 32) as u32,
            counter,
            tag,
        };
        // The second byte is flags, all reserved.
        if (first >> 4) & 0x0f != VERSION as u64 || (first >> 8) & 0xff != 0 {
            return Err(Malformed);
        }
        let length = header.length as usize;
        let sound = match header.kind {
            kind::DATA => length <= MAX_PAYLOAD && counter < COUNTER_LIMIT && header.index != 0,
            kind::HELLO => length == HELLO_LEN,
            kind::CHALLENGE => length == CHALLENGE_LEN,
            kind::INITIATION => length == INITIATION_LEN,
            kind::RESPONSE => length == RESPONSE_LEN,
            kind::RESET => length == RESET_LEN,
            _ => false,
        };
        if sound { Ok(header) } else { Err(Malformed) }
    }

    /// As [`Header::from_words`], from the first 24 bytes of `frame`.
    ///
    /// # Errors
    /// [`Malformed`], also when `frame` is shorter than a header.
    #[inline]
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let (head, _) = frame.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Self::from_words([word(0), word(8), word(16)])
    }

    /// Bytes from the start of the header to the end of the frame, AEAD tag included for Data.
    #[inline(always)]
    pub const fn frame_len(&self) -> usize {
        let tag = if self.kind == kind::DATA { TAG_LEN } else { 0 };
        HEADER_LEN + self.length as usize + tag
    }

    /// The admission tag of a Data header under `key`: over bytes 0..16.
    #[inline(always)]
    pub fn data_tag(&self, key: [u64; 2]) -> u64 {
        let [first, second] = self.words();
        let mut hash = siphash::SipHash24::new(key);
        hash.word(first);
        hash.word(second);
        hash.finish()
    }

    /// The admission tag of any other header under `key`: over bytes 0..16 and the whole payload,
    /// whose length must be a multiple of eight (every fixed length is).
    pub fn handshake_tag(&self, key: [u64; 2], payload: &[u8]) -> u64 {
        let [first, second] = self.words();
        let mut hash = siphash::SipHash24::new(key);
        hash.word(first);
        hash.word(second);
        for chunk in payload.chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            hash.word(u64::from_le_bytes(bytes));
        }
        hash.finish()
    }
}

/// A session index: slot in the low half, a non-zero random generation in the high half.
#[inline(always)]
pub const fn session_index(slot: u16, generation: u16) -> u32 {
    (generation as u32) << 16 | slot as u32
}

/// The slot of a session index.
#[inline(always)]
pub const fn slot_of(index: u32) -> u16 {
    index as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(index in 1u32.., counter in 0..COUNTER_LIMIT, tag: u64, length in 0..=MAX_PAYLOAD as u16) {
            let header = Header { kind: kind::DATA, length, index, counter, tag };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn no_input_panics_and_what_decodes_encodes_to_the_same_bytes(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_header_with_any_fixed_field_off_is_malformed() {
        let good = Header::new(kind::DATA, 100, 7, 5).encode();
        assert!(Header::decode(&good).is_ok());
        for (at, value) in [
            (0, 0x25),
            (0, 0x15 ^ 0x0f),
            (0, 0x10),
            (0, 0x17),
            (1, 1),
            (1, 0x80),
            (3, 0x25),
            (12, 0x10),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(
                Header::decode(&bad),
                Err(Malformed),
                "byte {at} = {value:#x}"
            );
        }
        assert!(Header::decode(&good[..23]).is_err());
        for (kind, length) in [
            (kind::HELLO, 32),
            (kind::CHALLENGE, 32),
            (kind::INITIATION, 160),
            (kind::RESPONSE, 128),
            (kind::RESET, 32),
        ] {
            assert!(Header::decode(&Header::new(kind, length, 9, u64::MAX).encode()).is_ok());
            assert!(Header::decode(&Header::new(kind, length + 1, 9, 0).encode()).is_err());
        }
    }

    #[test]
    fn the_data_tag_and_layout_are_the_fixed_vector() {
        let mut header = Header::new(kind::DATA, 0x0123, 0x89ab_cdef, 0x0f_1122_3344);
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        header.tag = header.data_tag(key);
        let bytes = header.encode();
        assert_eq!(
            bytes[..16],
            [
                0x15, 0, 0x23, 0x01, 0xef, 0xcd, 0xab, 0x89, 0x44, 0x33, 0x22, 0x11, 0x0f, 0, 0, 0
            ]
        );
        use siphasher::sip::SipHasher24;
        assert_eq!(
            header.tag,
            SipHasher24::new_with_keys(key[0], key[1]).hash(&bytes[..16])
        );
    }
}
