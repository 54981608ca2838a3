//! Streams of Portcullis frames in datagrams of which nothing is wrong: copied from the path, changed, forged,
//! under other keys.

use wire::kind;
use wire::limits::{ETH_LEN, HEADER_LEN};

use super::outer::{anywhere, from, inside, own};
use crate::attack::cable::{guesses, high_counters, other_admission, other_knock};
use crate::attack::frame::{Noise, front_of};
use crate::attack::stream::{
    cycle, forged_tags, lying_lengths, unknown_ids, unknown_sessions, wrong_knock,
};
use crate::attack::{Attack, Known, Writer, inner};
use crate::rig::GATEWAY_V4;

/// They.
pub const FRAMES: &[Attack] = &[
    super::path(
        "ws1's Data again, from its own address",
        &["replayed"],
        |known| cycle(known.data.clone()),
    ),
    super::path(
        "ws1's Data again, from everywhere and by the other IP version",
        &["replayed"],
        |known| {
            let known = known.clone();
            let mut noise = Noise::new(60);
            Box::new(move |number, buffer| {
                let frame = &known.data[number as usize % known.data.len()];
                *buffer = from(&known, anywhere(&mut noise)).wrap(inside(frame));
            })
        },
    ),
    super::path(
        "ws1's Data again, by other stations on the Gateway's cable",
        &["replayed"],
        |known| {
            let known = known.clone();
            Box::new(move |number, buffer| {
                buffer.clone_from(&known.data[number as usize % known.data.len()]);
                buffer[6..12].copy_from_slice(&[2, 0x66, 0, 0, (number >> 8) as u8, number as u8]);
            })
        },
    ),
    super::path(
        "ws1's Data again, any bit of its payload flipped",
        &["replayed"],
        |known| {
            let data = known.data.clone();
            Box::new(move |number, buffer| {
                buffer.clone_from(&data[number as usize % data.len()]);
                let front = front_of(buffer).unwrap_or(ETH_LEN) + HEADER_LEN;
                let bit = number as usize / data.len() % ((buffer.len() - front) * 8);
                buffer[front + bit / 8] ^= 1 << (bit % 8);
            })
        },
    ),
    super::path(
        "ws1's newest header on a forged payload",
        &["replayed", "open_failed"],
        |known| {
            let known = known.clone();
            let mut noise = Noise::new(61);
            Box::new(move |number, buffer| {
                if number % 16 == 0 || buffer.is_empty() {
                    buffer.clone_from(&known.newest.lock().unwrap_or_else(|e| e.into_inner()));
                }
                let front = front_of(buffer).unwrap_or(ETH_LEN) + HEADER_LEN;
                let from = front.min(buffer.len());
                noise.fill(&mut buffer[from..]);
            })
        },
    ),
    super::path(
        "ws1's datagrams again, any bit of the tunnel's header flipped",
        &["bad_tag", "malformed", "unknown_session"],
        |known| flipped(known, |front| front..front + HEADER_LEN),
    ),
    super::path(
        "ws1's datagrams again, any bit outside flipped",
        &[
            "misdirected",
            "foreign",
            "outer_malformed",
            "malformed",
            "replayed",
        ],
        |known| flipped(known, |front| 0..front),
    ),
    super::path(
        "Data of ws1's session, forged admission tag",
        &["bad_tag"],
        forged_tags,
    ),
    super::path(
        "datagrams of sessions that do not exist",
        &["unknown_session"],
        unknown_sessions,
    ),
    super::path(
        "Hello and Initiation of ws1 under a wrong key",
        &["bad_tag"],
        wrong_knock,
    ),
    super::path(
        "Hello and Initiation in datagrams under unknown key ids",
        &["unknown_key"],
        unknown_ids,
    ),
    super::path(
        "ws1's Initiation again, from everywhere",
        &["replay"],
        |known| {
            let known = known.clone();
            let mut noise = Noise::new(62);
            let initiation = frames_of(&known, kind::INITIATION);
            Box::new(move |number, buffer| {
                let frame = &initiation[number as usize % initiation.len()];
                *buffer = match number % 4 {
                    0 => known.as_victim().wrap(frame),
                    _ => from(&known, anywhere(&mut noise)).wrap(frame),
                };
            })
        },
    ),
    super::path(
        "the Gateway's own frame types in datagrams, forged Resets",
        &["malformed"],
        |known| {
            let (known, knock) = (known.clone(), known.sealer().knock.g2w);
            let mut noise = Noise::new(63);
            Box::new(move |number, buffer| {
                let (kind, length) = [
                    (kind::CHALLENGE, 32),
                    (kind::RESPONSE, 128),
                    (kind::RESET, 32),
                ][number as usize % 3];
                let named = (known.key_id, noise.next());
                let outer = [known.as_victim(), known.as_itself()][number as usize % 2];
                *buffer = outer.tagged(kind, named, knock, &vec![0; length]);
            })
        },
    ),
    super::path(
        "headers that say more than the datagram has, flags, versions",
        &["malformed"],
        lying_lengths,
    ),
    super::path(
        "reflection: what the Gateway sent ws1, sent back to it",
        &["unknown_session", "malformed", "bad_tag", "misdirected"],
        |known| {
            let outers = [known.as_victim(), known.as_itself()];
            let back = known
                .answers
                .iter()
                .flat_map(|frame| outers.map(|outer| outer.wrap(inside(frame))));
            // Unchanged as well: from the Gateway to ws1.
            cycle(back.chain(known.answers.iter().cloned()).collect())
        },
    ),
    super::path(
        "Hello and Initiation of ws1 under ws4's keys",
        &["bad_tag"],
        other_knock,
    ),
    super::path(
        "guessing indexes over networks, under ws4's keys",
        &["unknown_session", "bad_tag"],
        guesses,
    ),
    super::path(
        "ws1's session under ws4's keys, from ws1's address",
        &["bad_tag"],
        other_admission,
    ),
    super::path(
        "counters of 2^36 and more in datagrams, under right tags",
        &["malformed"],
        high_counters,
    ),
    super::keys(
        "ws4's session from another address with every datagram",
        &["policy_denied"],
        |known| {
            let known = known.clone();
            let sealer = known.sealer();
            let mut noise = Noise::new(64);
            let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"moved");
            Box::new(move |_, buffer| {
                let sealed = sealer.seal(&packet);
                *buffer = from(&known, anywhere(&mut noise)).wrap(inside(&sealed));
            })
        },
    ),
];

/// Portcullis frames of this type among ws1's handshakes.
fn frames_of(known: &Known, kind: u8) -> Vec<Vec<u8>> {
    let frames = known.handshakes.iter().map(|frame| inside(frame).to_vec());
    let of_kind = |frame: &Vec<u8>| frame.first().is_some_and(|first| first & 15 == kind);
    frames.filter(of_kind).collect()
}

/// ws1's datagrams, in each another bit flipped of the bytes that `of` gives.
fn flipped(known: &Known, of: fn(usize) -> std::ops::Range<usize>) -> Writer {
    let known = known.clone();
    let by_v6 = from(&known, own()[1]);
    Box::new(move |number, buffer| {
        let frame = &known.data[number as usize % known.data.len()];
        *buffer = match number % 4 {
            3 => by_v6.wrap(inside(frame)),
            _ => frame.clone(),
        };
        let places = of(front_of(buffer).unwrap_or(ETH_LEN));
        let bit = number as usize / 4 % (places.len() * 8);
        if let Some(byte) = buffer.get_mut(places.start + bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    })
}
