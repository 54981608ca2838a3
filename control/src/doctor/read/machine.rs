//! Kernel, CPU, memory, files and who listens.

use super::number;
use crate::doctor::facts::{Cpu, File, Kernel, Listener, Memory};
use crate::doctor::setup::Setup;
use crate::registry::GATEWAY_KEY;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What of a kernel's configuration is needed.
const OPTIONS: [&str; 7] = [
    "CONFIG_BPF_SYSCALL",
    "CONFIG_XDP_SOCKETS",
    "CONFIG_TUN",
    "CONFIG_NET_CLS_ACT",
    "CONFIG_NET_CLS_BPF",
    "CONFIG_SECCOMP_FILTER",
    "CONFIG_IP_MULTIPLE_TABLES",
];

pub(super) fn kernel() -> Kernel {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let sockets = af_xdp();
    Kernel {
        tx_budget: sockets.as_ref().ok().map(takes_budget),
        af_xdp: match &sockets {
            Ok(_) => Some(true),
            Err(nix::Error::EAFNOSUPPORT) => Some(false),
            Err(_) => None,
        },
        tun: Path::new("/dev/net/tun").exists(),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        landlock: fs::read_to_string("/sys/kernel/security/lsm")
            .ok()
            .map(|all| all.trim().split(',').any(|one| one == "landlock")),
        missing: fs::read_to_string(format!("/boot/config-{release}"))
            .ok()
            .map(|text| missing(&text)),
        release,
    }
}

/// The options that are neither built in nor a module.
fn missing(config: &str) -> Vec<&'static str> {
    let set: HashSet<_> = config
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(_, value)| matches!(*value, "y" | "m"))
        .map(|(name, _)| name)
        .collect();
    let missing = OPTIONS.into_iter().filter(|name| !set.contains(name));
    missing.collect()
}

/// A socket that is bound to nothing, and closed at once.
fn af_xdp() -> nix::Result<OwnedFd> {
    // nix has no such family.
    // SAFETY: socket(2) makes a descriptor that nobody else knows.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let fd = nix::errno::Errno::result(fd)?;
    // SAFETY: as above.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// Whether a socket takes XDP_MAX_TX_SKB_BUDGET.
fn takes_budget(socket: &OwnedFd) -> bool {
    const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
    let budget: u32 = 64;
    // SAFETY: the value is a u32 that outlives the call, and is as long as said.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const budget).cast(),
            size_of::<u32>() as u32,
        )
    };
    answer == 0
}

