//! What the daemon's threads use of the cores, from /proc.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

/// A thread's share of a core.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// The thread's name.
    pub name: String,
    /// Of one core, from 0 to 1.
    pub share: f64,
    /// The core it was last on.
    pub core: usize,
}

/// The threads of whoever answers on a socket.
pub struct Threads {
    socket: PathBuf,
    process: Option<i32>,
    ticks_each_second: f64,
    before: Option<(Instant, Vec<(String, u64)>)>,
}

impl Threads {
    /// Those of the daemon with this socket.
    pub fn new(socket: PathBuf) -> Self {
        // What the kernel's clock ticks are for user space on every architecture of Linux.
        const USER_HZ: f64 = 100.0;
        let told = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok();
        Self {
            socket,
            process: None,
            ticks_each_second: told.flatten().map_or(USER_HZ, |ticks| ticks as f64),
            before: None,
        }
    }

    /// Their use since the last look; nothing the first time, and where /proc does not say.
    pub fn look(&mut self) -> Vec<Use> {
        let process = match self.process {
            Some(process) => process,
            None => {
                let Some(process) = peer(&self.socket) else {
                    return Vec::new();
                };
                *self.process.insert(process)
            }
        };
        let Some(threads) = read(process) else {
            // It has been started again.
            self.process = None;
            self.before = None;
            return Vec::new();
        };
        let now = Instant::now();
        let ticks: Vec<_> = threads
            .iter()
            .map(|thread| (thread.id.clone(), thread.ticks))
            .collect();
        let Some((then, before)) = self.before.replace((now, ticks)) else {
            return Vec::new();
        };
        let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
        let mut all: Vec<Use> = Vec::new();
        for thread in threads {
            let Some((_, old)) = before.iter().find(|(id, _)| *id == thread.id) else {
                continue;
            };
            let used = thread.ticks.saturating_sub(*old) as f64 / self.ticks_each_second;
            all.push(Use {
                name: thread.name,
                share: used / seconds,
                core: thread.core,
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Who has the other end of a socket.
fn peer(socket: &PathBuf) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    (peer.pid() > 0).then_some(peer.pid())
}

struct Thread {
    id: String,
    name: String,
    ticks: u64,
    core: usize,
}

fn read(process: i32) -> Option<Vec<Thread>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let threads = tasks.filter_map(|task| {
        let task = task.ok()?;
        let text = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, ticks, core) = parse(&text)?;
        Some(Thread {
            id: task.file_name().to_string_lossy().into_owned(),
            name,
            ticks,
            core,
        })
    });
    Some(threads.collect())
}

/// A thread's name, its ticks on a core and that core (proc_pid_stat(5)).
fn parse(text: &str) -> Option<(String, u64, usize)> {
    // A name may have anything in it, parentheses too.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // The third field of the file is the first here.
    let (user, system, core) = (number(11)?, number(12)?, number(36)?);
    Some((name, user + system, core as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    #[test]
    fn a_name_with_a_parenthesis_hides_nothing() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let text = format!("12 (work) er-0) {}", fields.join(" "));
        assert_eq!(parse(&text), Some(("work) er-0".into(), 14 + 15, 39)));
        assert_eq!(parse("12 (worker"), None);
    }

    #[test]
    fn a_thread_that_spins_is_seen_to_use_a_core() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let spinner = std::thread::Builder::new()
            .name("spinner".into())
            .spawn(|| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(20) && !std::thread::panicking() {
                    std::hint::spin_loop();
                }
            })
            .unwrap();
        let mut threads = Threads::new(path);
        assert_eq!(threads.look(), []);
        let start = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let all = threads.look();
            let spins = all.iter().find(|thread| thread.name == "spinner");
            // The machine may be busy with other tests.
            if spins.is_some_and(|thread| thread.share > 0.1 && thread.share < 1.5) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(15), "{all:?}");
        }
        drop(spinner);
    }
}
