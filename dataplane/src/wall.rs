//! The wall: the XDP admission program and the guards behind it on an interface.
//!
//! It stands before everything else in a frame's way, and after everything else on the way out: a
//! frame that is not admitted never reaches the kernel's stack, and nothing of the kernel's stack
//! leaves. It is raised while the link is down, and stands from then on: both programs are held by
//! links pinned in the BPF file system, so the end of this process, however it comes, changes
//! nothing but that there are no sockets to admit frames to. The next process takes the links over
//! with programs of its own, between two frames.
//!
//! Every process starts with empty tables.

mod attach;
mod bpffs;
mod fast_path;
mod inspect;
mod kernel;
mod keyless;
mod netlink;
mod steering;
mod tables;
mod verify;
mod watch;

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::Map;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use thiserror::Error;
use wire::{Admission, Encapsulation, Role, Verdict};

use attach::{Direction, Interface};
pub use bpffs::ensure_bpffs;
pub use fast_path::{FastPath, FastPathSockets};
pub use inspect::{Inspection, Link, Standing, inspect};
pub use kernel::{LinkInfo, TestRun, test_run};
pub use keyless::{
    Counts, Keyless, KeylessConfig, KeylessCounters, KeylessWall, Pin, table as pin_table,
};
pub use steering::Steering;
pub use tables::{Moment, PortTables};
pub use verify::{Refused, Verified, verify};
pub use watch::{Dropped, Samples, Wanted, burst};

/// The object that the build script made of `ebpf/`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis.bpf.o"));

/// Where pins are unless the configuration says otherwise.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/portcullis";

/// Receive queues that a port can have sockets on.
pub const MAX_QUEUES: u32 = 256;
/// Session slots that a port can have: a session index has 16 bits for its slot.
pub const MAX_SESSION_SLOTS: u32 = 1 << 16;
/// Workstation slots that a port can have.
pub const MAX_WORKSTATION_SLOTS: u32 = 1 << 16;

/// How the admission program is to be attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum XdpRequest {
    /// In the driver where it can, else in the kernel's stack, with a warning.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack: slower, on any interface.
    Generic,
}

/// How the admission program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a packet of a frame.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// Which egress hook the guard is to stand on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GuardHook {
    /// tcx where the kernel has it (6.6 and later), else clsact.
    #[default]
    Auto,
    /// clsact, also where there is tcx.
    Clsact,
}

/// What a wall is raised with.
#[derive(Debug, Clone)]
pub struct WallConfig {
    /// The interface's name; its pins are in a directory of this name.
    pub interface: String,
    /// Its index, in the network namespace of the calling thread.
    pub ifindex: u32,
    /// What admission must know of the port.
    pub admission: Admission,
    /// Where the pins are: [`PIN_DIRECTORY`] or another directory on a BPF file system.
    pub pin_directory: PathBuf,
    /// How the admission program is attached.
    pub mode: XdpRequest,
    /// Which hook the guard stands on.
    pub guard: GuardHook,
    /// Sessions that there is room for; each takes 32 KiB of kernel memory.
    pub session_slots: u32,
    /// Workstations that there is room for.
    pub workstation_slots: u32,
}

