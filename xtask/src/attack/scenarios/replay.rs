//! Replay at every distance from the newest frame, within the window and as far again beyond it: in the attacker's own
//! session, to the Gateway; and of the Gateway's frames, to ws2.

use std::time::Duration;

use anyhow::Result;
use wire::limits::REPLAY_WINDOW;

use super::{Checks, opened};
use crate::attack::agent::RATE;
use crate::attack::ground::Ground;
use crate::attack::history::DISTANCES;
use crate::attack::inner;
use crate::attack::outcome::{Happened, difference};
use crate::attack::sender::{Bounds, flood};
use crate::attack::suite::Suite;
use crate::report::count;
use crate::rig::{GATEWAY_V4, Snapshot, transmit_drops, wait_for};

/// Slow enough that hardly a frame finds ws4's credit used up.
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
    let lost = transmit_drops(suite.demo.lan.namespace(), "gw")?;
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
    let mut ended = Ended::default();
    let all = wait_for(
        "all of ws4's frames to have ended",
        Duration::from_secs(5),
        || {
            ended = Ended::since(&before, &suite.gateway().show().ok()?);
            ended.lost = transmit_drops(suite.demo.lan.namespace(), "gw").ok()? - lost;
            (ended.all() >= sent).then_some(())
        },
    );
    let mut checks = Checks::default();
    checks.hold(ended.opened_each_once(), || {
        format!("of {REPLAY_WINDOW} frames with a place in the window {ended:?}")
    });
    checks.hold(all.is_ok(), || format!("of {sent} frames only {ended:?}"));
    suite.rogue()?.connect()?;
    let (opened, replayed) = (count(ended.opened), count(ended.replayed));
    checks.end(sent, format!("{opened} opened, {replayed} replay"))
}

/// What has become of ws4's frames.
#[derive(Debug, Default)]
struct Ended {
    opened: u64,
    replayed: u64,
    /// Past its credit: they have used up their place in the window, and are not opened.
    crowded_out: u64,
    lost: u64,
}

impl Ended {
    fn since(before: &Snapshot, now: &Snapshot) -> Self {
        let verdicts = difference(&before.verdicts("lan"), &now.verdicts("lan"));
        let number = |name: &str| verdicts.get(name).copied().unwrap_or(0);
        Self {
            opened: opened(now).saturating_sub(opened(before)),
            replayed: number("replay"),
            crowded_out: number("queue_full"),
            lost: 0,
        }
    }

    fn all(&self) -> u64 {
        self.opened + self.replayed + self.crowded_out + self.lost
    }

    fn opened_each_once(&self) -> bool {
        let unlucky = self.crowded_out + self.lost;
        self.opened > REPLAY_WINDOW / 2
            && (self.opened..=self.opened + unlucky).contains(&REPLAY_WINDOW)
    }
}

/// What the Gateway has sent ws2, from the newest on to what is far out of the window, several times over.
pub(super) fn to_victim(suite: &mut Suite<'_>) -> Result<Happened> {
    suite.listen(DISTANCES)?;
    let before = suite.at_agent()?;
    let heard = suite.known.to_victim.clone();
    let mut times = vec![0u64; DISTANCES as usize];
    let mut next = 0;
    let bounds = Bounds {
        frames: 2 * DISTANCES,
        time: Duration::from_secs(4),
        rate: RATE,
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
            "every distance from 0 to {}, each {least} times or more; {} replay",
            DISTANCES - 1,
            count(replays)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_opens_one_frame_too_many_or_too_few_is_found_out() {
        let judged = |opened, crowded_out| {
            let ended = Ended {
                opened,
                crowded_out,
                ..Ended::default()
            };
            ended.opened_each_once()
        };
        assert!(judged(REPLAY_WINDOW, 0));
        assert!(!judged(REPLAY_WINDOW + 1, 0) && !judged(REPLAY_WINDOW + 1, 9));
        assert!(!judged(REPLAY_WINDOW - 1, 0) && judged(REPLAY_WINDOW - 1, 1));
        assert!(!judged(0, REPLAY_WINDOW));
    }
}
