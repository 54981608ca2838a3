//! `cargo xtask`: what a developer of Portcullis runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use portcullis_xtask::{attack, bench, demo, dist, fuzz, inventory, pages, rig, tasks, vm};

/// What a developer of Portcullis runs
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show everything in network namespaces, then every attack (root; about a minute)
    Demo {
        /// About how long it may take
        #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=3600))]
        seconds: u32,
        /// Leave configuration and logs in place
        #[arg(long)]
        keep: bool,
        /// Write all figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Attack a Gateway in every way that is known here, and show that each fails (root; about two minutes)
    Attack(attack::Options),
    /// Build everything and run every test (root)
    Test {
        /// Build all of it with a sanitizer of the compiler's, beside the ordinary build
        #[arg(long, value_name = "NAME", value_parser = ["address"])]
        sanitize: Option<String>,
        /// Passed to cargo test
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure everything, as release builds (root): admission in XDP, AEAD, worker, the whole, floods,
    /// restarts, and other tunnels on the same rig
    Bench(bench::Options),
    /// Fuzz what reads a hostile cable or a file, with libFuzzer
    Fuzz(fuzz::Options),
    /// Make what is given to users: Debian packages, static programs, bill of materials, sums
    Dist(dist::Options),
    /// Try the programs on real NIC drivers and other kernels, in emulated machines (root): a quarter of an
    /// hour for all of them
    VmTest(vm::Options),
    /// What runs in such a machine
    #[command(hide = true)]
    VmGuest(vm::GuestOptions),
    /// Build the XDP program and print where it is
    BuildEbpf,
    /// Formatting, lints, documentation, dependencies and the inventory of unsafe, each warning an error
    Lint,
    /// Count `unsafe` again for docs/unsafe.md
    Unsafe,
    /// Write the programs' man pages and completions
    Man {
        /// Where to
        #[arg(default_value = "target/pages", value_name = "DIR")]
        directory: PathBuf,
    },
    /// What continuous integration runs: lint, then test (root)
    Ci,
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo {
            seconds,
            keep,
            json,
        } => {
            rig::arm()?;
            demo::run(&demo::Options {
                seconds,
                keep,
                json,
            })
        }
        Task::Attack(options) => {
            rig::arm()?;
            attack::run(&options)
        }
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Test {
            sanitize,
            arguments,
        } => match sanitize {
            None => tasks::test(&arguments),
            Some(sanitizer) => tasks::test_sanitized(&sanitizer, &arguments),
        },
        Task::VmTest(options) => {
            rig::arm()?;
            vm::run(&options)
        }
        Task::VmGuest(options) => vm::guest(&options),
        Task::BuildEbpf => tasks::build_ebpf(),
        Task::Lint => tasks::lint(),
        Task::Unsafe => inventory::write(&tasks::root()?),
        Task::Man { directory } => {
            let written = pages::write(&directory)?;
            println!("{} files below {}", written.len(), directory.display());
            Ok(())
        }
        Task::Ci => tasks::ci(),
    }
}

fn main() -> ExitCode {
    if let Some(error) = fuzz::as_compiler() {
        eprintln!("error: the compiler cannot be run: {error}");
        return ExitCode::FAILURE;
    }
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if rig::interrupted() => ExitCode::from(130),
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
