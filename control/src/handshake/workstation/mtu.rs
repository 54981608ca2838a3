//! The path MTU over networks, found by PINGs of the size in question (RFC 8899 in spirit: packetisation layer
//! path MTU discovery). What ICMP says is never believed, for anyone can say it.
//!
//! What fits in 1500 bytes is tried first and used until it has failed, because most paths carry it; then a size that
//! every path carries is used while the largest is searched for. Where the ends can carry more than 1500 bytes, that is
//! searched for too, and not used before it has passed. What is in use is tried again now and then, and more than that
//! now and then too, for paths change.

use std::time::Duration;
use wire::limits::{ETH_LEN, OVERHEAD, UDP_LEAST_MTU, UDP_V6_LEN};

/// What every path carries.
const LEAST: u16 = UDP_LEAST_MTU as u16;
/// What most paths carry: Ethernet's packets, less the headers of IPv6 and UDP and the tunnel's own.
const USUAL: u16 = 1500 - (UDP_V6_LEN - ETH_LEN + OVERHEAD) as u16;
/// The search ends when it is known to so many bytes.
const STEP: u16 = 8;
/// How long a PONG is waited for, and how often a size is tried.
const PATIENCE: Duration = Duration::from_millis(700);
const TRIES: usize = 3;
/// How often the size in use is tried again, and a larger one.
const CONFIRM: Duration = Duration::from_secs(30);
const RAISE: Duration = Duration::from_secs(600);

/// PINGs of so many bytes, the last of which waits for its PONG. One to an earlier try is as good: a way round half
/// the world by satellite takes longer than the patience with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Probe {
    size: u16,
    values: [[u8; 16]; TRIES],
    tries: usize,
}

impl Probe {
    const fn new(size: u16) -> Self {
        Self {
            size,
            values: [[0; 16]; TRIES],
            tries: 0,
        }
    }

    fn is_answered_by(&self, value: &[u8; 16]) -> bool {
        self.values[..self.tries].contains(value)
    }
}

/// The search, and what it has found.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// What is in use; before the first session, what it is to begin with.
    used: u16,
    /// The largest that has passed in this search.
    current: u16,
    /// What is known to pass, and the least that is known not to.
    passes: u16,
    fails: u16,
    /// The most that the ends can carry.
    most: u16,
    probe: Option<Probe>,
    /// When the probe counts as lost, or the next one is due.
    next: Duration,
    /// When larger sizes were tried last.
    raised: Duration,
}

impl PathMtu {
    /// Of a session over networks; or on a cable, where nothing is to be found out.
    pub(super) fn new(networks: bool) -> Self {
        Self {
            used: if networks { USUAL } else { u16::MAX },
            current: 0,
            passes: 0,
            fails: 0,
            most: 0,
            probe: None,
            next: Duration::MAX,
            raised: Duration::ZERO,
        }
    }

    /// The largest inner packet to be sent, of `most` that the ends can carry.
    pub(super) fn of(&self, most: u16) -> u16 {
        self.used.min(most)
    }

    /// A path of which nothing is known: it carries what most do, or it does not.
    pub(super) fn begin(&mut self, now: Duration, most: u16) {
        self.most = most;
        self.used = USUAL.min(most);
        self.current = self.used;
        self.passes = LEAST.min(most);
        self.fails = most + 1;
        self.raised = now;
        self.probe = None;
        self.next = now;
    }

    /// No session: nothing to search in.
    pub(super) fn stop(&mut self) {
        self.probe = None;
        self.next = Duration::MAX;
    }

    /// When [`PathMtu::tick`] has something to say.
    pub(super) fn deadline(&self) -> Duration {
        self.next
    }

    /// The size of the PING to be sent now, whose value is to be told to [`PathMtu::sent`].
    pub(super) fn tick(&mut self, now: Duration) -> Option<u16> {
        if now < self.next {
            return None;
        }
        let size = match self.probe {
            Some(Probe { size, tries, .. }) if tries < TRIES => size,
            Some(Probe { size, .. }) => {
                self.probe = None;
                self.failed(now, size)?
            }
            // It is time to try again what is in use, or a larger one.
            None if self.is_settled() && self.current < self.most => {
                if now.saturating_sub(self.raised) >= RAISE {
                    self.raised = now;
                    self.fails = self.most + 1;
                    self.most
                } else {
                    self.current
                }
            }
            None => self.current,
        };
        Some(size)
    }

    /// The PING asked for was sent.
    pub(super) fn sent(&mut self, now: Duration, size: u16, value: [u8; 16]) {
        let mut probe = match self.probe {
            Some(probe) if probe.size == size && probe.tries < TRIES => probe,
            _ => Probe::new(size),
        };
        probe.values[probe.tries] = value;
        probe.tries += 1;
        self.probe = Some(probe);
        self.next = now + PATIENCE;
    }

    /// A PONG came. True when it was to one of these PINGs.
    pub(super) fn pong(&mut self, now: Duration, value: &[u8; 16]) -> bool {
        let Some(probe) = self.probe.take_if(|probe| probe.is_answered_by(value)) else {
            return false;
        };
        self.passes = self.passes.max(probe.size);
        self.current = self.current.max(probe.size);
        self.next = match self.is_settled() {
            true => now + CONFIRM,
            false => now,
        };
        self.use_when_settled();
        if !self.is_settled() {
            // The next size, at once.
            let size = match self.fails > self.most {
                true => self.most,
                false => self.middle(),
            };
            self.probe = Some(Probe::new(size));
        }
        true
    }

