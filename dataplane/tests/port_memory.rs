//! The memory port: no frame is lost, doubled or reordered, whatever the kernel does.

use std::collections::{HashSet, VecDeque};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use portcullis_dataplane::port::memory::{
    FarEnd, Faults, MemoryConfig, MemoryFrame, MemoryPort, join,
};
use portcullis_dataplane::port::{Port, PortError};
use proptest::prelude::*;

fn small(first_cursor: u32) -> MemoryConfig {
    MemoryConfig {
        ring_size: 8,
        frames: 24,
        capacity: 128,
        first_cursor,
        wakeups: false,
    }
}

fn open(config: &MemoryConfig) -> (MemoryPort, FarEnd) {
    MemoryPort::open(config).expect("a port in memory")
}

fn send(port: &mut MemoryPort, bytes: &[u8]) -> bool {
    let Some(mut frame) = port.reserve() else {
        return false;
    };
    port.set_len(&mut frame, bytes.len());
    port.data_mut(&mut frame).copy_from_slice(bytes);
    match port.send(frame) {
        Ok(()) => true,
        Err(frame) => {
            port.release(frame);
            false
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Inject(u8),
    Receive(u8),
    Reserve(u8),
    Release(prop::sample::Index),
    Send(prop::sample::Index),
    Flush,
    Take(u8),
    Faults(Faults),
}

fn step() -> impl Strategy<Value = Step> {
    let doorbell = prop_oneof![
        6 => Just(None),
        2 => Just(Some(libc::EAGAIN)),
        1 => Just(Some(libc::ENETDOWN)),
        1 => Just(Some(libc::ENXIO)),
    ];
    let rarely = || prop::bool::weighted(0.25);
    let faults = (rarely(), rarely(), rarely(), rarely(), doorbell).prop_map(|fault| Faults {
        fill_ring_empty: fault.0,
        fill_ring_full: fault.1,
        send_ring_full: fault.2,
        completions_held: fault.3,
        doorbell: fault.4,
    });
    prop_oneof![
        3 => (1u8..12).prop_map(Step::Inject),
        3 => (1u8..12).prop_map(Step::Receive),
        2 => (1u8..12).prop_map(Step::Reserve),
        4 => any::<prop::sample::Index>().prop_map(Step::Release),
        6 => any::<prop::sample::Index>().prop_map(Step::Send),
        4 => Just(Step::Flush),
        3 => (1u8..12).prop_map(Step::Take),
        1 => faults.prop_map(Step::Faults),
    ]
}

fn starts() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (u32::MAX - 60)..=u32::MAX, Just(0)]
}

