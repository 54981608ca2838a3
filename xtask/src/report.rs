//! Tables and figures for people.

use std::time::Duration;

pub use portcullis_benches::figure::count;

/// A table with aligned columns; the first is text, the others are right-aligned.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text, indented by two blanks, with a rule under the headings.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::from("  ");
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if at == 0 {
                    line += &format!("{cell:<width$}");
                } else {
                    line += &format!("  {cell:>width$}");
                }
            }
            out += line.trim_end();
            out.push('\n');
            if number == 0 {
                let rule = widths.iter().map(|width| "-".repeat(*width));
                out += &format!("  {}\n", rule.collect::<Vec<_>>().join("  "));
            }
        }
        out
    }
}

/// Bits a second in the unit that suits.
pub fn bits(rate: f64) -> String {
    match rate {
        r if r >= 1e9 => format!("{:.2} Gbit/s", r / 1e9),
        r if r >= 1e6 => format!("{:.0} Mbit/s", r / 1e6),
        r => format!("{:.0} kbit/s", r / 1e3),
    }
}

/// A time in the unit that suits.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_readable() {
        let mut table = Table::new(&["what", "n"]);
        table.row(["a".into(), count(1_234_567)]);
        assert_eq!(
            table.render(),
            "  what          n\n  ----  ---------\n  a     1,234,567\n"
        );
        assert_eq!(
            (count(0), count(999), count(1000)),
            ("0".into(), "999".into(), "1,000".into())
        );
        assert_eq!(bits(2.5e9), "2.50 Gbit/s");
        assert_eq!(time(Duration::from_micros(1500)), "1.5 ms");
    }
}
