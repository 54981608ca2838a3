//! An XDP program that does nothing but drop: the measure of what running any program costs. It is
//! two instructions, so it needs no object file.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The program type, and the place it is attached to.
const TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// Commands of bpf(2).
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;

/// Loads it.
///
/// # Errors
/// What the kernel answered.
pub(super) fn load() -> io::Result<OwnedFd> {
    // r0 = XDP_DROP; exit
    let instructions = [0x0000_0001_0000_00b7_u64, 0x0000_0000_0000_0095];
    let mut attributes = [0; 16];
    attributes[0] = halves(TYPE_XDP, instructions.len() as u32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    attributes[8] = halves(0, ATTACH_XDP);
    bpf(PROG_LOAD, &attributes)
}

/// Attaches it by a link; dropped, it is off again.
///
/// # Errors
/// What the kernel answered.
pub(super) fn attach(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attributes = [0; 16];
    attributes[0] = halves(program.as_raw_fd() as u32, ifindex);
    attributes[1] = halves(ATTACH_XDP, 0);
    bpf(LINK_CREATE, &attributes)
}

fn halves(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A command that answers with a descriptor.
fn bpf(command: i64, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are as large as said; what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
