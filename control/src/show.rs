//! Status as a person reads it: aligned columns, units, and colours where they help.

use crate::api::{AgentStatus, Counters, PortState, PortStatus, SessionStatus, Status, Traffic};
use crate::api::{ErrorBody, PinStatus, WorkstationStatus};
use crate::check::Finding;
use crate::choices::Admission;
use crate::keyring::Known;
use crate::layout::{self, ranges};
use crate::rules::Rule;
use std::fmt::Write as _;
use std::io::IsTerminal;

/// Whether to colour what goes to a terminal: not elsewhere, and not with `NO_COLOR`.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Plain,
    Good,
    Odd,
    Bad,
    Faint,
}

/// A row of a table, and the lines that stand under it.
type Row = (Vec<(String, Colour)>, Vec<String>);

struct Painter {
    on: bool,
}

impl Painter {
    fn paint(&self, text: &str, colour: Colour) -> String {
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Good => 32,
            Colour::Odd => 33,
            Colour::Bad => 31,
            Colour::Faint => 2,
        };
        match self.on && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Rows under a head, each column as wide as its widest cell. Lines under a row are indented.
    fn table(&self, head: &[&str], rows: &[Row]) -> String {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
        for (row, _) in rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let mut line = |cells: &[(String, Colour)], under: &[String]| {
            let mut built = String::new();
            for ((cell, colour), width) in cells.iter().zip(&widths) {
                let space = width.saturating_sub(cell.chars().count()) + 2;
                let _ = write!(built, "{}{:space$}", self.paint(cell, *colour), "");
            }
            let _ = writeln!(text, "{}", built.trim_end());
            for note in under {
                let _ = writeln!(text, "  {note}");
            }
        };
        let head: Vec<_> = head
            .iter()
            .map(|h| ((*h).to_owned(), Colour::Faint))
            .collect();
        line(&head, &[]);
        for (row, under) in rows {
            line(row, under);
        }
        text
    }
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

fn port_row(port: &PortStatus) -> Row {
    let (state, colour) = match port.state {
        PortState::Up => ("up", Colour::Good),
        PortState::Down => ("down", Colour::Bad),
        PortState::Missing => ("missing", Colour::Bad),
    };
    let xdp = port.xdp.as_deref().unwrap_or("-");
    let admitted: u64 = admitted(&port.verdicts);
    let dropped_total: u64 = port.verdicts.values().sum::<u64>() - admitted;
    let lost: u64 = port.ring_losses.values().sum();
    let plain = |text: String| (text, Colour::Plain);
    let row = vec![
        plain(port.interface.clone()),
        (state.into(), colour),
        match port.admission {
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
const ADMITTED: [&str; 3] = ["admitted", "passed", "answered"];

fn admitted(verdicts: &Counters) -> u64 {
    let of = ADMITTED.iter().filter_map(|name| verdicts.get(*name));
    of.sum()
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

fn workstation_row(one: &WorkstationStatus, several_workers: bool) -> Row {
    let (state, colour) = match (&one.broken, one.enabled, &one.session) {
        (Some(_), _, _) => ("broken", Colour::Bad),
        (None, false, _) => ("disabled", Colour::Faint),
        (None, true, None) => ("no session", Colour::Odd),
        (None, true, Some(_)) => ("in session", Colour::Good),
    };
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
    let mut under = Vec::new();
    if let Some(ErrorBody { error, remedy }) = &one.broken {
        under.push(error.clone());
        under.push(format!("remedy: {remedy}"));
    }
    if one.broken.is_none() {
        under.push(format!("may reach: {}", rules(&one.allow)));
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
    under.extend(reasons("refused", &one.verdicts));
    under.extend(reasons("dropped", &one.drops));
    (row, under)
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
                .gateway_mac
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

fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "never".into(), |s| format!("{} ago", duration(s)))
}

fn traffic(traffic: Traffic) -> String {
    format!("{} ({})", bytes(traffic.bytes), count(traffic.packets))
}

/// A number in groups of three digits.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that keeps them above one.
fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{number} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// Seconds in their two largest units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ServedBy;

    fn example() -> Status {
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
                peer_mac: "02:00:00:00:00:02".into(),
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
    fn units_are_those_of_people() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [
            (59, "59s"),
            (60, "1m 0s"),
            (7322, "2h 2m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(count(number), text);
        }
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
