//! Steering on a real TUN device: packets are read from the queue that their destination says.
//!
//! Needs root. The device is in a network namespace of the test's own.

mod netns;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use netns::{Netns, run};
use portcullis_dataplane::wall::{Steering, test_run};

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

fn queue(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the ioctl reads and writes the ifreq, which lives over the call.
    let result = unsafe { tun_set_interface(file.as_raw_fd(), &raw mut request as u64) };
    result.expect("a TUN queue");
    file
}

/// Destinations of the UDP packets read from a queue.
fn drain(mut queue: &File) -> Vec<String> {
    let mut found = Vec::new();
    let mut packet = [0u8; 2048];
    while let Ok(length) = queue.read(&mut packet) {
        let packet = &packet[..length];
        match packet[0] >> 4 {
            4 if packet[9] == 17 => {
                let address: [u8; 4] = packet[16..20].try_into().expect("4 bytes");
                found.push(std::net::Ipv4Addr::from(address).to_string());
            }
            6 if packet[6] == 17 => {
                let address: [u8; 16] = packet[24..40].try_into().expect("16 bytes");
                found.push(std::net::Ipv6Addr::from(address).to_string());
            }
            _ => {}
        }
    }
    found
}

#[test]
fn a_packet_is_read_from_the_queue_of_its_longest_prefix_and_else_from_the_first() {
    let _namespace = Netns::enter_new();
    let queues: Vec<File> = (0..4).map(|_| queue("tun7")).collect();
    run("ip addr add 10.77.0.1/16 dev tun7");
    run("ip -6 addr add fd77::1/64 dev tun7 nodad");
    run("ip link set tun7 up");
    let mut steering = Steering::load().expect("the program");
    steering.attach(queues[0].as_fd()).expect("attached");
    for (prefix, queue) in [
        ("10.77.1.0/24", 1),
        ("10.77.1.7/32", 3),
        ("10.77.2.0/24", 2),
        ("fd77::2:0/112", 2),
        ("fd77::2:9/128", 1),
    ] {
        steering
            .set(prefix.parse().expect("a prefix"), queue)
            .expect("set");
    }
    let v4 = UdpSocket::bind("10.77.0.1:0").expect("a socket");
    let v6 = UdpSocket::bind("[fd77::1]:0").expect("a socket");
    let send_all = || {
        for to in ["10.77.1.5", "10.77.1.7", "10.77.2.5", "10.77.3.5"] {
            v4.send_to(b"x", (to, 9)).expect("sent");
        }
        for to in ["fd77::2:5", "fd77::2:9", "fd77::3:5"] {
            v6.send_to(b"x", (to, 9)).expect("sent");
        }
        std::thread::sleep(Duration::from_millis(100));
        queues.iter().map(drain).collect::<Vec<_>>()
    };
    assert_eq!(
        send_all(),
        [
            vec!["10.77.3.5", "fd77::3:5"],
            vec!["10.77.1.5", "fd77::2:9"],
            vec!["10.77.2.5", "fd77::2:5"],
            vec!["10.77.1.7"],
        ]
    );
    for prefix in ["10.77.1.7/32", "fd77::2:9/128", "10.99.0.0/16"] {
        steering
            .remove(prefix.parse().expect("a prefix"))
            .expect("removed");
    }
    // The program stays set when the process lets it go.
    steering
        .set("10.77.3.0/24".parse().expect("a prefix"), 3)
        .expect("set");
    drop(steering);
    assert_eq!(
        send_all(),
        [
            vec!["fd77::3:5"],
            vec!["10.77.1.5", "10.77.1.7"],
            vec!["10.77.2.5", "fd77::2:5", "fd77::2:9"],
            vec!["10.77.3.5"],
        ]
    );
}

#[test]
fn what_is_no_ip_packet_or_cut_short_goes_to_the_first_queue() {
    let mut steering = Steering::load().expect("the program");
    steering
        .set("0.0.0.0/0".parse().expect("a prefix"), 5)
        .expect("set");
    steering
        .set("::/0".parse().expect("a prefix"), 6)
        .expect("set");
    let program = steering.program().expect("loaded");
    let queue_of = |packet: &[u8]| {
        // A test run takes an Ethernet header off first.
        let mut frame = vec![0; 14];
        frame.extend(packet);
        test_run(program, &frame, 1).expect("a run").answer
    };
    let packet = |first: u8, length: usize| {
        let mut packet = vec![0; length];
        packet[0] = first;
        packet
    };
    assert_eq!(queue_of(&packet(0x45, 20)), 5);
    assert_eq!(queue_of(&packet(0x60, 40)), 6);
    assert_eq!(queue_of(&packet(0x45, 19)), 0);
    assert_eq!(queue_of(&packet(0x60, 39)), 0);
    assert_eq!(queue_of(&packet(0x00, 60)), 0);
    assert_eq!(queue_of(&packet(0xf5, 60)), 0);
}
