//! The Workstation's daemon: `portcullis-agent up` once its arguments are read.

use crate::config::Agent;
use crate::enrolment::Enrolment;
use crate::interfaces;
use crate::problem::{Kind, Problem};
use std::path::Path;

/// Runs until a signal, or `portcullis-agent down`, ends it.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Agent, config_path: &Path) -> anyhow::Result<()> {
    let enrolment = Enrolment::load(&config.state_directory)?;
    let interface = interface(&config, config_path, &enrolment)?;
    Err(no_dataplane(format!("serving {interface}")).into())
}

/// Takes down what an agent that is no longer running has left: the wall and the host interface.
///
/// # Errors
/// What is left standing, and why.
pub fn down(config: Agent, _config_path: &Path) -> anyhow::Result<()> {
    let wall = config.pin_directory.display();
    Err(no_dataplane(format!("taking down the wall pinned in {wall}")).into())
}

/// The interface that is cabled to the Gateway: the configured one, else the one named at
/// enrolment, else the only wired one.
///
/// # Errors
/// None is named, and there is none or there are several.
pub fn interface(
    config: &Agent,
    config_path: &Path,
    enrolment: &Enrolment,
) -> Result<String, Problem> {
    match config.interface.as_ref().or(enrolment.interface.as_ref()) {
        Some(interface) => Ok(interface.clone()),
        None => Ok(interfaces::only_wired(&interfaces::list()?, config_path)?.to_owned()),
    }
}

fn no_dataplane(tried: String) -> Problem {
    Problem::new(
        Kind::Unavailable,
        tried,
        "this build has no dataplane",
        "build a version that has one",
    )
}
