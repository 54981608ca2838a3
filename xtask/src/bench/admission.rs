//! Suite `admission`: what a frame costs in XDP, by its verdict.

use anyhow::Result;
use portcullis_benches::admission::{Plan, measure};

use super::Bench;

/// Measures it.
///
/// # Errors
/// When the wall cannot be raised, or a frame gets another verdict than it was made for.
pub fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.runs(9, 15);
    let (repeats, singles) = if bench.quick() {
        (250_000, 2_000)
    } else {
        (2_000_000, 20_000)
    };
    let plan = Plan {
        rounds,
        repeats,
        singles,
    };
    let task = bench.task("verdicts in XDP", u64::from(rounds));
    let figures = measure(plan, &task)?;
    drop(task);
    figures.into_iter().for_each(|figure| bench.record(figure));
    Ok(())
}
