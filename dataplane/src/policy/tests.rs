//! The compiled policy against a plain model, and the classifier against `etherparse`.

use super::*;
use crate::inner::Address;
use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeaderSlice, UdpHeaderSlice,
};
use proptest::prelude::*;
use std::net::IpAddr;

fn range() -> impl Strategy<Value = PortRange> {
    // Around the edges of pages and of the whole, and single ports.
    let port = prop_oneof![any::<u16>(), 0u16..4, 254u16..258, 65_532u16..=65_535];
    (port.clone(), prop_oneof![Just(None), port.prop_map(Some)]).prop_map(|(one, other)| {
        let other = other.unwrap_or(one);
        PortRange {
            first: one.min(other),
            last: one.max(other),
        }
    })
}

fn rule() -> impl Strategy<Value = Match> {
    prop_oneof![
        1 => Just(Match::Any),
        2 => Just(Match::Icmp),
        8 => range().prop_map(Match::Tcp),
        8 => range().prop_map(Match::Udp),
    ]
}

fn transport() -> impl Strategy<Value = Transport> {
    let port = || prop_oneof![any::<u16>(), 0u16..4, 254u16..258, 65_532u16..=65_535];
    let icmp = prop_oneof![
        Just(Icmp::Request),
        Just(Icmp::Reply),
        Just(Icmp::Error),
        Just(Icmp::Other),
    ];
    prop_oneof![
        (port(), port(), any::<bool>()).prop_map(|(source, destination, opens)| Transport::Tcp {
            source,
            destination,
            opens
        }),
        (port(), port()).prop_map(|(source, destination)| Transport::Udp {
            source,
            destination
        }),
        icmp.prop_map(Transport::Icmp),
        any::<u8>().prop_map(Transport::Rest),
        any::<u8>().prop_map(Transport::Other),
    ]
}

fn holds(range: &PortRange, port: u16) -> bool {
    (range.first..=range.last).contains(&port)
}

/// One rule, one packet: what the words of the rule say.
fn admits(rule: &Match, transport: Transport) -> bool {
    match (rule, transport) {
        (Match::Any, _) => true,
        (Match::Icmp, Transport::Icmp(kind)) => kind != Icmp::Other,
        (Match::Tcp(range), Transport::Tcp { destination, .. })
        | (Match::Udp(range), Transport::Udp { destination, .. }) => holds(range, destination),
        (Match::Icmp, Transport::Rest(1 | 58))
        | (Match::Tcp(_), Transport::Rest(6))
        | (Match::Udp(_), Transport::Rest(17)) => true,
        _ => false,
    }
}

fn answers(rule: &Match, transport: Transport) -> bool {
    match (rule, transport) {
        (_, Transport::Tcp { opens: true, .. } | Transport::Icmp(Icmp::Request | Icmp::Other)) => {
            false
        }
        (Match::Tcp(range), Transport::Tcp { source, .. })
        | (Match::Udp(range), Transport::Udp { source, .. }) => holds(range, source),
        (rule, transport) => admits(rule, transport),
    }
}

proptest! {
    #[test]
    fn compiled_rules_let_through_what_one_of_them_does(
        rules in prop::collection::vec(rule(), 0..33), transports in prop::collection::vec(transport(), 1..50),
    ) {
        let set: RuleSet = rules.iter().copied().collect();
        prop_assert_eq!(set.is_empty(), rules.is_empty());
        for transport in transports {
            prop_assert_eq!(set.admits(transport), rules.iter().any(|rule| admits(rule, transport)), "{:?}", transport);
            prop_assert_eq!(set.answers(transport), rules.iter().any(|rule| answers(rule, transport)), "{:?}", transport);
        }
    }

    #[test]
    fn a_set_of_ports_has_every_port_of_its_ranges_and_no_other(ranges in prop::collection::vec(range(), 0..33)) {
        let set = PortSet::of(&ranges);
        for port in 0..=u16::MAX {
            prop_assert_eq!(set.contains(port), ranges.iter().any(|range| holds(range, port)), "{}", port);
        }
    }

    #[test]
    fn without_rules_nothing_passes(packet in prop::collection::vec(any::<u8>(), 0..80), peer: u32) {
        for place in [Place::Gateway, Place::Workstation(peer), Place::Elsewhere, Place::Nowhere] {
            prop_assert_ne!(Policy::default().judge(place, &packet), Verdict::Pass);
        }
    }
}

