//! What a NIC or the kernel does to frames before XDP sees them.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use crate::choices::Admission;

pub(super) fn check(
    _setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    _facts: &Facts,
) -> Vec<Finding> {
    let name = &wanted.interface;
    let survey = &found.survey;
    let veth = survey.driver.as_deref() == Some("veth");
    let mut findings = Vec::new();
    // It comes on by itself with an XDP program.
    let stands = matches!(&found.hooks, Some(Ok(hooks)) if hooks.xdp.is_some());
    if veth && stands && wanted.admission == Admission::Tunnel {
        findings.extend(survey.gro.map(|on| match on {
            true => Finding::ok(name, "GRO", "on, so that veth serves XDP in batches"),
            false => Finding::warn(
                name,
                "GRO",
                "off: unless its other end has an XDP program, veth serves this one frame by frame",
                format!("ethtool -K {name} gro on"),
            ),
        }));
    }
    findings.extend(survey.lro.map(|on| match on {
        false => Finding::ok(name, "LRO", "off"),
        true => Finding::warn(
            name,
            "LRO",
            "on: most drivers refuse a native XDP program then, and the others put frames together that \
             it should see one by one",
            format!("ethtool -K {name} lro off"),
        ),
    }));
    // A veth has tags beside its frames only where the sender puts them there.
    if !veth && wanted.admission != Admission::Open {
        findings.extend(survey.rxvlan.map(|on| match on {
            false => Finding::ok(name, "VLAN stripping", "off: XDP sees tags, and drops tagged frames"),
            true => Finding::warn(
                name,
                "VLAN stripping",
                "on: the NIC takes VLAN tags off before XDP, so that a tagged frame looks like one without",
                format!("ethtool -K {name} rxvlan off"),
            ),
        }));
    }
    findings
}
