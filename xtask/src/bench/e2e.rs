//! Suite `e2e`: the real programs on one veth pair between two namespaces, MTU 1500; both ends of the
//! tunnel and of the traffic share this machine's cores. Plain veth beside it is the bound: the same
//! stack and the same traffic, nothing in between.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};

use super::Bench;
use crate::report::bits;
use crate::rig::{GATEWAY_V4, Process, Programs, iperf3_one_way, set_link, single, veth};

/// The addresses of the plain cable, Gateway's end first.
const PLAIN: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Measures it.
///
/// # Errors
/// When the rig or iperf3 fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (runs, seconds) = (bench.runs(2, 3), bench.seconds(2, 5));
    let mut rig = single(&Programs::find()?)?;
    rig.start()?;
    let (gw, ws) = (
        rig.gateway.namespace().clone(),
        rig.workstation.namespace().clone(),
    );
    veth((&gw, "plain"), (&ws, "plain"), 1500)?;
    for (host, address) in [(&gw, PLAIN[0]), (&ws, PLAIN[1])] {
        host.ip(&format!("address add {address}/24 dev plain"))?;
        set_link(host, "plain", true)?;
    }
    let plain: IpAddr = PLAIN[0].parse()?;
    let inner = IpAddr::from(GATEWAY_V4);
    let kinds = [
        ("plain.tcp.up.gbps", plain, false),
        ("plain.tcp.down.gbps", plain, true),
        ("e2e.tcp.up.gbps", inner, false),
        ("e2e.tcp.down.gbps", inner, true),
    ];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    let mut cost = Vec::new();
    let task = bench.task("TCP", u64::from(runs) * kinds.len() as u64);
    for _ in 0..runs {
        for (at, (metric, address, down)) in kinds.into_iter().enumerate() {
            task.doing(metric);
            let before =
                cpu_seconds(rig.gateway.process())? + cpu_seconds(rig.workstation.process())?;
            let rate = iperf3_one_way(&gw, &ws, address, seconds, down)?;
            let after =
                cpu_seconds(rig.gateway.process())? + cpu_seconds(rig.workstation.process())?;
            rates[at].push(rate / 1e9);
            task.say(&format!("{metric:<22} {}", bits(rate)));
            task.step();
            if address == inner {
                let gigabytes = rate * f64::from(seconds) / 8e9;
                cost.push((after - before) / gigabytes);
            }
        }
    }
    drop(task);
    let method = format!("iperf3, one stream, {seconds} s each, interleaved");
    let up = bench.measured(kinds[0].0, "Gbit/s", &rates[0], None, &method)?;
    let down = bench.measured(kinds[1].0, "Gbit/s", &rates[1], None, &method)?;
    bench.measured(kinds[2].0, "Gbit/s", &rates[2], Some(up), &method)?;
    bench.measured(kinds[3].0, "Gbit/s", &rates[3], Some(down), &method)?;
    bench.measured("e2e.cpu.s_per_gb", "s/GB", &cost, None, &method)?;
    Ok(())
}

/// User and system time of a process so far.
fn cpu_seconds(process: Option<&mut Process>) -> Result<f64> {
    let pid = process.context("the program is not running")?.pid();
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // Fields 14 and 15, counted from behind the name, which may hold blanks (proc(5)).
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
    let ticks: u64 = fields
        .into_iter()
        .flatten()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}
