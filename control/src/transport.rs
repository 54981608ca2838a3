//! Enrolments on their way from the Gateway to a Workstation: encrypted with a passphrase, for a
//! medium that others might read, or as a picture on the terminal, for no medium at all.
//!
//! What is encrypted is an age file (<https://age-encryption.org/v1>) in ASCII, so that `age -d` reads
//! it too.

pub mod passphrase;
pub mod picture;

use crate::problem::{Kind, Problem};
use age::secrecy::SecretString;
use age::{DecryptError, scrypt};
use passphrase::Passphrase;
use std::path::Path;
use zeroize::Zeroizing;

/// The end of an encrypted file's name.
pub const EXTENSION: &str = "age";
/// What each guess of a passphrase costs: 2 to this many rounds of scrypt, 256 MiB and about a
/// second.
const WORK: u8 = 18;
/// The most that is done to read a file: 1 GiB. More could be asked for only by somebody else's file.
const MOST_WORK: u8 = 20;
/// How an age file begins.
const BEGINNINGS: [&str; 2] = ["-----BEGIN AGE ENCRYPTED FILE-----", "age-encryption.org/"];

/// Whether this is an encrypted file and not an enrolment as it stands.
pub fn is_sealed(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    BEGINNINGS
        .iter()
        .any(|beginning| text.starts_with(beginning.as_bytes()))
}

/// Encrypts an enrolment's text.
///
/// # Errors
/// The library's; there is no entropy.
pub fn seal(text: &str, passphrase: &Passphrase) -> Result<Zeroizing<String>, Problem> {
    let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.as_str()));
    recipient.set_work_factor(WORK);
    age::encrypt_and_armor(&recipient, text.as_bytes())
        .map(Zeroizing::new)
        .map_err(|error| {
            Problem::new(
                Kind::Failed,
                "encrypting the enrolment",
                error,
                "try again, or leave --encrypt out and carry the file by hand",
            )
        })
}

/// Decrypts what [`seal`] made; `path` is only named in problems.
///
/// # Errors
/// The passphrase is wrong, or the file is damaged, made by something else, or not text inside.
pub fn open(
    path: &Path,
    bytes: &[u8],
    passphrase: &Passphrase,
) -> Result<Zeroizing<String>, Problem> {
    let tried = format!("decrypting the enrolment {}", path.display());
    let mut identity = scrypt::Identity::new(SecretString::from(passphrase.as_str()));
    identity.set_max_work_factor(MOST_WORK);
    let opened = age::decrypt(&identity, bytes.trim_ascii_start()).map_err(|error| {
        let (happened, remedy) = match &error {
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => (
                "the passphrase is wrong".to_owned(),
                "type it again, exactly as it was given or shown on the Gateway",
            ),
            DecryptError::NoMatchingKeys => (
                "it is not encrypted with a passphrase".to_owned(),
                "give the file that `portcullis workstation add NAME --encrypt` made on the Gateway",
            ),
            DecryptError::ExcessiveWork { .. } => (
                "it asks for more work than this program does for a passphrase".to_owned(),
                "give the file that `portcullis workstation add NAME --encrypt` made on the Gateway",
            ),
            other => (
                format!("it is damaged: {other}"),
                "copy it again from the Gateway; if the copy there is the same, `portcullis workstation \
                 rotate NAME --encrypt` makes another",
            ),
        };
        Problem::new(Kind::Invalid, &tried, happened, remedy)
    })?;
    let opened = Zeroizing::new(opened);
    std::str::from_utf8(&opened)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| {
            Problem::new(
                Kind::Invalid,
                tried,
                "what is inside is not text, so it is not an enrolment",
                "give the file that `portcullis workstation add NAME --encrypt` made on the Gateway",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_passphrase_and_with_no_other() {
        let sealed = seal("psk = \"secret\"\n", &passphrase("correct horse")).unwrap();
        assert!(is_sealed(sealed.as_bytes()));
        assert!(is_sealed(format!("\n  {}", *sealed).as_bytes()));
        assert!(!is_sealed(b"# Portcullis enrolment"));
        assert!(!sealed.contains("secret"));
        let path = Path::new("alpha.enrolment.age");
        let opened = open(path, sealed.as_bytes(), &passphrase("correct horse")).unwrap();
        assert_eq!(*opened, "psk = \"secret\"\n");
        let problem = open(path, sealed.as_bytes(), &passphrase("correct house")).unwrap_err();
        assert_eq!(problem.happened, "the passphrase is wrong");
        assert!(problem.tried.contains("alpha.enrolment.age"));
    }

    #[test]
    fn a_damaged_sealed_file_is_told_from_a_wrong_passphrase() {
        let sealed = seal("text", &passphrase("correct horse")).unwrap();
        let lines: Vec<_> = sealed.lines().collect();
        let cut = lines[..lines.len() - 2].join("\n");
        let problem =
            open(Path::new("x"), cut.as_bytes(), &passphrase("correct horse")).unwrap_err();
        assert!(problem.happened.starts_with("it is damaged"), "{problem}");
        let mut flipped = sealed.as_bytes().to_vec();
        let at = sealed.find('\n').unwrap() + 200;
        flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
        open(Path::new("x"), &flipped, &passphrase("correct horse")).unwrap_err();
    }

    #[test]
    fn a_file_that_asks_for_too_much_work_is_refused_before_it_is_done() {
        let mut recipient = scrypt::Recipient::new(SecretString::from("correct horse"));
        recipient.set_work_factor(4);
        let sealed = age::encrypt(&recipient, b"text").unwrap();
        let greedy = String::from_utf8_lossy(&sealed).into_owned();
        let line = greedy.lines().nth(1).unwrap();
        assert!(line.ends_with(" 4"), "{line}");
        let mut bytes = sealed.clone();
        let at = greedy.find(line).unwrap() + line.len();
        bytes.splice(at - 1..at, *b"30");
        let problem = open(Path::new("x"), &bytes, &passphrase("correct horse")).unwrap_err();
        assert!(problem.happened.contains("more work"), "{problem}");
    }
}
