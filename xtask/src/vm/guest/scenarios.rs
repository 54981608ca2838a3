//! What is done to Gateway and Workstation, and what must hold.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::load;
use super::nic::End;
use super::site::{CABLE, HTTP, PORT, RECOVERY, Rig, Site};
use super::{attacks, wireguard};
use crate::report::bits;
use crate::rig::{
    Echo, GATEWAY_V4, GATEWAY_V6, HttpServer, Probe, body_sha256, download, iperf3_one_way, ping,
    set_link, wait_for,
};
use crate::vm::machine::Driver;

/// How a scenario ended that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// All held; what was seen.
    Passed(String),
    /// It means nothing here; why.
    Skipped(String),
}

/// A scenario.
pub type Run = fn(&mut Site) -> Result<Outcome>;

/// All of them, in the order in which they are run.
pub const SCENARIOS: &[(&str, Run)] = &[
    ("load", load::programs),
    ("session", session),
    ("ping", pings),
    ("tcp", tcp),
    ("rekey", rekey),
    ("link", link),
    ("killed", killed),
    ("mtu", mtu),
    ("channels", channels),
    ("workers", workers),
    ("unbound", unbound),
    ("pulled", pulled),
    ("jumbo", jumbo),
    ("attacks", attacks::attacks),
    ("wireguard", wireguard::compare),
];

/// Those that are run only when they are asked for.
pub const ON_REQUEST: [&str; 2] = ["attacks", "wireguard"];

const ECHO: u16 = 7;
const BOTH: [End; 2] = [End::Gateway, End::Workstation];

fn passed(text: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Passed(text.into()))
}

fn skipped(text: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Skipped(text.into()))
}

/// How the port of this driver is to come up on this kernel: XDP, and whether frames are shared.
fn expected(driver: Driver, kernel: (u32, u32), asked: &str) -> (&'static str, bool) {
    let native = match driver {
        Driver::Igb | Driver::Virtio | Driver::Veth => true,
        Driver::Vmxnet3 => kernel >= (6, 6),
        Driver::E1000e => false,
    };
    let zero_copy = match driver {
        Driver::Igb => kernel >= (6, 14) && asked != "off",
        // Only when it is asked for: see `raise` in `control`.
        Driver::Virtio => asked == "on",
        _ => false,
    };
    (if native { "native" } else { "generic" }, zero_copy)
}

fn session(site: &mut Site) -> Result<Outcome> {
    let (driver, asked) = (site.driver, site.zero_copy().to_owned());
    let rig = site.rig()?;
    let ends = [
        ("Gateway", rig.port()?),
        (
            "Workstation",
            rig.single.workstation.status()?["port"].clone(),
        ),
    ];
    let (xdp, zero_copy) = expected(driver, Site::kernel()?, &asked);
    let mut seen = Vec::new();
    for (name, port) in &ends {
        let rings = if port["zero_copy"] == true {
            "zero-copy"
        } else {
            "copy"
        };
        seen.push(format!(
            "{name}: {} XDP, {rings}, queues {}",
            port["xdp"], port["queues"]
        ));
        ensure!(
            port["xdp"] == xdp,
            "the {name}'s XDP is {}, not {xdp}: {port}",
            port["xdp"]
        );
        ensure!(
            port["zero_copy"] == zero_copy,
            "the {name}'s rings are {rings}: {port}"
        );
    }
    passed(seen.join("; "))
}

fn pings(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let host = rig.single.workstation.namespace();
    let most = rig.single.workstation.tunnel_mtu()? - 48;
    // All the small ones, whose frames hardware pads.
    let sizes = || {
        (0..64)
            .chain((64..most).step_by(97))
            .chain([most - 1, most])
    };
    let (mut answered, mut total) = (0, Duration::ZERO);
    for to in [IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6)] {
        let found = ping(host, to, sizes(), Duration::from_secs(2))?;
        ensure!(
            found.answered == found.sent,
            "{to} answered {} of {}",
            found.answered,
            found.sent
        );
        answered += found.answered;
        total += found.total;
    }
    passed(format!(
        "{answered} answered, {:?} on average",
        total / answered.max(1) as u32
    ))
}

/// Both ways, every byte compared, and how fast it goes.
fn tcp(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let (gateway, _) = rig.end(End::Gateway);
    let (workstation, _) = rig.end(End::Workstation);
    let address = rig.single.workstation.address()?;
    whole(rig)?;
    let to = GATEWAY_V4.into();
    let up = iperf3_one_way(&gateway, &workstation, to, 3, false)?;
    let down = iperf3_one_way(&gateway, &workstation, to, 3, true)?;
    ensure!(
        up > 1e6 && down > 1e6,
        "{} up, {} down",
        bits(up),
        bits(down)
    );
    conserved(rig)?;
    passed(format!(
        "from {address}: {} up, {} down",
        bits(up),
        bits(down)
    ))
}

