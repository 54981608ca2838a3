//! The helper's own end: takes requests, holds them against its scope, and carries them out.

use super::{
    Answer, KeylessScope, MARK, MOST_ADDRESSES, NetworkScope, Request, Scope, notify, receive, send,
};
use crate::config::{Digest, Gateway, Rings};
use crate::confine::{self, HelperPaths};
use crate::files;
use crate::hostif;
use crate::keyless;
use crate::monitor;
use crate::napi::NapiThreads;
use crate::problem::{Kind, Problem};
use crate::raise;
use crate::raise::Plan;
use crate::resolve;
use crate::systemd;
use caps::{CapSet, Capability};
use dataplane::link::{KillSwitch, Links, disable_ipv6};
use dataplane::port::ntuple::{Nic, Rule};
use dataplane::port::socket::{SocketConfig, SocketError, socket_for as socket_for_udp};
use dataplane::port::xsk::socket_for;
use dataplane::wall::{FastPath, WallError};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use wire::Flow;

/// The descriptor the socket is handed down as.
const SOCKET: i32 = 0;
/// Sockets whose ends are remembered: more than an agent has at a time.
const SOCKETS_NOTED: usize = 64;

/// Serves the daemon `parent` until it is gone.
pub(super) fn run(parent: Pid) -> Result<(), Problem> {
    let failed = |error: &io::Error| Problem::io("serving as privileged helper", error);
    confine::helper(parent)?;
    // SAFETY: whoever starts a helper hands its socket down as this descriptor, and it stays open.
    let socket = unsafe { BorrowedFd::borrow_raw(SOCKET) };
    let first = receive::<Request>(socket).map_err(|error| failed(&error))?;
    let Some((Request::Begin(scope), descriptors)) = first else {
        return Err(failed(&io::Error::other(
            "it is started by a daemon, and by nobody else",
        )));
    };
    let [listener]: [OwnedFd; 1] = descriptors
        .try_into()
        .map_err(|_| failed(&io::Error::other("no listener came with the scope")))?;
    let mut server = match Server::new(*scope) {
        Ok(server) => server,
        // The daemon says so, and ends.
        Err(problem) => {
            let answer = Answer::Problem(problem);
            return send(socket, &answer, &[]).map_err(|error| failed(&error));
        }
    };
    confine::helper_begun(&server.paths())?;
    send(socket, &Answer::Done, &[]).map_err(|error| failed(&error))?;
    loop {
        let mut set = [
            PollFd::new(socket, PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed(&errno.into())),
        }
        let seen = |at: usize| set[at].revents().unwrap_or(PollFlags::empty());
        let (asked, called) = (seen(0), seen(1));
        if called.contains(PollFlags::POLLIN) {
            notify::answer(listener.as_fd(), || server.socket()).map_err(|error| failed(&error))?;
        }
        if asked.is_empty() {
            continue;
        }
        let Some((request, _)) = receive(socket).map_err(|error| failed(&error))? else {
            return Ok(());
        };
        let (answer, descriptors) = server.answer(socket, request);
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        match send(socket, &answer, &raw) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|error| failed(&error))?,
        }
    }
}

/// What AF_XDP sockets are made for.
#[derive(Debug, Clone, Copy)]
enum For {
    Port(usize),
    FastPath,
}

struct Server {
    scope: Scope,
    /// The ports without keys.
    keyless: Vec<keyless::Port>,
    links: Links,
    /// NAPI threads of each port, once it was raised.
    napi: Vec<Option<NapiThreads>>,
    /// The port that AF_XDP sockets are made for.
    sockets: Option<For>,
    /// What takes the tunnel's datagrams past the kernel's stack, and the NAPI threads of its interface.
    fast_path: Option<(FastPath, NapiThreads)>,
    /// The ends of the last sockets that were made, the own first: the flows that it may take.
    made: VecDeque<[SocketAddr; 2]>,
    /// The tunnel's own addresses, once there are any.
    tunnel: Option<Vec<IpNet>>,
    /// Held while something is changed.
    lock: File,
}

