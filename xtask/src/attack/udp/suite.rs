//! Running the attacks over networks, and counting where their frames end.
//!
//! What is counted comes from independent places: the Gateway's verdicts and drops, captures at every host
//! ([`super::watch`]), probes through the tunnels of ws1 and ws2, and where the Gateway says that ws1 is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::path::{Path, UdpPath};
use wire::kind;

use super::outer::{OWN_PORT, OWN_V4, way};
use super::steps::Step;
use super::watch::{ECHO, Watch, Watched};
use crate::attack::frame::header_of;
use crate::attack::ground::Ground;
use crate::attack::outcome::{Happened, Lengths, Outcome, counted, difference, judge, kept};
use crate::attack::rogue::Rogue;
use crate::attack::sender::{Bounds, flood};
use crate::attack::suite::STOLEN;
use crate::attack::{Attack, From, Known};
use crate::report::count;
use crate::rig::{
    Capture, Captured, Echo, Gateway, Networks, PacketKind, PacketSocket, Probe, ProbeReport,
    Programs, Snapshot, WAN, Workstation, check, mac_of, transmit_drops, wait_for,
};

const PATIENCE: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_millis(5);
const PROBE_SIZE: usize = 200;
/// The part of its probes that who is not attacked keeps.
const UNDISTURBED: f64 = 0.9;
/// The part that ws1 keeps of its own, when copies of its own frames use up its credit.
const CROWDED: f64 = 0.3;

/// The attacks' surroundings, kept over all of them.
pub struct Remote {
    pub(super) networks: Networks,
    pub(super) other: Workstation,
    pub(super) known: Known,
    pub(super) wire: PacketSocket,
    pub(super) rogue: Rogue,
    watch: Watch,
    _newest: Capture,
    _echo: Echo,
}

struct Before {
    gateway: Snapshot,
    seen_at: Option<String>,
    lost: u64,
    watched: Watched,
    at: Instant,
    probes: [Probe; 2],
}

