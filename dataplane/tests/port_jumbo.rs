//! Frames of up to 9014 bytes through the AF_XDP port on a real kernel, over veth: each arrives as
//! several descriptors, and leaves as such. Needs root.

mod netns;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netns::{Redirect, in_quiet_namespace, run, veth};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::xsk::{Mode, XskConfig, XskFrame, XskPort};

const PATIENCE: Duration = Duration::from_secs(20);
const RING: u32 = 256;
/// At both sides of every border: of what a chunk holds (3840), a page, two and three chunks.
const LENGTHS: [usize; 16] = [
    60, 1514, 2048, 3839, 3840, 3841, 4000, 4096, 4097, 7679, 7680, 7681, 8000, 9000, 9013, 9014,
];

/// Frame `number`: an Ethernet header, the number, and noise that follows from it.
fn compose(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let length = match LENGTHS.get(number as usize) {
        Some(length) => *length,
        None if number.is_multiple_of(3) => 3800 + (noise() % 60) as usize,
        None => 60 + (noise() % 8955) as usize,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_le_bytes());
    frame.resize_with(length, || (noise() >> 32) as u8);
    frame
}

fn config(interface: &str) -> XskConfig {
    XskConfig {
        ring_size: RING,
        ..XskConfig::new(interface)
    }
}

/// Both ends of a veth of MTU 9000, and the programs before them.
fn both_ends() -> [(XskPort, Redirect); 2] {
    veth(1);
    ["a", "b"].map(|interface| {
        run(&format!("ip link set dev {interface} mtu 9000"));
        let redirect = Redirect::attach(interface);
        let port = XskPort::open(&config(interface)).unwrap_or_else(|error| panic!("{error}"));
        assert!(port.capacity() >= 9014);
        redirect.insert(port.sockets());
        (port, redirect)
    })
}

fn send(port: &mut XskPort, bytes: &[u8]) -> bool {
    let Some(mut frame) = port.reserve() else {
        return false;
    };
    port.set_len(&mut frame, bytes.len());
    port.data_mut(&mut frame).copy_from_slice(bytes);
    match port.send(frame) {
        Ok(()) => true,
        Err(frame) => {
            assert_eq!(port.data(&frame), bytes, "it comes back as it was");
            port.release(frame);
            false
        }
    }
}

/// Every chunk of the port is somewhere, `held` of them with the caller.
#[track_caller]
fn conserved(port: &XskPort, held: usize) {
    let census = port.statistics().frames;
    let frames = (3 * RING as usize * 4096).next_multiple_of(2 << 20) / 4096;
    assert_eq!(census.total(), frames, "{census:?}");
    assert_eq!(census.held, held, "{census:?}");
}

#[track_caller]
fn nothing_was_lost(port: &XskPort) {
    let found = port.statistics();
    assert_eq!(found.tx_invalid, 0, "{found:?}");
    assert_eq!(found.rx_dropped, 0, "{found:?}");
    assert_eq!(found.rx_ring_full, 0, "{found:?}");
}

