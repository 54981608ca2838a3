//! A worker's sessions, by the slot in their index.

use crate::session::Session;
use crate::{PortId, WorkstationId};
use wire::header::slot_of;

/// What is asked of every frame, apart from the session itself, so that many fit in the cache.
#[derive(Default)]
struct Slot {
    /// The session's index; 0 for none.
    index: u32,
    workstation: WorkstationId,
    port: PortId,
    session: Option<Box<Session>>,
}

/// Sessions by slot.
#[derive(Default)]
pub struct Sessions(Vec<Slot>);

impl Sessions {
    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot> {
        let slot = self.0.get(usize::from(slot_of(index)))?;
        (slot.index == index && index != 0).then_some(slot)
    }

    /// The session with this very index.
    #[inline]
    pub fn get(&mut self, index: u32) -> Option<&mut Session> {
        let slot = self.0.get_mut(usize::from(slot_of(index)))?;
        match slot.index == index {
            true => slot.session.as_deref_mut(),
            false => None,
        }
    }

    /// Whose it is and the port it lives on. The session itself is asked for, not waited for.
    #[inline]
    pub fn owner(&self, index: u32) -> Option<(WorkstationId, PortId)> {
        let slot = self.slot(index)?;
        if let Some(session) = &slot.session {
            session.prefetch(false);
        }
        Some((slot.workstation, slot.port))
    }

    /// Asks for what sealing under it needs first.
    #[inline]
    pub fn prefetch_seal(&self, index: u32) {
        if let Some(session) = self.slot(index).and_then(|slot| slot.session.as_ref()) {
            session.prefetch(true);
        }
    }

    /// Puts a session into its slot.
    pub fn put(&mut self, session: Session) {
        let at = usize::from(slot_of(session.index));
        if at >= self.0.len() {
            self.0.resize_with(at + 1, Slot::default);
        }
        self.0[at] = Slot {
            index: session.index,
            workstation: session.workstation,
            port: session.port,
            session: Some(Box::new(session)),
        };
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Session> {
        self.0.iter().filter_map(|slot| slot.session.as_deref())
    }

    /// Those that live on a port.
    pub fn on(&self, port: PortId) -> impl Iterator<Item = &Session> {
        self.all().filter(move |session| session.port == port)
    }

    /// Takes a session out.
    pub fn take(&mut self, index: u32) -> Option<Box<Session>> {
        self.slot(index)?;
        std::mem::take(&mut self.0[usize::from(slot_of(index))]).session
    }
}
