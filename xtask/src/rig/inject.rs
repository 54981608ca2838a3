//! System calls from within another process: what somebody could do who has taken over one of its
//! threads. The thread is stopped where it waits in the kernel, makes the calls with its own rights
//! and filters, and goes on as if nothing had been.

use std::ffi::c_void;
use std::io;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The `syscall` instruction.
const SYSCALL: i64 = 0x050f;
/// Below the stack pointer, out of reach of the thread's own code.
const SCRATCH: u64 = 4096;

/// A stopped thread of another process. Dropping it lets the thread go on.
#[derive(Debug)]
pub struct Captive {
    thread: Pid,
    was: libc::user_regs_struct,
}

impl Captive {
    /// Stops a thread that waits in the kernel.
    ///
    /// # Errors
    /// When it is not to be had: it is gone, or was busy each time it was looked at.
    pub fn take(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(i32::try_from(thread)?);
        for _ in 0..100 {
            ptrace::attach(thread).with_context(|| format!("stopping thread {thread}"))?;
            wait_stopped(thread)?;
            let captive = Self {
                thread,
                was: ptrace::getregs(thread)?,
            };
            let before = ptrace::read(thread, (captive.was.rip - 2) as *mut c_void);
            if before.is_ok_and(|word| word & 0xffff == SYSCALL) {
                return Ok(captive);
            }
            drop(captive);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        bail!("thread {thread} is always busy");
    }

    /// Makes a system call in the thread.
    ///
    /// # Errors
    /// Outer: the thread was lost. Inner: what the kernel answered.
    pub fn call(&self, number: i64, arguments: &[u64]) -> Result<io::Result<u64>> {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let mut registers = self.was;
        registers.rip = self.was.rip - 2;
        // Not a call that the kernel would begin again.
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = all;
        ptrace::setregs(self.thread, registers)?;
        ptrace::step(self.thread, None)?;
        wait_stopped(self.thread)?;
        let answer = ptrace::getregs(self.thread)?.rax as i64;
        Ok(match answer {
            -4095..0 => Err(io::Error::from_raw_os_error(-answer as i32)),
            _ => Ok(answer as u64),
        })
    }

    /// Puts bytes where the thread's calls can point to, and gives the address.
    ///
    /// # Errors
    /// When they are too many, or the thread was lost.
    pub fn put(&self, bytes: &[u8]) -> Result<u64> {
        ensure!(
            bytes.len() <= SCRATCH as usize / 2,
            "too much for a thread's stack"
        );
        let at = (self.was.rsp - SCRATCH) & !7;
        for (word, chunk) in bytes.chunks(8).enumerate() {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            let to = (at + 8 * word as u64) as *mut c_void;
            ptrace::write(self.thread, to, i64::from_ne_bytes(whole))?;
        }
        Ok(at)
    }
}

impl Drop for Captive {
    fn drop(&mut self) {
        // With its registers back it repeats the call it was in, where that is due.
        let _ = ptrace::setregs(self.thread, self.was);
        let _ = ptrace::detach(self.thread, None);
    }
}

fn wait_stopped(thread: Pid) -> Result<()> {
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(..) => Ok(()),
        other => bail!("thread {thread} did not stop: {other:?}"),
    }
}
