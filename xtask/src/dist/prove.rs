//! Whether the packages do what they must: on machines with systemd, installed, set up, changed, upgraded
//! under traffic and removed by the recipes of docs/operations.md, as they stand there.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use wire::limits::ETHERTYPE;

use super::machine::{Machine, SHARED};
use super::recipe::{blocks, titles};
use crate::attack::{arp, ethernet};
use crate::rig::{
    Babbler, Bridge, Capture, Echo, GATEWAY_V4, NameServer, Namespace, PacketKind, PacketSocket,
    Probe, Scratch, Serial, ping, require_root, set_link, veth, wait_for,
};
use crate::tasks::root;

/// Every Workstation's end of its cable.
const CABLE: &str = "eth1";
const SOON: Duration = Duration::from_secs(20);
/// How long an upgrade may keep traffic waiting.
const OUTAGE: Duration = Duration::from_secs(1);
/// Its number (`capabilities(7)`).
const CAP_IPC_LOCK: u32 = 14;
/// The Gateway's address on the pinned port of the recipe.
const PINNED: Ipv4Addr = Ipv4Addr::new(10, 152, 200, 1);
/// What sets up networks on a Workstation, as such services are ordered.
const NETWORK: &str = "[Unit]\nAfter=network-pre.target\nBefore=network.target\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/sbin/ip link set dev eth1 up\n\
    [Install]\nWantedBy=multi-user.target\n";
/// Where the laptop asks for names.
const NAME_SERVER: &str = "198.51.100.254";
/// The recipes, in the order of the document.
const ORDER: [&str; 9] = [
    "A Workstation on a cable of its own",
    "Several Workstations on one LAN",
    "A Workstation without the agent",
    "Tor behind it",
    "A Workstation elsewhere",
    "Backup, and a new Gateway",
    "A lost Workstation",
    "An upgrade",
    "Taking it away",
];

/// Proves the packages in a directory.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(packages: &Path) -> Result<()> {
    require_root()?;
    let document = std::fs::read_to_string(root()?.join("docs/operations.md"))?;
    let known = titles(&document);
    ensure!(
        known == ORDER,
        "docs/operations.md has other recipes than are proven: {known:?}"
    );
    let _turn = Serial::acquire()?;
    let shared = Scratch::new("packages")?;
    for name in super::names(packages)?
        .iter()
        .filter(|name| name.ends_with(".deb"))
    {
        super::copy(&packages.join(name), &shared.path().join(name))?;
    }
    let mut site = Site::build(&document, shared.path())?;
    step("machines with systemd are up");
    site.install()?;
    site.reaches("desk", GATEWAY_V4)?;
    site.confined()?;
    step(
        "installed and set up: nothing ran before, all runs without privileges, and the tunnel carries",
    );

    site.cook("Several Workstations on one LAN")?;
    for name in ["lab", "den", "desk"] {
        site.reaches(name, GATEWAY_V4)?;
    }
    site.cook("A Workstation without the agent")?;
    site.reaches("printer", PINNED)?;
    site.reaches("desk", GATEWAY_V4)?;
    site.cook("Tor behind it")?;
    step("more Workstations: two on a LAN, and one without an agent");

    site.stuck("gateway", "portcullisd")?;
    site.stuck("desk", "portcullis-agent")?;
    site.reaches("desk", GATEWAY_V4)?;
    step("daemons that did not turn any more were restarted by their watchdogs");

    site.upgrade()?;
    step(
        "upgraded under traffic: sessions recovered in time, and no foreign frame reached a kernel",
    );

    let _names = site.go_elsewhere()?;
    site.reaches("desk", GATEWAY_V4)?;
    step("a laptop on the Internet has the tunnel, and reaches nothing past it");

    site.replace()?;
    site.cook("A lost Workstation")?;
    site.reaches("desk", GATEWAY_V4)?;
    step("a Gateway came back from its backup, and a Workstation got new keys");

    site.keep_silent("den")?;
    step(
        "a Workstation was booted, upgraded, killed, stopped and shut down, and only the tunnel's frames left it",
    );

    site.cook("Taking it away")?;
    site.gone("gateway", "portcullis")?;
    site.gone("desk", "portcullis-agent")?;
    step("removed, the ports given back set down; purged, nothing is left");
    Ok(())
}

fn step(what: &str) {
    println!("  {what}");
}

/// The Gateway, a machine on the first of its ports, two on the LAN of its second, and one on the Internet that its fourth
/// leads to; what is called a printer is a host without a system, and so is the Internet.
struct Site<'a> {
    document: &'a str,
    machines: Vec<Machine>,
    hosts: Vec<Arc<Namespace>>,
    lan: Bridge,
}

