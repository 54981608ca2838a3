//! Status as a person reads it: aligned columns, units, and colours where they help.

mod detail;
pub mod dump;
pub mod health;
mod paint;
pub(crate) mod unit;

pub use detail::{port_in_full, workstation_in_full};

use crate::api::{AgentStatus, Counters, PortState, PortStatus, SessionStatus, Status};
use crate::api::{ErrorBody, PinStatus, WorkstationStatus};
use crate::check::Finding;
use crate::choices::Admission;
use crate::keyring::Known;
use crate::layout::{self, ranges};
use crate::rules::Rule;
use paint::{Colour, Painter, Row};
use std::fmt::Write as _;
use std::io::IsTerminal;
use unit::{ago, count, duration, traffic};

/// Whether to colour what goes to a terminal: not elsewhere, and not with `NO_COLOR`.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

/// A table of plain cells under a head.
pub fn table(head: &[&str], rows: &[Vec<String>], colours: bool) -> String {
    let plain = |row: &Vec<String>| -> Row {
        let cells = row.iter().map(|cell| (cell.clone(), Colour::Plain));
        (cells.collect(), Vec::new())
    };
    let rows: Vec<_> = rows.iter().map(plain).collect();
    Painter { on: colours }.table(head, &rows)
}

/// A Gateway's status.
pub fn status(status: &Status, colours: bool) -> String {
    let painter = Painter { on: colours };
    let mut workers = layout::count(status.workers);
    let cores: Vec<usize> = status.worker_cores.iter().flatten().copied().collect();
    if !cores.is_empty() {
        let _ = write!(workers, " on {}", layout::names(&cores));
    }
    let mut text = format!(
        "portcullisd {}, up {}, engine {}, {workers}, host interface {}\n",
        status.version,
        duration(status.started_seconds),
        status.engine,
        status.host_interface
    );
    if let Some(old) = &status.old_public_key {
        let knows = |one: &&WorkstationStatus| one.gateway_key == Known::Old;
        let _ = writeln!(
            text,
            "public key {}; the one before, {old}, is still accepted, which {} of the Workstations know only",
            status.public_key,
            status.workstations.iter().filter(knows).count(),
        );
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "{} {warning}", painter.paint("warning:", Colour::Odd));
    }
    text.push('\n');
    text.push_str(&ports(&painter, &status.ports));
    text.push('\n');
    text.push_str(&workstations(&status.workstations, colours));
    text
}

fn ports(painter: &Painter, ports: &[PortStatus]) -> String {
    let rows: Vec<_> = ports.iter().map(port_row).collect();
    let head = [
        "PORT", "STATE", "LETS IN", "MAC", "XDP", "RINGS", "QUEUES", "ADMITTED", "DROPPED", "LOST",
        "GUARDED",
    ];
    painter.table(&head, &rows)
}

/// A port's state in a word.
fn port_state(port: &PortStatus) -> (&'static str, Colour) {
    match port.state {
        PortState::Up => ("up", Colour::Good),
        PortState::Down => ("down", Colour::Bad),
        PortState::Missing => ("missing", Colour::Bad),
    }
}

fn port_row(port: &PortStatus) -> Row {
    let (state, colour) = port_state(port);
    let xdp = port.xdp.as_deref().unwrap_or("-");
    let admitted: u64 = admitted(&port.verdicts);
    let dropped_total: u64 = port.verdicts.values().sum::<u64>() - admitted;
    let lost: u64 = port.ring_losses.values().sum();
    let plain = |text: String| (text, Colour::Plain);
    let row = vec![
        plain(port.interface.clone()),
        (state.into(), colour),
        match port.admission {
            // Who sees it is to know that the kernel is behind it.
            Admission::Tunnel if port.shared => ("SHARED".into(), Colour::Odd),
            Admission::Tunnel => plain("tunnel".into()),
            Admission::Pinned => plain("pinned".into()),
            Admission::Open => ("OPEN".into(), Colour::Bad),
        },
        plain(port.mac.clone().unwrap_or_else(|| "-".into())),
        match xdp {
            "generic" => ("generic".into(), Colour::Odd),
            other => plain(other.into()),
        },
        plain(
            match port.zero_copy {
                Some(true) => "zero-copy",
                Some(false) => "copy",
                None => "-",
            }
            .into(),
        ),
        plain(port.queues.to_string()),
        plain(count(admitted)),
        plain(count(dropped_total)),
        (
            count(lost),
            if lost > 0 { Colour::Odd } else { Colour::Plain },
        ),
        plain(count(port.guard_drops)),
    ];
    let mut under = Vec::new();
    under.extend(port.reason.clone());
    under.extend(over_udp(port));
    under.extend(served_by(port));
    under.extend(reasons("dropped", &port.verdicts));
    under.extend(reasons("lost", &port.ring_losses));
    under.extend(port.pins.iter().map(pin));
    (row, under)
}

