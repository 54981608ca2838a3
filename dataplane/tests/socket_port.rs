//! The socket port over the loopback interface: no frame is lost, doubled or changed. Needs no root.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{GetSockOpt, SetSockOpt, sockopt::RcvBuf};
use nix::{setsockopt_impl, sockopt_impl};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::socket::{
    SocketConfig, SocketError, SocketFrame, SocketMemory, SocketPort, socket_for,
};
use proptest::prelude::*;

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

sockopt_impl!(
    /// Sends UDP over IPv4 without checksums; the kernel refuses UDP_SEGMENT then.
    NoChecksum,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_NO_CHECK,
    libc::c_int
);

/// A socket without any options, on a port of its own.
fn plain(any: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(any).expect("a socket on the loopback interface");
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Two ports connected to each other, the second on a socket made elsewhere.
fn pair_with(any: &str, memory: &SocketMemory, trains: bool) -> (SocketPort, SocketPort) {
    let (socket, address) = plain(any);
    let config = SocketConfig {
        trains,
        ..SocketConfig::new(address)
    };
    let near = SocketPort::open(&config, memory).unwrap();
    socket.connect(near.local()).unwrap();
    RcvBuf.set(&socket, &config.receive_buffer).unwrap();
    let far = SocketPort::from_socket(OwnedFd::from(socket), memory).unwrap();
    assert_eq!((far.local(), far.remote()), (near.remote(), near.local()));
    (near, far)
}

fn pair(any: &str) -> (SocketPort, SocketPort) {
    pair_with(any, &SocketMemory::default(), true)
}

/// A frame's bytes by its number, which they begin with.
fn content(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(number) as u8)
        .collect();
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn build(port: &mut SocketPort, bytes: &[u8]) -> Option<SocketFrame> {
    let mut frame = port.reserve()?;
    assert!(port.data(&frame).is_empty());
    port.set_len(&mut frame, bytes.len());
    port.data_mut(&mut frame).copy_from_slice(bytes);
    Some(frame)
}

fn send(port: &mut SocketPort, bytes: &[u8]) {
    let frame = build(port, bytes).expect("a free frame");
    port.send(frame).expect("room");
}

/// Waits until the port is readable, and receives what there is.
fn receive(port: &mut SocketPort, into: &mut Vec<SocketFrame>, max: usize) -> usize {
    let fd = port.poll_fd().unwrap();
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(200u16)).unwrap();
    port.receive(into, max)
}

/// Receives until `count` frames came or nothing more does.
fn receive_all(port: &mut SocketPort, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut frames, mut all) = (Vec::new(), Vec::new());
    while all.len() < count && Instant::now() < deadline {
        receive(port, &mut frames, 64);
        for frame in frames.drain(..) {
            all.push(port.data(&frame).to_vec());
            port.release(frame);
        }
    }
    all
}

fn all_home(port: &SocketPort, memory: &SocketMemory) {
    let census = port.statistics().frames;
    let half = memory.frames as usize / 2;
    assert_eq!(port.counts().buffers_used, 0);
    assert_eq!(
        (census.receiving + census.stash, census.free),
        (half, half),
        "{census:?}"
    );
}

