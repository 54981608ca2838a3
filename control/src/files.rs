//! Files that hold secrets: written so that a crash leaves the old file or the new one, and read
//! only while nobody else can.

use crate::problem::{Kind, Problem};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use zeroize::Zeroizing;

/// The largest file that is read: keys and configurations are a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;
/// The end of a temporary file's name.
const TEMPORARY: &str = ".tmp";

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The account that the daemon runs as, to which root leaves the daemon's files; 0 for none.
static ACCOUNT: AtomicU32 = AtomicU32::new(0);

/// Says which account the daemon runs as: what belongs to it is as good as what belongs to root.
pub(crate) fn trust(account: nix::unistd::Uid) {
    ACCOUNT.store(account.as_raw(), Ordering::Relaxed);
}

/// Whether that owner may change what this user relies on.
fn is_trusted(owner: u32) -> bool {
    let me = nix::unistd::geteuid();
    let account = ACCOUNT.load(Ordering::Relaxed);
    owner == me.as_raw() || owner == 0 || (me.is_root() && owner == account)
}

/// Reads a text file of at most a mebibyte, whoever may read it.
///
/// # Errors
/// What stood in the way: it is missing, no regular file, too large, or not text.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let tried = format!("reading {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| Problem::io(&tried, &error))?;
    read_open(file, &tried)
}

/// Reads a file that holds secrets.
///
/// # Errors
/// As [`read`]; and when it is a symbolic link, when its owner is neither this user nor root, or
/// when its group or others may do anything with it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let tried = format!("reading {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => Problem::new(
                Kind::Forbidden,
                &tried,
                "it is a symbolic link, and where it leads could be changed",
                format!(
                    "put the file itself there: cp --remove-destination \"$(readlink -f {0})\" {0}",
                    path.display()
                ),
            ),
            _ => Problem::io(&tried, &error),
        })?;
    let metadata = file
        .metadata()
        .map_err(|error| Problem::io(&tried, &error))?;
    let me = nix::unistd::geteuid().as_raw();
    if !is_trusted(metadata.uid()) {
        return Err(Problem::new(
            Kind::Forbidden,
            tried,
            format!(
                "it belongs to user {}, who can change it; it must belong to user {me} or to root",
                metadata.uid()
            ),
            format!("chown {me} {}", path.display()),
        ));
    }
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(Problem::new(
            Kind::Forbidden,
            tried,
            format!(
                "its mode is {:04o}, so others than its owner can get at the keys in it",
                metadata.mode() & 0o7777
            ),
            format!(
                "chmod 600 {}; if others use this machine, make new keys",
                path.display()
            ),
        ));
    }
    read_open(file, &tried)
}

fn read_open(file: File, tried: &str) -> Result<Zeroizing<String>, Problem> {
    let io = |error: &io::Error| Problem::io(tried, error);
    let metadata = file.metadata().map_err(|error| io(&error))?;
    let invalid = |happened: String| {
        Problem::new(
            Kind::Invalid,
            tried,
            happened,
            "name the right file, or put it back from a copy",
        )
    };
    if !metadata.is_file() {
        return Err(invalid("it is not a regular file".into()));
    }
    let length = metadata.len();
    if length > MAX_BYTES {
        return Err(invalid(format!(
            "it has {length} bytes, and more than {MAX_BYTES} cannot be right"
        )));
    }
    // All the room at once: a vector that grows leaves copies of the keys behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| io(&error))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => Err(invalid(format!(
            "it is not text (byte {} is not UTF-8)",
            error.valid_up_to()
        ))),
    }
}

/// Writes a file of mode 0600, replacing one that is there. After a crash at any point the old
/// file is there, or the new one, whole; a leftover is removed by [`remove_leftovers`].
///
/// # Errors
/// What the system answered. The old file is then still there, except where the last step (making
/// the new one durable) failed.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Problem> {
    write_with_mode(path, text, 0o600)
}

/// As [`write_secret`], with another mode.
///
/// # Errors
/// As [`write_secret`].
pub fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), Problem> {
    let tried = format!("writing {}", path.display());
    let io = |error: io::Error| Problem::io(&tried, &error);
    let temporary = temporary_of(path);
    step();
    let file = open_exclusive(&temporary, mode).map_err(io)?;
    let written = fill(file, text).and_then(|()| {
        fs::rename(&temporary, path)?;
        step();
        Ok(())
    });
    if let Err(error) = written {
        // Best effort: a leftover is ignored and cleaned up later.
        let _ = fs::remove_file(&temporary);
        return Err(io(error));
    }
    sync_directory_of(path).map_err(io)
}

/// Writes a file of mode 0600 where there is none. It is made in place, without a rename, so that
/// this works on file systems without links (a USB stick).
///
/// # Errors
/// As [`Reserved::new`] and [`Reserved::fill`].
pub fn create_secret(path: &Path, text: &str) -> Result<(), Problem> {
    Reserved::new(path)?.fill(text)
}

