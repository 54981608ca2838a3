//! Process 1: mounts, modules, and the child that does the work; then the machine is switched off.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::vm::image::{MODULES, PROGRAMS};
use crate::vm::machine::EXIT_PORT;

/// Never returns while anything works: the machine is off then.
pub fn run() -> Result<()> {
    let status = work().unwrap_or_else(|error| {
        eprintln!("vm-guest: {error:#}");
        1
    });
    // The device ends QEMU with this status at once.
    let exited = File::options()
        .write(true)
        .open("/dev/port")
        .and_then(|mut port| {
            port.seek(SeekFrom::Start(EXIT_PORT))?;
            port.write_all(&[status])
        });
    if let Err(error) = exited {
        eprintln!("vm-guest: no exit status reaches QEMU: {error}");
    }
    nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT)?;
    Ok(())
}

/// The child's exit status.
fn work() -> Result<u8> {
    mounts()?;
    for module in fs::read_to_string(format!("{MODULES}/order"))?.lines() {
        if let Err(error) = load(&Path::new(MODULES).join(format!("{module}.ko"))) {
            eprintln!("vm-guest: the module {module}: {error}");
        }
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    setrlimit(Resource::RLIMIT_NOFILE, 65_536, 65_536)?;
    let child = Command::new(format!("{PROGRAMS}/xtask"))
        .args(std::env::args_os().skip(1))
        .env_clear()
        .env("PATH", PROGRAMS)
        .env("HOME", "/root")
        .spawn()
        .context("starting the scenarios")?;
    let child = Pid::from_raw(child.id() as i32);
    loop {
        // Whoever lost its parent is this process's to bury.
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, status) if pid == child => return Ok(status as u8),
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                eprintln!("vm-guest: the scenarios were ended by {signal}");
                return Ok(1);
            }
            _ => {}
        }
    }
}

fn mounts() -> Result<()> {
    let all = [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("tmpfs", "/run", "tmpfs"),
        ("tmpfs", "/tmp", "tmpfs"),
        ("devpts", "/dev/pts", "devpts"),
        ("tmpfs", "/dev/shm", "tmpfs"),
        ("bpf", "/sys/fs/bpf", "bpf"),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
    ];
    for (source, place, kind) in all {
        fs::create_dir_all(place).with_context(|| format!("creating {place}"))?;
        mount(
            Some(source),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting {kind} on {place}"))?;
    }
    Ok(())
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module)?;
    // SAFETY: finit_module(2) reads from a descriptor that is open over the call, and a string.
    let answer =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if answer != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error.into());
        }
    }
    Ok(())
}
