//! Attacks in steps: what cannot be told as a stream of frames.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::{BROADCAST, COUNTER_LIMIT};
use wire::{Header, kind};

use super::catalogue::{CATALOGUE, Known, cycle};
use super::frame::{Mac, Noise, ethernet, header_of, hello, portcullis, udp_v4};
use super::inner;
use super::rogue::Rogue;
use super::sender::{Bounds, flood};
use super::suite::{Happened, STOLEN, Suite};
use crate::rig::{Capture, GATEWAY_V4, PacketSocket, Snapshot, pause, wait_for};

/// An attack in steps.
pub struct Scenario {
    /// What it is called in the table.
    pub name: &'static str,
    /// What must hold.
    pub holds: &'static str,
    /// Whether the LAN shows everybody everything.
    pub hub: bool,
    /// What part of its goodput the victim keeps.
    pub keeps: f64,
    /// Its steps.
    pub run: fn(&mut Suite<'_>) -> Result<Happened>,
}

/// They.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "Hellos and the last 8192 Data frames of ws2 again, while it rekeys",
        holds: "ws2 rekeys three times and keeps 0.9 of its goodput",
        hub: true,
        keeps: 0.9,
        run: replay_while_it_rekeys,
    },
    Scenario {
        name: "Hellos and Initiations under ws4's keys from ever other addresses",
        holds: "at most 200 answers a second and as many at once; ws2 rekeys",
        hub: false,
        keeps: 0.5,
        run: handshakes_under_good_keys,
    },
    Scenario {
        name: "Hello amplification",
        holds: "the Gateway answers with no more frames and no more bytes than it got",
        hub: false,
        keeps: 0.5,
        run: amplification,
    },
    Scenario {
        name: "no answer to whom it does not know",
        holds: "not one frame comes back for a frame without a right tag",
        hub: false,
        keeps: 0.0,
        run: silence,
    },
    Scenario {
        name: "slow drip: handshakes that are never finished",
        holds: "ws4's own session goes on until a new one is proven; a finished one works",
        hub: false,
        keeps: 0.5,
        run: half_open,
    },
    Scenario {
        name: "counter exhaustion: the last counter there is, then lower ones",
        holds: "it ends the attacker's own session, and a new handshake makes another",
        hub: false,
        keeps: 0.5,
        run: last_counter,
    },
    Scenario {
        name: "PING and RekeyInit without pause in a session",
        holds: "at most 10 PONGs and 2 rekeys a second; ws2 rekeys",
        hub: false,
        keeps: 0.5,
        run: control_flood,
    },
    Scenario {
        name: "a clone: two hosts with the same keys",
        holds: "the newer proven session counts, the older ends; ws2 does not notice",
        hub: false,
        keeps: 0.5,
        run: two_with_the_same_keys,
    },
    Scenario {
        name: "is there a ws2? packets to its address and to nobody's",
        holds: "no answer to either",
        hub: false,
        keeps: 0.5,
        run: probing,
    },
    Scenario {
        name: "disabled in the middle of its own flood",
        holds: "nothing is opened once the call has returned",
        hub: false,
        keeps: 0.5,
        run: disabled_under_flood,
    },
    Scenario {
        name: "a stolen CAM entry: ws2's and the Gateway's address at another port of the switch",
        holds: "no session ends; ws2 reaches the Gateway within 2 s of the last such frame",
        hub: false,
        keeps: 0.0,
        run: stolen_addresses,
    },
    Scenario {
        name: "the daemon is dead",
        holds: "the wall drops everything; ws2 is back within 5 s of the restart",
        hub: false,
        keeps: 0.0,
        run: without_a_daemon,
    },
    Scenario {
        name: "restart race: everything old at line rate while the daemon comes up",
        holds: "nothing old is opened; ws2 is back within 5 s",
        hub: false,
        keeps: 0.0,
        run: restart_race,
    },
];

/// Checks, of which the false ones are told.
#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    fn hold(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    fn end(self, sent: u64, text: String) -> Result<Happened> {
        Ok(Happened {
            sent,
            text,
            broken: self.0,
        })
    }
}

