//! A host interface in memory: tests and benchmarks put in what the worker is to read and look at
//! what it wrote. Buffers are kept and used again, so nothing is allocated once it has warmed up.

use super::Host;
use super::vnet::VnetHeader;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::BorrowedFd;

#[derive(Debug)]
struct Waiting {
    header: VnetHeader,
    lies: Range<usize>,
}

/// The host interface in memory.
#[derive(Debug, Default)]
pub struct MemoryHost {
    /// What is to be read, from `read` on, and where it lies in `store`.
    incoming: Vec<Waiting>,
    read: usize,
    store: Vec<u8>,
    written: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    failures: VecDeque<io::ErrorKind>,
    discard: bool,
    writes: u64,
    bytes: u64,
    udp_segments: bool,
}

impl MemoryHost {
    /// An empty one, which accepts UDP super-packets.
    pub fn new() -> Self {
        Self {
            udp_segments: true,
            ..Self::default()
        }
    }

    /// One that counts what is written and keeps nothing.
    pub fn discarding() -> Self {
        Self {
            discard: true,
            ..Self::new()
        }
    }

    /// Whether UDP super-packets are accepted.
    #[must_use]
    pub fn with_udp_segments(mut self, accepted: bool) -> Self {
        self.udp_segments = accepted;
        self
    }

    /// Puts in what a read will give: header and packet.
    pub fn push(&mut self, header: VnetHeader, packet: &[u8]) {
        let start = self.store.len();
        self.store.extend_from_slice(packet);
        self.incoming.push(Waiting {
            header,
            lies: start..self.store.len(),
        });
    }

    /// Lets the next write fail so.
    pub fn fail_next(&mut self, kind: io::ErrorKind) {
        self.failures.push_back(kind);
    }

    /// What was written, in order, each with its header.
    pub fn written(&self) -> &[Vec<u8>] {
        &self.written
    }

    /// Forgets what was written, keeping its memory.
    pub fn clear(&mut self) {
        self.spare.append(&mut self.written);
    }

    /// Writes since it was made, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.writes, self.bytes)
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }
}

impl Host for MemoryHost {
    #[inline]
    fn read(
        &mut self,
        header: &mut VnetHeader,
        first: &mut [u8],
        rest: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let Some(waiting) = self.incoming.get(self.read) else {
            return Ok(None);
        };
        let packet = self.store.get(waiting.lies.clone());
        let packet = packet.ok_or(io::ErrorKind::InvalidData)?;
        match first.get_mut(..packet.len()) {
            Some(whole) => whole.copy_from_slice(packet),
            None => {
                let (start, end) = packet.split_at(first.len());
                let rest = rest
                    .get_mut(..end.len())
                    .ok_or(io::ErrorKind::InvalidInput)?;
                first.copy_from_slice(start);
                rest.copy_from_slice(end);
            }
        }
        *header = waiting.header;
        let len = packet.len();
        self.read += 1;
        if self.read == self.incoming.len() {
            self.read = 0;
            self.incoming.clear();
            self.store.clear();
        }
        Ok(Some(len))
    }

    #[inline]
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(kind) = self.failures.pop_front() {
            return Err(kind.into());
        }
        self.writes += 1;
        for part in parts {
            self.bytes += part.len() as u64;
        }
        if !self.discard {
            let mut buffer = self.buffer();
            for part in parts {
                buffer.extend_from_slice(part);
            }
            self.written.push(buffer);
        }
        Ok(())
    }

    fn accepts_udp_segments(&self) -> bool {
        self.udp_segments
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
