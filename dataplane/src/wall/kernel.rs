//! The bpf(2) calls of the wall: links, pins, map elements and test runs.
//!
//! aya loads the programs and makes the maps. Links are made here instead, because a link that the
//! kernel refuses must be an error: aya would fall back to an attachment that cannot be pinned, and
//! that opens the wall when its process ends. Each function names its command.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    /// BPF_XDP.
    Xdp = 37,
    /// BPF_TCX_INGRESS.
    TcxIngress = 46,
    /// BPF_TCX_EGRESS.
    TcxEgress = 47,
}

/// BPF_LINK_CREATE for a tcx link: before all others. (XDP has flags of its own.)
pub(super) const FIRST: u32 = 1 << 3;
/// BPF_LINK_CREATE for an XDP link: in the network stack, after the kernel made a packet of it.
pub(super) const XDP_GENERIC: u32 = 1 << 1;
/// BPF_LINK_CREATE for an XDP link: in the driver.
pub(super) const XDP_NATIVE: u32 = 1 << 2;

/// What the kernel says of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// The link's own number, which stays the same when its program is replaced.
    pub id: u32,
    /// The program that runs.
    pub program: u32,
    /// The interface; 0 when it is gone.
    pub ifindex: u32,
}

/// The result of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned (the last time).
    pub answer: u32,
    /// Average nanoseconds of a run.
    pub nanoseconds: u32,
}

/// One bpf(2) call. `attributes` must be the command's own structure, with pointers that are valid
/// for the call.
fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the kernel reads, and for some commands writes, `size_of::<T>()` bytes of
    // `attributes`, and the buffers it points to, which every caller keeps alive over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn path_of(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// BPF_MAP_LOOKUP_ELEM of a per-CPU map of `u64`, into one value for each possible CPU.
pub(super) fn map_read_cpus(map: BorrowedFd<'_>, key: u32, values: &mut [u64]) -> io::Result<()> {
    look_up(map, &raw const key as u64, values.as_mut_ptr() as u64)
}

/// BPF_MAP_LOOKUP_ELEM. `key` and `value` are records of the map's key and value sizes. `Ok(false)`
/// when there is no such key.
pub(super) fn map_read<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool> {
    let (key, value) = (std::ptr::from_ref(key), std::ptr::from_mut(value));
    match look_up(map, key as u64, value as u64) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn look_up(map: BorrowedFd<'_>, key: u64, value: u64) -> io::Result<()> {
    let mut element = Element {
        map: raw(map),
        pad: 0,
        key,
        value,
        flags: 0,
    };
    bpf(1, &mut element).map(drop)
}

/// BPF_MAP_UPDATE_ELEM. `key` and `value` are records of the map's key and value sizes.
pub(super) fn map_write<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut element = Element {
        map: raw(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    bpf(2, &mut element).map(drop)
}

/// BPF_MAP_UPDATE_ELEM of a per-CPU map, from one value for each possible CPU.
pub(super) fn map_write_cpus(map: BorrowedFd<'_>, key: u32, values: &[u64]) -> io::Result<()> {
    let mut element = Element {
        map: raw(map),
        pad: 0,
        key: (&raw const key) as u64,
        value: values.as_ptr() as u64,
        flags: 0,
    };
    bpf(2, &mut element).map(drop)
}

/// BPF_MAP_DELETE_ELEM. `Ok(false)` when there was no such key.
pub(super) fn map_remove<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut element = Element {
        map: raw(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    match bpf(3, &mut element) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// BPF_OBJ_PIN.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    let mut attributes = Object {
        path: path.as_ptr() as u64,
        fd: raw(object),
        flags: 0,
    };
    bpf(6, &mut attributes).map(drop)
}

/// BPF_OBJ_GET. `Ok(None)` when nothing is pinned there.
pub(super) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = path_of(path)?;
    let mut attributes = Object {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    match bpf(7, &mut attributes) {
        Ok(fd) => owned(fd).map(Some),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// BPF_OBJ_GET_INFO_BY_FD of a link of type XDP or tcx.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// The head of `struct bpf_link_info`; both link types have their ifindex first.
    #[repr(C)]
    #[derive(Default)]
    struct Link {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        ifindex: u32,
        rest: [u32; 15],
    }
    const XDP: u32 = 6;
    const TCX: u32 = 11;
    let mut link_info = Link::default();
    let mut attributes = Info {
        fd: raw(link),
        len: size_of::<Link>() as u32,
        info: (&raw mut link_info) as u64,
    };
    bpf(15, &mut attributes)?;
    if link_info.kind != XDP && link_info.kind != TCX {
        return Err(io::Error::other("it is a link of another type"));
    }
    Ok(LinkInfo {
        id: link_info.id,
        program: link_info.program,
        ifindex: link_info.ifindex,
    })
}

/// BPF_OBJ_GET_INFO_BY_FD of a program: its number.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // The head of `struct bpf_prog_info`: type and number.
    let mut head = [0u32; 2];
    let mut attributes = Info {
        fd: raw(program),
        len: size_of_val(&head) as u32,
        info: head.as_mut_ptr() as u64,
    };
    bpf(15, &mut attributes)?;
    Ok(head[1])
}

/// BPF_LINK_CREATE on an interface.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: Hook,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        ifindex: u32,
        hook: u32,
        flags: u32,
        relative: u32,
        pad: u32,
        revision: u64,
    }
    let mut attributes = Create {
        program: raw(program),
        ifindex,
        hook: hook as u32,
        flags,
        relative: 0,
        pad: 0,
        revision: 0,
    };
    owned(bpf(28, &mut attributes)?)
}

