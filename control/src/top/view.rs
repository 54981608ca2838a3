//! Draws the screen. 80 columns and 24 rows are enough; what is wider or higher shows more.

use super::rates::{Key, Rates};
use super::screen::{Page, Row, Screen, filled};
use crate::api::{PortState, WorkstationStatus};
use crate::show::unit::{ago, count, duration};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use std::collections::VecDeque;

/// Columns that everything takes but a row's last column and its sparkline.
const FIXED: usize = 65;
/// The keys, on the last line.
const KEYS: &str = "  q quit  ? help  enter details  s sort  r reverse  / filter";

/// What a colour says; none of them with NO_COLOR.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Head,
    Good,
    Odd,
    Bad,
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match self {
            Self::Head => return Style::new().add_modifier(Modifier::BOLD),
            _ if plain => return Style::new(),
            Self::Plain => return Style::new(),
            Self::Faint => return Style::new().add_modifier(Modifier::DIM),
            Self::Good => Color::Green,
            Self::Odd => Color::Yellow,
            Self::Bad => Color::Red,
        };
        Style::new().fg(colour)
    }
}

fn span(text: impl Into<String>, tone: Tone) -> Span<'static> {
    Span::styled(text.into(), tone.style())
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Min(1),
        Constraint::Length(2),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header(screen)), head);
    match &screen.page {
        Page::All => table(frame, screen, body),
        Page::One(key) => one(frame, screen, key, body),
        Page::Help => frame.render_widget(Paragraph::new(help()), body),
    }
    frame.render_widget(Paragraph::new(footer(screen)), foot);
}

fn header(screen: &Screen) -> Vec<Line<'static>> {
    let status = &screen.status;
    let up = status
        .ports
        .iter()
        .filter(|p| p.state == PortState::Up)
        .count();
    let enabled = status.workstations.iter().filter(|one| one.enabled);
    let session = enabled.clone().filter(|one| one.session.is_some()).count();
    let mut first = vec![
        span(format!("{} {}", screen.program, status.version), Tone::Head),
        span(
            format!(
                "  up {}  engine {}  ports {up}/{}  in session {session}/{}",
                duration(status.started_seconds),
                status.engine,
                status.ports.len(),
                enabled.count(),
            ),
            Tone::Plain,
        ),
    ];
    if screen.paused {
        first.push(span("  PAUSED", Tone::Odd));
    }
    let mut sum = Rates::default();
    for row in screen.rows_unfiltered() {
        let rates = screen.meter.of(&row);
        match row {
            Key::Port(_) => sum.lost += rates.lost,
            Key::Workstation(_) => {
                sum.from.frames += rates.from.frames;
                sum.from.bits += rates.from.bits;
                sum.to.frames += rates.to.frames;
                sum.to.bits += rates.to.bits;
                sum.opened += rates.opened;
            }
        }
    }
    let drops = screen.drops();
    let dropped = drops.iter().fold(0.0, |sum, (_, rate)| sum + rate);
    let failed = drops
        .iter()
        .find(|(name, _)| name == "open_failed")
        .map_or(0.0, |(_, rate)| *rate);
    let second = vec![
        span(
            format!(
                "in {}/s {}bit/s   out {}/s {}bit/s   ",
                short(sum.from.frames),
                short(sum.from.bits),
                short(sum.to.frames),
                short(sum.to.bits),
            ),
            Tone::Plain,
        ),
        span(
            format!("dropped {}/s", short(dropped)),
            odd_if(dropped > 0.0),
        ),
        span("   ", Tone::Plain),
        span(
            format!("lost {}/s", short(sum.lost)),
            odd_if(sum.lost > 0.0),
        ),
    ];
    let aead = vec![span(
        format!(
            "AEAD opened {}/s  sealed {}/s  failed {}/s   ",
            short(sum.opened),
            short(sum.to.frames),
            short(failed)
        ),
        odd_if(failed > 0.0),
    )];
    vec![
        Line::from(first),
        Line::from(second),
        Line::from([aead, cores(screen)].concat()),
        Line::default(),
    ]
}

