//! Status for scripts: lines of tab-separated columns, which stay where they are.
//!
//! The first column says what a line is about. New columns come at the end of a line and new kinds
//! of lines may appear, so a script that picks columns by number and skips lines it does not know
//! goes on working.

use super::{admitted, workstation_state};
use crate::api::{AgentStatus, Counters, PortState, PortStatus, Status, WorkstationStatus};

/// The kinds of lines with their columns.
pub const COLUMNS: &[(&str, &str)] = &[
    (
        "gateway",
        "version, uptime in seconds, AEAD engine, workers, host interface, public key, old public key",
    ),
    (
        "agent",
        "version, uptime in seconds, AEAD engine, Workstation's name, key id, handshake's state, \
         Gateway's MAC address (over networks its address and port), addresses, protection, cipher, session's \
         age in seconds, seconds since the last handshake, packets and bytes received, packets and bytes sent, rekeys, rollbacks",
    ),
    (
        "port",
        "interface (of an agent over networks the endpoints), admission, state, MAC address, XDP mode, \
         zero-copy (1 or 0), queues, frames admitted, frames dropped, frames lost at the rings, frames kept \
         from leaving",
    ),
    (
        "pin",
        "interface, MAC address, addresses, frames a second it may send, frames admitted, frames dropped",
    ),
    (
        "workstation",
        "name, state, key id, addresses, port, what it may reach, protection, cipher, session's age in \
         seconds, its MAC address (over networks its address and port), seconds since the last handshake, \
         packets and bytes from it, packets and bytes to it, frames opened, frames dropped, rekeys",
    ),
    (
        "count",
        "gateway, agent, port, pin or workstation; its name (of a pin the MAC address); verdict, ring, \
         drop or event; reason; count. Every counter that is not zero",
    ),
    ("warning", "text"),
];

/// Whose dump it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A Gateway's.
    Gateway,
    /// An agent's.
    Agent,
}

impl Of {
    /// Whether it may have lines of a kind.
    pub fn has(self, kind: &str) -> bool {
        match self {
            Self::Gateway => kind != "agent",
            Self::Agent => ["agent", "port", "count"].contains(&kind),
        }
    }
}

/// [`COLUMNS`] as the help shows them.
pub fn columns(of: Of) -> String {
    let mut text =
        String::from("The first column says what a line is about, and what its others are:\n");
    for (kind, columns) in COLUMNS.iter().filter(|(kind, _)| of.has(kind)) {
        // The wrapped rest of them stands below their beginning, and not below the kind.
        text.push_str(&format!("  {kind}:\n      {columns}\n"));
    }
    text.push_str(
        "\nWhat there is none of is \"-\"; lists are joined by commas. Columns stay where they are: new ones \
         come at the end of a line, and kinds of lines may be added.",
    );
    text
}

/// Lines of columns.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line<const N: usize>(&mut self, kind: &str, columns: [String; N]) {
        self.0.push_str(kind);
        for column in columns {
            self.0.push('\t');
            match column.is_empty() {
                true => self.0.push('-'),
                // Nothing that is shown has a tab or ends a line but a warning, which is prose.
                false => self.0.push_str(&column.replace(['\t', '\n'], " ")),
            }
        }
        self.0.push('\n');
    }

    fn counts(&mut self, of: &str, name: &str, class: &str, counters: &Counters) {
        for (reason, count) in counters.iter().filter(|(_, count)| **count > 0) {
            let columns = [of, name, class, reason].map(str::to_owned);
            let [a, b, c, d] = columns;
            self.line("count", [a, b, c, d, count.to_string()]);
        }
    }

    fn port(&mut self, port: &PortStatus) {
        let all: u64 = port.verdicts.values().sum();
        let let_in = admitted(&port.verdicts);
        self.line(
            "port",
            [
                port.interface.clone(),
                port.admission.name().to_owned(),
                match port.state {
                    PortState::Up => "up",
                    PortState::Down => "down",
                    PortState::Missing => "missing",
                }
                .to_owned(),
                text(port.mac.as_ref()),
                text(port.xdp.as_ref()),
                text(port.zero_copy.map(u8::from)),
                port.queues.to_string(),
                let_in.to_string(),
                all.saturating_sub(let_in).to_string(),
                port.ring_losses.values().sum::<u64>().to_string(),
                port.guard_drops.to_string(),
            ],
        );
        for pin in &port.pins {
            let all: u64 = pin.verdicts.values().sum();
            let let_in = admitted(&pin.verdicts);
            self.line(
                "pin",
                [
                    port.interface.clone(),
                    pin.mac.clone(),
                    list(&pin.addresses),
                    pin.rate.to_string(),
                    let_in.to_string(),
                    all.saturating_sub(let_in).to_string(),
                ],
            );
        }
    }

    fn port_counts(&mut self, port: &PortStatus) {
        self.counts("port", &port.interface, "verdict", &port.verdicts);
        self.counts("port", &port.interface, "ring", &port.ring_losses);
        for pin in &port.pins {
            self.counts("pin", &pin.mac, "verdict", &pin.verdicts);
        }
    }

    fn workstation(&mut self, one: &WorkstationStatus) {
        let session = one.session.as_ref();
        let refused: u64 = one.verdicts.values().sum::<u64>() - admitted(&one.verdicts);
        let dropped = refused + one.drops.values().sum::<u64>();
        self.line(
            "workstation",
            [
                one.name.clone(),
                workstation_state(one).0.to_owned(),
                text(one.key_id.as_ref()),
                list(&one.addresses),
                text(one.port.as_ref()),
                list(&one.allow),
                text(session.map(|session| &session.protection)),
                text(session.map(|session| &session.cipher)),
                text(session.map(|session| session.age_seconds)),
                text(session.map(|session| &session.peer)),
                text(one.last_handshake_seconds),
                one.rx.packets.to_string(),
                one.rx.bytes.to_string(),
                one.tx.packets.to_string(),
                one.tx.bytes.to_string(),
                one.opened.to_string(),
                dropped.to_string(),
                one.rekeys.to_string(),
            ],
        );
    }
}

