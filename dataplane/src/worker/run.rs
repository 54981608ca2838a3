//! The thread around a worker: its clock, its spinning and its sleep.

use super::*;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long a worker sleeps at most, so that lagging ports and lost frames are seen to.
const NAP: u16 = 20;

/// How long a worker that ends waits for control to hear why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Nanoseconds of CLOCK_BOOTTIME, which also runs in suspend.
pub fn boottime() -> u64 {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::from(time).as_nanos() as u64,
        Err(_) => 0,
    }
}

/// Control's end of the channel to a worker: commands, and the bell that wakes it.
pub struct Orders<P> {
    commands: Sender<Command<P>>,
    bell: Arc<EventFd>,
}

impl<P> Clone for Orders<P> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<P> Orders<P> {
    /// Gives a command, waiting while the worker is too far behind to take it. False when the worker
    /// is gone.
    pub fn give(&self, command: Command<P>) -> bool {
        let given = self.commands.send(command).is_ok();
        let _ = self.bell.write(1);
        given
    }
}

/// The bell that wakes a worker.
#[derive(Clone)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// Wakes the worker, or keeps it from falling asleep.
    pub fn ring(&self) {
        // It fails only when the counter is full, and then it is readable already.
        let _ = self.0.write(1);
    }
}

/// The channel between control and a worker.
///
/// # Errors
/// The eventfd could not be made.
pub fn orders<P>() -> io::Result<(Orders<P>, Receiver<Command<P>>, Bell)> {
    let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let bell = Arc::new(bell);
    let (commands, receiver) = crossbeam::channel::bounded(1024);
    Ok((
        Orders {
            commands,
            bell: Arc::clone(&bell),
        },
        receiver,
        Bell(bell),
    ))
}

impl<P: Port, H: Host> Worker<P, H> {
    /// Runs until [`Command::Stop`]. `spin` is how long it looks for work before it sleeps.
    ///
    /// # Errors
    /// epoll could not be set up.
    pub fn run(mut self, bell: &Bell, spin: Duration) -> io::Result<()> {
        let spin = spin.as_nanos() as u64;
        let mut last_work = boottime();
        let mut worked = false;
        let mut served = self.generation;
        let mut epoll = self.watch(bell)?;
        while !self.stopped {
            let now = boottime();
            // The clock is read once a round: what the next one begins with is where this one ended.
            if worked {
                self.counters.batches.record(now.saturating_sub(last_work));
            }
            worked = self.step(now);
            if worked {
                last_work = now;
                continue;
            }
            if now.saturating_sub(last_work) < spin {
                std::thread::yield_now();
                continue;
            }
            if served != self.generation {
                epoll = self.watch(bell)?;
                served = self.generation;
            }
            if self.seat.as_ref().is_none_or(Seat::lie_down) {
                let slept = self.sleep(&epoll, bell);
                self.seat.iter().for_each(Seat::get_up);
                slept?;
            }
        }
        // Control may be behind, or be gone and wait for this thread to end.
        for event in self.outbox {
            if self.events.send_timeout(event, LAST_WORDS).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// An epoll set of everything that can bring work.
    fn watch(&self, bell: &Bell) -> io::Result<Epoll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // POLLIN only: with POLLOUT a ring that can be sent on would wake the worker for ever.
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(bell.0.as_fd(), readable())?;
        if let Some(fd) = self.host.poll_fd() {
            epoll.add(fd, readable())?;
        }
        for (_, port) in self.ports.iter() {
            if let Some(fd) = port.io.poll_fd() {
                epoll.add(fd, readable())?;
            }
        }
        Ok(epoll)
    }

    fn sleep(&self, epoll: &Epoll, bell: &Bell) -> io::Result<()> {
        let nap = if self.ports.iter().any(|(_, port)| port.lagging) {
            1
        } else {
            NAP
        };
        let mut events = [EpollEvent::empty(); 8];
        match epoll.wait(&mut events, EpollTimeout::from(nap)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                self.counters.wakeups.add(1);
                let _ = bell.0.read();
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