/// A Workstation without keys, on a line of its own.
fn pin(pin: &PinStatus) -> String {
    let addresses: Vec<_> = pin.addresses.iter().map(ToString::to_string).collect();
    let mut line = format!(
        "pin {} {}: admitted {}",
        pin.mac,
        addresses.join(" "),
        count(admitted(&pin.verdicts))
    );
    if let Some(dropped) = reasons("dropped", &pin.verdicts) {
        let _ = write!(line, ", {dropped}");
    }
    line
}

/// The verdicts that are no drops.
pub(crate) const ADMITTED: [&str; 3] = ["admitted", "passed", "answered"];

pub(crate) fn admitted(verdicts: &Counters) -> u64 {
    let of = ADMITTED.iter().filter_map(|name| verdicts.get(*name));
    of.sum()
}

/// Where a port is reached over networks, what it answers, and what else passes it.
fn over_udp(port: &PortStatus) -> Option<String> {
    let listens = (!port.listens.is_empty()).then(|| port.listens.join(", "))?;
    let mut line = format!("udp at {listens}");
    if port.refuses {
        line.push_str("; whoever has no key is told that nobody listens");
    }
    if port.shared {
        line.push_str("; shared: everything else goes to the kernel");
    }
    Some(line)
}

/// Who serves which queues, where several do.
fn served_by(port: &PortStatus) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    if port.served_by.len() > 1 {
        for part in &port.served_by {
            let queues = ranges(part.first_queue as usize..=part.last_queue as usize);
            words.push(format!("queue {queues} by worker {}", part.worker));
        }
    }
    words.extend(port.busy_poll.map(|took| {
        match took {
            true => "busy polling",
            false => "no busy polling: the kernel refused it",
        }
        .to_owned()
    }));
    (!words.is_empty()).then(|| words.join(", "))
}

/// The Workstations.
pub fn workstations(all: &[WorkstationStatus], colours: bool) -> String {
    let painter = Painter { on: colours };
    if all.is_empty() {
        return "No Workstation is enrolled yet: portcullis workstation add NAME\n".into();
    }
    let several = all.iter().any(|one| one.worker.is_some_and(|at| at > 0));
    let rows: Vec<_> = all
        .iter()
        .map(|one| workstation_row(one, several))
        .collect();
    let head = [
        "WORKSTATION",
        "STATE",
        "ADDRESSES",
        "PORT",
        "SESSION",
        "HANDSHAKE",
        "FROM IT",
        "TO IT",
    ];
    painter.table(&head, &rows)
}

/// A Workstation's state in a word or two.
fn workstation_state(one: &WorkstationStatus) -> (&'static str, Colour) {
    match (&one.broken, one.enabled, &one.session) {
        (Some(_), _, _) => ("broken", Colour::Bad),
        (None, false, _) => ("disabled", Colour::Faint),
        (None, true, None) => ("no session", Colour::Odd),
        (None, true, Some(_)) => ("in session", Colour::Good),
    }
}

fn workstation_row(one: &WorkstationStatus, several_workers: bool) -> Row {
    let (state, colour) = workstation_state(one);
    let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
    let plain = |text: String| (text, Colour::Plain);
    let row = vec![
        plain(one.name.clone()),
        (state.into(), colour),
        plain(match addresses.is_empty() {
            true => "-".into(),
            false => addresses.join(" "),
        }),
        plain(match (&one.port, one.worker) {
            (Some(port), Some(worker)) if several_workers => format!("{port}, worker {worker}"),
            (port, _) => port.clone().unwrap_or_else(|| "any".into()),
        }),
        plain(session(one.session.as_ref())),
        plain(ago(one.last_handshake_seconds)),
        plain(traffic(one.rx)),
        plain(traffic(one.tx)),
    ];
    let mut under = workstation_notes(one);
    if one.broken.is_none() {
        under.insert(0, format!("may reach: {}", rules(&one.allow)));
    }
    under.extend(reasons("refused", &one.verdicts));
    under.extend(reasons("dropped", &one.drops));
    (row, under)
}

