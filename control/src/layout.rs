//! Which workers there are, which core each is pinned to, and which of a port's queues each serves.
//!
//! A worker is a thread with a queue of every port it serves, and shares no queue. By default there
//! is one for each queue, as long as there is a core for it: a physical core each, because two
//! threads of one core share the AES units, and one core is left to everything else (control, Tor,
//! interrupts). A port's queues go to workers on the NIC's own memory node, and neighbouring queues
//! to the same worker where there are more queues than workers. Where there are one or two cores
//! nothing is pinned: whoever else needs the core would wait for its worker.
//!
//! [`plan`] is pure; [`Machine::look`] and [`shape`] ask the system.

use crate::config::{Cores, Rings};
use crate::problem::{Kind, Problem};
use dataplane::port::ethtool;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::fs;
use std::ops::Range;

/// A core that the process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Core {
    /// Its number.
    pub number: usize,
    /// The memory node it belongs to, where that is known.
    pub node: Option<usize>,
    /// Whether it is the first thread, of those the process may use, of its physical core.
    pub first: bool,
}

/// The cores that the process may use, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine(pub Vec<Core>);

/// What is known of a port when workers are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The queues to be served.
    pub queues: u32,
    /// The memory node its NIC is on, where that is known.
    pub node: Option<usize>,
}

/// Who serves what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The core of each worker; `None` where it is not pinned.
    pub workers: Vec<Option<usize>>,
    /// For each port the workers that serve it, in the order of its queues.
    pub ports: Vec<Vec<usize>>,
}

impl Machine {
    /// The machine this is.
    ///
    /// # Errors
    /// The kernel does not tell which cores may be used.
    pub fn look() -> Result<Self, Problem> {
        let allowed = sched_getaffinity(Pid::from_raw(0))
            .map_err(|error| Problem::io("asking which cores may be used", &error.into()))?;
        let is = |core: usize| allowed.is_set(core).unwrap_or(false);
        let cores = (0..CpuSet::count()).filter(|core| is(*core));
        Ok(Self(
            cores
                .map(|number| Core {
                    number,
                    node: node_of(number),
                    first: siblings(number)
                        .into_iter()
                        .find(|core| is(*core))
                        .unwrap_or(number)
                        == number,
                })
                .collect(),
        ))
    }

    fn find(&self, number: usize) -> Option<&Core> {
        self.0.iter().find(|core| core.number == number)
    }

    fn names(&self) -> String {
        ranges(self.0.iter().map(|core| core.number))
    }
}

/// What a port looks like now. An interface that is missing has one queue.
pub fn shape(interface: &str, rings: &Rings) -> Shape {
    let has = ethtool::receive_queues(interface).unwrap_or(1);
    let node = fs::read_to_string(format!("/sys/class/net/{interface}/device/numa_node"));
    Shape {
        queues: rings.queues.unwrap_or(has).min(has),
        node: node.ok().and_then(|text| text.trim().parse().ok()),
    }
}

/// Plans the workers.
///
/// # Errors
/// A core is named that the process may not use.
pub fn plan(
    machine: &Machine,
    workers: Option<usize>,
    cores: &Cores,
    ports: &[Shape],
) -> Result<Layout, Problem> {
    let queues: usize = ports.iter().map(|port| port.queues as usize).sum();
    let seats: Vec<Option<Core>> = match cores {
        Cores::These(numbers) => {
            let find = |number: &usize| {
                machine.find(*number).copied().map(Some).ok_or_else(|| {
                    Problem::new(
                        Kind::Invalid,
                        "choosing the workers' cores",
                        format!("core {number} is not one this process may use"),
                        format!("name some of {} in `cores`", machine.names()),
                    )
                })
            };
            let named: Vec<_> = numbers.iter().map(find).collect::<Result<_, _>>()?;
            let count = workers.unwrap_or(queues.max(1)).min(named.len());
            named.into_iter().take(count).collect()
        }
        Cores::Auto | Cores::Off => {
            let all = machine.0.len();
            let spare = all.saturating_sub(1).max(1);
            let physical: Vec<Core> = machine
                .0
                .iter()
                .copied()
                .filter(|core| core.first)
                .collect();
            // The first core is left to everything else.
            let mut free: Vec<Core> = physical.into_iter().skip(1).collect();
            let most = if all > 2 { free.len().max(1) } else { spare };
            let count = workers.unwrap_or(queues.min(most).max(1));
            if count > free.len() {
                let second = machine.0.iter().skip(1).filter(|core| !core.first);
                free.extend(second.copied());
            }
            if *cores == Cores::Off || all <= 2 || count > free.len() {
                vec![None; count]
            } else {
                near(&free, ports, count).into_iter().map(Some).collect()
            }
        }
    };
    Ok(Layout {
        ports: assign(&seats, ports),
        workers: seats
            .into_iter()
            .map(|seat| seat.map(|core| core.number))
            .collect(),
    })
}

