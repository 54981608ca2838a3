//! The two system calls of a socket port: recvmmsg(2) and sendmmsg(2), with the control messages that say
//! how a message is cut into datagrams.
//!
//! nix has both, but sends all messages of a call with the same control message, and neither it nor
//! rustix sends without an allocation.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use smallvec::SmallVec;

use super::outbox::{MOST_FRAMES, MOST_MESSAGES, Message};
use super::store::{Place, Store};

/// Messages received at a time.
pub(super) const MOST_RECEIVED: usize = 32;

/// The control message that says how long the datagrams are that a message is cut into (UDP_SEGMENT).
#[repr(C)]
struct Segment {
    header: libc::cmsghdr,
    size: u16,
}

/// Room for the control messages of a message received: a few more than UDP_GRO's.
type Control = [usize; 12];

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// The buffer it is in.
    pub(super) train: u16,
    pub(super) len: usize,
    /// Bytes of each datagram but the last; 0 where it is one.
    pub(super) segment: usize,
    /// It was longer than the buffer.
    pub(super) cut: bool,
}

/// Receives up to `most` messages into free buffers of `store`, and does not wait.
///
/// # Errors
/// The errno, when none was received.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    store: &mut Store,
    most: usize,
) -> Result<SmallVec<[Received; MOST_RECEIVED]>, i32> {
    let mut trains = SmallVec::<[u16; MOST_RECEIVED]>::new();
    let mut pieces = SmallVec::<[IoSliceMut<'_>; MOST_RECEIVED]>::new();
    for (train, buffer) in store.landings(most.min(MOST_RECEIVED)) {
        trains.push(train);
        pieces.push(IoSliceMut::new(buffer));
    }
    if trains.is_empty() {
        return Err(libc::ENOBUFS);
    }
    let mut controls: SmallVec<[Control; MOST_RECEIVED]> =
        SmallVec::from_elem(Control::default(), trains.len());
    let mut headers = SmallVec::<[libc::mmsghdr; MOST_RECEIVED]>::new();
    for (piece, control) in pieces.iter_mut().zip(&mut controls) {
        headers.push(header(
            // The standard library promises that an IoSliceMut is an iovec.
            ptr::from_mut(piece).cast(),
            1,
            control.as_mut_ptr().cast(),
            size_of::<Control>(),
        ));
    }
    // SAFETY: each header points to one of `pieces`, which borrows a buffer of its own for writing, and to one
    // of `controls`; both are filled, stay where they are and outlive the call, and nothing else is
    // written to. There are as many headers as is said.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    if count < 0 {
        return Err(errno());
    }
    let received = headers.iter().zip(&trains).zip(&controls);
    let received = received.take(count as usize);
    Ok(received
        .map(|((header, train), control)| Received {
            train: *train,
            len: header.msg_len as usize,
            segment: segment(control, header.msg_hdr.msg_controllen),
            cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
        .collect())
}

/// Sends frames that lie in `bytes` as these messages, and does not wait. The answer is how many messages
/// went.
///
/// # Errors
/// The errno of the first message, when none went.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    store: &Store,
    frames: &[Place],
    messages: &[Message],
) -> Result<usize, i32> {
    let mut pieces = SmallVec::<[IoSlice<'_>; MOST_FRAMES]>::new();
    let count = messages.iter().map(|message| message.frames).sum();
    pieces.extend(
        frames[..count]
            .iter()
            .map(|place| IoSlice::new(store.data(place))),
    );
    let mut controls = SmallVec::<[Segment; MOST_MESSAGES]>::new();
    controls.extend(messages.iter().map(|message| Segment {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        },
        size: message.segment,
    }));
    let mut headers = SmallVec::<[libc::mmsghdr; MOST_MESSAGES]>::new();
    let mut rest = &mut pieces[..];
    for (message, control) in messages.iter().zip(&mut controls) {
        let (first, others) = rest.split_at_mut(message.frames);
        rest = others;
        // A message that is one datagram is not cut.
        let (control, length) = match message.segment {
            0 => (ptr::null_mut(), 0),
            _ => (ptr::from_mut(control).cast(), size_of::<Segment>()),
        };
        // The standard library promises that an IoSlice is an iovec.
        headers.push(header(
            first.as_mut_ptr().cast(),
            first.len(),
            control,
            length,
        ));
    }
    // SAFETY: each header points to its share of `pieces`, which borrow the frames, and to one of `controls` or
    // nothing; both are filled, stay where they are and outlive the call, which writes to the headers only.
    // There are as many headers as is said.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    if sent < 0 {
        return Err(errno());
    }
    Ok(sent as usize)
}

