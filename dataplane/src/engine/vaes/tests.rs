//! Both forms against both libraries. On a CPU without a form its tests have nothing to do.

use super::*;
use crate::engine::{Engine, NONCE_LEN};
use wire::limits::{HEADER_LEN, TAG_LEN};

const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm];
const LIBRARIES: [Engine; 2] = [Engine::AwsLcRs, Engine::AesGcm];
/// How many random frames are compared.
const CASES: &str = "PORTCULLIS_AEAD_CASES";
const CANARY: u8 = 0xa5;
/// Canaries on each side of a buffer.
const MARGIN: usize = 128;

fn forms() -> Vec<Form> {
    let forms: Vec<_> = Form::ALL.into_iter().filter(|f| f.available()).collect();
    if forms.len() < Form::ALL.len() {
        eprintln!("only tested: {forms:?}");
    }
    forms
}

/// SplitMix64: reproducible, and fast enough for ten million frames.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let len = chunk.len();
            chunk.copy_from_slice(&self.next().to_le_bytes()[..len]);
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// One key in both libraries and all forms, and the buffer that frames are worked on in.
struct Bench {
    cipher: Cipher,
    libraries: [Box<dyn Aead>; 2],
    forms: Vec<(Form, Box<dyn Aead>)>,
    buffer: Vec<u8>,
    expected: Vec<u8>,
}

impl Bench {
    fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        Self {
            cipher,
            libraries: LIBRARIES.map(|library| library.key(cipher, key).unwrap()),
            forms: forms()
                .into_iter()
                .map(|form| (form, form.key(cipher, key).unwrap()))
                .collect(),
            buffer: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Holds every form against both libraries, the payload `offset` bytes after a cache line.
    fn compare(
        &mut self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        payload: &[u8],
        offset: usize,
    ) {
        let place = (self.cipher, associated.len(), payload.len(), offset);
        let len = payload.len();
        for (at, library) in self.libraries.iter().enumerate() {
            let mut tag = [0; TAG_LEN];
            let mut sealed = payload.to_vec();
            library
                .seal(nonce, associated, &mut sealed, &mut tag)
                .unwrap();
            sealed.extend_from_slice(&tag);
            assert!(at == 0 || sealed == self.expected, "{place:?}");
            self.expected = sealed;
        }
        for (form, aead) in &self.forms {
            self.buffer.clear();
            self.buffer.resize(len + TAG_LEN + 2 * MARGIN + 64, CANARY);
            let start = self.buffer.as_ptr().align_offset(64) + 64 + offset;
            let frame = start..start + len + TAG_LEN;
            self.buffer[start..start + len].copy_from_slice(payload);
            let (text, tag) = self.buffer[frame.clone()].split_last_chunk_mut().unwrap();
            aead.seal(nonce, associated, text, tag).unwrap();
            assert!(
                self.buffer[frame.clone()] == self.expected,
                "{form:?} {place:?}"
            );
            aead.open(nonce, associated, &mut self.buffer[frame.clone()])
                .unwrap_or_else(|_| panic!("{form:?} {place:?} does not open"));
            assert!(
                self.buffer[start..start + len] == *payload,
                "{form:?} {place:?}"
            );
            let around = self.buffer[..start].iter().chain(&self.buffer[frame.end..]);
            assert!(
                around.into_iter().all(|b| *b == CANARY),
                "{form:?} {place:?}"
            );
        }
    }
}

#[test]
fn every_length_up_to_the_largest_frame_is_sealed_and_opened_as_by_the_libraries() {
    let mut random = Random(1);
    for cipher in CIPHERS {
        let mut bench = Bench::new(cipher, &random.bytes());
        let mut bytes = vec![0; HEADER_LEN + 9216];
        random.fill(&mut bytes);
        for len in 0..=9216 {
            for associated in [0, 16, HEADER_LEN] {
                let (associated, payload) = (&bytes[..associated], &bytes[HEADER_LEN..][..len]);
                bench.compare(&random.bytes(), associated, payload, len % 64);
            }
            // What `authenticate` does.
            bench.compare(&random.bytes(), &bytes[..HEADER_LEN + len], &[], len % 64);
        }
    }
}

#[test]
fn where_a_frame_lies_in_memory_makes_no_difference() {
    let mut random = Random(2);
    let mut bytes = vec![0; 64 + 1500];
    random.fill(&mut bytes);
    let lengths = [
        0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 200, 255, 256, 257, 300, 512, 700, 1400,
    ];
    for cipher in CIPHERS {
        let mut bench = Bench::new(cipher, &random.bytes());
        for (len, offset) in lengths
            .into_iter()
            .flat_map(|l| (0..64).map(move |o| (l, o)))
        {
            let (associated, payload) = bytes[offset..].split_at(HEADER_LEN);
            bench.compare(&random.bytes(), associated, &payload[..len], offset);
        }
    }
}

#[test]
fn a_counter_beyond_two_bytes_counts_on() {
    let mut random = Random(3);
    let mut bytes = vec![0; (1 << 20) + 300];
    random.fill(&mut bytes);
    for cipher in CIPHERS {
        let mut bench = Bench::new(cipher, &random.bytes());
        for len in [64 << 10, (64 << 10) + 1, bytes.len()] {
            bench.compare(&random.bytes(), &bytes[..7], &bytes[..len], 3);
            bench.compare(&random.bytes(), &bytes[..len], &bytes[..100], 0);
        }
    }
}

/// Twenty thousand of them, or as many as the variable [`CASES`] says.
#[test]
fn random_frames_are_sealed_and_opened_as_by_the_libraries() {
    let cases: u64 = match std::env::var(CASES) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 20_000,
    };
    let mut random = Random(4 + cases);
    let mut bytes = vec![0; 16 << 10];
    random.fill(&mut bytes);
    let mut bench = Bench::new(Cipher::Aes256Gcm, &random.bytes());
    for case in 0..cases {
        if case % 16 == 0 {
            bench = Bench::new(CIPHERS[random.below(2)], &random.bytes());
        }
        let mut length = || match random.below(64) {
            0 => random.below(9217),
            1..8 => random.below(1500),
            8..24 => random.below(300),
            _ => random.below(80),
        };
        let (associated, payload) = (length(), length());
        let (a, p) = (random.below(6000), random.below(6000));
        let (associated, payload) = (&bytes[a..][..associated], &bytes[p..][..payload]);
        let offset = random.below(64);
        bench.compare(&random.bytes(), associated, payload, offset);
    }
    println!(
        "{cases} random frames are alike in {:?} and both libraries",
        forms()
    );
}

