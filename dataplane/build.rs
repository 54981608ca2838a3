//! Builds the eBPF object, so that a plain `cargo build` does, and leaves it in `OUT_DIR`.
//!
//! Two toolchains can build it: a distribution's rustc that ships `core` for the BPF target
//! (Debian's rustc-web with libstd-rust-web-dev-bpf), or a rustup nightly with rust-src. The linker
//! is bpf-linker in both cases.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "bpfel-unknown-none";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const OBJECT: &str = "portcullis";

fn main() {
    if let Err(sentence) = build() {
        eprintln!("error: {sentence}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run cargo")?);
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let source = manifest.join("../ebpf");
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", source.join(path).display());
    }
    for path in ["src", "Cargo.toml"] {
        let path = manifest.join("../wire").join(path);
        println!("cargo::rerun-if-changed={}", path.display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PORTCULLIS_BPF_LINKER");

    let toolchain = Toolchain::find()?;
    let linker = find_linker()?;
    println!("cargo::rerun-if-changed={}", linker.display());

    let target = out.join("ebpf");
    let mut command = toolchain.cargo();
    scrub(&mut command);
    toolchain.configure(&mut command);
    command
        .current_dir(&source)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker));
    let output = command
        .output()
        .map_err(|error| format!("cannot run cargo for the eBPF object: {error}"))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(format!(
            "cargo could not build the eBPF object in {} (above is what it said)",
            source.display()
        ));
    }
    let object = target.join(TARGET).join("release").join(OBJECT);
    std::fs::copy(&object, out.join("portcullis.bpf.o"))
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}

/// What compiles for the BPF target on this machine.
enum Toolchain {
    /// A rustc whose sysroot has `core` for the target.
    System,
    /// A rustup nightly with rust-src, which builds `core` itself.
    Nightly,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        if let Some(sysroot) = sysroot(&mut Command::new(SYSTEM_RUSTC))
            && holds_core(&sysroot)
        {
            return Ok(Self::System);
        }
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]);
        if let Some(sysroot) = sysroot(&mut nightly)
            && sysroot
                .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .is_file()
        {
            return Ok(Self::Nightly);
        }
        Err(format!(
            "no Rust toolchain for {TARGET}: install either Debian's with `apt-get install \
             --no-install-recommends rustc-web libstd-rust-web-dev-bpf`, or rustup's with `rustup \
             toolchain install nightly --component rust-src`"
        ))
    }

    fn cargo(&self) -> Command {
        match self {
            Self::System => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "cargo"]);
                rustup
            }
        }
    }

    fn configure(&self, command: &mut Command) {
        match self {
            // Inline assembly for BPF is not stable in any release.
            Self::System => {
                command
                    .env("RUSTC", SYSTEM_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
            }
            Self::Nightly => {
                command.args(["-Z", "build-std=core"]);
            }
        }
    }
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    scrub(rustc);
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

fn holds_core(sysroot: &Path) -> bool {
    let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    std::fs::read_dir(libraries).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// bpf-linker: as told, else on the path, else where the project's own set-up installs it.
fn find_linker() -> Result<PathBuf, String> {
    if let Some(told) = env::var_os("PORTCULLIS_BPF_LINKER") {
        let told = PathBuf::from(told);
        return if told.is_file() {
            Ok(told)
        } else {
            Err(format!(
                "PORTCULLIS_BPF_LINKER names {}, which is not a file",
                told.display()
            ))
        };
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let own = env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/portcullis/bpf-linker/bin/bpf-linker"));
    env::split_paths(&on_path)
        .map(|directory| directory.join("bpf-linker"))
        .chain(own)
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            "bpf-linker is missing: install it with `apt-get install llvm-22-dev libpolly-22-dev` \
             and `LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
             --no-default-features --features llvm-22 --root ~/.cache/portcullis/bpf-linker`, or \
             name it in PORTCULLIS_BPF_LINKER"
                .into()
        })
}

/// The flags of the object, in cargo's encoding. They replace any that a configuration sets.
fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    for flag in [
        "-Clink-arg=--btf",
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        // Headers stand at odd offsets; without this a word is read byte by byte.
        "-Ctarget-feature=+allows-misaligned-mem-access",
    ] {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags
}

/// Takes the outer build's settings out of an inner command's environment. What says how to reach
/// the registry stays.
fn scrub(command: &mut Command) {
    const STAY: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    const GO: [&str; 12] = [
        "CARGO",
        "RUSTFLAGS",
        "RUSTDOC",
        "RUSTC",
        "RUSTUP_TOOLCHAIN",
        "MAKEFLAGS",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "LD_LIBRARY_PATH",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let stays = STAY.iter().any(|prefix| text.starts_with(prefix));
        let goes = ["CARGO_", "RUSTC_", "DEP_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            || GO.contains(&text.as_ref());
        if goes && !stays {
            command.env_remove(&name);
        }
    }
}
