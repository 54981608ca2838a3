//! Frames larger than a chunk of a port's memory, each in one piece.
//!
//! The kernel hands such a frame over as a chain of chunks, and takes it as one; whoever opens or
//! seals it needs it contiguous. So it is copied: out of its chain when it is received, and into one
//! when it is sent. Frames that fit a chunk never come here.
//!
//! There are as many buffers as chunks, and a frame in a buffer keeps one chunk, the first of its
//! chain: so a buffer can always be had, and a frame is a chunk, whatever its size. The buffers are
//! one allocation of zeroed pages, which the kernel provides when they are first written, and the
//! one freed last is used next, so few of them are ever touched.

use std::ffi::c_void;
use std::io;

/// Bytes of a buffer: the largest frame.
pub(crate) const CAPACITY: usize = 9216;

/// A buffer in use, and how much of it.
#[derive(Debug)]
pub(crate) struct Linear {
    number: u32,
    len: u32,
}

impl Linear {
    #[inline]
    fn start(&self) -> usize {
        self.number as usize * CAPACITY
    }

    /// Bytes of the frame in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

/// The chain that is being received.
#[derive(Debug)]
enum Chain<T> {
    /// None.
    Idle,
    /// More is to come of the frame in this buffer; this is its first chunk.
    Into(T, Linear),
    /// More is to come of a frame that is dropped.
    Dropping,
}

/// The buffers of a port whose chunks are known by a `T` each, and the chain that is being received.
#[derive(Debug)]
pub(crate) struct Linears<T> {
    bytes: Box<[u8]>,
    free: Vec<u32>,
    chain: Chain<T>,
    too_large: u64,
}

impl<T> Linears<T> {
    /// `count` buffers; none for a port whose frames all fit a chunk.
    ///
    /// # Errors
    /// What madvise answered.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut bytes = vec![0; count * CAPACITY].into_boxed_slice();
        keep_out_of_core_dumps(&mut bytes)?;
        Ok(Self {
            bytes,
            free: (0..count as u32).rev().collect(),
            chain: Chain::Idle,
            too_large: 0,
        })
    }

    /// Received frames dropped because they were larger than [`CAPACITY`].
    pub(crate) fn too_large(&self) -> u64 {
        self.too_large
    }

    /// Whether the next chunk received belongs to a chain already begun.
    #[inline]
    pub(crate) fn is_receiving(&self) -> bool {
        !matches!(self.chain, Chain::Idle)
    }

    /// An empty buffer. `None` where all are in use: where there are none.
    pub(crate) fn take(&mut self) -> Option<Linear> {
        let number = self.free.pop()?;
        Some(Linear { number, len: 0 })
    }

    /// A buffer is of no more use.
    pub(crate) fn give_back(&mut self, linear: Linear) {
        self.free.push(linear.number);
    }

    /// The frame's bytes.
    #[inline]
    pub(crate) fn data(&self, linear: &Linear) -> &[u8] {
        &self.bytes[linear.start()..][..linear.len()]
    }

    /// The same, writable.
    #[inline]
    pub(crate) fn data_mut(&mut self, linear: &Linear) -> &mut [u8] {
        &mut self.bytes[linear.start()..][..linear.len()]
    }

    /// Adds bytes to the end of a frame; false, and nothing added, where there is no room for them.
    pub(crate) fn append(&mut self, linear: &mut Linear, piece: &[u8]) -> bool {
        let (at, len) = (linear.len(), linear.len() + piece.len());
        if len > CAPACITY {
            return false;
        }
        linear.len = len as u32;
        self.data_mut(linear)[at..].copy_from_slice(piece);
        true
    }

    /// Sets the frame's length, at most [`CAPACITY`].
    #[inline]
    pub(crate) fn set_len(linear: &mut Linear, len: usize) {
        linear.len = len.min(CAPACITY) as u32;
    }

