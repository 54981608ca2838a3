//! What keeps a run from leaving anything behind: a register of what it made, the answer to Ctrl-C,
//! scratch directories, and the lock that serialises runs that measure.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Every name the rig makes starts with this and the pid of the run that made it.
pub(super) const PREFIX: &str = "pcl";
const PINS: &str = "/sys/fs/bpf";
const LOCK: &str = "/run/portcullis-rig.lock";

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SERIAL_NUMBER: AtomicU32 = AtomicU32::new(0);
static LEFT: Mutex<Vec<Left>> = Mutex::new(Vec::new());

/// Something that must be gone when the run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    Process(i32),
    Namespace(String),
    Directory(PathBuf),
}

pub(super) fn register(left: Left) {
    LEFT.lock().unwrap_or_else(|e| e.into_inner()).push(left);
}

pub(super) fn unregister(left: &Left) {
    let mut all = LEFT.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(at) = all.iter().rposition(|l| l == left) {
        all.swap_remove(at);
    }
}

/// A name nobody else uses: prefix, pid, a number, and what it is.
pub(super) fn unique(label: &str) -> String {
    let number = SERIAL_NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{}-{number}-{label}", std::process::id())
}

/// Makes Ctrl-C, SIGTERM and SIGHUP end the run in order: every wait of the rig returns an error,
/// and the guards remove what they made. A second signal, or eight seconds, removes it the hard way.
///
/// # Errors
/// When a handler is installed already.
pub fn arm() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            remove_all_and_exit();
        }
        eprintln!("\ninterrupted: removing what was made (again to hurry)");
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(8));
            remove_all_and_exit();
        });
    })
    .context("installing the Ctrl-C handler")
}

fn remove_all_and_exit() -> ! {
    let mut all = std::mem::take(&mut *LEFT.lock().unwrap_or_else(|e| e.into_inner()));
    // Processes first: a namespace lives as long as a process in it.
    all.sort_by_key(|left| match left {
        Left::Process(_) => 0,
        Left::Namespace(_) => 1,
        Left::Directory(_) => 2,
    });
    for left in all {
        match left {
            Left::Process(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            Left::Namespace(name) => super::namespace::delete(&name),
            Left::Directory(path) => drop(remove_tree(&path)),
        }
    }
    std::process::exit(130)
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error once Ctrl-C was pressed.
///
/// # Errors
/// That the run was interrupted.
pub fn check() -> Result<()> {
    ensure!(!interrupted(), "interrupted");
    Ok(())
}

/// Lets `time` pass while something else is measured; ends early on Ctrl-C.
///
/// # Errors
/// That the run was interrupted.
pub fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Asks `probe` until it has an answer, every few milliseconds, for at most `timeout`.
///
/// # Errors
/// A sentence that names `what` was waited for; or that the run was interrupted.
pub fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        check()?;
        if start.elapsed() >= timeout {
            bail!("waited {timeout:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Fails, in a sentence, unless the run may make namespaces.
///
/// # Errors
/// When the process is not root.
pub fn require_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this needs root: it makes network namespaces and loads XDP programs. Run it with sudo, or \
         as root in a virtual machine."
    );
    Ok(())
}

/// Removes namespaces with what runs in them, pins and directories of earlier runs that were killed before they could.
/// Only what bears the pid of a process that no longer exists is touched.
pub fn sweep() {
    let stale = |name: &str| -> bool {
        let mut parts = name.strip_prefix(PREFIX).unwrap_or("").split('-');
        let pid = parts.nth(1).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let names = |dir: &str| -> Vec<String> {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| stale(name))
            .collect()
    };
    for name in names("/run/netns") {
        super::namespace::evict(&name);
        super::namespace::delete(&name);
    }
    for dir in [PINS, &std::env::temp_dir().to_string_lossy()] {
        for name in names(dir) {
            drop(remove_tree(&Path::new(dir).join(name)));
        }
    }
}

/// Removes a directory and all in it; that it is not there is fine. Works on bpffs too, where
/// `remove_dir_all` cannot open what it removes.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// A directory of mode 0700 for configuration, state and logs, and a place for pins; both are
/// removed on drop, unless kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    pins: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes the directory.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new(label: &str) -> Result<Self> {
        let name = unique(label);
        let path = std::env::temp_dir().join(&name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let pins = Path::new(PINS).join(&name);
        register(Left::Directory(path.clone()));
        register(Left::Directory(pins.clone()));
        Ok(Self {
            path,
            pins,
            keep: false,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where on bpffs programs may pin; not made yet.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Leaves the directory (not the pins) in place on drop.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(remove_tree(&self.pins));
        unregister(&Left::Directory(self.pins.clone()));
        if !self.keep {
            drop(remove_tree(&self.path));
        }
        unregister(&Left::Directory(self.path.clone()));
    }
}

/// Held while a run uses the machine's time to measure or to meet a deadline: one at a time, over
/// all processes.
#[derive(Debug)]
pub struct Serial {
    _lock: Flock<File>,
}

impl Serial {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn acquire() -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(LOCK)
            .with_context(|| format!("opening {LOCK}"))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(|lock| Self { _lock: lock })
            .map_err(|(_, error)| anyhow::anyhow!("locking {LOCK}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ends_in_vain_names_what_it_waited_for() {
        let start = Instant::now();
        let error = wait_for("the moon", Duration::from_millis(30), || None::<()>).unwrap_err();
        assert!(error.to_string().contains("the moon"));
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_scratch_directory_is_private_and_removed_with_all_in_it() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("t").unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/c"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
