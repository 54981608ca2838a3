//! Whether the packages do what they must: on two machines with systemd, a Gateway and a Workstation,
//! installed, set up as the README says, upgraded under traffic, removed and purged.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, SHARED};
use crate::attack::{arp, ethernet};
use crate::rig::{
    Capture, Echo, GATEWAY_V4, Namespace, PacketSocket, Probe, Scratch, Serial, ping, require_root,
    veth, wait_for,
};

const PORT: &str = "eth1";
const SOON: Duration = Duration::from_secs(20);
/// How long an upgrade may keep traffic waiting.
const OUTAGE: Duration = Duration::from_secs(1);

/// Proves the packages in a directory.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(packages: &Path) -> Result<()> {
    require_root()?;
    let _turn = Serial::acquire()?;
    let shared = Scratch::new("packages")?;
    for name in super::names(packages)?
        .iter()
        .filter(|name| name.ends_with(".deb"))
    {
        super::copy(&packages.join(name), &shared.path().join(name))?;
    }
    let [gw, ws] = ["gateway", "desk"].map(Namespace::create);
    let (gw, ws) = (Arc::new(gw?), Arc::new(ws?));
    veth((&gw, PORT), (&ws, PORT), 1500)?;
    let gateway = Machine::boot(&gw, shared.path())?;
    let workstation = Machine::boot(&ws, shared.path())?;
    step("two machines with systemd are up");

    gateway.run(&format!("dpkg --install {SHARED}/portcullis-gateway_*.deb"))?;
    workstation.run(&format!(
        "dpkg --install {SHARED}/portcullis-workstation_*.deb"
    ))?;
    for (machine, unit) in [
        (&gateway, "portcullisd"),
        (&workstation, "portcullis-agent"),
    ] {
        machine.run(&format!("systemctl is-enabled {unit}"))?;
        ensure!(
            !machine.succeeds(&format!("systemctl is-active {unit}"))?,
            "{unit} runs without a configuration"
        );
        ensure!(
            !machine.succeeds(&format!("systemctl is-failed {unit}"))?,
            "{unit} failed, for want of a configuration"
        );
    }
    step("installed; nothing runs before it is set up");

    set_up(&gateway, &workstation)?;
    connected(&gateway, &workstation, &ws)?;
    step(
        "set up as the README says; both services run, without privileges, and the tunnel carries",
    );

    upgrade(&gateway, &gw, &ws)?;
    step(
        "upgraded under traffic: sessions recovered in time, and no foreign frame reached a kernel",
    );

    for (machine, unit, state) in [
        (&gateway, "portcullisd", "portcullis"),
        (&workstation, "portcullis-agent", "portcullis-agent"),
    ] {
        stuck(machine, unit)?;
        remove(machine, unit, state)?;
    }
    step("removed, the ports given back set down; purged, nothing is left");
    Ok(())
}

fn step(what: &str) {
    println!("  {what}");
}

fn set_up(gateway: &Machine, workstation: &Machine) -> Result<()> {
    gateway.run(&format!("portcullis init --port {PORT}"))?;
    gateway
        .run("systemctl start portcullisd")
        .with_context(|| gateway.journal("portcullisd"))?;
    let file = format!("{SHARED}/desk.enrolment");
    gateway.run(&format!(
        "portcullis workstation add desk --allow any --output {file}"
    ))?;
    workstation.run(&format!("portcullis-agent enroll {file} && rm {file}"))?;
    workstation
        .run("systemctl start portcullis-agent")
        .with_context(|| workstation.journal("portcullis-agent"))?;
    Ok(())
}

fn connected(gateway: &Machine, workstation: &Machine, ws: &Namespace) -> Result<()> {
    let reached = wait_for("the Gateway to answer through the tunnel", SOON, || {
        let one = ping(
            ws,
            IpAddr::from(GATEWAY_V4),
            [56],
            Duration::from_millis(500),
        );
        one.is_ok_and(|ping| ping.answered == 1).then_some(())
    });
    reached.with_context(|| {
        gateway.journal("portcullisd") + &workstation.journal("portcullis-agent")
    })?;
    for (machine, unit) in [(gateway, "portcullisd"), (workstation, "portcullis-agent")] {
        let pid = machine.run(&format!("systemctl show --property MainPID --value {unit}"))?;
        let status = machine.run(&format!("cat /proc/{}/status", pid.trim()))?;
        let line = |name: &str| {
            status
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default()
                .to_owned()
        };
        ensure!(!line("Uid:").contains("\t0\t"), "{unit} runs as root");
        ensure!(
            line("CapPrm:").ends_with("0000000000000000"),
            "{unit} kept {}",
            line("CapPrm:")
        );
        ensure!(
            line("Seccomp:").ends_with('2'),
            "{unit} has no filter of system calls"
        );
    }
    Ok(())
}

