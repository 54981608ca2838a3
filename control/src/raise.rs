//! Raising a port: the wall first, with the link down, then the rings.

use crate::choices::{Xdp, ZeroCopy};
use crate::config::Rings;
use crate::encapsulation::Encapsulation;
use crate::helper::PortHelp;
use crate::layout;
use crate::monitor;
use crate::problem::{Kind, Problem};
use dataplane::link::{LinkInfo, Links, keyless_fitness, port_fitness};
use dataplane::port::ethtool;
use dataplane::port::xsk::{self, BusyPoll, Mode, XskConfig, XskPort};
use dataplane::wall::{
    self, AttachMode, GuardHook, PortTables, Wall, WallConfig, WallError, WallParts, XdpRequest,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::{Admission, Role};

/// How long a starting daemon waits for the queues of one that was killed: closing takes tens of
/// milliseconds.
pub const AT_START: Duration = Duration::from_secs(2);
/// How long a running one waits, which has other ports to serve and will try again.
pub const AGAIN: Duration = Duration::from_millis(100);

/// The driver whose zero-copy is only taken when it is asked for.
pub const BAD_ZERO_COPY: &str = "virtio_net";

/// What is to become a port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The interface.
    pub interface: String,
    /// Which end this is.
    #[serde(with = "RoleByName")]
    pub role: Role,
    /// The MAC address the interface is given; `None`: the one it has.
    pub mac: Option<[u8; 6]>,
    /// How the tunnel's frames travel.
    pub encapsulation: Encapsulation,
    /// Where the wall is pinned.
    pub pin_directory: PathBuf,
    /// XDP mode and rings.
    pub rings: Rings,
    /// Sessions there is room for.
    pub session_slots: u32,
    /// Workstations there is room for.
    pub workstation_slots: u32,
}

/// [`Role`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Role")]
enum RoleByName {
    Gateway,
    Workstation,
}

/// A port that is up, its rings not yet with a worker.
pub struct Raised {
    /// The interface as it was found.
    pub link: LinkInfo,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The wall.
    pub wall: Wall,
    /// The rings of each worker that has any, in the order of the workers.
    pub rings: Vec<(Range<u32>, XskPort)>,
    /// How the XDP program is attached.
    pub mode: AttachMode,
    /// Whether the rings are zero-copy.
    pub zero_copy: bool,
    /// Whether the kernel takes busy polling, where it is asked for.
    pub busy_poll: Option<bool>,
}

impl Plan {
    fn tried(&self) -> String {
        format!("raising the port {}", self.interface)
    }

    /// How many frames of this MTU a ring of the port holds.
    pub fn ring_frames(&self, mtu: u32) -> u64 {
        xsk::ring_frames(self.rings.size, mtu).into()
    }

