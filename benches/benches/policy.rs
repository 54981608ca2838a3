//! Nanoseconds that the policy costs a frame: `cargo bench -p portcullis-benches --bench policy`.
//!
//! An id is `policy.judge/KIND/RULES`. Each packet is judged against so many rules, of which the last
//! one lets it through, or none does (`denied`). `mixed` takes all kinds, as an attacker's
//! traffic may be. Ports change from packet to packet. Packets are in
//! the first cache, as they are once they have been opened.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::policy::{Match, Place, Policy, PortRange};
use etherparse::PacketBuilder;
use std::hint::black_box;

/// Packets judged in turn.
const PACKETS: usize = 64;

/// So many rules, alternately TCP and UDP, single ports and ranges; the last admit ports from 40000.
fn policy(rules: u16) -> Policy {
    let others = (0..rules.saturating_sub(2)).map(|n| {
        let first = 1000 + n.wrapping_mul(977) % 30_000;
        let range = PortRange {
            first,
            last: first + n % 3 * 20,
        };
        match n % 2 {
            0 => Match::Tcp(range),
            _ => Match::Udp(range),
        }
    });
    let high = PortRange {
        first: 40_000,
        last: 40_999,
    };
    Policy {
        gateway: others.chain([Match::Tcp(high), Match::Udp(high)]).collect(),
        ..Policy::default()
    }
}

fn tcp4(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 254], 64);
    builder
        .tcp(50_000, port, 1, 1000)
        .write(&mut bytes, &[0; 24])
        .unwrap();
    bytes
}

fn udp6(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 64);
    builder
        .udp(50_000, port)
        .write(&mut bytes, &[0; 24])
        .unwrap();
    bytes
}

/// With hop-by-hop and destination options before the UDP header.
fn extended(port: u16) -> Vec<u8> {
    let mut bytes = udp6(port);
    let headers = [[60, 0, 1, 4, 0, 0, 0, 0], [17, 0, 1, 4, 0, 0, 0, 0]];
    bytes.splice(40..40, headers.concat());
    bytes[5] += 16;
    bytes[6] = 0;
    bytes
}

fn later_fragment(_: u16) -> Vec<u8> {
    let mut bytes = tcp4(40_000);
    bytes[7] = 100;
    bytes
}

/// Makes a packet to a port.
type Make = fn(u16) -> Vec<u8>;

fn judge(criterion: &mut Criterion) {
    let ports = |n: usize| 40_000 + (n * 211 % 1000) as u16;
    let kinds: [(&str, Make); 4] = [
        ("tcp4", tcp4),
        ("udp6", udp6),
        ("extended", extended),
        ("fragment", later_fragment),
    ];
    let mut sets: Vec<(&str, Vec<Vec<u8>>)> = kinds
        .iter()
        .map(|(name, make)| (*name, (0..PACKETS).map(|n| make(ports(n))).collect()))
        .collect();
    sets.push((
        "denied",
        (0..PACKETS).map(|n| tcp4(ports(n) + 1000)).collect(),
    ));
    let mixed = (0..PACKETS).map(|n| kinds[n * 7 % 5 % 4].1(ports(n)));
    sets.push(("mixed", mixed.collect()));
    let mut group = criterion.benchmark_group("policy.judge");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, packets) in &sets {
        for rules in [4, 32, 256] {
            let policy = policy(rules);
            group.bench_function(BenchmarkId::new(*name, rules), |bencher| {
                bencher.iter(|| {
                    for packet in packets {
                        black_box(black_box(&policy).judge(Place::Gateway, black_box(packet)));
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, judge);
criterion_main!(benches);
