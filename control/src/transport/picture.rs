//! An enrolment as a QR code on the terminal, for a Workstation that has a camera.

use crate::problem::{Kind, Problem};
use qrcode::{Color, EcLevel, QrCode};
use std::io::{IsTerminal, stdout};
use zeroize::Zeroizing;

/// Empty modules around the code, which readers need to find it.
const QUIET: usize = 4;

/// What a reader must see to have the whole enrolment: its lines without comments.
fn essence(text: &str) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// The picture of an enrolment: dark modules are drawn as spaces on a light ground, two to a
/// character, in colours of its own, so that it is the same on dark and light terminals.
///
/// # Errors
/// It is too long for a QR code.
pub fn of(text: &str) -> Result<Picture, Problem> {
    let code = QrCode::with_error_correction_level(essence(text).as_bytes(), EcLevel::L).map_err(
        |error| {
            Problem::new(
                Kind::Failed,
                "drawing the enrolment as a QR code",
                error,
                "carry it as a file",
            )
        },
    )?;
    let width = code.width();
    let side = width + 2 * QUIET;
    let colours = Zeroizing::new(
        code.to_colors()
            .into_iter()
            .map(|colour| u8::from(colour == Color::Dark))
            .collect::<Vec<_>>(),
    );
    let dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => colours[y * width + x] == 1,
            _ => false,
        }
    };
    let mut drawn = Zeroizing::new(String::with_capacity(side * side * 2));
    for y in (0..side).step_by(2) {
        drawn.push_str("\x1b[30;107m");
        for x in 0..side {
            drawn.push(match (dark(x, y), dark(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        drawn.push_str("\x1b[0m\n");
    }
    Ok(Picture {
        drawn,
        columns: side,
        rows: side.div_ceil(2),
    })
}

/// A picture, ready to be printed.
pub struct Picture {
    /// Its text with colours, secret.
    pub drawn: Zeroizing<String>,
    /// How wide it is.
    pub columns: usize,
    /// How high it is.
    pub rows: usize,
}

/// Whether standard output is a terminal.
///
/// # Errors
/// It is not, and a picture of keys would end up in a file or a log.
pub fn check_terminal() -> Result<(), Problem> {
    match stdout().is_terminal() {
        true => Ok(()),
        false => Err(Problem::new(
            Kind::Forbidden,
            "showing the enrolment as a QR code",
            "standard output is no terminal, and the picture holds secret keys",
            "run it at a terminal; or, if it is to be kept all the same, give --qr=always",
        )),
    }
}

impl Picture {
    /// Whether the terminal shows all of it.
    ///
    /// # Errors
    /// It is too small.
    pub fn check_size(&self) -> Result<(), Problem> {
        match size() {
            Some((columns, rows)) if columns < self.columns || rows <= self.rows => {
                Err(Problem::new(
                    Kind::Unavailable,
                    "showing the enrolment as a QR code",
                    format!(
                        "the terminal has {columns} columns and {rows} rows, and it needs {} and {}",
                        self.columns,
                        self.rows + 1
                    ),
                    "make the window larger or its letters smaller, and run it again",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Columns and rows of the terminal, where standard output is one that says so.
fn size() -> Option<(usize, usize)> {
    if !stdout().is_terminal() {
        return None;
    }
    let (columns, rows) = ratatui::crossterm::terminal::size().ok()?;
    let told = columns > 0 && rows > 0;
    told.then_some((columns.into(), rows.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_left_out_so_that_the_picture_is_small() {
        let text = "# a comment\nname = \"alpha\"\n# another\npsk = \"x\"\n";
        assert_eq!(*essence(text), "name = \"alpha\"\npsk = \"x\"\n");
    }

    #[test]
    fn the_picture_is_the_code_with_a_quiet_zone() {
        let picture = of("name = \"alpha\"\n").unwrap();
        let code = QrCode::with_error_correction_level(b"name = \"alpha\"\n", EcLevel::L).unwrap();
        assert_eq!(picture.columns, code.width() + 8);
        let rows: Vec<Vec<char>> = picture
            .drawn
            .lines()
            .map(|line| {
                let line = line.strip_prefix("\x1b[30;107m").unwrap();
                line.strip_suffix("\x1b[0m").unwrap().chars().collect()
            })
            .collect();
        assert_eq!(rows.len(), picture.rows);
        for y in 0..code.width() {
            for x in 0..code.width() {
                let cell = rows[(y + 4) / 2][x + 4];
                let dark = match (y + 4) % 2 {
                    0 => "█▀".contains(cell),
                    _ => "█▄".contains(cell),
                };
                assert_eq!(dark, code[(x, y)] == Color::Dark, "at {x}, {y}");
            }
        }
        assert!(rows[0].iter().all(|cell| *cell == ' '));
    }

    #[test]
    fn an_enrolment_with_all_its_keys_fits_a_window_of_usual_size() {
        let line = |name: &str, length: usize| format!("{name} = \"{}\"\n", "A".repeat(length));
        let text = line("gateway_public_key", 44)
            + &line("workstation_private_key", 44)
            + &line("psk", 44)
            + &line("checksum", 32)
            + &line("name", 63)
            + &line("key_id", 10)
            + "version = 1\nethertype = 0x88B5\nencapsulation = \"ether\"\n";
        let picture = of(&text).unwrap();
        assert!(
            picture.columns <= 100 && picture.rows <= 50,
            "{}",
            picture.columns
        );
    }
}
