//! Suite `shared`: what the kernel's own traffic keeps on an interface that is a shared port too. A real nginx on the
//! Gateway is downloaded from, and a page comes through a real Tor there, each in turn with the wall and without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::peers::install::debian;
use crate::rig::{
    HttpServer, NameServer, Namespace, Networks, Process, Programs, Scratch, TorNetwork, WAN,
    fetch, networks, pause, socks,
};

/// Where the Gateway's nginx listens.
const NGINX: u16 = 8080;
/// Where the Gateway's Tor does.
const SOCKS: u16 = 9050;
/// The page on the Internet.
const NAME: &str = "page.example";
const PAGE: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 7);
const PORT: u16 = 80;
/// The relays' address.
const RELAYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// What nginx serves; more than anyone downloads in one turn.
const FILE: u64 = 1 << 37;

/// Measures it.
///
/// # Errors
/// When a program cannot be had or does not start, or nothing comes.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (runs, seconds) = (bench.runs(5, 15), bench.seconds(2, 5));
    let task = bench.task("beside the kernel's own traffic", u64::from(runs) + 1);
    let nginx = debian("nginx-light", "nginx", &task)?;
    task.doing("starting everything");
    let mut networks = networks(&Programs::find()?, true)?;
    let scratch = Scratch::new("nginx")?;
    let _nginx = start_nginx(&networks, &nginx, scratch.path())?;
    networks
        .internet
        .ip(&format!("addr add {PAGE}/32 dev lo"))?;
    let _page = HttpServer::start(&networks.internet, PORT)?;
    let _names = NameServer::start(&networks.internet, NAME, PAGE)?;
    let tor = TorNetwork::start(&networks.internet, RELAYS)?;
    let gateway = networks.gateway.namespace().clone();
    let _tor = tor.client(&gateway, &format!("SocksPort {SOCKS}\n"))?;
    networks.start()?;
    task.step();
    let time = Duration::from_secs(seconds.into());
    let mut rates = [[(); 2]; 2].map(|two| two.map(|()| Vec::new()));
    for round in 0..runs {
        for turn in 0..2 {
            // Which comes first takes turns too.
            let walled = (turn + round) % 2 == 0;
            task.doing(if walled { "with the wall" } else { "without" });
            wall(&mut networks, walled)?;
            let from_nginx = from_nginx(&networks.internet, time)?;
            let through_tor = through_tor(&gateway, time)?;
            for (kept, rate) in rates.iter_mut().zip([from_nginx, through_tor]) {
                kept[usize::from(walled)].push(rate);
            }
        }
        task.step();
    }
    drop(task);
    for (name, what, [without, with]) in [
        (
            "nginx",
            "a download from nginx on the Gateway by the shared interface",
            &rates[0],
        ),
        (
            "tor",
            "a page that Tor on the Gateway fetches through three relays by it",
            &rates[1],
        ),
    ] {
        record(bench, name, what, without, with)?;
    }
    Ok(())
}

fn record(bench: &mut Bench, name: &str, what: &str, without: &[f64], with: &[f64]) -> Result<()> {
    let method = format!("{what}; veth, XDP in native mode, in turn with and without");
    for (kind, samples) in [("plain", without), ("walled", with)] {
        let metric = format!("shared.{name}.{kind}.gbps");
        bench.measured(metric, "Gbit/s", samples, None, &method)?;
    }
    let pairs = with.iter().zip(without);
    let ratios: Vec<f64> = pairs.map(|(with, without)| with / without).collect();
    let metric = format!("shared.{name}.ratio");
    let method = format!("{method}: with the wall over without, of the same round");
    bench.measured(metric, "x", &ratios, None, &method)?;
    Ok(())
}

/// Raises the wall on the shared port, with a session behind it, or takes it down.
fn wall(networks: &mut Networks, up: bool) -> Result<()> {
    let runs = networks.gateway.process().is_some();
    match (runs, up) {
        (false, true) => {
            networks.gateway.start()?;
            networks
                .workstation
                .wait_connected(Duration::from_secs(30))?;
        }
        (true, false) => {
            networks.gateway.stop()?;
            let lowered = networks.gateway.daemon().arg("--lower").output()?.status;
            ensure!(
                lowered.success(),
                "portcullisd --lower ended with {lowered}"
            );
        }
        _ => {}
    }
    pause(Duration::from_millis(300))
}

fn start_nginx(networks: &Networks, program: &Path, directory: &Path) -> Result<Process> {
    std::fs::File::create(directory.join("zeros"))?.set_len(FILE)?;
    let here = directory.display();
    let text = format!(
        "daemon off; master_process off; pid {here}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; root {here}; server {{ listen {NGINX}; }} }}\n"
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, text)?;
    let mut command = networks.gateway.namespace().command(program);
    command.arg("-p").arg(directory).arg("-c").arg(&file);
    Process::start("nginx", command, &directory.join("log"))
}

/// Gbit/s of what comes for so long.
fn rate(
    time: Duration,
    come: impl FnOnce(&mut (dyn FnMut(&[u8]) -> bool + Send)) -> Result<()>,
) -> Result<f64> {
    let (mut began, mut bytes) = (None, 0u64);
    let mut took = Duration::ZERO;
    come(&mut |part| {
        let began = *began.get_or_insert_with(Instant::now);
        bytes += part.len() as u64;
        took = began.elapsed();
        took < time
    })?;
    ensure!(took >= time, "it ended after {bytes} bytes");
    Ok(bytes as f64 * 8.0 / took.as_secs_f64() / 1e9)
}

fn from_nginx(internet: &Namespace, time: Duration) -> Result<f64> {
    let to: IpAddr = WAN[0].parse()?;
    rate(time, |each| {
        fetch(internet, (to, NGINX), "/zeros", each).map(drop)
    })
    .context("from nginx")
}

fn through_tor(gateway: &Namespace, time: Duration) -> Result<f64> {
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, SOCKS));
    rate(time, |each| {
        let mut page = socks(gateway, proxy, (NAME, PORT), &format!("/{FILE}"))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = std::io::Read::read(&mut page, &mut buffer)?;
            if count == 0 || !each(&buffer[..count]) {
                return Ok(());
            }
        }
    })
    .context("through Tor")
}
