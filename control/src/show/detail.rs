//! One Workstation or one port, with everything that is known of it.

use super::unit::{ago, count, traffic};
use super::{Colour, Painter, port_state, rules, session, workstation_notes};
use super::{served_by, workstation_state};
use crate::api::{Counters, PortStatus, WorkstationStatus};
use crate::choices::Admission;
use std::fmt::Write as _;

/// One Workstation.
pub fn workstation_in_full(one: &WorkstationStatus, colours: bool) -> String {
    let painter = Painter { on: colours };
    let (state, colour) = workstation_state(one);
    let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
    let wanted = &one.wanted;
    let wanted = [
        wanted.protection.clone(),
        wanted.cipher.map(|cipher| cipher.name().to_owned()),
        wanted
            .padding
            .as_ref()
            .map(|padding| format!("padding {padding}")),
    ];
    let wanted: Vec<_> = wanted.into_iter().flatten().collect();
    let lines = [
        ("state", painter.paint(state, colour)),
        ("key id", one.key_id.clone().unwrap_or_default()),
        ("addresses", addresses.join(" ")),
        ("port", one.port.clone().unwrap_or_else(|| "any".into())),
        ("may reach", rules(&one.allow)),
        ("to be given", wanted.join(", ")),
        ("session", session(one.session.as_ref())),
        (
            "peer",
            one.session
                .as_ref()
                .map(|session| session.peer.clone())
                .unwrap_or_default(),
        ),
        (
            "worker",
            one.worker.map(|at| at.to_string()).unwrap_or_default(),
        ),
        ("handshake", ago(one.last_handshake_seconds)),
        ("rekeys", count(one.rekeys)),
        ("from it", traffic(one.rx)),
        ("to it", traffic(one.tx)),
        ("opened", format!("{} frames", count(one.opened))),
    ];
    let mut text = format!("workstation {}\n", one.name);
    // Of a file that cannot be used nothing else is known.
    let known = if one.broken.is_some() { 1 } else { lines.len() };
    list(&mut text, &lines[..known]);
    for note in workstation_notes(one) {
        let _ = writeln!(text, "  {note}");
    }
    table(&mut text, &painter, "frames by verdict", &one.verdicts);
    table(&mut text, &painter, "dropped after admission", &one.drops);
    text
}

/// One port. `all` are the Gateway's Workstations.
pub fn port_in_full(port: &PortStatus, all: &[WorkstationStatus], colours: bool) -> String {
    let painter = Painter { on: colours };
    let (state, colour) = port_state(port);
    let here: Vec<_> = all
        .iter()
        .filter(|one| one.session.is_some() && one.port.as_ref() == Some(&port.interface))
        .map(|one| one.name.as_str())
        .collect();
    let lets_in = match port.admission {
        Admission::Tunnel => "tunnel: frames authenticated with a Workstation's keys".to_owned(),
        Admission::Pinned => "pinned: what comes from the addresses below".to_owned(),
        Admission::Open => painter.paint("OPEN: everything, from anybody", Colour::Bad),
    };
    let rings = match port.zero_copy {
        Some(true) => "zero-copy",
        Some(false) => "copy",
        None => "",
    };
    let lines = [
        ("state", painter.paint(state, colour)),
        ("reason", port.reason.clone().unwrap_or_default()),
        ("lets in", lets_in),
        ("MAC", port.mac.clone().unwrap_or_default()),
        ("XDP", port.xdp.clone().unwrap_or_default()),
        ("rings", rings.to_owned()),
        ("queues", port.queues.to_string()),
        ("served", served_by(port).unwrap_or_default()),
        (
            "NAPI",
            match port.threaded_napi {
                true => "in kernel threads".to_owned(),
                false => String::new(),
            },
        ),
        ("in session", here.join(", ")),
        ("received", traffic(port.rx)),
        ("sent", traffic(port.tx)),
        (
            "guarded",
            format!("{} frames kept from leaving", count(port.guard_drops)),
        ),
    ];
    let mut text = format!("port {}\n", port.interface);
    list(&mut text, &lines);
    table(&mut text, &painter, "frames by verdict", &port.verdicts);
    table(&mut text, &painter, "lost at the rings", &port.ring_losses);
    for pin in &port.pins {
        let _ = writeln!(
            text,
            "  {}, {} frames/s at most",
            super::pin(pin),
            count(pin.rate.into())
        );
    }
    text
}

/// Names and values, without those that are empty.
fn list(text: &mut String, lines: &[(&str, String)]) {
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "  {name:<12} {value}");
    }
}

/// Counters that are not zero, the largest first.
fn table(text: &mut String, painter: &Painter, title: &str, counters: &Counters) {
    let mut rows: Vec<_> = counters.iter().filter(|(_, number)| **number > 0).collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let numbers: Vec<_> = rows.iter().map(|(_, number)| count(**number)).collect();
    let digits = numbers.iter().map(String::len).max().unwrap_or(0);
    let _ = writeln!(text, "  {}", painter.paint(title, Colour::Faint));
    for ((name, _), number) in rows.iter().zip(&numbers) {
        let _ = writeln!(text, "    {name:<width$}  {number:>digits$}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::tests::example;

    #[test]
    fn a_workstation_in_full_has_every_counter_and_its_keys_state() {
        let mut one = example().workstations[0].clone();
        one.verdicts.insert("admitted".into(), 12_345);
        one.verdicts.insert("replay".into(), 7);
        one.verdicts.insert("short".into(), 0);
        one.drops.insert("policy_denied".into(), 3);
        assert_eq!(
            workstation_in_full(&one, false),
            "\
workstation alpha
  state        in session
  addresses    10.152.152.11
  port         eth1
  may reach    tcp/9050, any@beta
  session      encrypt aes-256-gcm, 1m 1s old
  peer         02:00:00:00:00:02
  handshake    1m 1s ago
  rekeys       0
  from it      4.7 GiB (10)
  to it        0 B (0)
  opened       0 frames
  frames by verdict
    admitted  12 345
    replay         7
  dropped after admission
    policy_denied  3
"
        );
    }

    #[test]
    fn of_a_broken_workstation_only_what_is_wrong_is_shown() {
        let one = example().workstations[1].clone();
        assert_eq!(
            workstation_in_full(&one, false),
            "\
workstation beta
  state        broken
  reading beta.toml: bad
  remedy: mend it
"
        );
    }

    #[test]
    fn a_port_in_full_names_who_is_in_session_there() {
        let status = example();
        let text = port_in_full(&status.ports[0], &status.workstations, false);
        for line in [
            "port eth1\n",
            "  in session   alpha\n",
            "    admitted  1 234 567\n    bad_tag       3 000\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