#[test]
fn a_flipped_bit_anywhere_is_forged_and_leaves_no_plaintext() {
    let mut random = Random(5);
    for (cipher, form) in CIPHERS
        .into_iter()
        .flat_map(|c| forms().into_iter().map(move |f| (c, f)))
    {
        for len in [0, 1, 16, 64, 100, 240, 256, 300, 600, 1400] {
            let aead = form.key(cipher, &random.bytes()).unwrap();
            let nonce = random.bytes();
            let mut header = random.bytes::<HEADER_LEN>();
            let mut plain = vec![0; len];
            random.fill(&mut plain);
            let (mut sealed, mut tag) = (plain.clone(), [0; TAG_LEN]);
            aead.seal(&nonce, &header, &mut sealed, &mut tag).unwrap();
            sealed.extend_from_slice(&tag);
            for bit in 0..8 * (HEADER_LEN + sealed.len()) {
                let (byte, mask) = (bit / 8, 1 << (bit % 8));
                let mut frame = sealed.clone();
                match byte.checked_sub(HEADER_LEN) {
                    None => header[byte] ^= mask,
                    Some(byte) => frame[byte] ^= mask,
                }
                let sent = frame.clone();
                assert_eq!(
                    aead.open(&nonce, &header, &mut frame),
                    Err(Forged),
                    "{form:?} {len} {bit}"
                );
                // What is left is what came, or zeros.
                for (now, sent) in frame.chunks(16).zip(sent.chunks(16)) {
                    assert!(
                        now == sent || now == &[0; 16][..now.len()],
                        "{form:?} {len} {bit}"
                    );
                }
                if byte < HEADER_LEN {
                    header[byte] ^= mask;
                }
            }
            // And the untouched frame opens.
            aead.open(&nonce, &header, &mut sealed).unwrap();
            assert_eq!(sealed[..len], plain);
        }
    }
}

#[test]
fn a_key_is_compact_and_lies_on_lines_of_its_own() {
    assert_eq!(size_of::<avx512::Key<15>>(), 768);
    assert_eq!(size_of::<avx512::Key<11>>(), 704);
    assert_eq!(size_of::<avx2::Key<15>>(), 768);
    assert_eq!(align_of::<avx512::Key<15>>(), 64);
    assert_eq!(align_of::<avx2::Key<11>>(), 64);
}

#[test]
fn a_dropped_key_is_wiped() {
    fn wiped<K>(key: Box<K>) -> bool {
        let key = Box::into_raw(key);
        // SAFETY: the key is dropped once, its memory is still ours, it is all byte arrays without
        // padding, and it is given back as what it was made as, but not dropped again.
        unsafe {
            let bytes = std::slice::from_raw_parts(key.cast::<u8>(), size_of::<K>());
            assert!(bytes.iter().any(|byte| *byte != 0));
            std::ptr::drop_in_place(key);
            let bytes = std::slice::from_raw_parts(key.cast::<u8>(), size_of::<K>());
            let wiped = bytes.iter().all(|byte| *byte == 0);
            drop(Box::from_raw(key.cast::<std::mem::ManuallyDrop<K>>()));
            wiped
        }
    }
    for form in forms() {
        assert!(match form {
            Form::Avx512 => wiped(avx512::Key::<15>::new(&[1; 32]).unwrap()),
            Form::Avx2 => wiped(avx2::Key::<15>::new(&[1; 32]).unwrap()),
        });
    }
}

#[test]
fn the_widest_form_that_the_cpu_has_is_the_one_used() {
    let widest = match (Form::Avx512.available(), Form::Avx2.available()) {
        (true, _) => Some(Form::Avx512),
        (false, true) => Some(Form::Avx2),
        (false, false) => None,
    };
    assert_eq!(Form::best(), widest);
}

#[test]
fn a_key_of_another_length_is_none() {
    assert!(avx512::Key::<15>::new(&[1; 16]).is_none());
    assert!(avx512::Key::<11>::new(&[1; 32]).is_none());
    assert!(avx2::Key::<15>::new(&[]).is_none());
    assert!(Form::Avx512.key(Cipher::Aes256GcmSiv, &[1; 32]).is_none());
}

#[test]
fn lengths_that_would_wrap_the_counter_are_refused() {
    // Zeros that are never touched are never in memory.
    let long = vec![0; MAX_LEN + 1];
    assert_eq!(check_lengths(&[], &long[..MAX_LEN]), Ok(()));
    assert_eq!(check_lengths(&[], &long), Err(Forged));
    assert_eq!(check_lengths(&long, &[]), Err(Forged));
    assert!(MAX_LEN / 16 + 2 < u32::MAX as usize);
}