impl<'a> Site<'a> {
    fn build(document: &'a str, shared: &Path) -> Result<Self> {
        let names = [
            "gateway", "desk", "lab", "den", "laptop", "printer", "internet",
        ];
        let hosts = names
            .iter()
            .map(|name| Ok(Arc::new(Namespace::create(name)?)))
            .collect::<Result<Vec<_>>>()?;
        veth((&hosts[0], "eth1"), (&hosts[1], CABLE), 1500)?;
        let mut lan = Bridge::create("lan")?;
        lan.plug(&hosts[0], "eth2", "gateway", 1500)?;
        for host in &hosts[2..4] {
            lan.plug(host, CABLE, host.label(), 1500)?;
        }
        veth((&hosts[0], "eth3"), (&hosts[5], CABLE), 1500)?;
        lay_internet(&hosts[0], &hosts[4], &hosts[6])?;
        hear_all(&lan, &hosts[3])?;
        let booted = hosts.iter().take(5).map(|host| Machine::boot(host, shared));
        let machines = booted.collect::<Result<_>>()?;
        Ok(Self {
            document,
            machines,
            hosts,
            lan,
        })
    }

    fn host(&self, name: &str) -> &Arc<Namespace> {
        let host = self.hosts.iter().find(|host| host.label() == name);
        host.unwrap_or(&self.hosts[0])
    }

    fn machine(&self, name: &str) -> Result<&Machine> {
        let machine = self.machines.iter().find(|machine| machine.name() == name);
        machine.with_context(|| format!("there is no machine {name}"))
    }

    /// Runs a recipe's blocks on the machines they are for, in the directory that all share.
    fn cook(&self, title: &str) -> Result<()> {
        for block in blocks(self.document, title)? {
            self.run(&block.machine, &block.text)
                .with_context(|| format!("in the recipe `{title}`"))?;
        }
        Ok(())
    }

    fn run(&self, machine: &str, text: &str) -> Result<()> {
        if machine == "printer" {
            let host = self.host(machine);
            for line in text.lines() {
                let arguments = line.strip_prefix("ip ").context("it runs only ip")?;
                host.ip(arguments)?;
            }
            return Ok(());
        }
        let machine = self.machine(machine)?;
        machine
            .run(&format!("set -e; cd {SHARED}\n{text}"))
            .map(drop)
    }

    /// The first recipe, with a look between installing and setting up.
    fn install(&self) -> Result<()> {
        for block in blocks(self.document, ORDER[0])? {
            let (install, rest) = block.text.split_once('\n').context("a block of one line")?;
            self.run(&block.machine, install)?;
            let machine = self.machine(&block.machine)?;
            let unit = unit_of(&block.machine);
            machine.run(&format!("systemctl is-enabled {unit}"))?;
            ensure!(
                !machine.succeeds(&format!(
                    "systemctl is-active {unit} || systemctl is-failed {unit}"
                ))?,
                "{unit} was started before it was set up"
            );
            self.run(&block.machine, rest)
                .with_context(|| machine.journal(unit))?;
        }
        Ok(())
    }

    fn reaches(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let host = self.host(name);
        let reached = wait_for(&format!("{address} to answer {name}"), SOON, || {
            let one = ping(
                host,
                IpAddr::from(address),
                [56],
                Duration::from_millis(500),
            );
            one.is_ok_and(|ping| ping.answered == 1).then_some(())
        });
        reached.with_context(|| self.journals(name))
    }

    /// What the daemons of the Gateway and of another machine have said.
    fn journals(&self, name: &str) -> String {
        let mut journals = self.machines[0].journal("portcullisd");
        if let Ok(machine) = self.machine(name) {
            journals.push_str(&machine.journal("portcullis-agent"));
        }
        journals
    }

    /// Both daemons run as their account, behind a filter, and without a capability but the one to lock
    /// memory, where nothing else lets them.
    fn confined(&self) -> Result<()> {
        for name in ["gateway", "desk"] {
            let (machine, unit) = (self.machine(name)?, unit_of(name));
            let pid = machine.run(&format!("systemctl show --property MainPID --value {unit}"))?;
            let status = machine.run(&format!("cat /proc/{}/status", pid.trim()))?;
            let line = |field: &str| {
                let line = status.lines().find(|line| line.starts_with(field));
                line.unwrap_or_default().to_owned()
            };
            ensure!(!line("Uid:").contains("\t0\t"), "{unit} runs as root");
            let limited = !machine.succeeds("prlimit --pid 1 --memlock=unlimited:unlimited")?;
            let kept = if limited { 1_u64 << CAP_IPC_LOCK } else { 0 };
            ensure!(
                line("CapPrm:").ends_with(&format!("\t{kept:016x}")),
                "{unit} kept {}",
                line("CapPrm:")
            );
            ensure!(line("Seccomp:").ends_with('2'), "{unit} is not filtered");
        }
        Ok(())
    }

