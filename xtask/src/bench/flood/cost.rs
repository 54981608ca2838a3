//! What a frame costs the Gateway's CPU: the kernel's own account of the XDP program's run time.
//!
//! What the kernel does for a frame in a soft interrupt is charged to no process, so the daemon's CPU
//! time says nothing about frames that XDP drops.

use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result, ensure};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// BPF_PROG_TYPE_XDP.
const XDP: u64 = 6;

/// The kernel measures BPF programs until this is dropped.
pub(super) struct Measured {
    before: String,
}

impl Measured {
    /// Begins. Reading the clock costs each run of a program some nanoseconds, which it is charged.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub(super) fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("reading {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("writing {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, self.before.trim());
    }
}

/// Runs of XDP programs, and the nanoseconds they took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Runs {
    pub count: u64,
    pub nanoseconds: u64,
}

impl Runs {
    /// Of all XDP programs that a process holds.
    ///
    /// # Errors
    /// When it has ended, or holds none.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let directory = format!("/proc/{pid}/fdinfo");
        let mut programs = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
            // A descriptor may be closed in between.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            if let Some((id, runs)) = parse(&text)
                && !programs.iter().any(|(other, _)| *other == id)
            {
                programs.push((id, runs));
            }
        }
        ensure!(!programs.is_empty(), "process {pid} holds no XDP program");
        Ok(Self {
            count: programs.iter().map(|(_, runs)| runs.count).sum(),
            nanoseconds: programs.iter().map(|(_, runs)| runs.nanoseconds).sum(),
        })
    }

    /// Nanoseconds of one run.
    pub(super) fn each(self) -> f64 {
        self.nanoseconds as f64 / self.count.max(1) as f64
    }
}

impl Sub for Runs {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            nanoseconds: self.nanoseconds.saturating_sub(earlier.nanoseconds),
        }
    }
}

/// The id and the runs of an XDP program, if that is what a descriptor is (bpf_prog_show_fdinfo).
fn parse(fdinfo: &str) -> Option<(u64, Runs)> {
    let field = |name: &str| {
        let mut lines = fdinfo.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim().parse::<u64>().ok())?
        })
    };
    (field("prog_type")? == XDP).then_some(())?;
    Some((
        field("prog_id")?,
        Runs {
            count: field("run_cnt")?,
            nanoseconds: field("run_time_ns")?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "pos:\t0\nflags:\t02000002\nprog_type:\t6\nprog_jited:\t1\n\
                           prog_tag:\t8c024b02e3d0bb1e\nmemlock:\t4096\nprog_id:\t31\n\
                           run_time_ns:\t5000\nrun_cnt:\t20\nrecursion_misses:\t0\n";

    #[test]
    fn the_run_time_of_an_xdp_program_is_read_from_its_descriptor() {
        let (id, runs) = parse(PROGRAM).unwrap();
        assert_eq!((id, runs.count, runs.nanoseconds), (31, 20, 5000));
        let later = Runs {
            count: 120,
            nanoseconds: 25_000,
        };
        assert_eq!((later - runs).each(), 200.0);
        assert_eq!(Runs::default().each(), 0.0);
    }

    #[test]
    fn other_programs_and_other_descriptors_are_passed_over() {
        assert_eq!(
            parse(&PROGRAM.replace("prog_type:\t6", "prog_type:\t3")),
            None
        );
        assert_eq!(parse("pos:\t0\nflags:\t02\nmnt_id:\t15\n"), None);
        assert_eq!(parse(""), None);
    }
}
