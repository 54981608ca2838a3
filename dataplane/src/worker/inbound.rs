//! From the rings to the host interface.

use super::*;
use crate::host::vnet::VnetHeader;
use crate::inner::{self, Inner, Packet, control};
use crate::policy::{Place, Verdict};
use crate::prefetch::prefetch;
use crate::schedule::{self, QUANTUM};
use crate::session::OpenError;
use crate::tap::{Dropped, Reason};
use wire::kind;

/// How many frames ahead of the one whose header is read the CPU is asked for.
const AHEAD: usize = 8;

/// Of no Workstation that is served here.
const NOBODY: WorkstationId = WorkstationId::MAX;

/// What sorting needs of a received frame; `kind` 0 where it could not be decoded.
#[derive(Clone, Copy)]
struct Head {
    counter: u64,
    index: u32,
    owner: WorkstationId,
    length: u16,
    kind: u8,
    front: u8,
}

impl Head {
    const NONE: Self = Self {
        counter: 0,
        index: 0,
        owner: NOBODY,
        length: 0,
        kind: 0,
        front: 0,
    };

    fn header(&self) -> Header {
        Header::new(self.kind, self.length, self.index, self.counter)
    }
}

/// An opened packet: its frame's place in the batch, and its length.
#[derive(Clone, Copy, Default)]
struct Opened {
    at: usize,
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
    pub(super) fn receive(&mut self, now: u64) -> bool {
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
                self.sort(id, &mut frames, now);
            }
            drop(frames);
            self.received = received;
        }
        worked
    }

    /// Puts the next batch of received frames into the queues of their Workstations. The headers
    /// are read first, so that the sessions and Workstations they name are on their way when they
    /// are needed. What is the same for a run of frames of one session is done once for it.
    fn sort(&mut self, id: PortId, frames: &mut std::vec::Drain<'_, P::Frame>, now: u64) {
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        let mut heads = [Head::NONE; BATCH];
        let batch = frames.as_slice();
        let count = batch.len().min(BATCH);
        let mut before = Head::NONE;
        for (at, (head, frame)) in heads.iter_mut().zip(batch).enumerate() {
            if let Some(ahead) = batch.get(at + AHEAD) {
                prefetch(port.io.data(ahead), 3);
            }
            let bytes = port.io.data(frame);
            let front = port.encapsulation.front(bytes).unwrap_or(bytes.len());
            let Ok(header) = Header::decode(bytes.get(front..).unwrap_or_default()) else {
                continue;
            };
            *head = Head {
                counter: header.counter,
                index: header.index,
                owner: NOBODY,
                length: header.length,
                kind: header.kind,
                front: front as u8,
            };
            if header.kind != kind::DATA {
                continue;
            }
            if header.index == before.index {
                head.owner = before.owner;
            } else if let Some((owner, on)) = self.sessions.owner(header.index)
                && on == id
                && let Some(Some(peer)) = self.peers.get(owner as usize)
            {
                prefetch(peer, 2);
                head.owner = owner;
            }
            before = *head;
        }
        let mut heads = &heads[..count];
        while let Some(first) = heads.first() {
            let same = |head: &&Head| head.index == first.index && head.owner == first.owner;
            let run = match first.owner {
                NOBODY => 1,
                _ => heads.iter().take_while(same).count(),
            };
            let (run, rest) = heads.split_at(run);
            heads = rest;
            let Some(Some(peer)) = self.peers.get_mut(first.owner as usize) else {
                // A run of nobody's frames is one frame.
                if let Some(frame) = frames.next() {
                    let seat = self.seat.as_mut();
                    let admitted = first.kind == kind::DATA || admits(port, self.role, &frame, now);
                    match admitted {
                        true => {
                            unsorted(id, port, first, &frame, seat, &self.events, &self.counters)
                        }
                        false => self.counters.unattributed.add(1),
                    }
                    port.io.release(frame);
                }
                continue;
            };
            if let Some(ledger) = peer.ledger(id) {
                ledger.take(run.len() as u64);
            }
            for (head, frame) in run.iter().zip(&mut *frames) {
                let waiting = Waiting {
                    counter: head.counter,
                    index: head.index,
                    workstation: peer.id,
                    port: id,
                    length: head.length,
                    front: head.front,
                    frame: Held::Own(frame),
                };
                self.backlog.push(&mut peer.queue, waiting);
            }
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
        let mut prefetched = 0;
        while self.batch.len() < BATCH {
            let Some(next) = self.backlog.front(&peer.queue) else {
                return false;
            };
            let cost = schedule::cost(next.frame_len());
            if cost > peer.deficit {
                return false;
            }
            peer.deficit -= cost;
            if next.index != prefetched
                && let Some(session) = self.sessions.get(next.index)
            {
                prefetched = next.index;
                session.prefetch_open(next.counter);
                prefetch(peer.counters.as_ref(), 1);
                if let Some(port) = self.ports.get(next.port) {
                    port.tables.prefetch(slot_of(next.index), peer.id);
                }
            }
            self.batch.extend(self.backlog.pop(&mut peer.queue));
        }
        true
    }

    /// Opens the batch in place, checks the packets, writes them to the host interface and gives the
    /// frames back.
    fn open_batch(&mut self, now: u64) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut packets = [Opened::default(); BATCH];
        let mut count = 0;
        let mut first = 0;
        for run in batch.chunk_by_mut(|a, b| a.index == b.index) {
            self.open_run(run, first, now, &mut packets, &mut count);
            first += run.len();
        }
        let packets = &packets[..count];
        let refused = self.write(&batch, packets);
        let mut packets = packets.iter().enumerate().peekable();
        let mut end = 0;
        for run in batch.chunk_by(|a, b| a.index == b.index) {
            end += run.len();
            let (mut written, mut bytes, mut not) = (0, 0, 0);
            while let Some((number, packet)) = packets.next_if(|(_, packet)| packet.at < end) {
                match refused >> number & 1 {
                    0 => (written, bytes) = (written + 1, bytes + packet.len as u64),
                    _ => {
                        not += 1;
                        self.tell_refused(&batch[packet.at], packet.len, now);
                    }
                }
            }
            self.finish_run(run, [written, bytes, not]);
        }
        for waiting in batch.drain(..) {
            if let Some(port) = self.ports.get_mut(waiting.port) {
                waiting.frame.release(&mut port.io, self.seat.as_ref());
            }
        }
        self.batch = batch;
    }

    /// Opens a run of frames of one session, of which the first is number `first` of the batch: all
    /// of them before it is looked at what they carry, so that the CPU works on several at once.
    /// What is to be written to the host interface is appended to `packets`.
    fn open_run(
        &mut self,
        run: &mut [Waiting<Held<P::Frame>>],
        first: usize,
        now: u64,
        packets: &mut [Opened; BATCH],
        count: &mut usize,
    ) {
        let (index, id) = (run[0].index, run[0].workstation);
        let (Some(Some(peer)), Some(port)) = (
            self.peers.get_mut(id as usize),
            self.ports.get_mut(run[0].port),
        ) else {
            return;
        };
        let session = self.sessions.get(index);
        let Some(session) = session.filter(|session| !session.past_use(now)) else {
            for waiting in &*run {
                tell(
                    &mut self.faucet,
                    now,
                    Reason::Expired,
                    waiting,
                    &port.io,
                    None,
                );
            }
            return peer.counters.expired.add(run.len() as u64);
        };
        let over_networks = !matches!(port.encapsulation, Encapsulation::Ether(_));
        let (mut verified, mut reused) = (0u64, None);
        for (at, waiting) in run.iter_mut().enumerate() {
            let (counter, front) = (waiting.counter, usize::from(waiting.front));
            let end = front + waiting.frame_len();
            let frame = waiting.frame.data_mut(&mut port.io).get_mut(front..end);
            let frame = frame.ok_or(OpenError::Malformed);
            match frame.and_then(|frame| session.verify(counter, frame, now)) {
                Ok(()) => verified |= 1 << at,
                Err(error) => {
                    reused = reused.or((error == OpenError::Reused).then_some(counter));
                    let reason = count_failure(peer, error);
                    tell(&mut self.faucet, now, reason, waiting, &port.io, None);
                }
            }
        }
        let mut newest = None;
        let (mut opened, mut messages, mut relays) = (0, 0u64, 0u64);
        for (at, waiting) in run.iter().enumerate() {
            if verified >> at & 1 == 0 {
                continue;
            }
            if !session.commit(waiting.counter, waiting.frame_len()) {
                let error = session.used(waiting.counter, genuine(waiting, &port.io), now);
                reused = reused.or((error == OpenError::Reused).then_some(waiting.counter));
                let reason = count_failure(peer, error);
                tell(&mut self.faucet, now, reason, waiting, &port.io, None);
                continue;
            }
            if over_networks {
                session.keep(waiting.counter, genuine(waiting, &port.io));
            }
            opened += 1;
            if session.highest() == Some(waiting.counter) {
                newest = Some(at);
            }
            let payload = payload(waiting, &port.io);
            match inner::parse(payload) {
                Ok(Inner::Packet(packet)) => {
                    let way = match self.role {
                        Role::Gateway => permit(&self.routes, peer, &packet, payload),
                        Role::Workstation => Ok(Way::Host),
                    };
                    match way {
                        Ok(Way::Host) => {
                            packets[*count] = Opened {
                                at: first + at,
                                len: packet.len,
                            };
                            *count += 1;
                        }
                        Ok(Way::Peer) => relays |= 1 << at,
                        Err(reason) => {
                            let packet = payload.get(..packet.len);
                            tell(&mut self.faucet, now, reason, waiting, &port.io, packet);
                        }
                    }
                }
                Ok(Inner::Control(_)) => messages |= 1 << at,
                Err(inner::Malformed) => {
                    let reason = count_failure(peer, OpenError::Malformed);
                    tell(&mut self.faucet, now, reason, waiting, &port.io, None);
                }
            }
        }
        peer.counters.opened.add(opened);
        if let Some(counter) = reused {
            self.outbox.push_back(Event::NonceReused {
                workstation: id,
                index,
                counter,
            });
        }
        if session.wears_out_receiving() {
            self.outbox.push_back(Event::Worn {
                workstation: id,
                index,
            });
        }
        if opened > 0 && peer.standing.opened(index) {
            self.outbox.push_back(Event::Confirmed {
                workstation: id,
                index,
            });
        }
        if port.encapsulation == Encapsulation::Udp && peer.standing.current == index {
            if let Some(newest) = newest
                && let Some(path) = Encapsulation::Udp.path_of(run[newest].frame.data(&port.io))
                && path.leads_to_station()
            {
                session.roam(path);
            }
            if let Some(path) = session.untold_path(now) {
                self.outbox.push_back(Event::Roamed {
                    workstation: id,
                    index,
                    path,
                });
            }
        }
        while messages != 0 {
            self.take_message(&run[messages.trailing_zeros() as usize], now);
            messages &= messages - 1;
        }
        while relays != 0 {
            self.relay(&run[relays.trailing_zeros() as usize], now);
            relays &= relays - 1;
        }
    }

    /// Writes opened packets to the host interface. Which it refused, a bit for each.
    fn write(&mut self, batch: &[Waiting<Held<P::Frame>>], packets: &[Opened]) -> u64 {
        if packets.is_empty() {
            return 0;
        }
        let mut slices: [&[u8]; BATCH] = [&[]; BATCH];
        for (slice, packet) in slices.iter_mut().zip(packets) {
            let waiting = &batch[packet.at];
            if let Some(port) = self.ports.get(waiting.port) {
                *slice = &payload(waiting, &port.io)[..packet.len];
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

    /// Tells of a packet that the host interface did not take.
    #[cold]
    fn tell_refused(&mut self, waiting: &Waiting<Held<P::Frame>>, len: usize, now: u64) {
        if let Some(port) = self.ports.get(waiting.port) {
            let packet = payload(waiting, &port.io).get(..len);
            let reason = Reason::HostRefused;
            tell(&mut self.faucet, now, reason, waiting, &port.io, packet);
        }
    }

    /// Counts a run of frames of one session, of which `written` packets with so many `bytes` went to
    /// the host interface, which refused others; gives credit and replay floor to XDP.
    fn finish_run(&mut self, run: &[Waiting<Held<P::Frame>>], [written, bytes, refused]: [u64; 3]) {
        let (index, owner, id) = (run[0].index, run[0].workstation, run[0].port);
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        port.touched = true;
        if let Some(Some(peer)) = self.peers.get_mut(owner as usize) {
            let counters = &peer.counters;
            counters.rx_packets.add(written);
            counters.rx_bytes.add(bytes);
            if refused > 0 {
                counters.host_refused.add(refused);
            }
            if let Some(ledger) = peer.ledger(id) {
                ledger.finish(run.len() as u64);
                port.tables.set_consumed(owner, ledger.consumed());
            }
        }
        if let Some(session) = self.sessions.get(index) {
            port.tables.set_floor(slot_of(index), session.floor());
        }
    }

    /// Sends an opened packet to the Workstation it is for, whichever worker has that one's session.
    fn relay(&mut self, waiting: &Waiting<Held<P::Frame>>, now: u64) {
        let Some(port) = self.ports.get(waiting.port) else {
            return;
        };
        let Ok(packet) = inner::packet(payload(waiting, &port.io)) else {
            return;
        };
        let packet = &payload(waiting, &port.io)[..packet.len];
        if let Some(Some(peer)) = self.peers.get(waiting.workstation as usize) {
            peer.counters.rx_packets.add(1);
            peer.counters.rx_bytes.add(packet.len() as u64);
        }
        let Some(lies) = outbound::put(&mut self.packet, packet) else {
            return;
        };
        self.segment(VnetHeader::default(), lies, now);
    }

    /// Deals with an opened control message.
    fn take_message(&mut self, waiting: &Waiting<Held<P::Frame>>, now: u64) {
        let (workstation, index) = (waiting.workstation, waiting.index);
        let (Some(Some(peer)), Some(port)) = (
            self.peers.get_mut(workstation as usize),
            self.ports.get(waiting.port),
        ) else {
            return;
        };
        match control_message(self.role, payload(waiting, &port.io), peer, now) {
            Handling::Ignore => {}
            Handling::Refuse => {
                peer.counters.control_refused.add(1);
                let reason = Reason::ControlRefused;
                tell(&mut self.faucet, now, reason, waiting, &port.io, None);
            }
            Handling::Answer(pong) => self.send_control(index, &pong, now),
            Handling::Report(message) => {
                let event = Event::Inner {
                    workstation,
                    index,
                    message,
                };
                offer(&self.events, &self.counters, event);
            }
        }
    }
}

/// A frame that verified, from its header to its AEAD tag.
#[inline(always)]
fn genuine<'a, F>(waiting: &'a Waiting<Held<F>>, io: &'a impl Port<Frame = F>) -> &'a [u8] {
    let start = usize::from(waiting.front);
    let data = waiting.frame.data(io).get(start..).unwrap_or_default();
    data.get(..waiting.frame_len()).unwrap_or_default()
}

/// The payload of a frame that verified.
#[inline(always)]
fn payload<'a, F>(waiting: &'a Waiting<Held<F>>, io: &'a impl Port<Frame = F>) -> &'a [u8] {
    let start = usize::from(waiting.front) + HEADER_LEN;
    let data = waiting.frame.data(io).get(start..).unwrap_or_default();
    data.get(..usize::from(waiting.length)).unwrap_or_default()
}

/// Tells whoever watches of a frame that is dropped; and of its packet, where that was opened.
#[inline]
fn tell<F>(
    faucet: &mut Faucet,
    now: u64,
    reason: Reason,
    waiting: &Waiting<Held<F>>,
    io: &impl Port<Frame = F>,
    packet: Option<&[u8]>,
) {
    if faucet.is_open() {
        let end = usize::from(waiting.front) + waiting.frame_len();
        let frame = waiting.frame.data(io).get(..end);
        let dropped = Dropped {
            port: waiting.port,
            of: waiting.workstation,
            frame: frame.unwrap_or_default(),
            front: waiting.front.into(),
            packet,
        };
        faucet.tell(now, reason, &dropped);
    }
}

/// Counts a frame that was not opened.
#[cold]
fn count_failure(peer: &Peer, error: OpenError) -> Reason {
    let (counter, reason) = match error {
        OpenError::Malformed => (&peer.counters.inner_malformed, Reason::InnerMalformed),
        OpenError::Replay => (&peer.counters.replayed, Reason::Replayed),
        OpenError::Reused => (&peer.counters.nonce_reused, Reason::NonceReused),
        OpenError::Forged => (&peer.counters.open_failed, Reason::OpenFailed),
        OpenError::Expired => (&peer.counters.expired, Reason::Expired),
    };
    counter.add(1);
    reason
}

/// Whether a handshake frame may go on to control. XDP has seen to that where there is one.
fn admits<P: Port>(port: &WorkerPort<P>, role: Role, frame: &P::Frame, now: u64) -> bool {
    port.encapsulation != Encapsulation::Socket || {
        let frame = port.io.data(frame);
        wire::decide_connected(role, &frame, &port.tables.at(now, true)) == wire::Verdict::Admitted
    }
}

/// What is no Data of a session of this port: control gets handshakes, another worker what is its
/// own, and the rest is counted.
#[cold]
fn unsorted<P: Port>(
    id: PortId,
    port: &WorkerPort<P>,
    head: &Head,
    frame: &P::Frame,
    seat: Option<&mut Seat>,
    events: &Sender<Event>,
    counters: &WorkerCounters,
) {
    match head.kind {
        0 => counters.unattributed.add(1),
        kind::DATA => handoff::pass_frame(seat, id, port, &head.header(), frame, counters),
        _ => {
            let at = seat.map_or(0, |seat| seat.number());
            hand_over(port, (id, at), head, frame, events, counters);
        }
    }
}

/// At the Gateway the source must be the Workstation's own, and its policy must let the packet
/// through to where it goes. A refusal is counted.
#[inline]
fn permit(routes: &Routes, peer: &mut Peer, packet: &Packet, bytes: &[u8]) -> Result<Way, Reason> {
    let place = match peer.placed {
        Some((version, pair, place)) if version == routes.version() && pair == packet.pair => place,
        _ => {
            if routes.owner(packet.pair.source()) != Some(peer.id) {
                peer.counters.inner_source.add(1);
                return Err(Reason::InnerSource);
            }
            let place = routes.place(packet.pair.destination());
            peer.placed = Some((routes.version(), packet.pair, place));
            place
        }
    };
    let bytes = bytes.get(..packet.len).ok_or(Reason::InnerMalformed)?;
    let (counter, reason) = match peer.policy.judge(place, bytes) {
        Verdict::Pass if matches!(place, Place::Workstation(_)) => return Ok(Way::Peer),
        Verdict::Pass => return Ok(Way::Host),
        Verdict::Unreachable => (&peer.counters.inner_destination, Reason::InnerDestination),
        Verdict::Denied => (&peer.counters.policy_denied, Reason::PolicyDenied),
        Verdict::Unclassified => (
            &peer.counters.policy_unclassified,
            Reason::PolicyUnclassified,
        ),
    };
    counter.add(1);
    Err(reason)
}

/// What to do with a control message.
enum Handling {
    Ignore,
    Refuse,
    Answer(Vec<u8>),
    Report(Vec<u8>),
}

fn control_message(role: Role, payload: &[u8], peer: &mut Peer, now: u64) -> Handling {
    const REKEY_LEN: usize = 16 + NOISE_MESSAGE_LEN;
    let kind = payload.first().copied().unwrap_or(control::DUMMY);
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
        // As long as the PING: the path is to be known both ways.
        let mut pong = payload.to_vec();
        pong[..len].copy_from_slice(message);
        pong[len..].fill(0);
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
    head: &Head,
    frame: &P::Frame,
    events: &Sender<Event>,
    counters: &WorkerCounters,
) {
    let bytes = port.io.data(frame);
    let front = usize::from(head.front);
    let body = bytes.get(front..front + head.header().frame_len());
    let (Some(body), Some(source)) = (body, port.encapsulation.path_of(bytes)) else {
        return counters.unattributed.add(1);
    };
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