impl Server {
    fn new(scope: Scope) -> Result<Self, Problem> {
        let links =
            Links::open().map_err(|error| monitor::problem("looking at the interfaces", error))?;
        let lock = File::open(&scope.runtime_directory)
            .map_err(|error| Problem::io("opening the runtime directory", &error))?;
        Ok(Self {
            keyless: keyless_ports(&scope.keyless)?,
            napi: scope.ports.iter().map(|_| None).collect(),
            scope,
            links,
            sockets: None,
            fast_path: None,
            made: VecDeque::new(),
            tunnel: None,
            lock,
        })
    }

    /// The files that requests need.
    fn paths(&self) -> HelperPaths {
        let keyless = self.keyless.iter();
        let pins = self
            .scope
            .ports
            .iter()
            .map(|plan| plan.pin_directory.as_path());
        let pins = pins.chain(keyless.clone().map(keyless::Port::pin_directory));
        let mut pins: Vec<PathBuf> = pins.map(Path::to_owned).collect();
        pins.dedup();
        let names = self.scope.ports.iter().map(|plan| plan.interface.clone());
        let names = names.chain(keyless.map(|port| port.config().interface.clone()));
        let fast_path = self.fast_path_plan().ok();
        let names = names.chain(fast_path.map(|(interface, _)| interface.to_owned()));
        let configuration = &self.scope.keyless.configuration;
        HelperPaths {
            pins,
            read: match self.keyless.is_empty() {
                true => Vec::new(),
                false => vec![files::directory_of(configuration)],
            },
            interfaces: names.collect(),
            needs_own_sysfs: self.needs_own_sysfs(),
            over_networks: self.scope.network.is_some(),
            fast_path: fast_path.is_some(),
        }
    }

    /// Whether /sys shows another network namespace than this one.
    fn needs_own_sysfs(&self) -> bool {
        let shown = |interface: &str| {
            let path = format!("/sys/class/net/{interface}/ifindex");
            let index = self.links.find(interface).ok()?.index;
            let shown = std::fs::read_to_string(path).ok();
            Some(shown.is_some_and(|shown| shown.trim().parse() == Ok(index)))
        };
        let ports = self.scope.ports.iter().map(|plan| plan.interface.as_str());
        let fast_path = self.fast_path_plan().ok();
        ports
            .chain(fast_path.map(|(interface, _)| interface))
            .any(|interface| shown(interface) == Some(false))
    }

    /// An AF_XDP socket for the port that asked last.
    fn socket(&self) -> io::Result<OwnedFd> {
        let none = || io::Error::from_raw_os_error(libc::EPERM);
        let (interface, rings) = match self.sockets.ok_or_else(none)? {
            For::Port(port) => {
                let plan = self.scope.ports.get(port).ok_or_else(none)?;
                (plan.interface.as_str(), &plan.rings)
            }
            For::FastPath => self.fast_path_plan().map_err(|_| none())?,
        };
        socket_for(interface, raise::busy_poll(rings).as_ref())
    }

    fn answer(&mut self, socket: BorrowedFd<'_>, request: Request) -> (Answer, Vec<OwnedFd>) {
        match self.carry_out(socket, request) {
            Ok(answer) => answer,
            Err(problem) => (Answer::Problem(problem), Vec::new()),
        }
    }

