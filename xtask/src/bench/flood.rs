//! Suite `flood`: what a Workstation keeps of its goodput and its round trips while somebody floods the
//! LAN it shares with him, by kind of flood and by rate.
//!
//! Every figure is a run under the flood over its control run of the same round: the same flood on
//! another switch, to a port that is not ours (see [`lan`]). Generator, switch, both ends of the tunnel
//! and of the traffic share this machine's cores, and nothing is pinned.

mod cost;
mod frames;
mod generator;
mod lan;
mod stream;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::cost::{Measured, Runs};
use self::frames::{Kind, Traffic};
use self::generator::Generator;
use self::lan::{Flooder, Lan, Place};
use self::stream::Stream;
use super::traffic::ECHO_EVERY;
use super::{Bench, Task, median, percentile};
use crate::rig::{GATEWAY_V4, pause, round_trips, transmit_drops, wait_for};

/// Rates in full mode; without one, as fast as the generator can.
const RATES: [Option<u32>; 5] = [
    Some(50_000),
    Some(100_000),
    Some(200_000),
    Some(300_000),
    None,
];
/// The rate that is measured in quick mode too.
const STEP: Option<u32> = Some(300_000);
/// The neighbour's datagrams: small frames are more frames.
const NEIGHBOUR_PAYLOAD: usize = 64;
/// Where they go to: a socket that nobody reads.
const SINK: u16 = 4445;
/// What passes between moving a cable and measuring.
const SETTLE: Duration = Duration::from_millis(120);
/// What an echo request counts for that was not answered: as long as was waited.
const LOST: f64 = 500_000.0;

/// A flood, of one kind at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Frames(Kind, Option<u32>),
    Neighbour,
}

/// What is measured under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    Goodput,
    RoundTrips,
}

/// What the control run sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    /// What the flood sends: as many as asked, or as can be.
    Alike,
    /// As many frames as the flood before it, so that only what a frame costs is another.
    SameRate,
}

/// What was measured in one run.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Gbit/s, or microseconds of which 99 % are not above.
    value: f64,
    /// Thousands of frames a second that were sent.
    sent: f64,
}

/// Runs under a flood and their control runs, by round.
#[derive(Debug)]
struct Series {
    load: Load,
    quantity: Quantity,
    control: Control,
    ours: Vec<Run>,
    elsewhere: Vec<Run>,
    /// What became of all frames at the Gateway's port.
    fate: BTreeMap<String, u64>,
}

/// Measures it.
///
/// # Errors
/// When the rig or the traffic fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let runs = bench.runs(4, 6);
    let window = match bench.seconds(0, 1) {
        0 => Duration::from_millis(600),
        seconds => Duration::from_secs(seconds.into()),
    };
    let mut all = plan(bench.quick());
    let task = bench.task("flood", 2 + all.len() as u64);
    task.doing("starting Gateway and Workstations");
    let mut lan = Lan::start()?;
    // The neighbour's datagrams end here: without a socket the Gateway's kernel would answer them.
    let _sink = lan.gateway().namespace().run(|| {
        UdpSocket::bind((GATEWAY_V4, SINK)).with_context(|| format!("binding UDP port {SINK}"))
    })?;
    task.step();
    for series in &mut all {
        task.doing(&series.load.about());
        series.measure(&lan, runs, window)?;
        series.say(&task);
        task.step();
    }
    let cost = frame_cost(&mut lan, &task)?;
    task.step();
    drop((task, lan));
    for series in &all {
        series.record(bench, window)?;
    }
    bench.measured(
        "flood.forged.cpu_ns",
        "ns",
        &cost,
        None,
        "run time of the XDP program for a frame by the kernel's own statistics (bpf_stats_enabled, whose \
         clock is included), 300 kpps of forged frames and no other traffic; what the kernel does \
         for a frame before and after it is not in it",
    )?;
    Ok(())
}

/// What is measured, in the order of a round.
fn plan(quick: bool) -> Vec<Series> {
    let mut all = Vec::new();
    let mut add = |load, quantity, control| {
        all.push(Series {
            load,
            quantity,
            control,
            ours: Vec::new(),
            elsewhere: Vec::new(),
            fate: BTreeMap::new(),
        });
    };
    for kind in [Kind::Foreign, Kind::Forged, Kind::Copied, Kind::Replay] {
        for rate in RATES {
            let wanted = match (quick, kind) {
                (false, Kind::Forged) => true,
                (true, Kind::Forged) | (false, _) => rate == STEP || rate.is_none(),
                (true, _) => rate.is_none(),
            };
            if wanted {
                add(Load::Frames(kind, rate), Quantity::Goodput, Control::Alike);
            }
        }
        if kind == Kind::Forged {
            let load = Load::Frames(kind, None);
            add(load, Quantity::Goodput, Control::SameRate);
        }
        if !quick {
            let load = Load::Frames(kind, None);
            add(load, Quantity::RoundTrips, Control::Alike);
        }
    }
    add(Load::Neighbour, Quantity::Goodput, Control::Alike);
    add(Load::Neighbour, Quantity::RoundTrips, Control::Alike);
    all
}

