//! Attacks on a Gateway from its own LAN.
mod frame;

pub use frame::*;
