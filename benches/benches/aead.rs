//! Nanoseconds to seal and to open one frame's payload, by engine and size, with the header as
//! associated data. `cargo bench --bench aead`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::engine::Engine;
use dataplane::keys::Cipher;
use std::hint::black_box;
use wire::limits::{HEADER_LEN, TAG_LEN};

const SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 1400, 9000];
const ENGINES: [Engine; 2] = [Engine::AwsLcRs, Engine::AesGcm];

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("aead.seal");
    for (size, engine) in SIZES
        .into_iter()
        .flat_map(|size| ENGINES.map(|e| (size, e)))
    {
        let aead = engine.key(Cipher::Aes256Gcm, &[7; 32]).unwrap();
        let (header, mut payload, mut tag) = ([1; HEADER_LEN], vec![2; size], [0; TAG_LEN]);
        let mut nonce = [0u8; 12];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new(engine.name(), size), |b| {
            b.iter(|| {
                nonce[4] = nonce[4].wrapping_add(1);
                aead.seal(&nonce, &header, black_box(&mut payload), &mut tag)
            })
        });
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("aead.open");
    for (size, engine) in SIZES
        .into_iter()
        .flat_map(|size| ENGINES.map(|e| (size, e)))
    {
        let aead = engine.key(Cipher::Aes256Gcm, &[7; 32]).unwrap();
        let (header, mut sealed, mut tag) = ([1; HEADER_LEN], vec![2; size], [0; TAG_LEN]);
        aead.seal(&[3; 12], &header, &mut sealed, &mut tag).unwrap();
        sealed.extend_from_slice(&tag);
        // Opening is in place, so each round opens a fresh copy; the copy alone is the first line.
        let mut frame = sealed.clone();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(
            BenchmarkId::new(format!("copy-and-{}", engine.name()), size),
            |b| {
                b.iter(|| {
                    frame.copy_from_slice(&sealed);
                    aead.open(&[3; 12], &header, black_box(&mut frame)).unwrap()
                })
            },
        );
    }
    group.finish();
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
