//! What the fuzz targets share: how they take an input apart.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod cable;

/// An input, taken apart from the front. When it is used up, numbers are zero and slices empty, so
/// every input means something.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// From the whole input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether it is used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.slice(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Up to `length` bytes.
    pub fn slice(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A slice whose length is its first byte.
    pub fn short(&mut self) -> &'a [u8] {
        let length = self.u8();
        self.slice(length.into())
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// XORs bytes into `target`: a count (at most 7), then place and value of each.
    pub fn flip(&mut self, target: &mut [u8]) {
        for _ in 0..self.u8() & 7 {
            let (at, value) = (usize::from(self.u16()), self.u8());
            if !target.is_empty() {
                let at = at % target.len();
                target[at] ^= value;
            }
        }
    }
}