    /// Takes in the next chunk of a chain and what is in it; `more` is whether another one follows.
    /// The answer is the frame, once it is whole, with its first chunk. Chunks of no more use go to
    /// `release` at once.
    pub(crate) fn receive(
        &mut self,
        chunk: T,
        piece: &[u8],
        more: bool,
        mut release: impl FnMut(T),
    ) -> Option<(T, Linear)> {
        let chain = std::mem::replace(&mut self.chain, Chain::Idle);
        let (first, done, mut linear) = match chain {
            Chain::Into(first, linear) => (first, Some(chunk), linear),
            Chain::Idle => match self.take() {
                Some(linear) => (chunk, None, linear),
                None => return self.drop_rest(chunk, more, release),
            },
            Chain::Dropping => return self.drop_rest(chunk, more, release),
        };
        let fits = self.append(&mut linear, piece);
        if let Some(chunk) = done {
            release(chunk);
        }
        if !fits {
            self.give_back(linear);
            return self.drop_rest(first, more, release);
        }
        if more {
            self.chain = Chain::Into(first, linear);
            return None;
        }
        Some((first, linear))
    }

    #[cold]
    fn drop_rest(
        &mut self,
        chunk: T,
        more: bool,
        mut release: impl FnMut(T),
    ) -> Option<(T, Linear)> {
        release(chunk);
        if more {
            self.chain = Chain::Dropping;
        } else {
            self.too_large += 1;
        }
        None
    }
}

