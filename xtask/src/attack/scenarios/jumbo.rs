//! Frames larger than the cable's MTU, and as large as any cable's.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::BROADCAST;
use wire::{Header, kind};

use super::Checks;
use super::outage::until_it_reaches;
use crate::attack::frame::{Noise, ethernet, portcullis, udp_v4};
use crate::attack::ground::Ground;
use crate::attack::outcome::Happened;
use crate::attack::sender::{Bounds, flood};
use crate::attack::suite::{STOLEN, Suite};
use crate::attack::{Writer, inner};
use crate::rig::{GATEWAY_V4, Snapshot};

/// What the attacker's cable and the switch carry: more than the Gateway's port ever takes.
const BEYOND: u32 = 9100;
/// What fits a frame of MTU 9000 behind the tunnel's header and tag.
const LARGE: usize = 8900;
/// Verdicts that some of them must die with, on a port of MTU 9000.
const VERDICTS: [&str; 4] = ["foreign", "malformed", "unknown_session", "bad_tag"];
/// What becomes of those under ws4's keys.
const DROPS: [&str; 2] = ["open_failed", "policy_denied"];

pub(super) fn jumbo(suite: &mut Suite<'_>) -> Result<Happened> {
    let mut checks = Checks::default();
    let switch = suite.demo.lan.namespace();
    for port in ["evil", "gw"] {
        switch.ip(&format!("link set dev {port} mtu {BEYOND}"))?;
    }
    suite
        .demo
        .evil
        .ip(&format!("link set dev cable0 mtu {BEYOND}"))?;
    // The Gateway's own end still has 1500: what is larger is not received there.
    let (small, kept) = giants(suite, 1500)?;
    checks.hold(kept > 0.5, || {
        format!("at MTU 1500 ws2 kept only {:.0} %", kept * 100.0)
    });
    port_mtu(suite, 9000)?;
    let before = suite.gateway().show()?;
    let (large, kept) = giants(suite, 9000)?;
    checks.hold(kept > 0.5, || {
        format!("at MTU 9000 ws2 kept only {:.0} %", kept * 100.0)
    });
    let after = suite.gateway().show()?;
    let grown = |of: &dyn Fn(&Snapshot) -> u64| of(&after).saturating_sub(of(&before));
    for name in VERDICTS {
        let count = grown(&|now| now.verdicts("lan").get(name).copied().unwrap_or(0));
        checks.hold(count > 0, || format!("none was dropped as {name}"));
    }
    for name in DROPS {
        let count = grown(&|now| now.number(STOLEN, name));
        checks.hold(count > 0, || format!("none of ws4's was {name}"));
    }
    let names = after.names();
    for name in names.iter().filter(|name| !after.in_session(name)) {
        checks.hold(false, || format!("the session of {name} ended"));
    }
    port_mtu(suite, 1500)?;
    suite.demo.evil.ip("link set dev cable0 mtu 1500")?;
    for port in ["evil", "gw"] {
        suite
            .demo
            .lan
            .namespace()
            .ip(&format!("link set dev {port} mtu 1500"))?;
    }
    checks.end(
        small + large,
        format!("{small} at a port of MTU 1500, {large} at one of 9000; every session is there"),
    )
}

/// Gives the Gateway's port another MTU, and waits until both can use it again.
fn port_mtu(suite: &mut Suite<'_>, mtu: u32) -> Result<()> {
    let gateway = suite.gateway().namespace();
    gateway.ip(&format!("link set dev lan mtu {mtu}"))?;
    until_it_reaches(suite)?;
    suite.rogue()?.connect()?;
    Ok(())
}

/// A second and a half of them, and what part of its goodput ws2 kept meanwhile.
fn giants(suite: &mut Suite<'_>, mtu: usize) -> Result<(u64, f64)> {
    let mut writer = frames(suite, mtu)?;
    let bounds = Bounds {
        frames: u64::MAX,
        time: Duration::from_millis(1500),
        rate: 10_000,
    };
    let (start, received) = (Instant::now(), suite.stream.received());
    let sent = flood(&suite.wire, bounds, &mut writer);
    let kept = suite.goodput_since(received, start);
    Ok((sent, kept))
}

/// Of each kind some of the port's size, and some beyond it, byte by byte and by far.
fn frames(suite: &mut Suite<'_>, mtu: usize) -> Result<Writer> {
    let sealer = suite.rogue()?.session()?;
    let known = suite.known.clone();
    let mut noise = Noise::new(43);
    let source = [10, 152, 152, 99].into();
    // Denied by ws4's rules, were it opened.
    let denied = inner::udp4(sealer.v4, GATEWAY_V4, 4444, &vec![7; LARGE - 28]);
    Ok(Box::new(move |number, buffer| {
        let (to, own) = (known.gateway, known.own);
        let length = LARGE as u16;
        *buffer = match number % 9 {
            0 => ethernet(
                to,
                own,
                0x0800,
                &udp_v4(source, GATEWAY_V4, 9050, &[0; LARGE]),
            ),
            1 => ethernet(
                BROADCAST,
                own,
                0x0800,
                &udp_v4(source, GATEWAY_V4, 9050, &[0; LARGE]),
            ),
            2 => {
                let index = (noise.next() as u32).max(1);
                let header = Header::new(kind::DATA, length, index, number);
                portcullis(to, own, &header, &[0; LARGE + 16])
            }
            3 => {
                let mut header = known.header();
                header.length = length;
                header.tag = noise.next();
                portcullis(to, known.victim, &header, &[0; LARGE + 16])
            }
            // Authentic, and thirty times as long behind its end.
            4 => {
                let mut frame = sealer.seal(&inner::udp4(sealer.v4, GATEWAY_V4, 4444, &[7; 200]));
                frame.resize(14 + LARGE, 0xee);
                frame
            }
            5 => sealer.seal(&denied),
            6 => sealer.garbage(LARGE, &mut noise),
            // Says that it is longer than it is.
            7 => {
                let mut frame = sealer.garbage(9216, &mut noise);
                frame.truncate(14 + LARGE);
                frame
            }
            _ => {
                let beyond = 1 + number as usize / 9 % (BEYOND as usize - mtu).min(80);
                ethernet(to, own, 0x0800, &vec![0x45; mtu + beyond])
            }
        };
    }))
}
