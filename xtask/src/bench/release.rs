//! What is measured is built here: the release profile, from whatever build this program is.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result, anyhow, ensure};

use crate::tasks;

/// Builds the workspace in the release profile and becomes its `xtask bench` with these words.
/// Returns only when that fails.
pub fn build_and_continue(words: &[OsString]) -> Error {
    println!("building the release profile, which is what is measured");
    let built = cargo(&["build", "--release", "--workspace"])
        .and_then(|messages| executable(&messages, "xtask"))
        // Now, so that nothing is built between two measurements.
        .and_then(|xtask| criterion_program("aead").map(|_| xtask));
    match built {
        Ok(xtask) => {
            let error = Command::new(&xtask).arg("bench").args(words).exec();
            anyhow!("cannot run {}: {error}", xtask.display())
        }
        Err(error) => error,
    }
}

/// Builds a criterion benchmark of the `benches` crate, and gives its path.
///
/// # Errors
/// When that fails.
pub fn criterion_program(name: &str) -> Result<PathBuf> {
    let words = [
        "bench",
        "--no-run",
        "--package",
        "portcullis-benches",
        "--bench",
        name,
    ];
    executable(&cargo(&words)?, name)
}

/// Runs cargo, its progress shown as it shows it, and gives its messages.
fn cargo(words: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let shown = format!("cargo {}", words.join(" "));
    let output = Command::new(cargo)
        .args(words)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(tasks::root()?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running `{shown}`"))?;
    ensure!(
        output.status.success(),
        "`{shown}` failed: {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The path of a program in cargo's messages.
fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built everything and named no program {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "not json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"xtask\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"portcullisd\"},\"executable\":\"/t/portcullisd\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"xtask\"},\"executable\":\"/t/xtask\"}\n";
        assert_eq!(
            executable(messages, "xtask").unwrap(),
            PathBuf::from("/t/xtask")
        );
        assert!(executable(messages, "else").is_err());
    }
}
