//! From the host interface to the rings.

use super::*;
use crate::host::LARGEST_PACKET;
use crate::host::segment::{self, Segmenter};
use crate::host::vnet::{self, VnetHeader};
use crate::inner::{self, Address};
use crate::session::{SealError, Spent};
use std::ops::Range;

/// Packets sealed in one round; then the rings are looked at again.
const ROUND: usize = BURST;
/// The largest packet that is read into the frame it will be sealed in. It fits any port's smallest
/// frame or is cut there; what is larger than both is copied once.
const DIRECT: usize = 2048;
/// Room before a super-packet for what of it was read into a frame.
const FRONT: usize = DIRECT;
/// The buffer of a super-packet, with that room.
pub(super) const BUFFER: usize = FRONT + LARGEST_PACKET;

/// What a read of the host interface brought.
pub(super) enum Read {
    /// A packet, which waits in its frame to be sealed.
    Packet,
    /// A super-packet of so many packets, which are on their way.
    Packets(usize),
    Nothing,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Reads packets into frames and seals them there, a batch at a time; cuts super-packets into
    /// frames and seals those.
    pub(super) fn transmit(&mut self, now: u64) -> bool {
        let mut count = 0;
        while count < ROUND {
            match self.read(now) {
                Ok(Read::Nothing) => break,
                Ok(Read::Packets(packets)) => count += packets.max(1),
                Ok(Read::Packet) => {
                    count += 1;
                    if self.outgoing.len() == BATCH {
                        self.seal_batch(now);
                    }
                }
                // A packet that a `virtio_net_hdr` cannot describe: the kernel has dropped it.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    count += 1;
                    self.counters.host_malformed.add(1);
                }
                Err(error) => {
                    self.outbox.push_back(Event::HostFailed(error));
                    self.stopped = true;
                    break;
                }
            }
        }
        self.seal_batch(now);
        count > 0
    }

    /// Reads once: into a frame of the first port, where a single packet stays, and what is more
    /// into the buffer.
    fn read(&mut self, now: u64) -> std::io::Result<Read> {
        let mut header = VnetHeader::default();
        let id = self.order.first().copied().unwrap_or_default();
        let reserved = self.ports.get_mut(id).and_then(|port| {
            let mut frame = port.reserve()?;
            let room = port.io.capacity().min(PAYLOAD + DIRECT + TAG_LEN);
            port.io.set_len(&mut frame, room);
            Some((port, frame))
        });
        let Some((port, mut frame)) = reserved else {
            // Without a frame the packet can only be counted where it is lost.
            let rest = &mut self.packet[FRONT..];
            let read = self.host.read(&mut header, &mut [], rest)?;
            let Some(len) = read else {
                return Ok(Read::Nothing);
            };
            // Packets read before it leave before it.
            self.seal_batch(now);
            return Ok(self.segment(header, FRONT..FRONT + len, now));
        };
        let data = port.io.data_mut(&mut frame);
        let first = data.get_mut(PAYLOAD..).unwrap_or_default();
        let room = first.len().saturating_sub(TAG_LEN);
        let first = &mut first[..room];
        let rest = &mut self.packet[FRONT..];
        let len = match self.host.read(&mut header, first, rest) {
            Ok(Some(len)) => len,
            Ok(None) => {
                port.io.release(frame);
                return Ok(Read::Nothing);
            }
            Err(error) => {
                port.io.release(frame);
                return Err(error);
            }
        };
        if header.gso_type == vnet::GSO_NONE && len <= first.len() {
            match segment::finish(&header, &mut first[..len]) {
                Ok(len) => self.outgoing.push(Outgoing {
                    port: id,
                    frame: Some(frame),
                    len,
                    peer: 0,
                    index: 0,
                    spent: None,
                }),
                Err(_) => {
                    port.io.release(frame);
                    self.counters.host_malformed.add(1);
                }
            }
            return Ok(Read::Packet);
        }
        let front = len.min(room);
        self.packet[FRONT - front..FRONT].copy_from_slice(&first[..front]);
        port.io.release(frame);
        // Packets read before it leave before it.
        self.seal_batch(now);
        Ok(self.segment(header, FRONT - front..FRONT - front + len, now))
    }

    /// Where a packet for `destination` goes: the Workstation and the session that seals it. A
    /// packet that goes nowhere is counted.
    #[inline]
    fn route(&self, destination: Option<Address>) -> Option<(WorkstationId, u32)> {
        // The tunnel is point to point: what the kernel says to a neighbourhood (MLD, router
        // solicitations) stays here.
        let owner = destination
            .filter(|address| !address.is_multicast())
            .and_then(|address| match self.role {
                Role::Gateway => self.routes.owner(address),
                Role::Workstation => Some(0),
            });
        let Some(peer) = owner.and_then(|owner| self.peers.get(owner as usize)?.as_ref()) else {
            self.counters.no_route.add(1);
            return None;
        };
        Some((peer.id, peer.standing.sending(self.role)))
    }

    /// Seals the packets that wait in their frames and sends them. All are looked up before the
    /// first is sealed, so that their sessions and keys are on their way.
    fn seal_batch(&mut self, now: u64) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        for packet in &mut outgoing {
            let Some(port) = self.ports.get(packet.port) else {
                continue;
            };
            let Some(frame) = &packet.frame else { continue };
            let data = port.io.data(frame);
            let destination = data.get(PAYLOAD..).and_then(inner::destination);
            match self.route(destination) {
                Some((peer, index)) => {
                    (packet.peer, packet.index) = (peer, index);
                    self.sessions.owner(index);
                }
                None => packet.len = 0,
            }
        }
        for packet in &outgoing {
            if let Some(session) = self.sessions.get(packet.index) {
                session.prefetch_seal();
            }
        }
        outgoing.retain_mut(|packet| self.begin(packet, now));
        for packet in outgoing.drain(..) {
            self.finish(packet);
        }
        self.outgoing = outgoing;
    }

    /// Spends a counter on a packet and writes its headers. False when it is not to be sealed; then
    /// it is counted and its frame is given back.
    fn begin(&mut self, packet: &mut Outgoing<P::Frame>, now: u64) -> bool {
        let Some(mut frame) = packet.frame.take() else {
            return false;
        };
        let len = packet.len;
        let peer = self.peers.get(packet.peer as usize);
        let (Some(Some(peer)), 1..) = (peer, len) else {
            self.release(packet.port, frame);
            return false;
        };
        let session = self.sessions.get(packet.index);
        let Some(session) = session.filter(|session| self.ports.get(session.port).is_some()) else {
            if let Some(port) = self.ports.get(packet.port) {
                let packet = &port.io.data(&frame)[PAYLOAD..][..len];
                let seat = self.seat.as_mut();
                handoff::pass_packet(seat, peer, VnetHeader::default(), packet, &self.counters);
            }
            self.release(packet.port, frame);
            return false;
        };
        if session.port != packet.port {
            // It was read into another port's memory.
            let from = std::mem::replace(&mut packet.port, session.port);
            let Some(moved) = self.ports.carry(from, frame, PAYLOAD + len, session.port) else {
                peer.counters.tx_full.add(1);
                return false;
            };
            frame = moved;
        }
        let Some(port) = self.ports.get_mut(session.port) else {
            return false;
        };
        let mtu = port.mtu(session);
        if len > mtu {
            peer.counters.too_big.add(1);
            port.io.release(frame);
            return false;
        }
        let begun = begin_seal(session, port, &mut frame, len, mtu, now);
        if session.wears_out() {
            self.outbox.push_back(Event::Worn {
                workstation: peer.id,
                index: packet.index,
            });
        }
        match begun {
            Ok(spent) => {
                (packet.spent, packet.frame) = (Some(spent), Some(frame));
                true
            }
            Err(error) => {
                refuse(peer, port, frame, error);
                false
            }
        }
    }

    /// Seals a packet that was begun and sends it.
    fn finish(&mut self, packet: Outgoing<P::Frame>) {
        let (Some(mut frame), Some(spent)) = (packet.frame, packet.spent) else {
            return;
        };
        let peer = self.peers.get(packet.peer as usize);
        let (Some(Some(peer)), Some(session), Some(port)) = (
            peer,
            self.sessions.get(packet.index),
            self.ports.get_mut(packet.port),
        ) else {
            return self.release(packet.port, frame);
        };
        let data = port.io.data_mut(&mut frame);
        let sealed = session.finish_seal(spent, &mut data[ETH_LEN..]);
        if send(peer, port, frame, sealed) {
            peer.counters.tx_packets.add(1);
            peer.counters.tx_bytes.add(packet.len as u64);
        }
    }

    fn release(&mut self, port: PortId, frame: P::Frame) {
        if let Some(port) = self.ports.get_mut(port) {
            port.io.release(frame);
        }
    }

    /// Cuts a super-packet, which lies in the buffer, into frames of the port it leaves by.
    pub(super) fn segment(&mut self, header: VnetHeader, lies: Range<usize>, now: u64) -> Read {
        let Ok(mut segments) = Segmenter::new(header, &self.packet[lies.clone()]) else {
            self.counters.host_malformed.add(1);
            return Read::Packets(1);
        };
        let Some((id, index)) = self.route(Some(segments.destination().into())) else {
            return Read::Packets(1);
        };
        let Some(Some(peer)) = self.peers.get(id as usize) else {
            return Read::Packets(1);
        };
        let Some((session, port)) = self.sessions.get(index).and_then(|session| {
            let port = self.ports.get_mut(session.port)?;
            Some((session, port))
        }) else {
            let packet = &self.packet[lies];
            handoff::pass_packet(self.seat.as_mut(), peer, header, packet, &self.counters);
            return Read::Packets(1);
        };
        session.prefetch_seal();
        let mtu = port.mtu(session);
        let (mut frames, mut bytes) = (0, 0);
        while let len @ 1.. = segments.next_len() {
            if len > mtu {
                peer.counters.too_big.add(1);
                break;
            }
            let Some(mut frame) = port.reserve() else {
                peer.counters.tx_full.add(1);
                break;
            };
            port.io.set_len(&mut frame, PAYLOAD + len);
            let data = port.io.data_mut(&mut frame);
            if segments.next(&mut data[PAYLOAD..]) != Some(len) {
                port.io.release(frame);
                self.counters.host_malformed.add(1);
                break;
            }
            let sealed = seal(session, port, &mut frame, len, mtu, now);
            if session.wears_out() {
                self.outbox.push_back(Event::Worn {
                    workstation: id,
                    index,
                });
            }
            if !send(peer, port, frame, sealed) {
                break;
            }
            frames += 1;
            bytes += len;
            if frames % BATCH == 0 {
                // What fails here fails again at the end of the round, where it is handled.
                let _ = port.io.flush();
            }
        }
        peer.counters.tx_packets.add(frames as u64);
        peer.counters.tx_bytes.add(bytes as u64);
        self.counters.super_packets_read.add(u64::from(frames > 1));
        Read::Packets(frames.max(1))
    }

    /// Sends a packet that another worker has read.
    pub(super) fn transmit_for(&mut self, header: VnetHeader, packet: &[u8], now: u64) {
        let Some(lies) = put(&mut self.packet, packet) else {
            return self.counters.host_malformed.add(1);
        };
        self.segment(header, lies, now);
    }

    /// Seals a control message under a session and sends it.
    pub(super) fn send_control(&mut self, index: u32, message: &[u8], now: u64) {
        let Some(session) = self.sessions.get(index) else {
            return;
        };
        let peer = self.peers.get(session.workstation as usize);
        let (Some(Some(peer)), Some(port)) = (peer, self.ports.get_mut(session.port)) else {
            return;
        };
        let Some(mut frame) = port.reserve() else {
            return peer.counters.tx_full.add(1);
        };
        port.io.set_len(&mut frame, PAYLOAD + message.len());
        port.io.data_mut(&mut frame)[PAYLOAD..].copy_from_slice(message);
        let mtu = port.mtu(session);
        let sealed = seal(session, port, &mut frame, message.len(), mtu, now);
        send(peer, port, frame, sealed);
    }

    /// Sends a handshake frame.
    pub(super) fn send_clear(&mut self, port: PortId, destination: [u8; 6], body: &[u8]) {
        let Some(port) = self.ports.get_mut(port) else {
            return;
        };
        let Some(mut frame) = port.reserve() else {
            return;
        };
        port.io.set_len(&mut frame, ETH_LEN + body.len());
        let data = port.io.data_mut(&mut frame);
        write_ethernet(data, destination, port.mac, port.ethertype);
        data[ETH_LEN..].copy_from_slice(body);
        if let Err(frame) = port.io.send(frame) {
            port.io.release(frame);
        }
        port.touched = true;
    }
}

