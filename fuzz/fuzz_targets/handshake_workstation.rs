//! The Workstation's side of the handshake: as for the Gateway's. A session is made by nothing but
//! the Gateway's own answer to its own message, and none of what an attacker sends ends one.
#![no_main]

use control::handshake::workstation::{RollbackSign, Traffic, Workstation};
use control::handshake::{Action, Mac, kdf, message};
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;
use portcullis_fuzz::cable::{self, GATEWAY, PSK, START, Tape};
use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;
use wire::header::kind;
use wire::limits::HEADER_LEN;

/// Diffie-Hellman is what takes time; more of it would teach nothing.
const COSTLY: usize = 2;

fn knock() -> [u64; 2] {
    static KEY: OnceLock<[u64; 2]> = OnceLock::new();
    *KEY.get_or_init(|| kdf::knock_keys(&PSK).g2w)
}

#[derive(Default)]
struct Watch {
    installed: HashSet<u32>,
    keys: HashSet<[u8; 32]>,
    expected: u64,
    initiations: usize,
}

impl Watch {
    fn judge(&mut self, machine: &mut Workstation, genuine: bool) {
        for action in machine.actions() {
            match action {
                Action::Install(install) => {
                    assert!(genuine, "a session out of nothing genuine");
                    assert!(self.installed.insert(install.index), "an index twice");
                    assert!(self.keys.insert(install.keys.send.aead), "a key twice");
                }
                Action::Erase { index, .. } => assert!(self.installed.contains(&index)),
                Action::Send { frame, .. } => {
                    let (header, _) = message::parse(&frame).expect("a frame of ours");
                    assert_eq!(header.frame_len(), frame.len());
                    assert!(matches!(header.kind, kind::HELLO | kind::INITIATION));
                    assert_ne!(header.counter, 0);
                    self.initiations += usize::from(header.kind == kind::INITIATION);
                }
                Action::SendInner { index, message, .. } => {
                    assert!(self.installed.contains(&index));
                    self.initiations += usize::from(message[0] == message::REKEY_INIT);
                }
                Action::ExpectNonce(nonce) => self.expected = nonce,
                Action::Configure(_) => assert!(genuine),
            }
        }
    }
}

fn frame(input: &mut Input, how: u8, expected: u64, tape: &Tape) -> Vec<u8> {
    match how & 0x30 {
        0x00 => input.short().to_vec(),
        0x10 => {
            let (kind, length) = match input.u8() & 3 {
                0 => (kind::CHALLENGE, 32),
                1 | 2 => (kind::RESPONSE, 128),
                _ => (kind::RESET, 32),
            };
            let mut payload = vec![0; length];
            let given = input.slice(length);
            payload[..given.len()].copy_from_slice(given);
            let nonce = if how & 0x80 == 0 {
                expected
            } else {
                input.u64()
            };
            message::frame(kind, cable::key_id(0), nonce, knock(), &payload)
        }
        taped => {
            let mut frame = if taped == 0x20 {
                &tape.challenge
            } else {
                &tape.response
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
    let mut machine = cable::workstation();
    let mut watch = Watch::default();
    watch.judge(&mut machine, false);
    let mut now = START;
    for _ in 0..16 {
        if input.is_empty() || watch.initiations > COSTLY {
            break;
        }
        let (op, how) = (input.u8(), input.u8());
        now += match op >> 6 {
            0 | 1 => Duration::ZERO,
            2 => Duration::from_millis(u64::from(how) * 10),
            _ => Duration::from_secs(u64::from(how) * 2),
        };
        let index = match input.u8() {
            which if which & 1 == 0 => tape.at_workstation,
            _ => input.u32(),
        };
        match op & 7 {
            0..=2 => {
                let frame = frame(&mut input, how, watch.expected, tape);
                let source: Mac = if op & 0x10 == 0 {
                    GATEWAY
                } else {
                    input.array()
                };
                let genuine = frame.starts_with(&tape.response);
                let before = machine.status(now);
                machine.frame(now, source, &frame);
                watch.judge(&mut machine, genuine);
                // Whatever came, what there was is there.
                let after = machine.status(now);
                assert_eq!(before.connected, after.connected);
                assert_eq!(before.index, after.index);
            }
            3 => {
                let mut message = if how & 1 == 0 {
                    tape.rekey_resp.clone()
                } else {
                    input.short().to_vec()
                };
                if how & 2 != 0 {
                    input.flip(&mut message);
                }
                let genuine = message.starts_with(&tape.rekey_resp) && index == tape.at_workstation;
                machine.inner(now, index, &message);
                watch.judge(&mut machine, genuine);
            }
            4 => {
                machine.traffic(
                    now,
                    Traffic {
                        sent: how.into(),
                        received: u64::from(how >> 4),
                    },
                );
                machine.tick(now);
                assert!(
                    machine.next_deadline().is_some_and(|at| at > now),
                    "due at once, for ever"
                );
                watch.judge(&mut machine, false);
            }
            5 => {
                match how & 3 {
                    0 | 1 => machine.confirmed(now, index),
                    2 => machine.seal_limit(now, index),
                    _ => {
                        machine.erased(now, index);
                        watch.installed.remove(&index);
                    }
                }
                watch.judge(&mut machine, false);
            }
            6 => {
                match how & 7 {
                    0 | 1 => machine.carrier(now, how & 8 == 0),
                    2 => machine.mtu_changed(now, input.u16()),
                    3 => machine.mac_changed(now, input.array()),
                    4 | 5 => machine.limit_near(now, index),
                    6 => drop(machine.rollback_suspected(now, RollbackSign::Hint, input.short())),
                    _ => drop(machine.rollback_suspected(
                        now,
                        RollbackSign::Generation,
                        input.short(),
                    )),
                }
                watch.judge(&mut machine, false);
            }
            _ => {
                machine.mix(input.short());
                let _ = machine.status(now);
            }
        }
    }
});
