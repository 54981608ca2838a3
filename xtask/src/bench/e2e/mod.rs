//! Suite `e2e`: the real programs on one veth pair between two namespaces, MTU 1500; both ends of the
//! tunnel and of the traffic share this machine's cores. Plain veth beside it is the bound: the same
//! stack and the same traffic, nothing in between.

mod diagnosis;
mod lan;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::encapsulation::over_udp;
use super::traffic::{
    Latency, UDP_PAYLOADS, UdpPlan, UdpRates, gigabytes, latency, latency_under, load_seconds, tcp,
    udp_rates,
};
use super::{Bench, Encapsulation, Figure, Task, median};
use crate::rig::{GATEWAY_V4, Namespace, Programs, Single, set_link, single, veth};
use diagnosis::Diagnosis;

/// The addresses of the plain cable, Gateway's end first.
const PLAIN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// The addresses of both ends of the tunnel over UDP, the Gateway's first.
const OUTER: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
];
/// Its interface at the Workstation.
const CABLE: &str = "cable0";

/// Measures it.
///
/// # Errors
/// When the rig or the traffic fails.
pub fn run(bench: &mut Bench) -> Result<()> {
    let mut beside = Beside::new(bench.encapsulation())?;
    beside.tcp(bench)?;
    beside.latency(bench)?;
    beside.udp(bench)?;
    drop(beside);
    if bench.encapsulation() == Encapsulation::Ether {
        for workstations in [2, 8] {
            lan::run(bench, workstations)?;
        }
    }
    Ok(())
}

/// A tunnel and a plain cable between the same two hosts; and where asked for tunnels over UDP between others.
struct Beside {
    /// In the order in which they take turns: first the plain cable, the bound of the others.
    ways: Vec<Way>,
    /// The tunnels of all ways but the first.
    rigs: Vec<Single>,
}

/// One of what is measured in turn.
struct Way {
    /// What its metrics begin with.
    name: &'static str,
    gw: Arc<Namespace>,
    ws: Arc<Namespace>,
    /// The addresses there, the Gateway's first.
    ends: [Ipv4Addr; 2],
}

/// Samples of each way.
type Samples<T> = Vec<Vec<T>>;

impl Beside {
    fn new(encapsulation: Encapsulation) -> Result<Self> {
        let programs = Programs::find()?;
        let mut rig = single(&programs)?;
        rig.start()?;
        let (gw, ws) = (rig.gateway.namespace(), rig.workstation.namespace());
        veth((gw, "plain"), (ws, "plain"), 1500)?;
        for (host, address) in [(gw, PLAIN[0]), (ws, PLAIN[1])] {
            host.ip(&format!("address add {address}/24 dev plain"))?;
            set_link(host, "plain", true)?;
        }
        let plain = Way {
            name: "plain",
            gw: Arc::clone(gw),
            ws: Arc::clone(ws),
            ends: PLAIN,
        };
        let mut all = Self {
            ways: vec![plain, Way::through(&rig, "e2e")?],
            rigs: vec![rig],
        };
        if encapsulation == Encapsulation::Udp {
            for (name, hosts, fast_path) in [
                ("e2e.udp", ["ugw", "uws"], false),
                ("e2e.udp.fast_path", ["fgw", "fws"], true),
            ] {
                let [gw, ws] = hosts.map(Namespace::create);
                let (gw, ws) = (Arc::new(gw?), Arc::new(ws?));
                veth((&gw, "ws1"), (&ws, CABLE), 1500)?;
                let mut rig = over_udp(&programs, (&gw, &ws), CABLE, OUTER, fast_path)?;
                rig.start()?;
                all.ways.push(Way::through(&rig, name)?);
                all.rigs.push(rig);
            }
        }
        Ok(all)
    }

    /// Both ends of the tunnel of a way; of the plain cable, which has none, those of the first.
    fn processes(&mut self, way: usize) -> Result<[u32; 2]> {
        let rig = &mut self.rigs[way.saturating_sub(1)];
        let gateway = rig.gateway.process().context("portcullisd has ended")?;
        let agent = rig.workstation.process();
        Ok([gateway.pid(), agent.context("the agent has ended")?.pid()])
    }

