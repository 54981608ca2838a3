//! `top` of both programs at a terminal of 80 columns and 24 rows, with traffic. Needs root and the
//! programs (`cargo xtask test` builds them).

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portcullis_xtask::rig::*;

const SOON: Duration = Duration::from_secs(20);

fn programs() -> Programs {
    require_root().unwrap();
    Programs::find().unwrap()
}

/// `portcullis top` on the Gateway, at a terminal that it controls.
fn top(rig: &Many, columns: u16, rows: u16) -> Terminal {
    let mut command = rig.gateway.namespace().command("setsid");
    command
        .args(["--ctty", "--wait"])
        .arg(programs().path("portcullis"))
        .arg("--config")
        .arg(rig.gateway.config())
        .args(["top", "--interval", "0.2"]);
    Terminal::start(command, columns, rows).unwrap()
}

/// Whether the terminal is as a shell wants it.
fn is_restored(terminal: &Terminal) -> bool {
    !terminal.has_own_screen() && !terminal.hides_cursor() && terminal.is_ordinary().unwrap()
}

#[test]
fn top_shows_rates_sorts_filters_goes_into_details_and_quits_cleanly() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 3).unwrap();
    rig.start().unwrap();
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let to = (GATEWAY_V4.into(), 7);
    let start = |at: usize, every| {
        let host = rig.workstations[at].namespace();
        Probe::start(host, to, Duration::from_micros(every), 600).unwrap()
    };
    // The second is ten times as busy as the first, and the third does nothing.
    let _busy = [start(0, 5000), start(1, 500)];
    let mut terminal = top(&rig, 80, 24);
    let row = |screen: &str, name: &str| {
        let lines = screen.lines();
        lines.clone().position(|line| line.starts_with(name))
    };
    let sorted = |screen: &str, names: [&str; 3]| {
        let rows = names.map(|name| row(screen, name));
        rows[0].is_some() && rows[0] < rows[1] && rows[1] < rows[2]
    };
    let screen = terminal
        .wait("rates, the busiest first, and bars", |screen| {
            sorted(screen, ["w2", "w1", "w3"])
                && screen.contains("k/s")
                && screen.matches(['▇', '█']).count() > 12
                && screen.contains("cores 0@")
        })
        .unwrap();
    println!("{screen}\n{}", rig.gateway.cli("show").unwrap());
    assert!(screen.contains("ports 1/1  in session 3/3"), "{screen}");
    assert!(screen.contains("q quit"), "{screen}");
    // Sorted by name, and the other way round.
    terminal.press("sss").unwrap();
    let by_name = |screen: &str| screen.contains("by name") && sorted(screen, ["w1", "w2", "w3"]);
    terminal.wait("the order by name", by_name).unwrap();
    terminal.press("r").unwrap();
    let reversed = |screen: &str| sorted(screen, ["w3", "w2", "w1"]);
    terminal.wait("the order turned round", reversed).unwrap();
    terminal.press("/w2\r").unwrap();
    terminal
        .wait("only w2", |screen| {
            row(screen, "w2").is_some() && row(screen, "w1").is_none()
        })
        .unwrap();
    terminal.press("\r").unwrap();
    let screen = terminal
        .wait("everything about w2", |screen| {
            screen.contains("workstation w2") && screen.contains("admitted")
        })
        .unwrap();
    println!("{screen}");
    assert!(screen.contains("encrypt aes-256-gcm"), "{screen}");
    // Back, the filter given up, and out.
    terminal.press("\x1b").unwrap();
    terminal
        .wait("the table", |screen| screen.contains("only w2"))
        .unwrap();
    assert!(terminal.has_own_screen());
    terminal.press("q").unwrap();
    assert!(terminal.ended().unwrap().success());
    assert!(is_restored(&terminal));
}

#[test]
fn top_gives_the_terminal_back_on_signals_and_stays_when_the_daemon_goes() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.start().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut terminal = top(&rig, 80, 24);
        terminal
            .wait("the table", |screen| screen.contains("WORKSTATION"))
            .unwrap();
        assert!(!terminal.is_ordinary().unwrap(), "keys are not shown");
        terminal.signal(signal).unwrap();
        assert!(terminal.ended().unwrap().success(), "{signal}");
        assert!(is_restored(&terminal), "after {signal}");
    }
    let mut terminal = top(&rig, 80, 24);
    terminal
        .wait("the table", |screen| screen.contains("WORKSTATION"))
        .unwrap();
    rig.gateway.kill();
    terminal
        .wait("that nobody answers", |screen| {
            screen.contains("no answer, trying again") && screen.contains("w1")
        })
        .unwrap();
    rig.gateway.start().unwrap();
    terminal
        .wait("an answer again", |screen| !screen.contains("no answer"))
        .unwrap();
    // Keys work all the while.
    terminal.press("\x03").unwrap();
    assert!(terminal.ended().unwrap().success());
    assert!(is_restored(&terminal));
}

