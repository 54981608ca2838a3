//! Samples in a pcapng file, each with its verdict as a comment: `tshark -r FILE -Y 'frame.comment'`.

use super::Dropped;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;
use wire::watch::SNAPLEN;

/// Nanoseconds, as a power of ten.
const RESOLUTION: u8 = 9;

/// A capture that is being written. Each packet is there as soon as [`Writer::put`] has returned.
pub struct Writer<W: Write> {
    pcapng: PcapNgWriter<W>,
    /// The ports that have an interface of the capture, by its number.
    ports: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// What the system answered.
    pub fn new(writer: W) -> io::Result<Self> {
        Ok(Self {
            pcapng: PcapNgWriter::new(writer).map_err(plain)?,
            ports: Vec::new(),
        })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// What the system answered.
    pub fn put(&mut self, dropped: &Dropped) -> io::Result<()> {
        let known = self.ports.iter().position(|port| *port == dropped.port);
        let interface_id = match known {
            Some(at) => at,
            None => self.introduce(&dropped.port)?,
        };
        let of = match &dropped.workstation {
            Some(name) => format!(", of {name}"),
            None => String::new(),
        };
        let inner = hex::decode(&dropped.inner).map_err(io::Error::other)?;
        let inner = match inner.is_empty() {
            true => String::new(),
            false => format!("; in it {}", super::packet(&inner)),
        };
        let comment = format!("dropped by Portcullis: {}{of}{inner}", dropped.verdict);
        let block = EnhancedPacketBlock {
            interface_id: u32::try_from(interface_id).map_err(io::Error::other)?,
            timestamp: Duration::from_nanos(dropped.time),
            original_len: dropped.length,
            data: Cow::Owned(hex::decode(&dropped.head).map_err(io::Error::other)?),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        self.pcapng.write_pcapng_block(block).map_err(plain)?;
        self.pcapng.get_mut().flush()
    }

    /// Ends it.
    pub fn into_inner(self) -> W {
        self.pcapng.into_inner()
    }

    fn introduce(&mut self, port: &str) -> io::Result<usize> {
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN as u32);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(Cow::Owned(port.to_owned())),
            InterfaceDescriptionOption::IfTsResol(RESOLUTION),
        ];
        self.pcapng.write_pcapng_block(interface).map_err(plain)?;
        self.ports.push(port.to_owned());
        Ok(self.ports.len() - 1)
    }
}

fn plain(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_as_it_was() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let dropped = |port: &str, head: &str| Dropped {
            time: 1_700_000_000_123_456_789,
            port: port.into(),
            queue: Some(0),
            verdict: "bad_tag".into(),
            workstation: Some("alpha".into()),
            length: 1500,
            inner: String::new(),
            head: head.into(),
        };
        for (port, head) in [("eth1", "0102030405"), ("eth2", "06"), ("eth1", "")] {
            writer.put(&dropped(port, head)).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("drops.pcapng");
        std::fs::write(&path, writer.into_inner()).unwrap();
        let frames = crate::explain::read(path.to_str().unwrap()).unwrap();
        let read: Vec<_> = frames.frames.iter().map(|f| (f.length, &*f.head)).collect();
        assert_eq!(read, [(1500, "0102030405"), (1500, "06"), (1500, "")]);
    }
}