impl Remote {
    /// Lays out the networks, connects ws1 over IPv4 through its NAT and ws2 from elsewhere, listens, and
    /// steals the keys of ws4.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub fn new(programs: &Programs) -> Result<Self> {
        let mut networks = crate::rig::networks(programs, false)?;
        // Whom nobody has is nowhere: no router says so to the Gateway.
        networks.internet.ip("route add blackhole default")?;
        networks.internet.ip("-6 route add blackhole default")?;
        networks.reach_by(WAN[0])?;
        let heard = Capture::filtered(&networks.internet, Some("ig"), 4096, |frame| {
            header_of(&frame.bytes).is_some_and(|header| header.kind != kind::DATA)
        })?;
        networks.start()?;
        let mut other = networks.neighbour(programs)?;
        let file = networks.gateway.add(other.name())?;
        other.enroll(&file)?;
        let echo = Echo::start(networks.gateway.namespace(), ECHO)?;
        let newest = Arc::new(Mutex::new(Vec::new()));
        let follow = follow(&networks, Arc::clone(&newest))?;
        let known = learn(&networks, &heard, newest)?;
        drop(heard);
        other.start()?;
        let known = Known {
            victim_v4: other.address()?,
            ..known
        };
        let inner = [networks.workstation.address()?, other.address()?];
        Ok(Self {
            rogue: steal(&networks, &known)?,
            watch: Watch::new(&networks, inner, known.own)?,
            wire: PacketSocket::sender(&networks.internet, "ig")?,
            _newest: follow,
            _echo: echo,
            networks,
            other,
            known,
        })
    }

    /// Where the Gateway says that ws1 is.
    fn seen_at(&self, snapshot: &Snapshot) -> Option<String> {
        let one = snapshot.workstation(self.networks.workstation.name())?;
        one["session"]["peer"].as_str().map(str::to_owned)
    }

    fn begin(&self) -> Result<Before> {
        let gateway = self.gateway().show()?;
        let lost = transmit_drops(&self.networks.internet, "ig")?;
        let hosts = [&self.networks.workstation, &self.other];
        let to = (crate::rig::GATEWAY_V4.into(), ECHO);
        let watched = self.watch.count()?;
        let [one, two] =
            hosts.map(|host| Probe::start(host.namespace(), to, PROBE_EVERY, PROBE_SIZE));
        Ok(Before {
            seen_at: self.seen_at(&gateway),
            gateway,
            lost,
            watched,
            at: Instant::now(),
            probes: [one?, two?],
        })
    }

    /// What an attack has led to. `goes_on` is whether ws1's session is to.
    fn end(
        &self,
        before: Before,
        sent: u64,
        (name, holds): (&'static str, String),
        (goes_on, answered, others_keep): (bool, bool, f64),
    ) -> Result<(Outcome, Snapshot)> {
        let time = before.at.elapsed().as_secs_f64();
        let after = counted(self.gateway(), "wan", &before.gateway, sent)?;
        let reports = before.probes.map(Probe::finish);
        let watched = self.watch.count()?;
        let lost = transmit_drops(&self.networks.internet, "ig")?;
        let [reached_kernel, reached_workstation] = watched.reached(&before.watched);
        let mut outcome = Outcome {
            name,
            holds,
            held: false,
            frames: format!("{} frames", count(sent)),
            happened: String::new(),
            sent,
            sent_per_second: sent as f64 / time,
            dropped: 0,
            by_verdict: ended(&before.gateway, &after),
            lost_on_the_way: lost.saturating_sub(before.lost),
            reached_aead: 0,
            reached_kernel,
            reached_workstation,
            victim_goodput: kept_of(&reports[0]),
            broken: self.watch.broken(&before.watched, &watched, answered),
        };
        outcome.dropped = outcome.by_verdict.values().sum();
        let mut hold = |holds: bool, sentence: String| {
            if !holds {
                outcome.broken.push(sentence);
            }
        };
        let probes = watched.probes(&before.watched);
        let most = reports[0].sent() as u64;
        hold(
            probes.iter().all(|count| *count <= most),
            format!("{probes:?} of {most} probes of ws1 came out of the tunnel, there and back"),
        );
        let other = kept_of(&reports[1]);
        hold(other >= others_keep, kept("ws2", other));
        let (from, to) = (&before.seen_at, &self.seen_at(&after));
        hold(
            !goes_on || from == to && to.is_some(),
            format!("ws1 was seen at {from:?} and is at {to:?}"),
        );
        let hellos = watched.hellos(&before.watched);
        hold(
            !goes_on || hellos == 0,
            format!("ws1 began {hellos} handshakes beside its session"),
        );
        Ok((outcome, after))
    }

    /// Runs a stream of frames within `bounds` and says where they ended.
    ///
    /// # Errors
    /// When it cannot be run or counted; that something did not hold is in [`Outcome::broken`].
    pub fn run(&mut self, attack: &Attack, bounds: Bounds) -> Result<Outcome> {
        self.known.sealer = Some(self.rogue.session()?);
        let mut writer = (attack.frames)(&self.known);
        let before = self.begin()?;
        let first = before.gateway.clone();
        let mut lengths = Lengths::default();
        let sent = flood(&self.wire, bounds, |number, buffer| {
            writer(number, buffer);
            lengths.add(buffer.len());
        });
        check()?;
        let told = (attack.name, attack.holds());
        let (mut outcome, after) = self.end(before, sent, told, (true, false, UNDISTURBED))?;
        outcome.frames = lengths.of(sent, attack.from);
        let failed = ["ws1", "ws2"].map(|name| {
            let failed = |snapshot: &Snapshot| snapshot.number(name, "open_failed");
            failed(&after).saturating_sub(failed(&first))
        });
        outcome.reached_aead = failed.iter().sum();
        // Copies are admitted, each at the cost of a place in ws1's queue.
        let copies = attack.verdicts.contains(&"replayed");
        let keeps = if copies { CROWDED } else { UNDISTURBED };
        if outcome.victim_goodput < keeps {
            outcome.broken.push(kept("ws1", outcome.victim_goodput));
        }
        let forged = match attack.verdicts.contains(&"open_failed") {
            true => 0,
            false => outcome.reached_aead,
        };
        // On `ether` XDP has dropped them as replay before it came to that.
        let beside: &[&str] = match attack.from {
            From::Cable if !copies => &[],
            From::Keys if attack.verdicts.contains(&"replay") => &["queue_full", "replayed"],
            _ => &["queue_full"],
        };
        judge(attack, beside, &mut outcome, forged);
        outcome.close();
        Ok(outcome)
    }

    /// Runs an attack in steps.
    ///
    /// # Errors
    /// When it cannot be run or counted.
    pub fn act(&mut self, step: &Step) -> Result<Outcome> {
        let before = self.begin()?;
        let Happened { sent, text, broken } = (step.run)(self)?;
        check()?;
        let told = (step.name, step.holds.to_owned());
        let allowed = (step.goes_on, step.answered, step.keeps[1]);
        let (mut outcome, _) = self.end(before, sent, told, allowed)?;
        outcome.happened = text;
        outcome.broken.extend(broken);
        if outcome.victim_goodput < step.keeps[0] {
            outcome.broken.push(kept("ws1", outcome.victim_goodput));
        }
        outcome.close();
        Ok(outcome)
    }
}

impl Ground for Remote {
    fn gateway(&self) -> &Gateway {
        &self.networks.gateway
    }

    fn port(&self) -> &'static str {
        "wan"
    }

    fn victim(&mut self) -> Result<&mut Workstation> {
        Ok(&mut self.networks.workstation)
    }

    fn others(&self) -> [&'static str; 2] {
        ["ws1", "ws2"]
    }

    fn rogue(&mut self) -> Result<&mut Rogue> {
        Ok(&mut self.rogue)
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn wire(&self) -> &PacketSocket {
        &self.wire
    }

    fn sender(&self) -> Result<PacketSocket> {
        PacketSocket::sender(&self.networks.internet, "ig")
    }
}

