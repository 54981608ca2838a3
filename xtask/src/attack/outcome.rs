//! Where an attack's frames ended, and whether that is where they must.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::stream::{Attack, From};
use crate::report::count;
use crate::rig::{Gateway, Snapshot, pause};

/// Where the frames of one attack ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The attack.
    pub name: &'static str,
    /// What had to hold, beside what always has to: nothing in any kernel, and no frame unaccounted for.
    pub holds: String,
    /// Whether all of it did.
    pub held: bool,
    /// What was sent.
    pub frames: String,
    /// What happened.
    pub happened: String,
    /// Frames that left the attacker.
    pub sent: u64,
    /// Frames a second that left the attacker.
    pub sent_per_second: f64,
    /// Frames dropped by verdict on the Gateway's port, or by ws2's where they went to it; under ws4's keys, by its worker.
    pub dropped: u64,
    /// The same by verdict or reason.
    pub by_verdict: BTreeMap<String, u64>,
    /// Frames the Gateway's end of the cable had no room for: they reached nothing.
    pub lost_on_the_way: u64,
    /// Frames that the AEAD refused; under ws4's keys, those it opened (they are authentic).
    pub reached_aead: u64,
    /// Frames of any kind that entered the Gateway's kernel from the LAN, and packets from inside
    /// that left the tunnel there.
    pub reached_kernel: u64,
    /// Frames of any kind that entered a Workstation's kernel from the LAN.
    pub reached_workstation: u64,
    /// The victim's goodput while it ran, as a part of what it was before.
    pub victim_goodput: f64,
    /// What did not hold; empty when all did.
    pub broken: Vec<String>,
}

impl Outcome {
    /// What most of its frames died of.
    pub fn reasons(&self, most: usize) -> String {
        let mut reasons: Vec<_> = self.by_verdict.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let names = reasons.into_iter().map(|(name, _)| name.as_str());
        names.take(most).collect::<Vec<_>>().join(", ")
    }

    /// How a stream of frames ended.
    fn ended(&self) -> String {
        let mut reasons: Vec<_> = self.by_verdict.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons = reasons.into_iter();
        let mut parts: Vec<String> = reasons
            .map(|(name, number)| format!("{} {name}", count(*number)))
            .collect();
        if self.lost_on_the_way > 0 {
            parts.push(format!("{} lost on the way", count(self.lost_on_the_way)));
        }
        parts.join(", ")
    }

    /// Ends the report. It says that all held only if something was sent, and if nothing is left unsaid.
    pub(super) fn close(&mut self) {
        if self.sent == 0 {
            self.broken.push("nothing could be sent".into());
        }
        let texts = [
            ("what must hold", &self.holds),
            ("what was sent", &self.frames),
            ("what happened", &self.happened),
        ];
        let empty = texts.iter().filter(|(_, text)| text.trim().is_empty());
        let unsaid: Vec<String> = empty
            .map(|(what, _)| format!("the report does not say {what}"))
            .collect();
        self.broken.extend(unsaid);
        self.held = self.broken.is_empty();
    }
}

/// The shortest and the longest of some frames.
#[derive(Default)]
pub(super) struct Lengths(Option<(usize, usize)>);

impl Lengths {
    /// One more.
    pub(super) fn add(&mut self, length: usize) {
        let (least, most) = self.0.unwrap_or((length, length));
        self.0 = Some((least.min(length), most.max(length)));
    }

    /// What was sent, in words; nothing when nothing was.
    pub(super) fn of(&self, sent: u64, from: From) -> String {
        let Some((least, most)) = self.0 else {
            return String::new();
        };
        let lengths = match least == most {
            true => most.to_string(),
            false => format!("{least} to {most}"),
        };
        format!("{} frames of {lengths} bytes, {from}", count(sent))
    }
}

/// An attack in steps says how it went.
pub struct Happened {
    /// Frames sent.
    pub sent: u64,
    /// What happened, in a sentence.
    pub text: String,
    /// What did not hold.
    pub broken: Vec<String>,
}

