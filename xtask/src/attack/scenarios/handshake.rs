//! Handshakes: replayed, under good keys, never finished; and what is answered at all.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::kind;

use super::{Checks, flood_while_it_rekeys, opened};
use crate::attack::catalogue::CATALOGUE;
use crate::attack::frame::{Mac, Noise, header_of, hello, initiation, udp_v4};
use crate::attack::ground::Ground;
use crate::attack::outcome::Happened;
use crate::attack::rogue::Rogue;
use crate::attack::sender::{Bounds, flood};
use crate::attack::stream::{From, Known, Writer, cycle};
use crate::attack::suite::Suite;
use crate::attack::{INSIDER_PORT, inner};
use crate::rig::{Capture, Captured, GATEWAY_V4, HOST_INTERFACE, PacketSocket, pause, wait_for};

pub(super) fn replay_while_it_rekeys(suite: &mut Suite<'_>) -> Result<Happened> {
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
    let socket = PacketSocket::sender(suite.victim()?.namespace(), HOST_INTERFACE)?;
    let packet = udp_v4(
        suite.known.victim_v4,
        GATEWAY_V4,
        INSIDER_PORT + 1,
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

pub(super) fn handshakes_under_good_keys(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let (knock, key_id) = (sealer.knock.w2g, sealer.key_id);
    let gateway = suite.known.gateway;
    let mut noise = Noise::new(40);
    let writer = Box::new(move |number: u64, buffer: &mut Vec<u8>| {
        let source: Mac = [2, 0x44, 0, (number >> 8) as u8, number as u8, 1];
        *buffer = match number % 2 {
            0 => hello(source, key_id, noise.next(), knock),
            _ => initiation(gateway, source, key_id, noise.next(), knock, &mut noise),
        };
    });
    let (sent, text, checks, _) = while_it_rekeys(suite, writer)?;
    checks.end(sent, text)
}

/// The same with Initiations that nothing is wrong with, each from an address of its own: they cost the Gateway a
/// whole handshake each.
pub(super) fn with_right_cookies(suite: &mut Suite<'_>) -> Result<Happened> {
    const GENUINE: u8 = 24;
    let sealer = suite.rogue()?.session()?;
    let (knock, key_id) = (sealer.knock.w2g, sealer.key_id);
    let (file, evil) = (suite.stolen(), suite.demo.evil.clone());
    let genuine: Vec<Vec<u8>> = (0..GENUINE)
        .map(|host| Rogue::clone_at(&file, &evil, "cable0", [2, 0x46, 0, 0, 0, host])?.initiation())
        .collect::<Result<_>>()?;
    let mut noise = Noise::new(45);
    let writer = Box::new(move |number: u64, buffer: &mut Vec<u8>| {
        let source: Mac = [2, 0x44, 1, (number >> 8) as u8, number as u8, 1];
        *buffer = match number % 16 {
            0 => genuine[number as usize / 16 % genuine.len()].clone(),
            _ => hello(source, key_id, noise.next(), knock),
        };
    });
    let (sent, text, mut checks, responses) = while_it_rekeys(suite, writer)?;
    checks.hold(responses > 0, || "no Initiation was answered".into());
    suite.rogue()?.connect()?;
    checks.end(
        sent,
        format!("{text}, {responses} Responses to {GENUINE} Initiations"),
    )
}

/// Handshake frames without pause while ws2 rekeys: how many were sent, how it went, and how many Responses came.
fn while_it_rekeys(suite: &mut Suite<'_>, writer: Writer) -> Result<(u64, String, Checks, usize)> {
    let answers = answers_to_anyone(suite)?;
    let start = Instant::now();
    let (sent, rekeyed) = flood_while_it_rekeys(suite, writer)?;
    answers.settle()?;
    let (got, time) = (answers.incoming(), start.elapsed().as_secs_f64());
    let most = 200.0 + 200.0 * (time + 0.5);
    let is_response = |frame: &&Captured| {
        header_of(&frame.bytes).is_some_and(|header| header.kind == kind::RESPONSE)
    };
    let responses = answers.frames().iter().filter(is_response).count();
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws2 did not rekey: {rekeyed:?}")
    });
    checks.hold(got > 0, || "not even the first Hello was answered".into());
    checks.hold(got as f64 <= most, || {
        format!("{got} answers in {time:.1} s")
    });
    let text = format!("{got} answers in {time:.1} s, ws2 rekeyed three times");
    Ok((sent, text, checks, responses))
}

