//! Samples of what workers drop, for whoever watches: frames that XDP has let in, and packets on their way
//! to the other side.
//!
//! While nobody watches, a drop costs one word that is read and compared, and any other frame nothing. A
//! sample holds what was on the cable in clear, and of an opened packet the headers that say where it was
//! to go: nothing that it carries, and no key. A full queue loses samples, and never a frame.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use wire::limits::{ETH_LEN, ETHERTYPE, HEADER_LEN, SECOND, UDP_V6_LEN};
use wire::tables::Bucket;

use crate::wall::{Wanted, burst};
use crate::{PortId, WorkstationId};

/// Bytes of a frame that its headers in clear have at most.
pub const OUTER: usize = UDP_V6_LEN + HEADER_LEN;
/// Bytes of a packet's headers that a sample holds at most: IPv4's and TCP's with all options.
pub const INNER: usize = 120;
/// Stands for the port of a packet that was read from the host interface.
pub const HOST: PortId = PortId::MAX;
/// Stands for the Workstation of a packet that is for none.
pub const NOBODY: WorkstationId = WorkstationId::MAX;
/// Samples that may wait.
const WAITING: usize = 1024;

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)*) => {
        /// Why a worker has dropped a frame. Each has the name of its counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: [Self; REASONS] = [$(Self::$reason,)*];

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }

        /// How many there are.
        pub const REASONS: usize = [$($name,)*].len();
    };
}

reasons! {
    /// Its AEAD tag did not verify.
    OpenFailed = "open_failed",
    /// The replay window refused it.
    Replayed = "replayed",
    /// It is genuine, and so was another under its counter.
    NonceReused = "nonce_reused",
    /// Its session is past its age, or gone.
    Expired = "expired",
    /// It carries no sound IP packet and no control message.
    InnerMalformed = "inner_malformed",
    /// Its packet is not from the Workstation's own address.
    InnerSource = "inner_source",
    /// Its packet is for where no rule leads.
    InnerDestination = "inner_destination",
    /// No rule lets its packet through.
    PolicyDenied = "policy_denied",
    /// The policy cannot tell what its packet is.
    PolicyUnclassified = "policy_unclassified",
    /// It carries a control message that this side does not take, or one too many.
    ControlRefused = "control_refused",
    /// The host interface did not take its packet.
    HostRefused = "host_refused",
    /// No Workstation has the address that the host interface's packet is for.
    NoRoute = "no_route",
    /// The Workstation that the packet is for has no session.
    NoSession = "no_session",
    /// The packet is larger than the tunnel's MTU.
    TooBig = "too_big",
    /// The port's send ring or memory was full.
    TxFull = "tx_full",
    /// The session may seal no more.
    SealRefused = "seal_refused",
    /// The worker that has the Workstation's session is behind.
    HandoffFull = "handoff_full",
}

/// A frame that a worker has dropped.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When, in nanoseconds of CLOCK_BOOTTIME.
    pub time: u64,
    /// The port it came by, or was to leave by; [`HOST`] where it was not sealed yet.
    pub port: PortId,
    /// The Workstation whose session it was of, or that it was for; or [`NOBODY`].
    pub of: WorkstationId,
    /// Why.
    pub reason: Reason,
    /// The frame's bytes.
    pub length: u32,
    outer: [u8; OUTER],
    outer_len: u8,
    inner: [u8; INNER],
    inner_len: u8,
}

impl Sample {
    /// The frame's headers that were in clear on the cable; of a packet that was not sealed yet an Ethernet
    /// header that says which IP it is.
    pub fn outer(&self) -> &[u8] {
        &self.outer[..usize::from(self.outer_len)]
    }

    /// The headers of the packet in it, TCP's, UDP's or ICMP's the last; empty where it was not opened or
    /// has none.
    pub fn inner(&self) -> &[u8] {
        &self.inner[..usize::from(self.inner_len)]
    }
}

/// What all workers of a daemon share: what is wanted of them, and what they have seen.
#[derive(Debug)]
pub struct Tap {
    /// A bit for each reason; 0 while nobody watches.
    wanted: AtomicU64,
    /// The only Workstation plus 1; 0 for all.
    only: AtomicU64,
    interval: AtomicU64,
    burst: AtomicU64,
    missed: AtomicU64,
    samples: ArrayQueue<Sample>,
}

impl Default for Tap {
    fn default() -> Self {
        Self {
            wanted: AtomicU64::new(0),
            only: AtomicU64::new(0),
            interval: AtomicU64::new(SECOND),
            burst: AtomicU64::new(1),
            missed: AtomicU64::new(0),
            samples: ArrayQueue::new(WAITING),
        }
    }
}

