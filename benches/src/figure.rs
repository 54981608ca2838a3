//! One figure: the median of some samples, their range, and where they come from.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// One figure, as it is printed and written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `suite.what.…`, lower case, parts joined by dots.
    pub metric: String,
    /// The median of the samples.
    pub value: f64,
    /// The unit of all four values.
    pub unit: String,
    /// How many samples there are.
    pub n: usize,
    /// The least sample.
    pub min: f64,
    /// The greatest sample.
    pub max: f64,
    /// What the machine allows at best: the same measurement with nothing of ours in between.
    pub bound: Option<f64>,
    /// How it was measured, and its [`Provenance`].
    pub config: String,
}

/// Parts of [`Figure::config`] are joined by this.
const BETWEEN: &str = " | ";

impl Figure {
    /// A figure of these samples; `method` says how they were measured, in a phrase.
    ///
    /// # Errors
    /// When there is no sample, or one that is no number.
    pub fn of(
        metric: impl Into<String>,
        unit: &str,
        samples: &[f64],
        bound: Option<f64>,
        method: &str,
    ) -> Result<Self> {
        let metric = metric.into();
        ensure!(!samples.is_empty(), "{metric}: nothing was measured");
        ensure!(
            samples.iter().chain(&bound).all(|value| value.is_finite()),
            "{metric}: one of {samples:?} (bound {bound:?}) is no number"
        );
        Ok(Self {
            metric,
            value: median(samples),
            unit: unit.to_owned(),
            n: samples.len(),
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            bound,
            config: method.replace(BETWEEN, ", "),
        })
    }

    /// The suite it belongs to.
    pub fn suite(&self) -> &str {
        self.metric.split('.').next().unwrap_or_default()
    }

    /// How it was measured.
    pub fn method(&self) -> &str {
        self.config.split(BETWEEN).next().unwrap_or_default()
    }

    /// Where it was measured, as far as it says.
    pub fn provenance(&self) -> Provenance {
        let mut parts = self.config.split(BETWEEN).skip(1).map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Provenance {
            command: next(),
            machine: next(),
            date: next(),
        }
    }

    /// The same, with where it was measured.
    pub fn at(mut self, place: &Provenance) -> Self {
        self.config = [self.method(), &place.command, &place.machine, &place.date].join(BETWEEN);
        self
    }
}

/// What a figure cannot be compared without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The command that measured it.
    pub command: String,
    /// CPU and kernel.
    pub machine: String,
    /// When, in UTC.
    pub date: String,
}

/// The middle one, or the mean of the two in the middle. 0 of none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[half - 1], sorted[half]),
        _ => sorted[half],
    }
}

/// The least sample that at least `percent` of all are not above (nearest rank). 0 of none.
pub fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    let at = rank.max(1).min(sorted.len());
    sorted.get(at.wrapping_sub(1)).copied().unwrap_or(0.0)
}

/// A number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A value with about four digits that count.
pub fn readable(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100_000.0 => count(value.abs().round() as u64),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[8.0, 2.0, 4.0, 6.0]), 5.0);
    }

    #[test]
    fn a_percentile_is_one_of_the_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 50.0), 100.0);
        assert_eq!(percentile(&samples, 99.0), 198.0);
        assert_eq!(percentile(&samples, 100.0), 200.0);
        assert_eq!(percentile(&samples, 0.0), 1.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert_eq!(percentile(&[], 99.0), 0.0);
    }

    #[test]
    fn a_figure_keeps_its_range_and_bound_and_refuses_what_is_no_number() {
        let figure = Figure::of("e2e.x", "ms", &[3.0, 1.0, 2.0], Some(0.5), "so").unwrap();
        assert_eq!(
            (figure.value, figure.min, figure.max, figure.n, figure.bound),
            (2.0, 1.0, 3.0, 3, Some(0.5))
        );
        assert_eq!(figure.suite(), "e2e");
        assert!(Figure::of("x", "ms", &[], None, "").is_err());
        assert!(Figure::of("x", "ms", &[1.0, f64::NAN], None, "").is_err());
        assert!(Figure::of("x", "ms", &[1.0], Some(f64::INFINITY), "").is_err());
    }

    #[test]
    fn method_and_place_are_found_again_in_what_was_written() {
        let place = Provenance {
            command: "cargo xtask bench".into(),
            machine: "2 x CPU, Linux 6".into(),
            date: "2026-01-01T00:00:00Z".into(),
        };
        let figure = Figure::of("a.b", "ns", &[1.0], None, "odd | method").unwrap();
        let text = serde_json::to_string(&[figure.at(&place)]).unwrap();
        let back: Vec<Figure> = serde_json::from_str(&text).unwrap();
        assert_eq!(back[0].method(), "odd, method");
        assert_eq!(back[0].provenance(), place);
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_are_documented() {
        let figure = Figure::of("a.b", "ns", &[1.0, 2.0], None, "m").unwrap();
        let value = serde_json::to_value(&figure).unwrap();
        let mut names: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        let documented = [
            "bound", "config", "max", "metric", "min", "n", "unit", "value",
        ];
        assert_eq!(names, documented);
        assert!(value["bound"].is_null());
        assert_eq!(value["value"], 1.5);
    }

    #[test]
    fn values_are_shown_with_the_digits_that_count() {
        for (value, shown) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (3.456, "3.46"),
            (-3.456, "-3.46"),
            (345.67, "345.7"),
            (4567.8, "4568"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(readable(value), shown);
        }
    }
}
