//! `cargo xtask vm-test`: the real programs on real NIC drivers and other kernels, in emulated machines.
//!
//! QEMU and the kernels are Debian's packages, fetched by an apt of our own ([`debian`]) and unpacked into
//! the cache. A guest's file system ([`image`]) holds our programs and what they are tested with; its
//! first program is this one ([`mod@guest`]), which puts the two NICs of the machine into namespaces, runs the
//! scenarios there and tells of each ([`report`]) over a serial line.

mod debian;
mod guest;
mod image;
mod kernel;
mod machine;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

pub use guest::{Options as GuestOptions, run as guest};
pub use kernel::Release;
pub use machine::Driver;

use crate::report::Table;
use crate::rig::{Programs, Scratch, check, require_root, sweep};
use debian::Archive;
use guest::SCENARIOS;
use image::Image;
use kernel::Kernel;
use machine::{Guest, Qemu};
use report::{Ended, Scenario, Told};

/// What the programs are tested with, of this machine.
const TOOLS: [&str; 5] = ["ip", "bridge", "ethtool", "ping", "iperf3"];
const PROGRAMS: [&str; 4] = ["portcullisd", "portcullis", "portcullis-agent", "xtask"];

/// What `cargo xtask vm-test` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only these drivers
    #[arg(long, value_enum, value_name = "NAME")]
    pub driver: Vec<Driver>,
    /// Only these kernels
    #[arg(long, value_enum, value_name = "RELEASE")]
    pub kernel: Vec<Release>,
    /// Only these scenarios; `attacks` and `wireguard` are run only so
    #[arg(long, value_name = "NAME", value_parser = known)]
    pub scenario: Vec<String>,
    /// The programs' `zero_copy`: auto, on or off
    #[arg(long, default_value = "auto", value_name = "WHEN", value_parser = ["auto", "on", "off"])]
    pub zero_copy: String,
    /// How long each machine may take
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub timeout: u64,
    /// What continuous integration runs: igb and virtio on the newest kernel, and on every kernel whether
    /// it takes all eBPF programs
    #[arg(long, conflicts_with_all = ["driver", "kernel", "scenario", "zero_copy"])]
    pub ci: bool,
    /// Write how each scenario ended to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn known(name: &str) -> Result<String, String> {
    let names = || SCENARIOS.iter().map(|(name, _)| *name);
    match names().any(|known| known == name) {
        true => Ok(name.to_owned()),
        false => Err(format!("one of {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// A machine to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trial {
    driver: Driver,
    release: Release,
    scenarios: Vec<String>,
    zero_copy: String,
}

/// How it went.
#[derive(Debug, serde::Serialize)]
struct Tried {
    driver: &'static str,
    kernel: String,
    zero_copy: String,
    scenarios: Vec<Scenario>,
    /// What ended it before its time.
    broken: Option<String>,
}

const DRIVERS: [Driver; 5] = [
    Driver::Virtio,
    Driver::Igb,
    Driver::Vmxnet3,
    Driver::E1000e,
    Driver::Veth,
];
const RELEASES: [Release; 3] = [Release::Newest, Release::V6_12, Release::V6_1];

/// Runs the scenarios in a machine for each driver and kernel.
///
/// # Errors
/// Something cannot be fetched or built, or a scenario failed.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the machines are x86-64, and so must this be"
    );
    require_root()?;
    let programs = Programs::find()?;
    sweep();
    let cache = cache()?;
    let archive = Archive::open(&cache)?;
    let qemu = Qemu::get(&archive, &cache)?;
    let start = Instant::now();
    let mut all = Vec::new();
    for trial in trials(options) {
        check()?;
        let kernel = Kernel::get(&archive, &cache, trial.release)?;
        println!("{} on Linux {}:", trial.driver.name(), kernel.version);
        let tried = attempt(&trial, &qemu, &kernel, &programs, options.timeout)?;
        if let Some(broken) = &tried.broken {
            println!("  BROKEN: {}", indented(broken));
        }
        all.push(tried);
    }
    print!("\n{}", table(&all));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&all).context("writing JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    let failed: usize = all.iter().map(failures).sum();
    ensure!(failed == 0, "{failed} of these did not hold");
    println!("\nAll held, in {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

fn failures(tried: &Tried) -> usize {
    let failed = tried
        .scenarios
        .iter()
        .filter(|one| one.ended == Ended::Failed);
    failed.count() + usize::from(tried.broken.is_some())
}

fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let cache = cache.join("portcullis/vm");
    std::fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    Ok(cache)
}

/// The machines that these words ask for.
fn trials(options: &Options) -> Vec<Trial> {
    let trial = |driver, release, scenarios: &[String], zero_copy: &str| Trial {
        driver,
        release,
        scenarios: scenarios.to_vec(),
        zero_copy: zero_copy.to_owned(),
    };
    if options.ci {
        let load = ["load".to_owned()];
        return vec![
            trial(Driver::Virtio, Release::Newest, &[], "on"),
            trial(Driver::Igb, Release::Newest, &[], "auto"),
            trial(Driver::Veth, Release::V6_12, &load, "auto"),
            trial(Driver::Veth, Release::V6_1, &load, "auto"),
        ];
    }
    let drivers = if options.driver.is_empty() {
        &DRIVERS[..]
    } else {
        &options.driver
    };
    let releases = if options.kernel.is_empty() {
        &RELEASES[..]
    } else {
        &options.kernel
    };
    let each = releases
        .iter()
        .flat_map(|release| drivers.iter().map(move |driver| (*driver, *release)));
    each.map(|(driver, release)| trial(driver, release, &options.scenario, &options.zero_copy))
        .collect()
}

fn attempt(
    trial: &Trial,
    qemu: &Qemu,
    kernel: &Kernel,
    programs: &Programs,
    timeout: u64,
) -> Result<Tried> {
    let scratch = Scratch::new("vm")?;
    let file = scratch.path().join("image.cpio");
    build(&file, qemu, kernel, programs)?;
    let mut words = vec![format!("--driver={}", trial.driver.name())];
    words.extend(
        trial
            .scenarios
            .iter()
            .map(|name| format!("--scenario={name}")),
    );
    words.push(format!("--zero-copy={}", trial.zero_copy));
    let name = format!("console-{}-{}", trial.driver.name(), kernel.version);
    let console = cache()?.join(name);
    let guest = Guest {
        qemu,
        kernel,
        image: &file,
        driver: trial.driver,
        words: &words,
        console: &console,
        timeout: Duration::from_secs(timeout),
    };
    let mut scenarios = Vec::new();
    let ended = guest.run(|told| {
        if let Told::Scenario(scenario) = told {
            println!(
                "  {:<10} {:<8} {:>5.1} s  {}",
                scenario.scenario,
                scenario.ended.name(),
                scenario.seconds,
                indented(&scenario.detail)
            );
            scenarios.push(scenario.clone());
        }
    });
    check()?;
    Ok(Tried {
        driver: trial.driver.name(),
        kernel: kernel.version.clone(),
        zero_copy: trial.zero_copy.clone(),
        broken: ended.err().map(|error| format!("{error:#}")),
        scenarios,
    })
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n      ")
}

/// The guest's file system.
fn build(file: &Path, qemu: &Qemu, kernel: &Kernel, programs: &Programs) -> Result<()> {
    let mut image = Image::create(file)?;
    for name in PROGRAMS {
        image.program(name, &programs.path(name))?;
    }
    for name in TOOLS {
        image.program(name, &installed(name)?)?;
    }
    image.program("wg", &qemu.beside("usr/bin/wg"))?;
    let mut order = String::new();
    for module in kernel.modules()? {
        let name = module
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(&module)?;
        let to = format!("{}/{name}.ko", image::MODULES);
        image.file(Path::new(to.trim_start_matches('/')), &bytes)?;
        order += &format!("{name}\n");
    }
    let to = format!("{}/order", image::MODULES);
    image.file(Path::new(to.trim_start_matches('/')), order.as_bytes())?;
    image.finish()
}

/// A program of this machine.
fn installed(name: &str) -> Result<PathBuf> {
    let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let mut places = directories
        .iter()
        .map(|directory| Path::new(directory).join(name));
    match places.find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is not installed: `./run setup` does that"),
    }
}

/// A row for each scenario, a column for each machine.
fn table(all: &[Tried]) -> String {
    let mut headings = vec!["scenario".to_owned()];
    headings.extend(all.iter().map(|tried| {
        let release = tried.kernel.split(['+', '-']).next().unwrap_or_default();
        format!(
            "{} {release}{}",
            tried.driver,
            match tried.zero_copy.as_str() {
                "on" => " zc",
                "off" => " copy",
                _ => "",
            }
        )
    }));
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for (name, _) in SCENARIOS {
        let cells: Vec<String> = all
            .iter()
            .map(|tried| {
                let found = tried.scenarios.iter().find(|one| one.scenario == *name);
                found.map_or("-", |one| one.ended.name()).to_owned()
            })
            .collect();
        if cells.iter().any(|cell| cell != "-") {
            table.row(std::iter::once((*name).to_owned()).chain(cells));
        }
    }
    table.render()
}
