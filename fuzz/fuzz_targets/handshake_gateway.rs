//! The Gateway's side of the handshake: random frames, frames with a valid admission tag, genuine
//! messages whole, altered and out of order, and everything its workers may say. A session is made
//! by nothing but the Workstation's own message, no reply is larger than its request, and what is
//! erased was installed.
#![no_main]

use control::handshake::gateway::Gateway;
use control::handshake::{Action, Mac, kdf, message};
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;
use portcullis_fuzz::cable::{self, PSK, START, STATION, Tape};
use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;
use wire::header::kind;
use wire::limits::HEADER_LEN;

/// Diffie-Hellman is what takes time; more of it would teach nothing.
const COSTLY: usize = 2;

fn knock() -> [u64; 2] {
    static KEY: OnceLock<[u64; 2]> = OnceLock::new();
    *KEY.get_or_init(|| kdf::knock_keys(&PSK).w2g)
}

struct Watch {
    installed: HashSet<u32>,
    keys: HashSet<[u8; 32]>,
}

impl Watch {
    /// Judges what the machine asks for after one event.
    fn judge(&mut self, machine: &mut Gateway, genuine: bool, request: Option<usize>) {
        let mut replied = 0;
        for action in machine.actions() {
            match action {
                Action::Install(install) => {
                    assert!(genuine, "a session out of nothing genuine");
                    assert_eq!(install.workstation, 0);
                    assert_eq!(install.path, STATION.into());
                    assert!(self.installed.insert(install.index), "an index twice");
                    assert!(self.keys.insert(install.keys.send.aead), "a key twice");
                }
                Action::Erase { index, .. } => assert!(self.installed.contains(&index)),
                Action::Send { frame, .. } => {
                    let (header, _) = message::parse(&frame).expect("a frame of ours");
                    assert_eq!(header.frame_len(), frame.len());
                    replied += frame.len();
                }
                Action::SendInner { index, .. } => assert!(self.installed.contains(&index)),
                Action::ExpectNonce(_) | Action::Configure(_) => panic!("not of a Gateway"),
            }
        }
        if let Some(request) = request {
            assert!(replied <= request, "{replied} bytes answer {request}");
        }
    }
}

fn frame(input: &mut Input, how: u8, tape: &Tape) -> Vec<u8> {
    match how & 0x30 {
        0x00 => input.short().to_vec(),
        0x10 => {
            // Well-formed, with a valid tag.
            let (kind, length) = match input.u8() & 3 {
                0 => (kind::HELLO, 32),
                1 | 2 => (kind::INITIATION, 160),
                _ => (kind::RESET, 32),
            };
            let mut payload = vec![0; length];
            let given = input.slice(length);
            payload[..given.len()].copy_from_slice(given);
            message::frame(
                kind,
                cable::key_id((how >> 7).into()),
                input.u16().into(),
                knock(),
                &payload,
            )
        }
        taped => {
            let mut frame = if taped == 0x20 {
                &tape.hello
            } else {
                &tape.initiation
            }
            .clone();
            if how & 0x40 != 0 {
                input.flip(&mut frame);
                if how & 0x80 != 0
                    && let Some((header, payload)) = message::parse(&frame)
                {
                    let tag = header.handshake_tag(knock(), payload);
                    frame[HEADER_LEN - 8..HEADER_LEN].copy_from_slice(&tag.to_le_bytes());
                }
            }
            frame
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let tape = cable::tape();
    let mut input = Input::new(bytes);
    let mut machine = cable::gateway();
    let mut watch = Watch {
        installed: HashSet::new(),
        keys: HashSet::new(),
    };
    let (mut now, mut costly) = (START, 0);
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        let (op, how) = (input.u8(), input.u8());
        now += match op >> 6 {
            0 | 1 => Duration::ZERO,
            2 => Duration::from_millis(u64::from(how) * 10),
            _ => Duration::from_secs(u64::from(how) * 2),
        };
        let index = match input.u8() {
            which if which & 1 == 0 => tape.at_gateway,
            _ => input.u32(),
        };
        match op & 7 {
            0..=2 => {
                let frame = frame(&mut input, how, tape);
                let port = u16::from(op >> 3 & 1);
                let source: Mac = if op & 0x10 == 0 {
                    STATION
                } else {
                    input.array()
                };
                if frame
                    .first()
                    .is_some_and(|first| first & 15 == kind::INITIATION)
                {
                    costly += 1;
                    if costly > COSTLY {
                        break;
                    }
                }
                let genuine = frame == tape.initiation && port == 0 && source == STATION;
                machine.frame(now, port, source, &frame);
                watch.judge(&mut machine, genuine, Some(frame.len()));
            }
            3 => {
                let mut message = if how & 1 == 0 {
                    tape.rekey_init.clone()
                } else {
                    input.short().to_vec()
                };
                if how & 2 != 0 {
                    input.flip(&mut message);
                }
                if message.first() == Some(&message::REKEY_INIT) {
                    costly += 1;
                    if costly > COSTLY {
                        break;
                    }
                }
                let genuine = message.starts_with(&tape.rekey_init) && index == tape.at_gateway;
                machine.inner(now, u32::from(op >> 3 & 1), index, &message);
                watch.judge(&mut machine, genuine, Some(message.len()));
            }
            4 => {
                machine.tick(now);
                assert!(
                    machine.next_deadline().is_none_or(|at| at > now),
                    "due at once, for ever"
                );
                watch.judge(&mut machine, false, None);
            }
            5 => {
                match how & 3 {
                    0 | 1 => drop(machine.confirmed(now, u32::from(how >> 2 & 1), index)),
                    2 => machine.seal_limit(now, 0, index),
                    _ => {
                        machine.erased(0, index);
                        watch.installed.remove(&index);
                    }
                }
                watch.judge(&mut machine, false, None);
            }
            6 => {
                let port = u16::from(how & 1);
                match how >> 1 & 3 {
                    0 => machine.carrier_up(now, port),
                    1 => machine.remove_port(port),
                    _ => {
                        let mut config = cable::port(port);
                        config.mac[4] = how >> 5;
                        machine.set_port(now, config);
                    }
                }
                watch.judge(&mut machine, false, None);
            }
            _ => {
                let id = u32::from(how & 1);
                if how & 2 == 0 {
                    machine.remove(id);
                } else {
                    let _ = machine.add(now, cable::enrolled(id));
                }
                watch.judge(&mut machine, false, None);
                let _ = machine.workstations(now);
            }
        }
    }
});
