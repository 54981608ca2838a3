//! Suite `e2e`: the real programs on one veth pair between two namespaces, MTU 1500; both ends of the
//! tunnel and of the traffic share this machine's cores. Plain veth beside it is the bound: the same
//! stack and the same traffic, nothing in between.

mod diagnosis;
mod lan;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::Bench;
use super::Task;
use super::traffic::{
    Latency, UDP_PAYLOADS, UdpPlan, UdpRates, gigabytes, latency, latency_under, load_seconds, tcp,
    udp_rates,
};
use crate::rig::{GATEWAY_V4, Namespace, Programs, Single, set_link, single, veth};
use diagnosis::Diagnosis;

/// The addresses of the plain cable, Gateway's end first.
const PLAIN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// Measures it.
///
/// # Errors
/// When the rig or the traffic fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let mut beside = Beside::new()?;
    beside.tcp(bench)?;
    beside.latency(bench)?;
    beside.udp(bench)?;
    drop(beside);
    for workstations in [2, 8] {
        lan::run(bench, workstations)?;
    }
    Ok(())
}

/// A tunnel, and a plain cable between the same two hosts.
struct Beside {
    rig: Single,
    gw: Arc<Namespace>,
    ws: Arc<Namespace>,
    /// The Workstation's inner address.
    inner: Ipv4Addr,
}

/// The two paths, in the order in which they take turns.
const PATHS: [(&str, Ipv4Addr); 2] = [("plain", PLAIN[0]), ("e2e", GATEWAY_V4)];

impl Beside {
    fn new() -> Result<Self> {
        let mut rig = single(&Programs::find()?)?;
        rig.start()?;
        let (gw, ws) = (
            Arc::clone(rig.gateway.namespace()),
            Arc::clone(rig.workstation.namespace()),
        );
        veth((&gw, "plain"), (&ws, "plain"), 1500)?;
        for (host, address) in [(&gw, PLAIN[0]), (&ws, PLAIN[1])] {
            host.ip(&format!("address add {address}/24 dev plain"))?;
            set_link(host, "plain", true)?;
        }
        let inner = rig.workstation.address()?;
        Ok(Self { rig, gw, ws, inner })
    }

    /// Both ends of the tunnel.
    fn processes(&mut self) -> Result<[u32; 2]> {
        let gateway = self
            .rig
            .gateway
            .process()
            .context("portcullisd has ended")?;
        let agent = self.rig.workstation.process();
        Ok([gateway.pid(), agent.context("the agent has ended")?.pid()])
    }

    /// One stream each way, its CPU, and what the worker's counters say of it.
    fn tcp(&mut self, bench: &mut Bench) -> Result<()> {
        let (runs, seconds) = (bench.runs(2, 3), bench.seconds(2, 5));
        let directions = [("up", false), ("down", true)];
        let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
        let (mut cost, mut diagnosis) = (Vec::new(), Diagnosis::default());
        let task = bench.task("TCP, plain and through the tunnel", u64::from(runs) * 4);
        for _ in 0..runs {
            for (way, (direction, down)) in directions.into_iter().enumerate() {
                for (path, (name, address)) in PATHS.into_iter().enumerate() {
                    task.doing(&format!("{name} {direction}"));
                    let processes = self.processes()?;
                    let before = self.rig.gateway.show()?;
                    let ends = (&*self.gw, &*self.ws, IpAddr::from(address));
                    let (rate, cpu) = tcp(ends, seconds, down, &processes)?;
                    rates[way][path].push(rate);
                    if path == 1 {
                        cost.push(cpu / gigabytes(rate, seconds));
                        diagnosis.add(&before, &self.rig.gateway.show()?, down);
                    }
                    task.say(&format!("{name} {direction:<4} {rate:.2} Gbit/s"));
                    task.step();
                }
            }
        }
        drop(task);
        let method =
            format!("iperf3, one TCP stream, {seconds} s, plain and tunnel in turn, MTU 1500");
        for (way, (direction, _)) in directions.into_iter().enumerate() {
            let mut bound = None;
            for (path, (name, _)) in PATHS.into_iter().enumerate() {
                let metric = format!("{name}.tcp.{direction}.gbps");
                let value = bench.measured(metric, "Gbit/s", &rates[way][path], bound, &method)?;
                bound = Some(value);
            }
        }
        let method = format!(
            "user and system time of portcullisd, the agent and the NAPI threads over those runs ({method})"
        );
        bench.measured("e2e.cpu.s_per_gb", "s/GB", &cost, None, &method)?;
        diagnosis.record(bench)
    }

