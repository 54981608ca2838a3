//! Passphrases: from the terminal, a file or a file descriptor, never from a command line.

use crate::entropy;
use crate::problem::{Kind, Problem};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// The shortest passphrase that is taken, in characters: whoever has the file can guess at leisure.
const SHORTEST: usize = 10;
/// The longest, in bytes.
const LONGEST: u64 = 1024;
/// What one that is made here consists of: nothing that is taken for something else when it is read
/// aloud or copied from paper. There are 32, so each stands for five bits.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Groups of four: 100 bits.
const GROUPS: usize = 5;

/// A passphrase.
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Where one comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// A file, whose first line it is.
    pub file: Option<PathBuf>,
    /// An open file descriptor, of which it is the first line.
    pub descriptor: Option<u32>,
}

impl Passphrase {
    /// One that is long enough to encrypt with.
    ///
    /// # Errors
    /// It is too short.
    pub fn new(text: &str) -> Result<Self, Problem> {
        let length = text.chars().count();
        if length < SHORTEST {
            return Err(Problem::new(
                Kind::Invalid,
                "taking the passphrase",
                format!(
                    "it has {length} characters, and whoever finds the file can guess at leisure"
                ),
                format!(
                    "give at least {SHORTEST} characters, better six words; or press Enter at the \
                     terminal and have one made"
                ),
            ));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// A new one of 100 bits.
    ///
    /// # Errors
    /// There is no entropy.
    pub fn random() -> Result<Self, Problem> {
        let mut bytes = [0u8; GROUPS * 4];
        entropy::fill(&mut bytes)?;
        let groups = bytes.chunks(4).map(|group| {
            let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
            group.iter().map(letter).collect::<String>()
        });
        let text = Zeroizing::new(groups.collect::<Vec<_>>().join("-"));
        bytes.zeroize();
        Ok(Self(text))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For encrypting: asked for twice at the terminal, where an empty one has it made and shown.
    ///
    /// # Errors
    /// There is nowhere to take it from, or it is too short.
    pub fn to_encrypt(source: &Source) -> Result<Self, Problem> {
        if let Some(text) = source.read()? {
            return Self::new(&text);
        }
        let first = ask("Passphrase for the enrolment file (empty: one is made): ")?;
        if first.is_empty() {
            let made = Self::random()?;
            // On the terminal and nowhere else: standard output may be kept.
            eprintln!("The passphrase is:\n\n  {}\n", made.as_str());
            return Ok(made);
        }
        let passphrase = Self::new(&first)?;
        match *ask("Once more: ")? == *first {
            true => Ok(passphrase),
            false => Err(Problem::new(
                Kind::Invalid,
                "taking the passphrase",
                "the two differ",
                "type the same twice",
            )),
        }
    }

    /// For decrypting. What it was encrypted with is taken whatever its length.
    ///
    /// # Errors
    /// There is nowhere to take it from.
    pub fn to_decrypt(source: &Source) -> Result<Self, Problem> {
        let text = match source.read()? {
            Some(text) => text,
            None => ask("Passphrase of the enrolment file: ")?,
        };
        Ok(Self(text))
    }
}

impl Source {
    fn read(&self) -> Result<Option<Zeroizing<String>>, Problem> {
        match (&self.file, self.descriptor) {
            (Some(file), _) => first_line(file).map(Some),
            // What it may be read through again is the kernel's to say, so no owned descriptor is
            // made of a number somebody typed.
            (None, Some(number)) => {
                first_line(Path::new(&format!("/proc/self/fd/{number}"))).map(Some)
            }
            (None, None) => Ok(None),
        }
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let tried = format!("reading the passphrase from {}", path.display());
    let file = File::open(path).map_err(|error| Problem::io(&tried, &error))?;
    let mut line = Zeroizing::new(String::with_capacity(LONGEST as usize + 1));
    BufReader::new(file.take(LONGEST))
        .read_line(&mut line)
        .map_err(|error| Problem::io(&tried, &error))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    match line.is_empty() {
        false => Ok(line),
        true => Err(Problem::new(
            Kind::Invalid,
            tried,
            "its first line is empty",
            "write the passphrase there, on the first line",
        )),
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Problem> {
    let nowhere = |happened: String| {
        Problem::new(
            Kind::Unavailable,
            "asking for the passphrase",
            happened,
            "run it at a terminal, or give --passphrase-file FILE or --passphrase-fd N",
        )
    };
    if !io::stderr().is_terminal() && File::open("/dev/tty").is_err() {
        return Err(nowhere("there is no terminal to ask at".to_owned()));
    }
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|error| nowhere(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn one_that_is_made_is_long_plain_and_never_the_same() {
        let one = Passphrase::random().unwrap();
        assert_eq!(one.as_str().len(), GROUPS * 5 - 1);
        assert!(
            one.as_str()
                .bytes()
                .all(|byte| byte == b'-' || LETTERS.contains(&byte))
        );
        assert_ne!(one.as_str(), Passphrase::random().unwrap().as_str());
        assert!(Passphrase::new(one.as_str()).is_ok());
        assert_eq!(format!("{one:?}"), "Passphrase(..)");
    }

    #[test]
    fn the_first_line_of_a_file_is_it_and_a_short_or_empty_one_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let source = Source {
            file: Some(file.path().to_owned()),
            descriptor: None,
        };
        let problem = Passphrase::to_encrypt(&source).unwrap_err();
        assert!(problem.happened.contains("empty"), "{problem}");
        file.write_all(b"correct horse\r\nignored\n").unwrap();
        assert_eq!(
            Passphrase::to_encrypt(&source).unwrap().as_str(),
            "correct horse"
        );
        std::fs::write(file.path(), "short\n").unwrap();
        let problem = Passphrase::to_encrypt(&source).unwrap_err();
        assert!(problem.happened.contains("5 characters"), "{problem}");
        // But what is there can be opened.
        assert_eq!(Passphrase::to_decrypt(&source).unwrap().as_str(), "short");
    }

    #[test]
    fn it_can_come_through_a_descriptor() {
        use std::os::fd::AsRawFd as _;
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"through a descriptor\n").unwrap();
        let source = Source {
            file: None,
            descriptor: u32::try_from(file.as_raw_fd()).ok(),
        };
        let passphrase = Passphrase::to_encrypt(&source).unwrap();
        assert_eq!(passphrase.as_str(), "through a descriptor");
    }
}
