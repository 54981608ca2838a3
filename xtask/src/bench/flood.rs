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

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};

use self::cost::{Measured, Runs};
use self::frames::Kind;
use self::generator::Generator;
use self::lan::{Flooder, Lan, Place};
use super::traffic::ECHO_EVERY;
use super::{Bench, Task, median, percentile};
use crate::rig::{GATEWAY_V4, iperf3_one_way, pause, round_trips, transmit_drops};

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

/// What was measured in one run.
#[derive(Debug, Clone, Default)]
struct Run {
    /// Gbit/s, or microseconds of which 99 % are not above.
    value: f64,
    /// Thousands of frames a second that were sent.
    sent: f64,
    /// What became of them at the Gateway's port.
    fate: BTreeMap<String, u64>,
}

/// Runs under a flood and their control runs, by round.
#[derive(Debug)]
struct Series {
    load: Load,
    quantity: Quantity,
    ours: Vec<Run>,
    elsewhere: Vec<Run>,
}

/// Measures it.
///
/// # Errors
/// When the rig or the traffic fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (runs, seconds) = (bench.runs(2, 3), bench.seconds(2, 3));
    let mut series = plan(bench.quick());
    let task = bench.task("flood", 2 + u64::from(runs) * series.len() as u64);
    task.doing("starting Gateway and Workstations");
    let mut lan = Lan::start()?;
    // The neighbour's datagrams end here: without a socket the Gateway's kernel would answer them.
    let _sink = lan.gateway().namespace().run(|| {
        UdpSocket::bind((GATEWAY_V4, SINK)).with_context(|| format!("binding UDP port {SINK}"))
    })?;
    task.step();
    for round in 0..runs {
        for series in &mut series {
            task.doing(&series.load.about());
            for place in Place::both(round) {
                let run = series.measure(&lan, place, seconds)?;
                match place {
                    Place::Ours => series.ours.push(run),
                    Place::Elsewhere => series.elsewhere.push(run),
                }
            }
            series.say(&task);
            task.step();
        }
    }
    let cost = frame_cost(&mut lan, &task)?;
    task.step();
    drop((task, lan));
    for series in &series {
        series.record(bench, seconds)?;
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
    let mut add = |load, quantity| {
        all.push(Series {
            load,
            quantity,
            ours: Vec::new(),
            elsewhere: Vec::new(),
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
                add(Load::Frames(kind, rate), Quantity::Goodput);
            }
        }
        if !quick {
            add(Load::Frames(kind, None), Quantity::RoundTrips);
        }
    }
    add(Load::Neighbour, Quantity::Goodput);
    add(Load::Neighbour, Quantity::RoundTrips);
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

    fn start(self, lan: &Lan) -> Result<Generator> {
        match self {
            Self::Frames(kind, rate) => {
                Generator::frames(lan.evil(), lan.cable(), rate, kind.writer(lan)?)
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
    /// One run.
    fn measure(&self, lan: &Lan, place: Place, seconds: u32) -> Result<Run> {
        lan.place(self.load.flooder(), place)?;
        let before = fate(lan)?;
        let generator = self.load.start(lan)?;
        let value = match self.quantity {
            Quantity::Goodput => {
                let (server, client) = (lan.gateway().namespace(), lan.victim().namespace());
                iperf3_one_way(server, client, GATEWAY_V4.into(), seconds, false)? / 1e9
            }
            Quantity::RoundTrips => {
                pause(Duration::from_millis(200))?;
                let count = (seconds * 1000) as usize / ECHO_EVERY.as_millis() as usize / 2;
                trips(lan, count)?
            }
        };
        let sent = generator.finish()? / 1e3;
        let mut fate = fate(lan)?;
        for (verdict, count) in &mut fate {
            *count -= before.get(verdict).copied().unwrap_or(0).min(*count);
        }
        fate.retain(|_, count| *count > 0);
        lan.place(self.load.flooder(), Place::Ours)?;
        Ok(Run { value, sent, fate })
    }

    fn say(&self, task: &Task) {
        let (Some(ours), Some(elsewhere)) = (self.ours.last(), self.elsewhere.last()) else {
            return;
        };
        task.say(&format!(
            "{:<17} {:.0} kpps ({:.0}): {:.2} over {:.2} {} is {:.2}; {}",
            self.load.metric(),
            ours.sent,
            elsewhere.sent,
            ours.value,
            elsewhere.value,
            self.quantity.unit(),
            ours.value / elsewhere.value,
            shares(&ours.fate),
        ));
    }

    /// Each round's ratio.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.elsewhere);
        pairs
            .map(|(ours, control)| ours.value / control.value)
            .collect()
    }

    fn record(&self, bench: &mut Bench, seconds: u32) -> Result<()> {
        let values = |runs: &[Run]| runs.iter().map(|run| run.value).collect::<Vec<_>>();
        let sent = |runs: &[Run]| median(&runs.iter().map(|run| run.sent).collect::<Vec<_>>());
        let (ours, control) = (values(&self.ours), values(&self.elsewhere));
        let fate = self.ours.last().map(|run| shares(&run.fate));
        let method = format!(
            "{}; sent {:.0} kpps, in the control run {:.0}; {}; control: the same flood to a port on another \
             switch, same round; of the last run's frames at the Gateway's port: {}",
            self.load.about(),
            sent(&self.ours),
            sent(&self.elsewhere),
            self.quantity.method(seconds),
            fate.unwrap_or_default(),
        );
        let metric = format!("flood.{}", self.load.metric());
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
            Some(median(&control)),
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

    fn unit(self) -> &'static str {
        match self {
            Self::Goodput => "Gbit/s",
            Self::RoundTrips => "us",
        }
    }

    fn method(self, seconds: u32) -> String {
        match self {
            Self::Goodput => format!("TCP of a Workstation to the Gateway, iperf3, {seconds} s"),
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
    let generator = Load::Frames(Kind::Forged, STEP).start(lan)?;
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
