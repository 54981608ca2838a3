//! `portcullis`: looks at a Gateway, sets it up, and says who may use it.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use dataplane::session::Padding;
use portcullis_control::api::client::Client;
use portcullis_control::api::{
    self, AddWorkstation, Added, Allow, Allowed, Done, KeyRetired, KeyRotated, RetireKey,
    RotateWorkstation, Rotated, SetWorkstation, Switched, WorkstationStatus,
};
use portcullis_control::choices::{self, CipherChoice};
use portcullis_control::config::{self, GATEWAY_PATH, Gateway};
use portcullis_control::enrolment::EXTENSION;
use portcullis_control::files::Reserved;
use portcullis_control::problem::{Kind, Problem};
use portcullis_control::registry::Registry;
use portcullis_control::rules::{Change, Rule};
use portcullis_control::workstation::Name;
use portcullis_control::{check, init, keygen, program, show};
use serde::Serialize;
use std::alloc::System;
use std::io::stdout;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroizing_alloc::ZeroAlloc;

/// Erases whatever is freed: keys pass through buffers of libraries too.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Looks at a Portcullis Gateway, sets it up, and says which Workstations may use it.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    after_help = "Examples:
  portcullis                                   what the Gateway is doing
  portcullis init --port eth1                  set this machine up as a Gateway
  portcullis workstation add alpha             enrol a Workstation; writes alpha.enrolment
  portcullis workstation add beta --port eth2 --address 10.152.152.20
  portcullis workstation rotate alpha          give it new keys; disable ends its sessions
  portcullis --json show | jq '.workstations[].name'

Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Arguments {
    /// The Gateway's configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = GATEWAY_PATH)]
    config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show what the Gateway is doing (the default).
    #[command(visible_alias = "status")]
    Show,
    /// Set this machine up as a Gateway: configuration, state directory and key.
    ///
    /// Finds the ports itself: wired interfaces that have no address and no default route.
    /// Never overwrites a configuration.
    #[command(after_help = "Examples:
  portcullis init
  portcullis init --port eth1 --port eth2 --address 10.9.0.1/24")]
    Init {
        /// An interface that is cabled to Workstations; may be given again.
        #[arg(long, value_name = "IF")]
        port: Vec<String>,
        /// The Gateway's address with the prefix it shares with the Workstations; may be given again.
        #[arg(long, value_name = "CIDR")]
        address: Vec<String>,
        /// Where keys and Workstations are kept.
        #[arg(long, value_name = "DIR")]
        state_directory: Option<PathBuf>,
        /// Where the control socket is.
        #[arg(long, value_name = "DIR")]
        runtime_directory: Option<PathBuf>,
        /// Where the wall is pinned.
        #[arg(long, value_name = "DIR")]
        pin_directory: Option<PathBuf>,
    },
    /// Say who may use this Gateway.
    #[command(subcommand)]
    Workstation(Workstation),
    /// Change the Gateway's own key.
    #[command(subcommand)]
    Key(Key),
    /// Have the daemon read the Workstation files again.
    Reload,
    /// Check configuration, keys, Workstation files and interfaces, without changing anything.
    Check,
}