impl Tap {
    /// Has frames sampled from now on, or none any more; a bit of `verdicts` is the [`Reason`] of its place
    /// in [`Reason::ALL`]. The rate is each worker's.
    pub fn want(&self, wanted: &Wanted) {
        let rate = u64::from(wanted.rate.max(1));
        // What it goes by is written while nothing goes by it; who sees the new wish sees all of it.
        self.wanted.store(0, Ordering::SeqCst);
        self.interval.store(SECOND / rate, Ordering::Relaxed);
        self.burst.store(burst(rate), Ordering::Relaxed);
        let only = wanted.only.map_or(0, |only| u64::from(only) + 1);
        self.only.store(only, Ordering::Relaxed);
        self.wanted.store(wanted.verdicts, Ordering::SeqCst);
    }

    /// Samples that found no room, ever.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// The oldest sample that waits.
    pub fn next(&self) -> Option<Sample> {
        self.samples.pop()
    }
}

/// A dropped frame, as its worker has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped<'a> {
    pub(crate) port: PortId,
    pub(crate) of: WorkstationId,
    /// The frame without Ethernet padding.
    pub(crate) frame: &'a [u8],
    /// Bytes before its Portcullis header.
    pub(crate) front: usize,
    /// The packet that was opened in it.
    pub(crate) packet: Option<&'a [u8]>,
}

/// A worker's own end of a [`Tap`].
#[derive(Debug, Default)]
pub(crate) struct Faucet {
    tap: std::sync::Arc<Tap>,
    buckets: [Bucket; REASONS],
}

impl Faucet {
    pub(crate) fn of(tap: std::sync::Arc<Tap>) -> Self {
        Self {
            tap,
            buckets: Default::default(),
        }
    }

