//! A bounded ring with the cursors of the kernel's AF_XDP rings: free-running 32-bit counters whose
//! difference is the level, so that they may start anywhere and wrap.

/// A ring of at most `size` entries, first in, first out.
#[derive(Debug)]
pub struct Ring<T> {
    slots: Box<[Option<T>]>,
    mask: u32,
    producer: u32,
    consumer: u32,
}

impl<T> Ring<T> {
    /// A ring of `size` entries (rounded up to a power of two) whose cursors start at `start`.
    pub fn new(size: u32, start: u32) -> Self {
        let size = size.max(1).next_power_of_two();
        Self {
            slots: (0..size).map(|_| None).collect(),
            mask: size - 1,
            producer: start,
            consumer: start,
        }
    }

    /// Entries it can hold.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// Entries in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.producer.wrapping_sub(self.consumer) as usize
    }

    /// Whether nothing is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.producer == self.consumer
    }

    /// Room left.
    #[inline]
    pub fn room(&self) -> usize {
        self.slots.len() - self.len()
    }

    /// Puts `entry` at the end.
    ///
    /// # Errors
    /// The entry, when the ring is full.
    #[inline]
    pub fn push(&mut self, entry: T) -> Result<(), T> {
        if self.room() == 0 {
            return Err(entry);
        }
        self.slots[(self.producer & self.mask) as usize] = Some(entry);
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }

    /// Takes the entry at the front.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let entry = self.slots[(self.consumer & self.mask) as usize].take();
        self.consumer = self.consumer.wrapping_add(1);
        entry
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u16),
        Pop(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1u16..40).prop_map(Step::Push),
            (1u16..40).prop_map(Step::Pop)
        ];
        prop::collection::vec(step, 1..60)
    }

    fn starts() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), (u32::MAX - 100)..=u32::MAX, Just(0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn a_ring_is_a_bounded_queue_from_any_starting_cursor(
            exponent in 0u32..8, start in starts(), steps in steps()
        ) {
            let size = 1usize << exponent;
            let mut ring = Ring::new(size as u32, start);
            let mut oracle = VecDeque::new();
            let mut next = 0u32;
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        next += 1;
                        if oracle.len() < size {
                            oracle.push_back(next);
                            prop_assert_eq!(ring.push(next), Ok(()));
                        } else {
                            prop_assert_eq!(ring.push(next), Err(next));
                        }
                    },
                    Step::Pop(count) => for _ in 0..count {
                        prop_assert_eq!(ring.pop(), oracle.pop_front());
                    },
                }
                prop_assert_eq!(ring.len(), oracle.len());
                prop_assert_eq!(ring.room(), size - oracle.len());
                prop_assert_eq!(ring.is_empty(), oracle.is_empty());
            }
        }
    }
}
