//! Which plots there are: they come from the names of the metrics, so a suite that measures another
//! size, engine, rate or peer is drawn without a change here.

use super::plot::{Bar, Bars, Lines, Plot, Point, Series};
use crate::bench::Figure;

/// The plots of one suite or of several that belong together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) plots: Vec<Plot>,
}

/// All plots that these figures have; sections without one are left out.
pub(super) fn sections(figures: &[Figure]) -> Vec<Section> {
    let figures: Vec<&Figure> = figures.iter().filter(|figure| figure.n > 0).collect();
    let all = [
        ("Through the whole tunnel", end_to_end(&figures)),
        ("Round trips", latency(&figures)),
        ("Under flood", flood(&figures)),
        ("Coming back", restart(&figures)),
        ("The worker without a kernel", pipeline(&figures)),
        ("AEAD engines", aead(&figures)),
        ("Admission in XDP", admission(&figures)),
    ];
    all.into_iter()
        .map(|(title, plots)| Section { title, plots })
        .filter(|section| !section.plots.is_empty())
        .collect()
}

/// What stands between a prefix and a suffix.
fn between<'a>(text: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.strip_suffix(suffix)
}

/// Ours, then what others give for the same metric.
fn rivals(figures: &[&Figure], metric: &str, label: &str) -> Vec<Bar> {
    let mut bars = Vec::new();
    let over_udp = format!("{label}, over UDP");
    let fast_path = format!("{label}, over UDP with a fast path");
    let ours = [
        ("e2e", label),
        ("e2e.udp", &over_udp),
        ("e2e.udp.fast_path", &fast_path),
    ];
    for (from, label) in ours {
        let name = format!("{from}.{metric}");
        let mut figures = figures.iter().filter(|figure| figure.metric == name);
        bars.extend(figures.next().map(|figure| bar(label, figure, true)));
    }
    // Measured on its own rig, where ours was too.
    for figure in figures {
        match between(&figure.metric, "peers.", &format!(".{metric}")) {
            Some("portcullis") => bars.push(bar("Portcullis, among these", figure, true)),
            Some("portcullis.udp") => {
                bars.push(bar("Portcullis over UDP, among these", figure, true));
            }
            Some(name) if !name.contains('.') => bars.push(bar(name, figure, false)),
            _ => {}
        }
    }
    bars
}

fn bar(label: &str, figure: &Figure, ours: bool) -> Bar {
    Bar {
        label: label.to_owned(),
        value: figure.value,
        min: figure.min,
        max: figure.max,
        bound: figure.bound,
        ours,
    }
}

const VETH: &str = "plain veth";

fn bars(title: &str, unit: &str, log: bool, bound: &'static str, bars: Vec<Bar>) -> Option<Plot> {
    let plot = Bars {
        title: title.to_owned(),
        unit: unit.to_owned(),
        log,
        bound,
        bars,
    };
    (!plot.bars.is_empty()).then_some(Plot::Bars(plot))
}

