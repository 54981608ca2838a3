//! From a debug build to a release build, in one command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result, anyhow, ensure};

use crate::tasks;

/// Builds the workspace in the release profile and becomes its `xtask bench` with these words.
/// Returns only when that fails.
pub fn build_and_continue(words: &[OsString]) -> Error {
    match build() {
        Ok(xtask) => {
            let error = Command::new(&xtask).arg("bench").args(words).exec();
            anyhow!("cannot run {}: {error}", xtask.display())
        }
        Err(error) => error,
    }
}

/// Builds; gives the path of `xtask`.
fn build() -> Result<PathBuf> {
    let words = [
        "build",
        "--release",
        "--workspace",
        "--message-format",
        "json-render-diagnostics",
    ];
    println!("building the release profile, which is what is measured");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Its own progress goes to standard error.
    let output = Command::new(cargo)
        .args(words)
        .current_dir(tasks::root()?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo build")?;
    ensure!(
        output.status.success(),
        "the build failed: {}",
        output.status
    );
    executable(&String::from_utf8_lossy(&output.stdout), "xtask")
        .context("the build succeeded and named no xtask program")
}

/// The path of a program in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
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
        assert_eq!(executable(messages, "xtask"), Some("/t/xtask".into()));
        assert_eq!(executable(messages, "else"), None);
    }
}
