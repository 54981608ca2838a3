//! The command `portcullis watch`.

use super::{Dropped, Line, Watch, Writer, hub, line, packet};
use crate::api::client::Client;
use crate::cli::{Context, Outcome, candidates};
use crate::config::Gateway;
use crate::ending;
use crate::problem::{Kind, Problem};
use crate::{show, systemd};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write, stderr, stdout};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// What it is told on either machine.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Only drops with this verdict; may be given again.
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', add = candidates::verdicts())]
    verdict: Vec<String>,
    /// Write the frames to this pcapng file too, each with its verdict as a comment.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Samples a second of each verdict and port, at most.
    #[arg(long, value_name = "N", default_value_t = super::RATE)]
    rate: u32,
    /// Bytes kept of each frame, at most 192.
    #[arg(long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// End after so many.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// What it is told on a Gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = gateway_help())]
pub struct Arguments {
    /// Only drops that are known to be of this Workstation. A frame with an unknown key or session is
    /// not known to be of any.
    #[arg(long, value_name = "NAME", add = candidates::workstations())]
    workstation: Option<String>,
    /// Only drops on this port.
    #[arg(long, value_name = "IF", add = candidates::ports())]
    port: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
}

/// What it is told on a Workstation, which has one port.
#[derive(Debug, clap::Args)]
#[command(after_help = agent_help())]
pub struct AgentArguments {
    #[command(flatten)]
    wanted: Wanted,
}

fn gateway_help() -> String {
    let examples = "
  portcullis watch    # everything, until Ctrl-C
  portcullis watch --verdict bad_tag --verdict replay
  portcullis watch --workstation alpha --count 10
  portcullis watch --verdict policy_denied    # what the rules keep from it
  # for tshark -r drops.pcapng, or Wireshark
  portcullis watch --write drops.pcapng
  # why the third was dropped, step by step
  portcullis explain drops.pcapng --frame 3";
    let xdp = [
        ("tunnel ports, in XDP", list(hub::tunnel_names())),
        ("pinned ports, in XDP", list(hub::pinned_names())),
    ];
    help(examples, &xdp)
}

