//! The wall on a port of Workstations without keys: `pinned`, where their MAC and IP addresses are
//! enforced, or `open`, where nothing is.
//!
//! It has the links and pins of [`super::Wall`], so a port goes from one kind of wall to another, and
//! from one set of pins to the next, between two frames. It stands when its process has ended, and
//! enforces the same pins.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use wire::PinnedVerdict;
use wire::limits::SECOND;
use wire::pinned::{MAX_PINS, PinKey, PinLimits};

use super::attach::{self, Direction, Interface};
use super::{
    AttachMode, GuardHook, OBJECT, Samples, TestRun, WallError, XdpRequest, ensure_bpffs, kernel,
    map_fd, program,
};

/// A Workstation without keys: its MAC address, and the IP addresses that may be used with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The MAC address.
    pub mac: [u8; 6],
    /// The IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Frames a second that it may send to the kernel.
    pub rate: u32,
}

/// What is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyless {
    /// What comes from a pin to one of the port's own addresses.
    Pinned {
        /// The port's own addresses.
        own: Vec<IpAddr>,
        /// The pins.
        pins: Vec<Pin>,
    },
    /// Everything.
    Open,
}

/// What such a wall is raised with.
#[derive(Debug, Clone)]
pub struct KeylessConfig {
    /// The interface's name; its pins are in a directory of this name.
    pub interface: String,
    /// Its index, in the network namespace of the calling thread.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Where the links are pinned: [`super::PIN_DIRECTORY`] or another directory on a BPF file system.
    pub pin_directory: PathBuf,
    /// How the XDP program is attached.
    pub mode: XdpRequest,
    /// Which hook the guards stand on.
    pub guard: GuardHook,
    /// What is let in.
    pub keyless: Keyless,
}

/// Frames by verdict, in the order of [`PinnedVerdict::ALL`].
pub type Counts = [u64; PinnedVerdict::COUNT];

/// A wall that stands. Dropping it closes descriptors and nothing else.
#[derive(Debug)]
pub struct KeylessWall {
    interface: String,
    ifindex: u32,
    program: OwnedFd,
    /// At ingress, and at egress.
    guards: [OwnedFd; 2],
    counters: KeylessCounters,
}

/// What such a wall has counted, and samples of what it drops. Its descriptors can be handed to another
/// process, and are good for nothing else.
#[derive(Debug)]
pub struct KeylessCounters {
    verdicts: OwnedFd,
    pin_verdicts: OwnedFd,
    guard_drops: OwnedFd,
    samples: Arc<Samples>,
    cpus: usize,
}

impl KeylessWall {
    /// Loads the programs, fills their tables, and puts them on the interface, in the place of those
    /// that stand there or afresh, as [`super::Wall::raise`] does.
    ///
    /// # Errors
    /// [`WallError`]: sizes, or the kernel's refusal. A wall that stood before still does.
    pub fn raise(config: &KeylessConfig) -> Result<Self, WallError> {
        config.check()?;
        let directory = config.pin_directory.join(&config.interface);
        ensure_bpffs(&directory)?;
        let mut ebpf = config.load()?;
        let wall = Self::of(config, &mut ebpf)?;
        let interface = Interface {
            name: &config.interface,
            ifindex: config.ifindex,
        };
        attach::admission(
            interface,
            &directory.join("admission"),
            wall.program.as_fd(),
            config.mode,
        )?;
        let [_, ingress, egress] = config.programs();
        for (name, direction) in [(ingress, Direction::Ingress), (egress, Direction::Egress)] {
            let program = program(&mut ebpf, &config.interface, name)?;
            attach::guard(interface, &directory, program, config.guard, direction)?;
        }
        Ok(wall)
    }

