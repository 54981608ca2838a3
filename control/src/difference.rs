//! What differs between the configuration that runs and another: by setting, with what it takes to
//! apply it.
//!
//! The daemon keeps a copy of the configuration it runs with in its runtime directory ([`RUNNING`]),
//! which `portcullis check` compares a file with; the same comparison decides what a reload does.

use crate::api::{WorkstationStatus, mac_text};
use crate::choices::Admission;
use crate::config::{Cores, Gateway, KeylessPort, Port, Rings};
use crate::encapsulation::{Encapsulation, UdpPort};
use crate::files;
use crate::problem::{Kind, Problem};
use crate::rules;
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

/// The configuration that runs, in the runtime directory.
pub const RUNNING: &str = "running.toml";

/// What it takes to apply a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Takes {
    /// A reload. Nobody's session ends for it, and no frame is lost.
    Reload,
    /// A reload, which ends the session of the Workstation concerned; it begins another.
    Session,
    /// A restart of the daemon.
    Restart,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What, as it is called in the configuration.
    pub what: String,
    /// What it is now; empty for nothing.
    pub now: String,
    /// What it would be; empty for nothing.
    pub then: String,
    /// What it takes.
    pub takes: Takes,
}

/// All settings of a configuration by name, each with what it takes to change it.
type Settings = BTreeMap<String, (String, Takes)>;

fn list<T: ToString>(values: &[T]) -> String {
    let words: Vec<_> = values.iter().map(ToString::to_string).collect();
    words.join(", ")
}

/// Taken apart without `..`, as everything below: a setting that is added to the configuration is to be told too.
fn settings(config: &Gateway) -> Settings {
    let Gateway {
        state_directory,
        runtime_directory,
        pin_directory,
        user,
        admin_group,
        metrics_address,
        log_format,
        workers,
        cores,
        spin,
        max_workstations,
        engine,
        host_interface,
        host_addresses,
        ports,
        keyless: keyless_ports,
    } = config;
    let mut all = Settings::new();
    let mut put = |name: &str, value: String| {
        all.insert(name.to_owned(), (value, Takes::Restart));
    };
    put("state_directory", state_directory.display().to_string());
    put("runtime_directory", runtime_directory.display().to_string());
    put("pin_directory", pin_directory.display().to_string());
    put("user", or(user.as_ref(), "usual"));
    put("admin_group", or(admin_group.as_ref(), "none"));
    put("metrics_address", or(metrics_address.as_ref(), "none"));
    put("log_format", log_format.name().to_owned());
    put("workers", or(workers.as_ref(), "auto"));
    put(
        "cores",
        match cores {
            Cores::Auto => "auto".into(),
            Cores::Off => "off".into(),
            Cores::These(cores) => list(cores),
        },
    );
    put("spin", spin.as_micros().to_string());
    put("max_workstations", max_workstations.to_string());
    put("engine", engine.name().to_owned());
    put("host interface", host_interface.clone());
    put("host addresses", list::<IpNet>(host_addresses));
    for one in ports {
        port(&mut all, one);
    }
    for one in keyless_ports {
        keyless(&mut all, one);
    }
    all
}

fn port(all: &mut Settings, port: &Port) {
    let Port {
        interface: name,
        encapsulation,
        rings,
    } = port;
    let Rings {
        xdp,
        size,
        zero_copy,
        queues,
        huge_pages,
        tx_budget,
        busy_poll,
        threaded_napi,
    } = rings;
    all.insert(
        format!("port {name}"),
        (Admission::Tunnel.name().to_owned(), Takes::Restart),
    );
    let mut put = |setting: &str, value: String, takes| {
        all.insert(format!("port {name}: {setting}"), (value, takes));
    };
    let restart = Takes::Restart;
    put("encapsulation", encapsulation.name().into(), restart);
    match encapsulation {
        Encapsulation::Ether(ethertype) => {
            put("ethertype", format!("{ethertype:#06X}"), restart);
        }
        Encapsulation::Udp(udp) => {
            let UdpPort {
                port,
                addresses,
                shared,
                stealth,
                endpoints,
            } = udp;
            put("udp_port", port.to_string(), restart);
            put("addresses", list(addresses), restart);
            put("shared", shared.to_string(), restart);
            put("stealth", stealth.to_string(), restart);
            put("endpoint", list(endpoints), restart);
        }
    }
    put("xdp", lower(xdp), restart);
    put("ring_size", size.to_string(), restart);
    put("zero_copy", lower(zero_copy), restart);
    put("queues", or(queues.as_ref(), "all"), restart);
    put("huge_pages", huge_pages.to_string(), restart);
    put("tx_budget", tx_budget.to_string(), restart);
    put(
        "busy_poll",
        busy_poll.map_or("off".into(), |poll| {
            let prefer = if poll.prefer { ", preferred" } else { "" };
            format!("{} us, {} frames{prefer}", poll.microseconds, poll.budget)
        }),
        restart,
    );
    put("threaded_napi", lower(threaded_napi), Takes::Reload);
}

