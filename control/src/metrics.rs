//! What a Gateway counts, in Prometheus' text format.
//!
//! How many series there are is bounded: so many Workstations have series of their own
//! ([`MOST_WORKSTATIONS`], those first by name), and all others are added up as [`OTHERS`]. Reasons,
//! verdicts and outcomes come from fixed lists; of a Workstation or a pin, those that never occurred are left out.
//! A port has [`wire::pinned::MAX_PINS`] pins at most.

use crate::api::{Counters, PortState, Status, WorkstationStatus};
use dataplane::counters::BATCH_BOUNDS;
use dataplane::port::FrameCensus;
use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::collections::BTreeMap;

/// Workstations that have series of their own.
pub const MOST_WORKSTATIONS: usize = 256;
/// What stands for all the others; no Workstation can be called so.
pub const OTHERS: &str = "_others";
/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What metrics are made of: the status, and what is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The status.
    pub status: Status,
    /// How long batches took, by worker.
    pub batches: Vec<Batches>,
    /// Where the frames of each port are.
    pub frames: BTreeMap<String, FrameCensus>,
    /// More of Workstations, by name.
    pub workstations: BTreeMap<String, More>,
}

/// What is not in a Workstation's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct More {
    /// Handshakes by outcome.
    pub handshakes: Counters,
    /// Frames admitted that wait for its worker.
    pub queued: u64,
    /// AEAD blocks its session may still seal.
    pub blocks_left: Option<u64>,
}

/// How long a worker's batches took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches {
    /// How many took at most each of [`BATCH_BOUNDS`] and more than the one before, and then those that
    /// took longer.
    pub counts: Vec<u64>,
    /// Nanoseconds they took together.
    pub nanoseconds: u64,
}

/// The metrics as text.
pub fn text(sample: &Sample) -> String {
    let families = families(sample);
    TextEncoder::new()
        .encode_to_string(&families)
        .unwrap_or_default()
}

/// Metrics of one name.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

fn labelled(labels: Labels<'_>) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

impl Family {
    fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self {
            name,
            help,
            kind,
            metrics: Vec::new(),
        }
    }

    fn put(&mut self, labels: Labels<'_>, value: u64) {
        let mut metric = labelled(labels);
        match self.kind {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value as f64);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value as f64);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// One for each of some counters; those that are zero too, where `all`.
    fn put_each(&mut self, labels: Labels<'_>, by: &str, counters: &Counters, all: bool) {
        for (name, value) in counters {
            if all || *value > 0 {
                self.put(&[labels, &[(by, name.as_str())]].concat(), *value);
            }
        }
    }

    fn put_batches(&mut self, labels: Labels<'_>, batches: &Batches) {
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(BATCH_BOUNDS.len());
        for (bound, count) in BATCH_BOUNDS.iter().zip(&batches.counts) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(batches.counts.iter().sum());
        histogram.set_sample_sum(batches.nanoseconds as f64 / 1e9);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.metrics);
        family
    }
}

/// A Workstation's numbers, or those of several added up.
#[derive(Default)]
struct Numbers {
    sessions: u64,
    enabled: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    opened: u64,
    rekeys: u64,
    clones: u64,
    queued: u64,
    blocks_left: Option<u64>,
    drops: Counters,
    verdicts: Counters,
    handshakes: Counters,
}

