//! Session slots: which receiving indexes are free.
//!
//! An index is a slot in the low half and a random non-zero generation in the high half. XDP and
//! the workers find a session by its slot, so a slot that is given back rests until its owner has
//! said that it is erased, and then waits behind all other free ones.

use super::random::Randomness;
use std::collections::VecDeque;
use wire::header::{session_index, slot_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// Taken under this index; known outside or not.
    Taken(u32),
}

/// The allocator. One for all Workstations of a Gateway.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    free: VecDeque<u16>,
}

impl Slots {
    /// `count` free slots, numbered from 0.
    pub fn new(count: u16) -> Self {
        Self {
            slots: vec![Slot::Free; count as usize],
            free: (0..count).collect(),
        }
    }

    /// Takes the slot that has been free longest and gives it an index.
    pub fn take(&mut self, random: &mut Randomness) -> Option<u32> {
        let slot = self.free.pop_front()?;
        let index = session_index(slot, random.nonzero_u16());
        self.slots[slot as usize] = Slot::Taken(index);
        Some(index)
    }

    /// Gives back `index`: it was never installed, or its erasure has been acknowledged. False when
    /// it is not a taken index.
    pub fn give_back(&mut self, index: u32) -> bool {
        let slot = slot_of(index);
        match self.slots.get_mut(slot as usize) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_slot_is_used_again_as_late_as_possible_and_never_before_it_is_given_back() {
        let mut random = Randomness::new([3; 32]);
        let mut slots = Slots::new(4);
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

    proptest! {
        #[test]
        fn taken_indexes_never_collide(seed: [u8; 32], steps in prop::collection::vec(any::<(bool, u8)>(), 0..400)) {
            let mut random = Randomness::new(seed);
            let mut slots = Slots::new(9);
            let mut taken: Vec<u32> = Vec::new();
            for (take, which) in steps {
                if take {
                    if let Some(index) = slots.take(&mut random) {
                        prop_assert!(index >> 16 != 0);
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
