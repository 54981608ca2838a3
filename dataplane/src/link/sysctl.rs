//! Settings of an interface that exist only as files in /proc/sys/net, which shows the network
//! namespace of the calling thread.

use super::LinkError;
use std::io;

/// Keeps the kernel from using IPv6 on an interface: no link-local address, no router
/// solicitations, nothing answered. Gives whether there was anything to switch off: a kernel
/// without IPv6 has no such file.
///
/// # Errors
/// When the file exists and cannot be written.
pub fn disable_ipv6(interface: &str) -> Result<bool, LinkError> {
    if interface.is_empty() || interface.contains('/') || matches!(interface, "." | "..") {
        return Err(LinkError::Name(interface.to_owned()));
    }
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    match std::fs::write(&path, "1") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LinkError::Sysctl {
            path,
            value: "1",
            source,
        }),
    }
}
