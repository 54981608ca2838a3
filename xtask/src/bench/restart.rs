//! Suite `restart`: the Gateway's daemon is killed (SIGKILL) under a datagram of every Workstation each few
//! milliseconds, and started again at once; how long until datagrams sent after that are answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::figure::median;
use crate::rig::{Echo, GATEWAY_V4, Probe, Programs, many, pause};

const ECHO_PORT: u16 = 7;

/// Measures it.
///
/// # Errors
/// When a Workstation does not come back within ten seconds.
pub fn run(bench: &mut Bench) -> Result<()> {
    for (workstations, runs, every) in [
        (1, bench.runs(3, 9), Duration::from_millis(1)),
        (64, bench.runs(1, 3), Duration::from_millis(10)),
    ] {
        measure(bench, workstations, runs, every)?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, workstations: usize, runs: u32, every: Duration) -> Result<()> {
    let task = bench.task(&format!("kill -9 with {workstations}"), u64::from(runs) + 1);
    task.doing("starting everything");
    let mut rig = many(&Programs::find()?, workstations)?;
    rig.start()?;
    let _echo = Echo::start(rig.gateway.namespace(), ECHO_PORT)?;
    task.step();
    let (mut last, mut middle) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        task.doing("kill -9");
        let to = (GATEWAY_V4.into(), ECHO_PORT);
        let probes = rig
            .workstations
            .iter()
            .map(|workstation| Probe::start(workstation.namespace(), to, every, 64))
            .collect::<Result<Vec<_>>>()?;
        pause(Duration::from_millis(300))?;
        let killed = Instant::now();
        rig.gateway.kill();
        rig.gateway.launch()?;
        // Sessions come back within a second or so; who is later is waited for below.
        pause(Duration::from_millis(1500))?;
        for workstation in &mut rig.workstations {
            workstation.wait_connected(Duration::from_secs(10))?;
        }
        let mut after = Vec::new();
        for (probe, workstation) in probes.into_iter().zip(&rig.workstations) {
            let recovered = probe.finish().recovered_after(killed);
            let recovered = recovered
                .with_context(|| format!("{} had no reply any more", workstation.name()))?;
            after.push(recovered.as_secs_f64() * 1e3);
        }
        last.push(after.iter().copied().fold(0.0, f64::max));
        middle.push(median(&after));
        task.step();
    }
    drop(task);
    let method = format!(
        "{workstations} on a LAN, an echoed UDP datagram from each every {} ms; from kill -9 and start of portcullisd \
         to the first echo of one sent after it",
        every.as_millis()
    );
    let all = format!("{method}, of the last Workstation");
    bench.measured(
        format!("restart.{workstations}.ms"),
        "ms",
        &last,
        None,
        &all,
    )?;
    if workstations > 1 {
        let half = format!("{method}, median of the Workstations");
        bench.measured(
            format!("restart.{workstations}.median.ms"),
            "ms",
            &middle,
            None,
            &half,
        )?;
    }
    Ok(())
}
