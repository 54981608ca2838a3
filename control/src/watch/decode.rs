//! A frame in a line, much as tcpdump has it. Headers only: what they carry is not shown.

use dataplane::explain::describe;
use etherparse::{
    ArpOperation, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice, ether_type,
};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use wire::Header;
use wire::limits::ETHERTYPE;

/// Addresses, and what the headers say. `bytes` may be only the beginning of the frame.
pub fn line(bytes: &[u8], length: u32) -> String {
    let Some((destination, rest)) = bytes.split_first_chunk::<6>() else {
        return format!("no Ethernet header, {length} bytes");
    };
    let Some((source, rest)) = rest.split_first_chunk::<6>() else {
        return format!("no Ethernet header, {length} bytes");
    };
    let mut text = format!("{} > {}, ", mac(*source), mac(*destination));
    match rest.split_first_chunk::<2>() {
        None => text.push_str("cut short"),
        Some((ethertype, payload)) if u16::from_be_bytes(*ethertype) == ETHERTYPE => {
            text.push_str(&tunnel(payload));
        }
        Some((ethertype, _)) => match LaxSlicedPacket::from_ethernet(bytes) {
            Ok(packet) => text.push_str(&other(&packet, u16::from_be_bytes(*ethertype))),
            Err(_) => text.push_str("cut short"),
        },
    }
    let _ = write!(text, ", {length} bytes");
    text
}

/// A packet's addresses, and what its headers say.
pub fn packet(bytes: &[u8]) -> String {
    match LaxSlicedPacket::from_ip(bytes) {
        Ok(packet) => other(&packet, 0),
        Err(_) => "IP, cut short or malformed".into(),
    }
}

fn tunnel(payload: &[u8]) -> String {
    match Header::decode(payload) {
        Ok(header) => format!("Portcullis {}", describe(&header)),
        Err(_) => "Portcullis, no header of it".into(),
    }
}

fn other(packet: &LaxSlicedPacket<'_>, ethertype: u16) -> String {
    let mut text = String::new();
    for extension in &packet.link_exts {
        match extension {
            LaxLinkExtSlice::Vlan(vlan) => {
                let _ = write!(text, "VLAN {}, ", vlan.vlan_identifier().value());
            }
            LaxLinkExtSlice::Macsec(_) => text.push_str("MACsec, "),
        }
    }
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => {
            let word = match arp.operation() {
                ArpOperation::REQUEST => "ARP who-has",
                ArpOperation::REPLY => "ARP reply",
                _ => "ARP",
            };
            let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => Ipv4Addr::from(v4).to_string(),
                Err(_) => "?".into(),
            };
            let (of, tell) = (
                address(arp.target_protocol_addr()),
                address(arp.sender_protocol_addr()),
            );
            let _ = write!(text, "{word} {of} tell {tell}");
        }
        Some(LaxNetSlice::Ipv4(v4)) => {
            let header = v4.header();
            let ends = (
                IpAddr::from(header.source_addr()),
                IpAddr::from(header.destination_addr()),
            );
            let number = v4.payload_ip_number().0;
            text.push_str(&ip("IP", ends, packet.transport.as_ref(), number));
            if v4.is_payload_fragmented() {
                text.push_str(", a fragment");
            }
        }
        Some(LaxNetSlice::Ipv6(v6)) => {
            let header = v6.header();
            let ends = (
                IpAddr::from(header.source_addr()),
                IpAddr::from(header.destination_addr()),
            );
            let number = v6.payload().ip_number.0;
            text.push_str(&ip("IP6", ends, packet.transport.as_ref(), number));
            if v6.is_payload_fragmented() {
                text.push_str(", a fragment");
            }
        }
        None => text.push_str(&match etherparse::EtherType(ethertype) {
            ether_type::IPV4 => "IP, cut short or malformed".into(),
            ether_type::IPV6 => "IP6, cut short or malformed".into(),
            ether_type::ARP => "ARP, cut short".into(),
            etherparse::EtherType(0x88cc) => "LLDP".into(),
            etherparse::EtherType(0..0x600) => "802.3".to_owned(),
            _ if !text.is_empty() => "with something inside".into(),
            _ => format!("EtherType {ethertype:#06x}"),
        }),
    }
    text
}

