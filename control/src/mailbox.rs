//! Handshake frames that wait for the control thread: a bounded mailbox for each key id, emptied in
//! turn, so that one Workstation's flood of handshakes waits behind every other's first frame.

use dataplane::PortId;
use dataplane::path::Path;
use std::collections::{HashMap, VecDeque};

/// Frames a key id may have waiting.
const DEPTH: usize = 8;

/// A handshake frame as it came off the cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The port.
    pub port: PortId,
    /// The worker it came in at.
    pub worker: usize,
    /// Where it is from.
    pub source: Path,
    /// From the Portcullis header on.
    pub frame: Vec<u8>,
}

/// All mailboxes.
#[derive(Debug, Default)]
pub struct Mailboxes {
    boxes: HashMap<u32, VecDeque<Letter>>,
    turns: VecDeque<u32>,
    dropped: u64,
}

impl Mailboxes {
    /// Puts a frame into its key id's mailbox, or drops it when that is full.
    pub fn put(&mut self, letter: Letter) {
        let Some(key_id) = letter.frame.get(4..8).and_then(|bytes| bytes.first_chunk()) else {
            return;
        };
        let key_id = u32::from_le_bytes(*key_id);
        let waiting = self.boxes.entry(key_id).or_default();
        if waiting.is_empty() {
            self.turns.push_back(key_id);
        }
        if waiting.len() < DEPTH {
            waiting.push_back(letter);
        } else {
            self.dropped += 1;
        }
    }

    /// The next frame: the oldest of the key id whose turn it is.
    pub fn next(&mut self) -> Option<Letter> {
        let key_id = self.turns.pop_front()?;
        let waiting = self.boxes.get_mut(&key_id)?;
        let letter = waiting.pop_front();
        if waiting.is_empty() {
            self.boxes.remove(&key_id);
        } else {
            self.turns.push_back(key_id);
        }
        letter
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Frames dropped because their mailbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(key_id: u32, n: u8) -> Letter {
        let mut frame = vec![0x11, 0, 32, 0];
        frame.extend(key_id.to_le_bytes());
        frame.push(n);
        Letter {
            port: 0,
            worker: 0,
            source: [2; 6].into(),
            frame,
        }
    }

    #[test]
    fn a_flood_of_one_key_id_waits_behind_anothers_first_frame() {
        let mut mail = Mailboxes::default();
        for n in 0..100 {
            mail.put(letter(1, n));
        }
        mail.put(letter(2, 0));
        assert_eq!(mail.next(), Some(letter(1, 0)));
        assert_eq!(mail.next(), Some(letter(2, 0)));
        let rest: Vec<_> = std::iter::from_fn(|| mail.next()).collect();
        assert_eq!(rest, (1..8).map(|n| letter(1, n)).collect::<Vec<_>>());
        assert!(mail.is_empty() && mail.dropped() == 92);
        mail.put(letter(1, 9));
        assert_eq!(mail.next(), Some(letter(1, 9)));
    }

    #[test]
    fn a_frame_without_a_key_id_is_ignored() {
        let mut mail = Mailboxes::default();
        mail.put(Letter {
            port: 0,
            worker: 0,
            source: [0; 6].into(),
            frame: vec![0; 7],
        });
        assert!(mail.is_empty());
    }
}
