//! What somebody on the path of a Workstation that is elsewhere can do, end to end: nothing that the threat model
//! does not say. Needs root and the programs (`cargo xtask test` builds them).

use std::time::Duration;

use portcullis_xtask::attack::{Bounds, every_remote, table};
use portcullis_xtask::rig::*;

/// What docs/threat-model.md says of each attack over networks, against real programs.
#[test]
fn every_attack_over_networks_fails_as_the_threat_model_says() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    // A rate that a loaded machine has room for beside the probes.
    let bounds = Bounds {
        frames: 10_000,
        time: Duration::from_secs(1),
        rate: 40_000,
    };
    let mut outcomes = Vec::new();
    let ended = every_remote(&Programs::find().unwrap(), bounds, |_| true, &mut outcomes);
    let told = |o: &portcullis_xtask::attack::Outcome| {
        let sentences = o.broken.iter();
        sentences
            .map(|b| format!("{}: {b}", o.name))
            .collect::<Vec<_>>()
    };
    let broken: Vec<String> = outcomes.iter().flat_map(told).collect();
    println!("{}", table(&outcomes));
    ended.unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