/// What each worker uses of its core, and the rest of the program of all.
fn cores(screen: &Screen) -> Vec<Span<'static>> {
    let (workers, others): (Vec<_>, Vec<_>) = screen
        .threads
        .iter()
        .partition(|thread| thread.name.starts_with("worker-"));
    if workers.is_empty() {
        return Vec::new();
    }
    let tone = |share: f64| match share {
        share if share > 0.9 => Tone::Odd,
        _ => Tone::Plain,
    };
    let mut spans = vec![span("cores", Tone::Faint)];
    for worker in workers {
        let number = worker.name.trim_start_matches("worker-");
        spans.push(span(
            format!(" {number}@{} {:.0}%", worker.core, worker.share * 100.0),
            tone(worker.share),
        ));
    }
    let rest = others.iter().fold(0.0, |sum, thread| sum + thread.share);
    spans.push(span(format!(" control {:.0}%", rest * 100.0), Tone::Plain));
    spans
}

fn table(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let width = usize::from(area.width);
    let rows = screen.rows();
    let selected = screen.selection();
    let mut lines: Vec<Line<'static>> = Vec::new();
    let mut at_line = 0;
    let mut head = None;
    for (at, row) in rows.iter().enumerate() {
        let is_port = matches!(row, Row::Port(_));
        if head != Some(is_port) {
            if head.is_some() {
                lines.push(Line::default());
            }
            lines.push(match is_port {
                true => Line::from(span(
                    format!(
                        "{:<17}{:<8}{:>9}{:>8}{:>8}{:>8}{:>7}{:>7}  ",
                        "PORT", "STATE", "LET IN/s", "bit/s", "OUT/s", "bit/s", "DROP/s", "LOST/s"
                    ),
                    Tone::Head,
                )),
                false => Line::from(span(
                    format!(
                        "{:<17}{:<9}{:>8}{:>8}{:>8}{:>8}{:>7}{:>5}  ",
                        "WORKSTATION", "STATE", "IN/s", "bit/s", "OUT/s", "bit/s", "DROP/s", "Q"
                    ),
                    Tone::Head,
                )),
            });
            head = Some(is_port);
        }
        let mut line = match row {
            Row::Port(port) => port_line(screen, port, width),
            Row::Workstation(one) => workstation_line(screen, one, width),
        };
        if at == selected {
            at_line = lines.len();
            line = line.patch_style(Style::new().add_modifier(Modifier::REVERSED));
        }
        lines.push(line);
    }
    if rows.is_empty() {
        lines.push(Line::from(match screen.filter.is_empty() {
            true => "There is nothing to show yet.".to_owned(),
            false => format!(
                "No port or Workstation has \"{}\" in its name.",
                screen.filter
            ),
        }));
    }
    // The selected row is always in sight.
    let height = usize::from(area.height);
    let skip = (at_line + 1).saturating_sub(height);
    frame.render_widget(
        Paragraph::new(lines).scroll((u16::try_from(skip).unwrap_or(u16::MAX), 0)),
        area,
    );
}

fn port_line(screen: &Screen, port: &crate::api::PortStatus, width: usize) -> Line<'static> {
    let rates = screen.meter.of(&Key::Port(port.interface.clone()));
    let state = match port.state {
        PortState::Up => ("up", Tone::Good),
        PortState::Down => ("down", Tone::Bad),
        PortState::Missing => ("missing", Tone::Bad),
    };
    let last = span(
        format!("{:>7}  ", short(rates.lost)),
        odd_if(rates.lost > 0.0),
    );
    row_line(&port.interface, state, &rates, last, width)
}

fn workstation_line(screen: &Screen, one: &WorkstationStatus, width: usize) -> Line<'static> {
    let rates = screen.meter.of(&Key::Workstation(one.name.clone()));
    let full = filled(one);
    let last = span(format!("{:>4.0}%  ", full * 100.0), odd_if(full > 0.8));
    row_line(&one.name, state(one), &rates, last, width)
}

