//! What the workers of a daemon share: who owns which session, and the queues by which one hands
//! another what is not its own.
//!
//! `ether` gives a NIC nothing to spread frames by, so a frame may come in at a worker that does not
//! have its session. That worker copies it into a buffer from the owner's pool, puts it on the
//! owner's queue and gives its own memory back at once; the buffer returns to the pool when the owner
//! is done. Order is kept from one worker to another. Nothing is allocated for a frame once as many
//! buffers exist as were ever in use at the same time, and there are never more than
//! [`Sizes::frames`].
//!
//! A Workstation's frames in the queue are within its credit, like those in the rings: a flood is cut
//! by XDP long before it fills the queue for others. What finds no room all the same is dropped and
//! put down to its Workstation, whose owner counts it (`handoff_full`) and gives the credit back.
//!
//! Who owns a session is written by the control thread, before the session is installed, into a table
//! that is read only for frames of sessions a worker does not have.

use super::doze::Doze;
use super::pool::Pool;
use super::quiet::Quiet;
use super::run::Bell;
use crate::host::vnet::VnetHeader;
use crate::wall::PortTables;
use crate::{PortId, WorkstationId};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::atomic::{AtomicU16, AtomicU32};
use wire::header::slot_of;
use wire::{Header, Tables};

/// Super-packets from the host interface that may wait for a worker; each is up to 64 KiB.
const PACKETS: usize = 64;
/// Bytes a new frame buffer has room for; it grows once where frames are larger.
const FRAME: usize = 2048;
/// No worker.
const NOBODY: u16 = u16::MAX;

/// How much a crew has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Frames that may wait for a worker or be worked on by it: at least what the credits of all
    /// Workstations add up to.
    pub frames: usize,
    /// Ports, by number.
    pub ports: usize,
    /// Session slots.
    pub sessions: usize,
    /// Workstation slots.
    pub workstations: usize,
}

/// A frame that was received by another worker.
pub(super) struct Parcel {
    pub port: PortId,
    /// The tables it was admitted by: those of an earlier opening of the port gave no credit here.
    pub tables: u64,
    pub header: Header,
    pub bytes: Vec<u8>,
}

/// One worker as the others see it.
struct Member {
    doze: Doze,
    bell: Bell,
    frames: ArrayQueue<Parcel>,
    packets: ArrayQueue<(VnetHeader, Vec<u8>)>,
    spare_frames: Pool,
    spare_packets: Pool,
    /// For each port when its rings were last seen empty here.
    quiet: Box<[Quiet]>,
}

/// The workers of a daemon.
pub struct Crew {
    members: Box<[CachePadded<Member>]>,
    /// The worker of the session in each slot.
    owners: Box<[AtomicU16]>,
    /// The worker that sends to each Workstation.
    senders: Box<[AtomicU16]>,
    /// Frames of each Workstation that found no room, by port, until its owner has counted them.
    refused: Box<[AtomicU32]>,
    workstations: usize,
}

impl Crew {
    /// As many workers as there are bells.
    pub fn new(bells: impl IntoIterator<Item = Bell>, sizes: Sizes) -> Arc<Self> {
        let member = |bell| {
            CachePadded::new(Member {
                doze: Doze::default(),
                bell,
                frames: ArrayQueue::new(sizes.frames.max(1)),
                packets: ArrayQueue::new(PACKETS),
                spare_frames: Pool::new(sizes.frames.max(1)),
                spare_packets: Pool::new(PACKETS),
                quiet: (0..sizes.ports).map(|_| Quiet::new()).collect(),
            })
        };
        let nobody = |count: usize| (0..count).map(|_| AtomicU16::new(NOBODY)).collect();
        Arc::new(Self {
            members: bells.into_iter().map(member).collect(),
            owners: nobody(sizes.sessions),
            senders: nobody(sizes.workstations),
            refused: (0..sizes.ports * sizes.workstations)
                .map(|_| AtomicU32::new(0))
                .collect(),
            workstations: sizes.workstations,
        })
    }

    /// Says whose the session in a slot is, before it is installed; `None` once it is erased.
    pub fn set_owner(&self, slot: u16, worker: Option<usize>) {
        set(self.owners.get(usize::from(slot)), worker);
    }

    /// Says which worker sends to a Workstation, so that packets read by another reach it.
    pub fn set_sender(&self, workstation: WorkstationId, worker: Option<usize>) {
        set(self.senders.get(workstation as usize), worker);
    }

    fn refusals(&self, port: PortId, workstation: WorkstationId) -> Option<&AtomicU32> {
        let at = workstation as usize;
        if at >= self.workstations {
            return None;
        }
        self.refused.get(usize::from(port) * self.workstations + at)
    }
}

fn set(place: Option<&AtomicU16>, worker: Option<usize>) {
    if let Some(place) = place {
        let number = worker.and_then(|worker| u16::try_from(worker).ok());
        place.store(number.unwrap_or(NOBODY), Ordering::Release);
    }
}

/// What became of something that is not the worker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// Its owner has it.
    Over,
    /// Its owner had no room; it is dropped, and counted where it says.
    Full,
    /// It is nobody else's.
    Nobody,
}

/// A worker's place in a crew.
pub struct Seat {
    crew: Arc<Crew>,
    number: u16,
    /// Those who were given something since they were last woken.
    given: Vec<u16>,
}

