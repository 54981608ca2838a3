//! The tasks around cargo: build, test, and what continuous integration runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::fuzz::{self, TRIPLE, has_sanitizer};
use crate::inventory;
use crate::rig::{require_root, sweep};

/// The workspace's root.
///
/// # Errors
/// When the task is run outside of it.
pub fn root() -> Result<PathBuf> {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let compiled = compiled.context("the manifest has no parent directory")?;
    ensure!(
        compiled.join("Cargo.toml").is_file(),
        "{} is not there any more: run this from a checkout by `cargo xtask`",
        compiled.display()
    );
    Ok(compiled.to_owned())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let shown = format!("cargo {}", arguments.join(" "));
    println!("+ {shown}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root()?)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("running `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

/// Builds everything, then runs every test of the workspace. `arguments` go to `cargo test`.
///
/// # Errors
/// Without root, or when a build or a test fails.
pub fn test(arguments: &[String]) -> Result<()> {
    require_root()?;
    sweep();
    // The end-to-end tests run the programs; cargo builds those only where they are asked for.
    cargo(&["build", "--workspace", "--all-targets"], &[])?;
    let mut all = vec!["test", "--workspace", "--no-fail-fast"];
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all, &[])
}

/// As [`test()`], all but the standard library and C built with a sanitizer, in a directory of its own.
///
/// # Errors
/// Where the compiler has no such sanitizer; and as [`test()`].
pub fn test_sanitized(sanitizer: &str, arguments: &[String]) -> Result<()> {
    require_root()?;
    sweep();
    let short = match sanitizer {
        "address" => "asan",
        other => other,
    };
    ensure!(
        has_sanitizer(short)?,
        "this rustc has no {sanitizer} sanitizer: use rustup's (https://rustup.rs), whose stable release has it"
    );
    let flags = format!("-Zsanitizer={sanitizer}");
    let environment = [
        // What makes a stable compiler take -Z.
        ("RUSTC_BOOTSTRAP", "1"),
        ("RUSTFLAGS", &flags),
        ("CARGO_TARGET_DIR", "target/sanitized"),
        // Programs that are killed leave what they had; a leak is looked for elsewhere. The arguments of
        // memcpy are not checked: libxdp copies 15 bytes of an interface's name, however long it is, and
        // who is confined cannot start the symbolizer that an exception for it would need.
        (
            "ASAN_OPTIONS",
            "detect_leaks=0:abort_on_error=1:replace_intrin=0",
        ),
    ];
    let whole = ["--workspace", "--target", TRIPLE];
    let build = [&["build"], &whole[..], &["--bins"]].concat();
    cargo(&build, &environment)?;
    let mut all = [&["test"], &whole[..], &["--no-fail-fast"]].concat();
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all, &environment)
}

/// Builds the XDP object, which the dataplane's build script makes, and prints where it is.
///
/// # Errors
/// When the build fails or makes none.
pub fn build_ebpf() -> Result<()> {
    println!("+ cargo build --package portcullis-dataplane");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--package",
            "portcullis-dataplane",
            "--message-format",
            "json",
        ])
        .current_dir(root()?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo build")?;
    ensure!(
        output.status.success(),
        "the build failed: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let directory = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "build-script-executed")
        .filter(|message| {
            let package = message["package_id"].as_str();
            package
                .is_some_and(|id| id.contains("portcullis-dataplane") || id.contains("/dataplane#"))
        })
        .find_map(|message| message["out_dir"].as_str().map(PathBuf::from));
    let Some(directory) = directory else {
        bail!("the dataplane has no build script output: is dataplane/build.rs there?");
    };
    let object = elf_below(&directory).with_context(|| {
        format!(
            "the build script left no BPF object below {}",
            directory.display()
        )
    })?;
    println!("{}", object.display());
    Ok(())
}

/// The first BPF ELF object below a directory, nearest first.
fn elf_below(directory: &Path) -> Option<PathBuf> {
    let mut inner = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(directory).ok()?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            inner.push(path);
        } else if is_bpf(&path) {
            return Some(path);
        }
    }
    inner.iter().find_map(|path| elf_below(path))
}

/// ELF with machine 247 (EM_BPF).
fn is_bpf(path: &Path) -> bool {
    let mut head = [0; 20];
    let read = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && head[..4] == *b"\x7fELF" && head[18..20] == [247, 0]
}

/// Formatting, lints and documentation without a warning, then [`test()`].
///
/// # Errors
/// At the first that fails.
pub fn ci() -> Result<()> {
    lint()?;
    test(&[])?;
    fuzz::run(&fuzz::Options::smoke())
}

/// Formatting, lints and documentation, each warning an error; the eBPF crate's too; the inventory of
/// `unsafe`, and what `deny.toml` asks of the dependencies.
///
/// # Errors
/// At the first that fails.
pub fn lint() -> Result<()> {
    inventory::check(&root()?)?;
    deny()?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    let ebpf = root()?.join("ebpf/Cargo.toml");
    if let Some(manifest) = ebpf.to_str().filter(|_| ebpf.is_file()) {
        // Its lints come with its build, as an error: clippy has no `core` for the BPF target where
        // that comes from a distribution's package.
        cargo(&["fmt", "--check", "--manifest-path", manifest], &[])?;
    }
    cargo(
        &["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"],
        &[],
    )?;
    cargo(
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )?;
    cargo(
        &[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
        &[(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links",
        )],
    )
}

/// What `./run setup` has put into its cache under this path.
///
/// # Errors
/// It is not there.
pub fn cached(path: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let path = cache.join("portcullis").join(path);
    ensure!(
        path.exists(),
        "{} is not there: `./run setup` or `./run dist` puts it there",
        path.display()
    );
    Ok(path)
}

/// Holds the dependencies of the programs, of what they load and of the fuzz targets to deny.toml. Known vulnerabilities are
/// looked up too; that their database cannot be reached is said, and fails nothing.
fn deny() -> Result<()> {
    let binary = cached("cargo-deny/bin/cargo-deny")?;
    let root = root()?;
    for manifest in ["Cargo.toml", "ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
        for what in [&["licenses", "bans", "sources"][..], &["advisories"]] {
            let shown = format!("cargo deny check {} ({manifest})", what.join(" "));
            println!("+ {shown}");
            let mut command = Command::new(&binary);
            command.args(["--log-level", "error", "--manifest-path", manifest]);
            command.args(["--config", "deny.toml", "check"]).args(what);
            let output = command.current_dir(&root).stdin(Stdio::null()).output();
            let output = output.with_context(|| format!("running `{shown}`"))?;
            if output.status.success() {
                continue;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            if no_database(&said) {
                println!("warning: the database of advisories cannot be reached: not looked up");
                continue;
            }
            bail!("`{shown}` failed; deny.toml says why each rule is there:\n{said}");
        }
    }
    Ok(())
}

/// Whether cargo-deny has found nothing wrong but that it could not get the advisories.
fn no_database(said: &str) -> bool {
    said.contains("failed to fetch advisory database") && !said.contains("error[")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_out_of_reach_fails_nothing_and_a_vulnerability_does() {
        let unreachable = "2026-11-26 [ERROR] failed to fetch advisory database https://github.com/RustSec/advisory-db \
            with cli: failed to clone: fatal: Could not resolve host: github.com";
        assert!(no_database(unreachable));
        assert!(!no_database(
            "error[vulnerability]: a double free\n  ID: RUSTSEC-2021-0001"
        ));
        assert!(!no_database("[ERROR] failed to parse deny.toml"));
    }
}
