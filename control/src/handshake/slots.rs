//! Session slots: which receiving indexes are free.
//!
//! An index is a slot in the low half and a random non-zero generation in the high half. XDP and
//! the workers find a session by its slot, so a slot that is given back rests until its owner has
//! said that it is erased, and then waits behind all other free ones.
//!
//! A Gateway has as many for each Workstation, apart from the others' and in an order of chance, for
//! each is told its own indexes: from one pool they would tell it how many sessions others begin.

use super::random::Randomness;
use std::collections::VecDeque;
use std::ops::Range;
use wire::header::{session_index, slot_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// Taken under this index; known outside or not.
    Taken(u32),
}

/// The slots of one Workstation, at either end.
#[derive(Debug)]
pub struct Slots {
    first: u16,
    slots: Vec<Slot>,
    free: VecDeque<u16>,
}

impl Slots {
    /// These slots, all free.
    pub fn new(numbers: Range<u16>) -> Self {
        Self {
            first: numbers.start,
            slots: vec![Slot::Free; numbers.len()],
            free: numbers.collect(),
        }
    }

    fn slot(&mut self, number: u16) -> Option<&mut Slot> {
        let at = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::from(at))
    }

    /// Takes the slot that has been free longest and gives it an index.
    pub fn take(&mut self, random: &mut Randomness) -> Option<u32> {
        let slot = self.free.pop_front()?;
        let index = session_index(slot, random.nonzero_u16());
        *self.slot(slot)? = Slot::Taken(index);
        Some(index)
    }

    /// Gives back `index`: it was never installed, or its erasure has been acknowledged. False when
    /// it is not a taken index.
    pub fn give_back(&mut self, index: u32) -> bool {
        let slot = slot_of(index);
        match self.slot(slot) {
            Some(entry) if *entry == Slot::Taken(index) => {
                *entry = Slot::Free;
                self.free.push_back(slot);
                true
            }
            _ => false,
        }
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    fn all_free(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

/// A Gateway's slots, in shares of `EACH` for one Workstation.
#[derive(Debug)]
pub struct Shares<const EACH: u16> {
    rest: Vec<Slots>,
    /// Those of Workstations that are gone, with sessions yet to be erased.
    leaving: Vec<Slots>,
}

impl<const EACH: u16> Shares<EACH> {
    /// So many shares, at most 65,536 / `EACH`.
    pub fn new(count: u16, random: &mut Randomness) -> Self {
        let count = count.min(u16::MAX / EACH);
        let mut rest: Vec<_> = (0..count)
            .map(|share| Slots::new(share * EACH..(share + 1) * EACH))
            .collect();
        for last in (1..rest.len()).rev() {
            rest.swap(last, (random.u64() % (last as u64 + 1)) as usize);
        }
        Self {
            rest,
            leaving: Vec::new(),
        }
    }

    /// A share for one more Workstation.
    pub fn take(&mut self) -> Option<Slots> {
        self.rest.pop()
    }

    /// Takes the share of a Workstation that is gone.
    pub fn give_back(&mut self, share: Slots) {
        match share.all_free() {
            true => self.rest.push(share),
            false => self.leaving.push(share),
        }
    }

    /// As [`Slots::give_back`], of a Workstation that is gone.
    pub fn erased(&mut self, index: u32) -> bool {
        let of = |share: &mut Slots| share.give_back(index);
        let Some(at) = self.leaving.iter_mut().position(of) else {
            return false;
        };
        if self.leaving[at].all_free() {
            self.rest.push(self.leaving.swap_remove(at));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_slot_is_used_again_as_late_as_possible_and_never_before_it_is_given_back() {
        let mut random = Randomness::new([3; 32]);
        let mut slots = Slots::new(0..4);
        let first = slots.take(&mut random).unwrap();
        assert!(slots.give_back(first));
        let order: Vec<_> = (0..4).map(|_| slots.take(&mut random).unwrap()).collect();
        assert_eq!(
            order
                .iter()
                .map(|index| slot_of(*index))
                .collect::<Vec<_>>(),
            [1, 2, 3, 0]
        );
        assert_eq!(slots.take(&mut random), None);
        assert!(
            !slots.give_back(first),
            "the old generation is not the one in use"
        );
        assert!(slots.give_back(order[3]));
        assert!(!slots.give_back(order[3]), "given back twice");
        assert!(!slots.give_back(0));
        assert!(!slots.give_back(u32::MAX));
    }

    #[test]
    fn shares_are_apart_in_an_order_of_chance_and_wait_until_all_of_them_is_erased() {
        let order = |seed| {
            let mut shares = Shares::<8>::new(64, &mut Randomness::new([seed; 32]));
            let firsts: Vec<_> = std::iter::from_fn(|| shares.take())
                .map(|share| share.first)
                .collect();
            let mut sorted = firsts.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..64).map(|at| at * 8).collect::<Vec<_>>());
            firsts
        };
        assert_ne!(order(1), order(2));

        let mut random = Randomness::new([3; 32]);
        let mut shares = Shares::<8>::new(1, &mut random);
        let mut share = shares.take().unwrap();
        let taken = [(); 2].map(|()| share.take(&mut random).unwrap());
        shares.give_back(share);
        assert!(shares.take().is_none());
        assert!(shares.erased(taken[1]));
        assert!(!shares.erased(taken[1]));
        assert!(shares.take().is_none());
        assert!(shares.erased(taken[0]));
        assert!(shares.take().is_some());
    }

    #[test]
    fn there_are_shares_up_to_the_last_number_of_a_slot() {
        let mut shares = Shares::<8>::new(u16::MAX, &mut Randomness::new([3; 32]));
        let last = std::iter::from_fn(|| shares.take())
            .map(|share| share.first)
            .max();
        assert_eq!(last, Some(8 * 8190));
    }

    proptest! {
        #[test]
        fn taken_indexes_never_collide(seed: [u8; 32], steps in prop::collection::vec(any::<(bool, u8)>(), 0..400)) {
            let mut random = Randomness::new(seed);
            let mut slots = Slots::new(40..49);
            let mut taken: Vec<u32> = Vec::new();
            for (take, which) in steps {
                if take {
                    if let Some(index) = slots.take(&mut random) {
                        prop_assert!(index >> 16 != 0);
                        prop_assert!((40..49).contains(&slot_of(index)));
                        taken.push(index);
                    } else {
                        prop_assert_eq!(taken.len(), 9);
                    }
                } else if !taken.is_empty() {
                    let index = taken.remove(which as usize % taken.len());
                    prop_assert!(slots.give_back(index));
                }
                let used: HashSet<_> = taken.iter().map(|index| slot_of(*index)).collect();
                prop_assert_eq!(used.len(), taken.len());
                prop_assert_eq!(slots.free() + taken.len(), 9);
            }
        }
    }
}