    fn carry_out(
        &mut self,
        socket: BorrowedFd<'_>,
        request: Request,
    ) -> Result<(Answer, Vec<OwnedFd>), Problem> {
        // A daemon that was killed may have a successor by now, whose helper must not find this one
        // at work on its ports.
        let lock = self.lock.try_clone().map_err(|error| refused(&error))?;
        let _held = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| refused(&errno.into()))?;
        if hung_up(socket) {
            return Err(refused(&io::ErrorKind::BrokenPipe.into()));
        }
        let mut descriptors = Vec::new();
        let answer = match request {
            Request::Begin(_) => return Err(refused(&io::ErrorKind::AlreadyExists.into())),
            Request::Check { port } => self.plan(port)?.check(&self.links).map(|_| Answer::Done)?,
            Request::Wall { port } => {
                let (link, parts) = self.plan(port)?.raise_wall(&self.links)?;
                for part in parts.descriptors() {
                    let part = part.try_clone_to_owned();
                    descriptors.push(part.map_err(|error| refused(&error))?);
                }
                let threads = NapiThreads::of(&link.name, link.index);
                self.napi[port] = Some(threads);
                Answer::Wall {
                    ifindex: link.index,
                    mac: link.mac.unwrap_or_default(),
                }
            }
            Request::Up { port } => self.up(port).map(|()| Answer::Done)?,
            Request::Sockets { port } => {
                self.plan(port)?;
                self.sockets = Some(For::Port(port));
                Answer::Done
            }
            Request::Napi { port, on, insisted } => {
                self.plan(port)?;
                if let Some(threads) = &self.napi[port] {
                    threads.want(on, insisted);
                }
                Answer::Done
            }
            Request::HasNapi { port } => {
                self.plan(port)?;
                Answer::Flag(self.napi[port].as_ref().is_some_and(NapiThreads::are_on))
            }
            Request::MakeRule {
                port,
                source,
                queue,
                place,
            } => {
                let rule = Rule {
                    source,
                    queue,
                    place,
                };
                let made = Nic(self.plan(port)?.interface.clone()).make(&rule);
                made.map_or_else(|error| errno(&error), Answer::Place)
            }
            Request::RemoveRule { port, place } => {
                let removed = Nic(self.plan(port)?.interface.clone()).unmake(place);
                removed.map_or_else(|error| errno(&error), |()| Answer::Done)
            }
            Request::HostMtu { mtu } => {
                hostif::set_mtu(&self.links, &self.scope.host_interface, mtu)
                    .map(|()| Answer::Done)
                    .map_err(|error| monitor::problem("setting the host interface's MTU", error))?
            }
            Request::Host { mtu, addresses } => {
                if addresses.len() > MOST_ADDRESSES {
                    return Err(refused(&io::ErrorKind::InvalidInput.into()));
                }
                self.tunnel = Some(addresses.clone());
                if self
                    .scope
                    .network
                    .as_ref()
                    .is_some_and(|network| network.kill_switch)
                {
                    // Before the kernel can tell anyone of them.
                    self.raise_kill_switch()?;
                }
                let (name, routes) = (&self.scope.host_interface, &self.scope.routes);
                hostif::configure(&self.links, name, mtu, &addresses, routes)
                    .map(|()| Answer::Done)
                    .map_err(|error| monitor::problem("setting the host interface up", error))?
            }
            Request::KeepIn => {
                Answer::Flag(hostif::keep_in(&self.links, &self.scope.host_interface)?)
            }
            Request::CheckKeyless { port } => {
                let (port, links) = self.keyless(port)?;
                port.check(links).map(|_| Answer::Done)?
            }
            Request::RaiseKeyless { port } => {
                let (port, links) = self.keyless(port)?;
                port.raise(links)?;
                standing(port, &mut descriptors)?
            }
            Request::LookKeyless { port } => {
                let (port, links) = self.keyless(port)?;
                port.look(links);
                standing(port, &mut descriptors)?
            }
            Request::ChangeKeyless { port, read } => {
                self.change_keyless(port, &read)?;
                let (port, _) = self.keyless(port)?;
                standing(port, &mut descriptors)?
            }
            Request::TakeBackKeyless { port } => {
                let (port, links) = self.keyless(port)?;
                port.take_back(links)?;
                standing(port, &mut descriptors)?
            }
            Request::UdpSocket { remote } => {
                let socket = self.udp_socket(remote)?;
                self.note(&socket);
                descriptors.push(socket);
                Answer::Done
            }
            Request::FastPath => {
                let (ifindex, mac, fast_path) = self.fast_path()?;
                let sockets = fast_path.sockets().try_clone_to_owned();
                descriptors.push(sockets.map_err(|error| refused(&error))?);
                Answer::Wall { ifindex, mac }
            }
            Request::Flow { local, remote } => {
                let fast_path = self.fast_path.as_ref();
                let flow = Flow::new(local, remote);
                self.network()?;
                // Anybody else's is not the daemon's to read.
                if !self.made.contains(&[local, remote]) || remote.port() == resolve::DNS {
                    return Err(refused(&io::ErrorKind::AddrNotAvailable.into()));
                }
                let Some((fast_path, _)) = fast_path else {
                    return Err(refused(&io::ErrorKind::NotFound.into()));
                };
                let tried = "telling the fast path its flow";
                fast_path
                    .set_flow(&flow)
                    .map_err(|error| Problem::io(tried, &error))?;
                Answer::Done
            }
            Request::FastPathNapi { on, insisted } => {
                if let Some((_, threads)) = &self.fast_path {
                    threads.want(on, insisted);
                }
                Answer::Done
            }
            Request::KillSwitch => Answer::Flag(match self.network()?.kill_switch {
                true => self.raise_kill_switch()?,
                false => {
                    self.lower_kill_switch()?;
                    false
                }
            }),
            Request::Lower => {
                if self.scope.network.is_some() {
                    self.lower_kill_switch()?;
                }
                self.fast_path = None;
                for plan in &self.scope.ports {
                    let shared = plan.encapsulation.is_shared();
                    raise::lower(&plan.interface, &plan.pin_directory, shared)?;
                }
                hostif::delete(&self.scope.host_interface)?;
                Answer::Done
            }
        };
        Ok((answer, descriptors))
    }

    fn network(&self) -> Result<&NetworkScope, Problem> {
        let network = self.scope.network.as_ref();
        network.ok_or_else(|| refused(&io::ErrorKind::NotFound.into()))
    }

    /// The interface of the fast path, and its rings.
    fn fast_path_plan(&self) -> Result<(&str, &Rings), Problem> {
        let network = self.network()?;
        match (&network.interface, &network.fast_path) {
            (Some(interface), Some(rings)) => Ok((interface, rings)),
            _ => Err(refused(&io::ErrorKind::NotFound.into())),
        }
    }

    /// The fast path, attached to its interface if it is not.
    fn fast_path(&mut self) -> Result<(u32, [u8; 6], &FastPath), Problem> {
        let interface = self.fast_path_plan()?.0.to_owned();
        let tried = || format!("attaching the fast path to {interface}");
        let link = self
            .links
            .find(&interface)
            .map_err(|error| monitor::problem(&tried(), error))?;
        let stands = |(fast_path, _): &(FastPath, _)| fast_path.stands_on(link.index);
        if !self.fast_path.as_ref().is_some_and(stands) {
            let members = self.links.members(link.index);
            let members = members.map_err(|error| monitor::problem(&tried(), error))?;
            // The kernel hands the program on to those, and takes from rings of another interface nothing that they
            // have received.
            if let Some(member) = members.first() {
                let remedy =
                    "leave fast_path out, or take them out of it and name one that has no members";
                let happened = format!(
                    "{member} belongs to it, and what {member} receives no ring of {interface} gets"
                );
                return Err(Problem::new(Kind::Conflict, tried(), happened, remedy));
            }
            let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_BPF).unwrap_or(true);
            let attached = FastPath::attach(&interface, link.index).map_err(|error| {
                let remedy = match may {
                    true if matches!(error, WallError::Occupied { .. }) => {
                        "it is tried again".to_owned()
                    }
                    true => "leave fast_path out where the driver has no native XDP, or not at the interface's MTU".to_owned(),
                    false => format!(
                        "allow it to its service: {}",
                        systemd::for_fast_path().join(" && ")
                    ),
                };
                Problem::new(Kind::Failed, tried(), error, remedy)
            })?;
            let threads = NapiThreads::of(&interface, link.index);
            self.fast_path = Some((attached, threads));
        }
        self.sockets = Some(For::FastPath);
        match &self.fast_path {
            Some((fast_path, _)) => Ok((link.index, link.mac.unwrap_or_default(), fast_path)),
            None => Err(refused(&io::ErrorKind::NotFound.into())),
        }
    }

    /// Remembers the ends of a socket.
    fn note(&mut self, socket: &OwnedFd) {
        let Ok(socket) = socket.try_clone().map(UdpSocket::from) else {
            return;
        };
        if let (Ok(local), Ok(remote)) = (socket.local_addr(), socket.peer_addr()) {
            self.made.truncate(SOCKETS_NOTED - 1);
            self.made.push_front([local, remote]);
        }
    }

    fn udp_socket(&self, remote: SocketAddr) -> Result<OwnedFd, Problem> {
        let network = self.network()?;
        if remote.port() != resolve::DNS && !network.ports.contains(&remote.port()) {
            return Err(refused(&io::ErrorKind::AddrNotAvailable.into()));
        }
        let config = SocketConfig {
            mark: Some(MARK),
            interface: network.interface.clone(),
            // A link of ten gigabits sends that in a millisecond.
            send_buffer: Some(1 << 20),
            ..SocketConfig::new(remote)
        };
        socket_for_udp(&config).map_err(|error| {
            let forbidden = matches!(&error, SocketError::Call { source, .. }
                if matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EPERM)));
            // (Without IPv6 in the kernel it is the same answer.)
            let remedy = match forbidden && remote.is_ipv4() {
                true => format!(
                    "allow its service Internet sockets: {}",
                    systemd::for_networks().join(" && ")
                ),
                false => "it is tried again".to_owned(),
            };
            let tried = format!("opening a socket to {remote}");
            Problem::new(Kind::Failed, tried, error, remedy)
        })
    }

    fn raise_kill_switch(&self) -> Result<bool, Problem> {
        let switch = self.kill_switch()?;
        self.links
            .raise_kill_switch(&switch)
            .map_err(|error| monitor::problem("keeping all but the tunnel from leaving", error))
    }

    fn lower_kill_switch(&self) -> Result<(), Problem> {
        self.links
            .lower_kill_switch()
            .map_err(|error| monitor::problem("letting this machine's packets leave again", error))
    }

    fn kill_switch(&self) -> Result<KillSwitch, Problem> {
        let network = self.network()?;
        if !network.kill_switch {
            return Err(refused(&io::ErrorKind::NotFound.into()));
        }
        // Those that a former session has left, until there is one.
        let host = self.links.find(&self.scope.host_interface);
        let had = host.map(|link| link.addresses).unwrap_or_default();
        let all = self.tunnel.as_ref().unwrap_or(&had).iter();
        let v4 = all.filter_map(|net| match net.addr() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        Ok(KillSwitch {
            addresses: v4.collect(),
            interface: self.scope.host_interface.clone(),
            routes: network.routes.clone(),
            mark: MARK,
            lan: network.lan,
        })
    }

    fn plan(&self, port: usize) -> Result<&Plan, Problem> {
        let plan = self.scope.ports.get(port);
        plan.ok_or_else(|| refused(&io::ErrorKind::NotFound.into()))
    }

    fn keyless(&mut self, port: usize) -> Result<(&mut keyless::Port, &Links), Problem> {
        let port = self.keyless.get_mut(port);
        let port = port.ok_or_else(|| refused(&io::ErrorKind::NotFound.into()))?;
        Ok((port, &self.links))
    }

    /// Takes over what the configuration file says now of a port, if it is what the daemon has read, and
    /// the same port still.
    fn change_keyless(&mut self, at: usize, read: &Digest) -> Result<(), Problem> {
        let path = self.scope.keyless.configuration.clone();
        let (port, links) = self.keyless(at)?;
        let fresh = Gateway::load(&path)?.keyless;
        let fresh = fresh.get(at).filter(|fresh| fresh.digest() == *read);
        match fresh {
            Some(fresh) if fresh.resembles(port.config()) => port.change(fresh, links),
            Some(_) => Err(refused(&io::Error::other("the file names another port"))),
            None => Err(changed_meanwhile(&path)),
        }
    }

    /// Sets a port's link up, behind its wall.
    fn up(&self, port: usize) -> Result<(), Problem> {
        let plan = self.plan(port)?;
        if plan.encapsulation.is_shared() {
            // The interface is others' to set up, and to give addresses.
            return Ok(());
        }
        if let Err(error) = disable_ipv6(&plan.interface) {
            tracing::debug!(%error, "IPv6 stays on; the egress guard keeps what it sends inside");
        }
        plan.set_up(&self.links)
    }
}

