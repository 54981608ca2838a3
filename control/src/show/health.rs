//! Whether all is well, in one word, for monitoring and for whoever has one glance to spare.

use super::unit::{count, duration};
use super::{Colour, Painter, duration_of_session, reasons};
use crate::api::{AgentStatus, PortState, PortStatus, Status, WorkstationStatus};
use crate::choices::Admission;
use crate::problem::Problem;
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;

/// How well it is. The numbers are those that monitoring plugins exit with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Fine = 0,
    /// It works, and `doctor` may say what is not as it should be.
    Warning = 1,
    /// It does not do its work.
    Critical = 2,
    /// The daemon does not answer, or may not be asked.
    Unknown = 3,
}

impl Level {
    /// The program's exit code.
    pub fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }

    fn word(self) -> (&'static str, Colour) {
        match self {
            Self::Fine => ("OK", Colour::Good),
            Self::Warning => ("WARNING", Colour::Odd),
            Self::Critical => ("CRITICAL", Colour::Bad),
            Self::Unknown => ("UNKNOWN", Colour::Bad),
        }
    }
}

/// What is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// How bad it is.
    pub level: Level,
    /// What it is, and what to do.
    pub text: String,
}

/// How well it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The worst of the complaints.
    pub level: Level,
    /// In a few words.
    pub summary: String,
    /// The worst first.
    pub complaints: Vec<Complaint>,
}

impl Health {
    fn new(summary: String, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| std::cmp::Reverse(complaint.level));
        Self {
            level: complaints.first().map_or(Level::Fine, |worst| worst.level),
            summary,
            complaints,
        }
    }

    /// How well a Gateway is. The Workstations that are `required` must be in session; another may
    /// be switched off.
    pub fn of(status: &Status, required: &[String]) -> Self {
        let mut all = Complaints::default();
        status.ports.iter().for_each(|port| all.port(port));
        for one in &status.workstations {
            all.workstation(one, required.contains(&one.name));
        }
        for name in required {
            if !status.workstations.iter().any(|one| one.name == *name) {
                all.critical(format!(
                    "there is no Workstation {name} (portcullis workstation list)"
                ));
            }
        }
        for warning in &status.warnings {
            all.warning(warning.clone());
        }
        let up = status.ports.iter().filter(|p| p.state == PortState::Up);
        let enabled = status.workstations.iter().filter(|one| one.enabled);
        let session = enabled.clone().filter(|one| one.session.is_some());
        let summary = format!(
            "{} of {} ports up, {} of {} Workstations in session",
            up.count(),
            status.ports.len(),
            session.count(),
            enabled.count(),
        );
        Self::new(summary, all.0)
    }

    /// How well an agent is: it is there to be in session.
    pub fn of_agent(status: &AgentStatus) -> Self {
        let mut all = Complaints::default();
        all.port(&status.port);
        if status.session.is_none() {
            let why = match &status.last_error {
                Some(error) => format!("the last thing that went wrong: {error}"),
                None => {
                    "no Gateway has answered yet; see that portcullisd runs, and that the cable is in or its UDP port within reach"
                        .into()
                }
            };
            all.critical(format!("no session with the Gateway: {why}"));
        }
        let summary = match &status.session {
            Some(session) => format!(
                "{} in session for {}, {} {}",
                status.name,
                duration(session.age_seconds),
                session.protection,
                session.cipher
            ),
            None => format!("{} has no session", status.name),
        };
        Self::new(summary, all.0)
    }

    /// It is not known how well it is.
    pub fn unknown(problem: &Problem) -> Self {
        let remedy = Complaint {
            level: Level::Unknown,
            text: problem.remedy.clone(),
        };
        Self::new(problem.to_string(), vec![remedy])
    }

    /// One screen: the verdict, what is not well, and what there is.
    pub fn text(&self, rest: &str, colours: bool) -> String {
        let painter = Painter { on: colours };
        let (word, colour) = self.level.word();
        let mut text = format!("{}: {}\n", painter.paint(word, colour), self.summary);
        for complaint in &self.complaints {
            let colour = complaint.level.word().1;
            let _ = writeln!(text, "  {} {}", painter.paint("!", colour), complaint.text);
        }
        if !rest.is_empty() {
            let _ = write!(text, "\n{rest}");
        }
        text
    }
}

#[derive(Default)]
struct Complaints(Vec<Complaint>);

impl Complaints {
    fn critical(&mut self, text: String) {
        self.0.push(Complaint {
            level: Level::Critical,
            text,
        });
    }

    fn warning(&mut self, text: String) {
        self.0.push(Complaint {
            level: Level::Warning,
            text,
        });
    }

    fn port(&mut self, port: &PortStatus) {
        let name = &port.interface;
        let why = port.reason.clone().unwrap_or_default();
        match port.state {
            PortState::Up => {}
            PortState::Down => self.critical(format!("port {name} is down: {why}")),
            PortState::Missing => self.critical(format!(
                "port {name} is missing: there is no such interface now; plug it in, and it is served again"
            )),
        }
        if port.admission == Admission::Open {
            self.warning(format!(
                "port {name} is open: whoever is cabled to it reaches the Gateway's kernel"
            ));
        }
    }

