//! What both daemons tell of their ports and rings.

use crate::api::{Counters, Traffic};
use crate::pool::Pool;
use crossbeam::channel::bounded;
use dataplane::PortId;
use dataplane::port::RingStatistics;
use dataplane::wall::AttachMode;
use dataplane::worker::Command;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use wire::Verdict;

/// How long a worker may take to tell its rings' levels.
const PATIENCE: Duration = Duration::from_millis(100);

/// Levels and losses of every port's rings; a port whose worker does not answer in time is left out.
pub fn ring_statistics(pool: &Pool) -> HashMap<PortId, RingStatistics> {
    let (sender, receiver) = bounded(pool.len().max(1));
    for worker in 0..pool.len() {
        pool.give(worker, Command::Statistics(sender.clone()));
    }
    let deadline = Instant::now() + PATIENCE;
    (0..pool.len())
        .filter_map(|_| receiver.recv_deadline(deadline).ok())
        .flatten()
        .collect()
}

/// Verdict counters by name.
pub fn named(verdicts: &[u64; Verdict::COUNT]) -> Counters {
    Verdict::ALL
        .iter()
        .zip(verdicts)
        .map(|(verdict, count)| (verdict.name().to_owned(), *count))
        .collect()
}

/// Ring losses by reason.
pub fn losses(rings: &RingStatistics) -> Counters {
    [
        ("rx_ring_full", rings.rx_ring_full),
        ("fill_ring_empty", rings.fill_ring_empty),
        ("rx_dropped", rings.rx_dropped),
        ("tx_invalid", rings.tx_invalid),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into()
}

/// Packets and bytes.
pub fn traffic(packets: u64, bytes: u64) -> Traffic {
    Traffic { packets, bytes }
}

/// An attach mode as the API names it.
pub fn mode_name(mode: AttachMode) -> String {
    match mode {
        AttachMode::Native => "native".to_owned(),
        AttachMode::Generic => "generic".to_owned(),
    }
}
