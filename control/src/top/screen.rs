//! What is on the screen: the latest look, what is selected, sorted and filtered, and what keys do.

use super::rates::{Key, Meter, Rates};
use super::threads::Use;
use crate::api::{PortStatus, Status, WorkstationStatus};
use crate::problem::Problem;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::BTreeMap;
use std::time::Instant;

/// What the Workstations are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The busiest first.
    #[default]
    Traffic,
    /// Those of whom most is dropped first.
    Dropped,
    /// Those whose queue is fullest first.
    Queue,
    /// By name.
    Name,
}

impl Order {
    const ALL: [Self; 4] = [Self::Traffic, Self::Dropped, Self::Queue, Self::Name];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Dropped => "dropped",
            Self::Queue => "queue",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Everything.
    All,
    /// One port or Workstation.
    One(Key),
    /// The keys.
    Help,
}

/// A port or a Workstation of the latest look.
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
    /// A port.
    Port(&'a PortStatus),
    /// A Workstation.
    Workstation(&'a WorkstationStatus),
}

impl Row<'_> {
    /// Its key.
    pub fn key(&self) -> Key {
        match self {
            Self::Port(port) => Key::Port(port.interface.clone()),
            Self::Workstation(one) => Key::Workstation(one.name.clone()),
        }
    }
}

/// The screen without a terminal.
pub struct Screen {
    /// The daemon's program.
    pub program: &'static str,
    /// The latest status.
    pub status: Status,
    /// Why there is no newer one.
    pub problem: Option<Problem>,
    /// What the daemon's threads use.
    pub threads: Vec<Use>,
    /// The rates.
    pub meter: Meter,
    /// What is shown.
    pub page: Page,
    /// What the Workstations are sorted by.
    pub order: Order,
    /// Whether the order is turned round.
    pub reversed: bool,
    /// Only Workstations and ports with this in their name.
    pub filter: String,
    /// Whether the filter is being typed.
    pub typing: bool,
    /// Whether it stands still.
    pub paused: bool,
    /// Who is selected; the first when none is.
    selected: Option<Key>,
}

impl Screen {
    /// An empty one.
    pub fn new(program: &'static str) -> Self {
        Self {
            program,
            status: Status::default(),
            problem: None,
            threads: Vec::new(),
            meter: Meter::default(),
            page: Page::All,
            order: Order::default(),
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            selected: None,
        }
    }

    /// Takes a look. While it stands still the rates go on, and are not shown.
    pub fn take(&mut self, at: Instant, answer: Result<Status, Problem>, threads: Vec<Use>) {
        if self.paused {
            return;
        }
        match answer {
            Ok(status) => {
                self.meter.take(at, &status);
                self.status = status;
                self.threads = threads;
                self.problem = None;
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// The ports, then the Workstations in their order, as far as the filter lets them.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let shown = |name: &str| name.contains(&self.filter);
        let ports = self.status.ports.iter();
        let mut rows: Vec<Row<'_>> = ports
            .filter(|port| shown(&port.interface))
            .map(Row::Port)
            .collect();
        let all = self.status.workstations.iter();
        let mut all: Vec<_> = all.filter(|one| shown(&one.name)).collect();
        let key = |one: &WorkstationStatus| {
            let rates = self.meter.of(&Key::Workstation(one.name.clone()));
            match self.order {
                Order::Traffic => rates.from.frames + rates.to.frames,
                Order::Dropped => rates.dropped,
                Order::Queue => filled(one),
                Order::Name => 0.0,
            }
        };
        // The greatest first, and by name where they are the same.
        all.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.name.cmp(&b.name)));
        if self.reversed {
            all.reverse();
        }
        rows.extend(all.into_iter().map(Row::Workstation));
        rows
    }

