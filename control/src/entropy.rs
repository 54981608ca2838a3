//! Randomness that a restored snapshot does not repeat.
//!
//! A virtual machine rolled back to a snapshot has the kernel's generator as it was. So every
//! random value is BLAKE3, keyed by a secret of this process, over several sources of which one is
//! enough: the kernel's generator, the processor's, the time-stamp counter, the clocks, the process
//! id and a counter. Nonces, session indexes, ephemeral keys and key material come from here.

use crate::problem::{Kind, Problem};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of input: kernel 32, processor 32, time stamp 8, clocks 32, count 8, process id 8.
const INPUT: usize = 120;

/// Fills `output` with fresh random bytes.
///
/// # Errors
/// The kernel's generator did not answer.
pub fn fill(output: &mut [u8]) -> Result<(), Problem> {
    static SECRET: OnceLock<Zeroizing<[u8; 32]>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let secret = match SECRET.get() {
        Some(secret) => secret,
        None => {
            let mut fresh = Zeroizing::new([0; 32]);
            kernel(&mut *fresh)?;
            SECRET.get_or_init(|| fresh)
        }
    };
    let mut kernel_part = Zeroizing::new([0; 32]);
    kernel(&mut *kernel_part)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    expand(secret, &gather(&kernel_part, count), output);
    Ok(())
}

/// A fresh random value of 32 bytes.
///
/// # Errors
/// The kernel's generator did not answer.
pub fn seed() -> Result<[u8; 32], Problem> {
    let mut seed = [0; 32];
    fill(&mut seed)?;
    Ok(seed)
}

fn kernel(output: &mut [u8]) -> Result<(), Problem> {
    getrandom::fill(output).map_err(|error| {
        Problem::new(
            Kind::Failed,
            "reading the kernel's random number generator",
            error,
            "a sandbox may forbid getrandom(2): allow it",
        )
    })
}

/// All sources, side by side.
fn gather(kernel: &[u8; 32], count: u64) -> Zeroizing<[u8; INPUT]> {
    let mut input = Zeroizing::new([0u8; INPUT]);
    let mut processor = processor();
    input[..32].copy_from_slice(kernel);
    for (at, word) in processor.iter().enumerate() {
        input[32 + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    processor.zeroize();
    input[64..72].copy_from_slice(&time_stamp().to_le_bytes());
    for (at, word) in clocks().iter().enumerate() {
        input[72 + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    input[104..112].copy_from_slice(&count.to_le_bytes());
    input[112..116].copy_from_slice(&std::process::id().to_le_bytes());
    input
}

fn expand(secret: &[u8; 32], input: &[u8; INPUT], output: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(input);
    let mut reader = hasher.finalize_xof();
    reader.fill(output);
    hasher.zeroize();
    reader.zeroize();
}

/// Seconds and nanoseconds of the wall clock and of the time since boot.
fn clocks() -> [u64; 4] {
    use nix::time::{ClockId, clock_gettime};
    let mut words = [0; 4];
    for (at, clock) in [ClockId::CLOCK_REALTIME, ClockId::CLOCK_BOOTTIME]
        .into_iter()
        .enumerate()
    {
        if let Ok(time) = clock_gettime(clock) {
            words[at * 2] = time.tv_sec() as u64;
            words[at * 2 + 1] = time.tv_nsec() as u64;
        }
    }
    words
}

/// Four words of the processor's own generator; zeros where it has none.
#[cfg(target_arch = "x86_64")]
fn processor() -> [u64; 4] {
    #[target_feature(enable = "rdrand")]
    fn words() -> [u64; 4] {
        let mut words = [0; 4];
        for word in &mut words {
            // Intel's advice: ten attempts, then the generator is considered broken.
            for _ in 0..10 {
                if core::arch::x86_64::_rdrand64_step(word) == 1 {
                    break;
                }
            }
        }
        words
    }
    if is_x86_feature_detected!("rdrand") {
        // SAFETY: the processor has RDRAND, it was asked on the line above.
        unsafe { words() }
    } else {
        [0; 4]
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> [u64; 4] {
    [0; 4]
}

#[cfg(target_arch = "x86_64")]
fn time_stamp() -> u64 {
    // SAFETY: RDTSC is part of x86-64; Linux lets every process use it unless it asked not to.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn time_stamp() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn seeds_differ_on_every_thread_and_every_call() {
        let seeds: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).map(|_| seed().unwrap()).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        });
        assert_eq!(seeds.iter().collect::<HashSet<_>>().len(), 2000);
    }

    #[test]
    fn every_byte_of_every_source_and_of_the_secret_counts() {
        let expanded = |secret: &[u8; 32], input: &[u8; INPUT]| {
            let mut output = [0; 32];
            expand(secret, input, &mut output);
            output
        };
        let (mut secret, mut input) = ([0; 32], [0; INPUT]);
        let mut seen = HashSet::from([expanded(&secret, &input)]);
        for at in 0..INPUT {
            input[at] = 1;
            assert!(seen.insert(expanded(&secret, &input)), "byte {at}");
            input[at] = 0;
        }
        for at in 0..32 {
            secret[at] = 1;
            assert!(seen.insert(expanded(&secret, &input)), "byte {at}");
            secret[at] = 0;
        }
    }

    #[test]
    fn a_repeated_kernel_generator_leaves_every_other_source_at_work() {
        let (first, second) = (gather(&[2; 32], 7), gather(&[2; 32], 8));
        assert_eq!(first[..32], second[..32]);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("rdrand") {
                for word in 4..8 {
                    assert_ne!(first[word * 8..][..8], second[word * 8..][..8]);
                }
            }
            assert_ne!(first[64..72], second[64..72], "time stamp");
        }
        assert_ne!(first[80..88], second[80..88], "wall clock");
        assert_ne!(first[96..104], second[96..104], "time since boot");
        assert_ne!(first[104..112], second[104..112], "count");
        assert_eq!(first[112..116], std::process::id().to_le_bytes());
    }

    #[test]
    fn any_length_is_filled() {
        for length in [0, 1, 31, 32, 33, 64, 1000] {
            let mut output = vec![0; length];
            fill(&mut output).unwrap();
            if length > 30 {
                assert!(output.iter().any(|byte| *byte != 0));
                assert!(output[length - 16..].iter().any(|byte| *byte != 0));
            }
        }
    }
}
