//! The kernel's WireGuard on the same two NICs, and the tunnel in zero-copy and in copy mode beside it, in
//! turns. All of it is emulated: only the ratio says something.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::nic;
use super::scenarios::Outcome;
use super::site::{CABLE, PORT, Site};
use crate::report::bits;
use crate::rig::{GATEWAY_V4, Namespace, iperf3_one_way};
use crate::vm::machine::Driver;

const ROUNDS: usize = 3;
const SECONDS: u32 = 4;
/// The tunnel is to be so many times faster, on virtio-net and as a release build.
const BAR: f64 = 2.0;
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];

/// What a tunnel did in its turns.
#[derive(Debug, Default)]
struct Figures {
    up: Vec<f64>,
    down: Vec<f64>,
    frames_per_second: Vec<f64>,
    microseconds_per_frame: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

impl Figures {
    /// Measures both ways, with the frames that leave both ends and the time of all cores.
    fn measure(&mut self, hosts: [&Namespace; 2], to: IpAddr) -> Result<()> {
        let (before, busy, start) = (frames(hosts)?, busy()?, Instant::now());
        let [gateway, workstation] = hosts;
        self.up
            .push(iperf3_one_way(gateway, workstation, to, SECONDS, false)?);
        self.down
            .push(iperf3_one_way(gateway, workstation, to, SECONDS, true)?);
        let frames = (frames(hosts)? - before) as f64;
        self.frames_per_second
            .push(frames / start.elapsed().as_secs_f64());
        self.microseconds_per_frame
            .push((self::busy()? - busy) * 1e6 / frames.max(1.0));
        Ok(())
    }

    fn text(&self, name: &str) -> String {
        format!(
            "{name}: {} up, {} down, {:.0} frames/s, {:.0} us of CPU a frame",
            bits(median(&self.up)),
            bits(median(&self.down)),
            median(&self.frames_per_second),
            median(&self.microseconds_per_frame)
        )
    }
}

/// Frames that both NICs have sent.
fn frames(hosts: [&Namespace; 2]) -> Result<u64> {
    hosts
        .iter()
        .zip([PORT, CABLE])
        .try_fold(0, |sum, (host, interface)| {
            let text = host.ip(&format!("-s -j link show dev {interface}"))?;
            let value: serde_json::Value = serde_json::from_str(&text)?;
            let sent = value[0]["stats64"]["tx"]["packets"].as_u64();
            // What virtio_net sends in zero-copy is only among its own counters.
            let own = host
                .exec("ethtool", &format!("-S {interface}"))
                .unwrap_or_default();
            let shared = own
                .lines()
                .find_map(|line| line.trim().strip_prefix("tx_xdp_tx: "));
            let shared: u64 = shared.and_then(|count| count.parse().ok()).unwrap_or(0);
            Ok(sum + shared + sent.context("statistics of a NIC")?)
        })
}

/// Seconds that the cores were not idle.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    let idle = ticks.get(3).unwrap_or(&0.0) + ticks.get(4).unwrap_or(&0.0);
    // USER_HZ is 100 on every machine that this runs on.
    Ok((ticks.iter().take(8).sum::<f64>() - idle) / 100.0)
}

/// WireGuard and the tunnel, in turns.
pub fn compare(site: &mut Site) -> Result<Outcome> {
    let (mut kernel, mut shared, mut copied) = Default::default();
    for _ in 0..ROUNDS {
        wireguard(site, &mut kernel)?;
        let was = site.zero_copy().to_owned();
        for (zero_copy, figures) in [(was.as_str(), &mut shared), ("off", &mut copied)] {
            site.set_zero_copy(zero_copy);
            let rig = site.begin(1500, "")?;
            let hosts = [
                rig.single.gateway.namespace(),
                rig.single.workstation.namespace(),
            ];
            Figures::measure(figures, [hosts[0], hosts[1]], GATEWAY_V4.into())?;
        }
        site.raze();
        site.set_zero_copy(&was);
    }
    let ratio = |ours: &Figures| {
        let [up, down] = [(&ours.up, &kernel.up), (&ours.down, &kernel.down)]
            .map(|(ours, theirs)| median(ours) / median(theirs).max(1.0));
        (up, down)
    };
    let (up, down) = ratio(&shared);
    let text = format!(
        "{}\n{}\n{}\nours as asked for over WireGuard: {up:.2} up, {down:.2} down",
        Figures::text(&kernel, "WireGuard"),
        shared.text("as asked for"),
        copied.text("copy"),
    );
    let judged = site.driver == Driver::Virtio && !cfg!(debug_assertions);
    ensure!(
        !judged || up.min(down) >= BAR,
        "less than {BAR} times WireGuard:\n{text}"
    );
    Ok(Outcome::Passed(text))
}

/// A turn of the kernel's WireGuard.
fn wireguard(site: &mut Site, figures: &mut Figures) -> Result<()> {
    site.raze();
    let hosts = site.cabled()?;
    let hosts = [&*hosts[0], &*hosts[1]];
    let keys = tempfile::tempdir()?;
    let mut public = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let key = host.exec("wg", "genkey")?;
        let path = keys.path().join(number.to_string());
        fs::write(&path, key)?;
        host.ip("link add wg0 type wireguard")?;
        host.exec(
            "wg",
            &format!("set wg0 listen-port 51820 private-key {}", path.display()),
        )?;
        public.push(host.exec("wg", "show wg0 public-key")?.trim().to_owned());
    }
    for (at, (host, interface)) in hosts.iter().zip([PORT, CABLE]).enumerate() {
        let other = 1 - at;
        host.ip(&format!("addr add 10.99.0.{}/24 dev {interface}", at + 1))?;
        host.ip(&format!("link set dev {interface} up"))?;
        host.exec(
            "wg",
            &format!(
                "set wg0 peer {} allowed-ips {}/32 endpoint 10.99.0.{}:51820",
                public[other],
                INNER[other],
                other + 1
            ),
        )?;
        host.ip(&format!("addr add {}/24 dev wg0", INNER[at]))?;
        // As large as the tunnel's: 1500 less 60 of IPv4, UDP and WireGuard.
        host.ip("link set dev wg0 mtu 1440 up")?;
    }
    let there = crate::rig::wait_for("WireGuard to carry", super::site::RECOVERY, || {
        let one = crate::rig::ping(
            hosts[1],
            INNER[0].into(),
            [32],
            std::time::Duration::from_millis(500),
        );
        one.is_ok_and(|ping| ping.answered == 1).then_some(())
    });
    let measured = there.and_then(|()| figures.measure(hosts, INNER[0].into()));
    for (host, interface) in hosts.iter().zip([PORT, CABLE]) {
        host.ip("link delete dev wg0")?;
        host.ip(&format!("addr flush dev {interface}"))?;
        if site.driver != Driver::Veth {
            nic::give_back(host, interface)?;
        }
    }
    measured
}
