//! Running the attacks from `evil` on the demo's LAN, and counting where their frames end.
//!
//! What is counted comes from three independent places: the Gateway's verdict counters, AF_PACKET
//! captures behind XDP on the Gateway and on every Workstation, and the victim's own goodput.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use wire::kind;

use super::catalogue::{Attack, INSIDER_PORT, Known};
use super::frame::header_of;
use super::sender::{Bounds, flood};
use crate::rig::{
    Capture, Captured, Demo, GATEWAY_V4, HOST_INTERFACE, PacketSocket, Snapshot, Stream, mac_of,
    pause, transmit_drops, wait_for,
};

/// The goodput the victim asks for while the attacks run, in bytes a second (200 Mbit/s).
const VICTIM_RATE: u64 = 25_000_000;
const VICTIM: &str = "ws2";
const INSIDER: &str = "ws3";

/// Where the frames of one attack ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The attack.
    pub name: &'static str,
    /// Frames that left the attacker.
    pub sent: u64,
    /// Frames a second that left the attacker.
    pub sent_per_second: f64,
    /// Frames dropped by verdict on the Gateway's port; for the insider, by the Gateway's policy.
    pub dropped: u64,
    /// The same by verdict or reason.
    pub by_verdict: BTreeMap<String, u64>,
    /// Frames the Gateway's end of the cable had no room for: they reached nothing.
    pub lost_on_the_way: u64,
    /// Frames that the AEAD refused; for the insider, those it opened (they are authentic).
    pub reached_aead: u64,
    /// Frames of any kind that entered the Gateway's kernel from the LAN, and packets of the insider
    /// that left the tunnel there.
    pub reached_kernel: u64,
    /// Frames of any kind that entered a Workstation's kernel from the LAN.
    pub reached_workstation: u64,
    /// The victim's goodput while it ran, as a part of what it was before.
    pub victim_goodput: f64,
    /// What did not hold; empty when all did.
    pub broken: Vec<String>,
}

/// The attacks' surroundings, kept over all of them.
pub struct Suite<'a> {
    demo: &'a Demo,
    known: Known,
    wire: PacketSocket,
    tunnel: PacketSocket,
    _newest: Capture,
    at_gateway: Capture,
    through_tunnel: Capture,
    at_workstations: Vec<Capture>,
    stream: Stream,
    baseline: f64,
}

