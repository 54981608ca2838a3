//! The machine, for whoever compares figures.

use std::fs;

/// CPUs and kernel.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{} x {}, Linux {}",
        cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        model.map_or("unknown CPU", |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