/// Frame contents by number, of lengths from 4 to 103.
fn content(number: u32) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(4 + (number as usize * 7) % 100, number as u8);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_somewhere_once_and_order_is_kept(
        start in starts(), steps in prop::collection::vec(step(), 1..150)
    ) {
        let config = small(start);
        let (mut port, far) = open(&config);
        let mut held: Vec<(MemoryFrame, Vec<u8>)> = Vec::new();
        let (mut arriving, mut leaving) = (VecDeque::new(), VecDeque::new());
        let mut next = 0u32;
        let mut faults = Faults::default();
        let mut batch = Vec::new();
        for step in steps {
            match step {
                Step::Inject(count) => for _ in 0..count {
                    next += 1;
                    if far.inject(&content(next)) {
                        prop_assert!(!faults.fill_ring_empty);
                        arriving.push_back(content(next));
                    }
                },
                Step::Receive(max) => {
                    let got = port.receive(&mut batch, usize::from(max));
                    prop_assert_eq!(got, batch.len());
                    prop_assert_eq!(got, arriving.len().min(usize::from(max)));
                    for frame in batch.drain(..) {
                        let bytes = arriving.pop_front().unwrap();
                        prop_assert_eq!(port.data(&frame), &bytes[..]);
                        held.push((frame, bytes));
                    }
                }
                Step::Reserve(count) => for _ in 0..count {
                    let Some(mut frame) = port.reserve() else { break };
                    prop_assert!(port.data(&frame).is_empty());
                    next += 1;
                    let bytes = content(next);
                    port.set_len(&mut frame, bytes.len());
                    port.data_mut(&mut frame).copy_from_slice(&bytes);
                    held.push((frame, bytes));
                },
                Step::Release(which) => if !held.is_empty() {
                    port.release(held.swap_remove(which.index(held.len())).0);
                },
                Step::Send(which) => if !held.is_empty() {
                    let (frame, bytes) = held.swap_remove(which.index(held.len()));
                    match port.send(frame) {
                        Ok(()) => {
                            prop_assert!(!faults.send_ring_full);
                            leaving.push_back(bytes);
                        }
                        Err(frame) => held.push((frame, bytes)),
                    }
                },
                Step::Flush => match (faults.doorbell, port.flush()) {
                    (None | Some(libc::EAGAIN), Ok(_))
                    | (Some(libc::ENETDOWN), Err(PortError::Down { .. }))
                    | (Some(libc::ENXIO), Err(PortError::Gone { .. })) => {}
                    (doorbell, answer) => prop_assert!(false, "{:?}: {:?}", doorbell, answer),
                },
                Step::Take(max) => {
                    let mut wrong = false;
                    far.take(usize::from(max), |bytes| {
                        wrong |= leaving.pop_front().as_deref() != Some(bytes);
                    });
                    prop_assert!(!wrong, "a frame left changed or out of order");
                }
                Step::Faults(new) => {
                    faults = new;
                    far.set_faults(new);
                }
            }
            let census = port.statistics().frames;
            prop_assert_eq!(census.total(), config.frames as usize, "{:?}", census);
            prop_assert_eq!(census.held, held.len());
            let numbers: HashSet<u32> = held.iter().map(|(frame, _)| frame.number()).collect();
            prop_assert_eq!(numbers.len(), held.len(), "a frame was handed out twice");
            for (frame, bytes) in &held {
                prop_assert_eq!(port.data(frame), &bytes[..], "a held frame was written to");
            }
        }
        // Once all is well again, every frame comes home.
        far.set_faults(Faults::default());
        for (frame, _) in held.drain(..) {
            port.release(frame);
        }
        for _ in 0..8 {
            while port.receive(&mut batch, 64) > 0 {}
            batch.drain(..).for_each(|frame| port.release(frame));
            prop_assert_eq!(port.flush().unwrap(), 0);
            far.take(64, |_| {});
        }
        let census = port.statistics().frames;
        prop_assert_eq!((census.receiving, census.free), (16, 8), "{:?}", census);
    }
}

#[test]
fn frames_that_find_no_room_are_lost_and_counted() {
    let (mut port, far) = open(&small(0));
    let sent = (0..30u8).filter(|n| far.inject(&[*n; 20])).count();
    assert_eq!(sent, 8, "the receive ring has 8 entries");
    assert_eq!(port.statistics().rx_ring_full, 22);

    // Hold what arrives until the fill ring is empty.
    let mut held = Vec::new();
    port.receive(&mut held, 64);
    assert_eq!((0..30u8).filter(|n| far.inject(&[*n; 20])).count(), 8);
    port.receive(&mut held, 64);
    port.flush().unwrap();
    assert!(!far.inject(&[1; 20]), "every frame is held");
    assert_eq!(port.statistics().fill_ring_empty, 1);
    assert_eq!(port.statistics().frames.held, 16);

    port.release(held.remove(0));
    port.flush().unwrap();
    assert!(far.inject(&[1; 20]), "one was released");
    assert!(!far.inject(&[1; 129]), "no frame is that large");
    held.into_iter().for_each(|frame| port.release(frame));
    port.flush().unwrap();
    assert!(!far.inject(&[1; 129]));
    assert_eq!(port.statistics().rx_dropped, 1);
    assert_eq!(port.statistics().frames.total(), 24);
}

#[test]
fn the_fill_ring_refusing_frames_keeps_them_in_the_stash() {
    let (mut port, far) = open(&small(0));
    let faults = Faults {
        fill_ring_full: true,
        ..Faults::default()
    };
    far.set_faults(faults);
    let mut frames = Vec::new();
    for n in 0..8 {
        assert!(far.inject(&[n; 20]));
    }
    port.receive(&mut frames, 64);
    frames.drain(..).for_each(|frame| port.release(frame));
    port.flush().unwrap();
    assert_eq!(port.statistics().frames.stash, 8);
    far.set_faults(Faults::default());
    port.flush().unwrap();
    let census = port.statistics().frames;
    assert_eq!(
        (census.stash, census.receiving, census.total()),
        (0, 16, 24)
    );
}

