//! Suite `peers`: what a user would run instead, measured beside Portcullis on the same rig. Each tunnel
//! has two namespaces and one veth pair of MTU 1500 between them; both ends of every tunnel and of
//! the traffic share this machine's cores. In a round each tunnel is measured once, one after the
//! other, while the others are idle.
//!
//! With `--encapsulation udp` ours runs over UDP too, and each that does is measured again over a path of 50 ms that
//! loses one frame of a thousand.
//!
//! What cannot be had or does not start is named, in the output and by figures of no samples (`n` is 0)
//! that say why; the others are measured all the same.

mod cable;
mod config;
mod far;
pub(super) mod install;
mod tunnel;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use self::cable::Between;
use self::install::{Source, debian};
use self::tunnel::Tunnel;
use super::traffic::{ECHO_EVERY, UDP_PAYLOADS, UdpPlan, gigabytes, latency, tcp, udp_rates};
use super::{Bench, Encapsulation, Figure, Task, median};
use crate::rig::check;

/// Another tunnel.
#[derive(Debug, Clone, Copy)]
struct Peer {
    name: &'static str,
    source: Source,
    program: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A userspace WireGuard with these options before the name of its interface.
    WireGuard(&'static [&'static str]),
    OpenVpn,
}

/// All of them, each as its users get it: the versions of Debian 12, the newest of crates.io.
const PEERS: [Peer; 4] = [
    Peer {
        name: "gotatun",
        source: Source::Crate("gotatun-cli", "0.10.2"),
        program: "gotatun",
        kind: Kind::WireGuard(&["--foreground", "--disable-drop-privileges"]),
    },
    Peer {
        name: "boringtun",
        source: Source::Crate("boringtun-cli", "0.7.1"),
        program: "boringtun-cli",
        kind: Kind::WireGuard(&["--foreground", "--disable-drop-privileges"]),
    },
    Peer {
        name: "wireguard-go",
        source: Source::Debian("wireguard-go"),
        program: "wireguard-go",
        kind: Kind::WireGuard(&["-f"]),
    },
    Peer {
        name: "openvpn",
        source: Source::Debian("openvpn"),
        program: "openvpn",
        kind: Kind::OpenVpn,
    },
];

/// What is measured of each tunnel: the metric's end, its unit.
type Quantity = (&'static str, &'static str);
const UP: Quantity = ("tcp.up.gbps", "Gbit/s");
const DOWN: Quantity = ("tcp.down.gbps", "Gbit/s");
const CPU: Quantity = ("cpu.s_per_gb", "s/GB");
const P50: Quantity = ("rtt.p50.us", "us");
const P99: Quantity = ("rtt.p99.us", "us");
const UDP64: Quantity = ("udp64.pdr.kpps", "kpps");
const UDP1300: Quantity = ("udp1300.pdr.kpps", "kpps");

/// Us.
const OURS: &str = "portcullis";
/// Us over UDP.
const OVER_UDP: &str = "portcullis.udp";

/// A tunnel in the comparison, and what was measured of it.
#[derive(Debug)]
struct Entrant {
    name: &'static str,
    about: String,
    /// None once it could not be had or has failed, for the reason given.
    tunnel: Result<Tunnel, String>,
    samples: BTreeMap<&'static str, Vec<f64>>,
}

/// Measures it.
///
/// # Errors
/// When Portcullis does not run. What keeps another tunnel from running is a figure without samples.
pub fn run(bench: &mut Bench) -> Result<()> {
    tunnel::sweep();
    let runs = bench.runs(2, 3);
    let plan = Plan {
        seconds: bench.seconds(2, 4),
        echoes: if bench.quick() { 200 } else { 400 },
        udp: (!bench.quick()).then_some(UdpPlan {
            trial: Duration::from_secs(1),
            precision: 0.08,
        }),
    };
    let mut entrants = start(bench)?;
    let task = bench.task("rounds", u64::from(runs) * entrants.len() as u64);
    for _ in 0..runs {
        for entrant in &mut entrants {
            measure(entrant, &plan, &task)?;
            task.step();
        }
    }
    drop(task);
    for figure in figures(&entrants, &plan) {
        bench.record(figure);
    }
    drop(entrants);
    if bench.encapsulation() == Encapsulation::Udp {
        far::run(bench)?;
    }
    Ok(())
}

