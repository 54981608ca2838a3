//! The kernel and its configuration.

use super::facts::Facts;
use super::{Finding, Setup};

const SUBJECT: &str = "kernel";
/// The oldest that works.
const LEAST: (u32, u32) = (6, 1);
/// The first with tcx, multi-buffer AF_XDP and TUN segmentation of UDP.
const BETTER: (u32, u32) = (6, 6);

pub(super) fn check(_setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.kernel;
    let mut found = vec![release(&kernel.release)];
    if let Some(missing) = &kernel.missing {
        found.push(match missing[..] {
            [] => Finding::ok(SUBJECT, "config", "has all options that are needed"),
            _ => Finding::fail(
                SUBJECT,
                "config",
                format!("was built without {}", missing.join(", ")),
                "install a distribution's kernel: apt-get install linux-image-amd64",
            ),
        });
    }
    found.extend(kernel.af_xdp.map(|has| match has {
        true => Finding::ok(SUBJECT, "AF_XDP", "AF_XDP sockets can be made"),
        false => Finding::fail(
            SUBJECT,
            "AF_XDP",
            "AF_XDP sockets cannot be made: no frame would reach a worker",
            "install a kernel with CONFIG_XDP_SOCKETS=y (Debian's has it): apt-get install linux-image-amd64",
        ),
    }));
    found.push(match kernel.tun {
        true => Finding::ok(SUBJECT, "tun", "/dev/net/tun is there"),
        false => Finding::fail(
            SUBJECT,
            "tun",
            "/dev/net/tun is missing, so there can be no host interface",
            "modprobe tun",
        ),
    });
    found.push(match kernel.jit {
        None | Some(1) => Finding::ok(SUBJECT, "BPF JIT", "BPF programs are compiled"),
        Some(0) => Finding::fail(
            SUBJECT,
            "BPF JIT",
            "BPF programs are interpreted: each frame costs several times more",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::warn(
            SUBJECT,
            "BPF JIT",
            "the BPF compiler writes what it makes to the log, which is for debugging",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
    });
    found.extend(kernel.landlock.map(|has| match has {
        true => Finding::ok(
            SUBJECT,
            "Landlock",
            "the daemon can be kept from other files",
        ),
        false => Finding::warn(
            SUBJECT,
            "Landlock",
            "no Landlock: the daemon's account alone keeps it from other files",
            "boot with lsm=landlock,... as the kernel's documentation says (Debian 12 has it on)",
        ),
    }));
    found
}

fn release(release: &str) -> Finding {
    let number = |part: Option<&str>| {
        let digits: String = part?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    let mut parts = release.split('.');
    let version = (number(parts.next()), number(parts.next()));
    let (Some(major), Some(minor)) = version else {
        return Finding::warn(
            SUBJECT,
            "version",
            format!("the version {release:?} cannot be read"),
            "see `uname -r`: 6.1 or later is needed",
        );
    };
    if (major, minor) < LEAST {
        return Finding::fail(
            SUBJECT,
            "version",
            format!("Linux {release}; 6.1 or later is needed"),
            "install Debian 12 or later, or its kernel: apt-get install linux-image-amd64",
        );
    }
    if (major, minor) < BETTER {
        return Finding::warn(
            SUBJECT,
            "version",
            format!(
                "Linux {release} has no tcx: the guards stand on clsact, where whoever is root can take \
                 them off unnoticed; no MTU above 3818 either"
            ),
            "apt-get install -t bookworm-backports linux-image-amd64 (6.6 or later)",
        );
    }
    Finding::ok(SUBJECT, "version", format!("Linux {release}"))
}
