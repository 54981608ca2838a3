//! How the agent comes to be: everything is opened, privileges are given up, and threads begin.

use super::fast_path::FastPath;
use super::network::{self, Network};
use super::{Agent, GATEWAY, PORT, Reach, SESSION_SLOTS, interface, now};
use crate::choices::{MacAddress, Virtualised};
use crate::config::{self, Cores};
use crate::confine::{self, Account, Paths};
use crate::enrolment::{Encapsulation, Enrolment};
use crate::handshake::workstation::{Workstation as Machine, WorkstationConfig};
use crate::handshake::{Path as Way, inner_mtu};
use crate::helper::{KeylessScope, NetworkScope, PortHelp, Scope, Unscoped};
use crate::pool::{Pool, Settings};
use crate::port::Port;
use crate::problem::{Kind, Problem};
use crate::process;
use crate::raise::{self, Plan};
use crate::rollback::{Clocks, Generation};
use crate::systemd::Systemd;
use crate::watch::Hub;
use crate::{encapsulation, entropy, files, hostif, layout, monitor, resolve};
use dataplane::counters::PeerCounters;
use dataplane::keys::{Cipher, Protection};
use dataplane::link::Links;
use dataplane::own::Own;
use dataplane::tap::Tap;
use dataplane::worker::crew::Sizes;
use dataplane::worker::{Command, PeerSetup};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wire::Role;
use wire::limits::BROADCAST;
use zeroize::Zeroizing;

/// The MTU of an interface that is not known yet.
const ETHERNET_MTU: u32 = 1500;

/// How the Gateway is to be reached.
enum Wanted {
    Cable(Plan),
    Network(Vec<encapsulation::Endpoint>, Option<FastPath>),
}

/// The fast path by the interface that the tunnel leaves by.
///
/// # Errors
/// It is asked for, and no interface is named.
fn fast_path(config: &config::Agent, identity: &Enrolment) -> Result<Option<FastPath>, Problem> {
    if !config.fast_path {
        return Ok(None);
    }
    match config.interface.as_ref().or(identity.interface.as_ref()) {
        Some(interface) => Ok(Some(FastPath::new(interface.clone(), config.rings))),
        None => Err(Problem::new(
            Kind::Invalid,
            "opening the fast path",
            "fast_path is set, and the configuration names no interface that is the tunnel's own",
            "name it: interface = \"eth0\"; or leave fast_path out",
        )),
    }
}

fn plan(config: &config::Agent, interface: String, ethertype: u16) -> Result<Plan, Problem> {
    Ok(Plan {
        mac: match config.mac_address {
            MacAddress::Keep => None,
            MacAddress::Random => Some(random_mac(&interface)?),
        },
        interface,
        role: Role::Workstation,
        encapsulation: encapsulation::Encapsulation::Ether(ethertype),
        pin_directory: config.pin_directory.clone(),
        rings: config.rings,
        session_slots: SESSION_SLOTS,
        workstation_slots: 1,
    })
}

/// What the helper may touch.
fn scope(config: &config::Agent, identity: &Enrolment, wanted: &Wanted) -> Scope {
    let (ports, network) = match wanted {
        Wanted::Cable(plan) => (vec![plan.clone()], None),
        Wanted::Network(endpoints, fast_path) => {
            let interface = config.interface.clone().or(identity.interface.clone());
            let network = NetworkScope {
                ports: endpoints.iter().map(|endpoint| endpoint.port).collect(),
                interface,
                fast_path: fast_path.as_ref().map(|_| config.rings),
                routes: config.routes.clone(),
                kill_switch: config.kill_switch,
                lan: config.lan,
            };
            (Vec::new(), Some(network))
        }
    };
    Scope {
        ports,
        host_interface: config.host_interface.clone(),
        // Over networks they are the kill switch's, in a table of their own.
        routes: match &network {
            Some(network) if network.kill_switch => Vec::new(),
            _ => config.routes.clone(),
        },
        network,
        keyless: KeylessScope::default(),
        runtime_directory: config.runtime_directory.clone(),
    }
}

