//! `portcullis init`.

use super::{Context, Outcome};
use crate::config::{self, GATEWAY_PATH};
use crate::{init, systemd};
use std::path::PathBuf;

/// Set this machine up as a Gateway: configuration, state directory and key.
///
/// Finds the ports itself: wired interfaces that have no address and no default route.
/// Never overwrites a configuration.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis init
  portcullis init --port eth1 --port eth2 --address 10.9.0.1/24")]
pub struct Arguments {
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
}

/// Sets this machine up.
pub fn run(context: &Context, arguments: Arguments) -> Outcome {
    let path = &context.config;
    let request = init::Request {
        ports: arguments.port,
        addresses: arguments.address,
        state_directory: arguments.state_directory,
        runtime_directory: arguments.runtime_directory,
        pin_directory: arguments.pin_directory,
    };
    let made = init::init(path, &request)?;
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
    context.print(&value, || {
        let config = config::option(path, GATEWAY_PATH);
        let start = systemd::start_gateway(path);
        format!(
            "Wrote {}\n  ports       {}\n  addresses   {} on {}\n  state       {}\n  public key  {public_key}\n\n\
             Next:\n  portcullis{config} check\n  {start}\n  \
             portcullis{config} workstation add NAME\n",
            path.display(),
            ports.join(", "),
            hosts.join(", "),
            made.config.host_interface,
            made.config.state_directory.display(),
        )
    })
}