/// Why a wall could not be raised or taken down. Where it stood before, it still stands.
#[derive(Debug, Error)]
pub enum WallError {
    /// A size is out of its range.
    #[error("{what} of port {interface} must be 1 to {most}, not {found}")]
    Size {
        /// The interface.
        interface: String,
        /// Which size.
        what: &'static str,
        /// The largest allowed.
        most: u32,
        /// The one given.
        found: u32,
    },
    /// The kernel did not take the programs.
    #[error(
        "cannot load the eBPF programs for {interface}: {source} (needed: a kernel of 6.1 or later, \
         and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
    )]
    Load {
        /// The interface.
        interface: String,
        /// What aya or the kernel said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another program is attached.
    #[error(
        "{interface} already has an XDP program (id {program}) that is not Portcullis's: see what it \
         is with `bpftool prog show id {program}`, and take it off with `ip link set dev {interface} \
         xdp off` or stop the service that attached it"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The program's number; 0 when there are several.
        program: u32,
    },
    /// The driver does not take the program, and the MTU may be why.
    #[error(
        "cannot attach the admission program in native mode on {interface}: {source}; its MTU is {mtu}, \
         and a driver without multi-buffer XDP takes no program where frames are larger than a page: \
         set the MTU lower (ip link set dev {interface} mtu 1500), or allow generic mode"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A wall stands in another mode than the one asked for, and changing it would open it.
    #[error(
        "the wall on {interface} stands in another XDP mode than the one asked for, and cannot change \
         it without opening: set the link down and take the wall down first"
    )]
    OtherMode {
        /// The interface.
        interface: String,
    },
    /// The BPF file system.
    #[error(
        "cannot {attempt} {path}, where the wall's pins belong: {source} (the BPF file system is \
         mounted with `mount -t bpf bpf /sys/fs/bpf`)"
    )]
    Bpffs {
        /// What was tried.
        attempt: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A call to the kernel.
    #[error("cannot {attempt} on {interface}: {source}")]
    Kernel {
        /// What was tried.
        attempt: &'static str,
        /// On which interface.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl WallError {
    fn load(interface: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Load {
            interface: interface.to_owned(),
            source: error.into(),
        }
    }
}

/// A wall that stands, and the maps of its programs. Dropping it closes descriptors and nothing
/// else: the wall goes on standing until [`lower`].
#[derive(Debug)]
pub struct Wall {
    interface: String,
    ifindex: u32,
    workstation_slots: u32,
    program: OwnedFd,
    guard_program: OwnedFd,
    verdicts: OwnedFd,
    workstation_verdicts: OwnedFd,
    guard_drops: OwnedFd,
    sockets: OwnedFd,
    tables: Arc<PortTables>,
    samples: Arc<Samples>,
    cpus: usize,
}

impl Wall {
    /// Loads the programs with empty tables and puts them on the interface, in the place of those
    /// that stand there from a former process, or afresh. Both are pinned below
    /// `<pin_directory>/<interface>`.
    ///
    /// # Errors
    /// [`WallError`]: sizes, the kernel's refusal, or a program of somebody else's. A wall that
    /// stood before still does; whatever part of a new one is up already stays up.
    pub fn raise(config: &WallConfig) -> Result<Self, WallError> {
        Self::of_parts(config, WallParts::raise(config)?)
    }

    /// The wall that [`WallParts::raise`] has raised with this configuration, perhaps in another
    /// process. It takes no privilege.
    ///
    /// # Errors
    /// [`WallError::Load`] when there are too few parts, or the tables cannot be mapped.
    pub fn of_parts(config: &WallConfig, parts: WallParts) -> Result<Self, WallError> {
        let failed = |error: io::Error| WallError::load(&config.interface, error);
        let parts: [OwnedFd; PARTS] = parts
            .0
            .try_into()
            .map_err(|_| failed(io::Error::other("these are not the parts of a wall")))?;
        let [
            program,
            guard_program,
            sessions,
            floors,
            seen,
            credits,
            expected,
            knocks,
            verdicts,
            workstation_verdicts,
            guard_drops,
            sockets,
            sources,
            watch,
            samples,
        ] = parts;
        let maps = tables::Maps {
            sessions,
            floors,
            seen,
            credits,
            expected,
            knocks,
            sources,
        };
        let tables = PortTables::of_maps(maps, config.session_slots, config.workstation_slots);
        Ok(Self {
            interface: config.interface.clone(),
            ifindex: config.ifindex,
            workstation_slots: config.workstation_slots,
            program,
            guard_program,
            verdicts,
            workstation_verdicts,
            guard_drops,
            sockets,
            tables: Arc::new(tables.map_err(failed)?),
            samples: Arc::new(Samples::of_maps(watch, samples).map_err(failed)?),
            cpus: aya::util::nr_cpus().map_err(|(_, error)| failed(error))?,
        })
    }

    /// The mode in which the interface runs its XDP program, as the kernel reports it.
    ///
    /// # Errors
    /// [`WallError::Kernel`], also when the program is not there: the interface was removed.
    pub fn mode(&self) -> Result<AttachMode, WallError> {
        let interface = Interface {
            name: &self.interface,
            ifindex: self.ifindex,
        };
        attach::mode(interface)?.ok_or_else(|| WallError::Kernel {
            attempt: "find the admission program",
            interface: self.interface.clone(),
            source: io::Error::from_raw_os_error(libc::ENOLINK),
        })
    }

    /// Admits frames of a receive queue to an AF_XDP socket, which must be bound to that queue.
    ///
    /// # Errors
    /// What the kernel answered; E2BIG from [`MAX_QUEUES`] on.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        kernel::map_write(self.sockets.as_fd(), &queue, &socket.as_raw_fd())
    }

    /// Admits frames of a receive queue no more.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn clear_socket(&self, queue: u32) -> io::Result<()> {
        kernel::map_remove(self.sockets.as_fd(), &queue).map(drop)
    }

    /// Frames by verdict, over all CPUs, in the order of [`Verdict::ALL`].
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn verdicts(&self) -> io::Result<[u64; Verdict::COUNT]> {
        self.row(self.verdicts.as_fd(), 0)
    }

    /// Frames with one verdict, over all CPUs.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn verdict(&self, verdict: Verdict) -> io::Result<u64> {
        self.count(self.verdicts.as_fd(), verdict as u32)
    }

    /// Frames of a Workstation by verdict. Zero for a slot that there is not.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn workstation_verdicts(&self, workstation: u32) -> io::Result<[u64; Verdict::COUNT]> {
        if workstation >= self.workstation_slots {
            return Ok([0; Verdict::COUNT]);
        }
        self.row(self.workstation_verdicts.as_fd(), workstation)
    }

    /// Sets a Workstation's counters to zero, for a slot's new owner.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn clear_workstation_verdicts(&self, workstation: u32) -> io::Result<()> {
        if workstation >= self.workstation_slots {
            return Ok(());
        }
        let zeros = vec![0; self.cpus];
        let first = workstation * Verdict::COUNT as u32;
        (first..first + Verdict::COUNT as u32).try_for_each(|at| {
            kernel::map_write_cpus(self.workstation_verdicts.as_fd(), at, &zeros)
        })
    }

    /// Packets of the kernel's stack that the egress guard has dropped.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn guard_drops(&self) -> io::Result<u64> {
        self.count(self.guard_drops.as_fd(), 0)
    }

    /// Frames that got past the driver's XDP hook, and that the ingress guard has dropped.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ingress_guard_drops(&self) -> io::Result<u64> {
        self.count(self.guard_drops.as_fd(), 1)
    }

    /// The tables of the port.
    pub fn tables(&self) -> Arc<PortTables> {
        Arc::clone(&self.tables)
    }

    /// Samples of what it drops.
    pub fn samples(&self) -> Arc<Samples> {
        Arc::clone(&self.samples)
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Runs the admission program on a frame, `repeat` times, as if it had come on queue 0 of the
    /// loopback interface: for tests and measurements. It counts, and charges credit, like any run.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_admission(&self, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
        kernel::test_run(self.program.as_fd(), frame, repeat)
    }

    /// The numbers of the admission program and of the guard.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn programs(&self) -> io::Result<[u32; 2]> {
        let admission = kernel::program_id(self.program.as_fd())?;
        Ok([admission, kernel::program_id(self.guard_program.as_fd())?])
    }

    fn row(&self, map: BorrowedFd<'_>, row: u32) -> io::Result<[u64; Verdict::COUNT]> {
        let mut counts = [0; Verdict::COUNT];
        for (at, count) in counts.iter_mut().enumerate() {
            *count = self.count(map, row * Verdict::COUNT as u32 + at as u32)?;
        }
        Ok(counts)
    }

    fn count(&self, map: BorrowedFd<'_>, at: u32) -> io::Result<u64> {
        let mut values = vec![0; self.cpus];
        kernel::map_read_cpus(map, at, &mut values)?;
        Ok(values.iter().sum())
    }
}

