//! Benchmarks of the dataplane: criterion's in `benches/benches`, and the harnesses that
//! `cargo xtask bench` and `portcullis bench` drive.
#![deny(missing_docs)]

pub mod admission;
pub mod figure;
pub mod machine;
pub mod pipeline;
pub mod progress;
pub mod scaling;
pub mod worker;

/// Lets everybody else on the machine go first, for the rest of this process's life.
pub fn give_way() {
    // Without it the figures are as good, and somebody else's time is taken.
    let _ = rustix::process::nice(10);
}
