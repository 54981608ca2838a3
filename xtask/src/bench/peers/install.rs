//! Getting the programs of other projects: Debian packages by `apt-get`, crates by `cargo install` into
//! a cache, where a later run finds them again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bench::Task;
use crate::rig::{Process, Scratch, wait_for};
use crate::tasks;

/// How long a download and a build may take.
const PATIENCE: Duration = Duration::from_secs(1500);

/// Where a program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A Debian package of this name.
    Debian(&'static str),
    /// A crate of this name and version.
    Crate(&'static str, &'static str),
}

impl Source {
    /// The program's path, and what it is in words; installed where it is missing.
    ///
    /// # Errors
    /// When it is not there and cannot be had, with the last that `apt-get` or `cargo` said.
    pub(super) fn get(self, program: &str, task: &Task) -> Result<(PathBuf, String)> {
        match self {
            Self::Debian(package) => {
                let path = debian(package, program, task)?;
                let version = version_of(package).unwrap_or_else(|| "of unknown version".into());
                Ok((path, format!("{package} {version} (Debian)")))
            }
            Self::Crate(name, version) => {
                let path = built(&cache()?, name, version, program, task)?;
                Ok((path, format!("{name} {version} (crates.io)")))
            }
        }
    }
}

/// A program of a Debian package, which is installed unless the program is there.
///
/// # Errors
/// When `apt-get` cannot install it.
pub(in crate::bench) fn debian(package: &str, program: &str, task: &Task) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    task.say(&format!("installing the Debian package {package}"));
    // Old lists name packages that the mirror no longer has.
    for arguments in [
        &["update"][..],
        &["install", "--yes", "--no-install-recommends", package],
    ] {
        let mut command = Command::new("apt-get");
        command
            .args(["-o", "DPkg::Lock::Timeout=60", "--quiet"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        watch("apt-get", command, task)?;
    }
    find(program)
        .with_context(|| format!("the Debian package {package} is installed and has no {program}"))
}

/// A program of a crate, built into the cache unless it is there. `cargo install` puts it in place when
/// it is complete, so that what is there is whole.
fn built(cache: &Path, name: &str, version: &str, program: &str, task: &Task) -> Result<PathBuf> {
    let root = cache.join(format!("{name}-{version}"));
    let path = root.join("bin").join(program);
    if path.is_file() {
        return Ok(path);
    }
    task.say(&format!(
        "building {name} {version} into {}; this takes minutes, once",
        root.display()
    ));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "--locked", "--version", version, "--root"])
        .arg(&root)
        .arg(name)
        // The compiler is the one this workspace is built with.
        .current_dir(tasks::root()?);
    watch("cargo install", command, task)?;
    if !path.is_file() {
        bail!("{name} {version} is built and has no {program}");
    }
    Ok(path)
}

/// Runs a command to its end, and shows the last line it wrote.
fn watch(name: &str, mut command: Command, task: &Task) -> Result<()> {
    let scratch = Scratch::new("install")?;
    command.stdin(Stdio::null());
    let mut process = Process::start(name, command, &scratch.path().join("log"))?;
    let status = wait_for(&format!("{name} to end"), PATIENCE, || {
        let ended = process.exited();
        if ended.is_none() {
            task.doing(process.log_tail(1).trim());
            // A build writes much, and is in no hurry.
            std::thread::sleep(Duration::from_millis(200));
        }
        ended
    })?;
    if !status.success() {
        bail!("{name} ended with {status}: {}", process.log_tail(4));
    }
    Ok(())
}

/// The directory that survives a run.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("portcullis/peers"))
}

/// A program in PATH, or where Debian puts those of the administrator.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(usual);
    directories
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn version_of(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Version}", package])
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Progress;

    #[test]
    fn what_is_in_the_cache_is_not_built_again() {
        let scratch = Scratch::new("t").unwrap();
        let bin = scratch.path().join("some-1.2.3/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("program"), "").unwrap();
        let task = Progress::new().task("test", 1);
        let found = built(scratch.path(), "some", "1.2.3", "program", &task).unwrap();
        assert_eq!(found, bin.join("program"));
    }

    #[test]
    fn a_command_that_fails_is_reported_with_its_last_words() {
        let task = Progress::new().task("test", 1);
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such crate >&2; exit 3"]);
        let error = watch("cargo install", command, &task)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such crate") && error.contains('3'),
            "{error}"
        );
    }
}