    /// Whether the interface can be a port, without touching it.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn check(&self, links: &Links) -> Result<LinkInfo, Problem> {
        let link = links.find(&self.interface).map_err(|error| {
            Problem::new(
                Kind::NotFound,
                self.tried(),
                error,
                match self.role {
                    Role::Gateway => {
                        "name an interface that `ip link` shows, in the configuration's [[port]]"
                    }
                    Role::Workstation => {
                        "name an interface that `ip link` shows, as `interface` in the configuration"
                    }
                },
            )
        })?;
        let fitness = match self.encapsulation.is_shared() {
            true => keyless_fitness(&link, None),
            false => port_fitness(&link),
        };
        fitness.map_err(|unfit| refused(self.tried(), unfit))?;
        wall::vacant(&self.interface, link.index, &self.pin_directory)
            .map_err(|error| refused(self.tried(), error))?;
        Ok(link)
    }

    /// Raises the wall. It is the helper that does: this takes privileges.
    ///
    /// # Errors
    /// The step that failed; a wall that stood before still does.
    pub fn raise_wall(&self, links: &Links) -> Result<(LinkInfo, WallParts), Problem> {
        let mut link = self.check(links)?;
        let another = self.mac.filter(|mac| link.mac != Some(*mac));
        // An interface that is up before the wall stands would leak; one that has a wall already is
        // not touched, so that a restart does not cost a carrier.
        let stands = wall::stands(&self.interface, link.index, &self.pin_directory)
            || self.encapsulation.is_shared();
        if link.up && (!stands || another.is_some()) {
            links
                .set_down(link.index)
                .map_err(|error| refused(self.tried(), error))?;
        }
        if let Some(mac) = another {
            links.set_mac(link.index, mac).map_err(|error| {
                let remedy = "the driver may not take another address: set mac_address = \"keep\"";
                Problem::new(Kind::Failed, self.tried(), error, remedy)
            })?;
            link.mac = another;
        }
        if self.encapsulation.answers_solicitations() {
            // Questions for an IPv6 address go to a group that the kernel has not joined.
            links
                .set_all_groups(link.index)
                .map_err(|error| refused(self.tried(), error))?;
        }
        let config = self.wall(link.index, link.mac.unwrap_or_default());
        let parts = WallParts::raise(&config).map_err(|error| refused(self.tried(), error))?;
        Ok((link, parts))
    }

    /// Sets the link up, if a wall of ours stands on it. It is the helper that does.
    ///
    /// # Errors
    /// There is none, or what the kernel answered.
    pub fn set_up(&self, links: &Links) -> Result<(), Problem> {
        let link = links
            .find(&self.interface)
            .map_err(|error| refused(self.tried(), error))?;
        if !wall::stands(&self.interface, link.index, &self.pin_directory) {
            return Err(refused(self.tried(), "no wall stands on it"));
        }
        links
            .set_up(link.index)
            .map_err(|error| refused(self.tried(), error))
    }

    fn wall(&self, ifindex: u32, mac: [u8; 6]) -> WallConfig {
        WallConfig {
            interface: self.interface.clone(),
            ifindex,
            admission: Admission {
                role: self.role,
                mac,
                encapsulation: self.encapsulation.admission(),
            },
            pin_directory: self.pin_directory.clone(),
            mode: match self.rings.xdp {
                Xdp::Auto => XdpRequest::Auto,
                Xdp::Native => XdpRequest::Native,
                Xdp::Generic => XdpRequest::Generic,
            },
            guard: GuardHook::Auto,
            session_slots: self.session_slots,
            workstation_slots: self.workstation_slots,
        }
    }

    /// Raises the port, with the helper's help. `knocks` fills the tables before any frame can reach a
    /// socket; it is told how many frames of the port's MTU a ring holds. `patience` is how long to
    /// wait for queues that another socket has only just left; the queues are divided among `workers`.
    ///
    /// # Errors
    /// The step that failed; the wall stands from the step on in which it was raised.
    pub fn raise(
        &self,
        links: &Links,
        help: &PortHelp,
        workers: usize,
        patience: Duration,
        knocks: impl FnOnce(&PortTables, u64) -> std::io::Result<()>,
    ) -> Result<Raised, Problem> {
        let (ifindex, mac, parts) = help.wall()?;
        let wall = Wall::of_parts(&self.wall(ifindex, mac), parts)
            .map_err(|error| refused(self.tried(), error))?;
        let link = links
            .get(ifindex)
            .map_err(|error| refused(self.tried(), error))?;
        knocks(&wall.tables(), self.ring_frames(link.mtu)).map_err(|error| {
            Problem::io(
                format!(
                    "telling XDP on {} which Workstations there are",
                    self.interface
                ),
                &error,
            )
        })?;
        help.up()?;
        help.sockets()?;
        let rings = layout::split(self.queues()?, workers)
            .into_iter()
            .map(|queues| {
                let rings = open(&self.interface, &self.rings, queues.clone(), patience);
                Ok((queues, rings.map_err(|error| refused(self.tried(), error))?))
            })
            .collect::<Result<Vec<_>, Problem>>()?;
        for (queue, socket) in rings.iter().flat_map(|(_, rings)| rings.sockets()) {
            wall.set_socket(queue, socket).map_err(|error| {
                Problem::io(
                    format!(
                        "giving XDP on {} the socket of queue {queue}",
                        self.interface
                    ),
                    &error,
                )
            })?;
        }
        let mode = wall.mode().map_err(|error| refused(self.tried(), error))?;
        if mode == AttachMode::Generic && self.rings.xdp == Xdp::Auto {
            tracing::warn!(
                port = self.interface,
                "the driver has no native XDP: the wall stands in generic mode, which is several times slower"
            );
        }
        let zero_copy = rings.iter().all(|(_, rings)| rings.is_zero_copy());
        let busy_poll = self
            .rings
            .busy_poll
            .map(|_| rings.iter().all(|(_, rings)| rings.is_busy_polled()));
        Ok(Raised {
            link,
            mac,
            wall,
            rings,
            mode,
            zero_copy,
            busy_poll,
        })
    }

    /// How many of the interface's queues are used.
    fn queues(&self) -> Result<u32, Problem> {
        let has = ethtool::receive_queues(&self.interface).map_err(|error| {
            Problem::io(format!("counting the queues of {}", self.interface), &error)
        })?;
        let used = self.rings.queues.unwrap_or(has).min(has);
        if used < has {
            tracing::warn!(
                port = self.interface,
                has,
                used,
                "what arrives on the queues that are not used is dropped (no_socket); give the interface as many as are used: ethtool -L {} combined {used}",
                self.interface
            );
        }
        Ok(used)
    }
}

