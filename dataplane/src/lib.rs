//! The userspace dataplane: ports (AF_XDP rings), AEAD engines, sessions, workers and the host
//! interface.
//!
//! Workstation to Gateway a frame travels [`port`] -> [`worker`] -> [`session`] (opened in place)
//! -> [`route`] (inner source) -> [`host`] (TUN). Gateway to Workstation it travels [`host`]
//! (segmented) -> [`worker`] -> [`session`] (sealed in the frame it is sent from) -> [`port`].
//! [`wall`] attaches the XDP program that stands before all of it.
#![deny(missing_docs)]

pub mod backlog;
pub mod counters;
pub mod credit;
pub mod engine;
pub mod explain;
pub mod generation;
pub mod host;
pub mod inner;
pub mod keys;
pub mod lifetime;
pub mod link;
pub mod own;
pub mod path;
pub mod peer;
pub mod policy;
pub mod port;
pub mod prefetch;
pub mod reuse;
pub mod route;
pub mod schedule;
pub mod session;
pub mod tags;
pub mod tap;
pub mod wall;
pub mod worker;

/// A port (an interface the tunnel runs on) within one process.
pub type PortId = u16;
/// A Workstation's slot: its place in the credit and counter tables of every port.
pub type WorkstationId = u32;
