//! Every example in every help page runs as it is written: at a terminal, with the default paths, on a
//! Gateway `eth1` and `eth2` of which are cabled to the Workstations `alpha` and `beta`, or on one of
//! those. Needs root and the programs (`cargo xtask test` builds them).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::cli::{self, help};
use portcullis_xtask::rig::*;
use portcullis_xtask::{arguments, tasks};

/// A passphrase, where an example asks for one.
const PASSPHRASE: &str = "six words or so\r";

/// What an example does, without the comment that explains it: for telling what it needs. It is run with it.
fn without_comment(example: &str) -> &str {
    example.split(" #").next().unwrap_or(example).trim_end()
}

/// All examples of a program and its subcommands, each with the page it is on. A page without one fails.
fn examples(command: &clap::Command, page: &str, all: &mut Vec<(String, String)>) {
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let own = help::examples(&help);
    assert!(!own.is_empty(), "{page} --help has no example");
    all.extend(own.into_iter().map(|one| (page.to_owned(), one.to_owned())));
    let shown = |one: &&clap::Command| !one.is_hide_set() && one.get_name() != "help";
    for subcommand in command.get_subcommands().filter(shown) {
        examples(
            subcommand,
            &format!("{page} {}", subcommand.get_name()),
            all,
        );
    }
}

fn all_of(command: &clap::Command) -> Vec<(String, String)> {
    let mut all = Vec::new();
    examples(command, command.get_name(), &mut all);
    all
}

/// A script in place of a program that this machine has not: a camera, a service manager.
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

/// The machine that an example is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// The Gateway, which serves.
    Gateway,
    /// A machine with the Gateway's cables and configuration, and no daemon.
    Spare,
    /// Workstation alpha, whose agent is up.
    Alpha,
    /// A Workstation that is not enrolled.
    Fresh,
    /// Workstation alpha, whose agent is not up.
    Stopped,
}

fn machine(example: &str) -> On {
    let has = |word: &str| example.contains(word);
    if has("portcullis-agent up") {
        On::Stopped
    } else if has("portcullis-agent enroll --replace") {
        On::Alpha
    } else if has("portcullis-agent enroll") || has("portcullis-agent keygen") {
        On::Fresh
    } else if has("portcullis-agent") {
        On::Alpha
    } else if has("portcullisd") || has("portcullis init") {
        On::Spare
    } else {
        On::Gateway
    }
}

/// How an example that stays is ended: once the screen has this, these keys.
fn stays(example: &str) -> Option<(&'static str, &'static str)> {
    let program = example.rsplit("RUST_LOG=debug ").next().unwrap_or(example);
    let word = |word: &str| example.split(' ').any(|one| one == word);
    match program {
        "portcullisd" => Some(("ready", "\x03")),
        "portcullis-agent up" => Some(("the tunnel is up", "\x03")),
        _ if word("top") => Some(("WORKSTATION", "q")),
        _ if word("watch") => Some(("Ctrl-C ends it", "\x03")),
        _ => None,
    }
}

/// What an example ends with: 0, but for these.
fn codes(example: &str) -> &'static [i32] {
    match example {
        // What is looked at may not be all well on the machine that this runs on.
        line if line.contains(" doctor") => &[0, 1],
        line if line.starts_with("portcullis status") => &[0, 1, 2],
        line if line.starts_with("portcullis-agent status") => &[0, 1],
        _ => &[0],
    }
}

struct Rig {
    programs: Programs,
    gateway: Gateway,
    alpha: Workstation,
    spare: Arc<Namespace>,
    /// Where the other ends of the cables are.
    _far: Arc<Namespace>,
    /// What stands for programs that this machine has not, and Portcullis's own.
    bin: PathBuf,
    /// The example before.
    before: String,
    scratch: Scratch,
}

impl Rig {
    fn new() -> Self {
        let programs = Programs::find().unwrap();
        let host = |name| Arc::new(Namespace::create(name).unwrap());
        let (gw, alpha, spare, far) = (host("gw"), host("alpha"), host("spare"), host("far"));
        for (near, (other, end)) in [("eth1", (&alpha, "eth1")), ("eth2", (&far, "eth1"))] {
            veth((&gw, near), (other, end), 1500).unwrap();
        }
        for near in ["eth1", "eth2"] {
            veth((&spare, near), (&far, &format!("{near}s")), 1500).unwrap();
        }
        gw.ip("link set dev eth1 address 02:00:00:00:00:01")
            .unwrap();
        let mut gateway = Gateway::new(&programs, gw, &["eth1", "eth2"]).unwrap();
        gateway.start().unwrap();
        let mut alpha = Workstation::new(&programs, alpha, "eth1").unwrap();
        let file = gateway.directory().join("alpha.enrolment");
        let add = format!("workstation add alpha --output {}", file.display());
        gateway.cli(&add).unwrap();
        alpha.enroll(&file).unwrap();
        alpha.start().unwrap();
        let scratch = Scratch::new("examples").unwrap();
        let bin = scratch.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["portcullis", "portcullisd", "portcullis-agent"] {
            std::os::unix::fs::symlink(programs.path(name), bin.join(name)).unwrap();
        }
        let units = tasks::root().unwrap().join("packaging");
        let unit = format!(
            "[ \"$1 $2\" = 'enable --now' ] && exec test -e {}/$3.service",
            units.display()
        );
        script(&bin, "systemctl", &unit);
        script(&bin, "zbarcam", "cat alpha.enrolment");
        Self {
            programs,
            gateway,
            alpha,
            spare,
            _far: far,
            bin,
            before: String::new(),
            scratch,
        }
    }

