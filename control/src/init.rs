//! Setting up a Gateway: `portcullis init` finds out what it can, and writes a configuration that
//! explains itself.

use crate::config::{self, Gateway};
use crate::confine;
use crate::files;
use crate::interfaces::{self, Interface};
use crate::keys::PublicKey;
use crate::problem::{Kind, Problem};
use crate::registry::Registry;
use ipnet::IpNet;
use std::path::{Path, PathBuf};

/// The host interface's addresses, unless told otherwise.
pub const ADDRESSES: [&str; 2] = ["10.152.152.10/18", "fd50:6f72:7463::1/64"];

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The ports; those found when empty.
    pub ports: Vec<String>,
    /// The host interface's addresses; [`ADDRESSES`] when empty.
    pub addresses: Vec<String>,
    /// Keys and Workstations.
    pub state_directory: Option<PathBuf>,
    /// The control socket.
    pub runtime_directory: Option<PathBuf>,
    /// Where the wall is pinned.
    pub pin_directory: Option<PathBuf>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The configuration.
    pub config: Gateway,
    /// The Gateway's public key.
    pub public_key: PublicKey,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Writes the configuration to `path`, makes the state directory and the Gateway's key. A key that
/// is there is kept; a configuration that is there is never overwritten.
///
/// # Errors
/// There is a configuration, no port can be found, an address cannot be, or what the system
/// answered.
pub fn init(path: &Path, request: &Request) -> Result<Made, Problem> {
    let tried = format!("setting up a Gateway in {}", path.display());
    if path.symlink_metadata().is_ok() {
        return Err(Problem::new(
            Kind::Conflict,
            tried,
            "there is a configuration already",
            "change it by hand; or move it away and run this again (the key and the Workstations are kept)",
        ));
    }
    // There is no configuration yet that would say so.
    confine::trust(None);
    let all = interfaces::list()?;
    let mut warnings = Vec::new();
    let ports = ports(&tried, request, &all, &mut warnings)?;
    let addresses = addresses(&tried, request, &all)?;
    let text = text(&ports, &addresses, request);
    // What is written is what will be read: with the same checks.
    let config = Gateway::parse(path, &text).map_err(|problem| Problem {
        tried: tried.clone(),
        ..problem
    })?;
    let registry = Registry::open(&config)?;
    let public_key = registry.keyring()?.public();
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        files::directory(parent, 0o755)?;
    }
    // Last: until it is there, all of this can be done again.
    files::write_with_mode(path, &text, 0o644)?;
    Ok(Made {
        config,
        public_key,
        warnings,
    })
}

