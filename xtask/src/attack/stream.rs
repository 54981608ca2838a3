//! What an attack that is a stream of frames is made of: what the attacker knows, what it sends, and the verdicts
//! its frames must die with; and the streams that go by either encapsulation.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use dataplane::path::{Path, UdpPath};
use wire::limits::{BROADCAST, COUNTER_LIMIT, HEADER_LEN, HELLO_LEN, INITIATION_LEN};
use wire::{Header, kind};

use super::frame::{Mac, Noise, Outer, header_of};
use super::history::Live;
use super::rogue::Sealer;

/// Everything that a host on the LAN can learn by listening, as on a hub; or somebody on the path over networks.
#[derive(Debug, Clone)]
pub struct Known {
    /// The MAC address of the Gateway's port.
    pub gateway: Mac,
    /// The victim's MAC address, or that of the router on the Gateway's cable.
    pub victim: Mac,
    /// The attacker's own MAC address.
    pub own: Mac,
    /// The victim's key id, from its Hello.
    pub key_id: u32,
    /// The victim's Hellos and Initiations.
    pub handshakes: Vec<Vec<u8>>,
    /// Data frames of the victim.
    pub data: Vec<Vec<u8>>,
    /// What the Gateway has sent the victim: handshake frames and Data.
    pub answers: Vec<Vec<u8>>,
    /// The latest Data that the Gateway has sent the victim, kept up to date while the attack runs and
    /// [`From::AsGateway`] is where it comes from.
    pub to_victim: Live,
    /// The victim's newest Data frame, kept up to date while the attack runs.
    pub newest: Arc<Mutex<Vec<u8>>>,
    /// The inner address of ws2.
    pub victim_v4: Ipv4Addr,
    /// A session of ws4, whose keys the attacker has.
    pub sealer: Option<Arc<Sealer>>,
    /// Over networks: the way of the victim's datagrams, and that of the attacker's own.
    pub ways: Option<[UdpPath; 2]>,
}

impl Known {
    /// What is around frames to the Gateway as if from the victim.
    pub(super) fn as_victim(&self) -> Outer {
        self.outer(0, self.victim)
    }

    /// What is around frames to the Gateway from the attacker.
    pub(super) fn as_itself(&self) -> Outer {
        self.outer(1, self.own)
    }

    fn outer(&self, whose: usize, mac: Mac) -> Outer {
        let way = self.ways.map(|ways| Path::Udp(ways[whose]));
        Outer {
            mac,
            way: way.unwrap_or(self.gateway.into()),
        }
    }

    /// What is around the attacker's Hellos.
    fn as_itself_to_all(&self) -> Outer {
        let mut outer = self.as_itself();
        if let Path::Ether(to) = &mut outer.way {
            *to = BROADCAST;
        }
        outer
    }

    /// The session of ws4. Attacks that ask for it are run only where there is one.
    pub fn sealer(&self) -> Arc<Sealer> {
        let sealer = self.sealer.as_ref();
        Arc::clone(sealer.expect("a suite with ws4"))
    }

    /// The header of the victim's newest Data frame.
    pub(super) fn header(&self) -> Header {
        let frame = self.newest.lock().unwrap_or_else(|e| e.into_inner());
        header_of(&frame).unwrap_or(Header::new(kind::DATA, 64, 1, 0))
    }
}

/// Writes the frame of a given number into a buffer.
pub type Writer = Box<dyn FnMut(u64, &mut Vec<u8>) + Send>;

/// Where an attack comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A host on the LAN, which shows it everything: its frames die in admission.
    Cable,
    /// The same host with all keys of ws4: its frames are admitted, and die behind the AEAD or in it.
    Keys,
    /// The same host as if it were the Gateway: its frames go to the victim, and die in its admission.
    AsGateway,
}

/// An attack that is a stream of frames.
pub struct Attack {
    /// What it is called in the table.
    pub name: &'static str,
    /// The verdicts of the Gateway's port that its frames die with, or of the victim's where they go to it; under
    /// ws4's keys, the reasons of that Workstation's drops as well.
    pub verdicts: &'static [&'static str],
    /// Where from.
    pub from: From,
    /// Where a genuine frame is lost before its destination, a copy of its header is the first
    /// that comes, is admitted, and dies in the AEAD: at most as many as were lost.
    pub races: bool,
    /// Makes its frames.
    pub frames: fn(&Known) -> Writer,
}

