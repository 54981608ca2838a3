//! Throughput of the real programs: one Gateway, one Workstation, one veth pair between their
//! namespaces, MTU 1500 unless asked otherwise; both ends of the tunnel and of iperf3 share this machine's cores.
//!
//! Each round measures plain veth (its offloads on) and the tunnel, up and down, one after the other,
//! so that whatever else the machine does is shared fairly. Plain veth is the bound: the same
//! stack, the same iperf3, nothing in between.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::report::{Table, bits};
use crate::rig::{
    GATEWAY_V4, Process, Programs, Serial, iperf3_one_way, require_root, set_link, single, sweep,
    veth,
};

/// What to measure.
#[derive(Debug)]
pub struct Options {
    /// Measurements of each kind.
    pub runs: u32,
    /// Length of each, in seconds.
    pub seconds: u32,
    /// MTU of both cables.
    pub mtu: u32,
    /// Where to write the figures.
    pub json: Option<PathBuf>,
}

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    metric: &'static str,
    value: f64,
    unit: &'static str,
    n: usize,
    min: f64,
    max: f64,
    bound: Option<f64>,
    config: String,
}

/// The addresses of the plain cable, Gateway's end first.
const PLAIN: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Measures and prints.
///
/// # Errors
/// Without root, or when the rig or iperf3 fails.
pub fn run(options: &Options) -> Result<()> {
    require_root()?;
    sweep();
    let _turn = Serial::acquire()?;
    let mut rig = single(&Programs::find()?)?;
    for (host, interface) in [
        (rig.gateway.namespace(), "ws1"),
        (rig.workstation.namespace(), rig.workstation.interface()),
    ] {
        host.ip(&format!("link set dev {interface} mtu {}", options.mtu))?;
    }
    rig.start()?;
    let (gw, ws) = (
        rig.gateway.namespace().clone(),
        rig.workstation.namespace().clone(),
    );
    veth((&gw, "plain"), (&ws, "plain"), options.mtu)?;
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
    for round in 1..=options.runs {
        println!("round {round} of {}", options.runs);
        for (at, (metric, address, down)) in kinds.into_iter().enumerate() {
            let before =
                cpu_seconds(rig.gateway.process())? + cpu_seconds(rig.workstation.process())?;
            let rate = iperf3_one_way(&gw, &ws, address, options.seconds, down)?;
            let after =
                cpu_seconds(rig.gateway.process())? + cpu_seconds(rig.workstation.process())?;
            rates[at].push(rate / 1e9);
            println!("  {metric:<22} {}", bits(rate));
            if address == inner {
                let gigabytes = rate * f64::from(options.seconds) / 8e9;
                cost.push((after - before) / gigabytes);
            }
        }
    }
    let config = format!(
        "MTU {}, iperf3, one stream, {} s each, interleaved; {}",
        options.mtu,
        options.seconds,
        machine()
    );
    let mut figures: Vec<Figure> = kinds
        .iter()
        .zip(&rates)
        .map(|((metric, ..), values)| figure(metric, "Gbit/s", values, &config))
        .collect();
    for at in [2, 3] {
        figures[at].bound = Some(figures[at - 2].value);
    }
    figures.push(figure("e2e.cpu.s_per_gb", "s/GB", &cost, &config));
    print(&figures, &config);
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&figures)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn print(figures: &[Figure], config: &str) {
    let mut table = Table::new(&["metric", "median", "min", "max", "unit", "n", "bound"]);
    for figure in figures {
        table.row([
            figure.metric.to_owned(),
            format!("{:.2}", figure.value),
            format!("{:.2}", figure.min),
            format!("{:.2}", figure.max),
            figure.unit.to_owned(),
            figure.n.to_string(),
            figure
                .bound
                .map_or_else(String::new, |bound| format!("{bound:.2}")),
        ]);
    }
    println!("\n{}\n  {config}", table.render());
    println!("  bound: plain veth in the same rounds; s/GB: CPU of both tunnel processes");
}

fn figure(metric: &'static str, unit: &'static str, values: &[f64], config: &str) -> Figure {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Figure {
        metric,
        value: sorted[sorted.len() / 2],
        unit,
        n: sorted.len(),
        min: sorted[0],
        max: sorted[sorted.len() - 1],
        bound: None,
        config: config.to_owned(),
    }
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

/// CPU and kernel, for whoever compares.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{} x {}, Linux {}",
        cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        model.map_or("unknown CPU", |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
