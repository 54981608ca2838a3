//! The switch fooled, the daemon dead, the daemon coming up.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use wire::limits::BROADCAST;
use wire::{Header, kind};

use super::{Checks, meanwhile, opened};
use crate::attack::frame::{Mac, ethernet, header_of, portcullis, udp_v4};
use crate::attack::ground::Ground;
use crate::attack::outcome::{Happened, difference};
use crate::attack::sender::{Bounds, flood};
use crate::attack::stream::cycle;
use crate::attack::suite::{Suite, VICTIM};
use crate::attack::{Writer, inner};
use crate::rig::{Capture, Captured, GATEWAY_V4, PacketSocket, counters, pause, wait_for};

pub(super) fn stolen_addresses(suite: &mut Suite<'_>) -> Result<Happened> {
    let victim = suite.known.victim;
    // A session that ends is followed by a Hello, which a switch too shows to all.
    let hellos = Capture::filtered(&suite.demo.evil, Some("cable0"), 0, move |frame| {
        frame.source() == victim
            && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::HELLO)
    })?;
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
    hellos.settle()?;
    let hellos = hellos.incoming();
    let mut checks = Checks::default();
    checks.hold(reached < Duration::from_secs(2), || {
        format!("ws2 reaches the Gateway only after {reached:.1?}")
    });
    checks.hold(hellos == 0, || {
        format!("ws2 began {hellos} handshakes beside its session")
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
fn everything_old(suite: &Suite<'_>) -> Writer {
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
pub(super) fn until_it_reaches(suite: &mut Suite<'_>) -> Result<Duration> {
    let start = Instant::now();
    let victim = suite.victim()?;
    wait_for("ws2 to reach the Gateway", Duration::from_secs(10), || {
        victim.reaches(Duration::from_millis(100)).then_some(())
    })?;
    Ok(start.elapsed())
}

pub(super) fn without_a_daemon(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let packet = inner::udp4(
        sealer.v4,
        GATEWAY_V4,
        4444,
        b"of a session whose keys XDP has",
    );
    let socket = PacketSocket::sender(&suite.demo.evil, "cable0")?;
    suite.demo.gateway.kill();
    let mut old = everything_old(suite);
    // Those XDP admits, and there is nobody to hand them to.
    let mut writer = move |at: u64, buffer: &mut Vec<u8>| match at % 4 {
        0 => *buffer = sealer.seal(&packet),
        _ => old(at, buffer),
    };
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

pub(super) fn restart_race(suite: &mut Suite<'_>) -> Result<Happened> {
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

/// Two starts of which ws2 hears no Reset, and the first one's Resets after the second. XDP has seen none of them
/// and lets them in, no more than their bucket has room for.
pub(super) fn old_resets(suite: &mut Suite<'_>) -> Result<Happened> {
    let (gateway, victim, key_id) = (suite.known.gateway, suite.known.victim, suite.known.key_id);
    let heard = move |from: Mac, kind: u8| {
        move |frame: &Captured| {
            let header = header_of(&frame.bytes).filter(|_| frame.source() == from);
            header.is_some_and(|header| header.kind == kind && header.index == key_id)
        }
    };
    let listen =
        |from, kind| Capture::filtered(&suite.demo.evil, Some("cable0"), 8, heard(from, kind));
    let resets = listen(gateway, kind::RESET)?;
    let hellos = listen(victim, kind::HELLO)?;
    suite.demo.lan.broadcast(VICTIM, false)?;
    let mut old = Vec::new();
    for _ in 0..2 {
        suite.demo.gateway.kill();
        suite.demo.gateway.start()?;
        until_it_reaches(suite)?;
        resets.settle()?;
        let of_this_start = resets.take();
        if old.is_empty() {
            old = of_this_start;
        }
    }
    suite.demo.lan.broadcast(VICTIM, true)?;
    suite.rogue()?.connect()?;
    let look = |suite: &Suite<'_>| suite.workstation(VICTIM)?.status();
    let before = look(suite)?;
    hellos.settle()?;
    let begun = hellos.incoming();
    for reset in &old {
        suite.wire.send(&reset.bytes);
    }
    // The jitter before a handshake, and more.
    pause(Duration::from_secs(1))?;
    hellos.settle()?;
    let after = look(suite)?;
    let verdicts = |status: &Value| counters(&status["port"]["verdicts"]);
    let refused = difference(&verdicts(&before), &verdicts(&after));
    let refused = refused.keys().filter(|verdict| *verdict != "admitted");
    let refused: Vec<&str> = refused.map(String::as_str).collect();
    let begun = hellos.incoming() - begun;
    // Sessions that replaced another, while there is one.
    let rekeys = |status: &Value| {
        status["rekeys"]
            .as_u64()
            .filter(|_| status["session"].is_object())
    };
    let mut checks = Checks::default();
    checks.hold(!old.is_empty() && refused.is_empty(), || {
        format!(
            "{} Resets were heard, and again dropped as {refused:?}",
            old.len()
        )
    });
    checks.hold(begun == 0, || format!("ws2 began {begun} handshakes"));
    let (then, now) = (rekeys(&before), rekeys(&after));
    checks.hold(then.is_some() && then == now, || {
        format!(
            "ws2's session is {}, after {now:?} rekeys, {then:?} before",
            after["session"]
        )
    });
    checks.end(
        old.len() as u64,
        format!("{} Resets let in at ws2, and no handshake", old.len()),
    )
}