/// Judges how a stream of frames ended. Frames with the verdicts `beside` are not the attack's own;
/// `others_failed` were forged and got as far as another's AEAD.
pub(super) fn judge(attack: &Attack, beside: &[&str], outcome: &mut Outcome, others_failed: u64) {
    let mut broken = std::mem::take(&mut outcome.broken);
    let mut hold = |holds: bool, sentence: String| {
        if !holds {
            broken.push(sentence);
        }
    };
    let expected: u64 = attack
        .verdicts
        .iter()
        .filter_map(|verdict| outcome.by_verdict.get(*verdict))
        .sum();
    hold(
        expected > 0,
        format!("no frame was dropped as {}", attack.verdicts.join(" or ")),
    );
    let others = outcome.by_verdict.iter().filter(|(verdict, _)| {
        let verdict = verdict.as_str();
        !attack.verdicts.contains(&verdict) && !beside.contains(&verdict)
    });
    let unexpected: u64 = others.map(|(_, count)| count).sum();
    hold(
        unexpected <= outcome.sent / 50 + 100,
        format!(
            "{unexpected} frames were dropped, but not as {}",
            attack.verdicts.join(" or ")
        ),
    );
    let lost = if attack.races {
        outcome.lost_on_the_way
    } else {
        0
    };
    hold(
        others_failed <= lost,
        format!("{others_failed} forged frames got as far as another's AEAD"),
    );
    // Counters are read while the victim's own traffic goes on, hence a little room.
    let known = outcome.dropped + outcome.lost_on_the_way;
    hold(
        known + outcome.sent / 50 + 100 >= outcome.sent,
        format!(
            "{} frames were sent and only {known} accounted for",
            outcome.sent
        ),
    );
    outcome.broken = broken;
    outcome.happened = outcome.ended();
}

/// That a victim was left too little.
pub(super) fn kept(victim: &str, goodput: f64) -> String {
    format!("{victim} kept only {:.0} % of its goodput", goodput * 100.0)
}

/// The counters once they stand still: frames can be on their way when the sender stops.
pub(super) fn counted(
    gateway: &Gateway,
    port: &str,
    before: &Snapshot,
    sent: u64,
) -> Result<Snapshot> {
    let dropped = |snapshot: &Snapshot| -> u64 {
        let delta = difference(&before.verdicts(port), &snapshot.verdicts(port));
        let refused = delta.iter().filter(|(name, _)| *name != "admitted");
        refused.map(|(_, count)| count).sum()
    };
    let start = Instant::now();
    let mut last = gateway.show()?;
    loop {
        pause(Duration::from_millis(50))?;
        let now = gateway.show()?;
        let (count, previous) = (dropped(&now), dropped(&last));
        if count >= sent || count == previous {
            return Ok(now);
        }
        if start.elapsed() > Duration::from_secs(5) {
            bail!("the Gateway's counters still rise five seconds after the attack");
        }
        last = now;
    }
}

/// Frames that an AEAD refused, of everybody.
pub(super) fn open_failures(snapshot: &Snapshot) -> u64 {
    let names = snapshot.names();
    names
        .iter()
        .map(|name| snapshot.number(name, "open_failed"))
        .sum()
}

/// What has grown, by name.
pub(super) fn difference(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    after
        .iter()
        .map(|(name, count)| {
            let old = before.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(old))
        })
        .filter(|(_, grown)| *grown > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            name: "noise",
            holds: "dropped as foreign".into(),
            held: false,
            frames: "100 frames of 60 bytes, without a session".into(),
            happened: "100 foreign".into(),
            sent: 100,
            sent_per_second: 100.0,
            dropped: 100,
            by_verdict: [("foreign".to_owned(), 100)].into(),
            lost_on_the_way: 0,
            reached_aead: 0,
            reached_kernel: 0,
            reached_workstation: 0,
            victim_goodput: 1.0,
            broken: Vec::new(),
        }
    }

    #[test]
    fn a_report_that_leaves_something_unsaid_has_not_held() {
        let mut whole = outcome();
        whole.close();
        assert!(whole.held, "{:?}", whole.broken);
        let empty: [fn(&mut Outcome); 4] = [
            |outcome| outcome.holds.clear(),
            |outcome| outcome.frames = " ".into(),
            |outcome| outcome.happened.clear(),
            |outcome| outcome.sent = 0,
        ];
        for take in empty {
            let mut outcome = outcome();
            take(&mut outcome);
            outcome.close();
            assert_eq!((outcome.held, outcome.broken.len()), (false, 1));
        }
    }

    #[test]
    fn a_stream_is_told_by_lengths_and_by_what_its_frames_ended_as() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.of(0, From::Cable), "");
        lengths.add(60);
        assert_eq!(
            lengths.of(1, From::AsGateway),
            "1 frames of 60 bytes, to ws2"
        );
        lengths.add(1514);
        let both = "2,000 frames of 60 to 1514 bytes, under ws4's keys";
        assert_eq!(lengths.of(2000, From::Keys), both);
        let mut outcome = outcome();
        outcome.by_verdict.insert("short".into(), 2000);
        outcome.lost_on_the_way = 3;
        assert_eq!(
            outcome.ended(),
            "2,000 short, 100 foreign, 3 lost on the way"
        );
    }
}
