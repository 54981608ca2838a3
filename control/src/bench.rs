//! `portcullis bench`: what this machine can do, in a few seconds, by the harness that `cargo xtask bench`
//! measures with.
//!
//! It runs beside whatever else runs: on one core at a time, with low priority, on rings in memory and in
//! a network namespace of its own. So it takes nothing from a daemon but what is left of the cores; and
//! on a busy machine its figures are too low.

use crate::cli::{Context, Outcome};
use crate::problem::{Kind, Problem};
use crate::show;
use dataplane::engine::Engine;
use portcullis_benches::admission::{self, Plan};
use portcullis_benches::figure::{Figure, readable};
use portcullis_benches::pipeline::{Traffic, Way};
use portcullis_benches::progress::Progress;
use portcullis_benches::worker::{self, Case};
use portcullis_benches::{give_way, machine};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::stdout;
use std::time::Duration;

/// Measure what this machine can do, in about fifteen seconds.
///
/// Three things are measured, each by itself: what XDP takes to decide on a frame, what encryption takes, and
/// how many frames a worker opens and seals. No daemon is needed, and one that runs is left alone; but what
/// else the machine does makes the figures lower.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis bench
  portcullis bench --quick
  portcullis bench --json > figures.json

The work that the kernel and the network card have with each frame is not in it, and neither is any other use \
of the cores: a tunnel is slower than its worker. What XDP takes is measured as root only.")]
pub struct Arguments {
    /// Take about five seconds, with figures less steady.
    #[arg(long)]
    quick: bool,
}

/// What was measured, and what it means.
#[derive(Debug, Serialize)]
struct Report {
    /// CPUs and kernel.
    machine: String,
    /// The AEAD engine that was chosen for this CPU.
    engine: &'static str,
    /// What to keep in mind with the figures.
    notes: Vec<String>,
    figures: Vec<Figure>,
    /// What to expect, in sentences.
    expect: Vec<String>,
}

/// A figure's place in the report: metric, and what it is.
type Meaning = (&'static str, &'static str);

const XDP: [Meaning; 5] = [
    ("admission.empty.ns", "run at all; the others take it too"),
    ("admission.foreign.ns", "drop what is not the tunnel's"),
    ("admission.bad_tag.ns", "drop a forged frame"),
    ("admission.replay.ns", "drop a frame that came before"),
    ("admission.admitted.ns", "let a frame in"),
];
const AEAD: [Meaning; 4] = [
    ("aead.seal.64.ns", "encrypt 64 bytes"),
    ("aead.open.64.ns", "decrypt 64 bytes"),
    ("aead.seal.1400.ns", "encrypt 1400 bytes"),
    ("aead.open.1400.ns", "decrypt 1400 bytes"),
];
const WORKER: [Meaning; 6] = [
    ("pipeline.open.64.mpps", "take 64 bytes in"),
    (
        "pipeline.open.64.sessions100.mpps",
        "the same of 100 Workstations",
    ),
    ("pipeline.seal.64.mpps", "send 64 bytes"),
    ("pipeline.open.1400.gbps", "take 1400 bytes in"),
    ("pipeline.open.1400.tcp.gbps", "the same, TCP put together"),
    ("pipeline.seal.1400.gbps", "send 1400 bytes"),
];

/// Measures, and says what it means.
///
/// # Errors
/// Something could not be measured that can be on every machine.
pub fn run(context: &Context, arguments: &Arguments) -> Outcome {
    give_way();
    let report = measure(arguments.quick)?;
    context.print(&report, || text(&report, show::colours(&stdout())))
}

fn measure(quick: bool) -> Result<Report, Problem> {
    let failed = |error| {
        Problem::new(
            Kind::Failed,
            "measuring this machine",
            format!("{error:#}"),
            "run it again; if it fails again, tell the maintainers",
        )
    };
    let progress = Progress::new();
    let mut figures = Vec::new();
    let mut notes =
        vec!["what else this machine does meanwhile makes the figures lower".to_owned()];
    if cfg!(debug_assertions) {
        notes.push(
            "this program was built for debugging: built for release it is faster".to_owned(),
        );
    }
    let (rounds, repeats) = if quick { (5, 50_000) } else { (11, 200_000) };
    let plan = Plan {
        rounds,
        repeats,
        singles: 1000,
    };
    let task = progress.task("verdicts in XDP", u64::from(rounds));
    match admission::measure(plan, &task) {
        Ok(measured) => figures.extend(measured),
        Err(error) if nix::unistd::geteuid().is_root() => {
            notes.push(format!("XDP was not measured: {error:#}"));
        }
        Err(_) => notes.push("XDP was not measured, for that takes root: run it as root".into()),
    }
    drop(task);
    let mut cases = cases();
    let (rounds, time) = if quick { (2, 150) } else { (3, 550) };
    let task = progress.task(
        "encryption and the worker",
        u64::from(rounds) * cases.len() as u64,
    );
    let method = worker::measure(&mut cases, rounds, Duration::from_millis(time), &task);
    drop(task);
    for case in &cases {
        figures.push(case.aead(&method).map_err(failed)?);
        figures.extend(case.rates(&method).map_err(failed)?);
    }
    Ok(Report {
        machine: machine::describe(),
        engine: Engine::Auto.resolve().name(),
        notes,
        expect: expect(&figures),
        figures,
    })
}