/// Starts ours and every other that can be had.
fn start(bench: &Bench) -> Result<Vec<Entrant>> {
    let task = bench.task("tunnels", 2 + PEERS.len() as u64);
    let mut entrants = Vec::new();
    task.doing(OURS);
    entrants.push(Entrant::ours(OURS, "AES-256-GCM", Tunnel::ours()?));
    task.step();
    if bench.encapsulation() == Encapsulation::Udp {
        task.doing(OVER_UDP);
        let tunnel = Tunnel::ours_over_udp(Between::Cable)?;
        entrants.push(Entrant::ours(OVER_UDP, BY_SOCKET, tunnel));
    }
    task.step();
    start_others(&mut entrants, Between::Cable, &task)?;
    Ok(entrants)
}

/// What there is to say of ours over UDP.
const BY_SOCKET: &str = "AES-256-GCM over UDP, the Gateway by AF_XDP, the Workstation by a socket";

/// Starts every other tunnel that can be had.
fn start_others(entrants: &mut Vec<Entrant>, between: Between, task: &Task) -> Result<()> {
    for peer in PEERS {
        task.doing(peer.name);
        let (about, tunnel) = match peer.get(between, task) {
            Ok((about, tunnel)) => (about, Ok(tunnel)),
            Err(error) => {
                check()?;
                task.say(&format!("{} is not measured: {error:#}", peer.name));
                (String::new(), Err(format!("{error:#}")))
            }
        };
        entrants.push(Entrant {
            name: peer.name,
            about,
            tunnel,
            samples: BTreeMap::new(),
        });
        task.step();
    }
    Ok(())
}

impl Peer {
    /// Installs it, where it is missing, and starts it.
    fn get(&self, between: Between, task: &Task) -> Result<(String, Tunnel)> {
        let (program, version) = self.source.get(self.program, task)?;
        Ok(match self.kind {
            Kind::WireGuard(options) => {
                let wg = debian("wireguard-tools", "wg", task)?;
                let about = format!("{version}, userspace WireGuard, ChaCha20-Poly1305");
                let tunnel = Tunnel::wireguard(&program, options, &wg, between)?;
                (about, tunnel)
            }
            Kind::OpenVpn => {
                let openssl = debian("openssl", "openssl", task)?;
                let about = format!("{version}, AES-256-GCM over UDP, no DCO, no compression");
                (about, Tunnel::openvpn(&program, &openssl, between)?)
            }
        })
    }
}

/// Measures one tunnel once. A failure of another tunnel ends its part, a failure of ours the suite.
fn measure(entrant: &mut Entrant, plan: &Plan, task: &Task) -> Result<()> {
    let Ok(tunnel) = &mut entrant.tunnel else {
        return Ok(());
    };
    task.doing(entrant.name);
    match samples(tunnel, plan, task) {
        Ok(new) => {
            let shown: Vec<String> = new
                .iter()
                .map(|((metric, unit), value)| format!("{metric} {value:.2} {unit}"))
                .collect();
            task.say(&format!("{:<12} {}", entrant.name, shown.join(", ")));
            for ((metric, _), value) in new {
                entrant.samples.entry(metric).or_default().push(value);
            }
        }
        Err(error) if entrant.is_ours() => return Err(error),
        Err(error) => {
            check()?;
            task.say(&format!("{} failed: {error:#}", entrant.name));
            entrant.tunnel = Err(format!("failed: {error:#}"));
        }
    }
    Ok(())
}

