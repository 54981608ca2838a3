//! Running the attacks from `evil` on the demo's LAN, and counting where their frames end.
//!
//! What is counted comes from three independent places: the Gateway's verdict counters, AF_PACKET
//! captures behind XDP on the Gateway and on every Workstation, and the victim's own goodput.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wire::kind;

use super::agent::Listening;
use super::frame::header_of;
use super::ground::Ground;
use super::inner;
use super::outcome::{Lengths, Outcome, counted, difference, judge, kept, open_failures};
use super::rogue::Rogue;
use super::sender::{Bounds, flood};
use super::stream::{Attack, From, Known};
use crate::report::count;
use crate::rig::{
    Capture, Captured, Demo, GATEWAY_V4, Gateway, HOST_INTERFACE, PacketSocket, Snapshot, Stream,
    Workstation, mac_of, pause, transmit_drops, wait_for,
};

/// The goodput the victim asks for while the attacks run, in bytes a second (200 Mbit/s).
const VICTIM_RATE: u64 = 25_000_000;
pub(super) const VICTIM: &str = "ws2";
pub(super) const INSIDER: &str = "ws3";
/// The Workstation whose keys the attacker has; it has no host of its own.
pub(super) const STOLEN: &str = "ws4";

/// Everything that is counted, at one moment.
struct Counted {
    gateway: Snapshot,
    switch_drops: u64,
    kernel: u64,
    workstations: u64,
    overruns: u64,
    received: u64,
    at: Instant,
}

