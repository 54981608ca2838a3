//! What a daemon and its helper give up once they are set up: privileges, files and system calls.
//!
//! Everything here holds for the calling thread and those it makes, so it is called while there is
//! no other.

mod calls;

use crate::files;
use crate::problem::{Kind, Problem};
use calls::Who;
use caps::{CapSet, Capability, CapsHashSet};
use dataplane::link::open_sysfs;
use dataplane::wall::ensure_bpffs;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{
    Gid, Pid, Uid, User, fchown, fchownat, geteuid, getppid, setgroups, setresgid, setresuid,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The account that daemons run as unless the configuration names another.
pub const ACCOUNT: &str = "portcullis";

/// Where the kernel says how many CPUs there can be, which a counter that each CPU has is as long as.
const CPUS: &str = "/sys/devices/system/cpu";

/// Whom a daemon that was started as root becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account of that name or number; of none, [`ACCOUNT`] where this system has it.
    ///
    /// # Errors
    /// There is no such account.
    pub fn find(name: Option<&str>) -> Result<Option<Self>, Problem> {
        let wanted = name.unwrap_or(ACCOUNT);
        let tried = format!("looking for the account {wanted}");
        if let Ok(number) = wanted.parse::<u32>() {
            let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
            let user = User::from_uid(uid).ok().flatten();
            let gid = user.map_or(gid, |user| user.gid);
            return Ok(Some(Self { uid, gid }));
        }
        let found = User::from_name(wanted).map_err(|errno| Problem::io(&tried, &errno.into()))?;
        match (found, name) {
            (Some(user), _) => Ok(Some(Self {
                uid: user.uid,
                gid: user.gid,
            })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::new(
                Kind::NotFound,
                tried,
                "there is no such account",
                format!(
                    "make it: useradd --system --no-create-home --shell /usr/sbin/nologin {wanted}"
                ),
            )),
        }
    }
}

/// Root is to use the files of that account, which is the daemon's.
pub fn trust(user: Option<&str>) {
    if let Ok(Some(account)) = Account::find(user) {
        files::trust(account.uid);
    }
}

/// What a daemon needs of the file system.
#[derive(Debug, Default)]
pub struct Paths {
    /// Directories it reads.
    pub read: Vec<PathBuf>,
    /// Directories it writes in, which become its account's with what is in them.
    pub write: Vec<PathBuf>,
}

/// Gives up everything a daemon needs no more: its user, every capability, all files but `paths`,
/// and all system calls but those of its work.
///
/// # Errors
/// The step that failed. The daemon must not go on.
pub fn daemon(account: Option<Account>, paths: &Paths) -> Result<(), Problem> {
    let kept = kept_by_daemon();
    if geteuid().is_root() {
        match account {
            Some(account) => become_account(account, paths)?,
            None => tracing::warn!(
                "there is no account {ACCOUNT}: running as root's user, without privileges; make one with systemd-sysusers or useradd, or name another as `user`"
            ),
        }
    }
    give_up_capabilities(&kept, &CapsHashSet::new())?;
    lock_memory();
    // A change of user made the process dumpable, or may have.
    not_dumpable()?;
    restrict_files(paths)?;
    calls::restrict(Who::Daemon)
        .map_err(|error| failed("restricting system calls", &io::Error::other(error)))
}

/// What a helper does first: it ends with its daemon, and keeps only what it needs to begin.
///
/// # Errors
/// The step that failed.
pub fn helper(parent: Pid) -> Result<(), Problem> {
    let errno = |errno: nix::Error| failed("confining the helper", &errno.into());
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(errno)?;
    if getppid() != parent {
        return Err(failed(
            "serving as privileged helper",
            &io::Error::other("the daemon has ended"),
        ));
    }
    // What stops a daemon is sent to its helper too, by a terminal or by systemd. It goes when the
    // daemon has done without it.
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
        signal_hook::consts::SIGUSR1,
    ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|error| failed("ignoring signals", &error))?;
    }
    prctl::set_no_new_privs().map_err(errno)?;
    nix::sys::resource::setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(errno)?;
    not_dumpable()
}

