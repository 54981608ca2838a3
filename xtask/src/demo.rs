//! The demo: a Gateway, three Workstations and an attacker in namespaces, everything shown to work,
//! then every attack, in about a minute.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::attack::{Bounds, CATALOGUE, Outcome, Suite};
use crate::report::{Table, bits, count, time};
use crate::rig::{
    Demo, Download, Echo, GATEWAY_V4, GATEWAY_V6, HttpServer, Namespace, Ping, Probe, ProbeReport,
    Programs, Rates, Serial, body_sha256, check, demo, download, iperf3_all, pause, ping,
    require_root, sweep,
};

const HTTP: u16 = 8080;
const ECHO: u16 = 7;
const DOWNLOAD: u64 = 256 << 20;
/// What is needed beside the parts that `--seconds` stretches: start, pings, download, restart.
const FIXED_SECONDS: f64 = 20.0;

/// How the demo is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// About how long it takes.
    pub seconds: u32,
    /// Leave directories and logs in place.
    pub keep: bool,
    /// Where to write all figures.
    pub json: Option<PathBuf>,
}

/// Everything the demo measures.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// By Workstation.
    pub workstations: Vec<PerWorkstation>,
    /// The download.
    pub download: Option<DownloadFigures>,
    /// The rekeys in mid-stream.
    pub rekey: Option<RekeyFigures>,
    /// The victim's goodput before the attacks, bits a second.
    pub victim_baseline_bits_per_second: f64,
    /// The attacks.
    pub attacks: Vec<Outcome>,
    /// Sentences about what did not hold.
    pub broken: Vec<String>,
    /// How long all of it took.
    pub seconds: f64,
}

/// What was measured of one Workstation.
#[derive(Debug, Default, Serialize)]
pub struct PerWorkstation {
    /// Its name.
    pub name: String,
    /// Mean round trip through the tunnel.
    pub ping_us: f64,
    /// TCP goodput to the Gateway, all Workstations at once and both ways.
    pub tcp_up_bits_per_second: f64,
    /// TCP goodput from the Gateway.
    pub tcp_down_bits_per_second: f64,
    /// From `kill -9` of the daemon to the first echo of a datagram sent after it.
    pub outage_ms: f64,
}

/// The download.
#[derive(Debug, Serialize)]
pub struct DownloadFigures {
    /// Bytes.
    pub bytes: u64,
    /// Of what was received.
    pub sha256: String,
    /// Of what was sent.
    pub expected_sha256: String,
    /// Bits a second.
    pub bits_per_second: f64,
    /// Rekeys while it ran.
    pub rekeys: u64,
}

/// The rekeys under a steady stream of datagrams.
#[derive(Debug, Serialize)]
pub struct RekeyFigures {
    /// Rekeys.
    pub rekeys: u64,
    /// Datagrams sent meanwhile, one a millisecond.
    pub datagrams: usize,
    /// Of these, without an echo.
    pub lost: usize,
}

