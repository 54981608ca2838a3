//! The descriptor of the socket behind a new UMEM, which `xsk-rs` keeps to itself until it has bound it.
//!
//! The kernel gives a new descriptor the lowest number that is free, and each socket of this machine a
//! cookie of its own: so it is the one AF_XDP socket near the lowest free number that was not there before.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// How far above the lowest free number it may be, because of descriptors made meanwhile elsewhere.
const NEAR: RawFd = 512;

/// Runs `make`, which makes one AF_XDP socket, and gives a descriptor of it beside what `make` gave.
///
/// # Errors
/// What `make` answered, or that the socket is not to be found.
pub(super) fn made_by<T>(
    make: impl FnOnce() -> Result<T, (&'static str, io::Error)>,
) -> Result<(T, OwnedFd), (&'static str, io::Error)> {
    // One at a time, or they could not be told apart.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = lowest_free().map_err(|error| ("dup", error))?;
    let sockets = || (0..free.saturating_add(NEAR)).filter_map(|fd| Some((fd, cookie(fd)?)));
    let before: BTreeSet<u64> = sockets().map(|(_, cookie)| cookie).collect();
    let made = make()?;
    let mut new = sockets().filter(|(_, cookie)| !before.contains(cookie));
    let missing = || io::Error::other("the socket of the new memory is not to be found");
    let found = match (new.next(), new.next()) {
        (Some((fd, _)), None) => fd,
        _ => return Err(("finding the socket (AF_XDP)", missing())),
    };
    // SAFETY: `made` holds the socket open, and dup(2) only reads its table entry.
    let copy = unsafe { BorrowedFd::borrow_raw(found) }.try_clone_to_owned();
    Ok((made, copy.map_err(|error| ("dup", error))?))
}

/// The lowest number that no descriptor has.
fn lowest_free() -> io::Result<RawFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::dup(libc::STDERR_FILENO) };
    let fd = match fd {
        // Closed, it is the lowest free number or near it.
        fd if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) => {
            return Ok(libc::STDERR_FILENO);
        }
        fd if fd < 0 => return Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        fd => unsafe { OwnedFd::from_raw_fd(fd) },
    };
    Ok(fd.as_raw_fd())
}

/// The cookie of an AF_XDP socket; `None` for anything else.
fn cookie(fd: RawFd) -> Option<u64> {
    let domain: libc::c_int = option(fd, libc::SO_DOMAIN)?;
    (domain == libc::AF_XDP).then(|| option(fd, libc::SO_COOKIE))?
}

/// A socket option that is an integer.
fn option<T: Default>(fd: RawFd, name: libc::c_int) -> Option<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, all of an integer; a number that is no descriptor is
    // an error and nothing else.
    let answer = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (answer == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_made_no_socket_is_an_error_and_another_socket_is_not_taken_for_one() {
        let (_call, error) = made_by(|| Ok(std::net::UdpSocket::bind("127.0.0.1:0"))).unwrap_err();
        assert!(error.to_string().contains("not to be found"), "{error}");
        assert_eq!(cookie(libc::STDERR_FILENO), None);
        assert_eq!(cookie(-1), None);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(cookie(udp.as_raw_fd()), None);
    }
}