    /// Everybody as they were before the example before.
    fn restore(&mut self, here: &Path, example: &str) {
        let before = std::mem::replace(&mut self.before, example.to_owned());
        // Its keys, rules and state are what they were when it was added.
        let others = ["key ", "allow", "remove", "disable", "set ", "add alpha"];
        if others.iter().any(|word| before.contains(word)) {
            self.gateway.cli("key retire --force").unwrap();
            let _ = self.gateway.remove("alpha");
        }
        let enrolled = |name: &str| self.gateway.show().unwrap().workstation(name).is_some();
        for name in ["beta", "gamma", "delta", "epsilon", "zeta"] {
            if enrolled(name) {
                self.gateway.remove(name).unwrap();
            }
        }
        // Others may be named in rules.
        let added = example.split(' ').skip_while(|word| *word != "add").nth(1);
        if added == Some("alpha") {
            let _ = self.gateway.remove("alpha");
        } else if !enrolled("alpha") {
            let file = here.join("again");
            let add = format!("workstation add alpha --output {}", file.display());
            self.gateway.cli(&add).unwrap();
            self.alpha.stop().unwrap();
            let mut enroll = self.alpha.agent("enroll --replace");
            assert!(enroll.arg(&file).output().unwrap().status.success());
        }
        if added != Some("beta") {
            self.gateway.add("beta").unwrap();
            fs::remove_file(self.gateway.directory().join("beta.enrolment")).unwrap();
        }
        if machine(example) == On::Stopped {
            self.alpha.stop().unwrap();
        } else if added != Some("alpha") {
            if self
                .alpha
                .process()
                .is_none_or(|agent| agent.exited().is_some())
            {
                self.alpha.launch().unwrap();
            }
            self.alpha.wait_connected(Duration::from_secs(20)).unwrap();
        }
    }

    /// The files that examples are about, in the directory where one runs.
    fn lay_out(&self, here: &Path, example: &str) {
        let path = |name: &str| here.join(name).display().to_string();
        if example.contains("--cancel") {
            let rotate = format!("workstation rotate alpha --output {}", path("pending"));
            self.gateway.cli(&rotate).unwrap();
        }
        if example.contains("portcullis-agent enroll") {
            let rotate = "workstation rotate alpha --output";
            self.gateway
                .cli(&format!("{rotate} {}", path("alpha.enrolment")))
                .unwrap();
            fs::write(here.join("secret"), PASSPHRASE.trim_end()).unwrap();
            let encrypted = format!(
                "workstation rotate alpha --encrypt --passphrase-file {} --output {}",
                path("secret"),
                path("alpha.enrolment.age")
            );
            if example.contains(".age") {
                self.gateway.cli(&encrypted).unwrap();
            }
        }
        for name in ["alpha.public", "zeta.public"] {
            if example.contains(&format!("--public-key {name}")) {
                let state = here.join("elsewhere.toml");
                let text = format!("state_directory = \"{}\"\n", path("elsewhere"));
                fs::write(&state, text).unwrap();
                let mut keygen = std::process::Command::new(self.programs.path("portcullis-agent"));
                keygen
                    .arg("--config")
                    .arg(&state)
                    .args(["keygen", "--output"]);
                assert!(
                    keygen
                        .arg(here.join(name))
                        .output()
                        .unwrap()
                        .status
                        .success()
                );
            }
        }
        for name in ["new.toml", "test.toml"] {
            fs::copy(self.gateway.config(), here.join(name)).unwrap();
        }
        if !example.contains("--write") {
            for name in ["drops.pcapng", "dropped.pcapng"] {
                fs::write(here.join(name), capture()).unwrap();
            }
        }
    }

