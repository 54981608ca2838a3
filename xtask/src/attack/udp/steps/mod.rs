//! Attacks over networks in steps: what cannot be told as a stream of frames.

mod elsewhere;
mod handshake;
mod path;
mod session;
mod workstation;

use std::time::Duration;

use anyhow::Result;
use wire::kind;

use super::suite::Remote;
use crate::attack::frame::header_of;
use crate::attack::outcome::Happened;
use crate::attack::scenarios;
use crate::middlebox::Impairment;
use crate::rig::{Capture, PacketKind, pause};

/// An attack in steps.
pub struct Step {
    /// What it is called in the table.
    pub name: &'static str,
    /// What must hold.
    pub holds: &'static str,
    /// What part of their probes ws1 and ws2 keep.
    pub keeps: [f64; 2],
    /// Whether ws1's session goes on, where it was.
    pub goes_on: bool,
    /// Whether the Gateway may send anything to addresses that it does not know.
    pub answered: bool,
    /// Its steps.
    pub run: fn(&mut Remote) -> Result<Happened>,
}

const fn step(
    name: &'static str,
    holds: &'static str,
    keeps: f64,
    run: fn(&mut Remote) -> Result<Happened>,
) -> Step {
    Step {
        name,
        holds,
        keeps: [keeps, 0.9],
        goes_on: true,
        answered: false,
        run,
    }
}

const fn answered(mut step: Step) -> Step {
    step.answered = true;
    step
}

/// They; those after which ws1 has another session come last.
pub const STEPS: &[Step] = &[
    step(
        "counters at every distance: newest, late, at the window's edge, beyond it, and all again",
        "each opens once, none that is 8192 or more behind the newest",
        0.9,
        session::distances,
    ),
    step(
        "another frame under each counter of ws4's session, as two copies of one machine seal them",
        "told as nonce_reused; the session ends, and a new handshake makes another",
        0.9,
        session::nonces_again,
    ),
    step(
        "ws1's datagrams held back, and delivered from everywhere after newer ones",
        "each opens once, no answer leaves the way to ws1",
        0.9,
        path::delivered_late,
    ),
    answered(step(
        "ws1's datagrams held back, and delivered from elsewhere first",
        "no more answers go astray than datagrams came, none after ws1's next own, within 3 s it is seen at home",
        0.7,
        path::delivered_first,
    )),
    step(
        "ws1's datagrams held back, and delivered with a bit changed before they are as they were",
        "no changed one opens, each other one does, no answer leaves the way to ws1",
        0.9,
        path::changed_first,
    ),
    step(
        "ws1's datagrams of before a rekey, delivered from everywhere after it",
        "each opens once, no answer leaves the way to ws1",
        0.9,
        path::delivered_after_a_rekey,
    ),
    step(
        "a storm: datagrams doubled, lost, held back and overtaken, while ws1 rekeys",
        "ws1 rekeys three times, no datagram fails to open",
        0.8,
        path::storm,
    ),
    step(
        "all that ws1 has sent, again, while it rekeys",
        "ws1 rekeys three times",
        0.3,
        path::replay_while_it_rekeys,
    ),
    answered(step(
        "ws1's Hello from everywhere without pause",
        "at most 200 answers a second and as many at once; ws1 rekeys, and ws4 gets a session",
        0.9,
        handshake::hellos_from_everywhere,
    )),
    answered(step(
        "amplification: Hellos, Initiations, Data and noise, each as if from another host",
        "nobody gets more frames or bytes than were sent in its name",
        0.9,
        handshake::amplification,
    )),
    step(
        "a Challenge taken to another port, address and IP version",
        "no session comes of it, and no answer; from its own address one does",
        0.9,
        handshake::cookie_elsewhere,
    ),
    step(
        "Resets, Challenges, Responses and old Data to ws1, under its own keys and from the Gateway's address",
        "ws1 begins no handshake and opens nothing twice",
        0.9,
        workstation::lies,
    ),
    step(
        "ICMP errors to ws1: unreachable, fragmentation needed, redirects",
        "its tunnel keeps its MTU and carries full packets",
        0.9,
        workstation::errors,
    ),
    step(
        "questions for the Gateway's hardware address without pause, from one station and from ever others",
        "one station is answered 20 times a second and 40 at once; the router finds the Gateway",
        0.9,
        elsewhere::questions,
    ),
    step(
        "ws4's last counter there is over networks, then lower ones",
        "it ends the attacker's own session, and a new handshake makes another",
        0.9,
        |remote| scenarios::session::last_counter(remote),
    ),
    step(
        "slow drip over networks: handshakes that are never finished",
        "ws4's own session goes on until a new one is proven; a finished one works",
        0.9,
        |remote| scenarios::handshake::half_open(remote),
    ),
    step(
        "PING and RekeyInit without pause in ws4's session over networks",
        "at most 10 PONGs and 2 rekeys a second; ws1 rekeys",
        0.9,
        |remote| scenarios::session::control_flood(remote),
    ),
    step(
        "packets from ws4's session to ws2's inner address and to nobody's",
        "no answer to either",
        0.9,
        |remote| scenarios::session::probing(remote),
    ),
    step(
        "ws4 disabled in the middle of its own flood over networks",
        "nothing is opened once the call has returned",
        0.9,
        |remote| scenarios::session::disabled_under_flood(remote),
    ),
    answered(step(
        "ws4's session as if from somebody else, and from ws1's own address and port",
        "at most 10 answers a second go there; ws1 does not notice",
        0.9,
        session::pointed_at_others,
    )),
    step(
        "ws4's session by way of groups' MAC addresses, broadcast and none",
        "the Gateway sends to no such address",
        0.9,
        session::by_way_of_groups,
    ),
    Step {
        keeps: [0.0, 0.9],
        goes_on: false,
        answered: false,
        ..step(
            "ws1's Initiations copied from elsewhere, faster than its own",
            "nothing comes of the copies; ws1 is back within 10 s of the last",
            0.0,
            handshake::faster_initiations,
        )
    },
    Step {
        keeps: [0.0; 2],
        goes_on: false,
        answered: false,
        ..step(
            "the daemon is dead, and everything is sent to its port",
            "the wall drops everything; ws1 is back within 7 s of the restart",
            0.0,
            elsewhere::without_a_daemon,
        )
    },
];

/// Data that ws1 sends while nothing of it arrives, and what `then` does with it before the way is free again.
fn held_back<R>(
    remote: &Remote,
    time: Duration,
    then: impl FnOnce(&[Vec<u8>]) -> Result<R>,
) -> Result<(Vec<Vec<u8>>, R)> {
    let middlebox = &remote.networks.middlebox;
    middlebox.impair(Impairment {
        cut: true,
        ..Impairment::default()
    });
    // What the box had read already.
    pause(Duration::from_millis(20))?;
    let leaves = Capture::filtered(&remote.networks.home, Some("hw"), 4096, |frame| {
        frame.kind == PacketKind::Outgoing
            && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::DATA)
    })?;
    pause(time)?;
    leaves.settle()?;
    let frames: Vec<Vec<u8>> = leaves.take().into_iter().map(|f| f.bytes).collect();
    let result = then(&frames);
    middlebox.impair(Impairment::default());
    Ok((frames, result?))
}
