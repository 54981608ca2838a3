//! The fast path over networks: when the proven session's socket gets AF_XDP rings beside it, and to which station
//! those send.
//!
//! While it is not there, or has just been lost, datagrams go by the socket alone. That rings carry nothing, though
//! they report no error, shows as any silence of the Gateway does: PINGs go by the rings too. Then the socket is opened
//! anew, and the fast path stays away the longer the less it was good for.

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
use dataplane::wall::{MAX_QUEUES, PortTables};
use dataplane::worker::{Command, PortSetup};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked where the next station is.
const LOOK: Duration = Duration::from_millis(200);
/// How often a frame leaves by the socket while many leave by the rings; of few, a PING may be among them, which is to
/// show whether the rings carry anything.
const REMIND: Duration = Duration::from_secs(1);
const MANY: u64 = 16;
const REMIND_LATE: Duration = Duration::from_secs(60);
/// How long one that was lost stays away: each time twice as long, up to the longest, unless it had held.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_LATE: Duration = Duration::from_secs(600);
const HELD: Duration = Duration::from_secs(60);

/// A socket that is open, and the port that the worker has it as.
pub struct Open<'a> {
    pub port: PortId,
    pub socket: &'a OwnedFd,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub tables: &'a Arc<PortTables>,
}

impl Open<'_> {
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
    /// Frames that had left by the rings then.
    sent: u64,
}

/// The fast path by one interface.
pub struct FastPath {
    interface: String,
    rings: Rings,
    up: Option<Up>,
    /// When it was lost, or could not be had, and how long it stays away.
    lost: Instant,
    patience: Duration,
    /// Why it could not be had or was lost, said once.
    reason: Option<String>,
}

/// How long one stays away that held for `held`, after one that stayed away for `before`. One by which nothing has ever
/// come (a NIC that takes rings, and gives what it receives to others) is tried again as late as can be, and late one
/// under which the Gateway fell silent: it may be that what its rings took has not left.
fn patience(before: Duration, held: Duration, received: u64, silent: bool) -> Duration {
    match received {
        0 => AGAIN_LATE,
        _ if silent => (before * 8).clamp(HELD, AGAIN_LATE),
        _ if held >= HELD => AGAIN,
        _ => (before * 2).clamp(AGAIN, AGAIN_LATE),
    }
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

    /// Sees to it that it is there for the port of the proven session, leads where that goes, and is replaced where it
    /// has failed. `open` gives the socket of a port. A session that is `silent` has no use for it.
    pub fn look<'a>(
        &mut self,
        links: &Links,
        helper: &Helper,
        pool: &Pool<AgentPort>,
        settled: Option<PortId>,
        silent: bool,
        open: impl Fn(PortId) -> Option<Open<'a>>,
    ) {
        let Some(up) = &mut self.up else {
            if let Some(settled) = settled.and_then(open)
                && !silent
                && self.lost.elapsed() >= self.patience
                && let Err(problem) = self.raise(links, helper, pool, &settled)
            {
                self.stays_away(&problem);
            }
            return;
        };
        // Its port is there as long as its socket is the one that is open.
        let same = |open: &Open<'_>| (up.local, up.remote) == (open.local, open.remote);
        let Some(own) = open(up.port).filter(same) else {
            return self.lose("its socket was opened anew, or closed", silent);
        };
        let Some(failure) = up.look(links) else {
            return;
        };
        // Its rings hold the queues until they are closed.
        match own.again() {
            Ok(port) => {
                pool.give(0, own.setup(AgentPort::network(port)));
                self.lose(&failure, false);
            }
            Err(problem) => tracing::debug!(%problem, "the rings of the fast path stay open"),
        }
    }

    fn raise(
        &mut self,
        links: &Links,
        helper: &Helper,
        pool: &Pool<AgentPort>,
        settled: &Open<'_>,
    ) -> Result<(), Problem> {
        let interface = self.interface.as_str();
        let tried = || format!("opening the fast path by {interface}");
        let failed = |error: std::io::Error| Problem::io(tried(), &error);
        let (ifindex, mac, sockets) = helper.fast_path()?;
        let has = ethtool::receive_queues(interface).map_err(failed)?;
        // What comes by others comes by the socket.
        let queues = self.rings.queues.unwrap_or(has).min(has).min(MAX_QUEUES);
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
            sent: 0,
        });
        up.lead(links);
        self.reason = None;
        Ok(())
    }

    fn lose(&mut self, why: &str, silent: bool) {
        let Some(up) = self.up.take() else { return };
        let (received, _) = up.lane.counts();
        self.patience = patience(self.patience, up.since.elapsed(), received, silent);
        self.lost = Instant::now();
        let interface = self.interface.as_str();
        let seconds = self.patience.as_secs();
        self.reason = Some(match received {
            0 => {
                let why = "nothing has come by the fast path: what this interface receives may be another's";
                tracing::warn!(
                    interface,
                    "{why}; it is tried again in {seconds} seconds (leave fast_path out if that goes on)"
                );
                why.to_owned()
            }
            _ => {
                tracing::info!(
                    interface,
                    "the fast path was lost: {why}; it is tried again in {seconds} seconds"
                );
                format!("the fast path was lost: {why}")
            }
        });
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
        let nowhere = self.up.as_ref().filter(|up| !up.lane.leads()).map(|_| {
            "where datagrams go next is not known: they leave by the kernel's stack".to_owned()
        });
        let reason = nowhere.or_else(|| self.reason.clone());
        status.reason = status.reason.take().or(reason);
    }
}

impl Up {
    /// Why it is of no more use, once it is not.
    fn look(&mut self, links: &Links) -> Option<String> {
        if self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        if let Some(failure) = self.lane.failure() {
            return Some(failure.to_owned());
        }
        // The rings write it.
        if let Ok(link) = links.get(self.ifindex)
            && link.mac != Some(self.mac)
        {
            return Some("the interface has another MAC address".to_owned());
        }
        self.lead(links);
        let (_, sent) = self.lane.counts();
        let due = match sent - self.sent >= MANY {
            true => REMIND,
            false => REMIND_LATE,
        };
        if self.reminded.elapsed() >= due {
            (self.reminded, self.sent) = (Instant::now(), sent);
            self.lane.remind();
        }
        None
    }

    fn lead(&self, links: &Links) {
        let next_hop = links.next_hop(self.local, self.remote, MARK, self.ifindex);
        let next_hop = next_hop.unwrap_or_else(|error| {
            tracing::debug!(%error, "datagrams go by the socket");
            None
        });
        self.lane.lead_to(next_hop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_a_fast_path_was_good_for_the_longer_it_stays_away() {
        let seconds = Duration::from_secs;
        let mut before = Duration::ZERO;
        let mut all = Vec::new();
        for _ in 0..12 {
            before = patience(before, seconds(59), 1, false);
            all.push(before.as_secs());
        }
        assert_eq!(all[..5], [1, 2, 4, 8, 16]);
        assert_eq!(all[11], 600);
        assert_eq!(patience(before, seconds(60), 1, false), AGAIN);
        assert_eq!(
            patience(Duration::ZERO, seconds(3600), 0, false),
            AGAIN_LATE
        );
        let after_silence = patience(Duration::ZERO, seconds(3600), 1, true);
        assert_eq!(after_silence, HELD);
        assert_eq!(patience(after_silence, seconds(3), 1, true), seconds(480));
    }
}