    /// Runs an example as it stands on its page, and says what was wrong.
    fn run(&mut self, here: &Path, line: &str) -> Result<(), String> {
        let example = without_comment(line);
        let on = machine(example);
        let host = match on {
            On::Gateway => self.gateway.namespace(),
            On::Spare => &self.spare,
            On::Alpha | On::Stopped | On::Fresh => self.alpha.namespace(),
        };
        // Where there is a daemon the paths of the configuration are its own; else the usual ones are
        // empty.
        let own = match on {
            On::Gateway => format!("cp {} portcullis.toml", self.gateway.config().display()),
            On::Alpha | On::Stopped => format!("cp {} agent.toml", self.alpha.config().display()),
            On::Spare if example.contains("portcullisd") => {
                "portcullis init --port eth1 --port eth2 > /dev/null".to_owned()
            }
            On::Spare | On::Fresh => ":".to_owned(),
        };
        let usual = match on {
            On::Spare | On::Fresh => "mount -t bpf none /sys/fs/bpf",
            _ => ":",
        };
        let layout = format!(
            "set -e; umask 022; here=$PWD
             mount -t tmpfs none /mnt; mkdir /mnt/up /mnt/work
             mount -t overlay -o lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work none /etc
             rm -rf /etc/portcullis; mkdir /etc/portcullis; cd /etc/portcullis; {own}; cd $here
             mount -t tmpfs none /media; mkdir /media/usb
             if [ -e alpha.enrolment ]; then cp -p alpha.enrolment /media/usb; fi
             exec sh -mc \"$0\""
        );
        let empty = "mount -t tmpfs none /var/lib; mount -t tmpfs none /run;";
        let layout = layout.replacen("mount", &format!("{empty} {usual}; mount"), 1);
        let mut command = host.command("setsid");
        command
            .args([
                "--ctty", "--wait", "unshare", "--mount", "sh", "-c", &layout,
            ])
            .arg(line)
            .current_dir(here)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display()),
            )
            .env("HOME", here)
            .env_remove("RUST_LOG");
        let mut terminal = Terminal::start(command, 140, 80).unwrap();
        let told = |error: anyhow::Error| format!("{error:#}");
        let mut answer = |question: &str, keys: &str| {
            terminal
                .wait(question, |screen| screen.contains(question))
                .map_err(told)?;
            terminal.press(keys).map_err(told)
        };
        if let Some((shown, keys)) = stays(example) {
            answer(shown, keys)?;
        } else if example.contains("--encrypt") {
            answer("Passphrase", PASSPHRASE)?;
            answer("Once more", PASSPHRASE)?;
        } else if example.contains(".age") {
            answer("Passphrase", PASSPHRASE)?;
        }
        let ended = terminal.ended().map_err(told)?.code();
        match ended.is_some_and(|code| codes(example).contains(&code)) {
            true => Ok(()),
            false => Err(format!("ended with {ended:?}\n{}", terminal.screen())),
        }
    }
}

#[test]
fn every_help_page_has_examples_and_each_runs_as_it_is_written() {
    require_root().unwrap();
    let _turn = Serial::acquire().unwrap();
    let mut rig = Rig::new();
    let mut all: Vec<_> = cli::commands().iter().flat_map(all_of).collect();
    let bare = |one: &(String, String)| without_comment(&one.1).to_owned();
    all.dedup_by_key(|one| bare(one));
    assert!(all.len() > 70, "only {} were found", all.len());
    // One of them, to look into it: `EXAMPLE='portcullis watch' cargo test --test e2e_examples`.
    if let Ok(only) = std::env::var("EXAMPLE") {
        all.retain(|(_, example)| example.contains(&only));
    }
    let mut failed = Vec::new();
    for (at, (page, example)) in all.iter().enumerate() {
        let here = rig.scratch.path().join(at.to_string());
        fs::create_dir(&here).unwrap();
        let bare = without_comment(example);
        rig.restore(&here, bare);
        rig.lay_out(&here, bare);
        match rig.run(&here, example) {
            Ok(()) => println!("{example}"),
            Err(wrong) => failed.push(format!("`{example}` of {page} --help: {wrong}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Tasks that take minutes, build everything or change the tree: continuous integration and developers run
/// them, so of their examples it is tried only that they are understood.
const LONG: [&str; 10] = [
    "attack", "bench", "ci", "demo", "dist", "fuzz", "lint", "test", "unsafe", "vm-test",
];

#[test]
fn every_example_of_the_developers_tasks_is_understood_and_the_short_ones_run() {
    let scratch = Scratch::new("tasks").unwrap();
    let all = all_of(&arguments::command());
    assert!(all.len() > 10, "only {} were found", all.len());
    for (page, example) in &all {
        let words: Vec<&str> = without_comment(example).split(' ').collect();
        assert_eq!(words[..2], ["cargo", "xtask"], "{page}");
        let understood = arguments::command().try_get_matches_from(&words[1..]);
        assert!(understood.is_ok(), "{example}: {}", understood.unwrap_err());
        if LONG.contains(&words[2]) {
            continue;
        }
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(&words[2..])
            .current_dir(scratch.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{example}: {errors}");
    }
}