/// The descriptors of a wall that stands: its programs and maps. Who has them can use the wall, and
/// neither move it nor take it down.
#[derive(Debug)]
pub struct WallParts(Vec<OwnedFd>);

/// How many they are.
const PARTS: usize = 15;

impl WallParts {
    /// Loads and attaches, as [`Wall::raise`] does; this is all of it that takes privileges.
    ///
    /// # Errors
    /// As [`Wall::raise`].
    pub fn raise(config: &WallConfig) -> Result<Self, WallError> {
        config.check()?;
        let directory = config.pin_directory.join(&config.interface);
        ensure_bpffs(&directory)?;
        let mut ebpf = config.load()?;
        let parts = Self::of(config, &mut ebpf)?;
        let interface = Interface {
            name: &config.interface,
            ifindex: config.ifindex,
        };
        // Whatever refuses the interface does so in this step, before anything stands on it.
        attach::admission(
            interface,
            &directory.join("admission"),
            parts.0[0].as_fd(),
            config.mode,
        )?;
        let (ingress, egress) = config.guards();
        let guards = [
            (Some(ingress), Direction::Ingress),
            (egress, Direction::Egress),
        ];
        for (program, direction) in guards {
            if let Some(program) = program {
                let program = config.program(&mut ebpf, program)?;
                attach::guard(interface, &directory, program, config.guard, direction)?;
            }
        }
        Ok(parts)
    }

