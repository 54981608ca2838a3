//! What happens at a Gateway, as a stream for whoever listens.
//!
//! Whoever tells of something never waits: an event goes into one ring of [`KEPT`] events that all
//! listeners read from. One that is slower than that misses some, and is told how many
//! ([`Happening::Missed`]). Where nobody listens an event is not even made.

use crate::workstation;
use axum::body::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// How many events a listener may be behind.
pub const KEPT: usize = 1024;
/// How often a listener is told that nothing has happened.
const ALIVE: Duration = Duration::from_secs(10);

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// When, in UTC.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub happening: Happening,
}

/// What has happened. More may be added: a client skips what it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// This client hears of everything from here on.
    Listening,
    /// Nothing else in the last seconds.
    Alive,
    /// This client was too slow.
    Missed {
        /// So many events were not sent to it.
        count: u64,
    },
    /// A Workstation has a session, and had none.
    SessionUp {
        /// The Workstation.
        workstation: String,
        /// Where it is.
        port: Option<String>,
    },
    /// A Workstation has no session any more.
    SessionDown {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation has another session in place of the one before.
    Rekey {
        /// The Workstation.
        workstation: String,
        /// So many times since it was told last.
        count: u64,
        /// Whether the one before was taken on, and not begun anew.
        inside: bool,
    },
    /// Handshakes that claim to be a Workstation's were refused.
    HandshakeRefused {
        /// The Workstation.
        workstation: String,
        /// Why, by the name of its counter.
        outcome: String,
        /// So many since it was told last.
        count: u64,
    },
    /// More was dropped than usual.
    Drops {
        /// Whose, where that is known.
        workstation: Option<String>,
        /// On which port, where that is known.
        port: Option<String>,
        /// Why, by the name of its verdict or counter.
        verdict: String,
        /// So many.
        count: u64,
        /// In so many milliseconds.
        milliseconds: u64,
    },
    /// A port works, or does not, other than before.
    Port {
        /// The interface.
        port: String,
        /// `up`, `down` or `missing`.
        state: String,
        /// Why it does not work.
        reason: Option<String>,
    },
    /// Two machines seem to have a Workstation's keys.
    CloneSuspected {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation was added.
    Added {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation was removed.
    Removed {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation was turned on or off.
    Switched {
        /// The Workstation.
        workstation: String,
        /// Whether it is on.
        enabled: bool,
    },
    /// A Workstation was given new keys.
    KeysGiven {
        /// The Workstation.
        workstation: String,
        /// Their key id.
        key_id: String,
    },
    /// New keys that a Workstation had not used were taken back.
    KeysTakenBack {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation uses its new keys; the old ones are gone.
    KeysUsed {
        /// The Workstation.
        workstation: String,
    },
    /// A Workstation's old keys have ended, and it has not used its new ones.
    KeysEnded {
        /// The Workstation.
        workstation: String,
    },
    /// The Gateway has a new static key.
    GatewayKeyRotated {
        /// The public key.
        public_key: String,
    },
    /// The Gateway's old static key is gone.
    GatewayKeyRetired {
        /// The Workstations that are locked out by that.
        locked_out: Vec<String>,
    },
    /// The Workstation files and pins were read again.
    Reloaded,
}

/// Where events are told and heard.
#[derive(Debug, Clone)]
pub struct Events(Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(channel(KEPT).0)
    }
}

impl Event {
    fn now(happening: Happening) -> Self {
        Self {
            at: workstation::now_precisely(),
            happening,
        }
    }
}

impl Events {
    /// Tells of something, if anybody listens. Never waits.
    pub fn tell(&self, happening: impl FnOnce() -> Happening) {
        if self.heard() {
            // It fails when the last one has just gone.
            let _ = self.0.send(Event::now(happening()));
        }
    }

    /// Whether anybody listens.
    pub fn heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Listens from now on.
    pub fn listen(&self) -> Listener {
        Listener {
            receiver: Some(self.0.subscribe()),
            greeted: false,
        }
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Listener {
    receiver: Option<Receiver<Event>>,
    greeted: bool,
}

impl Listener {
    /// The next event; none once the daemon ends.
    pub async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            self.greeted = true;
            return Some(Event::now(Happening::Listening));
        }
        let receiver = self.receiver.as_mut()?;
        match tokio::time::timeout(ALIVE, receiver.recv()).await {
            Err(_) => Some(Event::now(Happening::Alive)),
            Ok(Ok(event)) => Some(event),
            Ok(Err(RecvError::Lagged(count))) => Some(Event::now(Happening::Missed { count })),
            Ok(Err(RecvError::Closed)) => {
                self.receiver = None;
                None
            }
        }
    }

    /// The events as lines of JSON.
    pub(crate) fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        unfold(self, |mut listener| async move {
            let event = listener.next().await?;
            let mut line = serde_json::to_vec(&event).unwrap_or_default();
            line.push(b'\n');
            Some((Ok(line.into()), listener))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(number: usize) -> Happening {
        Happening::SessionDown {
            workstation: number.to_string(),
        }
    }

    #[test]
    fn an_event_is_a_flat_object_and_reads_back() {
        let event = Event::now(Happening::Port {
            port: "eth1".into(),
            state: "down".into(),
            reason: None,
        });
        let text = serde_json::to_string(&event).unwrap();
        assert!(
            text.contains("\"event\":\"port\"") && text.contains("\"at\":\"2"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_listener_is_told_how_much_it_missed_and_holds_nobody_up() {
        let events = Events::default();
        events.tell(|| panic!("it was made though nobody listens"));
        let (mut slow, mut fast) = (events.listen(), events.listen());
        assert_eq!(slow.next().await.unwrap().happening, Happening::Listening);
        assert_eq!(fast.next().await.unwrap().happening, Happening::Listening);
        for number in 0..3000 {
            events.tell(|| down(number));
            assert_eq!(fast.next().await.unwrap().happening, down(number));
        }
        let missed = Happening::Missed {
            count: 3000 - KEPT as u64,
        };
        assert_eq!(slow.next().await.unwrap().happening, missed);
        assert_eq!(slow.next().await.unwrap().happening, down(3000 - KEPT));
        drop(events);
        while slow.next().await.is_some() {}
    }
}
