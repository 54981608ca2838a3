//! Handshakes over networks: floods of them, what they cost others, and whose cookie is whose.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::kind;

use crate::attack::frame::{Noise, header_of};
use crate::attack::outcome::Happened;
use crate::attack::scenarios::{Checks, meanwhile, rekeys};
use crate::attack::udp::outer::{OWN_PORT, OWN_V4, anywhere, from, inside, own};
use crate::attack::udp::suite::Remote;
use crate::middlebox::Impairment;
use crate::rig::{Capture, Captured, PacketKind, PacketSocket, pause};

/// ws1's recorded Hello.
fn hello(remote: &Remote) -> Result<Vec<u8>> {
    let frames = remote.known.handshakes.iter();
    let is_hello = |frame: &&Vec<u8>| header_of(frame).is_some_and(|h| h.kind == kind::HELLO);
    let mut hellos = frames.filter(is_hello).map(|frame| inside(frame).to_vec());
    hellos.next().context("a Hello of ws1 that was heard")
}

/// Handshake frames that the Gateway sends.
fn answers(remote: &Remote) -> Result<Capture> {
    Capture::filtered(&remote.networks.internet, Some("ig"), 4096, |frame| {
        frame.kind == PacketKind::Incoming
            && header_of(&frame.bytes).is_some_and(|header| header.kind != kind::DATA)
    })
}

pub(super) fn hellos_from_everywhere(remote: &mut Remote) -> Result<Happened> {
    let (known, hello) = (remote.known.clone(), hello(remote)?);
    let answers = answers(remote)?;
    let mut noise = Noise::new(80);
    let writer = Box::new(move |_, buffer: &mut Vec<u8>| {
        *buffer = from(&known, anywhere(&mut noise)).wrap(&hello);
    });
    let socket = PacketSocket::sender(&remote.networks.internet, "ig")?;
    let start = Instant::now();
    let (sent, (rekeyed, connected)) = meanwhile(&socket, writer, || {
        pause(Duration::from_millis(300))?;
        let rekeyed = rekeys(remote);
        Ok((
            rekeyed,
            remote.rogue.connects_within(Duration::from_secs(5)),
        ))
    })?;
    answers.settle()?;
    let (got, time) = (answers.incoming(), start.elapsed().as_secs_f64());
    let most = 200.0 + 200.0 * (time + 0.5) + 10.0;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws1 did not rekey: {rekeyed:?}")
    });
    checks.hold(matches!(connected, Ok(true)), || {
        "ws4 got no session within 5 s".into()
    });
    checks.hold(got > 0, || "no Hello was answered".into());
    checks.hold(got as f64 <= most, || {
        format!("{got} answers in {time:.1} s")
    });
    checks.end(
        sent,
        format!("{got} answers in {time:.1} s; ws1 rekeyed three times, ws4 got a session"),
    )
}

/// Bytes by whose they are, the second address of a frame of IPv4 or IPv6 if `to`, else the first.
fn by_host(frames: &[Captured]) -> BTreeMap<Vec<u8>, (u64, u64)> {
    let mut hosts = BTreeMap::new();
    for frame in frames.iter().map(|frame| &frame.bytes) {
        let places = if frame[12] == 8 { 30..34 } else { 38..54 };
        let host = frame.get(places).unwrap_or_default().to_vec();
        let entry: &mut (u64, u64) = hosts.entry(host).or_default();
        *entry = (entry.0 + 1, entry.1 + frame.len() as u64);
    }
    hosts
}

pub(super) fn amplification(remote: &mut Remote) -> Result<Happened> {
    let sealer = remote.rogue.session()?;
    let hello = hello(remote)?;
    let mut noise = Noise::new(81);
    let back = Capture::filtered(&remote.networks.internet, Some("ig"), 8192, |frame| {
        let frame_to = |at, start: &[u8]| frame.bytes.get(at..at + start.len()) == Some(start);
        frame.kind == PacketKind::Incoming
            && (frame_to(30, &[44]) || frame_to(30, &[45]) || frame_to(38, &own6()))
    })?;
    let mut sent = BTreeMap::new();
    let mut count = 0;
    for number in 0..400u64 {
        let named = (sealer.key_id, noise.next());
        let outer = from(&remote.known, anywhere(&mut noise));
        let frame = match number % 4 {
            0 => outer.wrap(&hello),
            1 => outer.tagged(kind::HELLO, named, sealer.knock.w2g, &[0; 32]),
            2 => outer.tagged(kind::INITIATION, named, sealer.knock.w2g, &[7; 160]),
            _ => {
                let mut payload = vec![0; noise.below(200) as usize];
                noise.fill(&mut payload);
                outer.wrap(&payload)
            }
        };
        let places = if frame[12] == 8 { 26..30 } else { 22..38 };
        let entry: &mut (u64, u64) = sent.entry(frame[places].to_vec()).or_default();
        *entry = (entry.0 + 1, entry.1 + frame.len() as u64);
        count += u64::from(remote.wire.send(&frame));
        pause(Duration::from_millis(2))?;
    }
    pause(Duration::from_millis(100))?;
    back.settle()?;
    let got = by_host(&back.take());
    let mut checks = Checks::default();
    for (host, (frames, bytes)) in &got {
        let (most, room) = sent.get(host).copied().unwrap_or_default();
        checks.hold(*frames <= most && *bytes <= room, || {
            format!("{frames} frames and {bytes} bytes to {host:?} for {most} and {room}")
        });
    }
    checks.hold(!got.is_empty(), || "nothing was answered".into());
    checks.end(
        count,
        format!("{} of {count} answered, each with no more", got.len()),
    )
}