/// Runs the demo.
///
/// # Errors
/// When something cannot be set up, or something that must hold does not.
pub fn run(options: &Options) -> Result<()> {
    require_root()?;
    let programs = Programs::find()?;
    sweep();
    let _turn = Serial::acquire()?;
    let start = Instant::now();
    let mut figures = Figures::default();
    let ended = show(options, &programs, &mut figures);
    figures.seconds = start.elapsed().as_secs_f64();
    if let Err(error) = &ended {
        figures.broken.push(format!("{error:#}"));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&figures).context("writing JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    ended?;
    if !figures.broken.is_empty() {
        bail!(
            "the demo ran, but not everything held:\n  {}",
            figures.broken.join("\n  ")
        );
    }
    println!(
        "\nEverything held, in {:.0} s. Namespaces, pins and processes are removed.",
        figures.seconds
    );
    Ok(())
}

fn show(options: &Options, programs: &Programs, figures: &mut Figures) -> Result<()> {
    let spare = (f64::from(options.seconds) - FIXED_SECONDS).max(10.0);
    let tcp_seconds = (spare / 8.0).clamp(2.0, 30.0) as u32;
    let per_attack = Duration::from_secs_f64(
        ((spare - f64::from(tcp_seconds)) / CATALOGUE.len() as f64 - 0.3).max(0.3),
    );

    println!(
        "Portcullis: one Gateway, three Workstations, one attacker, each a network namespace\n"
    );
    println!("    ws1 ---------------- ws1 [        ]");
    println!("    ws2 --+                  [ gw     ]  {GATEWAY_V4}  {GATEWAY_V6}");
    println!("    ws3 --+- LAN ------- lan [        ]");
    println!("   evil --+\n");

    let step = Step::begin("Gateway up, three Workstations enrolled by file, in session");
    let mut all = demo(programs)?;
    if options.keep {
        all.gateway.keep();
        all.workstations.iter_mut().for_each(|w| w.keep());
    }
    all.lan.hub(true)?;
    let heard = Suite::eavesdrop(&all)?;
    all.start()?;
    all.lan.hub(false)?;
    let _http = HttpServer::start(all.gateway.namespace(), HTTP)?;
    let _echo = Echo::start(all.gateway.namespace(), ECHO)?;
    let mut addresses = Vec::new();
    for workstation in &all.workstations {
        addresses.push(format!("{} {}", workstation.name(), workstation.address()?));
    }
    step.done(&addresses.join(", "));

    pings(&all, figures)?;
    throughput(&all, tcp_seconds, figures)?;
    file(&mut all, figures)?;
    rekeys(&mut all, figures)?;
    restart(&mut all, figures)?;
    println!();
    let mut table = Table::new(&[
        "through the tunnel",
        "ping",
        "TCP up",
        "TCP down",
        "outage after kill -9",
    ]);
    for w in &figures.workstations {
        table.row([
            w.name.clone(),
            format!("{:.0} us", w.ping_us),
            bits(w.tcp_up_bits_per_second),
            bits(w.tcp_down_bits_per_second),
            format!("{:.0} ms", w.outage_ms),
        ]);
    }
    print!("{}", table.render());
    attacks(&mut all, &heard, per_attack, figures)?;
    if options.keep {
        println!("\n  kept: {}", all.gateway.directory().display());
        for workstation in &all.workstations {
            println!("        {}", workstation.directory().display());
        }
    }
    Ok(())
}

fn hosts(all: &Demo) -> Vec<&Namespace> {
    let each = all.workstations.iter();
    each.map(|w| w.namespace().as_ref()).collect()
}

fn pings(all: &Demo, figures: &mut Figures) -> Result<()> {
    let step =
        Step::begin("ping through the tunnel, IPv4 and IPv6, payloads from 0 bytes to the MTU");
    let mut sum = Ping::default();
    for workstation in &all.workstations {
        let most = workstation.tunnel_mtu()? - 48;
        let mut own = Ping::default();
        for to in [GATEWAY_V4.into(), GATEWAY_V6.into()] {
            let sizes = (0..=most).step_by(13).chain([most]);
            let got = ping(workstation.namespace(), to, sizes, Duration::from_secs(1))?;
            ensure!(
                got.sent == got.answered,
                "{} of {} pings from {} to {to} were not answered",
                got.sent - got.answered,
                got.sent,
                workstation.name()
            );
            own.sent += got.sent;
            own.answered += got.answered;
            own.total += got.total;
        }
        figures.workstations.push(PerWorkstation {
            name: workstation.name().to_owned(),
            ping_us: own.mean().unwrap_or_default().as_secs_f64() * 1e6,
            ..PerWorkstation::default()
        });
        sum.sent += own.sent;
        sum.answered += own.answered;
        sum.total += own.total;
    }
    let mean = sum.mean().unwrap_or_default();
    step.done(&format!(
        "{} of {} answered, {} on average",
        sum.answered,
        sum.sent,
        time(mean)
    ));
    Ok(())
}

fn throughput(all: &Demo, seconds: u32, figures: &mut Figures) -> Result<()> {
    let step = Step::begin(&format!(
        "TCP both ways, all Workstations at once, {seconds} s (iperf3)"
    ));
    let gateway = all.gateway.namespace();
    let rates = iperf3_all(gateway, GATEWAY_V4.into(), &hosts(all), seconds)?;
    let total: f64 = rates.iter().map(|Rates { up, down }| up + down).sum();
    for (workstation, rate) in figures.workstations.iter_mut().zip(&rates) {
        ensure!(
            rate.up > 0.0 && rate.down > 0.0,
            "{} transferred nothing in one direction",
            workstation.name
        );
        workstation.tcp_up_bits_per_second = rate.up;
        workstation.tcp_down_bits_per_second = rate.down;
    }
    step.done(&format!("{} in total", bits(total)));
    Ok(())
}

/// The download, with a rekey in the middle of it.
fn file(all: &mut Demo, figures: &mut Figures) -> Result<()> {
    let step = Step::begin("256 MiB over HTTP to ws1, a rekey half way, SHA-256 compared");
    let workstation = &mut all.workstations[0];
    let namespace = std::sync::Arc::clone(workstation.namespace());
    let before = workstation.rekeys()?;
    let progress = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let got: Download = std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            let got = download(&namespace, (GATEWAY_V4.into(), HTTP), DOWNLOAD, &progress);
            ended.store(true, Ordering::Release);
            got
        });
        let mut rekeyed = Ok(());
        let mut done = false;
        while !ended.load(Ordering::Acquire) {
            let received = progress.load(Ordering::Relaxed);
            step.progress(&format!("{} of 256 MiB", received >> 20));
            if received >= DOWNLOAD / 2 && !done {
                done = true;
                rekeyed = workstation.rekey();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let got = download
            .join()
            .map_err(|_| anyhow::anyhow!("the download panicked"))??;
        rekeyed.map(|()| got)
    })?;
    let expected = body_sha256(DOWNLOAD);
    let rekeys = workstation.rekeys()? - before;
    ensure!(
        got.sha256 == expected,
        "the download's SHA-256 is {}, and {expected} was sent",
        got.sha256
    );
    ensure!(rekeys > 0, "no rekey happened during the download");
    step.done(&format!("{}, {}...", bits(got.rate()), &got.sha256[..16]));
    figures.download = Some(DownloadFigures {
        bytes: got.bytes,
        bits_per_second: got.rate(),
        sha256: got.sha256,
        expected_sha256: expected,
        rekeys,
    });
    Ok(())
}

