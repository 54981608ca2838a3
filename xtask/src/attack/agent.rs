//! What an attack on ws2 has led to there: as its agent and its wall count it, as its host sees it, and as the LAN
//! shows it to whoever listens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use wire::kind;

use super::frame::header_of;
use super::outcome::{Outcome, difference, judge};
use super::sender::Bounds;
use super::stream::Attack;
use super::suite::{Suite, VICTIM};
use crate::rig::{
    Capture, GATEWAY_V4, HOST_INTERFACE, PacketKind, counters, pause, received_packets,
    transmit_drops, wait_for,
};

/// Reasons of an agent's drops that a frame from the cable can have; the others are of its own packets.
const REASONS: [&str; 5] = [
    "open_failed",
    "replayed",
    "expired",
    "inner_malformed",
    "control_refused",
];
/// Where an IP packet has the port that it is from.
const PORT_FROM: std::ops::Range<usize> = 20..22;
/// Frames that the Gateway may send others on the LAN meanwhile, which download nothing.
const TO_OTHERS: u64 = 64;
/// Frames a second of an attack on ws2, at most.
pub(super) const RATE: u64 = 30_000;

/// What is listened to while ws2 is attacked.
pub(super) struct Listening {
    /// Hellos of ws2, each the start of a handshake beside its session.
    hellos: Capture,
    /// What comes out of ws2's tunnel and is none of its stream's.
    host: Capture,
}

/// What was counted of ws2 at one moment.
pub(super) struct AtAgent {
    status: Value,
    /// Frames that the Gateway has put on its cable, all but a few of them to ws2.
    genuine: u64,
    lost: u64,
    hellos: u64,
    strange: u64,
}

/// What has become of an attack's frames at ws2.
pub(super) struct Seen {
    /// By verdict of its wall, or by reason of its agent.
    pub by_verdict: BTreeMap<String, u64>,
    /// Frames that its end of the cable had no room for.
    pub lost: u64,
    /// Frames that its AEAD refused.
    pub failed: u64,
    /// What did not hold.
    pub broken: Vec<String>,
}

impl Suite<'_> {
    /// Makes the LAN a hub, and listens to what the Gateway sends ws2 until so much of it is known. Without so
    /// much in ten seconds it goes on with what there is.
    ///
    /// # Errors
    /// What the kernel answered; that nothing is heard.
    pub(super) fn listen(&mut self, frames: u64) -> Result<()> {
        self.demo.lan.hub(true)?;
        if self.listening.is_none() {
            self.listening = Some(self.ears()?);
        }
        let heard = &self.known.to_victim;
        let enough = wait_for(
            "Data that the Gateway sends ws2",
            Duration::from_secs(10),
            || (heard.now().held() >= frames).then_some(()),
        );
        match heard.now().newest() {
            Some(_) => Ok(()),
            None => enough,
        }
    }

    fn ears(&self) -> Result<Listening> {
        let (gateway, victim) = (self.known.gateway, self.known.victim);
        let heard = self.known.to_victim.clone();
        let hellos = Capture::filtered(&self.demo.evil, Some("cable0"), 0, move |frame| {
            if (frame.source(), frame.destination()) == (gateway, victim) {
                heard.now().hear(&frame.bytes);
            }
            let header = (frame.source() == victim).then(|| header_of(&frame.bytes));
            header
                .flatten()
                .is_some_and(|header| header.kind == kind::HELLO)
        })?;
        let http = self.http.to_be_bytes();
        let host = self.workstation(VICTIM)?.namespace();
        let host = Capture::filtered(host, Some(HOST_INTERFACE), 4, move |packet| {
            let from = packet.bytes.get(12..16) == Some(&GATEWAY_V4.octets());
            let stream = packet.bytes.get(PORT_FROM) == Some(&http[..]);
            packet.kind == PacketKind::Incoming && !(from && stream)
        })?;
        Ok(Listening { hellos, host })
    }

    /// What is counted of ws2, between attacks. Its stream is held until all that was on its way has been counted, so
    /// that what the Gateway has sent can be compared with what ws2 has opened.
    ///
    /// # Errors
    /// When the agent does not answer, or the stream does not go on.
    pub(super) fn at_agent(&self) -> Result<AtAgent> {
        self.stream.hold(true);
        let counted = self.standing_still();
        self.stream.hold(false);
        let received = self.stream.received();
        wait_for("ws2's stream to go on", Duration::from_secs(5), || {
            (self.stream.received() > received).then_some(())
        })?;
        counted
    }

    fn standing_still(&self) -> Result<AtAgent> {
        let start = Instant::now();
        let mut last = self.agent()?;
        loop {
            pause(Duration::from_millis(50))?;
            let now = self.agent()?;
            if now.frames() == last.frames() {
                return Ok(now);
            }
            if start.elapsed() > Duration::from_secs(5) {
                bail!("ws2's counters still rise five seconds after an attack");
            }
            last = now;
        }
    }

    fn agent(&self) -> Result<AtAgent> {
        let (mut hellos, mut strange) = (0, 0);
        if let Some(listening) = &self.listening {
            listening.hellos.settle()?;
            listening.host.settle()?;
            hellos = listening.hellos.incoming();
            strange = listening.host.incoming();
        }
        let lan = self.demo.lan.namespace();
        Ok(AtAgent {
            status: self.workstation(VICTIM)?.status()?,
            genuine: received_packets(lan, "gw")?,
            lost: transmit_drops(lan, VICTIM)?,
            hellos,
            strange,
        })
    }

    /// Runs a stream of frames to ws2 and says where they ended there.
    ///
    /// # Errors
    /// As [`Suite::run`].
    pub(super) fn run_at_victim(&mut self, attack: &Attack, bounds: Bounds) -> Result<Outcome> {
        self.listen(512)?;
        let before = self.at_agent()?;
        let (mut outcome, _) = self.stream(attack, bounded(bounds))?;
        let seen = self.at_agent()?.since(&before);
        outcome.by_verdict = seen.by_verdict;
        outcome.dropped = outcome.by_verdict.values().sum();
        outcome.lost_on_the_way = seen.lost;
        outcome.reached_aead = seen.failed;
        outcome.broken.extend(seen.broken);
        // The rest of a hub's frames are for others, and genuine ones can find ws2's queue full.
        judge(
            attack,
            &["misdirected", "queue_full"],
            &mut outcome,
            seen.failed,
        );
        Ok(outcome)
    }
}

