//! The command line of `cargo xtask`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{attack, bench, demo, dist, fuzz, inventory, pages, rig, tasks, vm};

/// What a developer of Portcullis runs
#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "Examples:
  cargo xtask demo             # all of it in namespaces of this machine
  cargo xtask test             # every test
  cargo xtask bench --quick    # figures of this machine in five minutes

All three need root."
)]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show everything in network namespaces, then every attack (root; about a minute)
    #[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --seconds 120 --json figures.json")]
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
    #[command(after_help = "Examples:
  cargo xtask attack
  cargo xtask attack replay --seconds 5
  cargo xtask attack --list    # which there are, and what must hold of each
  # from the Internet instead of a LAN
  cargo xtask attack --encapsulation udp --json attacks.json")]
    Attack(attack::Options),
    /// Build everything and run every test (root)
    #[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test --sanitize address
  cargo xtask test --test e2e_top    # only one file of tests")]
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
    #[command(after_help = "Examples:
  cargo xtask bench --quick
  cargo xtask bench admission aead --runs 3
  cargo xtask bench --json figures.json --report pages
  # draws them again, measures nothing
  cargo xtask bench --from figures.json --report pages")]
    Bench(bench::Options),
    /// Fuzz what reads a hostile cable or a file, with libFuzzer
    #[command(after_help = "Examples:
  cargo xtask fuzz
  cargo xtask fuzz handshake_gateway --runs 10000000 --seconds 0
  cargo xtask fuzz inner --keep")]
    Fuzz(fuzz::Options),
    /// Make what is given to users: Debian packages, static programs, bill of materials, sums
    #[command(after_help = "Examples:
  cargo xtask dist
  cargo xtask dist --twice    # and whether a second build gives the same")]
    Dist(dist::Options),
    /// Try the programs on real NIC drivers and other kernels, in emulated machines (root): a quarter of an
    /// hour for all of them
    #[command(after_help = "Examples:
  cargo xtask vm-test
  cargo xtask vm-test --driver virtio --kernel newest")]
    VmTest(vm::Options),
    /// What runs in such a machine
    #[command(hide = true)]
    VmGuest(vm::GuestOptions),
    /// Build the XDP program and print where it is
    #[command(after_help = "Example:
  cargo xtask build-ebpf")]
    BuildEbpf,
    /// Formatting, lints, documentation, dependencies and the inventory of unsafe, each warning an error
    #[command(after_help = "Example:
  cargo xtask lint")]
    Lint,
    /// Count `unsafe` again for docs/unsafe.md
    #[command(after_help = "Example:
  cargo xtask unsafe")]
    Unsafe,
    /// Write the programs' man pages and completions
    #[command(after_help = "Examples:
  cargo xtask man
  cargo xtask man pages")]
    Man {
        /// Where to
        #[arg(default_value = "target/pages", value_name = "DIR")]
        directory: PathBuf,
    },
    /// What continuous integration runs: lint, then test (root)
    #[command(after_help = "Example:
  cargo xtask ci")]
    Ci,
}

/// The arguments, for whoever wants to look at them.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what was asked for.
///
/// # Errors
/// What went wrong.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.task {
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
