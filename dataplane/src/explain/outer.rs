//! What is wrong with what is around a frame on `udp`.

use wire::limits::{ETH_LEN, HEADER_LEN, UDP_V4_LEN, UDP_V6_LEN};
use wire::read::IPV4;
use wire::udp::is_extension;
use wire::{Frame, Udp, Verdict};

use super::{Captured, ethertype_name, mac};
use crate::host::checksum::checksum;

/// Why a frame got this verdict before its Portcullis header was looked at.
pub(super) fn fault(verdict: Verdict, udp: &Udp, own: [u8; 6], frame: &Captured<'_>) -> String {
    let port = udp.port;
    let found = frame.be16(12).unwrap_or_default();
    match verdict {
        Verdict::Short => format!(
            "{} bytes have no room for the headers of Ethernet, IP and UDP",
            frame.length
        ),
        Verdict::Passed => format!(
            "no datagram to the tunnel's port {port}: on this port, which is shared, the kernel deals with it"
        ),
        Verdict::Foreign => format!(
            "{found:#06x}{} that is no datagram to the tunnel's port {port}: nothing else is let in on this port",
            ethertype_name(found)
        ),
        Verdict::Misdirected => match frame.mac(0) {
            Some(destination) if destination != own => format!(
                "{} is not this port's MAC address, which is {}",
                mac(destination),
                mac(own)
            ),
            _ => "it is for an IP address that is not this port's".into(),
        },
        Verdict::Answered => {
            "it asks for the hardware address of this port, and is answered without the kernel"
                .into()
        }
        Verdict::RateLimited => {
            "its sender asks too often for the hardware address of this port".into()
        }
        _ => malformed(frame).into(),
    }
}

fn malformed(frame: &Captured<'_>) -> &'static str {
    let be16 = |at| frame.be16(at).unwrap_or_default();
    let (start, v4) = (be16(ETH_LEN), be16(12) == IPV4);
    let next = (be16(20) >> 8) as u8;
    let (whole, length, checked) = match v4 {
        true => (
            usize::from(be16(16)),
            usize::from(be16(38)) + 20,
            UDP_V4_LEN,
        ),
        false => (usize::from(be16(18)), usize::from(be16(58)), UDP_V6_LEN),
    };
    if v4 && be16(20) & 0x3fff != 0 {
        "a fragment: the tunnel's datagrams are whole"
    } else if v4 && start >> 8 != 0x45 {
        "it has IP options, or is of no IP version there is"
    } else if !v4 && (is_extension(next) || start >> 12 != 6) {
        "it has IPv6 extension headers, or is of no IP version there is"
    } else if whole != length || !frame.holds(ETH_LEN + whole) || length < 8 + HEADER_LEN {
        "the lengths that IP, UDP and the frame have do not fit"
    } else if v4 && frame.head.get(ETH_LEN..ETH_LEN + 20).map(checksum) != Some(0) {
        "the checksum of its IP header is wrong"
    } else if !v4 && be16(checked - 2) == 0 {
        "it has no UDP checksum, which IPv6 asks for"
    } else {
        "its source is no address or port of a host"
    }
}
