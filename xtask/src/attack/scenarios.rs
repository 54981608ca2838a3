//! Attacks in steps: what cannot be told as a stream of frames.

pub(super) mod handshake;
mod jumbo;
mod outage;
mod padding;
mod replay;
pub(super) mod session;
mod timing;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::ground::Ground;
use super::outcome::Happened;
use super::sender::{Bounds, flood};
use super::suite::{STOLEN, Suite};
use crate::rig::{PacketSocket, Snapshot, pause};

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
        run: handshake::replay_while_it_rekeys,
    },
    Scenario {
        name: "Hellos and Initiations under ws4's keys from ever other addresses",
        holds: "at most 200 answers a second and as many at once; ws2 rekeys",
        hub: false,
        keeps: 0.5,
        run: handshake::handshakes_under_good_keys,
    },
    Scenario {
        name: "Hellos at line rate under ws4's keys, and genuine Initiations with right cookies among them",
        holds: "at most 200 answers a second and as many at once, Responses among them; ws2 rekeys",
        hub: false,
        keeps: 0.5,
        run: handshake::with_right_cookies,
    },
    Scenario {
        name: "counters of ws4's session at every distance from 0 to 16384, late and again",
        holds: "each of the 8192 in the window opens once, none beyond",
        hub: false,
        keeps: 0.5,
        run: replay::own_counters,
    },
    Scenario {
        name: "the Gateway's Data to ws2 again, at every distance from 0 to 16384",
        holds: "ws2 drops it as replay and opens nothing twice; its session goes on",
        hub: true,
        keeps: 0.5,
        run: replay::to_victim,
    },
    Scenario {
        name: "padding behind ws4's packets and frames: none to 64 bytes, zeros and others",
        holds: "no packet comes out longer than its IP header says, or other than it was",
        hub: false,
        keeps: 0.5,
        run: padding::stays_behind,
    },
    Scenario {
        name: "Hello amplification",
        holds: "the Gateway answers with no more frames and no more bytes than it got",
        hub: false,
        keeps: 0.5,
        run: handshake::amplification,
    },
    Scenario {
        name: "no answer to whom it does not know",
        holds: "not one frame comes back for a frame without a right tag",
        hub: false,
        keeps: 0.0,
        run: handshake::silence,
    },
    Scenario {
        name: "slow drip: handshakes that are never finished",
        holds: "ws4's own session goes on until a new one is proven; a finished one works",
        hub: false,
        keeps: 0.5,
        run: |suite| handshake::half_open(suite),
    },
    Scenario {
        name: "counter exhaustion: the last counter there is, then lower ones",
        holds: "it ends the attacker's own session, and a new handshake makes another",
        hub: false,
        keeps: 0.5,
        run: |suite| session::last_counter(suite),
    },
    Scenario {
        name: "PING and RekeyInit without pause in a session",
        holds: "at most 10 PONGs and 2 rekeys a second; ws2 rekeys",
        hub: false,
        keeps: 0.5,
        run: |suite| session::control_flood(suite),
    },
    Scenario {
        name: "a clone: two hosts with the same keys",
        holds: "the newer proven session counts, the older ends; ws2 does not notice",
        hub: false,
        keeps: 0.5,
        run: session::two_with_the_same_keys,
    },
    Scenario {
        name: "is there a ws2? packets to its address and to nobody's",
        holds: "no answer to either",
        hub: false,
        keeps: 0.5,
        run: |suite| session::probing(suite),
    },
    Scenario {
        name: "is there a ws3? how and how fast ws4 is answered with it idle, busy and turned off",
        holds: "the same answers, of the same types and lengths; silence about ws3",
        hub: false,
        keeps: 0.5,
        run: timing::is_there_another,
    },
    Scenario {
        name: "jumbo frames: beyond the MTU, and up to 9000 bytes and beyond on a port of MTU 9000",
        holds: "dropped as small ones are; no session ends, and ws2 keeps half of its goodput under them",
        hub: true,
        keeps: 0.0,
        run: jumbo::jumbo,
    },
    Scenario {
        name: "disabled in the middle of its own flood",
        holds: "nothing is opened once the call has returned",
        hub: false,
        keeps: 0.5,
        run: |suite| session::disabled_under_flood(suite),
    },
    Scenario {
        name: "a stolen CAM entry: ws2's and the Gateway's address at another port of the switch",
        holds: "no session ends; ws2 reaches the Gateway within 2 s of the last such frame",
        hub: false,
        keeps: 0.0,
        run: outage::stolen_addresses,
    },
    Scenario {
        name: "the daemon is dead",
        holds: "the wall drops everything; ws2 is back within 5 s of the restart",
        hub: false,
        keeps: 0.0,
        run: outage::without_a_daemon,
    },
    Scenario {
        name: "restart race: everything old at line rate while the daemon comes up",
        holds: "nothing old is opened; ws2 is back within 5 s",
        hub: false,
        keeps: 0.0,
        run: outage::restart_race,
    },
    Scenario {
        name: "the Gateway's own Resets of a former start, which ws2 has never heard",
        holds: "ws2 begins no handshake and keeps its session",
        hub: false,
        keeps: 0.0,
        run: outage::old_resets,
    },
];

/// Checks, of which the false ones are told.
#[derive(Default)]
pub(super) struct Checks(Vec<String>);

/// With what is known not to have held.
impl std::convert::From<Vec<String>> for Checks {
    fn from(broken: Vec<String>) -> Self {
        Self(broken)
    }
}

impl Checks {
    pub(super) fn hold(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    pub(super) fn end(self, sent: u64, text: String) -> Result<Happened> {
        Ok(Happened {
            sent,
            text,
            broken: self.0,
        })
    }
}

/// A flood from a thread of its own until the body is done, ten seconds at most.
pub(super) fn meanwhile<R>(
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
pub(super) fn rekeys(ground: &mut dyn Ground) -> Result<()> {
    for _ in 0..3 {
        ground.victim()?.rekey()?;
        pause(Duration::from_millis(200))?;
    }
    Ok(())
}

/// Floods while the victim rekeys, for a second at least.
fn flood_while_it_rekeys(
    ground: &mut dyn Ground,
    writer: super::Writer,
) -> Result<(u64, Result<()>)> {
    let socket = ground.sender()?;
    meanwhile(&socket, writer, || {
        pause(Duration::from_millis(400))?;
        Ok(rekeys(ground))
    })
}

/// Frames of the attacker's own Workstation that were opened.
pub(super) fn opened(snapshot: &Snapshot) -> u64 {
    snapshot.number(STOLEN, "opened")
}
