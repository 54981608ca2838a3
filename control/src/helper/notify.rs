//! AF_XDP sockets for a process that may not make any: the kernel hands its `socket(AF_XDP)` to the
//! helper (a seccomp listener), which makes the socket and puts it in place. Whoever calls notices
//! nothing, so the library that opens the rings is used as it is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 of linux/audit.h.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else {
    0xc000_00b7
};

nix::ioctl_readwrite!(notif_recv, b'!', 0, libc::seccomp_notif);
nix::ioctl_readwrite!(notif_send, b'!', 1, libc::seccomp_notif_resp);
nix::ioctl_write_ptr!(notif_addfd, b'!', 3, libc::seccomp_notif_addfd);

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Installs the filter on this thread and those it will make; what it catches can be read from the
/// descriptor.
pub(super) fn listen() -> io::Result<OwnedFd> {
    // Offsets in `struct seccomp_data`: the call's number, the architecture, the first argument.
    let (number, architecture, first) = (0, 4, if cfg!(target_endian = "big") { 20 } else { 16 });
    let mut program = [
        instruction(LOAD, 0, 0, architecture),
        instruction(EQUAL, 0, 5, ARCHITECTURE),
        instruction(LOAD, 0, 0, number),
        instruction(EQUAL, 0, 3, libc::SYS_socket as u32),
        instruction(LOAD, 0, 0, first),
        instruction(EQUAL, 0, 1, libc::AF_XDP as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel reads the program, which outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Answers one call: with the socket that `make` gives, or its error.
pub(super) fn answer(
    listener: BorrowedFd<'_>,
    make: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    // SAFETY: plain data, for which zeros are valid; the kernel wants them.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    match unsafe { notif_recv(listener.as_raw_fd(), &raw mut call) } {
        Ok(_) => {}
        // The caller was killed, or a signal came.
        Err(nix::Error::ENOENT | nix::Error::EINTR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let [family, kind, protocol, ..] = call.data.args;
    let kind = kind as i32 & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let made = match (family as i32, kind, protocol) {
        (libc::AF_XDP, libc::SOCK_RAW, 0) => make(),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    };
    let answered = match made {
        Ok(socket) => {
            let add = libc::seccomp_notif_addfd {
                id: call.id,
                flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
                srcfd: socket.as_raw_fd() as u32,
                newfd: 0,
                newfd_flags: libc::O_CLOEXEC as u32,
            };
            // SAFETY: the kernel reads one such structure.
            unsafe { notif_addfd(listener.as_raw_fd(), &raw const add) }
        }
        Err(error) => {
            let mut refuse = libc::seccomp_notif_resp {
                id: call.id,
                val: 0,
                error: -error.raw_os_error().unwrap_or(libc::EPERM),
                flags: 0,
            };
            // SAFETY: the kernel reads one such structure.
            unsafe { notif_send(listener.as_raw_fd(), &raw mut refuse) }
        }
    };
    match answered {
        // Killed meanwhile.
        Ok(_) | Err(nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