/// Lines; the first bound is labelled `bound`, and more of them go without saying.
fn lines(
    title: String,
    x: (&'static str, bool),
    y: (&str, bool),
    bound: &str,
    mut series: Vec<Series>,
) -> Option<Plot> {
    let mut label = bound;
    for series in series.iter_mut().filter(|series| series.bound) {
        series.name = std::mem::take(&mut label).to_owned();
    }
    series.retain(|series| !series.points.is_empty());
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let enough = series.iter().any(|series| series.points.len() > 1);
    enough.then(|| {
        let y = (y.0.to_owned(), y.1);
        Plot::Lines(Lines {
            title,
            x,
            y,
            series,
        })
    })
}

/// Adds a point to the series of that name, which is made where there is none.
fn add(all: &mut Vec<Series>, name: &str, point: Point, bound: bool) {
    let found = all.iter().position(|series| series.name == name);
    let at = found.unwrap_or_else(|| {
        all.push(Series {
            name: name.to_owned(),
            points: Vec::new(),
            bound,
        });
        all.len() - 1
    });
    all[at].points.push(point);
}

fn point(x: f64, figure: &Figure) -> Point {
    Point {
        x,
        value: figure.value,
        min: figure.min,
        max: figure.max,
    }
}

fn flat(x: f64, value: f64) -> Point {
    Point {
        x,
        value,
        min: value,
        max: value,
    }
}

fn end_to_end(figures: &[&Figure]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (metric, title) in [
        ("tcp.up.gbps", "TCP, Workstation to Gateway"),
        ("tcp.down.gbps", "TCP, Gateway to Workstation"),
    ] {
        let mut all = rivals(figures, metric, "Portcullis");
        for figure in figures {
            if let Some(count) = between(&figure.metric, "e2e.ws", &format!(".{metric}")) {
                all.push(bar(&format!("{count} Workstations, sum"), figure, true));
            }
        }
        plots.extend(bars(title, "Gbit/s", false, VETH, all));
    }
    for payload in ["64", "1300"] {
        for (kind, about) in [("ndr", "none lost"), ("pdr", "at most 1 % lost")] {
            let mut all = rivals(figures, &format!("udp{payload}.{kind}.kpps"), "Portcullis");
            let down = format!("e2e.udp{payload}.down.{kind}.kpps");
            let down = figures.iter().find(|figure| figure.metric == down);
            all.extend(down.map(|figure| bar("Portcullis, to Workstation", figure, true)));
            let title = format!("UDP of {payload} bytes, {about}");
            plots.extend(bars(&title, "thousand datagrams/s", false, VETH, all));
        }
    }
    let mut cost = rivals(figures, "cpu.s_per_gb", "Portcullis");
    cost.sort_by(|a, b| a.value.total_cmp(&b.value));
    plots.extend(bars(
        "CPU of both tunnel programs",
        "seconds/gigabyte",
        false,
        VETH,
        cost,
    ));
    plots
}

fn latency(figures: &[&Figure]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (infix, about) in [("", "idle"), ("load.", "under TCP")] {
        for percentile in ["p50", "p99"] {
            let metric = format!("rtt.{infix}{percentile}.us");
            let mut all = rivals(figures, &metric, "Portcullis");
            for figure in figures {
                if let Some(count) = between(&figure.metric, "e2e.ws", &format!(".{metric}")) {
                    all.push(bar(&format!("{count} Workstations"), figure, true));
                }
            }
            let title = format!("Echo round trip, {about}, {percentile}");
            plots.extend(bars(&title, "us", true, VETH, all));
        }
    }
    plots
}

fn flood(figures: &[&Figure]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (suffix, title, unit, log) in [
        (".goodput.gbps", "Goodput of a Workstation", "Gbit/s", false),
        (
            ".rtt.p99.us",
            "Round trips of a Workstation, p99",
            "us",
            true,
        ),
    ] {
        let (mut series, mut single) = (Vec::new(), Vec::new());
        for figure in figures {
            let Some(load) = between(&figure.metric, "flood.", suffix) else {
                continue;
            };
            let (kind, asked) = load.split_once('.').unwrap_or((load, ""));
            single.push(bar(&load.replace('.', ", "), figure, true));
            // As many as can be: how many it were is in the method.
            let rate = asked
                .strip_suffix("kpps")
                .and_then(|rate| rate.parse().ok());
            let Some(rate) = rate.or_else(|| sent(figure.method())) else {
                continue;
            };
            add(&mut series, kind, point(rate, figure), false);
            if let Some(bound) = figure.bound {
                add(
                    &mut series,
                    &format!("{kind}, elsewhere"),
                    flat(rate, bound),
                    true,
                );
            }
        }
        let axis = ("flood, thousand frames/s", false);
        let elsewhere = "same, elsewhere";
        let title_of_lines = format!("{title} against the flood's rate");
        match lines(title_of_lines, axis, (unit, log), elsewhere, series) {
            Some(plot) => plots.push(plot),
            None => {
                let title = format!("{title} under floods");
                plots.extend(bars(&title, unit, log, "the same flood elsewhere", single));
            }
        }
    }
    plots
}

/// The rate after the word `sent`.
fn sent(method: &str) -> Option<f64> {
    let words = method.split("sent ").nth(1)?;
    words.split(' ').next()?.parse().ok()
}

fn restart(figures: &[&Figure]) -> Vec<Plot> {
    let all = figures.iter().filter_map(|figure| {
        let what = between(&figure.metric, "restart.", ".ms")?;
        let label = match what.strip_suffix(".median") {
            Some(count) => format!("{count} Workstations, median"),
            None if what == "1" => "1 Workstation".to_owned(),
            None => format!("{what} Workstations, the last"),
        };
        Some(bar(&label, figure, true))
    });
    let plot = bars(
        "kill -9 of the Gateway to the first reply",
        "ms",
        false,
        "",
        all.collect(),
    );
    plot.into_iter().collect()
}

/// `pipeline.WAY.SIZE[.sessionsCOUNT].mpps|gbps`, and any other as a bar.
fn pipeline(figures: &[&Figure]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for (suffix, title, unit) in [
        (
            ".mpps",
            "Frame rate against frame size, one core",
            "million frames/s",
        ),
        (".gbps", "Throughput against frame size, one core", "Gbit/s"),
    ] {
        let (mut series, mut others) = (Vec::new(), Vec::new());
        for figure in figures {
            let Some(what) = between(&figure.metric, "pipeline.", suffix) else {
                continue;
            };
            if what.contains(".sessions") || what.contains(".workers") {
                continue;
            }
            match what
                .rsplit_once('.')
                .map(|(way, size)| (way, size.parse::<f64>()))
            {
                Some((way, Ok(size))) => {
                    add(
                        &mut series,
                        &way.replace('.', " "),
                        point(size, figure),
                        false,
                    );
                    if let Some(bound) = figure.bound {
                        add(
                            &mut series,
                            &format!("{way}, AEAD alone"),
                            flat(size, bound),
                            true,
                        );
                    }
                }
                _ => others.push(bar(&what.replace('.', ", "), figure, true)),
            }
        }
        plots.extend(lines(
            title.to_owned(),
            ("inner packet, bytes", true),
            (unit, false),
            "AEAD alone",
            series,
        ));
        let title = format!("Mixed sizes, {unit}");
        plots.extend(bars(&title, unit, false, "the AEAD alone", others));
    }
    let mut series = Vec::new();
    for figure in figures {
        // The frame rate with one session is the first point of the row with several.
        let Some(what) = between(&figure.metric, "pipeline.", ".mpps") else {
            continue;
        };
        let (way, count) = match what.split_once(".sessions") {
            Some((way, count)) => (way, count.parse()),
            None if what.ends_with(".64") => (what, Ok(1.0)),
            None => continue,
        };
        let Ok(count) = count else { continue };
        let cost = Point {
            x: count,
            value: 1e3 / figure.value,
            min: 1e3 / figure.max,
            max: 1e3 / figure.min,
        };
        add(&mut series, &way.replace('.', " "), cost, false);
        if let Some(bound) = figure.bound {
            let name = format!("{way}, AEAD alone");
            add(&mut series, &name, flat(count, 1e3 / bound), true);
        }
    }
    let title = "Cost of a frame against the number of sessions".to_owned();
    plots.extend(lines(
        title,
        ("sessions", true),
        ("ns/frame", false),
        "AEAD alone",
        series,
    ));
    plots
}

/// `aead.OPERATION.SIZE[.ENGINE].ns`.
fn aead(figures: &[&Figure]) -> Vec<Plot> {
    let mut operations: Vec<(String, Vec<Series>, Vec<Series>)> = Vec::new();
    for figure in figures {
        let Some(what) = between(&figure.metric, "aead.", ".ns") else {
            continue;
        };
        let parts: Vec<&str> = what.split('.').collect();
        let Some(at) = parts.iter().position(|part| part.parse::<f64>().is_ok()) else {
            continue;
        };
        let size: f64 = parts[at].parse().unwrap_or_default();
        let operation = parts[..at].join(", ");
        let engine = parts[at + 1..].join(" ");
        let engine = if engine.is_empty() {
            "auto".to_owned()
        } else {
            engine
        };
        let found = operations.iter().position(|(name, ..)| *name == operation);
        let found = found.unwrap_or_else(|| {
            operations.push((operation, Vec::new(), Vec::new()));
            operations.len() - 1
        });
        let of = |per: f64| Point {
            x: size,
            value: per / figure.value,
            min: per / figure.max,
            max: per / figure.min,
        };
        add(&mut operations[found].1, &engine, of(1e3), false);
        add(&mut operations[found].2, &engine, of(size * 8.0), false);
    }
    let mut plots = Vec::new();
    for (operation, rate, throughput) in operations {
        let x = ("payload, bytes", true);
        let title = format!("AEAD {operation}: frame rate");
        plots.extend(lines(title, x, ("million frames/s", false), "", rate));
        let title = format!("AEAD {operation}: throughput");
        plots.extend(lines(title, x, ("Gbit/s", false), "", throughput));
    }
    plots
}

fn admission(figures: &[&Figure]) -> Vec<Plot> {
    let verdicts = [
        "foreign",
        "unknown_session",
        "bad_tag",
        "replay",
        "admitted",
    ];
    let all = verdicts.iter().filter_map(|verdict| {
        let metric = format!("admission.{verdict}.ns");
        let figure = figures.iter().find(|figure| figure.metric == metric)?;
        Some(bar(&verdict.replace('_', " "), figure, true))
    });
    let title = "Cost of a verdict over an empty program";
    bars(
        title,
        "ns",
        false,
        "SipHash of the tag in native code",
        all.collect(),
    )
    .into_iter()
    .collect()
}
