//! The command `portcullis explain`.

use super::{Explain, Explained, Frames, MOST_FRAMES, answer, one, ports, read, several};
use crate::api::client::Client;
use crate::cli::{Context, Outcome};
use crate::config::Gateway;
use crate::problem::{Kind, Problem};
use crate::{program, show, systemd};
use std::io::stdout;
use std::process::ExitCode;

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis explain 02000000000102000000000288b510000000     a frame in hex
  portcullis explain dropped.pcapng                        a line for each frame of a capture
  portcullis explain dropped.pcapng --frame 3              all steps of its third
  tcpdump -i eth1 -c 1 -w - | portcullis explain --port eth1

Hex is not secret, and neither is a frame: it was on the cable. No key is shown, and no tag that would be
right. Nothing changes: what is explained as admitted can still come, and is then admitted.")]
pub struct Arguments {
    /// A frame in hex from its Ethernet header on, or a pcap or pcapng file; - or nothing for standard
    /// input.
    #[arg(value_name = "FRAME|FILE", default_value = "-")]
    what: String,
    /// The port it came to [default: the only one, or the one the frame is addressed to].
    #[arg(long, value_name = "IF")]
    port: Option<String>,
    /// Tell all steps of this frame of the file, counted from 1.
    #[arg(long, value_name = "N")]
    frame: Option<usize>,
}

/// Explains.
///
/// # Errors
/// What was given is no frame, or the daemon answers with a problem.
pub fn run(context: &Context, arguments: Arguments) -> Outcome {
    let path = &*context.config;
    let config = Gateway::load(path)?;
    let mut input = read(&arguments.what)?;
    let mut first = 1;
    if let Some(number) = arguments.frame {
        input = only(input, number)?;
        first = number;
    }
    if input.frames.is_empty() {
        return Err(Problem::new(
            Kind::Invalid,
            format!("explaining {}", arguments.what),
            "there is no frame in it",
            "capture some: portcullis watch --write FILE, or tcpdump -i IF -w FILE",
        )
        .into());
    }
    let start = systemd::start_gateway(path);
    let asker = Asker {
        client: Client::gateway(&config.runtime_directory, start),
        config,
        port: arguments.port,
    };
    let colours = show::colours(&stdout());
    let mut all = Vec::new();
    for (at, frames) in input.frames.chunks(MOST_FRAMES).enumerate() {
        let explained = asker.ask(frames)?;
        if context.json {
            all.extend(explained);
        } else if input.frames.len() == 1 {
            program::print(&one(&frames[0], &explained[0], colours));
        } else {
            program::print(&several(frames, &explained, first + at * MOST_FRAMES));
        }
    }
    if context.json {
        context.print(&all, String::new)?;
    }
    if input.more {
        eprintln!("portcullis: there are more frames, which were not looked at");
    }
    Ok(ExitCode::SUCCESS)
}

fn only(mut input: Frames, number: usize) -> Result<Frames, Problem> {
    let count = input.frames.len();
    if number == 0 || number > count {
        return Err(Problem::new(
            Kind::NotFound,
            format!("looking for frame {number}"),
            format!("there are {count}"),
            format!("name one from 1 to {count}"),
        ));
    }
    input.frames = vec![input.frames.swap_remove(number - 1)];
    input.more = false;
    Ok(input)
}

/// The daemon; or, while it is not running, the configuration.
struct Asker {
    client: Client,
    config: Gateway,
    port: Option<String>,
}

impl Asker {
    fn ask(&self, frames: &[super::FrameHead]) -> Result<Vec<Explained>, Problem> {
        let request = Explain {
            port: self.port.clone(),
            frames: frames.to_vec(),
        };
        match self.client.explain(&request) {
            Err(problem) if problem.kind == Kind::Unavailable => {
                answer(&ports(&self.config), &request, |_| None)
            }
            answer => answer,
        }
    }
}
