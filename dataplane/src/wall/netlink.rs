//! What the kernel says of an interface's XDP program: RTM_GETLINK, and nothing more of netlink.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attached {
    /// IFLA_XDP_ATTACHED: one of the modes below.
    pub mode: u8,
    /// Its number; 0 when there are several.
    pub program: u32,
}

/// XDP_ATTACHED_DRV.
pub(super) const NATIVE: u8 = 1;
/// XDP_ATTACHED_SKB.
pub(super) const GENERIC: u8 = 2;

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// The attribute's type without its flags.
const TYPE_MASK: u16 = 0x3fff;
const NLMSG_HEADER: usize = size_of::<libc::nlmsghdr>();
const IFINFO: usize = 16;

/// The XDP program on the interface with this index, in the network namespace of the thread.
pub(super) fn xdp(ifindex: u32) -> io::Result<Option<Attached>> {
    let answer = get_link(ifindex)?;
    let kind = answer.get(4..6).map(|bytes| [bytes[0], bytes[1]]);
    match kind.map(u16::from_ne_bytes) {
        Some(kind) if i32::from(kind) == libc::NLMSG_ERROR => {
            let code = u32_at(&answer, NLMSG_HEADER).unwrap_or_default() as i32;
            Err(io::Error::from_raw_os_error(-code))
        }
        Some(libc::RTM_NEWLINK) => {
            let attributes = answer.get(NLMSG_HEADER + IFINFO..).unwrap_or_default();
            Ok(find(attributes))
        }
        _ => Err(io::Error::other("netlink answered something else")),
    }
}

fn find(attributes: &[u8]) -> Option<Attached> {
    let nested = attribute(attributes, IFLA_XDP)?;
    let mode = *attribute(nested, IFLA_XDP_ATTACHED)?.first()?;
    let program = attribute(nested, IFLA_XDP_PROG_ID).and_then(|value| u32_at(value, 0));
    (mode != 0).then_some(Attached {
        mode,
        program: program.unwrap_or(0),
    })
}

/// The value of the first attribute of a type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes([
            *attributes.first()?,
            *attributes.get(1)?,
        ]));
        let kind = u16::from_ne_bytes([*attributes.get(2)?, *attributes.get(3)?]);
        let value = attributes.get(4..length)?;
        if kind & TYPE_MASK == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word))
}

fn get_link(ifindex: u32) -> io::Result<Vec<u8>> {
    const LENGTH: usize = NLMSG_HEADER + IFINFO;
    let mut request = [0u8; LENGTH];
    request[0..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[NLMSG_HEADER + 4..NLMSG_HEADER + 8].copy_from_slice(&ifindex.to_ne_bytes());

    // SAFETY: socket(2) makes a descriptor that nobody else knows.
    let socket = unsafe {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut answer = vec![0u8; 32 * 1024];
    // SAFETY: the buffers outlive the calls, and are as long as said.
    let length = unsafe {
        if libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_a_program_has_none_and_a_missing_one_is_an_error() {
        assert_eq!(xdp(1).expect("the loopback interface"), None);
        assert!(xdp(0x7fff_fff0).is_err());
    }

    #[test]
    fn attributes_cut_short_are_not_read_beyond_their_end() {
        let whole = [
            28, 0, 43, 0x80, 5, 0, 2, 0, 1, 0, 0, 0, 8, 0, 4, 0, 7, 0, 0, 0, 8, 0, 3, 0, 0, 0, 0, 0,
        ];
        let found = Attached {
            mode: NATIVE,
            program: 7,
        };
        assert_eq!(find(&whole), Some(found));
        for end in 0..whole.len() {
            assert_eq!(find(&whole[..end]), None);
        }
        assert_eq!(find(&[0; 8]), None);
    }
}
