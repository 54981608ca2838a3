//! Suite `pipeline`: the real worker loop on one core, between rings in memory. Bound: the AEAD alone
//! on the same sizes, keys and number of sessions, in the same turns.

use std::time::Duration;

use anyhow::Result;
use portcullis_benches::pipeline::{Traffic, Way, imix};
use portcullis_benches::scaling;
use portcullis_benches::worker::{self, Case};

use super::{Bench, median};

/// Sizes, IMIX, TCP that becomes super-packets, and small frames of many sessions; each both ways.
fn cases() -> Vec<Case> {
    let one = |size| Traffic {
        sizes: vec![size],
        sessions: 1,
        tcp: false,
    };
    let mut kinds: Vec<(String, Traffic)> = [64, 128, 256, 512, 1024, 1400]
        .into_iter()
        .map(|size| (size.to_string(), one(size)))
        .collect();
    let sizes = imix();
    kinds.push(("imix".into(), Traffic { sizes, ..one(64) }));
    for sessions in [10, 100, 1000, 10_000] {
        let many = |size| Traffic {
            sessions,
            ..one(size)
        };
        kinds.push((format!("64.sessions{sessions}"), many(64)));
    }
    let each = |(name, traffic): (String, Traffic)| {
        [Way::Open, Way::Seal].map(|way| Case::new(&name, traffic.clone(), way))
    };
    let mut cases: Vec<Case> = kinds.into_iter().flat_map(each).collect();
    let stream = Traffic {
        tcp: true,
        ..one(1400)
    };
    cases.push(Case::new("1400.tcp", stream, Way::Open));
    cases
}

/// Measures it.
///
/// # Errors
/// When nothing could be measured.
pub fn run(bench: &mut Bench) -> Result<()> {
    let mut cases = cases();
    let rounds = bench.runs(2, 3);
    let time = Duration::from_millis(if bench.quick() { 200 } else { 1500 });
    let task = bench.task("worker", u64::from(rounds) * cases.len() as u64);
    let method = worker::measure(&mut cases, rounds, time, &task);
    drop(task);
    for case in cases {
        for figure in case.rates(&method)? {
            bench.record(figure);
        }
    }
    scale(bench, time)
}

/// What several workers open together, each its own frames or each another's. Bound: so many times
/// what one worker opens, or as often as there are cores.
fn scale(bench: &mut Bench, time: Duration) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = [1, 2, 4];
    let ways = [
        (scaling::Way::Own, "own"),
        (scaling::Way::Handed, "handed_over"),
    ];
    let task = bench.task("several workers", (workers.len() * ways.len()) as u64);
    let mut measured = Vec::new();
    for count in workers {
        for (way, name) in ways {
            task.doing(&format!("{count} workers, {name}"));
            if count > 1 || way == scaling::Way::Own {
                measured.push((count, name, scaling::mpps(count, way, 1400, time)));
            }
            task.step();
        }
    }
    drop(task);
    let one = measured.first().map_or(0.0, |(_, _, rates)| median(rates));
    let method = format!(
        "workers between rings in memory, one thread each, 1400 bytes; {cores} cores, beyond which more workers can gain nothing"
    );
    for (count, name, rates) in measured {
        let bound = one * count.min(cores) as f64;
        let metric = format!("pipeline.{name}.1400.workers{count}.mpps");
        bench.measured(metric, "Mpps", &rates, Some(bound), &method)?;
    }
    Ok(())
}