/// BPF_LINK_UPDATE: from one frame to the next the link runs another program.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = [raw(link), raw(program), 0, 0];
    bpf(29, &mut attributes).map(drop)
}

/// BPF_LINK_DETACH: off the interface, whoever else holds the link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = [raw(link)];
    bpf(34, &mut attributes).map(drop)
}

/// BPF_PROG_QUERY of a tcx hook: the programs on the interface, the first to run first. `Ok(None)`
/// when the kernel has no tcx.
pub(super) fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Option<Vec<u32>>> {
    #[repr(C)]
    struct Query {
        ifindex: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        pad: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut programs = vec![0u32; 64];
    let mut attributes = Query {
        ifindex,
        hook: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: programs.len() as u32,
        pad: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    match bpf(16, &mut attributes) {
        Ok(_) => {
            programs.truncate(attributes.count as usize);
            Ok(Some(programs))
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

/// BPF_PROG_TEST_RUN: runs a program on a packet, `repeat` times, as if it had come on queue 0 of the
/// loopback interface.
///
/// # Errors
/// What the kernel answered; EINVAL for a packet shorter than an Ethernet header.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
    test_run_into(program, packet, repeat, &mut [])
}

/// The same, giving the packet as the program left it.
///
/// # Errors
/// The same, and ENOSPC for a packet that was made longer than `left`.
pub(super) fn test_run_into(
    program: BorrowedFd<'_>,
    packet: &[u8],
    repeat: u32,
    left: &mut [u8],
) -> io::Result<TestRun> {
    #[repr(C)]
    struct Test {
        program: u32,
        answer: u32,
        in_len: u32,
        out_len: u32,
        input: u64,
        output: u64,
        repeat: u32,
        nanoseconds: u32,
        context: [u64; 3],
        flags: [u32; 4],
    }
    let output = match left.len() {
        0 => 0,
        _ => left.as_mut_ptr() as u64,
    };
    let mut attributes = Test {
        program: raw(program),
        answer: 0,
        in_len: packet.len() as u32,
        out_len: left.len() as u32,
        input: packet.as_ptr() as u64,
        output,
        repeat,
        nanoseconds: 0,
        context: [0; 3],
        flags: [0; 4],
    };
    bpf(10, &mut attributes)?;
    Ok(TestRun {
        answer: attributes.answer,
        nanoseconds: attributes.nanoseconds,
    })
}
