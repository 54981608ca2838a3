//! From the rings to the host interface.

use super::*;
use crate::host::vnet::VnetHeader;
use crate::inner::{self, Inner, Packet, control};
use crate::policy::{Place, Verdict};
use crate::prefetch::prefetch;
use crate::schedule::{self, QUANTUM};
use crate::session::OpenError;
use std::ops::Range;
use wire::kind;

/// How many frames ahead of the one whose header is read the CPU is asked for.
const AHEAD: usize = 8;

/// An opened packet: its frame's place in the batch, and the bytes within the frame.
#[derive(Clone, Copy, Default)]
struct Opened {
    at: usize,
    start: usize,
    len: usize,
}

/// Where an opened packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the host interface.
    Host,
    /// To another Workstation, past the Gateway's stack.
    Peer,
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Takes what the ports have received and sorts it by Workstation.
    pub(super) fn receive(&mut self) -> bool {
        let mut worked = false;
        for at in 0..self.order.len() {
            let id = self.order[at];
            let Some(port) = self.ports.get_mut(id) else {
                continue;
            };
            let taken = port.io.receive(&mut self.received, BURST);
            port.drained = taken < BURST;
            port.touched |= taken > 0;
            worked |= taken > 0;
            self.counters.received.add(taken as u64);
            let mut received = std::mem::take(&mut self.received);
            let mut frames = received.drain(..);
            while frames.len() > 0 {
                self.sort(id, &mut frames);
            }
            drop(frames);
            self.received = received;
        }
        worked
    }

    /// Puts the next batch of received frames into the queues of their Workstations. The headers
    /// are read first, so that the sessions and Workstations they name are on their way when they
    /// are needed.
    fn sort(&mut self, id: PortId, frames: &mut std::vec::Drain<'_, P::Frame>) {
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        let mut headers = [None; BATCH];
        let batch = frames.as_slice();
        let count = batch.len().min(BATCH);
        for (at, frame) in batch[..count].iter().enumerate() {
            if let Some(ahead) = batch.get(at + AHEAD) {
                prefetch(port.io.data(ahead), 3);
            }
            let bytes = port.io.data(frame).get(ETH_LEN..).unwrap_or_default();
            headers[at] = Header::decode(bytes).ok().map(|header| {
                let owner = match header.kind {
                    kind::DATA => self.sessions.owner(header.index),
                    _ => None,
                };
                if let Some((owner, _)) = owner
                    && let Some(peer) = self.peers.get(owner as usize)
                {
                    prefetch(peer, 2);
                }
                (header, owner)
            });
        }
        for (header, frame) in headers.iter().zip(frames.take(count)) {
            let Some((header, owner)) = *header else {
                self.counters.unattributed.add(1);
                port.io.release(frame);
                continue;
            };
            if header.kind != kind::DATA {
                let at = self.seat.as_ref().map_or(0, Seat::number);
                hand_over(
                    port,
                    (id, at),
                    &header,
                    &frame,
                    &self.events,
                    &self.counters,
                );
                port.io.release(frame);
                continue;
            }
            let peer = owner
                .filter(|(_, port)| *port == id)
                .and_then(|(owner, _)| self.peers.get_mut(owner as usize)?.as_mut());
            let Some(peer) = peer else {
                let seat = self.seat.as_mut();
                handoff::pass_frame(seat, id, port, &header, &frame, &self.counters);
                port.io.release(frame);
                continue;
            };
            if let Some(ledger) = peer.ledger(id) {
                ledger.take();
            }
            let waiting = Waiting {
                workstation: peer.id,
                port: id,
                header,
                frame: Held::Own(frame),
            };
            self.backlog.push(&mut peer.queue, waiting);
            self.schedule.activate(peer.id);
        }
    }

    /// Serves every Workstation that waits one turn. A batch is made of the turns of as many as it
    /// takes to fill it.
    pub(super) fn serve(&mut self, now: u64) -> bool {
        let turns = self.schedule.len();
        for _ in 0..turns {
            let Some(id) = self.schedule.turn() else {
                break;
            };
            if let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::as_mut) {
                peer.deficit += QUANTUM;
            }
            while self.fill_batch(id) {
                self.open_batch(now);
            }
            let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::as_mut) else {
                continue;
            };
            if peer.queue.is_empty() {
                peer.deficit = 0;
            } else {
                self.schedule.activate(id);
            }
        }
        if !self.batch.is_empty() {
            self.open_batch(now);
        }
        turns > 0
    }

    /// Moves what the Workstation may be served into the batch. True when that is full.
    fn fill_batch(&mut self, id: WorkstationId) -> bool {
        let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::as_mut) else {
            return false;
        };
        while self.batch.len() < BATCH {
            let Some(next) = self.backlog.front(&peer.queue) else {
                return false;
            };
            let cost = schedule::cost(next.header.frame_len());
            if cost > peer.deficit {
                return false;
            }
            peer.deficit -= cost;
            if let Some(session) = self.sessions.get(next.header.index) {
                session.prefetch_open(next.header.counter);
                prefetch(peer.counters.as_ref(), 1);
                if let (Held::Own(frame), Some(port)) = (&next.frame, self.ports.get(next.port)) {
                    prefetch(port.io.data(frame), 3);
                }
            }
            self.batch.extend(self.backlog.detach(&mut peer.queue));
        }
        true
    }

    /// Opens the batch in place, checks the packets and writes them to the host interface.
    fn open_batch(&mut self, now: u64) {
        let mut packets = [Opened::default(); BATCH];
        let mut count = 0;
        for at in 0..self.batch.len() {
            let place = self.batch[at];
            match self.open_one(place, now) {
                Some((start, len, Way::Host)) => {
                    packets[count] = Opened { at, start, len };
                    count += 1;
                }
                Some((start, len, Way::Peer)) => self.relay(place, start..start + len, now),
                None => {}
            }
        }
        let packets = &packets[..count];
        let refused = self.write(packets);
        self.finish_batch(packets, refused);
    }

    /// Writes opened packets to the host interface. Which it refused, a bit for each.
    fn write(&mut self, packets: &[Opened]) -> u64 {
        if packets.is_empty() {
            return 0;
        }
        let mut slices: [&[u8]; BATCH] = [&[]; BATCH];
        for (slice, packet) in slices.iter_mut().zip(packets) {
            if let Some(waiting) = self.backlog.get(self.batch[packet.at])
                && let Some(port) = self.ports.get(waiting.port)
            {
                let data = waiting.frame.data(&port.io);
                *slice = &data[packet.start..packet.start + packet.len];
            }
        }
        let report = self
            .coalescer
            .write(&slices[..packets.len()], &mut self.host);
        let counters = &self.counters;
        counters.host_writes.add(report.writes as u64);
        counters
            .super_packets_written
            .add(report.super_packets as u64);
        report.refused
    }

    /// Gives the frames of the batch back, and credit and replay floors to XDP: once for a run of
    /// frames of one Workstation and session.
    fn finish_batch(&mut self, packets: &[Opened], refused: u64) {
        let mut packets = packets.iter().enumerate().peekable();
        let mut batch = std::mem::take(&mut self.batch);
        let mut last = None;
        for (at, place) in batch.drain(..).enumerate() {
            let Some(waiting) = self.backlog.take(place) else {
                continue;
            };
            let of = (waiting.workstation, waiting.port, waiting.header.index);
            if last.is_some_and(|last| last != of) {
                self.publish(last);
            }
            last = Some(of);
            let packet = packets.next_if(|(_, packet)| packet.at == at);
            if let Some(Some(peer)) = self.peers.get_mut(waiting.workstation as usize) {
                if let Some(ledger) = peer.ledger(waiting.port) {
                    ledger.finish();
                }
                match packet {
                    Some((number, _)) if refused >> number & 1 != 0 => {
                        peer.counters.host_refused.add(1);
                    }
                    Some((_, packet)) => {
                        peer.counters.rx_packets.add(1);
                        peer.counters.rx_bytes.add(packet.len as u64);
                    }
                    None => {}
                }
            }
            if let Some(port) = self.ports.get_mut(waiting.port) {
                waiting.frame.release(&mut port.io, self.seat.as_ref());
                port.touched = true;
            }
        }
        self.publish(last);
        self.batch = batch;
    }

    fn publish(&mut self, of: Option<(WorkstationId, PortId, u32)>) {
        let Some((owner, id, index)) = of else { return };
        let Some(port) = self.ports.get(id) else {
            return;
        };
        if let Some(Some(peer)) = self.peers.get_mut(owner as usize)
            && let Some(ledger) = peer.ledger(id)
        {
            port.tables.set_consumed(owner, ledger.consumed());
        }
        if let Some(session) = self.sessions.get(index) {
            port.tables.set_floor(slot_of(index), session.floor());
        }
    }

    /// Sends an opened packet to the Workstation it is for, whichever worker has that one's session.
    fn relay(&mut self, place: u32, lies: Range<usize>, now: u64) {
        let Some(waiting) = self.backlog.get(place) else {
            return;
        };
        if let Some(Some(peer)) = self.peers.get(waiting.workstation as usize) {
            peer.counters.rx_packets.add(1);
            peer.counters.rx_bytes.add(lies.len() as u64);
        }
        let Some(port) = self.ports.get(waiting.port) else {
            return;
        };
        let packet = waiting.frame.data(&port.io).get(lies).unwrap_or_default();
        let Some(lies) = outbound::put(&mut self.packet, packet) else {
            return;
        };
        self.segment(VnetHeader::default(), lies, now);
    }

    /// Opens one frame of the batch. A packet that is let through is returned as start and length
    /// within the frame, and which way it goes.
    fn open_one(&mut self, place: u32, now: u64) -> Option<(usize, usize, Way)> {
        let waiting = self.backlog.get_mut(place)?;
        let header = waiting.header;
        let port = self.ports.get_mut(waiting.port)?;
        let id = waiting.workstation;
        let peer = self.peers.get_mut(id as usize)?.as_mut()?;
        let Some(session) = self.sessions.get(header.index) else {
            peer.counters.expired.add(1);
            return None;
        };
        let frame = waiting.frame.data_mut(&mut port.io).get_mut(ETH_LEN..)?;
        let payload = match session.open(&header, frame, now) {
            Ok(payload) => payload,
            Err(error) => {
                let counter = match error {
                    OpenError::Malformed => &peer.counters.inner_malformed,
                    OpenError::Replay => &peer.counters.replayed,
                    OpenError::Forged => &peer.counters.open_failed,
                    OpenError::Expired => &peer.counters.expired,
                };
                counter.add(1);
                return None;
            }
        };
        peer.counters.opened.add(1);
        if peer.standing.opened(header.index) {
            self.outbox.push_back(Event::Confirmed {
                workstation: id,
                index: header.index,
            });
        }
        match inner::parse(payload) {
            Err(inner::Malformed) => {
                peer.counters.inner_malformed.add(1);
                None
            }
            Ok(Inner::Control(kind)) => {
                let message = control_message(self.role, kind, payload, peer, now);
                match message {
                    Handling::Ignore => {}
                    Handling::Refuse => peer.counters.control_refused.add(1),
                    Handling::Answer(pong) => self.send_control(header.index, &pong, now),
                    Handling::Report(message) => offer(
                        &self.events,
                        &self.counters,
                        Event::Inner {
                            workstation: id,
                            index: header.index,
                            message,
                        },
                    ),
                }
                None
            }
            Ok(Inner::Packet(packet)) => {
                let way = match self.role {
                    Role::Gateway => permit(&self.routes, peer, &packet, payload)?,
                    Role::Workstation => Way::Host,
                };
                Some((ETH_LEN + HEADER_LEN, packet.len, way))
            }
        }
    }
}

