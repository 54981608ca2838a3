//! Every example in every help page runs as it is written, on a Gateway and a Workstation that are
//! up. Needs root and the programs (`cargo xtask test` builds them).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use control::cli;
use portcullis_xtask::rig::*;

/// What stands before a program's name in a line that is an example.
const BEGINNINGS: [&str; 7] = [
    "portcullis",
    "tcpdump",
    "NO_COLOR=",
    "RUST_LOG=",
    "zbarcam",
    "systemctl",
    "for ",
];

/// The example that a line of a help page is, without what explains it.
fn example(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    BEGINNINGS.iter().find(|word| line.starts_with(**word))?;
    Some(line.split("  ").next().unwrap_or(line).trim_end())
}

/// All examples of a program and its subcommands, each with the page it is on.
fn examples(command: &clap::Command, page: &str, all: &mut Vec<(String, String)>) -> usize {
    let help = command.get_after_help().map(ToString::to_string);
    let before = all.len();
    for line in help.unwrap_or_default().lines() {
        if let Some(example) = example(line) {
            all.push((page.to_owned(), example.to_owned()));
        }
    }
    let own = all.len() - before;
    for subcommand in command.get_subcommands() {
        let page = format!("{page} {}", subcommand.get_name());
        let found = examples(subcommand, &page, all);
        assert!(found > 0, "{page} --help has no example");
    }
    own
}

fn all() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for command in cli::commands() {
        let name = command.get_name().to_owned();
        assert!(examples(&command, &name, &mut all) > 0, "{name} --help");
    }
    all
}

/// A script that is found in place of a program.
fn script(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A capture of three frames that no port lets in, as tcpdump writes it.
fn capture() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for second in 0..3_u32 {
        for word in [second, 0, 60, 60] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        bytes.extend([0; 46]);
    }
    bytes
}

/// What an example ends with: 0, but for these.
fn codes(example: &str) -> &'static [i32] {
    match example {
        // The ones that stay run already.
        "portcullisd" | "RUST_LOG=debug portcullisd" | "portcullisd --lower" => &[1],
        "portcullis-agent up" | "RUST_LOG=debug portcullis-agent up" => &[1],
        // Refused while somebody knows the old key only, which an example before may have made.
        "portcullis key retire" => &[0, 1],
        // What is looked at may not be all well on the machine that this runs on.
        line if line.contains(" doctor") => &[0, 1],
        // Until Ctrl-C.
        line if line.contains(" watch") => &[0, 130],
        // Whatever is not in session when its turn comes.
        line if line.contains("portcullis status") => &[0, 1, 2],
        line if line.contains("portcullis-agent status") => &[0, 1, 2],
        _ => &[0],
    }
}

