//! Whether the current session still reaches the Gateway: when to PING, and when to give up.
//!
//! Only the Workstation asks, so two idle ends never keep each other awake: every 10 s, and at once
//! when data was sent and nothing was received for 1 s. Three PINGs, 1 s apart, without a PONG are
//! taken as the session's death.

use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);
const APART: Duration = Duration::from_secs(1);
const PATIENCE: usize = 3;

/// What a tick of [`Liveness`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Wait,
    /// A PING with a fresh value, to be told to [`Liveness::sent`].
    Ping,
    /// The PINGs were not answered.
    Dead,
}

#[derive(Debug)]
pub(super) struct Liveness {
    /// When the next PING goes out, or the last one counts as lost.
    next: Duration,
    /// PINGs without a PONG.
    outstanding: Vec<[u8; 16]>,
    /// How many of them are too many.
    patience: usize,
    /// When the first data went out that nothing has been received after.
    unanswered: Option<Duration>,
    /// Frames sent and received so far, as last told.
    told: (u64, u64),
    /// The PINGs were not answered, and nothing has changed since.
    dead: bool,
}

impl Liveness {
    /// No session yet.
    pub(super) fn new(now: Duration) -> Self {
        Self::starting(now, (0, 0))
    }

    /// A session was just proven, or has just proven to be alive.
    pub(super) fn restart(&mut self, now: Duration) {
        *self = Self::starting(now, self.told);
    }

    fn starting(now: Duration, told: (u64, u64)) -> Self {
        Self {
            next: now + EVERY,
            outstanding: Vec::new(),
            patience: PATIENCE,
            unanswered: None,
            told,
            dead: false,
        }
    }

    /// How many data frames were sent and how many frames of any kind received, so far. Counts and
    /// not times: they say the same whatever the clocks do.
    pub(super) fn traffic(&mut self, now: Duration, sent: u64, received: u64) {
        let (sent_before, received_before) = std::mem::replace(&mut self.told, (sent, received));
        if received != received_before {
            self.unanswered = None;
        } else if sent != sent_before && self.unanswered.is_none() {
            self.unanswered = Some(now);
        }
    }

    /// The link came up: one PING at once, and no patience.
    pub(super) fn doubt(&mut self, now: Duration) {
        self.outstanding.clear();
        self.patience = 1;
        self.next = now;
    }

    /// When [`Liveness::tick`] has something to say.
    pub(super) fn deadline(&self) -> Duration {
        match self.unanswered {
            Some(since) if self.outstanding.is_empty() => self.next.min(since + APART),
            _ => self.next,
        }
    }

    pub(super) fn tick(&mut self, now: Duration) -> Verdict {
        if now < self.deadline() {
            return Verdict::Wait;
        }
        if self.outstanding.len() < self.patience {
            self.next = now + APART;
            return Verdict::Ping;
        }
        self.outstanding.clear();
        self.patience = PATIENCE;
        self.unanswered = None;
        self.next = now + EVERY;
        self.dead = true;
        Verdict::Dead
    }

    /// The PING asked for was sent with this value.
    pub(super) fn sent(&mut self, value: [u8; 16]) {
        self.outstanding.push(value);
    }

    /// A PONG came. One to no PING outstanding changes nothing.
    pub(super) fn pong(&mut self, now: Duration, value: &[u8; 16]) {
        if self.outstanding.contains(value) {
            self.restart(now);
        }
    }

    /// PINGs without a PONG.
    pub(super) fn unanswered(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drive(live: &mut Liveness, until: Duration) -> Vec<(Duration, Verdict)> {
        let mut seen = Vec::new();
        while live.deadline() <= until {
            let now = live.deadline();
            let verdict = live.tick(now);
            if verdict == Verdict::Ping {
                live.sent([now.as_secs() as u8; 16]);
            }
            seen.push((now, verdict));
            if verdict == Verdict::Dead {
                break;
            }
        }
        seen
    }

    #[test]
    fn an_idle_session_is_pinged_every_ten_seconds_and_dies_after_three() {
        let mut live = Liveness::new(SECOND);
        assert_eq!(
            drive(&mut live, SECOND * 60),
            [
                (11, Verdict::Ping),
                (12, Verdict::Ping),
                (13, Verdict::Ping),
                (14, Verdict::Dead)
            ]
            .map(|(at, verdict)| (SECOND * at, verdict))
        );
        assert!(live.is_dead());
    }

    #[test]
    fn data_without_an_answer_is_followed_by_a_ping_in_one_second() {
        let mut live = Liveness::new(SECOND);
        live.traffic(SECOND * 2, 1, 1);
        assert_eq!(
            live.deadline(),
            SECOND * 11,
            "sent and received between two reports"
        );
        live.traffic(SECOND * 4, 2, 1);
        live.traffic(SECOND * 4 + SECOND / 2, 3, 1);
        assert_eq!(live.deadline(), SECOND * 5);
        live.traffic(SECOND * 5, 3, 2);
        assert_eq!(live.deadline(), SECOND * 11);
    }

    #[test]
    fn only_a_pong_to_a_ping_outstanding_proves_life() {
        let mut live = Liveness::new(SECOND);
        assert_eq!(live.tick(SECOND * 11), Verdict::Ping);
        live.sent([1; 16]);
        live.pong(SECOND * 11, &[2; 16]);
        assert_eq!(live.deadline(), SECOND * 12);
        live.pong(SECOND * 11, &[1; 16]);
        assert_eq!(live.deadline(), SECOND * 21);
    }
}
