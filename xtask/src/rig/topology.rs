//! The three layouts that demo, tests and benchmarks run in.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::link::{Bridge, offloads_off, set_link, veth};
use super::namespace::Namespace;
use super::tunnel::{Gateway, Programs, Workstation};
use crate::middlebox::{Impairment, Middlebox};

/// MTU of every cable, unless a test lays its own.
const MTU: u32 = 1500;
/// The interface of a Workstation that is cabled to the Gateway.
const CABLE: &str = "cable0";

/// A Gateway and one Workstation on a cable. Nothing runs yet.
#[derive(Debug)]
pub struct Single {
    /// The Gateway, its port called `ws1`.
    pub gateway: Gateway,
    /// The Workstation.
    pub workstation: Workstation,
}

/// Lays out [`Single`].
///
/// # Errors
/// What `ip` answered.
pub fn single(programs: &Programs) -> Result<Single> {
    let gw = Arc::new(Namespace::create("gw")?);
    let ws1 = Arc::new(Namespace::create("ws1")?);
    veth((&gw, "ws1"), (&ws1, CABLE), MTU)?;
    Ok(Single {
        gateway: Gateway::new(programs, gw, &["ws1"])?,
        workstation: Workstation::new(programs, ws1, CABLE)?,
    })
}

impl Single {
    /// Starts the Gateway, enrols the Workstation and starts its agent.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.gateway.start()?;
        enroll(&self.gateway, std::slice::from_ref(&self.workstation))?;
        self.workstation.start()
    }
}

/// [`Single`] with a middlebox in the cable, where both ends can be watched and attacked. Nothing
/// runs yet but the middlebox.
#[derive(Debug)]
pub struct Tapped {
    /// Gateway and Workstation.
    pub single: Single,
    /// What carries their frames.
    pub middlebox: Middlebox,
    /// Where the middlebox is: its interface `mg` is cabled to the Gateway's port, `mw` to the
    /// Workstation. It has no addresses and the kernel says nothing on them.
    pub middle: Arc<Namespace>,
}

/// Lays out [`Tapped`].
///
/// # Errors
/// What `ip` answered.
pub fn tapped(programs: &Programs, seed: u64, impairment: Impairment) -> Result<Tapped> {
    let gw = Arc::new(Namespace::create("gw")?);
    let ws1 = Arc::new(Namespace::create("ws1")?);
    let middle = Arc::new(Namespace::create("middle")?);
    middle.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    lay_tapped_cable(&gw, "ws1", &middle, "mg")?;
    lay_tapped_cable(&ws1, CABLE, &middle, "mw")?;
    let middlebox = Middlebox::join(&middle, "mg", "mw", seed, impairment)?;
    Ok(Tapped {
        single: Single {
            gateway: Gateway::new(programs, gw, &["ws1"])?,
            workstation: Workstation::new(programs, ws1, CABLE)?,
        },
        middlebox,
        middle,
    })
}

/// Lays one of the two cables of [`Tapped`]; the host's end stays down.
///
/// # Errors
/// What `ip` or `ethtool` answered.
pub fn lay_tapped_cable(
    host: &Namespace,
    interface: &str,
    middle: &Namespace,
    end: &str,
) -> Result<()> {
    veth((host, interface), (middle, end), MTU)?;
    offloads_off(middle, end)?;
    set_link(middle, end, true)
}

/// The demo's layout. Nothing runs yet.
#[derive(Debug)]
pub struct Demo {
    /// The Gateway, its ports called `ws1` and `lan`.
    pub gateway: Gateway,
    /// ws1 on a port of its own; ws2 and ws3 on the LAN.
    pub workstations: Vec<Workstation>,
    /// A host on the LAN that has no keys; its interface is `cable0`, up.
    pub evil: Arc<Namespace>,
    /// The LAN. Its ports are called after the hosts.
    pub lan: Bridge,
}

/// Lays out [`Demo`].
///
/// # Errors
/// What `ip` answered.
pub fn demo(programs: &Programs) -> Result<Demo> {
    let gw = Arc::new(Namespace::create("gw")?);
    let mut lan = Bridge::create("lan")?;
    lan.plug(&gw, "lan", "gw", MTU)?;
    let mut workstations = Vec::new();
    for name in ["ws1", "ws2", "ws3"] {
        let host = Arc::new(Namespace::create(name)?);
        if name == "ws1" {
            veth((&gw, "ws1"), (&host, CABLE), MTU)?;
        } else {
            lan.plug(&host, CABLE, name, MTU)?;
        }
        workstations.push(Workstation::new(programs, host, CABLE)?);
    }
    let evil = Arc::new(Namespace::create("evil")?);
    lan.plug(&evil, CABLE, "evil", MTU)?;
    evil.ip(&format!("link set dev {CABLE} up"))?;
    Ok(Demo {
        gateway: Gateway::new(programs, gw, &["ws1", "lan"])?,
        workstations,
        evil,
        lan,
    })
}

/// A Gateway and many Workstations on one LAN. Nothing runs yet.
#[derive(Debug)]
pub struct Many {
    /// The Gateway, its port called `lan`.
    pub gateway: Gateway,
    /// The Workstations `w1`, `w2` and so on.
    pub workstations: Vec<Workstation>,
    /// The LAN. Its ports are called after the hosts.
    pub lan: Bridge,
}

/// Lays out [`Many`] with `count` Workstations.
///
/// # Errors
/// What `ip` answered.
pub fn many(programs: &Programs, count: usize) -> Result<Many> {
    many_queues(programs, count, 1)
}

/// The same with so many queues of the Gateway's port.
///
/// # Errors
/// What `ip` answered.
pub fn many_queues(programs: &Programs, count: usize, queues: u32) -> Result<Many> {
    let gw = Arc::new(Namespace::create("gw")?);
    let mut lan = Bridge::create("lan")?;
    lan.plug_queues(&gw, "lan", "gw", MTU, queues)?;
    let workstations = (1..=count)
        .map(|number| {
            let name = format!("w{number}");
            let host = Arc::new(Namespace::create(&name)?);
            lan.plug(&host, CABLE, &name, MTU)?;
            Workstation::new(programs, host, CABLE)
        })
        .collect::<Result<_>>()?;
    Ok(Many {
        gateway: Gateway::new(programs, gw, &["lan"])?,
        workstations,
        lan,
    })
}

/// Starts the Gateway, enrols everybody, starts all agents and waits for all of them.
fn start(gateway: &mut Gateway, workstations: &mut [Workstation]) -> Result<()> {
    gateway.start()?;
    enroll(gateway, workstations)?;
    for workstation in &mut *workstations {
        workstation.launch()?;
    }
    for workstation in workstations {
        workstation.wait_connected(std::time::Duration::from_secs(30))?;
    }
    Ok(())
}

fn enroll(gateway: &Gateway, workstations: &[Workstation]) -> Result<()> {
    for workstation in workstations {
        let name = workstation.name();
        let file = gateway.add(name)?;
        workstation
            .enroll(&file)
            .with_context(|| format!("enrolling {name}"))?;
    }
    Ok(())
}

impl Demo {
    /// Starts the Gateway, enrols the Workstations and starts their agents.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(&mut self) -> Result<()> {
        start(&mut self.gateway, &mut self.workstations)
    }
}

impl Many {
    /// Starts the Gateway, enrols the Workstations and starts their agents.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(&mut self) -> Result<()> {
        start(&mut self.gateway, &mut self.workstations)
    }
}