/// What a helper needs of the file system.
#[derive(Debug, Default)]
pub struct HelperPaths {
    /// Where walls are pinned.
    pub pins: Vec<PathBuf>,
    /// What it reads of the configuration.
    pub read: Vec<PathBuf>,
    /// The interfaces whose settings it writes.
    pub interfaces: Vec<String>,
    /// Whether /sys shows another network namespace than its own.
    pub needs_own_sysfs: bool,
    /// Whether its daemon reaches a Gateway over networks, and has no port.
    pub over_networks: bool,
    /// Whether it gives that daemon a fast path.
    pub fast_path: bool,
}

/// What a helper does once it knows its scope: it mounts the BPF file system where there is none, and
/// gives up all but what its requests need: capabilities, files and system calls.
///
/// # Errors
/// The step that failed.
pub fn helper_begun(paths: &HelperPaths) -> Result<(), Problem> {
    for directory in &paths.pins {
        if let Err(error) = ensure_bpffs(directory) {
            tracing::debug!(%error, "raising a port will say so");
        }
    }
    // As in a container or a test.
    let sysfs = match paths.needs_own_sysfs.then(open_sysfs).transpose() {
        Ok(own) => own,
        Err(error) => {
            tracing::debug!(%error, "NAPI threads are left as they are");
            None
        }
    };
    // The kill switch, and the mark on what may leave.
    let over_networks = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    let ports = CapsHashSet::from([
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_RAW,
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        // The priority of NAPI threads.
        Capability::CAP_SYS_NICE,
    ]);
    let fast_path = paths.fast_path;
    let (mut kept, who) = match paths.over_networks {
        true if fast_path => (ports, Who::NetworkHelper { fast_path }),
        true => (over_networks, Who::NetworkHelper { fast_path }),
        false => (ports, Who::Helper),
    };
    // Root's own files, pins and sysfs among them, are another user's to a helper that is not root.
    if !geteuid().is_root() {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    give_up_capabilities(&kept, &kept)?;
    restrict_helpers_files(paths, sysfs)?;
    calls::restrict(who)
        .map_err(|error| failed("restricting system calls", &io::Error::other(error)))
}

/// Landlock for the helper: it reads what the kernel shows and the configuration, and writes pins and the
/// settings of interfaces.
fn restrict_helpers_files(
    paths: &HelperPaths,
    sysfs: Option<BorrowedFd<'_>>,
) -> Result<(), Problem> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = AccessFs::WriteFile | AccessFs::Truncate;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let mut held: Vec<(OwnedFd, _)> = Vec::new();
    let mut hold = |opened: nix::Result<OwnedFd>, access| match opened {
        Ok(directory) => held.push((directory, access)),
        Err(errno) => tracing::debug!(%errno, "a place of settings cannot be reached"),
    };
    for path in [Path::new("/proc"), Path::new("/sys")]
        .into_iter()
        .chain(paths.read.iter().map(PathBuf::as_path))
    {
        hold(open(path, flags, Mode::empty()), read);
    }
    hold(open("/proc/sys/net", flags, Mode::empty()), read | change);
    for directory in &paths.pins {
        hold(open(directory, flags, Mode::empty()), everything());
    }
    for interface in &paths.interfaces {
        // The directory that it is in, so that it may go and come back. Of a sysfs of its own even the
        // reading has to be allowed.
        hold(interfaces_of_device(sysfs, interface), read | change);
    }
    restrict_to(
        held.iter()
            .map(|(directory, access)| (directory.as_fd(), *access)),
    )?;
    // The kernel knows a place in /proc/sys only as long as somebody has it open.
    std::mem::forget(held);
    Ok(())
}

/// The directory of sysfs that has an interface, beside those of the same device.
fn interfaces_of_device(sysfs: Option<BorrowedFd<'_>>, interface: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let path = format!("class/net/{interface}/..");
    match sysfs {
        Some(sysfs) => openat(sysfs, path.as_str(), flags, Mode::empty()),
        None => open(Path::new("/sys").join(path).as_path(), flags, Mode::empty()),
    }
}

fn failed(tried: &str, error: &io::Error) -> Problem {
    Problem::new(
        Kind::Failed,
        tried,
        error,
        "look for the cause in the system's log (journalctl -k); a daemon that cannot be confined does not run",
    )
}

