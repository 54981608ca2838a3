//! Random and mutated frames against the live XDP program and daemon, while another Workstation on
//! the same LAN works: nothing crashes, stalls, grows or gets through. From who has no key, and under the
//! keys of a Workstation that is allowed nothing. Needs root and the programs (`cargo xtask test` builds them).
//!
//! 200,000 frames of either by default; `PORTCULLIS_MUTATIONS=10000000` is the long run.

use std::time::Duration;

use portcullis_xtask::attack::{Attack, Bounds, From, Noise, Sealer, Suite, inner};
use portcullis_xtask::rig::*;
use wire::{Header, kind};

/// Frames sent between two looks at everything.
const CHUNK: u64 = 500_000;
/// Kilobytes by which the daemon's memory may differ between two looks.
const SLACK: u64 = 2_048;

/// Genuine frames of the victim, newest ones too, with bytes changed, cut, lengthened and spliced;
/// one in eight is random throughout.
const MUTATIONS: Attack = Attack {
    name: "random and mutated frames",
    verdicts: &[
        "bad_tag",
        "malformed",
        "misdirected",
        "replay",
        "unknown_session",
        "unknown_key",
        "foreign",
        "short",
        "rate_limited",
    ],
    from: From::Cable,
    races: true,
    frames: |known| {
        let known = known.clone();
        let seed = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |time| time.as_nanos() as u64);
        println!("seed {seed}");
        let mut noise = Noise::new(seed);
        let recorded: Vec<Vec<u8>> = known
            .handshakes
            .iter()
            .chain(&known.data)
            .cloned()
            .collect();
        let mut mutate = move |buffer: &mut Vec<u8>| {
            let pick = |noise: &mut Noise| match noise.below(4) {
                0 => known.newest.lock().unwrap().clone(),
                _ => recorded[noise.below(recorded.len() as u64) as usize].clone(),
            };
            if noise.below(8) == 0 {
                buffer.resize(14 + noise.below(1500) as usize, 0);
                noise.fill(buffer);
                if noise.below(4) > 0 {
                    buffer[..6].copy_from_slice(&known.gateway);
                    buffer[12..14].copy_from_slice(&wire::limits::ETHERTYPE.to_be_bytes());
                }
                return;
            }
            *buffer = pick(&mut noise);
            // At least one bit of what admission looks at.
            let at = noise.below(38.min(buffer.len() as u64)) as usize;
            buffer[at] ^= 1 << noise.below(8);
            for _ in 0..noise.below(4) {
                let at = noise.below(buffer.len() as u64) as usize;
                buffer[at] = noise.next() as u8;
            }
            match noise.below(8) {
                0 => buffer.truncate(14 + noise.below(buffer.len() as u64 - 13) as usize),
                1 => buffer.resize(buffer.len() + noise.below(64) as usize, 0xee),
                2 => {
                    let other = pick(&mut noise);
                    let at = (14 + noise.below(24)) as usize;
                    buffer.truncate(at);
                    buffer.extend(&other[at.min(other.len())..]);
                }
                _ => {}
            }
            buffer.truncate(1514);
        };
        Box::new(move |_, buffer| {
            mutate(buffer);
            // The switch itself refuses a group's address as a source.
            buffer[6] &= !1;
        })
    },
};

/// What goes past XDP and no further: frames under right admission tags whose header, ciphertext, or packet inside is not
/// what an agent sends.
const AUTHENTIC: Attack = Attack {
    name: "random and mutated frames under ws4's keys",
    verdicts: &[
        "open_failed",
        "inner_malformed",
        "inner_source",
        "inner_destination",
        "policy_denied",
        "policy_unclassified",
        "control_refused",
        "malformed",
        "misdirected",
        "unknown_key",
        "unknown_session",
        "replay",
        "bad_tag",
    ],
    from: From::Keys,
    races: false,
    frames: |known| {
        let sealer = known.sealer();
        let packets = packets(&sealer);
        let seed = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |time| time.as_nanos() as u64);
        println!("seed {seed}");
        let mut noise = Noise::new(seed);
        Box::new(move |_, buffer| {
            let mut packet = packets[noise.below(packets.len() as u64) as usize].clone();
            mutate(&mut packet, &mut noise);
            *buffer = match noise.below(64) {
                // A message of the tunnel's own: some of them are as they should be, and answered.
                0 => {
                    packet[0] = noise.below(16) as u8;
                    sealer.seal(&packet)
                }
                1..16 => sealer.garbage(noise.below(1400) as usize, &mut noise),
                16..32 => {
                    let mut frame = sealer.seal(&packet);
                    let behind = 14 + wire::limits::HEADER_LEN as u64;
                    let at = behind + noise.below(frame.len() as u64 - behind);
                    frame[at as usize] ^= 1 << noise.below(8);
                    frame
                }
                32..40 => {
                    let kinds = [
                        kind::HELLO,
                        kind::CHALLENGE,
                        kind::INITIATION,
                        kind::RESPONSE,
                    ];
                    let kind = kinds[noise.below(4) as usize];
                    let counter = noise.next() >> noise.below(64);
                    let length = noise.next() as u16 >> noise.below(16);
                    let mut header = Header::new(kind, length, sealer.index, counter);
                    header.tag = header.data_tag(sealer.admission());
                    sealer.outer.frame(&header, &packet)
                }
                _ => sealer.seal(&packet),
            };
            buffer.truncate(1514);
        })
    },
};

