//! `cargo xtask dist`: what is given to users. Debian packages, static programs, their bill of materials
//! and the sums of all of it, the same bytes each time.
//!
//! The programs are linked twice: for the packages with the distribution's libraries, and static, for
//! everything else. They are built at the same path always, paths of the machine that builds are
//! mapped away, and the only time in the files is that of the changelog's first entry.

mod machine;
mod prove;
mod recipe;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use clap::Args;

use crate::fuzz::TRIPLE;
use crate::pages;
use crate::tasks::{cached, root};

/// The programs that users get.
const PROGRAMS: [&str; 3] = ["portcullisd", "portcullis", "portcullis-agent"];
/// Where a tree is built, in a mount namespace of the build's own: cargo hashes the paths of packages
/// into the names of symbols, and so into the XDP program's type information.
const PLACE: &str = "/run/portcullis-build";
/// Runs a command in `$0`, at which it sees the directory `$1`.
const IN_PLACE: &str = r#"mount --bind "$1" "$0" && cd "$0/tree" && shift && exec "$@""#;
/// The bill of materials' name, before its version.
const BILL: &str = "portcullis";

/// What to make, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// Where to put it; what is there under the same names is replaced
    #[arg(long, value_name = "DIR", default_value = "target/dist/out")]
    pub output: PathBuf,
    /// Build all of it a second time, from another copy of the tree, and compare every byte
    #[arg(long)]
    pub twice: bool,
    /// Then install, set up, upgrade and remove the packages on machines with systemd (root)
    #[arg(long)]
    pub prove: bool,
    /// Make nothing: prove what is there
    #[arg(long, requires = "prove", conflicts_with = "twice")]
    pub no_build: bool,
}

/// Makes everything.
///
/// # Errors
/// What is missing on this machine, what failed, and which files differ where they should not.
pub fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let output = root.join(&options.output);
    let work = root.join("target/dist");
    let places: &[&str] = match (options.no_build, options.twice) {
        (true, _) => &[],
        (false, false) => &["one"],
        (false, true) => &["one", "another"],
    };
    // From copies, all made at once: what is edited meanwhile is in none, and nothing is left in the tree.
    for name in places {
        copy_tree(&root, &work.join(name).join("tree"))?;
    }
    for (number, name) in places.iter().enumerate() {
        let place = work.join(name);
        let into = match number {
            0 => output.clone(),
            _ => place.join("out"),
        };
        make(&place.join("tree"), &place, &into)?;
        if number > 0 {
            compare(&output, &into)?;
            println!("two builds, of two copies: every byte is the same");
        }
    }
    if options.prove {
        println!("the packages, on machines with systemd:");
        prove::run(&output)?;
    }
    println!("{}", output.display());
    for name in names(&output)? {
        println!("  {name}");
    }
    Ok(())
}

/// Makes everything from `tree`, working in `work`.
fn make(tree: &Path, work: &Path, output: &Path) -> Result<()> {
    let changelog = Changelog::read(tree)?;
    let Programs { packaged, statics } = compile(tree, work, &changelog)?;
    if output.exists() {
        fs::remove_dir_all(output).with_context(|| format!("removing {}", output.display()))?;
    }
    fs::create_dir_all(output).with_context(|| format!("making {}", output.display()))?;
    for program in PROGRAMS {
        let name = format!("{program}-{}-x86_64-linux", changelog.version);
        copy(&statics.join(program), &output.join(name))?;
    }
    packages(tree, work, &packaged, &changelog, output)?;
    bill_of_materials(tree, &changelog, output)?;
    sums(output)
}

/// The first entry of the Debian changelog.
struct Changelog {
    version: String,
    /// Seconds since 1970.
    time: String,
}

impl Changelog {
    fn read(tree: &Path) -> Result<Self> {
        let path = tree.join("packaging/debian/changelog");
        let field = |name: &str| {
            output(
                Command::new("dpkg-parsechangelog")
                    .arg("-l")
                    .arg(&path)
                    .arg(format!("-S{name}")),
            )
        };
        Ok(Self {
            version: field("Version")?,
            time: field("Timestamp")?,
        })
    }
}

/// Where the programs are: those for packages, and the static ones.
struct Programs {
    packaged: PathBuf,
    statics: PathBuf,
}

/// Builds the programs, and links them a second time for the static ones: what they are made of is compiled once.
fn compile(tree: &Path, work: &Path, changelog: &Changelog) -> Result<Programs> {
    ensure!(
        tree == work.join("tree"),
        "{} is not built from a copy of its own",
        tree.display()
    );
    println!("+ cargo build --release");
    cargo(work, changelog, &["build", "--bins"], &[])?;
    let built = work.join("target").join(TRIPLE).join("release");
    let take = |into: &str| -> Result<PathBuf> {
        let into = work.join(into);
        fs::create_dir_all(&into)?;
        for program in PROGRAMS {
            copy(&built.join(program), &into.join(program))?;
        }
        Ok(into)
    };
    let packaged = take("packaged")?;
    for program in PROGRAMS {
        let flags = ["--", "-Ctarget-feature=+crt-static"];
        cargo(work, changelog, &["rustc", "--bin", program], &flags)?;
    }
    let statics = take("static")?;
    for program in PROGRAMS {
        let mut headers = Command::new("readelf");
        headers.arg("--program-headers").arg(statics.join(program));
        ensure!(
            !output(&mut headers)?.contains("INTERP"),
            "{program} is not static: it asks for a dynamic loader"
        );
    }
    Ok(Programs { packaged, statics })
}

