//! The Portcullis wire format: header, types, limits, admission tag, replay window, and the
//! admission decision itself.
//!
//! This crate has no IO, no clock, no randomness and no allocation. It is compiled into the XDP
//! program and into userspace alike, so both ends of the AF_XDP ring read a frame with the same
//! code. The layouts are those of `docs/protocol.md`.
#![no_std]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod admission;
pub mod flow;
pub mod header;
pub mod limits;
pub mod pinned;
pub mod read;
pub mod refusal;
pub mod replay;
pub mod siphash;
pub mod tables;
pub mod udp;
pub mod verdict;
pub mod watch;

pub use admission::{Admission, Encapsulation, Frame, Role, Tables, decide, decide_connected};
pub use flow::Flow;
pub use header::{Header, Malformed, kind};
pub use pinned::PinnedVerdict;
pub use replay::ReplayWindow;
pub use udp::Udp;
pub use verdict::Verdict;