#[test]
fn top_ends_on_signals_and_gives_the_terminal_back_when_nobody_reads_it() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.start().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = top(&rig, 80, 24);
        terminal
            .wait("the table", |screen| screen.contains("WORKSTATION"))
            .unwrap();
        let pid = terminal.program().unwrap();
        terminal.leave_unread(true);
        // Another size is drawn afresh: as often as it takes until there is no room for more.
        let mut rows = 24;
        let full = Duration::from_millis(300);
        wait_for("nothing more to be taken", Duration::from_secs(60), || {
            rows ^= 1;
            terminal.resize(80, rows).unwrap();
            wait_for("a write", full, || is_writing(pid).then_some(())).ok()?;
            // One that is taken has ended by then.
            pause(full).unwrap();
            is_writing(pid).then_some(())
        })
        .unwrap();
        let told = Instant::now();
        terminal.signal(signal).unwrap();
        assert!(terminal.ended().unwrap().success(), "{signal}");
        let took = told.elapsed();
        assert!(took < Duration::from_secs(5), "{signal}: {took:?}");
        terminal.leave_unread(false);
        wait_for("the terminal to be given back", SOON, || {
            is_restored(&terminal).then_some(())
        })
        .unwrap_or_else(|error| panic!("{signal}: {error:#}"));
    }
}

/// Which thread panics in [`a_program_that_panics_at_its_terminal`].
const PANICS: &str = "PORTCULLIS_TEST_PANICS";

/// No test by itself: what the test below runs at a terminal.
#[test]
#[ignore = "run by another"]
fn a_program_that_panics_at_its_terminal() {
    let who = std::env::var(PANICS).unwrap();
    let _ = control::top::at_terminal::<()>(|terminal| {
        terminal.draw(|frame| frame.render_widget("drawn", frame.area()))?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        match who.as_str() {
            "itself" => panic!("on purpose"),
            _ => drop(std::thread::spawn(|| panic!("on purpose")).join()),
        }
        std::process::exit(7)
    });
}

#[test]
fn a_panic_of_any_thread_gives_the_terminal_back_and_is_read_on_it() {
    for (who, code) in [("itself", 101), ("another", 7)] {
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("a_program_that_panics_at_its_terminal")
            .env("RUST_BACKTRACE", "0")
            .env(PANICS, who);
        let mut terminal = Terminal::start(command, 80, 24).unwrap();
        terminal
            .wait("what it draws", |screen| screen.contains("drawn"))
            .unwrap();
        assert!(terminal.has_own_screen() && !terminal.is_ordinary().unwrap());
        terminal.press("\r\n").unwrap();
        assert_eq!(terminal.ended().unwrap().code(), Some(code), "{who}");
        let told = |screen: &str| screen.contains("on purpose");
        terminal.wait("the panic's message", told).unwrap();
        assert!(is_restored(&terminal), "{who}");
    }
}

#[test]
fn the_agent_has_the_same_and_without_a_terminal_it_is_refused() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.start().unwrap();
    let agent = rig.workstations[0].agent("top");
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(agent.get_program());
    command.args(agent.get_args());
    // The agent's socket is a file: no namespace is needed to reach it.
    let mut terminal = Terminal::start(command, 80, 24).unwrap();
    let screen = terminal
        .wait("the agent's table", |screen| {
            screen.contains("portcullis-agent") && screen.contains("in session 1/1")
        })
        .unwrap();
    assert!(screen.contains("w1"), "{screen}");
    // What comes from the Gateway is opened here.
    let _echo = Echo::start(rig.gateway.namespace(), 7).unwrap();
    let host = rig.workstations[0].namespace();
    let _busy = Probe::start(host, (GATEWAY_V4.into(), 7), Duration::from_millis(1), 600).unwrap();
    terminal
        .wait("what is opened", |screen| {
            screen.contains("AEAD opened") && !screen.contains("AEAD opened 0/s")
        })
        .unwrap();
    let queue = rig.workstations[0].status().unwrap()["queue"].clone();
    assert!(queue["limit"].as_u64().unwrap() > 0, "{queue}");
    terminal.press("q").unwrap();
    assert!(terminal.ended().unwrap().success());
    let refused = format!("{:#}", rig.gateway.cli("top").unwrap_err());
    assert!(refused.contains("no terminal"), "{refused}");
}