    /// All of them, whatever the filter says.
    pub fn rows_unfiltered(&self) -> impl Iterator<Item = Key> + '_ {
        let ports = self.status.ports.iter().map(Row::Port);
        let all = self.status.workstations.iter().map(Row::Workstation);
        ports.chain(all).map(|row| row.key())
    }

    /// Which of the rows is selected.
    pub fn selection(&self) -> usize {
        let rows = self.rows();
        let found = rows.iter().position(|row| Some(row.key()) == self.selected);
        found.unwrap_or(0)
    }

    /// What is dropped, by reason, in a second, the most first.
    pub fn drops(&self) -> Vec<(String, f64)> {
        let mut all: BTreeMap<String, f64> = BTreeMap::new();
        // A verdict on a Workstation's frame is one of the port's too.
        for row in self.status.ports.iter().map(Row::Port) {
            add(&mut all, &self.meter.of(&row.key()), |_| true);
        }
        for one in &self.status.workstations {
            let rates = self.meter.of(&Row::Workstation(one).key());
            add(&mut all, &rates, |name| one.drops.contains_key(name));
        }
        let mut drops: Vec<_> = all.into_iter().filter(|(_, rate)| *rate > 0.0).collect();
        drops.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        drops
    }

    /// Does what a key stands for. True when it is the end.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return true;
        }
        if self.typing {
            self.type_filter(key.code);
            return false;
        }
        match (&self.page, key.code) {
            (Page::All, KeyCode::Char('q') | KeyCode::Esc) if self.filter.is_empty() => {
                return true;
            }
            (_, KeyCode::Char('q')) if self.page == Page::All => return true,
            (Page::All, KeyCode::Esc) => self.filter.clear(),
            (Page::Help | Page::One(_), KeyCode::Esc | KeyCode::Left | KeyCode::Backspace)
            | (Page::Help | Page::One(_), KeyCode::Char('q' | 'h')) => self.page = Page::All,
            (_, KeyCode::Char('?')) => self.page = Page::Help,
            (_, KeyCode::Char('p' | ' ')) => self.paused = !self.paused,
            (Page::All, KeyCode::Char('s')) => self.order = self.order.next(),
            (Page::All, KeyCode::Char('r')) => self.reversed = !self.reversed,
            (Page::All, KeyCode::Char('/')) => self.typing = true,
            (_, KeyCode::Up | KeyCode::Char('k')) => self.step(-1),
            (_, KeyCode::Down | KeyCode::Char('j')) => self.step(1),
            (_, KeyCode::PageUp) => self.step(-10),
            (_, KeyCode::PageDown) => self.step(10),
            (_, KeyCode::Home) => self.step(isize::MIN),
            (_, KeyCode::End) => self.step(isize::MAX),
            (Page::All, KeyCode::Enter | KeyCode::Right | KeyCode::Char('l')) => {
                let key = self.rows().get(self.selection()).map(Row::key);
                if let Some(key) = key {
                    self.page = Page::One(key);
                }
            }
            _ => {}
        }
        false
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            // No longer than a name can be.
            KeyCode::Char(c) if self.filter.len() < 32 => self.filter.push(c),
            _ => {}
        }
    }

    fn step(&mut self, by: isize) {
        let rows: Vec<Key> = self.rows().iter().map(Row::key).collect();
        let Some(last) = rows.len().checked_sub(1) else {
            return;
        };
        let at = self.selection().saturating_add_signed(by).min(last);
        self.selected = Some(rows[at].clone());
        if let Page::One(key) = &mut self.page {
            key.clone_from(&rows[at]);
        }
    }
}

/// How full a Workstation's queue is, from 0 to 1.
pub fn filled(one: &WorkstationStatus) -> f64 {
    match one.queue.limit {
        0 => 0.0,
        limit => one.queue.waiting as f64 / limit as f64,
    }
}