/// Downloads both ways, compared with what was sent.
fn whole(rig: &Rig) -> Result<()> {
    let (gateway, _) = rig.end(End::Gateway);
    let (workstation, _) = rig.end(End::Workstation);
    let address = rig.single.workstation.address()?;
    let size = 4 << 20;
    let here = HttpServer::start(&workstation, HTTP + 1)?;
    let both = [
        (&workstation, (GATEWAY_V4.into(), HTTP)),
        (&gateway, (address.into(), HTTP + 1)),
    ];
    for (host, from) in both {
        let got = download(host, from, size, &AtomicU64::new(0))?;
        ensure!(
            got.sha256 == body_sha256(size),
            "what came from {} is not what was sent",
            from.0
        );
    }
    drop(here);
    Ok(())
}

/// Nothing was lost in the rings that should not have been, and no frame is missing.
fn conserved(rig: &Rig) -> Result<()> {
    let port = rig.port()?;
    let invalid = port["ring_losses"]["tx_invalid"]
        .as_u64()
        .unwrap_or(u64::MAX);
    ensure!(
        invalid == 0,
        "{invalid} descriptors were refused by the kernel"
    );
    Ok(())
}

fn rekey(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let _echo = Echo::start(rig.single.gateway.namespace(), ECHO)?;
    let host = rig.single.workstation.namespace();
    let probe = Probe::start(
        host,
        (GATEWAY_V4.into(), ECHO),
        Duration::from_millis(10),
        100,
    )?;
    for _ in 0..3 {
        rig.single.workstation.rekey()?;
    }
    let report = probe.finish();
    ensure!(
        report.lost() == 0,
        "{} of {} lost",
        report.lost(),
        report.sent()
    );
    passed(format!(
        "3 rekeys, none of {} datagrams lost",
        report.sent()
    ))
}

/// Each end is set down and up, under load.
fn link(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let load = rig.load();
    let mut took = Vec::new();
    for end in BOTH {
        let (host, interface) = rig.end(end);
        set_link(&host, interface, false)?;
        gone(rig)?;
        set_link(&host, interface, true)?;
        took.push(rig.recovers(Some(&load))?);
    }
    conserved(rig)?;
    passed(format!("flows again after {:?} and {:?}", took[0], took[1]))
}

/// No ping comes through.
fn gone(rig: &Rig) -> Result<()> {
    let quiet = Duration::from_millis(300);
    wait_for("the tunnel to be cut", RECOVERY, || {
        (!rig.single.workstation.reaches(quiet)).then_some(())
    })
}

/// Each daemon is killed under load and started again.
fn killed(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let load = rig.load();
    rig.recovers(Some(&load))?;
    rig.single.gateway.kill();
    rig.single.gateway.start()?;
    let gateway = rig.recovers(Some(&load))?;
    rig.single.workstation.kill();
    rig.single.workstation.launch()?;
    let agent = rig.recovers(Some(&load))?;
    passed(format!(
        "flows again {gateway:?} after the Gateway's start, {agent:?} after the agent's"
    ))
}

/// A smaller MTU and the one of before, under load.
fn mtu(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let load = rig.load();
    let mut took = Vec::new();
    for mtu in [1400, 1500] {
        for end in BOTH {
            let (host, interface) = rig.end(end);
            host.ip(&format!("link set dev {interface} mtu {mtu}"))?;
        }
        let what = format!("the tunnel's MTU to be {}", mtu - 40);
        wait_for(&what, RECOVERY, || {
            let found = rig.single.workstation.tunnel_mtu().ok()?;
            (found == mtu - 40).then_some(())
        })?;
        took.push(rig.recovers(Some(&load))?);
    }
    conserved(rig)?;
    passed(format!("1400 and back to 1500; flows again after {took:?}"))
}

/// Fewer and more channels under load. A driver may refuse, and then nothing has changed.
fn channels(site: &mut Site) -> Result<Outcome> {
    let rig = site.rig()?;
    let (host, interface) = rig.end(End::Gateway);
    let Some((now, most)) = combined(
        &host
            .exec("ethtool", &format!("-l {interface}"))
            .unwrap_or_default(),
    ) else {
        return skipped("the driver has no channels to set");
    };
    if most < 2 {
        return skipped("the driver has one channel");
    }
    let load = rig.load();
    rig.recovers(Some(&load))?;
    let mut seen = Vec::new();
    for count in [1, 2, now] {
        let answer = host.exec("ethtool", &format!("-L {interface} combined {count}"));
        let took = rig.recovers(Some(&load))?;
        let shown = host.exec("ethtool", &format!("-l {interface}"))?;
        let has = combined(&shown).map_or(1, |(now, _)| now);
        let bound = rig.port()?["queues"].as_u64().unwrap_or(0);
        ensure!(
            bound >= has,
            "{interface} has {has} channels and sockets on {bound} queues"
        );
        seen.push(match answer {
            Ok(_) => format!("{count}: {bound} queues, flows again after {took:?}"),
            Err(_) => format!("{count}: refused, {bound} queues"),
        });
    }
    conserved(rig)?;
    passed(seen.join("; "))
}

/// Combined channels now and at most, in what `ethtool -l` says.
fn combined(said: &str) -> Option<(u64, u64)> {
    let counts = said
        .lines()
        .filter_map(|line| line.strip_prefix("Combined:"));
    let mut counts = counts.filter_map(|count| count.trim().parse().ok());
    let most = counts.next()?;
    Some((counts.next()?, most))
}

