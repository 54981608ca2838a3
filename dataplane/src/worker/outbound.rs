//! From the host interface to the rings.

use super::*;
use crate::host::LARGEST_PACKET;
use crate::host::segment::{self, Segmenter};
use crate::host::too_big;
use crate::host::vnet::{self, VnetHeader};
use crate::inner::{self, Pair};
use crate::session::SealError;
use crate::tap::{Dropped, NOBODY, Reason};
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
            let payload = port.front + HEADER_LEN;
            let room = port.io.capacity().min(payload + DIRECT + TAG_LEN);
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
        let front = port.front;
        let first = data.get_mut(front + HEADER_LEN..).unwrap_or_default();
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
                    front,
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
        let head = len.min(room);
        self.packet[FRONT - head..FRONT].copy_from_slice(&first[..head]);
        port.io.release(frame);
        // Packets read before it leave before it.
        self.seal_batch(now);
        Ok(self.segment(header, FRONT - head..FRONT - head + len, now))
    }

    /// Where a packet with these addresses goes: the Workstation and the session that seals it. A
    /// packet that goes nowhere, or that is not from this Workstation's address, is counted.
    #[inline]
    fn route(&self, pair: Option<Pair>) -> Result<(WorkstationId, u32), (WorkstationId, Reason)> {
        // The tunnel is point to point: what the kernel says to a neighbourhood (MLD, router
        // solicitations) stays here.
        let owner = pair
            .map(|pair| pair.destination())
            .filter(|address| address.is_a_hosts())
            .and_then(|address| match self.role {
                Role::Gateway => self.routes.owner(address),
                Role::Workstation => Some(0),
            });
        if let (Some(own), Some(pair)) = (&self.own, &pair)
            && let Some(Some(peer)) = owner.and_then(|owner| self.peers.get(owner as usize))
            && !own.sends(pair)
        {
            peer.counters.inner_source.add(1);
            return Err((peer.id, Reason::InnerSource));
        }
        let Some(peer) = owner.and_then(|owner| self.peers.get(owner as usize)?.as_ref()) else {
            self.counters.no_route.add(1);
            return Err((NOBODY, Reason::NoRoute));
        };
        Ok((peer.id, peer.standing.sending(self.role)))
    }

    /// Seals the packets that wait in their frames and sends them. Each step is done for all of
    /// them before the next: so sessions and keys are on their way when they are needed, tags are
    /// computed together, and the CPU works on several frames at once. What is the same for a run of
    /// frames of one session is done once for it.
    pub(super) fn seal_batch(&mut self, now: u64) {
        if self.outgoing.is_empty() {
            return;
        }
        self.keep_or_drop_keys();
        self.find_sessions(now);
        self.each_run(|worker, run| worker.spend_run(run, now));
        self.write_headers();
        self.each_run(|worker, run| worker.send_run(run, now));
        self.outgoing.clear();
    }

    /// Finds out whose the packets are that were read into their frames. What goes nowhere is counted
    /// and given back.
    fn find_sessions(&mut self, now: u64) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        let mut last = None;
        for packet in outgoing.iter_mut().filter(|packet| packet.index == 0) {
            let Some(port) = self.ports.get(packet.port) else {
                continue;
            };
            let Some(frame) = &packet.frame else { continue };
            let data = port.io.data(frame);
            let pair = data.get(packet.payload()..).and_then(inner::pair);
            if let Some((same, peer, index)) = last
                && pair == Some(same)
            {
                (packet.peer, packet.index) = (peer, index);
                continue;
            }
            match self.route(pair) {
                Ok((peer, index)) => {
                    (packet.peer, packet.index) = (peer, index);
                    self.sessions.prefetch_seal(index);
                    last = pair.map(|pair| (pair, peer, index));
                }
                Err((of, reason)) => {
                    if self.faucet.is_open() {
                        let packet = &data[packet.payload()..][..packet.len];
                        self.faucet.tell_packet(now, reason, of, packet);
                    }
                    if let Some(frame) = packet.frame.take() {
                        self.release(packet.port, frame);
                    }
                }
            }
        }
        let mut before = 0;
        for packet in &outgoing {
            if packet.index != before
                && let Some(session) = self.sessions.get(packet.index)
            {
                before = packet.index;
                session.prefetch_seal();
            }
        }
        self.outgoing = outgoing;
    }

    /// Does something for each run of packets that are sealed under one session.
    #[inline]
    fn each_run(&mut self, mut work: impl FnMut(&mut Self, &mut [Outgoing<P::Frame>])) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        for run in outgoing.chunk_by_mut(|a, b| (a.index, a.peer) == (b.index, b.peer)) {
            work(self, run);
        }
        self.outgoing = outgoing;
    }

    /// Spends a counter on each packet of a run, and writes its Ethernet header and padding. What
    /// is not to be sealed is counted and given back.
    fn spend_run(&mut self, run: &mut [Outgoing<P::Frame>], now: u64) {
        let (id, index) = (run[0].peer, run[0].index);
        let on = self.sessions.get(index).map(|session| session.port);
        let Some(on) = on.filter(|on| self.ports.get(*on).is_some()) else {
            return self.pass_run(run, now);
        };
        for packet in run.iter_mut().filter(|packet| packet.port != on) {
            // It was read into another port's memory.
            let Some(frame) = packet.frame.take() else {
                continue;
            };
            let from = std::mem::replace(&mut packet.port, on);
            let len = packet.payload() + packet.len;
            packet.frame = self.ports.carry(from, frame, len, on);
            if packet.frame.is_none()
                && let Some(Some(peer)) = self.peers.get(id as usize)
            {
                peer.counters.tx_full.add(1);
            }
        }
        let (Some(Some(peer)), Some(session), Some(port)) = (
            self.peers.get_mut(id as usize),
            self.sessions.get(index),
            self.ports.get_mut(on),
        ) else {
            return;
        };
        let mtu = port.mtu(session);
        let front = session.path.front();
        port.front = front;
        let mut exhausted = false;
        let mut answer = None;
        for packet in run {
            let from = packet.payload();
            let Some(frame) = &mut packet.frame else {
                continue;
            };
            let spent = if packet.len <= mtu {
                let padded = session.padding.apply(packet.len, mtu);
                session.spend(padded, now).map(|spent| (padded, spent))
            } else {
                Err(SealError::TooLarge)
            };
            match spent {
                Ok((padded, spent)) => {
                    self.tags
                        .push(session.peer_admission(), spent.header().words());
                    packet.spent = Some(spent);
                    if packet.front != front {
                        // It was read where the frames of another session have their payload.
                        let to = front + HEADER_LEN;
                        port.io.set_len(frame, from.max(to) + packet.len);
                        let data = port.io.data_mut(frame);
                        data.copy_within(from..from + packet.len, to);
                        packet.front = front;
                    }
                    prepare(port, frame, &session.path, packet.len, padded);
                }
                Err(error) => {
                    exhausted |= error == SealError::Exhausted;
                    if let Some(frame) = packet.frame.take() {
                        let packet = &port.io.data(&frame)[from..][..packet.len];
                        if answer.is_none()
                            && error == SealError::TooLarge
                            && peer.may_tell_too_big(now)
                        {
                            answer = too_big::answer(packet, mtu);
                        }
                        let reason = count_refused(peer, error);
                        if self.faucet.is_open() {
                            self.faucet.tell_packet(now, reason, id, packet);
                        }
                        port.io.release(frame);
                        port.touched = true;
                    }
                }
            }
        }
        if let Some(answer) = answer {
            self.coalescer.write(&[&answer], &mut self.host);
        }
        if session.wears_out() {
            self.outbox.push_back(Event::Worn {
                workstation: id,
                index,
            });
        }
        if exhausted && session.runs_out() {
            self.outbox.push_back(Event::Exhausted {
                workstation: id,
                index,
            });
        }
    }

    /// Gives packets for a Workstation without a session here to the worker that has one, or counts
    /// them.
    #[cold]
    fn pass_run(&mut self, run: &mut [Outgoing<P::Frame>], now: u64) {
        for packet in run {
            let Some(frame) = packet.frame.take() else {
                continue;
            };
            if let Some(Some(peer)) = self.peers.get(packet.peer as usize)
                && let Some(port) = self.ports.get(packet.port)
            {
                let packet = &port.io.data(&frame)[packet.payload()..][..packet.len];
                let seat = self.seat.as_mut();
                let none = VnetHeader::default();
                let dropped = handoff::pass_packet(seat, peer, none, packet, &self.counters);
                if let Some(reason) = dropped.filter(|_| self.faucet.is_open()) {
                    self.faucet.tell_packet(now, reason, peer.id, packet);
                }
            }
            self.release(packet.port, frame);
        }
    }

    /// Writes the headers of all packets that a counter was spent on.
    fn write_headers(&mut self) {
        let mut tags = self.tags.compute().iter();
        for packet in &mut self.outgoing {
            let Some(spent) = &packet.spent else { continue };
            let Some(tag) = tags.next() else { break };
            if let (Some(frame), Some(port)) = (&mut packet.frame, self.ports.get_mut(packet.port))
                // A frame without its header does not open.
                && spent.write_header(&mut port.io.data_mut(frame)[packet.front..], *tag).is_err()
            {
                debug_assert!(false, "no room for a header");
            }
        }
    }

    /// Seals the packets of a run that a counter was spent on, and sends them.
    fn send_run(&mut self, run: &mut [Outgoing<P::Frame>], now: u64) {
        let (id, index, on) = (run[0].peer, run[0].index, run[0].port);
        let (Some(Some(peer)), Some(session), Some(port)) = (
            self.peers.get(id as usize),
            self.sessions.get(index),
            self.ports.get_mut(on),
        ) else {
            return;
        };
        let (mut packets, mut bytes) = (0, 0);
        for packet in run {
            let (Some(mut frame), Some(spent)) = (packet.frame.take(), packet.spent.take()) else {
                continue;
            };
            let data = port.io.data_mut(&mut frame);
            let sealed = session.finish_seal(spent, &mut data[packet.front..]);
            session.path.finish(data);
            let Err((frame, reason)) = send(peer, port, frame, sealed) else {
                packets += 1;
                bytes += packet.len as u64;
                continue;
            };
            if self.faucet.is_open() {
                let dropped = Dropped {
                    port: on,
                    of: id,
                    frame: port.io.data(&frame),
                    front: packet.front,
                    packet: None,
                };
                self.faucet.tell(now, reason, &dropped);
            }
            port.io.release(frame);
        }
        peer.counters.tx_packets.add(packets);
        peer.counters.tx_bytes.add(bytes);
        peer.counters.sealed_blocks.set(session.sealed_blocks());
    }

    fn release(&mut self, port: PortId, frame: P::Frame) {
        if let Some(port) = self.ports.get_mut(port) {
            port.io.release(frame);
        }
    }

    /// Cuts a super-packet, which lies in the buffer, into frames of the port it leaves by.
    pub(super) fn segment(&mut self, header: VnetHeader, lies: Range<usize>, now: u64) -> Read {
        if Segmenter::new(header, &self.packet[lies.clone()]).is_err() {
            self.counters.host_malformed.add(1);
            return Read::Packets(1);
        }
        let pair = inner::pair(&self.packet[lies.clone()]);
        let (id, index) = match self.route(pair) {
            Ok(found) => found,
            Err((of, reason)) => {
                self.tell_packet(now, reason, of, lies);
                return Read::Packets(1);
            }
        };
        let Some(Some(peer)) = self.peers.get(id as usize) else {
            return Read::Packets(1);
        };
        let session = self.sessions.get(index);
        let Some((mtu, front, port)) = session.and_then(|session| {
            let port = self.ports.get(session.port)?;
            Some((port.mtu(session), session.path.front(), session.port))
        }) else {
            let packet = &self.packet[lies.clone()];
            let dropped =
                handoff::pass_packet(self.seat.as_mut(), peer, header, packet, &self.counters);
            if let Some(reason) = dropped {
                self.tell_packet(now, reason, id, lies);
            }
            return Read::Packets(1);
        };
        let counters = Arc::clone(&peer.counters);
        // The segments are read from the buffer while the rest of the worker seals them.
        let buffer = std::mem::take(&mut self.packet);
        let (mut count, mut too_big, mut tx_full) = (0, false, false);
        if let Ok(mut segments) = Segmenter::new(header, &buffer[lies.clone()]) {
            while let len @ 1.. = segments.next_len() {
                if len > mtu {
                    counters.too_big.add(1);
                    too_big = true;
                    break;
                }
                let Some(mut frame) = self.reserve(port, now) else {
                    counters.tx_full.add(1);
                    tx_full = true;
                    break;
                };
                let Some(WorkerPort { io, .. }) = self.ports.get_mut(port) else {
                    break;
                };
                let payload = front + HEADER_LEN;
                io.set_len(&mut frame, payload + len);
                if segments.next(&mut io.data_mut(&mut frame)[payload..]) != Some(len) {
                    io.release(frame);
                    self.counters.host_malformed.add(1);
                    break;
                }
                self.outgoing.push(Outgoing {
                    frame: Some(frame),
                    len,
                    front,
                    port,
                    peer: id,
                    index,
                    spent: None,
                });
                count += 1;
                if self.outgoing.len() == BATCH {
                    self.ring(port, now);
                }
            }
        }
        self.packet = buffer;
        self.seal_batch(now);
        self.counters.super_packets_read.add(u64::from(count > 1));
        if tx_full {
            self.tell_packet(now, Reason::TxFull, id, lies.clone());
        }
        if too_big {
            self.tell_packet(now, Reason::TooBig, id, lies.clone());
            self.answer_too_big(id, lies, mtu, now);
        }
        Read::Packets(count.max(1))
    }

    /// Tells whoever watches of a packet in the buffer that is dropped.
    #[cold]
    fn tell_packet(&mut self, now: u64, reason: Reason, of: WorkstationId, lies: Range<usize>) {
        if self.faucet.is_open() {
            self.faucet.tell_packet(now, reason, of, &self.packet[lies]);
        }
    }

    /// Tells whoever has sent a packet how much of it would have been carried: the host by its interface, a
    /// Workstation by its session.
    #[cold]
    fn answer_too_big(&mut self, id: WorkstationId, lies: Range<usize>, mtu: usize, now: u64) {
        let Some(Some(peer)) = self.peers.get_mut(id as usize) else {
            return;
        };
        if !peer.may_tell_too_big(now) {
            return;
        }
        let packet = &self.packet[lies];
        let source = inner::pair(packet).map(|pair| pair.source());
        let Some(answer) = too_big::answer(packet, mtu) else {
            return;
        };
        let from_workstation = source.is_some_and(|source| self.routes.owner(source).is_some());
        if self.role == Role::Workstation || !from_workstation {
            self.coalescer.write(&[&answer], &mut self.host);
        } else if let Some(lies) = put(&mut self.packet, &answer) {
            // No answer is answered, so this ends here.
            self.segment(VnetHeader::default(), lies, now);
        }
    }

    /// A free frame of a port, which may be one of those that wait to be sealed.
    #[inline]
    fn reserve(&mut self, port: PortId, now: u64) -> Option<P::Frame> {
        if let Some(frame) = self.ports.get_mut(port)?.reserve() {
            return Some(frame);
        }
        self.ring(port, now);
        self.ports.get_mut(port)?.reserve()
    }

    /// Seals what waits and rings the port's doorbell.
    fn ring(&mut self, port: PortId, now: u64) {
        self.seal_batch(now);
        if let Some(port) = self.ports.get_mut(port) {
            // What fails here fails again at the end of the round, where it is handled.
            let _ = port.io.flush();
        }
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
        let (id, on) = (session.workstation, session.port);
        let front = session.path.front();
        let (Some(Some(peer)), Some(port)) = (self.peers.get(id as usize), self.ports.get_mut(on))
        else {
            return;
        };
        // A PONG is as long as its PING, which may have come by a path with smaller headers.
        if front + OVERHEAD + message.len() > port.io.capacity() {
            return peer.counters.too_big.add(1);
        }
        let Some(mut frame) = port.reserve() else {
            return peer.counters.tx_full.add(1);
        };
        let payload = front + HEADER_LEN;
        port.io.set_len(&mut frame, payload + message.len());
        port.io.data_mut(&mut frame)[payload..].copy_from_slice(message);
        self.keep_or_drop_keys();
        let (Some(Some(peer)), Some(session), Some(port)) = (
            self.peers.get(id as usize),
            self.sessions.get(index),
            self.ports.get_mut(on),
        ) else {
            return self.release(on, frame);
        };
        // Over networks the handshake and what finds the path's MTU out are not to depend on that.
        let most = match session.path {
            Path::Ether(_) => port.mtu(session),
            Path::Udp(_) | Path::Socket => port.mtu(session).min(UDP_LEAST_MTU),
        };
        let padded = session.padding.apply(message.len(), most);
        prepare(port, &mut frame, &session.path, message.len(), padded);
        let data = port.io.data_mut(&mut frame);
        let sealed = session.seal(&mut data[front..], padded, now);
        session.path.finish(data);
        if sealed == Err(SealError::Exhausted) && session.runs_out() {
            self.outbox.push_back(Event::Exhausted {
                workstation: id,
                index,
            });
        }
        if let Err((frame, _)) = send(peer, port, frame, sealed) {
            port.io.release(frame);
        }
    }

    /// Sends a handshake frame.
    pub(super) fn send_clear(&mut self, port: PortId, destination: Path, body: &[u8]) {
        let Some(port) = self.ports.get_mut(port) else {
            return;
        };
        let front = destination.front();
        if front + body.len() > port.io.capacity() {
            return;
        }
        let Some(mut frame) = port.reserve() else {
            return;
        };
        port.io.set_len(&mut frame, front + body.len());
        let data = port.io.data_mut(&mut frame);
        destination.write(data, port.mac, port.encapsulation);
        data[front..].copy_from_slice(body);
        destination.finish(data);
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

impl<F> Outgoing<F> {
    /// Where the packet lies in its frame.
    #[inline(always)]
    fn payload(&self) -> usize {
        self.front + HEADER_LEN
    }
}

/// Makes room around a packet of `len` bytes that lies at its payload's place: the outer headers,
/// its padding, and place for the tag.
#[inline]
fn prepare<P: Port>(
    port: &mut WorkerPort<P>,
    frame: &mut P::Frame,
    path: &Path,
    len: usize,
    padded: usize,
) {
    let payload = path.front() + HEADER_LEN;
    port.io.set_len(frame, payload + padded + TAG_LEN);
    let data = port.io.data_mut(frame);
    path.write(data, port.mac, port.encapsulation);
    if padded > len {
        data[payload + len..payload + padded].fill(0);
    }
}

/// Counts what could not be sealed.
fn count_refused(peer: &Peer, error: SealError) -> Reason {
    match error {
        SealError::TooLarge => {
            peer.counters.too_big.add(1);
            Reason::TooBig
        }
        _ => {
            peer.counters.seal_refused.add(1);
            Reason::SealRefused
        }
    }
}

/// Sends a frame if it was sealed and there is room; otherwise counts why not and gives it back.
#[inline]
fn send<P: Port>(
    peer: &Peer,
    port: &mut WorkerPort<P>,
    frame: P::Frame,
    sealed: Result<(), SealError>,
) -> Result<(), (P::Frame, Reason)> {
    port.touched = true;
    if let Err(error) = sealed {
        return Err((frame, count_refused(peer, error)));
    }
    let Err(frame) = port.io.send(frame) else {
        return Ok(());
    };
    // The doorbell makes room; what fails here fails again at the end of the round, where it is
    // handled.
    let _ = port.io.flush();
    let Err(frame) = port.io.send(frame) else {
        return Ok(());
    };
    peer.counters.tx_full.add(1);
    Err((frame, Reason::TxFull))
}
