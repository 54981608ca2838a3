//! `top`: what passes and what is dropped, live, for each port and each Workstation.
//!
//! [`rates`] makes rates of one status after another, [`threads`] finds out what the daemon's threads
//! use of the cores, [`screen`] is what a person sees and types, without a terminal, and [`view`]
//! draws it. Here is what ties them to the terminal.

pub mod rates;
pub mod screen;
mod threads;
mod view;

use crate::api::client::Client;
use crate::api::{AgentStatus, Status, WorkstationStatus};
use crate::ending;
use crate::problem::{Kind, Problem};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased};
use nix::sys::termios::{FlowArg, FlushArg, tcflow, tcflush};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::disable_raw_mode;
use screen::Screen;
use std::io::{self, IsTerminal as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use threads::Threads;

/// How long a key may wait to be seen, and a signal to be obeyed.
const ROUND: Duration = Duration::from_millis(50);
/// How long a signal waits for what is being drawn, before it is given up.
const GRACE: Duration = Duration::from_millis(500);
/// The intervals that can be asked for, in seconds.
pub const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=60.0;

/// Who is looked at.
#[derive(Clone)]
pub enum Source {
    /// The Gateway's daemon.
    Gateway(Client),
    /// A Workstation's agent.
    Agent(Client),
}

impl Source {
    fn ask(&self) -> Result<Status, Problem> {
        match self {
            Self::Gateway(client) => client.status(),
            Self::Agent(client) => client.agent_status().map(as_gateways),
        }
    }

    fn program(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "portcullisd",
            Self::Agent(_) => "portcullis-agent",
        }
    }
}

/// An agent's status as that of a Gateway with one port and one Workstation, so that one screen is
/// enough. "From it" is what comes from the Gateway then.
fn as_gateways(status: AgentStatus) -> Status {
    Status {
        version: status.version,
        started_seconds: status.started_seconds,
        engine: status.engine,
        workers: 1,
        worker_cores: vec![None],
        workstations: vec![WorkstationStatus {
            name: status.name,
            key_id: Some(status.key_id),
            enabled: true,
            port: Some(status.port.interface.clone()),
            session: status.session,
            last_handshake_seconds: status.last_handshake_seconds,
            rx: status.rx,
            tx: status.tx,
            opened: status.opened,
            queue: status.queue,
            drops: status.drops,
            rekeys: status.rekeys,
            ..WorkstationStatus::default()
        }],
        ports: vec![status.port],
        warnings: status.last_error.into_iter().collect(),
        ..Status::default()
    }
}

/// One look.
struct Look {
    at: Instant,
    answer: Result<Status, Problem>,
    threads: Vec<threads::Use>,
}

/// Shows it until it is told to stop.
///
/// # Errors
/// There is no terminal, nobody answers at the beginning, or the terminal fails.
pub fn run(source: Source, socket: &Path, interval: f64) -> Result<(), Problem> {
    const TRIED: &str = "showing what happens, live";
    if !stdout().is_terminal() || !stdin().is_terminal() {
        return Err(Problem::new(
            Kind::Unavailable,
            TRIED,
            "standard input and output are no terminal",
            "run it at a terminal; for scripts there are show --json and dump",
        ));
    }
    if !INTERVALS.contains(&interval) {
        return Err(Problem::new(
            Kind::Invalid,
            TRIED,
            format!("it cannot be drawn every {interval} seconds"),
            format!(
                "give an interval from {} to {} seconds",
                INTERVALS.start(),
                INTERVALS.end()
            ),
        ));
    }
    // Asked once before the terminal is taken: what is wrong is read better on an ordinary screen.
    let first = source.ask()?;
    let stop = Arc::new(AtomicBool::new(false));
    // Nothing is sent: that it is gone says that the terminal has been given back.
    let (running, ended) = bounded::<()>(0);
    let told = Arc::clone(&stop);
    ending::when_told(move || end(&told, &ended))?;
    let mut screen = Screen::new(source.program());
    screen.take(Instant::now(), Ok(first), Vec::new());
    let looks = sampler(source, socket.to_owned(), Duration::from_secs_f64(interval))
        .map_err(|error| Problem::io(TRIED, &error))?;
    let outcome = at_terminal(|terminal| serve(terminal, &mut screen, &looks, &stop));
    drop(running);
    outcome.map_err(|error| Problem::io("drawing on the terminal", &error))
}

/// Takes the terminal while `draw` runs, and gives it back however that ends: by a panic, too.
///
/// # Errors
/// The terminal cannot be taken, or what `draw` failed with.
pub fn at_terminal<T>(draw: impl FnOnce(&mut DefaultTerminal) -> io::Result<T>) -> io::Result<T> {
    // Has a panic, of whichever thread, put the terminal back before it is told of.
    let mut terminal = ratatui::try_init()?;
    let restore = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What it does not put back if another thread has the terminal.
        let _ = execute!(stdout(), Show);
        restore(panic);
    }));
    let outcome = draw(&mut terminal);
    ratatui::restore();
    outcome
}

/// Ends it from beside. Who draws on a terminal that nobody reads waits for its reader for ever: what is
/// not read by then is thrown away, which makes room for the few bytes that give the terminal back.
fn end(stop: &AtomicBool, ended: &Receiver<()>) {
    stop.store(true, Ordering::Relaxed);
    let is_late = || ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout);
    if !is_late() {
        return;
    }
    let _ = tcflush(stdout(), FlushArg::TCOFLUSH);
    // Who waits for room is woken by a stop's end, and not by the flush.
    let _ = tcflow(stdout(), FlowArg::TCOOFF);
    let _ = tcflow(stdout(), FlowArg::TCOON);
    if is_late() {
        let _ = disable_raw_mode();
        signal_hook::low_level::exit(0);
    }
}

/// Looks again and again, on a thread of its own: keys are answered while the daemon is not.
fn sampler(source: Source, socket: PathBuf, interval: Duration) -> io::Result<Receiver<Look>> {
    let (sender, receiver): (Sender<Look>, _) = bounded(1);
    let watch = move || {
        let mut threads = Threads::new(socket);
        loop {
            std::thread::sleep(interval);
            let answer = source.ask();
            let look = Look {
                at: Instant::now(),
                threads: threads.look(),
                answer,
            };
            if sender.send(look).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("looks".into())
        .spawn(watch)?;
    Ok(receiver)
}

fn serve(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    looks: &Receiver<Look>,
    stop: &AtomicBool,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| view::draw(frame, screen))?;
        // Until there is something new to draw.
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut news = false;
            select_biased! {
                recv(looks) -> look => {
                    let look = look.map_err(|_| io::Error::other("the thread that looks has failed"))?;
                    screen.take(look.at, look.answer, look.threads);
                    news = true;
                }
                default => {}
            }
            if event::poll(if news { Duration::ZERO } else { ROUND })? {
                news = true;
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release && screen.key(key) => {
                        return Ok(());
                    }
                    _ => {}
                }
            }
            if news {
                break;
            }
        }
    }
}
