//! Session open: genuine, reordered, repeated, flipped, cut and random frames. A frame opens if and
//! only if it is one that was sealed, once, to exactly what was sealed; two engines agree.
#![no_main]

use dataplane::engine::Engine;
use dataplane::keys::{Cipher, Protection};
use dataplane::path::Path;
use dataplane::session::{OpenError, Session, pair_for_tests};
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;
use std::collections::HashSet;
use wire::Header;
use wire::limits::{HEADER_LEN, OVERHEAD, REJECT_AFTER, REPLAY_WINDOW};

const NOW: u64 = 1;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let cipher = Cipher::ALL[usize::from(how) % 3];
    let protection = if how & 4 == 0 {
        Protection::Encrypt
    } else {
        Protection::Authenticate
    };
    let (mut gateway, workstation) =
        pair_for_tests(how >> 3, cipher, protection, (0x1_0001, 0x2_0002));
    if how & 128 != 0 {
        // Over networks, where tags are kept to prove that a nonce was used twice.
        gateway.path = Path::Socket;
    }
    let session = |install, engine| Session::new(install, engine, NOW).expect("a session");
    let mut sealer = session(&workstation, Engine::Auto);
    let mut opener = session(&gateway, Engine::Auto);
    let mut second = session(
        &gateway,
        if how & 8 == 0 {
            Engine::AwsLcRs
        } else {
            Engine::AesGcm
        },
    );
    let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut opened = HashSet::new();
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let mut frame = match step & 7 {
            0..=2 => {
                let length = usize::from(input.u16()) % 700;
                let payload = vec![step; length];
                let mut frame = vec![0; OVERHEAD + length];
                frame[HEADER_LEN..][..length].copy_from_slice(&payload);
                sealer.seal(&mut frame, length, NOW).expect("sealing");
                sealed.push((frame.clone(), payload));
                frame
            }
            3..=6 if !sealed.is_empty() => sealed[usize::from(input.u8()) % sealed.len()].0.clone(),
            _ => input.short().to_vec(),
        };
        if step & 8 != 0 {
            input.flip(&mut frame);
        }
        if step & 16 != 0 {
            // Ethernet's padding, or a frame cut short.
            frame.resize(usize::from(input.u16()) % 1024, 0xee);
        }
        let Ok(header) = Header::decode(&frame) else {
            continue;
        };
        let genuine = sealed
            .iter()
            .find(|(whole, _)| frame.get(..whole.len()) == Some(&whole[..]))
            // Admission has judged the tag; opening does so of the whole header.
            .map(|(_, payload)| payload.clone());
        let now = if step & 32 != 0 {
            NOW + REJECT_AFTER
        } else {
            NOW
        };
        let mut copy = frame.clone();
        let mine = opener
            .open(&header, &mut frame, now)
            .map(|payload| payload.to_vec());
        let other = second
            .open(&header, &mut copy, now)
            .map(|payload| payload.to_vec());
        assert_eq!(mine, other, "engines differ");
        match mine {
            Ok(payload) => {
                assert_eq!(now, NOW, "opened past its age");
                assert_eq!(Some(&payload), genuine.as_ref(), "a forgery opened");
                assert!(opened.insert(header.counter), "opened twice");
            }
            Err(OpenError::Expired) => assert_ne!(now, NOW),
            Err(OpenError::Replay) => {
                let highest = opener.highest().expect("nothing was opened");
                assert!(
                    opened.contains(&header.counter) || header.counter + REPLAY_WINDOW <= highest
                );
            }
            Err(OpenError::Reused) => panic!("no counter was sealed twice"),
            Err(OpenError::Forged | OpenError::Malformed) => {
                assert!(
                    genuine.is_none() || opened.contains(&header.counter),
                    "a genuine frame was refused"
                );
            }
        }
    }
    assert_eq!(opener.highest(), opened.iter().max().copied());
});