impl Attack {
    /// What must hold, beside that nothing gets into any kernel.
    pub fn holds(&self) -> String {
        match self.verdicts {
            [all @ .., last] if !all.is_empty() => {
                format!("dropped as {} or {last}", all.join(", "))
            }
            all => format!("dropped as {}", all.join("")),
        }
    }
}

/// Where an attack comes from, as the report has it.
impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            From::Cable => "without a session",
            From::Keys => "under ws4's keys",
            From::AsGateway => "to ws2",
        })
    }
}

/// The UDP port that packets from inside go to; nothing else in the rig uses it.
pub const INSIDER_PORT: u16 = 4444;

/// Cycles through ready-made frames.
pub(super) fn cycle(frames: Vec<Vec<u8>>) -> Writer {
    Box::new(move |number, buffer| {
        buffer.clear();
        if let Some(frame) = frames.get(number as usize % frames.len().max(1)) {
            buffer.extend(frame);
        }
    })
}

/// Data in the victim's session with tags that are guessed.
pub(super) fn forged_tags(known: &Known) -> Writer {
    let known = known.clone();
    let mut noise = Noise::new(8);
    let mut header = known.header();
    Box::new(move |number, buffer| {
        if number % 64 == 0 {
            header = known.header();
            header.length = 1200;
        }
        header.counter = (header.counter + 1) % COUNTER_LIMIT;
        header.tag = noise.next();
        *buffer = known.as_victim().frame(&header, &[0xaa; 1216]);
    })
}

/// Data of indexes by chance.
pub(super) fn unknown_sessions(known: &Known) -> Writer {
    let outer = known.as_itself();
    let mut noise = Noise::new(9);
    Box::new(move |number, buffer| {
        let index = (noise.next() as u32).max(1);
        let mut header = Header::new(kind::DATA, 64, index, number);
        header.tag = noise.next();
        *buffer = outer.frame(&header, &[0; 80]);
    })
}

/// Hellos and Initiations for the victim's key id under keys by chance.
pub(super) fn wrong_knock(known: &Known) -> Writer {
    let key_id = known.key_id;
    knocks(known, 10, move |_| key_id)
}

/// Hellos and Initiations for key ids by chance.
pub(super) fn unknown_ids(known: &Known) -> Writer {
    let key_id = known.key_id;
    knocks(known, 11, move |noise| key_id ^ (noise.next() as u32 | 1))
}

fn knocks(known: &Known, seed: u64, key_id: impl Fn(&mut Noise) -> u32 + Send + 'static) -> Writer {
    let known = known.clone();
    let mut noise = Noise::new(seed);
    Box::new(move |number, buffer| {
        let (nonce, key) = (noise.next(), [noise.next(), noise.next()]);
        let named = (key_id(&mut noise), nonce);
        *buffer = handshake(&known, number, named, key, &mut noise);
    })
}

/// A Hello and an Initiation in turn, the latter's payload noise.
pub(super) fn handshake(
    known: &Known,
    number: u64,
    named: (u32, u64),
    key: [u64; 2],
    noise: &mut Noise,
) -> Vec<u8> {
    if number.is_multiple_of(2) {
        let outer = known.as_itself_to_all();
        return outer.tagged(kind::HELLO, named, key, &[0; HELLO_LEN]);
    }
    let mut payload = [0; INITIATION_LEN];
    noise.fill(&mut payload);
    let outer = known.as_itself();
    outer.tagged(kind::INITIATION, named, key, &payload)
}

/// Headers that say more than there is, or what no version says.
pub(super) fn lying_lengths(known: &Known) -> Writer {
    let (known, outer) = (known.clone(), known.as_victim());
    // As much as the attacker's interface takes.
    let payload = vec![0; 1514 - outer.way.front() - HEADER_LEN];
    Box::new(move |number, buffer| {
        let mut header = known.header();
        header.length = [1461, 9216, 9217, u16::MAX][number as usize % 4];
        *buffer = outer.frame(&header, &payload);
        let at = outer.way.front();
        match number / 4 % 4 {
            1 => buffer[at + 1] = 0x80,
            2 => buffer[at] = 0x25,
            3 => buffer[at] = 0x1f,
            _ => {}
        }
    })
}