/// The ports without keys, as the configuration file has them.
fn keyless_ports(scope: &KeylessScope) -> Result<Vec<keyless::Port>, Problem> {
    if scope.ports.is_empty() {
        return Ok(Vec::new());
    }
    let config = Gateway::load(&scope.configuration)?;
    let read = config.keyless.iter().map(|port| port.digest());
    if !read.eq(scope.ports.iter().copied()) {
        return Err(changed_meanwhile(&scope.configuration));
    }
    let ports = config.keyless.into_iter();
    Ok(ports
        .map(|port| keyless::Port::new(port, &config.pin_directory))
        .collect())
}

fn changed_meanwhile(path: &Path) -> Problem {
    Problem::new(
        Kind::Conflict,
        format!("reading {}", path.display()),
        "it was changed while it was read",
        "try again",
    )
}

fn standing(port: &mut keyless::Port, descriptors: &mut Vec<OwnedFd>) -> Result<Answer, Problem> {
    let (standing, counters) = port.standing();
    if let Some(counters) = counters {
        for counter in counters.descriptors() {
            let counter = counter.try_clone_to_owned();
            descriptors.push(counter.map_err(|error| refused(&error))?);
        }
    }
    Ok(Answer::Keyless(standing))
}

/// Whether the other end is closed.
fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut set, PollTimeout::ZERO).is_ok() && set[0].any().unwrap_or(true)
}

