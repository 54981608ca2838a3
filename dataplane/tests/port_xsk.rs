//! The AF_XDP port on a real kernel, over veth in copy mode. Needs root.

mod netns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use netns::{Redirect, Tap, in_quiet_namespace, run, veth};
use portcullis_dataplane::port::xsk::{Mode, OpenError, Transmit, XskConfig, XskFrame, XskPort};
use portcullis_dataplane::port::{Port, PortError};

const PATIENCE: Duration = Duration::from_secs(20);

/// A small generator of numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    /// The next one.
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Fills `bytes` (at least 22) as frame `number` of stream `stream`: an Ethernet header, then the
/// number, then noise that follows from both.
fn compose(bytes: &mut [u8], stream: u64, number: u64) {
    let mut numbers = Numbers(stream << 40 | number);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&numbers.draw().to_le_bytes()[..chunk.len()]);
    }
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    bytes[14..22].copy_from_slice(&number.to_le_bytes());
}

/// The length of that frame: 60 to 1514.
fn length(stream: u64, number: u64) -> usize {
    60 + (Numbers(!(stream << 40 | number)).draw() % 1455) as usize
}

fn config(interface: &str, ring_size: u32) -> XskConfig {
    XskConfig {
        ring_size,
        ..XskConfig::new(interface)
    }
}

fn open(interface: &str, ring_size: u32) -> XskPort {
    XskPort::open(&config(interface, ring_size)).unwrap_or_else(|error| panic!("{error}"))
}

/// Ports on both ends of the veth, behind redirecting programs.
fn both_ends(ring_size: u32) -> [(XskPort, Redirect); 2] {
    ["a", "b"].map(|interface| {
        let redirect = Redirect::attach(interface);
        let port = open(interface, ring_size);
        redirect.insert(port.sockets());
        (port, redirect)
    })
}