/// What a person should know of a Workstation.
fn workstation_notes(one: &WorkstationStatus) -> Vec<String> {
    let mut under = Vec::new();
    if let Some(ErrorBody { error, remedy }) = &one.broken {
        under.push(error.clone());
        under.push(format!("remedy: {remedy}"));
    }
    if one.clone_suspected {
        under.push(
            "two machines seem to have its keys: remove it here and enrol it again, on one machine"
                .into(),
        );
    }
    under.extend(one.refused.clone());
    if let Some(rotation) = &one.rotation {
        under.push(format!(
            "has not used its new keys ({}) yet; the old ones end in {}",
            rotation.key_id,
            duration(rotation.old_ends_in_seconds)
        ));
    }
    match one.gateway_key {
        _ if one.broken.is_some() => {}
        Known::Current => {}
        Known::Old if one.rotation.is_some() => under.push("knows the Gateway's old key only".into()),
        Known::Old => under.push(format!(
            "knows the Gateway's old key only: portcullis workstation rotate {}",
            one.name
        )),
        Known::Retired => under.push(format!(
            "locked out, as it knows a key that the Gateway has no more: portcullis workstation rotate {}",
            one.name
        )),
    }
    under
}

/// How long its session has lasted, or that it has none, in a few words.
fn duration_of_session(one: &WorkstationStatus) -> String {
    match (&one.session, one.last_handshake_seconds) {
        (Some(_), _) => session(one.session.as_ref()),
        (None, Some(_)) => format!("last handshake {}", ago(one.last_handshake_seconds)),
        (None, None) => "not heard yet".into(),
    }
}

/// Rules in one line.
pub fn rules(rules: &[Rule]) -> String {
    let words: Vec<_> = rules.iter().map(ToString::to_string).collect();
    match words.is_empty() {
        true => "nothing".into(),
        false => words.join(", "),
    }
}

/// An agent's status.
pub fn agent(status: &AgentStatus, colours: bool) -> String {
    let painter = Painter { on: colours };
    let mut text = format!(
        "portcullis-agent {}, up {}, engine {}\n",
        status.version,
        duration(status.started_seconds),
        status.engine
    );
    let (state, colour) = match status.session {
        Some(_) => ("in session", Colour::Good),
        None => ("no session", Colour::Bad),
    };
    let lines = [
        (
            "workstation",
            format!("{} ({})", status.name, status.key_id),
        ),
        ("state", painter.paint(state, colour)),
        (
            "handshake",
            format!(
                "{}, last {}",
                status.state,
                ago(status.last_handshake_seconds)
            ),
        ),
        ("session", session(status.session.as_ref())),
        (
            "gateway",
            status
                .gateway
                .clone()
                .unwrap_or_else(|| "not heard yet".into()),
        ),
        ("addresses", status.addresses.join(" ")),
        ("received", traffic(status.rx)),
        ("sent", traffic(status.tx)),
        (
            "rollbacks",
            match status.rollbacks {
                0 => String::new(),
                count => format!("{count} suspected; all keys were dropped each time"),
            },
        ),
        ("last error", status.last_error.clone().unwrap_or_default()),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "  {name:<12} {value}");
    }
    if let Some(line) = reasons("dropped", &status.drops) {
        let _ = writeln!(text, "  {line}");
    }
    text.push('\n');
    text.push_str(&ports(&painter, std::slice::from_ref(&status.port)));
    text
}

/// The outcome of a check.
pub fn findings(findings: &[Finding], colours: bool) -> String {
    let painter = Painter { on: colours };
    let mut text = String::new();
    for finding in findings {
        let mark = match (finding.ok, finding.warning) {
            (true, false) => painter.paint("[ OK ]", Colour::Good),
            (true, true) => painter.paint("[WARN]", Colour::Odd),
            (false, _) => painter.paint("[FAIL]", Colour::Bad),
        };
        let _ = writeln!(text, "{mark} {}", finding.text);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "       remedy: {remedy}");
        }
    }
    text
}

/// `name: reason 12, other 3`, the largest first, without zeros and what was admitted.
fn reasons(name: &str, counters: &Counters) -> Option<String> {
    let mut reasons: Vec<_> = counters
        .iter()
        .filter(|(reason, count)| **count > 0 && !ADMITTED.contains(&reason.as_str()))
        .collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let words: Vec<_> = reasons
        .iter()
        .map(|(reason, number)| format!("{reason} {}", count(**number)))
        .collect();
    (!words.is_empty()).then(|| format!("{name}: {}", words.join(", ")))
}

