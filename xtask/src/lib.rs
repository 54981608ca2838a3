//! What a developer of Portcullis runs: the rig of network namespaces, the attacks, the demo, and
//! the tasks around cargo. The `xtask` binary is a command line over this library; the end-to-end
//! tests and the benchmarks use the same rig.
#![deny(missing_docs)]

pub mod arguments;
pub mod attack;
pub mod bench;
pub mod demo;
pub mod dist;
pub mod fuzz;
pub mod inventory;
pub mod middlebox;
pub mod pages;
pub mod report;
pub mod rig;
pub mod tasks;
pub mod tools;
pub mod vm;
