//! On the Gateway's own cable, and while its daemon is dead.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::BROADCAST;

use crate::attack::frame::{Mac, Noise, arp, ethernet, solicitation};
use crate::attack::outcome::Happened;
use crate::attack::scenarios::Checks;
use crate::attack::sender::{Bounds, flood};
use crate::attack::stream::cycle;
use crate::attack::udp::outer::{GATEWAY_V4, GATEWAY_V6};
use crate::attack::udp::suite::Remote;
use crate::rig::{Capture, PacketKind, pause};

const ASKER: Mac = [2, 0x66, 0, 0, 0, 2];

/// Questions of one IP version in turn.
fn question(number: u64, from: Mac) -> Vec<u8> {
    if number.is_multiple_of(2) {
        let asked = ([0; 6], GATEWAY_V4);
        return ethernet(
            BROADCAST,
            from,
            0x0806,
            &arp(1, (from, [192, 0, 2, 7].into()), asked),
        );
    }
    let source = crate::attack::catalogue::link_local(from);
    let [.., a, b, c] = GATEWAY_V6.octets();
    let mut packet = solicitation(source, from, GATEWAY_V6);
    packet[24..40].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    mend(&mut packet);
    ethernet([0x33, 0x33, 0xff, a, b, c], from, 0x86dd, &packet)
}

/// Makes the checksum of an ICMPv6 message right.
fn mend(packet: &mut [u8]) {
    packet[42..44].fill(0);
    let length = (packet.len() as u32 - 40).to_be_bytes();
    let sum = crate::attack::checksum(&[&packet[8..40], &length, &[0, 0, 0, 58], &packet[40..]]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn questions(remote: &mut Remote) -> Result<Happened> {
    let answers = Capture::filtered(&remote.networks.internet, Some("ig"), 0, |frame| {
        frame.kind == PacketKind::Incoming && frame.destination() == ASKER
    })?;
    let bounds = Bounds {
        frames: 100_000,
        time: Duration::from_millis(500),
        rate: 50_000,
    };
    let start = Instant::now();
    let mut sent = flood(&remote.wire, bounds, |number, buffer| {
        *buffer = question(number, ASKER);
    });
    answers.settle()?;
    let (got, time) = (answers.incoming(), start.elapsed().as_secs_f64());
    let mut noise = Noise::new(110);
    sent += flood(&remote.wire, bounds, |number, buffer| {
        let [a, b, c, d, ..] = noise.next().to_be_bytes();
        *buffer = question(number, [2, 0x67, a, b, c, d]);
    });
    // The router has to ask again itself.
    remote.networks.internet.ip("neigh flush dev ig")?;
    pause(Duration::from_millis(300))?;
    let mut checks = Checks::default();
    let most = 40.0 + 20.0 * (time + 0.2);
    checks.hold(got > 0, || "not one question was answered".into());
    checks.hold(got as f64 <= most, || {
        format!("{got} answers in {time:.1} s")
    });
    checks.end(sent, format!("{got} answers to one station in {time:.1} s"))
}

pub(super) fn without_a_daemon(remote: &mut Remote) -> Result<Happened> {
    let mut frames = remote.known.handshakes.clone();
    frames.extend(remote.known.data.iter().cloned());
    for attack in crate::attack::udp::streams() {
        let mut writer = (attack.frames)(&remote.known);
        for number in 0..50 {
            let mut buffer = Vec::new();
            writer(number, &mut buffer);
            frames.push(buffer);
        }
    }
    remote.networks.gateway.kill();
    let bounds = Bounds {
        frames: 30_000,
        time: Duration::from_millis(600),
        rate: 50_000,
    };
    let sent = flood(&remote.wire, bounds, cycle(frames));
    let through = remote
        .networks
        .workstation
        .reaches(Duration::from_millis(50));
    remote.networks.gateway.start()?;
    let started = Instant::now();
    let back = remote
        .networks
        .workstation
        .wait_connected(Duration::from_secs(10));
    let took = started.elapsed();
    let mut checks = Checks::default();
    checks.hold(!through, || "the tunnel worked without a daemon".into());
    checks.hold(back.is_ok() && took < Duration::from_secs(7), || {
        format!("after {took:.1?}: {back:?}")
    });
    checks.end(sent, format!("ws1 was back {took:.1?} after the restart"))
}