/// Packets that a Workstation may send where it is allowed to, one of each kind.
fn packets(sealer: &Sealer) -> Vec<Vec<u8>> {
    let (v4, v6) = (sealer.v4, sealer.v6);
    let datagram = inner::udp(4444, &[0x55; 64]);
    let extended = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &datagram].concat();
    vec![
        inner::udp4(v4, GATEWAY_V4, 4444, &[0x55; 64]),
        inner::udp4(v4, GATEWAY_V4, 4444, &[0x55; 1300]),
        inner::v4(v4, GATEWAY_V4, 6, (&[], 0, 0), &inner::syn(4444)),
        inner::v4(v4, GATEWAY_V4, 17, (&[], 7, 0x2000), &datagram),
        inner::v4(v4, GATEWAY_V4, 17, (&[0x94, 4, 0, 0], 0, 0), &datagram),
        inner::icmp4(v4, GATEWAY_V4, 8),
        inner::v6(v6, GATEWAY_V6, 17, &datagram),
        inner::v6(v6, GATEWAY_V6, 6, &inner::syn(4444)),
        inner::v6(v6, GATEWAY_V6, 0, &extended),
        inner::v6(v6, GATEWAY_V6, 44, &fragment),
        inner::icmp6(v6, GATEWAY_V6, 128),
    ]
}

/// Changes some bytes, or its length; not the hop count, by which it is known where it must not be.
fn mutate(packet: &mut Vec<u8>, noise: &mut Noise) {
    let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
    let known = packet[hops];
    for _ in 0..noise.below(4) {
        let at = noise.below(60.min(packet.len() as u64)) as usize;
        packet[at] = noise.next() as u8;
    }
    match noise.below(8) {
        0 => packet.truncate(1 + noise.below(packet.len() as u64) as usize),
        1 => packet.resize(packet.len() + noise.below(64) as usize, 0xee),
        2 => {
            let version = packet[0];
            noise.fill(packet);
            packet[0] = version;
        }
        _ => {}
    }
    if let Some(hop) = packet.get_mut(hops) {
        *hop = known;
    }
}

/// A process's resident memory, in kilobytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[test]
fn mutated_frames_neither_crash_nor_stall_nor_feed_the_daemon_and_none_passes() {
    withstands(&MUTATIONS, |_| {});
}

#[test]
fn mutated_frames_under_a_workstations_keys_neither_crash_nor_stall_the_daemon_and_none_passes() {
    withstands(&AUTHENTIC, |suite| {
        suite.steal_keys().unwrap();
        suite.forbid_all().unwrap();
    });
}

/// Sends the attack's frames, and looks at everything in between.
fn withstands(attack: &Attack, prepare: fn(&mut Suite<'_>)) {
    let _turn = Serial::acquire().unwrap();
    let total: u64 = match std::env::var("PORTCULLIS_MUTATIONS") {
        Ok(text) => text.parse().expect("PORTCULLIS_MUTATIONS is a number"),
        Err(_) => 200_000,
    };
    require_root().unwrap();
    let mut rig = demo(&Programs::find().unwrap()).unwrap();
    rig.lan.hub(true).unwrap();
    let heard = Suite::eavesdrop(&rig).unwrap();
    rig.start().unwrap();
    let pid = rig.gateway.process().unwrap().pid();
    let _http = HttpServer::start(rig.gateway.namespace(), 8080).unwrap();
    let mut suite = Suite::new(&mut rig, &heard, 8080).unwrap();
    prepare(&mut suite);
    let (mut sent, mut warm) = (0, 0);
    while sent < total {
        let bounds = Bounds {
            frames: CHUNK.min(total - sent),
            time: Duration::from_secs(60),
            rate: 100_000,
        };
        let outcome = suite.run(attack, bounds).unwrap();
        // Captured frames, a stalled stream, an AEAD that saw more than the LAN lost, no answer.
        assert!(outcome.broken.is_empty(), "{}", outcome.broken.join("\n"));
        sent += outcome.sent;
        let memory = resident(pid);
        println!(
            "{sent} frames; goodput {:.2}; {memory} kB; {:?}",
            outcome.victim_goodput, outcome.by_verdict
        );
        if warm == 0 {
            warm = memory;
        }
        assert!(memory <= warm + SLACK, "{warm} kB became {memory} kB");
    }
    let log = rig.gateway.log_tail();
    assert!(!log.contains("panicked"), "{log}");
    let snapshot = rig.gateway.show().unwrap();
    for name in snapshot.names() {
        assert!(snapshot.in_session(&name), "{name} lost its session");
    }
}
