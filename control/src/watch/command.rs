//! The command `portcullis watch`.

use super::{Dropped, Line, Watch, Writer, line};
use crate::api::client::Client;
use crate::cli::{Context, Outcome};
use crate::config::Gateway;
use crate::problem::{Kind, Problem};
use crate::{show, systemd};
use std::fs::OpenOptions;
use std::io::{self, Write, stdout};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis watch                                    everything, until Ctrl-C
  portcullis watch --verdict bad_tag --verdict replay
  portcullis watch --workstation alpha --count 10
  portcullis watch --write drops.pcapng               for tshark -r drops.pcapng, or Wireshark
  portcullis explain drops.pcapng --frame 3           why the third was dropped, step by step

Shown are drops in XDP, before the kernel: of tunnel ports short, foreign, malformed, misdirected,
unknown_session, unknown_key, bad_tag, replay, rate_limited, queue_full and no_socket; of pinned ports
unknown_mac, spoofed_address, neighbour_claim and the like. Drops after decryption (inner_source, policy,
failed_open, ...) are counted in `portcullis show`, and not shown here: what they carry is private.

--write keeps the first 192 bytes of a frame. What a tunnel frame carries is encrypted there, unless its
protection is authenticate. A frame in clear (foreign, or on a pinned port) may carry what is private:
treat the file accordingly, or write less with --snaplen 54. On the terminal only headers are shown.

It costs the wall nothing while nobody watches, and never opens it. Frames that come faster than the rate
are dropped and counted as ever, and not shown.")]
pub struct Arguments {
    /// Only drops that are found to be this Workstation's; a wrong key or session is nobody's.
    #[arg(long, value_name = "NAME")]
    workstation: Option<String>,
    /// Only drops on this port.
    #[arg(long, value_name = "IF")]
    port: Option<String>,
    /// Only drops with this verdict; may be given again.
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
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

/// Watches, until it is told to end.
///
/// # Errors
/// The file cannot be written, or the daemon answers with a problem.
pub fn run(context: &Context, arguments: Arguments) -> Outcome {
    let path = &*context.config;
    let config = Gateway::load(path)?;
    let start = systemd::start_gateway(path);
    let client = Client::gateway(&config.runtime_directory, start);
    let watch = Watch {
        workstation: arguments.workstation,
        port: arguments.port,
        verdicts: arguments.verdict,
        rate: Some(arguments.rate),
        snaplen: arguments.snaplen,
    };
    let mut view = View {
        file: arguments.write.map(File::create).transpose()?,
        json: context.json,
        colours: show::colours(&stdout()),
        left: arguments.count,
        missed: 0,
        earlier: 0,
    };
    if view.left == Some(0) {
        return Ok(ExitCode::SUCCESS);
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
    file: Option<File>,
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
        if let Some(file) = &mut self.file {
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
            eprintln!("portcullis: {more} samples came faster than they could be shown");
        }
        self.missed = missed;
    }

    fn text(&self, dropped: &Dropped) -> Result<String, Problem> {
        let head = hex::decode(&dropped.head).map_err(|error| {
            Problem::new(
                Kind::Failed,
                "reading what the daemon sends",
                error,
                "see whether portcullisd is of this program's version",
            )
        })?;
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
            "{:02}:{:02}:{:02}.{:06} {} {verdict}{of}: {}\n",
            day / 3600,
            day / 60 % 60,
            day % 60,
            rest / 1000,
            dropped.port,
            line(&head, dropped.length),
        ))
    }
}
