//! Resets: a Gateway's hint that it has restarted, and the memory that keeps a recorded one from
//! being believed for ever.

use super::Workstation;
use super::attempt::{HELLO_FIRST, Handshake};
use crate::handshake::message;
use crate::handshake::model::{Flaw, planted};
use std::collections::VecDeque;
use std::time::Duration;

const RESET_JITTER: Duration = Duration::from_millis(200);
/// At most one handshake started by a Reset in this long.
const RESET_APART: Duration = Duration::from_secs(1);
/// Boot ids remembered as stale.
const STALE: usize = 8;

/// Remembers a boot id, the oldest giving way.
pub(super) fn remember(list: &mut VecDeque<[u8; 8]>, boot_id: [u8; 8]) {
    if !list.contains(&boot_id) {
        if list.len() >= STALE {
            list.pop_front();
        }
        list.push_back(boot_id);
    }
}

impl Workstation {
    /// Whether a boot id may be that of a start of the Gateway we have no session with.
    pub(super) fn is_news(&self, boot_id: &[u8; 8]) -> bool {
        let cur = self.cur.as_ref().map(|cur| &cur.boot_id);
        let new = match &self.handshake {
            Handshake::Proving(proving) => Some(&proving.session.boot_id),
            _ => None,
        };
        cur != Some(boot_id) && new != Some(boot_id) && !self.stale.contains(boot_id)
    }

    pub(super) fn reset(&mut self, now: Duration, payload: &[u8]) -> Option<()> {
        let boot_id = message::decode_reset(payload)?;
        if planted(Flaw::BelievesResets) {
            self.erase_cur();
        }
        if !self.is_news(&boot_id) {
            return Some(());
        }
        let jitter = self.random.up_to(RESET_JITTER);
        if let Handshake::Hello(hello) = &mut self.handshake {
            // The Gateway is there: it need not wait for the next Hello.
            hello.next = hello.next.min(now + jitter);
            hello.interval = HELLO_FIRST;
            remember(&mut self.suspects, boot_id);
        } else if self.reset.is_none() {
            // The first one stays: further ones must not put it off, and the handshake it leads to
            // is with whatever start of the Gateway there is.
            let earliest = self.reset_last.map_or(now, |last| last + RESET_APART);
            self.reset = Some((boot_id, (now + jitter).max(earliest)));
        }
        Some(())
    }
}
