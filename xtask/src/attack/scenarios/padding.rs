//! What is behind a packet or a frame does not come out of the tunnel.

use std::time::Duration;

use anyhow::Result;

use super::Checks;
use crate::attack::frame::Noise;
use crate::attack::ground::Ground;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::suite::Suite;
use crate::rig::{Capture, GATEWAY_V4, HOST_INTERFACE, PacketKind, pause};

/// Echo requests, which ws4's rules allow, with up to so many bytes behind packet and frame.
const MOST: usize = 64;

pub(super) fn stays_behind(suite: &mut Suite<'_>) -> Result<Happened> {
    let sealer = suite.rogue()?.session()?;
    let mut echo = inner::icmp4(sealer.v4, GATEWAY_V4, 8);
    // Not known by its hop count: it may reach the Gateway's kernel.
    inner::set_hops(&mut echo, 64);
    let from = sealer.v4.octets();
    let gateway = suite.demo.gateway.namespace();
    let out = Capture::filtered(gateway, Some(HOST_INTERFACE), 4 * MOST, move |packet| {
        packet.kind == PacketKind::Incoming && packet.bytes.get(12..16) == Some(&from)
    })?;
    let mut noise = Noise::new(55);
    let mut sent = 0;
    for more in 0..=MOST {
        let mut padding = vec![0; more];
        for fill in [false, true] {
            if fill {
                noise.fill(&mut padding);
            }
            let inside = sealer.seal(&[&echo[..], &padding].concat());
            let behind = [&sealer.seal(&echo)[..], &padding].concat();
            for frame in [inside, behind] {
                sent += u64::from(suite.wire.send(&frame));
            }
            pause(Duration::from_millis(2))?;
        }
    }
    out.settle()?;
    let came = out.incoming();
    let other = out
        .frames()
        .iter()
        .filter(|packet| packet.bytes != echo)
        .count();
    let mut checks = Checks::default();
    checks.hold(came > sent / 2, || {
        format!("of {sent} packets only {came} came out")
    });
    checks.hold(other == 0, || {
        format!("{other} of {came} packets came out with something else than was in them")
    });
    checks.end(
        sent,
        format!("{came} packets came out, none longer than it says it is"),
    )
}
