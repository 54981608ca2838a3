//! Attacks of a compromised Workstation: authentic frames, whose contents are not what they should be.
//! ws4 may reach TCP port 9050, UDP port 5353 and ping; whatever else it sends must end at its worker.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::frame::Noise;
use super::inner;
use super::rogue::Sealer;
use super::stream::{Attack, From, Known, Writer};
use crate::rig::{GATEWAY_V4, GATEWAY_V6};

const fn keys(
    name: &'static str,
    verdicts: &'static [&'static str],
    frames: fn(&Known) -> Writer,
) -> Attack {
    Attack {
        name,
        verdicts,
        from: From::Keys,
        races: false,
        frames,
    }
}

/// Seals these plaintexts in turn, each under a counter of its own.
fn seal(known: &Known, plaintexts: impl FnOnce(&Sealer) -> Vec<Vec<u8>>) -> Writer {
    let sealer = known.sealer();
    let plaintexts = plaintexts(&sealer);
    Box::new(move |number, buffer| {
        if let Some(plaintext) = plaintexts.get(number as usize % plaintexts.len().max(1)) {
            *buffer = sealer.seal(plaintext);
        }
    })
}

const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 152, 152, 250);

/// They.
pub const KEYS: &[Attack] = &[
    keys(
        "inner source: ws2's, the Gateway's, loopback, multicast",
        &["inner_source"],
        |known| {
            let v4 = [
                known.victim_v4,
                GATEWAY_V4,
                Ipv4Addr::LOCALHOST,
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                Ipv4Addr::new(224, 0, 0, 1),
            ];
            let v6 = [
                GATEWAY_V6,
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::UNSPECIFIED,
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            ];
            let v4 = v4.map(|source| inner::udp4(source, GATEWAY_V4, 5353, b"as another"));
            let v6 = v6
                .map(|source| inner::v6(source, GATEWAY_V6, 17, &inner::udp(5353, b"as another")));
            seal(known, |_| v4.into_iter().chain(v6).collect())
        },
    ),
    keys(
        "overlapping prefixes: sources one bit from its own, and all around ws2's in the prefix they share",
        &["inner_source"],
        |known| {
            let victim = u32::from(known.victim_v4);
            let around = (1..=16).flat_map(move |by| [victim - by, victim + by]);
            seal(known, |s| {
                let own = u32::from(s.v4);
                let v4 = (0..32)
                    .map(|bit| own ^ 1 << bit)
                    .chain(around.filter(|source| *source != own))
                    .map(|source| inner::udp4(source.into(), GATEWAY_V4, 5353, b"as a neighbour"));
                let own = u128::from(s.v6);
                let v6 = (0..128).map(|bit| own ^ 1 << bit).map(|source| {
                    let datagram = inner::udp(5353, b"as a neighbour");
                    inner::v6(source.into(), GATEWAY_V6, 17, &datagram)
                });
                v4.chain(v6).collect()
            })
        },
    ),
    keys(
        "land packets: from the Gateway's address to it",
        &["inner_source"],
        |known| {
            seal(known, |_| {
                vec![
                    inner::v4(GATEWAY_V4, GATEWAY_V4, 6, (&[], 0, 0), &inner::syn(9050)),
                    inner::v6(GATEWAY_V6, GATEWAY_V6, 6, &inner::syn(9050)),
                ]
            })
        },
    ),
    keys("ports that no rule names", &["policy_denied"], |known| {
        seal(known, |s| {
            let ports = [22, 53, 80, 8080, 9049, 9051, 65535];
            let tcp =
                ports.map(|port| inner::v4(s.v4, GATEWAY_V4, 6, (&[], 0, 0), &inner::syn(port)));
            let udp = ports.map(|port| inner::udp4(s.v4, GATEWAY_V4, port, b"x"));
            let v6 = ports.map(|port| inner::v6(s.v6, GATEWAY_V6, 6, &inner::syn(port)));
            tcp.into_iter().chain(udp).chain(v6).collect()
        })
    }),
    keys(
        "protocols that no rule names",
        &["policy_denied", "policy_unclassified"],
        |known| {
            seal(known, |s| {
                let protocols = [2, 4, 41, 47, 50, 51, 89, 132, 136, 253];
                protocols
                    .map(|p| inner::v4(s.v4, GATEWAY_V4, p, (&[], 0, 0), &[0; 40]))
                    .to_vec()
            })
        },
    ),
    keys(
        "another Workstation, and one that does not exist",
        &["inner_destination"],
        |known| {
            let victim = known.victim_v4;
            seal(known, |s| {
                vec![
                    inner::udp4(s.v4, victim, 5353, b"to ws2"),
                    inner::udp4(s.v4, NOWHERE, 5353, b"to nobody"),
                    inner::icmp4(s.v4, victim, 8),
                ]
            })
        },
    ),
    keys(
        "forwarding: the Internet, the LAN, multicast, broadcast",
        &["inner_destination"],
        |known| {
            seal(known, |s| {
                let v4 = [
                    [1, 1, 1, 1],
                    [192, 168, 0, 1],
                    [127, 0, 0, 1],
                    [169, 254, 169, 254],
                    [224, 0, 0, 251],
                    [255, 255, 255, 255],
                    [10, 152, 152, 255],
                ];
                let v4 = v4.map(|to| inner::udp4(s.v4, to.into(), 53, b"beyond"));
                let v6 = ["2606:4700::1111", "fe80::1", "ff02::1", "::1"].map(|to| {
                    let to = to.parse().unwrap_or(Ipv6Addr::LOCALHOST);
                    inner::v6(s.v6, to, 17, &inner::udp(53, b"beyond"))
                });
                v4.into_iter().chain(v6).collect()
            })
        },
    ),
    keys(
        "fragments that overlap, or hide the ports",
        &["policy_denied", "policy_unclassified"],
        |known| {
            seal(known, |s| {
                let first = |more: u16, bytes: &[u8]| {
                    inner::v4(s.v4, GATEWAY_V4, 6, (&[], 77, more), bytes)
                };
                let hidden = [&[44 - 43, 0][..], &[0; 6]].concat();
                vec![
                    // A first fragment without the whole header, one that begins inside it, teardrop's pair
                    // of a protocol no rule names, and an IPv6 first fragment with no ports.
                    first(0x2000, &inner::syn(9050)[..8]),
                    inner::v4(s.v4, GATEWAY_V4, 6, (&[], 77, 1), &inner::syn(22)[8..]),
                    inner::v4(s.v4, GATEWAY_V4, 47, (&[], 78, 0x2000), &[0; 40]),
                    inner::v4(s.v4, GATEWAY_V4, 47, (&[], 78, 3), &[0; 4]),
                    inner::v6(
                        s.v6,
                        GATEWAY_V6,
                        44,
                        &[&[6, 0, 0, 1, 0, 0, 0, 9], &hidden[..4]].concat(),
                    ),
                ]
            })
        },
    ),
    keys(
        "source routes and other IP options",
        &["policy_unclassified"],
        |known| {
            seal(known, |s| {
                let options: [&[u8]; 3] = [
                    &[0x83, 7, 4, 10, 152, 152, 12, 0],
                    &[0x89, 7, 4, 10, 152, 152, 12, 0],
                    &[0x83, 3, 0, 0],
                ];
                options
                    .map(|options| {
                        inner::v4(
                            s.v4,
                            GATEWAY_V4,
                            17,
                            (options, 0, 0),
                            &inner::udp(5353, b"routed"),
                        )
                    })
                    .to_vec()
            })
        },
    ),
    keys(
        "routing headers, endless extension headers",
        &["policy_unclassified", "inner_malformed", "policy_denied"],
        |known| {
            seal(known, |s| {
                let udp = inner::udp(5353, b"behind");
                let routing = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &GATEWAY_V6.octets(), &udp].concat();
                let chain: Vec<u8> = [[60, 0, 1, 4, 0, 0, 0, 0]; 40].concat();
                let jumbo = [&[17, 0, 0xc2, 4, 0, 1, 0, 0][..], &udp].concat();
                let mut jumbogram = inner::v6(s.v6, GATEWAY_V6, 0, &jumbo);
                jumbogram[4..6].fill(0);
                vec![
                    inner::v6(s.v6, GATEWAY_V6, 43, &routing),
                    inner::v6(s.v6, GATEWAY_V6, 60, &chain),
                    jumbogram,
                ]
            })
        },
    ),
    keys(
        "redirects, router and neighbour discovery, timestamps",
        &["policy_denied"],
        |known| {
            seal(known, |s| {
                let v4 = [5, 9, 10, 13, 17].map(|kind| inner::icmp4(s.v4, GATEWAY_V4, kind));
                let v6 = [133, 134, 135, 136, 137].map(|kind| inner::icmp6(s.v6, GATEWAY_V6, kind));
                v4.into_iter().chain(v6).collect()
            })
        },
    ),
    keys("IP lengths that lie", &["inner_malformed"], |known| {
        seal(known, |s| {
            let sound = inner::udp4(s.v4, GATEWAY_V4, 5353, &[0; 64]);
            let with = |length: u16| {
                let mut packet = sound.clone();
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet
            };
            let mut header = sound.clone();
            header[0] = 0x4f;
            header.truncate(24);
            let mut v6 = inner::v6(s.v6, GATEWAY_V6, 17, &inner::udp(5353, b"x"));
            v6[4] = 0xff;
            vec![
                with(0),
                with(19),
                with(sound.len() as u16 + 1),
                with(u16::MAX),
                header,
                v6,
            ]
        })
    }),
    keys(
        "no IP packet at all",
        &["inner_malformed", "control_refused"],
        |known| {
            seal(known, |_| {
                let firsts = [0x10, 0x30, 0x50, 0x70, 0x90, 0xf0];
                let mut all: Vec<Vec<u8>> = firsts.iter().map(|first| vec![*first; 40]).collect();
                all.extend([vec![], vec![0x45], vec![0x60; 39], vec![0x45; 19]]);
                all
            })
        },
    ),
    keys(
        "control messages of the other side, unknown, cut short",
        &["control_refused", "inner_malformed"],
        |known| {
            seal(known, |_| {
                let mut all: Vec<Vec<u8>> = [2, 4, 5, 9, 15]
                    .iter()
                    .map(|kind| [&[*kind, 0, 0, 0, 0, 0, 0, 0][..], &[7; 136]].concat())
                    .collect();
                all.extend([vec![1, 0, 0], vec![3; 24], vec![3, 0, 0, 0, 0, 0, 0, 1]]);
                all
            })
        },
    ),
    keys(
        "every frame sixteen times",
        &["replay", "policy_denied"],
        |known| {
            let sealer = known.sealer();
            let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"again");
            Box::new(move |number, buffer| {
                if number % 16 == 0 || buffer.is_empty() {
                    *buffer = sealer.seal(&packet);
                }
            })
        },
    ),
    keys(
        "garbage under right admission tags",
        &["open_failed"],
        |known| {
            let sealer = known.sealer();
            let mut noise = Noise::new(30);
            Box::new(move |_, buffer| *buffer = sealer.garbage(400, &mut noise))
        },
    ),
    keys(
        "exhausting credit and memory: full frames, no pause",
        &["policy_denied", "queue_full"],
        |known| {
            let sealer = known.sealer();
            let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, &[0; 1400]);
            Box::new(move |_, buffer| *buffer = sealer.seal(&packet))
        },
    ),
];
