//! Enrolment by public key: the Workstation makes its own key pair, and only the public half travels
//! to the Gateway, in a file that is no secret.

use crate::files;
use crate::keys::{PrivateKey, PublicKey};
use crate::problem::{self, Kind, Problem};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The key pair in a Workstation's state directory, until it is part of an identity.
pub const OWN_KEY: &str = "workstation.key";
/// The context of the checksum.
const CONTEXT: &str = "portcullis 1 public key";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: i64,
    workstation_public_key: String,
    checksum: String,
}

fn checksum(key: &str) -> String {
    hex::encode(&blake3::derive_key(CONTEXT, key.as_bytes())[..16])
}

/// The text of the file that carries `key` to the Gateway.
pub fn to_text(key: &PublicKey) -> String {
    let key = key.to_string();
    format!(
        "# A Portcullis Workstation's public key. It is no secret; take it to the Gateway, and there:\n\
         # portcullis workstation add NAME --public-key FILE\n\
         version = 1\n\
         workstation_public_key = \"{key}\"\n\
         checksum = \"{}\"\n",
        checksum(&key)
    )
}

/// Reads a file that was carried here.
///
/// # Errors
/// It cannot be read, is damaged, or is something else.
pub fn read(path: &Path) -> Result<PublicKey, Problem> {
    let text = files::read(path)?;
    let tried = format!("reading the public key in {}", path.display());
    let again = "make it again on the Workstation: portcullis-agent keygen --output FILE";
    let raw: Raw = toml::from_str(&text).map_err(|error| {
        let at = problem::toml(path, &text, &error);
        Problem::new(
            Kind::Invalid,
            &tried,
            format!(
                "this is no public key's file: {}: {}",
                at.tried, at.happened
            ),
            again,
        )
    })?;
    let wrong = |happened: String| Problem::new(Kind::Invalid, &tried, happened, again);
    if raw.version != 1 {
        return Err(wrong(format!(
            "it is of version {}, and this program knows version 1",
            raw.version
        )));
    }
    if raw.checksum != checksum(&raw.workstation_public_key) {
        return Err(wrong("it is damaged: its checksum does not match".into()));
    }
    raw.workstation_public_key
        .parse()
        .map_err(|error| wrong(format!("{error}")))
}

/// Where a Workstation's own key pair is kept.
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join(OWN_KEY)
}

/// The key pair that this Workstation made for itself; made now when there is none.
///
/// # Errors
/// The file is not safe or wrong, or what the system answered.
pub fn own_key(state_directory: &Path) -> Result<PrivateKey, Problem> {
    files::private_directory(state_directory)?;
    let path = path(state_directory);
    let _lock = crate::lock::lock_file(
        &state_directory.join("enrol.lock"),
        "making a key pair",
        "two at once would undo each other",
    )?;
    files::remove_leftovers(state_directory);
    match path.symlink_metadata() {
        Ok(_) => PrivateKey::load(&path),
        Err(_) => PrivateKey::create(&path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_key_pair_is_made_once_and_its_public_half_survives_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let key = own_key(&state).unwrap();
        assert_eq!(own_key(&state).unwrap(), key);
        let file = directory.path().join("public");
        let text = to_text(&key.public());
        assert!(!text.contains(&**key.to_text()));
        fs::write(&file, &text).unwrap();
        assert_eq!(read(&file).unwrap(), key.public());
        let other = PrivateKey::new([9; 32]).unwrap().public().to_string();
        for (from, to, happened) in [
            (key.public().to_string().as_str(), other.as_str(), "damaged"),
            ("version = 1", "version = 2", "version 2"),
            ("checksum", "sum", "no public key's file"),
        ] {
            fs::write(&file, text.replace(from, to)).unwrap();
            let problem = read(&file).unwrap_err();
            assert!(problem.happened.contains(happened), "{problem}");
        }
    }
}