fn agent_help() -> String {
    let examples = "
  portcullis-agent watch    # everything, until Ctrl-C
  portcullis-agent watch --verdict bad_tag --verdict replay
  portcullis-agent watch --write drops.pcapng
  # on a cable: why the third was dropped, step by step
  portcullis-agent explain drops.pcapng --frame 3";
    help(
        examples,
        &[("on a cable, in XDP", list(hub::tunnel_names()))],
    )
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn help(examples: &str, xdp: &[(&str, String)]) -> String {
    let worker = ("after XDP, in a worker", list(hub::worker_names()));
    let mut verdicts = String::new();
    for (place, names) in xdp.iter().chain([&worker]) {
        verdicts += &format!("\n  {place}:\n      {names}");
    }
    format!(
        "Examples:{examples}

The verdicts:{verdicts}

Of a packet that was decrypted only the headers are shown: where it was to go, and nothing that it carries.

--write keeps the first 192 bytes of a frame that XDP dropped. What a tunnel frame carries is encrypted \
there, unless its protection is authenticate. A frame in clear may carry what is private: treat the file \
accordingly, or write less with --snaplen 54. On the terminal only headers are shown.

It costs nothing while nobody watches, and lets nothing in. Frames that come faster than the rate are \
dropped and counted as ever, and not shown."
    )
}

/// Watches a Gateway, until it is told to end.
///
/// # Errors
/// The file cannot be written, or the daemon answers with a problem.
pub fn gateway(context: &Context, arguments: Arguments) -> Outcome {
    let path = &*context.config;
    let config = Gateway::load(path)?;
    let start = systemd::start_gateway(path);
    let client = Client::gateway(&config.runtime_directory, start);
    let wanted = arguments.wanted;
    let of = (arguments.workstation, arguments.port);
    run(&client, "portcullis", context.json, of, wanted)
}

/// Watches a Workstation's agent.
///
/// # Errors
/// As [`gateway`].
pub fn agent(context: &Context, client: &Client, arguments: AgentArguments) -> Outcome {
    let of = (None, None);
    run(
        client,
        "portcullis-agent",
        context.json,
        of,
        arguments.wanted,
    )
}

fn run(
    client: &Client,
    program: &'static str,
    json: bool,
    (workstation, port): (Option<String>, Option<String>),
    wanted: Wanted,
) -> Outcome {
    let watch = Watch {
        workstation,
        port,
        verdicts: wanted.verdict,
        rate: Some(wanted.rate),
        snaplen: wanted.snaplen,
    };
    let file = Arc::new(Mutex::new(wanted.write.map(File::create).transpose()?));
    let mut view = View {
        file: Arc::clone(&file),
        program,
        json,
        colours: show::colours(&stdout()),
        left: wanted.count,
        missed: 0,
        earlier: 0,
    };
    if view.left == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    ending::when_told(move || {
        // Not in the middle of a frame; and not held up by who does not read, nor by other threads.
        let _whole = file.lock();
        signal_hook::low_level::exit(0);
    })?;
    if stderr().is_terminal() {
        eprintln!("{program}: watching what is dropped; Ctrl-C ends it");
    }
    // A connection lasts a while only; the next goes on where it ended.
    while client.watch(&watch, |line| view.take(line))?.is_continue() {
        view.earlier = view.missed;
    }
    Ok(ExitCode::SUCCESS)
}

/// A capture file that was not there before, for nobody else's eyes.
struct File {
    path: PathBuf,
    writer: Writer<std::fs::File>,
}

impl File {
    fn create(path: PathBuf) -> Result<Self, Problem> {
        let tried = format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let writer = file.and_then(Writer::new);
        let writer = writer.map_err(|error| Problem::io(tried, &error))?;
        Ok(Self { path, writer })
    }
}

struct View {
    file: Arc<Mutex<Option<File>>>,
    program: &'static str,
    json: bool,
    colours: bool,
    left: Option<u64>,
    missed: u64,
    /// On connections before.
    earlier: u64,
}

impl View {
    fn take(&mut self, line: Line) -> Result<ControlFlow<()>, Problem> {
        let dropped = match line {
            Line::Missed(missed) => {
                self.tell(self.earlier + missed);
                return Ok(ControlFlow::Continue(()));
            }
            Line::Dropped(dropped) => dropped,
        };
        if let Some(file) = &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            let written = file.writer.put(&dropped);
            let tried = || format!("writing {}", file.path.display());
            written.map_err(|error| Problem::io(tried(), &error))?;
        }
        let text = match self.json {
            true => serde_json::to_string(&dropped).unwrap_or_default() + "\n",
            false => self.text(&dropped)?,
        };
        // Who reads no more has had enough.
        let mut out = stdout().lock();
        let shown = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        if shown.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Ok(ControlFlow::Break(()));
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(match self.left {
            Some(0) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    fn tell(&mut self, missed: u64) {
        if missed > self.missed {
            let more = missed - self.missed;
            let program = self.program;
            eprintln!("{program}: {more} samples came faster than they could be shown");
        }
        self.missed = missed;
    }

    fn text(&self, dropped: &Dropped) -> Result<String, Problem> {
        let bytes = |digits: &str| {
            hex::decode(digits).map_err(|error| {
                Problem::new(
                    Kind::Failed,
                    "reading what the daemon sends",
                    error,
                    "see whether the daemon is of this program's version",
                )
            })
        };
        let (head, inner) = (bytes(&dropped.head)?, bytes(&dropped.inner)?);
        let inner = match inner.is_empty() {
            true => String::new(),
            false => format!("; in it {}", packet(&inner)),
        };
        let (seconds, rest) = (dropped.time / 1_000_000_000, dropped.time % 1_000_000_000);
        let day = seconds % 86_400;
        let verdict = match self.colours {
            true => format!("\x1b[31m{}\x1b[0m", dropped.verdict),
            false => dropped.verdict.clone(),
        };
        let of = match &dropped.workstation {
            Some(name) => format!(" of {name}"),
            None => String::new(),
        };
        Ok(format!(
            "{:02}:{:02}:{:02}.{:06} {} {verdict}{of}: {}{inner}\n",
            day / 3600,
            day / 60 % 60,
            day % 60,
            rest / 1000,
            dropped.port,
            line(&head, dropped.length),
        ))
    }
}
