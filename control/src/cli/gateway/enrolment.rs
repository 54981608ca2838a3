//! How a Workstation's keys leave the Gateway: in a file, encrypted in one, or as a picture.

use super::{Context, Daemon, Outcome};
use crate::api::{AddWorkstation, RotateWorkstation};
use crate::enrolment::EXTENSION;
use crate::files::Reserved;
use crate::problem::{Kind, Problem};
use crate::program;
use crate::transport::passphrase::{Passphrase, Source};
use crate::transport::{self, picture};
use crate::workstation::Name;
use clap::{Args, ValueEnum};
use std::io::{IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the enrolment goes.
#[derive(Args, Default)]
pub struct Way {
    /// Where to write the enrolment file [default: NAME.enrolment, or NAME.enrolment.age when
    /// encrypted]; - for standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Encrypt the file with a passphrase, which is asked for at the terminal, or made there.
    #[arg(long)]
    encrypt: bool,
    /// Take the passphrase from the first line of this file.
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    passphrase_file: Option<PathBuf>,
    /// Take the passphrase from this open file descriptor.
    #[arg(
        long,
        value_name = "N",
        requires = "encrypt",
        conflicts_with = "passphrase_file"
    )]
    passphrase_fd: Option<u32>,
    /// Show the enrolment as a QR code on the terminal. No file is written then, unless --output
    /// names one.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "terminal"
    )]
    qr: Option<Qr>,
}

/// When a QR code is shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Qr {
    /// Only where standard output is a terminal.
    Terminal,
    /// Wherever it goes.
    Always,
}

/// A way that is open: nothing of it has to be found out any more once there are keys.
struct Open {
    /// The file; none where there is only the picture.
    output: Option<PathBuf>,
    passphrase: Option<Passphrase>,
    qr: Option<Qr>,
}

impl Way {
    /// Asks for what has to be asked for, before any key is made.
    fn open(self, name: &Name) -> Result<Open, Problem> {
        if self.qr == Some(Qr::Terminal) {
            picture::check_terminal()?;
        }
        let output = match (self.output, self.qr) {
            (None, Some(_)) => None,
            (Some(output), _) => Some(output),
            (None, None) => Some(match self.encrypt {
                false => format!("{name}.{EXTENSION}").into(),
                true => format!("{name}.{EXTENSION}.{}", transport::EXTENSION).into(),
            }),
        };
        let source = Source {
            file: self.passphrase_file,
            descriptor: self.passphrase_fd,
        };
        Ok(Open {
            output,
            passphrase: match self.encrypt {
                true => Some(Passphrase::to_encrypt(&source)?),
                false => None,
            },
            qr: self.qr,
        })
    }
}

impl Open {
    fn is_standard_output(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }

    /// What is said when the keys are on their way: where they are, and what to do on the other
    /// machine with `enroll`, which may have an option.
    fn next(&self, keys: &str, enroll: &str) -> String {
        let mut text = String::new();
        if self.qr.is_some() {
            text.push_str(&format!(
                "The picture above holds {keys}; whoever has seen it has them. On the Workstation, with \
                 its camera (Debian's package zbar-tools):\n  \
                 zbarcam --raw --oneshot | portcullis-agent {enroll} -\nThen clear this screen.\n"
            ));
        }
        if let Some(output) = &self.output {
            let file = output.file_name().unwrap_or_default().to_string_lossy();
            text.push_str(&match self.passphrase {
                None => format!(
                    "{} has {keys}, and nothing else does. Carry that file to the Workstation by hand, and \
                     there:\n  portcullis-agent {enroll} {file}\nThen delete it.\n",
                    output.display()
                ),
                Some(_) => format!(
                    "{} has {keys}, encrypted, and nothing else does. Take that file to the Workstation, and \
                     the passphrase on another way; there:\n  portcullis-agent {enroll} {file}\nThen delete it.\n",
                    output.display()
                ),
            });
        }
        text
    }