#[test]
fn every_frame_arrives_once_and_intact_in_both_families_at_every_size() {
    for any in [V4, V6] {
        for trains in [true, false] {
            let memory = SocketMemory::default();
            let (mut near, mut far) = pair_with(any, &memory, trains);
            let mut sizes: Vec<usize> = (24..=9216).step_by(67).collect();
            sizes.extend([24, 25, 1279, 1280, 1432, 1500, 4096, 9215, 9216]);
            let mut number = 0;
            for size in sizes {
                // A train with a short end, and one of another length behind it.
                let lengths = [size, size, size, size.div_ceil(2).max(24), size];
                for turn in 0..2 {
                    let (from, to) = match turn {
                        0 => (&mut near, &mut far),
                        _ => (&mut far, &mut near),
                    };
                    let first = number;
                    for len in lengths {
                        send(from, &content(number, len));
                        number += 1;
                    }
                    assert_eq!(from.flush().unwrap(), 0);
                    let mut expected: BTreeMap<u32, Vec<u8>> = (first..number)
                        .zip(lengths)
                        .map(|(number, len)| (number, content(number, len)))
                        .collect();
                    for bytes in receive_all(to, lengths.len()) {
                        let number = number_of(&bytes);
                        assert!(expected.remove(&number) == Some(bytes), "frame {number}");
                    }
                    assert!(expected.is_empty(), "lost of {size}: {:?}", expected.keys());
                }
            }
            for port in [&mut near, &mut far] {
                assert_eq!(port.receive(&mut Vec::new(), 64), 0, "nothing came twice");
                port.flush().unwrap();
                all_home(port, &memory);
            }
            assert_eq!(near.counts().trains_sent > 0, trains);
            assert_eq!(far.counts().trains_received > 0, trains);
        }
    }
}

#[test]
fn a_train_is_taken_apart_where_its_frames_end_however_few_are_taken_at_a_time() {
    let (mut near, mut far) = pair(V4);
    for number in 0..10 {
        send(&mut near, &content(number, 1000));
    }
    send(&mut near, &content(10, 333));
    near.flush().unwrap();
    assert_eq!(near.counts().trains_sent, 1);
    let (mut held, mut turns) = (Vec::new(), 0);
    while held.len() < 11 && turns < 100 {
        turns += 1;
        let want = 1 + turns % 3;
        assert!(receive_or_not(&mut far, &mut held, want) <= want);
    }
    let lengths: Vec<usize> = held.iter().map(|frame| far.data(frame).len()).collect();
    assert_eq!(lengths, [&[1000; 10][..], &[333]].concat());
    assert_eq!(far.counts().trains_received, 1);
    // Writing to one changes no other, though they lie in one buffer.
    far.data_mut(&mut held[4]).fill(0xee);
    for (number, frame) in held.drain(..).enumerate() {
        if number != 4 {
            let len = if number == 10 { 333 } else { 1000 };
            assert_eq!(far.data(&frame), content(number as u32, len));
        }
        far.release(frame);
    }
    all_home(&far, &SocketMemory::default());
}

/// Receives; a part of a train that was not taken does not make the socket readable, so it is not
/// waited for.
fn receive_or_not(port: &mut SocketPort, into: &mut Vec<SocketFrame>, max: usize) -> usize {
    match port.receive(into, max) {
        0 => receive(port, into, max),
        count => count,
    }
}

#[test]
fn a_received_frame_can_be_sent_back_grown_or_as_it_is() {
    let (mut near, mut far) = pair(V6);
    let memory = SocketMemory::default();
    for round in 0..50u32 {
        let numbers = round * 40..(round + 1) * 40;
        for number in numbers.clone() {
            send(&mut near, &content(number, 700));
        }
        near.flush().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut frames, mut echoed) = (Vec::new(), 0);
        while echoed < 40 && Instant::now() < deadline {
            receive(&mut far, &mut frames, 64);
            for mut frame in frames.drain(..) {
                // Every third is made larger, which takes it out of its train.
                if number_of(far.data(&frame)).is_multiple_of(3) {
                    far.set_len(&mut frame, 1700);
                    far.data_mut(&mut frame)[700..].fill(3);
                }
                far.send(frame).expect("room");
                echoed += 1;
            }
            far.flush().unwrap();
        }
        let back: HashMap<u32, Vec<u8>> = receive_all(&mut near, 40)
            .into_iter()
            .map(|bytes| (number_of(&bytes), bytes))
            .collect();
        for number in numbers {
            let mut bytes = content(number, 700);
            if number.is_multiple_of(3) {
                bytes.resize(1700, 3);
            }
            assert!(back.get(&number) == Some(&bytes), "frame {number}");
        }
    }
    near.flush().unwrap();
    for port in [&near, &far] {
        all_home(port, &memory);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u8, u16),
    SetLen(prop::sample::Index, u16),
    Release(prop::sample::Index),
    Send(prop::sample::Index),
    Flush,
    Receive(u8),
}

