//! Attacks on ws2: frames as if from the Gateway, and ws2's own sent back to it. They end at ws2, whose agent says
//! how; no frame of them may be opened there, or begin or end a session.

use wire::limits::{BROADCAST, COUNTER_LIMIT, ETH_LEN, HEADER_LEN, HELLO_LEN, INITIATION_LEN};
use wire::{Header, kind};

use super::catalogue::link_local;
use super::frame::{
    Mac, Noise, Outer, advertisement, arp, ethernet, header_of, portcullis, tagged, tagged_by,
    udp_v4,
};
use super::padding::{LONGEST, behind};
use super::stream::{Attack, From, Known, Writer, cycle};
use crate::rig::{GATEWAY_V4, GATEWAY_V6};

const fn as_gateway(
    name: &'static str,
    verdicts: &'static [&'static str],
    frames: fn(&Known) -> Writer,
) -> Attack {
    Attack {
        name,
        verdicts,
        from: From::AsGateway,
        races: false,
        frames,
    }
}

/// The header of the newest Data that the Gateway has sent ws2.
fn newest(known: &Known) -> Header {
    let history = known.to_victim.now();
    let header = history.newest().and_then(header_of);
    header.unwrap_or(Header::new(kind::DATA, 64, 1, 0))
}

/// Data in ws2's session as if the next of the Gateway's, tagged by `tag`.
fn next_data(known: &Known, mut tag: impl FnMut(&Header) -> u64 + Send + 'static) -> Writer {
    let known = known.clone();
    let mut header = newest(&known);
    Box::new(move |number, buffer| {
        if number % 64 == 0 {
            header = newest(&known);
            header.length = 1200;
        }
        header.counter = (header.counter + 1) % COUNTER_LIMIT;
        header.tag = tag(&header);
        *buffer = portcullis(known.victim, known.gateway, &header, &[0xaa; 1216]);
    })
}

/// The newest Data that the Gateway has sent ws2, in each another bit flipped, `from` this byte on `to` that one.
fn flipped(known: &Known, (from, to): (usize, usize)) -> Writer {
    let known = known.clone();
    Box::new(move |number, buffer| {
        if let Some(frame) = known.to_victim.now().newest() {
            buffer.clear();
            buffer.extend(frame);
        }
        let places = to.min(buffer.len()) - from;
        let bit = number as usize % (places * 8);
        buffer[from + bit / 8] ^= 1 << (bit % 8);
    })
}

/// Every type of a handshake frame under ws4's keys, for ws2's key id and for ws4's own.
fn others_handshakes(known: &Known) -> Writer {
    const TYPES: [(u8, usize); 5] = [
        (kind::HELLO, HELLO_LEN),
        (kind::INITIATION, INITIATION_LEN),
        (kind::CHALLENGE, 32),
        (kind::RESPONSE, 128),
        (kind::RESET, 32),
    ];
    let (known, sealer) = (known.clone(), known.sealer());
    let mut noise = Noise::new(51);
    Box::new(move |number, buffer| {
        let (kind, length) = TYPES[number as usize % TYPES.len()];
        let turn = number as usize / TYPES.len();
        let key_id = [known.key_id, sealer.key_id][turn % 2];
        // A genuine Reset is for all.
        let to = if kind == kind::RESET {
            BROADCAST
        } else {
            known.victim
        };
        let outer = Outer {
            mac: known.gateway,
            way: to.into(),
        };
        let mut payload = vec![0; length];
        noise.fill(&mut payload);
        *buffer = outer.tagged(kind, (key_id, noise.next()), sealer.knock.g2w, &payload);
    })
}

/// What is no frame of the tunnel, from the Gateway's hardware address.
fn foreign(known: &Known) -> Vec<Vec<u8>> {
    let gateway = (known.gateway, GATEWAY_V4);
    let packets = [
        (0x0800, udp_v4(GATEWAY_V4, known.victim_v4, 53, &[0; 64])),
        (0x0806, arp(2, gateway, (known.victim, known.victim_v4))),
        (
            0x86dd,
            advertisement(GATEWAY_V6, known.gateway, link_local(known.victim)),
        ),
    ];
    let packets = packets
        .map(|(ethertype, packet)| ethernet(known.victim, known.gateway, ethertype, &packet));
    let data = known.to_victim.now().latest(64);
    let tags = data.iter().flat_map(|frame| {
        [
            tagged(frame, &[0]),
            tagged(frame, &[5]),
            tagged_by(frame, &[(0x88a8, 5), (0x8100, 0)]),
        ]
    });
    // With tags a full frame would not leave the attacker's interface: its end is cut off, which nobody gets to see.
    let tags = tags.map(|mut frame| {
        frame.truncate(LONGEST);
        frame
    });
    packets.into_iter().chain(tags).collect()
}