#[track_caller]
fn soon(what: &str, mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !step() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn frames_of_every_length_travel_both_ways_byte_for_byte() {
    const COUNT: u64 = 20_000;
    in_quiet_namespace(|| {
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends();
        let mut frames = Vec::new();
        let (mut sent, mut arrived) = ([0; 2], [0; 2]);
        let mut held_back: [VecDeque<XskFrame>; 2] = Default::default();
        soon("every frame arrived", || {
            for (way, port) in [(0, &mut a), (1, &mut b)] {
                let other = 1 - way;
                while sent[way] < COUNT
                    && sent[way] - arrived[way] < 24
                    && send(port, &compose(sent[way]))
                {
                    sent[way] += 1;
                }
                port.flush().expect("flush");
                // A batch ends anywhere in a chain.
                port.receive(&mut frames, 1 + arrived[other] as usize % 9);
                for frame in frames.drain(..) {
                    let expected = compose(arrived[other]);
                    assert!(
                        port.data(&frame) == expected,
                        "frame {} differs",
                        arrived[other]
                    );
                    arrived[other] += 1;
                    held_back[way].push_back(frame);
                }
                // Some are held while others come.
                while held_back[way].len() > 5 {
                    let frame = held_back[way].pop_front().expect("six");
                    port.release(frame);
                }
            }
            arrived == [COUNT; 2]
        });
        for (port, held) in [&mut a, &mut b].into_iter().zip(held_back) {
            conserved(port, held.len());
            held.into_iter().for_each(|frame| port.release(frame));
            port.flush().expect("flush");
            conserved(port, 0);
            nothing_was_lost(port);
        }
    });
}

#[test]
fn received_frames_are_changed_and_sent_on_in_pieces_without_starving_either_side() {
    in_quiet_namespace(|| {
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends();
        let mut frames = Vec::new();
        let (mut sent, mut back) = (0, 0);
        soon("every frame came back", || {
            while sent < 10_000 && sent - back < 20 && send(&mut a, &compose(sent)) {
                sent += 1;
            }
            a.flush().expect("flush");
            b.receive(&mut frames, 64);
            for mut frame in frames.drain(..) {
                let bytes = b.data_mut(&mut frame);
                bytes.reverse();
                // Grown beyond a chunk and cut again it is still what it was.
                let length = bytes.len();
                b.set_len(&mut frame, 9000.max(length));
                b.set_len(&mut frame, length);
                assert!(b.send(frame).is_ok(), "room for a part of the ring");
            }
            b.flush().expect("flush");
            a.receive(&mut frames, 64);
            for frame in frames.drain(..) {
                let mut bytes = a.data(&frame).to_vec();
                bytes.reverse();
                assert!(bytes == compose(back), "frame {back} differs");
                back += 1;
                a.release(frame);
            }
            back == 10_000
        });
        for port in [&mut a, &mut b] {
            conserved(port, 0);
            nothing_was_lost(port);
            assert!(port.reserve().is_some(), "frames to send are left");
        }
    });
}

#[test]
fn a_full_send_ring_gives_a_long_frame_back_whole_and_a_flush_makes_room() {
    in_quiet_namespace(|| {
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends();
        let (mut frames, mut next, mut arrived) = (Vec::new(), 0, 0);
        for round in 0..20 {
            let mut sent = 0;
            while send(&mut a, &vec![round; 9014]) {
                sent += 1;
            }
            assert_eq!(sent, RING / 3, "three descriptors each");
            conserved(&a, 0);
            next += sent;
            soon("all of them arrive", || {
                a.flush().expect("flush");
                arrived += b.receive(&mut frames, 64) as u32;
                for frame in frames.drain(..) {
                    assert!(b.data(&frame) == vec![round; 9014]);
                    b.release(frame);
                }
                b.flush().expect("flush");
                arrived == next
            });
        }
        soon("every descriptor completes", || {
            a.flush().expect("flush");
            a.statistics().frames.sending == 0
        });
        conserved(&a, 0);
        nothing_was_lost(&b);
    });
}

#[test]
fn frames_held_in_any_number_stay_as_they_are_and_their_chunks_come_back() {
    in_quiet_namespace(|| {
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends();
        let mut held = Vec::new();
        let mut sent = 0;
        // Far more bytes than the memory of the port holds are never lost, but refused by the kernel.
        soon("the fill ring is used up", || {
            sent += u64::from(send(&mut a, &compose(sent)));
            a.flush().expect("flush");
            b.receive(&mut held, 64);
            b.flush().expect("flush");
            let found = b.statistics();
            found.fill_ring_empty > 0 || found.rx_dropped > 0 || found.rx_ring_full > 0
        });
        assert!(held.len() > RING as usize, "{} frames", held.len());
        conserved(&b, held.len());
        for (number, frame) in held.iter().enumerate() {
            assert!(
                b.data(frame) == compose(number as u64),
                "frame {number} differs"
            );
        }
        held.drain(..).for_each(|frame| b.release(frame));
        soon("frames arrive again", || {
            b.flush().expect("flush");
            send(&mut a, &compose(3));
            a.flush().expect("flush");
            b.receive(&mut held, 64) > 0
        });
        conserved(&b, held.len());
    });
}

#[test]
fn a_port_that_cannot_do_pieces_says_who_cannot_and_which_mtu_can() {
    in_quiet_namespace(|| {
        veth(1);
        run("ip link set dev a mtu 9000");
        let error = XskPort::open(&XskConfig {
            mode: Mode::ZeroCopy,
            ..config("a")
        })
        .map(|_| ())
        .expect_err("veth has no zero-copy");
        let text = error.to_string();
        for said in ["a queue 0", "9000", "driver", "3818", "copy mode"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    });
}
