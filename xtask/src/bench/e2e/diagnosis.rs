//! What the Gateway's counters say of a TCP run: how much each system call carried. These explain the
//! rates; they are no aims of their own.

use anyhow::Result;

use crate::bench::Bench;
use crate::rig::Snapshot;

/// One sample of each from every run.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    frames_per_doorbell: Vec<f64>,
    frames_per_wakeup: Vec<f64>,
    super_packet_share: Vec<f64>,
}

impl Diagnosis {
    /// Adds what happened between two snapshots of the Gateway's, one TCP stream `down` or up.
    pub(super) fn add(&mut self, before: &Snapshot, after: &Snapshot, down: bool) {
        let rise = |of: &dyn Fn(&Snapshot) -> u64| of(after).saturating_sub(of(before)) as f64;
        let counter =
            |name: &'static str| rise(&|shown| shown.value["counters"][name].as_u64().unwrap_or(0));
        let sent = rise(&|shown| {
            let all = shown.value["workstations"].as_array();
            let sent = all
                .into_iter()
                .flatten()
                .map(|one| one["tx"]["packets"].as_u64());
            sent.map(Option::unwrap_or_default).sum()
        });
        // A way's own frames, not the acknowledgements of the other's.
        if down {
            add(&mut self.frames_per_doorbell, sent, counter("flushes"));
        } else {
            add(
                &mut self.frames_per_wakeup,
                counter("received"),
                counter("wakeups"),
            );
            let (supers, writes) = (counter("super_packets_written"), counter("host_writes"));
            add(&mut self.super_packet_share, supers, writes);
        }
    }

    /// Records them.
    ///
    /// # Errors
    /// When there was no run.
    pub(super) fn record(&self, bench: &mut Bench) -> Result<()> {
        let down = "the Gateway's counters over the TCP runs down";
        let up = "the Gateway's counters over the TCP runs up";
        for (metric, unit, samples, method) in [
            (
                "e2e.frames_per_doorbell",
                "frames",
                &self.frames_per_doorbell,
                down,
            ),
            (
                "e2e.frames_per_wakeup",
                "frames",
                &self.frames_per_wakeup,
                up,
            ),
            (
                "e2e.super_packet_share",
                "of writes",
                &self.super_packet_share,
                up,
            ),
        ] {
            bench.measured(metric, unit, samples, None, method)?;
        }
        Ok(())
    }
}

/// Adds a ratio; one of nothing is 0.
fn add(samples: &mut Vec<f64>, part: f64, of: f64) {
    samples.push(if of > 0.0 { part / of } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ratios_are_of_what_was_counted_in_between_each_from_its_own_direction() {
        let shown = |times: u64| Snapshot {
            value: json!({
                "counters": {"flushes": 10 * times, "wakeups": 4 * times, "received": 100 * times,
                    "super_packets_written": 3 * times, "host_writes": 12 * times},
                "workstations": [{"tx": {"packets": 150 * times}}, {"tx": {"packets": 50 * times}}],
            }),
        };
        let mut diagnosis = Diagnosis::default();
        diagnosis.add(&shown(1), &shown(3), true);
        assert_eq!(diagnosis.frames_per_doorbell, [20.0]);
        assert!(diagnosis.frames_per_wakeup.is_empty());
        diagnosis.add(&shown(1), &shown(2), false);
        assert_eq!(diagnosis.frames_per_wakeup, [25.0]);
        assert_eq!(diagnosis.super_packet_share, [0.25]);
        diagnosis.add(&shown(2), &shown(2), false);
        assert_eq!(diagnosis.super_packet_share, [0.25, 0.0]);
    }
}