fn probe(namespace: &Namespace) -> Result<Probe> {
    Probe::start(
        namespace,
        (GATEWAY_V4.into(), ECHO),
        Duration::from_millis(1),
        256,
    )
}

fn rekeys(all: &mut Demo, figures: &mut Figures) -> Result<()> {
    let step =
        Step::begin("five rekeys of ws2 under a datagram each millisecond, none may be lost");
    let workstation = &mut all.workstations[1];
    let before = workstation.rekeys()?;
    let stream = probe(workstation.namespace())?;
    for _ in 0..5 {
        pause(Duration::from_millis(150))?;
        workstation.rekey()?;
    }
    pause(Duration::from_millis(150))?;
    let report = stream.finish();
    let rekeys = workstation.rekeys()? - before;
    step.done(&format!(
        "{} of {} lost in {rekeys} rekeys",
        report.lost(),
        report.sent()
    ));
    ensure!(rekeys >= 5, "only {rekeys} of 5 rekeys happened");
    ensure!(
        report.lost() == 0,
        "{} of {} datagrams were lost while ws2 rekeyed",
        report.lost(),
        report.sent()
    );
    figures.rekey = Some(RekeyFigures {
        rekeys,
        datagrams: report.sent(),
        lost: report.lost(),
    });
    Ok(())
}

