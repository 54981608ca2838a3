//! The parts of an AF_XDP port on a real kernel, each with queues of its own, and busy polling. Needs
//! root.

mod netns;

use netns::{Redirect, in_quiet_namespace, veth};
use portcullis_dataplane::port::Port;
use portcullis_dataplane::port::ntuple::{Nic, Rules};
use portcullis_dataplane::port::xsk::{BusyPoll, XskConfig, XskPort};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn open(interface: &str, queues: std::ops::Range<u32>, busy_poll: Option<BusyPoll>) -> XskPort {
    XskPort::open(&XskConfig {
        ring_size: 64,
        queues: Some(queues),
        busy_poll,
        ..XskConfig::new(interface)
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

fn send(port: &mut XskPort, number: u8) {
    let mut frame = port.reserve().expect("a frame");
    port.set_len(&mut frame, 60);
    let data = port.data_mut(&mut frame);
    data.fill(number);
    data[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    port.send(frame).expect("room");
    port.flush().expect("sent");
}

/// What arrives until there are `count` frames.
fn receive(port: &mut XskPort, count: usize) -> Vec<u8> {
    let start = Instant::now();
    let mut numbers = Vec::new();
    while numbers.len() < count && start.elapsed() < PATIENCE {
        let mut frames = Vec::new();
        port.receive(&mut frames, 64);
        for frame in frames {
            numbers.push(port.data(&frame)[59]);
            port.release(frame);
        }
        port.flush().expect("still there");
    }
    numbers
}

#[test]
fn parts_of_a_port_bind_and_carry_their_own_queues() {
    in_quiet_namespace(|| {
        veth(4);
        let walls = ["a", "b"].map(Redirect::attach);
        let mut far = [open("a", 0..1, None), open("a", 1..4, None)];
        let mut near = [open("b", 0..2, None), open("b", 2..4, None)];
        for (wall, parts) in walls.iter().zip([&far, &near]) {
            parts.iter().for_each(|part| wall.insert(part.sockets()));
        }
        let numbers: Vec<u32> = near[1].sockets().map(|(queue, _)| queue).collect();
        assert_eq!(numbers, [2, 3]);
        for number in 0..50 {
            send(&mut far[0], number);
        }
        // A veth's frames come in on the queue they left by.
        assert_eq!(receive(&mut near[0], 50), (0..50).collect::<Vec<u8>>());
        for number in 0..50 {
            send(&mut near[1], number);
        }
        assert_eq!(receive(&mut far[1], 50), (0..50).collect::<Vec<u8>>());
    });
}

#[test]
fn a_port_that_is_busy_polled_says_so_and_carries() {
    in_quiet_namespace(|| {
        veth(1);
        let walls = ["a", "b"].map(Redirect::attach);
        let polling = BusyPoll {
            microseconds: 20,
            budget: 64,
            prefer: true,
        };
        let mut far = open("a", 0..1, None);
        let mut near = open("b", 0..1, Some(polling));
        assert!(near.is_busy_polled());
        assert!(!far.is_busy_polled());
        walls[0].insert(far.sockets());
        walls[1].insert(near.sockets());
        for number in 0..50 {
            send(&mut far, number);
        }
        assert_eq!(receive(&mut near, 50).len(), 50);
        send(&mut near, 7);
        assert_eq!(receive(&mut far, 1), [7]);
    });
}

#[test]
fn a_veth_has_no_rules_by_source_address() {
    in_quiet_namespace(|| {
        veth(4);
        let mut rules = Rules::new(Nic("a".into()));
        assert!(!rules.guide([2, 0, 0, 0, 0, 9], 1).expect("no error"));
        assert_eq!(rules.made().count(), 0);
        let mut missing = Rules::new(Nic("none".into()));
        assert!(missing.guide([2, 0, 0, 0, 0, 9], 1).is_err());
    });
}
