//! The fast path of a Workstation over networks: whether its interface can have one.

use super::Finding;
use super::facts::Facts;
use super::setup::Setup;

const SUBJECT: &str = "fast path";

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let (Some(wanted), Some(found)) = (&setup.fast_path, &facts.fast_path) else {
        return Vec::new();
    };
    let Some(name) = &wanted.interface else {
        return vec![Finding::fail(
            SUBJECT,
            "interface",
            "fast_path is set, and the configuration names no interface: the agent does not start",
            "write interface = \"eth0\" with the name of the one that is the tunnel's own, or leave fast_path out",
        )];
    };
    let Some(link) = &found.link else {
        return vec![Finding::warn(
            SUBJECT,
            "interface",
            format!("there is no {name}: nothing reaches the Gateway until it is there"),
            "name an interface that `ip link` shows",
        )];
    };
    let mut findings = vec![Finding::ok(
        SUBJECT,
        "interface",
        format!("{name}, whose datagrams of the tunnel go past the kernel's stack"),
    )];
    let driver = found.survey.driver.as_deref().unwrap_or("its driver");
    findings.push(match found.features.map(|features| features.native()) {
        Some(false) => Finding::warn(
            SUBJECT,
            "native XDP",
            format!(
                "{driver} does not run XDP itself: the tunnel's datagrams go by the kernel's stack"
            ),
            "leave fast_path out, or use a NIC of igb, igc, ixgbe, i40e, ice or mlx5",
        ),
        Some(true) => Finding::ok(SUBJECT, "native XDP", format!("{driver} runs XDP itself")),
        None => Finding::ok(SUBJECT, "native XDP", "is seen when the agent starts"),
    });
    if let Some(master) = &link.master {
        findings.push(Finding::warn(
            SUBJECT,
            "master",
            format!(
                "{name} belongs to {}, by which datagrams come and go instead",
                master.name
            ),
            format!("ip link set dev {name} nomaster, or leave fast_path out"),
        ));
    }
    if let Some(member) = found.members.first() {
        findings.push(Finding::warn(
            SUBJECT,
            "members",
            format!("{member} belongs to {name}, and no ring of {name} gets what {member} receives: datagrams go by the kernel's stack"),
            format!("leave fast_path out, or ip link set dev {member} nomaster"),
        ));
    }
    findings
}
