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
    set_interface(interface, "ipv6/conf", "disable_ipv6", "1")
}

/// Writes a setting of an interface: `kind` is `ipv4/conf` or `ipv6/conf`. Gives whether there is
/// such a setting.
///
/// # Errors
/// When the file exists and cannot be written.
pub fn set_interface(
    interface: &str,
    kind: &str,
    setting: &str,
    value: &'static str,
) -> Result<bool, LinkError> {
    let path = path(interface, kind, setting)?;
    match std::fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LinkError::Sysctl {
            path,
            value,
            source,
        }),
    }
}

/// A setting of an interface (or of `all`); `None` where there is no such setting.
///
/// # Errors
/// When there is no such interface name.
pub fn interface_setting(
    interface: &str,
    kind: &str,
    setting: &str,
) -> Result<Option<String>, LinkError> {
    let text = std::fs::read_to_string(path(interface, kind, setting)?);
    Ok(text.ok().map(|text| text.trim().to_owned()))
}

fn path(interface: &str, kind: &str, setting: &str) -> Result<String, LinkError> {
    if interface.is_empty() || interface.contains('/') || matches!(interface, "." | "..") {
        return Err(LinkError::Name(interface.to_owned()));
    }
    Ok(format!("/proc/sys/net/{kind}/{interface}/{setting}"))
}
