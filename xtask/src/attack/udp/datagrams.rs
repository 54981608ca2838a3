//! Streams of datagrams of which something outside is wrong: what they carry is genuine, so that nothing but
//! what is wrong about them can stop them.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::limits::{BROADCAST, ETH_LEN, UDP_PORT};

use super::outer::{
    GATEWAY_V4, GATEWAY_V6, OWN_PORT, changed, from, genuine, get, inside, put, that_fit,
    with_extension, with_options,
};
use crate::attack::frame::{Noise, tagged};
use crate::attack::stream::cycle;
use crate::attack::{Attack, Known};

const UDP_V4: usize = ETH_LEN + 20;
const UDP_V6: usize = ETH_LEN + 40;

/// They.
pub const DATAGRAMS: &[Attack] = &[
    super::path(
        "random bytes to the tunnel's port, from everywhere",
        &["malformed", "outer_malformed", "unknown_session"],
        |known| {
            let known = known.clone();
            let mut noise = Noise::new(50);
            Box::new(move |number, buffer| {
                let mut payload = vec![0; noise.below(1400) as usize];
                noise.fill(&mut payload);
                if let (Some(first), 0) = (payload.get_mut(..2), number % 2) {
                    first.copy_from_slice(&[0x15, 0]);
                }
                *buffer = from(&known, super::outer::anywhere(&mut noise)).wrap(&payload);
            })
        },
    ),
    super::path(
        "lengths of IP, UDP and frame that disagree",
        &["outer_malformed", "malformed"],
        |known| cycle(lengths(known)),
    ),
    super::path(
        "fragments: first, later, tiny, overlapping",
        &["outer_malformed"],
        |known| {
            let (v4, _) = genuine(known);
            // Word of flags and offset; bytes kept of the packet.
            let kinds = [
                (0x2000, 1500),
                (0x2000, 28),
                (1, 1500),
                (0x2001, 200),
                (0x1fff, 40),
            ];
            cycle(
                v4.iter()
                    .flat_map(|whole| {
                        kinds.map(|(word, most)| {
                            changed(whole, |frame| {
                                frame.truncate(ETH_LEN + most);
                                let length = (frame.len() - ETH_LEN) as u16;
                                put(frame, ETH_LEN + 2, length);
                                put(frame, ETH_LEN + 6, word);
                                frame.resize(frame.len().max(60), 0);
                            })
                        })
                    })
                    .collect(),
            )
        },
    ),
    super::path(
        "IPv4 options, header lengths and versions",
        &["outer_malformed"],
        |known| {
            let (v4, _) = genuine(known);
            let options: [&[u8]; 6] = [
                &[1; 4],
                &[0x83, 7, 4, 192, 0, 2, 9, 0],
                &[0x89, 7, 4, 192, 0, 2, 9, 0],
                &[7, 7, 4, 0, 0, 0, 0, 0],
                &[0x94, 4, 0, 0],
                &[0; 40],
            ];
            let starts = [0x40, 0x44, 0x4f, 0x55, 0x65, 0x05];
            let with = v4
                .iter()
                .flat_map(|frame| options.map(|options| with_options(frame, options)));
            let other = v4.iter().flat_map(|frame| {
                starts.map(|start| changed(frame, |frame| frame[ETH_LEN] = start))
            });
            cycle(that_fit(with.chain(other)))
        },
    ),
    super::path(
        "IPv6 extension headers of every kind, and chains",
        &["outer_malformed"],
        |known| {
            let (_, v6) = genuine(known);
            let kinds = [0, 43, 44, 50, 51, 60, 135, 139, 140];
            let single = v6
                .iter()
                .flat_map(|frame| kinds.map(|kind| with_extension(frame, kind, &[0; 8])));
            let chains = v6.iter().map(|frame| {
                kinds.iter().fold(frame.clone(), |frame, kind| {
                    with_extension(&frame, *kind, &[0; 8])
                })
            });
            cycle(that_fit(single.chain(chains)))
        },
    ),
    super::path(
        "wrong IPv4 header checksums",
        &["outer_malformed"],
        |known| {
            let (v4, _) = genuine(known);
            Box::new(move |number, buffer| {
                buffer.clone_from(&v4[number as usize % v4.len()]);
                let bit = number as usize / v4.len() % 16;
                buffer[ETH_LEN + 10 + bit / 8] ^= 1 << (bit % 8);
            })
        },
    ),
    super::path(
        "IPv6 without a UDP checksum",
        &["outer_malformed"],
        |known| {
            let (_, mut v6) = genuine(known);
            for frame in &mut v6 {
                put(frame, UDP_V6 + 6, 0);
            }
            cycle(v6)
        },
    ),
    super::path(
        "other destinations on the cable: broadcast, groups, another station",
        &["misdirected"],
        |known| {
            let (v4, v6) = genuine(known);
            let to = [
                BROADCAST,
                [1, 0, 0x5e, 0, 0, 1],
                [0x33, 0x33, 0, 0, 0, 1],
                [2, 0, 0, 0, 0, 0x99],
            ];
            cycle(
                v4.iter()
                    .chain(&v6)
                    .flat_map(|frame| to.map(|to| [&to[..], &frame[6..]].concat()))
                    .collect(),
            )
        },
    ),
    super::path(
        "other IP destinations: broadcast, groups, neighbours, inner addresses",
        &["misdirected"],
        |known| cycle(destinations(known)),
    ),
    super::path(
        "sources that are no host's: this network, loopback, groups, reserved",
        &["outer_malformed"],
        |known| cycle(sources(known)),
    ),
    super::path(
        "land datagrams: from the Gateway's own address and port",
        &["outer_malformed"],
        |known| {
            let sources = [(GATEWAY_V4, UDP_PORT).into(), (GATEWAY_V6, UDP_PORT).into()];
            cycle(again(known, &sources))
        },
    ),
    super::path("source port 0", &["outer_malformed"], |known| {
        let sources = super::outer::own().map(|own| (own.ip(), 0).into());
        cycle(again(known, &sources))
    }),
    super::path("VLAN and priority tags, two tags", &["foreign"], |known| {
        let (v4, v6) = genuine(known);
        let tags = [&[0][..], &[5], &[0xe000], &[0, 0]];
        cycle(that_fit(
            v4.iter()
                .chain(&v6)
                .flat_map(|frame| tags.map(|tags| tagged(frame, tags))),
        ))
    }),
    super::path(
        "ws1's datagrams, cut anywhere",
        &["malformed", "outer_malformed"],
        |known| {
            let (known, frames) = (known.clone(), whole(known));
            Box::new(move |number, buffer| {
                let frame = &frames[number as usize % frames.len()];
                let len = number as usize / frames.len() % frame.len();
                let source = super::outer::own()[number as usize % 2];
                *buffer = from(&known, source).wrap(&frame[..len]);
            })
        },
    ),
    super::path(
        "ws1's datagrams with something behind them",
        &["malformed"],
        |known| {
            let (known, frames) = (known.clone(), whole(known));
            Box::new(move |number, buffer| {
                let frame = &frames[number as usize % frames.len()];
                let more = 1 + number as usize / frames.len() % 64;
                let source = super::outer::own()[number as usize % 2];
                let longer = [&frame[..], &vec![0xee; more]].concat();
                *buffer = from(&known, source).wrap(&longer);
            })
        },
    ),
];

