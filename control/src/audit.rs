//! The audit log: who changed what and when, and how it ended. `audit.log` in the state directory, of
//! mode 0600, one JSON object a line, only ever appended to.
//!
//! A change has two lines with the same `id`. The first (`"outcome": "begun"`) is on the disk before
//! anything is changed: where it cannot be written, nothing is. Room for the second is reserved with it,
//! and it is on the disk before the change is answered. A change without a second line was under way when
//! the daemon died; each change is whole or not there, so what it left can be looked up.
//!
//! No line holds a secret: requests have none, and answers are not written. A file of more than
//! [`LARGEST`] bytes is moved to `audit.log.1`, that to `.2`, and so on; the last of [`KEPT`] goes.

use crate::problem::{Kind, Problem};
use crate::workstation;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{getgid, getpid, getuid};
use serde::Serialize;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The log's name in the state directory.
pub const NAME: &str = "audit.log";
/// The size from which on it is rotated.
pub const LARGEST: u64 = 4 << 20;
/// How many rotated files are kept.
pub const KEPT: u32 = 3;
/// Room that is reserved for the second line of a change.
const RESERVE: u64 = 4096;
/// The longest error that is written.
const LONGEST_ERROR: usize = 1024;
/// The longest name of a client that is written.
const LONGEST_CLIENT: usize = 80;
/// The longest name that is written; no Workstation's is longer.
const LONGEST_NAME: usize = 63;

/// Who changes something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct By {
    /// The user; none for a signal, whose sender is not known.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// What the client calls itself: a claim, no proof.
    pub client: Option<String>,
}

impl By {
    /// A signal.
    pub fn signal(name: &str) -> Self {
        Self {
            client: Some(name.to_owned()),
            ..Self::default()
        }
    }

    /// A program that makes the change itself, while no daemon runs.
    pub fn this_program(name: &str) -> Self {
        Self {
            uid: Some(getuid().as_raw()),
            gid: Some(getgid().as_raw()),
            pid: Some(getpid().as_raw()),
            client: Some(format!("{name}, without the daemon")),
        }
    }

    /// What a client calls itself, as it can be written.
    pub(crate) fn client(name: &str) -> String {
        let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
        name.chars().filter(plain).take(LONGEST_CLIENT).collect()
    }
}

/// What is to be changed.
#[derive(Debug, Clone, Serialize)]
pub struct What {
    /// The call, as `add`.
    pub call: &'static str,
    /// The Workstation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workstation: Option<String>,
    /// What was asked for.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub request: Value,
}

impl What {
    /// A call, of no Workstation and with no request.
    pub fn new(call: &'static str) -> Self {
        Self {
            call,
            workstation: None,
            request: Value::Null,
        }
    }

    /// The same of this Workstation.
    pub fn of(mut self, workstation: &str) -> Self {
        self.workstation = Some(workstation.chars().take(LONGEST_NAME).collect());
        self
    }

    /// The same with what was asked for. Requests hold no secret.
    pub fn asked(mut self, request: &impl Serialize) -> Self {
        self.request = serde_json::to_value(request).unwrap_or_default();
        self
    }
}

/// The log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    file: Option<File>,
    length: u64,
    /// Whether the last line may have been written in part.
    torn: bool,
    last: u64,
}

/// A change that has begun. Without [`Audit::end`] it stays so in the log.
#[derive(Debug)]
#[must_use]
pub struct Begun {
    id: u64,
    by: By,
    call: &'static str,
    workstation: Option<String>,
}

#[derive(Serialize)]
struct First<'a> {
    at: String,
    id: String,
    #[serde(flatten)]
    by: &'a By,
    #[serde(flatten)]
    what: &'a What,
    outcome: &'static str,
}

#[derive(Serialize)]
struct Second<'a> {
    at: String,
    id: String,
    #[serde(flatten)]
    by: &'a By,
    call: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workstation: Option<String>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Audit {
    /// The log in a state directory. It is opened when something is first written to it.
    pub fn new(state_directory: &Path) -> Self {
        Self {
            path: state_directory.join(NAME),
            log: Mutex::default(),
        }
    }

    /// Makes a change: written down before, carried out, and written down again.
    ///
    /// # Errors
    /// It could not be written down, and nothing has changed; or what the change answered; or it was made
    /// and its end could not be written down.
    pub fn change<T>(
        &self,
        by: By,
        what: &What,
        change: impl FnOnce() -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let begun = self.begin(by, what)?;
        let outcome = change();
        self.end(begun, outcome.as_ref().err())?;
        outcome
    }

    /// Writes down that a change begins.
    ///
    /// # Errors
    /// What the system answered: the change must not be made.
    pub fn begin(&self, by: By, what: &What) -> Result<Begun, Problem> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let id = now.map_or(0, |now| now.as_nanos() as u64).max(log.last + 1);
        log.last = id;
        let first = First {
            at: workstation::now_precisely(),
            id: format!("{id:016x}"),
            by: &by,
            what,
            outcome: "begun",
        };
        let written = line(&first).and_then(|line| log.append(&self.path, &line, RESERVE));
        written.map_err(|error| {
            let tried = format!("writing {}", self.path.display());
            let problem = Problem::io(tried, &error);
            Problem {
                happened: format!(
                    "{}; nothing was changed, for a change that is not in the audit log is not made",
                    problem.happened
                ),
                ..problem
            }
        })?;
        Ok(Begun {
            id,
            by,
            call: what.call,
            workstation: what.workstation.clone(),
        })
    }

    /// Writes down how a change ended.
    ///
    /// # Errors
    /// What the system answered. The change is as it is.
    pub fn end(&self, begun: Begun, problem: Option<&Problem>) -> Result<(), Problem> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let second = Second {
            at: workstation::now_precisely(),
            id: format!("{:016x}", begun.id),
            by: &begun.by,
            call: begun.call,
            workstation: begun.workstation,
            outcome: match problem {
                None => "done",
                Some(_) => "refused",
            },
            error: problem.map(|problem| problem.to_string().chars().take(LONGEST_ERROR).collect()),
        };
        let written = line(&second).and_then(|line| log.append(&self.path, &line, 0));
        written.map_err(|error| {
            let done = match problem {
                None => "the change was made",
                Some(_) => "the change was refused",
            };
            Problem::new(
                Kind::Failed,
                format!("writing {}", self.path.display()),
                format!("{error}; {done}, and the audit log says only that it began"),
                "look what holds: portcullis show; and mend that file system",
            )
        })
    }
}

