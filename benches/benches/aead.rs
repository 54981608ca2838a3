//! Nanoseconds to seal and to open one frame, by engine and size, with the header as associated
//! data; and the same when everything is only authenticated. `cargo bench --bench aead`.
//!
//! An id is `aead.seal/64/vaes`: the group, the payload's bytes, the engine; `auto` is what runs
//! where nothing is configured. Each engine that this CPU has is there, `vaes` in both forms.
//!
//! Both are done to a batch of frames in turn, small enough for the first cache. Opening destroys
//! what it opens: the sealed frames are copied back, outside of the measured time, after each batch.

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::engine::{Aead, Engine};
use dataplane::keys::{Cipher, Protection};
use std::hint::black_box;
use std::time::{Duration, Instant};
use wire::limits::{HEADER_LEN, TAG_LEN};

const SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 1400, 9000];
const CIPHER: Cipher = Cipher::Aes256Gcm;
const KEY: [u8; 32] = [7; 32];

fn engines() -> Vec<(&'static str, Box<dyn Aead>)> {
    let others = [Engine::Auto, Engine::AwsLcRs, Engine::AesGcm]
        .into_iter()
        .filter_map(|engine| Some((engine.name(), engine.key(CIPHER, &KEY).ok()?)));
    others.chain(forms()).collect()
}

#[cfg(target_arch = "x86_64")]
fn forms() -> impl Iterator<Item = (&'static str, Box<dyn Aead>)> {
    use dataplane::engine::vaes::Form;
    [("vaes", Form::Avx512), ("vaes-avx2", Form::Avx2)]
        .into_iter()
        .filter_map(|(name, form)| Some((name, form.key(CIPHER, &KEY)?)))
}

#[cfg(not(target_arch = "x86_64"))]
fn forms() -> impl Iterator<Item = (&'static str, Box<dyn Aead>)> {
    std::iter::empty()
}

/// A frame of zeros split where the protection splits it.
fn split(protection: Protection, frame: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    match protection {
        Protection::Encrypt => frame.split_at_mut(HEADER_LEN),
        Protection::Authenticate => {
            let end = frame.len() - TAG_LEN;
            frame.split_at_mut(end)
        }
    }
}

fn seal_frame(aead: &dyn Aead, nonce: &[u8; 12], protection: Protection, frame: &mut [u8]) {
    let (associated, rest) = split(protection, frame);
    if let Some((payload, tag)) = rest.split_last_chunk_mut() {
        aead.seal(nonce, associated, payload, tag).unwrap();
    }
}

/// Frames in a batch.
fn batch(frame_len: usize) -> usize {
    (32 * 1024 / frame_len).min(64)
}

fn seal(c: &mut Criterion, name: &str, protection: Protection) {
    measure(c, name, |aead, len, b| {
        let mut frames = vec![1; batch(len) * len];
        let mut nonce = [0u8; 12];
        let (mut frame, mut count) = (0, 0u64);
        b.iter(|| {
            count += 1;
            nonce[4..].copy_from_slice(&count.to_le_bytes());
            frame = if frame + len == frames.len() {
                0
            } else {
                frame + len
            };
            seal_frame(
                aead,
                &nonce,
                protection,
                black_box(&mut frames[frame..frame + len]),
            )
        })
    });
}

fn open(c: &mut Criterion, name: &str, protection: Protection) {
    measure(c, name, |aead, len, b| {
        let nonce = [3; 12];
        let mut sealed = vec![1; len];
        seal_frame(aead, &nonce, protection, &mut sealed);
        let sealed = sealed.repeat(batch(len));
        let mut frames = sealed.clone();
        b.iter_custom(|iterations| {
            let (mut spent, mut left) = (Duration::ZERO, iterations as usize);
            while left > 0 {
                frames.copy_from_slice(&sealed);
                let start = Instant::now();
                for frame in frames.chunks_exact_mut(len).take(left) {
                    let (associated, rest) = split(protection, frame);
                    aead.open(&nonce, associated, black_box(rest)).unwrap();
                }
                spent += start.elapsed();
                left = left.saturating_sub(batch(len));
            }
            spent
        })
    });
}

/// Every engine at every size, of which `one` measures one, given the length of its frame.
fn measure(c: &mut Criterion, name: &str, one: impl Fn(&dyn Aead, usize, &mut Bencher)) {
    let mut group = c.benchmark_group(name);
    for size in SIZES {
        for (engine, aead) in engines() {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(size.to_string(), engine), |b| {
                one(&*aead, HEADER_LEN + size + TAG_LEN, b)
            });
        }
    }
    group.finish();
}

fn all(c: &mut Criterion) {
    seal(c, "aead.seal", Protection::Encrypt);
    open(c, "aead.open", Protection::Encrypt);
    seal(c, "aead.authenticate.seal", Protection::Authenticate);
    open(c, "aead.authenticate.open", Protection::Authenticate);
}

criterion_group!(benches, all);
criterion_main!(benches);