impl Load {
    /// The middle of its metrics.
    fn metric(self) -> String {
        match self {
            Self::Frames(kind, None) => kind.name().to_owned(),
            Self::Frames(kind, Some(rate)) => format!("{}.{}kpps", kind.name(), rate / 1000),
            Self::Neighbour => "neighbour".to_owned(),
        }
    }

    /// In a phrase.
    fn about(self) -> String {
        match self {
            Self::Frames(kind, None) => format!("{}, as many as can be", kind.about()),
            Self::Frames(kind, Some(rate)) => {
                format!("{}, {} kpps", kind.about(), rate / 1000)
            }
            Self::Neighbour => format!(
                "UDP of {NEIGHBOUR_PAYLOAD} bytes through another Workstation's tunnel, as many as can be"
            ),
        }
    }

    fn flooder(self) -> Flooder {
        match self {
            Self::Frames(..) => Flooder::Evil,
            Self::Neighbour => Flooder::Neighbour,
        }
    }

    fn start(self, lan: &Lan, traffic: Traffic) -> Result<Generator> {
        match self {
            Self::Frames(kind, rate) => {
                let writer = kind.writer(lan, traffic)?;
                Generator::frames(lan.evil(), lan.cable(), rate, writer)
            }
            Self::Neighbour => Generator::datagrams(
                lan.neighbour().namespace(),
                (GATEWAY_V4, SINK),
                NEIGHBOUR_PAYLOAD,
            ),
        }
    }
}

impl Series {
    /// All rounds: traffic and flood go on, and the flooder's cable is moved between the runs.
    fn measure(&mut self, lan: &Lan, rounds: u32, window: Duration) -> Result<()> {
        let flooder = self.load.flooder();
        let (server, client) = (lan.gateway().namespace(), lan.victim().namespace());
        let before = fate(lan)?;
        let generator = self.load.start(lan, self.quantity.traffic())?;
        let stream = match self.quantity {
            Quantity::Goodput => Some(Stream::start(server, client, GATEWAY_V4)?),
            Quantity::RoundTrips => None,
        };
        // What is forged or copied is made of what the Workstation sends.
        trips(lan, 20)?;
        wait_for("the flood to begin", Duration::from_secs(5), || {
            (generator.sent() > 0).then_some(())
        })?;
        let mut last = None;
        for round in 0..rounds {
            for place in Place::both(round) {
                if self.control == Control::SameRate {
                    generator.set_rate(last.filter(|_| place == Place::Elsewhere));
                }
                lan.place(flooder, place)?;
                pause(SETTLE)?;
                let (start, sent) = (Instant::now(), generator.sent());
                let value = match &stream {
                    Some(stream) => {
                        let received = stream.received();
                        pause(window)?;
                        let bits = (stream.received() - received) as f64 * 8.0;
                        bits / start.elapsed().as_secs_f64() / 1e9
                    }
                    None => trips(lan, (window.as_millis() / ECHO_EVERY.as_millis()) as usize)?,
                };
                let sent = (generator.sent() - sent) as f64 / start.elapsed().as_secs_f64();
                let run = Run {
                    value,
                    sent: sent / 1e3,
                };
                match place {
                    Place::Ours => {
                        last = Some(sent as u32);
                        self.ours.push(run);
                    }
                    Place::Elsewhere => self.elsewhere.push(run),
                }
            }
        }
        drop(stream);
        generator.finish()?;
        lan.place(flooder, Place::Ours)?;
        self.fate = fate(lan)?;
        for (verdict, count) in &mut self.fate {
            *count -= before.get(verdict).copied().unwrap_or(0).min(*count);
        }
        self.fate.retain(|_, count| *count > 0);
        Ok(())
    }

    fn of(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
        median(&runs.iter().map(of).collect::<Vec<_>>())
    }

    fn say(&self, task: &Task) {
        task.say(&format!(
            "{:<17} {:.0} kpps ({:.0}): {:.2} over {:.2} {} is {:.2}; {}",
            self.metric(),
            Self::of(&self.ours, |run| run.sent),
            Self::of(&self.elsewhere, |run| run.sent),
            Self::of(&self.ours, |run| run.value),
            Self::of(&self.elsewhere, |run| run.value),
            self.quantity.unit(),
            median(&self.ratios()),
            shares(&self.fate),
        ));
    }

