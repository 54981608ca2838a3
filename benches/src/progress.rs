//! What is under way: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown in this run.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// As standard error can show it.
    pub fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
        }
    }

    /// Begins something of `steps` steps.
    pub fn task(self, what: &str, steps: u64) -> Task {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new(steps);
            let style = "  {what:<28!} [{bar:28}] {pos}/{len} {elapsed} {wide_msg}";
            let style = style.replace("{what:<28!}", &format!("{what:<28}"));
            if let Ok(style) = ProgressStyle::with_template(&style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() {
            eprintln!("  {what}");
        }
        Task { bar }
    }
}

/// Something under way; gone from the screen when dropped.
#[derive(Debug)]
pub struct Task {
    bar: Option<ProgressBar>,
}

impl Task {
    /// One step is about to be done: `what` it is.
    pub fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// One step is done.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Something worth a line of its own that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("    {line}")),
            None => eprintln!("    {line}"),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
