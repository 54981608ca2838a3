//! Benchmarks of the dataplane: criterion's in `benches/benches`, and the harnesses that
//! `cargo xtask bench` drives.
#![deny(missing_docs)]

pub mod pipeline;
pub mod scaling;