    fn metric(&self) -> String {
        let load = self.load.metric();
        match self.control {
            Control::Alike => load,
            Control::SameRate => format!("{load}.same_rate"),
        }
    }

    /// Each round's ratio.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.elsewhere);
        pairs
            .map(|(ours, control)| ours.value / control.value)
            .collect()
    }

    fn record(&self, bench: &mut Bench, window: Duration) -> Result<()> {
        let control = match self.control {
            Control::Alike => "the same",
            Control::SameRate => "as many frames a second as the flood before it sent",
        };
        let method = format!(
            "{}; sent {:.0} kpps, in the control run {:.0}; {}; control: {control}, to a port on another switch, \
             in turns of {:.1} s; of all frames at the Gateway's port: {}",
            self.load.about(),
            Self::of(&self.ours, |run| run.sent),
            Self::of(&self.elsewhere, |run| run.sent),
            self.quantity.method(),
            window.as_secs_f64(),
            shares(&self.fate),
        );
        let metric = format!("flood.{}", self.metric());
        let ours: Vec<f64> = self.ours.iter().map(|run| run.value).collect();
        let control = Self::of(&self.elsewhere, |run| run.value);
        let (ratio, value) = self.quantity.names();
        bench.measured(
            format!("{metric}.{ratio}"),
            "ratio",
            &self.ratios(),
            None,
            &method,
        )?;
        bench.measured(
            format!("{metric}.{value}"),
            self.quantity.unit(),
            &ours,
            Some(control),
            &format!("{method}; bound: the control run"),
        )?;
        Ok(())
    }
}

impl Quantity {
    /// The ends of the metrics of the ratio and of the value.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Goodput => ("goodput_ratio", "goodput.gbps"),
            Self::RoundTrips => ("rtt_ratio", "rtt.p99.us"),
        }
    }

    /// What the victim sends while it is measured.
    fn traffic(self) -> Traffic {
        match self {
            Self::Goodput => Traffic::Bulk,
            Self::RoundTrips => Traffic::Sparse,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Goodput => "Gbit/s",
            Self::RoundTrips => "us",
        }
    }

    fn method(self) -> String {
        match self {
            Self::Goodput => "one TCP stream of a Workstation to the Gateway".to_owned(),
            Self::RoundTrips => format!(
                "99th percentile of a Workstation's echo requests to the Gateway, {} ms apart, lost ones as {} ms",
                ECHO_EVERY.as_millis(),
                LOST / 1e3
            ),
        }
    }
}

/// The 99th percentile of the victim's round trips, in microseconds.
fn trips(lan: &Lan, count: usize) -> Result<f64> {
    let trips = round_trips(lan.victim().namespace(), GATEWAY_V4, count, ECHO_EVERY)?;
    let mut micros = trips.micros;
    micros.resize(count, LOST);
    Ok(percentile(&micros, 99.0))
}

/// The Gateway's counters of frames, and what its end of the cable had no room for.
fn fate(lan: &Lan) -> Result<BTreeMap<String, u64>> {
    let snapshot = lan.gateway().show()?;
    let mut fate = snapshot.verdicts("lan");
    for name in snapshot.names() {
        let failed = fate.entry("not opened".into()).or_default();
        *failed += snapshot.number(&name, "open_failed");
    }
    fate.insert(
        "lost on the cable".into(),
        transmit_drops(lan.switch(), "gw")?,
    );
    Ok(fate)
}

/// Counts as parts of their sum, the greatest first.
fn shares(fate: &BTreeMap<String, u64>) -> String {
    let all: u64 = fate.values().sum();
    let mut parts: Vec<(&String, &u64)> = fate.iter().collect();
    parts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let parts = parts
        .into_iter()
        .map(|(name, count)| format!("{name} {:.2} %", *count as f64 / all.max(1) as f64 * 100.0));
    parts.collect::<Vec<_>>().join(", ")
}

/// Nanoseconds that the XDP program takes for a forged frame.
fn frame_cost(lan: &mut Lan, task: &Task) -> Result<Vec<f64>> {
    task.doing("what a forged frame costs");
    let daemon = lan.daemon()?;
    lan.place(Flooder::Evil, Place::Ours)?;
    let _measured = Measured::begin()?;
    let generator = Load::Frames(Kind::Forged, STEP).start(lan, Traffic::Sparse)?;
    // The header that is forged is one of the victim's.
    trips(lan, 10)?;
    let mut samples = Vec::new();
    for _ in 0..3 {
        let before = Runs::of(daemon)?;
        pause(Duration::from_millis(400))?;
        samples.push((Runs::of(daemon)? - before).each());
    }
    generator.finish()?;
    Ok(samples)
}
