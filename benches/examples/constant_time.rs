//! Whether the time of what is our own depends on secrets (VAES engine, admission tags): Welch's t-test between two classes of input,
//! as dudect does it (Reparaz, Balasch, Verbauwhede, 2017).
//!
//! `cargo run --release -p portcullis-benches --example constant_time [SAMPLES]`. Samples of both
//! classes are taken in random order and the slowest, which interrupts made, are cut off at
//! several places; the largest |t| of the cuts counts. Up to 4.5 nothing is found. A real difference
//! grows with the samples and comes every time, so what is above is measured again, up to three
//! times in all: only what is above 4.5 every time, or once above 50, makes the program fail.

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    x86_64::main()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("the VAES engine is for x86-64 alone: there is nothing to measure here");
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use dataplane::engine::{Aead, vaes::Form};
    use dataplane::keys::Cipher;
    use dataplane::tags::Tags;
    use dataplane::worker::BATCH;
    use std::hint::black_box;
    use std::process::ExitCode;
    use std::sync::atomic::{Ordering, fence};
    use std::time::Instant;
    use wire::limits::{HEADER_LEN, TAG_LEN};
    use wire::{Header, kind};

    const THRESHOLD: f64 = 4.5;
    const OVERWHELMING: f64 = 50.0;
    /// Calls in one sample: one alone is shorter than looking at the clock.
    const CALLS: usize = 16;
    const HEADER: [u8; HEADER_LEN] = [1; HEADER_LEN];
    const NONCE: [u8; 12] = [2; 12];

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
        }
    }

    pub fn main() -> ExitCode {
        let samples = std::env::args().nth(1).and_then(|n| n.parse().ok());
        let samples = samples.unwrap_or(100_000);
        let mut random = Random(0x9e3779b97f4a7c15);
        let mut sound = true;
        let ciphers = [Cipher::Aes256Gcm, Cipher::Aes128Gcm];
        let forms = Form::ALL.into_iter().filter(|form| form.available());
        for (form, cipher) in forms.flat_map(|form| ciphers.map(|cipher| (form, cipher))) {
            let key = |secret: &[u8; 32]| form.key(cipher, secret).expect("a form of this CPU");
            for size in [64, 1400] {
                let mut frames = vec![vec![0u8; size + TAG_LEN]; CALLS];
                let mut report = |what: &str, once: &mut dyn FnMut() -> f64| {
                    sound &= judged(&format!("{form:?} {cipher:?} {size} bytes, {what}"), once);
                };
                let aead = key(&[7; 32]);

                report(
                    "forged tag, right but for its last bit or all wrong",
                    &mut || {
                        let mut sealed = vec![3; size + TAG_LEN];
                        seal(&*aead, &mut sealed);
                        let tag: [u8; TAG_LEN] = sealed[size..].try_into().unwrap();
                        measure(samples, &mut random, &mut |class, random| {
                            let mut forged = tag;
                            forged[TAG_LEN - 1] ^= 1;
                            let mut wrong = [0; TAG_LEN];
                            random.fill(&mut wrong);
                            let tag = std::array::from_fn::<u8, TAG_LEN, _>(|at| {
                                forged[at] ^ (forged[at] ^ wrong[at]) & mask(class)
                            });
                            for frame in &mut frames {
                                frame[..size].copy_from_slice(&sealed[..size]);
                                frame[size..].copy_from_slice(&tag);
                            }
                            timed(|| {
                                for frame in &mut frames {
                                    let result = aead.open(&NONCE, &HEADER, black_box(frame));
                                    assert!(black_box(result).is_err());
                                }
                            })
                        })
                    },
                );

                report("sealing zeros or a random payload", &mut || {
                    measure(samples, &mut random, &mut |class, random| {
                        for frame in &mut frames {
                            random.fill(frame);
                            let kept = frame[0];
                            frame.iter_mut().for_each(|byte| *byte &= mask(class));
                            black_box(kept);
                        }
                        timed(|| frames.iter_mut().for_each(|frame| seal(&*aead, frame)))
                    })
                });

                report("expanding a fixed or a random key", &mut || {
                    measure(samples, &mut random, &mut |class, random| {
                        let mut secret = [0; 32];
                        random.fill(&mut secret);
                        secret.iter_mut().for_each(|byte| *byte &= mask(class));
                        timed(|| drop(black_box(key(black_box(&secret)))))
                    })
                });

                report("authenticating zeros or random bytes in clear", &mut || {
                    let aead = key(&[7; 32]);
                    measure(samples, &mut random, &mut |class, random| {
                        for frame in &mut frames {
                            random.fill(frame);
                            frame.iter_mut().for_each(|byte| *byte &= mask(class));
                        }
                        timed(|| {
                            for frame in &mut frames {
                                let (clear, tag) = black_box(frame).split_last_chunk_mut().unwrap();
                                aead.seal(&NONCE, clear, &mut [], tag).unwrap();
                            }
                        })
                    })
                });

                report("sealing with a fixed or a random key", &mut || {
                    measure(samples, &mut random, &mut |class, random| {
                        let mut secret = [0; 32];
                        random.fill(&mut secret);
                        secret.iter_mut().for_each(|byte| *byte &= mask(class));
                        let aead = key(&secret);
                        timed(|| frames.iter_mut().for_each(|frame| seal(&*aead, frame)))
                    })
                });
            }
        }
        sound &= judged(
            "admission tag under a key of zeros or a random one",
            &mut || {
                measure(samples, &mut random, &mut |class, random| {
                    let mut key = [random.next(), random.next()];
                    key.iter_mut()
                        .for_each(|word| *word &= u64::from(class as u8).wrapping_neg());
                    let headers: [Header; CALLS] =
                        std::array::from_fn(|at| Header::new(kind::DATA, 64, 9, at as u64));
                    timed(|| {
                        for header in &headers {
                            black_box(black_box(header).data_tag(black_box(key)));
                        }
                    })
                })
            },
        );
        let mut tags = Tags::default();
        sound &= judged(
            "admission tags of a batch under keys of zeros or random ones",
            &mut || {
                measure(samples, &mut random, &mut |class, random| {
                    let mask = u64::from(class as u8).wrapping_neg();
                    for at in 0..BATCH as u64 {
                        let key = [random.next() & mask, random.next() & mask];
                        tags.push(black_box(key), black_box([9, at]));
                    }
                    timed(|| _ = black_box(tags.compute()))
                })
            },
        );
        match sound {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// Measures until it is clear, and says how it ended.
    fn judged(what: &str, once: &mut dyn FnMut() -> f64) -> bool {
        let mut ts: Vec<f64> = Vec::new();
        let open = |ts: &[f64]| {
            let last = ts.last();
            last.is_none_or(|t| (THRESHOLD..OVERWHELMING).contains(t))
        };
        while ts.len() < 3 && open(&ts) {
            ts.push(once());
        }
        let sound = ts.last().is_some_and(|last| *last < THRESHOLD);
        println!(
            "{what}: |t| {ts:.2?} {}",
            if sound { "ok" } else { "LEAKS" }
        );
        sound
    }

    fn seal(aead: &dyn Aead, frame: &mut [u8]) {
        let (payload, tag) = black_box(frame).split_last_chunk_mut().unwrap();
        aead.seal(&NONCE, &HEADER, payload, tag).unwrap();
    }

    /// Zeros for class 0, ones for class 1. Samples are made by such masks and never taken from another
    /// place in memory for another class: with `[a, b][class]` two classes of the same content differed by
    /// a |t| of 40, by where the stack happened to lie.
    fn mask(class: usize) -> u8 {
        (class as u8).wrapping_neg()
    }

    fn timed(work: impl FnOnce()) -> f64 {
        // What is still under way of making the sample is not to be in its time: which class it is of can
        // decide what a load has to wait for.
        fence(Ordering::SeqCst);
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64
    }

    /// The largest |t| between the classes over the cuts.
    fn measure(
        samples: usize,
        random: &mut Random,
        sample: &mut dyn FnMut(usize, &mut Random) -> f64,
    ) -> f64 {
        let mut times = [Vec::new(), Vec::new()];
        for at in 0..samples + samples / 10 {
            let class = (random.next() >> 17) as usize & 1;
            let time = sample(class, random);
            // The first tenth warms up.
            if at >= samples / 10 {
                times[class].push(time);
            }
        }
        let mut all = times.concat();
        all.sort_by(f64::total_cmp);
        [0.5, 0.75, 0.9, 0.95, 0.99]
            .into_iter()
            .map(|cut| {
                let limit = all[(all.len() as f64 * cut) as usize];
                let [a, b] = [0, 1].map(|class: usize| moments(&times[class], limit));
                ((a.0 - b.0) / (a.1 + b.1).sqrt()).abs()
            })
            .filter(|t| t.is_finite())
            .fold(0.0, f64::max)
    }

    /// The mean of what is not above the limit, and the variance of that mean.
    fn moments(times: &[f64], limit: f64) -> (f64, f64) {
        let kept = || times.iter().filter(|time| **time <= limit);
        let count = kept().count() as f64;
        let mean = kept().sum::<f64>() / count;
        let squares: f64 = kept().map(|time| (time - mean).powi(2)).sum();
        (mean, squares / (count - 1.0) / count)
    }
}