/// Runs cargo for the programs, in their tree at [`PLACE`].
fn cargo(work: &Path, changelog: &Changelog, command: &[&str], flags: &[&str]) -> Result<()> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let (place, target) = (Path::new(PLACE), Path::new(PLACE).join("target"));
    let mapped = [
        (place.join("tree"), "/portcullis"),
        (target.clone(), "/target"),
        (cargo_home, "/cargo"),
    ];
    let map = |option: &str, separator: &str| -> String {
        let each = |(from, to): &(PathBuf, &str)| format!("{option}{}={to}", from.display());
        mapped.iter().map(each).collect::<Vec<_>>().join(separator)
    };
    fs::create_dir_all(place).with_context(|| format!("making {PLACE}"))?;
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", IN_PLACE, PLACE])
        .arg(work)
        .arg(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
        .args(command)
        .args(["--quiet", "--release", "--locked"])
        .args(["--package", "portcullis-control"])
        .args(["--target", TRIPLE, "--target-dir"])
        .arg(&target)
        .args(flags)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            map("--remap-path-prefix=", "\x1f"),
        )
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CFLAGS", map("-ffile-prefix-map=", " "))
        .env("CXXFLAGS", map("-ffile-prefix-map=", " "))
        .env("SOURCE_DATE_EPOCH", &changelog.time)
        .stdin(Stdio::null())
        .status()
        .context("running unshare and cargo")?;
    ensure!(
        status.success(),
        "cargo {} failed: {status}",
        command.join(" ")
    );
    Ok(())
}

/// Makes the Debian packages with debhelper, and has lintian look at them.
fn packages(
    tree: &Path,
    work: &Path,
    programs: &Path,
    changelog: &Changelog,
    into: &Path,
) -> Result<()> {
    println!("+ dpkg-buildpackage");
    let source = work.join("package/portcullis");
    if source.exists() {
        fs::remove_dir_all(work.join("package"))?;
    }
    let debian = source.join("debian");
    let built = source.join("build");
    fs::create_dir_all(&built)?;
    let packaging = tree.join("packaging");
    copy_tree(&packaging.join("debian"), &debian)?;
    for program in PROGRAMS {
        copy(&programs.join(program), &built.join(program))?;
    }
    for (package, unit) in [
        ("portcullis-gateway", "portcullisd"),
        ("portcullis-workstation", "portcullis-agent"),
    ] {
        for (from, to) in [
            (
                format!("{unit}.service"),
                format!("{package}.{unit}.service"),
            ),
            (
                format!("{package}.tmpfiles.conf"),
                format!("{package}.tmpfiles"),
            ),
            (
                "portcullis.sysusers.conf".to_owned(),
                format!("{package}.sysusers"),
            ),
        ] {
            copy(&packaging.join(from), &debian.join(to))?;
        }
    }
    let (mut gateway, mut workstation) = (String::new(), String::new());
    for page in pages::write(&source)? {
        let page = page.strip_prefix(&source)?.display().to_string();
        match page.strip_prefix("man/") {
            Some(name) if name.starts_with("portcullis-agent") => workstation += &(page + "\n"),
            Some(_) => gateway += &(page + "\n"),
            None => {}
        }
    }
    fs::write(debian.join("portcullis-gateway.manpages"), gateway)?;
    fs::write(debian.join("portcullis-workstation.manpages"), workstation)?;
    let examples = source.join("examples");
    for directory in ["tor", "prometheus", "grafana"] {
        copy_tree(&packaging.join(directory), &examples.join(directory))?;
    }
    for drop_in in ["portcullis-performance.conf", "portcullis-metrics.conf"] {
        copy(&packaging.join(drop_in), &examples.join(drop_in))?;
    }
    for of_agent in ["portcullis-network.conf", "portcullis-fast-path.conf"] {
        copy(&packaging.join(of_agent), &source.join(of_agent))?;
    }
    let log = Command::new("dpkg-buildpackage")
        .args(["--build=binary", "--no-sign", "--no-check-builddeps"])
        .current_dir(&source)
        .env("SOURCE_DATE_EPOCH", &changelog.time)
        .stdin(Stdio::null())
        .output()
        .context("running dpkg-buildpackage (`./run setup` installs it: dpkg-dev and debhelper)")?;
    ensure!(
        log.status.success(),
        "dpkg-buildpackage failed ({}):\n{}{}",
        log.status,
        String::from_utf8_lossy(&log.stdout),
        String::from_utf8_lossy(&log.stderr),
    );
    for name in names(&work.join("package"))? {
        if name.ends_with(".deb") {
            copy(&work.join("package").join(&name), &into.join(&name))?;
            let said = Command::new("lintian")
                .args(["--fail-on", "error", "--allow-root"])
                .arg(into.join(&name))
                .output()
                .context("running lintian (`./run setup` installs it)")?;
            print!("{}", String::from_utf8_lossy(&said.stdout));
            ensure!(
                said.status.success(),
                "lintian finds errors in {name} (above)"
            );
        }
    }
    Ok(())
}

