//! The instrument: `cargo xtask bench [SUITE...]`.
//!
//! A suite is a function that measures one concern and records [`Figure`]s; [`SUITES`] lists them, and
//! the command line, its help and the order come from that table. Whatever is compared is measured in
//! one go, taking turns (ABAB), on one rig, so that what else the machine does is shared fairly.
//! Only release builds are measured: another build of this program makes one and continues as that.

mod admission;
mod aead;
mod context;
mod e2e;
mod encapsulation;
mod flood;
mod options;
mod peers;
mod pipeline;
mod release;
mod report;
mod restart;
mod search;
mod shared;
mod traffic;

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::report::Table;
use crate::rig::{self, Serial, check, require_root, sweep};

pub use context::Bench;
pub use encapsulation::Encapsulation;
pub use options::Options;
pub use portcullis_benches::figure::{self, Figure, Provenance, median, percentile};
pub use portcullis_benches::progress::{Progress, Task};
pub use search::{Found, Plan, Search, Trial, search};
pub use traffic::{
    Latency, UDP_PAYLOADS, UdpPlan, UdpRates, cpu_seconds, gigabytes, latency, latency_under,
    load_seconds, tcp, udp_rates,
};

/// One concern that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// Its name on the command line, which its metrics begin with.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Whether `--quick` measures it without being told to.
    pub quick: bool,
    /// Measures it.
    pub run: fn(&mut Bench) -> Result<()>,
}

/// All suites, in the order in which they run.
pub const SUITES: [Suite; 8] = [
    Suite {
        name: "admission",
        about: "nanoseconds a verdict costs in XDP, over an empty program",
        quick: true,
        run: admission::run,
    },
    Suite {
        name: "aead",
        about: "nanoseconds to seal and open a frame, by engine and size",
        quick: true,
        run: aead::run,
    },
    Suite {
        name: "pipeline",
        about: "frames a second through the worker, without a kernel",
        quick: true,
        run: pipeline::run,
    },
    Suite {
        name: "e2e",
        about: "TCP, UDP, round trips and CPU of the real programs, beside plain veth",
        quick: true,
        run: e2e::run,
    },
    Suite {
        name: "flood",
        about: "what a Workstation keeps while its LAN is flooded",
        quick: true,
        run: flood::run,
    },
    Suite {
        name: "restart",
        about: "kill -9 of the Gateway to the first reply, 1 and 64 Workstations",
        quick: true,
        run: restart::run,
    },
    Suite {
        name: "shared",
        about: "what nginx and Tor on the Gateway keep beside the wall of a shared port",
        quick: false,
        run: shared::run,
    },
    Suite {
        name: "peers",
        about: "the same traffic through other tunnels, on the same rig",
        quick: true,
        run: peers::run,
    },
];

/// Measures, prints, and writes what the options ask for.
///
/// # Errors
/// Without root, when the release build fails, when a file cannot be written, or when a suite failed
/// (the others are measured and written all the same).
pub fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.from {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let figures: Vec<Figure> = serde_json::from_str(&text)
            .with_context(|| format!("{} is no list of figures", file.display()))?;
        println!("{}", table(&figures).render());
        return write(options, &figures);
    }
    require_root()?;
    if cfg!(debug_assertions) {
        return Err(release::build_and_continue(&options.words()));
    }
    rig::arm()?;
    sweep();
    let _turn = Serial::acquire()?;
    let mut bench = Bench::new(options.clone());
    println!(
        "{}\n{}\n",
        bench.provenance().command,
        bench.provenance().machine
    );
    let mut failed = Vec::new();
    for suite in SUITES.iter().filter(|suite| options.wants(suite)) {
        println!("{}: {}", suite.name, suite.about);
        let from = bench.figures().len();
        let outcome = (suite.run)(&mut bench);
        let figures = &bench.figures()[from..];
        if !figures.is_empty() {
            println!("\n{}", table(figures).render());
        }
        // What was measured is worth as much without what was not.
        if let Err(error) = outcome {
            check()?;
            eprintln!("{} failed: {error:#}\n", suite.name);
            failed.push(suite.name);
        }
    }
    write(options, bench.figures())?;
    if !failed.is_empty() {
        bail!("not all was measured: {} failed", failed.join(", "));
    }
    Ok(())
}

fn write(options: &Options, figures: &[Figure]) -> Result<()> {
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(figures)?)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("figures: {}", path.display());
    }
    if let Some(directory) = &options.report {
        println!("report: {}", report::write(directory, figures)?.display());
    }
    Ok(())
}

/// The figures as a table for people.
fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new(&["metric", "median", "min", "max", "unit", "n", "bound"]);
    for figure in figures {
        table.row([
            figure.metric.clone(),
            figure::readable(figure.value),
            figure::readable(figure.min),
            figure::readable(figure.max),
            figure.unit.clone(),
            figure.n.to_string(),
            figure.bound.map_or_else(String::new, figure::readable),
        ]);
    }
    table
}
