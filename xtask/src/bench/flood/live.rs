//! The fastest sender that a kernel has without drivers of its own: an XDP program of two instructions
//! that says XDP_TX, run over frames that the kernel makes and sends (BPF_PROG_TEST_RUN with
//! BPF_F_TEST_XDP_LIVE_FRAMES, since 5.18). No socket, no copy and no system call for a frame; they
//! leave the interface in batches of 64.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BATCH: u32 = 64;

/// `r0 = XDP_TX; exit`.
const PROGRAM: [u64; 2] = [0x0000_0003_0000_00b7, 0x0000_0000_0000_0095];
const LICENSE: &CStr = c"GPL";

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that runs one.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    answer: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct Packet {
    data: u32,
    data_end: u32,
    data_meta: u32,
    interface: u32,
    queue: u32,
    egress: u32,
}

/// Sends frames from one interface.
#[derive(Debug)]
pub(super) struct LiveFrames {
    program: OwnedFd,
    interface: u32,
}

impl LiveFrames {
    /// For `interface` of the namespace that the calling thread is in, which must be the one it sends
    /// from too. On a veth the other end must have GRO on, or it takes no frames this way.
    ///
    /// # Errors
    /// When there is no such interface, or what the kernel answered.
    pub(super) fn open(interface: &str) -> Result<Self> {
        let interface = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("no interface {interface} in this namespace"))?;
        let mut load = Load {
            kind: BPF_PROG_TYPE_XDP,
            instructions: PROGRAM.len() as u32,
            program: PROGRAM.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            ..Load::default()
        };
        // SAFETY: the attributes are as long as said and point to a program and a license that live
        // for ever.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw mut load,
                size_of::<Load>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("loading the XDP program that sends");
        }
        Ok(Self {
            // SAFETY: the descriptor was just made and belongs to nobody else.
            program: unsafe { OwnedFd::from_raw_fd(fd as i32) },
            interface,
        })
    }

    /// Sends `frame` so many times. Those that the interface has no room for are lost.
    ///
    /// # Errors
    /// What the kernel answered: a frame shorter than an Ethernet header or longer than a page.
    pub(super) fn send(&self, frame: &[u8], count: u32) -> io::Result<()> {
        let context = Packet {
            data_end: frame.len() as u32,
            interface: self.interface,
            ..Packet::default()
        };
        let mut run = Run {
            program: self.program.as_raw_fd() as u32,
            size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            context_size_in: size_of::<Packet>() as u32,
            context_in: (&raw const context) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch: BATCH.min(count),
            ..Run::default()
        };
        // SAFETY: the attributes are as long as said and point to a frame and a context of the sizes
        // they say, borrowed for this call; the kernel only reads them.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut run,
                size_of::<Run>(),
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attack::ethernet;
    use crate::rig::{Capture, Namespace, set_link, veth, wait_for};

    #[test]
    fn frames_leave_as_often_and_as_long_as_asked() {
        let (here, there) = (
            Namespace::create("here").unwrap(),
            Namespace::create("there").unwrap(),
        );
        veth((&here, "x"), (&there, "y"), 1500).unwrap();
        there.exec("ethtool", "-K y gro on").unwrap();
        for (host, interface) in [(&here, "x"), (&there, "y")] {
            set_link(host, interface, true).unwrap();
        }
        let frame = ethernet([2; 6], [4; 6], 0x9999, &[7; 1486]);
        let expected = frame.clone();
        let seen = Capture::filtered(&there, Some("y"), 1, move |f| f.bytes == expected).unwrap();
        here.run(|| {
            let sender = LiveFrames::open("x")?;
            assert!(sender.send(&[0; 4], 1).is_err());
            for count in [1, 64, 200] {
                sender.send(&frame, count)?;
            }
            Ok(())
        })
        .unwrap();
        wait_for("265 frames", Duration::from_secs(5), || {
            (seen.incoming() >= 265).then_some(())
        })
        .unwrap();
        seen.settle().unwrap();
        assert_eq!(seen.incoming(), 265);
    }
}