/// A row of the table: what both kinds have, and the last column, which each has of its own.
fn row_line(
    name: &str,
    (state, tone): (&str, Tone),
    rates: &Rates,
    last: Span<'static>,
    width: usize,
) -> Line<'static> {
    let room = width.saturating_sub(FIXED + last.width());
    Line::from(vec![
        span(format!("{:<17}", cut(name, 16)), Tone::Plain),
        span(format!("{state:<9}"), tone),
        span(
            format!(
                "{:>8}{:>8}{:>8}{:>8}",
                short(rates.from.frames),
                short(rates.from.bits),
                short(rates.to.frames),
                short(rates.to.bits)
            ),
            Tone::Plain,
        ),
        span(
            format!("{:>7}", short(rates.dropped)),
            odd_if(rates.dropped > 0.0),
        ),
        last,
        span(spark(&rates.history, room), Tone::Faint),
    ])
}

fn odd_if(odd: bool) -> Tone {
    if odd { Tone::Odd } else { Tone::Plain }
}

fn state(one: &WorkstationStatus) -> (&'static str, Tone) {
    match (&one.broken, one.enabled, &one.session) {
        (Some(_), _, _) => ("broken", Tone::Bad),
        (None, false, _) => ("off", Tone::Faint),
        (None, true, None) => ("none", Tone::Odd),
        (None, true, Some(_)) => ("session", Tone::Good),
    }
}