fn cases() -> Vec<Case> {
    let of = |size, sessions, tcp| Traffic {
        sizes: vec![size],
        sessions,
        tcp,
    };
    vec![
        Case::new("64", of(64, 1, false), Way::Open),
        Case::new("64", of(64, 1, false), Way::Seal),
        Case::new("1400", of(1400, 1, false), Way::Open),
        Case::new("1400", of(1400, 1, false), Way::Seal),
        Case::new("1400.tcp", of(1400, 1, true), Way::Open),
        Case::new("64.sessions100", of(64, 100, false), Way::Open),
    ]
}

fn find<'a>(figures: &'a [Figure], metric: &str) -> Option<&'a Figure> {
    figures.iter().find(|figure| figure.metric == metric)
}

/// What the figures promise, in sentences.
fn expect(figures: &[Figure]) -> Vec<String> {
    let value = |metric: &str| find(figures, metric).map(|figure| figure.value);
    let mut all = Vec::new();
    if let (Some(small), Some(large)) = (
        value("pipeline.open.64.mpps"),
        value("pipeline.open.1400.tcp.gbps"),
    ) {
        all.push(format!(
            "about {small:.1} Mpps of 64 B, or {large:.1} Gbit/s of TCP, through one worker: per core, before what the kernel takes"
        ));
    }
    // Each of the two runs once for a frame that is dropped.
    if let (Some(forged), Some(empty)) =
        (value("admission.bad_tag.ns"), value("admission.empty.ns"))
    {
        let each = forged + empty;
        all.push(format!(
            "a flood of forged frames takes {:.0} % of one core per million a second in XDP, and nothing beyond it",
            each / 10.0
        ));
    }
    all
}

/// The report for people.
fn text(report: &Report, colours: bool) -> String {
    let mut text = format!("{}, engine {}\n", report.machine, report.engine);
    for note in &report.notes {
        let _ = writeln!(text, "  {note}");
    }
    for (head, what, meanings) in [
        ("XDP", "what its program takes to ...", &XDP[..]),
        ("ENCRYPTION", "what it takes to ...", &AEAD),
        ("WORKER", "what one core can ...", &WORKER),
    ] {
        let rows: Vec<_> = meanings
            .iter()
            .filter_map(|(metric, meaning)| Some((find(&report.figures, metric)?, *meaning)))
            .map(|(figure, meaning)| {
                let mut cells = vec![meaning.to_owned()];
                cells.extend([figure.value, figure.min, figure.max].map(readable));
                cells.extend([figure.unit.clone(), figure.n.to_string()]);
                cells
            })
            .collect();
        if !rows.is_empty() {
            let head = format!("{head}: {what}");
            let heads = [&head, "MEDIAN", "MIN", "MAX", "UNIT", "SAMPLES"];
            let _ = write!(text, "\n{}", show::table(&heads, &rows, colours));
        }
    }
    text.push_str("\nExpect of it:\n");
    for line in &report.expect {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(metric: &str, samples: &[f64]) -> Figure {
        let unit = if metric.ends_with("mpps") {
            "Mpps"
        } else {
            "ns"
        };
        Figure::of(metric, unit, samples, None, "made up").unwrap()
    }

    #[test]
    fn each_metric_that_is_explained_is_measured() {
        let names: Vec<_> = cases()
            .iter()
            .flat_map(|case| {
                let name = case.name();
                [
                    format!("pipeline.{name}.mpps"),
                    format!("pipeline.{name}.gbps"),
                    format!("aead.{name}.ns"),
                ]
            })
            .collect();
        for (metric, _) in WORKER.iter().chain(&AEAD) {
            assert!(names.iter().any(|name| name == metric), "{metric}");
        }
    }

    #[test]
    fn what_was_not_measured_is_left_out_and_what_was_is_read_with_its_spread() {
        let report = Report {
            machine: "2 x CPU".into(),
            engine: "vaes",
            notes: vec!["a note".into()],
            figures: vec![
                figure("pipeline.open.64.mpps", &[1.0, 3.0, 2.0]),
                figure("pipeline.open.1400.tcp.gbps", &[8.0]),
            ],
            expect: Vec::new(),
        };
        let shown = text(&report, false);
        assert!(!shown.contains("XDP"), "{shown}");
        let line = shown.lines().find(|line| line.contains("take 64 bytes in"));
        let words: Vec<_> = line.unwrap().split_whitespace().skip(4).collect();
        assert_eq!(words, ["2.00", "1.00", "3.00", "Mpps", "3"]);
        let told = expect(&report.figures);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("2.0 Mpps of 64 B, or 8.0 Gbit/s"),
            "{told:?}"
        );
    }
}
