//! The store against a model of what should be in it.

use proptest::prelude::*;

use super::*;

const FRAMES: u32 = 24;
const TRAINS: u16 = 5;
const CAPACITY: usize = 300;

#[derive(Debug, Clone)]
enum Step {
    /// A message of so many bytes in segments of so many.
    Land(usize, usize),
    Take(usize),
    SetLen(prop::sample::Index, usize),
    Leave(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0usize..2000, 0usize..400).prop_map(|(len, size)| Step::Land(len, size)),
        1 => (1usize..300).prop_map(|len| Step::Land(len, 0)),
        4 => (1usize..12).prop_map(Step::Take),
        2 => (any::<prop::sample::Index>(), 0usize..400)
            .prop_map(|(which, len)| Step::SetLen(which, len)),
        4 => any::<prop::sample::Index>().prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..120)
}

/// A store, and what should be in it.
struct Model {
    store: Store,
    slots: Vec<u32>,
    expected: VecDeque<Vec<u8>>,
    held: Vec<(Place, Vec<u8>)>,
    drawn: u8,
    dropped: u64,
}

impl Model {
    fn land(&mut self, len: usize, segment: usize) {
        let Some((number, buffer)) = self.store.landings(1).next() else {
            return;
        };
        for (at, byte) in buffer[..len].iter_mut().enumerate() {
            *byte = self.drawn.wrapping_add((at / segment.max(1)) as u8) ^ at as u8;
        }
        let message = buffer[..len].to_vec();
        self.drawn = self.drawn.wrapping_add(41);
        self.store.landed(number, len, segment);
        let size = if segment == 0 { len.max(1) } else { segment };
        for frame in message.chunks(size) {
            match frame.len() <= CAPACITY {
                true => self.expected.push_back(frame.to_vec()),
                false => self.dropped += 1,
            }
        }
        self.dropped += u64::from(len == 0);
    }

    fn take(&mut self) -> bool {
        let slots = &mut self.slots;
        let Some(place) = self.store.take(|| slots.pop()) else {
            return false;
        };
        let bytes = self.expected.pop_front().expect("a frame landed");
        self.held.push((place, bytes));
        true
    }

    fn leave(&mut self, at: usize) {
        let (place, _) = self.held.swap_remove(at);
        self.store.leave(&place);
        self.slots.push(place.slot);
    }

    fn check(&self) {
        assert_eq!(self.slots.len() + self.held.len(), FRAMES as usize);
        for (place, bytes) in &self.held {
            assert_eq!(self.store.data(place), bytes, "a held frame was written to");
        }
        let unused = self.store.users.iter().filter(|users| **users == 0);
        assert_eq!(unused.count(), self.store.free);
        let kept = |train: u16| self.held.iter().any(|(place, _)| place.train == train);
        let kept = (0..TRAINS).filter(|train| kept(*train)).count();
        assert!(kept < usize::from(TRAINS), "frames keep the last buffer");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trains_are_taken_apart_in_order_and_no_buffer_is_lost(steps in steps()) {
        let mut model = Model {
            store: Store::new(FRAMES, TRAINS, CAPACITY).unwrap(),
            slots: (0..FRAMES).collect(),
            expected: VecDeque::new(),
            held: Vec::new(),
            drawn: 0,
            dropped: 0,
        };
        for step in steps {
            match step {
                Step::Land(len, segment) => model.land(len, segment),
                Step::Take(count) => for _ in 0..count { model.take(); },
                Step::SetLen(which, len) => if !model.held.is_empty() {
                    let at = which.index(model.held.len());
                    let (place, bytes) = &mut model.held[at];
                    model.store.set_len(place, len);
                    let len = len.min(CAPACITY);
                    prop_assert_eq!(place.len(), len);
                    bytes.truncate(len);
                    let had = bytes.len();
                    prop_assert_eq!(&model.store.data(place)[..had], &bytes[..]);
                    model.store.data_mut(place)[had..].fill(7);
                    bytes.resize(len, 7);
                },
                Step::Leave(which) => if !model.held.is_empty() {
                    model.leave(which.index(model.held.len()));
                },
            }
            model.check();
        }
        loop {
            while model.take() {}
            if model.held.is_empty() { break }
            model.leave(0);
        }
        prop_assert!(model.expected.is_empty(), "every frame was taken");
        prop_assert_eq!(model.store.dropped(), model.dropped);
        prop_assert_eq!(model.store.used(), 0);
        prop_assert!(!model.store.has_arrived());
    }
}

#[test]
fn a_frame_of_a_train_stays_where_it_landed_and_a_lone_one_does_not() {
    let mut store = Store::new(8, 8, 2000).unwrap();
    assert_eq!(store.landed(0, 1000, 400), 3);
    assert_eq!(store.landed(1, 400, 0), 1);
    let mut slots = 0..;
    let taken: Vec<Place> = (0..4)
        .map(|_| store.take(|| slots.next()).unwrap())
        .collect();
    assert_eq!(
        taken.iter().map(Place::len).collect::<Vec<_>>(),
        [400, 400, 200, 400]
    );
    assert_eq!(
        taken.iter().map(|place| place.train).collect::<Vec<_>>(),
        [0, 0, 0, NONE]
    );
    assert_eq!(store.used(), 1, "the train's buffer");
    taken.iter().for_each(|place| store.leave(place));
    assert_eq!(store.used(), 0);
}