    /// Whether drops are to be told of.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.tap.wanted.load(Ordering::Relaxed) != 0
    }

    /// Tells of a drop, where it is wanted.
    #[cold]
    pub(crate) fn tell(&mut self, now: u64, reason: Reason, dropped: &Dropped<'_>) {
        let Some(mut sample) = self.sample(now, reason, (dropped.port, dropped.of)) else {
            return;
        };
        sample.length = dropped.frame.len() as u32;
        // What a socket has received gets an Ethernet header of nobody's, as all who read samples expect one.
        let made = if dropped.front == 0 { ETH_LEN } else { 0 };
        sample.outer[12..ETH_LEN].copy_from_slice(&ETHERTYPE.to_be_bytes());
        let outer = (dropped.front + HEADER_LEN).min(OUTER - made);
        if let Some(bytes) = dropped.frame.get(..outer) {
            sample.outer[made..made + outer].copy_from_slice(bytes);
            sample.outer_len = (made + outer) as u8;
            sample.length += made as u32;
        }
        self.push(sample, dropped.packet.unwrap_or_default());
    }

    /// Tells of a packet that was dropped before it was sealed, where that is wanted.
    #[cold]
    pub(crate) fn tell_packet(
        &mut self,
        now: u64,
        reason: Reason,
        of: WorkstationId,
        packet: &[u8],
    ) {
        const IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
        const IPV6: [u8; 2] = 0x86ddu16.to_be_bytes();
        let Some(mut sample) = self.sample(now, reason, (HOST, of)) else {
            return;
        };
        let version = packet.first().map_or(0, |first| first >> 4);
        let ethertype = if version == 6 { IPV6 } else { IPV4 };
        sample.outer[12..ETH_LEN].copy_from_slice(&ethertype);
        sample.outer_len = ETH_LEN as u8;
        sample.length = (ETH_LEN + packet.len()) as u32;
        self.push(sample, packet);
    }

    /// An empty sample, where one is wanted.
    fn sample(
        &mut self,
        now: u64,
        reason: Reason,
        (port, of): (PortId, WorkstationId),
    ) -> Option<Sample> {
        let tap = &*self.tap;
        if tap.wanted.load(Ordering::Acquire) >> reason as u32 & 1 == 0 {
            return None;
        }
        let only = tap.only.load(Ordering::Relaxed);
        if only != 0 && only != u64::from(of) + 1 {
            return None;
        }
        let rate = (
            tap.interval.load(Ordering::Relaxed),
            tap.burst.load(Ordering::Relaxed),
        );
        self.buckets[reason as usize]
            .take(now, rate)
            .then_some(Sample {
                time: now,
                port,
                of,
                reason,
                length: 0,
                outer: [0; OUTER],
                outer_len: 0,
                inner: [0; INNER],
                inner_len: 0,
            })
    }

    fn push(&self, mut sample: Sample, packet: &[u8]) {
        let head = headers(packet);
        sample.inner[..head].copy_from_slice(&packet[..head]);
        sample.inner_len = head as u8;
        if self.tap.samples.push(sample).is_err() {
            self.tap.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many bytes of an IP packet are headers of IP, and of TCP, UDP or ICMP in it.
fn headers(packet: &[u8]) -> usize {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMP: u8 = 1;
    const ICMP6: u8 = 58;
    let (own, protocol, first) = match packet {
        [first, ..] if first >> 4 == 4 && packet.len() >= 20 => {
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
            (usize::from(first & 15) * 4, packet[9], fragment == 0)
        }
        [first, ..] if first >> 4 == 6 && packet.len() >= 40 => (40, packet[6], true),
        _ => return 0,
    };
    let more = match protocol {
        // What says how long it is may be missing; then so is all after it.
        TCP if first => packet
            .get(own + 12)
            .map_or(20, |words| usize::from(words >> 4) * 4),
        UDP | ICMP | ICMP6 if first => 8,
        _ => 0,
    };
    (own + more).min(packet.len()).min(INNER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn no_byte_of_what_a_packet_carries_is_among_its_headers() {
        let payload = [0xaa; 64];
        let build = |builder: PacketBuilderStep| {
            let mut bytes = Vec::new();
            match builder {
                PacketBuilderStep::Udp(step) => step.write(&mut bytes, &payload).unwrap(),
                PacketBuilderStep::Tcp(step) => step.write(&mut bytes, &payload).unwrap(),
            }
            bytes
        };
        let v4 = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let v6 = || PacketBuilder::ipv6([1; 16], [2; 16], 64);
        for (packet, wanted) in [
            (build(PacketBuilderStep::Udp(v4().udp(5, 6))), 28),
            (build(PacketBuilderStep::Tcp(v4().tcp(5, 6, 7, 8))), 40),
            (build(PacketBuilderStep::Udp(v6().udp(5, 6))), 48),
        ] {
            assert_eq!(headers(&packet), wanted);
        }
        let mut fragment = build(PacketBuilderStep::Udp(v4().udp(5, 6)));
        fragment[7] = 1;
        assert_eq!(headers(&fragment), 20, "ports are in the first one alone");
        let mut other = build(PacketBuilderStep::Udp(v4().udp(5, 6)));
        other[9] = 50;
        assert_eq!(headers(&other), 20);
        for cut in 0..20 {
            assert_eq!(headers(&other[..cut]), 0);
        }
        // Options lie about their length: never beyond the packet, nor the sample.
        let mut options = build(PacketBuilderStep::Udp(v4().udp(5, 6)));
        options[0] = 0x4f;
        assert_eq!(headers(&options), 68);
        assert_eq!(headers(&options[..30]), 30);
        // So does TCP.
        let mut stream = build(PacketBuilderStep::Tcp(v4().tcp(5, 6, 7, 8)));
        stream[32] = 0xf0;
        assert_eq!(headers(&stream), 80);
        assert_eq!(headers(&stream[..32]), 32);
    }

    enum PacketBuilderStep {
        Udp(etherparse::PacketBuilderStep<etherparse::UdpHeader>),
        Tcp(etherparse::PacketBuilderStep<etherparse::TcpHeader>),
    }

    #[test]
    fn nothing_is_told_that_nobody_wants_and_no_more_than_the_rate() {
        let tap = std::sync::Arc::new(Tap::default());
        let mut faucet = Faucet::of(std::sync::Arc::clone(&tap));
        let frame = [7; 80];
        let dropped = |of| Dropped {
            port: 3,
            of,
            frame: &frame,
            front: 14,
            packet: None,
        };
        assert!(!faucet.is_open());
        faucet.tell(SECOND, Reason::Expired, &dropped(1));
        assert!(tap.next().is_none());
        let bit = |reason: Reason| 1 << reason as u32;
        tap.want(&Wanted {
            verdicts: bit(Reason::Expired),
            only: Some(1),
            rate: 2,
        });
        assert!(faucet.is_open());
        faucet.tell(SECOND, Reason::Replayed, &dropped(1));
        faucet.tell(SECOND, Reason::Expired, &dropped(2));
        assert!(tap.next().is_none());
        for _ in 0..10 {
            faucet.tell(SECOND, Reason::Expired, &dropped(1));
        }
        let mut count = 0;
        while let Some(sample) = tap.next() {
            count += 1;
            assert_eq!((sample.port, sample.of, sample.length), (3, 1, 80));
            assert_eq!(sample.outer(), [7; 38]);
            assert_eq!(sample.inner(), [0; 0]);
        }
        assert_eq!(count, 2);
        // Who reads nothing misses what comes.
        tap.want(&Wanted {
            verdicts: bit(Reason::Expired),
            only: None,
            rate: 1_000_000,
        });
        for at in 0..WAITING as u64 + 5 {
            faucet.tell(3 * SECOND + at * 1000, Reason::Expired, &dropped(9));
        }
        assert_eq!(tap.missed(), 5);
        tap.want(&Wanted {
            verdicts: 0,
            only: None,
            rate: 1,
        });
        assert!(!faucet.is_open());
    }
}