/// The first `count` of the cores, each in turn for a queue of another port and on its node where
/// there is one.
fn near(free: &[Core], ports: &[Shape], count: usize) -> Vec<Core> {
    let mut left: Vec<Core> = free.to_vec();
    let mut wanted: Vec<u32> = ports.iter().map(|port| port.queues).collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count && !left.is_empty() {
        // Without any port there still are workers, for the host interface.
        let most = (0..ports.len()).max_by_key(|at| (wanted[*at], usize::MAX - at));
        let node = most.and_then(|most| {
            wanted[most] = wanted[most].saturating_sub(1);
            ports[most].node
        });
        let at = left
            .iter()
            .position(|core| node.is_some() && core.node == node);
        chosen.push(left.remove(at.unwrap_or(0)));
    }
    chosen.sort_by_key(|core| free.iter().position(|other| other == core));
    chosen
}

/// The workers of each port: those on its node, the ones with the fewest queues.
fn assign(seats: &[Option<Core>], ports: &[Shape]) -> Vec<Vec<usize>> {
    let mut loads = vec![0; seats.len()];
    let serve = |port: &Shape| {
        let local = |at: &usize| {
            port.node.is_some() && seats[*at].is_some_and(|core| core.node == port.node)
        };
        let mut pool: Vec<usize> = (0..seats.len()).filter(local).collect();
        if pool.is_empty() {
            pool = (0..seats.len()).collect();
        }
        pool.sort_by_key(|at| loads[*at]);
        pool.truncate((port.queues as usize).max(1));
        pool.sort_unstable();
        for (worker, queues) in pool.iter().zip(split(port.queues, pool.len())) {
            loads[*worker] += queues.len();
        }
        pool
    };
    ports.iter().map(serve).collect()
}

/// Divides queues among workers, in order; the first get one more where it does not come out even.
/// Workers beyond the queues get none.
pub fn split(queues: u32, workers: usize) -> Vec<Range<u32>> {
    let workers = (workers as u32).min(queues).max(1);
    let (each, more) = (queues / workers, queues % workers);
    let mut next = 0;
    (0..workers)
        .map(|at| {
            let first = next;
            next += each + u32::from(at < more);
            first..next
        })
        .collect()
}

/// So many workers, in words.
pub fn count(workers: usize) -> String {
    match workers {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    }
}

/// Cores, in words.
pub fn names(cores: &[usize]) -> String {
    match cores {
        [core] => format!("core {core}"),
        several => format!("cores {}", ranges(several.iter().copied())),
    }
}

/// Numbers as `0-3, 8`.
pub fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => spans.push((number, number)),
        }
    }
    let words = spans.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn node_of(core: usize) -> Option<usize> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    })
}