fn errno(error: &io::Error) -> Answer {
    Answer::Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn refused(error: &io::Error) -> Problem {
    Problem::new(
        Kind::Forbidden,
        "helping the daemon",
        error,
        "start the daemon again, and report this",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encapsulation::Encapsulation;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use wire::Role;

    fn scope(directory: &std::path::Path) -> Scope {
        Scope {
            ports: vec![Plan {
                interface: "pc-none0".into(),
                role: Role::Gateway,
                mac: None,
                encapsulation: Encapsulation::Ether(0x88b5),
                pin_directory: directory.to_owned(),
                rings: Rings::default(),
                session_slots: 8,
                workstation_slots: 1,
            }],
            host_interface: "pc-none1".into(),
            routes: Vec::new(),
            keyless: KeylessScope::default(),
            network: None,
            runtime_directory: directory.to_owned(),
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    fn refusal(answer: (Answer, Vec<OwnedFd>)) -> Problem {
        match answer.0 {
            Answer::Problem(problem) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_for_what_is_not_in_the_scope_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::new(scope(directory.path())).unwrap();
        let (socket, _daemon) = pair();
        let net = "10.0.0.1/8".parse().unwrap();
        let source = [2; 6];
        for request in [
            Request::Begin(Box::new(scope(directory.path()))),
            Request::Check { port: 1 },
            Request::Wall { port: 1 },
            Request::Up { port: usize::MAX },
            Request::Sockets { port: 1 },
            Request::HasNapi { port: 1 },
            Request::FastPath,
            Request::Flow {
                local: "192.0.2.1:1".parse().unwrap(),
                remote: "192.0.2.2:1".parse().unwrap(),
            },
            Request::Napi {
                port: 1,
                on: true,
                insisted: false,
            },
            Request::MakeRule {
                port: 1,
                source,
                queue: 0,
                place: 0,
            },
            Request::RemoveRule { port: 1, place: 0 },
            Request::CheckKeyless { port: 0 },
            Request::RaiseKeyless { port: 0 },
            Request::LookKeyless { port: 0 },
            Request::TakeBackKeyless { port: 0 },
            Request::ChangeKeyless {
                port: 0,
                read: [0; 32],
            },
            Request::Host {
                mtu: 1400,
                addresses: vec![net; 3],
            },
        ] {
            let shown = format!("{request:?}");
            let problem = refusal(server.answer(socket.as_fd(), request));
            assert_eq!(problem.kind, Kind::Forbidden, "{shown}: {problem}");
        }
        // No port has asked for a socket: there is none.
        let refused = server.socket().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn ports_without_keys_are_those_of_the_configuration_file_whatever_the_daemon_says() {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("portcullis.toml");
        let write = |text: &str| {
            std::fs::write(&configuration, text).unwrap();
            let digest = |port: &crate::config::KeylessPort| port.digest();
            let ports = Gateway::load(&configuration).unwrap().keyless;
            ports.iter().map(digest).collect::<Vec<_>>()
        };
        let text = "[host]\naddresses = [\"10.0.0.1/24\"]\n[[port]]\ninterface = \"pc-none2\"\n\
                    admission = \"pinned\"\naddresses = [\"10.1.0.1/24\"]\n\
                    [[port.pin]]\nmac = \"02:00:00:00:00:02\"\naddresses = [\"10.1.0.2\"]\n";
        let ports = write(text);
        let with = |ports: Vec<Digest>| Scope {
            keyless: KeylessScope {
                configuration: configuration.clone(),
                ports,
            },
            ..scope(directory.path())
        };
        // The daemon cannot have read another pin.
        let problem = Server::new(with(vec![[0; 32]])).err().unwrap();
        assert_eq!(problem.kind, Kind::Conflict, "{problem}");
        let mut server = Server::new(with(ports.clone())).unwrap();
        let (socket, _daemon) = pair();
        let mut change = |read: Digest| {
            let request = Request::ChangeKeyless { port: 0, read };
            server.answer(socket.as_fd(), request)
        };
        // What it has read already is nothing new.
        assert!(matches!(change(ports[0]).0, Answer::Keyless(_)));
        let problem = refusal(change([0; 32]));
        assert_eq!(problem.kind, Kind::Conflict, "{problem}");
        // Another interface or admission is another port.
        for other in [
            text.replace("pc-none2", "pc-none3"),
            text.split_once("[[port.pin]]")
                .unwrap()
                .0
                .replace("pinned", "open"),
        ] {
            let problem = refusal(change(write(&other)[0]));
            assert!(problem.happened.contains("another port"), "{problem}");
        }
        // Other pins are taken over, as far as there is such an interface.
        let problem = refusal(change(write(&text.replace("10.1.0.2", "10.1.0.3"))[0]));
        assert_eq!(problem.kind, Kind::NotFound, "{problem}");
    }

    #[test]
    fn a_fast_path_takes_the_datagrams_of_a_socket_that_was_made_here_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let network = NetworkScope {
            ports: vec![51_888, resolve::DNS],
            interface: Some("pc-none0".into()),
            fast_path: Some(Rings::default()),
            routes: Vec::new(),
            kill_switch: false,
            lan: false,
        };
        let mut server = Server::new(Scope {
            network: Some(network),
            ..scope(directory.path())
        })
        .unwrap();
        let (socket, _daemon) = pair();
        let ends: [SocketAddr; 2] = ["127.0.0.1:0", "127.0.0.2:51888"].map(|a| a.parse().unwrap());
        let made = UdpSocket::bind(ends[0]).unwrap();
        made.connect(ends[1]).unwrap();
        let (local, remote) = (made.local_addr().unwrap(), ends[1]);
        let ask = |server: &mut Server, local, remote| {
            let request = Request::Flow { local, remote };
            refusal(server.answer(socket.as_fd(), request)).happened
        };
        let none = io::Error::from(io::ErrorKind::AddrNotAvailable).to_string();
        assert_eq!(ask(&mut server, local, remote), none, "not made yet");
        server.note(&made.into());
        let missing = io::Error::from(io::ErrorKind::NotFound).to_string();
        assert_eq!(
            ask(&mut server, local, remote),
            missing,
            "attached to nothing"
        );
        let other = SocketAddr::new(remote.ip(), 51_889);
        assert_eq!(ask(&mut server, local, other), none);
        assert_eq!(ask(&mut server, remote, local), none);
        for number in 0..2 * SOCKETS_NOTED {
            let more = UdpSocket::bind(ends[0]).unwrap();
            more.connect(SocketAddr::new(remote.ip(), 1 + number as u16))
                .unwrap();
            server.note(&more.into());
        }
        assert_eq!(server.made.len(), SOCKETS_NOTED);
    }

    #[test]
    fn nothing_is_changed_for_a_daemon_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::new(scope(directory.path())).unwrap();
        let (socket, daemon) = pair();
        drop(daemon);
        let problem = refusal(server.answer(socket.as_fd(), Request::Lower));
        assert!(problem.happened.contains("broken pipe"), "{problem}");
    }

    #[test]
    fn messages_and_descriptors_come_over_as_they_were_sent() {
        let (one, other) = pair();
        let (extra, _end) = pair();
        send(
            one.as_fd(),
            &Request::HostMtu { mtu: 1400 },
            &[extra.as_raw_fd()],
        )
        .unwrap();
        let (request, descriptors) = receive::<Request>(other.as_fd()).unwrap().unwrap();
        assert!(matches!(request, Request::HostMtu { mtu: 1400 }));
        assert_eq!(descriptors.len(), 1);
        drop(one);
        assert!(receive::<Request>(other.as_fd()).unwrap().is_none());
    }
}
