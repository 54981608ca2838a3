//! Suite `aead`: the criterion benchmark of the engines, run in turns, and its samples as figures.
//!
//! A benchmark `aead.seal` of engine `vaes` at 64 bytes is the metric `aead.seal.64.vaes.ns`; the engine
//! `auto`, which runs where nothing is configured, is `aead.seal.64.ns`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Bench;
use super::release::criterion_program;
use crate::rig::{Scratch, check};

/// Seconds for all of it.
const BUDGET: (f64, f64) = (26.0, 600.0);
/// What criterion needs for a benchmark besides measuring.
const OVERHEAD: f64 = 0.03;

/// Measures it.
///
/// # Errors
/// When the benchmark cannot be built or fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let program = criterion_program("aead")?;
    let rounds = bench.runs(1, 3);
    let count = list(&program)?;
    ensure!(count > 0, "{} has no benchmarks", program.display());
    let budget = if bench.quick() { BUDGET.0 } else { BUDGET.1 };
    let each = (budget / f64::from(rounds) / count as f64 - OVERHEAD).clamp(0.06, 3.0);
    let (warm_up, measure) = (each * 0.25, each * 0.75);
    let task = bench.task("AEAD engines", u64::from(rounds) * count);
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        let home = Scratch::new("criterion")?;
        let mut running = Command::new(&program)
            .args([
                "--bench",
                "--noplot",
                "--sample-size",
                "10",
                "--nresamples",
                "1001",
            ])
            .args(["--warm-up-time", &format!("{warm_up:.3}")])
            .args(["--measurement-time", &format!("{measure:.3}")])
            .env("CRITERION_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("running {}", program.display()))?;
        let output = running.stdout.take().context("no standard output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line.contains("time:") {
                task.doing(line.split("time:").next().unwrap_or_default().trim());
                task.step();
            }
        }
        let status = running.wait()?;
        check()?;
        ensure!(
            status.success(),
            "{} ended with {status}",
            program.display()
        );
        for (metric, samples) in collect(home.path())? {
            all.entry(metric).or_default().extend(samples);
        }
    }
    drop(task);
    let method = format!(
        "criterion, 10 samples of {measure:.2} s together in each of {rounds} rounds over all engines and sizes, one core, header as associated data"
    );
    for (metric, samples) in in_order(all) {
        bench.measured(metric, "ns", &samples, None, &method)?;
    }
    Ok(())
}

/// How many benchmarks a criterion program has.
fn list(program: &Path) -> Result<u64> {
    let output = Command::new(program)
        .args(["--bench", "--list"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter(|line| line.ends_with(": benchmark"))
        .count() as u64)
}

/// By operation, then by size as a number, then by engine.
fn in_order(all: BTreeMap<String, Vec<f64>>) -> Vec<(String, Vec<f64>)> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_cached_key(|(metric, _)| {
        let mut parts = metric.split('.');
        let operation: Vec<String> = parts
            .by_ref()
            .take_while(|part| part.parse::<u64>().is_err())
            .map(str::to_owned)
            .collect();
        let size = metric.split('.').find_map(|part| part.parse::<u64>().ok());
        (
            operation,
            size,
            parts.map(str::to_owned).collect::<Vec<_>>(),
        )
    });
    all
}

/// What criterion calls a benchmark.
#[derive(Debug, Deserialize)]
struct Identity {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
}

/// Times of so many iterations each.
#[derive(Debug, Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// The metric of a benchmark; none where it has no size.
fn metric(identity: &Identity) -> Option<String> {
    let parts = [&identity.function_id, &identity.value_str];
    let parts = parts.into_iter().flatten().flat_map(|part| part.split('/'));
    let (sizes, others): (Vec<&str>, Vec<&str>) =
        parts.partition(|part| part.parse::<u64>().is_ok());
    let mut metric = format!("{}.{}", identity.group_id, sizes.first()?);
    for part in others.into_iter().filter(|part| *part != "auto") {
        metric.push('.');
        metric.push_str(part);
    }
    Some(metric + ".ns")
}