/// A flood from a thread of its own until the body is done, ten seconds at most.
fn meanwhile<R>(
    socket: &PacketSocket,
    writer: super::Writer,
    body: impl FnOnce() -> Result<R>,
) -> Result<(u64, R)> {
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let mut writer = writer;
    let end = Instant::now() + Duration::from_secs(10);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                let piece = Bounds::full_speed(Duration::from_millis(20));
                sent.fetch_add(flood(socket, piece, &mut writer), Ordering::Relaxed);
            }
        });
        let result = body();
        stop.store(true, Ordering::Relaxed);
        result
    })
    .map(|result| (sent.load(Ordering::Relaxed), result))
}

/// Three rekeys of the victim, each of which must come to its end.
fn rekeys(suite: &mut Suite<'_>) -> Result<()> {
    for _ in 0..3 {
        suite.victim()?.rekey()?;
        pause(Duration::from_millis(200))?;
    }
    Ok(())
}

/// Floods while the victim rekeys, for a second at least.
fn flood_while_it_rekeys(
    suite: &mut Suite<'_>,
    writer: super::Writer,
) -> Result<(u64, Result<()>)> {
    let socket = PacketSocket::sender(&suite.demo.evil, "cable0")?;
    meanwhile(&socket, writer, || {
        pause(Duration::from_millis(400))?;
        Ok(rekeys(suite))
    })
}

fn replay_while_it_rekeys(suite: &mut Suite<'_>) -> Result<Happened> {
    const FRAMES: u64 = 8192;
    let from = suite.known.victim;
    let heard = Capture::filtered(
        &suite.demo.evil,
        Some("cable0"),
        FRAMES as usize,
        move |frame| {
            frame.source() == from && header_of(&frame.bytes).is_some_and(|h| h.kind == kind::DATA)
        },
    )?;
    // ws2's own stream is mostly acknowledgements, few of them: some more of its Data.
    let socket = PacketSocket::sender(suite.victim()?.namespace(), crate::rig::HOST_INTERFACE)?;
    let packet = udp_v4(
        suite.known.victim_v4,
        GATEWAY_V4,
        super::INSIDER_PORT + 1,
        &[0; 64],
    );
    wait_for("8192 Data frames of ws2", Duration::from_secs(10), || {
        let bounds = Bounds {
            frames: 512,
            time: Duration::from_secs(1),
            rate: 50_000,
        };
        flood(&socket, bounds, |_, buffer| buffer.clone_from(&packet));
        (heard.incoming() >= FRAMES).then_some(())
    })?;
    let mut frames = suite.known.handshakes.clone();
    frames.extend(heard.take().into_iter().map(|frame| frame.bytes));
    drop(heard);
    let count = frames.len();
    // From here on a switch that cannot be fooled: as a hub the LAN would carry the flood to ws2 as well,
    // and what it loses by its own port's full queue says nothing of the Gateway.
    let (lan, victim) = (&suite.demo.lan, suite.known.victim);
    lan.hub(false)?;
    lan.pin(victim, "ws2", true)?;
    let (sent, rekeyed) = flood_while_it_rekeys(suite, cycle(frames))?;
    suite.demo.lan.pin(victim, "ws2", false)?;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws2 did not rekey: {rekeyed:?}")
    });
    checks.end(
        sent,
        format!("{count} frames again and again, three rekeys meanwhile"),
    )
}

