//! The tunnels that run over networks on a long path: 25 ms each way, and one frame of a thousand is lost each way.
//! The path is a middlebox between two cables, a program as all others are, because not every kernel has `sch_netem`;
//! what it carries is measured too.
//!
//! A TCP that takes each loss for congestion (Reno) is bound by that far below what any of the tunnels carries; one that
//! does not (BBR) by the tunnels, the middlebox and its window.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::cable::Between;
use super::tunnel::Tunnel;
use super::{BY_SOCKET, Entrant, OVER_UDP, start_others};
use crate::bench::figure::Figure;
use crate::bench::{Bench, Task};
use crate::middlebox::Impairment;
use crate::rig::{check, iperf3_one_way};

/// How long a frame takes one way.
const DELAY: Duration = Duration::from_millis(25);
/// The part of the frames that is lost, each way.
const LOSS: f64 = 0.001;
/// The path without a tunnel.
const PLAIN: &str = "plain";

/// What is measured: the metric's end, the congestion control, and whether down. These are what a kernel lets
/// every namespace have.
const QUANTITIES: [(&str, &str, bool); 4] = [
    ("reno.up.mbps", "reno", false),
    ("reno.down.mbps", "reno", true),
    ("bbr.up.mbps", "bbr", false),
    ("bbr.down.mbps", "bbr", true),
];

/// Measures it.
///
/// # Errors
/// When Portcullis does not run. What keeps another tunnel from running is a figure without samples.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (runs, seconds) = (bench.runs(1, 3), bench.seconds(5, 10));
    let path = Impairment {
        delay: DELAY,
        loss: LOSS,
        ..Impairment::default()
    };
    let between = Between::Path(path);
    let task = bench.task("tunnels over a long path", 6);
    let mut entrants = vec![Entrant {
        name: PLAIN,
        about: "no tunnel".into(),
        tunnel: Tunnel::none(between).map_err(|error| format!("{error:#}")),
        samples: BTreeMap::new(),
    }];
    task.step();
    let ours = Tunnel::ours_over_udp(between)?;
    entrants.push(Entrant::ours(OVER_UDP, BY_SOCKET, ours));
    task.step();
    start_others(&mut entrants, between, &task)?;
    drop(task);
    let steps = runs as usize * (entrants.len() * QUANTITIES.len() + 1);
    let task = bench.task("rounds over a long path", steps as u64);
    let mut most = Vec::new();
    for _ in 0..runs {
        if let Some(tunnel) = entrants
            .first()
            .and_then(|plain| plain.tunnel.as_ref().ok())
        {
            tunnel.impair(Impairment::default());
            most.push(rate(tunnel, "reno", 2, false)?);
            tunnel.impair(path);
            task.say(&format!(
                "the middlebox alone: {:.0} Mbit/s",
                most[most.len() - 1]
            ));
        }
        task.step();
        for entrant in &mut entrants {
            measure(entrant, seconds, &task)?;
        }
    }
    drop(task);
    for figure in figures(&entrants, &most, seconds) {
        bench.record(figure);
    }
    Ok(())
}

/// One round of one tunnel.
fn measure(entrant: &mut Entrant, seconds: u32, task: &Task) -> Result<()> {
    for (metric, control, down) in QUANTITIES {
        task.doing(&format!("{}, {metric}", entrant.name));
        let measured = match &mut entrant.tunnel {
            Ok(tunnel) => rate(tunnel, control, seconds, down)
                // One that has ended in between has measured nothing.
                .and_then(|rate| tunnel.pids().map(|_| rate)),
            Err(_) => return Ok(()),
        };
        match measured {
            Ok(rate) => {
                task.say(&format!("{:<14} {metric:<14} {rate:.1}", entrant.name));
                entrant.samples.entry(metric).or_default().push(rate);
            }
            Err(error) if entrant.is_ours() => return Err(error),
            Err(error) => {
                check()?;
                task.say(&format!("{} failed: {error:#}", entrant.name));
                entrant.tunnel = Err(format!("failed: {error:#}"));
            }
        }
        task.step();
    }
    Ok(())
}

/// One stream with this congestion control, in Mbit/s.
fn rate(tunnel: &Tunnel, control: &str, seconds: u32, down: bool) -> Result<f64> {
    let (gw, ws) = (&*tunnel.gateway, &*tunnel.workstation);
    for host in [gw, ws] {
        host.sysctl("ipv4/tcp_congestion_control", control)?;
    }
    Ok(iperf3_one_way(gw, ws, tunnel.to.into(), seconds, down)? / 1e6)
}

fn figures(entrants: &[Entrant], most: &[f64], seconds: u32) -> Vec<Figure> {
    let mut figures = Vec::new();
    let path = format!(
        "a middlebox of the rig's, {} ms and {} % loss each way",
        DELAY.as_millis(),
        LOSS * 100.0
    );
    if let Some(plain) = entrants.first() {
        let method = "iperf3, one TCP stream, 2 s, through the middlebox without delay and loss";
        let name = "peers.far.middlebox.mbps".to_owned();
        figures.push(plain.figure(name, "Mbit/s", method, most));
    }
    for entrant in entrants {
        for (metric, control, _) in QUANTITIES {
            let name = format!("peers.far.{}.{metric}", entrant.name);
            let method = format!(
                "{}; iperf3, one TCP stream of {control}, {seconds} s, over {path}",
                entrant.about
            );
            figures.push(entrant.figure(name, "Mbit/s", &method, entrant.of(metric)));
        }
    }
    for ours in entrants.iter().filter(|entrant| entrant.is_ours()) {
        for theirs in entrants.iter().filter(|entrant| !entrant.is_ours()) {
            for (metric, ..) in QUANTITIES {
                figures.push(theirs.ratio("peers.far", ours, metric));
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entrant_has_each_figure_and_ours_a_ratio_to_each_other() {
        let entrant = |name, rate: f64| Entrant {
            name,
            about: "about".into(),
            tunnel: Err("x".into()),
            samples: QUANTITIES.map(|(metric, ..)| (metric, vec![rate])).into(),
        };
        let all = [
            entrant(PLAIN, 40.0),
            entrant(OVER_UDP, 30.0),
            entrant("gotatun", 20.0),
        ];
        let figures = figures(&all, &[900.0], 10);
        let value = |metric: &str| figures.iter().find(|f| f.metric == metric).unwrap().value;
        assert_eq!(value("peers.far.middlebox.mbps"), 900.0);
        assert_eq!(value("peers.far.gotatun.reno.up.mbps"), 20.0);
        assert_eq!(value("peers.far.ratio.gotatun.udp.bbr.down"), 1.5);
        assert_eq!(value("peers.far.ratio.plain.udp.reno.up"), 0.75);
        assert_eq!(figures.len(), 1 + 3 * 4 + 2 * 4);
    }
}
