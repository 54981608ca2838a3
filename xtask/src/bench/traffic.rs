//! What end-to-end suites have in common: the same measurement on whatever path, so that ours, plain
//! veth and other tunnels are compared by one instrument.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Task;
use super::figure::percentile;
use super::search::{Plan, Trial, search};
use crate::rig::{Namespace, UdpPath, iperf3_one_way, pause, round_trips};

/// Bytes of UDP payload that are measured.
pub const UDP_PAYLOADS: [usize; 2] = [64, 1300];

/// How the highest UDP rates are searched for.
#[derive(Debug, Clone, Copy)]
pub struct UdpPlan {
    /// Length of a trial.
    pub trial: Duration,
    /// The rates are found to within this part.
    pub precision: f64,
}

impl UdpPlan {
    /// Trials of three seconds, or of well below one.
    pub fn new(quick: bool) -> Self {
        let (trial, precision) = if quick { (400, 0.1) } else { (3000, 0.04) };
        Self {
            trial: Duration::from_millis(trial),
            precision,
        }
    }

    /// In words.
    pub fn method(&self) -> String {
        format!(
            "UDP by sendmmsg/recvmmsg without UDP_SEGMENT, in bursts of at most 64 a 200 us, trials of {:.1} s, \
             binary search to {:.0} %, a rate counts as missed after two; what the receiving program got",
            self.trial.as_secs_f64(),
            self.precision * 100.0
        )
    }
}

/// Datagrams a second, in thousands, that a path carries.
#[derive(Debug, Clone, Copy, Default)]
pub struct UdpRates {
    /// The non-drop rate: nothing was lost.
    pub ndr: f64,
    /// The partial-drop rate: at most 1 % was lost.
    pub pdr: f64,
    /// The most that arrived in a second, whatever was lost.
    pub best: f64,
}

/// Searches for the UDP rates from `from` to `to` at `address`, with datagrams of `payload` bytes.
///
/// # Errors
/// What the kernel answered.
pub fn udp_rates(
    (from, to, address): (&Namespace, &Namespace, IpAddr),
    payload: usize,
    plan: UdpPlan,
    task: &Task,
) -> Result<UdpRates> {
    let mut path = UdpPath::open(from, to, address)?;
    // Wakes what sleeps and resolves addresses.
    path.trial(payload, 1000.0, Duration::from_millis(50))?;
    let limits = Plan {
        ceiling: 8e6,
        floor: 2e3,
        precision: plan.precision,
    };
    let (mut lost, mut overflowed) = (0, 0);
    let result = search(limits, &[0.0, 0.01], |asked| {
        let trial = path.trial(payload, asked, plan.trial)?;
        lost += trial.sent.saturating_sub(trial.received);
        overflowed += trial.overflowed;
        task.doing(&format!(
            "{payload} B: {:.0} kpps offered, {:.0} received, {:.2} % lost",
            trial.offered() / 1e3,
            trial.arrived() / 1e3,
            trial.loss() * 100.0
        ));
        Ok(Trial {
            asked,
            offered: trial.offered(),
            arrived: trial.arrived(),
            loss: trial.loss(),
        })
    })?;
    let rates = UdpRates {
        ndr: result.found[0].rate / 1e3,
        pdr: result.found[1].rate / 1e3,
        best: result.best / 1e3,
    };
    let bound = if result.found[1].tester_bound {
        ", the tester's most"
    } else {
        ""
    };
    task.say(&format!(
        "{payload} B: NDR {:.0}, PDR {:.0} kpps{bound}; best {:.0}; {} trials; {:.0} % of all losses at the full socket",
        rates.ndr,
        rates.pdr,
        rates.best,
        result.trials.len(),
        overflowed as f64 / lost.max(1) as f64 * 100.0
    ));
    Ok(rates)
}

/// Percentiles of round trips, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 % are not above.
    pub p99: f64,
    /// The part of the requests that had no answer within half a second.
    pub lost: f64,
}

