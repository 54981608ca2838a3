//! A Gateway that is reached over networks: where it is looked for, and the sockets that lead there.
//!
//! While there is no session, Hellos leave by a socket for each address of each endpoint, of both IP versions at once,
//! and the first that is answered has the session. When it falls silent, its socket is opened anew, because this
//! machine may have come to another network, or a NAT may have forgotten it: the session goes on from there.

use super::fast_path::{self, FastPath};
use super::port::AgentPort;
use crate::api::{Counters, PortState, PortStatus};
use crate::encapsulation::{Endpoint, Host, is_a_hosts};
use crate::handshake::{Path as Way, inner_mtu};
use crate::helper::Helper;
use crate::pool::Pool;
use crate::port::losses;
use crate::problem::{Kind, Problem};
use crate::resolve::Resolver;
use crate::thread;
use crossbeam::channel::{Receiver, TryRecvError, bounded};
use dataplane::PortId;
use dataplane::link::Links;
use dataplane::path::Encapsulation;
use dataplane::port::RingStatistics;
use dataplane::port::socket::{SocketMemory, SocketPort};
use dataplane::wall::PortTables;
use dataplane::worker::{Command, PortSetup};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::tables::KnockEntry;

/// Addresses that are tried at the same time.
pub const MOST: usize = 16;
/// How long a silent address waits for its socket to be opened anew; each time twice as long, up to the longest.
const REOPEN: Duration = Duration::from_secs(2);
const REOPEN_LATE: Duration = Duration::from_secs(8);
/// And how long where there is none, or this machine's addresses have changed.
const REOPEN_SOON: Duration = Duration::from_millis(200);
/// How often this machine's addresses are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long names that were looked up are believed while the Gateway is not found there.
const LOOK_UP: Duration = Duration::from_secs(15);

/// What is heard of the Gateway at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A session, or a Hello that waits for its answer.
    Usual,
    /// A session that has fallen silent.
    Nothing,
    /// The answer to a Hello: a handshake is under way.
    Answer,
}

/// A socket that a worker has as a port.
struct Open {
    socket: OwnedFd,
    local: SocketAddr,
}

/// The way over networks.
pub struct Network {
    endpoints: Vec<Endpoint>,
    /// What they are, by port number.
    addresses: Vec<SocketAddr>,
    /// The sockets that those have.
    open: Vec<Option<Open>>,
    /// What the proven session's socket may have beside it.
    fast_path: Option<FastPath>,
    tables: Arc<PortTables>,
    /// Names being looked up, and when that was begun last.
    lookup: Option<Receiver<Vec<SocketAddr>>>,
    looked_up: Option<Instant>,
    tried: Instant,
    patience: Duration,
    /// This machine's addresses with the MTU of their interfaces, when they were looked at, and whether they have
    /// changed since the sockets were opened.
    own: BTreeMap<IpAddr, u32>,
    looked: Instant,
    moved: bool,
    /// The port of the session that is proven.
    settled: Option<PortId>,
    /// Why the last socket could not be had, said once.
    reason: Option<String>,
}

impl Network {
    /// The way to one of these endpoints.
    ///
    /// # Errors
    /// There is no memory for its tables.
    pub fn new(endpoints: Vec<Endpoint>, fast_path: Option<FastPath>) -> Result<Self, Problem> {
        let tables = PortTables::in_memory(super::SESSION_SLOTS, 1)
            .map_err(|error| Problem::io("making room for sessions", &error))?;
        Ok(Self {
            endpoints,
            addresses: Vec::new(),
            open: Vec::new(),
            fast_path,
            tables: Arc::new(tables),
            lookup: None,
            looked_up: None,
            tried: Instant::now() - REOPEN,
            patience: REOPEN,
            own: BTreeMap::new(),
            looked: Instant::now() - LOOK,
            moved: false,
            settled: None,
            reason: None,
        })
    }

    /// What it is called where a cable's interface would be: its endpoints.
    pub fn name(&self) -> String {
        let endpoints: Vec<String> = self.endpoints.iter().map(Endpoint::to_string).collect();
        endpoints.join(", ")
    }

