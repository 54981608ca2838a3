//! The command `portcullis explain`.

use super::{
    Explain, Explained, Frames, MOST_FRAMES, Port, agents_port, answer, one, ports, read, several,
};
use crate::api::client::Client;
use crate::cli::{Context, Outcome, candidates};
use crate::config::{Agent, Gateway};
use crate::doctor::Setup;
use crate::enrolment::{Encapsulation, Enrolment};
use crate::problem::{Kind, Problem};
use crate::{program, show, systemd};
use std::io::stdout;
use std::process::ExitCode;

/// What it is told on either machine.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// A frame in hex from its Ethernet header on, or a pcap or pcapng file; - or nothing for standard
    /// input.
    #[arg(value_name = "FRAME|FILE", default_value = "-")]
    what: String,
    /// Tell all steps of this frame of the file, counted from 1.
    #[arg(long, value_name = "N")]
    frame: Option<usize>,
}

/// What it is told on a Gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = help("portcullis", "
  printf 0200000000010200000000020806 | portcullis explain --port eth1"))]
pub struct Arguments {
    #[command(flatten)]
    asked: Asked,
    /// The port it came to [default: the only one, or the one the frame is addressed to].
    #[arg(long, value_name = "IF", add = candidates::ports())]
    port: Option<String>,
}

/// What it is told on a Workstation, which has one port.
#[derive(Debug, clap::Args)]
#[command(after_help = help("portcullis-agent", ""))]
pub struct AgentArguments {
    #[command(flatten)]
    asked: Asked,
}

/// What stands below them on a program's page.
fn help(program: &str, more: &str) -> String {
    format!(
        "Examples:
  # a frame in hex
  {program} explain 02000000000102000000000288b510000000
  # a line for each frame of a capture, then all steps of its third
  {program} explain dropped.pcapng
  {program} explain dropped.pcapng --frame 3{more}

Hex is not secret, and neither is a frame: it was on the cable. No key is shown, and no tag that would be \
right. Nothing changes: what is explained as admitted can still come, and is then admitted."
    )
}

/// Explains what a Gateway's port does.
///
/// # Errors
/// What was given is no frame, or the daemon answers with a problem.
pub fn gateway(context: &Context, arguments: Arguments) -> Outcome {
    let path = &*context.config;
    let config = Gateway::load(path)?;
    let start = systemd::start_gateway(path);
    let client = Client::gateway(&config.runtime_directory, start);
    run(
        context,
        client,
        "portcullis",
        || Ok(ports(&config)),
        (arguments.asked, arguments.port),
    )
}

/// Explains what a Workstation's port does.
///
/// # Errors
/// As [`gateway`]; and the agent is not running, and it cannot be told which interface its port is.
pub fn agent(
    context: &Context,
    client: Client,
    config: &Agent,
    arguments: AgentArguments,
) -> Outcome {
    let port = || {
        let enrolled = Enrolment::load(&config.state_directory)?;
        let setup = Setup::agent(&context.config, config, Some(&enrolled))?;
        let Encapsulation::Ether { ethertype } = enrolled.encapsulation else {
            return Err(crate::explain::over_networks());
        };
        let port = setup.ports.first();
        Ok(port
            .map(|port| agents_port(&port.interface, ethertype))
            .into_iter()
            .collect())
    };
    let asked = (arguments.asked, None);
    run(context, client, "portcullis-agent", port, asked)
}

fn run(
    context: &Context,
    client: Client,
    program: &str,
    offline: impl Fn() -> Result<Vec<Port>, Problem>,
    (arguments, port): (Asked, Option<String>),
) -> Outcome {
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
            format!("capture some: {program} watch --write FILE, or tcpdump -i IF -w FILE"),
        )
        .into());
    }
    let asker = Asker {
        client,
        offline,
        port,
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
        eprintln!("{program}: there are more frames, which were not looked at");
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
struct Asker<O> {
    client: Client,
    offline: O,
    port: Option<String>,
}

impl<O: Fn() -> Result<Vec<Port>, Problem>> Asker<O> {
    fn ask(&self, frames: &[super::FrameHead]) -> Result<Vec<Explained>, Problem> {
        let request = Explain {
            port: self.port.clone(),
            frames: frames.to_vec(),
        };
        match self.client.explain(&request) {
            Err(problem) if problem.kind == Kind::Unavailable => {
                answer(&(self.offline)()?, &request, |_| None)
            }
            answer => answer,
        }
    }
}