pub(super) fn cpu() -> Cpu {
    let current = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Cpu {
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        features: features(),
        clock_source: fs::read_to_string(current)
            .ok()
            .map(|text| text.trim().to_owned()),
        seeded: seeded(),
        time: now.map_or(0, |now| now.as_secs()),
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let all = [
        (is_x86_feature_detected!("aes"), "aes"),
        (is_x86_feature_detected!("vaes"), "vaes"),
        (is_x86_feature_detected!("vpclmulqdq"), "vpclmulqdq"),
        (is_x86_feature_detected!("avx2"), "avx2"),
        (is_x86_feature_detected!("avx512f"), "avx512f"),
    ];
    all.into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |name: &&&str| text.split_whitespace().any(|word| word == **name);
    ["aes", "pmull"].iter().filter(has).copied().collect()
}

/// Whether the kernel's generator is seeded, without waiting for it.
fn seeded() -> Option<bool> {
    let mut byte = [0u8; 1];
    // SAFETY: the buffer outlives the call, and is as long as said.
    let got = unsafe { libc::getrandom(byte.as_mut_ptr().cast(), byte.len(), libc::GRND_NONBLOCK) };
    match got {
        1 => Some(true),
        _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Some(false),
        _ => None,
    }
}

pub(super) fn huge_pages() -> Option<(u64, u64)> {
    let of = |name: &str| number(&format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
    Some((of("nr_hugepages")?, of("free_hugepages")?))
}

/// Of the nearest directory that there is.
pub(super) fn disk(directory: &Path) -> Memory {
    let found = directory.ancestors().find_map(|at| statvfs(at).ok());
    Memory {
        huge_pages: None,
        // Of narrower types elsewhere.
        #[allow(clippy::unnecessary_cast)]
        free: found.map(|fs| fs.blocks_available() as u64 * fs.fragment_size() as u64),
        read_only: found.map(|fs| fs.flags().contains(FsFlags::ST_RDONLY)),
    }
}

pub(super) fn files(setup: &Setup) -> Vec<File> {
    let state = &setup.state_directory;
    let mut all = vec![
        (setup.configuration.clone(), "the configuration", 0o022),
        (state.clone(), "keys and Workstations", 0o077),
        (state.join(GATEWAY_KEY), "the private key", 0o077),
        (
            setup.runtime_directory.clone(),
            "the control socket's directory",
            0o027,
        ),
        (
            setup.runtime_directory.join(crate::api::socket::SOCKET),
            "the control socket",
            0o007,
        ),
    ];
    for directory in [state.clone(), state.join(crate::registry::DIRECTORY)] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let secret = |path: &std::path::PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        };
        let paths = entries.map(|entry| entry.path()).filter(secret);
        all.extend(paths.map(|path| (path, "keys", 0o077)));
    }
    let file = |(path, what, forbidden): (std::path::PathBuf, _, _)| File {
        mode: fs::metadata(&path)
            .ok()
            .map(|found| found.permissions().mode()),
        path,
        what,
        forbidden,
    };
    all.into_iter().map(file).collect()
}

/// Who listens, by /proc/net of this thread's namespace.
pub(super) fn listeners() -> Option<Vec<Listener>> {
    let mut all = Vec::new();
    for (table, tcp) in [
        ("tcp", true),
        ("tcp6", true),
        ("udp", false),
        ("udp6", false),
    ] {
        match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(|line| listener(line, tcp))),
            // A kernel without IPv6.
            Err(_) if table.ends_with('6') => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

/// `sl local_address rem_address st ...`, the address in hex words of the machine's order.
fn listener(line: &str, tcp: bool) -> Option<Listener> {
    /// TCP_LISTEN, and a UDP socket that is connected to nobody (TCP_CLOSE).
    const STATES: (&str, &str) = ("0A", "07");
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != if tcp { STATES.0 } else { STATES.1 } {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let word = |at: usize| {
        let text = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
    };
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            // Of IPv4 too, where it is no other.
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(Listener {
        tcp,
        address,
        port: u16::from_str_radix(port, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_the_kernel_writes_them() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 1"
            )
        };
        let tcp = listener(&line("0100007F:235A", "0A"), true).unwrap();
        assert_eq!(
            (tcp.address.to_string(), tcp.port),
            ("127.0.0.1".into(), 9050)
        );
        assert_eq!(
            listener(&line("0100007F:235A", "01"), true),
            None,
            "connected"
        );
        let any = listener(&line(&format!("{}:14E9", "0".repeat(32)), "07"), false).unwrap();
        assert!(any.address.is_unspecified() && any.port == 5353 && !any.tcp);
        for text in ["", "x", "0: 1 2 0A", "0: 0100007F:zz 0 0A"] {
            assert_eq!(listener(text, true), None);
        }
    }

    #[test]
    fn an_option_counts_when_it_is_built_in_or_a_module() {
        let mut config: String = OPTIONS.iter().map(|name| format!("{name}=y\n")).collect();
        assert_eq!(missing(&config), <[&str; 0]>::default());
        config = config.replace("CONFIG_TUN=y", "CONFIG_TUN=m");
        assert_eq!(missing(&config), <[&str; 0]>::default());
        config = config.replace("CONFIG_TUN=m", "# CONFIG_TUN is not set");
        assert_eq!(missing(&config), ["CONFIG_TUN"]);
    }
}