/// The busy polling that is asked for.
pub fn busy_poll(rings: &Rings) -> Option<BusyPoll> {
    rings.busy_poll.map(|polling| BusyPoll {
        microseconds: polling.microseconds,
        budget: polling.budget,
        prefer: polling.prefer,
    })
}

/// Whether the driver's zero-copy is one that may send nothing at all, as virtio_net's does from some boots on
/// (Linux 7.3; docs/hardware.md). `zero_copy = "on"` takes it all the same.
fn has_bad_zero_copy(interface: &str) -> bool {
    let survey = ethtool::survey(interface);
    survey.is_ok_and(|survey| survey.driver.as_deref() == Some(BAD_ZERO_COPY))
}

/// Opens AF_XDP rings on these queues of an interface.
///
/// # Errors
/// What the kernel answered.
pub fn open(
    interface: &str,
    rings: &Rings,
    queues: Range<u32>,
    patience: Duration,
) -> Result<XskPort, xsk::OpenError> {
    XskPort::open(&XskConfig {
        ring_size: rings.size,
        patience,
        mode: match rings.zero_copy {
            ZeroCopy::Auto if has_bad_zero_copy(interface) => Mode::Copy,
            ZeroCopy::Auto => Mode::Auto,
            ZeroCopy::On => Mode::ZeroCopy,
            ZeroCopy::Off => Mode::Copy,
        },
        huge_pages: rings.huge_pages,
        tx_budget: rings.tx_budget,
        busy_poll: busy_poll(rings),
        queues: Some(queues),
        ..XskConfig::new(interface)
    })
}

/// The MAC address of an interface for this boot: locally administered, and as random as the kernel's
/// `boot_id`, of which whoever sees the address learns nothing. It needs no file to stay the same until
/// the next boot.
pub fn mac_of_boot(boot_id: &str, interface: &str) -> [u8; 6] {
    let material = [boot_id.trim().as_bytes(), &[0], interface.as_bytes()].concat();
    let [first, b, c, d, e, f, ..] = blake3::derive_key("portcullis 1 port mac", &material);
    // Locally administered (IEEE 802, section 8.2.2), and no group's.
    [first & !1 | 2, b, c, d, e, f]
}

/// A refusal whose text says its own remedy.
fn refused(tried: String, error: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::Failed, tried, error, "mend that, then start again")
}

/// Takes the wall on an interface down. The interface is set down first, so that nothing passes, but where it is
/// `shared` with the kernel.
///
/// # Errors
/// What the kernel answered.
pub fn lower(interface: &str, pin_directory: &Path, shared: bool) -> Result<(), Problem> {
    let tried = format!("setting {interface} down");
    let links = Links::open().map_err(|error| monitor::problem(&tried, error))?;
    if let Ok(link) = links.find(interface)
        && !shared
    {
        links
            .set_down(link.index)
            .map_err(|error| monitor::problem(&tried, error))?;
    }
    wall::lower(interface, pin_directory)
        .map_err(|error: WallError| refused(format!("taking the wall on {interface} down"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_boots_mac_address_is_a_local_hosts_the_same_all_boot_and_another_at_the_next(
            boots in prop::array::uniform2("[0-9a-f]{8}-[0-9a-f]{4}"), names in prop::array::uniform2("[a-z]{1,9}"),
        ) {
            let mac = mac_of_boot(&boots[0], &names[0]);
            prop_assert_eq!(mac[0] & 3, 2);
            prop_assert_eq!(mac, mac_of_boot(&format!("{}\n", boots[0]), &names[0]));
            prop_assert_eq!(boots[0] == boots[1], mac == mac_of_boot(&boots[1], &names[0]));
            prop_assert_eq!(names[0] == names[1], mac == mac_of_boot(&boots[0], &names[1]));
        }
    }
}
