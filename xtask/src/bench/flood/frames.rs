//! What the attacker sends, and what it hears on the LAN to make it from.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::limits::COUNTER_LIMIT;
use wire::{Header, kind};

use super::lan::Lan;
use crate::attack::{Noise, Writer, ethernet, header_of, portcullis};
use crate::rig::{PacketSocket, interrupted};

/// A flood by a host without keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Other EtherTypes: IPv4, ARP, IPv6 and two that nobody knows.
    Foreign,
    /// Data under the header of the victim's session, of a counter yet to come and a wrong tag, from
    /// the victim's MAC address: as far as an attacker without keys gets.
    Forged,
    /// The victim's newest headers, right in every bit, on another payload.
    Copied,
    /// The victim's Hellos and its last 8192 Data frames.
    Replay,
}

/// Payload of forged Data: small frames are more frames.
const PAYLOAD: usize = 64;
/// Frames that are kept for a replay: as many as the window has places.
const WINDOW: usize = 8192;
/// Of so many frames of the victim one is heard, when only the newest is wanted. Hearing costs the
/// switch's CPU, the same in the control run.
const ONE_OF: u32 = 64;

/// How long a generator listens before its first frame, at most.
const HEARING: Duration = Duration::from_millis(1500);

/// What the victim sends meanwhile, which is what can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// TCP.
    Bulk,
    /// A packet now and then.
    Sparse,
}

impl Kind {
    /// The word for it in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Forged => "forged",
            Self::Copied => "copied",
            Self::Replay => "replay",
        }
    }

    /// What is sent, in a phrase.
    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Foreign => "frames of 60 bytes of five other EtherTypes",
            Self::Forged => "frames of 118 bytes, a session's header with a wrong admission tag",
            Self::Copied => "headers copied as they pass, on another payload, full-sized",
            Self::Replay => "a Workstation's Hellos and last 8192 Data frames",
        }
    }

    /// Gets ready to write such frames. What must be heard first is listened for when the first frame
    /// is asked for: then the victim's traffic has begun.
    ///
    /// # Errors
    /// When the LAN cannot be listened to.
    pub(super) fn writer(self, lan: &Lan, traffic: Traffic) -> Result<Writer> {
        let gateway = lan.gateway_mac()?;
        let own = crate::rig::mac_of(lan.evil(), lan.cable())?;
        Ok(match self {
            Self::Foreign => {
                let frames: Vec<Vec<u8>> = [0x0800, 0x0806, 0x86dd, 0x88b6, 0x9999]
                    .into_iter()
                    .map(|ethertype| ethernet(gateway, own, ethertype, &[0x45; 46]))
                    .collect();
                cycle(frames)
            }
            Self::Forged => {
                let mut tap = Some(Tap::open(lan)?);
                let mut noise = Noise::new(21);
                let mut header = Header::new(kind::DATA, 0, 1, 0);
                let mut template = Vec::new();
                Box::new(move |_, buffer| {
                    if let Some(frame) = tap.take().and_then(|tap| tap.take(1, HEARING).pop()) {
                        header = header_of(&frame).unwrap_or(header);
                        header.length = PAYLOAD as u16;
                        let mut source = own;
                        source.copy_from_slice(&frame[6..12]);
                        template = portcullis(gateway, source, &header, &[0xaa; PAYLOAD + 16]);
                    }
                    buffer.clear();
                    buffer.extend(&template);
                    header.counter = (header.counter + 1) % COUNTER_LIMIT;
                    header.tag = noise.next();
                    if let Some(part) = buffer.get_mut(14..38) {
                        part.copy_from_slice(&header.encode());
                    }
                })
            }
            Self::Copied => {
                let tap = Tap::open(lan)?;
                if traffic == Traffic::Bulk {
                    tap.socket.sample(ONE_OF)?;
                }
                let mut current = Vec::new();
                Box::new(move |number, buffer| {
                    if number % 64 == 0 {
                        let wait = if number == 0 { HEARING } else { Duration::ZERO };
                        if let Some(frame) = tap.newest(wait) {
                            current = frame;
                        }
                    }
                    buffer.clear();
                    buffer.extend(&current);
                    // Behind Ethernet and the header everything is another.
                    if let Some(payload) = buffer.get_mut(38..46) {
                        payload.copy_from_slice(&number.to_le_bytes());
                    }
                })
            }
            Self::Replay => {
                let mut tap = Some(Tap::open(lan)?);
                let mut frames = lan.hellos().to_vec();
                let enough = match traffic {
                    Traffic::Bulk => WINDOW,
                    Traffic::Sparse => 8,
                };
                Box::new(move |number, buffer| {
                    if let Some(tap) = tap.take() {
                        frames.extend(tap.take(enough, HEARING));
                    }
                    buffer.clear();
                    if let Some(frame) = frames.get(number as usize % frames.len().max(1)) {
                        buffer.extend(frame);
                    }
                })
            }
        })
    }
}

/// Cycles through ready-made frames.
fn cycle(frames: Vec<Vec<u8>>) -> Writer {
    Box::new(move |number, buffer| {
        buffer.clear();
        if let Some(frame) = frames.get(number as usize % frames.len().max(1)) {
            buffer.extend(frame);
        }
    })
}

/// What the attacker hears of the victim, as on a hub: its Data frames, where they enter the switch.
struct Tap {
    socket: PacketSocket,
}

impl Tap {
    fn open(lan: &Lan) -> Result<Self> {
        let socket = PacketSocket::open(lan.switch(), Some("w1")).context("listening at w1")?;
        socket.ignore_outgoing()?;
        Ok(Self { socket })
    }

    /// The last frame that was heard, waiting for one that long; none is left.
    fn newest(&self, wait: Duration) -> Option<Vec<u8>> {
        let mut frames = self.take(usize::MAX, Duration::ZERO);
        if frames.is_empty() && !wait.is_zero() {
            frames = self.take(1, wait);
        }
        frames.pop()
    }

    /// Up to `count` frames, as far as they come within `wait`.
    fn take(&self, count: usize, wait: Duration) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let mut frames = Vec::new();
        let end = Instant::now() + wait;
        while frames.len() < count {
            match self.socket.receive(&mut buffer) {
                Some((_, len)) => {
                    let is_data = header_of(&buffer[..len]).is_some_and(|h| h.kind == kind::DATA);
                    if is_data {
                        frames.push(buffer[..len].to_vec());
                    }
                }
                None if Instant::now() >= end || interrupted() => break,
                None => {
                    self.socket.readable(Duration::from_millis(5));
                }
            }
        }
        frames
    }
}
