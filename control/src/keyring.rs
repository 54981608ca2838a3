//! The Gateway's static keys: the one that new enrolments name and, while it is rolled over, the one
//! before, which Workstations enrolled earlier still know.
//!
//! Both stand in one file, a line each with the newest first, so that every change is one rename.

use crate::files;
use crate::keys::{KeyError, PrivateKey, PublicKey};
use crate::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    current: PrivateKey,
    old: Option<PrivateKey>,
}

/// Which of the Gateway's keys a Workstation knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The newest.
    #[default]
    Current,
    /// The one before, which is still accepted.
    Old,
    /// One that is accepted no more: the Workstation cannot connect.
    Retired,
}

impl Keyring {
    /// Reads the keys.
    ///
    /// # Errors
    /// The file is missing or not safe, or does not hold one key or two.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = files::read_secret(path)?;
        let wrong = |error: &dyn std::fmt::Display| {
            Problem::new(
                Kind::Invalid,
                format!("reading the key in {}", path.display()),
                error,
                "put the file back from a copy; with a new key every Workstation must be enrolled again",
            )
        };
        let mut keys = text
            .lines()
            .map(str::parse)
            .collect::<Result<Vec<PrivateKey>, KeyError>>()
            .map_err(|error| wrong(&error))?
            .into_iter();
        match (keys.next(), keys.next(), keys.next()) {
            (Some(current), old, None) if old.as_ref() != Some(&current) => {
                Ok(Self { current, old })
            }
            _ => Err(wrong(&"one key is wanted, or two different ones")),
        }
    }

    /// Makes a key and the file that holds it.
    ///
    /// # Errors
    /// The file is there already, or what the system answered.
    pub fn create(path: &Path) -> Result<Self, Problem> {
        let current = PrivateKey::create(path)?;
        Ok(Self { current, old: None })
    }

    fn store(self, path: &Path) -> Result<Self, Problem> {
        let mut text = Zeroizing::new(String::with_capacity(128));
        for key in self.private() {
            text.push_str(&key.to_text());
            text.push('\n');
        }
        files::write_secret(path, &text)?;
        Ok(self)
    }

    /// Makes a new key beside the one in use, which becomes the old one.
    ///
    /// # Errors
    /// There is an old one already, or what the system answered; nothing has changed then.
    pub fn rotate(&self, path: &Path) -> Result<Self, Problem> {
        if let Some(old) = self.old() {
            return Err(Problem::new(
                Kind::Conflict,
                "rolling over the Gateway's key",
                format!("the key before, {old}, is still accepted"),
                "end that first: portcullis key retire",
            ));
        }
        let current = PrivateKey::generate()?;
        let old = Some(self.current.clone());
        Self { current, old }.store(path)
    }

    /// Gives up the old key.
    ///
    /// # Errors
    /// What the system answered; nothing has changed then.
    pub fn retire(&self, path: &Path) -> Result<Self, Problem> {
        let current = self.current.clone();
        Self { current, old: None }.store(path)
    }

    /// The private keys, the newest first.
    pub fn private(&self) -> impl Iterator<Item = &PrivateKey> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// The public key that new enrolments name.
    pub fn public(&self) -> PublicKey {
        self.current.public()
    }

    /// The public key before, while it is accepted.
    pub fn old(&self) -> Option<PublicKey> {
        self.old.as_ref().map(PrivateKey::public)
    }

    /// The public key of a Workstation whose file names none: it was enrolled before there could
    /// be two.
    pub fn eldest(&self) -> PublicKey {
        self.old().unwrap_or_else(|| self.public())
    }

    /// Which key a Workstation knows that was told `key`.
    pub fn known(&self, key: Option<PublicKey>) -> Known {
        let key = key.unwrap_or_else(|| self.eldest());
        match (key == self.public(), self.old() == Some(key)) {
            (true, _) => Known::Current,
            (false, true) => Known::Old,
            (false, false) => Known::Retired,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_rolled_over_with_an_overlap_that_survives_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.key");
        let first = Keyring::create(&path).unwrap();
        assert_eq!(Keyring::load(&path).unwrap(), first);
        let second = first.rotate(&path).unwrap();
        assert_eq!(Keyring::load(&path).unwrap(), second);
        assert_eq!(second.old(), Some(first.public()));
        assert_eq!(second.rotate(&path).unwrap_err().kind, Kind::Conflict);
        assert_eq!(second.known(None), Known::Old);
        assert_eq!(second.known(Some(second.public())), Known::Current);
        let third = second.retire(&path).unwrap();
        assert_eq!(Keyring::load(&path).unwrap(), third);
        assert_eq!(third.public(), second.public());
        assert_eq!(third.known(Some(first.public())), Known::Retired);
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_keys_as_they_were_or_as_they_were_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.key");
        let mut seen = std::collections::HashSet::new();
        for steps in 0.. {
            let _ = std::fs::remove_file(&path);
            let first = Keyring::create(&path).unwrap();
            let done = files::crash::after(steps, || first.rotate(&path).unwrap()).is_some();
            let found = Keyring::load(&path).unwrap();
            // Whatever happened, what Workstations know is still accepted.
            assert_ne!(found.known(Some(first.public())), Known::Retired);
            seen.insert(found == first);
            if done {
                break;
            }
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.key");
        let key = PrivateKey::new([7; 32]).unwrap().to_text();
        for text in [
            String::new(),
            "AAAA".into(),
            format!("{}\n{}\n", *key, *key),
            format!("{}\nx\n", *key),
        ] {
            files::write_secret(&path, &text).unwrap();
            let problem = Keyring::load(&path).unwrap_err();
            assert!(problem.remedy.contains("from a copy"));
            assert!(!problem.report("p").contains(&**key));
        }
    }
}