fn handshakes_under_good_keys(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let (gateway, knock, key_id) = (sealer.gateway, sealer.knock.w2g, sealer.key_id);
    let answers = answers_to_anyone(suite)?;
    let mut noise = Noise::new(40);
    let writer = Box::new(move |number: u64, buffer: &mut Vec<u8>| {
        let source: Mac = [2, 0x44, 0, (number >> 8) as u8, number as u8, 1];
        *buffer = match number % 2 {
            0 => hello(source, key_id, noise.next(), knock),
            _ => super::initiation(gateway, source, key_id, noise.next(), knock, &mut noise),
        };
    });
    let start = Instant::now();
    let (sent, rekeyed) = flood_while_it_rekeys(suite, writer)?;
    answers.settle()?;
    let (got, time) = (answers.incoming(), start.elapsed().as_secs_f64());
    let most = 200.0 + 200.0 * (time + 0.5);
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws2 did not rekey: {rekeyed:?}")
    });
    checks.hold(got > 0, || "not even the first Hello was answered".into());
    checks.hold(got as f64 <= most, || {
        format!("{got} answers in {time:.1} s")
    });
    checks.end(
        sent,
        format!("{got} answers in {time:.1} s, ws2 rekeyed three times"),
    )
}

/// Handshake frames that the Gateway sends to any host but ws2 and ws3.
fn answers_to_anyone(suite: &Suite<'_>) -> Result<Capture> {
    let (gateway, victim) = (suite.known.gateway, suite.known.victim);
    Capture::filtered(suite.demo.lan.namespace(), Some("gw"), 16, move |frame| {
        frame.source() == gateway
            && frame.destination() != victim
            && header_of(&frame.bytes).is_some_and(|header| header.kind != kind::DATA)
    })
}

fn amplification(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let mut noise = Noise::new(41);
    let (mut sent, mut bytes) = (0, 0);
    let rogue = suite.rogue()?;
    rogue.pump(Duration::ZERO)?;
    let (frames_before, bytes_before) = (rogue.heard_frames, rogue.heard);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let frame = hello(sealer.own, sealer.key_id, noise.next(), sealer.knock.w2g);
        if suite.wire.send(&frame) {
            sent += 1;
            bytes += frame.len() as u64;
        }
        suite.rogue()?.pump(Duration::from_millis(5))?;
    }
    let rogue = suite.rogue()?;
    let (frames, heard) = (
        rogue.heard_frames - frames_before,
        rogue.heard - bytes_before,
    );
    let mut checks = Checks::default();
    checks.hold(frames > 0, || "no Hello was answered".into());
    checks.hold(frames <= sent && heard <= bytes, || {
        format!("{frames} frames and {heard} bytes came back for {sent} and {bytes}")
    });
    checks.end(sent, format!("{bytes} bytes sent, {heard} came back"))
}

fn silence(suite: &mut Suite<'_>) -> Result<Happened> {
    let (gateway, own) = (suite.known.gateway, suite.known.own);
    let to_evil = Capture::filtered(&suite.demo.evil, Some("cable0"), 16, move |frame| {
        frame.source() == gateway && frame.destination() == own
    })?;
    let mut sent = 0;
    for attack in CATALOGUE
        .iter()
        .filter(|attack| attack.from == super::From::Cable)
    {
        let mut writer = (attack.frames)(&suite.known);
        let bounds = Bounds {
            frames: 500,
            time: Duration::from_millis(100),
            rate: 0,
        };
        let known: &Known = &suite.known;
        sent += flood(&suite.wire, bounds, |number, buffer| {
            writer(number, buffer);
            // All of it from the attacker's own address, so that an answer would come here.
            if buffer.len() >= 12 {
                buffer[6..12].copy_from_slice(&known.own);
            }
        });
    }
    to_evil.settle()?;
    let got = to_evil.frames();
    // ws2's own Hellos, sent again, are genuine but for the address: a Challenge is no use without keys.
    let answers = got.iter().filter(|frame| {
        header_of(&frame.bytes).is_none_or(|header| header.kind != kind::CHALLENGE)
    });
    let answers = answers.count();
    let mut checks = Checks::default();
    checks.hold(answers == 0, || format!("{answers} frames came back"));
    checks.end(
        sent,
        format!(
            "{} Challenges for ws2's own Hellos, nothing else",
            got.len()
        ),
    )
}

