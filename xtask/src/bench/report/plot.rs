//! The two kinds of plots: lines over a quantity, and bars side by side.

use super::svg::{Anchor, Scale, Svg, short};
use crate::bench::figure::readable;

const WIDTH: f64 = 640.0;
/// Least distance of two labels.
const APART: f64 = 15.0;

/// A plot of either kind.
#[derive(Debug, Clone)]
pub(super) enum Plot {
    Lines(Lines),
    Bars(Bars),
}

/// A sample at some place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) value: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// A line with its points.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    /// Drawn as what could be reached at best.
    pub(super) bound: bool,
}

/// Lines over a quantity.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) x: (&'static str, bool),
    pub(super) y: (String, bool),
    pub(super) series: Vec<Series>,
}

/// A bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) bound: Option<f64>,
    /// Ours, and not what ours is compared with.
    pub(super) ours: bool,
}

/// Bars side by side.
#[derive(Debug, Clone)]
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) unit: String,
    /// On a scale of ratios a bar from nothing means nothing: dots are drawn then.
    pub(super) log: bool,
    pub(super) bound: &'static str,
    pub(super) bars: Vec<Bar>,
}

impl Plot {
    pub(super) fn title(&self) -> &str {
        match self {
            Self::Lines(lines) => &lines.title,
            Self::Bars(bars) => &bars.title,
        }
    }

    pub(super) fn draw(&self) -> String {
        match self {
            Self::Lines(lines) => lines.draw(),
            Self::Bars(bars) => bars.draw(),
        }
    }
}

impl Lines {
    fn draw(&self) -> String {
        const HEIGHT: f64 = 380.0;
        let longest = self
            .series
            .iter()
            .map(|series| series.name.chars().count())
            .max();
        let labels = 16.0 + 7.0 * longest.unwrap_or(0) as f64;
        let (left, right, top, bottom) =
            (62.0, WIDTH - labels.clamp(60.0, 200.0), 14.0, HEIGHT - 52.0);
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::of(points().map(|point| point.x), self.x.1, (left, right)).padded(0.03);
        let heights = points().flat_map(|point| [point.min, point.value, point.max]);
        let y = Scale::of(heights, self.y.1, (bottom, top)).padded(0.06);
        let mut svg = Svg::new(WIDTH, HEIGHT);
        for tick in y.ticks(6) {
            let at = y.at(tick);
            svg.line((left, at), (right, at), "grid");
            svg.text((left - 8.0, at + 4.0), Anchor::End, "tick", &short(tick));
        }
        for tick in self.x_ticks(&x) {
            let at = x.at(tick);
            svg.line((at, bottom), (at, bottom + 5.0), "axis");
            svg.text((at, bottom + 19.0), Anchor::Middle, "tick", &short(tick));
        }
        svg.line((left, bottom), (right, bottom), "axis");
        let middle = f64::midpoint(left, right);
        svg.text((middle, HEIGHT - 10.0), Anchor::Middle, "label", self.x.0);
        svg.upright((16.0, f64::midpoint(top, bottom)), "label", &self.y.0);
        let mut ends = Vec::new();
        let mut number = 0;
        for series in &self.series {
            let class = if series.bound {
                "bound".to_owned()
            } else {
                number += 1;
                format!("s{}", (number - 1) % 8)
            };
            let places: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|p| (x.at(p.x), y.at(p.value)))
                .collect();
            svg.polyline(&places, &format!("curve {class}"));
            for (point, &(px, py)) in series.points.iter().zip(&places) {
                if !series.bound {
                    svg.line(
                        (px, y.at(point.min)),
                        (px, y.at(point.max)),
                        &format!("range {class}"),
                    );
                    let about = format!(
                        "{}, {}: {} ({} to {})",
                        series.name,
                        short(point.x),
                        readable(point.value),
                        readable(point.min),
                        readable(point.max)
                    );
                    svg.mark((px, py), number - 1, &format!("mark {class}"), &about);
                }
            }
            if let Some(&(_, py)) = places.last().filter(|_| !series.name.is_empty()) {
                ends.push((py, series.name.clone(), class));
            }
        }
        for (at, (_, name, class)) in spread(ends, top, bottom) {
            svg.text(
                (right + 10.0, at + 4.0),
                Anchor::Start,
                &format!("name {class}"),
                &name,
            );
        }
        svg.finish(&self.title)
    }

    /// Where there are few places, they are the ticks: sizes that were measured, not round numbers.
    fn x_ticks(&self, scale: &Scale) -> Vec<f64> {
        let all = self.series.iter().flat_map(|series| &series.points);
        let mut places: Vec<f64> = all.map(|point| point.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        if places.len() > 9 {
            return scale.ticks(7);
        }
        let mut kept: Vec<f64> = Vec::new();
        for place in places {
            if kept
                .last()
                .is_none_or(|last| scale.at(place) - scale.at(*last) >= 34.0)
            {
                kept.push(place);
            }
        }
        kept
    }
}

