//! `portcullis workstation`: who may use the Gateway.

use super::enrolment::Way;
use super::{Context, Daemon, Outcome, enrolment, look};
use crate::api::{self, AddWorkstation, Allow, RotateWorkstation, SetWorkstation};
use crate::choices::{self, CipherChoice};
use crate::cli::candidates;
use crate::rules::{Change, Rule};
use crate::{keygen, show};
use clap::Subcommand;
use dataplane::session::Padding;
use std::io::stdout;
use std::net::IpAddr;
use std::path::PathBuf;

/// What is done with the Workstations.
#[derive(Subcommand)]
pub enum Command {
    /// Add a Workstation and write the enrolment file that is carried to it by hand.
    ///
    /// The keys are in that file and nowhere else: the Gateway keeps none of the Workstation's private
    /// keys. With --encrypt the file is safe on its way without the passphrase; with --qr there is no
    /// file, and the Workstation's camera reads the keys off this terminal.
    #[command(after_help = "Examples:
  portcullis workstation add alpha --output /media/usb/alpha.enrolment
  portcullis workstation add beta --port eth2 --address 10.152.152.20
  portcullis workstation add gamma --allow tcp/9050,tcp/9100-9110,icmp
  portcullis workstation add delta --encrypt
  portcullis workstation add epsilon --qr
  portcullis workstation add zeta --public-key zeta.public

Then on the Workstation:
  portcullis-agent enroll /media/usb/alpha.enrolment")]
    Add {
        /// Its name, of a-z, 0-9, ., - and _, a letter or a digit first.
        name: String,
        /// Its inner address, at most one of each family; the next free ones when not given.
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        /// Serve it on this port only; required if ports differ in encapsulation or its settings.
        #[arg(long, value_name = "IF", add = candidates::ports())]
        port: Option<String>,
        /// encrypt (the default), or authenticate for a virtual LAN nobody else can listen to.
        #[arg(long)]
        protection: Option<String>,
        /// auto, aes-256-gcm, aes-128-gcm or aes-256-gcm-siv.
        #[arg(long, default_value = "auto")]
        cipher: CipherChoice,
        /// Pad what is sent: none, 16 or full.
        #[arg(long, default_value = "none", value_parser = choices::padding)]
        padding: Padding,
        /// The public key it has made itself (portcullis-agent keygen): its private key then never
        /// leaves it.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// What it may reach on the Gateway: tcp/9050, udp/5000-5010, icmp, any, ...; may be given
        /// again [default: tcp/9050, tcp/9040, udp/5353 and icmp]. See `workstation allow --help`.
        #[arg(long, value_name = "RULE", value_delimiter = ',')]
        allow: Vec<Rule>,
        #[command(flatten)]
        way: Way,
    },
    /// List the Workstations.
    #[command(after_help = "Example:
  portcullis workstation list")]
    List,
    /// Show one Workstation: state, session, rules and every counter.
    #[command(after_help = "Example:
  portcullis workstation show alpha")]
    Show {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
    },
    /// Change what a Workstation may reach, at once and without ending its session.
    ///
    /// Everything that no rule names is dropped. A rule is any, icmp, tcp, udp, tcp/PORT, udp/PORT or
    /// tcp/FIRST-LAST. Alone it leads to the Gateway's own addresses in the tunnel. With @transparent
    /// it leads to every address that is nobody's here, for transparent proxying: the Gateway's
    /// firewall must redirect it, for it is never forwarded. With @NAME it leads to another
    /// Workstation, which may answer but not begin (UDP from the named port excepted).
    #[command(after_help = "Examples:
  # show the rules
  portcullis workstation allow alpha
  # add one, take one away
  portcullis workstation allow alpha +tcp/9100-9110 -icmp
  # for transparent proxying
  portcullis workstation allow alpha +tcp@transparent +udp/53@transparent
  # let alpha log in on beta
  portcullis workstation allow alpha +tcp/22@beta")]
    Allow {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
        /// +RULE to add a rule, -RULE to take it away.
        #[arg(value_name = "+RULE|-RULE", allow_hyphen_values = true)]
        changes: Vec<Change>,
    },
    /// Remove a Workstation; its sessions are gone when this returns.
    #[command(after_help = "Example:
  portcullis workstation remove alpha")]
    Remove {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
    },
    /// Change what a Workstation's sessions are protected with; the one it has ends, and it begins another within seconds.
    #[command(after_help = "Examples:
  portcullis workstation set alpha --padding full
  portcullis workstation set alpha --cipher aes-256-gcm-siv --protection encrypt")]
    Set {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
        /// encrypt, or authenticate for a virtual LAN nobody else can listen to.
        #[arg(long)]
        protection: Option<String>,
        /// auto, aes-256-gcm, aes-128-gcm or aes-256-gcm-siv.
        #[arg(long)]
        cipher: Option<CipherChoice>,
        /// Pad what is sent: none, 16 or full.
        #[arg(long)]
        padding: Option<String>,
    },
    /// Turn a Workstation off; its sessions are gone when this returns. Its keys are kept.
    #[command(after_help = "Example:
  portcullis workstation disable alpha")]
    Disable {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
    },
    /// Turn a Workstation on again.
    #[command(after_help = "Example:
  portcullis workstation enable alpha")]
    Enable {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
    },
    /// Give a Workstation new keys by a new enrolment file.
    ///
    /// The keys it has stay good until it uses the new ones, for a week at most.
    #[command(after_help = "Examples:
  portcullis workstation rotate alpha --output /media/usb/alpha.enrolment
  portcullis workstation rotate alpha --encrypt
  portcullis workstation rotate alpha --port eth2  # where ports differ
  portcullis workstation rotate alpha --cancel     # it keeps the keys it has

Then on the Workstation, before its agent is restarted:
  portcullis-agent enroll --replace /media/usb/alpha.enrolment")]
    Rotate {
        /// Its name.
        #[arg(add = candidates::workstations())]
        name: String,
        /// A new public key it has made itself; else one that did so before keeps its key pair.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// How long the keys it has stay good though it does not use the new ones; 0 ends them, and
        /// its sessions, at once.
        #[arg(long, value_name = "HOURS", default_value_t = api::KEEP_OLD / 3600)]
        keep_old: u64,
        /// The port that its new enrolment leads to, without binding it to that; required if ports
        /// differ in encapsulation or its settings, unless it was added with one.
        #[arg(long, value_name = "IF", add = candidates::ports())]
        port: Option<String>,
        #[command(flatten)]
        way: Way,
        /// Take new keys back that it has not used yet.
        #[arg(long, conflicts_with_all = ["public_key", "keep_old", "port", "output", "encrypt", "qr"])]
        cancel: bool,
    },
}

