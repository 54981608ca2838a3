//! From the rings to the host interface.

use super::*;
use crate::inner::{self, Inner, control};
use crate::peer::Peer;
use crate::schedule::QUANTUM;
use crate::session::OpenError;
use wire::kind;

/// Frames taken off one port's rings in one round.
const BURST: usize = 4 * BATCH;

/// Where an opened packet lies: the frame's place in the batch, and the bytes within it.
type Lies = (usize, usize, usize);

impl<P: Port, H: Host> Worker<P, H> {
    /// Takes what the ports have received and sorts it by Workstation.
    pub(super) fn receive(&mut self) -> bool {
        let mut worked = false;
        for id in &self.order {
            let Some(port) = self.ports.get_mut(id) else {
                continue;
            };
            let taken = port.io.receive(&mut self.received, BURST);
            port.drained = taken < BURST;
            port.touched |= taken > 0;
            worked |= taken > 0;
            self.counters.received.add(taken as u64);
            for frame in self.received.drain(..) {
                let bytes = port.io.data(&frame).get(ETH_LEN..).unwrap_or_default();
                let Ok(header) = Header::decode(bytes) else {
                    self.counters.unattributed.add(1);
                    port.io.release(frame);
                    continue;
                };
                if header.kind != kind::DATA {
                    let at = self.seat.as_ref().map_or(0, Seat::number);
                    hand_over(
                        port,
                        (*id, at),
                        &header,
                        &frame,
                        &self.events,
                        &self.counters,
                    );
                    port.io.release(frame);
                    continue;
                }
                let owner = self
                    .sessions
                    .get(header.index)
                    .map(|session| (session.workstation, session.port));
                let peer = owner
                    .filter(|(_, port)| port == id)
                    .and_then(|(owner, _)| self.peers.get_mut(owner as usize)?.as_mut());
                let Some(peer) = peer else {
                    let seat = self.seat.as_mut();
                    handoff::pass_on(seat, *id, port, &header, &frame, &self.counters);
                    port.io.release(frame);
                    continue;
                };
                if let Some(ledger) = peer.ledger(*id) {
                    ledger.take();
                }
                peer.queue.push_back(Queued {
                    port: *id,
                    header,
                    frame: Held::Own(frame),
                });
                self.schedule.activate(peer.id);
            }
        }
        worked
    }

    /// Serves every Workstation that waits one turn.
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
                self.open_batch(id, now);
            }
            let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::as_mut) else {
                continue;
            };
            if peer.queue.is_empty() {
                peer.deficit = 0;
            } else {
                self.schedule.activate(id);
            }
            for (port, ledger) in &peer.ledgers {
                if let Some(port) = self.ports.get(port) {
                    port.tables.set_consumed(id, ledger.consumed());
                }
            }
            let standing = peer.standing;
            for index in [standing.pending, standing.current, standing.previous] {
                if let Some(session) = self.sessions.get(index)
                    && let Some(port) = self.ports.get(&session.port)
                {
                    port.tables.set_floor(slot_of(index), session.floor());
                }
            }
        }
        turns > 0
    }

    /// Moves what the Workstation may be served, at most a batch, into `self.batch`.
    fn fill_batch(&mut self, id: WorkstationId) -> bool {
        let Some(peer) = self.peers.get_mut(id as usize).and_then(Option::as_mut) else {
            return false;
        };
        while self.batch.len() < BATCH {
            let Some(next) = peer.queue.front() else {
                break;
            };
            let cost = next.header.frame_len();
            if cost > peer.deficit {
                break;
            }
            peer.deficit -= cost;
            self.batch.extend(peer.queue.pop_front());
        }
        !self.batch.is_empty()
    }

    /// Opens the batch in place, checks the packets and writes them to the host interface.
    fn open_batch(&mut self, id: WorkstationId, now: u64) {
        let mut packets: [Lies; BATCH] = [(0, 0, 0); BATCH];
        let mut count = 0;
        for at in 0..self.batch.len() {
            if let Some((start, len)) = self.open_one(id, at, now) {
                packets[count] = (at, start, len);
                count += 1;
            }
        }
        let counters = match self.peers.get(id as usize).and_then(Option::as_ref) {
            Some(peer) => Arc::clone(&peer.counters),
            None => Arc::default(),
        };
        if count > 0 {
            let mut slices: [&[u8]; BATCH] = [&[]; BATCH];
            for (slice, (at, start, len)) in slices.iter_mut().zip(&packets[..count]) {
                let queued = &self.batch[*at];
                if let Some(port) = self.ports.get(&queued.port) {
                    *slice = &queued.frame.data(&port.io)[*start..*start + *len];
                }
            }
            let report = self.coalescer.write(&slices[..count], &mut self.host);
            counters.rx_packets.add(report.packets as u64);
            counters.rx_bytes.add(report.bytes as u64);
            counters.host_refused.add(report.dropped as u64);
            self.counters.host_writes.add(report.writes as u64);
            self.counters
                .super_packets_written
                .add(report.super_packets as u64);
        }
        let mut peer = self.peers.get_mut(id as usize).and_then(Option::as_mut);
        for queued in self.batch.drain(..) {
            if let Some(ledger) = peer.as_mut().and_then(|peer| peer.ledger(queued.port)) {
                ledger.finish();
            }
            if let Some(port) = self.ports.get_mut(&queued.port) {
                queued.frame.release(&mut port.io, self.seat.as_ref());
                port.touched = true;
            }
        }
    }

    /// Opens one frame of the batch. What is to be written to the host interface is returned as
    /// start and length within the frame.
    fn open_one(&mut self, id: WorkstationId, at: usize, now: u64) -> Option<(usize, usize)> {
        let queued = &mut self.batch[at];
        let header = queued.header;
        let port = self.ports.get_mut(&queued.port)?;
        let peer = self.peers.get_mut(id as usize)?.as_mut()?;
        let Some(session) = self.sessions.get(header.index) else {
            peer.counters.expired.add(1);
            return None;
        };
        let frame = queued.frame.data_mut(&mut port.io).get_mut(ETH_LEN..)?;
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
                // At the Gateway the source must be the Workstation's own, and nothing goes from
                // one Workstation to another.
                if self.role == Role::Gateway {
                    if self.routes.owner(packet.source) != Some(id) {
                        peer.counters.inner_source.add(1);
                        return None;
                    }
                    if self.routes.owner(packet.destination).is_some() {
                        peer.counters.inner_destination.add(1);
                        return None;
                    }
                }
                Some((ETH_LEN + HEADER_LEN, packet.len))
            }
        }
    }
}

/// What to do with a control message.
enum Handling {
    Ignore,
    Refuse,
    Answer([u8; control::PING_LEN]),
    Report(Vec<u8>),
}

fn control_message<F>(
    role: Role,
    kind: u8,
    payload: &[u8],
    peer: &mut Peer<F>,
    now: u64,
) -> Handling {
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
