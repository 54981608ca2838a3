//! The systemd units, held against systemd's own judgement.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use portcullis_xtask::tasks;

fn packaging() -> PathBuf {
    tasks::root().unwrap().join("packaging")
}

fn analyze(arguments: &[&str], unit: &str) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(packaging().join(unit))
        .output()
        .expect("systemd-analyze is not there: `./run setup` installs it (apt-get install systemd)")
}

#[test]
fn the_units_exposure_is_at_most_one_and_a_half_and_two_at_most_over_networks() {
    // With its drop-in, as systemd finds it.
    let directory = tempfile::tempdir().unwrap();
    let over_networks = directory.path().join("portcullis-agent.service");
    let drop_ins = over_networks.with_extension("service.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::copy(packaging().join("portcullis-agent.service"), &over_networks).unwrap();
    let drop_in = packaging().join("portcullis-network.conf");
    fs::copy(drop_in, drop_ins.join("network.conf")).unwrap();
    let with_fast_path = directory.path().join("fast-path/portcullis-agent.service");
    let more = with_fast_path.with_extension("service.d");
    fs::create_dir_all(&more).unwrap();
    fs::copy(&over_networks, &with_fast_path).unwrap();
    for (drop_in, name) in [
        ("portcullis-network.conf", "network.conf"),
        ("portcullis-fast-path.conf", "own-interface.conf"),
    ] {
        fs::copy(packaging().join(drop_in), more.join(name)).unwrap();
    }
    for (unit, most) in [
        ("portcullisd.service", 15),
        ("portcullis-agent.service", 15),
        // Any address may be a Gateway's.
        (over_networks.to_str().unwrap(), 17),
        // Both of these together.
        (with_fast_path.to_str().unwrap(), 20),
    ] {
        let threshold = format!("--threshold={most}");
        let output = analyze(&["security", "--offline=true", &threshold], unit);
        let text = String::from_utf8_lossy(&output.stdout);
        let worst: Vec<&str> = text.lines().filter(|line| line.contains('✗')).collect();
        assert!(output.status.success(), "{unit}: {}", worst.join("\n"));
        assert!(text.contains("Overall exposure level"), "{unit}: {text}");
    }
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    for unit in ["portcullisd.service", "portcullis-agent.service"] {
        let output = analyze(&["verify", "--man=no"], unit);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let of_unit = text.lines().filter(|line| line.contains("portcullis"));
        // They are not installed here, and that is all there is to say.
        let wrong: Vec<&str> = of_unit
            .filter(|line| !line.contains("is not executable"))
            .collect();
        assert!(wrong.is_empty(), "{unit}: {}", wrong.join("\n"));
    }
}