const SMALL: SocketMemory = SocketMemory {
    frames: 64,
    capacity: 600,
    trains: 4,
};

/// Each with the port it is done to.
fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let index = any::<prop::sample::Index>;
    let len = || prop_oneof![2 => Just(500u16), 1 => 24u16..=600];
    let step = prop_oneof![
        3 => (1u8..30, len()).prop_map(|(count, len)| Step::Reserve(count, len)),
        1 => (index(), len()).prop_map(|(which, len)| Step::SetLen(which, len)),
        6 => index().prop_map(Step::Release),
        16 => index().prop_map(Step::Send),
        3 => Just(Step::Flush),
        4 => (1u8..30).prop_map(Step::Receive),
    ];
    prop::collection::vec((any::<bool>(), step), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_somewhere_once_whatever_is_done_with_it(steps in steps()) {
        let (near, far) = pair_with(V4, &SMALL, true);
        let mut ports = [near, far];
        // What each holds, has sent but not flushed, and what is on its way to it.
        let mut held: [Vec<(SocketFrame, Vec<u8>)>; 2] = Default::default();
        let mut queued: [Vec<Vec<u8>>; 2] = Default::default();
        let mut coming: [HashMap<u32, Vec<u8>>; 2] = Default::default();
        let mut next = 0u32;
        let mut batch = Vec::new();
        for (which, step) in steps {
            let (at, other) = (usize::from(which), usize::from(!which));
            let port = &mut ports[at];
            match step {
                Step::Reserve(count, len) => for _ in 0..count {
                    next += 1;
                    let bytes = content(next, usize::from(len));
                    let Some(frame) = build(port, &bytes) else { break };
                    held[at].push((frame, bytes));
                },
                Step::SetLen(index, len) => if !held[at].is_empty() {
                    let count = held[at].len();
                    let (frame, bytes) = &mut held[at][index.index(count)];
                    port.set_len(frame, usize::from(len));
                    let had = bytes.len().min(usize::from(len));
                    prop_assert_eq!(&port.data(frame)[..had], &bytes[..had]);
                    *bytes = content(number_of(bytes), usize::from(len));
                    port.data_mut(frame).copy_from_slice(bytes);
                },
                Step::Release(index) => if !held[at].is_empty() {
                    let count = held[at].len();
                    port.release(held[at].swap_remove(index.index(count)).0);
                },
                Step::Send(index) => if !held[at].is_empty() {
                    let count = held[at].len();
                    let (frame, bytes) = held[at].swap_remove(index.index(count));
                    prop_assert!(port.send(frame).is_ok());
                    queued[at].push(bytes);
                },
                Step::Flush => {
                    prop_assert_eq!(port.flush().unwrap(), 0);
                    coming[other].extend(queued[at].drain(..).map(|bytes| (number_of(&bytes), bytes)));
                }
                Step::Receive(max) => {
                    let got = port.receive(&mut batch, usize::from(max));
                    prop_assert_eq!(got, batch.len());
                    prop_assert!(got <= usize::from(max));
                    for frame in batch.drain(..) {
                        let bytes = port.data(&frame).to_vec();
                        let sent = coming[at].remove(&number_of(&bytes));
                        prop_assert_eq!(sent.as_ref(), Some(&bytes), "changed, or came twice");
                        held[at].push((frame, bytes));
                    }
                }
            }
            for at in 0..2 {
                let census = ports[at].statistics().frames;
                prop_assert_eq!(census.total(), SMALL.frames as usize, "{:?}", census);
                prop_assert_eq!(census.held, held[at].len());
                prop_assert_eq!(census.sending, queued[at].len());
                for (frame, bytes) in &held[at] {
                    prop_assert_eq!(ports[at].data(frame), &bytes[..], "a held frame was written to");
                }
            }
        }
        // Once everything is given back, the rest arrives and every frame is home.
        for at in 0..2 {
            held[at].drain(..).for_each(|(frame, _)| ports[at].release(frame));
            prop_assert_eq!(ports[at].flush().unwrap(), 0);
            coming[1 - at].extend(queued[at].drain(..).map(|bytes| (number_of(&bytes), bytes)));
        }
        for at in 0..2 {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !coming[at].is_empty() && Instant::now() < deadline {
                receive_or_not(&mut ports[at], &mut batch, 64);
                for frame in batch.drain(..) {
                    let bytes = ports[at].data(&frame).to_vec();
                    prop_assert_eq!(coming[at].remove(&number_of(&bytes)), Some(bytes));
                    ports[at].release(frame);
                }
            }
            prop_assert!(coming[at].is_empty(), "{} frames are lost", coming[at].len());
            all_home(&ports[at], &SMALL);
        }
    }
}