/// The time between echo requests.
pub const ECHO_EVERY: Duration = Duration::from_millis(5);

/// Sends `count` echo requests to `to`, 5 ms apart.
///
/// # Errors
/// When more than half were lost, or what the kernel answered.
pub fn latency(from: &Namespace, to: Ipv4Addr, count: usize) -> Result<Latency> {
    let trips = round_trips(from, to, count, ECHO_EVERY)?;
    ensure!(
        trips.micros.len() * 2 >= count,
        "{} of {count} echo requests from {} to {to} were not answered",
        count - trips.micros.len(),
        from.label()
    );
    Ok(Latency {
        p50: percentile(&trips.micros, 50.0),
        p99: percentile(&trips.micros, 99.0),
        lost: 1.0 - trips.micros.len() as f64 / count as f64,
    })
}

/// The same while `load`, which takes some seconds, is under way.
///
/// # Errors
/// What either answered.
pub fn latency_under(
    from: &Namespace,
    to: Ipv4Addr,
    count: usize,
    load: impl FnOnce() -> Result<()> + Send,
) -> Result<Latency> {
    std::thread::scope(|scope| {
        let loading = scope.spawn(load);
        // TCP has found its rate by then.
        pause(Duration::from_millis(600))?;
        let latency = latency(from, to, count);
        ensure!(
            !loading.is_finished(),
            "the load ended before the echoes did"
        );
        match loading.join() {
            Ok(loaded) => loaded?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        latency
    })
}

/// The seconds that a load must last for [`latency_under`] with `count` requests.
pub fn load_seconds(count: usize) -> u32 {
    (ECHO_EVERY * count as u32 + Duration::from_millis(1900)).as_secs() as u32
}

/// One TCP stream in Gbit/s, and the CPU seconds that the processes with these ids took for it.
///
/// # Errors
/// What iperf3 reported, or that a process has ended.
pub fn tcp(
    (server, client, address): (&Namespace, &Namespace, IpAddr),
    seconds: u32,
    down: bool,
    processes: &[u32],
) -> Result<(f64, f64)> {
    // What the kernel does for a tunnel in threads of its own is the tunnel's cost too.
    let processes = [processes, &napi_threads()?].concat();
    let processes = processes.as_slice();
    let before = cpu_seconds(processes)?;
    let rate = iperf3_one_way(server, client, address, seconds, down)?;
    Ok((rate / 1e9, cpu_seconds(processes)? - before))
}

/// Gigabytes in `seconds` at a rate in Gbit/s.
pub fn gigabytes(gbps: f64, seconds: u32) -> f64 {
    gbps * f64::from(seconds) / 8.0
}

/// User and system time of processes so far.
///
/// # Errors
/// When one has ended.
pub fn cpu_seconds(processes: &[u32]) -> Result<f64> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let mut ticks = 0;
    for pid in processes {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // Fields 14 and 15, counted from behind the name, which may hold blanks (proc(5)).
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        let times = fields.into_iter().flatten().skip(11).take(2);
        ticks += times
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(ticks as f64 / per_second as f64)
}

/// The kernel's NAPI threads, of whichever interface.
fn napi_threads() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let entry = entry.context("reading /proc")?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Whatever ended meanwhile was none of the rig's.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("napi/") {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_that_works_rises_and_one_that_is_gone_is_an_error() {
        let me = std::process::id();
        let before = cpu_seconds(&[me]).unwrap();
        let mut sum = 0u64;
        while cpu_seconds(&[me]).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_seconds(&[u32::MAX]).is_err());
    }

    #[test]
    fn a_load_outlasts_the_echoes_it_is_for() {
        for count in [10, 100, 200, 400] {
            let echoes = ECHO_EVERY * count as u32 + Duration::from_millis(600);
            assert!(Duration::from_secs(load_seconds(count).into()) > echoes);
        }
    }
}
