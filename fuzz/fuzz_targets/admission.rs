//! The whole admission decision: random tables, then random, mutated and genuine frames. What is
//! admitted has a valid tag (by another SipHash), the right addresses, a counter never admitted
//! before, and credit; whatever is not changes nothing that a later frame could miss.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;
use siphasher::sip::SipHasher24;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use wire::header::{kind, session_index, slot_of};
use wire::limits::{
    BROADCAST, COUNTER_LIMIT, ETH_LEN, ETHERTYPE, HEADER_LEN, SEEN_CELLS, UDP_PORT, UDP_V4_LEN,
    UDP_V6_LEN,
};
use wire::tables::{Bucket, KnockEntry, SessionEntry, SourceKey};
use wire::{Admission, Encapsulation, Header, Role, Tables, Udp, Verdict, decide};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SLOTS: u16 = 4;
const KEY_IDS: u32 = 3;
const SOURCES: usize = 4;

struct Plain {
    now: Cell<u64>,
    sessions: Vec<SessionEntry>,
    floors: Vec<u64>,
    seen: RefCell<HashMap<(u16, usize), u32>>,
    /// Admitted, consumed, limit of each Workstation.
    credits: Vec<(Cell<u64>, u64, u64)>,
    knocks: RefCell<Vec<KnockEntry>>,
    sources: RefCell<HashMap<SourceKey, Bucket>>,
    expected: u64,
    socket: bool,
}

impl Tables for Plain {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn session(&self, slot: u16) -> Option<SessionEntry> {
        self.sessions.get(usize::from(slot)).copied()
    }

    fn floor(&self, slot: u16) -> u64 {
        self.floors[usize::from(slot)]
    }

    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool {
        assert!(cell < SEEN_CELLS && slot < SLOTS && mark > 0);
        let mut seen = self.seen.borrow_mut();
        let stands = seen.entry((slot, cell)).or_default();
        let fresh = *stands < mark;
        *stands = (*stands).max(mark);
        fresh
    }

    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)> {
        let (admitted, consumed, limit) = self.credits.get(workstation as usize)?;
        Some((admitted.get(), *consumed, *limit))
    }

    fn charge(&self, workstation: u32) {
        let admitted = &self.credits[workstation as usize].0;
        admitted.set(admitted.get().wrapping_add(1));
    }

    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R> {
        self.knocks.borrow_mut().get_mut(key_id as usize).map(with)
    }

    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        let mut sources = self.sources.borrow_mut();
        if sources.len() >= SOURCES && !sources.contains_key(key) {
            return None;
        }
        Some(with(sources.entry(*key).or_default()))
    }

    fn expected_nonce(&self) -> u64 {
        self.expected
    }

    fn redirect(&self) -> bool {
        self.socket
    }
}

fn tables(input: &mut Input) -> Plain {
    let sessions: Vec<_> = (0..SLOTS)
        .map(|slot| {
            let kind = input.u8();
            SessionEntry {
                index: if kind & 1 == 0 {
                    session_index(slot, 7 + u16::from(kind))
                } else {
                    0
                },
                // One beyond the credits there are.
                workstation: u32::from(kind >> 1) % 4,
                key: [u64::from(kind), 9],
                peer_mac: [2, 0, 0, 0, 1, kind >> 3 & 1],
                reserved: [0; 2],
            }
        })
        .collect();
    let flags = input.u8();
    Plain {
        now: Cell::new(input.u32().into()),
        floors: sessions.iter().map(|_| input.u16().into()).collect(),
        sessions,
        seen: RefCell::default(),
        credits: (0..3)
            .map(|_| {
                let (admitted, limit) = (input.u8(), input.u8());
                (
                    Cell::new(u64::from(admitted).wrapping_sub(1)),
                    u64::from(admitted / 2),
                    limit.into(),
                )
            })
            .collect(),
        knocks: RefCell::new(
            (0..KEY_IDS)
                .map(|id| KnockEntry {
                    key: [id.into(), 3],
                    workstation: id,
                    ..KnockEntry::default()
                })
                .collect(),
        ),
        sources: RefCell::default(),
        expected: u64::from(flags & 3),
        socket: flags & 4 == 0,
    }
}

/// A frame: raw, or well-formed with a valid tag and then flipped.
fn frame(input: &mut Input, tables: &Plain) -> Vec<u8> {
    let how = input.u8();
    if how & 0x80 != 0 {
        return input.short().to_vec();
    }
    let kind = if how & 0x40 != 0 { kind::DATA } else { how & 7 };
    let destination = if how & 0x20 != 0 { BROADCAST } else { MAC };
    let source = [2, 0, 0, 0, 1, how >> 4 & 1];
    let which = input.u8();
    let counter = u64::from(input.u16())
        * if which & 0x80 != 0 {
            COUNTER_LIMIT >> 15
        } else {
            1
        };
    let (length, index, key) = match kind {
        kind::DATA => {
            let session = tables.sessions[usize::from(which) % tables.sessions.len()];
            (input.u16() % 1500, session.index, session.key)
        }
        _ => {
            let id = u32::from(which) % (KEY_IDS + 1);
            let length = match kind {
                kind::INITIATION => 160,
                kind::RESPONSE => 128,
                _ => 32,
            };
            (length, id, [id.into(), 3])
        }
    };
    let mut header = Header::new(kind, length, index, counter);
    let mut payload = vec![0x5a; usize::from(length) + if kind == kind::DATA { 16 } else { 0 }];
    header.tag = match kind {
        kind::DATA => header.data_tag(key),
        _ => header.handshake_tag(key, &payload),
    };
    payload.extend_from_slice(&[0; 3][..usize::from(which & 3)]);
    let mut frame = [
        &destination[..],
        &source,
        &ETHERTYPE.to_be_bytes(),
        &header.encode(),
        &payload,
    ]
    .concat();
    input.flip(&mut frame);
    if which & 0x40 != 0 {
        frame.truncate(input.u16().into());
    }
    frame
}

