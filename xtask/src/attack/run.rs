//! `cargo xtask attack`: every attack, one after the other, and a table of how they ended.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::udp::{self, Remote};
use super::{
    Attack, Bounds, CABLE, CATALOGUE, IMPERSONATION, KEYS, Outcome, PADDING, SCENARIOS, Suite,
};
use crate::report::{Table, count};
use crate::rig::{Demo, HttpServer, Programs, Serial, check, demo, require_root, sweep};

const HTTP: u16 = 8080;

/// What `cargo xtask attack` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What carries the tunnel: `ether` attacks it on a LAN, `udp` from the Internet
    #[arg(long, value_enum, default_value_t = Over::Ether, value_name = "NAME")]
    pub encapsulation: Over,
    /// Only attacks whose name contains this
    #[arg(value_name = "NAME")]
    pub only: Option<String>,
    /// How long each stream of frames lasts, in seconds
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = seconds)]
    pub seconds: f64,
    /// Write how each ended to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only say which attacks there are, and what must hold of each
    #[arg(long, conflicts_with_all = ["json", "seconds"])]
    pub list: bool,
}

/// What carries the tunnel that is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// Ethernet, on a LAN.
    Ether,
    /// UDP, over networks.
    Udp,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    match (0.1..=600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("from 0.1 to 600".into()),
    }
}

/// How all of them ended, as JSON.
#[derive(Debug, Default, Serialize)]
pub struct Outcomes {
    /// Each.
    pub attacks: Vec<Outcome>,
    /// Whether all held.
    pub held: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Runs every attack.
///
/// # Errors
/// When something cannot be set up, or an attack did not fail as it must.
pub fn run(options: &Options) -> Result<()> {
    if options.list {
        print!(
            "{}",
            list(options.encapsulation, |name| options.wants(name))
        );
        return Ok(());
    }
    require_root()?;
    let programs = Programs::find()?;
    sweep();
    let _turn = Serial::acquire()?;
    let start = Instant::now();
    let mut outcomes = Outcomes::default();
    let ended = all(options, &programs, &mut outcomes.attacks);
    outcomes.seconds = start.elapsed().as_secs_f64();
    outcomes.held = ended.is_ok() && outcomes.attacks.iter().all(|outcome| outcome.held);
    print!("\n{}", table(&outcomes.attacks));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&outcomes).context("writing JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    ended?;
    let broken: Vec<String> = outcomes.attacks.iter().flat_map(told).collect();
    if !broken.is_empty() {
        bail!("not everything held:\n  {}", broken.join("\n  "));
    }
    println!(
        "\nAll {} attacks failed, in {:.0} s. Namespaces, pins and processes are removed.",
        outcomes.attacks.len(),
        outcomes.seconds
    );
    Ok(())
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        let only = self.only.as_ref();
        only.is_none_or(|only| name.contains(only.as_str()))
    }
}

/// The attacks for whose names `wanted` is true, as rows of a Markdown table.
pub fn list(over: Over, wanted: impl Fn(&str) -> bool) -> String {
    let mut rows: Vec<(&str, String)> = streams(over)
        .map(|attack| (attack.name, attack.holds()))
        .collect();
    match over {
        Over::Ether => rows.extend(SCENARIOS.iter().map(|s| (s.name, s.holds.to_owned()))),
        Over::Udp => rows.extend(udp::STEPS.iter().map(|s| (s.name, s.holds.to_owned()))),
    }
    let rows = rows.into_iter().filter(|(name, _)| wanted(name));
    rows.map(|(name, holds)| format!("| {name} | {holds} |\n"))
        .collect()
}

fn streams(over: Over) -> Box<dyn Iterator<Item = &'static Attack>> {
    match over {
        Over::Ether => {
            let all = [CATALOGUE, CABLE, PADDING, IMPERSONATION, KEYS];
            Box::new(all.into_iter().flatten())
        }
        Over::Udp => Box::new(udp::streams().chain(udp::under_keys())),
    }
}

