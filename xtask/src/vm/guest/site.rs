//! A Gateway and a Workstation in namespaces of the guest, on the two ends of its cable.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::Options;
use super::nic::{self, Device, End};
use crate::rig::{
    GATEWAY_V4, Gateway, HttpServer, Namespace, Programs, Single, Stream, Workstation, veth_queues,
    wait_for,
};
use crate::vm::machine::{Driver, tail};

/// The Gateway's port.
pub const PORT: &str = "ws1";
/// The Workstation's interface.
pub const CABLE: &str = "cable0";
/// Where the Gateway answers HTTP.
pub const HTTP: u16 = 8080;
/// How long traffic may stay away after something was done to it. The machine is emulated, and some
/// drivers take three seconds to find a carrier.
pub const RECOVERY: Duration = Duration::from_secs(45);
/// Bytes a second of the load that other things are done under.
const LOAD: u64 = 400_000;

/// Everything there is.
pub struct Site {
    /// Whose hardware.
    pub driver: Driver,
    zero_copy: String,
    programs: Programs,
    rig: Option<Rig>,
}

/// What runs.
pub struct Rig {
    /// Gateway and Workstation.
    pub single: Single,
    _http: HttpServer,
}

impl Site {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// The programs are not there.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            driver: options.driver,
            zero_copy: options.zero_copy.clone(),
            programs: Programs::find()?,
            rig: None,
        })
    }

    /// The numbers of the running kernel.
    ///
    /// # Errors
    /// It does not say.
    pub fn kernel() -> Result<(u32, u32)> {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => Err(anyhow!("a kernel of version {text}")),
        }
    }

    /// The configuration's `zero_copy`.
    pub fn zero_copy(&self) -> &str {
        &self.zero_copy
    }

    /// Another `zero_copy` from the next beginning on.
    pub fn set_zero_copy(&mut self, wanted: &str) {
        self.zero_copy = wanted.to_owned();
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Two hosts on the cable, its ends down, called [`PORT`] and [`CABLE`].
    ///
    /// # Errors
    /// A NIC is not there, or `ip` refused.
    pub fn cabled(&self) -> Result<[Arc<Namespace>; 2]> {
        let gateway = Arc::new(Namespace::create("gw")?);
        let workstation = Arc::new(Namespace::create("ws1")?);
        match self.driver {
            Driver::Veth => veth_queues((&gateway, PORT), (&workstation, CABLE), 1500, 2)?,
            _ => {
                nic::place(End::Gateway, &gateway, PORT)?;
                nic::place(End::Workstation, &workstation, CABLE)?;
            }
        }
        Ok([gateway, workstation])
    }

    /// Gateway and Workstation, in session; begun where they do not run. `more` goes to the top of the
    /// Gateway's configuration.
    ///
    /// # Errors
    /// They do not come up.
    pub fn rig(&mut self) -> Result<&mut Rig> {
        if self.rig.is_none() {
            self.begin(1500, "")?;
        }
        self.rig.as_mut().context("the rig was just begun")
    }

    /// Begins anew, with an MTU and more for the top of the Gateway's configuration.
    ///
    /// # Errors
    /// They do not come up.
    pub fn begin(&mut self, mtu: u32, more: &str) -> Result<&mut Rig> {
        self.raze();
        let [gateway, workstation] = self.cabled()?;
        for (host, interface) in [(&gateway, PORT), (&workstation, CABLE)] {
            host.ip(&format!("link set dev {interface} mtu {mtu}"))?;
        }
        let mut single = Single {
            gateway: Gateway::new(&self.programs, gateway, &[PORT])?,
            workstation: Workstation::new(&self.programs, workstation, CABLE)?,
        };
        let copied = format!("zero_copy = \"{}\"\n", self.zero_copy);
        let text = single.gateway.configuration(&[PORT]);
        single.gateway.configure(&format!("{more}{text}{copied}"))?;
        let text = single.workstation.configuration();
        single.workstation.configure(&format!("{copied}{text}"))?;
        let started = single.start();
        let http = HttpServer::start(single.gateway.namespace(), HTTP)?;
        let rig = self.rig.insert(Rig {
            single,
            _http: http,
        });
        started?;
        Ok(rig)
    }

    /// Ends what runs, and takes the walls down.
    pub fn raze(&mut self) {
        let Some(mut rig) = self.rig.take() else {
            return;
        };
        for ended in [rig.single.workstation.stop(), rig.single.gateway.stop()] {
            if let Err(error) = ended {
                eprintln!("vm-guest: {error:#}");
            }
        }
        let lowered = rig.single.gateway.daemon().arg("--lower").status();
        let lifted = rig.single.workstation.agent("down").status();
        for (what, status) in [
            ("portcullisd --lower", lowered),
            ("portcullis-agent down", lifted),
        ] {
            if !matches!(&status, Ok(status) if status.success()) {
                eprintln!("vm-guest: {what}: {status:?}");
            }
        }
        // A namespace lives on while a connection in it is not at its end, and would keep the NIC.
        for end in [End::Gateway, End::Workstation] {
            let (host, interface) = rig.end(end);
            if let Err(error) = nic::give_back(&host, interface) {
                eprintln!("vm-guest: {error:#}");
            }
        }
    }

    /// What the daemons have said last.
    pub fn logs(&self) -> String {
        let Some(rig) = &self.rig else {
            return String::new();
        };
        let end = |directory: &Path, file: &str| {
            let text = std::fs::read(directory.join(file)).unwrap_or_default();
            tail(&String::from_utf8_lossy(&text), 14)
        };
        let gateway = rig
            .port()
            .map_or_else(|error| error.to_string(), |port| told(&port));
        let agent = rig.single.workstation.status();
        let agent = agent.map_or_else(|error| error.to_string(), |status| told(&status["port"]));
        let statistics: String = [End::Gateway, End::Workstation]
            .map(|end| {
                let (host, interface) = rig.end(end);
                let text = host
                    .exec("ethtool", &format!("-S {interface}"))
                    .unwrap_or_default();
                let moved = text
                    .lines()
                    .filter(|line| line.contains(": ") && !line.ends_with(": 0"));
                let moved: Vec<&str> = moved.map(str::trim).collect();
                format!("{interface}: {}\n", moved.join(", "))
            })
            .concat();
        format!(
            "port of the Gateway: {gateway}\nport of the Workstation: {agent}\n{statistics}\
             portcullisd:\n{}\nportcullis-agent:\n{}",
            end(rig.single.gateway.directory(), "portcullisd.log"),
            end(rig.single.workstation.directory(), "agent.log")
        )
    }
}

