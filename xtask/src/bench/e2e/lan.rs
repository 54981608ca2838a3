//! Several Workstations on one LAN with the Gateway's port, all sending at once; and a second LAN beside
//! it without a tunnel.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;

use super::record_latency;
use crate::bench::Bench;
use crate::bench::traffic::{Latency, latency, latency_under, load_seconds};
use crate::rig::{Bridge, GATEWAY_V4, Namespace, Programs, iperf3_all_one_way, many, set_link};

/// The Gateway on the plain LAN.
const PLAIN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Measures `count` Workstations.
///
/// # Errors
/// When the rig or the traffic fails.
pub(super) fn run(bench: &mut Bench, count: usize) -> Result<()> {
    let (runs, seconds) = (bench.runs(1, 3), bench.seconds(2, 5));
    let echoes = if bench.quick() { 150 } else { 400 };
    let task = bench.task(
        &format!("{count} Workstations on a LAN"),
        u64::from(runs) * 4 + 1,
    );
    task.doing("starting them");
    let mut rig = many(&Programs::find()?, count)?;
    rig.start()?;
    let gw = Arc::clone(rig.gateway.namespace());
    let hosts: Vec<Arc<Namespace>> = rig
        .workstations
        .iter()
        .map(|workstation| Arc::clone(workstation.namespace()))
        .collect();
    let clients: Vec<&Namespace> = hosts.iter().map(|host| &**host).collect();
    let _plain = lay_plain(&gw, &clients)?;
    task.step();
    let paths = [("plain", PLAIN), ("e2e", GATEWAY_V4)];
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut trips: [[Vec<Latency>; 2]; 2] = Default::default();
    for _ in 0..runs {
        for (path, (name, address)) in paths.into_iter().enumerate() {
            task.doing(&format!("{name}, TCP up"));
            let to = IpAddr::from(address);
            let all = iperf3_all_one_way(&gw, to, &clients, seconds, false)?;
            let sum = all.iter().sum::<f64>() / 1e9;
            rates[path].push(sum);
            task.say(&format!("{name} {sum:.2} Gbit/s"));
            task.step();
        }
        for (path, (name, address)) in paths.into_iter().enumerate() {
            task.doing(&format!("{name}, round trips"));
            trips[path][0].push(latency(clients[0], address, echoes)?);
            let load = || {
                let seconds = load_seconds(echoes) + 1;
                iperf3_all_one_way(&gw, address.into(), &clients, seconds, false).map(drop)
            };
            trips[path][1].push(latency_under(clients[0], address, echoes, load)?);
            task.step();
        }
    }
    drop(task);
    let method = format!(
        "iperf3, one TCP stream from each of {count} Workstations on a bridge, {seconds} s, all at once, their sum"
    );
    let mut bound = None;
    for (path, (name, _)) in paths.into_iter().enumerate() {
        let metric = format!("{name}.ws{count}.tcp.up.gbps");
        bound = Some(bench.measured(metric, "Gbit/s", &rates[path], bound, &method)?);
    }
    for (state, (infix, during)) in [("", "idle"), ("load.", "a TCP stream up from each")]
        .into_iter()
        .enumerate()
    {
        let method = format!(
            "{echoes} ICMP echo requests 5 ms apart from one of {count} Workstations, {during}"
        );
        let mut bounds = None;
        for (path, (name, _)) in paths.into_iter().enumerate() {
            let prefix = format!("{name}.ws{count}.rtt.{infix}");
            bounds = Some(record_latency(
                bench,
                &prefix,
                &trips[path][state],
                bounds,
                &method,
            )?);
        }
    }
    Ok(())
}

/// A LAN of its own, with addresses, beside the tunnel's.
fn lay_plain(gw: &Namespace, clients: &[&Namespace]) -> Result<Bridge> {
    let mut lan = Bridge::create("plain")?;
    for (number, host) in std::iter::once(&gw).chain(clients).enumerate() {
        lan.plug(host, "plain", &format!("p{number}"), 1500)?;
        host.ip(&format!("address add 192.0.2.{}/24 dev plain", number + 1))?;
        set_link(host, "plain", true)?;
    }
    Ok(lan)
}
