//! The control plane: keys, handshake, registry of Workstations, configuration and control API, and
//! the two daemons.
//!
//! [`config`] says what is to run, [`registry`] who may use it, [`keys`] and [`enrolment`] how each
//! side comes by its keys, [`handshake`] how the two agree on a session. [`gateway`] and [`agent`] are
//! the daemons' control threads, which drive the dataplane's workers. [`api`] is how a person looks at
//! it and changes it while it runs. Failures are [`problem::Problem`]s, with a remedy each.
#![deny(missing_docs)]

pub mod agent;
pub mod api;
mod asker;
pub mod audit;
mod bench;
pub mod check;
pub mod choices;
pub mod cli;
pub mod config;
mod confine;
pub mod difference;
pub mod doctor;
pub mod encapsulation;
mod ending;
pub mod enrolment;
pub mod entropy;
pub mod events;
pub mod explain;
pub mod files;
pub mod gateway;
pub mod handshake;
pub mod helper;
mod hostif;
pub mod init;
pub mod interfaces;
pub mod keygen;
pub mod keyless;
pub mod keyring;
pub mod keys;
mod layout;
pub mod lock;
pub mod log;
mod mailbox;
pub mod metrics;
mod monitor;
mod napi;
mod pool;
mod port;
pub mod problem;
mod process;
pub mod program;
mod raise;
pub mod registry;
pub mod resolve;
mod rollback;
pub mod rules;
pub mod show;
mod systemd;
mod thread;
pub mod top;
pub mod transport;
pub mod watch;
pub mod workstation;