fn one(frame: &mut Frame<'_>, screen: &Screen, key: &Key, area: Rect) {
    let rates = screen.meter.of(key);
    let width = usize::from(area.width);
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| {
        lines.push(Line::from(vec![
            span(format!("{name:<12}"), Tone::Faint),
            span(value, Tone::Plain),
        ]));
    };
    let status = &screen.status;
    match key {
        Key::Port(name) => {
            say("port", name.clone());
            if let Some(port) = status.ports.iter().find(|p| p.interface == *name) {
                let rings = match port.zero_copy {
                    Some(true) => "zero-copy",
                    Some(false) => "copy",
                    None => "no rings",
                };
                say(
                    "is",
                    format!(
                        "{} {}, {}, {} queues, {}",
                        format!("{:?}", port.state).to_lowercase(),
                        port.reason.clone().unwrap_or_default(),
                        port.xdp.as_deref().unwrap_or("no XDP"),
                        port.queues,
                        rings
                    ),
                );
                say("lets in", port.admission.name().to_owned());
                say("let in", format!("{}/s", short(rates.from.frames)));
                say("cable in", format!("{}bit/s", short(rates.from.bits)));
                say(
                    "cable out",
                    format!("{}/s {}bit/s", short(rates.to.frames), short(rates.to.bits)),
                );
                say(
                    "guarded",
                    format!("{} frames kept from leaving", count(port.guard_drops)),
                );
            }
        }
        Key::Workstation(name) => {
            say("workstation", name.clone());
            if let Some(one) = status.workstations.iter().find(|one| one.name == *name) {
                let session = match &one.session {
                    Some(session) => format!(
                        "{} {}, {} old, with {} on {}",
                        session.protection,
                        session.cipher,
                        duration(session.age_seconds),
                        session.peer,
                        one.port.as_deref().unwrap_or("?"),
                    ),
                    None => one.refused.clone().unwrap_or_else(|| "none".into()),
                };
                say("session", session);
                say(
                    "handshakes",
                    format!(
                        "last {}, {} rekeys",
                        ago(one.last_handshake_seconds),
                        count(one.rekeys)
                    ),
                );
                say(
                    "in / out",
                    format!(
                        "{}/s {}bit/s / {}/s {}bit/s",
                        short(rates.from.frames),
                        short(rates.from.bits),
                        short(rates.to.frames),
                        short(rates.to.bits)
                    ),
                );
                say(
                    "AEAD",
                    format!(
                        "opened {}/s, sealed {}/s",
                        short(rates.opened),
                        short(rates.to.frames)
                    ),
                );
                say(
                    "queue",
                    format!(
                        "{} of {} frames",
                        count(one.queue.waiting),
                        count(one.queue.limit)
                    ),
                );
            }
        }
    }
    let most = rates.history.iter().max().copied().unwrap_or(0);
    say(
        "frames/s",
        spark(&rates.history, width.saturating_sub(24)) + &format!("  top {}", short(most as f64)),
    );
    lines.push(Line::default());
    lines.push(Line::from(span(
        format!("{:<24}{:>14}{:>12}", "COUNTED", "IN ALL", "A SECOND"),
        Tone::Head,
    )));
    let counters = totals(screen, key);
    let mut counters: Vec<_> = counters.into_iter().filter(|(_, all)| *all > 0).collect();
    let each = |name: &str| rates.counters.get(name).copied().unwrap_or(0.0);
    counters.sort_by(|a, b| {
        each(&b.0)
            .total_cmp(&each(&a.0))
            .then(b.1.cmp(&a.1))
            .then(a.0.cmp(&b.0))
    });
    for (name, all) in counters {
        let drops = !crate::show::ADMITTED.contains(&name.as_str());
        let tone = match drops && each(&name) > 0.0 {
            true => Tone::Odd,
            false => Tone::Plain,
        };
        lines.push(Line::from(span(
            format!("{name:<24}{:>14}{:>12}", count(all), short(each(&name))),
            tone,
        )));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn totals(screen: &Screen, key: &Key) -> Vec<(String, u64)> {
    let status = &screen.status;
    let (first, second) = match key {
        Key::Port(name) => {
            let Some(port) = status.ports.iter().find(|p| p.interface == *name) else {
                return Vec::new();
            };
            (&port.verdicts, &port.ring_losses)
        }
        Key::Workstation(name) => {
            let Some(one) = status.workstations.iter().find(|one| one.name == *name) else {
                return Vec::new();
            };
            (&one.verdicts, &one.drops)
        }
    };
    let all = first.iter().chain(second);
    all.map(|(name, count)| (name.clone(), *count)).collect()
}

fn footer(screen: &Screen) -> Vec<Line<'static>> {
    let first = match (&screen.problem, screen.status.warnings.first()) {
        (Some(problem), _) => span(format!("no answer, trying again: {problem}"), Tone::Bad),
        (None, _) if screen.typing => span(format!("filter: {}_", screen.filter), Tone::Head),
        (None, warning) => {
            let drops = screen.drops();
            let words: Vec<_> = drops
                .iter()
                .map(|(name, rate)| format!("{name} {}/s", short(*rate)))
                .collect();
            match (words.is_empty(), warning) {
                (false, _) => span(format!("dropped: {}", words.join(", ")), Tone::Odd),
                (true, Some(warning)) => span(warning.clone(), Tone::Odd),
                (true, None) => span("nothing is dropped now", Tone::Faint),
            }
        }
    };
    let keys = match screen.page {
        Page::All => {
            let reversed = if screen.reversed { " reversed" } else { "" };
            let only = match screen.filter.is_empty() || screen.typing {
                true => String::new(),
                false => format!(", only {}", screen.filter),
            };
            format!(" by {}{reversed}{only} {KEYS}", screen.order.name())
        }
        Page::One(_) => " esc back  up/down the next  p pause  ? help".to_owned(),
        Page::Help => " esc back".to_owned(),
    };
    vec![
        Line::from(first),
        Line::from(Span::styled(
            keys,
            Style::new().add_modifier(Modifier::REVERSED),
        )),
    ]
}

fn help() -> Vec<Line<'static>> {
    const TEXT: &str = "\
 up, down, k, j      select a port or a Workstation
 enter, right        everything about it; esc, left back
 s                   sort by traffic, what is dropped, the queue, the name
 r                   turn the order round
 /                   show only names with these letters; esc gives that up
 p, space            stand still, and go on
 q, ctrl-c           quit

 IN is what comes from a Workstation, OUT what goes to it, without what the tunnel adds.
 DROP counts frames and packets of it that were dropped, by XDP or after it.
 LOST are frames that XDP let in and the rings had no room for.
 The bits of a port are those on its cable, with what is dropped.
 Q is how much of a Workstation's share of the rings is in use.
 cores: 0@2 34% is worker 0, last on core 2, which it used a third of.";
    TEXT.lines()
        .map(|line| Line::from(line.to_owned()))
        .collect()
}