/// A file that was made, of mode 0600, and has nothing in it yet. It is removed when it is dropped
/// before it is filled. So whoever needs a place for a secret can make sure of the place first.
#[derive(Debug)]
pub struct Reserved {
    path: PathBuf,
    file: Option<File>,
}

impl Reserved {
    /// Makes the file.
    ///
    /// # Errors
    /// It is there already, or what the system answered.
    pub fn new(path: &Path) -> Result<Self, Problem> {
        let tried = format!("creating {}", path.display());
        let file = open_exclusive(path, 0o600).map_err(|error| Problem::io(tried, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Writes the text, durably.
    ///
    /// # Errors
    /// What the system answered; the file is then removed.
    pub fn fill(mut self, text: &str) -> Result<(), Problem> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        fill(file, text)
            .and_then(|()| sync_directory_of(&self.path))
            .map_err(|error| {
                let _ = fs::remove_file(&self.path);
                Problem::io(format!("writing {}", self.path.display()), &error)
            })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a file, durably.
///
/// # Errors
/// What the system answered.
pub fn remove(path: &Path) -> Result<(), Problem> {
    let tried = format!("removing {}", path.display());
    step();
    fs::remove_file(path)
        .and_then(|()| {
            step();
            sync_directory_of(path)
        })
        .map_err(|error| Problem::io(tried, &error))
}

/// Makes a directory of mode 0700 with its parents, or checks that only its owner (this user or
/// root) can change the one that is there.
///
/// # Errors
/// What the system answered, or why the directory is not safe.
pub fn private_directory(path: &Path) -> Result<(), Problem> {
    directory(path, 0o700)
}

/// As [`private_directory`], with another mode for a new directory.
///
/// # Errors
/// As [`private_directory`].
pub fn directory(path: &Path, mode: u32) -> Result<(), Problem> {
    let tried = format!("making the directory {}", path.display());
    if !path.exists() {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(|error| Problem::io(&tried, &error))?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Problem::io(&tried, &error));
            }
            made => {
                if made.is_ok() {
                    File::open(path)
                        .and_then(|made| leave_to_account(&made, path))
                        .map_err(|error| Problem::io(&tried, &error))?;
                }
                let _ = sync_directory_of(path);
            }
        }
    }
    check_directory(path)
}

/// Checks that nobody but its owner, who is this user or root, can change a directory.
///
/// # Errors
/// Why it is not safe, or what the system answered.
pub fn check_directory(path: &Path) -> Result<(), Problem> {
    let tried = format!("using the directory {}", path.display());
    let metadata = fs::metadata(path).map_err(|error| Problem::io(&tried, &error))?;
    let me = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(Problem::new(
            Kind::Invalid,
            tried,
            "it is not a directory",
            "move that file away, or name another directory in the configuration",
        ));
    }
    if !is_trusted(metadata.uid()) {
        return Err(Problem::new(
            Kind::Forbidden,
            tried,
            format!(
                "it belongs to user {}, who can change what is in it",
                metadata.uid()
            ),
            format!("chown {me} {}", path.display()),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Problem::new(
            Kind::Forbidden,
            tried,
            format!(
                "its mode is {:04o}, so others than its owner can change what is in it",
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}

/// Removes what writes that a crash cut short have left in `directory`. Only to be called by the
/// one process that writes there.
pub fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if is_leftover(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file's name is one that only an unfinished write leaves.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

fn temporary_of(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(
        ".{name}.{}.{}{TEMPORARY}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ))
}

fn open_exclusive(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    leave_to_account(&file, path)?;
    step();
    Ok(file)
}

/// Root makes files and directories for the daemon in the daemon's directories.
pub(crate) fn leave_to_account(file: &File, path: &Path) -> io::Result<()> {
    let directory = fs::metadata(directory_of(path))?;
    let account = ACCOUNT.load(Ordering::Relaxed);
    if account != 0 && directory.uid() == account && nix::unistd::geteuid().is_root() {
        std::os::unix::fs::fchown(file, Some(account), Some(directory.gid()))?;
    }
    Ok(())
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    // In two writes, for the crash tests: a file cut short must be told from a whole one.
    let (head, tail) = text.as_bytes().split_at(text.len() / 2);
    file.write_all(head)?;
    step();
    file.write_all(tail)?;
    step();
    file.sync_all()?;
    step();
    Ok(())
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let result = File::open(directory_of(path))?.sync_all();
    step();
    match result {
        // Some file systems cannot sync a directory; there is nothing more to be done on them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// A point at which the process may die. Nothing, except in the crash tests.
#[inline]
fn step() {
    #[cfg(test)]
    crash::step();
}

/// The machine stops at a chosen step: everything up to it has happened, nothing after it does.
#[cfg(test)]
pub(crate) mod crash {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local!(static STEPS_LEFT: Cell<Option<u32>> = const { Cell::new(None) });

    struct Crash;

    pub(super) fn step() {
        match STEPS_LEFT.get() {
            Some(0) => resume_unwind(Box::new(Crash)),
            Some(left) => STEPS_LEFT.set(Some(left - 1)),
            None => {}
        }
    }

    /// Runs `action` until it has passed `steps` points. `None` when it crashed.
    pub(crate) fn after<T>(steps: u32, action: impl FnOnce() -> T) -> Option<T> {
        STEPS_LEFT.set(Some(steps));
        let outcome = catch_unwind(AssertUnwindSafe(action));
        STEPS_LEFT.set(None);
        match outcome {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Crash>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_written_with_mode_0600_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_secret(&path, "one").unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(read_secret(&path).unwrap().as_str(), "one");
        write_secret(&path, "two").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_touch_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_secret(&path, "one").unwrap();
        for mode in [0o640, 0o604, 0o610, 0o601, 0o620, 0o602, 0o644, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let problem = read_secret(&path).unwrap_err();
            assert_eq!(problem.kind, Kind::Forbidden);
            assert!(problem.happened.contains(&format!("mode is {mode:04o}")));
            let remedy = format!("chmod 600 {}", path.display());
            assert!(problem.remedy.starts_with(&remedy));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read_secret(&path).is_ok());
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_secret(&path, "one").unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let problem = read_secret(&path).unwrap_err();
        assert!(problem.happened.contains("belongs to user 12345"));
        assert_eq!(problem.remedy, format!("chown 0 {}", path.display()));
    }

    #[test]
    fn a_secret_behind_a_symbolic_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_secret(&path, "one").unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        let problem = read_secret(&link).unwrap_err();
        assert!(problem.happened.contains("symbolic link"), "{problem}");
        assert!(problem.remedy.contains("readlink"));
    }

    #[test]
    fn what_is_no_text_file_is_refused_without_waiting_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&fifo, directory.path()] {
            let problem = read(path).unwrap_err();
            assert!(problem.happened.contains("not a regular file"), "{problem}");
        }
        let path = directory.path().join("binary");
        fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read(&path).unwrap_err().happened.contains("byte 1"));
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(read(&path).unwrap_err().happened.contains("1048577 bytes"));
        let problem = read(&directory.path().join("none")).unwrap_err();
        assert_eq!(problem.kind, Kind::NotFound);
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_file_or_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let (mut old, mut new) = (0, 0);
        for steps in 0.. {
            fs::write(&path, "old text").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let finished = crash::after(steps, || write_secret(&path, "new text").unwrap());
            match read_secret(&path).unwrap().as_str() {
                "old text" => old += 1,
                "new text" => new += 1,
                other => panic!("torn file {other:?} after {steps} steps"),
            }
            remove_leftovers(directory.path());
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
            if finished.is_some() {
                break;
            }
        }
        assert!(old >= 5 && new >= 2, "{old} {new}");
    }

    #[test]
    fn an_existing_file_is_not_overwritten_by_create() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret(&path, "one").unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(
            create_secret(&path, "two").unwrap_err().kind,
            Kind::Conflict
        );
        let link = directory.path().join("link");
        symlink(directory.path().join("elsewhere"), &link).unwrap();
        assert!(create_secret(&link, "two").is_err());
        assert!(!directory.path().join("elsewhere").exists());
    }

    #[test]
    fn a_reserved_file_that_is_not_filled_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let reserved = Reserved::new(&path).unwrap();
        assert!(path.exists());
        drop(reserved);
        assert!(!path.exists());
        Reserved::new(&path).unwrap().fill("text").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "text");
    }

    #[test]
    fn what_root_makes_in_the_accounts_directory_is_the_accounts() {
        const DAEMON: u32 = 12346;
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test needs root: it gives files to another user"
        );
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        private_directory(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(DAEMON), Some(DAEMON)).unwrap();
        trust(nix::unistd::Uid::from_raw(DAEMON));
        private_directory(&state.join("workstations")).unwrap();
        let key = state.join("workstations/key");
        create_secret(&key, "text").unwrap();
        for path in [state.join("workstations"), key] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), DAEMON);
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/state");
        private_directory(&path).unwrap();
        assert_eq!(mode_of(&path), 0o700);
        private_directory(&path).unwrap();
        for mode in [0o770, 0o702] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let problem = private_directory(&path).unwrap_err();
            assert!(problem.happened.contains(&format!("{mode:04o}")));
            assert_eq!(problem.remedy, format!("chmod go-w {}", path.display()));
        }
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = private_directory(&file).unwrap_err();
        assert!(problem.happened.contains("not a directory"));
    }
}
