//! Changes of interfaces as they happen: cables pulled, interfaces removed, added again, renamed.
//!
//! The kernel drops messages when nobody reads them in time and says so (ENOBUFS). Then what is
//! still queued is older than what was lost: it is read to its end first, and the difference
//! between the list of interfaces and what was known is given as events.

use super::netlink::Netlink;
use super::{LinkError, LinkInfo, Links, link_of, refused};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The bit of RTNLGRP_LINK in a socket's mask of groups.
const GROUP_LINK: u32 = 1;

/// What happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// It is there. Also given for each interface that existed when the monitor was opened.
    Added {
        /// Whether it is set up.
        up: bool,
        /// Whether it has a carrier.
        carrier: bool,
    },
    /// It is gone from this network namespace.
    Removed,
    /// It was set up or down, or its carrier came or went.
    State {
        /// Whether it is set up.
        up: bool,
        /// Whether it has a carrier.
        carrier: bool,
    },
    /// It has another MAC address or another MTU now.
    Altered,
    /// It has another name now, the event's.
    Renamed {
        /// Its former name.
        from: String,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    /// The interface's index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What happened.
    pub change: LinkChange,
}

#[derive(PartialEq, Eq)]
struct Known {
    name: String,
    up: bool,
    carrier: bool,
    mac: Option<[u8; 6]>,
    mtu: u32,
}

impl From<LinkInfo> for Known {
    fn from(link: LinkInfo) -> Self {
        Self {
            name: link.name,
            up: link.up,
            carrier: link.carrier,
            mac: link.mac,
            mtu: link.mtu,
        }
    }
}

/// Watches the interfaces of one network namespace. Its descriptor becomes readable when
/// [`LinkMonitor::next`] may have something.
pub struct LinkMonitor {
    netlink: Netlink,
    links: Links,
    known: BTreeMap<u32, Known>,
    events: VecDeque<LinkEvent>,
    /// Messages were lost, and the list was not read since.
    lost: bool,
    resyncs: u64,
}

impl LinkMonitor {
    /// Opens it in the calling thread's network namespace. The first events are the interfaces
    /// that exist.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn open() -> Result<Self, LinkError> {
        // Subscribed before the list is read, so that nothing falls in between.
        let what = "subscribing to interface changes";
        let netlink = Netlink::open(GROUP_LINK).map_err(refused(what))?;
        netlink
            .socket()
            .set_non_blocking(true)
            .map_err(refused(what))?;
        let mut monitor = Self {
            netlink,
            links: Links::open()?,
            known: BTreeMap::new(),
            events: VecDeque::new(),
            lost: false,
            resyncs: 0,
        };
        monitor.resync()?;
        Ok(monitor)
    }

    /// The next event, or `None` when there is none now. Does not block.
    ///
    /// # Errors
    /// What the kernel answered. It may be called again.
    #[expect(clippy::should_implement_trait, reason = "it may give more after None")]
    pub fn next(&mut self) -> Result<Option<LinkEvent>, LinkError> {
        while self.events.is_empty() {
            match self.netlink.receive() {
                Ok(messages) => messages.into_iter().for_each(|m| self.apply(m)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.lost {
                        return Ok(None);
                    }
                    self.resync()?;
                    self.lost = false;
                    self.resyncs += 1;
                }
                Err(error) => return Err(refused("reading interface changes")(error)),
            }
        }
        Ok(self.events.pop_front())
    }

    /// Waits up to `timeout` for an event.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn wait(&mut self, timeout: std::time::Duration) -> Result<Option<LinkEvent>, LinkError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            if let Some(event) = self.next()? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let mut set = [nix::poll::PollFd::new(
                self.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            match nix::poll::poll(&mut set, millis) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(refused("waiting for interface changes")(errno.into())),
            }
        }
    }

    /// How often messages were lost and the list read anew.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    fn apply(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            return;
        };
        match message {
            // A bridge speaks of its ports with messages of its own family: leaving a bridge is
            // a DelLink of AF_BRIDGE.
            RouteNetlinkMessage::NewLink(link)
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.see(link_of(&link));
            }
            RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.forget(link.header.index);
            }
            _ => {}
        }
    }

    fn see(&mut self, link: LinkInfo) {
        let index = link.index;
        let now = Known::from(link);
        let (name, up, carrier) = (now.name.clone(), now.up, now.carrier);
        let (mac, mtu) = (now.mac, now.mtu);
        let mut event = |change| {
            let name = name.clone();
            self.events.push_back(LinkEvent {
                index,
                name,
                change,
            });
        };
        match self.known.insert(index, now) {
            None => event(LinkChange::Added { up, carrier }),
            Some(before) => {
                if before.name != name {
                    event(LinkChange::Renamed { from: before.name });
                }
                if (before.up, before.carrier) != (up, carrier) {
                    event(LinkChange::State { up, carrier });
                }
                if (before.mac, before.mtu) != (mac, mtu) {
                    event(LinkChange::Altered);
                }
            }
        }
    }

    fn forget(&mut self, index: u32) {
        if let Some(known) = self.known.remove(&index) {
            self.events.push_back(LinkEvent {
                index,
                name: known.name,
                change: LinkChange::Removed,
            });
        }
    }

    fn resync(&mut self) -> Result<(), LinkError> {
        let links = self.links.list_bare()?;
        let gone: Vec<u32> = self
            .known
            .keys()
            .filter(|index| links.iter().all(|link| link.index != **index))
            .copied()
            .collect();
        gone.into_iter().for_each(|index| self.forget(index));
        links.into_iter().for_each(|link| self.see(link));
        Ok(())
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the monitor.
        unsafe { BorrowedFd::borrow_raw(self.netlink.socket().as_raw_fd()) }
    }
}