/// The samples of all benchmarks below criterion's directory, in nanoseconds an iteration.
fn collect(home: &Path) -> Result<Vec<(String, Vec<f64>)>> {
    let mut found = Vec::new();
    for directory in results(home) {
        let identity: Identity = read(&directory.join("benchmark.json"))?;
        let sample: Sample = read(&directory.join("sample.json"))?;
        let times = sample.times.iter().zip(&sample.iters);
        let each = times.map(|(time, iterations)| time / iterations).collect();
        found.extend(metric(&identity).map(|metric| (metric, each)));
    }
    Ok(found)
}

/// The directories called `new` with a benchmark in them.
fn results(home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![home.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let inner = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        left.extend(inner);
        if directory.ends_with("new") && directory.join("benchmark.json").is_file() {
            found.push(directory);
        }
    }
    found
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(group: &str, function: Option<&str>, value: Option<&str>) -> Option<String> {
        metric(&Identity {
            group_id: group.into(),
            function_id: function.map(str::to_owned),
            value_str: value.map(str::to_owned),
        })
    }

    #[test]
    fn size_and_engine_are_found_whichever_comes_first_and_auto_is_not_named() {
        for (function, value, is) in [
            ("vaes", "64", "aead.seal.64.vaes.ns"),
            ("64", "vaes-avx2", "aead.seal.64.vaes-avx2.ns"),
            ("auto", "1400", "aead.seal.1400.ns"),
            ("9000", "auto", "aead.seal.9000.ns"),
        ] {
            assert_eq!(
                named("aead.seal", Some(function), Some(value)).as_deref(),
                Some(is)
            );
        }
        let authenticate = named("aead.authenticate.seal", Some("64"), Some("auto"));
        assert_eq!(
            authenticate.as_deref(),
            Some("aead.authenticate.seal.64.ns")
        );
        assert_eq!(
            named("aead.open", Some("64"), None).as_deref(),
            Some("aead.open.64.ns")
        );
        assert_eq!(named("aead.seal", Some("auto"), None), None);
    }

    #[test]
    fn samples_are_read_from_criterions_files_as_times_of_one_iteration() {
        let home = Scratch::new("t").unwrap();
        let new = home.path().join("aead.seal/vaes/64/new");
        fs::create_dir_all(&new).unwrap();
        // Left from an earlier run: not to be taken.
        fs::create_dir_all(home.path().join("aead.seal/vaes/64/base")).unwrap();
        fs::write(
            new.join("benchmark.json"),
            r#"{"group_id":"aead.seal","function_id":"vaes","value_str":"64","throughput":{"Bytes":64},"full_id":"x"}"#,
        )
        .unwrap();
        let sample = r#"{"sampling_mode":"Linear","iters":[2.0,4.0],"times":[100.0,240.0]}"#;
        fs::write(new.join("sample.json"), sample).unwrap();
        let expected = vec![("aead.seal.64.vaes.ns".to_owned(), vec![50.0, 60.0])];
        assert_eq!(collect(home.path()).unwrap(), expected);
        fs::write(new.join("sample.json"), "{}").unwrap();
        assert!(collect(home.path()).is_err());
    }

    #[test]
    fn figures_are_ordered_by_operation_then_size_as_a_number() {
        let names = [
            "aead.seal.64.ns",
            "aead.seal.1024.ns",
            "aead.open.9000.x.ns",
            "aead.seal.64.aes.ns",
        ];
        let all = names
            .iter()
            .map(|name| ((*name).to_owned(), vec![1.0]))
            .collect();
        let ordered: Vec<String> = in_order(all).into_iter().map(|(name, _)| name).collect();
        let expected = [
            "aead.open.9000.x.ns",
            "aead.seal.64.aes.ns",
            "aead.seal.64.ns",
            "aead.seal.1024.ns",
        ];
        assert_eq!(ordered, expected);
    }
}