fn session(session: Option<&SessionStatus>) -> String {
    session.map_or_else(
        || "-".into(),
        |s| {
            format!(
                "{} {}, {} old",
                s.protection,
                s.cipher,
                duration(s.age_seconds)
            )
        },
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::{ServedBy, Traffic};

    /// A Gateway with one port, a Workstation in session and a broken one.
    pub(crate) fn example() -> Status {
        let mut port = PortStatus {
            interface: "eth1".into(),
            mac: Some("02:00:00:00:00:01".into()),
            state: PortState::Up,
            xdp: Some("native".into()),
            zero_copy: Some(false),
            queues: 1,
            ..PortStatus::default()
        };
        for (name, count) in [
            ("admitted", 1_234_567),
            ("foreign", 12),
            ("bad_tag", 3000),
            ("short", 0),
        ] {
            port.verdicts.insert(name.into(), count);
        }
        let alpha = WorkstationStatus {
            name: "alpha".into(),
            enabled: true,
            addresses: vec!["10.152.152.11".parse().unwrap()],
            port: Some("eth1".into()),
            allow: ["tcp/9050", "any@beta"]
                .map(|rule| rule.parse().unwrap())
                .into(),
            session: Some(SessionStatus {
                age_seconds: 61,
                cipher: "aes-256-gcm".into(),
                protection: "encrypt".into(),
                peer: "02:00:00:00:00:02".into(),
            }),
            last_handshake_seconds: Some(61),
            rx: Traffic {
                packets: 10,
                bytes: 5_000_000_000,
            },
            ..WorkstationStatus::default()
        };
        let beta = WorkstationStatus {
            name: "beta".into(),
            broken: Some(ErrorBody {
                error: "reading beta.toml: bad".into(),
                remedy: "mend it".into(),
            }),
            ..WorkstationStatus::default()
        };
        Status {
            version: "0.1.0".into(),
            started_seconds: 3700,
            engine: "aws-lc-rs".into(),
            workers: 1,
            host_interface: "portcullis0".into(),
            ports: vec![port],
            workstations: vec![alpha, beta],
            warnings: vec!["mind this".into()],
            ..Status::default()
        }
    }

    #[test]
    fn a_status_is_aligned_and_names_every_reason() {
        let text = status(&example(), false);
        assert_eq!(
            text,
            "\
portcullisd 0.1.0, up 1h 1m, engine aws-lc-rs, 1 worker, host interface portcullis0
warning: mind this

PORT  STATE  LETS IN  MAC                XDP     RINGS  QUEUES  ADMITTED   DROPPED  LOST  GUARDED
eth1  up     tunnel   02:00:00:00:00:01  native  copy   1       1 234 567  3 012    0     0
  dropped: bad_tag 3 000, foreign 12

WORKSTATION  STATE       ADDRESSES      PORT  SESSION                         HANDSHAKE  FROM IT       TO IT
alpha        in session  10.152.152.11  eth1  encrypt aes-256-gcm, 1m 1s old  1m 1s ago  4.7 GiB (10)  0 B (0)
  may reach: tcp/9050, any@beta
beta         broken      -              any   -                               never      0 B (0)       0 B (0)
  reading beta.toml: bad
  remedy: mend it
"
        );
    }

    #[test]
    fn several_workers_are_shown_with_their_cores_queues_and_workstations() {
        let mut example = example();
        example.workers = 3;
        example.worker_cores = vec![Some(2), Some(3), Some(5)];
        let part = |worker, first_queue, last_queue| ServedBy {
            worker,
            first_queue,
            last_queue,
        };
        example.ports[0].served_by = vec![part(0, 0, 1), part(2, 2, 2)];
        example.ports[0].busy_poll = Some(false);
        example.workstations[0].worker = Some(2);
        let text = status(&example, false);
        for line in [
            "3 workers on cores 2-3, 5,",
            "  queue 0-1 by worker 0, queue 2 by worker 2, no busy polling: the kernel refused it\n",
            "  eth1, worker 2  ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = status(&example(), true);
        assert!(coloured.contains("\x1b[32mup\x1b[0m"));
        let mut stripped = coloured;
        for code in ["\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            stripped = stripped.replace(code, "");
        }
        let trimmed = |text: &str| {
            text.lines()
                .map(|l| l.trim_end().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(trimmed(&stripped), trimmed(&status(&example(), false)));
    }

    #[test]
    fn an_agent_without_a_session_says_so() {
        let status = AgentStatus {
            name: "alpha".into(),
            state: "hello".into(),
            ..AgentStatus::default()
        };
        let text = agent(&status, false);
        assert!(text.contains("no session"), "{text}");
        assert!(text.contains("hello, last never"), "{text}");
        assert!(text.contains("not heard yet"), "{text}");
    }
}