    /// A size did not pass. Gives the next one to try.
    fn failed(&mut self, now: Duration, size: u16) -> Option<u16> {
        if size <= LEAST {
            // Nothing passes: that is for others to find out.
            self.next = now + CONFIRM;
            return None;
        }
        self.fails = self.fails.min(size);
        if size <= self.current {
            // What has passed before does not any more.
            self.passes = LEAST.min(self.most);
            self.current = self.passes;
            self.used = self.passes;
        }
        self.use_when_settled();
        if self.is_settled() {
            self.next = now + CONFIRM;
            return None;
        }
        Some(self.middle())
    }

    /// More than is in use is only used once the search is over: each change takes a rekey.
    fn use_when_settled(&mut self) {
        if self.is_settled() {
            self.used = self.current;
        }
    }

    fn is_settled(&self) -> bool {
        self.passes >= self.most || self.fails.saturating_sub(self.passes) <= STEP
    }

    fn middle(&self) -> u16 {
        self.passes + (self.fails - self.passes) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Lets it search on a path that carries `carries` bytes and loses each PING for which `lost` says so, until it
    /// rests or `until`. Gives what is in use at the end, and when that was last changed.
    fn search(
        mtu: &mut PathMtu,
        from: Duration,
        until: Duration,
        carries: u16,
        mut lost: impl FnMut() -> bool,
    ) -> (u16, Duration) {
        let mut number = 0u64;
        let (mut last, mut changed) = (mtu.used, from);
        while mtu.deadline() <= until {
            let now = mtu.deadline().max(from);
            if let Some(size) = mtu.tick(now) {
                number += 1;
                let mut value = [0; 16];
                value[..8].copy_from_slice(&number.to_le_bytes());
                mtu.sent(now, size, value);
                if size <= carries && !lost() {
                    assert!(mtu.pong(now + MS * 50, &value));
                    assert!(!mtu.pong(now + MS * 50, &value), "once");
                }
            }
            if mtu.used != last {
                (last, changed) = (mtu.used, now);
            }
        }
        (mtu.used, changed)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_found_passes_and_is_within_a_step_of_what_does(
            most in 1412u16..=9176, part in 0.0..1.0f64,
        ) {
            let carries = LEAST + (f64::from(most - LEAST) * part) as u16;
            let mut mtu = PathMtu::new(true);
            mtu.begin(Duration::ZERO, most);
            prop_assert_eq!(mtu.of(most), USUAL);
            let (found, changed) = search(&mut mtu, Duration::ZERO, Duration::from_secs(60), carries, || false);
            prop_assert!(found <= carries && carries - found < STEP, "{} of {}", found, carries);
            prop_assert!(changed <= Duration::from_secs(30));
            // The path gets narrower, and wider again.
            let (found, _) = search(&mut mtu, Duration::from_secs(60), Duration::from_secs(200), LEAST, || false);
            prop_assert_eq!(found, LEAST);
            let (found, _) = search(&mut mtu, Duration::from_secs(200), Duration::from_secs(2000), carries, || false);
            prop_assert!(found <= carries && carries - found < STEP, "{} of {}", found, carries);
        }

        #[test]
        fn whatever_is_lost_no_more_is_used_than_has_passed_once_the_search_is_over(
            carries in LEAST..1412, losses in prop::collection::vec(any::<bool>(), 400),
        ) {
            let mut mtu = PathMtu::new(true);
            mtu.begin(Duration::ZERO, 1412);
            let mut losses = losses.into_iter();
            let lost = || losses.next().unwrap_or(false);
            let (found, _) = search(&mut mtu, Duration::ZERO, Duration::from_secs(300), carries, lost);
            prop_assert!((LEAST..=carries).contains(&found), "{} of {}", found, carries);
        }
    }

    #[test]
    fn an_answer_that_takes_longer_than_the_patience_with_a_try_is_an_answer() {
        let mut mtu = PathMtu::new(true);
        mtu.begin(Duration::ZERO, 1412);
        let late = PATIENCE + MS * 300;
        assert_eq!(mtu.tick(Duration::ZERO), Some(1412));
        mtu.sent(Duration::ZERO, 1412, [1; 16]);
        assert_eq!(mtu.tick(PATIENCE), Some(1412));
        mtu.sent(PATIENCE, 1412, [2; 16]);
        assert!(!mtu.pong(late, &[0; 16]), "of a try that was not made");
        assert!(mtu.pong(late, &[1; 16]));
        assert_eq!(mtu.of(1412), 1412);
        assert_eq!(mtu.deadline(), late + CONFIRM);
        assert!(!mtu.pong(late + PATIENCE, &[2; 16]), "its size is known");
    }

    #[test]
    fn a_path_that_carries_all_costs_one_ping_and_nothing_is_changed() {
        let mut mtu = PathMtu::new(true);
        mtu.begin(Duration::ZERO, 1412);
        assert_eq!(mtu.tick(Duration::ZERO), Some(1412));
        mtu.sent(Duration::ZERO, 1412, [1; 16]);
        assert!(mtu.pong(MS, &[1; 16]));
        assert_eq!(mtu.of(1412), 1412);
        assert_eq!(mtu.deadline(), MS + CONFIRM);
    }
}