fn half_open(suite: &mut Suite<'_>) -> Result<Happened> {
    const TIMES: u64 = 6;
    let sealer = suite.rogue()?.connect()?;
    let before = opened(&suite.gateway().show()?);
    for _ in 0..TIMES {
        suite.rogue()?.half_open()?;
        pause(Duration::from_millis(100))?;
    }
    // The session from before was never replaced.
    suite
        .wire
        .send(&sealer.seal(&inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"still here")));
    let old = wait_for("a frame of the old session", Duration::from_secs(2), || {
        suite
            .gateway()
            .show()
            .is_ok_and(|now| opened(&now) > before)
            .then_some(())
    });
    let new = suite.rogue()?.connect();
    let mut checks = Checks::default();
    checks.hold(old.is_ok(), || "the session in use was lost".into());
    checks.hold(new.is_ok(), || {
        format!("no handshake after them: {:?}", new.err())
    });
    checks.end(TIMES, format!("{TIMES} sessions left pending"))
}

fn opened(snapshot: &Snapshot) -> u64 {
    snapshot.number(STOLEN, "opened")
}

fn last_counter(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"the last");
    let before = suite.gateway().show()?;
    suite.wire.send(&sealer.seal_at(COUNTER_LIMIT - 1, &packet));
    wait_for("the last counter", Duration::from_secs(2), || {
        suite
            .gateway()
            .show()
            .is_ok_and(|now| opened(&now) > opened(&before))
            .then_some(())
    })?;
    let after_last = opened(&suite.gateway().show()?);
    let mut sent = 1;
    for counter in (100..1100).chain([COUNTER_LIMIT - 1, COUNTER_LIMIT - 8193]) {
        sent += u64::from(suite.wire.send(&sealer.seal_at(counter, &packet)));
    }
    pause(Duration::from_millis(200))?;
    let lower = opened(&suite.gateway().show()?) - after_last;
    let again = suite.rogue()?.connect();
    let mut checks = Checks::default();
    checks.hold(lower == 0, || {
        format!("{lower} frames below the window were opened")
    });
    checks.hold(again.is_ok(), || {
        format!("no new session: {:?}", again.err())
    });
    checks.end(
        sent,
        "every lower counter refused, a new session made".into(),
    )
}

fn control_flood(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let rogue = suite.rogue()?;
    rogue.pump(Duration::ZERO)?;
    let before = rogue.answers;
    let mut noise = Noise::new(42);
    let writer = Box::new(move |number: u64, buffer: &mut Vec<u8>| {
        let mut message = vec![3, 0, 0, 0, 0, 0, 0, 0];
        if number % 2 == 1 {
            message[0] = 1;
            message.resize(8 + 8 + 128, 0);
        } else {
            message.resize(8 + 16, 0);
        }
        noise.fill(&mut message[8..]);
        *buffer = sealer.seal(&message);
    });
    let start = Instant::now();
    let (sent, rekeyed) = flood_while_it_rekeys(suite, writer)?;
    let rogue = suite.rogue()?;
    rogue.pump(Duration::from_millis(50))?;
    let (answers, time) = (rogue.answers - before, start.elapsed().as_secs_f64());
    let most = (12.0 * (time + 1.0) + 12.0) as u64;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws2 did not rekey: {rekeyed:?}")
    });
    checks.hold(answers <= most, || {
        format!("{answers} answers in {time:.1} s")
    });
    suite.rogue()?.connect()?;
    checks.end(
        sent,
        format!("{answers} answers in {time:.1} s, ws2 rekeyed three times"),
    )
}

fn two_with_the_same_keys(suite: &mut Suite<'_>) -> Result<Happened> {
    const OTHER: Mac = [2, 0x55, 0, 0, 0, 1];
    let mut clone = Rogue::clone_at(&suite.stolen(), &suite.demo.evil, "cable0", OTHER)?;
    let first = suite.rogue()?.connect()?;
    let packet = inner::udp4(first.v4, GATEWAY_V4, 4444, b"clone");
    // The second time the first's session is no longer the one before.
    for _ in 0..2 {
        clone.connect()?;
    }
    let before = opened(&suite.gateway().show()?);
    let mut sent = 0;
    for _ in 0..100 {
        sent += u64::from(suite.wire.send(&first.seal(&packet)));
    }
    pause(Duration::from_millis(200))?;
    let old = opened(&suite.gateway().show()?) - before;
    let back = suite.rogue()?.connect();
    let mut checks = Checks::default();
    checks.hold(old == 0, || {
        format!("{old} frames of a replaced session were opened")
    });
    checks.hold(back.is_ok(), || {
        format!("the first gets no session any more: {:?}", back.err())
    });
    checks.end(
        sent,
        "each took the session from the other, and only that".into(),
    )
}