    /// Round trips of echo requests, idle and under TCP.
    fn latency(&mut self, bench: &mut Bench) -> Result<()> {
        let runs = bench.runs(2, 3);
        let count = if bench.quick() { 150 } else { 400 };
        let seconds = load_seconds(count);
        let task = bench.task("round trips, idle and under TCP", u64::from(runs) * 4);
        let mut samples: [[Vec<Latency>; 2]; 2] = Default::default();
        for _ in 0..runs {
            for (path, (name, address)) in PATHS.into_iter().enumerate() {
                task.doing(&format!("{name}, idle"));
                samples[path][0].push(latency(&self.ws, address, count)?);
                task.step();
            }
            for (path, (name, address)) in PATHS.into_iter().enumerate() {
                task.doing(&format!("{name}, under TCP"));
                let ends = (&*self.gw, &*self.ws, IpAddr::from(address));
                let load = || tcp(ends, seconds, false, &[]).map(drop);
                samples[path][1].push(latency_under(&self.ws, address, count, load)?);
                task.step();
            }
        }
        drop(task);
        for (state, (infix, method)) in [
            ("", format!("{count} ICMP echo requests 5 ms apart from the Workstation, idle")),
            ("load.", format!("{count} ICMP echo requests 5 ms apart from the Workstation, one TCP stream up on the same path")),
        ]
        .into_iter()
        .enumerate()
        {
            let mut bounds = None;
            for (path, (name, _)) in PATHS.into_iter().enumerate() {
                let prefix = format!("{name}.rtt.{infix}");
                bounds = Some(record_latency(bench, &prefix, &samples[path][state], bounds, &method)?);
            }
        }
        Ok(())
    }

    /// The highest rates of datagrams, both ways; quickly only up.
    fn udp(&mut self, bench: &mut Bench) -> Result<()> {
        let runs = bench.runs(1, 3);
        let plan = UdpPlan::new(bench.quick());
        let ways: &[bool] = if bench.quick() {
            &[false]
        } else {
            &[false, true]
        };
        let steps = u64::from(runs) * (ways.len() * UDP_PAYLOADS.len() * 2) as u64;
        let task = bench.task("UDP rates, plain and through the tunnel", steps);
        let mut figures = Vec::new();
        for &down in ways {
            for payload in UDP_PAYLOADS {
                let mut rates: [Vec<UdpRates>; 2] = Default::default();
                for _ in 0..runs {
                    for (path, (name, _)) in PATHS.into_iter().enumerate() {
                        task.say(&format!("{name} {}", if down { "down" } else { "up" }));
                        rates[path].push(self.udp_of(path, down, payload, plan, &task)?);
                        task.step();
                    }
                }
                figures.push((down, payload, rates));
            }
        }
        drop(task);
        let method = plan.method();
        for (down, payload, rates) in figures {
            let way = if down { ".down" } else { "" };
            let values: [fn(&UdpRates) -> f64; 3] = [|r| r.ndr, |r| r.pdr, |r| r.best];
            for (kind, value) in ["ndr", "pdr", "best"].into_iter().zip(values) {
                let mut bound = None;
                for (path, (name, _)) in PATHS.into_iter().enumerate() {
                    let samples: Vec<f64> = rates[path].iter().map(value).collect();
                    let metric = format!("{name}.udp{payload}{way}.{kind}.kpps");
                    bound = Some(bench.measured(metric, "kpps", &samples, bound, &method)?);
                }
            }
        }
        Ok(())
    }

    fn udp_of(
        &self,
        path: usize,
        down: bool,
        payload: usize,
        plan: UdpPlan,
        task: &Task,
    ) -> Result<UdpRates> {
        let at_ws = [PLAIN[1], self.inner][path];
        let ends = match down {
            false => (&*self.ws, &*self.gw, IpAddr::from(PATHS[path].1)),
            true => (&*self.gw, &*self.ws, IpAddr::from(at_ws)),
        };
        udp_rates(ends, payload, plan, task)
    }
}

/// Records percentiles and losses below `prefix`; gives their medians.
fn record_latency(
    bench: &mut Bench,
    prefix: &str,
    samples: &[Latency],
    bounds: Option<Latency>,
    method: &str,
) -> Result<Latency> {
    let mut record = |name: &str, unit: &str, of: fn(&Latency) -> f64| {
        let values: Vec<f64> = samples.iter().map(of).collect();
        let bound = bounds.as_ref().map(of);
        bench.measured(format!("{prefix}{name}"), unit, &values, bound, method)
    };
    Ok(Latency {
        p50: record("p50.us", "us", |one| one.p50)?,
        p99: record("p99.us", "us", |one| one.p99)?,
        lost: record("lost", "of echoes", |one| one.lost)?,
    })
}
