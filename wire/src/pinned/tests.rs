use super::*;
use core::cell::RefCell;
use std::borrow::ToOwned;
use std::collections::HashMap;
use std::vec::Vec;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PIN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const V4: [&str; 3] = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];
const V6: [&str; 3] = ["fd09::1", "fd09::2", "fd09::3"];

/// The tables in plain memory. Time stands still.
struct Plain {
    keys: HashMap<PinKey, u32>,
    limits: RefCell<Vec<PinLimits>>,
}

impl Plain {
    /// Two pins, each with an address of each kind; the port has one of each.
    fn new(burst: u64) -> Self {
        let mut keys = HashMap::new();
        for (pin, mac) in [PIN, OTHER].into_iter().enumerate() {
            keys.insert(PinKey::mac(mac), pin as u32);
            for address in [V4[pin + 1], V6[pin + 1]] {
                keys.insert(PinKey::pinned(mac, address.parse().unwrap()), pin as u32);
            }
        }
        for address in [V4[0], V6[0]] {
            keys.insert(PinKey::own(address.parse().unwrap()), 0);
        }
        let limits = PinLimits {
            interval: SECOND,
            burst,
            ..PinLimits::default()
        };
        Self {
            keys,
            limits: RefCell::new(std::vec![limits; 2]),
        }
    }
}

impl PinTables for Plain {
    fn pin(&self, key: &PinKey) -> Option<u32> {
        self.keys.get(key).copied()
    }

    fn may_send(&self, pin: u32) -> bool {
        self.limits.borrow_mut()[pin as usize].send(SECOND)
    }

    fn may_ask(&self, pin: u32) -> bool {
        self.limits.borrow_mut()[pin as usize].ask(SECOND)
    }
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ethertype.to_be_bytes()].concat();
    frame.extend(parts.concat());
    frame
}

fn v4(to: &str, from: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let head = [
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
    ];
    frame(
        OURS,
        PIN,
        IPV4,
        &[&head, &octets(from), &octets(to), payload],
    )
}

fn v6(to: &str, from: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    frame(
        OURS,
        PIN,
        IPV6,
        &[&head, &octets(from), &octets(to), payload],
    )
}

fn udp(port: u16) -> [u8; 8] {
    let [a, b] = port.to_be_bytes();
    [0x99, 0x99, a, b, 0, 8, 0, 0]
}

fn ask_v4(target: &str, sender: &str) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let parts = [
        &head[..],
        &PIN,
        &octets(sender),
        &[0; 6],
        &octets(target),
        &[0; 18],
    ];
    frame(BROADCAST, PIN, ARP, &parts)
}

fn ask_v6(target: &str, sender: &str, option: bool) -> Vec<u8> {
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets(target)].concat();
    let mut to = target.to_owned();
    if option {
        message.extend([1, 1]);
        message.extend(PIN);
        to = "ff02::1:ff00:1".to_owned();
    }
    let mut ask = v6(&to, sender, ICMPV6, &message);
    if option {
        ask[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    }
    ask
}

fn verdict(frame: &[u8]) -> PinnedVerdict {
    decide(OURS, &frame, &Plain::new(4)).0
}