/// Nothing, where the limit of locked memory is off. Where it could not be raised, the daemon keeps
/// CAP_IPC_LOCK, which lets it lock memory and nothing else: frames' memory is locked.
fn kept_by_daemon() -> CapsHashSet {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK);
    if limit.is_ok_and(|(soft, _)| soft == RLIM_INFINITY) {
        return CapsHashSet::new();
    }
    tracing::warn!(
        "the limit of locked memory cannot be raised, so CAP_IPC_LOCK is kept; start it without the limit (LimitMEMLOCK=infinity)"
    );
    CapsHashSet::from([Capability::CAP_IPC_LOCK])
}

/// Keeps secrets off the swap: whatever this process touches stays in memory.
pub fn lock_memory() {
    // As it is touched, not all of it at once.
    let as_touched = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | as_touched;
    let unlimited = getrlimit(Resource::RLIMIT_MEMLOCK)
        .is_ok_and(|(soft, _)| soft == RLIM_INFINITY)
        || caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap_or(false);
    // With a limit, a later mapping would fail instead of merely not being locked.
    let locked = match unlimited {
        true => mlockall(flags).map_err(io::Error::from),
        false => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    };
    if let Err(error) = locked {
        tracing::warn!(%error, "memory is not locked, so keys may be written to swap; raise the limit (LimitMEMLOCK=infinity)");
    }
}

fn not_dumpable() -> Result<(), Problem> {
    prctl::set_dumpable(false)
        .map_err(|errno| failed("switching off core dumps and tracing", &errno.into()))
}

/// Hands the directories over, and becomes the account.
fn become_account(account: Account, paths: &Paths) -> Result<(), Problem> {
    let Account { uid, gid } = account;
    for directory in &paths.write {
        hand_over(directory, account).map_err(|error| {
            failed(
                &format!("giving {} to user {uid}", directory.display()),
                &error,
            )
        })?;
    }
    let errno = |errno: nix::Error| failed(&format!("becoming user {uid}"), &errno.into());
    setgroups(&[]).map_err(errno)?;
    setresgid(gid, gid, gid).map_err(errno)?;
    // The bounding set can be emptied only with CAP_SETPCAP, which goes with the user.
    give_up_bounds(&CapsHashSet::new());
    // What is kept is chosen right after; without this nothing could be.
    let keep = |on| caps::securebits::set_keepcaps(on).map_err(io::Error::other);
    keep(true).map_err(|error| failed("keeping capabilities for a moment", &error))?;
    setresuid(uid, uid, uid).map_err(errno)?;
    keep(false).map_err(|error| failed("keeping capabilities for a moment", &error))
}