    fn of(config: &WallConfig, ebpf: &mut Ebpf) -> Result<Self, WallError> {
        let failed = |error: io::Error| WallError::load(&config.interface, error);
        let program: &mut Xdp = config.program(ebpf, "admission")?;
        program
            .load()
            .map_err(|error| WallError::load(&config.interface, error))?;
        let program = program
            .fd()
            .map_err(|error| WallError::load(&config.interface, error))?;
        let program = program.as_fd().try_clone_to_owned().map_err(failed)?;
        let (ingress, egress) = config.guards();
        let ingress: &mut SchedClassifier = config.program(ebpf, ingress)?;
        ingress
            .load()
            .map_err(|error| WallError::load(&config.interface, error))?;
        let guard: &mut SchedClassifier = config.program(ebpf, egress.unwrap_or("guard"))?;
        guard
            .load()
            .map_err(|error| WallError::load(&config.interface, error))?;
        let guard = guard
            .fd()
            .map_err(|error| WallError::load(&config.interface, error))?;
        let guard = guard.as_fd().try_clone_to_owned().map_err(failed)?;
        let mut parts = vec![program, guard];
        for name in [
            "SESSIONS",
            "FLOORS",
            "SEEN",
            "CREDITS",
            "EXPECTED",
            "KNOCKS",
            "VERDICTS",
            "WORKSTATION_VERDICTS",
            "GUARD_DROPS",
            "SOCKETS",
            "SOURCES",
            "WATCH",
            "SAMPLES",
        ] {
            let map = ebpf.take_map(name).and_then(|map| map_fd(&map));
            let missing = || failed(io::Error::other(format!("the object has no map {name}")));
            parts.push(map.ok_or_else(missing)?);
        }
        Ok(Self(parts))
    }

    /// To be handed to another process.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }
}

impl From<Vec<OwnedFd>> for WallParts {
    fn from(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors)
    }
}

impl WallConfig {
    fn check(&self) -> Result<(), WallError> {
        let sizes = [
            ("session slots", MAX_SESSION_SLOTS, self.session_slots),
            (
                "Workstation slots",
                MAX_WORKSTATION_SLOTS,
                self.workstation_slots,
            ),
        ];
        for (what, most, found) in sizes {
            if found == 0 || found > most {
                return Err(WallError::Size {
                    interface: self.interface.clone(),
                    what,
                    most,
                    found,
                });
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Ebpf, WallError> {
        let [a, b, c, d, e, f] = self.admission.mac;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let role = match self.admission.role {
            Role::Gateway => 0u32,
            Role::Workstation => 1,
        };
        let workstations = self.workstation_slots;
        let mut loader = EbpfLoader::new();
        tell_encapsulation(&mut loader, &self.admission.encapsulation);
        loader
            .override_global("ROLE", &role, true)
            .override_global("MAC", &mac, true)
            .map_max_entries("SESSIONS", self.session_slots)
            .map_max_entries("FLOORS", self.session_slots)
            .map_max_entries("SEEN", self.session_slots)
            .map_max_entries("CREDITS", workstations)
            // A key id each, and room for a replacement of each.
            .map_max_entries("KNOCKS", workstations * 2)
            .map_max_entries("WORKSTATION_VERDICTS", workstations * Verdict::COUNT as u32)
            .map_max_entries("QUEUES_V4", 1)
            .map_max_entries("QUEUES_V6", 1)
            .load(OBJECT)
            .map_err(|error| WallError::load(&self.interface, error))
    }

    /// The programs that stand behind admission, on the way in and on the way out. On a shared port the kernel
    /// sends what it likes.
    fn guards(&self) -> (&'static str, Option<&'static str>) {
        match self.admission.encapsulation {
            Encapsulation::Ether(_) => ("ingress_guard", Some("guard")),
            Encapsulation::Udp(udp) if udp.shared => ("ingress_shared", None),
            Encapsulation::Udp(_) => ("ingress_udp", Some("guard_udp")),
        }
    }

    fn program<'a, P>(&self, ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, WallError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        program(ebpf, &self.interface, name)
    }
}

/// A program of the object, of the type it should have.
fn program<'a, P>(ebpf: &'a mut Ebpf, interface: &str, name: &str) -> Result<&'a mut P, WallError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let missing = || format!("the object has no program {name}");
    ebpf.program_mut(name)
        .ok_or_else(|| WallError::load(interface, missing()))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| WallError::load(interface, error))
}