fn keyless(all: &mut Settings, port: &KeylessPort) {
    let KeylessPort {
        interface: name,
        xdp,
        addresses,
        pins,
    } = port;
    all.insert(
        format!("port {name}"),
        (port.admission().name().to_owned(), Takes::Restart),
    );
    all.insert(format!("port {name}: xdp"), (lower(xdp), Takes::Restart));
    all.insert(
        format!("port {name}: addresses"),
        (list(addresses), Takes::Reload),
    );
    for pin in pins.iter().flatten() {
        all.insert(
            format!("port {name}: pin {}", mac_text(pin.mac)),
            (
                format!("{}, {} frames/s", list(&pin.addresses), pin.rate),
                Takes::Reload,
            ),
        );
    }
}

/// A setting, or what it is where it is not given.
fn or<T: ToString>(value: Option<&T>, without: &str) -> String {
    value.map_or(without.to_owned(), ToString::to_string)
}

/// A choice as it is written in the configuration.
fn lower(choice: &impl std::fmt::Debug) -> String {
    format!("{choice:?}").to_lowercase()
}

/// The settings that differ, those that need a restart last.
pub fn of(now: &Gateway, then: &Gateway) -> Vec<Change> {
    let (old, new) = (settings(now), settings(then));
    let mut changes = Vec::new();
    let port_of = |name: &str| name.split(": ").next().unwrap_or_default().to_owned();
    for name in old
        .keys()
        .chain(new.keys().filter(|n| !old.contains_key(*n)))
    {
        let (before, after) = (old.get(name), new.get(name));
        let value = |side: Option<&(String, Takes)>| {
            side.map(|(value, _)| value.clone()).unwrap_or_default()
        };
        if value(before) == value(after) && before.is_some() == after.is_some() {
            continue;
        }
        // What belongs to a port that comes or goes is told once, with the port; so is what another
        // admission brings.
        let port = port_of(name);
        if *name != port && old.get(&port) != new.get(&port) {
            continue;
        }
        changes.push(Change {
            what: name.clone(),
            now: value(before),
            then: value(after),
            takes: before.or(after).map_or(Takes::Restart, |(_, takes)| *takes),
        });
    }
    // The daemon numbers its ports.
    if changes.is_empty() && now != then {
        let names = |config: &Gateway| {
            let tunnel = config.ports.iter().map(|port| port.interface.clone());
            let keyless = config.keyless.iter().map(|port| port.interface.clone());
            list(&tunnel.chain(keyless).collect::<Vec<_>>())
        };
        changes.push(Change {
            what: "the order of the ports or pins".into(),
            now: names(now),
            then: names(then),
            takes: match now.ports == then.ports && same_ports(now, then) {
                true => Takes::Reload,
                false => Takes::Restart,
            },
        });
    }
    changes.sort_by_key(|change| change.takes);
    changes
}

fn same_ports(now: &Gateway, then: &Gateway) -> bool {
    let names = |config: &Gateway| {
        let all = config.keyless.iter().map(|port| port.interface.clone());
        all.collect::<Vec<_>>()
    };
    names(now) == names(then)
}

/// The Workstations that differ between those the daemon told of and the files.
pub fn of_workstations(running: &[WorkstationStatus], files: &[WorkstationStatus]) -> Vec<Change> {
    let old: HashMap<&str, _> = running.iter().map(|one| (one.name.as_str(), one)).collect();
    let new: HashMap<&str, _> = files.iter().map(|one| (one.name.as_str(), one)).collect();
    let mut changes = Vec::new();
    let mut put = |what: String, now: String, then: String, takes| {
        changes.push(Change {
            what,
            now,
            then,
            takes,
        });
    };
    for one in files {
        let Some(before) = old.get(one.name.as_str()) else {
            let (what, then) = (format!("workstation {}", one.name), summary(one));
            put(what, String::new(), then, Takes::Reload);
            continue;
        };
        if summary(before) != summary(one) {
            let what = format!("workstation {}", one.name);
            put(what, summary(before), summary(one), Takes::Session);
        }
        if before.allow != one.allow {
            let what = format!("workstation {}: allow", one.name);
            put(
                what,
                rules::list(&before.allow),
                rules::list(&one.allow),
                Takes::Reload,
            );
        }
    }
    for one in running {
        if !new.contains_key(one.name.as_str()) {
            let what = format!("workstation {}", one.name);
            put(what, summary(one), String::new(), Takes::Session);
        }
    }
    changes
}

