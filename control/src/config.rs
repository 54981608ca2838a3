//! The configuration files: `/etc/portcullis/portcullis.toml` of the Gateway and
//! `/etc/portcullis/agent.toml` of a Workstation.
//!
//! Reading one gives a checked value or one [`Problem`](crate::problem::Problem) that names file, line, column, what is
//! wrong there and what to write instead. Unknown names are refused: a misspelt setting that is
//! silently ignored is a hole in the wall.

use std::path::Path;

mod agent;
mod check;
mod gateway;
mod keyless;
mod udp;
mod work;

pub use agent::Agent;
pub use check::{check_interface_name, host_address};
pub use gateway::{Gateway, Port};
pub use keyless::{Digest, KeylessPort, RATE};
pub use work::{BusyPoll, Cores, Rings, TX_BUDGET};

/// Where the Gateway's configuration is, unless told otherwise.
pub const GATEWAY_PATH: &str = "/etc/portcullis/portcullis.toml";
/// Where a Workstation's configuration is, unless told otherwise.
pub const AGENT_PATH: &str = "/etc/portcullis/agent.toml";

/// Where the wall is pinned, unless told otherwise.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/portcullis";
/// The host interface's name, unless told otherwise.
pub const HOST_INTERFACE: &str = "portcullis0";
/// The most Workstations one Gateway can be configured for.
pub const MAX_WORKSTATIONS: u32 = 4096;
/// The ring sizes that can be configured.
pub const RING_SIZES: std::ops::RangeInclusive<u32> = 64..=32768;

/// ` --config FILE` for a command that is to use the configuration `path`; nothing where that is the
/// `default`.
pub fn option(path: &Path, default: &str) -> String {
    match path == Path::new(default) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    }
}

#[cfg(test)]
mod tests;