    /// The laptop's recipe, on a network that has a router and a name server, which is returned.
    fn go_elsewhere(&self) -> Result<NameServer> {
        let (internet, laptop) = (self.host("internet"), self.host("laptop"));
        let server = NAME_SERVER.parse()?;
        let names = NameServer::at(internet, server, "gateway.example", "192.0.2.1".parse()?)?;
        self.machine("laptop")?
            .run(&format!("echo nameserver {NAME_SERVER} >/etc/resolv.conf"))?;
        let reaches = || -> Result<bool> {
            let once = ping(laptop, IpAddr::V4(server), [56], Duration::from_secs(1))?;
            Ok(once.answered == 1)
        };
        ensure!(reaches()?, "the laptop is not on the Internet");
        self.cook("A Workstation elsewhere")
            .with_context(|| self.journals("laptop"))?;
        self.reaches("laptop", GATEWAY_V4)?;
        ensure!(
            !reaches()?,
            "the laptop reaches the Internet past the tunnel"
        );
        Ok(names)
    }

    /// A daemon that does not turn any more is ended and started anew by systemd.
    fn stuck(&self, name: &str, unit: &str) -> Result<()> {
        let machine = self.machine(name)?;
        let pid = || machine.run(&format!("systemctl show --property MainPID --value {unit}"));
        let before = pid()?;
        machine.run(&format!("kill -STOP {}", before.trim()))?;
        let what = format!("the watchdog to restart a stopped {unit}");
        wait_for(&what, Duration::from_secs(60), || {
            let active = machine
                .succeeds(&format!("systemctl is-active {unit}"))
                .ok()?;
            (active && pid().ok()? != before).then_some(())
        })
        .with_context(|| machine.journal(unit))
    }

    /// The upgrade's recipe while datagrams and foreign frames come in.
    fn upgrade(&self) -> Result<()> {
        let (gw, ws) = (self.host("gateway"), self.host("desk"));
        self.machine("gateway")?
            .run("portcullis workstation allow desk +udp/7")?;
        let _echo = Echo::start(gw, 7)?;
        let heard = Capture::into_stack(gw, 0x0806, 16)?;
        let socket = PacketSocket::sender(ws, CABLE)?;
        let probe = Probe::start(ws, (GATEWAY_V4.into(), 7), Duration::from_millis(1), 200)?;
        let own = [2, 0, 0, 0, 0, 0x77];
        let request = arp(1, (own, [192, 0, 2, 1].into()), ([0; 6], GATEWAY_V4));
        let foreign = ethernet([0xff; 6], own, 0x0806, &request);
        let began = Instant::now();
        let shout = || {
            socket.send(&foreign);
            std::thread::sleep(Duration::from_millis(1));
        };
        let took = std::thread::scope(|scope| -> Result<Duration> {
            let install = scope.spawn(|| self.cook("An upgrade"));
            while !install.is_finished() {
                shout();
            }
            let done = install.join();
            done.map_err(|_| anyhow!("the thread that upgrades panicked"))??;
            Ok(began.elapsed())
        })?;
        let settled = Instant::now() + Duration::from_secs(2);
        while Instant::now() < settled {
            shout();
        }
        let gap = probe.finish().longest_gap();
        println!(
            "  the upgrade took {:.1} s, and traffic waited {} ms",
            took.as_secs_f64(),
            gap.as_millis()
        );
        let journal = || self.machines[0].journal("portcullisd");
        ensure!(
            gap < OUTAGE,
            "traffic waited {} ms:\n{}",
            gap.as_millis(),
            journal()
        );
        ensure!(
            gap > Duration::from_millis(2),
            "nothing was restarted:\n{}",
            journal()
        );
        heard.settle()?;
        ensure!(
            heard.incoming() == 0,
            "the wall was open: {}",
            heard.summary()
        );
        Ok(())
    }