/// What is read to look names up.
fn resolver_files(reach: &Reach) -> impl Iterator<Item = PathBuf> {
    let files: &[&str] = match reach {
        Reach::Cable(_) => &[],
        Reach::Network(_) => &resolve::FILES,
    };
    // Landlock takes what there is. A file that is replaced is another: their directories are read.
    let files = files
        .iter()
        .map(|path| files::directory_of(Path::new(path)));
    files.filter(|path| path.exists())
}

impl Agent {
    /// Opens all that takes privileges, gives them up, and starts the worker.
    ///
    /// # Errors
    /// What could not be opened.
    pub(super) fn new(
        config: config::Agent,
        config_path: &Path,
        identity: Enrolment,
        helper: Unscoped,
        account: Option<Account>,
    ) -> Result<Self, Problem> {
        let links =
            Links::open().map_err(|error| monitor::problem("looking at the interfaces", error))?;
        let wanted = match &identity.encapsulation {
            Encapsulation::Ether { ethertype } => {
                let interface = interface(&config, config_path, &identity)?;
                Wanted::Cable(plan(&config, interface, *ethertype)?)
            }
            Encapsulation::Udp { endpoints } => {
                let endpoints = config.endpoints.as_ref().unwrap_or(endpoints);
                Wanted::Network(endpoints.clone(), fast_path(&config, &identity)?)
            }
        };
        let helper = Arc::new(helper.begin(scope(&config, &identity, &wanted))?);
        let (reach, mac, mtu, shape, watched) = match wanted {
            Wanted::Cable(plan) => {
                let help = PortHelp::new(&helper, 0);
                help.check()?;
                let link = links
                    .find(&plan.interface)
                    .map_err(|error| monitor::problem("looking at the port", error))?;
                let mac = plan.mac.or(link.mac).unwrap_or_default();
                let mtu = inner_mtu(link.mtu, &Way::Ether(mac));
                let shape = layout::shape(&plan.interface, &plan.rings);
                let watched = vec![plan.interface.clone()];
                let port = Port::new(PORT, vec![0], plan, help);
                (Reach::Cable(Box::new(port)), mac, mtu, Some(shape), watched)
            }
            Wanted::Network(endpoints, fast_path) => {
                let network = Network::new(endpoints, fast_path)?;
                let watched = vec![network.name(); network::MOST];
                let reach = Reach::Network(Box::new(network));
                let mtu = inner_mtu(ETHERNET_MTU, &Way::Socket);
                (reach, [0; 6], mtu, None, watched)
            }
        };
        // Addresses come with the first session; those of a former one stay until then, so that
        // what is bound to them survives a restart.
        let kept = links
            .find(&config.host_interface)
            .map(|link| link.addresses)
            .unwrap_or_default();
        let queues = hostif::open(&links, &config.host_interface, 1, &kept)?;
        let cores = match config.core {
            Some(core) => Cores::These(vec![core]),
            None => Cores::Off,
        };
        let shapes: Vec<_> = shape.into_iter().collect();
        let layout = layout::plan(&layout::Machine::look()?, Some(1), &cores, &shapes)?;
        let lifetime = process::key_lifetime()?;
        let tap = Arc::<Tap>::default();
        let hub = Arc::<Hub>::default();
        hub.set_workers(Arc::clone(&tap), watched, &config.host_interface);
        let settings = Settings {
            tap,
            role: Role::Workstation,
            engine: config.engine,
            cores: layout.workers,
            spin: config.spin,
            lifetime,
            sizes: Sizes {
                frames: 0,
                ports: network::MOST,
                sessions: SESSION_SLOTS as usize,
                workstations: 1,
            },
        };
        let virtualised = match config.virtualised {
            Virtualised::Yes => true,
            Virtualised::No => false,
            Virtualised::Auto => is_virtual_machine(),
        };
        let mapped = match &config.vm_generation {
            Some(path) => Some(Generation::open(path)?),
            None => None,
        };
        let systemd = Systemd::from_environment();
        confine::daemon(
            account,
            &Paths {
                read: [files::directory_of(config_path)]
                    .into_iter()
                    .chain(resolver_files(&reach))
                    .collect(),
                write: vec![
                    config.state_directory.clone(),
                    config.runtime_directory.clone(),
                ],
            },
        )?;
        let pool = Pool::start(settings, queues)?;
        let counters: Arc<PeerCounters> = Arc::default();
        let everything = ["0.0.0.0/0", "::/0"]
            .iter()
            .filter_map(|net| net.parse().ok())
            .collect();
        let setup = PeerSetup {
            id: GATEWAY,
            prefixes: everything,
            policy: Arc::default(),
            counters: Arc::clone(&counters),
        };
        pool.give(0, Command::AddPeer(Box::new(setup)));
        // No packet leaves before its address is known.
        pool.give(0, Command::SetOwn(Own::default()));
        let generation = mapped.map(|(generation, mapped)| {
            pool.give(0, Command::Watch(Box::new(mapped), generation.seen()));
            generation
        });
        let mut machine = Machine::new(
            WorkstationConfig {
                static_private: Zeroizing::new(*identity.private_key()?.as_bytes()),
                gateway_public: *identity.gateway_public_key.as_bytes(),
                psk: Zeroizing::new(*identity.psk.as_bytes()),
                key_id: identity.key_id.get(),
                port: PORT,
                gateway: match &reach {
                    Reach::Cable(_) => Way::Ether(BROADCAST),
                    Reach::Network(_) => Way::Socket,
                },
                mac,
                mtu,
                // One that sees its own rollback need not fear it.
                virtualised: virtualised && generation.is_none(),
                ciphers: ciphers(config.minimum_cipher),
                protections: protections(config.minimum_protection),
                seed: Zeroizing::new(entropy::seed()?),
            },
            now(),
        );
        machine.set_lifetime(lifetime);
        Ok(Self {
            config,
            identity,
            mac: matches!(reach, Reach::Cable(_)).then_some(mac),
            reach,
            links,
            helper,
            pool,
            machine,
            expected: 0,
            counters,
            parameters: None,
            refused: None,
            closed: false,
            closed_at: Instant::now(),
            proven: 0,
            was_connected: false,
            generation,
            clocks: Clocks::default(),
            rollbacks: 0,
            started: Instant::now(),
            retried: Instant::now(),
            looked: Instant::now(),
            systemd,
            hub,
        })
    }
}

/// The ciphers offered: the minimum and what is stronger. SIV is never weaker.
fn ciphers(minimum: Cipher) -> Vec<Cipher> {
    match minimum {
        Cipher::Aes128Gcm => Cipher::ALL.to_vec(),
        Cipher::Aes256Gcm => vec![Cipher::Aes256Gcm, Cipher::Aes256GcmSiv],
        Cipher::Aes256GcmSiv => vec![Cipher::Aes256GcmSiv],
    }
}

fn protections(minimum: Protection) -> Vec<Protection> {
    match minimum {
        Protection::Encrypt => vec![Protection::Encrypt],
        Protection::Authenticate => vec![Protection::Encrypt, Protection::Authenticate],
    }
}

/// The interface's MAC address until the next boot.
fn random_mac(interface: &str) -> Result<[u8; 6], Problem> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let boot_id = std::fs::read_to_string(BOOT_ID).map_err(|error| {
        Problem::io(
            format!("reading {BOOT_ID} for a random MAC address"),
            &error,
        )
    })?;
    Ok(raise::mac_of_boot(&boot_id, interface))
}

/// Whether this is a virtual machine, by what the CPU says of a hypervisor.
fn is_virtual_machine() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
    })
}
