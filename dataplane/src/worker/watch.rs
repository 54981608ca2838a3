//! Keys that were there before the machine was put back to a snapshot seal nothing after it.

use super::*;
use crate::generation::GenerationCounter;

/// The counter that is watched, where there is one.
#[derive(Default)]
pub(super) struct Watch {
    counter: Option<Box<dyn GenerationCounter>>,
    /// Its value when control last saw to it that nothing from before it is left.
    acknowledged: u128,
    /// Control was told of the change.
    told: bool,
}

impl Watch {
    pub(super) fn new(counter: Box<dyn GenerationCounter>, acknowledged: u128) -> Self {
        Self {
            counter: Some(counter),
            acknowledged,
            told: false,
        }
    }

    /// Control has dropped what it had from before this value.
    pub(super) fn acknowledge(&mut self, value: u128) {
        (self.acknowledged, self.told) = (value, false);
    }

    #[inline]
    fn has_changed(&self) -> bool {
        let counter = self.counter.as_ref();
        counter.is_some_and(|counter| counter.read() != self.acknowledged)
    }
}

impl<P: Port, H: Host> Worker<P, H> {
    /// To be asked when everything that is to be sealed next is in memory and has its frames, before
    /// a counter is spent on it. When the machine was put back to a snapshot all keys are dropped, and
    /// none are taken until control has dropped its own, for those on their way here may be from
    /// before it as well. True when there are no keys for that reason.
    ///
    /// Nothing from outside of the machine's memory may decide what is sealed after this: a copy made
    /// there must spend the same counters on the same frames.
    #[inline]
    pub(super) fn keep_or_drop_keys(&mut self) -> bool {
        let changed = self.watch.has_changed();
        if changed {
            self.drop_keys();
        }
        changed
    }

    #[cold]
    fn drop_keys(&mut self) {
        if !std::mem::replace(&mut self.watch.told, true) {
            self.outbox.push_back(Event::RolledBack);
        }
        let all: Vec<u32> = self.sessions.all().map(|session| session.index).collect();
        for index in all {
            self.erase(index);
        }
    }
}