fn add(all: &mut BTreeMap<String, f64>, rates: &Rates, wanted: impl Fn(&str) -> bool) {
    for (name, rate) in &rates.counters {
        if wanted(name) && !crate::show::ADMITTED.contains(&name.as_str()) {
            *all.entry(name.clone()).or_default() += rate;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::Traffic;
    use std::time::Duration;

    fn press(screen: &mut Screen, codes: &[KeyCode]) -> bool {
        let mut ended = false;
        for code in codes {
            ended = screen.key(KeyEvent::new(*code, KeyModifiers::NONE));
        }
        ended
    }

    fn status(second: u64) -> Status {
        let one = |name: &str, each: u64, replayed: u64| {
            let mut one = WorkstationStatus {
                name: name.into(),
                enabled: true,
                rx: Traffic {
                    packets: each * second,
                    bytes: each * second * 1000,
                },
                ..WorkstationStatus::default()
            };
            one.verdicts.insert("replay".into(), replayed * second);
            one
        };
        Status {
            started_seconds: second,
            ports: vec![PortStatus {
                interface: "eth1".into(),
                ..PortStatus::default()
            }],
            workstations: vec![one("alpha", 10, 0), one("beta", 500, 1), one("lab", 0, 300)],
            ..Status::default()
        }
    }

    pub(in crate::top) fn example() -> Screen {
        let mut screen = Screen::new("portcullisd");
        let start = Instant::now();
        for second in 0..3 {
            screen.take(
                start + Duration::from_secs(second),
                Ok(status(second)),
                Vec::new(),
            );
        }
        screen
    }

    fn names(screen: &Screen) -> Vec<String> {
        let rows = screen.rows();
        rows.iter()
            .map(|row| match row.key() {
                Key::Port(name) | Key::Workstation(name) => name,
            })
            .collect()
    }

    #[test]
    fn workstations_are_sorted_as_asked_and_ports_stay_first() {
        let mut screen = example();
        assert_eq!(names(&screen), ["eth1", "beta", "alpha", "lab"]);
        press(&mut screen, &[KeyCode::Char('s')]);
        assert_eq!(screen.order, Order::Dropped);
        assert_eq!(names(&screen), ["eth1", "lab", "beta", "alpha"]);
        press(&mut screen, &[KeyCode::Char('s'), KeyCode::Char('s')]);
        assert_eq!(names(&screen), ["eth1", "alpha", "beta", "lab"]);
        press(&mut screen, &[KeyCode::Char('r')]);
        assert_eq!(names(&screen), ["eth1", "lab", "beta", "alpha"]);
    }

    #[test]
    fn a_filter_is_typed_kept_and_given_up() {
        let mut screen = example();
        press(&mut screen, &[KeyCode::Char('/'), KeyCode::Char('b')]);
        assert_eq!(names(&screen), ["beta", "lab"]);
        // q is a letter of the filter, and no end.
        assert!(!press(&mut screen, &[KeyCode::Char('q')]));
        assert!(names(&screen).is_empty());
        press(&mut screen, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!(names(&screen), ["beta", "lab"]);
        assert!(
            !press(&mut screen, &[KeyCode::Esc]),
            "it gives the filter up"
        );
        assert_eq!(names(&screen).len(), 4);
        assert!(press(&mut screen, &[KeyCode::Esc]), "and then it ends");
    }

    #[test]
    fn one_goes_into_the_selected_row_and_back_and_selection_follows_the_name() {
        let mut screen = example();
        press(&mut screen, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!(screen.page, Page::One(Key::Workstation("beta".into())));
        assert!(!press(&mut screen, &[KeyCode::Char('q')]));
        assert_eq!(screen.page, Page::All);
        // Sorted otherwise, the same Workstation is selected.
        press(&mut screen, &[KeyCode::Char('s')]);
        assert_eq!(names(&screen)[screen.selection()], "beta");
        press(&mut screen, &[KeyCode::End]);
        assert_eq!(screen.selection(), 3);
        press(&mut screen, &[KeyCode::Down, KeyCode::PageDown]);
        assert_eq!(screen.selection(), 3);
        press(&mut screen, &[KeyCode::Home]);
        assert_eq!(screen.selection(), 0);
        assert!(press(&mut screen, &[KeyCode::Char('q')]));
    }

    #[test]
    fn what_stands_still_takes_nothing_and_a_problem_leaves_what_there_was() {
        let mut screen = example();
        press(&mut screen, &[KeyCode::Char('p')]);
        screen.take(Instant::now(), Ok(Status::default()), Vec::new());
        assert_eq!(screen.status.workstations.len(), 3);
        press(&mut screen, &[KeyCode::Char('p')]);
        let problem = Problem::new(crate::problem::Kind::Unavailable, "a", "b", "c");
        screen.take(Instant::now(), Err(problem), Vec::new());
        assert!(screen.problem.is_some());
        assert_eq!(screen.status.workstations.len(), 3);
    }

    #[test]
    fn drops_are_counted_once_whoever_counts_them() {
        let mut screen = example();
        assert_eq!(
            screen.drops(),
            [],
            "what the ports counted is what is shown"
        );
        let start = Instant::now();
        let mut look = |second: u64| {
            let mut status = status(second);
            status.ports[0]
                .verdicts
                .insert("replay".into(), 301 * second);
            status.workstations[0]
                .drops
                .insert("policy_denied".into(), 7 * second);
            screen.take(start + Duration::from_secs(second), Ok(status), Vec::new());
        };
        (0..3).for_each(&mut look);
        assert_eq!(
            screen.drops(),
            [
                ("replay".to_owned(), 301.0),
                ("policy_denied".to_owned(), 7.0)
            ]
        );
    }

    #[test]
    fn control_c_is_the_end_wherever_one_is() {
        let mut screen = example();
        press(&mut screen, &[KeyCode::Char('/')]);
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(screen.key(key));
    }
}
