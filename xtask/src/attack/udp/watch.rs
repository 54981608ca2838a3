//! What is watched at every host while an attack runs: nothing of it may be seen there.

use std::net::Ipv4Addr;

use anyhow::Result;
use wire::kind;

use super::outer::{OWN_V4, OWN_V6};
use crate::attack::frame::{Mac, header_of};
use crate::rig::{Capture, Captured, HOST_INTERFACE, Networks, PacketKind};

/// The port of the echo server that the probes go to.
pub(super) const ECHO: u16 = 7;
/// The addresses that ws1 and ws2 are seen at.
const HOME: [u8; 4] = [198, 51, 100, 2];
const NEIGHBOUR: [u8; 4] = [198, 18, 0, 2];

const MEANINGS: usize = 8;
/// Which of the captures has what went to strangers, and which what came out of the tunnel.
const STRANGERS: usize = 0;
const TUNNEL: usize = 5;

/// The captures, and what each that has something means.
pub(super) struct Watch {
    all: [(Capture, &'static str); MEANINGS],
    /// Probes of ws1 that came out of the tunnel at the Gateway, and their echoes at ws1.
    probes: [Capture; 2],
    hellos: Capture,
}

/// What they had counted at one moment.
pub(super) struct Watched {
    all: [u64; MEANINGS],
    probes: [u64; 2],
    hellos: u64,
    overruns: u64,
}

impl Watch {
    /// `inner` are the inner addresses of ws1 and ws2, `router` is the MAC address that the Gateway answers to.
    pub(super) fn new(networks: &Networks, inner: [Ipv4Addr; 2], router: Mac) -> Result<Self> {
        let gateway = networks.gateway.namespace();
        let workstation = networks.workstation.namespace();
        // Questions for its address are answered behind this capture and before the kernel's protocols.
        let kernel = Capture::filtered(gateway, Some("wan"), 16, |frame| {
            is_incoming(frame) && !is_neighbours(frame)
        })?;
        let [v4, v6, arp] =
            [0x0800, 0x86dd, 0x0806].map(|ethertype| Capture::into_stack(gateway, ethertype, 16));
        let tunnel = Capture::filtered(gateway, Some(HOST_INTERFACE), 16, move |frame| {
            is_incoming(frame) && !inner.iter().any(|from| is_wanted(&frame.bytes, *from))
        })?;
        let host = Capture::filtered(workstation, Some(HOST_INTERFACE), 16, |frame| {
            is_incoming(frame) && !is_wanted(&frame.bytes, crate::rig::GATEWAY_V4)
        })?;
        let strangers = Capture::filtered(&networks.internet, Some("ig"), 16, |frame| {
            is_incoming(frame) && !is_neighbours(frame) && !is_to_known(&frame.bytes)
        })?;
        let astray = Capture::filtered(&networks.internet, Some("ig"), 16, move |frame| {
            is_incoming(frame) && !is_neighbours(frame) && frame.destination() != router
        })?;
        let probes = |host, from| {
            Capture::filtered(host, Some(HOST_INTERFACE), 0, move |frame| {
                is_incoming(frame) && is_probe(&frame.bytes, from)
            })
        };
        let probes = [
            probes(gateway, inner[0])?,
            probes(workstation, crate::rig::GATEWAY_V4)?,
        ];
        let hellos = Capture::filtered(&networks.home, Some("hw"), 4, |frame| {
            header_of(&frame.bytes).is_some_and(|header| header.kind == kind::HELLO)
                && frame.kind == PacketKind::Outgoing
        })?;
        Ok(Self {
            all: [
                (
                    strangers,
                    "went from the Gateway to somebody it does not know",
                ),
                (kernel, "passed XDP at the Gateway"),
                (v4?, "of IPv4 reached the Gateway's kernel"),
                (v6?, "of IPv6 reached the Gateway's kernel"),
                (arp?, "of ARP reached the Gateway's kernel"),
                (tunnel, "came out of the tunnel at the Gateway"),
                (host, "came out of the tunnel at ws1"),
                (
                    astray,
                    "went from the Gateway to another station than the router",
                ),
            ],
            probes,
            hellos,
        })
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        let all = self.all.iter().map(|(capture, _)| capture);
        all.chain(&self.probes).chain([&self.hellos])
    }

    /// What is counted by now.
    pub(super) fn count(&self) -> Result<Watched> {
        // At once: each waits a while.
        std::thread::scope(|scope| {
            let settling = self.captures().map(|one| scope.spawn(|| one.settle()));
            let settling: Vec<_> = settling.collect();
            settling.into_iter().try_for_each(|one| match one.join() {
                Ok(settled) => settled,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let frames = |capture: &Capture| capture.incoming() + capture.outgoing();
        Ok(Watched {
            all: self.all.each_ref().map(|(capture, _)| frames(capture)),
            probes: self.probes.each_ref().map(Capture::incoming),
            hellos: frames(&self.hellos),
            overruns: self.captures().map(Capture::overruns).sum(),
        })
    }

    /// What was seen since and should not have been, in sentences. `answered` is whether strangers may be.
    pub(super) fn broken(&self, before: &Watched, now: &Watched, answered: bool) -> Vec<String> {
        let mut broken = Vec::new();
        for (at, (capture, meaning)) in self.all.iter().enumerate() {
            let count = now.all[at] - before.all[at];
            let seen = capture.take();
            if count > 0 && !(answered && at == STRANGERS) {
                let first = seen.first().map(|frame| frame.bytes.clone());
                let first = first.unwrap_or_default();
                let first = &first[..first.len().min(64)];
                broken.push(format!("{count} frames {meaning}, the first {first:02x?}"));
            }
        }
        if now.overruns > before.overruns {
            broken.push("a capture missed frames".into());
        }
        broken
    }
}

impl Watched {
    /// Frames that went into the Gateway's kernel or out of the tunnel there, and at ws1.
    pub(super) fn reached(&self, before: &Self) -> [u64; 2] {
        let grown = |at: usize| self.all[at] - before.all[at];
        [(1..=TUNNEL).map(grown).sum(), grown(TUNNEL + 1)]
    }

    /// Probes of ws1 that came out of the tunnel at the Gateway, each time that one did, and their echoes at ws1.
    pub(super) fn probes(&self, before: &Self) -> [u64; 2] {
        [0, 1].map(|at| self.probes[at] - before.probes[at])
    }

    /// Hellos that ws1 has sent.
    pub(super) fn hellos(&self, before: &Self) -> u64 {
        self.hellos - before.hellos
    }
}

fn is_incoming(frame: &Captured) -> bool {
    frame.kind == PacketKind::Incoming
}

/// ARP and neighbour discovery: the answers to the router's questions.
fn is_neighbours(frame: &Captured) -> bool {
    let next = frame.bytes.get(20) == Some(&58);
    frame.ethertype() == 0x0806
        || frame.ethertype() == 0x86dd
            && next
            && frame
                .bytes
                .get(54)
                .is_some_and(|kind| (133..138).contains(kind))
}

/// Whether a frame is for ws1, ws2 or the attacker.
fn is_to_known(frame: &[u8]) -> bool {
    let v4 = frame.get(30..34).is_some_and(|to| {
        [HOME, NEIGHBOUR, OWN_V4.octets()]
            .iter()
            .any(|known| known == to)
    });
    v4 || frame.get(38..54) == Some(&OWN_V6.octets())
}

/// A probe or a ping, or what answers it, from an inner address.
fn is_wanted(packet: &[u8], from: Ipv4Addr) -> bool {
    let ping = packet.get(9) == Some(&1)
        && packet.get(8) == Some(&64)
        && packet.get(20).is_some_and(|kind| *kind == 0 || *kind == 8);
    packet.get(12..16) == Some(&from.octets()) && (ping || is_probe(packet, from))
}

fn is_probe(packet: &[u8], from: Ipv4Addr) -> bool {
    let port = |at: usize| packet.get(at..at + 2) == Some(&ECHO.to_be_bytes()[..]);
    packet.get(12..16) == Some(&from.octets())
        && packet.get(9) == Some(&17)
        && packet.get(8) != Some(&crate::attack::inner::HOPS)
        && (port(20) || port(22))
}
