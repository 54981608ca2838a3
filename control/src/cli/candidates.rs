//! What a shell is offered where a name is to be typed: the Workstations, ports and verdicts that there are.
//!
//! It is quick, and says nothing when nobody answers: whoever types waits for it.

use crate::api::client::Client;
use crate::config::{GATEWAY_PATH, Gateway};
use crate::watch;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long the daemon may take to tell its Workstations.
const PATIENCE: Duration = Duration::from_millis(40);

/// The Workstations' names, as the daemon tells them to who may ask.
pub(crate) fn workstations() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let Some(config) = config() else {
            return Vec::new();
        };
        let client = Client::gateway(&config.runtime_directory, String::new());
        let (sender, receiver) = channel();
        // It ends with the program, whatever it waits for.
        std::thread::spawn(move || sender.send(client.workstations()));
        let told = receiver.recv_timeout(PATIENCE);
        let all = told.into_iter().flatten().flatten();
        all.map(|one| CompletionCandidate::new(one.name)).collect()
    })
}

/// The ports, as they are configured.
pub(crate) fn ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let config = config();
        let tunnel = config.iter().flat_map(|config| &config.ports);
        let keyless = config.iter().flat_map(|config| &config.keyless);
        let tunnel = tunnel.map(|port| &port.interface);
        let all = tunnel.chain(keyless.map(|port| &port.interface));
        all.map(CompletionCandidate::new).collect()
    })
}

/// The verdicts that frames are dropped by.
pub(crate) fn verdicts() -> ArgValueCandidates {
    ArgValueCandidates::new(|| watch::verdicts().map(CompletionCandidate::new).collect())
}

/// The configuration that the line to be completed names, or the usual one; none of an agent's.
fn config() -> Option<Gateway> {
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let program = PathBuf::from(words.next()?);
    if program.file_name()? != "portcullis" {
        return None;
    }
    let path = named(words).unwrap_or_else(|| GATEWAY_PATH.into());
    Gateway::load(&path).ok()
}

/// The value of `--config` among these words.
fn named(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.peek().map(PathBuf::from);
        }
        if let Some(path) = word
            .to_str()
            .and_then(|word| word.strip_prefix("--config="))
        {
            return Some(path.into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_one_that_the_line_names() {
        let named = |line: &str| named(line.split(' ').map(OsString::from));
        assert_eq!(named("show port --json"), None);
        assert_eq!(named("--config a.toml show"), Some("a.toml".into()));
        assert_eq!(named("show --config=b.toml port"), Some("b.toml".into()));
        assert_eq!(named("show --config"), None);
    }
}
