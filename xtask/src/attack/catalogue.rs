//! The attacks of the demo.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::limits::{BROADCAST, ETHERTYPE};
use wire::{Header, kind};

use super::frame::{
    Mac, Noise, advertisement, arp, ethernet, header_of, portcullis, solicitation, tagged, udp_v4,
};
use super::inner;
use super::stream::{
    Attack, From, INSIDER_PORT, cycle, forged_tags, lying_lengths, unknown_ids, unknown_sessions,
    wrong_knock,
};
use crate::rig::{GATEWAY_V4, GATEWAY_V6};

pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    let high = (a ^ 2) << 8;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        high | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}

pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// All attacks, in the order of the demo.
pub const CATALOGUE: &[Attack] = &[
    Attack {
        name: "plain IP to the Gateway",
        verdicts: &["foreign"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let source = Ipv4Addr::new(10, 152, 152, 99);
            let ports = [22, 53, 80, 9050, 9051];
            cycle(
                ports
                    .into_iter()
                    .flat_map(|port| {
                        let packet = udp_v4(source, GATEWAY_V4, port, &[0; 64]);
                        [known.gateway, BROADCAST]
                            .map(|to| ethernet(to, known.own, 0x0800, &packet))
                    })
                    .collect(),
            )
        },
    },
    Attack {
        name: "ARP and ND to the Gateway",
        verdicts: &["foreign"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let own = (known.own, Ipv4Addr::new(10, 152, 152, 99));
            let from = link_local(known.own);
            cycle(vec![
                ethernet(
                    BROADCAST,
                    known.own,
                    0x0806,
                    &arp(1, own, ([0; 6], GATEWAY_V4)),
                ),
                ethernet(
                    ALL_NODES_MAC,
                    known.own,
                    0x86dd,
                    &solicitation(from, known.own, GATEWAY_V6),
                ),
            ])
        },
    },
    Attack {
        name: "ARP and ND spoofing of ws2 and Gateway",
        verdicts: &["foreign"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let as_gateway = (known.own, GATEWAY_V4);
            let as_victim = (known.own, known.victim_v4);
            cycle(vec![
                ethernet(
                    known.victim,
                    known.own,
                    0x0806,
                    &arp(2, as_gateway, (known.victim, known.victim_v4)),
                ),
                ethernet(
                    known.gateway,
                    known.own,
                    0x0806,
                    &arp(2, as_victim, (known.gateway, GATEWAY_V4)),
                ),
                ethernet(
                    ALL_NODES_MAC,
                    known.own,
                    0x86dd,
                    &advertisement(GATEWAY_V6, known.own, ALL_NODES),
                ),
            ])
        },
    },
    Attack {
        name: "replay of ws2's Data",
        verdicts: &["replay"],
        from: From::Cable,
        races: false,
        frames: |known| cycle(known.data.clone()),
    },
    Attack {
        name: "replay of ws2's Hello and Initiation",
        verdicts: &["replay", "rate_limited"],
        from: From::Cable,
        races: false,
        frames: |known| cycle(known.handshakes.clone()),
    },
    Attack {
        name: "ws2's newest header on a forged payload",
        verdicts: &["replay"],
        from: From::Cable,
        races: true,
        frames: |known| {
            let known = known.clone();
            let mut noise = Noise::new(7);
            Box::new(move |number, buffer| {
                if number % 64 == 0 || buffer.is_empty() {
                    buffer.clear();
                    let newest = known.newest.lock().unwrap_or_else(|e| e.into_inner());
                    buffer.extend(&*newest);
                }
                let from = buffer.len().min(38);
                let to = buffer.len().min(38 + 64);
                noise.fill(&mut buffer[from..to]);
            })
        },
    },
    Attack {
        name: "Data of ws2's session, forged admission tag",
        verdicts: &["bad_tag"],
        from: From::Cable,
        races: false,
        frames: forged_tags,
    },
    Attack {
        name: "Data of sessions that do not exist",
        verdicts: &["unknown_session"],
        from: From::Cable,
        races: false,
        frames: unknown_sessions,
    },
    Attack {
        name: "Hello and Initiation under a wrong key",
        verdicts: &["bad_tag"],
        from: From::Cable,
        races: false,
        frames: wrong_knock,
    },
    Attack {
        name: "Hello and Initiation under unknown key ids",
        verdicts: &["unknown_key"],
        from: From::Cable,
        races: false,
        frames: unknown_ids,
    },
    Attack {
        name: "the Gateway's own frame types, forged Resets",
        verdicts: &["malformed"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let known = known.clone();
            let mut noise = Noise::new(12);
            Box::new(move |number, buffer| {
                let kind = [kind::CHALLENGE, kind::RESPONSE, kind::RESET][number as usize % 3];
                let length = if kind == kind::RESPONSE { 128 } else { 32 };
                let mut header = Header::new(kind, length, known.key_id, noise.next());
                header.tag = noise.next();
                let to = [known.gateway, known.victim, BROADCAST][number as usize / 3 % 3];
                *buffer = portcullis(to, known.own, &header, &vec![0; usize::from(length)]);
            })
        },
    },
    Attack {
        name: "VLAN-tagged: VID 0, VID 5, two tags",
        verdicts: &["foreign"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let frames = known.data.iter().take(64).chain(&known.handshakes);
            cycle(
                frames
                    .flat_map(|frame| [&[0][..], &[5], &[0, 0]].map(|tags| tagged(frame, tags)))
                    // Two tags on a full frame would not leave the attacker's interface.
                    .filter(|frame| frame.len() <= 1514)
                    .collect(),
            )
        },
    },
    Attack {
        name: "truncated frames",
        verdicts: &["short", "malformed"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let whole: Vec<Vec<u8>> = known
                .handshakes
                .iter()
                .chain(known.data.iter().take(8))
                .cloned()
                .collect();
            Box::new(move |number, buffer| {
                buffer.clear();
                let Some(frame) = whole.get(number as usize % whole.len().max(1)) else {
                    return;
                };
                // From the Ethernet header alone to one byte less than the header claims.
                let needed = header_of(frame).map_or(38, |header| 14 + header.frame_len());
                let most = needed.min(frame.len()).max(16) - 1;
                let len = 14 + (number as usize / whole.len()) % (most - 13);
                buffer.extend(&frame[..len]);
            })
        },
    },
    Attack {
        name: "lengths beyond the frame, flags, versions",
        verdicts: &["malformed"],
        from: From::Cable,
        races: false,
        frames: lying_lengths,
    },
    Attack {
        name: "random bytes",
        verdicts: &["foreign", "malformed", "short"],
        from: From::Cable,
        races: false,
        frames: |known| {
            let known = known.clone();
            let mut noise = Noise::new(13);
            Box::new(move |number, buffer| {
                let len = 14 + noise.below(1500) as usize;
                buffer.resize(len, 0);
                noise.fill(buffer);
                buffer[..6].copy_from_slice(&known.gateway);
                buffer[6..12].copy_from_slice(&known.victim);
                if number % 2 == 0 {
                    buffer[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
                }
            })
        },
    },
    Attack {
        name: "ws4's own session with ws2's inner address",
        verdicts: &["inner_source"],
        from: From::Keys,
        races: false,
        frames: |known| {
            let sealer = known.sealer();
            let source = known.victim_v4;
            let packet = inner::udp4(source, GATEWAY_V4, INSIDER_PORT, b"as if from ws2");
            Box::new(move |_, buffer| *buffer = sealer.seal(&packet))
        },
    },
];

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::attack::{Known, hello, initiation};
    use wire::{Admission, Frame, Role, Tables, Verdict, decide};

    struct Bytes<'a>(&'a [u8]);

    impl Bytes<'_> {
        fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
            self.0.get(at..at + N)?.try_into().ok()
        }
    }

    impl Frame for Bytes<'_> {
        fn holds(&self, bytes: usize) -> bool {
            self.0.len() >= bytes
        }
        fn mac(&self, at: usize) -> Option<[u8; 6]> {
            self.read(at)
        }
        fn be16(&self, at: usize) -> Option<u16> {
            self.read(at).map(u16::from_be_bytes)
        }
        fn word(&self, at: usize) -> Option<u64> {
            self.read(at).map(u64::from_le_bytes)
        }
        fn words(&self, at: usize) -> Option<[u64; 3]> {
            Some([self.word(at)?, self.word(at + 8)?, self.word(at + 16)?])
        }
    }

    const KEY: [u64; 2] = [3, 4];
    const VICTIM: Mac = [2, 0, 0, 0, 0, 2];
    const GATEWAY: Mac = [2, 0, 0, 0, 0, 1];

    /// A port that knows the victim, and has seen all it has sent.
    struct Port;

    impl Tables for Port {
        fn now(&self) -> u64 {
            0
        }
        fn session(&self, slot: u16) -> Option<wire::tables::SessionEntry> {
            let index = if slot == 5 { 0x0001_0005 } else { 0 };
            Some(wire::tables::SessionEntry {
                index,
                key: KEY,
                peer_mac: VICTIM,
                ..Default::default()
            })
        }
        fn floor(&self, _: u16) -> u64 {
            0
        }
        fn mark_seen(&self, _: u16, _: usize, _: u32) -> bool {
            false
        }
        fn credit(&self, _: u32) -> Option<(u64, u64, u64)> {
            Some((0, 0, 64))
        }
        fn charge(&self, _: u32) {}
        fn knock<R>(
            &self,
            key_id: u32,
            with: impl FnOnce(&mut wire::tables::KnockEntry) -> R,
        ) -> Option<R> {
            let mut entry = wire::tables::KnockEntry {
                key: KEY,
                ..Default::default()
            };
            (key_id == 77).then(|| with(&mut entry))
        }
        fn source<R>(
            &self,
            _: &wire::tables::SourceKey,
            with: impl FnOnce(&mut wire::tables::Bucket) -> R,
        ) -> Option<R> {
            let _ = with;
            None
        }
        fn expected_nonce(&self) -> u64 {
            0
        }
        fn redirect(&self) -> bool {
            true
        }
    }

    fn known() -> Known {
        let mut header = Header::new(kind::DATA, 100, 0x0001_0005, 9);
        header.tag = header.data_tag(KEY);
        let data = portcullis(GATEWAY, VICTIM, &header, &[1; 116]);
        let mut noise = Noise::new(1);
        Known {
            gateway: GATEWAY,
            victim: VICTIM,
            own: [2, 0, 0, 0, 0, 9],
            key_id: 77,
            handshakes: vec![
                hello(VICTIM, 77, 1, KEY),
                initiation(GATEWAY, VICTIM, 77, 1, KEY, &mut noise),
            ],
            data: vec![data.clone()],
            answers: Vec::new(),
            to_victim: Default::default(),
            sealer: None,
            ways: None,
            newest: Arc::new(Mutex::new(data)),
            victim_v4: Ipv4Addr::new(10, 152, 152, 12),
        }
    }

    #[test]
    fn every_frame_from_outside_dies_in_admission_with_a_verdict_of_its_attack() {
        let port = Admission {
            role: Role::Gateway,
            mac: GATEWAY,
            encapsulation: wire::Encapsulation::Ether(ETHERTYPE),
        };
        let known = known();
        for attack in CATALOGUE.iter().filter(|attack| attack.from == From::Cable) {
            let mut writer = (attack.frames)(&known);
            let mut buffer = Vec::new();
            for number in 0..2000 {
                writer(number, &mut buffer);
                assert!(
                    (14..=1514).contains(&buffer.len()),
                    "{}: {}",
                    attack.name,
                    buffer.len()
                );
                let (verdict, _) = decide(&port, &Bytes(&buffer), &Port);
                // Frames meant for the victim reach the Gateway too, as on a hub.
                let beside = verdict == Verdict::Misdirected && buffer[..6] != GATEWAY;
                assert!(
                    attack.verdicts.contains(&verdict.name()) || beside,
                    "{}: frame {number} ended as {verdict:?}",
                    attack.name
                );
            }
        }
    }
}
