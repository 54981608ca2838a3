//! `portcullis doctor` and `portcullis-agent doctor`: whether this box, its kernel and each port are set up
//! right.
//!
//! [`mod@read`] looks, at the rim: netlink, ethtool, sysfs, procfs, the control socket. What it found are
//! [`Facts`], and each family of checks makes findings of them, purely. Nothing is changed; it works with
//! the daemon and without.

mod command;
mod cpu;
mod daemon;
mod drivers;
mod facts;
mod fast_path;
mod files;
mod hooks;
mod kernel;
mod link;
mod memory;
mod offload;
mod queues;
mod read;
mod routing;
mod services;
mod setup;
mod show;
mod tun;

use serde::{Deserialize, Serialize};

pub use command::{Arguments, agent, gateway, help};
pub use facts::Facts;
pub use read::read;
pub use setup::{PortSetup, Setup};
pub use show::text;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and should be thought over.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// What it is about: the machine's part, or a port's interface.
    pub subject: String,
    /// What is checked, in a word or two: stable, for scripts.
    pub check: String,
    /// What was found.
    pub text: String,
    /// The command that mends it, or what else to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &str, check: &str, text: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            subject: subject.into(),
            check: check.into(),
            text: text.into(),
            remedy: None,
        }
    }

    fn warn(
        subject: &str,
        check: &str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(subject, check, text)
        }
    }

    fn fail(
        subject: &str,
        check: &str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(subject, check, text, remedy)
        }
    }
}

/// All findings, and what they come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst of them.
    pub verdict: Level,
    /// The findings, by subject.
    pub findings: Vec<Finding>,
}

/// Examines what was read.
pub fn examine(setup: &Setup, facts: &Facts) -> Report {
    let machine = [
        kernel::check,
        cpu::check,
        memory::check,
        routing::check,
        files::check,
        tun::check,
        services::check,
        fast_path::check,
        daemon::check,
    ];
    let port = [
        link::check,
        drivers::check,
        queues::check,
        offload::check,
        hooks::check,
        routing::check_port,
        daemon::check_port,
    ];
    let mut findings: Vec<_> = machine
        .iter()
        .flat_map(|check| check(setup, facts))
        .collect();
    for (wanted, found) in setup.ports.iter().zip(&facts.ports) {
        let about = port
            .iter()
            .flat_map(|check| check(setup, wanted, found, facts));
        findings.extend(about);
    }
    let verdict = findings.iter().map(|finding| finding.level).max();
    Report {
        verdict: verdict.unwrap_or(Level::Ok),
        findings,
    }
}

#[cfg(test)]
mod tests;