/// At the Gateway the source must be the Workstation's own, and its policy must let the packet
/// through to where it goes. A refusal is counted.
#[inline]
fn permit(routes: &Routes, peer: &mut Peer, packet: &Packet, bytes: &[u8]) -> Option<Way> {
    let (source, destination) = (packet.source, packet.destination);
    let place = match peer.placed {
        Some((version, from, to, place))
            if (version, from, to) == (routes.version(), source, destination) =>
        {
            place
        }
        _ => {
            if routes.owner(source) != Some(peer.id) {
                peer.counters.inner_source.add(1);
                return None;
            }
            let place = routes.place(destination);
            peer.placed = Some((routes.version(), source, destination, place));
            place
        }
    };
    let counter = match peer.policy.judge(place, bytes.get(..packet.len)?) {
        Verdict::Pass if matches!(place, Place::Workstation(_)) => return Some(Way::Peer),
        Verdict::Pass => return Some(Way::Host),
        Verdict::Unreachable => &peer.counters.inner_destination,
        Verdict::Denied => &peer.counters.policy_denied,
        Verdict::Unclassified => &peer.counters.policy_unclassified,
    };
    counter.add(1);
    None
}

/// What to do with a control message.
enum Handling {
    Ignore,
    Refuse,
    Answer([u8; control::PING_LEN]),
    Report(Vec<u8>),
}