/// What ends a Workstation's session when it changes. The port is left out: one that is bound to none
/// is told with the port it was heard on.
fn summary(one: &WorkstationStatus) -> String {
    if let Some(broken) = &one.broken {
        return format!("cannot be used: {}", broken.error);
    }
    let wanted = &one.wanted;
    format!(
        "{} {}, {} {}{}{}",
        one.key_id.as_deref().unwrap_or_default(),
        list(&one.addresses),
        wanted.protection.as_deref().unwrap_or_default(),
        wanted.cipher.unwrap_or_default().name(),
        match wanted.padding.as_deref() {
            None | Some("none") => String::new(),
            Some(padding) => format!(", padding {padding}"),
        },
        if one.enabled { "" } else { ", disabled" },
    )
}

/// Whether a reload can apply all of it.
///
/// # Errors
/// What it cannot apply, each by name, and what to do. Nothing has changed.
pub fn check_live(path: &Path, changes: &[Change]) -> Result<(), Problem> {
    let waiting: Vec<_> = changes
        .iter()
        .filter(|change| change.takes == Takes::Restart)
        .map(Change::to_string)
        .collect();
    match waiting.is_empty() {
        true => Ok(()),
        false => Err(Problem::new(
            Kind::Conflict,
            format!("reload {}", path.display()),
            format!(
                "these cannot be changed while it runs, so nothing has been changed: {}",
                waiting.join("; ")
            ),
            "restart portcullisd to apply all of it (sessions come back within a second and the wall \
             stays up meanwhile), or put those back and reload again",
        )),
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.now.is_empty(), self.then.is_empty()) {
            (true, _) => write!(f, "{} (new: {})", self.what, self.then),
            (_, true) => write!(f, "{} (gone)", self.what),
            _ => write!(f, "{} ({} -> {})", self.what, self.now, self.then),
        }
    }
}

/// Keeps a copy of the configuration at `path`, which is what runs now. A copy that cannot be kept is
/// no more than a comparison less.
pub fn keep(config: &Gateway, path: &Path) {
    let copy = config.runtime_directory.join(RUNNING);
    let kept = files::read(path).and_then(|text| {
        // It may have been written again since it was read.
        if Gateway::parse(path, &text)? != *config {
            files::remove(&copy)?;
            return Ok(());
        }
        let mut kept = String::with_capacity(text.len() + 128);
        let _ = writeln!(
            kept,
            "# What portcullisd runs with, from {}",
            path.display()
        );
        kept.push_str(&text);
        files::write_with_mode(&copy, &kept, 0o644)
    });
    if let Err(problem) = kept {
        tracing::debug!(%problem, "the running configuration is not kept for comparison");
    }
}

