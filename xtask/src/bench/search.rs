//! The highest rate at which a path loses nothing (RFC 2544's throughput, the *non-drop rate*), and
//! that at which it loses no more than a given part (a *partial-drop rate*).
//!
//! What is tested is asked for its rate by trials: first one far above what it can, which says what
//! it delivers when overrun; then doublings down or up from there until a rate that is kept and
//! one that is not enclose the answer; then halvings. All goals share the trials, so the second costs
//! little. A shared machine hiccups, so a rate is given up only when it was missed twice.

use anyhow::Result;

/// What a trial at some rate gave, in whatever unit the rate has.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trial {
    /// The rate asked for.
    pub asked: f64,
    /// The rate that the tester really offered.
    pub offered: f64,
    /// The rate that arrived.
    pub arrived: f64,
    /// The part that did not arrive, 0 to 1.
    pub loss: f64,
}

/// How a search goes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// A rate above anything possible.
    pub ceiling: f64,
    /// Below this the answer is 0.
    pub floor: f64,
    /// The search ends when the answer is known to within this part of it.
    pub precision: f64,
}

/// A goal's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Found {
    /// The rate that arrived in the best trial that met the goal; 0 when none did.
    pub rate: f64,
    /// Whether it was the tester that could offer no more.
    pub tester_bound: bool,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Search {
    /// An answer for each goal, in their order.
    pub found: Vec<Found>,
    /// The highest rate that arrived in any trial, whatever was lost.
    pub best: f64,
    /// All trials, in order.
    pub trials: Vec<Trial>,
}

/// A tester that offers less than this part of what it was asked can do no more.
const OFFERED: f64 = 0.93;

/// Searches for the highest rates with a loss of at most each of `goals`; `trial` tries one rate.
///
/// # Errors
/// What `trial` answered.
pub fn search(
    plan: Plan,
    goals: &[f64],
    mut trial: impl FnMut(f64) -> Result<Trial>,
) -> Result<Search> {
    let first = trial(plan.ceiling)?;
    let mut search = Search {
        found: vec![Found::default(); goals.len()],
        best: 0.0,
        trials: vec![first],
    };
    // The most tolerant first: it says from where on the others need not look.
    let mut order: Vec<usize> = (0..goals.len()).collect();
    order.sort_by(|&a, &b| goals[b].total_cmp(&goals[a]));
    for at in order {
        let goal = goals[at];
        while let Some(rate) = next(&plan, goal, &search.trials) {
            search.trials.push(trial(rate)?);
        }
    }
    for (found, &goal) in search.found.iter_mut().zip(goals) {
        let met = search.trials.iter().filter(|trial| trial.loss <= goal);
        let best = met.max_by(|a, b| a.arrived.total_cmp(&b.arrived));
        *found = best.map_or_else(Found::default, |best| Found {
            rate: best.arrived,
            tester_bound: best.offered < best.asked * OFFERED,
        });
    }
    let arrived = search.trials.iter().map(|trial| trial.arrived);
    search.best = arrived.fold(0.0, f64::max);
    Ok(search)
}