fn control_message(role: Role, kind: u8, payload: &[u8], peer: &mut Peer, now: u64) -> Handling {
    const REKEY_LEN: usize = 16 + NOISE_MESSAGE_LEN;
    let len = match (role, kind) {
        (_, control::DUMMY) => return Handling::Ignore,
        (Role::Gateway, control::PING) | (Role::Workstation, control::PONG) => control::PING_LEN,
        (Role::Gateway, control::REKEY_INIT) | (Role::Workstation, control::REKEY_RESP) => {
            REKEY_LEN
        }
        _ => return Handling::Refuse,
    };
    // Padding may follow; what the message is made of must be there.
    let Some(message) = payload.get(..len) else {
        return Handling::Refuse;
    };
    if message[1..8] != [0; 7] {
        return Handling::Refuse;
    }
    if kind == control::PING {
        if !peer.may_pong(now) {
            return Handling::Refuse;
        }
        let mut pong = [0; control::PING_LEN];
        pong.copy_from_slice(message);
        pong[0] = control::PONG;
        return Handling::Answer(pong);
    }
    if !peer.may_control(now) {
        return Handling::Refuse;
    }
    Handling::Report(message.to_vec())
}

/// Gives a handshake frame to control.
fn hand_over<P: Port>(
    port: &WorkerPort<P>,
    (id, worker): (PortId, u16),
    header: &Header,
    frame: &P::Frame,
    events: &Sender<Event>,
    counters: &WorkerCounters,
) {
    let bytes = port.io.data(frame);
    let Some(body) = bytes.get(ETH_LEN..ETH_LEN + header.frame_len()) else {
        return counters.unattributed.add(1);
    };
    let mut source = [0; 6];
    source.copy_from_slice(&bytes[6..12]);
    counters.handshakes.add(1);
    offer(
        events,
        counters,
        Event::Handshake {
            port: id,
            worker,
            source,
            frame: body.to_vec(),
        },
    );
}