/// The part of a probe's datagrams that were answered.
fn kept_of(report: &ProbeReport) -> f64 {
    1.0 - report.lost() as f64 / report.sent().max(1) as f64
}

/// Frames by the verdict or the reason that they were dropped with, of everybody.
fn ended(before: &Snapshot, after: &Snapshot) -> BTreeMap<String, u64> {
    let mut ended = difference(&before.verdicts("wan"), &after.verdicts("wan"));
    ended.remove("admitted");
    ended.remove("answered");
    for name in after.names() {
        for (reason, count) in difference(&before.drops(&name), &after.drops(&name)) {
            *ended.entry(reason).or_default() += count;
        }
    }
    ended
}

/// Keeps `newest` up to date with ws1's newest Data.
fn follow(networks: &Networks, newest: Arc<Mutex<Vec<u8>>>) -> Result<Capture> {
    Capture::filtered(&networks.internet, Some("ig"), 256, move |frame| {
        let is_data = is_from_home(&frame.bytes)
            && header_of(&frame.bytes).is_some_and(|header| header.kind == kind::DATA);
        if is_data {
            newest
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .clone_from(&frame.bytes);
        }
        is_data
    })
}

/// What is to be learned by listening, while ws1 works.
fn learn(networks: &Networks, heard: &Capture, newest: Arc<Mutex<Vec<u8>>>) -> Result<Known> {
    let own = mac_of(&networks.internet, "ig")?;
    let gateway = mac_of(networks.gateway.namespace(), "wan")?;
    let both = Capture::filtered(&networks.internet, Some("ig"), 1024, |frame| {
        header_of(&frame.bytes).is_some_and(|header| header.kind == kind::DATA)
    })?;
    let host = networks.workstation.namespace();
    let to = (crate::rig::GATEWAY_V4.into(), ECHO);
    let probe = Probe::start(host, to, Duration::from_millis(2), PROBE_SIZE)?;
    wait_for("Data of ws1 on the Internet", PATIENCE, || {
        (both.incoming() >= 256 && both.outgoing() >= 256).then_some(())
    })?;
    drop(probe);
    let (handshakes, mut answers) = both_ways(heard);
    let (data, back) = both_ways(&both);
    answers.extend(back);
    let hello = handshakes.iter().filter_map(|frame| header_of(frame));
    let key_id = hello.map(|header| header.index).next();
    let victim = data.first().context("no Data of ws1")?;
    Ok(Known {
        gateway,
        victim: own,
        own,
        key_id: key_id.context("nobody heard a Hello of ws1")?,
        ways: Some([
            path_of(victim).context("Data of ws1 in no datagram")?,
            way(gateway, (OWN_V4, OWN_PORT).into()),
        ]),
        handshakes,
        data,
        answers,
        to_victim: Default::default(),
        newest,
        victim_v4: networks.workstation.address()?,
        sealer: None,
    })
}

/// What was captured on its way to the Gateway, and what came from it.
fn both_ways(capture: &Capture) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (to, back): (Vec<_>, Vec<_>) = capture
        .take()
        .into_iter()
        .partition(|frame| frame.kind == PacketKind::Outgoing);
    let bytes = |frames: Vec<Captured>| frames.into_iter().map(|frame| frame.bytes).collect();
    (bytes(to), bytes(back))
}

/// The way that a frame to the Gateway has taken, from its source's side.
fn path_of(frame: &[u8]) -> Option<UdpPath> {
    match dataplane::path::Encapsulation::Udp.path_of(frame)? {
        Path::Udp(path) => Some(UdpPath {
            next_hop: frame.get(..6)?.try_into().ok()?,
            local: path.remote,
            remote: path.local,
        }),
        _ => None,
    }
}

/// Enrols ws4 and gives the attacker its keys. It may reach TCP port 9050, UDP port 5353 and ping.
fn steal(networks: &Networks, known: &Known) -> Result<Rogue> {
    let file = networks
        .gateway
        .directory()
        .join(format!("{STOLEN}.enrolment"));
    networks.gateway.cli(&format!(
        "workstation add {STOLEN} --allow tcp/9050,udp/5353,icmp --output {}",
        file.display()
    ))?;
    let [_, own] = known.ways.context("ways over networks")?;
    let mut rogue = Rogue::by(Path::Udp(own), &file, &networks.internet, "ig")?;
    rogue.connect()?;
    ensure!(rogue.heard_frames > 0, "ws4 was answered nothing");
    Ok(rogue)
}

/// From ws1's address outside.
pub(super) fn is_from_home(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(26..30) == Some(&[198, 51, 100, 2])
}