/// They.
pub const IMPERSONATION: &[Attack] = &[
    as_gateway(
        "as the Gateway to ws2: Data of its session, forged admission tags",
        &["bad_tag"],
        |known| {
            let mut noise = Noise::new(50);
            next_data(known, move |_| noise.next())
        },
    ),
    as_gateway(
        "as the Gateway to ws2: Data of its session under ws4's keys",
        &["bad_tag"],
        |known| {
            let sealer = known.sealer();
            next_data(known, move |header| header.data_tag(sealer.admission()))
        },
    ),
    as_gateway(
        "as the Gateway to ws2: Data of sessions that do not exist",
        &["unknown_session"],
        |known| {
            let (known, mut noise) = (known.clone(), Noise::new(52));
            Box::new(move |number, buffer| {
                let mut header = Header::new(kind::DATA, 64, noise.next() as u32 | 1, number);
                header.tag = noise.next();
                *buffer = portcullis(known.victim, known.gateway, &header, &[0; 80]);
            })
        },
    ),
    as_gateway(
        "as the Gateway to ws2: every type of handshake frame under ws4's keys",
        &["malformed", "bad_tag", "unknown_key"],
        others_handshakes,
    ),
    as_gateway(
        "as the Gateway to ws2: its own Challenge and Response again",
        &["replay"],
        |known| {
            let answers = known
                .answers
                .iter()
                .filter(|frame| header_of(frame).is_some_and(|header| header.kind != kind::DATA));
            cycle(answers.cloned().collect())
        },
    ),
    as_gateway(
        "as the Gateway to ws2: its newest frame, any bit from the EtherType to the header's end flipped",
        &["bad_tag", "malformed", "unknown_session", "foreign"],
        |known| flipped(known, (ETH_LEN - 2, ETH_LEN + HEADER_LEN)),
    ),
    Attack {
        races: true,
        ..as_gateway(
            "as the Gateway to ws2: its newest frame, any bit of its payload flipped",
            &["replay"],
            |known| flipped(known, (ETH_LEN + HEADER_LEN, usize::MAX)),
        )
    },
    as_gateway(
        "the Gateway's Data to ws2 again, with bytes behind it: one, some, many, zeros and others",
        &["replay"],
        |known| behind(known.to_victim.now().latest(8192)),
    ),
    as_gateway(
        "the Gateway's Data to ws2 again, cut anywhere",
        &["short", "malformed"],
        |known| {
            let data = known.to_victim.now().latest(64);
            let mut noise = Noise::new(56);
            Box::new(move |number, buffer| {
                let frame = &data[number as usize % data.len()];
                let whole = header_of(frame).map_or(0, |header| ETH_LEN + header.frame_len());
                let cut = noise.below((whole - ETH_LEN) as u64) as usize;
                buffer.clear();
                buffer.extend(&frame[..ETH_LEN + cut]);
            })
        },
    ),
    as_gateway(
        "the Gateway's Data to ws2 again, by other stations",
        &["misdirected"],
        |known| {
            let data = known.to_victim.now().latest(512);
            Box::new(move |number, buffer| {
                let source: Mac = [2, 0x66, 0, 0, (number >> 8) as u8, number as u8];
                let frame = &data[number as usize % data.len()];
                *buffer = [&frame[..6], &source, &frame[12..]].concat();
            })
        },
    ),
    as_gateway(
        "as the Gateway to ws2: IP, ARP and ND, VLAN tags of 802.1Q and 802.1ad",
        &["foreign"],
        |known| cycle(foreign(known)),
    ),
    as_gateway(
        "reflection to ws2: what it sent, sent back to it",
        &["unknown_session", "malformed", "bad_tag", "misdirected"],
        |known| {
            let sources = [known.gateway, known.victim, known.own];
            let sent = known.data.iter().chain(&known.handshakes);
            let back = sent.flat_map(|frame| {
                sources.map(|source| [&known.victim[..], &source, &frame[12..]].concat())
            });
            cycle(back.collect())
        },
    ),
];