/// Portcullis frames of ws1.
fn whole(known: &Known) -> Vec<Vec<u8>> {
    let frames = known.handshakes.iter().chain(known.data.iter().take(16));
    frames.map(|frame| inside(frame).to_vec()).collect()
}

/// Genuine frames from these addresses.
fn again(known: &Known, sources: &[std::net::SocketAddr]) -> Vec<Vec<u8>> {
    let frames = whole(known);
    let each = sources.iter().map(|source| from(known, *source));
    each.flat_map(|outer| frames.iter().map(move |frame| outer.wrap(frame)))
        .collect()
}

fn lengths(known: &Known) -> Vec<Vec<u8>> {
    let (v4, v6) = genuine(known);
    let mut frames = Vec::new();
    for frame in &v4 {
        let (ip, udp) = (get(frame, ETH_LEN + 2), get(frame, UDP_V4 + 4));
        for wrong in [0, 19, 20, 28, ip - 1, ip + 1, u16::MAX] {
            frames.push(changed(frame, |frame| put(frame, ETH_LEN + 2, wrong)));
        }
        for wrong in [0, 7, 8, udp - 1, udp + 1, u16::MAX] {
            frames.push(changed(frame, |frame| put(frame, UDP_V4 + 4, wrong)));
        }
        // Both agree, and there is less or more than they say.
        for by in [1, 8, 1000] {
            for (ip, udp) in [(ip + by, udp + by), (ip - by.min(8), udp - by.min(8))] {
                frames.push(changed(frame, |frame| {
                    put(frame, ETH_LEN + 2, ip);
                    put(frame, UDP_V4 + 4, udp);
                }));
            }
        }
    }
    for frame in &v6 {
        let length = get(frame, ETH_LEN + 4);
        for wrong in [0, 8, length - 1, length + 1, u16::MAX] {
            for at in [ETH_LEN + 4, UDP_V6 + 4] {
                let mut frame = frame.clone();
                put(&mut frame, at, wrong);
                frames.push(frame);
            }
        }
    }
    frames
}

fn destinations(known: &Known) -> Vec<Vec<u8>> {
    let (v4, v6) = genuine(known);
    let to_v4 = [
        Ipv4Addr::new(192, 0, 2, 255),
        Ipv4Addr::new(192, 0, 2, 2),
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        crate::rig::GATEWAY_V4,
    ];
    let to_v6 = [
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        crate::rig::GATEWAY_V6,
    ];
    let v4 = v4.iter().flat_map(|frame| {
        to_v4.map(|to| changed(frame, |frame| frame[30..34].copy_from_slice(&to.octets())))
    });
    let v6 = v6.iter().flat_map(|frame| {
        to_v6.map(|to| {
            let mut frame = frame.clone();
            frame[38..54].copy_from_slice(&to.octets());
            frame
        })
    });
    v4.chain(v6).collect()
}

fn sources(known: &Known) -> Vec<Vec<u8>> {
    let v4 = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [127, 255, 255, 254],
        [224, 0, 0, 1],
        [239, 255, 255, 250],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ]
    .map(|v4| (Ipv4Addr::from(v4), OWN_PORT).into());
    let v6 = [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1),
    ]
    .map(|v6| (v6, OWN_PORT).into());
    again(known, &[&v4[..], &v6].concat())
}
