//! The fast path over networks: when the proven session's socket gets AF_XDP rings beside it, and to which station
//! those send.
//!
//! Nothing depends on it. While it is not there, or has just been lost, datagrams go by the socket alone.

use super::port::AgentPort;
use crate::api::PortStatus;
use crate::choices::ThreadedNapi;
use crate::config::Rings;
use crate::helper::{Helper, MARK};
use crate::pool::Pool;
use crate::problem::{Kind, Problem};
use crate::raise;
use dataplane::PortId;
use dataplane::link::Links;
use dataplane::path::Encapsulation;
use dataplane::port::ethtool;
use dataplane::port::fast_path::{FastPathPort, Lane};
use dataplane::port::socket::{SocketMemory, SocketPort};
use dataplane::wall::PortTables;
use dataplane::worker::{Command, PortSetup};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked where the next station is.
const LOOK: Duration = Duration::from_millis(200);
/// How often a frame leaves by the socket.
const REMIND: Duration = Duration::from_secs(1);
/// How long one that was lost stays away; each time twice as long, up to the longest, unless it had held for so long.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_LATE: Duration = Duration::from_secs(64);

/// The socket of the proven session, and the port that the worker has it as.
pub struct Settled<'a> {
    pub port: PortId,
    pub socket: &'a OwnedFd,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub tables: &'a Arc<PortTables>,
}

impl Settled<'_> {
    fn setup(&self, io: AgentPort) -> Command<AgentPort> {
        Command::AddPort(Box::new(PortSetup {
            id: self.port,
            io,
            tables: Arc::clone(self.tables),
            mac: [0; 6],
            encapsulation: Encapsulation::Socket,
        }))
    }

    /// The socket as a port once more: the kernel's side of it is the same.
    fn again(&self) -> Result<SocketPort, Problem> {
        let tried = || format!("using the socket to {}", self.remote);
        let socket = self
            .socket
            .try_clone()
            .map_err(|error| Problem::io(tried(), &error))?;
        SocketPort::from_socket(socket, &SocketMemory::default())
            .map_err(|error| Problem::new(Kind::Failed, tried(), error, "it is tried again"))
    }
}

struct Up {
    port: PortId,
    local: SocketAddr,
    remote: SocketAddr,
    ifindex: u32,
    mac: [u8; 6],
    lane: Arc<Lane>,
    zero_copy: bool,
    queues: u32,
    since: Instant,
    looked: Instant,
    reminded: Instant,
}

/// The fast path by one interface.
pub struct FastPath {
    interface: String,
    rings: Rings,
    up: Option<Up>,
    /// When it was lost, or could not be had, and how long it stays away.
    lost: Instant,
    patience: Duration,
    /// Why it could not be had, said once.
    reason: Option<String>,
}

impl FastPath {
    /// By this interface, with such rings.
    pub fn new(interface: String, rings: Rings) -> Self {
        Self {
            interface,
            rings,
            up: None,
            lost: Instant::now(),
            patience: Duration::ZERO,
            reason: None,
        }
    }

    /// Has its program on the interface before there is a session, for some drivers lose the carrier over that.
    pub fn begin(&mut self, helper: &Helper) {
        if let Err(problem) = helper.fast_path() {
            self.stays_away(&problem);
        }
    }

    /// Sees to it that it is there for the proven session, leads where that goes, and is replaced where it has failed.
    pub fn look(
        &mut self,
        links: &Links,
        helper: &Helper,
        pool: &Pool<AgentPort>,
        settled: Option<&Settled<'_>>,
    ) {
        let same = |up: &Up| {
            settled.is_some_and(|settled| {
                (up.port, up.local, up.remote) == (settled.port, settled.local, settled.remote)
            })
        };
        if self.up.as_ref().is_some_and(|up| !same(up)) {
            // The worker has another port in its place already.
            self.lose();
        }
        let Some(settled) = settled else { return };
        match &mut self.up {
            Some(up) if up.lane.has_failed() => {
                // Its rings hold the queues until they are closed.
                match settled.again() {
                    Ok(port) => pool.give(0, settled.setup(AgentPort::network(port))),
                    Err(problem) => return self.stays_away(&problem),
                }
                tracing::info!(interface = self.interface, "the fast path was lost");
                self.lose();
            }
            Some(up) => up.look(links),
            None if self.lost.elapsed() >= self.patience => {
                if let Err(problem) = self.raise(links, helper, pool, settled) {
                    self.stays_away(&problem);
                }
            }
            None => {}
        }
    }

