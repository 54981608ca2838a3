//! What to expect of a driver, and whether it is so.

use super::facts::{Facts, Port};
use super::{Finding, PortSetup, Setup};
use crate::choices::{Admission, Xdp, ZeroCopy};
use crate::raise::BAD_ZERO_COPY;

/// What a driver of current kernels does.
struct Expected {
    name: &'static str,
    native: bool,
    zero_copy: bool,
    /// What else is to be known.
    note: &'static str,
}

const fn expect(name: &'static str, native: bool, zero_copy: bool, note: &'static str) -> Expected {
    Expected {
        name,
        native,
        zero_copy,
        note,
    }
}

const DRIVERS: [Expected; 14] = [
    expect(
        "igb",
        true,
        true,
        "zero-copy from Linux 6.14 on; no native XDP above MTU 1500 or so",
    ),
    expect("igc", true, true, ""),
    expect(
        "ixgbe",
        true,
        true,
        "no more XDP queues than CPUs, 64 at most",
    ),
    expect("i40e", true, true, ""),
    expect(
        "ice",
        true,
        true,
        "zero-copy: a queue that is not served stops",
    ),
    expect(
        "mlx5_core",
        true,
        true,
        "zero-copy queues are the upper half; striding RQ off helps",
    ),
    expect("bnxt_en", true, false, ""),
    expect("ena", true, false, "at most half of the queues with XDP"),
    expect(
        "virtio_net",
        true,
        false,
        "its zero-copy may send nothing and is used only where it is asked for; take the wall down before \
         the device is taken away, or the kernel waits for it for ever",
    ),
    expect(
        "vmxnet3",
        true,
        false,
        "native from Linux 6.6 on, and lost when the link is set down and up: nothing gets in then until \
         the wall is taken down and raised again",
    ),
    expect(
        "e1000e",
        false,
        false,
        "no native XDP: fine for a Workstation, slow for a Gateway",
    ),
    expect("r8169", false, false, "no native XDP"),
    expect("tg3", false, false, "no native XDP"),
    expect(
        "veth",
        true,
        false,
        "a virtual cable; both ends are on this machine",
    ),
];

pub(super) fn check(
    _setup: &Setup,
    wanted: &PortSetup,
    found: &Port,
    _facts: &Facts,
) -> Vec<Finding> {
    if found.link.is_none() {
        return Vec::new();
    }
    let name = &wanted.interface;
    let driver = found.survey.driver.as_deref().unwrap_or("unknown");
    let expected = DRIVERS.iter().find(|expected| expected.name == driver);
    let note = match expected {
        None => ", of which nothing is known here".to_owned(),
        Some(Expected { note: "", .. }) => String::new(),
        Some(expected) => format!(" ({})", expected.note),
    };
    let mut findings = vec![Finding::ok(name, "driver", format!("{driver}{note}"))];
    // What it says itself goes before the table.
    let native = match (found.features, expected) {
        (Some(features), _) => Some(features.native()),
        (None, expected) => expected.map(|expected| expected.native),
    };
    findings.push(match (native, wanted.rings.xdp) {
        (_, Xdp::Generic) => Finding::warn(
            name,
            "native XDP",
            "the configuration asks for generic mode: each frame costs several times more",
            "take xdp = \"generic\" out of this port's configuration",
        ),
        (Some(true), _) => Finding::ok(name, "native XDP", "the driver runs XDP itself"),
        (Some(false), Xdp::Native) => Finding::fail(
            name,
            "native XDP",
            "the configuration asks for native mode, and the driver has none: the port stays down",
            "set xdp = \"auto\" for this port, or use a NIC of igb, igc, ixgbe, i40e, ice or mlx5",
        ),
        (Some(false), Xdp::Auto) => Finding::warn(
            name,
            "native XDP",
            "the driver does not run XDP itself: generic mode costs several times more for each frame",
            "use a NIC of igb, igc, ixgbe, i40e, ice or mlx5",
        ),
        (None, _) => Finding::ok(name, "native XDP", "is seen when the daemon starts"),
    });
    if wanted.admission == Admission::Tunnel {
        findings.push(zero_copy(wanted, found, expected));
    }
    findings
}

fn zero_copy(wanted: &PortSetup, found: &Port, expected: Option<&Expected>) -> Finding {
    let name = &wanted.interface;
    if found.survey.driver.as_deref() == Some(BAD_ZERO_COPY) {
        return match wanted.rings.zero_copy {
            ZeroCopy::On => Finding::warn(
                name,
                "zero-copy",
                "the configuration asks for it, and this driver's may send nothing: it reads a header from \
                 memory that is not its own",
                "set zero_copy = \"auto\" for this port, unless the tunnel is seen to work after each boot",
            ),
            _ => Finding::ok(
                name,
                "zero-copy",
                "is not used, as this driver's may send nothing: each frame is copied once",
            ),
        };
    }
    let able = match (found.features, expected) {
        (Some(features), _) => Some(features.zero_copy()),
        (None, expected) => expected.map(|expected| expected.zero_copy),
    };
    match (able, wanted.rings.zero_copy) {
        (Some(false), ZeroCopy::On) => Finding::fail(
            name,
            "zero-copy",
            "the configuration asks for zero-copy, and the driver has none: the port stays down",
            "set zero_copy = \"auto\" for this port",
        ),
        (Some(true), ZeroCopy::Off) => Finding::warn(
            name,
            "zero-copy",
            "the driver shares frames with the program, and the configuration has them copied",
            "take zero_copy = \"off\" out of this port's configuration",
        ),
        (Some(true), _) => Finding::ok(
            name,
            "zero-copy",
            "the driver shares frames with the program",
        ),
        (Some(false), _) => Finding::ok(
            name,
            "zero-copy",
            "the driver has none: each frame is copied once, which is what this driver can do",
        ),
        (None, _) => Finding::ok(name, "zero-copy", "is seen when the daemon starts"),
    }
}
