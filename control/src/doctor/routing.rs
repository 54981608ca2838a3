//! Whether the kernel might pass on what comes from Workstations.

use super::facts::{Facts, Port, Routing};
use super::{Finding, PortSetup, Setup};
use crate::choices::Admission;

const SUBJECT: &str = "routing";

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    if !setup.kept_in {
        return Vec::new();
    }
    let routing = &facts.routing;
    let host = &setup.host_interface;
    let mut found = Vec::new();
    // Without a daemon and a host interface there is nothing to be kept in.
    if facts.tun.is_some() {
        found.extend(routing.kept_in.map(|kept| match kept {
            true => Finding::ok(SUBJECT, "kept in", format!("packets from {host} are never forwarded")),
            false => Finding::fail(
                SUBJECT,
                "kept in",
                format!("no routing rule keeps packets from {host} on this machine, or another stands before it"),
                format!("systemctl restart {}; then see `ip rule` and `ip -6 rule`", setup.daemon),
            ),
        }));
    }
    for (on, setting) in [
        (routing.forwards_v4, "net.ipv4.ip_forward"),
        (routing.forwards_v6, "net.ipv6.conf.all.forwarding"),
    ] {
        found.extend(on.map(|on| match on {
            false => Finding::ok(SUBJECT, "forwarding", format!("{setting} is off")),
            true => Finding::warn(
                SUBJECT,
                "forwarding",
                format!(
                    "{setting} is on, as it must be only where this machine routes for others: one routing \
                     rule and the guards are all that keeps Workstations from other networks"
                ),
                format!("sysctl -w {setting}=0"),
            ),
        }));
    }
    found
}

/// On a shared port answers to a program that was given the tunnel's own port go to the tunnel.
fn check_local_ports(name: &str, port: u16, routing: &Routing) -> Option<Finding> {
    let within = |(first, last): (u16, u16)| (first..=last).contains(&port);
    let given = within(routing.local_ports?);
    let reserved = routing.reserved_ports.iter().copied().any(within);
    Some(match given && !reserved {
        false => Finding::ok(
            name,
            "local ports",
            format!("no program is given UDP port {port}, which is the tunnel's"),
        ),
        true => Finding::warn(
            name,
            "local ports",
            format!(
                "UDP port {port} is the tunnel's, and may be given to a program that asks for any: its answers \
                 would not come"
            ),
            format!(
                "echo net.ipv4.ip_local_reserved_ports={} >/etc/sysctl.d/50-portcullis.conf && \
                 sysctl -p /etc/sysctl.d/50-portcullis.conf",
                routing.reserved_with(port)
            ),
        ),
    })
}

pub(super) fn check_port(
    _setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    facts: &Facts,
) -> Vec<Finding> {
    let name = &wanted.interface;
    let mut findings = Vec::new();
    if found.link.is_none() {
        return findings;
    }
    if let Some(port) = wanted.shared {
        findings.extend(check_local_ports(name, port, &facts.routing));
        findings.push(Finding::warn(
            name,
            "shared",
            "everything but the tunnel's datagrams goes to the kernel, from whoever can reach this interface",
            "see that the firewall lets in what it should: nft list ruleset; or give the tunnel an interface of its own",
        ));
        return findings;
    }
    if wanted.admission == Admission::Tunnel {
        findings.push(match found.routes.first() {
            None => Finding::ok(name, "routes", "nothing is routed over it"),
            Some(first) => Finding::fail(
                name,
                "routes",
                format!("{first} is routed over it, though only the tunnel's frames may leave"),
                format!("ip route delete {first} dev {name}"),
            ),
        });
        return findings;
    }
    findings.extend(found.rp_filter.map(|value| match value {
        1 => Finding::ok(
            name,
            "rp_filter",
            "sources that are reached another way are refused",
        ),
        _ => Finding::warn(
            name,
            "rp_filter",
            format!("rp_filter is {value}: a source that is reached another way is not refused"),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=1"),
        ),
    }));
    findings.extend(found.forwarding.map(|value| match value {
        0 => Finding::ok(name, "forwarding", "what arrives is not forwarded"),
        _ => Finding::fail(
            name,
            "forwarding",
            "the kernel forwards what arrives on it",
            format!("sysctl -w net.ipv4.conf.{name}.forwarding=0"),
        ),
    }));
    findings
}