    fn samples<T>(&self) -> Samples<T> {
        self.ways.iter().map(|_| Vec::new()).collect()
    }

    /// One stream each way, its CPU, and what the worker's counters say of it.
    fn tcp(&mut self, bench: &mut Bench) -> Result<()> {
        let (runs, seconds) = (bench.runs(2, 3), bench.seconds(2, 5));
        let directions = [("up", false), ("down", true)];
        let mut rates: [Samples<f64>; 2] = [self.samples(), self.samples()];
        let mut cost: Samples<f64> = self.samples();
        let mut diagnosis = Diagnosis::default();
        let steps = u64::from(runs) * 2 * self.ways.len() as u64;
        let task = bench.task("TCP, plain and through the tunnel", steps);
        for _ in 0..runs {
            for (direction, (called, down)) in directions.into_iter().enumerate() {
                for way in 0..self.ways.len() {
                    let name = self.ways[way].name;
                    task.doing(&format!("{name} {called}"));
                    let processes = self.processes(way)?;
                    let before = self.rigs[0].gateway.show()?;
                    let (rate, cpu) = tcp(self.ways[way].up(), seconds, down, &processes)?;
                    rates[direction][way].push(rate);
                    cost[way].push(cpu / gigabytes(rate, seconds));
                    if way == 1 {
                        diagnosis.add(&before, &self.rigs[0].gateway.show()?, down);
                    }
                    task.say(&format!("{name} {called:<4} {rate:.2} Gbit/s"));
                    task.step();
                }
            }
        }
        drop(task);
        let method =
            format!("iperf3, one TCP stream, {seconds} s, plain and tunnel in turn, MTU 1500");
        for (rates, (called, _)) in rates.iter().zip(directions) {
            self.record(
                bench,
                &format!("tcp.{called}.gbps"),
                "Gbit/s",
                rates,
                &method,
            )?;
        }
        let method = format!(
            "user and system time of portcullisd, the agent and the NAPI threads over those runs ({method})"
        );
        for (way, cost) in self.ways.iter().zip(&cost).skip(1) {
            let metric = format!("{}.cpu.s_per_gb", way.name);
            bench.measured(metric, "s/GB", cost, None, &method)?;
        }
        diagnosis.record(bench)
    }

    /// Records a rate of all ways, the plain one as the bound, and the ratio of `udp` to `ether`.
    fn record(
        &self,
        bench: &mut Bench,
        metric: &str,
        unit: &str,
        samples: &Samples<f64>,
        method: &str,
    ) -> Result<()> {
        let mut bound = None;
        for (way, samples) in self.ways.iter().zip(samples) {
            let metric = format!("{}.{metric}", way.name);
            let value = bench.measured(metric, unit, samples, bound, method)?;
            bound = bound.or(Some(value));
        }
        let what = metric.rsplit_once('.').map_or(metric, |(what, _)| what);
        for (way, udp) in self.ways.iter().zip(samples).skip(2) {
            let metric = format!("{}.ratio.{what}", way.name);
            bench.record(ratio(&metric, udp, &samples[1])?);
        }
        Ok(())
    }

