//! The worker on kinds of traffic, in turns, each beside the AEAD alone on the same sizes, keys and number
//! of sessions: what is left to gain.

use std::time::Duration;

use anyhow::Result;
use dataplane::engine::Engine;

use crate::figure::{Figure, median};
use crate::pipeline::{Pipeline, Traffic, Way, aead_alone};
use crate::progress::Task;

/// One kind of traffic one way, and what was measured of it.
#[derive(Debug)]
pub struct Case {
    name: String,
    traffic: Traffic,
    way: Way,
    /// Nanoseconds a frame, through the worker and of the AEAD alone.
    whole: Vec<f64>,
    alone: Vec<f64>,
}

impl Case {
    /// Nothing is measured yet. The name is what its metrics are told from others by.
    pub fn new(name: &str, traffic: Traffic, way: Way) -> Self {
        Self {
            name: format!("{}.{name}", direction(way)),
            traffic,
            way,
            whole: Vec::new(),
            alone: Vec::new(),
        }
    }

    /// Which way, and the name it was given: `open.NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Frames and bits a second through the worker, `pipeline.open.NAME.mpps` and `.gbps`. Bound: the AEAD
    /// alone.
    ///
    /// # Errors
    /// When nothing was measured.
    pub fn rates(&self, method: &str) -> Result<[Figure; 2]> {
        let bound = median(&self.alone);
        let sizes = &self.traffic.sizes;
        let bits = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64 * 8.0;
        let figure = |metric: &str, unit: &str, per: f64| {
            let rates: Vec<f64> = self.whole.iter().map(|ns| per / ns).collect();
            let metric = format!("pipeline.{}.{metric}", self.name);
            Figure::of(metric, unit, &rates, Some(per / bound), method)
        };
        Ok([
            figure("mpps", "Mpps", 1e3)?,
            figure("gbps", "Gbit/s", bits)?,
        ])
    }

    /// Nanoseconds of the AEAD alone, `aead.open.NAME.ns`.
    ///
    /// # Errors
    /// When nothing was measured.
    pub fn aead(&self, method: &str) -> Result<Figure> {
        let metric = format!("aead.{}.ns", self.name);
        Figure::of(metric, "ns", &self.alone, None, method)
    }
}

fn direction(way: Way) -> &'static str {
    match way {
        Way::Open => "open",
        Way::Seal => "seal",
    }
}

/// Measures each case for `time` in each of so many rounds; a step of the task is a case of a round. How it
/// was measured, in a phrase.
pub fn measure(cases: &mut [Case], rounds: u32, time: Duration, task: &Task) -> String {
    for _ in 0..rounds {
        for case in &mut *cases {
            task.doing(&case.name);
            let mut pipeline = Pipeline::new(case.way, case.traffic.clone(), Engine::Auto);
            case.whole.extend(pipeline.run(time).nanoseconds);
            let alone = aead_alone(case.way, &case.traffic, Engine::Auto, time / 4);
            case.alone.extend(alone.nanoseconds);
            task.step();
        }
    }
    format!(
        "worker loop between rings in memory, one core, engine {}, {rounds} turns of {time:?}; bound: the AEAD alone",
        Engine::Auto.resolve().name()
    )
}