/// What `etherparse` makes of a packet, where it makes anything of it. Which fragment it is comes from
/// the fragment header's bytes: version 0.19 takes an IPv6 one's bits from the wrong places.
fn oracle(packet: &[u8]) -> Option<Transport> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (v4, payload, offset) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(slice) => (
            true,
            slice.payload(),
            slice.header().fragments_offset().value(),
        ),
        NetSlice::Ipv6(slice) => {
            let fragment = slice.extensions().clone().into_iter().find_map(|header| {
                let etherparse::Ipv6ExtensionSlice::Fragment(fragment) = header else {
                    return None;
                };
                let bytes = fragment.slice();
                Some(u16::from_be_bytes([bytes[2], bytes[3]]) >> 3)
            });
            (false, slice.payload(), fragment.unwrap_or(0))
        }
        NetSlice::Arp(_) => return None,
    };
    if offset > 0 {
        return Some(Transport::Rest(payload.ip_number.0));
    }
    match payload.ip_number {
        IpNumber::TCP => {
            let tcp = TcpHeaderSlice::from_slice(payload.payload).ok()?;
            Some(Transport::Tcp {
                source: tcp.source_port(),
                destination: tcp.destination_port(),
                opens: tcp.syn() && !tcp.ack(),
            })
        }
        IpNumber::UDP => {
            let udp = UdpHeaderSlice::from_slice(payload.payload).ok()?;
            Some(Transport::Udp {
                source: udp.source_port(),
                destination: udp.destination_port(),
            })
        }
        IpNumber::ICMP if v4 => {
            use etherparse::Icmpv4Type::*;
            let icmp = Icmpv4Slice::from_slice(payload.payload).ok()?;
            Some(Transport::Icmp(match icmp.icmp_type() {
                EchoRequest(_) => Icmp::Request,
                EchoReply(_) => Icmp::Reply,
                DestinationUnreachable(_) | TimeExceeded(_) | ParameterProblem(_) => Icmp::Error,
                // A code it does not know: only the type counts here.
                Unknown { type_u8, .. } => return icmp_by_type(true, type_u8),
                _ => Icmp::Other,
            }))
        }
        IpNumber::IPV6_ICMP if !v4 => {
            let icmp = Icmpv6Slice::from_slice(payload.payload).ok()?;
            icmp_by_type(false, icmp.type_u8())
        }
        other => Some(Transport::Other(other.0)),
    }
}

fn icmp_by_type(v4: bool, kind: u8) -> Option<Transport> {
    Some(Transport::Icmp(match (v4, kind) {
        (true, 8) | (false, 128) => Icmp::Request,
        (true, 0) | (false, 129) => Icmp::Reply,
        (true, 3 | 11 | 12) | (false, 1..=4) => Icmp::Error,
        _ => Icmp::Other,
    }))
}

/// A transport header with some payload.
fn segment() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let data = || prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (any::<[u16; 2]>(), any::<u8>(), data()).prop_map(|([from, to], flags, data)| {
            let mut tcp = etherparse::TcpHeader::new(from, to, 7, 1024);
            (tcp.syn, tcp.ack) = (flags & 1 != 0, flags & 2 != 0);
            (tcp.rst, tcp.fin) = (flags & 4 != 0, flags & 8 != 0);
            let mut bytes = tcp.to_bytes().to_vec();
            bytes.extend(data);
            (6, bytes)
        }),
        (any::<[u16; 2]>(), data()).prop_map(|([from, to], data)| {
            let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
            bytes.extend((data.len() as u16 + 8).to_be_bytes());
            bytes.extend([0; 2]);
            bytes.extend(data);
            (17, bytes)
        }),
        (prop_oneof![Just(1u8), Just(58)], 0u8..140, data()).prop_map(|(protocol, kind, data)| {
            let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(data);
            (protocol, bytes)
        }),
        (any::<u8>(), data()),
    ]
}

/// Fragment offset in eights, and whether more follow.
fn fragment() -> impl Strategy<Value = (u16, bool)> {
    prop_oneof![3 => Just((0, false)), 1 => Just((0, true)), 2 => (0u16..8192, any::<bool>())]
}

fn v4_packet() -> impl Strategy<Value = Vec<u8>> {
    (
        segment(),
        fragment(),
        prop::collection::vec(any::<u8>(), 0..=10),
    )
        .prop_map(|((protocol, payload), (offset, more), options)| {
            let mut header = Ipv4Header::new(
                payload.len() as u16,
                64,
                IpNumber(protocol),
                [10, 0, 0, 1],
                [10, 0, 0, 254],
            )
            .unwrap();
            header.fragment_offset = offset.try_into().unwrap();
            header.more_fragments = more;
            let mut words = vec![1; options.len().next_multiple_of(4)];
            words[..options.len()].copy_from_slice(&options);
            header.options = words[..].try_into().unwrap();
            header.set_payload_len(payload.len()).unwrap();
            let mut packet = Vec::new();
            header.write_raw(&mut packet).unwrap();
            packet.extend(payload);
            packet
        })
}