fn ip(
    name: &str,
    (from, to): (IpAddr, IpAddr),
    transport: Option<&TransportSlice<'_>>,
    number: u8,
) -> String {
    let ports =
        |from_port: u16, to_port: u16| format!("{name} {from}.{from_port} > {to}.{to_port}");
    match transport {
        Some(TransportSlice::Udp(udp)) => {
            format!("{}: UDP", ports(udp.source_port(), udp.destination_port()))
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), 'S'),
                (tcp.fin(), 'F'),
                (tcp.rst(), 'R'),
                (tcp.psh(), 'P'),
                (tcp.ack(), '.'),
            ];
            let flags: String = flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, c)| c)
                .collect();
            let ends = ports(tcp.source_port(), tcp.destination_port());
            format!("{ends}: TCP [{flags}]")
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!(
                "{name} {from} > {to}: ICMP type {} code {}",
                icmp.type_u8(),
                icmp.code_u8()
            )
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!(
                "{name} {from} > {to}: ICMP6 type {} code {}",
                icmp.type_u8(),
                icmp.code_u8()
            )
        }
        None => format!("{name} {from} > {to}: protocol {number}"),
    }
}

fn mac(mac: [u8; 6]) -> String {
    crate::api::mac_text(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_payload_is_shown(bytes in prop::collection::vec(any::<u8>(), 0..200), length: u32) {
            let text = line(&bytes, length);
            prop_assert!(text.ends_with("bytes") && text.len() < 300, "{text}");
            prop_assert!(packet(&bytes).len() < 200);
        }

        #[test]
        fn a_cut_frame_is_told_as_far_as_it_goes(cut in 0usize..80) {
            let builder = PacketBuilder::ethernet2([2; 6], [3; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(5000, 53);
            let mut frame = Vec::new();
            builder.write(&mut frame, b"secret words").unwrap();
            let text = line(&frame[..cut.min(frame.len())], 54);
            prop_assert!(!text.contains("secret"));
            prop_assert!(cut < 42 || text.contains("10.0.0.1.5000 > 10.0.0.2.53: UDP"), "{text}");
        }
    }

    #[test]
    fn a_packet_is_told_by_as_much_of_it_as_a_worker_shows() {
        let v4 = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let v6 = || PacketBuilder::ipv6([1; 16], [2; 16], 64);
        let mut udp = Vec::new();
        v4().udp(5000, 53).write(&mut udp, b"secret").unwrap();
        let mut tcp = Vec::new();
        v6().tcp(5000, 22, 1, 2)
            .syn()
            .write(&mut tcp, b"secret")
            .unwrap();
        let mut echo = Vec::new();
        v4().icmpv4_echo_request(1, 2)
            .write(&mut echo, b"secret")
            .unwrap();
        for (bytes, says) in [
            (&udp[..28], "IP 10.0.0.1.5000 > 10.0.0.2.53: UDP"),
            (&tcp[..60], ".22: TCP [S]"),
            (&echo[..28], "IP 10.0.0.1 > 10.0.0.2: ICMP type 8 code 0"),
            (&udp[..20], "IP 10.0.0.1 > 10.0.0.2: protocol 17"),
        ] {
            let text = packet(bytes);
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn frames_are_told_by_their_headers() {
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let frame = |rest: &[u8]| [&ethernet[..], rest].concat();
        let mut header = Header::new(wire::kind::DATA, 9, 0x8001_0003, 7)
            .encode()
            .to_vec();
        let mut portcullis = vec![0x88, 0xb5];
        portcullis.append(&mut header);
        let arp = [
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..],
            &[2, 0, 0, 0, 0, 2, 10, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        ]
        .concat();
        let vlan = [&[0x81, 0, 0, 5][..], &arp].concat();
        for (rest, says) in [
            (
                &portcullis[..],
                "Portcullis Data, 9 bytes, session index 0x80010003 (slot 3), counter 7",
            ),
            (&arp, "ARP who-has 10.0.0.1 tell 10.0.0.2"),
            (&vlan, "VLAN 5, ARP who-has 10.0.0.1"),
            (&[0x88, 0xcc, 1], "LLDP"),
            (&[0x12, 0x34], "EtherType 0x1234"),
            (&[0x00, 0x26, 0x42], "802.3"),
        ] {
            let text = line(&frame(rest), 60);
            assert!(text.contains(says), "{text}");
            assert!(
                text.starts_with("02:00:00:00:00:02 > 02:00:00:00:00:01, "),
                "{text}"
            );
        }
    }
}