fn send(port: &mut XskPort, stream: u64, number: u64, length: usize) -> bool {
    let Some(mut frame) = port.reserve() else {
        return false;
    };
    port.set_len(&mut frame, length);
    compose(port.data_mut(&mut frame), stream, number);
    match port.send(frame) {
        Ok(()) => true,
        Err(frame) => {
            port.release(frame);
            false
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[14..22].try_into().expect("8 bytes"))
}

/// The port's frames are all somewhere, `held` of them with the caller.
#[track_caller]
fn conserved(port: &XskPort, ring_size: u32, held: usize) {
    let census = port.statistics().frames;
    let frames = (3 * ring_size as usize * 2048).next_multiple_of(2 << 20) / 2048;
    assert_eq!(census.total(), frames, "{census:?}");
    assert_eq!(census.held, held, "{census:?}");
}

/// Turns `step` until it is true.
#[track_caller]
fn soon(what: &str, mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !step() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn random_frames_arrive_intact_and_in_order_both_ways() {
    const COUNT: u64 = 100_000;
    const WINDOW: u64 = 128;
    in_quiet_namespace(|| {
        veth(1);
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends(2048);
        assert!(!a.is_zero_copy(), "veth has no zero-copy");
        let mut frames = Vec::with_capacity(64);
        let mut expected = vec![0; 1514];
        // By stream: 0 from a to b, 1 from b to a.
        let (mut sent, mut arrived) = ([0; 2], [0; 2]);
        soon("every frame arrived", || {
            for (stream, port) in [(0, &mut a), (1, &mut b)] {
                let other = 1 - stream;
                while sent[stream] < COUNT
                    && sent[stream] - arrived[stream] < WINDOW
                    && send(
                        port,
                        stream as u64,
                        sent[stream],
                        length(stream as u64, sent[stream]),
                    )
                {
                    sent[stream] += 1;
                }
                port.flush().expect("flush");
                port.receive(&mut frames, 64);
                for frame in frames.drain(..) {
                    let expected = &mut expected[..length(other as u64, arrived[other])];
                    compose(expected, other as u64, arrived[other]);
                    assert!(
                        port.data(&frame) == expected,
                        "frame {} differs",
                        arrived[other]
                    );
                    arrived[other] += 1;
                    port.release(frame);
                }
            }
            arrived == [COUNT; 2]
        });
        for port in [&mut a, &mut b] {
            port.flush().expect("flush");
            conserved(port, 2048, 0);
            assert_eq!(port.statistics().tx_invalid, 0);
            assert_eq!(port.statistics().rx_dropped, 0);
        }
    });
}

#[test]
fn received_frames_can_be_sent_on_without_starving_either_side() {
    in_quiet_namespace(|| {
        veth(1);
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends(64);
        let mut frames = Vec::new();
        let (mut sent, mut back) = (0, 0);
        soon("every frame came back", || {
            while sent < 20_000 && sent - back < 32 && send(&mut a, 0, sent, 60) {
                sent += 1;
            }
            a.flush().expect("flush");
            b.receive(&mut frames, 64);
            for frame in frames.drain(..) {
                b.send(frame).expect("room for half a ring");
            }
            b.flush().expect("flush");
            a.receive(&mut frames, 64);
            for frame in frames.drain(..) {
                assert_eq!(number(a.data(&frame)), back);
                back += 1;
                a.release(frame);
            }
            back == 20_000
        });
        conserved(&a, 64, 0);
        conserved(&b, 64, 0);
        assert!(b.reserve().is_some(), "frames to send are left");
    });
}

#[test]
fn a_port_whose_frames_are_all_held_recovers_when_they_are_released() {
    in_quiet_namespace(|| {
        veth(1);
        let redirect = Redirect::attach("b");
        let mut b = open("b", 64);
        redirect.insert(b.sockets());
        let sender = Tap::sending_on("a");
        let mut held = Vec::new();
        let mut frame = [0; 100];
        // Everything in the fill ring, and then some.
        let mut sent = 0;
        for number in 0..300 {
            compose(&mut frame, 0, number);
            sender.send(&frame).expect("send");
            sent += 1;
            b.receive(&mut held, 64);
            b.flush().expect("flush");
        }
        let lost = |b: &XskPort| {
            let found = b.statistics();
            found.fill_ring_empty + found.rx_dropped + found.rx_ring_full
        };
        soon("the fill ring is used up", || {
            sender.send(&frame).expect("send");
            sent += 1;
            b.receive(&mut held, 64);
            lost(&b) > 100
        });
        assert_eq!(held.len(), 128, "twice the ring");
        // Each is counted once.
        let lost = lost(&b);
        assert!(lost + 128 <= sent, "{lost} of {sent}");
        conserved(&b, 64, 128);
        // Frames of a busy machine may be lost on the way; none overtakes another.
        assert!(held.iter().map(|frame| number(b.data(frame))).is_sorted());
        held.drain(..).for_each(|frame| b.release(frame));
        soon("frames arrive again", || {
            b.flush().expect("flush");
            sender.send(&frame).expect("send");
            b.receive(&mut held, 64) > 0
        });
        let count = held.len();
        conserved(&b, 64, count);
    });
}

#[test]
fn a_full_send_ring_gives_the_frame_back_and_one_flush_drains_it() {
    in_quiet_namespace(|| {
        veth(1);
        let redirect = Redirect::attach("b");
        let mut a = open("a", 512);
        for round in 0..20 {
            let mut sent = 0;
            while send(&mut a, 0, sent, 60) {
                sent += 1;
            }
            assert_eq!(sent, 512, "the send ring has 512 entries");
            conserved(&a, 512, 0);
            // 512 is eight calls at a budget of 64, each but the last answered by EAGAIN.
            assert_eq!(a.flush().expect("flush"), 0, "round {round}");
            conserved(&a, 512, 0);
        }
        soon("every frame completes", || {
            a.flush().expect("flush");
            a.statistics().frames.sending == 0
        });
        drop(redirect);
    });
}

#[test]
fn completions_that_come_late_are_waited_for() {
    in_quiet_namespace(|| {
        veth(1);
        let redirect = Redirect::attach("b");
        // The receiving side works in a thread of its own: completion is its affair, not the call's.
        std::fs::write("/sys/class/net/b/threaded", "1").expect("threaded NAPI");
        let mut a = open("a", 64);
        let mut late = 0;
        let mut sent = 0;
        soon("20,000 frames were sent", || {
            while sent < 20_000 && send(&mut a, 0, sent, 1400) {
                sent += 1;
            }
            a.flush().expect("flush");
            late += usize::from(a.statistics().frames.sending > 0);
            conserved(&a, 64, 0);
            sent == 20_000
        });
        assert!(
            late > 0,
            "no completion was ever late: the test shows nothing"
        );
        soon("every frame completes", || {
            a.flush().expect("flush");
            a.statistics().frames.sending == 0
        });
        drop(redirect);
    });
}

/// Floods `interface` from a thread until dropped.
struct Flood(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Flood {
    fn start(interface: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let socket = Tap::sending_on(interface);
        let deadline = Instant::now() + 3 * PATIENCE;
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 200];
            compose(&mut frame, 0, 0);
            while !stopped.load(Relaxed) && Instant::now() < deadline {
                // What does not fit now is not needed.
                let _ = socket.send(&frame);
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        let thread = self.1.take().expect("it is dropped once");
        thread.join().expect("the flood ended");
    }
}

#[test]
fn a_closed_port_can_be_opened_again_twenty_times_while_traffic_flows() {
    in_quiet_namespace(|| {
        veth(1);
        let redirect = Redirect::attach("b");
        let flood = Flood::start("a");
        let mut frames: Vec<XskFrame> = Vec::new();
        for round in 0..20 {
            let started = Instant::now();
            let mut b = open("b", 256);
            let opening = started.elapsed();
            assert!(
                opening < Duration::from_secs(2),
                "round {round}: {opening:?}"
            );
            redirect.insert(b.sockets());
            let mut received = 0;
            soon("2,000 frames arrived", || {
                received += b.receive(&mut frames, 64);
                frames.drain(..).for_each(|frame| b.release(frame));
                b.flush().expect("flush");
                received > 2000
            });
            conserved(&b, 256, 0);
            let started = Instant::now();
            drop(b);
            let closing = started.elapsed();
            assert!(
                closing < Duration::from_secs(1),
                "round {round}: {closing:?}"
            );
        }
        drop(flood);
    });
}

#[test]
fn a_queue_in_use_is_waited_for_and_then_refused_by_name() {
    in_quiet_namespace(|| {
        veth(1);
        let _first = open("b", 64);
        let error = XskPort::open(&XskConfig {
            patience: Duration::from_millis(100),
            ..config("b", 64)
        })
        .map(|_| ())
        .expect_err("the queue is taken");
        let text = error.to_string();
        assert!(
            text.contains("b queue 0") && text.contains("another socket"),
            "{text}"
        );
    });
}

#[test]
fn a_link_that_goes_down_is_reported_and_traffic_flows_once_it_is_up() {
    in_quiet_namespace(|| {
        veth(1);
        let [(mut a, _wall_a), (mut b, _wall_b)] = both_ends(256);
        let mut frames = Vec::new();
        let mut next = 0;
        for round in 0..5 {
            let mut received = 0;
            soon("frames flow", || {
                for _ in 0..32 {
                    next += u64::from(send(&mut a, 0, next, 300));
                }
                match a.flush() {
                    Ok(_) | Err(PortError::Down { .. }) => {}
                    Err(error) => panic!("round {round}: {error}"),
                }
                received += b.receive(&mut frames, 64);
                frames.drain(..).for_each(|frame| b.release(frame));
                b.flush().expect("b is up");
                received > 1000
            });
            run("ip link set dev a down");
            let mut reports = 0;
            for _ in 0..10 {
                while send(&mut a, 0, next, 300) {
                    next += 1;
                }
                match a.flush() {
                    Err(error @ PortError::Down { .. }) => {
                        assert!(!error.needs_reopening());
                        assert!(
                            error.to_string().contains("ip link set dev a up"),
                            "{error}"
                        );
                        reports += 1;
                    }
                    other => panic!("round {round}: {other:?} with the link down"),
                }
                conserved(&a, 256, 0);
            }
            assert_eq!(reports, 10);
            assert!(matches!(a.check(), Err(PortError::Down { .. })));
            run("ip link set dev a up");
        }
    });
}

#[test]
fn a_removed_interface_is_reported_to_senders_and_receivers_and_can_be_reopened() {
    in_quiet_namespace(|| {
        let mut walls: Option<[Redirect; 2]> = None;
        for round in 0..3 {
            veth(1);
            let mut ports = Vec::new();
            let made = ["a", "b"].map(|interface| {
                let redirect = Redirect::attach(interface);
                let port = open(interface, 256);
                redirect.insert(port.sockets());
                ports.push(port);
                redirect
            });
            walls = Some(made);
            let mut b = ports.pop().expect("two ports");
            let mut a = ports.pop().expect("two ports");
            let mut frames = Vec::new();
            let mut next = 0;
            soon("frames flow", || {
                next += u64::from(send(&mut a, 0, next, 300));
                a.flush().expect("flush");
                b.receive(&mut frames, 64) > 0
            });
            let held = frames.len();
            run("ip link del dev a");
            assert!(send(&mut a, 0, next, 300));
            let error = a.flush().expect_err("the interface is gone");
            assert!(error.needs_reopening(), "round {round}: {error:?}");
            // One that only receives sees a descriptor that is readable for ever: it must not spin.
            let mut turns = 0;
            let error = loop {
                turns += 1;
                assert!(turns < 200, "the receiver was not told");
                b.receive(&mut frames, 64);
                if let Err(error) = b.flush() {
                    break error;
                }
            };
            assert!(error.needs_reopening(), "round {round}: {error:?}");
            assert!(b.flush().is_err(), "it stays reported");
            conserved(&a, 256, 0);
            conserved(&b, 256, frames.len().max(held));
            let error = XskPort::open(&config("a", 256))
                .map(|_| ())
                .expect_err("no interface");
            assert!(error.to_string().contains("no such interface"), "{error}");
        }
        drop(walls);
    });
}

#[test]
fn every_queue_of_an_interface_is_bound_received_from_and_sent_on() {
    in_quiet_namespace(|| {
        veth(3);
        let walls = ["a", "b"].map(Redirect::attach);
        let mut a = XskPort::open(&XskConfig {
            transmit: Transmit::Rotate,
            ..config("a", 128)
        })
        .expect("a");
        let mut b = open("b", 128);
        walls[1].insert(b.sockets());
        assert_eq!(
            b.sockets().map(|(queue, _)| queue).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!(b.poll_fds().count(), 3);
        let mut frames = Vec::new();
        let (mut sent, mut received) = (0, 0);
        soon("every frame arrived", || {
            if sent < 3000 && sent - received < 60 {
                sent += u64::from(send(&mut a, 0, sent, 300));
            }
            a.flush().expect("flush");
            received += b.receive(&mut frames, 64) as u64;
            frames.drain(..).for_each(|frame| b.release(frame));
            b.flush().expect("flush");
            received == 3000
        });
        // The one descriptor a worker waits on stands for all three.
        for _ in 0..3 {
            assert!(!readable(&b));
            assert!(send(&mut a, 0, 0, 300));
            a.flush().expect("flush");
            soon("the descriptor is readable", || readable(&b));
            assert_eq!(b.receive(&mut frames, 64), 1);
        }
        frames.drain(..).for_each(|frame| b.release(frame));
        let per_queue = (3 * 128 * 2048usize).next_multiple_of(2 << 20) / 2048;
        assert_eq!(b.statistics().frames.total(), 3 * per_queue);

        let error = XskPort::open(&XskConfig {
            queues: Some(2..5),
            ..config("a", 128)
        })
        .map(|_| ());
        assert!(
            matches!(error, Err(OpenError::Queues { available: 3, .. })),
            "{error:?}"
        );
    });
}

fn readable(port: &XskPort) -> bool {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd {
        fd: port.poll_fd().expect("a descriptor").as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd is passed, and it outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

#[test]
fn a_port_opened_while_the_link_is_down_receives_once_it_is_up() {
    in_quiet_namespace(|| {
        run("ip link add name a type veth peer name b");
        run("ip link set dev a up");
        let redirect = Redirect::attach("b");
        let mut b = open("b", 64);
        redirect.insert(b.sockets());
        run("ip link set dev b up");
        let sender = Tap::sending_on("a");
        let mut frames = Vec::new();
        soon("a frame arrives", || {
            // Until the carrier is noticed the kernel may refuse.
            let _ = sender.send(&[1; 100]);
            b.receive(&mut frames, 64) > 0
        });
        let held = frames.len();
        conserved(&b, 64, held);
    });
}

#[test]
fn a_mode_or_mtu_the_interface_cannot_do_is_refused_in_words() {
    in_quiet_namespace(|| {
        veth(1);
        let refuse = |config: &XskConfig| match XskPort::open(config) {
            Ok(_) => panic!("it opened"),
            Err(error) => error.to_string(),
        };
        let text = refuse(&XskConfig {
            mode: Mode::ZeroCopy,
            ..config("a", 64)
        });
        assert!(text.contains("copy mode"), "{text}");
        let text = refuse(&config("nosuch", 64));
        assert!(
            text.contains("nosuch") && text.contains("no such interface"),
            "{text}"
        );
        assert!(refuse(&config("a", 100)).contains("power of two"));
        run("ip link set dev a mtu 9001");
        let text = refuse(&config("a", 64));
        assert!(text.contains("9001") && text.contains("9000"), "{text}");
        run("ip link set dev a mtu 3000");
        let port = open("a", 64);
        assert_eq!(port.capacity(), 3014, "what the link carries");
    });
}

#[test]
fn a_umem_stays_out_of_core_dumps() {
    in_quiet_namespace(|| {
        veth(1);
        // A size no other mapping of the process is likely to have.
        let _port = open("a", 4096);
        let bytes = 3 * 4096 * 2048;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
        let mut size = 0;
        let dumped = maps.lines().filter_map(|line| {
            if let Some(kilobytes) = line.strip_prefix("Size:") {
                size = kilobytes
                    .trim()
                    .trim_end_matches(" kB")
                    .parse::<usize>()
                    .unwrap_or(0)
                    * 1024;
            }
            let flags = line.strip_prefix("VmFlags:")?;
            (size == bytes).then(|| flags.split_whitespace().any(|flag| flag == "dd"))
        });
        assert_eq!(
            dumped.collect::<Vec<_>>(),
            [true],
            "the UMEM's mapping has VM_DONTDUMP"
        );
    });
}