    fn raise(
        &mut self,
        links: &Links,
        helper: &Helper,
        pool: &Pool<AgentPort>,
        settled: &Settled<'_>,
    ) -> Result<(), Problem> {
        let interface = self.interface.as_str();
        let tried = || format!("opening the fast path by {interface}");
        let failed = |error: std::io::Error| Problem::io(tried(), &error);
        let (ifindex, mac, sockets) = helper.fast_path()?;
        let has = ethtool::receive_queues(interface).map_err(failed)?;
        let queues = self.rings.queues.unwrap_or(has).min(has);
        let rings = raise::open(interface, &self.rings, 0..queues, raise::AGAIN)
            .map_err(|error| Problem::new(Kind::Failed, tried(), error, "it is tried again"))?;
        for (queue, socket) in rings.sockets() {
            sockets.set(queue, socket).map_err(failed)?;
        }
        let (zero_copy, lane) = (rings.is_zero_copy(), Arc::<Lane>::default());
        let port = FastPathPort::new(settled.again()?, rings, mac, Arc::clone(&lane));
        let port = AgentPort::fast_path(port.map_err(failed)?);
        helper.flow(settled.local, settled.remote)?;
        pool.give(0, settled.setup(port));
        match self.rings.threaded_napi {
            ThreadedNapi::Auto => helper.fast_path_napi(!zero_copy, false),
            ThreadedNapi::On => helper.fast_path_napi(true, true),
            ThreadedNapi::Off => {}
        }
        tracing::info!(
            interface,
            zero_copy,
            queues,
            "the tunnel's datagrams go by AF_XDP"
        );
        let now = Instant::now();
        let up = self.up.insert(Up {
            port: settled.port,
            local: settled.local,
            remote: settled.remote,
            ifindex,
            mac,
            lane,
            zero_copy,
            queues,
            since: now,
            looked: now,
            reminded: now,
        });
        up.lead(links);
        self.reason = None;
        Ok(())
    }

    fn lose(&mut self) {
        if let Some(up) = self.up.take() {
            self.patience = match up.since.elapsed() >= AGAIN_LATE {
                true => AGAIN,
                false => (self.patience * 2).clamp(AGAIN, AGAIN_LATE),
            };
            self.lost = Instant::now();
        }
    }

    fn stays_away(&mut self, problem: &Problem) {
        let reason = format!("{problem}; {}", problem.remedy);
        if self.reason.as_ref() != Some(&reason) {
            tracing::warn!(%problem, remedy = problem.remedy, "datagrams go by the kernel's stack for now");
        }
        self.reason = Some(reason);
        self.lost = Instant::now();
        self.patience = (self.patience * 2).clamp(AGAIN, AGAIN_LATE);
    }

    /// Adds what there is to show of it.
    pub fn show(&self, status: &mut PortStatus) {
        if let Some(up) = &self.up {
            status.mac = Some(crate::api::mac_text(up.mac));
            status.xdp = Some("native".to_owned());
            status.zero_copy = Some(up.zero_copy);
            status.queues = up.queues;
        }
        status.reason = status.reason.take().or_else(|| self.reason.clone());
    }
}

impl Up {
    fn look(&mut self, links: &Links) {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.lead(links);
        }
        if self.reminded.elapsed() >= REMIND {
            self.reminded = Instant::now();
            self.lane.remind();
        }
    }

    fn lead(&self, links: &Links) {
        let next_hop = links.next_hop(self.remote.ip(), MARK, self.ifindex);
        let next_hop = next_hop.unwrap_or_else(|error| {
            tracing::debug!(%error, "datagrams go by the socket");
            None
        });
        self.lane.lead_to(next_hop);
    }
}