#[test]
fn frames_keep_coming_while_others_of_every_train_are_held() {
    let (mut near, mut far) = pair_with(V4, &SMALL, true);
    let (mut held, mut frames) = (Vec::new(), Vec::new());
    let mut number = 0;
    // One of each train is kept, so that more trains are kept than there are buffers.
    for _ in 0..20 {
        for _ in 0..6 {
            send(&mut near, &content(number, 400));
            number += 1;
        }
        near.flush().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while frames.len() < 6 && Instant::now() < deadline {
            receive_or_not(&mut far, &mut frames, 64);
        }
        assert_eq!(frames.len(), 6, "of those up to {number}");
        held.extend(frames.drain(..1));
        frames.drain(..).for_each(|frame| far.release(frame));
    }
    for (train, frame) in held.drain(..).enumerate() {
        assert_eq!(far.data(&frame), content(train as u32 * 6, 400));
        far.release(frame);
    }
    all_home(&far, &SMALL);
}

#[test]
fn when_every_frame_is_held_the_rest_waits_and_comes_once_some_are_given_back() {
    let (mut near, mut far) = pair_with(V4, &SMALL, true);
    for half in 0..2 {
        for number in 0..25 {
            send(&mut near, &content(half * 25 + number, 300));
        }
        near.flush().unwrap();
    }
    let mut held = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while held.len() < 32 && Instant::now() < deadline {
        receive_or_not(&mut far, &mut held, 64);
    }
    assert_eq!(
        far.receive(&mut held, 64),
        0,
        "all 32 frames to receive into are held"
    );
    assert_eq!(held.len(), 32);
    assert!(far.statistics().fill_ring_empty > 0);
    let first: Vec<u32> = held
        .iter()
        .map(|frame| number_of(far.data(frame)))
        .collect();
    held.drain(..).for_each(|frame| far.release(frame));
    let rest = receive_all(&mut far, 18);
    let mut all: Vec<u32> = rest
        .iter()
        .map(|bytes| number_of(bytes))
        .chain(first)
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_refusal_by_icmp_is_counted_and_does_not_end_the_port() {
    for any in [V4, V6] {
        let (socket, address) = plain(any);
        drop(socket);
        let memory = SocketMemory::default();
        let mut port = SocketPort::open(&SocketConfig::new(address), &memory).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while port.counts().refusals < 5 {
            assert!(Instant::now() < deadline, "{:?}", port.counts());
            // Each of these is answered by port unreachable, told to the next call of either kind.
            for number in 0..2 {
                send(&mut port, &content(number, 100 + number as usize));
                assert_eq!(port.flush().unwrap(), 0);
            }
            assert_eq!(receive(&mut port, &mut Vec::new(), 64), 0);
        }
        // The other end is there again.
        let there = UdpSocket::bind(address).expect("the port is still free");
        there.connect(port.local()).unwrap();
        let timeout = Some(Duration::from_secs(10));
        there.set_read_timeout(timeout).unwrap();
        send(&mut port, &content(7, 64));
        assert_eq!(port.flush().unwrap(), 0);
        let mut bytes = [0; 100];
        let len = there.recv(&mut bytes).expect("the frame arrives");
        assert_eq!(bytes[..len], content(7, 64));
        there.send(&content(8, 80)).unwrap();
        assert_eq!(receive_all(&mut port, 1), [content(8, 80)]);
        all_home(&port, &memory);
    }
}

#[test]
fn a_refusal_hides_no_frame_that_came_before_it() {
    let (socket, address) = plain(V4);
    let mut port = SocketPort::open(&SocketConfig::new(address), &SMALL).unwrap();
    socket.connect(port.local()).unwrap();
    socket.send(&content(1, 100)).unwrap();
    drop(socket);
    send(&mut port, &content(2, 100));
    assert_eq!(port.flush().unwrap(), 0);
    let refused = |port: &SocketPort| {
        let mut fds = [PollFd::new(port.poll_fd().unwrap(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::from(200u16)).unwrap() > 0
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !refused(&port) {
        assert!(Instant::now() < deadline, "no ICMP came");
    }
    let mut frames = Vec::new();
    assert_eq!(port.receive(&mut frames, 64), 1);
    assert_eq!(port.counts().refusals, 1);
    assert_eq!(port.data(&frames[0]), content(1, 100));
}

#[test]
fn where_the_kernel_refuses_trains_frames_go_one_by_one() {
    let (mut near, mut far) = pair(V4);
    NoChecksum.set(&near.poll_fd().unwrap(), &1).unwrap();
    for number in 0..100 {
        send(&mut near, &content(number, 1400));
    }
    assert!(near.sends_trains());
    assert_eq!(near.flush().unwrap(), 0);
    assert!(!near.sends_trains(), "it has noticed");
    let mut numbers: Vec<u32> = receive_all(&mut far, 100)
        .iter()
        .map(|bytes| number_of(bytes))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert_eq!(near.statistics().tx_invalid, 0, "none was lost by it");
    all_home(&near, &SocketMemory::default());
}

#[test]
fn datagrams_that_are_no_frames_are_dropped_and_counted() {
    let (socket, address) = plain(V4);
    let mut port = SocketPort::open(&SocketConfig::new(address), &SMALL).unwrap();
    socket.connect(port.local()).unwrap();
    socket.send(&[]).unwrap();
    socket.send(&[1; 601]).unwrap();
    socket.send(&[1; 60_000]).unwrap();
    socket.send(&content(1, 600)).unwrap();
    assert_eq!(receive_all(&mut port, 1), [content(1, 600)]);
    assert_eq!(port.statistics().rx_dropped, 3);
    all_home(&port, &SMALL);
}

#[test]
fn what_the_kernel_had_no_room_for_is_counted() {
    let (socket, address) = plain(V4);
    let config = SocketConfig {
        receive_buffer: 1,
        ..SocketConfig::new(address)
    };
    let mut port = SocketPort::open(&config, &SocketMemory::default()).unwrap();
    socket.connect(port.local()).unwrap();
    for number in 0..200 {
        socket.send(&content(number, 1000)).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut arrived, mut lost) = (0, 0);
    let mut frames = Vec::new();
    while arrived + lost < 200 && Instant::now() < deadline {
        arrived += receive(&mut port, &mut frames, 64) as u64;
        frames.drain(..).for_each(|frame| port.release(frame));
        lost = port.statistics().rx_ring_full;
    }
    assert!(lost > 0 && arrived > 0);
    assert_eq!(arrived + lost, 200);
}

#[test]
fn only_the_other_end_is_heard() {
    let (socket, address) = plain(V4);
    let mut port = SocketPort::open(&SocketConfig::new(address), &SMALL).unwrap();
    let (stranger, _) = plain(V4);
    stranger.send_to(&content(1, 50), port.local()).unwrap();
    socket.send_to(&content(2, 50), port.local()).unwrap();
    assert_eq!(receive_all(&mut port, 1), [content(2, 50)]);
    assert_eq!(port.receive(&mut Vec::new(), 64), 0);
}

#[test]
#[should_panic(expected = "another port")]
fn a_token_of_another_port_is_refused() {
    let (one, mut other) = pair(V4);
    let frame = other.reserve().unwrap();
    one.data(&frame);
}

#[test]
fn addresses_and_sizes_that_do_not_go_together_are_refused_in_words() {
    let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let config = SocketConfig {
        local: Some("[::1]:0".parse().unwrap()),
        ..SocketConfig::new(remote)
    };
    let refused = |config: &SocketConfig, memory: &SocketMemory| {
        let error = SocketPort::open(config, memory).err().expect("a refusal");
        error.to_string()
    };
    assert!(refused(&config, &SMALL).contains("not of one family"));
    let config = SocketConfig {
        local: Some("192.0.2.1:0".parse().unwrap()),
        ..SocketConfig::new(remote)
    };
    assert!(refused(&config, &SMALL).contains("bind to 192.0.2.1:0"));
    let config = SocketConfig {
        interface: Some("nothing0".into()),
        ..SocketConfig::new(remote)
    };
    assert!(refused(&config, &SMALL).contains("no such interface"));
    for memory in [
        SocketMemory { frames: 1, ..SMALL },
        SocketMemory { trains: 1, ..SMALL },
        SocketMemory {
            capacity: 70_000,
            ..SMALL
        },
        SocketMemory {
            frames: 1 << 16,
            capacity: 65_507,
            ..SMALL
        },
    ] {
        let words = refused(&SocketConfig::new(remote), &memory);
        assert!(words.contains("is not possible"), "{words}");
    }
    let (unconnected, _) = plain(V4);
    let adopted = SocketPort::from_socket(unconnected.into(), &SMALL);
    assert!(matches!(adopted, Err(SocketError::NotConnected { .. })));
    let listener = TcpListener::bind(V4).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let adopted = SocketPort::from_socket(stream.into(), &SMALL);
    assert!(matches!(adopted, Err(SocketError::NotConnected { .. })));
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    let adopted = SocketPort::from_socket(datagrams.into(), &SMALL);
    assert!(matches!(adopted, Err(SocketError::NotConnected { .. })));
}

#[test]
fn the_own_address_is_the_one_asked_for_or_one_the_kernel_chose() {
    let remote: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let port = SocketPort::open(&SocketConfig::new(remote), &SMALL).unwrap();
    assert_eq!(port.local().ip(), remote.ip());
    assert_ne!(port.local().port(), 0);
    let config = SocketConfig {
        local: Some("127.0.0.2:0".parse().unwrap()),
        ..SocketConfig::new("[::ffff:127.0.0.1]:9".parse().unwrap())
    };
    let socket = socket_for(&config).unwrap();
    let asked = RcvBuf.get(&socket).unwrap();
    let port = SocketPort::from_socket(socket, &SMALL).unwrap();
    assert_eq!(port.local().ip().to_string(), "127.0.0.2");
    assert_eq!(port.remote(), remote, "IPv4 as such");
    assert_eq!(port.receive_buffer(), asked);
}

/// Frames of 1424 bytes one way over the loopback interface, on one thread, for a second each:
///
/// ```text
/// cargo test --release -p portcullis-dataplane --test socket_port -- --ignored --nocapture how_many
/// ```
#[test]
#[ignore = "a measurement"]
fn how_many_frames_pass() {
    for (len, trains) in [
        (1424, true),
        (1424, false),
        (9000, true),
        (9000, false),
        (64, true),
        (64, false),
    ] {
        let (mut near, mut far) = pair_with(V4, &SocketMemory::default(), trains);
        let mut frames = Vec::with_capacity(256);
        let (mut sent, mut received) = (0u64, 0u64);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            for _ in 0..64 {
                let mut frame = near.reserve().expect("a free frame");
                near.set_len(&mut frame, len);
                near.send(frame).expect("room");
            }
            sent += 64;
            near.flush().unwrap();
            while far.receive(&mut frames, 256) > 0 {
                received += frames.len() as u64;
                frames.drain(..).for_each(|frame| far.release(frame));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{len} bytes, trains {trains}: {:.0} frames/s sent and received, {:.2} Gbit/s, {} lost",
            received as f64 / seconds,
            received as f64 * len as f64 * 8.0 / seconds / 1e9,
            sent - received
        );
    }
}
