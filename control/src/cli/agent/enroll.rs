//! `portcullis-agent enroll`.

use super::{Context, NoJson, Outcome};
use crate::config::check_interface_name;
use crate::enrolment::{Encapsulation, Enrolment};
use crate::problem::{Kind, Problem};
use crate::transport::passphrase::{Passphrase, Source};
use crate::{interfaces, program, systemd, transport};
use std::io::{IsTerminal as _, Read as _, stderr, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// The longest enrolment that is read from standard input.
const LONGEST: u64 = 1 << 20;

/// Take the identity from an enrolment that was brought here from the Gateway.
///
/// An encrypted one is recognised, and its passphrase asked for.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis-agent enroll /media/usb/alpha.enrolment
  portcullis-agent enroll --interface eth1 alpha.enrolment
  portcullis-agent enroll alpha.enrolment.age          # asks for the passphrase
  # read the QR code off the Gateway's screen
  zbarcam --raw --oneshot | portcullis-agent enroll -
  portcullis-agent enroll --replace alpha.enrolment    # after a rotation")]
pub struct Arguments {
    /// The file that `portcullis workstation add` or `rotate` wrote; - for standard input.
    file: PathBuf,
    /// The interface that is cabled to the Gateway, the only wired one when not given; over networks the
    /// one that the tunnel leaves by, whichever leads there when not given.
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Give up the identity this Workstation has.
    #[arg(long)]
    replace: bool,
    /// Take the passphrase of an encrypted file from the first line of this file.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Take the passphrase of an encrypted file from this open file descriptor.
    #[arg(long, value_name = "N", conflicts_with = "passphrase_file")]
    passphrase_fd: Option<u32>,
    #[command(flatten)]
    json: NoJson,
}

/// Does it.
pub fn run(context: &Context, arguments: Arguments) -> Outcome {
    let file = &arguments.file;
    let source = Source {
        file: arguments.passphrase_file.clone(),
        descriptor: arguments.passphrase_fd,
    };
    let (mut enrolment, warning) = match file == Path::new("-") {
        false => Enrolment::read_with(file, |bytes| opened(file, bytes, &source))?,
        true => {
            let name = Path::new("standard input");
            let mut bytes = Zeroizing::new(Vec::new());
            stdin()
                .take(LONGEST)
                .read_to_end(&mut bytes)
                .map_err(|error| {
                    Problem::io("reading the enrolment from standard input", &error)
                })?;
            (
                Enrolment::parse(name, &opened(name, &bytes, &source)?)?,
                None,
            )
        }
    };
    enrolment.interface = arguments.interface;
    if let Some(interface) = &enrolment.interface {
        check(interface)?;
    }
    enrolment.store(&context.config.state_directory, arguments.replace)?;
    if let Some(warning) = warning {
        eprintln!("portcullis-agent: warning: {warning}");
    }
    let start = &context.start;
    let begin = match context.client.agent_status() {
        Ok(_) if start.starts_with("systemctl") => start.replace(" start ", " restart "),
        Ok(_) => format!("stop the agent, which still has the old identity; then: {start}"),
        Err(_) => start.clone(),
    };
    let delete = match file == Path::new("-") {
        true => String::new(),
        false => format!("  rm {}\n", file.display()),
    };
    let over_networks = matches!(enrolment.encapsulation, Encapsulation::Udp { .. });
    let fit: String = systemd::fit_agent(start, over_networks)
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect();
    program::print(&format!(
        "This Workstation is {} ({}) now.\n\nNext:\n{delete}{fit}  {begin}\n",
        enrolment.name, enrolment.key_id
    ));
    Ok(ExitCode::SUCCESS)
}

/// The text of an enrolment, decrypted where it is encrypted.
fn opened(path: &Path, bytes: &[u8], source: &Source) -> Result<Zeroizing<String>, Problem> {
    if transport::is_sealed(bytes) {
        let passphrase = Passphrase::to_decrypt(source)?;
        let show = stderr().is_terminal();
        if show {
            eprint!("Decrypting, which takes a second on purpose ... ");
        }
        let opened = transport::open(path, bytes, &passphrase);
        if show {
            eprintln!("{}", if opened.is_ok() { "done." } else { "" });
        }
        return opened;
    }
    if source != &Source::default() {
        return Err(Problem::new(
            Kind::Invalid,
            format!("reading the enrolment {}", path.display()),
            "a passphrase was given, and it is not encrypted",
            "leave the passphrase out, if this is the file you mean",
        ));
    }
    std::str::from_utf8(bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| {
            Problem::new(
                Kind::Invalid,
                format!("reading the enrolment {}", path.display()),
                "this is not an enrolment file: it is not text",
                "give the file that `portcullis workstation add` made on the Gateway",
            )
        })
}

fn check(interface: &str) -> Result<(), Problem> {
    check_interface_name(interface).map_err(|happened| {
        Problem::new(
            Kind::Invalid,
            format!("enrolling with the interface {interface}"),
            happened,
            "give the name of an interface as `ip link` shows it",
        )
    })?;
    if !interfaces::list()?.iter().any(|i| i.name == interface) {
        eprintln!("portcullis-agent: warning: there is no interface {interface} now");
    }
    Ok(())
}
