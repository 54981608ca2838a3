//! The attack suite on real NICs: the Gateway's port is one, and the LAN hangs on the other.
//!
//! ```text
//!   Gateway (lan) ==NIC==cable==NIC== switch -- ws2, ws3, evil
//!   Gateway (ws1) -- ws1
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::nic::{self, End};
use super::scenarios::Outcome;
use super::site::{CABLE, Site};
use crate::attack;
use crate::rig::{Bridge, Demo, Gateway, Namespace, Workstation, veth};
use crate::vm::machine::Driver;

/// Runs every attack. An emulated machine loses frames where nobody counts them, and its cores are the
/// attacker's too: what is judged is that nothing reaches a kernel, and the rest is told.
pub fn attacks(site: &mut Site) -> Result<Outcome> {
    site.raze();
    if site.driver == Driver::Veth {
        return Ok(Outcome::Skipped(
            "`cargo xtask attack` runs them on veth".to_owned(),
        ));
    }
    let mut rig = lan(site)?;
    let mut outcomes = Vec::new();
    let bounds = attack::Bounds::full_speed(Duration::from_millis(300));
    let ended = attack::every(&mut rig, bounds, |_| true, &mut outcomes);
    let port = rig
        .gateway
        .show()
        .map(|shown| shown.value["ports"][1].clone());
    let _ = rig.gateway.stop();
    let _ = rig.gateway.daemon().arg("--lower").status();
    nic::give_back(rig.gateway.namespace(), "lan")?;
    nic::give_back(rig.lan.namespace(), "gw")?;
    ended?;
    let broken: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.reached_kernel > 0 || outcome.reached_workstation > 0)
        .map(|outcome| format!("{}: {}", outcome.name, outcome.broken.join("; ")))
        .collect();
    let others = outcomes.iter().filter(|outcome| !outcome.held).count();
    ensure!(
        broken.is_empty(),
        "{} of {} reached a kernel:\n{}",
        broken.len(),
        outcomes.len(),
        broken.join("\n")
    );
    let sent: u64 = outcomes.iter().map(|outcome| outcome.sent).sum();
    let port = port?;
    Ok(Outcome::Passed(format!(
        "{} attacks, {sent} frames: none reached a kernel; {others} did not hold in other ways; {} XDP, zero-copy {}",
        outcomes.len(),
        port["xdp"],
        port["zero_copy"]
    )))
}

/// The demo's layout with the cable of the machine's NICs between Gateway and LAN.
fn lan(site: &Site) -> Result<Demo> {
    let programs = site.programs();
    let gateway = Arc::new(Namespace::create("gw")?);
    let mut lan = Bridge::create("lan")?;
    nic::place(End::Gateway, &gateway, "lan")?;
    nic::place(End::Workstation, lan.namespace(), "gw")?;
    lan.take("gw")?;
    let mut workstations = Vec::new();
    for name in ["ws1", "ws2", "ws3"] {
        let host = Arc::new(Namespace::create(name)?);
        match name {
            "ws1" => veth((&gateway, "ws1"), (&host, CABLE), 1500)?,
            _ => lan.plug(&host, CABLE, name, 1500)?,
        }
        workstations.push(Workstation::new(programs, host, CABLE)?);
    }
    let evil = Arc::new(Namespace::create("evil")?);
    lan.plug(&evil, CABLE, "evil", 1500)?;
    evil.ip(&format!("link set dev {CABLE} up"))?;
    Ok(Demo {
        gateway: Gateway::new(programs, gateway, &["ws1", "lan"])?,
        workstations,
        evil,
        lan,
    })
}
