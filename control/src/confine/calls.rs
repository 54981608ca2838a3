//! The system calls of a daemon at work, and of its helper. Any other is answered with EPERM: none of
//! them makes a program run, a packet socket, or memory that can be executed.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are allowed with any arguments.
const PLAIN: &[i64] = &[
    // Frames, channels and the control socket.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_bind,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    // Workstation files.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_getcwd,
    // Threads, memory and time.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_clone3,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // About itself.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_capget,
    // Signals and the end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older forms, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_chmod,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// `clone` of a thread: shares memory, files and signal handlers, and is in no new namespace.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
/// bpf(2): to look up, update and delete an element, and to ask about an object. Making maps and
/// programs, attaching and pinning are the helper's.
const BPF_COMMANDS: [u64; 4] = [1, 2, 3, 15];
/// What a helper calls beside: looks where the BPF file system is, and gives NAPI threads their priority.
const HELPERS: &[i64] = &[
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_setpriority,
    libc::SYS_getpriority,
];
/// bpf(2) in a helper: making maps and programs, pinning them, attaching them by links and to clsact, and
/// asking about objects. What a program is and where it is attached lies behind a pointer, out of a
/// filter's sight; but none is attached to a raw tracepoint, a cgroup or a perf event.
const HELPERS_BPF_COMMANDS: &[u64] = &[
    0,  // BPF_MAP_CREATE
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    5,  // BPF_PROG_LOAD
    6,  // BPF_OBJ_PIN
    7,  // BPF_OBJ_GET
    13, // BPF_PROG_GET_FD_BY_ID
    14, // BPF_MAP_GET_FD_BY_ID
    15, // BPF_OBJ_GET_INFO_BY_FD
    16, // BPF_PROG_QUERY
    18, // BPF_BTF_LOAD
    22, // BPF_MAP_FREEZE
    28, // BPF_LINK_CREATE
    29, // BPF_LINK_UPDATE
    30, // BPF_LINK_GET_FD_BY_ID
    34, // BPF_LINK_DETACH
];
/// ioctl(2) in a helper: a daemon's wish for an AF_XDP socket.
const HELPERS_IOCTLS: [u64; 3] = [
    0xc050_2100, // SECCOMP_IOCTL_NOTIF_RECV
    0xc018_2101, // SECCOMP_IOCTL_NOTIF_SEND
    0x4018_2103, // SECCOMP_IOCTL_NOTIF_ADDFD
];
/// ioctl(2): what is asked about an interface, and what the standard library does to descriptors.
const IOCTLS: [u64; 6] = [
    0x8921, // SIOCGIFMTU
    0x8933, // SIOCGIFINDEX
    0x8946, // SIOCETHTOOL
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
    0x5401, // TCGETS
];
/// prctl(2): names of threads and mappings.
const PRCTLS: [u64; 2] = [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64];
/// setsockopt(2) by level.
const LEVELS: [u64; 3] = [
    libc::SOL_SOCKET as u64,
    libc::SOL_XDP as u64,
    libc::SOL_NETLINK as u64,
];

/// The same of a socket of the tunnel's own over networks.
const NETWORK_LEVELS: [u64; 4] = [
    libc::SOL_SOCKET as u64,
    libc::SOL_UDP as u64,
    libc::SOL_IP as u64,
    libc::SOL_IPV6 as u64,
];

/// Whose calls they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A daemon.
    Daemon,
    /// Its helper.
    Helper,
    /// The helper of a daemon that reaches its Gateway over networks: it has no port to raise, makes and connects
    /// UDP sockets for its daemon, and holds the kill switch.
    NetworkHelper {
        /// Whether it gives its daemon a fast path, as [`Who::Helper`] a port.
        fast_path: bool,
    },
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

/// What a daemon may, or its helper.
fn rules(who: Who) -> Result<Rules, seccompiler::BackendError> {
    let helper = who != Who::Daemon;
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut rules: Rules = PLAIN
        .iter()
        .chain(OLDER)
        .chain(if helper { HELPERS } else { &[] })
        .map(|call| (*call, Vec::new()))
        .collect();
    let one_of = |argument: u8, values: &[u64]| {
        let rule = |value: &u64| SeccompRule::new(vec![condition(argument, Dword, Eq, *value)?]);
        values.iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    let (commands, ioctls) = match helper {
        true => (
            HELPERS_BPF_COMMANDS,
            [&IOCTLS[..], &HELPERS_IOCTLS].concat(),
        ),
        false => (&BPF_COMMANDS[..], IOCTLS.to_vec()),
    };
    rules.insert(libc::SYS_bpf, one_of(0, commands)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &ioctls)?);
    rules.insert(libc::SYS_prctl, one_of(0, &PRCTLS)?);
    let levels: &[u64] = match who {
        Who::Daemon | Who::Helper => &LEVELS,
        Who::NetworkHelper { .. } => &NETWORK_LEVELS,
    };
    rules.insert(libc::SYS_setsockopt, one_of(1, levels)?);
    // No family that reaches a network by itself. AF_XDP goes to the helper.
    rules.insert(
        libc::SYS_socket,
        one_of(0, &[libc::AF_UNIX as u64, libc::AF_XDP as u64])?,
    );
    let netlink = SeccompRule::new(vec![
        condition(0, Dword, Eq, libc::AF_NETLINK as u64)?,
        condition(2, Dword, Eq, libc::NETLINK_ROUTE as u64)?,
    ])?;
    let sockets = rules.entry(libc::SYS_socket).or_default();
    sockets.push(netlink);
    if helper {
        // Which threads are an interface's, and what a NIC is set to; or the firewall of the kill switch.
        let (threads, firewall) = (libc::NETLINK_GENERIC, libc::NETLINK_NETFILTER);
        let protocols: &[_] = match who {
            Who::NetworkHelper { fast_path: true } => &[firewall, threads],
            Who::NetworkHelper { fast_path: false } => &[firewall],
            Who::Daemon | Who::Helper => &[threads],
        };
        for protocol in protocols {
            sockets.push(SeccompRule::new(vec![
                condition(0, Dword, Eq, libc::AF_NETLINK as u64)?,
                condition(2, Dword, Eq, *protocol as u64)?,
            ])?);
        }
    }
    if matches!(who, Who::NetworkHelper { .. }) {
        for family in [libc::AF_INET, libc::AF_INET6] {
            // UDP, which is a datagram socket's own protocol too; not ICMP.
            for protocol in [0, libc::IPPROTO_UDP] {
                sockets.push(SeccompRule::new(vec![
                    condition(0, Dword, Eq, family as u64)?,
                    // Without the flags in it.
                    condition(1, Dword, MaskedEq(0xf), libc::SOCK_DGRAM as u64)?,
                    condition(2, Dword, Eq, protocol as u64)?,
                ])?);
            }
        }
        rules.insert(libc::SYS_connect, Vec::new());
    }
    let socketpair = one_of(0, &[libc::AF_UNIX as u64])?;
    rules.insert(libc::SYS_socketpair, socketpair);
    let namespaces = (libc::CLONE_NEWNS | libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
    let thread = condition(0, Qword, MaskedEq(THREAD | namespaces), THREAD)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    // No memory that can be executed.
    let not_executable = || {
        let mask = MaskedEq(libc::PROT_EXEC as u64);
        let rule = SeccompRule::new(vec![condition(2, Dword, mask, 0)?])?;
        Ok::<_, seccompiler::BackendError>(vec![rule])
    };
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    // To read a limit, of this process.
    rules.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![condition(2, Qword, Eq, 0)?])?],
    );
    Ok(rules)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()
}