/// Does it.
pub fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Add {
            name,
            address,
            port,
            protection,
            cipher,
            padding,
            public_key,
            allow,
            way,
        } => {
            let request = AddWorkstation {
                name,
                addresses: address,
                port,
                protection,
                cipher,
                padding,
                public_key: public_key.as_deref().map(keygen::read).transpose()?,
                allow: (!allow.is_empty()).then_some(allow),
            };
            enrolment::add(context, request, way)
        }
        Command::List => {
            let all = Daemon::of(&context.config)?.workstations()?;
            context.print(&all, || show::workstations(&all, show::colours(&stdout())))
        }
        Command::Show { name } => look::workstation(context, &name),
        Command::Allow { name, changes } => {
            let daemon = Daemon::of(&context.config)?;
            let allowed = match changes.is_empty() {
                true => daemon.allowed(&name)?,
                false => daemon.allow(&name, &Allow { changes })?,
            };
            context.print(&allowed, || {
                let rules = show::rules(&allowed.allow);
                format!("{} may reach: {rules}\n", allowed.name)
            })
        }
        Command::Remove { name } => {
            let removed = Daemon::of(&context.config)?.remove(&name)?;
            context.print(&removed, || {
                format!(
                    "Removed the Workstation {}; its keys are worth nothing now.\n",
                    removed.name
                )
            })
        }
        Command::Set {
            name,
            protection,
            cipher,
            padding,
        } => {
            let request = SetWorkstation {
                protection,
                cipher,
                padding,
            };
            let now = Daemon::of(&context.config)?.set(&name, &request)?;
            context.print(&now, || {
                format!(
                    "The Workstation {name} is given: protection {}, cipher {}, padding {}.\n",
                    now.protection.as_deref().unwrap_or_default(),
                    now.cipher.unwrap_or_default().name(),
                    now.padding.as_deref().unwrap_or_default(),
                )
            })
        }
        Command::Disable { name } => {
            let switched = Daemon::of(&context.config)?.switch(&name, false)?;
            context.print(&switched, || {
                format!("The Workstation {name} is off, and has no session. It keeps its keys.\n")
            })
        }
        Command::Enable { name } => {
            let switched = Daemon::of(&context.config)?.switch(&name, true)?;
            context.print(&switched, || format!("The Workstation {name} is on.\n"))
        }
        Command::Rotate {
            name, cancel: true, ..
        } => {
            let done = Daemon::of(&context.config)?.cancel_rotation(&name)?;
            context.print(&done, || {
                format!("The Workstation {name} keeps the keys it has.\n")
            })
        }
        Command::Rotate {
            name,
            public_key,
            keep_old,
            port,
            way,
            cancel: false,
        } => {
            let request = RotateWorkstation {
                public_key: public_key.as_deref().map(keygen::read).transpose()?,
                keep_old_seconds: Some(keep_old.saturating_mul(3600)),
                port,
            };
            enrolment::rotate(context, &name, &request, way)
        }
    }
}