/// Installs the Gateway's package over itself while datagrams and foreign frames come in.
fn upgrade(gateway: &Machine, gw: &Arc<Namespace>, ws: &Arc<Namespace>) -> Result<()> {
    let _echo = Echo::start(gw, 7)?;
    let heard = Capture::into_stack(gw, 0x0806, 16)?;
    let socket = PacketSocket::sender(ws, PORT)?;
    let probe = Probe::start(ws, (GATEWAY_V4.into(), 7), Duration::from_millis(1), 200)?;
    let own = [2, 0, 0, 0, 0, 0x77];
    let request = arp(1, (own, [192, 0, 2, 1].into()), ([0; 6], GATEWAY_V4));
    let foreign = ethernet([0xff; 6], own, 0x0806, &request);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let install = scope
            .spawn(|| gateway.run(&format!("dpkg --install {SHARED}/portcullis-gateway_*.deb")));
        while !install.is_finished() {
            socket.send(&foreign);
            std::thread::sleep(Duration::from_millis(1));
        }
        install
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that upgrades panicked"))??;
        Ok(())
    })?;
    let settled = Instant::now() + Duration::from_secs(2);
    while Instant::now() < settled {
        socket.send(&foreign);
        std::thread::sleep(Duration::from_millis(1));
    }
    let report = probe.finish();
    let gap = report.longest_gap();
    println!(
        "  the upgrade took {:.1} s and traffic waited {} ms",
        began.elapsed().as_secs_f64() - 2.0,
        gap.as_millis()
    );
    ensure!(
        gap < OUTAGE,
        "traffic waited {} ms for the upgrade:\n{}",
        gap.as_millis(),
        gateway.journal("portcullisd")
    );
    ensure!(
        gap > Duration::from_millis(1),
        "the daemon was not restarted"
    );
    heard.settle()?;
    ensure!(
        heard.incoming() == 0,
        "the wall was open: {}",
        heard.summary()
    );
    Ok(())
}

/// A daemon that does not turn any more is ended and started anew by systemd.
fn stuck(machine: &Machine, unit: &str) -> Result<()> {
    let pid = || machine.run(&format!("systemctl show --property MainPID --value {unit}"));
    let before = pid()?;
    machine.run(&format!("kill -STOP {}", before.trim()))?;
    wait_for(
        "the watchdog to restart a stopped daemon",
        Duration::from_secs(40),
        || {
            let now = pid().ok()?;
            let active = machine
                .succeeds(&format!("systemctl is-active {unit}"))
                .ok()?;
            (active && now != before && now.trim() != "0").then_some(())
        },
    )
    .with_context(|| machine.journal(unit))
}

fn remove(machine: &Machine, unit: &str, state: &str) -> Result<()> {
    let package = match unit {
        "portcullisd" => "portcullis-gateway",
        _ => "portcullis-workstation",
    };
    let said = machine.run(&format!("dpkg --remove {package} 2>&1"))?;
    let link = machine.run(&format!("ip -details link show {PORT}"))?;
    ensure!(
        !link.contains("xdp") && link.contains("state DOWN"),
        "after the removal of {package}:\n{link}{said}"
    );
    ensure!(
        !machine.succeeds("ls /sys/fs/bpf/portcullis/* 2>/dev/null")?,
        "{package} left its pins"
    );
    ensure!(
        machine.succeeds(&format!("test -d /var/lib/{state}"))?,
        "keys are gone before the purge"
    );
    machine.run(&format!("dpkg --purge {package}"))?;
    ensure!(
        !machine.succeeds(&format!("ls -d /var/lib/{state} /etc/portcullis"))?,
        "{package} left files after its purge"
    );
    Ok(())
}
