//! The CPU and what it encrypts with, the random generator, and the clock.

use super::facts::Facts;
use super::{Finding, Setup};
use dataplane::engine::Engine;

const SUBJECT: &str = "machine";
/// 1 January 2025: no clock is right that says less.
const THIS_SIDE_OF: u64 = 1_735_689_600;

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    vec![
        engine(setup.engine, facts),
        cores(facts.cpu.cores),
        random(facts.cpu.seeded),
        clock_source(facts.cpu.clock_source.as_deref()),
        clock(facts.cpu.time),
    ]
}

fn engine(wanted: Engine, facts: &Facts) -> Finding {
    let has = |name: &&str| facts.cpu.features.contains(name);
    let resolved = wanted.resolve();
    if !has(&"aes") {
        return Finding::warn(
            SUBJECT,
            "AEAD",
            format!(
                "this CPU has no AES instructions: {} does AES in software, many times slower",
                resolved.name()
            ),
            "use a CPU with AES instructions; in a virtual machine give it the host's (cpu model host)",
        );
    }
    let all = facts.cpu.features.join(", ");
    if wanted != Engine::Auto && resolved != Engine::Auto.resolve() {
        return Finding::warn(
            SUBJECT,
            "AEAD",
            format!(
                "the configuration asks for {}; the fastest here is {} (the CPU has {all})",
                resolved.name(),
                Engine::Auto.resolve().name()
            ),
            "take `engine` out of the configuration, unless you mean it",
        );
    }
    Finding::ok(
        SUBJECT,
        "AEAD",
        format!("the engine is {} (the CPU has {all})", resolved.name()),
    )
}

fn cores(cores: usize) -> Finding {
    match cores {
        0 | 1 => Finding::warn(
            SUBJECT,
            "cores",
            "one core does everything: worker, Tor and interrupts wait for each other",
            "use a machine with two cores or more",
        ),
        _ => Finding::ok(SUBJECT, "cores", format!("{cores} cores may be used")),
    }
}

fn random(seeded: Option<bool>) -> Finding {
    match seeded {
        Some(true) => Finding::ok(SUBJECT, "random", "the kernel's random generator is seeded"),
        Some(false) => Finding::fail(
            SUBJECT,
            "random",
            "the kernel's random generator is not seeded yet: no key can be made",
            "apt-get install jitterentropy-rngd, or give the virtual machine a virtio-rng device",
        ),
        None => Finding::warn(
            SUBJECT,
            "random",
            "the kernel does not tell whether its random generator is seeded",
            "see `dmesg | grep crng`",
        ),
    }
}

fn clock_source(name: Option<&str>) -> Finding {
    const FAST: [&str; 5] = [
        "tsc",
        "kvm-clock",
        "hyperv_clocksource_tsc_page",
        "xen",
        "arch_sys_counter",
    ];
    match name {
        Some(name) if !FAST.contains(&name) => Finding::warn(
            SUBJECT,
            "clock source",
            format!("the clock is read from {name}, which takes a microsecond and more each time"),
            "cat /sys/devices/system/clocksource/clocksource0/available_clocksource, and echo tsc > \
             /sys/devices/system/clocksource/clocksource0/current_clocksource where it is among them",
        ),
        Some(name) => Finding::ok(
            SUBJECT,
            "clock source",
            format!("the clock is read from {name}"),
        ),
        None => Finding::ok(SUBJECT, "clock source", "not told here"),
    }
}

fn clock(time: u64) -> Finding {
    if time < THIS_SIDE_OF {
        return Finding::warn(
            SUBJECT,
            "clock",
            "the clock is years behind: the tunnel does not mind, and Tor will not connect",
            "date -s 'YYYY-MM-DD HH:MM', or apt-get install systemd-timesyncd",
        );
    }
    Finding::ok(
        SUBJECT,
        "clock",
        "the clock may be right; the tunnel needs none",
    )
}
