//! The `virtio_net_hdr` that stands before every packet read from or written to the TUN: what is
//! still to be done to it (checksum, segmentation) and where.
//!
//! Its 16-bit fields are in the machine's own byte order: [`super::tun`] leaves the device in
//! legacy mode (no `IFF_VNET_LE`), in which the kernel uses native order.

/// Bytes of the header (without `num_buffers`).
pub const LEN: usize = 10;

/// `flags`: the checksum is partial, see [`VnetHeader::checksum_start`].
pub const FLAG_NEEDS_CHECKSUM: u8 = 1;
/// `flags`: the checksum was verified by the device.
pub const FLAG_DATA_VALID: u8 = 2;

/// `gso_type`: one packet.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP to be fragmented. Never asked for, so never expected.
pub const GSO_UDP_FRAGMENTS: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: equal datagrams of one flow (USO, kernel 6.2).
pub const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the TCP super-packet has CWR set, which only its first segment keeps.
pub const GSO_ECN: u8 = 0x80;

/// A decoded header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`FLAG_NEEDS_CHECKSUM`], [`FLAG_DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` constants, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// A hint: bytes of the headers, or of the part the kernel had in one piece.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksummed part starts, from the IP header on.
    pub checksum_start: u16,
    /// Where the checksum stands, from `checksum_start` on. The field holds the sum of the pseudo
    /// header until it is finished.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Splits a read into its header and its packet; `None` when it is too short for a header.
    pub fn split(buffer: &[u8]) -> Option<(Self, &[u8])> {
        let (head, packet) = buffer.split_first_chunk::<LEN>()?;
        Some((Self::from_bytes(head), packet))
    }

    /// Decodes.
    pub fn from_bytes(bytes: &[u8; LEN]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: field(2),
            gso_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        }
    }

    /// Encodes.
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }

    /// Whether the checksum is still to be finished.
    pub fn needs_checksum(&self) -> bool {
        self.flags & FLAG_NEEDS_CHECKSUM != 0
    }

    /// The `GSO_` constant without [`GSO_ECN`].
    pub fn gso(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_encoding() {
        let header = VnetHeader {
            flags: FLAG_NEEDS_CHECKSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            header_len: 0x0102,
            gso_size: 0x0304,
            checksum_start: 0x0506,
            checksum_offset: 0x0708,
        };
        let bytes = header.to_bytes();
        assert_eq!(VnetHeader::from_bytes(&bytes), header);
        assert_eq!(header.gso(), GSO_TCPV6);
        assert_eq!(&bytes[4..6], &0x0304u16.to_ne_bytes());
        let buffer = [&bytes[..], b"packet"].concat();
        assert_eq!(
            VnetHeader::split(&buffer),
            Some((header, b"packet".as_slice()))
        );
        assert_eq!(VnetHeader::split(&bytes[..9]), None);
    }
}