fn probing(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let somebody = suite.known.victim_v4;
    let mut answers = [0; 2];
    let mut sent = 0;
    for (to, count) in [somebody, [10, 152, 152, 250].into()]
        .into_iter()
        .zip(&mut answers)
    {
        let rogue = suite.rogue()?;
        rogue.pump(Duration::from_millis(20))?;
        let before = rogue.heard_frames;
        for packet in [
            inner::icmp4(sealer.v4, to, 8),
            inner::udp4(sealer.v4, to, 5353, b"anybody?"),
            inner::v4(sealer.v4, to, 6, (&[], 0, 0), &inner::syn(9050)),
        ] {
            for _ in 0..50 {
                sent += u64::from(suite.wire.send(&sealer.seal(&packet)));
            }
        }
        for _ in 0..20 {
            suite.rogue()?.pump(Duration::from_millis(10))?;
        }
        *count = suite.rogue()?.heard_frames - before;
    }
    let mut checks = Checks::default();
    checks.hold(answers == [0, 0], || {
        format!("{answers:?} frames came back")
    });
    checks.end(sent, "silence to both".into())
}

/// What the Gateway's port has admitted of anybody but ws2 and ws3, whose frames were all opened. Frames
/// on their way between admission and AEAD are in it.
fn admitted_of_others(snapshot: &Snapshot) -> i64 {
    let admitted = snapshot.verdicts("lan").get("admitted").copied();
    let theirs: u64 = ["ws2", "ws3"]
        .map(|name| snapshot.number(name, "opened"))
        .iter()
        .sum();
    admitted.unwrap_or(0) as i64 - theirs as i64
}

fn disabled_under_flood(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, &[0; 200]);
    let writer = Box::new(move |_, buffer: &mut Vec<u8>| *buffer = sealer.seal(&packet));
    let gateway = suite.gateway();
    let (sent, [before, at_return, later]) = meanwhile(&suite.wire, writer, || {
        pause(Duration::from_millis(300))?;
        let before = gateway.show()?;
        gateway.cli(&format!("workstation disable {STOLEN}"))?;
        let at_return = gateway.show()?;
        pause(Duration::from_millis(300))?;
        Ok([before, at_return, gateway.show()?])
    })?;
    gateway.cli(&format!("workstation enable {STOLEN}"))?;
    suite.rogue()?.connect()?;
    let until = opened(&before);
    let after = admitted_of_others(&later) - admitted_of_others(&at_return);
    let mut checks = Checks::default();
    checks.hold(until > 0, || "nothing was opened before".into());
    checks.hold(after < 50, || {
        format!("{after} frames were admitted after the call")
    });
    checks.end(sent, format!("{until} opened before, none admitted after"))
}

fn stolen_addresses(suite: &mut Suite<'_>) -> Result<Happened> {
    let handshakes = |suite: &mut Suite<'_>| -> Result<serde_json::Value> {
        Ok(suite.victim()?.status()?["handshakes"].clone())
    };
    let before = handshakes(suite)?;
    let known = suite.known.clone();
    let frames =
        [(known.victim, known.gateway), (known.gateway, known.victim)].map(|(from, to)| {
            let header = Header::new(kind::DATA, 16, 1, 1);
            [
                portcullis(to, from, &header, &[0; 32]),
                ethernet(BROADCAST, from, 0x0806, &[0; 28]),
            ]
        });
    let mut writer = cycle(frames.concat());
    let bounds = Bounds {
        frames: u64::MAX,
        time: Duration::from_secs(1),
        rate: 2000,
    };
    let sent = flood(&suite.wire, bounds, &mut writer);
    // The switch finds either again by its next frame; a ping is one of ws2's.
    let reached = until_it_reaches(suite)?;
    let after = handshakes(suite)?;
    let mut checks = Checks::default();
    checks.hold(reached < Duration::from_secs(2), || {
        format!("ws2 reaches the Gateway only after {reached:.1?}")
    });
    checks.hold(before == after, || {
        format!("ws2's handshakes went from {before} to {after}")
    });
    checks.end(
        sent,
        format!(
            "ws2 reaches the Gateway again after {:.0} ms",
            reached.as_secs_f64() * 1e3
        ),
    )
}