/// Labels at the ends of lines, moved apart so that none covers another.
fn spread<T>(
    mut ends: Vec<(f64, T, String)>,
    top: f64,
    bottom: f64,
) -> Vec<(f64, (f64, T, String))> {
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut places: Vec<f64> = ends.iter().map(|end| end.0).collect();
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + APART);
    }
    // Back up from the bottom where that pushed them out of the frame.
    let mut limit = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - APART;
    }
    // And down again where there are more than fit.
    let over = places.first().map_or(0.0, |first| (top - first).max(0.0));
    places
        .into_iter()
        .map(|place| place + over)
        .zip(ends)
        .collect()
}

impl Bars {
    fn draw(&self) -> String {
        const ROW: f64 = 26.0;
        let longest = self
            .bars
            .iter()
            .map(|bar| bar.label.chars().count())
            .max()
            .unwrap_or(0);
        let (left, right, top) = ((18.0 + 7.2 * longest as f64).min(260.0), WIDTH - 64.0, 12.0);
        let bottom = top + ROW * self.bars.len() as f64;
        let height = bottom + 62.0;
        let values = self.bars.iter().flat_map(|bar| {
            [Some(bar.min), Some(bar.value), Some(bar.max), bar.bound]
                .into_iter()
                .flatten()
        });
        let scale = Scale::of(values, self.log, (left, right)).padded(0.02);
        let mut svg = Svg::new(WIDTH, height);
        for tick in scale.ticks(6) {
            let at = scale.at(tick);
            svg.line((at, top), (at, bottom), "grid");
            svg.text((at, bottom + 16.0), Anchor::Middle, "tick", &short(tick));
        }
        let zero = scale.at(0.0);
        svg.line((zero, top), (zero, bottom), "axis");
        for (row, bar) in self.bars.iter().enumerate() {
            let middle = top + ROW * (row as f64 + 0.5);
            let class = if bar.ours { "s0" } else { "other" };
            svg.text((left - 8.0, middle + 4.0), Anchor::End, "label", &bar.label);
            let at = scale.at(bar.value);
            if !self.log {
                let (from, to) = (at.min(zero), at.max(zero));
                svg.bar(
                    (from, middle - 8.0),
                    (to - from, 16.0),
                    &format!("bar {class}"),
                );
            }
            svg.line(
                (scale.at(bar.min), middle),
                (scale.at(bar.max), middle),
                "whisker",
            );
            if self.log {
                let about = format!("{}: {}", bar.label, readable(bar.value));
                svg.mark(
                    (at, middle),
                    usize::from(!bar.ours),
                    &format!("mark {class}"),
                    &about,
                );
            }
            let mut end = at.max(scale.at(bar.max));
            if let Some(bound) = bar.bound.filter(|bound| !self.log || *bound > 0.0) {
                let place = scale.at(bound);
                svg.line((place, middle - 11.0), (place, middle + 11.0), "limit");
                if (end - 4.0..end + 48.0).contains(&place) {
                    end = place;
                }
            }
            svg.text(
                (end + 8.0, middle + 4.0),
                Anchor::Start,
                "value",
                &readable(bar.value),
            );
        }
        let ratio = if self.log { ", logarithmic" } else { "" };
        let mut about = format!("{}{ratio}; thin line: least to greatest", self.unit);
        if self.bars.iter().any(|bar| bar.bound.is_some()) {
            about += &format!("; upright mark: {}", self.bound);
        }
        svg.text(
            (f64::midpoint(left, right), bottom + 40.0),
            Anchor::Middle,
            "label",
            &about,
        );
        svg.finish(&self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_at_the_ends_of_lines_do_not_cover_each_other_and_keep_their_order() {
        let ends: Vec<_> = [100.0, 101.0, 99.0, 300.0, 299.0]
            .into_iter()
            .enumerate()
            .map(|(number, at)| (at, number, String::new()))
            .collect();
        let places = spread(ends, 0.0, 300.0);
        let order: Vec<usize> = places.iter().map(|(_, (_, number, _))| *number).collect();
        assert_eq!(order, [2, 0, 1, 4, 3]);
        for pair in places.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= APART - 1e-9);
        }
        assert!(places.iter().all(|(at, _)| (0.0..=300.0).contains(at)));
    }
}
