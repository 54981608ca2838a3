//! More attacks from the cable: everything that is sent without a session of one's own, or beside it.

use std::net::Ipv4Addr;

use wire::limits::{BROADCAST, COUNTER_LIMIT, HEADER_LEN};
use wire::{Header, kind};

use super::catalogue::{ALL_NODES, ALL_NODES_MAC, link_local};
use super::frame::{Mac, Noise, ethernet, portcullis, tagged_by};
use super::inner;
use super::stream::{Attack, From, Known, Writer, cycle, handshake};
use crate::rig::GATEWAY_V4;

const fn cable(
    name: &'static str,
    verdicts: &'static [&'static str],
    frames: fn(&super::Known) -> super::Writer,
) -> Attack {
    Attack {
        name,
        verdicts,
        from: From::Cable,
        races: false,
        frames,
    }
}

/// Handshake frames of the victim under ws4's keys.
pub(super) fn other_knock(known: &Known) -> Writer {
    let (known, knock) = (known.clone(), known.sealer().knock.w2g);
    let mut noise = Noise::new(21);
    Box::new(move |number, buffer| {
        let named = (known.key_id, noise.next());
        *buffer = handshake(&known, number, named, knock, &mut noise);
    })
}

/// Data of indexes that may be, under ws4's keys.
pub(super) fn guesses(known: &Known) -> Writer {
    let sealer = known.sealer();
    let own = sealer.index;
    let mut guess = Noise::new(22).next() as u32;
    Box::new(move |number, buffer| {
        // Slots of a few sessions are low: they are tried with every generation first.
        guess = guess.wrapping_add(0x0001_0001);
        let index = match guess & 0xffff_0000 | (guess & 7) {
            index if index == own => index ^ 0x8000_0000,
            index => index,
        };
        let mut header = Header::new(kind::DATA, 64, index, number);
        header.tag = header.data_tag(sealer.admission());
        *buffer = sealer.outer.frame(&header, &[0; 80]);
    })
}

/// Data of the victim's session under ws4's keys.
pub(super) fn other_admission(known: &Known) -> Writer {
    let (known, sealer) = (known.clone(), known.sealer());
    let mut header = known.header();
    Box::new(move |number, buffer| {
        if number % 64 == 0 {
            header = known.header();
            header.length = 64;
        }
        header.counter = (header.counter + 1) % COUNTER_LIMIT;
        header.tag = header.data_tag(sealer.admission());
        *buffer = known.as_victim().frame(&header, &[0; 80]);
    })
}

/// Counters that no frame may have.
pub(super) fn high_counters(known: &Known) -> Writer {
    let sealer = known.sealer();
    Box::new(move |number, buffer| {
        let counter = [COUNTER_LIMIT, COUNTER_LIMIT + number, u64::MAX][number as usize % 3];
        *buffer = sealer.seal_at(counter, &[0x45; 64]);
    })
}