/// Writes what the programs are made of, as CycloneDX.
fn bill_of_materials(tree: &Path, changelog: &Changelog, into: &Path) -> Result<()> {
    println!("+ cargo cyclonedx");
    let said = Command::new(cached("cargo-cyclonedx/bin/cargo-cyclonedx")?)
        .current_dir(tree)
        .stdin(Stdio::null())
        .args([
            "cyclonedx",
            "--quiet",
            "--format",
            "json",
            "--target",
            TRIPLE,
        ])
        .args([
            "--override-filename",
            "bill-of-materials",
            "--manifest-path",
        ])
        .arg(tree.join("control/Cargo.toml"))
        .env("SOURCE_DATE_EPOCH", &changelog.time)
        .output()
        .context("running cargo cyclonedx")?;
    ensure!(
        said.status.success(),
        "cargo cyclonedx failed: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    let name = format!("{BILL}-{}.cdx.json", changelog.version);
    // It leaves one in each package of the workspace.
    for package in ["wire", "dataplane", "control", "benches", "xtask"] {
        let made = tree.join(package).join("bill-of-materials.json");
        if package == "control" {
            let text =
                fs::read_to_string(&made).with_context(|| format!("reading {}", made.display()))?;
            let tree = format!("path+file://{}", tree.display());
            fs::write(
                into.join(&name),
                text.replace(&tree, "path+file:///portcullis"),
            )?;
        }
        let _ = fs::remove_file(made);
    }
    Ok(())
}

/// Writes SHA256SUMS of what is in a directory.
fn sums(directory: &Path) -> Result<()> {
    let mut text = String::new();
    for name in names(directory)? {
        let bytes = fs::read(directory.join(&name))?;
        let sum = digest::digest(&digest::SHA256, &bytes);
        let hex: String = sum
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        text.push_str(&format!("{hex}  {name}\n"));
    }
    fs::write(directory.join("SHA256SUMS"), text)?;
    Ok(())
}

fn compare(one: &Path, other: &Path) -> Result<()> {
    let (ours, theirs) = (names(one)?, names(other)?);
    ensure!(
        ours == theirs,
        "two builds made different files: {ours:?} and {theirs:?}"
    );
    let differs = |name: &&String| fs::read(one.join(name)).ok() != fs::read(other.join(name)).ok();
    let differing: Vec<&String> = ours.iter().filter(differs).collect();
    ensure!(
        differing.is_empty(),
        "two builds differ in {differing:?}: compare {} and {}",
        one.display(),
        other.display()
    );
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("reading {}", directory.display()))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::copy(from, to);
    copied.with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Makes a directory the copy of another, without what was built in it. A file that is the same is left as
/// it is, and one that is not is as new as the copy, so that cargo builds again what changed, all of it.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let wanted: Vec<String> = names(from)?
        .into_iter()
        .filter(|name| name != "target" && name != ".git")
        .collect();
    for name in names(to)?.iter().filter(|name| !wanted.contains(name)) {
        let gone = to.join(name);
        let removed = match gone.is_dir() {
            true => fs::remove_dir_all(&gone),
            false => fs::remove_file(&gone),
        };
        removed.with_context(|| format!("removing {}", gone.display()))?;
    }
    for name in wanted {
        let (source, copied) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            copy_tree(&source, &copied)?;
        } else if fs::read(&source).ok() != fs::read(&copied).ok() {
            copy(&source, &copied)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_there_is_and_only_what_changed_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let write = |name: &str, text: &str| {
            let path = from.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let old = std::time::SystemTime::UNIX_EPOCH;
        for name in ["same", "changed", "gone", "in/gone", "target/built"] {
            write(name, "1");
        }
        copy_tree(&from, &to).unwrap();
        assert!(!to.join("target").exists());
        for name in ["same", "changed"] {
            let file = fs::File::options().write(true).open(to.join(name));
            file.unwrap().set_modified(old).unwrap();
        }
        write("changed", "2");
        let changed = fs::File::options().write(true).open(from.join("changed"));
        changed.unwrap().set_modified(old).unwrap();
        fs::remove_file(from.join("gone")).unwrap();
        fs::remove_dir_all(from.join("in")).unwrap();
        copy_tree(&from, &to).unwrap();
        let time = |name: &str| fs::metadata(to.join(name)).unwrap().modified().unwrap();
        assert_eq!(time("same"), old);
        assert_ne!(time("changed"), old);
        assert_eq!(fs::read_to_string(to.join("changed")).unwrap(), "2");
        assert!(!to.join("gone").exists() && !to.join("in").exists());
    }
}