/// A core dump must not carry the traffic of every Workstation.
pub(super) fn keep_out_of_core_dumps(bytes: &mut [u8]) -> io::Result<()> {
    const PAGE: usize = 4096;
    // Whole pages only: what is left at either end is in pages that others use too.
    let before = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
    let pages = &mut bytes[before..];
    let length = pages.len() / PAGE * PAGE;
    if length == 0 {
        return Ok(());
    }
    // SAFETY: the pages are all within the slice, and the advice changes no byte.
    let answer = unsafe {
        libc::madvise(
            pages.as_mut_ptr().cast::<c_void>(),
            length,
            libc::MADV_DONTDUMP,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::*;
    use proptest::prelude::*;

    const CHUNKS: usize = 24;
    const CHUNK: usize = 3840;

    /// What may happen to a port.
    #[derive(Debug, Clone)]
    enum Step {
        /// A chain of these lengths arrives; some of its chunks are taken in now, the rest later.
        Arrive(Vec<u16>),
        /// This many of the chunks that arrived are taken in.
        TakeIn(usize),
        /// The oldest frame held is released, or sent on with this length.
        Release,
        Send(usize),
        /// A new frame of this length is sent.
        Build(usize),
        /// The oldest of this many chunks in sending are done.
        Complete(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let piece = prop_oneof![1..=CHUNK as u16, Just(CHUNK as u16)];
        let step = prop_oneof![
            proptest::collection::vec(piece, 1..5).prop_map(Step::Arrive),
            (1usize..6).prop_map(Step::TakeIn),
            Just(Step::Release),
            (1..=CAPACITY).prop_map(Step::Send),
            (1..=CAPACITY).prop_map(Step::Build),
            (1usize..9).prop_map(Step::Complete),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// A port's two books, and the kernel's side of its rings.
    struct Model {
        pool: Pool<u32>,
        linears: Linears<u32>,
        /// The fill ring, and chunks that arrived, with their bytes and whether more follows.
        fill: Vec<u32>,
        arrived: std::collections::VecDeque<(u32, Vec<u8>, bool)>,
        /// Frames that should come, whole.
        expected: std::collections::VecDeque<Vec<u8>>,
        held: Vec<(u32, Linear)>,
        sending: std::collections::VecDeque<u32>,
        /// Where every chunk is besides: none twice.
        drawn: u8,
        dropped: u64,
    }

    impl Model {
        fn new() -> Self {
            let mut model = Self {
                pool: Pool::new((0..CHUNKS as u32).collect(), CHUNKS * 2 / 3),
                linears: Linears::new(CHUNKS).unwrap(),
                fill: Vec::new(),
                arrived: Default::default(),
                expected: Default::default(),
                held: Vec::new(),
                sending: Default::default(),
                drawn: 0,
                dropped: 0,
            };
            model.refill();
            model
        }

        fn refill(&mut self) {
            let count = self.pool.stash().len();
            let (fill, pool) = (&mut self.fill, &mut self.pool);
            fill.extend(pool.stash().iter().copied());
            drop(pool.filled(count));
        }

        fn arrive(&mut self, lengths: &[u16]) {
            // The kernel hands over all of a frame or nothing.
            if self.fill.len() < lengths.len() {
                return;
            }
            let mut whole = Vec::new();
            for (at, len) in lengths.iter().enumerate() {
                self.drawn = self.drawn.wrapping_add(1);
                let piece = vec![self.drawn; usize::from(*len)];
                whole.extend_from_slice(&piece);
                let chunk = self.fill.remove(0);
                let more = at + 1 < lengths.len();
                self.arrived.push_back((chunk, piece, more));
            }
            if whole.len() <= CAPACITY {
                self.expected.push_back(whole);
            } else {
                self.dropped += 1;
            }
        }

        fn take_in(&mut self, count: usize) {
            for _ in 0..count {
                let Some((chunk, piece, more)) = self.arrived.pop_front() else {
                    break;
                };
                self.pool.received(1);
                let pool = &mut self.pool;
                let whole = self
                    .linears
                    .receive(chunk, &piece, more, |chunk| pool.release(chunk, true));
                if let Some((chunk, linear)) = whole {
                    let expected = self.expected.pop_front().expect("a frame was sent");
                    assert!(self.linears.data(&linear) == expected, "bytes differ");
                    self.held.push((chunk, linear));
                }
            }
            self.refill();
        }

        fn send(&mut self, chunk: u32, linear: Linear, was_received: bool) {
            let more = linear.len().div_ceil(CHUNK) - 1;
            if self.pool.census().free < more {
                self.linears.give_back(linear);
                return self.pool.release(chunk, was_received);
            }
            self.pool.sent(was_received);
            self.sending.push_back(chunk);
            for _ in 0..more {
                let chunk = self.pool.reserve().expect("there were enough");
                self.pool.sent(false);
                self.sending.push_back(chunk);
            }
            self.linears.give_back(linear);
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Arrive(lengths) => self.arrive(&lengths),
                Step::TakeIn(count) => self.take_in(count),
                Step::Release if !self.held.is_empty() => {
                    let (chunk, linear) = self.held.remove(0);
                    self.linears.give_back(linear);
                    self.pool.release(chunk, true);
                }
                Step::Send(len) if !self.held.is_empty() => {
                    let (chunk, mut linear) = self.held.remove(0);
                    Linears::<u32>::set_len(&mut linear, len);
                    self.send(chunk, linear, true);
                }
                Step::Build(len) => {
                    let Some(chunk) = self.pool.reserve() else {
                        return;
                    };
                    let mut linear = self.linears.take().expect("a chunk has a buffer");
                    Linears::<u32>::set_len(&mut linear, len);
                    self.send(chunk, linear, false);
                }
                Step::Complete(count) => {
                    let count = count.min(self.sending.len());
                    for chunk in self.sending.drain(..count) {
                        self.pool.completed(chunk);
                    }
                }
                Step::Release | Step::Send(_) => {}
            }
        }

        fn check(&self) {
            let census = self.pool.census();
            assert_eq!(census.total(), CHUNKS, "{census:?}");
            let first = usize::from(matches!(self.linears.chain, Chain::Into(..)));
            assert_eq!(census.held, self.held.len() + first, "{census:?}");
            assert_eq!(census.sending, self.sending.len());
            assert_eq!(census.receiving, self.fill.len() + self.arrived.len());
            let in_use = CHUNKS - self.linears.free.len();
            assert_eq!(in_use, self.held.len() + first, "every buffer is somewhere");
        }
    }

    proptest! {
        #[test]
        fn chains_arrive_whole_and_no_chunk_or_buffer_is_lost(steps in steps()) {
            let mut model = Model::new();
            for step in steps {
                model.step(step);
                model.check();
            }
            // The rest of what has begun, and everything back.
            model.take_in(usize::MAX);
            while !model.held.is_empty() {
                model.step(Step::Release);
            }
            model.step(Step::Complete(usize::MAX));
            model.check();
            prop_assert!(model.expected.is_empty(), "every frame arrived");
            prop_assert_eq!(model.linears.too_large(), model.dropped);
            prop_assert_eq!(model.linears.free.len(), CHUNKS);
            prop_assert!(!model.linears.is_receiving());
        }
    }

    #[test]
    fn without_buffers_a_chain_is_dropped_and_counted_and_its_chunks_come_back() {
        let mut linears = Linears::new(0).unwrap();
        let mut released = Vec::new();
        for (chunk, more) in [(1, true), (2, true), (3, false)] {
            let whole = linears.receive(chunk, &[0; 100], more, |chunk| released.push(chunk));
            assert!(whole.is_none());
        }
        assert_eq!(released, [1, 2, 3]);
        assert_eq!(linears.too_large(), 1);
        assert!(!linears.is_receiving());
    }
}