/// How all IPv6 addresses of [`anywhere`] begin.
fn own6() -> [u8; 6] {
    [0x20, 1, 0x0d, 0xb8, 0, 0x66]
}

pub(super) fn cookie_elsewhere(remote: &mut Remote) -> Result<Happened> {
    let answers = Capture::filtered(&remote.networks.internet, Some("ig"), 64, |frame| {
        frame.kind == PacketKind::Incoming
            && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::RESPONSE)
    })?;
    let elsewhere = [
        (OWN_V4, OWN_PORT + 1).into(),
        ([44, 0, 0, 2], OWN_PORT).into(),
        own()[1],
    ];
    let mut checks = Checks::default();
    for source in elsewhere {
        remote.rogue.detour = Some(from(&remote.known, source));
        let connected = remote.rogue.connects_within(Duration::from_millis(1200));
        remote.rogue.detour = None;
        checks.hold(!connected?, || {
            format!("a session by a Challenge taken to {source}")
        });
    }
    answers.settle()?;
    let responses = answers.incoming();
    checks.hold(responses == 0, || format!("{responses} Responses"));
    let back = remote.rogue.connects_within(Duration::from_secs(5))?;
    checks.hold(back, || "none from its own address either".into());
    checks.end(
        3,
        "no Response to three, a session from where it belongs".into(),
    )
}

pub(super) fn faster_initiations(remote: &mut Remote) -> Result<Happened> {
    let known = remote.known.clone();
    let internet = std::sync::Arc::clone(&remote.networks.internet);
    let home = std::sync::Arc::clone(&remote.networks.home);
    let (stop, copies) = (AtomicBool::new(false), AtomicU64::new(0));
    remote.networks.middlebox.impair(Impairment {
        delay: Duration::from_millis(40),
        ..Impairment::default()
    });
    let copy = || -> Result<()> {
        let listener = PacketSocket::open(&home, Some("hw"))?;
        let sender = PacketSocket::sender(&internet, "ig")?;
        let (mut buffer, mut noise) = (vec![0; 2048], Noise::new(82));
        while !stop.load(Ordering::Relaxed) {
            listener.readable(Duration::from_millis(5));
            while let Some((kind, len)) = listener.receive(&mut buffer) {
                let header = header_of(&buffer[..len]);
                let initiation = header.is_some_and(|h| h.kind == kind::INITIATION);
                if kind == PacketKind::Outgoing && initiation {
                    let outer = from(&known, anywhere(&mut noise));
                    sender.send(&outer.wrap(inside(&buffer[..len])));
                    copies.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    };
    let workstation = &mut remote.networks.workstation;
    let (copied, begun) = std::thread::scope(|scope| {
        let copying = scope.spawn(copy);
        let begun = workstation.stop().and_then(|()| workstation.launch());
        let paused = pause(Duration::from_millis(2500));
        stop.store(true, Ordering::Relaxed);
        let copied = copying.join();
        (copied, begun.and(paused))
    });
    remote.networks.middlebox.impair(Impairment::default());
    copied.map_err(|_| anyhow::anyhow!("the copying thread panicked"))??;
    begun?;
    let last = Instant::now();
    let meanwhile = remote
        .networks
        .workstation
        .reaches(Duration::from_millis(50));
    let back = remote
        .networks
        .workstation
        .wait_connected(Duration::from_secs(10));
    let (took, copies) = (last.elapsed(), copies.load(Ordering::Relaxed));
    let mut checks = Checks::default();
    checks.hold(copies > 0, || "no Initiation was seen".into());
    checks.hold(back.is_ok(), || format!("{back:?}"));
    checks.end(
        copies,
        format!(
            "{copies} copies; ws1 {} meanwhile, and was in after {took:.1?}",
            if meanwhile {
                "connected"
            } else {
                "was kept out"
            }
        ),
    )
}