    /// Has keys made and sends them off, or has them undone. A place for the file is made sure of
    /// first: the keys exist nowhere else.
    fn deliver<T>(
        &self,
        remedy: &str,
        make: impl FnOnce() -> Result<T, Problem>,
        enrolment: impl Fn(&T) -> &str,
        undo: impl FnOnce() -> (&'static str, Result<(), Problem>),
    ) -> Result<T, Problem> {
        let place = match &self.output {
            Some(output) if !self.is_standard_output() => {
                Some(Reserved::new(output).map_err(|mut problem| {
                    if problem.kind == Kind::Conflict {
                        problem.remedy = remedy.to_owned();
                    }
                    problem
                })?)
            }
            _ => None,
        };
        let made = make()?;
        let Err(problem) = self.send(place, enrolment(&made)) else {
            return Ok(made);
        };
        let happened = match undo() {
            (undone, Ok(())) => format!("{}; {undone}", problem.happened),
            (_, Err(other)) => format!("{}; and {other}", problem.happened),
        };
        Err(Problem {
            happened,
            ..problem
        })
    }

    fn send(&self, place: Option<Reserved>, enrolment: &str) -> Result<(), Problem> {
        let sealed;
        let text = match &self.passphrase {
            None => enrolment,
            Some(passphrase) => {
                let show = stderr().is_terminal();
                if show {
                    eprint!("Encrypting, which takes a second on purpose ... ");
                }
                sealed = transport::seal(enrolment, passphrase)?;
                if show {
                    eprintln!("done.");
                }
                &sealed
            }
        };
        let picture = self.qr.map(|when| (when, picture::of(text)));
        if let Some((when, picture)) = &picture {
            let picture = picture.as_ref().map_err(Clone::clone)?;
            if *when == Qr::Terminal {
                picture.check_size()?;
            }
        }
        match place {
            Some(place) => place.fill(text)?,
            None if self.is_standard_output() => program::print(text),
            None => {}
        }
        if let Some((_, Ok(picture))) = picture {
            program::print(&picture.drawn);
        }
        Ok(())
    }
}

/// Adds a Workstation and sends its enrolment off.
pub fn add(context: &Context, request: AddWorkstation, way: Way) -> Outcome {
    let daemon = Daemon::of(&context.config)?;
    // The name first: it becomes a file's.
    let name: Name = request.name.parse()?;
    let way = way.open(&name)?;
    let other = format!(
        "see whether {name} is enrolled already (portcullis workstation list); else move the file \
         away, or name another with --output FILE"
    );
    let own_key = request.public_key.is_some();
    let added = way.deliver(
        &other,
        || daemon.add(&request),
        |added| &added.enrolment,
        || {
            (
                "the Workstation was not added",
                daemon.remove(name.as_str()).map(drop),
            )
        },
    )?;
    if way.is_standard_output() {
        return Ok(ExitCode::SUCCESS);
    }
    let addresses: Vec<_> = added.addresses.iter().map(ToString::to_string).collect();
    let value = serde_json::json!({
        "name": added.name,
        "key_id": added.key_id,
        "addresses": addresses,
        "enrolment_file": way.output,
        "encrypted": way.passphrase.is_some(),
    });
    context.print(&value, || {
        let keys = match own_key {
            true => "what it needs beside its own private key, and a secret",
            false => "its keys",
        };
        format!(
            "Added the Workstation {} ({}) with {}.\n\n{}",
            added.name,
            added.key_id,
            addresses.join(" and "),
            way.next(keys, "enroll"),
        )
    })
}

/// Gives a Workstation new keys and sends the enrolment with them off.
pub fn rotate(context: &Context, name: &str, request: &RotateWorkstation, way: Way) -> Outcome {
    let daemon = Daemon::of(&context.config)?;
    let name: Name = name.parse()?;
    let way = way.open(&name)?;
    let rotated = way.deliver(
        "move that file away, or name another with --output FILE",
        || daemon.rotate(name.as_str(), request),
        |rotated| &rotated.enrolment,
        || {
            let cancelled = daemon.cancel_rotation(name.as_str());
            ("the Workstation keeps the keys it has", cancelled.map(drop))
        },
    )?;
    if way.is_standard_output() {
        return Ok(ExitCode::SUCCESS);
    }
    let value = serde_json::json!({
        "name": rotated.name,
        "key_id": rotated.key_id,
        "old_ends_in_seconds": rotated.old_ends_in_seconds,
        "enrolment_file": way.output,
        "encrypted": way.passphrase.is_some(),
    });
    context.print(&value, || {
        let old = match rotated.old_ends_in_seconds / 3600 {
            0 => "The old ones have ended.".to_owned(),
            hours => format!("The old ones end when it uses them, or in {hours} hours."),
        };
        format!(
            "The Workstation {} has new keys ({}). {old}\n\n{}Restart the agent then.\n",
            rotated.name,
            rotated.key_id,
            way.next("them", "enroll --replace"),
        )
    })
}