/// The rate to try next for a goal; none when its answer is known.
fn next(plan: &Plan, goal: f64, trials: &[Trial]) -> Option<f64> {
    let met = |trial: &&Trial| trial.loss <= goal;
    let kept = trials
        .iter()
        .filter(met)
        .map(|trial| trial.asked)
        .fold(0.0, f64::max);
    let above: Vec<&Trial> = trials.iter().filter(|trial| trial.asked > kept).collect();
    // What arrived of the first, which overran it, is near the answer.
    let first = trials[0];
    let Some(missed) = above.iter().map(|trial| trial.asked).min_by(f64::total_cmp) else {
        // Even the ceiling was kept.
        return None;
    };
    let lowest = above.iter().filter(|trial| trial.asked == missed);
    let (times, loss) = lowest.fold((0, f64::INFINITY), |(times, loss), trial| {
        (times + 1, trial.loss.min(loss))
    });
    // Once more, unless it was hopeless: a hiccup of the machine takes a few datagrams, not a tenth.
    if times < 2 && loss < goal + 0.1 {
        return Some(missed);
    }
    if missed <= plan.floor {
        return None;
    }
    if kept == 0.0 {
        let guess = if missed >= plan.ceiling {
            first.arrived
        } else {
            missed / 2.0
        };
        return Some(
            guess
                .clamp(plan.floor, plan.ceiling / 2.0)
                .min(missed * 0.9),
        );
    }
    if missed <= kept * (1.0 + plan.precision) {
        return None;
    }
    // The tester fell short already: more cannot be offered than it did then.
    let short = trials
        .iter()
        .any(|trial| trial.asked == kept && trial.offered < kept * OFFERED);
    if short {
        return None;
    }
    if missed >= plan.ceiling {
        return Some(
            (kept * 1.5)
                .min(missed * 0.9)
                .max(kept * (1.0 + plan.precision)),
        );
    }
    Some((kept * missed).sqrt())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const PLAN: Plan = Plan {
        ceiling: 5e6,
        floor: 1e3,
        precision: 0.05,
    };

    /// A link that carries `capacity`, delivers `overrun` of that when it is overrun, and is offered
    /// `most` at most; every `hiccup`th trial loses a little more.
    struct Link {
        capacity: f64,
        overrun: f64,
        most: f64,
        hiccup: u32,
        trials: Cell<u32>,
    }

    impl Link {
        fn of(capacity: f64) -> Self {
            Self {
                capacity,
                overrun: 1.0,
                most: 4e6,
                hiccup: u32::MAX,
                trials: Cell::new(0),
            }
        }

        fn search(&self) -> Search {
            search(PLAN, &[0.0, 0.01], |asked| {
                self.trials.set(self.trials.get() + 1);
                let offered = asked.min(self.most);
                let mut arrived = offered;
                if offered > self.capacity {
                    arrived = self.capacity * self.overrun;
                }
                if self.trials.get().is_multiple_of(self.hiccup) {
                    arrived *= 0.97;
                }
                let loss = 1.0 - arrived / offered;
                Ok(Trial {
                    asked,
                    offered,
                    arrived,
                    loss,
                })
            })
            .unwrap()
        }
    }

    #[test]
    fn the_capacity_of_a_link_is_found_to_within_the_precision() {
        for capacity in [3e3, 41e3, 100e3, 777e3, 2.9e6] {
            let search = Link::of(capacity).search();
            for (found, most) in search.found.iter().zip([1.0, 1.01]) {
                let part = found.rate / capacity;
                assert!((0.95..=most).contains(&part), "{capacity}: {found:?}");
                assert!(!found.tester_bound);
            }
            assert!(search.trials.len() <= 20, "{}", search.trials.len());
        }
    }

    #[test]
    fn a_link_that_delivers_less_when_it_is_overrun_is_not_underrated() {
        for overrun in [0.9, 0.5, 0.1, 0.01] {
            let search = Link {
                overrun,
                ..Link::of(200e3)
            }
            .search();
            for found in search.found {
                assert!(
                    (190e3..=200e3).contains(&found.rate),
                    "{overrun}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn a_hiccup_now_and_then_does_not_hide_the_capacity() {
        for hiccup in 2..9 {
            let search = Link {
                hiccup,
                ..Link::of(200e3)
            }
            .search();
            for found in search.found {
                assert!((185e3..=200e3).contains(&found.rate), "{hiccup}: {found:?}");
            }
        }
    }

    #[test]
    fn the_non_drop_rate_is_never_above_the_partial_drop_rate() {
        for capacity in [5e3, 333e3, 1e6] {
            for hiccup in [2, 3, 5, u32::MAX] {
                let search = Link {
                    hiccup,
                    ..Link::of(capacity)
                }
                .search();
                assert!(search.found[0].rate <= search.found[1].rate, "{search:?}");
                assert!(search.found[1].rate <= search.best);
            }
        }
    }

    #[test]
    fn a_tester_that_is_too_slow_says_so_and_the_search_ends() {
        let search = Link {
            most: 300e3,
            ..Link::of(1e6)
        }
        .search();
        for found in search.found {
            assert_eq!(found.rate, 300e3);
            assert!(found.tester_bound);
        }
        assert_eq!(search.trials.len(), 1);
    }

    #[test]
    fn a_path_that_carries_nothing_gives_nothing_and_the_search_ends() {
        let search = Link {
            overrun: 0.0,
            ..Link::of(0.0)
        }
        .search();
        assert_eq!(search.found[0], Found::default());
        assert_eq!(search.best, 0.0);
        assert!(search.trials.len() < 30);
    }
}
