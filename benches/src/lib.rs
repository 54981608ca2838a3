//! Benchmarks of the dataplane; see `benches/benches`.
#![deny(missing_docs)]