impl Rig {
    /// A load through the tunnel, until it is dropped.
    pub fn load(&self) -> Stream {
        let host = Arc::clone(self.single.workstation.namespace());
        Stream::start(host, (GATEWAY_V4.into(), HTTP), LOAD)
    }

    /// Waits until the load goes on, if there is one, and pings are answered. How long that took.
    ///
    /// # Errors
    /// It does not, or a daemon has ended.
    pub fn recovers(&mut self, load: Option<&Stream>) -> Result<Duration> {
        let start = Instant::now();
        self.single.workstation.wait_connected(RECOVERY)?;
        if let Some(load) = load {
            let before = load.received();
            let wanted = before + LOAD / 4;
            wait_for("the load to go on", RECOVERY, || {
                (load.received() > wanted).then_some(())
            })?;
        }
        self.alive()?;
        Ok(start.elapsed())
    }

    /// Both daemons run.
    ///
    /// # Errors
    /// One has ended.
    pub fn alive(&mut self) -> Result<()> {
        let gateway = self
            .single
            .gateway
            .process()
            .context("portcullisd does not run")?;
        ensure!(gateway.exited().is_none(), "portcullisd has ended");
        let agent = self
            .single
            .workstation
            .process()
            .context("the agent does not run")?;
        ensure!(agent.exited().is_none(), "portcullis-agent has ended");
        Ok(())
    }

    /// What the Gateway shows of its port.
    ///
    /// # Errors
    /// It does not answer.
    pub fn port(&self) -> Result<Value> {
        let shown = self.single.gateway.show()?;
        Ok(shown.value["ports"][0].clone())
    }

    /// A host, and its end of the cable.
    pub fn end(&self, end: End) -> (Arc<Namespace>, &'static str) {
        match end {
            End::Gateway => (Arc::clone(self.single.gateway.namespace()), PORT),
            End::Workstation => (Arc::clone(self.single.workstation.namespace()), CABLE),
        }
    }

    /// The NIC of an end.
    ///
    /// # Errors
    /// It is a veth.
    pub fn device(&self, driver: Driver, end: End) -> Result<Device> {
        let (host, interface) = self.end(end);
        Device::of(end, driver, &host, interface)
    }
}

/// A port without what is 0 or nothing.
fn told(port: &Value) -> String {
    let mut shown = port.clone();
    let empty = |value: &Value| value.is_null() || *value == 0;
    for list in ["verdicts", "ring_losses"] {
        if let Some(counters) = shown[list].as_object_mut() {
            counters.retain(|_, value| !empty(value));
        }
    }
    if let Some(fields) = shown.as_object_mut() {
        fields.retain(|_, value| !empty(value));
    }
    shown.to_string()
}
