//! A small writer of SVG, and the scales of axes. Colours come from the page's style sheet by class, so
//! that one drawing serves light and dark.

use std::fmt::Write as _;

/// A drawing.
#[derive(Debug)]
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            body: String::new(),
            width,
            height,
        }
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(super) fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" rx="2"/>"#,
            width.max(0.5)
        );
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            self.body,
            r#"<polyline class="{class}" points="{}"/>"#,
            points.join(" ")
        );
    }

    /// A mark whose shape tells series apart where colours do not.
    pub(super) fn mark(&mut self, (x, y): (f64, f64), shape: usize, class: &str, about: &str) {
        let path = match shape % 4 {
            0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", x - 4.0),
            1 => format!("M{:.1} {:.1}h7v7h-7Z", x - 3.5, y - 3.5),
            2 => format!("M{x:.1} {:.1}l4.8 8.4h-9.6Z", y - 5.2),
            _ => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5Z", y - 5.0),
        };
        let _ = writeln!(
            self.body,
            r#"<path class="{class}" d="{path}"><title>{}</title></path>"#,
            escape(about)
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(text)
        );
    }

    pub(super) fn upright(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" text-anchor="middle" transform="translate({x:.1} {y:.1}) rotate(-90)">{}</text>"#,
            escape(text)
        );
    }

    /// The drawing as an element, with what it shows for those who cannot see it.
    pub(super) fn finish(self, about: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            self.width,
            self.height,
            escape(about),
            self.body
        )
    }
}

/// Text as it may stand in an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// From values to places on the drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale on which all `values` have room, between the places `from` and `to`. A linear one
    /// begins at 0, or at the least value where that is below.
    pub(super) fn of(values: impl Iterator<Item = f64>, log: bool, (from, to): (f64, f64)) -> Self {
        let usable = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        let (low, high) = if log {
            (low, high.max(low * 1.001))
        } else {
            (low.min(0.0), if high > low.min(0.0) { high } else { 1.0 })
        };
        Self {
            log,
            low,
            high,
            from,
            to,
        }
    }

    /// The same with room around, so that marks do not touch the frame.
    pub(super) fn padded(mut self, part: f64) -> Self {
        if self.log {
            let span = (self.high / self.low).powf(part).max(1.02);
            self.low /= span;
            self.high *= span;
        } else {
            let span = (self.high - self.low) * part;
            self.high += span;
            if self.low < 0.0 {
                self.low -= span;
            }
        }
        self
    }

    /// The place of a value; one outside is put at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let part = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part * (self.to - self.from)
    }

    /// Round values to mark, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        let marked = self.decades();
        if marked.len() < 2 {
            let raw = (self.high - self.low) / count.max(1) as f64;
            let decade = 10f64.powf(raw.log10().floor());
            let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                .into_iter()
                .map(|step| step * decade)
                .find(|step| *step >= raw * 0.999)
                .unwrap_or(decade * 10.0);
            let first = (self.low / step).ceil() as i64;
            let last = (self.high / step + 1e-9).floor() as i64;
            return (first..=last).map(|at| at as f64 * step).collect();
        }
        marked
    }

    /// Round values by decades; none on a linear scale.
    fn decades(&self) -> Vec<f64> {
        if !self.log {
            return Vec::new();
        }
        let within: &[f64] = match (self.high / self.low).log10() {
            decades if decades > 2.5 => &[1.0],
            decades if decades > 1.2 => &[1.0, 3.0],
            _ => &[1.0, 2.0, 5.0],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|exponent| within.iter().map(move |digit| digit * 10f64.powi(exponent)))
            .filter(|value| *value >= self.low * 0.999 && *value <= self.high * 1.001)
            .collect()
    }
}

/// A value at an axis, short.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => trim(value / 1e6, 2) + "M",
        size if size >= 1e4 => trim(value / 1e3, 1) + "k",
        size if size >= 100.0 => trim(value, 0),
        size if size >= 10.0 => trim(value, 1),
        size if size >= 0.1 || size == 0.0 => trim(value, 2),
        _ => trim(value, 4),
    }
}

/// With at most so many decimals, and none that are zero.
fn trim(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_room_for_all_values_and_its_ticks_are_within() {
        for values in [
            vec![0.0, 3.9],
            vec![64.0, 9000.0],
            vec![5.0],
            vec![-2.0, 60.0],
            vec![],
        ] {
            for log in [false, true] {
                let scale = Scale::of(values.iter().copied(), log, (0.0, 100.0)).padded(0.05);
                let ticks = scale.ticks(5);
                assert!(
                    (1..=12).contains(&ticks.len()),
                    "{values:?} {log}: {ticks:?}"
                );
                for value in ticks
                    .iter()
                    .chain(values.iter().filter(|v| !log || **v > 0.0))
                {
                    let at = scale.at(*value);
                    assert!((-0.2..=100.2).contains(&at), "{value} of {values:?}: {at}");
                }
            }
        }
    }

    #[test]
    fn a_linear_scale_begins_at_nothing_and_a_log_scale_keeps_ratios() {
        let linear = Scale::of([4.0, 8.0].into_iter(), false, (0.0, 80.0));
        assert_eq!((linear.at(0.0), linear.at(4.0)), (0.0, 40.0));
        let log = Scale::of([1.0, 100.0].into_iter(), true, (0.0, 80.0));
        assert!((log.at(10.0) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn values_at_an_axis_are_short() {
        for (value, shown) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (2.0, "2"),
            (64.0, "64"),
            (1024.0, "1024"),
            (25_000.0, "25k"),
            (1_500_000.0, "1.5M"),
        ] {
            assert_eq!(short(value), shown);
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 1.0), Anchor::Start, "t", "<script>&\"");
        assert!(svg.finish("\"<").contains("&lt;script&gt;&amp;&quot;"));
    }
}