#[derive(Subcommand)]
enum Workstation {
    /// Add a Workstation and write the enrolment file that is carried to it by hand.
    #[command(after_help = "Example:
  portcullis workstation add alpha --output /media/usb/alpha.enrolment
Then on the Workstation:
  portcullis-agent enroll /media/usb/alpha.enrolment")]
    Add {
        /// Its name, of a-z, 0-9, ., - and _, a letter or a digit first.
        name: String,
        /// Its inner address, at most one of each family; the next free ones when not given.
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        /// Serve it on this port only.
        #[arg(long, value_name = "IF")]
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
        /// Where to write the enrolment file [default: NAME.enrolment]; - for standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the Workstations.
    List,
    /// Change what a Workstation may reach, at once and without ending its session.
    ///
    /// Everything that no rule names is dropped. A rule is any, icmp, tcp, udp, tcp/PORT, udp/PORT or
    /// tcp/FIRST-LAST. Alone it leads to the Gateway's own addresses in the tunnel. With @transparent
    /// it leads to every address that is nobody's here, for transparent proxying: the Gateway's
    /// firewall must redirect it, for it is never forwarded. With @NAME it leads to another
    /// Workstation, which may answer but not begin (UDP from the named port excepted).
    #[command(after_help = "Examples:
  portcullis workstation allow alpha                          show the rules
  portcullis workstation allow alpha +tcp/9100-9110 -icmp     add one, take one away
  portcullis workstation allow alpha +tcp@transparent +udp/53@transparent
  portcullis workstation allow alpha +tcp/22@beta             let alpha log in on beta")]
    Allow {
        /// Its name.
        name: String,
        /// +RULE to add a rule, -RULE to take it away.
        #[arg(value_name = "+RULE|-RULE", allow_hyphen_values = true)]
        changes: Vec<Change>,
    },
    /// Remove a Workstation; its sessions are gone when this returns.
    Remove {
        /// Its name.
        name: String,
    },
    /// Change what a Workstation's sessions are protected with; the one it has ends, and it begins another within seconds.
    Set {
        /// Its name.
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
    Disable {
        /// Its name.
        name: String,
    },
    /// Turn a Workstation on again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Give a Workstation new keys by a new enrolment file.
    ///
    /// The keys it has stay good until it uses the new ones, for a week at most.
    #[command(after_help = "Example:
  portcullis workstation rotate alpha --output /media/usb/alpha.enrolment
Then on the Workstation:
  portcullis-agent enroll --replace /media/usb/alpha.enrolment
and restart the agent there.")]
    Rotate {
        /// Its name.
        name: String,
        /// A new public key it has made itself; else one that did so before keeps its key pair.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// How long the keys it has stay good though it does not use the new ones; 0 ends them, and
        /// its sessions, at once.
        #[arg(long, value_name = "HOURS", default_value_t = api::KEEP_OLD / 3600)]
        keep_old: u64,
        /// Where to write the enrolment file [default: NAME.enrolment]; - for standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Take new keys back that it has not used yet.
        #[arg(long, conflicts_with_all = ["public_key", "keep_old", "output"])]
        cancel: bool,
    },
}

#[derive(Subcommand)]
enum Key {
    /// Make a new key, which enrolments name from now on. The one before is still accepted.
    #[command(after_help = "The whole way:
  portcullis key rotate
  portcullis workstation rotate NAME     for each, and carry the file to it
  portcullis                             says who still knows the old key only
  portcullis key retire")]
    Rotate,
    /// Give up the key before. Refused while it would lock somebody out.
    Retire {
        /// Lock them out.
        #[arg(long)]
        force: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::finish("portcullis", run(arguments))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        config: path,
        json,
        command,
    } = arguments;
    match command.unwrap_or(Command::Show) {
        Command::Show => {
            let status = Daemon::of(&path)?.client.status()?;
            let text = || show::status(&status, show::colours(&stdout()));
            print(json, &status, text)
        }
        Command::Init {
            port,
            address,
            state_directory,
            runtime_directory,
            pin_directory,
        } => {
            let request = init::Request {
                ports: port,
                addresses: address,
                state_directory,
                runtime_directory,
                pin_directory,
            };
            set_up(&path, &request, json)
        }
        Command::Workstation(Workstation::Add {
            name,
            address,
            port,
            protection,
            cipher,
            padding,
            public_key,
            allow,
            output,
        }) => {
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
            add(&Daemon::of(&path)?, request, output, json)
        }
        Command::Workstation(Workstation::List) => {
            let all = Daemon::of(&path)?.workstations()?;
            print(json, &all, || {
                show::workstations(&all, show::colours(&stdout()))
            })
        }
        Command::Workstation(Workstation::Allow { name, changes }) => {
            let daemon = Daemon::of(&path)?;
            let allowed = match changes.is_empty() {
                true => daemon.allowed(&name)?,
                false => daemon.allow(&name, &Allow { changes })?,
            };
            print(json, &allowed, || {
                let rules = show::rules(&allowed.allow);
                format!("{} may reach: {rules}\n", allowed.name)
            })
        }
        Command::Workstation(Workstation::Remove { name }) => {
            let removed = Daemon::of(&path)?.remove(&name)?;
            print(json, &removed, || {
                format!(
                    "Removed the Workstation {}; its keys are worth nothing now.\n",
                    removed.name
                )
            })
        }
        Command::Workstation(Workstation::Set {
            name,
            protection,
            cipher,
            padding,
        }) => {
            let request = SetWorkstation {
                protection,
                cipher,
                padding,
            };
            let now = Daemon::of(&path)?.set(&name, &request)?;
            print(json, &now, || {
                format!(
                    "The Workstation {name} is given: protection {}, cipher {}, padding {}.\n",
                    now.protection.as_deref().unwrap_or_default(),
                    now.cipher.unwrap_or_default().name(),
                    now.padding.as_deref().unwrap_or_default(),
                )
            })
        }
        Command::Workstation(Workstation::Disable { name }) => {
            let switched = Daemon::of(&path)?.switch(&name, false)?;
            print(json, &switched, || {
                format!("The Workstation {name} is off, and has no session. It keeps its keys.\n")
            })
        }
        Command::Workstation(Workstation::Enable { name }) => {
            let switched = Daemon::of(&path)?.switch(&name, true)?;
            print(json, &switched, || {
                format!("The Workstation {name} is on.\n")
            })
        }
        Command::Workstation(Workstation::Rotate {
            name, cancel: true, ..
        }) => {
            let done = Daemon::of(&path)?.cancel_rotation(&name)?;
            print(json, &done, || {
                format!("The Workstation {name} keeps the keys it has.\n")
            })
        }
        Command::Workstation(Workstation::Rotate {
            name,
            public_key,
            keep_old,
            output,
            cancel: false,
        }) => {
            let request = RotateWorkstation {
                public_key: public_key.as_deref().map(keygen::read).transpose()?,
                keep_old_seconds: Some(keep_old.saturating_mul(3600)),
            };
            rotate(&Daemon::of(&path)?, &name, &request, output, json)
        }
        Command::Key(Key::Rotate) => {
            let rotated = Daemon::of(&path)?.rotate_key()?;
            print(json, &rotated, || {
                let next = match rotated.workstations.is_empty() {
                    true => "No Workstation knows the old one. Next:\n  portcullis key retire\n"
                        .to_owned(),
                    false => format!(
                        "These know only the old one, which is still accepted: {}\n\n\
                         Next, for each:\n  portcullis workstation rotate NAME\nand when all use \
                         their new keys:\n  portcullis key retire\n",
                        rotated.workstations.join(", ")
                    ),
                };
                format!(
                    "The Gateway's public key is {} now.\n{next}",
                    rotated.public_key
                )
            })
        }
        Command::Key(Key::Retire { force }) => {
            let retired = Daemon::of(&path)?.retire_key(RetireKey { force })?;
            print(json, &retired, || match retired.locked_out.is_empty() {
                true => "The Gateway has one key, which every Workstation knows.\n".to_owned(),
                false => format!(
                    "The Gateway has one key. Locked out until they get new keys: {}\n",
                    retired.locked_out.join(", ")
                ),
            })
        }
        Command::Reload => {
            let reloaded = Daemon::of(&path)?.client.reload()?;
            print(json, &reloaded, || {
                let line = |what: &str, names: &[String]| match names.is_empty() {
                    true => String::new(),
                    false => format!("{what}: {}\n", names.join(", ")),
                };
                let text = line("added", &reloaded.added)
                    + &line("changed", &reloaded.changed)
                    + &line("may reach something else", &reloaded.ruled)
                    + &line("removed", &reloaded.removed)
                    + &line("broken (see portcullis show)", &reloaded.broken);
                match text.is_empty() {
                    true => "Nothing has changed.\n".into(),
                    false => text,
                }
            })
        }
        Command::Check => {
            let findings = check::check(&path);
            print(json, &findings, || {
                show::findings(&findings, show::colours(&stdout()))
            })?;
            match findings.iter().filter(|finding| !finding.ok).count() {
                0 => Ok(()),
                failed => Err(Problem::new(
                    Kind::Invalid,
                    format!("checking {}", path.display()),
                    format!("{failed} of {} checks failed", findings.len()),
                    "do what stands below each of them, and check again",
                )
                .into()),
            }
        }
    }
}

fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(value).context("writing JSON")? + "\n",
        false => text(),
    };
    program::print(&text);
    Ok(())
}

