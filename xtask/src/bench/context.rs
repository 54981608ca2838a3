//! What every suite is given: the options, the progress shown, and where its figures go.

use std::time::SystemTime;

use anyhow::Result;
use portcullis_benches::figure::{Figure, Provenance};
use portcullis_benches::machine;
use portcullis_benches::progress::{Progress, Task};

use super::encapsulation::Encapsulation;
use super::options::Options;

/// A run of the instrument.
#[derive(Debug)]
pub struct Bench {
    options: Options,
    progress: Progress,
    provenance: Provenance,
    figures: Vec<Figure>,
}

impl Bench {
    /// A run with nothing measured yet.
    pub(super) fn new(options: Options) -> Self {
        let provenance = Provenance {
            command: options.command(),
            machine: machine::describe(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        };
        Self {
            options,
            progress: Progress::new(),
            provenance,
            figures: Vec::new(),
        }
    }

    /// Whether everything together must be done in five minutes.
    pub fn quick(&self) -> bool {
        self.options.quick
    }

    /// What is around the tunnel's frames.
    pub fn encapsulation(&self) -> Encapsulation {
        self.options.encapsulation
    }

    /// How many times each thing is measured: what the user said, else one of these.
    pub fn runs(&self, quick: u32, full: u32) -> u32 {
        let usual = if self.quick() { quick } else { full };
        self.options.runs.unwrap_or(usual)
    }

    /// How long each measurement takes: what the user said, else one of these.
    pub fn seconds(&self, quick: u32, full: u32) -> u32 {
        let usual = if self.quick() { quick } else { full };
        self.options.seconds.unwrap_or(usual)
    }

    /// Begins something of `steps` steps that takes more than a second.
    pub fn task(&self, what: &str, steps: u64) -> Task {
        self.progress.task(what, steps)
    }

    /// Keeps a figure; it is printed at the end of its suite.
    pub fn record(&mut self, figure: Figure) {
        self.figures.push(figure.at(&self.provenance));
    }

    /// Makes a figure of all samples and keeps it; gives the median. `method` says in a phrase how
    /// they were measured: what a reader must know to do it again.
    ///
    /// # Errors
    /// When there is no sample, or one that is no number.
    pub fn measured(
        &mut self,
        metric: impl Into<String>,
        unit: &str,
        samples: &[f64],
        bound: Option<f64>,
        method: &str,
    ) -> Result<f64> {
        let figure = Figure::of(metric, unit, samples, bound, method)?;
        let value = figure.value;
        self.record(figure);
        Ok(value)
    }

    /// All figures so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Command, machine and time of this run.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }
}