/// The attacks' surroundings, kept over all of them.
pub struct Suite<'a> {
    pub(super) demo: &'a mut Demo,
    pub(super) known: Known,
    pub(super) wire: PacketSocket,
    pub(super) rogue: Option<Rogue>,
    /// While attacks go to ws2.
    pub(super) listening: Option<Listening>,
    /// The port that the victim's stream is from.
    pub(super) http: u16,
    _newest: Capture,
    at_gateway: Capture,
    through_tunnel: Capture,
    at_workstations: Vec<Capture>,
    pub(super) stream: Stream,
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
    pub fn new(demo: &'a mut Demo, heard: &Capture, http: u16) -> Result<Self> {
        let victim = named(demo, VICTIM)?;
        let victim_mac = mac_of(victim.namespace(), victim.interface())?;
        let gateway_mac = mac_of(demo.gateway.namespace(), "lan")?;
        let heard = heard.frames().into_iter();
        let (handshakes, others): (Vec<_>, Vec<_>) = heard
            .filter(|frame| frame.source() == victim_mac || frame.destination() == victim_mac)
            .partition(|frame| frame.source() == victim_mac);
        let handshakes: Vec<Vec<u8>> = handshakes.into_iter().map(|frame| frame.bytes).collect();
        let mut answers: Vec<Vec<u8>> = others.into_iter().map(|frame| frame.bytes).collect();
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
        let sent_to_victim = Capture::filtered(&demo.evil, Some("cable0"), 512, move |frame| {
            frame.source() == gateway_mac && frame.destination() == victim_mac
        })?;
        wait_for(
            "what the Gateway sends ws2",
            Duration::from_secs(10),
            || (sent_to_victim.incoming() >= 512).then_some(()),
        )?;
        answers.extend(sent_to_victim.take().into_iter().map(|frame| frame.bytes));
        drop(sent_to_victim);
        let known = Known {
            gateway: gateway_mac,
            victim: victim_mac,
            own: mac_of(&demo.evil, "cable0")?,
            key_id,
            handshakes,
            data: follow.take().into_iter().map(|frame| frame.bytes).collect(),
            answers,
            to_victim: Default::default(),
            newest,
            victim_v4: victim.address()?,
            sealer: None,
            ways: None,
        };
        let mut suite = Self {
            rogue: None,
            listening: None,
            http,
            wire: PacketSocket::sender(&demo.evil, "cable0")?,
            _newest: follow,
            at_gateway: Capture::filtered(demo.gateway.namespace(), Some("lan"), 16, |frame| {
                frame.kind == crate::rig::PacketKind::Incoming
            })?,
            through_tunnel: Capture::filtered(
                demo.gateway.namespace(),
                Some(HOST_INTERFACE),
                16,
                |frame| inner::is_ours(&frame.bytes),
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
            demo,
        };
        let (start, before) = (Instant::now(), suite.stream.received());
        pause(Duration::from_secs(1))?;
        let received = suite.stream.received() - before;
        suite.baseline = received as f64 / start.elapsed().as_secs_f64();
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

    /// The part of its goodput that the victim has had since `start`, when it had `received` so much.
    pub(super) fn goodput_since(&self, received: u64, start: Instant) -> f64 {
        let got = self.stream.received().saturating_sub(received) as f64;
        got / start.elapsed().as_secs_f64() / self.baseline
    }

    /// Enrols ws4 and gives the attacker its keys. It may reach TCP port 9050, UDP port 5353 and ping.
    ///
    /// # Errors
    /// When it cannot be enrolled, or does not get a session.
    pub fn steal_keys(&mut self) -> Result<()> {
        let file = self.stolen();
        self.demo.gateway.cli(&format!(
            "workstation add {STOLEN} --allow tcp/9050,udp/5353,icmp --output {}",
            file.display()
        ))?;
        let mut rogue = Rogue::new(&file, &self.demo.evil, "cable0")?;
        rogue.connect()?;
        self.rogue = Some(rogue);
        Ok(())
    }

    /// Takes from ws4 all that it may reach.
    ///
    /// # Errors
    /// What the Gateway answered.
    pub fn forbid_all(&self) -> Result<()> {
        let all = format!("workstation allow {STOLEN} -tcp/9050 -udp/5353 -icmp");
        self.gateway().cli(&all).map(drop)
    }

    /// The stolen enrolment.
    pub(super) fn stolen(&self) -> std::path::PathBuf {
        self.demo
            .gateway
            .directory()
            .join(format!("{STOLEN}.enrolment"))
    }

    /// One of the Workstations.
    pub(super) fn workstation(&self, name: &str) -> Result<&Workstation> {
        named(self.demo, name)
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

    fn count(&self) -> Result<Counted> {
        self.settle()?;
        Ok(Counted {
            gateway: self.gateway().show()?,
            switch_drops: transmit_drops(self.demo.lan.namespace(), "gw")?,
            kernel: self.at_gateway.incoming() + self.through_tunnel.incoming(),
            workstations: self.reached_workstations(),
            overruns: self.captures().map(Capture::overruns).sum(),
            received: self.stream.received(),
            at: Instant::now(),
        })
    }

    /// What an attack has led to since `before`. The victim's goodput is of the time until now.
    fn since(
        &self,
        before: &Counted,
        sent: u64,
        name: &'static str,
        holds: String,
    ) -> Result<(Outcome, Snapshot)> {
        let time = before.at.elapsed().as_secs_f64();
        let received = self.stream.received() - before.received;
        self.settle()?;
        let after = counted(self.gateway(), "lan", &before.gateway, sent)?;
        let switch_drops = transmit_drops(self.demo.lan.namespace(), "gw")?;
        let kernel = self.at_gateway.incoming() + self.through_tunnel.incoming();
        let mut outcome = Outcome {
            name,
            holds,
            held: false,
            frames: format!("{} frames", count(sent)),
            happened: String::new(),
            sent,
            sent_per_second: sent as f64 / time,
            dropped: 0,
            by_verdict: difference(&before.gateway.verdicts("lan"), &after.verdicts("lan")),
            lost_on_the_way: switch_drops.saturating_sub(before.switch_drops),
            reached_aead: 0,
            reached_kernel: kernel - before.kernel,
            reached_workstation: self.reached_workstations() - before.workstations,
            victim_goodput: received as f64 / time / self.baseline,
            broken: Vec::new(),
        };
        outcome.by_verdict.remove("admitted");
        let overruns = self.captures().map(Capture::overruns).sum::<u64>() - before.overruns;
        let mut hold = |holds: bool, sentence: String| {
            if !holds {
                outcome.broken.push(sentence);
            }
        };
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
        Ok((outcome, after))
    }

    /// Runs one attack within `bounds` and says where its frames ended.
    ///
    /// # Errors
    /// When it cannot be run or counted; that something did not hold is in [`Outcome::broken`].
    pub fn run(&mut self, attack: &Attack, bounds: Bounds) -> Result<Outcome> {
        let mut outcome = match attack.from {
            From::AsGateway => self.run_at_victim(attack, bounds)?,
            From::Cable | From::Keys => self.run_at_gateway(attack, bounds)?,
        };
        if outcome.victim_goodput <= 0.5 {
            outcome.broken.push(kept(VICTIM, outcome.victim_goodput));
        }
        outcome.close();
        Ok(outcome)
    }

    /// Sends a stream of frames; what there was before, and what is after it.
    pub(super) fn stream(
        &mut self,
        attack: &Attack,
        bounds: Bounds,
    ) -> Result<(Outcome, [Snapshot; 2])> {
        self.known.sealer = match &mut self.rogue {
            Some(rogue) => Some(rogue.session()?),
            None => None,
        };
        let mut writer = (attack.frames)(&self.known);
        let mut lengths = Lengths::default();
        let before = self.count()?;
        let sent = flood(&self.wire, bounds, |number, buffer| {
            writer(number, buffer);
            lengths.add(buffer.len());
        });
        crate::rig::check()?;
        let (mut outcome, after) = self.since(&before, sent, attack.name, attack.holds())?;
        outcome.frames = lengths.of(sent, attack.from);
        Ok((outcome, [before.gateway, after]))
    }

    fn run_at_gateway(&mut self, attack: &Attack, bounds: Bounds) -> Result<Outcome> {
        self.listening = None;
        // Whoever uses keys of its own needs nothing that is not its own. As a hub the LAN would carry
        // its flood to ws2 as well, and what ws2 loses by its own port's full queue says nothing of the
        // Gateway.
        self.demo.lan.hub(attack.from == From::Cable)?;
        let (mut outcome, [before, after]) = self.stream(attack, bounds)?;
        let failed = |name: Option<&str>, snapshot: &Snapshot| match name {
            Some(name) => snapshot.number(name, "open_failed"),
            None => open_failures(snapshot),
        };
        let insider = (attack.from == From::Keys).then_some(STOLEN);
        let forged = failed(None, &after).saturating_sub(failed(None, &before));
        let mut others = forged;
        if let Some(name) = insider {
            let reasons = difference(&before.drops(name), &after.drops(name));
            outcome.by_verdict.extend(reasons);
            let own = failed(insider, &after).saturating_sub(failed(insider, &before));
            others = forged.saturating_sub(own);
            let opened = |snapshot: &Snapshot| snapshot.number(name, "opened");
            outcome.reached_aead = own + opened(&after).saturating_sub(opened(&before));
        } else {
            outcome.reached_aead = forged;
        }
        outcome.dropped = outcome.by_verdict.values().sum();
        // Others' frames, and what a hub shows the Gateway of frames to ws2, have verdicts of their own; who
        // floods under good keys is cut by its credit.
        let beside = match insider {
            None => "misdirected",
            Some(_) => "queue_full",
        };
        judge(attack, &[beside], &mut outcome, others);
        Ok(outcome)
    }

    /// Runs an attack in steps, of which the victim keeps the part `keeps` of its goodput.
    ///
    /// # Errors
    /// When it cannot be run or counted.
    pub fn act(&mut self, scenario: &super::Scenario) -> Result<Outcome> {
        self.listening = None;
        self.demo.lan.hub(scenario.hub)?;
        if let Some(rogue) = &mut self.rogue {
            rogue.forget();
        }
        let before = self.count()?;
        let happened = (scenario.run)(self)?;
        crate::rig::check()?;
        let (mut outcome, _) = self.since(
            &before,
            happened.sent,
            scenario.name,
            scenario.holds.to_owned(),
        )?;
        outcome.dropped = outcome.by_verdict.values().sum();
        outcome.happened = happened.text;
        outcome.broken.extend(happened.broken);
        if outcome.victim_goodput < scenario.keeps {
            outcome.broken.push(kept(VICTIM, outcome.victim_goodput));
        }
        outcome.close();
        Ok(outcome)
    }
}

impl Ground for Suite<'_> {
    fn gateway(&self) -> &Gateway {
        &self.demo.gateway
    }

    fn port(&self) -> &'static str {
        "lan"
    }

    fn victim(&mut self) -> Result<&mut Workstation> {
        let mut all = self.demo.workstations.iter_mut();
        all.find(|w| w.name() == VICTIM)
            .with_context(|| format!("no Workstation {VICTIM}"))
    }

    fn others(&self) -> [&'static str; 2] {
        [VICTIM, INSIDER]
    }

    fn rogue(&mut self) -> Result<&mut Rogue> {
        self.rogue.as_mut().context("nobody has stolen ws4's keys")
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn wire(&self) -> &PacketSocket {
        &self.wire
    }

    fn sender(&self) -> Result<PacketSocket> {
        PacketSocket::sender(&self.demo.evil, "cable0")
    }
}

fn named<'a>(demo: &'a Demo, name: &str) -> Result<&'a Workstation> {
    let mut all = demo.workstations.iter();
    all.find(|w| w.name() == name)
        .with_context(|| format!("no Workstation {name}"))
}