/// At a rate that ws2's end of the cable has room for beside its stream: what is lost there reaches nothing, and says
/// nothing of ws2.
fn bounded(bounds: Bounds) -> Bounds {
    let rate = match bounds.rate {
        0 => RATE,
        rate => rate.min(RATE),
    };
    Bounds { rate, ..bounds }
}

impl AtAgent {
    fn verdicts(&self) -> BTreeMap<String, u64> {
        counters(&self.status["port"]["verdicts"])
    }

    /// What changes with every frame.
    fn frames(&self) -> [u64; 3] {
        let all = self.verdicts().values().sum();
        [self.genuine, self.opened(), all]
    }

    fn ended(&self, since: &Self) -> BTreeMap<String, u64> {
        let drops = |at: &Self| counters(&at.status["drops"]);
        let mut ended = difference(&since.verdicts(), &self.verdicts());
        ended.remove("admitted");
        let reasons = difference(&drops(since), &drops(self));
        ended.extend(
            reasons
                .into_iter()
                .filter(|(name, _)| REASONS.contains(&name.as_str())),
        );
        ended
    }

    fn opened(&self) -> u64 {
        self.status["opened"].as_u64().unwrap_or(0)
    }

    /// What has become of an attack's frames since then.
    pub(super) fn since(&self, since: &Self) -> Seen {
        let by_verdict = self.ended(since);
        let number = |name: &str| by_verdict.get(name).copied().unwrap_or(0);
        let (lost, failed) = (self.lost.saturating_sub(since.lost), number("open_failed"));
        Seen {
            lost,
            failed,
            broken: self.broken(since, lost + failed + number("queue_full")),
            by_verdict,
        }
    }

    /// What did not hold of ws2's session, in sentences. At most so many genuine frames were not opened for want of
    /// room.
    fn broken(&self, since: &Self, crowded_out: u64) -> Vec<String> {
        let mut broken = Vec::new();
        let mut hold = |holds: bool, sentence: String| {
            if !holds {
                broken.push(sentence);
            }
        };
        let opened = self.opened().saturating_sub(since.opened());
        let genuine = self.genuine.saturating_sub(since.genuine);
        hold(opened > 0, "ws2 opened nothing any more".into());
        hold(
            opened <= genuine,
            format!("ws2 opened {opened} frames, and the Gateway had sent only {genuine}"),
        );
        hold(
            genuine <= opened + crowded_out + TO_OTHERS,
            format!("ws2 opened only {opened} of {genuine} frames, {crowded_out} found no room"),
        );
        let (state, session) = (&self.status["state"], &self.status["session"]);
        hold(
            state == "idle" && session.is_object(),
            format!("ws2 is in state {state}, its session {session}"),
        );
        let hellos = self.hellos - since.hellos;
        hold(
            hellos == 0,
            format!("ws2 began {hellos} handshakes beside its session"),
        );
        let strange = self.strange - since.strange;
        hold(
            strange == 0,
            format!("{strange} packets came out of ws2's tunnel that are not its stream's"),
        );
        broken
    }
}