    fn workstation(&mut self, one: &WorkstationStatus, required: bool) {
        let name = &one.name;
        if let Some(broken) = &one.broken {
            self.warning(format!(
                "Workstation {name} is not served: {}; {}",
                broken.error, broken.remedy
            ));
        }
        if let Some(refused) = &one.refused {
            self.warning(format!("Workstation {name}: {refused}"));
        }
        if one.clone_suspected {
            self.warning(format!(
                "two machines seem to have the keys of Workstation {name}: portcullis workstation rotate \
                 {name} --keep-old 0, and give the new ones to one machine"
            ));
        }
        if one
            .drops
            .get("nonce_reused")
            .is_some_and(|count| *count > 0)
        {
            self.warning(format!(
                "Workstation {name} has sealed two frames with one nonce: it was rolled back, or is a clone: \
                 portcullis workstation set {name} --cipher aes-256-gcm-siv, or vm_generation in its agent.toml"
            ));
        }
        if required && one.session.is_none() {
            let since = match one.last_handshake_seconds {
                Some(seconds) => format!("its last handshake was {} ago", duration(seconds)),
                None => "it has not been heard yet".into(),
            };
            self.critical(format!("Workstation {name} is not in session: {since}"));
        }
    }
}

/// A line for each port and each Workstation, so that a screen holds them.
pub fn brief(status: &Status, colours: bool) -> String {
    let painter = Painter { on: colours };
    let mut text = String::new();
    for port in &status.ports {
        let (state, colour) = super::port_state(port);
        let _ = write!(
            text,
            "port {:<12} {}",
            port.interface,
            painter.paint(&format!("{state:<8}"), colour)
        );
        let _ = writeln!(
            text,
            "  admitted {}{}",
            count(super::admitted(&port.verdicts)),
            also(port)
        );
    }
    const MOST: usize = 15;
    for one in status.workstations.iter().take(MOST) {
        let (state, colour) = super::workstation_state(one);
        let _ = writeln!(
            text,
            "{:<17} {}  {}",
            one.name,
            painter.paint(&format!("{state:<10}"), colour),
            duration_of_session(one),
        );
    }
    if let Some(more) = status
        .workstations
        .len()
        .checked_sub(MOST)
        .filter(|n| *n > 0)
    {
        let _ = writeln!(text, "and {more} more (portcullis workstation list)");
    }
    text
}

fn also(port: &PortStatus) -> String {
    let words = [
        reasons("dropped", &port.verdicts),
        reasons("lost", &port.ring_losses),
    ];
    let words = words.into_iter().flatten();
    words.fold(String::new(), |text, word| text + ", " + &word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::tests::example;

    fn healthy() -> Status {
        let mut status = example();
        status.warnings.clear();
        status.workstations.truncate(1);
        status
    }

    #[test]
    fn what_is_well_is_fine_and_says_so_first() {
        let health = Health::of(&healthy(), &["alpha".into()]);
        assert_eq!(health.level, Level::Fine);
        assert_eq!(
            health.text("", false),
            "OK: 1 of 1 ports up, 1 of 1 Workstations in session\n"
        );
    }

    #[test]
    fn each_thing_that_is_not_well_is_told_and_the_worst_decides() {
        type Breaks = fn(&mut Status);
        let cases: [(Breaks, Level, &str); 8] = [
            (|s| s.warnings.push("mind".into()), Level::Warning, "mind"),
            (
                |s| s.ports[0].state = PortState::Missing,
                Level::Critical,
                "port eth1 is missing",
            ),
            (
                |s| {
                    s.ports[0].state = PortState::Down;
                    s.ports[0].reason = Some("no carrier".into());
                },
                Level::Critical,
                "port eth1 is down: no carrier",
            ),
            (
                |s| s.ports[0].admission = Admission::Open,
                Level::Warning,
                "port eth1 is open",
            ),
            (
                |s| s.workstations[0].session = None,
                Level::Critical,
                "alpha is not in session",
            ),
            (
                |s| s.workstations[0].clone_suspected = true,
                Level::Warning,
                "two machines",
            ),
            (
                |s| _ = s.workstations[0].drops.insert("nonce_reused".into(), 1),
                Level::Warning,
                "two frames with one nonce",
            ),
            (
                |s| s.workstations.clear(),
                Level::Critical,
                "there is no Workstation alpha",
            ),
        ];
        for (break_it, level, text) in cases {
            let mut status = healthy();
            break_it(&mut status);
            let health = Health::of(&status, &["alpha".into()]);
            assert_eq!(health.level, level, "{health:?}");
            assert!(health.complaints[0].text.contains(text), "{health:?}");
            // With something worse beside it, that comes first.
            status.ports.push(PortStatus {
                state: PortState::Missing,
                ..PortStatus::default()
            });
            let health = Health::of(&status, &["alpha".into()]);
            assert_eq!(health.level, Level::Critical);
            assert_eq!(health.complaints[0].level, Level::Critical);
        }
    }

    #[test]
    fn a_workstation_that_is_switched_off_is_no_complaint_unless_required() {
        let mut status = healthy();
        status.workstations[0].session = None;
        assert_eq!(Health::of(&status, &[]).level, Level::Fine);
    }

    #[test]
    fn an_agent_without_a_session_is_critical() {
        let mut status = AgentStatus::default();
        status.port.state = PortState::Up;
        assert_eq!(Health::of_agent(&status).level, Level::Critical);
        status.session = Some(crate::api::SessionStatus::default());
        assert_eq!(Health::of_agent(&status).level, Level::Fine);
    }

    #[test]
    fn one_screen_holds_it_whatever_the_number_of_workstations() {
        let mut status = healthy();
        let one = status.workstations[0].clone();
        status.workstations = vec![one; 64];
        let text = Health::of(&status, &[]).text(&brief(&status, false), false);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.contains("and 49 more"), "{text}");
    }
}