    fn of(config: &KeylessConfig, ebpf: &mut Ebpf) -> Result<Self, WallError> {
        let name = &config.interface;
        let failed = |error: io::Error| WallError::load(name, error);
        let [xdp, ingress, egress] = config.programs();
        let xdp: &mut Xdp = program(ebpf, name, xdp)?;
        xdp.load().map_err(|error| WallError::load(name, error))?;
        let xdp = xdp.fd().map_err(|error| WallError::load(name, error))?;
        let xdp = xdp.as_fd().try_clone_to_owned().map_err(failed)?;
        let mut guard = |guard: &str| {
            let guard: &mut SchedClassifier = program(ebpf, name, guard)?;
            guard.load().map_err(|error| WallError::load(name, error))?;
            let guard = guard.fd().map_err(|error| WallError::load(name, error))?;
            guard.as_fd().try_clone_to_owned().map_err(failed)
        };
        let guards = [guard(ingress)?, guard(egress)?];
        let mut map = |map: &str| {
            ebpf.take_map(map)
                .and_then(|map| map_fd(&map))
                .ok_or_else(|| failed(io::Error::other(format!("the object has no map {map}"))))
        };
        let (pins, limits) = (map("PINS")?, map("PIN_LIMITS")?);
        // Before either program is attached: no frame ever meets half a table.
        config.fill(pins.as_fd(), limits.as_fd()).map_err(failed)?;
        Ok(Self {
            interface: name.clone(),
            ifindex: config.ifindex,
            program: xdp,
            guards,
            counters: KeylessCounters {
                verdicts: map("PINNED_VERDICTS")?,
                pin_verdicts: map("PIN_VERDICTS")?,
                guard_drops: map("GUARD_DROPS")?,
                samples: Arc::new(
                    Samples::of_maps(map("WATCH")?, map("SAMPLES")?).map_err(failed)?,
                ),
                cpus: cpus().map_err(failed)?,
            },
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
            attempt: "find the XDP program",
            interface: self.interface.clone(),
            source: io::Error::from_raw_os_error(libc::ENOLINK),
        })
    }

    /// What it has counted.
    pub fn counters(&self) -> &KeylessCounters {
        &self.counters
    }

    /// As [`KeylessWall::counters`]; the rest is closed, and stands as before.
    pub fn into_counters(self) -> KeylessCounters {
        self.counters
    }

    /// Runs the XDP program on a frame, `repeat` times: for tests and measurements.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_admission(&self, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
        kernel::test_run(self.program.as_fd(), frame, repeat)
    }

    /// Runs the ingress guard on a frame, `repeat` times, and gives the frame as it left it.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_ingress_guard(&self, frame: &[u8], repeat: u32) -> io::Result<(TestRun, Vec<u8>)> {
        let mut left = vec![0; frame.len()];
        let run = kernel::test_run_into(self.guards[0].as_fd(), frame, repeat, &mut left)?;
        Ok((run, left))
    }

    /// Runs the egress guard on a packet of this machine's own.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_guard(&self, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
        kernel::test_run(self.guards[1].as_fd(), frame, repeat)
    }

    /// The numbers of the XDP program and of the egress guard.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn programs(&self) -> io::Result<[u32; 2]> {
        let admission = kernel::program_id(self.program.as_fd())?;
        Ok([admission, kernel::program_id(self.guards[1].as_fd())?])
    }
}

impl KeylessCounters {
    /// Frames by verdict, over all CPUs.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn verdicts(&self) -> io::Result<Counts> {
        self.row(self.verdicts.as_fd(), 0)
    }

    /// A pin's frames by verdict; pins are numbered in the order in which they were given.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn pin_verdicts(&self, pin: u32) -> io::Result<Counts> {
        self.row(self.pin_verdicts.as_fd(), pin)
    }

    /// Frames that got past the driver's XDP hook, and that the ingress guard has dropped.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn ingress_guard_drops(&self) -> io::Result<u64> {
        self.count(self.guard_drops.as_fd(), 1)
    }

    /// Packets of the kernel's that the egress guard has dropped.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn guard_drops(&self) -> io::Result<u64> {
        self.count(self.guard_drops.as_fd(), 0)
    }

    /// Samples of what is dropped.
    pub fn samples(&self) -> Arc<Samples> {
        Arc::clone(&self.samples)
    }

    /// To be handed to another process.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 5] {
        let [watch, samples] = self.samples.descriptors();
        let own = [&self.verdicts, &self.pin_verdicts, &self.guard_drops];
        [own[0], own[1], own[2], watch, samples].map(AsFd::as_fd)
    }

    fn row(&self, map: BorrowedFd<'_>, row: u32) -> io::Result<Counts> {
        let mut counts = [0; PinnedVerdict::COUNT];
        for (at, count) in counts.iter_mut().enumerate() {
            *count = self.count(map, row * PinnedVerdict::COUNT as u32 + at as u32)?;
        }
        Ok(counts)
    }

    fn count(&self, map: BorrowedFd<'_>, at: u32) -> io::Result<u64> {
        let mut values = vec![0; self.cpus];
        kernel::map_read_cpus(map, at, &mut values)?;
        Ok(values.iter().sum())
    }
}