impl Seat {
    /// The place of worker `number`; `None` when the crew has no such worker.
    pub fn new(crew: &Arc<Crew>, number: usize) -> Option<Self> {
        crew.members.get(number)?;
        Some(Self {
            crew: Arc::clone(crew),
            number: u16::try_from(number).ok()?,
            given: Vec::with_capacity(crew.members.len()),
        })
    }

    /// The worker's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn own(&self) -> &Member {
        &self.crew.members[usize::from(self.number)]
    }

    /// The other worker that a table names.
    fn other(&self, place: Option<&AtomicU16>) -> Option<u16> {
        let worker = place?.load(Ordering::Acquire);
        let there = usize::from(worker) < self.crew.members.len();
        (there && worker != self.number).then_some(worker)
    }

    fn gave(&mut self, worker: u16) {
        if !self.given.contains(&worker) {
            self.given.push(worker);
        }
    }

    /// Hands a frame to the worker that has its session.
    pub(super) fn hand_frame(
        &mut self,
        port: PortId,
        tables: &PortTables,
        header: &Header,
        bytes: &[u8],
    ) -> Handed {
        let slot = slot_of(header.index);
        let Some(owner) = self.other(self.crew.owners.get(usize::from(slot))) else {
            return Handed::Nobody;
        };
        let member = &self.crew.members[usize::from(owner)];
        if let Some(mut buffer) = member.spare_frames.take(FRAME) {
            buffer.extend_from_slice(bytes);
            let parcel = Parcel {
                port,
                tables: tables.id(),
                header: *header,
                bytes: buffer,
            };
            // There are no more buffers than places.
            if member.frames.push(parcel).is_ok() {
                self.gave(owner);
                return Handed::Over;
            }
        }
        let entry = tables
            .session(slot)
            .filter(|entry| entry.index == header.index);
        let refused = entry.and_then(|entry| self.crew.refusals(port, entry.workstation));
        match refused {
            Some(refused) => {
                refused.fetch_add(1, Ordering::Relaxed);
                Handed::Full
            }
            None => Handed::Nobody,
        }
    }

    /// Hands a packet from the host interface to the worker that sends to its Workstation.
    pub(super) fn hand_packet(
        &mut self,
        workstation: WorkstationId,
        header: VnetHeader,
        packet: &[u8],
    ) -> Handed {
        let Some(sender) = self.other(self.crew.senders.get(workstation as usize)) else {
            return Handed::Nobody;
        };
        let member = &self.crew.members[usize::from(sender)];
        let Some(mut buffer) = member.spare_packets.take(packet.len()) else {
            return Handed::Full;
        };
        buffer.extend_from_slice(packet);
        if member.packets.push((header, buffer)).is_err() {
            return Handed::Full;
        }
        self.gave(sender);
        Handed::Over
    }

    /// Wakes those who were given something and sleep.
    pub(super) fn wake(&mut self) {
        for worker in self.given.drain(..) {
            let member = &self.crew.members[usize::from(worker)];
            if member.doze.must_ring() {
                member.bell.ring();
            }
        }
    }

    /// The next frame that was handed here.
    pub(super) fn next_frame(&self) -> Option<Parcel> {
        self.own().frames.pop()
    }

    /// The next packet that was handed here.
    pub(super) fn next_packet(&self) -> Option<(VnetHeader, Vec<u8>)> {
        self.own().packets.pop()
    }

    /// Gives the buffer of a frame that was handed here back.
    pub(super) fn frame_done(&self, buffer: Vec<u8>) {
        self.own().spare_frames.give_back(buffer);
    }

    /// Gives the buffer of a packet that was handed here back.
    pub(super) fn packet_done(&self, buffer: Vec<u8>) {
        self.own().spare_packets.give_back(buffer);
    }

    /// Frames of a Workstation that others could not hand here since the last call.
    pub(super) fn refusals(&self, port: PortId, workstation: WorkstationId) -> u64 {
        match self.crew.refusals(port, workstation) {
            Some(refused) if refused.load(Ordering::Relaxed) > 0 => {
                refused.swap(0, Ordering::Relaxed).into()
            }
            _ => 0,
        }
    }

    /// Says that everything that was in a port's rings here at `now` has been taken and handed on;
    /// `u64::MAX` when there are no rings of it.
    pub(super) fn set_quiet(&self, port: PortId, now: u64) {
        if let Some(quiet) = self.own().quiet.get(usize::from(port)) {
            quiet.set(now);
        }
    }

    /// Whether everything that was in the rings of a port at other workers at `moment` and is for
    /// this one has been taken.
    pub(super) fn settled(&self, port: PortId, moment: u64) -> bool {
        let quiet = self.crew.members.iter().enumerate().all(|(at, member)| {
            at == usize::from(self.number)
                || member
                    .quiet
                    .get(usize::from(port))
                    .is_none_or(|quiet| quiet.since(moment))
        });
        // In this order: what was handed here before the others said so is on the queue.
        quiet && self.own().frames.is_empty()
    }

    /// Says that the worker is about to sleep. False when there is something to do first.
    pub(super) fn lie_down(&self) -> bool {
        let own = self.own();
        own.doze.lie_down();
        let idle = own.frames.is_empty() && own.packets.is_empty();
        if !idle {
            own.doze.get_up();
        }
        idle
    }

    /// Says that the worker is awake.
    pub(super) fn get_up(&self) {
        self.own().doze.get_up();
    }
}