    /// The ports that Hellos leave by.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        let all = self.open.iter().enumerate();
        all.filter_map(|(at, open)| open.as_ref().map(|_| at as PortId))
    }

    /// Where the Gateway is found at the moment.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.addresses.get(usize::from(self.settled?)).copied()
    }

    /// The largest inner packet that the proven session's interface carries.
    pub fn mtu(&self) -> Option<u16> {
        let open = self.open.get(usize::from(self.settled?))?.as_ref()?;
        Some(inner_mtu(*self.own.get(&open.local.ip())?, &Way::Socket))
    }

    /// Lets handshakes with this key in, and of those the attempt that is under way.
    ///
    /// # Errors
    /// What the tables answered.
    pub fn admit(&self, key_id: u32, knock: &KnockEntry) -> std::io::Result<()> {
        self.tables.install_knock(key_id, knock)
    }

    /// The nonce of the attempt that is under way.
    pub fn expect_nonce(&self, nonce: u64) {
        self.tables.set_expected_nonce(nonce);
    }

    /// Opens what is to be open. True when something was, so that a Hello should leave at once.
    pub fn look(&mut self, helper: &Arc<Helper>, pool: &Pool<AgentPort>, heard: Heard) -> bool {
        self.look_names_up(helper, pool);
        let settled = self.settled.map(usize::from);
        let lost = settled.is_some_and(|port| self.open.get(port).is_none_or(Option::is_none));
        let patience = match lost || self.moved {
            true => REOPEN_SOON,
            false => self.patience,
        };
        if settled.is_some() && heard == Heard::Usual {
            self.patience = REOPEN;
        }
        if self.tried.elapsed() < patience {
            return false;
        }
        let wanted: Vec<usize> = match settled {
            Some(port) if heard == Heard::Nothing || lost || self.moved => vec![port],
            Some(_) => Vec::new(),
            // The Gateway has answered, and its next answer comes to the same socket.
            None if heard == Heard::Answer && !self.moved => Vec::new(),
            // Those that are open are opened anew too, for they may be of another network's.
            None => (0..self.addresses.len()).collect(),
        };
        if wanted.is_empty() {
            return false;
        }
        self.patience = match self.moved {
            true => REOPEN,
            false => (self.patience * 2).min(REOPEN_LATE),
        };
        self.tried = Instant::now();
        self.moved = false;
        let mut opened = false;
        for at in wanted {
            opened |= self.open(at, helper, pool);
        }
        opened
    }

    /// Has the fast path begin, where there is to be one.
    pub fn begin_fast_path(&mut self, helper: &Helper) {
        if let Some(fast_path) = &mut self.fast_path {
            fast_path.begin(helper);
        }
    }

    /// Sees to the fast path of the proven session, of which this is heard.
    pub fn look_at_fast_path(
        &mut self,
        links: &Links,
        helper: &Helper,
        pool: &Pool<AgentPort>,
        heard: Heard,
    ) {
        let Some(fast_path) = &mut self.fast_path else {
            return;
        };
        let open = |port: PortId| {
            let at = usize::from(port);
            let open = self.open.get(at)?.as_ref()?;
            Some(fast_path::Open {
                port,
                socket: &open.socket,
                local: open.local,
                remote: *self.addresses.get(at)?,
                tables: &self.tables,
            })
        };
        let silent = heard != Heard::Usual;
        fast_path.look(links, helper, pool, self.settled, silent, open);
    }

    /// Sees to it that it is known what the endpoints' names stand for.
    fn look_names_up(&mut self, helper: &Arc<Helper>, pool: &Pool<AgentPort>) {
        match self.lookup.as_ref().map(Receiver::try_recv) {
            Some(Ok(found)) => {
                self.lookup = None;
                match self.settled {
                    None => self.take(found, pool),
                    // The Gateway was found meanwhile; what is known now may not be so when it is looked for again.
                    Some(_) => self.looked_up = None,
                }
            }
            // Its thread could not be started, or has failed.
            Some(Err(TryRecvError::Disconnected)) => self.lookup = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
        let due = self.looked_up.is_none_or(|at| at.elapsed() >= LOOK_UP);
        if self.settled.is_none() && self.lookup.is_none() && due {
            self.look_up(helper);
        }
    }

    fn open(&mut self, at: usize, helper: &Helper, pool: &Pool<AgentPort>) -> bool {
        let Some(&remote) = self.addresses.get(at) else {
            return false;
        };
        let memory = SocketMemory::default();
        let port = helper.udp_socket(remote).and_then(|socket| {
            let tried = || format!("opening a socket to {remote}");
            let own = socket.as_fd().try_clone_to_owned();
            let own = own.map_err(|error| Problem::io(tried(), &error))?;
            let port = SocketPort::from_socket(socket, &memory)
                .map_err(|error| Problem::new(Kind::Failed, tried(), error, "it is tried again"))?;
            Ok((port, own))
        });
        match port {
            Ok((port, socket)) => {
                let local = port.local();
                self.open[at] = Some(Open { socket, local });
                let setup = PortSetup {
                    id: at as PortId,
                    io: AgentPort::network(port),
                    tables: Arc::clone(&self.tables),
                    mac: [0; 6],
                    encapsulation: Encapsulation::Socket,
                };
                pool.give(0, Command::AddPort(Box::new(setup)));
                true
            }
            Err(problem) => {
                let reason = format!("{problem}; {}", problem.remedy);
                if self.reason.as_ref() != Some(&reason) {
                    tracing::info!(%problem, "an address of the Gateway cannot be reached now");
                }
                self.reason = Some(reason);
                self.close(at as PortId, pool);
                false
            }
        }
    }

    fn close(&mut self, port: PortId, pool: &Pool<AgentPort>) {
        if let Some(open) = self.open.get_mut(usize::from(port))
            && open.take().is_some()
        {
            pool.give(0, Command::RemovePort(port));
        }
    }

    /// A session is proven, by this port: the others are not needed any more. One that is not there any more is none.
    pub fn settle(&mut self, port: PortId, pool: &Pool<AgentPort>) {
        if usize::from(port) >= self.addresses.len() {
            return;
        }
        self.settled = Some(port);
        self.patience = REOPEN;
        self.reason = None;
        for other in (0..self.open.len() as PortId).filter(|other| *other != port) {
            self.close(other, pool);
        }
    }

    /// The session is gone: the Gateway is looked for everywhere.
    pub fn unsettle(&mut self) {
        if self.settled.take().is_some() {
            self.tried = Instant::now() - REOPEN;
            self.patience = REOPEN;
        }
    }

    /// Looks whether this machine is in other networks than before, of which its sockets know nothing.
    pub fn look_at_addresses(&mut self, links: &Links, tunnel: &str) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let Ok(all) = links.list() else { return };
        let usable = all
            .iter()
            .filter(|link| link.up && !link.loopback && link.name != tunnel);
        let own = usable.flat_map(|link| link.addresses.iter().map(|net| (net.addr(), link.mtu)));
        let own: BTreeMap<_, _> = own.filter(|(address, _)| is_a_hosts(*address)).collect();
        if own != self.own {
            self.moved |= !self.own.is_empty();
            self.own = own;
        }
    }

    /// The worker has given a socket up.
    pub fn failed(&mut self, port: PortId) {
        if let Some(open) = self.open.get_mut(usize::from(port)) {
            *open = None;
        }
    }

    /// Takes over what the endpoints are now, where that has changed: the sockets to what they were are closed.
    fn take(&mut self, found: Vec<SocketAddr>, pool: &Pool<AgentPort>) {
        if found.is_empty() || found == self.addresses {
            return;
        }
        for port in 0..self.open.len() as PortId {
            self.close(port, pool);
        }
        tracing::info!(addresses = ?found, "the Gateway is looked for");
        self.open = found.iter().map(|_| None).collect();
        self.addresses = found;
        self.tried = Instant::now() - REOPEN;
        self.patience = REOPEN;
    }

    /// Looks the endpoints up, on a thread of its own where there is a name.
    fn look_up(&mut self, helper: &Arc<Helper>) {
        self.looked_up = Some(Instant::now());
        let (sender, receiver) = bounded(1);
        let endpoints = self.endpoints.clone();
        let resolver = Resolver::new(helper);
        let work = move || {
            let mut all = Vec::new();
            for endpoint in endpoints {
                let addresses = match &endpoint.host {
                    Host::Address(address) => vec![*address],
                    Host::Name(name) => resolver.addresses(name),
                };
                for address in addresses {
                    let address = SocketAddr::new(address, endpoint.port);
                    if all.len() < MOST && !all.contains(&address) {
                        all.push(address);
                    }
                }
            }
            let _ = sender.send(all);
        };
        if self
            .endpoints
            .iter()
            .all(|e| matches!(e.host, Host::Address(_)))
        {
            work();
        } else if let Err(error) = thread::start("resolver", work) {
            tracing::warn!(%error, "no name can be looked up");
        }
        self.lookup = Some(receiver);
    }

    /// What there is to show of it.
    pub fn status(&self, rings: Option<&RingStatistics>) -> PortStatus {
        let state = match self.ports().next() {
            Some(_) => PortState::Up,
            None => PortState::Down,
        };
        let mut status = PortStatus {
            interface: self.name(),
            state,
            reason: match (&self.reason, state) {
                (Some(reason), _) if self.settled.is_none() => Some(reason.clone()),
                (None, PortState::Down) => Some("no address of the Gateway is known yet".into()),
                _ => None,
            },
            ring_losses: rings.map_or_else(Counters::new, losses),
            ..PortStatus::default()
        };
        if let Some(fast_path) = &self.fast_path {
            fast_path.show(&mut status);
        }
        status
    }
}
