//! The guest's two NICs: where they are, and how they are taken away and put back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::rig::{Namespace, wait_for};
use crate::vm::debian::run;
use crate::vm::machine::Driver;

/// The Gateway's NIC ends so, the other's is 2.
const GATEWAY: u8 = 1;
/// How long a NIC may take to appear.
const APPEAR: Duration = Duration::from_secs(30);

/// One end of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The Gateway's.
    Gateway,
    /// The Workstation's.
    Workstation,
}

impl End {
    fn mac(self) -> String {
        let last = match self {
            Self::Gateway => GATEWAY,
            Self::Workstation => GATEWAY + 1,
        };
        format!("52:54:00:00:00:{last:02x}")
    }
}

/// The interface with a NIC's address, in the namespace that the machine started with.
fn interface(end: End) -> Option<String> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names = entries.map(|entry| entry.path());
    let found = names.find(|path| {
        let address = fs::read_to_string(path.join("address")).unwrap_or_default();
        address.trim() == end.mac() && path.join("device").exists()
    })?;
    Some(found.file_name()?.to_str()?.to_owned())
}

/// Puts a NIC into a namespace under a name, down, with an MTU of 1500.
///
/// # Errors
/// It does not appear, or `ip` refused.
pub fn place(end: End, namespace: &Namespace, name: &str) -> Result<()> {
    let what = format!("the NIC {} to be there", end.mac());
    let found = wait_for(&what, APPEAR, || interface(end))?;
    let ip = |words: &[&str]| run(std::process::Command::new("ip").args(words));
    ip(&["link", "set", "dev", &found, "down"])?;
    ip(&[
        "link",
        "set",
        "dev",
        &found,
        "netns",
        namespace.name(),
        "name",
        name,
    ])?;
    namespace.ip(&format!("link set dev {name} mtu 1500"))?;
    Ok(())
}

/// Puts the interface of a namespace back where it was found.
///
/// # Errors
/// What `ip` answered.
pub fn give_back(namespace: &Namespace, name: &str) -> Result<()> {
    namespace.ip(&format!("link set dev {name} down"))?;
    namespace.ip(&format!("link set dev {name} netns 1"))?;
    Ok(())
}

/// A NIC on its bus.
#[derive(Debug, Clone)]
pub struct Device {
    end: End,
    driver: &'static str,
    /// Its address on the PCI bus.
    pci: PathBuf,
    /// What its driver is bound to: itself, or what virtio makes of it.
    bound: PathBuf,
}

impl Device {
    /// That of the interface of this name in a namespace.
    ///
    /// # Errors
    /// It has none: a veth.
    pub fn of(end: End, driver: Driver, namespace: &Namespace, name: &str) -> Result<Self> {
        let link = namespace.exec("ethtool", &format!("-i {name}"))?;
        let bus = link
            .lines()
            .find_map(|line| line.strip_prefix("bus-info: "));
        let bus = bus
            .filter(|bus| !bus.is_empty())
            .context("the interface has no device")?;
        let pci = Path::new("/sys/bus/pci/devices").join(bus);
        ensure!(pci.exists(), "{} is not there", pci.display());
        let bound = match driver {
            Driver::Virtio => {
                let parts = fs::read_dir(&pci)?.flatten().map(|entry| entry.path());
                let mut parts = parts.filter(|path| {
                    let name = path.file_name().and_then(|name| name.to_str());
                    name.is_some_and(|name| name.starts_with("virtio"))
                });
                parts.next().context("no virtio device")?
            }
            _ => pci.clone(),
        };
        Ok(Self {
            end,
            driver: driver.module(),
            pci,
            bound,
        })
    }

    fn drivers(&self) -> PathBuf {
        let bus = if self.bound == self.pci {
            "pci"
        } else {
            "virtio"
        };
        Path::new("/sys/bus")
            .join(bus)
            .join("drivers")
            .join(self.driver)
    }

    fn name(&self) -> String {
        let name = self.bound.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Takes the driver from it: the interface goes.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn unbind(&self) -> Result<()> {
        write(&self.drivers().join("unbind"), &self.name())
    }

    /// Gives it its driver again, and puts the new interface where the old one was.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn bind(&self, namespace: &Namespace, name: &str) -> Result<()> {
        write(&self.drivers().join("bind"), &self.name())?;
        place(self.end, namespace, name)
    }

    /// Pulls it out of its slot.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn pull(&self) -> Result<()> {
        write(&self.pci.join("remove"), "1")
    }

    /// Puts it back.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn plug(&self, namespace: &Namespace, name: &str) -> Result<()> {
        write(Path::new("/sys/bus/pci/rescan"), "1")?;
        place(self.end, namespace, name)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {text} to {}", path.display()))
}
