//! The control plane: keys, handshake, registry of Workstations, configuration and control API.
#![deny(missing_docs)]

pub mod handshake;