#[test]
fn every_help_page_has_examples_and_each_runs_as_it_is_written() {
    require_root().unwrap();
    let programs = Programs::find().unwrap();
    let _turn = Serial::acquire().unwrap();
    let gw = Arc::new(Namespace::create("gw").unwrap());
    let host = Arc::new(Namespace::create("alpha").unwrap());
    veth((&gw, "eth1"), (&host, "cable"), 1500).unwrap();
    veth((&gw, "eth2"), (&host, "other"), 1500).unwrap();
    veth((&gw, "eth5"), (&host, "fifth"), 1500).unwrap();
    let mut gateway = Gateway::new(&programs, Arc::clone(&gw), &["eth1", "eth2"]).unwrap();
    gateway.start().unwrap();
    let mut alpha = Workstation::new(&programs, host, "cable").unwrap();
    alpha.enroll(&gateway.add("alpha").unwrap()).unwrap();
    alpha.start().unwrap();

    let scratch = Scratch::new("examples").unwrap();
    let bin = scratch.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let real = |name: &str| programs.path(name).display().to_string();
    let (config, agent) = (gateway.config(), alpha.config());
    let (config, agent) = (config.display(), agent.display());
    script(
        &bin,
        "portcullis",
        &format!(
            "case $1 in init) c=$PWD/fresh.toml;; *) c={config};; esac\n\
             exec {} --config $c \"$@\"",
            real("portcullis")
        ),
    );
    script(
        &bin,
        "portcullisd",
        &format!(
            "case \"$*\" in *--config*) exec {0} \"$@\";; esac\nexec {0} --config {config} \"$@\"",
            real("portcullisd")
        ),
    );
    // Who enrols has a state directory of its own.
    script(
        &bin,
        "portcullis-agent",
        &format!(
            "case $1 in enroll|keygen) c=$PWD/agent.toml;; *) c={agent};; esac\n\
             exec {} --config $c \"$@\"",
            real("portcullis-agent")
        ),
    );
    script(&bin, "tcpdump", "cat drops.pcapng");
    script(&bin, "systemctl", "exit 0");
    script(&bin, "zbarcam", "cat alpha.enrolment");
    script(&bin, "jq", "exec python3 -m json.tool");

    let mut failed = Vec::new();
    let all = all();
    assert!(all.len() > 40, "only {} were found", all.len());
    for (at, (page, example)) in all.iter().enumerate() {
        let here = scratch.path().join(format!("{at}"));
        fs::create_dir(&here).unwrap();
        // As it was before the one before. A name that is to be added must not be there, nor its file.
        let words: Vec<&str> = example.split_whitespace().collect();
        if example == "portcullis key rotate" {
            gateway.cli("key retire --force").unwrap();
        }
        let added = words.windows(3).find(|w| w[..2] == ["workstation", "add"]);
        for name in ["alpha", "beta"] {
            if gateway.show().unwrap().workstation(name).is_none() {
                let file = here.join("again");
                let _ = fs::remove_file(&file);
                let add = format!("workstation add {name} --output {}", file.display());
                gateway.cli(&add).unwrap();
            }
            gateway.cli(&format!("workstation enable {name}")).unwrap();
        }
        if let Some(name) = added.map(|words| words[2]) {
            let _ = gateway.cli(&format!("workstation remove {name}"));
        }
        if example.contains("tcp/22@beta") || example.contains("allow alpha") {
            let _ = gateway.cli("workstation allow alpha +icmp");
        }
        // What the examples are about lies where they say.
        let output = |name: &str| here.join(name).display().to_string();
        if !example.starts_with("portcullis workstation") {
            let file = output("alpha.enrolment");
            gateway
                .cli(&format!("workstation rotate alpha --output {file}"))
                .unwrap();
            fs::write(here.join("secret"), "six words or so\n").unwrap();
            let (file, secret) = (output("alpha.enrolment.age"), output("secret"));
            gateway
                .cli(&format!(
                    "workstation rotate alpha --encrypt --passphrase-file {secret} --output {file}"
                ))
                .unwrap();
        }
        let state = here.display();
        fs::write(
            here.join("agent.toml"),
            format!("state_directory = \"{state}/state\"\nruntime_directory = \"{state}/run\"\n"),
        )
        .unwrap();
        if example.contains("--public-key") || example.contains("--replace") {
            for file in ["alpha.public", "zeta.public"] {
                let mut keygen = std::process::Command::new(programs.path("portcullis-agent"));
                keygen.arg("--config").arg(here.join("agent.toml"));
                keygen.args(["keygen", "--output"]).arg(here.join(file));
                assert!(keygen.output().unwrap().status.success());
            }
            if example.contains("--replace") {
                let _ = fs::remove_dir_all(here.join("state"));
            }
        }
        for name in ["new.toml", "test.toml"] {
            fs::copy(gateway.config(), here.join(name)).unwrap();
        }

        for name in ["drops.pcapng", "dropped.pcapng"] {
            if !example.contains("--write") {
                fs::write(here.join(name), capture()).unwrap();
            }
        }

        // A file system of its own where an example writes outside of its directory.
        let mut command = gw.command("setsid");
        command
            .args(["--ctty", "--wait", "unshare", "--mount", "sh", "-ec"])
            .arg(
                "mount -t tmpfs none /var/lib; mount -t tmpfs none /media; mkdir /media/usb\n\
                 if [ -e alpha.enrolment ]; then cp alpha.enrolment /media/usb; fi\n\
                 exec sh -c \"$0\"",
            )
            .arg(example)
            .current_dir(&here)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
            )
            .env("HOME", &here);
        let mut terminal = Terminal::start(command, 140, 80).unwrap();
        if example.contains(" top") {
            let table = |screen: &str| screen.contains("WORKSTATION");
            terminal.wait("the table", table).unwrap();
            terminal.press("q").unwrap();
        } else if example.contains("--encrypt") {
            let asked = |screen: &str| screen.contains("Passphrase");
            terminal.wait("the passphrase", asked).unwrap();
            terminal.press("\n").unwrap();
        } else if example.contains(".age") {
            let asked = |screen: &str| screen.contains("Passphrase");
            terminal.wait("the passphrase", asked).unwrap();
            terminal.press("six words or so\n").unwrap();
        }
        if example.contains(" watch") {
            wait_for("watch to end", std::time::Duration::from_secs(20), || {
                let _ = terminal.press("\x03");
                terminal.has_ended().then_some(())
            })
            .unwrap();
        }
        match terminal.ended() {
            Ok(status)
                if status
                    .code()
                    .is_some_and(|code| codes(example).contains(&code)) => {}
            other => failed.push(format!(
                "`{example}` of {page} --help: {other:?}\n{}",
                terminal.screen()
            )),
        }
        // One that has made its own keys has no private key in its enrolment file.
        if example.contains("add alpha --public-key") {
            gateway.cli("workstation remove alpha").unwrap();
        }
        if example.contains("agent down") {
            alpha.stop().unwrap();
            alpha.launch().unwrap();
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn a_line_of_help_is_an_example_without_its_explanation() {
    for (line, found) in [
        ("  portcullis show    everything", Some("portcullis show")),
        (
            "  portcullis show | jq '.a b'",
            Some("portcullis show | jq '.a b'"),
        ),
        (
            "  NO_COLOR=1 portcullis show  plain",
            Some("NO_COLOR=1 portcullis show"),
        ),
        ("  0  all is well", None),
        ("Examples:", None),
        ("portcullis", None),
    ] {
        assert_eq!(example(line), found, "{line}");
    }
}
