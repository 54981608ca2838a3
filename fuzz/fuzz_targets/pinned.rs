//! The decision of a pinned port: whatever frame comes, what passes is by a plain reading an unfragmented
//! packet of a pin to the port's own address, and what is answered is answered to who asked, by a frame of
//! the same length that says nothing but where the port's address is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;
use wire::pinned::{PinKey, PinTables, PinnedVerdict, answer, decide, is_answer, may_leave};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PINS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];

/// The port's address of each kind, and each pin's.
fn address(who: usize, v4: bool) -> IpAddr {
    match v4 {
        true => [10, 9, 0, who as u8 + 1].into(),
        false => [0xfd09, 0, 0, 0, 0, 0, 0, who as u16 + 1].into(),
    }
}

struct Plain;

impl PinTables for Plain {
    fn pin(&self, key: &PinKey) -> Option<u32> {
        let kinds = [true, false];
        if kinds
            .into_iter()
            .any(|v4| *key == PinKey::own(address(0, v4)))
        {
            return Some(0);
        }
        let pin = (0..PINS.len()).find(|pin| {
            let is = |v4| *key == PinKey::pinned(PINS[*pin], address(pin + 1, v4));
            *key == PinKey::mac(PINS[*pin]) || kinds.into_iter().any(is)
        });
        pin.map(|pin| pin as u32)
    }

    fn may_send(&self, _: u32) -> bool {
        true
    }

    fn may_ask(&self, _: u32) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Half of them begin as frames that could pass: random addresses hardly ever would.
    let mut frame = bytes.to_vec();
    if let Some((first, rest)) = bytes.split_first().filter(|(first, _)| *first & 1 == 1) {
        frame = plausible(*first, rest);
    }
    let (verdict, pin) = decide(OURS, &&frame[..], &Plain);
    match verdict {
        PinnedVerdict::Passed => {
            let pin = pin.expect("whoever passes is a pin") as usize;
            assert_eq!((&frame[..6], &frame[6..12]), (&OURS[..], &PINS[pin][..]));
            let v4 = frame[12..14] == [0x08, 0x00];
            let (from, to, protocol) = read(&frame, v4);
            assert_eq!((from, to), (address(pin + 1, v4), address(0, v4)));
            assert!(matches!(
                (v4, protocol),
                (_, 6 | 17) | (true, 1) | (false, 58)
            ));
            if v4 {
                assert_eq!(frame[14], 0x45);
                assert_eq!(u16::from_be_bytes([frame[20], frame[21]]) & 0x3fff, 0);
            }
            assert!(!may_leave(&&frame[..], &Plain), "it does not go back out");
        }
        PinnedVerdict::Answered => {
            let (asker, before) = (frame[6..12].to_vec(), frame.len());
            assert!(PINS.iter().any(|mac| *mac == asker[..]));
            if answer(OURS, &mut &mut frame[..]).is_some() {
                assert_eq!((&frame[..6], &frame[6..12]), (&asker[..], &OURS[..]));
                assert_eq!(frame.len(), before);
                assert!(is_answer(OURS, &&frame[..]));
                let (verdict, _) = decide(OURS, &&frame[..], &Plain);
                assert!(!matches!(
                    verdict,
                    PinnedVerdict::Passed | PinnedVerdict::Answered
                ));
            }
        }
        _ => {}
    }
});

/// Source, destination and protocol of an IP packet in a frame.
fn read(frame: &[u8], v4: bool) -> (IpAddr, IpAddr, u8) {
    let four = |at: usize| -> [u8; 4] { frame[at..at + 4].try_into().expect("four bytes") };
    let sixteen = |at: usize| -> [u8; 16] { frame[at..at + 16].try_into().expect("sixteen bytes") };
    match v4 {
        true => (four(26).into(), four(30).into(), frame[23]),
        false => (sixteen(22).into(), sixteen(38).into(), frame[20]),
    }
}

/// A frame of pin 0 to the port, of which `rest` changes what it is long enough for.
fn plausible(how: u8, rest: &[u8]) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let v4 = how & 2 == 0;
    let (from, to) = (octets(address(1, v4)), octets(address(0, v4)));
    let mut frame = [&OURS[..], &PINS[0]].concat();
    match (how >> 2 & 3, v4) {
        (0, true) => {
            frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend([&PINS[0][..], &from, &[0; 6], &to].concat());
        }
        (0, false) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
            frame.extend(
                [
                    &from[..],
                    &to,
                    &[135, 0, 0, 0, 0, 0, 0, 0],
                    &to,
                    &[1, 1],
                    &PINS[0],
                ]
                .concat(),
            );
        }
        (_, true) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0]);
            frame.extend([&from[..], &to, &[0; 40]].concat());
        }
        (_, false) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 17, 64]);
            frame.extend([&from[..], &to, &[0; 40]].concat());
        }
    }
    // Pairs of a place and what is XORed into it, then the rest at the end.
    let (pairs, tail) = rest.split_at(rest.len() / 2 & !1);
    for pair in pairs.chunks_exact(2).take(8) {
        let at = usize::from(pair[0]) % frame.len();
        frame[at] ^= pair[1];
    }
    frame.extend(tail);
    frame
}
