//! What a Workstation can tell of another by how, and how fast, it is answered itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Checks;
use crate::attack::frame::{Noise, udp_v4};
use crate::attack::ground::Ground;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::sender::{Bounds, flood};
use crate::attack::suite::{INSIDER, Suite};
use crate::rig::{GATEWAY_V4, HOST_INTERFACE, PacketSocket, pause, wait_for};

/// PINGs and echo requests of one look. The Gateway answers ten PINGs a second.
const PINGS: usize = 8;
const ECHOES: usize = 60;

/// What came back, by what was asked: frames of which types and lengths. How many is a matter of luck on
/// a full cable.
type Answers = BTreeMap<&'static str, BTreeSet<(u8, usize)>>;

struct Look {
    answers: Answers,
    ping: Duration,
    echo: Duration,
    handshake: Duration,
}

pub(super) fn is_there_another(suite: &mut Suite<'_>) -> Result<Happened> {
    let theirs = {
        let all = &suite.demo.workstations;
        let ws3 = all.iter().find(|one| one.name() == INSIDER);
        let ws3 = ws3.with_context(|| format!("no Workstation {INSIDER}"))?;
        (Arc::clone(ws3.namespace()), ws3.address()?)
    };
    let (host, address) = theirs;
    let idle = look(suite, address)?;
    let busy = {
        let socket = PacketSocket::sender(&host, HOST_INTERFACE)?;
        let packet = udp_v4(address, GATEWAY_V4, 9, &[0; 600]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let end = Instant::now() + Duration::from_secs(20);
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    let bounds = Bounds {
                        frames: 1000,
                        time: Duration::from_millis(50),
                        rate: 10_000,
                    };
                    flood(&socket, bounds, |_, buffer| buffer.clone_from(&packet));
                }
            });
            let looked = look(suite, address);
            stop.store(true, Ordering::Relaxed);
            looked
        })?
    };
    suite
        .gateway()
        .cli(&format!("workstation disable {INSIDER}"))?;
    let absent = look(suite, address);
    suite
        .gateway()
        .cli(&format!("workstation enable {INSIDER}"))?;
    let absent = absent?;
    let ws3 = suite
        .demo
        .workstations
        .iter()
        .find(|one| one.name() == INSIDER);
    wait_for("ws3 to be back", Duration::from_secs(15), || {
        let reaches = ws3.is_some_and(|ws3| ws3.reaches(Duration::from_millis(100)));
        reaches.then_some(())
    })?;
    let mut checks = Checks::default();
    for (state, look) in [("busy", &busy), ("turned off", &absent)] {
        checks.hold(look.answers == idle.answers, || {
            format!(
                "with ws3 {state} the answers are {:?}, with it idle {:?}",
                look.answers, idle.answers
            )
        });
    }
    let asked = ["PING", "echo", "handshake"];
    for what in asked {
        checks.hold(!idle.answers[what].is_empty(), || {
            format!("no answer to {what}, so nothing was compared")
        });
    }
    let told = |look: &Look| {
        let micros = [look.ping, look.echo, look.handshake].map(|time| time.as_micros());
        format!("{}/{}/{}", micros[0], micros[1], micros[2])
    };
    checks.end(
        (3 * (PINGS + 2 * ECHOES)) as u64,
        format!(
            "the same answers; median us of PING/echo/handshake: ws3 idle {}, busy {}, turned off {}",
            told(&idle),
            told(&busy),
            told(&absent)
        ),
    )
}

/// Everything that ws4 can ask that concerns another's address, or is timed, with its answers.
fn look(suite: &mut Suite<'_>, other: std::net::Ipv4Addr) -> Result<Look> {
    let mut answers = Answers::new();
    let mut handshakes = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        suite.rogue()?.connect()?;
        handshakes.push(start.elapsed());
        pause(Duration::from_millis(250))?;
    }
    let sealer = suite.rogue()?.session()?;
    answers.insert("handshake", suite.rogue()?.take_answers());

    let mut noise = Noise::new(44);
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        let mut message = vec![3; 24];
        message[1..8].fill(0);
        noise.fill(&mut message[8..]);
        let frame = sealer.seal(&message);
        pings.push(suite.ask(&frame, true)?);
        pause(Duration::from_millis(110))?;
    }
    answers.insert("PING", suite.rogue()?.take_answers());

    // Not known by their hop count: what reaches the Gateway's kernel of these may.
    let mut echo = inner::icmp4(sealer.v4, GATEWAY_V4, 8);
    inner::set_hops(&mut echo, 64);
    let mut echoes = Vec::new();
    for _ in 0..ECHOES {
        echoes.push(suite.ask(&sealer.seal(&echo), true)?);
    }
    answers.insert("echo", suite.rogue()?.take_answers());

    // To its address and about it: nothing is ever said.
    let nobody = other.octets();
    for packet in [
        inner::icmp4(sealer.v4, other, 8),
        inner::udp4(sealer.v4, other, 5353, b"anybody?"),
        inner::v4(sealer.v4, other, 6, (&[], 0, 0), &inner::syn(9050)),
        inner::udp4(other, GATEWAY_V4, 5353, b"as it"),
        inner::udp4(sealer.v4, [10, 152, nobody[2], 251].into(), 5353, b"nobody"),
    ] {
        for _ in 0..ECHOES / 5 {
            suite.ask(&sealer.seal(&packet), false)?;
        }
    }
    suite.rogue()?.pump(Duration::from_millis(100))?;
    answers.insert("of the other", suite.rogue()?.take_answers());
    Ok(Look {
        answers,
        ping: median(pings),
        echo: median(echoes),
        handshake: median(handshakes),
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

impl Suite<'_> {
    /// Sends a frame of ws4's, and waits for an answer where there is to be one; how long that took. What
    /// is not answered in a second is not answered.
    fn ask(&mut self, frame: &[u8], answered: bool) -> Result<Duration> {
        let rogue = self.rogue()?;
        rogue.pump(Duration::ZERO)?;
        let before = rogue.heard_data;
        let start = Instant::now();
        self.wire.send(frame);
        while answered && start.elapsed() < Duration::from_secs(1) {
            let rogue = self.rogue()?;
            rogue.pump(Duration::from_millis(5))?;
            if rogue.heard_data > before {
                break;
            }
        }
        Ok(start.elapsed())
    }
}