    /// Round trips of echo requests, idle and under TCP.
    fn latency(&mut self, bench: &mut Bench) -> Result<()> {
        let runs = bench.runs(2, 3);
        let count = if bench.quick() { 150 } else { 400 };
        let seconds = load_seconds(count);
        let steps = u64::from(runs) * 2 * self.ways.len() as u64;
        let task = bench.task("round trips, idle and under TCP", steps);
        let mut samples: [Samples<Latency>; 2] = [self.samples(), self.samples()];
        for _ in 0..runs {
            for (way, samples) in self.ways.iter().zip(&mut samples[0]) {
                task.doing(&format!("{}, idle", way.name));
                samples.push(latency(&way.ws, way.ends[0], count)?);
                task.step();
            }
            for (way, samples) in self.ways.iter().zip(&mut samples[1]) {
                task.doing(&format!("{}, under TCP", way.name));
                let load = || tcp(way.up(), seconds, false, &[]).map(drop);
                samples.push(latency_under(&way.ws, way.ends[0], count, load)?);
                task.step();
            }
        }
        drop(task);
        for ((infix, method), samples) in [
            ("", format!("{count} ICMP echo requests 5 ms apart from the Workstation, idle")),
            ("load.", format!("{count} ICMP echo requests 5 ms apart from the Workstation, one TCP stream up on the same path")),
        ]
        .into_iter()
        .zip(&samples)
        {
            let mut bounds = None;
            for (way, samples) in self.ways.iter().zip(samples) {
                let prefix = format!("{}.rtt.{infix}", way.name);
                let values = record_latency(bench, &prefix, samples, bounds, &method)?;
                bounds = bounds.or(Some(values));
            }
        }
        Ok(())
    }

    /// The highest rates of datagrams, both ways; quickly only up.
    fn udp(&mut self, bench: &mut Bench) -> Result<()> {
        let runs = bench.runs(1, 3);
        let plan = UdpPlan::new(bench.quick());
        let directions: &[bool] = if bench.quick() {
            &[false]
        } else {
            &[false, true]
        };
        let steps =
            u64::from(runs) * (directions.len() * UDP_PAYLOADS.len() * self.ways.len()) as u64;
        let task = bench.task("UDP rates, plain and through the tunnel", steps);
        let mut figures = Vec::new();
        for &down in directions {
            for payload in UDP_PAYLOADS {
                let mut rates: Samples<UdpRates> = self.samples();
                for _ in 0..runs {
                    for (way, rates) in self.ways.iter().zip(&mut rates) {
                        task.say(&format!(
                            "{} {}",
                            way.name,
                            if down { "down" } else { "up" }
                        ));
                        rates.push(way.udp(down, payload, plan, &task)?);
                        task.step();
                    }
                }
                figures.push((down, payload, rates));
            }
        }
        drop(task);
        let method = plan.method();
        for (down, payload, rates) in figures {
            let down = if down { ".down" } else { "" };
            let values: [fn(&UdpRates) -> f64; 3] = [|r| r.ndr, |r| r.pdr, |r| r.best];
            for (kind, value) in ["ndr", "pdr", "best"].into_iter().zip(values) {
                let samples: Samples<f64> = rates
                    .iter()
                    .map(|rates| rates.iter().map(value).collect())
                    .collect();
                let metric = format!("udp{payload}{down}.{kind}.kpps");
                self.record(bench, &metric, "kpps", &samples, &method)?;
            }
        }
        Ok(())
    }
}

impl Way {
    /// The way through a tunnel.
    fn through(rig: &Single, name: &'static str) -> Result<Self> {
        Ok(Self {
            name,
            gw: Arc::clone(rig.gateway.namespace()),
            ws: Arc::clone(rig.workstation.namespace()),
            ends: [GATEWAY_V4, rig.workstation.address()?],
        })
    }

    /// Server, client and the server's address, for traffic from the Workstation.
    fn up(&self) -> (&Namespace, &Namespace, IpAddr) {
        (&self.gw, &self.ws, self.ends[0].into())
    }

    fn udp(&self, down: bool, payload: usize, plan: UdpPlan, task: &Task) -> Result<UdpRates> {
        let ends = match down {
            false => (&*self.ws, &*self.gw, IpAddr::from(self.ends[0])),
            true => (&*self.gw, &*self.ws, IpAddr::from(self.ends[1])),
        };
        udp_rates(ends, payload, plan, task)
    }
}

/// How much of the one the other is, as a figure: median over median, with the range of single runs.
fn ratio(metric: &str, of: &[f64], over: &[f64]) -> Result<Figure> {
    let each: Vec<f64> = of.iter().zip(over).map(|(of, over)| of / over).collect();
    let method = "median over median of runs in turn; min and max of single runs";
    let mut figure = Figure::of(metric, "ratio", &each, None, method)?;
    figure.value = median(of) / median(over);
    Ok(figure)
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
