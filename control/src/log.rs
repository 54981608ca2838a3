//! The programs' log, on standard error: for the journal under systemd, for people on a terminal, as JSON
//! where that is asked for.
//!
//! Each message is written at most so often ([`AT_ONCE`], [`A_SECOND`]); how many like it were held back
//! stands with the next that is written. Whatever stands in a message, it is one line, and no control
//! character of it reaches a terminal.

use crate::show;
use nix::sys::stat::fstat;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// So many of one message are written at once.
pub const AT_ONCE: f64 = 200.0;
/// So many of one message are written a second.
pub const A_SECOND: f64 = 10.0;

/// How the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// For the journal where standard error leads there, else as text.
    #[default]
    Auto,
    /// A line with the time for people.
    Text,
    /// A line with its priority in front, which the journal takes away. It has its own time.
    Journal,
    /// An object a line.
    Json,
}

/// The environment variable that hands the format on to a daemon's helper.
pub const FORMAT: &str = "PORTCULLIS_LOG_FORMAT";

impl Format {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Text => "text",
            Format::Journal => "journal",
            Format::Json => "json",
        }
    }

    /// The one that was handed on.
    pub fn of_environment() -> Self {
        let name = std::env::var(FORMAT).unwrap_or_default();
        [Format::Text, Format::Journal, Format::Json]
            .into_iter()
            .find(|format| format.name() == name)
            .unwrap_or_default()
    }
}

/// Starts the log, at `info` unless `RUST_LOG` says otherwise. A second call, in one process, changes
/// nothing.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let format = match format {
        Format::Auto if leads_to_the_journal() => Format::Journal,
        Format::Auto => Format::Text,
        other => other,
    };
    let lines = Lines {
        format,
        colours: show::colours(&io::stderr()),
        written: Mutex::default(),
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .event_format(lines)
        .try_init();
}

/// Whether standard error is the stream that systemd has made for the journal.
fn leads_to_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let file = fstat(io::stderr());
    file.is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Writes events as lines.
struct Lines {
    format: Format,
    colours: bool,
    written: Mutex<HashMap<Identifier, Written>>,
}

/// How often a message was written.
struct Written {
    left: f64,
    at: Instant,
    held_back: u64,
}

impl Lines {
    /// Whether a message may be written now; then how many like it were held back before.
    fn admit(&self, message: Identifier, now: Instant) -> Option<u64> {
        let mut all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as there are places in the program that log.
        let written = all.entry(message).or_insert(Written {
            left: AT_ONCE,
            at: now,
            held_back: 0,
        });
        let passed = now.saturating_duration_since(written.at).as_secs_f64();
        written.left = (written.left + passed * A_SECOND).min(AT_ONCE);
        written.at = now;
        if written.left < 1.0 {
            written.held_back += 1;
            return None;
        }
        written.left -= 1.0;
        Some(std::mem::take(&mut written.held_back))
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            // What the bridge from the log crate adds.
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let Some(held_back) = self.admit(metadata.callsite(), Instant::now()) else {
            return Ok(());
        };
        let mut said = Said::default();
        event.record(&mut said);
        if held_back > 0 {
            said.fields.push(("held_back", held_back.into()));
        }
        let level = *metadata.level();
        match self.format {
            Format::Json => writeln!(writer, "{}", json(level, said)),
            Format::Journal => writeln!(writer, "<{}>{}", priority(level), text(&said)),
            Format::Text | Format::Auto => {
                let time = crate::workstation::now_precisely();
                match self.colours {
                    true => {
                        let colour = colour(level);
                        let text = text(&said);
                        writeln!(
                            writer,
                            "\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {text}"
                        )
                    }
                    false => writeln!(writer, "{time} {level:>5} {}", text(&said)),
                }
            }
        }
    }
}

/// As syslog numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 34,
    }
}

fn json(level: Level, said: Said) -> Value {
    let mut object = Map::new();
    object.insert("at".into(), crate::workstation::now_precisely().into());
    object.insert("level".into(), level.as_str().to_lowercase().into());
    object.insert("message".into(), said.message.into());
    for (name, value) in said.fields {
        object.insert(name.into(), value);
    }
    object.into()
}

/// One line: what happened, to what, and last what to do.
fn text(said: &Said) -> String {
    let mut line = plain(&said.message);
    let is_remedy = |name: &str| name == "remedy";
    for (name, value) in said.fields.iter().filter(|(name, _)| !is_remedy(name)) {
        let _ = match value {
            Value::String(text) => write!(line, " {name}={}", quoted(text)),
            other => write!(line, " {name}={other}"),
        };
    }
    for (_, value) in said.fields.iter().filter(|(name, _)| is_remedy(name)) {
        let _ = write!(line, "; {}", plain(value.as_str().unwrap_or_default()));
    }
    line
}

/// In quotes where it is not one word.
fn quoted(text: &str) -> String {
    let word = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    match !text.is_empty() && text.chars().all(word) {
        true => text.to_owned(),
        false => format!("\"{}\"", plain(text).replace('"', "'")),
    }
}

/// Without control characters.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::subscriber::with_default;

    /// Where a test's log goes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when `body` logs.
    fn written(format: Format, body: impl FnOnce()) -> String {
        let to = Written::default();
        let made = to.clone();
        let lines = Lines {
            format,
            colours: false,
            written: Mutex::default(),
        };
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || made.clone())
            .event_format(lines)
            .finish();
        with_default(subscriber, body);
        String::from_utf8(to.0.lock().unwrap().clone()).unwrap()
    }

    fn speak() {
        let remedy = "make room on that file system";
        tracing::error!(
            port = "eth1",
            tried = "to\nforge <3>",
            count = 3,
            remedy,
            "a port \x1b[31mfailed"
        );
    }

    #[test]
    fn each_format_is_one_line_that_says_what_happened_to_what_and_what_to_do() {
        let text = written(Format::Text, speak);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.ends_with("ERROR a port \\u{1b}[31mfailed port=eth1 tried=\"to\\nforge <3>\" count=3; make room on that file system\n"),
            "{text}"
        );
        let journal = written(Format::Journal, speak);
        assert!(journal.starts_with("<3>a port"), "{journal}");
        assert_eq!(journal.lines().count(), 1);
        assert!(written(Format::Journal, || tracing::info!("x")).starts_with("<6>x"));
        let json: Value = serde_json::from_str(&written(Format::Json, speak)).unwrap();
        assert_eq!(
            (&json["level"], &json["port"], &json["count"]),
            (&"error".into(), &"eth1".into(), &3.into())
        );
        assert_eq!(json["message"], "a port \u{1b}[31mfailed");
    }

    #[test]
    fn a_message_that_comes_too_often_is_held_back_and_counted_and_no_other_is() {
        let text = written(Format::Text, || {
            let repeat = |number: u64| tracing::warn!(number, "again");
            for number in 0..5000 {
                repeat(number);
            }
            tracing::warn!("another");
            let end = Instant::now() + std::time::Duration::from_millis(300);
            while Instant::now() < end {
                repeat(5000);
            }
        });
        let again = text.lines().filter(|line| line.contains("again")).count();
        assert!(
            (AT_ONCE as usize..AT_ONCE as usize + 60).contains(&again),
            "{again}"
        );
        assert!(text.contains("WARN another"));
        let told = |line: &str| line.contains("number=5000 held_back=");
        assert!(text.lines().any(told), "{text}");
    }
}