fn line(entry: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

impl Log {
    /// Appends a line, durably, with room for another of `reserve` bytes.
    fn append(&mut self, path: &Path, line: &[u8], reserve: u64) -> io::Result<()> {
        // A change's second line stays with its first: it is rotated before a first one only.
        if reserve > 0 && self.length >= LARGEST {
            self.file = None;
            rotate(path)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, length, torn) = open(path)?;
                (self.length, self.torn) = (length, torn);
                self.file.insert(file)
            }
        };
        let newline: &[u8] = match self.torn {
            true => b"\n",
            false => b"",
        };
        if reserve > 0 {
            self::reserve(
                file,
                self.length,
                (newline.len() + line.len()) as u64 + reserve,
            )?;
        }
        let whole = [newline, line].concat();
        self.torn = true;
        match file.write_all(&whole).and_then(|()| file.sync_all()) {
            Ok(()) => {
                self.torn = false;
                self.length += whole.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What is there now is looked at anew.
                self.file = None;
                Err(error)
            }
        }
    }
}

/// Has the file system keep room beyond the file's end, where it can.
fn reserve(file: &File, from: u64, length: u64) -> io::Result<()> {
    let (from, length) = (from as libc::off_t, length as libc::off_t);
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
        Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The log with its length, and whether its last line was written in part.
fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    crate::files::leave_to_account(&file, path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    } else {
        sync_directory(path)?;
    }
    Ok((file, length, last != [b'\n']))
}

/// Moves each file one further.
fn rotate(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| match number {
        0 => path.to_owned(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        }
    };
    for number in (0..KEPT).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_directory(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(crate::files::directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn what(call: &'static str, request: Value) -> What {
        What {
            call,
            workstation: Some("alpha".into()),
            request,
        }
    }

    fn by() -> By {
        By {
            uid: Some(1000),
            gid: Some(100),
            pid: Some(7),
            client: Some(By::client("curl/8\n\u{1b}[31m")),
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
            .collect()
    }

    fn refused() -> Problem {
        Problem::new(Kind::Conflict, "adding", "it is there", "choose another")
    }

    #[test]
    fn a_change_is_written_down_before_it_is_made_and_when_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let audit = Audit::new(directory.path());
        let add = what("add", serde_json::json!({"name": "alpha"}));
        let seen = audit.change(by(), &add, || Ok(lines(&path))).unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0]["outcome"], "begun");
        assert_eq!(seen[0]["request"]["name"], "alpha");
        audit
            .change::<()>(by(), &add, || Err(refused()))
            .unwrap_err();
        let all = lines(&path);
        assert_eq!(all.len(), 4);
        assert_eq!(
            (&all[1]["outcome"], &all[1]["id"]),
            (&"done".into(), &all[0]["id"])
        );
        assert_eq!(all[3]["outcome"], "refused");
        assert_eq!(all[3]["error"], "adding: it is there");
        assert_ne!(all[3]["id"], all[0]["id"]);
        for line in &all {
            assert_eq!((&line["uid"], &line["pid"]), (&1000.into(), &7.into()));
            assert_eq!(line["client"], "curl/8[31m");
        }
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        fs::write(&path, "{\"at\":\"2026").unwrap();
        let audit = Audit::new(directory.path());
        let add = what("add", Value::Null);
        audit.change(by(), &add, || Ok(())).unwrap();
        let all = lines(&path);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], Value::Null);
        assert_eq!(all[2]["outcome"], "done");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::new(directory.path());
        let large = what("allow", Value::String("x".repeat(200_000)));
        for _ in 0..150 {
            audit.change(by(), &large, || Ok(())).unwrap();
        }
        let entries = fs::read_dir(directory.path()).unwrap();
        let sizes: Vec<u64> = entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 1 + KEPT as usize);
        assert!(
            sizes.iter().all(|size| *size <= LARGEST + 300_000),
            "{sizes:?}"
        );
        for number in 1..=KEPT {
            let all = lines(&directory.path().join(format!("{NAME}.{number}")));
            assert_eq!(all.first().unwrap()["outcome"], "begun");
            assert_eq!(all.last().unwrap()["outcome"], "done");
        }
    }

    #[test]
    fn nothing_is_changed_when_it_cannot_be_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("gone");
        let audit = Audit::new(&state);
        let add = what("add", Value::Null);
        let problem = audit
            .change::<()>(by(), &add, || panic!("it was made"))
            .unwrap_err();
        assert!(
            problem.happened.contains("nothing was changed"),
            "{problem}"
        );
        fs::create_dir(&state).unwrap();
        audit.change(by(), &add, || Ok(())).unwrap();
    }
}
