//! Inside the session of a compromised Workstation: its counters, and where it says that it is.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::{BROADCAST, REPLAY_WINDOW};

use crate::attack::frame::{Mac, Noise};
use crate::attack::ground::Ground;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::scenarios::{Checks, opened};
use crate::attack::suite::STOLEN;
use crate::attack::udp::outer::{from, inside};
use crate::attack::udp::suite::Remote;
use crate::rig::{Capture, GATEWAY_V4, PacketKind, pause};

pub(super) fn distances(remote: &mut Remote) -> Result<Happened> {
    const NEWEST: u64 = 100_000;
    let sealer = remote.rogue.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"late");
    let before = opened(&remote.gateway().show()?);
    let late = [
        1,
        2,
        100,
        REPLAY_WINDOW / 2,
        REPLAY_WINDOW - 2,
        REPLAY_WINDOW - 1,
    ];
    let beyond = [
        REPLAY_WINDOW,
        REPLAY_WINDOW + 1,
        2 * REPLAY_WINDOW,
        NEWEST - 1,
    ];
    let mut sent = 0;
    // All of it twice.
    for behind in [0].into_iter().chain(late).chain(beyond).cycle().take(22) {
        let frame = sealer.seal_at(NEWEST - behind, &packet);
        sent += u64::from(remote.wire.send(&frame));
        pause(Duration::from_millis(2))?;
    }
    pause(Duration::from_millis(200))?;
    let opened = opened(&remote.gateway().show()?) - before;
    let mut checks = Checks::default();
    checks.hold(opened == 1 + late.len() as u64, || {
        format!("{opened} frames opened of {} that were to", 1 + late.len())
    });
    remote.rogue.connect()?;
    checks.end(sent, format!("{opened} of {sent} opened"))
}

/// What two copies of a machine do: another frame under each counter.
pub(super) fn nonces_again(remote: &mut Remote) -> Result<Happened> {
    let sealer = remote.rogue.connect()?;
    let packets = [b"one", b"two"].map(|text| inner::udp4(sealer.v4, GATEWAY_V4, 4444, text));
    let reused = |remote: &Remote| -> Result<u64> {
        let drops = remote.gateway().show()?.drops(STOLEN);
        Ok(drops.get("nonce_reused").copied().unwrap_or(0))
    };
    let before = reused(remote)?;
    let mut sent = 0;
    let mut both = |remote: &Remote, counter: u64| -> Result<()> {
        for packet in &packets {
            sent += u64::from(remote.wire.send(&sealer.seal_at(counter, packet)));
        }
        pause(Duration::from_millis(5))
    };
    (1..=4).try_for_each(|counter| both(remote, counter))?;
    pause(Duration::from_millis(300))?;
    let told = reused(remote)? - before;
    let ended = opened(&remote.gateway().show()?);
    (5..=8).try_for_each(|counter| both(remote, counter))?;
    pause(Duration::from_millis(100))?;
    let after = opened(&remote.gateway().show()?) - ended;
    let mut checks = Checks::default();
    checks.hold(told > 0, || "no nonce was seen to be used again".into());
    checks.hold(after == 0, || {
        format!("{after} more frames of the session were opened")
    });
    remote.rogue.connect()?;
    checks.end(
        sent,
        format!("{told} of {sent} told as nonce_reused, and the session ended"),
    )
}

pub(super) fn by_way_of_groups(remote: &mut Remote) -> Result<Happened> {
    let macs: [Mac; 4] = [
        BROADCAST,
        [1, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        [0; 6],
    ];
    let mut sent = 0;
    for mac in macs {
        let sealer = remote.rogue.connect()?;
        let mut outer = sealer.outer;
        outer.mac = mac;
        for value in 0..5 {
            let ping = [&[3, 0, 0, 0, 0, 0, 0, 0][..], &[value; 16]].concat();
            sent += u64::from(remote.wire.send(&outer.wrap(inside(&sealer.seal(&ping)))));
            pause(Duration::from_millis(20))?;
        }
    }
    remote.rogue.connect()?;
    Checks::default().end(
        sent,
        format!("{sent} PINGs from {} such addresses", macs.len()),
    )
}

/// PINGs without pause, as if from the hosts that are to get the answers.
pub(super) fn pointed_at_others(remote: &mut Remote) -> Result<Happened> {
    let sealer = remote.rogue.connect()?;
    let stranger = from(&remote.known, ([44, 0, 0, 3], 53).into());
    let outers = [stranger, remote.known.as_victim()];
    let answers = Capture::filtered(&remote.networks.internet, Some("ig"), 0, |frame| {
        frame.kind == PacketKind::Incoming && frame.bytes.get(30..34) == Some(&[44, 0, 0, 3])
    })?;
    let mut noise = Noise::new(90);
    let start = Instant::now();
    let mut sent = 0;
    for outer in outers {
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            let mut message = vec![3, 0, 0, 0, 0, 0, 0, 0];
            message.resize(1200, 0);
            noise.fill(&mut message[8..24]);
            let frame = outer.wrap(inside(&sealer.seal(&message)));
            sent += u64::from(remote.wire.send(&frame));
            pause(Duration::from_micros(500))?;
        }
    }
    let time = start.elapsed().as_secs_f64();
    answers.settle()?;
    let got = answers.incoming();
    let most = (10.0 * (time + 1.0)) as u64 + 10;
    let mut checks = Checks::default();
    checks.hold(got > 0, || {
        "not one PONG went where it was asked from".into()
    });
    checks.hold(got <= most, || format!("{got} answers in {time:.1} s"));
    remote.rogue.connect()?;
    checks.end(
        sent,
        format!("{got} answers to {sent} PINGs in {time:.1} s"),
    )
}
