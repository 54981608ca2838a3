//! What a worker does with what is not its own, and with what others have handed to it.

use super::crew::{Handed, Parcel};
use super::*;
use crate::host::vnet::VnetHeader;
use crate::tap::Reason;

/// Frames taken from other workers in one round.
const TAKEN: usize = BURST;
/// Packets of the host interface taken from other workers in one round.
const PACKETS: usize = 16;

/// A received frame: in the memory of the worker's own port, or a copy that another worker made.
pub enum Held<F> {
    Own(F),
    Handed(Vec<u8>),
}

impl<F> Held<F> {
    #[inline]
    pub(super) fn data<'a>(&'a self, io: &'a impl Port<Frame = F>) -> &'a [u8] {
        match self {
            Held::Own(frame) => io.data(frame),
            Held::Handed(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn data_mut<'a>(&'a mut self, io: &'a mut impl Port<Frame = F>) -> &'a mut [u8] {
        match self {
            Held::Own(frame) => io.data_mut(frame),
            Held::Handed(bytes) => bytes,
        }
    }

    /// Gives its memory back to where it came from.
    #[inline]
    pub(super) fn release(self, io: &mut impl Port<Frame = F>, seat: Option<&Seat>) {
        match self {
            Held::Own(frame) => io.release(frame),
            Held::Handed(bytes) => {
                if let Some(seat) = seat {
                    seat.frame_done(bytes);
                }
            }
        }
    }
}

/// A frame of no session that the worker has: its owner gets it, or it is counted.
pub(super) fn pass_frame<P: Port>(
    seat: Option<&mut Seat>,
    id: PortId,
    port: &WorkerPort<P>,
    header: &Header,
    frame: &P::Frame,
    counters: &WorkerCounters,
) {
    let bytes = port.io.data(frame);
    match seat.map(|seat| seat.hand_frame(id, &port.tables, header, bytes)) {
        Some(Handed::Over) => counters.handed_over.add(1),
        // Its owner counts it.
        Some(Handed::Full) => {}
        Some(Handed::Nobody) | None => counters.unattributed.add(1),
    }
}

/// A packet for a Workstation without a session here: the worker that has one gets it, or it is
/// counted, and why is the answer.
pub(super) fn pass_packet(
    seat: Option<&mut Seat>,
    peer: &Peer,
    header: VnetHeader,
    packet: &[u8],
    counters: &WorkerCounters,
) -> Option<Reason> {
    match seat.map(|seat| seat.hand_packet(peer.id, header, packet)) {
        Some(Handed::Over) => {
            counters.handed_over.add(1);
            None
        }
        Some(Handed::Full) => {
            peer.counters.handoff_full.add(1);
            Some(Reason::HandoffFull)
        }
        Some(Handed::Nobody) | None => {
            peer.counters.no_session.add(1);
            Some(Reason::NoSession)
        }
    }
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Makes the worker one of a crew.
    #[must_use]
    pub fn with_seat(mut self, seat: Seat) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Tells the others that what was in the rings has been handed on, and wakes those it is for.
    pub(super) fn announce(&mut self, now: u64) {
        let Some(seat) = &mut self.seat else { return };
        for (id, port) in self.ports.iter() {
            if port.drained {
                seat.set_quiet(id, now);
            }
        }
        seat.wake();
    }

    /// Takes what others have handed here.
    pub(super) fn take_in(&mut self, now: u64) -> bool {
        let mut worked = false;
        for _ in 0..TAKEN {
            let Some(parcel) = self.seat.as_ref().and_then(Seat::next_frame) else {
                break;
            };
            worked = true;
            self.counters.taken_over.add(1);
            if let Some(Parcel { bytes, .. }) = self.accept(parcel) {
                self.counters.unattributed.add(1);
                if let Some(seat) = &self.seat {
                    seat.frame_done(bytes);
                }
            }
        }
        for _ in 0..PACKETS {
            let Some((header, packet)) = self.seat.as_ref().and_then(Seat::next_packet) else {
                break;
            };
            worked = true;
            self.transmit_for(header, &packet, now);
            if let Some(seat) = &self.seat {
                seat.packet_done(packet);
            }
        }
        worked
    }

    /// Puts a frame behind those that wait for its Workstation; gives it back when it has none here.
    fn accept(&mut self, parcel: Parcel) -> Option<Parcel> {
        let port = self.ports.get(parcel.port);
        let port = port.filter(|port| port.tables.id() == parcel.tables);
        let front = port.and_then(|port| port.encapsulation.front(&parcel.bytes));
        let owner = self.sessions.owner(parcel.header.index);
        let peer = owner
            .filter(|(_, port)| *port == parcel.port)
            .and_then(|(owner, _)| self.peers.get_mut(owner as usize)?.as_mut());
        let (Some(peer), Some(front)) = (peer, front) else {
            return Some(parcel);
        };
        if let Some(ledger) = peer.ledger(parcel.port) {
            ledger.take(1);
        }
        let waiting = Waiting {
            counter: parcel.header.counter,
            index: parcel.header.index,
            workstation: peer.id,
            port: parcel.port,
            length: parcel.header.length,
            front: front as u8,
            frame: Held::Handed(parcel.bytes),
        };
        self.backlog.push(&mut peer.queue, waiting);
        self.schedule.activate(peer.id);
        None
    }
}
