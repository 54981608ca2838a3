//! The signs that this machine was put back to a snapshot, or cloned.
//!
//! A counter that the hypervisor or the kernel keeps outside of the machine's memory is exact, where
//! one can be mapped: the worker compares it before each batch, and control before it uses a
//! handshake's state. Linux itself offers none for mapping (it keeps the ACPI generation identifier
//! to itself), so it must be named. What Linux does tell is that the identifier has changed, in an
//! event; and a machine that was put back is often found by its clocks. Both come late and are hints.

use crate::problem::{Kind, Problem};
use crate::thread;
use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::generation::{GenerationCounter, Mapped};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// What the kernel's event has in it since Linux 6.10.
const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";
/// The group that the kernel sends its events to.
const KERNEL_EVENTS: u32 = 1;
/// How far the wall clock and the time since boot may move apart between two looks. NTP turns a clock
/// by 500 ppm; everything that sets one by more than this is worth a handshake.
const APART: Duration = Duration::from_secs(1);

/// A counter to watch, and its last value.
pub struct Generation {
    counter: Mapped,
    seen: u128,
}

impl Generation {
    /// Maps the counter, and once more for the worker.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn open(path: &Path) -> Result<(Self, Mapped), Problem> {
        let map = || {
            Mapped::open(path).map_err(|error| {
                Problem::new(
                    Kind::Invalid,
                    format!("mapping the generation counter {}", path.display()),
                    error,
                    "name a counter in vm_generation that can be mapped, or leave it out: \
                     AES-256-GCM-SIV is used then",
                )
            })
        };
        let counter = map()?;
        let seen = counter.read();
        Ok((Self { counter, seen }, map()?))
    }

    /// The value last seen.
    pub fn seen(&self) -> u128 {
        self.seen
    }

    /// The new value, when it has changed.
    pub fn changed(&mut self) -> Option<u128> {
        let now = self.counter.read();
        let before = std::mem::replace(&mut self.seen, now);
        (before != now).then_some(now)
    }
}

/// The wall clock and the time since boot, as they were at the last look.
#[derive(Debug, Default)]
pub struct Clocks(Option<(Duration, Duration)>);

impl Clocks {
    /// Whether one has moved by more than the other since the last look.
    pub fn jumped(&mut self, wall: Duration, boot: Duration) -> bool {
        let Some((wall_before, boot_before)) = self.0.replace((wall, boot)) else {
            return false;
        };
        // Both ways: each may have been set back.
        let forward = (wall + boot_before).saturating_sub(wall_before + boot);
        let back = (wall_before + boot).saturating_sub(wall + boot_before);
        forward.max(back) > APART
    }
}

/// A socket that hears the kernel's events.
pub struct Events(OwnedFd);

const LISTENING: &str = "listening to the kernel for a change of the VM's generation";

impl Events {
    /// Opens it, which a confined daemon may not.
    ///
    /// # Errors
    /// The kernel does not let us listen.
    pub fn open() -> Result<Self, Problem> {
        let failed = |error: nix::Error| Problem::io(LISTENING, &error.into());
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS)).map_err(failed)?;
        Ok(Self(fd))
    }

    /// Tells of each event that the generation identifier has changed, from a thread of its own.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn watch(self) -> Result<Receiver<()>, Problem> {
        let (sender, receiver) = bounded(1);
        thread::start("generation", move || listen(&self.0, &sender))
            .map_err(|error| Problem::io(LISTENING, &error))?;
        Ok(receiver)
    }
}

fn listen(fd: &OwnedFd, sender: &Sender<()>) {
    let mut buffer = [0; 8192];
    loop {
        match recvfrom::<NetlinkAddr>(fd.as_raw_fd(), &mut buffer) {
            Ok((length, from)) => {
                // Only the kernel has the number 0.
                let kernel = from.is_some_and(|from| from.pid() == 0);
                let event = buffer.get(..length).unwrap_or_default();
                if kernel && tells_new_generation(event) {
                    // One that waits already says the same.
                    let _ = sender.try_send(());
                }
            }
            // Events were lost: this may have been among them.
            Err(nix::Error::ENOBUFS) => drop(sender.try_send(())),
            Err(nix::Error::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "the kernel's events cannot be read any more; a rollback may be noticed late");
                return;
            }
        }
    }
}

/// Whether an event of the kernel's is that the generation identifier has changed.
fn tells_new_generation(event: &[u8]) -> bool {
    event
        .split(|byte| *byte == 0)
        .any(|field| field == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_new_generation_is_told_from_others() {
        let event =
            b"change@/devices/platform/QEMUVGID:00\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=9\0";
        assert!(tells_new_generation(event));
        for other in [
            &b"change@/devices/NEW_VMGENID=1\0ACTION=change\0"[..],
            b"change@/devices/x\0NEW_VMGENID=10\0",
            b"",
            b"\0\0\0",
        ] {
            assert!(!tells_new_generation(other));
        }
    }

    #[test]
    fn clocks_that_move_apart_are_a_sign_and_those_that_move_together_are_none() {
        let second = Duration::from_secs(1);
        let (wall, boot) = (second * 1_700_000_000, second * 500);
        let mut clocks = Clocks::default();
        assert!(!clocks.jumped(wall, boot));
        // Together, also over a suspend, and slowly apart as NTP does it.
        assert!(!clocks.jumped(wall + second, boot + second));
        assert!(!clocks.jumped(wall + second * 9000, boot + second * 9000));
        assert!(!clocks.jumped(wall + second * 9010, boot + second * 9010 + second / 2));
        // Set forward, back, and put back to a snapshot.
        let (wall, boot) = (wall + second * 9010, boot + second * 9010 + second / 2);
        assert!(clocks.jumped(wall + second * 60, boot));
        assert!(clocks.jumped(wall, boot));
        assert!(clocks.jumped(wall, boot - second * 100));
        assert!(!clocks.jumped(wall, boot - second * 100));
        assert!(clocks.jumped(Duration::ZERO, boot));
    }

    #[test]
    fn a_counter_tells_each_change_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counter");
        std::fs::write(&path, [1; 16]).unwrap();
        let (mut generation, worker) = Generation::open(&path).unwrap();
        assert_eq!(worker.read(), generation.seen());
        assert_eq!(generation.changed(), None);
        std::fs::write(&path, [2; 16]).unwrap();
        assert_eq!(generation.changed(), Some(worker.read()));
        assert_eq!(generation.changed(), None);
        let problem = Generation::open(&directory.path().join("none"))
            .map(drop)
            .unwrap_err();
        assert!(problem.remedy.contains("vm_generation"), "{problem}");
    }
}