/// A descriptor of our own of a map.
fn map_fd(map: &Map) -> Option<OwnedFd> {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::RingBuf(data)
    | Map::XskMap(data)) = map
    else {
        return None;
    };
    data.fd().as_fd().try_clone_to_owned().ok()
}

/// Takes the wall on an interface down: both programs off, and the pins away. The interface is open
/// from then on. Nothing happens where no wall stands.
///
/// # Errors
/// [`WallError::Kernel`] with the step that failed.
pub fn lower(interface: &str, pin_directory: &Path) -> Result<(), WallError> {
    attach::lower(interface, &pin_directory.join(interface))
}

/// The pinned links of the wall on an interface, admission first; `None` for one that is not
/// pinned.
///
/// # Errors
/// What the kernel answered.
pub fn links(interface: &str, pin_directory: &Path) -> io::Result<[Option<LinkInfo>; 2]> {
    let info = |file: &str| {
        let pinned = kernel::pinned(&pin_directory.join(interface).join(file))?;
        pinned
            .map(|link| kernel::link_info(link.as_fd()))
            .transpose()
    };
    Ok([info("admission")?, info("guard")?])
}

/// Whether an admission program of ours stands on the interface with this index. Then the interface
/// need not be set down before [`Wall::raise`].
pub fn stands(interface: &str, ifindex: u32, pin_directory: &Path) -> bool {
    matches!(links(interface, pin_directory), Ok([Some(link), _]) if link.ifindex == ifindex)
}

/// Whether [`Wall::raise`] would find the interface's XDP hook free, or held by our own program.
/// Nothing is touched.
///
/// # Errors
/// [`WallError::Occupied`] by somebody else's program, or what the kernel answered.
pub fn vacant(interface: &str, ifindex: u32, pin_directory: &Path) -> Result<(), WallError> {
    let attached = netlink::xdp(ifindex).map_err(|source| WallError::Kernel {
        attempt: "ask for the XDP program",
        interface: interface.to_owned(),
        source,
    })?;
    let Some(attached) = attached else {
        return Ok(());
    };
    match links(interface, pin_directory) {
        Ok([Some(link), _]) if link.program == attached.program => Ok(()),
        _ => Err(WallError::Occupied {
            interface: interface.to_owned(),
            program: attached.program,
        }),
    }
}

/// Tells an object how the tunnel's frames travel.
fn tell_encapsulation<'a>(loader: &mut EbpfLoader<'a>, encapsulation: &'a Encapsulation) {
    match encapsulation {
        Encapsulation::Ether(ethertype) => {
            loader.override_global("ETHERTYPE", ethertype, true);
        }
        Encapsulation::Udp(udp) => {
            let flag = |on| -> &u32 { if on { &1 } else { &0 } };
            loader
                .override_global("UDP_PORT", &udp.port, true)
                .override_global("UDP_V4", &udp.v4, true)
                .override_global("UDP_V6", &udp.v6, true)
                .override_global("UDP_SHARED", flag(udp.shared), true)
                .override_global("UDP_STEALTH", flag(udp.stealth), true);
        }
    }
}