/// One round of one tunnel.
fn samples(tunnel: &mut Tunnel, plan: &Plan, task: &Task) -> Result<Vec<(Quantity, f64)>> {
    let pids = tunnel.pids()?;
    let (gw, ws, to) = (&*tunnel.gateway, &*tunnel.workstation, tunnel.to);
    let seconds = plan.seconds;
    let (up, cpu_up) = tcp((gw, ws, to.into()), seconds, false, &pids)?;
    let (down, cpu_down) = tcp((gw, ws, to.into()), seconds, true, &pids)?;
    let cpu = (cpu_up + cpu_down) / gigabytes(up + down, seconds);
    let trips = latency(ws, to, plan.echoes)?;
    let mut samples = vec![
        (UP, up),
        (DOWN, down),
        (CPU, cpu),
        (P50, trips.p50),
        (P99, trips.p99),
    ];
    if let Some(udp) = plan.udp {
        for (quantity, payload) in [UDP64, UDP1300].into_iter().zip(UDP_PAYLOADS) {
            let rates = udp_rates((ws, gw, to.into()), payload, udp, task)?;
            samples.push((quantity, rates.pdr));
        }
    }
    // One that has ended in between has measured nothing.
    tunnel.pids()?;
    Ok(samples)
}

/// How long, and what.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Of a TCP stream.
    seconds: u32,
    /// Round trips.
    echoes: usize,
    /// How UDP rates are searched for, where they are.
    udp: Option<UdpPlan>,
}

impl Plan {
    fn quantities(&self) -> &'static [Quantity] {
        const ALL: [Quantity; 7] = [UP, DOWN, CPU, P50, P99, UDP64, UDP1300];
        &ALL[..if self.udp.is_some() { 7 } else { 5 }]
    }

    /// How a quantity is measured.
    fn method(&self, metric: &str) -> String {
        let seconds = self.seconds;
        match metric {
            m if m.starts_with("tcp") => format!("iperf3, one stream, {seconds} s"),
            m if m.starts_with("cpu") => format!(
                "user and system time of the programs at both ends over what two TCP streams, \
                 up and down, {seconds} s each, carried"
            ),
            m if m.starts_with("rtt") => format!(
                "{} echo requests from the Workstation, {} ms apart, no other load",
                self.echoes,
                ECHO_EVERY.as_millis()
            ),
            _ => self.udp.map_or_else(String::new, |udp| {
                format!("Workstation to Gateway, at most 1 % lost; {}", udp.method())
            }),
        }
    }
}

/// The figures of all entrants, and of ours over the others'.
fn figures(entrants: &[Entrant], plan: &Plan) -> Vec<Figure> {
    let mut figures = Vec::new();
    for entrant in entrants {
        for &(metric, unit) in plan.quantities() {
            let name = format!("peers.{}.{metric}", entrant.name);
            let method = format!("{}; {}", entrant.about, plan.method(metric));
            figures.push(entrant.figure(name, unit, &method, entrant.of(metric)));
        }
    }
    for ours in entrants.iter().filter(|entrant| entrant.is_ours()) {
        for theirs in entrants.iter().filter(|entrant| !entrant.is_ours()) {
            for &(metric, _) in plan.quantities() {
                figures.push(theirs.ratio("peers", ours, metric));
            }
        }
    }
    figures
}

impl Entrant {
    fn ours(name: &'static str, how: &str, tunnel: Tunnel) -> Self {
        Self {
            name,
            about: format!("Portcullis {}, {how}", env!("CARGO_PKG_VERSION")),
            tunnel: Ok(tunnel),
            samples: BTreeMap::new(),
        }
    }

    fn is_ours(&self) -> bool {
        [OURS, OVER_UDP].contains(&self.name)
    }

    /// One of ours over this one. Over UDP the metric says so behind the other's name.
    fn ratio(&self, prefix: &str, ours: &Self, metric: &str) -> Figure {
        let (mine, theirs) = (ours.of(metric), self.of(metric));
        let what = metric.rsplit_once('.').map_or(metric, |(what, _)| what);
        let how = ours.name.strip_prefix(OURS).unwrap_or_default();
        let name = format!("{prefix}.ratio.{}{how}.{what}", self.name);
        let method = "median of ours over median of theirs; min and max of single rounds";
        let each: Vec<f64> = mine.iter().zip(theirs).map(|(o, t)| o / t).collect();
        let mut figure = self.figure(name, "ratio", method, &each);
        if figure.n > 0 {
            figure.value = median(mine) / median(theirs);
        }
        figure
    }

    fn of(&self, metric: &str) -> &[f64] {
        self.samples.get(metric).map_or(&[], Vec::as_slice)
    }