/// They.
pub const CABLE: &[Attack] = &[
    cable(
        "DHCP, DHCPv6 and Router Advertisements",
        &["foreign"],
        |known| {
            let from = link_local(known.own);
            let discover = inner::udp(67, &[1; 240]);
            let v4 = inner::v4(
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                17,
                (&[], 0, 0),
                &discover,
            );
            let v6 = inner::v6(
                from,
                "ff02::1:2".parse().unwrap_or(ALL_NODES),
                17,
                &inner::udp(547, &[1; 64]),
            );
            let advertisement = inner::icmp6(from, ALL_NODES, 134);
            cycle(vec![
                ethernet(BROADCAST, known.own, 0x0800, &v4),
                ethernet([0x33, 0x33, 0, 1, 0, 2], known.own, 0x86dd, &v6),
                ethernet(ALL_NODES_MAC, known.own, 0x86dd, &advertisement),
            ])
        },
    ),
    cable(
        "802.1ad: a service tag, and two tags, the outer 0x88a8 or 0x8100",
        &["foreign"],
        |known| {
            const SERVICE: u16 = 0x88a8;
            const CUSTOMER: u16 = 0x8100;
            let tags: [&[(u16, u16)]; 5] = [
                &[(SERVICE, 0)],
                &[(SERVICE, 5)],
                &[(SERVICE, 5), (CUSTOMER, 0)],
                &[(SERVICE, 0), (SERVICE, 0)],
                &[(CUSTOMER, 5), (SERVICE, 0)],
            ];
            let frames = known.data.iter().take(64).chain(&known.handshakes);
            cycle(
                frames
                    .flat_map(|frame| tags.map(|tags| tagged_by(frame, tags)))
                    // Two tags on a full frame would not leave the attacker's interface.
                    .filter(|frame| frame.len() <= 1514)
                    .collect(),
            )
        },
    ),
    cable("IGMP, MLD, mDNS and LLMNR", &["foreign"], |known| {
        let own = Ipv4Addr::new(10, 152, 152, 99);
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let igmp = inner::v4(
            own,
            group,
            2,
            (&[0x94, 4, 0, 0], 0, 0),
            &[0x16, 0, 9, 4, 224, 0, 0, 251],
        );
        let mdns = inner::udp4(own, group, 5353, &[0; 40]);
        let mld = inner::icmp6(link_local(known.own), ALL_NODES, 143);
        cycle(vec![
            ethernet([1, 0, 0x5e, 0, 0, 0xfb], known.own, 0x0800, &igmp),
            ethernet([1, 0, 0x5e, 0, 0, 0xfb], known.own, 0x0800, &mdns),
            ethernet(ALL_NODES_MAC, known.own, 0x86dd, &mld),
        ])
    }),
    cable(
        "LLDP, EAPOL, PPPoE, MACsec, PTP, ATA over Ethernet",
        &["foreign"],
        |known| {
            let types = [
                0x88cc, 0x888e, 0x8863, 0x8864, 0x88e5, 0x88f7, 0x88a2, 0x8847,
            ];
            let frames =
                types.map(|ethertype| ethernet(known.gateway, known.own, ethertype, &[0xa5; 120]));
            cycle(frames.to_vec())
        },
    ),
    cable(
        "802.3 lengths, SNAP, neighbouring EtherTypes",
        &["foreign"],
        |known| {
            // The tunnel's frames under other types, and inside LLC/SNAP.
            let inner = known
                .data
                .first()
                .map_or(&[0; 64][..], |frame| &frame[14..]);
            let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 0x88, 0xb5], inner].concat();
            let others = [0x88b4, 0x88b6, 0xb588, 0x88b5 ^ 0x8000, 0x0040];
            let frames =
                others.map(|ethertype| ethernet(known.gateway, known.victim, ethertype, inner));
            let snap = ethernet(
                known.gateway,
                known.victim,
                snap.len().min(1500) as u16,
                &snap,
            );
            cycle(
                frames
                    .into_iter()
                    .chain([snap])
                    .filter(|frame| frame.len() <= 1514)
                    .collect(),
            )
        },
    ),
    cable(
        "source routes, land packets and fragments in clear",
        &["foreign"],
        |known| {
            let own = Ipv4Addr::new(10, 152, 152, 99);
            let route = [0x83, 7, 4, 10, 152, 152, 10, 0];
            let packets = [
                inner::v4(own, GATEWAY_V4, 17, (&route, 0, 0), &inner::udp(53, b"x")),
                inner::v4(GATEWAY_V4, GATEWAY_V4, 6, (&[], 0, 0), &inner::syn(9050)),
                inner::v4(own, GATEWAY_V4, 17, (&[], 7, 0x2000), &[0; 16]),
                inner::v4(own, GATEWAY_V4, 17, (&[], 7, 1), &[0; 16]),
            ];
            cycle(
                packets
                    .map(|packet| ethernet(known.gateway, known.own, 0x0800, &packet))
                    .to_vec(),
            )
        },
    ),
    cable(
        "MAC flooding: a new source with every frame",
        &["foreign", "unknown_session"],
        |known| {
            let gateway = known.gateway;
            let mut noise = Noise::new(20);
            Box::new(move |number, buffer| {
                let [_, _, a, b, c, d, e, f] = noise.next().to_be_bytes();
                let source: Mac = [a & 0xfc | 2, b, c, d, e, f];
                let header = Header::new(kind::DATA, 16, number as u32 | 1, number);
                *buffer = match number % 2 {
                    0 => portcullis(gateway, source, &header, &[0; 32]),
                    _ => ethernet(gateway, source, 0x0806, &[0; 28]),
                };
            })
        },
    ),
    cable(
        "runts: from a bare Ethernet header on",
        &["short", "malformed"],
        |known| {
            let frames: Vec<Vec<u8>> = known
                .handshakes
                .iter()
                .chain(known.data.iter().take(4))
                .cloned()
                .collect();
            Box::new(move |number, buffer| {
                buffer.clear();
                if let Some(frame) = frames.get(number as usize % frames.len().max(1)) {
                    buffer.extend(&frame[..14 + number as usize % HEADER_LEN]);
                }
            })
        },
    ),
    cable(
        "ws2's newest header with any bit flipped",
        &[
            "bad_tag",
            "malformed",
            "unknown_session",
            "misdirected",
            "foreign",
            "replay",
        ],
        |known| {
            let known = known.clone();
            Box::new(move |number, buffer| {
                buffer.clear();
                buffer.extend(&*known.newest.lock().unwrap_or_else(|e| e.into_inner()));
                // From the EtherType on to the end of the header: every bit that is not the addresses'.
                let bit = number as usize % ((2 + HEADER_LEN) * 8);
                if let Some(byte) = buffer.get_mut(12 + bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            })
        },
    ),
    cable(
        "reflection: what the Gateway sent, sent back to it",
        &[
            "unknown_session",
            "misdirected",
            "malformed",
            "bad_tag",
            "replay",
        ],
        |known| {
            let (gateway, sources) = (known.gateway, [known.victim, known.own, known.gateway]);
            let frames = known.answers.iter().flat_map(|frame| {
                sources.map(|source| [&gateway[..], &source[..], &frame[12..]].concat())
            });
            cycle(frames.collect())
        },
    ),
    cable(
        "Hello and Initiation of ws2 under ws4's keys",
        &["bad_tag"],
        other_knock,
    ),
    cable(
        "guessing indexes: every slot and generation under ws4's keys",
        &["unknown_session", "bad_tag", "misdirected"],
        guesses,
    ),
    cable(
        "ws2's session under ws4's keys, from ws2's address",
        &["bad_tag"],
        other_admission,
    ),
    cable(
        "ws4's session from another address",
        &["misdirected"],
        |known| {
            let sealer = known.sealer();
            let sources = [known.victim, [2, 0, 0, 0, 0, 0x77], known.gateway];
            let packet = inner::udp4(sealer.v4, GATEWAY_V4, 5353, b"moved");
            Box::new(move |number, buffer| {
                *buffer = sealer.seal(&packet);
                buffer[6..12].copy_from_slice(&sources[number as usize % sources.len()]);
            })
        },
    ),
    cable(
        "counters of 2^36 and more under right tags",
        &["malformed"],
        high_counters,
    ),
];
