//! Tables that are read, never changed, and remember what they were asked.

use std::cell::RefCell;

use wire::Tables;
use wire::tables::{Bucket, KnockEntry, SessionEntry, SourceKey};

use crate::wall::Moment;

/// What of a session may be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub index: u32,
    pub peer_mac: [u8; 6],
}

/// What was looked up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Whether a table was asked at all.
    pub asked: bool,
    /// Whether there was no table to ask.
    pub unknown: bool,
    pub session: Option<Session>,
    pub floor: u64,
    pub credit: Option<(u64, u64, u64)>,
    pub expected: u64,
}

pub(super) struct Recorder<'a> {
    tables: Option<Moment<'a>>,
    found: RefCell<Found>,
}

impl<'a> Recorder<'a> {
    pub fn new(tables: Option<Moment<'a>>) -> Self {
        Self {
            tables,
            found: RefCell::default(),
        }
    }

    pub fn found(&self) -> Found {
        *self.found.borrow()
    }

    fn ask(&self) -> Option<&Moment<'a>> {
        let mut found = self.found.borrow_mut();
        found.asked = true;
        found.unknown |= self.tables.is_none();
        self.tables.as_ref()
    }
}

impl Tables for Recorder<'_> {
    fn now(&self) -> u64 {
        self.tables.as_ref().map_or(0, Tables::now)
    }

    fn session(&self, slot: u16) -> Option<SessionEntry> {
        let session = self.ask()?.session(slot)?;
        self.found.borrow_mut().session = Some(Session {
            index: session.index,
            peer_mac: session.peer_mac,
        });
        Some(session)
    }

    fn floor(&self, slot: u16) -> u64 {
        let floor = self.ask().map_or(u64::MAX, |tables| tables.floor(slot));
        self.found.borrow_mut().floor = floor;
        floor
    }

    fn mark_seen(&self, slot: u16, cell: usize, mark: u32) -> bool {
        let seen = self.ask().and_then(|tables| tables.seen(slot, cell));
        seen.is_some_and(|old| old < mark)
    }

    fn credit(&self, workstation: u32) -> Option<(u64, u64, u64)> {
        let credit = self.ask()?.credit(workstation);
        self.found.borrow_mut().credit = credit;
        credit
    }

    fn charge(&self, _workstation: u32) {}

    fn knock<R>(&self, key_id: u32, with: impl FnOnce(&mut KnockEntry) -> R) -> Option<R> {
        let mut copy = self.ask()?.peek_knock(key_id)?;
        Some(with(&mut copy))
    }

    fn source<R>(&self, key: &SourceKey, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        let mut copy = self.ask()?.peek_source(key);
        Some(with(&mut copy))
    }

    fn expected_nonce(&self) -> u64 {
        let expected = self.ask().map_or(0, Tables::expected_nonce);
        self.found.borrow_mut().expected = expected;
        expected
    }

    fn redirect(&self) -> bool {
        self.ask().is_some_and(Tables::redirect)
    }
}