/// The threads of a core's physical core, from `0,32` or `0-1`.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            all.extend(first..=last);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `cores` in all, `threads` of each physical core (numbered as Linux does), on `nodes` nodes.
    fn machine(cores: usize, threads: usize, nodes: usize) -> Machine {
        let physical = cores / threads;
        let core = |number: usize| Core {
            number,
            node: Some(number % physical * nodes / physical),
            first: number < physical,
        };
        Machine((0..cores).map(core).collect())
    }

    fn port(queues: u32, node: Option<usize>) -> Shape {
        Shape { queues, node }
    }

    fn auto(machine: &Machine, ports: &[Shape]) -> Layout {
        plan(machine, None, &Cores::Auto, ports).unwrap()
    }

    #[test]
    fn one_or_two_cores_have_one_worker_that_is_pinned_only_when_asked_for() {
        for cores in [1, 2] {
            let machine = machine(cores, 1, 1);
            let layout = auto(&machine, &[port(4, None), port(1, None)]);
            assert_eq!(layout.workers, [None]);
            assert_eq!(layout.ports, [[0], [0]]);
            let asked = plan(&machine, None, &Cores::These(vec![0]), &[port(4, None)]).unwrap();
            assert_eq!(asked.workers, [Some(0)]);
        }
    }

    #[test]
    fn there_is_a_worker_for_each_queue_and_the_first_core_is_left_alone() {
        let layout = auto(&machine(8, 1, 1), &[port(4, None)]);
        assert_eq!(layout.workers, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(layout.ports, [[0, 1, 2, 3]]);
        let layout = auto(&machine(4, 1, 1), &[port(32, None)]);
        assert_eq!(layout.workers, [Some(1), Some(2), Some(3)]);
        let layout = auto(&machine(64, 1, 1), &[port(1, None), port(1, None)]);
        assert_eq!(layout.ports, [[0], [1]]);
    }

    /// Two sockets of 16 cores with two threads each, a 32-queue NIC on each socket.
    #[test]
    fn sixty_four_threads_with_32_queue_nics_get_local_workers_on_physical_cores() {
        let machine = machine(64, 2, 2);
        let layout = auto(&machine, &[port(32, Some(1)), port(32, Some(0))]);
        assert_eq!(layout.workers.len(), 31);
        assert!(
            layout
                .workers
                .iter()
                .all(|core| (1..32).contains(&core.unwrap()))
        );
        for (workers, node) in [(&layout.ports[0], 1), (&layout.ports[1], 0)] {
            assert!(workers.len() >= 15, "{workers:?}");
            for worker in workers {
                let core = machine.find(layout.workers[*worker].unwrap()).unwrap();
                assert_eq!(core.node, Some(node));
            }
        }
        let one = auto(&machine, &[port(8, Some(1))]);
        assert_eq!(one.workers, (16..24).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_asked_for_is_done_and_a_core_out_of_reach_is_named() {
        let machine = machine(4, 1, 1);
        let ports = [port(2, None)];
        let layout = plan(&machine, Some(2), &Cores::These(vec![3, 1]), &ports).unwrap();
        assert_eq!(layout.workers, [Some(3), Some(1)]);
        let layout = plan(&machine, Some(9), &Cores::Auto, &ports).unwrap();
        assert_eq!(layout.workers, [None; 9], "more workers than cores");
        let layout = plan(&machine, Some(2), &Cores::Off, &ports).unwrap();
        assert_eq!(layout.workers, [None; 2]);
        let problem = plan(&machine, None, &Cores::These(vec![1, 7]), &ports).unwrap_err();
        assert!(problem.happened.contains("core 7"), "{problem}");
        assert!(problem.remedy.contains("0-3"), "{}", problem.remedy);
    }

    proptest! {
        #[test]
        fn every_queue_has_one_worker_and_every_worker_one_core(
            cores in 1..130usize,
            threads in 1..3usize,
            nodes in 1..4usize,
            workers in prop::option::of(1..40usize),
            ports in prop::collection::vec((1..65u32, prop::option::of(0..4usize)), 1..6),
        ) {
            let cores = (cores / threads).max(1) * threads;
            let machine = machine(cores, threads, nodes);
            let ports: Vec<Shape> = ports.into_iter().map(|(q, n)| port(q, n)).collect();
            let layout = plan(&machine, workers, &Cores::Auto, &ports).unwrap();
            if let Some(workers) = workers {
                prop_assert_eq!(layout.workers.len(), workers);
            }
            let pinned: Vec<usize> = layout.workers.iter().flatten().copied().collect();
            let mut unique = pinned.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), pinned.len());
            if cores > 2 {
                prop_assert!(!pinned.contains(&0));
            }
            for (shape, workers) in ports.iter().zip(&layout.ports) {
                let parts = split(shape.queues, workers.len());
                prop_assert_eq!(parts.len(), workers.len());
                let all: Vec<u32> = parts.into_iter().flatten().collect();
                prop_assert_eq!(all, (0..shape.queues).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn numbers_are_written_as_ranges() {
        assert_eq!(ranges([0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges([]), "");
    }
}