/// All of a Gateway.
pub fn gateway(status: &Status) -> String {
    let mut table = Table::default();
    table.line(
        "gateway",
        [
            status.version.clone(),
            status.started_seconds.to_string(),
            status.engine.clone(),
            status.workers.to_string(),
            status.host_interface.clone(),
            status.public_key.clone(),
            text(status.old_public_key.as_ref()),
        ],
    );
    status.ports.iter().for_each(|port| table.port(port));
    for one in &status.workstations {
        table.workstation(one);
    }
    table.counts("gateway", &status.host_interface, "event", &status.counters);
    status.ports.iter().for_each(|port| table.port_counts(port));
    for one in &status.workstations {
        table.counts("workstation", &one.name, "verdict", &one.verdicts);
        table.counts("workstation", &one.name, "drop", &one.drops);
    }
    for warning in &status.warnings {
        table.line("warning", [warning.clone()]);
    }
    table.0
}

/// All of an agent.
pub fn agent(status: &AgentStatus) -> String {
    let mut table = Table::default();
    let session = status.session.as_ref();
    table.line(
        "agent",
        [
            status.version.clone(),
            status.started_seconds.to_string(),
            status.engine.clone(),
            status.name.clone(),
            status.key_id.clone(),
            status.state.clone(),
            text(status.gateway.as_ref()),
            list(&status.addresses),
            text(session.map(|session| &session.protection)),
            text(session.map(|session| &session.cipher)),
            text(session.map(|session| session.age_seconds)),
            text(status.last_handshake_seconds),
            status.rx.packets.to_string(),
            status.rx.bytes.to_string(),
            status.tx.packets.to_string(),
            status.tx.bytes.to_string(),
            status.rekeys.to_string(),
            status.rollbacks.to_string(),
        ],
    );
    table.port(&status.port);
    table.port_counts(&status.port);
    table.counts("agent", &status.name, "drop", &status.drops);
    table.0
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn list<T: ToString>(values: &[T]) -> String {
    let words: Vec<_> = values.iter().map(ToString::to_string).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::tests::example;

    #[test]
    fn a_dump_has_the_columns_it_documents_and_no_others() {
        let mut status = example();
        status.workstations[0].drops.insert("no_session".into(), 4);
        for line in gateway(&status).lines() {
            let mut columns = line.split('\t');
            let kind = columns.next().unwrap();
            let (_, documented) = COLUMNS.iter().find(|(name, _)| *name == kind).unwrap();
            // "packets and bytes" are two, and a parenthesis or a second sentence is none.
            let documented = documented.split(". ").next().unwrap();
            let documented = documented
                .split([',', ';'])
                .filter(|column| !["port", " pin or workstation", " agent"].contains(column))
                .map(|column| 1 + column.matches("packets and bytes").count())
                .sum::<usize>();
            let expected = match kind {
                "count" => 5,
                _ => documented,
            };
            assert_eq!(columns.count(), expected, "{line}");
        }
    }

    /// What scripts rely on: this test is changed by adding columns at the end, never otherwise.
    #[test]
    fn columns_stay_where_they_are() {
        let mut status = example();
        status.workstations.truncate(1);
        status.ports[0].verdicts.remove("foreign");
        assert_eq!(
            gateway(&status),
            "\
gateway\t0.1.0\t3700\taws-lc-rs\t1\tportcullis0\t-\t-
port\teth1\ttunnel\tup\t02:00:00:00:00:01\tnative\t0\t1\t1234567\t3000\t0\t0
workstation\talpha\tin session\t-\t10.152.152.11\teth1\ttcp/9050,any@beta\tencrypt\taes-256-gcm\t61\t02:00:00:00:00:02\t61\t10\t5000000000\t0\t0\t0\t0\t0
count\tport\teth1\tverdict\tadmitted\t1234567
count\tport\teth1\tverdict\tbad_tag\t3000
warning\tmind this
"
        );
    }
}
