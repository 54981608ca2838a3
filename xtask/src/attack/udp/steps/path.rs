//! On the path of ws1: what it sends is held back, copied, doubled and lost.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::limits::HEADER_LEN;

use super::held_back;
use crate::attack::frame::{Noise, Outer};
use crate::attack::ground::Ground;
use crate::attack::outcome::Happened;
use crate::attack::scenarios::{Checks, meanwhile, rekeys};
use crate::attack::stream::cycle;
use crate::attack::udp::outer::{anywhere, from, inside};
use crate::attack::udp::suite::Remote;
use crate::middlebox::Impairment;
use crate::rig::{Capture, PacketKind, PacketSocket, pause, wait_for};

/// Sends each of these again, twice, as if from somewhere.
fn send_from_everywhere(remote: &Remote, frames: &[Vec<u8>]) -> u64 {
    let mut noise = Noise::new(70);
    let again = frames.iter().chain(frames).map(|frame| {
        let outer: Outer = from(&remote.known, anywhere(&mut noise));
        outer.wrap(inside(frame))
    });
    again.map(|frame| u64::from(remote.wire.send(&frame))).sum()
}

fn told(frames: &[Vec<u8>], sent: u64) -> Result<Happened> {
    let mut checks = Checks::default();
    checks.hold(frames.len() > 10, || {
        format!("only {} datagrams were held back", frames.len())
    });
    checks.end(sent, format!("{} held back, each sent twice", frames.len()))
}

pub(super) fn changed_first(remote: &mut Remote) -> Result<Happened> {
    let failed = |remote: &Remote| -> Result<u64> {
        Ok(remote.gateway().show()?.number("ws1", "open_failed"))
    };
    let (frames, ()) = held_back(remote, Duration::from_millis(300), |_| Ok(()))?;
    let before = failed(remote)?;
    let mut noise = Noise::new(71);
    let mut sent = 0;
    for frame in &frames {
        let mut changed = inside(frame).to_vec();
        let bit = noise.below((changed.len() - HEADER_LEN) as u64 * 8) as usize;
        changed[HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        let outer = from(&remote.known, anywhere(&mut noise));
        sent += u64::from(remote.wire.send(&outer.wrap(&changed)));
    }
    pause(Duration::from_millis(100))?;
    let failed = failed(remote)? - before;
    sent += send_from_everywhere(remote, &frames);
    pause(Duration::from_millis(300))?;
    let mut checks = Checks::default();
    checks.hold(failed == frames.len() as u64 && failed > 10, || {
        format!(
            "{failed} of {} changed datagrams failed to open",
            frames.len()
        )
    });
    checks.end(
        sent,
        format!(
            "{failed} changed ones refused, {} as they were",
            frames.len()
        ),
    )
}

/// That what was held back opens is shown by ws1's probes: those are answered that it was lost with otherwise.
pub(super) fn delivered_late(remote: &mut Remote) -> Result<Happened> {
    let (frames, ()) = held_back(remote, Duration::from_millis(300), |_| Ok(()))?;
    pause(Duration::from_millis(100))?;
    let sent = send_from_everywhere(remote, &frames);
    pause(Duration::from_millis(300))?;
    told(&frames, sent)
}

pub(super) fn delivered_after_a_rekey(remote: &mut Remote) -> Result<Happened> {
    let (frames, ()) = held_back(remote, Duration::from_millis(300), |_| Ok(()))?;
    remote.networks.workstation.rekey()?;
    pause(Duration::from_millis(300))?;
    let sent = send_from_everywhere(remote, &frames);
    pause(Duration::from_millis(300))?;
    told(&frames, sent)
}

pub(super) fn delivered_first(remote: &mut Remote) -> Result<Happened> {
    let before = remote.networks.seen_at()?;
    let elsewhere = from(&remote.known, ([44, 0, 0, 1], 4444).into());
    let astray = Capture::filtered(&remote.networks.internet, Some("ig"), 0, |frame| {
        frame.kind == PacketKind::Incoming && frame.bytes.get(30..34) == Some(&[44, 0, 0, 1])
    })?;
    let (frames, sent) = held_back(remote, Duration::from_millis(200), |frames| {
        let each = frames.iter().map(|frame| elsewhere.wrap(inside(frame)));
        let sent = each.map(|frame| u64::from(remote.wire.send(&frame))).sum();
        pause(Duration::from_millis(100))?;
        Ok(sent)
    })?;
    let free = Instant::now();
    pause(Duration::from_millis(100))?;
    astray.settle()?;
    let there = astray.incoming();
    let back = wait_for(
        "ws1 to be seen at home again",
        Duration::from_secs(3),
        || (remote.networks.seen_at().ok()? == before).then_some(()),
    );
    let took = free.elapsed();
    astray.settle()?;
    let later = astray.incoming() - there;
    let mut checks = Checks::default();
    checks.hold(there > 0, || "no datagram moved the session".into());
    checks.hold(there <= sent, || {
        format!("{there} answers to {sent} datagrams")
    });
    checks.hold(later == 0, || {
        format!("{later} answers went astray after ws1's own datagrams")
    });
    checks.hold(back.is_ok(), || "ws1 was not seen at home again".into());
    checks.end(
        sent,
        format!(
            "{there} answers to {} went astray, at home again within {took:.1?}",
            frames.len()
        ),
    )
}

pub(super) fn storm(remote: &mut Remote) -> Result<Happened> {
    let failed = |remote: &Remote| -> Result<u64> {
        Ok(remote.gateway().show()?.number("ws1", "open_failed"))
    };
    let before = failed(remote)?;
    remote.networks.middlebox.impair(Impairment {
        loss: 0.02,
        duplication: 0.5,
        reordering: 0.5,
        hold: Duration::from_millis(40),
        delay: Duration::from_millis(5),
        ..Impairment::default()
    });
    let [there, back] = remote.networks.middlebox.sent();
    let rekeyed = rekeys(remote);
    let paused = pause(Duration::from_millis(1500));
    let now = remote.networks.middlebox.sent();
    remote.networks.middlebox.impair(Impairment::default());
    paused?;
    let failed = failed(remote)? - before;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws1 did not rekey: {rekeyed:?}")
    });
    checks.hold(failed == 0, || format!("{failed} datagrams did not open"));
    let sent = now[0] + now[1] - there - back;
    checks.end(sent, "three rekeys in disorder".into())
}

pub(super) fn replay_while_it_rekeys(remote: &mut Remote) -> Result<Happened> {
    let mut frames = remote.known.handshakes.clone();
    frames.extend(remote.known.data.iter().cloned());
    let newest = Capture::filtered(&remote.networks.internet, Some("ig"), 512, |frame| {
        frame.kind == PacketKind::Outgoing && super::super::suite::is_from_home(&frame.bytes)
    })?;
    pause(Duration::from_millis(500))?;
    frames.extend(newest.take().into_iter().map(|frame| frame.bytes));
    drop(newest);
    let count = frames.len();
    let socket = PacketSocket::sender(&remote.networks.internet, "ig")?;
    let (sent, rekeyed) = meanwhile(&socket, cycle(frames), || Ok(rekeys(remote)))?;
    let mut checks = Checks::default();
    checks.hold(rekeyed.is_ok(), || {
        format!("ws1 did not rekey: {rekeyed:?}")
    });
    checks.end(
        sent,
        format!("{count} datagrams again and again, three rekeys meanwhile"),
    )
}