impl Numbers {
    fn add(&mut self, of: &WorkstationStatus, more: Option<&More>) {
        self.sessions += u64::from(of.session.is_some());
        self.enabled += u64::from(of.enabled);
        self.packets[0] += of.rx.packets;
        self.packets[1] += of.tx.packets;
        self.bytes[0] += of.rx.bytes;
        self.bytes[1] += of.tx.bytes;
        self.opened += of.opened;
        self.rekeys += of.rekeys;
        self.clones += u64::from(of.clone_suspected);
        let none = More::default();
        let more = more.unwrap_or(&none);
        self.queued += more.queued;
        // The least of several: it is the one that ends first.
        let left = self.blocks_left.into_iter().chain(more.blocks_left);
        self.blocks_left = left.min();
        for (into, from) in [
            (&mut self.drops, &of.drops),
            (&mut self.verdicts, &of.verdicts),
            (&mut self.handshakes, &more.handshakes),
        ] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// Each Workstation's numbers, as many as are told apart.
fn numbers(sample: &Sample) -> Vec<(&str, Numbers)> {
    let mut all: Vec<(&str, Numbers)> = Vec::new();
    let usable = sample.status.workstations.iter();
    let usable = usable.filter(|one| one.broken.is_none());
    for (at, one) in usable.enumerate() {
        if at <= MOST_WORKSTATIONS {
            let name = match at < MOST_WORKSTATIONS {
                true => one.name.as_str(),
                false => OTHERS,
            };
            all.push((name, Numbers::default()));
        }
        if let Some((_, numbers)) = all.last_mut() {
            numbers.add(one, sample.workstations.get(&one.name));
        }
    }
    all
}

fn families(sample: &Sample) -> Vec<MetricFamily> {
    let mut all = gateway(sample);
    all.extend(ports(sample));
    all.extend(workstations(sample));
    // A name without a value is not written.
    all.retain(|family| !family.metrics.is_empty());
    all.into_iter().map(Family::finish).collect()
}

fn gateway(sample: &Sample) -> Vec<Family> {
    let status = &sample.status;
    let mut info = Family::gauge(
        "portcullis_info",
        "The program's version and the AEAD engine at work; always 1.",
    );
    info.put(
        &[("version", &status.version), ("engine", &status.engine)],
        1,
    );
    let mut uptime = Family::gauge(
        "portcullis_uptime_seconds",
        "How long the daemon has been running.",
    );
    uptime.put(&[], status.started_seconds);
    let mut workers = Family::gauge("portcullis_workers", "How many workers there are.");
    workers.put(&[], status.workers as u64);
    let count = |right: &dyn Fn(&WorkstationStatus) -> bool| {
        status.workstations.iter().filter(|one| right(one)).count() as u64
    };
    let mut sessions = Family::gauge("portcullis_sessions", "Workstations that have a session.");
    sessions.put(&[], count(&|one| one.session.is_some()));
    let mut known = Family::gauge(
        "portcullis_workstations",
        "Workstations by state: enabled, disabled, or with a file that cannot be used.",
    );
    known.put(
        &[("state", "enabled")],
        count(&|one| one.broken.is_none() && one.enabled),
    );
    known.put(
        &[("state", "disabled")],
        count(&|one| one.broken.is_none() && !one.enabled),
    );
    known.put(&[("state", "broken")], count(&|one| one.broken.is_some()));
    let mut warnings = Family::gauge(
        "portcullis_warnings",
        "What a person should know: how many warnings `portcullis show` gives.",
    );
    warnings.put(&[], status.warnings.len() as u64);
    let mut events = Family::counter(
        "portcullis_worker_events_total",
        "What workers and the control thread count that belongs to no Workstation, by the counter's name.",
    );
    events.put_each(&[], "event", &status.counters, true);
    let mut batches = Family::new(
        "portcullis_batch_seconds",
        "How long a worker's rounds took that moved something, of up to 256 frames a port.",
        MetricType::HISTOGRAM,
    );
    for (worker, one) in sample.batches.iter().enumerate() {
        batches.put_batches(&[("worker", &worker.to_string())], one);
    }
    vec![
        info, uptime, workers, sessions, known, warnings, events, batches,
    ]
}

fn ports(sample: &Sample) -> Vec<Family> {
    let mut up = Family::gauge(
        "portcullis_port_up",
        "Whether a port is attached, bound, and has its carrier.",
    );
    let mut verdicts = Family::counter(
        "portcullis_port_frames_total",
        "Frames that came in on a port by verdict of admission; every verdict but admitted, passed and answered is a drop.",
    );
    let mut packets = Family::counter(
        "portcullis_port_packets_total",
        "Frames that came in by a port's interface (rx) and left by it (tx), as its driver counts them.",
    );
    let mut bytes = Family::counter("portcullis_port_bytes_total", "Their bytes.");
    let mut pins = Family::counter(
        "portcullis_pin_frames_total",
        "Frames from a pinned MAC address by verdict of admission; every verdict but passed and answered is a drop.",
    );
    let mut losses = Family::counter(
        "portcullis_port_ring_losses_total",
        "Frames and events lost at a port's rings, and frames that its NIC had no buffer for, by reason.",
    );
    let mut guard = Family::counter(
        "portcullis_port_guard_drops_total",
        "Frames of the kernel that the egress guard has kept from leaving a port.",
    );
    let mut frames = Family::gauge(
        "portcullis_port_pool_frames",
        "Where the frames of a port's pool are.",
    );
    for port in &sample.status.ports {
        let labels: Labels<'_> = &[("port", &port.interface)];
        up.put(labels, u64::from(port.state == PortState::Up));
        verdicts.put_each(labels, "verdict", &port.verdicts, true);
        for (direction, traffic) in [("rx", port.rx), ("tx", port.tx)] {
            let labels = [labels, &[("direction", direction)]].concat();
            packets.put(&labels, traffic.packets);
            bytes.put(&labels, traffic.bytes);
        }
        for pin in &port.pins {
            let labels = [labels, &[("mac", &*pin.mac)]].concat();
            pins.put_each(&labels, "verdict", &pin.verdicts, false);
        }
        losses.put_each(labels, "reason", &port.ring_losses, true);
        guard.put(labels, port.guard_drops);
        if let Some(census) = sample.frames.get(&port.interface) {
            for (place, count) in [
                ("receiving", census.receiving),
                ("sending", census.sending),
                ("held", census.held),
                ("stash", census.stash),
                ("free", census.free),
            ] {
                frames.put(&[labels, &[("place", place)]].concat(), count as u64);
            }
        }
    }
    vec![up, verdicts, packets, bytes, pins, losses, guard, frames]
}

fn workstations(sample: &Sample) -> Vec<Family> {
    let mut session = Family::gauge(
        "portcullis_workstation_sessions",
        "Whether a Workstation has a session.",
    );
    let mut enabled = Family::gauge(
        "portcullis_workstation_enabled",
        "Whether a Workstation is served.",
    );
    let mut packets = Family::counter(
        "portcullis_workstation_packets_total",
        "Inner packets from a Workstation (rx) and to it (tx).",
    );
    let mut bytes = Family::counter("portcullis_workstation_bytes_total", "Their bytes.");
    let mut opened = Family::counter(
        "portcullis_workstation_opened_total",
        "A Workstation's frames whose AEAD tag verified.",
    );
    let mut drops = Family::counter(
        "portcullis_workstation_drops_total",
        "A Workstation's frames and packets dropped after admission, by reason.",
    );
    let mut verdicts = Family::counter(
        "portcullis_workstation_frames_total",
        "A Workstation's frames by verdict of admission; every verdict but admitted, passed and answered is a drop.",
    );
    let mut handshakes = Family::counter(
        "portcullis_workstation_handshakes_total",
        "Handshakes that claim to be a Workstation's, by outcome.",
    );
    let mut rekeys = Family::counter(
        "portcullis_workstation_rekeys_total",
        "Sessions that replaced another.",
    );
    let mut clones = Family::gauge(
        "portcullis_workstation_clone_suspected",
        "Whether two machines seem to have a Workstation's keys.",
    );
    let mut queued = Family::gauge(
        "portcullis_workstation_queue_frames",
        "Frames of a Workstation that were admitted and wait for its worker.",
    );
    let mut blocks = Family::gauge(
        "portcullis_workstation_aead_blocks_left",
        "AEAD blocks that a Workstation's session may still seal; it rekeys before there are none.",
    );
    for (name, numbers) in numbers(sample) {
        let labels: Labels<'_> = &[("workstation", name)];
        session.put(labels, numbers.sessions);
        enabled.put(labels, numbers.enabled);
        for (at, direction) in ["rx", "tx"].into_iter().enumerate() {
            let labels = [labels, &[("direction", direction)]].concat();
            packets.put(&labels, numbers.packets[at]);
            bytes.put(&labels, numbers.bytes[at]);
        }
        opened.put(labels, numbers.opened);
        drops.put_each(labels, "reason", &numbers.drops, false);
        verdicts.put_each(labels, "verdict", &numbers.verdicts, false);
        handshakes.put_each(labels, "outcome", &numbers.handshakes, false);
        rekeys.put(labels, numbers.rekeys);
        clones.put(labels, numbers.clones);
        queued.put(labels, numbers.queued);
        if let Some(left) = numbers.blocks_left {
            blocks.put(labels, left);
        }
    }
    vec![
        session, enabled, packets, bytes, opened, drops, verdicts, handshakes, rekeys, clones,
        queued, blocks,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PortStatus, Traffic};

    fn counted(name: &str, count: u64) -> Counters {
        [(name.to_owned(), count), ("never".to_owned(), 0)].into()
    }

    fn sample(workstations: usize) -> Sample {
        Sample {
            status: Status {
                version: "1.2.3".into(),
                ports: vec![PortStatus {
                    interface: "eth1".into(),
                    verdicts: counted("admitted", 5),
                    ..PortStatus::default()
                }],
                workstations: (0..workstations)
                    .map(|number| WorkstationStatus {
                        name: format!("w{number:04}"),
                        rx: Traffic {
                            packets: 2,
                            bytes: 3,
                        },
                        drops: counted("replayed", 1),
                        ..WorkstationStatus::default()
                    })
                    .collect(),
                ..Status::default()
            },
            batches: vec![Batches {
                counts: (0..=BATCH_BOUNDS.len() as u64).collect(),
                nanoseconds: 2_000_000_000,
            }],
            frames: [(
                "eth1".to_owned(),
                FrameCensus {
                    free: 7,
                    ..FrameCensus::default()
                },
            )]
            .into(),
            workstations: [(
                "w0000".to_owned(),
                More {
                    blocks_left: Some(9),
                    ..More::default()
                },
            )]
            .into(),
        }
    }

    #[test]
    fn what_is_counted_stands_in_the_text() {
        let text = text(&sample(1));
        for line in [
            "portcullis_info{engine=\"\",version=\"1.2.3\"} 1",
            "portcullis_port_frames_total{port=\"eth1\",verdict=\"admitted\"} 5",
            "portcullis_port_frames_total{port=\"eth1\",verdict=\"never\"} 0",
            "portcullis_workstation_bytes_total{direction=\"rx\",workstation=\"w0000\"} 3",
            "portcullis_workstation_drops_total{reason=\"replayed\",workstation=\"w0000\"} 1",
            "portcullis_workstation_aead_blocks_left{workstation=\"w0000\"} 9",
            "portcullis_port_pool_frames{place=\"free\",port=\"eth1\"} 7",
            "portcullis_batch_seconds_sum{worker=\"0\"} 2",
        ] {
            let sorted = |line: &str| {
                let mut parts: Vec<String> = line
                    .split(['{', '}', ',', ' '])
                    .map(str::to_owned)
                    .collect();
                parts.sort();
                parts
            };
            let there = text.lines().any(|other| sorted(other) == sorted(line));
            assert!(there, "{line}\n{text}");
        }
        assert!(!text.contains("reason=\"never\""));
        let all: u64 = (0..=BATCH_BOUNDS.len() as u64).sum();
        assert!(text.contains(&format!(
            "portcullis_batch_seconds_count{{worker=\"0\"}} {all}"
        )));
        assert!(
            text.contains(&format!("le=\"+Inf\"}} {all}")) || text.contains("le=\"+Inf\",worker")
        );
    }

    #[test]
    fn many_workstations_make_no_more_series_and_lose_no_count() {
        let text = text(&sample(4096));
        assert!(text.lines().count() < 8000, "{}", text.lines().count());
        let sum: f64 = text
            .lines()
            .filter(|line| line.starts_with("portcullis_workstation_packets_total{"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum();
        assert_eq!(sum, 2.0 * 4096.0);
        let others = format!("workstation=\"{OTHERS}\"");
        assert!(text.contains(&others));
        assert!(OTHERS.parse::<crate::workstation::Name>().is_err());
    }
}