/// Data that was genuine once, and what never was. Not Hellos: those can delay a first handshake
/// (docs/threat-model.md). From the attacker's own address, so that the switch carries it to the Gateway
/// alone: what ws2 loses by its own port's full queue says nothing of the Gateway.
fn everything_old(suite: &Suite<'_>) -> super::Writer {
    let known = &suite.known;
    let old = known
        .data
        .iter()
        .take(512)
        .chain(known.answers.iter().take(64));
    let mut frames: Vec<Vec<u8>> = old
        .map(|frame| [&known.gateway[..], &known.own, &frame[12..]].concat())
        .collect();
    frames.push(ethernet(BROADCAST, known.own, 0x0806, &[0; 28]));
    frames.push(ethernet(
        known.gateway,
        known.own,
        0x0800,
        &udp_v4([10, 152, 152, 99].into(), GATEWAY_V4, 53, &[0; 32]),
    ));
    cycle(frames)
}

/// How long it takes until ws2 reaches the Gateway through the tunnel.
fn until_it_reaches(suite: &mut Suite<'_>) -> Result<Duration> {
    let start = Instant::now();
    let victim = suite.victim()?;
    wait_for("ws2 to reach the Gateway", Duration::from_secs(10), || {
        victim.reaches(Duration::from_millis(100)).then_some(())
    })?;
    Ok(start.elapsed())
}

fn without_a_daemon(suite: &mut Suite<'_>) -> Result<Happened> {
    let socket = PacketSocket::sender(&suite.demo.evil, "cable0")?;
    suite.demo.gateway.kill();
    let mut writer = everything_old(suite);
    let sent = flood(
        &socket,
        Bounds::full_speed(Duration::from_secs(1)),
        &mut writer,
    );
    suite.demo.gateway.start()?;
    let time = until_it_reaches(suite)?;
    suite.rogue()?.connect()?;
    let mut checks = Checks::default();
    checks.hold(time < Duration::from_secs(5), || {
        format!("ws2 was back only after {time:.1?}")
    });
    checks.end(
        sent,
        format!(
            "ws2 back {:.0} ms after the restart",
            time.as_secs_f64() * 1e3
        ),
    )
}

fn restart_race(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let socket = PacketSocket::sender(&suite.demo.evil, "cable0")?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"of the session before");
    let mut old = everything_old(suite);
    let mut number = 0;
    let writer = Box::new(move |at: u64, buffer: &mut Vec<u8>| {
        number += 1;
        match at % 4 {
            0 => *buffer = sealer.seal(&packet),
            _ => old(number, buffer),
        }
    });
    suite.demo.gateway.kill();
    let (sent, time) = meanwhile(&socket, writer, || {
        pause(Duration::from_millis(100))?;
        suite.demo.gateway.start()?;
        until_it_reaches(suite)
    })?;
    let opened = opened(&suite.gateway().show()?);
    suite.rogue()?.connect()?;
    let mut checks = Checks::default();
    checks.hold(opened == 0, || {
        format!("{opened} frames of an ended session were opened")
    });
    checks.hold(time < Duration::from_secs(5), || {
        format!("ws2 was back only after {time:.1?}")
    });
    checks.end(
        sent,
        format!(
            "ws2 back {:.0} ms after the restart, under the flood",
            time.as_secs_f64() * 1e3
        ),
    )
}