/// Puts a packet where a super-packet lies when it was read, and says where that is.
pub(super) fn put(buffer: &mut [u8], packet: &[u8]) -> Option<Range<usize>> {
    let lies = FRONT..FRONT + packet.len();
    buffer.get_mut(lies.clone())?.copy_from_slice(packet);
    Some(lies)
}

/// Where a frame's payload starts.
const PAYLOAD: usize = ETH_LEN + HEADER_LEN;

/// Makes a frame of a packet that lies at its payload's place: padding, headers, seal.
#[inline]
fn seal<P: Port>(
    session: &mut Session,
    port: &mut WorkerPort<P>,
    frame: &mut P::Frame,
    len: usize,
    mtu: usize,
    now: u64,
) -> Result<(), SealError> {
    let spent = begin_seal(session, port, frame, len, mtu, now)?;
    session.finish_seal(spent, &mut port.io.data_mut(frame)[ETH_LEN..])
}

/// The padding and the headers of such a frame.
#[inline]
fn begin_seal<P: Port>(
    session: &mut Session,
    port: &mut WorkerPort<P>,
    frame: &mut P::Frame,
    len: usize,
    mtu: usize,
    now: u64,
) -> Result<Spent, SealError> {
    let padded = session.padding.apply(len, mtu);
    port.io.set_len(frame, PAYLOAD + padded + TAG_LEN);
    let data = port.io.data_mut(frame);
    write_ethernet(data, session.peer_mac, port.mac, port.ethertype);
    data[PAYLOAD + len..PAYLOAD + padded].fill(0);
    session.begin_seal(&mut data[ETH_LEN..], padded, now)
}