    /// A figure of samples; of none, one with `n` 0 that says why.
    fn figure(&self, name: String, unit: &str, method: &str, samples: &[f64]) -> Figure {
        Figure::of(name.clone(), unit, samples, None, method).unwrap_or_else(|error| Figure {
            metric: name,
            value: 0.0,
            unit: unit.to_owned(),
            n: 0,
            min: 0.0,
            max: 0.0,
            bound: None,
            config: format!(
                "not measured: {}",
                match &self.tunnel {
                    Ok(_) => error.to_string(),
                    // The reason is a text of other programs, of any length and on many lines.
                    Err(why) => why.split_whitespace().collect::<Vec<_>>().join(" "),
                }
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        seconds: 4,
        echoes: 100,
        udp: None,
    };

    fn entrant(name: &'static str, tunnel: &str, up: &[f64]) -> Entrant {
        Entrant {
            name,
            about: "about".into(),
            tunnel: Err(tunnel.into()),
            samples: BTreeMap::from([(UP.0, up.to_vec())]),
        }
    }

    fn find<'a>(figures: &'a [Figure], metric: &str) -> &'a Figure {
        figures.iter().find(|f| f.metric == metric).unwrap()
    }

    #[test]
    fn a_ratio_is_of_the_medians_and_its_range_that_of_single_rounds() {
        let all = [
            entrant(OURS, "", &[4.0, 6.0, 5.0]),
            entrant("gotatun", "", &[1.0, 2.0, 2.5]),
        ];
        let figures = figures(&all, &PLAN);
        let ratio = find(&figures, "peers.ratio.gotatun.tcp.up");
        assert_eq!((ratio.value, ratio.min, ratio.max), (2.5, 2.0, 4.0));
        assert_eq!(ratio.n, 3);
        assert_eq!(find(&figures, "peers.portcullis.tcp.up.gbps").value, 5.0);
        assert!(
            !figures
                .iter()
                .any(|f| f.metric.contains("ratio.portcullis"))
        );
    }

    #[test]
    fn over_udp_there_are_ratios_beside_the_others_and_none_to_oneself() {
        let all = [
            entrant(OURS, "", &[4.0]),
            entrant(OVER_UDP, "", &[3.0]),
            entrant("gotatun", "", &[2.0]),
        ];
        let figures = figures(&all, &PLAN);
        assert_eq!(
            find(&figures, "peers.portcullis.udp.tcp.up.gbps").value,
            3.0
        );
        assert_eq!(find(&figures, "peers.ratio.gotatun.tcp.up").value, 2.0);
        assert_eq!(find(&figures, "peers.ratio.gotatun.udp.tcp.up").value, 1.5);
        assert!(
            !figures
                .iter()
                .any(|f| f.metric.contains("ratio.portcullis"))
        );
    }

    #[test]
    fn what_was_not_measured_is_named_with_the_reason_and_no_samples() {
        let all = [
            entrant(OURS, "", &[4.0]),
            entrant("openvpn", "apt-get ended with 100:\n no network", &[]),
        ];
        let figures = figures(&all, &PLAN);
        for metric in ["peers.openvpn.tcp.up.gbps", "peers.ratio.openvpn.tcp.up"] {
            let figure = find(&figures, metric);
            assert_eq!((figure.n, figure.value), (0, 0.0));
            assert_eq!(
                figure.config,
                "not measured: apt-get ended with 100: no network"
            );
        }
    }

    #[test]
    fn what_was_measured_before_a_failure_is_kept() {
        let all = [
            entrant(OURS, "", &[4.0, 4.0]),
            entrant("boringtun", "failed: gone", &[2.0]),
        ];
        let figures = figures(&all, &PLAN);
        assert_eq!(find(&figures, "peers.boringtun.tcp.up.gbps").n, 1);
        assert_eq!(find(&figures, "peers.ratio.boringtun.tcp.up").value, 2.0);
        let down = find(&figures, "peers.boringtun.tcp.down.gbps");
        assert_eq!(
            (down.n, down.config.as_str()),
            (0, "not measured: failed: gone")
        );
    }

    #[test]
    fn every_peer_has_metrics_of_its_own() {
        let mut names: Vec<&str> = PEERS
            .iter()
            .map(|peer| peer.name)
            .chain([OURS, OVER_UDP])
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PEERS.len() + 2);
    }
}