fn ports(
    tried: &str,
    request: &Request,
    all: &[Interface],
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, Problem> {
    if request.ports.is_empty() {
        let found = interfaces::port_candidates(all);
        if found.is_empty() {
            let reasons: Vec<_> = all
                .iter()
                .filter(|interface| interface.name != "lo")
                .map(|i| format!("{} ({})", i.name, i.objection().unwrap_or_default()))
                .collect();
            return Err(Problem::new(
                Kind::NotFound,
                tried,
                match reasons.is_empty() {
                    true => "there is no interface that could be a port".to_owned(),
                    false => format!(
                        "none of the interfaces can be taken for a port: {}",
                        reasons.join(", ")
                    ),
                },
                "plug one in, or name one yourself: portcullis init --port IF",
            ));
        }
        return Ok(found.iter().map(|i| i.name.clone()).collect());
    }
    for port in &request.ports {
        match all.iter().find(|interface| interface.name == *port) {
            None => warnings.push(format!(
                "there is no interface {port} now; portcullisd does not start without it"
            )),
            Some(interface) => warnings.extend(
                interface
                    .objection()
                    .map(|why| format!("{port} will not start as a port: {why}")),
            ),
        }
    }
    Ok(request.ports.clone())
}

fn addresses(tried: &str, request: &Request, all: &[Interface]) -> Result<Vec<IpNet>, Problem> {
    let texts: Vec<&str> = match request.addresses.is_empty() {
        true => ADDRESSES.to_vec(),
        false => request.addresses.iter().map(String::as_str).collect(),
    };
    let mut addresses = Vec::new();
    for text in texts {
        let host = config::host_address(text)
            .map_err(|(happened, remedy)| Problem::new(Kind::Invalid, tried, happened, remedy))?;
        if let Some(problem) = overlap(tried, &host, all, config::HOST_INTERFACE) {
            return Err(problem);
        }
        addresses.push(host);
    }
    Ok(addresses)
}

/// Whether another interface has an address in the host interface's prefix.
pub(crate) fn overlap(
    tried: &str,
    host: &IpNet,
    all: &[Interface],
    host_interface: &str,
) -> Option<Problem> {
    all.iter()
        .filter(|interface| interface.name != host_interface)
        .flat_map(|interface| interface.addresses.iter().map(move |a| (interface, a)))
        .find(|(_, address)| host.contains(*address))
        .map(|(interface, address)| {
            Problem::new(
                Kind::Conflict,
                tried,
                format!(
                    "the prefix {} contains the address {address} of {}",
                    host.trunc(),
                    interface.name
                ),
                "choose a prefix that is used nowhere else (portcullis init --address CIDR, or \
                 addresses in [host])",
            )
        })
}

fn text(ports: &[String], addresses: &[IpNet], request: &Request) -> String {
    let directory = |name: &str, value: &Option<PathBuf>, default: &str, why: &str| {
        let (mark, value) = match value {
            Some(value) => ("", value.display().to_string()),
            None => ("# ", default.to_owned()),
        };
        format!("{mark}{name} = {} # {why}\n", quoted(&value))
    };
    let addresses: Vec<_> = addresses.iter().map(|a| quoted(&a.to_string())).collect();
    let mut text = format!(
        "# Portcullis, the Gateway's configuration. Lines that begin with # show the defaults.\n\
         # After a change: portcullis check, which says what it takes to apply it\n\n\
         {}{}{}\
         # user = \"portcullis\"  # the account it runs as when started as root, where there is it\n\
         # admin_group = \"portcullis-admin\" # members may change things, as root; default none\n\
         # metrics_address = \"127.0.0.1:9477\" # metrics over TCP for Prometheus; none by default\n\
         # metrics_beyond_loopback = false # whether that may be another machine's to reach\n\
         # log_format = \"auto\"  # auto | text | journal | json\n\
         # workers = 1          # default: one for each queue of the ports, but a core is left to everything else\n\
         # cores = \"auto\"       # auto | off | the cores of the workers, like [2, 3] or [\"2-5\"]; auto pins none of one or two\n\
         # spin = 20            # microseconds a worker looks for work before it sleeps\n\
         # max_workstations = 64\n\
         # engine = \"auto\"      # auto | vaes | aws-lc-rs | aes-gcm\n\n\
         # Where the Workstations' packets come out. Services listen on these addresses.\n\
         [host]\n\
         # interface = \"{}\"\n\
         addresses = [{}]\n",
        directory(
            "state_directory",
            &request.state_directory,
            "/var/lib/portcullis",
            "keys and Workstations"
        ),
        directory(
            "runtime_directory",
            &request.runtime_directory,
            "/run/portcullis",
            "the control socket"
        ),
        directory(
            "pin_directory",
            &request.pin_directory,
            config::PIN_DIRECTORY,
            "where the wall is pinned"
        ),
        config::HOST_INTERFACE,
        addresses.join(", "),
    );
    for (at, port) in ports.iter().enumerate() {
        let heading = match at {
            0 => {
                "# An interface that is cabled to Workstations. Nothing but the tunnel passes it.\n"
            }
            _ => "",
        };
        text.push_str(&format!(
            "\n{heading}[[port]]\ninterface = {}\n",
            quoted(port)
        ));
        if at == 0 {
            text.push_str(
                "# admission = \"tunnel\"  # tunnel | pinned | open: see below\n\
                 # xdp = \"auto\"          # auto | native | generic\n\
                 # ring_size = 2048      # a power of two from 64 to 32768\n\
                 # zero_copy = \"auto\"    # auto | on | off; auto copies on virtio_net, whose zero-copy may send nothing\n\
                 # encapsulation = \"ether\" # ether | udp, over networks: see below\n\
                 # ethertype = 0x88B5\n\
                 # queues = \"all\"        # how many of its receive queues are used, from the first\n\
                 # huge_pages = false    # frames in 2 MiB pages (vm.nr_hugepages)\n\
                 # tx_budget = 64        # frames the kernel sends at a time without zero-copy\n\
                 # busy_poll = 0         # microseconds the kernel polls the NIC for the worker; 0 is off\n\
                 # busy_poll_budget = 64 # frames of one poll\n\
                 # prefer_busy_poll = true # hold interrupts back while it is polled\n\
                 # threaded_napi = \"auto\" # auto | on | off: receive in kernel threads; auto: where one Workstation comes in\n",
            );
        }
    }
    text.push_str(OVER_NETWORKS);
    text.push_str(WITHOUT_KEYS);
    text
}

/// How a port for Workstations elsewhere is written.
const OVER_NETWORKS: &str = r#"
# Workstations that are not cabled to this machine come in over networks, in UDP. On an interface of its own
# XDP answers for the port's addresses (ARP, neighbour discovery) and lets nothing else in.
#   [[port]]
#   interface = "eth4"
#   encapsulation = "udp"
#   udp_port = 51888
#   addresses = ["192.0.2.1", "2001:db8::1"]                  # one of each IP version at most
#   endpoint = ["gateway.example:51888"]                      # where Workstations find it; by default the addresses
# With shared = true it is an interface of this machine's, its uplink for one: XDP takes the tunnel's UDP port,
# and the kernel has everything else. Then addresses may be left out, and endpoint must say where it is found.
# Whoever has no key sees a dead port; with stealth = false it is told that nobody listens (ICMP port unreachable).
"#;

/// How a port for Workstations without keys is written.
const WITHOUT_KEYS: &str = r#"
# A Workstation that cannot run portcullis-agent gets a port of its own, with admission = "pinned". Only
# the MAC and IP addresses written here are let in, to the Gateway's addresses on that port and
# nowhere else; nothing is authenticated or encrypted. Pins can be changed by `portcullis reload`.
#   [[port]]
#   interface = "eth3"
#   admission = "pinned"
#   addresses = ["10.152.200.1/24", "fd50:6f72:7464::1/64"]   # the Gateway's
#   [[port.pin]]                                              # for each Workstation
#   mac = "02:00:00:00:00:02"
#   addresses = ["10.152.200.2", "fd50:6f72:7464::2"]
#   rate = 200000                                             # frames a second
# admission = "open" lets everything in, from whoever is cabled to the port. Do not use it.
"#;

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_a_configuration_with_the_documented_defaults() {
        let addresses: Vec<IpNet> = ADDRESSES.iter().map(|a| a.parse().unwrap()).collect();
        let ports = ["eth1".to_owned(), "eth2".to_owned()];
        let text = text(&ports, &addresses, &Request::default());
        let config = Gateway::parse(Path::new("p"), &text).unwrap();
        assert_eq!(config.host_addresses, addresses);
        assert_eq!(config.ports.len(), 2);
        // Every line that is commented out can be taken as it stands, and so can the port without keys.
        let (most, udp) = text
            .split_once("\n# Workstations that are not cabled")
            .unwrap();
        let (udp, keyless) = udp.split_once("\n# A Workstation that cannot").unwrap();
        let port: String = udp
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .fold(text.clone(), |text, line| text + line + "\n");
        let ports = Gateway::parse(Path::new("p"), &port).unwrap().ports;
        assert_eq!(ports[2].encapsulation.name(), "udp");
        let port: String = keyless
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .fold(text.clone(), |text, line| text + line + "\n");
        let port = Gateway::parse(Path::new("p"), &port).unwrap().keyless;
        assert_eq!(port[0].pins.as_ref().unwrap()[0].rate, config::RATE);
        let uncommented: String = most
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let mut explicit = Gateway::parse(Path::new("p"), &uncommented).unwrap();
        assert_eq!(explicit.workers.take(), Some(1));
        assert_eq!(explicit.user.take().as_deref(), Some("portcullis"));
        let metrics = explicit.metrics_address.take();
        assert!(metrics.is_some_and(|address| address.ip().is_loopback()));
        let admins = explicit.admin_group.take();
        assert_eq!(admins.as_deref(), Some("portcullis-admin"));
        assert_eq!(explicit, config);
    }

    #[test]
    fn a_prefix_that_is_used_elsewhere_is_refused() {
        let other = Interface {
            name: "eth0".into(),
            addresses: vec!["10.152.160.1".parse().unwrap()],
            ..Interface::default()
        };
        let problem = addresses("x", &Request::default(), &[other]).unwrap_err();
        assert!(
            problem.happened.contains("10.152.160.1 of eth0"),
            "{problem}"
        );
        assert!(problem.remedy.contains("--address"));
        let own = Interface {
            name: config::HOST_INTERFACE.into(),
            addresses: vec!["10.152.152.10".parse().unwrap()],
            ..Interface::default()
        };
        assert!(addresses("x", &Request::default(), &[own]).is_ok());
    }
}