    /// Whatever becomes of a Workstation on the LAN, from one shutdown to the next, and whatever its programs and its
    /// kernel would say: its port sends nothing but the tunnel's frames.
    fn keep_silent(&mut self, name: &str) -> Result<()> {
        const AGENT: &str = "portcullis-agent";
        let host = Arc::clone(self.host(name));
        let heard = Capture::filtered(self.lan.namespace(), Some(name), 16, |frame| {
            frame.kind == PacketKind::Incoming && frame.ethertype() != ETHERTYPE
        })?;
        let _babbler = Babbler::start(&host, CABLE);
        let silent = |when: &str| -> Result<()> {
            heard.settle()?;
            let spoken = (heard.incoming(), heard.overruns());
            ensure!(
                spoken == (0, 0),
                "{name} {when}, and it said something else: {}",
                heard.summary()
            );
            Ok(())
        };
        let position = self.machines.iter().position(|one| one.name() == name);
        let at = position.with_context(|| format!("there is no machine {name}"))?;
        self.machines[at].enable("network.service", NETWORK)?;
        self.machines[at].reboot()?;
        self.reaches(name, GATEWAY_V4)?;
        let machine = &self.machines[at];
        machine.run("systemctl is-active network.service")?;
        silent("was booted")?;
        machine.run(&format!(
            "dpkg --install {SHARED}/portcullis-workstation_*.deb"
        ))?;
        self.reaches(name, GATEWAY_V4)?;
        silent("was upgraded")?;
        machine.run(&format!("systemctl kill --signal KILL {AGENT}"))?;
        self.reaches(name, GATEWAY_V4)?;
        silent("lost its agent")?;
        machine.run(&format!("systemctl stop {AGENT}"))?;
        std::thread::sleep(Duration::from_millis(200));
        silent("was without an agent")?;
        machine.run(&format!("systemctl start {AGENT}"))?;
        self.reaches(name, GATEWAY_V4)?;
        let status = machine.run(&format!("{AGENT} show --json"))?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let kept = status
            .pointer("/port/guard_drops")
            .and_then(serde_json::Value::as_u64);
        ensure!(
            kept.is_some_and(|kept| kept > 0),
            "nothing tried to leave {name}: {status}"
        );
        self.machines[at].power_off()?;
        silent("was shut down")
    }

    /// The backup's recipe. The machine that takes the Gateway's place is the same one, purged.
    fn replace(&self) -> Result<()> {
        let gateway = self.machine("gateway")?;
        for block in blocks(self.document, "Backup, and a new Gateway")? {
            if block.machine == "replacement" {
                gateway.run("dpkg --purge portcullis-gateway")?;
                self.run("gateway", &block.text)?;
            } else {
                self.run(&block.machine, &block.text)?;
            }
        }
        for name in ["desk", "lab", "den", "laptop"] {
            self.reaches(name, GATEWAY_V4)?;
        }
        Ok(())
    }

    /// After removal and purge.
    fn gone(&self, name: &str, state: &str) -> Result<()> {
        let machine = self.machine(name)?;
        let link = machine.run(&format!("ip -details link show {CABLE}"))?;
        ensure!(
            !link.contains("xdp") && !link.contains("state UP") && !link.contains(",UP"),
            "the port of {name} was not given back, set down:\n{link}"
        );
        for left in [
            "/sys/fs/bpf/portcullis/*",
            &format!("/var/lib/{state}"),
            "/etc/portcullis",
        ] {
            let there = machine.succeeds(&format!("ls -d {left} 2>/dev/null"))?;
            ensure!(!there, "{left} is left on {name}");
        }
        Ok(())
    }
}

/// The Gateway's fourth port and the laptop on either side of a router, whose end there is a name server.
fn lay_internet(gateway: &Namespace, laptop: &Namespace, internet: &Namespace) -> Result<()> {
    veth((gateway, "eth4"), (internet, "ig"), 1500)?;
    veth((laptop, CABLE), (internet, "il"), 1500)?;
    internet.sysctl("ipv4/ip_forward", "1")?;
    for (host, interface, address) in [
        (internet, "ig", "192.0.2.254/24"),
        (internet, "il", "198.51.100.254/24"),
        (laptop, CABLE, "198.51.100.7/24"),
    ] {
        host.ip(&format!("address add {address} dev {interface}"))?;
        set_link(host, interface, true)?;
    }
    laptop.ip("route add default via 198.51.100.254").map(drop)
}

/// What a host without an agent says on the LAN is heard there: what is listened to later could be heard.
fn hear_all(lan: &Bridge, host: &Arc<Namespace>) -> Result<()> {
    let heard = Capture::on(lan.namespace(), host.label(), 1)?;
    let _babbler = Babbler::start(host, CABLE);
    set_link(host, CABLE, true)?;
    wait_for("a host to be heard on the LAN", SOON, || {
        (heard.incoming() > 0).then_some(())
    })?;
    set_link(host, CABLE, false)
}

fn unit_of(machine: &str) -> &'static str {
    match machine {
        "gateway" => "portcullisd",
        _ => "portcullis-agent",
    }
}