/// Handshake frames that the Gateway sends to any host but ws2 and ws3.
fn answers_to_anyone(suite: &Suite<'_>) -> Result<Capture> {
    let (gateway, victim) = (suite.known.gateway, suite.known.victim);
    Capture::filtered(suite.demo.lan.namespace(), Some("gw"), 4096, move |frame| {
        frame.source() == gateway
            && frame.destination() != victim
            && header_of(&frame.bytes).is_some_and(|header| header.kind != kind::DATA)
    })
}

pub(super) fn amplification(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let mut noise = Noise::new(41);
    let (mut sent, mut bytes) = (0, 0);
    let rogue = suite.rogue()?;
    rogue.pump(Duration::ZERO)?;
    let (frames_before, bytes_before) = (rogue.heard_frames, rogue.heard);
    let mut checks = Checks::default();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let nonce = noise.next();
        let frame = hello(sealer.outer.mac, sealer.key_id, nonce, sealer.knock.w2g);
        let rogue = suite.rogue()?;
        let (frames, heard, data) = (rogue.heard_frames, rogue.heard, rogue.heard_data);
        if suite.wire.send(&frame) {
            sent += 1;
            bytes += frame.len() as u64;
        }
        // One by one while their bucket lets them through, then as fast as it goes.
        let waits = if sent <= 8 { 10 } else { 1 };
        for _ in 0..waits {
            suite.rogue()?.pump(Duration::from_millis(5))?;
        }
        let rogue = suite.rogue()?;
        let came = (rogue.heard_frames - frames, rogue.heard - heard);
        // Its own session's PONGs are no answers to it.
        let told = waits > 1 && rogue.heard_data == data;
        checks.hold(!told || came.0 <= 1 && came.1 <= frame.len() as u64, || {
            format!(
                "{} frames and {} bytes came back for one Hello of {}",
                came.0,
                came.1,
                frame.len()
            )
        });
    }
    let rogue = suite.rogue()?;
    let (frames, heard) = (
        rogue.heard_frames - frames_before,
        rogue.heard - bytes_before,
    );
    checks.hold(frames > 0, || "no Hello was answered".into());
    checks.hold(frames <= sent && heard <= bytes, || {
        format!("{frames} frames and {heard} bytes came back for {sent} and {bytes}")
    });
    checks.end(sent, format!("{bytes} bytes sent, {heard} came back"))
}

pub(super) fn silence(suite: &mut Suite<'_>) -> Result<Happened> {
    let (gateway, own) = (suite.known.gateway, suite.known.own);
    let to_evil = Capture::filtered(&suite.demo.evil, Some("cable0"), 16, move |frame| {
        frame.source() == gateway && frame.destination() == own
    })?;
    let mut sent = 0;
    for attack in CATALOGUE.iter().filter(|attack| attack.from == From::Cable) {
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

pub(in crate::attack) fn half_open(ground: &mut dyn Ground) -> Result<Happened> {
    const TIMES: u64 = 6;
    let sealer = ground.rogue()?.connect()?;
    let before = opened(&ground.gateway().show()?);
    for _ in 0..TIMES {
        ground.rogue()?.half_open()?;
        pause(Duration::from_millis(100))?;
    }
    // The session from before was never replaced.
    ground
        .wire()
        .send(&sealer.seal(&inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"still here")));
    let old = wait_for("a frame of the old session", Duration::from_secs(2), || {
        ground
            .gateway()
            .show()
            .is_ok_and(|now| opened(&now) > before)
            .then_some(())
    });
    let new = ground.rogue()?.connect();
    let mut checks = Checks::default();
    checks.hold(old.is_ok(), || "the session in use was lost".into());
    checks.hold(new.is_ok(), || {
        format!("no handshake after them: {:?}", new.err())
    });
    checks.end(TIMES, format!("{TIMES} sessions left pending"))
}
