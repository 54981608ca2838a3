//! Streams on the Gateway's cable that carry nothing of the tunnel's: neighbours, errors, scans, other protocols.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::limits::{BROADCAST, ETHERTYPE, UDP_PORT};

use super::outer::{GATEWAY_V4, GATEWAY_V6, OWN_V4, OWN_V6, inside, on_cable};
use crate::attack::catalogue::{ALL_NODES, ALL_NODES_MAC, link_local};
use crate::attack::frame::{
    Mac, advertisement, arp, checksum, ethernet, router_advertisement, udp_v4, udp_v6,
};
use crate::attack::stream::cycle;
use crate::attack::{Attack, Known, inner};

const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);
const LIAR: Mac = [2, 0x66, 0, 0, 0, 1];

/// They.
pub const SEGMENT: &[Attack] = &[
    super::path(
        "ARP and ND lies: as the router, as the Gateway, gratuitous",
        &["foreign", "rate_limited"],
        |known| cycle(lies(known)),
    ),
    super::path(
        "ICMP errors and redirects that quote the Gateway's datagrams",
        &["foreign"],
        |known| cycle(errors(known)),
    ),
    super::path(
        "a scan: every UDP and TCP port, ping, DNS, other protocols",
        &["foreign"],
        |known| {
            let known = known.clone();
            Box::new(move |number, buffer| {
                // All but the tunnel's own.
                let port = match number as u16 {
                    UDP_PORT => 53,
                    port => port,
                };
                let packet = match number % 6 {
                    0 => udp_v4(OWN_V4, GATEWAY_V4, port, b"\x12\x34\x01\x00\x00\x01"),
                    1 => udp_v6(OWN_V6, GATEWAY_V6, port, &[0; 24]),
                    2 => inner::v4(OWN_V4, GATEWAY_V4, 6, (&[], 0, 0), &inner::syn(port)),
                    3 => inner::v6(OWN_V6, GATEWAY_V6, 6, &inner::syn(UDP_PORT)),
                    4 => inner::icmp4(OWN_V4, GATEWAY_V4, [8, 13, 17][number as usize / 6 % 3]),
                    _ => inner::v4(
                        OWN_V4,
                        GATEWAY_V4,
                        [2, 4, 41, 47, 50, 51, 89, 132, 136][number as usize / 6 % 9],
                        (&[], 0, 0),
                        &[0; 64],
                    ),
                };
                *buffer = on_cable(&known, &packet);
            })
        },
    ),
    super::path(
        "DHCP, DHCPv6, Router Advertisements, IGMP, MLD, mDNS and LLMNR on its cable",
        &["foreign", "misdirected", "outer_malformed"],
        |known| {
            let from = link_local(known.own);
            let udp = |group: Ipv4Addr, port| inner::udp4(ROUTER_V4, group, port, &[1; 240]);
            let v4 = [
                udp(Ipv4Addr::BROADCAST, 68),
                udp(Ipv4Addr::new(224, 0, 0, 251), 5353),
                udp(Ipv4Addr::new(224, 0, 0, 252), 5355),
                inner::v4(
                    ROUTER_V4,
                    Ipv4Addr::new(224, 0, 0, 1),
                    2,
                    (&[0x94, 4, 0, 0], 0, 0),
                    &[0x11, 100, 0, 0, 0, 0, 0, 0],
                ),
            ];
            let mld = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &inner::icmp(130, [0; 24])].concat();
            let v6 = [
                router_advertisement(from, ALL_NODES),
                inner::v6(from, ALL_NODES, 17, &inner::udp(546, &[1; 64])),
                inner::v6(from, ALL_NODES, 0, &mld),
            ];
            let v4 = v4.map(|packet| ethernet(BROADCAST, known.own, 0x0800, &packet));
            let v6 = v6.map(|packet| ethernet(ALL_NODES_MAC, known.own, 0x86dd, &packet));
            cycle(v4.into_iter().chain(v6).collect())
        },
    ),
    super::path(
        "the tunnel's frames without IP, and other EtherTypes",
        &["foreign"],
        |known| {
            let types = [
                ETHERTYPE, 0x88cc, 0x888e, 0x8863, 0x8864, 0x88e5, 0x88f7, 0x8847, 0x0801,
            ];
            let frames = known.handshakes.iter().chain(known.data.iter().take(16));
            let each = frames.flat_map(|frame| {
                types.map(|kind| ethernet(known.gateway, known.own, kind, inside(frame)))
            });
            cycle(each.collect())
        },
    ),
];

fn lies(known: &Known) -> Vec<Vec<u8>> {
    let at_liar = |address| (LIAR, address);
    let gateway = (known.gateway, GATEWAY_V4);
    let arps = [
        (known.gateway, arp(2, at_liar(ROUTER_V4), gateway)),
        (BROADCAST, arp(2, at_liar(ROUTER_V4), at_liar(ROUTER_V4))),
        (BROADCAST, arp(1, at_liar(GATEWAY_V4), ([0; 6], GATEWAY_V4))),
        (BROADCAST, arp(2, at_liar(GATEWAY_V4), at_liar(GATEWAY_V4))),
    ];
    let arps = arps.map(|(to, packet)| ethernet(to, LIAR, 0x0806, &packet));
    let advertised = [
        (known.gateway, advertisement(ROUTER_V6, LIAR, GATEWAY_V6)),
        (ALL_NODES_MAC, advertisement(ROUTER_V6, LIAR, ALL_NODES)),
        (ALL_NODES_MAC, advertisement(GATEWAY_V6, LIAR, ALL_NODES)),
    ];
    let advertised = advertised.map(|(to, packet)| ethernet(to, LIAR, 0x86dd, &packet));
    arps.into_iter().chain(advertised).collect()
}

/// An ICMP message that quotes a packet, its second word `value`.
pub(super) fn icmp_error(kind: u8, code: u8, value: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(value.to_be_bytes());
    message.extend(&quoted[..quoted.len().min(548)]);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Kinds, codes and second words of the errors that may follow a datagram over IPv4.
pub(super) const ERRORS: [(u8, u8, u32); 10] = [
    (3, 0, 0),
    (3, 1, 0),
    (3, 2, 0),
    (3, 3, 0),
    (3, 13, 0),
    (3, 4, 68),
    (3, 4, 576),
    (4, 0, 0),
    (11, 0, 0),
    (5, 1, 0xc000_0263),
];

fn errors(known: &Known) -> Vec<Vec<u8>> {
    let quotes = known
        .answers
        .iter()
        .take(8)
        .filter_map(|frame| frame.get(14..));
    let quotes: Vec<&[u8]> = quotes.collect();
    let v4 = quotes.iter().flat_map(|quote| {
        ERRORS.map(|(kind, code, value)| {
            let message = icmp_error(kind, code, value, quote);
            inner::v4(ROUTER_V4, GATEWAY_V4, 1, (&[], 0, 0), &message)
        })
    });
    // Packet too big, unreachable, time exceeded, parameter problem, redirect.
    let kinds = [(2, 0, 1280), (1, 4, 0), (3, 0, 0), (4, 1, 6), (137, 0, 0)];
    let v6 = quotes.iter().flat_map(|quote| {
        kinds.map(|(kind, code, value)| {
            let message = icmp_error(kind, code, value, quote);
            inner::v6(ROUTER_V6, GATEWAY_V6, 58, &message)
        })
    });
    v4.chain(v6)
        .map(|packet| on_cable(known, &packet))
        .collect()
}