fn told(outcome: &Outcome) -> impl Iterator<Item = String> {
    let sentences = outcome.broken.iter();
    sentences.map(|sentence| format!("{}: {sentence}", outcome.name))
}

/// The outcomes as a table.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new(&["attack", "sent", "ended as", "victim keeps", "held"]);
    for outcome in outcomes {
        table.row([
            outcome.name.to_owned(),
            count(outcome.sent),
            outcome.happened.clone(),
            format!("{:.0} %", outcome.victim_goodput * 100.0),
            if outcome.held { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    table.render()
}

fn all(options: &Options, programs: &Programs, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let wanted = |name: &str| options.wants(name);
    let bounds = Bounds::full_speed(Duration::from_secs_f64(options.seconds));
    match options.encapsulation {
        Over::Ether => every(&mut demo(programs)?, bounds, wanted, outcomes),
        Over::Udp => every_remote(programs, bounds, wanted, outcomes),
    }
}

/// Runs the attacks for whose names `wanted` is true in a demo's layout in which nothing runs yet, each stream
/// within `bounds`. What ended is in `outcomes`, also after an error.
///
/// # Errors
/// Something cannot be set up.
pub fn every(
    rig: &mut Demo,
    bounds: Bounds,
    wanted: impl Fn(&str) -> bool,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let streams: Vec<_> = streams(Over::Ether).filter(|a| wanted(a.name)).collect();
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|s| wanted(s.name)).collect();
    let total = streams.len() + scenarios.len();
    ensure!(total > 0, "no attack has such a name: --list has all");
    progress(0, total, "starting Gateway and Workstations");
    rig.lan.hub(true)?;
    let heard = Suite::eavesdrop(rig)?;
    rig.start()?;
    let _http = HttpServer::start(rig.gateway.namespace(), HTTP)?;
    let mut suite = Suite::new(rig, &heard, HTTP)?;
    suite.steal_keys()?;
    for attack in streams {
        check()?;
        progress(outcomes.len(), total, attack.name);
        let outcome = suite.run(attack, bounds).with_context(|| attack.name)?;
        outcomes.push(outcome);
    }
    for scenario in scenarios {
        check()?;
        progress(outcomes.len(), total, scenario.name);
        let outcome = suite.act(scenario).with_context(|| scenario.name)?;
        outcomes.push(outcome);
    }
    progress(total, total, "done");
    Ok(())
}

/// Runs the attacks over networks for whose names `wanted` is true, each stream within `bounds`. What ended is in
/// `outcomes`, also after an error.
///
/// # Errors
/// Something cannot be set up.
pub fn every_remote(
    programs: &Programs,
    bounds: Bounds,
    wanted: impl Fn(&str) -> bool,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let streams: Vec<_> = streams(Over::Udp).filter(|a| wanted(a.name)).collect();
    let steps: Vec<_> = udp::STEPS.iter().filter(|s| wanted(s.name)).collect();
    let total = streams.len() + steps.len();
    ensure!(total > 0, "no attack has such a name: --list has all");
    progress(0, total, "starting Gateway and Workstations");
    let mut remote = Remote::new(programs)?;
    for attack in streams {
        check()?;
        progress(outcomes.len(), total, attack.name);
        outcomes.push(remote.run(attack, bounds).with_context(|| attack.name)?);
    }
    for step in steps {
        check()?;
        progress(outcomes.len(), total, step.name);
        outcomes.push(remote.act(step).with_context(|| step.name)?);
    }
    progress(total, total, "done");
    Ok(())
}

fn progress(done: usize, total: usize, what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K  {done} of {total}: {what}");
        if done == total {
            eprint!("\r\x1b[K");
        }
        let _ = std::io::stderr().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threat_model_has_every_attack_and_what_must_hold_of_it() {
        for over in [Over::Ether, Over::Udp] {
            let all = list(over, |_| true);
            assert!(all.lines().count() >= 40, "{} attacks", all.lines().count());
            let documented = include_str!("../../../docs/threat-model.md");
            assert!(
                documented.contains(&all),
                "docs/threat-model.md has not these rows (`cargo xtask attack --list`):\n{all}"
            );
        }
    }
}