impl<'a> Suite<'a> {
    /// What `evil` records while the others connect: every frame that is no Data. To be started
    /// before the agents, with the LAN as a hub.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn eavesdrop(demo: &Demo) -> Result<Capture> {
        Capture::filtered(&demo.evil, Some("cable0"), 4096, |frame| {
            header_of(&frame.bytes).is_some_and(|header| header.kind != kind::DATA)
        })
    }

    /// Starts the victim's stream, learns what can be learnt by listening, and measures the goodput
    /// without an attack. An [`crate::rig::HttpServer`] must answer at the Gateway's port `http`.
    ///
    /// # Errors
    /// When the victim has not been heard.
    pub fn new(demo: &'a Demo, heard: &Capture, http: u16) -> Result<Self> {
        let find = |name: &str| {
            let mut all = demo.workstations.iter();
            all.find(|w| w.name() == name)
                .with_context(|| format!("no Workstation {name}"))
        };
        let (victim, insider) = (find(VICTIM)?, find(INSIDER)?);
        let victim_mac = mac_of(victim.namespace(), victim.interface())?;
        let handshakes: Vec<Vec<u8>> = heard
            .frames()
            .into_iter()
            .filter(|frame| frame.source() == victim_mac)
            .map(|frame| frame.bytes)
            .collect();
        let key_id = handshakes
            .iter()
            .filter_map(|frame| header_of(frame))
            .find(|header| header.kind == kind::HELLO)
            .map(|header| header.index)
            .context("evil heard no Hello of ws2, though the LAN is a hub")?;

        let stream = Stream::start(
            Arc::clone(victim.namespace()),
            (GATEWAY_V4.into(), http),
            VICTIM_RATE,
        );
        let newest = Arc::new(Mutex::new(Vec::new()));
        let latest = Arc::clone(&newest);
        let is_victims = move |frame: &Captured| {
            frame.source() == victim_mac
                && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::DATA)
        };
        let follow = Capture::filtered(&demo.evil, Some("cable0"), 1024, move |frame| {
            let ours = is_victims(frame);
            if ours {
                *latest.lock().unwrap_or_else(|e| e.into_inner()) = frame.bytes.clone();
            }
            ours
        })?;
        wait_for(
            "Data of ws2 that evil can hear",
            Duration::from_secs(10),
            || (follow.incoming() >= 1024).then_some(()),
        )?;
        let known = Known {
            gateway: mac_of(demo.gateway.namespace(), "lan")?,
            victim: victim_mac,
            own: mac_of(&demo.evil, "cable0")?,
            key_id,
            handshakes,
            data: follow.take().into_iter().map(|frame| frame.bytes).collect(),
            newest,
            victim_v4: victim.address()?,
        };
        let source = known.victim_v4.octets();
        let mut suite = Self {
            demo,
            wire: PacketSocket::sender(&demo.evil, "cable0")?,
            tunnel: PacketSocket::sender(insider.namespace(), HOST_INTERFACE)?,
            _newest: follow,
            at_gateway: Capture::filtered(demo.gateway.namespace(), Some("lan"), 16, |frame| {
                frame.kind == crate::rig::PacketKind::Incoming
            })?,
            through_tunnel: Capture::filtered(
                demo.gateway.namespace(),
                Some(HOST_INTERFACE),
                16,
                move |frame| {
                    frame.bytes.get(12..16) == Some(&source[..])
                        && frame.bytes.get(22..24) == Some(&INSIDER_PORT.to_be_bytes()[..])
                },
            )?,
            at_workstations: demo
                .workstations
                .iter()
                .filter(|w| w.name() != "ws1")
                .map(|w| {
                    Capture::filtered(w.namespace(), Some(w.interface()), 16, |frame| {
                        frame.kind == crate::rig::PacketKind::Incoming
                    })
                })
                .collect::<Result<_>>()?,
            known,
            stream,
            baseline: 0.0,
        };
        suite.baseline = suite.goodput(|| pause(Duration::from_secs(1)))?;
        ensure!(
            suite.baseline > 0.0,
            "nothing of ws2's stream arrives, before any attack"
        );
        Ok(suite)
    }

    /// The victim's goodput without an attack, in bits a second.
    pub fn baseline(&self) -> f64 {
        self.baseline * 8.0
    }

    fn goodput(&self, mut meanwhile: impl FnMut() -> Result<()>) -> Result<f64> {
        let (start, before) = (Instant::now(), self.stream.received());
        meanwhile()?;
        Ok((self.stream.received() - before) as f64 / start.elapsed().as_secs_f64())
    }

    fn reached_workstations(&self) -> u64 {
        self.at_workstations.iter().map(Capture::incoming).sum()
    }

    fn settle(&self) -> Result<()> {
        for capture in self.captures() {
            capture.settle()?;
        }
        Ok(())
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        let gateway = [&self.at_gateway, &self.through_tunnel];
        gateway.into_iter().chain(&self.at_workstations)
    }

    /// Runs one attack within `bounds` and says where its frames ended.
    ///
    /// # Errors
    /// When it cannot be run or counted; that something did not hold is in [`Outcome::broken`].
    pub fn run(&self, attack: &Attack, bounds: Bounds) -> Result<Outcome> {
        let gateway = &self.demo.gateway;
        let lan = self.demo.lan.namespace();
        self.settle()?;
        let before = gateway.show()?;
        let drops_before = transmit_drops(lan, "gw")?;
        let kernel_before = self.at_gateway.incoming() + self.through_tunnel.incoming();
        let workstations_before = self.reached_workstations();
        let overruns_before: u64 = self.captures().map(Capture::overruns).sum();

        let socket = if attack.insider {
            &self.tunnel
        } else {
            &self.wire
        };
        let mut sent = 0;
        let start = Instant::now();
        let mut writer = (attack.frames)(&self.known);
        let goodput = self.goodput(|| {
            sent = flood(socket, bounds, &mut writer);
            crate::rig::check()
        })?;
        let time = start.elapsed();
        self.settle()?;
        let after = counted(gateway, &before, sent)?;

        let mut outcome = Outcome {
            name: attack.name,
            sent,
            sent_per_second: sent as f64 / time.as_secs_f64(),
            dropped: 0,
            by_verdict: BTreeMap::new(),
            lost_on_the_way: transmit_drops(lan, "gw")?.saturating_sub(drops_before),
            reached_aead: 0,
            reached_kernel: self.at_gateway.incoming() + self.through_tunnel.incoming()
                - kernel_before,
            reached_workstation: self.reached_workstations() - workstations_before,
            victim_goodput: goodput / self.baseline,
            broken: Vec::new(),
        };
        let overruns: u64 = self.captures().map(Capture::overruns).sum();
        if attack.insider {
            outcome.by_verdict = difference(&before.drops(INSIDER), &after.drops(INSIDER));
            outcome.reached_aead =
                after.number(INSIDER, "opened") - before.number(INSIDER, "opened");
        } else {
            outcome.by_verdict = difference(&before.verdicts("lan"), &after.verdicts("lan"));
            outcome.by_verdict.remove("admitted");
            outcome.reached_aead = open_failures(&after).saturating_sub(open_failures(&before));
        }
        outcome.dropped = outcome.by_verdict.values().sum();
        outcome.broken = self.judge(attack, &outcome, overruns - overruns_before);
        Ok(outcome)
    }

    fn judge(&self, attack: &Attack, outcome: &Outcome, overruns: u64) -> Vec<String> {
        let mut broken = Vec::new();
        let mut hold = |holds: bool, sentence: String| {
            if !holds {
                broken.push(sentence);
            }
        };
        hold(outcome.sent > 0, "nothing could be sent".into());
        hold(
            outcome.reached_kernel == 0,
            format!(
                "{} frames reached the Gateway's kernel ({}{})",
                outcome.reached_kernel,
                self.at_gateway.summary(),
                self.through_tunnel.summary()
            ),
        );
        hold(
            outcome.reached_workstation == 0,
            format!(
                "{} frames reached a Workstation's kernel",
                outcome.reached_workstation
            ),
        );
        hold(
            overruns == 0,
            format!("a capture missed {overruns} frames that reached a kernel"),
        );
        if attack.insider {
            hold(
                outcome.dropped > 0,
                "the Gateway counted no drop of ws3".into(),
            );
        } else {
            let expected: u64 = attack
                .verdicts
                .iter()
                .filter_map(|verdict| outcome.by_verdict.get(*verdict))
                .sum();
            hold(
                expected > 0,
                format!("no frame was dropped as {}", attack.verdicts.join(" or ")),
            );
            let lost = if attack.races {
                outcome.lost_on_the_way
            } else {
                0
            };
            hold(
                outcome.reached_aead <= lost,
                format!(
                    "{} forged frames got as far as the AEAD",
                    outcome.reached_aead
                ),
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
        }
        hold(
            outcome.victim_goodput > 0.5,
            format!(
                "ws2 kept only {:.0} % of its goodput",
                outcome.victim_goodput * 100.0
            ),
        );
        broken
    }
}

/// The counters once they stand still: frames can be on their way when the sender stops.
fn counted(gateway: &crate::rig::Gateway, before: &Snapshot, sent: u64) -> Result<Snapshot> {
    let dropped = |snapshot: &Snapshot| -> u64 {
        let delta = difference(&before.verdicts("lan"), &snapshot.verdicts("lan"));
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

fn open_failures(snapshot: &Snapshot) -> u64 {
    let names = snapshot.names();
    names
        .iter()
        .map(|name| snapshot.number(name, "open_failed"))
        .sum()
}

/// What has grown, by name.
fn difference(
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