/// A rate in four or five characters.
pub fn short(number: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = number;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, value) if value > 0.0 && value < 0.95 => format!("{value:.1}"),
        (0, value) => format!("{value:.0}"),
        (_, value) if value < 9.95 => format!("{value:.1}{}", UNITS[unit]),
        (_, value) => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// The latest rates as bars, as many as there is room for.
fn spark(history: &VecDeque<u64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown: Vec<u64> = history.iter().rev().take(width).rev().copied().collect();
    let most = shown.iter().max().copied().unwrap_or(0);
    let bars = shown.iter().map(|rate| match (*rate, most) {
        (0, _) | (_, 0) => ' ',
        (rate, most) => BARS[((u128::from(rate) * 7) / u128::from(most)) as usize],
    });
    bars.collect()
}

/// The beginning of a name that is too long for its column.
fn cut(name: &str, width: usize) -> String {
    match name.chars().count() > width {
        false => name.to_owned(),
        true => name.chars().take(width - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::tests::example;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content.chunks(usize::from(width));
        rows.map(|row| {
            let text: String = row.iter().map(|cell| cell.symbol()).collect();
            text.trim_end().to_owned()
        })
        .collect()
    }

    #[test]
    fn everything_is_in_sight_at_80_by_24() {
        let rows = drawn(&example(), 80, 24);
        let text = rows.join("\n");
        for part in [
            "portcullisd",
            "in session 0/3",
            "in 510/s 4.1Mbit/s",
            "AEAD opened 0/s  sealed 0/s  failed 0/s",
            "PORT",
            "eth1",
            "beta             none          500    4.0M       0       0      1   0%",
            "q quit",
            "by traffic",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(rows.iter().all(|row| row.chars().count() <= 80));
    }

    #[test]
    fn no_size_is_too_small_to_be_drawn() {
        let mut screen = example();
        for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 100)] {
            for page in [
                Page::All,
                Page::Help,
                Page::One(Key::Workstation("beta".into())),
                Page::One(Key::Port("eth1".into())),
                Page::One(Key::Port("gone".into())),
            ] {
                screen.page = page;
                assert_eq!(drawn(&screen, width, height).len(), usize::from(height));
            }
        }
    }

    #[test]
    fn the_selected_row_is_in_sight_however_many_there_are() {
        let mut screen = example();
        let one = screen.status.workstations[0].clone();
        screen.status.workstations = (0..100)
            .map(|number| WorkstationStatus {
                name: format!("ws{number:03}"),
                ..one.clone()
            })
            .collect();
        let press = |screen: &mut Screen, code| screen.key(KeyEvent::new(code, KeyModifiers::NONE));
        press(&mut screen, KeyCode::End);
        assert!(drawn(&screen, 80, 24).join("\n").contains("ws099"));
        press(&mut screen, KeyCode::Home);
        assert!(drawn(&screen, 80, 24).join("\n").contains("eth1"));
    }

    #[test]
    fn one_workstation_has_its_counters_with_their_rates() {
        let mut screen = example();
        screen.page = Page::One(Key::Workstation("lab".into()));
        let text = drawn(&screen, 80, 24).join("\n");
        assert!(text.contains("workstation lab"), "{text}");
        assert!(text.contains("replay"), "{text}");
        assert!(text.contains("600"), "{text}");
    }

    #[test]
    fn rates_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (0.4, "0.4"),
            (7.0, "7"),
            (999.0, "999"),
            (999.9, "1.0k"),
            (12_345.0, "12k"),
            (4_080_000.0, "4.1M"),
            (5e12, "5.0T"),
            (9e15, "9000T"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn bars_stand_for_the_latest_rates_and_nothing_for_none() {
        let history: VecDeque<u64> = [9, 0, 1, 4, 8].into();
        assert_eq!(spark(&history, 4), " ▁▄█");
        assert_eq!(spark(&history, 0), "");
        assert_eq!(spark(&[0, 0].into(), 4), "  ");
        assert_eq!(cut("a-very-long-name-indeed", 16), "a-very-long-nam…");
    }
}
