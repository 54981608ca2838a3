//! The page: one HTML file with plots and all figures, which needs nothing else to be shown.

mod charts;
mod plot;
mod svg;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::SUITES;
use super::figure::{Figure, readable};
use svg::escape;

/// The page's style sheet.
const STYLE: &str = include_str!("style.css");

/// Writes `index.html` into a directory, which is made where there is none; gives its path.
///
/// # Errors
/// What the kernel answered.
pub(super) fn write(directory: &Path, figures: &[Figure]) -> Result<PathBuf> {
    let path = directory.join("index.html");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&path, page(figures)))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The page.
fn page(figures: &[Figure]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>Portcullis, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>Portcullis, measured</h1>\n"
    );
    let places: BTreeSet<_> = figures
        .iter()
        .map(|figure| figure.provenance())
        .map(|place| [place.command, place.machine, place.date])
        .collect();
    for [command, machine, date] in &places {
        let _ = writeln!(
            html,
            "<p class=\"place\"><code>{}</code><br/>{}<br/>{}</p>",
            escape(command),
            escape(machine),
            escape(date)
        );
    }
    html.push_str(
        "<p>Each value is the median of its samples; ranges go from the least to the greatest. What is \
         compared was measured in turn, on one rig; everything runs on the cores of one machine.</p>\n</header>\n",
    );
    for section in charts::sections(figures) {
        let _ = writeln!(
            html,
            "<section>\n<h2>{}</h2>\n<div class=\"plots\">",
            section.title
        );
        for plot in &section.plots {
            let _ = writeln!(
                html,
                "<figure>\n<figcaption>{}</figcaption>\n{}</figure>",
                escape(plot.title()),
                plot.draw()
            );
        }
        html.push_str("</div>\n</section>\n");
    }
    html.push_str("<section>\n<h2>All figures</h2>\n");
    tables(&mut html, figures);
    html.push_str("</section>\n</body>\n</html>\n");
    html
}

/// A table for each suite, in the order of [`SUITES`]; a method is told once for those that share it.
fn tables(html: &mut String, figures: &[Figure]) {
    let known = |figure: &Figure| SUITES.iter().position(|suite| suite.name == home(figure));
    let mut ordered: Vec<&Figure> = figures.iter().collect();
    ordered.sort_by_key(|figure| known(figure).unwrap_or(SUITES.len()));
    for group in ordered.chunk_by(|a, b| known(a) == known(b)) {
        let name = home(group[0]);
        let about = SUITES.iter().find(|suite| suite.name == name);
        let _ = writeln!(
            html,
            "<h3>{}</h3>\n<p>{}</p>\n<div class=\"wide\"><table>\n<thead><tr><th>metric</th><th>median</th><th>min</th><th>max</th>\
             <th>unit</th><th>n</th><th>bound</th><th>how</th></tr></thead>\n<tbody>",
            escape(name),
            about.map_or_else(String::new, |suite| escape(suite.about)),
        );
        let mut before = "";
        for figure in group {
            let method = figure.method();
            let shown = if method == before { "\u{2033}" } else { method };
            before = method;
            let cells = [figure.value, figure.min, figure.max].map(readable);
            let bound = figure.bound.map_or_else(String::new, readable);
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{bound}</td><td>{}</td></tr>",
                escape(&figure.metric),
                cells[0],
                cells[1],
                cells[2],
                escape(&figure.unit),
                figure.n,
                escape(shown),
            );
        }
        html.push_str("</tbody>\n</table></div>\n");
    }
}

/// The suite that measures a figure: plain veth is measured beside the tunnel.
fn home(figure: &Figure) -> &str {
    match figure.suite() {
        "plain" => "e2e",
        suite => suite,
    }
}

#[cfg(test)]
mod tests;
