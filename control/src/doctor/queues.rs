//! Queues, how many of them the tunnel can use, rings, interrupts, and busy polling.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use crate::choices::Admission;

/// A NIC's ring that is smaller loses bursts that a worker would have taken.
const LEAST_RING: u32 = 512;

pub(super) fn check(
    _setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    facts: &Facts,
) -> Vec<Finding> {
    if found.link.is_none() || wanted.admission != Admission::Tunnel {
        return Vec::new();
    }
    let name = &wanted.interface;
    let mut findings = vec![count(name, wanted, found)];
    findings.extend(ring(name, found));
    findings.extend(interrupts(name, found));
    findings.extend(busy_poll(name, wanted, found));
    findings.extend(tx_budget(name, wanted, facts));
    findings
}

/// A NIC has nothing to spread the frames of a cable by: without a rule they all come by one queue.
fn count(name: &str, wanted: &PortSetup, found: &Port) -> Finding {
    let has = found.survey.queues;
    let asked = wanted.rings.queues.unwrap_or(has);
    if asked > has {
        let more = found.survey.most_queues.is_some_and(|most| most >= asked);
        return Finding::warn(
            name,
            "queues",
            format!("the configuration asks for {asked} queues, and there are {has}"),
            match more {
                true => format!("ethtool -L {name} combined {asked}"),
                false => "set queues = \"auto\" for this port".into(),
            },
        );
    }
    if asked <= 1 {
        return Finding::ok(
            name,
            "queues",
            "1 queue, which is all the tunnel needs of a port",
        );
    }
    if wanted.udp {
        return Finding::ok(
            name,
            "queues",
            format!(
                "{asked} queues; the NIC spreads datagrams over them by address and port, and a worker hands on what \
                 is another's"
            ),
        );
    }
    match found.survey.ntuple {
        Some(true) => Finding::ok(
            name,
            "queues",
            format!(
                "{asked} queues; rules in the NIC lead each Workstation's frames to its worker"
            ),
        ),
        _ => Finding::warn(
            name,
            "queues",
            format!(
                "{asked} queues, of which the tunnel's frames use one: a NIC has nothing to spread them by, \
                 and there are no rules to steer them. Workers hand them on"
            ),
            match found.survey.driver.as_deref() {
                Some("igb" | "igc" | "ixgbe" | "i40e" | "ice" | "mlx5_core") => {
                    format!("ethtool -K {name} ntuple on")
                }
                _ => format!(
                    "ethtool -L {name} combined 1 (nothing is lost), or queues = 1 for this port"
                ),
            },
        ),
    }
}

fn ring(name: &str, found: &Port) -> Option<Finding> {
    let ring = found.survey.ring?;
    let wanted = LEAST_RING.min(ring.most);
    Some(match ring.now < wanted {
        true => Finding::warn(
            name,
            "ring",
            format!(
                "the NIC's receive ring has {} of {} places: a burst is lost in it",
                ring.now, ring.most
            ),
            format!("ethtool -G {name} rx {}", ring.most.min(4096)),
        ),
        false => Finding::ok(
            name,
            "ring",
            format!(
                "the NIC's receive ring has {} of {} places",
                ring.now, ring.most
            ),
        ),
    })
}

fn interrupts(name: &str, found: &Port) -> Option<Finding> {
    let (first, cpus) = found.interrupts.first()?;
    let several = found.interrupts.len() > 1 && found.survey.queues > 1;
    let same = found.interrupts.iter().all(|(_, other)| other == cpus);
    let one = !cpus.contains([',', '-']);
    Some(match several && same && one {
        true => Finding::warn(
            name,
            "interrupts",
            format!("all {} interrupts go to CPU {cpus}", found.interrupts.len()),
            format!(
                "systemctl start irqbalance, or by hand: echo 0 > /proc/irq/{first}/smp_affinity_list, and so on"
            ),
        ),
        false => Finding::ok(
            name,
            "interrupts",
            format!(
                "{} interrupts, the first on CPU {cpus}",
                found.interrupts.len()
            ),
        ),
    })
}

fn busy_poll(name: &str, wanted: &PortSetup, found: &Port) -> Option<Finding> {
    wanted.rings.busy_poll.filter(|busy| busy.prefer)?;
    let set = |value: Option<u64>| value.is_some_and(|value| value > 0);
    Some(match set(found.napi_defer) && set(found.flush_timeout) {
        true => Finding::ok(
            name,
            "busy polling",
            "interrupts are held back while it is polled",
        ),
        false => Finding::warn(
            name,
            "busy polling",
            "is asked for, and interrupts are not held back: both cost time then",
            format!(
                "echo 2 > /sys/class/net/{name}/napi_defer_hard_irqs; \
                 echo 200000 > /sys/class/net/{name}/gro_flush_timeout"
            ),
        ),
    })
}

fn tx_budget(name: &str, wanted: &PortSetup, facts: &Facts) -> Option<Finding> {
    let takes = facts.kernel.tx_budget?;
    let budget = wanted.rings.tx_budget;
    Some(match takes || budget <= 32 {
        true => Finding::ok(
            name,
            "TX budget",
            format!("{budget} frames are sent in a system call"),
        ),
        false => Finding::ok(
            name,
            "TX budget",
            format!(
                "this kernel sends 32 frames in a system call and not {budget}; a later one is faster"
            ),
        ),
    })
}