#[test]
fn a_doorbell_that_answers_eagain_leaves_frames_to_the_next() {
    let (mut port, far) = open(&small(0));
    far.set_faults(Faults {
        doorbell: Some(libc::EAGAIN),
        ..Faults::default()
    });
    assert!(send(&mut port, b"late"));
    assert_eq!(
        port.flush().unwrap(),
        1,
        "one frame waits for another flush"
    );
    assert_eq!(far.take(64, |_| {}), 0);
    far.set_faults(Faults::default());
    assert_eq!(port.flush().unwrap(), 0);
    assert_eq!(far.take(64, |bytes| assert_eq!(bytes, b"late")), 1);
}

#[test]
fn a_full_send_ring_gives_the_frame_back() {
    let (mut port, far) = open(&small(u32::MAX - 3));
    let sent = (0..24u8).filter(|n| send(&mut port, &[*n])).count();
    assert_eq!(sent, 8);
    port.flush().unwrap();
    assert!(!send(&mut port, &[9]), "the kernel has not taken any");
    assert_eq!(far.take(3, |_| {}), 3);
    assert!(send(&mut port, &[9]), "the kernel took three");
    assert_eq!(port.statistics().frames.total(), 24);
}

#[test]
fn what_the_admission_function_refuses_takes_no_frame() {
    let (mut port, far) = open(&small(0));
    far.set_admission(Box::new(|frame| frame[0] % 2 == 0));
    assert_eq!(
        far.inject_all([[0u8; 9], [1; 9], [2; 9], [3; 9]].iter().map(|f| &f[..])),
        2
    );
    assert_eq!(far.refused(), 2);
    let mut frames = Vec::new();
    assert_eq!(port.receive(&mut frames, 64), 2);
    assert_eq!(port.data(&frames[1]), [2; 9]);
    assert_eq!(port.statistics().frames.receiving, 14);
}

#[test]
#[should_panic(expected = "another port")]
fn a_token_of_another_port_is_refused() {
    let (one, _far) = open(&small(0));
    let (mut other, _far) = open(&small(0));
    let frame = other.reserve().unwrap();
    one.data(&frame);
}

#[test]
fn a_port_with_wakeups_is_readable_while_it_has_frames() {
    let (mut port, far) = open(&MemoryConfig {
        wakeups: true,
        ..small(0)
    });
    let readable = |port: &MemoryPort| {
        let mut poll = libc::pollfd {
            fd: port.poll_fd().unwrap().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd is passed, and it outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    };
    let mut frames = Vec::new();
    for _ in 0..3 {
        assert!(!readable(&port));
        assert!(far.inject(&[1; 20]) && far.inject(&[2; 20]));
        assert!(readable(&port));
        port.receive(&mut frames, 1);
        assert!(readable(&port), "one is left");
        port.receive(&mut frames, 64);
    }
    assert!(!readable(&port));
}

#[test]
fn joined_ports_on_two_threads_pass_every_frame_in_order() {
    const COUNT: u32 = 200_000;
    const WINDOW: u32 = 512;
    let config = MemoryConfig {
        first_cursor: u32::MAX - 1000,
        ..MemoryConfig::default()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut near, near_far) = open(&config);
    let (mut remote, remote_far) = open(&config);
    join(&near_far, &remote_far);
    // The other side sends every frame back in the frame it came in.
    let echo = std::thread::spawn(move || {
        let mut frames = Vec::with_capacity(64);
        let mut echoed = 0;
        while echoed < COUNT {
            assert!(Instant::now() < deadline, "{echoed} frames echoed");
            remote.receive(&mut frames, 64);
            for frame in frames.drain(..) {
                remote
                    .send(frame)
                    .expect("the window is smaller than the ring");
                echoed += 1;
            }
            remote.flush().unwrap();
        }
        remote.statistics()
    });
    let (mut sent, mut back) = (0, 0);
    let mut frames = Vec::with_capacity(64);
    while back < COUNT {
        assert!(Instant::now() < deadline, "{back} frames came back");
        while sent < COUNT && sent - back < WINDOW && send(&mut near, &content(sent)) {
            sent += 1;
        }
        near.flush().unwrap();
        near.receive(&mut frames, 64);
        for frame in frames.drain(..) {
            assert_eq!(near.data(&frame), content(back));
            back += 1;
            near.release(frame);
        }
    }
    near.flush().unwrap();
    for statistics in [echo.join().unwrap(), near.statistics()] {
        assert_eq!(statistics.frames.total(), 6144);
        assert_eq!(statistics.frames.sending + statistics.frames.held, 0);
        assert_eq!(
            (statistics.rx_ring_full, statistics.fill_ring_empty),
            (0, 0)
        );
    }
}
