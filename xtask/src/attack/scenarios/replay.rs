//! Replay at every distance from the newest frame, within the window and as far again beyond it: in the attacker's own
//! session, to the Gateway; and of the Gateway's frames, to ws2.

use std::time::Duration;

use anyhow::Result;
use wire::limits::REPLAY_WINDOW;

use super::{Checks, opened};
use crate::attack::ground::Ground;
use crate::attack::history::DISTANCES;
use crate::attack::inner;
use crate::attack::outcome::Happened;
use crate::attack::sender::{Bounds, flood};
use crate::attack::suite::Suite;
use crate::report::count;
use crate::rig::{GATEWAY_V4, Snapshot, wait_for};

/// Slow enough that no frame finds ws4's credit used up.
fn gently(frames: u64) -> Bounds {
    Bounds {
        frames,
        time: Duration::from_secs(10),
        rate: 20_000,
    }
}

/// The newest counter first, then half of the distances behind it, then twice all of them: late ones are opened,
/// once, and only within the window.
pub(super) fn own_counters(suite: &mut Suite<'_>) -> Result<Happened> {
    const NEWEST: u64 = 100_000;
    let sealer = suite.rogue()?.connect()?;
    let packet = inner::udp4(sealer.v4, GATEWAY_V4, 4444, b"late");
    let before = suite.gateway().show()?;
    let odd = (1..DISTANCES).step_by(2);
    let order: Vec<u64> = [0]
        .into_iter()
        .chain(odd)
        .chain(0..DISTANCES)
        .chain(0..DISTANCES)
        .collect();
    let sent = flood(&suite.wire, gently(order.len() as u64), |number, buffer| {
        *buffer = sealer.seal_at(NEWEST - order[number as usize], &packet);
    });
    let refused = |now: &Snapshot, verdict: &str| {
        let count = |of: &Snapshot| of.verdicts("lan").get(verdict).copied().unwrap_or(0);
        count(now).saturating_sub(count(&before))
    };
    let ended =
        |now: &Snapshot| opened(now).saturating_sub(opened(&before)) + refused(now, "replay");
    let mut after = suite.gateway().show()?;
    let all = wait_for(
        "all of ws4's frames to have ended",
        Duration::from_secs(5),
        || {
            after = suite.gateway().show().ok()?;
            (ended(&after) >= sent).then_some(())
        },
    );
    let count_opened = opened(&after).saturating_sub(opened(&before));
    let mut checks = Checks::default();
    checks.hold(count_opened == REPLAY_WINDOW, || {
        format!("{count_opened} frames were opened, and {REPLAY_WINDOW} have a place in the window")
    });
    checks.hold(all.is_ok(), || {
        format!(
            "of {sent} frames only {} were opened or dropped as replay",
            ended(&after)
        )
    });
    suite.rogue()?.connect()?;
    checks.end(
        sent,
        format!(
            "{} opened, {} replay",
            count(count_opened),
            count(refused(&after, "replay"))
        ),
    )
}

/// What the Gateway has sent ws2, from the newest on to what is far out of the window, several times over.
pub(super) fn to_victim(suite: &mut Suite<'_>) -> Result<Happened> {
    suite.listen(DISTANCES)?;
    let before = suite.at_agent()?;
    let heard = suite.known.to_victim.clone();
    let mut times = vec![0u64; DISTANCES as usize];
    let mut next = 0;
    let bounds = Bounds {
        frames: 4 * DISTANCES,
        time: Duration::from_secs(4),
        rate: 50_000,
    };
    let sent = flood(&suite.wire, bounds, |_, buffer| {
        let history = heard.now();
        let mut turn = (0..DISTANCES).map(|step| (next + step) % DISTANCES);
        let Some(distance) = turn.find(|distance| history.behind(*distance).is_some()) else {
            return;
        };
        times[distance as usize] += 1;
        next = distance + 1;
        buffer.clear();
        buffer.extend(history.behind(distance).unwrap_or_default());
    });
    let seen = suite.at_agent()?.since(&before);
    let covered = times.iter().filter(|times| **times > 0).count() as u64;
    let replays = seen.by_verdict.get("replay").copied().unwrap_or(0);
    let mut checks = Checks::from(seen.broken);
    checks.hold(covered == DISTANCES, || {
        format!("only {covered} of {DISTANCES} distances were sent")
    });
    checks.hold(replays + seen.lost + sent / 50 + 100 >= sent, || {
        format!(
            "of {sent} frames {:?}, {} lost on the way",
            seen.by_verdict, seen.lost
        )
    });
    checks.hold(seen.failed <= seen.lost, || {
        format!("{} frames got as far as ws2's AEAD", seen.failed)
    });
    let least = times.iter().min().copied().unwrap_or(0);
    checks.end(
        sent,
        format!(
            "every distance from 0 to {} {least} times at least, {} replay",
            DISTANCES - 1,
            count(replays)
        ),
    )
}
