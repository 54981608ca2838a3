//! What processes may do, as /proc shows it.

use anyhow::{Context, Result, ensure};
use std::fs;

/// An account that nobody has.
pub const ACCOUNT: u32 = 64_077;
/// What a daemon's helper keeps: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_NICE, CAP_PERFMON and CAP_BPF.
pub const HELPER: u64 = 1 << 12 | 1 << 13 | 1 << 23 | 1 << 38 | 1 << 39;
/// What a daemon keeps where root cannot raise the limit of locked memory.
const IPC_LOCK: u64 = 1 << 14;

/// The status file of a thread.
#[derive(Debug)]
pub struct ThreadStatus {
    text: String,
    /// Whether its process may lock any memory.
    unlimited: bool,
}

/// The status of every thread of a process.
pub fn threads(pid: u32) -> Result<Vec<ThreadStatus>> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let memory = limits
        .lines()
        .find(|line| line.starts_with("Max locked memory"));
    let unlimited = memory.is_some_and(|line| line.contains("unlimited"));
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks
        .map(|task| {
            let text = fs::read_to_string(task?.path().join("status"))?;
            Ok(ThreadStatus { text, unlimited })
        })
        .collect()
}

impl ThreadStatus {
    /// A field's value; nothing where there is none of this name.
    pub fn field(&self, name: &str) -> String {
        let mut lines = self.text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or("").trim().to_owned()
    }

    /// A set of capabilities; all, where it cannot be read.
    pub fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(&self.field(name), 16).unwrap_or(u64::MAX)
    }

    /// What this thread of a daemon could do, or come to do, and should not.
    pub fn privileges(&self) -> Vec<String> {
        let who = self.field("Name");
        let locks = if self.unlimited { 0 } else { IPC_LOCK };
        let sets = [
            ("CapInh", 0),
            ("CapBnd", 0),
            ("CapAmb", 0),
            ("CapPrm", locks),
            ("CapEff", locks),
        ];
        let beyond = sets.into_iter().filter(|(set, may)| self.set(set) != *may);
        let open = [("NoNewPrivs", "1"), ("Seccomp", "2")];
        let open = open
            .into_iter()
            .filter(|(name, is)| self.field(name) != *is);
        let names = beyond
            .map(|(name, _)| name)
            .chain(open.map(|(name, _)| name));
        names
            .map(|name| format!("{name} of {who} is {}", self.field(name)))
            .collect()
    }
}

/// The helper of a daemon, which is its only child.
pub fn helper_of(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let all: Vec<&str> = children.split_whitespace().collect();
    ensure!(
        all.len() == 1,
        "a daemon has one child, its helper: {all:?}"
    );
    all[0].parse().context("a process id")
}

/// What a process has open.
pub fn descriptors(pid: u32) -> Result<Vec<String>> {
    let all = fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(all
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .map(|path| path.display().to_string())
        .collect())
}