/// `kill -9` of the daemon under traffic, and how long it takes until that flows again.
fn restart(all: &mut Demo, figures: &mut Figures) -> Result<()> {
    let step = Step::begin("kill -9 of portcullisd in mid-stream, started again at once");
    let probes: Vec<Probe> = hosts(all).into_iter().map(probe).collect::<Result<_>>()?;
    pause(Duration::from_millis(500))?;
    let killed = Instant::now();
    all.gateway.kill();
    all.gateway.launch()?;
    pause(Duration::from_secs(3))?;
    let reports: Vec<ProbeReport> = probes.into_iter().map(Probe::finish).collect();
    let mut worst = Duration::ZERO;
    for (report, workstation) in reports.iter().zip(&mut figures.workstations) {
        let outage = report.recovered_after(killed).with_context(|| {
            format!(
                "{} has not recovered within three seconds of the restart; the end of the daemon's log:\n{}",
                workstation.name,
                all.gateway.log_tail()
            )
        })?;
        workstation.outage_ms = outage.as_secs_f64() * 1e3;
        worst = worst.max(outage);
    }
    step.done(&format!(
        "traffic flows again after {} at most",
        time(worst)
    ));
    if worst > Duration::from_secs(1) {
        figures.broken.push(format!(
            "after kill -9 a Workstation was without traffic for {}, more than a second",
            time(worst)
        ));
    }
    Ok(())
}

fn attacks(
    all: &mut Demo,
    heard: &crate::rig::Capture,
    each: Duration,
    figures: &mut Figures,
) -> Result<()> {
    println!(
        "\nevil attacks, on a LAN that shows it everything (a hub), as fast as this machine can; the last with\n  stolen keys\n"
    );
    all.lan.hub(true)?;
    let mut suite = Suite::new(all, heard, HTTP)?;
    suite.steal_keys()?;
    figures.victim_baseline_bits_per_second = suite.baseline();
    let mut table = Table::new(&[
        "attack",
        "sent",
        "a second",
        "dropped",
        "by",
        "lost",
        "AEAD",
        "kernel",
        "ws kernels",
        "ws2 keeps",
    ]);
    for attack in CATALOGUE {
        check()?;
        let step = Step::begin(attack.name);
        let outcome = suite.run(attack, Bounds::full_speed(each))?;
        step.done(if outcome.broken.is_empty() {
            "all dropped"
        } else {
            "DID NOT HOLD"
        });
        table.row([
            outcome.name.to_owned(),
            count(outcome.sent),
            count(outcome.sent_per_second as u64),
            count(outcome.dropped),
            outcome.reasons(2),
            count(outcome.lost_on_the_way),
            count(outcome.reached_aead),
            count(outcome.reached_kernel),
            count(outcome.reached_workstation),
            format!("{:.0} %", outcome.victim_goodput * 100.0),
        ]);
        for sentence in &outcome.broken {
            figures.broken.push(format!("{}: {sentence}", outcome.name));
        }
        figures.attacks.push(outcome);
    }
    println!();
    print!("{}", table.render());
    println!(
        "\n  lost: what the Gateway's end of the cable had no room for. A few of the replayed Hellos are not\n  \
         dropped: their bucket lets them through, and each gets one Challenge, to which nobody holds the\n  \
         keys. Random frames the switch itself refuses are not counted. ws2 keeps: of {} without an attack;\n  \
         sender, switch and Gateway share this machine's {} cores. The last attack is under the\n  \
         keys of a fourth Workstation, which evil has stolen: its frames are authentic, so the AEAD opens\n  \
         them, and the inner source address fails.",
        bits(suite.baseline()),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    Ok(())
}

/// A line that says what is being shown, then how it ended.
struct Step {
    what: String,
    live: bool,
}

impl Step {
    const WIDTH: usize = 74;

    fn begin(what: &str) -> Self {
        let step = Self {
            what: what.to_owned(),
            live: std::io::stdout().is_terminal(),
        };
        step.progress("...");
        step
    }

    fn progress(&self, text: &str) {
        if self.live {
            print!(
                "\r\x1b[K  {:<width$} {text}",
                self.what,
                width = Self::WIDTH
            );
            let _ = std::io::stdout().flush();
        }
    }

    fn done(self, text: &str) {
        let start = if self.live { "\r\x1b[K" } else { "" };
        println!("{start}  {:<width$} {text}", self.what, width = Self::WIDTH);
    }
}