#[test]
fn what_is_shown_has_colours_at_a_terminal_unless_no_color_asks_for_none() {
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 1).unwrap();
    rig.start().unwrap();
    let at_a_terminal = |setting: &str, words: &[&str]| {
        let mut command = rig.gateway.namespace().command("setsid");
        command.args(["--ctty", "--wait", "env", setting]);
        command
            .arg(programs().path("portcullis"))
            .arg("--config")
            .arg(rig.gateway.config())
            .args(words);
        Terminal::start(command, 120, 40).unwrap()
    };
    for (setting, colours) in [("NO_COLOR=", true), ("NO_COLOR=1", false)] {
        for (words, shown) in [
            (&["show"][..], "in session"),
            (&["status"], "Workstations"),
            (&["doctor"], "[ OK ]"),
            (&["top"], "WORKSTATION"),
        ] {
            let terminal = at_a_terminal(setting, words);
            terminal
                .wait(shown, |screen| screen.contains(shown))
                .unwrap();
            assert_eq!(terminal.has_colours(), colours, "{setting} {words:?}");
        }
    }
}

#[test]
fn a_passphrase_and_a_picture_work_at_a_terminal() {
    let _turn = Serial::acquire().unwrap();
    let rig = many(&programs(), 1).unwrap();
    let add = |arguments: &[&str], columns, rows| {
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(programs().path("portcullis"))
            .arg("--config")
            .arg(rig.gateway.config())
            .args(["workstation", "add"])
            .args(arguments)
            .current_dir(rig.gateway.directory());
        Terminal::start(command, columns, rows).unwrap()
    };
    // Typed twice, and never shown.
    let mut terminal = add(&["typed", "--encrypt"], 80, 24);
    terminal
        .wait("the question", |screen| screen.contains("Passphrase"))
        .unwrap();
    terminal.press_hidden("six words or so\n").unwrap();
    terminal
        .wait("the second", |screen| screen.contains("Once more"))
        .unwrap();
    terminal.press_hidden("six words or so\n").unwrap();
    assert!(terminal.ended().unwrap().success(), "{}", terminal.screen());
    let said = |screen: &str| screen.contains("Added the Workstation typed");
    let screen = terminal.wait("the answer", said).unwrap();
    assert!(!screen.contains("six words"), "{screen}");
    // None typed: one is made, and shown.
    let mut terminal = add(&["made", "--encrypt"], 80, 24);
    terminal
        .wait("the question", |screen| screen.contains("Passphrase"))
        .unwrap();
    terminal.press("\n").unwrap();
    assert!(terminal.ended().unwrap().success(), "{}", terminal.screen());
    let shown = |screen: &str| screen.contains("The passphrase is:");
    terminal.wait("the passphrase", shown).unwrap();
    // A picture that does not fit adds nothing.
    let mut terminal = add(&["picture", "--qr"], 80, 24);
    assert!(!terminal.ended().unwrap().success());
    let told = |screen: &str| screen.contains("was not added");
    terminal.wait("the refusal", told).unwrap();
    let mut terminal = add(&["picture", "--qr"], 140, 80);
    assert!(terminal.ended().unwrap().success(), "{}", terminal.screen());
    let seen = |screen: &str| screen.contains("▀▄") || screen.contains("▄▀");
    terminal.wait("the picture", seen).unwrap();
}

#[test]
fn every_answer_comes_within_a_fifth_of_a_second() {
    const MOST: Duration = Duration::from_millis(200);
    let _turn = Serial::acquire().unwrap();
    let mut rig = many(&programs(), 3).unwrap();
    rig.start().unwrap();
    let mut slow = Vec::new();
    for command in [
        "show",
        "show workstation w1",
        "show port lan",
        "dump",
        "status",
        "check",
        "reload",
        "workstation list",
        "workstation allow w1 -any +udp/7",
        "workstation allow w1 -udp/7 +any",
        "workstation disable w3",
        "workstation enable w3",
        "completions bash",
        "--help",
    ] {
        // The best of some: the machine does other things too.
        let took = |_| {
            let start = Instant::now();
            // What cannot be done a second time says so as fast.
            let _ = rig.gateway.cli(command);
            start.elapsed()
        };
        let best = (0..7).map(took).min().unwrap();
        println!("{command:<36} {best:?}");
        if best > MOST {
            slow.push(format!("{command}: {best:?}"));
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}
