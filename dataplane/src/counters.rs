//! Counters that a worker writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer. Reading it from elsewhere is always safe.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, without a locked instruction: only the owner may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Sets the value: only the owner may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest that a batch of each place of a [`Histogram`] took, in nanoseconds: powers of two from a
/// microsecond to 33 milliseconds. One more place is for those that took longer.
pub const BATCH_BOUNDS: [u64; 16] = {
    let mut bounds = [0; 16];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = 1024 << at;
        at += 1;
    }
    bounds
};

/// How long something took, counted in fixed places by one writer.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; BATCH_BOUNDS.len() + 1],
    total: Counter,
}

impl Histogram {
    /// Counts one: only the owner may call it.
    #[inline]
    pub fn record(&self, nanoseconds: u64) {
        // How many bits are left above the first bound.
        let above = u64::BITS - (nanoseconds.saturating_sub(1) >> 10).leading_zeros();
        if let Some(count) = self.counts.get((above as usize).min(BATCH_BOUNDS.len())) {
            count.add(1);
        }
        self.total.add(nanoseconds);
    }

    /// How many took at most each of [`BATCH_BOUNDS`] and more than the one before, and then those that
    /// took longer.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().map(Counter::get)
    }

    /// Nanoseconds that all took together.
    pub fn total(&self) -> u64 {
        self.total.get()
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident {
        $($(#[$doc:meta])* $field:ident,)*
        $(; $($(#[$more_doc:meta])* $more:ident: $kind:ty,)*)?
    }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        #[repr(align(64))]
        pub struct $name {
            $($(#[$doc])* pub $field: Counter,)*
            $($($(#[$more_doc])* pub $more: $kind,)*)?
        }

        impl $name {
            /// Every counter with its name, in the order of declaration.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// What happened to a Workstation's traffic in its worker. "Received" is what comes from the
    /// other side of the tunnel.
    PeerCounters {
        /// Inner packets received and written to the host interface.
        rx_packets,
        /// Their bytes.
        rx_bytes,
        /// Inner packets sealed and sent.
        tx_packets,
        /// Their bytes.
        tx_bytes,
        /// Frames whose AEAD tag verified.
        opened,
        /// Frames whose AEAD tag did not verify: they reached the AEAD and no further.
        open_failed,
        /// Frames the replay window refused, before the AEAD.
        replayed,
        /// Genuine frames under a counter that another frame was opened with: the other side has used a nonce twice.
        nonce_reused,
        /// Frames of a session that is past its age.
        expired,
        /// Opened payloads that are no sound IP packet and no control message.
        inner_malformed,
        /// Opened packets whose source address is not this Workstation's; at a Workstation, packets of
        /// its own that are not from the address it was given.
        inner_source,
        /// Opened packets for another Workstation or for an address beyond the Gateway, where no rule
        /// of its policy leads.
        inner_destination,
        /// Opened packets that no rule of its policy lets through.
        policy_denied,
        /// Opened packets of which the policy cannot tell what they are.
        policy_unclassified,
        /// Opened control messages of a type this side does not take, or too many of them.
        control_refused,
        /// Opened packets the host interface did not take.
        host_refused,
        /// Packets for this Workstation dropped because it has no session.
        no_session,
        /// Packets for this Workstation larger than its inner MTU.
        too_big,
        /// Packets dropped because the port's send ring or memory was full.
        tx_full,
        /// Packets dropped because the session may seal no more.
        seal_refused,
        /// Frames admitted by XDP that the rings lost.
        ring_lost,
        /// Frames and packets that came in at another worker and found the queue to this
        /// Workstation's full.
        handoff_full,
        /// AEAD blocks that the session sealed with, as of the last packet: a level, not a count.
        sealed_blocks,
    }
}

impl PeerCounters {
    /// The counters that are drops, by name.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        const NOT_DROPS: [&str; 6] = [
            "rx_packets",
            "rx_bytes",
            "tx_packets",
            "tx_bytes",
            "opened",
            "sealed_blocks",
        ];
        self.all().filter(|(name, _)| !NOT_DROPS.contains(name))
    }
}

counters! {
    /// What happened in a worker that belongs to no Workstation.
    WorkerCounters {
        /// Rounds of the loop that did something.
        rounds,
        /// Times the worker slept and was woken.
        wakeups,
        /// Doorbells: flushes that had something to send.
        flushes,
        /// Frames received.
        received,
        /// Frames that no session of this worker has, or that cannot be decoded.
        unattributed,
        /// Frames and packets handed to the worker they belong to.
        handed_over,
        /// Frames taken from another worker that received them.
        taken_over,
        /// Handshake frames given to the control thread.
        handshakes,
        /// Handshake frames and control messages dropped because the control thread was behind.
        control_full,
        /// Packets read from the host interface for an address no Workstation has.
        no_route,
        /// Reads from the host interface that failed or could not be segmented.
        host_malformed,
        /// Super-packets read from the host interface.
        super_packets_read,
        /// Super-packets written to it.
        super_packets_written,
        /// Writes to the host interface.
        host_writes,
        ;
        /// How long rounds took that did something.
        batches: Histogram,
    }
}

impl WorkerCounters {
    /// The counters that are drops, by name.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        const DROPS: [&str; 4] = ["unattributed", "control_full", "no_route", "host_malformed"];
        self.all().filter(|(name, _)| DROPS.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_at_the_first_bound_that_it_does_not_pass() {
        let mut times = vec![0, 1, u64::MAX];
        for bound in BATCH_BOUNDS {
            times.extend([bound - 1, bound, bound + 1]);
        }
        for time in times {
            let histogram = Histogram::default();
            histogram.record(time);
            let at = histogram.counts().position(|count| count == 1);
            let bound = BATCH_BOUNDS.iter().position(|bound| time <= *bound);
            assert_eq!(at, Some(bound.unwrap_or(BATCH_BOUNDS.len())), "{time}");
            assert_eq!(histogram.total(), time);
        }
    }
}