/// Gives a frame back that could not be sealed, and counts it.
fn refuse<P: Port>(peer: &Peer, port: &mut WorkerPort<P>, frame: P::Frame, error: SealError) {
    peer.counters.seal_refused.add(1);
    if error == SealError::Exhausted {
        tracing::warn!(
            workstation = peer.id,
            "a session may seal no more; waiting for its rekey"
        );
    }
    port.io.release(frame);
    port.touched = true;
}

/// Sends a frame if it was sealed and there is room; otherwise counts why not and gives it back.
#[inline]
fn send<P: Port>(
    peer: &Peer,
    port: &mut WorkerPort<P>,
    frame: P::Frame,
    sealed: Result<(), SealError>,
) -> bool {
    port.touched = true;
    if let Err(error) = sealed {
        refuse(peer, port, frame, error);
        return false;
    }
    let Err(frame) = port.io.send(frame) else {
        return true;
    };
    // The doorbell makes room; what fails here fails again at the end of the round, where it is
    // handled.
    let _ = port.io.flush();
    let Err(frame) = port.io.send(frame) else {
        return true;
    };
    peer.counters.tx_full.add(1);
    port.io.release(frame);
    false
}

fn write_ethernet(data: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) {
    data[..6].copy_from_slice(&destination);
    data[6..12].copy_from_slice(&source);
    data[12..14].copy_from_slice(&ethertype.to_be_bytes());
}