fn with(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

#[test]
fn a_pin_reaches_the_ports_addresses_by_tcp_udp_and_echo() {
    for (protocol, payload) in [(TCP, [0; 20].to_vec()), (UDP, udp(53).to_vec())] {
        assert_eq!(
            verdict(&v4(V4[0], V4[1], protocol, &payload)),
            PinnedVerdict::Passed
        );
        assert_eq!(
            verdict(&v6(V6[0], V6[1], protocol, &payload)),
            PinnedVerdict::Passed
        );
    }
    for (four, six) in [(8, 128), (0, 129)] {
        let echo = |kind| [kind, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            verdict(&v4(V4[0], V4[1], ICMP, &echo(four))),
            PinnedVerdict::Passed
        );
        assert_eq!(
            verdict(&v6(V6[0], V6[1], ICMPV6, &echo(six))),
            PinnedVerdict::Passed
        );
    }
}

#[test]
fn every_verdict_is_given_at_its_own_cause() {
    use PinnedVerdict::*;
    let four = v4(V4[0], V4[1], UDP, &udp(53));
    let six = v6(V6[0], V6[1], UDP, &udp(53));
    for end in [0, 13, 33] {
        assert_eq!(verdict(&four[..end]), Short, "{end} bytes");
    }
    for end in [13, 53] {
        assert_eq!(verdict(&six[..end]), Short, "{end} bytes");
    }
    for ethertype in [0x8100u16, 0x88A8, 0x88CC, 0x88B5, 0x8809, 40] {
        let [a, b] = ethertype.to_be_bytes();
        assert_eq!(verdict(&with(&with(&four, 12, a), 13, b)), Foreign);
    }
    for good in [&four, &six] {
        assert_eq!(verdict(&with(good, 11, 9)), UnknownMac);
        // Another pin's MAC address with this one's IP address.
        assert_eq!(verdict(&with(good, 11, 3)), SpoofedAddress);
        assert_eq!(verdict(&with(good, 14, good[14] ^ 0x10)), Malformed);
        assert_eq!(verdict(&good[..good.len() - 1]), Malformed);
        assert_eq!(verdict(&with(good, 5, 9)), Misdirected);
        assert_eq!(verdict(&with(good, 0, 0xff)), Misdirected);
    }
    // Another pin's address, the port's own (a "land" packet), nobody's, and none.
    for from in [V4[2], V4[0], "10.9.0.9", "0.0.0.0", "127.0.0.1"] {
        assert_eq!(verdict(&v4(V4[0], from, UDP, &udp(53))), SpoofedAddress);
    }
    for from in [V6[2], V6[0], "fd09::9", "::", "::1", "fe80::2"] {
        assert_eq!(verdict(&v6(V6[0], from, UDP, &udp(53))), SpoofedAddress);
    }
    for to in [V4[2], "192.0.2.1", "255.255.255.255", "224.0.0.1"] {
        assert_eq!(verdict(&v4(to, V4[1], UDP, &udp(53))), OtherDestination);
    }
    for to in [V6[2], "2001:db8::1", "ff02::1", "fe80::1"] {
        assert_eq!(verdict(&v6(to, V6[1], UDP, &udp(53))), OtherDestination);
    }
    // Loose source route, and a header length that is none.
    let route = v4(V4[0], V4[1], UDP, &[131, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(verdict(&with(&route, 14, 0x46)), Options);
    assert_eq!(verdict(&with(&route, 14, 0x44)), Malformed);
    for header in [0, 43, 60, 135, 139, 140] {
        assert_eq!(verdict(&v6(V6[0], V6[1], header, &[0; 16])), Options);
    }
    for (high, low) in [(0x20, 0), (0, 1), (0x1f, 0xff), (0x3f, 0xff)] {
        assert_eq!(verdict(&with(&with(&four, 20, high), 21, low)), Fragment);
    }
    assert_eq!(verdict(&v6(V6[0], V6[1], 44, &[0; 16])), Fragment);
    // IPIP, IPv6 in IPv4, GRE, ESP, IGMP, SCTP; and DHCP, in both directions.
    for protocol in [0, 2, 4, 41, 47, 50, 51, 58, 132, 255] {
        assert_eq!(
            verdict(&v4(V4[0], V4[1], protocol, &[8; 20])),
            Protocol,
            "{protocol}"
        );
    }
    for next in [1, 4, 41, 47, 50, 51, 59, 132, 255] {
        assert_eq!(verdict(&v6(V6[0], V6[1], next, &[8; 20])), Protocol);
    }
    for port in [67, 68] {
        assert_eq!(verdict(&v4(V4[0], V4[1], UDP, &udp(port))), Protocol);
    }
    for port in [546, 547] {
        assert_eq!(verdict(&v6(V6[0], V6[1], UDP, &udp(port))), Protocol);
    }
    // Unreachable, redirect, exceeded; too big, MLD.
    for kind in [3, 4, 5, 11, 12, 13, 17] {
        assert_eq!(
            verdict(&v4(V4[0], V4[1], ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0])),
            Protocol
        );
    }
    for kind in [1, 2, 3, 4, 130, 131, 132, 138, 143] {
        assert_eq!(
            verdict(&v6(V6[0], V6[1], ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0])),
            Protocol
        );
    }
    assert_eq!(verdict(&v4(V4[0], V4[1], UDP, &[1])), Malformed);

    let tables = Plain::new(2);
    let again = || decide(OURS, &&four[..], &tables);
    assert_eq!(again(), (Passed, Some(0)));
    assert_eq!(again(), (Passed, Some(0)));
    assert_eq!(again(), (RateLimited, Some(0)));
}

#[test]
fn only_a_pins_own_question_for_an_address_of_the_port_is_answered() {
    use PinnedVerdict::*;
    let ask = ask_v4(V4[0], V4[1]);
    assert_eq!(verdict(&ask), Answered);
    assert_eq!(verdict(&with(&ask, 11, 9)), UnknownMac);
    // The claimed hardware address, the operation, the formats, the destination.
    for at in [14, 15, 16, 17, 18, 19, 20, 21, 22, 27, 5] {
        assert_eq!(verdict(&with(&ask, at, ask[at] ^ 2)), Claim, "byte {at}");
    }
    assert_eq!(verdict(&ask[..41]), Short);
    assert_eq!(verdict(&[&ask[..], &[0; 80]].concat()), Claim);
    for (target, sender) in [
        (V4[0], V4[0]),
        (V4[0], V4[2]),
        (V4[0], "0.0.0.0"),
        (V4[1], V4[1]),
        (V4[2], V4[1]),
        ("10.152.152.10", V4[1]),
    ] {
        assert_eq!(verdict(&ask_v4(target, sender)), Claim, "{target} {sender}");
    }
    for option in [true, false] {
        for sender in [V6[1], "fe80::1234"] {
            assert_eq!(verdict(&ask_v6(V6[0], sender, option)), Answered);
        }
        for (target, sender) in [
            (V6[0], V6[0]),
            (V6[0], V6[2]),
            (V6[0], "::"),
            (V6[1], V6[1]),
            (V6[2], V6[1]),
        ] {
            assert_eq!(verdict(&ask_v6(target, sender, option)), Claim);
        }
    }
    let ask = ask_v6(V6[0], V6[1], true);
    // Hop limit, code, option type and length, the claimed hardware address, the group's last byte.
    for at in [14, 21, 55, 78, 79, 80, 85, 5, 53] {
        assert_eq!(verdict(&with(&ask, at, ask[at] ^ 0x12)), Claim, "byte {at}");
    }
    for kind in [133, 134, 136, 137] {
        assert_eq!(verdict(&with(&ask, 54, kind)), Claim);
    }
    let tables = Plain::new(1);
    let asked = (0..100)
        .filter(|_| decide(OURS, &&ask[..], &tables).0 == Answered)
        .count() as u64;
    assert_eq!(asked, CLAIMS.1);
}

#[test]
fn an_answer_says_where_the_ports_address_is_and_nothing_else() {
    let mut arp = ask_v4(V4[0], V4[1]);
    let length = arp.len();
    assert!(!is_answer(OURS, &&arp[..]));
    answer(OURS, &mut &mut arp[..]).unwrap();
    assert!(is_answer(OURS, &&arp[..]));
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let reply = frame(
        PIN,
        OURS,
        ARP,
        &[&head, &OURS, &octets(V4[0]), &PIN, &octets(V4[1]), &[0; 18]],
    );
    assert_eq!((arp.len(), &arp), (length, &reply));

    for (option, sender) in [(true, V6[1]), (false, V6[1]), (true, "fe80::ffff:ffff")] {
        let mut nd = ask_v6(V6[0], sender, option);
        assert!(!is_answer(OURS, &&nd[..]));
        answer(OURS, &mut &mut nd[..]).unwrap();
        assert!(is_answer(OURS, &&nd[..]));
        // As if forwarded, or somebody else's.
        for (at, value) in [(21, 254), (11, 9), (54, 135), (20, 17)] {
            assert!(!is_answer(OURS, &&with(&nd, at, value)[..]), "byte {at}");
        }
        let mut message = [&[136, 0, nd[56], nd[57], 0x60, 0, 0, 0][..], &octets(V6[0])].concat();
        if option {
            message.extend([2, 1]);
            message.extend(OURS);
        }
        let mut reply = v6(sender, V6[0], ICMPV6, &message);
        reply[..6].copy_from_slice(&PIN);
        reply[6..12].copy_from_slice(&OURS);
        assert_eq!(nd, reply);
        let sum: u32 = nd[22..]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>()
            + message.len() as u32
            + 58;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}

#[test]
fn the_kernel_sends_only_from_the_ports_addresses_to_pins() {
    let leaves = |frame: &[u8]| may_leave(&frame, &Plain::new(1));
    let out = |mac: [u8; 6], mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&OURS);
        frame
    };
    assert!(leaves(&out(PIN, v4(V4[1], V4[0], TCP, &[0; 20]))));
    assert!(leaves(&out(PIN, v6(V6[1], V6[0], TCP, &[0; 20]))));
    assert!(leaves(&out(OTHER, v4(V4[2], V4[0], TCP, &[0; 20]))));
    for (mac, to, from) in [
        (OTHER, V4[1], V4[0]),
        (PIN, V4[2], V4[0]),
        (BROADCAST, V4[1], V4[0]),
        (PIN, V4[1], "10.152.152.10"),
        (PIN, V4[1], V4[2]),
        (PIN, "10.9.0.9", V4[0]),
        (PIN, "224.0.0.1", V4[0]),
    ] {
        assert!(!leaves(&out(mac, v4(to, from, TCP, &[0; 20]))), "{to}");
    }
    for (mac, to, from) in [
        (OTHER, V6[1], V6[0]),
        (PIN, V6[2], V6[0]),
        (PIN, V6[1], "fe80::1"),
        (PIN, "ff02::1", V6[0]),
    ] {
        assert!(!leaves(&out(mac, v6(to, from, TCP, &[0; 20]))), "{to}");
    }
    assert!(!leaves(&ask_v4(V4[1], V4[0])));
    assert!(!leaves(&out(PIN, ask_v4(V4[1], V4[0]))));
    let good = out(PIN, v4(V4[1], V4[0], TCP, &[0; 20]));
    assert!((0..34).all(|end| !leaves(&good[..end])));
}

#[test]
fn records_have_the_sizes_that_the_maps_are_made_with() {
    assert_eq!(size_of::<PinKey>(), 24);
    assert_eq!(size_of::<PinLimits>(), 32);
    for (at, verdict) in PinnedVerdict::ALL.iter().enumerate() {
        assert_eq!(*verdict as usize, at);
    }
}
