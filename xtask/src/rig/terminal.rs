//! A program at a terminal: what it draws, as text, and what is typed.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp};

use super::guard::wait_for;

/// A pseudo-terminal with a program at it, which it controls.
pub struct Terminal {
    child: Child,
    /// What is typed goes here.
    keys: File,
    /// The program's side, to see what state it is left in.
    side: OwnedFd,
    drawn: Arc<Mutex<vt100::Parser>>,
    /// Nobody reads what is drawn.
    unread: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs a command at a terminal of this size.
    ///
    /// # Errors
    /// When there is no terminal, or the program cannot be started.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Result<Self> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).context("opening a pseudo-terminal")?;
        let side = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).context("its side");
        command
            .stdin(side(&pair.slave)?)
            .stdout(side(&pair.slave)?)
            .stderr(side(&pair.slave)?)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR");
        let child = command
            .spawn()
            .context("starting a program at a terminal")?;
        let at_least_one = |size: u16| NonZeroU16::new(size).context("a terminal of no size");
        let parser = vt100::Parser::new(at_least_one(rows)?, at_least_one(columns)?, 0);
        let drawn = Arc::new(Mutex::new(parser));
        let mut output = File::from(pair.master.try_clone().context("reading the terminal")?);
        let into = Arc::clone(&drawn);
        let unread = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&unread);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end is an error here: nobody has the other side any more.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if let Ok(mut drawn) = into.lock() {
                    drawn.process(&bytes[..count]);
                }
                while waits.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
        });
        Ok(Self {
            child,
            keys: File::from(pair.master),
            side: pair.slave,
            drawn,
            unread,
            reader: Some(reader),
        })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("typing")
    }

    /// Types what is not to be shown, once the program has turned echo off; it asks a moment before it does.
    ///
    /// # Errors
    /// When it never does, or the terminal is gone.
    pub fn press_hidden(&mut self, keys: &str) -> Result<()> {
        wait_for("echo to be off", Duration::from_secs(5), || {
            let modes = tcgetattr(&self.side).ok()?;
            (!modes.local_flags.contains(LocalFlags::ECHO)).then_some(())
        })?;
        self.press(keys)
    }

    /// Reads what is drawn no more, or again.
    pub fn leave_unread(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
    }

    /// Gives it another size, of which its program is told.
    ///
    /// # Errors
    /// When `stty` cannot.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let mut stty = Command::new("stty");
        stty.args(["columns", &columns.to_string(), "rows", &rows.to_string()]);
        let side = self.side.try_clone().context("its side")?;
        let status = stty.stdin(side).status().context("running stty")?;
        ensure!(status.success(), "stty: {status}");
        Ok(())
    }

    /// The process that has the terminal.
    ///
    /// # Errors
    /// When nobody has.
    pub fn program(&self) -> Result<u32> {
        let group = tcgetpgrp(&self.keys).context("finding out who has the terminal")?;
        // 0 is nobody here, and everybody of our own to kill(2).
        ensure!(group.as_raw() > 1, "nobody has the terminal any more");
        Ok(group.as_raw() as u32)
    }

    /// The screen as text.
    pub fn screen(&self) -> String {
        self.look(|screen| screen.contents())
    }

    /// Whether anything on the screen has a colour of its own.
    pub fn has_colours(&self) -> bool {
        self.look(|screen| {
            let (rows, columns) = screen.size();
            let (rows, columns) = (rows.get(), columns.get());
            let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            let mut cells = cells.filter_map(|(row, column)| screen.cell(row, column));
            cells.any(|cell| cell.fgcolor() != vt100::Color::Default)
        })
    }

    /// Whether the program has the screen for itself, instead of writing below what was there.
    pub fn has_own_screen(&self) -> bool {
        self.look(vt100::Screen::alternate_screen)
    }

    /// Whether there is no cursor.
    pub fn hides_cursor(&self) -> bool {
        self.look(vt100::Screen::hide_cursor)
    }

    /// Whether what is typed is shown and edited by the terminal, as a shell expects it.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn is_ordinary(&self) -> Result<bool> {
        let state = tcgetattr(&self.side).context("reading the terminal's state")?;
        Ok(state
            .local_flags
            .contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG))
    }

    /// Waits until the screen is as wanted, and gives it.
    ///
    /// # Errors
    /// When it does not become so, with what it is.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let seen = wait_for(what, Duration::from_secs(20), || {
            let screen = self.screen();
            wanted(&screen).then_some(screen)
        });
        seen.map_err(|error| anyhow!("{error:#}; on the screen is\n{}", self.screen()))
    }

    /// Sends a signal to whoever has the terminal.
    ///
    /// # Errors
    /// When nobody has.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(Pid::from_raw(self.program()? as i32), signal).context("sending a signal")
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        wait_for("the program to end", Duration::from_secs(20), || {
            self.ended_already()
        })
    }

    /// How the program has ended, if it has.
    pub fn ended_already(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn look<T>(&self, at: impl FnOnce(&vt100::Screen) -> T) -> T {
        let drawn = self
            .drawn
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        at(drawn.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends with the terminal, which this is the last to have: it is not waited for.
        drop(self.reader.take());
    }
}
