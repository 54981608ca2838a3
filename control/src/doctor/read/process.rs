//! The daemon's process: whoever holds the control socket's other end.

use crate::api::socket::SOCKET;
use crate::doctor::facts::Process;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(super) fn of(runtime_directory: &Path) -> Option<Process> {
    let stream = UnixStream::connect(runtime_directory.join(SOCKET)).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", peer.pid())).ok();
    parse(&read("status")?, &read("limits")?)
}

/// Of /proc/PID/status and /proc/PID/limits.
fn parse(status: &str, limits: &str) -> Option<Process> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let memlock = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    Some(Process {
        capabilities: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
        seccomp: field("Seccomp:")?.parse().ok()?,
        memlock_unlimited: memlock.trim_start().starts_with("unlimited"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tx\nCapEff:\t0000000000004000\nSeccomp:\t2\n";
        let limits = "Max locked memory         8388608              8388608              bytes\n";
        let process = Process {
            capabilities: 1 << 14,
            seccomp: 2,
            memlock_unlimited: false,
        };
        assert_eq!(parse(status, limits), Some(process));
        let unlimited =
            "Max locked memory         unlimited            unlimited            bytes\n";
        assert!(parse(status, unlimited).unwrap().memlock_unlimited);
        assert_eq!(parse("", limits), None);
    }

    #[test]
    fn the_kernel_writes_it_so() {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        assert!(parse(&read("status"), &read("limits")).is_some());
    }
}