/// The configuration that runs, where a daemon keeps it there.
pub fn running(runtime_directory: &Path) -> Option<Gateway> {
    let path = runtime_directory.join(RUNNING);
    Gateway::parse(&path, &files::read(&path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ports(head: &str, ports: &str) -> Gateway {
        let text = format!("{head}\n[host]\naddresses = [\"10.77.0.1/24\"]\n{ports}");
        Gateway::parse(Path::new("p"), &text).unwrap()
    }

    const TUNNEL: &str = "[[port]]\ninterface = \"eth1\"\n";
    const PINNED: &str = "[[port]]\ninterface = \"eth3\"\nadmission = \"pinned\"\n\
        addresses = [\"10.152.200.1/24\"]\n[[port.pin]]\nmac = \"02:00:00:00:00:02\"\n\
        addresses = [\"10.152.200.2\"]\n";

    #[test]
    fn what_is_the_same_differs_in_nothing() {
        let one = with_ports("", &format!("{TUNNEL}{PINNED}"));
        assert_eq!(of(&one, &one.clone()), []);
        // What only says the default changes nothing.
        let other = with_ports("spin = 20", &format!("{TUNNEL}ring_size = 2048\n{PINNED}"));
        assert_eq!(of(&one, &other), []);
    }

    #[test]
    fn each_setting_is_named_with_what_it_takes() {
        let one = with_ports("", &format!("{TUNNEL}{PINNED}"));
        let other = with_ports(
            "spin = 50",
            &format!(
                "{TUNNEL}ring_size = 4096\nthreaded_napi = \"off\"\n{}rate = 500\n",
                PINNED
            ),
        );
        let told: Vec<_> = of(&one, &other)
            .iter()
            .map(|change| (change.takes, change.to_string()))
            .collect();
        let expected = [
            (Takes::Reload, "port eth1: threaded_napi (auto -> off)"),
            (
                Takes::Reload,
                "port eth3: pin 02:00:00:00:00:02 (10.152.200.2, 200000 frames/s -> 10.152.200.2, 500 frames/s)",
            ),
            (Takes::Restart, "port eth1: ring_size (2048 -> 4096)"),
            (Takes::Restart, "spin (20 -> 50)"),
        ];
        assert_eq!(told, expected.map(|(takes, text)| (takes, text.to_owned())));
        let problem = check_live(Path::new("p"), &of(&one, &other)).unwrap_err();
        assert!(problem.happened.contains("spin (20 -> 50)"), "{problem}");
        assert!(!problem.happened.contains("napi"), "{problem}");
    }

    #[test]
    fn a_port_that_comes_or_goes_is_told_once() {
        let one = with_ports("", TUNNEL);
        let other = with_ports("", &format!("{TUNNEL}{PINNED}"));
        let added = of(&one, &other);
        assert_eq!(added.len(), 1, "{added:?}");
        assert_eq!(added[0].to_string(), "port eth3 (new: pinned)");
        assert_eq!(of(&other, &one)[0].to_string(), "port eth3 (gone)");
        assert_eq!(added[0].takes, Takes::Restart);
    }

    #[test]
    fn a_setting_that_differs_alone_is_told_by_its_name() {
        let head = [
            ("state_directory", "\"/a\""),
            ("runtime_directory", "\"/b\""),
            ("pin_directory", "\"/sys/fs/bpf/c\""),
            ("user", "\"nobody\""),
            ("admin_group", "\"adm\""),
            ("metrics_address", "\"127.0.0.1:9\""),
            ("log_format", "\"json\""),
            ("workers", "1"),
            ("cores", "\"off\""),
            ("spin", "7"),
            ("max_workstations", "7"),
            ("engine", "\"aes-gcm\""),
        ];
        let rings = [
            ("xdp", "\"generic\""),
            ("ring_size", "4096"),
            ("zero_copy", "\"off\""),
            ("queues", "1"),
            ("huge_pages", "true"),
            ("tx_budget", "128"),
            ("busy_poll", "50"),
            ("threaded_napi", "\"off\""),
        ];
        let ether = [("ethertype", "0x88B6")];
        let udp = [("stealth", "false"), ("endpoint", "[\"a.example:7\"]")];
        const UDP: &str = "[[port]]\ninterface = \"eth2\"\nencapsulation = \"udp\"\n\
            addresses = [\"192.0.2.1\"]\n";
        let told = |with: Gateway, plain: &Gateway| {
            let told = of(plain, &with);
            told.into_iter()
                .map(|change| change.what)
                .collect::<Vec<_>>()
        };
        let plain = with_ports("", TUNNEL);
        for (name, value) in head {
            let with = with_ports(&format!("{name} = {value}"), TUNNEL);
            assert_eq!(told(with, &plain), [name]);
        }
        for (name, value) in rings.into_iter().chain(ether) {
            let with = with_ports("", &format!("{TUNNEL}{name} = {value}\n"));
            assert_eq!(told(with, &plain), [format!("port eth1: {name}")]);
        }
        let plain = with_ports("", UDP);
        for (name, value) in udp {
            let with = with_ports("", &format!("{UDP}{name} = {value}\n"));
            assert_eq!(told(with, &plain), [format!("port eth2: {name}")]);
        }
    }

    #[test]
    fn no_difference_goes_unnoticed() {
        let ports = |first: &str, second: &str| format!("{first}{second}");
        let other = "[[port]]\ninterface = \"eth2\"\n";
        let one = with_ports("", &ports(TUNNEL, other));
        let swapped = with_ports("", &ports(other, TUNNEL));
        assert_ne!(one, swapped);
        let changes = of(&one, &swapped);
        assert_eq!(changes[0].takes, Takes::Restart, "{changes:?}");
    }

    #[test]
    fn workstations_are_compared_by_what_ends_a_session_and_what_does_not() {
        let one = |name: &str| WorkstationStatus {
            name: name.into(),
            enabled: true,
            key_id: Some("0a1b2c3d".into()),
            allow: vec!["tcp/9050".parse().unwrap()],
            ..WorkstationStatus::default()
        };
        let running = vec![one("alpha"), one("beta"), one("gamma")];
        let mut files = vec![one("alpha"), one("beta"), one("delta")];
        files[0].allow.push("icmp".parse().unwrap());
        files[1].enabled = false;
        // A port that the daemon learned is no difference.
        files[0].port = Some("eth1".into());
        let told: Vec<_> = of_workstations(&running, &files)
            .iter()
            .map(|change| (change.what.clone(), change.takes))
            .collect();
        assert_eq!(
            told,
            [
                ("workstation alpha: allow".to_owned(), Takes::Reload),
                ("workstation beta".to_owned(), Takes::Session),
                ("workstation delta".to_owned(), Takes::Reload),
                ("workstation gamma".to_owned(), Takes::Session),
            ]
        );
    }
}
