//! Inside a session of the attacker's own: counters, control messages, clones, and its end.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::COUNTER_LIMIT;

use super::{Checks, flood_while_it_rekeys, meanwhile, opened};
use crate::attack::frame::{Mac, Noise};
use crate::attack::ground::Ground;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::rogue::Rogue;
use crate::attack::suite::{STOLEN, Suite};
use crate::rig::{GATEWAY_V4, Snapshot, pause, wait_for};

pub(in crate::attack) fn last_counter(ground: &mut dyn Ground) -> Result<Happened> {
    let sealer = ground.rogue()?.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"the last");
    let before = ground.gateway().show()?;
    ground
        .wire()
        .send(&sealer.seal_at(COUNTER_LIMIT - 1, &packet));
    wait_for("the last counter", Duration::from_secs(2), || {
        ground
            .gateway()
            .show()
            .is_ok_and(|now| opened(&now) > opened(&before))
            .then_some(())
    })?;
    let after_last = opened(&ground.gateway().show()?);
    let mut sent = 1;
    for counter in (100..1100).chain([COUNTER_LIMIT - 1, COUNTER_LIMIT - 8193]) {
        sent += u64::from(ground.wire().send(&sealer.seal_at(counter, &packet)));
    }
    pause(Duration::from_millis(200))?;
    let lower = opened(&ground.gateway().show()?) - after_last;
    let again = ground.rogue()?.connect();
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

pub(in crate::attack) fn control_flood(ground: &mut dyn Ground) -> Result<Happened> {
    let sealer = ground.rogue()?.session()?;
    let rogue = ground.rogue()?;
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
    let (sent, rekeyed) = flood_while_it_rekeys(ground, writer)?;
    let rogue = ground.rogue()?;
    rogue.pump(Duration::from_millis(50))?;
    let (answers, time) = (rogue.answers - before, start.elapsed().as_secs_f64());
    let most = (12.0 * (time + 1.0) + 12.0) as u64;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("the victim did not rekey: {rekeyed:?}")
    });
    checks.hold(answers <= most, || {
        format!("{answers} answers in {time:.1} s")
    });
    ground.rogue()?.connect()?;
    checks.end(
        sent,
        format!("{answers} answers in {time:.1} s, the victim rekeyed three times"),
    )
}

pub(super) fn two_with_the_same_keys(suite: &mut Suite<'_>) -> Result<Happened> {
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

pub(in crate::attack) fn probing(ground: &mut dyn Ground) -> Result<Happened> {
    let sealer = ground.rogue()?.session()?;
    let somebody = ground.known().victim_v4;
    let mut answers = [0; 2];
    let mut sent = 0;
    for (to, count) in [somebody, [10, 152, 152, 250].into()]
        .into_iter()
        .zip(&mut answers)
    {
        let rogue = ground.rogue()?;
        rogue.pump(Duration::from_millis(20))?;
        let before = unasked(rogue);
        for packet in [
            inner::icmp4(sealer.v4, to, 8),
            inner::udp4(sealer.v4, to, 5353, b"anybody?"),
            inner::v4(sealer.v4, to, 6, (&[], 0, 0), &inner::syn(9050)),
        ] {
            for _ in 0..50 {
                sent += u64::from(ground.wire().send(&sealer.seal(&packet)));
            }
        }
        for _ in 0..20 {
            ground.rogue()?.pump(Duration::from_millis(10))?;
        }
        *count = unasked(ground.rogue()?) - before;
    }
    let mut checks = Checks::default();
    checks.hold(answers == [0, 0], || {
        format!("{answers:?} frames came back")
    });
    checks.end(sent, "silence to both".into())
}

/// Frames that came for it and answer no PING of its own.
fn unasked(rogue: &Rogue) -> u64 {
    rogue.heard_frames - rogue.answers
}

/// What the Gateway's port has admitted of anybody but the others, whose frames were all opened. Frames
/// on their way between admission and AEAD are in it.
fn admitted_of_others(snapshot: &Snapshot, port: &str, others: [&str; 2]) -> i64 {
    let admitted = snapshot.verdicts(port).get("admitted").copied();
    let theirs: u64 = others
        .map(|name| snapshot.number(name, "opened"))
        .iter()
        .sum();
    admitted.unwrap_or(0) as i64 - theirs as i64
}

pub(in crate::attack) fn disabled_under_flood(ground: &mut dyn Ground) -> Result<Happened> {
    let sealer = ground.rogue()?.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, &[0; 200]);
    let writer = Box::new(move |_, buffer: &mut Vec<u8>| *buffer = sealer.seal(&packet));
    let gateway = ground.gateway();
    let start = opened(&gateway.show()?);
    let (sent, [before, at_return, later]) = meanwhile(ground.wire(), writer, || {
        pause(Duration::from_millis(300))?;
        let before = gateway.show()?;
        gateway.cli(&format!("workstation disable {STOLEN}"))?;
        let at_return = gateway.show()?;
        pause(Duration::from_millis(300))?;
        Ok([before, at_return, gateway.show()?])
    })?;
    gateway.cli(&format!("workstation enable {STOLEN}"))?;
    ground.rogue()?.connect()?;
    let until = opened(&before) - start;
    let (port, others) = (ground.port(), ground.others());
    let admitted = |snapshot: &Snapshot| admitted_of_others(snapshot, port, others);
    let after = admitted(&later) - admitted(&at_return);
    let mut checks = Checks::default();
    checks.hold(until > 0, || "nothing was opened before".into());
    checks.hold(after < 50, || {
        format!("{after} frames were admitted after the call")
    });
    checks.end(sent, format!("{until} opened before, none admitted after"))
}