/// Restricts this thread and those it will make.
pub(super) fn restrict(who: Who) -> Result<(), seccompiler::Error> {
    let rules = rules(who)?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let allowed = compile(rules, refused, SeccompAction::Allow)?;
    // Its flags are behind a pointer, so it cannot be told from a fork; without it glibc uses clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let older = compile(clone3, SeccompAction::Allow, absent)?;
    apply_filter(&older)?;
    apply_filter(&allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    /// Runs `check` on a thread that is confined as a daemon's, and on one as its helper's: a process
    /// cannot be freed again.
    fn confined(check: impl Fn() + Clone + Send + 'static) {
        for who in [Who::Daemon, Who::Helper] {
            let check = check.clone();
            let thread = std::thread::spawn(move || {
                nix::sys::prctl::set_no_new_privs().unwrap();
                restrict(who).unwrap();
                check();
            });
            thread.join().unwrap();
        }
    }

    fn errno<T>(answer: nix::Result<T>) -> Option<nix::Error> {
        answer.err()
    }

    #[test]
    fn no_packet_socket_and_no_other_way_to_a_network_is_left() {
        confined(|| {
            for (family, kind) in [
                (AddressFamily::Packet, SockType::Raw),
                (AddressFamily::Packet, SockType::Datagram),
                (AddressFamily::Inet, SockType::Stream),
                (AddressFamily::Inet, SockType::Datagram),
                (AddressFamily::Inet, SockType::Raw),
                (AddressFamily::Inet6, SockType::Datagram),
            ] {
                let made = socket(family, kind, SockFlag::empty(), None);
                assert_eq!(errno(made), Some(nix::Error::EPERM), "{family:?} {kind:?}");
            }
            socket(
                AddressFamily::Unix,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .unwrap();
        });
    }

    #[test]
    fn the_helper_of_a_daemon_over_networks_makes_datagram_sockets_and_no_others() {
        let thread = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            restrict(Who::NetworkHelper { fast_path: true }).unwrap();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                socket(family, SockType::Datagram, flags, None).unwrap();
                socket(family, SockType::Datagram, flags, SockProtocol::Udp).unwrap();
                let made = socket(family, SockType::Datagram, flags, SockProtocol::Icmp);
                assert_eq!(errno(made), Some(nix::Error::EPERM), "ICMP");
                for kind in [SockType::Stream, SockType::Raw, SockType::SeqPacket] {
                    let made = socket(family, kind, SockFlag::empty(), None);
                    assert_eq!(errno(made), Some(nix::Error::EPERM), "{family:?} {kind:?}");
                }
            }
            let made = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::empty(),
                None,
            );
            assert_eq!(errno(made), Some(nix::Error::EPERM));
        });
        thread.join().unwrap();
    }

    #[test]
    fn nothing_is_executed_forked_traced_or_made_executable() {
        confined(|| {
            let ran = std::process::Command::new("/bin/true").status();
            assert_eq!(
                ran.unwrap_err().kind(),
                std::io::ErrorKind::PermissionDenied
            );
            // SAFETY: if it were made, the child would end at once.
            let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            if child == 0 {
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            assert_eq!(child, -1);
            // SAFETY: a new mapping at an address of the kernel's choice, used by nobody.
            let mapped = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            assert_eq!(mapped, libc::MAP_FAILED);
            assert!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err());
            assert!(nix::mount::umount("/nowhere").is_err_and(|e| e == nix::Error::EPERM));
        });
    }

    #[test]
    fn what_a_daemon_does_all_day_still_works() {
        confined(|| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            crate::files::write_secret(&path, "text").unwrap();
            assert_eq!(crate::files::read_secret(&path).unwrap().as_str(), "text");
            crate::files::remove(&path).unwrap();
            let thread = std::thread::Builder::new().name("another".into());
            assert_eq!(thread.spawn(|| 1).unwrap().join().unwrap(), 1);
            let links = dataplane::link::Links::open().unwrap();
            links.find("lo").unwrap();
            let mut bytes = [0; 8];
            crate::entropy::fill(&mut bytes).unwrap();
        });
    }
}