/// The port's queues divided among two workers.
fn workers(site: &mut Site) -> Result<Outcome> {
    let rig = site.begin(1500, "workers = 2\n")?;
    whole(rig)?;
    let served = rig.port()?["served_by"].clone();
    let workers = served.as_array().map_or(0, Vec::len);
    let queues = rig.port()?["queues"].as_u64().unwrap_or(0);
    ensure!(
        workers as u64 == queues.min(2),
        "{workers} workers serve {queues} queues: {served}"
    );
    conserved(rig)?;
    site.raze();
    passed(format!("{queues} queues, {workers} workers"))
}

/// The driver is taken from each NIC under load, and given back.
fn unbound(site: &mut Site) -> Result<Outcome> {
    again(
        site,
        |device| device.unbind(),
        |device, host, name| device.bind(host, name),
    )
}

/// Each NIC is pulled out of its slot under load, and put back; a veth is deleted and made anew.
fn pulled(site: &mut Site) -> Result<Outcome> {
    if site.driver == Driver::Veth {
        let rig = site.rig()?;
        let load = rig.load();
        let (gateway, _) = rig.end(End::Gateway);
        let (workstation, _) = rig.end(End::Workstation);
        gateway.ip(&format!("link delete dev {PORT}"))?;
        gone(rig)?;
        crate::rig::veth((&gateway, PORT), (&workstation, CABLE), 1500)?;
        let took = rig.recovers(Some(&load))?;
        return passed(format!("flows again after {took:?}"));
    }
    again(
        site,
        |device| device.pull(),
        |device, host, name| device.plug(host, name),
    )
}

fn again(
    site: &mut Site,
    take: impl Fn(&super::nic::Device) -> Result<()>,
    give: impl Fn(&super::nic::Device, &crate::rig::Namespace, &str) -> Result<()>,
) -> Result<Outcome> {
    let driver = site.driver;
    if driver == Driver::Veth {
        return skipped("a veth has no driver to take from it");
    }
    // Seen on 6.12.117 and 7.3.4, with no program of ours running and the XDP program in place alone; igb is
    // fine on the same kernels.
    if driver == Driver::Virtio {
        return skipped(
            "the kernel waits for ever for a virtio NIC to go while it has an XDP program",
        );
    }
    let rig = site.rig()?;
    let load = rig.load();
    rig.recovers(Some(&load))?;
    let mut took = Vec::new();
    for end in BOTH {
        let device = rig.device(driver, end)?;
        let (host, interface) = rig.end(end);
        take(&device)?;
        gone(rig)?;
        rig.alive()?;
        let start = Instant::now();
        give(&device, &host, interface)?;
        rig.recovers(Some(&load))?;
        took.push(start.elapsed());
    }
    conserved(rig)?;
    passed(format!("flows again after {:?} and {:?}", took[0], took[1]))
}

/// MTU 9000 where the driver has it.
fn jumbo(site: &mut Site) -> Result<Outcome> {
    site.raze();
    let hosts = site.cabled()?;
    let refused = hosts
        .iter()
        .zip([PORT, CABLE])
        .find_map(|(host, interface)| host.ip(&format!("link set dev {interface} mtu 9000")).err());
    drop(hosts);
    if let Some(error) = refused {
        return skipped(format!("the driver has no such MTU: {error:#}"));
    }
    let shared = site.zero_copy() == "on";
    if Site::kernel()? < (6, 6) || shared {
        let refused = site.begin(9000, "").err().map(|error| format!("{error:#}"));
        site.raze();
        let refused = refused.context("a port of MTU 9000 came up")?;
        ensure!(
            refused.contains("set the MTU lower"),
            "refused otherwise: {refused}"
        );
        return passed("refused, with the MTU that works");
    }
    let rig = site.begin(9000, "")?;
    let mtu = rig.single.workstation.tunnel_mtu()?;
    ensure!(mtu == 8960, "the tunnel's MTU is {mtu}");
    let host = rig.single.workstation.namespace();
    let sizes = (0..mtu - 28).step_by(451).chain([mtu - 29, mtu - 28]);
    let found = ping(host, GATEWAY_V4.into(), sizes, Duration::from_secs(2))?;
    ensure!(
        found.answered == found.sent,
        "{} of {} pings answered",
        found.answered,
        found.sent
    );
    whole(rig)?;
    conserved(rig)?;
    let port = rig.port()?;
    let rings = if port["zero_copy"] == true {
        "zero-copy"
    } else {
        "copy"
    };
    let text = format!("{} XDP, {rings}", port["xdp"]);
    site.raze();
    passed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_read_off_what_ethtool_says() {
        let said = "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\nOther:\t\t1\nCombined:\t8\n\
            Current hardware settings:\nRX:\t\tn/a\nOther:\t\t1\nCombined:\t2\n";
        assert_eq!(combined(said), Some((2, 8)));
        assert_eq!(combined("netlink error: Operation not supported"), None);
    }
}
