//! What runs in the guest: `xtask vm-guest`, first as process 1, which makes the machine ready, then as
//! the child of it that runs the scenarios.

mod attacks;
mod init;
mod load;
mod nic;
mod scenarios;
mod site;
mod wireguard;

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::machine::{Driver, tail};
use super::report::{Ended, Scenario, Told};
pub use scenarios::{ON_REQUEST, SCENARIOS};

/// What `xtask vm-guest` takes, of the kernel's command line.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Whose hardware there is
    #[arg(long, value_enum)]
    pub driver: Driver,
    /// Only these scenarios
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// The configuration's `zero_copy`
    #[arg(long, default_value = "auto")]
    pub zero_copy: String,
}

/// Process 1, or its child.
///
/// # Errors
/// Something of the guest does not work at all.
pub fn run(options: &Options) -> Result<()> {
    match std::process::id() {
        1 => init::run(),
        _ => all(options),
    }
}

/// Where lines for the host go.
struct Host(Mutex<File>);

impl Host {
    fn open() -> Result<Self> {
        let port = "/dev/ttyS1";
        let file = File::options().read(true).write(true).open(port);
        let file = file.with_context(|| format!("opening {port}"))?;
        let mut settings = tcgetattr(&file)?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        Ok(Self(Mutex::new(file)))
    }

    fn tell(&self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            let mut file = self.0.lock().unwrap_or_else(|error| error.into_inner());
            let _ = file.write_all(&line).and_then(|()| file.flush());
        }
    }
}

fn all(options: &Options) -> Result<()> {
    let host = Host::open()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().and_then(|text| text.parse().ok());
    host.tell(&Told::Booted {
        kernel: kernel.trim().to_owned(),
        uptime: uptime.unwrap_or_default(),
    });
    let mut site = site::Site::new(options)?;
    let mut failed = false;
    for (name, scenario) in SCENARIOS {
        let wanted = options.scenario.iter().any(|wanted| wanted == name);
        let usual = options.scenario.is_empty() && !ON_REQUEST.contains(name);
        if !wanted && !usual {
            continue;
        }
        host.tell(&Told::Began {
            scenario: (*name).to_owned(),
        });
        let start = Instant::now();
        let (ended, detail) = match scenario(&mut site) {
            Ok(scenarios::Outcome::Passed(detail)) => (Ended::Passed, detail),
            Ok(scenarios::Outcome::Skipped(why)) => (Ended::Skipped, why),
            Err(error) => {
                let said = tail(&format!("{error:#}"), 30);
                (Ended::Failed, format!("{said}\n{}", site.logs()))
            }
        };
        if ended == Ended::Failed {
            failed = true;
            // What comes next begins anew.
            site.raze();
        }
        host.tell(&Told::Scenario(Scenario {
            scenario: (*name).to_owned(),
            ended,
            detail,
            seconds: start.elapsed().as_secs_f64(),
        }));
    }
    site.raze();
    host.tell(&Told::End);
    anyhow::ensure!(!failed, "not every scenario passed");
    Ok(())
}