/// The same frame in a datagram to the port, as the input has it.
fn over_udp(input: &mut Input, frame: &[u8]) -> Vec<u8> {
    let payload = frame.get(ETH_LEN..).unwrap_or_default();
    let length = payload.len() as u16 + 8;
    let what = input.u8();
    let source = input.u8();
    let mut out = [&MAC[..], &[2, 0, 0, 0, 0, 9]].concat();
    if what & 1 == 0 {
        let mut ip = vec![0x45, 0];
        ip.extend((length + 20).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, source]);
        ip.extend(V4.octets());
        let sum: u32 = ip
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend([8, 0]);
        out.extend(ip);
    } else {
        out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        out.extend(length.to_be_bytes());
        out.extend([
            17, 64, 0x20, 1, 0xd, 0xb8, 0, source, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        ]);
        out.extend(V6.octets());
    }
    out.extend(7u16.to_be_bytes());
    out.extend(UDP_PORT.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([1, 1]);
    out.extend(payload);
    if what & 0x40 != 0 {
        input.flip(&mut out);
    }
    out
}

const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let kind_of_port = input.u8();
    let role = if kind_of_port & 1 == 0 {
        Role::Gateway
    } else {
        Role::Workstation
    };
    let udp = kind_of_port & 2 != 0;
    let shared = kind_of_port & 4 != 0;
    let port = Admission {
        role,
        mac: MAC,
        encapsulation: match udp {
            false => Encapsulation::Ether(ETHERTYPE),
            true => Encapsulation::Udp(Udp::new(UDP_PORT, Some(V4), Some(V6), shared)),
        },
    };
    let tables = tables(&mut input);
    let mut admitted_data = HashSet::new();
    let mut admitted_nonces = HashSet::new();
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        tables
            .now
            .set(tables.now.get() + u64::from(input.u8()) * 50_000_000);
        let mut frame = frame(&mut input, &tables);
        if udp {
            frame = over_udp(&mut input, &frame);
        }
        let front = match (udp, frame.get(12..14)) {
            (true, Some([0x86, 0xdd])) => UDP_V6_LEN,
            (true, _) => UDP_V4_LEN,
            (false, _) => ETH_LEN,
        };
        let credit = |workstation: u32| tables.credit(workstation);
        let slot = frame
            .get(front + 4..front + 6)
            .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        let workstation = slot
            .and_then(|slot| tables.session(slot))
            .map_or(u32::MAX, |session| session.workstation);
        let before = credit(workstation);
        let (verdict, whose) = decide(&port, &&frame[..], &tables);
        let after = credit(workstation);
        assert!(verdict != Verdict::Passed || (udp && shared));
        assert!(verdict != Verdict::Answered || (udp && !shared));
        if verdict != Verdict::Admitted {
            assert_eq!(before, after, "{verdict:?} cost credit");
            continue;
        }
        assert!(tables.socket);
        // Everything an admitted frame must be, said in other words.
        let header = Header::decode(&frame[front..]).expect("admitted without a header");
        assert!(frame.len() >= front + header.frame_len());
        match udp {
            false => assert_eq!(frame[12..14], ETHERTYPE.to_be_bytes()),
            true => {
                let length = u16::from_be_bytes([frame[front - 4], frame[front - 3]]);
                assert_eq!(usize::from(length), 8 + header.frame_len());
                assert_eq!(frame[front - 6..front - 4], UDP_PORT.to_be_bytes());
                assert_eq!(frame[..6], MAC);
            }
        }
        assert!(whose.is_some());
        let covered = match header.kind {
            kind::DATA => 0,
            _ => usize::from(header.length),
        };
        let key = match header.kind {
            kind::DATA => tables.sessions[usize::from(slot_of(header.index))].key,
            _ => [header.index.into(), 3],
        };
        let signed = [
            &frame[front..front + 16],
            &frame[front + HEADER_LEN..][..covered],
        ]
        .concat();
        assert_eq!(
            SipHasher24::new_with_keys(key[0], key[1]).hash(&signed),
            header.tag
        );
        if header.kind == kind::DATA {
            let session = tables.sessions[usize::from(slot_of(header.index))];
            assert_eq!(frame[..6], MAC);
            assert!(udp || frame[6..12] == session.peer_mac);
            assert_eq!(session.index, header.index);
            assert!(header.counter >= tables.floors[usize::from(slot_of(header.index))]);
            assert!(
                admitted_data.insert((header.index, header.counter)) || udp,
                "admitted twice"
            );
            let (admitted, consumed, limit) = before.expect("no credit at all");
            assert!((admitted.wrapping_sub(consumed) as i64) < limit as i64);
            assert_eq!(
                after.map(|(admitted, ..)| admitted),
                Some(admitted.wrapping_add(1))
            );
        } else {
            assert_eq!(before, after, "a handshake frame cost credit");
            let gateways = matches!(header.kind, kind::HELLO | kind::INITIATION);
            assert_eq!(gateways, role == Role::Gateway);
            if matches!(header.kind, kind::CHALLENGE | kind::RESPONSE) {
                assert_eq!(header.counter, tables.expected);
            }
            if matches!(header.kind, kind::INITIATION | kind::RESPONSE | kind::RESET)
                && admitted_nonces.len() < 8
            {
                assert!(
                    admitted_nonces.insert((header.index, header.counter)),
                    "a nonce twice"
                );
            }
            let broadcast = matches!(header.kind, kind::HELLO | kind::RESET);
            assert!(frame[..6] == MAC || (broadcast && frame[..6] == BROADCAST));
        }
    }
});
