//! What waits to be sent by a socket: put together into messages, and what the kernel's answers mean.
//!
//! Frames of one length in a row, of which the last may be shorter, go as one message that the kernel,
//! or the NIC, cuts again (UDP_SEGMENT). Where either refuses such messages, frames go one by one from
//! then on.
//!
//! An answer is not always about the message that was sent. What routers and the other side said by ICMP about
//! earlier ones is told to the next call, whatever that is, and ICMP can be forged. So the first refusal of a message
//! means nothing: it is counted and the message is sent again. Only the second one, for the same message,
//! costs it its frames. Nothing of that kind ends the port.

use std::vec::Drain;

use smallvec::SmallVec;

use super::store::Place;

/// Frames of one message at most (UDP_MAX_SEGMENTS of the kernels that have fewest).
const MOST_SEGMENTS: usize = 64;
/// Bytes of one message at most. IPv4 would leave 65507; but where a message and all its headers are more than
/// a device takes (gso_max_size, mostly 65536), the kernel cuts it, which costs more than its last frame is worth.
const MOST_BYTES: usize = 65_400;
/// Messages given to the kernel at a time.
pub(super) const MOST_MESSAGES: usize = 16;
/// Frames given to the kernel at a time.
pub(super) const MOST_FRAMES: usize = 256;

/// One message: so many frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) frames: usize,
    /// The length of all but the last; 0 where there is one frame only.
    pub(super) segment: u16,
}

/// What an answer means for the message it was given to.
enum Sense {
    /// There is no room just now.
    Busy,
    /// Try the same once more.
    Again,
    /// So many frames will not be sent.
    Drop(usize),
    /// Nothing is sent for now: the link is down or gone.
    Stop,
}

/// Frames on their way.
#[derive(Debug)]
pub(super) struct Outbox {
    pending: Vec<Place>,
    /// Whether messages of several frames are sent.
    trains: bool,
    /// The first frame goes alone, to see whether it is trains that are refused.
    on_trial: bool,
    /// The first message was refused once.
    refused: bool,
    /// Refusals of all kinds.
    pub(super) refusals: u64,
    /// Frames dropped because they were too large.
    pub(super) too_large: u64,
    /// Frames dropped for other reasons.
    pub(super) dropped: u64,
    /// Messages of several frames that were sent.
    pub(super) trains_sent: u64,
}

impl Outbox {
    /// Room for `frames` frames.
    pub(super) fn new(frames: usize, trains: bool) -> Self {
        Self {
            pending: Vec::with_capacity(frames),
            trains,
            on_trial: false,
            refused: false,
            refusals: 0,
            too_large: 0,
            dropped: 0,
            trains_sent: 0,
        }
    }

    /// Whether messages of several frames are sent.
    pub(super) fn sends_trains(&self) -> bool {
        self.trains
    }

    #[inline]
    pub(super) fn push(&mut self, place: Place) {
        self.pending.push(place);
    }

    /// Sends what waits with `send`, which is given frames and the messages to make of them, and answers how many
    /// messages went or the errno of the first. The answer is the frames that are done with, sent or not, and how
    /// many wait for there to be room, or the errno of a link that is down.
    pub(super) fn flush(
        &mut self,
        mut send: impl FnMut(&[Place], &[Message]) -> Result<usize, i32>,
    ) -> (Drain<'_, Place>, Result<usize, i32>) {
        let mut at = 0;
        let stopped = loop {
            let waiting = &self.pending[at..];
            if waiting.is_empty() {
                break None;
            }
            let messages = self.messages(waiting);
            match send(waiting, &messages) {
                Ok(0) => break None,
                Ok(count) => {
                    let sent = &messages[..count.min(messages.len())];
                    at += sent.iter().map(|message| message.frames).sum::<usize>();
                    self.went(sent);
                }
                Err(errno) => match self.sense(errno, messages[0], at) {
                    Sense::Busy => break None,
                    Sense::Again => {}
                    Sense::Drop(count) => {
                        at += count;
                        (self.refused, self.on_trial) = (false, false);
                    }
                    Sense::Stop => break Some(errno),
                },
            }
        };
        let outcome = match stopped {
            None => Ok(self.pending.len() - at),
            Some(errno) => Err(errno),
        };
        (self.pending.drain(..at), outcome)
    }

    /// The messages to make of the first of these frames.
    fn messages(&self, mut waiting: &[Place]) -> SmallVec<[Message; MOST_MESSAGES]> {
        let mut messages = SmallVec::new();
        let mut frames = 0;
        while !waiting.is_empty() && messages.len() < MOST_MESSAGES {
            let most = match self.trains && !self.on_trial {
                true => MOST_SEGMENTS.min(MOST_FRAMES - frames),
                false => 1,
            };
            if most == 0 || frames == MOST_FRAMES {
                break;
            }
            let message = train(&waiting[..waiting.len().min(most)]);
            messages.push(message);
            frames += message.frames;
            waiting = &waiting[message.frames..];
            if self.on_trial {
                break;
            }
        }
        messages
    }

    fn went(&mut self, sent: &[Message]) {
        self.trains_sent += sent.iter().filter(|message| message.segment > 0).count() as u64;
        self.refused = false;
        if std::mem::take(&mut self.on_trial) {
            self.trains = false;
            tracing::debug!(
                "several datagrams in one message (UDP_SEGMENT) are refused here; they go one by one"
            );
        }
    }

    /// `message` is the first, and its frames are those from `at` on.
    #[cold]
    fn sense(&mut self, errno: i32, message: Message, at: usize) -> Sense {
        match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR => return Sense::Busy,
            libc::ENETDOWN | libc::ENODEV | libc::ENXIO => return Sense::Stop,
            // The device cannot do it, or not with this route. Older kernels say the same of frames that are
            // too large, so a single one is tried.
            libc::EIO | libc::EINVAL if message.segment > 0 => {
                self.on_trial = true;
                return Sense::Again;
            }
            _ => self.refusals += 1,
        }
        if !std::mem::replace(&mut self.refused, true) {
            return Sense::Again;
        }
        match errno {
            libc::EMSGSIZE => {
                // The others of this length are no smaller; a shorter one at the end may be small enough.
                let waiting = &self.pending[at..];
                let same = |place: &&Place| place.len() == waiting[0].len();
                let count = waiting.iter().take(MOST_SEGMENTS).take_while(same).count();
                self.too_large += count as u64;
                Sense::Drop(count)
            }
            _ => {
                self.dropped += message.frames as u64;
                Sense::Drop(message.frames)
            }
        }
    }
}

/// The longest message that these frames begin with. There is at least one frame.
fn train(frames: &[Place]) -> Message {
    let segment = frames[0].len();
    let mut count = 1;
    let mut bytes = segment;
    for frame in &frames[1..] {
        if frame.len() > segment || frame.len() == 0 || bytes + frame.len() > MOST_BYTES {
            break;
        }
        count += 1;
        bytes += frame.len();
        if frame.len() < segment {
            break;
        }
    }
    Message {
        frames: count,
        segment: if count > 1 { segment as u16 } else { 0 },
    }
}

#[cfg(test)]
mod tests;
