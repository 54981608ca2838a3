//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and runs them.
//!
//! What cargo-fuzz does, without it and without a nightly toolchain: the coverage instrumentation is
//! LLVM's own, and AddressSanitizer joins in where the toolchain has its runtime (rustup's does, a
//! distribution's may not). Only our own crates are instrumented: for that this program stands
//! between cargo and the compiler ([`as_compiler`]).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::tasks::root;

/// The only target the tasks build for by name.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Its value is the flags with which [`as_compiler`] compiles our crates.
const FLAGS: &str = "PORTCULLIS_FUZZ_FLAGS";
const COVERAGE: [&str; 7] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub struct Options {
    /// The targets; all of them when none is named
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Executions of each target, at most; 0 for no limit
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub runs: u64,
    /// Seconds of each target, at most; 0 for no limit
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub seconds: u32,
    /// Keep what reaches new code in fuzz/corpus (without, it is kept in fuzz/target only)
    #[arg(long)]
    pub keep: bool,
}

impl Options {
    /// A few seconds of each target.
    pub fn smoke() -> Self {
        Self {
            targets: Vec::new(),
            runs: 20_000,
            seconds: 10,
            keep: false,
        }
    }
}

/// Builds the targets and runs each of those named.
///
/// # Errors
/// A target is unknown, the build fails, or a target found something: the input is then kept in
/// `fuzz/artifacts`.
pub fn run(options: &Options) -> Result<()> {
    let fuzz = root()?.join("fuzz");
    let all = targets(&fuzz)?;
    for target in &options.targets {
        ensure!(
            all.contains(target),
            "there is no fuzz target {target}; there are {}",
            all.join(", ")
        );
    }
    let chosen = if options.targets.is_empty() {
        &all
    } else {
        &options.targets
    };
    let programs = build(&fuzz)?;
    let failed: Vec<&str> = chosen
        .iter()
        .filter_map(|target| match one(&fuzz, &programs, target, options) {
            Ok(true) => None,
            Ok(false) => Some(Ok(target.as_str())),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_>>()?;
    ensure!(
        failed.is_empty(),
        "{} failed; the inputs are in {}: run one again as `{}/TARGET FILE`",
        failed.join(", "),
        fuzz.join("artifacts").display(),
        programs.display()
    );
    Ok(())
}

/// The names of the targets, by their files.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let entries = std::fs::read_dir(&directory)
        .with_context(|| format!("looking for fuzz targets in {}", directory.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".rs")?.to_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Where cargo has been told to compile by this program ([`build`]): compiles, and does not return
/// but for an error.
pub fn as_compiler() -> Option<std::io::Error> {
    let flags = std::env::var(FLAGS).ok()?;
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next()?);
    let rest: Vec<_> = arguments.collect();
    let ours = std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name.starts_with("portcullis-"));
    let script = rest.iter().any(|argument| argument == "build_script_build");
    command.args(rest);
    if ours && !script {
        // What makes a stable compiler take -Z and -Cpasses of its own.
        command.args(flags.split(' ')).env("RUSTC_BOOTSTRAP", "1");
    }
    Some(command.exec())
}

/// Builds all targets; gives the directory they are in.
fn build(fuzz: &Path) -> Result<PathBuf> {
    let mut flags = COVERAGE.to_vec();
    if has_sanitizer("asan")? {
        flags.push("-Zsanitizer=address");
    } else {
        println!("this toolchain has no AddressSanitizer runtime: fuzzing without it");
    }
    println!("+ cargo build --locked (in fuzz, instrumented)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let this = std::env::current_exe().context("finding the running program")?;
    // The workspace's, which has most of what is not ours already. What is ours is not mixed up with what is there:
    // it is optimised more.
    let target = this
        .ancestors()
        .nth(2)
        .context("finding cargo's directory")?;
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(target)
        .env("RUSTC_WRAPPER", &this)
        .env(FLAGS, flags.join(" "))
        .current_dir(fuzz)
        .stdin(Stdio::null())
        .status()
        .context("running cargo build in fuzz")?;
    ensure!(
        status.success(),
        "building the fuzz targets failed: {status}"
    );
    Ok(target.join("debug"))
}

/// Whether the compiler comes with a sanitizer's runtime (`asan`, `tsan`).
///
/// # Errors
/// The compiler cannot be asked.
pub fn has_sanitizer(name: &str) -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .context("asking rustc where its libraries are")?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let libraries = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TRIPLE)
        .join("lib");
    let end = format!("rt.{name}.a");
    Ok(std::fs::read_dir(libraries).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(&end))
    }))
}

/// Runs one target; false when it found something.
fn one(fuzz: &Path, programs: &Path, target: &str, options: &Options) -> Result<bool> {
    let seeds = fuzz.join("corpus").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    let work = fuzz.join("target/corpus").join(target);
    for directory in [&seeds, &artifacts, &work] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("making {}", directory.display()))?;
    }
    // In memory, as what a target writes is written durably thousands of times a second.
    let temporary = tempfile::tempdir_in("/dev/shm").context("making a directory in /dev/shm")?;
    let mut command = Command::new(programs.join(target));
    command
        .env("TMPDIR", temporary.path())
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([
            "-print_final_stats=1",
            "-print_funcs=0",
            "-verbosity=0",
            "-timeout=10",
            "-rss_limit_mb=4096",
        ]);
    if options.runs > 0 {
        command.arg(format!("-runs={}", options.runs));
    }
    if options.seconds > 0 {
        command.arg(format!("-max_total_time={}", options.seconds));
    }
    let words = fuzz.join("dictionaries").join(format!("{target}.dict"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    // libFuzzer writes to the first directory and only reads the others.
    if options.keep {
        command.arg(&seeds);
    } else {
        command.arg(&work).arg(&seeds);
    }
    let output = command
        .current_dir(fuzz)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running the fuzz target {target}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let figure = |name: &str| {
        let line = said.lines().find(|line| line.contains(name));
        line.and_then(|line| line.split_whitespace().last())
            .map(str::to_owned)
    };
    if !output.status.success() {
        eprintln!("{said}");
        println!("{target}: FAILED ({})", output.status);
        return Ok(false);
    }
    match (
        figure("number_of_executed_units"),
        figure("average_exec_per_sec"),
    ) {
        (Some(runs), Some(rate)) => {
            println!("{target}: {runs} executions, {rate} a second, nothing found")
        }
        _ => bail!("the fuzz target {target} ended without its figures:\n{said}"),
    }
    Ok(true)
}
