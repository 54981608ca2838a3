//! The inner-packet classifier and the policy's: no payload panics, no length exceeds it, every reader
//! of an address sees the same one, and ports are those a plain reading of the packet finds.
#![no_main]

use dataplane::inner::{self, Inner};
use dataplane::policy::{Transport, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let pair = inner::pair(bytes);
    match inner::parse(bytes) {
        Ok(Inner::Packet(packet)) => {
            assert!(packet.len >= 20 && packet.len <= bytes.len());
            assert_eq!(pair, Some(packet.pair));
            assert_eq!(packet.pair.source().v4, packet.pair.destination().v4);
            assert_eq!(packet.pair.source().v4, bytes[0] >> 4 == 4);
            assert_eq!(inner::packet(bytes), Ok(packet));
            // What follows the packet's own length is not looked at.
            assert_eq!(inner::packet(&bytes[..packet.len]), Ok(packet));
            assert!(inner::packet(&bytes[..packet.len - 1]).is_err());
            let class = classify(&bytes[..packet.len]);
            if let Ok(
                Transport::Tcp {
                    source,
                    destination,
                    ..
                }
                | Transport::Udp {
                    source,
                    destination,
                },
            ) = class
            {
                ports_are(
                    &bytes[..packet.len],
                    packet.pair.source().v4,
                    source,
                    destination,
                );
            }
        }
        Ok(Inner::Control(kind)) => {
            assert_eq!(kind, bytes[0]);
            assert!(kind < 16 && pair.is_none() && inner::packet(bytes).is_err());
        }
        Err(_) => assert!(inner::packet(bytes).is_err()),
    }
});

/// A plain reading: IPv4 by its header length; IPv6 without extension headers, or with them from the back.
fn ports_are(packet: &[u8], v4: bool, source: u16, destination: u16) {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    if v4 {
        let at = usize::from(packet[0] & 15) * 4;
        assert_eq!(u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff, 0);
        assert!(matches!(packet[9], 6 | 17));
        assert_eq!(packet[at..at + 4], ports);
    } else if matches!(packet[6], 6 | 17) {
        assert_eq!(packet[40..44], ports);
    } else {
        // Behind extension headers, which come in whole eights.
        let places = (40..packet.len() - 3).step_by(8);
        assert!(
            places
                .map(|at| &packet[at..at + 4])
                .any(|four| four == ports)
        );
    }
}
