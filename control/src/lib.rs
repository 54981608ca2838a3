//! The control plane: keys, handshake, registry of Workstations, configuration and control API.
//!
//! [`config`] says what is to run, [`registry`] who may use it, [`keys`] and [`enrolment`] how each
//! side comes by its keys, [`handshake`] how the two agree on a session. [`api`] is how a person
//! looks at it and changes it while it runs. Failures are [`problem::Problem`]s, with a remedy each.
#![deny(missing_docs)]

pub mod api;
pub mod choices;
pub mod config;
pub mod enrolment;
pub mod entropy;
pub mod files;
pub mod handshake;
pub mod keys;
pub mod problem;
pub mod registry;
pub mod workstation;