fn set_up(path: &Path, request: &init::Request, json: bool) -> anyhow::Result<()> {
    let made = init::init(path, request)?;
    for warning in &made.warnings {
        eprintln!("portcullis: warning: {warning}");
    }
    let ports: Vec<_> = made
        .config
        .ports
        .iter()
        .map(|p| p.interface.clone())
        .collect();
    let hosts: Vec<_> = made
        .config
        .host_addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    let public_key = made.public_key.to_string();
    let value = serde_json::json!({
        "config": path,
        "ports": ports,
        "addresses": hosts,
        "public_key": public_key,
    });
    print(json, &value, || {
        let config = config::option(path, GATEWAY_PATH);
        format!(
            "Wrote {}\n  ports       {}\n  addresses   {} on {}\n  state       {}\n  public key  {public_key}\n\n\
             Next:\n  portcullis{config} check\n  portcullisd{config}\n  \
             portcullis{config} workstation add NAME\n",
            path.display(),
            ports.join(", "),
            hosts.join(", "),
            made.config.host_interface,
            made.config.state_directory.display(),
        )
    })
}

fn add(
    daemon: &Daemon,
    request: AddWorkstation,
    output: Option<PathBuf>,
    json: bool,
) -> anyhow::Result<()> {
    // The name first: it becomes a file's.
    let name: Name = request.name.parse()?;
    let output = output.unwrap_or_else(|| format!("{name}.{EXTENSION}").into());
    let other = format!(
        "see whether {name} is enrolled already (portcullis workstation list); else move the file \
         away, or name another with --output FILE"
    );
    let own_key = request.public_key.is_some();
    let added = deliver(
        &output,
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
    if output == Path::new("-") {
        return Ok(());
    }
    let addresses: Vec<_> = added.addresses.iter().map(ToString::to_string).collect();
    let value = serde_json::json!({
        "name": added.name,
        "key_id": added.key_id,
        "addresses": addresses,
        "enrolment_file": output,
    });
    print(json, &value, || {
        format!(
            "Added the Workstation {} ({}) with {}.\n\n\
             {} in {} and nowhere else. Carry that file to the Workstation by hand, and there:\n  \
             portcullis-agent enroll {}\nThen delete it.\n",
            added.name,
            added.key_id,
            addresses.join(" and "),
            match own_key {
                true => "What it needs beside its own private key, and a secret, is",
                false => "Its keys are",
            },
            output.display(),
            output.file_name().unwrap_or_default().to_string_lossy(),
        )
    })
}

fn rotate(
    daemon: &Daemon,
    name: &str,
    request: &RotateWorkstation,
    output: Option<PathBuf>,
    json: bool,
) -> anyhow::Result<()> {
    let name: Name = name.parse()?;
    let output = output.unwrap_or_else(|| format!("{name}.{EXTENSION}").into());
    let rotated = deliver(
        &output,
        "move that file away, or name another with --output FILE",
        || daemon.rotate(name.as_str(), request),
        |rotated| &rotated.enrolment,
        || {
            let cancelled = daemon.cancel_rotation(name.as_str());
            ("the Workstation keeps the keys it has", cancelled.map(drop))
        },
    )?;
    if output == Path::new("-") {
        return Ok(());
    }
    let value = serde_json::json!({
        "name": rotated.name,
        "key_id": rotated.key_id,
        "old_ends_in_seconds": rotated.old_ends_in_seconds,
        "enrolment_file": output,
    });
    print(json, &value, || {
        let old = match rotated.old_ends_in_seconds / 3600 {
            0 => "The old ones have ended.".to_owned(),
            hours => format!("The old ones end when it uses them, or in {hours} hours."),
        };
        format!(
            "New keys of the Workstation {} ({}) are in {}. {old}\n\n\
             Carry that file to the Workstation by hand, and there:\n  \
             portcullis-agent enroll --replace {}\nThen delete it, and restart the agent.\n",
            rotated.name,
            rotated.key_id,
            output.display(),
            output.file_name().unwrap_or_default().to_string_lossy(),
        )
    })
}

/// Has keys made and writes the file that carries them, or has them undone. A place for the file is
/// made sure of first: the keys exist nowhere else.
fn deliver<T>(
    output: &Path,
    remedy: &str,
    make: impl FnOnce() -> Result<T, Problem>,
    enrolment: impl Fn(&T) -> &str,
    undo: impl FnOnce() -> (&'static str, Result<(), Problem>),
) -> Result<T, Problem> {
    if output == Path::new("-") {
        let made = make()?;
        program::print(enrolment(&made));
        return Ok(made);
    }
    let place = Reserved::new(output).map_err(|mut problem| {
        if problem.kind == Kind::Conflict {
            problem.remedy = remedy.to_owned();
        }
        problem
    })?;
    let made = make()?;
    let Err(problem) = place.fill(enrolment(&made)) else {
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

/// The daemon; or, while it is not running, the files it would serve.
struct Daemon {
    config: Gateway,
    client: Client,
}

impl Daemon {
    fn of(path: &Path) -> Result<Self, Problem> {
        let config = Gateway::load(path)?;
        let start = format!("portcullisd{}", config::option(path, GATEWAY_PATH));
        let client = Client::gateway(&config.runtime_directory, start);
        Ok(Self { config, client })
    }

    /// What the daemon answers; or, when it is not running, what is done to the registry.
    fn or_registry<T>(
        &self,
        answer: Result<T, Problem>,
        offline: impl FnOnce(Registry) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        match answer {
            Err(problem) if problem.kind == Kind::Unavailable => {
                match Registry::open(&self.config) {
                    Ok(registry) => offline(registry),
                    // It has the lock: it is there, and does not answer.
                    Err(lock) if lock.kind == Kind::Conflict => Err(problem),
                    Err(other) => Err(other),
                }
            }
            answer => answer,
        }
    }

    fn add(&self, request: &AddWorkstation) -> Result<Added, Problem> {
        self.or_registry(self.client.add(request), |mut registry| {
            let key = registry.keyring()?.public();
            let added = api::add_workstation(&mut registry, &self.config, key, request.clone())?;
            Ok(added.1)
        })
    }

    fn remove(&self, name: &str) -> Result<api::Removed, Problem> {
        self.or_registry(self.client.remove(name), |mut registry| {
            registry.remove(name)?;
            Ok(api::Removed { name: name.into() })
        })
    }

    fn allow(&self, name: &str, request: &Allow) -> Result<Allowed, Problem> {
        self.or_registry(self.client.allow(name, request), |mut registry| {
            api::allow_workstation(&mut registry, name, request)
        })
    }

    /// What a Workstation may reach.
    fn allowed(&self, name: &str) -> Result<Allowed, Problem> {
        let all = self.workstations()?;
        let found = all.into_iter().find(|one| one.name == name);
        found
            .map(|one| Allowed {
                name: one.name,
                allow: one.allow,
            })
            .ok_or_else(|| {
                Problem::new(
                    Kind::NotFound,
                    format!("looking for the Workstation {name}"),
                    "there is none of that name",
                    "see `portcullis workstation list`",
                )
            })
    }

    fn workstations(&self) -> Result<Vec<WorkstationStatus>, Problem> {
        self.or_registry(self.client.workstations(), |registry| {
            Ok(WorkstationStatus::all(&registry, &registry.keyring()?))
        })
    }

    fn set(&self, name: &str, request: &SetWorkstation) -> Result<SetWorkstation, Problem> {
        self.or_registry(self.client.set(name, request), |mut registry| {
            let (slot, _) = api::set_workstation(&mut registry, name, request)?;
            Ok(registry
                .by_slot(slot)
                .map(SetWorkstation::of)
                .unwrap_or_default())
        })
    }

    fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        self.or_registry(self.client.switch(name, enabled), |mut registry| {
            registry.change(name, |one| one.enabled = enabled)?;
            let name = name.to_owned();
            Ok(Switched { name, enabled })
        })
    }

    fn rotate(&self, name: &str, request: &RotateWorkstation) -> Result<Rotated, Problem> {
        self.or_registry(self.client.rotate(name, request), |mut registry| {
            let keyring = registry.keyring()?;
            let request = request.clone();
            api::rotate_workstation(&mut registry, &self.config, &keyring, name, request)
                .map(|(_, rotated)| rotated)
        })
    }

    fn cancel_rotation(&self, name: &str) -> Result<Done, Problem> {
        self.or_registry(self.client.cancel_rotation(name), |mut registry| {
            registry.cancel_rotation(name).map(|_| Done {})
        })
    }

    fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        self.or_registry(self.client.rotate_key(), |mut registry| {
            let keyring = registry.rotate_key()?;
            Ok(api::key_rotated(&registry, &keyring))
        })
    }

    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        self.or_registry(self.client.retire_key(request), |mut registry| {
            let (_, locked_out) = registry.retire_key(request.force)?;
            Ok(KeyRetired { locked_out })
        })
    }
}
