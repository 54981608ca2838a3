//! Attacks by padding: what stands behind a frame of the tunnel, or inside one behind its packet. A frame's length is
//! what its header says, and a packet's what its own says; the rest is nobody's.

use wire::limits::{ETH_LEN, HEADER_LEN, TAG_LEN};

use super::frame::Noise;
use super::inner;
use super::stream::{Attack, From, INSIDER_PORT, Known, Writer};
use crate::rig::GATEWAY_V4;

/// What a cable carries at most.
pub(super) const LONGEST: usize = 1514;

/// Frames, each with something behind it: one byte and up to a full frame, zeros and others.
pub(super) fn behind(frames: Vec<Vec<u8>>) -> Writer {
    let frames: Vec<Vec<u8>> = frames.into_iter().filter(|f| f.len() < LONGEST).collect();
    let mut noise = Noise::new(53);
    Box::new(move |number, buffer| {
        let Some(frame) = frames.get(number as usize % frames.len().max(1)) else {
            return;
        };
        let room = LONGEST - frame.len();
        let more = [1, 1 + noise.below(room as u64) as usize, room][number as usize % 3];
        buffer.clear();
        buffer.extend(frame);
        buffer.resize(frame.len() + more, 0);
        if number % 2 == 1 {
            noise.fill(&mut buffer[frame.len()..]);
        }
    })
}

/// Authentic frames of ws4: with bytes behind them, with bytes inside behind a packet that its rules deny, and so
/// short that a cable pads them, with that padding cut or not zero.
fn authentic(known: &Known) -> Writer {
    let sealer = known.sealer();
    let denied = inner::udp4(sealer.v4, GATEWAY_V4, INSIDER_PORT, b"padded");
    let mut noise = Noise::new(54);
    Box::new(move |number, buffer| {
        let some = 1 + noise.below(64) as usize;
        *buffer = match number % 4 {
            0 => {
                let mut frame = sealer.seal(&denied);
                frame.resize(frame.len() + some, 0xee);
                frame
            }
            1 => sealer.seal(&[&denied[..], &vec![number as u8; some]].concat()),
            // No packet, and too short for a whole frame: 54 to 59 bytes.
            at => {
                let plaintext = vec![0x10; number as usize / 4 % 6];
                let end = ETH_LEN + HEADER_LEN + plaintext.len() + TAG_LEN;
                let mut frame = sealer.seal(&plaintext);
                match at {
                    2 => frame.truncate(end),
                    _ => noise.fill(&mut frame[end..]),
                }
                frame
            }
        };
    })
}

/// They.
pub const PADDING: &[Attack] = &[
    Attack {
        name: "ws2's Data with bytes behind it: one, some, many, zeros and others",
        verdicts: &["replay"],
        from: From::Cable,
        races: false,
        frames: |known| behind(known.data.clone()),
    },
    Attack {
        name: "padding of ws4's frames: behind them, inside behind the packet, a cable's own cut and not zero",
        verdicts: &["policy_denied", "inner_malformed"],
        from: From::Keys,
        races: false,
        frames: authentic,
    },
];
