//! The memory of another process, as the kernel shows it to root: what is mapped, how, and where in it
//! some bytes are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use memchr::memmem;

/// A mapping of a process.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    writable: bool,
    flags: BTreeSet<String>,
}

impl Mapping {
    /// Whether it has a flag, by its two letters in /proc/PID/smaps: `lo` for locked, `dd` for not in
    /// core dumps.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// All mappings of a process.
///
/// # Errors
/// When there is no such process, or it is not to be seen.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(last) = found.last_mut() {
                last.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let range = words.next().and_then(|word| word.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        if let Some((from, to)) = range
            && let (Some(from), Some(to)) = (number(from), number(to))
        {
            found.push(Mapping {
                range: from..to,
                writable: words.next().is_some_and(|rights| rights.contains('w')),
                flags: BTreeSet::new(),
            });
        }
    }
    Ok(found)
}

/// The mappings that have these bytes in them, once for each place. What is only read is left out, and
/// what is shared with a device.
///
/// # Errors
/// When the process is gone.
pub fn places<'a>(pid: u32, all: &'a [Mapping], bytes: &[u8]) -> Result<Vec<&'a Mapping>> {
    let path = format!("/proc/{pid}/mem");
    let memory = File::open(&path).with_context(|| format!("opening {path}"))?;
    let mut found = Vec::new();
    for mapping in all.iter().filter(|mapping| mapping.writable) {
        let mut text = vec![0; usize::try_from(mapping.bytes())?];
        if memory.read_exact_at(&mut text, mapping.range.start).is_ok() {
            found.extend(memmem::find_iter(&text, bytes).map(|_| mapping));
        }
    }
    Ok(found)
}