/// A directory and what is in it, as deep as our own directories are. Names are looked up in open
/// directories and no link is followed: whoever had the account before may have left some.
fn hand_over(directory: &Path, account: Account) -> io::Result<()> {
    const DEPTH: usize = 2;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    fn give(directory: &OwnedFd, account: Account, depth: usize, flags: OFlag) -> io::Result<()> {
        let (uid, gid) = (Some(account.uid), Some(account.gid));
        fchown(directory, uid, gid)?;
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        for entry in entries {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            if kind.is_dir() && depth > 0 {
                let inner = openat(directory, name.as_os_str(), flags, Mode::empty())?;
                give(&inner, account, depth - 1, flags)?;
            } else if !kind.is_symlink() && !kind.is_dir() {
                let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
                fchownat(directory, name.as_os_str(), uid, gid, nofollow)?;
            }
        }
        Ok(())
    }
    match open(directory, flags, Mode::empty()) {
        Err(nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
        Ok(directory) => give(&directory, account, DEPTH, flags),
    }
}

/// Best effort: without CAP_SETPCAP the set stays as it is, and there is nothing in it to be had
/// with no_new_privs.
fn give_up_bounds(kept: &CapsHashSet) {
    for capability in caps::all().difference(kept) {
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
}

/// Gives up all capabilities but those of `kept` that there are, and all bounds but `bounds`.
fn give_up_capabilities(kept: &CapsHashSet, bounds: &CapsHashSet) -> Result<(), Problem> {
    let tried = "giving up capabilities";
    let fail = |error: caps::errors::CapsError| failed(tried, &io::Error::other(error));
    prctl::set_no_new_privs().map_err(|errno| failed(tried, &errno.into()))?;
    give_up_bounds(bounds);
    let _ = caps::clear(None, CapSet::Ambient);
    let has = caps::read(None, CapSet::Permitted).map_err(fail)?;
    let kept: CapsHashSet = has.intersection(kept).copied().collect();
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(fail)?;
    caps::set(None, CapSet::Effective, &kept).map_err(fail)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(fail)?;
    for set in [CapSet::Permitted, CapSet::Effective] {
        if caps::read(None, set).map_err(fail)? != kept {
            return Err(failed(tried, &io::Error::other("some are still there")));
        }
    }
    Ok(())
}

/// Landlock: no file but below `paths`, no TCP, no signal to others.
fn restrict_files(paths: &Paths) -> Result<(), Problem> {
    let read = paths.read.iter().map(PathBuf::as_path);
    let read = read.chain([Path::new(CPUS)]);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let opened = |path: &Path| open(path, flags, Mode::empty()).ok();
    let read: Vec<OwnedFd> = read.filter_map(opened).collect();
    let write: Vec<OwnedFd> = paths.write.iter().filter_map(|path| opened(path)).collect();
    let read = read
        .iter()
        .map(|path| (path.as_fd(), AccessFs::ReadFile | AccessFs::ReadDir));
    restrict_to(read.chain(write.iter().map(|path| (path.as_fd(), everything()))))
}

/// What the kernel may know of Landlock, and we make use of.
const KNOWN: ABI = ABI::V6;

/// What may be done to files in a directory of one's own.
fn everything() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev;
    AccessFs::from_all(KNOWN) & !never
}

/// No file but below these, each with its rights; no TCP, no signal to others.
fn restrict_to<'a>(
    places: impl Iterator<Item = (BorrowedFd<'a>, BitFlags<AccessFs>)>,
) -> Result<(), Problem> {
    let tried = "restricting what files can be reached";
    let restrict = || -> Result<RulesetStatus, landlock::RulesetError> {
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rules(places.map(|(place, access)| {
                Ok::<_, landlock::RulesetError>(PathBeneath::new(place, access))
            }))?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => Ok(()),
        Ok(RulesetStatus::PartiallyEnforced) => {
            tracing::debug!("an older kernel: Landlock restricts files, and not everything else");
            Ok(())
        }
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!(
                "this kernel has no Landlock: the daemon's account alone keeps it from other files"
            );
            Ok(())
        }
        Err(error) => Err(failed(tried, &io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_handed_over_and_links_are_not_followed() {
        use std::os::unix::fs::{MetadataExt, symlink};
        assert!(geteuid().is_root(), "this test needs root");
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (directory.path().join("own"), directory.path().join("other"));
        std::fs::create_dir_all(own.join("inner")).unwrap();
        std::fs::create_dir(&other).unwrap();
        for path in [own.join("a"), own.join("inner/b"), other.join("c")] {
            std::fs::write(path, "x").unwrap();
        }
        symlink(other.join("c"), own.join("link")).unwrap();
        symlink(&other, own.join("inner/directory")).unwrap();
        let account = Account::find(Some("64077")).unwrap().unwrap();
        hand_over(&own, account).unwrap();
        let of = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
        for path in [
            own.clone(),
            own.join("a"),
            own.join("inner"),
            own.join("inner/b"),
        ] {
            assert_eq!(of(path.clone()), 64077, "{}", path.display());
        }
        for path in [other.clone(), other.join("c")] {
            assert_eq!(of(path.clone()), 0, "{}", path.display());
        }
        let linked = directory.path().join("linked");
        symlink(&other, &linked).unwrap();
        assert!(hand_over(&linked, account).is_err());
        hand_over(&directory.path().join("nothing"), account).unwrap();
    }

    #[test]
    fn an_account_that_is_named_must_be_there_and_the_usual_one_need_not() {
        let problem = Account::find(Some("no-such-account")).unwrap_err();
        assert!(problem.remedy.contains("useradd"), "{problem}");
        let root = Account::find(Some("root")).unwrap().unwrap();
        assert!(root.uid.is_root());
        let number = Account::find(Some("64077")).unwrap().unwrap();
        assert_eq!((number.uid.as_raw(), number.gid.as_raw()), (64077, 64077));
        Account::find(None).unwrap();
    }
}
