//! Colours and tables.

use std::fmt::Write as _;

/// What a colour says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Good,
    Odd,
    Bad,
    Faint,
}

/// A row of a table, and the lines that stand under it.
pub(super) type Row = (Vec<(String, Colour)>, Vec<String>);

/// Colours and aligns, or only aligns.
#[derive(Clone, Copy)]
pub(super) struct Painter {
    pub(super) on: bool,
}

impl Painter {
    pub(super) fn paint(&self, text: &str, colour: Colour) -> String {
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Good => 32,
            Colour::Odd => 33,
            Colour::Bad => 31,
            Colour::Faint => 2,
        };
        match self.on && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Rows under a head, each column as wide as its widest cell. Lines under a row are indented.
    pub(super) fn table(&self, head: &[&str], rows: &[Row]) -> String {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
        for (row, _) in rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let mut line = |cells: &[(String, Colour)], under: &[String]| {
            let mut built = String::new();
            for ((cell, colour), width) in cells.iter().zip(&widths) {
                let space = width.saturating_sub(cell.chars().count()) + 2;
                let _ = write!(built, "{}{:space$}", self.paint(cell, *colour), "");
            }
            let _ = writeln!(text, "{}", built.trim_end());
            for note in under {
                let _ = writeln!(text, "  {note}");
            }
        };
        let head: Vec<_> = head
            .iter()
            .map(|h| ((*h).to_owned(), Colour::Faint))
            .collect();
        line(&head, &[]);
        for (row, under) in rows {
            line(row, under);
        }
        text
    }
}