fn v6_packet() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        1 => Just(0u8),
        3 => Just(60),
        1 => Just(43),
        2 => Just(44),
        1 => Just(51),
    ];
    (
        segment(),
        fragment(),
        prop::collection::vec((extension, 0u8..3), 0..4),
    )
        .prop_map(|((protocol, payload), (offset, more), extensions)| {
            let mut body = payload;
            let mut next = protocol;
            for (kind, eights) in extensions.into_iter().rev() {
                let mut header = match kind {
                    44 => {
                        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
                        vec![next, 0, high, low, 0, 0, 0, 9]
                    }
                    51 => vec![next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
                    _ => {
                        let mut header = vec![0; 8 + usize::from(eights) * 8];
                        (header[0], header[1]) = (next, eights);
                        header
                    }
                };
                header.extend(body);
                (body, next) = (header, kind);
            }
            let header = Ipv6Header {
                payload_length: body.len() as u16,
                next_header: IpNumber(next),
                hop_limit: 64,
                source: [0xfd; 16],
                destination: [0xfc; 16],
                ..Default::default()
            };
            let mut packet = header.to_bytes().to_vec();
            packet.extend(body);
            packet
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever is classified is what `etherparse` says it is; and what it understands is classified,
    /// but for what the module says is refused.
    #[test]
    fn a_packet_is_what_etherparse_says_it_is(packet in prop_oneof![v4_packet(), v6_packet()]) {
        let ours = classify(&packet);
        let theirs = oracle(&packet);
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => prop_assert_eq!(ours, theirs),
            // A TCP header that lies about its own length.
            (Ok(_), None) => {}
            (Err(Unclassified), _) => prop_assert!(excused(&packet), "{:?}", theirs),
        }
    }

    #[test]
    fn damage_never_makes_a_packet_into_what_etherparse_says_it_is_not(
        packet in prop_oneof![v4_packet(), v6_packet()],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut packet = packet;
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        let Ok(inner) = crate::inner::packet(&packet) else {
            return Ok(());
        };
        let packet = &packet[..inner.len];
        if let (Ok(ours), Some(theirs)) = (classify(packet), oracle(packet)) {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn no_bytes_make_the_classifier_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = classify(&bytes);
    }
}

/// Whether one of the reasons of [`classify`]'s documentation holds, found independently of it.
fn excused(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        let offset = usize::from(u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff) * 8;
        let payload = packet.len() - len;
        let least = match packet[9] {
            6 => 20,
            17 | 1 => 8,
            _ => 0,
        };
        return len > 20
            || offset > 0 && (offset < HEAD || packet.len() + offset > 65_535)
            || offset == 0 && payload < least;
    }
    let (mut next, mut rest, mut seen) = (packet[6], &packet[40..], 0);
    loop {
        match next {
            43 | 51 => return true,
            0 if seen > 0 => return true,
            0 | 60 => {
                let len = rest
                    .get(1)
                    .map_or(usize::MAX, |len| usize::from(*len) * 8 + 8);
                if len > rest.len() {
                    return true;
                }
                (next, rest) = (rest[0], &rest[len..]);
            }
            44 => {
                let Some(header) = rest.first_chunk::<8>() else {
                    return true;
                };
                if matches!(header[0], 0 | 43 | 44 | 51 | 60) {
                    return true;
                }
                let offset = usize::from(u16::from_be_bytes([header[2], header[3]]) & !7);
                if offset > 0 {
                    return offset < HEAD || offset + packet.len() - 40 > 65_535;
                }
                (next, rest) = (header[0], &rest[8..]);
            }
            6 => return rest.len() < 20,
            17 | 58 => return rest.len() < 8,
            _ => return false,
        }
        seen += 1;
    }
}

const HEAD: usize = classify::HEAD;

#[test]
fn source_routes_and_routing_headers_are_never_classified() {
    for option in [131, 137] {
        let mut packet = Vec::new();
        let mut header =
            Ipv4Header::new(20, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        header.options = [option, 7, 4, 8, 8, 8, 8, 0][..].try_into().unwrap();
        header.write_raw(&mut packet).unwrap();
        packet.extend([0; 20]);
        assert_eq!(classify(&packet), Err(Unclassified), "option {option}");
        let policy = Policy::gateway_any();
        assert_eq!(policy.judge(Place::Gateway, &packet), Verdict::Unclassified);
        packet[20] = 7; // Record route, which changes nothing.
        assert!(classify(&packet).is_ok());
    }
    let mut v6 = vec![0x60, 0, 0, 0, 0, 28, 43, 64];
    v6.extend([0xfd; 32]);
    v6.extend([6, 0, 0, 0, 0, 0, 0, 0]);
    v6.extend([0; 20]);
    assert_eq!(classify(&v6), Err(Unclassified));
    v6[6] = 60;
    assert!(matches!(classify(&v6), Ok(Transport::Tcp { .. })));
}

/// Whatever a stack does with overlaps, no later fragment can change ports or flags.
#[test]
fn no_later_fragment_reaches_into_the_first_ones_transport_header() {
    for eights in 0..8192u16 {
        let mut packet = Vec::new();
        let mut header =
            Ipv4Header::new(16, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        header.fragment_offset = eights.try_into().unwrap();
        header.more_fragments = true;
        header.write(&mut packet).unwrap();
        packet.extend([0; 16]);
        let classified = classify(&packet);
        if eights < 3 || usize::from(eights) * 8 + 36 > 65_535 {
            assert_eq!(classified, Err(Unclassified), "offset {eights}");
        } else {
            assert_eq!(classified, Ok(Transport::Rest(6)), "offset {eights}");
        }
    }
}

fn tcp(source: u16, destination: u16, syn: bool, ack: bool) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut tcp = builder.tcp(source, destination, 1, 1000);
    if syn {
        tcp = tcp.syn();
    }
    if ack {
        tcp = tcp.ack(1);
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &[]).unwrap();
    bytes
}

#[test]
fn a_peer_is_answered_and_cannot_begin() {
    let ssh = || {
        RuleSet::from_iter([Match::Tcp(PortRange {
            first: 22,
            last: 22,
        })])
    };
    let with = |to, from| Policy {
        peers: vec![PeerRules { peer: 7, to, from }],
        ..Policy::default()
    };
    let client = with(ssh(), RuleSet::default());
    let server = with(RuleSet::default(), ssh());
    let judge = |policy: &Policy, packet: &[u8]| policy.judge(Place::Workstation(7), packet);
    assert_eq!(judge(&client, &tcp(4000, 22, true, false)), Verdict::Pass);
    assert_eq!(judge(&server, &tcp(22, 4000, true, true)), Verdict::Pass);
    assert_eq!(judge(&server, &tcp(22, 4000, false, true)), Verdict::Pass);
    assert_eq!(judge(&server, &tcp(22, 4000, true, false)), Verdict::Denied);
    assert_eq!(judge(&server, &tcp(4000, 22, true, false)), Verdict::Denied);
    assert_eq!(judge(&client, &tcp(4000, 23, true, false)), Verdict::Denied);
    let another = Place::Workstation(8);
    let packet = tcp(4000, 22, true, false);
    assert_eq!(client.judge(another, &packet), Verdict::Unreachable);
    assert_eq!(client.judge(Place::Gateway, &packet), Verdict::Denied);
}

#[test]
fn every_address_has_its_place() {
    let surroundings = Surroundings {
        host: vec![
            "10.152.152.10/18".parse().unwrap(),
            "fd50:6f72:7463::1/64".parse().unwrap(),
        ],
        local: vec![
            "192.0.2.5/32".parse().unwrap(),
            "192.0.2.255/32".parse().unwrap(),
            "2001:db8::5/128".parse().unwrap(),
        ],
    };
    let place = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        surroundings.place(Address::from(address))
    };
    for own in ["10.152.152.10", "fd50:6f72:7463::1"] {
        assert_eq!(place(own), Place::Gateway, "{own}");
    }
    for elsewhere in [
        "9.9.9.9",
        "192.0.2.6",
        "10.192.0.1",
        "2001:db8::6",
        "fc00::1",
    ] {
        assert_eq!(place(elsewhere), Place::Elsewhere, "{elsewhere}");
    }
    for nowhere in [
        "10.152.152.11",
        "10.152.191.255",
        "fd50:6f72:7463::99",
        "192.0.2.5",
        "192.0.2.255",
        "2001:db8::5",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.251",
        "255.255.255.255",
        "::1",
        "::",
        "::ffff:9.9.9.9",
        "fe80::1",
        "ff02::1",
    ] {
        assert_eq!(place(nowhere), Place::Nowhere, "{nowhere}");
    }
}