impl TryFrom<Vec<OwnedFd>> for KeylessCounters {
    type Error = io::Error;

    /// Of [`KeylessCounters::descriptors`].
    fn try_from(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let [verdicts, pin_verdicts, guard_drops, watch, samples]: [OwnedFd; 5] = descriptors
            .try_into()
            .map_err(|_| io::Error::other("these are not a wall's counters"))?;
        Ok(Self {
            verdicts,
            pin_verdicts,
            guard_drops,
            samples: Arc::new(Samples::of_maps(watch, samples)?),
            cpus: cpus()?,
        })
    }
}

fn cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

impl KeylessConfig {
    /// The XDP program, and the guards at ingress and egress.
    fn programs(&self) -> [&'static str; 3] {
        match self.keyless {
            Keyless::Pinned { .. } => ["pinned", "ingress_pinned", "guard_pinned"],
            Keyless::Open => ["open", "ingress_open", "guard_open"],
        }
    }

    /// Own addresses, and pins.
    fn lists(&self) -> (&[IpAddr], &[Pin]) {
        match &self.keyless {
            Keyless::Pinned { own, pins } => (own, pins),
            Keyless::Open => (&[], &[]),
        }
    }

    fn check(&self) -> Result<(), WallError> {
        let (_, pins) = self.lists();
        if pins.len() > MAX_PINS as usize {
            return Err(WallError::Size {
                interface: self.interface.clone(),
                what: "the number of pins",
                most: MAX_PINS,
                found: u32::try_from(pins.len()).unwrap_or(u32::MAX),
            });
        }
        Ok(())
    }

    fn load(&self) -> Result<Ebpf, WallError> {
        let [a, b, c, d, e, f] = self.mac;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let (own, pins) = self.lists();
        let addresses: usize = pins.iter().map(|pin| 1 + pin.addresses.len()).sum();
        let count = (pins.len() as u32).max(1);
        EbpfLoader::new()
            .override_global("MAC", &mac, true)
            .map_max_entries("PINS", ((own.len() + addresses) as u32).max(1))
            .map_max_entries("PIN_LIMITS", count)
            .map_max_entries("PIN_VERDICTS", count * PinnedVerdict::COUNT as u32)
            // What belongs to the other programs, and is not small as it is.
            .map_max_entries("SOURCES", 1)
            .map_max_entries("SOCKETS", 1)
            .map_max_entries("QUEUES_V4", 1)
            .map_max_entries("QUEUES_V6", 1)
            .load(OBJECT)
            .map_err(|error| WallError::load(&self.interface, error))
    }

    fn fill(&self, keys: BorrowedFd<'_>, limits: BorrowedFd<'_>) -> io::Result<()> {
        let (own, pins) = self.lists();
        for (number, pin) in pins.iter().enumerate() {
            kernel::map_write(limits, &(number as u32), &pin.limits())?;
        }
        table(own, pins)
            .iter()
            .try_for_each(|(key, number)| kernel::map_write(keys, key, number))
    }
}

/// What is looked up in the table of pins, and the number of the pin that it leads to.
pub fn table(own: &[IpAddr], pins: &[Pin]) -> HashMap<PinKey, u32> {
    let mut table: HashMap<_, _> = own.iter().map(|at| (PinKey::own(*at), 0)).collect();
    for (number, pin) in (0u32..).zip(pins) {
        table.insert(PinKey::mac(pin.mac), number);
        for address in &pin.addresses {
            table.insert(PinKey::pinned(pin.mac, *address), number);
        }
    }
    table
}

impl Pin {
    /// Its limits, with full buckets: a twentieth of a second's frames, and 64 at least, may come at
    /// once.
    pub fn limits(&self) -> PinLimits {
        PinLimits {
            interval: SECOND / u64::from(self.rate.max(1)),
            burst: (u64::from(self.rate) / 20).max(64),
            ..PinLimits::default()
        }
    }
}