/// A header without an address: the socket is connected.
#[inline]
fn header(
    pieces: *mut libc::iovec,
    count: usize,
    control: *mut libc::c_void,
    length: usize,
) -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: pieces,
            msg_iovlen: count,
            msg_control: control,
            msg_controllen: length,
            msg_flags: 0,
        },
        msg_len: 0,
    }
}

/// What UDP_GRO says among the first `length` bytes of `control`: how long the datagrams are. 0 where it
/// says nothing.
fn segment(control: &Control, length: usize) -> usize {
    const WORD: usize = size_of::<usize>();
    /// Words of a header: its length, then level and type, an int each.
    const HEADER: usize = size_of::<libc::cmsghdr>() / WORD;
    let mut words = &control[..(length / WORD).min(control.len())];
    while words.len() > HEADER {
        let bytes = words[0];
        let mut head = [0; size_of::<libc::cmsghdr>()];
        for (to, word) in head.chunks_exact_mut(WORD).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let int = |at: usize| {
            let bytes = head[at..at + 4].try_into().unwrap_or_default();
            i32::from_ne_bytes(bytes)
        };
        if (int(WORD), int(WORD + 4)) == (libc::SOL_UDP, libc::UDP_GRO) {
            let data = words[HEADER].to_ne_bytes();
            let size = i32::from_ne_bytes(data[..4].try_into().unwrap_or_default());
            return usize::try_from(size).unwrap_or(0);
        }
        let next = bytes.div_ceil(WORD).max(HEADER);
        words = words.get(next..).unwrap_or_default();
    }
    0
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Control messages as the kernel lays them out, each padded to whole words.
    fn control(messages: &[(i32, i32, &[u8])]) -> (Control, usize) {
        let mut bytes = Vec::new();
        for (level, kind, data) in messages {
            bytes.extend((size_of::<libc::cmsghdr>() + data.len()).to_ne_bytes());
            bytes.extend(level.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        }
        let mut control = Control::default();
        for (word, bytes) in control.iter_mut().zip(bytes.chunks(size_of::<usize>())) {
            *word = usize::from_ne_bytes(bytes.try_into().unwrap());
        }
        (control, bytes.len())
    }

    #[test]
    fn the_size_of_a_train_is_found_among_other_control_messages() {
        let size = 1424i32.to_ne_bytes();
        let gro = (libc::SOL_UDP, libc::UDP_GRO, &size[..]);
        let other = (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &[1, 2, 3, 4][..]);
        let long = (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &[9; 48][..]);
        for messages in [&[gro][..], &[other, gro], &[gro, other], &[long, gro]] {
            let (control, length) = control(messages);
            assert_eq!(segment(&control, length), 1424, "{messages:?}");
        }
        for messages in [&[][..], &[other], &[long, other]] {
            let (control, length) = control(messages);
            assert_eq!(segment(&control, length), 0, "{messages:?}");
        }
    }

    #[test]
    fn a_broken_control_message_says_nothing_and_ends() {
        assert_eq!(segment(&[0; 12], size_of::<Control>()), 0);
        assert_eq!(segment(&[usize::MAX; 12], size_of::<Control>()), 0);
        assert_eq!(segment(&[usize::MAX; 12], usize::MAX), 0);
        let minus = (-5i32).to_ne_bytes();
        let (control, length) = control(&[(libc::SOL_UDP, libc::UDP_GRO, &minus)]);
        assert_eq!(segment(&control, length), 0);
        assert_eq!(segment(&control, length - 8), 0, "without its data");
    }
}
